//! Routes that make whole subnets local: the host takes all of their addresses for its own, without
//! having any of them. They are in the table `local`, by the loopback interface.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use nix::errno::Errno;

use super::netlink::{NetlinkError, NetlinkSocket, Request};
use super::routes::{RTM_DELROUTE, RTM_NEWROUTE};

const RTM_GETROUTE: u16 = 26;
/// The number of the routing table `local`.
pub(super) const RT_TABLE_LOCAL: u8 = 255;

/// A subnet that is local.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalRoute {
    /// The subnet, without host bits.
    pub subnet: IpNet,
    /// The source address of the host's own packets to it. Without one, it is the address that they
    /// are sent to.
    pub source: Option<IpAddr>,
}

fn message(subnet: IpNet, protocol: u8, loopback: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family(subnet);
    header.destination_prefix_length = subnet.prefix_len();
    header.table = RT_TABLE_LOCAL;
    header.protocol = RouteProtocol::from(protocol);
    header.scope = match subnet {
        IpNet::V4(_) => RouteScope::Host,
        IpNet::V6(_) => RouteScope::Universe,
    };
    header.kind = RouteType::Local;
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::from(subnet.network())),
        RouteAttribute::Oif(loopback),
    ];
    message
}

fn family(subnet: IpNet) -> AddressFamily {
    match subnet {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    }
}

impl LocalRoute {
    /// The request to add the route by the loopback interface with that index, with that protocol
    /// number. The kernel refuses it with `EEXIST` if the subnet has such a route.
    #[must_use]
    pub fn add(&self, protocol: u8, loopback: u32) -> Request {
        let mut message = message(self.subnet, protocol, loopback);
        let source = self.source.map(RouteAddress::from);
        message
            .attributes
            .extend(source.map(RouteAttribute::PrefSource));
        let action = format!("make {} local", self.subnet);
        Request::with_message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &message, action)
    }

    /// The request to remove the route. The kernel refuses it with `ESRCH` if it is gone.
    #[must_use]
    pub fn delete(&self, protocol: u8, loopback: u32) -> Request {
        let message = message(self.subnet, protocol, loopback);
        let action = format!("make {} local no longer", self.subnet);
        Request::with_message(RTM_DELROUTE, 0, &message, action)
    }
}

/// Lists the subnets that are local by routes with that protocol number.
pub fn of_protocol(
    socket: &mut NetlinkSocket,
    protocol: u8,
) -> Result<Vec<LocalRoute>, NetlinkError> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.table = RT_TABLE_LOCAL;
        message.header.protocol = RouteProtocol::from(protocol);
        let list = Request::with_message(RTM_GETROUTE, 0, &message, "list the local routes");
        match socket.list(&list, |bytes| parse(bytes, protocol)) {
            // A kernel without IPv6.
            Err(error)
                if family == AddressFamily::Inet6 && error.errno() == Some(Errno::EOPNOTSUPP) => {}
            found => routes.extend(found?),
        }
    }
    Ok(routes)
}

fn parse(bytes: &[u8], protocol: u8) -> Option<LocalRoute> {
    let message = RouteMessage::parse(bytes).ok()?;
    let header: &RouteHeader = &message.header;
    if header.table != RT_TABLE_LOCAL
        || u8::from(header.protocol) != protocol
        || header.kind != RouteType::Local
    {
        return None;
    }
    let (mut destination, mut source) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::PrefSource(address) => source = ip(address),
            _ => {}
        }
    }
    Some(LocalRoute {
        subnet: IpNet::new(destination?, header.destination_prefix_length).ok()?,
        source,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

#[cfg(test)]
mod root_tests {
    use super::*;
    use crate::net::testing::{isolated, run};

    #[test]
    fn routes_are_added_listed_and_removed() {
        isolated(|| {
            run("ip", "link add d0 up type bridge");
            run("ip", "addr add 192.0.2.1/24 dev d0");
            run("ip", "addr add 2001:db8::1/64 dev d0 nodad");
            run("ip", "route add local 203.0.113.0/24 dev lo");
            let route = |subnet: &str, source: Option<&str>| LocalRoute {
                subnet: subnet.parse().unwrap(),
                source: source.map(|source| source.parse().unwrap()),
            };
            let routes = [
                route("198.18.0.0/16", Some("192.0.2.1")),
                route("fd4a::/112", Some("2001:db8::1")),
                route("fd4b::/112", None),
            ];
            let mut socket = NetlinkSocket::strict_route().unwrap();
            let requests = routes.map(|route| route.add(133, 1));
            socket.execute_all(&requests).unwrap();
            assert_eq!(of_protocol(&mut socket, 133).unwrap(), routes);
            let way = run("ip", "route get 198.18.3.4");
            assert!(
                way.contains("local 198.18.3.4 dev lo src 192.0.2.1"),
                "{way}"
            );
            let way = run("ip", "-6 route get fd4a::9");
            assert!(way.contains("src 2001:db8::1"), "{way}");
            let again = socket.execute(&requests).unwrap();
            let exists = |result: &Result<(), NetlinkError>| {
                result.as_ref().err().and_then(NetlinkError::errno) == Some(Errno::EEXIST)
            };
            assert!(again.iter().all(exists), "{again:?}");
            socket
                .execute_all(&routes.map(|route| route.delete(133, 1)))
                .unwrap();
            assert_eq!(of_protocol(&mut socket, 133).unwrap(), []);
            assert!(run("ip", "route list table local").contains("203.0.113.0/24"));
        });
    }
}
