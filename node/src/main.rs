//! `contrail-mesos-node`: the node daemon beside each mesos-agent.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use contrail_mesos::config::{Config, ConfigProblem, DEFAULT_PATH, Source};
use contrail_mesos_api::config_reader::{read_file, secret_file_warning};
use contrail_mesos_api::log_line;
use contrail_mesos_api::text::{Escaped, hex, with_causes};
use contrail_mesos_node::daemon::{self, Daemon};
use contrail_mesos_node::engine;
use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{SignalKind, signal};

/// The exit code of a dry run that found differences.
const EXIT_DIFFERS: u8 = 2;
/// How much of the hash of the configuration is reported, in characters.
const HASH_CHARS: usize = 16;

/// Keeps the overlay networks of this host, whatever the mesos-agent does
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Configuration file of the agent
    #[arg(long, global = true, default_value = DEFAULT_PATH, value_name = "FILE")]
    config: PathBuf,
    /// Print what would be changed now, change nothing, and exit with status 0 if there are no
    /// differences, 2 if there are, and 1 on errors
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
enum Command {
    /// Run until SIGTERM (the default)
    Run,
    /// Report every problem in the configuration, and exit
    Check,
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"))
        .format(|out, record| {
            let time = out.timestamp();
            log_line::write(out, time, record)
        })
        .init();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // If printing fails, the exit code still reports the error.
            let _ = error.print();
            // Not 2, the usual code for usage errors: it means that a dry run found differences.
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    match run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("contrail-mesos-node: {}", with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<ExitCode> {
    let path = &arguments.config;
    let read = Source::file(path).read();
    let config = match &read.config {
        Ok(config) => config,
        Err(error) => {
            for problem in &error.problems {
                eprintln!("{problem}");
            }
            if error.omitted > 0 {
                eprintln!("and {} more", error.omitted);
            }
            return Ok(ExitCode::FAILURE);
        }
    };
    let key = config
        .node
        .tls
        .identity
        .as_ref()
        .map(|identity| &identity.key);
    let secrets = [
        ("node.token_file", config.node.token_file.as_ref()),
        ("node.key_file", key),
    ];
    let secret_warnings = secrets.into_iter().filter_map(|(key, path)| {
        let warning = secret_file_warning(path?)?;
        Some(read.problem(key, warning))
    });
    let is_own = |warning: &&ConfigProblem| warning.key.starts_with("node.");
    let own_warnings = read.warnings.iter().filter(is_own).cloned();
    let is_check = arguments.command == Some(Command::Check);
    for warning in own_warnings.chain(secret_warnings) {
        if is_check {
            eprintln!("warning: {warning}");
        } else {
            log::warn!("{warning}");
        }
    }
    if is_check {
        config.node.cluster_client()?;
        println!("{}: valid", path.display());
        return Ok(ExitCode::SUCCESS);
    }
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the daemon needs root, to read and write the kernel's network configuration"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    if arguments.dry_run {
        let state = runtime.block_on(daemon::state_now(config))?;
        return dry_run(config, &state);
    }
    let served = runtime.block_on(serve(config, path));
    // Whatever still waits for a peer does not matter any more.
    runtime.shutdown_background();
    served
}

fn dry_run(
    config: &Config,
    state: &contrail_mesos_node::cluster_state::ClusterState,
) -> Result<ExitCode> {
    use std::io::Write as _;

    let outcomes = engine::dry_run(&mut daemon::subsystems(config)?, state);
    let mut out = std::io::stdout().lock();
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
    writeln!(
        out,
        "{changes} to change, {failures} problems, at revision {}",
        state.revision
    )?;
    Ok(match (failures, changes) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(EXIT_DIFFERS),
        _ => ExitCode::FAILURE,
    })
}

async fn serve(config: &Config, path: &Path) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let hash = read_file(path).map_or_else(
        |_| String::new(),
        |text| hex(&Sha256::digest(text))[..HASH_CHARS].to_owned(),
    );
    let mut daemon = Daemon::start(config, hash, daemon::subsystems(config)?).await?;
    let name = &config.node.name;
    let socket = config.node.socket.display();
    log::info!(node = name, socket:%; "running");
    if let Some(address) = daemon.listen() {
        log::info!("API at http://{address}");
    }
    let failure = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        failure = daemon.failed() => Some(failure),
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
