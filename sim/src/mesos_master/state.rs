//! Tasks, agents and frameworks as the real master writes them in JSON, and their followers.

use std::collections::BTreeMap;
use std::net::IpAddr;

use arcstr::ArcStr;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::TaskState;

/// The time of every status; followers ignore it.
const STATUS_TIME: f64 = 1_795_000_000.25;

/// An agent.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Its id.
    pub id: ArcStr,
    /// Its host's name.
    pub host: Box<str>,
    /// Where it listens.
    pub address: IpAddr,
}

/// A task in a container of its own.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its id.
    pub id: ArcStr,
    /// The id of its framework.
    pub framework: ArcStr,
    /// The id of its agent.
    pub agent: ArcStr,
    /// The id of its container.
    pub container: Box<str>,
    /// Its network, and its address there.
    pub network: (ArcStr, IpAddr),
    /// The label `VIP_0` of its port 8080, if it has that port.
    pub vip: Option<Box<str>>,
    /// Its state.
    pub state: TaskState,
}

/// What the master knows, and its followers.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub(super) tasks: BTreeMap<ArcStr, Task>,
    pub(super) agents: BTreeMap<ArcStr, Agent>,
    /// Names by id.
    pub(super) frameworks: BTreeMap<ArcStr, Box<str>>,
    /// Unbounded, as the real master also keeps what a slow follower has not read yet.
    followers: Vec<mpsc::UnboundedSender<Vec<u8>>>,
    pub(super) subscriptions: u64,
}

fn value(id: &str) -> Value {
    json!({ "value": id })
}

fn resource(name: &str, value: f64) -> Value {
    json!({"name": name, "role": "*", "scalar": {"value": value}, "type": "SCALAR"})
}

/// A framework whose scheduler is connected.
pub(super) fn framework(id: &str, name: &str) -> Value {
    json!({
        "active": true,
        "connected": true,
        "recovered": false,
        "framework_info": {
            "checkpoint": true, "failover_timeout": 604_800.0, "hostname": "marathon.example",
            "id": value(id), "name": name, "roles": ["*"], "user": "root",
        },
        "registered_time": {"nanoseconds": 1_795_000_000_250_000_000_u64},
    })
}

impl Agent {
    pub(super) fn json(&self) -> Value {
        json!({
            "active": true,
            "agent_info": {
                "hostname": &*self.host, "id": value(&self.id), "port": 5051,
                "resources": [resource("cpus", 64.0), resource("mem", 262_144.0)],
            },
            "pid": format!("slave(1)@{}:5051", self.address),
            "registered_time": {"nanoseconds": 1_795_000_000_250_000_000_u64},
            "total_resources": [resource("cpus", 64.0), resource("mem", 262_144.0)],
            "version": "1.11.0",
        })
    }
}

impl Task {
    fn status(&self, state: TaskState) -> Value {
        let mut status = json!({
            "agent_id": value(&self.agent),
            "executor_id": value(&self.id),
            "source": "SOURCE_EXECUTOR",
            "state": state,
            "task_id": value(&self.id),
            "timestamp": STATUS_TIME,
            "uuid": "F3R0ZXN0dGVzdHRlc3R0ZQ==",
        });
        if state != TaskState::TaskStaging {
            let (network, address) = &self.network;
            status["container_status"] = json!({
                "container_id": value(&self.container),
                "network_infos": [{
                    "ip_addresses": [{"ip_address": address, "protocol": "IPv4"}],
                    "name": &**network,
                }],
            });
        }
        status
    }

    pub(super) fn json(&self) -> Value {
        let statuses: Vec<_> = [TaskState::TaskStarting, self.state]
            .into_iter()
            .filter(|_| self.state != TaskState::TaskStaging)
            .map(|state| self.status(state))
            .collect();
        let mut json = json!({
            "agent_id": value(&self.agent),
            "container": {"network_infos": [{"name": &*self.network.0}], "type": "MESOS"},
            "framework_id": value(&self.framework),
            "name": &*self.id,
            "resources": [resource("cpus", 0.1), resource("mem", 64.0)],
            "state": self.state,
            "status_update_state": self.state,
            "status_update_uuid": "F3R0ZXN0dGVzdHRlc3R0ZQ==",
            "statuses": statuses,
            "task_id": value(&self.id),
        });
        if let Some(vip) = &self.vip {
            let labels = json!([
                {"key": "VIP_0", "value": vip},
                {"key": "network-scope", "value": "container"},
            ]);
            json["discovery"] = json!({
                "name": &*self.id,
                "ports": {"ports": [
                    {"labels": {"labels": labels}, "name": "http", "number": 8080, "protocol": "tcp"},
                ]},
                "visibility": "FRAMEWORK",
            });
        }
        json
    }

    pub(super) fn update(&self) -> Value {
        json!({
            "type": "TASK_UPDATED",
            "task_updated": {
                "framework_id": value(&self.framework),
                "state": self.state,
                "status": self.status(self.state),
            },
        })
    }
}

impl Cluster {
    /// Sends an event to all followers.
    pub(super) fn publish(&mut self, event: &Value) {
        let record = record(&event.to_string());
        self.followers
            .retain(|follower| follower.send(record.clone()).is_ok());
    }

    /// Adds a follower, and returns the events after the present state.
    pub(super) fn subscribe(&mut self) -> mpsc::UnboundedReceiver<Vec<u8>> {
        let (sender, events) = mpsc::unbounded_channel();
        self.subscriptions += 1;
        self.followers.push(sender);
        events
    }

    /// Ends the streams of all followers.
    pub(super) fn drop_followers(&mut self) {
        self.followers.clear();
    }

    /// The response to `GET_STATE`, which is also in the first event: it always has all four parts,
    /// but omits empty lists. It is written element by element, as that of a large cluster is
    /// large.
    pub(super) fn json(&self) -> String {
        let mut text = String::from("{");
        part(&mut text, "tasks", self.tasks.values().map(Task::json));
        text.push(',');
        let frameworks = self.frameworks.iter().map(|(id, name)| framework(id, name));
        part(&mut text, "frameworks", frameworks);
        text.push(',');
        part(&mut text, "agents", self.agents.values().map(Agent::json));
        text.push(',');
        part(&mut text, "executors", std::iter::empty());
        text.push('}');
        text
    }
}

/// A record of the stream.
pub(super) fn record(text: &str) -> Vec<u8> {
    let mut record = text.len().to_string().into_bytes();
    record.push(b'\n');
    record.extend_from_slice(text.as_bytes());
    record
}

fn part(text: &mut String, name: &str, mut elements: impl Iterator<Item = Value>) {
    let Some(first) = elements.next() else {
        text.extend(["\"get_", name, "\":{}"]);
        return;
    };
    text.extend(["\"get_", name, "\":{\"", name, "\":[", &first.to_string()]);
    for element in elements {
        text.extend([",", &element.to_string()]);
    }
    text.push_str("]}");
}
