//! Containers that live are kept as they are to be, and what is dead is removed: on the word of
//! the caller, but by what the API server itself says of each object.

use std::collections::{BTreeSet, HashMap};

use futures::future::join_all;
use tokio::time::Instant;
use uuid::Uuid;

use super::remove::{first_error, uuids};
use super::state::State;
use super::{Adopted, Containers};
use crate::desired::{Keep, Wanted};
use crate::error::ManagerError;
use crate::plan;
use crate::stores::contrail::{APPLICATION, Machine, Orphan, TASK};
use crate::stores::read;
use crate::vnc::{
    Detail, FloatingIp, InstanceIp, KeyValues, Object, Patch, PropertyUpdate, Query, ReadOptions,
    Ref, VirtualMachine, VirtualMachineInterface, VirtualRouter,
};

impl Containers {
    /// When an agent last asked for a container.
    pub(crate) fn put_at(&self, machine: Uuid) -> Option<Instant> {
        self.puts.get(machine)
    }

    /// A container of ours as it is now; `None` where there is none.
    pub(crate) async fn look(
        &self,
        machine: Uuid,
        seen: Instant,
    ) -> Result<Option<Machine>, ManagerError> {
        let state = self.state(machine).await?;
        let ours = state.filter(|state| self.is_ours(&state.machine.common.annotations));
        Ok(ours.map(|state| self.seen(&state, seen)))
    }

    fn seen(&self, state: &State, seen: Instant) -> Machine {
        let ours = state.interfaces.iter();
        let ours = ours.filter(|one| self.is_ours(&one.common.annotations));
        let ours: Vec<_> = ours.cloned().collect();
        read::one(&state.machine, &ours, &state.adopted, seen)
    }

    /// Looks up the addresses of a container that are not known yet, for those who look at it.
    pub(crate) async fn look_up_addresses(&self, machine: &mut Machine) {
        let unknown: Vec<Uuid> = machine.unknown().map(|(uuid, _)| *uuid).collect();
        if unknown.is_empty() {
            return;
        }
        let query = |field: &str| {
            let detail = Detail::Fields(vec![field.to_owned()]);
            Query::new().uuids(unknown.iter().copied()).detail(detail)
        };
        let (own, floating) = (query("instance_ip_address"), query("floating_ip_address"));
        let has_floating = machine
            .interfaces
            .iter()
            .any(|one| !one.floating.is_empty());
        let floating = async {
            if has_floating {
                self.client.list::<FloatingIp>(&floating).await
            } else {
                Ok(vec![])
            }
        };
        let (own, floating) = tokio::join!(self.client.list::<InstanceIp>(&own), floating);
        let own = own.unwrap_or_default().into_iter();
        let own = own.map(|one| (one.common.uuid, one.instance_ip_address.0));
        // Whoever reads everything next finds what was not found now.
        let floating = floating.unwrap_or_default().into_iter();
        let floating = floating.map(|one| (one.common.uuid, one.floating_ip_address.0));
        let known: HashMap<_, _> = own.chain(floating).collect();
        for (uuid, address) in machine.unknown() {
            *address = known.get(&Some(*uuid)).copied().flatten();
        }
    }

    /// Gives a container what it is to have. Says what there is after that; `None` where there is
    /// no such container of ours.
    pub(crate) async fn keep(
        &self,
        machine: Uuid,
        keep: &Keep,
        seen: Instant,
    ) -> Result<Option<Machine>, ManagerError> {
        let _held = self.locks.lock(machine).await;
        let Some(state) = self.state(machine).await? else {
            return Ok(None);
        };
        if !self.is_ours(&state.machine.common.annotations) {
            return Ok(None);
        }
        let ours = state.interfaces.iter();
        let ours: Vec<_> = ours
            .filter(|one| self.is_ours(&one.common.annotations))
            .collect();
        let interfaces = ours
            .iter()
            .map(|one| self.keep_interface(one, &state.adopted, keep));
        // One whose pool is used up keeps nothing else from being right.
        let interfaces = first_error(join_all(interfaces).await);
        if let Some(router) = keep.router {
            let is_whole = self.seen(&state, seen).is_whole();
            self.keep_link(&state, router, is_whole).await?;
        }
        interfaces?;
        // The last: a container with the right names is one with the right interfaces.
        let wanted: Vec<_> = keep.names.pairs().collect();
        let common = &state.machine.common;
        self.annotate(machine, &common.annotations, &wanted).await?;
        if common.display_name.as_deref() != Some(&*keep.display_name) {
            let patch = Patch::new().set("display_name", &*keep.display_name);
            self.client.update::<VirtualMachine>(machine, patch).await?;
        }
        let state = self.state(machine).await?;
        Ok(state.map(|state| self.seen(&state, seen)))
    }

