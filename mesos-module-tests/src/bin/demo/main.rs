//! `make demo`: the main use cases end to end on real Mesos 1.11.0 clusters, with every step
//! checked. Everything runs on simulated hosts: the machine's own network is not touched.

mod bridge;
mod contrail;
mod manager;
mod marathon;
mod overlay;
mod services;
mod show;
mod star;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};

/// Run the module in real Mesos 1.11.0 clusters and show what it does
#[derive(Parser)]
struct Arguments {
    /// The parts to run
    #[arg(value_enum, default_values_t = [Act::Bridge, Act::Contrail, Act::Manager, Act::Overlay, Act::Star, Act::Services])]
    acts: Vec<Act>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Act {
    /// One host with the bridge provider
    Bridge,
    /// Two hosts with Contrail networks
    Contrail,
    /// Managers that adopt running containers, reconcile Contrail and take over from each other
    Manager,
    /// Three hosts with overlay networks, without Contrail
    Overlay,
    /// The Star demonstration: groups that are isolated across three hosts
    Star,
    /// Services on three hosts: virtual IPs, names, health checks, and a load balancer
    Services,
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("error")).init();
    match run(&Arguments::parse()) {
        Ok(()) => {
            println!("\ndemo: ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\ndemo: FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    for act in &arguments.acts {
        match act {
            Act::Bridge => bridge::run().context("act 1, the bridge")?,
            Act::Contrail => contrail::run().context("act 2, Contrail")?,
            Act::Manager => manager::run().context("act 3, the managers")?,
            Act::Overlay => overlay::run().context("act 4, overlays")?,
            Act::Star => star::run().context("act 5, groups")?,
            Act::Services => services::run().context("act 6, services")?,
        }
    }
    Ok(())
}
