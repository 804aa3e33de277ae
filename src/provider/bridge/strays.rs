//! What this instance made for containers on bridges, and what belongs to none of them.
//!
//! The same functions say what a sweep removes when the agent starts, and what `contrail-mesos check`
//! names while containers run and are attached.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;

use super::BridgeIntent;
use super::driver::BridgeDriver;
use super::repair::{closed_subnets, kept_links, leases};
use crate::net::links::{self, Link};
use crate::net::netlink::NetlinkSocket;
use crate::net::nft::{Element, TABLE};
use crate::provider::ipam::{Holder, NetworkLease, is_kept};
use crate::provider::stray::{HeldIntents, ProviderStray, StrayKind, StrayOrigin, SweepScope};
use crate::provider::{BoxError, Intent, ProviderError, ProviderErrors, failed};
use contrail_mesos_api::container::ContainerId;

/// Something of this instance that belongs to no container. In this order they are removed: an address
/// is free only when nothing uses it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::provider) enum BridgeStray {
    Element(Element),
    Interface {
        name: String,
        /// The container in its alias.
        container: Option<String>,
    },
    Bridge(String),
    Rules(IpNet),
    Lease(NetworkLease),
}

/// The lease of an attached container's address that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingLease {
    /// The network.
    pub network: String,
    /// The address.
    pub address: IpAddr,
    /// Who has the address.
    pub holder: Holder,
    /// The other container that has the lease, and the address as well.
    pub other: Option<ContainerId>,
}

impl BridgeDriver {
    /// What belongs to no container of the scope, which is read after all that exists was listed. Blocks.
    pub(super) fn strays(
        &self,
        unconfirmed: &HashSet<Holder>,
        scope: impl FnOnce() -> Result<SweepScope<BridgeIntent>, ProviderErrors>,
    ) -> Result<Vec<BridgeStray>, ProviderErrors> {
        let fail = |error: BoxError| failed("*", "list what containers have", error);
        let (all_leases, errors) = self.ipam.all_leases();
        errors.into_result(())?;
        let elements = self.elements()?;
        let mut socket = NetlinkSocket::route().map_err(|error| fail(error.into()))?;
        let links = links::all(&mut socket).map_err(|error| fail(error.into()))?;
        let bridges = self.host.bridges.owned_bridges(&links);
        let scope = scope()?;
        let known = self.with_registered(&scope.intents);
        let kept_links = kept_links(&known, &scope.others);
        let is_orphan = |link: &Link| self.is_orphaned_link(link, &kept_links);
        let mut strays: Vec<BridgeStray> = self
            .orphaned_elements(elements, &known, &kept_links, scope.others.is_empty())
            .into_iter()
            .map(BridgeStray::Element)
            .collect();
        strays.extend(links.iter().filter(|link| is_orphan(link)).map(|link| {
            let alias = link.alias.as_deref().unwrap_or_default();
            BridgeStray::Interface {
                name: link.name.clone(),
                container: self.owner.container_name(alias).map(str::to_owned),
            }
        }));
        let is_used = |bridge: &String| {
            let index = links.iter().find(|link| link.name == *bridge);
            let index = index.map(|link| link.index);
            known.iter().any(|intent| intent.provider.bridge == *bridge)
                || links.iter().any(|port| {
                    port.controller.is_some() && port.controller == index && !is_orphan(port)
                })
        };
        strays.extend(
            bridges
                .into_iter()
                .filter(|bridge| !is_used(bridge))
                .map(BridgeStray::Bridge),
        );
        let unused = self
            .host
            .bridges
            .unused_subnets(&mut socket, &closed_subnets(&known), is_orphan)
            .map_err(|error| fail(error.into()))?;
        strays.extend(unused.into_iter().map(BridgeStray::Rules));
        let known = leases(&known);
        // The container that has the address needs a lease of it: see `missing_leases`.
        let in_use: HashSet<(&str, IpAddr)> = known
            .iter()
            .map(|(network, address, _)| (network.as_str(), *address))
            .collect();
        let is_orphan = |lease: &NetworkLease| {
            !is_kept(lease, unconfirmed, &known, &scope.others)
                && !in_use.contains(&(lease.network.as_str(), lease.address))
        };
        strays.extend(
            all_leases
                .into_iter()
                .filter(is_orphan)
                .map(BridgeStray::Lease),
        );
        Ok(strays)
    }

    /// Removes those of `strays` that still belong to no container. No container of this instance is
    /// attached meanwhile. Blocks.
    pub(super) fn remove_strays(
        &self,
        mut strays: Vec<BridgeStray>,
        scope: impl FnOnce() -> Result<SweepScope<BridgeIntent>, ProviderErrors>,
    ) -> Result<(), ProviderErrors> {
        self.ipam.repair(|unconfirmed| {
            let current = self.strays(unconfirmed, scope)?;
            strays.retain(|stray| current.contains(stray));
            strays.sort();
            let mut errors = ProviderErrors::new();
            for stray in strays {
                if matches!(stray, BridgeStray::Lease(_)) && !errors.is_empty() {
                    // What could not be removed may still use the address.
                    break;
                }
                log::info!(
                    "removing what belongs to no container: {}",
                    describe(&stray)
                );
                errors.extend(self.remove_stray(&stray).err());
            }
            let removed = self.host.table.remove_if_unused();
            errors.extend(
                removed
                    .err()
                    .map(|error| failed("*", "remove the nftables table", error)),
            );
            errors.into_result(())
        })?
    }

