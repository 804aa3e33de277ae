//! Chooses the version of CNI for a configuration that offers several: the highest one that all of
//! its plugins support.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Deserialize;

use super::chain::join;
use super::plugin::{self, Command, Parameters};
use super::{BoxError, PluginEnvironment};
use crate::config::cni::{find_plugin, programs};
use crate::config::{Chain, CniVersion, PluginConfig};

/// How long the answer to VERSION may take.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

/// What the plugins of this host answered to VERSION.
#[derive(Default)]
pub(super) struct PluginVersions(Mutex<HashMap<PathBuf, (FileVersion, Vec<CniVersion>)>>);

/// Identifies the content of a program.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileVersion {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl FileVersion {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        Ok(Self {
            inode: metadata.ino(),
            bytes: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// The answer to VERSION.
#[derive(Deserialize)]
struct VersionResult {
    #[serde(rename = "supportedVersions")]
    supported: Vec<String>,
}

impl PluginVersions {
    /// The configurations of the chain's plugins in one version. Blocks: it runs plugins.
    pub(super) fn choose(
        &self,
        chain: &Chain,
        plugin_dirs: &[PathBuf],
        environment: &PluginEnvironment,
    ) -> Result<Vec<PluginConfig>, BoxError> {
        let mut versions = chain.versions.clone();
        let mut answers = vec![];
        if versions.len() > 1 {
            for program in chain.plugins.iter().flat_map(programs) {
                match self.of(program, plugin_dirs, environment) {
                    Ok(supported) => {
                        versions.retain(|version| supported.contains(version));
                        answers.push(format!("{program} supports {}", list(&supported)));
                    }
                    // It may be a script that knows ADD and DEL alone.
                    Err(error) => {
                        log::debug!("the CNI plugin {program} does not say its versions: {error}");
                    }
                }
            }
        }
        let Some(version) = versions.into_iter().max() else {
            if chain.versions.is_empty() {
                return Ok(chain.plugins.clone());
            }
            return Err(format!(
                "no version of CNI suits all plugins: the configuration offers {}; {}. Change \
                 \"cniVersions\", or install other versions of the plugins",
                list(&chain.versions),
                answers.join("; ")
            )
            .into());
        };
        let with_version = |plugin: &PluginConfig| {
            let mut plugin = plugin.clone();
            plugin.insert("cniVersion".to_owned(), version.to_string().into());
            plugin
        };
        Ok(chain.plugins.iter().map(with_version).collect())
    }

    fn of(
        &self,
        program: &str,
        plugin_dirs: &[PathBuf],
        environment: &PluginEnvironment,
    ) -> Result<Vec<CniVersion>, BoxError> {
        let path = find_plugin(program, plugin_dirs).ok_or("it is not installed")?;
        let file = FileVersion::of(&path)?;
        // One plugin at a time: all have the same variables, by which one that hangs is killed.
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, supported)) = answers.get(&path)
            && *known == file
        {
            return Ok(supported.clone());
        }
        let supported = ask(&path, plugin_dirs, environment)?;
        answers.insert(path, (file, supported.clone()));
        Ok(supported)
    }
}

fn ask(
    path: &Path,
    plugin_dirs: &[PathBuf],
    environment: &PluginEnvironment,
) -> Result<Vec<CniVersion>, BoxError> {
    let input: File = memfd_create("cni-version", MFdFlags::MFD_CLOEXEC)?.into();
    plugin::write_input(
        &input,
        &serde_json::json!({ "cniVersion": CniVersion::NEWEST.to_string() }),
    )?;
    // Old plugins insist on every variable.
    let parameters = Parameters {
        command: Command::Version,
        container: "version",
        namespace: Path::new("version"),
        interface: "version",
        arguments: "",
        plugin_path: &join(plugin_dirs),
        path: &environment.path,
    };
    let output = plugin::run(path, &parameters, input, Instant::now() + VERSION_TIMEOUT)?;
    let result: VersionResult = serde_json::from_slice(&output)
        .map_err(|_| format!("it printed: {}", plugin::quote(&output)))?;
    Ok(result
        .supported
        .iter()
        .filter_map(|version| version.parse().ok())
        .collect())
}

fn list(versions: &[CniVersion]) -> String {
    let versions: Vec<String> = versions.iter().map(ToString::to_string).collect();
    if versions.is_empty() {
        "none".to_owned()
    } else {
        versions.join(", ")
    }
}
