//! Random changes: the index and the whole computation agree after each of them.

use std::time::Duration;

use contrail_mesos_api::parser_testing::ROUNDS_VARIABLE;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use tokio::time::Instant;

use super::super::DesiredServices;
use super::super::classification::Classification;
use super::super::index::{ServiceChanges, ServiceIndex};
use super::fixture::{AGENTS, FRAMEWORKS, TaskSpec, classification, read, state, web};
use super::reference;
use crate::mesos_master::{Agent, Change, Framework, Status, TaskKey};
use crate::stores::mesos::MesosView;
use crate::stores::touched::Touched;
use crate::task_state::TaskState;

const TASKS: u8 = 6;
const STATES: [TaskState; 5] = [
    TaskState::Starting,
    TaskState::Running,
    TaskState::Killing,
    TaskState::Unreachable,
    TaskState::Finished,
];

#[derive(Clone, Debug)]
enum Step {
    /// A task is launched, or launched again as another one.
    Launch(Box<TaskSpec>),
    Update(TaskKey, TaskState, Option<bool>),
    AgentAdded(usize),
    AgentRemoved(usize),
    FrameworkChanged(usize, bool),
    FrameworkRemoved(usize),
    /// The master lists these tasks.
    List(Vec<TaskSpec>),
    /// Networks are classified in another way.
    Reclassify(bool),
}

fn key(framework: usize, task: u8) -> TaskKey {
    TaskKey {
        framework: FRAMEWORKS[framework].0.into(),
        task: format!("t{task}").into(),
    }
}

fn spec() -> impl Strategy<Value = TaskSpec> {
    let values = prop::sample::select(vec![
        "/a:80",
        "a:80",
        "/a.b:80",
        "/a/b:80",
        "/ab:80",
        "/a",
        "10.9.9.9:80",
        "10.9.9.8:80",
        "10.0.0.1:80",
        "192.0.2.2:80",
        "198.18.0.5:80",
        "fd01:c::5:80",
    ]);
    let networks = prop::sample::select(vec!["", "overlay", "bridge", "blue", "mapped"]);
    let names = prop::sample::select(vec!["web", "web.group", "%"]);
    (
        (0..TASKS, 0..FRAMEWORKS.len(), 0..AGENTS.len(), names),
        prop::collection::vec(values, 0..4),
        (networks, 1..5_u8, any::<bool>(), 0..4_u8),
    )
        .prop_map(
            |((task, framework, agent, name), vips, (network, address, checked, since))| {
                let mut spec = web()
                    .id(&format!("t{task}"))
                    .name(name)
                    .of(FRAMEWORKS[framework].0)
                    .on_agent(AGENTS[agent].0);
                spec.since = since.into();
                spec.is_checked = checked;
                spec = match network {
                    "" => spec,
                    "mapped" => spec
                        .on("bridge", &["172.16.0.7"])
                        .mapped(31000, 8080, "tcp"),
                    "blue" => spec.on("blue", &[&format!("10.66.0.{address}")]),
                    // Some are IP VIPs of others.
                    network => spec.on(
                        network,
                        &[&format!("10.0.0.{address}"), "10.9.9.8", "fd00::7"],
                    ),
                };
                vips.into_iter().fold(spec, |spec, vip| match network {
                    "mapped" => spec.host_vip(31000, vip),
                    _ => spec.vip(8080, vip),
                })
            },
        )
}

fn step() -> impl Strategy<Value = Step> {
    let task = (0..FRAMEWORKS.len(), 0..TASKS).prop_map(|(framework, task)| key(framework, task));
    prop_oneof![
        6 => spec().prop_map(|spec| Step::Launch(Box::new(spec))),
        6 => (task, prop::sample::select(STATES.to_vec()), any::<Option<bool>>())
            .prop_map(|(key, state, healthy)| Step::Update(key, state, healthy)),
        1 => (0..AGENTS.len()).prop_map(Step::AgentAdded),
        1 => (0..AGENTS.len()).prop_map(Step::AgentRemoved),
        1 => (0..FRAMEWORKS.len(), any::<bool>())
            .prop_map(|(framework, renamed)| Step::FrameworkChanged(framework, renamed)),
        1 => (0..FRAMEWORKS.len()).prop_map(Step::FrameworkRemoved),
        1 => prop::collection::vec(spec(), 0..4).prop_map(Step::List),
        1 => any::<bool>().prop_map(Step::Reclassify),
    ]
}

