//! Has the container's objects created and deleted.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::{Method, Uri};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::Invocation;
use super::config::{ManagerOptions, ObjectManager};
use super::error::{CniError, ErrorCode};
use crate::config::ContrailNetwork;
use crate::network_request;
use crate::provider::contrail::port_address_requests;
use contrail_mesos_api::agent_api::{ClientOptions, PortRequest, Ports, PortsClient, PortsRequest};
use contrail_mesos_api::backoff::Backoff;
use contrail_mesos_api::http::{HttpClient, Limits, Request, TlsOptions};

/// The delays between attempts to reach the manager.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));

impl Invocation {
    /// Has the container's objects created. `None` if the manager does not report them.
    pub(super) async fn create_objects(
        &self,
        deadline: Instant,
    ) -> Result<Option<Ports>, CniError> {
        match &self.settings.manager {
            ObjectManager::External => Ok(None),
            ObjectManager::Legacy { server } => {
                self.post_legacy(server, "ADD", "/add_cni_info", deadline)
                    .await?;
                Ok(None)
            }
            ObjectManager::ContrailMesos(options) => {
                let request = self.ports_request(options)?;
                let client = client(options, self.settings.deadline)?;
                client
                    .put(self.vm_uuid, &request, deadline)
                    .await
                    .map(Some)
                    .map_err(|error| {
                        let code = if error.kind.is_transient() {
                            ErrorCode::TryAgain
                        } else {
                            ErrorCode::Other
                        };
                        CniError::new(code, error.to_string())
                    })
            }
        }
    }

    /// Has the container's objects deleted. Idempotent.
    pub(super) async fn delete_objects(&self, deadline: Instant) -> Result<(), CniError> {
        match &self.settings.manager {
            ObjectManager::External => Ok(()),
            ObjectManager::Legacy { server } => {
                self.post_legacy(server, "DEL", "/del_cni_info", deadline)
                    .await
            }
            ObjectManager::ContrailMesos(options) => {
                let client = client(options, self.settings.deadline)?;
                client
                    .delete(self.vm_uuid, deadline)
                    .await
                    .map_err(|error| CniError::new(ErrorCode::TryAgain, error.to_string()))
            }
        }
    }

    fn ports_request(&self, options: &ManagerOptions) -> Result<PortsRequest, CniError> {
        let network = ContrailNetwork {
            virtual_network: options.virtual_network.clone(),
            mtu: self.settings.mtu,
        };
        let requests =
            network_request::parse_contrail(&self.container, &self.settings.network_info, network)
                .map_err(|problems| CniError::new(ErrorCode::Config, problems.to_string()))?;
        let ports = requests
            .into_iter()
            .map(|request| PortRequest {
                addresses: port_address_requests(&request.addresses),
                interface: request.interface,
                network: request.network.name,
                virtual_network: options.virtual_network.clone(),
                labels: request.labels,
            })
            .collect();
        Ok(PortsRequest {
            container: self.container.clone(),
            virtual_router_address: options.virtual_router_address,
            annotations: BTreeMap::new(),
            ports,
        })
    }

    /// Posts a command to Contrail's own mesos-manager, where commands are idempotent.
    async fn post_legacy(
        &self,
        server: &str,
        command: &str,
        path: &str,
        deadline: Instant,
    ) -> Result<(), CniError> {
        let failed = |code: ErrorCode, problem: String| {
            let message = format!("cannot notify the manager at {server}: {problem}");
            CniError::new(code, message)
        };
        let uri = Uri::builder()
            .scheme("http")
            .authority(server)
            .path_and_query(path)
            .build()
            .map_err(|error| failed(ErrorCode::Config, error.to_string()))?;
        let limits = Limits {
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(10),
            max_body_bytes: 8 << 20,
        };
        let http = HttpClient::new(limits, &TlsOptions::default())
            .map_err(|error| failed(ErrorCode::Config, error.to_string()))?;
        let body = json!({ "cid": self.id, "cmd": command, "args": self.input }).to_string();
        let mut delays = BACKOFF.delays();
        let mut last_problem = "the deadline has passed".to_owned();
        loop {
            let request = Request {
                method: Method::POST,
                uri: uri.clone(),
                headers: vec![],
                body: Some(body.clone().into()),
            };
            match timeout_at(deadline, http.send(request)).await {
                Err(_) => return Err(failed(ErrorCode::TryAgain, last_problem)),
                Ok(Ok(response)) if response.status.is_success() => return Ok(()),
                Ok(Ok(response)) if response.status.is_client_error() => {
                    let problem =
                        format!("it refuses with {}: {}", response.status, response.text());
                    return Err(failed(ErrorCode::Other, problem));
                }
                Ok(Ok(response)) => {
                    last_problem =
                        format!("it responds with {}: {}", response.status, response.text());
                }
                Ok(Err(error)) => last_problem = error.to_string(),
            }
            if !delays.sleep_before(deadline).await {
                return Err(failed(ErrorCode::TryAgain, last_problem));
            }
        }
    }
}

fn client(options: &ManagerOptions, deadline: Duration) -> Result<PortsClient, CniError> {
    PortsClient::new(&ClientOptions {
        managers: options.managers.clone(),
        agent: options.agent.clone(),
        token_file: options.token_file.clone(),
        tls: options.tls.clone(),
        limits: Limits {
            connect_timeout: deadline / 8,
            request_timeout: deadline,
            max_body_bytes: 4 << 20,
        },
    })
    .map_err(|error| CniError::new(ErrorCode::Config, error.to_string()))
}
