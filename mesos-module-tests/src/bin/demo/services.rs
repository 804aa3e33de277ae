//! The sixth act: services on three hosts without Contrail, and on virtual networks of Contrail.
//!
//! The samples of `VIP_0` for Marathon, on the network of the hosts, on a bridge with mapped ports, and on an
//! overlay. Names and virtual IPs are asked from hosts, from containers and from the backends themselves. An
//! app scales under a client that never pauses, a check takes a backend out, every part is killed, and a
//! real `HAProxy` fronts the apps of a group.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::load_balancer::HaProxy;
use mesos_module_tests::testbed::agent::container;
use mesos_module_tests::testbed::marathon::{AppTask, Marathon, ids};
use mesos_module_tests::testbed::overlay::{BRIDGE, OverlayCluster};
use mesos_module_tests::testbed::services::{
    Client, ContrailServices, DNS, LINK_LOCAL_DNS, Place, container_app, host_app, service_name,
    virtual_network_app, wait_for_dns,
};
use mesos_module_tests::testbed::until;
use serde_json::{Value, json};

use crate::show::{self, indent, say};

const NODES: usize = 3;
/// The IP VIP of the sample on the network of the hosts.
const IP_VIP: &str = "10.0.0.1:80";

pub(crate) fn run() -> Result<()> {
    say(
        "four hosts: three nodes, and one with the Mesos master, ZooKeeper, two managers and Marathon",
    );
    let cluster = OverlayCluster::with_services(3)?;
    println!("    each node: a bridge network, two overlays, and contrail-mesos-node with its DNS");
    show::run_act(cluster, act)?;
    virtual_networks()
}

fn act(cluster: &mut OverlayCluster) -> Result<()> {
    for node in 0..NODES {
        wait_for_dns(cluster.host(node))?;
    }
    let services = cluster.mesos.services().clone();
    let marathon = Marathon::start(&services, cluster.mesos.master().master())?;
    samples(cluster, &marathon)?;
    checked(cluster, &marathon)?;
    busy(cluster, &marathon)?;
    balanced(cluster, &marathon)?;
    marathon.stop()
}

/// Runs an app, and prints its port and its tasks.
fn start(marathon: &Marathon, app: &Value) -> Result<Vec<AppTask>> {
    let ports = [&app["portDefinitions"], &app["container"]["portMappings"]];
    let ports = ports.into_iter().find(|ports| ports.is_array());
    println!(
        "    POST /v2/apps {}: {}",
        app["id"],
        ports.context("no port")?[0]
    );
    let tasks = marathon.run(app)?;
    for task in &tasks {
        println!(
            "        {} on {} at {:?} {:?}",
            task.id, task.host, task.addresses, task.ports
        );
    }
    Ok(tasks)
}

