//! The delays between attempts: exponential, with jitter, without end.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::time::{Instant, sleep};

/// The shortest time in which an attempt may succeed.
const MIN_ATTEMPT_TIME: Duration = Duration::from_millis(5);

/// How long to wait between attempts.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    factor: f32,
}

impl Backoff {
    /// Delays that double from `min` to `max`.
    #[must_use]
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self {
            min,
            max,
            factor: 2.0,
        }
    }

    /// The same, where each delay is `factor` times the last.
    #[must_use]
    pub const fn with_factor(self, factor: f32) -> Self {
        Self { factor, ..self }
    }

    /// The delays, from the shortest on.
    #[must_use]
    pub fn delays(self) -> Delays {
        Delays {
            max: self.max,
            is_last: false,
            series: ExponentialBuilder::default()
                .with_min_delay(self.min)
                .with_max_delay(self.max)
                .with_factor(self.factor)
                .with_jitter()
                .without_max_times()
                .build(),
        }
    }
}

/// The delays of one series of attempts.
#[derive(Debug)]
pub struct Delays {
    max: Duration,
    /// Whether the last delay before a deadline is over.
    is_last: bool,
    series: ExponentialBackoff,
}

impl Delays {
    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        self.series.next().unwrap_or(self.max)
    }

    /// Sleeps for the next delay. Returns false at once if it would not end before `deadline`.
    pub async fn sleep_before(&mut self, deadline: Instant) -> bool {
        let delay = self.next_delay();
        if Instant::now() + delay >= deadline {
            return false;
        }
        sleep(delay).await;
        true
    }

    /// Sleeps for the next delay, or for half of the time until `deadline` if that is less: then the
    /// rest is for a last attempt. Returns false at once if that was the case before, or if too
    /// little time is left.
    pub async fn sleep_until_last(&mut self, deadline: Instant) -> bool {
        let delay = self.next_delay();
        let left = deadline.saturating_duration_since(Instant::now());
        if self.is_last || left < MIN_ATTEMPT_TIME {
            return false;
        }
        self.is_last = delay >= left;
        sleep(if self.is_last { left / 2 } else { delay }).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn delays_should_grow_to_the_maximum_and_respect_the_deadline() {
        let backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
        let mut delays = backoff.delays();
        let first = delays.next_delay();
        // Jitter adds up to one minimal delay.
        assert!((10..=20).contains(&first.as_millis()), "{first:?}");
        let last = (0..20).map(|_| delays.next_delay()).last().unwrap();
        assert!((100..=200).contains(&last.as_millis()), "{last:?}");
        let start = Instant::now();
        assert!(!delays.sleep_before(start + Duration::from_millis(50)).await);
        assert_eq!(Instant::now(), start);
        assert!(delays.sleep_before(start + Duration::from_secs(1)).await);
        assert!(Instant::now() >= start + Duration::from_millis(100));
    }
    #[tokio::test(start_paused = true)]
    async fn last_delay_should_leave_time_for_a_last_attempt() {
        let mut delays = Backoff::new(Duration::from_secs(1), Duration::from_secs(2)).delays();
        let start = Instant::now();
        let deadline = start + Duration::from_millis(900);
        assert!(delays.sleep_until_last(deadline).await);
        assert_eq!(start.elapsed(), Duration::from_millis(450));
        assert!(!delays.sleep_until_last(deadline).await);
        assert_eq!(start.elapsed(), Duration::from_millis(450));
    }
}
