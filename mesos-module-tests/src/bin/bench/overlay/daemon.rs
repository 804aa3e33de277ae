//! The node daemon with thousands of remote nodes: the program with a scripted manager, and the
//! comparison of its subsystems alone.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use contrail_mesos::config::Source;
use contrail_mesos::net::links;
use contrail_mesos::net::netlink::NetlinkSocket;
use contrail_mesos_api::cluster::{HEARTBEAT_INTERVAL, Object, Revision, WatchItem};
use contrail_mesos_api::http::scripted::{Reply, ScriptedServer, ok};
use contrail_mesos_node::cluster_state::ClusterState;
use contrail_mesos_node::daemon::subsystems;
use contrail_mesos_node::subsystem::{Mode, Subsystem};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::broadcast;

use super::hosts::{Switch, VTEP, cluster, node};
use super::process::{Memory, Process};
use super::worker::Worker;
use super::{Plan, milliseconds};
use crate::report::{Report, Row, at};
use crate::services::{BACKENDS, objects, service};

/// The number of the node whose daemon is measured.
const OWN: u8 = 1;
const API: &str = "127.0.0.1:6994";
/// Comparisons without differences.
const COMPARISONS: usize = 20;
/// Nodes that appear, one after another.
const CHANGES: u16 = 20;

/// What was measured with one number of remote nodes.
#[derive(Clone, Debug, Default)]
struct Figures {
    /// Milliseconds.
    first: f64,
    comparison: f64,
    started: f64,
    restored: f64,
    changes: Vec<f64>,
    memory: Memory,
    /// Share of a core.
    idle: f64,
}

pub(super) fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    let mut levels = vec![];
    for remote in &plan.remote {
        let figures = measure_at(*remote, plan)?;
        rows(*remote, &figures, report);
        levels.push((f64::from(*remote), figures));
    }
    let (Some((few, small)), Some((many, large))) = (levels.first(), levels.last()) else {
        return Ok(());
    };
    measure_services(plan, report)?;
    if levels.len() > 1 {
        let nodes = many / few;
        for (what, grown) in [
            ("comparison", large.comparison / small.comparison),
            ("a device restored", large.restored / small.restored),
            ("memory", large.memory.resident / small.memory.resident),
        ] {
            let row = Row::new(
                format!("node daemon: growth of {what}, nodes {nodes}x"),
                "x",
            );
            report.add(
                row.figures(Some(grown), None, None)
                    .goal("no worse than linear", |row| Some(row.ours? <= nodes)),
            );
        }
    }
    Ok(())
}

fn rows(remote: u16, figures: &Figures, report: &mut Report) {
    let row = |what: &str, unit, ours: f64| {
        Row::new(format!("node daemon, {remote} nodes: {what}"), unit).figures(
            Some(ours),
            None,
            None,
        )
    };
    let at_most = |limit: f64| move |row: &Row| Some(row.ours? <= limit);
    report.add(row("memory", "MiB", figures.memory.resident).goal("<= 30 MiB", at_most(30.0)));
    report.add(row("memory, peak", "MiB", figures.memory.peak));
    report.add(row("idle CPU", "%", figures.idle * 100.0).goal("< 1 %", at_most(1.0)));
    report.add(row(
        "all programmed in an empty kernel",
        "ms",
        figures.first,
    ));
    report.add(row(
        "comparison without differences",
        "ms",
        figures.comparison,
    ));
    report.add(row("start until all is applied", "ms", figures.started));
    report.add(row(
        "device deleted until all is restored",
        "ms",
        figures.restored,
    ));
    for (quantile, name) in [(0.5, "p50"), (0.99, "p99")] {
        if let Some(time) = at(&figures.changes, quantile) {
            report.add(row(
                &format!("new node published until applied {name}"),
                "ms",
                time,
            ));
        }
    }
}

fn measure_at(remote: u16, plan: &Plan) -> Result<Figures> {
    let mut figures = comparisons(remote)?;
    let switch = Switch::start()?;
    let host = Worker::start(|| Ok(()))?;
    switch.connect(OWN, &host)?;
    let idle = plan.idle;
    let measured = host.run(move |()| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let cluster = state(remote)?;
        let manager = runtime.block_on(Manager::start(&cluster, vec![]))?;
        program(&manager, remote, idle)
    })?;
    Ok(Figures {
        first: figures.first,
        comparison: std::mem::take(&mut figures.comparison),
        ..measured
    })
}

