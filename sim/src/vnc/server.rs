//! The HTTP server: authentication, requests and responses.

use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, State as AxumState};
use axum::http::request::Parts;
use axum::http::{Request as HttpRequest, Response, StatusCode, header};
use serde_json::Value;
use tokio::sync::broadcast;

use super::api;
use super::auth::{self, Tokens};
use super::changes::Change;
use super::db::Db;
use super::defaults;
use super::error_page;
use super::options::{Auth, Options};
use super::request::Request;
use super::response::{ApiError, Outcome, Reply};
use crate::harness::connection::Peer;
use crate::harness::{FaultTable, Frontend, lock};

/// The largest body that the real server accepts.
const MAX_BODY_BYTES: usize = 1_024_000;
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=UTF-8";

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) frontend: Arc<Frontend<Change>>,
    pub(crate) faults: Arc<FaultTable>,
    state: Mutex<State>,
    pub(crate) changes: broadcast::Sender<Change>,
}

/// What requests change.
pub(crate) struct State {
    pub(crate) db: Db,
    pub(crate) tokens: Tokens,
}

impl Shared {
    pub(crate) fn new(options: Options) -> Arc<Self> {
        let faults = FaultTable::default();
        faults.set_delay(options.delay);
        Arc::new(Self {
            frontend: Frontend::new(options.log_limit, JSON, HTML),
            faults: Arc::new(faults),
            state: Mutex::new(State {
                db: defaults::db(),
                tokens: Tokens::default(),
            }),
            changes: broadcast::channel(options.backlog).0,
            options,
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Publishes and returns the changes of the database since the last call. The caller holds the
    /// lock of the state, so that followers receive changes in their order.
    pub(crate) fn publish(&self, db: &mut Db) -> Vec<Change> {
        let changes = std::mem::take(&mut db.changes);
        for change in &changes {
            // Having no followers is not an error.
            let _ = self.changes.send(change.clone());
        }
        changes
    }
}

/// The application over this state.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(handle).with_state(shared)
}

async fn handle(
    AxumState(shared): AxumState<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: HttpRequest<Body>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
        let url = url(&parts);
        return response(&Err(ApiError::new(413, "Request entity too large")), &url);
    };
    let perform = async |parts: Parts, body: Bytes, order| {
        response(&perform(&shared, &parts, &body, order), &url(&parts))
    };
    shared
        .frontend
        .handle(&shared.faults, |_| true, &peer, (parts, body), perform)
        .await
}

fn perform(shared: &Shared, parts: &Parts, body: &[u8], order: u64) -> Outcome<Reply> {
    let mut request = read(parts, body)?;
    let mut state = shared.lock();
    if let Auth::Basic { user, password } = &shared.options.auth {
        auth::check_basic(text(parts, "authorization").as_deref(), user, password)?;
    }
    if let Auth::Keystone(keystone) = &shared.options.auth {
        let (method, path) = (request.method.as_str(), request.path.as_str());
        let issued = state
            .tokens
            .issue(keystone, method, path, request.json.as_ref());
        if let Some(reply) = issued {
            return Ok(reply);
        }
        if state.db.aaa_mode != "no-auth" {
            let token = text(parts, "x-auth-token");
            request.identity = state
                .tokens
                .check(token.as_deref(), method, path, &request.base)?;
        }
    }
    let outcome = api::handle(&mut state.db, &request);
    let changes = shared.publish(&mut state.db);
    shared.frontend.record_changes(order, changes);
    outcome
}

/// The address that a client requested.
fn url(parts: &Parts) -> String {
    let host = text(parts, "host").unwrap_or_default();
    format!("http://{host}{}", parts.uri)
}

fn text(parts: &Parts, name: &str) -> Option<String> {
    let value = parts.headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn read(parts: &Parts, body: &[u8]) -> Outcome<Request> {
    let content_type = text(parts, "content-type")
        .unwrap_or_default()
        .to_lowercase();
    let content_type = content_type.split(';').next().unwrap_or_default().trim();
    let json: Option<Value> = match content_type {
        JSON if !body.is_empty() => {
            Some(serde_json::from_slice(body).map_err(|_| ApiError::internal())?)
        }
        _ => None,
    };
    let query = parts.uri.query().unwrap_or_default();
    let query = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (
                decode(&key.replace('+', " ")),
                decode(&value.replace('+', " ")),
            )
        });
    let etag = text(parts, "if-none-match");
    Ok(Request {
        method: parts.method.to_string(),
        path: decode(parts.uri.path()),
        query: query.collect(),
        json,
        base: format!("http://{}", text(parts, "host").unwrap_or_default()),
        identity: None,
        if_none_match: etag.map(|etag| etag.trim_matches('"').to_owned()),
    })
}

/// Decodes percent-encoding; an invalid code stays as it is.
fn decode(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = match (first, tail) {
            (b'%', [high, low, ..]) => std::str::from_utf8(&[*high, *low])
                .ok()
                .and_then(|code| u8::from_str_radix(code, 16).ok()),
            _ => None,
        };
        out.push(code.unwrap_or(*first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn response(outcome: &Outcome<Reply>, url: &str) -> Response<Body> {
    match outcome {
        Ok(Reply::Json(value)) => build(200, JSON, value.to_string(), &[]),
        Ok(Reply::Object(value, modified)) => {
            let etag = format!("\"{modified}\"");
            build(
                200,
                JSON,
                value.to_string(),
                &[(header::ETAG.as_str(), &etag)],
            )
        }
        Ok(Reply::Token(value, status, token)) => {
            let token: Vec<_> = token
                .as_ref()
                .map(|token| ("x-subject-token", token.as_str()))
                .into_iter()
                .collect();
            build(*status, JSON, value.to_string(), &token)
        }
        Ok(Reply::Done) => build(200, HTML, String::new(), &[]),
        Ok(Reply::Unchanged) => build(304, HTML, String::new(), &[]),
        Err(error) => {
            let challenge: Vec<_> = error
                .challenge
                .as_ref()
                .map(|text| ("www-authenticate", text.as_str()))
                .into_iter()
                .collect();
            // The token filter in front of the server has plain texts of its own.
            let body = if challenge.is_empty() {
                error_page::body(error.status, &error.text, url)
            } else {
                error.text.clone()
            };
            build(error.status, HTML, body, &challenge)
        }
    }
}

fn build(status: u16, kind: &str, body: String, headers: &[(&str, &str)]) -> Response<Body> {
    let mut builder = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, kind);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Body::from(body)).unwrap_or_else(|_| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}