/// The samples of the documentation, asked from everywhere.
fn samples(cluster: &OverlayCluster, marathon: &Marathon) -> Result<()> {
    say("POST /v2/apps: virtual IPs by the label VIP_0, on three kinds of networks");
    let named = |name: &str| json!({ "VIP_0": format!("/{name}:80") });
    let apps = [
        (
            "ip-vip",
            host_app("/ip-vip", 2, &json!({ "VIP_0": IP_VIP })),
        ),
        (
            "my-service",
            host_app("/my-service", 2, &named("my-service")),
        ),
        (
            "mapped",
            container_app("/mapped", 2, BRIDGE, true, &named("mapped")),
        ),
        (
            "routed",
            container_app("/routed", 2, "vxlan-1", false, &named("routed")),
        ),
    ];
    let mut expected = vec![];
    for (name, mut app) in apps.clone() {
        app["constraints"] = json!([["hostname", "UNIQUE"]]);
        expected.push((name, start(marathon, &app)?));
    }
    say("what the managers publish: GET /v1/vips, as dcos-net has it");
    let leader = cluster.managers.manager(cluster.managers.leader()?);
    let vips = until("all services are published", || {
        let vips: Vec<Value> = serde_json::from_str(&leader.get("/v1/vips")?.body)?;
        Ok((vips.len() == apps.len()).then_some(vips))
    })?;
    for vip in vips {
        println!("    {vip}");
    }
    say("dig and curl from a host, from containers, and from the backends themselves");
    let mut places = vec![Place::host(cluster.host(0)), Place::host(cluster.host(2))];
    for (node, network) in [(0, BRIDGE), (1, "vxlan-2")] {
        let name = format!("client on {network}");
        let task = format!("client-{network}");
        let id = container(&cluster.run(&task, network, node, "sleep 100000")?)?;
        places.push(Place::container(cluster.host(node), &id, &name));
    }
    for (_, tasks) in &expected[2..] {
        for task in tasks {
            let host = cluster.host(cluster.node_of(&task.host)?);
            places.push(Place::task(host, &task.id)?);
        }
    }
    for place in &places {
        println!("    {}:", place.name);
        for (service, tasks) in &expected {
            if *service == "ip-vip" {
                let url = format!("http://{IP_VIP}/");
                place.expect_answers(&ids(tasks), |place| place.get(&url))?;
                println!("        curl {url}: both tasks");
                continue;
            }
            place.expect_answers(&ids(tasks), |place| place.get_service(service, 80))?;
            let name = service_name(service);
            let addresses = place.addresses(&name, "A")?;
            println!("        dig @{DNS} {name}: {addresses:?}; curl http://{name}/: both tasks");
        }
    }
    let name = service_name("nothing");
    println!("    dig {name}: {}", places[0].response_code(&name, "A")?);
    let name = "routed.marathon.containerip.dcos.thisdcos.directory";
    println!("    dig {name}: {:?}", places[0].addresses(name, "A")?);
    say("contrail-mesos-node on node-1: what its kernel has");
    let table = "nft list table inet contrail_mesos_services | head -n 60";
    println!("{}", indent(&cluster.host(0).sh(table)?));
    for (id, _) in &apps {
        marathon.delete(&format!("/{id}"))?;
    }
    Ok(())
}

/// A health check takes a backend out, and puts it back.
fn checked(cluster: &OverlayCluster, marathon: &Marathon) -> Result<()> {
    say("a backend whose health check fails gets no connections");
    let mut app = container_app(
        "/checked",
        2,
        "vxlan-1",
        false,
        &json!({ "VIP_0": "/checked:80" }),
    );
    app["healthChecks"] = json!([{
        "protocol": "MESOS_HTTP", "path": "/", "delaySeconds": 0, "intervalSeconds": 1,
        "gracePeriodSeconds": 60, "maxConsecutiveFailures": 1000, "timeoutSeconds": 5,
    }]);
    let tasks = start(marathon, &app)?;
    let client = Place::host(cluster.host(0));
    let get = |place: &Place| place.get_service("checked", 80);
    client.expect_answers(&ids(&tasks), get)?;
    println!("    both tasks answer");
    let host = cluster.host(cluster.node_of(&tasks[0].host)?);
    let failing = Place::task(host, &tasks[0].id)?;
    for (change, left) in [
        ("mv www/index.html www/away", &tasks[1..]),
        ("mv www/away www/index.html", &tasks[..]),
    ] {
        failing.sh(change)?;
        let expected = ids(left);
        // Some of the next answers may still be from before.
        until("the check has an effect", || {
            let answers = (0..16)
                .map(|_| get(&client))
                .collect::<Result<BTreeSet<String>>>()?;
            ensure!(answers == expected, "{answers:?}");
            Ok(Some(()))
        })?;
        println!("    {change}: {} of 2 tasks answer", expected.len());
    }
    marathon.delete("/checked")
}

