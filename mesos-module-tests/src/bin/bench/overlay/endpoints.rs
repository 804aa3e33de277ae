//! The manager's program with the containers of overlays that isolate groups: a hundred on each of its
//! watching nodes.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use contrail_mesos_api::cluster::{
    ClusterClient, Endpoint, EndpointsReport, Membership, NodeReport, Object, Revision, WatchItem,
};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use ipnet::Ipv4Net;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant as TokioInstant, sleep};

use super::hosts::node;
use super::manager::{
    ADMIN, CONCURRENT, REPORT_INTERVAL, TIMEOUT, client, configure, node_report, report_for_ever,
};
use super::process::Process;
use super::worker::Worker;
use super::{Plan, milliseconds};
use crate::report::{Report, Row, at};

/// The containers of a node.
const CONTAINERS: u8 = 100;
/// How often a container changes its groups.
const CHANGES: usize = 20;

pub(super) fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    let Some(nodes) = plan.watching.last() else {
        return Ok(());
    };
    let (nodes, plan) = (u16::try_from(*nodes)?, plan.clone());
    let host = Worker::start(|| Ok(tempfile::tempdir()?))?;
    let rows = host.run(move |directory| {
        let config = configure(directory.path(), true)?;
        let mut manager = Process::start("contrail-mesos-manager", &config, ADMIN.parse()?)?;
        manager.until("the manager leads", |manager| {
            Ok((manager.get("/ready")?.0 == 200).then_some(()))
        })?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(simulate(&manager, nodes, &plan, directory.path()))
    })?;
    for row in rows {
        report.add(row);
    }
    Ok(())
}

/// A node with its containers.
struct Node {
    number: u16,
    client: ClusterClient,
    subnet: Ipv4Net,
}

impl Node {
    async fn register(number: u16, client: ClusterClient) -> Result<Self> {
        let deadline = TokioInstant::now() + TIMEOUT;
        let answer = client.report(&node_report(number), deadline).await?;
        let given = answer.node.context("a node is given nothing")?;
        let mut subnets = given.subnets.iter().filter_map(|subnets| subnets.subnet);
        Ok(Self {
            number,
            client,
            subnet: subnets.next().context("a node without a subnet")?,
        })
    }

    /// The list of its containers. The first one is in this group, the others in their app's.
    fn endpoints(&self, group: &str) -> EndpointsReport {
        let first = u32::from(self.subnet.network());
        let endpoints = (0..CONTAINERS).map(|index| {
            let app = format!("app-{}", index % 10);
            let group = if index == 0 { group.to_owned() } else { app };
            Endpoint {
                node: node(self.number).name,
                id: format!("container-{index:03}"),
                addresses: vec![std::net::Ipv4Addr::from(first + 2 + u32::from(index)).into()],
                membership: Membership {
                    groups: vec![group],
                    security_groups: vec![],
                },
            }
        });
        EndpointsReport {
            digest: format!("{}-{group}", self.number),
            endpoints: endpoints.collect(),
        }
    }

    async fn report_endpoints(&self, group: &str) -> Result<()> {
        let deadline = TokioInstant::now() + TIMEOUT;
        let report = self.endpoints(group);
        Ok(self.client.report_endpoints(&report, deadline).await?)
    }

    fn report(&self, group: &str) -> NodeReport {
        NodeReport {
            endpoints: Some(self.endpoints(group).digest),
            ..node_report(self.number)
        }
    }
}

