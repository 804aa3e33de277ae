//! Port mappings: reachable from everywhere, refused when taken, gone with their container.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::agent::{
    Agent, BLUE, RED, WAIT_TIMEOUT, address, container, fetch, serve,
};
use mesos_module_tests::testbed::framework::{GroupSpec, TaskSpec, TaskState};
use serde_json::json;

fn server(id: &str, network: &str, port: u16) -> TaskSpec {
    TaskSpec::new(id, &serve(id))
        .ports(&[port])
        .network_info(json!({
            "name": network,
            "port_mappings": [{ "host_port": port, "container_port": 80, "protocol": "tcp" }],
        }))
}

#[test]
fn mapped_port_is_reachable_from_everywhere() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let running = agent.run(server("web", "blue", 31080))?;
    let host = agent.host().address();
    // From the host, by its address and by loopback.
    assert_eq!(
        agent
            .host()
            .sh(&fetch(&format!("http://{host}:31080/")))?
            .trim(),
        "web"
    );
    assert_eq!(
        agent.host().sh(&fetch("http://127.0.0.1:31080/"))?.trim(),
        "web"
    );
    // From a neighbour, and from the container itself.
    let neighbour = format!(
        "test \"$({})\" = web",
        fetch(&format!("http://{host}:31080/"))
    );
    agent.passes(TaskSpec::new("neighbour", &neighbour).network("blue"))?;
    let id = container(&running)?;
    let itself = agent.host().sh(&format!(
        "ip netns exec {id} sh -c '{}'",
        fetch(&format!("http://{host}:31080/"))
    ))?;
    assert_eq!(itself.trim(), "web");
    // From another host.
    agent.host().sh(
        "ip netns add outside && ip link add uplink0 type veth peer name eth0 netns outside \
         && ip address add 203.0.113.1/24 dev uplink0 && ip link set uplink0 up \
         && ip -n outside address add 203.0.113.2/24 dev eth0 && ip -n outside link set eth0 up",
    )?;
    let outside = agent.host().sh(&format!(
        "ip netns exec outside sh -c '{}'",
        fetch("http://203.0.113.1:31080/")
    ))?;
    assert_eq!(outside.trim(), "web");
    agent
        .host()
        .sh("ip netns delete outside; ip link delete uplink0 2>/dev/null || true")?;
    agent.kill("web")?;
    agent.end()
}

#[test]
fn mapped_port_is_reachable_over_ipv6() -> Result<()> {
    let agent = Agent::start(RED)?;
    agent
        .host()
        .sh("ip -6 address add 2001:db8::1/128 dev lo")?;
    agent.run(server("web", "red", 31080))?;
    let shown = agent.host().sh(&fetch("http://[2001:db8::1]:31080/"))?;
    assert_eq!(shown.trim(), "web");
    agent.kill("web")?;
    agent.end()
}

#[test]
fn mapped_port_in_use_is_refused_until_it_is_released() -> Result<()> {
    // Mesos gives a port to one task only.
    let agent = Agent::start(&format!("[ports]\nallow = ['31080']\n{BLUE}"))?;
    agent.run(server("first", "blue", 31080))?;
    let second = TaskSpec::new("second", "sleep 1000").network_info(json!({
        "name": "blue",
        "port_mappings": [{ "host_port": 31080, "container_port": 81 }],
    }));
    let message = agent.refused(second)?;
    ensure!(
        message.contains("31080/tcp of the host is taken"),
        "{message}"
    );
    // The neighbour is unharmed.
    let host = agent.host().address();
    assert_eq!(
        agent
            .host()
            .sh(&fetch(&format!("http://{host}:31080/")))?
            .trim(),
        "first"
    );
    agent.kill("first")?;
    agent.expect_no_container()?;
    let third = agent.run(server("third", "blue", 31080))?;
    address(&third)?;
    assert_eq!(
        agent
            .host()
            .sh(&fetch(&format!("http://{host}:31080/")))?
            .trim(),
        "third"
    );
    agent.kill("third")?;
    agent.end()
}

