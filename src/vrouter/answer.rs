//! What the agent answers, and what of it can be relied upon.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use uuid::Uuid;

use contrail_mesos_api::container::Mac;

/// The VLAN id that means none.
const NO_VLAN: i64 = 65535;

/// An interface that the agent has been given, from `GET /vm-cfg`. It need not exist yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// The virtual-machine-interface.
    pub interface: Uuid,
    /// The virtual network.
    pub network: Uuid,
    /// The virtual network's name, with colons.
    pub network_name: String,
    /// The Ethernet address of the container's end.
    pub mac: Mac,
    /// Whether it is a VLAN of another interface.
    pub sub_interface: bool,
    /// Which one.
    pub vlan: Option<u16>,
    /// What its maker noted on it.
    pub annotations: BTreeMap<String, String>,
}

impl InterfaceConfig {
    /// The place of the interface among those of its container, and how many those are: the
    /// annotation `index`, such as `0/1`.
    #[must_use]
    pub fn index(&self) -> Option<(usize, usize)> {
        let (index, of) = self.annotations.get("index")?.split_once('/')?;
        let (index, of) = (index.trim().parse().ok()?, of.trim().parse().ok()?);
        (index < of).then_some((index, of))
    }
}

/// An interface that the agent has plugged in, from `GET /vm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugged {
    /// The virtual-machine-interface.
    pub interface: Uuid,
    /// The virtual network.
    pub network: Uuid,
    /// The Ethernet address of the container's end.
    pub mac: Mac,
    /// The host's end, as it was registered.
    pub host_interface: String,
    /// IPv4.
    pub v4: Option<InterfaceAddress>,
    /// IPv6.
    pub v6: Option<InterfaceAddress>,
}

/// An address of an interface, and what belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// The length of the subnet's prefix; the agent does not say it for IPv6.
    pub prefix: Option<u8>,
    /// The next hop of everything else.
    pub gateway: Option<IpAddr>,
    /// The name server.
    pub dns: Option<IpAddr>,
}

/// The interfaces of a container. Agents before 5.0 answer an object, for the only one.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<serde_json::Value>),
    One(serde_json::Map<String, serde_json::Value>),
}

fn many<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<Vec<T>, String> {
    let values = match serde_json::from_slice(body).map_err(|error| error.to_string())? {
        OneOrMany::Many(values) => values,
        OneOrMany::One(value) => vec![value.into()],
    };
    values
        .into_iter()
        .map(|value| serde_path_to_error::deserialize(value).map_err(|error| error.to_string()))
        .collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawConfig {
    id: Uuid,
    vn_id: Uuid,
    #[serde(default)]
    vn_name: String,
    mac_address: Mac,
    #[serde(default)]
    sub_interface: bool,
    #[serde(default)]
    vlan_id: Option<i64>,
    #[serde(default)]
    annotations: Option<Vec<String>>,
}

pub(super) fn configurations(body: &[u8]) -> Result<Vec<InterfaceConfig>, String> {
    let interfaces = many(body)?.into_iter().map(|raw: RawConfig| {
        let vlan = raw.vlan_id.filter(|&vlan| vlan != NO_VLAN);
        InterfaceConfig {
            interface: raw.id,
            network: raw.vn_id,
            network_name: raw.vn_name,
            mac: raw.mac_address,
            sub_interface: raw.sub_interface,
            vlan: vlan.and_then(|vlan| vlan.try_into().ok()),
            annotations: raw
                .annotations
                .iter()
                .flatten()
                .map(|text| annotation(text))
                .collect(),
        }
    });
    Ok(interfaces.collect())
}

/// A pair `{key:value}`. A colon in a key cannot be told from the one between; values may have
/// them, and braces.
fn annotation(text: &str) -> (String, String) {
    let inner = text.trim();
    let inner = inner.strip_prefix('{').unwrap_or(inner);
    let inner = inner.strip_suffix('}').unwrap_or(inner);
    let (key, value) = inner.split_once(':').unwrap_or((inner, ""));
    (key.trim().to_owned(), value.trim().to_owned())
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawPlugged {
    id: Uuid,
    vn_id: Uuid,
    mac_address: Mac,
    #[serde(default)]
    system_name: String,
    #[serde(default)]
    ip_address: Option<String>,
    #[serde(default)]
    plen: Option<u8>,
    #[serde(default)]
    dns_server: Option<String>,
    #[serde(default)]
    gateway: Option<String>,
    #[serde(default)]
    v6_ip_address: Option<String>,
    #[serde(default)]
    v6_dns_server: Option<String>,
    #[serde(default)]
    v6_gateway: Option<String>,
}

pub(super) fn plugged(body: &[u8]) -> Result<Vec<Plugged>, String> {
    many(body)?
        .into_iter()
        .map(|raw: RawPlugged| {
            let v4 = address(
                raw.ip_address.as_deref(),
                raw.plen,
                raw.gateway.as_deref(),
                raw.dns_server.as_deref(),
            )?;
            let v6 = address(
                raw.v6_ip_address.as_deref(),
                None,
                raw.v6_gateway.as_deref(),
                raw.v6_dns_server.as_deref(),
            )?;
            if let Some(InterfaceAddress {
                address, prefix, ..
            }) = v4
                && (!address.is_ipv4() || prefix.is_none_or(|prefix| prefix > 32))
            {
                return Err(format!(
                    "{address}/{prefix:?} is not an IPv4 address and prefix"
                ));
            }
            if let Some(InterfaceAddress { address, .. }) = v6
                && !address.is_ipv6()
            {
                return Err(format!("{address} is not an IPv6 address"));
            }
            Ok(Plugged {
                interface: raw.id,
                network: raw.vn_id,
                mac: raw.mac_address,
                host_interface: raw.system_name,
                v4,
                v6,
            })
        })
        .collect()
}

fn address(
    address: Option<&str>,
    prefix: Option<u8>,
    gateway: Option<&str>,
    dns: Option<&str>,
) -> Result<Option<InterfaceAddress>, String> {
    // All zeros stands for none.
    let parse = |text: Option<&str>| match text.map_or("", str::trim) {
        "" => Ok(None),
        text => match text.parse::<IpAddr>() {
            Ok(address) => Ok(Some(address).filter(|address| !address.is_unspecified())),
            Err(_) => Err(format!("{text:?} is not an address")),
        },
    };
    let (gateway, dns) = (parse(gateway)?, parse(dns)?);
    Ok(parse(address)?.map(|address| InterfaceAddress {
        address,
        prefix,
        gateway,
        dns,
    }))
}
