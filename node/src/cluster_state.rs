//! What the managers have published, as this node knows it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use contrail_mesos_api::cluster::{
    Endpoint, Node, Object, ObjectKey, Overlay, Revision, SecurityGroup, Underlay,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The cluster's state at one revision. It is complete: a snapshot with the changes after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    pub endpoints: BTreeMap<String, NodeEndpoints>,
    /// The nodes whose endpoints are complete in the managers' state.
    #[serde(default)]
    pub complete_endpoints: BTreeSet<String>,
}

/// The endpoints of a node, by their id. Clones share them, so that a change costs a copy of the
/// endpoints of one node, not of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeEndpoints(Arc<BTreeMap<String, Endpoint>>);

impl Deref for NodeEndpoints {
    type Target = BTreeMap<String, Endpoint>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl NodeEndpoints {
    fn change(&mut self) -> &mut BTreeMap<String, Endpoint> {
        Arc::make_mut(&mut self.0)
    }
}

impl Serialize for NodeEndpoints {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_ref().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for NodeEndpoints {
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
