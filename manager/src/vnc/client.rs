//! Execution of one call: server selection, retries, authentication.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::auth::{Auth, Credentials};
use super::error::{CallKind, VncError, VncErrorKind, classify};
use super::metrics::{ClientMetrics, Outage, RequestOutcome};
use crate::logging::millis;
use contrail_mesos_api::backoff::Backoff;
use contrail_mesos_api::http::{
    Address, AttemptError, Failover, HttpClient, Limits, Request, Response, TlsError, TlsOptions,
};

/// How often the API servers are probed while no request shows that they respond.
const PROBE_INTERVAL: Duration = Duration::from_secs(4);
/// The same while they do not.
const OUTAGE_PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// The time limit of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(4);

/// Options of a [`VncClient`].
#[derive(Clone, Debug, PartialEq)]
pub struct VncOptions {
    /// The servers of one cluster, the preferred one first.
    pub servers: Vec<Address>,
    /// TLS for the servers and for Keystone.
    pub tls: TlsOptions,
    /// The credentials.
    pub auth: Auth,
    /// Limits of one attempt.
    pub limits: Limits,
    /// Deadline of a call with all its attempts.
    pub call_timeout: Duration,
    /// Maximum number of concurrent calls; further calls wait.
    pub in_flight: usize,
}

impl VncOptions {
    /// Options with these servers and defaults for the rest.
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

/// The client. Clones share connections, the token and the selected server.
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
    metrics: ClientMetrics,
}

/// A call, independent of the server that executes it.
#[derive(Debug)]
pub(super) struct Call {
    /// What the call does, as it reads after "cannot".
    pub operation: String,
    pub method: Method,
    /// The path with its encoded query.
    pub path: String,
    pub body: Option<Value>,
    /// Selects the meaning of a 404.
    pub kind: CallKind,
    /// Whether executing it twice has the same effect as once.
    pub idempotent: bool,
}

impl Call {
    pub(super) fn new(operation: String, method: Method, path: impl Into<String>) -> Self {
        Self {
            operation,
            method,
            path: path.into(),
            body: None,
            kind: CallKind::Other,
            idempotent: true,
        }
    }

    pub(super) fn with_body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }
}

/// A failed call.
#[derive(Debug)]
pub(super) struct CallFailure {
    pub error: VncError,
    /// Whether an earlier attempt may have been applied.
    pub maybe_applied_before: bool,
}

impl CallFailure {
    /// Whether this attempt or an earlier one may have been applied.
    fn maybe_applied(&self) -> bool {
        self.maybe_applied_before || self.error.kind.maybe_applied()
    }
}

impl From<CallFailure> for VncError {
    fn from(failure: CallFailure) -> Self {
        failure.error
    }
}

/// The delay after each round over all servers.
pub(super) const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

