//! Whether a source is to be believed.
//!
//! A source that was lost is believed again once it has listed everything; and where deletion
//! hangs on its word, once it has been so for a while. A list that shrank at once is doubted until
//! another one, a while later, says the same.

use std::time::Duration;

use tokio::time::Instant;

/// From so many on, a list that loses more than half at once is doubted. Fewer are doubted when
/// all are gone.
const MANY: usize = 10;

/// How a source is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    state: State,
    /// Since when all that it said was whole and undoubted.
    believed: Option<Instant>,
    doubt: Option<Doubt>,
    listed: Option<Instant>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum State {
    /// It has not said anything yet.
    #[default]
    Never,
    Fresh,
    Stale {
        since: Instant,
        why: Box<str>,
    },
}

/// What the last undoubted list held, and since when lists hold so much less.
#[derive(Clone, Debug)]
struct Doubt {
    since: Instant,
    before: usize,
}

impl Source {
    /// It cannot be followed any more.
    pub(crate) fn lost(&mut self, now: Instant, why: &str) {
        let since = match self.state {
            State::Stale { since, .. } => since,
            _ => now,
        };
        self.state = State::Stale {
            since,
            why: why.into(),
        };
        self.believed = None;
    }

    /// It has listed everything: `size` elements, after `before` of the last time.
    pub(crate) fn listed(
        &mut self,
        now: Instant,
        (before, size): (usize, usize),
        complete: bool,
        settle: Duration,
    ) {
        self.state = State::Fresh;
        self.listed = Some(now);
        match &self.doubt {
            Some(doubt) if !shrank(doubt.before, size) || now - doubt.since >= settle => {
                self.doubt = None;
            }
            None if shrank(before, size) => self.doubt = Some(Doubt { since: now, before }),
            _ => {}
        }
        if complete && self.doubt.is_none() {
            self.believed.get_or_insert(now);
        } else {
            self.believed = None;
        }
    }

    /// Whether it is followed, and has listed everything since.
    pub(crate) fn is_fresh(&self) -> bool {
        self.state == State::Fresh
    }

    /// When it last listed everything.
    pub(crate) fn last_listed(&self) -> Option<Instant> {
        self.listed
    }

    /// Since when it has been believed without a break.
    pub(crate) fn believed_since(&self) -> Option<Instant> {
        self.believed
    }

    /// The code of its state in JSON.
    pub(crate) fn state(&self) -> &'static str {
        match self.state {
            State::Never => "never-listed",
            State::Stale { .. } => "lost",
            State::Fresh if self.doubt.is_some() || self.believed.is_none() => "untrusted",
            State::Fresh => "fresh",
        }
    }

    /// For people: why it is not believed.
    pub(crate) fn problem(&self, now: Instant) -> String {
        match &self.state {
            State::Never => "it has not been heard of yet".to_owned(),
            State::Stale { since, why } => {
                format!("it is lost since {} s: {why}", (now - *since).as_secs())
            }
            State::Fresh if self.doubt.is_some() => "its list has just shrunk a lot".to_owned(),
            State::Fresh if self.believed.is_none() => "part of its list cannot be read".to_owned(),
            State::Fresh => "it has just come back".to_owned(),
        }
    }
}

fn shrank(before: usize, now: usize) -> bool {
    (before > 0 && now == 0) || (before >= MANY && now < before / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_mins(1);

    #[test]
    fn a_list_that_shrank_at_once_needs_another_one() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut source = Source::default();
        source.listed(at(0), (0, 4), true, SETTLE);
        assert_eq!(source.believed_since(), Some(at(0)));
        source.listed(at(10), (4, 0), true, SETTLE);
        assert_eq!(source.believed_since(), None);
        assert!(source.problem(at(10)).contains("shrunk"));
        // Soon after is no second word.
        source.listed(at(20), (0, 0), true, SETTLE);
        assert_eq!(source.believed_since(), None);
        source.listed(at(70), (0, 0), true, SETTLE);
        assert_eq!(source.believed_since(), Some(at(70)));
    }

    #[test]
    fn what_was_missing_and_came_back_is_no_doubt() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut source = Source::default();
        source.listed(at(0), (0, 100), true, SETTLE);
        source.listed(at(1), (100, 30), true, SETTLE);
        assert_eq!(source.believed_since(), None);
        source.listed(at(2), (30, 95), true, SETTLE);
        assert_eq!(source.believed_since(), Some(at(2)));
    }

    #[test]
    fn loss_and_gaps_end_belief() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut source = Source::default();
        assert!(!source.is_fresh());
        source.listed(at(0), (0, 4), true, SETTLE);
        source.lost(at(5), "refused");
        source.lost(at(9), "refused");
        assert!(!source.is_fresh() && source.believed_since().is_none());
        assert_eq!(source.problem(at(15)), "it is lost since 10 s: refused");
        source.listed(at(20), (4, 4), false, SETTLE);
        assert!(source.is_fresh() && source.believed_since().is_none());
        source.listed(at(30), (4, 4), true, SETTLE);
        assert_eq!(source.believed_since(), Some(at(30)));
    }
}
