//! The result of an ADD, in the form of each version of CNI.

use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::provider::Attachment;

/// The result for the container's first interface.
pub(super) fn result(
    version: &str,
    interface: &str,
    namespace: &Path,
    attachment: &Attachment,
) -> Value {
    let mut result = Map::new();
    result.insert("cniVersion".to_owned(), version.into());
    let gateway = |address: &IpNet| {
        attachment
            .gateways
            .iter()
            .find(|gateway| gateway.is_ipv4() == address.addr().is_ipv4())
    };
    if matches!(version, "0.1.0" | "0.2.0") {
        for (key, is_v4) in [("ip4", true), ("ip6", false)] {
            // This form has one address per family.
            let Some(address) = attachment
                .addresses
                .iter()
                .find(|address| address.addr().is_ipv4() == is_v4)
            else {
                continue;
            };
            let mut ip = json!({ "ip": address });
            if let Some(gateway) = gateway(address) {
                ip["gateway"] = json!(gateway);
                ip["routes"] = json!([route(*gateway)]);
            }
            result.insert(key.to_owned(), ip);
        }
    } else {
        let ip = |address: &IpNet| {
            let mut ip = json!({ "address": address, "interface": 0 });
            if version != "1.0.0" {
                let family = if address.addr().is_ipv4() { "4" } else { "6" };
                ip["version"] = family.into();
            }
            if let Some(gateway) = gateway(address) {
                ip["gateway"] = json!(gateway);
            }
            ip
        };
        result.insert(
            "interfaces".to_owned(),
            json!([{
                "name": interface, "mac": attachment.mac, "sandbox": namespace.to_string_lossy(),
            }]),
        );
        result.insert(
            "ips".to_owned(),
            attachment.addresses.iter().map(ip).collect(),
        );
        result.insert(
            "routes".to_owned(),
            attachment.gateways.iter().copied().map(route).collect(),
        );
    }
    let mut dns = json!({});
    if !attachment.dns.nameservers.is_empty() {
        dns["nameservers"] = json!(attachment.dns.nameservers);
    }
    result.insert("dns".to_owned(), dns);
    result.into()
}

fn route(gateway: IpAddr) -> Value {
    let destination = if gateway.is_ipv4() {
        "0.0.0.0/0"
    } else {
        "::/0"
    };
    json!({ "dst": destination, "gw": gateway })
}
