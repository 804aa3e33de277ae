//! What the data path of services depends on of this host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use contrail_mesos::net::netlink::{NetlinkError, NetlinkSocket};
use contrail_mesos::net::{addressing, links, rules};
use ipnet::IpNet;

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
}

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
        let mut host = Self::default();
        for link in links::all(&mut socket)? {
            let nets = nets.remove(&link.index).unwrap_or_default();
            host.addresses.extend(nets.iter().map(IpNet::addr));
            if link.name == "lo" {
                host.loopback = link.index;
                continue;
            }
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

    /// The source address of the host's own packets to services of a family: that of the node, or
    /// another one of its interface, or any that there is.
    pub(super) fn source(&self, is_v4: bool, node: Option<IpAddr>) -> Option<IpAddr> {
        let of_family = |address: &&IpAddr| address.is_ipv4() == is_v4;
        let node = node.filter(|node| self.addresses.contains(node));
        if let Some(node) = node.as_ref().filter(of_family) {
            return Some(*node);
        }
        let uplink = self
            .outside
            .values()
            .find(|addresses| node.is_some_and(|node| addresses.contains(&node)));
        let others = self.outside.values();
        let mut all = uplink
            .into_iter()
            .chain(others)
            .flatten()
            .chain(&self.of_inside);
        all.find(of_family).copied()
    }
}

fn is_global(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_link_local() && !address.is_loopback(),
        IpAddr::V6(address) => !address.is_unicast_link_local() && !address.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
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
        assert_eq!(host.source(true, node), node);
        assert_eq!(host.source(false, node), Some(address("2001:db8::1")));
        // An address that this host does not have.
        let other = Some(address("203.0.113.1"));
        assert_eq!(host.source(true, other), Some(address("192.0.2.9")));
        host.outside.clear();
        assert_eq!(host.source(false, None), Some(address("fd09::1")));
        assert_eq!(host.source(true, None), None);
    }
}
