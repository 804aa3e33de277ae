//! The configuration on standard input: the object `contrail`, with the keys and defaults of the
//! plugin that came with Contrail, and additional keys for the managers of this project.
//!
//! Numbers may be strings and strings numbers, because the configurations that ship with Contrail
//! are made by templates. Unknown keys are ignored.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::error::{CniError, ErrorCode};
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
    /// Of a whole call.
    pub(super) deadline: Duration,
    pub(super) vif: Vif,
    pub(super) mtu: u32,
    /// Whether each interface has its own call, which names it.
    pub(super) is_meta_plugin: bool,
    /// Of a meta plugin: the network that this call attaches.
    pub(super) network_name: Option<String>,
    pub(super) manager: ObjectManager,
    pub(super) log_file: Option<PathBuf>,
    pub(super) log_level: log::LevelFilter,
    /// The framework's request.
    pub(super) network_info: NetworkInfo,
}

/// What creates the container's objects.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ObjectManager {
    /// Another program, which the plugin does not contact.
    External,
    /// Contrail's own mesos-manager.
    Legacy { server: String },
    /// The managers of this project.
    ContrailMesos(Box<ManagerOptions>),
}

/// How to reach the managers of this project.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ManagerOptions {
    pub(super) managers: Vec<Address>,
    pub(super) agent: String,
    pub(super) virtual_router_address: Option<IpAddr>,
    pub(super) virtual_network: Option<String>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) tls: TlsOptions,
}

