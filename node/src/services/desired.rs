//! What the data path of services must be: a function of the cluster's state and of this host. What has
//! not changed since is not computed again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use contrail_mesos::net::nft::services::{Balance, Frontend, MAX_BACKENDS, ServicePolicy};
use contrail_mesos_api::cluster::{
    Backend, BackendState, Reach, Service, ServiceKey, ServiceProtocol, ServiceSettings, Vip,
};

use super::host::Host;
use super::stale::Targets;
use crate::cluster_state::Services;

/// Where this host sends what is for a backend; none if it does not reach it.
pub(crate) fn target(backend: &Backend, addresses: &BTreeSet<IpAddr>) -> Option<SocketAddr> {
    let is_own = addresses.contains(&backend.host);
    match (backend.reach, is_own) {
        (Reach::VirtualNetwork, _) | (Reach::Host, false) => None,
        // A packet that was translated meets no mapped port.
        (_, true) => Some(backend.local.unwrap_or(backend.address)),
        (Reach::Cluster, false) => Some(backend.address),
    }
}

/// One address of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    frontend: Frontend,
    balance: Balance,
    /// The addresses of containers of this host that are backends.
    own: BTreeSet<IpAddr>,
    targets: Targets,
}

/// The parts of a service, and what is wrong with it.
fn parts(
    service: &Service,
    settings: &ServiceSettings,
    addresses: &BTreeSet<IpAddr>,
) -> (Vec<Part>, Vec<String>) {
    let key = &service.service;
    let mut problems = Vec::new();
    let mut parts = Vec::new();
    for address in &service.addresses {
        if let Err(problem) = check(key, *address, settings, addresses) {
            problems.push(problem);
            continue;
        }
        let frontend = Frontend {
            address: *address,
            protocol: key.protocol.number(),
            port: key.port,
        };
        let mut balance = Balance {
            backends: vec![],
            has_affinity: service.affinity.is_some(),
        };
        let mut targets = Targets::default();
        let mut own = BTreeSet::new();
        for backend in &service.backends {
            let Some(target) = target(backend, addresses) else {
                continue;
            };
            if target.is_ipv4() != address.is_ipv4() || !targets.insert(target) {
                continue;
            }
            if addresses.contains(&backend.host) && !addresses.contains(&target.ip()) {
                own.insert(target.ip());
            }
            if backend.state == BackendState::Ready {
                balance.backends.push(target);
            }
        }
        if balance.backends.len() > MAX_BACKENDS {
            let count = balance.backends.len();
            problems.push(format!(
                "the service {key} has {count} ready backends; only the first {MAX_BACKENDS} get connections"
            ));
            balance.backends.truncate(MAX_BACKENDS);
        }
        targets.is_ready = !balance.backends.is_empty();
        parts.push(Part {
            frontend,
            balance,
            own,
            targets,
        });
    }
    (parts, problems)
}

/// Whether a service may have an address.
fn check(
    key: &ServiceKey,
    address: IpAddr,
    settings: &ServiceSettings,
    addresses: &BTreeSet<IpAddr>,
) -> Result<(), String> {
    let is_in_range = is_in_range(address, settings);
    match &key.vip {
        _ if key.port == 0 => Err(format!("the service {key} has no port")),
        Vip::Name(_) if settings.dns.contains(&address) => Err(format!(
            "the service {key} has the address {address}, at which DNS queries are answered"
        )),
        // An address of an earlier range goes on until the service gets another one.
        Vip::Name(_) if !is_in_range && !is_usable(address) => Err(format!(
            "the service {key} has the address {address}, which cannot be one of a service"
        )),
        // Whatever connects to the host would get a backend, or nothing.
        Vip::Name(_) if !is_in_range && addresses.contains(&address) => Err(format!(
            "the service {key} has the address {address}, which is one of this host's own"
        )),
        Vip::Address(_) if is_in_range => Err(format!(
            "the address of the service {key} is in the ranges of named services; its tasks need another VIP"
        )),
        Vip::Address(_) if !is_usable(address) => Err(format!(
            "the address of the service {key} cannot be one; its tasks need another VIP"
        )),
        Vip::Address(_) if addresses.contains(&address) => Err(format!(
            "the address of the service {key} is one of this host's own; its tasks need another VIP"
        )),
        _ => Ok(()),
    }
}

