//! The configuration on standard input: the object `contrail`, with the keys and defaults of the
//! plugin that came with Contrail, and more for our managers.
//!
//! Numbers may be texts and texts numbers, for the shipped configurations are made by templates;
//! keys that nobody knows are ignored.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::failure::{Code, Failure};
use crate::config::Vif;
use crate::proto::mesos::NetworkInfo;
use crate::proto::mesos::{Label, Labels, network_info};
use crate::vrouter::DEFAULT_DIRECTORY;
use contrail_mesos_api::agent_api;
use contrail_mesos_api::http::Address;
use contrail_mesos_api::http::TlsOptions;
use contrail_mesos_api::http::tls::Identity;

/// The configuration of one call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub(super) vrouter_host: String,
    pub(super) vrouter_port: u16,
    pub(super) port_directory: PathBuf,
    /// For all of a call.
    pub(super) deadline: Duration,
    pub(super) vif: Vif,
    pub(super) mtu: u32,
    /// Whether each interface has a call of its own, and is called as that says.
    pub(super) is_meta_plugin: bool,
    /// Of a meta plugin: which of the container's networks this call is about.
    pub(super) network_name: Option<String>,
    pub(super) manager: Managed,
    pub(super) log_file: Option<PathBuf>,
    pub(super) log_level: log::LevelFilter,
    /// What the framework asks for.
    pub(super) network_info: NetworkInfo,
}

/// Who makes the objects.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Managed {
    /// Somebody, without being asked.
    Elsewhere,
    /// Contrail's own mesos-manager.
    Legacy { server: String },
    /// Our managers.
    Ours(Box<Ours>),
}

/// How to reach our managers.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ours {
    pub(super) managers: Vec<Address>,
    pub(super) agent: String,
    pub(super) virtual_router_address: Option<IpAddr>,
    pub(super) virtual_network: Option<String>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) tls: TlsOptions,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    contrail: Option<RawContrail>,
    #[serde(default)]
    args: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct RawContrail {
    vrouter_ip: Value,
    vrouter_port: Value,
    config_dir: Value,
    poll_timeout: Value,
    poll_retries: Value,
    mode: Value,
    mesos_ip: Value,
    mesos_port: Value,
    cluster_name: Value,
    vif_type: Value,
    parent_interface: Value,
    mtu: Value,
    log_file: Value,
    log_level: Value,
    meta_plugin: Value,
    network_name: Value,
    managers: Value,
    agent: Value,
    virtual_router_address: Value,
    virtual_network: Value,
    token_file: Value,
    ca_file: Value,
    certificate_file: Value,
    key_file: Value,
}

fn wrong(key: &str, expected: &str) -> Failure {
    Failure::new(
        Code::Config,
        format!("contrail.{key} is wrong: expected {expected}"),
    )
}

/// A text, where there is one that is not empty.
fn text(key: &str, value: &Value) -> Result<Option<String>, Failure> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Number(number) => Ok(Some(number.to_string())),
        _ => Err(wrong(key, "a text")),
    }
}

/// A number above 0, where there is one: 0 stands for the default.
fn number(key: &str, value: &Value, largest: u32) -> Result<Option<u32>, Failure> {
    let number = match text(key, value)? {
        None => return Ok(None),
        Some(text) => text.trim().parse::<u32>().ok(),
    };
    match number {
        Some(number) if number <= largest => Ok(Some(number).filter(|number| *number != 0)),
        _ => Err(wrong(key, &format!("a number up to {largest}"))),
    }
}

fn path(key: &str, value: &Value) -> Result<Option<PathBuf>, Failure> {
    match text(key, value)?.map(PathBuf::from) {
        Some(path) if !path.is_absolute() => Err(wrong(key, "an absolute path")),
        path => Ok(path),
    }
}

/// Reads the standard input. Touches nothing.
pub(super) fn parse(input: &[u8]) -> Result<Settings, Failure> {
    // What it says is not repeated: it may be secret.
    let value: Value = serde_json::from_slice(input).map_err(|error| {
        Failure::new(
            Code::Decode,
            format!(
                "the configuration is no JSON: see line {}, column {}",
                error.line(),
                error.column()
            ),
        )
    })?;
    let no_object = || {
        Failure::new(
            Code::Config,
            "the configuration is no object, or its \"contrail\" is none",
        )
    };
    let is_object = |value: &Value| value.is_object();
    if !is_object(&value) || !value.get("contrail").is_none_or(is_object) {
        return Err(no_object());
    }
    let raw: Raw = serde_json::from_value(value).map_err(|_| no_object())?;
    let contrail = raw.contrail.unwrap_or_default();
    let poll_timeout = number("poll-timeout", &contrail.poll_timeout, 86_400)?.unwrap_or(3);
    let poll_retries = number("poll-retries", &contrail.poll_retries, 100_000)?.unwrap_or(20);
    let deadline = Duration::from_secs(u64::from(poll_timeout) * u64::from(poll_retries));
    let vrouter_host =
        text("vrouter-ip", &contrail.vrouter_ip)?.unwrap_or_else(|| "127.0.0.1".to_owned());
    let vrouter_port = number("vrouter-port", &contrail.vrouter_port, 65535)?.unwrap_or(9091);
    let parent = text("parent-interface", &contrail.parent_interface)?;
    let vif = match text("vif-type", &contrail.vif_type)?.as_deref() {
        None | Some("veth") => Vif::Veth,
        Some("macvlan") => Vif::Macvlan {
            parent: parent.unwrap_or_else(|| "eth0".to_owned()),
        },
        Some(_) => return Err(wrong("vif-type", "\"veth\" or \"macvlan\"")),
    };
    Ok(Settings {
        manager: managed(&contrail, &vrouter_host)?,
        vrouter_host,
        // It is not more than 65535.
        vrouter_port: u16::try_from(vrouter_port).unwrap_or(9091),
        port_directory: path("config-dir", &contrail.config_dir)?
            .unwrap_or_else(|| DEFAULT_DIRECTORY.into()),
        deadline,
        vif,
        mtu: number("mtu", &contrail.mtu, 65535)?.unwrap_or(1500),
        is_meta_plugin: matches!(&contrail.meta_plugin, Value::Bool(true))
            || contrail.meta_plugin == "true",
        network_name: text("network-name", &contrail.network_name)?,
        // A log that cannot be had is none.
        log_file: text("log-file", &contrail.log_file)
            .ok()
            .flatten()
            .map(PathBuf::from),
        log_level: log_level(&contrail.log_level),
        network_info: raw
            .args
            .as_ref()
            .and_then(|args| args.get("org.apache.mesos")?.get("network_info"))
            .map(network_info)
            .unwrap_or_default(),
    })
}

