mod declarations;

use serde_json::{Value, json};

use super::*;
use crate::mesos_master::model::Change;
use crate::task_state::TaskState;

fn read(event: &Value) -> Result<Event, serde_json::Error> {
    super::event(event.to_string().as_bytes())
}

fn change(event: &Value) -> Change {
    match read(event) {
        Ok(Event::Changed(change)) => change,
        other => panic!("{event}: {other:?}"),
    }
}

fn subscribed(state: &Value) -> State {
    let event = json!({"type": "SUBSCRIBED",
        "subscribed": {"get_state": state, "heartbeat_interval_seconds": 15.0}});
    match read(&event) {
        Ok(Event::Subscribed(state, interval)) => {
            assert_eq!(interval, Some(Duration::from_secs(15)));
            *state
        }
        other => panic!("{other:?}"),
    }
}

fn container_status(address: &str) -> Value {
    json!({"container_id": {"value": "child", "parent": {"value": "root"}},
        "executor_pid": 7,
        "network_infos": [{"name": "blue", "labels": {"labels": [{"key": "a", "value": "b"}, {"key": "bare"}]},
            "ip_addresses": [{"protocol": "IPv4", "ip_address": address}, {}]},
            {"name": "red", "ip_addresses": [{"ip_address": "2001:db8::7/64"}]}]})
}

fn task() -> Value {
    json!({"name": "web", "task_id": {"value": "t"}, "framework_id": {"value": "F"},
    "executor_id": {"value": "e"}, "agent_id": {"value": "S0"}, "state": "TASK_RUNNING",
    "labels": {"labels": [{"key": "k", "value": "v"}, {"key": "k", "value": "second"}]},
    "container": {"type": "MESOS", "network_infos": [{"name": "asked"}]},
    "statuses": [
        {"task_id": {"value": "t"}, "state": "TASK_STARTING", "timestamp": 1.5},
        {"task_id": {"value": "t"}, "state": "TASK_RUNNING", "timestamp": 2.5,
         "container_status": container_status("10.0.0.7")},
        {"state": "TASK_RUNNING"},
    ]})
}

#[test]
fn state_decodes() {
    let state = subscribed(&json!({
        "get_tasks": {"tasks": [task()], "completed_tasks": [task()], "unreachable_tasks": [
            {"task_id": {"value": "u"}, "framework_id": {"value": "F"}, "state": "TASK_UNREACHABLE"}]},
        "get_agents": {
            "agents": [{"agent_info": {"id": {"value": "S0"}, "hostname": "h0",
                "attributes": [{"name": "rack", "type": "TEXT", "text": {"value": "r1"}},
                               {"name": "n", "type": "SCALAR", "scalar": {"value": 1.0}}]},
                "active": true, "pid": "slave(1)@10.0.0.5:5051", "version": "1.11.0"}],
            "recovered_agents": [{"id": {"value": "S9"}, "hostname": "h9"}]},
        "get_frameworks": {"frameworks": [
            {"framework_info": {"id": {"value": "F"}, "name": "marathon"}, "active": true}]},
        "get_executors": {"executors": [{"executor_info": {"executor_id": {"value": "e"},
            "framework_id": {"value": "F"}, "newer": 1}, "agent_id": {"value": "S0"}}]}}));
    assert!(state.is_complete(), "{:?}", state.skipped);
    let executor = state.executors.iter().next().unwrap();
    assert_eq!((&*executor.agent, &*executor.id), ("S0", "e"));
    assert_eq!(state.tasks.len(), 2);
    let task = state
        .tasks
        .values()
        .find(|task| &*task.key.task == "t")
        .unwrap();
    assert_eq!((&*task.key.framework, task.executor()), ("F", "e"));
    assert_eq!(task.status.state, TaskState::Running);
    assert_eq!(task.status.container.as_deref(), Some("root.child"));
    assert_eq!(task.status.root_container(), Some("root"));
    assert_eq!(task.status.at, Some(2500));
    assert_eq!(&*task.labels, [("k".into(), "v".into())]);
    let addresses: Vec<_> = task
        .status
        .addresses()
        .map(|address| address.to_string())
        .collect();
    assert_eq!(addresses, ["10.0.0.7", "2001:db8::7"]);
    assert_eq!(task.status.networks[0].name.as_deref(), Some("blue"));
    assert_eq!(
        &*task.status.networks[0].labels,
        [("a".into(), "b".into()), ("bare".into(), "".into())]
    );
    let agent = state.agent_of(task).unwrap();
    assert_eq!((&*agent.host, agent.active), ("h0", true));
    assert_eq!(agent.address, Some("10.0.0.5".parse().unwrap()));
    assert_eq!(&*agent.attributes, [("rack".into(), "r1".into())]);
    assert!(!state.agents["S9"].active && state.agents["S9"].is_recovered);
    assert!(!agent.is_recovered);
    assert_eq!(&*state.frameworks["F"].name, "marathon");
}

#[test]
fn state_of_empty_cluster_decodes() {
    let empty = json!({"get_tasks": {}, "get_agents": {"agents": null},
        "get_frameworks": {"frameworks": []}, "get_executors": {}});
    assert_eq!(subscribed(&empty), State::default());
    let answer = json!({"type": "GET_STATE", "get_state": empty}).to_string();
    assert_eq!(super::state(answer.as_bytes()).unwrap(), State::default());
}

