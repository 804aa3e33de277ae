//! A manager without `[vnc]`: the watch and the reports of nodes over HTTP, terms, and releases.

mod groups;
mod services;

use std::net::SocketAddr;
use std::path::Path;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request as HttpRequest;
use contrail_mesos_api::cluster::{
    NodeAnswer, NodeCondition, NodeList, NodeReport, Object, ObjectKey, Revision, SubsystemReport,
    Versions, WatchItem,
};
use hyper::{Method, StatusCode};
use reqwest::Response;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;

use super::http::Authority;
use super::*;
use crate::api::ApiState;
use crate::api::auth::Authenticator;
use crate::cluster::{Cluster, NodeAction};
use crate::fence::fence;
use crate::lead::Readiness;
use crate::listener::{AllowedHosts, Peer};
use crate::log_gate::LogGate;
use contrail_mesos_api::agent_api::{AGENT_HEADER, Refusal};

const TOKEN: &str = "correct-horse-battery";

const OVERLAYS: &str = r#"{
    "vtep_subnet": "44.128.0.0/16",
    "vtep_mac_oui": "70:B3:D5:00:00:00",
    "overlays": [{"name": "vxlan-1", "subnet": "192.168.0.0/17", "prefix": 24}]
}"#;

/// The configuration of a manager with overlays alone, whose files are in this directory.
fn config(directory: &Path, more: &str) -> Config {
    let overlays = directory.join("overlays.json");
    std::fs::write(&overlays, OVERLAYS).unwrap();
    let state = directory.join("state.json");
    let text = format!(
        "listen = \"127.0.0.1:0\"\nadmin_listen = \"127.0.0.1:0\"\n\
         [overlay]\nfile = {overlays:?}\nstate_file = {state:?}\n{more}"
    );
    let mut config = Config::parse(Path::new("manager.toml"), &text).unwrap();
    config.access.tokens = vec![SecretString::from(TOKEN)];
    config
}

async fn start(config: &Config) -> Manager {
    let manager = Manager::start(config.clone()).await.unwrap();
    manager.ready().await;
    manager
}

fn report(last: u8, applied: Option<Revision>) -> NodeReport {
    NodeReport {
        address: [192, 0, 2, last].into(),
        uplink_mtu: Some(1500),
        versions: Versions {
            node: "1.0.0".to_owned(),
            kernel: "6.1".to_owned(),
        },
        configuration: "c0ffee".to_owned(),
        applied,
        subsystems: vec![],
        endpoints: None,
        blocks: vec![],
    }
}

/// A node daemon's side of the API.
struct Client {
    http: reqwest::Client,
    base: String,
    name: String,
    token: &'static str,
}

impl Client {
    fn new(manager: &Manager, name: &str) -> Self {
        Self {
            http: reqwest::Client::new(),
            base: manager.url(),
            name: name.to_owned(),
            token: TOKEN,
        }
    }

    async fn send(&self, method: Method, path: &str, body: String) -> Response {
        let request = self
            .http
            .request(method, format!("{}{path}", self.base))
            .header(AGENT_HEADER, &self.name)
            .bearer_auth(self.token)
            .body(body);
        request.send().await.unwrap()
    }

    async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path, String::new()).await
    }

    async fn report(&self, report: &NodeReport) -> Response {
        let body = serde_json::to_string(report).unwrap();
        let path = format!("/v1/nodes/{}", self.name);
        self.send(Method::PUT, &path, body).await
    }

    async fn register(&self, report: &NodeReport) -> NodeAnswer {
        let response = self.report(report).await;
        assert_eq!(response.status(), StatusCode::OK);
        response.json().await.unwrap()
    }

    async fn watch(&self, since: Option<Revision>) -> Watch {
        let since = since.map_or_else(String::new, |since| format!("&since={since}"));
        let path = format!("/v1/watch?node={}{since}", self.name);
        let response = self.get(&path).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(
            response.headers()["content-type"],
            "application/x-ndjson",
            "{response:?}"
        );
        Watch {
            response,
            received: vec![],
        }
    }

    async fn list(&self, query: &str) -> NodeList {
        let response = self.get(&format!("/v1/nodes{query}")).await;
        assert_eq!(response.status(), StatusCode::OK);
        response.json().await.unwrap()
    }
}

async fn refused(response: Response, status: u16, message: &str) {
    let found = response.status().as_u16();
    let text = response.text().await.unwrap();
    assert_eq!(found, status, "{text}");
    let refusal: Refusal = serde_json::from_str(&text).unwrap();
    assert!(refusal.error.contains(message), "{text}");
}

