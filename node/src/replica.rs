//! The cluster's state that the items of a watch lead to.
//!
//! Invariants: only complete states are published: a snapshot replaces the state once its last item
//! has arrived. The revision never decreases, whichever manager sends the items. The state of an
//! earlier run is not resumed: an earlier version of the daemon may have left out what it did not
//! know, so the first stream begins with a snapshot.

use std::sync::Arc;

use contrail_mesos_api::cluster::{Revision, WatchItem};

use crate::cluster_state::ClusterState;

/// More than a cluster has. It bounds what a broken manager can make the daemon keep.
const MAX_OBJECTS: usize = 100_000;

/// Items that cannot be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReplicaError {
    /// The manager is behind another one that this node has heard before.
    #[error(
        "the manager sent revision {sent}, but this node knows {known} already; if the managers lost \
         their state for good, stop the daemon, remove node/cluster.json from its state directory, \
         and start it"
    )]
    Older {
        /// What it sent.
        sent: Revision,
        /// What is known.
        known: Revision,
    },
    /// A stream began with changes, without a snapshot that they belong to.
    #[error("the manager sent changes without a snapshot")]
    NoSnapshot,
    /// More objects than a cluster has.
    #[error("the manager sent more than {MAX_OBJECTS} objects")]
    TooManyObjects,
}

/// What the current stream has sent.
#[derive(Debug)]
enum Phase {
    /// Nothing yet, or changes since the revision from which it resumes.
    Opened,
    /// A part of a snapshot.
    Snapshot(ClusterState),
    /// The stream is in step.
    Synced,
}

/// The state, and the current stream's place in it.
#[derive(Debug)]
pub(crate) struct Replica {
    node: String,
    state: Option<Arc<ClusterState>>,
    /// Whether a stream of this run has sent the state.
    is_resumable: bool,
    phase: Phase,
}

impl Replica {
    /// A replica that begins with the state of an earlier run.
    pub(crate) fn new(node: &str, state: Option<Arc<ClusterState>>) -> Self {
        Self {
            node: node.to_owned(),
            state,
            is_resumable: false,
            phase: Phase::Opened,
        }
    }

    /// Begins a stream. Returns the revision from which it may resume; none if it must begin with a
    /// snapshot.
    pub(crate) fn begin(&mut self) -> Option<Revision> {
        self.phase = Phase::Opened;
        self.revision().filter(|_| self.is_resumable)
    }

    /// The complete state; none before the first.
    pub(crate) fn state(&self) -> Option<&Arc<ClusterState>> {
        self.state.as_ref()
    }

    /// Whether the current stream is in step.
    pub(crate) fn is_synced(&self) -> bool {
        matches!(self.phase, Phase::Synced)
    }

    fn revision(&self) -> Option<Revision> {
        self.state.as_ref().map(|state| state.revision)
    }

    /// Follows one item. Returns whether the complete state has changed. After an error the stream
    /// cannot be followed further.
    pub(crate) fn apply(&mut self, item: WatchItem) -> Result<bool, ReplicaError> {
        match item {
            WatchItem::Snapshot { revision } => {
                self.check(revision)?;
                self.phase = Phase::Snapshot(ClusterState::empty(&self.node, revision));
                Ok(false)
            }
            WatchItem::Put { revision, object } => self.change(revision, |state| state.put(object)),
            WatchItem::Delete { revision, key } => {
                self.change(revision, |state| state.delete(&key))
            }
            WatchItem::Synced { revision } => self.finish(revision),
            WatchItem::Heartbeat { revision } => {
                self.check(revision)?;
                Ok(false)
            }
            WatchItem::Unknown => Ok(false),
        }
    }

    fn check(&self, sent: Revision) -> Result<(), ReplicaError> {
        match self.revision() {
            Some(known) if sent < known => Err(ReplicaError::Older { sent, known }),
            _ => Ok(()),
        }
    }

    fn change(
        &mut self,
        revision: Revision,
        change: impl FnOnce(&mut ClusterState),
    ) -> Result<bool, ReplicaError> {
        if let Phase::Snapshot(state) = &mut self.phase {
            change(state);
            check_size(state)?;
            return Ok(false);
        }
        self.check(revision)?;
        let state = Arc::make_mut(self.resumed()?);
        change(state);
        state.revision = revision;
        check_size(state)?;
        Ok(true)
    }

