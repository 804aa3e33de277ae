//! `/v2/events`: the followers, and the events that each receives.
//!
//! Invariants: without faults, events are sent in the order of publication; new followers receive
//! no earlier events; a slow follower loses events (1.7) or its stream (since 1.8), and delays no
//! other.

mod event;
mod fault;
mod stream;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc};

pub use event::Event;
pub use fault::{EventEffect, EventFault};
pub(super) use stream::EventStream;

use super::version::Version;
use crate::harness::clock::Timestamp;

/// The followers of the events.
#[derive(Debug)]
pub(super) struct Bus {
    version: Version,
    /// `--event_stream_max_outstanding_messages`.
    outstanding: usize,
    heartbeat: Duration,
    state: Mutex<BusState>,
    own: Weak<Self>,
}

#[derive(Debug, Default)]
struct BusState {
    followers: Vec<Follower>,
    next: u64,
    faults: Vec<EventFault>,
    held: Vec<Event>,
    lost: u64,
}

#[derive(Debug)]
struct Follower {
    id: u64,
    server: usize,
    remote_address: String,
    /// The types that it follows; all of them if it is empty.
    wanted: BTreeSet<String>,
    queue: mpsc::Sender<Bytes>,
    closed: Arc<Notify>,
}

impl Bus {
    pub(super) fn new(version: Version, outstanding: usize, heartbeat: Duration) -> Arc<Self> {
        Arc::new_cyclic(|own| Self {
            version,
            outstanding: outstanding.max(1),
            heartbeat: heartbeat.max(Duration::from_millis(1)),
            state: Mutex::default(),
            own: Weak::clone(own),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BusState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a stream at this server.
    pub(super) fn attach(
        &self,
        server: usize,
        remote_address: &str,
        wanted: BTreeSet<String>,
    ) -> EventStream {
        let (queue, events) = mpsc::channel(self.outstanding);
        let closed = Arc::new(Notify::new());
        let id = {
            let mut state = self.lock();
            state.next += 1;
            let id = state.next;
            state.followers.push(Follower {
                id,
                server,
                remote_address: remote_address.to_owned(),
                wanted,
                queue,
                closed: Arc::clone(&closed),
            });
            id
        };
        self.publish(Event::stream("event_stream_attached", remote_address));
        EventStream::new(Weak::clone(&self.own), id, events, closed, self.heartbeat)
    }

    fn detach(&self, id: u64) {
        let gone = {
            let mut state = self.lock();
            let at = state.followers.iter().position(|own| own.id == id);
            at.map(|at| state.followers.remove(at))
        };
        if let Some(gone) = gone {
            let address = &gone.remote_address;
            self.publish(Event::stream("event_stream_detached", address));
        }
    }

    /// Publishes an event, subject to the faults.
    pub(super) fn publish(&self, event: Event) {
        let effect = {
            let mut state = self.lock();
            let mut faults = state.faults.iter_mut();
            faults.find_map(|fault| fault.applies(&event.kind).then_some(fault.effect))
        };
        match effect {
            None => self.send(event),
            Some(EventEffect::Drop) => {}
            Some(EventEffect::Duplicate) => {
                self.send(event.clone());
                self.send(event);
            }
            Some(EventEffect::Swap) => self.lock().held.push(event),
            Some(EventEffect::Delay(time)) => {
                let bus = Weak::clone(&self.own);
                // A stream may be dropped after the runtime.
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(async move {
                        tokio::time::sleep(time).await;
                        if let Some(bus) = bus.upgrade() {
                            bus.send(event);
                        }
                    });
                }
            }
        }
    }

    /// Sends an event to all followers, and then those that were held back.
    fn send(&self, mut event: Event) {
        event.data["timestamp"] = Timestamp::now().to_string().into();
        let mut state = self.lock();
        let held = std::mem::take(&mut state.held);
        self.deliver(&mut state, Some(&event.kind), &event.frame().into());
        for mut event in held {
            event.data["timestamp"] = Timestamp::now().to_string().into();
            self.deliver(&mut state, Some(&event.kind), &event.frame().into());
        }
    }

    /// Writes these bytes into every stream, whatever types it follows.
    pub(super) fn send_raw(&self, bytes: &Bytes) {
        self.deliver(&mut self.lock(), None, bytes);
    }

    fn deliver(&self, state: &mut BusState, kind: Option<&str>, frame: &Bytes) {
        let mut lost = 0;
        state.followers.retain(|own| {
            let wanted = kind.is_none_or(|kind| own.wanted.is_empty() || own.wanted.contains(kind));
            if !wanted {
                return true;
            }
            match own.queue.try_send(frame.clone()) {
                Ok(()) => true,
                Err(TrySendError::Closed(_)) => false,
                Err(TrySendError::Full(_)) => {
                    lost += 1;
                    log::warn!("{} reads its events too slowly", own.remote_address);
                    let closes = self.version.closes_slow_streams();
                    if closes {
                        own.closed.notify_one();
                    }
                    !closes
                }
            }
        });
        state.lost += lost;
    }

    /// Ends the streams of one server, or all streams.
    pub(super) fn close(&self, server: Option<usize>) {
        let mut state = self.lock();
        state.followers.retain(|own| {
            let meant = server.is_none_or(|server| own.server == server);
            if meant {
                own.closed.notify_one();
            }
            !meant
        });
    }

    /// The number of streams.
    pub(super) fn followers(&self) -> usize {
        self.lock().followers.len()
    }

    /// How many events, or streams, slow followers have lost.
    pub(super) fn lost(&self) -> u64 {
        self.lock().lost
    }

    pub(super) fn faults(&self) -> Vec<EventFault> {
        self.lock().faults.clone()
    }

    pub(super) fn fault(&self, fault: EventFault) {
        self.lock().faults.push(fault);
    }

    /// Removes all faults, and sends the events that were held back.
    pub(super) fn clear_faults(&self) {
        let held = {
            let mut state = self.lock();
            state.faults.clear();
            std::mem::take(&mut state.held)
        };
        for event in held {
            self.send(event);
        }
    }
}
