//! What the command lines of all programs have in common: options, exit codes, versions, help, manual
//! pages, completions, and how they print.
//!
//! Invariants:
//! - Results and findings go to the standard output; errors and the log go to the standard error.
//! - It is no error that nobody reads the output to its end. Output that cannot be written is one.
//! - A command has examples in its help, or [`Program::commands_without_examples`] names it.

mod check;
mod generate;
mod manual;
mod output;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use clap::builder::StyledStr;
use clap::{ArgAction, Args, Command, CommandFactory, Parser, ValueEnum};

pub use check::{CheckOptions, CheckReport};
pub use generate::{Generate, GenerateError};
pub use output::{OutputError, Tone, painted, print};

use crate::program::print_error;

/// The exit code of a command that failed, or that found a problem.
pub const EXIT_FAILURE: u8 = 1;
/// The exit code of wrong arguments.
pub const EXIT_USAGE: u8 = 2;
/// The exit code of a daemon's dry run that found differences.
pub const EXIT_DIFFERENCES: u8 = 3;

/// The exit codes, each with its meaning.
const EXIT_CODES: [(u8, &str); 4] = [
    (0, "success"),
    (EXIT_FAILURE, "failure, or a problem was found"),
    (EXIT_USAGE, "wrong options or arguments"),
    (
        EXIT_DIFFERENCES,
        "the dry run of a daemon found differences",
    ),
];

/// The variables that all programs read, each with its meaning.
const VARIABLES: [(&str, &str); 2] = [
    (
        "RUST_LOG",
        "what to log, such as info, or warn,contrail_mesos=debug. -v and -q take precedence",
    ),
    (
        "NO_COLOR",
        "if it is set, and not empty, there are no colors",
    ),
];

/// Help is not wider, however wide the terminal is.
const MAX_WIDTH: usize = 100;

/// How a program was built. An unknown value is empty.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    /// Its version.
    pub version: &'static str,
    /// The commit of its sources.
    pub commit: &'static str,
    /// The day of the commit, such as `2026-11-30`.
    pub date: &'static str,
    /// The version of Mesos that it was built for.
    pub mesos: &'static str,
}

/// The [`Build`] of the program whose build script compiles the shim for Mesos.
#[macro_export]
macro_rules! build {
    () => {
        $crate::command_line::Build {
            version: env!("CARGO_PKG_VERSION"),
            commit: env!("CONTRAIL_MESOS_COMMIT"),
            date: env!("CONTRAIL_MESOS_COMMIT_DATE"),
            mesos: env!("CONTRAIL_MESOS_MESOS_VERSION"),
        }
    };
}

impl Build {
    fn long_version(&self) -> String {
        let known = |value: &'static str| if value.is_empty() { "unknown" } else { value };
        format!(
            "{}\ncommit: {}\ndate: {}\nMesos: {}",
            self.version,
            known(self.commit),
            known(self.date),
            known(self.mesos)
        )
    }
}

/// An example in the help of a command.
#[derive(Clone, Copy, Debug)]
pub struct Example {
    /// The subcommand, such as `config check`; empty for the program itself.
    pub command: &'static str,
    /// What the example does.
    pub purpose: &'static str,
    /// The command line, with the program's name.
    pub line: &'static str,
}

/// A program, besides its arguments.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// How it was built.
    pub build: Build,
    /// The examples of its commands.
    pub examples: &'static [Example],
}

impl Program {
    /// The arguments of this process. If they are wrong, or ask for help or the version only, the answer
    /// is printed, and the result is the exit code.
    pub fn parse<A: Parser>(&self) -> Result<A, ExitCode> {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        if forbids_colors(&arguments) {
            anstream::ColorChoice::Never.write_global();
        }
        let parsed = self
            .command::<A>()
            .try_get_matches_from(arguments)
            .and_then(|mut matches| A::from_arg_matches_mut(&mut matches));
        parsed.map_err(|error| answer::<A>(&error.format(&mut self.command::<A>())))
    }

    /// Prints what is wrong with arguments that the parser accepts. The result is the exit code.
    #[must_use]
    pub fn usage_error<A: CommandFactory>(&self, message: &str) -> ExitCode {
        let mut command = self.command::<A>();
        answer::<A>(&command.error(clap::error::ErrorKind::ArgumentConflict, message))
    }

    /// The command with its whole help.
    #[must_use]
    pub fn command<A: CommandFactory>(&self) -> Command {
        let command = self.plain_command::<A>();
        let variables: Vec<(String, &str)> = VARIABLES
            .iter()
            .map(|(name, meaning)| ((*name).to_owned(), *meaning))
            .collect();
        let text = joined_help(
            command.get_after_long_help(),
            &[help_table("Environment", &variables)],
        );
        self.with_help(command.after_long_help(text), "")
    }

    /// The command without what is added to the help of each command.
    fn plain_command<A: CommandFactory>(&self) -> Command {
        A::command()
            .version(self.build.version)
            .long_version(self.build.long_version())
            .max_term_width(MAX_WIDTH)
    }

