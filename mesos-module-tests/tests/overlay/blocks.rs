//! An overlay whose addresses are lent to nodes in blocks.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use contrail_mesos_api::cluster::NodeList;
use ipnet::IpNet;
use mesos_module_tests::testbed::agent::{serve, state_dir};
use mesos_module_tests::testbed::framework::TaskState;
use mesos_module_tests::testbed::overlay::{Container, OverlayCluster, two_overlays};
use mesos_module_tests::testbed::until;
use serde_json::{Value, json};

const OVERLAY: &str = "vxlan-1";

/// The overlays, the first of which lends four blocks of five addresses each.
fn lending() -> Value {
    let mut overlays = two_overlays();
    overlays["block_rest"] = json!("1s");
    overlays["overlays"][0] = json!({
        "name": OVERLAY, "subnet": "192.168.0.0/27", "ipam": "cluster", "block": 29,
    });
    overlays
}

/// The blocks of a node, as the leader lists them.
fn blocks(list: &NodeList, node: &str) -> Vec<IpNet> {
    let nodes = list.nodes.iter().filter(|one| one.name == node);
    let given = nodes.flat_map(|node| &node.subnets);
    let given = given.filter(|given| given.overlay == OVERLAY);
    given.flat_map(|given| given.blocks.clone()).collect()
}

/// Launches these tasks on a node at the same time, and waits until all of them run.
fn start_all(cluster: &OverlayCluster, names: &[&str], node: usize) -> Result<Vec<Container>> {
    let scheduler = &cluster.mesos.scheduler;
    for name in names {
        scheduler.launch(cluster.task(name, OVERLAY, node, &serve(name)))?;
    }
    let containers = names.iter().map(|name| {
        let update = scheduler.running(name)?;
        Container::of(cluster, &update, OVERLAY, node)
    });
    containers
        .collect::<Result<_>>()
        .with_context(|| cluster.logs())
}

/// Checks that no two containers have one address, and no two nodes one block.
fn expect_no_duplicates(cluster: &OverlayCluster, containers: &[&[Container]]) -> Result<()> {
    let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for container in containers.iter().copied().flatten() {
        if let Some(other) = owners.insert(container.address, &container.task) {
            let Container { address, task, .. } = container;
            anyhow::bail!("{address} is {task}'s and {other}'s");
        }
    }
    let list = cluster.nodes()?;
    let own = blocks(&list, "node-1");
    ensure!(
        own.iter()
            .all(|block| !blocks(&list, "node-2").contains(block)),
        "{list:?}"
    );
    Ok(())
}

/// The block that the daemon of a node has offered to the managers.
fn offered_block(cluster: &OverlayCluster, node: usize) -> Result<Option<IpNet>> {
    let path = state_dir(cluster.host(node)).join("node/blocks.json");
    let Ok(text) = fs::read_to_string(path) else {
        return Ok(None);
    };
    let offers: Value = serde_json::from_str(&text)?;
    let block = offers["overlays"][OVERLAY]["blocks"][0].as_str();
    Ok(block.map(str::parse).transpose()?)
}

/// One address of a block may be on another host than the next block's, and a block on another one than
/// before.
#[test]
fn blocks_follow_the_containers_and_no_address_is_given_twice() -> Result<()> {
    let mut cluster = OverlayCluster::start_with(2, &lending())?;
    cluster.wait_until("each node has a block", |list| {
        ["node-1", "node-2"].map(|node| blocks(list, node).len()) == [1, 1]
    })?;
    // More than one block has room for, and a reserve.
    let names = ["one", "two", "three", "four", "five", "six", "seven"];
    let mut first = start_all(&cluster, &names, 0)?;
    let list = cluster.wait_until("all blocks are lent", |list| {
        ["node-1", "node-2"].map(|node| blocks(list, node).len()) == [3, 1]
    })?;
    let used = blocks(&list, "node-1").into_iter().filter(|block| {
        let mut containers = first.iter();
        containers.any(|container| block.contains(&container.address))
    });
    ensure!(used.count() >= 2, "{list:?}");
    let mut second = start_all(&cluster, &["a", "b", "c", "d", "e"], 1)?;
    // The next launch there waits for a block until it fails. Everything else goes on.
    let task = cluster.task("too-many", OVERLAY, 1, "true");
    cluster.mesos.scheduler.launch(task)?;
    for container in &first {
        second[0].wait_until_reaches(container)?;
    }
    second[0].expect_reaches(&first[6])?;
    expect_no_duplicates(&cluster, &[&first, &second])?;
    until("the leader says that the overlay is used up", || {
        let list = cluster.nodes()?;
        let mut nodes = list.nodes.iter().filter(|node| node.name == "node-2");
        let problems = nodes.next().map(|node| node.problems.join("\n"));
        let is_named = problems.is_some_and(|problems| problems.contains(OVERLAY));
        Ok(is_named.then_some(()))
    })?;

    // Without managers, containers end, and a block is offered that nobody takes. After a restart, the
    // daemon still does not use it.
    cluster.managers.kill()?;
    let scheduler = &cluster.mesos.scheduler;
    let ending: Vec<Container> = first.drain(..6).collect();
    for container in &ending {
        let killed = scheduler.framework.kill(&container.task);
        cluster.mesos.services().block_on(killed)?;
    }
    for container in &ending {
        scheduler.ended(&container.task)?;
    }
    let offered = until("a block is offered", || offered_block(&cluster, 0))?;
    for daemon in &mut cluster.daemons {
        daemon.kill()?;
    }
    for daemon in &mut cluster.daemons {
        daemon.start()?;
    }
    first.extend(start_all(&cluster, &["eight", "nine"], 0)?);
    ensure!(
        first.iter().all(|one| !offered.contains(&one.address)),
        "an address of {offered} is used, which is offered"
    );
    let failed = cluster.mesos.scheduler.ended("too-many")?;
    assert_eq!(failed.state, TaskState::TaskFailed, "{failed}");
    ensure!(
        failed.message.contains(&format!("overlay \"{OVERLAY}\"")),
        "{failed}"
    );

    // The managers are back: the other host gets the block, and uses it.
    cluster.managers.start()?;
    until("the other node has the block", || {
        let state = cluster.node_state(1)?;
        let local = state.overlay(OVERLAY).context("no overlay")?;
        Ok(local.blocks.contains(&offered).then_some(()))
    })
    .with_context(|| cluster.logs())?;
    second.extend(start_all(&cluster, &["f", "g"], 1)?);
    ensure!(
        second[5..].iter().all(|one| offered.contains(&one.address)),
        "an address beside {offered} was free"
    );
    for late in &second[5..] {
        for container in &first {
            late.wait_until_reaches(container)?;
        }
        first[0].expect_reaches(late)?;
    }
    expect_no_duplicates(&cluster, &[&first, &second])?;
    cluster.end()
}
