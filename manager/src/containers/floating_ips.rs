//! Floating IPs with a fixed address: created, or adopted where an operator created one that
//! nothing uses; otherwise the error says who has it. An address of another container of ours, such
//! as the task that a new one replaces, is handed over once it is free.
//!
//! Invariant: an operator's floating-ip is marked and linked, never deleted. The mark names the
//! interface, so one that is left behind has no meaning once another interface uses it.

use std::net::IpAddr;

use uuid::Uuid;

use super::Containers;
use super::read::uuids;
use crate::error::ManagerError;
use crate::model::{Adoption, annotation};
use crate::objects;
use crate::vnc::{
    FloatingIp, Object as _, PropertyUpdate, Query, VirtualMachineInterface, VncError, VncErrorKind,
};

/// How many parts the name of a floating-ip of a pool has at least: domain, project, network, pool and
/// its own name.
const MIN_NAME_PARTS_IN_POOL: usize = 5;

impl Containers {
    /// Creates or adopts a floating IP for an interface; returns its address.
    pub(super) async fn ensure_floating_ip(
        &self,
        interface: Uuid,
        floating_ip: &FloatingIp,
    ) -> Result<IpAddr, ManagerError> {
        let requested = floating_ip.floating_ip_address.0;
        match self.client.ensure(floating_ip).await {
            Err(VncError {
                kind: VncErrorKind::AddressTaken,
                ..
            }) if let Some(requested) = requested => {
                self.adopt(interface, floating_ip, requested).await
            }
            Err(
                error @ VncError {
                    kind: VncErrorKind::AddressOutside { .. },
                    ..
                },
            ) if let Some(requested) = requested => {
                Err(self.outside_of_pool(floating_ip, requested, error).await)
            }
            ensured => {
                let ensured = ensured?;
                let uuid = ensured.uuid;
                self.address_of(ensured, requested, |ip| ip.floating_ip_address.0)
                    .await?
                    .ok_or_else(|| {
                        ManagerError::InvalidResponse(format!(
                            "the floating-ip {uuid} has no address; delete it"
                        ))
                    })
            }
        }
    }

    /// The error for a fixed address that the network of its pool does not have.
    async fn outside_of_pool(
        &self,
        floating_ip: &FloatingIp,
        requested: IpAddr,
        error: VncError,
    ) -> ManagerError {
        let pool = floating_ip.common.fq_name.parent().unwrap_or_default();
        let Some(network) = pool.parent() else {
            return error.into();
        };
        let Ok(network) = self.resolver.network(&network, &[]).await else {
            return error.into();
        };
        let family = if requested.is_ipv6() {
            "; the API server gives floating IPs of IPv4 only"
        } else {
            ""
        };
        ManagerError::invalid(format!(
            "floating IP {requested} of the pool \"{pool}\" is in none of the network's subnets: \
             {}{family}",
            network.list_subnets()
        ))
    }

    /// Likewise for a container that is being created. It does not wait for an address that another
    /// container of ours still has, if the reconciler can add it later: a framework ends an old
    /// task only once the new one runs.
    pub(super) async fn ensure_floating_ip_or_defer(
        &self,
        interface: Uuid,
        floating_ip: &FloatingIp,
    ) -> Result<Option<IpAddr>, ManagerError> {
        match self.ensure_floating_ip(interface, floating_ip).await {
            Err(ManagerError::FloatingIpInUse(holder)) if self.is_reconciled => {
                log::warn!(interface:%; "created without a floating IP, which is added when it is free: {holder}");
                Ok(None)
            }
            result => result.map(Some),
        }
    }

