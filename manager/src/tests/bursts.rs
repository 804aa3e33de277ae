//! Many requests of one address at once, more than it may have connections.

use futures::future::join_all;
use hyper::{Method, StatusCode};
use tokio::time::Instant;

use super::http::{Agent, start};
use super::*;
use contrail_mesos_api::agent_api::{ClientOptions, MAX_IN_FLIGHT, PortsClient, manager_address};
use contrail_mesos_api::http::TlsOptions;
use contrail_mesos_api::program::raise_open_files_limit;

const BURST: u128 = 200;

/// A manager that admits few connections of one address, and how many calls a container takes at the
/// API server once names are known.
async fn manager_with(fixture: &Fixture) -> (Manager, usize) {
    raise_open_files_limit();
    let manager = start(fixture).await;
    let agent = Agent::new(&manager, "node1");
    let mut calls = 0;
    for number in 1..=2 {
        let before = fixture.server.log().len();
        let (vm, request) = plain(number);
        assert_eq!(agent.put(vm, &request).await.status, StatusCode::OK);
        calls = fixture.server.log().len() - before;
    }
    (manager, calls)
}

async fn limited(per_address: usize) -> Fixture {
    Fixture::with(|config| {
        config.connections.per_address = per_address;
        config.admin_listen = Some(([127, 0, 0, 1], 0).into());
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn burst_of_one_agent_makes_each_call_once_and_is_never_refused() {
    // An agent keeps well below the default of 256, and its pool may open a few more.
    let fixture = limited(MAX_IN_FLIGHT * 3).await;
    let (manager, calls) = manager_with(&fixture).await;
    let client = PortsClient::new(&ClientOptions {
        managers: vec![manager_address(&manager.url()).unwrap()],
        agent: "node1".to_owned(),
        token_file: None,
        tls: TlsOptions::default(),
        limits: Limits::default(),
    })
    .unwrap();
    let deadline = Instant::now() + Duration::from_mins(2);
    let before = fixture.server.log().len();
    let puts = (10..10 + BURST).map(async |number| {
        let (vm, request) = plain(number);
        client.put(vm, &request, deadline).await.unwrap();
    });
    join_all(puts).await;
    let made = fixture.server.log().len() - before;
    assert_eq!(made, calls * usize::try_from(BURST).unwrap());
    let url = format!("http://{}/metrics", manager.admin_address().unwrap());
    let metrics = reqwest::get(&url).await.unwrap().text().await.unwrap();
    for reason in ["made_room", "address_limit"] {
        let closed = format!("connections_closed_total{{api=\"agents\",reason=\"{reason}\"}}");
        assert!(!metrics.contains(&closed), "{metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn response_is_written_before_its_connection_makes_room() {
    let fixture = limited(8).await;
    let (manager, calls) = manager_with(&fixture).await;
    let agent = Agent::new(&manager, "node1");
    let before = fixture.server.log().len();
    let puts = (10..10 + BURST).map(async |number| {
        let (vm, request) = plain(number);
        let body = serde_json::to_string(&request).unwrap();
        let path = format!("/v1/ports/{vm}");
        loop {
            // A connection that is refused or closed has not handled the request.
            let sent = agent.try_send(Method::PUT, &path, body.clone()).await;
            if let Ok(response) = sent {
                match response.status {
                    StatusCode::OK => return,
                    StatusCode::SERVICE_UNAVAILABLE => {}
                    other => panic!("{other}: {}", response.text()),
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    join_all(puts).await;
    let made = fixture.server.log().len() - before;
    assert_eq!(made, calls * usize::try_from(BURST).unwrap());
}
