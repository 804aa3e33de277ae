//! The configuration of the master modules: their parameters, the JSON file of the later one, and what
//! Mesos has in its environment.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use contrail_mesos_api::agent_api::{DEFAULT_PORT, manager_address};
use contrail_mesos_api::config_reader::{ConfigError, ConfigProblem, read_file};
use contrail_mesos_api::http::tls::Identity;
use contrail_mesos_api::overlay_modules::{ParameterError, Parameters};
use contrail_mesos_api::text::Quoted;
use secrecy::SecretString;
use serde::Deserialize;

use crate::config::{Access, Config, OverlayOptions, Tls, is_token};
use crate::election::ZooKeeper;
use crate::mesos_master::Masters;
use crate::overlay::OverlayConfig;

/// Where the state is kept without ZooKeeper and without `replicated_log_dir`.
const STATE_FILE: &str = "/var/lib/contrail-mesos-manager/overlay.json";
/// The name of the state below `replicated_log_dir`.
const STATE_FILE_NAME: &str = "contrail-mesos-overlay.json";
/// The node of the election, below that of the masters.
const ELECTION_NODE: &str = "contrail-mesos";
const SESSION_TIMEOUT: u64 = 10;
const SESSION_TIMEOUT_RANGE: std::ops::RangeInclusive<u64> = 1..=60;
/// The variables with the address of this process, which Mesos sets from its flags `--advertise_ip` and
/// `--ip`.
const ADVERTISE_VARIABLE: &str = "LIBPROCESS_ADVERTISE_IP";
const ADDRESS_VARIABLE: &str = "LIBPROCESS_IP";
const ZOOKEEPER_VARIABLE: &str = "MESOS_ZK";

/// Which of the two modules it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MasterModuleKind {
    /// `com_mesosphere_mesos_MasterOverlayHelper`, with the parameter `overlays`.
    Helper,
    /// `com_mesosphere_mesos_OverlayMasterManager`, with the parameter `master_config`.
    Manager,
}

/// Why a module cannot be configured.
#[derive(Debug, thiserror::Error)]
pub enum ModuleConfigError {
    /// A parameter.
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    /// The file of the overlays.
    #[error("{0}")]
    File(#[from] ConfigError),
    /// The keys of the master module beside the overlays.
    #[error("{path}: {problem}")]
    MasterFile {
        /// The file.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The address of ZooKeeper.
    #[error(
        "{origin} is {value}, which is no address of ZooKeeper: write zk://host:port,host:port/path, \
         or file:///path of a file with it"
    )]
    ZooKeeper {
        /// Where it is written.
        origin: &'static str,
        /// The address, without a password.
        value: String,
    },
    /// A file with a secret.
    #[error("cannot use the token of {path}: {problem}")]
    Token {
        /// The file.
        path: String,
        /// Why.
        problem: String,
    },
    /// Parameters that belong together.
    #[error(
        "the parameters certificate_file and key_file belong together, and client_ca_file needs both"
    )]
    Certificate,
    /// The other managers need an address of this one.
    #[error(
        "this manager has no address by which others know it, because Mesos has none: set --ip or \
         --advertise_ip of the master, or the parameter advertise"
    )]
    Advertise,
}

