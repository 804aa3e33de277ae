//! The port service, with the real client and with raw requests.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use uuid::Uuid;

use super::*;
use crate::harness::Effect;
use crate::vnc;
use contrail_mesos::vrouter::{
    ExpectedPorts, Missing, Port, PortFiles, VrouterClient, VrouterErrorKind, VrouterOptions,
};
use contrail_mesos_api::http::Limits;

const VM: Uuid = Uuid::from_u128(0x660a_305f_10e4_47fd_a5fc_50e4_8147_423b);

mod faults;
mod raw_requests;

/// An API server, an agent on `host1`, and a client of it.
struct Fixture {
    api: vnc::Handle,
    agent: Handle,
    options: Options,
    ports: TempDir,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Options)) -> Self {
        let (_, api) = vnc::Server::start(vnc::Options::default()).await.unwrap();
        let control = api.control(SocketAddr::from(([127, 0, 0, 1], 0))).await;
        let control = format!("http://{}", control.unwrap());
        let ports = tempfile::tempdir().unwrap();
        let mut options = Options::new("host1", &control, ports.path());
        change(&mut options);
        let (_, agent) = Agent::start(options.clone()).await.unwrap();
        let fixture = Self {
            api,
            agent,
            options,
            ports,
        };
        fixture
            .create(
                "project",
                json!({"fq_name": ["default-domain", "p"], "parent_type": "domain"}),
            )
            .await;
        for name in ["host1", "host2"] {
            fixture.create(
                "virtual-router",
                json!({
                    "fq_name": ["default-global-system-config", name],
                    "parent_type": "global-system-config", "virtual_router_ip_address": "10.0.0.1",
                }),
            )
            .await;
        }
        fixture
            .create(
                "virtual-network",
                json!({
                    "fq_name": ["default-domain", "p", "blue"], "parent_type": "project",
                    "network_ipam_refs": [{
                        "to": ["default-domain", "default-project", "default-network-ipam"],
                        "attr": {"ipam_subnets": [
                            {"subnet": {"ip_prefix": "5.5.5.0", "ip_prefix_len": 24}},
                            {"subnet": {"ip_prefix": "fd05::", "ip_prefix_len": 64}},
                        ]},
                    }],
                }),
            )
            .await;
        fixture
    }

    async fn restart(&mut self) {
        self.agent.stop().await.unwrap();
        self.agent = Agent::start(self.options.clone()).await.unwrap().1;
    }

    async fn api(&self, method: &str, path: &str, body: Value) -> Value {
        let client = reqwest::Client::new();
        let request = client.request(method.parse().unwrap(), format!("{}{path}", self.api.url()));
        let answer = request.json(&body).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert_eq!(status, 200, "{method} {path}: {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    async fn create(&self, kind: &str, body: Value) -> Uuid {
        let created = self
            .api("POST", &format!("/{kind}s"), json!({ kind: body }))
            .await;
        created[kind]["uuid"].as_str().unwrap().parse().unwrap()
    }

    /// Creates a virtual machine with so many interfaces, without addresses.
    async fn machine(&self, count: usize) -> Vec<Uuid> {
        self.create("virtual-machine", json!({"fq_name": ["vm"], "uuid": VM}))
            .await;
        let mut interfaces = vec![];
        for index in 0..count {
            let name = format!("vm-{index}");
            let index = format!("{index}/{count}");
            let body = json!({
                "fq_name": ["default-domain", "p", name], "parent_type": "project",
                "virtual_network_refs": [{"to": ["default-domain", "p", "blue"]}],
                "virtual_machine_refs": [{"to": ["vm"]}],
                "annotations": {"key_value_pair": [{"key": "index", "value": index}]},
            });
            interfaces.push(self.create("virtual-machine-interface", body).await);
        }
        interfaces
    }

    async fn address(&self, interface: usize, family: &str) {
        self.create(
            "instance-ip",
            json!({
                "fq_name": [format!("iip-{interface}-{family}")], "instance_ip_family": family,
                "virtual_network_refs": [{"to": ["default-domain", "p", "blue"]}],
                "virtual_machine_interface_refs": [
                    {"to": ["default-domain", "p", format!("vm-{interface}")]}],
            }),
        )
        .await;
    }

    async fn link(&self, router: &str, operation: &str) {
        let name = ["default-global-system-config", router];
        let question = json!({"type": "virtual-router", "fq_name": name});
        let router = self.api("POST", "/fqname-to-id", question).await["uuid"].clone();
        self.api(
            "POST",
            "/ref-update",
            json!({
                "type": "virtual-router", "uuid": router, "ref-type": "virtual-machine",
                "ref-uuid": VM, "ref-fq-name": null, "operation": operation, "attr": null,
            }),
        )
        .await;
    }

    fn client(&self) -> VrouterClient {
        let options = VrouterOptions {
            port: self.agent.address().port(),
            limits: Limits {
                request_timeout: Duration::from_secs(20),
                ..Limits::default()
            },
            ..VrouterOptions::default()
        };
        VrouterClient::new(&options).unwrap()
    }

    /// Status line with headers, and body, unparsed.
    async fn raw(&self, method: &str, path: &str, body: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.agent.address()).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    fn port_of(&self, interface: Uuid) -> Port {
        let networks = self.api.objects("virtual-network");
        let blue = networks
            .iter()
            .find(|network| network["fq_name"][2] == "blue")
            .unwrap();
        Port {
            time: Port::now(),
            vm_id: VM.to_string(),
            vm_uuid: VM,
            vm_name: VM.to_string(),
            host_ifname: "tapeth0-660a30".to_owned(),
            vm_ifname: "eth0".to_owned(),
            vm_namespace: String::new(),
            vn_uuid: blue["uuid"].as_str().unwrap().parse().unwrap(),
            vmi_uuid: interface,
        }
    }
}

