//! A container gets its own network: what the real agent and a framework see of it.

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::agent::{Agent, BLUE, RED, address, container};
use mesos_module_tests::testbed::framework::TaskSpec;
use serde_json::{Value, json};

#[test]
fn command_task_gets_an_address_of_its_network() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let running = agent.run(TaskSpec::new("web", "sleep 1000").network("blue"))?;
    assert_eq!(running.network_infos.len(), 1);
    assert_eq!(running.network_infos[0]["name"], "blue");
    let address = address(&running)?;
    ensure!(address.to_string().starts_with("10.32.0."), "{address}");
    // Its neighbour reaches it, the host reaches it, and it reaches itself.
    agent.passes(TaskSpec::new("ping", &format!("ping -c 1 -W 5 {address}")).network("blue"))?;
    agent.host().sh(&format!("ping -c 1 -W 5 {address}"))?;
    let id = container(&running)?;
    agent
        .host()
        .sh(&format!("ip netns exec {id} ping -c 1 -W 5 127.0.0.1"))?;
    let shown = agent
        .host()
        .sh(&format!("ip netns exec {id} ip -o address show eth0"))?;
    ensure!(shown.contains(&format!("inet {address}/24")), "{shown}");
    agent.kill("web")?;
    agent.end()
}

#[test]
fn task_without_network_is_on_the_host_network() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let own = agent.host().sh("readlink /proc/self/ns/net")?;
    let command = format!("test \"$(readlink /proc/self/ns/net)\" = '{}'", own.trim());
    agent.passes(TaskSpec::new("plain", &command))?;
    // A NetworkInfo without a name asks for nothing either.
    agent.passes(TaskSpec::new("unnamed", &command).network_info(json!({})))?;
    agent.end()
}

#[test]
fn several_networks_become_interfaces_in_order() -> Result<()> {
    let agent = Agent::start(&format!("{BLUE}{RED}"))?;
    let task = TaskSpec::new("two", "sleep 1000")
        .network("red")
        .network_info(json!({}))
        .network("blue");
    let running = agent.run(task)?;
    let names: Vec<_> = running
        .network_infos
        .iter()
        .map(|info| info["name"].clone())
        .collect();
    assert_eq!(names, ["red", "blue"]);
    let addresses: Vec<_> = running
        .addresses()
        .iter()
        .map(ToString::to_string)
        .collect();
    ensure!(addresses.len() == 3, "{addresses:?}");
    ensure!(addresses[0].starts_with("10.33.0."), "{addresses:?}");
    ensure!(addresses[1].starts_with("fd00:33::"), "{addresses:?}");
    ensure!(addresses[2].starts_with("10.32.0."), "{addresses:?}");
    let id = container(&running)?;
    for (interface, address) in [("eth0", 0), ("eth0", 1), ("eth1", 2)] {
        let shown = agent.host().sh(&format!(
            "ip netns exec {id} ip -o address show {interface}"
        ))?;
        ensure!(shown.contains(&addresses[address]), "{interface}: {shown}");
    }
    // One default route of each family, by the first network that has it.
    let routes = agent.host().sh(&format!("ip netns exec {id} ip route get 203.0.113.1; ip netns exec {id} ip -6 route get 2001:db8::1"))?;
    ensure!(routes.matches("dev eth0").count() == 2, "{routes}");
    agent.kill("two")?;
    agent.end()
}

#[test]
fn both_families_and_static_addresses_are_assigned() -> Result<()> {
    // The agent has an IPv4 address, which tasks reach over blue, whatever addresses red assigns.
    let agent = Agent::start(&format!("{BLUE}{RED}"))?;
    for (id, requested, expected) in [
        (
            "static4",
            json!([{ "ip_address": "10.33.0.77" }]),
            vec!["10.33.0.77"],
        ),
        (
            "static6",
            json!([{ "protocol": "IPv6", "ip_address": "fd00:33::77" }]),
            vec!["fd00:33::77"],
        ),
        (
            "both",
            json!([{ "ip_address": "fd00:33::78" }, { "ip_address": "10.33.0.78" }]),
            vec!["fd00:33::78", "10.33.0.78"],
        ),
    ] {
        let red = json!({ "name": "red", "ip_addresses": requested });
        let task = TaskSpec::new(id, "sleep 1000")
            .network("blue")
            .network_info(red);
        let running = agent.run(task)?;
        let addresses: Vec<_> = running
            .addresses()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(addresses[1..], expected, "{id}");
        // The status has the family of each address, and no prefix.
        let first = &running.network_infos[1]["ip_addresses"][0];
        let family = if expected[0].contains(':') {
            "IPv6"
        } else {
            "IPv4"
        };
        assert_eq!(first["protocol"], family);
        agent
            .host()
            .sh(&format!("ping -c 1 -W 5 {}", expected[0]))?;
    }
    for (id, family) in [("only4", "IPv4"), ("only6", "IPv6")] {
        let red = json!({ "name": "red", "ip_addresses": [{ "protocol": family }] });
        let task = TaskSpec::new(id, "sleep 1000")
            .network("blue")
            .network_info(red);
        let running = agent.run(task)?;
        assert_eq!(running.addresses().len(), 2);
        assert_eq!(running.addresses()[1].is_ipv4(), family == "IPv4");
    }
    for id in ["static4", "static6", "both", "only4", "only6"] {
        agent.kill(id)?;
    }
    agent.end()
}

