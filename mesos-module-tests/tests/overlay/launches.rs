//! Launches before the node daemon has written what they need.

use anyhow::{Result, ensure};
use mesos_module_tests::testbed::overlay::{Container, OverlayCluster};

#[test]
fn launch_waits_for_the_node_daemon() -> Result<()> {
    let mut cluster = OverlayCluster::without_daemons(1)?;
    let scheduler = &cluster.mesos.scheduler;
    let message = scheduler.refused(cluster.task("alone", "vxlan-1", 0, "true"))?;
    ensure!(message.contains("contrail-mesos-node"), "{message}");
    // Nothing is left of it.
    cluster.node(0).expect_no_container()?;

    // How long a launch waits is limited, so that on a slow machine the daemon may need more than one.
    let mut running = None;
    for attempt in 0..5 {
        let task = format!("early-{attempt}");
        let spec = cluster.task(&task, "vxlan-1", 0, "exec sleep 1000");
        cluster.mesos.scheduler.launch(spec)?;
        cluster.daemons[0].start()?;
        let update = cluster.mesos.scheduler.settled(&task)?;
        if !update.state.is_terminal() {
            running = Some(Container::of(&cluster, &update, "vxlan-1", 0)?);
            break;
        }
        ensure!(
            update.message.contains("contrail-mesos-node"),
            "{}",
            update.message
        );
    }
    ensure!(
        running.is_some(),
        "no launch has waited:\n{}",
        cluster.logs()
    );
    cluster.end()
}
