use axum::extract::Request;
use contrail_mesos::isolator::checkpoint::{Checkpoints, Owner};
use contrail_mesos_api::cluster::{
    Admission, Backend, BackendState, BlockReport, Membership, Reach, Service, ServiceKey,
};
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::routes::DOCUMENT_PATH;
use contrail_mesos_api::routes::testing::{
    ExampleRequest, check_response, compare_copy, example_requests,
};
use hyper::body::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::*;
use crate::groups::{EnforcedEndpoint, GroupsStatus};
use crate::subsystem::Subsystem as _;
use crate::testing::{cluster, revision};

/// The senders of what the API shows.
struct Senders {
    states: watch::Sender<Option<Arc<ClusterState>>>,
    engine: watch::Sender<EngineStatus>,
    _connection: watch::Sender<Connection>,
    _reports: watch::Sender<ReportStatus>,
}

/// What the API shows of a host whose library has this state directory.
fn sources_of(state_dir: &std::path::Path) -> (Senders, ApiSources) {
    let (states, states_receiver) = watch::channel(None);
    let (engine, engine_receiver) = watch::channel(EngineStatus {
        subsystems: vec![SubsystemStatus::new("overlay")],
    });
    let (connection, connection_receiver) = watch::channel(Connection {
        problem: Some("cannot connect".to_owned()),
        ..Connection::default()
    });
    let (reports, reports_receiver) = watch::channel(ReportStatus::default());
    let sources = ApiSources {
        node: "node-1".to_owned(),
        states: states_receiver,
        engine: engine_receiver,
        connection: connection_receiver,
        reports: reports_receiver,
        groups: GroupsView::default(),
        services: tokio::sync::watch::channel(std::sync::Arc::default()).1,
        dns: crate::dns::DnsSubsystem::new(&contrail_mesos::config::Config::default()).dns(),
        blocks: watch::Sender::new(vec![BlockReport {
            overlay: "dcos".to_owned(),
            used: 3,
            wanted: 7,
            ..BlockReport::default()
        }])
        .subscribe(),
        host_files: HostFiles::new(&contrail_mesos::config::Config {
            state_dir: state_dir.to_owned(),
            networks: vec![bridge_network()],
            ..contrail_mesos::config::Config::default()
        }),
        started: Instant::now(),
    };
    let senders = Senders {
        states,
        engine,
        _connection: connection,
        _reports: reports,
    };
    (senders, sources)
}

fn sources() -> (Senders, ApiSources) {
    sources_of(std::path::Path::new("/nonexistent"))
}

/// A bridge network with 13 addresses for containers.
fn bridge_network() -> contrail_mesos::config::Network {
    let file = tempfile::NamedTempFile::new().unwrap();
    let text = "[[network]]\nname = 'blue'\nprovider = 'bridge'\nsubnet = '10.32.0.0/28'\n";
    std::fs::write(file.path(), text).unwrap();
    let source = contrail_mesos::config::Source::file(file.path());
    source.load().unwrap().networks.swap_remove(0)
}

