//! Floating addresses that are asked for by themselves: made, or adopted where an operator has
//! made them and nobody uses them, or else it is said who has them. What another container of ours
//! has, as the task that a new one replaces, is given over when it is free.
//!
//! Invariant: what somebody else made is marked and linked, and never deleted. Its mark names the
//! interface too, so that one that is left behind means nothing once another interface has it.

use std::net::IpAddr;

use uuid::Uuid;

use super::Containers;
use super::remove::uuids;
use crate::error::ManagerError;
use crate::plan;
use crate::vnc::{
    FloatingIp, Object as _, PropertyUpdate, Query, Ref, VirtualMachineInterface, VncError,
    VncErrorKind,
};

/// A floating address of somebody else's that an interface of ours has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adopted {
    pub interface: Uuid,
    pub floating: Uuid,
    /// Which of ours it stands for.
    pub stands_for: Uuid,
}

impl Containers {
    /// Makes or adopts a floating address for an interface; says which address it is.
    pub(super) async fn floating(
        &self,
        interface: Uuid,
        floating: &FloatingIp,
    ) -> Result<IpAddr, ManagerError> {
        let asked = floating.floating_ip_address.0;
        let address = |one: &FloatingIp| one.floating_ip_address.0;
        match self.client.ensure(floating).await {
            Err(VncError {
                kind: VncErrorKind::AddressTaken,
                ..
            }) if let Some(asked) = asked => self.adopt(interface, floating, asked).await,
            made => self.given(made?, asked, address).await,
        }
    }

    /// The same for a container that is being made: it does not wait for an address that another
    /// one of ours still has, where somebody sees to it that it gets it later. A framework ends an
    /// old task only once the new one runs.
    pub(super) async fn floating_or_later(
        &self,
        interface: Uuid,
        floating: &FloatingIp,
    ) -> Result<Option<IpAddr>, ManagerError> {
        match self.floating(interface, floating).await {
            Err(ManagerError::InUse(by)) if self.kept_true => {
                log::warn!(interface:%; "made without a floating address, which follows when it is free: {by}");
                Ok(None)
            }
            given => given.map(Some),
        }
    }

    /// Takes an address that there is already, unless somebody has it.
    async fn adopt(
        &self,
        interface: Uuid,
        floating: &FloatingIp,
        asked: IpAddr,
    ) -> Result<IpAddr, ManagerError> {
        let name = &floating.common.fq_name;
        let pool = name.parent().unwrap_or_default();
        let taken = |by: String| ManagerError::Taken(format!("{asked} of the pool {pool}: {by}"));
        let parent = self.names.pool(&pool).await?;
        let query = Query::new().children_of([parent]);
        let there = self.client.list::<FloatingIp>(&query).await?;
        let mut there = there.into_iter();
        let holder = there.find(|one| one.floating_ip_address.0 == Some(asked));
        let Some(holder) = holder.and_then(|one| one.common.uuid) else {
            return Err(taken(
                "something that is no floating-ip of this pool has it; ask for another, or free it"
                    .to_owned(),
            ));
        };
        // Two interfaces must not find it free at the same time.
        let _held = self.locks.lock(holder).await;
        let read = self.client.read::<FloatingIp>(holder).await?;
        let Some(read) = read else {
            return Err(taken("it has just been deleted; ask again".to_owned()));
        };
        let users = &read.virtual_machine_interface_refs;
        let is_here = uuids(users).any(|user| user == interface);
        let annotations = &read.common.annotations;
        if !users.is_empty() && !is_here {
            let is_lent = uuids(users).any(|user| plan::adopted(user, annotations).is_some());
            let users: Vec<_> = users.iter().map(|user| user.to.to_string()).collect();
            let users = users.join(", ");
            let by = format!(
                "the virtual-machine-interface {users} has it, by the floating-ip {holder}"
            );
            return Err(if is_lent || self.is_ours(annotations) {
                ManagerError::InUse(format!("{asked} of the pool {pool}: {by}"))
            } else {
                taken(by)
            });
        }
        if self.is_ours(annotations) {
            if is_here {
                return Err(taken(format!(
                    "it has it already, by the floating-ip {holder}"
                )));
            }
            // Ours, and of no use to anybody: in its place comes one with the name that it has to have.
            self.client.delete::<FloatingIp>(holder).await?;
            self.client.ensure(floating).await?;
            return Ok(asked);
        }
        if let Some(owner) = annotations.get("owner") {
            return Err(taken(format!(
                "nobody uses the floating-ip {holder}, but its annotation owner says {owner:?}; \
                 remove that to let it be adopted"
            )));
        }
        if let Some(own) = floating.common.uuid {
            let mark = PropertyUpdate::Set {
                field: "annotations".to_owned(),
                key: plan::ADOPTED.to_owned(),
                value: plan::adoption(interface, own),
            };
            self.client.update_properties(holder, &[mark]).await?;
        }
        if !is_here {
            self.client
                .link::<FloatingIp, VirtualMachineInterface>(holder, interface)
                .await?;
            log::info!(floating_ip:% = holder, interface:%; "adopted the floating address {asked}");
        }
        Ok(asked)
    }

    /// The floating addresses of somebody else's that stand for ours at this interface.
    pub(super) async fn adopted(
        &self,
        interface: &VirtualMachineInterface,
    ) -> Result<Vec<Adopted>, ManagerError> {
        let Some(uuid) = interface.common.uuid else {
            return Ok(vec![]);
        };
        let others = interface.floating_ip_back_refs.iter();
        let others = others.filter(|reference: &&Ref| !plan::is_ours(uuid, reference));
        let mut adopted = vec![];
        for floating in others.filter_map(|reference| reference.uuid) {
            let read = self.client.read::<FloatingIp>(floating).await?;
            let stands_for = read.and_then(|one| plan::adopted(uuid, &one.common().annotations));
            adopted.extend(stands_for.map(|stands_for| Adopted {
                interface: uuid,
                floating,
                stands_for,
            }));
        }
        Ok(adopted)
    }

    /// Gives back a floating address of somebody else's.
    pub(super) async fn give_back(&self, adopted: Adopted) -> Result<(), ManagerError> {
        let Adopted {
            interface,
            floating,
            ..
        } = adopted;
        self.client
            .unlink::<FloatingIp, VirtualMachineInterface>(floating, interface)
            .await?;
        let mark = PropertyUpdate::Delete {
            field: "annotations".to_owned(),
            key: plan::ADOPTED.to_owned(),
        };
        self.client.update_properties(floating, &[mark]).await?;
        log::info!(floating_ip:% = floating, interface:%; "gave back a floating address");
        Ok(())
    }
}
