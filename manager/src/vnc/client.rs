//! One question to the API server: which server, how often, with whose token.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::auth::{Auth, Credentials};
use super::error::{Question, VncError, VncErrorKind, classify};
use super::tally::{Outcome, Tally, Trouble};
use crate::logging::millis;
use contrail_mesos_api::backoff::Backoff;
use contrail_mesos_api::http::{
    Address, AttemptError, Failover, HttpClient, Limits, Request, Response, TlsError, TlsOptions,
};

/// How to reach the API.
#[derive(Clone, Debug, PartialEq)]
pub struct VncOptions {
    /// The servers, the preferred one first. They must be servers of one cluster.
    pub servers: Vec<Address>,
    /// TLS of the servers, and of the keystone.
    pub tls: TlsOptions,
    /// Who we are.
    pub auth: Auth,
    /// Limits of a single attempt.
    pub limits: Limits,
    /// How long a call may take with all its attempts.
    pub call_timeout: Duration,
    /// How many calls are under way at a time; more wait their turn.
    pub in_flight: usize,
}

impl VncOptions {
    /// These servers, and defaults for the rest.
    #[must_use]
    pub fn new(servers: Vec<Address>) -> Self {
        Self {
            servers,
            tls: TlsOptions::default(),
            auth: Auth::default(),
            limits: Limits::default(),
            call_timeout: Duration::from_mins(1),
            in_flight: 64,
        }
    }
}

/// The client. Clones share connections, token and the server in use.
#[derive(Clone, Debug)]
pub struct VncClient(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: HttpClient,
    failover: Failover,
    credentials: Credentials,
    call_timeout: Duration,
    in_flight: Semaphore,
    requests: AtomicU64,
    tally: Tally,
}

/// A question.
#[derive(Debug)]
pub(super) struct Call {
    /// What it is for, as it reads after "cannot".
    pub operation: String,
    pub method: Method,
    /// With the query, encoded.
    pub path: String,
    pub body: Option<Value>,
    /// Whether it creates an object: a 404 then means something else.
    pub question: Question,
    /// Whether asking twice has the same effect as asking once.
    pub repeatable: bool,
}

impl Call {
    pub(super) fn new(operation: String, method: Method, path: impl Into<String>) -> Self {
        Self {
            operation,
            method,
            path: path.into(),
            body: None,
            question: Question::Other,
            repeatable: true,
        }
    }

    pub(super) fn with_body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }
}

/// A success.
#[derive(Debug)]
pub(super) struct Answer {
    pub body: Bytes,
}

/// A failure, and whether an earlier attempt may have done what was asked.
#[derive(Debug)]
pub(super) struct Failure {
    pub error: VncError,
    pub maybe_done_before: bool,
}

impl Failure {
    /// Whether this attempt or an earlier one may have done what was asked.
    fn maybe_done(&self) -> bool {
        self.maybe_done_before || self.error.kind.maybe_done()
    }
}

impl From<Failure> for VncError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// The delays after each round over all servers.
pub(super) const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

