//! The agent's configuration: one TOML file, read again at each launch.
//!
//! Invariant: a [`Config`] has only valid values. All problems of a file are reported at once, each
//! with its file, line and key.

mod bridge;
pub(crate) mod cni;
mod contrail;
mod dns_server;
mod fields;
mod managers;
mod network;
mod node;
mod overlay;
mod ports;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use bridge::{AddressFamily, BridgeNetwork, Subnet};
pub use cni::{Chain, Cni, CniNetwork, CniVersion, InvalidCniVersion, PluginConfig};
pub use contrail::{Contrail, ContrailNetwork, Vif};
pub use contrail_mesos_api::config_reader::{ConfigError, ConfigProblem};
use contrail_mesos_api::config_reader::{Document, Section, read_file, suggestion};
pub use dns_server::{DNS_PORT, DnsServer};
pub(crate) use fields::is_word;
pub(crate) use fields::{MAX_MTU, MIN_MTU_V4, MIN_MTU_V6};
pub use network::{Dns, Network, NetworkProvider};
pub use node::{Node, is_node_name};
pub use overlay::{MAX_OVERLAY_NAME_BYTES, OverlayNetwork, OverlayPart, is_overlay_name};
pub use ports::AllowedPorts;

/// The default path of the configuration.
pub const DEFAULT_PATH: &str = "/etc/contrail-mesos/agent.toml";
const DEFAULT_STATE_DIR: &str = "/var/lib/contrail-mesos";
const DEFAULT_NETNS_DIR: &str = "/run/netns";

/// The configuration of one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Directory of checkpoints and address leases. Must survive a reboot.
    pub state_dir: PathBuf,
    /// Directory of the handles to the containers' network namespaces, named by container id.
    pub netns_dir: PathBuf,
    /// How long each step may take.
    pub deadlines: Deadlines,
    /// Resolver configuration for containers whose network has none.
    pub dns: Option<Dns>,
    /// Ports of the host that tasks may map besides those of their resources.
    pub allowed_ports: AllowedPorts,
    /// How this host reaches Contrail. Always present if a network is of provider `contrail`.
    pub contrail: Option<Contrail>,
    /// Where the networks of CNI plugins are configured; `None` for no such networks.
    pub cni: Option<Cni>,
    /// How the node daemon of this host works.
    pub node: Node,
    /// The networks in the order of the file, then those of the CNI directory. Names, bridges and
    /// subnets are distinct.
    pub networks: Vec<Network>,
    /// Files of the CNI directory that cannot be used. They affect no other network.
    pub cni_problems: Vec<ConfigProblem>,
    /// Files of the CNI directory that are not used: a `[[network]]` has the same name, or their own
    /// name is not that of a configuration.
    pub cni_ignored: Vec<ConfigProblem>,
}

/// How long each step may take before it fails: the agent itself waits forever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Checking a request, reserving addresses and writing the checkpoint.
    pub prepare: Duration,
    /// Creating the interfaces.
    pub isolate: Duration,
    /// Removing the interfaces.
    pub cleanup: Duration,
    /// When the agent starts: adopting live containers and cleaning up after dead ones.
    pub recover: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            prepare: Duration::from_secs(30),
            isolate: Duration::from_secs(30),
            cleanup: Duration::from_mins(1),
            recover: Duration::from_mins(2),
        }
    }
}

/// The directories of an empty file, without any network.
impl Default for Config {
    fn default() -> Self {
        let document = Document::new(Path::new(DEFAULT_PATH), "");
        let table = document.parse();
        read(&document, &table).0
    }
}

impl Config {
    /// Whether there are networks whose containers get the host's resolver configuration.
    #[must_use]
    pub fn uses_host_resolver(&self) -> bool {
        self.networks.iter().any(|network| match network.provider {
            NetworkProvider::Bridge(_) | NetworkProvider::Overlay(_) => network
                .dns
                .as_ref()
                .or(self.dns.as_ref())
                .is_none_or(|dns| dns.nameservers.is_empty()),
            // Contrail and the plugins may provide name servers; without a network nothing resolves.
            NetworkProvider::Contrail(_) | NetworkProvider::Cni(_) | NetworkProvider::None => false,
        })
    }

