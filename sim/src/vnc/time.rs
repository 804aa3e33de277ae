//! Times as `datetime.utcnow().isoformat()` writes them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Now, in UTC, to the microsecond.
pub(crate) fn now() -> String {
    let since = since_epoch();
    iso(since.as_secs(), since.subsec_micros())
}

/// So much later than now, marked as UTC.
pub(crate) fn after(time: Duration) -> String {
    let until = since_epoch().saturating_add(time);
    format!("{}Z", iso(until.as_secs(), until.subsec_micros()))
}

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

fn iso(seconds: u64, micros: u32) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from 1 March of the year 0, so that a leap day ends a year of four.
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{micros:06}",
        second / 3_600,
        second % 3_600 / 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_of_the_calendar() {
        assert_eq!(iso(0, 0), "1970-01-01T00:00:00.000000");
        assert_eq!(iso(951_826_461, 7), "2000-02-29T12:14:21.000007");
        assert_eq!(iso(1_795_230_024, 84_789), "2026-11-21T03:00:24.084789");
    }
}