/// Sends the request by a unix socket, and returns the status and the body.
async fn request(path: &std::path::Path, request: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(path).await.unwrap();
    let text = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

#[tokio::test]
async fn api_shows_the_state_by_a_unix_socket_of_its_owner() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node").join("api.sock");
    let (senders, sources) = sources();
    let socket = ApiSocket::bind(&path).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let server = tokio::spawn(serve_unix(socket, router(sources)));
    assert_eq!(request(&path, "GET /live").await.0, 200);
    let (status, body) = request(&path, "GET /ready").await;
    assert_eq!(status, 503);
    assert!(body.contains("cannot connect"), "{body}");
    assert_eq!(request(&path, "GET /v1/cluster").await.0, 503);

    senders.states.send_replace(Some(Arc::new(cluster("3.1"))));
    let (status, body) = request(&path, "GET /ready").await;
    assert_eq!((status, body.contains("overlay")), (503, true), "{body}");
    senders.engine.send_modify(|engine| {
        engine.subsystems[0].applied = Some(revision("3.1"));
        engine.subsystems[0].repairs = 7;
    });
    assert_eq!(request(&path, "GET /ready").await.0, 200);
    let (_, body) = request(&path, "GET /v1/cluster").await;
    let shown: ClusterState = serde_json::from_str(&body).unwrap();
    assert_eq!(shown, cluster("3.1"));
    let (_, body) = request(&path, "GET /v1/status").await;
    let shown: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(shown["applied"], "3.1");
    assert_eq!(shown["subsystems"][0]["repairs"], 7);
    assert_eq!(shown["overlays"][0]["name"], "dcos");
    let (_, body) = request(&path, "GET /metrics").await;
    for line in [
        "contrail_mesos_node_ready 1",
        "contrail_mesos_node_applied_term 3",
        "contrail_mesos_node_nodes 2",
        "contrail_mesos_node_repairs_total{subsystem=\"overlay\"} 7",
        "contrail_mesos_node_dropped_packets_total{reason=\"outside\"} 0",
        "contrail_mesos_node_dns_responses_total{zone=\"services\",code=\"noerror\"} 0",
        "contrail_mesos_node_dns_forward_failures_total 0",
    ] {
        assert!(body.lines().any(|other| other == line), "{line}\n{body}");
    }
    assert!(body.contains("\nprocess_resident_memory_bytes "), "{body}");
    let (_, body) = request(&path, "GET /v1/groups").await;
    let shown: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(shown["is_active"], false);
    let (_, body) = request(&path, "GET /v1/drops").await;
    let shown: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(shown["totals"]["no-shared-group"], 0);
    for (question, empty) in [
        ("GET /v1/records", "[]"),
        ("GET /v1/hosts/web.marathon.l4lb.thisdcos.directory", "[]"),
        (
            "GET /v1/services/_tcp.web.marathon.l4lb.thisdcos.directory",
            "[]",
        ),
        (
            "GET /v1/hosts/localhost",
            r#"[{"host":"localhost","ip":"127.0.0.1"},{"host":"localhost","ip":"::1"}]"#,
        ),
    ] {
        let (status, body) = request(&path, question).await;
        assert_eq!((status, body.as_str()), (200, empty), "{question}");
    }
    assert_eq!(request(&path, "GET /other").await.0, 404);
    assert_eq!(request(&path, "PUT /live").await.0, 405);
    server.abort();
    let _ = server.await;
    assert!(!path.exists());
}

#[tokio::test]
async fn metrics_show_what_the_library_keeps_on_this_host() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path();
    let (_senders, sources) = sources_of(state_dir);
    let metrics = async || {
        let response = Metrics::new(sources.clone()).response();
        let body = axum::body::to_bytes(response.into_body(), 1 << 20).await;
        String::from_utf8(body.unwrap().to_vec()).unwrap()
    };
    let expect = |body: &str, lines: &[&str]| {
        for line in lines {
            let line = format!("contrail_mesos_node_{line}");
            assert!(body.lines().any(|other| other == line), "{line}\n{body}");
        }
    };
    // Nothing was attached yet: there is no directory.
    let body = metrics().await;
    expect(
        &body,
        &[
            "containers{state=\"attached\"} 0",
            "containers{state=\"damaged\"} 0",
            "pending_teardowns{provider=\"contrail\"} 0",
            "pending_teardowns{provider=\"cni\"} 0",
            "network_addresses_used{network=\"blue\",family=\"ipv4\"} 0",
            "network_addresses_free{network=\"blue\",family=\"ipv4\"} 13",
        ],
    );
    let checkpoints = Checkpoints::new(state_dir);
    for name in ["one", "two", "three"] {
        let id = ContainerId::top_level(name);
        checkpoints.claim(&id, Owner::Agent, None).unwrap();
        if name == "one" {
            checkpoints.write_attachments(&id, &[]).unwrap();
        } else if name == "two" {
            std::fs::write(checkpoints.directory(&id).join("intent.json"), "{").unwrap();
        }
    }
    let leases = state_dir.join("networks/blue");
    let teardowns = state_dir.join("contrail/pending-teardown");
    for (directory, file) in [
        (&leases, "10.32.0.2"),
        (&leases, "10.32.0.3"),
        (&leases, "not-an-address"),
        (&teardowns, "660a305f-10e4-47fd-a5fc-000000000001.json"),
    ] {
        std::fs::create_dir_all(directory).unwrap();
        std::fs::write(directory.join(file), "{}").unwrap();
    }
    let body = metrics().await;
    expect(
        &body,
        &[
            "containers{state=\"attached\"} 1",
            "containers{state=\"incomplete\"} 1",
            "containers{state=\"damaged\"} 1",
            "pending_teardowns{provider=\"contrail\"} 1",
            "network_addresses_used{network=\"blue\",family=\"ipv4\"} 2",
            "network_addresses_free{network=\"blue\",family=\"ipv4\"} 11",
        ],
    );
}

