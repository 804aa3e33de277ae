//! A `[[network]]` table: what it may say, and what must hold of all of them together.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::bridge::{self, BridgeNetwork};
use super::cni::CniNetwork;
use super::contrail::{self, ContrailNetwork};
use contrail_mesos_api::config_reader::Section;

/// Resolver configuration, as it becomes `/etc/resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Name servers, in order.
    pub nameservers: Vec<IpAddr>,
    /// The local domain.
    pub domain: Option<String>,
    /// Search list.
    pub search: Vec<String>,
    /// Resolver options, such as `ndots:2`.
    pub options: Vec<String>,
}

/// One network that containers can name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// What frameworks call it in `NetworkInfo.name`.
    pub name: String,
    /// Resolver configuration for its containers; `None` leaves it to the agent's default.
    pub dns: Option<Dns>,
    /// Its provider, with the provider's own keys.
    pub provider: NetworkProvider,
}

/// The provider of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkProvider {
    /// One host, a Linux bridge, nothing else needed.
    Bridge(BridgeNetwork),
    /// Contrail's vRouter.
    Contrail(ContrailNetwork),
    /// CNI plugins, from a file of CNI's directory.
    Cni(CniNetwork),
}

/// The longest name that a network may have, in bytes: it becomes a directory's.
pub(super) const LONGEST_NAME: usize = 128;

const DEFAULT_MTU: u32 = 1500;

/// The MTU of a network, in bytes.
pub(super) fn mtu(section: &Section<'_>, smallest: u32) -> u32 {
    section
        .integer("mtu", smallest..=65535)
        .unwrap_or(DEFAULT_MTU)
}

/// Reads one `[[network]]`; `None` when something that it cannot do without is missing or wrong,
/// which then has been reported.
pub(super) fn read(section: Section<'_>) -> Option<Network> {
    let name = section.text("name", "the name that frameworks use, such as \"blue\"");
    let name = match name {
        Some(name) if is_network_name(&name) => Some(name),
        Some(name) => {
            section.problem(
                "name",
                format!(
                    "{name:?} is not a network name: 1 to {LONGEST_NAME} letters, digits and \
                     any of . _ : - , beginning with a letter or digit"
                ),
            );
            None
        }
        None if section.has("name") => None,
        None => {
            section.problem("", "a network needs a name: name = \"blue\"");
            None
        }
    };
    let provider = section.text("provider", "the provider, \"bridge\" or \"contrail\"");
    let dns = section.section("dns").map(dns);
    let provider = match provider.as_deref() {
        Some("bridge") => bridge::bridge(&section, name.as_deref().unwrap_or_default())
            .map(NetworkProvider::Bridge),
        Some("contrail") => Some(NetworkProvider::Contrail(contrail::network(&section))),
        Some(other) => {
            section.problem(
                "provider",
                format!(
                    "there is no provider {other:?}; this version has \"bridge\" and \"contrail\", \
                     and CNI networks from the directory of [cni]"
                ),
            );
            return None;
        }
        None if section.has("provider") => return None,
        None => {
            section.problem("", "a network needs a provider: provider = \"bridge\"");
            return None;
        }
    };
    section.finish();
    Some(Network {
        name: name?,
        dns,
        provider: provider?,
    })
}

/// Reads a table of resolver configuration.
pub(super) fn dns(section: Section<'_>) -> Dns {
    let words = |key: &str, expected: &str| -> Vec<String> {
        let words: Vec<String> = section.parsed_list(key, expected).unwrap_or_default();
        for word in &words {
            if !is_word(word) {
                section.problem(
                    key,
                    format!("{word:?} is not one word: expected {expected}"),
                );
            }
        }
        words
    };
    let dns = Dns {
        nameservers: section
            .parsed_list("nameservers", "an address such as \"10.0.0.2\"")
            .unwrap_or_default(),
        domain: section.text("domain", "a domain such as \"example.com\""),
        search: words("search", "a domain such as \"example.com\""),
        options: words("options", "an option such as \"ndots:2\""),
    };
    if let Some(domain) = dns.domain.as_ref().filter(|domain| !is_word(domain)) {
        section.problem("domain", format!("{domain:?} is not one word"));
    }
    section.finish();
    dns
}

/// Text that may stand in a line of `resolv.conf` without becoming another line.
pub(crate) fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_network_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
}

impl Network {
    /// The network's subnets on this host, of both families.
    #[must_use]
    pub fn subnets(&self) -> Vec<IpNet> {
        match &self.provider {
            NetworkProvider::Bridge(bridge) => {
                let v4 = bridge.v4.as_ref().map(|v4| IpNet::V4(v4.subnet));
                let v6 = bridge.v6.as_ref().map(|v6| IpNet::V6(v6.subnet));
                v4.into_iter().chain(v6).collect()
            }
            // They are Contrail's or the plugins', and may overlap each other.
            NetworkProvider::Contrail(_) | NetworkProvider::Cni(_) => vec![],
        }
    }

    /// Why this network cannot stand beside `other`.
    pub(super) fn conflicts(&self, other: &Network) -> Vec<(&'static str, String)> {
        let mut conflicts = vec![];
        if self.name == other.name {
            conflicts.push(("name", format!("network {:?} is there twice", self.name)));
        }
        if let (NetworkProvider::Bridge(ours), NetworkProvider::Bridge(theirs)) =
            (&self.provider, &other.provider)
            && ours.bridge == theirs.bridge
        {
            conflicts.push((
                "bridge",
                format!("{:?} is network {:?}'s already", ours.bridge, other.name),
            ));
        }
        for one in self.subnets() {
            for two in other.subnets() {
                if one.contains(&two) || two.contains(&one) {
                    let key = match one {
                        IpNet::V4(_) => "subnet",
                        IpNet::V6(_) => "subnet6",
                    };
                    conflicts.push((
                        key,
                        format!("{one} overlaps {two} of network {:?}", other.name),
                    ));
                }
            }
        }
        conflicts
    }
}
