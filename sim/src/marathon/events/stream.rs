//! One stream as Jetty writes it: frames, and as a heartbeat an empty line, whose two bytes it
//! flushes one by one.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Bytes;
use futures::Stream;
use tokio::sync::futures::OwnedNotified;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Interval, MissedTickBehavior, interval_at};

use super::Bus;

/// The body of a response to `/v2/events`. Dropping it removes the follower.
pub(crate) struct EventStream {
    bus: Weak<Bus>,
    id: u64,
    events: mpsc::Receiver<Bytes>,
    closed: Pin<Box<OwnedNotified>>,
    heartbeat: Interval,
    heartbeat_state: Heartbeat,
}

/// The progress of a heartbeat.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heartbeat {
    Idle,
    /// `\r` is written and has to be flushed.
    Written,
    /// `\r` is flushed.
    Flushed,
}

impl EventStream {
    pub(super) fn new(
        bus: Weak<Bus>,
        id: u64,
        events: mpsc::Receiver<Bytes>,
        closed: Arc<Notify>,
        heartbeat: Duration,
    ) -> Self {
        let mut heartbeat = interval_at(tokio::time::Instant::now() + heartbeat, heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            bus,
            id,
            events,
            closed: Box::pin(closed.notified_owned()),
            heartbeat,
            heartbeat_state: Heartbeat::Idle,
        }
    }
}

impl Stream for EventStream {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.closed.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        match self.heartbeat_state {
            Heartbeat::Written => {
                // Returning nothing makes the connection flush.
                self.heartbeat_state = Heartbeat::Flushed;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Heartbeat::Flushed => {
                self.heartbeat_state = Heartbeat::Idle;
                return Poll::Ready(Some(Ok(Bytes::from_static(b"\n"))));
            }
            Heartbeat::Idle => {}
        }
        if let Poll::Ready(event) = self.events.poll_recv(context) {
            return Poll::Ready(event.map(Ok));
        }
        if self.heartbeat.poll_tick(context).is_ready() {
            self.heartbeat_state = Heartbeat::Written;
            return Poll::Ready(Some(Ok(Bytes::from_static(b"\r"))));
        }
        Poll::Pending
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        if let Some(bus) = self.bus.upgrade() {
            bus.detach(self.id);
        }
    }
}
