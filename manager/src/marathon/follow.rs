//! Follows Marathon: the state machine in the module's documentation.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use contrail_mesos_api::backoff::Backoff;
use futures::FutureExt as _;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::client::{MarathonClient, no_server};
use super::event::ParsedEvent;
use super::model::{Listing, Skipped};
use super::queue::{CoalescingQueue, MAX_QUEUED_KEYS};
use super::stream::EventStream;
use super::update::Update;
use contrail_mesos_api::http::{
    Address, AttemptError, CallError, CallErrorKind, Failover, RequestSpec,
};

/// How long the version request may take.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// Options of a [`Follower`].
#[derive(Clone, Debug)]
pub struct FollowOptions {
    /// How long the stream may be silent. Marathon sends a keep-alive every 10 seconds.
    pub idle_timeout: Duration,
    /// How long the first event may take.
    pub attach_timeout: Duration,
    /// The maximum size of one event. A deployment plan names every app of a group.
    pub max_event_bytes: usize,
    /// How often to list without a cause.
    pub resync_interval: Duration,
    /// How often to list a Marathon that silently drops events, as 1.7 does.
    pub lossy_resync_interval: Duration,
    /// The minimum time between two listings, for example after malformed events.
    pub min_list_interval: Duration,
    /// The minimum and maximum delay after the stream was lost; exponential, with jitter.
    pub backoff: (Duration, Duration),
}

impl Default for FollowOptions {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(35),
            attach_timeout: Duration::from_secs(15),
            max_event_bytes: 16 << 20,
            resync_interval: Duration::from_mins(10),
            lossy_resync_interval: Duration::from_mins(1),
            min_list_interval: Duration::from_secs(5),
            backoff: (Duration::from_millis(250), Duration::from_secs(30)),
        }
    }
}

/// Follows Marathon until dropped.
#[derive(Debug)]
pub struct Follower {
    queue: Arc<CoalescingQueue>,
    task: JoinHandle<()>,
}

impl Follower {
    /// Starts to follow, in a task of the current runtime.
    #[must_use]
    pub fn start(client: MarathonClient, options: FollowOptions) -> Self {
        let queue = Arc::new(CoalescingQueue::default());
        let watch = WatchTask {
            client,
            options,
            queue: Arc::clone(&queue),
        };
        Self {
            queue,
            task: tokio::spawn(watch.run()),
        }
    }

