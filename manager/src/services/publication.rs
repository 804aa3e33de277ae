//! What is published of services in a term: a pure state machine.
//!
//! Invariants:
//! - Nothing is published before everything that is missing in Mesos is known to be gone: a new leader
//!   would replace what nodes know by less. [`Object::ServicesComplete`] follows at once.
//! - Later, what is missing but may still be there stays as it was ([`Trust`]). What is new is added.
//! - Only what differs from what is published is a change. What is withdrawn comes first, so that no
//!   address is ever that of two services.
//! - An object fits into a line of the watch, and there are not more than nodes accept.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use contrail_mesos_api::cluster::{
    Backend, BackendState, MAX_LINE_BYTES, Object, ObjectKey, Reach, Service, ServiceKey,
    TaskInstance, TaskName, Vip,
};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::Instant;

use super::address_book::AddressRequests;
use super::addresses::{AddressPool, Shortage};
use super::trust::Trust;
use super::{DesiredService, DesiredServices, ServiceProblem};
use crate::overlay::ObjectChange;

/// How many services are published at most: what nodes accept.
pub(super) const MAX_SERVICES: usize = 100_000;
/// How many names of tasks are published at most.
pub(super) const MAX_TASK_NAMES: usize = 250_000;
/// How many instances of tasks are published at most, in all names together.
pub(super) const MAX_INSTANCES: usize = 750_000;
/// How many backends a service has at most, and how many instances a name has.
pub(super) const MAX_BACKENDS: usize = 1024;
/// How long an object may be: a line has a revision, too.
const MAX_OBJECT_BYTES: usize = MAX_LINE_BYTES - 4096;
/// How many problems are kept.
const MAX_PROBLEMS: usize = 1000;

/// A published service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PublishedService {
    /// What the tasks ask for, with what may still be there.
    pub desired: DesiredService,
    /// What is published.
    pub service: Service,
    /// How many of the backends may be gone.
    pub kept: usize,
}

/// What will be published, without addresses.
#[derive(Debug, Default)]
pub(super) struct Target {
    services: BTreeMap<ServiceKey, TargetService>,
    task_names: BTreeMap<String, TaskName>,
    problems: Vec<ServiceProblem>,
}

#[derive(Debug)]
struct TargetService {
    desired: DesiredService,
    kept: usize,
}

/// How many of each there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct ServiceCounts {
    /// Published services.
    pub services: usize,
    /// Backends that get new connections.
    pub ready: usize,
    /// Backends that get none.
    pub draining: usize,
    /// Backends that may be gone.
    pub kept: usize,
    /// Services without a backend that gets new connections.
    pub without_ready: usize,
    /// Published names of tasks.
    pub task_names: usize,
    /// Problems.
    pub problems: usize,
}

/// What is published in a term.
#[derive(Clone, Debug)]
pub(crate) struct Publication {
    ranges: Vec<IpNet>,
    grace: Duration,
    services: BTreeMap<ServiceKey, Arc<PublishedService>>,
    task_names: BTreeMap<String, Arc<TaskName>>,
    problems: Arc<Vec<ServiceProblem>>,
    /// How many problems there are, those that are not kept included.
    problem_count: usize,
    /// Since when names that have addresses are not used.
    unused: HashMap<String, Instant>,
    is_complete: bool,
}

impl Publication {
    /// Nothing is published.
    pub(super) fn new(ranges: &[IpNet], grace: Duration) -> Self {
        Self {
            ranges: ranges.to_vec(),
            grace,
            services: BTreeMap::new(),
            task_names: BTreeMap::new(),
            problems: Arc::default(),
            problem_count: 0,
            unused: HashMap::new(),
            is_complete: false,
        }
    }

    /// Whether everything has been published once.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The published services.
    pub(crate) fn services(&self) -> &BTreeMap<ServiceKey, Arc<PublishedService>> {
        &self.services
    }

    /// The published names of tasks.
    pub(crate) fn task_names(&self) -> &BTreeMap<String, Arc<TaskName>> {
        &self.task_names
    }

