//! What would be written now, what only waits for its time, and what is in doubt.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::time::Instant;
use uuid::Uuid;

use super::Reconciler;
use crate::desired::{self, Difference, Fate, Known};
use crate::stores::contrail::Machine;

/// What is to become of a container, or of something that belongs to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outlook {
    /// Its uuid: that of its virtual-machine.
    pub uuid: Uuid,
    /// Its host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// What it is called: its task, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// When something is written.
    #[serde(flatten)]
    pub when: When,
    /// What is.
    #[serde(serialize_with = "texts")]
    pub differences: Vec<Difference>,
    /// What is wrong with its labels, which are passed over.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

fn texts<S: Serializer>(differences: &[Difference], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(differences.iter().map(ToString::to_string))
}

/// When something is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "when", rename_all = "snake_case")]
pub enum When {
    /// At once.
    Now,
    /// Once it has been so for long enough, and nothing has it by then.
    Later {
        /// In how many seconds at the latest.
        #[serde(rename = "seconds", serialize_with = "seconds")]
        after: Duration,
    },
    /// Not on what is known now, however long it is so.
    InDoubt {
        /// Why.
        because: String,
    },
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_secs())
}

impl fmt::Display for Outlook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let differences: Vec<_> = self.differences.iter().map(ToString::to_string).collect();
        let differences = differences.join(", ");
        write!(formatter, "{}", self.uuid)?;
        if let Some(task) = &self.task {
            write!(formatter, " {}", task.escape_debug())?;
        }
        if let Some(agent) = &self.agent {
            write!(formatter, " at {}", agent.escape_debug())?;
        }
        match &self.when {
            When::Now if differences.is_empty() => formatter.write_str(": nothing to write")?,
            When::Now => write!(formatter, ": {differences}")?,
            When::Later { after } => write!(
                formatter,
                ": in doubt until it has been so for {after:?}; then {differences}"
            )?,
            When::InDoubt { because } => write!(formatter, ": in doubt, because {because}")?,
        }
        if !self.problems.is_empty() {
            let problems = self.problems.join("; ");
            write!(
                formatter,
                " (labels passed over: {})",
                problems.escape_debug()
            )?;
        }
        Ok(())
    }
}

impl Reconciler {
    /// What would be written on what is known now, and when, in the order of the uuids. What is
    /// as it is to be is not in it.
    #[must_use]
    pub fn outlook(&self) -> Vec<Outlook> {
        let mut outlook = self.known(|known| {
            let machines = known.contrail.machines.iter();
            let machines = machines.filter_map(|(uuid, machine)| {
                of_machine(known, *uuid, machine, self.containers.put_at(*uuid))
            });
            let young = known.policy.young;
            let orphans = known.contrail.orphans.iter().map(|(orphan, since)| {
                let age = known.now.saturating_duration_since(*since);
                Outlook {
                    uuid: orphan.uuid(),
                    agent: None,
                    task: None,
                    when: match young.saturating_sub(age) {
                        Duration::ZERO => When::Now,
                        after => When::Later { after },
                    },
                    differences: vec![Difference::Orphan(orphan.to_string())],
                    problems: vec![],
                }
            });
            machines.chain(orphans).collect::<Vec<_>>()
        });
        outlook.sort_by_key(|one| one.uuid);
        outlook
    }
}

fn of_machine(
    known: &Known<'_>,
    uuid: Uuid,
    machine: &Machine,
    put: Option<Instant>,
) -> Option<Outlook> {
    let fate_in = |after| {
        let then = Known {
            now: known.now + after,
            ..*known
        };
        desired::fate(&then, uuid, machine, put)
    };
    let mut task = machine.names.task.as_deref().map(str::to_owned);
    let (when, differences, problems) = match fate_in(Duration::ZERO) {
        Fate::Keep(keep) => {
            task = keep.names.task.as_deref().map(str::to_owned);
            let differences = desired::differences(&keep, machine);
            (When::Now, differences, keep.problems)
        }
        Fate::Remove(reason) => (When::Now, vec![Difference::Remove(reason)], vec![]),
        Fate::Unknown(doubt) => {
            let policy = known.policy;
            let mut times = [policy.settle, policy.young, policy.agent_gone];
            times.sort_unstable();
            let removed = times.into_iter().find_map(|after| match fate_in(after) {
                Fate::Remove(reason) => Some((after, reason)),
                _ => None,
            });
            if let Some((after, reason)) = removed {
                let when = When::Later { after };
                (when, vec![Difference::Remove(reason)], vec![])
            } else {
                // What is in doubt for good, and not only because it is young.
                let last = fate_in(times.into_iter().max().unwrap_or_default());
                let doubt = match last {
                    Fate::Unknown(doubt) => doubt,
                    _ => doubt,
                };
                let because = doubt.to_string();
                (When::InDoubt { because }, vec![], vec![])
            }
        }
    };
    let nothing = when == When::Now && differences.is_empty() && problems.is_empty();
    (!nothing).then(|| Outlook {
        uuid,
        agent: Some(machine.agent.to_string()),
        task,
        when,
        differences,
        problems,
    })
}
