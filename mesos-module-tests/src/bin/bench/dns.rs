//! The DNS server of the node daemon and dnsmasq, in turns: names of their own, names that they have in
//! their caches, and names that another server must be asked for. The floor is that other server itself.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use contrail_mesos::config::Source;
use contrail_mesos::net::links;
use contrail_mesos::net::netlink::NetlinkSocket;
use contrail_mesos_api::cluster::{
    Object, Revision, Service, ServiceKey, ServiceProtocol, TaskInstance, TaskName, Vip,
};
use contrail_mesos_node::cluster_state::ClusterState;
use contrail_mesos_node::dns::DnsSubsystem;
use contrail_mesos_node::services::{AppliedServices, ServicesView};
use contrail_mesos_node::subsystem::{Mode, Subsystem as _};
use tokio::sync::watch;

use crate::overlay::worker::Worker;
use crate::report::{Report, Row, at};

const OURS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), 5300);
const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3)), 5300);
const FLOOR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 4)), 5300);
const SERVERS: [SocketAddr; 3] = [OURS, PEER, FLOOR];
const SERVICES: u16 = 10_000;
const TASKS: u32 = 100_000;
/// Queries that are on their way at once.
const WINDOW: u16 = 64;
/// How long an answer is waited for.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The length of a header, in bytes.
const HEADER: usize = 12;

/// What to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Rounds in which the servers take turns.
    pub(crate) rounds: usize,
    /// How long each measurement takes.
    pub(crate) length: Duration,
}

/// Which names are asked.
#[derive(Clone, Copy, Debug)]
enum Names {
    /// Names of the server's own.
    Own,
    /// A few names of another server.
    Cached,
    /// Another name of another server each time.
    Cold,
}

#[derive(Clone, Debug, Default)]
struct Figures {
    /// Queries a second, of each round.
    rate: Vec<f64>,
    /// Microseconds, one query after another.
    p99: Vec<f64>,
}

/// Measures it.
pub(crate) fn measure(plan: &Plan, report: &mut Report) -> Result<()> {
    let host = Worker::start(|| {
        let mut socket = NetlinkSocket::route()?;
        socket.execute_all(&[links::set_up("lo", None)])?;
        Ok(tempfile::tempdir()?)
    })?;
    let plan = *plan;
    let all = host.run(move |directory| {
        let _upstream = Upstream::start()?;
        let _peer = Dnsmasq::start(directory.path())?;
        let _ours = RunningDaemon::start(directory.path())?;
        let mut all = vec![];
        for names in [Names::Own, Names::Cached, Names::Cold] {
            let mut figures: [Figures; 3] = Default::default();
            let mut client = Client::new(names)?;
            for round in 0..plan.rounds {
                // In alternating order: what follows something expensive is not always the same.
                let order = if round % 2 == 0 { [0, 1, 2] } else { [2, 1, 0] };
                for index in order {
                    let figures = &mut figures[index];
                    let server = SERVERS[index];
                    figures.rate.push(client.rate(server, plan.length)?);
                    let times = client.latencies(server, plan.length)?;
                    figures.p99.extend(at(&times, 0.99));
                }
            }
            all.push((names, figures));
        }
        Ok(all)
    })?;
    for (names, [ours, peer, floor]) in all {
        let what = match names {
            Names::Own => "own name",
            Names::Cached => "cached name",
            Names::Cold => "name of another server",
        };
        let median = |figures: &[f64]| at(figures, 0.5);
        report.add(
            Row::new(format!("DNS, {what}: queries"), "1/s")
                .rates(median(&ours.rate), median(&peer.rate), median(&floor.rate))
                .goal(">= dnsmasq", |row| Some(row.ours? >= row.peer?)),
        );
        report.add(Row::new(format!("DNS, {what}: p99"), "us").figures(
            median(&ours.p99),
            median(&peer.p99),
            median(&floor.p99),
        ));
    }
    Ok(())
}

/// A name of ours, which all servers have.
fn service_name(number: u16) -> String {
    format!("web-{number}.marathon")
}

fn service_address(number: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 1, 0)) + u32::from(number))
}

