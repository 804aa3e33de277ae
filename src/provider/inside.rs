//! The container's side: its interface, which is there already, gets addresses and routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use ipnet::IpNet;
use nix::errno::Errno;

use super::BoxError;
use crate::net::netlink::{NetlinkSocket, Request};
use crate::net::netns::{Kind, OwnThread};
use crate::net::{addressing, links, sysctl};
use contrail_mesos_api::container::Mac;

/// What an interface is to be.
pub(super) struct Inside<'a> {
    pub(super) interface: &'a str,
    /// Its Ethernet address, where it was not made with the right one.
    pub(super) mac: Option<Mac>,
    pub(super) addresses: &'a [IpNet],
    /// Next hops, one per family at most.
    pub(super) gateways: &'a [IpAddr],
    /// What is reached by the gateways; nothing: everything.
    pub(super) routes: &'a [IpNet],
    /// The gateways' Ethernet address, where it stays as it is. The container then never asks for
    /// it, and takes no room in the kernel's table of neighbours, which all namespaces share and
    /// which has room for 1,024 by default.
    pub(super) gateway_mac: Option<Mac>,
}

/// Enters the namespace and configures the interface there, and loopback.
pub(super) fn configure(
    thread: &mut OwnThread,
    namespace: &OwnedFd,
    inside: &Inside<'_>,
) -> Result<(), BoxError> {
    thread.enter(namespace, Kind::Net)?;
    let (name, value) = no_router_advertisements(inside);
    sysctl::write_if_present(&name, value)?;
    let mut socket = NetlinkSocket::route()?;
    let link =
        links::by_name(&mut socket, inside.interface)?.ok_or("the interface is not there")?;
    let requests = requests(inside, link.index);
    match socket.execute_all(&requests) {
        // IPv6 was turned off for new interfaces, which is not what this network says.
        Err(error) if error.errno() == Some(Errno::EACCES) => {
            let name = format!("net/ipv6/conf/{}/disable_ipv6", inside.interface);
            sysctl::write_if_present(&name, "0")?;
            for answer in socket.execute(&requests)? {
                match answer {
                    Err(error) if error.errno() == Some(Errno::EEXIST) => {}
                    other => other?,
                }
            }
            Ok(())
        }
        other => Ok(other?),
    }
}

/// What `configure` would do, in words.
pub(super) fn plan(inside: &Inside<'_>) -> Vec<String> {
    let (name, value) = no_router_advertisements(inside);
    let setting = format!("in the container: set /proc/sys/{name} to {value}");
    let requests = requests(inside, 0);
    let requests = requests
        .iter()
        .map(|request| format!("in the container: {}", request.action()));
    std::iter::once(setting).chain(requests).collect()
}

/// The setting by which no neighbour can become the container's router.
fn no_router_advertisements(inside: &Inside<'_>) -> (String, &'static str) {
    let name = format!("net/ipv6/conf/{}/accept_ra", inside.interface);
    (name, "0")
}

/// Requests that configure the interface of that index.
fn requests(inside: &Inside<'_>, index: u32) -> Vec<Request> {
    let name = inside.interface;
    let is_v6 = inside.addresses.iter().any(|net| net.addr().is_ipv6());
    let up = if is_v6 {
        links::set_up(name, None)
    } else {
        links::set_up_for_ipv4(name)
    };
    let mut requests = vec![links::set_up("lo", None)];
    requests.extend(inside.mac.map(|mac| links::set_mac(name, mac.0)));
    requests.push(up);
    for net in inside.addresses {
        requests.push(addressing::add_address(index, name, *net));
    }
    let metric = metric(name);
    for gateway in inside.gateways {
        let mut routes: Vec<IpNet> = inside
            .routes
            .iter()
            .copied()
            .filter(|net| net.addr().is_ipv4() == gateway.is_ipv4())
            .collect();
        if inside.routes.is_empty() {
            routes.extend(IpNet::new(unspecified(*gateway), 0));
        }
        for route in routes {
            requests.push(addressing::add_route(route, *gateway, index, metric));
        }
        requests.extend(
            inside
                .gateway_mac
                .map(|mac| addressing::add_neighbour(index, *gateway, mac.0)),
        );
    }
    requests
}

/// The metric of an interface's routes: the first one's win, the others' stand by, and no two
/// interfaces' are the same route.
fn metric(interface: &str) -> Option<u32> {
    let number = interface
        .strip_prefix("eth")
        .and_then(|number| number.parse::<u16>().ok());
    match number {
        Some(0) => None,
        Some(number) => Some(1024 + u32::from(number)),
        // A name that somebody chose, as CNI plugins allow.
        None => Some(
            interface
                .bytes()
                .fold(0_u32, |sum, byte| (sum * 31 + u32::from(byte)) % (1 << 20))
                + (1 << 20),
        ),
    }
}

pub(super) fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::metric;

    #[test]
    fn the_first_interface_wins_and_no_two_are_the_same() {
        assert_eq!(metric("eth0"), None);
        assert_eq!(metric("eth1"), Some(1025));
        let others = ["eth2", "ethernet", "blue0", "red0", "net7", "0"];
        let metrics: std::collections::BTreeSet<_> = others.map(metric).into();
        assert_eq!(metrics.len(), others.len());
        assert!(metrics.iter().all(|metric| *metric > Some(1025)));
    }
}
