//! The launch delay of run specs whose instances keep failing.

use std::time::Duration;

use crate::harness::clock::Timestamp;
use crate::marathon::model::run_spec::Backoff;

/// The present launch delay of a run spec.
#[derive(Clone, Copy, Debug)]
pub(super) struct LaunchDelay {
    length: Duration,
    until: Timestamp,
}

impl LaunchDelay {
    /// The delay after another failure.
    pub(super) fn after(previous: Option<Self>, backoff: &Backoff, now: Timestamp) -> Self {
        let longer = |previous: Self| {
            Duration::try_from_secs_f64(previous.length.as_secs_f64() * backoff.factor)
                .unwrap_or(backoff.max)
        };
        let length = previous.map_or(backoff.initial, longer).min(backoff.max);
        Self {
            length,
            until: now.after(length),
        }
    }

    /// Whether it is over.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.until <= now
    }
}
