//! Runs the plugins of one interface: ADD in their order, DEL in reverse.
//!
//! While a chain runs, the file for standard input is locked, and each plugin inherits the lock.
//! So after the agent was killed, a DEL waits until a plugin of the old agent has ended, and does
//! not undo an ADD in progress. It does not wait for longer than a plugin may take: what still has
//! the lock then is a daemon that a plugin started.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use super::plugin::{self, Command, Parameters};
use super::record::{LockedInput, Records};
use super::{CniIntent, PluginEnvironment};
use crate::config::PluginConfig;
use crate::config::cni::{find_plugin, plugin_type};
use crate::provider::{BoxError, Intent};

/// Runs the plugins of one interface. Every call blocks.
pub(super) struct ChainRun<'a> {
    pub(super) intent: &'a Intent<CniIntent>,
    pub(super) environment: &'a PluginEnvironment,
    pub(super) records: &'a Records,
}

impl ChainRun<'_> {
    /// Runs ADD of every plugin, and returns the last one's result. A failure undoes nothing.
    pub(super) fn add(&self, namespace: &Path) -> Result<Value, BoxError> {
        let deadline = Instant::now() + self.intent.provider.deadline;
        let input = self.records.lock(self.intent, deadline)?;
        let mut result = None;
        for config in &self.intent.provider.plugins {
            let mut config = config.clone();
            if let Some(previous) = result.take() {
                config.insert("prevResult".to_owned(), previous);
            }
            let output = self.run(Command::Add, namespace, &config, &input, deadline)?;
            let parsed: Value = serde_json::from_slice(&output)
                .ok()
                .filter(Value::is_object)
                .ok_or_else(|| invalid_result(&config, &output))?;
            result = Some(parsed);
        }
        result.ok_or_else(|| "the network has no plugin".into())
    }

    /// Runs DEL of every plugin, even if others fail.
    pub(super) fn del(&self, namespace: &Path, result: Option<&Value>) -> Vec<BoxError> {
        let deadline = Instant::now() + self.intent.provider.deadline;
        let input = match self.records.lock(self.intent, deadline) {
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                log::warn!(
                    container:% = self.intent.container;
                    "{error}; running DEL of network {:?} all the same",
                    self.intent.network
                );
                self.records.lock_anew(self.intent)
            }
            locked => locked,
        };
        let input = match input {
            Ok(input) => input,
            Err(error) => return vec![error.into()],
        };
        // Waiting for the lock may have used up the time.
        let deadline = deadline.max(Instant::now() + self.intent.provider.deadline / 2);
        let mut errors = vec![];
        for config in self.intent.provider.plugins.iter().rev() {
            let mut config = config.clone();
            if let Some(result) = result.filter(|_| takes_result(&config)) {
                config.insert("prevResult".to_owned(), result.clone());
            }
            let run = self.run(Command::Del, namespace, &config, &input, deadline);
            errors.extend(run.err());
        }
        errors
    }

    fn run(
        &self,
        command: Command,
        namespace: &Path,
        config: &PluginConfig,
        input: &LockedInput,
        deadline: Instant,
    ) -> Result<Vec<u8>, BoxError> {
        let directories = self.directories();
        let program = plugin_type(config);
        let path = find_plugin(program, &directories).ok_or_else(|| {
            format!(
                "the CNI plugin {program} cannot {command}: it is in none of {}; install it again",
                join(&directories).to_string_lossy()
            )
        })?;
        let failed =
            |error: BoxError| format!("the CNI plugin {program} failed to {command}: {error}");
        plugin::write_input(input, config).map_err(|error| failed(error.into()))?;
        let parameters = Parameters {
            command,
            container: &self.intent.container.file_name(),
            namespace,
            interface: &self.intent.interface,
            arguments: &self.intent.provider.arguments,
            plugin_path: &join(&directories),
            path: &self.environment.path,
        };
        let input = input.try_clone().map_err(|error| failed(error.into()))?;
        Ok(plugin::run(&path, &parameters, input, deadline)
            .map_err(|error| failed(error.into()))?)
    }

    /// The directories of the container's launch, then the current ones: a plugin may have moved.
    fn directories(&self) -> Vec<PathBuf> {
        let mut directories = self.intent.provider.plugin_dirs.clone();
        for directory in &self.environment.plugin_dirs {
            if !directories.contains(directory) {
                directories.push(directory.clone());
            }
        }
        directories
    }
}

/// The directories in the form of `CNI_PATH`.
pub(super) fn join(directories: &[PathBuf]) -> OsString {
    let mut path = OsString::new();
    for directory in directories {
        if !path.is_empty() {
            path.push(":");
        }
        path.push(directory);
    }
    path
}

fn invalid_result(config: &PluginConfig, output: &[u8]) -> BoxError {
    let program = plugin_type(config);
    match plugin::quote(output).as_str() {
        "" => format!("the CNI plugin {program} printed no result"),
        quoted => format!("the CNI plugin {program} printed an invalid CNI result: {quoted}"),
    }
    .into()
}

/// Since 0.4.0 a DEL gets the result of the ADD.
fn takes_result(config: &PluginConfig) -> bool {
    let version = config.get("cniVersion").and_then(Value::as_str);
    let mut parts = version
        .unwrap_or_default()
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next()) >= (0, 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn del_takes_the_add_result_since_0_4_0() {
        for (version, takes) in [
            ("0.1.0", false),
            ("0.3.1", false),
            ("0.4.0", true),
            ("1.0.0", true),
            ("1.1.0", true),
            ("", false),
        ] {
            let mut config = PluginConfig::new();
            config.insert("cniVersion".to_owned(), version.into());
            assert_eq!(takes_result(&config), takes, "{version}");
        }
        assert!(!takes_result(&PluginConfig::new()));
    }
}
