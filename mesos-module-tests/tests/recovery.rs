//! What survives the agent: kill -9, orphans, reboots, damaged checkpoints.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::agent::{Agent, BLUE, RED, WAIT_TIMEOUT, address, container};
use mesos_module_tests::testbed::framework::{TaskSpec, TaskState, TaskUpdate};
use mesos_module_tests::testbed::program;
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
    agent.run(
        TaskSpec::new("two", "sleep 1000")
            .ports(&[31080])
            .network_info(port),
    )?;
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

/// Launches a nested container that writes its network namespace into a file, and returns that.
fn namespace_of_nested_container(agent: &Agent, parent: &TaskUpdate, name: &str) -> Result<String> {
    let file = agent.host().directory().join(name);
    let command = format!("readlink /proc/self/ns/net > {}", file.display());
    let call = json!({
        "type": "LAUNCH_NESTED_CONTAINER",
        "launch_nested_container": {
            "container_id": { "value": name, "parent": { "value": container(parent)? } },
            "command": { "shell": true, "value": command },
        },
    });
    agent.cluster.agent_call(&call)?;
    agent.host().sh(&format!(
        "for i in $(seq 300); do test -s {0} && cat {0} && exit 0; sleep 0.1; done; exit 1",
        file.display()
    ))
}

fn namespace_of(agent: &Agent, running: &TaskUpdate) -> Result<String> {
    let pid = running.executor_pid.context("no executor")?;
    agent.host().sh(&format!("readlink /proc/{pid}/ns/net"))
}

#[test]
fn attach_of_an_agents_container_is_refused_on_the_command_line() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let running = agent.run(TaskSpec::new("one", "sleep 1000").network("blue"))?;
    let id = container(&running)?;
    let host = agent.host();
    host.sh("ip netns add box")?;
    let another = host.directory().join("another.toml");
    let state = host.directory().join("another");
    fs::write(
        &another,
        format!("state_dir = '{}'\n{BLUE}", state.display()),
    )?;
    let cli = program("contrail-mesos")?.display().to_string();
    let own = agent.config_path().display().to_string();
    let another = another.display().to_string();
    for (config, arguments, expected) in [
        (&own, "--netns box", "is a container of the agent"),
        (&own, "--dry-run", "is a container of the agent"),
        (&another, "--netns box", "choose another name"),
        (&another, "--dry-run", "is attached already"),
    ] {
        let text = host.sh(&format!(
            "! {cli} --config {config} attach {id} --network blue {arguments} 2>&1"
        ))?;
        ensure!(text.contains(expected), "{expected:?} is not in {text}");
    }
    host.sh(&format!("ping -c 1 -W 5 {}", address(&running)?))?;
    host.sh("ip netns delete box")?;
    let end = agent.kill("one")?;
    ensure!(end.state == TaskState::TaskKilled, "{end}");
    agent.end()
}

#[test]
fn containers_of_another_state_directory_keep_their_network() -> Result<()> {
    let mut agent = Agent::start(&format!("{BLUE}{RED}"))?;
    let one = agent.run(
        TaskSpec::new("one", "sleep 1000")
            .network("blue")
            .network("red"),
    )?;
    let plain = agent.run(TaskSpec::new("plain", "sleep 1000"))?;
    agent.cluster.kill_9()?;
    let moved = agent.host().directory().join("moved");
    fs::write(
        agent.config_path(),
        format!("state_dir = '{}'\n{BLUE}{RED}", moved.display()),
    )?;
    agent.cluster.restart()?;
    let id = container(&one)?;
    let log = agent.cluster.log()?;
    let line = log
        .lines()
        .find(|line| line.contains("has no checkpoint of it") && line.contains(&id))
        .context("the container is not in the log")?;
    for part in [
        "\"blue\"",
        "\"red\"",
        &address(&one)?.to_string(),
        &moved.display().to_string(),
    ] {
        ensure!(line.contains(part), "{part:?} is not in {line}");
    }
    let plain_id = container(&plain)?;
    ensure!(
        !log.lines()
            .any(|line| line.contains("has no checkpoint") && line.contains(&plain_id)),
        "a container on the host's network is in the log"
    );
    // Nobody gets its addresses: its bridge is of another state directory, and they are leased.
    for network in ["blue", "red"] {
        let message = agent.refused(TaskSpec::new(network, "true").network(network))?;
        ensure!(message.contains("another state_dir"), "{message}");
    }
    let lease = moved.join(format!("networks/blue/{}", address(&one)?));
    ensure!(lease.exists(), "{} is not there", lease.display());
    // Its nested containers are in its namespace.
    assert_eq!(
        namespace_of_nested_container(&agent, &one, "check")?,
        namespace_of(&agent, &one)?
    );
    agent
        .host()
        .sh(&format!("ping -c 1 -W 5 {}", address(&one)?))?;
    let end = agent.kill("one")?;
    ensure!(end.state == TaskState::TaskKilled, "{end}");
    assert_eq!(end.addresses(), one.addresses());
    agent.kill("plain")?;
    // Its address is free again.
    agent.host().sh(&format!(
        "for i in $(seq 300); do test -e {} || exit 0; sleep 0.1; done; exit 1",
        lease.display()
    ))?;
    agent.host().sh(
        "for i in $(seq 300); do ip -o link show type veth | grep -q ' cm' || exit 0; sleep 0.1; done; exit 1",
    )?;
    // What was made with the former state directory is removed with it.
    let former = agent.host().directory().join("former.toml");
    fs::write(
        &former,
        format!("state_dir = '{}'\n{BLUE}{RED}", agent.state_dir().display()),
    )?;
    agent.host().sh(&format!(
        "{} --config {} detach {id} --force",
        program("contrail-mesos")?.display(),
        former.display()
    ))?;
    agent.passes(TaskSpec::new("next", "true").network("blue"))?;
    agent.end()
}

