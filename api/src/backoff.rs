//! The delays between attempts: exponential, with jitter, without end.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::time::{Instant, sleep};

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
            delays: ExponentialBuilder::default()
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
    delays: ExponentialBackoff,
}

impl Delays {
    /// The next delay.
    pub fn next_delay(&mut self) -> Duration {
        self.delays.next().unwrap_or(self.max)
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
}
