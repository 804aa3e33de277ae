//! A container's requests in the configuration of its plugins: `args` as Mesos passes them, the
//! conventions of CNI for static addresses, and `runtimeConfig` for the capabilities that a plugin
//! declares.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::config::cni::plugin_type;
use crate::config::{Dns, PluginConfig};
use crate::proto::mesos::network_info::{IpAddress, PortMapping as MesosPortMapping, Protocol};
use crate::proto::mesos::{Label, NetworkInfo};
use crate::provider::{AddressRequest, NetworkRequest, PortMapping};
use contrail_mesos_api::container::Mac;
use contrail_mesos_api::text::Quoted;

/// The label by which a framework requests a MAC address.
const MAC_LABEL: &str = "cni.mac";
/// The label by which a framework limits the bandwidth.
const BANDWIDTH_LABEL: &str = "cni.bandwidth";
/// The burst of a rate without one, in bits: as Kubernetes sets it, as good as none.
const DEFAULT_BURST_BITS: u64 = i32::MAX as u64;
/// IPAM plugins that read addresses without their prefix, in `args` and `CNI_ARGS`.
const PLAIN_ADDRESS_PLUGINS: [&str; 2] = ["host-local", "calico-ipam"];

/// What the labels of a request ask of a plugin that declares the capability.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct LabelCapabilities {
    mac: Option<Mac>,
    bandwidth: Option<Bandwidth>,
}

/// The value of the capability `bandwidth`, in bits (per second) as the container sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Bandwidth {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ingress_rate: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ingress_burst: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    egress_rate: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    egress_burst: Option<u64>,
}

impl Bandwidth {
    fn parse(json: &str) -> Option<Self> {
        let mut bandwidth: Self = serde_json::from_str(json).ok()?;
        let has_burst = |rate: Option<u64>, burst: &mut Option<u64>| match (rate, &burst) {
            (Some(0), _) | (_, Some(0)) | (None, Some(_)) => false,
            (Some(_), None) => {
                *burst = Some(DEFAULT_BURST_BITS);
                true
            }
            _ => true,
        };
        let is_valid = has_burst(bandwidth.ingress_rate, &mut bandwidth.ingress_burst)
            && has_burst(bandwidth.egress_rate, &mut bandwidth.egress_burst)
            && (bandwidth.ingress_rate.is_some() || bandwidth.egress_rate.is_some());
        is_valid.then_some(bandwidth)
    }
}

impl LabelCapabilities {
    /// Reads the labels of a request; returns every problem.
    pub(super) fn parse(
        request: &NetworkRequest,
        plugins: &[PluginConfig],
    ) -> Result<Self, Vec<String>> {
        let mut problems = vec![];
        let mut value = |label: &str, capability: &str| {
            let value = request.labels.get(label)?;
            if plugins.iter().any(|plugin| declares(plugin, capability)) {
                return Some(value);
            }
            problems.push(format!(
                "the label {label} needs a plugin with the capability {capability:?}; remove the \
                 label, or add \"capabilities\": {{\"{capability}\": true}} to a plugin of the \
                 network that supports it"
            ));
            None
        };
        let mac = value(MAC_LABEL, "mac").cloned();
        let bandwidth = value(BANDWIDTH_LABEL, "bandwidth").cloned();
        let capabilities = Self {
            mac: mac.and_then(|mac| {
                let parsed = Mac::try_from(mac.to_lowercase()).ok();
                // The lowest bit of the first byte is that of multicast.
                let parsed = parsed.filter(|mac| mac.0[0] & 1 == 0 && *mac != Mac([0; 6]));
                if parsed.is_none() {
                    problems.push(format!(
                        "the label {MAC_LABEL} is {}, which is not the MAC address of an \
                         interface, such as 02:00:00:00:00:01",
                        Quoted(mac.as_bytes())
                    ));
                }
                parsed
            }),
            bandwidth: bandwidth.and_then(|json| {
                let parsed = Bandwidth::parse(&json);
                if parsed.is_none() {
                    problems.push(format!(
                        "the label {BANDWIDTH_LABEL} is {}; expected ingressRate, egressRate or \
                         both in bits per second, such as {{\"ingressRate\": 10000000}}, and \
                         with a rate an ingressBurst or egressBurst in bits",
                        Quoted(json.as_bytes())
                    ));
                }
                parsed
            }),
        };
        if problems.is_empty() {
            Ok(capabilities)
        } else {
            Err(problems)
        }
    }
}

