//! Calls to the one of several servers that leads: standbys send us on, and we go with our
//! credentials where [`Redirects`] allows it.

use hyper::Method;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION};

use super::address::Address;
use super::call_error::{CallError, Problem};
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
pub struct Ask {
    /// What it is for, as it reads after "cannot".
    pub what: String,
    /// The method.
    pub method: Method,
    /// With the query, encoded.
    pub path: String,
    /// The one type of answer that is taken.
    pub accept: &'static str,
    /// A JSON text.
    pub body: Option<Bytes>,
}

impl Ask {
    /// Asks for JSON.
    #[must_use]
    pub fn get(what: impl Into<String>, path: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            method: Method::GET,
            path: path.into(),
            accept: "application/json",
            body: None,
        }
    }

    /// The error of this question.
    #[must_use]
    pub fn failed(&self, server: &Address, problem: impl Into<Problem>) -> CallError {
        CallError {
            what: self.what.clone(),
            server: server.to_string(),
            problem: problem.into(),
        }
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
        ask: &Ask,
    ) -> Result<(Address, Streaming), CallError> {
        let mut server = at.clone();
        for _ in 0..=MOST_REDIRECTIONS {
            let failed = |problem: Problem| ask.failed(&server, problem);
            let answer = self.attempt(&server, ask).await.map_err(failed)?;
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
                return Err(failed(Problem::of_status(status, &body)));
            }
            let location = answer
                .headers
                .get(LOCATION)
                .and_then(|value| value.to_str().ok());
            let target = self.redirects.target(&server, listed, location, &ask.path);
            let target = target.map_err(|error| failed(error.into()))?;
            log::debug!("{server} names {target} as the leader");
            server = target;
        }
        Err(ask.failed(&server, RedirectError::Loop(MOST_REDIRECTIONS + 1)))
    }

    /// As [`Self::open`], with the whole answer.
    pub async fn send(
        &self,
        listed: &[Address],
        at: &Address,
        ask: &Ask,
    ) -> Result<(Address, Response), CallError> {
        let (server, answer) = self.open(listed, at, ask).await?;
        match answer.whole().await {
            Ok(whole) => Ok((server, whole)),
            Err(error) => Err(ask.failed(&server, error)),
        }
    }

    async fn attempt(&self, server: &Address, ask: &Ask) -> Result<Streaming, Problem> {
        let uri = server.uri(&ask.path).map_err(|error| {
            // Paths are made of checked parts; the operator's prefix may still be odd.
            Problem::nonsense(&format!("{server} with {}: {error}", ask.path), b"")
        })?;
        let mut headers = vec![(ACCEPT, HeaderValue::from_static(ask.accept))];
        if let Some(value) = self.credentials.header().await? {
            headers.push((AUTHORIZATION, value));
        }
        let request = Request {
            method: ask.method.clone(),
            uri,
            headers,
            body: ask.body.clone(),
        };
        Ok(self.http.open(request).await?)
    }
}
