//! What tasks declare: names, ports, virtual IPs, health.

use contrail_mesos_api::cluster::ServiceProtocol::{Tcp, Udp};

use super::*;
use crate::mesos_master::ContainerKind;
use crate::mesos_master::model::{Network, Status, Task};
use crate::mesos_master::ports::{Discovery, DiscoveryPort, Protocols, Scope};

fn added(task: &Value) -> Task {
    let event = json!({"type": "TASK_ADDED", "task_added": {"task": task}});
    match change(&event) {
        Change::TaskAdded(task) => *task,
        other => panic!("{other:?}"),
    }
}

fn updated(state: &str, healthy: Option<bool>, networks: &Value) -> Value {
    json!({"type": "TASK_UPDATED", "task_updated": {"framework_id": {"value": "F"}, "state": state,
        "status": {"task_id": {"value": "t"}, "agent_id": {"value": "S0"}, "state": state,
            "healthy": healthy, "timestamp": 7.5,
            "container_status": {"container_id": {"value": "c"}, "network_infos": networks}}}})
}

/// As Marathon writes an app on a container network with one mapped port and one that is not.
fn app() -> Value {
    json!({"task_id": {"value": "t"}, "framework_id": {"value": "F"}, "agent_id": {"value": "S0"},
        "name": "app.group", "state": "TASK_STAGING", "health_check": {"type": "TCP"},
        "resources": [{"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.1}},
            {"name": "ports", "type": "RANGES", "ranges": {"range": [{"begin": 31000, "end": 31000}]}}],
        "discovery": {"visibility": "FRAMEWORK", "name": "app.group", "ports": {"ports": [
            {"number": 31000, "name": "http", "protocol": "tcp", "labels": {"labels": [
                {"key": "VIP_0", "value": "/web:80"}, {"key": "network-scope", "value": "host"}]}},
            {"number": 53, "name": "dns", "protocol": "udp", "labels": {"labels": [
                {"key": "network-scope", "value": "container"}, {"key": "network-name", "value": "blue"},
                {"key": "vip-affinity", "value": "60"}, {"key": "VIP_0", "value": "10.0.0.1:53"},
                {"key": "VIP_1", "value": "/dns:53"}]}}]}},
        "container": {"type": "MESOS", "network_infos": [{"name": "blue",
            "labels": {"labels": [{"key": "networks", "value": "net"}]},
            "port_mappings": [{"host_port": 31000, "container_port": 8080, "protocol": "tcp"},
                {"host_port": 0, "container_port": 1}, {"host_port": 70000, "container_port": 2}]}]}})
}

fn expected() -> Discovery {
    let vips = |vips: &[&str]| vips.iter().map(|vip| (*vip).into()).collect();
    Discovery {
        ports: [
            DiscoveryPort {
                number: 31000,
                protocols: Protocols::parse(Some("tcp")),
                scope: Scope::Host,
                affinity: None,
                name: Some("http".into()),
                network: None,
                vips: vips(&["/web:80"]),
            },
            DiscoveryPort {
                number: 53,
                protocols: Protocols::parse(Some("udp")),
                scope: Scope::Container,
                affinity: std::num::NonZeroU32::new(60),
                name: Some("dns".into()),
                network: Some("blue".into()),
                vips: vips(&["10.0.0.1:53", "/dns:53"]),
            },
        ]
        .into(),
        problems: Box::default(),
    }
}

#[test]
fn task_keeps_what_only_its_launch_declares() {
    let mut state = State::default();
    let task = added(&app());
    let key = task.key.clone();
    assert_eq!(task.discovery.as_deref(), Some(&expected()));
    assert!(task.is_defined && task.has_health_check);
    assert_eq!(
        (task.kind, task.first_status_at),
        (ContainerKind::Mesos, None)
    );
    state.apply(Change::TaskAdded(Box::new(task)));

    // Not every status has networks, and an agent may leave out what was requested.
    state.apply(change(&updated("TASK_STARTING", None, &Value::Null)));
    let actual = json!([{"name": "blue", "ip_addresses": [{"ip_address": "10.0.0.7"}]}]);
    state.apply(change(&updated("TASK_RUNNING", Some(true), &actual)));
    state.apply(change(&updated("TASK_KILLING", None, &Value::Null)));
    let task = &state.tasks[&key];
    assert_eq!(task.name.as_deref(), Some("app.group"));
    assert_eq!(task.discovery.as_deref(), Some(&expected()));
    assert_eq!(task.first_status_at, Some(7500));
    let [network] = &*task.status.networks else {
        panic!("{:?}", task.status.networks);
    };
    assert!(network.is_virtual);
    assert_eq!(
        &*network.addresses,
        ["10.0.0.7".parse::<std::net::IpAddr>().unwrap()]
    );
    let [mapping] = &*network.mappings else {
        panic!("{:?}", network.mappings);
    };
    assert_eq!((mapping.host, mapping.container), (31000, 8080));
    assert!(mapping.protocols.contains(Tcp) && !mapping.protocols.contains(Udp));
}

#[test]
fn health_is_that_of_the_latest_status_that_can_tell() {
    let mut status = Status::default();
    for (state, healthy, expected) in [
        (TaskState::Running, None, None),
        (TaskState::Running, Some(true), Some(true)),
        (TaskState::Running, Some(false), Some(false)),
        (TaskState::Unreachable, None, Some(false)),
        (TaskState::Running, None, None),
    ] {
        status.update(Status {
            state,
            healthy,
            ..Status::default()
        });
        assert_eq!(status.healthy, expected, "{state}");
    }
}

#[test]
fn task_of_which_only_an_update_is_seen_is_undefined() {
    let mut state = State::default();
    state.apply(change(&updated("TASK_RUNNING", None, &Value::Null)));
    let task = state.tasks.values().next().unwrap();
    assert!(!task.is_defined && task.discovery.is_none() && task.name.is_none());
    state.apply(Change::TaskAdded(Box::new(added(&app()))));
    assert!(state.tasks.values().all(|task| task.is_defined));
}

#[test]
fn equal_declarations_of_a_snapshot_are_shared() {
    let tasks: Vec<Value> = ["a", "b", "c"]
        .map(|id| {
            let mut task = app();
            task["task_id"]["value"] = json!(id);
            if id == "c" {
                task["discovery"]["ports"]["ports"][0]["number"] = json!(31001);
            }
            task
        })
        .into();
    let state = subscribed(&json!({"get_tasks": {"tasks": tasks}, "get_agents": {},
        "get_frameworks": {}, "get_executors": {}}));
    let mut discoveries: Vec<_> = state
        .tasks
        .values()
        .map(|task| {
            (
                task.key.task.clone(),
                std::sync::Arc::as_ptr(task.discovery.as_ref().unwrap()),
            )
        })
        .collect();
    discoveries.sort();
    assert_eq!(discoveries[0].1, discoveries[1].1);
    assert_ne!(discoveries[0].1, discoveries[2].1);
}

#[test]
fn docker_tells_its_network_and_mappings() {
    let task = |docker: &Value, networks: &Value| {
        let mut task = app();
        task["container"] = json!({"type": "DOCKER", "docker": docker, "network_infos": networks});
        added(&task)
    };
    let mapping = json!([{"host_port": 31000, "container_port": 80, "protocol": "tcp"}]);
    for (docker, networks, kind, mappings) in [
        (
            json!({"image": "nginx"}),
            json!([]),
            ContainerKind::DockerOnHost,
            0,
        ),
        (
            json!({"network": "HOST"}),
            Value::Null,
            ContainerKind::DockerOnHost,
            0,
        ),
        (
            json!({"network": "BRIDGE", "port_mappings": mapping}),
            json!([]),
            ContainerKind::Docker,
            1,
        ),
        (
            json!({"network": "USER", "port_mappings": mapping}),
            json!([{"name": "d"}]),
            ContainerKind::Docker,
            1,
        ),
        (
            json!({"network": "USER"}),
            json!([{"name": "d"}]),
            ContainerKind::Docker,
            0,
        ),
    ] {
        let task = task(&docker, &networks);
        let count: usize = task
            .status
            .networks
            .iter()
            .map(|network| network.mappings.len())
            .sum();
        assert_eq!((task.kind, count), (kind, mappings), "{docker}");
    }
}

/// The bytes of the heap that a box or a string has, with what the allocator adds.
fn heap(bytes: usize) -> usize {
    if bytes == 0 {
        0
    } else {
        bytes.next_multiple_of(16)
    }
}

#[test]
fn task_of_an_app_needs_few_bytes() {
    let mut state = subscribed(&json!({"get_tasks": {"tasks": [app()]}, "get_agents": {},
        "get_frameworks": {}, "get_executors": {}}));
    let key = state.tasks.keys().next().unwrap().clone();
    let actual = json!([{"name": "blue", "ip_addresses": [{"ip_address": "10.0.0.7"}]}]);
    state.apply(change(&updated("TASK_RUNNING", Some(true), &actual)));
    let task = &state.tasks[&key];
    let networks: usize = task
        .status
        .networks
        .iter()
        .map(|network| {
            heap(size_of_val(&*network.addresses)) + heap(size_of_val(&*network.mappings))
        })
        .sum();
    let discovery = task.discovery.as_ref().unwrap();
    let ports: usize = discovery
        .ports
        .iter()
        .map(|port| heap(size_of_val(&*port.vips)))
        .sum();
    let discovery =
        heap(16 + size_of::<Discovery>()) + heap(size_of_val(&*discovery.ports)) + ports;
    let of_networks = heap(size_of_val(&*task.status.networks)) + networks;
    println!(
        "a task: {} bytes, its networks {of_networks}, what it declares {discovery}; a network {}, a port {}",
        size_of::<Task>(),
        size_of::<Network>(),
        size_of::<DiscoveryPort>()
    );
    // One hundred thousand of them are less than 60 MB, and what an app declares is shared if no port of the
    // host is in it.
    assert!(size_of::<Task>() + of_networks + discovery <= 600);
}
