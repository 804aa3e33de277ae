//! One attach, on a thread of its own: the host's side first, then inside the namespace.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;

use super::super::inside::{self, Inside, unspecified};
use super::super::mark;
use super::super::{Intent, PortMapping, Protocol, ProviderError};
use super::host::{Bridge, HostError};
use super::registry::{Entry, State};
use super::{Inner, failed, holder, own, refused};
use crate::net::links::{self, BridgePort, VethError, VethPair};
use crate::net::netlink::NetlinkSocket;
use crate::net::netns::OwnThread;
use crate::net::nft::NftError;

/// What an attach has made so far.
#[derive(Debug, Default)]
struct Made {
    ports: bool,
    link: bool,
}

impl Inner {
    /// Makes what the entry's intent says, or nothing.
    pub(super) fn attach(
        self: &Arc<Self>,
        thread: OwnThread,
        entry: &Arc<Entry>,
        namespace: &OwnedFd,
    ) -> Result<(), ProviderError> {
        let intent = &entry.intent;
        let _work = entry.lock();
        if entry.state() != State::Attaching {
            return Err(refused(
                &intent.network,
                "the container was detached before it was attached",
            ));
        }
        let mut made = Made::default();
        // Opened before the thread leaves: it is what undoes, too.
        let mut host =
            NetlinkSocket::route().map_err(|error| failed(&intent.network, "attach", error))?;
        let result = self.make(thread, &mut host, intent, namespace, &mut made);
        match result {
            Ok(()) => {
                // A detach may have begun to wait for us meanwhile.
                entry.go(State::Attaching, State::Attached);
                self.ipam.settle(&holder(intent));
                Ok(())
            }
            Err(error) => {
                self.undo(&mut host, intent, &made);
                self.registry.remove_this(entry);
                if let Err(error) = self.tidy(intent) {
                    log::warn!("after a failed attach: {error}");
                }
                Err(error)
            }
        }
    }

    fn make(
        self: &Arc<Self>,
        mut thread: OwnThread,
        host: &mut NetlinkSocket,
        intent: &Intent,
        namespace: &OwnedFd,
        made: &mut Made,
    ) -> Result<(), ProviderError> {
        let network = &intent.network;
        for port in &intent.ports {
            check_port(intent, *port)?;
        }
        let bridge = &own(intent).bridge;
        let shared = self
            .host
            .shared()
            .map_err(|error| failed(network, format!("lock the bridge {bridge}"), error))?;
        self.add_elements(intent)?;
        made.ports = true;
        let bridge = self.create_link(host, intent, namespace, made)?;
        drop(shared);

        let inside = Inside {
            gateway_mac: bridge.mac,
            ..inner(intent)
        };
        inside::configure(&mut thread, namespace, &inside).map_err(|error| {
            let action = format!("configure {} in the container", intent.interface);
            failed(network, action, error)
        })
    }

