//! What has changed in the view of Mesos, for readers that keep an index of it.
//!
//! Invariant: the memory is bounded. A reader that is too far behind has to look at everything.

use std::collections::VecDeque;

use arcstr::ArcStr;

use crate::mesos_master::{Change, TaskKey};

/// How many changes are remembered.
const MAX_REMEMBERED: usize = 8192;

/// What may have changed in the view.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Touched {
    /// Anything: there is a new list, or another classification.
    All,
    /// A task.
    Task(TaskKey),
    /// An agent.
    Agent(ArcStr),
    /// A framework, and its tasks.
    Framework(ArcStr),
}

impl Touched {
    /// What a change touches.
    pub(crate) fn of(change: &Change) -> Self {
        match change {
            Change::TaskAdded(task) => Self::Task(task.key.clone()),
            Change::TaskUpdated { key, .. } => Self::Task(key.clone()),
            Change::AgentAdded(agent) => Self::Agent(agent.id.clone()),
            Change::AgentRemoved(id) => Self::Agent(id.clone()),
            Change::FrameworkChanged(framework) => Self::Framework(framework.id.clone()),
            Change::FrameworkRemoved(id) => Self::Framework(id.clone()),
        }
    }
}

/// The last changes, each with a number.
#[derive(Clone, Debug, Default)]
pub(crate) struct TouchedLog {
    /// The number of the next one.
    next: u64,
    entries: VecDeque<Touched>,
}

impl TouchedLog {
    pub(super) fn push(&mut self, touched: Touched) {
        if touched == Touched::All {
            self.entries.clear();
        }
        while self.entries.len() >= MAX_REMEMBERED {
            self.entries.pop_front();
        }
        self.entries.push_back(touched);
        self.next += 1;
    }

    /// The number of the next change: a reader that has seen everything goes on from there.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// What was touched since the reader was at `number`; everything if that is not remembered.
    pub(crate) fn since(&self, number: Option<u64>) -> Vec<Touched> {
        let behind = number.and_then(|number| self.next.checked_sub(number));
        match behind.and_then(|behind| usize::try_from(behind).ok()) {
            Some(behind) if behind <= self.entries.len() => {
                let seen = self.entries.len() - behind;
                self.entries.range(seen..).cloned().collect()
            }
            _ => vec![Touched::All],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(number: usize) -> Touched {
        Touched::Agent(format!("S{number}").into())
    }

    #[test]
    fn reader_gets_what_it_has_not_seen_or_everything() {
        let mut log = TouchedLog::default();
        assert_eq!(log.since(None), [Touched::All]);
        assert_eq!(log.since(Some(log.next())), []);
        log.push(agent(1));
        let seen = log.next();
        log.push(agent(2));
        log.push(agent(3));
        assert_eq!(log.since(Some(seen)), [agent(2), agent(3)]);
        assert_eq!(log.since(Some(0)), [agent(1), agent(2), agent(3)]);
        // A number of another log.
        assert_eq!(log.since(Some(99)), [Touched::All]);
        log.push(Touched::All);
        assert_eq!(log.since(Some(seen)), [Touched::All]);
        assert_eq!(log.since(Some(log.next())), []);
        for number in 0..2 * MAX_REMEMBERED {
            log.push(agent(number));
        }
        assert_eq!(log.since(Some(seen)), [Touched::All]);
        assert_eq!(
            log.since(Some(log.next() - 1)),
            [agent(2 * MAX_REMEMBERED - 1)]
        );
    }
}
