//! The first act: one host, the embedded bridge.
//!
//! An app and a pod get containers with their own addresses. The containers reach each other, a
//! mapped port is reachable, and the agent adopts the containers after a crash. At the end nothing
//! is left.

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::agent::{self, config_path, state_dir};
use mesos_module_tests::testbed::{Cluster, Host, leftovers};
use serde_json::json;

use crate::marathon::{self, Marathon};
use crate::show::{self, Row, say};

/// The network of the sample app.
const NETWORK: &str = "
[[network]]
name = 'contrail-cni-plugin'
provider = 'bridge'
bridge = 'contrail0'
subnet = '10.32.0.0/24'
subnet6 = 'fd00:32::/64'
";

pub(crate) fn run() -> Result<()> {
    say("one simulated host: its own network, mount and process namespaces");
    let host = agent::host()?;
    let name = host.name().to_owned();
    let before = host.leftovers()?;
    say("Mesos 1.11.0: a master, and an agent that loads libcontrail_mesos.so");
    let mut cluster = agent::with_module(&host, NETWORK)?
        .images()
        // The sample app accepts only resources of public agents.
        .env("MESOS_DEFAULT_ROLE", "slave_public")
        .start()?;
    println!(
        "    --isolation=filesystem/linux,docker/runtime,network/contrail --hooks=org_contrail_mesos_Hook"
    );
    println!("    {}", config_path(&host).display());
    let result = acts(&host, &mut cluster);
    cluster.stop()?;
    result?;
    say("leftovers on the host");
    host.expect_nothing_since(&before)?;
    let state = state_dir(&host).display().to_string();
    let files = host.sh(&format!(
        "find {state} -type f ! -name .lock ! -path '*/positions/*'"
    ))?;
    ensure!(files.is_empty(), "files are left:\n{files}");
    println!(
        "{}",
        show::indent(&host.sh("ip -brief link; ip netns list; nft list tables")?)
    );
    println!("    none: links, namespaces, mounts, rules, processes and files are as before");
    drop(host);
    let traces = leftovers::traces_of(&name)?;
    ensure!(traces.is_empty(), "left on the machine: {traces:?}");
    Ok(())
}

fn acts(host: &Host, cluster: &mut Cluster) -> Result<()> {
    say("a simulated Marathon that launches on this Mesos");
    let marathon = Marathon::start(host, cluster)?;

    say("POST /v2/apps: the sample app with three instances");
    let mut app = marathon::sample();
    app["instances"] = json!(3);
    let id = marathon.create_app(&app)?;
    let tasks = marathon.wait_app(&id, 3)?;
    say("POST /v2/pods: a pod with a mapped port");
    let pod = marathon.create_pod(&marathon::pod(true))?;
    let port = marathon.wait_pod(&pod)?.context("no port is mapped")?;

    say("contrail-mesos status: the attached containers");
    let rows = show::status(host, &config_path(host))?;
    ensure!(
        rows.len() == 4,
        "{} containers are attached, not 4",
        rows.len()
    );
    for task in &tasks {
        let row = rows.iter().find(|row| row.executor == task.id);
        let shown = row.is_some_and(|row| {
            row.addresses
                .iter()
                .any(|address| address.starts_with(&format!("{}/", task.address)))
        });
        ensure!(shown, "{task:?} of Marathon is not in {rows:?}");
    }
    say("ping from the row to the column");
    show::matrix(host, &rows)?;
    say("GET the pod's mapped port from the host");
    fetch(host, port)?;

    say("kill -9 of the agent, then a restart");
    cluster.kill_9()?;
    println!("    the agent is killed; the containers are still reachable:");
    show::matrix(host, &rows)?;
    cluster.restart()?;
    for line in cluster
        .log()?
        .lines()
        .filter(|line| line.contains("adopted"))
    {
        println!("    {}", line.trim());
    }
    let again = marathon.wait_app(&id, 3)?;
    ensure!(
        again == tasks,
        "the tasks changed: {tasks:?}, then {again:?}"
    );
    let adopted: Vec<Row> = show::status(host, &config_path(host))?;
    ensure!(
        adopted == rows,
        "the containers changed: {rows:?}, then {adopted:?}"
    );
    fetch(host, port)?;

    say("DELETE the app and the pod");
    marathon.delete(&format!("/v2/apps{id}"))?;
    marathon.delete(&format!("/v2/pods{pod}"))?;
    marathon.wait_empty()?;
    // The agent detaches a container a moment after its task has ended.
    show::wait_detached(host, &config_path(host))?;
    marathon.stop()
}

fn fetch(host: &Host, port: u16) -> Result<()> {
    for address in [host.address().to_string(), "127.0.0.1".to_owned()] {
        let url = format!("http://{address}:{port}/");
        let text = host.sh(&agent::fetch(&url))?;
        ensure!(text.trim() == "hello from the pod", "{url}: {text:?}");
        println!("    {url} -> {}", text.trim());
    }
    Ok(())
}
