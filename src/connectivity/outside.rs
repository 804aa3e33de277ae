//! Another host, as far as this one can tell: a network namespace with the host as its router.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, OwnedFd};

use ipnet::IpNet;

use super::inside;
use crate::net::addressing::{self, NewRoute, unspecified};
use crate::net::links::{self, VethPair};
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::netns;

/// The addresses of the host and of the other end: for documentation, so nobody else has them.
pub(super) const OUTSIDE_V4: [Ipv4Addr; 2] = [
    Ipv4Addr::new(198, 51, 100, 1),
    Ipv4Addr::new(198, 51, 100, 2),
];
pub(super) const OUTSIDE_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0x2001, 0xdb8, 0xc0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0xc0, 0, 0, 0, 0, 2),
];
const OUTSIDE_MAC: [u8; 6] = [0x02, 0x63, 0x6d, 0x74, 0, 2];

/// A network namespace behind the host, with the host as its router. Its interface ends with it.
pub(super) struct OutsideHost {
    pub(super) namespace: OwnedFd,
}

impl OutsideHost {
    /// Makes the namespace outside, with the host as its router.
    pub(super) async fn create(host: &OwnedFd) -> Result<Self, String> {
        let namespace = netns::create().await.map_err(|error| error.to_string())?;
        let name = format!("cmt{}", std::process::id());
        let (inner, host_name) = (
            namespace.try_clone().map_err(|error| error.to_string())?,
            name.clone(),
        );
        let on_host = move || -> Result<(), String> {
            let text = |error: &dyn std::fmt::Display| error.to_string();
            let mut socket = NetlinkSocket::route().map_err(|error| text(&error))?;
            if links::exists(&host_name) {
                // Of the network before, whose namespace is about to end.
                let deleted = socket.execute_all(&[links::delete(&host_name)]);
                deleted.map_err(|error| text(&error))?;
            }
            let pair = VethPair {
                host: &host_name,
                inner: "eth0",
                mac: OUTSIDE_MAC,
                mtu: 1500,
                alias: "contrail-mesos connectivity: ends with the test",
                bridge: None,
            };
            links::create_veth(&mut socket, &pair, inner.as_fd(), [])
                .map_err(|error| format!("cannot create {host_name}: {error:?}"))?;
            let link = links::by_name(&mut socket, &host_name).map_err(|error| text(&error))?;
            let index = link.map_or(0, |link| link.index);
            let [v4, _] = OUTSIDE_V4;
            let [v6, _] = OUTSIDE_V6;
            let mut addresses = nets(v4.into()).chain(nets(v6.into()));
            addresses.try_for_each(|net| {
                let added = socket.execute_all(&[addressing::add_address(index, &host_name, net)]);
                ignore_without_ipv6(net, added)
            })
        };
        inside(host, on_host).await??;
        let in_namespace = || -> Result<(), String> {
            let text = |error: &dyn std::fmt::Display| error.to_string();
            let mut socket = NetlinkSocket::route().map_err(|error| text(&error))?;
            let link = links::by_name(&mut socket, "eth0").map_err(|error| text(&error))?;
            let index = link.map_or(0, |link| link.index);
            let up = [links::set_up("lo", None), links::set_up("eth0", None)];
            socket.execute_all(&up).map_err(|error| text(&error))?;
            let [host4, own4] = OUTSIDE_V4;
            let [host6, own6] = OUTSIDE_V6;
            for (host, own) in [
                (IpAddr::from(host4), IpAddr::from(own4)),
                (host6.into(), own6.into()),
            ] {
                let default = IpNet::new(unspecified(own.is_ipv4()), 0);
                let Ok(destination) = default else {
                    continue;
                };
                for net in nets(own) {
                    let route = NewRoute {
                        destination,
                        gateway: Some(host),
                        index,
                        table: None,
                        metric: None,
                    };
                    let requests = [addressing::add_address(index, "eth0", net), route.request()];
                    ignore_without_ipv6(net, socket.execute_all(&requests))?;
                }
            }
            Ok(())
        };
        inside(&namespace, in_namespace).await??;
        Ok(Self { namespace })
    }
}

/// The address with the prefix of the link outside.
fn nets(address: IpAddr) -> impl Iterator<Item = IpNet> {
    let prefix = if address.is_ipv4() { 30 } else { 126 };
    IpNet::new(address, prefix).ok().into_iter()
}

/// A host without IPv6 is tested with IPv4 alone.
fn ignore_without_ipv6(net: IpNet, result: Result<(), NetlinkError>) -> Result<(), String> {
    match result {
        Err(_) if net.addr().is_ipv6() && !links::has_ipv6() => Ok(()),
        other => other.map_err(|error| error.to_string()),
    }
}
