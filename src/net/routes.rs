//! The routes of a network namespace, and those of one program in it: it tells its own by their
//! protocol number.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};

use super::addressing::unspecified;
use super::netlink::{NetlinkError, NetlinkSocket, Request};

/// The type of messages that add a route.
pub(super) const RTM_NEWROUTE: u16 = 24;
/// The type of messages that remove one.
pub(super) const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;

/// A unicast route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destination; a prefix of length zero for a default route.
    pub destination: IpNet,
    /// Indexes of the links by which packets leave; several for a multipath route.
    pub links: Vec<u32>,
}

/// Lists the unicast routes of the main table, of both families.
pub fn all(socket: &mut NetlinkSocket) -> Result<Vec<Route>, NetlinkError> {
    let message = RouteMessage::default();
    let mut routes = Vec::new();
    socket.dump(
        &Request::with_message(RTM_GETROUTE, 0, &message, "list the routes"),
        // Skips a route that cannot be parsed, rather than failing for all.
        |bytes| routes.extend(RouteMessage::parse(bytes).ok().as_ref().and_then(read)),
    )?;
    Ok(routes)
}

fn read(message: &RouteMessage) -> Option<Route> {
    let MainRoute {
        destination, links, ..
    } = main_route(message)?;
    let is_unicast = message.header.kind == RouteType::Unicast;
    is_unicast.then_some(Route { destination, links })
}

/// What a message says about a route of the main table.
struct MainRoute {
    destination: IpNet,
    links: Vec<u32>,
    gateway: Option<IpAddr>,
    metric: u32,
    /// Whether there is anything besides one link and one gateway.
    has_more: bool,
}

fn main_route(message: &RouteMessage) -> Option<MainRoute> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut network = match header.address_family {
        AddressFamily::Inet => unspecified(true),
        AddressFamily::Inet6 => unspecified(false),
        _ => return None,
    };
    let mut links = Vec::new();
    let (mut gateway, mut metric, mut has_more) = (None, 0, false);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => network = ip(address)?,
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Oif(index) => links.push(*index),
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::MultiPath(hops) => {
                links.extend(hops.iter().map(|hop| hop.interface_index));
                has_more = true;
            }
            RouteAttribute::Via(_)
            | RouteAttribute::Encap(_)
            | RouteAttribute::NhId(_)
            | RouteAttribute::Source(_) => has_more = true,
            _ => {}
        }
    }
    let destination = IpNet::new(network, header.destination_prefix_length).ok()?;
    (table == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(MainRoute {
        destination,
        links,
        gateway,
        metric,
        has_more,
    })
}

/// A unicast route of the main table by one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GatewayRoute {
    /// The destination, without host bits.
    pub destination: IpNet,
    /// The gateway, of the same family. It is taken to be on the link, whatever addresses that has.
    pub gateway: IpAddr,
    /// The index of the link.
    pub index: u32,
}

/// A route as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundRoute {
    /// The destination, without host bits.
    pub destination: IpNet,
    /// The protocol number of the program that added it.
    pub protocol: u8,
    /// The index of the first link.
    pub index: Option<u32>,
    /// The gateway of the first link.
    pub gateway: Option<IpAddr>,
    /// Its metric; the lowest is used.
    pub metric: u32,
    /// Whether it differs from what [`add`] makes in more than that: it is of another type, has
    /// several links, or its gateway must be in a subnet of the link.
    pub is_altered: bool,
}

impl FoundRoute {
    /// Whether the route is as [`add`] makes it.
    #[must_use]
    pub fn is(&self, route: &GatewayRoute) -> bool {
        let has_metric = self.metric == default_metric(route.destination);
        !self.is_altered
            && has_metric
            && self.destination == route.destination
            && (self.index, self.gateway) == (Some(route.index), Some(route.gateway))
    }
}