struct Watch {
    response: Response,
    received: Vec<u8>,
}

impl Watch {
    /// The next item that is no heartbeat; none at the end.
    async fn next(&mut self) -> Option<WatchItem> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                let item = serde_json::from_slice(&line).unwrap();
                if !matches!(item, WatchItem::Heartbeat { .. }) {
                    return Some(item);
                }
                continue;
            }
            let chunk = self.response.chunk().await.unwrap()?;
            self.received.extend_from_slice(&chunk);
        }
    }

    /// The objects of the snapshot that it begins with, and their revision.
    async fn snapshot(&mut self) -> (Revision, Vec<Object>) {
        let first = self.next().await;
        assert!(
            matches!(first, Some(WatchItem::Snapshot { .. })),
            "{first:?}"
        );
        let mut objects = vec![];
        loop {
            match self.next().await.unwrap() {
                WatchItem::Put { object, .. } => objects.push(object),
                WatchItem::Synced { revision } => return (revision, objects),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn names(objects: &[Object]) -> Vec<String> {
    let objects = objects.iter().filter_map(|object| match object {
        Object::Node(node) => Some(node.name.clone()),
        _ => None,
    });
    objects.collect()
}

#[tokio::test]
async fn node_registers_watches_and_is_deleted() {
    let directory = tempfile::tempdir().unwrap();
    let manager = start(&config(directory.path(), "")).await;
    assert!(manager.contrail().is_none());
    let first = Client::new(&manager, "agent-1");
    let second = Client::new(&manager, "agent-2.example");
    let mut watch = first.watch(None).await;
    let (begin, objects) = watch.snapshot().await;
    assert!(names(&objects).is_empty());
    assert!(
        objects
            .iter()
            .any(|object| matches!(object, Object::Underlay(_)))
            && objects
                .iter()
                .any(|object| matches!(object, Object::Overlay(_))),
        "{objects:?}"
    );
    // There are no services, and that is all of them: nodes withdraw those of an earlier configuration.
    let is_of_services = |object: &&Object| {
        matches!(
            object,
            Object::ServiceSettings(_) | Object::ServicesComplete
        )
    };
    let of_services: Vec<_> = objects.iter().filter(is_of_services).collect();
    assert_eq!(of_services, [&Object::ServicesComplete]);

    let answer = first.register(&report(1, None)).await;
    let node = answer.node.unwrap();
    assert_eq!(node.subnets[0].subnet, "192.168.0.0/24".parse().ok());
    let put = watch.next().await.unwrap();
    let at = Revision {
        counter: begin.counter + 1,
        ..begin
    };
    let object = Object::Node(node.clone());
    assert_eq!(
        put,
        WatchItem::Put {
            revision: at,
            object
        }
    );
    second.register(&report(2, None)).await;
    let Some(WatchItem::Put {
        revision: current, ..
    }) = watch.next().await
    else {
        panic!()
    };

    // The first has applied everything, the second is not connected.
    let mut applied = report(1, Some(current));
    applied.subsystems = vec![SubsystemReport {
        name: "overlay".to_owned(),
        problems: vec!["cannot add a route".to_owned()],
    }];
    assert_eq!(first.register(&applied).await.node, Some(node));
    let list = second.list("").await;
    assert_eq!(list.revision, current);
    let conditions: Vec<_> = list.nodes.iter().map(|node| node.condition).collect();
    assert_eq!(
        conditions,
        [NodeCondition::Current, NodeCondition::Disconnected]
    );
    assert_eq!(list.nodes[0].problems, ["overlay: cannot add a route"]);
    assert_eq!(list.nodes[0].versions.kernel, "6.1");
    // An address is that of a node, or of a container on it.
    for query in [
        "?node=agent-2.example",
        "?address=192.0.2.2",
        "?address=192.168.1.77",
        "?address=44.128.0.2",
    ] {
        let nodes = second.list(query).await.nodes;
        let names: Vec<_> = nodes.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["agent-2.example"], "{query}");
    }

    // A reader that knows the revision gets what follows it only.
    let mut resumed = second.watch(Some(at)).await;
    let synced = resumed.next().await.unwrap();
    assert_eq!(synced, WatchItem::Synced { revision: at });
    let next = resumed.next().await.unwrap();
    assert!(matches!(next, WatchItem::Put { revision, .. } if revision == current));

    for _ in 0..2 {
        let path = "/v1/nodes/agent-2.example";
        let deleted = second.send(Method::DELETE, path, String::new()).await;
        assert_eq!(deleted.status(), StatusCode::OK);
        assert_eq!(deleted.text().await.unwrap(), "{}");
    }
    let deleted = watch.next().await.unwrap();
    let key = ObjectKey::Node {
        name: "agent-2.example".to_owned(),
    };
    assert!(
        matches!(&deleted, WatchItem::Delete { key: of, .. } if *of == key),
        "{deleted:?}"
    );
    // Its subnet is free.
    let third = Client::new(&manager, "agent-3");
    let answer = third.register(&report(3, None)).await;
    let subnet = answer.node.unwrap().subnets[0].subnet;
    assert_eq!(subnet, "192.168.1.0/24".parse().ok());

    // The streams end when the manager stops.
    let end = tokio::spawn(async move { while watch.next().await.is_some() {} });
    manager.stop().await;
    end.await.unwrap();
}

#[tokio::test]
async fn requests_of_others_and_invalid_ones_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let manager = start(&config(directory.path(), "")).await;
    let node = Client::new(&manager, "agent-1");
    let answer = node.register(&report(1, None)).await;
    assert!(answer.problems.is_empty(), "{answer:?}");

    let stranger = Client {
        token: "wrong-horse-battery",
        ..Client::new(&manager, "agent-1")
    };
    refused(stranger.get("/v1/watch?node=agent-1").await, 401, "token").await;
    refused(stranger.report(&report(1, None)).await, 401, "token").await;
    refused(node.get("/v1/watch?node=agent-2").await, 403, "agent-2").await;
    for method in [Method::PUT, Method::DELETE] {
        let body = serde_json::to_string(&report(2, None)).unwrap();
        let response = node.send(method, "/v1/nodes/agent-2", body).await;
        refused(response, 403, "agent-2").await;
    }
    for (path, message) in [
        ("/v1/watch", "node is missing"),
        ("/v1/watch?node=agent-1&sinse=1.1", "known are: node, since"),
        ("/v1/watch?node=agent-1&since=1", "not a revision"),
        ("/v1/nodes?adress=192.0.2.1", "known are: node, address"),
        ("/v1/nodes?address=x", "not an address"),
    ] {
        refused(node.get(path).await, 400, message).await;
    }
    let later = format!("/v1/watch?node=agent-1&since={}.1", u64::MAX);
    refused(node.get(&later).await, 409, &format!("{}.1", u64::MAX)).await;
    for (body, message) in [
        ("{", "not the report of a node"),
        (r#"{"address": "x"}"#, "address"),
    ] {
        let path = "/v1/nodes/agent-1";
        let response = node.send(Method::PUT, path, body.to_owned()).await;
        refused(response, 400, message).await;
    }
    for address in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "::1"] {
        let mut wrong = report(1, None);
        wrong.address = address.parse().unwrap();
        refused(node.report(&wrong).await, 400, address).await;
    }
    let long = Client::new(&manager, &"a".repeat(254));
    refused(long.report(&report(9, None)).await, 400, "253").await;

    // Another node's address, which the list shows as well.
    let other = Client::new(&manager, "agent-2");
    refused(other.report(&report(1, None)).await, 409, "agent-1").await;
    let list = other.list("?node=agent-2").await;
    assert_eq!(list.nodes[0].condition, NodeCondition::Refused);
    assert!(list.nodes[0].problems[0].contains("agent-1"), "{list:?}");

    // There is no Contrail.
    refused(node.get("/v1/ports?agent=agent-1").await, 404, "[vnc]").await;
    let ports = "/v1/ports/660a305f-10e4-47fd-a5fc-000000000001";
    let response = node.send(Method::PUT, ports, "{}".to_owned()).await;
    refused(response, 404, "[vnc]").await;
}

#[tokio::test]
async fn manager_without_overlays_refuses_nodes() {
    let fixture = Fixture::new().await;
    let manager = super::http::start(&fixture).await;
    let node = Client::new(&manager, "agent-1");
    for path in ["/v1/watch?node=agent-1", "/v1/nodes"] {
        refused(node.get(path).await, 404, "[overlay]").await;
    }
    refused(node.report(&report(1, None)).await, 404, "[overlay]").await;
}

#[tokio::test]
async fn certificate_decides_for_which_node_a_report_is() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let mut config = config(directory.path(), "");
    config.access.tls = Some(Tls {
        identity: authority.identity("manager", &["localhost"]),
        client_ca: Some(authority.ca()),
    });
    let manager = start(&config).await;
    let tls = contrail_mesos_api::http::TlsOptions {
        ca: Some(authority.ca()),
        identity: Some(authority.identity("agent-1", &[])),
    };
    let ask = async |name: &str| {
        let mut node = super::http::Agent::with_tls(&manager, name, &tls);
        node.set_token(&format!("Bearer {TOKEN}"));
        let body = serde_json::to_string(&report(1, None)).unwrap();
        let path = format!("/v1/nodes/{name}");
        node.send(Method::PUT, &path, &body).await.status.as_u16()
    };
    assert_eq!((ask("agent-1").await, ask("agent-2").await), (200, 403));
}