#[test]
fn libprocess_ip_is_in_the_environment() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    agent.passes(TaskSpec::new("own", "test \"$LIBPROCESS_IP\" = 0.0.0.0").network("blue"))?;
    agent.end()
}

#[test]
fn container_has_its_own_hostname() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let own = agent.host().sh("hostname")?;
    let running =
        agent.run(TaskSpec::new("default", "hostname > name; sleep 1000").network("blue"))?;
    let id = container(&running)?;
    let name = wait_for_file(&agent, "default", "name")?;
    assert_eq!(name.trim(), id);
    let overridden = TaskSpec::new(
        "overridden",
        "test $(hostname) = web-1 && test $(cat /etc/hostname) = web-1 && getent hosts web-1",
    );
    let overridden = overridden.set(
        "container",
        json!({ "type": "MESOS", "hostname": "web-1", "network_infos": [{ "name": "blue" }] }),
    );
    agent.passes(overridden)?;
    assert_eq!(
        agent.host().sh("hostname")?,
        own,
        "the host's own name must not change"
    );
    agent.kill("default")?;
    agent.end()
}

#[test]
fn checkpoint_records_the_attachments() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let running = agent.run(TaskSpec::new("web", "sleep 1000").network("blue"))?;
    let id = container(&running)?;
    let directory = agent.state_dir().join("containers").join(&id);
    let intent: Value = serde_json::from_slice(&std::fs::read(directory.join("intent.json"))?)?;
    assert_eq!(intent["version"], 1);
    assert_eq!(intent["container"], json!([id]));
    assert_eq!(intent["executor"]["executor"], "web");
    let network = &intent["networks"][0]["intent"];
    assert_eq!(network["network"], "blue");
    assert_eq!(network["interface"], "eth0");
    assert_eq!(
        network["addresses"][0],
        format!("{}/24", address(&running)?)
    );
    ensure!(directory.join("attached.json").is_file());
    // The handle is where ip netns looks, and it is the container's namespace.
    let handle = agent.host().sh(&format!("stat -L -c %i /run/netns/{id}"))?;
    let inside = agent.host().sh(&format!(
        "ip netns exec {id} stat -L -c %i /proc/self/ns/net"
    ))?;
    assert_eq!(handle, inside);
    agent.kill("web")?;
    agent.end()
}

#[test]
fn hook_labels_carry_interface_details() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let task = TaskSpec::new("web", "sleep 1000")
        .network("blue")
        .label("mine", "stays");
    let running = agent.run(task)?;
    let label = |name: &str| {
        let label = running.labels.get(&format!("contrail-mesos/eth0/{name}"));
        label
            .cloned()
            .with_context(|| format!("no label {name} in {:?}", running.labels))
    };
    assert_eq!(label("network")?, "blue");
    assert_eq!(label("gateway")?, "10.32.0.1");
    let id = container(&running)?;
    let shown = agent.host().sh(&format!("ip netns exec {id} cat /sys/class/net/eth0/address || ip netns exec {id} ip -o link show eth0"))?;
    ensure!(shown.contains(&label("mac")?), "{shown}");
    // A task on the host's network is left as it is.
    let plain = agent.run(TaskSpec::new("plain", "sleep 1000"))?;
    ensure!(plain.labels.is_empty(), "{:?}", plain.labels);
    agent.kill("web")?;
    agent.kill("plain")?;
    agent.end()
}

#[test]
fn resource_statistics_count_container_traffic() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let running = agent.run(TaskSpec::new("web", "sleep 1000").network("blue"))?;
    let address = address(&running)?;
    let count = || -> Result<(u64, u64)> {
        let containers = agent.containers()?;
        let statistics = containers
            .iter()
            .find(|container| container["executor_id"]["value"] == "web")
            .map(|container| container["resource_statistics"].clone())
            .context("the container is not there")?;
        let counter = |name: &str| {
            statistics[name]
                .as_u64()
                .with_context(|| format!("no {name} in {statistics}"))
        };
        for name in [
            "net_rx_bytes",
            "net_tx_bytes",
            "net_rx_errors",
            "net_tx_errors",
            "net_rx_dropped",
            "net_tx_dropped",
        ] {
            counter(name)?;
        }
        Ok((counter("net_rx_packets")?, counter("net_tx_packets")?))
    };
    let before = count()?;
    agent
        .host()
        .sh(&format!("ping -c 20 -i 0.01 -W 5 {address}"))?;
    let after = count()?;
    ensure!(
        after.0 >= before.0 + 20 && after.1 >= before.1 + 20,
        "{before:?} {after:?}"
    );
    agent.kill("web")?;
    agent.end()
}

/// The file that a task writes into its sandbox, once it is there.
fn wait_for_file(agent: &Agent, task: &str, file: &str) -> Result<String> {
    let work = agent.cluster.work_dir().display().to_string();
    agent.host().sh(&format!(
        "for i in $(seq 300); do f=$(find {work} -path '*/executors/{task}/runs/*/{file}' ! -path '*/latest/*' -size +0 | head -1)
           test -n \"$f\" && cat \"$f\" && exit 0; sleep 0.1; done; exit 1"
    ))
}
