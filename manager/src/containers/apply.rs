//! Applies changes to a container's objects, and deletes them.
//!
//! The reconciler and the agents' requests both come here: the objects are read, compared with the
//! desired state by [`crate::diff`], and the changes applied.

use std::collections::BTreeSet;

use futures::future::join_all;
use tokio::time::Instant;
use uuid::Uuid;

use super::Containers;
use super::read::{ContainerState, actual, uuids};
use crate::desired::{DesiredInterface, DesiredNames, DesiredState};
use crate::diff::{self, Change};
use crate::error::ManagerError;
use crate::history::{Action, Actor};
use crate::logging::millis;
use crate::model::{Adoption, CachedVm, Orphan};
use crate::objects;
use crate::vnc::{
    FloatingIp, InstanceIp, Object, Patch, Ref, VirtualMachine, VirtualMachineInterface,
    VirtualRouter, VncError, VncErrorKind,
};

/// How often a delete reads a container again that a late call made something refer to.
const MAX_DELETE_ATTEMPTS: usize = 3;

impl Containers {
    /// Brings a container into its desired state. Returns its state after that; `None` where there
    /// is no such container of ours.
    pub(crate) async fn update(
        &self,
        vm: Uuid,
        desired: &DesiredState,
        first_seen: Instant,
    ) -> Result<Option<CachedVm>, ManagerError> {
        let _guard = self.locks.lock(vm).await;
        let state = self.read_state(vm).await?;
        let Some(state) = state.filter(|state| self.is_ours(&state.vm.common.annotations)) else {
            return Ok(None);
        };
        let cached = self.cached_vm(&state, first_seen);
        let changes = diff::diff(actual(&cached, &state), desired);
        // A failed interface, for example one whose pool is exhausted, delays nothing but the names.
        let interfaces = self.apply_to_interfaces(&state, desired, &changes).await;
        self.apply_links(vm, &changes).await?;
        interfaces?;
        // Last: a container with the right names is one with the right interfaces.
        if let Some(names) = desired.names.as_ref()
            && changes.contains(&Change::SetNames)
        {
            self.apply_names(vm, &state, names).await?;
        }
        let state = self.read_state(vm).await?;
        Ok(state.map(|state| self.cached_vm(&state, first_seen)))
    }

    /// Applies the changes of our interfaces. All are tried.
    pub(super) async fn apply_to_interfaces(
        &self,
        state: &ContainerState,
        desired: &DesiredState,
        changes: &[Change],
    ) -> Result<(), ManagerError> {
        let results = self.own_interfaces(state).map(async |interface| {
            let desired_interface = desired
                .interfaces
                .iter()
                .find(|desired| Some(desired.uuid) == interface.common.uuid);
            let names = desired.names.as_ref();
            let adoptions = &state.adoptions;
            self.apply_to_interface(interface, desired_interface, names, adoptions, changes)
                .await
        });
        first_error(join_all(results).await)
    }