/// An app scales, and parts are killed, under a client that never pauses.
fn busy(cluster: &mut OverlayCluster, marathon: &Marathon) -> Result<()> {
    say("a client opens one connection after another, without a pause");
    let app = container_app(
        "/busy",
        1,
        "vxlan-1",
        false,
        &json!({ "VIP_0": "/busy:80" }),
    );
    start(marathon, &app)?;
    let id = container(&cluster.run("busy-client", BRIDGE, 0, "sleep 100000")?)?;
    let place = Place::container(cluster.host(0), &id, "client on blue");
    until("the service answers", || {
        place.get_service("busy", 80).map(Some)
    })?;
    let client = Client::start(&place, "busy", &format!("http://{}/", service_name("busy")))?;
    for instances in [5, 2] {
        marathon.scale("/busy", instances)?;
        client.wait_for_progress()?;
        println!("    /busy has {instances} instances: no connection failed");
    }
    let leader = cluster.managers.leader()?;
    cluster.managers.manager_mut(leader).kill()?;
    client.wait_for_progress()?;
    println!("    kill -9 of the leading manager: no connection failed");
    cluster.managers.kill()?;
    cluster.mesos.nodes[1].cluster.kill_9()?;
    client.wait_for_progress()?;
    println!("    kill -9 of all managers and of an agent: no connection failed");
    cluster.mesos.nodes[1].cluster.restart()?;
    cluster.managers.start()?;
    cluster.wait_until_current()?;
    client.wait_for_progress()?;
    println!("    all are started again: no connection failed");
    cluster
        .mesos
        .replace_master(|| client.wait_for_progress())?;
    client.wait_for_progress()?;
    println!("    kill -9 of the Mesos master, which starts again: no connection failed");
    let (count, answered) = client.finish()?;
    println!(
        "    {count} connections to {} tasks, none failed",
        answered.len()
    );
    // Established names and connections need no daemon: only its DNS is gone while it is.
    let address = place.addresses(&service_name("busy"), "A")?;
    let address = address.first().context("no address")?;
    let client = Client::start(&place, "without-daemon", &format!("http://{address}/"))?;
    cluster.daemons[0].kill()?;
    client.wait_for_progress()?;
    cluster.daemons[0].start()?;
    cluster.wait_until_current()?;
    let (count, _) = client.finish()?;
    println!("    kill -9 of the node daemon, and its restart: {count} connections, none failed");
    marathon.delete("/busy")
}

/// A real balancer in front of containers, configured as marathon-lb does.
fn balanced(cluster: &OverlayCluster, marathon: &Marathon) -> Result<()> {
    say(
        "HAProxy on node-3 fronts the apps with HAPROXY_GROUP external, as marathon-lb configures it",
    );
    for (id, group) in [
        ("/shop", "external"),
        ("/store", "external,internal"),
        ("/intern", "internal"),
    ] {
        let mut app = container_app(id, 2, "vxlan-1", false, &json!({}));
        app["labels"] = json!({ "HAPROXY_GROUP": group });
        let tasks = marathon.run(&app)?;
        println!("    {id}: HAPROXY_GROUP {group}, {} tasks", tasks.len());
    }
    let host = cluster.host(2);
    let mut balancer = HaProxy::new(host, "external");
    let frontends = balancer.update(&marathon.url())?.to_vec();
    ensure!(frontends.len() == 2, "{frontends:?}");
    for frontend in &frontends {
        let tasks = marathon.wait(&format!("/{}", frontend.app))?;
        let url = format!("http://{}:{}/", host.address(), frontend.port);
        let outside = Place::host(cluster.mesos.services());
        outside.expect_answers(&ids(&tasks), |place| place.get(&url))?;
        println!(
            "    {url} from outside: both tasks of /{}, {:?}",
            frontend.app, frontend.servers
        );
    }
    balancer.stop()
}

/// The same on networks of Contrail, where the vRouters forward.
fn virtual_networks() -> Result<()> {
    say("three more hosts: two nodes with vRouter agents, and one with the Contrail API server");
    let cluster = ContrailServices::start(2)?;
    say("POST /v2/apps: a virtual IP by the label VIP_0 on a virtual network");
    let labels = json!({ "VIP_0": "/shop:80" });
    let tasks = start(&cluster.marathon, &virtual_network_app("/shop", 2, &labels))?;
    let address = cluster.virtual_address(80, tasks.len())?;
    println!("    floating-ip {address} with a port map, and the interfaces of both tasks");
    let client = cluster.run_client("/client")?;
    client.expect_answers(&ids(&tasks), |place| place.get_service("shop", 80))?;
    let name = service_name("shop");
    println!("    client on blue-network: {name} from the link-local DNS {LINK_LOCAL_DNS};");
    println!("        curl http://{name}/: both tasks");
    cluster.marathon.scale("/shop", 1)?;
    cluster.virtual_address(80, 1)?;
    println!("    /shop has one instance: the floating-ip has one interface");
    for app in ["/client", "/shop"] {
        cluster.marathon.delete(app)?;
    }
    say("leftovers");
    cluster.end()?;
    println!("    none, and the API server has the same objects as before");
    Ok(())
}
