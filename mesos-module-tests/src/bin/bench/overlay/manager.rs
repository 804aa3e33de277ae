//! The manager's program with up to thousands of simulated nodes, each of which watches it and
//! reports. Nodes and manager share the machine, so the times include the nodes' own work.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use contrail_mesos_api::agent_api::{ClientOptions, manager_address};
use contrail_mesos_api::cluster::{
    ClusterClient, NodeReport, Object, Revision, ServiceKey, Versions, WatchItem,
};
use contrail_mesos_api::http::{Limits, TlsOptions};
use contrail_mesos_sim::mesos_master::{Agent, Master, Task, TaskState};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant as TokioInstant, interval, sleep};

use super::hosts::node;
use super::process::{Memory, Process};
use super::worker::Worker;
use super::{Plan, milliseconds};
use crate::report::{Report, Row, at};

const AGENTS: &str = "127.0.0.1:6992";
pub(super) const ADMIN: &str = "127.0.0.1:6993";
/// How often a node reports, as by default.
pub(super) const REPORT_INTERVAL: Duration = Duration::from_secs(10);
/// Nodes that register at the same time.
pub(super) const CONCURRENT: usize = 64;
pub(super) const TIMEOUT: Duration = Duration::from_mins(2);
/// Nodes that get a snapshot at the same time. The others go on after it: they share the processors,
/// while each real node reads its snapshot on its own.
const SNAPSHOTS: usize = 100;

/// What was measured with one number of nodes.
#[derive(Clone, Debug, Default)]
struct Figures {
    /// Milliseconds.
    registered: f64,
    snapshots: f64,
    /// From the beginning of a registration until a node knows of it.
    new_nodes: Vec<f64>,
    /// From the event of the Mesos master until a node knows of the service of a new task.
    services: Vec<f64>,
    memory: Memory,
    /// Share of a core while all nodes report.
    idle: f64,
}

pub(super) fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    let mut levels = vec![];
    for nodes in &plan.watching {
        let (nodes, plan) = (u16::try_from(*nodes)?, plan.clone());
        let host = Worker::start(|| Ok(tempfile::tempdir()?))?;
        let figures = host.run(move |directory| measure_at(nodes, &plan, directory.path()))?;
        rows(nodes, &figures, report);
        levels.push((f64::from(nodes), figures));
    }
    let (Some((few, small)), Some((many, large))) = (levels.first(), levels.last()) else {
        return Ok(());
    };
    if levels.len() > 1 {
        let nodes = many / few;
        let p99 = |figures: &Figures| at(&figures.new_nodes, 0.99).unwrap_or_default();
        for (what, grown) in [
            ("a new node at all others p99", p99(large) / p99(small)),
            ("CPU with reports", large.idle / small.idle),
            ("memory", large.memory.resident / small.memory.resident),
        ] {
            let row = Row::new(format!("manager: growth of {what}, nodes {nodes}x"), "x");
            report.add(
                row.figures(Some(grown), None, None)
                    .goal("no worse than linear", |row| Some(row.ours? <= nodes)),
            );
        }
    }
    Ok(())
}

fn rows(nodes: u16, figures: &Figures, report: &mut Report) {
    let row = |what: &str, unit, ours: Option<f64>| {
        Row::new(format!("manager, {nodes} watching nodes: {what}"), unit).figures(ours, None, None)
    };
    report.add(row("all register", "ms", Some(figures.registered)));
    let snapshots = format!("{} get a snapshot at once", SNAPSHOTS.min(nodes.into()));
    report.add(row(&snapshots, "ms", Some(figures.snapshots)));
    let new = &figures.new_nodes;
    report.add(row("new node at all others p50", "ms", at(new, 0.5)));
    report.add(
        row("new node at all others p99", "ms", at(new, 0.99))
            .goal("<= 500 ms", |row| Some(row.ours? <= 500.0)),
    );
    let services = &figures.services;
    report.add(row("new service at all p50", "ms", at(services, 0.5)));
    report.add(
        row("new service at all p99", "ms", at(services, 0.99))
            .goal("<= 500 ms", |row| Some(row.ours? <= 500.0)),
    );
    report.add(row("memory", "MiB", Some(figures.memory.resident)));
    report.add(row("memory, peak", "MiB", Some(figures.memory.peak)));
    report.add(row(
        "CPU with a report every 10 s",
        "%",
        Some(figures.idle * 100.0),
    ));
}

fn measure_at(nodes: u16, plan: &Plan, directory: &Path) -> Result<Figures> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let config = configure(directory, false)?;
    let master = runtime.block_on(Master::start())?;
    let services = format!(
        "[mesos]\nmasters = '{}'\n[services]\nstate_file = '{}'\n",
        master.address(),
        directory.join("services.json").display()
    );
    fs::write(&config, fs::read_to_string(&config)? + &services)?;
    let mut manager = Process::start("contrail-mesos-manager", &config, ADMIN.parse()?)?;
    manager.until("the manager leads", |manager| {
        Ok((manager.get("/ready")?.0 == 200).then_some(()))
    })?;
    let clients = (1..=nodes)
        .map(|number| client(number, directory))
        .collect::<Result<Vec<_>>>()?;
    runtime.block_on(simulate(&manager, &master, &clients, plan, directory))
}

