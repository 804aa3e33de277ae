//! The table `[contrail]`: how this host reaches the managers and the vRouter agent; and the keys
//! of networks of provider `contrail`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::bridge::{INTERFACE_NAME, is_interface_name};
use super::fields::{directory, hostname, mtu};
use super::managers::{self, ManagerAccess};
use crate::vrouter::DEFAULT_DIRECTORY;
use contrail_mesos_api::agent_api::{ClientOptions, ManagerSetupError, PortsClient};
use contrail_mesos_api::cluster::ClusterClient;
use contrail_mesos_api::config_reader::Section;
use contrail_mesos_api::http::{Address, Limits, TlsOptions};
use contrail_mesos_api::text::Quoted;

/// The port of the vRouter agent's port service.
const VROUTER_PORT: u16 = 9091;

/// How this host reaches Contrail. Read when the agent starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contrail {
    /// The managers, in order of preference; never empty.
    pub managers: Vec<Address>,
    /// The name of this host's virtual-router, by which the managers know this agent.
    pub agent: String,
    /// The address by which to find the virtual-router if none has that name.
    pub virtual_router_address: Option<IpAddr>,
    /// The file with the token that agents and managers share.
    pub token_file: Option<PathBuf>,
    /// TLS of the connections to managers.
    pub tls: TlsOptions,
    /// The vRouter agent's host name or address.
    pub vrouter_host: String,
    /// The vRouter agent's port.
    pub vrouter_port: u16,
    /// The directory from which the vRouter agent reads port files.
    pub port_directory: PathBuf,
    /// How long a container waits for the manager and the vRouter agent together.
    pub deadline: Duration,
    /// The kind of the containers' interfaces.
    pub vif: Vif,
    /// Whether the vRouter agent removes the ports that are not registered again after this agent
    /// restarts. Only safe if nothing else registers ports with it.
    pub sync_ports: bool,
}

impl Contrail {
    /// A client of the managers. Reads the token and the certificates: blocks on the file system.
    pub fn manager_client(&self) -> Result<PortsClient, ManagerSetupError> {
        PortsClient::new(&self.client_options())
    }

    /// A client of what the managers publish to nodes, where they do. Blocks like
    /// [`Contrail::manager_client`].
    pub fn cluster_client(&self) -> Result<ClusterClient, ManagerSetupError> {
        ClusterClient::new(&self.client_options())
    }

    fn client_options(&self) -> ClientOptions {
        ClientOptions {
            managers: self.managers.clone(),
            agent: self.agent.clone(),
            token_file: self.token_file.clone(),
            tls: self.tls.clone(),
            limits: Limits {
                // Of one attempt, so that the next manager is tried within the deadline.
                connect_timeout: self.deadline / 8,
                request_timeout: self.deadline,
                max_body_bytes: 4 << 20,
            },
        }
    }
}

/// The kind of a container's interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vif {
    /// A veth pair. The vRouter on this host forwards for its host end.
    Veth,
    /// A macvlan on a VLAN of `parent`, on a host that is a virtual machine of Contrail. The
    /// vRouter on the hypervisor forwards for it.
    Macvlan {
        /// The host's interface.
        parent: String,
    },
}

/// A network of provider `contrail`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContrailNetwork {
    /// The virtual network of containers whose labels name none: `domain:project:network`, or a
    /// name in the managers' default project. `None` for the managers' default network.
    pub virtual_network: Option<String>,
    /// MTU of the containers' interfaces, in bytes.
    pub mtu: u32,
}

pub(super) fn read(section: Section<'_>) -> Contrail {
    let ManagerAccess {
        managers,
        token_file,
        tls,
    } = managers::read(&section);
    if !section.has("managers") || section.is_empty_list("managers") {
        section.problem(
            "managers",
            "[contrail] needs a manager: managers = [\"https://master-1.example:6992\"]",
        );
    }
    let agent = section
        .checked(
            "agent",
            "the name of this host's virtual-router, ASCII without spaces",
            |name| {
                let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
                is_name.then(|| name.to_owned()).ok_or_else(String::new)
            },
        )
        .unwrap_or_else(hostname);
    if !section.has("agent") && !agent.bytes().all(|byte| byte.is_ascii_graphic()) {
        section.problem(
            "agent",
            format!(
                "the name of this host, {}, cannot be a virtual-router's name: write agent",
                Quoted(agent.as_bytes())
            ),
        );
    }
    let (vrouter_host, vrouter_port) = vrouter(&section);
    let contrail = Contrail {
        managers,
        agent,
        virtual_router_address: section.parsed(
            "virtual_router_address",
            "the address of this host's virtual-router",
        ),
        token_file,
        tls,
        vrouter_host,
        vrouter_port,
        port_directory: directory(&section, "port_directory", DEFAULT_DIRECTORY),
        deadline: section.duration("deadline", Duration::from_secs(20)),
        vif: vif(&section),
        sync_ports: section.boolean("sync_ports", false),
    };
    section.finish();
    contrail
}

/// `host`, `host:port`, or an IPv6 address, in brackets with a port.
fn vrouter(section: &Section<'_>) -> (String, u16) {
    let expected = "the vRouter agent's address such as \"127.0.0.1:9091\"";
    section
        .checked("vrouter", expected, |address| {
            vrouter_address(address).ok_or_else(String::new)
        })
        .unwrap_or_else(|| ("127.0.0.1".to_owned(), VROUTER_PORT))
}

fn vrouter_address(address: &str) -> Option<(String, u16)> {
    if address.parse::<IpAddr>().is_ok() {
        return Some((address.to_owned(), VROUTER_PORT));
    }
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)?),
        None => (address, VROUTER_PORT),
    };
    let host = host.trim_matches(['[', ']']);
    let is_host = !host.is_empty()
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-:_".contains(&byte));
    is_host.then(|| (host.to_owned(), port))
}

fn vif(section: &Section<'_>) -> Vif {
    let kind = section.word("vif", &["veth", "macvlan"], "\"veth\" or \"macvlan\"");
    let parent = section.checked("parent_interface", "an interface of this host", |name| {
        is_interface_name(name)
            .then(|| name.to_owned())
            .ok_or_else(|| INTERFACE_NAME.to_owned())
    });
    if kind == Some("macvlan") {
        return Vif::Macvlan {
            parent: parent.unwrap_or_else(|| "eth0".to_owned()),
        };
    }
    // Whether a misspelt vif is meant to be macvlan is not known.
    if section.has("parent_interface") && (kind.is_some() || !section.has("vif")) {
        section.problem("parent_interface", "needs vif = \"macvlan\"");
    }
    Vif::Veth
}

/// The keys of a `[[network]]` of provider `contrail` only.
pub(super) const NETWORK_KEYS: &[&str] = &["virtual_network", "mtu"];

/// Reads the keys of a `[[network]]` of provider `contrail`.
pub(super) fn network(section: &Section<'_>) -> ContrailNetwork {
    let virtual_network = section.checked(
        "virtual_network",
        "a virtual network such as \"default-domain:default-project:blue\", or a plain name",
        |name| {
            let parts: Vec<&str> = name.splitn(4, ':').collect();
            let is_name = matches!(parts.len(), 1 | 3) && parts.iter().all(|part| !part.is_empty());
            is_name.then(|| name.to_owned()).ok_or_else(String::new)
        },
    );
    ContrailNetwork {
        virtual_network,
        mtu: mtu(section, 576),
    }
}