#[test]
fn state_without_lists_is_incomplete() {
    let missing = |state: &Value| {
        let state = subscribed(state);
        assert!(!state.is_complete());
        state
            .skipped
            .iter()
            .map(|skipped| skipped.kind)
            .collect::<Vec<_>>()
    };
    let all = ["task", "agent", "framework", "executor"];
    assert_eq!(missing(&json!({})), all);
    let null =
        json!({"get_tasks": null, "get_agents": {}, "get_frameworks": {}, "get_executors": {}});
    assert_eq!(missing(&null), ["task"]);
}

#[test]
fn invalid_element_is_skipped_and_reported() {
    let state = subscribed(&json!({
        "get_tasks": {"tasks": [task(), null, {"task_id": {"value": 7}}, {"task_id": {"value": "x"}}]},
        "get_agents": {"agents": [{"agent_info": null}, 3]},
        "get_frameworks": {"frameworks": ["?"]}, "get_executors": {}}));
    assert_eq!(state.tasks.len(), 1);
    let kinds: Vec<_> = state.skipped.iter().map(|skipped| skipped.kind).collect();
    assert_eq!(
        kinds,
        ["task", "task", "task", "agent", "agent", "framework"]
    );
}

#[test]
fn state_applies_changes() {
    let mut state = State::default();
    let agent = json!({"agent_info": {"id": {"value": "S0"}, "hostname": "h0"}, "active": true});
    let framework = json!({"framework_info": {"id": {"value": "F"}, "name": "m"}, "active": true});
    let new = json!({"task_id": {"value": "t"}, "framework_id": {"value": "F"}, "executor_id": {"value": "t"},
        "agent_id": {"value": "S0"}, "state": "TASK_STAGING",
        "container": {"network_infos": [{"name": "asked"}]}});
    for event in [
        json!({"type": "AGENT_ADDED", "agent_added": {"agent": agent}}),
        json!({"type": "FRAMEWORK_ADDED", "framework_added": {"framework": framework}}),
        json!({"type": "TASK_ADDED", "task_added": {"task": new}}),
    ] {
        state.apply(change(&event));
    }
    let key = state.tasks.keys().next().unwrap().clone();
    let task = &state.tasks[&key];
    assert_eq!((task.executor(), &task.executor), ("t", &None));
    assert_eq!(task.status.networks[0].name.as_deref(), Some("asked"));
    assert_eq!(state.agent_of(task).map(|agent| &*agent.host), Some("h0"));

    let update = |state: &str, container: Value| {
        json!({"type": "TASK_UPDATED", "task_updated": {"framework_id": {"value": "F"}, "state": state,
            "status": {"task_id": {"value": "t"}, "agent_id": {"value": "S0"},
                       "state": "TASK_STARTING", "container_status": container}}})
    };
    state.apply(change(&update(
        "TASK_RUNNING",
        container_status("10.0.0.9"),
    )));
    // A status without a container does not change it.
    state.apply(change(&update("TASK_KILLING", Value::Null)));
    let task = &state.tasks[&key];
    assert_eq!(task.status.state, TaskState::Killing);
    assert_eq!(task.status.container.as_deref(), Some("root.child"));
    assert_eq!(task.status.addresses().count(), 2);
    // An unknown state is not terminal.
    state.apply(change(&update("TASK_HIBERNATING", Value::Null)));
    assert_eq!(state.tasks[&key].status.state, TaskState::Unrecognised);
    state.apply(change(&update("TASK_FINISHED", Value::Null)));
    assert!(state.tasks.is_empty());

    state.apply(change(&update(
        "TASK_RUNNING",
        container_status("10.0.0.9"),
    )));
    assert_eq!(state.tasks[&key].status.addresses().count(), 2);
    state.apply(change(
        &json!({"type": "AGENT_REMOVED", "agent_removed": {"agent_id": {"value": "S0"}}}),
    ));
    assert!(state.agents.is_empty());
    state.apply(change(&json!({"type": "FRAMEWORK_REMOVED",
        "framework_removed": {"framework_info": {"id": {"value": "F"}}}})));
    assert_eq!(state, State::default());
}

#[test]
fn unknown_events_are_ignored_and_malformed_ones_fail() {
    for event in [
        json!({"type": "HEARTBEAT"}),
        json!({"type": "UNKNOWN"}),
        json!({"type": "A_NEWER_EVENT", "a_newer_event": {"x": null}}),
        json!({"type": null}),
        json!({}),
    ] {
        assert!(matches!(read(&event), Ok(Event::Ignored)), "{event}");
    }
    for event in [
        json!({"type": "SUBSCRIBED"}),
        json!({"type": "SUBSCRIBED", "subscribed": {"get_state": null}}),
        json!({"type": "TASK_ADDED", "task_added": null}),
        json!({"type": "TASK_ADDED", "task_added": {"task": {"task_id": {"value": "t"}}}}),
        json!({"type": "TASK_UPDATED", "task_updated": {"framework_id": {"value": "F"}}}),
        json!({"type": "AGENT_REMOVED", "agent_removed": {"agent_id": null}}),
        json!({"type": "FRAMEWORK_REMOVED", "framework_removed": {}}),
        json!({"type": 7}),
        json!([]),
    ] {
        assert!(read(&event).is_err(), "{event}");
    }
    for bytes in [&b""[..], b"{", b"<html>", b"{\"type\": \"HEARTBEAT\xff\"}"] {
        assert!(super::event(bytes).is_err());
    }
}
