//! Containers of the real Docker on the overlays, beside those of Mesos.

use anyhow::{Context as _, Result, ensure};
use contrail_mesos_api::cluster::halves;
use mesos_module_tests::testbed::docker::Docker;
use mesos_module_tests::testbed::multi_node::SERVICES;
use mesos_module_tests::testbed::overlay::{Container, OverlayCluster};

use crate::fixture::subnet_of;

#[test]
fn containers_of_docker_and_mesos_share_the_overlays() -> Result<()> {
    let mut cluster = OverlayCluster::without_daemons(2)?;
    let docker = Docker::start(cluster.host(0))?;
    docker.enable()?;
    for daemon in &mut cluster.daemons {
        daemon.start()?;
    }
    let list = cluster.wait_until_current()?;
    let beside = Container::start(&cluster, "beside", "vxlan-1", 0)?;
    let remote = Container::start(&cluster, "remote", "vxlan-1", 1)?;
    let other = Container::start(&cluster, "other", "vxlan-2", 1)?;
    // Docker's filter lets those of Mesos pass.
    beside.expect_reaches(&remote)?;

    let address = docker.serve("in-docker", "vxlan-1")?;
    let subnet = subnet_of(&list, "node-1", "vxlan-1")?;
    let (_, upper) = halves(subnet.into()).context("no halves")?;
    ensure!(upper.contains(&address), "{address} is not of {upper}");
    for container in [&beside, &remote, &other] {
        container.ping(address, 1)?;
        let page = container.sh(&format!(
            "curl -sSf -m 5 --retry 20 --retry-delay 1 --retry-all-errors http://{address}/"
        ))?;
        assert_eq!(page.trim(), "in-docker");
        let fetch = format!("wget -q -O - http://{}/", container.address);
        assert_eq!(docker.exec("in-docker", &fetch)?, container.task);
    }
    docker.exec("in-docker", &format!("ping -c 1 -W 5 {SERVICES}"))?;

    // It goes on while the daemon is killed, and a started daemon changes nothing.
    let before = docker.run("network inspect --format '{{.Id}}' vxlan-1 vxlan-2")?;
    cluster.daemons[0].kill()?;
    remote.ping(address, 1)?;
    cluster.daemons[0].start()?;
    cluster.wait_until_current()?;
    assert_eq!(
        docker.run("network inspect --format '{{.Id}}' vxlan-1 vxlan-2")?,
        before
    );
    cluster.daemons[0].kill()?;
    docker.stop()?;
    // Without Docker, nothing of its half is left.
    cluster.daemons[0].start()?;
    cluster.wait_until_current()?;
    cluster.end()
}