    /// The first problems, and how many there are.
    pub(crate) fn problems(&self) -> (Arc<Vec<ServiceProblem>>, usize) {
        (self.problems.clone(), self.problem_count)
    }

    /// How many of each there are.
    pub(crate) fn counts(&self) -> ServiceCounts {
        let mut counts = ServiceCounts {
            services: self.services.len(),
            task_names: self.task_names.len(),
            problems: self.problem_count,
            ..ServiceCounts::default()
        };
        for published in self.services.values() {
            let backends = &published.service.backends;
            let ready = backends
                .iter()
                .filter(|backend| backend.state == BackendState::Ready)
                .count();
            counts.ready += ready;
            counts.draining += backends.len() - ready;
            counts.kept += published.kept;
            counts.without_ready += usize::from(ready == 0);
        }
        counts
    }

    /// What must be published now; none if it cannot be known yet.
    pub(super) fn target(&self, desired: DesiredServices, trust: &Trust) -> Option<Target> {
        if *trust == Trust::Lost || (!self.is_complete && !trust.is_full()) {
            return None;
        }
        let DesiredServices {
            services,
            task_names,
            problems,
        } = desired;
        let services = services.into_iter();
        let services = services.map(|(key, desired)| (key, TargetService { desired, kept: 0 }));
        let mut target = Target {
            services: services.collect(),
            task_names,
            problems,
        };
        if !trust.is_full() {
            self.keep(&mut target, trust);
        }
        Some(target)
    }

    /// Adds what is missing but may still be there.
    fn keep(&self, target: &mut Target, trust: &Trust) {
        for (key, published) in &self.services {
            let before = &published.desired;
            let found = target.services.get(key);
            let found = found.map_or(&[][..], |found| &found.desired.backends);
            let taken: HashSet<_> = found.iter().map(|found| place(&found.backend)).collect();
            // One whose place another task has is gone.
            let kept = before.backends.iter().filter(|known| {
                let backend = &known.backend;
                !trust.may_withdraw(backend.host) && !taken.contains(&place(backend))
            });
            let kept: Vec<_> = kept.cloned().collect();
            if kept.is_empty() {
                continue;
            }
            let entry = target.services.entry(key.clone());
            let entry = entry.or_insert_with(|| TargetService {
                desired: DesiredService {
                    backends: vec![],
                    affinity: before.affinity,
                    frameworks: before.frameworks.clone(),
                },
                kept: 0,
            });
            entry.kept = kept.len();
            entry.desired.backends.extend(kept);
            entry.desired.backends.sort();
        }
        for (name, published) in &self.task_names {
            let found = target.task_names.get(name);
            let found = found.map_or(&[][..], |found| &found.instances);
            let kept = published.instances.iter().filter(|instance| {
                !trust.may_withdraw(instance.agent) && !found.contains(instance)
            });
            let kept: Vec<_> = kept.cloned().collect();
            if kept.is_empty() {
                continue;
            }
            let entry = target.task_names.entry(name.clone());
            let entry = entry.or_insert_with(|| TaskName {
                name: name.clone(),
                instances: vec![],
            });
            entry.instances.extend(kept);
            entry.instances.sort();
        }
    }

    /// Leaves out what is beyond what nodes accept. What is published already stays. So does, in a new
    /// term, what has an address: the leader before has published it.
    pub(super) fn limit(&self, target: &mut Target, pool: &AddressPool) {
        let more = target.services.len().saturating_sub(MAX_SERVICES);
        if more > 0 {
            let known = &self.services;
            let has_address = |key: &ServiceKey| match &key.vip {
                Vip::Name(name) => !self.is_complete && pool.addresses(name).is_some(),
                Vip::Address(_) => false,
            };
            drop_new(&mut target.services, more, |key| {
                known.contains_key(key) || has_address(key)
            });
            let message = format!(
                "more than {MAX_SERVICES} services: {more} are not published; remove VIPs that nobody needs"
            );
            target.problems.push(own_problem("services", message));
        }
        let more = target.task_names.len().saturating_sub(MAX_TASK_NAMES);
        if more > 0 {
            let known = &self.task_names;
            drop_new(&mut target.task_names, more, |name| {
                known.contains_key(name)
            });
            let message =
                format!("more than {MAX_TASK_NAMES} names of tasks: {more} are not published");
            target.problems.push(own_problem("names of tasks", message));
        }
        let left_out = self.limit_instances(&mut target.task_names);
        if left_out > 0 {
            let message = format!(
                "more than {MAX_INSTANCES} tasks have names: {left_out} names are not published"
            );
            target.problems.push(own_problem("names of tasks", message));
        }
    }

