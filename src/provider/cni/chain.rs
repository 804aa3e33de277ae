//! The plugins of one interface, one after another: ADD in their order, DEL in reverse.
//!
//! While a chain runs, its file of standard input is locked, and each plugin inherits the lock. So
//! a DEL after the agent was killed waits until a plugin that the old agent left behind has ended,
//! instead of undoing what is only being made.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use super::super::{BoxError, Intent};
use super::plugin::{self, Command, Parameters};
use super::record::Records;
use super::{CniIntent, Environment};
use crate::config::PluginConfig;
use crate::config::cni::{find_plugin, plugin_type};

/// The plugins of one interface.
pub(super) struct Chain<'a> {
    pub(super) intent: &'a Intent,
    pub(super) own: &'a CniIntent,
    pub(super) environment: &'a Environment,
    pub(super) records: &'a Records,
}

impl Chain<'_> {
    /// Runs ADD of every plugin, and returns the last one's result. Blocks; what was made is left
    /// when this fails.
    pub(super) fn add(&self, namespace: &Path) -> Result<Value, BoxError> {
        let deadline = Instant::now() + self.own.deadline;
        let input = self.records.lock(self.intent, deadline)?;
        let mut result = None;
        for config in &self.own.plugins {
            let mut config = config.clone();
            if let Some(previous) = result.take() {
                config.insert("prevResult".to_owned(), previous);
            }
            let printed = self.run(Command::Add, namespace, &config, &input, deadline)?;
            let printed: Value = serde_json::from_slice(&printed)
                .ok()
                .filter(Value::is_object)
                .ok_or_else(|| nonsense(&config, &printed))?;
            result = Some(printed);
        }
        result.ok_or_else(|| "the network has no plugin".into())
    }

    /// Runs DEL of every plugin, whatever becomes of the others. Blocks.
    pub(super) fn del(&self, namespace: &Path, result: Option<&Value>) -> Vec<BoxError> {
        let deadline = Instant::now() + self.own.deadline;
        let input = match self.records.lock(self.intent, deadline) {
            Ok(input) => input,
            Err(error) => return vec![error.into()],
        };
        // Whoever was waited for has used the time.
        let deadline = deadline.max(Instant::now() + self.own.deadline / 2);
        let mut errors = vec![];
        for config in self.own.plugins.iter().rev() {
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
        mut input: &File,
        deadline: Instant,
    ) -> Result<Vec<u8>, BoxError> {
        let directories = self.directories();
        let program = plugin_type(config);
        let path = find_plugin(program, &directories).ok_or_else(|| {
            format!(
                "the CNI plugin {program} cannot {command}: it is in none of {}; install it again",
                list(&directories).to_string_lossy()
            )
        })?;
        let failed =
            |error: BoxError| format!("the CNI plugin {program} failed to {command}: {error}");
        let text = serde_json::to_vec(config)?;
        input
            .set_len(0)
            .and_then(|()| input.rewind())
            .and_then(|()| input.write_all(&text))
            .and_then(|()| input.rewind())
            .map_err(|error| failed(error.into()))?;
        let parameters = Parameters {
            command,
            container: &self.intent.container.file_name(),
            namespace,
            interface: &self.intent.interface,
            plugins: &list(&directories),
            path: &self.environment.path,
        };
        let input = input.try_clone().map_err(|error| failed(error.into()))?;
        let printed = plugin::run(&path, &parameters, input, deadline);
        Ok(printed.map_err(|error| failed(error.into()))?)
    }

    /// Those of the container's launch, then those of now: a plugin may have moved.
    fn directories(&self) -> Vec<PathBuf> {
        let mut directories = self.own.plugin_dirs.clone();
        for directory in &self.environment.plugin_dirs {
            if !directories.contains(directory) {
                directories.push(directory.clone());
            }
        }
        directories
    }
}

fn list(directories: &[PathBuf]) -> OsString {
    let mut list = OsString::new();
    for directory in directories {
        if !list.is_empty() {
            list.push(":");
        }
        list.push(directory);
    }
    list
}

fn nonsense(config: &PluginConfig, printed: &[u8]) -> BoxError {
    let program = plugin_type(config);
    match plugin::quote(printed).as_str() {
        "" => format!("the CNI plugin {program} printed no result"),
        said => format!("the CNI plugin {program} printed what is no CNI result: {said}"),
    }
    .into()
}

/// From 0.4.0 a DEL has the result of the ADD.
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
    fn a_del_has_the_result_from_0_4_0() {
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
