//! The rules of the file that one value alone does not show.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{PendingOverlay, SHARED_VNI};
use crate::overlay::record::{BLOCK_PREFIXES, DEFAULT_BLOCK_PREFIX};
use contrail_mesos_api::config_reader::Section;

/// Longer names do not fit into those of devices, such as `m-vxlan-1`, which have 15 characters.
const MAX_NAME_BYTES: usize = 13;
/// What Mesos and Docker call something else.
const RESERVED_NAMES: [&str; 4] = ["host", "bridge", "default", "none"];
/// The tunnel endpoints' MAC addresses hold the last 24 bits of their IPv4 addresses.
const MIN_VTEP_PREFIX: u8 = 8;
/// Longer prefixes leave no address between the first and the last one.
const MAX_VTEP_PREFIX: u8 = 30;
const MAX_VTEP_PREFIX6: u8 = 126;
/// With longer prefixes a half has no address for a container beside the bridge's.
const MAX_PREFIX: u8 = 29;
const MAX_PREFIX6: u8 = 125;

/// Whether the name can be that of an overlay, of its devices and of its Docker network.
pub(super) fn name(text: &str) -> Result<String, String> {
    let valid = text.len() <= MAX_NAME_BYTES
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if !valid {
        return Err(String::new());
    }
    if RESERVED_NAMES.contains(&text.to_ascii_lowercase().as_str()) {
        return Err("Mesos or Docker uses it for something else".to_owned());
    }
    Ok(text.to_owned())
}

