//! The agent's configuration: one TOML file, read again at every launch.
//!
//! Invariant: a [`Config`] holds only what was checked; everything that is wrong with a file is
//! reported at once, each with its place and what to write instead.

mod bridge;
pub(crate) mod cni;
mod contrail;
mod network;

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use bridge::{AddressFamily, BridgeNetwork, Subnet};
pub use cni::{Chain, Cni, CniNetwork, PluginConfig};
pub use contrail::{Contrail, ContrailNetwork, Vif};
pub use contrail_mesos_api::config_reader::{ConfigError, ConfigProblem};
use contrail_mesos_api::config_reader::{Document, Section};
pub(crate) use network::is_word;
pub use network::{Dns, Network, NetworkProvider};

/// Where the configuration is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/contrail-mesos/agent.toml";
const DEFAULT_STATE_DIR: &str = "/var/lib/contrail-mesos";
const DEFAULT_NETNS_DIR: &str = "/run/netns";

/// Everything that the agent side can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Checkpoints and address leases. Must outlive a reboot.
    pub state_dir: PathBuf,
    /// Handles to the containers' network namespaces, by container id, where `ip netns` finds them.
    pub netns_dir: PathBuf,
    /// How long each step may take.
    pub deadlines: Deadlines,
    /// Resolver configuration of containers whose networks have none.
    pub dns: Option<Dns>,
    /// Contrail, as this host sees it; there where a network of provider `contrail` is.
    pub contrail: Option<Contrail>,
    /// Where networks of CNI plugins come from, if they do.
    pub cni: Option<Cni>,
    /// The networks, in the order of the file, then those of CNI's directory; names, subnets and
    /// bridges are all different.
    pub networks: Vec<Network>,
    /// Files of CNI's directory that cannot be used: they harm nobody else.
    pub unusable: Vec<ConfigProblem>,
}

/// How long each step may take before it fails with a message that says so: the agent itself
/// waits for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Checking a request, reserving addresses, the checkpoint.
    pub prepare: Duration,
    /// Making the interfaces.
    pub isolate: Duration,
    /// Removing them.
    pub cleanup: Duration,
    /// Adopting live containers and removing what is left of dead ones when the agent starts.
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

impl Config {
    /// The network of that name.
    #[must_use]
    pub fn network(&self, name: &str) -> Option<&Network> {
        self.networks.iter().find(|network| network.name == name)
    }
}

/// Where a configuration comes from: a file, and the module parameters that override its keys.
#[derive(Clone, Debug)]
pub struct Source {
    path: PathBuf,
    overrides: Vec<(String, String)>,
}

/// The keys that a module parameter may override.
const PARAMETERS: [&str; 6] = [
    "state_dir",
    "netns_dir",
    "deadlines.prepare",
    "deadlines.isolate",
    "deadlines.cleanup",
    "deadlines.recover",
];

impl Source {
    /// A file alone.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            overrides: Vec::new(),
        }
    }

    /// From the parameters of a Mesos module: `config` names the file, the others override its keys.
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
            } else if PARAMETERS.contains(&key.as_str()) {
                source.overrides.push((key.clone(), value.clone()));
            } else {
                problem(format!(
                    "is unknown; known are config, {}",
                    PARAMETERS.join(", ")
                ));
            }
        }
        // What else is wrong is worth knowing at the same time.
        if let Err(error) = source.load() {
            problems.extend(error.problems);
        }
        if problems.is_empty() {
            Ok(source)
        } else {
            Err(ConfigError { problems })
        }
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file as it is now. Blocks on the file system.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(&self.path).map_err(|error| ConfigError {
            problems: vec![ConfigProblem {
                place: self.path.display().to_string(),
                key: String::new(),
                message: format!(
                    "cannot read the configuration: {error}; name an existing file in the \
                     module parameter \"config\" (default {DEFAULT_PATH})"
                ),
            }],
        })?;
        self.parse(&text)
    }

    fn parse(&self, text: &str) -> Result<Config, ConfigError> {
        let document = Document::new(&self.path, text);
        let parsed = document.parse();
        let mut config = read(&document, &parsed);
        let mut problems = document
            .finish()
            .err()
            .map_or_else(Vec::new, |error| error.problems);
        problems.extend(self.apply(&mut config));
        if let Some(cni) = &config.cni {
            let (networks, unusable) = cni::networks(cni, &config.networks);
            config.networks.extend(networks);
            config.unusable = unusable;
        }
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError { problems })
        }
    }

    /// Overrides the file's keys; returns what is wrong with the parameters.
    fn apply(&self, config: &mut Config) -> Vec<ConfigProblem> {
        let mut problems = vec![];
        for (key, value) in &self.overrides {
            // One more document, so that a parameter is checked as the same key of a file is.
            let place = PathBuf::from(format!("module parameter {key:?}"));
            let document = Document::new(&place, "");
            let parsed = table_of(key, value);
            let read = read(&document, &parsed);
            match document.finish() {
                Err(error) => {
                    problems.extend(error.problems.into_iter().map(|problem| ConfigProblem {
                        place: place.display().to_string(),
                        ..problem
                    }))
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

/// A file that would say `key = "value"` and nothing else.
fn table_of(key: &str, value: &str) -> Spanned<DeTable<'static>> {
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

fn read<'a>(document: &'a Document<'a>, table: &'a Spanned<DeTable<'a>>) -> Config {
    let top = Section::top(document, table);
    let directory = |key: &str, default: &str| {
        let path = PathBuf::from(
            top.text(key, "a directory")
                .unwrap_or_else(|| default.to_owned()),
        );
        if !path.is_absolute() {
            top.problem(
                key,
                format!(
                    "{:?} must be an absolute path such as {default:?}",
                    path.display()
                ),
            );
        }
        path
    };
    let config = Config {
        state_dir: directory("state_dir", DEFAULT_STATE_DIR),
        netns_dir: directory("netns_dir", DEFAULT_NETNS_DIR),
        deadlines: top
            .section("deadlines")
            .map_or_else(Deadlines::default, deadlines),
        dns: top.section("dns").map(network::dns),
        contrail: top.section("contrail").map(contrail::read),
        cni: top.section("cni").map(cni::read),
        networks: networks(&top),
        unusable: vec![],
    };
    let needs_contrail = config
        .networks
        .iter()
        .find(|network| matches!(network.provider, NetworkProvider::Contrail(_)));
    if let (Some(network), None) = (needs_contrail, &config.contrail) {
        top.problem(
            "contrail",
            format!(
                "network {:?} is of provider \"contrail\" and needs a table [contrail] with \
                 managers = [\"https://master-1.example:6992\"]",
                network.name
            ),
        );
    }
    top.finish();
    config
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

fn networks(top: &Section<'_>) -> Vec<Network> {
    let mut networks: Vec<Network> = vec![];
    for (index, section) in top.sections("network").into_iter().enumerate() {
        let place = section.start();
        let Some(network) = network::read(section) else {
            continue;
        };
        for other in &networks {
            for (key, message) in network.conflicts(other) {
                top.problem_at(place, &format!("network[{index}].{key}"), message);
            }
        }
        networks.push(network);
    }
    networks
}

#[cfg(test)]
mod tests;
