//! Tests of the allocation as a whole.

mod allocation;
mod allocator;
mod blocks;
mod kills;
mod random;

use std::path::Path;

use contrail_mesos_api::cluster::{Node, NodeReport, Versions};

use super::config::OverlayConfig;

/// A configuration with these tunnel endpoints and overlays.
fn config(vtep: &str, overlays: &str) -> OverlayConfig {
    let text =
        format!(r#"{{{vtep}, "vtep_mac_oui": "70:B3:D5:00:00:00", "overlays": [{overlays}]}}"#);
    OverlayConfig::parse(Path::new("o.json"), &text).unwrap()
}

const VTEP: &str = r#""vtep_subnet": "44.128.0.0/16""#;
const VTEP6: &str = r#""vtep_subnet": "44.128.0.0/16", "vtep_subnet6": "fd44::/64""#;
const ONE: &str = r#"{"name": "one", "subnet": "192.168.0.0/17", "prefix": 24}"#;
const TWO: &str = r#"{"name": "two", "subnet": "192.168.128.0/17", "prefix": 24}"#;

fn report(address: &str) -> NodeReport {
    NodeReport {
        address: address.parse().unwrap(),
        uplink_mtu: None,
        versions: Versions::default(),
        configuration: String::new(),
        applied: None,
        subsystems: vec![],
        endpoints: None,
        blocks: vec![],
    }
}

/// What a node has, such as `44.128.0.1 one=192.168.0.0/24`.
fn shown(node: &Node) -> String {
    let mut parts = vec![node.vtep.address.to_string()];
    parts.extend(node.vtep.address6.map(|address| address.to_string()));
    for subnets in &node.subnets {
        let name = &subnets.overlay;
        parts.extend(subnets.subnets().map(|subnet| format!("{name}={subnet}")));
    }
    parts.join(" ")
}
