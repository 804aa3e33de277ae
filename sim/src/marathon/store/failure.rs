//! Instances that ended by themselves.

use crate::harness::clock::Timestamp;
use crate::marathon::instance::{Condition, Instance};

/// How many failures are kept for each run spec.
pub(super) const MAX_FAILURES: usize = 10;

/// An instance that ended although it should run.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The instance as it was at its end.
    pub instance: Instance,
    /// The task with the worst condition.
    pub task_id: String,
    /// The condition of that task.
    pub condition: Condition,
    /// The message of its status.
    pub message: String,
    /// When the instance ended.
    pub at: Timestamp,
}

impl Failure {
    /// The failure of an instance whose tasks have all ended.
    pub(super) fn of(instance: &Instance, at: Timestamp) -> Option<Self> {
        let worst = instance.tasks.iter().min_by_key(|task| task.condition)?;
        Some(Self {
            instance: instance.clone(),
            task_id: worst.id.clone(),
            condition: worst.condition,
            message: worst.message.clone().unwrap_or_default(),
            at,
        })
    }
}
