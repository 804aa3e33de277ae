//! Attaching and detaching interfaces, and what an intent means on the host: nftables elements and
//! a bridge. What the provider's threads share.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use nix::errno::Errno;

use super::flows;
use super::host::{Bridge, BridgeSpec, DescribedChange, HostBridges, HostError};
use super::registry::{Entry, InterfaceState, Registry};
use super::{BridgeIntent, mac_of};
use crate::net::addressing;
use crate::net::link_reaper::LinkReaper;
use crate::net::links::{self, BridgePort, VethError, VethPair};
use crate::net::listeners::{self, Transport};
use crate::net::netlink::{NetlinkError, NetlinkSocket, SocketPool};
use crate::net::netns::{NamespaceThreads, OwnThread};
use crate::net::nft::{Element, NftError, Table};
use crate::provider::container_side::{Announce, ContainerLink};
use crate::provider::ipam::{Holder, Ipam};
use crate::provider::ownership::{OwnerTag, describe_owner};
use crate::provider::{
    BoxError, Intent, PortMapping, Protocol, ProviderError, ProviderErrors, failed, refused,
};

/// Attaches containers to the bridges of this host.
#[derive(Debug)]
pub(super) struct BridgeDriver {
    pub(super) owner: OwnerTag,
    pub(super) ipam: Ipam,
    pub(super) host: HostBridges,
    pub(super) table: Table,
    pub(super) reaper: LinkReaper,
    pub(super) registry: Registry,
    pub(super) threads: NamespaceThreads,
    /// Sockets of the host's namespace.
    sockets: SocketPool,
    /// IPv4 addresses whose neighbours may know a MAC address that does not follow from them.
    unusual_macs: Mutex<HashSet<IpAddr>>,
}

/// Far more containers with several IPv4 addresses than any host has.
const MAX_UNUSUAL_MACS: usize = 4096;

/// The steps of an attach that were completed.
#[derive(Debug, Default)]
struct AttachProgress {
    has_port_elements: bool,
    has_link: bool,
}

impl BridgeDriver {
    pub(super) fn new(state_dir: &Path) -> Result<Self, BoxError> {
        let owner = OwnerTag::new(state_dir);
        Ok(Self {
            ipam: Ipam::new(state_dir),
            host: HostBridges::new(state_dir, owner.clone()),
            owner,
            table: Table::open()?,
            reaper: LinkReaper::start()?,
            registry: Registry::default(),
            threads: NamespaceThreads::new("cm-attach")?,
            sockets: SocketPool::default(),
            unusual_macs: Mutex::default(),
        })
    }

    /// Attaches what the entry's intent says, or leaves nothing. Blocks.
    pub(super) fn attach(
        self: &Arc<Self>,
        thread: &mut OwnThread,
        entry: &Arc<Entry>,
        namespace: &OwnedFd,
    ) -> Result<(), ProviderError> {
        let intent = &entry.intent;
        let _work = entry.lock();
        if entry.state() != InterfaceState::Attaching {
            return Err(refused(
                &intent.network,
                "the container was detached before it was attached",
            ));
        }
        let mut progress = AttachProgress::default();
        // Of the host's namespace, before the thread enters the container's; the undo needs it as
        // well.
        let mut host_socket = self
            .sockets
            .take()
            .map_err(|error| failed(&intent.network, "attach", error))?;
        match self.attach_steps(thread, &mut host_socket, intent, namespace, &mut progress) {
            Ok(()) => {
                // Has no effect if a detach has begun meanwhile; it waits for the lock.
                entry.transition(InterfaceState::Attaching, InterfaceState::Attached);
                self.ipam.confirm(&holder(intent));
                self.sockets.put_back(host_socket);
                Ok(())
            }
            Err(error) => {
                self.undo_attach(&mut host_socket, intent, &progress);
                self.registry.remove_entry(entry);
                if let Err(error) = self.remove_unused_bridge(intent) {
                    log::warn!("after a failed attach: {error}");
                }
                Err(error)
            }
        }
    }

