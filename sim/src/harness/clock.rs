//! Times in the formats of the real servers, all in UTC.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// Python's `datetime.utcnow().isoformat()`, always with microseconds.
const PYTHON_ISO: &str = "%Y-%m-%dT%H:%M:%S.%6f";

/// The current time as Python's `datetime.utcnow().isoformat()` writes it.
pub(crate) fn python_now() -> String {
    jiff::Timestamp::now().strftime(PYTHON_ISO).to_string()
}

/// A later time in the same format, marked as UTC.
pub(crate) fn python_after(delay: Duration) -> String {
    let time = jiff::Timestamp::now()
        .checked_add(delay)
        .unwrap_or(jiff::Timestamp::MAX);
    format!("{}Z", time.strftime(PYTHON_ISO))
}

/// The current time as the vRouter agent writes it into port files.
pub(crate) fn agent_now() -> String {
    jiff::Timestamp::now()
        .strftime("%Y-%b-%d %H:%M:%S.%6f")
        .to_string()
}

/// A point in time as Marathon writes it, with milliseconds; also the version of a run spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// The current time, to the millisecond: JSON would lose finer parts.
    #[must_use]
    pub fn now() -> Self {
        let now = jiff::Timestamp::now();
        Self(jiff::Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now))
    }

    /// The time from here to `later`; zero if that is earlier.
    #[must_use]
    pub fn elapsed_until(self, later: Self) -> Duration {
        let milliseconds = later.0.as_millisecond() - self.0.as_millisecond();
        Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0))
    }

    /// This time plus a delay.
    #[must_use]
    pub fn after(self, delay: Duration) -> Self {
        let milliseconds = i64::try_from(delay.as_millis())
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
    fn timestamp_is_written_with_milliseconds() {
        let time = Timestamp(jiff::Timestamp::from_millisecond(1_600_000_000_000).unwrap());
        assert_eq!(time.to_string(), "2020-09-13T12:26:40.000Z");
        let later = time.after(Duration::from_millis(1500));
        assert_eq!(later.to_string(), "2020-09-13T12:26:41.500Z");
        assert_eq!(time.elapsed_until(later), Duration::from_millis(1500));
        assert_eq!(later.elapsed_until(time), Duration::ZERO);
    }

    #[test]
    fn python_format_has_microseconds() {
        let iso = |seconds, micros: i32| {
            let time = jiff::Timestamp::new(seconds, micros * 1000).unwrap();
            time.strftime(PYTHON_ISO).to_string()
        };
        assert_eq!(iso(0, 0), "1970-01-01T00:00:00.000000");
        assert_eq!(iso(951_826_461, 7), "2000-02-29T12:14:21.000007");
        assert_eq!(iso(1_795_230_024, 84_789), "2026-11-21T03:00:24.084789");
    }
}
