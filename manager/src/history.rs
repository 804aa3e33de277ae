//! What happened to each container: who asked, what was made, changed or removed, what failed and
//! why, and when.
//!
//! Bounded: so many entries a container, and so many containers; whoever was left alone longest is
//! forgotten first. What is removed stays known until then. It is for people, and dies with the
//! manager: nothing is decided on it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use uuid::Uuid;

/// The most entries of a container.
const ENTRIES: usize = 16;
/// The most containers.
const CONTAINERS: usize = 20_000;
/// The longest text of an entry, in bytes.
const LONGEST: usize = 512;

/// Who asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "who", content = "name", rename_all = "kebab-case")]
pub(super) enum Who {
    /// An agent, by its name.
    Agent(Box<str>),
    /// A CNI plugin of Contrail's own manager.
    Plugin,
    /// This manager, to keep what is in the VNC API true.
    Reconciler,
    /// This manager, because the container could not be made.
    Undo,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum What {
    /// Its ports were made, completed, or found made.
    Made,
    /// It was given what it is to have now.
    Changed,
    /// Everything of it was removed.
    Removed,
    /// Nothing was done, because something failed.
    Failed,
}

/// One outcome, or several in a row that are the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Entry {
    /// When it first ended so.
    #[serde(serialize_with = "date")]
    pub first: SystemTime,
    /// When it last did.
    #[serde(serialize_with = "date")]
    pub at: SystemTime,
    /// How long the last one took.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub took: Duration,
    /// How often in a row.
    pub times: u32,
    #[serde(flatten)]
    pub who: Who,
    pub what: What,
    pub details: Box<str>,
}

/// A date as JSON and people read it.
pub(super) fn text_of(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map_or_else(|_| String::new(), |at| format!("{at:.3}"))
}

fn date<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text_of(*at))
}

fn seconds<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(took.as_secs_f64())
}

#[derive(Debug, Default)]
struct Record {
    /// As Mesos prints it, where somebody said it.
    container: Option<Box<str>>,
    entries: VecDeque<Entry>,
    /// Its place among those that were touched.
    touched: u64,
}

#[derive(Debug, Default)]
struct Inner {
    records: HashMap<Uuid, Record>,
    /// Which was touched when.
    touches: BTreeMap<u64, Uuid>,
    next: u64,
}

/// The histories.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<Inner>);

impl History {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what happened just now.
    pub(super) fn note(
        &self,
        machine: Uuid,
        container: Option<&str>,
        who: Who,
        took: Duration,
        (what, details): (What, &str),
    ) {
        let now = SystemTime::now();
        let details = clip(details);
        let mut inner = self.lock();
        let Inner {
            records,
            touches,
            next,
        } = &mut *inner;
        let record = records.entry(machine).or_default();
        touches.remove(&record.touched);
        *next += 1;
        record.touched = *next;
        touches.insert(*next, machine);
        if let Some(container) = container {
            record.container.get_or_insert_with(|| clip(container));
        }
        match record.entries.back_mut() {
            Some(last) if last.who == who && last.what == what && last.details == details => {
                last.at = now;
                last.took = took;
                last.times = last.times.saturating_add(1);
            }
            _ => {
                if record.entries.len() >= ENTRIES {
                    record.entries.pop_front();
                }
                record.entries.push_back(Entry {
                    first: now,
                    at: now,
                    took,
                    times: 1,
                    who,
                    what,
                    details,
                });
            }
        }
        while records.len() > CONTAINERS {
            let Some((_, oldest)) = touches.pop_first() else {
                break;
            };
            records.remove(&oldest);
        }
    }

    /// What is known of a container: its id, and what happened, oldest first.
    pub(super) fn of(&self, machine: Uuid) -> Option<(Option<Box<str>>, Vec<Entry>)> {
        let inner = self.lock();
        let record = inner.records.get(&machine)?;
        let entries = record.entries.iter().cloned().collect();
        Some((record.container.clone(), entries))
    }