    /// The host side first, then the container's side.
    fn attach_steps(
        self: &Arc<Self>,
        thread: &mut OwnThread,
        host_socket: &mut NetlinkSocket,
        intent: &Intent<BridgeIntent>,
        namespace: &OwnedFd,
        progress: &mut AttachProgress,
    ) -> Result<(), ProviderError> {
        let network = &intent.network;
        for port in &intent.ports {
            check_port_is_unused(intent, *port)?;
        }
        let bridge = &intent.provider.bridge;
        let shared = self
            .host
            .lock_shared()
            .map_err(|error| failed(network, format!("lock the bridge {bridge}"), error))?;
        self.add_elements(intent)?;
        progress.has_port_elements = true;
        flows::forget_untranslated(intent);
        let bridge = self.create_link(host_socket, intent, namespace, progress)?;
        drop(shared);

        let fail = |error: BoxError| {
            let action = format!("configure {} in the container", intent.interface);
            failed(network, action, error)
        };
        let link = ContainerLink {
            gateway_mac: bridge.mac,
            announce: self.announcement(intent, bridge),
            ..container_link(intent)
        };
        if let Some(announcement) = link.configure(thread, namespace).map_err(fail)? {
            // Reading a link makes newer kernels take notice of its carrier, so that the port
            // forwards the announcement.
            let _ = links::by_name(host_socket, &intent.provider.host_interface);
            announcement.send();
        }
        Ok(())
    }

    /// The neighbours of an IPv4 address know its MAC address, which follows from it, unless the
    /// address was or is one of several of a container. A network may have IPv6 with and without
    /// IPv4, so IPv6 addresses are always announced. So is everything on an operator's bridge, whose
    /// segment may go on behind the host.
    fn announcement(&self, intent: &Intent<BridgeIntent>, bridge: Bridge) -> Announce {
        let mut announce = Announce {
            v4: bridge.mac.is_none(),
            v6: intent.addresses.iter().any(|net| net.addr().is_ipv6()),
        };
        announce.v4 |= self.note_mac(intent);
        announce.v4 &= intent.addresses.iter().any(|net| net.addr().is_ipv4());
        announce
    }

    /// Notes which IPv4 addresses of an intent have a MAC address that does not follow from them.
    /// Returns whether the neighbours of any may know another one than the intent's.
    pub(super) fn note_mac(&self, intent: &Intent<BridgeIntent>) -> bool {
        let mut unusual = self
            .unusual_macs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut is_unknown = false;
        for net in intent.addresses.iter().filter(|net| net.addr().is_ipv4()) {
            let is_usual = mac_of(std::slice::from_ref(net)) == Some(intent.mac);
            is_unknown |= if is_usual {
                unusual.remove(&net.addr())
            } else {
                if unusual.len() < MAX_UNUSUAL_MACS {
                    unusual.insert(net.addr());
                }
                true
            };
        }
        is_unknown
    }

    /// Adds the mapped ports, and what the containers of the network share.
    fn add_elements(&self, intent: &Intent<BridgeIntent>) -> Result<(), ProviderError> {
        self.table
            .add(&self.elements(intent))
            .map_err(|error| match error {
                NftError::Taken { element, holder } => {
                    let port = intent.ports.iter().find(|port| {
                        self.elements_of_port(intent, **port)
                            .iter()
                            .any(|other| other.key == element.key)
                    });
                    let object = port.map_or_else(
                        || element.to_string(),
                        |port| format!("port {}/{} of the host", port.host_port, port.protocol),
                    );
                    refused(
                        &intent.network,
                        format!("{object} is taken by {}", describe_owner(&holder)),
                    )
                }
                other @ NftError::Netlink(_) => failed(
                    &intent.network,
                    "set up port mappings and masquerading",
                    other,
                ),
            })
    }