fn is_in_range(address: IpAddr, settings: &ServiceSettings) -> bool {
    settings.ranges.iter().any(|range| range.contains(&address))
}

/// Whether packets to an address leave the client.
fn is_usable(address: IpAddr) -> bool {
    let is_special = match address {
        IpAddr::V4(address) => address.is_broadcast() || address.is_link_local(),
        IpAddr::V6(address) => {
            address.is_unicast_link_local() || address.to_ipv4_mapped().is_some()
        }
    };
    !(is_special || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

/// How often something is there.
#[derive(Clone, Debug, Default)]
struct Counts(BTreeMap<IpAddr, usize>);

impl Counts {
    fn add(&mut self, address: IpAddr) {
        *self.0.entry(address).or_default() += 1;
    }

    fn remove(&mut self, address: IpAddr) {
        if let Some(count) = self.0.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&address);
            }
        }
    }

    fn addresses(&self) -> BTreeSet<IpAddr> {
        self.0.keys().copied().collect()
    }
}

/// What has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// The frontends that are others than before.
    pub(super) frontends: BTreeSet<Frontend>,
    /// Those of them whose flows may go where they should not.
    pub(super) flows: BTreeMap<Frontend, Targets>,
}

/// The desired state, and what it was computed of.
#[derive(Debug, Default)]
pub(super) struct DesiredServices {
    settings: Option<ServiceSettings>,
    addresses: BTreeSet<IpAddr>,
    services: Services,
    /// Of whom a frontend is.
    owners: BTreeMap<Frontend, ServiceKey>,
    vips: Counts,
    own: Counts,
    policy: ServicePolicy,
    problems: BTreeMap<ServiceKey, Vec<String>>,
    /// Whether two services have the same frontend.
    has_conflicts: bool,
}

impl DesiredServices {
    /// Computes it again where something has changed.
    pub(super) fn update(
        &mut self,
        services: &Services,
        settings: &ServiceSettings,
        host: &Host,
    ) -> Changes {
        let is_same_host = self.addresses == host.addresses;
        let is_same = self.settings.as_ref() == Some(settings) && is_same_host;
        // With conflicts, another service may have what one has now lost.
        let mut changes = Changes::default();
        if is_same && !self.has_conflicts {
            changes = self.update_some(services, settings);
        }
        if !is_same || self.has_conflicts {
            let more = self.update_all(services, settings, host);
            changes.frontends.extend(more.frontends);
            changes.flows.extend(more.flows);
        }
        self.policy.ranges = settings.ranges.iter().copied().collect();
        self.policy.dns = settings.dns.iter().copied().collect();
        self.policy.vips = self.vips.addresses();
        self.policy.own = self.own.addresses();
        self.policy.bridges.clone_from(&host.bridges);
        self.policy.inside.clone_from(&host.inside);
        changes
    }

    fn update_all(
        &mut self,
        services: &Services,
        settings: &ServiceSettings,
        host: &Host,
    ) -> Changes {
        let before = std::mem::take(self);
        self.settings = Some(settings.clone());
        self.addresses.clone_from(&host.addresses);
        let mut changes = Changes::default();
        for service in services.values() {
            self.insert(service, settings, &mut changes);
        }
        self.services = services.clone();
        // What is the same as before has not changed.
        changes.frontends.retain(|frontend| {
            before.policy.frontends.get(frontend) != self.policy.frontends.get(frontend)
        });
        for frontend in before.policy.frontends.keys() {
            if !self.policy.frontends.contains_key(frontend) {
                changes.frontends.insert(*frontend);
                changes.flows.insert(*frontend, Targets::default());
            }
        }
        changes
    }

    /// Changes the services that are not the same objects as before.
    fn update_some(&mut self, services: &Services, settings: &ServiceSettings) -> Changes {
        let before = std::mem::replace(&mut self.services, services.clone());
        let mut changes = Changes::default();
        let mut old = before.iter().peekable();
        let mut new = services.iter().peekable();
        let mut removed = Vec::new();
        let mut added: Vec<&Arc<Service>> = Vec::new();
        loop {
            match (old.peek(), new.peek()) {
                (None, None) => break,
                (Some((old_key, _)), Some((new_key, _))) if old_key == new_key => {
                    if let (Some((_, one)), Some((_, other))) = (old.next(), new.next())
                        && !Arc::ptr_eq(one, other)
                    {
                        removed.push(one.clone());
                        added.push(other);
                    }
                }
                (Some((old_key, _)), Some((new_key, _))) if old_key > new_key => {
                    added.extend(new.next().map(|(_, service)| service));
                }
                (None, Some(_)) => added.extend(new.next().map(|(_, service)| service)),
                (Some(_), _) => removed.extend(old.next().map(|(_, service)| service.clone())),
            }
        }
        let mut targets = BTreeMap::new();
        for service in &removed {
            self.remove(service, settings, &mut changes, &mut targets);
        }
        for service in added {
            self.insert(service, settings, &mut changes);
        }
        changes.flows.retain(|frontend, new| {
            let none = Targets::default();
            let old = targets.get(frontend).unwrap_or(&none);
            old.may_have_stale_flows(new, frontend.protocol)
        });
        changes
    }

