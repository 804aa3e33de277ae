//! Points in time as Marathon writes them: ISO 8601, UTC, milliseconds.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// A point in time; also what a run spec's versions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// The present, to the millisecond: finer parts would be lost on the way through JSON.
    #[must_use]
    pub fn now() -> Self {
        let now = jiff::Timestamp::now();
        Self(jiff::Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now))
    }

    /// How long ago this was; nothing if it is yet to come.
    #[must_use]
    pub fn elapsed_until(self, later: Self) -> Duration {
        let milliseconds = later.0.as_millisecond() - self.0.as_millisecond();
        Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0))
    }

    /// This much later.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        let milliseconds = i64::try_from(wait.as_millis())
            .unwrap_or(i64::MAX)
            .saturating_add(self.0.as_millisecond());
        Self(jiff::Timestamp::from_millisecond(milliseconds).unwrap_or(jiff::Timestamp::MAX))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:.3}", self.0)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_written_with_milliseconds() {
        let time = Timestamp(jiff::Timestamp::from_millisecond(1_600_000_000_000).unwrap());
        assert_eq!(time.to_string(), "2020-09-13T12:26:40.000Z");
        let later = time.after(Duration::from_millis(1500));
        assert_eq!(later.to_string(), "2020-09-13T12:26:41.500Z");
        assert_eq!(time.elapsed_until(later), Duration::from_millis(1500));
        assert_eq!(later.elapsed_until(time), Duration::ZERO);
    }
}
