//! The manager's configuration: one TOML file, read when the manager starts.
//!
//! Invariant: a [`Config`] holds only validated values. All problems of a file are reported at once,
//! each with its line and a correction. Secrets are in separate files or in the environment, never in
//! this file.

mod fields;
mod file;
mod follow;
mod overlay;
mod security_groups;
mod services;
mod services_contrail;
mod zookeeper;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;

use super::election::ZooKeeper;
use super::model::{Create, Defaults, Policy};
use super::server::Manager;
use crate::marathon::MarathonOptions;
use crate::mesos_master::MasterOptions;
use crate::vnc::VncOptions;
use contrail_mesos_api::cluster::SecurityGroup;
use contrail_mesos_api::command_line::CheckReport;
use contrail_mesos_api::config_reader::{
    ConfigError, ConfigProblem, Document, FileAccess, Severity, read_file,
};
use contrail_mesos_api::http::tls::Identity;

pub(crate) use file::is_token;
pub use overlay::OverlayOptions;
pub(crate) use security_groups::protocol_text;
pub use services::ServicesOptions;
pub(crate) use services::term_file;
pub use services_contrail::{LinkLocalDns, ServicesContrailOptions};

/// The default path of the configuration.
pub const DEFAULT_PATH: &str = "/etc/contrail-mesos/manager.toml";
/// The default port of the admin listener.
pub const DEFAULT_ADMIN_PORT: u16 = 6993;

/// The configuration of a manager.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address of the API for agents.
    pub listen: SocketAddr,
    /// The address of the API for CNI plugins of Contrail's own manager; off by default.
    pub legacy_listen: Option<SocketAddr>,
    /// The address of the admin listener; off if none.
    pub admin_listen: Option<SocketAddr>,
    /// Names by which the listeners without authentication may be addressed, besides addresses and
    /// this machine's own name.
    pub allowed_hosts: Vec<String>,
    /// The authentication of agents.
    pub access: Access,
    /// The limits of connections.
    pub connections: Connections,
    /// The leader election; without it this manager always leads.
    pub zookeeper: Option<ZooKeeper>,
    /// The VNC API; without it this manager knows no Contrail.
    pub vnc: Option<VncOptions>,
    /// The defaults for labels.
    pub defaults: Defaults,
    /// What may be created when a container names it and it does not exist.
    pub create: Create,
    /// What is provisioned before requests are served; nothing if none.
    pub provision: Option<Provision>,
    /// How many ports a container may have.
    pub ports: usize,
    /// How long the uuids of names and the subnets of networks are cached.
    pub name_cache_ttl: Duration,
    /// How long the objects of a container that could not be created are kept for the agent's retry.
    pub rollback_delay: Duration,
    /// The log filter; it overrides the command line.
    pub log_level: Option<String>,
    /// The sources to reconcile the VNC API with; none by default.
    pub follow: Option<Follow>,
    /// Overlay networks; none by default.
    pub overlay: Option<OverlayOptions>,
    /// Services of tasks; none by default.
    pub services: Option<ServicesOptions>,
    /// The security groups that are published to the nodes of overlays. Their names are distinct.
    pub security_groups: Vec<SecurityGroup>,
    /// What is valid, but probably a mistake.
    pub warnings: Vec<ConfigProblem>,
}

/// The sources to reconcile the VNC API with, and how.
#[derive(Clone, Debug)]
pub struct Follow {
    /// Mesos.
    pub mesos: MasterOptions,
    /// Marathon. Without it, changes of labels have no effect on running containers.
    pub marathon: Option<MarathonOptions>,
    /// The delays before changes.
    pub policy: Policy,
    /// The interval between full resyncs.
    pub resync: Duration,
    /// How many containers are updated concurrently.
    pub concurrency: usize,
    /// How many objects are in a page of a listing.
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

/// The limits of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections {
    /// How many connections agents may have in all, as far as the limit of open files allows.
    pub total: usize,
    /// How many connections one address may have to each listener.
    pub per_address: usize,
    /// How long a connection may wait for the whole head of the next request.
    pub idle_timeout: Duration,
    /// How long the body of a request may take.
    pub body_timeout: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            // Each of 5,000 nodes has a watch and a connection for its reports.
            total: 16_384,
            per_address: 256,
            // Longer than agents keep idle connections, so that an agent closes first.
            idle_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(10),
        }
    }
}

