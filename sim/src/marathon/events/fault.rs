//! Faults of events.
//!
//! ```json
//! {"event_type": "status_update_event", "skip": 2, "times": 1, "effect": "drop"}
//! ```
//!
//! Effects: `"drop"`, `"duplicate"`, `"swap"` with the next one, `{"delay": 250}` in milliseconds.
//! All fields but the effect are optional.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::harness::{countdown, milliseconds};

/// The effect of a fault on an event, in all streams alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventEffect {
    /// The event is not sent.
    Drop,
    /// The event is sent twice.
    Duplicate,
    /// The event is sent after the next one that is not held back.
    Swap,
    /// The event is sent after a delay; others overtake it.
    Delay(#[serde(with = "milliseconds")] Duration),
}

/// A fault: which events it applies to, and its effect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventFault {
    /// Only events of this type.
    #[serde(default)]
    pub event_type: Option<String>,
    /// How many events to leave alone first.
    #[serde(default)]
    pub skip: u64,
    /// How many events to apply to; all if it is none.
    #[serde(default)]
    pub times: Option<u64>,
    /// The effect.
    pub effect: EventEffect,
}

impl EventFault {
    /// A fault of every event.
    #[must_use]
    pub fn new(effect: EventEffect) -> Self {
        Self {
            event_type: None,
            skip: 0,
            times: None,
            effect,
        }
    }

    /// Whether the fault applies to this event. Events of streams have to be named.
    pub(super) fn applies(&mut self, kind: &str) -> bool {
        let meant = match &self.event_type {
            Some(only) => only == kind,
            None => !kind.starts_with("event_stream_"),
        };
        meant && countdown(&mut self.skip, &mut self.times)
    }
}