/// The configurations of a chain's plugins for one container.
pub(super) fn container_plugins(
    plugins: &[PluginConfig],
    request: &NetworkRequest,
    labels: &LabelCapabilities,
) -> Vec<PluginConfig> {
    let info = network_info(&request.info);
    let addresses = addresses_with_prefix(&request.addresses, plugins);
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
                .or_insert_with(|| address_texts(&addresses, plugins).into());
        }
        let mut runtime = Map::new();
        let mut set = |capability: &str, value: Option<Value>| {
            if let Some(value) = value.filter(|_| declares(&plugin, capability)) {
                runtime.insert(capability.to_owned(), value);
            }
        };
        let ports: Vec<Value> = request.ports.iter().copied().map(port_mapping).collect();
        set("portMappings", (!ports.is_empty()).then(|| ports.into()));
        set(
            "ips",
            (!addresses.is_empty()).then(|| json!(addresses.as_slice())),
        );
        set("mac", labels.mac.map(|mac| mac.to_string().into()));
        set(
            "bandwidth",
            labels.bandwidth.map(|bandwidth| json!(bandwidth)),
        );
        set("dns", request.network.dns.as_ref().map(dns));
        if !runtime.is_empty() {
            object(&mut plugin, "runtimeConfig").extend(runtime);
        }
        plugin
    };
    plugins.iter().map(with_arguments).collect()
}

/// `CNI_ARGS`: static addresses for IPAM plugins that know no other convention. Empty for none.
pub(super) fn cni_args(plugins: &[PluginConfig], request: &NetworkRequest) -> String {
    let addresses = addresses_with_prefix(&request.addresses, plugins);
    let texts = address_texts(&addresses, plugins);
    // Plugins that read it without a prefix read one address.
    if texts.is_empty() || texts.len() > 1 && reads_plain_addresses(plugins) {
        return String::new();
    }
    format!("IgnoreUnknown=1;IP={}", texts.join(","))
}

/// The form of static addresses in `args` and `CNI_ARGS`, which IPAM plugins do not agree on.
fn address_texts(addresses: &[IpNet], plugins: &[PluginConfig]) -> Vec<String> {
    let is_plain = reads_plain_addresses(plugins);
    addresses
        .iter()
        .map(|address| {
            if is_plain {
                address.addr().to_string()
            } else {
                address.to_string()
            }
        })
        .collect()
}

fn reads_plain_addresses(plugins: &[PluginConfig]) -> bool {
    ipam_configurations(plugins)
        .iter()
        .any(|ipam| PLAIN_ADDRESS_PLUGINS.contains(&plugin_type(ipam)))
}

/// The static addresses with the prefix of the network: that of the smallest subnet or address of
/// the IPAM configuration that contains the address. Without any, the address is a network of its
/// own.
fn addresses_with_prefix(addresses: &[AddressRequest], plugins: &[PluginConfig]) -> Vec<IpNet> {
    let mut subnets = vec![];
    for ipam in ipam_configurations(plugins) {
        for (key, value) in ipam {
            collect_subnets(key, value, &mut subnets);
        }
    }
    static_addresses(addresses)
        .into_iter()
        .map(|address| {
            let prefix = subnets
                .iter()
                .filter(|subnet| subnet.contains(&address))
                .map(IpNet::prefix_len)
                .max();
            prefix
                .and_then(|prefix| IpNet::new(address, prefix).ok())
                .unwrap_or_else(|| IpNet::from(address))
        })
        .collect()
}

