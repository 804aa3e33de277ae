//! Before the API: the log, faults, credentials, and leadership. A server that does not lead
//! redirects requests for events to the leader and forwards all others to it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::harness::Frontend;
use crate::harness::connection::Peer;
use crate::marathon::state::Shared;

const MAX_BODY_BYTES: usize = 64 << 20;
const VIA: &str = "x-marathon-via";
const FORWARDED_FOR: &str = "x-forwarded-for";
/// `--leader_proxy_connection_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// `--leader_proxy_read_timeout`.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Headers of a single connection.
const HOP_BY_HOP: [HeaderName; 4] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::CONTENT_LENGTH,
    header::HOST,
];

/// One server, as the middleware needs it.
#[derive(Clone)]
pub(super) struct ServerContext {
    pub(super) shared: Arc<Shared>,
    pub(super) index: usize,
    pub(super) client: reqwest::Client,
}

/// The client with which a standby forwards requests.
pub(super) fn client() -> reqwest::Client {
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(0)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT);
    // Building can only fail for TLS and proxies, which are not used here.
    client.build().unwrap_or_default()
}

pub(super) async fn handle(
    State(server): State<ServerContext>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    // A fault of any server does not apply again where a standby forwards the request to.
    let forwarded = parts.headers.contains_key(VIA);
    let is_meant = |of: Option<usize>| of.map_or(!forwarded, |of| of == server.index);
    let perform =
        async |parts: Parts, body: Bytes, _| server.answer(parts, body, &peer, next).await;
    let faults = &server.shared.faults;
    server
        .frontend()
        .handle(faults, is_meant, &peer, (parts, body), perform)
        .await
}

impl ServerContext {
    fn frontend(&self) -> &Frontend {
        &self.shared.servers[self.index].frontend
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
                (Some(leader), _) if leader == self.index => {
                    return next.run(Request::from_parts(parts, body.into())).await;
                }
                (Some(_), Some(leader)) => {
                    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
                    let url = format!("http://{leader}{path}");
                    if path.starts_with("/v2/events") {
                        return (StatusCode::FOUND, [(header::LOCATION, url)]).into_response();
                    }
                    return self.forward(&url, &parts, body, peer).await;
                }
                _ => {}
            }
        }
        bad_gateway("Could not determine the current leader")
    }

    /// Forwards a request to the leader.
    async fn forward(&self, url: &str, parts: &Parts, body: Bytes, peer: &Peer) -> Response {
        let via = format!("1.1 {}", self.shared.servers[self.index].address);
        let mut vias = parts.headers.get_all(VIA).iter();
        if vias.any(|value| value.as_bytes() == via.as_bytes()) {
            return bad_gateway("Detected proxying loop");
        }
        let mut headers = without_hops(&parts.headers);
        append(&mut headers, VIA, &via);
        let origin = peer.address.ip().to_string();
        let before = headers
            .get(FORWARDED_FOR)
            .and_then(|value| value.to_str().ok().map(str::to_owned));
        let forwarded = before.map_or(origin.clone(), |before| format!("{before}, {origin}"));
        headers.remove(FORWARDED_FOR);
        append(&mut headers, FORWARDED_FOR, &forwarded);
        let request = self.client.request(parts.method.clone(), url);
        let answered = request.headers(headers).body(body).send().await;
        let answered = match answered {
            Ok(answered) => answered,
            Err(error) if error.is_connect() => {
                return bad_gateway("Failed to connect to the leader");
            }
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

fn bad_gateway(why: &'static str) -> Response {
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
