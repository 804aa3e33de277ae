//! The endpoints of all nodes in a term, as the nodes have reported them: a pure state machine that says
//! what is published.
//!
//! Invariants:
//! - An endpoint is published only while all its addresses lie in subnets that its own node has of
//!   overlays which isolate groups, and no other endpoint has one of them. The subnets of nodes are
//!   disjoint, so a node cannot claim an address of another one.
//! - What is not valid is refused entry by entry, and named as a problem of the node. What becomes valid
//!   when overlays or subnets change is published then.
//! - It begins empty in each term. The endpoints of a node that has not reported in this term are not
//!   deleted: clients keep what they know until [`Object::EndpointsComplete`].
//! - Its memory is bounded by the number of nodes and the length of a report.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use contrail_mesos_api::cluster::{
    Endpoint, EndpointsReport, MAX_GROUPS, MAX_REPORTED_ENDPOINTS, NodeStatus, NodeSubnets, Object,
    ObjectKey, is_group_name,
};
use contrail_mesos_api::text::Quoted;
use ipnet::IpNet;

use crate::overlay::ObjectChange;

/// The longest id of an endpoint: that of a deeply nested container, and its network.
const MAX_ID_BYTES: usize = 1024;
/// How many addresses an endpoint may have.
const MAX_ADDRESSES: usize = 8;
/// The longest digest of a report.
pub(super) const MAX_DIGEST_BYTES: usize = 128;
/// How many refused endpoints of a node are described.
const MAX_PROBLEMS: usize = 16;

/// A report of endpoints that cannot be kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EndpointsError {
    /// The node has no subnets.
    #[error("the node is not registered: it must report itself first")]
    Unregistered,
    /// The digest is empty or too long.
    #[error("a digest has 1 to {MAX_DIGEST_BYTES} bytes")]
    InvalidDigest,
}

/// What the nodes have reported of their endpoints in a term.
#[derive(Debug, Default)]
pub(crate) struct EndpointTable {
    /// The overlays that isolate groups.
    isolating: BTreeSet<String>,
    nodes: BTreeMap<String, NodeEndpoints>,
}

/// A registered node.
#[derive(Debug)]
struct NodeEndpoints {
    subnets: Vec<NodeSubnets>,
    /// None before the first in this term.
    report: Option<KeptReport>,
}

/// The last report of a node.
#[derive(Debug)]
struct KeptReport {
    digest: String,
    /// All entries that may be published in some configuration, in their order.
    well_formed: Vec<Arc<Endpoint>>,
    malformed: RefusedEndpoints,
    /// What is published, by id.
    published: BTreeMap<String, Arc<Endpoint>>,
    /// Those of `well_formed` that are not published.
    misplaced: RefusedEndpoints,
}

/// The endpoints of a report that are not published, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct RefusedEndpoints {
    /// The first ones.
    problems: Vec<String>,
    count: usize,
}

impl RefusedEndpoints {
    fn add(&mut self, endpoint: &Endpoint, problem: &str) {
        self.count += 1;
        if self.problems.len() < MAX_PROBLEMS {
            let id = Quoted(endpoint.id.as_bytes());
            let problem = format!("its container {id} is not published: {problem}");
            self.problems.push(problem);
        }
    }
}

/// What there is of all nodes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EndpointCounts {
    /// The nodes that have reported their endpoints in this term.
    pub complete_nodes: usize,
    /// The published endpoints.
    pub published: usize,
    /// The refused endpoints.
    pub refused: usize,
}

/// The changes of a node's published endpoints.
#[derive(Default)]
struct EndpointChanges {
    deletes: Vec<ObjectChange>,
    puts: Vec<ObjectChange>,
}

impl EndpointChanges {
    fn delete(&mut self, node: &str, id: &str) {
        self.deletes.push(ObjectChange::Delete(ObjectKey::Endpoint {
            node: node.to_owned(),
            id: id.to_owned(),
        }));
    }
}

impl EndpointTable {
    /// The table of a term that begins with these objects.
    pub(super) fn new(objects: &[Object]) -> Self {
        let mut table = Self::default();
        for object in objects {
            match object {
                Object::Overlay(overlay) if overlay.groups.is_some() => {
                    table.isolating.insert(overlay.name.clone());
                }
                Object::Node(node) => {
                    let node_endpoints = NodeEndpoints {
                        subnets: node.subnets.clone(),
                        report: None,
                    };
                    table.nodes.insert(node.name.clone(), node_endpoints);
                }
                _ => {}
            }
        }
        table
    }

