//! What the clients of the managers' API have in common: the choice of a manager, credentials, retries.
//!
//! Invariants: one manager is used until it fails or names another one as the leader; credentials
//! are sent only to listed managers. Calls are idempotent, so every transient failure is retried
//! until the deadline.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::{AGENT_HEADER, Refusal};
use crate::backoff::Backoff;
use crate::config_reader::read_file;
use crate::http::{
    Address, ApiError, AttemptError, Failover, HttpClient, InvalidAddress, Limits, Request,
    Response, Streaming, TlsError, TlsOptions,
};
use crate::text::Escaped;

/// The port of a manager whose address has none.
pub const DEFAULT_PORT: u16 = 6992;

/// Parses the address of a manager: `host` or `host:port`, with or without a scheme.
pub fn manager_address(text: &str) -> Result<Address, InvalidAddress> {
    Address::parse_root(text, DEFAULT_PORT)
}

/// How to reach the managers.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// The managers, the preferred one first.
    pub managers: Vec<Address>,
    /// The name by which the managers know this host, such as that of its virtual-router.
    pub agent: String,
    /// The file with the token that agents and managers share. It is read again after a 401.
    pub token_file: Option<PathBuf>,
    /// TLS options of the managers.
    pub tls: TlsOptions,
    /// Limits of a single attempt.
    pub limits: Limits,
}

/// Why the client cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum ManagerSetupError {
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The token cannot be read.
    #[error("cannot read the token from {}: {problem}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The agent's name cannot be sent in a header.
    #[error("invalid agent name {0:?}: a virtual-router's name is ASCII without spaces")]
    Agent(String),
}

/// A failed call to the managers.
pub type ManagerError = ApiError<ManagerErrorKind>;

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManagerErrorKind {
    /// The manager refuses the request. A retry would be refused too.
    #[error("the manager refuses: {message}")]
    Refused {
        /// The status code.
        status: u16,
        /// The manager's message.
        message: String,
    },
    /// No manager confirmed the request before the deadline. It may have been handled.
    #[error("no manager handled the request within {limit:.1?}: {problem}")]
    Unavailable {
        /// The time that there was, from the call to its deadline.
        limit: Duration,
        /// The last failure at each manager.
        problem: String,
    },
}

impl ManagerErrorKind {
    /// Whether a later attempt may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// How many requests to one manager are sent at once; others wait. Each has a connection, of which a
/// manager admits 256 of one address, and agents may share an address.
pub const MAX_IN_FLIGHT: usize = 32;

const NO_RESPONSE: &str = "no response before the deadline";
const ALL_IN_USE: &str = "other requests of this host were waiting for it until the deadline";

/// What the clients of the managers share: connections, the manager in use, and credentials.
pub(crate) struct Managers {
    http: HttpClient,
    failover: Failover,
    agent: HeaderValue,
    token_file: Option<PathBuf>,
    token: std::sync::Mutex<Option<SecretString>>,
    /// Of each manager: who may send a request. The first to come is the first to send.
    in_flight: Vec<Semaphore>,
}

/// A failed attempt at one manager.
struct Failure {
    manager: String,
    kind: FailureKind,
}

enum FailureKind {
    Transient(String),
    Refused { status: u16, message: String },
}

/// The last problem at each manager, in the order in which they were tried.
#[derive(Default)]
struct LastProblems(std::sync::Mutex<Vec<(String, String)>>);

impl LastProblems {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(String, String)>> {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn knows(&self, manager: &str) -> bool {
        self.lock().iter().any(|(other, _)| other == manager)
    }

    fn record(&self, error: &AttemptError<Failure>) {
        let (AttemptError::Retry(failure)
        | AttemptError::Redirect(_, failure)
        | AttemptError::Final(failure)) = error;
        let FailureKind::Transient(problem) = &failure.kind else {
            return;
        };
        let mut problems = self.lock();
        match problems
            .iter_mut()
            .find(|(manager, _)| *manager == failure.manager)
        {
            Some((_, last)) => last.clone_from(problem),
            None => problems.push((failure.manager.clone(), problem.clone())),
        }
    }

    /// The managers, and what happened at each.
    fn describe(&self) -> (String, String) {
        let problems = self.lock();
        let managers: Vec<_> = problems
            .iter()
            .map(|(manager, _)| manager.as_str())
            .collect();
        let problem = match &problems[..] {
            [(_, problem)] => problem.clone(),
            several => {
                let several = several
                    .iter()
                    .map(|(manager, problem)| format!("{manager}: {problem}"));
                several.collect::<Vec<_>>().join("; ")
            }
        };
        (managers.join(" and "), problem)
    }
}

impl Managers {
    /// Reads the token and certificates: blocks on the file system.
    pub(crate) fn new(options: &ClientOptions) -> Result<Self, ManagerSetupError> {
        let agent = HeaderValue::try_from(&options.agent)
            .ok()
            .filter(|_| !options.agent.is_empty())
            .ok_or_else(|| ManagerSetupError::Agent(options.agent.clone()))?;
        let token = options.token_file.as_deref().map(read_token).transpose()?;
        Ok(Self {
            http: HttpClient::new(options.limits, &options.tls)?,
            failover: Failover::new(options.managers.clone()),
            agent,
            token_file: options.token_file.clone(),
            token: std::sync::Mutex::new(token),
            in_flight: options
                .managers
                .iter()
                .map(|_| Semaphore::new(MAX_IN_FLIGHT))
                .collect(),
        })
    }

