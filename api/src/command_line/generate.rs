//! The hidden command `generate`, for those who build packages: manual pages and completions.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory, Subcommand};
use clap_complete::Shell;

use super::{Program, manual};

/// Write what packages contain besides the program
#[derive(Args, Debug)]
pub struct Generate {
    #[command(subcommand)]
    what: Product,
}

#[derive(Debug, Subcommand)]
enum Product {
    /// Write the manual pages of the program and of its commands
    Man {
        /// Directory to write them to
        directory: PathBuf,
    },
    /// Write the completions for bash, fish and zsh
    Completions {
        /// Directory to write them to, in a directory for each shell
        directory: PathBuf,
    },
}

/// A file cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to {}: {source}", directory.display())]
pub struct GenerateError {
    directory: PathBuf,
    #[source]
    source: io::Error,
}

impl Generate {
    /// Writes the files of a program with these arguments. Blocks.
    pub fn run<A: CommandFactory>(&self, program: &Program) -> Result<(), GenerateError> {
        let (Product::Man { directory } | Product::Completions { directory }) = &self.what;
        let written = fs::create_dir_all(directory).and_then(|()| match &self.what {
            Product::Man { .. } => manual::write_to::<A>(program, directory),
            Product::Completions { .. } => completions::<A>(program, directory),
        });
        written.map_err(|source| GenerateError {
            directory: directory.clone(),
            source,
        })
    }
}

fn completions<A: CommandFactory>(program: &Program, directory: &Path) -> io::Result<()> {
    let mut command = shown(&program.plain_command::<A>());
    let name = command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        let directory = directory.join(shell.to_string());
        fs::create_dir_all(&directory)?;
        clap_complete::generate_to(shell, &mut command, &name, directory)?;
    }
    Ok(())
}

/// The command without what is hidden.
fn shown(command: &Command) -> Command {
    let mut shown = Command::new(command.get_name().to_owned());
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        shown = shown.version(version.to_owned());
    }
    let arguments = command.get_arguments().filter(|one| !one.is_hide_set());
    let subcommands = command.get_subcommands().filter(|one| !one.is_hide_set());
    shown
        .args(arguments.cloned())
        .subcommands(subcommands.map(self::shown))
}

#[cfg(test)]
impl Generate {
    /// Manual pages in this directory.
    pub(super) fn from_directory(directory: PathBuf) -> Self {
        Self {
            what: Product::Man { directory },
        }
    }
}
