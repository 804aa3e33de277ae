//! HTTP: a call is a POST whose body names its type.

use std::convert::Infallible;

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

use super::{HEARTBEAT, Master};

const JSON: &str = "application/json";

/// How many bytes of waiting records are written at a time.
const PIECE: usize = 1 << 16;

pub(super) fn router(master: Master) -> Router {
    Router::new()
        .route("/api/v1", post(call))
        .with_state(master)
}

/// A record of the stream.
pub(super) fn record(event: &Value) -> Vec<u8> {
    framed(&event.to_string())
}

fn framed(text: &str) -> Vec<u8> {
    let mut record = text.len().to_string().into_bytes();
    record.push(b'\n');
    record.extend_from_slice(text.as_bytes());
    record
}

fn refuse(status: StatusCode, text: &'static str) -> Response {
    (status, text).into_response()
}

async fn call(State(master): State<Master>, headers: HeaderMap, body: Bytes) -> Response {
    let given = headers.get(header::CONTENT_TYPE);
    if given.is_none_or(|given| given != JSON) {
        let text = "Expecting 'Content-Type' of application/json or application/x-protobuf";
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
    }
    let Ok(call) = serde_json::from_slice::<Value>(&body) else {
        return refuse(StatusCode::BAD_REQUEST, "Failed to parse body into JSON");
    };
    let answer = match call["type"].as_str() {
        Some("SUBSCRIBE") => Body::from_stream(follow(&master)),
        Some("GET_STATE") => {
            let state = master.lock().state.text();
            Body::from(format!("{{\"type\":\"GET_STATE\",\"get_state\":{state}}}"))
        }
        _ => {
            let text = "Failed to validate mesos_master::Call: Expecting 'type' to be present";
            return refuse(StatusCode::BAD_REQUEST, text);
        }
    };
    ([(header::CONTENT_TYPE, JSON)], answer).into_response()
}

struct Follower {
    events: mpsc::UnboundedReceiver<Vec<u8>>,
    heartbeat: Interval,
}

/// The stream. Whatever changes from now on comes after the state.
fn follow(master: &Master) -> impl futures::Stream<Item = Result<Vec<u8>, Infallible>> + use<> {
    let (sender, events) = mpsc::unbounded_channel();
    let state = {
        let mut inner = master.lock();
        inner.subscriptions += 1;
        inner.followers.push(sender.clone());
        inner.state.text()
    };
    let seconds = HEARTBEAT.as_secs_f64();
    let first = framed(&format!(
        "{{\"type\":\"SUBSCRIBED\",\"subscribed\":{{\"get_state\":{state},\
         \"heartbeat_interval_seconds\":{seconds:?}}}}}"
    ));
    let mut first = Some([first, record(&heartbeat())].concat());
    drop(sender);
    let follower = Follower {
        events,
        heartbeat: interval_at(Instant::now() + HEARTBEAT, HEARTBEAT),
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

fn heartbeat() -> Value {
    json!({"type": "HEARTBEAT"})
}

impl Follower {
    /// What is to be written next; none once the stream is cut.
    async fn next(&mut self) -> Option<Vec<u8>> {
        let mut piece = tokio::select! {
            event = self.events.recv() => event?,
            _ = self.heartbeat.tick() => return Some(record(&heartbeat())),
        };
        while piece.len() < PIECE {
            match self.events.try_recv() {
                Ok(event) => piece.extend_from_slice(&event),
                Err(_) => break,
            }
        }
        Some(piece)
    }
}
