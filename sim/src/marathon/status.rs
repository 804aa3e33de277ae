//! `TaskStatus` of the v1 scheduler API, as far as Marathon reads it.

use serde_json::Value;

use super::instance::{Address, Condition};

/// The status of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named and documented by Mesos' TaskStatus")]
pub struct TaskStatus {
    pub task_id: String,
    pub agent_id: Option<String>,
    pub condition: Condition,
    pub message: Option<String>,
    /// What Mesos' health check says; none if it has no result, or if there is none.
    pub healthy: Option<bool>,
    /// None if the status has no container.
    pub addresses: Option<Vec<Address>>,
}

impl TaskStatus {
    /// Reads `event.update.status`; none if it is invalid.
    #[must_use]
    pub fn from_json(status: &Value) -> Option<Self> {
        let text = |pointer: &str| Some(status.pointer(pointer)?.as_str()?.to_owned());
        let infos = status.pointer("/container_status/network_infos");
        Some(Self {
            task_id: text("/task_id/value")?,
            agent_id: text("/agent_id/value"),
            condition: Condition::from_mesos(&text("/state")?),
            message: text("/message").filter(|message| !message.is_empty()),
            healthy: status["healthy"].as_bool(),
            addresses: infos
                .and_then(Value::as_array)
                .map(|infos| infos.iter().flat_map(addresses).collect()),
        })
    }
}

fn addresses(info: &Value) -> Vec<Address> {
    let address = |entry: &Value| {
        let address = entry["ip_address"].as_str()?;
        let family = if address.contains(':') {
            "IPv6"
        } else {
            "IPv4"
        };
        Some(Address {
            network: info["name"].as_str().map(str::to_owned),
            address: address.to_owned(),
            protocol: entry["protocol"].as_str().unwrap_or(family).to_owned(),
        })
    };
    let entries = info["ip_addresses"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    entries.iter().filter_map(address).collect()
}
