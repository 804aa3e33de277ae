//! `/v2/events`, as Jetty's `EventSourceServlet` handles it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, Version, header};
use axum::response::{IntoResponse as _, Response};

use super::Query;
use crate::harness::connection::Peer;
use crate::marathon::state::Shared;

const EVENT_STREAM: &str = "text/event-stream";

pub(super) fn follow(
    server: usize,
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    query: Query,
    headers: &HeaderMap,
) -> Response {
    let mut accepted = headers.get_all(header::ACCEPT).iter();
    // Jetty compares the whole value, so a list of types does not match.
    if !accepted.any(|value| value == EVENT_STREAM) {
        let message = "HTTP method GET is not supported by this URL";
        return (StatusCode::METHOD_NOT_ALLOWED, message).into_response();
    }
    let wanted = query
        .0
        .into_iter()
        .filter_map(|(name, value)| (name == "event_type").then_some(value));
    let address = peer.address.ip().to_string();
    let stream = shared.bus.attach(server, &address, wanted.collect());
    if shared.leader() != Some(server) {
        shared.bus.close(Some(server));
    }
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream;charset=utf-8"),
        (header::CONNECTION, "close"),
    ];
    let mut answer = (headers, Body::from_stream(stream)).into_response();
    // The response has neither a length nor chunks, as in HTTP/1.0, but is labelled HTTP/1.1.
    *answer.version_mut() = Version::HTTP_10;
    peer.label_http_1_1();
    answer
}
