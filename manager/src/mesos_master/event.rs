//! The events of the master.

use std::time::Duration;

use super::model::{Change, State};

/// An event of the stream.
#[derive(Debug)]
pub(super) enum Event {
    /// The first: everything, and how often there will be a heartbeat.
    Subscribed(Box<State>, Option<Duration>),
    /// Something has changed.
    Changed(Change),
    /// A heartbeat, or an event that is not known.
    Nothing,
}
