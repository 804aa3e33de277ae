//! ADD: creates the objects and plugs the container in.

use std::os::fd::OwnedFd;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::error::{CniError, ErrorCode};
use super::{INTERFACE_NAME_RULE, Invocation, is_interface_name, result};
use crate::config::{Dns, Vif};
use crate::net::links;
use crate::net::netlink::NetlinkSocket;
use crate::net::netns::{self, NamespaceThreads};
use crate::provider::contrail::host_interface;
use crate::provider::contrail::plug::{Interface, PlugRequest};
use crate::vrouter::{ExpectedPorts, InterfaceConfig};
use contrail_mesos_api::agent_api::Ports;
use contrail_mesos_api::text::Quoted;

/// How long undoing a failed ADD may take at each peer.
const UNDO_TIMEOUT: Duration = Duration::from_secs(5);
/// This part of the deadline is kept back for undoing a failed ADD…
const UNDO_SHARE: u32 = 5;
/// …but no more than this.
const MAX_KEPT_FOR_UNDO: Duration = Duration::from_secs(4);
/// How many characters of a container's id an alias has.
const MAX_ALIAS_ID_CHARS: usize = 64;

impl Invocation {
    pub(super) async fn add(&self, version: &str) -> Result<Value, CniError> {
        let deadline = Instant::now() + self.settings.deadline;
        let kept_for_undo = (self.settings.deadline / UNDO_SHARE).min(MAX_KEPT_FOR_UNDO);
        let namespace = netns::of_path(&self.namespace)
            .map_err(|error| CniError::new(ErrorCode::Environment, error.to_string()))?;
        let is_hosts = netns::is_hosts(&namespace)
            .map_err(|error| CniError::caused_by("cannot inspect CNI_NETNS", error))?;
        if is_hosts {
            return Err(CniError::new(
                ErrorCode::Environment,
                format!(
                    "CNI_NETNS {:?} is the network namespace of the host or of the agent, not of \
                     a container",
                    self.namespace.display()
                ),
            ));
        }
        self.refuse_if_attached()?;
        let result = self
            .attach(version, namespace, deadline - kept_for_undo)
            .await;
        if result.is_err() {
            self.undo(deadline).await;
        }
        result
    }

    async fn attach(
        &self,
        version: &str,
        namespace: OwnedFd,
        deadline: Instant,
    ) -> Result<Value, CniError> {
        let ports = self.create_objects(deadline).await?;
        let uuids: Option<Vec<_>> = ports
            .as_ref()
            .map(|ports| ports.ports.iter().map(|port| port.uuid).collect());
        let expected = uuids
            .as_deref()
            .map_or(ExpectedPorts::Annotated, ExpectedPorts::Uuids);
        let configuration = self
            .vrouter
            .await_configuration(self.vm_uuid, expected, deadline)
            .await
            .map_err(|error| CniError::new(ErrorCode::Other, error.to_string()))?;
        let request = self.plug_request(&configuration, ports.as_ref())?;
        let failed = |error| CniError::caused_by("cannot plug the container in", error);
        let threads = NamespaceThreads::new("cm-plug").map_err(|error| failed(error.into()))?;
        let attachments = request
            .plug(&self.vrouter, &self.files, &threads, namespace, deadline)
            .await
            .map_err(failed)?;
        let (Some(attachment), Some(interface)) = (attachments.first(), request.interfaces.first())
        else {
            return Err(CniError::new(
                ErrorCode::Other,
                "the container has no interface",
            ));
        };
        Ok(result::result(
            version,
            &interface.name,
            &self.namespace,
            attachment,
        ))
    }

    /// Refuses a second ADD before it creates anything, so that its undo does not remove the
    /// interfaces of the first.
    fn refuse_if_attached(&self) -> Result<(), CniError> {
        let name = if self.settings.is_meta_plugin {
            &self.interface
        } else {
            "eth0"
        };
        let host = host_interface(&self.container, name);
        let link = NetlinkSocket::route()
            .and_then(|mut socket| links::by_name(&mut socket, &host))
            .map_err(|error| CniError::caused_by("cannot look for the interface", error))?;
        match link {
            None => Ok(()),
            Some(_) => Err(CniError::new(
                ErrorCode::Other,
                format!(
                    "container {} is attached already: its interface {name} has the host end \
                     {host}",
                    self.id
                ),
            )
            .with_details("run DEL before another ADD")),
        }
    }

