//! Apps, tasks and pods as the API shows them: pure.

use serde_json::{Value, json};

use super::id::PathId;
use super::instance::{Condition, Goal, Instance, Task};
use super::model::app::App;
use super::model::run_spec::RunSpec;
use super::store::{Entry, Failure, Store};
use super::version::Version;
use crate::harness::clock::Timestamp;

/// What a request includes beside the definition of an app.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "named as in Marathon")]
pub struct Embed {
    pub tasks: bool,
    pub last_task_failure: bool,
}

impl Embed {
    /// Parses the `embed` parameters; `apps.`, `app.` and `group.apps.` are equivalent.
    #[must_use]
    pub fn from_parameters<'a>(parameters: impl Iterator<Item = &'a str>) -> Self {
        let mut embed = Self::default();
        for parameter in parameters {
            let word = parameter.rsplit('.').next().unwrap_or_default();
            embed.tasks |= matches!(word, "tasks" | "failures");
            embed.last_task_failure |= matches!(word, "lastTaskFailure" | "failures");
        }
        embed
    }
}

/// An app as `GET /v2/apps` lists it.
#[must_use]
pub fn app(store: &Store, app: &App, entry: &Entry, embed: Embed) -> Value {
    let mut json = with_role(definition(app), store.version);
    let instances = store.instances_of(&app.id);
    let count = |wanted: &[Condition]| {
        let conditions = instances.iter().map(|instance| instance.condition());
        conditions.filter(|own| wanted.contains(own)).count()
    };
    let healthy = |wanted| {
        let health = instances.iter().map(|instance| instance.is_healthy());
        health.filter(|own| *own == Some(wanted)).count()
    };
    let staged = [
        Condition::Provisioned,
        Condition::Staging,
        Condition::Starting,
    ];
    let deployments = entry.deployment.iter().map(|id| json!({"id": id}));
    let more = json!({
        "version": entry.version,
        "versionInfo": {
            "lastScalingAt": entry.last_scaling,
            "lastConfigChangeAt": entry.last_config_change,
        },
        "tasksStaged": count(&staged),
        "tasksRunning": count(&[Condition::Running]),
        "tasksHealthy": healthy(true),
        "tasksUnhealthy": healthy(false),
        "deployments": deployments.collect::<Value>(),
    });
    extend(&mut json, more);
    if embed.tasks {
        json["tasks"] = tasks(store, &app.id);
    }
    if let Some(failure) = entry
        .last_failure
        .as_ref()
        .filter(|_| embed.last_task_failure)
    {
        json["lastTaskFailure"] = last_task_failure(&app.id, failure);
    }
    json
}

/// Only the definition.
#[must_use]
pub fn definition(definition: &impl serde::Serialize) -> Value {
    // These types have string keys and finite numbers only, so this cannot fail.
    serde_json::to_value(definition).unwrap_or_default()
}

/// Removes the role if the release has none.
fn with_role(mut json: Value, version: Version) -> Value {
    if let Some(fields) = json.as_object_mut().filter(|_| !version.has_roles()) {
        fields.remove("role");
    }
    json
}

fn extend(json: &mut Value, more: Value) {
    if let (Some(json), Value::Object(more)) = (json.as_object_mut(), more) {
        json.extend(more);
    }
}

fn last_task_failure(app: &PathId, failure: &Failure) -> Value {
    let agent = failure.instance.agent.as_ref();
    json!({
        "appId": app,
        "host": agent.map(|agent| &agent.host),
        "message": failure.message,
        "state": failure.condition.mesos_state(),
        "taskId": failure.task_id,
        "timestamp": failure.at,
        "version": failure.instance.version,
        "slaveId": agent.map(|agent| &agent.id),
    })
}

/// The tasks of an app. An instance that waits for an offer has none.
#[must_use]
pub fn tasks(store: &Store, app: &PathId) -> Value {
    let instances = store.instances_of(app);
    let json = instances.iter().flat_map(|instance| {
        let tasks = instance.tasks.iter();
        tasks.map(|each| task(instance, each, store.version))
    });
    json.collect()
}