/// The authentication of agents.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Accepted in `Authorization: Bearer …`; if empty, no token is required.
    pub tokens: Vec<SecretString>,
    /// TLS; plain HTTP without.
    pub tls: Option<Tls>,
    /// Names in client certificates that may delete any node by the endpoints of DC/OS's master module.
    pub operators: Vec<String>,
}

/// TLS of the API for agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The manager's certificate and key.
    pub identity: Identity,
    /// PEM file of the CAs of the agents' certificates. If set, an agent needs a certificate with its
    /// name.
    pub client_ca: Option<PathBuf>,
}

/// What is provisioned in the default project.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Provision {
    /// Subnets of the default network.
    pub pod_task_subnets: Vec<IpNet>,
    /// Subnets of the default network if IP fabric forwarding is on.
    pub ip_fabric_subnets: Vec<IpNet>,
    /// Whether the default network is part of the underlay (IP fabric forwarding).
    pub ip_fabric_forwarding: bool,
    /// Whether traffic to the underlay has the host's address (SNAT).
    pub ip_fabric_snat: bool,
}

impl Default for Config {
    /// Listens on the loopback address only; nothing is managed.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 6992)),
            legacy_listen: None,
            admin_listen: Some(SocketAddr::from(([127, 0, 0, 1], DEFAULT_ADMIN_PORT))),
            zookeeper: None,
            allowed_hosts: vec![],
            access: Access::default(),
            connections: Connections::default(),
            vnc: None,
            defaults: Defaults::of("mesos"),
            create: Create::default(),
            provision: None,
            ports: 16,
            name_cache_ttl: Duration::from_secs(30),
            rollback_delay: Duration::from_secs(5),
            log_level: None,
            follow: None,
            overlay: None,
            services: None,
            security_groups: vec![],
            warnings: vec![],
        }
    }
}

impl Config {
    /// Defaults with this VNC API: nothing is provisioned or created.
    #[must_use]
    pub fn new(vnc: VncOptions) -> Self {
        Self {
            vnc: Some(vnc),
            ..Self::default()
        }
    }

    /// Reads a file and the files and variables that it names. Blocks.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read(path)?;
        Self::parse(path, &text)
    }

    /// Parses the content of a file; its path is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        file::parse(Document::new(path, text)).config
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    read_file(path).map_err(|error| {
        ConfigProblem {
            place: path.display().to_string(),
            key: String::new(),
            message: format!(
                "cannot read the configuration: {error}; name an existing file with --config"
            ),
        }
        .into()
    })
}

/// Checks a configuration and all files that it names; offline, those that are there. Blocks.
#[must_use]
pub fn check(path: &Path, is_offline: bool) -> CheckReport {
    let mut report = CheckReport::new(path);
    let access = if is_offline {
        FileAccess::Offline
    } else {
        FileAccess::Checked
    };
    let text = match read(path) {
        Ok(text) => text,
        Err(error) => {
            report.add_error(&error);
            return report;
        }
    };
    let parsed = file::parse(Document::new(path, &text).with_file_access(access));
    report.add(Severity::Warning, &parsed.warnings);
    report.add(Severity::Note, &parsed.notes);
    match &parsed.config {
        Err(error) => report.add_error(error),
        Ok(config) if !is_offline => {
            // Each file is good, but perhaps not all of them together.
            if let Err(error) = Manager::check(config) {
                report.add_text(Severity::Problem, format!("{}: {error}", path.display()));
            }
        }
        Ok(_) => {}
    }
    report
}

#[cfg(test)]
mod tests;