    /// Leaves out names beyond the limit of instances, published ones last. Returns how many.
    fn limit_instances(&self, task_names: &mut BTreeMap<String, TaskName>) -> usize {
        let mut instances = 0;
        let mut left_out = BTreeSet::new();
        for is_known in [true, false] {
            let names = task_names.iter();
            for (name, found) in
                names.filter(|(name, _)| self.task_names.contains_key(*name) == is_known)
            {
                let more = found.instances.len().min(MAX_BACKENDS);
                if instances + more <= MAX_INSTANCES {
                    instances += more;
                } else {
                    left_out.insert(name.clone());
                }
            }
        }
        for name in &left_out {
            task_names.remove(name);
        }
        left_out.len()
    }

    /// Which names need addresses, and which give theirs back; and when the next ones do. A name gives
    /// its addresses back when it has not been used for the grace, or earlier, if new names need them:
    /// those that have been unused for longest come first.
    pub(super) fn address_requests(
        &mut self,
        target: &Target,
        pool: &AddressPool,
        trust: &Trust,
        now: Instant,
    ) -> (AddressRequests, Option<Instant>) {
        let used: HashSet<&str> = target
            .services
            .keys()
            .filter_map(|key| match &key.vip {
                Vip::Name(name) => Some(name.as_str()),
                Vip::Address(_) => None,
            })
            .collect();
        let wanted: BTreeSet<String> = used
            .iter()
            .filter(|name| !pool.is_complete(name))
            .map(|name| (*name).to_owned())
            .collect();
        self.unused.retain(|name, _| !used.contains(name.as_str()));
        let mut released = BTreeSet::new();
        if trust.is_full() {
            for name in pool.names().filter(|name| !used.contains(name)) {
                if !self.unused.contains_key(name) {
                    self.unused.insert(name.to_owned(), now);
                }
            }
            // Those that were released since.
            self.unused.retain(|name, _| pool.addresses(name).is_some());
            let due = self
                .unused
                .iter()
                .filter(|(_, since)| now.duration_since(**since) >= self.grace);
            released.extend(due.map(|(name, _)| name.clone()));
            let is_used_up = || pool.usage().iter().any(|usage| usage.free == 0);
            if released.len() < wanted.len() && is_used_up() {
                let mut oldest: Vec<_> = self.unused.iter().collect();
                oldest.sort_by_key(|(name, since)| (**since, name.as_str()));
                let oldest = oldest.into_iter().take(wanted.len());
                released.extend(oldest.map(|(name, _)| name.clone()));
            }
        }
        let waiting = self.unused.iter();
        let waiting = waiting.filter(|(name, _)| !released.contains(*name));
        let next = waiting.map(|(_, since)| *since + self.grace).min();
        // While something is awaited, none is due: that would be repeated without an end.
        let next = next.filter(|_| trust.is_full());
        (AddressRequests { wanted, released }, next)
    }