/// The server of the node daemon, with the state of a large cluster.
struct RunningDaemon {
    _subsystem: DnsSubsystem,
    _states: watch::Sender<Option<Arc<ClusterState>>>,
    _applied: watch::Sender<Arc<AppliedServices>>,
    _runtime: tokio::runtime::Runtime,
}

impl RunningDaemon {
    fn start(directory: &std::path::Path) -> Result<Self> {
        let config = directory.join("agent.toml");
        let state_dir = directory.join("state");
        let text = format!(
            "state_dir = '{}'\n[node]\nname = 'node-1'\n[node.dns]\nenabled = true\n\
             listen = ['{OURS}']\nupstreams = ['{FLOOR}']\n",
            state_dir.display()
        );
        fs::write(&config, text)?;
        let config = Source::file(&config).load()?;
        let state = state();
        let applied = AppliedServices {
            revision: Some(state.revision),
            services: state.services.clone(),
        };
        let mut subsystem = DnsSubsystem::new(&config);
        let outcome = subsystem
            .reconcile(&state, Mode::Apply)
            .map_err(anyhow::Error::from_boxed)?;
        ensure!(outcome.problems.is_empty(), "{:?}", outcome.problems);
        let (states, states_receiver) = watch::channel(Some(Arc::new(state)));
        let (applied, applied_receiver) = watch::channel(Arc::new(applied));
        let view = subsystem.dns().context("no DNS server")?;
        let services = ServicesView {
            applied: applied_receiver,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        runtime.spawn(view.follow(states_receiver, Some(services)));
        wait_for(OURS, &Names::Own.name(0))?;
        Ok(Self {
            _subsystem: subsystem,
            _states: states,
            _applied: applied,
            _runtime: runtime,
        })
    }
}

fn state() -> ClusterState {
    let revision = Revision {
        term: 1,
        counter: 1,
    };
    let mut state = ClusterState::empty("node-1", revision);
    for number in 0..SERVICES {
        state.put(Object::Service(Service {
            service: ServiceKey {
                vip: Vip::Name(service_name(number)),
                port: 80,
                protocol: ServiceProtocol::Tcp,
            },
            addresses: vec![service_address(number).into()],
            backends: vec![],
            affinity: None,
        }));
    }
    for number in 0..TASKS {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + number);
        state.put(Object::TaskName(TaskName {
            name: format!("app-{number}.marathon"),
            instances: vec![TaskInstance {
                agent: [192, 0, 2, 1].into(),
                addresses: vec![address.into()],
                ports: vec![],
            }],
        }));
    }
    state
}

/// The peer, with the same services in a file of hosts.
struct Dnsmasq(Child);