    /// The containers of which the last outcome is a failure since then, the latest first, and how
    /// many more there are than `limit`.
    pub(super) fn failing(&self, since: SystemTime, limit: usize) -> (Vec<(Uuid, Entry)>, usize) {
        let inner = self.lock();
        let latest = inner.touches.values().rev();
        let last = latest.filter_map(|machine| {
            let last = inner.records.get(machine)?.entries.back()?;
            Some((*machine, last))
        });
        let recent = last.take_while(|(_, last)| last.at >= since);
        let failed = recent.filter(|(_, last)| last.what == What::Failed);
        let mut failing = vec![];
        let mut more = 0;
        for (machine, last) in failed {
            if failing.len() < limit {
                failing.push((machine, last.clone()));
            } else {
                more += 1;
            }
        }
        (failing, more)
    }

    /// How many containers are known.
    pub(super) fn len(&self) -> usize {
        self.lock().records.len()
    }
}

/// Names and errors may be as long as whoever wrote them likes.
fn clip(text: &str) -> Box<str> {
    match text.floor_char_boundary(LONGEST) {
        end if end < text.len() => format!("{}…", &text[..end]).into(),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(history: &History, machine: u128, what: What, details: &str) {
        let machine = Uuid::from_u128(machine);
        let who = Who::Agent("node1".into());
        history.note(machine, Some("c"), who, Duration::ZERO, (what, details));
    }

    #[test]
    fn what_is_the_same_is_counted_and_what_is_old_goes() {
        let history = History::default();
        for _ in 0..3 {
            note(&history, 1, What::Failed, "refused");
        }
        note(&history, 1, What::Made, "eth0");
        let (container, entries) = history.of(Uuid::from_u128(1)).unwrap();
        assert_eq!(container.as_deref(), Some("c"));
        let said: Vec<_> = entries.iter().map(|one| (one.what, one.times)).collect();
        assert_eq!(said, [(What::Failed, 3), (What::Made, 1)]);
        for number in 0..100 {
            note(&history, 1, What::Changed, &number.to_string());
        }
        let (_, entries) = history.of(Uuid::from_u128(1)).unwrap();
        assert_eq!(entries.len(), ENTRIES);
        assert_eq!(&*entries[0].details, "84");
    }

    #[test]
    fn whoever_was_left_alone_longest_is_forgotten() {
        let history = History::default();
        for machine in 0..CONTAINERS as u128 {
            note(&history, machine, What::Made, "");
        }
        note(&history, 0, What::Removed, "");
        note(&history, u128::MAX, What::Made, "");
        assert_eq!(history.len(), CONTAINERS);
        assert!(history.of(Uuid::from_u128(0)).is_some());
        assert!(history.of(Uuid::from_u128(1)).is_none());
        assert!(history.of(Uuid::from_u128(2)).is_some());
    }

    #[test]
    fn those_that_fail_now_are_known_and_bounded() {
        let history = History::default();
        let start = SystemTime::now();
        for machine in 0..10 {
            note(&history, machine, What::Failed, "full");
        }
        note(&history, 9, What::Made, "");
        let (failing, more) = history.failing(start, 4);
        let failing: Vec<_> = failing.iter().map(|(uuid, _)| uuid.as_u128()).collect();
        assert_eq!((failing, more), (vec![8, 7, 6, 5], 5));
        let later = SystemTime::now() + Duration::from_secs(1);
        assert_eq!(history.failing(later, 4).0, []);
    }

    #[test]
    fn a_text_is_clipped_between_letters() {
        let history = History::default();
        note(&history, 1, What::Failed, &"ä".repeat(LONGEST));
        let (_, entries) = history.of(Uuid::from_u128(1)).unwrap();
        assert_eq!(entries[0].details.len(), LONGEST + '…'.len_utf8());
        let json = serde_json::to_value(&entries[0]).unwrap();
        assert_eq!(
            (&json["who"], &json["name"]),
            (&"agent".into(), &"node1".into())
        );
        assert!(
            json["at"].as_str().is_some_and(|at| at.ends_with('Z')),
            "{json}"
        );
    }
}