#[tokio::test]
async fn restarted_manager_goes_on_with_allocations_at_a_later_revision() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), "");
    let manager = start(&config).await;
    let node = Client::new(&manager, "agent-1");
    let before = node.register(&report(1, None)).await;
    let (last, _) = node.watch(None).await.snapshot().await;
    manager.stop().await;

    let manager = start(&config).await;
    let node = Client::new(&manager, "agent-1");
    let known = node.list("").await;
    assert_eq!(known.nodes[0].condition, NodeCondition::Unseen);
    // What it knows is of an earlier term, so the stream begins with a snapshot.
    let (revision, objects) = node.watch(Some(last)).await.snapshot().await;
    assert!(revision.term > last.term, "{revision} {last}");
    assert_eq!(names(&objects), ["agent-1"]);
    assert_eq!(node.register(&report(1, None)).await, before);
}

#[tokio::test]
async fn operators_see_nodes_and_overlays() {
    let directory = tempfile::tempdir().unwrap();
    let manager = start(&config(directory.path(), "")).await;
    let node = Client::new(&manager, "agent-1");
    let mut watch = node.watch(None).await;
    watch.snapshot().await;
    let mut sick = report(1, None);
    sick.subsystems = vec![SubsystemReport {
        name: "overlay".to_owned(),
        problems: vec!["<b>no route</b>".to_owned()],
    }];
    node.register(&sick).await;
    let get = async |path: &str| {
        let admin = manager.admin_address().unwrap();
        let response = reqwest::get(format!("http://{admin}{path}")).await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    for path in ["/ready", "/leading"] {
        assert_eq!(get(path).await, (200, "leading\n".to_owned()));
    }
    let (_, page) = get("/").await;
    for part in [
        "data-node=\"agent-1\"",
        "data-overlay=\"vxlan-1\"",
        "overlay: &lt;b&gt;no route",
        "1 problem",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(
        !page.contains("<b>no route") && !page.contains("#containers"),
        "{page}"
    );
    let json = async |path: &str| {
        let (status, text) = get(path).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str::<Value>(&text).unwrap()
    };
    let nodes = json("/v1/nodes").await;
    assert_eq!(nodes["total"], 1, "{nodes}");
    assert_eq!(nodes["nodes"][0]["condition"], "behind");
    assert_eq!(nodes["nodes"][0]["subnets"][0]["overlay"], "vxlan-1");
    assert_eq!(nodes["events"][0]["action"], "registered");
    let overlays = json("/v1/overlays").await;
    let subnet = &overlays["overlays"][0]["subnets"][0];
    assert_eq!(
        (&subnet["used"], &subnet["total"]),
        (&1.into(), &128.into())
    );
    assert_eq!(overlays["underlay"]["vtep_subnet"], "44.128.0.0/16");
    assert_eq!(overlays["endpoints"][0]["used"], 1);
    let problems = json("/v1/problems").await;
    assert_eq!(
        problems["problems"][0]["kind"], "node-problem",
        "{problems}"
    );
    let managers = json("/v1/managers").await;
    assert_eq!(
        (&managers["serving"], &managers["provisioned"]),
        (&true.into(), &Value::Null)
    );
    assert_eq!(get("/v1/containers").await.0, 404);
    assert_eq!(get("/v1/nodes?limit=0").await.0, 400);

    let (_, metrics) = get("/metrics").await;
    for line in [
        "contrail_mesos_manager_nodes{condition=\"behind\"} 1",
        "contrail_mesos_manager_nodes{condition=\"current\"} 0",
        "contrail_mesos_manager_nodes_with_problems 1",
        "contrail_mesos_manager_nodes_lag 2",
        "contrail_mesos_manager_revision_counter 1",
        "contrail_mesos_manager_overlay_subnets_used{overlay=\"vxlan-1\",subnet=\"192.168.0.0/17\"} 1",
        "contrail_mesos_manager_overlay_subnets_free{overlay=\"vxlan-1\",subnet=\"192.168.0.0/17\"} 127",
        "contrail_mesos_manager_overlay_endpoints_used{subnet=\"44.128.0.0/16\"} 1",
        "contrail_mesos_manager_watches 1",
        "contrail_mesos_manager_watches_begun_total{begin=\"snapshot\"} 1",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}: {metrics}"
        );
    }
    assert!(!metrics.contains("vnc_"), "{metrics}");
}