/// Why a subnet cannot be one of hosts, if it cannot.
pub(super) fn unusable(subnet: IpNet) -> Option<String> {
    const SPECIAL: [(&str, &str); 10] = [
        ("0.0.0.0/8", "unspecified"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
    ];
    if subnet != subnet.trunc() {
        let right = subnet.trunc();
        return Some(format!(
            "{subnet} has bits beyond its prefix; write {right}"
        ));
    }
    SPECIAL.into_iter().find_map(|(range, kind)| {
        let range: IpNet = range.parse().ok()?;
        let overlaps = range.contains(&subnet) || subnet.contains(&range);
        overlaps.then(|| format!("{subnet} has {kind} addresses, of {range}"))
    })
}

/// The prefix length of a node's part of a subnet. Both are there, or neither.
pub(super) fn prefix(
    section: &Section<'_>,
    subnet_key: &str,
    key: &str,
    subnet: Option<IpNet>,
) -> Option<u8> {
    let longest = match subnet_key {
        "subnet" => MAX_PREFIX,
        _ => MAX_PREFIX6,
    };
    let prefix = section
        .integer(key, 1..=longest.into())
        .and_then(|prefix| u8::try_from(prefix).ok());
    match (section.has(subnet_key), section.has(key)) {
        (true, false) => {
            let message = format!(
                "is missing: the prefix length of each node's part of {subnet_key}, such as 24"
            );
            let message = if subnet_key == "subnet6" {
                message.replace("24", "80")
            } else {
                message
            };
            section.problem(key, message);
        }
        (false, true) if !section.is_misspelt(subnet_key) => {
            section.problem(key, format!("{subnet_key} is missing, which it divides"));
        }
        _ => {}
    }
    if let Some((subnet, prefix)) = subnet.zip(prefix)
        && prefix <= subnet.prefix_len()
    {
        let message = format!(
            "{prefix} divides {subnet} into nothing: expected a number from {} to {longest}",
            subnet.prefix_len() + 1
        );
        section.problem(key, message);
        return None;
    }
    prefix
}

/// The prefix lengths of the blocks that an overlay lends, of both families: blocks of both have as many
/// addresses.
pub(super) fn blocks(
    section: &Section<'_>,
    subnet: Option<IpNet>,
    subnet6: Option<IpNet>,
) -> [Option<u8>; 2] {
    section.allow(&["prefix", "prefix6"]);
    for key in ["prefix", "prefix6"] {
        if section.has(key) {
            let message = "has no meaning with \"ipam\": \"cluster\", which gives nodes blocks instead of one \
                           part each: remove it, or write block for the prefix length of a block";
            section.problem(key, message);
        }
    }
    let range = u32::from(*BLOCK_PREFIXES.start())..=u32::from(*BLOCK_PREFIXES.end());
    let block = section
        .integer("block", range)
        .and_then(|block| u8::try_from(block).ok());
    if section.has("block") && block.is_none() {
        return [None, None];
    }
    let block = block.unwrap_or(DEFAULT_BLOCK_PREFIX);
    let checked = |key: &str, subnet: Option<IpNet>| {
        let subnet = subnet?;
        let prefix = block + subnet.max_prefix_len() - 32;
        if prefix <= subnet.prefix_len() {
            let message = format!(
                "{subnet} has no room for blocks with the prefix {prefix}: it must be larger"
            );
            section.problem(key, message);
            return None;
        }
        Some(prefix)
    };
    [checked("subnet", subnet), checked("subnet6", subnet6)]
}

/// The tunnel endpoints' subnets have a host, and their MAC addresses are distinct.
pub(super) fn endpoints(section: &Section<'_>, v4: Option<Ipv4Net>, v6: Option<Ipv6Net>) {
    if let Some(subnet) = v4 {
        let prefix = subnet.prefix_len();
        if prefix < MIN_VTEP_PREFIX {
            let message = format!(
                "{subnet} is too large: an endpoint's MAC address has the last 24 bits of its address, \
                 so the prefix must be {MIN_VTEP_PREFIX} or more"
            );
            section.problem("vtep_subnet", message);
        }
        if prefix > MAX_VTEP_PREFIX {
            let message = format!(
                "{subnet} has no address for a host; the prefix must be {MAX_VTEP_PREFIX} or less"
            );
            section.problem("vtep_subnet", message);
        }
    }
    if let Some(subnet) = v6
        && subnet.prefix_len() > MAX_VTEP_PREFIX6
    {
        let message = format!(
            "{subnet} has no address for a host; the prefix must be {MAX_VTEP_PREFIX6} or less"
        );
        section.problem("vtep_subnet6", message);
    }
}

/// Names are distinct, and stay so where case does not count.
pub(super) fn names(sections: &[Section<'_>], overlays: &[PendingOverlay]) {
    let mut known: HashMap<String, &str> = HashMap::new();
    for (section, overlay) in sections.iter().zip(overlays) {
        let Some(name) = overlay.name.as_deref() else {
            continue;
        };
        if let Some(other) = known.insert(name.to_ascii_lowercase(), section.path()) {
            section.problem("name", format!("{name} is the name of {other} as well"));
        }
    }
}

/// Network identifiers are distinct, unless all overlays share one device as in DC/OS.
pub(super) fn network_identifiers(sections: &[Section<'_>], overlays: &[PendingOverlay]) {
    let mut all = overlays.iter().map(|overlay| overlay.vni);
    if all.all(|vni| vni == Some(SHARED_VNI)) {
        return;
    }
    let mut known: HashMap<u32, &str> = HashMap::new();
    for (section, overlay) in sections.iter().zip(overlays) {
        let Some(vni) = overlay.vni else { continue };
        let Some(other) = known.insert(vni, section.path()) else {
            continue;
        };
        let key = if section.has("vni") { "vni" } else { "" };
        let message = format!(
            "the VXLAN network identifier {vni} is that of {other} as well: write another vni for one of \
             them, or {SHARED_VNI} for all overlays, which then share one device"
        );
        section.problem(key, message);
    }
}

/// No subnet overlaps another one.
pub(super) fn overlaps(
    section: &Section<'_>,
    sections: &[Section<'_>],
    vtep_subnet: Option<Ipv4Net>,
    vtep_subnet6: Option<Ipv6Net>,
    overlays: &[PendingOverlay],
) {
    struct ConfiguredSubnet<'a> {
        subnet: IpNet,
        /// The order in the file.
        order: usize,
        section: &'a Section<'a>,
        key: &'static str,
    }
    let mut found: Vec<ConfiguredSubnet<'_>> = vec![];
    let mut add = |subnet: Option<IpNet>, section, key| {
        let order = found.len();
        if let Some(subnet) = subnet {
            found.push(ConfiguredSubnet {
                subnet,
                order,
                section,
                key,
            });
        }
    };
    add(vtep_subnet.map(IpNet::V4), section, "vtep_subnet");
    add(vtep_subnet6.map(IpNet::V6), section, "vtep_subnet6");
    for (section, overlay) in sections.iter().zip(overlays) {
        add(overlay.subnet.map(IpNet::V4), section, "subnet");
        add(overlay.subnet6.map(IpNet::V6), section, "subnet6");
    }
    let first = |net: &IpNet| -> IpAddr { net.network() };
    // Subnets are disjoint or one holds the other, which then comes first.
    found.sort_by_key(|found| (first(&found.subnet), found.subnet.prefix_len(), found.order));
    let mut outer: Option<&ConfiguredSubnet<'_>> = None;
    for inner in &found {
        match outer {
            Some(outer) if outer.subnet.contains(&inner.subnet) => {
                let (later, earlier) = if outer.order > inner.order {
                    (outer, inner)
                } else {
                    (inner, outer)
                };
                let path = earlier.section.path();
                let separator = if path.is_empty() { "" } else { "." };
                let message = format!(
                    "{} overlaps {path}{separator}{}, {}",
                    later.subnet, earlier.key, earlier.subnet
                );
                later.section.problem(later.key, message);
            }
            _ => outer = Some(inner),
        }
    }
}
