//! Pods, nested containers with networks of their own, and DEBUG containers.

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::agent::{Agent, BLUE, RED};
use mesos_module_tests::testbed::framework::{GroupSpec, TaskSpec, TaskState};
use serde_json::json;

#[test]
fn pod_tasks_share_the_network_of_the_executor() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let group = GroupSpec::new("pod")
        .network("blue")
        .task(TaskSpec::new(
            "one",
            "ip -o -4 address show eth0; sleep 1000",
        ))
        .task(TaskSpec::new("two", "sleep 1000"));
    agent.launch_group(group)?;
    let (one, two) = (agent.running("one")?, agent.running("two")?);
    ensure!(!one.addresses().is_empty(), "{one}");
    assert_eq!(one.addresses(), two.addresses());
    ensure!(
        one.addresses()[0].to_string().starts_with("10.32.0."),
        "{:?}",
        one.addresses()
    );
    assert_eq!(one.network_infos[0]["name"], "blue");
    // The hook labels a pod's tasks with its root's interface.
    ensure!(
        one.labels.contains_key("contrail-mesos/eth0/mac"),
        "{:?}",
        one.labels
    );
    // They are in one namespace: what one listens on, the other reaches by loopback.
    let namespaces = agent.host().sh("ls /run/netns")?;
    assert_eq!(namespaces.lines().count(), 1, "{namespaces}");
    agent.kill("one")?;
    agent.ended("two")?;
    agent.end()
}

#[test]
fn nested_addresses_survive_an_agent_crash() -> Result<()> {
    let mut agent = Agent::start(BLUE)?;
    let group = GroupSpec::new("pod")
        .network("blue")
        .task(TaskSpec::new("one", "sleep 1000"));
    agent.launch_group(group)?;
    let before = agent.running("one")?.addresses();
    agent.crash()?;
    let containers = agent.nested_containers()?;
    let nested = containers.first().context("the nested container is gone")?;
    let shown = &nested["container_status"]["network_infos"][0]["ip_addresses"][0]["ip_address"];
    assert_eq!(shown, &json!(before[0].to_string()));
    agent.kill("one")?;
    agent.end()
}

#[test]
fn nested_container_shares_the_hostname_of_its_root() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let container =
        json!({ "type": "MESOS", "hostname": "pod-1", "network_infos": [{ "name": "blue" }] });
    let group = GroupSpec::new("pod")
        .set("container", container)
        .task(TaskSpec::new(
            "one",
            "test $(hostname) = pod-1 && test $(cat /etc/hostname) = pod-1",
        ));
    agent.launch_group(group)?;
    let end = agent.ended("one")?;
    ensure!(end.state == TaskState::TaskFinished, "{end}");
    agent.end()
}

#[test]
fn nested_container_can_have_its_own_networks() -> Result<()> {
    let agent = Agent::start(&format!("{BLUE}{RED}"))?;
    let own = TaskSpec::new("own", "sleep 1000").network("red");
    let group = GroupSpec::new("pod")
        .network("blue")
        .task(own)
        .task(TaskSpec::new("joined", "sleep 1000"));
    agent.launch_group(group)?;
    let own = agent.running("own")?.addresses();
    let joined = agent.running("joined")?.addresses();
    ensure!(own[0].to_string().starts_with("10.33.0."), "{own:?}");
    ensure!(joined[0].to_string().starts_with("10.32.0."), "{joined:?}");
    let namespaces = agent.host().sh("ls /run/netns")?;
    assert_eq!(namespaces.lines().count(), 2, "{namespaces}");
    agent.kill("own")?;
    agent.ended("joined")?;
    agent.end()
}

#[test]
fn last_update_of_a_nested_task_shows_its_own_network() -> Result<()> {
    let agent = Agent::start(&format!("{BLUE}{RED}"))?;
    // How it ends, and whether it is killed.
    for (command, state) in [
        ("sleep 1", TaskState::TaskFinished),
        ("sleep 1; exit 3", TaskState::TaskFailed),
        ("sleep 1000", TaskState::TaskKilled),
    ] {
        let id = format!("{state:?}");
        let group = GroupSpec::new(&format!("pod-{id}"))
            .network("blue")
            .task(TaskSpec::new(&id, command).network("red"));
        agent.launch_group(group)?;
        let running = agent.running(&id)?;
        ensure!(
            running.addresses()[0].to_string().starts_with("10.33.0."),
            "{running}"
        );
        let end = if state == TaskState::TaskKilled {
            agent.kill(&id)?
        } else {
            agent.ended(&id)?
        };
        ensure!(end.state == state, "{end}");
        assert_eq!(end.addresses(), running.addresses(), "{id}");
        assert_eq!(end.labels, running.labels, "{id}");
        assert_eq!(end.labels["contrail-mesos/eth0/network"], "red");
    }
    agent.end()
}

