//! Keeps attached containers registered with the vRouter agent.
//!
//! The agent reads the port files when it starts, so it usually knows the ports already. A port
//! that it does not know (its file was lost, the agent dropped the interface) is registered again.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use tokio::time::Instant;
use uuid::Uuid;

use super::container::{ContainerState, ContrailContainer};
use super::driver::ContrailDriver;
use super::teardown_retry::MAX_CONCURRENT_CALLS;
use crate::provider::{BoxError, blocking};
use crate::vrouter::Port;

/// How long a registration may take.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(5);

impl ContrailDriver {
    /// Asks the vRouter agent for one container, the next one at each call. Registers that
    /// container if the agent does not know it, and all of them if the agent was away. Returns
    /// whether the agent is away.
    pub(super) async fn probe_agent(&self, probe_count: u32, was_away: bool) -> bool {
        let attached: Vec<(Uuid, Arc<ContrailContainer>)> = self
            .containers()
            .iter()
            .filter(|(_, container)| container.state() == ContainerState::Attached)
            .map(|(vm_uuid, container)| (*vm_uuid, Arc::clone(container)))
            .collect();
        let Some((vm_uuid, container)) = usize::try_from(probe_count)
            .unwrap_or(0)
            .checked_rem(attached.len())
            .and_then(|index| attached.get(index).cloned())
        else {
            return false;
        };
        match self.vrouter.addresses(vm_uuid).await {
            Err(error) if error.kind.is_transient() => {
                if !was_away {
                    log::warn!("{error}");
                }
                return true;
            }
            Ok(Some(_)) if !was_away => return false,
            _ if !was_away => self.register(vm_uuid, &container).await,
            _ => {
                log::warn!(
                    "the vRouter agent at {} is back; registering {} containers again",
                    self.vrouter.agent(),
                    attached.len()
                );
                stream::iter(attached)
                    .map(|(vm_uuid, container)| async move {
                        self.register(vm_uuid, &container).await;
                    })
                    .buffer_unordered(MAX_CONCURRENT_CALLS)
                    .collect::<()>()
                    .await;
            }
        }
        false
    }

    /// Registers the ports of an attached container. Does nothing for a container that has got
    /// another network meanwhile: that has a registration of its own.
    pub(super) async fn register(&self, vm_uuid: Uuid, container: &Arc<ContrailContainer>) {
        let _changing = container.lock().await;
        let is_current = self
            .containers()
            .get(&vm_uuid)
            .is_some_and(|current| Arc::ptr_eq(current, container));
        if !is_current || container.state() != ContainerState::Attached {
            return;
        }
        let ports = match self.ports_to_register(vm_uuid, container).await {
            Ok(ports) => ports,
            Err(error) => {
                log::warn!("cannot register container {vm_uuid} again: {error}");
                return;
            }
        };
        for port in &ports {
            let deadline = Instant::now() + REGISTRATION_TIMEOUT;
            if let Err(error) = self.vrouter.register(port, deadline).await {
                log::warn!("{error}");
            }
        }
    }

    /// The ports of a container: those with a port file, and those whose file was lost and is
    /// written again from the vRouter agent's configuration.
    async fn ports_to_register(
        &self,
        vm_uuid: Uuid,
        container: &ContrailContainer,
    ) -> Result<Vec<Port>, BoxError> {
        let files = self.files.clone();
        let mut ports: Vec<Port> = blocking(move || Ok::<_, BoxError>(files.ports(vm_uuid)?))
            .await?
            .into_iter()
            .filter_map(Result::ok)
            .collect();
        let missing: Vec<_> = container
            .intents
            .iter()
            .filter(|intent| intent.provider.parent.is_none())
            .filter(|intent| {
                ports
                    .iter()
                    .all(|port| port.vmi_uuid != intent.provider.interface_uuid)
            })
            .collect();
        if missing.is_empty() {
            return Ok(ports);
        }
        let configuration = self
            .vrouter
            .configuration(vm_uuid)
            .await?
            .unwrap_or_default();
        let restored: Vec<Port> = missing
            .into_iter()
            .filter_map(|intent| {
                let interface_uuid = intent.provider.interface_uuid;
                // A port without configuration cannot be registered.
                let configured = configuration
                    .iter()
                    .find(|interface| interface.interface == interface_uuid)?;
                Some(Port {
                    time: Port::now(),
                    vm_id: vm_uuid.to_string(),
                    vm_uuid,
                    vm_name: intent.container.to_string(),
                    host_ifname: intent.provider.host_interface.clone(),
                    vm_ifname: intent.interface.clone(),
                    vm_namespace: String::new(),
                    vn_uuid: configured.network,
                    vmi_uuid: interface_uuid,
                })
            })
            .collect();
        ports.extend(restored.iter().cloned());
        let files = self.files.clone();
        blocking(move || {
            for port in &restored {
                files.write(port)?;
            }
            Ok::<_, BoxError>(())
        })
        .await?;
        Ok(ports)
    }
}
