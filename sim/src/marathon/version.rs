//! Releases of Marathon, and where they differ.

use std::str::FromStr;

use super::instance::Condition;

/// A release line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Version {
    V1_7,
    V1_8,
    V1_9,
    V1_10,
    #[default]
    V1_11,
}

/// An unknown release line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of 1.7, 1.8, 1.9, 1.10 and 1.11")]
pub struct UnknownVersion(String);

impl FromStr for Version {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "1.7" => Ok(Self::V1_7),
            "1.8" => Ok(Self::V1_8),
            "1.9" => Ok(Self::V1_9),
            "1.10" => Ok(Self::V1_10),
            "1.11" => Ok(Self::V1_11),
            other => Err(UnknownVersion(other.to_owned())),
        }
    }
}

impl Version {
    /// As in `/v2/info`.
    #[must_use]
    pub fn release(self) -> &'static str {
        match self {
            Self::V1_7 => "1.7.216",
            Self::V1_8 => "1.8.222",
            Self::V1_9 => "1.9.109",
            Self::V1_10 => "1.10.17",
            Self::V1_11 => "1.11.24",
        }
    }

    /// Whether instances exist from the moment they are desired, have a goal, and keep their id
    /// when they are launched again. Before, an instance exists from its launch to its end.
    #[must_use]
    pub fn schedules_instances(self) -> bool {
        self >= Self::V1_8
    }

    /// Whether a slow consumer loses its stream. Before, it loses events.
    #[must_use]
    pub fn closes_slow_streams(self) -> bool {
        self >= Self::V1_8
    }

    /// Whether run specs have roles.
    #[must_use]
    pub fn has_roles(self) -> bool {
        self >= Self::V1_9
    }

    /// The name of a condition.
    #[must_use]
    pub fn condition_name(self, condition: Condition) -> &'static str {
        match condition {
            Condition::Scheduled if self < Self::V1_8 => "Reserved",
            Condition::Provisioned if self < Self::V1_8 => "Created",
            Condition::Scheduled => "Scheduled",
            Condition::Provisioned => "Provisioned",
            Condition::Error => "Error",
            Condition::Failed => "Failed",
            Condition::Gone => "Gone",
            Condition::Dropped => "Dropped",
            Condition::Unreachable => "Unreachable",
            Condition::Killing => "Killing",
            Condition::Starting => "Starting",
            Condition::Staging => "Staging",
            Condition::Unknown => "Unknown",
            Condition::Running => "Running",
            Condition::Finished => "Finished",
            Condition::Killed => "Killed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_differ_as_the_real_ones_do() {
        let old: Version = "1.7".parse().unwrap();
        let new: Version = "1.8".parse().unwrap();
        assert_eq!(old.condition_name(Condition::Provisioned), "Created");
        assert_eq!(new.condition_name(Condition::Provisioned), "Provisioned");
        assert_eq!(new.condition_name(Condition::Scheduled), "Scheduled");
        assert!(!old.closes_slow_streams() && new.closes_slow_streams());
        assert!(!new.has_roles() && Version::default().has_roles());
        assert_eq!(Version::default().release(), "1.11.24");
        assert!("1.6".parse::<Version>().is_err());
    }
}
