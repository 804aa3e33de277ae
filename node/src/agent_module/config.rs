//! The configuration of the agent modules: their parameters, the JSON file of the later one, and what
//! Mesos has in its environment.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use contrail_mesos::config::{Config, DnsServer, Node, is_node_name};
use contrail_mesos_api::agent_api::{DEFAULT_PORT, manager_address};
use contrail_mesos_api::config_reader::{ConfigError, ConfigProblem, Document, Section, read_file};
use contrail_mesos_api::http::tls::Identity;
use contrail_mesos_api::http::{Address, TlsOptions};
use contrail_mesos_api::overlay_modules::{ParameterError, Parameters};
use contrail_mesos_api::text::{Quoted, hex};
use sha2::{Digest as _, Sha256};

use super::masters::{self, MasterError};
use crate::cni_files::CniFileOptions;

/// The MTU that the DC/OS module gives containers.
const DEFAULT_MTU: u32 = 1420;
const MTU_RANGE: std::ops::RangeInclusive<u32> = 576..=65_535;
/// The variables with the address of this process, which Mesos sets from its flags `--advertise_ip` and
/// `--ip`.
const ADDRESS_VARIABLES: [&str; 2] = ["LIBPROCESS_ADVERTISE_IP", "LIBPROCESS_IP"];
/// The variables with the masters.
const MASTER_VARIABLES: [&str; 2] = ["MESOS_MASTER", "MESOS_ZK"];
/// How much of the hash of the configuration is reported, in characters.
const HASH_CHARS: usize = 16;

/// Which of the two modules it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentModuleKind {
    /// `com_mesosphere_mesos_AgentOverlayHelper`, with the parameters `master` and `cni_dir`.
    Helper,
    /// `com_mesosphere_mesos_OverlayAgentManager`, with the parameter `agent_config`.
    Manager,
}

/// Why a module cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum ModuleConfigError {
    /// A parameter.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// The JSON file.
    #[error("{0}")]
    File(#[from] ConfigError),
    /// The managers are not known.
    #[error(transparent)]
    Master(#[from] MasterError),
    /// The name of this host is none for a node.
    #[error(
        "the name of this host, {0}, cannot be a node's name: write the parameter name, of letters, \
         digits and any of . _ -"
    )]
    Name(String),
    /// One of two parameters that belong together.
    #[error("the parameters certificate_file and key_file belong together: set both or neither")]
    Certificate,
}

/// Where Docker serves its API, unless a parameter says otherwise.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// What a module runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentModuleConfig {
    /// The configuration of the node daemon.
    pub config: Config,
    /// The CNI configurations; none if this agent makes no bridges.
    pub cni: Option<CniFileOptions>,
    /// What is valid, but has no effect.
    pub warnings: Vec<ConfigProblem>,
}

