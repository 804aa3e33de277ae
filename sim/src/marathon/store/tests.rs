//! The lifecycle of instances, without Mesos.
use std::time::Duration;

use serde_json::json;

use super::scheduling::Kill;
use super::*;
use crate::marathon::launch::offer::Offer;
use crate::marathon::model::app;
use crate::marathon::status::TaskStatus;

fn app(instances: u32, cmd: &str) -> RunSpec {
    app_of(json!({"id": "/a", "cmd": cmd, "cpus": 0.1, "mem": 32, "instances": instances}))
}

fn app_of(definition: serde_json::Value) -> RunSpec {
    let app = app::parse(definition, &Defaults::default()).unwrap();
    RunSpec::App(Box::new(app))
}

fn offer() -> Offer {
    offer_of("h")
}

fn offer_of(hostname: &str) -> Offer {
    Offer::from_json(&json!({
        "id": {"value": "o1"}, "agent_id": {"value": "S4"}, "framework_id": {"value": "F1"},
        "hostname": hostname,
        "resources": [
            {"name": "cpus", "type": "SCALAR", "scalar": {"value": 8.0}, "role": "*"},
            {"name": "mem", "type": "SCALAR", "scalar": {"value": 9999.0}, "role": "*"},
            {"name": "ports", "ranges": {"range": [{"begin": 31000, "end": 32000}]}, "role": "*"}],
    }))
    .unwrap()
}

struct Fixture {
    store: Store,
    now: Timestamp,
}

impl Fixture {
    fn new(instances: u32) -> Self {
        Self::of(app(instances, "run"))
    }

    fn of(run_spec: RunSpec) -> Self {
        let mut fixture = Self {
            store: Store::new(Defaults::default(), Images::default()),
            now: Timestamp::now(),
        };
        fixture.store.create(run_spec, fixture.now).unwrap();
        fixture
    }

    /// Adds a status with a result of Mesos' health check.
    fn say_healthy(&mut self, task_id: &str, healthy: bool) {
        let status = json!({"task_id": {"value": task_id}, "agent_id": {"value": "S4"},
            "state": "TASK_RUNNING", "healthy": healthy});
        let status = TaskStatus::from_json(&status).unwrap();
        assert_eq!(self.store.apply(status, self.now), None);
    }

    /// The types of the events about health since the last call.
    fn health_events(&mut self) -> Vec<String> {
        let events = self.store.take_events().into_iter();
        let kinds = events.map(|event| event.kind);
        kinds.filter(|kind| kind.contains("health")).collect()
    }

    fn wait(&mut self, length: Duration) {
        self.now = self.now.after(length);
    }

    fn launch(&mut self) -> Vec<String> {
        let placements = self.store.launch(&mut offer(), self.now);
        let tasks = placements.into_iter().flat_map(|placed| placed.tasks);
        tasks.map(|task| task.id).collect()
    }

    fn say(&mut self, task_id: &str, state: &str) -> Option<Kill> {
        let status = json!({"task_id": {"value": task_id}, "agent_id": {"value": "S4"},
            "state": state, "message": "because", "container_status": {"network_infos": [
                {"name": "n", "ip_addresses": [{"ip_address": "9.0.1.3"}]}]}});
        self.store
            .apply(TaskStatus::from_json(&status).unwrap(), self.now)
    }

    fn kills(&mut self) -> Vec<String> {
        let kills = self.store.kills(self.now);
        kills.into_iter().map(|kill| kill.task_id).collect()
    }

    fn run(&mut self) -> Vec<String> {
        let tasks = self.launch();
        for task in &tasks {
            assert_eq!(self.say(task, "TASK_RUNNING"), None);
        }
        tasks
    }
}

const ID: fn() -> PathId = || PathId::parse("/a").unwrap();

#[test]
fn deployment_ends_when_all_instances_run() {
    let mut fixture = Fixture::new(3);
    assert_eq!(fixture.store.demand(fixture.now), 3);
    assert_eq!(fixture.store.deployments().len(), 1);
    let again = fixture.store.create(app(1, "run"), fixture.now);
    assert_eq!(again, Err(StoreError::Exists(ID())));
    assert_eq!(fixture.run().len(), 3);
    assert_eq!(fixture.store.demand(fixture.now), 0);
    assert!(fixture.store.deployments().is_empty());
    let instance = fixture.store.instances_of(&ID())[0];
    assert_eq!(instance.tasks[0].addresses[0].address, "9.0.1.3");
    assert_eq!(instance.tasks[0].addresses[0].protocol, "IPv4");
}

