//! The requests of the port service and their responses.
//!
//! Paths match as a whole, with uuids in lower case only; all others are unknown requests.

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::config::{Config, Object};
use super::format::{canonical, pretty};
use super::ports::{Port, PortKey, Registration, parse_nova_port, parse_vm_port};
use super::state::State;

/// Status and body.
pub(crate) type Response = (u16, String);

/// What follows from a request, beside its response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    None,
    PortsChanged,
    /// Ports of an earlier version than this expire with the stale timer.
    PortsStale(u64),
}

/// Handles a request.
pub(crate) fn handle(
    state: &mut State,
    name: &str,
    request: (&str, &str, &[u8]),
) -> (Response, Effect) {
    let (method, path, body) = request;
    let parts: Vec<_> = path.split('/').skip(1).collect();
    let id = parts.get(1).and_then(|part| canonical(part));
    match (method, parts.as_slice(), id) {
        ("POST", ["vm"], _) => empty_or_error(add_machine_port(state, body), Effect::PortsChanged),
        ("GET", ["vm", _], Some(machine)) => (
            json_or_not_found(registered_ports(state, name, machine)),
            Effect::None,
        ),
        ("GET", ["vm-cfg", _], Some(machine)) => (
            json_or_not_found(configuration(state, name, machine)),
            Effect::None,
        ),
        ("DELETE", ["vm", _], Some(machine)) => {
            for interface in configured_interfaces(state, name, machine) {
                state.ports.remove((Registration::Vm, machine, interface));
            }
            (empty(), Effect::PortsChanged)
        }
        ("POST", ["port"], _) => empty_or_error(add_nova_ports(state, body), Effect::PortsChanged),
        ("GET", ["port", _], Some(interface)) => {
            let port = state
                .ports
                .nova(interface)
                .map(|(_, port)| Value::Object(port.fields.clone()));
            (json_or_not_found(port), Effect::None)
        }
        ("DELETE", ["port", _], Some(interface)) => {
            if let Some((key, _)) = state.ports.nova(interface) {
                state.ports.remove(key);
            }
            (empty(), Effect::PortsChanged)
        }
        ("PUT", ["enable-port" | "disable-port", _], Some(interface)) => {
            let enabled = parts[0] == "enable-port";
            match state.ports.nova(interface) {
                None => (json_or_not_found(None), Effect::None),
                Some((_, port)) if !port.is_remote() => {
                    let problem = "Port is not of type remote".to_owned();
                    (internal_error(&problem), Effect::None)
                }
                Some((_, port)) => {
                    port.enabled = enabled;
                    (empty(), Effect::PortsChanged)
                }
            }
        }
        ("POST", ["syncports"], _) => (empty(), Effect::PortsStale(state.ports.next_version())),
        _ => {
            let unknown = json!({"error": "Unknown Request"}).to_string();
            ((404, unknown), Effect::None)
        }
    }
}

fn empty_or_error(result: Result<(), String>, effect: Effect) -> (Response, Effect) {
    match result {
        Ok(()) => (empty(), effect),
        Err(problem) => (internal_error(&problem), Effect::None),
    }
}

fn empty() -> Response {
    (200, "{}".to_owned())
}

fn internal_error(problem: &str) -> Response {
    let error = format!("{{ {problem} }}");
    (500, json!({ "error": error }).to_string())
}

fn json_or_not_found(value: Option<Value>) -> Response {
    match value {
        Some(value) => (200, pretty(&value)),
        None => (404, json!({"error": "{ Not Found }"}).to_string()),
    }
}

fn parse(body: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(body)
        .map_err(|_| format!("Invalid Json string ==> {}", String::from_utf8_lossy(body)))
}

fn object(value: Value, body: &[u8]) -> Result<Map<String, Value>, String> {
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(format!(
            "Unexpected Json string ==> {}",
            String::from_utf8_lossy(body)
        )),
    }
}

fn add_machine_port(state: &mut State, body: &[u8]) -> Result<(), String> {
    let (key, port) = parse_vm_port(object(parse(body)?, body)?)?;
    state.ports.add(key, port);
    Ok(())
}

