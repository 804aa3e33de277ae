//! The routes of a network namespace.

use ipnet::IpNet;
use netlink_packet_core::Parseable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType,
};

use super::addressing::unspecified;
use super::netlink::{NetlinkError, NetlinkSocket, Request};

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
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut destination = match header.address_family {
        AddressFamily::Inet => unspecified(true),
        AddressFamily::Inet6 => unspecified(false),
        _ => return None,
    };
    let mut links = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                destination = (*address).into();
            }
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                destination = (*address).into();
            }
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Oif(index) => links.push(*index),
            RouteAttribute::MultiPath(hops) => {
                links.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    let is_main = table == u32::from(RouteHeader::RT_TABLE_MAIN);
    if header.kind != RouteType::Unicast || !is_main {
        return None;
    }
    let destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
    Some(Route { destination, links })
}
