//! Bursts of tasks, and an agent that is killed at random moments: a short run of `soak bursts`.

use anyhow::Result;
use mesos_module_tests::burst::{self, Burst};

#[test]
fn burst_of_tasks_gets_and_releases_addresses() -> Result<()> {
    burst::run(&Burst {
        tasks: 60,
        kills: 0,
        seed: 1,
    })
}

#[test]
fn agent_killed_during_a_burst_leaves_nothing() -> Result<()> {
    burst::run(&Burst {
        tasks: 30,
        kills: 4,
        seed: burst::seed(),
    })
}
