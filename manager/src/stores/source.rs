//! Whether a source can be trusted.
//!
//! A source that was lost is fresh again after a full list. It may cause a deletion only after it
//! has been trusted for a while. A list that shrank suddenly is not trusted until another one, a
//! stabilization window later, confirms it.

use std::time::Duration;

use tokio::time::Instant;

/// Below this size, a list is a sudden shrink only when it becomes empty; from here on, when it
/// loses more than half.
const MIN_SIZE_FOR_HALF: usize = 10;

/// The health of a source.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    state: State,
    trusted_since: Option<Instant>,
    shrinkage: Option<Shrinkage>,
    last_listed: Option<Instant>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    NeverListed,
    Fresh,
    Lost {
        since: Instant,
        reason: Box<str>,
    },
}

/// A list that shrank suddenly and is not confirmed yet.
#[derive(Clone, Debug)]
struct Shrinkage {
    since: Instant,
    size_before: usize,
}

impl Source {
    /// The connection to it failed.
    pub(crate) fn mark_lost(&mut self, now: Instant, reason: &str) {
        let since = match self.state {
            State::Lost { since, .. } => since,
            _ => now,
        };
        self.state = State::Lost {
            since,
            reason: reason.into(),
        };
        self.trusted_since = None;
    }

    /// It listed everything: `size` elements, where the last list had `size_before`.
    pub(crate) fn mark_listed(
        &mut self,
        now: Instant,
        (size_before, size): (usize, usize),
        complete: bool,
        stabilization_window: Duration,
    ) {
        self.state = State::Fresh;
        self.last_listed = Some(now);
        match &self.shrinkage {
            Some(shrinkage)
                if !is_sudden_shrink(shrinkage.size_before, size)
                    || now - shrinkage.since >= stabilization_window =>
            {
                self.shrinkage = None;
            }
            None if is_sudden_shrink(size_before, size) => {
                self.shrinkage = Some(Shrinkage {
                    since: now,
                    size_before,
                });
            }
            _ => {}
        }
        if complete && self.shrinkage.is_none() {
            self.trusted_since.get_or_insert(now);
        } else {
            self.trusted_since = None;
        }
    }

    /// Whether it is followed, and has listed everything since it was connected.
    pub(crate) fn is_fresh(&self) -> bool {
        self.state == State::Fresh
    }

    /// When it last listed everything.
    pub(crate) fn last_listed(&self) -> Option<Instant> {
        self.last_listed
    }

    /// Since when it has been trusted without a break.
    pub(crate) fn trusted_since(&self) -> Option<Instant> {
        self.trusted_since
    }

    /// The code of its state in JSON.
    pub(crate) fn state(&self) -> &'static str {
        match self.state {
            State::NeverListed => "never-listed",
            State::Lost { .. } => "lost",
            State::Fresh if self.trusted_since.is_none() => "untrusted",
            State::Fresh => "fresh",
        }
    }

    /// Why it is not trusted.
    pub(crate) fn problem(&self, now: Instant) -> String {
        match &self.state {
            State::NeverListed => "it has not listed anything yet".to_owned(),
            State::Lost { since, reason } => {
                format!(
                    "connection lost {} s ago: {reason}",
                    (now - *since).as_secs()
                )
            }
            State::Fresh if self.shrinkage.is_some() => {
                "its list has just shrunk sharply".to_owned()
            }
            State::Fresh if self.trusted_since.is_none() => {
                "part of its list cannot be read".to_owned()
            }
            State::Fresh => "it has just come back".to_owned(),
        }
    }
}

fn is_sudden_shrink(before: usize, now: usize) -> bool {
    (before > 0 && now == 0) || (before >= MIN_SIZE_FOR_HALF && now < before / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_mins(1);

    #[test]
    fn source_that_shrank_is_trusted_after_a_later_list_confirms_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut source = Source::default();
        source.mark_listed(at(0), (0, 4), true, WINDOW);
        assert_eq!(source.trusted_since(), Some(at(0)));
        source.mark_listed(at(10), (4, 0), true, WINDOW);
        assert_eq!(source.trusted_since(), None);
        assert!(source.problem(at(10)).contains("shrunk"));
        // A list within the window confirms nothing.
        source.mark_listed(at(20), (0, 0), true, WINDOW);
        assert_eq!(source.trusted_since(), None);
        source.mark_listed(at(70), (0, 0), true, WINDOW);
        assert_eq!(source.trusted_since(), Some(at(70)));
    }

    #[test]
    fn source_that_grew_back_is_trusted_at_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut source = Source::default();
        source.mark_listed(at(0), (0, 100), true, WINDOW);
        source.mark_listed(at(1), (100, 30), true, WINDOW);
        assert_eq!(source.trusted_since(), None);
        source.mark_listed(at(2), (30, 95), true, WINDOW);
        assert_eq!(source.trusted_since(), Some(at(2)));
    }

    #[test]
    fn source_that_is_lost_or_incomplete_is_not_trusted() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut source = Source::default();
        assert!(!source.is_fresh());
        source.mark_listed(at(0), (0, 4), true, WINDOW);
        source.mark_lost(at(5), "refused");
        source.mark_lost(at(9), "refused");
        assert!(!source.is_fresh() && source.trusted_since().is_none());
        assert_eq!(source.problem(at(15)), "connection lost 10 s ago: refused");
        source.mark_listed(at(20), (4, 4), false, WINDOW);
        assert!(source.is_fresh() && source.trusted_since().is_none());
        source.mark_listed(at(30), (4, 4), true, WINDOW);
        assert_eq!(source.trusted_since(), Some(at(30)));
    }
}
