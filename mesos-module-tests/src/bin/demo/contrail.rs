//! The second act: two hosts, and networks of Contrail.
//!
//! Labels of Marathon apps choose networks, security groups and floating IPs. Containers reach each
//! other within a network across hosts, but not between networks. A security group opens one port,
//! and floating IPs are reachable from outside. At the end the API server has the same objects as
//! before.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use contrail_mesos_manager::vnc::Object as _;
use contrail_mesos_manager::vnc::{FloatingIpPool, FqName, SecurityGroup};
use mesos_module_tests::testbed::agent::{self, config_path};
use mesos_module_tests::testbed::contrail::{Contrail, Vrouter, open_ports};
use mesos_module_tests::testbed::{Cluster, Host, leftovers};
use serde_json::{Value, json};

use crate::marathon::{self, Marathon};
use crate::show::{self, say};

const POOLS: [&str; 2] = ["__fip_pool_public__", "__fip_pool_public2__"];
/// Two floating IPs, each of a pool of its own.
const FLOATING_IPS: &str = "default-domain:default-project:__public__:__fip_pool_public__(10.66.77.123),\
                        default-domain:default-project:__public__:__fip_pool_public2__(10.33.44.11)";
const SECURITY_GROUP: &str = "default-domain:default-project:security_groups_mesos";

/// A node: a Mesos cluster, a vRouter agent, and a Marathon of that cluster.
struct Compute {
    host: Host,
    cluster: Cluster,
    vrouter: Vrouter,
    marathon: Option<Marathon>,
}

/// A running task, and where it is.
struct Task {
    app: &'static str,
    compute: usize,
    container: String,
    network: &'static str,
    address: String,
}

pub(crate) fn run() -> Result<()> {
    say("three hosts: two nodes, and one with the Contrail API server and the manager");
    let outside = Host::start("192.0.2.100".parse()?)?;
    let mut names = vec![outside.name().to_owned()];
    let mut hosts = Vec::new();
    for address in ["192.0.2.1", "192.0.2.2"] {
        let host = agent::host_at(address.parse()?)?;
        names.push(host.name().to_owned());
        hosts.push(host);
    }
    // The vRouter agents answer ARP requests for floating IPs on the uplink.
    outside.connect(
        &hosts.iter().collect::<Vec<_>>(),
        &["10.66.77.0/24", "10.33.44.0/24"],
    )?;
    let before: Vec<_> = hosts.iter().map(Host::leftovers).collect::<Result<_>>()?;
    let mut contrail = Contrail::start(&outside)?;
    provision(&mut contrail)?;
    let mut computes = Vec::new();
    for (index, host) in hosts.iter().enumerate() {
        let name = format!("node-{}", index + 1);
        println!(
            "    {name}: vRouter agent, and a real Mesos 1.11.0 agent with libcontrail_mesos.so"
        );
        let vrouter = contrail.vrouter(host, &name, Some("uplink"))?;
        let cluster = agent::with_module(host, &contrail.agent_config(host, &vrouter)?)?
            .images()
            .env("MESOS_DEFAULT_ROLE", "slave_public")
            .start()?;
        let marathon = Some(Marathon::start(host, &cluster)?);
        computes.push(Compute {
            host: host.clone(),
            cluster,
            vrouter,
            marathon,
        });
    }
    let held = contrail.summary();
    let result = act(&outside, &contrail, &mut computes);
    if result.is_err() {
        eprintln!("{}", contrail.manager().log());
    }
    result?;
    say("leftovers");
    contrail.expect_baseline()?;
    println!("    the API server has the same objects as before: {held}");
    for (compute, before) in computes.into_iter().zip(&before) {
        compute.vrouter.expect_no_port()?;
        compute.cluster.stop()?;
        compute.vrouter.stop()?;
        compute.host.expect_nothing_since(before)?;
    }
    println!(
        "    none: ports, port files, links, namespaces, mounts, rules and processes are as before"
    );
    drop((contrail, hosts, outside));
    for name in names {
        let traces = leftovers::traces_of(&name)?;
        ensure!(traces.is_empty(), "left on the machine: {traces:?}");
    }
    Ok(())
}

/// Creates the floating IP pools and the security group that the labels refer to.
fn provision(contrail: &mut Contrail) -> Result<()> {
    contrail.network(
        "default-domain:default-project:__public__",
        &["10.66.77.0/24", "10.33.44.0/24"],
    )?;
    let public: FqName = "default-domain:default-project:__public__".parse()?;
    for pool in POOLS {
        contrail.ensure(&FloatingIpPool::named(public.child(pool)))?;
    }
    let mut group = SecurityGroup::named(SECURITY_GROUP.parse()?);
    group.security_group_entries = Some(open_ports(&[8080]));
    contrail.ensure(&group)?;
    contrail.set_baseline();
    Ok(())
}

