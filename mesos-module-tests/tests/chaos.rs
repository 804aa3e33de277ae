//! A few rounds of `soak chaos`.

use anyhow::Result;
use mesos_module_tests::burst;
use mesos_module_tests::chaos::{self, Chaos};

#[test]
fn cluster_recovers_from_every_fault() -> Result<()> {
    chaos::run(&Chaos {
        covering: true,
        rounds: 0,
        seed: 1,
    })
}

#[test]
fn cluster_recovers_from_random_faults() -> Result<()> {
    chaos::run(&Chaos {
        covering: false,
        rounds: 2,
        seed: burst::seed(),
    })
}

#[test]
fn overlays_recover_from_random_faults() -> Result<()> {
    chaos::overlay::run(&Chaos {
        covering: false,
        rounds: 2,
        seed: burst::seed(),
    })
}
