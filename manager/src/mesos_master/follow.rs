//! Follows the leading master: the state machine in the module's documentation.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use contrail_mesos_api::backoff::Backoff;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::client::MasterClient;
use super::event::Event;
use super::json;
use super::model::{Change, State};
use crate::task_state::TaskState;
use contrail_mesos_api::http::{CallError, CallErrorKind, Streaming};
use contrail_mesos_api::recordio::Decoder;

/// Longer records are decoded on a blocking thread.
const MAX_INLINE_RECORD_BYTES: usize = 1 << 20;
/// Limit of every event after the first. The first has the whole state, the others have one task or
/// agent.
const MAX_EVENT_BYTES: usize = 4 << 20;
/// How long all queued events together may be. On overflow they are dropped for a new snapshot.
const MAX_QUEUED_BYTES: usize = 64 << 20;

/// Options of a [`Follower`].
#[derive(Clone, Debug)]
pub struct FollowOptions {
    /// How long the stream may be silent; at least three of the master's heartbeat intervals.
    pub idle_timeout: Duration,
    /// How long the first event, which has the whole state, may take.
    pub attach_timeout: Duration,
    /// How often to subscribe again without a cause.
    pub resync_interval: Duration,
    /// How soon to subscribe again when an agent is lost. The master reports its tasks, but not
    /// always the agent itself.
    pub lost_agent_resync_delay: Duration,
    /// How many changes may be queued. On overflow they are dropped for a new snapshot.
    pub queue_capacity: usize,
    /// The minimum and maximum delay after the stream was lost; exponential, with jitter.
    pub backoff: (Duration, Duration),
}

impl Default for FollowOptions {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(45),
            attach_timeout: Duration::from_mins(2),
            resync_interval: Duration::from_mins(15),
            lost_agent_resync_delay: Duration::from_secs(5),
            queue_capacity: 1 << 16,
            backoff: (Duration::from_millis(250), Duration::from_secs(30)),
        }
    }
}

/// An update of a follower.
#[derive(Clone, Debug)]
pub enum Update {
    /// The event stream is lost, so changes may be missed from now on. A snapshot follows as soon
    /// as there is one.
    Lost(CallError),
    /// The whole state. Anything missing from a complete one is gone.
    Snapshot(Box<State>),
    /// A change since the snapshot.
    Changed(Change),
}

