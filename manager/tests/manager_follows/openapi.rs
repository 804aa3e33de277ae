//! The OpenAPI documents: every example in them is sent to a manager.

use contrail_mesos_api::agent_api::AGENT_HEADER;
use contrail_mesos_api::routes::DOCUMENT_PATH;
use contrail_mesos_api::routes::testing::{
    ExampleRequest, check_response, compare_copy, example_requests, hostile_requests,
};
use futures::StreamExt as _;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Response};
use serde_json::Value;

use super::fixture::Fixture;

const OVERLAYS: &str = r#"{
    "vtep_subnet": "44.128.0.0/16",
    "vtep_mac_oui": "70:B3:D5:00:00:00",
    "overlays": [{"name": "dcos", "subnet": "9.0.0.0/8", "prefix": 24}]
}"#;

/// A listener of a manager with its document.
struct Listener {
    http: Client,
    base: String,
    document: Value,
}

impl Listener {
    /// Fails if the document is not the copy in `docs/api`.
    async fn new(base: &str, copy: &str) -> Self {
        let http = Client::new();
        let response = http
            .get(format!("{base}{DOCUMENT_PATH}"))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        let text = response.bytes().await.unwrap();
        compare_copy(&format!("../docs/api/{copy}.json"), &text);
        Self {
            http,
            base: base.to_owned(),
            document: serde_json::from_slice(&text).unwrap(),
        }
    }

    async fn send(&self, example: &ExampleRequest) -> Response {
        let method = example.method.parse().unwrap();
        let mut request = self
            .http
            .request(method, format!("{}{}", self.base, example.target))
            .header(AGENT_HEADER, "node1");
        for (name, value) in &example.headers {
            request = request.header(name, value);
        }
        if let Some((media_type, body)) = &example.body {
            request = request.header(CONTENT_TYPE, media_type).body(body.clone());
        }
        request.send().await.unwrap()
    }

    /// Sends every example: what creates first, what deletes last.
    async fn check_examples(&self) {
        let mut requests = example_requests(&self.document);
        requests.sort_by_key(|example| match example.method.as_str() {
            "PUT" => 0,
            "POST" if !example.route.contains("del") => 1,
            "GET" => 2,
            _ => 3,
        });
        for example in requests {
            let response = self.send(&example).await;
            let status = response.status().as_u16();
            let media_type = response.headers().get(CONTENT_TYPE);
            let media_type = media_type.map(|value| value.to_str().unwrap().to_owned());
            let media_type = media_type.as_deref();
            let body = match media_type {
                Some("application/x-ndjson") => first_lines(response).await,
                _ => response.bytes().await.unwrap().to_vec(),
            };
            let works = check_response(&self.document, &example, status, media_type, &body);
            if example.route == "/v1/marathon" {
                // The manager of this test does not follow Marathon.
                assert_eq!(status, 404);
                continue;
            }
            let shown = String::from_utf8_lossy(&body);
            assert!(
                works,
                "{} {}: {status} {shown}",
                example.method, example.target
            );
        }
    }

    async fn check_hostile_requests(&self) {
        let requests = hostile_requests(&self.document);
        assert!(requests.len() > 50);
        for hostile in requests {
            if hostile.route == "/v1/watch" {
                continue;
            }
            let status = self.send(&hostile).await.status();
            assert!(!status.is_server_error(), "{}: {status}", hostile.target);
        }
    }
}

/// The lines up to the one that ends the snapshot.
async fn first_lines(response: Response) -> Vec<u8> {
    let mut stream = response.bytes_stream();
    let mut lines = vec![];
    while !String::from_utf8_lossy(&lines).contains("\"synced\"") || lines.last() != Some(&b'\n') {
        lines.extend(stream.next().await.unwrap().unwrap());
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn examples_of_the_documents_are_answered_as_they_say() {
    let fixture = Fixture::start().await;
    let overlays = fixture.path("overlays.json");
    std::fs::write(&overlays, OVERLAYS).unwrap();
    let (state, services) = (fixture.path("state.json"), fixture.path("services.json"));
    fixture.configure(
        "legacy_listen = \"127.0.0.1:0\"",
        &format!(
            "[overlay]\nfile = {overlays:?}\nstate_file = {state:?}\n\
             [services]\nstate_file = {services:?}\n"
        ),
    );
    let manager = fixture.spawn_manager();
    let admin = manager.address("admin listener at").await;
    let agents = manager.address("agents at").await;
    let legacy = manager.address("plugins at").await;
    manager.wait_for_line("ready", 1).await;
    let agents = Listener::new(&agents, "manager-agents").await;
    let admin = Listener::new(&admin, "manager-operators").await;
    let legacy = Listener::new(&legacy, "manager-plugins").await;

    // A container that the operators' examples find.
    let requests = example_requests(&agents.document);
    let create = requests
        .iter()
        .find(|example| example.method == "PUT" && example.route == "/v1/ports/{machine}");
    assert_eq!(agents.send(create.unwrap()).await.status(), 200);
    admin.check_examples().await;
    legacy.check_examples().await;
    agents.check_examples().await;
    // The commands of the documentation.
    let commands = include_str!("../../../docs/api.md").lines();
    let commands = commands.filter_map(|line| line.strip_prefix("$ curl "));
    let mut count = 0;
    for url in commands.map(|url| url.trim_matches('\'')) {
        let target = url.strip_prefix("http://127.0.0.1:6993").unwrap();
        let status = admin.send(&ExampleRequest::get(target)).await.status();
        assert_eq!(status, 200, "{url}");
        count += 1;
    }
    assert_ne!(count, 0);
    for listener in [&admin, &agents, &legacy] {
        listener.check_hostile_requests().await;
    }
}
