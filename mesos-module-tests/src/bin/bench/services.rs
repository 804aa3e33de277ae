//! Services: what the node daemon's data path costs.
//!
//! Loading and changing are measured against `nft`, which gets the same maps (`peer`), and against a chain
//! for each service, as kube-proxy has (`floor` of the rows that say so). Connections by a service are
//! measured against a single rule that translates the same destination (`peer`) and against none
//! (`floor`), in turns, so that other programs on the machine affect all of them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use contrail_mesos::net::links::{self, VethPair};
use contrail_mesos::net::netlink::NetlinkSocket;
use contrail_mesos::net::sysctl;
use contrail_mesos_api::cluster::{
    Backend, BackendState, Object, Reach, Revision, Service, ServiceSettings,
};
use contrail_mesos_node::cluster_state::ClusterState;
use contrail_mesos_node::services::ServicesSubsystem;
use contrail_mesos_node::subsystem::{Mode, Subsystem as _};

use nix::libc::linger;
use nix::sys::socket::{Backlog, listen, setsockopt, sockopt};

use crate::overlay::worker::{Worker, inside, join};
use crate::report::{Report, Row, Samples, at};
use crate::subject::timed;

/// Backends of each service.
pub(crate) const BACKENDS: u32 = 3;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 2, 2);
const SERVER_PORT: u16 = 8080;
/// The service of the server, and the address that a single rule translates.
const SERVICE: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 9);
const TRANSLATED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const RESET: linger = linger {
    l_onoff: 1,
    l_linger: 0,
};
/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// The first address of the many services.
const FIRST: u32 = 0x6440_1000;

/// What to measure.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Numbers of services, in ascending order.
    pub(crate) services: Vec<u32>,
    /// Changes of one service.
    pub(crate) changes: usize,
    /// Rounds of connections.
    pub(crate) rounds: usize,
    /// How long each measurement of connections takes.
    pub(crate) length: Duration,
}

/// Measures all of it.
pub(crate) fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    for services in &plan.services {
        load_and_change(*services, plan, report)?;
    }
    connections(plan, report)
}

fn backend(address: SocketAddr) -> Backend {
    Backend {
        address,
        local: None,
        host: [192, 0, 2, 2].into(),
        reach: Reach::Cluster,
        state: BackendState::Ready,
        task: "task".to_owned(),
    }
}

/// The service with this number, with so many backends.
pub(crate) fn service(number: u32, backends: u32) -> Result<Service> {
    let address = |slot: u32| {
        let address = Ipv4Addr::from(0x0900_0000 + number * 16 + slot);
        backend(SocketAddr::new(address.into(), 80))
    };
    Ok(Service {
        service: format!("s{number}.bench:80/tcp").parse()?,
        addresses: vec![Ipv4Addr::from(FIRST + number).into()],
        backends: (0..backends).map(address).collect(),
        affinity: None,
    })
}

/// What managers publish of so many services.
pub(crate) fn objects(services: u32) -> Result<Vec<Object>> {
    let mut objects = vec![Object::ServiceSettings(ServiceSettings {
        // Not the network of the hosts of this benchmark.
        ranges: vec!["100.64.0.0/15".parse()?],
        dns: vec![[100, 64, 0, 1].into()],
    })];
    for number in 0..services {
        objects.push(Object::Service(service(number, BACKENDS)?));
    }
    objects.push(Object::ServicesComplete);
    Ok(objects)
}

fn cluster(services: u32) -> Result<ClusterState> {
    let revision = Revision {
        term: 1,
        counter: 1,
    };
    let mut state = ClusterState::empty("node-1", revision);
    for object in objects(services)? {
        state.put(object);
    }
    Ok(state)
}

fn reconcile(subsystem: &mut ServicesSubsystem, state: &ClusterState) -> Result<()> {
    let outcome = subsystem.reconcile(state, Mode::Apply);
    let outcome = outcome.map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(outcome.problems.is_empty(), "{:?}", outcome.problems);
    Ok(())
}

