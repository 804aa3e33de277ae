//! Hosts, a place outside and a fabric between them, all of them network namespaces that end with
//! the test; the simulators run in them as processes of their own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use contrail_mesos::plumbing::netns;
use serde_json::{Value, json};

const SIM: &str = env!("CARGO_BIN_EXE_contrail-mesos-sim");
const API: &str = "http://10.84.0.254:8082";
const CONTROL: &str = "http://10.84.0.254:8083";
/// How long what should come may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);

/// Waits for something that has to happen.
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[expect(clippy::disallowed_methods, reason = "tests act as an operator does")]
fn command(program: &str) -> Command {
    Command::new(program)
}

fn sh(mut command: Command, script: &str) -> String {
    let output = command.args(["sh", "-ec", script]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// A network namespace, and the process that keeps it.
pub(crate) struct Space {
    keeper: Child,
    pub(crate) address: IpAddr,
}

impl Space {
    fn new(address: IpAddr) -> Self {
        let mut keeper = command("unshare")
            .args([
                "--net",
                "--",
                "sh",
                "-c",
                "ip link set lo up && echo ready && exec cat",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = keeper.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        assert_eq!(
            line, "ready\n",
            "these tests make network namespaces: run them as root"
        );
        Self { keeper, address }
    }

    fn pid(&self) -> u32 {
        self.keeper.id()
    }

    fn command(&self) -> Command {
        let mut command = command("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.pid()))
            .arg("--");
        command
    }

    pub(crate) fn sh(&self, script: &str) -> String {
        sh(self.command(), script)
    }

    /// Runs work inside.
    fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let space = netns::of_pid(self.pid(), netns::Kind::Net).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        runtime.block_on(netns::run_in(space, work)).unwrap()
    }

    pub(crate) fn listen(&self, port: u16) -> TcpListener {
        self.inside(move || TcpListener::bind(("0.0.0.0", port)).unwrap())
    }

    /// Answers each connection by reading it to its end and saying how much that was.
    pub(crate) fn serve(&self, port: u16) {
        let listener = self.listen(port);
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                std::thread::spawn(move || {
                    let mut all = Vec::new();
                    let count = stream.read_to_end(&mut all).unwrap_or(0);
                    let _ = stream.write_all(count.to_string().as_bytes());
                });
            }
        });
    }

    fn connect(&self, address: IpAddr, port: u16) -> Option<TcpStream> {
        self.inside(move || {
            let to = SocketAddr::from((address, port));
            TcpStream::connect_timeout(&to, Duration::from_millis(1500)).ok()
        })
    }

    pub(crate) fn reaches(&self, address: IpAddr, port: u16) -> bool {
        self.connect(address, port).is_some()
    }

    pub(crate) fn carries(&self, address: IpAddr, port: u16, size: usize) -> bool {
        let Some(mut stream) = self.connect(address, port) else {
            return false;
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&vec![7; size]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer == size.to_string()
    }

    pub(crate) fn reaches_from(&self, source: &str, address: IpAddr, port: u16) -> bool {
        let script = format!(
            "nsenter --net=/proc/{}/ns/net bash -c 'ip route replace {address} dev eth0 src {source} \
             && timeout 1.5 bash -c \"</dev/tcp/{address}/{port}\"; result=$?; \
             ip route delete {address}; exit $result'",
            self.pid()
        );
        let status = command("bash")
            .args(["-c", &script])
            .stderr(Stdio::null())
            .status();
        status.unwrap().success()
    }

    pub(crate) fn pings(&self, address: &str) -> bool {
        let mut command = self.command();
        command.args(["ping", "-c", "2", "-W", "1", "-q", address]);
        command.stdout(Stdio::null()).status().unwrap().success()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// A host with its agent.
pub(crate) struct Host {
    space: Space,
    name: String,
    ports: PathBuf,
    arguments: Vec<String>,
    agent: Option<Child>,
    /// What the kernel had before there was an agent.
    pub(crate) pristine: String,
}

impl std::ops::Deref for Host {
    type Target = Space;

    fn deref(&self) -> &Space {
        &self.space
    }
}

impl Host {
    pub(crate) fn start(&mut self) {
        let address = self.address;
        let mut command = self.command();
        command
            .args([SIM, "vrouter", "--name", &self.name, "--control", CONTROL])
            .args(["--uplink", "eth0", "--address", &address.to_string()])
            .args(["--listen", &format!("{address}:9091")])
            .args(["--own-control", &format!("{address}:9092")])
            .arg("--ports-dir")
            .arg(&self.ports)
            .args(&self.arguments);
        self.agent = Some(command.spawn().unwrap());
        wait_for("the agent", || {
            self.reaches(address, 9092) && self.state()["synced"] == true
        });
    }

    pub(crate) fn kill(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    pub(crate) fn stop(&mut self) {
        let mut agent = self.agent.take().unwrap();
        let pid = nix::unistd::Pid::from_raw(agent.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(agent.wait().unwrap().success());
    }

    /// What the agent says of itself.
    pub(crate) fn state(&self) -> Value {
        let url = format!("http://{}:9092/state", self.address);
        let (_, body) = self.inside(move || ask("GET", &url, None));
        serde_json::from_str(&body).unwrap()
    }

    /// Links, addresses and rules of the host.
    pub(crate) fn kernel(&self) -> String {
        self.sh(
            "ip -o link | sed 's/ state .*//'; ip -o -4 address; ip route; ip neigh show nud permanent; \
             nft list ruleset",
        )
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

/// A container.
pub(crate) struct Container {
    space: Space,
    pub(crate) name: String,
}

impl std::ops::Deref for Container {
    type Target = Space;

    fn deref(&self) -> &Space {
        &self.space
    }
}

/// All of it.
pub(crate) struct Bed {
    pub(crate) hosts: Vec<Host>,
    pub(crate) outside: Space,
    api: Child,
    fabric: Space,
    count: AtomicU64,
    ports: tempfile::TempDir,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(arguments: &[&str]) -> Self {
        let fabric = Space::new("10.84.0.254".parse().unwrap());
        fabric.sh(
            "ip link add br0 type bridge; ip link set br0 up; ip address add 10.84.0.254/16 dev br0",
        );
        let api = fabric
            .command()
            .args([
                SIM,
                "vnc",
                "--listen",
                "10.84.0.254:8082",
                "--control",
                "10.84.0.254:8083",
            ])
            .spawn()
            .unwrap();
        let ports = tempfile::tempdir().unwrap();
        let mut bed = Self {
            hosts: vec![],
            outside: join(&fabric, "10.84.0.9"),
            api,
            count: AtomicU64::new(1),
            ports,
            fabric,
        };
        wait_for("the API server", || {
            bed.fabric.reaches(bed.fabric.address, 8083)
        });
        bed.create(
            "project",
            &json!({"fq_name": ["default-domain", "p"], "parent_type": "domain"}),
        );
        for number in 1..=2 {
            let name = format!("host{number}");
            let space = join(&bed.fabric, &format!("10.84.0.{number}"));
            bed.create(
                "virtual-router",
                &json!({
                    "fq_name": ["default-global-system-config", name],
                    "parent_type": "global-system-config",
                    "virtual_router_ip_address": space.address,
                }),
            );
            let mut host = Host {
                space,
                ports: bed.ports.path().join(&name),
                name,
                arguments: arguments.iter().map(ToString::to_string).collect(),
                agent: None,
                pristine: String::new(),
            };
            host.pristine = host.kernel();
            host.start();
            bed.hosts.push(host);
        }
        bed
    }

    fn api(&self, method: &'static str, path: &str, body: Option<Value>) -> Value {
        let url = format!("{API}{path}");
        let (status, text) = self.fabric.inside(move || ask(method, &url, body));
        assert_eq!(status, 200, "{method} {path}: {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Makes an object; says its uuid.
    pub(crate) fn create(&self, kind: &str, body: &Value) -> String {
        let made = self.api("POST", &format!("/{kind}s"), Some(json!({ kind: body })));
        made[kind]["uuid"].as_str().unwrap().to_owned()
    }

    pub(crate) fn update(&self, kind: &str, name: &str, body: &Value) {
        let question = json!({"type": kind, "fq_name": ["default-domain", "p", name]});
        let uuid = self.api("POST", "/fqname-to-id", Some(question))["uuid"].clone();
        let path = format!("/{kind}/{}", uuid.as_str().unwrap());
        self.api("PUT", &path, Some(json!({ kind: body })));
    }

    pub(crate) fn delete(&self, kind: &str, uuid: &str) {
        self.api("DELETE", &format!("/{kind}/{uuid}"), None);
    }

    pub(crate) fn network(&self, name: &str, prefix: &str, more: Value) {
        let ipam = ["default-domain", "default-project", "default-network-ipam"];
        let mut body = json!({
            "fq_name": ["default-domain", "p", name], "parent_type": "project",
            "network_ipam_refs": [{"to": ipam, "attr": {"ipam_subnets": [
                {"subnet": {"ip_prefix": prefix, "ip_prefix_len": 24}}]}}],
        });
        merge(&mut body, more);
        self.create("virtual-network", &body);
    }

    /// A container with one interface in a network, up and running.
    pub(crate) fn container(&self, host: usize, network: &str, more: Value) -> Container {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let name = format!("c{number}");
        let machine = uuid::Uuid::from_u128(u128::from(number) << 64 | 1).to_string();
        self.create(
            "virtual-machine",
            &json!({"fq_name": [name], "uuid": machine}),
        );
        let mut body = json!({
            "fq_name": ["default-domain", "p", name], "parent_type": "project",
            "virtual_network_refs": [{"to": ["default-domain", "p", network]}],
            "virtual_machine_refs": [{"to": [name]}],
            "port_security_enabled": true,
        });
        merge(&mut body, more);
        let interface = self.create("virtual-machine-interface", &body);
        self.create(
            "instance-ip",
            &json!({
                "fq_name": [name],
                "virtual_network_refs": [{"to": ["default-domain", "p", network]}],
                "virtual_machine_interface_refs": [{"to": ["default-domain", "p", name]}],
            }),
        );
        self.link(host, &machine, "ADD");

        let tap = format!("tap{number}");
        let mut space = Space::new([0, 0, 0, 0].into());
        let on = &self.hosts[host];
        on.sh(&format!(
            "ip link add {tap} type veth peer name eth0 netns {}",
            space.pid()
        ));
        let agent = format!("http://{}:9091", on.address);
        let body = json!({
            "vm-uuid": machine, "vm-id": machine, "vm-name": machine, "host-ifname": tap,
            "vn-uuid": machine, "vmi-uuid": interface,
        });
        let url = format!("{agent}/vm");
        let (status, text) = self.fabric.inside(move || ask("POST", &url, Some(body)));
        assert_eq!(status, 200, "{text}");
        let mut plugged = Value::Null;
        wait_for("the agent to plug it", || {
            let url = format!("{agent}/vm/{machine}");
            let (status, text) = self.fabric.inside(move || ask("GET", &url, None));
            plugged = serde_json::from_str(&text).unwrap();
            status == 200
        });
        let text = |name: &str| plugged[0][name].as_str().unwrap().to_owned();
        space.address = text("ip-address").parse().unwrap();
        space.sh(&format!(
            "ip link set eth0 address {} up; ip address add {}/{} dev eth0; ip route add default via {}",
            text("mac-address"), text("ip-address"), plugged[0]["plen"], text("gateway"),
        ));
        Container { space, name }
    }

    pub(crate) fn unlink(&self, host: usize, container: &Container) {
        let question = json!({"type": "virtual-machine", "fq_name": [container.name]});
        let machine = self.api("POST", "/fqname-to-id", Some(question))["uuid"].clone();
        self.link(host, machine.as_str().unwrap(), "DELETE");
    }

    fn link(&self, host: usize, machine: &str, operation: &str) {
        let router = ["default-global-system-config", &self.hosts[host].name];
        let question = json!({"type": "virtual-router", "fq_name": router});
        let router = self.api("POST", "/fqname-to-id", Some(question))["uuid"].clone();
        self.api(
            "POST",
            "/ref-update",
            Some(json!({
                "type": "virtual-router", "uuid": router, "ref-type": "virtual-machine",
                "ref-uuid": machine, "ref-fq-name": null, "operation": operation, "attr": null,
            })),
        );
    }

    /// Waits until the agents had time to see the latest change: another one, that can be seen.
    pub(crate) fn settle(&self) {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        self.network(
            &format!("settle{number}"),
            &format!("10.9.{number}.0"),
            json!({}),
        );
        for host in 0..self.hosts.len() {
            drop(self.container(host, &format!("settle{number}"), json!({})));
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.api.kill();
        let _ = self.api.wait();
    }
}

/// A namespace with an address on the fabric.
fn join(fabric: &Space, address: &str) -> Space {
    let space = Space::new(address.parse().unwrap());
    let last = address.rsplit('.').next().unwrap();
    fabric.sh(&format!(
        "ip link add p{last} type veth peer name eth0 netns {}; ip link set p{last} master br0 up",
        space.pid()
    ));
    space.sh(&format!(
        "ip address add {address}/16 dev eth0; ip link set eth0 up"
    ));
    space
}

fn merge(body: &mut Value, more: Value) {
    if let (Value::Object(body), Value::Object(more)) = (body, more) {
        body.extend(more);
    }
}

/// Asks from the thread's own namespace.
fn ask(method: &str, url: &str, body: Option<Value>) -> (u16, String) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = client.request(method.parse().unwrap(), url);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    })
}
