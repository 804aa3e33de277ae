//! The `[[network]]` tables, and the conflicts between them.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::bridge::{self, BridgeNetwork};
use super::cni::CniNetwork;
use super::contrail::{self, ContrailNetwork};
use super::fields::{MAX_NETWORK_NAME_BYTES, is_word};
use super::overlay::{self, OverlayNetwork};
use contrail_mesos_api::config_reader::{Document, Section};

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
    /// This host's part of an overlay of the managers.
    Overlay(OverlayNetwork),
    /// Contrail's vRouter.
    Contrail(ContrailNetwork),
    /// CNI plugins, from a file of the CNI directory.
    Cni(CniNetwork),
    /// No network: the container has a loopback interface only.
    None,
}

/// A `[[network]]` as far as it could be read.
pub(super) struct NetworkTable {
    /// The path of the table, such as `network[0]`.
    pub(super) path: String,
    name: Option<String>,
    dns: Option<Dns>,
    provider: Option<NetworkProvider>,
}

const NAME: &str = "the name that frameworks use, such as \"blue\"";
const PROVIDER: &str = "the provider, \"bridge\", \"overlay\", \"contrail\" or \"none\" (CNI networks \
                        are files in the directory of [cni])";

/// Reads one `[[network]]`.
pub(super) fn read(section: Section<'_>) -> NetworkTable {
    let name = section.checked("name", NAME, |name| {
        if is_network_name(name) {
            Ok(name.to_owned())
        } else {
            Err(format!(
                "a name has 1 to {MAX_NETWORK_NAME_BYTES} letters, digits and any of . _ : - , and \
                 begins with a letter or digit"
            ))
        }
    });
    if !section.has("name") {
        section.problem("name", "a network needs a name: name = \"blue\"");
    }
    let provider = section.word(
        "provider",
        &["bridge", "overlay", "contrail", "none"],
        PROVIDER,
    );
    let dns = section.section("dns").map(dns);
    let provider = match provider {
        Some("bridge") => Some(NetworkProvider::Bridge(bridge::network(
            &section,
            name.as_deref().unwrap_or_default(),
        ))),
        Some("overlay") => Some(NetworkProvider::Overlay(overlay::network(
            &section,
            name.as_deref(),
        ))),
        Some("contrail") => Some(NetworkProvider::Contrail(contrail::network(&section))),
        Some(_) => Some(NetworkProvider::None),
        None => {
            if !section.has("provider") {
                let message = "a network needs a provider: provider = \"bridge\"";
                section.problem("provider", message);
            }
            // It is not known which of them it may have.
            section.allow(bridge::KEYS);
            section.allow(overlay::KEYS);
            section.allow(contrail::NETWORK_KEYS);
            None
        }
    };
    let path = section.path().to_owned();
    section.finish();
    NetworkTable {
        path,
        name,
        dns,
        provider,
    }
}

/// Reads a table of resolver configuration.
pub(super) fn dns(section: Section<'_>) -> Dns {
    let word = |word: &str| {
        if is_word(word) {
            Ok(word.to_owned())
        } else {
            Err("it is not one word".to_owned())
        }
    };
    let domain = "a domain such as \"example.com\"";
    let dns = Dns {
        nameservers: section
            .parsed_list("nameservers", "an address such as \"10.0.0.2\"")
            .unwrap_or_default(),
        domain: section.checked("domain", domain, word),
        search: section
            .checked_list("search", domain, word)
            .unwrap_or_default(),
        options: section
            .checked_list("options", "an option such as \"ndots:2\"", resolver_option)
            .unwrap_or_default(),
    };
    section.finish();
    dns
}

/// An option of the resolver: a name, or a name and a number.
fn resolver_option(option: &str) -> Result<String, String> {
    let (name, number) = option.split_once(':').unwrap_or((option, "0"));
    let is_name = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_name(name) && is_number(number) {
        return Ok(option.to_owned());
    }
    let corrected = option
        .split_once('=')
        .filter(|(name, number)| is_name(name) && is_number(number));
    Err(corrected.map_or_else(String::new, |(name, number)| {
        format!("write \"{name}:{number}\"")
    }))
}

