//! What the nodes hold.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How candidates' nodes are named, before their number.
pub(super) const PREFIX: &str = "manager-";

/// What a candidate's node holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Candidate {
    pub id: Uuid,
    pub url: String,
}

/// What the node `term` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub term: u64,
    pub id: Uuid,
    pub url: String,
    /// How long after a renewal the leader may write.
    pub lease_ms: u64,
    /// Whether the leader has given it up.
    pub released: bool,
}

impl Record {
    /// Before the first term. Not released: somebody may have removed the node of a leader.
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

/// The candidate that is next. Numbers may be negative once the counter has wrapped around.
pub(super) fn first(children: &[String]) -> Option<&str> {
    let numbered = children.iter().filter_map(|child| {
        let number: i64 = child.strip_prefix(PREFIX)?.parse().ok()?;
        Some((number, child.as_str()))
    });
    numbered.min().map(|(_, child)| child)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_number_is_next() {
        let children = |names: &[&str]| -> Vec<String> {
            names.iter().map(|name| (*name).to_owned()).collect()
        };
        let found = children(&["x", "manager-0000000010", "manager-0000000009", "manager-y"]);
        assert_eq!(first(&found), Some("manager-0000000009"));
        assert_eq!(first(&children(&["x"])), None);
    }

    #[test]
    fn a_record_of_a_later_version_is_read_as_well() {
        let text = r#"{"term":7,"id":"660a305f-10e4-47fd-a5fc-000000000001","url":"http://m:6992",
            "lease_ms":5000,"released":false,"more":[1]}"#;
        let record: Record = serde_json::from_str(text).unwrap();
        assert_eq!((record.term, record.lease()), (7, Duration::from_secs(5)));
        assert!(serde_json::from_str::<Record>("{}").is_err());
    }
}