    /// Applies those of the changes that concern one interface.
    pub(super) async fn apply_to_interface(
        &self,
        interface: &VirtualMachineInterface,
        desired: Option<&DesiredInterface>,
        names: Option<&DesiredNames>,
        adoptions: &[Adoption],
        changes: &[Change],
    ) -> Result<(), ManagerError> {
        let Some(uuid) = interface.common.uuid else {
            return Ok(());
        };
        if changes.contains(&Change::DeleteInterface(uuid)) {
            return self.delete_interface(interface, adoptions).await;
        }
        let mut patch = Patch::new();
        let mut is_empty = true;
        if let Some(names) = names
            && changes.contains(&Change::SetNames)
        {
            let (updates, display_name) = diff::interface_names(interface, names);
            if !updates.is_empty() {
                self.client.update_properties(uuid, &updates).await?;
            }
            if let Some(display_name) = display_name {
                patch = patch.set("display_name", display_name);
                is_empty = false;
            }
        }
        if let Some(desired) = desired {
            if changes.contains(&Change::SetSecurityGroups(uuid)) {
                let groups = self.security_group_refs(desired).await?;
                patch = patch.set("security_group_refs", groups);
                is_empty = false;
            }
            if changes.contains(&Change::SetAnnotations(uuid))
                && let Some(port) = &desired.planned
            {
                let mut annotations = interface.common.annotations.clone();
                annotations
                    .0
                    .extend(port.interface.common.annotations.0.clone());
                patch = patch.set("annotations", annotations);
                is_empty = false;
            }
        }
        if !is_empty {
            self.client
                .update::<VirtualMachineInterface>(uuid, patch)
                .await?;
        }
        let Some(desired) = desired else {
            return Ok(());
        };
        if changes.contains(&Change::SetFloatingIps(uuid)) {
            self.delete_surplus_floating_ips(interface, desired, adoptions)
                .await?;
            // A request creates those that are missing itself, since it needs their addresses.
            if desired.planned.is_none() {
                self.ensure_floating_ips(interface, desired, adoptions)
                    .await?;
            }
        }
        if changes.contains(&Change::DeleteAddresses(uuid)) {
            let surplus: Vec<_> = interface
                .instance_ip_back_refs
                .iter()
                .filter(|reference| objects::is_created_for(uuid, reference))
                .filter(|reference| !desired.wants_address(reference.uuid))
                .cloned()
                .collect();
            self.delete_addresses::<InstanceIp>(uuid, &surplus).await?;
        }
        Ok(())
    }

    /// References to the security groups of an interface, which must exist.
    async fn security_group_refs(
        &self,
        desired: &DesiredInterface,
    ) -> Result<Vec<Ref>, ManagerError> {
        // The names of a request are resolved already.
        if desired.planned.is_none() {
            for group in &desired.spec.security_groups {
                self.resolver.security_group(group).await?;
            }
        }
        let groups = desired.spec.security_groups.iter();
        Ok(groups.cloned().map(Ref::to).collect())
    }

    async fn delete_surplus_floating_ips(
        &self,
        interface: &VirtualMachineInterface,
        desired: &DesiredInterface,
        adoptions: &[Adoption],
    ) -> Result<(), ManagerError> {
        let wanted: BTreeSet<Uuid> = desired.floating_ip_uuids().collect();
        let surplus: Vec<_> = interface
            .floating_ip_back_refs
            .iter()
            .filter(|reference| objects::is_created_for(desired.uuid, reference))
            .filter(|reference| !reference.uuid.is_some_and(|uuid| wanted.contains(&uuid)))
            .cloned()
            .collect();
        self.delete_addresses::<FloatingIp>(desired.uuid, &surplus)
            .await?;
        for adoption in adoptions {
            if adoption.interface == desired.uuid && !wanted.contains(&adoption.stands_for) {
                self.return_floating_ip(*adoption).await?;
            }
        }
        Ok(())
    }

    async fn ensure_floating_ips(
        &self,
        interface: &VirtualMachineInterface,
        desired: &DesiredInterface,
        adoptions: &[Adoption],
    ) -> Result<(), ManagerError> {
        let adopted = adoptions
            .iter()
            .filter(|adoption| adoption.interface == desired.uuid)
            .map(|adoption| adoption.stands_for);
        let existing: BTreeSet<Uuid> = uuids(&interface.floating_ip_back_refs)
            .chain(adopted)
            .collect();
        for floating_ip in desired.floating_ips(interface) {
            let common = &floating_ip.common;
            if common.uuid.is_some_and(|uuid| existing.contains(&uuid)) {
                continue;
            }
            if let Some(pool) = common.fq_name.parent() {
                self.resolver.floating_ip_pool(&pool).await?;
            }
            self.ensure_floating_ip(desired.uuid, &floating_ip).await?;
        }
        Ok(())
    }

    /// Applies the changes of a container's links.
    pub(super) async fn apply_links(
        &self,
        vm: Uuid,
        changes: &[Change],
    ) -> Result<(), ManagerError> {
        for change in changes {
            if let Change::Link(router) = change {
                self.client
                    .link::<VirtualRouter, VirtualMachine>(*router, vm)
                    .await?;
            }
        }
        let unlinks = changes.iter().filter_map(|change| match change {
            Change::Unlink(router) => Some(
                self.client
                    .unlink::<VirtualRouter, VirtualMachine>(*router, vm),
            ),
            _ => None,
        });
        first_error(join_all(unlinks).await)
    }