/// The metric of a route that was added without one.
fn default_metric(destination: IpNet) -> u32 {
    match destination {
        IpNet::V4(_) => 0,
        IpNet::V6(_) => 1024,
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn message(destination: IpNet, protocol: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family(destination.addr());
    header.destination_prefix_length = destination.prefix_len();
    header.table = RouteHeader::RT_TABLE_MAIN;
    header.protocol = RouteProtocol::from(protocol);
    header.scope = RouteScope::Universe;
    header.kind = RouteType::Unicast;
    if destination.prefix_len() > 0 {
        let network = RouteAddress::from(destination.network());
        message
            .attributes
            .push(RouteAttribute::Destination(network));
    }
    message
}

/// The request to add a route with that protocol number. The kernel refuses it with `EEXIST` if
/// there is a route with this destination and metric.
#[must_use]
pub fn add(route: &GatewayRoute, protocol: u8) -> Request {
    let mut message = message(route.destination, protocol);
    message.header.flags = RouteFlags::Onlink;
    message.attributes.extend([
        RouteAttribute::Gateway(RouteAddress::from(route.gateway)),
        RouteAttribute::Oif(route.index),
    ]);
    let action = format!("route {} by {}", route.destination, route.gateway);
    Request::with_message(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &message, action)
}

/// The request to remove this route, and no other one with its destination. The kernel refuses it
/// with `ESRCH` if it is gone.
#[must_use]
pub fn delete(route: &FoundRoute) -> Request {
    let mut message = message(route.destination, route.protocol);
    message.header.kind = RouteType::Unspec;
    // The kernel compares the scope of IPv4 routes unless it is this one.
    message.header.scope = RouteScope::NoWhere;
    message
        .attributes
        .push(RouteAttribute::Priority(route.metric));
    if !route.is_altered {
        let gateway = route.gateway.map(RouteAddress::from);
        message
            .attributes
            .extend(gateway.map(RouteAttribute::Gateway));
        message
            .attributes
            .extend(route.index.map(RouteAttribute::Oif));
    }
    let action = format!("remove the route {}", route.destination);
    Request::with_message(RTM_DELROUTE, 0, &message, action)
}

/// Lists the routes of the main table, of both families, with that protocol number. With a socket
/// of [`NetlinkSocket::strict_route`] the kernel leaves out all others.
pub fn of_protocol(
    socket: &mut NetlinkSocket,
    protocol: u8,
) -> Result<Vec<FoundRoute>, NetlinkError> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::from(protocol);
        let list = Request::with_message(RTM_GETROUTE, 0, &message, "list our routes");
        let found = socket.list(&list, |bytes| {
            parse(bytes).filter(|route| route.protocol == protocol)
        });
        match found {
            // A kernel without IPv6.
            Err(error)
                if family == AddressFamily::Inet6
                    && error.errno() == Some(nix::errno::Errno::EOPNOTSUPP) => {}
            found => routes.extend(found?),
        }
    }
    Ok(routes)
}

