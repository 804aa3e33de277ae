//! The host's side of the containers, changed by another program again and again while tasks launch
//! and clients talk. `soak` runs the long one.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::testbed::agent::{Agent, RED, WAIT_TIMEOUT, address, serve};
use crate::testbed::framework::TaskSpec;

/// What another program may do to the host's side. `PORT` is the host's end of the first container.
const CHANGES: [&str; 10] = [
    "ip address flush dev red0",
    "ip link set red0 down",
    "sysctl -q -w net.ipv4.ip_forward=0",
    "nft flush ruleset",
    "ip link set PORT nomaster",
    "sysctl -q -w net.ipv4.conf.red0.forwarding=0",
    "nft flush map inet contrail_mesos ports4",
    "ip link set red0 address 02:00:00:00:00:01",
    "sysctl -q -w net.ipv6.conf.all.forwarding=0",
    "ip link set PORT down",
];

/// How long another program has to be undone before the test fails.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(30);

/// A server in the container: TCP on port 80 echoes lines, UDP on port 53 echoes packets.
const ECHO: &str = "python3 -c \"
import socket, threading
def tcp():
    server = socket.create_server(('', 80))
    while True:
        stream, _ = server.accept()
        threading.Thread(target=lambda: [stream.sendall(line) for line in stream.makefile('rb')]).start()
threading.Thread(target=tcp).start()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(('', 53))
while True:
    data, peer = udp.recvfrom(100)
    udp.sendto(data, peer)
\"";

/// Changes the host `rounds` times, once a second, each time with a launch of another task and with
/// clients that keep one TCP connection and one source port of UDP in use.
pub fn run(rounds: usize) -> Result<()> {
    let agent = Agent::start(RED)?;
    let first = agent.run(
        TaskSpec::new("echo", ECHO)
            .ports(&[31080, 31053])
            .network_info(json!({
                "name": "red",
                "port_mappings": [
                    { "host_port": 31080, "container_port": 80, "protocol": "tcp" },
                    { "host_port": 31053, "container_port": 53, "protocol": "udp" },
                ],
            })),
    )?;
    let port = agent
        .host()
        .sh("ip -o link show type veth | awk -F'[ :@]+' '{print $2}' | grep ^cm")?
        .trim()
        .to_owned();
    let container = address(&first)?;
    let host = agent.host().clone();
    let mut clients = host.run(|| Clients::connect(host.address()))??;
    for round in 0..rounds {
        let start = Instant::now();
        let change = CHANGES[round % CHANGES.len()].replace("PORT", &port);
        agent.host().sh(&change)?;
        let id = format!("t{round}");
        agent.launch(TaskSpec::new(&id, &serve(&id)).network("red"))?;
        host.run(|| clients.expect_answers(round))?
            .with_context(|| format!("after {change:?}"))?;
        let started = agent.running(&id)?;
        ensure!(address(&started)? != container, "an address given twice");
        // The new container reaches the first one, and the host reaches both.
        let reached = format!(
            "for i in $(seq 100); do ping -c 1 -W 1 {container} && ping -c 1 -W 1 {} && exit 0; sleep 0.1; done; exit 1",
            address(&started)?
        );
        agent
            .host()
            .sh(&reached)
            .with_context(|| format!("after {change:?}"))?;
        agent.kill(&id)?;
        std::thread::sleep(Duration::from_secs(1).saturating_sub(start.elapsed()));
    }
    // The host ends with its last handle.
    drop(host);
    agent.kill("echo")?;
    let log = agent.cluster.log()?;
    ensure!(
        rounds == 0 || log.contains("restored the host's side of containers"),
        "the log does not say what was restored"
    );
    agent.end()
}

/// Clients of the mapped ports, on the host.
struct Clients {
    tcp: BufReader<TcpStream>,
    udp: UdpSocket,
}

impl Clients {
    fn connect(host: IpAddr) -> Result<Self> {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        let tcp = loop {
            match TcpStream::connect(SocketAddr::new(host, 31080)) {
                Ok(stream) => break stream,
                Err(error) => ensure!(Instant::now() < deadline, "no server: {error}"),
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        tcp.set_read_timeout(Some(RESTORE_TIMEOUT))?;
        let udp = UdpSocket::bind(SocketAddr::new(host, 0))?;
        udp.connect(SocketAddr::new(host, 31053))?;
        udp.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(Self {
            tcp: BufReader::new(tcp),
            udp,
        })
    }

    /// Fails if the connection or the UDP port does not go on answering.
    fn expect_answers(&mut self, round: usize) -> Result<()> {
        let line = format!("round {round}\n");
        self.tcp.get_mut().write_all(line.as_bytes())?;
        let mut answer = String::new();
        self.tcp
            .read_line(&mut answer)
            .context("the TCP connection")?;
        ensure!(answer == line, "the TCP connection answers {answer:?}");
        let deadline = Instant::now() + RESTORE_TIMEOUT;
        let mut buffer = [0; 100];
        loop {
            // A packet may be lost, or refused while the mapping is gone.
            let _ = self.udp.send(line.as_bytes());
            match self.udp.recv(&mut buffer) {
                Ok(length) if buffer[..length] == *line.as_bytes() => return Ok(()),
                // The answer to an earlier packet.
                Ok(_) => {}
                Err(error) => {
                    ensure!(
                        Instant::now() < deadline,
                        "the mapped UDP port does not answer: {error}"
                    );
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
    }
}