    fn create_link(
        self: &Arc<Self>,
        host_socket: &mut NetlinkSocket,
        intent: &Intent<BridgeIntent>,
        namespace: &OwnedFd,
        progress: &mut AttachProgress,
    ) -> Result<Bridge, ProviderError> {
        let BridgeIntent {
            bridge: bridge_name,
            host_interface,
            ..
        } = &intent.provider;
        let spec = self.bridge_spec(intent);
        let alias = self.owner.container_label(intent, host_interface);
        let mut is_retry = false;
        loop {
            let bridge = self
                .host
                .ensure(host_socket, &spec)
                .map_err(|error| bridge_failed(intent, error))?;
            let pair = VethPair {
                host: host_interface,
                inner: &intent.interface,
                mac: intent.mac.0,
                mtu: intent.mtu,
                alias: &alias,
                bridge: Some(BridgePort {
                    bridge: bridge.index,
                    hairpin: needs_hairpin(intent),
                }),
            };
            // What the host knows of the addresses: the MAC address of a container that had them
            // before, or that nobody has them.
            let neighbours = intent
                .addresses
                .iter()
                .map(|net| addressing::delete_neighbour(bridge.index, net.addr()));
            match links::create_veth(host_socket, &pair, namespace.as_fd(), neighbours) {
                Ok(results) => {
                    progress.has_link = true;
                    let unknown = |error: &NetlinkError| error.errno() == Some(Errno::ENOENT);
                    for error in results.into_iter().filter_map(Result::err) {
                        if !unknown(&error) {
                            log::warn!("network {:?}: {error}", intent.network);
                        }
                    }
                    return Ok(bridge);
                }
                Err(VethError::NotCreated(error))
                    if !is_retry
                        && matches!(error.errno(), Some(Errno::ENODEV | Errno::EINVAL)) =>
                {
                    // The bridge was deleted by someone else, and so were the ports of the other
                    // containers.
                    is_retry = true;
                    self.host.forget(bridge_name);
                    self.repair_in_background();
                }
                Err(VethError::NotCreated(error)) if error.errno() == Some(Errno::EEXIST) => {
                    let host_end = links::by_name(host_socket, host_interface);
                    let message = if matches!(host_end, Ok(Some(_))) {
                        format!(
                            "the interface {} of container {} is attached already (its host end is {host_interface}); detach it first",
                            intent.interface, intent.container
                        )
                    } else {
                        format!(
                            "the container's namespace has an interface {} already",
                            intent.interface
                        )
                    };
                    return Err(refused(&intent.network, message));
                }
                Err(VethError::Incomplete(error)) => {
                    progress.has_link = true;
                    return Err(failed(&intent.network, "attach", error));
                }
                Err(VethError::NotCreated(error)) => {
                    return Err(failed(&intent.network, "attach", error));
                }
            }
        }
    }

    /// Best effort: the detach that follows every failed attach undoes the rest.
    fn undo_attach(
        &self,
        host_socket: &mut NetlinkSocket,
        intent: &Intent<BridgeIntent>,
        progress: &AttachProgress,
    ) {
        let network = &intent.network;
        if progress.has_port_elements
            && let Err(error) = self.table.remove(&self.port_elements(intent))
        {
            log::warn!("network {network:?}: after a failed attach: {error}");
        }
        if progress.has_link {
            let name = &intent.provider.host_interface;
            if let Err(error) = host_socket.execute_all(&[links::delete(name)])
                && error.errno() != Some(Errno::ENODEV)
            {
                log::warn!("network {network:?}: after a failed attach: {error}");
            }
        }
    }

    /// Frees the addresses of a reservation that nothing was made of. Blocks.
    pub(super) fn release(&self, intent: &Intent<BridgeIntent>) -> Result<(), ProviderErrors> {
        self.ipam
            .release(&intent.network, &intent.addresses, &holder(intent))
    }

    /// The first part of a detach: waits for an attach in progress, and removes the mapped ports.
    /// The caller then deletes the link. Blocks.
    pub(super) fn begin_detach(&self, intent: &Intent<BridgeIntent>) -> Result<(), ProviderError> {
        let entry = self.registry.begin_detach(&intent.provider.host_interface);
        let _work = entry.as_ref().map(|entry| entry.lock());
        self.table
            .remove(&self.port_elements(intent))
            .map_err(|error| failed(&intent.network, "remove the port mappings", error))?;
        flows::forget_translated(intent);
        Ok(())
    }