/// Writes the configuration, and returns its path. The overlay may isolate groups.
pub(super) fn configure(directory: &Path, groups: bool) -> Result<PathBuf> {
    let mut overlays = json!({
        "vtep_subnet": "44.128.0.0/16", "vtep_subnet6": "fd44::/64",
        "vtep_mac_oui": "70:B3:D5:00:00:00",
        "overlays": [{"name": "bench", "subnet": "9.0.0.0/8", "prefix": 24,
                      "subnet6": "fd09::/48", "prefix6": 64}],
    });
    if groups {
        overlays["overlays"][0]["groups"] = true.into();
    }
    let overlays_path = directory.join("overlays.json");
    fs::write(&overlays_path, overlays.to_string())?;
    fs::write(token_path(directory), "a-token-of-this-run-alone")?;
    let config = directory.join("manager.toml");
    let text = format!(
        "listen = '{AGENTS}'\nadmin_listen = '{ADMIN}'\ntoken_file = '{}'\n\
         [overlay]\nfile = '{}'\nstate_file = '{}'\n\
         [limits]\nconnections_per_address = 16384\n",
        token_path(directory).display(),
        overlays_path.display(),
        directory.join("state.json").display()
    );
    fs::write(&config, text)?;
    Ok(config)
}

fn token_path(directory: &Path) -> PathBuf {
    directory.join("token")
}

/// The client of the node with this number.
pub(super) fn client(number: u16, directory: &Path) -> Result<(u16, ClusterClient)> {
    let address: SocketAddr = AGENTS.parse()?;
    let client = ClusterClient::new(&ClientOptions {
        managers: vec![manager_address(&format!("http://{address}"))?],
        agent: node(number).name,
        token_file: Some(token_path(directory)),
        tls: TlsOptions::default(),
        limits: Limits::default(),
    })?;
    Ok((number, client))
}

pub(super) fn node_report(number: u16) -> NodeReport {
    NodeReport {
        address: node(number).address,
        uplink_mtu: Some(1500),
        versions: Versions::default(),
        configuration: String::new(),
        applied: None,
        subsystems: vec![],
        endpoints: None,
        blocks: vec![],
    }
}

async fn register(number: u16, client: &ClusterClient) -> Result<()> {
    let deadline = TokioInstant::now() + TIMEOUT;
    let answer = client.report(&node_report(number), deadline).await?;
    ensure!(
        answer.node.is_some() && answer.problems.is_empty(),
        "node {number} is given nothing: {:?}",
        answer.problems
    );
    Ok(())
}

/// What a watching node has seen.
enum WatchEvent {
    /// It has everything up to this revision.
    Synced(Revision),
    /// A node was published.
    Node(String, Instant),
    /// A service was published.
    Service(ServiceKey, Instant),
}

async fn simulate(
    manager: &Process,
    master: &Master,
    clients: &[(u16, ClusterClient)],
    plan: &Plan,
    directory: &Path,
) -> Result<Figures> {
    let mut figures = Figures::default();
    let began = Instant::now();
    stream::iter(clients)
        .map(|(number, client)| register(*number, client))
        .buffer_unordered(CONCURRENT)
        .try_collect::<Vec<()>>()
        .await?;
    figures.registered = milliseconds(began);

    let (sender, mut seen) = mpsc::unbounded_channel();
    let mut watches = JoinSet::new();
    let (with_snapshot, others) = clients.split_at(clients.len().min(SNAPSHOTS));
    let began = Instant::now();
    for (_, client) in with_snapshot {
        watches.spawn(watch(client.clone(), None, sender.clone()));
    }
    let mut since = None;
    for _ in with_snapshot {
        since = Some(synced(&mut seen, &mut watches).await?);
    }
    figures.snapshots = milliseconds(began);
    for (_, client) in others {
        watches.spawn(watch(client.clone(), since, sender.clone()));
    }
    for _ in others {
        synced(&mut seen, &mut watches).await?;
    }

    let last = clients.last().map_or(0, |(number, _)| *number);
    for registration in 1..=plan.registrations {
        let (number, client) = client(last + u16::try_from(registration)?, directory)?;
        let began = Instant::now();
        register(number, &client).await?;
        for _ in clients {
            let WatchEvent::Node(name, at) = next(&mut seen, &mut watches).await? else {
                bail!("a node connected again");
            };
            ensure!(name == node(number).name, "{name} is not new");
            let time = at.saturating_duration_since(began).as_secs_f64() * 1e3;
            figures.new_nodes.push(time);
        }
    }

    figures.services = new_services(master, clients.len(), plan, &mut seen, &mut watches).await?;

    let reports = clients
        .iter()
        .map(|(number, client)| (client.clone(), node_report(*number)));
    let mut reports = report_for_ever(reports.collect())?;
    sleep(REPORT_INTERVAL).await;
    let (cpu, began) = (manager.cpu()?, Instant::now());
    sleep(plan.idle).await;
    figures.idle = (manager.cpu()? - cpu) / began.elapsed().as_secs_f64();
    figures.memory = manager.memory()?;
    if let Some(failed) = reports.try_join_next() {
        return Err(failed?.context("a node cannot report"));
    }
    Ok(figures)
}

