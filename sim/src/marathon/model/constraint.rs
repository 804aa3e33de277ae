//! Constraints: on which agents instances may run. Only some operators have an effect.

use serde::{Deserialize, Serialize};

use super::definition::Violations;

/// The operators of Marathon.
const OPERATORS: [&str; 7] = [
    "UNIQUE", "CLUSTER", "GROUP_BY", "LIKE", "UNLIKE", "MAX_PER", "IS",
];

/// `constraints[]` of an app: field, operator and, for most operators, a value.
pub type Constraint = Vec<String>;

/// `constraints[]` of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "named and documented by Marathon's API")]
pub struct PodConstraint {
    pub field_name: String,
    pub operator: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

impl PodConstraint {
    /// In the form of an app's.
    #[must_use]
    pub fn to_constraint(&self) -> Constraint {
        let words = [&self.field_name, &self.operator].into_iter();
        words.chain(&self.value).cloned().collect()
    }
}

/// Checks the form of a constraint.
pub(super) fn validate(constraint: &Constraint, path: &str, violations: &mut Violations) {
    violations.check(
        matches!(constraint.len(), 2 | 3),
        path,
        "Each constraint must have either 2 or 3 fields",
    );
    let operator = constraint.get(1).map_or("", String::as_str);
    violations.check(
        OPERATORS.contains(&operator),
        path,
        "operator must be one of the following UNIQUE, CLUSTER, GROUP_BY, LIKE, MAX_PER, UNLIKE \
         or IS",
    );
}

/// Whether an instance may go to an agent. `offered` is the agent's value of the constraint's field,
/// `used` are those of the agents with other instances of the same app or pod. `GROUP_BY`, `LIKE`
/// and `UNLIKE` admit all agents.
#[must_use]
pub fn admits(constraint: &Constraint, offered: Option<&str>, used: &[Option<&str>]) -> bool {
    let value = constraint.get(2).map(String::as_str);
    let same = used.iter().filter(|used| **used == offered).count();
    match constraint.get(1).map_or("", String::as_str) {
        "CLUSTER" => {
            offered.is_some()
                && value.is_none_or(|value| value.is_empty() || offered == Some(value))
                && same == used.len()
        }
        "UNIQUE" => offered.is_some() && same == 0,
        "IS" => offered.is_some() && offered == value,
        "MAX_PER" => {
            let max = value.and_then(|value| value.parse::<usize>().ok());
            offered.is_some() && max.is_some_and(|max| same < max)
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Constraint {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn operators_admit_agents_as_those_of_marathon() {
        let (a, b) = (Some("a"), Some("b"));
        for (constraint, offered, used, is_admitted) in [
            ("hostname CLUSTER b", b, &[][..], true),
            ("hostname CLUSTER b", a, &[], false),
            ("hostname CLUSTER", a, &[], true),
            ("hostname CLUSTER", a, &[a], true),
            ("hostname CLUSTER", a, &[b], false),
            ("rack CLUSTER", None, &[], false),
            ("hostname UNIQUE", a, &[b], true),
            ("hostname UNIQUE", a, &[a, b], false),
            ("hostname IS a", a, &[a], true),
            ("hostname IS a", b, &[], false),
            ("hostname MAX_PER 2", a, &[a, b], true),
            ("hostname MAX_PER 2", a, &[a, a], false),
            ("hostname GROUP_BY", a, &[a], true),
        ] {
            let found = admits(&words(constraint), offered, used);
            assert_eq!(found, is_admitted, "{constraint} {offered:?} {used:?}");
        }
    }

    #[test]
    fn malformed_constraints_are_refused() {
        for (constraint, is_good) in [
            ("hostname UNIQUE", true),
            ("hostname LIKE rack-.*", true),
            ("hostname", false),
            ("hostname NEAR x", false),
            ("hostname CLUSTER a b", false),
        ] {
            let mut violations = Violations::default();
            validate(&words(constraint), "/constraints(0)", &mut violations);
            assert_eq!(violations.into_result().is_ok(), is_good, "{constraint}");
        }
    }
}
