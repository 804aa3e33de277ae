//! Deployments: changes of run specs that are in progress.

use uuid::Uuid;

use super::id::PathId;
use crate::harness::clock::Timestamp;

/// A step of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in Marathon")]
pub enum Action {
    Start,
    Scale,
    Restart,
    Stop,
}

/// A change in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// Its id.
    pub id: Uuid,
    /// The run spec that it changes.
    pub run_spec: PathId,
    /// Whether the run spec is a pod.
    pub pod: bool,
    /// Its steps, in order.
    pub steps: Vec<Action>,
    /// The version of the run spec that it deploys.
    pub version: Timestamp,
}
