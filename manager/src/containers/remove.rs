//! Removing a container, or a port of it, in the order that the server wants.

use futures::future::join_all;
use tokio::time::Instant;
use uuid::Uuid;

use super::Containers;
use super::state::State;
use crate::error::ManagerError;
use crate::history::{Action, Actor};
use crate::plan;
use crate::vnc::{
    FloatingIp, InstanceIp, Object, Ref, VirtualMachine, VirtualMachineInterface, VirtualRouter,
    VncError, VncErrorKind,
};

/// How often a container is looked at anew that something new refers to.
const ROUNDS: usize = 3;

impl Containers {
    /// Removes everything of a container. One that is not there is removed already.
    ///
    /// Without an agent, whoever's it is, as CNI plugins cannot say.
    pub async fn delete(&self, agent: Option<&str>, machine: Uuid) -> Result<(), ManagerError> {
        let started = Instant::now();
        let work = async {
            let _held = self.locks.lock(machine).await;
            let removed = self.remove(agent, machine).await;
            if removed.is_ok() {
                self.undos.forget(machine);
                self.puts.forget(machine);
            }
            removed
        };
        let removed = self.fence.hold(work).await;
        self.metrics.count(&removed, &self.metrics.removed);
        let elapsed = started.elapsed();
        let actor = agent.map_or(Actor::Plugin, |agent| Actor::Agent(agent.into()));
        // A plugin does not say whose it is.
        let agent = agent.unwrap_or("");
        let outcome = match &removed {
            Ok(false) => {
                log::debug!(machine:%, agent, elapsed:?; "no ports to remove");
                return Ok(());
            }
            Ok(true) => {
                log::info!(machine:%, agent, elapsed:?; "ports removed");
                (Action::Deleted, "ports removed".to_owned())
            }
            Err(error) => {
                log::error!(machine:%, agent, elapsed:?, error:%; "cannot remove ports");
                (Action::Failed, format!("cannot remove ports: {error}"))
            }
        };
        let outcome = (outcome.0, outcome.1.as_str());
        self.history.record(machine, None, actor, elapsed, outcome);
        removed.map(drop)
    }

    /// Whether there was anything. The container's lock is held.
    pub(super) async fn remove(
        &self,
        agent: Option<&str>,
        machine: Uuid,
    ) -> Result<bool, ManagerError> {
        let mut round = 1;
        loop {
            let Some(state) = self.state(machine).await? else {
                return Ok(round > 1);
            };
            self.check_owner(machine, &state.machine.common.annotations, agent)?;
            match self.dismantle(machine, &state).await {
                Ok(()) => return Ok(true),
                // A call that we gave up waiting for was carried out late.
                Err(ManagerError::Vnc(VncError {
                    kind: VncErrorKind::Referenced { .. },
                    ..
                })) if round < ROUNDS => round += 1,
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) async fn dismantle(&self, machine: Uuid, state: &State) -> Result<(), ManagerError> {
        let routers = uuids(&state.machine.virtual_router_back_refs);
        let unlinked = routers.map(|router| {
            self.client
                .unlink::<VirtualRouter, VirtualMachine>(router, machine)
        });
        first_error(join_all(unlinked).await)?;
        // What somebody else put on the container stays; the server then refuses the machine.
        let ours = state.interfaces.iter();
        let ours = ours.filter(|interface| self.is_ours(&interface.common.annotations));
        let removed = ours.map(|interface| self.remove_interface(interface));
        first_error(join_all(removed).await)?;
        self.client.delete::<VirtualMachine>(machine).await?;
        Ok(())
    }

    /// Removes an interface with its addresses. Those that are not ours lose it, and stay.
    pub(super) async fn remove_interface(
        &self,
        interface: &VirtualMachineInterface,
    ) -> Result<(), ManagerError> {
        let Some(uuid) = interface.common.uuid else {
            return Ok(());
        };
        self.remove_all::<FloatingIp>(uuid, &interface.floating_ip_back_refs)
            .await?;
        self.remove_all::<InstanceIp>(uuid, &interface.instance_ip_back_refs)
            .await?;
        self.client.delete::<VirtualMachineInterface>(uuid).await?;
        Ok(())
    }

    /// Removes addresses of an interface. All are tried, whatever becomes of the others.
    pub(super) async fn remove_all<T: Object>(
        &self,
        interface: Uuid,
        references: &[Ref],
    ) -> Result<(), ManagerError> {
        let removed = references.iter().filter_map(|reference| {
            let address = reference.uuid?;
            Some(async move {
                if plan::is_ours(interface, reference) {
                    self.client.delete::<T>(address).await
                } else {
                    self.client
                        .unlink::<T, VirtualMachineInterface>(address, interface)
                        .await
                }
            })
        });
        first_error(join_all(removed).await)
    }
}

pub(super) fn uuids(references: &[Ref]) -> impl Iterator<Item = Uuid> {
    references.iter().filter_map(|reference| reference.uuid)
}

/// The first error of calls that have all ended: nothing is left under way behind our back.
pub(super) fn first_error<T, E: Into<ManagerError>>(
    results: Vec<Result<T, E>>,
) -> Result<(), ManagerError> {
    results
        .into_iter()
        .try_for_each(|result| result.map(drop).map_err(Into::into))
}
