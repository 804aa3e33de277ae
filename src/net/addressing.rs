//! Addresses, routes and neighbours by rtnetlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
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

/// The request to route `destination` by `gateway`, of the same family, on the link with that
/// index. Of two routes to the same destination, the one with the lower metric is used.
#[must_use]
pub fn add_route(destination: IpNet, gateway: IpAddr, index: u32, metric: Option<u32>) -> Request {
    let payload = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(destination.network(), destination.prefix_len())
        .and_then(|route| route.gateway(gateway))
        .map(|route| {
            let mut route = route.output_interface(index);
            if let Some(metric) = metric {
                route = route.priority(metric);
            }
            encode(&route.build())
        })
        // The kernel refuses an empty request, and the error names the route.
        .unwrap_or_default();
    Request::new(
        RTM_NEWROUTE,
        NLM_F_CREATE | NLM_F_EXCL,
        payload,
        format!("route {destination} by {gateway}"),
    )
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

/// Lists the addresses of the namespace, each with the index of its link.
pub fn addresses(socket: &mut NetlinkSocket) -> Result<Vec<(u32, IpNet)>, NetlinkError> {
    let message = AddressMessage::default();
    let mut addresses = Vec::new();
    socket.dump(
        &Request::with_message(RTM_GETADDR, 0, &message, "list the addresses"),
        |bytes| {
            let Ok(message) = AddressMessage::parse(bytes) else {
                return;
            };
            let address = message.attributes.iter().find_map(|attribute| {
                if let AddressAttribute::Address(address) = attribute {
                    Some(*address)
                } else {
                    None
                }
            });
            if let Some(net) =
                address.and_then(|address| IpNet::new(address, message.header.prefix_len).ok())
            {
                addresses.push((message.header.index, net));
            }
        },
    )?;
    Ok(addresses)
}
