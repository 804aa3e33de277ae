//! The container's side of a link: addresses and routes of an interface that exists already.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use ipnet::IpNet;
use nix::errno::Errno;

use super::BoxError;
use crate::net::addressing::{NewRoute, unspecified};
use crate::net::announcement::Announcement;
use crate::net::links::{self, Link};
use crate::net::netlink::{NetlinkSocket, Request};
use crate::net::netns::{Kind, OwnThread};
use crate::net::source_routing::SourceRouting;
use crate::net::{addressing, sysctl};
use contrail_mesos_api::container::Mac;

/// The interface of a container's first network, the only one whose gateways are default routes
/// without being named in `routes`: with two, the failure of one interface would decide which one a
/// packet takes. CNI's plugins, Docker and Contrail's own plugin do the same.
pub(super) const FIRST_INTERFACE: &str = "eth0";

/// The desired state of an interface in the container.
pub(super) struct ContainerLink<'a> {
    pub(super) interface: &'a str,
    /// The MAC address to set, if the interface was not created with the right one.
    pub(super) mac: Option<Mac>,
    pub(super) addresses: &'a [IpNet],
    /// Next hops, one per family at most.
    pub(super) gateways: &'a [IpAddr],
    /// Destinations behind the gateways. If empty, those of the first interface are the default
    /// routes, and those of others lead only where packets from this interface's addresses go.
    pub(super) routes: &'a [IpNet],
    /// Subnets of `addresses` that are behind the gateways, each with its gateway as the address. The
    /// gateways are then on the link, and nothing else is: so it is where groups are isolated.
    pub(super) subnets_behind_gateways: &'a [IpNet],
    /// Whether a neighbour's address may belong to another host later, so that the container must not
    /// learn a shorter way to it.
    pub(super) refuses_redirects: bool,
    /// The gateways' MAC address, if it never changes. The container then needs no neighbour
    /// discovery for them, and so no entry of the kernel's neighbour table, which all namespaces
    /// share and which has room for 1,024 entries by default.
    pub(super) gateway_mac: Option<Mac>,
    /// The families whose addresses are announced to the neighbours.
    pub(super) announce: Announce,
}

/// Which addresses are announced to the neighbours, because these may know another MAC address for
/// them, of a container that had them before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Announce {
    /// By gratuitous ARP.
    pub(super) v4: bool,
    /// By unsolicited neighbour advertisements.
    pub(super) v6: bool,
}

