//! API server and vRouter agent that are slow, fail at each call in turn, send invalid responses or
//! are away: a task runs or fails with a reason, and afterwards no object is missing or left over.

use std::time::Duration;

use anyhow::{Result, ensure};
use contrail_mesos_sim::vnc::{Effect, Fault};

use crate::fixture::{Fixture, address_in, blue};

/// The failures of a server.
fn effects() -> [Effect; 5] {
    [
        Effect::Status(503, "the database is away".to_owned()),
        Effect::Status(500, "KeyError".to_owned()),
        Effect::InvalidBody("<html>".to_owned()),
        Effect::Cut,
        Effect::Delay(Duration::from_millis(300)),
    ]
}

/// How long a server is away: `CONTRAIL_TEST_AWAY` seconds, or `short`.
fn away(short: u64) -> Duration {
    let given = std::env::var("CONTRAIL_TEST_AWAY").ok();
    Duration::from_secs(given.and_then(|text| text.parse().ok()).unwrap_or(short))
}

/// Runs and kills a task during a fault. It must have an address, or fail with a reason.
fn run_and_kill(fixture: &Fixture, id: &str) -> Result<()> {
    fixture.agent.launch(blue(id))?;
    let update = fixture.agent.settled(id)?;
    if update.state.is_terminal() {
        ensure!(!update.message.is_empty(), "{id} failed without a reason");
    } else {
        address_in(&update, "5.5.5.")?;
        fixture.agent.kill(id)?;
    }
    Ok(())
}

#[test]
fn api_server_failing_at_each_call_leaves_nothing() -> Result<()> {
    let fixture = Fixture::start()?;
    // The number of API calls of a container, when all names are cached.
    run_and_kill(&fixture, "warm")?;
    fixture.expect_nothing()?;
    let calls = count(&fixture, || run_and_kill(&fixture, "counted"))?;
    fixture.expect_nothing()?;
    ensure!(calls >= 9, "{calls} calls of a container's life");
    for (kind, effect) in effects().into_iter().enumerate() {
        for call in 0..calls {
            let fault = Fault::new(effect.clone()).times(call, 1);
            // Every second failed request is carried out; the client cannot tell.
            let fault = if call % 2 == 0 {
                fault.performed()
            } else {
                fault
            };
            fixture.contrail.api().fault(fault);
            let id = format!("t{kind}-{call}");
            run_and_kill(&fixture, &id)?;
            fixture.contrail.api().clear_faults();
            fixture.expect_nothing()?;
        }
    }
    fixture.end()
}

fn count(fixture: &Fixture, work: impl FnOnce() -> Result<()>) -> Result<u64> {
    let before = fixture.contrail.api().log().len();
    work()?;
    fixture.expect_nothing()?;
    Ok(u64::try_from(fixture.contrail.api().log().len() - before)?)
}

#[test]
fn api_server_slow_invalid_or_away_leaves_nothing() -> Result<()> {
    let fixture = Fixture::start()?;
    fixture.contrail.api().set_delay(Duration::from_millis(200));
    run_and_kill(&fixture, "slow")?;
    fixture.contrail.api().set_delay(Duration::ZERO);
    fixture.expect_nothing()?;
    for (id, effect) in [
        ("nonsense", Effect::InvalidBody("{}".to_owned())),
        (
            "refused",
            Effect::Status(403, "Permission Denied".to_owned()),
        ),
    ] {
        fixture.contrail.api().fault(Fault::new(effect));
        let message = fixture.agent.refused(blue(id))?;
        ensure!(!message.is_empty(), "{id} failed without a reason");
        fixture.contrail.api().clear_faults();
        fixture.expect_nothing()?;
    }
    // Away while one container starts and another ends.
    fixture.agent.run(blue("stays"))?;
    fixture.contrail.api().unplug();
    fixture.agent.launch(blue("waits"))?;
    fixture.agent.kill("stays")?;
    std::thread::sleep(away(5));
    fixture
        .agent
        .host()
        .block_on(fixture.contrail.api().plug())?;
    let update = fixture.agent.settled("waits")?;
    if !update.state.is_terminal() {
        fixture.agent.kill("waits")?;
    }
    fixture.expect_nothing()?;
    fixture.end()
}

#[test]
fn vrouter_agent_failing_at_each_call_leaves_nothing() -> Result<()> {
    let fixture = Fixture::start()?;
    let before = fixture.vrouter.handle.log().len();
    run_and_kill(&fixture, "counted")?;
    fixture.expect_nothing()?;
    let calls = u64::try_from(fixture.vrouter.handle.log().len() - before)?;
    for (kind, effect) in effects().into_iter().enumerate() {
        for call in 0..calls.min(6) {
            fixture
                .vrouter
                .handle
                .fault(Fault::new(effect.clone()).times(call, 1));
            run_and_kill(&fixture, &format!("t{kind}-{call}"))?;
            fixture.vrouter.handle.clear_faults();
            fixture.expect_nothing()?;
        }
    }
    fixture.end()
}

#[test]
fn vrouter_agent_away_delays_containers_and_leaves_nothing() -> Result<()> {
    let fixture = Fixture::start()?;
    fixture.agent.run(blue("goes"))?;
    fixture.vrouter.handle.unplug();
    fixture.agent.launch(blue("comes"))?;
    fixture.agent.kill("goes")?;
    std::thread::sleep(away(3));
    fixture
        .agent
        .host()
        .block_on(fixture.vrouter.handle.plug())?;
    let update = fixture.agent.settled("comes")?;
    if !update.state.is_terminal() {
        fixture.agent.kill("comes")?;
    }
    fixture.expect_nothing()?;
    fixture.end()
}