fn app(id: &str, network: &str, more: &[(&str, &str)]) -> Value {
    let mut labels = json!({
        "networks": network,
        "project-name": "default-project",
        "domain-name": "default-domain",
    });
    for (key, value) in more {
        labels[*key] = json!(value);
    }
    let mut app = marathon::sample();
    app["id"] = json!(id);
    app["cmd"] = json!(
        "mkdir -p www && hostname > www/index.html && busybox httpd -p 8080 -h www && \
         busybox httpd -p 8081 -h www && exec sleep 100000"
    );
    if let Some(app) = app.as_object_mut() {
        app.remove("networks");
    }
    app["ipAddress"] = json!({ "networkName": "contrail-cni-plugin", "labels": labels });
    app
}

fn act(outside: &Host, contrail: &Contrail, computes: &mut [Compute]) -> Result<()> {
    say("POST /v2/apps: apps on the blue and the red network, on both hosts");
    let mut tasks = Vec::new();
    for (compute, id, network, subnet, more) in [
        (0, "/blue-1", "blue-network", "5.5.5.", vec![]),
        (1, "/blue-2", "blue-network", "5.5.5.", vec![]),
        (0, "/red-1", "red-network", "6.6.6.", vec![]),
        (1, "/red-2", "red-network", "6.6.6.", vec![]),
        (
            1,
            "/secured",
            "blue-network",
            "5.5.5.",
            vec![("security-groups", SECURITY_GROUP)],
        ),
        (
            0,
            "/public",
            "blue-network",
            "5.5.5.",
            vec![("floating-ips", FLOATING_IPS)],
        ),
    ] {
        let marathon = computes[compute].marathon.as_ref().context("no Marathon")?;
        let created = marathon.create_app(&app(id, network, &more))?;
        let launched = marathon.wait_app(&created, 1)?;
        let address = launched.first().context("no task")?.address.clone();
        ensure!(address.starts_with(subnet), "{id} has {address}");
        tasks.push((id, compute, network, address, launched[0].id.clone()));
    }
    say("contrail-mesos status on each host: the attached containers");
    let mut containers = BTreeMap::new();
    for compute in computes.iter() {
        for row in show::status(&compute.host, &config_path(&compute.host))? {
            containers.insert(row.executor, row.container);
        }
    }
    let tasks = tasks
        .into_iter()
        .map(|(app, compute, network, address, id)| {
            Ok(Task {
                app,
                compute,
                container: containers.get(&id).cloned().context("not attached")?,
                network,
                address,
            })
        })
        .collect::<Result<Vec<_>>>()?;
    say("the containers' objects in Contrail");
    for line in contrail.container_objects() {
        println!("    {line}");
    }
    say("ping from the row to the column: only within a network, across hosts");
    matrix(computes, &tasks)?;
    say("the security group opens port 8080 only");
    let secured = &tasks[4].address;
    let client = &tasks[0];
    fetch(computes, client, &format!("http://{secured}:8080/"), true)?;
    fetch(computes, client, &format!("http://{secured}:8081/"), false)?;
    say("GET the floating IPs from outside");
    for address in ["10.66.77.123", "10.33.44.11"] {
        let url = format!("http://{address}:8080/");
        let text = outside.sh(&format!(
            "curl -sSf -m 5 --retry 5 --retry-all-errors {url}"
        ));
        println!("    {url} -> {}", text.context("from outside")?.trim());
    }
    say("DELETE the apps");
    for compute in computes.iter_mut() {
        let marathon = compute.marathon.take().context("no Marathon")?;
        for app in marathon.apps()? {
            marathon.delete(&format!("/v2/apps{app}"))?;
        }
        marathon.wait_empty()?;
        show::wait_detached(&compute.host, &config_path(&compute.host))?;
        marathon.stop()?;
    }
    Ok(())
}

fn matrix(computes: &[Compute], tasks: &[Task]) -> Result<()> {
    print!("    {:<22}", "");
    for task in tasks {
        print!("{:<12}", task.app);
    }
    println!();
    let mut wrong = Vec::new();
    for from in tasks {
        print!("    {:<10}{:<12}", from.app, from.address);
        for to in tasks {
            let host = &computes[from.compute].host;
            let reached = host
                .sh(&format!(
                    "ip netns exec {} ping -q -c 1 -W 1 {}",
                    from.container, to.address
                ))
                .is_ok();
            print!("{:<12}", if reached { "yes" } else { "-" });
            // The security group drops pings.
            let allowed =
                from.network == to.network && (to.app != "/secured" || from.app == "/secured");
            if reached != allowed {
                wrong.push(format!("{} -> {}: {reached}", from.app, to.app));
            }
        }
        println!();
    }
    ensure!(wrong.is_empty(), "unexpected reachability: {wrong:?}");
    Ok(())
}

fn fetch(computes: &[Compute], from: &Task, url: &str, expected: bool) -> Result<()> {
    let host = &computes[from.compute].host;
    let command = format!("ip netns exec {} curl -sSf -m 2 {url}", from.container);
    let answer = host.sh(&command);
    println!(
        "    {} -> {url}: {}",
        from.app,
        answer.as_ref().map_or("no answer", |text| text.trim())
    );
    ensure!(answer.is_ok() == expected, "{url} from {}", from.app);
    Ok(())
}
