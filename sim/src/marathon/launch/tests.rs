//! The messages for Mesos, compared with those of Marathon's sources.
use serde_json::json;

use super::*;
use crate::marathon::id::{IdFormat, PathId};
use crate::marathon::model::{Defaults, app, pod};

const UUID: &str = "0bcd1234-c7a5-11ea-8f39-0242ac110002";

fn placed(run_spec: &RunSpec, offer: &mut Offer) -> Option<Placement> {
    let images = Images {
        by_name: [("ubuntu-upstart".to_owned(), Some("busybox".to_owned()))].into(),
        ..Images::default()
    };
    let uuid = UUID.parse().unwrap();
    let launch = Launch {
        instance: &InstanceId::with_uuid(run_spec.id(), IdFormat::Incarnated, uuid),
        incarnation: 1,
        version: Timestamp::now(),
        hostname: "10.0.0.5",
        bridge: "mesos-bridge",
        images: &images,
    };
    place(run_spec, &launch, offer)
}

fn app_task(definition: Value) -> Value {
    let app = app::parse(definition, &Defaults::default()).unwrap();
    let mut placement = placed(&RunSpec::App(Box::new(app)), &mut offer::tests::sample()).unwrap();
    placement.operation["launch"]["task_infos"][0].take()
}

fn variable<'a>(task: &'a Value, name: &str) -> Option<&'a str> {
    let all = task["command"]["environment"]["variables"].as_array()?;
    all.iter().find(|one| one["name"] == name)?["value"].as_str()
}

fn shop() -> Value {
    json!({
        "id": "/shop/web", "cmd": "run", "cpus": 0.1, "labels": {"tier": "front"},
        "networks": [{"mode": "container", "name": "contrail", "labels": {"networks": "blue"}},
                     {"mode": "container", "name": "other"}],
        "container": {"type": "MESOS", "portMappings": [
            {"containerPort": 80, "hostPort": 0, "name": "http", "labels": {"VIP_0": "/web:80"},
             "networkNames": ["contrail"]},
            {"containerPort": 443, "name": "https", "protocol": "udp,tcp"},
            {"containerPort": 0, "hostPort": 31003, "networkNames": ["other"]}]},
    })
}

#[test]
fn app_network_infos_have_an_address_and_host_port_mappings() {
    let task = app_task(shop());
    assert_eq!(
        task["container"],
        json!({"type": "MESOS", "network_infos": [
            {"name": "contrail", "labels": {"labels": [{"key": "networks", "value": "blue"}]},
             "ip_addresses": [{}],
             "port_mappings": [{"host_port": 31000, "container_port": 80, "protocol": "tcp"}]},
            {"name": "other", "labels": {"labels": []}, "ip_addresses": [{}],
             "port_mappings": [{"host_port": 31003, "container_port": 31003, "protocol": "tcp"}]},
        ]})
    );
    assert_eq!(
        task["labels"]["labels"],
        json!([{"key": "tier", "value": "front"}])
    );
}

#[test]
fn app_ids_have_the_format_of_1_8() {
    let task = app_task(shop());
    let id = format!("shop_web.instance-{UUID}._app.1");
    assert_eq!(task["task_id"]["value"], id);
    assert_eq!(task["name"], "web.shop");
    assert_eq!(variable(&task, "MESOS_TASK_ID"), Some(id.as_str()));
}

#[test]
fn discovery_has_one_entry_per_protocol_and_network() {
    let task = app_task(shop());
    let label = |key: &str, value: &str| json!({"key": key, "value": value});
    let inside = |protocol: &str, network: &str| {
        json!({"number": 443, "name": "https", "protocol": protocol, "labels": {"labels":
            [label("network-name", network), label("network-scope", "container")]}})
    };
    assert_eq!(
        task["discovery"],
        json!({"visibility": "FRAMEWORK", "name": "web.shop", "ports": {"ports": [
            {"number": 31000, "name": "http", "protocol": "tcp", "labels": {"labels":
                [label("VIP_0", "/web:80"), label("network-scope", "host")]}},
            inside("udp", "contrail"), inside("tcp", "contrail"),
            inside("udp", "other"), inside("tcp", "other"),
            {"number": 31003, "protocol": "tcp", "labels": {"labels":
                [label("network-scope", "host")]}},
        ]}})
    );
}

