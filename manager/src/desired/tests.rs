//! Each rule of what is to become of a container.

mod kept;
mod random;

use std::collections::HashMap;

use super::*;
use crate::marathon::{App, Listing, Network, RunSpecId, Skipped};
use crate::mesos_master::{Change, Executor, Framework, State, Status, TaskKey};
use crate::stores::contrail::{Interface, Router};
use crate::task_state::TaskState;

const TASK: &str = "shop_web.instance-0bcd1234-c7a5-11ea-8f39-0242ac110002._app.1";

/// Sources, and one container of ours that nobody has any more.
struct Scene {
    mesos: MesosView,
    marathon: MarathonView,
    contrail: ContrailView,
    policy: Policy,
    defaults: Defaults,
    start: Instant,
    machine: Uuid,
    put: Option<Instant>,
}

fn machine(number: u128) -> Uuid {
    Uuid::from_u128(0x660a_305f_10e4_47fd_a5fc_0000_0000_0000 + number)
}

fn task(id: &str, agent: &str, container: Option<Uuid>) -> Task {
    Task {
        key: TaskKey {
            framework: "F".into(),
            task: id.into(),
        },
        agent: Some(agent.into()),
        executor: None,
        labels: Box::default(),
        status: Status {
            state: TaskState::Running,
            container: container.map(|uuid| uuid.to_string().into()),
            ..Status::default()
        },
    }
}

fn agent(id: &str, host: &str) -> Agent {
    Agent {
        id: id.into(),
        host: host.into(),
        address: None,
        active: true,
        attributes: Box::default(),
    }
}

fn state(tasks: Vec<Task>, agents: Vec<Agent>) -> State {
    let framework = Framework {
        id: "F".into(),
        name: "marathon".into(),
        active: true,
    };
    State {
        tasks: tasks
            .into_iter()
            .map(|one| (one.key.clone(), Box::new(one)))
            .collect(),
        agents: agents
            .into_iter()
            .map(|one| (one.id.clone(), one))
            .collect(),
        frameworks: HashMap::from([(framework.id.clone(), framework)]),
        ..State::default()
    }
}

/// Another container's task, so that the list is not empty.
fn other() -> Task {
    task("other", "S2", Some(machine(99)))
}

fn agents() -> Vec<Agent> {
    vec![agent("S1", "node1"), agent("S2", "node2")]
}

fn app(labels: &[(&str, &str)], tasks: &[&str]) -> App {
    let labels = labels.iter();
    App {
        id: RunSpecId::parse("/shop/web").unwrap(),
        instances: 1,
        labels: Box::default(),
        networks: Box::new([Network {
            mode: Mode::Container,
            name: Some("contrail".into()),
            labels: labels
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect(),
        }]),
        tasks: tasks
            .iter()
            .map(|id| crate::marathon::Task {
                id: (*id).into(),
                state: TaskState::Running,
                agent: None,
                host: None,
                addresses: Box::default(),
                staged: None,
                started: None,
                version: None,
            })
            .collect(),
    }
}

fn listing(apps: Vec<App>) -> Listing {
    Listing {
        apps,
        followed: true,
        ..Listing::default()
    }
}

impl Scene {
    fn new() -> Self {
        let start = Instant::now();
        let uuid = machine(1);
        let ours = Machine {
            agent: "node1".into(),
            display_name: None,
            names: Names {
                task: Some(TASK.into()),
                framework_id: Some("F".into()),
                executor: Some(TASK.into()),
                mesos_agent: Some("S1".into()),
                ..Names::default()
            },
            interfaces: Box::new([Interface {
                uuid: contrail_mesos_api::agent_api::interface_uuid(uuid, "eth0"),
                index: 0,
                network: Some("contrail".into()),
                groups: Box::default(),
                floating: Box::default(),
                addresses: 1,
                details: crate::stores::contrail::Details::default(),
            }]),
            routers: Box::new([machine(500)]),
            seen: start,
        };
        let routers = [("node1", 500), ("node2", 501)].map(|(name, uuid)| {
            let router = Router {
                uuid: machine(uuid),
                address: None,
            };
            (name.into(), router)
        });
        let mut scene = Self {
            mesos: MesosView::default(),
            marathon: MarathonView::default(),
            contrail: ContrailView {
                machines: HashMap::from([(uuid, Box::new(ours))]),
                routers: HashMap::from(routers),
                ..ContrailView::default()
            },
            policy: Policy::default(),
            defaults: Defaults::of("mesos"),
            start,
            machine: uuid,
            put: None,
        };
        scene.list(0, state(vec![other()], agents()));
        scene
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn list(&mut self, seconds: u64, state: State) {
        let settle = self.policy.settle;
        self.mesos.listed(state, self.at(seconds), settle);
    }

    fn marathon(&mut self, seconds: u64, listing: Listing) {
        let settle = self.policy.settle;
        self.marathon.listed(listing, self.at(seconds), settle);
    }

    fn ours(&mut self) -> &mut Machine {
        self.contrail.machines.get_mut(&self.machine).unwrap()
    }

    fn known(&self, seconds: u64) -> Known<'_> {
        Known {
            mesos: &self.mesos,
            marathon: &self.marathon,
            contrail: &self.contrail,
            defaults: &self.defaults,
            policy: &self.policy,
            now: self.at(seconds),
        }
    }

