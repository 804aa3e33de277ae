//! Each container's recent history: who created, updated or deleted it, when, and what failed.
//!
//! Invariants: the number of containers and of entries per container is bounded; the container
//! whose last entry is oldest is evicted first. Entries of deleted containers stay until then. The
//! history is for operators only and is lost when the manager ends: no decision depends on it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use uuid::Uuid;

/// How many entries a container may have.
const MAX_ENTRIES: usize = 16;
/// How many containers may have a history.
const MAX_CONTAINERS: usize = 20_000;
/// The length limit of a container's id and of an entry's details, in bytes.
const MAX_TEXT_BYTES: usize = 512;

/// Who caused an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "actor", content = "name", rename_all = "kebab-case")]
pub(super) enum Actor {
    /// The agent of that name.
    Agent(Box<str>),
    /// A CNI plugin of Contrail's own manager.
    Plugin,
    /// This manager's reconciliation.
    Reconciler,
    /// This manager, after the container could not be created.
    Rollback,
}

/// What was done to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Action {
    /// Its ports were created, completed, or found complete.
    Created,
    /// Its objects were brought to their desired state.
    Updated,
    /// All its objects were deleted.
    Deleted,
    /// The action failed.
    Failed,
}

/// An outcome, or several equal ones in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct Entry {
    /// When it occurred first.
    #[serde(serialize_with = "serialize_timestamp")]
    #[schemars(with = "String")]
    pub first: SystemTime,
    /// When it occurred last.
    #[serde(serialize_with = "serialize_timestamp")]
    #[schemars(with = "String")]
    pub at: SystemTime,
    /// How long the last one took.
    #[serde(rename = "seconds", serialize_with = "serialize_seconds")]
    #[schemars(with = "f64")]
    pub took: Duration,
    /// How often it occurred in a row.
    pub times: u32,
    #[serde(flatten)]
    pub actor: Actor,
    pub action: Action,
    pub details: Box<str>,
}

/// An RFC 3339 timestamp in UTC, with milliseconds.
pub(super) fn timestamp(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map_or_else(|_| String::new(), |at| format!("{at:.3}"))
}

pub(super) fn serialize_timestamp<S: Serializer>(
    at: &SystemTime,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&timestamp(*at))
}

fn serialize_seconds<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(took.as_secs_f64())
}

/// A container whose last entry is a failure.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub uuid: Uuid,
    /// Its framework's id and the id of its task or executor, where they are known.
    pub executor: Option<(Box<str>, Box<str>)>,
    pub entry: Entry,
}

#[derive(Debug, Default)]
struct Record {
    /// The container's id as Mesos prints it, where it is known.
    container: Option<Box<str>>,
    /// Its framework's id and the id of its task or executor, where the agent sends them.
    executor: Option<(Box<str>, Box<str>)>,
    entries: VecDeque<Entry>,
    /// The sequence number of the last entry.
    sequence: u64,
}

#[derive(Debug, Default)]
struct Records {
    by_uuid: HashMap<Uuid, Record>,
    /// The containers in the order of their last entries.
    by_sequence: BTreeMap<u64, Uuid>,
    last_sequence: u64,
}

/// The histories of all containers, by the uuid of their virtual-machine.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<Records>);

impl History {
    fn lock(&self) -> MutexGuard<'_, Records> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an entry at the current time.
    pub(super) fn record(
        &self,
        uuid: Uuid,
        container: Option<&str>,
        actor: Actor,
        took: Duration,
        (action, details): (Action, &str),
    ) {
        let now = SystemTime::now();
        let details = clip(details);
        let mut records = self.lock();
        let Records {
            by_uuid,
            by_sequence,
            last_sequence,
        } = &mut *records;
        let record = by_uuid.entry(uuid).or_default();
        by_sequence.remove(&record.sequence);
        *last_sequence += 1;
        record.sequence = *last_sequence;
        by_sequence.insert(*last_sequence, uuid);
        if let Some(container) = container {
            record.container.get_or_insert_with(|| clip(container));
        }
        match record.entries.back_mut() {
            Some(last)
                if last.actor == actor && last.action == action && last.details == details =>
            {
                last.at = now;
                last.took = took;
                last.times = last.times.saturating_add(1);
            }
            _ => {
                if record.entries.len() >= MAX_ENTRIES {
                    record.entries.pop_front();
                }
                record.entries.push_back(Entry {
                    first: now,
                    at: now,
                    took,
                    times: 1,
                    actor,
                    action,
                    details,
                });
            }
        }
        while by_uuid.len() > MAX_CONTAINERS {
            let Some((_, oldest)) = by_sequence.pop_first() else {
                break;
            };
            by_uuid.remove(&oldest);
        }
    }