#[test]
fn scaling_down_kills_youngest_and_repeats_kills() {
    let mut fixture = Fixture::new(3);
    let tasks = fixture.run();
    fixture
        .store
        .update(app(1, "run"), false, fixture.now)
        .unwrap();
    let locked = fixture.store.update(app(2, "run"), false, fixture.now);
    assert!(matches!(locked, Err(StoreError::Locked(_))));
    let mut kills = fixture.kills();
    kills.sort();
    let mut youngest = tasks[1..].to_vec();
    youngest.sort();
    assert_eq!(kills, youngest);
    assert!(fixture.kills().is_empty());
    fixture.wait(Duration::from_secs(11));
    assert_eq!(fixture.kills().len(), 2);
    for task in &youngest {
        fixture.say(task, "TASK_KILLED");
    }
    assert_eq!(fixture.store.instances().count(), 1);
    assert!(fixture.store.deployments().is_empty());
    assert!(fixture.launch().is_empty());
}

#[test]
fn failed_instance_is_relaunched_with_growing_delay() {
    let mut fixture = Fixture::new(1);
    let mut waits = [1000, 1150, 1322].into_iter().map(Duration::from_millis);
    for incarnation in 1..=3 {
        let tasks = fixture.run();
        assert!(
            tasks[0].ends_with(&format!("._app.{incarnation}")),
            "{tasks:?}"
        );
        fixture.say(&tasks[0], "TASK_FAILED");
        let wait = waits.next().unwrap();
        fixture.wait(wait.mul_f64(0.9));
        assert!(fixture.launch().is_empty());
        fixture.wait(wait.mul_f64(0.2));
    }
    let entry = fixture.store.entry(&ID()).unwrap();
    let failure = entry.last_failure.as_ref().unwrap();
    assert_eq!(failure.message, "because");
    assert_eq!(failure.condition, Condition::Failed);
    assert_eq!(entry.terminated.len(), 3);
    let tasks = fixture.run();
    fixture.wait(Duration::from_secs(61));
    fixture.say(&tasks[0], "TASK_FAILED");
    fixture.wait(Duration::from_millis(1001));
    assert_eq!(fixture.launch().len(), 1, "it had run long enough");
}

#[test]
fn changed_definition_replaces_the_instances() {
    let mut fixture = Fixture::new(2);
    let old = fixture.run();
    fixture
        .store
        .update(app(2, "other"), false, fixture.now)
        .unwrap();
    assert_eq!(fixture.kills().len(), 2);
    assert_eq!(fixture.run().len(), 2);
    assert_eq!(fixture.store.deployments().len(), 1);
    for task in &old {
        fixture.say(task, "TASK_KILLED");
    }
    assert!(fixture.store.deployments().is_empty());
    assert_eq!(fixture.store.instances_of(&ID()).len(), 2);
}

#[test]
fn deleted_app_disappears_before_its_tasks_end() {
    let mut fixture = Fixture::new(2);
    assert!(matches!(
        fixture.store.delete(&ID(), false),
        Err(StoreError::Locked(_))
    ));
    let tasks = fixture.run();
    fixture.store.delete(&ID(), false).unwrap();
    assert!(fixture.store.entry(&ID()).is_none());
    assert_eq!(fixture.kills().len(), 2);
    let early = fixture.store.create(app(1, "run"), fixture.now);
    assert!(matches!(early, Err(StoreError::Locked(_))));
    for task in &tasks {
        fixture.say(task, "TASK_KILLED");
    }
    assert_eq!(fixture.store.instances().count(), 0);
    fixture.store.create(app(1, "run"), fixture.now).unwrap();
}

#[test]
fn unknown_tasks_are_killed() {
    let mut fixture = Fixture::new(0);
    let stranger = "a.instance-0bcd1234-c7a5-11ea-8f39-0242ac110002._app.1";
    let kill = fixture.say(stranger, "TASK_RUNNING").unwrap();
    assert_eq!(kill.task_id, stranger);
    assert_eq!(fixture.say(stranger, "TASK_KILLED"), None);
}

