//! The control listener: the simulation's own way to a running Marathon, which no real one has.
//!
//! ```text
//! GET    /servers             [{"address", "online", "leads"}]
//! PUT    /servers/{n}/online  true or false: whether anybody can reach this server
//! POST   /servers/{n}/gone    {"milliseconds":N}: nobody can, for so long
//! GET    /servers/{n}/log?since=N  the requests to it, from that number on
//! GET    /leader              PUT 0, 1, … or null
//! GET    /faults              POST adds one, of one server with "server"; DELETE clears all
//! GET    /delay               PUT {"milliseconds":N} makes every answer take so long
//! GET    /event-faults        POST adds one, DELETE clears all
//! GET    /streams             how many there are, and what slow consumers have lost;
//!                             POST writes the body into all, DELETE ends all
//! GET    /tasks               every task that has not ended, with its state
//! ```

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;

use super::events::EventFault;
use super::handle::Handle;
use crate::fault_text::{FaultText, Milliseconds};

impl Handle {
    /// Serves the control listener at this address, with the runtime; says where it listens.
    pub async fn control(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let router = Router::new()
            .route("/servers", get(servers))
            .route("/servers/{server}/online", put(online))
            .route("/servers/{server}/gone", post(gone))
            .route("/servers/{server}/log", get(log_of))
            .route("/leader", get(leader).put(set_leader))
            .route("/faults", get(faults).post(add_fault).delete(clear_faults))
            .route("/delay", get(delay).put(set_delay))
            .route(
                "/event-faults",
                get(event_faults)
                    .post(add_event_fault)
                    .delete(clear_event_faults),
            )
            .route("/streams", get(streams).post(send_raw).delete(cut_streams))
            .route("/tasks", get(tasks))
            .with_state(self.clone());
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                log::error!("the control listener at {address} ended: {error}");
            }
        });
        Ok(address)
    }
}

async fn servers(State(handle): State<Handle>) -> Response {
    let servers = handle.servers().into_iter().enumerate();
    let servers = servers.map(|(server, address)| {
        json!({
            "address": address,
            "online": handle.is_plugged(server),
            "leads": handle.leader() == Some(server),
        })
    });
    Json(servers.collect::<Vec<_>>()).into_response()
}

async fn online(
    State(handle): State<Handle>,
    Path(server): Path<usize>,
    Json(online): Json<bool>,
) -> Response {
    if !online {
        handle.unplug(server);
    } else if let Err(error) = handle.plug(server).await {
        return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response();
    }
    StatusCode::OK.into_response()
}

async fn gone(
    State(handle): State<Handle>,
    Path(server): Path<usize>,
    Json(time): Json<Milliseconds>,
) {
    handle.unplug(server);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from(time)).await;
        if let Err(error) = handle.plug(server).await {
            log::error!("server {server} of the Marathon cannot come back: {error}");
        }
    });
}

#[derive(Deserialize)]
struct Since {
    #[serde(default)]
    since: u64,
}

async fn log_of(
    State(handle): State<Handle>,
    Path(server): Path<usize>,
    Query(since): Query<Since>,
) -> Response {
    let mut entries = handle.log(server);
    entries.retain(|entry| entry.order >= since.since);
    Json(entries).into_response()
}

async fn leader(State(handle): State<Handle>) -> Json<Option<usize>> {
    Json(handle.leader())
}

async fn set_leader(
    State(handle): State<Handle>,
    Json(leader): Json<Option<usize>>,
) -> Result<(), (StatusCode, String)> {
    let servers = handle.servers().len();
    if leader.is_some_and(|leader| leader >= servers) {
        let message = format!("there are {servers} servers, counted from 0");
        return Err((StatusCode::BAD_REQUEST, message));
    }
    handle.set_leader(leader);
    Ok(())
}

/// A fault, and the server that it is of.
#[derive(Serialize, Deserialize)]
struct ServerFault {
    #[serde(default)]
    server: Option<usize>,
    #[serde(flatten)]
    fault: FaultText,
}

async fn faults(State(handle): State<Handle>) -> Response {
    let faults = handle.faults().into_iter();
    let faults = faults.map(|(server, fault)| ServerFault {
        server,
        fault: fault.into(),
    });
    Json(faults.collect::<Vec<_>>()).into_response()
}

async fn add_fault(State(handle): State<Handle>, Json(fault): Json<ServerFault>) {
    handle.fault(fault.server, fault.fault.into());
}

async fn clear_faults(State(handle): State<Handle>) {
    handle.clear_faults();
}

async fn delay(State(handle): State<Handle>) -> Json<Milliseconds> {
    Json(handle.delay().into())
}

async fn set_delay(State(handle): State<Handle>, Json(delay): Json<Milliseconds>) {
    handle.set_delay(delay.into());
}

async fn event_faults(State(handle): State<Handle>) -> Json<Vec<EventFault>> {
    Json(handle.event_faults())
}

async fn add_event_fault(State(handle): State<Handle>, Json(fault): Json<EventFault>) {
    handle.event_fault(fault);
}

async fn clear_event_faults(State(handle): State<Handle>) {
    handle.clear_event_faults();
}

async fn streams(State(handle): State<Handle>) -> Response {
    Json(json!({"streams": handle.streams(), "lost": handle.lost()})).into_response()
}

async fn send_raw(State(handle): State<Handle>, body: Bytes) {
    handle.send_raw(body);
}

async fn cut_streams(State(handle): State<Handle>) {
    handle.cut_streams();
}

async fn tasks(State(handle): State<Handle>) -> Response {
    Json(handle.tasks()).into_response()
}