    /// The last part of a detach, after the link was deleted. Blocks.
    pub(super) fn finish_detach(
        &self,
        intent: &Intent<BridgeIntent>,
    ) -> Result<(), ProviderErrors> {
        let mut errors = ProviderErrors::new();
        errors.extend(self.release(intent).err().into_iter().flatten());
        self.registry.remove(&intent.provider.host_interface);
        errors.extend(self.remove_unused_bridge(intent).err());
        errors.into_result(())
    }

    /// Removes the bridge of an intent and the nftables table if nothing needs them any more.
    fn remove_unused_bridge(&self, intent: &Intent<BridgeIntent>) -> Result<(), ProviderError> {
        let bridge = &intent.provider.bridge;
        if self.registry.uses_bridge(bridge) {
            return Ok(());
        }
        let fail = |error: BoxError| {
            failed(
                &intent.network,
                format!("remove the unused bridge {bridge}"),
                error,
            )
        };
        let Some(_exclusive) = self
            .host
            .lock_exclusive()
            .map_err(|error| fail(error.into()))?
        else {
            return Ok(());
        };
        // An attach may have begun before the lock was acquired.
        if self.registry.uses_bridge(bridge) {
            return Ok(());
        }
        let is_unused = self
            .host
            .remove_bridge_if_unused(bridge)
            .map_err(|error| fail(error.into()))?;
        if is_unused {
            self.table
                .remove(&self.all_network_elements(intent))
                .and_then(|()| self.table.remove_if_unused())
                .map_err(|error| fail(error.into()))?;
        }
        Ok(())
    }

    /// Describes what `attach` would do, from the same data. Blocks.
    pub(super) fn plan(&self, intent: &Intent<BridgeIntent>) -> Result<Vec<String>, ProviderError> {
        let network = &intent.network;
        let BridgeIntent {
            bridge,
            host_interface,
            ..
        } = &intent.provider;
        for port in &intent.ports {
            check_port_is_unused(intent, *port)?;
        }
        let mut steps: Vec<String> = intent
            .addresses
            .iter()
            .map(|net| format!("lease {} of network {network}", net.addr()))
            .collect();
        let elements = self.elements(intent);
        if !elements.is_empty() {
            steps.extend(
                self.table
                    .plan(&elements)
                    .map_err(|error| failed(network, "read the nftables table", error))?,
            );
        }
        let mut socket = NetlinkSocket::route()
            .map_err(|error| failed(network, "read the host's interfaces", error))?;
        let changes = self
            .host
            .required_changes(&mut socket, &self.bridge_spec(intent))
            .map_err(|error| bridge_failed(intent, error))?;
        steps.extend(
            changes
                .iter()
                .map(|change| DescribedChange { change, bridge }.to_string()),
        );
        steps.push(format!(
            "create the veth pair {host_interface} (port of {bridge}, up) and {} (in the container), MAC {}, MTU {}{}",
            intent.interface,
            intent.mac,
            intent.mtu,
            if needs_hairpin(intent) {
                ", hairpin"
            } else {
                ""
            }
        ));
        steps.extend(container_link(intent).plan());
        Ok(steps)
    }

    /// All nftables elements that a container needs.
    pub(super) fn elements(&self, intent: &Intent<BridgeIntent>) -> Vec<Element> {
        let mut elements =
            self.network_elements(intent, !intent.ports.is_empty(), intent.provider.masquerade);
        elements.extend(self.port_elements(intent));
        elements
    }

    /// The elements that map the host's ports to the container.
    pub(super) fn port_elements(&self, intent: &Intent<BridgeIntent>) -> Vec<Element> {
        intent
            .ports
            .iter()
            .flat_map(|port| self.elements_of_port(intent, *port))
            .collect()
    }