    /// Publishes a target with these addresses. Returns the changes.
    pub(super) fn publish(
        &mut self,
        target: Target,
        pool: &AddressPool,
        shortages: &BTreeMap<String, Vec<Shortage>>,
    ) -> Vec<ObjectChange> {
        let Target {
            services,
            task_names,
            mut problems,
        } = target;
        let mut deletes = vec![];
        let mut puts = vec![];
        let mut next = BTreeMap::new();
        for (key, TargetService { desired, kept }) in services {
            let known = self.services.get(&key);
            let addresses = match self.addresses(&key, &desired, pool) {
                Ok(addresses) => addresses,
                Err(message) => {
                    problems.push(problem_of(&key, &desired, message));
                    continue;
                }
            };
            if let Vip::Name(name) = &key.vip {
                let lacking = shortages.get(name).into_iter().flatten();
                for shortage in lacking {
                    let is_needed = desired.backends.iter().any(|desired| {
                        let is_v4 = desired.backend.address.is_ipv4();
                        match shortage {
                            Shortage::UsedUp(IpNet::V4(_)) => is_v4,
                            Shortage::UsedUp(IpNet::V6(_)) => !is_v4,
                            Shortage::ShardFull => true,
                        }
                    });
                    if is_needed {
                        problems.push(problem_of(&key, &desired, shortage.to_string()));
                    }
                }
            }
            if addresses.is_empty() {
                continue;
            }
            let is_same = known.is_some_and(|known| {
                known.desired == desired && known.service.addresses == addresses
            });
            if let Some(known) = known.filter(|known| is_same && known.kept == kept) {
                if known.service.backends.len() < known.desired.backends.len() {
                    problems.push(too_large(&key, &desired));
                }
                next.insert(key, known.clone());
                continue;
            }
            let service = bounded_service(&key, addresses, &desired);
            if service.backends.len() < desired.backends.len() {
                problems.push(too_large(&key, &desired));
            }
            if known.is_none_or(|known| known.service != service) {
                puts.push(ObjectChange::Put(Object::Service(service.clone())));
            }
            let published = PublishedService {
                desired,
                service,
                kept,
            };
            next.insert(key, Arc::new(published));
        }
        let gone = self.services.keys().filter(|key| !next.contains_key(*key));
        deletes.extend(gone.map(|key| {
            let service = key.clone();
            ObjectChange::Delete(ObjectKey::Service { service })
        }));
        self.services = next;
        self.publish_task_names(task_names, &mut deletes, &mut puts);
        self.problem_count = problems.len();
        problems.truncate(MAX_PROBLEMS);
        if *self.problems != problems {
            self.problems = Arc::new(problems);
        }
        let mut changes = deletes;
        changes.append(&mut puts);
        if !self.is_complete {
            self.is_complete = true;
            changes.push(ObjectChange::Put(Object::ServicesComplete));
        }
        changes
    }

    fn publish_task_names(
        &mut self,
        task_names: BTreeMap<String, TaskName>,
        deletes: &mut Vec<ObjectChange>,
        puts: &mut Vec<ObjectChange>,
    ) {
        let mut next = BTreeMap::new();
        for (name, mut task_name) in task_names {
            bound(&mut task_name.instances, instance_bytes, |instances| {
                let name = name.clone();
                let instances = instances.to_vec();
                encoded_bytes(&Object::TaskName(TaskName { name, instances }))
            });
            let known = self.task_names.get(&name);
            if let Some(known) = known.filter(|known| ***known == task_name) {
                next.insert(name, known.clone());
                continue;
            }
            puts.push(ObjectChange::Put(Object::TaskName(task_name.clone())));
            next.insert(name, Arc::new(task_name));
        }
        let gone = self
            .task_names
            .keys()
            .filter(|name| !next.contains_key(*name));
        deletes.extend(gone.map(|name| {
            let name = name.clone();
            ObjectChange::Delete(ObjectKey::TaskName { name })
        }));
        self.task_names = next;
    }

    /// The addresses of a service: of each family in which it has backends. An error if it must not have
    /// its address.
    fn addresses(
        &self,
        key: &ServiceKey,
        desired: &DesiredService,
        pool: &AddressPool,
    ) -> Result<Vec<IpAddr>, String> {
        match &key.vip {
            Vip::Address(address) => {
                if let Some(range) = self.ranges.iter().find(|range| range.contains(address)) {
                    return Err(format!(
                        "its address is of {range}, the range of named services: take another address, or a \
                         name such as \"web:{}\"",
                        key.port
                    ));
                }
                if pool.is_given(*address) {
                    return Err(
                        "a named service still has its address, of an earlier range".to_owned()
                    );
                }
                Ok(vec![*address])
            }
            Vip::Name(name) => {
                let given = pool.addresses(name).unwrap_or_default();
                let has_family = |is_v4: bool| {
                    let mut backends = desired.backends.iter();
                    backends.any(|desired| desired.backend.address.is_ipv4() == is_v4)
                };
                let given = given.all();
                Ok(given
                    .filter(|address| has_family(address.is_ipv4()))
                    .collect())
            }
        }
    }
}

