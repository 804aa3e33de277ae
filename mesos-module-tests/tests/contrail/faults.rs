//! API server and vRouter agent slow, failing at each call in turn, answering nonsense, away: a
//! task then runs or fails with a reason, and afterwards nothing is too many or too few.

use std::time::Duration;

use anyhow::{Result, ensure};
use contrail_mesos_sim::vnc::{Effect, Fault};

use crate::bed::{Bed, address_in, blue};

/// What a client may see of a server in trouble.
fn effects() -> [Effect; 5] {
    [
        Effect::Status(503, "the database is away".to_owned()),
        Effect::Status(500, "KeyError".to_owned()),
        Effect::InvalidBody("<html>".to_owned()),
        Effect::Cut,
        Effect::Delay(Duration::from_millis(300)),
    ]
}

/// How long a server is away: `CONTRAIL_TEST_AWAY` seconds, or so many.
fn away(short: u64) -> Duration {
    let given = std::env::var("CONTRAIL_TEST_AWAY").ok();
    Duration::from_secs(given.and_then(|text| text.parse().ok()).unwrap_or(short))
}

/// Runs a task while something is wrong, and ends it; it ran or failed with a reason.
fn one_life(bed: &Bed, id: &str) -> Result<()> {
    bed.agent.launch(blue(id))?;
    let update = bed.agent.settled(id)?;
    if update.state.is_terminal() {
        ensure!(!update.message.is_empty(), "{id} failed without a reason");
    } else {
        address_in(&update, "5.5.5.")?;
        bed.agent.kill(id)?;
    }
    Ok(())
}

#[test]
fn the_api_server_fails_at_each_call_in_turn() -> Result<()> {
    let bed = Bed::start()?;
    // How many calls a life needs is counted, with names that are known by then.
    one_life(&bed, "warm")?;
    bed.expect_nothing()?;
    let calls = count(&bed, || one_life(&bed, "counted"))?;
    bed.expect_nothing()?;
    ensure!(calls >= 9, "{calls} calls of a container's life");
    for (kind, effect) in effects().into_iter().enumerate() {
        for call in 0..calls {
            let fault = Fault::new(effect.clone()).times(call, 1);
            // Carried out or not, the client does not know.
            let fault = if call % 2 == 0 {
                fault.performed()
            } else {
                fault
            };
            bed.contrail.api().fault(fault);
            let id = format!("t{kind}-{call}");
            one_life(&bed, &id)?;
            bed.contrail.api().clear_faults();
            bed.expect_nothing()?;
        }
    }
    bed.end()
}

fn count(bed: &Bed, work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let before = bed.contrail.api().log().len();
    work()?;
    bed.expect_nothing()?;
    Ok(u64::try_from(bed.contrail.api().log().len() - before)?)
}

#[test]
fn the_api_server_is_slow_or_talks_nonsense_or_is_away() -> Result<()> {
    let bed = Bed::start()?;
    bed.contrail.api().set_delay(Duration::from_millis(200));
    one_life(&bed, "slow")?;
    bed.contrail.api().set_delay(Duration::ZERO);
    bed.expect_nothing()?;
    for (id, effect) in [
        ("nonsense", Effect::InvalidBody("{}".to_owned())),
        (
            "refused",
            Effect::Status(403, "Permission Denied".to_owned()),
        ),
    ] {
        bed.contrail.api().fault(Fault::new(effect));
        let message = bed.agent.refused(blue(id))?;
        ensure!(!message.is_empty(), "{id} failed without a reason");
        bed.contrail.api().clear_faults();
        bed.expect_nothing()?;
    }
    // Away when a container comes, and when one goes.
    bed.agent.run(blue("stays"))?;
    bed.contrail.api().unplug();
    bed.agent.launch(blue("waits"))?;
    bed.agent.kill("stays")?;
    std::thread::sleep(away(5));
    bed.agent.host().block_on(bed.contrail.api().plug())?;
    let update = bed.agent.settled("waits")?;
    if !update.state.is_terminal() {
        bed.agent.kill("waits")?;
    }
    bed.expect_nothing()?;
    bed.end()
}

#[test]
fn the_vrouter_agent_fails_at_each_call_in_turn() -> Result<()> {
    let bed = Bed::start()?;
    let before = bed.vrouter.handle.log().len();
    one_life(&bed, "counted")?;
    bed.expect_nothing()?;
    let calls = u64::try_from(bed.vrouter.handle.log().len() - before)?;
    for (kind, effect) in effects().into_iter().enumerate() {
        for call in 0..calls.min(6) {
            bed.vrouter
                .handle
                .fault(Fault::new(effect.clone()).times(call, 1));
            one_life(&bed, &format!("t{kind}-{call}"))?;
            bed.vrouter.handle.clear_faults();
            bed.expect_nothing()?;
        }
    }
    bed.end()
}

#[test]
fn the_vrouter_agent_is_away_when_containers_come_and_go() -> Result<()> {
    let bed = Bed::start()?;
    bed.agent.run(blue("goes"))?;
    bed.vrouter.handle.unplug();
    bed.agent.launch(blue("comes"))?;
    bed.agent.kill("goes")?;
    std::thread::sleep(away(3));
    bed.agent.host().block_on(bed.vrouter.handle.plug())?;
    let update = bed.agent.settled("comes")?;
    if !update.state.is_terminal() {
        bed.agent.kill("comes")?;
    }
    bed.expect_nothing()?;
    bed.end()
}
