//! `contrail-mesos-node`: the node daemon beside each mesos-agent.

#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these panic if nobody reads, or a disk is full"
)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand, ValueEnum};
use contrail_mesos::config::{Config, DEFAULT_PATH, Source};
use contrail_mesos::preflight;
use contrail_mesos_api::command_line::{
    self, CheckOptions, CommonOptions, EXIT_DIFFERENCES, Example, Generate, Program,
};
use contrail_mesos_api::config_reader::read_file;
use contrail_mesos_api::text::{Escaped, hex};
use contrail_mesos_api::{build, log_line, program};
use contrail_mesos_node::daemon::{self, Daemon, NoStateError};
use contrail_mesos_node::engine;
use contrail_mesos_node::namespace_lock::NamespaceLock;
use sha2::{Digest as _, Sha256};
use tikv_jemallocator::Jemalloc;
use tokio::signal::unix::{SignalKind, signal};

/// Returns the memory of a full comparison to the system, unlike the allocator of glibc, which keeps it
/// once for each thread.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// How much of the hash of the configuration is reported, in characters.
const HASH_CHARS: usize = 16;
/// The level of the log, unless an option or the environment says another.
const LOG_LEVEL: &str = "info";

const PROGRAM: Program = Program {
    build: build!(),
    examples: &[
        Example {
            command: "",
            purpose: "What the daemon would change on this host",
            line: "contrail-mesos-node --dry-run",
        },
        Example {
            command: "",
            purpose: "Run with another configuration and a log for programs",
            line: "contrail-mesos-node --config /etc/agent.toml --log-format json",
        },
        Example {
            command: "run",
            purpose: "Run until SIGTERM, and say more in the log",
            line: "contrail-mesos-node run -v",
        },
        Example {
            command: "config check",
            purpose: "Check the configuration of this host",
            line: "contrail-mesos-node config check",
        },
        Example {
            command: "config check",
            purpose: "Check a file that is meant for other hosts",
            line: "contrail-mesos-node --config agent.toml config check --offline",
        },
    ],
};

/// Keeps the overlay networks, groups, services and names of this host, whatever the mesos-agent does
#[derive(Debug, Parser)]
#[command(name = "contrail-mesos-node", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Configuration file of the agent
    #[arg(long, global = true, default_value = DEFAULT_PATH, value_name = "FILE")]
    config: PathBuf,
    /// Print what would be changed now, change nothing, and exit with 0 if there are no differences, 3
    /// if there are, and 1 on errors
    #[arg(long)]
    dry_run: bool,
    /// Format of the log
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT", global = true)]
    log_format: LogFormat,
    #[command(flatten)]
    common: CommonOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Text
    Text,
    /// JSON, one object a line
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run until SIGTERM (the default)
    Run,
    /// Inspect the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// The same as config check
    #[command(hide = true)]
    Check(CheckOptions),
    /// Write manual pages and completions
    #[command(hide = true)]
    Generate(Generate),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check the table [node] of the configuration, and the files that it names; reports every problem
    /// with its file and line
    Check(CheckOptions),
}

fn main() -> ExitCode {
    let arguments = match PROGRAM.parse::<Arguments>() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    if arguments.dry_run && arguments.command.is_some() {
        return PROGRAM.usage_error::<Arguments>("--dry-run is of the daemon: give no command");
    }
    init_log(&arguments);
    program::exit_code("contrail-mesos-node", run(&arguments))
}

