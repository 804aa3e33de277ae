//! `make soak`: the long runs of what `make test` runs a short cut of.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use mesos_module_tests::burst::{self, Burst};

/// Run the long tests
#[derive(Parser)]
struct Arguments {
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

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
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

fn run(arguments: &Arguments) -> Result<()> {
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
