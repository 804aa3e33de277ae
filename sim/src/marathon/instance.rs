//! Instances and their tasks, as Marathon tracks them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::health::Health;
use super::id::InstanceId;
use super::model::run_spec::RunSpec;
use crate::harness::clock::Timestamp;

/// The condition of a task or an instance, in the terms of Marathon 1.8 and later.
///
/// The order is Marathon's: the condition of a pod's instance is the lowest of its tasks'
/// conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "named as in Marathon")]
pub enum Condition {
    Error,
    Failed,
    Gone,
    Dropped,
    Unreachable,
    Killing,
    Starting,
    Staging,
    Unknown,
    Provisioned,
    Running,
    Finished,
    Killed,
    Scheduled,
}

impl Condition {
    /// The condition of a Mesos `TaskState`.
    #[must_use]
    pub fn from_mesos(state: &str) -> Self {
        match state {
            "TASK_STAGING" => Self::Staging,
            "TASK_STARTING" => Self::Starting,
            "TASK_RUNNING" => Self::Running,
            "TASK_KILLING" => Self::Killing,
            "TASK_FINISHED" => Self::Finished,
            "TASK_FAILED" => Self::Failed,
            "TASK_KILLED" => Self::Killed,
            "TASK_ERROR" => Self::Error,
            "TASK_UNREACHABLE" => Self::Unreachable,
            "TASK_DROPPED" => Self::Dropped,
            "TASK_LOST" | "TASK_GONE" | "TASK_GONE_BY_OPERATOR" => Self::Gone,
            _ => Self::Unknown,
        }
    }

    /// The `TaskState` that the API shows for this condition.
    #[must_use]
    pub fn mesos_state(self) -> &'static str {
        match self {
            Self::Scheduled | Self::Provisioned | Self::Staging => "TASK_STAGING",
            Self::Starting => "TASK_STARTING",
            Self::Running => "TASK_RUNNING",
            Self::Killing => "TASK_KILLING",
            Self::Finished => "TASK_FINISHED",
            Self::Failed => "TASK_FAILED",
            Self::Killed => "TASK_KILLED",
            Self::Error => "TASK_ERROR",
            Self::Unreachable => "TASK_UNREACHABLE",
            Self::Dropped => "TASK_DROPPED",
            Self::Gone => "TASK_GONE",
            Self::Unknown => "TASK_UNKNOWN",
        }
    }

    /// Whether this is a final condition.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Error
            | Self::Failed
            | Self::Gone
            | Self::Dropped
            | Self::Unknown
            | Self::Finished
            | Self::Killed => true,
            Self::Unreachable
            | Self::Killing
            | Self::Starting
            | Self::Staging
            | Self::Provisioned
            | Self::Running
            | Self::Scheduled => false,
        }
    }

    /// Whether the next launch is delayed after an instance ended with this condition.
    #[must_use]
    pub fn delays_launch(self) -> bool {
        self.is_terminal() && self != Self::Killed
    }
}

/// The goal of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// It should run, and is launched again when it ends.
    Running,
    /// It is killed and removed.
    Decommissioned,
}

/// The agent of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named and documented by Marathon's API")]
pub struct Agent {
    pub id: String,
    pub host: String,
    pub region: Option<String>,
    pub zone: Option<String>,
    pub attributes: BTreeMap<String, String>,
}

impl Agent {
    /// The value of a field of constraints.
    #[must_use]
    pub fn value(&self, field: &str) -> Option<&str> {
        match field {
            "hostname" | "@hostname" => Some(&self.host),
            "@region" => self.region.as_deref(),
            "@zone" => self.zone.as_deref(),
            attribute => self.attributes.get(attribute).map(String::as_str),
        }
    }
}

/// An address of a task, as Mesos reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The network of the address, if Mesos named it.
    pub network: Option<String>,
    /// The address.
    pub address: String,
    /// `IPv4` or `IPv6`.
    pub protocol: String,
}

/// One task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// The name of the pod's container.
    pub container: Option<String>,
    /// Its condition.
    pub condition: Condition,
    /// When it was sent to Mesos.
    pub staged_at: Timestamp,
    /// When it was first reported as running.
    pub started_at: Option<Timestamp>,
    /// When `condition` last changed.
    pub since: Timestamp,
    /// When Mesos last reported on it.
    pub updated: Timestamp,
    /// Its ports on the host, in the order of its mappings, definitions or endpoints.
    pub host_ports: Vec<Option<u16>>,
    /// Its addresses, in the order in which Mesos reported them.
    pub addresses: Vec<Address>,
    /// The message of its last status.
    pub message: Option<String>,
    /// What its health checks have found, by the number of the check.
    pub health: BTreeMap<usize, Health>,
    /// When Marathon makes its checks next.
    pub probes: BTreeMap<usize, Timestamp>,
}

/// One instance of a run spec.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its id, the same for all incarnations.
    pub id: InstanceId,
    /// The run spec at the time when the instance was created.
    pub run_spec: Arc<RunSpec>,
    /// The version of `run_spec`.
    pub version: Timestamp,
    /// The goal.
    pub goal: Goal,
    /// The number of launches.
    pub incarnation: u32,
    /// The agent; none while it waits for an offer.
    pub agent: Option<Agent>,
    /// Its tasks; none while it waits for an offer.
    pub tasks: Vec<Task>,
    /// When its condition last changed.
    pub since: Timestamp,
    /// Whether a client requested to kill it, although it should run again.
    pub kill_wanted: bool,
    /// When Mesos was last asked to kill its tasks.
    pub killed_at: Option<Timestamp>,
    /// The sequence number of its creation.
    pub age: u64,
}

impl Instance {
    /// Its condition.
    #[must_use]
    pub fn condition(&self) -> Condition {
        let conditions = self.tasks.iter().map(|task| task.condition);
        conditions.min().unwrap_or(Condition::Scheduled)
    }

    /// Whether all checks of its tasks have succeeded, or one has failed; none if there are no checks,
    /// or not all have had a result.
    #[must_use]
    pub fn is_healthy(&self) -> Option<bool> {
        let expected = |task: &Task| self.run_spec.health_checks(task.container.as_deref());
        let all: Vec<&Health> = self
            .tasks
            .iter()
            .flat_map(|task| task.health.values())
            .collect();
        if all
            .iter()
            .any(|health| health.is_known() && !health.is_alive())
        {
            return Some(false);
        }
        let count: usize = self.tasks.iter().map(expected).sum();
        (count > 0 && all.len() == count).then_some(true)
    }

    /// Whether it has no health check, or all have succeeded.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let expected = |task: &Task| self.run_spec.health_checks(task.container.as_deref());
        self.is_healthy() == Some(true) || self.tasks.iter().all(|task| expected(task) == 0)
    }

    /// Whether it waits for an offer.
    #[must_use]
    pub fn is_scheduled(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Whether it was launched and all its tasks have ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        !self.tasks.is_empty() && self.tasks.iter().all(|task| task.condition.is_terminal())
    }
}
