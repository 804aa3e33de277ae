//! What Marathon refuses although it has the right shape, and how it says so.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Defaults;
use super::app::{App, EngineType};
use super::network::{Mode, Network, is_host};
use super::pod::Pod;
use crate::marathon::id::is_name;

/// Places in a definition, each with what is wrong there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Violations(Vec<(String, String)>);

impl Violations {
    /// Adds one.
    pub fn add(&mut self, path: impl Into<String>, problem: impl Into<String>) {
        self.0.push((path.into(), problem.into()));
    }

    fn check(&mut self, holds: bool, path: impl Into<String>, problem: impl Into<String>) {
        if !holds {
            self.add(path, problem);
        }
    }

    /// An error if there is any.
    pub fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }

    /// `details` of Marathon's answer: one entry a place.
    #[must_use]
    pub fn details(&self) -> Value {
        let mut paths: Vec<&str> = Vec::new();
        for (path, _) in &self.0 {
            if !paths.contains(&path.as_str()) {
                paths.push(path);
            }
        }
        let errors = |path: &str| -> Vec<&str> {
            let here = self.0.iter().filter(|(place, _)| place == path);
            here.map(|(_, problem)| problem.as_str()).collect()
        };
        let detail = |path: &&str| json!({"path": path, "errors": errors(path)});
        paths.iter().map(detail).collect()
    }
}

/// Checks an app whose deprecated forms are already rewritten.
pub fn app(app: &App, defaults: &Defaults) -> Result<(), Violations> {
    let mut violations = Violations::default();
    let runnable = match (&app.cmd, &app.args) {
        (Some(_), Some(_)) => false,
        (None, None) => app.image().is_some(),
        _ => true,
    };
    violations.check(
        runnable,
        "/",
        "AppDefinition must either contain one of 'cmd' or 'args', and/or a 'container'.",
    );
    for (name, amount) in [("cpus", app.cpus), ("mem", app.mem), ("disk", app.disk)] {
        violations.check(
            amount >= 0.0,
            format!("/{name}"),
            "must be greater than or equal to 0.0",
        );
    }
    violations.check(
        app.backoff_factor >= 1.0,
        "/backoffFactor",
        "must be greater than or equal to 1.0",
    );
    networks(&app.networks, defaults, &mut violations);
    if let Some(container) = &app.container {
        let image = container.docker.as_ref().map(|docker| &docker.image);
        violations.check(
            image.is_none_or(|image| !image.is_empty()),
            "/container/docker/image",
            "must not be empty",
        );
        violations.check(
            container.engine == EngineType::Mesos || container.docker.is_some(),
            "/container/docker",
            "not defined",
        );
    }
    port_mappings(app, &mut violations);
    violations.into_result()
}

fn port_mappings(app: &App, violations: &mut Violations) {
    let mut names = BTreeSet::new();
    for (index, mapping) in app.port_mappings().iter().enumerate() {
        let path = format!("/container/portMappings({index})");
        violations.check(
            matches!(mapping.protocol.as_str(), "tcp" | "udp" | "udp,tcp"),
            format!("{path}/protocol"),
            "must be one of 'tcp', 'udp', 'udp,tcp'",
        );
        let fresh = mapping.name.as_ref().is_none_or(|name| names.insert(name));
        violations.check(
            fresh,
            "/container/portMappings",
            "Port names must be unique.",
        );
        let (path, hosted) = (format!("{path}/networkNames"), mapping.host_port.is_some());
        network_names(
            &mapping.network_names,
            hosted,
            &path,
            &app.networks,
            violations,
        );
    }
}

/// Checks a pod.
pub fn pod(pod: &Pod, defaults: &Defaults) -> Result<(), Violations> {
    let mut violations = Violations::default();
    networks(&pod.networks, defaults, &mut violations);
    violations.check(
        !pod.containers.is_empty(),
        "/containers",
        "must not be empty",
    );
    let mut names = BTreeSet::new();
    let mut endpoints = BTreeSet::new();
    for (index, container) in pod.containers.iter().enumerate() {
        let path = format!("/containers({index})");
        violations.check(
            is_name(&container.name),
            format!("{path}/name"),
            "must fully match regular expression '^[a-z0-9]([a-z0-9-]*[a-z0-9])?$'",
        );
        violations.check(
            names.insert(&container.name),
            "/containers",
            "container names must be unique",
        );
        violations.check(
            container.exec.is_some() || container.image.is_some(),
            format!("{path}/exec"),
            "not defined",
        );
        for (index, endpoint) in container.endpoints.iter().enumerate() {
            let path = format!("{path}/endpoints({index})");
            violations.check(
                endpoints.insert(&endpoint.name),
                "/containers",
                "Endpoint names are unique across all containers",
            );
            let host = is_host(&pod.networks);
            violations.check(
                host || endpoint.container_port.is_some(),
                format!("{path}/containerPort"),
                "is required when using container-mode networking",
            );
            violations.check(
                !host || endpoint.host_port.is_some(),
                format!("{path}/hostPort"),
                "is required when using host-mode networking",
            );
            network_names(
                &endpoint.network_names,
                endpoint.host_port.is_some(),
                &format!("{path}/networkNames"),
                &pod.networks,
                &mut violations,
            );
        }
    }
    violations.into_result()
}

fn network_names(
    names: &[String],
    hosted: bool,
    path: &str,
    networks: &[Network],
    violations: &mut Violations,
) {
    let known = |name: &String| networks.iter().any(|net| net.name.as_ref() == Some(name));
    violations.check(
        names.iter().all(known),
        path,
        "must be the name of one of the networks",
    );
    let containers = networks.iter().filter(|net| net.mode == Mode::Container);
    violations.check(
        !hosted || containers.count() < 2 || names.len() == 1,
        path,
        "must be a single item list when hostPort is specified and more than 1 container network \
         is defined",
    );
}

fn networks(networks: &[Network], defaults: &Defaults, violations: &mut Violations) {
    let of = |mode| networks.iter().filter(move |net| net.mode == mode);
    let named = |net: &Network| net.name.as_ref().is_some_and(|name| !name.is_empty());
    violations.check(
        !of(Mode::Host).any(|net| named(net) || !net.labels.is_empty()),
        "/networks",
        "Host networks may not have names or labels",
    );
    violations.check(
        !of(Mode::Bridge).any(named),
        "/networks",
        "Bridge networks may not have names",
    );
    let mut seen = BTreeSet::new();
    violations.check(
        of(Mode::Container).all(|net| seen.insert(&net.name)),
        "/networks",
        "Duplicate networks are not allowed",
    );
    let counts = [Mode::Host, Mode::Bridge, Mode::Container].map(|mode| of(mode).count());
    violations.check(
        matches!(counts, [0 | 1, 0, 0] | [0, 1, 0] | [0, 0, _]),
        "/networks",
        "May specify a single host network, single bridge network, or else 1-to-n container \
         networks",
    );
    let nameless = of(Mode::Container).any(|net| !named(net));
    violations.check(
        !nameless || defaults.network_name.is_some(),
        "/networks",
        "Network name must be specified when container network is selected.",
    );
}
