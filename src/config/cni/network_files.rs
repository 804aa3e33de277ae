//! The files of the CNI configuration directory: `.conf` and `.json` for one plugin, `.conflist`
//! for a chain. Which of the two a file is, its content says.
//!
//! A file that cannot be used affects only its own network. If the file has a valid network name,
//! requests for the network fail with the reason. Hidden files, files with other names, such as an
//! editor's backups, and everything that is not a regular file are ignored.

use std::collections::HashSet;
use std::fs;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Chain, Cni, CniNetwork, CniVersion, PluginConfig, programs};
use crate::config::fields::MAX_NETWORK_NAME_BYTES;
use contrail_mesos_api::config_reader::ConfigProblem;
use contrail_mesos_api::text::Quoted;

const MAX_FILE_BYTES: u64 = 1 << 20;
/// The key of `args` whose value Mesos sets.
const MESOS_ARGS_KEY: &str = "org.apache.mesos";

/// The extensions of configurations, as in libcni.
const EXTENSIONS: [&str; 3] = ["conf", "conflist", "json"];

/// What the CNI directory contains.
#[derive(Debug, Default)]
pub(crate) struct NetworkFiles {
    /// The networks with their names.
    pub(crate) networks: Vec<(String, CniNetwork)>,
    /// Files that cannot be used.
    pub(crate) problems: Vec<ConfigProblem>,
    /// Files that are not used on purpose.
    pub(crate) ignored: Vec<ConfigProblem>,
}

fn problem(place: &Path, message: String) -> ConfigProblem {
    ConfigProblem {
        place: place.display().to_string(),
        key: String::new(),
        message,
    }
}

/// Reads the directory. Leaves out networks with a name of `configured`. Offline, neither the directory
/// nor the plugins need be there. Blocks on the file system.
pub(crate) fn read_directory(
    cni: &Cni,
    configured: &HashSet<&str>,
    is_offline: bool,
) -> NetworkFiles {
    let mut found = NetworkFiles::default();
    let plugin_dirs = (!is_offline).then_some(cni.plugin_dirs.as_slice());
    let paths = match files(&cni.config_dir) {
        Ok(paths) => paths,
        Err(error) if is_offline && error.kind() == ErrorKind::NotFound => return found,
        Err(error) => {
            found.problems.push(problem(
                &cni.config_dir,
                format!("cannot list the CNI networks: {error}"),
            ));
            return found;
        }
    };
    for file in paths {
        if !is_configuration(&file) {
            let names = EXTENSIONS
                .map(|extension| format!(".{extension}"))
                .join(", ");
            found.ignored.push(problem(
                &file,
                format!("is ignored: its name does not end with one of {names}"),
            ));
            continue;
        }
        let named = read(&file).and_then(|config| Ok((name(&config)?, config)));
        let (name, config) = match named {
            Ok(named) => named,
            Err(message) => {
                found.problems.push(problem(&file, message));
                continue;
            }
        };
        if configured.contains(name.as_str()) {
            found.ignored.push(problem(
                &file,
                format!("is ignored: a [[network]] of the configuration is called {name:?}, too"),
            ));
            continue;
        }
        if let Some((_, other)) = found.networks.iter().find(|(other, _)| *other == name) {
            let message = format!(
                "network {name:?} is already defined in an earlier file, {}",
                other.file.display()
            );
            found.problems.push(problem(&file, message));
            continue;
        }
        let chain = chain(config, plugin_dirs);
        if let Err(message) = &chain {
            let message = format!("network {name:?}: {message}");
            found.problems.push(problem(&file, message));
        }
        let network = CniNetwork {
            file,
            plugin_dirs: cni.plugin_dirs.clone(),
            deadline: cni.deadline,
            chain,
        };
        found.networks.push((name, network));
    }
    found
}

/// The regular files of the directory that are not hidden, sorted by name.
fn files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = vec![];
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // For example a file that is about to be renamed into place.
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        // Follows symbolic links; excludes pipes, on which reading would block.
        if fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn is_configuration(file: &Path) -> bool {
    file.extension()
        .is_some_and(|extension| EXTENSIONS.iter().any(|known| extension == *known))
}

fn read(file: &Path) -> Result<PluginConfig, String> {
    let mut json = vec![];
    fs::File::open(file)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut json))
        .map_err(|error| format!("cannot be read: {error}"))?;
    if json.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("is longer than {MAX_FILE_BYTES} bytes"));
    }
    // Errors do not quote the contents, which may be secret.
    serde_json::from_slice(&json).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => "is not a JSON object".to_owned(),
        _ => format!(
            "is not valid JSON: see line {}, column {}",
            error.line(),
            error.column()
        ),
    })
}

