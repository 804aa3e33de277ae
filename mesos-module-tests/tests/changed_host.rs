//! Another program changes the host's side of the containers, between launches and on a quiet agent.
//! Networks of the configuration change while they have containers.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::changed_host;
use mesos_module_tests::testbed::agent::{Agent, BLUE, address, fetch, serve};
use mesos_module_tests::testbed::framework::TaskSpec;
use mesos_module_tests::testbed::overlay::NodeDaemon;
use mesos_module_tests::testbed::until;
use serde_json::json;

fn web(id: &str, port: u16) -> TaskSpec {
    TaskSpec::new(id, &serve(id))
        .ports(&[port])
        .network_info(json!({
            "name": "blue",
            "port_mappings": [{ "host_port": port, "container_port": 80 }],
        }))
}

/// Lists the host's ends of containers.
const PORTS: &str = "ip -o link show type veth | awk -F'[ :@]+' '{print $2}' | grep ^cm";

/// Waits until a script succeeds on the host.
fn eventually(agent: &Agent, script: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match agent.host().sh(script) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Changes the host in many ways, and waits each time until everything is restored.
fn change_everything(agent: &Agent) -> Result<()> {
    for (change, restored) in [
        ("nft flush ruleset", "nft list ruleset | grep -q 31080"),
        (
            "ip address flush dev blue0",
            "ip address show dev blue0 | grep -q 10.32.0.1/24",
        ),
        (
            "ip link set blue0 down",
            "ip link show dev blue0 up | grep -q blue0",
        ),
        (
            "sysctl -q -w net.ipv4.ip_forward=0",
            "test $(cat /proc/sys/net/ipv4/ip_forward) = 1",
        ),
        (
            &format!("ip link set $({PORTS}) nomaster"),
            "ip link show master blue0 | grep -q cm",
        ),
        (
            "ip link delete blue0",
            "ip link show master blue0 | grep -q cm",
        ),
    ] {
        agent.host().sh(change)?;
        eventually(agent, restored).with_context(|| format!("after {change:?}"))?;
        let page = agent.host().sh(&fetch("http://192.0.2.1:31080/"))?;
        ensure!(page.trim() == "web", "after {change:?}: {page}");
    }
    Ok(())
}

#[test]
fn host_is_restored_by_a_quiet_agent_and_without_it() -> Result<()> {
    let mut agent = Agent::start(BLUE)?;
    agent.run(web("web", 31080))?;
    agent.host().sh(&fetch("http://192.0.2.1:31080/"))?;
    change_everything(&agent)?;
    let log = agent.cluster.log()?;
    for fault in [
        "blue0 lacks the address 10.32.0.1/24",
        "ip_forward is not 1",
    ] {
        ensure!(log.contains(fault), "{fault:?} is not in the log");
    }

    // Without managers, and without any key in [node].
    let mut daemon = NodeDaemon::new(agent.host());
    daemon.start()?;
    until("the daemon has compared the host", || {
        let status = daemon.get("/v1/status").ok();
        Ok(status.filter(|status| host_side(status)["comparisons"].as_u64() > Some(0)))
    })?;
    agent.cluster.kill_9()?;
    change_everything(&agent)?;
    let status = daemon.get("/v1/status")?;
    ensure!(
        host_side(&status)["repairs"].as_u64() >= Some(6),
        "{status:#}"
    );
    agent.cluster.restart()?;
    let page = agent.host().sh(&fetch("http://192.0.2.1:31080/"))?;
    ensure!(page.trim() == "web", "{page}");
    // Both run now.
    change_everything(&agent)?;
    agent.kill("web")?;
    agent.expect_no_container()?;
    daemon.kill()?;
    // The host ends with its last user.
    drop(daemon);
    agent.end()
}

/// What the node daemon shows of its subsystem `host-side`.
fn host_side(status: &serde_json::Value) -> &serde_json::Value {
    let subsystems = status["subsystems"].as_array();
    let found = subsystems
        .into_iter()
        .flatten()
        .find(|one| one["name"] == "host-side");
    found.unwrap_or(&serde_json::Value::Null)
}

#[test]
fn launch_works_after_each_change_of_the_host() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let first = agent.run(web("first", 31080))?;
    let reach = format!("ping -c 1 -W 5 {}", address(&first)?);
    for change in [
        "ip address flush dev blue0",
        "ip link set blue0 down",
        &format!("ip link set $({PORTS} | head -n 1) nomaster"),
        "sysctl -q -w net.ipv4.ip_forward=0",
        "nft flush ruleset",
    ] {
        agent.host().sh(change)?;
        let id = format!("task-{}", change.len());
        agent
            .passes(TaskSpec::new(&id, &reach).network("blue"))
            .with_context(|| format!("after {change:?}"))?;
        agent.host().sh(&reach)?;
        agent.host().sh(&fetch("http://192.0.2.1:31080/"))?;
    }
    agent.kill("first")?;
    agent.end()
}

#[test]
fn host_that_changes_all_the_time_serves_launches_and_clients() -> Result<()> {
    changed_host::run(10)
}

#[test]
fn grown_subnet_serves_old_and_new_containers() -> Result<()> {
    let mut agent = Agent::start(BLUE)?;
    // A machine outside, which sees the host's address only.
    agent.host().sh(
        "ip netns add outside && ip link add uplink0 type veth peer name eth0 netns outside \
         && ip address add 203.0.113.1/24 dev uplink0 && ip link set uplink0 up \
         && ip -n outside address add 203.0.113.2/24 dev eth0 && ip -n outside link set eth0 up",
    )?;
    let old = agent.run(web("old", 31080))?;
    agent.configure(&BLUE.replace("/24", "/16"))?;
    let new = agent.run(web("new", 31081))?;
    agent.crash()?;
    for container in [&old, &new] {
        let id = mesos_module_tests::testbed::agent::container(container)?;
        for target in [&old, &new] {
            let target = address(target)?;
            agent.host().sh(&format!(
                "ip netns exec {id} sh -c '{}'",
                fetch(&format!("http://{target}/"))
            ))?;
        }
        // Without masquerading, nothing outside knows the way back.
        agent
            .host()
            .sh(&format!("ip netns exec {id} ping -c 1 -W 5 203.0.113.2"))?;
    }
    agent.kill("old")?;
    // The agent detaches the container after the task's last update.
    eventually(&agent, "! ip address show dev blue0 | grep /24")?;
    let id = mesos_module_tests::testbed::agent::container(&new)?;
    agent
        .host()
        .sh(&format!("ip netns exec {id} ping -c 1 -W 5 203.0.113.2"))?;
    agent.kill("new")?;
    agent
        .host()
        .sh("ip netns delete outside; ip link delete uplink0 2>/dev/null || true")?;
    agent.end()
}

#[test]
fn subnet_of_another_interface_is_refused_with_its_name() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    agent.host().sh(
        "ip link add old-cni0 type bridge && ip address add 10.32.0.1/24 dev old-cni0 \
         && ip link set old-cni0 up",
    )?;
    let message = agent.refused(TaskSpec::new("bad", "true").network("blue"))?;
    ensure!(
        message.contains("old-cni0") && message.contains("10.32.0.0/24"),
        "{message}"
    );
    agent.host().sh("ip link delete old-cni0")?;
    agent.passes(TaskSpec::new("good", "true").network("blue"))?;
    agent.end()
}
