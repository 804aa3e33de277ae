//! Nodes that are not what the managers think, configurations with less room, and parts that are lost
//! while nodes are given something.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use contrail_mesos_api::cluster::{NodeCondition, NodeList, NodeStatus, NodeSubnets};
use mesos_module_tests::testbed::agent::state_dir;
use mesos_module_tests::testbed::overlay::{Container, OverlayCluster, two_overlays};
use mesos_module_tests::testbed::until;
use serde_json::{Value, json};

use crate::fixture::{subnet_of, subnets};

/// The overlays with another subnet of `vxlan-1`.
fn with_subnet(subnet: &str, prefix: u8) -> Value {
    let mut overlays = two_overlays();
    overlays["overlays"][0]["subnet"] = json!(subnet);
    overlays["overlays"][0]["prefix"] = json!(prefix);
    overlays
}

/// Waits until the leader says this of a node.
fn wait_for_node(
    cluster: &OverlayCluster,
    name: &str,
    accepts: impl Fn(&NodeStatus) -> bool,
) -> Result<NodeList> {
    until("the leader knows it of the node", || {
        let list = cluster.nodes()?;
        let node = list.nodes.iter().find(|node| node.name == name);
        ensure!(node.is_some_and(&accepts), "{list:?}");
        Ok(Some(list))
    })
    .with_context(|| cluster.logs())
}

fn has_problem(node: &NodeStatus, parts: &[&str]) -> bool {
    let mut problems = node.problems.iter();
    problems.any(|problem| parts.iter().all(|part| problem.contains(part)))
}

#[test]
fn smaller_configuration_takes_only_what_no_longer_fits() -> Result<()> {
    let cluster = OverlayCluster::start(2)?;
    let before = cluster.wait_until_current()?;
    // The one whose part begins the subnet keeps it.
    let first = subnet_of(&before, "node-1", "vxlan-1")?;
    let (keeps, loses) = if first.to_string() == "192.168.0.0/24" {
        (0, 1)
    } else {
        (1, 0)
    };
    let losing = format!("node-{}", loses + 1);
    let kept = Container::start(&cluster, "kept", "vxlan-1", keeps)?;
    let beside = Container::start(&cluster, "beside", "vxlan-1", keeps)?;
    let cut_off = Container::start(&cluster, "cut-off", "vxlan-1", loses)?;
    let other = Container::start(&cluster, "other", "vxlan-2", loses)?;
    kept.expect_reaches(&cut_off)?;

    cluster.set_overlays(&with_subnet("192.168.0.0/24", 25))?;
    let list = wait_for_node(&cluster, &losing, |node| {
        has_problem(node, &["vxlan-1", "192.168.0.0/24"])
            && node.subnets.iter().all(|given| given.overlay != "vxlan-1")
    })?;
    let keeper = format!("node-{}", keeps + 1);
    assert_eq!(
        subnet_of(&list, &keeper, "vxlan-1")?,
        subnet_of(&before, &keeper, "vxlan-1")?
    );
    until("the node knows that it has no part", || {
        let state = cluster.node_state(loses)?;
        let has_none = |overlay: &contrail_mesos::node_state::LocalOverlay| {
            overlay.subnet.is_none() && overlay.problem.is_some()
        };
        Ok(state.overlay("vxlan-1").is_none_or(has_none).then_some(()))
    })?;
    let task = cluster.task("late", "vxlan-1", loses, "true");
    let message = cluster.mesos.scheduler.refused(task)?;
    ensure!(message.contains("vxlan-1"), "{message}");
    // What fits goes on: the containers of the one that keeps its part, and the other overlay.
    kept.expect_reaches(&beside)?;
    kept.expect_reaches(&other)?;
    let more = Container::start(&cluster, "more", "vxlan-1", keeps)?;
    more.expect_reaches(&other)?;

    // There is room again: the same part, with the container that has run all the time.
    cluster.set_overlays(&two_overlays())?;
    let list = cluster.wait_until("the node has its part again", |list| {
        subnets(list) == subnets(&before)
    })?;
    assert_eq!(subnets(&list), subnets(&before));
    kept.wait_until_reaches(&cut_off)?;
    kept.expect_reaches(&cut_off)?;

    // An overlay is removed, and comes back.
    let mut overlays = two_overlays();
    let all = overlays["overlays"].as_array_mut().context("no list")?;
    all.truncate(1);
    cluster.set_overlays(&overlays)?;
    cluster.wait_until("the overlay is gone", |list| {
        let mut given = list.nodes.iter().flat_map(|node| &node.subnets);
        given.all(|given| given.overlay == "vxlan-1")
    })?;
    let task = cluster.task("removed", "vxlan-2", keeps, "true");
    let message = cluster.mesos.scheduler.refused(task)?;
    ensure!(message.contains("vxlan-2"), "{message}");
    kept.expect_reaches(&cut_off)?;
    cluster.set_overlays(&two_overlays())?;
    cluster.wait_until("all have the same again", |list| {
        subnets(list) == subnets(&before)
    })?;
    kept.wait_until_reaches(&other)?;
    cluster.end()
}

