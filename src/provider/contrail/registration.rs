//! Keeps attached containers registered with the vRouter agent.
//!
//! The agent reads the port files when it starts, so it usually knows the ports already. A port
//! that it does not know (its file was lost, the agent dropped the interface) is registered again.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use tokio::time::Instant;
use uuid::Uuid;

use super::machine::{Machine, State};
use super::teardown_retry::MAX_CONCURRENT_CALLS;
use super::{Inner, blocking};
use crate::vrouter::Port;

/// How long a registration may take.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(5);

impl Inner {
    /// Asks after one container, each time another; returns whether the agent is away.
    pub(super) async fn probe(&self, turn: u32, was_away: bool) -> bool {
        let attached: Vec<(Uuid, Arc<Machine>)> = self
            .machines()
            .iter()
            .filter(|(_, machine)| machine.state() == State::Attached)
            .map(|(uuid, machine)| (*uuid, Arc::clone(machine)))
            .collect();
        let Some(index) = usize::try_from(turn)
            .unwrap_or(0)
            .checked_rem(attached.len())
        else {
            return false;
        };
        let Some((uuid, machine)) = attached.get(index).cloned() else {
            return false;
        };
        match self.vrouter.addresses(uuid).await {
            Err(error) if error.kind.is_transient() => {
                if !was_away {
                    log::warn!("{error}");
                }
                return true;
            }
            Ok(Some(_)) if !was_away => return false,
            // It forgot this one, if it has been given it at all.
            _ if !was_away => self.register(uuid, &machine).await,
            _ => {
                log::warn!(
                    "the vRouter agent at {} is back: it is told of {} containers again",
                    self.vrouter.agent(),
                    attached.len()
                );
                stream::iter(attached)
                    .map(|(uuid, machine)| async move { self.register(uuid, &machine).await })
                    .buffer_unordered(MAX_CONCURRENT_CALLS)
                    .collect::<()>()
                    .await;
            }
        }
        false
    }

    /// Tells the agent of an attached container.
    pub(super) async fn register(&self, uuid: Uuid, machine: &Machine) {
        let _gate = machine.gate.lock().await;
        if machine.state() != State::Attached {
            return;
        }
        let files = self.files.clone();
        let ports: Vec<Port> = match blocking(move || Ok(files.ports(uuid)?)).await {
            Ok(ports) => ports.into_iter().filter_map(Result::ok).collect(),
            Err(error) => {
                log::warn!("container {uuid} cannot be registered again: {error}");
                return;
            }
        };
        let ports = match self.complete(uuid, machine, ports).await {
            Ok(ports) => ports,
            Err(problem) => {
                log::warn!("container {uuid} cannot be registered again: {problem}");
                return;
            }
        };
        for port in &ports {
            let registered = self
                .vrouter
                .register(port, Instant::now() + REGISTRATION_TIMEOUT)
                .await;
            if let Err(error) = registered {
                log::warn!("{error}");
            }
        }
    }

    /// The ports of a container, those whose file was lost from what the agent says.
    async fn complete(
        &self,
        uuid: Uuid,
        machine: &Machine,
        mut ports: Vec<Port>,
    ) -> Result<Vec<Port>, super::BoxError> {
        let missing: Vec<_> = machine
            .intents
            .iter()
            .filter_map(|intent| Some((intent, super::own(intent)?)))
            .filter(|(_, own)| own.parent.is_none())
            .filter(|(_, own)| ports.iter().all(|port| port.vmi_uuid != own.uuid))
            .collect();
        if missing.is_empty() {
            return Ok(ports);
        }
        let configuration = self.vrouter.configuration(uuid).await?.unwrap_or_default();
        let mut lost = Vec::new();
        for (intent, own) in missing {
            let known = configuration
                .iter()
                .find(|interface| interface.interface == own.uuid);
            // Without configuration there is nothing that it could be registered for.
            let Some(known) = known else { continue };
            lost.push(Port {
                time: Port::now(),
                vm_id: uuid.to_string(),
                vm_uuid: uuid,
                vm_name: intent.container.to_string(),
                host_ifname: own.host_interface.clone(),
                vm_ifname: intent.interface.clone(),
                vm_namespace: String::new(),
                vn_uuid: known.network,
                vmi_uuid: own.uuid,
            });
        }
        ports.extend(lost.iter().cloned());
        let files = self.files.clone();
        blocking(move || {
            for port in &lost {
                files.write(port)?;
            }
            Ok(())
        })
        .await?;
        Ok(ports)
    }
}
