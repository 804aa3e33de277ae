//! Tests of the testbed itself: under load, and when the test that uses it is killed.

use std::env;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::framework::{Framework, TaskSpec, TaskState};
use mesos_module_tests::testbed::{Cluster, Host, leftovers};

const TIMEOUT: Duration = Duration::from_mins(2);
/// Set in the environment of the process that is killed.
const VICTIM: &str = "CONTRAIL_TEST_VICTIM";

fn running(tasks: usize) -> Result<(Host, Cluster, Framework)> {
    let host = Host::start("192.0.2.1".parse()?)?;
    let cluster = Cluster::on(&host).start()?;
    let framework = host.block_on(Framework::connect(cluster.master()))?;
    let names: Vec<_> = (0..tasks).map(|number| format!("task-{number}")).collect();
    host.block_on(async {
        let launches = names
            .iter()
            .map(|name| framework.launch(TaskSpec::new(name, "sleep 1000")));
        futures::future::try_join_all(launches).await?;
        for name in &names {
            framework
                .wait_state(name, TaskState::TaskRunning, TIMEOUT)
                .await?;
        }
        anyhow::Ok(())
    })?;
    Ok((host, cluster, framework))
}

#[test]
fn burst_of_tasks_ends_without_leftovers() -> Result<()> {
    let count = env::var("CONTRAIL_TEST_BURST").ok();
    let count = count.map_or(Ok(30), |count| count.parse())?;
    let (host, cluster, framework) = running(count)?;
    let name = host.name().to_owned();
    assert_eq!(framework.live_tasks().len(), count);
    host.block_on(framework.teardown())?;
    drop(cluster);
    drop(host);
    let traces = leftovers::traces_of(&name)?;
    ensure!(
        traces.is_empty(),
        "left on the machine:\n{}",
        traces.join("\n")
    );
    Ok(())
}

#[test]
fn killed_test_leaves_nothing_behind() -> Result<()> {
    if env::var_os(VICTIM).is_some() {
        let (host, _cluster, _framework) = running(2)?;
        println!("\nvictim {}", host.name());
        sleep(TIMEOUT);
        return Ok(());
    }
    let mut victim = Command::new(env::current_exe()?)
        .args([
            "--exact",
            "--nocapture",
            "killed_test_leaves_nothing_behind",
        ])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(victim.stdout.take().context("it has an output")?);
    let host = output
        .lines()
        .map_while(std::io::Result::ok)
        .find_map(|line| line.strip_prefix("victim ").map(ToOwned::to_owned))
        .context("the victim did not start")?;
    ensure!(!leftovers::traces_of(&host)?.is_empty(), "it must run");
    // SIGKILL: the victim gets no chance to clean up.
    victim.kill()?;
    victim.wait()?;
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let traces = leftovers::traces_of(&host)?;
        if traces.is_empty() {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "left on the machine:\n{}",
            traces.join("\n")
        );
        sleep(Duration::from_millis(50));
    }
}
