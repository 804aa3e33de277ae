//! `contrail-mesos-manager`: owns the objects of containers in Contrail, and answers the agents.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use contrail_mesos::manager::logging::{self, LogFormat};
use contrail_mesos::manager::{Config, DEFAULT_PATH, Manager};
use tokio::signal::unix::{SignalKind, signal};

/// Makes the objects of containers in the Contrail VNC API, for the agents that ask.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration
    #[arg(long, default_value = DEFAULT_PATH, value_name = "FILE")]
    config: PathBuf,
    /// Say everything that is wrong with the configuration, and end
    #[arg(long)]
    check: bool,
    /// How a line of the log looks
    #[arg(long, value_enum, default_value_t = Format::Text, value_name = "FORMAT")]
    log_format: Format,
    /// What is logged at first; see PUT /log-level of the admin listener
    #[arg(long, env = "RUST_LOG", default_value = "info", value_name = "FILTER")]
    log_level: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("contrail-mesos-manager: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
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
    tokio::runtime::Runtime::new()
        .context("cannot start the runtime")?
        .block_on(serve(config))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(config: Config) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let manager = Manager::start(config).await?;
    log::info!("agents ask at {}", manager.url());
    if let Some(address) = manager.legacy_address() {
        log::info!("CNI plugins ask at http://{address}");
    }
    if let Some(address) = manager.admin_address() {
        log::info!("operators ask at http://{address}");
    }
    tokio::select! {
        _ = terminate.recv() => {}
        done = tokio::signal::ctrl_c() => done?,
    }
    log::info!("stopping");
    manager.stop().await;
    Ok(())
}
