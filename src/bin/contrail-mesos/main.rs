//! `contrail-mesos`: the operators' command line. Does what the agent's module does, with the same
//! code, for any network namespace.

#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these panic if nobody reads, or a disk is full"
)]

mod address;
mod attach;
mod check;
mod cluster_status;
mod connectivity;
mod container;
mod detach;
mod doctor;
mod dump;
mod examples;
mod groups;
mod module;
mod network;
mod output;
mod state;
mod status;
mod strays;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use contrail_mesos::config::{DEFAULT_PATH, Source};
pub(crate) use contrail_mesos_api::command_line::Output;
use contrail_mesos_api::command_line::{CheckOptions, CommonOptions, Generate, Program};
use contrail_mesos_api::{build, log_line, program};

use self::state::StateOptions;

/// The level of the log, unless an option or the environment says another.
const LOG_LEVEL: &str = "warn";

const PROGRAM: Program = Program {
    build: build!(),
    examples: examples::EXAMPLES,
};

/// Container networking for Apache Mesos: what operators need on an agent
#[derive(Parser)]
#[command(name = "contrail-mesos", version)]
struct Arguments {
    /// Configuration file of the agent
    #[arg(long, global = true, default_value = DEFAULT_PATH, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    common: CommonOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Attach a network namespace to networks, as the agent attaches a container
    Attach(attach::Attach),
    /// Undo an attach
    Detach(detach::Detach),
    /// Show or change the groups of a running container
    Groups(groups::GroupsCommand),
    /// List the containers of this host and verify them, or list all nodes of the cluster
    Status(status::Status),
    /// Show a container
    #[command(subcommand)]
    Container(ContainerCommand),
    /// Show networks, their addresses and their containers
    #[command(subcommand)]
    Network(network::NetworkCommand),
    /// Show who has an address
    #[command(subcommand)]
    Address(AddressCommand),
    /// Look for what belongs to no container on this host, and repair it
    Check(strays::Check),
    /// Collect what a report of a problem needs into one archive, without secrets
    Dump(dump::DumpCommand),
    Trace(trace::TraceCommand),
    Connectivity(connectivity::ConnectivityCommand),
    /// Inspect the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Check whether containers can be attached on this host: kernel, settings, configuration, library,
    /// agent and services
    Doctor(doctor::DoctorCommand),
    /// Inspect libraries for Mesos
    #[command(subcommand)]
    Module(ModuleCommand),
    /// Write manual pages and completions
    #[command(hide = true)]
    Generate(Generate),
}

#[derive(Subcommand)]
enum ContainerCommand {
    /// Show everything about one container of this host
    Show(container::ContainerShow),
}

#[derive(Subcommand)]
enum AddressCommand {
    /// Show which container of this host has an address, and which had it before
    Show(address::AddressShow),
}

#[derive(Subcommand)]
enum ModuleCommand {
    /// Show how a library was built and which modules are in it, without loading it
    Info(module::ModuleInfoCommand),
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Check the configuration, and the files that it names; reports every problem with its file and line
    Check(CheckOptions),
}

fn main() -> ExitCode {
    let arguments = match PROGRAM.parse::<Arguments>() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    if arguments.common.quiet {
        output::be_quiet();
    }
    env_logger::Builder::new()
        .parse_filters(&arguments.common.log_filter_or_environment(LOG_LEVEL))
        .format(|out, record| {
            let time = out.timestamp();
            log_line::write(out, time, record)
        })
        .init();
    // Our errors say their causes.
    program::exit_code("contrail-mesos", run(arguments))
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let source = Source::file(&arguments.config);
    match arguments.command {
        Command::Config(ConfigCommand::Check(options)) => check::run(&source, options),
        Command::Generate(command) => {
            command.run::<Arguments>(&PROGRAM)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Doctor(command) => {
            needs_root("doctor")?;
            let runtime = runtime()?;
            let code = runtime.block_on(command.run(source));
            // What hangs is left behind.
            runtime.shutdown_background();
            code
        }
        Command::Dump(command) => {
            needs_root("dump")?;
            let runtime = runtime()?;
            let code = runtime.block_on(command.run(source));
            // What hangs is left behind.
            runtime.shutdown_background();
            code
        }
        Command::Module(ModuleCommand::Info(command)) => command.run(),
        Command::Attach(command) => {
            needs_root("attach")?;
            let config = source.load()?;
            runtime()?.block_on(command.run(&config))
        }
        Command::Detach(command) => {
            needs_root("detach")?;
            let config = command.state.load(&source)?;
            runtime()?.block_on(async { command.run(&StateOptions::attacher(&config)?).await })
        }
        Command::Groups(command) => {
            needs_root("groups")?;
            let config = command.state.load(&source)?;
            command.run(&config.state_dir)
        }
        Command::Check(command) => {
            needs_root("check")?;
            let config = command.state.load(&source)?;
            runtime()?.block_on(async { command.run(&StateOptions::attacher(&config)?).await })
        }
        Command::Connectivity(command) => {
            needs_root("connectivity")?;
            let config = source.load()?;
            runtime()?.block_on(command.run(&config))
        }
        Command::Trace(command) => {
            needs_root("trace")?;
            let config = command.state.load(&source)?;
            runtime()?.block_on(async {
                let attacher = StateOptions::attacher(&config)?;
                command.run(&attacher, &config).await
            })
        }
        Command::Status(command) => {
            if !command.cluster {
                needs_root("status")?;
            }
            runtime()?.block_on(command.run(&source))
        }
        Command::Container(ContainerCommand::Show(command)) => {
            needs_root("container show")?;
            runtime()?.block_on(command.run(&source))
        }
        Command::Network(command) => {
            needs_root("network")?;
            runtime()?.block_on(command.run(&source))
        }
        Command::Address(AddressCommand::Show(command)) => {
            needs_root("address show")?;
            runtime()?.block_on(command.run(&source))
        }
    }
}

fn needs_root(command: &str) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "{command} needs root, to read the state of the containers and to ask the kernel: use sudo"
    );
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_examples_that_are_parsed() {
        assert_eq!(
            PROGRAM.commands_without_examples::<Arguments>(),
            Vec::<String>::new()
        );
        assert_eq!(PROGRAM.wrong_examples::<Arguments>(), Vec::<String>::new());
    }
}
