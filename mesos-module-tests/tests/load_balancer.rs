//! What marathon-lb makes of our addresses: a real `HAProxy` in front of tasks.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::load_balancer::HaProxy;
use mesos_module_tests::testbed::marathon::Marathon;
use mesos_module_tests::testbed::overlay::OverlayCluster;
use mesos_module_tests::testbed::until;
use serde_json::{Value, json};

/// An app of two instances on different hosts, on an overlay, with a health check that Mesos makes.
fn app(id: &str, group: &str) -> Value {
    json!({
        "id": id, "instances": 2, "cpus": 0.05, "mem": 32,
        "cmd": "mkdir -p www && echo $MESOS_TASK_ID > www/index.html && \
                exec busybox httpd -f -p 8080 -h www",
        "labels": { "HAPROXY_GROUP": group },
        "networks": [{ "mode": "container", "name": "vxlan-1" }],
        "container": { "type": "MESOS", "portMappings": [{ "containerPort": 8080 }] },
        "constraints": [["hostname", "UNIQUE"]],
        "healthChecks": [{ "protocol": "MESOS_HTTP", "delaySeconds": 0, "intervalSeconds": 1,
            "gracePeriodSeconds": 60 }],
    })
}

#[test]
fn haproxy_reaches_containers_of_an_overlay_on_all_hosts() -> Result<()> {
    let cluster = OverlayCluster::start(2)?;
    let services = cluster.mesos.services();
    let marathon = Marathon::start(services, cluster.mesos.master().master())?;
    let tasks = marathon.run(&app("/web", "external"))?;
    marathon.run(&app("/inner", "internal"))?;
    let hosts: BTreeSet<&String> = tasks.iter().map(|task| &task.host).collect();
    ensure!(hosts.len() == 2, "the constraint has no effect: {tasks:?}");

    // A host of the overlay reaches the addresses of all its containers.
    let host = cluster.host(0);
    let mut balancer = HaProxy::new(host, "external");
    let frontends = balancer.update(&marathon.url())?;
    let [web] = frontends else {
        anyhow::bail!("not one port: {frontends:?}");
    };
    ensure!(web.app == "web" && web.servers.len() == 2, "{web:?}");
    let port = web.port;
    let servers: BTreeSet<_> = web.servers.iter().map(std::net::SocketAddr::ip).collect();
    let addresses: BTreeSet<_> = tasks.iter().map(|task| task.addresses[0]).collect();
    assert_eq!(servers, addresses);

    // From outside of the cluster: each answer is that of another task.
    let url = format!("http://{}:{port}/", host.address());
    let answers = || -> Result<BTreeSet<String>> {
        let fetch = format!("for i in 1 2 3 4; do curl -sSf -m 5 {url}; done");
        Ok(services.sh(&fetch)?.lines().map(str::to_owned).collect())
    };
    let ids: BTreeSet<String> = tasks.iter().map(|task| task.id.clone()).collect();
    until("both tasks answer through HAProxy", || {
        let answers = answers().with_context(|| balancer.log())?;
        Ok((answers == ids).then_some(()))
    })?;

    // A task less: the balancer is reloaded.
    let left = marathon.scale("/web", 1)?;
    let servers = balancer.update(&marathon.url())?[0].servers.len();
    ensure!(servers == 1, "{servers} servers of {left:?}");
    until("the task that is left answers alone", || {
        Ok((answers()? == BTreeSet::from([left[0].id.clone()])).then_some(()))
    })?;
    balancer.stop()?;
    marathon.stop()?;
    cluster.end()
}
