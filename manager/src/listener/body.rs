//! Reads the body of a request, after it is authenticated and before it is handled.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Json, Response};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use super::connections::Connection;
use super::metrics::CloseReason;
use contrail_mesos_api::agent_api::Refusal;

/// How much of a refused request is read.
const MAX_DISCARDED_BYTES: u64 = 256 << 10;
/// How long the rest of a refused request is waited for.
const DISCARD_TIMEOUT: Duration = Duration::from_millis(500);

/// The limits of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BodyLimits {
    pub max_bytes: usize,
    /// The time limit of the whole body.
    pub timeout: Duration,
}

/// Middleware that reads the whole body, and from then on keeps the connection open until the
/// response is there.
pub(crate) async fn receive_body(
    State(limits): State<BodyLimits>,
    request: Request,
    next: Next,
) -> Response {
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let (head, body) = request.into_parts();
    let body = match read(body, limits).await {
        Ok(body) => body,
        Err((status, error)) => {
            if status == StatusCode::REQUEST_TIMEOUT
                && let Some(connection) = connection
            {
                connection.count_closed(CloseReason::BodyTimeout);
            }
            return (status, Json(Refusal { error })).into_response();
        }
    };
    if let Some(connection) = connection
        && !connection.set_working()
    {
        // Nobody could receive the response, so the request is not handled: the peer sends it again.
        let error = "there are too many connections: this one is closing".to_owned();
        return (StatusCode::SERVICE_UNAVAILABLE, Json(Refusal { error })).into_response();
    }
    next.run(Request::from_parts(head, Body::from(body))).await
}

/// Reads and forgets the body of a request that is refused, if it is short and comes at once: a
/// connection that is closed before may lose the response.
pub(crate) async fn discard(mut body: Body) {
    if body.size_hint().lower() > MAX_DISCARDED_BYTES {
        return;
    }
    let discard = async {
        let mut bytes = 0;
        while let Some(Ok(frame)) = body.frame().await {
            bytes += frame.data_ref().map_or(0, Bytes::len) as u64;
            if bytes > MAX_DISCARDED_BYTES {
                return;
            }
        }
    };
    // What comes later is not waited for.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, discard).await;
}

async fn read(body: Body, limits: BodyLimits) -> Result<Bytes, (StatusCode, String)> {
    let max = limits.max_bytes;
    let too_large = || {
        let error = format!("the body is longer than {max} bytes");
        (StatusCode::PAYLOAD_TOO_LARGE, error)
    };
    // Refused before it is sent.
    if body.size_hint().lower() > max as u64 {
        return Err(too_large());
    }
    let read = Limited::new(body, max).collect();
    match tokio::time::timeout(limits.timeout, read).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => {
            let error = format!("the body cannot be read: {error}");
            Err((StatusCode::BAD_REQUEST, error))
        }
        Err(_) => {
            let timeout = limits.timeout;
            let error = format!("the body did not arrive within {timeout:?}");
            Err((StatusCode::REQUEST_TIMEOUT, error))
        }
    }
}
