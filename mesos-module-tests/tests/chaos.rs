//! Everything that can be killed, paused or cut off is: a short cut of `soak chaos`.

use anyhow::Result;
use mesos_module_tests::burst;
use mesos_module_tests::chaos::{self, Chaos};

#[test]
fn all_is_well_again_after_every_fault_there_is() -> Result<()> {
    chaos::run(&Chaos {
        covering: true,
        rounds: 0,
        seed: 1,
    })
}

#[test]
fn all_is_well_again_after_faults_at_random() -> Result<()> {
    chaos::run(&Chaos {
        covering: false,
        rounds: 2,
        seed: burst::seed(),
    })
}
