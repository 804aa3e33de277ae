//! `contrail-mesos-manager`: manages the objects of containers in Contrail for the agents.

mod import;
mod overlay_command;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use contrail_mesos_api::config_reader::ConfigProblem;
use contrail_mesos_api::program;
use contrail_mesos_manager::logging::{self, LogFormat};
use contrail_mesos_manager::{Config, DEFAULT_PATH, DryRun, Manager, dry_run};
use tikv_jemallocator::Jemalloc;
use tokio::signal::unix::{SignalKind, signal};

/// Returns the memory of a full listing to the system, unlike the allocator of glibc.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// The exit code of a dry run that found differences.
const EXIT_DIFFERS: u8 = 2;

/// Manages the objects of Mesos containers in the Contrail VNC API
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Configuration file
    #[arg(long, default_value = DEFAULT_PATH, value_name = "FILE")]
    config: PathBuf,
    /// Report every problem in the configuration, and exit
    #[arg(long)]
    check: bool,
    /// Print what this manager would write now, write nothing, and exit with status 0 if there are no
    /// differences, 2 if there are, and 1 on errors
    #[arg(long, conflicts_with = "check")]
    dry_run: bool,
    /// Output format of the dry run
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT", requires = "dry_run")]
    output: Format,
    /// Format of the log
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    log_format: Format,
    /// Log filter, such as info or warn,hyper=debug; the configuration overrides it, and PUT
    /// /log-level changes it at run time
    #[arg(long, env = "RUST_LOG", default_value = "info", value_name = "FILTER")]
    log_level: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    Import(import::Import),
    Overlay(overlay_command::Overlay),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Text
    Text,
    /// JSON
    Json,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // If printing fails, the exit code still reports the error.
            let _ = error.print();
            // Not 2, the usual code for usage errors: it means that a dry run found differences.
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    program::exit_code("contrail-mesos-manager", run(&arguments))
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    match &arguments.command {
        Some(Command::Import(import)) => {
            import.run()?;
            return Ok(ExitCode::SUCCESS);
        }
        Some(Command::Overlay(overlay)) => return Ok(overlay.run()),
        None => {}
    }
    let format = match arguments.log_format {
        Format::Text => LogFormat::Text,
        Format::Json => LogFormat::Json,
    };
    logging::init(format, &arguments.log_level)?;
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            program::print_problems(&error.problems, error.omitted);
            return Ok(ExitCode::FAILURE);
        }
    };
    for warning in &config.warnings {
        if arguments.check {
            eprintln!("warning: {warning}");
        } else {
            log::warn!("{warning}");
        }
    }
    if arguments.check {
        Manager::check(&config)?;
        println!("{}: valid", arguments.config.display());
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    if arguments.dry_run {
        let result = runtime.block_on(dry_run(&config))?;
        print(&result, arguments.output)?;
        return Ok(ExitCode::from(if result.differs() {
            EXIT_DIFFERS
        } else {
            0
        }));
    }
    if let Some(level) = &config.log_level {
        logging::set_filter(level)?;
    }
    program::raise_open_files_limit();
    let served = runtime.block_on(serve(config, &arguments.config));
    // Whatever is still being decoded does not matter any more.
    runtime.shutdown_background();
    served?;
    Ok(ExitCode::SUCCESS)
}

fn print(result: &DryRun, output: Format) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if matches!(output, Format::Json) {
        serde_json::to_writer_pretty(&mut out, result)?;
        writeln!(out)?;
        return Ok(());
    }
    for change in &result.provision {
        writeln!(out, "{change}")?;
    }
    for container in &result.containers {
        writeln!(out, "{container}")?;
    }
    let [now, later, deferred] = result.counts();
    if result.followed {
        writeln!(
            out,
            "{} to provision; containers: {now} to change now, {later} later, {deferred} deferred",
            result.provision.len()
        )?;
    } else {
        writeln!(
            out,
            "{} to provision; containers are not compared without a table [mesos]",
            result.provision.len()
        )?;
    }
    Ok(())
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
