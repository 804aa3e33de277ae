//! Derived uuids, and the client against scripted managers.

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
    PortsClient::new(&ClientOptions {
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

fn ports_response() -> Reply {
    ok(&json!({ "machine": MACHINE, "ports": [] }))
}

fn refusal(status: u16, text: &str) -> Reply {
    Reply::Answer(status, json!({ "error": text }).to_string())
}

#[test]
fn vm_uuid_should_be_the_container_id_if_that_is_a_uuid() {
    let id = "660a305f-10e4-47fd-a5fc-50e48147423b";
    assert_eq!(vm_uuid(&ContainerId::top_level(id)).to_string(), id);
}

#[test]
fn vm_uuid_should_be_unique_for_other_ids() {
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
async fn client_should_keep_the_first_manager_that_answers() {
    let away = ScriptedServer::start(|_: &ReceivedRequest, _| Reply::Close).await;
    let standby = ScriptedServer::start(|_: &ReceivedRequest, _| refusal(503, "no leader")).await;
    let leader = ScriptedServer::start(|_: &ReceivedRequest, _| ports_response()).await;
    let client = client(&[&away, &standby, &leader], None);
    for _ in 0..3 {
        let ports = client.put(MACHINE, &request(), late()).await.unwrap();
        assert_eq!(ports.machine, MACHINE);
    }
    assert_eq!(leader.requests().len(), 3);
    assert_eq!(standby.requests().len(), 1);
    let received = &leader.requests()[0];
    assert_eq!(received.line(), format!("PUT /v1/ports/{MACHINE}"));
    assert_eq!(received.header(AGENT_HEADER), Some("node-1"));
    assert_eq!(received.header("authorization"), None);
    assert_eq!(received.json()["container"], json!(["c1"]));
}

#[tokio::test]
async fn client_should_follow_redirects_to_listed_managers_only() {
    let leader = ScriptedServer::start(|_: &ReceivedRequest, _| ports_response()).await;
    let location = format!("http://{}/v1/ports/{MACHINE}", leader.address);
    let location: &'static str = location.leak();
    let skipped = ScriptedServer::start(|_: &ReceivedRequest, _| ports_response()).await;
    let standby = ScriptedServer::start(move |_: &ReceivedRequest, _| {
        Reply::WithHeader(307, "Location", location)
    })
    .await;
    let first = client(&[&standby, &skipped, &leader], None);
    first.put(MACHINE, &request(), late()).await.unwrap();
    assert_eq!((skipped.requests().len(), leader.requests().len()), (0, 1));
    // Credentials are sent only to configured managers.
    let second = client(&[&standby], None);
    let error = second.put(MACHINE, &request(), soon()).await.unwrap_err();
    assert!(error.to_string().contains("not in the list"), "{error}");
    assert_eq!(leader.requests().len(), 1);
}

#[tokio::test]
async fn client_should_return_a_refusal_with_its_reason() {
    let manager = ScriptedServer::start(|_: &ReceivedRequest, _| {
        refusal(400, "there is no network \"blu\"; there are: blue")
    })
    .await;
    let other = ScriptedServer::start(|_: &ReceivedRequest, _| ports_response()).await;
    let client = client(&[&manager, &other], None);
    let error = client.put(MACHINE, &request(), late()).await.unwrap_err();
    assert!(!error.kind.is_transient());
    assert!(error.to_string().contains("there are: blue"), "{error}");
    assert_eq!((manager.requests().len(), other.requests().len()), (1, 0));
}

#[tokio::test]
async fn client_should_retry_transient_failures_until_the_deadline() {
    let manager = ScriptedServer::start(|_: &ReceivedRequest, count| match count {
        0 => refusal(502, "the API server is away"),
        1 => Reply::Truncate,
        2 => Reply::Answer(200, "<html>".to_owned()),
        3 => refusal(429, "slow down"),
        _ => ports_response(),
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
async fn client_should_report_the_last_problem_of_each_manager() {
    let away = ScriptedServer::start(|_: &ReceivedRequest, _| Reply::Close).await;
    let leader =
        ScriptedServer::start(|_: &ReceivedRequest, _| refusal(503, "it cannot provision")).await;
    let client = client(&[&away, &leader], None);
    let error = client.delete(MACHINE, soon()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("it cannot provision"), "{text}");
    for manager in [&away, &leader] {
        assert!(
            text.contains(&format!("http://{}: ", manager.address)),
            "{text}"
        );
    }
    // One that a redirect names, and that does not answer, hides nothing.
    let location = format!("http://{}/v1/ports/{MACHINE}", leader.address);
    let location: &'static str = location.leak();
    let standby = ScriptedServer::start(move |_: &ReceivedRequest, _| {
        Reply::WithHeader(307, "Location", location)
    })
    .await;
    let client = self::client(&[&standby, &leader], None);
    let text = client
        .delete(MACHINE, soon())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("another manager leads") && text.contains("it cannot provision"),
        "{text}"
    );
}

#[tokio::test]
async fn client_should_reload_a_changed_token_and_never_show_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "first-secret\n").unwrap();
    let manager = ScriptedServer::start(|received: &ReceivedRequest, _| {
        match received.header("authorization") {
            Some("Bearer second-secret") => ports_response(),
            _ => refusal(401, "wrong token"),
        }
    })
    .await;
    let client = client(&[&manager], Some(&file));
    let error = client.put(MACHINE, &request(), late()).await.unwrap_err();
    assert!(!error.kind.is_transient() && !format!("{error:?} {client:?}").contains("secret"));
    std::fs::write(&file, "second-secret\n").unwrap();
    client.put(MACHINE, &request(), late()).await.unwrap();
    std::fs::write(&file, "two words").unwrap();
    let options = ClientOptions {
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

#[tokio::test]
async fn request_beyond_the_limit_waits_within_its_deadline() {
    let manager = ScriptedServer::start(|_: &ReceivedRequest, _| Reply::Hang).await;
    let client = PortsClient::new(&ClientOptions {
        managers: vec![manager_address(&manager.address.to_string()).unwrap()],
        agent: "node-1".to_owned(),
        token_file: None,
        tls: TlsOptions::default(),
        // The others keep their connections for as long as the test lasts.
        limits: Limits {
            request_timeout: Duration::from_mins(10),
            ..Limits::default()
        },
    })
    .unwrap();
    let deadline = Instant::now() + Duration::from_mins(10);
    let others: Vec<_> = (0..MAX_IN_FLIGHT)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.put(MACHINE, &request(), deadline).await })
        })
        .collect();
    while manager.requests().len() < MAX_IN_FLIGHT {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let error = client.put(MACHINE, &request(), soon()).await.unwrap_err();
    assert!(error.kind.is_transient(), "{error}");
    assert!(error.to_string().contains("other requests"), "{error}");
    for other in others {
        other.abort();
    }
}
