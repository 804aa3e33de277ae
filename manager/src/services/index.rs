//! The services and names of all tasks, kept up to date: a change costs as much as the services and the name
//! that it touches, not as much as the cluster.
//!
//! Invariant: what it returned so far, merged, is what a computation from scratch returns for
//! the same view, classification and owners. A test compares both.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;

use arcstr::ArcStr;
use contrail_mesos_api::cluster::{ServiceKey, TaskInstance, TaskName, Vip};

use super::build::{self, AddressUser, BuiltService};
use super::classification::Classification;
use super::problem_list::{MAX_EXAMINED, ProblemList};
use super::task::{Offer, container_addresses, contribution};
use super::{DesiredService, ServiceProblem};
use crate::mesos_master::TaskKey;
use crate::stores::mesos::MesosView;
use crate::stores::touched::Touched;

/// The ids of the frameworks that have each IP VIP.
pub(crate) type VipOwners = HashMap<ServiceKey, ArcStr>;

/// What has to change; `None` is gone. Some of it may be as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServiceChanges {
    pub services: BTreeMap<ServiceKey, Option<DesiredService>>,
    pub task_names: BTreeMap<String, Option<TaskName>>,
    /// Whether [`ServiceIndex::problems`] may have changed.
    pub problems: bool,
}

/// The index.
#[derive(Debug, Default)]
pub(crate) struct ServiceIndex {
    hasher: RandomState,
    tasks: HashMap<TaskKey, Entry>,
    by_agent: HashMap<ArcStr, BTreeSet<TaskKey>>,
    by_framework: HashMap<ArcStr, BTreeSet<TaskKey>>,
    services: BTreeMap<ServiceKey, BTreeSet<TaskKey>>,
    names: HashMap<ArcStr, BTreeSet<TaskKey>>,
    vips: HashMap<IpAddr, IpVip>,
    owners: VipOwners,
    /// Whether tasks may be missing in the view.
    is_partial: bool,
    /// IP VIPs whose owner has no backend in a partial view.
    undecided: BTreeSet<ServiceKey>,
    tasks_with_problems: BTreeSet<TaskKey>,
    services_with_problems: BTreeSet<ServiceKey>,
}

/// A task.
#[derive(Debug, Default)]
struct Entry {
    /// Of its instance and its problems, which are computed again when they are needed.
    fingerprint: u64,
    agent: Option<ArcStr>,
    name: Option<ArcStr>,
    offers: Box<[Offer]>,
    /// The IP VIPs that are addresses of its container.
    vips: Box<[IpAddr]>,
}

/// An address that is asked for.
#[derive(Debug, Default)]
struct IpVip {
    services: BTreeSet<ServiceKey>,
    /// The tasks whose container has it.
    containers: BTreeSet<TaskKey>,
}

/// What has to be built again.
#[derive(Debug, Default)]
struct Dirty {
    services: BTreeSet<ServiceKey>,
    names: BTreeSet<ArcStr>,
    /// IP VIPs that were not there before.
    new_vips: BTreeSet<IpAddr>,
    problems: bool,
}

fn remove_from<K: std::hash::Hash + Eq>(
    map: &mut HashMap<K, BTreeSet<TaskKey>>,
    at: &K,
    key: &TaskKey,
) {
    if let Some(keys) = map.get_mut(at) {
        keys.remove(key);
        if keys.is_empty() {
            map.remove(at);
        }
    }
}

impl ServiceIndex {
    /// Brings the index up to date with a view that has changed there.
    pub(crate) fn apply(
        &mut self,
        view: &MesosView,
        classification: &Classification,
        touched: impl IntoIterator<Item = Touched>,
    ) -> ServiceChanges {
        let mut dirty = Dirty::default();
        let mut keys = BTreeSet::new();
        for one in touched {
            self.expand(view, one, &mut keys, &mut dirty);
        }
        for key in &keys {
            self.update(view, classification, key, &mut dirty);
        }
        self.find_containers(view, &mut dirty);
        self.build(view, classification, dirty)
    }

    /// Says whether tasks may be missing in the views from now on. Then nobody loses an IP VIP.
    pub(crate) fn set_partial(&mut self, is_partial: bool) {
        self.is_partial = is_partial;
    }

    /// Who has each IP VIP.
    #[cfg(test)]
    pub(super) fn owners(&self) -> &VipOwners {
        &self.owners
    }