    /// The network of that name.
    #[must_use]
    pub fn network(&self, name: &str) -> Option<&Network> {
        self.networks.iter().find(|network| network.name == name)
    }
}

/// A configuration as it was read, for checks that need more than the file.
#[derive(Clone, Debug)]
pub struct ReadConfig {
    /// The configuration, or everything that is wrong with it.
    pub config: Result<Config, ConfigError>,
    /// What is probably not meant, in the order of the file.
    pub warnings: Vec<ConfigProblem>,
    /// The place of each key that was read.
    places: BTreeMap<String, String>,
    /// The paths of the `[[network]]` tables, by the networks' names.
    network_paths: HashMap<String, String>,
}

impl ReadConfig {
    /// A problem of the value of a key such as `contrail.token_file`.
    #[must_use]
    pub fn problem(&self, key: &str, message: String) -> ConfigProblem {
        let place = self.places.get(key).or_else(|| {
            // The table that the key would be in.
            self.places
                .get(key.rsplit_once('.').map_or("", |(table, _)| table))
        });
        ConfigProblem {
            place: place.cloned().unwrap_or_default(),
            key: key.to_owned(),
            message,
        }
    }

    /// A problem of the value of a key of a `[[network]]`.
    #[must_use]
    pub fn network_problem(&self, network: &str, key: &str, message: String) -> ConfigProblem {
        let path = self.network_paths.get(network);
        let table = path.map_or("network", String::as_str);
        self.problem(&format!("{table}.{key}"), message)
    }
}

/// A configuration file, and the module parameters that override its keys.
#[derive(Clone, Debug)]
pub struct Source {
    path: PathBuf,
    overrides: Vec<(String, String)>,
    /// Whether the configuration is of another host.
    is_offline: bool,
}

/// The keys that module parameters can override.
const OVERRIDABLE_KEYS: [&str; 6] = [
    "state_dir",
    "netns_dir",
    "deadlines.prepare",
    "deadlines.isolate",
    "deadlines.cleanup",
    "deadlines.recover",
];

