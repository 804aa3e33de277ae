//! The first act: one host, the embedded bridge.
//!
//! A Marathon app definition and a pod become containers with addresses of their own; they reach
//! each other, a mapped port is fetched, the agent is killed and adopts them, and at the end
//! nothing is left.

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::agent::{self, config_path, state_dir};
use mesos_module_tests::testbed::{Cluster, Host, leftovers};
use serde_json::json;

use crate::marathon::{self, Marathon};
use crate::show::{self, Row, say};

/// The network that the sample application names.
const NETWORK: &str = "
[[network]]
name = 'contrail-cni-plugin'
provider = 'bridge'
bridge = 'contrail0'
subnet = '10.32.0.0/24'
subnet6 = 'fd00:32::/64'
";

pub(crate) fn run() -> Result<()> {
    say("a host of our own: network, mount and process namespaces");
    let host = agent::host()?;
    let name = host.name().to_owned();
    let before = host.leftovers()?;
    say("a real Mesos 1.11.0 master and agent, with libcontrail_mesos.so in the agent");
    let mut cluster = agent::with_module(&host, NETWORK)?
        .images()
        // The sample application accepts the resources of public agents only.
        .env("MESOS_DEFAULT_ROLE", "slave_public")
        .start()?;
    println!(
        "    --isolation=filesystem/linux,docker/runtime,network/contrail --hooks=org_contrail_mesos_Hook"
    );
    println!("    {}", config_path(&host).display());
    let result = acts(&host, &mut cluster);
    cluster.stop()?;
    result?;
    say("what is left on the host");
    host.expect_nothing_since(&before)?;
    let state = state_dir(&host).display().to_string();
    let files = host.sh(&format!("find {state} -type f ! -name .lock"))?;
    ensure!(files.is_empty(), "files are left:\n{files}");
    println!(
        "{}",
        show::indent(&host.sh("ip -brief link; ip netns list; nft list tables")?)
    );
    println!("    no link, namespace, mount, rule, process or file more than before");
    drop(host);
    let traces = leftovers::traces_of(&name)?;
    ensure!(traces.is_empty(), "left on the machine: {traces:?}");
    Ok(())
}

fn acts(host: &Host, cluster: &mut Cluster) -> Result<()> {
    say("a Marathon front end, which launches on that Mesos");
    let marathon = Marathon::start(host, cluster)?;

    say("POST /v2/apps: the sample application, three instances");
    let mut app = marathon::sample();
    app["instances"] = json!(3);
    let id = marathon.create_app(&app)?;
    let tasks = marathon.wait_app(&id, 3)?;
    say("POST /v2/pods: a pod with a mapped port");
    let pod = marathon.create_pod(&marathon::pod(true))?;
    let port = marathon.wait_pod(&pod)?.context("no port is mapped")?;

    say("what is attached, by contrail-mesos status");
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
        ensure!(shown, "Marathon says {task:?}, the host says {rows:?}");
    }
    say("who reaches whom (ping from the row to the column)");
    show::matrix(host, &rows)?;
    say("the pod's mapped port, fetched from the host");
    fetch(host, port)?;

    say("kill -9 of the agent, and its return");
    cluster.kill_9()?;
    println!("    killed; the containers run on:");
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
    // The agent gives a container's network back a moment after its task has ended.
    show::wait_detached(host, &config_path(host))?;
    marathon.stop()
}

fn fetch(host: &Host, port: u16) -> Result<()> {
    for address in [host.address().to_string(), "127.0.0.1".to_owned()] {
        let url = format!("http://{address}:{port}/");
        let text = host.sh(&format!(
            "for i in $(seq 50); do curl -sfg -m 5 {url} && exit 0; sleep 0.1; done; exit 1"
        ))?;
        ensure!(text.trim() == "hello from the pod", "{url}: {text:?}");
        println!("    {url} -> {}", text.trim());
    }
    Ok(())
}