fn name(config: &PluginConfig) -> Result<String, String> {
    let name = config
        .get("name")
        .and_then(Value::as_str)
        .ok_or("has no \"name\"")?;
    let is_valid = (1..=MAX_NETWORK_NAME_BYTES).contains(&name.len())
        && !name.contains(|c: char| c == '/' || c.is_control());
    if is_valid {
        Ok(name.to_owned())
    } else {
        Err(format!(
            "\"name\" is not a network name: use 1 to {MAX_NETWORK_NAME_BYTES} bytes without \
             slashes and control characters"
        ))
    }
}

/// The plugins of a file. Each must be installed in one of the directories, if these are given.
fn chain(mut config: PluginConfig, plugin_dirs: Option<&[PathBuf]>) -> Result<Chain, String> {
    let versions = versions(&mut config)?;
    let plugins = match config.remove("plugins") {
        None => vec![config],
        Some(Value::Array(plugins)) if !plugins.is_empty() => plugins
            .into_iter()
            .enumerate()
            .map(|(index, plugin)| match plugin {
                Value::Object(mut plugin) => {
                    // They apply to every plugin of the list.
                    for key in ["name", "cniVersion"] {
                        if let Some(value) = config.get(key) {
                            plugin.insert(key.to_owned(), value.clone());
                        }
                    }
                    Ok(plugin)
                }
                _ => Err(format!("plugins[{index}] is not an object")),
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err("\"plugins\" is not a list of plugins".to_owned()),
    };
    for plugin in &plugins {
        check(plugin, plugin_dirs)?;
    }
    Ok(Chain { plugins, versions })
}

/// Takes `cniVersions` out of a configuration: with `cniVersion` the versions that it offers.
/// Returns those that are supported here.
fn versions(config: &mut PluginConfig) -> Result<Vec<CniVersion>, String> {
    let Some(offered) = config.remove("cniVersions") else {
        return Ok(vec![]);
    };
    let Value::Array(mut offered) = offered else {
        return Err("\"cniVersions\" is not a list of versions".to_owned());
    };
    offered.extend(config.get("cniVersion").cloned());
    let mut versions = vec![];
    for version in &offered {
        let text = version
            .as_str()
            .map_or_else(|| version.to_string(), str::to_owned);
        let version: CniVersion = text.parse().map_err(|_| {
            format!(
                "\"cniVersions\" has {}, which is not a version such as \"1.0.0\"",
                Quoted(text.as_bytes())
            )
        })?;
        if CniVersion::SUPPORTED.contains(&version) && !versions.contains(&version) {
            versions.push(version);
        }
    }
    if versions.is_empty() {
        return Err(format!(
            "\"cniVersions\" has no version that is supported; supported are {}",
            CniVersion::SUPPORTED
                .map(|version| version.to_string())
                .join(", ")
        ));
    }
    versions.sort();
    Ok(versions)
}

fn check(plugin: &PluginConfig, plugin_dirs: Option<&[PathBuf]>) -> Result<(), String> {
    if plugin.get("type").and_then(Value::as_str).is_none() {
        return Err("a plugin has no \"type\"".to_owned());
    }
    for program in programs(plugin) {
        if let Some(plugin_dirs) = plugin_dirs
            && find_plugin(program, plugin_dirs).is_none()
        {
            let directories: Vec<String> = plugin_dirs
                .iter()
                .map(|directory| directory.display().to_string())
                .collect();
            return Err(format!(
                "there is no plugin {program:?} in {}; install it, or add its directory to \
                 cni.plugin_dirs",
                directories.join(", ")
            ));
        }
    }
    if let Some(version) = plugin.get("cniVersion")
        && !version.is_string()
    {
        return Err("\"cniVersion\" is not a string".to_owned());
    }
    match plugin.get("args") {
        None => Ok(()),
        Some(Value::Object(args)) if !args.contains_key(MESOS_ARGS_KEY) => Ok(()),
        Some(Value::Object(_)) => Err(format!(
            "\"args\" has the key \"{MESOS_ARGS_KEY}\", which is reserved for the container's request"
        )),
        Some(_) => Err("\"args\" is not an object".to_owned()),
    }
}

/// Finds the program of a plugin by its name, which must not be a path.
pub(crate) fn find_plugin(program: &str, plugin_dirs: &[PathBuf]) -> Option<PathBuf> {
    let is_name =
        !program.is_empty() && !matches!(program, "." | "..") && !program.contains(['/', '\0']);
    let is_executable = |path: &PathBuf| {
        fs::metadata(path)
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    if !is_name {
        return None;
    }
    plugin_dirs
        .iter()
        .map(|directory| directory.join(program))
        .find(is_executable)
}

#[cfg(test)]
mod tests;
