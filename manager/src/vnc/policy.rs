//! The objects that say what may pass: security groups and network policies.

use serde::Deserialize as _;
use uuid::Uuid;

use super::object::{Ref, object};
use super::objects::Prefix;

object! {
    /// What may pass into and out of the interfaces that refer to it.
    SecurityGroup = "security-group" in Some("project"), {
        /// The rules. What none of them allows is dropped.
        security_group_entries: Option<PolicyEntries>,
        /// Given by the server, from 8000000 on.
        #[serde(skip_serializing)]
        security_group_id: Option<i64>,
        /// The interfaces, when what refers to it was asked for.
        #[serde(skip_serializing)]
        virtual_machine_interface_back_refs: Vec<Ref>,
    }
}

object! {
    /// What may pass between networks.
    NetworkPolicy = "network-policy" in Some("project"), {
        /// The rules.
        network_policy_entries: Option<PolicyEntries>,
        /// The networks, when what refers to it was asked for.
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
    /// A rule. Each of a security group has `local` on one side.
    PolicyRule, {
        /// `>` or `<>`.
        direction: Option<String>,
        /// `any`, `tcp`, `udp`, `icmp`, … or a number.
        protocol: Option<String>,
        /// `IPv4` or `IPv6`.
        ethertype: Option<String>,
        /// From.
        src_addresses: Vec<PolicyAddress>,
        /// From these.
        src_ports: Vec<PortRange>,
        /// To.
        dst_addresses: Vec<PolicyAddress>,
        /// To these.
        dst_ports: Vec<PortRange>,
        /// What happens, in a network policy.
        action_list: Option<Actions>,
        /// Given by the server.
        rule_uuid: Option<Uuid>,
    }
}

object! {
    /// One end of a rule: one of these.
    PolicyAddress, {
        /// A prefix.
        subnet: Option<Prefix>,
        /// A network's name with colons, or `any`.
        virtual_network: Option<String>,
        /// A group's name with colons, or `local`: the interfaces of the rule's own group.
        security_group: Option<String>,
        /// A policy's name with colons: the networks that it is attached to.
        network_policy: Option<String>,
    }
}

/// Ports, both ends included; −1 is any. Both ends are always sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct PortRange {
    /// The first.
    #[serde(deserialize_with = "port")]
    pub start_port: i32,
    /// The last.
    #[serde(deserialize_with = "port")]
    pub end_port: i32,
}

impl PortRange {
    /// Every port, as security groups say it.
    pub const ALL: Self = Self {
        start_port: 0,
        end_port: 65535,
    };
    /// Every port, as network policies say it.
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
    /// What a network policy does.
    Actions, {
        /// `pass` or `deny`.
        simple_action: Option<String>,
    }
}
