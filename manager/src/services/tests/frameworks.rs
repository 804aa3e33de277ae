//! Several frameworks that ask for the same.

use std::collections::BTreeSet;
use std::time::Duration;

use contrail_mesos_api::cluster::ServiceKey;
use tokio::time::Instant;

use super::super::compute as compute_services;
use super::super::index::{ServiceIndex, VipOwners};
use super::super::{OverlayNetworks, ServiceContext};
use super::fixture::{TaskSpec, classification, compute, services, state, text, view, web};
use super::reference;
use crate::config::ServicesOptions;
use crate::mesos_master::{Agent, Change};
use crate::stores::mesos::MesosView;
use crate::stores::touched::Touched;

const VIP: &str = "10.9.9.9:80/tcp";

fn key() -> ServiceKey {
    VIP.parse().unwrap()
}

fn since(since: f64, spec: TaskSpec) -> TaskSpec {
    TaskSpec { since, ..spec }
}

fn of_marathon(at: f64) -> TaskSpec {
    since(at, web().vip(31000, "10.9.9.9:80"))
}

fn of_other(at: f64) -> TaskSpec {
    let other = web().id("thief.1").name("thief").of("G").on_agent("S2");
    since(at, other.vip(31005, "10.9.9.9:80"))
}

#[test]
fn ip_vip_of_two_frameworks_is_of_the_oldest_task() {
    for (ours, theirs, backend) in [
        (5.0, 9.0, "192.0.2.1:31000"),
        (9.0, 5.0, "192.0.2.2:31005"),
        // Together: the smaller id.
        (5.0, 5.0, "192.0.2.1:31000"),
    ] {
        let desired = compute(&[of_marathon(ours), of_other(theirs)]);
        let expected = vec![(VIP.to_owned(), vec![backend.to_owned()])];
        assert_eq!(services(&desired), expected);
        assert_eq!(desired.services[&key()].frameworks.len(), 1);
        let [problem] = &*desired.problems else {
            panic!("{:?}", desired.problems);
        };
        let names = [&*problem.framework, &*problem.message].join(" ");
        assert!(
            names.contains("marathon") && names.contains("dev/marathon-2"),
            "{problem:?}"
        );
    }
}

/// What follows from the view after another list of tasks.
fn list(view: &mut MesosView, index: &mut ServiceIndex, tasks: &[TaskSpec]) -> Vec<String> {
    view.apply_snapshot(state(tasks), Instant::now(), Duration::ZERO);
    let changes = index.apply(view, &classification(), [Touched::All]);
    let service = changes.services.get(&key()).cloned().flatten();
    let backends = service.into_iter().flat_map(|service| service.backends);
    backends.map(|backend| text(&backend.backend)).collect()
}

#[test]
fn ip_vip_stays_with_its_framework_whatever_others_claim() {
    let mut view = MesosView::default();
    let mut index = ServiceIndex::default();
    let ours = ["192.0.2.1:31000"];
    let unreachable = || of_marathon(9.0).state("TASK_UNREACHABLE");
    assert_eq!(list(&mut view, &mut index, &[of_marathon(9.0)]), ours);
    // A task that says to be older.
    assert_eq!(
        list(&mut view, &mut index, &[of_marathon(9.0), of_other(1.0)]),
        ours
    );
    assert_eq!(
        list(&mut view, &mut index, &[unreachable(), of_other(1.0)]),
        ours
    );
    // A task that says to have the address.
    let claim = web().id("claim.1").of("G").on("overlay", &["10.9.9.9"]);
    assert_eq!(
        list(&mut view, &mut index, &[of_marathon(9.0), claim.clone()]),
        ours
    );
    let problems = index.problems(&view, &classification());
    assert!(problems[0].message.contains("came later"), "{problems:?}");
    // Once it is given up, the other one has it.
    assert_eq!(
        list(&mut view, &mut index, &[of_other(1.0)]),
        ["192.0.2.2:31005"]
    );
    // An address that a container has first is nobody's.
    assert!(list(&mut view, &mut index, std::slice::from_ref(&claim)).is_empty());
    assert!(list(&mut view, &mut index, &[claim, of_marathon(9.0)]).is_empty());
}