async fn simulate(
    manager: &Process,
    nodes: u16,
    plan: &Plan,
    directory: &Path,
) -> Result<Vec<Row>> {
    let all: Vec<Node> = stream::iter(1..=nodes)
        .map(|number| async move {
            let (number, client) = client(number, directory)?;
            Node::register(number, client).await
        })
        .buffer_unordered(CONCURRENT)
        .try_collect()
        .await?;
    let began = Instant::now();
    stream::iter(&all)
        .map(|node| node.report_endpoints("app-0"))
        .buffer_unordered(CONCURRENT)
        .try_collect::<Vec<()>>()
        .await?;
    let reported = milliseconds(began);

    // All of them to one node; the others begin after it.
    let first = all.first().context("no nodes")?;
    let began = Instant::now();
    let (revision, endpoints) = snapshot(&first.client).await?;
    let snapshot = milliseconds(began);
    let expected = all.len() * usize::from(CONTAINERS);
    ensure!(
        endpoints == expected,
        "{endpoints} endpoints, not {expected}"
    );
    let (sender, mut seen) = mpsc::unbounded_channel();
    let mut watches = JoinSet::new();
    for node in &all {
        watches.spawn(watch(node.client.clone(), revision, sender.clone()));
    }
    for _ in &all {
        let group = next(&mut seen, &mut watches).await?;
        ensure!(group.is_none(), "a change before the stream goes on");
    }
    let mut changes = vec![];
    for change in 0..CHANGES {
        let group = format!("group-{change}");
        let began = Instant::now();
        first.report_endpoints(&group).await?;
        for _ in &all {
            let (found, at) = next(&mut seen, &mut watches).await?.context("no change")?;
            ensure!(found == group, "{found} instead of {group}");
            changes.push(at.saturating_duration_since(began).as_secs_f64() * 1e3);
        }
    }
    let last = format!("group-{}", CHANGES - 1);
    let reports = all.iter().map(|node| {
        let group = if node.number == first.number {
            &*last
        } else {
            "app-0"
        };
        (node.client.clone(), node.report(group))
    });
    let mut reports = report_for_ever(reports.collect())?;
    sleep(REPORT_INTERVAL).await;
    let (cpu, began) = (manager.cpu()?, Instant::now());
    sleep(plan.idle).await;
    let idle = (manager.cpu()? - cpu) / began.elapsed().as_secs_f64();
    let memory = manager.memory()?;
    if let Some(failed) = reports.try_join_next() {
        return Err(failed?.context("a node cannot report"));
    }
    let row = |what: &str, unit, ours: Option<f64>| {
        let name = format!("manager, {nodes} nodes, {expected} containers: {what}");
        Row::new(name, unit).figures(ours, None, None)
    };
    Ok(vec![
        row("all are reported", "ms", Some(reported)),
        row("snapshot to one node", "ms", Some(snapshot)),
        row("group change at all nodes p50", "ms", at(&changes, 0.5)),
        row("group change at all nodes p99", "ms", at(&changes, 0.99))
            .goal("<= 500 ms", |row| Some(row.ours? <= 500.0)),
        row("memory", "MiB", Some(memory.resident)),
        row("memory, peak", "MiB", Some(memory.peak)),
        row("CPU with a report every 10 s", "%", Some(idle * 100.0)),
    ])
}

/// The revision of a snapshot, and how many endpoints it has.
async fn snapshot(client: &ClusterClient) -> Result<(Revision, usize)> {
    let mut stream = client.watch(None).await?;
    let mut endpoints = 0;
    while let Some(items) = stream.next().await? {
        for item in items {
            match item {
                WatchItem::Put {
                    object: Object::Endpoint(_),
                    ..
                } => endpoints += 1,
                WatchItem::Synced { revision } => return Ok((revision, endpoints)),
                _ => {}
            }
        }
    }
    bail!("the watch ended within the snapshot")
}

/// None once a stream goes on, then the group of the endpoint that has changed.
type WatchEvent = Option<(String, Instant)>;

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

async fn watch(
    client: ClusterClient,
    since: Revision,
    seen: mpsc::UnboundedSender<WatchEvent>,
) -> Result<()> {
    let mut stream = client.watch(Some(since)).await?;
    while let Some(items) = stream.next().await? {
        let now = Instant::now();
        for item in items {
            let what = match item {
                WatchItem::Synced { .. } => None,
                WatchItem::Put {
                    object: Object::Endpoint(endpoint),
                    ..
                } => Some((endpoint.membership.groups.join(","), now)),
                _ => continue,
            };
            if seen.send(what).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}
