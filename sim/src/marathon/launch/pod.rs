//! From a pod and an offer to the default executor with its task group.
//!
//! The executor has the networks; the tasks name none, and so join its namespace.

use serde_json::{Value, json};

use super::app::uri;
use super::{Launch, LaunchedTask, Placement, discovery, environment, network};
use crate::marathon::launch::offer::Offer;
use crate::marathon::model::pod::{Command, Pod, PodContainer, Resources};

/// Takes what the pod needs from the offer, or nothing if it does not fit.
#[must_use]
pub(super) fn place(
    pod: &Pod,
    launch: &Launch<'_>,
    roles: &[&str],
    wanted: &[Option<u16>],
    offer: &mut Offer,
) -> Option<Placement> {
    let mut rest = offer.clone();
    let own = &pod.executor_resources;
    let mut executor_resources = scalars(
        &mut rest,
        &Resources {
            cpus: own.cpus,
            mem: own.mem,
            disk: own.disk,
            gpus: 0,
        },
        roles,
    )?;
    let (host_ports, ports) = rest.take_ports(wanted, roles)?;
    executor_resources.extend(ports);
    let mut task_infos = Vec::new();
    let mut tasks = Vec::new();
    let mut first = 0;
    for container in &pod.containers {
        let resources = scalars(&mut rest, &container.resources, roles)?;
        let last = first + container.endpoints.len();
        let own_ports = host_ports.get(first..last).unwrap_or_default();
        first = last;
        let id = launch
            .instance
            .task_id(Some(&container.name), launch.incarnation);
        let mut task = json!({
            "name": container.name,
            "task_id": {"value": id},
            "agent_id": {"value": rest.agent_id},
            "resources": resources,
            "command": command(pod, container, launch, &id, &host_ports),
            "discovery": discovery::pod_container(
                &pod.id, &pod.networks, &container.endpoints, own_ports, launch.bridge),
        });
        if !container.labels.is_empty() {
            task["labels"] = network::labels(&container.labels);
        }
        if let Some(check) = health_check(container, own_ports) {
            task["health_check"] = check;
        }
        if let Some(image) = image(container, launch) {
            task["container"] = json!({"type": "MESOS", "mesos": {"image": image}});
        }
        task_infos.push(task);
        tasks.push(LaunchedTask {
            id,
            container: Some(container.name.clone()),
            host_ports: own_ports.to_vec(),
        });
    }
    *offer = rest;
    let executor = executor(pod, launch, offer, &executor_resources, &host_ports);
    Some(Placement {
        operation: json!({
            "type": "LAUNCH_GROUP",
            "launch_group": {"executor": executor, "task_group": {"tasks": task_infos}},
        }),
        tasks,
    })
}

fn health_check(container: &PodContainer, host_ports: &[Option<u16>]) -> Option<Value> {
    let port_of = |name: &str| {
        let mut endpoints = container.endpoints.iter().zip(host_ports);
        let (endpoint, host_port) = endpoints.find(|(endpoint, _)| endpoint.name == name)?;
        let inside = endpoint.container_port.filter(|port| *port != 0);
        inside.or(*host_port)
    };
    container.health_check.as_ref()?.message(port_of)
}

fn scalars(offer: &mut Offer, needs: &Resources, roles: &[&str]) -> Option<Vec<Value>> {
    let mut resources = offer.take_scalar("cpus", needs.cpus, roles)?;
    resources.extend(offer.take_scalar("mem", needs.mem, roles)?);
    resources.extend(offer.take_scalar("disk", needs.disk, roles)?);
    resources.extend(offer.take_scalar("gpus", f64::from(needs.gpus), roles)?);
    Some(resources)
}

fn executor(
    pod: &Pod,
    launch: &Launch<'_>,
    offer: &Offer,
    resources: &[Value],
    host_ports: &[Option<u16>],
) -> Value {
    let mut executor = json!({
        "type": "DEFAULT",
        "executor_id": {"value": launch.instance.executor_id()},
        "framework_id": {"value": offer.framework_id},
        "resources": resources,
        "labels": network::labels(&pod.labels),
        "container": {"type": "MESOS"},
    });
    let infos = network::pod(pod, host_ports, launch.bridge);
    if !infos.is_empty() {
        executor["container"]["network_infos"] = json!(infos);
    }
    executor
}

fn image(container: &PodContainer, launch: &Launch<'_>) -> Option<Value> {
    let image = container.image.as_ref()?;
    launch
        .images
        .message(&image.id, image.force_pull.unwrap_or(false))
}

fn command(
    pod: &Pod,
    container: &PodContainer,
    launch: &Launch<'_>,
    task_id: &str,
    host_ports: &[Option<u16>],
) -> Value {
    let mut command = json!({
        "shell": true,
        "environment": environment::pod_container(pod, container, launch, task_id, host_ports),
    });
    match &container.exec {
        None => command["value"] = json!(launch.images.default_command),
        Some(exec) => match &exec.command {
            Command::Shell { shell } => command["value"] = json!(shell),
            Command::Argv { argv } => {
                command["shell"] = json!(false);
                command["arguments"] = json!(argv);
                // Without the image there is no entry point for the arguments.
                let bare = image(container, launch).is_none();
                if bare || exec.override_entrypoint == Some(true) {
                    command["value"] = json!(argv.first());
                }
            }
        },
    }
    if let Some(user) = container.user.as_ref().or(pod.user.as_ref()) {
        command["user"] = json!(user);
    }
    if !container.artifacts.is_empty() {
        command["uris"] = container.artifacts.iter().map(uri).collect();
    }
    command
}