#[test]
fn ip_vip_stays_with_its_framework_while_tasks_may_be_missing() {
    let mut view = MesosView::default();
    let mut index = ServiceIndex::default();
    let ours = ["192.0.2.1:31000"];
    assert_eq!(list(&mut view, &mut index, &[of_marathon(9.0)]), ours);
    // Another master leads: the agent of one framework has not registered yet.
    index.set_partial(true);
    assert!(list(&mut view, &mut index, &[of_other(1.0)]).is_empty());
    assert_eq!(
        list(&mut view, &mut index, &[of_marathon(9.0), of_other(1.0)]),
        ours
    );
    // It never registers: the next one has it once that is known, without another change.
    assert!(list(&mut view, &mut index, &[of_other(1.0)]).is_empty());
    index.set_partial(false);
    let changes = index.apply(&view, &classification(), []);
    let service = changes.services[&key()].as_ref().unwrap();
    assert_eq!(text(&service.backends[0].backend), "192.0.2.2:31005");
    assert_eq!(index.owners()[&key()], "G");
}

#[test]
fn address_of_an_agent_that_is_gone_is_no_virtual_ip() {
    let mut view = view(&[web().vip(31000, "192.0.2.2:80")]);
    let gone = Change::AgentRemoved("S2".into());
    let touched = Touched::of(&gone);
    view.apply_change(gone, Instant::now());
    let mut index = ServiceIndex::default();
    let changes = index.apply(&view, &classification(), [Touched::All]);
    assert!(changes.services.values().all(Option::is_none));
    // It comes back with another one.
    let moved = Change::AgentAdded(Box::new(Agent {
        id: "S2".into(),
        host: "S2".into(),
        address: "192.0.2.77".parse().ok(),
        active: true,
        attributes: Box::default(),
        is_recovered: false,
    }));
    view.apply_change(moved, Instant::now());
    let changes = index.apply(&view, &classification(), [touched]);
    let mut services = changes.services.values();
    assert!(services.len() == 1 && services.all(Option::is_some));
}

#[test]
fn subnets_of_overlays_are_no_virtual_ips_once_they_are_configured() {
    let view = view(&[web().vip(31000, "10.9.9.9:80")]);
    let compute = compute_services();
    let options = ServicesOptions::default();
    let count = |subnets: &[&str]| {
        let overlays = OverlayNetworks {
            names: BTreeSet::new(),
            subnets: subnets
                .iter()
                .map(|subnet| subnet.parse().unwrap())
                .collect(),
        };
        let context = ServiceContext {
            options: &options,
            overlays: &overlays,
            is_full: true,
            reconciler: None,
        };
        compute(&view, &context).services.len()
    };
    assert_eq!(count(&["10.8.0.0/16"]), 1);
    assert_eq!(count(&["10.8.0.0/16", "10.9.0.0/16"]), 0);
    assert_eq!(count(&[]), 1);
}

#[test]
fn owner_is_an_input_of_the_whole_computation() {
    let tasks = [of_marathon(5.0), of_other(9.0)];
    let owners = VipOwners::from([(key(), "G".into())]);
    let desired = reference::compute(&view(&tasks), &classification(), &owners);
    let expected = vec![(VIP.to_owned(), vec!["192.0.2.2:31005".to_owned()])];
    assert_eq!(services(&desired), expected);
}

#[test]
fn frameworks_of_one_name_share_services_with_a_problem() {
    let tasks = [
        web().vip(31000, "/web:80"),
        web()
            .id("web.2")
            .of("F2")
            .on_agent("S2")
            .vip(31005, "/web:80"),
        // Another name is another service.
        web().id("web.3").of("G").vip(31001, "/web:80"),
    ];
    let desired = compute(&tasks);
    let backends: Vec<usize> = desired
        .services
        .values()
        .map(|service| service.backends.len())
        .collect();
    assert_eq!(backends, [1, 2]);
    let [problem] = &*desired.problems else {
        panic!("{:?}", desired.problems);
    };
    assert!(
        problem.message.contains("frameworks of the same name"),
        "{problem:?}"
    );
}
