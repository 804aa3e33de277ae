//! One service or name from what tasks add to it: pure.
//!
//! # IP VIPs
//!
//! Any framework can write any address into a label. Therefore:
//!
//! - An IP VIP that is the address of an agent, of a range of the managers, or of no host at all
//!   (loopback, link-local, multicast) is refused. So is one that is a container's address, unless it was
//!   served before that container came: a service does not end because a task claims its address.
//! - One framework serves an IP VIP. It keeps it while it has a backend, lost ones included, and while its
//!   backends may only be missing in what Mesos has listed so far, as after a failover. Of frameworks
//!   that ask for it at the same time, as after a start of the manager, the one whose oldest task asks for
//!   it has it. DC/OS mixes the backends instead.
//!
//! A named service can only be shared by frameworks of the same name. As on DC/OS it has the backends of
//! all of them, and a problem says so.

use std::collections::BTreeSet;
use std::net::IpAddr;

use arcstr::ArcStr;
use contrail_mesos_api::cluster::{Reach, ServiceKey, TaskInstance, TaskName, Vip};
use contrail_mesos_api::text::Quoted;

use super::classification::Classification;
use super::task::{Offer, Origin};
use super::{DesiredService, ServiceProblem, vip};
use crate::stores::mesos::MesosView;

/// The most backends of a service: one line of the watch has all of them.
pub(super) const MAX_BACKENDS: usize = 1000;
/// How long the instances of a name may be in the watch, about; the others are left out.
const MAX_NAME_BYTES: usize = 512 << 10;

/// Whose an address is that a framework asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressUser {
    Nobody,
    /// It means something else on every host.
    Special,
    Reserved,
    Agent,
    Container,
}

impl AddressUser {
    pub(super) fn of(
        view: &MesosView,
        classification: &Classification,
        address: IpAddr,
        has_container: bool,
    ) -> Self {
        let is_reserved = || {
            classification
                .reserved
                .iter()
                .any(|range| range.contains(&address))
        };
        if vip::is_special(address) {
            Self::Special
        } else if is_reserved() {
            Self::Reserved
        } else if view.is_agent_address(address) {
            Self::Agent
        } else if has_container {
            Self::Container
        } else {
            Self::Nobody
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Nobody => "of nobody",
            Self::Special => "loopback, link-local, multicast or the like",
            Self::Reserved => "of a range that the managers give addresses from",
            Self::Agent => "that of an agent",
            Self::Container => "that of a container",
        }
    }
}

/// A service as it comes from offers.
#[derive(Debug, Default)]
pub(super) struct BuiltService {
    /// None if there is no backend, or the address is refused.
    pub service: Option<DesiredService>,
    /// The id of the framework that has the IP VIP.
    pub owner: Option<ArcStr>,
    pub problems: Vec<ServiceProblem>,
}

/// Builds a service from the offers of all tasks. Unless these are all tasks, what is missing may be there.
pub(super) fn service(
    key: &ServiceKey,
    mut offers: Vec<&Offer>,
    owner_before: Option<&ArcStr>,
    are_all: bool,
    user: impl FnOnce(IpAddr) -> AddressUser,
) -> BuiltService {
    if !are_all
        && let Some(owner) = owner_before
        && !offers
            .iter()
            .any(|offer| offer.origin.framework_id == *owner)
    {
        return BuiltService {
            owner: Some(owner.clone()),
            ..BuiltService::default()
        };
    }
    offers.sort_unstable();
    let Some(first) = offers.first().copied() else {
        return BuiltService::default();
    };
    let mut built = BuiltService::default();
    match key.vip {
        Vip::Address(address) => {
            let user = user(address);
            if user != AddressUser::Nobody {
                let is_kept = user == AddressUser::Container && owner_before.is_some();
                built.problems.push(first.origin.problem(
                    key.to_string(),
                    format!(
                        "{address} is {}, {}",
                        user.describe(),
                        if is_kept {
                            "which came later: the virtual IP takes its traffic at this port"
                        } else {
                            "so it is no virtual IP: ask for an address that nothing has, or for a name"
                        }
                    ),
                ));
                if !is_kept {
                    return built;
                }
            }
            let owner = owner(&offers, owner_before);
            refuse_others(key, owner, &offers, &mut built.problems);
            built.owner = Some(owner.framework_id.clone());
            let id = owner.framework_id.clone();
            offers.retain(|offer| offer.origin.framework_id == id);
        }
        Vip::Name(_) => check_name(key, &offers, &mut built.problems),
    }
    built.service = Some(merge(key, offers, &mut built.problems));
    built
}