#[test]
fn deleted_state_directory_ends_no_container_and_leaves_nothing() -> Result<()> {
    let mut agent = Agent::start(BLUE)?;
    let one = agent.run(TaskSpec::new("one", "sleep 1000").network("blue"))?;
    let port = json!({
        "name": "blue",
        "port_mappings": [{ "host_port": 31080, "container_port": 80 }],
    });
    let two = agent.run(
        TaskSpec::new("two", "sleep 1000")
            .ports(&[31080])
            .network_info(port),
    )?;
    let far = json!({ "name": "blue", "ip_addresses": [{ "ip_address": "10.32.0.200" }] });
    let dead = agent.run(TaskSpec::new("dead", "sleep 1000").network_info(far))?;
    let dead_id = container(&dead)?;
    agent.cluster.kill_9()?;
    agent.host().sh(&format!(
        "rm -rf {}; ip netns pids {dead_id} | xargs kill -9",
        agent.state_dir().display()
    ))?;
    // An interface of a container that no agent knows any more.
    let unknown = "8d1f0c1e-0000-4000-8000-000000000001";
    agent.host().sh(&format!(
        "alias=$(ip -o link show | grep -o 'alias contrail-mesos [0-9a-f]* cm' | head -n 1 | cut -d' ' -f3)
         ip netns add {unknown}
         ip link add cm0123456789abc type veth peer name eth0 netns {unknown}
         ip link set cm0123456789abc alias \"contrail-mesos $alias cm0123456789abc {unknown} eth0\""
    ))?;
    agent.cluster.restart()?;
    let log = agent.cluster.log()?;
    for running in [&one, &two, &dead] {
        let id = container(running)?;
        ensure!(
            log.lines()
                .any(|line| line.contains("has no checkpoint of it") && line.contains(&id)),
            "{id} is not in the log"
        );
    }
    ensure!(
        log.contains("removing the interface cm0123456789abc"),
        "the removed interface is not in the log"
    );
    agent.host().sh(&format!(
        "! ip link show cm0123456789abc && ! test -e /run/netns/{unknown}"
    ))?;
    for running in [&one, &two] {
        agent
            .host()
            .sh(&format!("ping -c 1 -W 5 {}", address(running)?))?;
    }
    let three = agent.run(TaskSpec::new("three", "sleep 1000").network("blue"))?;
    for running in [&one, &two] {
        ensure!(
            address(&three)? != address(running)?,
            "an address given twice"
        );
    }
    agent.ended("dead")?;
    for task in ["one", "two", "three"] {
        agent.kill(task)?;
    }
    agent.end()
}

#[test]
fn containers_of_network_cni_are_named_in_the_log() -> Result<()> {
    use mesos_module_tests::testbed::agent;
    let host = agent::host()?;
    let cni = host.directory().join("cni");
    fs::create_dir_all(&cni)?;
    let leases = host.directory().join("leases");
    let network = json!({
        "name": "blue", "type": "bridge", "bridge": "peer0", "cniVersion": "0.2.0", "isGateway": true,
        "ipam": { "type": "host-local", "subnet": "10.32.0.0/24", "dataDir": leases,
                  "routes": [{ "dst": "0.0.0.0/0" }] }
    });
    fs::write(cni.join("blue.json"), network.to_string())?;
    // The module's configuration; network/cni is replaced by it below.
    let module =
        agent::with_module(&host, RED)?.env("MESOS_ISOLATION", "filesystem/linux,network/cni");
    let mut cluster = module
        .env("MESOS_NETWORK_CNI_PLUGINS_DIR", "/usr/lib/cni")
        .env("MESOS_NETWORK_CNI_CONFIG_DIR", &cni.display().to_string())
        .start()?;
    let framework = cluster.framework()?;
    let running = host.block_on(async {
        framework
            .launch(TaskSpec::new("old", "sleep 1000").network("blue"))
            .await?;
        framework
            .wait_state("old", TaskState::TaskRunning, WAIT_TIMEOUT)
            .await
    })?;
    let id = container(&running)?;
    cluster.kill_9()?;
    cluster.set_env("MESOS_ISOLATION", "filesystem/linux,network/contrail");
    cluster.restart()?;
    let log = cluster.log()?;
    let line = |text: &str| {
        log.lines()
            .any(|line| line.contains(text) && line.contains(&id))
    };
    ensure!(
        line("has no checkpoint of it"),
        "the container is not in the log"
    );
    ensure!(
        line("network/cni left"),
        "what network/cni left is not in the log"
    );
    let call = json!({ "type": "GET_CONTAINERS", "get_containers": {} });
    let containers = cluster.agent_call(&call)?;
    let shown = &containers["get_containers"]["containers"][0]["container_status"]["network_infos"];
    assert_eq!(
        shown[0]["ip_addresses"][0]["ip_address"],
        address(&running)?.to_string(),
        "{shown}"
    );
    host.block_on(async {
        framework.kill("old").await?;
        framework.wait_end("old", WAIT_TIMEOUT).await?;
        framework.teardown().await
    })?;
    cluster.stop()
}
