//! How a task is, in the words of Mesos (`TASK_RUNNING`) and of every Marathon (`Running`).
//!
//! Invariant: a word that is not known here never reads as an end. What lives is deleted for no
//! newer version's word.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

/// How a task is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
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
pub enum Life {
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
const WORDS: [(Condition, &str, &str); 18] = [
    (Condition::Staging, "Staging", "TASK_STAGING"),
    (Condition::Starting, "Starting", "TASK_STARTING"),
    (Condition::Running, "Running", "TASK_RUNNING"),
    (Condition::Killing, "Killing", "TASK_KILLING"),
    (Condition::Unreachable, "Unreachable", "TASK_UNREACHABLE"),
    (Condition::Finished, "Finished", "TASK_FINISHED"),
    (Condition::Killed, "Killed", "TASK_KILLED"),
    (Condition::Failed, "Failed", "TASK_FAILED"),
    (Condition::Error, "Error", "TASK_ERROR"),
    (Condition::Gone, "Gone", "TASK_GONE"),
    (Condition::Dropped, "Dropped", "TASK_DROPPED"),
    (Condition::Lost, "Lost", "TASK_LOST"),
    (Condition::Unknown, "Unknown", "TASK_UNKNOWN"),
    (Condition::Scheduled, "Scheduled", "TASK_STAGING"),
    (Condition::Provisioned, "Provisioned", "TASK_STAGING"),
    (Condition::Reserved, "Reserved", "TASK_STAGING"),
    (Condition::Created, "Created", "TASK_STAGING"),
    (
        Condition::UnreachableInactive,
        "UnreachableInactive",
        "TASK_UNREACHABLE",
    ),
];

impl Condition {
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
    pub fn life(self) -> Life {
        match self {
            Self::Reserved | Self::Scheduled => Life::Waiting,
            Self::Created
            | Self::Provisioned
            | Self::Staging
            | Self::Starting
            | Self::Running
            | Self::Killing => Life::Alive,
            // Marathon counts its own Unknown among the ends, Mesos means what it says.
            Self::Unreachable
            | Self::UnreachableInactive
            | Self::Lost
            | Self::Unknown
            | Self::Unrecognised => Life::Uncertain,
            Self::Finished
            | Self::Killed
            | Self::Failed
            | Self::Error
            | Self::Gone
            | Self::Dropped => Life::Ended,
        }
    }

    /// Whether the task never comes back.
    #[must_use]
    pub fn is_ended(self) -> bool {
        self.life() == Life::Ended
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = WORDS
            .iter()
            .find(|(condition, ..)| condition == self)
            .map_or("Unrecognised", |(_, marathon, _)| marathon);
        f.write_str(word)
    }
}

impl<'de> Deserialize<'de> for Condition {
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
            ("TASK_RUNNING", Condition::Running),
            ("Running", Condition::Running),
            ("running", Condition::Running),
            ("TASK_STAGING", Condition::Staging),
            ("Created", Condition::Created),
            ("Reserved", Condition::Reserved),
            ("Scheduled", Condition::Scheduled),
            ("Provisioned", Condition::Provisioned),
            ("UnreachableInactive", Condition::UnreachableInactive),
            ("TASK_UNREACHABLE", Condition::Unreachable),
            ("TASK_GONE_BY_OPERATOR", Condition::Gone),
            ("TASK_GONE", Condition::Gone),
            ("TASK_LOST", Condition::Lost),
        ] {
            assert_eq!(Condition::from_word(word), condition, "{word}");
        }
        for (condition, marathon, _) in WORDS {
            assert_eq!(Condition::from_word(marathon), condition);
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
            assert_eq!(Condition::from_word(word).life(), Life::Uncertain, "{word}");
        }
        let null: Condition = serde_json::from_str("null").unwrap();
        assert_eq!(null, Condition::Unrecognised);
        assert!(Condition::Gone.is_ended() && !Condition::Killing.is_ended());
        assert_eq!(Condition::Scheduled.life(), Life::Waiting);
        assert_eq!(Condition::Provisioned.life(), Life::Alive);
    }
}
