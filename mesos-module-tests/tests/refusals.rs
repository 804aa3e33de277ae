//! Invalid requests: a clear error in the task's status, no leftovers, agent and neighbours unharmed.

use anyhow::{Result, ensure};
use mesos_module_tests::testbed::agent::{Agent, BLUE, RED, address};
use mesos_module_tests::testbed::framework::{TaskSpec, TaskState};
use serde_json::{Value, json};

/// Checks that every request is refused with its message, in one line, and that the agent and a
/// neighbour survive.
fn refuses(config: &str, cases: Vec<(Value, &str)>) -> Result<()> {
    let agent = Agent::start(config)?;
    let neighbour = agent.run(TaskSpec::new("neighbour", "sleep 1000").network("blue"))?;
    let pid = agent.cluster.pid();
    for (index, (container, expected)) in cases.into_iter().enumerate() {
        let task = TaskSpec::new(&format!("bad{index}"), "true").set("container", container);
        let message = agent.refused(task)?;
        ensure!(
            message.contains(expected),
            "case {index}: {expected:?} is not in {message:?}"
        );
        ensure!(
            !message.contains('\n'),
            "case {index}: more than a line: {message:?}"
        );
    }
    assert_eq!(agent.cluster.pid(), pid, "the agent was restarted");
    agent
        .host()
        .sh(&format!("ping -c 1 -W 5 {}", address(&neighbour)?))?;
    agent.kill("neighbour")?;
    agent.end()
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "reads like the JSON that it makes"
)]
fn on(networks: Value) -> Value {
    json!({ "type": "MESOS", "network_infos": networks })
}

fn on_blue(key: &str, value: Value) -> Value {
    let mut info = json!({ "name": "blue" });
    info[key] = value;
    on(json!([info]))
}

#[test]
fn invalid_names_are_refused() -> Result<()> {
    let name = |name: &str| on(json!([{ "name": name }]));
    refuses(
        BLUE,
        vec![
            (
                name("pink"),
                "unknown network \"pink\"; this agent has: blue",
            ),
            (name(""), "unknown network \"\""),
            (
                name("../../etc/passwd"),
                "unknown network \"../../etc/passwd\"",
            ),
            (name("a'b\"c"), "unknown network \"a'b\\\"c\""),
            (name("two\nlines"), "unknown network \"two\\nlines\""),
            (
                name("$(reboot); `reboot` && reboot"),
                "unknown network \"$(reboot)",
            ),
            (name(&"x".repeat(300)), "(300 bytes)"),
            (
                on(json!([{ "name": "blue" }, { "name": "blue" }])),
                "\"blue\" is named twice",
            ),
            (
                json!({ "type": "MESOS", "hostname": "a b", "network_infos": [{ "name": "blue" }] }),
                "\"a b\" is not a hostname",
            ),
        ],
    )
}

#[test]
fn invalid_addresses_are_refused() -> Result<()> {
    let ask = |address: &str| on_blue("ip_addresses", json!([{ "ip_address": address }]));
    refuses(
        BLUE,
        vec![
            (ask("10.33.0.5"), "10.33.0.5"),
            (ask("10.32.0.256"), "\"10.32.0.256\" is not an IP address"),
            (ask("10.32.0.0"), "10.32.0.0"),
            (ask("10.32.0.255"), "10.32.0.255"),
            (ask("10.32.0.1"), "10.32.0.1"),
            (ask("10.32.0.2"), "taken"),
            (ask("fd00::5"), "fd00::5"),
            (ask("blue; reboot"), "is not an IP address"),
            (
                on_blue(
                    "ip_addresses",
                    json!([{ "protocol": "IPv6", "ip_address": "10.32.0.9" }]),
                ),
                "its protocol says IPv6",
            ),
            (
                on_blue("ip_addresses", json!([{ "protocol": "IPv6" }])),
                "IPv6",
            ),
            (
                on_blue(
                    "ip_addresses",
                    json!([{ "ip_address": "10.32.0.9" }, { "ip_address": "10.32.0.9" }]),
                ),
                "requested twice",
            ),
        ],
    )
}

#[test]
fn invalid_port_mappings_are_refused() -> Result<()> {
    let map = |host: u32, container: u32, protocol: &str| {
        let mapping =
            json!({ "host_port": host, "container_port": container, "protocol": protocol });
        on_blue("port_mappings", json!([mapping]))
    };
    refuses(
        BLUE,
        vec![
            (map(0, 80, "tcp"), "host port 0 is not between 1 and 65535"),
            (map(70000, 80, "tcp"), "host port 70000 is not between"),
            (map(31000, 0, "tcp"), "container port 0 is not between"),
            (
                map(31000, 80, "icmp"),
                "\"icmp\" is not a transport protocol",
            ),
            (map(31000, 80, "tcp; reboot"), "is not a transport protocol"),
            (
                on_blue(
                    "port_mappings",
                    json!([{ "host_port": 31000, "container_port": 80 }, { "host_port": 31000, "container_port": 81 }]),
                ),
                "mapped twice",
            ),
        ],
    )
}