fn init_log(arguments: &Arguments) {
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(&arguments.common.log_filter_or_environment(LOG_LEVEL));
    match arguments.log_format {
        LogFormat::Text => builder.format(|out, record| {
            let time = out.timestamp();
            log_line::write(out, time, record)
        }),
        LogFormat::Json => builder.format(|out, record| {
            let time = out.timestamp_micros();
            log_line::write_json(out, time, record)
        }),
    };
    builder.init();
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let path = &arguments.config;
    match &arguments.command {
        Some(Command::Generate(command)) => {
            command.run::<Arguments>(&PROGRAM)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::Config(ConfigCommand::Check(options)) | Command::Check(options)) => {
            let report = preflight::check_node(&Source::file(path), options.offline);
            return Ok(report.print(options.output, arguments.common.quiet)?);
        }
        Some(Command::Run) | None => {}
    }
    let read = Source::file(path).read();
    let config = match &read.config {
        Ok(config) => config,
        Err(error) => {
            program::print_problems(&error.problems, error.omitted);
            return Ok(ExitCode::FAILURE);
        }
    };
    for warning in preflight::node_warnings(config, &read) {
        log::warn!("{warning}");
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the daemon needs root, to read and write the kernel's network configuration"
    );
    program::raise_open_files_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    if arguments.dry_run {
        let state = match runtime.block_on(daemon::state_now(config)) {
            Ok(state) => Some(state),
            // Such a daemon does what needs no manager.
            Err(NoStateError::NoManager { .. }) if config.node.managers.is_empty() => None,
            Err(error) => return Err(error.into()),
        };
        return dry_run(config, state.as_ref());
    }
    let served = runtime.block_on(serve(config, path));
    // Whatever still waits for a peer does not matter any more.
    runtime.shutdown_background();
    served
}

fn dry_run(
    config: &Config,
    state: Option<&contrail_mesos_node::cluster_state::ClusterState>,
) -> Result<ExitCode> {
    let outcomes = engine::dry_run(&mut daemon::subsystems(config)?, state);
    let mut out = String::new();
    let (mut changes, mut failures) = (0, 0);
    for (name, outcome) in outcomes {
        let (due, problems) = match outcome {
            Ok(outcome) => (outcome.changes, outcome.problems),
            Err(problem) => (vec![], vec![problem]),
        };
        changes += due.len();
        failures += problems.len();
        for change in due {
            writeln!(out, "{name}: {}", Escaped(&change.to_string()))?;
        }
        for problem in problems {
            writeln!(out, "{name}: problem: {}", Escaped(&problem))?;
        }
    }
    let at = state.map_or_else(
        || "without a state of the cluster".to_owned(),
        |state| format!("at revision {}", state.revision),
    );
    writeln!(out, "{changes} to change, {failures} problems, {at}")?;
    command_line::print(&out)?;
    Ok(match (failures, changes) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(EXIT_DIFFERENCES),
        _ => ExitCode::FAILURE,
    })
}

/// The beginning of the hash of the configuration file.
fn configuration_hash(path: &Path) -> String {
    read_file(path).map_or_else(
        |_| String::new(),
        |text| hex(&Sha256::digest(text))[..HASH_CHARS].to_owned(),
    )
}

/// Reads the configuration again, applies what can change, and logs the result.
fn reload(daemon: &mut Daemon, path: &Path) {
    let file = path.display();
    // Reads files, while the subsystems go on, on threads of their own.
    let read = tokio::task::block_in_place(|| Source::file(path).read());
    let config = match read.config {
        Ok(config) => config,
        Err(error) => {
            for problem in &error.problems {
                log::error!("{problem}");
            }
            let problems = error.problems.len() + error.omitted;
            log::error!(file:%, problems; "configuration rejected; the old one stays in force");
            return;
        }
    };
    match tokio::task::block_in_place(|| daemon.reload(&config, configuration_hash(path))) {
        Ok(restart) if restart.is_empty() => log::info!(file:%; "configuration reloaded"),
        Ok(restart) => {
            let needs_restart = restart.join(", ");
            log::warn!(file:%, needs_restart; "configuration reloaded, except keys that need a restart");
        }
        Err(error) => {
            log::error!(file:%, error:%; "configuration rejected; the old one stays in force");
        }
    }
}

async fn serve(config: &Config, path: &Path) -> Result<ExitCode> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let hash = configuration_hash(path);
    let _only = NamespaceLock::acquire(&config.state_dir)?;
    let mut daemon = Daemon::start(config, hash, daemon::subsystems(config)?).await?;
    let name = &config.node.name;
    let socket = config.node.socket.display();
    log::info!(node = name, socket:%; "running");
    if let Some(address) = daemon.listen() {
        log::info!("API at http://{address}");
    }
    let failure = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            failure = daemon.failed() => break Some(failure),
            _ = hangup.recv() => reload(&mut daemon, path),
        }
    };
    if let Some(failure) = &failure {
        log::error!("stopping, to be started again: {failure}");
    } else {
        log::info!("stopping; what is set up stays");
    }
    daemon.stop().await;
    Ok(if failure.is_some() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
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