/// The program with many services.
fn measure_services(plan: &Plan, report: &mut Report) -> Result<()> {
    let services = plan.services;
    let switch = Switch::start()?;
    let host = Worker::start(|| Ok(()))?;
    switch.connect(OWN, &host)?;
    let idle = plan.idle;
    let figures = host.run(move |()| {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let manager = runtime.block_on(Manager::start(&state(1)?, objects(services)?))?;
        let (_directory, mut daemon, started) = start(&manager)?;
        let mut figures = Figures {
            started,
            ..Figures::default()
        };
        for change in 0..u32::from(CHANGES) {
            let began = Instant::now();
            // One backend less, or again as many.
            let service = service(change / 2, BACKENDS - (change + 1) % 2)?;
            let revision = manager.publish(Object::Service(service))?;
            daemon.until("a change is applied", |daemon| is_applied(daemon, revision))?;
            figures.changes.push(milliseconds(began));
        }
        let (cpu, began) = (daemon.cpu()?, Instant::now());
        sleep(idle);
        figures.idle = (daemon.cpu()? - cpu) / began.elapsed().as_secs_f64();
        figures.memory = daemon.memory()?;
        Ok(figures)
    })?;
    let row = |what: &str, unit, ours| {
        let name = format!("node daemon, {services} x {BACKENDS} services: {what}");
        Row::new(name, unit).figures(ours, None, None)
    };
    report.add(row("memory", "MiB", Some(figures.memory.resident)));
    report.add(row("memory, peak", "MiB", Some(figures.memory.peak)));
    report.add(row("idle CPU", "%", Some(figures.idle * 100.0)));
    report.add(row(
        "start until all is applied",
        "ms",
        Some(figures.started),
    ));
    for (quantile, name) in [(0.5, "p50"), (0.99, "p99")] {
        let what = format!("change published until applied {name}");
        report.add(row(&what, "ms", at(&figures.changes, quantile)));
    }
    Ok(())
}

/// The state of a cluster with so many remote nodes.
fn state(remote: u16) -> Result<ClusterState> {
    cluster(OWN.into(), 1..=remote + 1)
}

/// The subsystems alone.
fn comparisons(remote: u16) -> Result<Figures> {
    let switch = Switch::start()?;
    let host = Worker::start(|| Ok(tempfile::tempdir()?))?;
    switch.connect(OWN, &host)?;
    host.run(move |directory| {
        let config = directory.path().join("agent.toml");
        let state_dir = directory.path().join("state");
        let name = node(OWN.into()).name;
        let text = format!(
            "state_dir = '{}'\n[node]\nname = '{name}'\n",
            state_dir.display()
        );
        fs::write(&config, text)?;
        let mut subsystems = subsystems(&Source::file(config).load()?)?;
        let cluster = state(remote)?;
        let started = Instant::now();
        apply(&mut subsystems, &cluster)?;
        let first = milliseconds(started);
        let mut times = vec![];
        for _ in 0..COMPARISONS {
            let started = Instant::now();
            let changes = apply(&mut subsystems, &cluster)?;
            times.push(milliseconds(started));
            ensure!(changes == 0, "{changes} changes of what is the same");
        }
        Ok(Figures {
            first,
            comparison: at(&times, 0.5).unwrap_or_default(),
            ..Figures::default()
        })
    })
}

/// Returns how many changes were made.
fn apply(subsystems: &mut [Box<dyn Subsystem>], cluster: &ClusterState) -> Result<usize> {
    let mut changes = 0;
    for subsystem in subsystems {
        let outcome = subsystem.reconcile(cluster, Mode::Apply);
        let outcome = outcome.map_err(|error| anyhow::anyhow!("{error}"))?;
        ensure!(outcome.problems.is_empty(), "{:?}", outcome.problems);
        changes += outcome.changes.len();
    }
    Ok(changes)
}

/// A manager that publishes a state, and changes of it.
struct Manager {
    address: SocketAddr,
    feed: broadcast::Sender<Vec<u8>>,
    /// That of the snapshot.
    revision: Revision,
    /// That of the last change.
    counter: Arc<AtomicU64>,
    _server: ScriptedServer,
}

fn line(item: &WatchItem) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(item)?;
    line.push(b'\n');
    Ok(line)
}