    /// Links the container to its host, and then to no other.
    async fn keep_link(
        &self,
        state: &State,
        router: Uuid,
        is_whole: bool,
    ) -> Result<(), ManagerError> {
        let Some(machine) = state.machine.common.uuid else {
            return Ok(());
        };
        let links = &state.machine.virtual_router_back_refs;
        let linked = uuids(links).any(|other| other == router);
        if !linked && !is_whole {
            return Ok(());
        }
        if !linked {
            self.client
                .link::<VirtualRouter, VirtualMachine>(router, machine)
                .await?;
        }
        let others = uuids(links).filter(|other| *other != router);
        let unlinked = others.map(|other| {
            self.client
                .unlink::<VirtualRouter, VirtualMachine>(other, machine)
        });
        first_error(join_all(unlinked).await)
    }

    async fn annotate(
        &self,
        uuid: Uuid,
        annotations: &KeyValues,
        wanted: &[(&'static str, &str)],
    ) -> Result<(), ManagerError> {
        let wrong = wanted.iter();
        let wrong = wrong.filter(|(key, value)| annotations.get(key) != Some(value));
        let wrong: Vec<_> = wrong
            .map(|(key, value)| PropertyUpdate::Set {
                field: "annotations".to_owned(),
                key: (*key).to_owned(),
                value: (*value).to_owned(),
            })
            .collect();
        if !wrong.is_empty() {
            self.client.update_properties(uuid, &wrong).await?;
        }
        Ok(())
    }

    async fn keep_interface(
        &self,
        interface: &VirtualMachineInterface,
        adopted: &[Adopted],
        keep: &Keep,
    ) -> Result<(), ManagerError> {
        let Some(uuid) = interface.common.uuid else {
            return Ok(());
        };
        let annotations = &interface.common.annotations;
        // The vRouter agent hands these on without quoting them.
        let harmless = keep.names.pairs().filter(|(key, value)| {
            (*key == APPLICATION || *key == TASK) && plan::is_harmless(value)
        });
        let harmless: Vec<_> = harmless.collect();
        self.annotate(uuid, annotations, &harmless).await?;
        let name = annotations.get("interface").unwrap_or("eth?");
        let display_name = format!("{} {name}", keep.display_name);
        let mut patch = Patch::new();
        let mut differs = false;
        if interface.common.display_name.as_deref() != Some(&display_name) {
            patch = patch.set("display_name", display_name);
            differs = true;
        }
        let mut wanted = keep.interfaces.iter();
        let wanted = wanted.find(|wanted| wanted.interface == uuid);
        if let Some(wanted) = wanted {
            let groups = interface.security_group_refs.iter().map(|group| &group.to);
            if groups.collect::<BTreeSet<_>>() != wanted.groups().into_iter().collect() {
                for group in wanted.groups() {
                    self.names.security_group(group).await?;
                }
                let references = wanted.groups().into_iter().cloned().map(Ref::to);
                let references: Vec<Ref> = references.collect();
                patch = patch.set("security_group_refs", references);
                differs = true;
            }
        }
        if differs {
            self.client
                .update::<VirtualMachineInterface>(uuid, patch)
                .await?;
        }
        match wanted {
            Some(wanted) => self.keep_floating(uuid, interface, adopted, wanted).await,
            None => Ok(()),
        }
    }

    async fn keep_floating(
        &self,
        uuid: Uuid,
        interface: &VirtualMachineInterface,
        adopted: &[Adopted],
        wanted: &Wanted,
    ) -> Result<(), ManagerError> {
        let annotations = &interface.common.annotations;
        let floating = wanted.floating(&interface.common.fq_name, annotations);
        let ours = interface.floating_ip_back_refs.iter();
        let ours = ours.filter(|reference| plan::is_ours(uuid, reference));
        let is_wanted = |uuid: Option<Uuid>| floating.iter().any(|one| one.common.uuid == uuid);
        let unwanted: Vec<_> = ours.filter(|one| !is_wanted(one.uuid)).cloned().collect();
        let adopted = adopted.iter().filter(|one| one.interface == uuid);
        let (kept, given_back): (Vec<&Adopted>, Vec<&Adopted>) =
            adopted.partition(|one| is_wanted(Some(one.stands_for)));
        let there = uuids(&interface.floating_ip_back_refs);
        let there = there.chain(kept.into_iter().map(|one| one.stands_for));
        let there: BTreeSet<_> = there.collect();
        // First what is given up: the new one may have the same address.
        self.remove_all::<FloatingIp>(uuid, &unwanted).await?;
        for one in given_back {
            self.give_back(*one).await?;
        }
        for one in &floating {
            if one.common.uuid.is_some_and(|uuid| there.contains(&uuid)) {
                continue;
            }
            if let Some(pool) = one.common.fq_name.parent() {
                self.names.pool(&pool).await?;
            }
            self.floating(uuid, one).await?;
        }
        Ok(())
    }

    /// Removes everything of a container, if it is still to be removed once nobody else works on
    /// it. Says whether there was anything.
    pub(crate) async fn remove_if(
        &self,
        machine: Uuid,
        still: impl Fn() -> bool,
    ) -> Result<bool, ManagerError> {
        let _held = self.locks.lock(machine).await;
        if !still() {
            return Ok(false);
        }
        let removed = self.remove(None, machine).await?;
        self.undos.forget(machine);
        Ok(removed)
    }

    /// Removes something of ours that belongs to nothing, if that is so. Says whether it was.
    pub(crate) async fn remove_orphan(&self, orphan: Orphan) -> Result<bool, ManagerError> {
        match orphan {
            Orphan::FloatingIp(uuid) => {
                let owner = |one: &FloatingIp| first(&one.virtual_machine_interface_refs);
                self.remove_orphan_address(uuid, owner).await
            }
            Orphan::InstanceIp(uuid) => {
                let owner = |one: &InstanceIp| first(&one.virtual_machine_interface_refs);
                self.remove_orphan_address(uuid, owner).await
            }
            Orphan::Interface(uuid) => {
                let around = ReadOptions {
                    back_refs: true,
                    ..ReadOptions::default()
                };
                let read = self
                    .client
                    .read_with::<VirtualMachineInterface>(uuid, &around);
                let Some(interface) = read.await? else {
                    return Ok(false);
                };
                if !self.is_ours(&interface.common.annotations) {
                    return Ok(false);
                }
                if let Some(machine) = first(&interface.virtual_machine_refs)
                    && self.client.read::<VirtualMachine>(machine).await?.is_some()
                {
                    return Ok(false);
                }
                self.remove_interface(&interface).await?;
                Ok(true)
            }
        }
    }

    async fn remove_orphan_address<T: Object>(
        &self,
        uuid: Uuid,
        owner: impl Fn(&T) -> Option<Uuid>,
    ) -> Result<bool, ManagerError> {
        let Some(address) = self.client.read::<T>(uuid).await? else {
            return Ok(false);
        };
        if !self.is_ours(&address.common().annotations) {
            return Ok(false);
        }
        if let Some(interface) = owner(&address) {
            let interface = self.client.read::<VirtualMachineInterface>(interface);
            if interface.await?.is_some() {
                return Ok(false);
            }
        }
        Ok(self.client.delete::<T>(uuid).await?)
    }
}

fn first(references: &[Ref]) -> Option<Uuid> {
    uuids(references).next()
}
