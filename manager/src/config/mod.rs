//! The manager's configuration: one TOML file, read when the manager starts.
//!
//! Invariant: a [`Config`] that was read holds only what was checked; everything that is wrong
//! with a file is reported at once, each with its place and what to write instead. Secrets are in
//! files of their own or in the environment, never in this file.

mod file;
mod follow;
mod zookeeper;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;

use super::election::ZooKeeper;
use super::model::{Create, Defaults, Policy};
use crate::marathon::MarathonOptions;
use crate::mesos_master::MasterOptions;
use crate::vnc::VncOptions;
use contrail_mesos_api::config_reader::{ConfigError, ConfigProblem};
use contrail_mesos_api::http::tls::Identity;

/// Where the configuration is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/contrail-mesos/manager.toml";

/// Everything that the manager can be told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where agents ask.
    pub listen: SocketAddr,
    /// Where CNI plugins of Contrail's own manager ask; nowhere by default.
    pub legacy_listen: Option<SocketAddr>,
    /// Where operators ask; nowhere without.
    pub admin_listen: Option<SocketAddr>,
    /// Who may ask.
    pub access: Access,
    /// Where it is decided which of several managers leads; there is only one without.
    pub zookeeper: Option<ZooKeeper>,
    /// How the VNC API is reached.
    pub vnc: VncOptions,
    /// What labels that say nothing mean.
    pub defaults: Defaults,
    /// What may be created when a container names it and it is not there.
    pub create: Create,
    /// What is provisioned at start; nothing where there is no such table.
    pub provision: Option<Provision>,
    /// How many ports a container may have.
    pub ports: usize,
    /// How long a name's uuid, and a network's subnets, are taken for granted.
    pub name_cache_ttl: Duration,
    /// How long what there is of a container that could not be made is left to the agent, which
    /// asks again, before it is removed.
    pub rollback_delay: Duration,
    /// What is logged, where the configuration says so.
    pub log_level: Option<String>,
    /// What is followed, to keep what is in the VNC API true; nothing by default.
    pub follow: Option<Follow>,
}

/// What is followed, and how what is in the VNC API is kept true.
#[derive(Clone, Debug)]
pub struct Follow {
    /// How Mesos is reached.
    pub mesos: MasterOptions,
    /// How Marathon is reached. Without it labels that change are not seen.
    pub marathon: Option<MarathonOptions>,
    /// How long to wait before what.
    pub policy: Policy,
    /// How often everything is listed and compared.
    pub resync: Duration,
    /// How many containers are corrected at a time.
    pub concurrency: usize,
    /// How many objects are listed at a time.
    pub page_size: u32,
}

impl Follow {
    /// Mesos alone, and defaults.
    #[must_use]
    pub fn new(mesos: MasterOptions) -> Self {
        Self {
            mesos,
            marathon: None,
            policy: Policy::default(),
            resync: Duration::from_mins(10),
            concurrency: 8,
            page_size: 500,
        }
    }
}

/// Who may ask, and how that is known.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Any of these in `Authorization: Bearer …`; none: nobody is asked.
    pub tokens: Vec<SecretString>,
    /// TLS; plain HTTP without.
    pub tls: Option<Tls>,
}

/// TLS of the agents' API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Who the manager is.
    pub identity: Identity,
    /// PEM file of the CAs of agents' certificates. With it, an agent needs one with its name.
    pub client_ca: Option<PathBuf>,
}

/// What is provisioned at start, in the default project.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Provision {
    /// Subnets of the default network.
    pub pod_task_subnets: Vec<IpNet>,
    /// Subnets of the default network where it lies upon the fabric's.
    pub ip_fabric_subnets: Vec<IpNet>,
    /// Whether the default network lies upon the fabric's.
    pub ip_fabric_forwarding: bool,
    /// Whether what leaves the default network does so with the host's address.
    pub ip_fabric_snat: bool,
}

impl Config {
    /// Defaults, with this way to the VNC API: agents of this machine only, nothing provisioned
    /// or created.
    #[must_use]
    pub fn new(vnc: VncOptions) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 6992)),
            legacy_listen: None,
            admin_listen: Some(SocketAddr::from(([127, 0, 0, 1], 6993))),
            zookeeper: None,
            access: Access::default(),
            vnc,
            defaults: Defaults::of("mesos"),
            create: Create::default(),
            provision: None,
            ports: 16,
            name_cache_ttl: Duration::from_secs(30),
            rollback_delay: Duration::from_secs(5),
            log_level: None,
            follow: None,
        }
    }

    /// Reads a file, and the files and variables that it names. Blocks on the file system.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
            problems: vec![ConfigProblem {
                place: path.display().to_string(),
                key: String::new(),
                message: format!(
                    "cannot read the configuration: {error}; name an existing file with --config"
                ),
            }],
        })?;
        Self::parse(path, &text)
    }

    /// Reads a file's text; its path is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        file::parse(path, text)
    }
}

#[cfg(test)]
mod tests;
