//! Port mappings: reachable from everywhere, refused when taken, gone with their container.

use anyhow::{Result, ensure};
use mesos_module_tests::testbed::agent::{Agent, BLUE, RED, address, container, fetch, serve};
use mesos_module_tests::testbed::framework::TaskSpec;
use serde_json::json;

fn server(id: &str, network: &str, port: u16) -> TaskSpec {
    TaskSpec::new(id, &serve(id))
        .ports(&[port])
        .network_info(json!({
            "name": network,
            "port_mappings": [{ "host_port": port, "container_port": 80, "protocol": "tcp" }],
        }))
}

#[test]
fn mapped_port_is_reachable_from_everywhere() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let running = agent.run(server("web", "blue", 31080))?;
    let host = agent.host().address();
    // From the host, by its address and by loopback.
    assert_eq!(
        agent
            .host()
            .sh(&fetch(&format!("http://{host}:31080/")))?
            .trim(),
        "web"
    );
    assert_eq!(
        agent.host().sh(&fetch("http://127.0.0.1:31080/"))?.trim(),
        "web"
    );
    // From a neighbour, and from the container itself.
    let neighbour = format!(
        "test \"$({})\" = web",
        fetch(&format!("http://{host}:31080/"))
    );
    agent.passes(TaskSpec::new("neighbour", &neighbour).network("blue"))?;
    let id = container(&running)?;
    let itself = agent.host().sh(&format!(
        "ip netns exec {id} sh -c '{}'",
        fetch(&format!("http://{host}:31080/"))
    ))?;
    assert_eq!(itself.trim(), "web");
    // From another host.
    agent.host().sh(
        "ip netns add outside && ip link add uplink0 type veth peer name eth0 netns outside \
         && ip address add 203.0.113.1/24 dev uplink0 && ip link set uplink0 up \
         && ip -n outside address add 203.0.113.2/24 dev eth0 && ip -n outside link set eth0 up",
    )?;
    let outside = agent.host().sh(&format!(
        "ip netns exec outside sh -c '{}'",
        fetch("http://203.0.113.1:31080/")
    ))?;
    assert_eq!(outside.trim(), "web");
    agent
        .host()
        .sh("ip netns delete outside; ip link delete uplink0 2>/dev/null || true")?;
    agent.kill("web")?;
    agent.end()
}

#[test]
fn mapped_port_is_reachable_over_ipv6() -> Result<()> {
    let agent = Agent::start(RED)?;
    agent
        .host()
        .sh("ip -6 address add 2001:db8::1/128 dev lo")?;
    agent.run(server("web", "red", 31080))?;
    let shown = agent.host().sh(&fetch("http://[2001:db8::1]:31080/"))?;
    assert_eq!(shown.trim(), "web");
    agent.kill("web")?;
    agent.end()
}

#[test]
fn mapped_port_in_use_is_refused_until_it_is_released() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    agent.run(server("first", "blue", 31080))?;
    let second = TaskSpec::new("second", "sleep 1000").network_info(json!({
        "name": "blue",
        "port_mappings": [{ "host_port": 31080, "container_port": 81 }],
    }));
    let message = agent.refused(second)?;
    ensure!(message.contains("31080"), "{message}");
    // The neighbour is unharmed.
    let host = agent.host().address();
    assert_eq!(
        agent
            .host()
            .sh(&fetch(&format!("http://{host}:31080/")))?
            .trim(),
        "first"
    );
    agent.kill("first")?;
    agent.expect_no_container()?;
    let third = agent.run(server("third", "blue", 31080))?;
    address(&third)?;
    assert_eq!(
        agent
            .host()
            .sh(&fetch(&format!("http://{host}:31080/")))?
            .trim(),
        "third"
    );
    agent.kill("third")?;
    agent.end()
}

#[test]
fn port_in_use_by_a_host_process_is_refused() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    agent.run(TaskSpec::new(
        "listener",
        "exec busybox httpd -f -p 31081 -h .",
    ))?;
    agent.host().sh(
        "for i in $(seq 100); do ss -ltn | grep -q :31081 && exit 0; sleep 0.1; done; exit 1",
    )?;
    let task = TaskSpec::new("web", "sleep 1000").network_info(json!({
        "name": "blue",
        "port_mappings": [{ "host_port": 31081, "container_port": 80 }],
    }));
    let message = agent.refused(task)?;
    ensure!(message.contains("31081"), "{message}");
    agent.kill("listener")?;
    agent.end()
}
