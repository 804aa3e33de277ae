//! Plans: the decision on a container and what it would write. Everything that decides goes
//! through [`plan`]: a resync, the queue, the dry run and what is shown.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::time::Instant;
use uuid::Uuid;

use crate::desired::{self, Decision, DeferReason, Snapshot};
use crate::diff::{self, Actual, Change};
use crate::model::{CachedVm, Orphan};

/// The decision on a container, and what it would write now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub decision: Decision,
    pub changes: Vec<Change>,
}

impl Plan {
    /// Whether the container is in its desired state, and there is nothing to report about it.
    pub(super) fn is_settled(&self) -> bool {
        self.changes.is_empty()
            && matches!(&self.decision, Decision::Keep(desired) if desired.invalid_labels.is_empty())
    }
}

/// Plans for a container that an agent last requested at `last_requested`.
pub(super) fn plan(
    snapshot: &Snapshot<'_>,
    uuid: Uuid,
    vm: &CachedVm,
    last_requested: Option<Instant>,
) -> Plan {
    let decision = desired::decide(snapshot, uuid, vm, last_requested);
    let changes = match &decision {
        Decision::Keep(desired) => diff::diff(Actual::cached(vm), desired),
        Decision::Delete(reason) => vec![Change::Delete(*reason)],
        Decision::Defer(_) => vec![],
    };
    Plan { decision, changes }
}

/// What would be written for a container or an orphan, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedChange {
    /// The uuid of its virtual-machine, or of the orphan.
    pub uuid: Uuid,
    /// Its host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Its task, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// When it is written.
    #[serde(flatten)]
    pub schedule: Schedule,
    /// What is written.
    #[serde(serialize_with = "strings")]
    pub differences: Vec<Change>,
    /// Why labels are ignored.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub invalid_labels: Vec<String>,
}

fn strings<S: Serializer>(changes: &[Change], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(changes.iter().map(ToString::to_string))
}

/// When a change is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "schedule", rename_all = "kebab-case")]
pub enum Schedule {
    /// At once.
    Now,
    /// After a waiting time, if nothing uses the container by then.
    After {
        /// At most this long.
        #[serde(rename = "seconds", serialize_with = "seconds")]
        delay: Duration,
    },
    /// Not unless something else changes.
    Deferred {
        /// The code of the reason.
        reason: &'static str,
        /// The reason.
        message: String,
    },
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_secs())
}

impl PlannedChange {
    /// The change of a container; `None` where it is in its desired state.
    pub(super) fn of_container(
        snapshot: &Snapshot<'_>,
        uuid: Uuid,
        vm: &CachedVm,
        last_requested: Option<Instant>,
    ) -> Option<Self> {
        let mut planned = Self {
            uuid,
            agent: Some(vm.agent.to_string()),
            task: vm.identity.task.as_deref().map(str::to_owned),
            schedule: Schedule::Now,
            differences: vec![],
            invalid_labels: vec![],
        };
        let Plan { decision, changes } = plan(snapshot, uuid, vm, last_requested);
        planned.differences = changes;
        match decision {
            Decision::Keep(desired) => {
                if let Some(names) = desired.names {
                    planned.task = names.identity.task.as_deref().map(str::to_owned);
                }
                planned.invalid_labels = desired.invalid_labels;
                if planned.differences.is_empty() && planned.invalid_labels.is_empty() {
                    return None;
                }
            }
            Decision::Delete(_) => {}
            Decision::Defer(reason) => {
                let later = |delay| {
                    let then = Snapshot {
                        now: snapshot.now + delay,
                        ..*snapshot
                    };
                    plan(&then, uuid, vm, last_requested)
                };
                planned.defer(snapshot, reason, later);
            }
        }
        Some(planned)
    }

    /// Sets when the container would be deleted: after the shortest waiting time that is enough.
    fn defer(
        &mut self,
        snapshot: &Snapshot<'_>,
        reason: DeferReason,
        plan_after: impl Fn(Duration) -> Plan,
    ) {
        let policy = snapshot.policy;
        let mut delays = [
            policy.stabilization_window,
            policy.grace_period,
            policy.agent_gone_after,
        ];
        delays.sort_unstable();
        // What defers it after the longest time is the lasting reason.
        let mut lasting_reason = reason;
        for delay in delays {
            let Plan { decision, changes } = plan_after(delay);
            match decision {
                Decision::Delete(_) => {
                    self.schedule = Schedule::After { delay };
                    self.differences = changes;
                    return;
                }
                Decision::Defer(reason) => lasting_reason = reason,
                Decision::Keep(_) => {}
            }
        }
        self.schedule = Schedule::Deferred {
            reason: lasting_reason.code(),
            message: lasting_reason.to_string(),
        };
    }

    /// The deletion of an orphan that was first seen at `since`.
    pub(super) fn of_orphan(snapshot: &Snapshot<'_>, orphan: Orphan, since: Instant) -> Self {
        let age = snapshot.now.saturating_duration_since(since);
        Self {
            uuid: orphan.uuid(),
            agent: None,
            task: None,
            schedule: match snapshot.policy.grace_period.saturating_sub(age) {
                Duration::ZERO => Schedule::Now,
                delay => Schedule::After { delay },
            },
            differences: vec![Change::DeleteOrphan(orphan.to_string())],
            invalid_labels: vec![],
        }
    }

    /// Whether it is due and writes something.
    pub(super) fn is_due(&self) -> bool {
        self.schedule == Schedule::Now && !self.differences.is_empty()
    }
}

/// The changes as a log line or a message lists them.
pub(super) fn list(changes: &[Change]) -> String {
    let changes: Vec<_> = changes.iter().map(ToString::to_string).collect();
    changes.join(", ")
}

impl fmt::Display for PlannedChange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let changes = list(&self.differences);
        write!(formatter, "{}", self.uuid)?;
        if let Some(task) = &self.task {
            write!(formatter, " {}", task.escape_debug())?;
        }
        if let Some(agent) = &self.agent {
            write!(formatter, " at {}", agent.escape_debug())?;
        }
        match &self.schedule {
            Schedule::Now if changes.is_empty() => formatter.write_str(": nothing to write")?,
            Schedule::Now => write!(formatter, ": {changes}")?,
            Schedule::After { delay } => {
                write!(formatter, ": in at most {delay:?}, if unused: {changes}")?;
            }
            Schedule::Deferred { message, .. } => write!(formatter, ": deferred: {message}")?,
        }
        if !self.invalid_labels.is_empty() {
            let problems = self.invalid_labels.join("; ");
            write!(formatter, " (labels ignored: {})", problems.escape_debug())?;
        }
        Ok(())
    }
}