impl Manager {
    /// A manager that publishes overlays and nodes of this state, and more objects.
    async fn start(cluster: &ClusterState, more: Vec<Object>) -> Result<Self> {
        let revision = cluster.revision;
        let underlay = cluster.underlay.clone().map(Object::Underlay);
        let overlays = cluster.overlays.values().cloned().map(Object::Overlay);
        let nodes = cluster.nodes.values().cloned().map(Object::Node);
        let mut snapshot = line(&WatchItem::Snapshot { revision })?;
        for object in underlay
            .into_iter()
            .chain(overlays)
            .chain(nodes)
            .chain(more)
        {
            snapshot.extend(line(&WatchItem::Put { revision, object })?);
        }
        snapshot.extend(line(&WatchItem::Synced { revision })?);
        let (feed, _) = broadcast::channel(64);
        let lines = feed.clone();
        let server = ScriptedServer::start(move |request, _| match request.line().as_str() {
            "GET /v1/watch" => {
                Reply::StreamAfter("application/x-ndjson", snapshot.clone(), lines.clone())
            }
            _ => ok(&json!({})),
        })
        .await;
        let counter = Arc::new(AtomicU64::new(revision.counter));
        let (heartbeats, current) = (feed.clone(), counter.clone());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(HEARTBEAT_INTERVAL).await;
                let counter = current.load(Ordering::Relaxed);
                let revision = Revision {
                    counter,
                    ..revision
                };
                if let Ok(heartbeat) = line(&WatchItem::Heartbeat { revision }) {
                    // Nobody may listen yet.
                    let _ = heartbeats.send(heartbeat);
                }
            }
        });
        Ok(Self {
            address: server.address,
            feed,
            revision,
            counter,
            _server: server,
        })
    }

    /// Publishes an object. Returns the revision after it.
    fn publish(&self, object: Object) -> Result<Revision> {
        let revision = Revision {
            counter: self.counter.fetch_add(1, Ordering::Relaxed) + 1,
            ..self.revision
        };
        let item = line(&WatchItem::Put { revision, object })?;
        self.feed.send(item).context("the daemon has no watch")?;
        Ok(revision)
    }
}

/// Starts the program, and waits until it has applied everything. Also returns its directory, and how many
/// milliseconds it took.
fn start(manager: &Manager) -> Result<(TempDir, Process, f64)> {
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("agent.toml");
    let own = node(OWN.into());
    let text = format!(
        "state_dir = '{}'\n[node]\nmanagers = ['http://{}']\nname = '{}'\naddress = '{}'\n\
         listen = '{API}'\n",
        directory.path().join("state").display(),
        manager.address,
        own.name,
        own.address
    );
    fs::write(&config, text)?;
    let started = Instant::now();
    let mut daemon = Process::start("contrail-mesos-node", &config, API.parse()?)?;
    daemon.until("all is applied", |daemon| {
        is_applied(daemon, manager.revision)
    })?;
    Ok((directory, daemon, milliseconds(started)))
}

/// The program with remote nodes.
fn program(manager: &Manager, remote: u16, idle: Duration) -> Result<Figures> {
    let (_directory, mut daemon, started) = start(manager)?;
    let mut figures = Figures {
        started,
        ..Figures::default()
    };
    for change in 1..=CHANGES {
        let began = Instant::now();
        let revision = manager.publish(Object::Node(node(remote + 1 + change)))?;
        daemon.until("a change is applied", |daemon| is_applied(daemon, revision))?;
        figures.changes.push(milliseconds(began));
    }
    let before = repairs(&daemon)?;
    let began = Instant::now();
    NetlinkSocket::route()?.execute_all(&[links::delete(VTEP)])?;
    daemon.until("all is restored", |daemon| {
        Ok((repairs(daemon)? > before).then_some(()))
    })?;
    figures.restored = milliseconds(began);
    let (cpu, began) = (daemon.cpu()?, Instant::now());
    sleep(idle);
    figures.idle = (daemon.cpu()? - cpu) / began.elapsed().as_secs_f64();
    figures.memory = daemon.memory()?;
    Ok(figures)
}

fn status(daemon: &Process) -> Result<Value> {
    let (status, body) = daemon.get("/v1/status")?;
    ensure!(status == 200, "{status} {body}");
    Ok(serde_json::from_str(&body)?)
}

fn is_applied(daemon: &Process, revision: Revision) -> Result<Option<()>> {
    let status = status(daemon)?;
    let problems = status["subsystems"].as_array().into_iter().flatten();
    let problems: Vec<&Value> = problems
        .filter_map(|subsystem| subsystem["problems"].as_array())
        .flatten()
        .collect();
    ensure!(problems.is_empty(), "{problems:?}");
    Ok((status["applied"] == revision.to_string()).then_some(()))
}

/// How many changes of others the daemon has undone.
fn repairs(daemon: &Process) -> Result<u64> {
    let status = status(daemon)?;
    let subsystems = status["subsystems"].as_array().into_iter().flatten();
    let repairs = subsystems.filter_map(|subsystem| subsystem["repairs"].as_u64());
    Ok(repairs.sum())
}