    fn elements_of_port(&self, intent: &Intent<BridgeIntent>, port: PortMapping) -> Vec<Element> {
        let label = self
            .owner
            .container_label(intent, &intent.provider.host_interface);
        mapped_addresses(intent)
            .map(|address| {
                Element::port(
                    protocol_number(port.protocol),
                    port.host_port,
                    address,
                    port.container_port,
                    &label,
                )
            })
            .collect()
    }

    /// All elements that containers of the network may have added.
    fn all_network_elements(&self, intent: &Intent<BridgeIntent>) -> Vec<Element> {
        self.network_elements(intent, true, true)
    }

    /// The elements that containers of the network share.
    fn network_elements(
        &self,
        intent: &Intent<BridgeIntent>,
        with_ports: bool,
        with_masquerade: bool,
    ) -> Vec<Element> {
        let BridgeIntent {
            bridge,
            bridge_addresses,
            ..
        } = &intent.provider;
        let label = self.owner.network_label(&intent.network);
        let mut elements = Vec::new();
        if with_ports {
            elements.push(Element::bridge(bridge, &label));
            for net in bridge_addresses {
                for sources in unrouted_sources(net.trunc(), &intent.provider.routes) {
                    elements.push(Element::local(sources, net.trunc(), &label));
                }
            }
        }
        if with_masquerade {
            for net in bridge_addresses {
                elements.extend(Element::masquerade(net.trunc(), &label));
            }
        }
        elements
    }

    pub(super) fn bridge_spec(&self, intent: &Intent<BridgeIntent>) -> BridgeSpec {
        let BridgeIntent {
            bridge,
            bridge_addresses,
            ..
        } = &intent.provider;
        BridgeSpec {
            name: bridge.clone(),
            mac: self.owner.bridge_mac(bridge),
            mtu: intent.mtu,
            addresses: bridge_addresses.clone(),
            reaches_loopback: !intent.ports.is_empty()
                && intent.addresses.iter().any(|net| net.addr().is_ipv4()),
        }
    }
}

/// The addresses to which the ports of the host are mapped: the first of each family.
pub(super) fn mapped_addresses(intent: &Intent<BridgeIntent>) -> impl Iterator<Item = IpAddr> {
    [true, false].into_iter().filter_map(|is_v4| {
        intent
            .addresses
            .iter()
            .map(IpNet::addr)
            .find(|address| address.is_ipv4() == is_v4)
    })
}

/// The addresses of clients of mapped ports that a container of `subnet` does not answer by its
/// gateway: its neighbours in the subnet, and everything that its routes do not lead to. Such a
/// client must appear with the bridge's address.
fn unrouted_sources(subnet: IpNet, routes: &[IpNet]) -> Vec<(IpAddr, IpAddr)> {
    let is_v4 = subnet.addr().is_ipv4();
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    let address = |number: u128| -> IpAddr {
        match u32::try_from(number) {
            Ok(number) if is_v4 => Ipv4Addr::from_bits(number).into(),
            _ => Ipv6Addr::from_bits(number).into(),
        }
    };
    let range = |net: &IpNet| (number(net.network()), number(net.broadcast()));
    let max = if is_v4 {
        u128::from(u32::MAX)
    } else {
        u128::MAX
    };
    let (first, last) = range(&subnet);
    // What the routes lead to, without the subnet. Without any route, the gateway is the default.
    let mut reached = Vec::new();
    for (start, end) in routes
        .iter()
        .filter(|route| route.addr().is_ipv4() == is_v4)
        .map(range)
        .chain(routes.is_empty().then_some((0, max)))
    {
        reached.extend(first.checked_sub(1).map(|before| (start, end.min(before))));
        reached.extend(last.checked_add(1).map(|after| (start.max(after), end)));
    }
    reached.retain(|(start, end)| start <= end);
    reached.sort_unstable();
    let mut sources = Vec::new();
    let mut next = Some(0);
    for (start, end) in reached {
        if let Some(from) = next.filter(|from| *from < start) {
            sources.push((address(from), address(start - 1)));
        }
        next = next.and_then(|from| Some(from.max(end.checked_add(1)?)));
    }
    sources.extend(
        next.filter(|from| *from <= max)
            .map(|from| (address(from), address(max))),
    );
    sources
}

