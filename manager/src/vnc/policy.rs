//! Traffic rules: security groups and network policies.

use serde::Deserialize as _;
use uuid::Uuid;

use super::object::{Ref, object};
use super::objects::Prefix;

object! {
    /// Traffic allowed into and out of the interfaces that refer to it.
    SecurityGroup = "security-group" in Some("project"), {
        /// The rules. Traffic that no rule allows is dropped.
        security_group_entries: Option<PolicyEntries>,
        /// Assigned by the server, from 8000000 on.
        #[serde(skip_serializing)]
        security_group_id: Option<i64>,
        /// The interfaces; only with back references.
        #[serde(skip_serializing)]
        virtual_machine_interface_back_refs: Vec<Ref>,
    }
}

object! {
    /// Traffic allowed between networks.
    NetworkPolicy = "network-policy" in Some("project"), {
        /// The rules.
        network_policy_entries: Option<PolicyEntries>,
        /// The networks; only with back references.
        #[serde(skip_serializing)]
        virtual_network_back_refs: Vec<Ref<super::objects::PolicyAttachment>>,
    }
}

object! {
    /// Rules, in order.
    PolicyEntries, {
        /// The rules.
        policy_rule: Vec<PolicyRule>,
    }
}

object! {
    /// A rule. In a security group, one side is `local`.
    PolicyRule, {
        /// `>` or `<>`.
        direction: Option<String>,
        /// `any`, `tcp`, `udp`, `icmp`, … or a number.
        protocol: Option<String>,
        /// `IPv4` or `IPv6`.
        ethertype: Option<String>,
        /// Source addresses.
        src_addresses: Vec<PolicyAddress>,
        /// Source ports.
        src_ports: Vec<PortRange>,
        /// Destination addresses.
        dst_addresses: Vec<PolicyAddress>,
        /// Destination ports.
        dst_ports: Vec<PortRange>,
        /// The actions, in a network policy.
        action_list: Option<Actions>,
        /// Assigned by the server.
        rule_uuid: Option<Uuid>,
    }
}

object! {
    /// One side of a rule; exactly one field is set.
    PolicyAddress, {
        /// A prefix.
        subnet: Option<Prefix>,
        /// A network's name, separated by colons, or `any`.
        virtual_network: Option<String>,
        /// A group's name, separated by colons, or `local`: the interfaces of the rule's group.
        security_group: Option<String>,
        /// A policy's name, separated by colons: the networks that it is attached to.
        network_policy: Option<String>,
    }
}

/// A range of ports, inclusive; −1 is any port. Both ends are always sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct PortRange {
    /// The first port.
    #[serde(deserialize_with = "port")]
    pub start_port: i32,
    /// The last port.
    #[serde(deserialize_with = "port")]
    pub end_port: i32,
}

impl PortRange {
    /// Every port, in the notation of security groups.
    pub const ALL: Self = Self {
        start_port: 0,
        end_port: 65535,
    };
    /// Every port, in the notation of network policies.
    pub const ANY: Self = Self {
        start_port: -1,
        end_port: -1,
    };
}

impl Default for PortRange {
    fn default() -> Self {
        Self::ANY
    }
}

fn port<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<i32, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(-1))
}

object! {
    /// The actions of a network policy.
    Actions, {
        /// `pass` or `deny`.
        simple_action: Option<String>,
    }
}
