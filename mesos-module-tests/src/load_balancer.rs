//! A real `HAProxy` in front of tasks, configured from Marathon's apps by the rules of marathon-lb.
//!
//! marathon-lb reads `/v2/apps?embed=apps.tasks` and nothing else. Which tasks become servers, and at
//! which addresses, are its rules; what it writes for HTTP, TLS and virtual hosts is left out. In
//! mode `container` a server is the task's **first address** and the port of the container, never a port
//! of the host: it works where the balancer reaches the addresses of containers.
//!
//! Invariant: values from Marathon end up in the configuration only as numbers, as addresses, or as names
//! without anything but letters, digits, `-`, `_` and `.`.

mod haproxy;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

pub use haproxy::HaProxy;

/// The states of tasks that get no traffic. Lost and unreachable ones do.
const WITHOUT_TRAFFIC: [&str; 11] = [
    "TASK_STAGING",
    "TASK_STARTING",
    "TASK_KILLING",
    "TASK_FINISHED",
    "TASK_FAILED",
    "TASK_KILLED",
    "TASK_ERROR",
    "TASK_DROPPED",
    "TASK_GONE",
    "TASK_GONE_BY_OPERATOR",
    "TASK_UNKNOWN",
];

/// A port of an app, and the servers behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// The app's id, with underscores.
    pub app: String,
    /// The service port, at which the balancer listens.
    pub port: u16,
    /// The tasks.
    pub servers: Vec<SocketAddr>,
}

/// Where the tasks of an app are reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Host,
    Bridge,
    Container,
}

/// The ports of the apps of a group, in the order of their ports. `apps` is Marathon's answer. With
/// `checked`, tasks of apps with health checks need a result that says that they are alive.
#[must_use]
pub fn frontends(apps: &Value, group: &str, checked: bool) -> Vec<Frontend> {
    let mut frontends: Vec<Frontend> = items(&apps["apps"])
        .flat_map(|app| of_app(app, group, checked))
        .collect();
    frontends.sort_by_key(|frontend| frontend.port);
    frontends
}

/// The configuration of `HAProxy` for these ports, at an address.
#[must_use]
pub fn configuration(frontends: &[Frontend], address: IpAddr) -> String {
    let mut text = String::from(
        "global\n  maxconn 1000\n\
         defaults\n  mode tcp\n  balance roundrobin\n  retries 3\n  option redispatch\n  \
         timeout connect 3s\n  timeout client 30s\n  timeout server 30s\n",
    );
    for frontend in frontends {
        let Frontend { app, port, servers } = frontend;
        let bind = SocketAddr::new(address, *port);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "frontend {app}_{port}\n  bind {bind}\n  use_backend {app}_{port}\nbackend {app}_{port}"
        );
        for (index, server) in servers.iter().enumerate() {
            let _ = writeln!(text, "  server task{index} {server}");
        }
    }
    text
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn of_app(app: &Value, group: &str, checked: bool) -> Vec<Frontend> {
    let mode = mode(app);
    let name: String = app["id"]
        .as_str()
        .unwrap_or_default()
        .trim_start_matches('/')
        .chars()
        .map(|letter| match letter {
            'a'..='z' | '0'..='9' | '-' | '.' => letter,
            _ => '_',
        })
        .collect();
    let ports = service_ports(app, mode).into_iter().enumerate();
    ports
        .filter(|(index, _)| is_in_group(app, *index, group))
        .map(|(index, port)| {
            let mut servers: Vec<SocketAddr> = items(&app["tasks"])
                .filter(|task| has_traffic(app, task, checked))
                .filter_map(|task| server(app, task, mode, index))
                .collect();
            servers.sort();
            servers.dedup();
            Frontend {
                app: name.clone(),
                port,
                servers,
            }
        })
        .collect()
}

/// The label of the port overrides that of the app. Groups are separated by commas, and not trimmed.
fn is_in_group(app: &Value, index: usize, group: &str) -> bool {
    let of_port = &app["labels"][format!("HAPROXY_{index}_GROUP")];
    let label = of_port
        .as_str()
        .or_else(|| app["labels"]["HAPROXY_GROUP"].as_str());
    group == "*" || label.is_some_and(|label| label.split(',').any(|own| own == group))
}

/// The mode of the last network.
fn mode(app: &Value) -> Mode {
    match items(&app["networks"])
        .last()
        .map(|network| &network["mode"])
    {
        Some(mode) if mode == "container" => Mode::Container,
        Some(mode) if mode == "container/bridge" => Mode::Bridge,
        _ => Mode::Host,
    }
}

fn port(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|port| port.try_into().ok())
}

fn service_ports(app: &Value, mode: Mode) -> Vec<u16> {
    let (list, key) = match mode {
        Mode::Host => (&app["portDefinitions"], "port"),
        Mode::Bridge | Mode::Container => (&app["container"]["portMappings"], "servicePort"),
    };
    items(list).filter_map(|entry| port(&entry[key])).collect()
}

