//! The client of the manager's agent API.
//!
//! Invariants: one manager is used until it fails or says that another one leads; credentials go
//! to managers of the list only; what is asked twice has the effect of once, so that everything
//! that may pass is asked again until the deadline.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue, LOCATION};
use hyper::{Method, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use super::{AGENT_HEADER, Ports, PortsList, PortsRequest, Refusal};
use crate::http::{
    Address, HttpClient, InvalidAddress, Limits, Request, Response, TlsError, TlsOptions,
};

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
    /// Who we are: the name of this host's virtual-router.
    pub agent: String,
    /// The file with the token that agents and managers share, read again when it is refused.
    pub token_file: Option<PathBuf>,
    /// TLS of the managers.
    pub tls: TlsOptions,
    /// Limits of a single attempt.
    pub limits: Limits,
}

/// Why the client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PortsSetupError {
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The token.
    #[error("cannot read the token from {}: {problem}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The agent's name does not fit into a header.
    #[error("{0:?} cannot be an agent's name: a virtual-router's name is ASCII without spaces")]
    Agent(String),
}

/// A question that was not answered as it should have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {what}: {kind}")]
pub struct PortsError {
    /// What was to be done.
    pub what: String,
    /// What went wrong.
    #[source]
    pub kind: PortsErrorKind,
}

/// What went wrong with one question.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortsErrorKind {
    /// The manager will not, and would not if it were asked again.
    #[error("the manager {manager} refuses: {said}")]
    Refused {
        /// Which manager.
        manager: String,
        /// The status code.
        status: u16,
        /// What it said.
        said: String,
    },
    /// No manager did it until the deadline; it may have been done all the same.
    #[error("no manager did it within {after:.1?}: {problem}")]
    Unavailable {
        /// How long they were asked.
        after: Duration,
        /// What the last one said, or why it did not.
        problem: String,
    },
}

impl PortsErrorKind {
    /// Whether it may do better when asked again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// The client. Clones share connections and the manager in use.
#[derive(Clone)]
pub struct PortsClient(Arc<Inner>);

struct Inner {
    http: HttpClient,
    managers: Vec<Address>,
    /// The index of the manager in use.
    current: AtomicUsize,
    agent: HeaderValue,
    token_file: Option<PathBuf>,
    token: std::sync::Mutex<Option<SecretString>>,
}

impl fmt::Debug for PortsClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PortsClient")
            .field("managers", &self.0.managers)
            .finish_non_exhaustive()
    }
}

/// How one attempt ended that was no success.
enum Attempt {
    /// Ask again, the manager of that index or the next one.
    Again(Option<usize>, String),
    /// Ask no more.
    Refused(PortsErrorKind),
}

impl PortsClient {
    /// A client of these managers. Reads the token and certificates: blocks on the file system.
    pub fn new(options: &PortsOptions) -> Result<Self, PortsSetupError> {
        let agent = HeaderValue::try_from(&options.agent)
            .ok()
            .filter(|_| !options.agent.is_empty())
            .ok_or_else(|| PortsSetupError::Agent(options.agent.clone()))?;
        let token = options.token_file.as_ref().map(read_token).transpose()?;
        Ok(Self(Arc::new(Inner {
            http: HttpClient::new(options.limits, &options.tls)?,
            managers: options.managers.clone(),
            current: AtomicUsize::new(0),
            agent,
            token_file: options.token_file.clone(),
            token: std::sync::Mutex::new(token),
        })))
    }

    /// Has the container's ports made, or completed. The objects exist when it answers.
    pub async fn put(
        &self,
        machine: Uuid,
        request: &PortsRequest,
        deadline: Instant,
    ) -> Result<Ports, PortsError> {
        let what = format!("have the ports of container {machine} made");
        let body = match serde_json::to_vec(request) {
            Ok(body) => body,
            Err(error) => {
                let problem = error.to_string();
                let after = Duration::ZERO;
                let kind = PortsErrorKind::Unavailable { after, problem };
                return Err(PortsError { what, kind });
            }
        };
        let path = format!("/v1/ports/{machine}");
        self.ask(what, Method::PUT, path, Some(body), deadline)
            .await
    }

    /// Has the container's ports removed. Nothing is left of them when it answers.
    pub async fn delete(&self, machine: Uuid, deadline: Instant) -> Result<(), PortsError> {
        let what = format!("have the ports of container {machine} removed");
        let path = format!("/v1/ports/{machine}");
        self.ask(what, Method::DELETE, path, None, deadline)
            .await
            .map(|_: serde_json::Value| ())
    }

