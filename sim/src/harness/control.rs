//! Control listeners: the simulation's own access to a running server, which no real one has.
//!
//! Routes that several control listeners have:
//!
//! ```text
//! GET  /log?since=N  the requests from that number on
//! PUT  /online       true or false: whether clients can reach the server
//! POST /gone         {"milliseconds":N}: unplugs the server for that long
//! GET  /faults       POST adds one, DELETE removes all
//! GET  /delay        PUT {"milliseconds":N} delays every response
//! ```

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Query;
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::fault::{Fault, FaultTable, milliseconds};
use super::frontend::Frontend;
use super::service::Service;

/// A duration in JSON.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Milliseconds {
    #[serde(with = "milliseconds")]
    milliseconds: Duration,
}

#[derive(Deserialize)]
struct Since {
    #[serde(default)]
    since: u64,
}

/// Serves a control listener with the runtime, and returns its address.
pub(crate) async fn serve(address: SocketAddr, router: Router) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            log::error!("the control listener at {address} ended: {error}");
        }
    });
    Ok(address)
}

/// `/log`, `/online` and `/gone` of one server.
pub(crate) fn server_routes<C>(frontend: Arc<Frontend<C>>, service: Arc<Service>) -> Router
where
    C: Clone + Serialize + Send + Sync + 'static,
{
    let log =
        move |Query(Since { since }): Query<Since>| async move { Json(frontend.log_since(since)) };
    let server = Arc::clone(&service);
    let online = move |Json(online): Json<bool>| async move {
        if !online {
            server.unplug();
        } else if let Err(error) = server.plug().await {
            return Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string()));
        }
        Ok(())
    };
    let gone = move |Json(time): Json<Milliseconds>| async move {
        service.unplug();
        tokio::spawn(async move {
            tokio::time::sleep(time.milliseconds).await;
            if let Err(error) = service.plug().await {
                log::error!("cannot listen on {} again: {error}", service.address());
            }
        });
    };
    Router::new()
        .route("/log", get(log))
        .route("/online", put(online))
        .route("/gone", post(gone))
}

/// `/faults` of a service with one server.
pub(crate) fn fault_routes(faults: &Arc<FaultTable>) -> Router {
    let (table, added, cleared) = (Arc::clone(faults), Arc::clone(faults), Arc::clone(faults));
    let list = move || async move {
        let faults = table.list().into_iter().map(|(_, fault)| fault);
        Json(faults.collect::<Vec<_>>())
    };
    let add = move |Json(fault): Json<Fault>| async move { added.add(None, fault) };
    let clear = move || async move { cleared.clear() };
    Router::new().route("/faults", get(list).post(add).delete(clear))
}

/// `/delay` of a service.
pub(crate) fn delay_routes(faults: &Arc<FaultTable>) -> Router {
    let (read, written) = (Arc::clone(faults), Arc::clone(faults));
    let delay = move || async move {
        Json(Milliseconds {
            milliseconds: read.delay(),
        })
    };
    let set_delay = move |Json(delay): Json<Milliseconds>| async move {
        written.set_delay(delay.milliseconds);
    };
    Router::new().route("/delay", get(delay).put(set_delay))
}