/// The framework that has an IP VIP.
fn owner<'a>(offers: &[&'a Offer], before: Option<&ArcStr>) -> &'a Origin {
    let origins = || offers.iter().map(|offer| &*offer.origin);
    let kept = before.and_then(|id| origins().find(|origin| origin.framework_id == *id));
    let oldest = || origins().min_by_key(|origin| (origin.since, &origin.framework_id));
    kept.or_else(oldest).unwrap_or(&offers[0].origin)
}

fn refuse_others(
    key: &ServiceKey,
    owner: &Origin,
    offers: &[&Offer],
    problems: &mut Vec<ServiceProblem>,
) {
    let mut refused = BTreeSet::new();
    for offer in offers {
        let origin = &offer.origin;
        if origin.framework_id != owner.framework_id && refused.insert(&origin.framework_id) {
            let message = format!(
                "framework {} ({}) has this virtual IP already, and keeps it while it has a backend: ask for \
                 another address, or for a name",
                Quoted(owner.framework.as_bytes()),
                Quoted(owner.framework_id.as_bytes())
            );
            problems.push(origin.problem(key.to_string(), message));
        }
    }
}

/// Finds what makes one service of several by accident.
fn check_name(key: &ServiceKey, offers: &[&Offer], problems: &mut Vec<ServiceProblem>) {
    let first = offers[0];
    let written: BTreeSet<&str> = offers.iter().map(|offer| offer.written.as_str()).collect();
    if written.len() > 1 {
        let shown = written.iter().take(3);
        let shown: Vec<String> = shown
            .map(|name| Quoted(name.as_bytes()).to_string())
            .collect();
        let message = format!(
            "{} names are the same DNS name, so they are one service with the backends of all: {}; characters \
             other than letters, digits, hyphens and dots vanish",
            written.len(),
            shown.join(", ")
        );
        problems.push(first.origin.problem(key.to_string(), message));
    }
    let frameworks: BTreeSet<&ArcStr> = offers
        .iter()
        .map(|offer| &offer.origin.framework_id)
        .collect();
    if frameworks.len() > 1 {
        let shown = frameworks.iter().take(3);
        let shown: Vec<String> = shown.map(|id| Quoted(id.as_bytes()).to_string()).collect();
        let message = format!(
            "{} frameworks of the same name share this service: {}; give them different names if that is not \
             meant",
            frameworks.len(),
            shown.join(", ")
        );
        problems.push(first.origin.problem(key.to_string(), message));
    }
}

fn merge(
    key: &ServiceKey,
    mut offers: Vec<&Offer>,
    problems: &mut Vec<ServiceProblem>,
) -> DesiredService {
    // Better lost backends than none.
    if offers.iter().any(|offer| !offer.is_lost) {
        offers.retain(|offer| !offer.is_lost);
    }
    let affinity = offers.iter().filter_map(|offer| offer.affinity).max();
    let frameworks: BTreeSet<&String> =
        offers.iter().map(|offer| &offer.origin.framework).collect();
    let frameworks = frameworks.into_iter().cloned().collect();
    // The same address is the same backend, unless it is only known on its host or in its network. A ready
    // one comes first.
    let place = |offer: &Offer| {
        let backend = &offer.backend.backend;
        let host = (backend.reach != Reach::Cluster).then_some(backend.host);
        let interface = offer.backend.interface.as_ref();
        let container = interface.map(|interface| interface.container.clone());
        (backend.address, host, container)
    };
    offers.sort_by_cached_key(|offer| (place(offer), offer.backend.backend.state));
    offers.dedup_by(|offer, previous| place(offer) == place(previous));
    if offers.len() > MAX_BACKENDS {
        let message = format!(
            "{} backends are more than {MAX_BACKENDS}; the others are left out, ready ones last",
            offers.len()
        );
        problems.push(offers[0].origin.problem(key.to_string(), message));
        offers.sort_by_key(|offer| offer.backend.backend.state);
        offers.truncate(MAX_BACKENDS);
    }
    let mut backends: Vec<_> = offers
        .into_iter()
        .map(|offer| offer.backend.clone())
        .collect();
    backends.sort_unstable();
    DesiredService {
        backends,
        affinity,
        frameworks,
    }
}

/// Builds a name from the instances of all tasks; none without an instance.
pub(super) fn task_name(name: &str, mut instances: Vec<TaskInstance>) -> Option<TaskName> {
    instances.sort_unstable();
    instances.dedup();
    let mut bytes = 0;
    instances.retain(|instance| {
        // What the keys, quotes and numbers of one need.
        let ports: usize = instance.ports.iter().map(|port| 70 + port.name.len()).sum();
        bytes += 100 + 45 * instance.addresses.len() + ports;
        bytes <= MAX_NAME_BYTES
    });
    (!instances.is_empty()).then(|| TaskName {
        name: name.to_owned(),
        instances,
    })
}
