//! Bursts of tasks, and an agent that is killed at random moments: a short cut of `soak`.

use anyhow::Result;
use mesos_module_tests::burst::{self, Burst};

#[test]
fn a_burst_of_tasks_gets_addresses_and_gives_them_back() -> Result<()> {
    burst::run(&Burst {
        tasks: 60,
        kills: 0,
        seed: 1,
    })
}

#[test]
fn an_agent_killed_at_random_moments_of_a_burst_loses_nothing() -> Result<()> {
    burst::run(&Burst {
        tasks: 30,
        kills: 4,
        seed: burst::seed(),
    })
}