    /// The containers that the manager has for this agent.
    pub async fn list(&self, deadline: Instant) -> Result<PortsList, PortsError> {
        let agent = self.0.agent.to_str().unwrap_or_default();
        let agent: String = form_urlencoded::byte_serialize(agent.as_bytes()).collect();
        let path = format!("/v1/ports?agent={agent}");
        let what = "list the ports of this host".to_owned();
        self.ask(what, Method::GET, path, None, deadline).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        what: String,
        method: Method,
        path: String,
        body: Option<Vec<u8>>,
        deadline: Instant,
    ) -> Result<T, PortsError> {
        let started = Instant::now();
        let mut pauses = pauses().build();
        let mut last = "there was no time".to_owned();
        // A round asks every manager once; then there is a pause.
        let mut asked = 0;
        loop {
            let attempt = self.attempt(&method, &path, body.as_ref());
            match timeout_at(deadline, attempt).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(Attempt::Refused(kind))) => return Err(PortsError { what, kind }),
                Ok(Err(Attempt::Again(next, problem))) => {
                    last = problem;
                    self.turn_to(next);
                }
                Err(_) => break,
            }
            asked += 1;
            if asked % self.0.managers.len().max(1) == 0 {
                let pause = pauses.next().unwrap_or_default();
                if Instant::now() + pause >= deadline {
                    break;
                }
                sleep(pause).await;
            }
        }
        let kind = PortsErrorKind::Unavailable {
            after: started.elapsed(),
            problem: last,
        };
        Err(PortsError { what, kind })
    }

    fn turn_to(&self, next: Option<usize>) {
        let count = self.0.managers.len().max(1);
        let current = self.0.current.load(Ordering::Relaxed);
        let next = next.unwrap_or(current + 1) % count;
        self.0.current.store(next, Ordering::Relaxed);
    }

    async fn attempt<T: DeserializeOwned>(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Vec<u8>>,
    ) -> Result<T, Attempt> {
        let index = self.0.current.load(Ordering::Relaxed);
        let Some(manager) = self.0.managers.get(index) else {
            let problem = "no manager is configured".to_owned();
            return Err(Attempt::Again(None, problem));
        };
        let again = |problem: String| Attempt::Again(None, format!("{manager}: {problem}"));
        let request = Request {
            method: method.clone(),
            uri: manager
                .uri(path)
                .map_err(|error| again(error.to_string()))?,
            headers: self.headers(),
            body: body.map(|body| body.clone().into()),
        };
        let response = self.0.http.send(request).await;
        let response = response.map_err(|error| again(error.to_string()))?;
        let said = said(&response);
        match response.status {
            status if status.is_success() => serde_json::from_slice(&response.body)
                .map_err(|error| again(format!("answers nonsense: {error}; is it a manager?"))),
            StatusCode::TEMPORARY_REDIRECT => {
                let leader = self.leader(&response);
                let problem = match leader {
                    Some(_) => "another manager leads",
                    None => "another manager leads, which is not in our list of managers",
                };
                Err(Attempt::Again(leader, format!("{manager}: {problem}")))
            }
            StatusCode::UNAUTHORIZED if self.new_token().await => {
                Err(Attempt::Again(Some(index), said))
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Err(again(said)),
            status if status.is_client_error() => Err(Attempt::Refused(PortsErrorKind::Refused {
                manager: manager.to_string(),
                status: status.as_u16(),
                said,
            })),
            status => Err(again(format!("{status}: {said}"))),
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
        // It is replaced as a whole.
        self.0
            .token
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Whether the token's file has another one by now.
    async fn new_token(&self) -> bool {
        let Some(path) = self.0.token_file.clone() else {
            return false;
        };
        let read = tokio::task::spawn_blocking(move || read_token(&path)).await;
        let Ok(Ok(new)) = read else {
            return false;
        };
        let mut token = self.token();
        let is_other = token
            .as_ref()
            .is_none_or(|old| old.expose_secret() != new.expose_secret());
        *token = Some(new);
        is_other
    }

    /// The manager of our list that an answer names as the leader.
    fn leader(&self, response: &Response) -> Option<usize> {
        let location = response.headers.get(LOCATION)?.to_str().ok()?;
        let uri: hyper::Uri = location.parse().ok()?;
        let named = format!("{}://{}", uri.scheme()?, uri.authority()?);
        let named = manager_address(&named).ok()?;
        self.0.managers.iter().position(|manager| *manager == named)
    }
}

/// The pauses between two rounds over all managers.
fn pauses() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_factor(2.0)
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        .without_max_times()
}

fn said(response: &Response) -> String {
    serde_json::from_slice(&response.body)
        .map_or_else(|_| response.text(), |refusal: Refusal| refusal.error)
}

fn read_token(path: &PathBuf) -> Result<SecretString, PortsSetupError> {
    let failed = |problem: String| PortsSetupError::Token {
        path: path.clone(),
        problem,
    };
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let token = text.trim();
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if is_token {
        Ok(token.to_owned().into())
    } else {
        Err(failed(
            "it must hold one word of printable ASCII and nothing else".to_owned(),
        ))
    }
}
