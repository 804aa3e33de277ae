//! The content of the nodes.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The prefix of candidates' nodes.
pub(super) const PREFIX: &str = "manager-";

/// The content of a candidate's node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Candidate {
    pub id: Uuid,
    pub url: String,
}

/// The content of the node `term`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub term: u64,
    pub id: Uuid,
    pub url: String,
    /// How long the leader may write after a renewal.
    pub lease_ms: u64,
    /// Whether the leader has released its lease.
    pub released: bool,
}

impl Record {
    /// The record before the first term. It is not released: the node of a leader may have been
    /// deleted.
    pub(super) fn none(lease_ms: u64) -> Self {
        Self {
            term: 0,
            id: Uuid::nil(),
            url: String::new(),
            lease_ms,
            released: false,
        }
    }

    pub(super) fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }
}

/// The candidate that leads next. Numbers are negative once the counter has wrapped around.
pub(super) fn first(children: &[String]) -> Option<&str> {
    children
        .iter()
        .filter_map(|child| {
            let number: i64 = child.strip_prefix(PREFIX)?.parse().ok()?;
            Some((number, child.as_str()))
        })
        .min()
        .map(|(_, child)| child)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidate_with_the_lowest_number_is_first() {
        let children = |names: &[&str]| -> Vec<String> {
            names.iter().map(|name| (*name).to_owned()).collect()
        };
        let found = children(&["x", "manager-0000000010", "manager-0000000009", "manager-y"]);
        assert_eq!(first(&found), Some("manager-0000000009"));
        assert_eq!(first(&children(&["x"])), None);
    }

    #[test]
    fn record_of_a_newer_version_is_read() {
        let text = r#"{"term":7,"id":"660a305f-10e4-47fd-a5fc-000000000001","url":"http://m:6992",
            "lease_ms":5000,"released":false,"more":[1]}"#;
        let record: Record = serde_json::from_str(text).unwrap();
        assert_eq!((record.term, record.lease()), (7, Duration::from_secs(5)));
        assert!(serde_json::from_str::<Record>("{}").is_err());
    }
}
