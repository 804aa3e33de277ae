//! What is remembered of an instance that ended by itself.

use crate::harness::clock::Timestamp;
use crate::marathon::instance::{Condition, Instance};

/// How many of them are remembered for each run spec.
pub(super) const REMEMBERED: usize = 10;

/// An instance that ended although it should run.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The instance as it was at its end.
    pub instance: Instance,
    /// The task that ended worst.
    pub task_id: String,
    /// How.
    pub condition: Condition,
    /// What Mesos said.
    pub message: String,
    /// When.
    pub at: Timestamp,
}

impl Failure {
    /// Of an instance all of whose tasks have ended.
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
