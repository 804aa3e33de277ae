//! One question to the API server: which server, how often, with whose token.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use super::auth::{Auth, Credentials};
use super::error::{Question, VncError, VncErrorKind, classify};
use super::tally::{Outcome, Tally, Trouble};
use contrail_mesos_api::http::{
    Address, HttpClient, Limits, Request, Response, TlsError, TlsOptions,
};

/// How to reach the API.
#[derive(Clone, Debug)]
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
    servers: Vec<Address>,
    /// The index of the server in use.
    current: AtomicUsize,
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
    pub what: String,
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
    pub(super) fn new(what: String, method: Method, path: impl Into<String>) -> Self {
        Self {
            what,
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

impl From<Failure> for VncError {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// The pauses between two rounds over all servers.
pub(super) fn pauses() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        .without_max_times()
}

impl VncClient {
    /// A client; nothing is asked yet. Reads certificate files: blocks on the file system.
    pub fn new(options: VncOptions) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(Inner {
            http: HttpClient::new(options.limits, &options.tls)?,
            servers: options.servers,
            current: AtomicUsize::new(0),
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
        let index = self.0.current.load(Ordering::Relaxed);
        self.0
            .servers
            .get(index)
            .map_or_else(|| "(none)".to_owned(), Address::to_string)
    }

    /// Asks until there is an answer, a refusal, or no call_timeout left.
    ///
    /// A server that fails is left for the next one at once; when all have failed there is a
    /// pause. What is not repeatable is asked again only where no server has seen it.
    pub(super) async fn ask(&self, call: &Call) -> Result<Answer, Failure> {
        let inner = &*self.0;
        let deadline = Instant::now() + inner.call_timeout;
        let mut pauses = pauses().build();
        let mut failed = 0;
        let mut maybe_done = false;
        let mut last = None;
        loop {
            let index = inner.current.load(Ordering::Relaxed);
            let Some(server) = inner.servers.get(index) else {
                return Err(Failure {
                    error: VncError {
                        what: call.what.clone(),
                        server: "(none)".to_owned(),
                        kind: VncErrorKind::Unreachable {
                            problem: "no API server is configured".to_owned(),
                        },
                    },
                    maybe_done_before: false,
                });
            };
            let kind = match self
                .attempt_before(deadline, last.as_ref(), server, call)
                .await
            {
                Ok(body) => return Ok(Answer { body }),
                Err(kind) => kind,
            };
            let failure = |kind: VncErrorKind| Failure {
                error: VncError {
                    what: call.what.clone(),
                    server: server.to_string(),
                    kind,
                },
                maybe_done_before: maybe_done,
            };
            if !kind.is_transient() {
                return Err(failure(kind));
            }
            // Whoever fails first moves on; others who failed at the same server follow.
            let next = (index + 1) % inner.servers.len();
            let moved =
                inner
                    .current
                    .compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
            if moved.is_ok() && next != index {
                log::warn!(server:% = server, next:% = inner.servers[next]; "leaving the API server: {kind}");
            }
            let unseen = matches!(kind, VncErrorKind::Unreachable { .. });
            if !call.repeatable && !unseen {
                return Err(failure(kind));
            }
            failed += 1;
            let pause = if failed % inner.servers.len() == 0 {
                pauses.next().unwrap_or_default()
            } else {
                Duration::ZERO
            };
            if Instant::now() + pause >= deadline {
                return Err(failure(kind));
            }
            log::debug!(server:% = server, failed; "cannot {}, trying again: {kind}", call.what);
            maybe_done |= !unseen;
            last = Some(kind);
            sleep(pause).await;
        }
    }

    async fn attempt_before(
        &self,
        deadline: Instant,
        last: Option<&VncErrorKind>,
        server: &Address,
        call: &Call,
    ) -> Result<Bytes, VncErrorKind> {
        let call_timeout = self.0.call_timeout;
        let too_late = |waiting: bool| {
            // What went wrong before says more than that the time is over.
            let problem = match last {
                None => format!("no answer within {call_timeout:?}"),
                Some(last) => format!("no answer within {call_timeout:?}, before that: {last}"),
            };
            if waiting {
                VncErrorKind::Unreachable {
                    problem: format!("{problem}: too many calls are under way"),
                }
            } else {
                VncErrorKind::Unknown { problem }
            }
        };
        // Never closed, so an error cannot be.
        let _turn = timeout_at(deadline, self.0.in_flight.acquire())
            .await
            .map_err(|_| too_late(true))?;
        timeout_at(deadline, self.attempt(server, call))
            .await
            .unwrap_or_else(|_| Err(too_late(false)))
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
                said: format!("{:?} cannot be asked for: {error}", call.path),
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
            server:% = server, elapsed:? = started.elapsed();
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
