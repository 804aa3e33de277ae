//! Names; and the client against managers that do as they are told.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use uuid::Uuid;

use super::*;
use crate::http::scripted::{ReceivedRequest, Reply, ScriptedServer, ok};
use crate::http::{Limits, TlsOptions};

const MACHINE: Uuid = Uuid::from_u128(7);

fn client(managers: &[&ScriptedServer], token_file: Option<&std::path::Path>) -> PortsClient {
    let address =
        |manager: &&ScriptedServer| manager_address(&manager.address.to_string()).unwrap();
    PortsClient::new(&PortsOptions {
        managers: managers.iter().map(address).collect(),
        agent: "node-1".to_owned(),
        token_file: token_file.map(ToOwned::to_owned),
        tls: TlsOptions::default(),
        limits: Limits {
            request_timeout: Duration::from_secs(2),
            ..Limits::default()
        },
    })
    .unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(500)
}

fn late() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn request() -> PortsRequest {
    PortsRequest {
        container: ContainerId::top_level("c1"),
        virtual_router_address: None,
        annotations: BTreeMap::new(),
        ports: vec![],
    }
}

fn made() -> Reply {
    ok(&json!({ "machine": MACHINE, "ports": [] }))
}

fn refusal(status: u16, text: &str) -> Reply {
    Reply::Answer(status, json!({ "error": text }).to_string())
}

#[test]
fn a_container_whose_id_is_a_uuid_is_its_machine() {
    let id = "660a305f-10e4-47fd-a5fc-50e48147423b";
    assert_eq!(vm_uuid(&ContainerId::top_level(id)).to_string(), id);
}

#[test]
fn other_ids_have_machines_of_their_own() {
    let root = ContainerId::top_level("660a305f-10e4-47fd-a5fc-50e48147423b");
    let ids = [
        root.nested("660a305f-10e4-47fd-a5fc-50e48147423b"),
        root.nested("a"),
        root.nested("a").nested("b"),
        root.nested("a.b"),
        ContainerId::top_level("660A305F-10E4-47FD-A5FC-50E48147423B"),
        ContainerId::top_level("660a305f10e447fda5fc50e48147423b"),
        ContainerId::top_level("00000000-0000-0000-0000-000000000000"),
        ContainerId::top_level(""),
        ContainerId::top_level("a\",\"b"),
        ContainerId::top_level("a").nested("b"),
        root,
    ];
    let machines: std::collections::HashSet<Uuid> = ids.iter().map(vm_uuid).collect();
    assert_eq!(machines.len(), ids.len());
    assert!(!machines.contains(&Uuid::nil()));
}

#[tokio::test]
async fn the_first_manager_that_answers_is_kept() {
    let away = ScriptedServer::start(|_: &ReceivedRequest, _| Reply::Close).await;
    let standby = ScriptedServer::start(|_: &ReceivedRequest, _| refusal(503, "no leader")).await;
    let leader = ScriptedServer::start(|_: &ReceivedRequest, _| made()).await;
    let client = client(&[&away, &standby, &leader], None);
    for _ in 0..3 {
        let ports = client.put(MACHINE, &request(), late()).await.unwrap();
        assert_eq!(ports.machine, MACHINE);
    }
    assert_eq!(leader.requests().len(), 3);
    assert_eq!(standby.requests().len(), 1);
    let asked = &leader.requests()[0];
    assert_eq!(asked.line(), format!("PUT /v1/ports/{MACHINE}"));
    assert_eq!(asked.header(AGENT_HEADER), Some("node-1"));
    assert_eq!(asked.header("authorization"), None);
    assert_eq!(asked.json()["container"], json!(["c1"]));
}

#[tokio::test]
async fn a_standby_names_the_leader() {
    let leader = ScriptedServer::start(|_: &ReceivedRequest, _| made()).await;
    let location = format!("http://{}/v1/ports/{MACHINE}", leader.address);
    let location: &'static str = location.leak();
    let unasked = ScriptedServer::start(|_: &ReceivedRequest, _| made()).await;
    let standby = ScriptedServer::start(move |_: &ReceivedRequest, _| {
        Reply::WithHeader(307, "Location", location)
    })
    .await;
    let first = client(&[&standby, &unasked, &leader], None);
    first.put(MACHINE, &request(), late()).await.unwrap();
    assert_eq!((unasked.requests().len(), leader.requests().len()), (0, 1));
    // Credentials go to nobody whom the configuration does not name.
    let second = client(&[&standby], None);
    let error = second.put(MACHINE, &request(), soon()).await.unwrap_err();
    assert!(error.to_string().contains("not in our list"), "{error}");
    assert_eq!(leader.requests().len(), 1);
}

#[tokio::test]
async fn a_refusal_is_final_and_says_why() {
    let manager = ScriptedServer::start(|_: &ReceivedRequest, _| {
        refusal(400, "there is no network \"blu\"; there are: blue")
    })
    .await;
    let other = ScriptedServer::start(|_: &ReceivedRequest, _| made()).await;
    let client = client(&[&manager, &other], None);
    let error = client.put(MACHINE, &request(), late()).await.unwrap_err();
    assert!(!error.kind.is_transient());
    assert!(error.to_string().contains("there are: blue"), "{error}");
    assert_eq!((manager.requests().len(), other.requests().len()), (1, 0));
}

#[tokio::test]
async fn what_may_pass_is_asked_again_until_the_deadline() {
    let manager = ScriptedServer::start(|_: &ReceivedRequest, count| match count {
        0 => refusal(502, "the API server is away"),
        1 => Reply::Truncate,
        2 => Reply::Answer(200, "<html>".to_owned()),
        3 => refusal(429, "slow down"),
        _ => made(),
    })
    .await;
    let good = client(&[&manager], None);
    good.put(MACHINE, &request(), late()).await.unwrap();
    assert_eq!(manager.requests().len(), 5);
    let never =
        ScriptedServer::start(|_: &ReceivedRequest, _| refusal(504, "the API server is slow"))
            .await;
    let bad = client(&[&never], None);
    let error = bad.delete(MACHINE, soon()).await.unwrap_err();
    assert!(error.kind.is_transient());
    assert!(
        error.to_string().contains("the API server is slow"),
        "{error}"
    );
    assert!(never.requests().len() > 2);
}

#[tokio::test]
async fn a_token_that_changed_is_read_again_and_never_shown() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "first-secret\n").unwrap();
    let manager =
        ScriptedServer::start(
            |asked: &ReceivedRequest, _| match asked.header("authorization") {
                Some("Bearer second-secret") => made(),
                _ => refusal(401, "wrong token"),
            },
        )
        .await;
    let client = client(&[&manager], Some(&file));
    let error = client.put(MACHINE, &request(), late()).await.unwrap_err();
    assert!(!error.kind.is_transient() && !format!("{error:?} {client:?}").contains("secret"));
    std::fs::write(&file, "second-secret\n").unwrap();
    client.put(MACHINE, &request(), late()).await.unwrap();
    std::fs::write(&file, "two words").unwrap();
    let options = PortsOptions {
        managers: vec![],
        agent: "node-1".to_owned(),
        token_file: Some(file),
        tls: TlsOptions::default(),
        limits: Limits::default(),
    };
    let error = PortsClient::new(&options).unwrap_err().to_string();
    assert!(
        error.contains("one word") && !error.contains("two words"),
        "{error}"
    );
}
