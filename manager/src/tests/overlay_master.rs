//! The endpoints of the master module of DC/OS, over HTTP.

use std::path::Path;

use contrail_mesos_api::agent_api::AGENT_HEADER;
use contrail_mesos_api::overlay_modules::proto::State;
use hyper::StatusCode;
use prost::Message as _;
use reqwest::{RequestBuilder, Response};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::*;

const TOKEN: &str = "correct-horse-battery";
const STATE: &str = "/overlay-master/state";
const DELETE: &str = "/overlay-master/agents/delete";

struct Server {
    manager: Manager,
    http: reqwest::Client,
    _directory: tempfile::TempDir,
}

impl Server {
    /// A manager with two nodes.
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let overlays = directory.path().join("overlays.json");
        let networks = json!({
            "vtep_subnet": "44.128.0.0/20", "vtep_mac_oui": "70:B3:D5:00:00:00",
            "overlays": [{"name": "dcos", "subnet": "9.0.0.0/8", "prefix": 24, "vni": 1024}],
        });
        std::fs::write(&overlays, networks.to_string()).unwrap();
        let state = directory.path().join("state.json");
        let text = format!(
            "listen = \"127.0.0.1:0\"\nadmin_listen = \"none\"\n\
             [overlay]\nfile = {overlays:?}\nstate_file = {state:?}\n"
        );
        let mut config = Config::parse(Path::new("manager.toml"), &text).unwrap();
        config.access.tokens = vec![SecretString::from(TOKEN)];
        let manager = Manager::start(config).await.unwrap();
        manager.ready().await;
        let server = Self {
            manager,
            http: reqwest::Client::new(),
            _directory: directory,
        };
        for node in 1..=2 {
            let name = format!("node-{node}");
            let report = json!({"address": format!("10.0.0.{node}")});
            let url = format!("{}/v1/nodes/{name}", server.manager.url());
            let request = server
                .http
                .put(url)
                .header(AGENT_HEADER, &name)
                .json(&report);
            let response = request.bearer_auth(TOKEN).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
        }
        server
    }

    fn get(&self, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.manager.url());
        self.http.get(url).bearer_auth(TOKEN)
    }

    async fn delete(&self, body: &str) -> Response {
        let url = format!("{}{DELETE}", self.manager.url());
        let request = self.http.post(url).bearer_auth(TOKEN);
        request.body(body.to_owned()).send().await.unwrap()
    }
}

async fn status(request: RequestBuilder) -> StatusCode {
    request.send().await.unwrap().status()
}

#[tokio::test]
async fn state_is_that_of_the_original_module() {
    let server = Server::start().await;
    let response = server.get(STATE).send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "application/json");
    let state: Value = response.json().await.unwrap();
    let info = json!({"name": "dcos", "subnet": "9.0.0.0/8", "prefix": 24, "enabled": true});
    let expected = json!({
        "vtep_subnet": "44.128.0.0/20", "vtep_mac_oui": "70:b3:d5:00:00:00", "overlays": [info],
    });
    assert_eq!(state["network"], expected);
    assert_eq!(state["agents"].as_array().unwrap().len(), 2);
    // Nothing is known of a node that has not applied anything, so it has no state.
    let expected = json!({
        "ip": "10.0.0.2",
        "overlays": [{
            "info": info,
            "subnet": "9.0.1.0/24",
            "mesos_bridge": {"name": "m-dcos", "ip": "9.0.1.0/25"},
            "docker_bridge": {"name": "d-dcos", "ip": "9.0.1.128/25"},
            "backend": {"vxlan": {
                "vni": 1024, "vtep_name": "vtep1024", "vtep_ip": "44.128.0.2/20",
                "vtep_mac": "70:b3:d5:80:00:02",
            }},
        }],
    });
    assert_eq!(state["agents"][1], expected);

    let request = server.get(STATE).header("accept", "application/x-protobuf");
    let bytes = request.send().await.unwrap().bytes().await.unwrap();
    let state = State::decode(bytes).unwrap();
    assert_eq!(state.agents[1].ip, "10.0.0.2");
    let request = server.get("/overlay-master/state?jsonp=f");
    let text = request.send().await.unwrap().text().await.unwrap();
    assert!(text.starts_with("f({\"network\":"), "{text}");
    let refused = [
        (server.get("/overlay-master/state?jsonp=a%28b"), 400),
        (
            server
                .get("/overlay-master/state?jsonp=f")
                .header("sec-fetch-site", "cross-site"),
            403,
        ),
        (server.get(STATE).header("accept", "text/html"), 415),
        (server.get(STATE).header("host", "evil.example"), 403),
        (server.http.get(server.manager.url() + STATE), 401),
        (server.get(DELETE), 405),
    ];
    for (request, expected) in refused {
        assert_eq!(status(request).await, expected);
    }
    server.manager.stop().await;
}

#[tokio::test]
async fn nodes_are_deleted_by_their_addresses() {
    let server = Server::start().await;
    for body in [
        "",
        "[]",
        "{}",
        "{\"agents\": [\"x\"]}",
        "{\"agents\": \"10.0.0.1\"}",
    ] {
        assert_eq!(
            server.delete(body).await.status(),
            StatusCode::BAD_REQUEST,
            "{body}"
        );
    }
    let url = format!("{}{DELETE}", server.manager.url());
    let foreign = server
        .http
        .post(url)
        .bearer_auth(TOKEN)
        .body("{\"agents\": []}");
    assert_eq!(
        status(foreign.header("origin", "http://evil.example")).await,
        403
    );
    // One that is not known changes nothing.
    let response = server
        .delete("{\"agents\": [\"10.0.0.1\", \"10.9.9.9\"]}")
        .await;
    assert_eq!(response.status(), StatusCode::OK);
    let state: Value = response.json().await.unwrap();
    let agents = state["agents"].as_array().unwrap();
    assert_eq!(agents.len(), 1);
    assert_eq!(agents[0]["ip"], "10.0.0.2");
    server.manager.stop().await;
}