    /// Waits for the next update. Cancel-safe. Queued keys are deduplicated, so a slow consumer has
    /// no more updates to process than a fast one.
    pub async fn next(&mut self) -> Update {
        self.queue.next().await
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct WatchTask {
    client: MarathonClient,
    options: FollowOptions,
    queue: Arc<CoalescingQueue>,
}

/// An attached event stream.
struct AttachedStream {
    stream: EventStream,
    leader: Address,
    spec: RequestSpec,
    lossy: bool,
}

type ListingFuture = Pin<Box<dyn Future<Output = (Result<Listing, CallError>, Duration)> + Send>>;

impl WatchTask {
    async fn run(self) {
        let (shortest, longest) = self.options.backoff;
        let backoff = Backoff::new(shortest, longest);
        let mut delays = backoff.delays();
        loop {
            let started = Instant::now();
            let error = self.follow_once().await;
            // Keeps backing off from a server that attaches and soon fails.
            if started.elapsed() > longest {
                delays = backoff.delays();
            }
            log::warn!("Marathon: {error}");
            sleep(delays.next_delay()).await;
        }
    }

    /// Connects and follows until the stream is lost; returns the cause.
    async fn follow_once(&self) -> CallError {
        match self.attach().await {
            Ok(attached) => {
                log::info!("following Marathon at {}", attached.leader);
                let error = self.follow(attached).await;
                self.queue.lost(error.clone());
                error
            }
            Err(error) => {
                self.queue.lost(error.clone());
                if let Ok(listing) = self.client.list().await {
                    self.queue.snapshot(listing);
                }
                error
            }
        }
    }

    /// Opens a stream at one server after another, and waits for its first event.
    async fn attach(&self) -> Result<AttachedStream, CallError> {
        let (servers, spec) = self.client.events();
        let servers = Failover::new(servers);
        let (candidates, request) = (servers.servers(), &spec);
        let attempt = |index: usize, _| async move {
            let attached = self.attach_at(&candidates[index], request).await;
            attached.map_err(AttemptError::Retry)
        };
        let (stream, leader) = servers
            .try_each(attempt)
            .await
            .map_err(|error| error.unwrap_or_else(|| no_server(&spec)))?;
        // The stream is not read meanwhile, so this needs a short timeout.
        let lossy = timeout(VERSION_TIMEOUT, self.client.drops_events()).await;
        Ok(AttachedStream {
            stream,
            leader,
            spec,
            lossy: lossy.unwrap_or(true),
        })
    }

    async fn attach_at(
        &self,
        server: &Address,
        spec: &RequestSpec,
    ) -> Result<(EventStream, Address), CallError> {
        let (leader, answer) = self.client.open(server, spec).await?;
        let mut stream = EventStream::new(
            answer,
            self.options.idle_timeout,
            self.options.max_event_bytes,
        );
        let attached = async {
            loop {
                // Earlier events are covered by the listing.
                if stream.next().await? == ParsedEvent::Attached {
                    return Ok(());
                }
            }
        };
        let attach_timeout = self.options.attach_timeout;
        let attached: Result<(), CallErrorKind> =
            timeout(attach_timeout, attached).await.unwrap_or_else(|_| {
                let problem = format!("no event_stream_attached within {attach_timeout:?}");
                Err(CallErrorKind::NotAttached(problem))
            });
        match attached {
            Ok(()) => Ok((stream, leader)),
            Err(problem) => Err(spec.failed(&leader, problem)),
        }
    }

    /// Lists, follows, and lists again, until the stream or a listing fails.
    async fn follow(&self, attached: AttachedStream) -> CallError {
        let AttachedStream {
            mut stream,
            leader,
            spec,
            lossy,
        } = attached;
        let refresh = if lossy {
            self.options.lossy_resync_interval
        } else {
            self.options.resync_interval
        };
        // Keys received while a listing is in progress: the listing may be older than they are.
        let mut meanwhile = Vec::new();
        let mut listing: Option<ListingFuture> = Some(self.list());
        let mut first = true;
        let mut relist = false;
        let mut earliest_list = Instant::now();
        let mut next_resync = earliest_list + refresh;
        loop {
            let due = if relist { earliest_list } else { next_resync };
            tokio::select! {
                event = stream.next() => match event {
                    Err(problem) => return spec.failed(&leader, problem),
                    Ok(ParsedEvent::Attached) => {}
                    Ok(ParsedEvent::Malformed(problem)) => {
                        log::warn!("Marathon at {leader}: malformed event: {problem}; listing again");
                        relist = true;
                    }
                    Ok(ParsedEvent::Changed(keys)) => for key in keys {
                        // Before the first snapshot, the consumer has nothing to update.
                        let fits = first || self.queue.push_key(key.clone());
                        relist |= !fits || meanwhile.len() >= MAX_QUEUED_KEYS;
                        if listing.is_some() && meanwhile.len() < MAX_QUEUED_KEYS {
                            meanwhile.push(key);
                        }
                    },
                },
                (listed, took) = maybe_listing(&mut listing) => {
                    let mut listed = match listed {
                        Ok(listed) => listed,
                        Err(error) => return error,
                    };
                    listing = None;
                    first = false;
                    listed.followed = true;
                    for skipped in &listed.skipped {
                        let Skipped { kind, id, problem } = skipped;
                        log::warn!("Marathon at {leader}: cannot read the {kind} {id:?}: {problem}");
                    }
                    self.queue.snapshot(listed);
                    for key in meanwhile.drain(..) {
                        relist |= !self.queue.push_key(key);
                    }
                    // Limits the load of slow listings on Marathon.
                    earliest_list = Instant::now() + self.options.min_list_interval.max(10 * took);
                    next_resync = Instant::now() + refresh.max(10 * took);
                },
                () = sleep_until(due), if listing.is_none() => {
                    relist = false;
                    listing = Some(self.list());
                },
            }
        }
    }

    fn list(&self) -> ListingFuture {
        let client = self.client.clone();
        async move {
            let started = Instant::now();
            (client.list().await, started.elapsed())
        }
        .boxed()
    }
}

/// Waits for the future, if there is one; else forever.
async fn maybe_listing<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
