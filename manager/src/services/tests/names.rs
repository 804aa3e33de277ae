//! The names of tasks.

use contrail_mesos_api::cluster::{TaskInstance, TaskPort};
use serde_json::json;

use super::fixture::{TaskSpec, compute, web};

/// A name, its agent, the addresses, and the ports as `name/protocol container host`.
type Instance = (&'static str, Vec<&'static str>, Vec<&'static str>);

fn port(port: &TaskPort) -> String {
    let number = |number: Option<u16>| number.map_or("-".to_owned(), |number| number.to_string());
    let (protocol, name) = (port.protocol.as_str(), &port.name);
    format!(
        "{name}/{protocol} {} {}",
        number(port.container),
        number(port.host)
    )
}

fn check(tasks: &[TaskSpec], name: &str, expected: &[Instance]) {
    let desired = compute(tasks);
    let instances = desired.task_names.get(name).map(|name| &*name.instances);
    let found: Vec<_> = instances
        .unwrap_or_default()
        .iter()
        .map(
            |TaskInstance {
                 agent,
                 addresses,
                 ports,
             }| {
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                let ports: Vec<String> = ports.iter().map(port).collect();
                (agent.to_string(), addresses, ports)
            },
        )
        .collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(agent, addresses, ports)| {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            ((*agent).to_owned(), owned(addresses), owned(ports))
        })
        .collect();
    assert_eq!(found, expected, "{name}: {:?}", desired.task_names);
}

#[test]
fn task_has_one_label_for_its_name_and_one_for_its_framework() {
    let host = [("192.0.2.1", vec!["192.0.2.1"], vec![])];
    check(&[web().name("app.group")], "app-group.marathon", &host);
    check(
        &[web().name("my_App").of("G")],
        "my-app.devmarathon-2",
        &host,
    );
    for nameless in [web().name("%%"), web().of("H")] {
        assert!(compute(&[nameless]).task_names.is_empty());
    }
}

#[test]
fn task_shows_its_addresses_and_ports() {
    check(
        &[web().port(31000, "udp,tcp", &[])],
        "web.marathon",
        &[(
            "192.0.2.1",
            vec!["192.0.2.1"],
            vec!["http/tcp - 31000", "http/udp - 31000"],
        )],
    );
    let mapped = web()
        .on("bridge", &["172.16.0.7", "fd00::7"])
        .mapped(31000, 8080, "tcp");
    let both = vec!["172.16.0.7", "fd00::7"];
    check(
        &[mapped.clone().host_vip(31000, "/web:80")],
        "web.marathon",
        &[("192.0.2.1", both.clone(), vec!["http/tcp 8080 31000"])],
    );
    // A mapping that nobody declares still is one.
    check(
        &[mapped],
        "web.marathon",
        &[("192.0.2.1", both, vec!["default/tcp 8080 31000"])],
    );
    check(
        &[web()
            .on("overlay", &["10.0.0.7"])
            .container_vip(8080, "/web:80", "overlay")],
        "web.marathon",
        &[("192.0.2.1", vec!["10.0.0.7"], vec!["http/tcp 8080 -"])],
    );
    let nameless = json!({"number": 31000, "protocol": "tcp"});
    check(
        &[TaskSpec {
            ports: vec![nameless],
            ..web()
        }],
        "web.marathon",
        &[("192.0.2.1", vec!["192.0.2.1"], vec!["default/tcp - 31000"])],
    );
}

#[test]
fn running_tasks_have_names_and_unreachable_ones_keep_them() {
    let host = [("192.0.2.1", vec!["192.0.2.1"], vec![])];
    for state in [
        "TASK_RUNNING",
        "TASK_UNREACHABLE",
        "TASK_LOST",
        "TASK_UNKNOWN",
    ] {
        check(&[web().state(state)], "web.marathon", &host);
    }
    for state in [
        "TASK_STAGING",
        "TASK_STARTING",
        "TASK_KILLING",
        "TASK_FAILED",
    ] {
        check(&[web().state(state)], "web.marathon", &[]);
    }
    // Health does not matter.
    check(&[web().checked(Some(false))], "web.marathon", &host);
    // Unlike a service, a name loses nothing to others.
    let other = web().id("web.2").on("overlay", &["10.0.0.7"]);
    check(
        &[web().state("TASK_UNREACHABLE"), other],
        "web.marathon",
        &[
            ("192.0.2.1", vec!["10.0.0.7"], vec![]),
            ("192.0.2.1", vec!["192.0.2.1"], vec![]),
        ],
    );
}