#[derive(Deserialize)]
struct RawConfig {
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

fn invalid(key: &str, expected: &str) -> CniError {
    CniError::new(
        ErrorCode::Config,
        format!("contrail.{key} is invalid: expected {expected}"),
    )
}

/// A string, if it is set and not empty.
fn string(key: &str, value: &Value) -> Result<Option<String>, CniError> {
    match value {
        Value::Null => Ok(None),
        Value::String(value) if value.is_empty() => Ok(None),
        Value::String(value) => Ok(Some(value.clone())),
        Value::Number(number) => Ok(Some(number.to_string())),
        _ => Err(invalid(key, "a string")),
    }
}

/// A number, if it is set and not 0, which stands for the default.
fn number(key: &str, value: &Value, largest: u32) -> Result<Option<u32>, CniError> {
    let number = match string(key, value)? {
        None => return Ok(None),
        Some(string) => string.trim().parse::<u32>().ok(),
    };
    match number {
        Some(number) if number <= largest => Ok(Some(number).filter(|number| *number != 0)),
        _ => Err(invalid(key, &format!("a number up to {largest}"))),
    }
}

fn path(key: &str, value: &Value) -> Result<Option<PathBuf>, CniError> {
    match string(key, value)?.map(PathBuf::from) {
        Some(path) if !path.is_absolute() => Err(invalid(key, "an absolute path")),
        path => Ok(path),
    }
}

/// Reads the standard input. Touches nothing.
pub(super) fn parse(input: &[u8]) -> Result<Settings, CniError> {
    // The error does not quote the input, which may have secrets.
    let value: Value = serde_json::from_slice(input).map_err(|error| {
        CniError::new(
            ErrorCode::Decode,
            format!(
                "the configuration is not valid JSON: see line {}, column {}",
                error.line(),
                error.column()
            ),
        )
    })?;
    let not_an_object = || {
        CniError::new(
            ErrorCode::Config,
            "the configuration or its \"contrail\" is not an object",
        )
    };
    let is_object = |value: &Value| value.is_object();
    if !is_object(&value) || !value.get("contrail").is_none_or(is_object) {
        return Err(not_an_object());
    }
    let raw: RawConfig = serde_json::from_value(value).map_err(|_| not_an_object())?;
    let contrail = raw.contrail.unwrap_or_default();
    let poll_timeout = number("poll-timeout", &contrail.poll_timeout, 86_400)?.unwrap_or(3);
    let poll_retries = number("poll-retries", &contrail.poll_retries, 100_000)?.unwrap_or(20);
    let deadline = Duration::from_secs(u64::from(poll_timeout) * u64::from(poll_retries));
    let vrouter_host =
        string("vrouter-ip", &contrail.vrouter_ip)?.unwrap_or_else(|| "127.0.0.1".to_owned());
    let vrouter_port = number("vrouter-port", &contrail.vrouter_port, 65535)?.unwrap_or(9091);
    let parent = string("parent-interface", &contrail.parent_interface)?;
    let vif = match string("vif-type", &contrail.vif_type)?.as_deref() {
        None | Some("veth") => Vif::Veth,
        Some("macvlan") => Vif::Macvlan {
            parent: parent.unwrap_or_else(|| "eth0".to_owned()),
        },
        Some(_) => return Err(invalid("vif-type", "\"veth\" or \"macvlan\"")),
    };
    Ok(Settings {
        manager: object_manager(&contrail, &vrouter_host)?,
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
        network_name: string("network-name", &contrail.network_name)?,
        // An invalid path must not fail the call.
        log_file: string("log-file", &contrail.log_file)
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

fn object_manager(contrail: &RawContrail, vrouter_host: &str) -> Result<ObjectManager, CniError> {
    if !contrail.managers.is_null() {
        return Ok(ObjectManager::ContrailMesos(Box::new(manager_options(
            contrail,
            vrouter_host,
        )?)));
    }
    // No other mode contacts a manager.
    if string("mode", &contrail.mode)?.as_deref() != Some("mesos") {
        return Ok(ObjectManager::External);
    }
    let host = string("mesos-ip", &contrail.mesos_ip)?;
    let port = number("mesos-port", &contrail.mesos_port, 65535)?;
    match (host, port) {
        (Some(host), Some(port)) => Ok(ObjectManager::Legacy {
            server: match host.parse::<std::net::Ipv6Addr>() {
                Ok(address) => format!("[{address}]:{port}"),
                Err(_) => format!("{host}:{port}"),
            },
        }),
        _ => Err(CniError::new(
            ErrorCode::Config,
            "contrail.mode is \"mesos\", which needs contrail.mesos-ip and contrail.mesos-port",
        )),
    }
}

fn manager_options(contrail: &RawContrail, vrouter_host: &str) -> Result<ManagerOptions, CniError> {
    let expected = "managers such as [\"https://master-1.example:6990\"]";
    let managers: Vec<&str> = match &contrail.managers {
        Value::String(list) => list.split(',').map(str::trim).collect(),
        Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
        _ => return Err(invalid("managers", expected)),
    };
    let managers: Vec<Address> = managers
        .into_iter()
        .map(agent_api::manager_address)
        .collect::<Result<_, _>>()
        .map_err(|_| invalid("managers", expected))?;
    if managers.is_empty() {
        return Err(invalid("managers", expected));
    }
    let hostname = || nix::unistd::gethostname().ok()?.into_string().ok();
    let agent = match string("agent", &contrail.agent)? {
        Some(agent) => Some(agent),
        None => string("cluster-name", &contrail.cluster_name)?.or_else(hostname),
    };
    let address = string("virtual-router-address", &contrail.virtual_router_address)?;
    let certificate = path("certificate-file", &contrail.certificate_file)?;
    let key = path("key-file", &contrail.key_file)?;
    if certificate.is_some() != key.is_some() {
        return Err(invalid(
            "certificate-file",
            "certificate-file and key-file together",
        ));
    }
    Ok(ManagerOptions {
        managers,
        agent: agent.ok_or_else(|| invalid("agent", "the name of this host's virtual-router"))?,
        virtual_router_address: match address {
            Some(address) => Some(
                address
                    .parse()
                    .map_err(|_| invalid("virtual-router-address", "an address"))?,
            ),
            // The default of the manager that came with Contrail.
            None => vrouter_host
                .parse()
                .ok()
                .filter(|address: &IpAddr| !address.is_loopback()),
        },
        virtual_network: string("virtual-network", &contrail.virtual_network)?,
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

/// A `NetworkInfo` from Mesos' JSON, with the fields that the managers need.
fn network_info(json: &Value) -> NetworkInfo {
    let bytes = |value: &Value| value.as_str().map(|string| string.as_bytes().to_vec());
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let label = |label: &Value| {
        Some(Label {
            key: bytes(&label["key"])?,
            value: bytes(&label["value"]),
        })
    };
    let address = |address: &Value| network_info::IpAddress {
        // Mesos also writes the default, so IPv4 is not a request.
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