    fn fate(&self, seconds: u64) -> Fate {
        let ours = &self.contrail.machines[&self.machine];
        fate(&self.known(seconds), self.machine, ours, self.put)
    }

    fn keep(&self, seconds: u64) -> Keep {
        match self.fate(seconds) {
            Fate::Keep(keep) => *keep,
            other => panic!("{other:?}"),
        }
    }
}

/// Why nothing is done, so many seconds on, of a container that would be removed but for a change.
fn doubt(at: u64, change: fn(&mut Scene)) -> Doubt {
    let mut scene = Scene::new();
    change(&mut scene);
    match scene.fate(at) {
        Fate::Unknown(doubt) => doubt,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_nobody_has_is_removed_but_not_on_the_word_of_a_doubtful_source() {
    assert_eq!(Scene::new().fate(700), Fate::Remove(Reason::NotOnAgent));
    let mesos = |doubt: Doubt, said: &str| {
        assert!(
            matches!(&doubt, Doubt::Mesos(why) if why.contains(said)),
            "{doubt:?}"
        );
    };
    mesos(
        doubt(700, |scene| scene.mesos.lost(scene.at(600), "refused")),
        "refused",
    );
    mesos(
        doubt(700, |scene| scene.mesos = MesosView::default()),
        "not been heard of",
    );
    mesos(
        doubt(700, |scene| {
            let mut partial = state(vec![other()], agents());
            partial.skipped.push(crate::mesos_master::Skipped {
                kind: "task",
                problem: "null".into(),
            });
            scene.list(1, partial);
        }),
        "cannot be read",
    );
    mesos(
        doubt(700, |scene| {
            scene.mesos.lost(scene.at(600), "refused");
            scene.list(690, state(vec![other()], agents()));
        }),
        "just come back",
    );
    mesos(
        doubt(2000, |scene| scene.list(600, state(vec![], agents()))),
        "shrunk",
    );
}

#[test]
fn what_may_be_somebodys_is_kept() {
    assert_eq!(doubt(599, |_| {}), Doubt::Young);
    assert_eq!(
        doubt(700, |scene| scene.put = Some(scene.at(650))),
        Doubt::Young
    );
    assert_eq!(
        doubt(700, |scene| scene
            .marathon(1, listing(vec![app(&[], &[TASK])]))),
        Doubt::MarathonHasIt
    );
    for id in [None, Some("/shop/web"), Some(TASK)] {
        let mut scene = Scene::new();
        let mut listing = listing(vec![]);
        listing.skipped.push(Skipped {
            kind: "app",
            id: id.map(Into::into),
            problem: "null".into(),
        });
        scene.marathon(1, listing);
        assert_eq!(scene.fate(700), Fate::Unknown(Doubt::Unreadable), "{id:?}");
    }
    assert_eq!(
        doubt(700, |scene| {
            let mut agents = agents();
            agents[0].active = false;
            scene.list(1, state(vec![other()], agents));
        }),
        Doubt::AgentAway
    );
    assert_eq!(
        doubt(700, |scene| {
            scene.list(1, state(vec![other()], vec![agent("S2", "node2")]));
            let back = Change::AgentAdded(Box::new(agent("S1", "node1")));
            scene.mesos.apply(back, scene.at(2));
        }),
        Doubt::AgentAway
    );
    assert_eq!(
        doubt(700, |scene| {
            let staging = task("new", "S1", None);
            scene.list(1, state(vec![other(), staging], agents()));
        }),
        Doubt::Unplaced
    );
    assert_eq!(
        doubt(700, |scene| {
            let mut state = state(vec![other()], agents());
            state.executors.insert(Executor {
                framework: "F".into(),
                agent: "S1".into(),
                id: TASK.into(),
            });
            scene.list(1, state);
        }),
        Doubt::Executor
    );
    // Of one that never had a task, any executor without tasks may be it.
    assert_eq!(
        doubt(700, |scene| {
            scene.ours().names = Names::default();
            let mut state = state(vec![other()], agents());
            state.executors.insert(Executor {
                framework: "F".into(),
                agent: "S1".into(),
                id: "idle".into(),
            });
            scene.list(1, state);
        }),
        Doubt::Executor
    );
}

#[test]
fn a_task_that_ends_needs_a_list_to_confirm_it() {
    let mut scene = Scene::new();
    let own = task(TASK, "S1", Some(scene.machine));
    scene.list(1, state(vec![other(), own.clone()], agents()));
    assert!(matches!(scene.fate(700), Fate::Keep(_)));
    let ended = Change::TaskUpdated {
        key: own.key.clone(),
        agent: None,
        executor: None,
        status: Box::new(Status {
            state: TaskState::Failed,
            ..Status::default()
        }),
    };
    let touched = scene.mesos.apply(ended, scene.at(800));
    assert_eq!(touched, [scene.machine]);
    assert_eq!(scene.fate(5000), Fate::Unknown(Doubt::NotListedSince));
    scene.list(5001, state(vec![other()], agents()));
    assert_eq!(scene.fate(5002), Fate::Remove(Reason::NotOnAgent));
    // And one that a list leaves out without a word needs a second one.
    scene.list(5003, state(vec![other(), own], agents()));
    scene.list(5004, state(vec![other()], agents()));
    assert_eq!(scene.fate(9000), Fate::Unknown(Doubt::NotListedSince));
    scene.list(9001, state(vec![other()], agents()));
    assert_eq!(scene.fate(9002), Fate::Remove(Reason::NotOnAgent));
}

#[test]
fn a_container_that_just_lost_its_task_is_left_to_its_agent() {
    let mut scene = Scene::new();
    let own = task(TASK, "S1", Some(scene.machine));
    scene.list(1, state(vec![other(), own.clone()], agents()));
    scene.mesos.apply(
        Change::TaskUpdated {
            key: own.key,
            agent: None,
            executor: None,
            status: Box::new(Status {
                state: TaskState::Killed,
                ..Status::default()
            }),
        },
        scene.at(800),
    );
    // Its agent may be ending it: lists say nothing of that.
    for at in [801, 900, 1000] {
        scene.list(at, state(vec![other()], agents()));
        assert_eq!(scene.fate(at + 1), Fate::Unknown(Doubt::Young));
    }
    assert_eq!(scene.fate(1399), Fate::Unknown(Doubt::Young));
    assert_eq!(scene.fate(1400), Fate::Remove(Reason::NotOnAgent));
}

#[test]
fn words_that_are_no_end_keep_a_container() {
    for task_state in [
        TaskState::Unreachable,
        TaskState::Lost,
        TaskState::Unrecognised,
    ] {
        let mut scene = Scene::new();
        let mut own = task(TASK, "S1", Some(scene.machine));
        own.status.state = task_state;
        // Its agent is gone, too.
        scene.list(1, state(vec![other(), own], vec![agent("S2", "node2")]));
        assert!(matches!(scene.fate(100_000), Fate::Keep(_)), "{task_state}");
    }
}

#[test]
fn containers_of_an_agent_that_is_gone_go_after_a_while() {
    let mut scene = Scene::new();
    scene.list(1000, state(vec![other()], vec![agent("S2", "node2")]));
    assert_eq!(scene.fate(4599), Fate::Unknown(Doubt::AgentGoneRecently));
    // A loss begins the wait anew.
    scene.mesos.lost(scene.at(4000), "refused");
    scene.list(4001, state(vec![other()], vec![agent("S2", "node2")]));
    assert_eq!(scene.fate(4700), Fate::Unknown(Doubt::AgentGoneRecently));
    assert_eq!(scene.fate(7601), Fate::Remove(Reason::AgentGone));
    // Of one whose agent was never noted, its host tells; and where that says nothing, nobody.
    scene.ours().names = Names::default();
    assert_eq!(scene.fate(7601), Fate::Remove(Reason::AgentGone));
    scene.list(
        7602,
        state(
            vec![other()],
            vec![agent("S2", "node2"), agent("S3", "10.0.0.3")],
        ),
    );
    assert_eq!(scene.fate(20_000), Fate::Unknown(Doubt::NoAgent));
}

#[test]
fn what_was_never_completed_goes_unless_a_task_has_it() {
    let mut scene = Scene::new();
    let ours = scene.ours();
    ours.names = Names::default();
    ours.routers = Box::default();
    ours.interfaces[0].addresses = 0;
    assert_eq!(scene.fate(599), Fate::Unknown(Doubt::Young));
    assert_eq!(scene.fate(700), Fate::Remove(Reason::HalfMade));
    let own = task(TASK, "S1", Some(scene.machine));
    scene.list(701, state(vec![other(), own], agents()));
    let keep = scene.keep(1000);
    // Nor is it linked before it is whole.
    let ours = &scene.contrail.machines[&scene.machine];
    assert_eq!(differences(&keep, ours), [Difference::Names]);
}
