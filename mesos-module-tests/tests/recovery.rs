//! What survives the agent: kill -9, orphans, reboots, damaged checkpoints.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::agent::{Agent, BLUE, RED, WAIT_TIMEOUT, address, container};
use mesos_module_tests::testbed::framework::TaskSpec;
use serde_json::json;

#[test]
fn live_containers_are_adopted_with_their_addresses() -> Result<()> {
    let mut agent = Agent::start(&format!("{BLUE}{RED}"))?;
    let one = agent.run(
        TaskSpec::new("one", "sleep 1000")
            .network("blue")
            .network("red"),
    )?;
    let port = json!({
        "name": "blue",
        "port_mappings": [{ "host_port": 31080, "container_port": 80 }],
    });
    agent.run(TaskSpec::new("two", "sleep 1000").network_info(port))?;
    agent.crash()?;
    // The agent reports the same addresses, the containers have them, and no other container gets them.
    let containers = agent.containers()?;
    let shown = containers
        .iter()
        .find(|container| container["executor_id"]["value"] == "one")
        .context("the container is gone")?;
    let infos = &shown["container_status"]["network_infos"];
    assert_eq!(infos[0]["name"], "blue");
    assert_eq!(
        infos[0]["ip_addresses"][0]["ip_address"],
        one.addresses()[0].to_string()
    );
    assert_eq!(
        infos[1]["ip_addresses"][0]["ip_address"],
        one.addresses()[1].to_string()
    );
    agent
        .host()
        .sh(&format!("ping -c 1 -W 5 {}", address(&one)?))?;
    let three = agent.run(TaskSpec::new("three", "sleep 1000").network("blue"))?;
    ensure!(address(&three)? != address(&one)?, "an address given twice");
    let taken =
        json!({ "name": "blue", "ip_addresses": [{ "ip_address": address(&one)?.to_string() }] });
    let message = agent.refused(TaskSpec::new("thief", "true").network_info(taken))?;
    ensure!(message.contains("taken"), "{message}");
    // A second crash finds the same.
    agent.crash()?;
    for task in ["one", "two", "three"] {
        agent.kill(task)?;
    }
    agent.end()
}

#[test]
fn container_ended_while_the_agent_is_down_is_cleaned_up() -> Result<()> {
    let mut agent = Agent::start(BLUE)?;
    let running = agent.run(TaskSpec::new("one", "sleep 1000").network("blue"))?;
    let id = container(&running)?;
    agent.cluster.kill_9()?;
    agent
        .host()
        .sh(&format!("ip netns pids {id} | xargs kill -9"))?;
    agent.cluster.restart()?;
    agent.ended("one")?;
    agent.expect_no_container()?;
    agent.end()
}

#[test]
fn agent_killed_during_prepare_leaves_nothing() -> Result<()> {
    let mut agent = Agent::start(BLUE)?;
    // Many at once, so that some are caught in every step.
    for index in 0..20 {
        agent.launch(TaskSpec::new(&format!("t{index}"), "sleep 1000").network("blue"))?;
    }
    std::thread::sleep(Duration::from_millis(60));
    agent.crash()?;
    for index in 0..20 {
        agent.settled(&format!("t{index}"))?;
    }
    agent.end()
}

#[test]
fn reboot_releases_everything() -> Result<()> {
    let mut agent = Agent::start(&format!("{BLUE}{RED}"))?;
    for index in 0..3 {
        agent.run(
            TaskSpec::new(&format!("t{index}"), "sleep 1000")
                .network("blue")
                .network("red"),
        )?;
    }
    reboot(&mut agent)?;
    agent.expect_no_container()?;
    // All addresses are free again.
    let ask = json!({ "name": "blue", "ip_addresses": [{ "ip_address": "10.32.0.2" }] });
    agent.run(TaskSpec::new("again", "sleep 1000").network_info(ask))?;
    agent.kill("again")?;
    agent.end()
}