/// The IPAM configurations of plugins, and of those that they delegate to.
fn ipam_configurations(plugins: &[PluginConfig]) -> Vec<&PluginConfig> {
    fn collect<'a>(config: &'a PluginConfig, found: &mut Vec<&'a PluginConfig>) {
        for (key, value) in config {
            if let Value::Object(object) = value {
                if key == "ipam" {
                    found.push(object);
                } else {
                    collect(object, found);
                }
            }
        }
    }
    let mut found = vec![];
    for plugin in plugins {
        collect(plugin, &mut found);
    }
    found
}

/// Collects the subnets of an IPAM configuration, which are called `subnet`, `address` or `range`
/// at any depth.
fn collect_subnets(key: &str, value: &Value, found: &mut Vec<IpNet>) {
    match value {
        Value::String(text) if matches!(key, "subnet" | "address" | "range") => {
            found.extend(text.parse::<IpNet>());
        }
        Value::Array(values) => {
            for value in values {
                collect_subnets(key, value, found);
            }
        }
        Value::Object(object) => {
            for (key, value) in object {
                collect_subnets(key, value, found);
            }
        }
        _ => {}
    }
}

/// The value of the capability `dns`.
fn dns(dns: &Dns) -> Value {
    let search: Vec<&String> = dns.domain.iter().chain(&dns.search).collect();
    json!({ "servers": dns.nameservers, "searches": search, "options": dns.options })
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
    use crate::config::{CniNetwork, Network, NetworkProvider};
    use crate::proto::mesos::{Labels, network_info};
    use contrail_mesos_api::cluster::Membership;
    use contrail_mesos_api::container::ContainerId;

    fn plugins(list: &Value) -> Vec<PluginConfig> {
        serde_json::from_value(list.clone()).unwrap()
    }

    fn request(addresses: &[&str], labels: &[(&str, &str)]) -> NetworkRequest {
        NetworkRequest {
            container: ContainerId::top_level("one"),
            interface: "eth0".to_owned(),
            network: Network {
                name: "blue".to_owned(),
                dns: Some(Dns {
                    nameservers: vec!["10.0.0.2".parse().unwrap()],
                    domain: Some("example".to_owned()),
                    search: vec!["other".to_owned()],
                    options: vec!["ndots:2".to_owned()],
                }),
                provider: NetworkProvider::Cni(CniNetwork {
                    file: "/etc/cni/net.d/blue.conf".into(),
                    plugin_dirs: vec![],
                    deadline: std::time::Duration::from_secs(1),
                    chain: Err(String::new()),
                }),
            },
            addresses: addresses
                .iter()
                .map(|address| AddressRequest::Static(address.parse().unwrap()))
                .collect(),
            ports: vec![],
            membership: Membership::default(),
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            info: NetworkInfo::default(),
        }
    }

    #[test]
    fn static_address_has_prefix_of_its_network() {
        let request = request(&["10.77.0.42", "fd00:77::42"], &[]);
        for (ipam, in_runtime, in_args, cni_args) in [
            (
                json!({ "type": "static" }),
                json!(["10.77.0.42/32", "fd00:77::42/128"]),
                json!(["10.77.0.42/32", "fd00:77::42/128"]),
                "IgnoreUnknown=1;IP=10.77.0.42/32,fd00:77::42/128",
            ),
            (
                json!({
                    "type": "static", "routes": [{ "dst": "10.0.0.0/8" }],
                    "addresses": [{ "address": "10.77.0.1/24" }, { "address": "fd00:77::1/64" }],
                }),
                json!(["10.77.0.42/24", "fd00:77::42/64"]),
                json!(["10.77.0.42/24", "fd00:77::42/64"]),
                "IgnoreUnknown=1;IP=10.77.0.42/24,fd00:77::42/64",
            ),
            (
                json!({ "type": "whereabouts", "range": "10.77.0.0/16", "subnet": "fd00:77::/48" }),
                json!(["10.77.0.42/16", "fd00:77::42/48"]),
                json!(["10.77.0.42/16", "fd00:77::42/48"]),
                "IgnoreUnknown=1;IP=10.77.0.42/16,fd00:77::42/48",
            ),
            (
                json!({
                    "type": "host-local",
                    "ranges": [[{ "subnet": "10.77.0.0/24" }], [{ "subnet": "fd00:77::/64" }]],
                }),
                json!(["10.77.0.42/24", "fd00:77::42/64"]),
                json!(["10.77.0.42", "fd00:77::42"]),
                "",
            ),
        ] {
            let chain = plugins(&json!([
                { "type": "bridge", "ipam": ipam, "capabilities": { "ips": true } },
                { "type": "portmap" },
            ]));
            let configured = container_plugins(&chain, &request, &LabelCapabilities::default());
            assert_eq!(configured[0]["runtimeConfig"]["ips"], in_runtime, "{ipam}");
            for plugin in &configured {
                assert_eq!(plugin["args"]["cni"]["ips"], in_args, "{ipam}");
            }
            assert!(!configured[1].contains_key("runtimeConfig"));
            assert_eq!(super::cni_args(&chain, &request), cni_args, "{ipam}");
            // What an older mapper of ports delegates to.
            let chain = plugins(&json!([{ "type": "mapper", "delegate": { "ipam": ipam } }]));
            let configured = container_plugins(&chain, &request, &LabelCapabilities::default());
            assert_eq!(configured[0]["args"]["cni"]["ips"], in_args, "{ipam}");
        }
    }

    #[test]
    fn capabilities_get_what_was_requested() {
        let chain = plugins(&json!([
            { "type": "bridge", "capabilities": { "mac": true, "dns": true, "ips": true } },
            { "type": "bandwidth", "capabilities": { "bandwidth": true, "portMappings": false } },
        ]));
        let request = request(
            &[],
            &[
                ("cni.mac", "02:00:00:AA:00:01"),
                (
                    "cni.bandwidth",
                    r#"{"ingressRate": 1000, "egressRate": 5, "egressBurst": 6}"#,
                ),
                ("other", "label"),
            ],
        );
        let labels = LabelCapabilities::parse(&request, &chain).unwrap();
        let configured = container_plugins(&chain, &request, &labels);
        assert_eq!(
            configured[0]["runtimeConfig"],
            json!({
                "mac": "02:00:00:aa:00:01",
                "dns": { "servers": ["10.0.0.2"], "searches": ["example", "other"], "options": ["ndots:2"] },
            })
        );
        assert_eq!(
            configured[1]["runtimeConfig"],
            json!({ "bandwidth": {
                "ingressRate": 1000, "ingressBurst": i32::MAX, "egressRate": 5, "egressBurst": 6,
            } })
        );
    }

    #[test]
    fn invalid_or_unsupported_labels_are_refused_together() {
        let able = plugins(&json!([{
            "type": "bridge", "capabilities": { "mac": true, "bandwidth": true },
        }]));
        for (mac, bandwidth) in [
            ("", ""),
            ("02:00:00:00:00", "{}"),
            ("01:00:00:00:00:01", r#"{"ingressBurst": 5}"#),
            ("00:00:00:00:00:00", r#"{"ingressRate": 0}"#),
            ("02:00:00:00:00:01:02", r#"{"ingressRate": -1}"#),
            ("02-00-00-00-00-0g", r#"{"ingressRate": 5, "more": 1}"#),
            ("x\u{1b}", "[]"),
        ] {
            let request = request(&[], &[("cni.mac", mac), ("cni.bandwidth", bandwidth)]);
            let problems = LabelCapabilities::parse(&request, &able).unwrap_err();
            assert_eq!(problems.len(), 2, "{problems:?}");
            assert!(!problems.concat().contains('\u{1b}'), "{problems:?}");
        }
        let unable = plugins(&json!([{ "type": "bridge" }]));
        let request = request(
            &[],
            &[("cni.mac", "02:00:00:00:00:01"), ("cni.bandwidth", "{}")],
        );
        let problems = LabelCapabilities::parse(&request, &unable).unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("capability \"mac\""), "{problems:?}");
    }

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
