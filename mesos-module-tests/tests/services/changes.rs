//! Services whose tasks, and whose parts of the cluster, come and go.

use anyhow::{Result, ensure};
use mesos_module_tests::testbed::agent::container;
use mesos_module_tests::testbed::marathon::Marathon;
use mesos_module_tests::testbed::overlay::OverlayCluster;
use mesos_module_tests::testbed::services::{
    Client, Place, container_app, service_name, wait_for_dns,
};
use mesos_module_tests::testbed::until;
use serde_json::json;

/// A task gets connections once its check has succeeded, and none while it fails; the service stays.
#[test]
fn backends_come_and_go_without_a_failed_connection() -> Result<()> {
    let mut cluster = OverlayCluster::with_services(2)?;
    for node in 0..2 {
        wait_for_dns(cluster.host(node))?;
    }
    let services = cluster.mesos.services();
    let marathon = Marathon::start(services, cluster.mesos.master().master())?;

    // The check asks for a page that is not there yet.
    let labels = json!({ "VIP_0": "/checked:80", "VIP_1": "10.0.0.3:80" });
    let mut checked = container_app("/checked", 1, "vxlan-1", false, &labels);
    checked["healthChecks"] = json!([{
        "protocol": "MESOS_HTTP", "path": "/ready", "delaySeconds": 0, "intervalSeconds": 1,
        "gracePeriodSeconds": 1, "maxConsecutiveFailures": 1000, "timeoutSeconds": 5,
    }]);
    marathon.create(&checked)?;
    let task = until("the checked task runs", || {
        let app = marathon.app("/checked")?;
        let task = app["tasks"][0].clone();
        Ok((task["state"] == "TASK_RUNNING").then_some(task))
    })?;
    let host = task["host"].as_str().unwrap_or_default();
    let node = cluster.node_of(host)?;
    let id = task["id"].as_str().unwrap_or_default().to_owned();
    let backend = Place::task(cluster.host(node), &id)?;
    let client = Place::host(cluster.host(1 - node));
    let vip = "http://10.0.0.3:80/";
    until(
        "a service whose only backend is not healthy is refused",
        || client.expect_refused(vip).map(Some),
    )?;
    for (change, is_ready) in [("touch", true), ("rm", false), ("touch", true)] {
        backend.sh(&format!("{change} www/ready"))?;
        until("the service follows the check", || {
            let answer = client.get(vip);
            let is_answered = answer.as_ref().is_ok_and(|answer| *answer == id);
            ensure!(is_answered == is_ready, "{answer:?} after {change}");
            Ok(Some(()))
        })?;
        let code = client.response_code(&service_name("checked"), "A")?;
        ensure!(code == "NOERROR", "the name is gone: {code}");
    }

    // A client that never pauses sees no failure while the app scales and parts are killed.
    let labels = json!({ "VIP_0": "/busy:80" });
    marathon.run(&container_app("/busy", 1, "vxlan-1", false, &labels))?;
    let update = cluster.run("client", "vxlan-2", 0, "sleep 100000")?;
    let place = Place::container(cluster.host(0), &container(&update)?, "client");
    until("the service answers", || {
        place.get_service("busy", 80).map(Some)
    })?;
    let url = format!("http://{}/", service_name("busy"));
    let client = Client::start(&place, "busy", &url)?;
    for instances in [4, 2] {
        marathon.scale("/busy", instances)?;
        client.wait_for_progress()?;
    }
    let leader = cluster.managers.leader()?;
    cluster.managers.manager_mut(leader).kill()?;
    client.wait_for_progress()?;
    cluster.managers.kill()?;
    marathon.scale("/busy", 3)?;
    client.wait_for_progress()?;
    cluster.managers.start()?;
    cluster.wait_until_current()?;
    client.wait_for_progress()?;
    let (count, answered) = client.finish()?;
    ensure!(answered.len() >= 3, "{count} answers of {answered:?} only");
    marathon.stop()?;
    cluster.end()
}