fn load_and_change(services: u32, plan: &Plan, report: &mut Report) -> Result<()> {
    let changes = plan.changes;
    let ours = Worker::start(|| Ok(()))?;
    let (load, change) = ours.run(move |()| {
        let mut state = cluster(services)?;
        let mut subsystem = ServicesSubsystem::new()?;
        let begun = Instant::now();
        reconcile(&mut subsystem, &state)?;
        let load = milliseconds(begun);
        let mut samples = Samples::default();
        for round in 0..changes {
            let number = u32::try_from(round / 2)? * 7 % services;
            // One backend less, or again as many.
            let backends = BACKENDS - u32::from(round % 2 == 0);
            state.put(Object::Service(service(number, backends)?));
            timed(&mut samples, || reconcile(&mut subsystem, &state))?;
        }
        Ok((load, samples))
    })?;
    let maps = Worker::start(|| Ok(()))?;
    let (maps_load, maps_change) = maps.run(move |()| {
        let load = nft(&maps_ruleset(services)?)?;
        let mut times = Vec::new();
        for round in 0..changes.min(20) {
            times.push(nft(&maps_change(round, services)?)?);
        }
        Ok((load, times))
    })?;
    let chains = Worker::start(|| Ok(()))?;
    let (chains_load, chains_change) = chains.run(move |()| {
        let load = nft(&chains_ruleset(services)?)?;
        let mut times = Vec::new();
        for round in 0..changes.min(20) {
            times.push(nft(&chains_change(round, services)?)?);
        }
        Ok((load, times))
    })?;
    let what = format!("{services} x {BACKENDS}");
    let name = format!("services, load {what} (floor: a chain each)");
    report.add(
        Row::new(name, "ms")
            .figures(Some(load), Some(maps_load), Some(chains_load))
            .goal("<= 1500 ms", |row| Some(row.ours? <= 1500.0)),
    );
    for (quantile, label) in [(0.5, "p50"), (0.99, "p99")] {
        let name = format!("services, change at {what} {label}");
        report.add(Row::new(name, "ms").figures(
            change.wall(quantile),
            at(&maps_change, quantile),
            at(&chains_change, quantile),
        ));
    }
    // Of daemon and kernel together. The rest of the time above, the kernel waits until no processor uses the
    // old generation any more, for nft as well.
    let name = format!("services, CPU time of a change at {what} p50");
    report.add(
        Row::new(name, "ms")
            .figures(change.cpu(0.5), None, None)
            .goal("<= 5 ms", |row| Some(row.ours? <= 5.0)),
    );
    Ok(())
}

/// Runs `nft -f -`, and returns how long it took, in milliseconds.
fn nft(ruleset: &str) -> Result<f64> {
    let begun = Instant::now();
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot start nft")?;
    let mut input = child.stdin.take().context("no input of nft")?;
    input.write_all(ruleset.as_bytes())?;
    drop(input);
    let status = child.wait()?;
    ensure!(status.success(), "nft: {status}");
    Ok(milliseconds(begun))
}

fn frontend(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(FIRST + number)
}

fn target(number: u32, slot: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0900_0000 + number * 16 + slot)
}

/// The same maps and chains as ours.
fn maps_ruleset(services: u32) -> Result<String> {
    let mut text = String::from(
        "table ip bench {\n\
         map backends { typeof ip daddr . meta l4proto . th dport . numgen random mod 3 : ip daddr . th dport; }\n",
    );
    for backends in [2, 3] {
        writeln!(
            text,
            "chain n{backends} {{\nmeta l4proto tcp dnat to ip daddr . meta l4proto . th dport . numgen random mod {backends} map @backends\n}}"
        )?;
    }
    text.push_str(
        "map services { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
         chain prerouting { type nat hook prerouting priority -110;\n\
         ip daddr . meta l4proto . th dport vmap @services\n}\n}\n",
    );
    for number in 0..services {
        let address = frontend(number);
        for slot in 0..BACKENDS {
            writeln!(
                text,
                "add element ip bench backends {{ {address} . tcp . 80 . {slot} : {} . 80 }}",
                target(number, slot)
            )?;
        }
        writeln!(
            text,
            "add element ip bench services {{ {address} . tcp . 80 : goto n{BACKENDS} }}"
        )?;
    }
    Ok(text)
}

