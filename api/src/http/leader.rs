//! Calls to the leader of several servers: standbys redirect to it, and [`Redirects`] decides which
//! redirects are followed with the credentials.

use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION};

use super::address::Address;
use super::call_error::{CallError, CallErrorKind};
use super::credentials::Credentials;
use super::redirect::{RedirectError, Redirects};
use super::{HttpClient, Limits, Request, Response, Streaming, TlsError, TlsOptions};

/// More than one, since the leader that a standby names may have lost its leadership meanwhile.
const MAX_REDIRECTS: usize = 3;

/// How to reach the servers.
#[derive(Clone, Debug, Default)]
pub struct LeaderOptions {
    /// TLS of all servers.
    pub tls: TlsOptions,
    /// Sent with every request.
    pub credentials: Credentials,
    /// Which redirects are followed.
    pub redirects: Redirects,
    /// Limits of a single call. A stream has an idle timeout instead once its head was received.
    pub limits: Limits,
}

/// A request, without the server.
#[derive(Clone, Debug)]
pub struct RequestSpec {
    /// The operation, as it reads after "cannot" in an error.
    pub operation: String,
    /// The method.
    pub method: Method,
    /// Path and query, encoded.
    pub path: String,
    /// The `Accept` header.
    pub accept: &'static str,
    /// A JSON document.
    pub body: Option<Bytes>,
}

impl RequestSpec {
    /// A `GET` request for JSON.
    #[must_use]
    pub fn get(operation: impl Into<String>, path: impl Into<String>) -> Self {
        Self {
            operation: operation.into(),
            method: Method::GET,
            path: path.into(),
            accept: "application/json",
            body: None,
        }
    }

    /// The error of this request at `server`.
    #[must_use]
    pub fn failed(&self, server: &Address, kind: impl Into<CallErrorKind>) -> CallError {
        CallError::new(&self.operation, server.to_string(), kind)
    }
}

/// The client. Clones share their connections.
#[derive(Clone, Debug)]
pub struct LeaderClient {
    http: HttpClient,
    credentials: Credentials,
    redirects: Redirects,
}

impl LeaderClient {
    /// A client without connections. Reads certificate files: blocks on the file system.
    pub fn new(options: LeaderOptions) -> Result<Self, TlsError> {
        Ok(Self {
            http: HttpClient::new(options.limits, &options.tls)?,
            credentials: options.credentials,
            redirects: options.redirects,
        })
    }

    /// Sends a request to the server `at`, or to the leader that it names. Returns the server that
    /// responded. Any status but success is an error.
    pub async fn open(
        &self,
        listed: &[Address],
        at: &Address,
        spec: &RequestSpec,
    ) -> Result<(Address, Streaming), CallError> {
        let mut server = at.clone();
        for _ in 0..=MAX_REDIRECTS {
            let failed = |problem: CallErrorKind| spec.failed(&server, problem);
            let response = self.attempt(&server, spec).await.map_err(failed)?;
            if response.status.is_success() {
                return Ok((server, response));
            }
            if !response.status.is_redirection() {
                let status = response.status;
                // The body is only for the message.
                let body = response
                    .collect()
                    .await
                    .map_or_else(|_| Bytes::new(), |response| response.body);
                return Err(failed(CallErrorKind::of_status(status, &body)));
            }
            let location = response
                .headers
                .get(LOCATION)
                .and_then(|value| value.to_str().ok());
            let target = self.redirects.target(&server, listed, location, &spec.path);
            let target = target.map_err(|error| failed(error.into()))?;
            log::debug!("{server} names {target} as the leader");
            server = target;
        }
        Err(spec.failed(&server, RedirectError::Loop(MAX_REDIRECTS + 1)))
    }

    /// As [`Self::open`], but reads the complete response.
    pub async fn send(
        &self,
        listed: &[Address],
        at: &Address,
        spec: &RequestSpec,
    ) -> Result<(Address, Response), CallError> {
        let (server, streaming) = self.open(listed, at, spec).await?;
        match streaming.collect().await {
            Ok(response) => Ok((server, response)),
            Err(error) => Err(spec.failed(&server, error)),
        }
    }

    async fn attempt(
        &self,
        server: &Address,
        spec: &RequestSpec,
    ) -> Result<Streaming, CallErrorKind> {
        let uri = server.uri(&spec.path).map_err(|error| {
            // Paths consist of checked parts, but the configured prefix may be invalid.
            CallErrorKind::invalid_response(&format!("{server} with {}: {error}", spec.path), b"")
        })?;
        let mut headers = vec![(ACCEPT, HeaderValue::from_static(spec.accept))];
        if let Some(value) = self.credentials.header().await? {
            headers.push((AUTHORIZATION, value));
        }
        let request = Request {
            method: spec.method.clone(),
            uri,
            headers,
            body: spec.body.clone(),
        };
        Ok(self.http.open(request).await?)
    }
}
