//! Following Marathon: the state machine of the module's documentation.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use futures::FutureExt as _;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::client::{MarathonClient, no_server};
use super::event::{Key, Meaning};
use super::mailbox::{MOST_KEYS, Mailbox};
use super::model::{Listing, Skipped};
use super::stream::EventStream;
use contrail_mesos_api::http::{Address, CallError, CallErrorKind, RequestSpec};

/// How long to wait for the version.
const VERSION: Duration = Duration::from_secs(5);

/// How to follow.
#[derive(Clone, Debug)]
pub struct FollowOptions {
    /// How long the stream may be silent. Marathon gives a sign of life every 10 seconds.
    pub quiet: Duration,
    /// How long the first event may take.
    pub attach: Duration,
    /// Bytes of one event. A deployment's plan names every app of a group.
    pub longest_event: usize,
    /// How often to list all the same.
    pub refresh: Duration,
    /// How often to list a Marathon that leaves out events without a word, as 1.7 does.
    pub refresh_lossy: Duration,
    /// The least time from one list to the next, whatever odd events come.
    pub gap: Duration,
    /// The shortest and the longest pause after the stream was lost. They grow from one to the
    /// other, with jitter.
    pub pause: (Duration, Duration),
}

impl Default for FollowOptions {
    fn default() -> Self {
        Self {
            quiet: Duration::from_secs(35),
            attach: Duration::from_secs(15),
            longest_event: 16 << 20,
            refresh: Duration::from_mins(10),
            refresh_lossy: Duration::from_mins(1),
            gap: Duration::from_secs(5),
            pause: (Duration::from_millis(250), Duration::from_secs(30)),
        }
    }
}

/// What a follower sees.
#[derive(Clone, Debug)]
pub enum Update {
    /// The event stream is lost: from now on nothing is known to be as it was. A snapshot follows
    /// as soon as there is one.
    Lost(CallError),
    /// Everything, and all that was touched before is in it. What it no longer names is gone, if
    /// it is complete.
    Snapshot(Box<Listing>),
    /// Look at this again.
    Touched(Key),
}

/// Follows Marathon until it is dropped.
#[derive(Debug)]
pub struct Follower {
    mailbox: Arc<Mailbox>,
    task: JoinHandle<()>,
}

impl Follower {
    /// Begins to follow, in a task of the current runtime.
    #[must_use]
    pub fn start(client: MarathonClient, options: FollowOptions) -> Self {
        let mailbox = Arc::new(Mailbox::default());
        let machine = Machine {
            client,
            options,
            mailbox: Arc::clone(&mailbox),
        };
        Self {
            mailbox,
            task: tokio::spawn(machine.run()),
        }
    }

    /// The next update; waits for one. Cancel-safe. Keys that are touched again before they are
    /// taken come once, so a slow consumer has no more to do than a fast one.
    pub async fn next(&mut self) -> Update {
        self.mailbox.next().await
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Machine {
    client: MarathonClient,
    options: FollowOptions,
    mailbox: Arc<Mailbox>,
}

/// An attached event stream.
struct Attached {
    stream: EventStream,
    leader: Address,
    spec: RequestSpec,
    lossy: bool,
}

type Listed = Pin<Box<dyn Future<Output = (Result<Listing, CallError>, Duration)> + Send>>;

impl Machine {
    async fn run(self) {
        let (shortest, longest) = self.options.pause;
        let backoff = ExponentialBuilder::default()
            .with_min_delay(shortest)
            .with_max_delay(longest)
            .with_jitter()
            .without_max_times();
        let mut pauses = backoff.build();
        loop {
            let begun = Instant::now();
            let error = self.round().await;
            // A server that attaches and then fails, over and over, is one that fails.
            if begun.elapsed() > longest {
                pauses = backoff.build();
            }
            log::warn!("Marathon: {error}");
            sleep(pauses.next().unwrap_or(longest)).await;
        }
    }

    /// From connecting until the stream is lost; returns why it was.
    async fn round(&self) -> CallError {
        match self.attach().await {
            Ok(attached) => {
                log::info!("following Marathon at {}", attached.leader);
                let error = self.follow(attached).await;
                self.mailbox.lost(error.clone());
                error
            }
            Err(error) => {
                self.mailbox.lost(error.clone());
                if let Ok(listing) = self.client.list().await {
                    self.mailbox.snapshot(listing);
                }
                error
            }
        }
    }

    /// Opens a stream and waits for its first event, at one server after another.
    async fn attach(&self) -> Result<Attached, CallError> {
        let (servers, spec) = self.client.events();
        let mut last = no_server(&spec);
        for server in servers {
            match self.attach_at(&server, &spec).await {
                Ok((stream, leader)) => {
                    // The stream waits unread meanwhile.
                    let lossy = timeout(VERSION, self.client.drops_events()).await;
                    let lossy = lossy.unwrap_or(true);
                    return Ok(Attached {
                        stream,
                        leader,
                        spec,
                        lossy,
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn attach_at(
        &self,
        server: &Address,
        spec: &RequestSpec,
    ) -> Result<(EventStream, Address), CallError> {
        let (leader, answer) = self.client.open(server, spec).await?;
        let mut stream = EventStream::new(answer, self.options.quiet, self.options.longest_event);
        let attached = async {
            loop {
                // What comes before it happened before the list.
                if stream.next().await? == Meaning::Attached {
                    return Ok(());
                }
            }
        };
        let patience = self.options.attach;
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
            self.options.refresh_lossy
        } else {
            self.options.refresh
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
                    Ok(Meaning::Attached) => {}
                    Ok(Meaning::Odd(why)) => {
                        log::warn!("Marathon at {leader}: {why}: listing again");
                        again = true;
                    }
                    Ok(Meaning::Touched(keys)) => for key in keys {
                        // Nobody can look at one thing again before everything was seen once.
                        let fits = first || self.mailbox.touch(key.clone());
                        again |= !fits || meanwhile.len() >= MOST_KEYS;
                        if listing.is_some() && meanwhile.len() < MOST_KEYS {
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
                    self.mailbox.snapshot(listed);
                    for key in meanwhile.drain(..) {
                        again |= !self.mailbox.touch(key);
                    }
                    // Lists that take long are not all that Marathon has to do.
                    soon = Instant::now() + self.options.gap.max(10 * took);
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
