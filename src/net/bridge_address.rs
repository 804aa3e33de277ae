//! The addresses of bridges. They carry a mark of this program, which distinguishes those of
//! an earlier configuration from an operator's.

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol,
};
use rtnetlink::AddressMessageBuilder;

use super::netlink::{NetlinkError, NetlinkSocket, Request};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
/// The mark, `ip address show proto 99`. Kernels before 5.18 ignore it.
const PROTOCOL: u8 = 99;

fn message(index: u32, address: IpNet) -> AddressMessage {
    match address {
        IpNet::V4(net) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
            .index(index)
            .address(net.addr(), net.prefix_len())
            .build(),
        IpNet::V6(net) => AddressMessageBuilder::<std::net::Ipv6Addr>::new()
            .index(index)
            .address(net.addr(), net.prefix_len())
            .build(),
    }
}

fn request(kind: u16, flags: u16, message: &AddressMessage, action: String) -> Request {
    Request::with_message(kind, flags, message, action)
}

/// The request to add `address` to the bridge `name` with that index, without duplicate address
/// detection.
#[must_use]
pub fn add(index: u32, name: &str, address: IpNet) -> Request {
    let mut message = message(index, address);
    let attributes = &mut message.attributes;
    if address.addr().is_ipv6() {
        attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
    let action = format!("give {address} to {name}");
    request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &message, action)
}

/// The request to remove `address` from the bridge `name` with that index.
#[must_use]
pub fn remove(index: u32, name: &str, address: IpNet) -> Request {
    let action = format!("remove {address} from {name}");
    request(RTM_DELADDR, 0, &message(index, address), action)
}

/// An address of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BridgeAddress {
    /// The address with its prefix.
    pub net: IpNet,
    /// Whether this program added it. Never on kernels before 5.18.
    pub is_marked: bool,
}

/// Lists the addresses of the link with that index.
pub fn of_link(socket: &mut NetlinkSocket, index: u32) -> Result<Vec<BridgeAddress>, NetlinkError> {
    let list = AddressMessage::default();
    let mut addresses = Vec::new();
    socket.dump(
        &request(RTM_GETADDR, 0, &list, "list the addresses".to_owned()),
        |bytes| {
            let Ok(message) = AddressMessage::parse(bytes) else {
                return;
            };
            if message.header.index != index {
                return;
            }
            let mut address = None;
            let mut is_marked = false;
            for attribute in &message.attributes {
                match attribute {
                    AddressAttribute::Address(found) => address = Some(*found),
                    AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)) => {
                        is_marked = true;
                    }
                    _ => {}
                }
            }
            let net = address.and_then(|found| IpNet::new(found, message.header.prefix_len).ok());
            addresses.extend(net.map(|net| BridgeAddress { net, is_marked }));
        },
    )?;
    Ok(addresses)
}
