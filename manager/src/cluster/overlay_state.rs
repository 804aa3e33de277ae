//! The state that the master module of DC/OS answers with.

use std::collections::BTreeSet;
use std::net::IpAddr;

use contrail_mesos_api::cluster::{NodeCondition, NodeStatus, NodeSubnets};
use contrail_mesos_api::container::Mac;
use contrail_mesos_api::overlay_modules::proto::{
    AgentInfo, AgentOverlayInfo, NetworkConfig, OverlayInfo, State,
};
use contrail_mesos_api::overlay_modules::{OverlayStatus, agent_overlay, is_subsystem_of_overlays};

use super::Cluster;
use crate::error::ManagerError;
use crate::overlay::{OverlayConfig, OverlayDefinition};

impl Cluster {
    /// The overlays, and what each node has of them; an error if this manager does not publish.
    pub(crate) fn overlay_state(&self) -> Result<State, ManagerError> {
        // What is wrong with a container does not mean that the overlays of its node have failed.
        let list = self.list_with(is_subsystem_of_overlays)?;
        let all = self.list_with(|_| true)?.nodes.into_iter();
        let with_problems = all.filter(|node| !node.problems.is_empty());
        let with_problems = with_problems.map(|node| node.name).collect();
        let networks = self.networks().ok_or(ManagerError::NotConfigured(
            "this manager has no [overlay] in its configuration",
        ))?;
        Ok(state(&networks, &list.nodes, &with_problems))
    }

    /// The names of the registered nodes with one of these addresses.
    pub(crate) fn names_of(&self, addresses: &[IpAddr]) -> Result<Vec<String>, ManagerError> {
        self.current()?;
        let nodes = self.registered().into_iter();
        let named = nodes.filter(|node| addresses.contains(&node.address.to_canonical()));
        Ok(named.map(|node| node.name).collect())
    }
}

/// The problems of `nodes` are those of their overlays; `with_problems` are the names of those with any.
fn state(
    networks: &OverlayConfig,
    nodes: &[NodeStatus],
    with_problems: &BTreeSet<String>,
) -> State {
    let [first, second, third] = networks.vtep_mac_oui;
    State {
        network: Some(NetworkConfig {
            vtep_subnet: networks.vtep_subnet.to_string(),
            vtep_mac_oui: Mac([first, second, third, 0, 0, 0]).to_string(),
            overlays: networks.overlays.iter().map(info).collect(),
            vtep_subnet6: networks.vtep_subnet6.map(|subnet| subnet.to_string()),
            // Each overlay has its own.
            vtep_mtu: None,
        }),
        agents: nodes
            .iter()
            .filter_map(|node| agent(networks, node, with_problems.contains(&node.name)))
            .collect(),
    }
}

fn info(overlay: &OverlayDefinition) -> OverlayInfo {
    OverlayInfo {
        name: overlay.name.clone(),
        subnet: overlay.subnets.map(|pool| pool.subnet.to_string()),
        prefix: overlay.subnets.map(|pool| pool.prefix.into()),
        subnet6: overlay.subnets6.map(|pool| pool.subnet.to_string()),
        prefix6: overlay.subnets6.map(|pool| pool.prefix.into()),
        enabled: Some(overlay.enabled),
    }
}

/// A node that has something.
fn agent(networks: &OverlayConfig, node: &NodeStatus, has_problems: bool) -> Option<AgentInfo> {
    let vtep = node.vtep?;
    let underlay = networks.underlay();
    let status = status(node, has_problems);
    let overlays = node.subnets.iter().filter_map(|part: &NodeSubnets| {
        let mut overlays = networks.overlays.iter();
        let overlay = overlays.find(|overlay| overlay.name == part.overlay)?;
        let endpoint = (&vtep, &underlay);
        let published = overlay.published();
        let info = info(overlay);
        Some(agent_overlay(
            &published,
            info,
            part,
            endpoint,
            status.clone(),
        ))
    });
    let overlays: Vec<AgentOverlayInfo> = overlays.collect();
    Some(AgentInfo {
        ip: node.address?.to_string(),
        overlays,
        configuration_attempts: None,
    })
}

/// What a node has reported; none if it has not. It may have problems that are not of its overlays.
fn status(node: &NodeStatus, has_problems: bool) -> Option<OverlayStatus> {
    if !node.problems.is_empty() {
        return Some(OverlayStatus::Failed(node.problems.join("; ")));
    }
    match node.condition {
        NodeCondition::Current => Some(OverlayStatus::Ok),
        // Otherwise it may be behind because of the other problems, for as long as it has them.
        NodeCondition::Behind if !has_problems => Some(OverlayStatus::Configuring),
        // It is not known, but nothing says that it has failed.
        _ => node.applied.map(|_| OverlayStatus::Ok),
    }
}
