//! The cluster's state that the items of a watch lead to.
//!
//! Invariants: only complete states are published: a snapshot replaces the state once its last item
//! has arrived. The revision never decreases, whichever manager sends the items. The state of an
//! earlier run is not resumed: an earlier version of the daemon may have left out what it did not
//! know, so the first stream begins with a snapshot. A manager may send one that it encoded before, and
//! the changes after it: such a state is published once it has reached what is known.
//!
//! A manager that has just begun to lead publishes the endpoints of a node once the node has reported
//! them. Until then a client keeps what it knows of them: at the end of a snapshot without
//! [`Object::EndpointsComplete`] of a node that is still there, its known endpoints stay, and those that
//! nobody has put since are removed once it comes. The same holds for services and names of tasks, until
//! [`Object::ServicesComplete`]: they are gone at once only if the managers publish no services any more,
//! that is, without [`Object::ServiceSettings`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use contrail_mesos_api::cluster::{Object, ObjectKey, Revision, ServiceKey, TaskName, WatchItem};

use crate::cluster_state::ClusterState;

/// More than a cluster has. All of them bound what a broken manager can make the daemon keep.
const MAX_OBJECTS: usize = 100_000;
const MAX_ENDPOINTS: usize = 1_000_000;
const MAX_SERVICES: usize = 100_000;
/// Of names and their instances together.
const MAX_TASK_NAMES: usize = 1_000_000;

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
    #[error(
        "the manager sent more than {MAX_OBJECTS} objects, {MAX_ENDPOINTS} endpoints, {MAX_SERVICES} \
         services, or {MAX_TASK_NAMES} names of tasks and their instances"
    )]
    TooManyObjects,
}

/// What the current stream has sent.
#[derive(Debug)]
enum Phase {
    /// Nothing yet, or changes since the revision from which it resumes.
    Opened,
    /// A part of a snapshot.
    Snapshot(ClusterState),
    /// A complete snapshot from before what is known, of the same term, and changes after it.
    Behind(ClusterState),
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
    /// How many endpoints the state has, or the part of a snapshot that has arrived.
    endpoints: usize,
    /// The endpoints that were known before the snapshot and were not put since, of nodes whose
    /// endpoints are not complete.
    unconfirmed: BTreeMap<String, BTreeSet<String>>,
    /// How many names of tasks and instances the state has, or the part of a snapshot that has arrived.
    task_names: usize,
    /// What was known of services before the snapshot and was not put since, until they are complete.
    unconfirmed_services: UnconfirmedServices,
}

/// The services and names of tasks that a manager has not confirmed.
#[derive(Debug, Default)]
struct UnconfirmedServices {
    services: BTreeSet<ServiceKey>,
    task_names: BTreeSet<String>,
}

/// What a name of tasks counts.
fn task_name_size(name: &TaskName) -> usize {
    1 + name.instances.len()
}

/// What the names of tasks of a state count.
fn total_task_names(state: &ClusterState) -> usize {
    let names = state.task_names.values();
    names.map(|name| task_name_size(name)).sum()
}

/// What the name of tasks that an object is about counts.
fn task_names_of(state: &ClusterState, key: &ObjectKey) -> usize {
    match key {
        ObjectKey::TaskName { name } => {
            let known = state.task_names.get(name);
            known.map_or(0, |known| task_name_size(known))
        }
        _ => 0,
    }
}

/// The node whose endpoints an object is about, or may remove.
fn node_of(key: &ObjectKey) -> Option<&str> {
    match key {
        ObjectKey::Node { name: node }
        | ObjectKey::Endpoint { node, .. }
        | ObjectKey::EndpointsComplete { node } => Some(node),
        _ => None,
    }
}

impl Replica {
    /// A replica that begins with the state of an earlier run.
    pub(crate) fn new(node: &str, state: Option<Arc<ClusterState>>) -> Self {
        Self {
            node: node.to_owned(),
            state,
            is_resumable: false,
            phase: Phase::Opened,
            endpoints: 0,
            unconfirmed: BTreeMap::new(),
            task_names: 0,
            unconfirmed_services: UnconfirmedServices::default(),
        }
    }

