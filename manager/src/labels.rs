//! Labels of a `NetworkInfo` → what a port is to have: pure, and every error at once.
//!
//! Two generations of Contrail's own manager read the labels differently: one takes `networks` as
//! a bare name within `project-name` and `domain-name`, the other as `domain:project:network`.
//! Both are understood, and so are security groups in both forms. What is not a label of ours is
//! somebody else's, and left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::config::Default;
use crate::vnc::FqName;
use contrail_mesos_api::text::Quoted;

pub(super) const NETWORKS: &str = "networks";
pub(super) const SUBNETS: &str = "network-subnets";
const PROJECT: &str = "project-name";
const DOMAIN: &str = "domain-name";
const GROUPS: &str = "security-groups";
pub(super) const FLOATING: &str = "floating-ips";

/// Longest part of a name, in bytes: the server keeps names where there is a limit.
const LONGEST_NAME: usize = 255;
/// Entries of a list.
const LONGEST_LIST: usize = 64;

/// What a port is to have, by names that may or may not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// The project that the port belongs to.
    pub project: FqName,
    /// `domain:project:network`.
    pub network: FqName,
    /// The network's subnets to take addresses from; none: any.
    pub subnets: Vec<IpNet>,
    /// `domain:project:group`, each once.
    pub security_groups: Vec<FqName>,
    /// Floating addresses that are to lead to it.
    pub floating_ips: Vec<FloatingWish>,
}

/// One floating address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FloatingWish {
    /// `domain:project:network:pool`.
    pub pool: FqName,
    /// This very address; else any.
    pub address: Option<IpAddr>,
}

/// What the labels of one port mean. `fallback` is the network of labels that name none.
pub(super) fn wish(
    labels: &BTreeMap<String, String>,
    fallback: Option<&str>,
    defaults: &Default,
) -> Result<Wish, Vec<String>> {
    let mut problems = vec![];
    let label = |key: &str| {
        let value = labels.get(key)?.trim();
        // An empty label is how templates of frameworks say nothing.
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
        (Some(text), _) if text.contains(',') => Err(format!(
            "label {NETWORKS}: {} names several networks, and a port is on one; ask for one port \
             for each",
            Quoted(text.as_bytes())
        )),
        (Some(text), _) => within(text, &project, "network")
            .map_err(|problem| format!("label {NETWORKS}: {problem}")),
        // The agent's configuration means the default project, whatever the labels say.
        (None, Some(text)) => {
            let home = FqName::new([&defaults.domain, &defaults.project]);
            within(text, &home, "network").map_err(|problem| format!("virtual_network: {problem}"))
        }
        (None, None) => Ok(defaults.network.clone()),
    };
    let network = network.unwrap_or_else(|problem| {
        problems.push(problem);
        FqName::default()
    });

    let lists = lists(&label, &project, &mut problems);
    if problems.is_empty() {
        Ok(Wish {
            project,
            network,
            subnets: lists.0,
            security_groups: lists.1,
            floating_ips: lists.2,
        })
    } else {
        Err(problems)
    }
}

/// The labels that are lists.
fn lists<'a>(
    label: &impl Fn(&str) -> Option<&'a str>,
    project: &FqName,
    problems: &mut Vec<String>,
) -> (Vec<IpNet>, Vec<FqName>, Vec<FloatingWish>) {
    let mut subnets: Vec<IpNet> = vec![];
    each(SUBNETS, label(SUBNETS), problems, |text| {
        let subnet = subnet(text)?;
        let overlaps = |other: &&IpNet| other.contains(&subnet) || subnet.contains(*other);
        if let Some(other) = subnets.iter().find(overlaps) {
            return Err(format!("{subnet} and {other} overlap"));
        }
        subnets.push(subnet);
        Ok(())
    });
    let mut security_groups: Vec<FqName> = vec![];
    each(GROUPS, label(GROUPS), problems, |text| {
        let group = within(text, project, "group")?;
        if !security_groups.contains(&group) {
            security_groups.push(group);
        }
        Ok(())
    });
    let mut floating_ips = vec![];
    let mut taken = BTreeSet::new();
    each(FLOATING, label(FLOATING), problems, |text| {
        let floating = floating(text)?;
        if let Some(address) = floating.address
            && !taken.insert(address)
        {
            return Err(format!("{address} is asked for twice"));
        }
        floating_ips.push(floating);
        Ok(())
    });
    (subnets, security_groups, floating_ips)
}

