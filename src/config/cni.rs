//! The table `[cni]`: the directories of CNI networks and plugins. The counterpart of the flags
//! `--network_cni_config_dir` and `--network_cni_plugins_dir` of `network/cni`.

mod network_files;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::fields::directory;
use contrail_mesos_api::config_reader::Section;

pub(crate) use network_files::find_plugin;
pub(super) use network_files::networks;

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
    let plugin_dirs: Vec<PathBuf> = section
        .parsed_list("plugin_dirs", "a directory such as \"/opt/cni/bin\"")
        .unwrap_or_else(|| DEFAULT_PLUGIN_DIRS.map(PathBuf::from).to_vec());
    if plugin_dirs.is_empty() {
        section.problem("plugin_dirs", "needs at least one directory");
    }
    for path in &plugin_dirs {
        if !path.is_absolute() {
            section.problem(
                "plugin_dirs",
                format!("{:?} must be an absolute path", path.display()),
            );
        }
        // CNI_PATH is a list that is separated by colons.
        if path.as_os_str().as_encoded_bytes().contains(&b':') {
            section.problem(
                "plugin_dirs",
                format!("{:?} must not contain a colon", path.display()),
            );
        }
    }
    let cni = Cni {
        config_dir: directory(&section, "config_dir", DEFAULT_CONFIG_DIR),
        plugin_dirs,
        deadline: section.duration("deadline", Duration::from_secs(20)),
    };
    section.finish();
    cni
}