fn is_network_name(name: &str) -> bool {
    name.len() <= MAX_NETWORK_NAME_BYTES
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
}

impl Network {
    /// The subnets that the configuration gives to the network on this host, of both families.
    #[must_use]
    pub fn subnets(&self) -> Vec<IpNet> {
        match &self.provider {
            NetworkProvider::Bridge(bridge) => bridge.subnets().collect(),
            // The managers, Contrail or the plugins choose the subnets, which may overlap.
            NetworkProvider::Overlay(_)
            | NetworkProvider::Contrail(_)
            | NetworkProvider::Cni(_)
            | NetworkProvider::None => vec![],
        }
    }
}

/// The path of the first table of each name.
pub(super) fn paths(tables: &[NetworkTable]) -> HashMap<String, String> {
    let mut paths = HashMap::new();
    for table in tables {
        if let Some(name) = &table.name {
            paths
                .entry(name.clone())
                .or_insert_with(|| table.path.clone());
        }
    }
    paths
}

/// The networks, and reports to the document which names, bridges and subnets are there twice.
pub(super) fn distinct(tables: Vec<NetworkTable>, document: &Document<'_>) -> Vec<Network> {
    let mut used = UsedByNetworks::default();
    let mut networks = vec![];
    for table in tables {
        for (key, message) in used.conflicts(&table) {
            document.problem(&format!("{}.{key}", table.path), message);
        }
        if let (Some(name), Some(provider)) = (table.name, table.provider) {
            networks.push(Network {
                name,
                dns: table.dns,
                provider,
            });
        }
    }
    networks
}

/// What the networks so far use. Looking something up takes no longer the more networks there are.
#[derive(Default)]
struct UsedByNetworks {
    /// The path of the network of each name.
    names: HashMap<String, String>,
    /// A description of the network of each bridge.
    bridges: HashMap<String, String>,
    /// Subnets that do not overlap, by their last address, each with a description of its network.
    subnets: BTreeMap<IpAddr, (IpNet, String)>,
}

impl UsedByNetworks {
    /// The conflicts of a network with those so far, each with its key. Adds it to them.
    fn conflicts(&mut self, table: &NetworkTable) -> Vec<(&'static str, String)> {
        let mut conflicts = vec![];
        let mut is_named_twice = false;
        if let Some(name) = &table.name {
            if let Some(other) = self.names.get(name) {
                is_named_twice = true;
                conflicts.push((
                    "name",
                    format!("network {name:?} is defined twice, see {other}"),
                ));
            } else {
                self.names.insert(name.clone(), table.path.clone());
            }
        }
        let network = match &table.name {
            Some(name) => format!("network {name:?}"),
            None => table.path.clone(),
        };
        let own_name = table.name.as_deref().unwrap_or_default();
        let (key, bridge, is_default) = match &table.provider {
            Some(NetworkProvider::Bridge(network)) => {
                let bridge = network.bridge.clone();
                let is_default = bridge == bridge::default_bridge(own_name);
                ("bridge", bridge, is_default)
            }
            Some(NetworkProvider::Overlay(network)) => {
                ("overlay", network.bridge(), network.overlay == own_name)
            }
            _ => return conflicts,
        };
        match self.bridges.get(&bridge) {
            // Only because the networks have one name, which is reported.
            Some(_) if is_default && (is_named_twice || table.name.is_none()) => {}
            Some(other) => conflicts.push((key, format!("{other} already uses {bridge:?}"))),
            None => {
                self.bridges.insert(bridge, network.clone());
            }
        }
        let Some(NetworkProvider::Bridge(bridge)) = &table.provider else {
            return conflicts;
        };
        for own in bridge.subnets() {
            let key = match own {
                IpNet::V4(_) => "subnet",
                IpNet::V6(_) => "subnet6",
            };
            // Subnets either contain each other or have nothing in common.
            let next = self.subnets.range(own.network()..).next();
            match next {
                Some((_, (other, owner))) if other.contains(&own) || own.contains(other) => {
                    conflicts.push((key, format!("{own} overlaps {other} of {owner}")));
                }
                _ => {
                    self.subnets.insert(own.broadcast(), (own, network.clone()));
                }
            }
        }
        conflicts
    }
}