#[test]
fn constraint_decides_between_offers() {
    let constraint = |constraint: &str| {
        let constraint: Vec<&str> = constraint.split(' ').collect();
        let definition = json!({"id": "/a", "cmd": "run", "cpus": 0.1, "mem": 32, "instances": 2,
            "constraints": [constraint]});
        Fixture::of(app_of(definition))
    };
    let mut fixture = constraint("hostname CLUSTER b");
    assert!(
        fixture
            .store
            .launch(&mut offer_of("a"), fixture.now)
            .is_empty()
    );
    assert_eq!(
        fixture.store.launch(&mut offer_of("b"), fixture.now).len(),
        2
    );
    let mut fixture = constraint("hostname UNIQUE");
    assert_eq!(
        fixture.store.launch(&mut offer_of("a"), fixture.now).len(),
        1
    );
    assert!(
        fixture
            .store
            .launch(&mut offer_of("a"), fixture.now)
            .is_empty()
    );
    assert_eq!(
        fixture.store.launch(&mut offer_of("b"), fixture.now).len(),
        1
    );
}

#[test]
fn app_with_a_check_of_mesos_is_deployed_when_it_is_healthy() {
    let mut fixture = Fixture::of(app_of(json!({"id": "/a", "cmd": "run", "cpus": 0.1,
        "healthChecks": [{"protocol": "MESOS_HTTP"}]})));
    let tasks = fixture.run();
    assert_eq!(fixture.store.deployments().len(), 1);
    assert!(fixture.store.due_probes(fixture.now).is_empty());
    fixture.health_events();
    fixture.say_healthy(&tasks[0], true);
    assert!(fixture.store.deployments().is_empty());
    let both = [
        "health_status_changed_event",
        "instance_health_changed_event",
    ];
    assert_eq!(fixture.health_events(), both);
    fixture.say_healthy(&tasks[0], false);
    assert_eq!(fixture.health_events(), both);
    let instance = fixture.store.instances_of(&ID())[0];
    assert_eq!(instance.is_healthy(), Some(false));
    // The executor decides when to kill it.
    assert!(fixture.kills().is_empty());
}

#[test]
fn check_of_marathon_kills_a_task_that_fails_too_often() {
    let mut fixture = Fixture::of(app_of(json!({"id": "/a", "cmd": "run", "cpus": 0.1,
        "healthChecks": [{"protocol": "TCP", "intervalSeconds": 2, "timeoutSeconds": 1,
            "gracePeriodSeconds": 10, "maxConsecutiveFailures": 2}]})));
    let tasks = fixture.run();
    assert!(fixture.store.due_probes(fixture.now).is_empty());
    fixture.wait(Duration::from_secs(2));
    let probes = fixture.store.due_probes(fixture.now);
    let target = health::Target::Port("h".to_owned(), 31000);
    assert_eq!((probes.len(), &probes[0].target), (1, &target));
    assert_eq!(probes[0].timeout, Duration::from_secs(1));
    assert!(fixture.store.due_probes(fixture.now).is_empty());
    let fail = |fixture: &mut Fixture| {
        let result = Err("refused".to_owned());
        fixture
            .store
            .add_probe_result(&tasks[0], 0, result, fixture.now);
    };
    fixture.health_events();
    // Within the grace period failures have no effect.
    fail(&mut fixture);
    assert!(fixture.health_events().is_empty());
    fixture
        .store
        .add_probe_result(&tasks[0], 0, Ok(()), fixture.now);
    assert_eq!(fixture.health_events(), ["health_status_changed_event"]);
    fail(&mut fixture);
    let failed = ["failed_health_check_event", "health_status_changed_event"];
    assert_eq!(fixture.health_events(), failed);
    assert!(fixture.kills().is_empty());
    fail(&mut fixture);
    let health = &fixture.store.instances_of(&ID())[0].tasks[0].health[&0];
    assert_eq!((health.consecutive_failures, health.is_alive()), (2, false));
    assert_eq!(fixture.kills(), tasks);
}
