//! What the tests have in common.

use anyhow::{Context as _, Result};
use contrail_mesos_api::cluster::{NodeList, NodeSubnets};
use ipnet::Ipv4Net;

/// The nodes' subnets of both overlays, in order.
pub(crate) fn subnets(list: &NodeList) -> Vec<(String, Vec<NodeSubnets>)> {
    let nodes = list.nodes.iter();
    nodes
        .map(|node| (node.name.clone(), node.subnets.clone()))
        .collect()
}

/// The IPv4 subnet of a node in an overlay.
pub(crate) fn subnet_of(list: &NodeList, node: &str, overlay: &str) -> Result<Ipv4Net> {
    let node = list.nodes.iter().find(|one| one.name == node);
    let subnets = node.into_iter().flat_map(|node| &node.subnets);
    let mut subnets = subnets.filter(|subnets| subnets.overlay == overlay);
    let subnet = subnets.next().and_then(|subnets| subnets.subnet);
    subnet.with_context(|| format!("no subnet of {overlay} in {list:?}"))
}
