//! Addresses and routes by rtnetlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{Emitable, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::{AddressMessageBuilder, RouteMessageBuilder};

use super::netlink::{NetlinkError, NetlinkSocket, Request};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;

/// Request: `address` on the link of that index. An IPv6 address is usable at once: duplicate
/// detection would cost a second, and we know that nobody else has it.
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
    let mut payload = vec![0; message.buffer_len()];
    message.emit(&mut payload);
    Request::new(
        RTM_NEWADDR,
        NLM_F_CREATE | NLM_F_EXCL,
        payload,
        format!("give {address} to {name}"),
    )
}

/// Request: what is for `destination` goes to `gateway`, by the link of that index. Where two
/// routes have the same destination, the lower metric wins.
#[must_use]
pub fn add_route(destination: IpNet, gateway: IpAddr, index: u32, metric: Option<u32>) -> Request {
    let payload = match (destination, gateway) {
        (IpNet::V4(net), IpAddr::V4(gateway)) => {
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .gateway(gateway);
            route_by(route, index, metric)
        }
        (IpNet::V6(net), IpAddr::V6(gateway)) => {
            let route = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .gateway(gateway);
            route_by(route, index, metric)
        }
        // Refused by the kernel, and the request says what it was to be.
        _ => Vec::new(),
    };
    Request::new(
        RTM_NEWROUTE,
        NLM_F_CREATE | NLM_F_EXCL,
        payload,
        format!("route {destination} by {gateway}"),
    )
}

fn route_by<T>(route: RouteMessageBuilder<T>, index: u32, metric: Option<u32>) -> Vec<u8> {
    let route = route.output_interface(index);
    let message = match metric {
        Some(metric) => route.priority(metric),
        None => route,
    }
    .build();
    let mut payload = vec![0; message.buffer_len()];
    message.emit(&mut payload);
    payload
}

/// Request: `address` is to be found at `mac`, for ever, by the link of that index.
#[must_use]
pub fn add_neighbour(index: u32, address: IpAddr, mac: [u8; 6]) -> Request {
    let mut message = NeighbourMessage::default();
    let (family, destination) = match address {
        IpAddr::V4(v4) => (AddressFamily::Inet, NeighbourAddress::Inet(v4)),
        IpAddr::V6(v6) => (AddressFamily::Inet6, NeighbourAddress::Inet6(v6)),
    };
    message.header.family = family;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(destination),
        NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
    ];
    let mut payload = vec![0; message.buffer_len()];
    message.emit(&mut payload);
    Request::new(
        RTM_NEWNEIGH,
        NLM_F_CREATE | NLM_F_REPLACE,
        payload,
        format!("note where {address} is"),
    )
}

/// Every address of the namespace, with the index of its link.
pub fn addresses(socket: &mut NetlinkSocket) -> Result<Vec<(u32, IpNet)>, NetlinkError> {
    let message = AddressMessage::default();
    let mut payload = vec![0; message.buffer_len()];
    message.emit(&mut payload);
    let mut found = Vec::new();
    socket.dump(
        &Request::new(RTM_GETADDR, 0, payload, "list the addresses"),
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
                found.push((message.header.index, net));
            }
        },
    )?;
    Ok(found)
}