    /// Follows changes of overlays and nodes. Returns them with the changes of endpoints that belong to
    /// them: what goes comes first, so that no address is ever that of two endpoints.
    pub(super) fn follow(&mut self, changes: Vec<ObjectChange>) -> Vec<ObjectChange> {
        let mut own = EndpointChanges::default();
        let mut affected = BTreeSet::new();
        let mut overlays_changed = false;
        for change in &changes {
            match change {
                ObjectChange::Put(Object::Overlay(overlay)) => {
                    overlays_changed |= if overlay.groups.is_some() {
                        self.isolating.insert(overlay.name.clone())
                    } else {
                        self.isolating.remove(&overlay.name)
                    };
                }
                ObjectChange::Delete(ObjectKey::Overlay { name }) => {
                    overlays_changed |= self.isolating.remove(name);
                }
                ObjectChange::Put(Object::Node(node)) => {
                    let subnets = node.subnets.clone();
                    if let Some(known) = self.nodes.get_mut(&node.name) {
                        if known.subnets != subnets {
                            known.subnets = subnets;
                            affected.insert(node.name.clone());
                        }
                    } else {
                        let report = None;
                        let node_endpoints = NodeEndpoints { subnets, report };
                        self.nodes.insert(node.name.clone(), node_endpoints);
                    }
                }
                ObjectChange::Delete(ObjectKey::Node { name }) => {
                    let removed = self.nodes.remove(name);
                    if let Some(report) = removed.and_then(|node| node.report) {
                        for id in report.published.keys() {
                            own.delete(name, id);
                        }
                        let key = ObjectKey::EndpointsComplete { node: name.clone() };
                        own.deletes.push(ObjectChange::Delete(key));
                    }
                }
                _ => {}
            }
        }
        let isolating = &self.isolating;
        for (name, node) in &mut self.nodes {
            if overlays_changed || affected.contains(name) {
                node.place(name, isolating, &mut own);
            }
        }
        let mut all = own.deletes;
        all.extend(changes);
        all.extend(own.puts);
        all
    }

    /// Keeps a report. Returns the changes of what is published.
    pub(super) fn report(
        &mut self,
        name: &str,
        report: EndpointsReport,
    ) -> Result<Vec<ObjectChange>, EndpointsError> {
        let node = self.nodes.get_mut(name);
        let node = node.ok_or(EndpointsError::Unregistered)?;
        if !(1..=MAX_DIGEST_BYTES).contains(&report.digest.len()) {
            return Err(EndpointsError::InvalidDigest);
        }
        let (well_formed, malformed) = select_well_formed(name, report.endpoints);
        let published = node
            .report
            .take()
            .map(|report| report.published)
            .unwrap_or_default();
        node.report = Some(KeptReport {
            digest: report.digest,
            well_formed,
            malformed,
            published,
            misplaced: RefusedEndpoints::default(),
        });
        let mut own = EndpointChanges::default();
        node.place(name, &self.isolating, &mut own);
        let mut all = own.deletes;
        all.extend(own.puts);
        let complete = Object::EndpointsComplete {
            node: name.to_owned(),
        };
        all.push(ObjectChange::Put(complete));
        Ok(all)
    }

    /// Whether the report with that digest is missing.
    pub(super) fn lacks(&self, node: &str, digest: &str) -> bool {
        let known = self.nodes.get(node).and_then(|node| node.report.as_ref());
        known.is_none_or(|report| report.digest != digest)
    }

    /// Why endpoints of a node are not published.
    pub(super) fn problems(&self, node: &str) -> Vec<String> {
        let report = self.nodes.get(node).and_then(|node| node.report.as_ref());
        report.map(KeptReport::problems).unwrap_or_default()
    }

    /// Adds what is known of endpoints.
    pub(super) fn complete_statuses(&self, statuses: &mut [NodeStatus]) {
        for status in statuses {
            let node = self.nodes.get(&status.name);
            let Some(report) = node.and_then(|node| node.report.as_ref()) else {
                continue;
            };
            status.endpoints = Some(report.published.len());
            status.problems.extend(report.problems());
        }
    }

    /// How many there are.
    pub(crate) fn counts(&self) -> EndpointCounts {
        let mut counts = EndpointCounts::default();
        for report in self.nodes.values().filter_map(|node| node.report.as_ref()) {
            counts.complete_nodes += 1;
            counts.published += report.published.len();
            counts.refused += report.malformed.count + report.misplaced.count;
        }
        counts
    }

    /// The published endpoints, ordered by node and id.
    pub(crate) fn published(&self) -> Vec<Arc<Endpoint>> {
        let reports = self.nodes.values().filter_map(|node| node.report.as_ref());
        let endpoints = reports.flat_map(|report| report.published.values());
        endpoints.cloned().collect()
    }
}

impl KeptReport {
    fn problems(&self) -> Vec<String> {
        let all = self.malformed.problems.iter();
        let all = all.chain(&self.misplaced.problems);
        let mut problems: Vec<String> = all.take(MAX_PROBLEMS).cloned().collect();
        let more = (self.malformed.count + self.misplaced.count).saturating_sub(problems.len());
        if more > 0 {
            problems.push(format!("and {more} more containers are not published"));
        }
        problems
    }
}

