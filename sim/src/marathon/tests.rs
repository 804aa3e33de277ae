//! A whole Marathon against a fake master, with HTTP on both sides.
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;

mod cluster;
mod events;

/// A fake master with one agent, on which every task runs at once, until it is killed.
struct Master {
    events: Option<UnboundedSender<Result<Bytes, Infallible>>>,
    calls: Vec<Value>,
    /// The address of every task.
    address: String,
}

impl Default for Master {
    fn default() -> Self {
        Self {
            events: None,
            calls: Vec::new(),
            address: "9.0.1.3".to_owned(),
        }
    }
}

type Shared = Arc<Mutex<Master>>;

impl Master {
    async fn start() -> (String, Shared) {
        let master = Shared::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = Router::new()
            .route("/api/v1/scheduler", post(call))
            .with_state(Arc::clone(&master));
        tokio::spawn(async move { axum::serve(listener, router).await });
        (address, master)
    }

    fn send(&self, event: &Value) {
        let event = event.to_string();
        let record = format!("{}\n{event}", event.len());
        if let Some(events) = &self.events {
            let _ = events.unbounded_send(Ok(record.into()));
        }
    }

    fn offer(&self) {
        let scalar = |name: &str, value: f64| json!({"name": name, "type": "SCALAR", "scalar": {"value": value}, "role": "*"});
        let ports = json!({"name": "ports", "type": "RANGES", "role": "*",
            "ranges": {"range": [{"begin": 31000, "end": 32000}]}});
        self.send(&json!({"type": "OFFERS", "offers": {"offers": [{
            "id": {"value": "o1"}, "agent_id": {"value": "S1"}, "framework_id": {"value": "F1"},
            "hostname": "h",
            "resources": [scalar("cpus", 4.0), scalar("mem", 4096.0), scalar("disk", 99.0), ports],
        }]}}));
    }

    fn update(&self, task_id: &Value, state: &str) {
        self.send(&json!({"type": "UPDATE", "update": {"status": {
            "task_id": task_id, "agent_id": {"value": "S1"}, "state": state, "uuid": "dQ==",
            "container_status": {"network_infos": [
                {"name": "contrail", "ip_addresses": [
                    {"ip_address": self.address, "protocol": "IPv4"}]}]},
        }}}));
    }

    fn calls(&self, kind: &str) -> usize {
        self.calls
            .iter()
            .filter(|call| call["type"] == kind)
            .count()
    }
}

async fn call(State(master): State<Shared>, body: Bytes) -> Response {
    let call: Value = serde_json::from_slice(&body).unwrap();
    let mut master = master.lock().unwrap();
    let kind = call["type"].as_str().unwrap().to_owned();
    master.calls.push(call.clone());
    match kind.as_str() {
        "SUBSCRIBE" => {
            let (sender, events) = unbounded();
            master.events = Some(sender);
            master.send(&json!({"type": "SUBSCRIBED",
                                "subscribed": {"framework_id": {"value": "F1"}}}));
            return Body::from_stream(events).into_response();
        }
        "REVIVE" => master.offer(),
        "ACCEPT" => {
            for operation in call["accept"]["operations"].as_array().unwrap() {
                let tasks = operation.pointer("/launch/task_infos");
                let group = operation.pointer("/launch_group/task_group/tasks");
                for task in tasks.or(group).unwrap().as_array().unwrap() {
                    master.update(&task["task_id"], "TASK_RUNNING");
                }
            }
        }
        "KILL" => master.update(&call["kill"]["task_id"], "TASK_KILLED"),
        _ => {}
    }
    StatusCode::ACCEPTED.into_response()
}

fn client() -> reqwest::Client {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none());
    client.build().unwrap()
}

struct Fixture {
    master: Shared,
    marathon: Marathon,
}

impl Fixture {
    async fn start() -> Self {
        Self::with(Options::default()).await
    }

