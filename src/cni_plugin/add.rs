//! ADD: the objects, the interfaces, the addresses.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::failure::{Code, Failure};
use super::{Call, is_interface_name, result};
use crate::config::{Dns, Vif};
use crate::net::links;
use crate::net::netlink::NetlinkSocket;
use crate::net::netns::{self, Kind};
use crate::provider::contrail::host_interface;
use crate::provider::contrail::plug::{Interface, PlugRequest};
use crate::vrouter::{InterfaceConfig, Wanted};
use contrail_mesos_api::agent_api::Ports;

/// How long undoing a failed ADD may take on each side.
const UNDO: Duration = Duration::from_secs(5);

impl Call {
    pub(super) async fn add(&self, version: &str) -> Result<Value, Failure> {
        let deadline = Instant::now() + self.settings.deadline;
        let namespace = netns::of_path(&self.namespace)
            .map_err(|error| Failure::new(Code::Environment, error.to_string()))?;
        let own = netns::of_this_thread(Kind::Net)
            .map_err(|error| Failure::of("cannot look at the host's namespace", error))?;
        if netns::same(&own, &namespace).unwrap_or(true) {
            return Err(Failure::new(
                Code::Environment,
                "CNI_NETNS is the host's own network namespace",
            ));
        }
        self.refuse_a_second_add()?;
        let added = self.make(version, namespace, deadline).await;
        if added.is_err() {
            self.undo().await;
        }
        added
    }

    async fn make(
        &self,
        version: &str,
        namespace: std::os::fd::OwnedFd,
        deadline: Instant,
    ) -> Result<Value, Failure> {
        let ports = self.tell_add(deadline).await?;
        let uuids: Option<Vec<_>> = ports
            .as_ref()
            .map(|ports| ports.ports.iter().map(|port| port.uuid).collect());
        let wanted = uuids.as_deref().map_or(Wanted::Annotated, Wanted::These);
        let heard = self
            .vrouter
            .await_configuration(self.machine, wanted, deadline)
            .await
            .map_err(|error| Failure::new(Code::Other, error.to_string()))?;
        let plug = self.plug(&heard, ports.as_ref())?;
        let made = plug
            .plug(&self.vrouter, &self.files, namespace, deadline)
            .await
            .map_err(|error| Failure::of("cannot plug the container in", error))?;
        let (Some(attachment), Some(interface)) = (made.first(), plug.interfaces.first()) else {
            return Err(Failure::new(Code::Other, "the container has no interface"));
        };
        Ok(result::of(
            version,
            &interface.name,
            &self.namespace,
            attachment,
        ))
    }

    /// Nothing is made where something is already, and so nothing that is there is undone.
    fn refuse_a_second_add(&self) -> Result<(), Failure> {
        let name = if self.settings.is_meta_plugin {
            &self.interface
        } else {
            "eth0"
        };
        let host = host_interface(&self.container, name);
        let there = NetlinkSocket::route()
            .and_then(|mut socket| links::by_name(&mut socket, &host))
            .map_err(|error| Failure::of("cannot look for the interface", error))?;
        match there {
            None => Ok(()),
            Some(_) => Err(Failure::new(
                Code::Other,
                format!(
                    "container {} is attached already: its interface {name} has the host end \
                     {host}",
                    self.id
                ),
            )
            .with_details("DEL comes before another ADD")),
        }
    }

    /// What the container is to be plugged as.
    fn plug(
        &self,
        heard: &[InterfaceConfig],
        ports: Option<&Ports>,
    ) -> Result<PlugRequest, Failure> {
        let mut interfaces = Vec::new();
        for (index, configuration) in heard.iter().enumerate() {
            let name = self.name_of(index, configuration)?;
            let Some(name) = name else { continue };
            let host = host_interface(&self.container, &name);
            let port = ports.and_then(|ports| {
                ports
                    .ports
                    .iter()
                    .find(|port| port.uuid == configuration.interface)
            });
            let vlan = match &self.settings.vif {
                Vif::Veth => None,
                Vif::Macvlan { parent } => Some((
                    parent.clone(),
                    configuration.vlan.ok_or_else(|| {
                        Failure::new(
                            Code::Other,
                            format!(
                                "the vRouter agent has no VLAN for {name}, which macvlan needs"
                            ),
                        )
                    })?,
                )),
            };
            interfaces.push(Interface {
                alias: format!("contrail-mesos-cni {host} {} {name}", shown(&self.id)),
                name,
                host_interface: host,
                uuid: configuration.interface,
                network: configuration.network,
                mac: configuration.mac,
                mtu: self.settings.mtu,
                vlan,
                addresses: port.map_or_else(Vec::new, |port| port.addresses.clone()),
                dns: Dns::default(),
            });
        }
        if interfaces.is_empty() {
            let network = self.settings.network_name.as_deref().unwrap_or_default();
            return Err(Failure::new(
                Code::Other,
                format!("the container has no interface on network {network:?}"),
            ));
        }
        Ok(PlugRequest {
            vm_uuid: self.machine,
            vm_name: self.id.clone(),
            namespace: PathBuf::from(&self.namespace).display().to_string(),
            interfaces,
        })
    }

    /// What an interface is called in the container; `None` for one that another call is about.
    fn name_of(
        &self,
        index: usize,
        configuration: &InterfaceConfig,
    ) -> Result<Option<String>, Failure> {
        if self.settings.is_meta_plugin {
            let Some(wanted) = &self.settings.network_name else {
                return Ok((index == 0).then(|| self.interface.clone()));
            };
            let annotated = configuration.annotations.get("network");
            let bare = configuration.network_name.rsplit(':').next();
            let is_it = annotated == Some(wanted)
                || configuration.network_name == *wanted
                || bare == Some(wanted);
            return Ok(is_it.then(|| self.interface.clone()));
        }
        match configuration.annotations.get("interface") {
            Some(name) if is_interface_name(name) => Ok(Some(name.clone())),
            Some(name) => Err(Failure::new(
                Code::Other,
                format!("the annotation \"interface\" {name:?} is no interface's name"),
            )),
            None => Ok(Some(format!("eth{index}"))),
        }
    }

    /// Undoes a failed ADD as far as it can be; the DEL that follows does the rest.
    async fn undo(&self) {
        if let Err(failure) = self.unplug(Instant::now() + UNDO).await {
            log::warn!("{failure}");
            return;
        }
        if let Err(failure) = self.tell_del(Instant::now() + UNDO).await {
            log::warn!("{failure}");
        }
    }
}

/// As much of an id as an alias has room for.
fn shown(id: &str) -> String {
    id.chars().take(64).collect()
}
