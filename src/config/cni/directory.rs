//! The files of the CNI configuration directory: `.conf` and `.json` (one plugin) and `.conflist`
//! (a chain), told apart by what they say, whatever they are called.
//!
//! A file that cannot be used takes only its own network away: one that has a name stays known
//! and says why it is refused. Hidden files, and what is no regular file, are nobody's.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::network::LONGEST_NAME;
use super::super::{ConfigProblem, Network, NetworkProvider};
use super::{Chain, Cni, CniNetwork, PluginConfig};

/// Longer than any configuration that somebody wrote.
const LONGEST_FILE: u64 = 1 << 20;
/// The key of `args` that is Mesos'.
const MESOS: &str = "org.apache.mesos";

/// The directory's networks but those that `taken` has already, and what cannot be used, each with
/// its file. Blocks on the file system.
pub(in super::super) fn networks(
    cni: &Cni,
    taken: &[Network],
) -> (Vec<Network>, Vec<ConfigProblem>) {
    let mut networks: Vec<Network> = vec![];
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
        let config = match read(&file) {
            Ok(config) => config,
            Err(message) => {
                problem(&file, message);
                continue;
            }
        };
        let name = match name(&config) {
            Ok(name) => name,
            Err(message) => {
                problem(&file, message);
                continue;
            }
        };
        // What agent.toml says of a name wins.
        if taken.iter().any(|network| network.name == name) {
            continue;
        }
        if networks.iter().any(|network| network.name == name) {
            problem(
                &file,
                format!("network {name:?} is in a file before this one already"),
            );
            continue;
        }
        let chain = chain(config, &cni.plugin_dirs);
        if let Err(message) = &chain {
            problem(&file, format!("network {name:?}: {message}"));
        }
        networks.push(Network {
            name,
            dns: None,
            provider: NetworkProvider::Cni(CniNetwork {
                file,
                plugin_dirs: cni.plugin_dirs.clone(),
                deadline: cni.deadline,
                chain,
            }),
        });
    }
    (networks, problems)
}

/// The directory's files in the order of their names.
fn files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = vec![];
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // As is a file that somebody is about to rename into place.
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        // A link's target counts; a pipe would be waited for.
        if fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<PluginConfig, String> {
    let mut text = vec![];
    fs::File::open(file)
        .and_then(|file| file.take(LONGEST_FILE + 1).read_to_end(&mut text))
        .map_err(|error| format!("cannot read it: {error}"))?;
    if text.len() as u64 > LONGEST_FILE {
        return Err(format!("it is longer than {LONGEST_FILE} bytes"));
    }
    // Errors name the place only, never the text, which may be secret.
    serde_json::from_slice(&text).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => "it is no JSON object".to_owned(),
        _ => format!(
            "it is no JSON: see line {}, column {}",
            error.line(),
            error.column()
        ),
    })
}

fn name(config: &PluginConfig) -> Result<String, String> {
    let name = config
        .get("name")
        .and_then(Value::as_str)
        .ok_or("it has no \"name\"")?;
    let is_name = !name.is_empty()
        && name.len() <= LONGEST_NAME
        && !name.contains(|letter: char| letter == '/' || letter.is_control());
    if is_name {
        Ok(name.to_owned())
    } else {
        Err(format!(
            "its \"name\" is not a network name: 1 to {LONGEST_NAME} bytes without slashes and \
             control characters"
        ))
    }
}

/// The plugins of a file, each of which must be there.
fn chain(mut config: PluginConfig, plugin_dirs: &[PathBuf]) -> Result<Chain, String> {
    let plugins = match config.remove("plugins") {
        None => vec![config],
        Some(Value::Array(plugins)) if !plugins.is_empty() => plugins
            .into_iter()
            .enumerate()
            .map(|(index, plugin)| match plugin {
                Value::Object(mut plugin) => {
                    // What the list says of all of them.
                    for key in ["name", "cniVersion"] {
                        if let Some(value) = config.get(key) {
                            plugin.insert(key.to_owned(), value.clone());
                        }
                    }
                    Ok(plugin)
                }
                _ => Err(format!("plugins[{index}] is no object")),
            })
            .collect::<Result<_, _>>()?,
        Some(_) => return Err("\"plugins\" is no list of plugins".to_owned()),
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
    // Without a type, or with an empty one, a plugin does without.
    let ipam = plugin
        .get("ipam")
        .and_then(|ipam| ipam.get("type")?.as_str())
        .filter(|program| !program.is_empty());
    for program in std::iter::once(program).chain(ipam) {
        if find(program, plugin_dirs).is_none() {
            let places: Vec<String> = plugin_dirs
                .iter()
                .map(|directory| directory.display().to_string())
                .collect();
            return Err(format!(
                "there is no plugin {program:?} in {}; install it, or name its directory in \
                 cni.plugin_dirs",
                places.join(", ")
            ));
        }
    }
    if let Some(version) = plugin.get("cniVersion")
        && !version.is_string()
    {
        return Err("\"cniVersion\" is no text".to_owned());
    }
    match plugin.get("args") {
        None => Ok(()),
        Some(Value::Object(args)) if !args.contains_key(MESOS) => Ok(()),
        Some(Value::Object(_)) => Err(format!(
            "\"args\" has \"{MESOS}\" already, which is what a container asks for"
        )),
        Some(_) => Err("\"args\" is no object".to_owned()),
    }
}

/// The program of a plugin: a name, never a path.
pub(crate) fn find(program: &str, plugin_dirs: &[PathBuf]) -> Option<PathBuf> {
    let is_name =
        !program.is_empty() && !matches!(program, "." | "..") && !program.contains(['/', '\0']);
    let is_executable = |path: &PathBuf| {
        fs::metadata(path)
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    plugin_dirs
        .iter()
        .filter(|_| is_name)
        .map(|directory| directory.join(program))
        .find(is_executable)
}

#[cfg(test)]
mod tests;
