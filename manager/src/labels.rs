//! Parses the labels of a `NetworkInfo` into the specification of a port. Pure; reports every error.
//!
//! Two generations of Contrail's own manager read the labels differently: one takes `networks` as
//! a bare name within `project-name` and `domain-name`, the other as `domain:project:network`.
//! Both forms are accepted, for security groups too. Other labels are ignored.
//!
//! Frameworks write the labels, so their lengths and counts are checked before they are split, and
//! time and memory are linear in what was written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::Defaults;
use crate::vnc::FqName;
use contrail_mesos_api::text::Quoted;

pub(crate) const NETWORKS: &str = "networks";
pub(crate) const SUBNETS: &str = "network-subnets";
const PROJECT: &str = "project-name";
const DOMAIN: &str = "domain-name";
const SECURITY_GROUPS: &str = "security-groups";
pub(crate) const FLOATING_IPS: &str = "floating-ips";

/// Longest part of a name, in bytes: the database of the API server has this limit.
const MAX_NAME_BYTES: usize = 255;
/// Most entries of a list.
const MAX_LIST_ENTRIES: usize = 64;
/// Longest value of a label, in bytes: a list of names fits in.
const MAX_LABEL_BYTES: usize = 16 << 10;
/// The labels that are read.
const LABELS: [&str; 6] = [
    NETWORKS,
    SUBNETS,
    PROJECT,
    DOMAIN,
    SECURITY_GROUPS,
    FLOATING_IPS,
];

/// The labels that only mean something on a virtual network of Contrail.
pub(crate) const OF_VIRTUAL_NETWORKS: [&str; 5] =
    [NETWORKS, SUBNETS, PROJECT, DOMAIN, FLOATING_IPS];

/// A requested port. Its names are not resolved: they may not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortSpec {
    /// The project that the port belongs to.
    pub project: FqName,
    /// `domain:project:network`.
    pub network: FqName,
    /// The network's subnets to allocate addresses from; all where it is empty.
    pub subnets: Vec<IpNet>,
    /// `domain:project:group`, without duplicates.
    pub security_groups: Vec<FqName>,
    /// The floating IPs of the port.
    pub floating_ips: Vec<FloatingIpSpec>,
}

/// A requested floating IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FloatingIpSpec {
    /// `domain:project:network:pool`.
    pub pool: FqName,
    /// A fixed address, or any of the pool.
    pub address: Option<IpAddr>,
}