#[test]
fn node_that_is_not_what_it_was_gets_nothing_of_others() -> Result<()> {
    let mut cluster = OverlayCluster::start(3)?;
    let one = Container::start(&cluster, "one", "vxlan-1", 0)?;
    let two = Container::start(&cluster, "two", "vxlan-1", 1)?;
    let three = Container::start(&cluster, "three", "vxlan-1", 2)?;
    let before = cluster.wait_until_current()?;
    let given = |list: &NodeList| -> Vec<_> {
        let nodes = list.nodes.iter();
        nodes
            .map(|node| (node.name.clone(), node.vtep, node.subnets.clone()))
            .collect()
    };

    // It reports the address of another one: it is refused, and everything stays as it was.
    let [address, own] = [cluster.host(0).address(), cluster.host(2).address()];
    cluster.daemons[2].kill()?;
    cluster.claim_address(2, address)?;
    cluster.daemons[2].start()?;
    let list = wait_for_node(&cluster, "node-3", |node| {
        has_problem(node, &[&address.to_string(), "node-1"])
    })?;
    assert_eq!(given(&list), given(&before));
    let of_three = |list: &NodeList| {
        let node = list.nodes.iter().find(|node| node.name == "node-3");
        node.and_then(|node| node.address)
    };
    assert_eq!(of_three(&list), Some(own));
    one.expect_reaches(&two)?;
    one.expect_reaches(&three)?;
    cluster.daemons[2].kill()?;
    cluster.claim_address(2, own)?;
    cluster.daemons[2].start()?;
    let list = cluster.wait_until_current()?;
    assert_eq!(given(&list), given(&before));

    // The host is installed again under its name: neither files nor kernel state are left.
    cluster.mesos.scheduler.kill("three")?;
    cluster.node(2).expect_no_container()?;
    let wipe = |cluster: &mut OverlayCluster| -> Result<()> {
        cluster.daemons[2].kill()?;
        let node = state_dir(cluster.host(2)).join("node");
        fs::remove_dir_all(&node).with_context(|| node.display().to_string())?;
        cluster.host(2).sh(
            "ip -brief link | grep -o '^vtep[0-9]*' | xargs -n 1 ip link delete; nft flush ruleset",
        )?;
        Ok(())
    };
    wipe(&mut cluster)?;
    cluster.daemons[2].start()?;
    until("the host has its data path again", || {
        let devices = cluster.host(2).sh("ip -brief link")?;
        Ok(devices.contains("vtep").then_some(()))
    })?;
    let list = cluster.wait_until_current()?;
    assert_eq!(given(&list), given(&before));
    let again = Container::start(&cluster, "again", "vxlan-1", 2)?;
    one.wait_until_reaches(&again)?;
    one.expect_reaches(&again)?;

    // It comes back under another name, while the former one still has its address.
    cluster.mesos.scheduler.kill("again")?;
    cluster.node(2).expect_no_container()?;
    wipe(&mut cluster)?;
    cluster.rename(2, "node-9")?;
    cluster.daemons[2].start()?;
    let list = wait_for_node(&cluster, "node-9", |node| {
        node.condition == NodeCondition::Refused && has_problem(node, &[&own.to_string(), "node-3"])
    })?;
    let known = list.nodes.iter().filter(|node| node.name != "node-9");
    let known = NodeList {
        containers: vec![],
        revision: list.revision,
        nodes: known.cloned().collect(),
    };
    assert_eq!(given(&known), given(&before));
    let task = cluster.task("early", "vxlan-1", 2, "true");
    cluster.mesos.scheduler.refused(task)?;
    one.expect_reaches(&two)?;
    // An operator says that the former one is gone for good.
    cluster.delete_node("node-3")?;
    let list = cluster.wait_until("the node has subnets under its new name", |list| {
        subnet_of(list, "node-9", "vxlan-1").is_ok()
    })?;
    ensure!(
        list.nodes.iter().all(|node| node.name != "node-3"),
        "{list:?}"
    );
    let ninth = Container::start(&cluster, "ninth", "vxlan-1", 2)?;
    for other in [&one, &two] {
        other.wait_until_reaches(&ninth)?;
        other.expect_reaches(&ninth)?;
    }
    cluster.end()
}

