//! The `[[network]]` tables, and the conflicts between them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::bridge::{self, BridgeNetwork};
use super::cni::CniNetwork;
use super::contrail::{self, ContrailNetwork};
use super::fields::{MAX_NETWORK_NAME_BYTES, is_word};
use contrail_mesos_api::config_reader::Section;

/// Resolver configuration: the contents of `/etc/resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Name servers, in order.
    pub nameservers: Vec<IpAddr>,
    /// Local domain.
    pub domain: Option<String>,
    /// Search list.
    pub search: Vec<String>,
    /// Resolver options, such as `ndots:2`.
    pub options: Vec<String>,
}

/// A network that containers can request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The name that frameworks give in `NetworkInfo.name`.
    pub name: String,
    /// Resolver configuration for its containers; `None` for the agent's default.
    pub dns: Option<Dns>,
    /// The provider, with its own keys.
    pub provider: NetworkProvider,
}

/// The provider of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkProvider {
    /// A Linux bridge on this host.
    Bridge(BridgeNetwork),
    /// Contrail's vRouter.
    Contrail(ContrailNetwork),
    /// CNI plugins, from a file of the CNI directory.
    Cni(CniNetwork),
    /// No network: the container has a loopback interface only.
    None,
}

/// Reads one `[[network]]`. `None` if a required key is missing or invalid, which is reported to
/// the section.
pub(super) fn read(section: Section<'_>) -> Option<Network> {
    let name = section.text("name", "the name that frameworks use, such as \"blue\"");
    let name = match name {
        Some(name) if is_network_name(&name) => Some(name),
        Some(name) => {
            section.problem(
                "name",
                format!(
                    "{name:?} is not a network name: use 1 to {MAX_NETWORK_NAME_BYTES} letters, \
                     digits and any of . _ : - , starting with a letter or digit"
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
    let provider = section.text(
        "provider",
        "the provider, \"bridge\", \"contrail\" or \"none\"",
    );
    let dns = section.section("dns").map(dns);
    let provider = match provider.as_deref() {
        Some("bridge") => bridge::network(&section, name.as_deref().unwrap_or_default())
            .map(NetworkProvider::Bridge),
        Some("contrail") => Some(NetworkProvider::Contrail(contrail::network(&section))),
        Some("none") => Some(NetworkProvider::None),
        Some(other) => {
            section.problem(
                "provider",
                format!(
                    "there is no provider {other:?}; use \"bridge\", \"contrail\" or \"none\", or \
                     configure a CNI network in the directory of [cni]"
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

fn is_network_name(name: &str) -> bool {
    name.len() <= MAX_NETWORK_NAME_BYTES
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
            // Contrail or the plugins choose the subnets, which may overlap.
            NetworkProvider::Contrail(_) | NetworkProvider::Cni(_) | NetworkProvider::None => {
                vec![]
            }
        }
    }

    /// The conflicts with `other`: the key, and a message.
    pub(super) fn conflicts(&self, other: &Network) -> Vec<(&'static str, String)> {
        let mut conflicts = vec![];
        if self.name == other.name {
            conflicts.push(("name", format!("network {:?} is defined twice", self.name)));
        }
        if let (NetworkProvider::Bridge(own), NetworkProvider::Bridge(theirs)) =
            (&self.provider, &other.provider)
            && own.bridge == theirs.bridge
        {
            conflicts.push((
                "bridge",
                format!("network {:?} already uses {:?}", other.name, own.bridge),
            ));
        }
        for own in self.subnets() {
            for theirs in other.subnets() {
                if own.contains(&theirs) || theirs.contains(&own) {
                    let key = match own {
                        IpNet::V4(_) => "subnet",
                        IpNet::V6(_) => "subnet6",
                    };
                    conflicts.push((
                        key,
                        format!("{own} overlaps {theirs} of network {:?}", other.name),
                    ));
                }
            }
        }
        conflicts
    }
}
