//! What the managers know about the nodes: the response to `GET /v1/nodes`.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{NodeSubnets, Revision, Versions, Vtep};

/// All nodes, or those that were asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NodeList {
    /// The current revision.
    pub revision: Revision,
    /// The nodes, ordered by name.
    pub nodes: Vec<NodeStatus>,
    /// The containers that have the address that was asked for, as far as the leader knows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<AddressOwner>,
}

/// A container that has an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AddressOwner {
    /// Its node's name or its agent's host name; none if that is not known.
    pub node: Option<String>,
    /// Its id with those of its parents, joined by dots, or the id of its endpoint; none if that is not
    /// known.
    pub container: Option<String>,
    /// The task's id; none if only the node has reported it.
    #[serde(default)]
    pub task: Option<String>,
    /// The framework's id.
    #[serde(default)]
    pub framework: Option<String>,
    /// The network's name; none if that is not known.
    #[serde(default)]
    pub network: Option<String>,
}

/// What the leader knows about a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its address in the underlay; none if it has not reported any.
    pub address: Option<IpAddr>,
    /// Whether it is connected and has applied everything.
    pub condition: NodeCondition,
    /// The revision that it has applied, as far as it has reported.
    pub applied: Option<Revision>,
    /// How many seconds ago it reported; none if it has not since the leader's term began.
    pub reported_seconds: Option<u64>,
    /// The MTU of its uplink, in bytes.
    #[serde(default)]
    pub uplink_mtu: Option<u32>,
    /// The versions of its programs.
    #[serde(default)]
    pub versions: Versions,
    /// A hash of its configuration.
    #[serde(default)]
    pub configuration: String,
    /// Its tunnel endpoint, if it was given one.
    #[serde(default)]
    pub vtep: Option<Vtep>,
    /// Its subnets.
    #[serde(default)]
    pub subnets: Vec<NodeSubnets>,
    /// How many of its containers are published for groups; none if it has not reported them since the
    /// leader's term began.
    #[serde(default)]
    pub endpoints: Option<usize>,
    /// What is not as it must be, a sentence each.
    #[serde(default)]
    pub problems: Vec<String>,
}

impl NodeStatus {
    /// Whether it is the address of the node, of its tunnel endpoint, or of a container on it.
    #[must_use]
    pub fn has_address(&self, address: IpAddr) -> bool {
        let vtep = self.vtep.is_some_and(|vtep| {
            address == IpAddr::V4(vtep.address) || Some(address) == vtep.address6.map(IpAddr::V6)
        });
        let mut subnets = self.subnets.iter().flat_map(NodeSubnets::subnets);
        vtep || self.address == Some(address) || subnets.any(|subnet| subnet.contains(&address))
    }
}

/// Whether a node follows the managers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum NodeCondition {
    /// It is connected, and has applied the current revision.
    Current,
    /// It is connected, and has applied an older revision or none.
    Behind,
    /// It is not connected, but was in the leader's term.
    Disconnected,
    /// It has not been connected since the leader's term began.
    Unseen,
    /// It was refused: it has nothing.
    Refused,
    /// A condition of a later version.
    #[serde(other)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}

impl NodeCondition {
    /// All conditions of this version.
    pub const ALL: [Self; 5] = [
        Self::Current,
        Self::Behind,
        Self::Disconnected,
        Self::Unseen,
        Self::Refused,
    ];

    /// Its stable code, as in JSON.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Behind => "behind",
            Self::Disconnected => "disconnected",
            Self::Unseen => "unseen",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for NodeCondition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.code())
    }
}