/// Reads every entry of a list.
fn each(
    key: &str,
    list: Option<&str>,
    problems: &mut Vec<String>,
    mut read: impl FnMut(&str) -> Result<(), String>,
) {
    let entries: Vec<&str> = list.map_or_else(Vec::new, |list| list.split(',').collect());
    if entries.len() > LONGEST_LIST {
        problems.push(format!(
            "label {key}: {} entries are more than {LONGEST_LIST}",
            entries.len()
        ));
        return;
    }
    for entry in entries {
        if let Err(problem) = read(entry.trim()) {
            problems.push(format!("label {key}: {problem}"));
        }
    }
}

/// One label map for each network that `networks` lists. What can be had once only, floating
/// addresses and subnets, goes to the first.
pub(super) fn split(labels: &BTreeMap<String, String>) -> Vec<BTreeMap<String, String>> {
    let networks: Vec<&str> = labels
        .get(NETWORKS)
        .map_or("", String::as_str)
        .split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .collect();
    if networks.len() < 2 {
        return vec![labels.clone()];
    }
    let one = |(index, network): (usize, &&str)| {
        let mut labels = labels.clone();
        labels.insert(NETWORKS.to_owned(), (*network).to_owned());
        if index > 0 {
            labels.remove(FLOATING);
            labels.remove(SUBNETS);
        }
        labels
    };
    networks.iter().enumerate().map(one).collect()
}

/// A name within a project, or a fully qualified one of three parts.
fn within(text: &str, project: &FqName, what: &str) -> Result<FqName, String> {
    let parts: Vec<&str> = text.split(':').map(str::trim).collect();
    match *parts {
        [name] => Ok(project.child(name_part(name)?)),
        [domain, project, name] => Ok(FqName::new([
            name_part(domain)?,
            name_part(project)?,
            name_part(name)?,
        ])),
        _ => Err(format!(
            "{} is neither a name nor \"domain:project:{what}\"",
            Quoted(text.as_bytes())
        )),
    }
}

/// `domain:project:network:pool`, or that with `(address)` behind.
fn floating(text: &str) -> Result<FloatingWish, String> {
    let wrong = || {
        format!(
            "{} is not \"domain:project:network:pool\", or that with an address behind such as \
             \"(10.66.77.123)\"",
            Quoted(text.as_bytes())
        )
    };
    let (pool, address) = match text.split_once('(') {
        None => (text, None),
        Some((pool, rest)) => {
            let address = rest.strip_suffix(')').ok_or_else(wrong)?.trim();
            let address: IpAddr = address
                .parse()
                .map_err(|_| format!("{} is not an address", Quoted(address.as_bytes())))?;
            (pool, Some(address))
        }
    };
    let parts: Vec<&str> = pool.split(':').map(str::trim).collect();
    if parts.len() != 4 {
        return Err(wrong());
    }
    let parts: Vec<String> = parts.into_iter().map(name_part).collect::<Result<_, _>>()?;
    Ok(FloatingWish {
        pool: FqName::new(parts),
        address,
    })
}

fn subnet(text: &str) -> Result<IpNet, String> {
    let wrong = || {
        format!(
            "{} is not a subnet such as \"5.5.5.0/24\"",
            Quoted(text.as_bytes())
        )
    };
    let subnet: IpNet = text.parse().map_err(|_| wrong())?;
    if subnet == subnet.trunc() {
        Ok(subnet)
    } else {
        Err(format!(
            "{subnet} has bits beyond its prefix; write {}",
            subnet.trunc()
        ))
    }
}

/// One part of a name, such as the server takes it.
fn name_part(text: &str) -> Result<String, String> {
    let right = !text.is_empty()
        && text.len() <= LONGEST_NAME
        // U+FFFE and U+FFFF are what XML, and so the server, knows no way to write.
        && !text
            .chars()
            .any(|letter| letter == ':' || letter.is_control() || ('\u{fffe}'..='\u{ffff}').contains(&letter));
    if right {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{} is not a name: 1 to {LONGEST_NAME} bytes without colons and control characters",
            Quoted(text.as_bytes())
        ))
    }
}

#[cfg(test)]
mod tests;
