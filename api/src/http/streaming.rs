//! A response whose body is streamed.

use std::time::Duration;

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, timeout_at};

use super::{HttpError, Limits, Response, reasons};
use crate::text::hide;

/// More than is quoted of any body.
const MAX_QUOTED_BYTES: usize = 64 << 10;

/// A response whose head was received.
#[derive(Debug)]
pub struct Streaming {
    /// The status code.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    limits: Limits,
    /// What must not be quoted if the server repeats it.
    secrets: Vec<SecretString>,
    /// When data was received last.
    last_received: Instant,
}

impl Streaming {
    pub(super) fn new(
        response: hyper::Response<Incoming>,
        limits: Limits,
        secrets: Vec<SecretString>,
    ) -> Self {
        let (head, body) = response.into_parts();
        Self {
            status: head.status,
            headers: head.headers,
            body,
            limits,
            secrets,
            last_received: Instant::now(),
        }
    }

    /// The next bytes; none once the server has ended the stream properly. Fails if nothing was
    /// received for `idle_timeout`, which canceled calls do not restart.
    ///
    /// Cancel-safe: no bytes are lost.
    pub async fn next(&mut self, idle_timeout: Duration) -> Result<Option<Bytes>, HttpError> {
        loop {
            let frame = timeout_at(self.last_received + idle_timeout, self.body.frame())
                .await
                .map_err(|_| HttpError::IdleTimeout(idle_timeout))?;
            self.last_received = Instant::now();
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(HttpError::ConnectionClosed(reasons(&error))),
                // Trailers are ignored.
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// Reads the complete response, within the time and size limits.
    pub async fn collect(self) -> Result<Response, HttpError> {
        let limits = self.limits;
        let body = Limited::new(self.body, limits.max_body_bytes).collect();
        let body = tokio::time::timeout(limits.request_timeout, body)
            .await
            .map_err(|_| HttpError::Timeout(limits.request_timeout))?
            .map_err(|error| {
                if error.is::<LengthLimitError>() {
                    HttpError::BodyTooLarge(limits.max_body_bytes)
                } else {
                    HttpError::ConnectionClosed(reasons(error.as_ref()))
                }
            })?;
        let mut body = body.to_bytes();
        // Only the beginning of a body is quoted.
        let quoted = &body[..body.len().min(MAX_QUOTED_BYTES)];
        let secrets = self.secrets.iter().map(ExposeSecret::expose_secret);
        if let Some(mut hidden) = hide(quoted, secrets) {
            hidden.extend_from_slice(&body[quoted.len()..]);
            body = hidden.into();
        }
        Ok(Response {
            status: self.status,
            headers: self.headers,
            body,
        })
    }
}