    async fn with(options: Options) -> Self {
        let (address, master) = Master::start().await;
        let marathon = Marathon::start(Options {
            master: address,
            listen: ([127, 0, 0, 1], 0).into(),
            ..options
        });
        Self {
            master,
            marathon: marathon.await.unwrap(),
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let client = client();
        let url = format!("{}{path}", self.marathon.url());
        let request = client.request(method, url).body(body.to_string());
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.bytes().await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask(Method::GET, path, Value::Null).await;
        assert_eq!(status, 200, "{body}");
        body
    }

    /// Waits until no deployment is in progress.
    async fn settle(&self) {
        for _ in 0..500 {
            if self.get("/v2/deployments").await == json!([]) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("still deploying: {:?}", self.master.lock().unwrap().calls);
    }
}

#[tokio::test]
async fn app_is_launched_scaled_and_deleted() {
    let fixture = Fixture::start().await;
    let app = json!({"id": "/a", "cmd": "run", "cpus": 0.1, "instances": 3,
        "ipAddress": {"networkName": "contrail", "labels": {"networks": "blue"}}});
    let (status, created) = fixture.ask(Method::POST, "/v2/apps", app.clone()).await;
    assert_eq!(status, 201, "{created}");
    assert_eq!(created["networks"][0]["name"], "contrail");
    assert_eq!(created["tasks"], json!([]));
    assert_eq!(fixture.ask(Method::POST, "/v2/apps", app).await.0, 409);
    fixture.settle().await;
    let shown = fixture.get("/v2/apps/a?embed=app.tasks").await;
    assert_eq!(shown["app"]["tasksRunning"], 3);
    let task = &shown["app"]["tasks"][0];
    assert_eq!(task["state"], "TASK_RUNNING");
    assert_eq!(task["slaveId"], "S1");
    assert_eq!(
        task["ipAddresses"],
        json!([{"ipAddress": "9.0.1.3", "protocol": "IPv4"}])
    );
    assert_eq!(shown["app"].get("ipAddress"), None);

    let fewer = fixture.ask(Method::PUT, "/v2/apps/a", json!({"instances": 1}));
    assert_eq!(fewer.await.0, 200);
    fixture.settle().await;
    let left = fixture.get("/v2/tasks").await;
    assert_eq!(left["tasks"].as_array().unwrap().len(), 1);
    assert_eq!(left["tasks"][0]["id"], task["id"], "the oldest stays");

    assert_eq!(
        fixture
            .ask(Method::DELETE, "/v2/apps/a", Value::Null)
            .await
            .0,
        200
    );
    fixture.settle().await;
    assert_eq!(fixture.get("/v2/apps").await, json!({"apps": []}));
    let master = fixture.master.lock().unwrap();
    assert_eq!(master.calls("KILL"), 3);
    assert_eq!(master.calls("ACKNOWLEDGE"), 6);
}

#[tokio::test]
async fn pod_status_has_containers_and_merged_networks() {
    let fixture = Fixture::start().await;
    let part = |name: &str| {
        json!({"name": name, "resources": {"cpus": 0.1, "mem": 32},
                                   "exec": {"command": {"shell": "run"}}})
    };
    let pod = json!({"id": "/p", "networks": [{"name": "contrail"}],
                     "containers": [part("c1"), part("c2")]});
    let (status, created) = fixture.ask(Method::POST, "/v2/pods", pod).await;
    assert_eq!(status, 201, "{created}");
    fixture.settle().await;
    let shown = fixture.get("/v2/pods/p::status").await;
    assert_eq!(shown["status"], "STABLE");
    let instance = &shown["instances"][0];
    assert_eq!(instance["status"], "STABLE");
    assert_eq!(
        instance["networks"],
        json!([{"name": "contrail", "addresses": ["9.0.1.3"]}])
    );
    let id = instance["id"].as_str().unwrap();
    assert_eq!(
        instance["containers"][1]["containerId"],
        format!("{id}.c2.1")
    );
    assert_eq!(fixture.get("/v2/pods/::status").await[0]["id"], "/p");
    assert_eq!(fixture.get("/v2/pods").await[0]["id"], "/p");
    assert_eq!(fixture.get("/v2/tasks").await, json!({"tasks": []}));
    assert_eq!(
        fixture
            .ask(Method::DELETE, "/v2/pods/p", Value::Null)
            .await
            .0,
        202
    );
    fixture.settle().await;
    assert_eq!(fixture.get("/v2/pods").await, json!([]));
}

#[tokio::test]
async fn lost_master_is_resubscribed_as_the_same_framework() {
    let fixture = Fixture::start().await;
    let app = json!({"id": "/a", "cmd": "run", "cpus": 0.1});
    fixture.ask(Method::POST, "/v2/apps", app).await;
    fixture.settle().await;
    fixture.master.lock().unwrap().events = None;
    fixture
        .ask(Method::PUT, "/v2/apps/a", json!({"instances": 2}))
        .await;
    fixture.settle().await;
    let master = fixture.master.lock().unwrap();
    let again = master
        .calls
        .iter()
        .rfind(|call| call["type"] == "SUBSCRIBE");
    assert_eq!(again.unwrap()["framework_id"]["value"], "F1");
}

#[tokio::test]
async fn info_and_unknown_paths_respond_as_marathon_does() {
    let fixture = Fixture::start().await;
    assert_eq!(
        fixture.get("/v2/leader").await["leader"],
        fixture.marathon.address().to_string()
    );
    assert_eq!(fixture.get("/v2/info").await["name"], "marathon");
    for path in [
        "/v2/apps/x",
        "/v2/pods/x",
        "/v2/pods/x::status",
        "/x",
        "/v2/apps/_",
    ] {
        let (status, body) = fixture.ask(Method::GET, path, Value::Null).await;
        assert_eq!(status, 404, "{path}");
        assert!(body["message"].is_string(), "{path}");
    }
    let invalid = json!({"id": "/a", "cmd": "run", "networks": [{"mode": "container"}]});
    let (status, body) = fixture.ask(Method::POST, "/v2/apps", invalid).await;
    assert_eq!(status, 422);
    assert_eq!(body["message"], "Object is not valid");
    assert_eq!(body["details"][0]["path"], "/networks");
}

#[tokio::test]
async fn tasks_are_killed_by_id_with_or_without_scaling() {
    let fixture = Fixture::start().await;
    let app = json!({"id": "/a", "cmd": "run", "cpus": 0.1, "instances": 3});
    fixture.ask(Method::POST, "/v2/apps", app).await;
    fixture.settle().await;
    let ids = async || {
        let tasks = fixture.get("/v2/apps/a/tasks").await;
        let tasks = tasks["tasks"].as_array().unwrap().iter();
        let ids = tasks.map(|task| task["id"].as_str().unwrap().to_owned());
        ids.collect::<Vec<String>>()
    };
    let before = ids().await;
    let path = format!("/v2/apps/a/tasks/{}", before[0]);
    let (status, killed) = fixture.ask(Method::DELETE, &path, Value::Null).await;
    assert_eq!((status, &killed["task"]["id"]), (200, &json!(before[0])));
    let again = before[0].replace("._app.1", "._app.2");
    let truth = || fixture.marathon.handle().tasks();
    while truth().get(&again) != Some(&"TASK_RUNNING") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(truth().len(), 3, "{:?}", truth());

    let chosen = json!({"ids": [before[1], "nothing"]});
    let path = "/v2/tasks/delete?scale=true";
    let (status, scaled) = fixture.ask(Method::POST, path, chosen).await;
    assert_eq!(status, 200);
    assert!(scaled["deploymentId"].is_string(), "{scaled}");
    fixture.settle().await;
    assert_eq!(fixture.get("/v2/apps/a").await["app"]["instances"], 2);
    let mut left = vec![again, before[2].clone()];
    left.sort();
    assert_eq!(truth().into_keys().collect::<Vec<_>>(), left);
    let (status, _) = fixture
        .ask(Method::DELETE, "/v2/apps/a/tasks/none", Value::Null)
        .await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn release_1_7_uses_its_own_ids_and_terms() {
    let fixture = Fixture::with(Options {
        version: version::Version::V1_7,
        ..Options::default()
    })
    .await;
    let app = json!({"id": "/g/a", "cmd": "run", "cpus": 0.1});
    fixture.ask(Method::POST, "/v2/apps", app).await;
    fixture.settle().await;
    assert_eq!(fixture.get("/v2/info").await["version"], "1.7.216");
    let tasks = fixture.get("/v2/tasks").await;
    let task = &tasks["tasks"][0];
    let id = task["id"].as_str().unwrap().to_owned();
    assert!(
        id.starts_with("g_a.") && id.matches('.').count() == 1,
        "{id}"
    );
    assert_eq!(task.get("role"), None);
    let path = format!("/v2/apps/g/a/tasks/{id}");
    fixture.ask(Method::DELETE, &path, Value::Null).await;
    // Its replacement is another instance.
    let truth = || fixture.marathon.handle().tasks();
    while truth().contains_key(&id) || truth().values().next() != Some(&"TASK_RUNNING") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn checks_of_marathon_show_in_results_and_events() {
    let fixture = Fixture::start().await;
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = server.local_addr().unwrap().port();
    let page = axum::routing::get(async || "up");
    let router = Router::new().route("/up", page);
    tokio::spawn(async move { axum::serve(server, router).await });
    // The fake agent's name is no address, so the checks name a port of the task's address.
    let check = |path: &str| {
        json!({"protocol": "HTTP", "path": path, "portIndex": 0, "intervalSeconds": 1,
            "gracePeriodSeconds": 0, "maxConsecutiveFailures": 0, "timeoutSeconds": 5})
    };
    let app = json!({"id": "/a", "cmd": "run", "cpus": 0.1, "mem": 32,
        "networks": [{"mode": "container", "name": "contrail"}],
        "container": {"type": "MESOS", "portMappings": [{"containerPort": port}]},
        "healthChecks": [check("/up"), check("/down")]});
    fixture.master.lock().unwrap().address = "127.0.0.1".to_owned();
    let (status, body) = fixture.ask(Method::POST, "/v2/apps", app).await;
    assert_eq!(status, 201, "{body}");
    let alive = |results: &Value| -> Vec<bool> {
        let results = results.as_array().into_iter().flatten();
        results.map(|result| result["alive"] == true).collect()
    };
    for _ in 0..1000 {
        let app = fixture.get("/v2/apps/a?embed=app.tasks").await["app"].take();
        if alive(&app["tasks"][0]["healthCheckResults"]) == [true, false] {
            assert_eq!(app["tasksUnhealthy"], 1, "{app}");
            let failed = &app["tasks"][0]["healthCheckResults"][1];
            assert_eq!(
                failed["lastFailureCause"],
                "Unhealthy status: 404 Not Found"
            );
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!(
        "no results: {}",
        fixture.get("/v2/apps/a?embed=app.tasks").await
    );
}
