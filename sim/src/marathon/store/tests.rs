//! The lifecycle of instances, without Mesos.
use std::time::Duration;

use serde_json::json;

use super::scheduling::Kill;
use super::*;
use crate::marathon::launch::offer::Offer;
use crate::marathon::model::app;
use crate::marathon::status::TaskStatus;

fn app(instances: u32, cmd: &str) -> RunSpec {
    let definition =
        json!({"id": "/a", "cmd": cmd, "cpus": 0.1, "mem": 32, "instances": instances});
    RunSpec::App(Box::new(
        app::parse(definition, &Defaults::default()).unwrap(),
    ))
}

fn offer() -> Offer {
    Offer::from_json(&json!({
        "id": {"value": "o1"}, "agent_id": {"value": "S4"}, "framework_id": {"value": "F1"},
        "hostname": "h",
        "resources": [
            {"name": "cpus", "type": "SCALAR", "scalar": {"value": 8.0}, "role": "*"},
            {"name": "mem", "type": "SCALAR", "scalar": {"value": 9999.0}, "role": "*"},
            {"name": "ports", "ranges": {"range": [{"begin": 31000, "end": 32000}]}, "role": "*"}],
    }))
    .unwrap()
}

struct World {
    store: Store,
    now: Timestamp,
}

impl World {
    fn new(instances: u32) -> Self {
        let mut world = Self {
            store: Store::new(Defaults::default(), Images::default()),
            now: Timestamp::now(),
        };
        world
            .store
            .create(app(instances, "run"), world.now)
            .unwrap();
        world
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
fn a_deployment_ends_when_everything_runs() {
    let mut world = World::new(3);
    assert_eq!(world.store.demand(world.now), 3);
    assert_eq!(world.store.deployments().len(), 1);
    let again = world.store.create(app(1, "run"), world.now);
    assert_eq!(again, Err(Refusal::Exists(ID())));
    assert_eq!(world.run().len(), 3);
    assert_eq!(world.store.demand(world.now), 0);
    assert!(world.store.deployments().is_empty());
    let instance = world.store.instances_of(&ID())[0];
    assert_eq!(instance.tasks[0].addresses[0].address, "9.0.1.3");
    assert_eq!(instance.tasks[0].addresses[0].protocol, "IPv4");
}

#[test]
fn the_youngest_go_first_and_kills_are_repeated() {
    let mut world = World::new(3);
    let tasks = world.run();
    world.store.update(app(1, "run"), false, world.now).unwrap();
    let locked = world.store.update(app(2, "run"), false, world.now);
    assert!(matches!(locked, Err(Refusal::Locked(_))));
    let mut kills = world.kills();
    kills.sort();
    let mut youngest = tasks[1..].to_vec();
    youngest.sort();
    assert_eq!(kills, youngest);
    assert!(world.kills().is_empty());
    world.wait(Duration::from_secs(11));
    assert_eq!(world.kills().len(), 2);
    for task in &youngest {
        world.say(task, "TASK_KILLED");
    }
    assert_eq!(world.store.instances().count(), 1);
    assert!(world.store.deployments().is_empty());
    assert!(world.launch().is_empty());
}

#[test]
fn what_fails_is_launched_again_ever_later_under_the_same_instance() {
    let mut world = World::new(1);
    let mut waits = [1000, 1150, 1322].into_iter().map(Duration::from_millis);
    for incarnation in 1..=3 {
        let tasks = world.run();
        assert!(
            tasks[0].ends_with(&format!("._app.{incarnation}")),
            "{tasks:?}"
        );
        world.say(&tasks[0], "TASK_FAILED");
        let wait = waits.next().unwrap();
        world.wait(wait.mul_f64(0.9));
        assert!(world.launch().is_empty());
        world.wait(wait.mul_f64(0.2));
    }
    let entry = world.store.entry(&ID()).unwrap();
    let failure = entry.last_failure.as_ref().unwrap();
    assert_eq!(failure.message, "because");
    assert_eq!(failure.condition, Condition::Failed);
    assert_eq!(entry.terminated.len(), 3);
    let tasks = world.run();
    world.wait(Duration::from_secs(61));
    world.say(&tasks[0], "TASK_FAILED");
    world.wait(Duration::from_millis(1001));
    assert_eq!(world.launch().len(), 1, "it had run long enough");
}

#[test]
fn a_new_definition_replaces_the_instances() {
    let mut world = World::new(2);
    let old = world.run();
    world
        .store
        .update(app(2, "other"), false, world.now)
        .unwrap();
    assert_eq!(world.kills().len(), 2);
    assert_eq!(world.run().len(), 2);
    assert_eq!(world.store.deployments().len(), 1);
    for task in &old {
        world.say(task, "TASK_KILLED");
    }
    assert!(world.store.deployments().is_empty());
    assert_eq!(world.store.instances_of(&ID()).len(), 2);
}

#[test]
fn what_is_deleted_is_gone_at_once_and_its_tasks_when_they_have_ended() {
    let mut world = World::new(2);
    assert!(matches!(
        world.store.delete(&ID(), false),
        Err(Refusal::Locked(_))
    ));
    let tasks = world.run();
    world.store.delete(&ID(), false).unwrap();
    assert!(world.store.entry(&ID()).is_none());
    assert_eq!(world.kills().len(), 2);
    let early = world.store.create(app(1, "run"), world.now);
    assert!(matches!(early, Err(Refusal::Locked(_))));
    for task in &tasks {
        world.say(task, "TASK_KILLED");
    }
    assert_eq!(world.store.instances().count(), 0);
    world.store.create(app(1, "run"), world.now).unwrap();
}

#[test]
fn tasks_that_nobody_knows_are_killed() {
    let mut world = World::new(0);
    let stranger = "a.instance-0bcd1234-c7a5-11ea-8f39-0242ac110002._app.1";
    let kill = world.say(stranger, "TASK_RUNNING").unwrap();
    assert_eq!(kill.task_id, stranger);
    assert_eq!(world.say(stranger, "TASK_KILLED"), None);
}