impl VncClient {
    /// Creates a client without connecting. Reads certificate files: blocks on the file system.
    pub fn new(options: VncOptions) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(Inner {
            http: HttpClient::new(options.limits, &options.tls)?,
            failover: Failover::new(options.servers),
            credentials: Credentials::new(options.auth),
            call_timeout: options.call_timeout,
            in_flight: Semaphore::new(options.in_flight.max(1)),
            requests: AtomicU64::new(0),
            metrics: ClientMetrics::default(),
        })))
    }

    /// The number of requests sent to API servers, including retries.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::Relaxed)
    }

    /// The number of requests by outcome.
    #[must_use]
    pub fn request_counts(&self) -> Vec<(RequestOutcome, u64)> {
        self.0.metrics.counts()
    }

    /// The ongoing outage of the API servers, if the last request failed.
    #[must_use]
    pub fn outage(&self) -> Option<Outage> {
        self.0.metrics.outage()
    }

    /// Whether the API servers respond: false before the first response, and once several requests
    /// have failed in a row.
    pub(crate) fn available(&self) -> watch::Receiver<bool> {
        self.0.metrics.available()
    }

    /// Keeps [`VncClient::available`] up to date while there are no other requests, as long as it is
    /// polled.
    pub(crate) async fn run_probes(&self) {
        loop {
            let interval = if self.0.metrics.has_responded_within(PROBE_INTERVAL) {
                PROBE_INTERVAL
            } else {
                self.probe().await;
                match self.outage() {
                    None => PROBE_INTERVAL,
                    Some(_) => OUTAGE_PROBE_INTERVAL,
                }
            };
            sleep(interval).await;
        }
    }

    /// Waits until the API servers respond, and probes them meanwhile.
    pub(crate) async fn wait_until_available(&self) {
        let mut available = self.available();
        loop {
            let responds = available.wait_for(|available| *available);
            // An error cannot occur: the sender is in `self`.
            let responds = timeout(OUTAGE_PROBE_INTERVAL, responds).await.is_ok();
            if responds {
                return;
            }
            self.probe().await;
        }
    }

    /// Waits until the API servers do not respond.
    pub(crate) async fn wait_until_unavailable(&self) {
        // An error cannot occur: the sender is in `self`.
        drop(self.available().wait_for(|available| !available).await);
    }

    /// Asks the selected server whether it responds. Selects the next one if it does not.
    async fn probe(&self) {
        let failover = &self.0.failover;
        let Some((index, server)) = failover.current_with_index() else {
            return;
        };
        // Any response will do, so a head is enough.
        let call = Call::new("probe the API server".to_owned(), Method::HEAD, "/");
        let probe = async {
            let credentials = &self.0.credentials;
            // Without a token the server responds that it needs one.
            let token = timeout(PROBE_TIMEOUT / 4, credentials.token(&self.0.http, None)).await;
            let token = token.ok().and_then(Result::ok).flatten();
            self.send(server, &call, token.as_ref()).await
        };
        let failed = match timeout(PROBE_TIMEOUT, probe).await {
            Ok(Ok(response)) => response.status.is_server_error(),
            Ok(Err(_)) => true,
            Err(_) => {
                // It was cancelled, and so is not counted yet.
                self.0.metrics.record(&call.method, &call.path, None);
                true
            }
        };
        if failed {
            failover.leave(index);
        }
    }

    /// The selected server, for messages.
    pub(super) fn server(&self) -> String {
        self.0
            .failover
            .current()
            .map_or_else(|| "(none)".to_owned(), Address::to_string)
    }

    /// Executes a call and returns the body of the response. Retries transient failures until the
    /// call's deadline.
    ///
    /// When a server fails, the next one is tried at once; when all have failed there is a delay.
    /// A call that is not idempotent is retried only if no server has received it.
    pub(super) async fn execute(&self, call: &Call) -> Result<Bytes, CallFailure> {
        let deadline = Instant::now() + self.0.call_timeout;
        let attempt = |index: usize, last: Option<CallFailure>| async move {
            let failover = &self.0.failover;
            let server = &failover.servers()[index];
            let maybe_applied_before = last.as_ref().is_some_and(CallFailure::maybe_applied);
            let last = last.map(|failure| failure.error.kind);
            let kind = match self.attempt_before(deadline, last, server, call).await {
                Ok(body) => return Ok(body),
                Err(kind) => kind,
            };
            let is_transient = kind.is_transient();
            if is_transient && let Some(next) = failover.leave(index) {
                log::warn!(server:%, next:%; "switching to another API server: {kind}");
            }
            let may_retry = call.idempotent || !kind.maybe_applied();
            let failure = CallFailure {
                error: VncError::new(&call.operation, server.to_string(), kind),
                maybe_applied_before,
            };
            if is_transient && may_retry {
                log::debug!("{}; retrying", failure.error);
                Err(AttemptError::Retry(failure))
            } else {
                Err(AttemptError::Final(failure))
            }
        };
        let result = self
            .0
            .failover
            .retry_until(deadline, BACKOFF, attempt)
            .await;
        result.map_err(|failure| {
            failure.unwrap_or_else(|| {
                let problem = "no API server is configured".to_owned();
                let kind = VncErrorKind::Unreachable { problem };
                CallFailure {
                    error: VncError::without_server(&call.operation, kind),
                    maybe_applied_before: false,
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
        // The previous failure says more than the timeout.
        let timed_out = || {
            let problem = format!("no response within {:?}", self.0.call_timeout);
            match &last {
                None => problem,
                Some(last) => format!("{problem}; previous failure: {last}"),
            }
        };
        // The semaphore is never closed, so the inner result is never an error.
        let _permit = timeout_at(deadline, self.0.in_flight.acquire())
            .await
            .map_err(|_| VncErrorKind::Unreachable {
                problem: format!("{}: too many concurrent calls", timed_out()),
            })?;
        timeout_at(deadline, self.attempt(server, call))
            .await
            .unwrap_or_else(|_| {
                let problem = timed_out();
                Err(VncErrorKind::Unknown { problem })
            })
    }

    async fn attempt(&self, server: &Address, call: &Call) -> Result<Bytes, VncErrorKind> {
        let credentials = &self.0.credentials;
        let mut token = credentials.token(&self.0.http, None).await?;
        let mut response = self.send(server, call, token.as_ref()).await?;
        // A request with status 401 was not applied, so any call can be repeated.
        if response.status == StatusCode::UNAUTHORIZED && credentials.can_renew() {
            log::debug!(server:% = server; "renewing the token");
            token = credentials.token(&self.0.http, token.as_ref()).await?;
            response = self.send(server, call, token.as_ref()).await?;
        }
        if response.status.is_success() {
            Ok(response.body)
        } else {
            Err(classify(call.kind, &response))
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
                message: format!("{:?} is not a valid path: {error}", call.path),
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
        self.0.metrics.record(
            &call.method,
            &call.path,
            result.as_ref().map(|response| response.status).ok(),
        );
        Ok(result?)
    }
}