pub(super) fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// The holder of an intent's leases.
pub(super) fn holder(intent: &Intent<BridgeIntent>) -> Holder {
    Holder {
        container: intent.container.clone(),
        interface: intent.interface.clone(),
    }
}

pub(super) fn bridge_failed(intent: &Intent<BridgeIntent>, error: HostError) -> ProviderError {
    if let HostError::NotABridge(_) = error {
        return refused(&intent.network, error.to_string());
    }
    let action = format!("create the bridge {}", intent.provider.bridge);
    failed(&intent.network, action, error)
}

/// Whether the container's port must send frames back to where they came from. If the module
/// `br_netfilter` is loaded, as Docker does, the bridge itself answers a container that uses its
/// own mapped port, not the host above it.
pub(super) fn needs_hairpin(intent: &Intent<BridgeIntent>) -> bool {
    intent.provider.hairpin || !intent.ports.is_empty()
}

fn container_link(intent: &Intent<BridgeIntent>) -> ContainerLink<'_> {
    ContainerLink {
        interface: &intent.interface,
        mac: None,
        addresses: &intent.addresses,
        gateways: &intent.gateways,
        routes: &intent.provider.routes,
        gateway_mac: None,
        announce: Announce::default(),
    }
}

/// Refuses a port on which a process of the host listens: the mapping would hide it.
fn check_port_is_unused(
    intent: &Intent<BridgeIntent>,
    port: PortMapping,
) -> Result<(), ProviderError> {
    let transport = match port.protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
        Protocol::Sctp => return Ok(()),
    };
    for is_v4 in [true, false] {
        if !intent
            .addresses
            .iter()
            .any(|net| net.addr().is_ipv4() == is_v4)
        {
            continue;
        }
        let is_used = listeners::is_listening(transport, is_v4, port.host_port)
            .map_err(|error| failed(&intent.network, "look for a process on a port", error))?;
        if is_used {
            return Err(refused(
                &intent.network,
                format!(
                    "port {}/{} of the host is in use by a process of the host; stop it, or map another port",
                    port.host_port, port.protocol
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(subnet: &str, routes: &[&str]) -> Vec<String> {
        let routes: Vec<IpNet> = routes.iter().map(|route| route.parse().unwrap()).collect();
        unrouted_sources(subnet.parse().unwrap(), &routes)
            .into_iter()
            .map(|(first, last)| format!("{first}-{last}"))
            .collect()
    }

    #[test]
    fn unrouted_sources_are_the_subnet_and_what_no_route_leads_to() {
        let subnet = "10.1.0.0/16";
        for default in [&[][..], &["0.0.0.0/0"], &["0.0.0.0/1", "128.0.0.0/1"]] {
            assert_eq!(sources(subnet, default), ["10.1.0.0-10.1.255.255"]);
        }
        assert_eq!(
            sources(subnet, &["10.0.0.0/8"]),
            [
                "0.0.0.0-9.255.255.255",
                "10.1.0.0-10.1.255.255",
                "11.0.0.0-255.255.255.255"
            ]
        );
        let all = ["0.0.0.0-255.255.255.255"];
        assert_eq!(sources(subnet, &["10.1.2.0/24"]), all);
        assert_eq!(sources(subnet, &["fd00::/8"]), all);
        assert_eq!(
            sources(subnet, &["192.0.2.0/24", "192.0.2.128/25", "10.1.0.0/15"]),
            [
                "0.0.0.0-9.255.255.255",
                "10.1.0.0-192.0.1.255",
                "192.0.3.0-255.255.255.255"
            ]
        );
        assert_eq!(
            sources("fd00:1::/64", &["::/0"]),
            ["fd00:1::-fd00:1::ffff:ffff:ffff:ffff"]
        );
        assert_eq!(
            sources("fd00:1::/64", &["8000::/1"]),
            [
                "::-7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
                "fd00:1::-fd00:1::ffff:ffff:ffff:ffff"
            ]
        );
    }
}
