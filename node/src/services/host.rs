//! What the data path of services depends on of this host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use contrail_mesos::net::netlink::{NetlinkError, NetlinkSocket};
use contrail_mesos::net::{addressing, links, local_routes, rules};
use ipnet::IpNet;

use crate::overlay::ROUTE_PROTOCOL;

/// This host's interfaces and addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Host {
    /// All of its addresses.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Bridges whose containers reach each other without the host's IP layer.
    pub(super) bridges: BTreeSet<String>,
    /// Bridges and VXLAN devices.
    pub(super) inside: BTreeSet<String>,
    /// The index of the loopback interface.
    pub(super) loopback: u32,
    /// The addresses of the other interfaces that other hosts may know, by the interface.
    pub(super) outside: BTreeMap<u32, Vec<IpAddr>>,
    /// The same of bridges and VXLAN devices.
    pub(super) of_inside: Vec<IpAddr>,
    /// The subnets of all interfaces but the loopback interface.
    pub(super) nets: Vec<IpNet>,
    /// The source addresses of the present routes of ranges.
    pub(super) sources: BTreeMap<IpNet, IpAddr>,
    /// Whether the loopback interface has IPv6, which routes of the table `local` need.
    pub(super) has_ipv6: bool,
}

/// In the calling thread's network namespace.
const LOOPBACK_WITHOUT_IPV6: &str = "/proc/sys/net/ipv6/conf/lo/disable_ipv6";

impl Host {
    /// Reads them in the calling thread's network namespace.
    pub(super) fn read() -> Result<Self, NetlinkError> {
        let mut socket = NetlinkSocket::route()?;
        let closed: Vec<IpNet> = rules::all(&mut socket)?
            .into_iter()
            .filter(|rule| rule.kind == rules::RuleKind::Blackhole)
            .map(|rule| rule.subnet)
            .collect();
        let mut nets: BTreeMap<u32, Vec<IpNet>> = BTreeMap::new();
        for (index, net) in addressing::addresses(&mut socket)? {
            nets.entry(index).or_default().push(net);
        }
        let mut host = Self {
            // A kernel without IPv6 has no such file.
            has_ipv6: std::fs::read_to_string(LOOPBACK_WITHOUT_IPV6)
                .is_ok_and(|is_disabled| is_disabled.trim() == "0"),
            ..Self::default()
        };
        let mut strict = NetlinkSocket::strict_route()?;
        for route in local_routes::of_protocol(&mut strict, ROUTE_PROTOCOL)? {
            let source = route.source.map(|source| (route.subnet, source));
            host.sources.extend(source);
        }
        for link in links::all(&mut socket)? {
            let nets = nets.remove(&link.index).unwrap_or_default();
            // Link-local addresses are those of many hosts, and come and go with each container.
            let addresses = nets.iter().map(IpNet::addr);
            host.addresses
                .extend(addresses.filter(|address| !is_link_local(address)));
            if link.name == "lo" {
                host.loopback = link.index;
                continue;
            }
            host.nets
                .extend(nets.iter().filter(|net| is_global(&net.addr())));
            let addresses = nets.iter().map(IpNet::addr).filter(is_global);
            let is_bridge = link.kind.as_deref() == Some("bridge");
            if is_bridge || link.kind.as_deref() == Some("vxlan") {
                host.of_inside.extend(addresses);
                host.inside.insert(link.name.clone());
            } else {
                host.outside
                    .entry(link.index)
                    .or_default()
                    .extend(addresses);
            }
            let is_closed = nets.iter().any(|net| closed.contains(&net.trunc()));
            if is_bridge && !is_closed {
                host.bridges.insert(link.name);
            }
        }
        Ok(host)
    }

    /// The source address of the host's own packets to a range of services: that of the node, or another
    /// one of its interface, or any that there is. The present one stays among equals, so that addresses
    /// that come and go, such as those of IPv6 privacy extensions, change nothing.
    pub(super) fn source(&self, range: IpNet, node: Option<IpAddr>) -> Option<IpAddr> {
        let of_family = |address: &&IpAddr| address.is_ipv4() == range.addr().is_ipv4();
        let node = node.filter(|node| self.addresses.contains(node));
        if let Some(node) = node.as_ref().filter(of_family) {
            return Some(*node);
        }
        let present = self.sources.get(&range.trunc());
        let choose = |addresses: &mut dyn Iterator<Item = &IpAddr>| {
            let all: Vec<_> = addresses.filter(of_family).collect();
            let kept = present.filter(|present| all.contains(present));
            kept.or(all.first().copied()).copied()
        };
        let uplink = self
            .outside
            .values()
            .find(|addresses| node.is_some_and(|node| addresses.contains(&node)));
        choose(&mut uplink.into_iter().flatten())
            .or_else(|| choose(&mut self.outside.values().flatten()))
            .or_else(|| choose(&mut self.of_inside.iter()))
    }
}

fn is_global(address: &IpAddr) -> bool {
    !is_link_local(address) && !address.is_loopback()
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn v4() -> IpNet {
        "198.18.0.0/16".parse().unwrap()
    }

    fn v6() -> IpNet {
        "fd4a::/112".parse().unwrap()
    }

    #[test]
    fn source_is_the_node_or_else_an_address_of_its_interface() {
        let mut host = Host {
            of_inside: vec![address("fd09::1")],
            ..Host::default()
        };
        host.outside
            .insert(2, vec![address("192.0.2.9"), address("2001:db8::9")]);
        host.outside
            .insert(3, vec![address("192.0.2.1"), address("2001:db8::1")]);
        let outside = host.outside.values().flatten().copied();
        host.addresses = outside.chain(host.of_inside.clone()).collect();
        let node = Some(address("192.0.2.1"));
        assert_eq!(host.source(v4(), node), node);
        assert_eq!(host.source(v6(), node), Some(address("2001:db8::1")));
        // Another address comes before that of the present route.
        host.sources.insert(v6(), address("2001:db8::1"));
        let addresses = host.outside.get_mut(&3).unwrap();
        addresses.insert(0, address("2001:db8::77"));
        assert_eq!(host.source(v6(), node), Some(address("2001:db8::1")));
        // The present one is gone.
        host.sources.insert(v6(), address("2001:db8::88"));
        assert_eq!(host.source(v6(), node), Some(address("2001:db8::77")));
        // An address that this host does not have.
        let other = Some(address("203.0.113.1"));
        assert_eq!(host.source(v4(), other), Some(address("192.0.2.9")));
        host.outside.clear();
        assert_eq!(host.source(v6(), None), Some(address("fd09::1")));
        assert_eq!(host.source(v4(), None), None);
    }
}
