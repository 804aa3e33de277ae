//! Overlay networks: what traffic costs on them, and how managers and node daemons scale.
//!
//! ```text
//! worker    threads in network namespaces, which stand for hosts
//! hosts     hosts with our library and subsystems, the floor's, and the CNI plugin's
//! traffic   TCP streams, small UDP packets, first packets
//! manager   a manager with simulated nodes that watch it
//! groups    traffic of containers with thousands of members of their group
//! endpoints a manager with a hundred thousand containers
//! daemon    a node daemon with thousands of remote nodes
//! process   the programs that are measured
//! ```
//! Each measurement of traffic is repeated in rounds in which all subjects take turns, in alternating
//! order, so that other programs on the machine affect all of them. The median of the rounds counts.

mod daemon;
mod endpoints;
mod groups;
mod hosts;
mod manager;
mod process;
mod traffic;
pub(crate) mod worker;

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::contrail_mesos::bench_network;
use crate::report::{Report, Row, Samples, at};
use crate::subject::{Attach as _, timed};
use hosts::{Attached, CniHost, FloorHost, Host, OurHost, Pair, Switch, cluster};
use traffic::{Echo, Place, first_packet, round_trips, throughput};

/// The hosts of the overlay, and of the floor.
const OURS: Pair = Pair(1, 2);
const FLOOR: Pair = Pair(11, 12);
/// Ports that are mapped on a container, and how many such containers there are.
const PORTS_A_CONTAINER: u16 = 50;
const CONTAINERS_WITH_PORTS: u16 = 10;

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Rounds of traffic.
    pub(crate) rounds: usize,
    /// How long each measurement of traffic takes.
    pub(crate) length: Duration,
    /// New containers, for first packets and attaches.
    pub(crate) containers: usize,
    /// Numbers of nodes that watch the manager, in ascending order.
    pub(crate) watching: Vec<usize>,
    /// Nodes that register while all others watch.
    pub(crate) registrations: usize,
    /// Numbers of remote nodes of the node daemon, in ascending order.
    pub(crate) remote: Vec<u16>,
    /// Services of the node daemon.
    pub(crate) services: u32,
    /// Numbers of members of a group, in ascending order.
    pub(crate) members: Vec<usize>,
    /// How long idle processes are measured.
    pub(crate) idle: Duration,
}

/// Measures all of it.
pub(crate) fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    measure_traffic(plan, report)?;
    groups::measure(plan, report)?;
    daemon::measure(plan, report)?;
    manager::measure(plan, report)?;
    endpoints::measure(plan, report)
}

/// A way from one container to another.
struct Way {
    client: Place,
    server: Place,
    echo: Echo,
    figures: Figures,
}

/// What was measured in all rounds: a figure of each.
#[derive(Clone, Debug, Default)]
struct Figures {
    /// Gbit/s.
    throughput: Vec<f64>,
    /// Microseconds.
    p50: Vec<f64>,
    p99: Vec<f64>,
}

impl Way {
    fn new(client: &Attached, server: &Attached) -> Result<Self> {
        Ok(Self {
            client: client.place.clone(),
            server: server.place.clone(),
            echo: Echo::start(&server.container.namespace)?,
            figures: Figures::default(),
        })
    }

    fn measure(&mut self, length: Duration) -> Result<()> {
        let rate = throughput(&self.client, &self.server, length)?;
        let times = round_trips(&self.client, &self.server, &self.echo, length)?;
        self.figures.throughput.push(rate);
        self.figures.p50.extend(at(&times, 0.5));
        self.figures.p99.extend(at(&times, 0.99));
        Ok(())
    }
}

/// Measures several ways, which take turns. Returns the figures of each, in their order.
fn take_turns(ways: &mut [Way], plan: &Plan) -> Result<Vec<Figures>> {
    for round in 0..plan.rounds {
        // What follows something expensive is not always the same.
        if round % 2 == 0 {
            ways.iter_mut()
                .try_for_each(|way| way.measure(plan.length))?;
        } else {
            let mut reversed = ways.iter_mut().rev();
            reversed.try_for_each(|way| way.measure(plan.length))?;
        }
    }
    Ok(ways
        .iter_mut()
        .map(|way| std::mem::take(&mut way.figures))
        .collect())
}

/// Adds the rows of one way. `peer` is empty if the plugin has nothing like it.
fn traffic_rows(what: &str, ours: &Figures, peer: &Figures, floor: &Figures, report: &mut Report) {
    let median = |figures: &[f64]| at(figures, 0.5);
    let row = |name: &str, unit| Row::new(format!("overlay, {what}: {name}"), unit);
    report.add(
        row("TCP", "Gb/s")
            .rates(
                median(&ours.throughput),
                median(&peer.throughput),
                median(&floor.throughput),
            )
            .goal(">= 0.97x floor", |row| Some(row.to_floor? >= 0.97)),
    );
    report.add(
        row("UDP round trip p50", "us")
            .figures(median(&ours.p50), median(&peer.p50), median(&floor.p50))
            .goal("<= 1.03x floor", |row| Some(row.to_floor? <= 1.03)),
    );
    report.add(row("UDP round trip p99", "us").figures(
        median(&ours.p99),
        median(&peer.p99),
        median(&floor.p99),
    ));
}