/// One task of an app.
#[must_use]
pub fn task(instance: &Instance, task: &Task, version: Version) -> Value {
    let agent = instance.agent.as_ref();
    let addresses = task
        .addresses
        .iter()
        .map(|address| json!({"ipAddress": address.address, "protocol": address.protocol}));
    let mut json = json!({
        "appId": instance.run_spec.id(),
        "id": task.id,
        "host": agent.map(|agent| &agent.host),
        "slaveId": agent.map(|agent| &agent.id),
        "state": task.condition.mesos_state(),
        "ipAddresses": addresses.collect::<Value>(),
        "healthCheckResults": health_check_results(instance, task),
        "localVolumes": [],
        "role": instance.run_spec.role(),
    });
    if let RunSpec::App(app) = &*instance.run_spec {
        json["servicePorts"] = json!(app.service_ports());
    }
    if task.condition.is_terminal() {
        json["ports"] = json!([]);
    } else {
        let ports: Vec<&u16> = task.host_ports.iter().flatten().collect();
        json["ports"] = json!(ports);
        json["stagedAt"] = json!(task.staged_at);
        json["version"] = json!(instance.version);
        if let Some(started_at) = task.started_at {
            json["startedAt"] = json!(started_at);
        }
    }
    if let Some(agent) = agent {
        let place = [("region", &agent.region), ("zone", &agent.zone)];
        for (name, value) in place {
            if let Some(value) = value {
                json[name] = json!(value);
            }
        }
    }
    with_role(json, version)
}

fn health_check_results(instance: &Instance, task: &Task) -> Value {
    let id = instance.id.to_string();
    let known = task.health.values().filter(|health| health.is_known());
    known.map(|health| health.result(&id)).collect()
}

/// A pod's definition as `GET /v2/pods` lists it.
#[must_use]
pub fn pod(entry: &Entry, version: Version) -> Value {
    pod_definition(&entry.run_spec, entry.version, version)
}

/// A pod's definition with this version.
#[must_use]
pub fn pod_definition(run_spec: &RunSpec, version: Timestamp, marathon: Version) -> Value {
    let mut json = match run_spec {
        RunSpec::Pod(pod) => definition(pod),
        RunSpec::App(app) => definition(app),
    };
    json["version"] = json!(version);
    with_role(json, marathon)
}

/// `PodStatus`.
#[must_use]
pub fn pod_status(store: &Store, entry: &Entry) -> Value {
    let version = store.version;
    let mut instances = store.instances_of(entry.run_spec.id());
    instances.retain(|own| version.schedules_instances() || !own.is_scheduled());
    let stable = |instance: &&&Instance| instance_status(instance) == "STABLE";
    let complete = instances.iter().filter(stable).count() == entry.run_spec.instances();
    let since = instances
        .iter()
        .map(|instance| instance.since)
        .max()
        .unwrap_or(entry.version);
    let instances = instances
        .iter()
        .map(|instance| pod_instance(instance, version));
    json!({
        "id": entry.run_spec.id(),
        "spec": pod(entry, version),
        "status": if complete { "STABLE" } else { "DEGRADED" },
        "statusSince": since,
        "instances": instances.collect::<Value>(),
        "terminationHistory": entry.terminated.iter().map(termination).collect::<Value>(),
        "lastUpdated": since,
        "lastChanged": since,
    })
}

fn instance_status(instance: &Instance) -> &'static str {
    match instance.condition() {
        _ if instance.goal == Goal::Decommissioned => "TERMINAL",
        Condition::Scheduled | Condition::Provisioned => "PENDING",
        Condition::Staging | Condition::Starting => "STAGING",
        Condition::Running if instance.is_healthy() == Some(false) => "DEGRADED",
        Condition::Running => "STABLE",
        Condition::Unreachable => "DEGRADED",
        Condition::Killing
        | Condition::Error
        | Condition::Failed
        | Condition::Gone
        | Condition::Dropped
        | Condition::Unknown
        | Condition::Finished
        | Condition::Killed => "TERMINAL",
    }
}