    fn insert(&mut self, service: &Service, settings: &ServiceSettings, changes: &mut Changes) {
        let key = &service.service;
        let (parts, mut problems) = parts(service, settings, &self.addresses);
        for part in parts {
            let frontend = part.frontend;
            if let Some(owner) = self.owners.get(&frontend) {
                problems.push(format!(
                    "the service {key} has the same address and port as {owner}, which gets its connections"
                ));
                self.has_conflicts = true;
                continue;
            }
            self.owners.insert(frontend, key.clone());
            if !is_in_range(frontend.address, settings) {
                self.vips.add(frontend.address);
            }
            for address in part.own {
                self.own.add(address);
            }
            self.policy.frontends.insert(frontend, part.balance);
            changes.frontends.insert(frontend);
            changes.flows.insert(frontend, part.targets);
        }
        if !problems.is_empty() {
            self.problems.insert(key.clone(), problems);
        }
    }

    /// Also tells where the flows of its frontends went.
    fn remove(
        &mut self,
        service: &Service,
        settings: &ServiceSettings,
        changes: &mut Changes,
        targets: &mut BTreeMap<Frontend, Targets>,
    ) {
        let key = &service.service;
        self.problems.remove(key);
        let (parts, _) = parts(service, settings, &self.addresses);
        for part in parts {
            let frontend = part.frontend;
            if self.owners.get(&frontend) != Some(key) {
                continue;
            }
            self.owners.remove(&frontend);
            if !is_in_range(frontend.address, settings) {
                self.vips.remove(frontend.address);
            }
            for address in part.own {
                self.own.remove(address);
            }
            self.policy.frontends.remove(&frontend);
            changes.frontends.insert(frontend);
            changes.flows.insert(frontend, Targets::default());
            targets.insert(frontend, part.targets);
        }
    }

    pub(super) fn policy(&self) -> &ServicePolicy {
        &self.policy
    }

    /// What is wrong with services.
    pub(super) fn problems(&self) -> impl Iterator<Item = &String> {
        self.problems.values().flatten()
    }

    /// The services whose data path is complete.
    pub(super) fn complete(&self) -> Services {
        if self.problems.is_empty() {
            return self.services.clone();
        }
        // One with too many backends works.
        let has_parts: BTreeSet<&ServiceKey> = self.owners.values().collect();
        self.services
            .iter()
            .filter(|(key, _)| has_parts.contains(key) || !self.problems.contains_key(*key))
            .map(|(key, service)| (key.clone(), service.clone()))
            .collect()
    }

    /// Where the flows of all services may go.
    pub(super) fn all_targets(&self) -> BTreeMap<Frontend, Targets> {
        let Some(settings) = &self.settings else {
            return BTreeMap::new();
        };
        let services = self.services.values();
        services
            .flat_map(|service| {
                let (parts, _) = parts(service, settings, &self.addresses);
                let own = parts
                    .into_iter()
                    .filter(|part| self.owners.get(&part.frontend) == Some(&service.service));
                own.map(|part| (part.frontend, part.targets))
            })
            .collect()
    }

    /// The ready backends that get connections.
    pub(super) fn backend_count(&self) -> usize {
        let balances = self.policy.frontends.values();
        balances.map(|balance| balance.backends.len()).sum()
    }
}

/// The frontend of a service at an address.
pub(crate) fn frontend(key: &ServiceKey, address: IpAddr) -> Frontend {
    let protocol: ServiceProtocol = key.protocol;
    Frontend {
        address,
        protocol: protocol.number(),
        port: key.port,
    }
}

#[cfg(test)]
mod tests;
