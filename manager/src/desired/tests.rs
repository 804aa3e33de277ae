//! Each rule of the decisions.

mod keep;
mod random;

use std::collections::HashMap;
use std::time::Duration;

use super::*;
use crate::diff::{self, Actual, diff};
use crate::marathon::{App, Listing, Network, RunSpecId, Skipped};
use crate::mesos_master::{Change, Executor, Framework, State, Status, TaskKey};
use crate::model::InterfaceDetails;
use crate::stores::contrail::Router;
use crate::task_state::TaskState;

const TASK: &str = "shop_web.instance-0bcd1234-c7a5-11ea-8f39-0242ac110002._app.1";

/// Sources, and one container of ours that no task uses.
struct Fixture {
    mesos: MesosView,
    marathon: MarathonView,
    contrail: ContrailView,
    policy: Policy,
    defaults: Defaults,
    start: Instant,
    vm: Uuid,
    last_requested: Option<Instant>,
}

fn vm_uuid(number: u128) -> Uuid {
    Uuid::from_u128(0x660a_305f_10e4_47fd_a5fc_0000_0000_0000 + number)
}

fn task(id: &str, agent: &str, container: Option<Uuid>) -> Task {
    let key = TaskKey {
        framework: "F".into(),
        task: id.into(),
    };
    Task {
        agent: Some(agent.into()),
        is_defined: true,
        status: Status {
            state: TaskState::Running,
            container: container.map(|uuid| uuid.to_string().into()),
            ..Status::default()
        },
        ..Task::undefined(key)
    }
}

