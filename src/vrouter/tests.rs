//! The client against a scripted agent.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::*;
use contrail_mesos_api::http::Limits;
use contrail_mesos_api::http::scripted::{ReceivedRequest, Reply, ScriptedServer, ok};

const VM: &str = "660a305f-10e4-47fd-a5fc-50e48147423b";
const FIRST: Uuid = Uuid::from_u128(1);
const SECOND: Uuid = Uuid::from_u128(2);

fn vm() -> Uuid {
    VM.parse().unwrap()
}

fn client(agent: &ScriptedServer) -> VrouterClient {
    let options = VrouterOptions {
        port: agent.address.port(),
        limits: Limits {
            request_timeout: Duration::from_secs(20),
            ..Limits::default()
        },
        ..VrouterOptions::default()
    };
    VrouterClient::new(&options).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(300)
}

fn late() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn port() -> Port {
    Port {
        time: Port::now(),
        vm_id: VM.to_owned(),
        vm_uuid: vm(),
        vm_name: VM.to_owned(),
        host_ifname: "cm0123456789abc".to_owned(),
        vm_ifname: "eth0".to_owned(),
        vm_namespace: format!("/run/netns/{VM}"),
        vn_uuid: Uuid::from_u128(7),
        vmi_uuid: FIRST,
    }
}