    /// Mapped ports, and what the network's containers share.
    fn add_elements(&self, intent: &Intent) -> Result<(), ProviderError> {
        let mut elements = self.network_elements(intent, false);
        elements.extend(self.port_elements(intent));
        self.table.add(&elements).map_err(|error| match error {
            NftError::Taken { element, holder } => {
                let port = intent.ports.iter().find(|port| {
                    self.elements_of_port(intent, **port)
                        .iter()
                        .any(|other| other.key == element.key)
                });
                let what = port.map_or_else(
                    || element.to_string(),
                    |port| format!("port {}/{} of the host", port.host_port, port.protocol),
                );
                refused(
                    &intent.network,
                    format!("{what} is taken by {}", mark::describe(&holder)),
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
        host: &mut NetlinkSocket,
        intent: &Intent,
        namespace: &OwnedFd,
        made: &mut Made,
    ) -> Result<Bridge, ProviderError> {
        let own = own(intent);
        let spec = self.bridge_spec(intent);
        let alias = self.tag.of_container(intent, &own.host_interface);
        let mut is_second_try = false;
        loop {
            let bridge = self
                .host
                .ensure(host, &spec)
                .map_err(|error| bridge_failed(intent, error))?;
            let pair = VethPair {
                host: &own.host_interface,
                inner: &intent.interface,
                mac: intent.mac.0,
                mtu: intent.mtu,
                alias: &alias,
                bridge: Some(BridgePort {
                    bridge: bridge.index,
                    hairpin: needs_hairpin(intent),
                }),
            };
            match links::create_veth(host, &pair, namespace.as_fd()) {
                Ok(()) => {
                    made.link = true;
                    return Ok(bridge);
                }
                Err(VethError::NotCreated(error))
                    if !is_second_try
                        && matches!(error.errno(), Some(Errno::ENODEV | Errno::EINVAL)) =>
                {
                    // The bridge was deleted behind our back, and with it what others had.
                    is_second_try = true;
                    self.host.forget(&own.bridge);
                    self.repair_later();
                }
                Err(VethError::NotCreated(error)) if error.errno() == Some(Errno::EEXIST) => {
                    let is_attached =
                        matches!(links::by_name(host, &own.host_interface), Ok(Some(_)));
                    let message = if is_attached {
                        format!(
                            "the interface {} of container {} is attached already (its host end is {}); detach it first",
                            intent.interface, intent.container, own.host_interface
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
                    made.link = true;
                    return Err(failed(&intent.network, "attach", error));
                }
                Err(VethError::NotCreated(error)) => {
                    return Err(failed(&intent.network, "attach", error));
                }
            }
        }
    }

    fn undo(&self, host: &mut NetlinkSocket, intent: &Intent, made: &Made) {
        // What cannot be undone here, the detach that follows every failed attach undoes.
        if made.ports
            && let Err(error) = self.table.remove(&self.port_elements(intent))
        {
            log::warn!(
                "network {:?}: after a failed attach: {error}",
                intent.network
            );
        }
        if made.link {
            let name = &own(intent).host_interface;
            if let Err(error) = host.execute_all(&[links::delete(name)])
                && error.errno() != Some(Errno::ENODEV)
            {
                log::warn!(
                    "network {:?}: after a failed attach: {error}",
                    intent.network
                );
            }
        }
    }
}

/// Says which bridge could not be made.
pub(super) fn bridge_failed(intent: &Intent, error: HostError) -> ProviderError {
    if let HostError::NotABridge(_) = error {
        return refused(&intent.network, error.to_string());
    }
    let action = format!("make the bridge {}", own(intent).bridge);
    failed(&intent.network, action, error)
}

/// Whether the container's port must send frames back to where they came from. Where the module
/// `br_netfilter` is loaded, as Docker does, a container that uses its own mapped port is answered
/// by the bridge itself, not by the host above it.
pub(super) fn needs_hairpin(intent: &Intent) -> bool {
    own(intent).hairpin || !intent.ports.is_empty()
}

/// What the interface is to be inside the container.
pub(super) fn inner(intent: &Intent) -> Inside<'_> {
    Inside {
        interface: &intent.interface,
        mac: None,
        addresses: &intent.addresses,
        gateways: &intent.gateways,
        routes: &own(intent).routes,
        gateway_mac: None,
    }
}

/// Refuses a port that a process of the host listens on: its clients would be led away from it.
pub(super) fn check_port(intent: &Intent, port: PortMapping) -> Result<(), ProviderError> {
    for net in &intent.addresses {
        let address = SocketAddr::new(unspecified(net.addr()), port.host_port);
        let result = match port.protocol {
            Protocol::Tcp => TcpListener::bind(address).map(drop),
            Protocol::Udp => UdpSocket::bind(address).map(drop),
            Protocol::Sctp => Ok(()),
        };
        if let Err(error) = result
            && error.kind() == std::io::ErrorKind::AddrInUse
        {
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
