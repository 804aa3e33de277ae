//! Tests against scripted servers and against the simulated Marathon.

mod follower;
mod invalid_responses;
mod simulator;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::time::timeout;

use super::*;
use contrail_mesos_api::http::scripted::{ReceivedRequest, Reply, ScriptedServer, ok};
use contrail_mesos_api::http::{Address, LeaderOptions, Limits};

/// Deadline of every wait in these tests.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

const EVENT_STREAM: &str = "text/event-stream;charset=utf-8";

fn address(server: &ScriptedServer) -> Address {
    Address::parse(&server.address.to_string(), DEFAULT_PORT).unwrap()
}

fn options(servers: &[&ScriptedServer]) -> MarathonOptions {
    MarathonOptions {
        servers: servers.iter().map(|server| address(server)).collect(),
        access: LeaderOptions {
            limits: Limits {
                request_timeout: TEST_TIMEOUT,
                ..Limits::default()
            },
            ..LeaderOptions::default()
        },
    }
}

fn client(servers: &[&ScriptedServer]) -> MarathonClient {
    MarathonClient::new(options(servers)).unwrap()
}

/// Options with short delays, and with timeouts that no test reaches.
fn fast_options() -> FollowOptions {
    FollowOptions {
        idle_timeout: TEST_TIMEOUT,
        attach_timeout: TEST_TIMEOUT,
        max_event_bytes: 10_000,
        min_list_interval: Duration::from_millis(1),
        backoff: (Duration::from_millis(1), Duration::from_millis(20)),
        ..FollowOptions::default()
    }
}

fn app(id: &str) -> Value {
    json!({"id": id, "tasks": []})
}

fn event(kind: &str, data: &Value) -> Vec<u8> {
    format!("event: {kind}\r\ndata: {data}\r\n\r\n").into_bytes()
}

fn attached() -> Vec<u8> {
    event("event_stream_attached", &json!({"remoteAddress": "::1"}))
}

fn terminated(id: &str) -> Vec<u8> {
    event("app_terminated_event", &json!({"appId": id}))
}

/// A scripted leader with version 1.11. Its only app is named after the number of listings.
struct Leader {
    server: ScriptedServer,
    feed: broadcast::Sender<Vec<u8>>,
}

impl Leader {
    async fn start() -> Self {
        Self::start_with(|_, _| None).await
    }

    /// `other` may override a reply; it receives the number of earlier requests for the same path.
    async fn start_with(
        other: impl Fn(&ReceivedRequest, usize) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let (feed, _) = broadcast::channel(1 << 15);
        let parts = feed.clone();
        let lists = Arc::new(AtomicUsize::new(0));
        let request_counts =
            std::sync::Mutex::new(std::collections::HashMap::<String, usize>::new());
        let server = ScriptedServer::start(move |request, _| {
            let line = request.line();
            let before = {
                let mut counts = request_counts.lock().unwrap();
                let count = counts.entry(line.clone()).or_default();
                *count += 1;
                *count - 1
            };
            if let Some(reply) = other(request, before) {
                return reply;
            }
            match line.as_str() {
                "GET /v2/events" => Reply::Stream(EVENT_STREAM, parts.clone()),
                "GET /v2/info" => ok(&json!({"version": "1.11.24"})),
                "GET /v2/apps" => {
                    let number = lists.fetch_add(1, Ordering::Relaxed);
                    ok(&json!({"apps": [app(&format!("/list-{number}"))]}))
                }
                "GET /v2/pods/::status" => ok(&json!([])),
                _ => Reply::Answer(404, json!({"message": "nothing here"}).to_string()),
            }
        })
        .await;
        Self { server, feed }
    }

    /// Waits until `count` streams are open, and sends.
    async fn send(&self, count: usize, parts: &[Vec<u8>]) {
        let open = async {
            while self.feed.receiver_count() < count {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(TEST_TIMEOUT, open)
            .await
            .expect("the follower must connect");
        for part in parts {
            self.feed.send(part.clone()).unwrap();
        }
    }

    fn follow(&self) -> Follower {
        Follower::start(client(&[&self.server]), fast_options())
    }
}

async fn next(follower: &mut Follower) -> Update {
    timeout(TEST_TIMEOUT, follower.next())
        .await
        .expect("an update must arrive")
}

/// The ids of the apps of the next update, which must be a snapshot.
async fn snapshot(follower: &mut Follower) -> Vec<String> {
    match next(follower).await {
        Update::Snapshot(listing) => {
            assert!(listing.followed && listing.is_complete(), "{listing:?}");
            listing.apps.iter().map(|app| app.id.to_string()).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// The id of the next update, which must be a changed run spec.
async fn changed(follower: &mut Follower) -> String {
    match next(follower).await {
        Update::Changed(Key::RunSpec(id)) => id.to_string(),
        other => panic!("{other:?}"),
    }
}

/// The error of the next update, which must report a lost stream.
async fn lost(follower: &mut Follower) -> contrail_mesos_api::http::CallErrorKind {
    match next(follower).await {
        Update::Lost(error) => error.kind,
        other => panic!("{other:?}"),
    }
}
