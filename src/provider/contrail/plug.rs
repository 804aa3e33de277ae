//! Plugs a container into the vRouter: links, port files, registration, addresses. Shared by the
//! provider and the CNI plugin; does not depend on a manager.

use std::net::IpAddr;
use std::os::fd::{AsFd as _, OwnedFd};

use futures::future::try_join_all;
use ipnet::IpNet;
use nix::errno::Errno;
use tokio::time::Instant;
use uuid::Uuid;

use crate::config::Dns;
use crate::net::links::{self, VethError, VethPair, VlanLink};
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::netns::{NamespaceThreads, OwnThread};
use crate::provider::container_side::{Announce, ContainerLink};
use crate::provider::{Attachment, BoxError, blocking};
use crate::vrouter::{InterfaceAddress, InterfaceStatus, Port, PortFiles, VrouterClient};
use contrail_mesos_api::agent_api::PortAddress;
use contrail_mesos_api::container::Mac;

/// The prefix length of an IPv6 address whose prefix no peer reports: that of Contrail's subnets
/// as a rule.
const DEFAULT_IPV6_PREFIX: u8 = 64;

/// One interface to create.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name in the container.
    pub name: String,
    /// The host end; of a macvlan, the VLAN below it.
    pub host_interface: String,
    /// The alias of the host end, which marks its owner.
    pub alias: String,
    /// The uuid of its virtual-machine-interface object.
    pub uuid: Uuid,
    /// The uuid of its virtual network.
    pub network: Uuid,
    /// Its MAC address.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Of a macvlan: the host's interface, and the VLAN on it.
    pub vlan: Option<(String, u16)>,
    /// The addresses that the manager reported, if any.
    pub addresses: Vec<PortAddress>,
    /// Resolver configuration; without name servers, those of the vRouter are used.
    pub dns: Dns,
}

/// A container to plug in.
#[derive(Clone, Debug)]
pub struct PlugRequest {
    /// The uuid of its virtual-machine object.
    pub vm_uuid: Uuid,
    /// The name that the vRouter agent shows.
    pub vm_name: String,
    /// A path of its network namespace, for the vRouter agent's records.
    pub namespace: String,
    /// Its interfaces.
    pub interfaces: Vec<Interface>,
}

impl PlugRequest {
    /// Plugs the container in. A failure undoes nothing: the caller removes the links, and
    /// unregisters the container with [`VrouterClient::unregister`].
    pub async fn plug(
        &self,
        vrouter: &VrouterClient,
        files: &PortFiles,
        threads: &NamespaceThreads,
        namespace: OwnedFd,
        deadline: Instant,
    ) -> Result<Vec<Attachment>, BoxError> {
        let ports: Vec<Port> = self
            .interfaces
            .iter()
            .filter(|interface| interface.vlan.is_none())
            .map(|interface| self.port(interface))
            .collect();
        let (request, namespace_fd) = (self.clone(), namespace.try_clone()?);
        let (files, ports_to_write) = (files.clone(), ports.clone());
        blocking(move || {
            request.create_links(&namespace_fd)?;
            // Before the registration, since the vRouter agent reads the files when it restarts.
            for port in &ports_to_write {
                files.write(port)?;
            }
            Ok::<_, BoxError>(())
        })
        .await?;
        try_join_all(ports.iter().map(|port| vrouter.register(port, deadline))).await?;
        let interface_uuids: Vec<Uuid> = self
            .interfaces
            .iter()
            .map(|interface| interface.uuid)
            .collect();
        let plugged = vrouter
            .await_addresses(self.vm_uuid, &interface_uuids, deadline)
            .await?;
        let attachments: Vec<Attachment> = self
            .interfaces
            .iter()
            .zip(&plugged)
            .map(|(interface, plugged)| attachment(interface, plugged))
            .collect::<Result<_, _>>()?;
        self.configure(threads, namespace, &attachments).await?;
        Ok(attachments)
    }

    /// The vRouter agent's record of an interface.
    #[must_use]
    pub fn port(&self, interface: &Interface) -> Port {
        Port {
            time: Port::now(),
            vm_id: self.vm_uuid.to_string(),
            vm_uuid: self.vm_uuid,
            vm_name: self.vm_name.clone(),
            host_ifname: interface.host_interface.clone(),
            vm_ifname: interface.name.clone(),
            vm_namespace: self.namespace.clone(),
            vn_uuid: interface.network,
            vmi_uuid: interface.uuid,
        }
    }

    fn create_links(&self, namespace: &OwnedFd) -> Result<(), BoxError> {
        let mut socket = NetlinkSocket::route()?;
        for interface in &self.interfaces {
            let created = match &interface.vlan {
                None => {
                    let pair = VethPair {
                        host: &interface.host_interface,
                        inner: &interface.name,
                        mac: interface.mac.0,
                        mtu: interface.mtu,
                        alias: &interface.alias,
                        bridge: None,
                    };
                    links::create_veth(&mut socket, &pair, namespace.as_fd(), []).map(drop)
                }
                Some((parent, vlan)) => {
                    let link = VlanLink {
                        parent,
                        vlan: *vlan,
                        host: &interface.host_interface,
                        inner: &interface.name,
                        mac: interface.mac.0,
                        mtu: interface.mtu,
                        alias: &interface.alias,
                    };
                    links::create_macvlan_on_vlan(&mut socket, &link, namespace.as_fd())
                }
            };
            created.map_err(|error| match error {
                VethError::NotCreated(error) | VethError::Incomplete(error) => {
                    explain_existing_link(&mut socket, interface, error)
                }
            })?;
        }
        Ok(())
    }