    /// Whether nothing is kept.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
            && self.by_agent.is_empty()
            && self.by_framework.is_empty()
            && self.services.is_empty()
            && self.names.is_empty()
            && self.vips.is_empty()
            && self.owners.is_empty()
            && self.undecided.is_empty()
            && self.tasks_with_problems.is_empty()
            && self.services_with_problems.is_empty()
    }

    /// The problems of the tasks and services, ordered, each once. Their number is limited.
    pub(crate) fn problems(
        &self,
        view: &MesosView,
        classification: &Classification,
    ) -> Vec<ServiceProblem> {
        let mut problems = ProblemList::default();
        for key in self.tasks_with_problems.iter().take(MAX_EXAMINED) {
            if let Some(task) = view.task(key) {
                problems.extend(contribution(view, classification, task).problems);
            }
        }
        for key in self.services_with_problems.iter().take(MAX_EXAMINED) {
            let before = self.owners.get(key);
            problems.extend(self.service(view, classification, key, before).problems);
        }
        problems.finish()
    }

    /// The tasks that are touched, and the services whose address is.
    fn expand(
        &self,
        view: &MesosView,
        touched: Touched,
        keys: &mut BTreeSet<TaskKey>,
        dirty: &mut Dirty,
    ) {
        match touched {
            Touched::All => {
                keys.extend(self.tasks.keys().cloned());
                keys.extend(view.tasks().map(|task| task.key.clone()));
                self.touch_vips(dirty);
                dirty.problems = true;
            }
            Touched::Task(key) => {
                keys.insert(key);
            }
            Touched::Agent(id) => {
                keys.extend(self.by_agent.get(&id).into_iter().flatten().cloned());
                // An address that it had before may be free now.
                self.touch_vips(dirty);
            }
            Touched::Framework(id) => {
                keys.extend(self.by_framework.get(&id).into_iter().flatten().cloned());
            }
        }
    }

    fn touch_vips(&self, dirty: &mut Dirty) {
        let services = self.vips.values().flat_map(|vip| &vip.services);
        dirty.services.extend(services.cloned());
    }

    /// Updates the entry of a task.
    fn update(
        &mut self,
        view: &MesosView,
        classification: &Classification,
        key: &TaskKey,
        dirty: &mut Dirty,
    ) {
        let task = view.task(key);
        let old = self.tasks.remove(key);
        if task.is_none() && old.is_none() {
            return;
        }
        let is_new = old.is_none();
        let old = old.unwrap_or_default();
        let added = task.map(|task| contribution(view, classification, task));
        let added = added.unwrap_or_default();
        let mut entry = Entry {
            fingerprint: self.hasher.hash_one((&added.instance, &added.problems)),
            agent: task.and_then(|task| task.agent.clone()),
            name: added.instance.map(|(name, _)| ArcStr::from(name)),
            offers: added.offers.into(),
            vips: Box::default(),
        };
        self.move_task(key, &old, &entry, is_new, task.is_none());
        if old.offers != entry.offers {
            self.move_offers(key, &old.offers, &entry.offers, dirty);
        }
        if old.fingerprint != entry.fingerprint || is_new || task.is_none() {
            dirty
                .names
                .extend(old.name.iter().chain(&entry.name).cloned());
            dirty.problems = true;
            if old.name == entry.name {
                // The copy that the index has already.
                entry.name.clone_from(&old.name);
            } else {
                if let Some(name) = &old.name {
                    remove_from(&mut self.names, name, key);
                }
                if let Some(name) = &mut entry.name {
                    if let Some((known, _)) = self.names.get_key_value(name) {
                        *name = known.clone();
                    }
                    self.names
                        .entry(name.clone())
                        .or_default()
                        .insert(key.clone());
                }
            }
        } else {
            entry.name = old.name;
        }
        if added.problems.is_empty() {
            self.tasks_with_problems.remove(key);
        } else {
            self.tasks_with_problems.insert(key.clone());
        }
        entry.vips = self.claimed_vips(task.map(container_addresses).into_iter().flatten());
        for address in old
            .vips
            .iter()
            .filter(|address| !entry.vips.contains(address))
        {
            self.mark_claim(*address, dirty, |containers| containers.remove(key));
        }
        for address in &entry.vips {
            self.mark_claim(*address, dirty, |containers| containers.insert(key.clone()));
        }
        if task.is_some() {
            self.tasks.insert(key.clone(), entry);
        }
    }

    /// Updates the tasks of agents and frameworks.
    fn move_task(&mut self, key: &TaskKey, old: &Entry, new: &Entry, is_new: bool, is_gone: bool) {
        if old.agent != new.agent {
            if let Some(agent) = &old.agent {
                remove_from(&mut self.by_agent, agent, key);
            }
            if let Some(agent) = &new.agent {
                self.by_agent
                    .entry(agent.clone())
                    .or_default()
                    .insert(key.clone());
            }
        }
        if is_new {
            let tasks = self.by_framework.entry(key.framework.clone()).or_default();
            tasks.insert(key.clone());
        }
        if is_gone {
            remove_from(&mut self.by_framework, &key.framework, key);
        }
    }

    fn move_offers(&mut self, key: &TaskKey, old: &[Offer], new: &[Offer], dirty: &mut Dirty) {
        let old: BTreeSet<&ServiceKey> = old.iter().map(|offer| &offer.service).collect();
        let new: BTreeSet<&ServiceKey> = new.iter().map(|offer| &offer.service).collect();
        dirty
            .services
            .extend(old.iter().chain(&new).map(|service| (*service).clone()));
        for service in old.difference(&new) {
            let Some(tasks) = self.services.get_mut(*service) else {
                continue;
            };
            tasks.remove(key);
            if !tasks.is_empty() {
                continue;
            }
            self.services.remove(*service);
            if let Vip::Address(address) = service.vip
                && let Some(vip) = self.vips.get_mut(&address)
            {
                vip.services.remove(*service);
                if vip.services.is_empty() {
                    self.forget_vip(address);
                }
            }
        }
        for service in new.difference(&old) {
            let tasks = self.services.entry((*service).clone()).or_default();
            tasks.insert(key.clone());
            if let Vip::Address(address) = service.vip {
                let vip = self.vips.entry(address).or_insert_with(|| {
                    dirty.new_vips.insert(address);
                    IpVip::default()
                });
                vip.services.insert((*service).clone());
            }
        }
    }

    /// Nobody asks for the address any more.
    fn forget_vip(&mut self, address: IpAddr) {
        let containers = self.vips.remove(&address).map(|vip| vip.containers);
        for key in containers.into_iter().flatten() {
            if let Some(entry) = self.tasks.get_mut(&key) {
                let others = entry.vips.iter().filter(|vip| **vip != address);
                entry.vips = others.copied().collect();
            }
        }
    }

    /// The addresses that are asked for.
    fn claimed_vips(&self, addresses: impl Iterator<Item = IpAddr>) -> Box<[IpAddr]> {
        if self.vips.is_empty() {
            return Box::default();
        }
        let claimed: BTreeSet<IpAddr> = addresses
            .filter(|address| self.vips.contains_key(address))
            .collect();
        claimed.into_iter().collect()
    }

    /// Changes the containers that have an address; its services are built again if that changes anything.
    fn mark_claim(
        &mut self,
        address: IpAddr,
        dirty: &mut Dirty,
        change: impl FnOnce(&mut BTreeSet<TaskKey>) -> bool,
    ) {
        if let Some(vip) = self.vips.get_mut(&address)
            && change(&mut vip.containers)
        {
            dirty.services.extend(vip.services.iter().cloned());
        }
    }

    /// Finds the containers that have the addresses that are newly asked for: one look at every task for
    /// all of them.
    fn find_containers(&mut self, view: &MesosView, dirty: &mut Dirty) {
        let mut new = std::mem::take(&mut dirty.new_vips);
        new.retain(|address| self.vips.contains_key(address));
        if new.is_empty() {
            return;
        }
        for task in view.tasks() {
            for address in container_addresses(task).filter(|address| new.contains(address)) {
                let Some(entry) = self.tasks.get_mut(&task.key) else {
                    continue;
                };
                if !entry.vips.contains(&address) {
                    entry.vips = entry.vips.iter().copied().chain([address]).collect();
                }
                self.mark_claim(address, dirty, |containers| {
                    containers.insert(task.key.clone())
                });
            }
        }
    }

    fn service(
        &self,
        view: &MesosView,
        classification: &Classification,
        key: &ServiceKey,
        owner_before: Option<&ArcStr>,
    ) -> BuiltService {
        let tasks = self.services.get(key).into_iter().flatten();
        let offers = tasks
            .filter_map(|task| self.tasks.get(task))
            .flat_map(|entry| entry.offers.iter().filter(|offer| offer.service == *key));
        build::service(
            key,
            offers.collect(),
            owner_before,
            !self.is_partial,
            |address| {
                let containers = self.vips.get(&address).map(|vip| &vip.containers);
                let has_container = containers.is_some_and(|containers| !containers.is_empty());
                AddressUser::of(view, classification, address, has_container)
            },
        )
    }

    fn build(
        &mut self,
        view: &MesosView,
        classification: &Classification,
        mut dirty: Dirty,
    ) -> ServiceChanges {
        if !self.is_partial {
            dirty.services.append(&mut self.undecided);
        }
        let mut changes = ServiceChanges {
            problems: dirty.problems,
            ..ServiceChanges::default()
        };
        for key in dirty.services {
            let built = self.service(view, classification, &key, self.owners.get(&key));
            if self.is_partial && built.owner.is_some() && built.service.is_none() {
                self.undecided.insert(key.clone());
            }
            match built.owner {
                Some(owner) => drop(self.owners.insert(key.clone(), owner)),
                None => drop(self.owners.remove(&key)),
            }
            if built.problems.is_empty() {
                changes.problems |= self.services_with_problems.remove(&key);
            } else {
                self.services_with_problems.insert(key.clone());
                changes.problems = true;
            }
            changes.services.insert(key, built.service);
        }
        for name in dirty.names {
            let tasks = self.names.get(&name).into_iter().flatten();
            let instances: Vec<TaskInstance> = tasks
                .filter_map(|key| contribution(view, classification, view.task(key)?).instance)
                .map(|(_, instance)| instance)
                .collect();
            let built = build::task_name(&name, instances);
            changes.task_names.insert(name.to_string(), built);
        }
        changes
    }
}