/// What two backends cannot share. An address that not all hosts reach may be there on each of them.
fn place(backend: &Backend) -> (SocketAddr, Option<IpAddr>) {
    let host = (backend.reach != Reach::Cluster).then_some(backend.host);
    (backend.address, host)
}

/// Drops that many entries which are not known, the last ones first.
fn drop_new<K: Ord + Clone, V>(
    map: &mut BTreeMap<K, V>,
    count: usize,
    is_known: impl Fn(&K) -> bool,
) {
    let new = map.keys().rev().filter(|key| !is_known(key));
    let new: Vec<K> = new.take(count).cloned().collect();
    for key in new {
        map.remove(&key);
    }
}

fn own_problem(subject: &str, message: String) -> ServiceProblem {
    ServiceProblem {
        framework: String::new(),
        task: String::new(),
        subject: subject.to_owned(),
        message,
    }
}

fn problem_of(key: &ServiceKey, desired: &DesiredService, message: String) -> ServiceProblem {
    ServiceProblem {
        framework: desired.frameworks.first().cloned().unwrap_or_default(),
        task: String::new(),
        subject: key.to_string(),
        message,
    }
}

fn too_large(key: &ServiceKey, desired: &DesiredService) -> ServiceProblem {
    let count = desired.backends.len();
    let message = format!(
        "not all of its {count} backends get connections: at most {MAX_BACKENDS} do, or fewer with long task \
         ids; divide it into several services"
    );
    problem_of(key, desired, message)
}

/// The service with as many backends as fit: those that get new connections come first.
fn bounded_service(key: &ServiceKey, addresses: Vec<IpAddr>, desired: &DesiredService) -> Service {
    let backends = desired.backends.iter();
    let mut backends: Vec<_> = backends.map(|desired| desired.backend.clone()).collect();
    if backends.len() > MAX_BACKENDS {
        backends.sort_by_key(|backend| backend.state);
    }
    let mut service = Service {
        service: key.clone(),
        addresses,
        backends: vec![],
        affinity: desired.affinity,
    };
    let backend_bytes = |backend: &Backend| 400 + 6 * backend.task.len();
    bound(&mut backends, backend_bytes, |backends| {
        let backends = backends.to_vec();
        let service = service.clone();
        encoded_bytes(&Object::Service(Service {
            backends,
            ..service
        }))
    });
    backends.sort();
    service.backends = backends;
    service
}

/// How long a line with the object is.
fn encoded_bytes(object: &Object) -> usize {
    // Serialization fails only for maps whose keys are not strings; there are none.
    serde_json::to_vec(object).map_or(0, |bytes| bytes.len())
}

/// An upper bound of the length of an instance.
fn instance_bytes(instance: &TaskInstance) -> usize {
    let ports = instance.ports.iter();
    let ports: usize = ports.map(|port| 100 + 6 * port.name.len()).sum();
    200 + 50 * instance.addresses.len() + ports
}

/// Leaves out the last elements of an object that would be too long. `element_bytes` is an upper bound of
/// the length of one, so that only suspiciously long objects are encoded.
fn bound<T>(
    elements: &mut Vec<T>,
    element_bytes: impl Fn(&T) -> usize,
    encoded_bytes: impl Fn(&[T]) -> usize,
) {
    elements.truncate(MAX_BACKENDS);
    if elements.iter().map(element_bytes).sum::<usize>() <= MAX_OBJECT_BYTES - 4096 {
        return;
    }
    while !elements.is_empty() {
        let bytes = encoded_bytes(elements);
        if bytes <= MAX_OBJECT_BYTES {
            return;
        }
        // At least one less each time.
        let fitting = elements.len() * MAX_OBJECT_BYTES / bytes;
        elements.truncate(fitting.min(elements.len() - 1));
    }
}

#[cfg(test)]
mod tests;