#[test]
fn port_in_use_by_a_host_process_is_refused() -> Result<()> {
    let agent = Agent::start(&format!("[ports]\nallow = ['31081']\n{BLUE}"))?;
    agent.run(TaskSpec::new(
        "listener",
        "exec busybox httpd -f -p 31081 -h .",
    ))?;
    agent.host().sh(
        "for i in $(seq 100); do ss -ltn | grep -q :31081 && exit 0; sleep 0.1; done; exit 1",
    )?;
    let task = TaskSpec::new("web", "sleep 1000").network_info(json!({
        "name": "blue",
        "port_mappings": [{ "host_port": 31081, "container_port": 80 }],
    }));
    let message = agent.refused(task)?;
    ensure!(
        message.contains("31081/tcp of the host is in use"),
        "{message}"
    );
    agent.kill("listener")?;
    agent.end()
}

/// A web server with many mapped ports.
fn server_on(id: &str, ports: std::ops::Range<u16>) -> TaskSpec {
    let ports: Vec<u16> = ports.collect();
    let mappings: Vec<_> = ports
        .iter()
        .map(|port| json!({ "host_port": port, "container_port": 80 }))
        .collect();
    TaskSpec::new(id, &serve(id))
        .ports(&ports)
        .network_info(json!({ "name": "blue", "port_mappings": mappings }))
}

fn page(agent: &Agent, port: u16) -> Result<String> {
    let url = format!("http://{}:{port}/", agent.host().address());
    Ok(agent.host().sh(&fetch(&url))?.trim().to_owned())
}

#[test]
fn most_ports_of_one_container_work_and_more_are_refused() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    agent.run(server_on("most", 31000..31256))?;
    for port in [31000, 31127, 31128, 31255] {
        ensure!(page(&agent, port)? == "most", "port {port}");
    }
    // Others launch at the same time.
    agent.launch(server_on("more", 31300..31600))?;
    for index in 0..10 {
        agent.launch(TaskSpec::new(&format!("t{index}"), "sleep 1000").network("blue"))?;
    }
    for index in 0..10 {
        agent.running(&format!("t{index}"))?;
    }
    let refused = agent.ended("more")?;
    ensure!(refused.state == TaskState::TaskFailed, "{refused}");
    ensure!(refused.message.contains("at most 256"), "{refused}");
    for index in 0..10 {
        agent.kill(&format!("t{index}"))?;
    }
    agent.kill("most")?;
    agent.end()
}

#[test]
fn rules_of_many_ports_are_put_back() -> Result<()> {
    let mut agent = Agent::start(BLUE)?;
    for (index, name) in ["a", "b", "c"].into_iter().enumerate() {
        let first = 31000 + 100 * u16::try_from(index)?;
        agent.run(server_on(name, first..first + 100))?;
    }
    agent.host().sh("nft flush ruleset")?;
    agent.run(server_on("next", 31400..31500))?;
    let check = |agent: &Agent| {
        for (port, name) in [(31000, "a"), (31199, "b"), (31250, "c"), (31499, "next")] {
            ensure!(page(agent, port)? == name, "port {port}");
        }
        Ok(())
    };
    check(&agent)?;
    agent.cluster.kill_9()?;
    agent.host().sh("nft flush ruleset")?;
    agent.cluster.restart()?;
    check(&agent)?;
    for name in ["a", "b", "c", "next"] {
        agent.kill(name)?;
    }
    agent.end()
}

/// A UDP client that sends from one port all the time.
struct Client {
    socket: UdpSocket,
    server: String,
}

impl Client {
    fn new(agent: &Agent, server: &str) -> Result<Self> {
        let socket = agent.host().run(|| UdpSocket::bind("0.0.0.0:0"))??;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(Self {
            socket,
            server: server.to_owned(),
        })
    }

    fn send(&self) {
        // Refused as long as nobody listens.
        let _ = self.socket.send_to(b"hello", &self.server);
    }

