//! The port service: which request means what, and how it is answered.
//!
//! Paths match as a whole, with uuids in lower case only; everything else is an unknown request.

use std::net::IpAddr;

use serde::Serialize as _;
use serde_json::ser::PrettyFormatter;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::config::{Config, Object};
use super::ports::{Key, Port, Way, machine_port, nova_port};
use super::server::Inner;

/// Status and body.
pub(crate) type Answer = (u16, String);

/// What the service is asked to do after it has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Nothing,
    /// Ports or their interfaces are others.
    Changed,
    /// Ports before this version go once the stale timer has run out.
    Stale(u64),
}

/// A uuid in the one form that the service knows.
pub(crate) fn canonical(text: &str) -> Option<Uuid> {
    let uuid: Uuid = text.parse().ok()?;
    (uuid.to_string() == text).then_some(uuid)
}

/// Answers a request.
pub(crate) fn answer(
    inner: &mut Inner,
    name: &str,
    request: (&str, &str, &[u8]),
) -> (Answer, Effect) {
    let (method, path, body) = request;
    let parts: Vec<_> = path.split('/').skip(1).collect();
    let id = parts.get(1).and_then(|part| canonical(part));
    match (method, parts.as_slice(), id) {
        ("POST", ["vm"], _) => done(add_machine_port(inner, body), Effect::Changed),
        ("GET", ["vm", _], Some(machine)) => {
            (found(plugged(inner, name, machine)), Effect::Nothing)
        }
        ("GET", ["vm-cfg", _], Some(machine)) => {
            (found(configuration(inner, name, machine)), Effect::Nothing)
        }
        ("DELETE", ["vm", _], Some(machine)) => {
            for interface in known(inner, name, machine) {
                inner.ports.remove((Way::Machine, machine, interface));
            }
            (empty(), Effect::Changed)
        }
        ("POST", ["port"], _) => done(add_nova_ports(inner, body), Effect::Changed),
        ("GET", ["port", _], Some(interface)) => {
            let port = inner.ports.nova(interface);
            let port = port.map(|(_, port)| Value::Object(port.fields.clone()));
            (found(port), Effect::Nothing)
        }
        ("DELETE", ["port", _], Some(interface)) => {
            if let Some((key, _)) = inner.ports.nova(interface) {
                inner.ports.remove(key);
            }
            (empty(), Effect::Changed)
        }
        ("PUT", ["enable-port" | "disable-port", _], Some(interface)) => {
            let enabled = parts[0] == "enable-port";
            match inner.ports.nova(interface) {
                None => (found(None), Effect::Nothing),
                Some((_, port)) if !port.is_remote() => {
                    let problem = "Port is not of type remote".to_owned();
                    (refused(&problem), Effect::Nothing)
                }
                Some((_, port)) => {
                    port.enabled = enabled;
                    (empty(), Effect::Changed)
                }
            }
        }
        ("POST", ["syncports"], _) => (empty(), Effect::Stale(inner.ports.next_version())),
        _ => {
            let unknown = json!({"error": "Unknown Request"}).to_string();
            ((404, unknown), Effect::Nothing)
        }
    }
}

fn done(result: Result<(), String>, effect: Effect) -> (Answer, Effect) {
    match result {
        Ok(()) => (empty(), effect),
        Err(problem) => (refused(&problem), Effect::Nothing),
    }
}

fn empty() -> Answer {
    (200, "{}".to_owned())
}

fn refused(problem: &str) -> Answer {
    let error = format!("{{ {problem} }}");
    (500, json!({ "error": error }).to_string())
}

fn found(value: Option<Value>) -> Answer {
    match value {
        Some(value) => (200, pretty(&value)),
        None => (404, json!({"error": "{ Not Found }"}).to_string()),
    }
}

/// JSON as the agent prints it, with four spaces.
pub(crate) fn pretty(value: &Value) -> String {
    let mut text = Vec::new();
    let formatter = PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) => json!({ "error": error.to_string() }).to_string(),
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

fn add_machine_port(inner: &mut Inner, body: &[u8]) -> Result<(), String> {
    let (key, port) = machine_port(object(parse(body)?, body)?)?;
    inner.ports.add(key, port);
    Ok(())
}

/// All of them, or those before the first that is wrong.
fn add_nova_ports(inner: &mut Inner, body: &[u8]) -> Result<(), String> {
    let values = match parse(body)? {
        Value::Array(values) => values,
        value => vec![value],
    };
    for value in values {
        let (key, port): (Key, Port) = nova_port(object(value, body)?)?;
        inner.ports.add(key, port);
    }
    Ok(())
}

/// Whether the agent has the configuration of a virtual machine.
pub(crate) fn is_known(inner: &Inner, name: &str, machine: Uuid) -> bool {
    inner.config.is_linked(name, machine) || inner.ports.subscribes(machine)
}

/// The interfaces of a virtual machine that the agent has the configuration of.
fn known(inner: &Inner, name: &str, machine: Uuid) -> Vec<Uuid> {
    if !is_known(inner, name, machine) {
        return vec![];
    }
    let interfaces = inner.config.interfaces(machine).into_iter();
    interfaces.map(|interface| interface.uuid).collect()
}

fn configuration(inner: &Inner, name: &str, machine: Uuid) -> Option<Value> {
    let config = &inner.config;
    let interfaces = known(inner, name, machine).into_iter();
    let interfaces: Vec<_> = interfaces.filter_map(|uuid| config.get(uuid)).collect();
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

fn plugged(inner: &Inner, name: &str, machine: Uuid) -> Option<Value> {
    let config = &inner.config;
    let interfaces = known(inner, name, machine);
    if interfaces.is_empty() {
        return None;
    }
    let described = interfaces.into_iter().map(|uuid| {
        let interface = config.get(uuid)?;
        let port = inner.ports.of(machine, uuid)?;
        if !inner.forwards(uuid) {
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