fn agent(id: &str, host: &str) -> Agent {
    Agent {
        id: id.into(),
        host: host.into(),
        address: None,
        active: true,
        attributes: Box::default(),
        is_recovered: false,
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
    task("other", "S2", Some(vm_uuid(99)))
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

impl Fixture {
    fn new() -> Self {
        let start = Instant::now();
        let uuid = vm_uuid(1);
        let ours = CachedVm {
            agent: "node1".into(),
            display_name: None,
            identity: MesosIdentity {
                task: Some(TASK.into()),
                framework_id: Some("F".into()),
                executor: Some(TASK.into()),
                mesos_agent: Some("S1".into()),
                ..MesosIdentity::default()
            },
            interfaces: Box::new([Interface {
                uuid: contrail_mesos_api::agent_api::interface_uuid(uuid, "eth0"),
                index: 0,
                network_name: Some("contrail".into()),
                security_groups: Box::default(),
                floating_ips: Box::default(),
                address_count: 1,
                details: InterfaceDetails::default(),
            }]),
            routers: Box::new([vm_uuid(500)]),
            first_seen: start,
        };
        let routers = [("node1", 500), ("node2", 501)].map(|(name, uuid)| {
            let router = Router {
                uuid: vm_uuid(uuid),
                address: None,
            };
            (name.into(), router)
        });
        let mut fixture = Self {
            mesos: MesosView::default(),
            marathon: MarathonView::default(),
            contrail: ContrailView {
                vms: HashMap::from([(uuid, Box::new(ours))]),
                routers: HashMap::from(routers),
                ..ContrailView::default()
            },
            policy: Policy::default(),
            defaults: Defaults::of("mesos"),
            start,
            vm: uuid,
            last_requested: None,
        };
        fixture.list(0, state(vec![other()], agents()));
        fixture
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    fn list(&mut self, seconds: u64, state: State) {
        let window = self.policy.stabilization_window;
        self.mesos.apply_snapshot(state, self.at(seconds), window);
    }

    fn marathon(&mut self, seconds: u64, listing: Listing) {
        let window = self.policy.stabilization_window;
        self.marathon
            .apply_listing(listing, self.at(seconds), window);
    }

    fn ours(&mut self) -> &mut CachedVm {
        self.contrail.vms.get_mut(&self.vm).unwrap()
    }

    fn snapshot(&self, seconds: u64) -> Snapshot<'_> {
        Snapshot {
            mesos: &self.mesos,
            marathon: &self.marathon,
            contrail: &self.contrail,
            defaults: &self.defaults,
            policy: &self.policy,
            now: self.at(seconds),
        }
    }

    fn decision(&self, seconds: u64) -> Decision {
        let ours = &self.contrail.vms[&self.vm];
        decide(&self.snapshot(seconds), self.vm, ours, self.last_requested)
    }

    fn desired(&self, seconds: u64) -> DesiredState {
        match self.decision(seconds) {
            Decision::Keep(desired) => *desired,
            other => panic!("{other:?}"),
        }
    }
}

/// Why the decision on an unused container is deferred after a change, at `at` seconds.
fn defer_reason(at: u64, change: fn(&mut Fixture)) -> DeferReason {
    let mut fixture = Fixture::new();
    change(&mut fixture);
    match fixture.decision(at) {
        Decision::Defer(reason) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn unused_container_is_deleted_unless_mesos_is_untrusted() {
    assert_eq!(
        Fixture::new().decision(700),
        Decision::Delete(DeleteReason::NotOnAgent)
    );
    let mesos = |reason: DeferReason, text: &str| {
        assert!(
            matches!(&reason, DeferReason::MesosUntrusted(problem) if problem.contains(text)),
            "{reason:?}"
        );
    };
    mesos(
        defer_reason(700, |fixture| {
            fixture.mesos.mark_lost(fixture.at(600), "refused");
        }),
        "refused",
    );
    mesos(
        defer_reason(700, |fixture| fixture.mesos = MesosView::default()),
        "not listed anything",
    );
    mesos(
        defer_reason(700, |fixture| {
            let mut partial = state(vec![other()], agents());
            partial.skipped.push(crate::mesos_master::Skipped {
                kind: "task",
                problem: "null".into(),
            });
            fixture.list(1, partial);
        }),
        "cannot be read",
    );
    mesos(
        defer_reason(700, |fixture| {
            fixture.mesos.mark_lost(fixture.at(600), "refused");
            fixture.list(690, state(vec![other()], agents()));
        }),
        "just come back",
    );
    mesos(
        defer_reason(2000, |fixture| fixture.list(600, state(vec![], agents()))),
        "shrunk",
    );
}

#[test]
fn container_that_may_be_used_is_deferred() {
    assert_eq!(defer_reason(599, |_| {}), DeferReason::GracePeriod);
    assert_eq!(
        defer_reason(700, |fixture| fixture.last_requested =
            Some(fixture.at(650))),
        DeferReason::GracePeriod
    );
    assert_eq!(
        defer_reason(700, |fixture| fixture
            .marathon(1, listing(vec![app(&[], &[TASK])]))),
        DeferReason::ListedByMarathon
    );
    for id in [None, Some("/shop/web"), Some(TASK)] {
        let mut fixture = Fixture::new();
        let mut listing = listing(vec![]);
        listing.skipped.push(Skipped {
            kind: "app",
            id: id.map(Into::into),
            problem: "null".into(),
        });
        fixture.marathon(1, listing);
        assert_eq!(
            fixture.decision(700),
            Decision::Defer(DeferReason::MarathonEntryUnreadable),
            "{id:?}"
        );
    }
    assert_eq!(
        defer_reason(700, |fixture| {
            let mut agents = agents();
            agents[0].active = false;
            fixture.list(1, state(vec![other()], agents));
        }),
        DeferReason::AgentDisconnected
    );
    assert_eq!(
        defer_reason(700, |fixture| {
            fixture.list(1, state(vec![other()], vec![agent("S2", "node2")]));
            let back = Change::AgentAdded(Box::new(agent("S1", "node1")));
            fixture.mesos.apply_change(back, fixture.at(2));
        }),
        DeferReason::AgentDisconnected
    );
    assert_eq!(
        defer_reason(700, |fixture| {
            let staging = task("new", "S1", None);
            fixture.list(1, state(vec![other(), staging], agents()));
        }),
        DeferReason::TaskWithoutContainer
    );
    assert_eq!(
        defer_reason(700, |fixture| {
            let mut state = state(vec![other()], agents());
            state.executors.insert(Executor {
                framework: "F".into(),
                agent: "S1".into(),
                id: TASK.into(),
            });
            fixture.list(1, state);
        }),
        DeferReason::IdleExecutor
    );
    // A container that never had a task may belong to any executor without tasks.
    assert_eq!(
        defer_reason(700, |fixture| {
            fixture.ours().identity = MesosIdentity::default();
            let mut state = state(vec![other()], agents());
            state.executors.insert(Executor {
                framework: "F".into(),
                agent: "S1".into(),
                id: "idle".into(),
            });
            fixture.list(1, state);
        }),
        DeferReason::IdleExecutor
    );
}

#[test]
fn ended_task_is_confirmed_by_a_list_before_delete() {
    let mut fixture = Fixture::new();
    let own = task(TASK, "S1", Some(fixture.vm));
    fixture.list(1, state(vec![other(), own.clone()], agents()));
    assert!(matches!(fixture.decision(700), Decision::Keep(_)));
    let ended = Change::TaskUpdated {
        key: own.key.clone(),
        agent: None,
        executor: None,
        status: Box::new(Status {
            state: TaskState::Failed,
            ..Status::default()
        }),
    };
    let touched = fixture.mesos.apply_change(ended, fixture.at(800));
    assert_eq!(touched, [fixture.vm]);
    assert_eq!(
        fixture.decision(5000),
        Decision::Defer(DeferReason::NotListedSince)
    );
    fixture.list(5001, state(vec![other()], agents()));
    assert_eq!(
        fixture.decision(5002),
        Decision::Delete(DeleteReason::NotOnAgent)
    );
    // A task that a list leaves out without an event needs a second list.
    fixture.list(5003, state(vec![other(), own], agents()));
    fixture.list(5004, state(vec![other()], agents()));
    assert_eq!(
        fixture.decision(9000),
        Decision::Defer(DeferReason::NotListedSince)
    );
    fixture.list(9001, state(vec![other()], agents()));
    assert_eq!(
        fixture.decision(9002),
        Decision::Delete(DeleteReason::NotOnAgent)
    );
}

#[test]
fn container_that_lost_its_task_is_kept_for_grace_period() {
    let mut fixture = Fixture::new();
    let own = task(TASK, "S1", Some(fixture.vm));
    fixture.list(1, state(vec![other(), own.clone()], agents()));
    fixture.mesos.apply_change(
        Change::TaskUpdated {
            key: own.key,
            agent: None,
            executor: None,
            status: Box::new(Status {
                state: TaskState::Killed,
                ..Status::default()
            }),
        },
        fixture.at(800),
    );
    // Its agent may still be ending it, which no list shows.
    for at in [801, 900, 1000] {
        fixture.list(at, state(vec![other()], agents()));
        assert_eq!(
            fixture.decision(at + 1),
            Decision::Defer(DeferReason::GracePeriod)
        );
    }
    assert_eq!(
        fixture.decision(1399),
        Decision::Defer(DeferReason::GracePeriod)
    );
    assert_eq!(
        fixture.decision(1400),
        Decision::Delete(DeleteReason::NotOnAgent)
    );
}

#[test]
fn unreachable_lost_or_unknown_task_keeps_container() {
    for task_state in [
        TaskState::Unreachable,
        TaskState::Lost,
        TaskState::Unrecognised,
    ] {
        let mut fixture = Fixture::new();
        let mut own = task(TASK, "S1", Some(fixture.vm));
        own.status.state = task_state;
        // Its agent is gone as well.
        fixture.list(1, state(vec![other(), own], vec![agent("S2", "node2")]));
        assert!(
            matches!(fixture.decision(100_000), Decision::Keep(_)),
            "{task_state}"
        );
    }
}

#[test]
fn containers_of_gone_agent_are_deleted_after_a_delay() {
    let mut fixture = Fixture::new();
    fixture.list(1000, state(vec![other()], vec![agent("S2", "node2")]));
    assert_eq!(
        fixture.decision(4599),
        Decision::Defer(DeferReason::AgentGoneRecently)
    );
    // A lost connection restarts the wait.
    fixture.mesos.mark_lost(fixture.at(4000), "refused");
    fixture.list(4001, state(vec![other()], vec![agent("S2", "node2")]));
    assert_eq!(
        fixture.decision(4700),
        Decision::Defer(DeferReason::AgentGoneRecently)
    );
    assert_eq!(
        fixture.decision(7601),
        Decision::Delete(DeleteReason::AgentGone)
    );
    // Without a recorded agent, the host determines it, or nothing does.
    fixture.ours().identity = MesosIdentity::default();
    assert_eq!(
        fixture.decision(7601),
        Decision::Delete(DeleteReason::AgentGone)
    );
    fixture.list(
        7602,
        state(
            vec![other()],
            vec![agent("S2", "node2"), agent("S3", "10.0.0.3")],
        ),
    );
    assert_eq!(
        fixture.decision(20_000),
        Decision::Defer(DeferReason::AgentUnknown)
    );
}

#[test]
fn incomplete_container_is_deleted_unless_a_task_uses_it() {
    let mut fixture = Fixture::new();
    let ours = fixture.ours();
    ours.identity = MesosIdentity::default();
    ours.routers = Box::default();
    ours.interfaces[0].address_count = 0;
    assert_eq!(
        fixture.decision(599),
        Decision::Defer(DeferReason::GracePeriod)
    );
    assert_eq!(
        fixture.decision(700),
        Decision::Delete(DeleteReason::Incomplete)
    );
    let own = task(TASK, "S1", Some(fixture.vm));
    fixture.list(701, state(vec![other(), own], agents()));
    let desired = fixture.desired(1000);
    // It is not linked before it is complete.
    let ours = &fixture.contrail.vms[&fixture.vm];
    assert_eq!(
        diff(Actual::cached(ours), &desired),
        [diff::Change::SetNames]
    );
}