/// What a reboot does: every process, link, rule and mount goes, and so does /run with the agent's
/// runtime directory; the state directory and the agent's work directory stay.
fn reboot(agent: &mut Agent) -> Result<()> {
    agent.cluster.kill_9()?;
    let runtime = agent.cluster.runtime_dir().display().to_string();
    agent.host().sh(&format!(
        "for ns in $(ls /run/netns); do ip netns pids $ns | xargs -r kill -9; done
         sleep 0.5
         for ns in /run/netns/*; do umount -l $ns; done
         for link in $(ip -o link | awk -F'[ :@]+' '{{print $2}}' | grep -v -x lo); do ip link delete $link 2>/dev/null || true; done
         nft flush ruleset
         rm -rf {runtime}"
    ))?;
    // The agent knows a reboot by the boot id that it wrote down.
    let work = agent.cluster.work_dir().display().to_string();
    agent.host().sh(&format!(
        "find {work} -name boot_id -type f -exec sh -c 'echo rebooted > \"$1\"' sh {{}} \\;"
    ))?;
    agent.cluster.restart()
}

#[test]
fn damaged_checkpoint_is_moved_aside_and_container_lives() -> Result<()> {
    let mut agent = Agent::start(BLUE)?;
    let one = agent.run(TaskSpec::new("one", "sleep 1000").network("blue"))?;
    let two = agent.run(TaskSpec::new("two", "sleep 1000").network("blue"))?;
    agent.cluster.kill_9()?;
    let path = agent
        .state_dir()
        .join("containers")
        .join(container(&one)?)
        .join("intent.json");
    fs::write(&path, &fs::read(&path)?[..40])?;
    agent.cluster.restart()?;
    ensure!(
        agent
            .cluster
            .log()?
            .contains("damaged checkpoint moved aside"),
        "it is not in the log"
    );
    agent.host().sh(&format!(
        "ls {}/damaged | grep -q {}",
        agent.state_dir().display(),
        container(&one)?
    ))?;
    // Both still work, and the damaged one's address is not given to anybody else.
    for running in [&one, &two] {
        agent
            .host()
            .sh(&format!("ping -c 1 -W 5 {}", address(running)?))?;
    }
    let three = agent.run(TaskSpec::new("three", "sleep 1000").network("blue"))?;
    ensure!(address(&three)? != address(&one)?, "an address given twice");
    for task in ["one", "two", "three"] {
        agent.kill(task)?;
    }
    agent.end()
}

#[test]
fn orphans_are_cleaned_up_and_foreign_objects_stay() -> Result<()> {
    let mut agent = Agent::start(BLUE)?;
    let one = agent.run(TaskSpec::new("one", "sleep 1000").network("blue"))?;
    agent.cluster.kill_9()?;
    // Somebody else's, with names like ours.
    agent
        .host()
        .sh("ip link add cmffffffffffff type veth peer name other0
         nft add table inet somebody_else
         ip netns add somebody")?;
    // A directory that is no checkpoint.
    let stray = agent.state_dir().join("containers/stray");
    fs::create_dir_all(&stray)?;
    agent.cluster.restart()?;
    agent.host().sh("ip link show cmffffffffffff && nft list table inet somebody_else && test -e /run/netns/somebody")?;
    ensure!(!stray.exists(), "the stray directory is still there");
    agent
        .host()
        .sh(&format!("ping -c 1 -W 5 {}", address(&one)?))?;
    agent.host().sh(
        "ip link delete other0; nft delete table inet somebody_else; ip netns delete somebody",
    )?;
    agent.kill("one")?;
    agent.end()
}

#[test]
fn framework_without_checkpointing_loses_containers_cleanly() -> Result<()> {
    use mesos_module_tests::testbed::framework::{Framework, Options};
    let mut agent = Agent::start(BLUE)?;
    let options = Options {
        checkpoint: false,
        ..Options::default()
    };
    let master = agent.cluster.master().to_owned();
    let framework = agent
        .host()
        .block_on(Framework::connect_with(&master, options))?;
    let state = mesos_module_tests::testbed::framework::TaskState::TaskRunning;
    agent.host().block_on(async {
        framework
            .launch(TaskSpec::new("orphan", "sleep 1000").network("blue"))
            .await?;
        framework.wait_state("orphan", state, WAIT_TIMEOUT).await
    })?;
    agent.crash()?;
    agent.expect_no_container()?;
    agent.host().block_on(framework.teardown())?;
    agent.end()
}