/// What the index has returned so far, merged.
#[derive(Default)]
struct Model {
    view: MesosView,
    classification: Classification,
    index: ServiceIndex,
    published: DesiredServices,
}

impl Model {
    /// Returns what is touched.
    fn change(&mut self, step: Step) -> Touched {
        let now = Instant::now();
        let change = match step {
            Step::List(tasks) => {
                self.view.apply_snapshot(state(&tasks), now, Duration::ZERO);
                return Touched::All;
            }
            Step::Reclassify(all) => {
                self.classification = if all {
                    classification()
                } else {
                    Classification::default()
                };
                return Touched::All;
            }
            Step::Launch(spec) => Change::TaskAdded(Box::new(read(&spec))),
            Step::Update(key, state, healthy) => Change::TaskUpdated {
                key,
                agent: None,
                executor: None,
                status: Box::new(Status {
                    state,
                    healthy,
                    ..Status::default()
                }),
            },
            Step::AgentAdded(at) => Change::AgentAdded(Box::new(Agent {
                id: AGENTS[at].0.into(),
                host: AGENTS[at].0.into(),
                address: AGENTS[at].1.parse().ok(),
                active: true,
                attributes: Box::default(),
                is_recovered: false,
            })),
            Step::AgentRemoved(at) => Change::AgentRemoved(AGENTS[at].0.into()),
            Step::FrameworkChanged(at, renamed) => {
                let (id, name) = FRAMEWORKS[at];
                Change::FrameworkChanged(Framework {
                    id: id.into(),
                    name: if renamed { "renamed" } else { name }.into(),
                    active: true,
                })
            }
            Step::FrameworkRemoved(at) => Change::FrameworkRemoved(FRAMEWORKS[at].0.into()),
        };
        let touched = Touched::of(&change);
        self.view.apply_change(change, now);
        touched
    }

    fn publish(&mut self, changes: ServiceChanges) {
        for (key, service) in changes.services {
            match service {
                Some(service) => drop(self.published.services.insert(key, service)),
                None => drop(self.published.services.remove(&key)),
            }
        }
        for (name, instances) in changes.task_names {
            match instances {
                Some(instances) => drop(self.published.task_names.insert(name, instances)),
                None => drop(self.published.task_names.remove(&name)),
            }
        }
        if changes.problems {
            self.published.problems = self.index.problems(&self.view, &self.classification);
        }
    }
}

/// Several steps at a time, as a publisher collects them.
fn run(batches: Vec<Vec<Step>>) -> TestCaseResult {
    let mut model = Model::default();
    for steps in batches {
        let touched: Vec<Touched> = steps.into_iter().map(|step| model.change(step)).collect();
        let owners = model.index.owners().clone();
        let Model {
            view,
            classification,
            index,
            ..
        } = &mut model;
        let changes = index.apply(view, classification, touched);
        let expected = reference::compute(view, classification, &owners);
        model.publish(changes);
        prop_assert_eq!(&model.published, &expected);
    }
    // Nothing is left of what has gone.
    for at in 0..FRAMEWORKS.len() {
        let touched = model.change(Step::FrameworkRemoved(at));
        let changes = model
            .index
            .apply(&model.view, &model.classification, [touched]);
        model.publish(changes);
    }
    prop_assert_eq!(&model.published, &DesiredServices::default());
    prop_assert!(model.index.is_empty(), "{:?}", model.index);
    Ok(())
}

/// Of the damaged inputs that parsers get a twentieth, because a sequence takes longer.
fn cases() -> ProptestConfig {
    let rounds = std::env::var(ROUNDS_VARIABLE).ok();
    let rounds = rounds.and_then(|rounds| rounds.parse::<u32>().ok());
    ProptestConfig {
        cases: rounds.map_or(0, |rounds| rounds / 20).max(64),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn index_agrees_with_whole_computation_after_any_changes(
        batches in prop::collection::vec(prop::collection::vec(step(), 1..5), 1..16),
    ) {
        run(batches)?;
    }
}