impl ContainerLink<'_> {
    /// Enters the namespace and configures the interface and loopback. Returns the announcement to
    /// be made, if the neighbours need one.
    pub(super) fn configure(
        &self,
        thread: &mut OwnThread,
        namespace: &OwnedFd,
    ) -> Result<Option<Announcement>, BoxError> {
        thread.enter(namespace, Kind::Net)?;
        for (name, value) in self.settings() {
            sysctl::write_if_present(&name, value)?;
        }
        let mut socket = NetlinkSocket::route()?;
        let link =
            links::by_name(&mut socket, self.interface)?.ok_or("the interface does not exist")?;
        let requests = self.requests(link.index);
        self.execute(&mut socket, &requests)?;
        if let Some(table) = route_metric(self.interface) {
            let routes: Vec<_> = self.gateway_routes().collect();
            let gateways: Vec<_> = self.gateways.iter().copied().map(IpNet::from).collect();
            let source_routing = SourceRouting {
                index: link.index,
                table,
                addresses: self.addresses,
                on_link: if self.subnets_behind_gateways.is_empty() {
                    self.addresses
                } else {
                    &gateways
                },
                routes: &routes,
            };
            source_routing.apply(&mut socket)?;
        }
        self.announcement(socket, &link)
    }

    fn execute(&self, socket: &mut NetlinkSocket, requests: &[Request]) -> Result<(), BoxError> {
        match socket.execute_all(requests) {
            // IPv6 is disabled for new interfaces, but this network has it.
            Err(error) if error.errno() == Some(Errno::EACCES) => {
                let name = format!("net/ipv6/conf/{}/disable_ipv6", self.interface);
                sysctl::write_if_present(&name, "0")?;
                for result in socket.execute(requests)? {
                    match result {
                        Err(error) if error.errno() == Some(Errno::EEXIST) => {}
                        other => other?,
                    }
                }
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn announcement(
        &self,
        socket: NetlinkSocket,
        link: &Link,
    ) -> Result<Option<Announcement>, BoxError> {
        let Announce { v4, v6 } = self.announce;
        let name = self.interface;
        for (wanted, setting) in [
            (v4, format!("net/ipv4/conf/{name}/arp_notify")),
            (v6, format!("net/ipv6/conf/{name}/ndisc_notify")),
        ] {
            if wanted {
                sysctl::write_if_present(&setting, "1")?;
            }
        }
        let current = <[u8; 6]>::try_from(link.mac.as_slice()).ok().map(Mac);
        let Some(mac) = self.mac.or(current).filter(|_| v4 || v6) else {
            return Ok(None);
        };
        // The kernel announces the addresses of an interface when its MAC address is set, also to
        // the same one. It then forgets the interface's neighbours.
        let mut requests = vec![links::set_mac(name, mac.0)];
        requests.extend(self.neighbours(link.index));
        Ok(Some(Announcement::new(socket, requests)))
    }

    /// The requests for the permanent neighbours.
    fn neighbours(&self, index: u32) -> impl Iterator<Item = Request> {
        let mac = self.gateway_mac;
        self.gateways
            .iter()
            .filter_map(move |gateway| Some(addressing::add_neighbour(index, *gateway, mac?.0)))
    }

    /// Describes what `configure` would do.
    pub(super) fn plan(&self) -> Vec<String> {
        let setting = |(name, value)| format!("in the container: set /proc/sys/{name} to {value}");
        self.settings()
            .map(setting)
            .chain(
                self.requests(0)
                    .iter()
                    .map(|request| format!("in the container: {}", request.action())),
            )
            .collect()
    }

    /// Names and values of the interface's settings.
    fn settings(&self) -> impl Iterator<Item = (String, &'static str)> {
        // Otherwise neighbours become the container's router.
        let accept_ra = format!("net/ipv6/conf/{}/accept_ra", self.interface);
        // The host redirects IPv6 packets that go back by their bridge, and has no setting against it.
        let has_v6 = |nets: &[IpNet]| nets.iter().any(|net| net.addr().is_ipv6());
        let refuses_redirects = self.refuses_redirects && has_v6(self.addresses);
        let accept_redirects = (refuses_redirects || has_v6(self.subnets_behind_gateways))
            .then(|| format!("net/ipv6/conf/{}/accept_redirects", self.interface));
        std::iter::once(accept_ra)
            .chain(accept_redirects)
            .map(|name| (name, "0"))
    }

    /// The requests that configure the interface, which has the index `index`.
    fn requests(&self, index: u32) -> Vec<Request> {
        let name = self.interface;
        let has_ipv6 = self.addresses.iter().any(|net| net.addr().is_ipv6());
        let up = links::set_up_in_container(name, has_ipv6);
        let mut requests = vec![links::set_up("lo", None)];
        requests.extend(self.mac.map(|mac| links::set_mac(name, mac.0)));
        requests.push(up);
        for net in self.addresses {
            requests.push(addressing::add_address(index, name, *net));
        }
        let metric = route_metric(name);
        for gateway in self.gateways {
            let on_link = gateway_on_link(*gateway, self.subnets_behind_gateways);
            let on_link = on_link.into_iter().map(|gateway| (gateway, None));
            let by_gateway = main_routes(name, *gateway, self.routes, self.subnets_behind_gateways);
            let by_gateway = by_gateway.into_iter().map(|net| (net, Some(*gateway)));
            for (destination, gateway) in on_link.chain(by_gateway) {
                let route = NewRoute {
                    destination,
                    gateway,
                    index,
                    table: None,
                    metric,
                };
                requests.push(route.request());
            }
        }
        requests.extend(self.neighbours(index));
        requests
    }

    /// The destinations of packets from the interface's addresses, each with its gateway.
    fn gateway_routes(&self) -> impl Iterator<Item = (IpNet, IpAddr)> {
        self.gateways.iter().flat_map(move |gateway| {
            let is_v4 = gateway.is_ipv4();
            let default = self.routes.is_empty().then(|| unspecified(is_v4));
            let own = own_subnet(*gateway, self.subnets_behind_gateways, self.routes);
            self.routes
                .iter()
                .copied()
                .filter(move |net| net.addr().is_ipv4() == is_v4)
                .chain(default.and_then(|any| IpNet::new(any, 0).ok()))
                .chain(own)
                .map(move |net| (net, *gateway))
        })
    }
}

/// The destination of the route to `gateway` itself, if it is on the link alone; `behind_gateways` as in
/// [`ContainerLink`].
pub(super) fn gateway_on_link(gateway: IpAddr, behind_gateways: &[IpNet]) -> Option<IpNet> {
    let is_alone = behind_gateways.iter().any(|net| net.addr() == gateway);
    is_alone.then(|| IpNet::from(gateway))
}

/// The interface's own subnet that is behind `gateway`, unless `routes` have it.
fn own_subnet(gateway: IpAddr, behind_gateways: &[IpNet], routes: &[IpNet]) -> Option<IpNet> {
    let subnet = behind_gateways.iter().find(|net| net.addr() == gateway)?;
    let subnet = subnet.trunc();
    let is_there = routes.iter().any(|route| route.trunc() == subnet);
    (!is_there).then_some(subnet)
}

/// The destinations that the main table of a container has behind `gateway`; `routes` and
/// `behind_gateways` as in [`ContainerLink`].
pub(super) fn main_routes(
    interface: &str,
    gateway: IpAddr,
    routes: &[IpNet],
    behind_gateways: &[IpNet],
) -> Vec<IpNet> {
    let own = own_subnet(gateway, behind_gateways, routes);
    if routes.is_empty() && interface == FIRST_INTERFACE {
        let default = IpNet::new(unspecified(gateway.is_ipv4()), 0).ok();
        return default.into_iter().chain(own).collect();
    }
    let mut routes = routes.to_vec();
    routes.retain(|net| net.addr().is_ipv4() == gateway.is_ipv4());
    routes.extend(own);
    routes
}

/// The metric of an interface's routes, and the number of the table with the routes of packets from
/// its addresses. The routes of the first interface are preferred and have no table. No two interfaces share a metric, because equal routes would conflict.
fn route_metric(interface: &str) -> Option<u32> {
    let number = interface
        .strip_prefix("eth")
        .and_then(|number| number.parse::<u16>().ok());
    match number {
        Some(0) => None,
        Some(number) => Some(1024 + u32::from(number)),
        // CNI plugins may use any name.
        None => Some(
            interface
                .bytes()
                .fold(0_u32, |sum, byte| (sum * 31 + u32::from(byte)) % (1 << 20))
                + (1 << 20),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{Announce, ContainerLink, route_metric};

    #[test]
    fn only_first_interface_has_default_routes_unless_they_are_named() {
        let routes = |interface: &str, routes: &[&str]| -> Vec<String> {
            let routes: Vec<_> = routes.iter().map(|net| net.parse().unwrap()).collect();
            let link = ContainerLink {
                interface,
                mac: None,
                addresses: &[
                    "10.33.0.2/24".parse().unwrap(),
                    "fd00:33::2/64".parse().unwrap(),
                ],
                gateways: &["10.33.0.1".parse().unwrap(), "fd00:33::1".parse().unwrap()],
                routes: &routes,
                subnets_behind_gateways: &[],
                refuses_redirects: false,
                gateway_mac: None,
                announce: Announce::default(),
            };
            let plan = link.plan().into_iter();
            plan.filter(|line| line.contains("route")).collect()
        };
        assert_eq!(routes("eth0", &[]).len(), 2);
        assert_eq!(routes("eth1", &[]), [""; 0]);
        assert_eq!(routes("net1", &[]), [""; 0]);
        assert_eq!(routes("eth1", &["0.0.0.0/0"]).len(), 1);
        assert_eq!(routes("eth1", &["0.0.0.0/0", "::/0"]).len(), 2);
    }

    #[test]
    fn route_metric_prefers_eth0_and_differs_per_interface() {
        assert_eq!(route_metric("eth0"), None);
        assert_eq!(route_metric("eth1"), Some(1025));
        let others = ["eth2", "ethernet", "blue0", "red0", "net7", "0"];
        let metrics: std::collections::BTreeSet<_> = others.map(route_metric).into();
        assert_eq!(metrics.len(), others.len());
        assert!(metrics.iter().all(|metric| *metric > Some(1025)));
    }
}
