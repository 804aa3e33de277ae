//! Parses a plugin's result, in any form from 0.1.0 to 1.1.0.
//!
//! Until 0.2.0 it has `ip4` and `ip6`, since 0.3.0 `ips`, `interfaces` and `routes`. The forms are
//! distinguished by their keys, because plugins are not strict about the version that they write.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use crate::config::{Dns, is_word};
use contrail_mesos_api::container::Mac;

/// The name of the loopback interface.
const LOOPBACK: &str = "lo";

/// The result of a chain of plugins.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct CniResult {
    /// The addresses of the container's interface; never loopback addresses.
    pub(super) addresses: Vec<IpNet>,
    /// Next hops, one per family at most.
    pub(super) gateways: Vec<IpAddr>,
    /// Resolver configuration.
    pub(super) dns: Dns,
    /// The MAC address of the container's interface.
    pub(super) mac: Option<Mac>,
    /// Interfaces on the host, among them the host end if there is one.
    pub(super) host_interfaces: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawResult {
    ip4: Option<RawLegacyAddress>,
    ip6: Option<RawLegacyAddress>,
    ips: Option<Vec<RawAddress>>,
    interfaces: Option<Vec<RawInterface>>,
    dns: Option<RawDns>,
}

#[derive(Deserialize)]
struct RawLegacyAddress {
    ip: String,
    #[serde(default)]
    gateway: Option<String>,
}