#[tokio::test]
async fn socket_of_an_earlier_daemon_is_replaced_and_a_file_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    // A daemon that was killed leaves its socket.
    std::mem::forget(ApiSocket::bind(&path).unwrap());
    let (_senders, sources) = sources();
    let socket = ApiSocket::bind(&path).unwrap();
    let server = tokio::spawn(serve_unix(socket, router(sources)));
    assert_eq!(request(&path, "GET /live").await.0, 200);
    server.abort();
    let file = directory.path().join("file");
    std::fs::write(&file, "text").unwrap();
    let error = ApiSocket::bind(&file).unwrap_err();
    assert!(matches!(error, ApiSocketError::Occupied(_)), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), b"text");
}

#[tokio::test]
async fn foreign_hosts_are_refused_by_tcp() {
    let (_senders, sources) = sources();
    let hosts = AllowedHosts::new(&["status.example".to_owned()], "");
    let router = with_host_check(router(sources), hosts);
    for (host, status) in [
        ("127.0.0.1:1", 200),
        ("status.example", 200),
        ("evil.example", 403),
    ] {
        let request = Request::get("/live")
            .header("host", host)
            .body(axum::body::Body::from(Bytes::new()))
            .unwrap();
        let mut router = router.clone();
        let response = tower_call(&mut router, request).await;
        assert_eq!(response.status(), status, "{host}");
    }
}

async fn tower_call(router: &mut Router, request: Request) -> Response {
    let service = hyper_util::service::TowerToHyperService::new(router.clone());
    let call = hyper::service::Service::call(&service, request);
    call.await.unwrap_or_else(|never| match never {})
}

#[tokio::test]
async fn parameters_are_refused_but_of_probes() {
    let (_senders, sources) = sources();
    let mut router = router(sources);
    for (path, expected) in [
        ("/v1/status", 200),
        ("/v1/status?verbose=1", 400),
        ("/v1/groups?x", 400),
        ("/v1/hosts/web?x=1", 400),
        ("/live?probe=1", 200),
        ("/metrics?format=x", 200),
    ] {
        let request = Request::builder()
            .uri(path)
            .body(axum::body::Body::empty())
            .unwrap();
        let response = tower_call(&mut router, request).await;
        assert_eq!(response.status().as_u16(), expected, "{path}");
    }
}

#[tokio::test]
async fn overlay_agent_answers_as_the_dcos_module() {
    const GET: &str = "GET /overlay-agent/overlay";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    let (senders, sources) = sources();
    let socket = ApiSocket::bind(&path).unwrap();
    let server = tokio::spawn(serve_unix(socket, router(sources)));
    assert_eq!(request(&path, GET).await.0, 503);
    senders.states.send_replace(Some(Arc::new(cluster("3.1"))));
    let state = async || {
        let (status, body) = request(&path, GET).await;
        assert_eq!(status, 200, "{body}");
        let agent: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(agent["ip"], "192.0.2.1");
        let overlay = &agent["overlays"][0];
        assert_eq!(overlay["info"]["prefix"], 24);
        assert_eq!(overlay["mesos_bridge"]["ip"], "9.0.1.0/25");
        assert_eq!(overlay["backend"]["vxlan"]["vtep_ip"], "44.128.0.1/16");
        overlay["state"].clone()
    };
    assert_eq!(state().await["status"], "STATUS_CONFIGURING");
    senders.engine.send_modify(|engine| {
        engine.subsystems[0].applied = Some(revision("3.1"));
    });
    assert_eq!(state().await["status"], "STATUS_OK");
    senders.engine.send_modify(|engine| {
        engine.subsystems[0].problems = vec!["no device".to_owned()];
    });
    let failed = state().await;
    assert_eq!(failed["status"], "STATUS_FAILED");
    assert_eq!(failed["error"], "no device");
    // A container of which something is not as it must be, and a subsystem that is behind for that.
    senders.engine.send_modify(|engine| {
        engine.subsystems[0].problems.clear();
        let mut groups = SubsystemStatus::new("groups");
        groups.problems = vec!["a container is left out".to_owned()];
        engine.subsystems.push(groups);
    });
    assert_eq!(state().await["status"], "STATUS_OK");
    let (status, _) = request(&path, "GET /overlay-agent/overlay?jsonp=a(").await;
    assert_eq!(status, 400);
    server.abort();
}

