//! The workflow: isolator, manager, API server, vRouter agent, interface, and back.

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::agent::{self, container};
use mesos_module_tests::testbed::framework::{GroupSpec, TaskSpec};
use serde_json::json;

use crate::fixture::{BLUE, Fixture, NETWORK, address_in, blue, info, task};

#[test]
fn task_gets_and_releases_an_address_of_contrail() -> Result<()> {
    let fixture = Fixture::start()?;
    let one = fixture.agent.run(blue("one"))?;
    let address = address_in(&one, "5.5.5.")?;
    ensure!(one.addresses().len() == 2, "of both families: {one}");
    let id = container(&one)?;
    let machines = fixture.contrail.api().objects("virtual-machine");
    ensure!(
        machines.len() == 1 && machines[0]["uuid"] == id.as_str(),
        "{machines:?}"
    );
    // The manager knows for whom it was launched.
    let annotations = machines[0]["annotations"]["key_value_pair"].to_string();
    ensure!(
        annotations.contains(r#"{"key":"executor","value":"one"}"#)
            && annotations.contains("framework-id"),
        "{annotations}"
    );
    // The container has Contrail's settings, and reaches its neighbour but no other network.
    let seen = format!(
        "ip addr show dev eth0 | grep -q 'inet {address}/24' && ip route | grep -q '^default via 5.5.5' \
         && grep -q ^nameserver /etc/resolv.conf && ip link show dev eth0 | grep -q 'mtu 1500'"
    );
    let look = fixture.agent.host().sh(&format!(
        "ip netns exec {id} sh -ec \"{seen}\" && ls /run/netns/{id}"
    ));
    look.context("the container does not see its network")?;
    fixture
        .agent
        .passes(task("two", &format!("ping -c 1 -W 5 {address}"), &BLUE))?;
    let red = [
        ("networks", "red-network"),
        ("project-name", "default-project"),
    ];
    fixture.agent.passes(task(
        "three",
        &format!("ip addr show dev eth0 | grep -q 'inet 6.6.6.' && ! ping -c 1 -W 1 {address}"),
        &red,
    ))?;
    fixture.agent.kill("one")?;
    fixture.expect_nothing()?;
    fixture.end()
}

#[test]
fn several_virtual_networks_become_several_interfaces() -> Result<()> {
    let fixture = Fixture::start()?;
    let labels = [
        (
            "networks",
            "blue-network,default-domain:default-project:red-network",
        ),
        ("project-name", "default-project"),
    ];
    let update = fixture
        .agent
        .run(task("both", "exec sleep 1000", &labels))?;
    let addresses: Vec<String> = update.addresses().iter().map(ToString::to_string).collect();
    ensure!(
        addresses.len() == 3
            && addresses[0].starts_with("5.5.5.")
            && addresses[2].starts_with("6.6.6."),
        "{addresses:?}"
    );
    let id = container(&update)?;
    let text = fixture
        .agent
        .host()
        .sh(&format!("ip netns exec {id} ip -4 -o addr"))?;
    ensure!(
        text.contains("eth0    inet 5.5.5.") && text.contains("eth1    inet 6.6.6."),
        "{text}"
    );
    let interfaces = fixture.contrail.api().objects("virtual-machine-interface");
    let mut indices: Vec<String> = interfaces
        .iter()
        .flat_map(|interface| {
            let pairs = interface["annotations"]["key_value_pair"].as_array();
            pairs.cloned().unwrap_or_default()
        })
        .filter(|pair| pair["key"] == "index")
        .map(|pair| pair["value"].as_str().unwrap_or_default().to_owned())
        .collect();
    indices.sort();
    ensure!(indices == ["0/2", "1/2"], "{indices:?}");
    // As with Contrail's own plugin, only the first network has default routes.
    let routes = fixture.agent.host().sh(&format!(
        "ip netns exec {id} ip route show default; ip netns exec {id} ip -6 route show default"
    ))?;
    ensure!(
        !routes.is_empty() && routes.lines().all(|route| route.contains("dev eth0")),
        "{routes}"
    );
    fixture.agent.kill("both")?;
    fixture.expect_nothing()?;
    fixture.end()
}

#[test]
fn nested_containers_share_or_have_their_own_network() -> Result<()> {
    let fixture = Fixture::start()?;
    let inside = "ip addr show dev eth0 | grep -q 'inet 5.5.5.'";
    let group = GroupSpec::new("pod")
        .network_info(info(&BLUE))
        .task(TaskSpec::new(
            "first",
            &format!("{inside} && exec sleep 1000"),
        ))
        .task(
            TaskSpec::new("second", &format!("{inside} && exec sleep 1000")).set(
                "container",
                json!({ "type": "MESOS", "network_infos": [info(&[
                ("networks", "blue-network"), ("project-name", "default-project"),
            ])] }),
            ),
        );
    fixture.agent.launch_group(group)?;
    fixture.agent.running("first")?;
    fixture.agent.running("second")?;
    // One of the pod, and one of the nested container with its own network.
    let machines = fixture.contrail.api().objects("virtual-machine");
    ensure!(machines.len() == 2, "{machines:?}");
    fixture.agent.kill("first")?;
    fixture.expect_nothing()?;
    fixture.end()
}

#[test]
fn burst_of_100_containers_attaches_and_detaches() -> Result<()> {
    let fixture = Fixture::start()?;
    let ids: Vec<String> = (0..100).map(|number| format!("t{number}")).collect();
    for id in &ids {
        fixture.agent.launch(blue(id).resources(0.01, 16.0, 0.0))?;
    }
    let mut addresses = std::collections::BTreeSet::new();
    for id in &ids {
        let update = fixture.agent.running(id)?;
        let address = address_in(&update, "5.5.5.")?;
        ensure!(addresses.insert(address), "{id} has an address of another");
    }
    for id in &ids {
        fixture
            .agent
            .host()
            .block_on(fixture.agent.framework.kill(id))?;
    }
    for id in &ids {
        fixture.agent.ended(id)?;
    }
    fixture.expect_nothing()?;
    fixture.end()
}

#[test]
fn restarted_agents_recover_their_containers() -> Result<()> {
    let mut fixture = Fixture::start()?;
    let one = fixture.agent.run(blue("one"))?;
    let address = address_in(&one, "5.5.5.")?;
    fixture.agent.crash()?;
    let reached = format!("ping -c 1 -W 5 {address}");
    fixture.agent.passes(task("two", &reached, &BLUE))?;
    // The vRouter agent loses all its ports and their files.
    fixture.agent.host().sh(&format!(
        "rm -r {}/*",
        fixture.vrouter.port_files().display()
    ))?;
    fixture.vrouter.restart()?;
    fixture.agent.passes(task("three", "true", &BLUE))?;
    let started = std::time::Instant::now();
    while fixture.vrouter.handle.ports().is_empty() {
        ensure!(
            started.elapsed() < mesos_module_tests::testbed::agent::WAIT_TIMEOUT,
            "the container is not registered again at the vRouter agent"
        );
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    fixture.agent.passes(task(
        "four",
        &format!("for i in 1 2 3 4 5 6 7 8 9; do ping -c 1 -W 1 {address} && exit 0; done; exit 1"),
        &BLUE,
    ))?;
    fixture.agent.kill("one")?;
    fixture.expect_nothing()?;
    fixture.end()
}

#[test]
fn container_has_bridge_and_contrail_networks() -> Result<()> {
    let fixture = Fixture::on(agent::host()?, agent::BLUE, None)?;
    let both = TaskSpec::new("both", "exec sleep 1000")
        .network_info(json!({ "name": "blue" }))
        .network_info(info(&BLUE));
    let update = fixture.agent.run(both)?;
    let addresses: Vec<String> = update.addresses().iter().map(ToString::to_string).collect();
    ensure!(
        addresses[0].starts_with("10.32.0.") && addresses[1].starts_with("5.5.5."),
        "{NETWORK}: {addresses:?}"
    );
    fixture.agent.kill("both")?;
    fixture.expect_nothing()?;
    fixture.end()
}