#[derive(Deserialize)]
struct RawAddress {
    address: String,
    #[serde(default)]
    gateway: Option<String>,
    #[serde(default)]
    interface: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawInterface {
    name: String,
    mac: Option<String>,
    sandbox: Option<String>,
}

impl RawInterface {
    fn is_inside(&self) -> bool {
        self.sandbox.as_ref().is_some_and(|path| !path.is_empty())
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawDns {
    nameservers: Option<Vec<String>>,
    domain: Option<String>,
    search: Option<Vec<String>>,
    options: Option<Vec<String>>,
}

impl CniResult {
    /// Parses the result of plugins that attached the interface `interface`.
    pub(super) fn parse(result: &Value, interface: &str) -> Result<Self, String> {
        if !result.is_object() {
            return Err("its result is not a JSON object".to_owned());
        }
        let raw: RawResult = serde_path_to_error::deserialize(result)
            .map_err(|error| format!("its result is not valid CNI: {error}"))?;
        let interfaces = raw.interfaces.unwrap_or_default();
        let mut parsed = Self {
            host_interfaces: interfaces
                .iter()
                .filter(|other| !other.is_inside())
                .map(|other| other.name.clone())
                .collect(),
            dns: raw.dns.map(dns).unwrap_or_default(),
            ..Self::default()
        };
        // Without one of that name, the plugins' first: they may call it otherwise.
        let own = interfaces
            .iter()
            .position(|other| other.name == interface && other.is_inside())
            .or_else(|| {
                interfaces
                    .iter()
                    .position(|other| other.name != LOOPBACK && other.is_inside())
            });
        parsed.mac = own
            .and_then(|own| interfaces[own].mac.clone())
            .and_then(|mac| Mac::try_from(mac.to_lowercase()).ok());
        for legacy in [raw.ip4, raw.ip6].into_iter().flatten() {
            parsed.add(&legacy.ip, legacy.gateway.as_deref())?;
        }
        for ip in raw.ips.unwrap_or_default() {
            // An address of another interface is the host's, or not the one that is reported.
            let owner = ip
                .interface
                .and_then(|index| usize::try_from(index).ok())
                .filter(|_| !interfaces.is_empty());
            if owner.is_none() || owner == own {
                parsed.add(&ip.address, ip.gateway.as_deref())?;
            }
        }
        Ok(parsed)
    }

    fn add(&mut self, address: &str, gateway: Option<&str>) -> Result<(), String> {
        let address: IpNet = address
            .parse()
            .map_err(|_| format!("its result has the invalid address {address:?}"))?;
        // The plugin loopback reports the addresses that every container has.
        if address.addr().is_loopback() || address.addr().is_unspecified() {
            return Ok(());
        }
        if !self.addresses.contains(&address) {
            self.addresses.push(address);
        }
        let Some(gateway) = gateway.filter(|gateway| !gateway.is_empty()) else {
            return Ok(());
        };
        let gateway: IpAddr = gateway
            .parse()
            .map_err(|_| format!("its result has the invalid gateway {gateway:?}"))?;
        if !self
            .gateways
            .iter()
            .any(|other| other.is_ipv4() == gateway.is_ipv4())
        {
            self.gateways.push(gateway);
        }
        Ok(())
    }
}

/// Omits values that are invalid in a `resolv.conf`: a container with a partial resolver
/// configuration is better than none.
fn dns(raw: RawDns) -> Dns {
    let words = |words: Option<Vec<String>>| -> Vec<String> {
        words
            .unwrap_or_default()
            .into_iter()
            .filter(|word| is_word(word))
            .collect()
    };
    Dns {
        nameservers: raw
            .nameservers
            .unwrap_or_default()
            .iter()
            .filter_map(|server| server.parse().ok())
            .collect(),
        domain: raw.domain.filter(|domain| is_word(domain)),
        search: words(raw.search),
        options: words(raw.options),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn nets(nets: &[&str]) -> Vec<IpNet> {
        nets.iter().map(|net| net.parse().unwrap()).collect()
    }

    #[test]
    fn parse_accepts_the_legacy_form() {
        let result = json!({
            "cniVersion": "0.2.0",
            "ip4": { "ip": "10.1.0.5/16", "gateway": "10.1.0.1", "routes": [{ "dst": "0.0.0.0/0" }] },
            "ip6": { "ip": "fd00::5/64" },
            "dns": { "nameservers": ["10.1.0.2", "not an address"], "search": ["a.b", "c\nd"] },
        });
        let parsed = CniResult::parse(&result, "eth0").unwrap();
        assert_eq!(parsed.addresses, nets(&["10.1.0.5/16", "fd00::5/64"]));
        assert_eq!(parsed.gateways, ["10.1.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(parsed.dns.nameservers.len(), 1);
        assert_eq!(parsed.dns.search, ["a.b"]);
        assert_eq!(parsed.mac, None);
    }

    #[test]
    fn parse_ignores_addresses_of_host_interfaces() {
        let result = json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                { "name": "cni0", "mac": "02:00:00:00:00:01", "mtu": 1500 },
                { "name": "veth1" },
                { "name": "eth0", "mac": "AA:BB:CC:00:11:22", "sandbox": "/run/netns/x" },
            ],
            "ips": [
                { "address": "10.1.0.1/16", "interface": 0 },
                { "version": "4", "address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 2 },
                { "address": "fd00::5/64" },
                { "address": "10.1.0.5/16" },
            ],
            "routes": null,
            "dns": {},
        });
        let parsed = CniResult::parse(&result, "eth0").unwrap();
        assert_eq!(parsed.addresses, nets(&["10.1.0.5/16", "fd00::5/64"]));
        assert_eq!(parsed.host_interfaces, ["cni0", "veth1"]);
        assert_eq!(parsed.mac.unwrap().to_string(), "aa:bb:cc:00:11:22");
    }

    #[test]
    fn parse_ignores_addresses_of_other_interfaces() {
        let sandbox = "/run/netns/x";
        let lo = json!({ "name": "lo", "sandbox": sandbox });
        let own = json!({ "name": "eth1", "sandbox": sandbox });
        let other = json!({ "name": "net0", "sandbox": sandbox });
        let address = |address: &str, interface: Option<i64>| match interface {
            Some(interface) => json!({ "address": address, "interface": interface }),
            None => json!({ "address": address }),
        };
        for (interfaces, addresses, expected) in [
            // As the plugin loopback reports.
            (
                json!([lo]),
                json!([address("127.0.0.1/8", Some(0)), address("::1/128", Some(0))]),
                vec![],
            ),
            (json!([]), json!([address("127.0.0.1/8", None)]), vec![]),
            (
                json!([lo, own]),
                json!([
                    address("10.9.0.9/24", Some(0)),
                    address("10.1.0.5/16", Some(1))
                ]),
                vec!["10.1.0.5/16"],
            ),
            (
                json!([other, own]),
                json!([
                    address("10.9.0.9/24", Some(0)),
                    address("10.1.0.5/16", Some(1))
                ]),
                vec!["10.1.0.5/16"],
            ),
            // There is no such interface.
            (
                json!([own]),
                json!([
                    address("10.9.0.9/24", Some(7)),
                    address("10.1.0.5/16", None)
                ]),
                vec!["10.1.0.5/16"],
            ),
            // The plugins call the interface otherwise.
            (
                json!([lo, other]),
                json!([
                    address("127.0.0.2/8", Some(0)),
                    address("10.1.0.5/16", Some(1))
                ]),
                vec!["10.1.0.5/16"],
            ),
            // Not strict, but clear.
            (
                json!([]),
                json!([address("10.1.0.5/16", Some(0)), address("0.0.0.0/0", None)]),
                vec!["10.1.0.5/16"],
            ),
            (
                json!([own]),
                json!([address("10.1.0.5/16", Some(-1))]),
                vec!["10.1.0.5/16"],
            ),
        ] {
            let result = json!({ "interfaces": interfaces, "ips": addresses });
            let parsed = CniResult::parse(&result, "eth1").unwrap();
            assert_eq!(parsed.addresses, nets(&expected), "{result}");
        }
        let legacy = json!({ "ip4": { "ip": "127.0.0.1/8", "gateway": "127.0.0.1" } });
        let parsed = CniResult::parse(&legacy, "eth0").unwrap();
        assert_eq!(parsed, CniResult::default());
    }

    #[test]
    fn parse_rejects_invalid_results_and_accepts_an_empty_one() {
        assert_eq!(
            CniResult::parse(&json!({}), "eth0").unwrap(),
            CniResult::default()
        );
        for wrong in [
            json!([]),
            json!("text"),
            json!({ "ips": [{ "address": "10.0.0.300/8" }] }),
            json!({ "ips": [{}] }),
            json!({ "ip4": { "ip": "10.0.0.1" } }),
            json!({ "ip4": { "ip": "10.0.0.1/8", "gateway": "x" } }),
            json!({ "ips": "10.0.0.1/8" }),
        ] {
            assert!(CniResult::parse(&wrong, "eth0").is_err(), "{wrong}");
        }
    }

    #[test]
    fn damaged_input_never_panics() {
        let valid = json!({
            "cniVersion": "1.1.0",
            "interfaces": [{ "name": "eth0", "mac": "AA:BB:CC:00:11:22", "sandbox": "/run/netns/x" }],
            "ips": [{ "address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 0 }],
            "ip6": { "ip": "fd00::5/64" },
            "dns": { "nameservers": ["10.1.0.2"], "search": ["a.b"] },
        })
        .to_string();
        contrail_mesos_api::parser_testing::for_damaged_input(valid.as_bytes(), |input| {
            if let Ok(result) = serde_json::from_slice::<Value>(input) {
                // An error is as good as a result.
                let _ = CniResult::parse(&result, "eth0");
            }
        });
    }
}