    /// A container's id and its entries, oldest first.
    pub(super) fn get(&self, uuid: Uuid) -> Option<(Option<Box<str>>, Vec<Entry>)> {
        let records = self.lock();
        let record = records.by_uuid.get(&uuid)?;
        let entries = record.entries.iter().cloned().collect();
        Some((record.container.clone(), entries))
    }

    /// Notes the id of a container's framework and that of its task or executor.
    pub(super) fn set_executor(&self, uuid: Uuid, framework: &str, executor: &str) {
        if let Some(record) = self.lock().by_uuid.get_mut(&uuid) {
            let clipped = || (clip(framework), clip(executor));
            record.executor.get_or_insert_with(clipped);
        }
    }

    /// The containers whose last entry is a failure since then, the latest first, at most `limit`.
    pub(super) fn failing(&self, since: SystemTime, limit: usize) -> Vec<Failure> {
        let records = self.lock();
        records
            .by_sequence
            .values()
            .rev()
            .filter_map(|uuid| {
                let record = records.by_uuid.get(uuid)?;
                Some((*uuid, record, record.entries.back()?))
            })
            .take_while(|(_, _, last)| last.at >= since)
            .filter(|(_, _, last)| last.action == Action::Failed)
            .take(limit)
            .map(|(uuid, record, last)| Failure {
                uuid,
                executor: record.executor.clone(),
                entry: last.clone(),
            })
            .collect()
    }

    /// How many containers have a history.
    pub(super) fn len(&self) -> usize {
        self.lock().by_uuid.len()
    }
}

/// Bounds names and error messages, which others write.
fn clip(text: &str) -> Box<str> {
    match text.floor_char_boundary(MAX_TEXT_BYTES) {
        end if end < text.len() => format!("{}…", &text[..end]).into(),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(history: &History, uuid: u128, action: Action, details: &str) {
        let uuid = Uuid::from_u128(uuid);
        let actor = Actor::Agent("node1".into());
        history.record(uuid, Some("c"), actor, Duration::ZERO, (action, details));
    }

    #[test]
    fn equal_entries_are_counted_and_old_ones_are_evicted() {
        let history = History::default();
        for _ in 0..3 {
            record(&history, 1, Action::Failed, "refused");
        }
        record(&history, 1, Action::Created, "eth0");
        let (container, entries) = history.get(Uuid::from_u128(1)).unwrap();
        assert_eq!(container.as_deref(), Some("c"));
        let outcomes: Vec<_> = entries
            .iter()
            .map(|entry| (entry.action, entry.times))
            .collect();
        assert_eq!(outcomes, [(Action::Failed, 3), (Action::Created, 1)]);
        for number in 0..100 {
            record(&history, 1, Action::Updated, &number.to_string());
        }
        let (_, entries) = history.get(Uuid::from_u128(1)).unwrap();
        assert_eq!(entries.len(), MAX_ENTRIES);
        assert_eq!(&*entries[0].details, "84");
    }

    #[test]
    fn container_with_the_oldest_entry_is_evicted() {
        let history = History::default();
        for uuid in 0..MAX_CONTAINERS as u128 {
            record(&history, uuid, Action::Created, "");
        }
        record(&history, 0, Action::Deleted, "");
        record(&history, u128::MAX, Action::Created, "");
        assert_eq!(history.len(), MAX_CONTAINERS);
        assert!(history.get(Uuid::from_u128(0)).is_some());
        assert!(history.get(Uuid::from_u128(1)).is_none());
        assert!(history.get(Uuid::from_u128(2)).is_some());
    }

    #[test]
    fn failing_lists_the_latest_failures_up_to_the_limit() {
        let history = History::default();
        let start = SystemTime::now();
        for uuid in 0..10 {
            record(&history, uuid, Action::Failed, "full");
        }
        record(&history, 9, Action::Created, "");
        history.set_executor(Uuid::from_u128(8), "F", "web.1");
        let failing = history.failing(start, 4);
        assert_eq!(failing[0].executor, Some(("F".into(), "web.1".into())));
        let failing: Vec<_> = failing
            .iter()
            .map(|failure| failure.uuid.as_u128())
            .collect();
        assert_eq!(failing, [8, 7, 6, 5]);
        let later = SystemTime::now() + Duration::from_secs(1);
        assert!(history.failing(later, 4).is_empty());
    }

    #[test]
    fn details_are_clipped_at_a_character_boundary() {
        let history = History::default();
        record(&history, 1, Action::Failed, &"ä".repeat(MAX_TEXT_BYTES));
        let (_, entries) = history.get(Uuid::from_u128(1)).unwrap();
        assert_eq!(entries[0].details.len(), MAX_TEXT_BYTES + '…'.len_utf8());
        let json = serde_json::to_value(&entries[0]).unwrap();
        assert_eq!(
            (&json["actor"], &json["name"]),
            (&"agent".into(), &"node1".into())
        );
        assert!(
            json["at"].as_str().is_some_and(|at| at.ends_with('Z')),
            "{json}"
        );
    }
}
