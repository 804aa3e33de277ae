//! The parts of a plan outside nftables, and the commands that add and remove them.
//!
//! Invariant: items can be added in the order of the variants, and removed in the reverse order.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::plan::{MacOctets, Plan};
use contrail_mesos_api::container::Mac;

/// The label of addresses on the uplink.
pub(super) const UPLINK_LABEL: &str = "cvr";
/// The MAC address of every network's gateway, on every host.
pub(super) const GATEWAY_MAC: Mac = Mac([0x02, 0x00, 0x5e, 0x00, 0x01, 0x00]);
/// The UDP port of VXLAN.
const VXLAN_PORT: u16 = 4789;

/// A part of a plan.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    Bridge(String),
    Vxlan {
        name: String,
        number: u64,
        bridge: String,
    },
    /// Of a bridge.
    Address(String, IpAddr),
    /// Through a bridge.
    Neighbour(String, IpAddr, MacOctets),
    /// Through a bridge.
    Route(String, IpAddr),
    /// A tap as a port of a bridge.
    Port(String, String),
    /// Of the uplink.
    Floating(String, IpAddr),
    /// Of a VXLAN: to all other hosts, or to the host of an interface.
    Forward(String, MacOctets, IpAddr),
}

/// All items of a plan.
pub(super) fn items(plan: &Plan, uplink: Option<&str>) -> BTreeSet<Item> {
    let mut items = BTreeSet::new();
    for network in plan.networks.values() {
        let bridge = &network.bridge;
        items.insert(Item::Bridge(bridge.clone()));
        items.insert(Item::Vxlan {
            name: network.vxlan.clone(),
            number: network.number,
            bridge: bridge.clone(),
        });
        let everywhere = [0; 6];
        let all = plan.peers.iter().map(|peer| (everywhere, *peer));
        let remote = network.remote.iter().map(|(mac, peer)| (*mac, *peer));
        items.extend(
            all.chain(remote)
                .map(|(mac, peer)| Item::Forward(network.vxlan.clone(), mac, peer)),
        );
        if !network.routed {
            continue;
        }
        let local = network.local.iter();
        items.extend(local.map(|address| Item::Address(bridge.clone(), *address)));
        for (address, mac) in &network.hosts {
            items.insert(Item::Neighbour(bridge.clone(), *address, *mac));
            items.insert(Item::Route(bridge.clone(), *address));
        }
    }
    for (name, tap) in &plan.taps {
        if let Some(network) = plan.networks.get(&tap.network) {
            items.insert(Item::Port(name.clone(), network.bridge.clone()));
        }
    }
    if let Some(uplink) = uplink {
        let floating = plan.floating.keys();
        items.extend(floating.map(|address| Item::Floating(uplink.to_owned(), *address)));
    }
    items
}

impl Item {
    /// Whether `bridge` adds it instead of `ip`.
    pub(super) fn is_fdb(&self) -> bool {
        matches!(self, Self::Forward(..))
    }

    /// The link that it depends on.
    pub(super) fn link(&self) -> &str {
        match self {
            Self::Bridge(name)
            | Self::Vxlan { name, .. }
            | Self::Address(name, _)
            | Self::Neighbour(name, ..)
            | Self::Route(name, _)
            | Self::Port(name, _)
            | Self::Floating(name, _)
            | Self::Forward(name, ..) => name,
        }
    }

    /// Whether it is itself a link.
    pub(super) fn is_link(&self) -> bool {
        matches!(self, Self::Bridge(_) | Self::Vxlan { .. })
    }

    /// The commands that add it; `own` is the host's address.
    pub(super) fn add_commands(&self, own: IpAddr) -> Vec<String> {
        match self {
            Self::Bridge(name) => vec![
                format!(
                    "link add name {name} address {GATEWAY_MAC} type bridge nf_call_iptables 1 \
                     nf_call_ip6tables 1 mcast_snooping 0"
                ),
                format!("link set dev {name} addrgenmode none up"),
            ],
            Self::Vxlan {
                name,
                number,
                bridge,
            } => vec![
                // Without a device the kernel allows the inner MTU, and fragments the outer packet.
                format!(
                    "link add name {name} mtu 1500 type vxlan id {number} local {own} \
                     dstport {VXLAN_PORT} nolearning"
                ),
                format!("link set dev {name} addrgenmode none master {bridge} up"),
            ],
            Self::Address(bridge, address) => {
                let more = if address.is_ipv6() { " nodad" } else { "" };
                vec![format!(
                    "address add {address}/{} dev {bridge}{more}",
                    length(*address)
                )]
            }
            Self::Neighbour(bridge, address, mac) => vec![format!(
                "neighbour replace {address} lladdr {} dev {bridge} nud permanent",
                Mac(*mac)
            )],
            Self::Route(bridge, address) => {
                vec![format!(
                    "route add {address}/{} dev {bridge}",
                    length(*address)
                )]
            }
            Self::Port(tap, bridge) => vec![
                format!("link set dev {tap} master {bridge}"),
                format!("link set dev {tap} up"),
            ],
            Self::Floating(uplink, address) => {
                let more = match address {
                    IpAddr::V4(_) => format!(" label {uplink}:{UPLINK_LABEL}"),
                    IpAddr::V6(_) => " nodad".to_owned(),
                };
                vec![format!(
                    "address add {address}/{} dev {uplink}{more}",
                    length(*address)
                )]
            }
            Self::Forward(vxlan, mac, peer) => {
                // Broadcast has one entry per host.
                let how = if *mac == [0; 6] { "append" } else { "replace" };
                vec![format!(
                    "fdb {how} {} dev {vxlan} dst {peer} self permanent",
                    Mac(*mac)
                )]
            }
        }
    }

    /// The command that removes it.
    pub(super) fn remove_command(&self) -> String {
        match self {
            Self::Bridge(name) | Self::Vxlan { name, .. } => format!("link delete dev {name}"),
            Self::Address(on, address) | Self::Floating(on, address) => {
                format!("address delete {address}/{} dev {on}", length(*address))
            }
            Self::Neighbour(bridge, address, _) => {
                format!("neighbour delete {address} dev {bridge}")
            }
            Self::Route(bridge, address) => {
                format!("route delete {address}/{} dev {bridge}", length(*address))
            }
            Self::Port(tap, _) => format!("link set dev {tap} nomaster"),
            Self::Forward(vxlan, mac, peer) => {
                format!("fdb delete {} dev {vxlan} dst {peer} self", Mac(*mac))
            }
        }
    }
}

fn length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}