    /// The request to plug in the interfaces that the vRouter agent has configuration for.
    fn plug_request(
        &self,
        configuration: &[InterfaceConfig],
        ports: Option<&Ports>,
    ) -> Result<PlugRequest, CniError> {
        let mut interfaces = Vec::new();
        for (index, configured) in configuration.iter().enumerate() {
            let Some(name) = self.interface_name(index, configured)? else {
                continue;
            };
            let host = host_interface(&self.container, &name);
            let port = ports.and_then(|ports| {
                ports
                    .ports
                    .iter()
                    .find(|port| port.uuid == configured.interface)
            });
            let vlan = match &self.settings.vif {
                Vif::Veth => None,
                Vif::Macvlan { parent } => Some((
                    parent.clone(),
                    configured.vlan.ok_or_else(|| {
                        CniError::new(
                            ErrorCode::Other,
                            format!(
                                "the vRouter agent has no VLAN for {name}, which macvlan needs"
                            ),
                        )
                    })?,
                )),
            };
            interfaces.push(Interface {
                alias: format!("contrail-mesos-cni {host} {} {name}", truncated(&self.id)),
                name,
                host_interface: host,
                uuid: configured.interface,
                network: configured.network,
                mac: configured.mac,
                mtu: self.settings.mtu,
                vlan,
                addresses: port.map_or_else(Vec::new, |port| port.addresses.clone()),
                dns: Dns::default(),
            });
        }
        if interfaces.is_empty() {
            let network = self.settings.network_name.as_deref().unwrap_or_default();
            return Err(CniError::new(
                ErrorCode::Other,
                format!("the container has no interface on network {network:?}"),
            ));
        }
        Ok(PlugRequest {
            vm_uuid: self.vm_uuid,
            vm_name: self.id.clone(),
            namespace: self.namespace.display().to_string(),
            interfaces,
        })
    }

    /// The name of an interface in the container; `None` if another call attaches it.
    fn interface_name(
        &self,
        index: usize,
        configuration: &InterfaceConfig,
    ) -> Result<Option<String>, CniError> {
        if self.settings.is_meta_plugin {
            let Some(network) = &self.settings.network_name else {
                return Ok((index == 0).then(|| self.interface.clone()));
            };
            let annotated = configuration.annotations.get("network");
            let short_name = configuration.network_name.rsplit(':').next();
            let matches = annotated == Some(network)
                || configuration.network_name == *network
                || short_name == Some(network);
            return Ok(matches.then(|| self.interface.clone()));
        }
        match configuration.annotations.get("interface") {
            Some(name) if is_interface_name(name) => Ok(Some(name.clone())),
            Some(name) => Err(CniError::new(
                ErrorCode::Other,
                format!(
                    "the annotation \"interface\" {} is not an interface name: \
                     {INTERFACE_NAME_RULE}",
                    Quoted(name.as_bytes())
                ),
            )),
            None => Ok(Some(format!("eth{index}"))),
        }
    }

    /// Undoes a failed ADD within its deadline. Best effort: the DEL that follows undoes the rest.
    async fn undo(&self, deadline: Instant) {
        let now = Instant::now();
        // The rest is for the manager.
        let half = deadline.saturating_duration_since(now) / 2;
        if let Err(error) = self.unplug(now + half.min(UNDO_TIMEOUT)).await {
            log::warn!("{error}");
            return;
        }
        let until = deadline.min(Instant::now() + UNDO_TIMEOUT);
        if let Err(error) = self.delete_objects(until).await {
            log::warn!("{error}");
        }
    }
}

/// The part of an id that fits into an alias.
fn truncated(id: &str) -> String {
    id.chars().take(MAX_ALIAS_ID_CHARS).collect()
}
