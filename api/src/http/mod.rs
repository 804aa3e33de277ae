//! HTTP/1.1 client, for servers that send a response's head and body in separate segments.
//!
//! The Contrail API server and the vRouter agent write a response's head and body separately, with
//! Nagle's algorithm on. The second write waits until the client acknowledges the first, and Linux
//! delays acknowledgements on a connection in use, which adds 40 ms to *every* call. reqwest hides
//! its sockets behind a sealed type, so this module uses hyper-util directly, on streams that
//! acknowledge at once ([`quickack`]).
//!
//! Invariants: every response is read completely, within one deadline and one size limit, unless it
//! is a stream, which has an idle timeout; only [`LeaderClient`] follows redirects, by its own
//! rules; headers of a request that are marked sensitive never appear in the body of its response,
//! which may be quoted; proxies from the environment are never used, since requests carry credentials.

mod address;
mod api_error;
mod call_error;
mod credentials;
mod error_page;
mod failover;
mod hosts;
mod leader;
pub mod quickack;
mod redirect;
mod streaming;
pub mod tls;

use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, StatusCode, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use secrecy::SecretString;

use crate::text;
pub use address::{Address, InvalidAddress};
pub use api_error::ApiError;
pub use call_error::{CallError, CallErrorKind};
pub use credentials::{Credentials, CredentialsError};
pub use failover::{AttemptError, Failover};
pub use hosts::{AllowedHosts, is_of_foreign_page};
pub use leader::{LeaderClient, LeaderOptions, RequestSpec};
use quickack::QuickAckConnector;
pub use redirect::{RedirectError, Redirects};
pub use streaming::Streaming;
pub use tls::{TlsError, TlsOptions};

/// How long an idle connection is kept. Shorter than the timeouts of servers and load balancers, so
/// that the client closes first.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Servers log it.
const USER_AGENT_NAME: &str = concat!("contrail-mesos/", env!("CARGO_PKG_VERSION"));

/// The limits of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Time until a connection is established.
    pub connect_timeout: Duration,
    /// Time until the last byte of a response, connecting included.
    pub request_timeout: Duration,
    /// The most bytes of a response's body.
    pub max_body_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            // A list of tens of thousands of objects with all their fields.
            max_body_bytes: 256 << 20,
        }
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The absolute URI.
    pub uri: Uri,
    /// Headers; the content type of a body is added.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// A JSON document.
    pub body: Option<Bytes>,
}

/// A complete response.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code. The reason phrase is useless: vRouter agents send `404 OK`.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// The first 500 characters of the body, escaped, for messages; of an HTML page, the reason in it.
    #[must_use]
    pub fn text(&self) -> String {
        match error_page::reason(&self.body) {
            Some(reason) => text::excerpt(reason.as_bytes()),
            None => text::excerpt(&self.body),
        }
    }
}

/// Why there is no complete response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// There is no connection. The server has not seen the request.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The connection ended before the response did. The server may have handled the request.
    #[error("the connection closed before the response was complete: {0}")]
    ConnectionClosed(String),
    /// No complete response in time. The server may have handled the request.
    #[error("no response within {0:?}")]
    Timeout(Duration),
    /// A stream was silent for so long that its server must be gone.
    #[error("no data and no heartbeat for {0:?}")]
    IdleTimeout(Duration),
    /// The response is longer than the limit.
    #[error("the response is longer than {0} bytes")]
    BodyTooLarge(usize),
}

/// The client. Clones share their connections.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: Client<HttpsConnector<QuickAckConnector>, Full<Bytes>>,
    limits: Limits,
}

impl HttpClient {
    /// A client with these limits. Reads certificate files: blocks on the file system.
    pub fn new(limits: Limits, tls: &TlsOptions) -> Result<Self, TlsError> {
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls.client_config()?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(QuickAckConnector::new(limits.connect_timeout));
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Self { client, limits })
    }

    /// Sends a request and returns as soon as the response's head is there; the body is streamed.
    pub async fn open(&self, request: Request) -> Result<Streaming, HttpError> {
        let limit = self.limits.request_timeout;
        let secrets = secrets(&request.headers);
        let response = tokio::time::timeout(limit, self.exchange(request))
            .await
            .unwrap_or(Err(HttpError::Timeout(limit)))?;
        Ok(Streaming::new(response, self.limits, secrets))
    }

    /// Sends a request and reads the complete response, whatever its status.
    pub async fn send(&self, request: Request) -> Result<Response, HttpError> {
        let limit = self.limits.request_timeout;
        let secrets = secrets(&request.headers);
        tokio::time::timeout(limit, async {
            let response = self.exchange(request).await?;
            Streaming::new(response, self.limits, secrets)
                .collect()
                .await
        })
        .await
        .unwrap_or(Err(HttpError::Timeout(limit)))
    }

    async fn exchange(&self, request: Request) -> Result<hyper::Response<Incoming>, HttpError> {
        let body = request.body.unwrap_or_default();
        let mut message = hyper::Request::new(Full::new(body.clone()));
        *message.method_mut() = request.method;
        *message.uri_mut() = request.uri;
        message.headers_mut().extend(
            request
                .headers
                .into_iter()
                .map(|(name, value)| (Some(name), value)),
        );
        message
            .headers_mut()
            .insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_NAME));
        if !body.is_empty() {
            message
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        self.client.request(message).await.map_err(|error| {
            if error.is_connect() {
                HttpError::Connect(reasons(&error))
            } else {
                HttpError::ConnectionClosed(reasons(&error))
            }
        })
    }
}

/// What must not be quoted if the server repeats it: sensitive headers, with and without the scheme
/// of the credentials.
fn secrets(headers: &[(HeaderName, HeaderValue)]) -> Vec<SecretString> {
    headers
        .iter()
        .filter(|(_, value)| value.is_sensitive())
        .filter_map(|(_, value)| value.to_str().ok())
        .map(|value| value.split_once(' ').map_or(value, |(_, secret)| secret))
        .map(SecretString::from)
        .collect()
}

/// Checks that a body starts as a JSON object. serde would also accept an array for a struct, by the
/// order of the fields.
pub fn expect_object(body: &[u8]) -> Result<&[u8], serde_json::Error> {
    match body.trim_ascii_start().first() {
        Some(b'{') => Ok(body),
        _ => Err(serde::de::Error::custom("not a JSON object")),
    }
}

/// An error with its causes, each once: hyper's own message hides the cause.
fn reasons(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        source = error.source();
    }
    text
}

#[cfg(any(test, feature = "test-util"))]
pub mod scripted;
#[cfg(test)]
mod tests;
