//! Whether a process of the host waits for packets on a port. The local port of an outgoing
//! connection does not count: its packets belong to that connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;

use netlink_packet_core::NlasIterator;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

use super::addressing::unspecified;
use super::netlink::{NetlinkError, NetlinkSocket, Request};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// The state of TCP sockets that listen.
const TCP_LISTEN: u32 = 10;
/// The state of UDP sockets without a peer.
const UDP_UNCONNECTED: u32 = 7;
const INET_DIAG_SKV6ONLY: u16 = 11;
/// Lengths of the request and of the fixed part of a response.
const REQUEST_BYTES: usize = 56;
const RESPONSE_BYTES: usize = 72;

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

/// Whether a process in the network namespace of the calling thread listens on `port`, at any
/// address of the family, or has an unconnected UDP socket there.
pub fn is_listening(transport: Transport, is_v4: bool, port: u16) -> Result<bool, NetlinkError> {
    // Most ports are free, which one attempt shows at much less cost than the list of sockets.
    if can_bind(transport, is_v4, port) {
        return Ok(false);
    }
    let mut socket = NetlinkSocket::sock_diag()?;
    let families = if is_v4 {
        &[AF_INET, AF_INET6][..]
    } else {
        &[AF_INET6][..]
    };
    let mut found = false;
    for family in families {
        let request = request(transport, *family, port);
        socket.dump(&request, |bytes| {
            found |= is_listener(bytes, is_v4, port);
        })?;
    }
    Ok(found)
}

/// A socket that waits for packets on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WaitingSocket {
    /// The address that it is bound to; unspecified for all.
    pub address: IpAddr,
    /// Whether it also gets packets of IPv4, if it is bound to all addresses of IPv6.
    pub has_v4: bool,
}

impl WaitingSocket {
    /// Whether packets to that address are for it.
    #[must_use]
    pub fn serves(&self, destination: IpAddr) -> bool {
        if self.address.is_unspecified() {
            return self.address.is_ipv4() == destination.is_ipv4()
                || (self.has_v4 && destination.is_ipv4());
        }
        self.address == destination
    }
}