#[test]
fn environment_has_ids_host_and_ports() {
    let task = app_task(shop());
    for (name, value) in [
        ("MARATHON_APP_ID", "/shop/web"),
        ("MARATHON_APP_RESOURCE_CPUS", "0.1"),
        ("MARATHON_APP_RESOURCE_MEM", "128.0"),
        ("MARATHON_APP_RESOURCE_GPUS", "0"),
        ("MARATHON_APP_LABELS", "TIER"),
        ("MARATHON_APP_LABEL_TIER", "front"),
        ("HOST", "10.0.0.5"),
        ("PORT", "31000"),
        ("PORTS", "31000,31003"),
        ("PORT0", "31000"),
        ("PORT1", "443"),
        ("PORT_80", "31000"),
        ("PORT_HTTP", "31000"),
        ("PORT_443", "443"),
        ("PORT_31003", "31003"),
    ] {
        assert_eq!(variable(&task, name), Some(value), "{name}");
    }
    assert_eq!(variable(&task, "MARATHON_APP_DOCKER_IMAGE"), None);
}

#[test]
fn host_network_app_has_no_network_infos_and_scopes() {
    let task = app_task(json!({"id": "/h", "cmd": "run", "cpus": 0.1,
        "portDefinitions": [{"port": 10101, "protocol": "udp,tcp", "name": "dns"}]}));
    assert_eq!(task.get("container"), None);
    assert_eq!(
        task["discovery"]["ports"]["ports"],
        json!([{"number": 31000, "name": "dns", "protocol": "udp"},
               {"number": 31000, "name": "dns", "protocol": "tcp"}])
    );
    assert_eq!(variable(&task, "PORT_10101"), Some("31000"));
    assert_eq!(variable(&task, "PORT_DNS"), Some("31000"));
    let ports = task["resources"].as_array().unwrap().last().unwrap();
    assert_eq!(
        ports["ranges"]["range"],
        json!([{"begin": 31000, "end": 31000}])
    );
}

/// A sample app for a public agent: it is reserved for `slave_public`.
fn sample_app() -> Value {
    json!({
        "id": "/app-no-1", "acceptedResourceRoles": ["slave_public"],
        "backoffFactor": 1.15, "backoffSeconds": 1,
        "container": {"type": "MESOS", "volumes": [], "docker": {"image": "ubuntu-upstart",
            "forcePullImage": true, "parameters": []}},
        "cpus": 0.1, "disk": 0, "instances": 1, "maxLaunchDelaySeconds": 3600, "mem": 128,
        "gpus": 0, "networks": [{"name": "contrail-cni-plugin", "mode": "container"}],
        "requirePorts": false,
        "upgradeStrategy": {"maximumOverCapacity": 1, "minimumHealthCapacity": 1},
        "killSelection": "YOUNGEST_FIRST",
        "unreachableStrategy": {"inactiveAfterSeconds": 0, "expungeAfterSeconds": 0},
        "healthChecks": [], "fetch": [], "constraints": [],
    })
}

#[test]
fn public_app_uses_local_image_and_slave_public_resources() {
    let task = app_task(sample_app());
    assert_eq!(
        task["container"],
        json!({"type": "MESOS",
            "mesos": {"image": {"type": "DOCKER", "docker": {"name": "busybox"}, "cached": false}},
            "network_infos": [{"name": "contrail-cni-plugin", "labels": {"labels": []},
                               "ip_addresses": [{}]}]})
    );
    let resources = task["resources"].as_array().unwrap();
    assert_eq!(resources.len(), 2);
    assert!(resources.iter().all(|one| one["role"] == "slave_public"));
    assert_eq!(task["command"]["value"], Images::default().default_command);
    assert_eq!(
        variable(&task, "MARATHON_APP_DOCKER_IMAGE"),
        Some("ubuntu-upstart")
    );
}