fn measure_traffic(plan: &Plan, report: &mut Report) -> Result<()> {
    let switch = Switch::start()?;
    let nodes = [OURS.0, OURS.1].map(u16::from);
    let our_host = |number: u8| -> Result<OurHost> {
        OurHost::start(&switch, number, cluster(number.into(), nodes)?)
    };
    let ours = [our_host(OURS.0)?, our_host(OURS.1)?];
    let floor = [
        FloorHost::start(&switch, FLOOR.0, FLOOR.1)?,
        FloorHost::start(&switch, FLOOR.1, FLOOR.0)?,
    ];
    let peer = CniHost::start()?;
    let our_containers = containers(&ours[0], &ours[1])?;
    let floor_containers = containers(&floor[0], &floor[1])?;
    let peer_containers = [peer.attach("client")?, peer.attach("beside")?];
    let [our_client, our_beside, our_remote] = &our_containers;
    let [floor_client, floor_beside, floor_remote] = &floor_containers;
    let ways = || -> Result<[Way; 5]> {
        Ok([
            Way::new(our_client, our_remote)?,
            Way::new(floor_client, floor_remote)?,
            Way::new(our_client, our_beside)?,
            Way::new(floor_client, floor_beside)?,
            Way::new(&peer_containers[0], &peer_containers[1])?,
        ])
    };
    let none = Figures::default();
    let rows = |suffix: &str, report: &mut Report| -> Result<()> {
        let figures = take_turns(&mut ways()?, plan)?;
        let between = format!("between hosts{suffix}");
        traffic_rows(&between, &figures[0], &none, &figures[1], report);
        let on_one = format!("on one host{suffix}");
        traffic_rows(&on_one, &figures[2], &figures[4], &figures[3], report);
        Ok(())
    };
    rows("", report)?;
    first_packets(
        plan,
        ([&ours[0], &floor[0]], [our_remote, floor_remote]),
        report,
    )?;
    attaches(plan, &ours[0], report)?;
    let mapped = ours
        .iter()
        .map(map_ports)
        .collect::<Result<Vec<Vec<Attached>>>>()?;
    rows(", 500 mapped ports", report)?;
    for (host, containers) in ours.iter().zip(mapped) {
        containers
            .into_iter()
            .try_for_each(|container| host.detach(container))?;
    }
    let [client, beside, remote] = our_containers;
    ours[0].detach(client)?;
    ours[0].detach(beside)?;
    ours[1].detach(remote)?;
    let [client, beside] = peer_containers;
    peer.detach(client)?;
    peer.detach(beside)
}

/// Two containers of one host, and one of another.
fn containers(one: &impl Host, other: &impl Host) -> Result<[Attached; 3]> {
    Ok([
        one.attach("client")?,
        one.attach("beside")?,
        other.attach("remote")?,
    ])
}

/// Maps 500 ports of a host to containers.
fn map_ports(host: &OurHost) -> Result<Vec<Attached>> {
    (0..CONTAINERS_WITH_PORTS)
        .map(|number| {
            let first = 20_000 + number * PORTS_A_CONTAINER;
            let info = bench_network(first..first + PORTS_A_CONTAINER);
            host.run(move |state| state.attach_to(&format!("ports-{number}"), vec![info]))
        })
        .collect()
}

/// How long new containers wait for the answer to their first packet to another host.
fn first_packets(
    plan: &Plan,
    (hosts, remote): ([&dyn Host; 2], [&Attached; 2]),
    report: &mut Report,
) -> Result<()> {
    let echoes = [
        Echo::start(&remote[0].container.namespace)?,
        Echo::start(&remote[1].container.namespace)?,
    ];
    for (family, is_v6) in [("IPv4", false), ("IPv6", true)] {
        let mut times = [vec![], vec![]];
        for round in 0..plan.containers {
            for subject in 0..2 {
                let attached =
                    hosts[subject].attach(&format!("first{}-{round}", u8::from(is_v6)))?;
                let to = &remote[subject].place;
                let to = if is_v6 { to.v6.unwrap_or(to.v4) } else { to.v4 };
                let time = first_packet(&attached.container.namespace, to, &echoes[subject])?;
                times[subject].push(time);
                hosts[subject].detach(attached)?;
            }
        }
        for (quantile, name) in [(0.5, "p50"), (0.99, "p99")] {
            let row = Row::new(format!("overlay, first packet {family} {name}"), "ms");
            let figure = |subject: usize| at(&times[subject], quantile);
            report.add(row.figures(figure(0), None, figure(1)));
        }
    }
    Ok(())
}

/// Attaches on the overlay, with attaches on a bridge of both families as the floor.
fn attaches(plan: &Plan, host: &OurHost, report: &mut Report) -> Result<()> {
    let containers = plan.containers;
    let [overlay, bridge] = host.run(move |state| {
        let mut samples = [Samples::default(), Samples::default()];
        for round in 0..containers {
            for (network, samples) in [b"bench", b"plain"].into_iter().zip(&mut samples) {
                let container = state.container(&format!("attach-{round}-{}", network[0]))?;
                let mut info = bench_network(None);
                info.name = Some(network.to_vec());
                timed(samples, || state.library.attach_to(&container, vec![info]))?;
                state.library.detach(&container)?;
            }
        }
        Ok(samples)
    })?;
    let floor = "on an overlay (floor: on a bridge)";
    for (quantile, name) in [(0.5, "p50"), (0.99, "p99")] {
        let row = Row::new(format!("attach {floor} {name}"), "ms");
        let row = row.figures(overlay.wall(quantile), None, bridge.wall(quantile));
        report.add(if quantile > 0.5 {
            row
        } else {
            row.goal("<= 1.1x floor", |row| Some(row.to_floor? <= 1.1))
        });
    }
    Ok(())
}

/// Milliseconds since then.
fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
