//! The calls of Docker's Engine API by its unix socket.
//!
//! Invariants: every call has a deadline. Networks are addressed by their ids: Docker also takes a
//! name for the beginning of an id.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::errors::Error as ApiError;
use bollard::models::{Ipam, IpamConfig, Network, NetworkCreateRequest};
use bollard::{API_DEFAULT_VERSION, Docker};
use contrail_mesos_api::text::excerpt;

use super::desired::{DockerNetwork, gateway};
use super::diff::{FoundNetwork, FoundSubnet};

/// Marks a network as ours.
pub(super) const LABEL: &str = "contrail-mesos";
const LABEL_VALUE: &str = "overlay";

/// A call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DockerError {
    /// There is no socket.
    #[error(
        "{} does not exist: Docker does not run, or has another socket; start it, or correct docker in \
         [node]",
        .0.display()
    )]
    Missing(PathBuf),
    /// It is not answered in time.
    #[error("Docker did not {action} within {limit:?}; if it hangs, restart it")]
    Hangs {
        /// What was asked for.
        action: String,
        /// The deadline.
        limit: Duration,
    },
    /// Docker refused it.
    #[error("Docker refused to {action}: {reason}")]
    Refused {
        /// What was asked for.
        action: String,
        /// Docker's reason, escaped.
        reason: String,
    },
    /// It could not be sent, or the answer could not be read.
    #[error("cannot ask Docker to {action}, see whether it runs")]
    Failed {
        /// What was asked for.
        action: String,
        /// Why.
        source: ApiError,
    },
    /// The runtime of the calls cannot be set up.
    #[error("cannot set up the client of Docker")]
    Runtime(#[source] io::Error),
}

impl DockerError {
    /// Whether the call failed, and not Docker as a whole.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// A connection whose API version was negotiated.
#[derive(Debug)]
pub(super) struct Client {
    docker: Docker,
    limit: Duration,
}

impl Client {
    /// Connects. Each call may take as long as `limit`.
    pub(super) async fn connect(socket: &Path, limit: Duration) -> Result<Self, DockerError> {
        let action = "tell its version";
        let failed = |source| match source {
            ApiError::SocketNotFoundError(_) => DockerError::Missing(socket.to_owned()),
            source => DockerError::Failed {
                action: action.to_owned(),
                source,
            },
        };
        let path = socket.to_string_lossy();
        // The limit of a call is kept here.
        let seconds = limit.as_secs().saturating_add(1);
        let docker =
            Docker::connect_with_unix(&path, seconds, API_DEFAULT_VERSION).map_err(failed)?;
        let docker = call(action, limit, docker.negotiate_version()).await?;
        Ok(Self { docker, limit })
    }

    /// All networks.
    pub(super) async fn networks(&self) -> Result<Vec<FoundNetwork>, DockerError> {
        let networks = self.docker.list_networks(None);
        let networks = call("list its networks", self.limit, networks).await?;
        Ok(networks.into_iter().map(found).collect())
    }

    /// The names of the running containers of a network.
    pub(super) async fn containers(&self, id: &str) -> Result<Vec<String>, DockerError> {
        let network = self.docker.inspect_network(id, None);
        let network = call("show a network", self.limit, network).await?;
        let containers = network.containers.unwrap_or_default().into_values();
        let mut names: Vec<_> = containers
            .map(|container| container.name.unwrap_or_default())
            .collect();
        names.sort();
        Ok(names)
    }

    /// Removes a network. Docker refuses it if it has running containers.
    pub(super) async fn remove(&self, network: &FoundNetwork) -> Result<(), DockerError> {
        let action = format!("remove its network {}", Name(&network.name));
        call(&action, self.limit, self.docker.remove_network(&network.id)).await
    }

    /// Creates a network.
    pub(super) async fn create(&self, network: &DockerNetwork) -> Result<(), DockerError> {
        let action = format!("create the network {}", Name(&network.name));
        let created = self.docker.create_network(request(network));
        call(&action, self.limit, created).await.map(drop)
    }
}

struct Name<'a>(&'a str);

impl fmt::Display for Name<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        contrail_mesos_api::text::Quoted(self.0.as_bytes()).fmt(formatter)
    }
}

async fn call<T>(
    action: &str,
    limit: Duration,
    answer: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, DockerError> {
    let action = || action.to_owned();
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(value)) => Ok(value),
        Err(_) | Ok(Err(ApiError::RequestTimeoutError)) => Err(DockerError::Hangs {
            action: action(),
            limit,
        }),
        Ok(Err(ApiError::DockerResponseServerError { message, .. })) => Err(DockerError::Refused {
            action: action(),
            reason: excerpt(message.as_bytes()),
        }),
        Ok(Err(source)) => Err(DockerError::Failed {
            action: action(),
            source,
        }),
    }
}

fn request(network: &DockerNetwork) -> NetworkCreateRequest {
    let subnets = network.subnets.iter().map(|subnet| IpamConfig {
        subnet: Some(subnet.to_string()),
        gateway: gateway(subnet).map(|gateway| gateway.to_string()),
        ..IpamConfig::default()
    });
    let options = network.options().into_iter();
    NetworkCreateRequest {
        name: network.name.clone(),
        driver: Some("bridge".to_owned()),
        enable_ipv6: Some(network.has_v6()),
        ipam: Some(Ipam {
            driver: Some("default".to_owned()),
            config: Some(subnets.collect()),
            options: None,
        }),
        options: Some(
            options
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
        ),
        labels: Some(HashMap::from([(LABEL.to_owned(), LABEL_VALUE.to_owned())])),
        ..NetworkCreateRequest::default()
    }
}

fn found(network: Network) -> FoundNetwork {
    let subnets = network.ipam.and_then(|ipam| ipam.config);
    let subnets = subnets.unwrap_or_default().into_iter();
    let labels = network.labels.unwrap_or_default();
    FoundNetwork {
        id: network.id.unwrap_or_default(),
        name: network.name.unwrap_or_default(),
        is_ours: labels.contains_key(LABEL),
        driver: network.driver.unwrap_or_default(),
        has_v6: network.enable_ipv6.unwrap_or_default(),
        is_internal: network.internal.unwrap_or_default(),
        subnets: subnets
            .map(|subnet| FoundSubnet {
                subnet: subnet.subnet.unwrap_or_default(),
                gateway: subnet.gateway.unwrap_or_default(),
                range: subnet.ip_range.filter(|range| !range.is_empty()),
            })
            .collect(),
        options: network.options.unwrap_or_default().into_iter().collect(),
    }
}
