//! Events of the master.

use std::time::Duration;

use super::model::{Change, State};

/// An event of the stream.
#[derive(Debug)]
pub(super) enum Event {
    /// The first event: the whole state, and the heartbeat interval.
    Subscribed(Box<State>, Option<Duration>),
    /// A change.
    Changed(Change),
    /// A heartbeat, or an unknown event.
    Ignored,
}
