//! Which parts of the host's side are due for a comparison with what they must be, and its outcome.

use std::collections::BTreeSet;

/// The comparisons that are due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DueComparisons {
    pub(super) bridges: bool,
    pub(super) all_ports: bool,
    /// By the name of the host end.
    pub(super) ports: BTreeSet<String>,
    pub(super) table: bool,
    /// Links that were deleted.
    pub(super) deleted: BTreeSet<String>,
}

impl DueComparisons {
    pub(super) fn everything() -> Self {
        Self {
            bridges: true,
            all_ports: true,
            table: true,
            ..Self::default()
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The outcome of comparisons.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// What was not as it must be, and was put back.
    pub(super) faults: Vec<String>,
    /// Whether something could not be put back.
    pub(super) has_failed: bool,
}