/// What nodes have, each part once.
fn distinct_parts(list: &NodeList) -> Result<()> {
    let mut parts = BTreeSet::new();
    for node in &list.nodes {
        let vtep = node.vtep.with_context(|| format!("{node:?}"))?;
        let subnets = node.subnets.iter().flat_map(NodeSubnets::subnets);
        let own = subnets.map(|subnet| subnet.to_string());
        for part in own.chain([vtep.address.to_string(), vtep.mac.to_string()]) {
            ensure!(
                parts.insert(part.clone()),
                "{part} is given twice: {list:?}"
            );
        }
        ensure!(node.subnets.len() == 2, "{node:?}");
    }
    Ok(())
}

/// Whether the library of a node knows a subnet.
fn has_part(cluster: &OverlayCluster, node: usize) -> bool {
    let state = cluster.node_state(node);
    state.is_ok_and(|state| {
        let overlay = state.overlay("vxlan-1");
        overlay.is_some_and(|overlay| overlay.subnet.is_some())
    })
}

/// A node is given something in these steps: it reports, the leader writes to ZooKeeper, publishes and
/// answers, the node programs its kernel, writes the file for the library, and reports again.
#[test]
fn registration_survives_the_loss_of_any_part_at_any_step() -> Result<()> {
    let mut cluster = OverlayCluster::without_daemons(3)?;
    // Before the report: nobody can write, and nobody leads after a while.
    cluster.mesos.zookeeper.kill()?;
    cluster.daemons[0].start()?;
    until("a report has failed", || {
        let status = cluster.daemons[0].get("/v1/status").ok();
        let failures = status.and_then(|status| status["reports"]["failures"].as_u64());
        Ok(failures.filter(|failures| *failures > 0).map(drop))
    })
    .with_context(|| cluster.logs())?;
    ensure!(!has_part(&cluster, 0), "it was given something");
    cluster.mesos.zookeeper.run()?;
    cluster.wait_until_current()?;
    let first = cluster.nodes()?;

    // While the leader serves the report, or has just answered it.
    let leader = cluster.managers.leader()?;
    cluster.daemons[1].start()?;
    cluster.managers.manager_mut(leader).kill()?;
    cluster.wait_until_current()?;
    cluster.managers.start()?;
    let second = cluster.wait_until_current()?;
    distinct_parts(&second)?;
    assert_eq!(subnets(&second)[..1], subnets(&first)[..]);

    // As soon as the leader has given it something: the node, then everybody who knows it.
    cluster.daemons[2].start()?;
    wait_for_node(&cluster, "node-3", |node| !node.subnets.is_empty())?;
    cluster.daemons[2].kill()?;
    let third = cluster.nodes()?;
    cluster.managers.kill()?;
    cluster.mesos.zookeeper.kill()?;
    cluster.mesos.zookeeper.run()?;
    cluster.managers.start()?;
    cluster.daemons[2].start()?;
    let fourth = cluster.wait_until("all nodes have parts", |list| list.nodes.len() == 3)?;
    distinct_parts(&fourth)?;
    assert_eq!(subnets(&fourth), subnets(&third));

    // As soon as the library knows it.
    cluster.daemons[2].kill()?;
    fs::remove_dir_all(state_dir(cluster.host(2)).join("node"))?;
    cluster.daemons[2].start()?;
    until("the library knows the part of its host", || {
        Ok(has_part(&cluster, 2).then_some(()))
    })?;
    cluster.daemons[2].kill()?;
    let containers = [
        Container::start(&cluster, "one", "vxlan-1", 0)?,
        Container::start(&cluster, "two", "vxlan-1", 1)?,
        Container::start(&cluster, "three", "vxlan-1", 2)?,
    ];
    cluster.daemons[2].start()?;
    let end = cluster.wait_until_current()?;
    assert_eq!(subnets(&end), subnets(&fourth));
    for (index, one) in containers.iter().enumerate() {
        for other in &containers[index + 1..] {
            one.wait_until_reaches(other)?;
            one.expect_reaches(other)?;
        }
    }
    cluster.end()
}