/// Launches tasks of new services, one after another. Returns how long it took each node to learn of each, in
/// milliseconds.
async fn new_services(
    master: &Master,
    nodes: usize,
    plan: &Plan,
    seen: &mut mpsc::UnboundedReceiver<WatchEvent>,
    watches: &mut JoinSet<Result<()>>,
) -> Result<Vec<f64>> {
    master.add_framework("f", "marathon");
    master.add_agent(Agent {
        id: "a".into(),
        host: "192.0.2.9".into(),
        address: [192, 0, 2, 9].into(),
    });
    let mut times = vec![];
    for round in 0..=plan.registrations {
        let number = u8::try_from(round + 2)?;
        let began = Instant::now();
        master.add_task(Task {
            id: format!("t{round}").into(),
            framework: "f".into(),
            agent: "a".into(),
            container: format!("c{round}").into(),
            network: ("bench".into(), [9, 0, 0, number].into()),
            vip: Some(format!("/s{round}:80").into()),
            state: TaskState::TaskRunning,
        });
        let service: ServiceKey = format!("s{round}.marathon:80/tcp").parse()?;
        let mut informed = 0;
        while informed < nodes {
            if let WatchEvent::Service(key, at) = next(seen, watches).await?
                && key == service
            {
                informed += 1;
                // The first of all waits until the managers know all of Mesos.
                if round > 0 {
                    times.push(at.saturating_duration_since(began).as_secs_f64() * 1e3);
                }
            }
        }
    }
    Ok(times)
}

/// Lets all nodes report, spread evenly over the interval. A task ends only if its node cannot report.
pub(super) fn report_for_ever(
    nodes: Vec<(ClusterClient, NodeReport)>,
) -> Result<JoinSet<anyhow::Error>> {
    let mut reports = JoinSet::new();
    let distance = REPORT_INTERVAL / u32::try_from(nodes.len().max(1))?;
    for (index, (client, report)) in nodes.into_iter().enumerate() {
        let delay = distance * u32::try_from(index)?;
        reports.spawn(async move {
            sleep(delay).await;
            let mut ticks = interval(REPORT_INTERVAL);
            loop {
                ticks.tick().await;
                let deadline = TokioInstant::now() + TIMEOUT;
                if let Err(error) = client.report(&report, deadline).await {
                    return error.into();
                }
            }
        });
    }
    Ok(reports)
}

/// The next that any node sees. Fails if a watch ends.
async fn next(
    seen: &mut mpsc::UnboundedReceiver<WatchEvent>,
    watches: &mut JoinSet<Result<()>>,
) -> Result<WatchEvent> {
    tokio::select! {
        seen = seen.recv() => seen.context("no node watches"),
        Some(ended) = watches.join_next() => {
            ended??;
            bail!("a watch has ended")
        }
        () = sleep(TIMEOUT) => bail!("a node does not learn of a change"),
    }
}

/// Waits until one more node has everything.
async fn synced(
    seen: &mut mpsc::UnboundedReceiver<WatchEvent>,
    watches: &mut JoinSet<Result<()>>,
) -> Result<Revision> {
    match next(seen, watches).await? {
        WatchEvent::Synced(revision) => Ok(revision),
        WatchEvent::Node(name, _) => bail!("{name} is published before all nodes watch"),
        WatchEvent::Service(key, _) => bail!("{key} is published before all nodes watch"),
    }
}

/// Follows the manager as a node does, and keeps nothing.
async fn watch(
    client: ClusterClient,
    since: Option<Revision>,
    seen: mpsc::UnboundedSender<WatchEvent>,
) -> Result<()> {
    let mut stream = client.watch(since).await?;
    let mut is_synced = false;
    while let Some(items) = stream.next().await? {
        let at = Instant::now();
        for item in items {
            let what = match item {
                WatchItem::Synced { revision } => {
                    is_synced = true;
                    WatchEvent::Synced(revision)
                }
                WatchItem::Put {
                    object: Object::Node(node),
                    ..
                } if is_synced => WatchEvent::Node(node.name, at),
                WatchItem::Put {
                    object: Object::Service(service),
                    ..
                } => WatchEvent::Service(service.service, at),
                _ => continue,
            };
            if seen.send(what).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
