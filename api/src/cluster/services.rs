//! Services of tasks: virtual IPs with their backends, and the names of tasks.
//!
//! A service comes from labels of the ports in the `DiscoveryInfo` of tasks, and from nothing else. The
//! managers compute services and names, and give named services their addresses. Each node sends what
//! its host and its containers address to a service to one of its backends, and answers DNS queries.
//! A name is answered once the data path of its service is in place, and no longer than that.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The DNS zone of named services.
pub const SERVICE_ZONE: &str = "l4lb.thisdcos.directory";
/// The DNS zone above those of the tasks' names: `containerip`, `agentip` and `autoip`.
pub const TASK_ZONE: &str = "dcos.thisdcos.directory";

/// What all services share. There is at most one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServiceSettings {
    /// The ranges that addresses of named services come from: at most one of each family. Traffic to an
    /// address of them that no service has is refused by each host.
    pub ranges: Vec<IpNet>,
    /// The addresses at which each node answers DNS queries: at most one of each family. They are of
    /// [`Self::ranges`], and never those of a service.
    pub dns: Vec<IpAddr>,
}

/// The protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ServiceProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl ServiceProtocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// Its name in labels and in texts: lower case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// The number of the IP protocol.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// What clients address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Vip {
    /// An address that the framework chose.
    Address(IpAddr),
    /// A name below [`SERVICE_ZONE`], in lower case and without a final dot, such as `web.marathon`. The
    /// managers give it an address of each family in which it has backends.
    Name(String),
}

/// The identity of a service. Its text is that of Kubernetes' ports: `web.marathon:80/tcp`,
/// `10.0.0.1:80/tcp`, `[fd01:c::5]:53/udp`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(into = "String", try_from = "String")]
pub struct ServiceKey {
    /// What clients address.
    pub vip: Vip,
    /// The port that clients address.
    pub port: u16,
    /// The protocol.
    pub protocol: ServiceProtocol,
}

/// A text that is not that of a [`ServiceKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a service, such as web.marathon:80/tcp or 10.0.0.1:80/tcp")]
pub struct InvalidServiceKey;

impl fmt::Display for ServiceKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (port, protocol) = (self.port, self.protocol.as_str());
        match &self.vip {
            Vip::Address(address) => {
                write!(formatter, "{}/{protocol}", SocketAddr::new(*address, port))
            }
            Vip::Name(name) => write!(formatter, "{name}:{port}/{protocol}"),
        }
    }
}

impl FromStr for ServiceKey {
    type Err = InvalidServiceKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, protocol) = text.rsplit_once('/').ok_or(InvalidServiceKey)?;
        let protocol = ServiceProtocol::ALL
            .into_iter()
            .find(|known| known.as_str() == protocol)
            .ok_or(InvalidServiceKey)?;
        if let Ok(address) = address.parse::<SocketAddr>() {
            // The identity has no scope.
            if matches!(address, SocketAddr::V6(address) if address.scope_id() != 0) {
                return Err(InvalidServiceKey);
            }
            return Ok(Self {
                vip: Vip::Address(address.ip()),
                port: address.port(),
                protocol,
            });
        }
        let (name, port) = address.rsplit_once(':').ok_or(InvalidServiceKey)?;
        let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number || !is_name(name) || name.parse::<IpAddr>().is_ok() {
            return Err(InvalidServiceKey);
        }
        Ok(Self {
            vip: Vip::Name(name.to_owned()),
            port: port.parse().map_err(|_| InvalidServiceKey)?,
            protocol,
        })
    }
}

impl From<ServiceKey> for String {
    fn from(key: ServiceKey) -> Self {
        key.to_string()
    }
}

impl TryFrom<String> for ServiceKey {
    type Error = InvalidServiceKey;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Whether it is one or more DNS labels of lower-case letters, digits and inner hyphens.
fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 200 && name.split('.').all(is_label)
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Service {
    /// Its identity.
    pub service: ServiceKey,
    /// The addresses that clients use: that of an IP VIP, else at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// The backends, ordered, distinct; those of one family serve the address of that family. Without
    /// one that is [`BackendState::Ready`], connections are refused.
    pub backends: Vec<Backend>,
    /// For how long the connections of a client go to the same backend after the last one, in seconds;
    /// none if each connection goes to any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<u32>,
}

/// A backend of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Backend {
    /// Where all hosts reach it, but for its own if there is [`Self::local`].
    pub address: SocketAddr,
    /// Where its own host reaches it if not at [`Self::address`]: the container behind a mapped port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<SocketAddr>,
    /// The address of its host: that of its agent.
    pub host: IpAddr,
    /// From where it can be reached.
    #[serde(default, skip_serializing_if = "Reach::is_cluster")]
    pub reach: Reach,
    /// Whether it gets new connections.
    #[serde(default, skip_serializing_if = "BackendState::is_ready")]
    pub state: BackendState,
    /// What identifies its task to operators: the task's id.
    pub task: String,
}

/// From where a backend can be reached.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// From all hosts.
    #[default]
    Cluster,
    /// From its own host only: its network is a bridge without routes between hosts.
    Host,
    /// Only from virtual networks of Contrail: no host sends anything to it.
    VirtualNetwork,
}

impl Reach {
    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    fn is_cluster(&self) -> bool {
        *self == Self::Cluster
    }
}

/// Whether a backend gets new connections.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum BackendState {
    /// It does.
    #[default]
    Ready,
    /// It does not, and keeps those that it has: its task is being killed, or fails its health check.
    Draining,
}

impl BackendState {
    #[allow(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde passes a reference"
    )]
    fn is_ready(&self) -> bool {
        *self == Self::Ready
    }
}

/// The name of tasks: all running tasks of a framework with the same name. Its name is below the zones
/// `containerip`, `agentip` and `autoip` of [`TASK_ZONE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TaskName {
    /// One label for the task and one for the framework, such as `app-group.marathon`.
    pub name: String,
    /// The tasks, ordered, distinct.
    pub instances: Vec<TaskInstance>,
}

/// A task of a [`TaskName`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TaskInstance {
    /// The address of its agent.
    pub agent: IpAddr,
    /// The addresses of its container; those of the agent on the network of the host.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<TaskPort>,
}

/// A port of a task that has a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TaskPort {
    /// Its name: one DNS label.
    pub name: String,
    /// Its protocol.
    pub protocol: ServiceProtocol,
    /// The port of the container; none if only the host has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<u16>,
    /// The port of the host that is mapped to it, or that the task uses on the host's network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_services_are_read_back() {
        for text in [
            "web.marathon:80/tcp",
            "a.b-c.marathon-2:65535/udp",
            "10.0.0.1:80/sctp",
            "[fd01:c::5]:53/udp",
        ] {
            let key: ServiceKey = text.parse().unwrap();
            assert_eq!(key.to_string(), text);
            let json = serde_json::to_string(&key).unwrap();
            assert_eq!(serde_json::from_str::<ServiceKey>(&json).unwrap(), key);
        }
        for text in [
            "",
            "web",
            "web:80",
            "web:80/TCP",
            "web/80:tcp",
            "Web:80/tcp",
            "-web:80/tcp",
            "a..b:80/tcp",
            "web:99999/tcp",
            "we b:80/tcp",
            "web:+80/tcp",
            "10.0.0.1:+80/tcp",
            "10.0.0.1:99999/tcp",
            "[fe80::1%2]:80/tcp",
        ] {
            assert_eq!(text.parse::<ServiceKey>(), Err(InvalidServiceKey), "{text}");
        }
    }
}
