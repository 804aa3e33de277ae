//! `[cni]`: where this agent's CNI networks and their plugins are, as network/cni is told by its
//! flags `--network_cni_config_dir` and `--network_cni_plugins_dir`.

mod directory;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use contrail_mesos_api::config_reader::Section;

pub(crate) use directory::find;
pub(super) use directory::networks;

const DEFAULT_CONFIG_DIR: &str = "/etc/cni/net.d";
const DEFAULT_PLUGIN_DIRS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// Where networks of CNI plugins come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cni {
    /// The directory whose files are the networks, read at each launch.
    pub config_dir: PathBuf,
    /// Where plugins are looked for, in this order.
    pub plugin_dirs: Vec<PathBuf>,
    /// How long the plugins of a network may take together.
    pub deadline: Duration,
}

/// A network of CNI plugins: one file of the directory.
#[derive(Clone, PartialEq, Eq)]
pub struct CniNetwork {
    /// The file.
    pub file: PathBuf,
    /// Where its plugins are looked for.
    pub plugin_dirs: Vec<PathBuf>,
    /// How long they may take together.
    pub deadline: Duration,
    /// What the file says, or what is wrong with it.
    pub chain: Result<Chain, String>,
}

/// Plugins that make a network one after another; never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct Chain {
    /// Each one's whole configuration, network name and version included.
    pub plugins: Vec<PluginConfig>,
}

/// The configuration of one plugin: what goes to its standard input.
pub type PluginConfig = Map<String, Value>;

impl Chain {
    /// The plugins' programs, in order.
    #[must_use]
    pub fn types(&self) -> Vec<&str> {
        self.plugins.iter().map(plugin_type).collect()
    }
}

/// The program of a plugin.
#[must_use]
pub(crate) fn plugin_type(config: &PluginConfig) -> &str {
    config
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// What plugins are configured with may be secret: only their programs are shown.
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
    let absolute = |key: &str, path: PathBuf| {
        if !path.is_absolute() {
            section.problem(
                key,
                format!("{:?} must be an absolute path", path.display()),
            );
        }
        path
    };
    let config_dir = section
        .text("config_dir", "a directory such as \"/etc/cni/net.d\"")
        .unwrap_or_else(|| DEFAULT_CONFIG_DIR.to_owned());
    let plugin_dirs: Option<Vec<PathBuf>> =
        section.parsed_list("plugin_dirs", "a directory such as \"/opt/cni/bin\"");
    if plugin_dirs.as_ref().is_some_and(Vec::is_empty) {
        section.problem("plugin_dirs", "plugins must be somewhere: name a directory");
    }
    let cni = Cni {
        config_dir: absolute("config_dir", config_dir.into()),
        plugin_dirs: plugin_dirs
            .unwrap_or_else(|| DEFAULT_PLUGIN_DIRS.map(PathBuf::from).to_vec())
            .into_iter()
            .map(|path| {
                // It becomes part of a list that colons divide.
                if path.as_os_str().as_encoded_bytes().contains(&b':') {
                    section.problem("plugin_dirs", "a directory with a colon cannot be used");
                }
                absolute("plugin_dirs", path)
            })
            .collect(),
        deadline: section.duration("deadline", Duration::from_secs(20)),
    };
    section.finish();
    cni
}
