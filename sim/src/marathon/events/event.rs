//! Events as Marathon writes them, with its order of fields: pure.
//!
//! Events that Marathon formats by hand have `null` for absent values, and the time before the
//! type. Those that it derives from classes omit absent values, and have the time last.

use serde_json::{Value, json};

use crate::marathon::deployment::{Action, Deployment};
use crate::marathon::id::InstanceId;
use crate::marathon::instance::{Condition, Instance, Task};
use crate::marathon::model::health::HealthCheck;
use crate::marathon::version::Version;

/// An event. Its time is filled in when it is published.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its type.
    pub kind: String,
    /// All fields, including the type.
    pub data: Value,
}

impl Event {
    /// An event of this type; `eventType` and `timestamp` are added if they are absent.
    #[must_use]
    pub fn new(kind: &str, mut data: Value) -> Self {
        if let Some(fields) = data.as_object_mut() {
            fields
                .entry("eventType")
                .or_insert_with(|| Value::from(kind));
            fields.entry("timestamp").or_insert(Value::Null);
        }
        Self {
            kind: kind.to_owned(),
            data,
        }
    }

    /// A client opened or closed an event stream.
    #[must_use]
    pub fn stream(kind: &str, remote_address: &str) -> Self {
        Self::new(kind, json!({"remoteAddress": remote_address}))
    }

    /// A task changed its status.
    #[must_use]
    pub fn status_update(instance: &Instance, task: &Task) -> Self {
        let agent = instance.agent.as_ref();
        let addresses = task
            .addresses
            .iter()
            .map(|address| json!({"ipAddress": address.address, "protocol": address.protocol}));
        let ports: Vec<&u16> = task.host_ports.iter().flatten().collect();
        Self::new(
            "status_update_event",
            json!({
                "slaveId": agent.map_or("", |agent| &agent.id),
                "taskId": task.id,
                "taskStatus": task.condition.mesos_state(),
                "message": task.message.as_deref().unwrap_or_default(),
                "appId": instance.run_spec.id(),
                "host": agent.map_or("unknown", |agent| &agent.host),
                "ipAddresses": addresses.collect::<Value>(),
                "ports": ports,
                "version": instance.version,
            }),
        )
    }

    /// An instance changed its condition or goal.
    #[must_use]
    pub fn instance_changed(instance: &Instance, version: Version) -> Self {
        let agent = instance.agent.as_ref();
        let kind = "instance_changed_event";
        Self::new(
            kind,
            json!({
                "instanceId": instance.id.to_string(),
                "condition": version.condition_name(instance.condition()),
                "runSpecId": instance.run_spec.id(),
                "agentId": agent.map(|agent| &agent.id),
                "host": agent.map(|agent| &agent.host),
                "runSpecVersion": instance.version,
                "timestamp": null,
                "eventType": kind,
            }),
        )
    }

    /// A check of a task has succeeded after a failure or for the first time, or has failed.
    #[must_use]
    pub fn health_changed(instance: &Instance, alive: bool) -> Self {
        Self::new(
            "health_status_changed_event",
            json!({
                "appId": instance.run_spec.id(),
                "instanceId": instance.id.to_string(),
                "version": instance.version,
                "alive": alive,
            }),
        )
    }

    /// The health of an instance by Mesos' checks has changed.
    #[must_use]
    pub fn instance_health_changed(instance: &Instance) -> Self {
        let kind = "instance_health_changed_event";
        let mut data = json!({
            "instanceId": instance.id.to_string(),
            "runSpecId": instance.run_spec.id(),
            "runSpecVersion": instance.version,
            "timestamp": null,
            "eventType": kind,
        });
        if let Some(healthy) = instance.is_healthy() {
            data["healthy"] = json!(healthy);
        }
        Self::new(kind, data)
    }

    /// A check by Marathon has failed.
    #[must_use]
    pub fn failed_health_check(instance: &Instance, check: &HealthCheck) -> Self {
        Self::new(
            "failed_health_check_event",
            json!({
                "appId": instance.run_spec.id(),
                "healthCheck": check,
                // The real one has the instance under this name, too.
                "taskId": instance.id.to_string(),
            }),
        )
    }

