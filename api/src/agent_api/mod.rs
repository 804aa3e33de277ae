//! The API that the manager serves to agents: the ports of one container.
//!
//! | request | body | response |
//! |---|---|---|
//! | `PUT /v1/ports/{machine}` | [`PortsRequest`] | 200 [`Ports`]: the objects exist |
//! | `GET /v1/ports/{machine}` | | 200 [`Ports`], or 404 |
//! | `DELETE /v1/ports/{machine}` | | 200 `{}` once no port is left, also if there was none |
//! | `GET /v1/ports?agent={agent}` | | 200 [`PortsList`]: every complete container of that agent |
//!
//! The list takes `&address={address}` where the agent's virtual-router is found by its address
//! ([`PortsRequest::virtual_router_address`]).
//!
//! `{machine}` is the uuid of the container's virtual-machine object ([`vm_uuid`]). An agent sends
//! its name in the header [`AGENT_HEADER`], and may change only its own containers; a shared token
//! goes into `Authorization: Bearer …`. An error response has a body [`Refusal`], and its status
//! says whether to retry:
//!
//! | status | meaning | retry? |
//! |---|---|---|
//! | 400 | the request is wrong: a label, a name that does not exist, an address outside the subnet | no |
//! | 401, 403 | no token or a wrong one; another agent's container | no |
//! | 404 | no such container (`GET` only) | no |
//! | 409 | the address is taken, the subnet used up, a quota reached | no |
//! | 307 | another manager leads, the one in `Location` | there |
//! | 502, 503, 504 | the API server cannot be reached or does not answer; no leader | yes |
//!
//! Every call is idempotent: repeating a `PUT` whose response was lost completes what the first one
//! began. The uuids of virtual-machines and interfaces derive from the container's id, so manager
//! and agent compute them independently.

mod client;
pub(crate) mod managers;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::container::{ContainerId, Mac};

pub use client::PortsClient;
pub use managers::{
    ClientOptions, DEFAULT_PORT, MAX_IN_FLIGHT, ManagerError, ManagerErrorKind, ManagerSetupError,
    manager_address, read_token,
};

/// The header with the agent's name: that of its host's virtual-router.
pub const AGENT_HEADER: &str = "x-contrail-mesos-agent";

/// The namespace of version 5 uuids.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d65_736f_732d_636f_6e74_7261_696c_0001);

/// The uuid of a container's virtual-machine object: the container's id if that is a uuid, as the
/// vRouter agent and Contrail's tools expect, else a hash of the whole id.
#[must_use]
pub fn vm_uuid(container: &ContainerId) -> Uuid {
    if container.parent().is_none()
        && let Ok(uuid) = Uuid::try_parse(container.value())
        // The vRouter agent accepts the canonical form only, and uses nil for no container.
        && uuid.hyphenated().to_string() == container.value()
        && !uuid.is_nil()
    {
        return uuid;
    }
    let values = Vec::<String>::from(container.clone());
    // JSON, since an id may contain any separator.
    Uuid::new_v5(&NAMESPACE, serde_json::json!(values).to_string().as_bytes())
}

/// The uuid of the virtual-machine-interface object of a container's interface.
#[must_use]
pub fn interface_uuid(machine: Uuid, interface: &str) -> Uuid {
    Uuid::new_v5(&machine, interface.as_bytes())
}

/// The ports that a container needs: all of them, since each port is annotated with their number
/// for the vRouter agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PortsRequest {
    /// The container's id and those of its parents, outermost first.
    pub container: ContainerId,
    /// The address that identifies the agent's virtual-router if none has the agent's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_router_address: Option<IpAddr>,
    /// Annotations of the container, such as `framework` and `executor`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// In the order of the container's interfaces.
    pub ports: Vec<PortRequest>,
}

/// One port that a container needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PortRequest {
    /// The interface inside the container, such as `eth0`.
    pub interface: String,
    /// The framework's name of the network: the `NetworkInfo`'s name.
    pub network: String,
    /// The virtual network if the labels name none: its fully qualified name, or its name within
    /// the default project. Without it the manager uses its own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_network: Option<String>,
    /// The labels of the `NetworkInfo`, as the framework sent them, except that `networks` names one
    /// network: a list becomes one port for each network.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The addresses that the framework requests. If empty, one of each family of the network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<PortAddressRequest>,
}

/// One address that a framework requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum PortAddressRequest {
    /// Any IPv4 address.
    V4,
    /// Any IPv6 address.
    V6,
    /// This address.
    Static(IpAddr),
}

/// The ports that one container has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Ports {
    /// The uuid of its virtual-machine object.
    pub machine: Uuid,
    /// The container's id, if its object contains it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<ContainerId>,
    /// In the order of the container's interfaces.
    pub ports: Vec<Port>,
}

/// One port of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Port {
    /// The interface inside the container, such as `eth0`.
    pub interface: String,
    /// The uuid of its virtual-machine-interface object.
    pub uuid: Uuid,
    /// The uuid of its virtual network.
    pub virtual_network: Uuid,
    /// The virtual network's name, `domain:project:network`.
    pub virtual_network_name: String,
    /// The interface's MAC address.
    pub mac: Mac,
    /// Its addresses, IPv4 first.
    pub addresses: Vec<PortAddress>,
    /// The floating IPs of the port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub floating_ips: Vec<IpAddr>,
}

/// One address of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PortAddress {
    /// The address, with the prefix of its subnet.
    pub address: IpNet,
    /// The subnet's gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// The subnet's name server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<IpAddr>,
}

/// The containers of one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PortsList {
    /// In no particular order.
    pub containers: Vec<Ports>,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Refusal {
    /// Every reason and what to do about it, joined by `; `.
    pub error: String,
}

#[cfg(test)]
mod tests;
