//! The problems that operators see.

use std::collections::HashSet;

use super::ServiceProblem;

/// The most problems that are listed.
const MAX_PROBLEMS: usize = 1000;
/// The most tasks and services whose problems are looked at.
pub(super) const MAX_EXAMINED: usize = 10_000;

/// The first problems, each once.
#[derive(Debug, Default)]
pub(super) struct ProblemList {
    seen: HashSet<ServiceProblem>,
}

impl ProblemList {
    pub(super) fn extend(&mut self, problems: impl IntoIterator<Item = ServiceProblem>) {
        for problem in problems {
            if self.seen.len() < MAX_PROBLEMS {
                self.seen.insert(problem);
            }
        }
    }

    pub(super) fn finish(self) -> Vec<ServiceProblem> {
        let mut problems: Vec<_> = self.seen.into_iter().collect();
        problems.sort_unstable();
        problems
    }
}
