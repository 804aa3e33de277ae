//! Networks and their ports, as apps and pods declare them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::definition::{Defaults, Violations};

/// Labels, in a stable order.
pub type Labels = BTreeMap<String, String>;

/// The mode of a network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// The agent's network.
    #[serde(rename = "host")]
    Host,
    /// A network on which every container has its own address.
    #[default]
    #[serde(rename = "container")]
    Container,
    /// The bridge of each agent.
    #[serde(rename = "container/bridge")]
    Bridge,
}

/// A network of a run spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The name, for [`Mode::Container`] only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The mode.
    #[serde(default)]
    pub mode: Mode,
    /// Labels for the network's provider; opaque to Marathon.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
}

impl Network {
    /// The host network.
    #[must_use]
    pub fn host() -> Self {
        Self {
            mode: Mode::Host,
            ..Self::default()
        }
    }

    /// The name that Mesos knows the network by; none for the host network.
    #[must_use]
    pub fn mesos_name<'a>(&'a self, mesos_bridge_name: &'a str) -> Option<&'a str> {
        match self.mode {
            Mode::Host => None,
            Mode::Container => self.name.as_deref(),
            Mode::Bridge => Some(mesos_bridge_name),
        }
    }
}

/// Whether all networks are the host network.
#[must_use]
pub fn is_host(networks: &[Network]) -> bool {
    networks.iter().all(|network| network.mode == Mode::Host)
}

/// `container.portMappings[]` of an app on a container network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortMapping {
    /// The container port; 0 means the same as the host port.
    pub container_port: u16,
    /// The host port: none, any (0) or this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// The port by which load balancers know the app.
    pub service_port: u16,
    /// `tcp`, `udp` or `udp,tcp`.
    pub protocol: String,
    /// The name of the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For service discovery; opaque to Marathon.
    pub labels: Labels,
    /// The networks that it applies to; all if it is empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub network_names: Vec<String>,
}

impl Default for PortMapping {
    fn default() -> Self {
        Self {
            container_port: 0,
            host_port: None,
            service_port: 0,
            protocol: "tcp".to_owned(),
            name: None,
            labels: Labels::new(),
            network_names: Vec::new(),
        }
    }
}

/// `portDefinitions[]` of an app on the host network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PortDefinition {
    /// The service port and, with `requirePorts`, the host port; 0 means any.
    pub port: u16,
    /// `tcp`, `udp` or `udp,tcp`.
    pub protocol: String,
    /// The name of the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For service discovery; opaque to Marathon.
    pub labels: Labels,
}

impl Default for PortDefinition {
    fn default() -> Self {
        Self {
            port: 0,
            protocol: "tcp".to_owned(),
            name: None,
            labels: Labels::new(),
        }
    }
}

/// `endpoints[]` of a pod's container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// The name of the endpoint.
    pub name: String,
    /// The container port; none on the host network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_port: Option<u16>,
    /// The host port: none, any (0) or this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// `tcp`, `udp` or both.
    #[serde(default = "tcp")]
    pub protocol: Vec<String>,
    /// For service discovery; opaque to Marathon.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    /// The networks that it applies to; all if it is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub network_names: Vec<String>,
}

fn tcp() -> Vec<String> {
    vec!["tcp".to_owned()]
}

/// Gives the default name to container networks without a name.
pub(super) fn name_networks(networks: &mut [Network], defaults: &Defaults) {
    for network in networks {
        if network.mode == Mode::Container && network.name.is_none() {
            network.name.clone_from(&defaults.network_name);
        }
    }
}

/// Checks the networks that a port mapping or an endpoint names.
pub(super) fn check_network_names(
    names: &[String],
    hosted: bool,
    path: &str,
    networks: &[Network],
    violations: &mut Violations,
) {
    let known = |name: &String| networks.iter().any(|net| net.name.as_ref() == Some(name));
    violations.check(
        names.iter().all(known),
        path,
        "must be the name of one of the networks",
    );
    let containers = networks.iter().filter(|net| net.mode == Mode::Container);
    violations.check(
        !hosted || containers.count() < 2 || names.len() == 1,
        path,
        "must be a single item list when hostPort is specified and more than 1 container network \
         is defined",
    );
}

/// Checks the networks of an app or a pod.
pub(super) fn check_networks(
    networks: &[Network],
    defaults: &Defaults,
    violations: &mut Violations,
) {
    let of = |mode| networks.iter().filter(move |net| net.mode == mode);
    let named = |net: &Network| net.name.as_ref().is_some_and(|name| !name.is_empty());
    violations.check(
        !of(Mode::Host).any(|net| named(net) || !net.labels.is_empty()),
        "/networks",
        "Host networks may not have names or labels",
    );
    violations.check(
        !of(Mode::Bridge).any(named),
        "/networks",
        "Bridge networks may not have names",
    );
    let mut seen = BTreeSet::new();
    violations.check(
        of(Mode::Container).all(|net| seen.insert(&net.name)),
        "/networks",
        "Duplicate networks are not allowed",
    );
    let counts = [Mode::Host, Mode::Bridge, Mode::Container].map(|mode| of(mode).count());
    violations.check(
        matches!(counts, [0 | 1, 0, 0] | [0, 1, 0] | [0, 0, _]),
        "/networks",
        "May specify a single host network, single bridge network, or else 1-to-n container \
         networks",
    );
    let nameless = of(Mode::Container).any(|net| !named(net));
    violations.check(
        !nameless || defaults.network_name.is_some(),
        "/networks",
        "Network name must be specified when container network is selected.",
    );
}
