//! From an app and an offer to a `TaskInfo`.

use serde_json::{Value, json};

use super::{Launch, LaunchedTask, Placement, discovery, environment, network};
use crate::marathon::launch::offer::Offer;
use crate::marathon::model::app::{App, Container, EngineType};
use crate::marathon::model::network::{Mode, is_host};

/// Takes what the app needs from the offer, or nothing if it does not fit.
#[must_use]
pub(super) fn place(
    app: &App,
    launch: &Launch<'_>,
    roles: &[&str],
    wanted: &[Option<u16>],
    offer: &mut Offer,
) -> Option<Placement> {
    let mut rest = offer.clone();
    let mut resources = rest.take_scalar("cpus", app.cpus, roles)?;
    resources.extend(rest.take_scalar("mem", app.mem, roles)?);
    resources.extend(rest.take_scalar("disk", app.disk, roles)?);
    resources.extend(rest.take_scalar("gpus", f64::from(app.gpus), roles)?);
    let (host_ports, ports) = rest.take_ports(wanted, roles)?;
    resources.extend(ports);
    *offer = rest;
    let task_id = launch.instance.task_id(None, launch.incarnation);
    let task = task_info(
        app,
        launch,
        &task_id,
        &offer.agent_id,
        &resources,
        &host_ports,
    );
    Some(Placement {
        operation: json!({"type": "LAUNCH", "launch": {"task_infos": [task]}}),
        tasks: vec![LaunchedTask {
            id: task_id,
            container: None,
            host_ports,
        }],
    })
}

fn task_info(
    app: &App,
    launch: &Launch<'_>,
    task_id: &str,
    agent_id: &str,
    resources: &[Value],
    host_ports: &[Option<u16>],
) -> Value {
    let mut task = json!({
        "name": app.id.to_hostname(),
        "task_id": {"value": task_id},
        "agent_id": {"value": agent_id},
        "resources": resources,
        "command": command(app, launch, task_id, host_ports),
        "discovery": discovery::app(app, host_ports, launch.bridge),
    });
    if !app.labels.is_empty() {
        task["labels"] = network::labels(&app.labels);
    }
    if let Some(container) = &app.container {
        task["container"] = match container.engine {
            EngineType::Mesos => mesos_container(app, container, launch, host_ports),
            EngineType::Docker => docker_container(app, container, host_ports),
        };
    }
    let inside = |index| port_inside(app, host_ports, index);
    // Of several checks by Mesos, only the first has an effect.
    let mut checks = app.health_checks.iter();
    if let Some(check) = checks.find_map(|check| check.message(inside)) {
        task["health_check"] = check;
    }
    if let Some(seconds) = app.task_kill_grace_period_seconds {
        let nanoseconds = seconds.saturating_mul(1_000_000_000);
        task["kill_policy"] = json!({"grace_period": {"nanoseconds": nanoseconds}});
    }
    task
}

/// The port inside of the container, by the index of its mapping or definition.
fn port_inside(app: &App, host_ports: &[Option<u16>], index: usize) -> Option<u16> {
    let mapping = app.port_mappings().get(index);
    let container_port = mapping.map(|mapping| mapping.container_port);
    let host_port = || host_ports.get(index).copied().flatten();
    container_port.filter(|port| *port != 0).or_else(host_port)
}

fn command(app: &App, launch: &Launch<'_>, task_id: &str, host_ports: &[Option<u16>]) -> Value {
    let mut command = json!({
        "environment": environment::app(app, launch, task_id, host_ports),
    });
    if let Some(cmd) = app.cmd.as_ref().filter(|cmd| !cmd.is_empty()) {
        command["value"] = json!(cmd);
    } else if let Some(args) = &app.args {
        command["shell"] = json!(false);
        command["arguments"] = json!(args);
        // With an image the arguments go to its entry point; without one they are the command line,
        // whose first element is the program.
        let local = app.image().and_then(|image| launch.images.local(image));
        if local.is_none() {
            command["value"] = json!(args.first());
        }
    } else {
        command["value"] = json!(launch.images.default_command);
    }
    if let Some(user) = &app.user {
        command["user"] = json!(user);
    }
    if !app.fetch.is_empty() {
        command["uris"] = app.fetch.iter().map(uri).collect();
    }
    command
}

/// `fetch[]` as `CommandInfo.URI`.
pub(super) fn uri(artifact: &Value) -> Value {
    let mut uri = json!({"value": artifact["uri"]});
    for (from, to) in [
        ("extract", "extract"),
        ("executable", "executable"),
        ("cache", "cache"),
        ("destPath", "output_file"),
    ] {
        if let Some(value) = artifact.get(from) {
            uri[to] = value.clone();
        }
    }
    uri
}

fn mesos_container(
    app: &App,
    container: &Container,
    launch: &Launch<'_>,
    host_ports: &[Option<u16>],
) -> Value {
    let mut message = json!({"type": "MESOS"});
    if !is_host(&app.networks) {
        message["network_infos"] = json!(network::app(app, host_ports, launch.bridge));
    }
    let docker = container.docker.as_ref();
    let image = docker.and_then(|docker| {
        launch
            .images
            .message(&docker.image, docker.force_pull_image)
    });
    if let Some(image) = image {
        message["mesos"] = json!({"image": image});
    }
    message
}

fn docker_container(app: &App, container: &Container, host_ports: &[Option<u16>]) -> Value {
    let mode = app.networks.first().map_or(Mode::Host, |net| net.mode);
    let mappings = app.port_mappings().iter().zip(host_ports);
    let mappings: Vec<Value> = mappings
        .filter_map(|(mapping, host_port)| {
            let host_port = (*host_port)?;
            let inside = Some(mapping.container_port).filter(|port| *port != 0);
            Some(json!({
                "host_port": host_port,
                "container_port": inside.unwrap_or(host_port),
                "protocol": mapping.protocol,
            }))
        })
        .collect();
    let docker = container.docker.as_ref();
    let mut message = json!({
        "type": "DOCKER",
        "docker": {
            "image": docker.map(|docker| &docker.image),
            "network": match mode {
                Mode::Host => "HOST",
                Mode::Container => "USER",
                Mode::Bridge => "BRIDGE",
            },
            "port_mappings": mappings,
            "privileged": docker.is_some_and(|docker| docker.privileged),
            "parameters": docker.map(|docker| &docker.parameters),
            "force_pull_image": docker.is_some_and(|docker| docker.force_pull_image),
        },
    });
    let infos = network::docker_app(app);
    if mode == Mode::Container && !infos.is_empty() {
        message["network_infos"] = json!(infos);
    }
    message
}
