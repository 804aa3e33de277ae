//! Hosts, a namespace outside and a fabric between them. The simulators run in them as processes.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::namespace::{Namespace, wait_for};

const SIM: &str = env!("CARGO_BIN_EXE_contrail-mesos-sim");
const API: &str = "http://10.84.0.254:8082";
const CONTROL: &str = "http://10.84.0.254:8083";

/// A host with its agent.
pub(crate) struct Host {
    namespace: Namespace,
    name: String,
    ports: PathBuf,
    arguments: Vec<String>,
    agent: Option<Child>,
    /// The kernel's state before there was an agent.
    pub(crate) pristine: String,
}

impl std::ops::Deref for Host {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
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

    /// The state of the agent.
    pub(crate) fn state(&self) -> Value {
        let url = format!("http://{}:9092/state", self.address);
        let (_, body) = self.inside(move || send_request("GET", &url, None));
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
    namespace: Namespace,
    pub(crate) name: String,
    /// What its agent reports about its interface.
    port: String,
}

impl std::ops::Deref for Container {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}

/// The whole testbed.
pub(crate) struct Testbed {
    pub(crate) hosts: Vec<Host>,
    pub(crate) outside: Namespace,
    api: Child,
    fabric: Namespace,
    count: AtomicU64,
    ports: tempfile::TempDir,
}

impl Testbed {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(arguments: &[&str]) -> Self {
        let fabric = Namespace::new("10.84.0.254".parse().unwrap());
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
        let mut testbed = Self {
            hosts: vec![],
            outside: join(&fabric, "10.84.0.9"),
            api,
            count: AtomicU64::new(1),
            ports,
            fabric,
        };
        wait_for("the API server", || {
            testbed.fabric.reaches(testbed.fabric.address, 8083)
        });
        testbed.create(
            "project",
            &json!({"fq_name": ["default-domain", "p"], "parent_type": "domain"}),
        );
        for number in 1..=2 {
            let name = format!("host{number}");
            let namespace = join(&testbed.fabric, &format!("10.84.0.{number}"));
            testbed.create(
                "virtual-router",
                &json!({
                    "fq_name": ["default-global-system-config", name],
                    "parent_type": "global-system-config",
                    "virtual_router_ip_address": namespace.address,
                }),
            );
            let mut host = Host {
                namespace,
                ports: testbed.ports.path().join(&name),
                name,
                arguments: arguments.iter().map(ToString::to_string).collect(),
                agent: None,
                pristine: String::new(),
            };
            host.pristine = host.kernel();
            host.start();
            testbed.hosts.push(host);
        }
        testbed
    }

    fn api(&self, method: &'static str, path: &str, body: Option<Value>) -> Value {
        let url = format!("{API}{path}");
        let (status, text) = self.fabric.inside(move || send_request(method, &url, body));
        assert_eq!(status, 200, "{method} {path}: {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Creates an object, and returns its uuid.
    pub(crate) fn create(&self, kind: &str, body: &Value) -> String {
        let created = self.api("POST", &format!("/{kind}s"), Some(json!({ kind: body })));
        created[kind]["uuid"].as_str().unwrap().to_owned()
    }

    /// Updates an object of the project, or of another one if the name is complete.
    pub(crate) fn update(&self, kind: &str, name: &str, body: &Value) {
        let name: Vec<_> = match name.split_once(':') {
            Some(_) => name.split(':').collect(),
            None => vec!["default-domain", "p", name],
        };
        let question = json!({"type": kind, "fq_name": name});
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

    /// Creates a container with one interface in a network, and waits until it works.
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
        let mut namespace = Namespace::new([0, 0, 0, 0].into());
        let on = &self.hosts[host];
        on.sh(&format!(
            "ip link add {tap} type veth peer name eth0 netns {}",
            namespace.pid()
        ));
        let agent = format!("http://{}:9091", on.address);
        let body = json!({
            "vm-uuid": machine, "vm-id": machine, "vm-name": machine, "host-ifname": tap,
            "vn-uuid": machine, "vmi-uuid": interface,
        });
        let url = format!("{agent}/vm");
        let (status, text) = self
            .fabric
            .inside(move || send_request("POST", &url, Some(body)));
        assert_eq!(status, 200, "{text}");
        let mut port = Value::Null;
        wait_for("the agent to plug it", || {
            let url = format!("{agent}/vm/{machine}");
            let (status, text) = self.fabric.inside(move || send_request("GET", &url, None));
            port = serde_json::from_str(&text).unwrap();
            status == 200
        });
        let text = |name: &str| port[0][name].as_str().unwrap().to_owned();
        namespace.address = text("ip-address").parse().unwrap();
        namespace.sh(&format!(
            "ip link set eth0 address {} up; ip address add {}/{} dev eth0; ip route add default via {}",
            text("mac-address"), text("ip-address"), port[0]["plen"], text("gateway"),
        ));
        let port = format!("{agent}/vm/{machine}");
        Container {
            namespace,
            name,
            port,
        }
    }

    /// Adds an IPv6 address of its network to a container, and returns it.
    pub(crate) fn add_v6(&self, container: &Container, network: &str) -> IpAddr {
        let interface = ["default-domain", "p", &container.name];
        self.create(
            "instance-ip",
            &json!({
                "fq_name": [format!("{}-v6", container.name)], "instance_ip_family": "v6",
                "virtual_network_refs": [{"to": ["default-domain", "p", network]}],
                "virtual_machine_interface_refs": [{"to": interface}],
            }),
        );
        let mut port = Value::Null;
        wait_for("the IPv6 address", || {
            let url = container.port.clone();
            let (_, text) = self.fabric.inside(move || send_request("GET", &url, None));
            port = serde_json::from_str(&text).unwrap();
            port[0]["v6-ip-address"].is_string()
        });
        let text = |name: &str| port[0][name].as_str().unwrap().to_owned();
        let (address, gateway) = (text("v6-ip-address"), text("v6-gateway"));
        container.sh(&format!(
            "ip address add {address}/64 dev eth0 nodad; ip -6 route add default via {gateway}"
        ));
        address.parse().unwrap()
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

    /// Waits until the agents have the latest change, by making another one that can be observed.
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

impl Drop for Testbed {
    fn drop(&mut self) {
        let _ = self.api.kill();
        let _ = self.api.wait();
    }
}

/// A namespace with an address on the fabric.
fn join(fabric: &Namespace, address: &str) -> Namespace {
    let namespace = Namespace::new(address.parse().unwrap());
    let last = address.rsplit('.').next().unwrap();
    fabric.sh(&format!(
        "ip link add p{last} type veth peer name eth0 netns {}; ip link set p{last} master br0 up",
        namespace.pid()
    ));
    namespace.sh(&format!(
        "ip address add {address}/16 dev eth0; ip link set eth0 up"
    ));
    namespace
}

fn merge(body: &mut Value, more: Value) {
    if let (Value::Object(body), Value::Object(more)) = (body, more) {
        body.extend(more);
    }
}

/// Sends a request from the thread's own namespace.
fn send_request(method: &str, url: &str, body: Option<Value>) -> (u16, String) {
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
