//! Single calls to the agent.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use hyper::{Method, StatusCode, Uri};
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::answer::{self, InterfaceConfig, InterfaceStatus};
use super::error::{VrouterError, VrouterErrorKind};
use super::port::Port;
use super::wait::BACKOFF;
use contrail_mesos_api::http::{HttpClient, Limits, Request, Response, TlsError, TlsOptions};
use contrail_mesos_api::text::excerpt;

/// How to reach the agent of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VrouterOptions {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Limits of a single call.
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
    /// A client without connections.
    pub fn new(options: &VrouterOptions) -> Result<Self, TlsError> {
        let host = match options.host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => options.host.clone(),
        };
        Ok(Self {
            // The agent does not support TLS.
            http: HttpClient::new(options.limits, &TlsOptions::default())?,
            agent: format!("{host}:{}", options.port),
        })
    }

    /// Registers an interface at the agent. Retries until the deadline while there is no response:
    /// registering the same port again is harmless.
    pub async fn register(&self, port: &Port, deadline: Instant) -> Result<(), VrouterError> {
        let operation = format!("register the interface {}", port.host_ifname);
        let body = match serde_json::to_value(port) {
            Ok(body) => body,
            Err(error) => {
                let problem = error.to_string();
                return Err(self.error(&operation, VrouterErrorKind::InvalidResponse { problem }));
            }
        };
        let call = || self.call(&operation, Method::POST, "/vm", Some(&body));
        self.retry_until(&operation, deadline, call).await
    }

    /// Removes a container's ports and port files from the agent. The agent does nothing if it does
    /// not know the container or has lost its configuration, so delete the API objects afterwards.
    pub async fn unregister(&self, machine: Uuid, deadline: Instant) -> Result<(), VrouterError> {
        let operation = format!("unregister the container {machine}");
        let path = format!("/vm/{machine}");
        let call = || self.call(&operation, Method::DELETE, &path, None);
        self.retry_until(&operation, deadline, call).await
    }

    /// Reports that every live port is registered again after a restart. The agent removes all
    /// other ports after a while.
    pub async fn sync(&self, deadline: Instant) -> Result<(), VrouterError> {
        let operation = "start the sweep of old ports";
        let body = json!({});
        let call = || self.call(operation, Method::POST, "/syncports", Some(&body));
        self.retry_until(operation, deadline, call).await
    }

    /// The configuration of a container's interfaces; `None` if the agent does not know the
    /// container or an interface's network. Further interfaces may follow.
    pub async fn configuration(
        &self,
        machine: Uuid,
    ) -> Result<Option<Vec<InterfaceConfig>>, VrouterError> {
        let operation = format!("read the configuration of {machine}");
        self.read(
            &operation,
            &format!("/vm-cfg/{machine}"),
            answer::configurations,
        )
        .await
    }

    /// The state of a container's registered interfaces; `None` until each has an address.
    pub async fn addresses(
        &self,
        machine: Uuid,
    ) -> Result<Option<Vec<InterfaceStatus>>, VrouterError> {
        let operation = format!("read the addresses of {machine}");
        self.read(&operation, &format!("/vm/{machine}"), answer::statuses)
            .await
    }

    /// The addresses that the agent forwards for a container: one of each family of each interface.
    pub async fn forwarded(&self, machine: Uuid) -> Result<Vec<IpAddr>, VrouterError> {
        let interfaces = self.addresses(machine).await?.unwrap_or_default();
        let addresses = interfaces
            .iter()
            .flat_map(|interface| interface.v4.into_iter().chain(interface.v6));
        Ok(addresses.map(|address| address.address).collect())
    }

    /// The agent's address, for messages.
    #[must_use]
    pub fn agent(&self) -> &str {
        &self.agent
    }

    async fn read<T>(
        &self,
        operation: &str,
        path: &str,
        decode: fn(&[u8]) -> Result<Vec<T>, String>,
    ) -> Result<Option<Vec<T>>, VrouterError> {
        let response = self.call(operation, Method::GET, path, None).await?;
        // A service without this path is not an agent, or one of another release.
        let unknown = response.text().contains("Unknown Request");
        if response.status == StatusCode::NOT_FOUND && !unknown {
            return Ok(None);
        }
        self.accept(operation, &response)?;
        let items = decode(&response.body).map_err(|problem| {
            self.error(operation, VrouterErrorKind::InvalidResponse { problem })
        })?;
        Ok((!items.is_empty()).then_some(items))
    }

    /// Repeats a call until there is a response.
    async fn retry_until<F>(
        &self,
        operation: &str,
        deadline: Instant,
        call: impl Fn() -> F,
    ) -> Result<(), VrouterError>
    where
        F: Future<Output = Result<Response, VrouterError>>,
    {
        let mut delays = BACKOFF.delays();
        let mut last = self.error(
            operation,
            VrouterErrorKind::Unanswered {
                problem: "the deadline has passed".to_owned(),
            },
        );
        loop {
            match timeout_at(deadline, call()).await {
                Ok(Ok(response)) => return self.accept(operation, &response),
                Ok(Err(error)) if error.kind.is_transient() => last = error,
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(last),
            }
            if !delays.sleep_before(deadline).await {
                return Err(last);
            }
        }
    }

    fn accept(&self, operation: &str, response: &Response) -> Result<(), VrouterError> {
        if response.status.is_success() {
            return Ok(());
        }
        // Usually `{"error":"{ message }"}`.
        let message = serde_json::from_slice(&response.body)
            .ok()
            .and_then(|body: serde_json::Value| Some(excerpt(body["error"].as_str()?.as_bytes())))
            .unwrap_or_else(|| response.text());
        let kind = VrouterErrorKind::Refused {
            status: response.status.as_u16(),
            message: message.trim_matches(['{', '}', ' ']).to_owned(),
        };
        Err(self.error(operation, kind))
    }

    async fn call(
        &self,
        operation: &str,
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
                let problem = format!("{:?} is not an address: {error}", self.agent);
                self.error(operation, VrouterErrorKind::InvalidResponse { problem })
            })?;
        let request = Request {
            method,
            uri,
            headers: vec![],
            body: body.map(|body| body.to_string().into()),
        };
        let result = self.http.send(request).await;
        result.map_err(|error| self.error(operation, error.into()))
    }

    pub(super) fn error(&self, operation: &str, kind: VrouterErrorKind) -> VrouterError {
        let server = format!("the vRouter agent at {}", self.agent);
        VrouterError::new(operation, server, kind)
    }
}