/// The keys of the master module's file beside the overlays.
#[derive(Debug, Default, Deserialize)]
struct MasterFile {
    #[serde(default)]
    zk: Option<ZooKeeperKeys>,
    #[serde(default)]
    replicated_log_dir: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct ZooKeeperKeys {
    url: Option<String>,
    session_timeout: Option<u64>,
}

impl MasterFile {
    fn load(path: &Path) -> Result<Self, ModuleConfigError> {
        let failed = |problem: String| ModuleConfigError::MasterFile {
            path: Quoted(path.as_os_str().as_encoded_bytes()).to_string(),
            problem,
        };
        let text = read_file(path).map_err(failed)?;
        let mut reader = serde_json::Deserializer::from_str(&text);
        serde_path_to_error::deserialize(&mut reader).map_err(|error| failed(error.to_string()))
    }
}

/// Reads the file of the overlays, which is also that of the master module.
pub(super) fn load_networks(path: &Path) -> Result<OverlayConfig, ConfigError> {
    let mut networks = OverlayConfig::load(path)?;
    // The module uses these keys, unlike the manager.
    let is_used =
        |problem: &ConfigProblem| !["zk", "replicated_log_dir"].contains(&problem.key.as_str());
    networks.warnings.retain(is_used);
    Ok(networks)
}

/// Reads the parameters and the files that they name: blocks. `variable` is the environment.
pub fn read(
    kind: MasterModuleKind,
    parameters: Parameters,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Config, ModuleConfigError> {
    let path = PathBuf::from(match kind {
        MasterModuleKind::Helper => {
            parameters.required("overlays", "the path of the JSON file of the overlays")?
        }
        MasterModuleKind::Manager => {
            parameters.required("master_config", "the path of a JSON file")?
        }
    });
    let networks = load_networks(&path)?;
    let file = match kind {
        MasterModuleKind::Helper => MasterFile::default(),
        MasterModuleKind::Manager => MasterFile::load(&path)?,
    };
    let port = parameters.parsed("port", str::parse::<u16>)?;
    let port = port.unwrap_or(DEFAULT_PORT);
    let own = |name: &str| -> Option<IpAddr> {
        let address: IpAddr = variable(name)?.trim().parse().ok()?;
        (!address.is_unspecified()).then_some(address)
    };
    let address = parameters
        .parsed("address", str::parse::<IpAddr>)?
        .or_else(|| own(ADDRESS_VARIABLE))
        .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let listen = SocketAddr::new(address, port);
    let access = access(&parameters)?;
    let advertise = parameters.parsed("advertise", manager_address)?;
    let mut zookeeper = zookeeper(&parameters, &file, &variable)?;
    if let Some(zookeeper) = &mut zookeeper {
        let scheme = if access.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let known = own(ADVERTISE_VARIABLE).or_else(|| {
            let address = listen.ip();
            (!address.is_unspecified()).then_some(address)
        });
        let derived = known.and_then(|address| {
            manager_address(&format!("{scheme}://{}", SocketAddr::new(address, port))).ok()
        });
        let advertised = advertise.or(derived);
        zookeeper.advertise = Some(advertised.ok_or(ModuleConfigError::Advertise)?);
    }
    let default = Config::default();
    let admin_listen = parameters.parsed("admin_listen", |text| match text {
        "none" => Ok(None),
        text => text.parse::<SocketAddr>().map(Some),
    })?;
    let state_file = parameters.parsed("state_file", absolute)?;
    let below_log = file.replicated_log_dir.map(|log| log.join(STATE_FILE_NAME));
    let allowed_hosts = parameters.list("allowed_hosts").map(str::to_owned);
    let config = Config {
        listen,
        admin_listen: admin_listen.unwrap_or(default.admin_listen),
        allowed_hosts: allowed_hosts.collect(),
        access,
        zookeeper,
        warnings: networks.warnings.clone(),
        overlay: Some(OverlayOptions {
            file: path,
            networks,
            state_file: state_file
                .or(below_log)
                .unwrap_or_else(|| PathBuf::from(STATE_FILE)),
            release_after: None,
        }),
        ..default
    };
    parameters.finish()?;
    Ok(config)
}

fn absolute(text: &str) -> Result<PathBuf, &'static str> {
    let path = PathBuf::from(text);
    let is_file = path.is_absolute() && path.file_name().is_some();
    is_file.then_some(path).ok_or("expected an absolute path")
}

fn access(parameters: &Parameters) -> Result<Access, ModuleConfigError> {
    let token_file = parameters.parsed("token_file", absolute)?;
    let certificate = parameters.parsed("certificate_file", absolute)?;
    let key = parameters.parsed("key_file", absolute)?;
    let client_ca = parameters.parsed("client_ca_file", absolute)?;
    let tls = match (certificate, key) {
        (Some(certificate), Some(key)) => Some(Tls {
            identity: Identity { certificate, key },
            client_ca,
        }),
        (None, None) if client_ca.is_none() => None,
        _ => return Err(ModuleConfigError::Certificate),
    };
    Ok(Access {
        tokens: token_file.as_deref().map_or(Ok(vec![]), tokens)?,
        tls,
        operators: parameters.list("operators").map(str::to_owned).collect(),
    })
}

fn tokens(path: &Path) -> Result<Vec<SecretString>, ModuleConfigError> {
    let failed = |problem: String| ModuleConfigError::Token {
        path: Quoted(path.as_os_str().as_encoded_bytes()).to_string(),
        problem,
    };
    let text = SecretString::from(read_file(path).map_err(failed)?);
    let lines = secrecy::ExposeSecret::expose_secret(&text).lines();
    let lines = lines.map(str::trim).filter(|line| !line.is_empty());
    let tokens: Vec<_> = lines.map(SecretString::from).collect();
    let are_valid = tokens
        .iter()
        .all(|token| is_token(secrecy::ExposeSecret::expose_secret(token)));
    if tokens.is_empty() || !are_valid {
        return Err(failed(
            "write tokens of at least 16 printable ASCII characters, one a line".to_owned(),
        ));
    }
    Ok(tokens)
}

/// The ZooKeeper of the managers' election and of their state: that of the file, or the masters' own.
fn zookeeper(
    parameters: &Parameters,
    file: &MasterFile,
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<Option<ZooKeeper>, ModuleConfigError> {
    let keys = file.zk.as_ref();
    let written = [
        ("the parameter zk", parameters.get("zk").map(str::to_owned)),
        ("zk.url", keys.and_then(|keys| keys.url.clone())),
        (ZOOKEEPER_VARIABLE, variable(ZOOKEEPER_VARIABLE)),
    ];
    let mut written = written.into_iter();
    let Some((origin, url)) =
        written.find_map(|(origin, url)| Some((origin, url.filter(|url| !url.trim().is_empty())?)))
    else {
        return Ok(None);
    };
    let invalid = |url: &str| ModuleConfigError::ZooKeeper {
        origin,
        // What comes before may be a password.
        value: Quoted(url.rsplit('@').next().unwrap_or_default().as_bytes()).to_string(),
    };
    let url = match url.trim().strip_prefix("file://") {
        None => url,
        Some(path) => read_file(Path::new(path)).map_err(|_| invalid(&url))?,
    };
    let url = url.trim();
    let Ok(Masters::ZooKeeper(address)) = url.parse() else {
        return Err(invalid(url));
    };
    let seconds = keys.and_then(|keys| keys.session_timeout);
    let seconds = seconds
        .unwrap_or(SESSION_TIMEOUT)
        .clamp(*SESSION_TIMEOUT_RANGE.start(), *SESSION_TIMEOUT_RANGE.end());
    Ok(Some(ZooKeeper {
        servers: address.servers().to_owned(),
        path: format!("{}/{ELECTION_NODE}", address.path()),
        digest: address.credentials().cloned(),
        session_timeout: Duration::from_secs(seconds),
        advertise: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORKS: &str = r#"{"vtep_subnet": "44.128.0.0/16", "vtep_mac_oui": "70:B3:D5:00:00:00",
        "overlays": [{"name": "dcos", "subnet": "9.0.0.0/8", "prefix": 24}]}"#;

    fn nothing(_: &str) -> Option<String> {
        None
    }

    fn read_with(
        kind: MasterModuleKind,
        text: &str,
        more: &[(&str, &str)],
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Config, ModuleConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file.json");
        std::fs::write(&path, text).unwrap();
        let path = path.display().to_string();
        let key = match kind {
            MasterModuleKind::Helper => "overlays",
            MasterModuleKind::Manager => "master_config",
        };
        let all = [&[(key, path.as_str())][..], more].concat();
        read(kind, Parameters::of(&all), variable)
    }

    #[test]
    fn file_of_the_overlays_is_enough() {
        let config = read_with(MasterModuleKind::Helper, NETWORKS, &[], nothing).unwrap();
        assert_eq!(config.listen, "0.0.0.0:6992".parse().unwrap());
        assert!(config.zookeeper.is_none() && config.access.tokens.is_empty());
        let overlay = config.overlay.unwrap();
        assert_eq!(overlay.state_file, Path::new(STATE_FILE));
        assert_eq!(overlay.networks.overlays[0].name, "dcos");
    }

    #[test]
    fn zookeeper_and_state_are_those_of_the_master_module() {
        let text = format!(
            r#"{{"zk": {{"url": "zk://u:p@a:2181,b:2181/mesos", "quorum": 2, "session_timeout": 20}},
                "replicated_log_dir": "/var/log", "network": {NETWORKS}}}"#
        );
        let environment = |name: &str| match name {
            ADDRESS_VARIABLE => Some("10.0.0.1".to_owned()),
            ZOOKEEPER_VARIABLE => Some("zk://other:2181/mesos".to_owned()),
            _ => None,
        };
        let config = read_with(
            MasterModuleKind::Manager,
            &text,
            &[("port", "7000")],
            environment,
        )
        .unwrap();
        assert_eq!(config.listen, "10.0.0.1:7000".parse().unwrap());
        assert_eq!(config.warnings, []);
        let zookeeper = config.zookeeper.unwrap();
        assert_eq!(zookeeper.servers, "a:2181,b:2181");
        assert_eq!(zookeeper.path, "/mesos/contrail-mesos");
        assert_eq!(zookeeper.session_timeout, Duration::from_secs(20));
        assert!(zookeeper.digest.is_some());
        let advertised = zookeeper.advertise.unwrap().to_string();
        assert_eq!(advertised, "http://10.0.0.1:7000");
        let state_file = config.overlay.unwrap().state_file;
        assert_eq!(
            state_file,
            Path::new("/var/log/contrail-mesos-overlay.json")
        );
        // Without the file's, that of the masters.
        let text = format!(r#"{{"network": {NETWORKS}}}"#);
        let config = read_with(MasterModuleKind::Manager, &text, &[], environment).unwrap();
        assert_eq!(config.zookeeper.unwrap().servers, "other:2181");
    }

    #[test]
    fn wrong_parameters_are_refused() {
        let helper = |text: &str, more: &[(&str, &str)]| {
            let error = read_with(MasterModuleKind::Helper, text, more, nothing);
            error.unwrap_err().to_string()
        };
        for (more, expected) in [
            (&[("prot", "1")][..], "no parameter"),
            (&[("port", "x")], "port"),
            (&[("address", "x")], "address"),
            (&[("state_file", "x")], "absolute path"),
            (&[("key_file", "/k")], "belong together"),
            (&[("client_ca_file", "/k")], "belong together"),
            (&[("token_file", "/nonexistent")], "the token of"),
            (&[("zk", "zk://u:secret@a/")], "no address of ZooKeeper"),
            (&[("zk", "zk://a:2181/m")], "the parameter advertise"),
        ] {
            let error = helper(NETWORKS, more);
            assert!(error.contains(expected), "{more:?}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
        let error = helper(&NETWORKS.replace("/8", "/33"), &[]);
        assert!(error.contains("subnet"), "{error}");
        let error = read(MasterModuleKind::Manager, Parameters::of(&[]), nothing);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("master_config is missing"), "{error}");
        let text = format!(r#"{{"zk": {{"url": 1}}, "network": {NETWORKS}}}"#);
        let error = read_with(MasterModuleKind::Manager, &text, &[], nothing).unwrap_err();
        assert!(
            matches!(error, ModuleConfigError::MasterFile { .. }),
            "{error}"
        );
    }
}
