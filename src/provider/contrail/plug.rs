//! Plugging a container into the vRouter: links, port files, registration, addresses. Shared by
//! the provider and the CNI plugin; knows no manager.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use ipnet::IpNet;
use tokio::time::Instant;
use uuid::Uuid;

use super::super::inside::{self, Inside};
use super::super::{Attachment, BoxError};
use super::blocking;
use crate::config::Dns;
use crate::net::links::{self, VethError, VethPair, VlanLink};
use crate::net::netlink::NetlinkSocket;
use crate::net::netns;
use crate::vrouter::{InterfaceAddress, Plugged, Port, PortFiles, VrouterClient};
use contrail_mesos_api::agent_api::PortAddress;
use contrail_mesos_api::container::Mac;

/// One interface that is to be.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name in the container.
    pub name: String,
    /// The host's end; of a macvlan, the VLAN below it.
    pub host_interface: String,
    /// What makes the host's end ours.
    pub alias: String,
    /// The uuid of its virtual-machine-interface object.
    pub uuid: Uuid,
    /// The uuid of its virtual network.
    pub network: Uuid,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// For a macvlan: the host's interface, and the VLAN on it.
    pub vlan: Option<(String, u16)>,
    /// Addresses, where they are known before the vRouter agent is asked.
    pub addresses: Vec<PortAddress>,
    /// Resolver configuration; without name servers, the vRouter's.
    pub dns: Dns,
}

/// A container that is to be plugged.
#[derive(Clone, Debug)]
pub struct Plug {
    /// The uuid of its virtual-machine object.
    pub machine: Uuid,
    /// What the vRouter agent shows it as.
    pub name: String,
    /// A path of its network namespace, for the vRouter agent's records.
    pub namespace: String,
    /// Its interfaces.
    pub interfaces: Vec<Interface>,
}

impl Plug {
    /// Plugs it. What was made is left when this fails: remove the links, and see
    /// [`VrouterClient::unregister`].
    pub async fn plug(
        &self,
        vrouter: &VrouterClient,
        files: &PortFiles,
        namespace: OwnedFd,
        deadline: Instant,
    ) -> Result<Vec<Attachment>, BoxError> {
        let registered: Vec<Port> = self
            .interfaces
            .iter()
            .filter(|interface| interface.vlan.is_none())
            .map(|interface| self.port(interface))
            .collect();
        let (this, fd) = (self.clone(), namespace.try_clone()?);
        let (to_write, ports) = (files.clone(), registered.clone());
        blocking(move || {
            this.make_links(&fd)?;
            // The agent reads the file when it restarts, so the file comes before it knows.
            for port in &ports {
                to_write.write(port)?;
            }
            Ok(())
        })
        .await?;
        let registrations = registered
            .iter()
            .map(|port| vrouter.register(port, deadline));
        futures::future::try_join_all(registrations).await?;
        let uuids: Vec<Uuid> = self.interfaces.iter().map(|one| one.uuid).collect();
        let plugged = vrouter
            .await_addresses(self.machine, &uuids, deadline)
            .await?;
        let attachments: Vec<Attachment> = self
            .interfaces
            .iter()
            .zip(&plugged)
            .map(|(interface, plugged)| attachment(interface, plugged))
            .collect::<Result<_, _>>()?;
        self.configure(namespace, &attachments).await?;
        Ok(attachments)
    }

    /// What the vRouter agent is told of an interface.
    #[must_use]
    pub fn port(&self, interface: &Interface) -> Port {
        Port {
            time: Port::now(),
            vm_id: self.machine.to_string(),
            vm_uuid: self.machine,
            vm_name: self.name.clone(),
            host_ifname: interface.host_interface.clone(),
            vm_ifname: interface.name.clone(),
            vm_namespace: self.namespace.clone(),
            vn_uuid: interface.network,
            vmi_uuid: interface.uuid,
        }
    }