    pub(crate) fn failover(&self) -> &Failover {
        &self.failover
    }

    /// The name of this host, encoded for a path or a query.
    pub(crate) fn encoded_agent(&self) -> String {
        let agent = self.agent.to_str().unwrap_or_default();
        form_urlencoded::byte_serialize(agent.as_bytes()).collect()
    }

    /// Sends a JSON document, as [`Self::call`].
    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        operation: String,
        path: String,
        body: &impl Serialize,
        deadline: Instant,
    ) -> Result<T, ManagerError> {
        match serde_json::to_vec(body) {
            Ok(body) => {
                let body = Some(body.into());
                self.call(operation, Method::PUT, path, body, deadline)
                    .await
            }
            Err(error) => {
                let kind = ManagerErrorKind::Unavailable {
                    limit: deadline.saturating_duration_since(Instant::now()),
                    problem: error.to_string(),
                };
                Err(ManagerError::without_server(operation, kind))
            }
        }
    }

    /// Opens a stream at the leader. Tries each manager once, for `limit` in all, also after a
    /// refusal. Returns the index of the manager with the stream.
    pub(crate) async fn open(
        &self,
        operation: String,
        path: &str,
        limit: Duration,
    ) -> Result<(usize, Streaming), ManagerError> {
        let deadline = Instant::now() + limit;
        let last = LastProblems::default();
        let last = &last;
        let attempt = |index: usize, _| async move {
            let attempt = self.request(index, &Method::GET, path, None);
            let result = match timeout_at(deadline, attempt).await {
                Ok(Ok(stream)) => Ok((index, stream)),
                // Another manager may know what this one refuses to follow.
                Ok(Err(AttemptError::Final(failure))) => Err(AttemptError::Retry(failure)),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(AttemptError::Final(Failure {
                    manager: self.failover.servers()[index].to_string(),
                    kind: FailureKind::Transient(NO_RESPONSE.to_owned()),
                })),
            };
            if let Err(error) = &result {
                last.record(error);
            }
            result
        };
        let result = self.failover.try_each(attempt).await;
        result.map_err(|failure| describe(operation, failure, last, limit))
    }

    /// Sends a request and reads the JSON response. Retries until the deadline.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        operation: String,
        method: Method,
        path: String,
        body: Option<Bytes>,
        deadline: Instant,
    ) -> Result<T, ManagerError> {
        let limit = deadline.saturating_duration_since(Instant::now());
        let last = LastProblems::default();
        let (method, path, body, last) = (&method, &path, &body, &last);
        let attempt = |index: usize, before: Option<Failure>| async move {
            // The semaphore is never closed, so the inner result is never an error.
            let permit = timeout_at(deadline, self.in_flight[index].acquire()).await;
            let attempt = async {
                match &permit {
                    Ok(_) => {
                        let attempt = self.attempt(index, method, path, body.clone());
                        timeout_at(deadline, attempt).await.map_err(|_| NO_RESPONSE)
                    }
                    Err(_) => Err(ALL_IN_USE),
                }
            };
            let result = attempt.await.unwrap_or_else(|problem| {
                let manager = self.failover.servers()[index].to_string();
                let kind = FailureKind::Transient(problem.to_owned());
                // What it said before says more than the deadline.
                Err(AttemptError::Final(match before {
                    Some(before) if last.knows(&manager) => before,
                    _ => Failure { manager, kind },
                }))
            });
            if let Err(error) = &result {
                last.record(error);
            }
            result
        };
        let result = self.failover.retry_until(deadline, BACKOFF, attempt);
        result
            .await
            .map_err(|failure| describe(operation, failure, last, limit))
    }

