//! Limits how often the same line is logged: another program may undo each correction at once.

use std::collections::HashMap;
use std::time::{Duration, Instant};

const INTERVAL: Duration = Duration::from_mins(1);
/// More different lines than a host has, unless names change all the time.
const MAX_LINES: usize = 1024;
/// How many outcomes one line of the log names.
const MAX_JOINED: usize = 10;

#[derive(Debug)]
struct LoggedLine {
    at: Instant,
    /// How often it came up since, without being logged.
    suppressed: u32,
}

/// What was logged, and when.
#[derive(Debug, Default)]
pub(super) struct RepairLog {
    logged: HashMap<String, LoggedLine>,
}

impl RepairLog {
    /// Those of `outcomes` that are to be logged now: each at most once a minute, with the number
    /// of times that it came up meanwhile.
    pub(super) fn lines(&mut self, outcomes: Vec<String>, now: Instant) -> Vec<String> {
        if self.logged.len() > MAX_LINES {
            self.logged
                .retain(|_, logged| now.duration_since(logged.at) < INTERVAL);
            if self.logged.len() > MAX_LINES {
                self.logged.clear();
            }
        }
        let mut lines = Vec::new();
        for outcome in outcomes {
            match self.logged.get_mut(&outcome) {
                Some(logged) if now.duration_since(logged.at) < INTERVAL => {
                    logged.suppressed = logged.suppressed.saturating_add(1);
                }
                other => {
                    let line = match other.map_or(0, |logged| logged.suppressed) {
                        0 => outcome.clone(),
                        times => {
                            format!("{outcome} (and {times} times before, since the last line)")
                        }
                    };
                    lines.push(line);
                    let logged = LoggedLine {
                        at: now,
                        suppressed: 0,
                    };
                    self.logged.insert(outcome, logged);
                }
            }
        }
        lines
    }

    /// One line of several outcomes, if there are any.
    pub(super) fn joined(outcomes: &[String]) -> Option<String> {
        let (named, more) = outcomes.split_at(outcomes.len().min(MAX_JOINED));
        let line = named.join("; ");
        match more.len() {
            0 => (!line.is_empty()).then_some(line),
            count => Some(format!("{line}; and {count} more")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_outcome_is_logged_once_a_minute_with_its_count() {
        let mut log = RepairLog::default();
        let start = Instant::now();
        let down = || vec!["blue0 is down".to_owned()];
        assert_eq!(log.lines(down(), start), down());
        for second in 1..60 {
            let now = start + Duration::from_secs(second);
            assert_eq!(log.lines(down(), now), Vec::<String>::new());
        }
        let other = vec!["blue1 is down".to_owned()];
        assert_eq!(log.lines(other.clone(), start), other);
        let lines = log.lines(down(), start + INTERVAL);
        assert_eq!(lines.len(), 1);
        assert!(lines[0].contains("59 times"), "{lines:?}");
        assert_eq!(log.lines(down(), start + INTERVAL), Vec::<String>::new());
    }

    #[test]
    fn many_different_outcomes_are_forgotten() {
        let mut log = RepairLog::default();
        let start = Instant::now();
        for number in 0..(3 * MAX_LINES) {
            assert_eq!(log.lines(vec![format!("port {number}")], start).len(), 1);
        }
        assert!(log.logged.len() <= MAX_LINES + 1);
        let many: Vec<String> = (0..30).map(|number| format!("p{number}")).collect();
        assert!(RepairLog::joined(&many).unwrap().ends_with("and 20 more"));
        assert_eq!(RepairLog::joined(&[]), None);
    }
}
