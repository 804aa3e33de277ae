//! Following Marathon: the state machine of the module's documentation.

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

/// How long to wait for the version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// How to follow.
#[derive(Clone, Debug)]
pub struct FollowOptions {
    /// How long the stream may be silent. Marathon gives a sign of life every 10 seconds.
    pub idle_timeout: Duration,
    /// How long the first event may take.
    pub attach_timeout: Duration,
    /// Bytes of one event. A deployment's plan names every app of a group.
    pub max_event_bytes: usize,
    /// How often to list all the same.
    pub resync_interval: Duration,
    /// How often to list a Marathon that leaves out events without a word, as 1.7 does.
    pub lossy_resync_interval: Duration,
    /// The least time from one list to the next, whatever odd events come.
    pub min_list_interval: Duration,
    /// The shortest and the longest pause after the stream was lost. They grow from one to the
    /// other, with jitter.
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

/// Follows Marathon until it is dropped.
#[derive(Debug)]
pub struct Follower {
    queue: Arc<CoalescingQueue>,
    task: JoinHandle<()>,
}

impl Follower {
    /// Begins to follow, in a task of the current runtime.
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

    /// The next update; waits for one. Cancel-safe. Keys that are touched again before they are
    /// taken come once, so a slow consumer has no more to do than a fast one.
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
struct Attached {
    stream: EventStream,
    leader: Address,
    spec: RequestSpec,
    lossy: bool,
}

type Listed = Pin<Box<dyn Future<Output = (Result<Listing, CallError>, Duration)> + Send>>;

impl WatchTask {
    async fn run(self) {
        let (shortest, longest) = self.options.backoff;
        let backoff = Backoff::new(shortest, longest);
        let mut delays = backoff.delays();
        loop {
            let begun = Instant::now();
            let error = self.round().await;
            // A server that attaches and then fails, over and over, is one that fails.
            if begun.elapsed() > longest {
                delays = backoff.delays();
            }
            log::warn!("Marathon: {error}");
            sleep(delays.next_delay()).await;
        }
    }

    /// From connecting until the stream is lost; returns why it was.
    async fn round(&self) -> CallError {
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

    /// Opens a stream and waits for its first event, at one server after another.
    async fn attach(&self) -> Result<Attached, CallError> {
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
        // The stream waits unread meanwhile.
        let lossy = timeout(VERSION_TIMEOUT, self.client.drops_events()).await;
        Ok(Attached {
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
                // What comes before it happened before the list.
                if stream.next().await? == ParsedEvent::Attached {
                    return Ok(());
                }
            }
        };
        let patience = self.options.attach_timeout;
        let attached: Result<(), CallErrorKind> =
            timeout(patience, attached).await.unwrap_or_else(|_| {
                let problem = format!("event_stream_attached did not come within {patience:?}");
                Err(CallErrorKind::NotAttached(problem))
            });
        match attached {
            Ok(()) => Ok((stream, leader)),
            Err(problem) => Err(spec.failed(&leader, problem)),
        }
    }

    /// Lists, follows, and lists again, until the stream or a list fails.
    async fn follow(&self, attached: Attached) -> CallError {
        let Attached {
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
        // The keys that came while a list was made: it may be older than they are.
        let mut meanwhile = Vec::new();
        let mut listing: Option<Listed> = Some(self.list());
        let mut first = true;
        let mut again = false;
        let mut soon = Instant::now();
        let mut regular = soon + refresh;
        loop {
            let due = if again { soon } else { regular };
            tokio::select! {
                meaning = stream.next() => match meaning {
                    Err(problem) => return spec.failed(&leader, problem),
                    Ok(ParsedEvent::Attached) => {}
                    Ok(ParsedEvent::Malformed(why)) => {
                        log::warn!("Marathon at {leader}: {why}: listing again");
                        again = true;
                    }
                    Ok(ParsedEvent::Changed(keys)) => for key in keys {
                        // Nobody can look at one thing again before everything was seen once.
                        let fits = first || self.queue.touch(key.clone());
                        again |= !fits || meanwhile.len() >= MAX_QUEUED_KEYS;
                        if listing.is_some() && meanwhile.len() < MAX_QUEUED_KEYS {
                            meanwhile.push(key);
                        }
                    },
                },
                (listed, took) = whenever(&mut listing) => {
                    let mut listed = match listed {
                        Ok(listed) => listed,
                        Err(error) => return error,
                    };
                    listing = None;
                    first = false;
                    listed.followed = true;
                    for skipped in &listed.skipped {
                        let Skipped { kind, id, problem } = skipped;
                        log::warn!("Marathon at {leader}: {kind} {id:?} cannot be read: {problem}");
                    }
                    self.queue.snapshot(listed);
                    for key in meanwhile.drain(..) {
                        again |= !self.queue.touch(key);
                    }
                    // Lists that take long are not all that Marathon has to do.
                    soon = Instant::now() + self.options.min_list_interval.max(10 * took);
                    regular = Instant::now() + refresh.max(10 * took);
                },
                () = sleep_until(due), if listing.is_none() => {
                    again = false;
                    listing = Some(self.list());
                },
            }
        }
    }

    fn list(&self) -> Listed {
        let client = self.client.clone();
        async move {
            let begun = Instant::now();
            (client.list().await, begun.elapsed())
        }
        .boxed()
    }
}

/// What is under way, or nothing ever.
async fn whenever<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
