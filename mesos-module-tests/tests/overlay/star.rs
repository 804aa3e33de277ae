//! The isolated phase of the Star demonstration, and what may happen to its parts: no packet crosses
//! groups.

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::star::running::{publish, task, wait_for_matrix, wait_for_rounds};
use mesos_module_tests::star::{Directory, Matrix, RunningProbe, Status, expected};
use mesos_module_tests::testbed::agent::Agent;
use mesos_module_tests::testbed::overlay::{NodeDaemon, OverlayCluster, two_overlays};
use mesos_module_tests::testbed::{Host, until};
use serde_json::{Value, json};

const COLLECT: &[&str] = &["star-1", "star-2", "public"];
const STAR_1: &[&str] = &["star-1"];
const STAR_2: &[&str] = &["star-2"];

/// The probes with their groups: the isolated phase.
const ISOLATED: [(&str, &[&str]); 5] = [
    ("probe-a", STAR_1),
    ("probe-b", STAR_1),
    ("probe-c", STAR_2),
    ("probe-d", STAR_2),
    ("collect", COLLECT),
];
/// The same with one of them in the other group.
const MOVED: [(&str, &[&str]); 5] = [
    ("probe-a", STAR_1),
    ("probe-b", STAR_2),
    ("probe-c", STAR_2),
    ("probe-d", STAR_2),
    ("collect", COLLECT),
];
/// The node of each of them: members of a group are on two hosts, and strangers side by side.
const NODES: [usize; 5] = [0, 1, 0, 2, 1];

/// The matrix without what is from or to these probes.
fn without(matrix: &Matrix, is_cut: impl Fn(&str) -> bool) -> Matrix {
    let mut cut = matrix.clone();
    for (from, row) in &mut cut {
        for (to, reached) in row {
            *reached &= !is_cut(from) && !is_cut(to);
        }
    }
    cut
}

/// Checks that nothing came in from probes that never had a group in common with the receiver.
fn expect_none_from(statuses: &[Status], receiver: &str, senders: &[&str]) -> Result<()> {
    let status = statuses.iter().find(|status| status.name == receiver);
    let status = status.with_context(|| format!("no state of {receiver}"))?;
    for sender in senders {
        ensure!(
            !status.received.contains_key(*sender),
            "{receiver} has received from {sender}: {status:?}"
        );
    }
    Ok(())
}

/// Checks what no probe may ever have received, and that the members of a group did receive.
fn expect_groups_kept(statuses: &[Status]) -> Result<()> {
    for (receiver, strangers) in [
        ("probe-a", &["probe-c", "probe-d"][..]),
        ("probe-c", &["probe-a"]),
        ("probe-d", &["probe-a"]),
    ] {
        expect_none_from(statuses, receiver, strangers)?;
        let status = statuses.iter().find(|status| status.name == receiver);
        let collect = status.and_then(|status| status.received.get("collect"));
        let collect = collect.with_context(|| format!("nothing of collect at {receiver}"))?;
        ensure!(collect.requests > 0 && collect.datagrams > 0, "{collect:?}");
    }
    Ok(())
}

/// How many datagrams of a sender a probe has received.
fn datagrams(statuses: &[Status], receiver: &str, sender: &str) -> u64 {
    let status = statuses.iter().find(|status| status.name == receiver);
    let counters = status.and_then(|status| status.received.get(sender));
    counters.map_or(0, |counters| counters.datagrams)
}

/// The overlays, the first of which isolates groups.
fn isolating_overlays() -> Value {
    let mut overlays = two_overlays();
    overlays["overlays"][0]["groups"] = json!(true);
    overlays
}

/// A cluster whose overlay `vxlan-1` isolates groups, with a directory that all containers reach.
fn start(nodes: u8) -> Result<(OverlayCluster, Directory)> {
    let cluster = OverlayCluster::start(nodes)?;
    let directory = Directory::start(cluster.mesos.services())?;
    cluster.set_overlays(&isolating_overlays())?;
    for node in 0..usize::from(nodes) {
        until("the node knows that the overlay isolates groups", || {
            let state = cluster.node_state(node)?;
            let overlay = state.overlay("vxlan-1").context("no overlay")?;
            Ok(overlay.groups.map(drop))
        })?;
    }
    cluster.wait_until_current()?;
    Ok((cluster, directory))
}

