//! Deployments: changes of run specs that are in progress.

use uuid::Uuid;

use super::id::PathId;
use crate::harness::clock::Timestamp;

/// What a step does with the run spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "Marathon's own words")]
pub enum Action {
    Start,
    Scale,
    Restart,
    Stop,
}

/// A change that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Its id.
    pub id: Uuid,
    /// What it changes.
    pub run_spec: PathId,
    /// Whether that is a pod.
    pub pod: bool,
    /// How, one after another.
    pub steps: Vec<Action>,
    /// The version that it leads to.
    pub version: Timestamp,
}