/// The sockets in the network namespace of the calling thread that wait for packets on `port`.
pub fn waiting_sockets(
    transport: Transport,
    port: u16,
) -> Result<Vec<WaitingSocket>, NetlinkError> {
    let mut socket = NetlinkSocket::sock_diag()?;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let request = request(transport, family, port);
        found.extend(socket.list(&request, |bytes| waiting_socket(bytes, port))?);
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn waiting_socket(response: &[u8], port: u16) -> Option<WaitingSocket> {
    // Kernels may ignore the filter.
    if response.get(4..6)? != port.to_be_bytes() {
        return None;
    }
    let octets = <[u8; 16]>::try_from(response.get(8..24)?).ok()?;
    let attributes = response.get(RESPONSE_BYTES..).unwrap_or_default();
    let is_v6_only = NlasIterator::new(attributes)
        .flatten()
        .find(|attribute| attribute.kind() == INET_DIAG_SKV6ONLY)
        .is_some_and(|attribute| attribute.value().first() == Some(&1));
    match *response.first()? {
        AF_INET => Some(WaitingSocket {
            address: Ipv4Addr::from(*octets.first_chunk::<4>()?).into(),
            has_v4: true,
        }),
        AF_INET6 => {
            let address = Ipv6Addr::from(octets);
            Some(WaitingSocket {
                address: address.to_canonical(),
                has_v4: !is_v6_only,
            })
        }
        _ => None,
    }
}

/// Whether the port can be bound. Does not listen on it, so that no client meets this socket.
fn can_bind(transport: Transport, is_v4: bool, port: u16) -> bool {
    let address = SockaddrStorage::from(SocketAddr::new(unspecified(is_v4), port));
    let family = if is_v4 {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let kind = match transport {
        Transport::Tcp => SockType::Stream,
        Transport::Udp => SockType::Datagram,
    };
    let attempt = || {
        let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
        if transport == Transport::Tcp {
            // Connections that have ended, but are still remembered, do not matter.
            setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        }
        bind(socket.as_raw_fd(), &address)
    };
    attempt() != Err(Errno::EADDRINUSE)
}

/// The request for the sockets of a family that wait for packets on `port`.
fn request(transport: Transport, family: u8, port: u16) -> Request {
    let (protocol, state) = match transport {
        Transport::Tcp => (6, TCP_LISTEN),
        Transport::Udp => (17, UDP_UNCONNECTED),
    };
    let mut payload = vec![family, protocol, 0, 0];
    payload.extend((1_u32 << state).to_ne_bytes());
    payload.extend(port.to_be_bytes());
    payload.resize(REQUEST_BYTES, 0);
    Request::new(
        SOCK_DIAG_BY_FAMILY,
        0,
        payload,
        format!("list the sockets on port {port}"),
    )
}

fn is_listener(response: &[u8], is_v4: bool, port: u16) -> bool {
    waiting_socket(response, port).is_some_and(|socket| {
        let serves_all = socket.address.is_unspecified() && socket.has_v4;
        socket.address.is_ipv4() == is_v4 || (is_v4 && serves_all)
    })
}

#[cfg(test)]
mod root_tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;
    use crate::net::testing::isolated;

    fn check(transport: Transport, port: u16) -> [bool; 2] {
        [true, false].map(|is_v4| is_listening(transport, is_v4, port).unwrap())
    }

    #[test]
    fn only_sockets_that_wait_for_packets_count() {
        isolated(|| {
            assert_eq!(check(Transport::Tcp, 8000), [false, false]);
            let v4 = TcpListener::bind("127.0.0.1:8000").unwrap();
            assert_eq!(check(Transport::Tcp, 8000), [true, false]);
            let both = TcpListener::bind("[::]:8001").unwrap();
            assert_eq!(check(Transport::Tcp, 8001), [true, true]);
            let v6 = TcpListener::bind("[::1]:8002").unwrap();
            assert_eq!(check(Transport::Tcp, 8002), [false, true]);

            // Both ends of a connection, and what is left of it.
            let client = TcpStream::connect("127.0.0.1:8000").unwrap();
            let (server, _) = v4.accept().unwrap();
            let port = client.local_addr().unwrap().port();
            assert_eq!(check(Transport::Tcp, port), [false, false]);
            drop(v4);
            assert_eq!(check(Transport::Tcp, 8000), [false, false]);
            drop(client);
            drop(server);
            assert_eq!(check(Transport::Tcp, port), [false, false]);
            drop((both, v6));

            let server = UdpSocket::bind("127.0.0.1:8000").unwrap();
            assert_eq!(check(Transport::Udp, 8000), [true, false]);
            assert_eq!(check(Transport::Tcp, 8000), [false, false]);
            let client = UdpSocket::bind("127.0.0.1:8001").unwrap();
            client.connect(server.local_addr().unwrap()).unwrap();
            assert_eq!(check(Transport::Udp, 8001), [false, false]);
            let both = UdpSocket::bind("[::]:8002").unwrap();
            assert_eq!(check(Transport::Udp, 8002), [true, true]);
            drop((server, client, both));
            assert_eq!(check(Transport::Udp, 8000), [false, false]);
        });
    }

    #[test]
    fn sockets_serve_the_addresses_that_they_are_bound_to() {
        isolated(|| {
            let served = |port| {
                let sockets = waiting_sockets(Transport::Tcp, port).unwrap();
                ["127.0.0.1", "10.1.0.2", "::1", "fd00::2"].map(|address| {
                    let address = address.parse().unwrap();
                    sockets.iter().any(|socket| socket.serves(address))
                })
            };
            assert_eq!(served(8000), [false; 4]);
            let loopback = TcpListener::bind("127.0.0.1:8000").unwrap();
            assert_eq!(served(8000), [true, false, false, false]);
            let all = TcpListener::bind("[::]:8001").unwrap();
            assert_eq!(served(8001), [true; 4]);
            let v4 = TcpListener::bind("0.0.0.0:8002").unwrap();
            assert_eq!(served(8002), [true, true, false, false]);
            let v6 = TcpListener::bind("[::1]:8003").unwrap();
            assert_eq!(served(8003), [false, false, true, false]);
            drop((loopback, all, v4, v6));
        });
    }
}
