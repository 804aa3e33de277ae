//! What can go wrong with events on purpose.
//!
//! ```json
//! {"event_type": "status_update_event", "skip": 2, "times": 1, "effect": "drop"}
//! ```
//!
//! Effects: `"drop"`, `"duplicate"`, `"swap"` with the next one, `{"delay": 250}` in milliseconds.
//! Everything but the effect may be left out.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::harness::{countdown, milliseconds};

/// A fault of every stream alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventEffect {
    /// It is not sent.
    Drop,
    /// It is sent twice.
    Duplicate,
    /// It is sent after the next one that is not held back.
    Swap,
    /// It is sent so much later; others overtake it.
    Delay(#[serde(with = "milliseconds")] Duration),
}

/// What happens to which events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventFault {
    /// Only to events of this type.
    #[serde(default)]
    pub event_type: Option<String>,
    /// Not to the first so many.
    #[serde(default)]
    pub skip: u64,
    /// Only to so many.
    #[serde(default)]
    pub times: Option<u64>,
    /// What.
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

    /// Whether it strikes this event. `event_stream_attached` goes its way unless it is named.
    pub(super) fn strikes(&mut self, kind: &str) -> bool {
        let meant = match &self.event_type {
            Some(only) => only == kind,
            None => !kind.starts_with("event_stream_"),
        };
        meant && countdown(&mut self.skip, &mut self.times)
    }
}