fn has_traffic(app: &Value, task: &Value, checked: bool) -> bool {
    let state = task["state"].as_str().unwrap_or_default();
    let has_check = items(&app["healthChecks"]).next().is_some();
    let is_alive = || items(&task["healthCheckResults"]).any(|result| result["alive"] == true);
    !WITHOUT_TRAFFIC.contains(&state) && (!checked || !has_check || is_alive())
}

/// The server of a task for the port with this index; none without an address or a port.
fn server(app: &Value, task: &Value, mode: Mode, index: usize) -> Option<SocketAddr> {
    let (address, port) = match mode {
        Mode::Container => (
            &task["ipAddresses"][0]["ipAddress"],
            port(&app["container"]["portMappings"][index]["containerPort"])?,
        ),
        Mode::Host | Mode::Bridge => (&task["host"], port(&task["ports"][index])?),
    };
    let address: IpAddr = address.as_str()?.parse().ok()?;
    (port != 0).then_some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The servers of the ports of one app.
    fn servers(app: &Value) -> Vec<(u16, Vec<String>)> {
        let frontends = frontends(&json!({ "apps": [app] }), "external", true);
        let servers = |own: Frontend| {
            let servers = own.servers.iter().map(ToString::to_string);
            (own.port, servers.collect())
        };
        frontends.into_iter().map(servers).collect()
    }

    fn app(mode: &str, fields: Value) -> Value {
        let task = |state: &str, address: &str| {
            json!({"state": state, "host": "192.0.2.1", "ports": [31000],
                "ipAddresses": [{"ipAddress": address}, {"ipAddress": "fd00::2"}]})
        };
        let mut app = json!({
            "id": "/group/web", "labels": {"HAPROXY_GROUP": "external,internal"},
            "networks": [{"mode": mode}],
            "portDefinitions": [{"port": 10_000}],
            "container": {"portMappings": [{"containerPort": 8080, "servicePort": 10_000}]},
            "tasks": [task("TASK_RUNNING", "10.32.0.2"), task("TASK_KILLING", "10.32.0.3"),
                task("TASK_UNREACHABLE", "10.32.0.4")],
        });
        if let (Some(app), Value::Object(fields)) = (app.as_object_mut(), fields) {
            app.extend(fields);
        }
        app
    }

    #[test]
    fn server_is_chosen_by_the_mode_of_the_network() {
        let of_containers = vec!["10.32.0.2:8080".to_owned(), "10.32.0.4:8080".to_owned()];
        let none = json!({});
        assert_eq!(
            servers(&app("container", none.clone())),
            [(10_000, of_containers)]
        );
        let of_host = [(10_000, vec!["192.0.2.1:31000".to_owned()])];
        assert_eq!(servers(&app("container/bridge", none.clone())), of_host);
        assert_eq!(servers(&app("host", none)), of_host);
    }

    #[test]
    fn group_of_the_port_overrides_that_of_the_app() {
        let labels = |labels: Value| json!({ "labels": labels });
        for (labels, is_written) in [
            (labels(json!({})), false),
            (labels(json!({"HAPROXY_GROUP": "internal"})), false),
            // As marathon-lb does: the blank is part of the name.
            (
                labels(json!({"HAPROXY_GROUP": "internal, external"})),
                false,
            ),
            (labels(json!({"HAPROXY_GROUP": "internal,external"})), true),
            (
                labels(json!({"HAPROXY_GROUP": "internal", "HAPROXY_0_GROUP": "external"})),
                true,
            ),
        ] {
            let found = !servers(&app("host", labels.clone())).is_empty();
            assert_eq!(found, is_written, "{labels}");
        }
        let all = frontends(
            &json!({"apps": [app("host", json!({"labels": {}}))]}),
            "*",
            false,
        );
        assert_eq!(all.len(), 1);
    }

    #[test]
    fn checked_app_needs_a_result() {
        let check = json!([{"protocol": "MESOS_HTTP"}]);
        let more = |alive: Value| {
            json!({"healthChecks": check, "tasks": [{"state": "TASK_RUNNING",
                "host": "192.0.2.1", "ports": [31000], "healthCheckResults": alive}]})
        };
        for (results, count) in [
            (json!([]), 0),
            (json!([{"alive": false}]), 0),
            (json!([{"alive": true}]), 1),
        ] {
            assert_eq!(servers(&app("host", more(results)))[0].1.len(), count);
        }
    }

    #[test]
    fn hostile_names_and_addresses_do_not_reach_the_configuration() {
        let hostile = app(
            "container",
            json!({"id": "/web\n  bind :80 #", "tasks": [
                {"state": "TASK_RUNNING", "ipAddresses": [{"ipAddress": "1.2.3.4 check\n"}]}]}),
        );
        let frontends = frontends(&json!({ "apps": [hostile] }), "external", false);
        let text = configuration(&frontends, [192, 0, 2, 1].into());
        assert!(text.contains("frontend web___bind__80___10000\n"), "{text}");
        assert!(text.contains("  bind 192.0.2.1:10000\n"), "{text}");
        assert_eq!(text.matches("bind ").count(), 1, "{text}");
        assert!(!text.contains("\n  server "), "{text}");
    }
}
