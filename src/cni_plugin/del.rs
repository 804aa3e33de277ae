//! DEL: the vRouter agent first, then links and files, and the manager last.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::failure::{Code, Failure};
use super::{Call, is_interface_name};
use crate::net::links;
use crate::net::netlink::NetlinkSocket;
use crate::provider::contrail::host_interface;
use crate::vrouter::{Port, VrouterErrorKind};

/// How long the vRouter agent may take, and the manager after it.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than any container has interfaces.
const INTERFACES: usize = 32;

impl Call {
    pub(super) async fn del(&self) -> Result<(), Failure> {
        let ports = self.ports_of_files()?;
        // Somebody else's container, of a colliding name: it is left alone, and that is success.
        let is_ours = |port: &Port| port.vm_id == self.id || port.vm_id == self.machine.to_string();
        if let Some(port) = ports.iter().find(|port| !is_ours(port)) {
            log::warn!(
                "the port files are of container {:?}: nothing is done",
                port.vm_id
            );
            return Ok(());
        }
        let patience = PATIENCE.min(self.settings.deadline);
        self.unplug(Instant::now() + patience).await?;
        let is_last = !self.settings.is_meta_plugin || self.ports_of_files()?.is_empty();
        if is_last {
            self.tell_del(Instant::now() + patience).await?;
        }
        Ok(())
    }

    /// The container's port files that can be read.
    fn ports_of_files(&self) -> Result<Vec<Port>, Failure> {
        let ports = self
            .files
            .ports(self.machine)
            .map_err(|error| Failure::of("cannot read the port files", error))?;
        let readable = ports.into_iter().filter_map(|port| match port {
            Ok(port) => Some(port),
            Err(error) => {
                log::warn!("{error}");
                None
            }
        });
        Ok(readable.collect())
    }

    /// Removes what this host has of the container, whatever is missing of it.
    pub(super) async fn unplug(&self, deadline: Instant) -> Result<(), Failure> {
        let ports = self.ports_of_files()?;
        if self.settings.is_meta_plugin {
            let (own, others): (Vec<Port>, Vec<Port>) = ports
                .into_iter()
                .partition(|port| port.vm_ifname == self.interface);
            if !others.is_empty() {
                return self.unplug_one(&own);
            }
            return self.unplug_all(&own, deadline).await;
        }
        self.unplug_all(&ports, deadline).await
    }

    async fn unplug_all(&self, ports: &[Port], deadline: Instant) -> Result<(), Failure> {
        let told = self.vrouter.unregister(self.machine, deadline).await;
        self.remove_links(&self.links(ports))?;
        self.files
            .remove(self.machine)
            .map_err(|error| Failure::of("cannot remove the port files", error))?;
        match told {
            Ok(()) => Ok(()),
            // One that is down reads the files when it starts, and there are none.
            Err(error) if matches!(error.kind, VrouterErrorKind::Unreachable { .. }) => {
                log::warn!("{error}");
                Ok(())
            }
            // It would silently keep what it no longer has configuration for.
            Err(error) => Err(Failure::new(Code::Again, error.to_string())
                .with_details("the objects are kept until the vRouter agent has been told")),
        }
    }

    /// Of a meta plugin: one interface among others, which keep their registration.
    fn unplug_one(&self, own: &[Port]) -> Result<(), Failure> {
        self.remove_links(&self.links(own))?;
        for port in own {
            let path = self
                .settings
                .port_directory
                .join(self.machine.to_string())
                .join(port.vmi_uuid.to_string());
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Failure::of("cannot remove a port file", error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The host's ends: as the files say, whoever wrote them, and as we would call them.
    fn links(&self, ports: &[Port]) -> HashSet<String> {
        let of_files = ports
            .iter()
            .map(|port| port.host_ifname.clone())
            // Names of a file are not to take the host's own interfaces away.
            .filter(|name| is_interface_name(name) && name.starts_with("tap"));
        let mut links: HashSet<String> = of_files.collect();
        if self.settings.is_meta_plugin {
            links.insert(host_interface(&self.container, &self.interface));
        } else {
            let ours = (0..INTERFACES)
                .map(|index| host_interface(&self.container, &format!("eth{index}")));
            links.extend(ours);
        }
        links
    }

    fn remove_links(&self, names: &HashSet<String>) -> Result<(), Failure> {
        let fail = |error| {
            Failure::of(
                format!("cannot remove the interfaces of {}", self.id),
                error,
            )
        };
        let mut socket = NetlinkSocket::route().map_err(fail)?;
        let there: Vec<_> = links::all(&mut socket)
            .map_err(fail)?
            .into_iter()
            .filter(|link| names.contains(&link.name))
            .map(|link| links::delete(&link.name))
            .collect();
        if there.is_empty() {
            return Ok(());
        }
        for answer in socket.execute(&there).map_err(fail)? {
            match answer {
                // Somebody was faster.
                Err(error) if error.errno() == Some(nix::errno::Errno::ENODEV) => {}
                other => other.map_err(fail)?,
            }
        }
        Ok(())
    }
}
