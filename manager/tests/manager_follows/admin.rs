//! The admin listener: parameters, errors, hosts, and an API server that is gone.

use contrail_mesos_sim::vnc::{Effect, Fault};
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;

use super::fixture::Fixture;
use super::page::until;

/// Every path that refuses unknown parameters, and one that it knows.
const PATHS: [(&str, &str); 12] = [
    ("/", "app"),
    ("/v1/mesos", "limit"),
    ("/v1/contrail", "limit"),
    ("/v1/agents", "after"),
    ("/v1/networks", "limit"),
    ("/v1/containers", "address"),
    ("/v1/differences", "limit"),
    ("/v1/queue", "limit"),
    ("/v1/managers", "none"),
    ("/v1/problems", "none"),
    ("/v1/containers/x", "none"),
    ("/v1/containers/x/history", "none"),
];

async fn error(request: reqwest::RequestBuilder) -> (StatusCode, String) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    let body: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"));
    (status, body["error"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_requests_are_json_errors_that_name_what_is_valid() {
    let fixture = Fixture::start().await;
    fixture.configure("", "");
    let manager = fixture.spawn_manager();
    let admin = manager.address("admin listener at").await;
    manager.wait_for_line("ready", 1).await;
    let http = Client::new();
    let get = |path: &str| http.get(format!("{admin}{path}"));
    for (path, known) in PATHS {
        let (status, error) = error(get(&format!("{path}?colour=blue"))).await;
        assert_eq!(status, 400, "{path}");
        assert!(error.contains("\"colour\""), "{path}: {error}");
        assert!(error.contains(known), "{path}: {error}");
    }
    for (query, message) in [
        ("limit=x", "limit=\"x\" is not a number between 1 and 1000"),
        ("limit=0", "between 1 and 1000"),
        ("limit=5&limit=6", "twice"),
        ("after=x", "after="),
        ("address=10.32", "neither an address nor a subnet"),
        ("address=%1b", "neither an address nor a subnet"),
    ] {
        let (status, error) = error(get(&format!("/v1/containers?{query}"))).await;
        assert_eq!(status, 400, "{query}");
        assert!(error.contains(message), "{query}: {error}");
    }
    for path in ["/v1/nosuch", "/v1", "/nosuch", "/v1/containers/x/y"] {
        let (status, error) = error(get(path)).await;
        assert_eq!(status, 404, "{path}");
        assert!(error.contains("/v1/containers"), "{path}: {error}");
    }
    let (status, _) = error(get("/v1/containers/%ff")).await;
    assert_eq!(status, 400);
    let (status, message) = error(http.request(Method::DELETE, format!("{admin}/v1/mesos"))).await;
    assert_eq!(status, 405);
    assert!(message.contains("GET"), "{message}");
    // Probes and monitoring may add parameters of their own.
    for path in ["/live?x", "/metrics?name[]=y"] {
        assert_eq!(get(path).send().await.unwrap().status(), 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_foreign_pages_are_refused_by_the_admin_listener() {
    let fixture = Fixture::start().await;
    fixture.configure("allowed_hosts = [\"status.example\"]", "");
    let manager = fixture.spawn_manager();
    let admin = manager.address("admin listener at").await;
    let http = Client::new();
    let put = || http.put(format!("{admin}/log-level")).body("debug");
    for (name, value) in [
        ("host", "evil.example"),
        ("host", "evil.example:80"),
        ("origin", "http://evil.example"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let (status, _) = error(put().header(name, value)).await;
        assert_eq!(status, 403, "{name}: {value}");
    }
    for path in ["/", "/v1/problems", "/metrics", "/ready"] {
        let get = http.get(format!("{admin}{path}"));
        let (status, message) = error(get.header("host", "evil.example")).await;
        assert_eq!(status, 403, "{path}");
        assert!(message.contains("allowed_hosts"), "{message}");
    }
    for (name, value) in [("host", "status.example"), ("origin", admin.as_str())] {
        let status = put().header(name, value).send().await.unwrap().status();
        assert_eq!(status, 200, "{name}: {value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_of_a_server_forges_no_line() {
    const TEXT: &str = "no\n[2026-01-01T00:00:00Z ERROR x] forged\r\u{1b}[2J\u{9b}31m\u{202e}";
    let fixture = Fixture::start().await;
    fixture.configure("", "");
    let refusal = Effect::Status(403, TEXT.to_owned());
    fixture.server.fault(Fault::new(refusal));
    let manager = fixture.spawn_manager();
    let admin = manager.address("admin listener at").await;
    manager.wait_for_line("forged", 1).await;
    for line in manager.log() {
        assert!(!line.starts_with("[2026-01-01"), "{line:?}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(!line.contains('\u{202e}'), "{line:?}");
    }
    let ready = until(&format!("{admin}/ready"), "forged").await;
    let ready = ready.trim_end();
    assert!(!ready.chars().any(char::is_control), "{ready:?}");
    assert!(!ready.contains('\u{202e}'), "{ready:?}");
    until(&format!("{admin}/v1/problems"), "forged").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_tokens_are_logged_once_with_their_peer() {
    let fixture = Fixture::start().await;
    let token = fixture.path("token");
    std::fs::write(&token, "correct-horse-battery").unwrap();
    fixture.configure(&format!("token_file = {token:?}"), "");
    let manager = fixture.spawn_manager();
    let agents = manager.address("listening for agents at").await;
    let http = Client::new();
    for _ in 0..20 {
        let request = http
            .get(format!("{agents}/v1/ports?agent=node1"))
            .bearer_auth("wrong-horse-battery");
        assert_eq!(request.send().await.unwrap().status(), 401);
    }
    let line = manager.wait_for_line("request refused", 1).await;
    assert!(line.contains("peer=127.0.0.1:"), "{line}");
    let log = manager.log();
    let lines = log.iter().filter(|line| line.contains("request refused"));
    assert_eq!(lines.count(), 1, "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("horse")), "{log:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_are_found_by_their_address() {
    let fixture = Fixture::start().await;
    fixture.configure("", "stabilization_window = \"60m\"\ngrace_period = \"60m\"");
    let manager = fixture.spawn_manager();
    let admin = manager.address("admin listener at").await;
    manager.wait_for_line("ready", 1).await;
    let first = fixture.make(1).await;
    fixture.make(2).await;
    let known = "contrail_mesos_manager_containers_known 2\n";
    until(&format!("{admin}/metrics"), known).await;
    let get = async |path: String| -> Value {
        let response = reqwest::get(format!("{admin}{path}")).await.unwrap();
        response.json().await.unwrap()
    };
    // The addresses are listed after the containers.
    let both = format!("{admin}/v1/containers?address=10.32.0.0/12");
    until(&both, "\"total\":2").await;
    let one = get(format!("/v1/containers/{first}")).await;
    let address = one["contrail"]["interfaces"][0]["addresses"][0].as_str();
    let address = address.unwrap().to_owned();
    for (filter, total) in [
        (address.as_str(), 1),
        ("10.32.0.0/12", 2),
        ("192.0.2.1", 0),
        ("", 2),
        ("2001:db8::/32", 0),
    ] {
        let found = get(format!("/v1/containers?address={filter}")).await;
        assert_eq!(found["total"], total, "{filter}: {found}");
    }
    let found = get(format!("/v1/containers?address={address}&agent=node1")).await;
    assert_eq!(found["containers"][0]["machine"], first.to_string());
    let page = reqwest::get(format!("{admin}/?address={address}"));
    let page = page.await.unwrap().text().await.unwrap();
    assert_eq!(page.matches("<tr id=\"c-").count(), 1, "{page}");
    assert!(page.contains(&format!("value=\"{address}\"")), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn api_server_that_is_gone_is_noticed_without_requests() {
    let fixture = Fixture::start().await;
    fixture.configure("", "");
    // A resync would send requests.
    let text = std::fs::read_to_string(fixture.path("manager.toml")).unwrap();
    let text = text.replace("resync = \"200ms\"", "resync = \"60m\"");
    std::fs::write(fixture.path("manager.toml"), text).unwrap();
    let manager = fixture.spawn_manager();
    let admin = manager.address("admin listener at").await;
    manager.wait_for_line("ready", 1).await;
    let metrics = format!("{admin}/metrics");
    until(&metrics, "source_fresh{source=\"contrail\"} 1\n").await;
    until(&metrics, "vnc_up 1\n").await;
    let ready = async || {
        reqwest::get(format!("{admin}/ready"))
            .await
            .unwrap()
            .status()
    };
    assert_eq!(ready().await, 200);

    fixture.server.unplug();
    until(&metrics, "vnc_up 0\n").await;
    until(&metrics, "source_fresh{source=\"contrail\"} 0\n").await;
    until(&format!("{admin}/v1/problems"), "\"api-server\"").await;
    until(&format!("{admin}/ready"), "the VNC API does not respond").await;
    assert_eq!(ready().await, 503);
    fixture.server.plug().await.unwrap();
    until(&metrics, "vnc_up 1\n").await;
    until(&metrics, "source_fresh{source=\"contrail\"} 1\n").await;
    until(&format!("{admin}/ready"), "leading").await;

    // The same for one that accepts requests and says nothing, and for one that only fails.
    for effect in [
        Effect::Hang,
        Effect::Status(503, "the database is away".to_owned()),
    ] {
        fixture.server.fault(Fault::new(effect));
        until(&metrics, "vnc_up 0\n").await;
        until(&format!("{admin}/ready"), "the VNC API does not respond").await;
        fixture.server.clear_faults();
        until(&metrics, "vnc_up 1\n").await;
        until(&metrics, "source_fresh{source=\"contrail\"} 1\n").await;
    }
}
