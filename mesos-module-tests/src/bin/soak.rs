//! `make soak`: long runs of the burst and chaos tests, of which `make test` runs a few rounds.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use mesos_module_tests::burst::{self, Burst};
use mesos_module_tests::changed_host;
use mesos_module_tests::chaos::{self, Chaos};

/// Run the long tests: all of them, unless one is named
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    test: Option<LongTest>,
}

#[derive(Subcommand)]
enum LongTest {
    /// Bursts of tasks on one agent that is killed at random moments
    Bursts(Bursts),
    /// Every part of a cluster killed, paused or disconnected at random moments
    Chaos(ChaosRun),
    /// The host's side of containers changed by another program, once a second
    ChangedHost(ChangedHostRun),
}

#[derive(clap::Args)]
struct ChangedHostRun {
    /// Changes, of about a second each
    #[arg(long, default_value_t = 60)]
    rounds: usize,
}

#[derive(clap::Args)]
struct Bursts {
    /// Rounds, each with its own seed
    #[arg(long, default_value_t = 10)]
    rounds: u64,
    /// Tasks per round
    #[arg(long, default_value_t = 200)]
    tasks: usize,
    /// Kills of the agent per round
    #[arg(long, default_value_t = 5)]
    kills: usize,
    /// Seed of the first round; each next round adds one
    #[arg(long)]
    seed: Option<u64>,
}

/// The cluster that faults happen to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Testbed {
    /// Managers with Contrail and Marathon, one agent
    Contrail,
    /// Managers with overlay networks, three agents with node daemons
    Overlay,
}

#[derive(clap::Args)]
struct ChaosRun {
    /// The cluster
    #[arg(long, value_enum, default_value_t = Testbed::Contrail)]
    testbed: Testbed,
    /// Rounds, each with its own seed
    #[arg(long, default_value_t = 200)]
    rounds: u64,
    /// Seed of the first round; each next round adds one
    #[arg(long)]
    seed: Option<u64>,
    /// Run rounds that cover every fault first
    #[arg(long)]
    covering: bool,
}

fn main() -> ExitCode {
    env_logger::init();
    let arguments = Arguments::parse();
    let result = match &arguments.test {
        Some(LongTest::Bursts(bursts)) => run_bursts(bursts),
        Some(LongTest::Chaos(rounds)) => run_chaos(rounds),
        Some(LongTest::ChangedHost(changes)) => changed_host::run(changes.rounds),
        None => run_bursts(&Bursts {
            rounds: 10,
            tasks: 200,
            kills: 5,
            seed: None,
        })
        .and_then(|()| changed_host::run(60))
        .and_then(|()| {
            [Testbed::Contrail, Testbed::Overlay]
                .into_iter()
                .try_for_each(|testbed| {
                    run_chaos(&ChaosRun {
                        testbed,
                        rounds: 200,
                        seed: None,
                        covering: true,
                    })
                })
        }),
    };
    match result {
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
    let chaos = Chaos {
        covering: arguments.covering,
        rounds: arguments.rounds,
        seed: arguments.seed.unwrap_or_else(burst::seed),
    };
    match arguments.testbed {
        Testbed::Contrail => chaos::run(&chaos),
        Testbed::Overlay => chaos::overlay::run(&chaos),
    }
}