    /// Uses the existing floating-ip with that address, unless somebody else does.
    async fn adopt(
        &self,
        interface: Uuid,
        floating_ip: &FloatingIp,
        address: IpAddr,
    ) -> Result<IpAddr, ManagerError> {
        let pool = floating_ip.common.fq_name.parent().unwrap_or_default();
        let describe = |holder: String| format!("{address} of the pool {pool}: {holder}");
        let taken = |holder: String| ManagerError::FloatingIpTaken(describe(holder));
        let pool_uuid = self.resolver.floating_ip_pool(&pool).await?;
        let query = Query::new().children_of([pool_uuid]);
        let holder = self
            .client
            .list::<FloatingIp>(&query)
            .await?
            .into_iter()
            .find(|ip| ip.floating_ip_address.0 == Some(address))
            .and_then(|ip| ip.common.uuid);
        let Some(holder) = holder else {
            return Err(taken(
                "an object that is no floating-ip of this pool has it; request another address, or \
                 free this one"
                    .to_owned(),
            ));
        };
        // Two interfaces must not find it free at the same time.
        let _guard = self.locks.lock(holder).await;
        let Some(existing) = self.client.read::<FloatingIp>(holder).await? else {
            return Err(taken("it has just been deleted; try again".to_owned()));
        };
        let users = &existing.virtual_machine_interface_refs;
        let is_here = uuids(users).any(|user| user == interface);
        let annotations = &existing.common.annotations;
        if !users.is_empty() && !is_here {
            let is_adopted =
                uuids(users).any(|user| objects::adopted_for(user, annotations).is_some());
            let users: Vec<_> = users.iter().map(|user| user.to.to_string()).collect();
            let users = users.join(", ");
            let holder = format!(
                "the virtual-machine-interface {users} has it, by the floating-ip {holder}"
            );
            return Err(if is_adopted || self.is_ours(annotations) {
                ManagerError::FloatingIpInUse(describe(holder))
            } else {
                taken(holder)
            });
        }
        if self.is_ours(annotations) {
            if is_here {
                return Err(taken(format!(
                    "the interface has it already, by the floating-ip {holder}"
                )));
            }
            // Ours and unused: replace it by one with the name that derives from the interface.
            self.client.delete::<FloatingIp>(holder).await?;
            self.client.ensure(floating_ip).await?;
            return Ok(address);
        }
        if let Some(owner) = annotations.get(annotation::OWNER) {
            return Err(taken(format!(
                "nothing uses the floating-ip {holder}, but its annotation owner is {owner:?}; \
                 remove the annotation to let it be adopted"
            )));
        }
        if let Some(stands_for) = floating_ip.common.uuid {
            let mark = PropertyUpdate::Set {
                field: "annotations".to_owned(),
                key: annotation::ADOPTED.to_owned(),
                value: objects::adoption_mark(interface, stands_for),
            };
            self.client.update_properties(holder, &[mark]).await?;
        }
        if !is_here {
            self.client
                .link::<FloatingIp, VirtualMachineInterface>(holder, interface)
                .await?;
            log::info!(floating_ip:% = holder, interface:%; "adopted the floating IP {address}");
        }
        Ok(address)
    }

    /// The operators' floating-ips that stand for ours at this interface.
    pub(super) async fn adoptions(
        &self,
        interface: &VirtualMachineInterface,
    ) -> Result<Vec<Adoption>, ManagerError> {
        let Some(uuid) = interface.common.uuid else {
            return Ok(vec![]);
        };
        let others = interface
            .floating_ip_back_refs
            .iter()
            .filter(|reference| !objects::is_created_for(uuid, reference))
            // The name of one below an instance-ip, an address of services, has fewer parts.
            .filter(|reference| reference.to.parts().len() >= MIN_NAME_PARTS_IN_POOL)
            .filter_map(|reference| reference.uuid);
        let mut adoptions = vec![];
        for floating_ip in others {
            let object = self.client.read::<FloatingIp>(floating_ip).await?;
            let stands_for =
                object.and_then(|ip| objects::adopted_for(uuid, &ip.common().annotations));
            adoptions.extend(stands_for.map(|stands_for| Adoption {
                interface: uuid,
                floating_ip,
                stands_for,
            }));
        }
        Ok(adoptions)
    }

    /// Returns an operator's floating-ip.
    pub(super) async fn return_floating_ip(&self, adoption: Adoption) -> Result<(), ManagerError> {
        let Adoption {
            interface,
            floating_ip,
            ..
        } = adoption;
        // Nobody else must find it without the mark and with its user.
        let _guard = self.locks.lock(floating_ip).await;
        // First the mark: once it is unlinked, nothing leads to it any more.
        let mark = PropertyUpdate::Delete {
            field: "annotations".to_owned(),
            key: annotation::ADOPTED.to_owned(),
        };
        match self.client.update_properties(floating_ip, &[mark]).await {
            Err(VncError {
                kind: VncErrorKind::NotFound { .. },
                ..
            }) => return Ok(()),
            updated => updated?,
        }
        self.client
            .unlink::<FloatingIp, VirtualMachineInterface>(floating_ip, interface)
            .await?;
        log::info!(floating_ip:%, interface:%; "returned an adopted floating IP");
        Ok(())
    }
}