/// What the API shows of a host with a service and a container in a group.
fn populated() -> (Senders, ApiSources) {
    let (senders, mut sources) = sources();
    let mut state = cluster("3.1");
    let key: ServiceKey = "web.marathon:80/tcp".parse().unwrap();
    let service = Arc::new(Service {
        service: key.clone(),
        addresses: vec![[198, 18, 0, 5].into()],
        backends: vec![Backend {
            address: "192.0.2.1:31000".parse().unwrap(),
            local: Some("9.0.1.2:80".parse().unwrap()),
            host: [192, 0, 2, 1].into(),
            reach: Reach::Host,
            state: BackendState::Draining,
            task: "web.1".to_owned(),
        }],
        affinity: Some(60),
    });
    state.services = [(key.clone(), service.clone())].into_iter().collect();
    let groups = GroupsStatus {
        endpoints: vec![EnforcedEndpoint {
            container: "c1".to_owned(),
            network: "dcos".to_owned(),
            overlay: Some("dcos".to_owned()),
            addresses: vec![[9, 0, 1, 2].into()],
            membership: Membership {
                groups: vec!["web".to_owned()],
                security_groups: vec![],
            },
            admission: Admission::default(),
        }],
        ..GroupsStatus::default()
    };
    let services = ServiceStatus {
        services: [(key, service)].into_iter().collect(),
        ..ServiceStatus::default()
    };
    sources.groups.status = watch::channel(Arc::new(groups)).1;
    sources.services = watch::channel(Arc::new(services)).1;
    senders.states.send_replace(Some(Arc::new(state)));
    senders.engine.send_modify(|engine| {
        engine.subsystems[0].applied = Some(revision("3.1"));
    });
    (senders, sources)
}

/// The status, the type and the body of the response of these routes.
async fn exchange(router: &Router, example: &ExampleRequest) -> (u16, Option<String>, Vec<u8>) {
    let mut request = Request::builder()
        .method(example.method.as_str())
        .uri(&example.target);
    for (name, value) in &example.headers {
        request = request.header(name, value);
    }
    let request = request.body(axum::body::Body::empty()).unwrap();
    let response = tower_call(&mut router.clone(), request).await;
    let media_type = response.headers().get(CONTENT_TYPE);
    let media_type = media_type.map(|value| value.to_str().unwrap().to_owned());
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await;
    (status, media_type, body.unwrap().to_vec())
}

#[tokio::test]
async fn examples_of_the_document_are_answered_as_it_says() {
    let (_senders, sources) = populated();
    let router = router(sources);
    let own = ExampleRequest::get(DOCUMENT_PATH);
    let (status, _, body) = exchange(&router, &own).await;
    assert_eq!(status, 200);
    let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let requests = example_requests(&document);
    assert!(requests.len() > 10, "{requests:#?}");
    for example in requests {
        let (status, media_type, body) = exchange(&router, &example).await;
        let media_type = media_type.as_deref();
        let works = check_response(&document, &example, status, media_type, &body);
        assert!(works, "{example:?}: {status}");
        if example.method == "GET" && !example.target.contains('?') {
            let unknown = ExampleRequest::get(&format!("{}?colour=blue", example.target));
            let (status, _, body) = exchange(&router, &unknown).await;
            let ignores = matches!(
                example.route.as_str(),
                "/live" | "/ready" | "/metrics" | "/overlay-agent/overlay"
            );
            assert_eq!(status, if ignores { 200 } else { 400 }, "{example:?}");
            let text = String::from_utf8_lossy(&body);
            assert!(ignores || text.contains("\\\"colour\\\""), "{text}");
        }
    }
}

#[test]
fn copy_of_the_document_is_current() {
    compare_copy("../docs/api/node.json", &documented::document());
}
