//! Failures of the system below the module: a clear error or a repair, and no leftovers.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesos_module_tests::testbed::agent::{Agent, BLUE, address, container, fetch, serve};
use mesos_module_tests::testbed::framework::{TaskSpec, TaskState};
use serde_json::json;

fn host_interface(agent: &Agent) -> Result<String> {
    let name = agent
        .host()
        .sh("ip -o link show type veth | awk -F'[ :@]+' '{print $2}' | grep ^cm")?;
    Ok(name.trim().to_owned())
}

#[test]
fn provider_failure_in_isolate_fails_the_task() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    // Another kind of link has the bridge's name.
    agent
        .host()
        .sh("ip link add blue0 type veth peer name blue1")?;
    let message = agent.refused(TaskSpec::new("bad", "true").network("blue"))?;
    ensure!(
        message.contains("blue0") && message.contains("bridge"),
        "{message}"
    );
    agent.host().sh("ip link delete blue0")?;
    agent.expect_no_container()?;
    agent.passes(TaskSpec::new("good", "true").network("blue"))?;
    agent.end()
}

#[test]
fn task_killed_during_prepare_leaves_nothing() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    for round in 0..10_u64 {
        let id = format!("t{round}");
        agent.launch(TaskSpec::new(&id, "sleep 1000").network("blue"))?;
        std::thread::sleep(Duration::from_millis(round * 5));
        let end = agent.kill(&id)?;
        ensure!(end.state.is_terminal(), "{end}");
    }
    agent.expect_no_container()?;
    agent.end()
}

#[test]
fn lost_interface_ends_the_container_with_a_reason() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    agent.run(TaskSpec::new("victim", "sleep 1000").network("blue"))?;
    let interface = host_interface(&agent)?;
    let neighbour = agent.run(TaskSpec::new("neighbour", "sleep 1000").network("blue"))?;
    agent.host().sh(&format!("ip link delete {interface}"))?;
    let end = agent.ended("victim")?;
    ensure!(end.state == TaskState::TaskFailed, "{end}");
    ensure!(
        end.reason.as_deref() == Some("REASON_CONTAINER_LIMITATION"),
        "{end}"
    );
    ensure!(end.message.contains(&interface), "{end}");
    agent
        .host()
        .sh(&format!("ping -c 1 -W 5 {}", address(&neighbour)?))?;
    agent.kill("neighbour")?;
    agent.end()
}

#[test]
fn interface_lost_while_the_agent_is_down_ends_the_container() -> Result<()> {
    let mut agent = Agent::start(BLUE)?;
    agent.run(TaskSpec::new("victim", "sleep 1000").network("blue"))?;
    let interface = host_interface(&agent)?;
    agent.cluster.kill_9()?;
    agent.host().sh(&format!("ip link delete {interface}"))?;
    agent.cluster.restart()?;
    let end = agent.ended("victim")?;
    ensure!(end.state == TaskState::TaskFailed, "{end}");
    agent.end()
}

#[test]
fn removed_rules_and_bridges_are_restored() -> Result<()> {
    // While there is no bridge the executors' packets are lost, and TCP takes its time to resend.
    let mut agent = Agent::start_with(BLUE, |cluster| {
        cluster.env("MESOS_EXECUTOR_REREGISTRATION_TIMEOUT", "15secs")
    })?;
    let info = |port: u16| {
        json!({
            "name": "blue",
            "port_mappings": [{ "host_port": port, "container_port": 80 }],
        })
    };
    let fetch = |port: u16| fetch(&format!("http://192.0.2.1:{port}/"));
    agent.run(
        TaskSpec::new("old", &serve("here"))
            .ports(&[31080])
            .network_info(info(31080)),
    )?;
    agent.host().sh(&fetch(31080))?;
    agent.host().sh("nft flush ruleset")?;
    // The next attach restores the rules of all containers.
    agent.run(
        TaskSpec::new("new", &serve("here"))
            .ports(&[31081])
            .network_info(info(31081)),
    )?;
    agent.host().sh(&fetch(31081))?;
    agent.host().sh(&fetch(31080))?;
    // A restart of the agent restores them, and the bridge.
    agent.cluster.kill_9()?;
    agent.host().sh("nft flush ruleset; ip link delete blue0")?;
    agent.cluster.restart()?;
    agent.host().sh(&fetch(31080))?;
    agent.host().sh(&fetch(31081))?;
    agent.kill("old")?;
    agent.kill("new")?;
    agent.end()
}

#[test]
fn detach_tolerates_what_is_already_gone() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let running = agent.run(TaskSpec::new("one", "sleep 1000").network("blue"))?;
    let id = container(&running)?;
    // All but the interface is removed; without the interface the task would end.
    agent.host().sh(&format!(
        "nft flush ruleset; umount -l /run/netns/{id}; rm /run/netns/{id}"
    ))?;
    let end = agent.kill("one")?;
    ensure!(end.state == TaskState::TaskKilled, "{end}");
    agent.end()
}

#[test]
fn read_only_state_directory_fails_the_task() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let neighbour = agent.run(TaskSpec::new("neighbour", "sleep 1000").network("blue"))?;
    let state = agent.state_dir().display().to_string();
    agent.host().sh(&format!(
        "mount --bind {state} {state} && mount -o remount,ro,bind {state}"
    ))?;
    let message = agent.refused(TaskSpec::new("readonly", "true").network("blue"))?;
    ensure!(
        message.contains(&state) || message.to_lowercase().contains("read-only"),
        "{message}"
    );
    agent.host().sh(&format!("umount {state}"))?;
    agent.passes(TaskSpec::new("after", "true").network("blue"))?;
    agent
        .host()
        .sh(&format!("ping -c 1 -W 5 {}", address(&neighbour)?))?;
    agent.kill("neighbour")?;
    agent.end()
}

#[test]
fn full_state_directory_fails_the_task() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let state = agent.state_dir().display().to_string();
    agent.host().sh(&format!(
        "mkdir -p {state} && mount -t tmpfs -o size=64k,nr_inodes=32 tmpfs {state}"
    ))?;
    agent
        .host()
        .sh(&format!("head -c 100k /dev/zero > {state}/filler || true"))?;
    let message = agent.refused(TaskSpec::new("full", "true").network("blue"))?;
    ensure!(message.contains("No space left on device"), "{message}");
    agent.host().sh(&format!("umount {state}"))?;
    agent.passes(TaskSpec::new("after", "true").network("blue"))?;
    agent.end()
}