/// Adds all ports, or those before the first invalid one.
fn add_nova_ports(state: &mut State, body: &[u8]) -> Result<(), String> {
    let values = match parse(body)? {
        Value::Array(values) => values,
        value => vec![value],
    };
    for value in values {
        let (key, port): (PortKey, Port) = parse_nova_port(object(value, body)?)?;
        state.ports.add(key, port);
    }
    Ok(())
}

/// Whether the agent has the configuration of a virtual machine.
pub(crate) fn has_configuration(state: &State, name: &str, machine: Uuid) -> bool {
    state.config.is_linked(name, machine) || state.ports.subscribes(machine)
}

/// The interfaces of a virtual machine whose configuration the agent has.
fn configured_interfaces(state: &State, name: &str, machine: Uuid) -> Vec<Uuid> {
    if !has_configuration(state, name, machine) {
        return vec![];
    }
    let interfaces = state.config.interfaces(machine).into_iter();
    interfaces.map(|interface| interface.uuid).collect()
}

fn configuration(state: &State, name: &str, machine: Uuid) -> Option<Value> {
    let config = &state.config;
    let interfaces: Vec<_> = configured_interfaces(state, name, machine)
        .into_iter()
        .filter_map(|uuid| config.get(uuid))
        .collect();
    if interfaces.is_empty() {
        return None;
    }
    let described = interfaces.into_iter().map(|interface| {
        let network = config.network(interface)?;
        let vlan = interface.vlan();
        let mut out = json!({
            "id": interface.uuid,
            "instance-id": machine,
            "vn-id": network.uuid,
            "vn-name": network.name(),
            "mac-address": interface.mac().unwrap_or("00:00:00:00:00:00"),
            "sub-interface": config.targets(interface, "virtual-machine-interface").next().is_some() && vlan != 65535,
            "vlan-id": vlan,
        });
        let pairs = interface.field("annotations")["key_value_pair"].as_array();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pairs: Vec<_> = pairs
            .into_iter()
            .flatten()
            .map(|pair| format!("{{{}:{}}}", text(&pair["key"]), text(&pair["value"])))
            .collect();
        if !pairs.is_empty() {
            out["annotations"] = pairs.into();
        }
        Some(out)
    });
    described.collect::<Option<Vec<_>>>().map(Value::from)
}

fn registered_ports(state: &State, name: &str, machine: Uuid) -> Option<Value> {
    let config = &state.config;
    let interfaces = configured_interfaces(state, name, machine);
    if interfaces.is_empty() {
        return None;
    }
    let described = interfaces.into_iter().map(|uuid| {
        let interface = config.get(uuid)?;
        let port = state.ports.of(machine, uuid)?;
        if !state.forwards(uuid) {
            return None;
        }
        describe(config, interface, machine, port)
    });
    described.collect::<Option<Vec<_>>>().map(Value::from)
}

fn describe(config: &Config, interface: &Object, machine: Uuid, port: &Port) -> Option<Value> {
    let network = config.network(interface)?;
    let addresses = config.addresses(interface.uuid);
    let v4 = addresses
        .iter()
        .find(|address| address.is_ipv4())
        .copied()?;
    let subnet = config.subnet(network, v4)?;
    let text = |address: Option<IpAddr>, none: &str| {
        address.map_or_else(|| none.to_owned(), |address| address.to_string())
    };
    let mut out = json!({
        "id": interface.uuid,
        "instance-id": machine,
        "vn-id": network.uuid,
        "vm-project-id": interface.parent.unwrap_or_default(),
        "mac-address": interface.mac().unwrap_or("00:00:00:00:00:00"),
        "system-name": port.tap,
        "rx-vlan-id": 65535,
        "tx-vlan-id": 65535,
        "vhostuser-mode": 0,
        "ip-address": v4.to_string(),
        "plen": subnet.net.prefix_len(),
        "dns-server": text(subnet.dns, "0.0.0.0"),
        "gateway": text(subnet.gateway, "0.0.0.0"),
    });
    let v6 = addresses.iter().find(|address| address.is_ipv6()).copied();
    if let Some(v6) = v6
        && let Some(subnet) = config.subnet(network, v6)
    {
        out["v6-ip-address"] = v6.to_string().into();
        out["v6-dns-server"] = text(subnet.dns, "::").into();
        out["v6-gateway"] = text(subnet.gateway, "::").into();
    }
    for name in ["author", "time"] {
        out[name] = port.fields.get(name).cloned().unwrap_or_default();
    }
    Some(out)
}
