//! What the demo prints: its steps, the containers, and a matrix of pings.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use contrail_mesos::provider::PortMapping;
use mesos_module_tests::testbed::overlay::OverlayCluster;
use mesos_module_tests::testbed::{Host, program};
use serde::Deserialize;

/// Prints the heading of a step.
pub(crate) fn say(step: &str) {
    println!("\n==> {step}");
}

pub(crate) fn indent(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

/// Runs an act on a cluster, prints the logs if it fails, and ends the cluster, of which nothing may be left.
pub(crate) fn run_act(
    mut cluster: OverlayCluster,
    act: impl FnOnce(&mut OverlayCluster) -> Result<()>,
) -> Result<()> {
    let result = act(&mut cluster);
    if result.is_err() {
        eprintln!("{}", cluster.logs());
    }
    result?;
    say("leftovers");
    cluster.end()?;
    println!(
        "    none: addresses, checkpoints, links, namespaces, mounts, rules and processes are as before"
    );
    Ok(())
}

/// One network of a container of `contrail-mesos status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) container: String,
    pub(crate) executor: String,
    pub(crate) network: String,
    pub(crate) interface: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) mac: String,
    pub(crate) ports: Vec<String>,
    pub(crate) state: String,
}

/// Prints the containers of `contrail-mesos status`, and returns them.
pub(crate) fn status(host: &Host, config: &Path) -> Result<Vec<Row>> {
    let rows = containers(host, config)?;
    println!(
        "    {:<62} {:<37} {:<17} {:<20} {:<27} {:<18} PORTS",
        "TASK OR EXECUTOR", "CONTAINER", "NAMESPACE", "NETWORK", "ADDRESS", "MAC"
    );
    for row in &rows {
        ensure!(row.state == "attached", "{row:?}");
        let inside = format!("ip netns exec {} readlink /proc/self/ns/net", row.container);
        println!(
            "    {:<62} {:<37} {:<17} {:<20} {:<27} {:<18} {}",
            row.executor,
            row.container,
            host.sh(&inside)?.trim(),
            row.network,
            row.addresses.join(" "),
            row.mac,
            row.ports.join(" ")
        );
    }
    println!("    (ip netns exec CONTAINER … runs a command in a container's network namespace)");
    Ok(rows)
}

/// Waits until no container is attached.
pub(crate) fn wait_detached(host: &Host, config: &Path) -> Result<()> {
    for _ in 0..300 {
        if containers(host, config)?.is_empty() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    bail!(
        "containers are still attached: {:?}",
        containers(host, config)?
    )
}

/// The containers of `contrail-mesos status`.
pub(crate) fn containers(host: &Host, config: &Path) -> Result<Vec<Row>> {
    #[derive(Deserialize)]
    struct Status {
        containers: Vec<Container>,
    }
    #[derive(Deserialize)]
    struct Container {
        #[serde(rename = "container")]
        id: String,
        executor: Option<String>,
        networks: Vec<Network>,
    }
    #[derive(Deserialize)]
    struct Network {
        #[serde(rename = "network")]
        name: String,
        interface: String,
        addresses: Vec<String>,
        mac: Option<String>,
        ports: Vec<PortMapping>,
        state: String,
    }
    let result = host
        .command(program("contrail-mesos")?)
        .arg("--config")
        .arg(config)
        .args(["status", "-o", "json"])
        .output()?;
    // The exit status is not checked: it is not 0 while a container is being detached.
    let status: Status = serde_json::from_slice(&result.stdout).with_context(|| {
        let errors = String::from_utf8_lossy(&result.stderr);
        format!("contrail-mesos status: {errors}")
    })?;
    let dash = || "-".to_owned();
    let rows = status.containers.into_iter().flat_map(|one| {
        let (container, executor) = (one.id, one.executor);
        one.networks.into_iter().map(move |network| Row {
            container: container.clone(),
            executor: executor.clone().unwrap_or_else(dash),
            network: network.name,
            interface: network.interface,
            addresses: network.addresses,
            mac: network.mac.unwrap_or_else(dash),
            ports: network.ports.into_iter().map(port_text).collect(),
            state: network.state,
        })
    });
    Ok(rows.collect())
}

fn port_text(port: PortMapping) -> String {
    let PortMapping {
        host_port,
        container_port,
        protocol,
    } = port;
    format!("{host_port}:{container_port}/{protocol}")
}

/// Pings between all containers and the host, and fails if one does not answer.
pub(crate) fn matrix(host: &Host, rows: &[Row]) -> Result<()> {
    let mut names: Vec<(String, String, Option<&str>)> =
        vec![("host".to_owned(), host.address().to_string(), None)];
    for row in rows {
        let address = row.addresses.first().context("no address")?;
        let address = address.split('/').next().unwrap_or_default();
        names.push((address.to_owned(), address.to_owned(), Some(&row.container)));
    }
    print!("    {:<14}", "");
    for (name, _, _) in &names {
        print!("{name:<14}");
    }
    println!();
    let mut unreachable = Vec::new();
    for (name, _, container) in &names {
        print!("    {name:<14}");
        for (other, address, _) in &names {
            let ping = format!("ping -q -c 1 -W 3 {address}");
            let command = match container {
                Some(container) => format!("ip netns exec {container} {ping}"),
                None => ping,
            };
            let reached = host.sh(&command).is_ok();
            print!("{:<14}", if reached { "yes" } else { "NO" });
            if !reached {
                unreachable.push(format!("{name} -> {other}"));
            }
        }
        println!();
    }
    ensure!(unreachable.is_empty(), "not reachable: {unreachable:?}");
    Ok(())
}
