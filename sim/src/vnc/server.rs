//! The server itself: HTTP around the state, with faults and tokens between.

use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::request::Parts;
use axum::http::{Request as HttpRequest, Response, StatusCode, header};
use serde_json::Value;
use tokio::sync::broadcast;

use super::answer::{Outcome, Refusal, Reply};
use super::api::{self, Request};
use super::auth::Tokens;
use super::changes::Change;
use super::db::Db;
use super::defaults;
use super::log::{Entry, Log};
use super::options::{Auth, Effect, Fault, Options};
use super::wire::{Cut, Peer};
use crate::fault_text::keep_of_lists;

/// The real server takes no longer body.
const LARGEST: usize = 1_024_000;
const TEXT: &str = "text/html; charset=UTF-8";

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    inner: Mutex<Inner>,
    pub(crate) changes: broadcast::Sender<Change>,
}

/// What changes.
pub(crate) struct Inner {
    pub(crate) db: Db,
    pub(crate) tokens: Tokens,
    pub(crate) log: Log,
    pub(crate) faults: Vec<Fault>,
    pub(crate) delay: Duration,
    pub(crate) online: bool,
}

impl Shared {
    pub(crate) fn new(options: Options) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                db: defaults::db(),
                tokens: Tokens::default(),
                log: Log::new(options.log_limit),
                faults: options.faults.clone(),
                delay: options.delay,
                online: true,
            }),
            changes: broadcast::channel(options.backlog).0,
            options,
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The application over this state.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(handle).with_state(shared)
}

async fn handle(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: HttpRequest<Body>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, LARGEST).await else {
        return response(&Err(Refusal::new(413, "Request entity too large")));
    };
    let (order, delay, effect, performed) = {
        let mut inner = shared.lock();
        let order = inner.log.begin(entry(&parts, &body, &peer));
        if !inner.online {
            peer.cut(Cut::Now);
            return response(&Ok(Reply::Done));
        }
        let method = parts.method.as_str();
        let path = parts.uri.path();
        let mut faults = inner.faults.iter_mut();
        let fault = faults.find_map(|fault| {
            let strikes = fault.strikes(method, path);
            strikes.then(|| (fault.effect.clone(), fault.performed))
        });
        let performed = fault.as_ref().is_none_or(|(_, performed)| *performed);
        (
            order,
            inner.delay,
            fault.map(|(effect, _)| effect),
            performed,
        )
    };
    let late = match effect {
        Some(Effect::Delay(late)) => late,
        _ => Duration::ZERO,
    };
    if !(delay + late).is_zero() {
        tokio::time::sleep(delay + late).await;
    }
    let mut outcome = Ok(Reply::Done);
    if performed {
        outcome = perform(&shared, &parts, &body, order);
    }
    let answer = match effect {
        None | Some(Effect::Delay(_)) => response(&outcome),
        Some(Effect::Status(status, text)) => response(&Err(Refusal::new(status, text))),
        Some(Effect::Nonsense(text)) => build(200, "application/json", text, &[]),
        Some(Effect::List(keep)) => {
            if let Ok(Reply::Json(value)) = &mut outcome {
                keep_of_lists(value, keep);
            }
            response(&outcome)
        }
        Some(Effect::Hang) => pending().await,
        Some(Effect::Cut) => {
            peer.cut(Cut::Now);
            return response(&outcome);
        }
        Some(Effect::CutInBody) => {
            peer.cut(Cut::InBody);
            match outcome {
                // There has to be a body to be cut off.
                Ok(Reply::Done) => build(200, "application/json", "{}".to_owned(), &[]),
                outcome => response(&outcome),
            }
        }
    };
    let status = answer.status().as_u16();
    shared
        .lock()
        .log
        .note(order, |entry| entry.status = Some(status));
    answer
}

fn perform(shared: &Shared, parts: &Parts, body: &[u8], order: u64) -> Outcome<Reply> {
    let request = read(parts, body);
    let mut inner = shared.lock();
    inner.log.note(order, |entry| entry.performed = true);
    let mut request = request?;
    if let Auth::Keystone(keystone) = &shared.options.auth {
        let (method, path) = (request.method.as_str(), request.path.as_str());
        let given = inner
            .tokens
            .answer(keystone, method, path, request.json.as_ref());
        if let Some(reply) = given {
            return Ok(reply);
        }
        let token = text(parts, "x-auth-token");
        if inner.db.aaa_mode != "no-auth" {
            let who = inner
                .tokens
                .check(token.as_deref(), method, path, &request.base)?;
            request.identity = who;
        }
    }
    let outcome = api::answer(&mut inner.db, &request);
    let changes = std::mem::take(&mut inner.db.changes);
    for change in &changes {
        // Nobody has to listen.
        let _ = shared.changes.send(change.clone());
    }
    inner.log.note(order, |entry| entry.changes = changes);
    outcome
}

fn text(parts: &Parts, name: &str) -> Option<String> {
    let value = parts.headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}

fn entry(parts: &Parts, body: &[u8], peer: &Peer) -> Entry {
    Entry {
        order: 0,
        at: SystemTime::now(),
        peer: peer.address,
        user_agent: text(parts, "user-agent"),
        request_id: text(parts, "x-request-id"),
        method: parts.method.to_string(),
        path: parts.uri.to_string(),
        body: serde_json::from_slice(body).ok(),
        performed: false,
        status: None,
        changes: Vec::new(),
    }
}

fn read(parts: &Parts, body: &[u8]) -> Outcome<Request> {
    let content_type = text(parts, "content-type")
        .unwrap_or_default()
        .to_lowercase();
    let content_type = content_type.split(';').next().unwrap_or_default().trim();
    let json: Option<Value> = match content_type {
        "application/json" if !body.is_empty() => {
            Some(serde_json::from_slice(body).map_err(|_| Refusal::internal())?)
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

/// `%41` is `A`; what is no such code stays as it is.
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

fn response(outcome: &Outcome<Reply>) -> Response<Body> {
    let json = "application/json";
    match outcome {
        Ok(Reply::Json(value)) => build(200, json, value.to_string(), &[]),
        Ok(Reply::Object(value, modified)) => {
            let etag = format!("\"{modified}\"");
            build(
                200,
                json,
                value.to_string(),
                &[(header::ETAG.as_str(), &etag)],
            )
        }
        Ok(Reply::Token(value, status, token)) => {
            let token = token
                .as_ref()
                .map(|token| ("x-subject-token", token.as_str()));
            let token: Vec<_> = token.into_iter().collect();
            build(*status, json, value.to_string(), &token)
        }
        Ok(Reply::Done) => build(200, TEXT, String::new(), &[]),
        Ok(Reply::Unchanged) => build(304, TEXT, String::new(), &[]),
        Err(refusal) => {
            let challenge = refusal.challenge.as_ref();
            let challenge = challenge.map(|text| ("www-authenticate", text.as_str()));
            let challenge: Vec<_> = challenge.into_iter().collect();
            build(refusal.status, TEXT, refusal.text.clone(), &challenge)
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
