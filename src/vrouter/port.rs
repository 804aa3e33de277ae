//! An interface, as the agent is told of it and as it is kept in a file.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An interface of a container. Its JSON text is both the body of `POST /vm` and the content
/// of the port file; the Go plugin's and the agent's are read too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Port {
    /// When it was made, for people. The agent adds its own.
    #[serde(default)]
    pub time: String,
    /// The container, as its runtime calls it.
    #[serde(default)]
    pub vm_id: String,
    /// The container, as Contrail calls it.
    pub vm_uuid: Uuid,
    /// The container, as people call it. The agent wants one.
    pub vm_name: String,
    /// The host's end.
    pub host_ifname: String,
    /// The container's end.
    #[serde(default)]
    pub vm_ifname: String,
    /// The path of the container's network namespace.
    #[serde(default)]
    pub vm_namespace: String,
    /// The virtual network.
    pub vn_uuid: Uuid,
    /// The virtual-machine-interface.
    pub vmi_uuid: Uuid,
}

impl Port {
    /// Now, as the Go plugin writes it.
    #[must_use]
    pub fn now() -> String {
        jiff::Timestamp::now()
            .strftime("%Y-%m-%d %H:%M:%S.%9f +0000 UTC")
            .to_string()
    }
}
