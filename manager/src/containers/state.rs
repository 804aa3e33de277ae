//! What there is of a container: read from the API server alone.

use futures::future::try_join_all;
use uuid::Uuid;

use super::{Adopted, Containers};
use crate::error::ManagerError;
use crate::vnc::{ReadOptions, VirtualMachine, VirtualMachineInterface};

/// A container's objects, with what refers to them.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub machine: VirtualMachine,
    pub interfaces: Vec<VirtualMachineInterface>,
    /// Floating addresses of somebody else's that stand for ours.
    pub adopted: Vec<Adopted>,
}

impl State {
    /// Whether the last step of making it was done.
    pub(super) fn is_linked(&self) -> bool {
        !self.machine.virtual_router_back_refs.is_empty()
    }
}

impl Containers {
    /// What there is of a container; `None` where there is no virtual-machine. Without it there is
    /// nothing: all else refers to it.
    pub(super) async fn state(&self, machine: Uuid) -> Result<Option<State>, ManagerError> {
        let around = ReadOptions {
            back_refs: true,
            ..ReadOptions::default()
        };
        let found = self
            .client
            .read_with::<VirtualMachine>(machine, &around)
            .await?;
        let Some(machine) = found else {
            return Ok(None);
        };
        let interfaces = machine.virtual_machine_interface_back_refs.iter();
        let interfaces = interfaces
            .filter_map(|interface| interface.uuid)
            .map(|uuid| {
                self.client
                    .read_with::<VirtualMachineInterface>(uuid, &around)
            });
        let interfaces: Vec<_> = try_join_all(interfaces)
            .await?
            .into_iter()
            .flatten()
            .collect();
        let adopted = interfaces.iter().map(|interface| self.adopted(interface));
        let adopted = try_join_all(adopted).await?.into_iter().flatten().collect();
        Ok(Some(State {
            machine,
            interfaces,
            adopted,
        }))
    }
}
