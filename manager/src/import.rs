//! `contrail-mesos-manager import`: translates the INI files of Contrail's own mesos-manager to a
//! `manager.toml`.
//!
//! Invariants: every key is either translated or named in a comment that says why not; secrets are
//! never written.

#[cfg(test)]
mod tests;
mod translate;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use configparser::ini::Ini;
use contrail_mesos_api::command_line::print;
use contrail_mesos_api::program::print_error;

/// The sections in ascending precedence: if a key is in two of them, the later one wins.
const SECTIONS: [&str; 5] = ["defaults", "vnc", "mesos", "sandesh", "auth"];

/// Translate INI files of Contrail's own mesos-manager to a configuration, and print it
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The files, in the order in which they were passed to the old manager with -c
    #[arg(required = true, value_name = "INI")]
    files: Vec<PathBuf>,
}

/// The old configuration, by key.
type Keys = BTreeMap<String, String>;

impl Import {
    pub(crate) fn run(&self, is_quiet: bool) -> Result<()> {
        let mut keys = Keys::new();
        let mut foreign = vec![];
        for file in &self.files {
            let text = read(file)?;
            let added = flatten(&text, &mut foreign);
            keys.extend(added.map_err(|problem| anyhow!("{}: {problem}", file.display()))?);
        }
        print(&translate::toml(&keys, &foreign))?;
        if !is_quiet {
            print_error(
                "Save this as /etc/contrail-mesos/manager.toml, put the passwords into the files that it \
                 names, and run contrail-mesos-manager config check.",
            );
        }
        Ok(())
    }
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The keys of the sections that the old manager read. Adds the names of other sections to `foreign`.
fn flatten(text: &str, foreign: &mut Vec<String>) -> Result<Keys, String> {
    let mut ini = Ini::new();
    // As in Python: indented lines continue a value, and a value may contain #.
    ini.set_multiline(true);
    ini.set_inline_comment_symbols(Some(&[]));
    let sections = ini.read(text.to_owned())?;
    let mut keys = Keys::new();
    for section in SECTIONS {
        let Some(found) = sections.get(section) else {
            continue;
        };
        for (key, value) in found {
            let value = value.as_deref().unwrap_or_default().trim().to_owned();
            keys.insert(key.clone(), value);
        }
    }
    let others = sections
        .into_iter()
        .filter(|(name, keys)| !SECTIONS.contains(&name.as_str()) && !keys.is_empty());
    foreign.extend(others.map(|(name, _)| name));
    foreign.sort();
    foreign.dedup();
    Ok(keys)
}