    /// Begins a stream. Returns the revision from which it may resume; none if it must begin with a
    /// snapshot.
    pub(crate) fn begin(&mut self) -> Option<Revision> {
        self.phase = Phase::Opened;
        // A snapshot that was cut may have counted others.
        self.endpoints = self
            .state
            .as_ref()
            .map_or(0, |state| state.total_endpoints());
        self.task_names = self.state.as_deref().map_or(0, total_task_names);
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
                self.check_term(revision)?;
                self.phase = Phase::Snapshot(ClusterState::empty(&self.node, revision));
                (self.endpoints, self.task_names) = (0, 0);
                Ok(false)
            }
            WatchItem::Put { revision, object } => {
                let key = object.key();
                let completes = matches!(
                    object,
                    Object::EndpointsComplete { .. } | Object::ServicesComplete
                );
                self.change(revision, &key, completes, |state| state.put(object))
            }
            WatchItem::Delete { revision, key } => {
                self.change(revision, &key, false, |state| state.delete(&key))
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

    /// As [`Self::check`], for items that others of the same term follow.
    fn check_term(&self, sent: Revision) -> Result<(), ReplicaError> {
        match self.revision() {
            Some(known) if sent.term == known.term => Ok(()),
            _ => self.check(sent),
        }
    }

    /// Changes the object `key`. `completes`: it is the last one of the endpoints of a node, or of the
    /// services.
    fn change(
        &mut self,
        revision: Revision,
        key: &ObjectKey,
        completes: bool,
        change: impl FnOnce(&mut ClusterState),
    ) -> Result<bool, ReplicaError> {
        let node = node_of(key).unwrap_or_default();
        if let Phase::Snapshot(state) | Phase::Behind(state) = &mut self.phase {
            let before = (state.endpoint_count(node), task_names_of(state, key));
            change(state);
            self.endpoints = self.endpoints - before.0 + state.endpoint_count(node);
            self.task_names = self.task_names - before.1 + task_names_of(state, key);
            check_size(state, self.endpoints, self.task_names)?;
            return match std::mem::replace(&mut self.phase, Phase::Opened) {
                Phase::Behind(state) => self.reach(state, revision),
                phase => {
                    self.phase = phase;
                    Ok(false)
                }
            };
        }
        self.check(revision)?;
        let gone = self.confirm(key, completes);
        let (endpoints, task_names) = (self.endpoints, self.task_names);
        let state = Arc::make_mut(self.resumed()?);
        let other_endpoints = endpoints - state.endpoint_count(node);
        let mut task_names = task_names - task_names_of(state, key);
        for key in gone {
            task_names -= task_names_of(state, &key);
            state.delete(&key);
        }
        change(state);
        state.revision = revision;
        let endpoints = other_endpoints + state.endpoint_count(node);
        let task_names = task_names + task_names_of(state, key);
        let result = check_size(state, endpoints, task_names);
        (self.endpoints, self.task_names) = (endpoints, task_names);
        result.map(|()| true)
    }

    /// Notes that the manager has said something about `key`. Returns what is gone: endpoints of its node,
    /// or services and names of tasks.
    fn confirm(&mut self, key: &ObjectKey, completes: bool) -> Vec<ObjectKey> {
        let unconfirmed = &mut self.unconfirmed_services;
        match key {
            ObjectKey::Endpoint { node, id } => {
                if let Some(ids) = self.unconfirmed.get_mut(node) {
                    ids.remove(id);
                }
            }
            ObjectKey::EndpointsComplete { node } if completes => {
                let ids = self.unconfirmed.remove(node).unwrap_or_default();
                let endpoint = |id| ObjectKey::Endpoint {
                    node: node.clone(),
                    id,
                };
                return ids.into_iter().map(endpoint).collect();
            }
            ObjectKey::Service { service } => drop(unconfirmed.services.remove(service)),
            ObjectKey::TaskName { name } => drop(unconfirmed.task_names.remove(name)),
            ObjectKey::ServicesComplete if completes => return self.gone_services(),
            _ => {}
        }
        vec![]
    }

    /// The services and names of tasks that are gone once they are complete.
    fn gone_services(&mut self) -> Vec<ObjectKey> {
        let UnconfirmedServices {
            services,
            task_names,
        } = std::mem::take(&mut self.unconfirmed_services);
        let services = services.into_iter();
        let services = services.map(|service| ObjectKey::Service { service });
        let task_names = task_names.into_iter();
        services
            .chain(task_names.map(|name| ObjectKey::TaskName { name }))
            .collect()
    }

    /// The state that the stream goes on from.
    fn resumed(&mut self) -> Result<&mut Arc<ClusterState>, ReplicaError> {
        let state = self.state.as_mut().filter(|_| self.is_resumable);
        state.ok_or(ReplicaError::NoSnapshot)
    }

    fn finish(&mut self, revision: Revision) -> Result<bool, ReplicaError> {
        if let Phase::Snapshot(_) | Phase::Behind(_) = self.phase {
            self.check_term(revision)?;
        } else {
            self.check(revision)?;
        }
        match std::mem::replace(&mut self.phase, Phase::Opened) {
            Phase::Snapshot(state) | Phase::Behind(state) => self.reach(state, revision),
            Phase::Opened | Phase::Synced => {
                let state = self.resumed()?;
                let has_changed = state.revision != revision;
                if has_changed {
                    Arc::make_mut(state).revision = revision;
                }
                self.phase = Phase::Synced;
                Ok(has_changed)
            }
        }
    }

    /// Goes on with a snapshot that the items so far have brought to `revision`: it becomes the state
    /// unless a later one is known. Returns whether the state has changed.
    fn reach(&mut self, mut state: ClusterState, revision: Revision) -> Result<bool, ReplicaError> {
        let (sent, known) = (revision, state.revision);
        if sent < known {
            return Err(ReplicaError::Older { sent, known });
        }
        state.revision = revision;
        if self.revision().is_some_and(|known| revision < known) {
            self.phase = Phase::Behind(state);
            return Ok(false);
        }
        self.keep_unconfirmed(&mut state);
        let has_changed = self.state.as_deref() != Some(&state);
        self.state = Some(Arc::new(state));
        self.is_resumable = true;
        self.phase = Phase::Synced;
        Ok(has_changed)
    }

    /// Adds to a snapshot what is known of the endpoints and services that it does not have yet.
    fn keep_unconfirmed(&mut self, state: &mut ClusterState) {
        self.unconfirmed.clear();
        self.keep_unconfirmed_services(state);
        let Some(known) = &self.state else {
            return;
        };
        for (node, endpoints) in &known.endpoints {
            if !state.nodes.contains_key(node) || state.complete_endpoints.contains(node) {
                continue;
            }
            let mut ids = BTreeSet::new();
            for (id, endpoint) in endpoints.iter() {
                let sent = state.endpoints.get(node);
                if sent.is_none_or(|sent| !sent.contains_key(id)) {
                    state.put(Object::Endpoint(endpoint.clone()));
                    ids.insert(id.clone());
                }
            }
            self.unconfirmed.insert(node.clone(), ids);
        }
        self.endpoints = state.total_endpoints();
    }
}

impl Replica {
    fn keep_unconfirmed_services(&mut self, state: &mut ClusterState) {
        self.unconfirmed_services = UnconfirmedServices::default();
        // Without settings there are no services any more.
        let may_lack = state.service_settings.is_some() && !state.has_complete_services;
        if let Some(known) = self.state.as_ref().filter(|_| may_lack) {
            let unconfirmed = &mut self.unconfirmed_services;
            for (key, service) in known.services.iter() {
                if !state.services.contains_key(key) {
                    unconfirmed.services.insert(key.clone());
                    state.put(Object::Service(service.as_ref().clone()));
                }
            }
            for (name, task_name) in known.task_names.iter() {
                if !state.task_names.contains_key(name) {
                    unconfirmed.task_names.insert(name.clone());
                    state.put(Object::TaskName(task_name.as_ref().clone()));
                }
            }
        }
        self.task_names = total_task_names(state);
    }
}

fn check_size(
    state: &ClusterState,
    endpoints: usize,
    task_names: usize,
) -> Result<(), ReplicaError> {
    let objects = state.nodes.len()
        + state.overlays.len()
        + state.security_groups.len()
        + state.complete_endpoints.len();
    if objects > MAX_OBJECTS
        || endpoints > MAX_ENDPOINTS
        || state.services.len() > MAX_SERVICES
        || task_names > MAX_TASK_NAMES
    {
        return Err(ReplicaError::TooManyObjects);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use contrail_mesos_api::cluster::{
        Endpoint, Membership, Service, ServiceSettings, TaskInstance,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{node, overlay, revision};

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
    fn snapshot_from_before_is_published_once_it_has_reached_what_is_known() {
        let mut known = ClusterState::empty("node-1", revision("3.2"));
        known.put(Object::Overlay(overlay("a")));
        let mut replica = Replica::new("node-1", Some(Arc::new(known)));
        assert_eq!(replica.begin(), None);
        let items = vec![snapshot("3.0"), put("3.0", "old"), synced("3.0")];
        assert_eq!(follow(&mut replica, items), [false; 3]);
        assert!(!replica.is_synced());
        assert_eq!(follow(&mut replica, vec![delete("3.1", "old")]), [false]);
        assert_eq!(names(&replica), ["a"]);
        let items = vec![put("3.2", "a"), put("3.3", "b")];
        follow(&mut replica, items);
        assert!(replica.is_synced());
        assert_eq!(names(&replica), ["a", "b"]);
        assert_eq!(replica.begin(), Some(revision("3.3")));
        // A manager that has nothing more to send is behind.
        follow(&mut replica, vec![snapshot("3.1"), synced("3.1")]);
        let heartbeat = WatchItem::Heartbeat {
            revision: revision("3.1"),
        };
        assert!(matches!(
            replica.apply(heartbeat),
            Err(ReplicaError::Older { .. })
        ));
        assert_eq!(names(&replica), ["a", "b"]);
        // Of an earlier term, nothing is followed.
        replica.begin();
        assert!(replica.apply(snapshot("2.9")).is_err());
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

    fn endpoint(node: &str, id: &str, group: &str) -> Object {
        Object::Endpoint(Endpoint {
            node: node.to_owned(),
            id: id.to_owned(),
            addresses: vec![],
            membership: Membership {
                groups: vec![group.to_owned()],
                security_groups: vec![],
            },
        })
    }

    fn put_object(text: &str, object: Object) -> WatchItem {
        WatchItem::Put {
            revision: revision(text),
            object,
        }
    }

    fn delete_key(text: &str, key: ObjectKey) -> WatchItem {
        WatchItem::Delete {
            revision: revision(text),
            key,
        }
    }

    fn complete(node: &str) -> Object {
        Object::EndpointsComplete {
            node: node.to_owned(),
        }
    }

    fn ids(replica: &Replica, node: &str) -> Vec<String> {
        let state = replica.state().unwrap();
        let of_node = state.endpoints.get(node);
        of_node.map_or_else(Vec::new, |of_node| of_node.keys().cloned().collect())
    }

    /// A replica that knows two endpoints of each of two nodes.
    fn with_endpoints() -> Replica {
        let mut replica = Replica::new("node-1", None);
        let mut items = vec![snapshot("1.5")];
        for name in ["node-1", "node-2"] {
            let number = name.strip_prefix("node-").unwrap().parse().unwrap();
            items.push(put_object("1.5", Object::Node(node(number, "dcos"))));
            items.push(put_object("1.5", endpoint(name, "a", "x")));
            items.push(put_object("1.5", endpoint(name, "b", "x")));
            items.push(put_object("1.5", complete(name)));
        }
        items.push(synced("1.5"));
        follow(&mut replica, items);
        replica
    }

    #[test]
    fn endpoints_stay_until_the_new_leader_has_all_of_the_node() {
        let mut replica = with_endpoints();
        replica.begin();
        // node-1 has reported to the new leader, node-2 has not.
        let items = vec![
            snapshot("2.1"),
            put_object("2.1", Object::Node(node(1, "dcos"))),
            put_object("2.1", complete("node-1")),
            put_object("2.1", endpoint("node-1", "c", "x")),
            put_object("2.1", Object::Node(node(2, "dcos"))),
            synced("2.1"),
        ];
        follow(&mut replica, items);
        assert_eq!(ids(&replica, "node-1"), ["c"]);
        assert_eq!(ids(&replica, "node-2"), ["a", "b"]);
        // A part of a report, and a stream that is cut and resumed.
        follow(
            &mut replica,
            vec![put_object("2.2", endpoint("node-2", "b", "y"))],
        );
        assert_eq!(replica.begin(), Some(revision("2.2")));
        let items = vec![
            synced("2.2"),
            put_object("2.3", endpoint("node-2", "d", "y")),
        ];
        follow(&mut replica, items);
        assert_eq!(ids(&replica, "node-2"), ["a", "b", "d"]);
        follow(&mut replica, vec![put_object("2.4", complete("node-2"))]);
        assert_eq!(ids(&replica, "node-2"), ["b", "d"]);
    }

    #[test]
    fn endpoints_go_with_their_node() {
        for is_gone_from_snapshot in [true, false] {
            let mut replica = with_endpoints();
            replica.begin();
            let mut items = vec![
                snapshot("2.1"),
                put_object("2.1", Object::Node(node(1, "dcos"))),
            ];
            if !is_gone_from_snapshot {
                items.push(put_object("2.1", Object::Node(node(2, "dcos"))));
            }
            items.push(synced("2.1"));
            follow(&mut replica, items);
            if !is_gone_from_snapshot {
                assert_eq!(ids(&replica, "node-2"), ["a", "b"]);
                let name = "node-2".to_owned();
                follow(
                    &mut replica,
                    vec![delete_key("2.2", ObjectKey::Node { name })],
                );
            }
            assert_eq!(ids(&replica, "node-1"), ["a", "b"]);
            assert_eq!(ids(&replica, "node-2"), [""; 0]);
        }
    }

    fn settings() -> Object {
        Object::ServiceSettings(ServiceSettings {
            ranges: vec!["198.18.0.0/16".parse().unwrap()],
            dns: vec!["198.18.0.1".parse().unwrap()],
        })
    }

    fn service(name: &str, last: u8) -> Object {
        Object::Service(Service {
            service: format!("{name}:80/tcp").parse().unwrap(),
            addresses: vec![[198, 18, 0, last].into()],
            backends: vec![],
            affinity: None,
        })
    }

    fn task_name(name: &str, instances: u8) -> Object {
        let instance = |last| TaskInstance {
            agent: [192, 0, 2, last].into(),
            addresses: vec![],
            ports: vec![],
        };
        Object::TaskName(TaskName {
            name: name.to_owned(),
            instances: (0..instances).map(instance).collect(),
        })
    }

    /// The names of services and tasks.
    fn known_services(replica: &Replica) -> (Vec<String>, Vec<&str>) {
        let state = replica.state().unwrap();
        let services = state.services.keys().map(ToString::to_string).collect();
        let task_names = state.task_names.keys().map(String::as_str).collect();
        let total = total_task_names(state);
        assert_eq!(replica.task_names, total);
        (services, task_names)
    }

    /// A replica that knows all services: a and b, and the names of tasks x and y.
    fn with_services() -> Replica {
        let mut replica = Replica::new("node-1", None);
        let objects = [
            settings(),
            service("a", 2),
            service("b", 3),
            task_name("x", 2),
            task_name("y", 1),
            Object::ServicesComplete,
        ];
        let mut items = vec![snapshot("1.5")];
        items.extend(objects.map(|object| put_object("1.5", object)));
        items.push(synced("1.5"));
        follow(&mut replica, items);
        replica
    }

    fn service_names(services: &[&str]) -> Vec<String> {
        let services = services.iter();
        services.map(|name| format!("{name}:80/tcp")).collect()
    }

    #[test]
    fn services_stay_until_the_new_leader_has_all() {
        let mut replica = with_services();
        assert_eq!(replica.task_names, 5);
        replica.begin();
        // It knows no task yet.
        let items = vec![
            snapshot("2.1"),
            put_object("2.1", settings()),
            synced("2.1"),
        ];
        follow(&mut replica, items);
        let all = (service_names(&["a", "b"]), vec!["x", "y"]);
        assert_eq!(known_services(&replica), all);
        // The stream is cut and resumed. a has changed, c is new, x has fewer instances.
        follow(&mut replica, vec![put_object("2.2", service("a", 9))]);
        assert_eq!(replica.begin(), Some(revision("2.2")));
        let items = vec![
            synced("2.2"),
            put_object("2.3", service("c", 4)),
            put_object("2.4", task_name("x", 1)),
        ];
        follow(&mut replica, items);
        let more = (service_names(&["a", "b", "c"]), vec!["x", "y"]);
        assert_eq!(known_services(&replica), more);
        follow(
            &mut replica,
            vec![put_object("2.5", Object::ServicesComplete)],
        );
        let rest = (service_names(&["a", "c"]), vec!["x"]);
        assert_eq!(known_services(&replica), rest);
        assert!(replica.state().unwrap().has_complete_services);
    }

    #[test]
    fn complete_services_replace_those_before() {
        let mut replica = with_services();
        replica.begin();
        let items = vec![
            snapshot("2.1"),
            put_object("2.1", settings()),
            put_object("2.1", service("b", 3)),
            put_object("2.1", Object::ServicesComplete),
            synced("2.1"),
        ];
        follow(&mut replica, items);
        assert_eq!(known_services(&replica), (service_names(&["b"]), vec![]));
    }

    #[test]
    fn services_go_when_the_managers_publish_none_any_more() {
        let mut replica = with_services();
        replica.begin();
        follow(&mut replica, vec![snapshot("2.1"), synced("2.1")]);
        assert_eq!(known_services(&replica), (vec![], vec![]));
        assert_eq!(replica.state().unwrap().service_settings, None);
    }

    #[test]
    fn deleted_service_does_not_come_back() {
        let mut replica = with_services();
        replica.begin();
        let key = ObjectKey::Service {
            service: "a:80/tcp".parse().unwrap(),
        };
        let name = "y".to_owned();
        let items = vec![
            snapshot("2.1"),
            put_object("2.1", settings()),
            synced("2.1"),
            delete_key("2.2", key),
            delete_key("2.3", ObjectKey::TaskName { name }),
            put_object("2.4", service("b", 3)),
            put_object("2.5", task_name("x", 3)),
            put_object("2.6", Object::ServicesComplete),
        ];
        follow(&mut replica, items);
        let rest = (service_names(&["b"]), vec!["x"]);
        assert_eq!(known_services(&replica), rest);
    }

    #[test]
    fn more_task_names_than_a_cluster_has_are_refused() {
        let mut replica = Replica::new("node-1", None);
        follow(&mut replica, vec![snapshot("1.1")]);
        replica.task_names = MAX_TASK_NAMES - 1;
        let item = put_object("1.1", task_name("x", 1));
        assert_eq!(replica.apply(item), Err(ReplicaError::TooManyObjects));
        let mut replica = with_services();
        replica.task_names = MAX_TASK_NAMES;
        let item = put_object("1.6", task_name("z", 0));
        assert_eq!(replica.apply(item), Err(ReplicaError::TooManyObjects));
    }

    #[test]
    fn more_services_than_a_cluster_has_are_refused() {
        let mut replica = Replica::new("node-1", None);
        follow(&mut replica, vec![snapshot("1.1")]);
        for number in 0..MAX_SERVICES {
            let item = put_object("1.1", service(&format!("s{number}"), 2));
            assert_eq!(replica.apply(item), Ok(false));
        }
        let item = put_object("1.1", service("more", 2));
        assert_eq!(replica.apply(item), Err(ReplicaError::TooManyObjects));
    }

    #[test]
    fn more_endpoints_than_a_cluster_has_are_refused() {
        let mut replica = Replica::new("node-1", None);
        follow(&mut replica, vec![snapshot("1.1")]);
        replica.endpoints = MAX_ENDPOINTS;
        let item = put_object("1.1", endpoint("node-1", "a", "x"));
        assert_eq!(replica.apply(item), Err(ReplicaError::TooManyObjects));
    }

    /// What a manager does between two moments at which its nodes have all reported.
    #[derive(Clone, Debug)]
    enum Step {
        /// An endpoint is put, or deleted.
        Endpoint(bool, u8, u8),
        /// The stream is cut, and resumed.
        Cut,
        /// Another manager leads. The nodes of the bits report at once, the others later.
        Term(u8),
        /// A node reports to the leader, as it is now.
        Report(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (any::<bool>(), 0_u8..3, 0_u8..4)
                .prop_map(|(is_put, node, id)| Step::Endpoint(is_put, node, id)),
            1 => Just(Step::Cut),
            1 => (0_u8..8).prop_map(Step::Term),
            2 => (0_u8..3).prop_map(Step::Report),
        ];
        proptest::collection::vec(step, 1..40)
    }

    /// The nodes as they are, the managers that lead one after the other, and a client.
    struct Model {
        real: BTreeMap<u8, BTreeSet<u8>>,
        /// What the leader has published.
        leader: ClusterState,
        replica: Replica,
    }

    impl Model {
        fn new() -> Self {
            let mut leader = ClusterState::empty("node-1", revision("1.0"));
            for number in 1..=3 {
                leader.put(Object::Node(node(number, "dcos")));
            }
            let mut model = Self {
                real: (0..3).map(|node| (node, BTreeSet::new())).collect(),
                leader,
                replica: Replica::new("node-1", None),
            };
            model.send_snapshot();
            model
        }

        fn name(node: u8) -> String {
            format!("node-{}", node + 1)
        }

        fn is_complete(&self, node: u8) -> bool {
            self.leader.complete_endpoints.contains(&Self::name(node))
        }

        fn send_snapshot(&mut self) {
            self.replica.begin();
            let revision = self.leader.revision;
            let nodes = self.leader.nodes.values().cloned().map(Object::Node);
            let endpoints = self.leader.endpoints.values();
            let endpoints = endpoints.flat_map(|all| all.values().cloned());
            let complete_nodes = self.leader.complete_endpoints.iter();
            let objects: Vec<_> = nodes
                .chain(complete_nodes.map(|node| complete(node)))
                .chain(endpoints.map(Object::Endpoint))
                .collect();
            let mut items = vec![WatchItem::Snapshot { revision }];
            items.extend(
                objects
                    .into_iter()
                    .map(|object| WatchItem::Put { revision, object }),
            );
            items.push(WatchItem::Synced { revision });
            follow(&mut self.replica, items);
        }

        fn publish(&mut self, item: impl FnOnce(Revision) -> WatchItem) {
            self.leader.revision.counter += 1;
            let item = item(self.leader.revision);
            match &item {
                WatchItem::Put { object, .. } => self.leader.put(object.clone()),
                WatchItem::Delete { key, .. } => self.leader.delete(key),
                _ => unreachable!(),
            }
            follow(&mut self.replica, vec![item]);
        }

        fn put_endpoint(&mut self, node: u8, id: u8) {
            let object = endpoint(&Self::name(node), &format!("e{id}"), "x");
            self.publish(|revision| WatchItem::Put { revision, object });
        }

        fn report(&mut self, node: u8) {
            let name = Self::name(node);
            let published: BTreeSet<u8> = (0..4)
                .filter(|id| {
                    let of_node = self.leader.endpoints.get(&name);
                    of_node.is_some_and(|all| all.contains_key(&format!("e{id}")))
                })
                .collect();
            let real = self.real[&node].clone();
            for id in real.difference(&published) {
                self.put_endpoint(node, *id);
            }
            for id in published.difference(&real) {
                let (node, id) = (name.clone(), format!("e{id}"));
                let key = ObjectKey::Endpoint { node, id };
                self.publish(|revision| WatchItem::Delete { revision, key });
            }
            if !self.is_complete(node) {
                let object = complete(&name);
                self.publish(|revision| WatchItem::Put { revision, object });
            }
        }

        fn step(&mut self, step: &Step) {
            match step {
                Step::Endpoint(is_put, node, id) => {
                    let real = self.real.get_mut(node).unwrap();
                    if *is_put {
                        real.insert(*id);
                    } else {
                        real.remove(id);
                    }
                    if self.is_complete(*node) {
                        self.report(*node);
                    }
                }
                Step::Cut => {
                    let since = self.replica.begin().unwrap();
                    follow(&mut self.replica, vec![synced(&since.to_string())]);
                }
                Step::Term(reported) => {
                    let term = self.leader.revision.term + 1;
                    self.leader.revision = Revision { term, counter: 0 };
                    self.leader.endpoints.clear();
                    self.leader.complete_endpoints.clear();
                    for node in (0..3).filter(|node| reported & (1 << node) != 0) {
                        for id in self.real[&node].clone() {
                            let object = endpoint(&Self::name(node), &format!("e{id}"), "x");
                            self.leader.put(object);
                        }
                        self.leader.put(complete(&Self::name(node)));
                    }
                    self.send_snapshot();
                }
                Step::Report(node) => self.report(*node),
            }
        }

        fn known(&self, node: u8) -> BTreeSet<u8> {
            let known = ids(&self.replica, &Self::name(node));
            known.iter().map(|id| id[1..].parse().unwrap()).collect()
        }
    }

    /// What happens to services.
    #[derive(Clone, Debug)]
    enum ServiceStep {
        /// A service and its tasks come, or go.
        Service(bool, u8),
        Cut,
        /// Another manager leads. It has all services at once, or nothing.
        Term(bool),
        /// The leader publishes a service that there is.
        Early(u8),
        /// The leader has all services.
        Complete,
    }

    fn service_steps() -> impl Strategy<Value = Vec<ServiceStep>> {
        let step = prop_oneof![
            4 => (any::<bool>(), 0_u8..5).prop_map(|(is_put, id)| ServiceStep::Service(is_put, id)),
            1 => Just(ServiceStep::Cut),
            1 => any::<bool>().prop_map(ServiceStep::Term),
            1 => (0_u8..5).prop_map(ServiceStep::Early),
            2 => Just(ServiceStep::Complete),
        ];
        proptest::collection::vec(step, 1..40)
    }

    /// The services that there are, the managers that lead one after the other, and a client.
    struct ServiceModel {
        real: BTreeSet<u8>,
        leader: ClusterState,
        replica: Replica,
    }

    impl ServiceModel {
        fn new() -> Self {
            let mut leader = ClusterState::empty("node-1", revision("1.0"));
            leader.put(settings());
            let mut model = Self {
                real: BTreeSet::new(),
                leader,
                replica: Replica::new("node-1", None),
            };
            model.send_snapshot();
            model
        }

        fn objects(id: u8) -> [Object; 2] {
            [
                service(&format!("s{id}"), id),
                task_name(&format!("t{id}"), id),
            ]
        }

        fn send_snapshot(&mut self) {
            self.replica.begin();
            let revision = self.leader.revision;
            let services = self.leader.services.values();
            let task_names = self.leader.task_names.values();
            let complete = self.leader.has_complete_services;
            let objects: Vec<_> = [settings()]
                .into_iter()
                .chain(services.map(|service| Object::Service(service.as_ref().clone())))
                .chain(task_names.map(|name| Object::TaskName(name.as_ref().clone())))
                .chain(complete.then_some(Object::ServicesComplete))
                .collect();
            let mut items = vec![WatchItem::Snapshot { revision }];
            let objects = objects.into_iter();
            items.extend(objects.map(|object| WatchItem::Put { revision, object }));
            items.push(WatchItem::Synced { revision });
            follow(&mut self.replica, items);
        }

        fn put(&mut self, object: Object) {
            self.leader.revision.counter += 1;
            self.leader.put(object.clone());
            let revision = self.leader.revision;
            follow(&mut self.replica, vec![WatchItem::Put { revision, object }]);
        }

        fn delete(&mut self, key: ObjectKey) {
            self.leader.revision.counter += 1;
            self.leader.delete(&key);
            let revision = self.leader.revision;
            follow(&mut self.replica, vec![WatchItem::Delete { revision, key }]);
        }

        fn complete(&mut self) {
            for id in self.real.clone() {
                for object in Self::objects(id) {
                    self.put(object);
                }
            }
            for id in (0..5)
                .filter(|id| !self.real.contains(id))
                .collect::<Vec<_>>()
            {
                for object in Self::objects(id) {
                    let is_known = match &object {
                        Object::Service(service) => {
                            self.leader.services.contains_key(&service.service)
                        }
                        Object::TaskName(name) => self.leader.task_names.contains_key(&name.name),
                        _ => false,
                    };
                    if is_known {
                        self.delete(object.key());
                    }
                }
            }
            self.put(Object::ServicesComplete);
        }

        fn step(&mut self, step: &ServiceStep) {
            match step {
                ServiceStep::Service(is_put, id) => {
                    if *is_put {
                        self.real.insert(*id);
                    } else {
                        self.real.remove(id);
                    }
                    if self.leader.has_complete_services {
                        self.complete();
                    }
                }
                ServiceStep::Cut => {
                    let since = self.replica.begin().unwrap();
                    follow(&mut self.replica, vec![synced(&since.to_string())]);
                }
                ServiceStep::Term(is_complete) => {
                    let term = self.leader.revision.term + 1;
                    let revision = Revision { term, counter: 0 };
                    self.leader = ClusterState::empty("node-1", revision);
                    self.leader.put(settings());
                    if *is_complete {
                        for id in self.real.clone() {
                            for object in Self::objects(id) {
                                self.leader.put(object);
                            }
                        }
                        self.leader.put(Object::ServicesComplete);
                    }
                    self.send_snapshot();
                }
                ServiceStep::Early(id) => {
                    if self.real.contains(id) {
                        for object in Self::objects(*id) {
                            self.put(object);
                        }
                    }
                }
                ServiceStep::Complete => self.complete(),
            }
        }

        /// The numbers of the services and names of tasks that the client knows.
        fn known(&self) -> (BTreeSet<u8>, BTreeSet<u8>) {
            let state = self.replica.state().unwrap();
            let numbers = |number: u8| {
                let [service, task_name] = Self::objects(number);
                let (ObjectKey::Service { service }, ObjectKey::TaskName { name }) =
                    (service.key(), task_name.key())
                else {
                    unreachable!()
                };
                (
                    state.services.contains_key(&service),
                    state.task_names.contains_key(&name),
                )
            };
            (
                (0..5).filter(|number| numbers(*number).0).collect(),
                (0..5).filter(|number| numbers(*number).1).collect(),
            )
        }
    }

    proptest! {
        /// Of nodes that have reported to the leader the client knows what there is. Of others it
        /// loses nothing that still is there.
        #[test]
        fn endpoints_survive_new_leaders_and_do_not_stay_for_ever(steps in steps()) {
            let mut model = Model::new();
            // What the client knew of a node when it was last complete, and is still there.
            let mut known: BTreeMap<u8, BTreeSet<u8>> = BTreeMap::new();
            for step in &steps {
                model.step(step);
                for node in 0..3 {
                    let real = model.real[&node].clone();
                    if model.is_complete(node) {
                        prop_assert_eq!(&model.known(node), &real);
                        known.insert(node, real);
                    } else if let Some(known) = known.get(&node) {
                        let lost: Vec<_> = known
                            .intersection(&real)
                            .filter(|id| !model.known(node).contains(id))
                            .collect();
                        prop_assert_eq!(lost, Vec::<&u8>::new());
                    }
                }
                let total: usize = (0..3).map(|node| model.known(node).len()).sum();
                prop_assert_eq!(model.replica.endpoints, total);
            }
        }

        /// Once the leader has all services the client knows what there is. Before, it loses nothing that
        /// still is there, however often the leader changes.
        #[test]
        fn services_survive_new_leaders_and_do_not_stay_for_ever(steps in service_steps()) {
            let mut model = ServiceModel::new();
            let mut known = BTreeSet::new();
            for step in &steps {
                model.step(step);
                let (services, task_names) = model.known();
                if model.leader.has_complete_services {
                    prop_assert_eq!(&services, &model.real);
                    prop_assert_eq!(&task_names, &model.real);
                    known.clone_from(&model.real);
                } else {
                    for id in known.intersection(&model.real) {
                        prop_assert!(services.contains(id) && task_names.contains(id), "{}", id);
                    }
                }
                let total = total_task_names(model.replica.state().unwrap());
                prop_assert_eq!(model.replica.task_names, total);
            }
        }

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
