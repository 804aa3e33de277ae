//! The testbed of several hosts: agents with a common master, each in a network namespace of its own.

use anyhow::{Result, ensure};
use mesos_module_tests::testbed::Host;
use mesos_module_tests::testbed::agent::{address, container, fetch, serve};
use mesos_module_tests::testbed::framework::TaskSpec;
use mesos_module_tests::testbed::multi_node::{MultiNodeCluster, SERVICES};

/// A network with a subnet of each host.
fn start(nodes: u8) -> Result<MultiNodeCluster> {
    MultiNodeCluster::start(nodes, |host| {
        Ok(format!(
            "[[network]]\nname = 'blue'\nprovider = 'bridge'\nbridge = 'blue0'\nsubnet = '{}'\n",
            subnet(host)
        ))
    })
}

fn subnet(host: &Host) -> String {
    let number = host.address().to_string().replace("192.0.2.", "");
    format!("10.32.{number}.0/24")
}

/// A task on the network of each node, with its number as its name.
fn launch_on_each(cluster: &MultiNodeCluster) -> Result<()> {
    for (index, node) in cluster.nodes.iter().enumerate() {
        let name = index.to_string();
        let task = TaskSpec::new(&name, &serve(&name))
            .network("blue")
            .on_host(&node.hostname());
        let update = cluster.scheduler.run(task)?;
        let address = address(&update)?;
        let subnet: ipnet::IpNet = subnet(node.host()).parse()?;
        ensure!(subnet.contains(&address), "{address} is not of {subnet}");
        let page = node.host().sh(&fetch(&format!("http://{address}/")))?;
        ensure!(page.trim() == name, "{address} is {page}");
        // The world outside, by the host's address.
        let id = container(&update)?;
        node.host()
            .sh(&format!("ip netns exec {id} ping -c 1 -W 5 {SERVICES}"))?;
    }
    Ok(())
}

#[test]
fn agents_of_three_hosts_have_one_master() -> Result<()> {
    let mut cluster = start(3)?;
    launch_on_each(&cluster)?;
    // One agent is killed, and comes back with its container. The others go on.
    cluster.nodes[1].cluster.kill_9()?;
    for node in [0, 2] {
        let task = TaskSpec::new(&format!("beside-{node}"), "true")
            .network("blue")
            .on_host(&cluster.nodes[node].hostname());
        cluster.scheduler.passes(task)?;
    }
    cluster.nodes[1].cluster.restart()?;
    let live = cluster.scheduler.framework.live_tasks();
    ensure!(live.len() == 3, "{live:?}");
    // Without its cable, a host reaches nobody.
    let node = &cluster.nodes[2];
    let ping = format!("ping -c 1 -W 1 {SERVICES}");
    node.pull_cable()?;
    ensure!(node.host().sh(&ping).is_err(), "the cable is not pulled");
    node.plug_cable()?;
    node.host().sh(&format!(
        "for i in $(seq 50); do {ping} && exit 0; done; exit 1"
    ))?;
    cluster.end()
}

#[test]
fn two_clusters_of_hosts_run_at_once() -> Result<()> {
    let clusters = [start(2)?, start(2)?];
    for cluster in &clusters {
        launch_on_each(cluster)?;
    }
    for cluster in clusters {
        cluster.end()?;
    }
    Ok(())
}