    /// Sends until `answer` comes, and fails if it does not.
    fn wait_for(&self, answer: &str) -> Result<()> {
        let start = Instant::now();
        let mut buffer = [0; 64];
        while start.elapsed() < WAIT_TIMEOUT {
            self.send();
            if let Ok((length, _)) = self.socket.recv_from(&mut buffer)
                && buffer.get(..length) == Some(answer.as_bytes())
            {
                return Ok(());
            }
        }
        anyhow::bail!("{}: no answer {answer:?}", self.server)
    }
}

#[test]
fn udp_client_that_keeps_its_port_meets_each_new_mapping() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    // Flows are tracked from now on.
    agent.run(TaskSpec::new("resident", "sleep 1000").network("blue"))?;
    let clients = [
        Client::new(&agent, "127.0.0.1:31053")?,
        Client::new(&agent, &format!("{}:31053", agent.host().address()))?,
    ];
    // The clients never pause for as long as the kernel remembers a flow.
    let sending = std::sync::atomic::AtomicBool::new(true);
    std::thread::scope(|scope| {
        for client in &clients {
            let sending = &sending;
            scope.spawn(move || {
                while sending.load(std::sync::atomic::Ordering::Relaxed) {
                    client.send();
                    std::thread::sleep(Duration::from_millis(200));
                }
            });
        }
        let checked = check_clients(&agent, &clients);
        sending.store(false, std::sync::atomic::Ordering::Relaxed);
        checked
    })?;
    agent.kill("resident")?;
    agent.end()
}

fn check_clients(agent: &Agent, clients: &[Client]) -> Result<()> {
    for name in ["first", "second", "third"] {
        let script = [
            "import socket",
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
            "s.bind(('', 53))",
            &format!("while True: s.sendto(b'{name}', s.recvfrom(64)[1])"),
        ]
        .join("\n");
        let task = TaskSpec::new(name, &format!("exec /usr/bin/python3 -c \"{script}\""))
            .ports(&[31053])
            .network_info(json!({
                "name": "blue",
                "port_mappings": [{ "host_port": 31053, "container_port": 53, "protocol": "udp" }],
            }));
        agent.run(task)?;
        for client in clients {
            client
                .wait_for(name)
                .with_context(|| format!("by {name}"))?;
        }
        // Its port is free then.
        agent.kill_beside_one_other(name)?;
    }
    Ok(())
}

#[test]
fn only_ports_of_the_task_or_allowed_ports_can_be_mapped() -> Result<()> {
    let agent = Agent::start(&format!("[ports]\nallow = ['8000-8999']\n{BLUE}"))?;
    let mapping = |port: u16| {
        json!({
            "name": "blue",
            "port_mappings": [{ "host_port": port, "container_port": 80 }],
        })
    };
    for (port, own) in [(22, None), (31090, None), (31090, Some(31091))] {
        let name = format!("t{port}-{}", own.unwrap_or_default());
        let task = TaskSpec::new(&name, "sleep 1000")
            .ports(own.as_slice())
            .network_info(mapping(port));
        let message = agent.refused(task)?;
        ensure!(
            message.contains(&format!("may not map the host ports {port}/tcp")),
            "{message}"
        );
    }
    agent.run(TaskSpec::new("allowed", &serve("allowed")).network_info(mapping(8080)))?;
    ensure!(page(&agent, 8080)? == "allowed");
    agent.run(server("own", "blue", 31090))?;
    ensure!(page(&agent, 31090)? == "own");
    agent.kill("allowed")?;
    agent.kill("own")?;
    agent.end()
}

#[test]
fn ports_of_a_pod_can_be_mapped() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let group = GroupSpec::new("pod")
        .network_info(json!({
            "name": "blue",
            "port_mappings": [{ "host_port": 31095, "container_port": 80 }],
        }))
        .task(TaskSpec::new("web", &serve("pod")).ports(&[31095]));
    agent.launch_group(group)?;
    agent.running("web")?;
    ensure!(page(&agent, 31095)? == "pod");
    agent.kill("web")?;
    agent.end()
}