#[test]
fn pod_without_network_is_on_the_host_network() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let own = agent.host().sh("readlink /proc/self/ns/net")?;
    let check = format!("test \"$(readlink /proc/self/ns/net)\" = '{}'", own.trim());
    agent.launch_group(GroupSpec::new("pod").task(TaskSpec::new("one", &check)))?;
    let end = agent.ended("one")?;
    ensure!(end.state == TaskState::TaskFinished, "{end}");
    agent.end()
}

#[test]
fn pod_survives_agent_crashes() -> Result<()> {
    let mut agent = Agent::start(BLUE)?;
    let group = GroupSpec::new("pod")
        .network("blue")
        .task(TaskSpec::new("one", "sleep 1000"));
    agent.launch_group(group)?;
    let before = agent.running("one")?.addresses();
    agent.crash()?;
    // It has re-registered when a second crash finds it again.
    std::thread::sleep(std::time::Duration::from_secs(4));
    agent.crash()?;
    agent.host().sh(&format!("ping -c 1 -W 5 {}", before[0]))?;
    let end = agent.kill("one")?;
    ensure!(end.state == TaskState::TaskKilled, "{end}");
    agent.end()
}

/// A network without any other host.
const NONE: &str = "[[network]]\nname = 'none'\nprovider = 'none'\n";

#[test]
fn network_of_provider_none_has_a_loopback_interface_only() -> Result<()> {
    let mut agent = Agent::start(&format!("{NONE}{BLUE}"))?;
    // An executor must reach the agent, so it stays on another network.
    let check = "test \"$(ls /proc/sys/net/ipv4/conf | sort | tr '\\n' ' ')\" = 'all default lo ' \
                 && ping -c 1 -W 5 127.0.0.1 && ! ping -c 1 -W 1 192.0.2.1 \
                 && grep -q localhost /etc/hosts && sleep 1000";
    let group = GroupSpec::new("pod").task(TaskSpec::new("alone", check).network("none"));
    agent.launch_group(group)?;
    let running = agent.running("alone")?;
    assert_eq!(running.network_infos.len(), 1, "{running}");
    assert_eq!(running.network_infos[0]["name"], "none");
    ensure!(running.addresses().is_empty(), "{running}");
    assert_eq!(running.labels["contrail-mesos/lo/network"], "none");
    ensure!(!running.labels.contains_key("contrail-mesos/lo/mac"));
    agent.crash()?;
    let end = agent.kill("alone")?;
    ensure!(end.state == TaskState::TaskKilled, "{end}");
    for (networks, expected) in [
        (
            json!([{ "name": "none" }, { "name": "blue" }]),
            "on no other network",
        ),
        (
            json!([{ "name": "none", "port_mappings": [{ "host_port": 31080, "container_port": 80 }] }]),
            "a port was to be mapped",
        ),
        (
            json!([{ "name": "none", "ip_addresses": [{ "ip_address": "10.0.0.1" }] }]),
            "has no addresses",
        ),
    ] {
        let container = json!({ "type": "MESOS", "network_infos": networks });
        let task = TaskSpec::new(expected, "true").ports(&[31080]);
        let message = agent.refused(task.set("container", container))?;
        ensure!(
            message.contains(expected),
            "{expected:?} is not in {message}"
        );
    }
    agent.end()
}

/// The executor reports that a task starts before it has a container of its own.
#[test]
fn every_update_of_pod_tasks_has_the_addresses() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let names = ["one", "two", "three"];
    let group = GroupSpec::new("pod").network("blue");
    let group = names.iter().fold(group, |group, name| {
        group.task(TaskSpec::new(name, "sleep 1000"))
    });
    agent.launch_group(group)?;
    for name in names {
        let expected = agent.running(name)?.addresses();
        ensure!(!expected.is_empty(), "{name} has no address");
        for update in agent.framework.history(name) {
            assert_eq!(update.addresses(), expected, "{update}");
        }
    }
    agent.kill("one")?;
    agent.ended("two")?;
    agent.ended("three")?;
    agent.end()
}
