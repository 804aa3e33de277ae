//! Attaching and detaching interfaces, and what an intent means on the host: nftables elements and
//! a bridge. What the provider's threads share.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use nix::errno::Errno;
use tokio::sync::mpsc::UnboundedSender;

use super::desired::BridgeSpec;
use super::flows;
use super::host::{Bridge, HostError, PlannedChange};
use super::host_side::{HostSide, add_forwarding_entry, bridge_port};
use super::registry::{Entry, InterfaceState, NetworkForm};
use super::{BridgeIntent, mac_of};
use crate::config::BridgeNetwork;
use crate::net::addressing;
use crate::net::link_reaper::LinkReaper;
use crate::net::links::{self, VethError, VethPair};
use crate::net::listeners::{self, Transport};
use crate::net::netlink::{NetlinkError, NetlinkSocket, SocketPool};
use crate::net::netns::{NamespaceThreads, OwnThread};
use crate::net::nft::Element;
use crate::provider::container_side::{Announce, ContainerLink};
use crate::provider::inspection::ExpectedInterface;
use crate::provider::ipam::{Holder, Ipam};
use crate::provider::ownership::{OwnerTag, describe_owner};
use crate::provider::{
    BoxError, Intent, LostInterface, NetworkRequest, PortMapping, Protocol, ProviderError,
    ProviderErrors, failed, refused,
};
use contrail_mesos_api::text::Quoted;

