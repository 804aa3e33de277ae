//! A container's requests in the configuration of its plugins: `args` as Mesos passes them, and
//! `runtimeConfig` for the capabilities that a plugin declares.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::config::PluginConfig;
use crate::proto::mesos::network_info::{IpAddress, PortMapping as MesosPortMapping, Protocol};
use crate::proto::mesos::{Label, NetworkInfo};
use crate::provider::{AddressRequest, NetworkRequest, PortMapping};

/// The configurations of a chain's plugins for one container.
pub(super) fn container_plugins(
    plugins: &[PluginConfig],
    request: &NetworkRequest,
) -> Vec<PluginConfig> {
    let info = network_info(&request.info);
    let addresses = static_addresses(&request.addresses);
    let with_arguments = |plugin: &PluginConfig| {
        let mut plugin = plugin.clone();
        let args = object(&mut plugin, "args");
        args.insert(
            "org.apache.mesos".to_owned(),
            json!({ "network_info": info }),
        );
        if !addresses.is_empty() {
            // The convention of IPAM plugins that have no capability.
            object(args, "cni")
                .entry("ips")
                .or_insert_with(|| json!(addresses));
        }
        let mut runtime = Map::new();
        if declares(&plugin, "portMappings") && !request.ports.is_empty() {
            let ports: Vec<Value> = request.ports.iter().copied().map(port_mapping).collect();
            runtime.insert("portMappings".to_owned(), ports.into());
        }
        if declares(&plugin, "ips") && !addresses.is_empty() {
            runtime.insert("ips".to_owned(), json!(addresses));
        }
        if !runtime.is_empty() {
            object(&mut plugin, "runtimeConfig").extend(runtime);
        }
        plugin
    };
    plugins.iter().map(with_arguments).collect()
}

/// The addresses that the framework requests by value.
pub(super) fn static_addresses(addresses: &[AddressRequest]) -> Vec<IpAddr> {
    addresses
        .iter()
        .filter_map(|address| match address {
            AddressRequest::Static(address) => Some(*address),
            AddressRequest::Any | AddressRequest::V4 | AddressRequest::V6 => None,
        })
        .collect()
}

/// The object at `key`, created if it is missing or of another type.
fn object<'a>(parent: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let value = parent.entry(key).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(object) => object,
        _ => unreachable!("it was just made an object"),
    }
}

/// Whether a plugin declares a capability.
pub(super) fn declares(plugin: &PluginConfig, capability: &str) -> bool {
    let declared = plugin
        .get("capabilities")
        .and_then(|capabilities| capabilities.get(capability));
    declared == Some(&Value::Bool(true))
}

fn port_mapping(port: PortMapping) -> Value {
    json!({
        "hostPort": port.host_port,
        "containerPort": port.container_port,
        "protocol": port.protocol.to_string(),
    })
}

/// A `NetworkInfo` in the JSON form of Mesos, which omits unset fields except defaults.
fn network_info(info: &NetworkInfo) -> Value {
    let string = |bytes: &[u8]| Value::from(String::from_utf8_lossy(bytes));
    let mut object = Map::new();
    let mut put = |key: &str, value: Value| {
        object.insert(key.to_owned(), value);
    };
    if let Some(name) = &info.name {
        put("name", string(name));
    }
    if !info.groups.is_empty() {
        put(
            "groups",
            info.groups.iter().map(|group| string(group)).collect(),
        );
    }
    if let Some(labels) = &info.labels {
        let label = |label: &Label| match &label.value {
            Some(value) => json!({ "key": string(&label.key), "value": string(value) }),
            None => json!({ "key": string(&label.key) }),
        };
        let labels: Vec<Value> = labels.labels.iter().map(label).collect();
        put(
            "labels",
            if labels.is_empty() {
                json!({})
            } else {
                json!({ "labels": labels })
            },
        );
    }
    if !info.ip_addresses.is_empty() {
        let address = |address: &IpAddress| {
            let protocol = match address.protocol() {
                Protocol::Ipv4 => "IPv4",
                Protocol::Ipv6 => "IPv6",
            };
            match &address.ip_address {
                Some(ip) => json!({ "protocol": protocol, "ip_address": string(ip) }),
                None => json!({ "protocol": protocol }),
            }
        };
        put(
            "ip_addresses",
            info.ip_addresses.iter().map(address).collect(),
        );
    }
    if !info.port_mappings.is_empty() {
        let mapping = |port: &MesosPortMapping| {
            let mut mapping = json!({
                "host_port": port.host_port,
                "container_port": port.container_port,
            });
            if let Some(protocol) = &port.protocol {
                mapping["protocol"] = string(protocol);
            }
            mapping
        };
        put(
            "port_mappings",
            info.port_mappings.iter().map(mapping).collect(),
        );
    }
    object.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::mesos::{Labels, network_info};

    #[test]
    fn network_info_json_is_that_of_mesos() {
        let info = NetworkInfo {
            name: Some(b"contrail-cni-plugin".to_vec()),
            groups: vec![b"one".to_vec()],
            ip_addresses: vec![network_info::IpAddress::default()],
            labels: Some(Labels {
                labels: vec![
                    Label {
                        key: b"networks".to_vec(),
                        value: Some(b"blue-network".to_vec()),
                    },
                    Label {
                        key: b"bare".to_vec(),
                        value: None,
                    },
                ],
            }),
            port_mappings: vec![network_info::PortMapping {
                host_port: 31080,
                container_port: 80,
                protocol: None,
            }],
        };
        assert_eq!(
            super::network_info(&info),
            json!({
                "name": "contrail-cni-plugin",
                "groups": ["one"],
                "ip_addresses": [{ "protocol": "IPv4" }],
                "labels": { "labels": [
                    { "key": "networks", "value": "blue-network" }, { "key": "bare" }
                ] },
                "port_mappings": [{ "host_port": 31080, "container_port": 80 }],
            })
        );
    }
}