#[test]
fn several_errors_are_reported_at_once() -> Result<()> {
    let container = on(json!([
        { "name": "pink" },
        { "name": "blue", "ip_addresses": [{ "ip_address": "x" }], "port_mappings": [{ "host_port": 0, "container_port": 1 }] },
    ]));
    let agent = Agent::start(BLUE)?;
    let message = agent.refused(TaskSpec::new("bad", "true").set("container", container))?;
    for expected in ["pink", "\"x\" is not an IP address", "host port 0"] {
        ensure!(
            message.contains(expected),
            "{expected:?} is not in {message:?}"
        );
    }
    agent.end()
}

#[test]
fn exhausted_subnet_refuses_until_an_address_is_released() -> Result<()> {
    let small = BLUE.replace("10.32.0.0/24", "10.32.0.0/29");
    let agent = Agent::start(&small)?;
    // .1 is the gateway's, .2 to .6 are containers'.
    for index in 0..5 {
        agent.run(TaskSpec::new(&format!("t{index}"), "sleep 1000").network("blue"))?;
    }
    let message = agent.refused(TaskSpec::new("late", "true").network("blue"))?;
    ensure!(
        message.contains("no IPv4 address left in 10.32.0."),
        "{message}"
    );
    agent.kill("t0")?;
    let mut again = None;
    for attempt in 0..100 {
        // The address is free when the interface is gone, a moment after the task has ended.
        let id = format!("again{attempt}");
        agent.launch(TaskSpec::new(&id, "sleep 1000").network("blue"))?;
        let seen = agent.settled(&id)?;
        if !seen.state.is_terminal() {
            again = Some(id);
            break;
        }
    }
    let again = again.expect("the freed address was never given again");
    agent.kill(&again)?;
    for index in 1..5 {
        agent.kill(&format!("t{index}"))?;
    }
    agent.end()
}

#[test]
fn refused_network_releases_the_other_one() -> Result<()> {
    let agent = Agent::start(&format!("{BLUE}{RED}"))?;
    let container = on(json!([
        { "name": "blue" },
        { "name": "red", "ip_addresses": [{ "ip_address": "10.99.0.1" }] },
    ]));
    let message = agent.refused(TaskSpec::new("bad", "true").set("container", container))?;
    ensure!(message.contains("10.99.0.1"), "{message}");
    agent.expect_no_container()?;
    let running = agent.run(TaskSpec::new("good", "sleep 1000").network("blue"))?;
    address(&running)?;
    agent.kill("good")?;
    agent.end()
}

/// A Contrail network whose managers are never asked.
const CONTRAIL: &str = "[contrail]\nmanagers = ['192.0.2.250']\n[[network]]\nname = 'contrail'\nprovider = 'contrail'\n";

fn label(network: &str, key: &str, value: &str) -> Value {
    let labels = json!({ "labels": [{ "key": key, "value": value }] });
    on(json!([{ "name": network, "labels": labels }]))
}

#[test]
fn more_than_a_container_can_have_is_refused() -> Result<()> {
    let networks: Vec<Value> = (0..17)
        .map(|index| json!({ "name": format!("n{index}") }))
        .collect();
    let addresses: Vec<Value> = (0..65)
        .map(|index| json!({ "ip_address": format!("10.32.0.{}", index + 100) }))
        .collect();
    let ports: Vec<Value> = (0..257)
        .map(|index| json!({ "host_port": 31000 + index, "container_port": 80 }))
        .collect();
    refuses(
        &format!("{BLUE}{CONTRAIL}"),
        vec![
            (
                on(json!(networks)),
                "requests 17 networks; a container can have at most 16",
            ),
            (
                on_blue("ip_addresses", json!(addresses)),
                "requests 65 addresses; a container can request at most 64",
            ),
            (
                on_blue("port_mappings", json!(ports)),
                "maps 257 ports; a container can map at most 256",
            ),
            (
                label("contrail", "networks", &",".repeat(16)),
                "the label networks lists 17 networks",
            ),
            (
                label("contrail", "networks", &",".repeat(65_000)),
                "lists 65001 networks",
            ),
            (
                label("blue", "k", &"v".repeat(256 << 10)),
                "bytes of labels and groups",
            ),
        ],
    )
}

#[test]
fn large_label_costs_neither_memory_nor_other_launches() -> Result<()> {
    let agent = Agent::start(&format!("{BLUE}{CONTRAIL}"))?;
    let peak = || -> Result<u64> {
        let pid = agent.cluster.pid().unwrap_or_default();
        let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Ok(kibibytes.unwrap_or_default())
    };
    agent.passes(TaskSpec::new("first", "true").network("blue"))?;
    let before = peak()?;
    for index in 0..4 {
        let large = label("contrail", "networks", &",n".repeat(128 << 10));
        agent.launch(TaskSpec::new(&format!("large{index}"), "true").set("container", large))?;
        agent.launch(TaskSpec::new(&format!("beside{index}"), "true").network("blue"))?;
    }
    for index in 0..4 {
        let end = agent.ended(&format!("beside{index}"))?;
        ensure!(end.state == TaskState::TaskFinished, "{end}");
        let end = agent.ended(&format!("large{index}"))?;
        ensure!(end.message.contains("bytes of labels"), "{end}");
    }
    let grown = peak()?.saturating_sub(before);
    ensure!(
        grown < 256 << 10,
        "the agent's memory has grown by {grown} KiB"
    );
    agent.end()
}