impl AgentModuleConfig {
    /// Reads the parameters and the files that they name: blocks. `variable` is the environment.
    pub fn read(
        kind: AgentModuleKind,
        parameters: Parameters,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ModuleConfigError> {
        let file = match kind {
            AgentModuleKind::Helper => AgentFile {
                master: parameters.get("master").map(str::to_owned),
                directory: parameters.parsed("cni_dir", absolute)?.ok_or(
                    ParameterError::Missing {
                        key: "cni_dir",
                        expected: "the directory of network/cni's configurations",
                    },
                )?,
                data_directory: None,
                mtu: DEFAULT_MTU,
                mesos_bridge: true,
                docker_bridge: true,
                warnings: vec![],
            },
            AgentModuleKind::Manager => {
                let path = parameters.required("agent_config", "the path of a JSON file")?;
                AgentFile::load(Path::new(path))?
            }
        };
        let port = parameters.parsed("manager_port", str::parse::<u16>)?;
        let managers: Vec<Address> = parameters
            .list("managers")
            .map(|manager| {
                manager_address(manager).map_err(|error| ParameterError::Value {
                    key: "managers".to_owned(),
                    value: Quoted(manager.as_bytes()).to_string(),
                    reason: error.to_string(),
                })
            })
            .collect::<Result<_, _>>()?;
        let managers = if managers.is_empty() {
            let known = MASTER_VARIABLES
                .iter()
                .find_map(|name| set(&variable, name));
            let master = file.master.or(known).ok_or(MasterError::Missing)?;
            masters::managers(&master, port.unwrap_or(DEFAULT_PORT))?
        } else {
            managers
        };
        let mut config = Config::default();
        if let Some(state_dir) = parameters.parsed("state_dir", absolute)? {
            config.state_dir = state_dir;
        }
        let socket = config.state_dir.join("node").join("api.sock");
        let name = parameters.get("name").map(str::to_owned);
        let name = name.unwrap_or(config.node.name);
        if !is_node_name(&name) {
            let name = Quoted(name.as_bytes()).to_string();
            return Err(ModuleConfigError::Name(name));
        }
        let address = parameters.parsed("address", reachable)?;
        let docker = match parameters.parsed("docker", absolute)? {
            // The operator says that there is Docker.
            Some(socket) => Some(socket),
            None => Some(PathBuf::from(DOCKER_SOCKET)).filter(|socket| socket.exists()),
        };
        config.node = Node {
            managers,
            token_file: parameters.parsed("token_file", absolute)?,
            tls: tls(&parameters)?,
            name,
            address: address.or_else(|| own_address(&variable)),
            socket,
            listen: parameters.parsed("listen", str::parse::<SocketAddr>)?,
            allowed_hosts: parameters
                .list("allowed_hosts")
                .map(str::to_owned)
                .collect(),
            report_interval: config.node.report_interval,
            docker: docker.filter(|_| file.docker_bridge),
            dns: DnsServer::default(),
        };
        parameters.finish()?;
        let cni = file.mesos_bridge.then_some(CniFileOptions {
            directory: file.directory,
            data_directory: file.data_directory,
            mtu: file.mtu,
        });
        Ok(Self {
            config,
            cni,
            warnings: file.warnings,
        })
    }

    /// A short hash, to see which agents have which configuration.
    #[must_use]
    pub fn hash(&self) -> String {
        let text = format!("{:?} {:?}", self.config.node, self.cni);
        hex(&Sha256::digest(text))[..HASH_CHARS].to_owned()
    }
}

fn set(variable: &impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    variable(name).filter(|value| !value.trim().is_empty())
}

/// The address that Mesos uses itself, if other hosts can reach it.
fn own_address(variable: &impl Fn(&str) -> Option<String>) -> Option<IpAddr> {
    let mut addresses = ADDRESS_VARIABLES.iter().filter_map(|name| variable(name));
    addresses.find_map(|text| reachable(text.trim()).ok())
}

fn reachable(text: &str) -> Result<IpAddr, &'static str> {
    let address: IpAddr = text
        .parse()
        .map_err(|_| "expected an address of this host")?;
    if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        return Err("other hosts must reach it");
    }
    Ok(address)
}

fn absolute(text: &str) -> Result<PathBuf, &'static str> {
    let path = PathBuf::from(text);
    let is_absolute = path.is_absolute();
    is_absolute
        .then_some(path)
        .ok_or("expected an absolute path")
}

fn tls(parameters: &Parameters) -> Result<TlsOptions, ModuleConfigError> {
    let ca = parameters.parsed("ca_file", absolute)?;
    let certificate = parameters.parsed("certificate_file", absolute)?;
    let key = parameters.parsed("key_file", absolute)?;
    if certificate.is_some() != key.is_some() {
        return Err(ModuleConfigError::Certificate);
    }
    let identity = certificate
        .zip(key)
        .map(|(certificate, key)| Identity { certificate, key });
    Ok(TlsOptions { ca, identity })
}

