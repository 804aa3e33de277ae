//! Overlays of IPv6 alone, of both families, and without IPv6.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use contrail_mesos_api::cluster::halves;
use ipnet::IpNet;
use mesos_module_tests::testbed::agent::{container, serve};
use mesos_module_tests::testbed::framework::TaskSpec;
use mesos_module_tests::testbed::overlay::{Container, OverlayCluster, two_overlays};
use mesos_module_tests::testbed::until;
use serde_json::{Value, json};

/// `vxlan-1` without IPv6, `both` and `six` alone.
fn overlays() -> Value {
    let mut overlays = two_overlays();
    overlays["vtep_subnet6"] = json!("fd44::/64");
    overlays["overlays"] = json!([
        { "name": "vxlan-1", "subnet": "192.168.0.0/17", "prefix": 24 },
        { "name": "both", "subnet": "192.168.128.0/17", "prefix": 24,
          "subnet6": "fd01:b::/64", "prefix6": 80 },
        { "name": "six", "subnet6": "fd01:c::/64", "prefix6": 96 },
    ]);
    overlays
}

/// Launches a task that serves its name, on these overlays, and returns it once for each of its
/// addresses.
fn start(
    cluster: &OverlayCluster,
    task: &str,
    overlays: &[&str],
    node: usize,
) -> Result<Vec<Container>> {
    let spec = TaskSpec::new(task, &serve(task)).on_host(&cluster.node(node).hostname());
    let spec = (overlays.iter()).fold(spec, |spec, overlay| spec.network(overlay));
    let update = cluster.mesos.scheduler.run(spec)?;
    let state = cluster.node_state(node)?;
    let mut subnets: Vec<IpNet> = vec![];
    for overlay in overlays {
        let local = state.overlay(overlay).context("no such overlay")?;
        subnets.extend(local.subnet.map(IpNet::V4));
        subnets.extend(local.subnet6.map(IpNet::V6));
    }
    let addresses = update.addresses();
    let mut pairs = addresses.iter().zip(&subnets);
    ensure!(
        addresses.len() == subnets.len() && pairs.all(|(address, subnet)| subnet.contains(address)),
        "{addresses:?} are not addresses of {subnets:?}"
    );
    let id = container(&update)?;
    let of_address = |address: IpAddr| Container {
        task: task.to_owned(),
        host: cluster.host(node).downgrade(),
        id: id.clone(),
        address,
    };
    Ok(addresses.into_iter().map(of_address).collect())
}

/// Waits until all nodes know which families an overlay has.
fn wait_for_families(cluster: &OverlayCluster, overlay: &str, families: [bool; 2]) -> Result<()> {
    for node in 0..2 {
        until("the node knows the families of the overlay", || {
            let state = cluster.node_state(node)?;
            let has = state
                .overlay(overlay)
                .map(|overlay| [overlay.subnet.is_some(), overlay.subnet6.is_some()]);
            Ok((has == Some(families)).then_some(()))
        })?;
    }
    cluster.wait_until_current()?;
    Ok(())
}

/// The IPv6 addresses of a container's interface that others can reach.
fn global_addresses6(container: &Container) -> Result<String> {
    container.sh("ip -6 -brief address show dev eth0 scope global")
}

fn routes6(cluster: &OverlayCluster, node: usize) -> Result<String> {
    cluster.host(node).sh("ip -6 route show proto 133")
}

#[test]
fn ipv6_is_off_alone_or_beside_ipv4() -> Result<()> {
    let cluster = OverlayCluster::start(2)?;
    // Off: neither a container nor a host gets anything of IPv6.
    let off = Container::start(&cluster, "off", "vxlan-1", 0)?;
    assert_eq!(global_addresses6(&off)?, "");
    for node in 0..2 {
        assert_eq!(routes6(&cluster, node)?, "");
        let vteps = "ip -o -6 address show scope global | grep vtep || true";
        assert_eq!(cluster.host(node).sh(vteps)?, "");
    }

    // It is turned on while that container runs.
    for node in 0..2 {
        cluster.set_networks(node, &["vxlan-1", "both", "six"])?;
    }
    cluster.set_overlays(&overlays())?;
    wait_for_families(&cluster, "both", [true, true])?;
    wait_for_families(&cluster, "six", [false, true])?;
    wait_for_families(&cluster, "vxlan-1", [true, false])?;
    let list = cluster.wait_until_current()?;
    for node in &list.nodes {
        let vtep = node.vtep.and_then(|vtep| vtep.address6);
        vtep.with_context(|| format!("no IPv6 tunnel endpoint in {node:?}"))?;
        for given in node.subnets.iter().filter_map(|given| given.subnet6) {
            halves(given.into()).with_context(|| format!("{given} has no halves"))?;
        }
    }
    let both = [
        start(&cluster, "both-1", &["both"], 0)?,
        start(&cluster, "both-2", &["both"], 1)?,
    ];
    // The executor must reach its agent, which has an IPv4 address, by another network.
    let six = [
        start(&cluster, "six-1", &["vxlan-1", "six"], 0)?,
        start(&cluster, "six-2", &["vxlan-1", "six"], 1)?,
        start(&cluster, "six-beside", &["vxlan-1", "six"], 0)?,
    ];
    // Across hosts, on one host and across overlays; in IPv6 within one, for the second network of a
    // container leads to its own overlay only.
    let all: Vec<&Container> = both.iter().chain(&six).flatten().chain([&off]).collect();
    let is_six = |container: &Container| container.task.starts_with("six");
    for (index, one) in all.iter().enumerate() {
        for other in &all[index + 1..] {
            let has_route = one.address.is_ipv4() || is_six(one) == is_six(other);
            if one.id != other.id && one.address.is_ipv4() == other.address.is_ipv4() && has_route {
                one.wait_until_reaches(other)?;
                one.expect_reaches(other)?;
            }
        }
    }
    assert_eq!(global_addresses6(&off)?, "");
    // A host reaches the containers of another one in both families.
    for container in &both[1] {
        let page = cluster.host(0).sh(&container.fetch())?;
        assert_eq!(page.trim(), container.task);
    }
    // 48 bytes are headers. What is larger does not leave the container.
    let ([_, near], [_, far]) = (&six[0][..], &six[1][..]) else {
        anyhow::bail!("not an address of each overlay");
    };
    let ping = |size: u32| format!("ping -6 -q -M do -c 1 -W 5 -s {size} {}", far.address);
    near.sh(&ping(1450 - 48))?;
    ensure!(near.sh(&ping(1450 - 47)).is_err(), "the MTU is not 1450");

    // It is turned off again: routes go, IPv4 goes on, and new containers have IPv4 only.
    cluster.set_overlays(&{
        let mut overlays = overlays();
        let all = overlays["overlays"].as_array_mut().context("no list")?;
        all.retain(|overlay| overlay["name"] != "six");
        for key in ["subnet6", "prefix6"] {
            all[1].as_object_mut().context("no overlay")?.remove(key);
        }
        overlays
    })?;
    wait_for_families(&cluster, "both", [true, false])?;
    for node in 0..2 {
        until("the routes of IPv6 are gone", || {
            Ok(routes6(&cluster, node)?.is_empty().then_some(()))
        })?;
    }
    let four = start(&cluster, "four", &["both"], 1)?;
    let [old] = &both[0]
        .iter()
        .filter(|container| container.address.is_ipv4())
        .collect::<Vec<_>>()[..]
    else {
        anyhow::bail!("not one IPv4 address");
    };
    old.expect_reaches(&four[0])?;
    off.expect_reaches(&four[0])?;
    assert_eq!(global_addresses6(&four[0])?, "");
    cluster.end()
}
