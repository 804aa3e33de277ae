//! The apps of the chaos tests: definitions for Marathon, and what Contrail must have for them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The network that agents' configuration names.
pub(super) const NETWORK: &str = "contrail-cni-plugin";
const PROJECT: &str = "default-domain:default-project";
/// The security groups.
pub(super) const GROUPS: [&str; 2] = [
    "default-domain:default-project:web",
    "default-domain:default-project:database",
];
/// The floating IP pools.
pub(super) const POOLS: [&str; 2] = [
    "default-domain:default-project:red-network:east",
    "default-domain:default-project:red-network:west",
];

/// An app or a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum App {
    /// On one network.
    Plain,
    /// On two networks, with security groups.
    Guarded,
    /// With a floating IP for each container.
    Outside,
    /// A pod of two containers.
    Pod,
}

/// All of them.
pub(super) const APPS: [App; 4] = [App::Plain, App::Guarded, App::Outside, App::Pod];

impl App {
    pub(super) fn id(self) -> &'static str {
        match self {
            Self::Plain => "/plain",
            Self::Guarded => "/guarded",
            Self::Outside => "/outside",
            Self::Pod => "/pod",
        }
    }

    /// The maximum number of instances.
    pub(super) fn max_instances(self) -> u64 {
        match self {
            Self::Plain => 5,
            Self::Guarded => 3,
            Self::Outside | Self::Pod => 2,
        }
    }

    /// The networks of its containers.
    pub(super) fn networks(self) -> &'static [&'static str] {
        match self {
            Self::Guarded => &["blue-network", "red-network"],
            _ => &["blue-network"],
        }
    }

    /// The number of label sets to choose from.
    pub(super) fn labels(self) -> u64 {
        match self {
            Self::Plain | Self::Pod => 2,
            Self::Guarded | Self::Outside => 3,
        }
    }
}

/// The desired state of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DesiredApp {
    pub(super) instances: u64,
    pub(super) labels: u64,
}

/// The desired state of all apps.
pub(super) type DesiredApps = BTreeMap<App, DesiredApp>;

impl DesiredApp {
    /// The state before the first round.
    pub(super) fn initial() -> Self {
        Self {
            instances: 1,
            labels: 0,
        }
    }

    /// The security groups of its interfaces.
    pub(super) fn groups(&self, app: App) -> &'static [&'static str] {
        match (app, self.labels) {
            (App::Guarded | App::Pod, 1) => &GROUPS[..1],
            (App::Guarded, 2) => &GROUPS,
            _ => &[],
        }
    }

    /// The pools from which each of its interfaces has an address.
    pub(super) fn pools(&self, app: App) -> &'static [&'static str] {
        match (app, self.labels) {
            (App::Outside, 0) => &POOLS[..1],
            (App::Outside | App::Plain, 1) => &POOLS[1..],
            (App::Outside, 2) => &POOLS,
            _ => &[],
        }
    }

    /// The definition for Marathon's REST API.
    pub(super) fn definition(&self, app: App) -> Value {
        let networks: Vec<String> = app
            .networks()
            .iter()
            .map(|network| format!("{PROJECT}:{network}"))
            .collect();
        let mut labels = json!({
            "networks": networks.join(","),
            "project-name": "default-project",
            "domain-name": "default-domain",
        });
        for (key, list) in [
            ("security-groups", self.groups(app)),
            ("floating-ips", self.pools(app)),
        ] {
            if !list.is_empty() {
                labels[key] = json!(list.join(","));
            }
        }
        let networks = json!([{"mode": "container", "name": NETWORK, "labels": labels}]);
        let command = "exec sleep 100000";
        if app == App::Pod {
            let container = |name: &str| {
                json!({"name": name, "resources": {"cpus": 0.1, "mem": 16},
                       "exec": {"command": {"shell": command}}})
            };
            return json!({
                "id": app.id(), "networks": networks,
                "containers": [container("first"), container("second")],
                "scaling": {"kind": "fixed", "instances": self.instances},
                "scheduling": {"backoff":
                    {"backoff": 0.5, "backoffFactor": 1.1, "maxLaunchDelay": 2}},
            });
        }
        json!({
            "id": app.id(), "cmd": command, "cpus": 0.1, "mem": 16,
            "instances": self.instances, "networks": networks,
            "backoffSeconds": 1, "backoffFactor": 1.1, "maxLaunchDelaySeconds": 2,
        })
    }
}