/// The nodes of a manager behind this fence, and what runs in its background.
fn cluster(config: &Config, fence: &Fence) -> (Arc<Cluster>, JoinSet<()>) {
    let mut background = JoinSet::new();
    let cluster = Cluster::start(config, fence, None, &mut background).unwrap();
    (cluster, background)
}

#[tokio::test]
async fn watch_ends_with_the_term_and_nothing_is_served_between_terms() {
    let directory = tempfile::tempdir().unwrap();
    let (control, fence) = fence("no");
    let (cluster, _background) = cluster(&config(directory.path(), ""), &fence);
    let not_ready = |error: &ManagerError| error.status() == StatusCode::SERVICE_UNAVAILABLE;
    assert!(
        cluster
            .watch("a", None)
            .is_err_and(|error| not_ready(&error))
    );
    // A term can be regained.
    for term in [4, 4, 5] {
        control.lead(term, None);
        fence.run_in_term(cluster.begin(term)).await.unwrap();
        // Repeated work of the same term does not disturb it.
        let mut watch = cluster.watch("a", None).unwrap();
        fence.run_in_term(cluster.begin(term)).await.unwrap();
        cluster.report("a", report(1, None)).await.unwrap();
        control.close("lost");
        while watch.next().await.is_some() {}
        let refused = cluster.report("a", report(1, None)).await.unwrap_err();
        assert!(not_ready(&refused), "{refused}");
        assert!(cluster.list().is_err_and(|error| not_ready(&error)));
    }
}