impl Source {
    /// A file without overrides.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            overrides: Vec::new(),
            is_offline: false,
        }
    }

    /// The same for a check of another host's configuration: the CNI directory and its plugins need not
    /// be there.
    #[must_use]
    pub fn offline(self) -> Self {
        Self {
            is_offline: true,
            ..self
        }
    }

    /// From the parameters of the Mesos module: `config` is the file's path, the others override
    /// keys of the file. Loads the file once, to report its problems, too.
    pub fn from_parameters(parameters: &[(String, String)]) -> Result<Self, ConfigError> {
        let mut source = Self::file(DEFAULT_PATH);
        let mut problems = vec![];
        for (index, (key, value)) in parameters.iter().enumerate() {
            let mut problem = |message: String| {
                problems.push(ConfigProblem {
                    place: format!("module parameter {key:?}"),
                    key: String::new(),
                    message,
                });
            };
            if parameters[..index].iter().any(|(other, _)| other == key) {
                problem("is given twice".to_owned());
            } else if key == "config" {
                source.path = PathBuf::from(value);
            } else if OVERRIDABLE_KEYS.contains(&key.as_str()) {
                source.overrides.push((key.clone(), value.clone()));
            } else {
                let known = ["config"].into_iter().chain(OVERRIDABLE_KEYS);
                problem(match suggestion(key, known) {
                    Some(meant) => format!("is unknown; did you mean {meant:?}?"),
                    None => format!(
                        "is unknown; the known ones are config, {}",
                        OVERRIDABLE_KEYS.join(", ")
                    ),
                });
            }
        }
        let mut omitted = 0;
        if let Err(error) = source.load() {
            problems.extend(error.problems);
            omitted = error.omitted;
        }
        if problems.is_empty() {
            Ok(source)
        } else {
            Err(ConfigError { problems, omitted })
        }
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file and the CNI directory. Blocks on the file system.
    pub fn load(&self) -> Result<Config, ConfigError> {
        self.read().config
    }

    /// As [`Source::load`], with what is needed to check the configuration further.
    #[must_use]
    pub fn read(&self) -> ReadConfig {
        match read_file(&self.path) {
            Ok(toml) => self.parse(&toml),
            Err(error) => ReadConfig {
                config: Err(ConfigProblem {
                    place: self.path.display().to_string(),
                    key: String::new(),
                    message: format!(
                        "cannot read the configuration: {error}; give the path of an existing file \
                         in the module parameter \"config\" (default {DEFAULT_PATH})"
                    ),
                }
                .into()),
                warnings: vec![],
                places: BTreeMap::new(),
                network_paths: HashMap::new(),
            },
        }
    }

    /// What is needed to work with the containers that are attached, whatever else is wrong with
    /// the configuration: its directories. Also returns what is wrong. A file that cannot be read
    /// means the default directories. Fails only if the file seems to name a directory that is not
    /// understood. Blocks on the file system.
    pub fn load_directories(&self) -> Result<(Config, Option<ConfigError>), ConfigError> {
        let error = match self.load() {
            Ok(config) => return Ok((config, None)),
            Err(error) => error,
        };
        let toml = read_file(&self.path).unwrap_or_default();
        let document = Document::new(&self.path, &toml);
        let parsed = document.parse();
        let (mut config, _) = read(&document, &parsed);
        let directory_keys = ["state_dir", "netns_dir"];
        let is_misread = |key: &&str| {
            let table = parsed.get_ref();
            let is_misspelt = table
                .keys()
                .any(|other| suggestion(other.get_ref(), [*key]).is_some());
            (is_misspelt || toml.contains(*key)) && !table.contains_key(*key)
        };
        let is_invalid = error
            .problems
            .iter()
            .any(|problem| directory_keys.contains(&problem.key.as_str()))
            || !config.state_dir.is_absolute()
            || !config.netns_dir.is_absolute();
        if is_invalid || directory_keys.iter().any(is_misread) {
            return Err(error);
        }
        config.networks = vec![];
        let is_of_contrail = |problem: &ConfigProblem| problem.key.starts_with("contrail");
        if error.omitted > 0 || error.problems.iter().any(is_of_contrail) {
            config.contrail = None;
        }
        Ok((config, Some(error)))
    }

    fn parse(&self, toml: &str) -> ReadConfig {
        let document = Document::new(&self.path, toml);
        let parsed = document.parse();
        let (mut config, network_paths) = read(&document, &parsed);
        let (warnings, places) = (document.warnings(), document.places());
        let mut error = document.finish().err();
        let parameter_problems = self.apply_overrides(&mut config);
        if !parameter_problems.is_empty() {
            let error = error.get_or_insert_with(|| Vec::new().into());
            error.problems.extend(parameter_problems);
        }
        if let Some(cni) = &config.cni {
            let names: HashSet<&str> = config
                .networks
                .iter()
                .map(|network| network.name.as_str())
                .collect();
            let files = cni::read_directory(cni, &names, self.is_offline);
            config
                .networks
                .extend(files.networks.into_iter().map(|(name, network)| Network {
                    name,
                    dns: None,
                    provider: NetworkProvider::Cni(network),
                }));
            config.cni_problems = files.problems;
            config.cni_ignored = files.ignored;
        }
        ReadConfig {
            config: match error {
                None => Ok(config),
                Some(error) => Err(error),
            },
            warnings,
            places,
            network_paths,
        }
    }

    /// Applies the module parameters; returns their problems.
    fn apply_overrides(&self, config: &mut Config) -> Vec<ConfigProblem> {
        let mut problems = vec![];
        for (key, value) in &self.overrides {
            // Read as a document of its own, to be checked like the same key of a file.
            let place = PathBuf::from(format!("module parameter {key:?}"));
            let document = Document::new(&place, "");
            let parsed = single_key_table(key, value);
            let (read, _) = read(&document, &parsed);
            match document.finish() {
                Err(error) => {
                    problems.extend(error.problems.into_iter().map(|problem| ConfigProblem {
                        place: place.display().to_string(),
                        ..problem
                    }));
                }
                Ok(()) => match key.as_str() {
                    "state_dir" => config.state_dir = read.state_dir,
                    "netns_dir" => config.netns_dir = read.netns_dir,
                    "deadlines.prepare" => config.deadlines.prepare = read.deadlines.prepare,
                    "deadlines.isolate" => config.deadlines.isolate = read.deadlines.isolate,
                    "deadlines.cleanup" => config.deadlines.cleanup = read.deadlines.cleanup,
                    _ => config.deadlines.recover = read.deadlines.recover,
                },
            }
        }
        problems
    }
}