/// The route that packets to `destination` take, as its longest prefix tells; none if there is none.
pub fn lookup(
    socket: &mut NetlinkSocket,
    destination: IpAddr,
) -> Result<Option<FoundRoute>, NetlinkError> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination);
    message.header.destination_prefix_length = IpNet::from(destination).prefix_len();
    message.header.flags = RouteFlags::FibMatch;
    if destination.is_ipv4() {
        // Always so for IPv6, which refuses the flag.
        message.header.flags |= RouteFlags::LookupTable;
    }
    message.attributes = vec![RouteAttribute::Destination(RouteAddress::from(destination))];
    let action = format!("look up the route to {destination}");
    match socket.get(&Request::with_message(RTM_GETROUTE, 0, &message, action)) {
        Ok(bytes) => Ok(parse(&bytes)),
        // There is no route, or one that refuses.
        Err(error) if error.errno().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Parses a message about a route of the main table.
pub(super) fn parse(bytes: &[u8]) -> Option<FoundRoute> {
    let message = RouteMessage::parse(bytes).ok()?;
    let route = main_route(&message)?;
    let header = &message.header;
    Some(FoundRoute {
        destination: route.destination,
        protocol: header.protocol.into(),
        index: route.links.first().copied(),
        gateway: route.gateway,
        metric: route.metric,
        is_altered: header.kind != RouteType::Unicast
            || !header.flags.contains(RouteFlags::Onlink)
            || header.tos != 0
            || route.has_more,
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
    use nix::errno::Errno;

    use super::*;
    use crate::net::testing::{isolated, run};

    const PROTOCOL: u8 = 133;

    fn link(name: &str) -> u32 {
        run("ip", &format!("link add {name} type bridge"));
        run("ip", &format!("link set {name} up"));
        nix::net::if_::if_nametoindex(name).unwrap()
    }

    fn route(destination: &str, gateway: &str, index: u32) -> GatewayRoute {
        GatewayRoute {
            destination: destination.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
            index,
        }
    }

    #[test]
    fn routes_of_a_protocol_are_added_listed_and_deleted() {
        isolated(|| {
            let index = link("d0");
            let mut socket = NetlinkSocket::strict_route().unwrap();
            let routes = [
                route("9.0.2.0/24", "44.128.0.2", index),
                route("fd09:0:0:2::/64", "fd44::2", index),
            ];
            let add = routes.map(|route| add(&route, PROTOCOL));
            socket.execute_all(&add).unwrap();
            for foreign in ["9.0.3.0/24", "fd09:0:0:3::/64"] {
                run("ip", &format!("route add {foreign} dev d0 proto static"));
            }
            let found = of_protocol(&mut socket, PROTOCOL).unwrap();
            assert_eq!(found.len(), 2);
            for (found, route) in found.iter().zip(&routes) {
                assert!(found.is(route), "{found:?}");
                assert!(!found.is(&GatewayRoute {
                    index: 99,
                    ..*route
                }));
            }
            for result in socket.execute(&add).unwrap() {
                assert_eq!(result.unwrap_err().errno(), Some(Errno::EEXIST));
            }
            let delete: Vec<_> = found.iter().map(delete).collect();
            socket.execute_all(&delete).unwrap();
            assert_eq!(of_protocol(&mut socket, PROTOCOL).unwrap(), []);
            for result in socket.execute(&delete).unwrap() {
                assert_eq!(result.unwrap_err().errno(), Some(Errno::ESRCH));
            }
            assert!(run("ip", "route show").contains("9.0.3.0/24"));
        });
    }

    #[test]
    fn altered_routes_are_recognised_and_deleted() {
        isolated(|| {
            let index = link("d0");
            link("d1");
            run("ip", "addr add 44.128.0.1/20 dev d0");
            let mut socket = NetlinkSocket::strict_route().unwrap();
            for arguments in [
                "route add 9.0.2.0/24 via 44.128.0.2 dev d0 proto 133",
                "route add 9.0.3.0/24 via 44.128.0.3 dev d0 onlink proto 133 metric 5",
                "route add 9.0.4.0/24 proto 133 nexthop dev d0 nexthop dev d1",
                "route add blackhole 9.0.5.0/24 proto 133",
                "route add 9.0.6.0/24 dev d0 scope link proto 133",
                "-6 route add fd09::/64 via fd44::2 dev d0 onlink proto 133 metric 5",
            ] {
                run("ip", arguments);
            }
            let found = of_protocol(&mut socket, PROTOCOL).unwrap();
            assert_eq!(found.len(), 6, "{found:?}");
            for found in &found {
                let route = GatewayRoute {
                    destination: found.destination,
                    gateway: found.gateway.unwrap_or_else(|| [44, 128, 0, 2].into()),
                    index,
                };
                assert!(!found.is(&route), "{found:?}");
            }
            let delete: Vec<_> = found.iter().map(delete).collect();
            socket.execute_all(&delete).unwrap();
            assert_eq!(of_protocol(&mut socket, PROTOCOL).unwrap(), []);
        });
    }

    #[test]
    fn lookup_finds_the_longest_prefix_of_any_program() {
        isolated(|| {
            let index = link("d0");
            let mut socket = NetlinkSocket::strict_route().unwrap();
            let mut prefix = |address: &str| {
                let found = lookup(&mut socket, address.parse().unwrap()).unwrap();
                found.map(|route| (route.destination.to_string(), route.index))
            };
            assert_eq!(prefix("9.0.2.0"), None);
            assert_eq!(prefix("fd09:0:0:2::"), None);
            run("ip", "route add default dev d0");
            run("ip", "route add 9.0.2.0/24 dev d0 metric 7");
            run("ip", "-6 route add fd09:0:0:2::/64 dev d0");
            let expected = |prefix: &str| Some((prefix.to_owned(), Some(index)));
            assert_eq!(prefix("9.0.1.0"), expected("0.0.0.0/0"));
            assert_eq!(prefix("9.0.2.0"), expected("9.0.2.0/24"));
            assert_eq!(prefix("fd09:0:0:2::"), expected("fd09:0:0:2::/64"));
        });
    }
}