#[test]
fn insufficient_offer_stays_unchanged() {
    let mut definition = sample_app();
    definition["cpus"] = json!(0.2);
    let app = RunSpec::App(Box::new(
        app::parse(definition, &Defaults::default()).unwrap(),
    ));
    let mut offer = offer::tests::sample();
    assert!(placed(&app, &mut offer).is_some());
    assert!(placed(&app, &mut offer).is_none(), "0.1 of 0.3 is left");
    assert!(offer.take_scalar("mem", 128.0, &["slave_public"]).is_some());
}

#[test]
fn docker_app_keeps_only_the_first_network_name() {
    let mut definition = shop();
    definition["container"]["type"] = json!("DOCKER");
    definition["container"]["docker"] = json!({"image": "nginx"});
    let task = app_task(definition);
    assert_eq!(task["container"]["type"], "DOCKER");
    assert_eq!(task["container"]["docker"]["network"], "USER");
    assert_eq!(
        task["container"]["docker"]["port_mappings"][0]["host_port"],
        31000
    );
    assert_eq!(
        task["container"]["network_infos"],
        json!([{"name": "contrail"}])
    );
}

#[test]
fn pod_networks_are_on_the_executor_without_addresses() {
    let definition = json!({
        "id": "/p", "labels": {"who": "us"},
        "networks": [{"mode": "container", "name": "contrail", "labels": {"networks": "blue"}}],
        "containers": [
            {"name": "c1", "resources": {"cpus": 0.1, "mem": 32},
             "exec": {"command": {"shell": "serve"}},
             "endpoints": [{"name": "http", "containerPort": 80, "hostPort": 0,
                            "protocol": ["tcp", "udp"], "labels": {"VIP_0": "/p:80"}}]},
            {"name": "c2", "resources": {"cpus": 0.1, "mem": 32},
             "exec": {"command": {"argv": ["sleep", "9"]}},
             "endpoints": [{"name": "in-side", "containerPort": 81}]}],
    });
    let pod = RunSpec::Pod(Box::new(
        pod::parse(definition, &Defaults::default()).unwrap(),
    ));
    let placement = placed(&pod, &mut offer::tests::sample()).unwrap();
    let group = &placement.operation["launch_group"];
    let executor = &group["executor"];
    assert_eq!(placement.operation["type"], "LAUNCH_GROUP");
    assert_eq!(executor["type"], "DEFAULT");
    assert_eq!(
        executor["executor_id"]["value"],
        format!("instance-p.{UUID}")
    );
    assert_eq!(executor["framework_id"]["value"], "F1");
    assert_eq!(
        executor["labels"]["labels"],
        json!([{"key": "who", "value": "us"}])
    );
    assert_eq!(
        executor["container"],
        json!({"type": "MESOS", "network_infos": [
            {"name": "contrail", "labels": {"labels": [{"key": "networks", "value": "blue"}]},
             "port_mappings": [{"host_port": 31000, "container_port": 80, "protocol": "tcp"},
                               {"host_port": 31000, "container_port": 80, "protocol": "udp"}]}]})
    );
    let tasks = &group["task_group"]["tasks"];
    assert_eq!(
        tasks[0]["task_id"]["value"],
        format!("p.instance-{UUID}.c1.1")
    );
    assert_eq!(
        tasks[1]["task_id"]["value"],
        format!("p.instance-{UUID}.c2.1")
    );
    assert_eq!(tasks[0].get("container"), None);
    assert_eq!(tasks[0]["command"]["value"], "serve");
    assert_eq!(tasks[1]["command"]["arguments"], json!(["sleep", "9"]));
    assert_eq!(tasks[1]["discovery"]["ports"]["ports"][0]["number"], 81);
    for (name, value) in [
        ("EP_HOST_HTTP", "31000"),
        ("ENDPOINT_HTTP", "80"),
        ("EP_CONTAINER_IN_SIDE", "81"),
        ("MARATHON_CONTAINER_ID", "c1"),
        ("MESOS_EXECUTOR_ID", &format!("instance-p.{UUID}")),
        ("MARATHON_APP_ID", "/p"),
    ] {
        assert_eq!(variable(&tasks[0], name), Some(value), "{name}");
    }
    assert_eq!(PathId::parse("/p").unwrap(), *pod.id());
    assert_eq!(placement.tasks[0].host_ports, [Some(31000)]);
    assert_eq!(placement.tasks[1].host_ports, [None]);
}

