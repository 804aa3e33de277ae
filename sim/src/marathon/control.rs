//! The control listener:
//!
//! ```text
//! GET    /servers              [{"address", "online", "leads"}]
//! PUT    /servers/{n}/online   true or false: whether clients can reach this server
//! POST   /servers/{n}/gone     {"milliseconds":N}: unplugs this server for that long
//! GET    /servers/{n}/log?since=N  the requests to it, from that number on
//! GET    /leader               PUT 0, 1, … or null
//! GET    /faults               POST adds one, of one server with "server"; DELETE removes all
//! GET    /delay                PUT {"milliseconds":N} delays every response
//! GET    /event-faults         POST adds one, DELETE removes all
//! GET    /streams              the number of streams, and what slow consumers have lost;
//!                              POST writes the body into all, DELETE ends all
//! GET    /tasks                every task that has not ended, with its state
//! ```

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::events::EventFault;
use super::handle::Handle;
use crate::harness::{Fault, control};

impl Handle {
    /// Serves the control listener with the runtime, and returns its address.
    pub async fn control(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let mut router = Router::new()
            .route("/servers", get(servers))
            .route("/leader", get(leader).put(set_leader))
            .route("/faults", get(faults).post(add_fault).delete(clear_faults))
            .route(
                "/event-faults",
                get(event_faults)
                    .post(add_event_fault)
                    .delete(clear_event_faults),
            )
            .route("/streams", get(streams).post(send_raw).delete(cut_streams))
            .route("/tasks", get(tasks))
            .with_state(self.clone())
            .merge(control::delay_routes(&self.shared.faults));
        for (index, server) in self.shared.servers.iter().enumerate() {
            let (frontend, service) = (&server.frontend, &self.services[index]);
            let of_server = control::server_routes(Arc::clone(frontend), Arc::clone(service));
            router = router.nest(&format!("/servers/{index}"), of_server);
        }
        control::serve(address, router).await
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

/// A fault and its server.
#[derive(Serialize, Deserialize)]
struct ServerFault {
    #[serde(default)]
    server: Option<usize>,
    #[serde(flatten)]
    fault: Fault,
}

async fn faults(State(handle): State<Handle>) -> Response {
    let faults = handle
        .faults()
        .into_iter()
        .map(|(server, fault)| ServerFault { server, fault });
    Json(faults.collect::<Vec<_>>()).into_response()
}

async fn add_fault(State(handle): State<Handle>, Json(fault): Json<ServerFault>) {
    handle.fault(fault.server, fault.fault);
}

async fn clear_faults(State(handle): State<Handle>) {
    handle.clear_faults();
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
