//! Everything that is shown of the cluster at once: what would be written, invalid labels, hosts
//! and networks.
//!
//! It is computed outside the runtime's threads, and cached for all readers for a short time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arcstr::ArcStr;
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::plan::{Plan, plan};
use crate::desired::{self, Decision, Snapshot};
use crate::diff::Change;
use crate::stores::contrail::ContrailView;
use crate::stores::mesos::MesosView;
use crate::vnc::FqName;

/// How long an overview is served again.
const OVERVIEW_TTL: Duration = Duration::from_secs(2);

/// The last overview, and when it was built.
#[derive(Debug, Default)]
pub(super) struct OverviewCache(Mutex<Option<(Instant, Arc<ClusterOverview>)>>);

impl OverviewCache {
    /// The cached overview, or a new one. Concurrent callers wait for the same one.
    pub(super) fn get_or_build(
        &self,
        build: impl FnOnce() -> ClusterOverview,
    ) -> Arc<ClusterOverview> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((built, overview)) = &*last
            && built.elapsed() < OVERVIEW_TTL
        {
            return Arc::clone(overview);
        }
        let overview = Arc::new(build());
        *last = Some((Instant::now(), Arc::clone(&overview)));
        overview
    }
}

/// The cluster at one moment.
#[derive(Debug, Default)]
pub(crate) struct ClusterOverview {
    /// What would be written now, by the uuid of a virtual-machine or orphan.
    pub differences: BTreeMap<Uuid, Vec<Change>>,
    /// Containers with invalid labels, and what is wrong, by uuid.
    pub invalid_labels: BTreeMap<Uuid, Vec<String>>,
    /// The number of containers whose decision is deferred, by the code of the reason.
    pub deferred: BTreeMap<&'static str, usize>,
    /// Hosts by name: agents, and virtual-routers without an agent.
    pub hosts: BTreeMap<Box<str>, Host>,
    /// Networks by name, and the number of containers on each.
    pub networks: BTreeMap<Arc<FqName>, usize>,
}

/// A host.
#[derive(Clone, Debug, Default)]
pub(crate) struct Host {
    /// Its agent's id.
    pub agent: Option<ArcStr>,
    pub address: Option<IpAddr>,
    pub connected: bool,
    /// Its virtual-router.
    pub router: Option<ArcStr>,
    pub containers: usize,
    pub tasks: usize,
}

/// The decision on a container, as JSON shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct DecisionRow {
    /// `in-sync`, `out-of-sync`, `delete` or `defer`.
    pub decision: &'static str,
    /// The code of the reason to delete or to defer.
    pub reason: Option<&'static str>,
    /// The reason, for people.
    pub message: Option<String>,
    /// What would be written.
    pub differences: Vec<String>,
    /// Why labels are ignored.
    pub invalid_labels: Vec<String>,
}

impl DecisionRow {
    pub(super) fn new(plan: Plan) -> Self {
        match plan.decision {
            Decision::Keep(desired) => Self {
                decision: if plan.changes.is_empty() {
                    "in-sync"
                } else {
                    "out-of-sync"
                },
                differences: plan.changes.iter().map(ToString::to_string).collect(),
                invalid_labels: desired.invalid_labels,
                ..Self::default()
            },
            Decision::Delete(reason) => Self {
                decision: "delete",
                reason: Some(reason.code()),
                message: Some(reason.to_string()),
                ..Self::default()
            },
            Decision::Defer(reason) => Self {
                decision: "defer",
                reason: Some(reason.code()),
                message: Some(reason.to_string()),
                ..Self::default()
            },
        }
    }
}

impl ClusterOverview {
    /// Takes a while on a large cluster: not for the runtime's threads.
    pub(super) fn build(
        snapshot: &Snapshot<'_>,
        last_requested: impl Fn(Uuid) -> Option<Instant>,
    ) -> Self {
        let contrail = snapshot.contrail;
        let mut overview = Self {
            hosts: hosts(snapshot.mesos, contrail),
            ..Self::default()
        };
        for (uuid, vm) in &contrail.vms {
            let networks: HashSet<_> = vm
                .interfaces
                .iter()
                .filter_map(|interface| interface.details.network.as_ref())
                .collect();
            for network in networks {
                *overview.networks.entry(Arc::clone(network)).or_default() += 1;
            }
            let Plan { decision, changes } = plan(snapshot, *uuid, vm, last_requested(*uuid));
            match decision {
                Decision::Keep(desired) if !desired.invalid_labels.is_empty() => {
                    overview
                        .invalid_labels
                        .insert(*uuid, desired.invalid_labels);
                }
                Decision::Defer(reason) => {
                    *overview.deferred.entry(reason.code()).or_default() += 1;
                }
                Decision::Keep(_) | Decision::Delete(_) => {}
            }
            if !changes.is_empty() {
                overview.differences.insert(*uuid, changes);
            }
        }
        for orphan in desired::due_orphans(snapshot) {
            let changes = vec![Change::DeleteOrphan(orphan.to_string())];
            overview.differences.insert(orphan.uuid(), changes);
        }
        overview
    }
}

/// Joins the agents with the virtual-routers: by name, or by address.
fn hosts(mesos: &MesosView, contrail: &ContrailView) -> BTreeMap<Box<str>, Host> {
    let routers = &contrail.routers;
    let by_address: HashMap<IpAddr, &ArcStr> = routers
        .iter()
        .filter_map(|(name, router)| Some((router.address?, name)))
        .collect();
    let mut containers: HashMap<&str, usize> = HashMap::new();
    for vm in contrail.vms.values() {
        *containers.entry(&vm.agent).or_default() += 1;
    }
    let mut tasks: HashMap<&str, usize> = HashMap::new();
    for task in mesos.tasks() {
        if let Some(agent) = &task.agent {
            *tasks.entry(agent).or_default() += 1;
        }
    }
    let mut hosts: BTreeMap<Box<str>, Host> = BTreeMap::new();
    let mut joined: HashSet<&str> = HashSet::new();
    for agent in mesos.agents() {
        let by_name = routers.get_key_value(&*agent.host).map(|(name, _)| name);
        let address = agent.address.or_else(|| agent.host.parse().ok());
        let router = by_name.or_else(|| by_address.get(&address?).copied());
        if let Some(router) = router {
            joined.insert(router);
        }
        let name = router.map_or(&*agent.host, |router| router);
        let host = Host {
            agent: Some(agent.id.clone()),
            address: agent.address,
            connected: agent.active,
            router: router.cloned(),
            containers: containers.get(name).copied().unwrap_or_default(),
            tasks: tasks.get(&*agent.id).copied().unwrap_or_default(),
        };
        let mut name = agent.host.clone();
        while hosts.contains_key(&name) {
            // A host may have several agents.
            name = format!("{name} ({})", agent.id).into();
        }
        hosts.insert(name, host);
    }
    for (name, router) in routers
        .iter()
        .filter(|(name, _)| !joined.contains(&***name))
    {
        let host = Host {
            address: router.address,
            router: Some(name.clone()),
            containers: containers.get(&**name).copied().unwrap_or_default(),
            ..Host::default()
        };
        hosts.entry((**name).into()).or_insert(host);
    }
    hosts
}
