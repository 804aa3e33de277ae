//! What the tasks ask for, computed at once: the reference for the index.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use contrail_mesos_api::cluster::{ServiceKey, TaskInstance, Vip};

use super::super::DesiredServices;
use super::super::build::{self, AddressUser};
use super::super::classification::Classification;
use super::super::index::VipOwners;
use super::super::problem_list::{MAX_EXAMINED, ProblemList};
use super::super::task::{Contribution, Offer, container_addresses, contribution};
use crate::mesos_master::Task;
use crate::stores::mesos::MesosView;

/// Computes everything. `owners` says who had the IP VIPs until now.
pub(crate) fn compute(
    view: &MesosView,
    classification: &Classification,
    owners: &VipOwners,
) -> DesiredServices {
    let mut tasks: Vec<&Task> = view.tasks().collect();
    tasks.sort_unstable_by_key(|task| &task.key);
    let contributions: Vec<Contribution> = tasks
        .iter()
        .map(|task| contribution(view, classification, task))
        .collect();
    let mut offers: BTreeMap<&ServiceKey, Vec<&Offer>> = BTreeMap::new();
    let mut instances: BTreeMap<&str, Vec<TaskInstance>> = BTreeMap::new();
    for contribution in &contributions {
        for offer in &contribution.offers {
            offers.entry(&offer.service).or_default().push(offer);
        }
        if let Some((name, instance)) = &contribution.instance {
            instances.entry(name).or_default().push(instance.clone());
        }
    }
    let vips: HashSet<IpAddr> = offers
        .keys()
        .filter_map(|key| match key.vip {
            Vip::Address(address) => Some(address),
            Vip::Name(_) => None,
        })
        .collect();
    let of_containers: HashSet<IpAddr> = tasks
        .iter()
        .flat_map(|task| container_addresses(task))
        .filter(|address| vips.contains(address))
        .collect();
    let mut desired = DesiredServices::default();
    let mut problems = ProblemList::default();
    let with_problems = contributions.iter().filter(|one| !one.problems.is_empty());
    for contribution in with_problems.take(MAX_EXAMINED) {
        problems.extend(contribution.problems.iter().cloned());
    }
    let mut services_with_problems = 0;
    for (key, offers) in offers {
        let built = build::service(key, offers, owners.get(key), true, |address| {
            let has_container = of_containers.contains(&address);
            AddressUser::of(view, classification, address, has_container)
        });
        if !built.problems.is_empty() && services_with_problems < MAX_EXAMINED {
            services_with_problems += 1;
            problems.extend(built.problems);
        }
        if let Some(service) = built.service {
            desired.services.insert(key.clone(), service);
        }
    }
    for (name, instances) in instances {
        if let Some(built) = build::task_name(name, instances) {
            desired.task_names.insert(name.to_owned(), built);
        }
    }
    desired.problems = problems.finish();
    desired
}
