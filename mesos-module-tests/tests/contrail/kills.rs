//! Manager and agent are killed at every API call of a container's life.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use contrail_mesos_sim::vnc::{Effect, Fault};
use mesos_module_tests::testbed::agent::WAIT_TIMEOUT;

use crate::fixture::{Fixture, blue};

/// The process that is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Manager,
    Agent,
}

/// Delays each API call of a create or a delete in turn, and kills the victim during that call.
fn kill_at_each_call(victim: Victim, deletes: bool) -> Result<()> {
    let mut fixture = Fixture::start()?;
    fixture.agent.run(blue("warm"))?;
    fixture.agent.kill("warm")?;
    fixture.expect_nothing()?;
    let mut call = 0;
    loop {
        let id = format!("t{call}");
        if deletes {
            fixture.agent.run(blue(&id))?;
        }
        let before = fixture.contrail.api().log().len();
        let fault = Fault::new(Effect::Delay(Duration::from_millis(400))).times(call, 1);
        fixture.contrail.api().fault(fault);
        if deletes {
            let kill = fixture.agent.framework.kill(&id);
            fixture.agent.host().block_on(kill)?;
        } else {
            fixture.agent.launch(blue(&id))?;
        }
        let reached = reached(&fixture, before + usize::try_from(call)? + 1, &id, deletes)?;
        match victim {
            Victim::Manager => {
                let manager = fixture.contrail.manager_mut();
                manager.kill()?;
                manager.start()?;
                manager.wait_until_leading()?;
            }
            Victim::Agent => fixture.agent.crash()?,
        }
        fixture.contrail.api().clear_faults();
        if deletes {
            fixture.agent.ended(&id)?;
        } else {
            let update = fixture.agent.settled(&id)?;
            if !update.state.is_terminal() {
                fixture.agent.kill(&id)?;
            }
        }
        fixture.expect_nothing()?;
        if !reached {
            break;
        }
        call += 1;
    }
    ensure!(call >= 4, "only {call} calls were there to be killed in");
    fixture.end()
}

/// Waits until the API server has received `calls` calls. False if the step ends with fewer.
fn reached(fixture: &Fixture, calls: usize, id: &str, deletes: bool) -> Result<bool> {
    let started = Instant::now();
    loop {
        if fixture.contrail.api().log().len() >= calls {
            return Ok(true);
        }
        let over = if deletes {
            fixture.contrail.api().objects("virtual-machine").is_empty()
        } else {
            let updates = fixture.agent.framework.history(id);
            updates
                .last()
                .is_some_and(|update| !update.addresses().is_empty() || update.state.is_terminal())
        };
        if over {
            return Ok(false);
        }
        ensure!(
            started.elapsed() < WAIT_TIMEOUT,
            "{id} neither comes nor goes"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn manager_killed_at_each_call_of_a_create_leaves_nothing() -> Result<()> {
    kill_at_each_call(Victim::Manager, false)
}

#[test]
fn manager_killed_at_each_call_of_a_delete_leaves_nothing() -> Result<()> {
    kill_at_each_call(Victim::Manager, true)
}

#[test]
fn agent_killed_at_each_call_of_a_create_leaves_nothing() -> Result<()> {
    kill_at_each_call(Victim::Agent, false)
}

#[test]
fn agent_killed_at_each_call_of_a_delete_leaves_nothing() -> Result<()> {
    kill_at_each_call(Victim::Agent, true)
}