#[test]
fn first_check_of_mesos_is_in_the_task() {
    let check = |checks: Value, more: &Value| {
        let mut app = json!({"id": "/a", "cmd": "run", "cpus": 0.1, "healthChecks": checks});
        app.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        app_task(app)["health_check"].take()
    };
    let host = json!({"portDefinitions": [{"port": 0}]});
    let mapped = json!({"networks": [{"mode": "container", "name": "n"}],
        "container": {"type": "MESOS", "portMappings": [{"containerPort": 8080, "hostPort": 0}]}});
    let http = json!({"protocol": "MESOS_HTTP", "path": "/up", "gracePeriodSeconds": 7,
        "intervalSeconds": 2, "timeoutSeconds": 3, "maxConsecutiveFailures": 4, "delaySeconds": 1});
    let message = |port: u16| {
        json!({"type": "HTTP", "delay_seconds": 1.0, "interval_seconds": 2.0,
            "timeout_seconds": 3.0, "consecutive_failures": 4, "grace_period_seconds": 7.0,
            "http": {"scheme": "http", "port": port, "protocol": "IPv4", "path": "/up"}})
    };
    // Marathon makes this one by itself.
    let own = json!({"protocol": "HTTP"});
    assert_eq!(check(json!([own, http]), &host), message(31000));
    assert_eq!(check(json!([http]), &mapped), message(8080));
    assert_eq!(check(json!([own]), &host), Value::Null);
    let tcp = check(json!([{"protocol": "MESOS_TCP"}]), &mapped);
    assert_eq!(
        (&tcp["type"], &tcp["tcp"]["port"]),
        (&json!("TCP"), &json!(8080))
    );
    let command = json!([{"protocol": "COMMAND", "command": {"value": "true"}}]);
    assert_eq!(check(command, &host)["command"], json!({"value": "true"}));
}

#[test]
fn check_of_a_pod_is_in_the_task_of_its_container() {
    let definition = json!({"id": "/pod", "networks": [{"mode": "container", "name": "n"}],
        "containers": [
            {"name": "web", "resources": {"cpus": 0.1, "mem": 32},
             "exec": {"command": {"shell": "run"}},
             "endpoints": [{"name": "http", "containerPort": 80, "hostPort": 0}],
             "healthCheck": {"http": {"endpoint": "http", "path": "/"}, "intervalSeconds": 1}},
            {"name": "side", "resources": {"cpus": 0.1, "mem": 32},
             "exec": {"command": {"shell": "run"}}}]});
    let pod = pod::parse(definition, &Defaults::default()).unwrap();
    let placement = placed(&RunSpec::Pod(Box::new(pod)), &mut offer::tests::sample()).unwrap();
    let tasks = &placement.operation["launch_group"]["task_group"]["tasks"];
    let http = json!({"scheme": "http", "port": 80, "path": "/"});
    assert_eq!(tasks[0]["health_check"]["http"], http);
    assert_eq!(tasks[1].get("health_check"), None);
}