    fn make_links(&self, namespace: &OwnedFd) -> Result<(), BoxError> {
        use std::os::fd::AsFd as _;
        let mut socket = NetlinkSocket::route()?;
        for interface in &self.interfaces {
            let made = match &interface.vlan {
                None => {
                    let pair = VethPair {
                        host: &interface.host_interface,
                        inner: &interface.name,
                        mac: interface.mac.0,
                        mtu: interface.mtu,
                        alias: &interface.alias,
                        bridge: None,
                    };
                    links::create_veth(&mut socket, &pair, namespace.as_fd())
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
            made.map_err(|error| match error {
                VethError::NotCreated(error) | VethError::Incomplete(error) => {
                    already(&mut socket, interface, error)
                }
            })?;
        }
        Ok(())
    }

    async fn configure(
        &self,
        namespace: OwnedFd,
        attachments: &[Attachment],
    ) -> Result<(), BoxError> {
        let work: Vec<((String, Mac), Attachment)> = self
            .interfaces
            .iter()
            .map(|interface| (interface.name.clone(), interface.mac))
            .zip(attachments.iter().cloned())
            .collect();
        netns::on_own_thread("cm-plug", move |mut thread| -> Result<(), BoxError> {
            for ((interface, mac), attachment) in &work {
                let inside = Inside {
                    interface,
                    mac: (attachment.mac != *mac).then_some(attachment.mac),
                    addresses: &attachment.addresses,
                    gateways: &attachment.gateways,
                    routes: &[],
                    gateway_mac: None,
                };
                inside::configure(&mut thread, &namespace, &inside)?;
            }
            Ok(())
        })
        .await?
    }
}

/// Says in words what the kernel's "File exists" means.
fn already(
    socket: &mut NetlinkSocket,
    interface: &Interface,
    error: crate::net::netlink::NetlinkError,
) -> BoxError {
    if error.errno() != Some(nix::errno::Errno::EEXIST) {
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

/// What an interface is, as manager and vRouter agent together say.
fn attachment(interface: &Interface, plugged: &Plugged) -> Result<Attachment, BoxError> {
    let heard: Vec<InterfaceAddress> = plugged.v4.into_iter().chain(plugged.v6).collect();
    let known = |address: IpAddr| {
        interface
            .addresses
            .iter()
            .find(|known| known.address.addr() == address)
    };
    let mut addresses: Vec<IpNet> = interface
        .addresses
        .iter()
        .map(|known| known.address)
        .collect();
    for heard in &heard {
        if known(heard.address).is_some() {
            continue;
        }
        if !interface.addresses.is_empty() {
            return Err(format!(
                "the vRouter agent forwards {} for {}, which is none of the addresses that the \
                 manager was given for it; see whether somebody changed its instance-ip",
                heard.address, interface.name
            )
            .into());
        }
        // The agent does not tell the prefix of IPv6; Contrail's subnets are /64 as a rule.
        let prefix = heard.prefix.unwrap_or(64);
        addresses.push(IpNet::new(heard.address, prefix)?);
    }
    let of = |address: &IpNet| {
        let heard = heard.iter().find(|heard| heard.address == address.addr());
        let known = known(address.addr());
        let gateway = heard
            .and_then(|heard| heard.gateway)
            .or_else(|| known.and_then(|known| known.gateway));
        let dns = heard
            .and_then(|heard| heard.dns)
            .or_else(|| known.and_then(|known| known.dns));
        (gateway, dns)
    };
    let mut gateways: Vec<IpAddr> = Vec::new();
    let mut nameservers: Vec<IpAddr> = Vec::new();
    for (gateway, dns) in addresses.iter().map(of) {
        // One next hop a family.
        if let Some(gateway) = gateway.filter(|gateway| !gateway.is_unspecified())
            && !gateways
                .iter()
                .any(|other| other.is_ipv4() == gateway.is_ipv4())
        {
            gateways.push(gateway);
        }
        if let Some(dns) = dns.filter(|dns| !dns.is_unspecified())
            && !nameservers.contains(&dns)
        {
            nameservers.push(dns);
        }
    }
    let dns = if interface.dns.nameservers.is_empty() {
        Dns {
            nameservers,
            ..interface.dns.clone()
        }
    } else {
        interface.dns.clone()
    };
    Ok(Attachment {
        addresses,
        gateways,
        mac: plugged.mac,
        dns,
    })
}
