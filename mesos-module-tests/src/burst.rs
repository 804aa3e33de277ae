//! Bursts of tasks on one agent that is killed at random moments. `soak` runs the long ones.
//!
//! Every task must end up running with an address of its own or failed with a reason, and nothing
//! may be left over. The seed, which is printed, decides every random choice.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::testbed::framework::TaskSpec;
use anyhow::{Result, ensure};
use serde_json::json;

use crate::testbed::agent::{Agent, BLUE};
use crate::testbed::random::Random;

/// How much to do.
#[derive(Clone, Copy, Debug)]
pub struct Burst {
    /// Tasks, launched in bursts between the kills.
    pub tasks: usize,
    /// How often master and agent are killed.
    pub kills: usize,
    /// Decides everything that is random.
    pub seed: u64,
}

/// The seed of this run: `CONTRAIL_TEST_SEED`, or the clock's.
#[must_use]
pub fn seed() -> u64 {
    let given = std::env::var("CONTRAIL_TEST_SEED").ok();
    given.and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(1, |now| u64::from(now.subsec_nanos()) + now.as_secs())
    })
}

/// Runs one.
pub fn run(burst: &Burst) -> Result<()> {
    println!("{burst:?} (CONTRAIL_TEST_SEED={} repeats it)", burst.seed);
    let mut random = Random::new(burst.seed);
    let mut agent = Agent::start(&BLUE.replace("10.32.0.0/24", "10.32.0.0/20"))?;
    let bursts = burst.kills + 1;
    let each = burst.tasks.div_ceil(bursts);
    let mut launched = 0;
    for round in 0..bursts {
        for _ in 0..each.min(burst.tasks - launched) {
            agent.launch(task(launched))?;
            launched += 1;
        }
        if round < burst.kills {
            let moment = Duration::from_millis(random.below(700));
            println!("kill {round} after {moment:?}");
            std::thread::sleep(moment);
            agent.crash()?;
        }
    }
    let mut owners: BTreeMap<IpAddr, String> = BTreeMap::new();
    let mut running = Vec::new();
    for index in 0..launched {
        let id = format!("t{index}");
        let seen = agent.settled(&id)?;
        if seen.state.is_terminal() {
            ensure!(
                seen.reason.is_some() || !seen.message.is_empty(),
                "{id} failed without a reason: {seen}"
            );
            continue;
        }
        for address in seen.addresses() {
            let other = owners.insert(address, id.clone());
            ensure!(other.is_none(), "{address} is {id}'s and {other:?}'s");
        }
        running.push(id);
    }
    println!(
        "{} of {launched} run, the others were lost with the agent",
        running.len()
    );
    ensure!(
        burst.kills > 0 || running.len() == launched,
        "only {} run",
        running.len()
    );
    for id in &running {
        // All at once: the detaches overlap.
        agent.host().block_on(agent.framework.kill(id))?;
    }
    for id in &running {
        agent.ended(id)?;
    }
    agent.end()
}

fn task(index: usize) -> TaskSpec {
    let id = format!("t{index}");
    let port = 31_000 + u16::try_from(index % 1000).unwrap_or(0);
    if index.is_multiple_of(4) {
        TaskSpec::new(&id, "sleep 1000")
            .ports(&[port])
            .network_info(json!({
                "name": "blue",
                "port_mappings": [{ "host_port": port, "container_port": 80 }],
            }))
    } else {
        TaskSpec::new(&id, "sleep 1000").network("blue")
    }
}
