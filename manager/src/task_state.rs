//! Task states of Mesos (`TASK_RUNNING`) and of all versions of Marathon (`Running`).
//!
//! Invariant: an unknown state is never terminal, so a state of a newer version never deletes a
//! running task.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

/// The state of a task.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum TaskState {
    /// Marathon 1.7: resources are reserved, the task is not launched.
    Reserved,
    /// Marathon ≥ 1.8: the task waits for an offer.
    Scheduled,
    /// Marathon 1.7: the launch was requested from Mesos.
    Created,
    /// Marathon ≥ 1.8: the launch was requested from Mesos.
    Provisioned,
    /// The agent received the task.
    Staging,
    /// The executor received the task.
    Starting,
    /// The task runs.
    Running,
    /// The kill was requested.
    Killing,
    /// Its agent is unreachable.
    Unreachable,
    /// Its agent has been unreachable for so long that Marathon replaces the task.
    UnreachableInactive,
    /// The task exited successfully.
    Finished,
    /// The task was killed.
    Killed,
    /// The task failed.
    Failed,
    /// The task's definition is invalid.
    Error,
    /// Its agent was removed permanently.
    Gone,
    /// The task was never launched.
    Dropped,
    /// Mesos lost contact; sent to frameworks that are not partition aware.
    Lost,
    /// Mesos or Marathon does not know the state.
    Unknown,
    /// Missing, or a state of a newer version.
    #[default]
    Unrecognised,
}

/// What a state means for the resources of the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Liveness {
    /// Not launched yet.
    Waiting,
    /// Running, or may run at any moment.
    Alive,
    /// Unknown; the task may come back.
    Uncertain,
    /// Terminal.
    Ended,
}

/// Every state with its names in Marathon and in Mesos. If several states share a Mesos name, the
/// first one is used.
const STATE_NAMES: [(TaskState, &str, &str); 18] = [
    (TaskState::Staging, "Staging", "TASK_STAGING"),
    (TaskState::Starting, "Starting", "TASK_STARTING"),
    (TaskState::Running, "Running", "TASK_RUNNING"),
    (TaskState::Killing, "Killing", "TASK_KILLING"),
    (TaskState::Unreachable, "Unreachable", "TASK_UNREACHABLE"),
    (TaskState::Finished, "Finished", "TASK_FINISHED"),
    (TaskState::Killed, "Killed", "TASK_KILLED"),
    (TaskState::Failed, "Failed", "TASK_FAILED"),
    (TaskState::Error, "Error", "TASK_ERROR"),
    (TaskState::Gone, "Gone", "TASK_GONE"),
    (TaskState::Dropped, "Dropped", "TASK_DROPPED"),
    (TaskState::Lost, "Lost", "TASK_LOST"),
    (TaskState::Unknown, "Unknown", "TASK_UNKNOWN"),
    (TaskState::Scheduled, "Scheduled", "TASK_STAGING"),
    (TaskState::Provisioned, "Provisioned", "TASK_STAGING"),
    (TaskState::Reserved, "Reserved", "TASK_STAGING"),
    (TaskState::Created, "Created", "TASK_STAGING"),
    (
        TaskState::UnreachableInactive,
        "UnreachableInactive",
        "TASK_UNREACHABLE",
    ),
];

impl TaskState {
    /// Parses a name of Mesos or Marathon, ignoring case.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        if name.eq_ignore_ascii_case("TASK_GONE_BY_OPERATOR") {
            return Self::Gone;
        }
        STATE_NAMES
            .iter()
            .find(|(_, marathon, mesos)| {
                name.eq_ignore_ascii_case(marathon) || name.eq_ignore_ascii_case(mesos)
            })
            .map_or(Self::Unrecognised, |(state, ..)| *state)
    }

    /// What the state means for the resources of the task.
    #[must_use]
    pub fn liveness(self) -> Liveness {
        match self {
            Self::Reserved | Self::Scheduled => Liveness::Waiting,
            Self::Created
            | Self::Provisioned
            | Self::Staging
            | Self::Starting
            | Self::Running
            | Self::Killing => Liveness::Alive,
            // Unknown is terminal in Marathon, but not in Mesos.
            Self::Unreachable
            | Self::UnreachableInactive
            | Self::Lost
            | Self::Unknown
            | Self::Unrecognised => Liveness::Uncertain,
            Self::Finished
            | Self::Killed
            | Self::Failed
            | Self::Error
            | Self::Gone
            | Self::Dropped => Liveness::Ended,
        }
    }

    /// Whether the state is terminal.
    #[must_use]
    pub fn is_ended(self) -> bool {
        self.liveness() == Liveness::Ended
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = STATE_NAMES
            .iter()
            .find(|(state, ..)| state == self)
            .map_or("Unrecognised", |(_, marathon, _)| marathon);
        f.write_str(name)
    }
}

impl<'de> Deserialize<'de> for TaskState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Option::<String>::deserialize(deserializer)?;
        Ok(name.map_or_else(Self::default, |name| Self::from_name(&name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_parses_mesos_and_marathon_names() {
        for (name, state) in [
            ("TASK_RUNNING", TaskState::Running),
            ("Running", TaskState::Running),
            ("running", TaskState::Running),
            ("TASK_STAGING", TaskState::Staging),
            ("Created", TaskState::Created),
            ("Reserved", TaskState::Reserved),
            ("Scheduled", TaskState::Scheduled),
            ("Provisioned", TaskState::Provisioned),
            ("UnreachableInactive", TaskState::UnreachableInactive),
            ("TASK_UNREACHABLE", TaskState::Unreachable),
            ("TASK_GONE_BY_OPERATOR", TaskState::Gone),
            ("TASK_GONE", TaskState::Gone),
            ("TASK_LOST", TaskState::Lost),
        ] {
            assert_eq!(TaskState::from_name(name), state, "{name}");
        }
        for (state, marathon, _) in STATE_NAMES {
            assert_eq!(TaskState::from_name(marathon), state);
            assert_eq!(state.to_string(), marathon);
        }
    }

    #[test]
    fn unknown_states_are_not_terminal() {
        for name in [
            "TASK_HIBERNATING",
            "",
            "Unknown",
            "TASK_UNKNOWN",
            "TASK_LOST",
        ] {
            assert_eq!(
                TaskState::from_name(name).liveness(),
                Liveness::Uncertain,
                "{name}"
            );
        }
        let null: TaskState = serde_json::from_str("null").unwrap();
        assert_eq!(null, TaskState::Unrecognised);
        assert!(TaskState::Gone.is_ended() && !TaskState::Killing.is_ended());
        assert_eq!(TaskState::Scheduled.liveness(), Liveness::Waiting);
        assert_eq!(TaskState::Provisioned.liveness(), Liveness::Alive);
    }
}
