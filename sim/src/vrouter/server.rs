//! The HTTP server of the port service.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::request::Parts;
use axum::http::{Request, Response, StatusCode, header};
use hyper::ext::ReasonPhrase;

use super::rest;
use super::state::{JSON, Shared};
use crate::harness::connection::Peer;

const MAX_BODY_BYTES: usize = 1 << 20;

/// The application over this state.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(handle).with_state(shared)
}

async fn handle(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request<Body>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY_BYTES).await.unwrap_or_default();
    let perform = async |parts: Parts, body: Bytes, _| perform(&shared, &parts, &body);
    let mut response = shared
        .frontend
        .handle(&shared.faults, |_| true, &peer, (parts, body), perform)
        .await;
    // The agent gives every status the reason "OK".
    let reason = ReasonPhrase::from_static(b"OK");
    response.extensions_mut().insert(reason);
    response
}

fn perform(shared: &Arc<Shared>, parts: &Parts, body: &[u8]) -> Response<Body> {
    let method = parts.method.as_str();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let ((status, body), effect) = {
        let mut state = shared.lock();
        rest::handle(&mut state, &shared.options.name, (method, path, body))
    };
    match effect {
        rest::Effect::None => {}
        rest::Effect::PortsChanged => shared.wake_data_path(),
        rest::Effect::PortsStale(version) => {
            let shared = Arc::clone(shared);
            tokio::spawn(async move {
                tokio::time::sleep(shared.options.stale).await;
                shared.lock().ports.sweep(version);
                shared.wake_data_path();
            });
        }
    }
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let content_type = header::HeaderValue::from_static(JSON);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}
