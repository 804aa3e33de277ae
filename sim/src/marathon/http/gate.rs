//! Before the API: the log, faults, credentials, and who leads. A server that does not lead sends
//! those who want events to the leader and passes everything else on to it.

use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::fault_text::keep_of_lists;
use crate::marathon::server::{Shared, lock};
use crate::vnc::log::Entry;
use crate::vnc::wire::{Cut, Peer};
use crate::vnc::{Effect, Keep};

const LARGEST: usize = 64 << 20;
const VIA: &str = "x-marathon-via";
const FORWARDED: &str = "x-forwarded-for";
/// `--leader_proxy_connection_timeout`.
const CONNECT: Duration = Duration::from_secs(5);
/// `--leader_proxy_read_timeout`.
const READ: Duration = Duration::from_secs(10);
/// What concerns one connection only.
const HOP_BY_HOP: [HeaderName; 4] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::HOST,
];

/// One server.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) shared: Arc<Shared>,
    pub(super) server: usize,
    pub(super) client: reqwest::Client,
}

/// Calls that a standby passes on.
pub(super) fn client() -> reqwest::Client {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .connect_timeout(CONNECT)
        .read_timeout(READ);
    // Without TLS and without a proxy there is nothing to fail with.
    client.build().unwrap_or_default()
}

pub(super) async fn pass(
    State(gate): State<Gate>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, LARGEST).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let Some(own) = gate.shared.servers.get(gate.server) else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let order = lock(&own.log).begin(entry(&parts, &body, &peer));
    if !own.online.load(Ordering::SeqCst) {
        peer.cut(Cut::Now);
        return StatusCode::OK.into_response();
    }
    let (effect, performed) = gate.fault(&parts);
    let mut delay = *lock(&gate.shared.delay);
    if let Some(Effect::Delay(late)) = effect {
        delay += late;
    }
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let mut answer = StatusCode::OK.into_response();
    if performed {
        lock(&own.log).note(order, |entry| entry.performed = true);
        answer = gate.answer(parts, body, &peer, next).await;
    }
    let answer = match effect {
        None | Some(Effect::Delay(_)) => answer,
        Some(Effect::Status(status, text)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (status, [(header::CONTENT_TYPE, "text/html")], text).into_response()
        }
        Some(Effect::Nonsense(text)) => {
            ([(header::CONTENT_TYPE, "application/json")], text).into_response()
        }
        Some(Effect::List(keep)) => shorten(answer, keep).await,
        Some(Effect::Hang) => pending().await,
        Some(Effect::Cut) => {
            peer.cut(Cut::Now);
            return answer;
        }
        Some(Effect::CutInBody) => {
            peer.cut(Cut::InBody);
            answer
        }
    };
    let status = answer.status().as_u16();
    lock(&own.log).note(order, |entry| entry.status = Some(status));
    answer
}

impl Gate {
    fn fault(&self, parts: &Parts) -> (Option<Effect>, bool) {
        let passed_on = parts.headers.contains_key(VIA);
        let mut faults = lock(&self.shared.faults);
        let struck = faults.iter_mut().find_map(|(server, fault)| {
            // What a client meets at a standby it does not meet at the leader again.
            let meant = server.map_or(!passed_on, |server| server == self.server);
            let strikes = meant && fault.strikes(parts.method.as_str(), parts.uri.path());
            strikes.then(|| (fault.effect.clone(), fault.performed))
        });
        match struck {
            None => (None, true),
            Some((effect, performed)) => (Some(effect), performed),
        }
    }

