//! The control listener. Beside the common routes it has:
//!
//! ```text
//! GET  /state   {"synced", "ports", "forwarding", "problems"}: the ports, the interfaces that the
//!               data path forwards for (null without one), and what it could not do
//! GET  /delays  PUT {"response", "configuration", "address"}, each in milliseconds
//! ```

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;

use super::{Delays, Handle};
use crate::harness::control;

impl Handle {
    /// Serves the control listener with the runtime, and returns its address.
    pub async fn control(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let router = Router::new()
            .route("/state", get(state))
            .route("/delays", get(delays).put(set_delays))
            .with_state(self.clone())
            .merge(control::server_routes(
                Arc::clone(&self.shared.frontend),
                Arc::clone(&self.service),
            ))
            .merge(control::fault_routes(&self.shared.faults));
        control::serve(address, router).await
    }
}

async fn state(State(handle): State<Handle>) -> Response {
    let state = handle.shared.lock();
    let ports = state.ports.all().map(|((_, vm, interface), port)| {
        json!({"machine": vm, "interface": interface, "tap": port.tap})
    });
    Json(json!({
        "synced": state.synced.is_complete(),
        "ports": ports.collect::<Vec<_>>(),
        "forwarding": state.forwarding,
        "problems": state.problems,
    }))
    .into_response()
}

async fn delays(State(handle): State<Handle>) -> Json<Delays> {
    Json(handle.shared.lock().delays)
}

async fn set_delays(State(handle): State<Handle>, Json(delays): Json<Delays>) {
    handle.set_delays(delays);
}