fn late() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

async fn wait_for(event: &str, mut done: impl AsyncFnMut() -> bool) {
    let end = late();
    while !done().await {
        assert!(Instant::now() < end, "timed out waiting for {event}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn client_registers_and_removes_a_container() {
    let fixture = Fixture::new().await;
    let client = fixture.client();
    let interfaces = fixture.machine(2).await;
    for interface in 0..2 {
        fixture.address(interface, "v4").await;
    }
    fixture.address(0, "v6").await;
    fixture.link("host1", "ADD").await;
    let configured = client
        .await_configuration(VM, ExpectedPorts::Annotated, late())
        .await
        .unwrap();
    let found: Vec<_> = configured
        .iter()
        .map(|interface| interface.interface)
        .collect();
    assert_eq!(found, interfaces);
    assert_eq!(configured[0].network_name, "default-domain:p:blue");
    assert_eq!(configured[0].vlan, None);
    // All interfaces have to be registered before any has an address.
    client
        .register(&fixture.port_of(interfaces[0]), late())
        .await
        .unwrap();
    assert_eq!(client.addresses(VM).await.unwrap(), None);
    client
        .register(&fixture.port_of(interfaces[1]), late())
        .await
        .unwrap();
    let plugged = client
        .await_addresses(VM, &interfaces, late())
        .await
        .unwrap();
    let v4 = plugged[0].v4.unwrap();
    assert_eq!(v4.address.to_string(), "5.5.5.252");
    assert_eq!(v4.prefix, Some(24));
    assert_eq!(v4.gateway.unwrap().to_string(), "5.5.5.254");
    assert_eq!(v4.dns.unwrap().to_string(), "5.5.5.253");
    let v6 = plugged[0].v6.unwrap();
    assert!(v6.address.to_string().starts_with("fd05::"), "{v6:?}");
    assert_eq!(plugged[1].v6, None);
    assert_eq!(plugged[0].host_interface, "tapeth0-660a30");
    assert_eq!(plugged[0].mac, configured[0].mac);

    let files = PortFiles::new(fixture.ports.path().join("vm"));
    assert_eq!(files.ports(VM).unwrap().len(), 2);
    client.unregister(VM, late()).await.unwrap();
    assert!(files.machines().unwrap().is_empty());
    assert!(fixture.agent.ports().is_empty());
    client.unregister(VM, late()).await.unwrap();
}

#[tokio::test]
async fn only_the_linked_host_receives_configuration() {
    let fixture = Fixture::new().await;
    let client = fixture.client();
    let interface = fixture.machine(1).await[0];
    fixture.link("host2", "ADD").await;
    // Once the agent has a later object, it has this one.
    let seen = async || fixture.agent.shared.lock().config.is_linked("host2", VM);
    wait_for("the link", seen).await;
    assert_eq!(client.configuration(VM).await.unwrap(), None);
    client
        .register(&fixture.port_of(interface), late())
        .await
        .unwrap();
    fixture.link("host1", "ADD").await;
    client
        .await_configuration(VM, ExpectedPorts::Uuids(&[interface]), late())
        .await
        .unwrap();
    fixture.address(0, "v4").await;
    client
        .await_addresses(VM, &[interface], late())
        .await
        .unwrap();
    // Without its configuration the agent keeps both the port and its file.
    fixture.link("host1", "DELETE").await;
    wait_for("the link to go", async || {
        client.configuration(VM).await.unwrap().is_none()
    })
    .await;
    let (head, body) = fixture.raw("DELETE", &format!("/vm/{VM}"), "").await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(body, "{}");
    assert_eq!(fixture.agent.ports().len(), 1);
    assert!(
        fixture
            .ports
            .path()
            .join(format!("vm/{VM}/{interface}"))
            .exists()
    );
}

#[tokio::test]
async fn restarted_agent_loads_its_ports() {
    let mut fixture = Fixture::new().await;
    let interface = fixture.machine(1).await[0];
    fixture.address(0, "v4").await;
    fixture.link("host1", "ADD").await;
    let files = PortFiles::new(fixture.ports.path().join("vm"));
    let port = fixture.port_of(interface);
    files.write(&port).unwrap();
    fixture.client().register(&port, late()).await.unwrap();
    // What the client wrote stays unchanged.
    assert_eq!(files.ports(VM).unwrap()[0].as_ref().unwrap(), &port);
    std::fs::write(fixture.ports.path().join("vm").join("no-uuid"), "x").unwrap();
    std::fs::write(fixture.ports.path().join(Uuid::nil().to_string()), "x").unwrap();
    fixture.restart().await;
    assert_eq!(
        fixture.agent.ports(),
        [(VM, interface, port.host_ifname.clone())]
    );
    fixture
        .client()
        .await_addresses(VM, &[interface], late())
        .await
        .unwrap();
}

#[tokio::test]
async fn ports_not_registered_again_become_stale() {
    let fixture = Fixture::with(|options| options.stale = Duration::from_millis(300)).await;
    let interfaces = fixture.machine(2).await;
    let client = fixture.client();
    for interface in &interfaces {
        client
            .register(&fixture.port_of(*interface), late())
            .await
            .unwrap();
    }
    client.sync(late()).await.unwrap();
    client
        .register(&fixture.port_of(interfaces[0]), late())
        .await
        .unwrap();
    wait_for("the sweep", async || fixture.agent.ports().len() < 2).await;
    assert_eq!(fixture.agent.ports()[0].1, interfaces[0]);
    let files = PortFiles::new(fixture.ports.path().join("vm"));
    assert_eq!(files.ports(VM).unwrap().len(), 1);
}