    async fn answer(&self, parts: Parts, body: Bytes, peer: &Peer, next: Next) -> Response {
        let options = &self.shared.options;
        if let Some(credentials) = &options.http_credentials {
            let given = parts.headers.get(header::AUTHORIZATION);
            if given.is_none_or(|given| given.as_bytes() != credentials.header().as_bytes()) {
                let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"Mesosphere\"")];
                return (StatusCode::UNAUTHORIZED, challenge, "Unauthorized").into_response();
            }
        }
        let (checks, pause) = options.leader_checks;
        for check in 0..checks.max(1) {
            if check > 0 {
                tokio::time::sleep(pause).await;
            }
            match (self.shared.leader(), self.shared.leader_address()) {
                (Some(leader), _) if leader == self.server => {
                    return next.run(Request::from_parts(parts, body.into())).await;
                }
                (Some(_), Some(leader)) => {
                    let path = parts.uri.path_and_query();
                    let path = path.map_or("/", |path| path.as_str());
                    let url = format!("http://{leader}{path}");
                    if path.starts_with("/v2/events") {
                        return (StatusCode::FOUND, [(header::LOCATION, url)]).into_response();
                    }
                    return self.forward(&url, &parts, body, peer).await;
                }
                _ => {}
            }
        }
        refuse("Could not determine the current leader")
    }

    /// Passes a call on to the leader.
    async fn forward(&self, url: &str, parts: &Parts, body: Bytes, peer: &Peer) -> Response {
        let own = self.shared.servers.get(self.server);
        let own = own.map(|own| own.address.to_string()).unwrap_or_default();
        let via = format!("1.1 {own}");
        let mut vias = parts.headers.get_all(VIA).iter();
        if vias.any(|value| value.as_bytes() == via.as_bytes()) {
            return refuse("Detected proxying loop");
        }
        let mut headers = without_hops(&parts.headers);
        append(&mut headers, VIA, &via);
        let origin = peer.address.ip().to_string();
        let before = headers
            .get(FORWARDED)
            .and_then(|value| value.to_str().ok().map(str::to_owned));
        let forwarded = before.map_or(origin.clone(), |before| format!("{before}, {origin}"));
        headers.remove(FORWARDED);
        append(&mut headers, FORWARDED, &forwarded);
        let request = self.client.request(parts.method.clone(), url);
        let answered = request.headers(headers).body(body).send().await;
        let answered = match answered {
            Ok(answered) => answered,
            Err(error) if error.is_connect() => return refuse("Failed to connect to the leader"),
            Err(error) => {
                let message = format!("The leader does not answer: {error}");
                return (StatusCode::INTERNAL_SERVER_ERROR, message).into_response();
            }
        };
        let (status, mut headers) = (answered.status(), without_hops(answered.headers()));
        append(&mut headers, VIA, &via);
        match answered.bytes().await {
            Ok(body) => (status, headers, body).into_response(),
            Err(error) => {
                let message = format!("The leader's answer ends early: {error}");
                (StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
            }
        }
    }
}

fn refuse(why: &'static str) -> Response {
    (StatusCode::BAD_GATEWAY, why).into_response()
}

fn without_hops(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    headers
}

fn append(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.append(name, value);
    }
}

/// The answer with a part of its list only, if it is one.
async fn shorten(answer: Response, keep: Keep) -> Response {
    let (mut parts, body) = answer.into_parts();
    let kind = parts.headers.get(header::CONTENT_TYPE);
    if kind.is_none_or(|kind| kind != "application/json") {
        return Response::from_parts(parts, body);
    }
    let body: Result<Bytes, Infallible> = Ok(to_bytes(body, LARGEST).await.unwrap_or_default());
    let Ok(body) = body;
    let body = match serde_json::from_slice(&body) {
        Ok(mut value) => {
            keep_of_lists(&mut value, keep);
            Bytes::from(value.to_string())
        }
        Err(_) => body,
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(body))
}

fn entry(parts: &Parts, body: &[u8], peer: &Peer) -> Entry {
    let text = |name: &str| {
        let value = parts.headers.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    Entry {
        order: 0,
        at: SystemTime::now(),
        peer: peer.address,
        user_agent: text("user-agent"),
        request_id: text("x-request-id"),
        method: parts.method.to_string(),
        path: parts.uri.to_string(),
        body: serde_json::from_slice(body).ok(),
        performed: false,
        status: None,
        changes: Vec::new(),
    }
}