    /// Adds the examples and exit codes to the help of a command and of all below it.
    fn with_help(&self, mut command: Command, path: &str) -> Command {
        let names: Vec<String> = command
            .get_subcommands()
            .map(|subcommand| subcommand.get_name().to_owned())
            .collect();
        for name in names {
            let path = joined_path(path, &name);
            command = command.mut_subcommand(name, |subcommand| self.with_help(subcommand, &path));
        }
        let codes: Vec<(String, &str)> = EXIT_CODES
            .iter()
            .map(|(code, meaning)| (code.to_string(), *meaning))
            .collect();
        let text = joined_help(
            command.get_after_long_help(),
            &[self.examples_help(path), help_table("Exit codes", &codes)],
        );
        command.after_long_help(text)
    }

    fn examples_help(&self, path: &str) -> String {
        let mut text = String::new();
        for Example { purpose, line, .. } in self.examples_of(path) {
            if text.is_empty() {
                text.push_str("Examples:");
            }
            let _ = write!(text, "\n  {purpose}:\n    {line}");
        }
        text
    }

    fn examples_of<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a Example> {
        let examples = self.examples.iter();
        examples.filter(move |example| example.command == path)
    }

    /// The commands that do something, are not hidden, and have no example.
    #[must_use]
    pub fn commands_without_examples<A: CommandFactory>(&self) -> Vec<String> {
        fn add(program: &Program, command: &Command, path: &str, found: &mut Vec<String>) {
            let is_group = command.is_subcommand_required_set();
            if !is_group && program.examples_of(path).next().is_none() {
                found.push(path.to_owned());
            }
            let shown = command
                .get_subcommands()
                .filter(|other| !other.is_hide_set());
            for subcommand in shown {
                let path = joined_path(path, subcommand.get_name());
                add(program, subcommand, &path, found);
            }
        }
        let mut found = vec![];
        add(self, &A::command(), "", &mut found);
        found
    }

    /// The examples that the program would refuse, each with the reason, or that are of no command.
    #[must_use]
    pub fn wrong_examples<A: CommandFactory>(&self) -> Vec<String> {
        let mut wrong = vec![];
        for Example { command, line, .. } in self.examples {
            // What is behind a pipe is another program's.
            let words = line.split(" | ").next().unwrap_or_default().split(' ');
            match self.plain_command::<A>().try_get_matches_from(words) {
                Err(error) if error.use_stderr() => wrong.push(format!("{line}: {error}")),
                // The version.
                Err(_) => {}
                Ok(matches) => {
                    let (mut path, mut inner) = (String::new(), &matches);
                    while let Some((name, matches)) = inner.subcommand() {
                        path = joined_path(&path, name);
                        inner = matches;
                    }
                    if path != *command {
                        wrong.push(format!("{line} is no example of {command:?}"));
                    }
                }
            }
        }
        wrong
    }
}

/// Prints what the parser says. The result is the exit code.
fn answer<A: CommandFactory>(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        // If that fails, the exit code still says it.
        let _ = error.print();
        return ExitCode::from(EXIT_USAGE);
    }
    let printed = error
        .print()
        .and_then(|()| io::Write::flush(&mut io::stdout()));
    match output::written(printed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&format!("{}: {error}", A::command().get_name()));
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

/// Whether the option is among the arguments. The parser needs to know it for its own errors.
fn forbids_colors(arguments: &[OsString]) -> bool {
    let mut options = arguments.iter().skip(1).take_while(|word| *word != "--");
    options.any(|word| word == "--no-color")
}

fn joined_path(path: &str, name: &str) -> String {
    [path, name]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Parts of a help, with an empty line between them.
fn joined_help(first: Option<&StyledStr>, others: &[String]) -> String {
    let first = first.map(ToString::to_string);
    let parts = first.iter().chain(others).filter(|part| !part.is_empty());
    parts.cloned().collect::<Vec<_>>().join("\n\n")
}

fn help_table(title: &str, rows: &[(String, &str)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = format!("{title}:");
    for (name, meaning) in rows {
        let _ = write!(text, "\n  {name:<width$}  {meaning}");
    }
    text
}

/// The options that all commands have.
#[derive(Args, Clone, Debug)]
pub struct CommonOptions {
    /// Log more; repeat it for still more
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Log errors only, and print no warnings, notes and confirmations
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Never use colors, as with the variable `NO_COLOR`
    #[arg(long, global = true)]
    pub no_color: bool,
}

/// The levels of the log, in ascending order.
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

impl CommonOptions {
    /// The filter of the log, if these options say one. `default` is the level without them.
    #[must_use]
    pub fn log_filter(&self, default: &str) -> Option<&'static str> {
        if self.quiet {
            return Some(LEVELS[0]);
        }
        if self.verbose == 0 {
            return None;
        }
        let default = LEVELS.iter().position(|level| *level == default);
        let level = default.unwrap_or(1) + usize::from(self.verbose);
        Some(LEVELS[level.min(LEVELS.len() - 1)])
    }

    /// The same with the variable `RUST_LOG`, and with the default.
    #[must_use]
    pub fn log_filter_or_environment(&self, default: &str) -> String {
        let option = self.log_filter(default).map(str::to_owned);
        let variable = || std::env::var("RUST_LOG").ok();
        let filter = option.or_else(variable);
        filter.unwrap_or_else(|| default.to_owned())
    }
}

/// An output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table, for people
    #[value(alias = "text")]
    Table,
    /// JSON, for programs
    Json,
}

#[cfg(test)]
mod tests;
