//! `contrail-mesos-manager`: manages the objects of containers in Contrail for the agents.

#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "these panic if nobody reads, or a disk is full"
)]

mod dump_command;
mod examples;
mod healthcheck;
mod import;
mod overlay_command;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use contrail_mesos_api::command_line::{
    self, CheckOptions, CommonOptions, EXIT_DIFFERENCES, Generate, Output, Program,
};
use contrail_mesos_api::config_reader::ConfigProblem;
use contrail_mesos_api::{build, program};
use contrail_mesos_manager::logging::{self, LogFormat};
use contrail_mesos_manager::{Config, DEFAULT_PATH, DryRun, Manager, check, dry_run};
use tikv_jemallocator::Jemalloc;
use tokio::signal::unix::{SignalKind, signal};

/// Returns the memory of a full listing to the system, unlike the allocator of glibc.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

const PROGRAM: Program = Program {
    build: build!(),
    examples: examples::EXAMPLES,
};

/// Manages the objects of Mesos containers in the Contrail VNC API, overlay networks and services
#[derive(Debug, Parser)]
#[command(name = "contrail-mesos-manager", version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Configuration file
    #[arg(long, global = true, default_value = DEFAULT_PATH, value_name = "FILE")]
    config: PathBuf,
    /// The same as the command config check
    #[arg(long, hide = true, conflicts_with = "dry_run")]
    check: bool,
    /// Print what this manager would write now, write nothing, and exit with 0 if there are no
    /// differences, 3 if there are, and 1 on errors
    #[arg(long)]
    dry_run: bool,
    /// Output format of the dry run
    #[arg(
        short,
        long,
        value_enum,
        default_value = "table",
        value_name = "FORMAT",
        requires = "dry_run"
    )]
    output: Output,
    /// Format of the log
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT", global = true)]
    log_format: Format,
    /// Log filter, such as info or warn,hyper=debug; the configuration overrides it, -v and -q override
    /// both, and PUT /log-level changes it at run time
    #[arg(long, env = "RUST_LOG", default_value = LOG_LEVEL, value_name = "FILTER", global = true)]
    log_level: String,
    #[command(flatten)]
    common: CommonOptions,
}

/// The level of the log, unless an option, the environment or the configuration says another.
const LOG_LEVEL: &str = "info";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run until SIGTERM (the default)
    Run,
    /// Inspect the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    Dump(dump_command::Dump),
    Healthcheck(healthcheck::Healthcheck),
    Import(import::Import),
    Overlay(overlay_command::Overlay),
    /// Write manual pages and completions
    #[command(hide = true)]
    Generate(Generate),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Check the configuration, and the files that it names; reports every problem with its file and line
    Check(CheckOptions),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Text
    Text,
    /// JSON, one object a line
    Json,
}

fn main() -> ExitCode {
    let arguments = match PROGRAM.parse::<Arguments>() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    if arguments.command.is_some() && (arguments.dry_run || arguments.check) {
        let message = "--dry-run and --check are of the manager: give no command";
        return PROGRAM.usage_error::<Arguments>(message);
    }
    program::exit_code("contrail-mesos-manager", run(&arguments))
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let (path, is_quiet) = (&arguments.config, arguments.common.quiet);
    match &arguments.command {
        Some(Command::Dump(dump)) => {
            dump.run(path)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::Healthcheck(healthcheck)) => return healthcheck.run(path),
        Some(Command::Import(import)) => {
            import.run(is_quiet)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::Overlay(overlay)) => return overlay.run(is_quiet),
        Some(Command::Generate(command)) => {
            command.run::<Arguments>(&PROGRAM)?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::Config(ConfigCommand::Check(options))) => {
            return Ok(check(path, options.offline).print(options.output, is_quiet)?);
        }
        None if arguments.check => return Ok(check(path, false).print(Output::Table, is_quiet)?),
        Some(Command::Run) | None => {}
    }
    let format = match arguments.log_format {
        Format::Text => LogFormat::Text,
        Format::Json => LogFormat::Json,
    };
    let option = arguments.common.log_filter(LOG_LEVEL);
    if let Err(error) = logging::init(format, option.unwrap_or(&arguments.log_level)) {
        return Ok(PROGRAM.usage_error::<Arguments>(&error.to_string()));
    }
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            program::print_problems(&error.problems, error.omitted);
            return Ok(ExitCode::FAILURE);
        }
    };
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    if arguments.dry_run {
        let result = runtime.block_on(dry_run(&config))?;
        print(&result, arguments.output)?;
        return Ok(ExitCode::from(if result.differs() {
            EXIT_DIFFERENCES
        } else {
            0
        }));
    }
    if let (Some(level), None) = (&config.log_level, option) {
        logging::set_filter(level)?;
    }
    program::raise_open_files_limit();
    let served = runtime.block_on(serve(config, &arguments.config));
    // Whatever is still being decoded does not matter any more.
    runtime.shutdown_background();
    served?;
    Ok(ExitCode::SUCCESS)
}

fn print(result: &DryRun, output: Output) -> Result<()> {
    let mut text = String::new();
    if output == Output::Json {
        writeln!(text, "{}", serde_json::to_string_pretty(result)?)?;
        return Ok(command_line::print(&text)?);
    }
    for change in &result.provision {
        writeln!(text, "{change}")?;
    }
    for container in &result.containers {
        writeln!(text, "{container}")?;
    }
    let [now, later, deferred] = result.counts();
    if result.followed {
        writeln!(
            text,
            "{} to provision; containers: {now} to change now, {later} later, {deferred} deferred",
            result.provision.len()
        )?;
    } else {
        writeln!(
            text,
            "{} to provision; containers are not compared without a table [mesos]",
            result.provision.len()
        )?;
    }
    Ok(command_line::print(&text)?)
}

/// Reloads the configuration and the files that it names, and logs the result.
fn reload(manager: &Manager, path: &Path) {
    let file = path.display();
    let reloaded = tokio::task::block_in_place(|| {
        let config = Config::load(path).map_err(|error| error.problems)?;
        let restart = manager.reload(&config).map_err(|error| {
            vec![ConfigProblem {
                place: file.to_string(),
                key: String::new(),
                message: error.to_string(),
            }]
        })?;
        Ok::<_, Vec<ConfigProblem>>((config, restart))
    });
    match reloaded {
        Ok((config, restart)) => {
            for warning in &config.warnings {
                log::warn!("{warning}");
            }
            let level = config.log_level.map(|level| logging::set_filter(&level));
            if let Some(Err(error)) = level {
                log::error!(error:%; "the log level was not changed");
            }
            if restart.is_empty() {
                log::info!(file:%; "configuration reloaded");
            } else {
                let needs_restart = restart.join(", ");
                log::warn!(file:%, needs_restart; "configuration reloaded, except keys that need a restart");
            }
        }
        Err(problems) => {
            for problem in &problems {
                log::error!("{problem}");
            }
            log::error!(file:%, problems = problems.len(); "configuration rejected; the old one stays in force");
        }
    }
}

async fn serve(config: Config, path: &Path) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let manager = Manager::start(config).await?;
    log::info!("listening for agents at {}", manager.url());
    if let Some(address) = manager.legacy_address() {
        log::info!("listening for CNI plugins at http://{address}");
    }
    if let Some(address) = manager.admin_address() {
        log::info!("admin listener at http://{address}");
    }
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            received = tokio::signal::ctrl_c() => {
                received?;
                break;
            }
            _ = hangup.recv() => reload(&manager, path),
        }
    }
    log::info!("stopping");
    manager.stop().await;
    Ok(())
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
