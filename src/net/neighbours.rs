//! Neighbour and forwarding entries of a VXLAN device: which MAC address a gateway has, and which
//! host a MAC address is at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::netlink::{NetlinkError, NetlinkSocket, Request};

/// The type of messages that add a neighbour or forwarding entry.
pub(super) const RTM_NEWNEIGH: u16 = 28;
/// The type of messages that remove one.
pub(super) const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;

/// A neighbour entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The index of its link.
    pub index: u32,
    /// The neighbour's address.
    pub address: IpAddr,
    /// Its MAC address, if it is known.
    pub mac: Option<[u8; 6]>,
    /// Whether it stays until somebody removes it.
    pub is_permanent: bool,
}

/// A forwarding entry of a VXLAN device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardingEntry {
    /// The index of the device.
    pub index: u32,
    /// The destination of frames.
    pub mac: [u8; 6],
    /// The underlay address that they are sent to.
    pub remote: IpAddr,
    /// Whether it differs from what [`set_forwarding`] makes: it is not permanent, or names a port,
    /// a network or a link of its own.
    pub is_altered: bool,
}

/// Lists the neighbours of both families on the link with that index. The socket is one of
/// [`NetlinkSocket::strict_route`].
pub fn of_link(socket: &mut NetlinkSocket, index: u32) -> Result<Vec<Neighbour>, NetlinkError> {
    let mut neighbours = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        message.attributes = vec![NeighbourAttribute::IfIndex(index)];
        let list = Request::with_message(RTM_GETNEIGH, 0, &message, "list the neighbours");
        neighbours.extend(socket.list(&list, |bytes| {
            parse(bytes).filter(|neighbour| neighbour.index == index)
        })?);
    }
    Ok(neighbours)
}

/// Parses a message about a neighbour; none for one about a forwarding entry.
pub(super) fn parse(bytes: &[u8]) -> Option<Neighbour> {
    let message = NeighbourMessage::parse(bytes).ok()?;
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                address = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                address = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    Some(Neighbour {
        index: message.header.ifindex,
        address: address?,
        mac,
        is_permanent: message.header.state == NeighbourState::Permanent,
    })
}

/// Lists the forwarding entries of the VXLAN device with that index. The socket is one of
/// [`NetlinkSocket::strict_route`].
pub fn forwarding_of(
    socket: &mut NetlinkSocket,
    index: u32,
) -> Result<Vec<ForwardingEntry>, NetlinkError> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    let list = Request::with_message(RTM_GETNEIGH, 0, &message, "list the forwarding entries");
    socket.list(&list, |bytes| {
        parse_forwarding(bytes).filter(|entry| entry.index == index)
    })
}

/// Parses a message about a forwarding entry of a VXLAN device.
pub(super) fn parse_forwarding(bytes: &[u8]) -> Option<ForwardingEntry> {
    let message = NeighbourMessage::parse(bytes).ok()?;
    if message.header.family != AddressFamily::Bridge {
        return None;
    }
    let mut mac = None;
    let mut remote = None;
    // Other programs also set the bit of entries that are not verified.
    let state = u16::from(message.header.state);
    let mut is_altered = state & u16::from(NeighbourState::Permanent) == 0;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                remote = address(bytes);
            }
            NeighbourAttribute::Port(_)
            | NeighbourAttribute::Vni(_)
            | NeighbourAttribute::SourceVni(_)
            | NeighbourAttribute::IfIndex(_) => is_altered = true,
            _ => {}
        }
    }
    Some(ForwardingEntry {
        index: message.header.ifindex,
        mac: mac?,
        remote: remote?,
        is_altered,
    })
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(|octets| Ipv4Addr::from(octets).into());
    let v6 = || <[u8; 16]>::try_from(octets).map(|octets| Ipv6Addr::from(octets).into());
    v4.or_else(|_| v6()).ok()
}

fn forwarding(index: u32, mac: [u8; 6]) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.to_vec())];
    message
}

