//! The client of the managers' ports.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::sync::Arc;

use hyper::Method;
use tokio::time::Instant;
use uuid::Uuid;

use super::managers::{ClientOptions, ManagerError, ManagerSetupError, Managers};
use super::{Ports, PortsList, PortsRequest};

/// The client. Clones share connections and the manager in use.
#[derive(Clone)]
pub struct PortsClient(Arc<Managers>);

impl fmt::Debug for PortsClient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("PortsClient")
            .field("managers", &self.0.failover().servers())
            .finish_non_exhaustive()
    }
}

impl PortsClient {
    /// A client of these managers. Reads the token and certificates: blocks on the file system.
    pub fn new(options: &ClientOptions) -> Result<Self, ManagerSetupError> {
        Managers::new(options).map(|managers| Self(Arc::new(managers)))
    }

    /// Creates or completes the container's ports. The objects exist once this returns.
    pub async fn put(
        &self,
        machine: Uuid,
        request: &PortsRequest,
        deadline: Instant,
    ) -> Result<Ports, ManagerError> {
        let operation = format!("create the ports of container {machine}");
        let path = format!("/v1/ports/{machine}");
        self.0.put(operation, path, request, deadline).await
    }

    /// Deletes the container's ports. No object is left once this returns.
    pub async fn delete(&self, machine: Uuid, deadline: Instant) -> Result<(), ManagerError> {
        let operation = format!("delete the ports of container {machine}");
        let path = format!("/v1/ports/{machine}");
        self.0
            .call(operation, Method::DELETE, path, None, deadline)
            .await
            .map(|_: serde_json::Value| ())
    }

    /// Lists the complete containers of this agent: those that its virtual-router refers to. `address`
    /// is that by which to find the virtual-router if none has the agent's name.
    pub async fn list(
        &self,
        address: Option<IpAddr>,
        deadline: Instant,
    ) -> Result<PortsList, ManagerError> {
        let mut path = format!("/v1/ports?agent={}", self.0.encoded_agent());
        if let Some(address) = address {
            let _ = write!(path, "&address={address}");
        }
        let operation = "list the ports of this host".to_owned();
        self.0
            .call(operation, Method::GET, path, None, deadline)
            .await
    }
}
