//! A Marathon whose apps never change: the lists of version 1.11, and an event stream with
//! heartbeats only.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use futures::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::sleep;

const ATTACHED: &str =
    "event: event_stream_attached\r\ndata: {\"remoteAddress\":\"127.0.0.1\"}\r\n\r\n";

/// Serves these apps until the runtime ends.
pub(crate) async fn serve(apps: Vec<Value>) -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let apps = Bytes::from(json!({ "apps": apps }).to_string());
    let router = Router::new()
        // The path /v2/pods/::status looks like a path parameter of axum 0.7.
        .without_v07_checks()
        .route(
            "/v2/info",
            get(async || Json(json!({"version": "1.11.24"}))),
        )
        .route("/v2/pods/::status", get(async || Json(json!([]))))
        .route(
            "/v2/apps",
            get(async move || ([(CONTENT_TYPE, "application/json")], apps)),
        )
        .route("/v2/events", get(events));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn events() -> impl IntoResponse {
    let beats = stream::unfold(true, async |is_first| {
        if is_first {
            return Some((Ok::<_, Infallible>(ATTACHED), false));
        }
        sleep(Duration::from_secs(10)).await;
        Some((Ok("\r\n"), false))
    });
    (
        [(CONTENT_TYPE, "text/event-stream")],
        Body::from_stream(beats),
    )
}