fn managed(contrail: &RawContrail, vrouter_host: &str) -> Result<Managed, Failure> {
    if !contrail.managers.is_null() {
        return Ok(Managed::Ours(Box::new(ours(contrail, vrouter_host)?)));
    }
    // Any other mode asks nobody.
    if text("mode", &contrail.mode)?.as_deref() != Some("mesos") {
        return Ok(Managed::Elsewhere);
    }
    let host = text("mesos-ip", &contrail.mesos_ip)?;
    let port = number("mesos-port", &contrail.mesos_port, 65535)?;
    match (host, port) {
        (Some(host), Some(port)) => Ok(Managed::Legacy {
            server: match host.parse::<std::net::Ipv6Addr>() {
                Ok(address) => format!("[{address}]:{port}"),
                Err(_) => format!("{host}:{port}"),
            },
        }),
        _ => Err(Failure::new(
            Code::Config,
            "contrail.mode is \"mesos\", which needs contrail.mesos-ip and contrail.mesos-port",
        )),
    }
}

fn ours(contrail: &RawContrail, vrouter_host: &str) -> Result<Ours, Failure> {
    let expected = "managers such as [\"https://master-1.example:6990\"]";
    let managers: Vec<&str> = match &contrail.managers {
        Value::String(list) => list.split(',').map(str::trim).collect(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => return Err(wrong("managers", expected)),
    };
    let managers: Vec<Address> = managers
        .into_iter()
        .map(agent_api::manager_address)
        .collect::<Result<_, _>>()
        .map_err(|_| wrong("managers", expected))?;
    if managers.is_empty() {
        return Err(wrong("managers", expected));
    }
    let hostname = || {
        let name = nix::unistd::gethostname().ok()?;
        name.into_string().ok()
    };
    let agent = match text("agent", &contrail.agent)? {
        Some(agent) => Some(agent),
        None => text("cluster-name", &contrail.cluster_name)?.or_else(hostname),
    };
    let address = text("virtual-router-address", &contrail.virtual_router_address)?;
    let certificate = path("certificate-file", &contrail.certificate_file)?;
    let key = path("key-file", &contrail.key_file)?;
    if certificate.is_some() != key.is_some() {
        return Err(wrong("certificate-file", "it together with key-file"));
    }
    Ok(Ours {
        managers,
        agent: agent.ok_or_else(|| wrong("agent", "the name of this host's virtual-router"))?,
        virtual_router_address: match address {
            Some(address) => Some(
                address
                    .parse()
                    .map_err(|_| wrong("virtual-router-address", "an address"))?,
            ),
            // As the manager that came with Contrail found it.
            None => vrouter_host
                .parse()
                .ok()
                .filter(|address: &IpAddr| !address.is_loopback()),
        },
        virtual_network: text("virtual-network", &contrail.virtual_network)?,
        token_file: path("token-file", &contrail.token_file)?,
        tls: TlsOptions {
            ca: path("ca-file", &contrail.ca_file)?,
            identity: certificate
                .zip(key)
                .map(|(certificate, key)| Identity { certificate, key }),
        },
    })
}

fn log_level(value: &Value) -> log::LevelFilter {
    match value.as_str() {
        Some("debug") => log::LevelFilter::Debug,
        _ => log::LevelFilter::Info,
    }
}

/// A `NetworkInfo` from the JSON that Mesos made of it: what our managers are told of it.
fn network_info(json: &Value) -> NetworkInfo {
    let bytes = |value: &Value| value.as_str().map(|text| text.as_bytes().to_vec());
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let label = |label: &Value| {
        Some(Label {
            key: bytes(&label["key"])?,
            value: bytes(&label["value"]),
        })
    };
    let address = |address: &Value| network_info::IpAddress {
        // Mesos writes the default as well, so that IPv4 is no wish.
        protocol: (address["protocol"] == "IPv6").then(|| network_info::Protocol::Ipv6.into()),
        ip_address: bytes(&address["ip_address"]),
    };
    NetworkInfo {
        name: bytes(&json["name"]),
        labels: Some(Labels {
            labels: list(&json["labels"]["labels"])
                .iter()
                .filter_map(label)
                .collect(),
        }),
        ip_addresses: list(&json["ip_addresses"]).iter().map(address).collect(),
        ..NetworkInfo::default()
    }
}