    /// Marathon kills a task because its check has failed too often.
    #[must_use]
    pub fn unhealthy_kill(instance: &Instance, task_id: &str, reason: &str) -> Self {
        let agent = instance.agent.as_ref();
        Self::new(
            "unhealthy_instance_kill_event",
            json!({
                "appId": instance.run_spec.id(),
                "taskId": task_id,
                "instanceId": instance.id.to_string(),
                "version": instance.version,
                "reason": reason,
                "host": agent.map_or("unknown", |agent| &agent.host),
                "slaveId": agent.map(|agent| &agent.id),
            }),
        )
    }

    /// An unknown task ended.
    #[must_use]
    pub fn unknown_terminated(id: &InstanceId, condition: Condition, version: Version) -> Self {
        let kind = "unknown_instance_terminated_event";
        Self::new(
            kind,
            json!({
                "instanceId": id.to_string(),
                "runSpecId": id.run_spec(),
                "condition": version.condition_name(condition),
                "timestamp": null,
                "eventType": kind,
            }),
        )
    }

    /// An app or a pod was deleted.
    #[must_use]
    pub fn app_terminated(run_spec: &impl serde::Serialize) -> Self {
        Self::new("app_terminated_event", json!({"appId": run_spec}))
    }

    /// A request changed a pod. The event does not name the pod.
    #[must_use]
    pub fn pod(kind: &str, client: &str, uri: &str) -> Self {
        Self::new(kind, json!({"clientIp": client, "uri": uri}))
    }

    /// A request changed an app.
    #[must_use]
    pub fn api_post(client: &str, uri: &str, definition: &Value) -> Self {
        Self::new(
            "api_post_event",
            json!({"clientIp": client, "uri": uri, "appDefinition": definition}),
        )
    }

    /// `deployment_info` and `deployment_step_success`.
    #[must_use]
    pub fn deployment_step(kind: &str, deployment: &Deployment, step: &Action) -> Self {
        Self::new(
            kind,
            json!({
                "plan": plan(deployment),
                "currentStep": {"actions": [action(deployment, *step)]},
            }),
        )
    }

    /// A deployment succeeded.
    #[must_use]
    pub fn deployment_success(deployment: &Deployment) -> Self {
        let plan = plan(deployment);
        Self::new(
            "deployment_success",
            json!({"id": deployment.id, "plan": plan}),
        )
    }

    /// A deployment was cancelled.
    #[must_use]
    pub fn deployment_failed(deployment: &Deployment, reason: &str) -> Self {
        let plan = plan(deployment);
        Self::new(
            "deployment_failed",
            json!({"id": deployment.id, "plan": plan, "reason": reason}),
        )
    }

    /// The framework registered with the master.
    #[must_use]
    pub fn registered(framework_id: &str, master: &str) -> Self {
        Self::new(
            "scheduler_registered_event",
            json!({"frameworkId": framework_id, "master": master}),
        )
    }

    /// The framework registered again, by the same leader.
    #[must_use]
    pub fn reregistered(master: &str) -> Self {
        Self::new("scheduler_reregistered_event", json!({"master": master}))
    }

    /// The connection to the master was lost.
    #[must_use]
    pub fn disconnected() -> Self {
        Self::new("scheduler_disconnected_event", json!({}))
    }

    /// The event as a frame of the stream.
    #[must_use]
    pub fn frame(&self) -> String {
        format!("event: {}\r\ndata: {}\r\n\r\n", self.kind, self.data)
    }
}

fn plan(deployment: &Deployment) -> Value {
    let steps = deployment
        .steps
        .iter()
        .map(|step| json!({"actions": [action(deployment, *step)]}));
    json!({
        "id": deployment.id,
        "steps": steps.collect::<Value>(),
        "version": deployment.version,
    })
}

fn action(deployment: &Deployment, action: Action) -> Value {
    let (kind, key) = if deployment.pod {
        ("Pod", "pod")
    } else {
        ("Application", "app")
    };
    let word = match action {
        Action::Start => "Start",
        Action::Scale => "Scale",
        Action::Restart => "Restart",
        Action::Stop => "Stop",
    };
    json!({"action": format!("{word}{kind}"), key: deployment.run_spec})
}
