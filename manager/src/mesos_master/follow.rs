//! Following the leading master: the state machine of the module's documentation.

use std::time::Duration;

use contrail_mesos_api::backoff::Backoff;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::client::MasterClient;
use super::event::Event;
use super::json;
use super::model::{Change, State};
use crate::task_state::TaskState;
use contrail_mesos_api::http::{CallError, CallErrorKind, Streaming};
use contrail_mesos_api::recordio::Decoder;

/// Records longer than this are not read on a thread that others wait for.
const LONG: usize = 1 << 20;
/// No event but the first, the whole state, is longer than this: it is about one task or agent.
const LONGEST_EVENT: usize = 16 << 20;

/// How to follow.
#[derive(Clone, Debug)]
pub struct FollowOptions {
    /// How long the stream may be silent; three of the heartbeats that the master announces, if
    /// that is more.
    pub idle_timeout: Duration,
    /// How long the first event, the whole state, may take.
    pub attach_timeout: Duration,
    /// How often to subscribe again all the same.
    pub resync_interval: Duration,
    /// How soon to subscribe again when an agent is lost. The master tells of its tasks, and not
    /// always of the agent itself.
    pub lost_agent_resync_delay: Duration,
    /// How many changes may wait for the consumer. If there are more, they are given up for a new
    /// snapshot.
    pub queue_capacity: usize,
    /// The shortest and the longest pause after the stream was lost. They grow from one to the
    /// other, with jitter.
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

/// What a follower sees.
#[derive(Clone, Debug)]
pub enum Update {
    /// The event stream is lost: from now on nothing is known to be as it was. A snapshot follows
    /// as soon as there is one.
    Lost(CallError),
    /// Everything. What it no longer names is gone, if it is complete.
    Snapshot(Box<State>),
    /// This has changed since.
    Changed(Change),
}

/// Follows the leading master until it is dropped.
#[derive(Debug)]
pub struct Follower {
    updates: mpsc::Receiver<Update>,
    task: JoinHandle<()>,
}

impl Follower {
    /// Begins to follow, in a task of the current runtime.
    #[must_use]
    pub fn start(client: MasterClient, options: FollowOptions) -> Self {
        let (sender, updates) = mpsc::channel(options.queue_capacity.max(2));
        let watch = WatchTask {
            client,
            options,
            sender,
        };
        Self {
            updates,
            task: tokio::spawn(watch.run()),
        }
    }

    /// The next update; waits for one. Cancel-safe.
    pub async fn next(&mut self) -> Update {
        match self.updates.recv().await {
            Some(update) => update,
            // Only a runtime that ends stops the task, and with it this one.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct WatchTask {
    client: MasterClient,
    options: FollowOptions,
    sender: mpsc::Sender<Update>,
}

/// Why a subscription is at its end.
enum End {
    Lost(CallError),
    /// It is time for a new one.
    Refresh,
    /// Nobody listens any more.
    Dropped,
}

impl WatchTask {
    async fn run(self) {
        let (shortest, longest) = self.options.backoff;
        let backoff = Backoff::new(shortest, longest);
        let mut delays = backoff.delays();
        loop {
            let begun = Instant::now();
            match self.round().await {
                End::Dropped => return,
                End::Refresh => delays = backoff.delays(),
                End::Lost(error) => {
                    log::warn!("Mesos: {error}");
                    // Here it may wait: there is no stream that must be read.
                    if self.sender.send(Update::Lost(error)).await.is_err() {
                        return;
                    }
                    // A master that accepts and then fails, over and over, is one that fails.
                    if begun.elapsed() > longest {
                        delays = backoff.delays();
                    }
                    sleep(delays.next_delay()).await;
                }
            }
        }
    }

    async fn round(&self) -> End {
        let (spec, leader, answer) = match self.client.subscribe().await {
            Ok(subscribed) => subscribed,
            Err(error) => return End::Lost(error),
        };
        let mut stream = EventStream::new(answer, self.options.idle_timeout);
        let until = Instant::now() + self.options.attach_timeout;
        let state = loop {
            match timeout_at(until, stream.next()).await {
                Ok(Ok(Event::Subscribed(state, interval))) => {
                    let beats = interval.unwrap_or_default().saturating_mul(3);
                    stream.idle_timeout = self.options.idle_timeout.max(beats);
                    stream.decoder.limit(LONGEST_EVENT);
                    break state;
                }
                Ok(Ok(_)) => {}
                Ok(Err(problem)) => return End::Lost(spec.failed(&leader, problem)),
                Err(_) => {
                    let problem = format!("no state within {:?}", self.options.attach_timeout);
                    return End::Lost(spec.failed(&leader, CallErrorKind::NotAttached(problem)));
                }
            }
        };
        log::info!("following Mesos at {leader}");
        for skipped in &state.skipped {
            log::warn!(
                "Mesos at {leader}: a {} cannot be read: {}",
                skipped.kind,
                skipped.problem
            );
        }
        let mut refresh = Instant::now() + self.options.resync_interval;
        let mut update = Update::Snapshot(state);
        loop {
            if let Err(error) = self.sender.try_send(update) {
                let full = matches!(error, mpsc::error::TrySendError::Full(_));
                if !full {
                    return End::Dropped;
                }
                let problem = "more has changed than is taken from it".to_owned();
                return End::Lost(spec.failed(&leader, CallErrorKind::Stream(problem)));
            }
            update = loop {
                match timeout_at(refresh, stream.next()).await {
                    Err(_) => return End::Refresh,
                    Ok(Ok(Event::Changed(change))) => {
                        if tells_of_a_lost_agent(&change) {
                            refresh =
                                refresh.min(Instant::now() + self.options.lost_agent_resync_delay);
                        }
                        break Update::Changed(change);
                    }
                    Ok(Ok(Event::Subscribed(state, _))) => break Update::Snapshot(state),
                    Ok(Ok(Event::Nothing)) => {}
                    Ok(Err(problem)) => return End::Lost(spec.failed(&leader, problem)),
                }
            };
        }
    }
}

fn tells_of_a_lost_agent(change: &Change) -> bool {
    matches!(change, Change::TaskUpdated { status, .. } if matches!(
        status.state,
        TaskState::Unreachable | TaskState::Lost | TaskState::Gone | TaskState::Unknown
    ))
}

/// An open event stream.
struct EventStream {
    answer: Streaming,
    decoder: Decoder,
    idle_timeout: Duration,
}

impl EventStream {
    fn new(answer: Streaming, idle_timeout: Duration) -> Self {
        Self {
            answer,
            decoder: Decoder::default(),
            idle_timeout,
        }
    }

    /// The next event. After an error, or if this is dropped before it is done, the stream is of
    /// no further use.
    async fn next(&mut self) -> Result<Event, CallErrorKind> {
        loop {
            if let Some(record) = self.decoder.next_record().map_err(stream)? {
                return read(record).await;
            }
            match self.answer.next(self.idle_timeout).await? {
                Some(bytes) => self.decoder.push(&bytes),
                None => return Err(CallErrorKind::Ended),
            }
        }
    }
}

async fn read(record: Vec<u8>) -> Result<Event, CallErrorKind> {
    let read = |record: &[u8]| {
        json::event(record).map_err(|error| CallErrorKind::invalid_response(&error, record))
    };
    if record.len() <= LONG {
        return read(&record);
    }
    let read = tokio::task::spawn_blocking(move || read(&record)).await;
    read.map_err(stream)?
}

fn stream(error: impl Into<Box<dyn std::error::Error>>) -> CallErrorKind {
    CallErrorKind::Stream(error.into().to_string())
}