    /// Sets the names of the virtual-machine.
    async fn apply_names(
        &self,
        vm: Uuid,
        state: &ContainerState,
        names: &DesiredNames,
    ) -> Result<(), ManagerError> {
        let common = &state.vm.common;
        let updates = diff::annotation_updates(&common.annotations, names.identity.annotations());
        if !updates.is_empty() {
            self.client.update_properties(vm, &updates).await?;
        }
        if common.display_name.as_deref() != Some(&*names.display_name) {
            let patch = Patch::new().set("display_name", &*names.display_name);
            self.client.update::<VirtualMachine>(vm, patch).await?;
        }
        Ok(())
    }

    /// Deletes everything of a container. One that does not exist is deleted already.
    ///
    /// Without an agent, of whichever agent it is: CNI plugins do not always say.
    pub async fn delete(&self, agent: Option<&str>, vm: Uuid) -> Result<(), ManagerError> {
        let started = Instant::now();
        let work = async {
            let _guard = self.locks.lock(vm).await;
            let deleted = self.delete_locked(agent, vm).await;
            if deleted.is_ok() {
                self.rollbacks.cancel(vm);
                self.requests.remove(vm);
            }
            deleted
        };
        let deleted = self.fence.run_in_term(work).await;
        self.metrics.count(&deleted, &self.metrics.deleted);
        let elapsed = started.elapsed();
        let actor = agent.map_or(Actor::Plugin, |agent| Actor::Agent(agent.into()));
        let agent = agent.unwrap_or("");
        let (action, description) = match &deleted {
            Ok(false) => {
                log::debug!(machine:% = vm, agent, elapsed_ms = millis(elapsed); "no ports to delete");
                return Ok(());
            }
            Ok(true) => {
                log::info!(machine:% = vm, agent, elapsed_ms = millis(elapsed); "ports deleted");
                (Action::Deleted, "ports deleted".to_owned())
            }
            Err(error) => {
                log::error!(machine:% = vm, agent, elapsed_ms = millis(elapsed), error:%; "cannot delete ports");
                (Action::Failed, format!("cannot delete ports: {error}"))
            }
        };
        let outcome = (action, description.as_str());
        self.history.record(vm, None, actor, elapsed, outcome);
        deleted.map(drop)
    }

    /// Deletes everything of a container, if `is_still_due` once its lock is held. Returns whether
    /// there was anything.
    pub(crate) async fn delete_if(
        &self,
        vm: Uuid,
        is_still_due: impl Fn() -> bool,
    ) -> Result<bool, ManagerError> {
        let _guard = self.locks.lock(vm).await;
        if !is_still_due() {
            return Ok(false);
        }
        let deleted = self.delete_locked(None, vm).await?;
        self.rollbacks.cancel(vm);
        Ok(deleted)
    }