/// `PodInstanceStatus`.
#[must_use]
pub fn pod_instance(instance: &Instance, version: Version) -> Value {
    let reference = format!(
        "/v2/pods{}::versions/{}",
        instance.run_spec.id(),
        instance.version
    );
    let updated = instance.tasks.iter().map(|task| task.updated).max();
    let containers = instance.tasks.iter().map(|task| container(instance, task));
    let mut json = json!({
        "id": instance.id.to_string(),
        "status": instance_status(instance),
        "statusSince": instance.since,
        "networks": networks(instance),
        "containers": containers.collect::<Value>(),
        "conditions": [],
        "specReference": reference,
        "localVolumes": [],
        "lastUpdated": updated.unwrap_or(instance.since),
        "lastChanged": instance.since,
        "role": instance.run_spec.role(),
    });
    if let Some(agent) = &instance.agent {
        extend(
            &mut json,
            json!({"agentHostname": agent.host, "agentId": agent.id}),
        );
        for (name, value) in [("agentRegion", &agent.region), ("agentZone", &agent.zone)] {
            if let Some(value) = value {
                json[name] = json!(value);
            }
        }
    }
    let mut messages = instance
        .tasks
        .iter()
        .filter_map(|task| task.message.as_ref());
    if let Some(message) = messages.next_back() {
        json["message"] = json!(message);
    }
    with_role(json, version)
}

/// The networks of all tasks by name, with each address once: all tasks report the same ones.
fn networks(instance: &Instance) -> Value {
    let mut merged: Vec<(Option<&str>, Vec<&str>)> = Vec::new();
    for address in instance.tasks.iter().flat_map(|task| &task.addresses) {
        let name = address.network.as_deref();
        let index = merged.iter().position(|(own, _)| *own == name);
        let index = index.unwrap_or_else(|| {
            merged.push((name, Vec::new()));
            merged.len() - 1
        });
        if !merged[index].1.contains(&address.address.as_str()) {
            merged[index].1.push(&address.address);
        }
    }
    let network = |(name, addresses): &(Option<&str>, Vec<&str>)| match name {
        Some(name) => json!({"name": name, "addresses": addresses}),
        None => json!({"addresses": addresses}),
    };
    merged.iter().map(network).collect()
}

fn container(instance: &Instance, task: &Task) -> Value {
    let name = task.container.as_deref().unwrap_or_default();
    let declared = match &*instance.run_spec {
        RunSpec::Pod(pod) => pod.containers.iter().find(|part| part.name == name),
        RunSpec::App(_) => None,
    };
    let endpoints = declared
        .map(|declared| declared.endpoints.as_slice())
        .unwrap_or_default()
        .iter()
        .zip(&task.host_ports);
    let endpoints = endpoints.map(|(endpoint, port)| match port {
        Some(port) => json!({"name": endpoint.name, "allocatedHostPort": port}),
        None => json!({"name": endpoint.name}),
    });
    let mut json = json!({
        "name": name,
        "status": task.condition.mesos_state(),
        "statusSince": task.since,
        "containerId": task.id,
        "endpoints": endpoints.collect::<Value>(),
        "conditions": conditions(task),
        "lastUpdated": task.updated,
        "lastChanged": task.since,
    });
    if let Some(declared) = declared {
        json["resources"] = definition(&declared.resources);
    }
    if task.condition.is_terminal() {
        json["termination"] = json!({"message": task.message});
    }
    json
}

/// The condition `healthy` of a pod's container with a health check that has had a result.
fn conditions(task: &Task) -> Value {
    let known = task.health.values().find(|health| health.is_known());
    let condition = known.map(|health| {
        json!({
            "name": "healthy",
            "value": health.is_alive().to_string(),
            "lastChanged": task.since,
            "lastUpdated": health.last_success.max(health.last_failure),
        })
    });
    condition.into_iter().collect()
}

fn termination(failure: &Failure) -> Value {
    let instance = &failure.instance;
    let started = instance.tasks.iter().map(|task| task.staged_at).min();
    let containers = instance.tasks.iter().map(|task| {
        json!({
            "name": task.container,
            "containerId": task.id,
            "lastKnownState": task.condition.mesos_state(),
            "termination": {"message": task.message},
        })
    });
    json!({
        "instanceID": instance.id.to_string(),
        "startedAt": started,
        "terminatedAt": failure.at,
        "message": failure.message,
        "containers": containers.collect::<Value>(),
    })
}