/// The JSON file of the agent module.
#[derive(Debug, PartialEq, Eq)]
struct AgentFile {
    master: Option<String>,
    directory: PathBuf,
    data_directory: Option<PathBuf>,
    mtu: u32,
    mesos_bridge: bool,
    docker_bridge: bool,
    warnings: Vec<ConfigProblem>,
}

impl AgentFile {
    fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = read_file(path).map_err(|error| ConfigProblem {
            place: path.display().to_string(),
            key: String::new(),
            message: format!("cannot read the configuration of the agent module: {error}"),
        })?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let document = Document::new(path, text);
        let table = document.parse_json();
        let top = Section::top(&document, &table);
        let file = read(&top);
        top.finish();
        let warnings = document.warnings();
        document.finish()?;
        // Every reason why there is none is a problem.
        let file = file.ok_or_else(|| ConfigProblem {
            place: path.display().to_string(),
            key: String::new(),
            message: "is incomplete".to_owned(),
        })?;
        Ok(Self { warnings, ..file })
    }
}

fn read(top: &Section<'_>) -> Option<AgentFile> {
    let path = |key: &str| {
        top.checked(key, "the absolute path of a directory", |text| {
            absolute(text).map_err(str::to_owned)
        })
    };
    let directory = path("cni_dir");
    if !top.has("cni_dir") {
        top.problem(
            "cni_dir",
            "is missing: the directory of network/cni's configurations",
        );
    }
    let data_directory = path("cni_data_dir");
    let master = top.text("master", "host:port, zk://… or file://…");
    top.allow(&["max_configuration_attempts"]);
    let (mut mtu, mut mesos_bridge, mut docker_bridge) = (DEFAULT_MTU, true, true);
    if let Some(section) = top.section("network_config") {
        section.allow(&["command_timeout", "enable_ipv6"]);
        mtu = section
            .integer("overlay_mtu", MTU_RANGE)
            .unwrap_or(DEFAULT_MTU);
        mesos_bridge = section.boolean("mesos_bridge", true);
        docker_bridge = section.boolean("docker_bridge", true);
        if !section.boolean("allocate_subnet", true) {
            let message =
                "has no effect: this node gets subnets as others do, and uses none of them";
            section.warning("allocate_subnet", message);
        }
        section.finish();
    }
    Some(AgentFile {
        master,
        directory: directory?,
        data_directory,
        mtu,
        mesos_bridge,
        docker_bridge,
        warnings: vec![],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    fn helper(parameters: &[(&str, &str)]) -> Result<AgentModuleConfig, ModuleConfigError> {
        let all = [&[("cni_dir", "/c")][..], parameters].concat();
        AgentModuleConfig::read(AgentModuleKind::Helper, Parameters::of(&all), nothing)
    }

    fn managers(config: &AgentModuleConfig) -> Vec<String> {
        let managers = config.config.node.managers.iter();
        managers.map(ToString::to_string).collect()
    }

    #[test]
    fn parameters_of_the_first_module_are_enough() {
        let config = helper(&[("master", "10.0.0.1:5050")]).unwrap();
        assert_eq!(managers(&config), ["http://10.0.0.1:6992"]);
        let cni = config.cni.clone().unwrap();
        assert_eq!((cni.directory.as_path(), cni.mtu), (Path::new("/c"), 1420));
        let node = &config.config.node;
        assert_eq!(node.socket, config.config.state_dir.join("node/api.sock"));
        assert_eq!((node.address, node.listen), (None, None));
        assert_eq!(config.hash().len(), HASH_CHARS);
    }

    #[test]
    fn more_parameters_and_the_environment_are_used() {
        let config = helper(&[
            ("managers", "https://m1, m2:7000"),
            ("name", "node-1"),
            ("state_dir", "/s"),
            ("token_file", "/t"),
            ("ca_file", "/ca"),
        ])
        .unwrap();
        assert_eq!(managers(&config), ["https://m1:6992", "http://m2:7000"]);
        let node = &config.config.node;
        assert_eq!(node.socket, Path::new("/s/node/api.sock"));
        assert_eq!(node.token_file.as_deref(), Some(Path::new("/t")));
        let environment = |name: &str| match name {
            "MESOS_MASTER" => Some("zk://a:2181,b:2181/mesos".to_owned()),
            "LIBPROCESS_ADVERTISE_IP" => Some("0.0.0.0".to_owned()),
            "LIBPROCESS_IP" => Some("10.0.0.5".to_owned()),
            _ => None,
        };
        let parameters = Parameters::of(&[("cni_dir", "/c"), ("manager_port", "7001")]);
        let config =
            AgentModuleConfig::read(AgentModuleKind::Helper, parameters, environment).unwrap();
        assert_eq!(managers(&config), ["http://a:7001", "http://b:7001"]);
        assert_eq!(config.config.node.address, Some([10, 0, 0, 5].into()));
    }

    #[test]
    fn wrong_parameters_are_refused() {
        let master = ("master", "a:1");
        for (parameters, expected) in [
            (&[][..], "no master is known"),
            (&[master, ("cni_dri", "/x")], "no parameter"),
            (&[master, ("name", "a b")], "write the parameter name"),
            (&[master, ("state_dir", "x")], "absolute path"),
            (&[master, ("address", "127.0.0.1")], "other hosts"),
            (&[master, ("listen", "6994")], "listen"),
            (&[master, ("manager_port", "0x")], "manager_port"),
            (&[("managers", "a b")], "managers"),
            (&[master, ("key_file", "/k")], "belong together"),
            (&[("master", "zk://")], "names no masters"),
        ] {
            let error = helper(parameters).unwrap_err().to_string();
            assert!(error.contains(expected), "{parameters:?}: {error}");
        }
        let error =
            AgentModuleConfig::read(AgentModuleKind::Helper, Parameters::of(&[master]), nothing);
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("cni_dir is missing")
        );
        let error = AgentModuleConfig::read(AgentModuleKind::Manager, Parameters::of(&[]), nothing);
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("agent_config is missing")
        );
    }

    fn manager(text: &str) -> Result<AgentModuleConfig, ModuleConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.json");
        std::fs::write(&path, text).unwrap();
        let path = path.display().to_string();
        let parameters = Parameters::of(&[("agent_config", &path)]);
        AgentModuleConfig::read(AgentModuleKind::Manager, parameters, nothing)
    }

    #[test]
    fn file_of_the_later_module_is_read() {
        let config = manager(
            r#"{"master": "a:5050", "cni_dir": "/c", "cni_data_dir": "/d", "max_configuration_attempts": 2,
                "network_config": {"allocate_subnet": true, "mesos_bridge": true, "docker_bridge": false,
                "overlay_mtu": 1300, "command_timeout": 1, "enable_ipv6": false}}"#,
        )
        .unwrap();
        let cni = config.cni.unwrap();
        assert_eq!((cni.data_directory, cni.mtu), (Some("/d".into()), 1300));
        assert_eq!(config.warnings, []);
        // That of a master of DC/OS.
        let config = manager(
            r#"{"master": "a:5050", "cni_dir": "/c", "network_config": {"allocate_subnet": false,
                "mesos_bridge": false, "docker_bridge": false}}"#,
        )
        .unwrap();
        assert_eq!((config.cni, config.warnings.len()), (None, 1));
    }

    #[test]
    fn wrong_files_are_refused_with_every_problem() {
        for (text, expected) in [
            ("{", "agent.json"),
            (r#"{"master": "a:1"}"#, "cni_dir: is missing"),
            (r#"{"master": "a:1", "cni_dir": "c"}"#, "absolute path"),
            (
                r#"{"master": "a:1", "cni_dir": "/c", "network_config": {"overlay_mtu": 1, "mesos_brige": true}}"#,
                "mesos_bridge",
            ),
            (
                r#"{"master": "a:1", "cni_dir": "/c", "network_config": {"overlay_mtu": 1, "mesos_brige": true}}"#,
                "overlay_mtu",
            ),
        ] {
            let error = manager(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
