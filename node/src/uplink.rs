//! This host's address in the underlay, and the interface that has it.

use std::io;
use std::net::{IpAddr, ToSocketAddrs as _, UdpSocket};

use contrail_mesos::net::addressing;
use contrail_mesos::net::links;
use contrail_mesos::net::netlink::{NetlinkError, NetlinkSocket};
use contrail_mesos_api::http::Address;

/// The bytes that VXLAN adds to a packet, with the inner Ethernet header and the outer IP header.
const OVERHEAD_V4: u32 = 50;
/// The same with an outer IPv6 header.
const OVERHEAD_V6: u32 = 70;

/// The interface that has the address of this host in the underlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MTU, in bytes.
    pub mtu: u32,
}

/// The bytes that VXLAN takes of the MTU of an uplink with this address.
#[must_use]
pub fn vxlan_overhead(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(_) => OVERHEAD_V4,
        IpAddr::V6(_) => OVERHEAD_V6,
    }
}

/// Why this host's address is not known.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// A manager's name cannot be resolved, or there is no route to it.
    #[error(
        "cannot find this host's address by the route to {manager}: {error}; write address in [node]"
    )]
    Route {
        /// The manager.
        manager: String,
        /// Why.
        error: io::Error,
    },
    /// The manager is on this host, or reached by an address that other hosts do not reach.
    #[error(
        "the route to {manager} has the local address {address}, which other hosts do not reach; write \
         address in [node]"
    )]
    Local {
        /// The manager.
        manager: String,
        /// The address.
        address: IpAddr,
    },
    /// There is nothing to find a route to.
    #[error("there are no managers to find this host's address by; write address in [node]")]
    NoManager,
}

/// The local address of the route to the first manager. Sends nothing. Blocks while the manager's
/// name is resolved.
pub fn address_towards(managers: &[Address]) -> Result<IpAddr, AddressError> {
    let first = managers.first().ok_or(AddressError::NoManager)?;
    let manager = first.to_string();
    match local_address(first) {
        Ok(address) if address.is_loopback() || address.is_unspecified() => {
            Err(AddressError::Local { manager, address })
        }
        Ok(address) => Ok(address),
        Err(error) => Err(AddressError::Route { manager, error }),
    }
}

fn local_address(manager: &Address) -> io::Result<IpAddr> {
    let uri = manager.uri("/").map_err(io::Error::other)?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or_default();
    let mut last = io::Error::other("its name has no address");
    for destination in (host, port).to_socket_addrs()? {
        let any: IpAddr = if destination.is_ipv4() {
            [0; 4].into()
        } else {
            [0; 16].into()
        };
        // Connecting a socket for datagrams only looks up the route.
        let connected = UdpSocket::bind((any, 0)).and_then(|socket| {
            socket.connect(destination)?;
            socket.local_addr()
        });
        match connected {
            Ok(local) => return Ok(local.ip().to_canonical()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The interface with this address, in the namespace of the socket, if there is one.
pub fn with_address(
    socket: &mut NetlinkSocket,
    address: IpAddr,
) -> Result<Option<Uplink>, NetlinkError> {
    let addresses = addressing::addresses(socket)?;
    let Some((index, _)) = addresses.iter().find(|(_, net)| net.addr() == address) else {
        return Ok(None);
    };
    let link = links::by_index(socket, *index)?;
    Ok(link.map(|link| Uplink {
        index: link.index,
        name: link.name,
        mtu: link.mtu,
    }))
}

/// As [`with_address`], in the namespace of the calling thread.
pub fn of_this_host(address: IpAddr) -> Result<Option<Uplink>, NetlinkError> {
    with_address(&mut NetlinkSocket::route()?, address)
}

#[cfg(test)]
mod tests {
    use contrail_mesos_api::agent_api::manager_address;

    use super::*;

    #[test]
    fn managers_on_this_host_give_no_address() {
        for manager in ["127.0.0.1:6992", "localhost:6992"] {
            let managers = [manager_address(manager).unwrap()];
            let error = address_towards(&managers).unwrap_err();
            assert!(matches!(error, AddressError::Local { .. }), "{error}");
        }
        let error = address_towards(&[]).unwrap_err();
        assert!(matches!(error, AddressError::NoManager), "{error}");
    }

    #[test]
    fn loopback_has_an_uplink_and_foreign_addresses_have_none() {
        let uplink = of_this_host([127, 0, 0, 1].into()).unwrap().unwrap();
        assert_eq!(uplink.name, "lo");
        assert!(uplink.mtu > 0);
        assert_eq!(of_this_host([203, 0, 113, 77].into()).unwrap(), None);
    }
}
