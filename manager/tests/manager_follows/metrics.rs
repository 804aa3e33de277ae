//! The metrics in both formats.

use std::io::Write as _;
use std::process::{Command, Stdio};

use reqwest::header::{ACCEPT, CONTENT_TYPE};

use super::fixture::Fixture;

/// As Prometheus sends it.
const ACCEPT_OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0,\
    application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

/// The content type and the body.
async fn scrape(admin: &str, accept: &str) -> (String, String) {
    let request = reqwest::Client::new()
        .get(format!("{admin}/metrics"))
        .header(ACCEPT, accept);
    let response = request.send().await.unwrap();
    let content_type = response.headers()[CONTENT_TYPE]
        .to_str()
        .unwrap()
        .to_owned();
    (content_type, response.text().await.unwrap())
}

/// Fails if promtool is missing: it is in the Debian package `prometheus`.
fn check_with_promtool(metrics: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is missing: install the Debian package prometheus");
    let mut stdin = promtool.stdin.take().unwrap();
    stdin.write_all(metrics.as_bytes()).unwrap();
    drop(stdin);
    let output = promtool.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}\n{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_accepted_by_promtool() {
    let fixture = Fixture::start().await;
    fixture.configure("", "");
    let manager = fixture.spawn_manager();
    let admin = manager.address("admin listener at").await;
    manager.wait_for_line("ready", 1).await;
    // Labelled metrics have no series before something has been counted.
    let agents = manager.address("listening for agents at").await;
    reqwest::get(format!("{agents}/v1/ports")).await.unwrap();
    super::page::until(
        &format!("{admin}/metrics"),
        "source_updates_total{source=\"mesos\"",
    )
    .await;

    let (content_type, text) = scrape(&admin, "*/*").await;
    assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
    check_with_promtool(&text);
    let (content_type, openmetrics) = scrape(&admin, ACCEPT_OPENMETRICS).await;
    assert!(
        content_type.starts_with("application/openmetrics-text; version=1.0.0"),
        "{content_type}"
    );
    assert!(
        openmetrics.ends_with("# EOF\n") && !text.contains("# EOF"),
        "{openmetrics}"
    );
    for (name, kind) in [
        ("contrail_mesos_manager_requests", "counter"),
        (
            "contrail_mesos_manager_request_duration_seconds",
            "histogram",
        ),
        ("contrail_mesos_manager_vnc_calls", "counter"),
        ("contrail_mesos_manager_source_trusted", "gauge"),
        ("contrail_mesos_manager_orphans", "gauge"),
        ("contrail_mesos_manager_container_histories", "gauge"),
        (
            "contrail_mesos_manager_certificate_expiry_timestamp_seconds",
            "gauge",
        ),
        ("process_cpu_seconds", "counter"),
        ("process_resident_memory_bytes", "gauge"),
        ("process_virtual_memory_bytes", "gauge"),
        ("process_open_fds", "gauge"),
        ("process_max_fds", "gauge"),
        ("process_start_time_seconds", "gauge"),
    ] {
        let suffix = if kind == "counter" { "_total" } else { "" };
        let kinds = [
            (&openmetrics, format!("# TYPE {name} {kind}")),
            (&text, format!("# TYPE {name}{suffix} {kind}")),
        ];
        for (body, line) in kinds {
            assert!(body.lines().any(|found| found == line), "{line}\n{body}");
        }
    }
    let build = format!(
        "contrail_mesos_manager_build_info{{version=\"{}\"}} 1",
        env!("CARGO_PKG_VERSION")
    );
    for body in [&text, &openmetrics] {
        assert!(body.lines().any(|line| line == build), "{body}");
    }
}