/// The parsed form of a file that has `key = "value"` alone.
fn single_key_table(key: &str, value: &str) -> Spanned<DeTable<'static>> {
    let spanned = |value| Spanned::new(0..0, value);
    let mut table = DeTable::new();
    let mut value = DeValue::String(value.to_owned().into());
    let mut rest = key;
    while let Some((outer, inner)) = rest.rsplit_once('.') {
        let mut section = DeTable::new();
        section.insert(
            Spanned::new(0..0, inner.to_owned().into()),
            Spanned::new(0..0, value),
        );
        value = DeValue::Table(section);
        rest = outer;
    }
    table.insert(Spanned::new(0..0, rest.to_owned().into()), spanned(value));
    Spanned::new(0..0, table)
}

/// The configuration, and the paths of its networks by their names.
fn read<'a>(
    document: &'a Document<'a>,
    table: &'a Spanned<DeTable<'a>>,
) -> (Config, HashMap<String, String>) {
    let top = Section::top(document, table);
    let state_dir = fields::directory(&top, "state_dir", DEFAULT_STATE_DIR);
    fields::warn_if_volatile(&top, "state_dir", &state_dir);
    let tables: Vec<_> = top
        .sections("network")
        .into_iter()
        .map(network::read)
        .collect();
    let paths = network::paths(&tables);
    let config = Config {
        netns_dir: fields::directory(&top, "netns_dir", DEFAULT_NETNS_DIR),
        deadlines: top
            .section("deadlines")
            .map_or_else(Deadlines::default, deadlines),
        dns: top.section("dns").map(network::dns),
        allowed_ports: top
            .section("ports")
            .map_or_else(AllowedPorts::default, ports::read),
        contrail: top.section("contrail").map(contrail::read),
        cni: top.section("cni").map(cni::read),
        node: match top.section("node") {
            Some(section) => node::read(section, &state_dir),
            None => node::default(&state_dir),
        },
        networks: network::distinct(tables, document),
        cni_problems: vec![],
        cni_ignored: vec![],
        state_dir,
    };
    let needs_contrail = config
        .networks
        .iter()
        .find(|network| matches!(network.provider, NetworkProvider::Contrail(_)));
    if let (Some(network), false) = (needs_contrail, top.has("contrail")) {
        top.problem(
            "contrail",
            format!(
                "network {:?} is of provider \"contrail\", which needs a table [contrail] with \
                 managers = [\"https://master-1.example:6992\"]",
                network.name
            ),
        );
    }
    top.finish();
    (config, paths)
}

fn deadlines(section: Section<'_>) -> Deadlines {
    let default = Deadlines::default();
    let deadlines = Deadlines {
        prepare: section.duration("prepare", default.prepare),
        isolate: section.duration("isolate", default.isolate),
        cleanup: section.duration("cleanup", default.cleanup),
        recover: section.duration("recover", default.recover),
    };
    section.finish();
    deadlines
}

#[cfg(test)]
mod tests;
