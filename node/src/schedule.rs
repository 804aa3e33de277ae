//! When a subsystem compares next.
//!
//! Invariants: changes that come close together cause one comparison; a comparison is never further
//! away than the interval of full comparisons; something that undoes every repair, or fails every
//! time, does not keep the host busy.

use std::time::{Duration, Instant};

use contrail_mesos_api::backoff::{Backoff, Delays};

/// The delay after a change, in which others may come, and its growth while repairs are undone. With
/// jitter the first is 50 to 100 ms.
const REPAIR_BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
/// The delay after a change that somebody waits for.
const URGENT_DELAY: Duration = Duration::from_millis(5);
/// The delay after a failure.
const FAILURE_BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// The delay until the next full comparison. With jitter it is 30 to 60 s.
const FULL_INTERVAL: Backoff = Backoff::new(Duration::from_secs(30), Duration::from_secs(30));

/// What a comparison came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Conclusion {
    /// Everything is as it must be.
    Applied,
    /// Everything is as it must be again: something else had changed it.
    Repaired,
    /// Something could not be done.
    Failed,
}

/// When a comparison is due.
#[derive(Debug)]
pub(crate) struct Schedule {
    due: Instant,
    /// The delay before the next comparison after a notification.
    debounce: Duration,
    repairs: Delays,
    failures: Delays,
    full: Delays,
}

impl Schedule {
    /// A schedule whose first comparison is due at once.
    pub(crate) fn new(now: Instant) -> Self {
        let mut repairs = REPAIR_BACKOFF.delays();
        Self {
            due: now,
            debounce: repairs.next_delay(),
            repairs,
            failures: FAILURE_BACKOFF.delays(),
            full: FULL_INTERVAL.delays(),
        }
    }

    /// When the next comparison is due.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Something has changed: what must be, or what is there.
    pub(crate) fn changed(&mut self, now: Instant) {
        self.due = self.due.min(now + self.debounce);
    }

    /// Something has changed that somebody waits for.
    pub(crate) fn urgent(&mut self, now: Instant) {
        self.due = self.due.min(now + URGENT_DELAY);
    }

    /// A comparison has ended.
    pub(crate) fn concluded(&mut self, now: Instant, conclusion: Conclusion) {
        if conclusion != Conclusion::Repaired {
            self.repairs = REPAIR_BACKOFF.delays();
        }
        self.debounce = self.repairs.next_delay();
        let delay = if conclusion == Conclusion::Failed {
            // What fails may also cause notifications.
            let delay = self.failures.next_delay();
            self.debounce = self.debounce.max(delay.min(Duration::from_secs(1)));
            delay
        } else {
            self.failures = FAILURE_BACKOFF.delays();
            self.full.next_delay()
        };
        self.due = now + delay;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(from: Instant, schedule: &Schedule) -> u128 {
        schedule.due().duration_since(from).as_millis()
    }

    #[test]
    fn what_somebody_waits_for_is_compared_at_once() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now);
        schedule.concluded(now, Conclusion::Applied);
        schedule.changed(now);
        schedule.urgent(now);
        assert_eq!(millis(now, &schedule), URGENT_DELAY.as_millis());
        let earlier = schedule.due();
        schedule.urgent(now + Duration::from_secs(1));
        assert_eq!(schedule.due(), earlier);
    }

    #[test]
    fn changes_close_together_cause_one_comparison() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now);
        assert_eq!(schedule.due(), now);
        schedule.concluded(now, Conclusion::Applied);
        assert!((30_000..=60_000).contains(&millis(now, &schedule)));
        schedule.changed(now);
        let due = schedule.due();
        assert!((50..=100).contains(&millis(now, &schedule)));
        // A stream of changes does not put it off.
        for passed in 1..40 {
            schedule.changed(now + Duration::from_millis(passed));
        }
        assert_eq!(schedule.due(), due);
    }

    #[test]
    fn repairs_that_are_undone_slow_down() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now);
        for _ in 0..10 {
            schedule.concluded(now, Conclusion::Repaired);
            schedule.changed(now);
        }
        assert!((1_000..=2_000).contains(&millis(now, &schedule)));
        schedule.concluded(now, Conclusion::Applied);
        schedule.changed(now);
        assert!((50..=100).contains(&millis(now, &schedule)));
    }

    #[test]
    fn failures_are_retried_with_growing_delays() {
        let now = Instant::now();
        let mut schedule = Schedule::new(now);
        schedule.concluded(now, Conclusion::Failed);
        assert!((500..=1_000).contains(&millis(now, &schedule)));
        for _ in 0..10 {
            schedule.concluded(now, Conclusion::Failed);
        }
        assert!((30_000..=60_000).contains(&millis(now, &schedule)));
        // A change is not put off for as long.
        schedule.changed(now);
        assert!(millis(now, &schedule) <= 1_000);
        schedule.concluded(now, Conclusion::Applied);
        schedule.concluded(now, Conclusion::Failed);
        assert!((500..=1_000).contains(&millis(now, &schedule)));
    }
}