#[tokio::test(start_paused = true)]
async fn node_that_is_gone_is_released_after_the_configured_time() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), "release_after = \"60m\"\n");
    let (cluster, _background) = cluster(&config, &Fence::alone());
    cluster.begin(0).await.unwrap();
    for (name, last) in [("connected", 1), ("gone", 2)] {
        cluster.report(name, report(last, None)).await.unwrap();
    }
    let count = || cluster.list().unwrap().nodes.len();
    tokio::time::sleep(Duration::from_hours(3)).await;
    assert_eq!(
        count(),
        2,
        "no node is connected: the manager may be the one that is cut off"
    );
    let mut watch = cluster.watch("connected", None).unwrap();
    // Its event is the last thing that happens.
    let is_released = || {
        let last = &cluster.events()[0];
        last.node == "gone" && last.action == NodeAction::Released
    };
    while !is_released() {
        watch.next().await.unwrap();
    }
    let nodes = cluster.list().unwrap().nodes;
    assert_eq!(nodes.len(), 1);
    assert_eq!(nodes[0].name, "connected");
}

#[tokio::test]
async fn standby_redirects_nodes_to_the_leader() {
    let directory = tempfile::tempdir().unwrap();
    let config = config(directory.path(), "");
    let (control, fence) = fence("no");
    let (cluster, _background) = cluster(&config, &fence);
    let (_ready, ready) = watch::channel(Readiness::none());
    let state = Arc::new(ApiState {
        authenticator: Arc::new(Authenticator::new(&config.access)),
        ready,
        leadership: fence.leadership(),
        tasks: TaskTracker::new(),
        body_timeout: Duration::from_secs(1),
        refusals: LogGate::new(Duration::from_secs(1)),
        stop: CancellationToken::new(),
    });
    let mut router =
        crate::api::agents::router(state, None, Some(cluster), AllowedHosts::new(&[], ""));
    let leader = agent_api::manager_address("http://192.0.2.9:6992").unwrap();
    control.follow(leader);
    for (method, path) in [
        (Method::GET, "/v1/watch?node=agent-1&since=3.4"),
        (Method::PUT, "/v1/nodes/agent-1"),
        (Method::DELETE, "/v1/nodes/agent-1"),
        (Method::GET, "/v1/nodes"),
    ] {
        let peer = Peer {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            names: Arc::new([]),
        };
        let request = HttpRequest::builder()
            .method(method)
            .uri(path)
            .extension(ConnectInfo(peer))
            .body(Body::empty())
            .unwrap();
        let response = router.call(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
        let location = &response.headers()["location"];
        assert_eq!(location, &format!("http://192.0.2.9:6992{path}"));
    }
}
