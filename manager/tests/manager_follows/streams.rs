//! Event streams with large events: the memory is bounded, and SIGTERM ends the manager at once.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use futures::{StreamExt as _, stream};
use nix::sys::signal::Signal;
use serde_json::json;

use super::fixture::{Fixture, TEST_TIMEOUT};
use super::page::until;

/// How much memory the manager may take.
const MAX_MEMORY_BYTES: f64 = 300e6;

fn framed(event: &str) -> Bytes {
    format!("{}\n{event}", event.len()).into()
}

/// A stream that never ends: this first, and then the events over and over.
fn endless(first: Bytes, events: Vec<Bytes>) -> Body {
    let events = stream::iter(events.into_iter().cycle());
    Body::from_stream(
        stream::iter([first])
            .chain(events)
            .map(Ok::<_, std::io::Error>),
    )
}

async fn serve(
    answer: impl Fn(&str) -> (&'static str, Body) + Clone + Send + Sync + 'static,
) -> SocketAddr {
    let router = Router::new().fallback(move |request: Request| {
        let (content_type, body) = answer(request.uri().path());
        let response = Response::builder().header(CONTENT_TYPE, content_type);
        let response = response.body(body).unwrap();
        async move { response }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Runs a manager with these sources until `metric` is there, checks its memory, and stops it.
async fn run(masters: &str, marathon: Option<SocketAddr>, metric: &str) {
    let fixture = Fixture::start().await;
    fixture.configure("", "");
    let path = fixture.path("manager.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("masters"))
        .unwrap()
        .to_owned();
    let mut text = match masters {
        "" => text,
        masters => text.replace(&line, &format!("masters = \"{masters}\"")),
    };
    if let Some(marathon) = marathon {
        text += "[marathon]\n";
        writeln!(text, "servers = [\"http://{marathon}\"]").unwrap();
    }
    std::fs::write(&path, text).unwrap();
    let mut manager = fixture.spawn_manager();
    let admin = manager.address("admin listener at").await;
    manager.wait_for_line("ready", 1).await;
    until(&format!("{admin}/metrics"), metric).await;
    let started = Instant::now();
    let mut most: f64 = 0.0;
    while started.elapsed() < Duration::from_secs(5) {
        let metrics = reqwest::get(format!("{admin}/metrics"));
        let metrics = metrics.await.unwrap().text().await.unwrap();
        let memory = metrics
            .lines()
            .find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
        most = most.max(memory.unwrap().parse().unwrap());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(most < MAX_MEMORY_BYTES, "{most} bytes");
    manager.signal(Signal::SIGTERM);
    let started = Instant::now();
    while manager.exit_status().is_none() {
        assert!(started.elapsed() < TEST_TIMEOUT, "{:#?}", manager.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        manager.exit_status().unwrap().success(),
        "{:#?}",
        manager.log()
    );
}

fn task_added(id: &str, labels: &str) -> String {
    json!({"type": "TASK_ADDED", "task_added": {"task": {
        "task_id": {"value": id}, "framework_id": {"value": "F"}, "agent_id": {"value": "S1"},
        "state": "TASK_RUNNING", "labels": {"labels": [{"key": "k", "value": labels}]},
        "statuses": [{"state": "TASK_RUNNING",
            "container_status": {"container_id": {"value": labels}}}]}}})
    .to_string()
}

fn subscribed() -> Bytes {
    let state =
        json!({"get_tasks": {}, "get_executors": {}, "get_agents": {}, "get_frameworks": {}});
    let event = json!({"type": "SUBSCRIBED", "subscribed": {"get_state": state}});
    framed(&event.to_string())
}

async fn master(events: Vec<Bytes>) -> String {
    let address = serve(move |_| ("application/json", endless(subscribed(), events.clone()))).await;
    address.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn mesos_events_above_the_limit_take_no_memory() {
    let long = framed(&task_added("t", &"x.".repeat(15 << 19)));
    let masters = master(vec![long]).await;
    let loss = "source_updates_total{source=\"mesos\",update=\"loss\"}";
    run(&masters, None, loss).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mesos_events_below_the_limit_take_bounded_memory() {
    let events = (0..10).map(|number| {
        let text = "x.".repeat((900 << 10) - (number << 10));
        framed(&task_added(&format!("t{number}"), &text))
    });
    let masters = master(events.collect()).await;
    let event = "source_updates_total{source=\"mesos\",update=\"event\"}";
    run(&masters, None, event).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn marathon_events_take_bounded_memory() {
    let event = |bytes: usize| -> Bytes {
        let data = json!({"appId": "/a", "x": "y".repeat(bytes)});
        format!("event: app_terminated_event\ndata: {data}\n\n").into()
    };
    let events = vec![event(15 << 20), event(1 << 20), event(15 << 20)];
    let attached = Bytes::from("event: event_stream_attached\ndata: {}\n\n");
    let marathon = serve(move |path| match path {
        "/v2/events" => (
            "text/event-stream",
            endless(attached.clone(), events.clone()),
        ),
        "/v2/apps" => ("application/json", Body::from("{\"apps\": []}")),
        _ => ("application/json", Body::from("[]")),
    })
    .await;
    let event = "source_updates_total{source=\"marathon\",update=\"event\"}";
    run("", Some(marathon), event).await;
}
