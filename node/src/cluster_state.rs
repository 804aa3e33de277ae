//! What the managers have published, as this node knows it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use contrail_mesos_api::cluster::{
    Endpoint, Node, Object, ObjectKey, Overlay, Revision, SecurityGroup, Service, ServiceKey,
    ServiceSettings, TaskName, Underlay,
};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The cluster's state at one revision. It is complete: a snapshot with the changes after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterState {
    /// This node's own name.
    pub node: String,
    /// The revision.
    pub revision: Revision,
    /// What all overlays share; none if the managers have no overlays.
    pub underlay: Option<Underlay>,
    /// The overlays, by name.
    pub overlays: BTreeMap<String, Overlay>,
    /// All nodes, by name, this one included.
    pub nodes: BTreeMap<String, Node>,
    /// The security groups, by name.
    #[serde(default)]
    pub security_groups: BTreeMap<String, SecurityGroup>,
    /// The endpoints of all nodes, by the node's name and their id.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, BTreeMap<String, Endpoint>>")]
    pub endpoints: BTreeMap<String, NodeEndpoints>,
    /// The nodes whose endpoints are complete in the managers' state.
    #[serde(default)]
    pub complete_endpoints: BTreeSet<String>,
    /// What all services share; none if the managers publish no services.
    #[serde(default)]
    pub service_settings: Option<ServiceSettings>,
    /// The services, by their identity.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Service>")]
    pub services: Services,
    /// The names of tasks.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, TaskName>")]
    pub task_names: TaskNames,
    /// Whether the services and names are complete in the managers' state.
    #[serde(default)]
    pub has_complete_services: bool,
}

/// The endpoints of a node, by their id.
pub type NodeEndpoints = SharedMap<String, Endpoint>;
/// The services, by their identity.
pub type Services = SharedMap<ServiceKey, Arc<Service>>;
/// The names of tasks.
pub type TaskNames = SharedMap<String, Arc<TaskName>>;

/// A map whose clones share it, so that a change of the state copies only the map that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedMap<K: Ord, V>(Arc<BTreeMap<K, V>>);

impl<K: Ord, V> SharedMap<K, V> {
    /// Whether both are the same map, which was not changed.
    pub(crate) fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<K: Ord, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Ord, V> Deref for SharedMap<K, V> {
    type Target = BTreeMap<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    fn change(&mut self) -> &mut BTreeMap<K, V> {
        Arc::make_mut(&mut self.0)
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        Self(Arc::new(entries.into_iter().collect()))
    }
}

impl<K: Ord + Serialize, V: Serialize> Serialize for SharedMap<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_ref().serialize(serializer)
    }
}

impl<'de, K: Ord + DeserializeOwned, V: DeserializeOwned> Deserialize<'de> for SharedMap<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Arc::new(BTreeMap::deserialize(deserializer)?)))
    }
}

impl ClusterState {
    /// A state without any object.
    #[must_use]
    pub fn empty(node: &str, revision: Revision) -> Self {
        Self {
            node: node.to_owned(),
            revision,
            underlay: None,
            overlays: BTreeMap::new(),
            nodes: BTreeMap::new(),
            security_groups: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            complete_endpoints: BTreeSet::new(),
            service_settings: None,
            services: Services::default(),
            task_names: TaskNames::default(),
            has_complete_services: false,
        }
    }

    /// This node, if it is registered.
    #[must_use]
    pub fn own_node(&self) -> Option<&Node> {
        self.nodes.get(&self.node)
    }

    /// The other nodes.
    pub fn remote_nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| node.name != self.node)
    }

    /// Adds or replaces an object.
    pub fn put(&mut self, object: Object) {
        match object {
            Object::Underlay(underlay) => self.underlay = Some(underlay),
            Object::Overlay(overlay) => {
                self.overlays.insert(overlay.name.clone(), overlay);
            }
            Object::Node(node) => {
                self.nodes.insert(node.name.clone(), node);
            }
            Object::SecurityGroup(group) => {
                self.security_groups.insert(group.name.clone(), group);
            }
            Object::Endpoint(endpoint) => {
                let of_node = self.endpoints.entry(endpoint.node.clone()).or_default();
                of_node.change().insert(endpoint.id.clone(), endpoint);
            }
            Object::EndpointsComplete { node } => {
                self.complete_endpoints.insert(node);
            }
            Object::ServiceSettings(settings) => self.service_settings = Some(settings),
            Object::Service(service) => {
                let service = Arc::new(service);
                let key = service.service.clone();
                self.services.change().insert(key, service);
            }
            Object::TaskName(name) => {
                let name = Arc::new(name);
                self.task_names.change().insert(name.name.clone(), name);
            }
            Object::ServicesComplete => self.has_complete_services = true,
            Object::Unknown => {}
        }
    }

    /// Removes an object.
    pub fn delete(&mut self, key: &ObjectKey) {
        match key {
            ObjectKey::Underlay => self.underlay = None,
            ObjectKey::Overlay { name } => {
                self.overlays.remove(name);
            }
            ObjectKey::Node { name } => {
                self.nodes.remove(name);
                self.endpoints.remove(name);
                self.complete_endpoints.remove(name);
            }
            ObjectKey::SecurityGroup { name } => {
                self.security_groups.remove(name);
            }
            ObjectKey::Endpoint { node, id } => self.delete_endpoint(node, id),
            ObjectKey::EndpointsComplete { node } => {
                self.complete_endpoints.remove(node);
            }
            ObjectKey::ServiceSettings => self.service_settings = None,
            ObjectKey::Service { service } => {
                if self.services.contains_key(service) {
                    self.services.change().remove(service);
                }
            }
            ObjectKey::TaskName { name } => {
                if self.task_names.contains_key(name) {
                    self.task_names.change().remove(name);
                }
            }
            ObjectKey::ServicesComplete => self.has_complete_services = false,
            ObjectKey::Unknown => {}
        }
    }

    fn delete_endpoint(&mut self, node: &str, id: &str) {
        let Some(of_node) = self.endpoints.get_mut(node) else {
            return;
        };
        if of_node.contains_key(id) {
            of_node.change().remove(id);
        }
        if of_node.is_empty() {
            self.endpoints.remove(node);
        }
    }

    /// How many endpoints of a node there are.
    pub(crate) fn endpoint_count(&self, node: &str) -> usize {
        self.endpoints.get(node).map_or(0, |of_node| of_node.len())
    }

    /// How many endpoints there are.
    pub(crate) fn total_endpoints(&self) -> usize {
        self.endpoints.values().map(|of_node| of_node.len()).sum()
    }
}