/// The request to send frames for `mac` to `remote`, by the VXLAN device with that index. An entry
/// of that MAC address with one other remote is changed in one step.
#[must_use]
pub fn set_forwarding(index: u32, mac: [u8; 6], remote: IpAddr) -> Request {
    let mut message = forwarding(index, mac);
    let octets = match remote {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let remote_attribute = NeighbourAttribute::Destination(NeighbourAddress::Other(octets));
    message.attributes.push(remote_attribute);
    Request::with_message(
        RTM_NEWNEIGH,
        NLM_F_CREATE | NLM_F_REPLACE,
        &message,
        format!("add the forwarding entry to {remote}"),
    )
}

/// The request to remove the entry of that MAC address with all of its remotes. The kernel refuses
/// it with `ENOENT` if there is no such entry.
#[must_use]
pub fn delete_forwarding(index: u32, mac: [u8; 6]) -> Request {
    let message = forwarding(index, mac);
    Request::with_message(RTM_DELNEIGH, 0, &message, "remove a forwarding entry")
}

#[cfg(test)]
mod root_tests {
    use super::*;
    use crate::net::addressing;
    use crate::net::testing::{isolated, run};

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn device(name: &str, vni: u32) -> u32 {
        let options = format!("id {vni} dstport 4789 nolearning local 192.0.2.1");
        run("ip", &format!("link add {name} type vxlan {options}"));
        run("ip", &format!("link set {name} up"));
        nix::net::if_::if_nametoindex(name).unwrap()
    }

    #[test]
    fn neighbours_of_one_link_are_listed() {
        isolated(|| {
            let index = device("vtep1", 1);
            let other = device("vtep2", 2);
            let mut socket = NetlinkSocket::strict_route().unwrap();
            let addresses: [IpAddr; 2] =
                ["44.128.0.2", "fd44::2"].map(|text| text.parse().unwrap());
            let add = addresses.map(|address| addressing::add_neighbour(index, address, MAC));
            socket.execute_all(&add).unwrap();
            let foreign = addressing::add_neighbour(other, addresses[0], MAC);
            socket.execute_all(&[foreign]).unwrap();
            run(
                "ip",
                "neigh add 44.128.0.3 dev vtep1 lladdr 02:00:00:00:00:03 nud stale",
            );
            let mut found = of_link(&mut socket, index).unwrap();
            found.retain(|neighbour| !neighbour.address.is_multicast());
            found.sort_by_key(|neighbour| neighbour.address);
            let expected = [
                (addresses[0], MAC, true),
                ("44.128.0.3".parse().unwrap(), [2, 0, 0, 0, 0, 3], false),
                (addresses[1], MAC, true),
            ];
            let expected = expected.map(|(address, mac, is_permanent)| Neighbour {
                index,
                address,
                mac: Some(mac),
                is_permanent,
            });
            assert_eq!(found, expected);
        });
    }

    #[test]
    fn forwarding_entries_are_set_replaced_and_deleted() {
        isolated(|| {
            let index = device("vtep1", 1);
            device("vtep2", 2);
            let mut socket = NetlinkSocket::strict_route().unwrap();
            run(
                "bridge",
                "fdb add 02:00:00:00:00:02 dev vtep2 dst 192.0.2.9 self permanent",
            );
            for remote in ["192.0.2.2", "192.0.2.3"] {
                let remote = remote.parse().unwrap();
                socket
                    .execute_all(&[set_forwarding(index, MAC, remote)])
                    .unwrap();
                let expected = ForwardingEntry {
                    index,
                    mac: MAC,
                    remote,
                    is_altered: false,
                };
                assert_eq!(forwarding_of(&mut socket, index).unwrap(), [expected]);
            }
            for options in [
                "dst 192.0.2.3 port 9 self permanent",
                "dst 192.0.2.3 self dynamic",
            ] {
                run(
                    "bridge",
                    &format!("fdb replace 02:00:00:00:00:02 dev vtep1 {options}"),
                );
                let entries = forwarding_of(&mut socket, index).unwrap();
                assert!(entries.iter().all(|entry| entry.is_altered), "{entries:?}");
                assert_eq!(entries.len(), 1);
            }
            socket
                .execute_all(&[delete_forwarding(index, MAC)])
                .unwrap();
            assert_eq!(forwarding_of(&mut socket, index).unwrap(), []);
            let error = socket
                .execute_all(&[delete_forwarding(index, MAC)])
                .unwrap_err();
            assert_eq!(error.errno(), Some(nix::errno::Errno::ENOENT));
        });
    }
}