/// Attaches containers to the bridges of this host.
#[derive(Debug)]
pub(super) struct BridgeDriver {
    pub(super) owner: OwnerTag,
    pub(super) ipam: Ipam,
    pub(super) host: Arc<HostSide>,
    pub(super) reaper: LinkReaper,
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
    pub(super) fn new(
        state_dir: &Path,
        lost: UnboundedSender<LostInterface>,
    ) -> Result<Self, BoxError> {
        let owner = OwnerTag::new(state_dir);
        Ok(Self {
            ipam: Ipam::new(state_dir),
            host: Arc::new(HostSide::new(state_dir, owner.clone(), lost)?),
            owner,
            reaper: LinkReaper::start()?,
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
                self.host.registry.remove_entry(entry);
                if let Err(error) = self.release_shared(intent, false) {
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
            .bridges
            .lock_shared()
            .map_err(|error| failed(network, format!("lock the bridge {bridge}"), error))?;
        let bridge = self
            .host
            .ensure(host_socket, intent, &self.port_elements(intent))
            .map_err(|error| self.host_failed(intent, error))?;
        progress.has_port_elements = true;
        flows::forget_untranslated(&[intent]);
        let bridge = self.create_link(host_socket, intent, namespace, bridge, progress)?;
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

    /// The error of an attach whose host side failed.
    fn host_failed(&self, intent: &Intent<BridgeIntent>, error: HostError) -> ProviderError {
        let HostError::Taken { element, holder } = error else {
            return bridge_failed(intent, error);
        };
        let port = intent.ports.iter().find(|port| {
            elements_of_port(&self.owner, intent, **port)
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

    fn create_link(
        self: &Arc<Self>,
        host_socket: &mut NetlinkSocket,
        intent: &Intent<BridgeIntent>,
        namespace: &OwnedFd,
        mut bridge: Bridge,
        progress: &mut AttachProgress,
    ) -> Result<Bridge, ProviderError> {
        let BridgeIntent {
            bridge: bridge_name,
            host_interface,
            ..
        } = &intent.provider;
        let alias = self.owner.container_label(intent, host_interface);
        let mut is_retry = false;
        loop {
            let pair = VethPair {
                host: host_interface,
                inner: &intent.interface,
                mac: intent.mac.0,
                mtu: intent.mtu,
                alias: &alias,
                bridge: Some(bridge_port(intent, bridge.index)),
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
                    if intent.provider.policy.is_some() {
                        route_frames_by_host(host_socket, intent)?;
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
                    self.host.suspect();
                    bridge = self
                        .host
                        .ensure(host_socket, intent, &[])
                        .map_err(|error| self.host_failed(intent, error))?;
                }
                Err(VethError::NotCreated(error)) if error.errno() == Some(Errno::EXFULL) => {
                    return Err(refused(
                        &intent.network,
                        format!(
                            "the bridge {bridge_name} has 1,023 ports, which is all that the kernel allows; \
                             give this host fewer containers of the network, or a second network with a bridge of its own"
                        ),
                    ));
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
            && let Err(error) = self.host.table.remove(&self.port_elements(intent))
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

    /// Why a container cannot be in the groups that it names on a network: the isolation that was asked
    /// for would be missing. Blocks on the file system if it names security groups.
    pub(super) fn refused_groups(
        &self,
        request: &NetworkRequest,
        network: &BridgeNetwork,
    ) -> Option<ProviderError> {
        let membership = &request.membership;
        if membership.is_empty() {
            return None;
        }
        let name = &request.network.name;
        if network.groups.is_none() {
            let groups = membership.groups.iter().chain(&membership.security_groups);
            let remedy = match &network.overlay {
                Some(overlay) => format!(
                    "set \"groups\" of the overlay {} in the managers' overlay configuration",
                    overlay.name
                ),
                None => {
                    "set groups = true for the network in this agent's configuration".to_owned()
                }
            };
            return Some(refused(
                name,
                format!(
                    "the network does not isolate groups, so that others would reach the container of {}; {remedy}, or launch it without groups",
                    listed(groups)
                ),
            ));
        }
        if membership.security_groups.is_empty() {
            return None;
        }
        let state = match self.host.node_state.current() {
            Ok(state) => state,
            Err(error) => {
                let message = format!("the rules of security groups are not known: {error}");
                return Some(refused(name, message));
            }
        };
        let unknown: Vec<&String> = membership
            .security_groups
            .iter()
            .filter(|group| !state.security_groups.contains(group))
            .collect();
        (!unknown.is_empty()).then(|| {
            let message = format!(
                "there is no security group {}; add it to the managers' configuration, or correct the label security-groups",
                listed(unknown)
            );
            refused(name, message)
        })
    }

    /// Frees the addresses of a reservation that nothing was made of. Blocks.
    pub(super) fn release(&self, intent: &Intent<BridgeIntent>) -> Result<(), ProviderErrors> {
        self.ipam
            .release(&intent.network, &intent.addresses, &holder(intent))
    }

    /// The first part of a detach: waits for an attach in progress, and removes the mapped ports.
    /// The caller then deletes the link. Blocks.
    pub(super) fn begin_detach(&self, intent: &Intent<BridgeIntent>) -> Result<(), ProviderError> {
        let entry = self
            .host
            .registry
            .begin_detach(&intent.provider.host_interface);
        let _work = entry.as_ref().map(|entry| entry.lock());
        self.host
            .table
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
        let host_interface = &intent.provider.host_interface;
        let is_foreign = self.host.registry.get(host_interface).is_none();
        self.host.registry.remove(host_interface);
        errors.extend(self.release_shared(intent, is_foreign).err());
        // Last: a block of which nothing is leased is given back, if the bridge has no address of it.
        errors.extend(self.release(intent).err().into_iter().flatten());
        errors.into_result(())
    }

    /// Removes what the containers of the bridge of an intent shared and nothing needs any more.
    fn release_shared(
        &self,
        intent: &Intent<BridgeIntent>,
        is_foreign: bool,
    ) -> Result<(), ProviderError> {
        self.host.release(intent, is_foreign).map_err(|error| {
            let bridge = &intent.provider.bridge;
            let action = format!("remove what is unused of the bridge {bridge}");
            failed(&intent.network, action, error)
        })
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
        let forms = [NetworkForm::from(intent)];
        let mut elements = self.host.shared_elements(&forms, &[]);
        elements.extend(self.port_elements(intent));
        if !elements.is_empty() {
            steps.extend(
                self.host
                    .table
                    .plan(&elements)
                    .map_err(|error| failed(network, "read the nftables table", error))?,
            );
        }
        let mut socket = NetlinkSocket::route()
            .map_err(|error| failed(network, "read the host's interfaces", error))?;
        let (_, changes) = self
            .host
            .bridges
            .required_changes(&mut socket, &BridgeSpec::new(&self.owner, bridge, &forms))
            .map_err(|error| bridge_failed(intent, error))?;
        steps.extend(
            changes
                .iter()
                .map(|change| PlannedChange { change, bridge }.to_string()),
        );
        steps.push(format!(
            "create the veth pair {host_interface} (port of {bridge}, up) and {} (in the container), MAC {}, MTU {}{}",
            intent.interface,
            intent.mac,
            intent.mtu,
            [
                (needs_hairpin(intent), ", hairpin"),
                (intent.provider.policy.is_some(), ", isolated"),
            ]
            .iter()
            .filter_map(|(is_set, text)| is_set.then_some(*text))
            .collect::<String>()
        ));
        steps.extend(container_link(intent).plan());
        Ok(steps)
    }

    /// What is wrong with the host's side of an attached container. Blocks.
    pub(super) fn inspect(&self, intent: &Intent<BridgeIntent>) -> Vec<String> {
        match NetlinkSocket::route() {
            Ok(mut socket) => self
                .host
                .inspect(&mut socket, intent, &self.port_elements(intent)),
            Err(error) => vec![error.to_string()],
        }
    }

    /// The elements that map the host's ports to the container.
    pub(super) fn port_elements(&self, intent: &Intent<BridgeIntent>) -> Vec<Element> {
        port_elements(&self.owner, intent)
    }
}

/// The elements that map the host's ports to a container.
pub(super) fn port_elements(owner: &OwnerTag, intent: &Intent<BridgeIntent>) -> Vec<Element> {
    intent
        .ports
        .iter()
        .flat_map(|port| elements_of_port(owner, intent, *port))
        .collect()
}

fn elements_of_port(
    owner: &OwnerTag,
    intent: &Intent<BridgeIntent>,
    port: PortMapping,
) -> Vec<Element> {
    let label = owner.container_label(intent, &intent.provider.host_interface);
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

/// Names of groups in a message.
fn listed<'a>(groups: impl IntoIterator<Item = &'a String>) -> String {
    let quoted: Vec<String> = groups
        .into_iter()
        .map(|group| Quoted(group.as_bytes()).to_string())
        .collect();
    quoted.join(", ")
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
    if matches!(
        error,
        HostError::NotABridge(_)
            | HostError::OtherInstance(_)
            | HostError::NotClosed(_)
            | HostError::Conflict(_)
    ) {
        return refused(&intent.network, error.to_string());
    }
    let action = format!("set up the bridge {}", intent.provider.bridge);
    failed(&intent.network, action, error)
}

/// Whether the container's port must send frames back to where they came from. If the module
/// `br_netfilter` is loaded, as Docker does, the bridge itself answers a container that uses its
/// own mapped port, not the host above it.
pub(super) fn needs_hairpin(intent: &Intent<BridgeIntent>) -> bool {
    intent.provider.hairpin || !intent.ports.is_empty()
}

/// The subnets of the container's own addresses that it reaches by its gateways only.
fn behind_gateways(intent: &Intent<BridgeIntent>) -> &[IpNet] {
    if intent.provider.policy.is_some() {
        &intent.provider.bridge_addresses
    } else {
        &[]
    }
}

/// What the container's interface was given.
pub(super) fn expected_interface(intent: &Intent<BridgeIntent>) -> ExpectedInterface {
    ExpectedInterface {
        name: intent.interface.clone(),
        mac: Some(intent.mac),
        addresses: intent.addresses.clone(),
        gateways: intent.gateways.clone(),
        routes: intent.provider.routes.clone(),
        subnets_behind_gateways: behind_gateways(intent).to_vec(),
    }
}

/// Adds the forwarding entry of a container whose interface was just created.
fn route_frames_by_host(
    socket: &mut NetlinkSocket,
    intent: &Intent<BridgeIntent>,
) -> Result<(), ProviderError> {
    let name = &intent.provider.host_interface;
    let added: Result<(), BoxError> = nix::net::if_::if_nametoindex(name.as_str())
        .map_err(BoxError::from)
        .and_then(|port| Ok(add_forwarding_entry(socket, intent, port)?));
    added.map_err(|error| failed(&intent.network, "attach", error))
}

fn container_link(intent: &Intent<BridgeIntent>) -> ContainerLink<'_> {
    ContainerLink {
        interface: &intent.interface,
        mac: None,
        addresses: &intent.addresses,
        gateways: &intent.gateways,
        routes: &intent.provider.routes,
        subnets_behind_gateways: behind_gateways(intent),
        refuses_redirects: intent.provider.overlay.is_some(),
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
