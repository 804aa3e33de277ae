//! Manager and agent killed at every call of a container's life.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use contrail_mesos_sim::vnc::{Effect, Fault};
use mesos_module_tests::agent::PATIENCE;

use crate::bed::{Bed, blue};

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Manager,
    Agent,
}

/// The calls of a create or a delete, each in turn, are made slow enough to be killed in.
fn walk(victim: Victim, deletes: bool) -> Result<()> {
    let mut bed = Bed::start()?;
    bed.agent.run(blue("warm"))?;
    bed.agent.kill("warm")?;
    bed.expect_nothing()?;
    let mut call = 0;
    loop {
        let id = format!("t{call}");
        if deletes {
            bed.agent.run(blue(&id))?;
        }
        let before = bed.contrail.api().log().len();
        let fault = Fault::new(Effect::Delay(Duration::from_millis(400))).times(call, 1);
        bed.contrail.api().fault(fault);
        if deletes {
            let kill = bed.agent.framework.kill(&id);
            bed.agent.host().block_on(kill)?;
        } else {
            bed.agent.launch(blue(&id))?;
        }
        let reached = reached(&bed, before + usize::try_from(call)? + 1, &id, deletes)?;
        match victim {
            Victim::Manager => {
                bed.contrail.kill_manager()?;
                bed.contrail.start_manager()?;
            }
            Victim::Agent => bed.agent.crash()?,
        }
        bed.contrail.api().clear_faults();
        if deletes {
            bed.agent.ended(&id)?;
        } else {
            let update = bed.agent.settled(&id)?;
            if !update.state.is_terminal() {
                bed.agent.kill(&id)?;
            }
        }
        bed.expect_nothing()?;
        if !reached {
            break;
        }
        call += 1;
    }
    ensure!(call >= 4, "only {call} calls were there to be killed in");
    bed.end()
}

/// Waits until the API server has got so many calls, or the container's step is over without.
fn reached(bed: &Bed, calls: usize, id: &str, deletes: bool) -> Result<bool> {
    let started = Instant::now();
    loop {
        if bed.contrail.api().log().len() >= calls {
            return Ok(true);
        }
        let over = if deletes {
            bed.contrail.api().objects("virtual-machine").is_empty()
        } else {
            let updates = bed.agent.framework.history(id);
            updates
                .last()
                .is_some_and(|update| !update.addresses().is_empty() || update.state.is_terminal())
        };
        if over {
            return Ok(false);
        }
        ensure!(started.elapsed() < PATIENCE, "{id} neither comes nor goes");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_manager_is_killed_at_each_call_of_a_create() -> Result<()> {
    walk(Victim::Manager, false)
}

#[test]
fn the_manager_is_killed_at_each_call_of_a_delete() -> Result<()> {
    walk(Victim::Manager, true)
}

#[test]
fn the_agent_is_killed_at_each_call_of_a_create() -> Result<()> {
    walk(Victim::Agent, false)
}

#[test]
fn the_agent_is_killed_at_each_call_of_a_delete() -> Result<()> {
    walk(Victim::Agent, true)
}
