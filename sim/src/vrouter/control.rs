//! The control listener: the simulation's own way to a running agent, which no real one has.
//!
//! ```text
//! GET  /state    {"synced", "ports", "forwarding", "problems"}: the ports, the interfaces that the
//!                data path forwards for (null without one), and what it could not do
//! GET  /log?since=N  the requests to the port service, from that number on
//! GET  /faults   POST adds one, DELETE clears all
//! GET  /delays   PUT {"answer", "configuration", "address"}, each in milliseconds
//! PUT  /online   true or false: whether anybody can reach the port service
//! POST /gone     {"milliseconds":N}: nobody can, for so long
//! ```

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;

use super::{Delays, Handle};
use crate::fault_text::{FaultText, Milliseconds};

impl Handle {
    /// Serves the control listener at this address, with the runtime; says where it listens.
    pub async fn control(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let router = Router::new()
            .route("/state", get(state))
            .route("/log", get(log_of))
            .route("/faults", get(faults).post(add_fault).delete(clear_faults))
            .route("/delays", get(delays).put(set_delays))
            .route("/online", put(online))
            .route("/gone", post(gone))
            .with_state(self.clone());
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                log::error!("the control listener at {address} ended: {error}");
            }
        });
        Ok(address)
    }
}

async fn state(State(handle): State<Handle>) -> Response {
    let inner = handle.shared.lock();
    let ports = inner.ports.all().map(|((_, machine, interface), port)| {
        json!({"machine": machine, "interface": interface, "tap": port.tap})
    });
    Json(json!({
        "synced": inner.synced == (true, true),
        "ports": ports.collect::<Vec<_>>(),
        "forwarding": inner.forwarding,
        "problems": inner.problems,
    }))
    .into_response()
}

#[derive(Deserialize)]
struct Since {
    #[serde(default)]
    since: u64,
}

async fn log_of(State(handle): State<Handle>, Query(since): Query<Since>) -> Response {
    let mut entries = handle.log();
    entries.retain(|entry| entry.order >= since.since);
    Json(entries).into_response()
}

async fn faults(State(handle): State<Handle>) -> Response {
    let faults = handle.shared.lock().faults.clone();
    let faults: Vec<FaultText> = faults.into_iter().map(FaultText::from).collect();
    Json(faults).into_response()
}

async fn add_fault(State(handle): State<Handle>, Json(fault): Json<FaultText>) {
    handle.fault(fault.into());
}

async fn clear_faults(State(handle): State<Handle>) {
    handle.clear_faults();
}

/// In milliseconds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct DelaysText {
    answer: u64,
    configuration: u64,
    address: u64,
}

async fn delays(State(handle): State<Handle>) -> Response {
    let delays = handle.shared.lock().delays;
    let text = |time: Duration| Milliseconds::from(time).milliseconds;
    Json(DelaysText {
        answer: text(delays.answer),
        configuration: text(delays.configuration),
        address: text(delays.address),
    })
    .into_response()
}

async fn set_delays(State(handle): State<Handle>, Json(delays): Json<DelaysText>) {
    handle.set_delays(Delays {
        answer: Duration::from_millis(delays.answer),
        configuration: Duration::from_millis(delays.configuration),
        address: Duration::from_millis(delays.address),
    });
}

async fn online(State(handle): State<Handle>, Json(online): Json<bool>) -> Response {
    handle.unplug();
    if online && let Err(error) = handle.plug().await {
        return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response();
    }
    StatusCode::OK.into_response()
}

async fn gone(State(handle): State<Handle>, Json(time): Json<Milliseconds>) {
    handle.unplug();
    tokio::spawn(async move {
        tokio::time::sleep(time.into()).await;
        if let Err(error) = handle.plug().await {
            log::error!("the port service cannot come back: {error}");
        }
    });
}
