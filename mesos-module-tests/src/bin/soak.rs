//! `make soak`: the long runs of what `make test` runs a short cut of.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use mesos_module_tests::burst::{self, Burst};
use mesos_module_tests::chaos::{self, Chaos};

/// Run the long tests; all of them, unless one is named
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Subcommand)]
enum What {
    /// Bursts of tasks on one agent that is killed at random moments
    Bursts(Bursts),
    /// Managers and all that they depend on killed, paused or cut off
    Chaos(ChaosRun),
}

#[derive(clap::Args)]
struct Bursts {
    /// Rounds, each with a seed of its own
    #[arg(long, default_value_t = 10)]
    rounds: u64,
    /// Tasks a round
    #[arg(long, default_value_t = 200)]
    tasks: usize,
    /// Kills of the agent a round
    #[arg(long, default_value_t = 5)]
    kills: usize,
    /// The first round's seed; the next ones follow
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(clap::Args)]
struct ChaosRun {
    /// Rounds, each with a seed of its own
    #[arg(long, default_value_t = 200)]
    rounds: u64,
    /// The first round's seed; the next ones follow
    #[arg(long)]
    seed: Option<u64>,
    /// Begin with rounds that have every fault there is
    #[arg(long)]
    covering: bool,
}

fn main() -> ExitCode {
    env_logger::init();
    let arguments = Arguments::parse();
    let done = match &arguments.what {
        Some(What::Bursts(bursts)) => run_bursts(bursts),
        Some(What::Chaos(rounds)) => run_chaos(rounds),
        None => run_bursts(&Bursts {
            rounds: 10,
            tasks: 200,
            kills: 5,
            seed: None,
        })
        .and_then(|()| {
            run_chaos(&ChaosRun {
                rounds: 200,
                seed: None,
                covering: true,
            })
        }),
    };
    match done {
        Ok(()) => {
            println!("soak: ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_bursts(arguments: &Bursts) -> Result<()> {
    let seed = arguments.seed.unwrap_or_else(burst::seed);
    for round in 0..arguments.rounds {
        println!("==> round {} of {}", round + 1, arguments.rounds);
        burst::run(&Burst {
            tasks: arguments.tasks,
            kills: arguments.kills,
            seed: seed.wrapping_add(round),
        })?;
    }
    Ok(())
}

fn run_chaos(arguments: &ChaosRun) -> Result<()> {
    chaos::run(&Chaos {
        covering: arguments.covering,
        rounds: arguments.rounds,
        seed: arguments.seed.unwrap_or_else(burst::seed),
    })
}
