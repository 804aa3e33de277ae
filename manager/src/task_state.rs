//! How a task is, in the words of Mesos (`TASK_RUNNING`) and of every Marathon (`Running`).
//!
//! Invariant: a word that is not known here never reads as an end. What lives is deleted for no
//! newer version's word.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// How a task is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskState {
    /// Marathon 1.7: resources are reserved, nothing is launched.
    Reserved,
    /// Marathon ≥ 1.8: waits for an offer.
    Scheduled,
    /// Marathon 1.7: Mesos was asked to launch it.
    Created,
    /// Marathon ≥ 1.8: Mesos was asked to launch it.
    Provisioned,
    /// The agent has it.
    Staging,
    /// The executor has it.
    Starting,
    /// It runs.
    Running,
    /// It was told to end.
    Killing,
    /// Its agent does not answer.
    Unreachable,
    /// Its agent has not answered for so long that Marathon replaces it.
    UnreachableInactive,
    /// It ended by itself, well.
    Finished,
    /// It was ended.
    Killed,
    /// It ended by itself, not well.
    Failed,
    /// Its description is wrong.
    Error,
    /// Its agent is gone for good.
    Gone,
    /// It was never launched.
    Dropped,
    /// Mesos lost sight of it; frameworks that are not partition aware are told so.
    Lost,
    /// Nobody knows, says Mesos or Marathon.
    Unknown,
    /// A word from a newer version, or none.
    #[default]
    Unrecognised,
}

/// What a condition means for what was made for the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Liveness {
    /// Nothing has been launched yet.
    Waiting,
    /// It lives, or may at any moment.
    Alive,
    /// Nobody can say; it may come back.
    Uncertain,
    /// It never comes back.
    Ended,
}

/// Every condition with Marathon's word and that of Mesos. Where two share a word of Mesos, the
/// first that has it is meant.
const WORDS: [(TaskState, &str, &str); 18] = [
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
    /// From a word of Mesos or of Marathon, in any case.
    #[must_use]
    pub fn from_word(word: &str) -> Self {
        if word.eq_ignore_ascii_case("TASK_GONE_BY_OPERATOR") {
            return Self::Gone;
        }
        WORDS
            .iter()
            .find(|(_, marathon, mesos)| {
                word.eq_ignore_ascii_case(marathon) || word.eq_ignore_ascii_case(mesos)
            })
            .map_or(Self::Unrecognised, |(condition, ..)| *condition)
    }

    /// What it means for what was made for the task.
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
            // Marathon counts its own Unknown among the ends, Mesos means what it says.
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

    /// Whether the task never comes back.
    #[must_use]
    pub fn is_ended(self) -> bool {
        self.liveness() == Liveness::Ended
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = WORDS
            .iter()
            .find(|(condition, ..)| condition == self)
            .map_or("Unrecognised", |(_, marathon, _)| marathon);
        f.write_str(word)
    }
}

impl<'de> Deserialize<'de> for TaskState {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = Option::<String>::deserialize(deserializer)?;
        Ok(word.map_or_else(Self::default, |word| Self::from_word(&word)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_vocabularies_are_read() {
        for (word, condition) in [
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
            assert_eq!(TaskState::from_word(word), condition, "{word}");
        }
        for (condition, marathon, _) in WORDS {
            assert_eq!(TaskState::from_word(marathon), condition);
            assert_eq!(condition.to_string(), marathon);
        }
    }

    #[test]
    fn only_known_words_are_an_end() {
        for word in [
            "TASK_HIBERNATING",
            "",
            "Unknown",
            "TASK_UNKNOWN",
            "TASK_LOST",
        ] {
            assert_eq!(
                TaskState::from_word(word).liveness(),
                Liveness::Uncertain,
                "{word}"
            );
        }
        let null: TaskState = serde_json::from_str("null").unwrap();
        assert_eq!(null, TaskState::Unrecognised);
        assert!(TaskState::Gone.is_ended() && !TaskState::Killing.is_ended());
        assert_eq!(TaskState::Scheduled.liveness(), Liveness::Waiting);
        assert_eq!(TaskState::Provisioned.liveness(), Liveness::Alive);
    }
}