    async fn configure(
        &self,
        threads: &NamespaceThreads,
        namespace: OwnedFd,
        attachments: &[Attachment],
    ) -> Result<(), BoxError> {
        let interfaces: Vec<(String, Mac, Attachment)> = self
            .interfaces
            .iter()
            .zip(attachments)
            .map(|(interface, attachment)| {
                (interface.name.clone(), interface.mac, attachment.clone())
            })
            .collect();
        let configure = move |thread: &mut OwnThread| -> Result<(), BoxError> {
            for (interface, mac, attachment) in &interfaces {
                let has = |is_v4| {
                    let mut addresses = attachment.addresses.iter();
                    addresses.any(|net| net.addr().is_ipv4() == is_v4)
                };
                let link = ContainerLink {
                    interface,
                    mac: (attachment.mac != *mac).then_some(attachment.mac),
                    addresses: &attachment.addresses,
                    gateways: &attachment.gateways,
                    routes: &[],
                    subnets_behind_gateways: &[],
                    refuses_redirects: false,
                    gateway_mac: None,
                    // The MAC address is Contrail's choice.
                    announce: Announce {
                        v4: has(true),
                        v6: has(false),
                    },
                };
                if let Some(announcement) = link.configure(thread, &namespace)? {
                    announcement.send();
                }
            }
            Ok(())
        };
        threads.run(configure).await?
    }
}

/// Replaces the kernel's "File exists" by which of the two ends exists.
fn explain_existing_link(
    socket: &mut NetlinkSocket,
    interface: &Interface,
    error: NetlinkError,
) -> BoxError {
    if error.errno() != Some(Errno::EEXIST) {
        return error.into();
    }
    let host = &interface.host_interface;
    match links::by_name(socket, host) {
        Ok(Some(_)) => format!(
            "the interface {} of this container is attached already (its host end is {host}); \
             detach it first",
            interface.name
        )
        .into(),
        _ => format!(
            "the container's namespace has an interface {} already",
            interface.name
        )
        .into(),
    }
}

/// Merges what the manager and the vRouter agent report of an interface.
fn attachment(interface: &Interface, plugged: &InterfaceStatus) -> Result<Attachment, BoxError> {
    let forwarded: Vec<InterfaceAddress> = plugged.v4.into_iter().chain(plugged.v6).collect();
    let assigned = |address: IpAddr| {
        interface
            .addresses
            .iter()
            .find(|assigned| assigned.address.addr() == address)
    };
    let mut addresses: Vec<IpNet> = interface
        .addresses
        .iter()
        .map(|assigned| assigned.address)
        .collect();
    for forwarded in &forwarded {
        if assigned(forwarded.address).is_some() {
            continue;
        }
        if !interface.addresses.is_empty() {
            return Err(format!(
                "the vRouter agent forwards {} for {}, which is none of the addresses that the \
                 manager reported for it; check whether its instance-ip was changed",
                forwarded.address, interface.name
            )
            .into());
        }
        // The agent reports no prefix for IPv6.
        let prefix = forwarded.prefix.unwrap_or(DEFAULT_IPV6_PREFIX);
        addresses.push(IpNet::new(forwarded.address, prefix)?);
    }
    let mut gateways: Vec<IpAddr> = Vec::new();
    let mut nameservers: Vec<IpAddr> = Vec::new();
    for address in addresses.iter().map(IpNet::addr) {
        let forwarded = forwarded
            .iter()
            .find(|forwarded| forwarded.address == address);
        let assigned = assigned(address);
        let gateway = forwarded
            .and_then(|forwarded| forwarded.gateway)
            .or_else(|| assigned.and_then(|assigned| assigned.gateway))
            .filter(|gateway| !gateway.is_unspecified());
        // One next hop per family.
        if let Some(gateway) = gateway
            && !gateways
                .iter()
                .any(|other| other.is_ipv4() == gateway.is_ipv4())
        {
            gateways.push(gateway);
        }
        let nameserver = forwarded
            .and_then(|forwarded| forwarded.dns)
            .or_else(|| assigned.and_then(|assigned| assigned.dns))
            .filter(|nameserver| !nameserver.is_unspecified());
        if let Some(nameserver) = nameserver
            && !nameservers.contains(&nameserver)
        {
            nameservers.push(nameserver);
        }
    }
    let mut dns = interface.dns.clone();
    if dns.nameservers.is_empty() {
        dns.nameservers = nameservers;
    }
    Ok(Attachment {
        addresses,
        gateways,
        mac: plugged.mac,
        dns,
    })
}
