//! A task's status update, typed.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use contrail_mesos_sim::mesos_master::TaskState;
use serde_json::Value;

/// One update. Fields that the master left out are empty.
#[derive(Clone, Debug)]
pub struct TaskUpdate {
    /// The task.
    pub task_id: String,
    /// Its state from now on.
    pub state: TaskState,
    /// The reason, as an enumeration value of Mesos.
    pub reason: Option<String>,
    /// The reason for people.
    pub message: String,
    /// The reporter: `SOURCE_EXECUTOR`, `SOURCE_AGENT` or `SOURCE_MASTER`.
    pub source: Option<String>,
    /// The agent.
    pub agent_id: Option<String>,
    /// The executor.
    pub executor_id: Option<String>,
    /// The container's id with its parents', outermost first.
    pub container_id: Vec<String>,
    /// The process id of the executor in the agent's process namespace.
    pub executor_pid: Option<i32>,
    /// `container_status.network_infos`, unchanged.
    pub network_infos: Vec<Value>,
    /// The labels of the status.
    pub labels: BTreeMap<String, String>,
    /// The whole `TaskStatus`.
    pub raw: Value,
}

impl TaskUpdate {
    /// Reads a `TaskStatus`. `None` if a required field is missing.
    pub(super) fn read(status: &Value) -> Option<Self> {
        let text = |pointer: &str| {
            status
                .pointer(pointer)
                .and_then(Value::as_str)
                .map(ToOwned::to_owned)
        };
        let mut container_id = Vec::new();
        let mut level = status.pointer("/container_status/container_id");
        while let Some(id) = level {
            container_id.insert(0, id.get("value")?.as_str()?.to_owned());
            level = id.get("parent");
        }
        let labels = status.pointer("/labels/labels").and_then(Value::as_array);
        Some(Self {
            task_id: text("/task_id/value")?,
            state: serde_json::from_value(status.get("state")?.clone()).ok()?,
            reason: text("/reason"),
            message: text("/message").unwrap_or_default(),
            source: text("/source"),
            agent_id: text("/agent_id/value"),
            executor_id: text("/executor_id/value"),
            container_id,
            executor_pid: status
                .pointer("/container_status/executor_pid")
                .and_then(Value::as_i64)
                .and_then(|pid| pid.try_into().ok()),
            network_infos: status
                .pointer("/container_status/network_infos")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default(),
            labels: labels
                .into_iter()
                .flatten()
                .filter_map(|label| {
                    let value = label.get("value").and_then(Value::as_str).unwrap_or("");
                    Some((label.get("key")?.as_str()?.to_owned(), value.to_owned()))
                })
                .collect(),
            raw: status.clone(),
        })
    }

    /// The addresses of all networks, in order.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.network_infos
            .iter()
            .filter_map(|network| network.get("ip_addresses")?.as_array())
            .flatten()
            .filter_map(|address| address.get("ip_address")?.as_str()?.parse().ok())
            .collect()
    }
}

impl fmt::Display for TaskUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.state)?;
        if let Some(reason) = &self.reason {
            write!(f, " {reason}")?;
        }
        if !self.message.is_empty() {
            write!(f, " ({})", self.message)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn update_reads_every_field_of_a_task_status() {
        let status = json!({
            "task_id": {"value": "t"}, "state": "TASK_RUNNING", "source": "SOURCE_EXECUTOR",
            "agent_id": {"value": "S0"}, "executor_id": {"value": "e"},
            "container_status": {
                "container_id": {"value": "c", "parent": {"value": "b", "parent": {"value": "a"}}},
                "executor_pid": 42,
                "network_infos": [
                    {"name": "blue", "ip_addresses": [{"ip_address": "192.0.2.7"}, {}]},
                    {"name": "red", "ip_addresses": [{"ip_address": "2001:db8::7"}]},
                ],
            },
            "labels": {"labels": [{"key": "mac", "value": "02:00"}, {"key": "bare"}]},
        });
        let update = TaskUpdate::read(&status).expect("a valid status");
        assert_eq!(update.state, TaskState::TaskRunning);
        assert_eq!(update.container_id, ["a", "b", "c"]);
        assert_eq!(update.executor_pid, Some(42));
        let addresses: Vec<_> = update.addresses().iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["192.0.2.7", "2001:db8::7"]);
        assert_eq!(update.labels["mac"], "02:00");
        assert_eq!(update.labels["bare"], "");
        assert!(TaskUpdate::read(&json!({"state": "TASK_RUNNING"})).is_none());
        assert!(TaskUpdate::read(&json!({"task_id": {"value": "t"}, "state": "?"})).is_none());
    }
}
