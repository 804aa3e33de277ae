//! The networking fields of apps before Marathon 1.5, rewritten to the present ones.
//!
//! On input only, Marathon accepts `ipAddress` (it drops the `groups`), `container.docker.network`,
//! `container.docker.portMappings`, `ports` and `uris`. This works on JSON and skips values of
//! unexpected types, for which deserialization has better errors.

use serde_json::{Map, Value, json};

use super::definition::{Rejection, Violations, drop_nulls};

/// Rewrites the JSON of an app.
pub fn canonical(mut request: Value, mesos_bridge_name: &str) -> Result<Value, Rejection> {
    drop_nulls(&mut request);
    let Some(app) = request.as_object_mut() else {
        return Err(Rejection::Shape {
            path: "/".to_owned(),
            problem: "expected an object".to_owned(),
        });
    };
    let mut violations = Violations::default();
    rewrite(app, mesos_bridge_name, &mut violations);
    violations.into_result().map_err(Rejection::Invalid)?;
    Ok(request)
}

fn rewrite(app: &mut Map<String, Value>, mesos_bridge_name: &str, violations: &mut Violations) {
    fetch(app, violations);
    let ip_address = app.remove("ipAddress");
    let docker_network = container_mut(app)
        .and_then(|container| container.get_mut("docker")?.as_object_mut())
        .and_then(|docker| docker.remove("network"));
    networks(
        app,
        ip_address.as_ref(),
        docker_network.as_ref(),
        mesos_bridge_name,
        violations,
    );
    if let Some(ports) = app.remove("ports") {
        let definitions = ports.as_array().map(|ports| {
            let definition = |port: &Value| json!({"port": port});
            ports.iter().map(definition).collect::<Value>()
        });
        app.entry("portDefinitions")
            .or_insert_with(|| definitions.unwrap_or(ports));
    }
    if is_host(app) {
        if let Some(container) = container_mut(app) {
            container.remove("portMappings");
        }
        return;
    }
    let definitions = app.remove("portDefinitions");
    let wanted = definitions.and_then(|ports| ports.as_array().map(Vec::len));
    let container = app.entry("container").or_insert_with(|| json!({}));
    if let Some(container) = container.as_object_mut() {
        docker_port_mappings(container, violations);
        discovery_ports(container, ip_address.as_ref(), violations);
        default_port_mappings(container, wanted.unwrap_or(0));
    }
}

fn container_mut(app: &mut Map<String, Value>) -> Option<&mut Map<String, Value>> {
    app.get_mut("container")?.as_object_mut()
}

fn is_host(app: &Map<String, Value>) -> bool {
    let networks = app.get("networks").and_then(Value::as_array);
    networks.is_none_or(|networks| networks.iter().all(|network| network["mode"] == "host"))
}

fn fetch(app: &mut Map<String, Value>, violations: &mut Violations) {
    let Some(uris) = app.remove("uris") else {
        return;
    };
    let uris = uris.as_array().cloned().unwrap_or_default();
    let fetch = app.get("fetch").and_then(Value::as_array);
    if uris.is_empty() {
        return;
    }
    if fetch.is_some_and(|fetch| !fetch.is_empty()) {
        violations.add("/uris", "cannot specify both uris and fetch fields");
        return;
    }
    let artifacts: Value = uris.iter().map(|uri| json!({"uri": uri})).collect();
    app.insert("fetch".to_owned(), artifacts);
}

fn networks(
    app: &mut Map<String, Value>,
    ip_address: Option<&Value>,
    docker_network: Option<&Value>,
    mesos_bridge_name: &str,
    violations: &mut Violations,
) {
    if ip_address.is_none() && docker_network.is_none() {
        return;
    }
    let given = app.get("networks").and_then(Value::as_array);
    if given.is_some_and(|networks| !networks.is_empty()) {
        violations.add(
            "/networks",
            "cannot specify both networks and ipAddress or docker.network",
        );
        return;
    }
    let part = |key: &str| ip_address.and_then(|ip| ip.get(key)).cloned();
    let labels = part("labels").unwrap_or_else(|| json!({}));
    let name = part("networkName");
    let bridge = json!({"mode": "container/bridge", "labels": labels});
    let network = match docker_network.and_then(Value::as_str) {
        Some("HOST") => json!({"mode": "host"}),
        Some("BRIDGE") => bridge,
        Some("NONE") => {
            violations.add("/container/docker/network", "NONE is not supported");
            return;
        }
        _ if name.as_ref().is_some_and(|name| name == mesos_bridge_name) => bridge,
        _ => match name {
            Some(name) => json!({"mode": "container", "name": name, "labels": labels}),
            None => json!({"mode": "container", "labels": labels}),
        },
    };
    app.insert("networks".to_owned(), json!([network]));
}

fn docker_port_mappings(container: &mut Map<String, Value>, violations: &mut Violations) {
    let docker = container.get_mut("docker").and_then(Value::as_object_mut);
    let Some(mappings) = docker.and_then(|docker| docker.remove("portMappings")) else {
        return;
    };
    let own = container.get("portMappings").and_then(Value::as_array);
    let both = own.is_some_and(|own| !own.is_empty())
        && mappings
            .as_array()
            .is_some_and(|mappings| !mappings.is_empty());
    if both {
        violations.add(
            "/container/portMappings",
            "cannot specify both portMappings and docker.portMappings",
        );
    } else if own.is_none_or(Vec::is_empty) {
        container.insert("portMappings".to_owned(), mappings);
    }
}

/// `ipAddress.discovery.ports[]`: container ports, never mapped to the host.
fn discovery_ports(
    container: &mut Map<String, Value>,
    ip_address: Option<&Value>,
    violations: &mut Violations,
) {
    let ports = ip_address
        .and_then(|ip| ip.pointer("/discovery/ports"))
        .and_then(Value::as_array);
    let Some(ports) = ports.filter(|ports| !ports.is_empty()) else {
        return;
    };
    let own = container.get("portMappings").and_then(Value::as_array);
    if own.is_some_and(|own| !own.is_empty()) {
        violations.add(
            "/container/portMappings",
            "container.portMappings and ipAddress.discovery.ports must not both be set",
        );
        return;
    }
    if container.get("type").is_some_and(|kind| kind == "DOCKER") {
        violations.add(
            "/ipAddress/discovery/ports",
            "ipAddress.discovery.ports do not apply for container type DOCKER",
        );
        return;
    }
    let mapping = |port: &Value| {
        let mut mapping = port.as_object().cloned().unwrap_or_default();
        let number = mapping.remove("number").unwrap_or(Value::Null);
        mapping.insert("containerPort".to_owned(), number);
        mapping
    };
    let mappings: Value = ports.iter().map(mapping).collect();
    container.insert("portMappings".to_owned(), mappings);
}

/// One mapping if the app has none, and one for each surplus definition.
fn default_port_mappings(container: &mut Map<String, Value>, wanted: usize) {
    let given = container.remove("portMappings");
    let mut mappings = given.unwrap_or_else(|| json!([{"name": "default"}]));
    if let Some(mappings) = mappings.as_array_mut() {
        let missing = wanted.saturating_sub(mappings.len());
        mappings.extend(std::iter::repeat_n(json!({}), missing));
    }
    container.insert("portMappings".to_owned(), mappings);
}
