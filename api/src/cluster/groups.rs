//! Groups of containers, and which traffic between them is allowed.
//!
//! On a network that isolates groups, traffic to a container is allowed from the members of its groups,
//! from what the rules of its security groups name, and from what the [`Admission`] of the network
//! names. A container without any group is reached by other containers without any. Replies are always
//! allowed, and so is all traffic to destinations on other networks. The destination's host decides.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The longest name of a group, in bytes.
pub const MAX_GROUP_NAME_BYTES: usize = 128;
/// The most groups and security groups that a container can have on a network.
pub const MAX_GROUPS: usize = 64;

/// Whether a group can have that name: up to [`MAX_GROUP_NAME_BYTES`] printable ASCII characters
/// without spaces, commas, quotes and backslashes.
#[must_use]
pub fn is_group_name(name: &str) -> bool {
    (1..=MAX_GROUP_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !b",\"'\\`".contains(&byte))
}

/// The groups of a container on one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Membership {
    /// The groups whose members reach each other; sorted, distinct.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// The security groups, whose rules name who reaches the container; sorted, distinct.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub security_groups: Vec<String>,
}

impl Membership {
    /// Whether the container has no group.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.security_groups.is_empty()
    }
}

/// What else reaches the containers of a network that isolates groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Admission {
    /// The host of a container and, on an overlay, all its nodes: such as health checks of agents.
    pub hosts: bool,
    /// Clients of mapped ports that are not on networks that isolate groups.
    pub mapped_ports: bool,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            hosts: true,
            mapped_ports: true,
        }
    }
}

/// A container on an overlay that isolates groups, as its node reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Endpoint {
    /// The name of its node.
    pub node: String,
    /// What distinguishes it from the others of its node.
    pub id: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its groups.
    #[serde(flatten)]
    pub membership: Membership,
}

/// A security group. The managers' configuration has its rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SecurityGroup {
    /// Its name.
    pub name: String,
    /// What reaches its members. Without any, nothing does.
    pub rules: Vec<IngressRule>,
}

/// One kind of traffic that reaches the members of a security group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct IngressRule {
    /// The number of the IP protocol (`ICMP` and `ICMPv6` are two); none for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// The first and the last destination port, of TCP, UDP or SCTP; none for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<(u16, u16)>,
    /// Where it comes from.
    pub source: RuleSource,
}

/// Where the traffic of an [`IngressRule`] comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum RuleSource {
    /// The containers that name this group, as a group or as a security group.
    Group(String),
    /// The addresses of a subnet. `0.0.0.0/0` and `::/0` contain containers of other groups, too.
    Subnet(IpNet),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_groups_are_short_and_printable() {
        for name in ["web", "default-domain:p:db", "a/b", &"x".repeat(128)] {
            assert!(is_group_name(name), "{name}");
        }
        for name in ["", "a b", "a,b", "a\"b", "é", "a\n", &"x".repeat(129)] {
            assert!(!is_group_name(name), "{name}");
        }
    }
}