#[test]
fn star_groups_are_isolated_across_hosts() -> Result<()> {
    let (mut cluster, directory) = start(3)?;
    let mut probes = vec![];
    for ((name, groups), node) in ISOLATED.into_iter().zip(NODES) {
        let task = task(name, "vxlan-1", groups, &directory)?;
        let hostname = cluster.node(node).hostname();
        let update = cluster.mesos.scheduler.run(task.on_host(&hostname))?;
        probes.push(RunningProbe::of(&update, cluster.host(node))?);
    }
    publish(&probes, &directory);
    let isolated = expected(&ISOLATED);
    let statuses = wait_for_matrix(&probes, &isolated).with_context(|| cluster.logs())?;
    expect_groups_kept(&statuses)?;
    // Hosts are admitted: the one of a container, and the others.
    for node in 0..3 {
        let url = format!("http://{}/matrix", probes[4].address);
        let page = cluster.host(node).sh(&format!("curl -sSf -m 5 {url}"))?;
        assert_eq!(serde_json::from_str::<Value>(&page)?, json!(isolated));
    }
    // The world outside is not, but containers reach it: so they have the directory.
    let url = format!("http://{}/status", probes[0].address);
    let answer = (cluster.mesos.services()).sh(&format!("curl -sSf -m 1 {url}"));
    ensure!(answer.is_err(), "the world outside reaches a container");

    // One of them changes its group while it runs: what it sent before is cut.
    probes[1].change_groups(&["--group", "star-2"])?;
    let moved = expected(&MOVED);
    let statuses = wait_for_matrix(&probes, &moved).with_context(|| cluster.logs())?;
    let later = wait_for_rounds(&probes, &statuses)?;
    for (receiver, sender) in [("probe-a", "probe-b"), ("probe-b", "probe-a")] {
        let before = datagrams(&statuses, receiver, sender);
        assert_eq!(
            datagrams(&later, receiver, sender),
            before,
            "{sender} → {receiver}"
        );
    }
    ensure!(
        datagrams(&later, "probe-d", "probe-b") > datagrams(&statuses, "probe-d", "probe-b"),
        "members of a group do not send to each other"
    );
    probes[1].change_groups(&["--reset"])?;
    wait_for_matrix(&probes, &isolated).with_context(|| cluster.logs())?;

    // An agent is killed and comes back; then node daemons are, with the rules removed meanwhile.
    cluster.mesos.nodes[0].cluster.kill_9()?;
    wait_for_matrix(&probes, &isolated)?;
    cluster.mesos.nodes[0].cluster.restart()?;
    for daemon in &mut cluster.daemons {
        daemon.kill()?;
    }
    wait_for_matrix(&probes, &isolated)?;
    cluster.host(0).sh("nft flush ruleset")?;
    // Without rules nobody reaches its containers, and they get no replies.
    let on_host = |name: &str| ["probe-a", "probe-c"].contains(&name);
    let statuses = wait_for_matrix(&probes, &without(&isolated, on_host))?;
    expect_groups_kept(&statuses)?;
    for daemon in &mut cluster.daemons {
        daemon.start()?;
    }
    wait_for_matrix(&probes, &isolated).with_context(|| cluster.logs())?;
    // The managers are lost as well, and the rules with all of them running again.
    cluster.managers.kill()?;
    for node in [0, 1, 2] {
        cluster.host(node).sh("nft flush ruleset")?;
    }
    wait_for_matrix(&probes, &isolated).with_context(|| cluster.logs())?;
    cluster.managers.start()?;
    cluster.wait_until_current()?;
    let statuses = wait_for_matrix(&probes, &isolated).with_context(|| cluster.logs())?;
    expect_groups_kept(&statuses)?;
    cluster.end()
}

/// Launches the probes on a host alone.
fn start_bridge_probes(agent: &Agent, directory: &Directory) -> Result<Vec<RunningProbe>> {
    let mut probes = vec![];
    for (name, groups) in ISOLATED {
        let update = agent.run(task(name, "blue", groups, directory)?)?;
        probes.push(RunningProbe::of(&update, agent.host())?);
    }
    Ok(probes)
}

#[test]
fn star_groups_are_isolated_on_one_host_without_managers() -> Result<()> {
    let mut agent = Agent::start(
        "[[network]]\nname = 'blue'\nprovider = 'bridge'\nbridge = 'blue0'\n\
         subnet = '10.32.0.0/24'\ngroups = true\n\
         [[network]]\nname = 'red'\nprovider = 'bridge'\nbridge = 'red0'\nsubnet = '10.33.0.0/24'\n",
    )?;
    let directory = Directory::start(agent.host())?;
    let probes = start_bridge_probes(&agent, &directory)?;
    publish(&probes, &directory);
    // No daemon has allowed anything: containers reach the host, but no container reaches another.
    let isolated = expected(&ISOLATED);
    let nobody = without(&isolated, |_| true);
    let statuses = wait_for_matrix(&probes, &nobody)?;
    let received: Vec<_> = statuses.iter().map(|status| &status.received).collect();
    ensure!(received.iter().all(|all| all.is_empty()), "{received:?}");
    expect_host_reaches(agent.host(), &probes)?;

    let mut daemon = NodeDaemon::new(agent.host());
    daemon.start()?;
    wait_for_matrix(&probes, &isolated).with_context(|| daemon.log())?;
    expect_host_reaches(agent.host(), &probes)?;
    // br_netfilter, and who else filters, make no difference.
    agent
        .host()
        .sh("test ! -e /proc/sys/net/bridge || sysctl -qw net.bridge.bridge-nf-call-iptables=0")?;
    wait_for_matrix(&probes, &isolated)?;
    agent.host().sh("nft flush ruleset")?;
    wait_for_matrix(&probes, &isolated).with_context(|| daemon.log())?;
    probes[1].change_groups(&["--group", "star-2"])?;
    let moved = expected(&MOVED);
    wait_for_matrix(&probes, &moved).with_context(|| daemon.log())?;
    daemon.kill()?;
    agent.crash()?;
    let statuses = wait_for_matrix(&probes, &moved)?;
    expect_groups_kept(&statuses)?;
    daemon.start()?;
    let statuses = wait_for_matrix(&probes, &moved).with_context(|| daemon.log())?;
    expect_groups_kept(&statuses)?;

    // Groups on a network that does not isolate them are not ignored.
    let message = agent.refused(task("refused", "red", STAR_1, &directory)?)?;
    ensure!(
        message.contains("red") && message.contains("groups"),
        "{message}"
    );
    for probe in &probes {
        agent.kill(&probe.name)?;
    }
    // The daemon removes its rules as well.
    agent.expect_no_container()?;
    daemon.kill()?;
    drop((directory, daemon));
    agent.end()
}

fn expect_host_reaches(host: &Host, probes: &[RunningProbe]) -> Result<()> {
    for probe in probes {
        host.sh(&format!("curl -sSf -m 5 http://{}/status", probe.address))?;
    }
    Ok(())
}