fn maps_change(round: usize, services: u32) -> Result<String> {
    let number = u32::try_from(round / 2)? * 7 % services;
    let address = frontend(number);
    let service = format!("{address} . tcp . 80");
    let (last, now) = if round.is_multiple_of(2) {
        (3, 2)
    } else {
        (2, 3)
    };
    let verb = if now == 2 { "delete" } else { "add" };
    Ok(format!(
        "delete element ip bench services {{ {service} : goto n{last} }}\n\
         add element ip bench services {{ {service} : goto n{now} }}\n\
         {verb} element ip bench backends {{ {service} . 2 : {} . 80 }}\n",
        target(number, 2)
    ))
}

fn chains_ruleset(services: u32) -> Result<String> {
    let mut text = String::from("table ip bench {\n");
    for number in 0..services {
        writeln!(
            text,
            "chain s{number} {{\n{}\n}}",
            chain_rule(number, BACKENDS)?
        )?;
    }
    text.push_str(
        "map services { type ipv4_addr . inet_proto . inet_service : verdict; elements = {\n",
    );
    for number in 0..services {
        writeln!(text, "{} . tcp . 80 : goto s{number},", frontend(number))?;
    }
    text.push_str(
        "}\n}\nchain prerouting { type nat hook prerouting priority -110;\n\
         ip daddr . meta l4proto . th dport vmap @services\n}\n}\n",
    );
    Ok(text)
}

fn chain_rule(number: u32, backends: u32) -> Result<String> {
    let mut rule = format!("meta l4proto tcp dnat to numgen random mod {backends} map {{");
    for slot in 0..backends {
        write!(rule, " {slot} : {} . 80,", target(number, slot))?;
    }
    rule.push('}');
    Ok(rule)
}

fn chains_change(round: usize, services: u32) -> Result<String> {
    let number = u32::try_from(round / 2)? * 7 % services;
    let backends = if round.is_multiple_of(2) { 2 } else { 3 };
    Ok(format!(
        "flush chain ip bench s{number}\nadd rule ip bench s{number} {}\n",
        chain_rule(number, backends)?
    ))
}

/// The ways to the server.
const WAYS: [(&str, Ipv4Addr, u16); 3] = [
    ("by a service", SERVICE, 80),
    ("by a rule", TRANSLATED, 80),
    ("directly", SERVER, SERVER_PORT),
];

