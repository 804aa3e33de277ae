//! `contrail-mesos-manager`: owns the objects of containers in Contrail, and answers the agents.

mod import;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use contrail_mesos_api::config_reader::ConfigProblem;
use contrail_mesos_manager::logging::{self, LogFormat};
use contrail_mesos_manager::{Config, DEFAULT_PATH, DryRun, Manager, dry_run};
use tikv_jemallocator::Jemalloc;
use tokio::signal::unix::{SignalKind, signal};

/// Every few minutes a manager reads all there is: glibc's keeps what that took.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// What a dry run ends with that has found something to write.
const DIFFERS: u8 = 2;

/// Makes the objects of containers in the Contrail VNC API, for the agents that ask.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// The configuration
    #[arg(long, default_value = DEFAULT_PATH, value_name = "FILE")]
    config: PathBuf,
    /// Say everything that is wrong with the configuration, and end
    #[arg(long)]
    check: bool,
    /// Say what a manager that starts now would write, write nothing, and end: 0 if there is
    /// nothing, 2 if there is something, 1 if it cannot be told
    #[arg(long, conflicts_with = "check")]
    dry_run: bool,
    /// How the dry run says it
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT", requires = "dry_run")]
    output: Format,
    /// How a line of the log looks
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    log_format: Format,
    /// What is logged, unless the configuration says otherwise; see also PUT
    /// /log-level of the admin listener
    #[arg(long, env = "RUST_LOG", default_value = "info", value_name = "FILTER")]
    log_level: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    Import(import::Import),
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Where it cannot even be printed, the status says it.
            let _ = error.print();
            // 2, the usual one, says something else here.
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("contrail-mesos-manager: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(Command::Import(import)) = &arguments.command {
        import.run()?;
        return Ok(ExitCode::SUCCESS);
    }
    let format = match arguments.log_format {
        Format::Text => LogFormat::Text,
        Format::Json => LogFormat::Json,
    };
    logging::init(format, &arguments.log_level)?;
    let config = match Config::load(&arguments.config) {
        Ok(config) => config,
        Err(error) => {
            for problem in &error.problems {
                eprintln!("{problem}");
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    if arguments.check {
        Manager::check(&config)?;
        println!("{}: all right", arguments.config.display());
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = tokio::runtime::Runtime::new().context("cannot start the runtime")?;
    if arguments.dry_run {
        let told = runtime.block_on(dry_run(&config))?;
        print(&told, arguments.output)?;
        return Ok(ExitCode::from(if told.differs() { DIFFERS } else { 0 }));
    }
    if let Some(level) = &config.log_level {
        logging::set_filter(level)?;
    }
    runtime.block_on(serve(config, &arguments.config))?;
    Ok(ExitCode::SUCCESS)
}

fn print(told: &DryRun, output: Format) -> Result<()> {
    let mut out = std::io::stdout().lock();
    if matches!(output, Format::Json) {
        serde_json::to_writer_pretty(&mut out, told)?;
        writeln!(out)?;
        return Ok(());
    }
    for what in &told.provision {
        writeln!(out, "{what}")?;
    }
    for one in &told.containers {
        writeln!(out, "{one}")?;
    }
    let [now, later, doubt] = told.counts();
    if told.followed {
        writeln!(
            out,
            "{} to provision; of containers {now} to change now, {later} later, {doubt} in doubt",
            told.provision.len()
        )?;
    } else {
        writeln!(
            out,
            "{} to provision; containers are not looked at without a table [mesos]",
            told.provision.len()
        )?;
    }
    Ok(())
}

/// Reads the configuration again, with the files that it names, and says what came of it.
fn reload(manager: &Manager, path: &Path) {
    let file = path.display();
    // Some small files: nobody waits for long.
    let taken = tokio::task::block_in_place(|| {
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
    match taken {
        Ok((config, restart)) => {
            let level = config.log_level.map(|level| logging::set_filter(&level));
            if let Some(Err(error)) = level {
                log::error!(error:%; "the log level stays");
            }
            if restart.is_empty() {
                log::info!(file:%; "configuration reloaded");
            } else {
                let restart = restart.join(", ");
                log::warn!(file:%, restart; "configuration reloaded, but for what needs a restart");
            }
        }
        Err(problems) => {
            for problem in &problems {
                log::error!("{problem}");
            }
            log::error!(file:%, problems = problems.len(); "configuration refused, the old one stays");
        }
    }
}

async fn serve(config: Config, path: &Path) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let manager = Manager::start(config).await?;
    log::info!("agents ask at {}", manager.url());
    if let Some(address) = manager.legacy_address() {
        log::info!("CNI plugins ask at http://{address}");
    }
    if let Some(address) = manager.admin_address() {
        log::info!("operators ask at http://{address}");
    }
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            done = tokio::signal::ctrl_c() => {
                done?;
                break;
            }
            _ = hangup.recv() => reload(&manager, path),
        }
    }
    log::info!("stopping");
    manager.stop().await;
    Ok(())
}
