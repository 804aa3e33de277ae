//! HTTP: a call is a POST whose body names its type.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, interval_at};

use super::state::{Cluster, record};
use crate::harness::lock;

const JSON: &str = "application/json";

const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// How many bytes of waiting records are written at a time.
const MAX_WRITE_BYTES: usize = 1 << 16;

pub(super) fn router(cluster: Arc<Mutex<Cluster>>) -> Router {
    Router::new()
        .route("/api/v1", post(call))
        .with_state(cluster)
}

fn error_response(status: StatusCode, text: &'static str) -> Response {
    (status, text).into_response()
}

async fn call(
    State(cluster): State<Arc<Mutex<Cluster>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let content_type = headers.get(header::CONTENT_TYPE);
    if content_type.is_none_or(|content_type| content_type != JSON) {
        let text = "Expecting 'Content-Type' of application/json or application/x-protobuf";
        return error_response(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
    }
    let Ok(call) = serde_json::from_slice::<Value>(&body) else {
        return error_response(StatusCode::BAD_REQUEST, "Failed to parse body into JSON");
    };
    let answer = match call["type"].as_str() {
        Some("SUBSCRIBE") => Body::from_stream(follow(&cluster)),
        Some("GET_STATE") => {
            let state = lock(&cluster).json();
            Body::from(format!("{{\"type\":\"GET_STATE\",\"get_state\":{state}}}"))
        }
        _ => {
            let text = "Failed to validate mesos_master::Call: Expecting 'type' to be present";
            return error_response(StatusCode::BAD_REQUEST, text);
        }
    };
    ([(header::CONTENT_TYPE, JSON)], answer).into_response()
}

struct Follower {
    events: mpsc::UnboundedReceiver<Vec<u8>>,
    heartbeat: Interval,
}

/// The stream of a new follower.
fn follow(
    cluster: &Mutex<Cluster>,
) -> impl futures::Stream<Item = Result<Vec<u8>, Infallible>> + use<> {
    let (state, events) = {
        let mut cluster = lock(cluster);
        (cluster.json(), cluster.subscribe())
    };
    let seconds = HEARTBEAT_INTERVAL.as_secs_f64();
    let first = record(&format!(
        "{{\"type\":\"SUBSCRIBED\",\"subscribed\":{{\"get_state\":{state},\
         \"heartbeat_interval_seconds\":{seconds:?}}}}}"
    ));
    let mut first = Some([first, heartbeat()].concat());
    let follower = Follower {
        events,
        heartbeat: interval_at(Instant::now() + HEARTBEAT_INTERVAL, HEARTBEAT_INTERVAL),
    };
    stream::unfold(follower, move |mut follower| {
        let first = first.take();
        async move {
            let piece = match first {
                Some(first) => first,
                None => follower.next().await?,
            };
            Some((Ok(piece), follower))
        }
    })
}

fn heartbeat() -> Vec<u8> {
    record(&json!({"type": "HEARTBEAT"}).to_string())
}

impl Follower {
    /// The records to write next; none once the stream is cut.
    async fn next(&mut self) -> Option<Vec<u8>> {
        let mut piece = tokio::select! {
            event = self.events.recv() => event?,
            _ = self.heartbeat.tick() => return Some(heartbeat()),
        };
        while piece.len() < MAX_WRITE_BYTES {
            match self.events.try_recv() {
                Ok(event) => piece.extend_from_slice(&event),
                Err(_) => break,
            }
        }
        Some(piece)
    }
}