/// Follows the leading master until dropped.
#[derive(Debug)]
pub struct Follower {
    updates: mpsc::Receiver<QueuedUpdate>,
    /// The length of all queued events.
    queued_bytes: Arc<AtomicUsize>,
    resync_requested: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Follower {
    /// Starts to follow, in a task of the current runtime.
    #[must_use]
    pub fn start(client: MasterClient, options: FollowOptions) -> Self {
        let (sender, updates) = mpsc::channel(options.queue_capacity.max(2));
        let queued_bytes = Arc::<AtomicUsize>::default();
        let resync_requested = Arc::<Notify>::default();
        let watch = WatchTask {
            client,
            options,
            sender,
            queued_bytes: queued_bytes.clone(),
            resync_requested: resync_requested.clone(),
        };
        Self {
            updates,
            queued_bytes,
            resync_requested,
            task: tokio::spawn(watch.run()),
        }
    }

    /// Asks for a new snapshot, because something is not known that no change tells: the definition of
    /// a task whose agent came back. It is made after [`FollowOptions::lost_agent_resync_delay`], so
    /// that many requests cause one.
    pub fn request_resync(&self) {
        self.resync_requested.notify_one();
    }

    /// Waits for the next update. Cancel-safe.
    pub async fn next(&mut self) -> Update {
        match self.updates.recv().await {
            Some(QueuedUpdate { update, bytes }) => {
                self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                update
            }
            // The task ends only with the runtime, which also ends this future.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An update in the queue.
#[derive(Debug)]
struct QueuedUpdate {
    update: Update,
    /// The length of its event.
    bytes: usize,
}

struct WatchTask {
    client: MasterClient,
    options: FollowOptions,
    sender: mpsc::Sender<QueuedUpdate>,
    queued_bytes: Arc<AtomicUsize>,
    resync_requested: Arc<Notify>,
}

/// Why a subscription ended.
enum SubscriptionEnd {
    Lost(CallError),
    /// A new subscription is due.
    Resync,
    /// The follower was dropped.
    Dropped,
}

impl WatchTask {
    async fn run(self) {
        let (shortest, longest) = self.options.backoff;
        let backoff = Backoff::new(shortest, longest);
        let mut delays = backoff.delays();
        loop {
            let started = Instant::now();
            match self.follow_once().await {
                SubscriptionEnd::Dropped => return,
                SubscriptionEnd::Resync => delays = backoff.delays(),
                SubscriptionEnd::Lost(error) => {
                    log::warn!("Mesos: {error}");
                    // Waiting is safe here: there is no stream to read.
                    let update = Update::Lost(error);
                    let lost = QueuedUpdate { update, bytes: 0 };
                    if self.sender.send(lost).await.is_err() {
                        return;
                    }
                    // Keeps backing off from a master that accepts and soon fails.
                    if started.elapsed() > longest {
                        delays = backoff.delays();
                    }
                    sleep(delays.next_delay()).await;
                }
            }
        }
    }

    async fn follow_once(&self) -> SubscriptionEnd {
        let (spec, leader, response) = match self.client.subscribe().await {
            Ok(subscribed) => subscribed,
            Err(error) => return SubscriptionEnd::Lost(error),
        };
        let mut stream = EventStream::new(response, self.options.idle_timeout);
        let deadline = Instant::now() + self.options.attach_timeout;
        let state = loop {
            match timeout_at(deadline, stream.next()).await {
                Ok(Ok(Event::Subscribed(state, interval))) => {
                    let heartbeats = interval.unwrap_or_default().saturating_mul(3);
                    stream.idle_timeout = self.options.idle_timeout.max(heartbeats);
                    stream.decoder.limit(MAX_EVENT_BYTES);
                    break state;
                }
                Ok(Ok(_)) => {}
                Ok(Err(problem)) => return SubscriptionEnd::Lost(spec.failed(&leader, problem)),
                Err(_) => {
                    let problem = format!("no state within {:?}", self.options.attach_timeout);
                    return SubscriptionEnd::Lost(
                        spec.failed(&leader, CallErrorKind::NotAttached(problem)),
                    );
                }
            }
        };
        log::info!("following Mesos at {leader}");
        for skipped in &state.skipped {
            log::warn!(
                "Mesos at {leader}: cannot read a {}: {}",
                skipped.kind,
                skipped.problem
            );
        }
        let mut next_resync = Instant::now() + self.options.resync_interval;
        let mut update = Update::Snapshot(state);
        loop {
            // The whole state counts for nothing: there is one, and its events follow.
            let bytes = match &update {
                Update::Changed(_) => stream.last_event_bytes,
                Update::Snapshot(_) | Update::Lost(_) => 0,
            };
            let queued = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
            let sent = if queued > MAX_QUEUED_BYTES {
                Err(None)
            } else {
                let queued = QueuedUpdate { update, bytes };
                self.sender.try_send(queued).map_err(Some)
            };
            if let Err(error) = sent {
                self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                if let Some(mpsc::error::TrySendError::Closed(_)) = error {
                    return SubscriptionEnd::Dropped;
                }
                let problem = "the consumer is too slow: the queue of changes is full".to_owned();
                return SubscriptionEnd::Lost(spec.failed(&leader, CallErrorKind::Stream(problem)));
            }
            update = loop {
                match self.next_event(&mut stream, &mut next_resync).await {
                    None => return SubscriptionEnd::Resync,
                    Some(Ok(Event::Changed(change))) => {
                        if indicates_lost_agent(&change) {
                            next_resync = self.soon(next_resync);
                        }
                        break Update::Changed(change);
                    }
                    Some(Ok(Event::Subscribed(state, _))) => break Update::Snapshot(state),
                    Some(Ok(Event::Ignored)) => {}
                    Some(Err(problem)) => {
                        return SubscriptionEnd::Lost(spec.failed(&leader, problem));
                    }
                }
            };
        }
    }

    /// When to subscribe again because of something that has just happened.
    fn soon(&self, next_resync: Instant) -> Instant {
        next_resync.min(Instant::now() + self.options.lost_agent_resync_delay)
    }

    /// The next event; none if a new subscription is due. The stream must not be used after that.
    async fn next_event(
        &self,
        stream: &mut EventStream,
        next_resync: &mut Instant,
    ) -> Option<Result<Event, CallErrorKind>> {
        let mut next = pin!(stream.next());
        loop {
            tokio::select! {
                event = &mut next => return Some(event),
                () = sleep_until(*next_resync) => return None,
                () = self.resync_requested.notified() => *next_resync = self.soon(*next_resync),
            }
        }
    }
}

fn indicates_lost_agent(change: &Change) -> bool {
    matches!(change, Change::TaskUpdated { status, .. } if matches!(
        status.state,
        TaskState::Unreachable | TaskState::Lost | TaskState::Gone | TaskState::Unknown
    ))
}

/// An open event stream.
struct EventStream {
    response: Streaming,
    decoder: Decoder,
    idle_timeout: Duration,
    /// The length of the last event.
    last_event_bytes: usize,
}

impl EventStream {
    fn new(response: Streaming, idle_timeout: Duration) -> Self {
        Self {
            response,
            decoder: Decoder::default(),
            idle_timeout,
            last_event_bytes: 0,
        }
    }

    /// The next event. Not cancel-safe: after cancellation or an error, the stream must not be used.
    async fn next(&mut self) -> Result<Event, CallErrorKind> {
        loop {
            if let Some(record) = self.decoder.next_record().map_err(stream_error)? {
                self.last_event_bytes = record.len();
                return decode(record).await;
            }
            match self.response.next(self.idle_timeout).await? {
                Some(bytes) => self.decoder.push(&bytes),
                None => return Err(CallErrorKind::Ended),
            }
        }
    }
}

async fn decode(record: Vec<u8>) -> Result<Event, CallErrorKind> {
    let decode = |record: &[u8]| {
        json::event(record).map_err(|error| CallErrorKind::invalid_response(&error, record))
    };
    if record.len() <= MAX_INLINE_RECORD_BYTES {
        return decode(&record);
    }
    tokio::task::spawn_blocking(move || decode(&record))
        .await
        .map_err(stream_error)?
}

fn stream_error(error: impl Into<Box<dyn std::error::Error>>) -> CallErrorKind {
    CallErrorKind::Stream(error.into().to_string())
}