    /// Returns whether there was anything. The container's lock is held.
    async fn delete_locked(&self, agent: Option<&str>, vm: Uuid) -> Result<bool, ManagerError> {
        let mut attempt = 1;
        loop {
            let Some(state) = self.read_state(vm).await? else {
                return Ok(attempt > 1);
            };
            self.check_owner(vm, &state.vm.common.annotations, agent)?;
            match self.delete_objects(vm, &state).await {
                Ok(()) => return Ok(true),
                // A create that timed out here was executed late.
                Err(ManagerError::Vnc(VncError {
                    kind: VncErrorKind::Referenced { .. },
                    ..
                })) if attempt < MAX_DELETE_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Deletes the objects of a container in the order that the server requires.
    pub(super) async fn delete_objects(
        &self,
        vm: Uuid,
        state: &ContainerState,
    ) -> Result<(), ManagerError> {
        let unlinks = uuids(&state.vm.virtual_router_back_refs).map(|router| {
            self.client
                .unlink::<VirtualRouter, VirtualMachine>(router, vm)
        });
        first_error(join_all(unlinks).await)?;
        // An interface of somebody else stays; the server then refuses to delete the
        // virtual-machine.
        let deletes = self
            .own_interfaces(state)
            .map(|interface| self.delete_interface(interface, &state.adoptions));
        first_error(join_all(deletes).await)?;
        self.client.delete::<VirtualMachine>(vm).await?;
        Ok(())
    }

    /// Deletes an interface with its addresses. Addresses that are not ours are unlinked and stay,
    /// without the marks of their adoption.
    async fn delete_interface(
        &self,
        interface: &VirtualMachineInterface,
        adoptions: &[Adoption],
    ) -> Result<(), ManagerError> {
        let Some(uuid) = interface.common.uuid else {
            return Ok(());
        };
        let adopted = adoptions
            .iter()
            .filter(|adoption| adoption.interface == uuid)
            .map(|adoption| self.return_floating_ip(*adoption));
        first_error(join_all(adopted).await)?;
        self.delete_addresses::<FloatingIp>(uuid, &interface.floating_ip_back_refs)
            .await?;
        self.delete_addresses::<InstanceIp>(uuid, &interface.instance_ip_back_refs)
            .await?;
        self.client.delete::<VirtualMachineInterface>(uuid).await?;
        Ok(())
    }

    /// Deletes addresses of an interface, or unlinks those that are not ours. All are tried.
    async fn delete_addresses<T: Object>(
        &self,
        interface: Uuid,
        references: &[Ref],
    ) -> Result<(), ManagerError> {
        let deletes = references.iter().filter_map(|reference| {
            let address = reference.uuid?;
            Some(async move {
                if objects::is_created_for(interface, reference) {
                    self.client.delete::<T>(address).await
                } else {
                    self.client
                        .unlink::<T, VirtualMachineInterface>(address, interface)
                        .await
                }
            })
        });
        first_error(join_all(deletes).await)
    }

    /// Deletes an object of ours, if it still is an orphan. Returns whether it was.
    pub(crate) async fn delete_orphan(&self, orphan: Orphan) -> Result<bool, ManagerError> {
        match orphan {
            Orphan::FloatingIp(uuid) => {
                self.delete_orphaned_address(uuid, |ip: &FloatingIp| {
                    uuids(&ip.virtual_machine_interface_refs).next()
                })
                .await
            }
            Orphan::InstanceIp(uuid) => {
                self.delete_orphaned_address(uuid, |ip: &InstanceIp| {
                    uuids(&ip.virtual_machine_interface_refs).next()
                })
                .await
            }
            Orphan::Interface(uuid) => self.delete_orphaned_interface(uuid).await,
        }
    }

    async fn delete_orphaned_interface(&self, uuid: Uuid) -> Result<bool, ManagerError> {
        let Some(interface) = self.read_interface(uuid).await? else {
            return Ok(false);
        };
        if !self.is_ours(&interface.common.annotations) {
            return Ok(false);
        }
        if let Some(vm) = uuids(&interface.virtual_machine_refs).next()
            && self.client.read::<VirtualMachine>(vm).await?.is_some()
        {
            return Ok(false);
        }
        let adoptions = self.adoptions(&interface).await?;
        self.delete_interface(&interface, &adoptions).await?;
        Ok(true)
    }

    async fn delete_orphaned_address<T: Object>(
        &self,
        uuid: Uuid,
        interface_of: impl Fn(&T) -> Option<Uuid>,
    ) -> Result<bool, ManagerError> {
        let Some(address) = self.client.read::<T>(uuid).await? else {
            return Ok(false);
        };
        if !self.is_ours(&address.common().annotations) {
            return Ok(false);
        }
        if let Some(interface) = interface_of(&address)
            && self
                .client
                .read::<VirtualMachineInterface>(interface)
                .await?
                .is_some()
        {
            return Ok(false);
        }
        Ok(self.client.delete::<T>(uuid).await?)
    }
}

/// The first error of calls that have all ended: none goes on in the background.
fn first_error<T, E: Into<ManagerError>>(results: Vec<Result<T, E>>) -> Result<(), ManagerError> {
    results
        .into_iter()
        .try_for_each(|result| result.map(drop).map_err(Into::into))
}
