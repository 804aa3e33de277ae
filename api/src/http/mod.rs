//! HTTP/1.1 to servers that split their answers: the transport of the VNC API and vRouter clients.
//!
//! Both servers send an answer's header and body in two writes with Nagle's algorithm on. The
//! second write then waits until the client acknowledges the first, and a client that delays its
//! acknowledgements, as Linux does on a connection in use, adds 40 ms to *every* call. reqwest
//! hides its sockets behind a sealed type, so this module puts hyper-util, which reqwest itself
//! is made of, on streams that acknowledge at once ([`quickack`]).
//!
//! Invariants: every answer is read whole, within one deadline and one size, unless it is a stream,
//! of which every silence has a deadline; redirections are followed by [`LeaderClient`] alone, by
//! its own rules, and proxies of the environment never used, since credentials travel here.

mod address;
mod api_error;
mod call_error;
mod credentials;
mod failover;
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

pub use address::{Address, InvalidAddress};
pub use api_error::ApiError;
pub use call_error::{CallError, CallErrorKind};
pub use credentials::{Credentials, CredentialsError};
pub use failover::{AttemptError, Failover};
pub use leader::{LeaderClient, LeaderOptions, RequestSpec};
use quickack::QuickAckConnector;
pub use redirect::{RedirectError, Redirects};
pub use streaming::Streaming;
pub use tls::{TlsError, TlsOptions};

/// How long a connection is kept for the next call. Shorter than what servers and the load
/// balancers before them allow, so that it is us who close.
const IDLE: Duration = Duration::from_secs(20);

/// What we call ourselves: servers log it.
const NAME: &str = concat!("contrail-mesos/", env!("CARGO_PKG_VERSION"));

/// How long, and how much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Until a connection stands.
    pub connect_timeout: Duration,
    /// Until the last byte of an answer, the connection included.
    pub request_timeout: Duration,
    /// Bytes of an answer's body.
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

/// One call.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Where to, scheme and host included.
    pub uri: Uri,
    /// Headers; the content type of a body comes by itself.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// A JSON text.
    pub body: Option<Bytes>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code. The reason beside it is not worth reading: vRouter agents say `404 OK`.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Response {
    /// The body as text, for messages: its first 500 characters.
    #[must_use]
    pub fn text(&self) -> String {
        excerpt(&self.body)
    }
}

/// The first 500 characters of a text.
#[must_use]
pub fn excerpt(text: &[u8]) -> String {
    // Four bytes a character at most, and one that is cut.
    let text = String::from_utf8_lossy(&text[..text.len().min(2004)]);
    let text = text.trim();
    match text.char_indices().nth(500) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// There is no connection: the server has seen nothing of the request.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The connection ended before the answer did: the server may have done what it was asked.
    #[error("the connection broke before the answer was complete: {0}")]
    ConnectionClosed(String),
    /// No whole answer in time: the server may have done what it was asked.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// A stream has brought nothing for so long that its server must be gone.
    #[error("nothing has come for {0:?}, not even a sign of life")]
    IdleTimeout(Duration),
    /// The answer is longer than anybody expects.
    #[error("the answer is longer than {0} bytes")]
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
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Self { client, limits })
    }

    /// Asks, and returns when the answer's head is there: its body is read as it comes.
    pub async fn open(&self, request: Request) -> Result<Streaming, HttpError> {
        let limit = self.limits.request_timeout;
        let response = tokio::time::timeout(limit, self.exchange(request))
            .await
            .unwrap_or(Err(HttpError::Timeout(limit)))?;
        Ok(Streaming::new(response, self.limits))
    }

    /// Asks, and reads the whole answer, whatever its status.
    pub async fn send(&self, request: Request) -> Result<Response, HttpError> {
        let limit = self.limits.request_timeout;
        tokio::time::timeout(limit, async {
            let response = self.exchange(request).await?;
            Streaming::new(response, self.limits).whole().await
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
            .insert(USER_AGENT, HeaderValue::from_static(NAME));
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

/// A body that is a JSON object, as far as its beginning says. serde would read an array as one,
/// by the order of the fields.
pub fn expect_object(body: &[u8]) -> Result<&[u8], serde_json::Error> {
    match body.trim_ascii_start().first() {
        Some(b'{') => Ok(body),
        _ => Err(serde::de::Error::custom("it is no JSON object")),
    }
}

/// What an error and its causes say, each thing once: hyper's own text hides the interesting one.
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
