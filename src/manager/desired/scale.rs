//! How long a look at everything takes, and how much is kept of each task. Run alone, and for
//! numbers that mean something in release:
//! `cargo test --release -p contrail-mesos --lib desired::scale -- --ignored --nocapture`

use std::collections::HashMap;

use super::*;
use crate::condition::Condition;
use crate::intern::Interner;
use crate::manager::stores::contrail::{Interface, Router};
use crate::master::{State, Status, TaskKey};

/// Resident memory of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib << 10
}

fn views(tasks: u32, agents: u32, now: Instant) -> (MesosView, ContrailView) {
    let mut texts = Interner::default();
    let mut state = State::default();
    let mut contrail = ContrailView::default();
    for number in 0..agents {
        let id = texts.get(&format!("6b8a02bb-2f3c-4f36-a6a1-b9a1a33d1f0a-S{number}"));
        let agent = Agent {
            id: id.clone(),
            host: format!("node{number}.example").into(),
            address: None,
            active: true,
            attributes: Box::default(),
        };
        state.agents.insert(id, agent);
        let router = Router {
            uuid: Uuid::from_u128(u128::from(number) + 1),
            address: None,
        };
        let name = texts.get(&format!("node{number}.example"));
        contrail.routers.insert(name, router);
    }
    let groups = Arc::new(FqName::new(["default-domain", "default-project", "web"]));
    for number in 0..tasks {
        let uuid = Uuid::from_u128((0x660a_305f_10e4_47fd << 64) + u128::from(number));
        let agent = number % agents;
        let name = format!("shop_web{}.instance-{uuid}._app.1", number % 1000);
        let key = TaskKey {
            framework: texts.get("6b8a02bb-2f3c-4f36-a6a1-b9a1a33d1f0a-0000"),
            task: name.as_str().into(),
        };
        let task = Task {
            key: key.clone(),
            agent: Some(texts.get(&format!("6b8a02bb-2f3c-4f36-a6a1-b9a1a33d1f0a-S{agent}"))),
            executor: None,
            labels: Box::default(),
            status: Status {
                condition: Condition::Running,
                container: Some(uuid.to_string().into()),
                ..Status::default()
            },
        };
        state.tasks.insert(key, task);
        let machine = Machine {
            agent: texts.get(&format!("node{agent}.example")),
            display_name: Some(name.as_str().into()),
            names: Names::default(),
            interfaces: Box::new([Interface {
                uuid: crate::ports::interface(uuid, "eth0"),
                index: 0,
                network: Some(texts.get("contrail")),
                groups: Box::new([groups.clone()]),
                floating: Box::default(),
                addresses: 1,
                details: crate::manager::stores::contrail::Details::default(),
            }]),
            routers: Box::new([Uuid::from_u128(u128::from(agent) + 1)]),
            seen: now,
        };
        contrail.machines.insert(uuid, machine);
    }
    let mut mesos = MesosView::default();
    mesos.listed(state, now, Duration::from_secs(1));
    (mesos, contrail)
}

#[test]
#[ignore = "prints numbers; run alone, in release"]
fn a_hundred_thousand_tasks() {
    for (tasks, agents) in [(1000, 50), (10_000, 500), (100_000, 5000)] {
        let now = Instant::now();
        let before = resident();
        let (mesos, mut contrail) = views(tasks, agents, now);
        let defaults = Defaults::of("mesos");
        let policy = Policy::default();
        let marathon = MarathonView::default();
        let fates = |contrail: &ContrailView| -> HashMap<Uuid, Names> {
            let known = Known {
                mesos: &mesos,
                marathon: &marathon,
                contrail,
                defaults: &defaults,
                policy: &policy,
                now,
            };
            let machines = contrail.machines.iter();
            let kept = machines.filter_map(|(uuid, machine)| {
                let Fate::Keep(keep) = fate(&known, *uuid, machine, None) else {
                    panic!("it lives")
                };
                let wrong = !differences(&keep, machine).is_empty();
                wrong.then_some((*uuid, keep.names))
            });
            kept.collect()
        };
        let began = std::time::Instant::now();
        let names = fates(&contrail);
        let first = began.elapsed();
        assert_eq!(names.len(), tasks as usize);
        let mut texts = Interner::default();
        for (uuid, names) in names {
            let annotations = names.pairs().collect();
            let machine = contrail.machines.get_mut(&uuid).unwrap();
            machine.names = Names::read(&annotations, &mut |text| texts.get(text));
        }
        let began = std::time::Instant::now();
        assert!(fates(&contrail).is_empty());
        let again = began.elapsed();
        let each = resident().saturating_sub(before) / tasks as usize;
        println!(
            "{tasks} tasks: all differ {first:?}, none differs {again:?}, {each} bytes a task"
        );
    }
}
