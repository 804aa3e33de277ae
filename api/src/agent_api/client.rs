//! The client of the manager's agent API.
//!
//! Invariants: one manager is used until it fails or names another one as the leader; credentials
//! are sent only to listed managers. Calls are idempotent, so every transient failure is retried
//! until the deadline.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::{AGENT_HEADER, Ports, PortsList, PortsRequest, Refusal};
use crate::backoff::Backoff;
use crate::config_reader::read_file;
use crate::http::{
    Address, ApiError, AttemptError, Failover, HttpClient, InvalidAddress, Limits, Request,
    Response, TlsError, TlsOptions,
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
pub struct PortsOptions {
    /// The managers, the preferred one first.
    pub managers: Vec<Address>,
    /// The agent's name: that of this host's virtual-router.
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
pub enum PortsSetupError {
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
pub type PortsError = ApiError<PortsErrorKind>;

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortsErrorKind {
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

impl PortsErrorKind {
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

/// The client. Clones share connections and the manager in use.
#[derive(Clone)]
pub struct PortsClient(Arc<Shared>);

struct Shared {
    http: HttpClient,
    failover: Failover,
    agent: HeaderValue,
    token_file: Option<PathBuf>,
    token: std::sync::Mutex<Option<SecretString>>,
    /// Of each manager: who may send a request. The first to come is the first to send.
    in_flight: Vec<Semaphore>,
}

impl fmt::Debug for PortsClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PortsClient")
            .field("managers", &self.0.failover.servers())
            .finish_non_exhaustive()
    }
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

impl PortsClient {
    /// A client of these managers. Reads the token and certificates: blocks on the file system.
    pub fn new(options: &PortsOptions) -> Result<Self, PortsSetupError> {
        let agent = HeaderValue::try_from(&options.agent)
            .ok()
            .filter(|_| !options.agent.is_empty())
            .ok_or_else(|| PortsSetupError::Agent(options.agent.clone()))?;
        let token = options.token_file.as_deref().map(read_token).transpose()?;
        Ok(Self(Arc::new(Shared {
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
        })))
    }

    /// Creates or completes the container's ports. The objects exist once this returns.
    pub async fn put(
        &self,
        machine: Uuid,
        request: &PortsRequest,
        deadline: Instant,
    ) -> Result<Ports, PortsError> {
        let operation = format!("create the ports of container {machine}");
        let body = match serde_json::to_vec(request) {
            Ok(body) => body,
            Err(error) => {
                let kind = PortsErrorKind::Unavailable {
                    limit: deadline.saturating_duration_since(Instant::now()),
                    problem: error.to_string(),
                };
                return Err(PortsError::without_server(operation, kind));
            }
        };
        let path = format!("/v1/ports/{machine}");
        self.call(operation, Method::PUT, path, Some(body.into()), deadline)
            .await
    }

    /// Deletes the container's ports. No object is left once this returns.
    pub async fn delete(&self, machine: Uuid, deadline: Instant) -> Result<(), PortsError> {
        let operation = format!("delete the ports of container {machine}");
        let path = format!("/v1/ports/{machine}");
        self.call(operation, Method::DELETE, path, None, deadline)
            .await
            .map(|_: serde_json::Value| ())
    }

    /// Lists the complete containers of this agent.
    pub async fn list(&self, deadline: Instant) -> Result<PortsList, PortsError> {
        let agent = self.0.agent.to_str().unwrap_or_default();
        let agent: String = form_urlencoded::byte_serialize(agent.as_bytes()).collect();
        let path = format!("/v1/ports?agent={agent}");
        let operation = "list the ports of this host".to_owned();
        self.call(operation, Method::GET, path, None, deadline)
            .await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        operation: String,
        method: Method,
        path: String,
        body: Option<Bytes>,
        deadline: Instant,
    ) -> Result<T, PortsError> {
        let limit = deadline.saturating_duration_since(Instant::now());
        let last = LastProblems::default();
        let (method, path, body, last) = (&method, &path, &body, &last);
        let attempt = |index: usize, before: Option<Failure>| async move {
            // The semaphore is never closed, so the inner result is never an error.
            let permit = timeout_at(deadline, self.0.in_flight[index].acquire()).await;
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
                let manager = self.0.failover.servers()[index].to_string();
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
        let result = self.0.failover.retry_until(deadline, BACKOFF, attempt);
        let unavailable = |problem: String| PortsErrorKind::Unavailable { limit, problem };
        result.await.map_err(|failure| match failure {
            None => {
                let kind = unavailable("no manager is configured".to_owned());
                PortsError::without_server(operation, kind)
            }
            Some(Failure { manager, kind }) => match kind {
                FailureKind::Transient(_) => {
                    let (managers, problem) = last.describe();
                    PortsError::new(operation, managers, unavailable(problem))
                }
                FailureKind::Refused { status, message } => {
                    let kind = PortsErrorKind::Refused { status, message };
                    PortsError::new(operation, manager, kind)
                }
            },
        })
    }

    async fn attempt<T: DeserializeOwned>(
        &self,
        index: usize,
        method: &Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<T, AttemptError<Failure>> {
        let manager = &self.0.failover.servers()[index];
        let failure = |kind| Failure {
            manager: manager.to_string(),
            kind,
        };
        let transient = |problem: String| failure(FailureKind::Transient(problem));
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
            .0
            .http
            .send(request)
            .await
            .map_err(|error| retry(error.to_string()))?;
        let message = error_message(&response);
        match response.status {
            status if status.is_success() => {
                serde_json::from_slice(&response.body).map_err(|error| {
                    retry(format!(
                        "it sent an invalid response: {error}; is it a manager?"
                    ))
                })
            }
            StatusCode::TEMPORARY_REDIRECT => Err(match self.leader(&response) {
                Some(leader) => {
                    let problem = "another manager leads".to_owned();
                    AttemptError::Redirect(leader, transient(problem))
                }
                None => {
                    retry("another manager leads, which is not in the list of managers".to_owned())
                }
            }),
            StatusCode::UNAUTHORIZED if self.new_token().await => {
                Err(AttemptError::Redirect(index, transient(message)))
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Err(retry(message)),
            status if status.is_client_error() => {
                Err(AttemptError::Final(failure(FailureKind::Refused {
                    status: status.as_u16(),
                    message,
                })))
            }
            status => Err(retry(format!("{status}: {message}"))),
        }
    }

    fn headers(&self) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = vec![(HeaderName::from_static(AGENT_HEADER), self.0.agent.clone())];
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
        self.0
            .token
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Reads the token file again. Returns whether the token has changed.
    async fn new_token(&self) -> bool {
        let Some(path) = self.0.token_file.clone() else {
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
        let managers = self.0.failover.servers();
        managers.iter().position(|manager| *manager == leader)
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
pub fn read_token(path: &Path) -> Result<SecretString, PortsSetupError> {
    let failed = |problem: String| PortsSetupError::Token {
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