impl Dnsmasq {
    fn start(directory: &std::path::Path) -> Result<Self> {
        let hosts = directory.join("hosts");
        let mut text = String::new();
        for number in 0..SERVICES {
            let (address, name) = (service_address(number), service_name(number));
            writeln!(text, "{address} {name}.l4lb.thisdcos.directory")?;
        }
        fs::write(&hosts, text)?;
        let child = Command::new("dnsmasq")
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--pid-file=",
                "--user=root",
                "--no-resolv",
                "--no-hosts",
                "--bind-interfaces",
                "--local-ttl=5",
                "--cache-size=10000",
                "--dns-forward-max=1000",
                "--local=/thisdcos.directory/",
            ])
            .arg(format!("--listen-address={}", PEER.ip()))
            .arg(format!("--port={}", PEER.port()))
            .arg(format!("--server={}#{}", FLOOR.ip(), FLOOR.port()))
            .arg(format!("--addn-hosts={}", hosts.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start dnsmasq; install the package dnsmasq-base")?;
        let started = Self(child);
        wait_for(PEER, &Names::Own.name(0))?;
        Ok(started)
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The other server: answers everything with the same address.
struct Upstream {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    fn start() -> Result<Self> {
        let socket = UdpSocket::bind(FLOOR)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let is_stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while !is_stopped.load(Ordering::Relaxed) {
                if let Ok((length, client)) = socket.recv_from(&mut buffer)
                    && let Some(answer) = upstream_answer(&buffer[..length])
                {
                    // What is lost, is asked again or counted.
                    let _ = socket.send_to(&answer, client);
                }
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn upstream_answer(query: &[u8]) -> Option<Vec<u8>> {
    let mut end = HEADER;
    while *query.get(end)? != 0 {
        end += 1 + usize::from(query[end]);
    }
    let question_end = end + 5;
    let mut answer = query.get(..question_end)?.to_vec();
    answer[2] |= 0x80;
    answer[3] = 0x80;
    // One answer, and no record for EDNS.
    answer[6..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
    answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 14, 16, 0, 4, 192, 0, 2, 1]);
    Some(answer)
}

impl Names {
    fn name(self, number: u64) -> String {
        match self {
            Self::Own => {
                let number = u16::try_from(number % u64::from(SERVICES)).unwrap_or_default();
                format!("{}.l4lb.thisdcos.directory", service_name(number))
            }
            Self::Cached => format!("host-{}.example", number % 100),
            Self::Cold => format!("host-{number}.cold.example"),
        }
    }
}

fn query(id: u16, name: &str) -> Vec<u8> {
    let mut packet = id.to_be_bytes().to_vec();
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap_or_default());
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    packet
}

/// Waits until a server answers.
fn wait_for(server: SocketAddr, name: &str) -> Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut buffer = [0; 1500];
    for _ in 0..200 {
        let sent = socket.send(&query(1, name));
        if sent.is_ok()
            && let Ok(length) = socket.recv(&mut buffer)
            && is_answer(&buffer[..length], 1)
        {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    anyhow::bail!("the DNS server at {server} does not answer")
}

fn is_answer(packet: &[u8], id: u16) -> bool {
    if packet.len() <= HEADER {
        return false;
    }
    let code = packet[3] & 0x0f;
    packet[..2] == id.to_be_bytes() && code == 0 && packet[6..8] != [0, 0]
}

/// Asks.
struct Client {
    names: Names,
    /// Each name of a cold query is asked once.
    next: u64,
}

impl Client {
    fn new(names: Names) -> Result<Self> {
        let client = Self { names, next: 0 };
        if matches!(names, Names::Cached) {
            for server in SERVERS {
                for number in 0..100 {
                    wait_for(server, &names.name(number))?;
                }
            }
        }
        Ok(client)
    }

    fn next(&mut self, id: u16) -> Vec<u8> {
        self.next += 1;
        query(id, &self.names.name(self.next))
    }

    fn socket(server: SocketAddr) -> Result<UdpSocket> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        Ok(socket)
    }

    /// Answers a second, with many queries on their way.
    fn rate(&mut self, server: SocketAddr, length: Duration) -> Result<f64> {
        let socket = Self::socket(server)?;
        for id in 0..WINDOW {
            socket.send(&self.next(id))?;
        }
        let started = Instant::now();
        let mut answers = 0_u32;
        let mut buffer = [0; 1500];
        while started.elapsed() < length {
            let received = socket
                .recv(&mut buffer)
                .with_context(|| format!("the DNS server at {server} lost all queries"))?;
            let id = u16::from_be_bytes([buffer[0], buffer[1]]);
            ensure!(
                is_answer(&buffer[..received], id),
                "no answer from {server}"
            );
            answers += 1;
            socket.send(&self.next(id))?;
        }
        Ok(f64::from(answers) / started.elapsed().as_secs_f64())
    }

    /// The times of queries one after another, in microseconds.
    fn latencies(&mut self, server: SocketAddr, length: Duration) -> Result<Vec<f64>> {
        let socket = Self::socket(server)?;
        let started = Instant::now();
        let mut times = vec![];
        let mut buffer = [0; 1500];
        while started.elapsed() < length {
            let sent = Instant::now();
            socket.send(&self.next(7))?;
            let received = socket.recv(&mut buffer)?;
            times.push(sent.elapsed().as_secs_f64() * 1e6);
            ensure!(is_answer(&buffer[..received], 7), "no answer from {server}");
        }
        Ok(times)
    }
}