impl NodeEndpoints {
    /// Decides again which endpoints are published.
    fn place(&mut self, name: &str, isolating: &BTreeSet<String>, changes: &mut EndpointChanges) {
        let Some(report) = &mut self.report else {
            return;
        };
        let subnets: Vec<IpNet> = self
            .subnets
            .iter()
            .filter(|subnets| isolating.contains(&subnets.overlay))
            .flat_map(NodeSubnets::subnets)
            .collect();
        let mut misplaced = RefusedEndpoints::default();
        let mut now = BTreeMap::new();
        let mut used: HashSet<IpAddr> = HashSet::new();
        for endpoint in &report.well_formed {
            let is_inside =
                |address: &IpAddr| subnets.iter().any(|subnet| subnet.contains(address));
            if let Some(address) = endpoint
                .addresses
                .iter()
                .find(|address| !is_inside(address))
            {
                let problem = format!(
                    "its address {address} is not in a subnet that this node has of an overlay with \
                     isolated groups"
                );
                misplaced.add(endpoint, &problem);
            } else if let Some(address) = endpoint.addresses.iter().find(|one| used.contains(one)) {
                let problem = format!("another container of this node has its address {address}");
                misplaced.add(endpoint, &problem);
            } else {
                used.extend(&endpoint.addresses);
                now.insert(endpoint.id.clone(), endpoint.clone());
            }
        }
        for id in report.published.keys().filter(|id| !now.contains_key(*id)) {
            changes.delete(name, id);
        }
        let is_new = |(id, endpoint): &(&String, &Arc<Endpoint>)| {
            report.published.get(*id) != Some(*endpoint)
        };
        let new = now.iter().filter(is_new);
        changes.puts.extend(
            new.map(|(_, endpoint)| ObjectChange::Put(Object::Endpoint(Endpoint::clone(endpoint)))),
        );
        report.published = now;
        report.misplaced = misplaced;
    }
}

/// The entries that may be published in some configuration, and why others may not in any.
fn select_well_formed(
    node: &str,
    endpoints: Vec<Endpoint>,
) -> (Vec<Arc<Endpoint>>, RefusedEndpoints) {
    let mut refused = RefusedEndpoints::default();
    let mut well_formed = vec![];
    let mut ids = HashSet::new();
    for (index, mut endpoint) in endpoints.into_iter().enumerate() {
        let membership = &mut endpoint.membership;
        for names in [&mut membership.groups, &mut membership.security_groups] {
            names.sort_unstable();
            names.dedup();
        }
        let problem = if index >= MAX_REPORTED_ENDPOINTS {
            Some(format!(
                "the node has more than {MAX_REPORTED_ENDPOINTS} containers on overlays"
            ))
        } else {
            malformation(node, &endpoint)
        };
        if let Some(problem) = problem {
            refused.add(&endpoint, &problem);
        } else if !ids.insert(endpoint.id.clone()) {
            refused.add(&endpoint, "another container of this node has its id");
        } else {
            well_formed.push(Arc::new(endpoint));
        }
    }
    (well_formed, refused)
}

/// Why an endpoint of that node cannot be right, if it cannot.
fn malformation(node: &str, endpoint: &Endpoint) -> Option<String> {
    if endpoint.node != node {
        let other = Quoted(endpoint.node.as_bytes());
        return Some(format!("it is reported as one of the node {other}"));
    }
    let id = &endpoint.id;
    if !(1..=MAX_ID_BYTES).contains(&id.len()) || id.contains(char::is_control) {
        return Some(format!(
            "an id has 1 to {MAX_ID_BYTES} bytes without control characters"
        ));
    }
    let addresses = &endpoint.addresses;
    if !(1..=MAX_ADDRESSES).contains(&addresses.len()) {
        return Some(format!(
            "it has {} addresses, but 1 to {MAX_ADDRESSES} are possible",
            addresses.len()
        ));
    }
    let is_repeated = |(index, address): (usize, &IpAddr)| addresses[..index].contains(address);
    if addresses.iter().enumerate().any(is_repeated) {
        return Some("it has an address twice".to_owned());
    }
    let membership = &endpoint.membership;
    let names = || membership.groups.iter().chain(&membership.security_groups);
    if names().count() > MAX_GROUPS {
        return Some(format!(
            "it has {} groups, but at most {MAX_GROUPS} are possible",
            names().count()
        ));
    }
    let invalid = names().find(|name| !is_group_name(name))?;
    let invalid = Quoted(invalid.as_bytes());
    Some(format!("no group can have the name {invalid}"))
}

#[cfg(test)]
mod tests;