fn not_found() -> Reply {
    Reply::Answer(404, r#"{"error":"{ Not Found }"}"#.to_owned())
}

fn configuration(interface: Uuid, annotations: &[&str]) -> Value {
    json!({
        "id": interface, "instance-id": VM, "vn-id": Uuid::from_u128(7),
        "vn-name": "default-domain:p1:blue", "mac-address": "02:77:7a:c0:5d:da",
        "sub-interface": false, "vlan-id": 65535, "annotations": annotations,
    })
}

fn plugged(interface: Uuid, address: &str) -> Value {
    json!({
        "id": interface, "instance-id": VM, "vn-id": Uuid::from_u128(7), "vm-project-id": "",
        "mac-address": "02:77:7a:c0:5d:da", "system-name": "cm0123456789abc",
        "rx-vlan-id": 65535, "tx-vlan-id": 65535, "vhostuser-mode": 0,
        "ip-address": address, "plen": 24, "dns-server": "5.5.5.253", "gateway": "5.5.5.254",
        "author": "/usr/bin/contrail-vrouter-agent", "time": "now",
    })
}

/// An agent with this configuration and these addresses, pretty-printed as agents do.
async fn agent(configuration: Vec<Value>, plugged: Vec<Value>) -> ScriptedServer {
    ScriptedServer::start(move |request, _| {
        let response = |values: &[Value]| match values {
            [] => not_found(),
            values => ok(&serde_json::to_string_pretty(values).unwrap()),
        };
        match request.path.split('/').nth(1) {
            Some("vm-cfg") => response(&configuration),
            Some("vm") => response(&plugged),
            _ => Reply::Answer(404, r#"{"error":"Unknown Request"}"#.to_owned()),
        }
    })
    .await
}

#[tokio::test]
async fn await_configuration_should_order_interfaces_by_index() {
    let agent = agent(
        vec![
            configuration(FIRST, &["{index:1/2}", "{note:a:b {c}}"]),
            configuration(SECOND, &["{index:0/2}", "{odd}", "{cluster:mesos}"]),
        ],
        vec![],
    )
    .await;
    let found = client(&agent)
        .await_configuration(vm(), ExpectedPorts::Annotated, late())
        .await
        .unwrap();
    assert_eq!(found[0].interface, SECOND);
    assert_eq!(found[0].index(), Some((0, 2)));
    assert_eq!(found[0].annotations["odd"], "");
    assert_eq!(found[0].vlan, None);
    assert_eq!(found[1].annotations["note"], "a:b {c}");
    assert_eq!(found[1].network_name, "default-domain:p1:blue");

    let found = client(&agent)
        .await_configuration(vm(), ExpectedPorts::Uuids(&[FIRST]), late())
        .await
        .unwrap();
    assert_eq!(found[0].interface, FIRST);
    assert_eq!(
        agent.lines(),
        [format!("GET /vm-cfg/{VM}"), format!("GET /vm-cfg/{VM}")]
    );
}

#[tokio::test]
async fn await_addresses_should_read_both_families() {
    let mut both = plugged(FIRST, "5.5.5.252");
    both["v6-ip-address"] = "2001:db8::fc".into();
    both["v6-gateway"] = "2001:db8::1".into();
    both["v6-dns-server"] = "::".into();
    let mut only_v6 = plugged(SECOND, "0.0.0.0");
    only_v6["v6-ip-address"] = "2001:db8::fd".into();
    let agent = agent(vec![], vec![both, only_v6]).await;
    let found = client(&agent)
        .await_addresses(vm(), &[SECOND, FIRST], late())
        .await
        .unwrap();
    assert_eq!(found[0].v4, None);
    let v4 = found[1].v4.unwrap();
    assert_eq!(
        (v4.address.to_string(), v4.prefix),
        ("5.5.5.252".to_owned(), Some(24))
    );
    assert_eq!(v4.gateway, Some("5.5.5.254".parse().unwrap()));
    let v6 = found[1].v6.unwrap();
    assert_eq!((v6.prefix, v6.dns), (None, None));
    assert_eq!(v6.gateway, Some("2001:db8::1".parse().unwrap()));
    assert_eq!(found[1].host_interface, "cm0123456789abc");
}

#[tokio::test]
async fn polling_should_end_once_every_interface_is_there() {
    let agent =
        ScriptedServer::start(
            |request, before| match (request.path.contains("vm-cfg"), before) {
                (true, 0) => not_found(),
                (true, 1) => Reply::Close,
                (true, 2) => Reply::Raw(b"nonsense\r\n\r\n"),
                (true, 3) => Reply::Answer(500, r#"{"error":"busy"}"#.to_owned()),
                (true, 4) => ok(&"[]"),
                (true, 5) => ok(&json!([configuration(FIRST, &["{index:0/2}"])])),
                (true, _) => ok(&json!([
                    configuration(FIRST, &["{index:0/2}"]),
                    configuration(SECOND, &["{index:1/2}"]),
                ])),
                (false, _) => ok(&json!([plugged(FIRST, "5.5.5.252")])),
            },
        )
        .await;
    let client = client(&agent);
    let found = client
        .await_configuration(vm(), ExpectedPorts::Annotated, late())
        .await
        .unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(agent.requests().len(), 7);
    client
        .await_addresses(vm(), &[FIRST], late())
        .await
        .unwrap();
    assert_eq!(agent.requests().len(), 8);
}

#[tokio::test]
async fn await_configuration_should_name_what_is_missing() {
    let missing = async |agent: &ScriptedServer, expected: ExpectedPorts<'_>| {
        let result = client(agent)
            .await_configuration(vm(), expected, soon())
            .await;
        result.unwrap_err().missing
    };
    let nothing = agent(vec![], vec![]).await;
    assert_eq!(
        missing(&nothing, ExpectedPorts::Annotated).await,
        Missing::Configuration
    );
    assert!(nothing.requests().len() > 1);

    let unmarked = agent(vec![configuration(FIRST, &[])], vec![]).await;
    assert_eq!(
        missing(&unmarked, ExpectedPorts::Annotated).await,
        Missing::Index { interface: FIRST }
    );

    let half = agent(vec![configuration(FIRST, &["{index:1/3}"])], vec![]).await;
    let problem = missing(&half, ExpectedPorts::Annotated).await;
    assert!(problem.to_string().contains("index 1/3"), "{problem}");
    let problem = missing(&half, ExpectedPorts::Uuids(&[FIRST, SECOND])).await;
    assert!(
        problem.to_string().contains(&SECOND.to_string()),
        "{problem}"
    );

    let stuck = ScriptedServer::start(|_, _| Reply::Hang).await;
    let problem = missing(&stuck, ExpectedPorts::Annotated).await;
    assert!(problem.to_string().contains("did not answer"), "{problem}");

    let other = ScriptedServer::start(|_, _| ok(&"<html>")).await;
    let problem = missing(&other, ExpectedPorts::Annotated).await;
    let Missing::Agent(error) = &problem else {
        panic!("{problem}")
    };
    assert!(
        matches!(error.kind, VrouterErrorKind::InvalidResponse { .. }),
        "{error}"
    );
    let other = ScriptedServer::start(|_, _| {
        Reply::Answer(404, r#"{"error":"Unknown Request"}"#.to_owned())
    })
    .await;
    let problem = missing(&other, ExpectedPorts::Annotated).await;
    assert!(problem.to_string().contains("Unknown Request"), "{problem}");

    let nobody = ScriptedServer::start(|_, _| Reply::Hang).await;
    let client = client(&nobody);
    drop(nobody);
    tokio::task::yield_now().await;
    let error = client
        .await_configuration(vm(), ExpectedPorts::Annotated, soon())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
}

#[tokio::test]
async fn await_addresses_should_name_what_is_missing() {
    let missing = async |agent: &ScriptedServer| {
        let wait = Instant::now() + Duration::from_secs(3);
        let result = client(agent)
            .await_addresses(vm(), &[FIRST, SECOND], wait)
            .await;
        result.unwrap_err().missing
    };
    let withdrawn = agent(vec![], vec![]).await;
    let bare = agent(vec![configuration(FIRST, &[])], vec![]).await;
    let first = vec![plugged(FIRST, "5.5.5.252"), plugged(SECOND, "0.0.0.0")];
    let half = agent(vec![], first).await;
    let (withdrawn, bare, half) = tokio::join!(missing(&withdrawn), missing(&bare), missing(&half));
    assert_eq!(withdrawn, Missing::Withdrawn);
    assert_eq!(bare, Missing::Address);
    let interfaces = vec![SECOND];
    assert_eq!(half, Missing::AddressOf { interfaces });
}

#[tokio::test]
async fn register_should_send_a_port_in_the_format_of_the_agent() {
    let agent = ScriptedServer::start(|_, before| match before {
        0 => Reply::Close,
        _ => ok(&"{}"),
    })
    .await;
    let client = client(&agent);
    client.register(&port(), late()).await.unwrap();
    client.unregister(vm(), late()).await.unwrap();
    client.sync(late()).await.unwrap();
    let requests = agent.requests();
    let lines: Vec<String> = requests.iter().map(ReceivedRequest::line).collect();
    let delete = format!("DELETE /vm/{VM}");
    assert_eq!(lines, ["POST /vm", "POST /vm", &delete, "POST /syncports"]);
    let mut body = requests[1].json();
    assert_eq!(requests[0].json(), body);
    assert!(body["time"].take().as_str().unwrap().ends_with("+0000 UTC"));
    assert_eq!(
        body,
        json!({
            "time": null, "vm-id": VM, "vm-uuid": VM, "vm-name": VM,
            "host-ifname": "cm0123456789abc", "vm-ifname": "eth0",
            "vm-namespace": format!("/run/netns/{VM}"),
            "vn-uuid": Uuid::from_u128(7), "vmi-uuid": FIRST,
        })
    );
}

#[tokio::test]
async fn register_should_not_retry_a_refusal() {
    let message = r#"{"error":"{ Invalid or missing field for vm-name }"}"#;
    let agent = ScriptedServer::start(move |_, _| Reply::Answer(500, message.to_owned())).await;
    let error = client(&agent).register(&port(), late()).await.unwrap_err();
    let expected = VrouterErrorKind::Refused {
        status: 500,
        message: "Invalid or missing field for vm-name".to_owned(),
    };
    assert_eq!(error.kind, expected);
    assert_eq!(agent.requests().len(), 1);
}

#[test]
fn port_files_should_be_complete_and_leave_other_files_alone() {
    let directory = tempfile::tempdir().unwrap();
    let ports = directory.path().join("ports/vm");
    let files = PortFiles::new(&ports);
    assert!(files.machines().unwrap().is_empty());
    assert!(!files.remove(vm()).unwrap());

    files.write(&port()).unwrap();
    files
        .write(&Port {
            vmi_uuid: SECOND,
            ..port()
        })
        .unwrap();
    files.write(&port()).unwrap();
    std::fs::write(ports.join("notes"), "mine").unwrap();
    std::fs::write(ports.join(VM).join(".half"), "{").unwrap();
    std::fs::write(ports.join(VM).join(Uuid::from_u128(3).to_string()), "{").unwrap();
    assert_eq!(files.machines().unwrap(), [vm()]);
    let found = files.ports(vm()).unwrap();
    assert_eq!(found.len(), 3);
    assert_eq!(found[0].as_ref().unwrap().vmi_uuid, FIRST);
    assert_eq!(found[1].as_ref().unwrap().vmi_uuid, SECOND);
    let error = found[2].as_ref().unwrap_err().to_string();
    assert!(error.starts_with("cannot read the port file"), "{error}");

    assert!(files.remove(vm()).unwrap());
    assert!(!ports.join(VM).exists());
    assert!(ports.join("notes").exists());
}

#[test]
fn port_should_parse_files_of_the_go_plugin() {
    // As the Go plugin writes it, with the field that the agent adds.
    let text = r#"{
	"time": "2018-11-21 10:00:00.000000001 +0000 UTC m=+0.1",
	"vm-id": "660a305f-10e4-47fd-a5fc-50e48147423b",
	"vm-uuid": "660a305f-10e4-47fd-a5fc-50e48147423b",
	"vm-name": "660a305f-10e4-47fd-a5fc-50e48147423b",
	"host-ifname": "tapeth0-660a30",
	"vm-ifname": "eth0",
	"vm-namespace": "/var/run/netns/x",
	"vn-uuid": "e454ea1c-ae40-4740-9096-bdf63ed8030a",
	"vmi-uuid": "777ac05d-da01-4d18-837a-f5b41f3b7a84",
	"author": "/usr/bin/contrail-vrouter-agent"
}"#;
    let port: Port = serde_json::from_str(text).unwrap();
    assert_eq!(port.host_ifname, "tapeth0-660a30");
}
