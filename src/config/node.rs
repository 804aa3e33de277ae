//! The table `[node]`: how the node daemon of this host works. The library checks it and uses
//! nothing of it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::dns_server::{self, DnsServer};
use super::fields::{hostname, quoted};
use super::managers::{self, ManagerAccess};
use contrail_mesos_api::agent_api::{ClientOptions, ManagerSetupError};
use contrail_mesos_api::cluster::ClusterClient;
use contrail_mesos_api::config_reader::Section;
use contrail_mesos_api::http::{Address, Limits, TlsOptions};
use contrail_mesos_api::text::Quoted;

/// The longest name of a node, in bytes.
const MAX_NAME_BYTES: usize = 253;
/// The longest path of a unix socket, in bytes.
const MAX_SOCKET_PATH_BYTES: usize = 107;
const NAME: &str = "a name such as \"agent-1.example\": 1 to 253 letters, digits and any of . _ -";

/// How the node daemon works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The managers, in order of preference. Without any, the daemon keeps what it knows.
    pub managers: Vec<Address>,
    /// The file with the token that agents and managers share.
    pub token_file: Option<PathBuf>,
    /// TLS of the connections to managers.
    pub tls: TlsOptions,
    /// The name by which the managers know this host.
    pub name: String,
    /// This host's address in the underlay. Without it, the local address of the route to the first
    /// manager.
    pub address: Option<IpAddr>,
    /// The path of the unix socket of the daemon's API.
    pub socket: PathBuf,
    /// Where the API is served by TCP as well.
    pub listen: Option<SocketAddr>,
    /// Names of this host besides its own by which the TCP listener may be addressed. `*` allows all.
    pub allowed_hosts: Vec<String>,
    /// How often the node reports its state.
    pub report_interval: Duration,
    /// The path of the unix socket of Docker's API; none if Docker gets no networks.
    pub docker: Option<PathBuf>,
    /// The DNS server.
    pub dns: DnsServer,
}

impl Node {
    /// A client of the managers; none if there are none. Reads the token and the certificates: blocks
    /// on the file system.
    pub fn cluster_client(&self) -> Result<Option<ClusterClient>, ManagerSetupError> {
        if self.managers.is_empty() {
            return Ok(None);
        }
        let client = ClusterClient::new(&ClientOptions {
            managers: self.managers.clone(),
            agent: self.name.clone(),
            token_file: self.token_file.clone(),
            tls: self.tls.clone(),
            limits: Limits {
                connect_timeout: Duration::from_secs(3),
                request_timeout: Duration::from_secs(10),
                max_body_bytes: 4 << 20,
            },
        })?;
        Ok(Some(client))
    }
}

/// The path of the API's socket if the configuration names none.
fn default_socket(state_dir: &Path) -> PathBuf {
    state_dir.join("node").join("api.sock")
}

/// The daemon of a host whose configuration has no `[node]`.
pub(super) fn default(state_dir: &Path) -> Node {
    Node {
        managers: vec![],
        token_file: None,
        tls: TlsOptions::default(),
        name: hostname(),
        address: None,
        socket: default_socket(state_dir),
        listen: None,
        allowed_hosts: vec![],
        report_interval: Duration::from_secs(10),
        docker: None,
        dns: DnsServer::default(),
    }
}

pub(super) fn read(section: Section<'_>, state_dir: &Path) -> Node {
    let default = default(state_dir);
    let ManagerAccess {
        managers,
        token_file,
        tls,
    } = managers::read(&section);
    let name = section
        .checked("name", NAME, |name| {
            is_node_name(name)
                .then(|| name.to_owned())
                .ok_or_else(String::new)
        })
        .unwrap_or(default.name);
    if !section.has("name") && !managers.is_empty() && !is_node_name(&name) {
        section.problem(
            "name",
            format!(
                "the name of this host, {}, cannot be a node's name: write name",
                Quoted(name.as_bytes())
            ),
        );
    }
    let address = section.checked("address", "an address of this host", |text| {
        let address: IpAddr = text.parse().map_err(|_| String::new())?;
        if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
            return Err("other hosts must reach it".to_owned());
        }
        Ok(address)
    });
    let socket = section
        .text("socket", "the path of a unix socket")
        .map_or(default.socket, PathBuf::from);
    check_socket(&section, "socket", &socket);
    let docker = section
        .text("docker", "the path of Docker's unix socket")
        .map(PathBuf::from);
    if let Some(docker) = &docker {
        check_socket(&section, "docker", docker);
    }
    let node = Node {
        managers,
        token_file,
        tls,
        name,
        address,
        socket,
        listen: section.parsed("listen", "an address and a port such as \"127.0.0.1:6994\""),
        allowed_hosts: section
            .checked_list("allowed_hosts", "a host name, or \"*\" for all", |name| {
                let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
                is_name.then(|| name.to_owned()).ok_or_else(String::new)
            })
            .unwrap_or_default(),
        report_interval: section.duration("report_interval", default.report_interval),
        docker,
        dns: section.section("dns").map_or(default.dns, dns_server::read),
    };
    section.finish();
    node
}

/// Checks the path of a unix socket, the value of `key` or its default.
fn check_socket(section: &Section<'_>, key: &str, socket: &Path) {
    let shown = quoted(socket);
    if section.has(key) && !socket.is_absolute() {
        section.problem(key, format!("{shown} must be an absolute path"));
    } else if socket.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
        section.problem(
            key,
            format!(
                "the path {shown} is longer than {MAX_SOCKET_PATH_BYTES} bytes, more than a socket's \
                 path may have: write {key}"
            ),
        );
    }
}

/// Whether managers accept it as the name of a node.
#[must_use]
pub fn is_node_name(name: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}