/// Parses the labels of one port. `fallback` is the network where the labels name none.
pub(crate) fn parse_labels(
    labels: &BTreeMap<String, String>,
    fallback: Option<&str>,
    defaults: &Defaults,
) -> Result<PortSpec, Vec<String>> {
    let mut problems = vec![];
    for key in LABELS {
        let length = labels.get(key).map_or(0, String::len);
        if length > MAX_LABEL_BYTES {
            problems.push(format!(
                "label {key}: {length} bytes are more than {MAX_LABEL_BYTES}"
            ));
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let label = |key: &str| {
        let value = labels.get(key)?.trim();
        // Frameworks' templates leave labels empty that they do not use.
        (!value.is_empty()).then_some(value)
    };
    let mut part = |key: &str, default: &str| match label(key).map(name_part) {
        None => default.to_owned(),
        Some(Ok(name)) => name,
        Some(Err(problem)) => {
            problems.push(format!("label {key}: {problem}"));
            default.to_owned()
        }
    };
    let domain = part(DOMAIN, &defaults.domain);
    let project = part(PROJECT, &defaults.project);
    let project = FqName::new([domain, project]);

    let network = match (label(NETWORKS), fallback) {
        (Some(name), _) if name.contains(',') => Err(format!(
            "label {NETWORKS}: {} names several networks, but a port is on one; request one port \
             for each",
            Quoted(name.as_bytes())
        )),
        (Some(name), _) => qualify(name, &project, "network")
            .map_err(|problem| format!("label {NETWORKS}: {problem}")),
        // A name in the agent's configuration is in the default project, whatever the labels are.
        (None, Some(name)) => {
            let default_project = FqName::new([&defaults.domain, &defaults.project]);
            qualify(name, &default_project, "network")
                .map_err(|problem| format!("virtual_network: {problem}"))
        }
        (None, None) => Ok(defaults.network.clone()),
    };
    let network = network.unwrap_or_else(|problem| {
        problems.push(problem);
        FqName::default()
    });

    let spec = PortSpec {
        subnets: parse_subnets(label(SUBNETS), &mut problems),
        security_groups: parse_security_groups(label(SECURITY_GROUPS), &project, &mut problems),
        floating_ips: parse_floating_ips(label(FLOATING_IPS), &mut problems),
        project,
        network,
    };
    if problems.is_empty() {
        Ok(spec)
    } else {
        Err(problems)
    }
}

fn parse_subnets(list: Option<&str>, problems: &mut Vec<String>) -> Vec<IpNet> {
    let mut subnets: Vec<IpNet> = vec![];
    parse_list(SUBNETS, list, problems, |entry| {
        let subnet = parse_subnet(entry)?;
        let overlaps = |other: &&IpNet| other.contains(&subnet) || subnet.contains(*other);
        if let Some(other) = subnets.iter().find(overlaps) {
            return Err(format!("{subnet} and {other} overlap"));
        }
        subnets.push(subnet);
        Ok(())
    });
    subnets
}

fn parse_security_groups(
    list: Option<&str>,
    project: &FqName,
    problems: &mut Vec<String>,
) -> Vec<FqName> {
    let mut security_groups: Vec<FqName> = vec![];
    parse_list(SECURITY_GROUPS, list, problems, |entry| {
        let group = qualify(entry, project, "group")?;
        if !security_groups.contains(&group) {
            security_groups.push(group);
        }
        Ok(())
    });
    security_groups
}

fn parse_floating_ips(list: Option<&str>, problems: &mut Vec<String>) -> Vec<FloatingIpSpec> {
    let mut floating_ips = vec![];
    let mut addresses = BTreeSet::new();
    parse_list(FLOATING_IPS, list, problems, |entry| {
        let floating_ip = parse_floating_ip(entry)?;
        if let Some(address) = floating_ip.address
            && !addresses.insert(address)
        {
            return Err(format!("{address} is requested twice"));
        }
        floating_ips.push(floating_ip);
        Ok(())
    });
    floating_ips
}

/// Calls `parse` with every entry of a list.
fn parse_list(
    key: &str,
    list: Option<&str>,
    problems: &mut Vec<String>,
    mut parse: impl FnMut(&str) -> Result<(), String>,
) {
    let Some(list) = list else {
        return;
    };
    let count = count_entries(list);
    if count > MAX_LIST_ENTRIES {
        problems.push(format!(
            "label {key}: {count} entries are more than {MAX_LIST_ENTRIES}"
        ));
        return;
    }
    for entry in list.split(',') {
        if let Err(problem) = parse(entry.trim()) {
            problems.push(format!("label {key}: {problem}"));
        }
    }
}

fn count_entries(list: &str) -> usize {
    1 + list.bytes().filter(|byte| *byte == b',').count()
}

/// The labels that are read, once for each network that `networks` lists. Floating IPs and subnets,
/// which can be used only once, go to the first. A list that is too long is not split, and
/// [`parse_labels`] refuses it.
pub(crate) fn split_by_network(labels: &BTreeMap<String, String>) -> Vec<BTreeMap<String, String>> {
    let copy = |keys: &[&str]| -> BTreeMap<String, String> {
        keys.iter()
            .filter_map(|key| labels.get_key_value(*key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    let list = labels.get(NETWORKS).map_or("", String::as_str);
    let is_too_long = LABELS.iter().any(|key| {
        labels
            .get(*key)
            .is_some_and(|value| value.len() > MAX_LABEL_BYTES)
    });
    if is_too_long || count_entries(list) > MAX_LIST_ENTRIES {
        return vec![copy(&LABELS)];
    }
    let networks: Vec<&str> = list
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    if networks.len() < 2 {
        return vec![copy(&LABELS)];
    }
    networks
        .iter()
        .enumerate()
        .map(|(index, network)| {
            let mut labels = match index {
                0 => copy(&[SUBNETS, PROJECT, DOMAIN, SECURITY_GROUPS, FLOATING_IPS]),
                _ => copy(&[PROJECT, DOMAIN, SECURITY_GROUPS]),
            };
            labels.insert(NETWORKS.to_owned(), (*network).to_owned());
            labels
        })
        .collect()
}

/// Qualifies a bare name with a project; keeps a name of three parts.
fn qualify(name: &str, project: &FqName, kind: &str) -> Result<FqName, String> {
    let parts: Vec<&str> = name.split(':').map(str::trim).collect();
    match *parts {
        [name] => Ok(project.child(name_part(name)?)),
        [domain, project, name] => Ok(FqName::new([
            name_part(domain)?,
            name_part(project)?,
            name_part(name)?,
        ])),
        _ => Err(format!(
            "{} is neither a name nor \"domain:project:{kind}\"",
            Quoted(name.as_bytes())
        )),
    }
}

/// `domain:project:network:pool`, optionally followed by `(address)`.
fn parse_floating_ip(entry: &str) -> Result<FloatingIpSpec, String> {
    let invalid = || {
        format!(
            "{} is not \"domain:project:network:pool\", optionally followed by an address such as \
             \"(10.66.77.123)\"",
            Quoted(entry.as_bytes())
        )
    };
    let (pool, address) = match entry.split_once('(') {
        None => (entry, None),
        Some((pool, rest)) => {
            let address = rest.strip_suffix(')').ok_or_else(invalid)?.trim();
            let address: IpAddr = address
                .parse()
                .map_err(|_| format!("{} is not an address", Quoted(address.as_bytes())))?;
            (pool, Some(address))
        }
    };
    let parts: Vec<&str> = pool.split(':').map(str::trim).collect();
    if parts.len() != 4 {
        return Err(invalid());
    }
    let parts: Vec<String> = parts.into_iter().map(name_part).collect::<Result<_, _>>()?;
    Ok(FloatingIpSpec {
        pool: FqName::new(parts),
        address,
    })
}

fn parse_subnet(entry: &str) -> Result<IpNet, String> {
    let subnet: IpNet = entry.parse().map_err(|_| {
        format!(
            "{} is not a subnet such as \"5.5.5.0/24\"",
            Quoted(entry.as_bytes())
        )
    })?;
    if subnet == subnet.trunc() {
        Ok(subnet)
    } else {
        Err(format!(
            "{subnet} has bits beyond its prefix; write {}",
            subnet.trunc()
        ))
    }
}

/// One part of a name that the API server accepts.
fn name_part(name: &str) -> Result<String, String> {
    // U+FFFE and U+FFFF cannot be written in XML, which the API server uses.
    let is_forbidden = |character: char| {
        character == ':' || character.is_control() || ('\u{fffe}'..='\u{ffff}').contains(&character)
    };
    if !name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.chars().any(is_forbidden) {
        Ok(name.to_owned())
    } else {
        Err(format!(
            "{} is not a name: 1 to {MAX_NAME_BYTES} bytes without colons and control characters",
            Quoted(name.as_bytes())
        ))
    }
}

#[cfg(test)]
mod tests;
