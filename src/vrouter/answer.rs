//! The responses of the agent.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;
use uuid::Uuid;

use contrail_mesos_api::container::Mac;

/// The VLAN id of an interface without a VLAN.
const NO_VLAN: i64 = 65535;

/// The configuration of an interface, from `GET /vm-cfg`. The interface need not exist yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// The uuid of the virtual-machine-interface.
    pub interface: Uuid,
    /// The uuid of the virtual-network.
    pub network: Uuid,
    /// The virtual-network's name, such as `domain:project:network`.
    pub network_name: String,
    /// The MAC address of the interface in the container.
    pub mac: Mac,
    /// Whether it is a VLAN sub-interface.
    pub sub_interface: bool,
    /// The VLAN id of a sub-interface.
    pub vlan: Option<u16>,
    /// The annotations of the virtual-machine-interface.
    pub annotations: BTreeMap<String, String>,
}

impl InterfaceConfig {
    /// The annotation `index`, such as `0/1`: the index of the interface, and the number of the
    /// container's interfaces.
    #[must_use]
    pub fn index(&self) -> Option<(usize, usize)> {
        let (index, count) = self.annotations.get("index")?.split_once('/')?;
        let (index, count) = (index.trim().parse().ok()?, count.trim().parse().ok()?);
        (index < count).then_some((index, count))
    }
}

/// The state of a registered interface, from `GET /vm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceStatus {
    /// The uuid of the virtual-machine-interface.
    pub interface: Uuid,
    /// The uuid of the virtual-network.
    pub network: Uuid,
    /// The MAC address of the interface in the container.
    pub mac: Mac,
    /// The name of the interface on the host, as registered.
    pub host_interface: String,
    /// The IPv4 address.
    pub v4: Option<InterfaceAddress>,
    /// The IPv6 address.
    pub v6: Option<InterfaceAddress>,
}

/// An address of an interface, with its subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// The subnet's prefix length; unknown for IPv6, since the agent does not report it.
    pub prefix: Option<u8>,
    /// The subnet's default gateway.
    pub gateway: Option<IpAddr>,
    /// The name server.
    pub dns: Option<IpAddr>,
}

/// The interfaces of a container. Agents before 5.0 send a single object.
#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<serde_json::Value>),
    One(serde_json::Map<String, serde_json::Value>),
}

fn values<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<Vec<T>, String> {
    let items = match serde_json::from_slice(body).map_err(|error| error.to_string())? {
        OneOrMany::Many(items) => items,
        OneOrMany::One(value) => vec![value.into()],
    };
    items
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
    let interfaces = values(body)?.into_iter().map(|raw: RawConfig| {
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

/// Parses `{key:value}`. The key ends at the first colon; the value may contain colons and braces.
fn annotation(text: &str) -> (String, String) {
    let inner = text.trim();
    let inner = inner.strip_prefix('{').unwrap_or(inner);
    let inner = inner.strip_suffix('}').unwrap_or(inner);
    let (key, value) = inner.split_once(':').unwrap_or((inner, ""));
    (key.trim().to_owned(), value.trim().to_owned())
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawStatus {
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

pub(super) fn statuses(body: &[u8]) -> Result<Vec<InterfaceStatus>, String> {
    values(body)?
        .into_iter()
        .map(|raw: RawStatus| {
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
            Ok(InterfaceStatus {
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
    // An address of zeros means none.
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
