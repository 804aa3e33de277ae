//! Addresses, routes and neighbours by rtnetlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteScope;
use rtnetlink::{AddressMessageBuilder, RouteMessageBuilder};

use super::netlink::{NetlinkError, NetlinkSocket, Request, encode};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;

/// The request to add `address` to the link `name` with that index. Duplicate address detection is
/// off for IPv6: it takes a second, and the address is reserved for this container.
#[must_use]
pub fn add_address(index: u32, name: &str, address: IpNet) -> Request {
    let message = match address {
        IpNet::V4(net) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(index)
            .address(net.addr(), net.prefix_len())
            .build(),
        IpNet::V6(net) => {
            let mut message = AddressMessageBuilder::<Ipv6Addr>::new()
                .index(index)
                .address(net.addr(), net.prefix_len())
                .build();
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
            message
        }
    };
    Request::with_message(
        RTM_NEWADDR,
        NLM_F_CREATE | NLM_F_EXCL,
        &message,
        format!("give {address} to {name}"),
    )
}

/// A route that is to be added.
#[derive(Clone, Copy, Debug)]
pub struct NewRoute {
    /// The destination; its host bits do not matter.
    pub destination: IpNet,
    /// The next hop, of the same family. Without it, the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The index of the link by which packets leave.
    pub index: u32,
    /// The number of the routing table; the main table without it.
    pub table: Option<u32>,
    /// Of two routes to the same destination, the one with the lower metric is used.
    pub metric: Option<u32>,
}

impl NewRoute {
    /// The request to add the route. The kernel refuses it with `EEXIST` if there is one already.
    #[must_use]
    pub fn request(&self) -> Request {
        let net = self.destination.trunc();
        let by = self
            .gateway
            .map_or_else(String::new, |gateway| format!(" by {gateway}"));
        let table = self
            .table
            .map_or_else(String::new, |table| format!(" in the table {table}"));
        // The kernel refuses an empty request, and the error names the route.
        let payload = self.encoded(net).unwrap_or_default();
        let action = format!("route {net}{by}{table}");
        Request::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, payload, action)
    }

    /// The message; `None` if the gateway is of the other family.
    fn encoded(&self, net: IpNet) -> Option<Vec<u8>> {
        let mut route = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .ok()?
            .output_interface(self.index);
        route = match self.gateway {
            Some(gateway) => route.gateway(gateway).ok()?,
            None => route.scope(RouteScope::Link),
        };
        if let Some(table) = self.table {
            route = route.table_id(table);
        }
        if let Some(metric) = self.metric {
            route = route.priority(metric);
        }
        Some(encode(&route.build()))
    }
}

/// The request for a permanent neighbour entry: `address` is at `mac`, on the link with that index.
#[must_use]
pub fn add_neighbour(index: u32, address: IpAddr, mac: [u8; 6]) -> Request {
    let mut message = neighbour(index, address);
    message.header.state = NeighbourState::Permanent;
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
    Request::with_message(
        RTM_NEWNEIGH,
        NLM_F_CREATE | NLM_F_REPLACE,
        &message,
        format!("add the neighbour {address}"),
    )
}

/// The request to forget the neighbour `address` on the link with that index. The kernel refuses it
/// with `ENOENT` if there is no such entry.
#[must_use]
pub fn delete_neighbour(index: u32, address: IpAddr) -> Request {
    let message = neighbour(index, address);
    Request::with_message(
        RTM_DELNEIGH,
        0,
        &message,
        format!("forget the neighbour {address}"),
    )
}

fn neighbour(index: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    let (family, destination) = match address {
        IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
    };
    message.header.family = family;
    message.header.ifindex = index;
    message.attributes = vec![NeighbourAttribute::Destination(destination)];
    message
}

/// The unspecified address of a family.
#[must_use]
pub fn unspecified(is_v4: bool) -> IpAddr {
    if is_v4 {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    }
}

/// Lists the addresses of the namespace, each with the index of its link.
pub fn addresses(socket: &mut NetlinkSocket) -> Result<Vec<(u32, IpNet)>, NetlinkError> {
    let message = AddressMessage::default();
    socket.list(
        &Request::with_message(RTM_GETADDR, 0, &message, "list the addresses"),
        |bytes| {
            let message = AddressMessage::parse(bytes).ok()?;
            let address = message.attributes.iter().find_map(|attribute| {
                if let AddressAttribute::Address(address) = attribute {
                    Some(*address)
                } else {
                    None
                }
            })?;
            let net = IpNet::new(address, message.header.prefix_len).ok()?;
            Some((message.header.index, net))
        },
    )
}