    /// The state that the stream goes on from.
    fn resumed(&mut self) -> Result<&mut Arc<ClusterState>, ReplicaError> {
        let state = self.state.as_mut().filter(|_| self.is_resumable);
        state.ok_or(ReplicaError::NoSnapshot)
    }

    fn finish(&mut self, revision: Revision) -> Result<bool, ReplicaError> {
        self.check(revision)?;
        let has_changed = match std::mem::replace(&mut self.phase, Phase::Opened) {
            Phase::Snapshot(mut state) => {
                let (sent, known) = (revision, state.revision);
                if sent < known {
                    return Err(ReplicaError::Older { sent, known });
                }
                state.revision = revision;
                let has_changed = self.state.as_deref() != Some(&state);
                self.state = Some(Arc::new(state));
                self.is_resumable = true;
                has_changed
            }
            Phase::Opened | Phase::Synced => {
                let state = self.resumed()?;
                let has_changed = state.revision != revision;
                if has_changed {
                    Arc::make_mut(state).revision = revision;
                }
                has_changed
            }
        };
        self.phase = Phase::Synced;
        Ok(has_changed)
    }
}

fn check_size(state: &ClusterState) -> Result<(), ReplicaError> {
    if state.nodes.len() + state.overlays.len() > MAX_OBJECTS {
        return Err(ReplicaError::TooManyObjects);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use contrail_mesos_api::cluster::{Object, ObjectKey};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{overlay, revision};

    fn snapshot(text: &str) -> WatchItem {
        let revision = revision(text);
        WatchItem::Snapshot { revision }
    }

    fn synced(text: &str) -> WatchItem {
        let revision = revision(text);
        WatchItem::Synced { revision }
    }

    fn put(text: &str, name: &str) -> WatchItem {
        WatchItem::Put {
            revision: revision(text),
            object: Object::Overlay(overlay(name)),
        }
    }

    fn delete(text: &str, name: &str) -> WatchItem {
        WatchItem::Delete {
            revision: revision(text),
            key: ObjectKey::Overlay {
                name: name.to_owned(),
            },
        }
    }

    fn names(replica: &Replica) -> Vec<&str> {
        let state = replica.state().unwrap();
        state.overlays.keys().map(String::as_str).collect()
    }

    fn follow(replica: &mut Replica, items: Vec<WatchItem>) -> Vec<bool> {
        let apply = |item| replica.apply(item).unwrap();
        items.into_iter().map(apply).collect()
    }

    #[test]
    fn snapshot_replaces_the_state_when_it_is_complete() {
        let mut replica = Replica::new("node-1", None);
        assert_eq!(replica.begin(), None);
        let items = vec![snapshot("1.5"), put("1.5", "a"), put("1.5", "b")];
        assert_eq!(follow(&mut replica, items), [false; 3]);
        assert_eq!(replica.state(), None);
        assert_eq!(follow(&mut replica, vec![synced("1.5")]), [true]);
        assert_eq!(names(&replica), ["a", "b"]);
        // The next stream lacks b: it is gone, but only once the snapshot is complete.
        assert_eq!(replica.begin(), Some(revision("1.5")));
        follow(&mut replica, vec![snapshot("2.1"), put("2.1", "a")]);
        assert_eq!(names(&replica), ["a", "b"]);
        assert_eq!(follow(&mut replica, vec![synced("2.1")]), [true]);
        assert_eq!(names(&replica), ["a"]);
        assert_eq!(replica.state().unwrap().revision, revision("2.1"));
    }

    #[test]
    fn interrupted_snapshot_changes_nothing() {
        let mut replica = Replica::new("node-1", None);
        follow(
            &mut replica,
            vec![snapshot("1.5"), put("1.5", "a"), synced("1.5")],
        );
        follow(&mut replica, vec![snapshot("1.6"), put("1.6", "b")]);
        replica.begin();
        assert!(!replica.is_synced());
        assert_eq!(names(&replica), ["a"]);
    }

    #[test]
    fn resumed_stream_goes_on_from_the_known_revision() {
        for items in [
            vec![synced("3.4"), put("3.5", "b"), delete("3.6", "a")],
            vec![put("3.5", "b"), delete("3.6", "a"), synced("3.6")],
        ] {
            let mut replica = Replica::new("node-1", None);
            let first = vec![snapshot("3.4"), put("3.4", "a"), synced("3.4")];
            follow(&mut replica, first);
            assert_eq!(replica.begin(), Some(revision("3.4")));
            follow(&mut replica, items);
            assert!(replica.is_synced());
            assert_eq!(names(&replica), ["b"]);
            assert_eq!(replica.state().unwrap().revision, revision("3.6"));
        }
    }

    #[test]
    fn state_of_an_earlier_run_is_replaced_by_a_snapshot() {
        let mut known = ClusterState::empty("node-1", revision("3.4"));
        known.put(Object::Overlay(overlay("a")));
        let known = Arc::new(known);
        let mut replica = Replica::new("node-1", Some(known.clone()));
        assert_eq!(replica.begin(), None);
        for item in [put("3.5", "b"), synced("3.4")] {
            let error = replica.apply(item).unwrap_err();
            assert_eq!(error, ReplicaError::NoSnapshot);
            assert_eq!(
                (replica.state(), replica.is_synced()),
                (Some(&known), false)
            );
            replica.begin();
        }
        let items = vec![
            snapshot("3.4"),
            put("3.4", "a"),
            put("3.4", "b"),
            synced("3.4"),
        ];
        assert_eq!(follow(&mut replica, items), [false, false, false, true]);
        assert_eq!(names(&replica), ["a", "b"]);
        assert_eq!(replica.begin(), Some(revision("3.4")));
    }

    #[test]
    fn lower_revisions_are_refused() {
        let known = Arc::new(ClusterState::empty("node-1", revision("3.4")));
        let heartbeat = WatchItem::Heartbeat {
            revision: revision("3.3"),
        };
        for item in [
            snapshot("2.9"),
            snapshot("3.3"),
            synced("3.3"),
            put("3.3", "a"),
            delete("2.100", "a"),
            heartbeat,
        ] {
            let mut replica = Replica::new("node-1", Some(known.clone()));
            let error = replica.apply(item.clone()).unwrap_err();
            assert!(matches!(error, ReplicaError::Older { .. }), "{item:?}");
            assert_eq!(replica.state(), Some(&known), "{item:?}");
        }
    }

    #[test]
    fn changes_without_a_state_are_refused() {
        for item in [put("1.1", "a"), delete("1.1", "a"), synced("1.1")] {
            let mut replica = Replica::new("node-1", None);
            assert_eq!(replica.apply(item), Err(ReplicaError::NoSnapshot));
        }
    }

    proptest! {
        /// However a stream is cut and resumed, the client ends with what the manager has.
        #[test]
        fn resumed_streams_lead_to_the_managers_state(
            changes in proptest::collection::vec((any::<bool>(), 0_u8..4), 1..30),
            cuts in proptest::collection::vec(0_usize..30, 0..5),
        ) {
            let mut manager = ClusterState::empty("node-1", revision("1.0"));
            let items: Vec<_> = changes
                .iter()
                .enumerate()
                .map(|(index, (is_put, name))| {
                    let text = format!("1.{}", index + 1);
                    let name = format!("o{name}");
                    if *is_put { put(&text, &name) } else { delete(&text, &name) }
                })
                .collect();
            let mut replica = Replica::new("node-1", None);
            replica.begin();
            follow(&mut replica, vec![snapshot("1.0"), synced("1.0")]);
            for (index, item) in items.iter().enumerate() {
                match item {
                    WatchItem::Put { object, .. } => manager.put(object.clone()),
                    WatchItem::Delete { key, .. } => manager.delete(key),
                    _ => unreachable!(),
                }
                if cuts.contains(&index) {
                    let since = replica.begin().unwrap();
                    follow(&mut replica, vec![synced(&since.to_string())]);
                }
                follow(&mut replica, vec![item.clone()]);
            }
            manager.revision = replica.state().unwrap().revision;
            prop_assert_eq!(replica.state().unwrap().as_ref(), &manager);
        }
    }
}
