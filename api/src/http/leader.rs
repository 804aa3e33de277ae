//! Calls to the one of several servers that leads: standbys send us on, and we go with our
//! credentials where [`Redirects`] allows it.

use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION};

use super::address::Address;
use super::call_error::{CallError, CallErrorKind};
use super::credentials::Credentials;
use super::redirect::{RedirectError, Redirects};
use super::{HttpClient, Limits, Request, Response, Streaming, TlsError, TlsOptions};

/// A standby names the leader; that one may have lost its lead meanwhile.
const MOST_REDIRECTIONS: usize = 3;

/// How servers are reached.
#[derive(Clone, Debug, Default)]
pub struct LeaderOptions {
    /// TLS of all of them.
    pub tls: TlsOptions,
    /// Who we are.
    pub credentials: Credentials,
    /// Which leaders are believed.
    pub redirects: Redirects,
    /// Limits of a single call; a stream has a deadline of its own once it has begun.
    pub limits: Limits,
}

/// A question.
#[derive(Clone, Debug)]
pub struct RequestSpec {
    /// What it is for, as it reads after "cannot".
    pub operation: String,
    /// The method.
    pub method: Method,
    /// With the query, encoded.
    pub path: String,
    /// The one type of answer that is taken.
    pub accept: &'static str,
    /// A JSON text.
    pub body: Option<Bytes>,
}

impl RequestSpec {
    /// Asks for JSON.
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

    /// The error of this question.
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
    /// A client; nothing is asked yet. Reads certificate files: blocks on the file system.
    pub fn new(options: LeaderOptions) -> Result<Self, TlsError> {
        Ok(Self {
            http: HttpClient::new(options.limits, &options.tls)?,
            credentials: options.credentials,
            redirects: options.redirects,
        })
    }

    /// Asks the server `at`, or the leader that it names, which is returned with the answer. Any
    /// status but success is an error.
    pub async fn open(
        &self,
        listed: &[Address],
        at: &Address,
        spec: &RequestSpec,
    ) -> Result<(Address, Streaming), CallError> {
        let mut server = at.clone();
        for _ in 0..=MOST_REDIRECTIONS {
            let failed = |problem: CallErrorKind| spec.failed(&server, problem);
            let answer = self.attempt(&server, spec).await.map_err(failed)?;
            if answer.status.is_success() {
                return Ok((server, answer));
            }
            if !answer.status.is_redirection() {
                let status = answer.status;
                // Its words are worth having, but not worth failing for.
                let body = answer
                    .whole()
                    .await
                    .map_or_else(|_| Bytes::new(), |whole| whole.body);
                return Err(failed(CallErrorKind::of_status(status, &body)));
            }
            let location = answer
                .headers
                .get(LOCATION)
                .and_then(|value| value.to_str().ok());
            let target = self.redirects.target(&server, listed, location, &spec.path);
            let target = target.map_err(|error| failed(error.into()))?;
            log::debug!("{server} names {target} as the leader");
            server = target;
        }
        Err(spec.failed(&server, RedirectError::Loop(MOST_REDIRECTIONS + 1)))
    }

    /// As [`Self::open`], with the whole answer.
    pub async fn send(
        &self,
        listed: &[Address],
        at: &Address,
        spec: &RequestSpec,
    ) -> Result<(Address, Response), CallError> {
        let (server, answer) = self.open(listed, at, spec).await?;
        match answer.whole().await {
            Ok(whole) => Ok((server, whole)),
            Err(error) => Err(spec.failed(&server, error)),
        }
    }

    async fn attempt(
        &self,
        server: &Address,
        spec: &RequestSpec,
    ) -> Result<Streaming, CallErrorKind> {
        let uri = server.uri(&spec.path).map_err(|error| {
            // Paths are made of checked parts; the operator's prefix may still be odd.
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
