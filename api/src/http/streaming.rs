//! An answer whose body is read as it comes.

use std::time::Duration;

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, StatusCode};
use tokio::time::{Instant, timeout_at};

use super::{HttpError, Limits, Response, reasons};

/// An answer that has begun.
#[derive(Debug)]
pub struct Streaming {
    /// The status code.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    limits: Limits,
    /// When something came last.
    heard: Instant,
}

impl Streaming {
    pub(super) fn new(response: hyper::Response<Incoming>, limits: Limits) -> Self {
        let (head, body) = response.into_parts();
        Self {
            status: head.status,
            headers: head.headers,
            body,
            limits,
            heard: Instant::now(),
        }
    }

    /// The next bytes; none once the server has ended the stream in order. An error if nothing
    /// comes for as long as `quiet`, however often this is asked meanwhile.
    ///
    /// Cancel-safe: what was not returned is returned the next time.
    pub async fn next(&mut self, quiet: Duration) -> Result<Option<Bytes>, HttpError> {
        loop {
            let frame = timeout_at(self.heard + quiet, self.body.frame())
                .await
                .map_err(|_| HttpError::IdleTimeout(quiet))?;
            self.heard = Instant::now();
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(HttpError::ConnectionClosed(reasons(&error))),
                // Trailers say nothing here.
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// The whole answer, if it comes in time and is not too long.
    pub async fn whole(self) -> Result<Response, HttpError> {
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
        Ok(Response {
            status: self.status,
            headers: self.headers,
            body: body.to_bytes(),
        })
    }
}
