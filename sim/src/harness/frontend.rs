//! What happens to a request before and after the server's own handler: the log and the faults.

use std::future::{Future, pending};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _, to_bytes};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde_json::Value;

use super::connection::{Cut, Peer};
use super::fault::{Effect, FaultTable};
use super::lock;
use super::request_log::{RequestLog, RequestRecord};

/// The log of one server, and how it writes the responses that faults make up.
pub(crate) struct Frontend<C = ()> {
    online: Arc<AtomicBool>,
    log: Mutex<RequestLog<C>>,
    json_type: &'static str,
    error_type: &'static str,
}

impl<C: Clone> Frontend<C> {
    /// A frontend that logs so many requests. `json_type` and `error_type` are the content types
    /// of responses that succeed and that do not.
    pub(crate) fn new(
        log_limit: usize,
        json_type: &'static str,
        error_type: &'static str,
    ) -> Arc<Self> {
        Arc::new(Self {
            online: Arc::default(),
            log: Mutex::new(RequestLog::new(log_limit)),
            json_type,
            error_type,
        })
    }

    /// Whether clients can reach the server.
    pub(crate) fn online(&self) -> &Arc<AtomicBool> {
        &self.online
    }

    /// The logged requests from this number on, in the order of arrival.
    pub(crate) fn log_since(&self, order: u64) -> Vec<RequestRecord<C>> {
        lock(&self.log).since(order)
    }

    /// Records what a request changed.
    pub(crate) fn record_changes(&self, order: u64, changes: Vec<C>) {
        lock(&self.log).update(order, |record| record.changes = changes);
    }

    /// Responds to a request with what `perform` returns, unless the server is unplugged or a
    /// fault applies. `perform` also receives the number of the request in the log.
    pub(crate) async fn handle<R>(
        &self,
        faults: &FaultTable,
        is_meant: impl Fn(Option<usize>) -> bool,
        peer: &Peer,
        (parts, body): (Parts, Bytes),
        perform: impl FnOnce(Parts, Bytes, u64) -> R,
    ) -> Response<Body>
    where
        R: Future<Output = Response<Body>>,
    {
        let record = RequestRecord::new(&parts, &body, peer.address);
        let order = lock(&self.log).begin(record);
        if !self.online.load(Ordering::SeqCst) {
            peer.cut(Cut::BeforeResponse);
            return Response::default();
        }
        let (method, path) = (parts.method.as_str(), parts.uri.path());
        let (effect, performed) = faults.effect_on(is_meant, method, path);
        let mut delay = faults.delay();
        if let Some(Effect::Delay(extra)) = effect {
            delay += extra;
        }
        if delay > Duration::ZERO {
            tokio::time::sleep(delay).await;
        }
        let mut response = Response::default();
        if performed {
            lock(&self.log).update(order, |record| record.performed = true);
            response = perform(parts, body, order).await;
        }
        let response = match effect {
            None | Some(Effect::Delay(_)) => response,
            Some(Effect::Status(status, body)) => build(status, self.error_type, body),
            Some(Effect::InvalidBody(body)) => build(200, self.json_type, body),
            Some(effect @ (Effect::EmptyList | Effect::HalfList)) => {
                shorten(response, &effect).await
            }
            Some(Effect::Hang) => pending().await,
            Some(Effect::Cut) => {
                peer.cut(Cut::BeforeResponse);
                return response;
            }
            Some(Effect::CutInBody) => {
                peer.cut(Cut::InBody);
                // Only a response with a body can be cut in it.
                if response.body().size_hint().exact() == Some(0) {
                    build(200, self.json_type, "{}".to_owned())
                } else {
                    response
                }
            }
        };
        let status = response.status().as_u16();
        lock(&self.log).update(order, |record| record.status = Some(status));
        response
    }
}

fn build(status: u16, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let content_type = HeaderValue::from_static(content_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, content_type);
    response
}

/// Shortens the lists of a response, if it is JSON.
async fn shorten(response: Response<Body>, effect: &Effect) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let is_json = parts
        .headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if !is_json {
        return Response::from_parts(parts, body);
    }
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let body = match serde_json::from_slice::<Value>(&body) {
        Ok(mut value) => {
            effect.shorten_lists(&mut value);
            Bytes::from(value.to_string())
        }
        Err(_) => body,
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(body))
}
