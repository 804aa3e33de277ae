//! What a node reports, and the manager's answer.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Endpoint, Node, Revision};

/// The longest [`EndpointsReport`] that a manager accepts, in bytes of its JSON. A node leaves out the
/// longest entries beyond it: enough for thousands of containers with a few groups each.
pub const MAX_ENDPOINTS_REPORT_BYTES: usize = 2 << 20;
/// The most entries of an [`EndpointsReport`] that a manager publishes: more than the subnets of a node
/// have room for in most clusters.
pub const MAX_REPORTED_ENDPOINTS: usize = 4096;

/// What a node says of itself. The first report of a node registers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NodeReport {
    /// Its address in the underlay.
    pub address: IpAddr,
    /// The MTU of the interface with that address, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink_mtu: Option<u32>,
    /// The versions of its programs.
    #[serde(default)]
    pub versions: Versions,
    /// A hash of its configuration, to see which nodes have which.
    #[serde(default)]
    pub configuration: String,
    /// The revision that it has applied completely; none before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<Revision>,
    /// The state of each of its subsystems.
    #[serde(default)]
    pub subsystems: Vec<SubsystemReport>,
    /// A digest of its [`EndpointsReport`], so that a manager which does not have it asks for it; none
    /// while the node does not know its endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<String>,
    /// What it needs of the overlays that lend blocks, ordered by the overlay's name; none of an overlay
    /// that it does not know yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<BlockReport>,
}

/// What a node needs of an overlay that lends blocks, and what it gives back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BlockReport {
    /// The overlay's name.
    pub overlay: String,
    /// How many IPv4 addresses containers have.
    #[serde(default)]
    pub used: u32,
    /// How many IPv4 addresses it wants for containers: those that are used and a reserve.
    #[serde(default)]
    pub wanted: u32,
    /// How many IPv6 addresses containers have.
    #[serde(default)]
    pub used6: u32,
    /// How many IPv6 addresses it wants.
    #[serde(default)]
    pub wanted6: u32,
    /// The blocks that it gives back: it has stopped to use them, and will not use them until it is
    /// given them again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub returns: Vec<IpNet>,
    /// What [`NodeSubnets::returned`](super::NodeSubnets::returned) was when it stopped to use them.
    #[serde(default)]
    pub returned: u64,
}

/// All containers of a node that are on overlays which isolate groups, but for those beyond
/// [`MAX_ENDPOINTS_REPORT_BYTES`] and [`MAX_REPORTED_ENDPOINTS`]. It replaces the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EndpointsReport {
    /// What [`NodeReport::endpoints`] has for this list.
    pub digest: String,
    /// The containers, ordered by id.
    pub endpoints: Vec<Endpoint>,
}

/// Versions of a node's programs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Versions {
    /// Of the node daemon.
    pub node: String,
    /// Of the kernel.
    pub kernel: String,
}

/// The state of one subsystem of a node daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SubsystemReport {
    /// Its name, such as `overlay`.
    pub name: String,
    /// What is not as it must be; empty if nothing.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// The answer to a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NodeAnswer {
    /// The node with what it was given; none if it has nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Node>,
    /// What it cannot be given, such as a subnet of an overlay that is used up.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Whether the manager lacks the node's [`EndpointsReport`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub send_endpoints: bool,
}
