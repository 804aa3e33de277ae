//! DEL: unregisters the container, removes links and files, and deletes the objects last.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::Instant;
use uuid::Uuid;

use super::error::{CniError, ErrorCode};
use super::{Invocation, is_interface_name};
use crate::net::links;
use crate::net::netlink::NetlinkSocket;
use crate::provider::contrail::{TAP_PREFIX, host_interface};
use crate::vrouter::{ExpectedPorts, Port, VrouterErrorKind};

/// How long the vRouter agent may take, and the manager after it.
const PEER_TIMEOUT: Duration = Duration::from_secs(10);
/// More interfaces than any container has.
const MAX_INTERFACES: usize = 32;

impl Invocation {
    pub(super) async fn del(&self) -> Result<(), CniError> {
        let ports = self.ports_with_files()?;
        // Another container with a colliding uuid must not be touched, and a DEL must succeed.
        let is_same = |port: &Port| port.vm_id == self.id || port.vm_id == self.vm_uuid.to_string();
        if let Some(port) = ports.iter().find(|port| !is_same(port)) {
            log::warn!(
                "the port files belong to container {:?}; doing nothing",
                port.vm_id
            );
            return Ok(());
        }
        let timeout = PEER_TIMEOUT.min(self.settings.deadline);
        self.unplug(Instant::now() + timeout).await?;
        let is_last = !self.settings.is_meta_plugin || self.ports_with_files()?.is_empty();
        if is_last {
            self.delete_objects(Instant::now() + timeout).await?;
        }
        Ok(())
    }

    /// The ports of the container whose files can be read.
    fn ports_with_files(&self) -> Result<Vec<Port>, CniError> {
        let ports = self
            .files
            .ports(self.vm_uuid)
            .map_err(|error| CniError::caused_by("cannot read the port files", error))?;
        Ok(ports
            .into_iter()
            .filter_map(|port| port.inspect_err(|error| log::warn!("{error}")).ok())
            .collect())
    }

    /// Unregisters the container, and removes its links and port files. Idempotent.
    pub(super) async fn unplug(&self, deadline: Instant) -> Result<(), CniError> {
        let ports = self.ports_with_files()?;
        if self.settings.is_meta_plugin {
            let (selected, others): (Vec<Port>, Vec<Port>) = ports
                .into_iter()
                .partition(|port| port.vm_ifname == self.interface);
            if !others.is_empty() {
                return self.unplug_interface(&selected);
            }
            return self.unplug_container(&selected, deadline).await;
        }
        self.unplug_container(&ports, deadline).await
    }

    async fn unplug_container(&self, ports: &[Port], deadline: Instant) -> Result<(), CniError> {
        // The agent finds the ports by their configuration, which arrives some time after it has
        // restarted. It has none of a container that was never registered.
        let interfaces: Vec<Uuid> = ports.iter().map(|port| port.vmi_uuid).collect();
        if !interfaces.is_empty() {
            let remaining = deadline.saturating_duration_since(Instant::now());
            let expected = ExpectedPorts::Uuids(&interfaces);
            let until = deadline - remaining / 2;
            if let Err(error) = self
                .vrouter
                .await_configuration(self.vm_uuid, expected, until)
                .await
            {
                log::warn!(
                    "the vRouter agent may keep the container's ports until it restarts: {error}"
                );
            }
        }
        let unregistered = self.vrouter.unregister(self.vm_uuid, deadline).await;
        self.remove_links(&self.host_interfaces(ports))?;
        self.files
            .remove(self.vm_uuid)
            .map_err(|error| CniError::caused_by("cannot remove the port files", error))?;
        match unregistered {
            Ok(()) => Ok(()),
            // When it starts, it reads the port files, which are gone.
            Err(error) if matches!(error.kind, VrouterErrorKind::Unreachable { .. }) => {
                log::warn!("{error}");
                Ok(())
            }
            // It silently keeps ports whose configuration is gone, so the objects must stay.
            Err(error) => Err(
                CniError::new(ErrorCode::TryAgain, error.to_string()).with_details(
                    "the objects are kept until the vRouter agent has unregistered the container",
                ),
            ),
        }
    }

    /// Removes one of several interfaces, which keep their registration (meta plugin).
    fn unplug_interface(&self, ports: &[Port]) -> Result<(), CniError> {
        self.remove_links(&self.host_interfaces(ports))?;
        for port in ports {
            let path = self
                .settings
                .port_directory
                .join(self.vm_uuid.to_string())
                .join(port.vmi_uuid.to_string());
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(CniError::caused_by("cannot remove a port file", error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The host ends that the files name, whichever program wrote them, and those that this
    /// program would have created.
    fn host_interfaces(&self, ports: &[Port]) -> HashSet<String> {
        let mut names: HashSet<String> = ports
            .iter()
            .map(|port| port.host_ifname.clone())
            // A file must not make the plugin remove the host's own interfaces.
            .filter(|name| is_interface_name(name) && name.starts_with(TAP_PREFIX))
            .collect();
        if self.settings.is_meta_plugin {
            names.insert(host_interface(&self.container, &self.interface));
        } else {
            names.extend(
                (0..MAX_INTERFACES)
                    .map(|index| host_interface(&self.container, &format!("eth{index}"))),
            );
        }
        names
    }

    fn remove_links(&self, names: &HashSet<String>) -> Result<(), CniError> {
        let fail = |error| {
            CniError::caused_by(
                format!("cannot remove the interfaces of {}", self.id),
                error,
            )
        };
        let mut socket = NetlinkSocket::route().map_err(fail)?;
        let deletions: Vec<_> = links::all(&mut socket)
            .map_err(fail)?
            .into_iter()
            .filter(|link| names.contains(&link.name))
            .map(|link| links::delete(&link.name))
            .collect();
        if deletions.is_empty() {
            return Ok(());
        }
        for result in socket.execute(&deletions).map_err(fail)? {
            match result {
                // Deleted meanwhile.
                Err(error) if error.errno() == Some(Errno::ENODEV) => {}
                other => other.map_err(fail)?,
            }
        }
        Ok(())
    }
}