    async fn attempt<T: DeserializeOwned>(
        &self,
        index: usize,
        method: &Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<T, AttemptError<Failure>> {
        let retry = |problem: String| AttemptError::Retry(self.transient(index, problem));
        let response = self.request(index, method, path, body).await?;
        let response = response
            .collect()
            .await
            .map_err(|error| retry(error.to_string()))?;
        serde_json::from_slice(&response.body).map_err(|error| {
            retry(format!(
                "it sent an invalid response: {error}; is it a manager?"
            ))
        })
    }

    fn transient(&self, index: usize, problem: String) -> Failure {
        Failure {
            manager: self.failover.servers()[index].to_string(),
            kind: FailureKind::Transient(problem),
        }
    }

    /// Sends a request. Only a success is a response.
    async fn request(
        &self,
        index: usize,
        method: &Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Streaming, AttemptError<Failure>> {
        let manager = &self.failover.servers()[index];
        let transient = |problem: String| self.transient(index, problem);
        let retry = |problem: String| AttemptError::Retry(transient(problem));
        let request = Request {
            method: method.clone(),
            uri: manager
                .uri(path)
                .map_err(|error| retry(error.to_string()))?,
            headers: self.headers(),
            body,
        };
        let response = self
            .http
            .open(request)
            .await
            .map_err(|error| retry(error.to_string()))?;
        if response.status.is_success() {
            return Ok(response);
        }
        let response = response
            .collect()
            .await
            .map_err(|error| retry(error.to_string()))?;
        let message = error_message(&response);
        Err(match response.status {
            StatusCode::TEMPORARY_REDIRECT => match self.leader(&response) {
                Some(leader) => {
                    let problem = "another manager leads".to_owned();
                    AttemptError::Redirect(leader, transient(problem))
                }
                None => {
                    retry("another manager leads, which is not in the list of managers".to_owned())
                }
            },
            StatusCode::UNAUTHORIZED if self.new_token().await => {
                AttemptError::Redirect(index, transient(message))
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => retry(message),
            status if status.is_client_error() => AttemptError::Final(Failure {
                manager: manager.to_string(),
                kind: FailureKind::Refused {
                    status: status.as_u16(),
                    message,
                },
            }),
            status => retry(format!("{status}: {message}")),
        })
    }

    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = vec![(HeaderName::from_static(AGENT_HEADER), self.agent.clone())];
        let token = self.token().clone();
        let bearer = token.and_then(|token| {
            let mut value =
                HeaderValue::try_from(format!("Bearer {}", token.expose_secret())).ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        headers.extend(bearer.map(|bearer| (AUTHORIZATION, bearer)));
        headers
    }

    fn token(&self) -> std::sync::MutexGuard<'_, Option<SecretString>> {
        // The value is replaced as a whole, so it is valid after a panic.
        self.token
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Reads the token file again. Returns whether the token has changed.
    async fn new_token(&self) -> bool {
        let Some(path) = self.token_file.clone() else {
            return false;
        };
        let read = tokio::task::spawn_blocking(move || read_token(&path)).await;
        let Ok(Ok(new)) = read else {
            return false;
        };
        let mut token = self.token();
        let has_changed = token
            .as_ref()
            .is_none_or(|old| old.expose_secret() != new.expose_secret());
        *token = Some(new);
        has_changed
    }

    /// The index of the listed manager that a response names as the leader.
    fn leader(&self, response: &Response) -> Option<usize> {
        let location = response.headers.get(LOCATION)?.to_str().ok()?;
        let uri: hyper::Uri = location.parse().ok()?;
        let url = format!("{}://{}", uri.scheme()?, uri.authority()?);
        let leader = manager_address(&url).ok()?;
        let managers = self.failover.servers();
        managers.iter().position(|manager| *manager == leader)
    }
}

/// The error of a call, from the failure of its last attempt and the last problem at each manager.
fn describe(
    operation: String,
    failure: Option<Failure>,
    last: &LastProblems,
    limit: Duration,
) -> ManagerError {
    let unavailable = |problem: String| ManagerErrorKind::Unavailable { limit, problem };
    match failure {
        None => {
            let kind = unavailable("no manager is configured".to_owned());
            ManagerError::without_server(operation, kind)
        }
        Some(Failure { manager, kind }) => match kind {
            FailureKind::Transient(_) => {
                let (managers, problem) = last.describe();
                ManagerError::new(operation, managers, unavailable(problem))
            }
            FailureKind::Refused { status, message } => {
                let kind = ManagerErrorKind::Refused { status, message };
                ManagerError::new(operation, manager, kind)
            }
        },
    }
}

/// The delays after each round over all managers.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));

fn error_message(response: &Response) -> String {
    serde_json::from_slice(&response.body).map_or_else(
        |_| response.text(),
        |refusal: Refusal| Escaped(&refusal.error).to_string(),
    )
}

/// Reads the token that agents and managers share. Blocks.
pub fn read_token(path: &Path) -> Result<SecretString, ManagerSetupError> {
    let failed = |problem: String| ManagerSetupError::Token {
        path: path.to_owned(),
        problem,
    };
    let text = read_file(path).map_err(failed)?;
    let token = text.trim();
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if is_token {
        Ok(token.to_owned().into())
    } else {
        Err(failed(
            "it must contain one word of printable ASCII and nothing else".to_owned(),
        ))
    }
}
