//! `contrail-mesos-manager import`: from the INI files of Contrail's own mesos-manager to a
//! `manager.toml`.
//!
//! Invariants: every key of the old files is either translated or named in a comment that says why
//! it is not; no secret is written.

#[cfg(test)]
mod tests;
mod translate;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use configparser::ini::Ini;

/// The sections, from the weakest to the strongest: a key in two of them has the latter's value.
const SECTIONS: [&str; 5] = ["defaults", "vnc", "mesos", "sandesh", "auth"];

/// Print the manager's configuration that says what INI files of Contrail's own mesos-manager say
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The files, as the old manager was given them with -c; a later one overrides
    #[arg(required = true, value_name = "INI")]
    files: Vec<PathBuf>,
}

/// What the old manager was told, by key.
type Keys = BTreeMap<String, String>;

impl Import {
    pub(crate) fn run(&self) -> Result<()> {
        let mut keys = Keys::new();
        let mut foreign = vec![];
        for file in &self.files {
            let text = read(file)?;
            let added = flatten(&text, &mut foreign);
            keys.extend(added.map_err(|problem| anyhow!("{}: {problem}", file.display()))?);
        }
        print!("{}", translate::toml(&keys, &foreign));
        eprintln!(
            "Write this to /etc/contrail-mesos/manager.toml, put the passwords where it says, and \
             run contrail-mesos-manager --check."
        );
        Ok(())
    }
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

/// The keys of all sections that the old manager read, and in `foreign` the other sections' names.
fn flatten(text: &str, foreign: &mut Vec<String>) -> Result<Keys, String> {
    let mut ini = Ini::new();
    // As Python reads it: a value goes on in lines that are indented, and may have a # in it.
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
