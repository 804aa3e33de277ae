//! One question to the agent.

use std::net::Ipv6Addr;
use std::time::Duration;

use hyper::{Method, StatusCode, Uri};
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::answer::{self, InterfaceConfig, Plugged};
use super::error::{VrouterError, VrouterErrorKind};
use super::port::Port;
use super::wait::BACKOFF;
use contrail_mesos_api::http::{HttpClient, Limits, Request, Response, TlsError, TlsOptions};

/// How to reach the agent of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VrouterOptions {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Limits of a single question.
    pub limits: Limits,
}

impl Default for VrouterOptions {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 9091,
            limits: Limits {
                connect_timeout: Duration::from_secs(1),
                request_timeout: Duration::from_secs(5),
                max_body_bytes: 4 << 20,
            },
        }
    }
}

/// The client. Clones share their connections.
#[derive(Clone, Debug)]
pub struct VrouterClient {
    http: HttpClient,
    /// `host:port`
    agent: String,
}

impl VrouterClient {
    /// A client; nothing is asked yet.
    pub fn new(options: &VrouterOptions) -> Result<Self, TlsError> {
        let host = match options.host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => options.host.clone(),
        };
        Ok(Self {
            // The agent talks no TLS.
            http: HttpClient::new(options.limits, &TlsOptions::default())?,
            agent: format!("{host}:{}", options.port),
        })
    }

    /// Tells the agent the name of an interface. Asks again until the deadline while there is no
    /// answer: the agent takes the same port twice.
    pub async fn register(&self, port: &Port, deadline: Instant) -> Result<(), VrouterError> {
        let what = format!("register the interface {}", port.host_ifname);
        let body = match serde_json::to_value(port) {
            Ok(body) => body,
            Err(error) => {
                let problem = error.to_string();
                return Err(self.error(&what, VrouterErrorKind::InvalidResponse { problem }));
            }
        };
        let ask = || self.ask(&what, Method::POST, "/vm", Some(&body));
        self.insist(&what, deadline, ask).await
    }

    /// Tells the agent to forget a container, and to delete its port files. Does nothing where it
    /// does not know the container, or no longer has its configuration: delete that afterwards.
    pub async fn unregister(&self, machine: Uuid, deadline: Instant) -> Result<(), VrouterError> {
        let what = format!("unregister the container {machine}");
        let path = format!("/vm/{machine}");
        let ask = || self.ask(&what, Method::DELETE, &path, None);
        self.insist(&what, deadline, ask).await
    }

    /// Tells the agent that every live port has been registered anew, so that it drops the
    /// others after a while: after a restart of ours.
    pub async fn sync(&self, deadline: Instant) -> Result<(), VrouterError> {
        let what = "start the sweep of old ports";
        let body = json!({});
        let ask = || self.ask(what, Method::POST, "/syncports", Some(&body));
        self.insist(what, deadline, ask).await
    }

    /// The interfaces that the agent has been given for a container; `None` where it does not
    /// know the container, or an interface's network. More may come.
    pub async fn configuration(
        &self,
        machine: Uuid,
    ) -> Result<Option<Vec<InterfaceConfig>>, VrouterError> {
        let what = format!("read the configuration of {machine}");
        self.read(&what, &format!("/vm-cfg/{machine}"), answer::configurations)
            .await
    }

    /// The interfaces of a container with their addresses; `None` until all have one.
    pub async fn addresses(&self, machine: Uuid) -> Result<Option<Vec<Plugged>>, VrouterError> {
        let what = format!("read the addresses of {machine}");
        self.read(&what, &format!("/vm/{machine}"), answer::plugged)
            .await
    }

    /// The agent's address, for messages.
    #[must_use]
    pub fn agent(&self) -> &str {
        &self.agent
    }

    async fn read<T>(
        &self,
        what: &str,
        path: &str,
        decode: fn(&[u8]) -> Result<Vec<T>, String>,
    ) -> Result<Option<Vec<T>>, VrouterError> {
        let response = self.ask(what, Method::GET, path, None).await?;
        // A service without such a path is no agent, or one of another time.
        let unknown = response.text().contains("Unknown Request");
        if response.status == StatusCode::NOT_FOUND && !unknown {
            return Ok(None);
        }
        self.accept(what, &response)?;
        let items = decode(&response.body)
            .map_err(|problem| self.error(what, VrouterErrorKind::InvalidResponse { problem }))?;
        Ok((!items.is_empty()).then_some(items))
    }

    /// Asks until there is an answer.
    async fn insist<F>(
        &self,
        what: &str,
        deadline: Instant,
        ask: impl Fn() -> F,
    ) -> Result<(), VrouterError>
    where
        F: Future<Output = Result<Response, VrouterError>>,
    {
        let mut delays = BACKOFF.delays();
        let mut last = self.error(
            what,
            VrouterErrorKind::Unanswered {
                problem: "no time is left".to_owned(),
            },
        );
        loop {
            match timeout_at(deadline, ask()).await {
                Ok(Ok(response)) => return self.accept(what, &response),
                Ok(Err(error)) if error.kind.is_transient() => last = error,
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(last),
            }
            if !delays.sleep_before(deadline).await {
                return Err(last);
            }
        }
    }

    fn accept(&self, what: &str, response: &Response) -> Result<(), VrouterError> {
        if response.status.is_success() {
            return Ok(());
        }
        // `{"error":"{ text }"}`, or whatever else it answers.
        let message = serde_json::from_slice(&response.body)
            .ok()
            .and_then(|body: serde_json::Value| body["error"].as_str().map(str::to_owned))
            .unwrap_or_else(|| response.text());
        let kind = VrouterErrorKind::Refused {
            status: response.status.as_u16(),
            message: message.trim_matches(['{', '}', ' ']).to_owned(),
        };
        Err(self.error(what, kind))
    }

    async fn ask(
        &self,
        what: &str,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Response, VrouterError> {
        let uri = Uri::builder()
            .scheme("http")
            .authority(self.agent.as_str())
            .path_and_query(path)
            .build()
            .map_err(|error| {
                let problem = format!("{:?} is no address: {error}", self.agent);
                self.error(what, VrouterErrorKind::InvalidResponse { problem })
            })?;
        let request = Request {
            method,
            uri,
            headers: vec![],
            body: body.map(|body| body.to_string().into()),
        };
        let result = self.http.send(request).await;
        result.map_err(|error| self.error(what, error.into()))
    }

    pub(super) fn error(&self, what: &str, kind: VrouterErrorKind) -> VrouterError {
        let server = format!("the vRouter agent at {}", self.agent);
        VrouterError::new(what, server, kind)
    }
}
