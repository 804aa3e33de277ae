//! A port as it is registered at the agent and stored in a port file.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An interface of a container. Its JSON form is both the body of `POST /vm` and the content of the
/// port file. Files of the Go plugin and of the agent parse too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Port {
    /// The time of creation, informational. The agent adds its own.
    #[serde(default)]
    pub time: String,
    /// The runtime's id of the container.
    #[serde(default)]
    pub vm_id: String,
    /// The uuid of the virtual-machine.
    pub vm_uuid: Uuid,
    /// The display name of the container. The agent requires one.
    pub vm_name: String,
    /// The name of the interface on the host.
    pub host_ifname: String,
    /// The name of the interface in the container.
    #[serde(default)]
    pub vm_ifname: String,
    /// The path of the container's network namespace.
    #[serde(default)]
    pub vm_namespace: String,
    /// The uuid of the virtual-network.
    pub vn_uuid: Uuid,
    /// The uuid of the virtual-machine-interface.
    pub vmi_uuid: Uuid,
}

impl Port {
    /// The current time in the format of the Go plugin.
    #[must_use]
    pub fn now() -> String {
        jiff::Timestamp::now()
            .strftime("%Y-%m-%d %H:%M:%S.%9f +0000 UTC")
            .to_string()
    }
}
