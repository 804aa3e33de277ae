//! The table `[cni]`: the directories of CNI networks and plugins. The counterpart of the flags
//! `--network_cni_config_dir` and `--network_cni_plugins_dir` of `network/cni`.

mod network_files;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde_json::{Map, Value};

use super::fields::directory;
use contrail_mesos_api::config_reader::Section;

pub(crate) use network_files::find_plugin;
pub(super) use network_files::read_directory;

const DEFAULT_CONFIG_DIR: &str = "/etc/cni/net.d";
const DEFAULT_PLUGIN_DIRS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// Where the networks of CNI plugins are configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cni {
    /// The directory with a file per network, read at each launch.
    pub config_dir: PathBuf,
    /// The directories of plugins, searched in this order.
    pub plugin_dirs: Vec<PathBuf>,
    /// How long the plugins of a network may take together.
    pub deadline: Duration,
}

/// A network of CNI plugins, configured by one file of the directory.
#[derive(Clone, PartialEq, Eq)]
pub struct CniNetwork {
    /// The file.
    pub file: PathBuf,
    /// The directories of plugins, searched in this order.
    pub plugin_dirs: Vec<PathBuf>,
    /// How long its plugins may take together.
    pub deadline: Duration,
    /// The plugins, or what is wrong with the file.
    pub chain: Result<Chain, String>,
}

/// The plugins of a network in the order of their execution; never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Chain {
    /// The complete configuration of each, with network name and version.
    pub plugins: Vec<PluginConfig>,
    /// The versions of CNI that the file offers by `cniVersions` and that are supported here: one
    /// of them replaces the version of `plugins`. Empty if the file offers no choice.
    pub versions: Vec<CniVersion>,
}

/// A version of CNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CniVersion(u32, u32, u32);

impl CniVersion {
    /// The newest version that is supported.
    pub const NEWEST: Self = Self(1, 1, 0);
    /// All versions that are supported, in ascending order.
    pub const SUPPORTED: [Self; 7] = [
        Self(0, 1, 0),
        Self(0, 2, 0),
        Self(0, 3, 0),
        Self(0, 3, 1),
        Self(0, 4, 0),
        Self(1, 0, 0),
        Self::NEWEST,
    ];
}

impl fmt::Display for CniVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The string is no version of the form `1.0.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidCniVersion;

impl FromStr for CniVersion {
    type Err = InvalidCniVersion;

    fn from_str(string: &str) -> Result<Self, InvalidCniVersion> {
        let mut parts = string.split('.').map(|part| part.parse().ok());
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Some(major)), Some(Some(minor)), Some(Some(patch)), None) => {
                Ok(Self(major, minor, patch))
            }
            _ => Err(InvalidCniVersion),
        }
    }
}

/// The configuration of one plugin, which it reads from its standard input.
pub type PluginConfig = Map<String, Value>;

impl Chain {
    /// The names of the plugins' programs, in order.
    #[must_use]
    pub fn types(&self) -> Vec<&str> {
        self.plugins.iter().map(plugin_type).collect()
    }
}

/// The name of a plugin's program.
#[must_use]
pub(crate) fn plugin_type(config: &PluginConfig) -> &str {
    config
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The names of a plugin's program and of its IPAM plugin's.
pub(crate) fn programs(config: &PluginConfig) -> impl Iterator<Item = &str> {
    // A plugin does not use IPAM if its type is missing or empty.
    let ipam = config
        .get("ipam")
        .and_then(|ipam| ipam.get("type")?.as_str())
        .filter(|program| !program.is_empty());
    std::iter::once(plugin_type(config)).chain(ipam)
}

/// Shows only the names of the programs: configurations may have secrets.
impl fmt::Debug for Chain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Chain").field(&self.types()).finish()
    }
}

impl fmt::Debug for CniNetwork {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CniNetwork")
            .field("file", &self.file)
            .field("chain", &self.chain)
            .finish_non_exhaustive()
    }
}

pub(super) fn read(section: Section<'_>) -> Cni {
    let plugin_dirs = section
        .checked_list(
            "plugin_dirs",
            "a directory such as \"/opt/cni/bin\"",
            plugin_dir,
        )
        .unwrap_or_else(|| DEFAULT_PLUGIN_DIRS.map(PathBuf::from).to_vec());
    if plugin_dirs.is_empty() && section.is_empty_list("plugin_dirs") {
        section.problem("plugin_dirs", "needs at least one directory");
    }
    let cni = Cni {
        config_dir: directory(&section, "config_dir", DEFAULT_CONFIG_DIR),
        plugin_dirs,
        deadline: section.duration("deadline", Duration::from_secs(20)),
    };
    section.finish();
    cni
}

fn plugin_dir(path: &str) -> Result<PathBuf, String> {
    if !path.starts_with('/') {
        Err("it must be an absolute path".to_owned())
    } else if path.contains([':', '\0']) {
        // CNI_PATH is a list that is separated by colons.
        Err("it must not contain a colon".to_owned())
    } else {
        Ok(PathBuf::from(path))
    }
}