fn connections(plan: &Plan, report: &mut Report) -> Result<()> {
    let host = Worker::start(|| {
        sysctl::set("net/ipv4/ip_forward", "1")?;
        Ok(None::<ServicesSubsystem>)
    })?;
    let client = Worker::start(|| Ok(()))?;
    let server = Worker::start(|| Ok(()))?;
    for (number, worker) in [(1_u8, &client), (2, &server)] {
        let namespace = worker.namespace().try_clone()?;
        host.run(move |_| {
            let pair = VethPair {
                host: &format!("v{number}"),
                inner: "eth0",
                mac: [2, 0, 0, 0, 0x99, number],
                mtu: 1500,
                alias: "bench",
                bridge: None,
            };
            let mut socket = NetlinkSocket::route()?;
            let results = links::create_veth(&mut socket, &pair, namespace.as_fd(), [])
                .map_err(|error| anyhow::anyhow!("cannot make the pair: {error:?}"))?;
            results.into_iter().collect::<Result<Vec<()>, _>>()?;
            command("ip", &format!("addr add 10.99.{number}.1/24 dev v{number}"))?;
            command("ip", &format!("link set v{number} up"))
        })?;
        worker.run(move |()| {
            command("ip", &format!("addr add 10.99.{number}.2/24 dev eth0"))?;
            command("ip", "link set eth0 up")?;
            command("ip", &format!("route add default via 10.99.{number}.1"))?;
            sysctl::set("net/ipv4/ip_local_port_range", "10000 65000")?;
            sysctl::set("net/ipv4/tcp_tw_reuse", "1")?;
            Ok(())
        })?;
    }
    let listener = server.run(|()| {
        let listener = TcpListener::bind((SERVER, SERVER_PORT))?;
        // A client whose first packet is dropped for want of space waits for a second.
        listen(&listener, Backlog::new(BACKLOG)?)?;
        Ok(listener)
    })?;
    std::thread::spawn(move || {
        // Ends with the process.
        for stream in listener.incoming() {
            drop(stream);
        }
    });
    host.run(|_| {
        nft(&format!(
            "table ip translated {{ chain prerouting {{ type nat hook prerouting priority -100;\n\
             ip daddr {TRANSLATED} tcp dport 80 dnat to {SERVER}:{SERVER_PORT}\n}}\n}}\n"
        ))
        .map(drop)
    })?;
    for services in &plan.services {
        let mut state = cluster(*services)?;
        state.put(Object::Service(Service {
            service: "server.bench:80/tcp".parse()?,
            addresses: vec![SERVICE.into()],
            backends: vec![backend(SocketAddr::new(SERVER.into(), SERVER_PORT))],
            affinity: None,
        }));
        host.run(move |subsystem| {
            let mut new = ServicesSubsystem::new()?;
            reconcile(&mut new, &state)?;
            *subsystem = Some(new);
            Ok(())
        })?;
        let mut rates: [Vec<f64>; 3] = Default::default();
        let mut latencies: [Vec<f64>; 3] = Default::default();
        for round in 0..plan.rounds {
            let mut order = [0, 1, 2];
            if round % 2 == 1 {
                order.reverse();
            }
            for way in order {
                let (_, address, port) = WAYS[way];
                let (rate, latency) = connect(&client, address.into(), port, plan.length)?;
                rates[way].push(rate);
                latencies[way].push(latency);
            }
        }
        let median = |figures: &[Vec<f64>; 3], way: usize| at(&figures[way], 0.5);
        let what = format!("services, new connections, {services} services (peer: one rule)");
        report.add(
            Row::new(what, "1/s")
                .rates(median(&rates, 0), median(&rates, 1), median(&rates, 2))
                .goal(">= 0.95x peer", |row| Some(row.to_peer? >= 0.95)),
        );
        let what = format!("services, time to connect p50, {services} services");
        let row = Row::new(what, "us");
        report.add(row.figures(
            median(&latencies, 0),
            median(&latencies, 1),
            median(&latencies, 2),
        ));
    }
    Ok(())
}

/// Opens connections for some time. Returns how many a second, and the median of how long each took, in
/// microseconds.
fn connect(
    client: &Worker<()>,
    address: IpAddr,
    port: u16,
    length: Duration,
) -> Result<(f64, f64)> {
    let thread = inside(client.namespace(), move || {
        let begun = Instant::now();
        let mut times = Vec::new();
        while begun.elapsed() < length {
            let one = Instant::now();
            let stream = TcpStream::connect(SocketAddr::new(address, port))?;
            times.push(one.elapsed().as_secs_f64() * 1e6);
            // Closed by a reset: otherwise all ports would be waiting for late packets after a second.
            setsockopt(&stream, sockopt::Linger, &RESET)?;
            drop(stream);
        }
        #[allow(clippy::cast_precision_loss, reason = "some ten thousand")]
        let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
        Ok((rate, at(&times, 0.5).context("no connection")?))
    })?;
    join(thread)
}

fn command(program: &str, arguments: &str) -> Result<()> {
    let status = Command::new(Path::new(program))
        .args(arguments.split(' '))
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(status.success(), "{program} {arguments}: {status}");
    Ok(())
}

/// Milliseconds since then.
fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
