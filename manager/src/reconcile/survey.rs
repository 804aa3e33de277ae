//! Everything that is known, looked at once for people: what would be written, what makes no
//! sense, and what the sources say of hosts and networks together.
//!
//! It is computed off the runtime's threads, and serves everybody who asks within a while.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arcstr::ArcStr;
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Key, Planned, Reconciler, Waiting};
use crate::desired::{self, Difference, Fate, Known};
use crate::stores::contrail::ContrailView;
use crate::stores::mesos::MesosView;
use crate::vnc::FqName;

/// How long a survey serves.
const FRESH: Duration = Duration::from_secs(2);

/// The last survey, and when that was.
#[derive(Debug, Default)]
pub(super) struct Surveys(Mutex<Option<(Instant, Arc<Survey>)>>);

/// Everything that is known.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// What would be written, by uuid.
    pub differences: BTreeMap<Uuid, Planned>,
    /// Containers with labels that make no sense, and why, by uuid.
    pub labels: BTreeMap<Uuid, Vec<String>>,
    /// The containers with which nothing is done for now: how many, by the code of the reason.
    pub doubts: BTreeMap<&'static str, usize>,
    /// Hosts, by name: agents, and virtual-routers without an agent.
    pub hosts: BTreeMap<Box<str>, Host>,
    /// Networks, by name, and how many containers are on each.
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

/// What is decided about a container, as JSON shows it.
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

impl Reconciler {
    /// Everything that is known. Takes a while: not for the runtime's threads.
    pub(crate) fn survey(&self) -> Arc<Survey> {
        // Who comes meanwhile waits for the same.
        let mut last = self
            .surveys
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((at, survey)) = &*last
            && at.elapsed() < FRESH
        {
            return Arc::clone(survey);
        }
        let survey = Arc::new(self.look_around());
        *last = Some((Instant::now(), Arc::clone(&survey)));
        survey
    }

    fn look_around(&self) -> Survey {
        let mesos = self.stores.mesos.snapshot();
        let marathon = self.stores.marathon.snapshot();
        let contrail = self.stores.contrail.snapshot();
        let settings = self.settings();
        let known = Known {
            mesos: &mesos,
            marathon: &marathon,
            contrail: &contrail,
            defaults: &self.defaults,
            policy: &settings.policy,
            now: Instant::now(),
        };
        let mut survey = Survey {
            hosts: hosts(&mesos, &contrail),
            ..Survey::default()
        };
        for (uuid, machine) in &contrail.machines {
            let on = machine.interfaces.iter();
            let on: HashSet<_> = on.filter_map(|one| one.details.network.as_ref()).collect();
            for network in on {
                *survey.networks.entry(Arc::clone(network)).or_default() += 1;
            }
            let differences =
                match desired::fate(&known, *uuid, machine, self.containers.put_at(*uuid)) {
                    Fate::Keep(keep) => {
                        let differences = desired::differences(&keep, machine);
                        if !keep.problems.is_empty() {
                            survey.labels.insert(*uuid, keep.problems);
                        }
                        differences
                    }
                    Fate::Remove(reason) => vec![Difference::Remove(reason)],
                    Fate::Unknown(doubt) => {
                        *survey.doubts.entry(doubt.code()).or_default() += 1;
                        continue;
                    }
                };
            survey.plan(*uuid, differences);
        }
        for orphan in desired::orphans(&known) {
            survey.plan(orphan.uuid(), vec![Difference::Orphan(orphan.to_string())]);
        }
        survey
    }

    /// What is decided about one container; none where it is not known.
    pub(crate) fn decision_of(&self, uuid: Uuid) -> Option<DecisionRow> {
        let (machine, fate) = self.decide(uuid)?;
        Some(match fate {
            Fate::Keep(keep) => {
                let differences = desired::differences(&keep, &machine);
                DecisionRow {
                    decision: match differences.is_empty() {
                        true => "in-sync",
                        false => "out-of-sync",
                    },
                    differences: differences.iter().map(ToString::to_string).collect(),
                    invalid_labels: keep.problems,
                    ..DecisionRow::default()
                }
            }
            Fate::Remove(reason) => DecisionRow {
                decision: "delete",
                reason: Some(reason.code()),
                message: Some(reason.to_string()),
                ..DecisionRow::default()
            },
            Fate::Unknown(doubt) => DecisionRow {
                decision: "defer",
                reason: Some(doubt.code()),
                message: Some(doubt.to_string()),
                ..DecisionRow::default()
            },
        })
    }

    /// What waits: at most so much, of how many, and how many of all have failed.
    pub(crate) fn queued(&self, limit: usize) -> (Vec<Waiting<Key>>, usize, usize) {
        self.queue.waiting(limit)
    }

    /// Whether Marathon is followed.
    pub(crate) fn follows_marathon(&self) -> bool {
        self.follows_marathon
    }

    /// Reads the subnets of the networks that our containers are on.
    pub(super) async fn look_up_networks(&self) {
        let networks = self
            .stores
            .contrail
            .read(|view| view.networks.values().copied().collect());
        match self.containers.networks(networks).await {
            Ok(networks) => {
                let networks = networks.into_iter();
                let networks = networks
                    .map(|network| (network.name.clone(), network))
                    .collect();
                self.stores.networks.replace(|_| networks);
            }
            Err(error) => {
                log::warn!(error:%; "the networks' subnets cannot be read; going on later");
            }
        }
    }
}

impl Survey {
    fn plan(&mut self, uuid: Uuid, differences: Vec<Difference>) {
        if !differences.is_empty() {
            let problems = self.labels.get(&uuid).cloned().unwrap_or_default();
            let planned = Planned {
                uuid,
                differences,
                problems,
            };
            self.differences.insert(uuid, planned);
        }
    }
}

/// The agents joined with the virtual-routers: by name, or by address.
fn hosts(mesos: &MesosView, contrail: &ContrailView) -> BTreeMap<Box<str>, Host> {
    let routers = &contrail.routers;
    let by_address: HashMap<IpAddr, &ArcStr> = routers
        .iter()
        .filter_map(|(name, router)| Some((router.address?, name)))
        .collect();
    let mut containers: HashMap<&str, usize> = HashMap::new();
    for machine in contrail.machines.values() {
        *containers.entry(&machine.agent).or_default() += 1;
    }
    let mut tasks: HashMap<&str, usize> = HashMap::new();
    for task in mesos.tasks() {
        if let Some(agent) = &task.agent {
            *tasks.entry(agent).or_default() += 1;
        }
    }
    let mut hosts: BTreeMap<Box<str>, Host> = BTreeMap::new();
    let mut used: HashSet<&str> = HashSet::new();
    for agent in mesos.agents() {
        let by_name = routers.get_key_value(&*agent.host).map(|(name, _)| name);
        let address = agent.address.or_else(|| agent.host.parse().ok());
        let router = by_name.or_else(|| by_address.get(&address?).copied());
        if let Some(router) = router {
            used.insert(router);
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
            // Several agents may be on one host.
            name = format!("{name} ({})", agent.id).into();
        }
        hosts.insert(name, host);
    }
    for (name, router) in routers.iter().filter(|(name, _)| !used.contains(&***name)) {
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
