//! Ports of bridges whose containers reach each other by the host's IP layer only.
//!
//! The kernel forwards no frame from one isolated port to another. What the IP layer sends back to the
//! bridge from which it came must go up to that layer, too: with `br_netfilter`, a bridge itself
//! forwards packets to a mapped port of a container on it, and would drop them at the isolated port.
//! So each container's MAC address has a permanent entry in the table of forwarding entries. Frames
//! from other ports to such an address are the host's own, and those that the host sends leave by the
//! port. The ports do not learn addresses, so no container takes over another's.

use std::collections::HashSet;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::neighbours::RTM_NEWNEIGH;
use super::netlink::{NetlinkError, NetlinkSocket, Request};

const RTM_GETNEIGH: u16 = 30;

/// Which frames a port of a bridge forwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortFlags {
    /// Whether it forwards none from or to other isolated ports.
    pub is_isolated: bool,
    /// Whether the bridge learns addresses from what comes in by it.
    pub learns: bool,
}

impl PortFlags {
    /// Those of a port whose frames reach the host only.
    pub const ISOLATED: Self = Self {
        is_isolated: true,
        learns: false,
    };
}

/// The permanent forwarding entry of `mac` at the port with that index.
#[must_use]
pub fn add_entry(port: u32, mac: [u8; 6]) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = port;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Controller;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.to_vec())];
    Request::with_message(
        RTM_NEWNEIGH,
        NLM_F_CREATE | NLM_F_REPLACE,
        &message,
        "add the forwarding entry of a container",
    )
}

/// The permanent forwarding entries of the bridge with that index: MAC addresses, each with the index
/// of its port. Opens a socket of its own, for which the kernel leaves out other bridges.
pub fn permanent_entries(bridge: u32) -> Result<HashSet<(u32, [u8; 6])>, NetlinkError> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.attributes = vec![NeighbourAttribute::Controller(bridge)];
    let list = Request::with_message(RTM_GETNEIGH, 0, &message, "list the forwarding entries");
    let entries = NetlinkSocket::strict_route()?.list(&list, |bytes| {
        let message = NeighbourMessage::parse(bytes).ok()?;
        let is_of_bridge = message
            .attributes
            .contains(&NeighbourAttribute::Controller(bridge));
        let is_permanent = message.header.state == NeighbourState::Permanent;
        let mac = message.attributes.iter().find_map(|attribute| {
            if let NeighbourAttribute::LinkLayerAddress(bytes) = attribute {
                bytes.as_slice().try_into().ok()
            } else {
                None
            }
        })?;
        (is_of_bridge && is_permanent).then_some((message.header.ifindex, mac))
    })?;
    Ok(entries.into_iter().collect())
}

#[cfg(test)]
mod root_tests {
    use super::*;
    use crate::net::links;
    use crate::net::testing::{isolated, run};

    #[test]
    fn flags_and_entries_of_a_port_are_read() {
        isolated(|| {
            for bridge in ["br0", "br1"] {
                run("ip", &format!("link add {bridge} type bridge"));
                run("ip", &format!("link add p-{bridge} type veth"));
                run("ip", &format!("link set p-{bridge} master {bridge} up"));
            }
            let index = |name: &str| nix::net::if_::if_nametoindex(name).unwrap();
            let mut socket = NetlinkSocket::route().unwrap();
            let mut flags = || {
                let link = links::by_name(&mut socket, "p-br0").unwrap().unwrap();
                link.port.unwrap()
            };
            let learning = PortFlags {
                is_isolated: false,
                learns: true,
            };
            assert_eq!(flags(), learning);
            run("bridge", "link set dev p-br0 isolated on learning off");
            assert_eq!(flags(), PortFlags::ISOLATED);
            let mac = [2, 0x42, 10, 0, 0, 2];
            let add = [add_entry(index("p-br0"), mac)];
            socket.execute_all(&add).unwrap();
            socket.execute_all(&add).unwrap();
            let entry = (index("p-br0"), mac);
            assert!(permanent_entries(index("br0")).unwrap().contains(&entry));
            assert!(!permanent_entries(index("br1")).unwrap().contains(&entry));
            run("bridge", "fdb del 02:42:0a:00:00:02 dev p-br0 master");
            assert!(!permanent_entries(index("br0")).unwrap().contains(&entry));
        });
    }
}
