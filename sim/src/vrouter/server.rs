//! The service itself: HTTP around the state, with delays and faults between.

use std::collections::BTreeSet;
use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, State};
use axum::http::{Request, Response, StatusCode, header};
use hyper::ext::ReasonPhrase;
use tokio::net::TcpListener;
use uuid::Uuid;

use super::config::Config;
use super::options::{Delays, Options};
use super::ports::Ports;
use super::rest;
use crate::fault_text::keep_of_lists;
use crate::vnc::log::{Entry, Log};
use crate::vnc::wire::{Cut, Peer, Wire};
use crate::vnc::{Effect, Fault};

const LARGEST: usize = 1 << 20;
const JSON: &str = "application/json; charset=UTF-8";

/// What all tasks share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    inner: Mutex<Inner>,
    /// Wakes the data path.
    pub(crate) wake: Mutex<Option<SyncSender<()>>>,
    pub(crate) online: AtomicBool,
}

/// What changes.
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) ports: Ports,
    pub(crate) delays: Delays,
    pub(crate) faults: Vec<Fault>,
    pub(crate) log: Log,
    /// Whether everything but addresses has been told once, and addresses.
    pub(crate) synced: (bool, bool),
    /// The interfaces that the data path forwards for; none when there is no data path.
    pub(crate) forwarding: Option<BTreeSet<Uuid>>,
    /// What the data path could not do.
    pub(crate) problems: BTreeSet<String>,
}

impl Inner {
    /// Whether an interface works, as far as the data path is concerned.
    pub(crate) fn forwards(&self, interface: Uuid) -> bool {
        let forwarding = self.forwarding.as_ref();
        forwarding.is_none_or(|interfaces| interfaces.contains(&interface))
    }
}

impl Shared {
    pub(crate) fn new(options: Options, ports: Ports, data_path: bool) -> Arc<Self> {
        let inner = Inner {
            config: Config::default(),
            ports,
            delays: options.delays,
            faults: options.faults.clone(),
            log: Log::new(options.log_limit),
            synced: (false, false),
            forwarding: data_path.then(BTreeSet::new),
            problems: BTreeSet::new(),
        };
        Arc::new(Self {
            options,
            inner: Mutex::new(inner),
            wake: Mutex::new(None),
            online: AtomicBool::new(true),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the data path look again.
    pub(crate) fn poke(&self) {
        let wake = self.wake.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wake) = &*wake {
            // A full queue means that it will look anyway.
            let _ = wake.try_send(());
        }
    }
}

/// Serves until the future is dropped.
pub(crate) async fn run(tcp: TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    let router = Router::new().fallback(handle).with_state(shared);
    let service = router.into_make_service_with_connect_info::<Peer>();
    axum::serve(Wire { tcp, split: false }, service).await
}

async fn handle(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request<Body>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, LARGEST).await.unwrap_or_default();
    let method = parts.method.as_str();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let (order, delay, fault) = {
        let mut inner = shared.lock();
        let order = inner.log.begin(Entry {
            order: 0,
            at: SystemTime::now(),
            peer: peer.address,
            user_agent: None,
            request_id: None,
            method: method.to_owned(),
            path: path.to_owned(),
            body: serde_json::from_slice(&body).ok(),
            performed: false,
            status: None,
            changes: Vec::new(),
        });
        if !shared.online.load(Ordering::SeqCst) {
            peer.cut(Cut::Now);
            return build(200, String::new());
        }
        let fault = inner.faults.iter_mut().find_map(|fault| {
            let strikes = fault.strikes(method, path);
            strikes.then(|| (fault.effect.clone(), fault.performed))
        });
        (order, inner.delays.answer, fault)
    };
    let performed = fault.as_ref().is_none_or(|(_, performed)| *performed);
    let effect = fault.map(|(effect, _)| effect);
    let late = match effect {
        Some(Effect::Delay(late)) => late,
        _ => Duration::ZERO,
    };
    if !(delay + late).is_zero() {
        tokio::time::sleep(delay + late).await;
    }
    let mut answer = (200, "{}".to_owned());
    if performed {
        answer = perform(&shared, method, path, &body, order);
    }
    let response = match effect {
        None | Some(Effect::Delay(_)) => build(answer.0, answer.1),
        Some(Effect::Status(status, text)) => build(status, text),
        Some(Effect::Nonsense(text)) => build(200, text),
        Some(Effect::List(keep)) => match serde_json::from_str(&answer.1) {
            Ok(mut value) => {
                keep_of_lists(&mut value, keep);
                build(answer.0, value.to_string())
            }
            Err(_) => build(answer.0, answer.1),
        },
        Some(Effect::Hang) => pending().await,
        Some(Effect::Cut) => {
            peer.cut(Cut::Now);
            return build(answer.0, answer.1);
        }
        Some(Effect::CutInBody) => {
            peer.cut(Cut::InBody);
            build(answer.0, answer.1)
        }
    };
    let status = response.status().as_u16();
    let mut inner = shared.lock();
    inner.log.note(order, |entry| entry.status = Some(status));
    response
}

fn perform(
    shared: &Arc<Shared>,
    method: &str,
    path: &str,
    body: &[u8],
    order: u64,
) -> rest::Answer {
    let (answer, effect) = {
        let mut inner = shared.lock();
        inner.log.note(order, |entry| entry.performed = true);
        rest::answer(&mut inner, &shared.options.name, (method, path, body))
    };
    match effect {
        rest::Effect::Nothing => {}
        rest::Effect::Changed => shared.poke(),
        rest::Effect::Stale(version) => {
            let shared = shared.clone();
            tokio::spawn(async move {
                tokio::time::sleep(shared.options.stale).await;
                shared.lock().ports.sweep(version);
                shared.poke();
            });
        }
    }
    answer
}

/// The agent calls every status OK.
fn build(status: u16, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let kind = header::HeaderValue::from_static(JSON);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    let reason = ReasonPhrase::from_static(b"OK");
    response.extensions_mut().insert(reason);
    response
}