    fn remove_stray(&self, stray: &BridgeStray) -> Result<(), ProviderError> {
        let fail = |error: BoxError| failed("*", format!("remove {}", describe(stray)), error);
        let removed: Result<(), BoxError> = match stray {
            BridgeStray::Element(element) => {
                let removed = self.host.table.remove(std::slice::from_ref(element));
                removed.map_err(BoxError::from)
            }
            BridgeStray::Interface { name, .. } => {
                let link = self.owner.link_to_delete(name);
                let mut errors = self.reaper.delete_all(vec![link]).into_iter();
                errors.next().map_or(Ok(()), |error| Err(error.into()))
            }
            BridgeStray::Bridge(name) => self.remove_unused_bridge(name),
            BridgeStray::Rules(subnet) => self.open_subnet(*subnet),
            BridgeStray::Lease(lease) => return self.ipam.remove_orphan(lease),
        };
        removed.map_err(fail)
    }

    fn remove_unused_bridge(&self, name: &str) -> Result<(), BoxError> {
        let _exclusive = self.host.bridges.lock_exclusive()?;
        if self.host.bridges.remove_bridge_if_unused(name)? {
            Ok(())
        } else {
            Err("it has ports".into())
        }
    }

    fn open_subnet(&self, subnet: IpNet) -> Result<(), BoxError> {
        let _exclusive = self.host.bridges.lock_exclusive()?;
        let mut socket = NetlinkSocket::route()?;
        Ok(self.host.bridges.open_subnets(&mut socket, [subnet])?)
    }

    /// The addresses of attached containers that no lease says they have. Blocks.
    pub(super) fn missing_leases(&self, attached: &[Intent<BridgeIntent>]) -> Vec<MissingLease> {
        let known = leases(attached);
        let mut missing: Vec<MissingLease> = known
            .iter()
            .filter_map(|(network, address, own)| {
                let current = self.ipam.holder(network, *address);
                let is_right = current.as_ref() == Some(own);
                let other = current
                    .filter(|other| known.contains(&(network.clone(), *address, other.clone())));
                (!is_right).then(|| MissingLease {
                    network: network.clone(),
                    address: *address,
                    holder: own.clone(),
                    other: other.map(|other| other.container),
                })
            })
            .collect();
        missing.sort_by(|a, b| (&a.network, a.address).cmp(&(&b.network, b.address)));
        missing
    }

    /// Leases the addresses that attached containers have without a lease. `attached` reads their
    /// intents, and keeps them attached until its deadline. Blocks.
    pub(super) fn restore_leases<G>(
        &self,
        attached: impl FnOnce() -> Result<HeldIntents<G, BridgeIntent>, ProviderErrors>,
    ) -> Result<(), ProviderErrors> {
        self.ipam.repair(|_| {
            let attached = attached()?;
            let missing = self.missing_leases(&attached.intents).into_iter();
            let restored = missing.filter(|lease| lease.other.is_none()).map(|lease| {
                if Instant::now() >= attached.deadline {
                    let action = format!("lease {} again in time", lease.address);
                    let error =
                        "the host is slow, and the container may be detached now: repeat it";
                    return Err(failed(&lease.network, action, error));
                }
                log::info!(
                    container:% = lease.holder.container;
                    "leasing its address {} of network {:?} again",
                    lease.address,
                    lease.network
                );
                self.ipam
                    .restore(&lease.network, lease.address, &lease.holder)
            });
            ProviderErrors::collect_results(restored).map(drop)
        })?
    }

    /// A stray for a report.
    pub(super) fn describe_stray(&self, stray: BridgeStray) -> ProviderStray {
        let (mut container, mut network) = (None, None);
        let kind = match &stray {
            BridgeStray::Element(element) => {
                container = self
                    .owner
                    .container_name(&element.comment)
                    .map(str::to_owned);
                StrayKind::NftablesElement
            }
            BridgeStray::Interface {
                container: owner, ..
            } => {
                container.clone_from(owner);
                StrayKind::Interface
            }
            BridgeStray::Bridge(_) => StrayKind::Bridge,
            BridgeStray::Rules(_) => StrayKind::RoutingRules,
            BridgeStray::Lease(lease) => {
                let holder = lease.holder.as_ref();
                container = holder.map(|holder| holder.container.file_name());
                network = Some(lease.network.clone());
                StrayKind::Lease
            }
        };
        ProviderStray {
            kind,
            object: describe(&stray),
            container,
            network,
            origin: StrayOrigin::Bridge(stray),
        }
    }
}

/// The object, as an operator finds it.
fn describe(stray: &BridgeStray) -> String {
    match stray {
        BridgeStray::Element(element) => format!("inet {TABLE}: {element}"),
        BridgeStray::Interface { name, .. } | BridgeStray::Bridge(name) => name.clone(),
        BridgeStray::Rules(subnet) => subnet.to_string(),
        BridgeStray::Lease(lease) => lease.address.to_string(),
    }
}
