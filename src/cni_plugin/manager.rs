//! Whoever makes the objects: told of a container's beginning and end.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use hyper::{Method, Uri};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};

use super::Call;
use super::config::{Managed, Ours};
use super::failure::{Code, Failure};
use crate::config::ContrailNetwork;
use crate::network_request;
use crate::provider::contrail::port_address_requests;
use contrail_mesos_api::agent_api::{PortRequest, Ports, PortsClient, PortsOptions, PortsRequest};
use contrail_mesos_api::http::{HttpClient, Limits, Request, TlsOptions};

impl Call {
    /// Has the container's objects made. `None` where nobody says what was made.
    pub(super) async fn tell_add(&self, deadline: Instant) -> Result<Option<Ports>, Failure> {
        match &self.settings.manager {
            Managed::Elsewhere => Ok(None),
            Managed::Legacy { server } => {
                self.post(server, "ADD", "/add_cni_info", deadline).await?;
                Ok(None)
            }
            Managed::Ours(ours) => {
                let request = self.ports(ours)?;
                let client = client(ours, self.settings.deadline)?;
                let made = client.put(self.machine, &request, deadline).await;
                made.map(Some).map_err(|error| {
                    let code = if error.kind.is_transient() {
                        Code::Again
                    } else {
                        Code::Other
                    };
                    Failure::new(code, error.to_string())
                })
            }
        }
    }

    /// Has them removed. Safe to repeat.
    pub(super) async fn tell_del(&self, deadline: Instant) -> Result<(), Failure> {
        match &self.settings.manager {
            Managed::Elsewhere => Ok(()),
            Managed::Legacy { server } => self.post(server, "DEL", "/del_cni_info", deadline).await,
            Managed::Ours(ours) => {
                let client = client(ours, self.settings.deadline)?;
                let removed = client.delete(self.machine, deadline).await;
                removed.map_err(|error| Failure::new(Code::Again, error.to_string()))
            }
        }
    }

    fn ports(&self, ours: &Ours) -> Result<PortsRequest, Failure> {
        let network = ContrailNetwork {
            virtual_network: ours.virtual_network.clone(),
            mtu: self.settings.mtu,
        };
        let requests =
            network_request::parse_contrail(&self.container, &self.settings.network_info, network)
                .map_err(|problems| Failure::new(Code::Config, problems.to_string()))?;
        let ports = requests.into_iter().map(|request| PortRequest {
            addresses: port_address_requests(&request.addresses),
            interface: request.interface,
            network: request.network.name,
            virtual_network: ours.virtual_network.clone(),
            labels: request.labels,
        });
        Ok(PortsRequest {
            container: self.container.clone(),
            virtual_router_address: ours.virtual_router_address,
            annotations: std::collections::BTreeMap::new(),
            ports: ports.collect(),
        })
    }

    /// Tells Contrail's own mesos-manager. It takes the same thing twice.
    async fn post(
        &self,
        server: &str,
        command: &str,
        path: &str,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let failed = |code: Code, problem: String| {
            let message = format!("cannot tell the manager at {server}: {problem}");
            Failure::new(code, message)
        };
        let uri = Uri::builder()
            .scheme("http")
            .authority(server)
            .path_and_query(path)
            .build()
            .map_err(|error| failed(Code::Config, error.to_string()))?;
        let limits = Limits {
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(10),
            max_body_bytes: 8 << 20,
        };
        let http = HttpClient::new(limits, &TlsOptions::default())
            .map_err(|error| failed(Code::Config, error.to_string()))?;
        let body = json!({ "cid": self.id, "cmd": command, "args": self.input }).to_string();
        let mut pauses = pauses().build();
        let mut last = "there was no time".to_owned();
        loop {
            let request = Request {
                method: Method::POST,
                uri: uri.clone(),
                headers: vec![],
                body: Some(body.clone().into()),
            };
            match timeout_at(deadline, http.send(request)).await {
                Err(_) => return Err(failed(Code::Again, last)),
                Ok(Ok(response)) if response.status.is_success() => return Ok(()),
                Ok(Ok(response)) if response.status.is_client_error() => {
                    let said = format!("it refuses with {}: {}", response.status, response.text());
                    return Err(failed(Code::Other, said));
                }
                Ok(Ok(response)) => {
                    last = format!("it answers {}: {}", response.status, response.text());
                }
                Ok(Err(error)) => last = error.to_string(),
            }
            let pause = pauses.next().unwrap_or_default();
            if Instant::now() + pause >= deadline {
                return Err(failed(Code::Again, last));
            }
            sleep(pause).await;
        }
    }
}

fn client(ours: &Ours, deadline: Duration) -> Result<PortsClient, Failure> {
    PortsClient::new(&PortsOptions {
        managers: ours.managers.clone(),
        agent: ours.agent.clone(),
        token_file: ours.token_file.clone(),
        tls: ours.tls.clone(),
        limits: Limits {
            connect_timeout: deadline / 8,
            request_timeout: deadline,
            max_body_bytes: 4 << 20,
        },
    })
    .map_err(|error| Failure::new(Code::Config, error.to_string()))
}

fn pauses() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_factor(2.0)
        .with_max_delay(Duration::from_secs(1))
        .with_jitter()
        .without_max_times()
}
