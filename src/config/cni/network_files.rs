//! The files of the CNI configuration directory: `.conf` and `.json` for one plugin, `.conflist`
//! for a chain. Recognised by their contents, not by their names.
//!
//! A file that cannot be used affects only its own network. If the file has a valid network name,
//! requests for the network fail with the reason. Hidden files and everything that is not a regular
//! file are ignored.

use std::collections::HashSet;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Chain, Cni, CniNetwork, PluginConfig};
use crate::config::fields::MAX_NETWORK_NAME_BYTES;
use contrail_mesos_api::config_reader::ConfigProblem;

const MAX_FILE_BYTES: u64 = 1 << 20;
/// The key of `args` whose value Mesos sets.
const MESOS_ARGS_KEY: &str = "org.apache.mesos";

/// The networks of the directory with their names, and the problems of files that cannot be used.
/// Leaves out networks with a name of `configured`. Blocks on the file system.
pub(crate) fn networks(
    cni: &Cni,
    configured: &HashSet<&str>,
) -> (Vec<(String, CniNetwork)>, Vec<ConfigProblem>) {
    let mut networks: Vec<(String, CniNetwork)> = vec![];
    let mut problems = vec![];
    let mut problem = |place: &Path, message: String| {
        problems.push(ConfigProblem {
            place: place.display().to_string(),
            key: String::new(),
            message,
        });
    };
    let files = match files(&cni.config_dir) {
        Ok(files) => files,
        Err(error) => {
            problem(
                &cni.config_dir,
                format!("cannot list the CNI networks: {error}"),
            );
            return (networks, problems);
        }
    };
    for file in files {
        let named = read(&file).and_then(|config| Ok((name(&config)?, config)));
        let (name, config) = match named {
            Ok(named) => named,
            Err(message) => {
                problem(&file, message);
                continue;
            }
        };
        // A [[network]] of agent.toml takes precedence.
        if configured.contains(name.as_str()) {
            continue;
        }
        if networks.iter().any(|(other, _)| *other == name) {
            problem(
                &file,
                format!("network {name:?} is already defined in an earlier file"),
            );
            continue;
        }
        let chain = chain(config, &cni.plugin_dirs);
        if let Err(message) = &chain {
            problem(&file, format!("network {name:?}: {message}"));
        }
        let network = CniNetwork {
            file,
            plugin_dirs: cni.plugin_dirs.clone(),
            deadline: cni.deadline,
            chain,
        };
        networks.push((name, network));
    }
    (networks, problems)
}

/// The files of the directory, sorted by name.
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

/// The plugins of a file. Each must be installed.
fn chain(mut config: PluginConfig, plugin_dirs: &[PathBuf]) -> Result<Chain, String> {
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
    Ok(Chain { plugins })
}

fn check(plugin: &PluginConfig, plugin_dirs: &[PathBuf]) -> Result<(), String> {
    let program = plugin
        .get("type")
        .and_then(Value::as_str)
        .ok_or("a plugin has no \"type\"")?;
    // A plugin does not use IPAM if its type is missing or empty.
    let ipam = plugin
        .get("ipam")
        .and_then(|ipam| ipam.get("type")?.as_str())
        .filter(|program| !program.is_empty());
    for program in std::iter::once(program).chain(ipam) {
        if find_plugin(program, plugin_dirs).is_none() {
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
