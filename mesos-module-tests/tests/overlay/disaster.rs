//! What `docs/disaster-recovery.md` says about the loss of everything in ZooKeeper.

use std::fs;
use std::future::Future;
use std::pin::Pin;

use anyhow::{Result, ensure};
use mesos_module_tests::testbed::agent::state_dir;
use mesos_module_tests::testbed::overlay::{Container, OverlayCluster};
use zookeeper_client::{Client, Error};

use crate::fixture::{subnet_of, subnets};

/// Deletes a node of ZooKeeper with everything below it.
fn delete<'a>(
    client: &'a Client,
    path: String,
) -> Pin<Box<dyn Future<Output = Result<(), Error>> + Send + 'a>> {
    Box::pin(async move {
        for child in client.list_children(&path).await? {
            delete(client, format!("{path}/{child}")).await?;
        }
        client.delete(&path, None).await
    })
}

#[test]
fn lost_records_are_the_same_again_in_the_order_of_subnets() -> Result<()> {
    let mut cluster = OverlayCluster::start(2)?;
    let before = cluster.wait_until_current()?;
    let one = Container::start(&cluster, "one", "vxlan-1", 0)?;
    let two = Container::start(&cluster, "two", "vxlan-1", 1)?;

    for daemon in &mut cluster.daemons {
        daemon.kill()?;
    }
    cluster.managers.kill()?;
    let zookeeper = cluster.mesos.zookeeper.address().to_string();
    cluster.mesos.services().block_on(async {
        let client = Client::connect(&zookeeper).await?;
        delete(&client, "/contrail-mesos".to_owned()).await
    })?;
    one.expect_reaches(&two)?;
    cluster.managers.start()?;
    cluster.managers.leader()?;
    ensure!(
        cluster.nodes()?.nodes.is_empty(),
        "the records are still there"
    );

    // The lowest subnet is given first. A daemon follows these managers once it has forgotten the state
    // of the lost ones.
    let mut order = [0, 1];
    let first = [
        subnet_of(&before, "node-1", "vxlan-1")?,
        subnet_of(&before, "node-2", "vxlan-1")?,
    ];
    order.sort_by_key(|node| first[*node]);
    for node in order {
        fs::remove_file(state_dir(cluster.host(node)).join("node/cluster.json"))?;
        cluster.daemons[node].start()?;
        cluster.wait_until_current()?;
    }
    let after = cluster.wait_until_current()?;
    assert_eq!(subnets(&after), subnets(&before));
    one.wait_until_reaches(&two)?;
    let three = Container::start(&cluster, "three", "vxlan-1", 1)?;
    ensure!(three.address != two.address, "an address is given twice");
    one.wait_until_reaches(&three)?;
    cluster.end()
}