impl VncClient {
    /// A client; nothing is asked yet. Reads certificate files: blocks on the file system.
    pub fn new(options: VncOptions) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(Inner {
            http: HttpClient::new(options.limits, &options.tls)?,
            failover: Failover::new(options.servers),
            credentials: Credentials::new(options.auth),
            call_timeout: options.call_timeout,
            in_flight: Semaphore::new(options.in_flight.max(1)),
            requests: AtomicU64::new(0),
            tally: Tally::default(),
        })))
    }

    /// How many requests went to API servers so far, repetitions included.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// What became of every request so far.
    #[must_use]
    pub fn tally(&self) -> Vec<(Outcome, u64)> {
        self.0.tally.counts()
    }

    /// What is wrong with the servers since the last request.
    #[must_use]
    pub fn trouble(&self) -> Option<Trouble> {
        self.0.tally.trouble()
    }

    /// The server in use, for messages.
    pub(super) fn server(&self) -> String {
        let server = self.0.failover.current();
        server.map_or_else(|| "(none)".to_owned(), Address::to_string)
    }

    /// Calls until there is an answer, a refusal, or the call's time is over.
    ///
    /// A server that fails is left for the next one at once; when all have failed there is a
    /// delay. What is not repeatable is repeated only where no server has seen it.
    pub(super) async fn ask(&self, call: &Call) -> Result<Answer, Failure> {
        let deadline = Instant::now() + self.0.call_timeout;
        let attempt = |index: usize, last: Option<Failure>| async move {
            let failover = &self.0.failover;
            let server = &failover.servers()[index];
            let maybe_done_before = last.as_ref().is_some_and(Failure::maybe_done);
            let last = last.map(|failure| failure.error.kind);
            let kind = match self.attempt_before(deadline, last, server, call).await {
                Ok(body) => return Ok(Answer { body }),
                Err(kind) => kind,
            };
            let is_transient = kind.is_transient();
            if is_transient && let Some(next) = failover.leave(index) {
                log::warn!(server:%, next:%; "leaving the API server: {kind}");
            }
            let is_repeatable = call.repeatable || !kind.maybe_done();
            let failure = Failure {
                error: VncError::new(&call.operation, server.to_string(), kind),
                maybe_done_before,
            };
            if is_transient && is_repeatable {
                log::debug!("{}; trying again", failure.error);
                Err(AttemptError::Retry(failure))
            } else {
                Err(AttemptError::Final(failure))
            }
        };
        let result = self.0.failover.retry_until(deadline, BACKOFF, attempt);
        result.await.map_err(|failure| {
            failure.unwrap_or_else(|| {
                let problem = "no API server is configured".to_owned();
                let kind = VncErrorKind::Unreachable { problem };
                Failure {
                    error: VncError::without_server(&call.operation, kind),
                    maybe_done_before: false,
                }
            })
        })
    }

    async fn attempt_before(
        &self,
        deadline: Instant,
        last: Option<VncErrorKind>,
        server: &Address,
        call: &Call,
    ) -> Result<Bytes, VncErrorKind> {
        // What went wrong before says more than that the time is over.
        let too_late = || {
            let problem = format!("no answer within {:?}", self.0.call_timeout);
            match &last {
                None => problem,
                Some(last) => format!("{problem}, before that: {last}"),
            }
        };
        // Never closed, so an error cannot be.
        let _permit = timeout_at(deadline, self.0.in_flight.acquire())
            .await
            .map_err(|_| VncErrorKind::Unreachable {
                problem: format!("{}: too many calls are under way", too_late()),
            })?;
        timeout_at(deadline, self.attempt(server, call))
            .await
            .unwrap_or_else(|_| {
                let problem = too_late();
                Err(VncErrorKind::Unknown { problem })
            })
    }

    async fn attempt(&self, server: &Address, call: &Call) -> Result<Bytes, VncErrorKind> {
        let credentials = &self.0.credentials;
        let mut token = credentials.token(&self.0.http, None).await?;
        let mut response = self.send(server, call, token.as_ref()).await?;
        // A refused request was not done, whatever it was.
        if response.status == StatusCode::UNAUTHORIZED && credentials.renews() {
            log::debug!(server:% = server; "renewing the token");
            token = credentials.token(&self.0.http, token.as_ref()).await?;
            response = self.send(server, call, token.as_ref()).await?;
        }
        if response.status.is_success() {
            Ok(response.body)
        } else {
            Err(classify(call.question, &response))
        }
    }

    async fn send(
        &self,
        server: &Address,
        call: &Call,
        token: Option<&super::auth::Token>,
    ) -> Result<Response, VncErrorKind> {
        let uri = server
            .uri(&call.path)
            .map_err(|error| VncErrorKind::Invalid {
                message: format!("{:?} cannot be asked for: {error}", call.path),
            })?;
        let request = Request {
            method: call.method.clone(),
            uri,
            headers: token.into_iter().map(super::auth::Token::header).collect(),
            body: call.body.as_ref().map(|body| body.to_string().into()),
        };
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
        let result = self.0.http.send(request).await;
        log::trace!(
            server:% = server, elapsed_ms = millis(started.elapsed());
            "{} {}: {:?}", call.method, call.path, result.as_ref().map(|response| response.status)
        );
        self.0.tally.count(
            &call.method,
            &call.path,
            result.as_ref().map(|response| response.status).ok(),
        );
        Ok(result?)
    }
}
