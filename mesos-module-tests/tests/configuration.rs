//! Networks come from the configuration as it is at each launch.

use std::fs;

use anyhow::{Result, ensure};
use mesos_module_tests::testbed::agent::{Agent, BLUE, RED, address, with_parameters};
use mesos_module_tests::testbed::framework::TaskSpec;
use mesos_module_tests::testbed::{Cluster, Host};

#[test]
fn networks_change_without_an_agent_restart() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let message = agent.refused(TaskSpec::new("early", "true").network("red"))?;
    ensure!(
        message.contains("unknown network \"red\"; this agent has: blue"),
        "{message}"
    );
    agent.configure(&format!("{BLUE}{RED}"))?;
    let red = agent.run(TaskSpec::new("red", "sleep 1000").network("red"))?;
    ensure!(address(&red)?.to_string().starts_with("10.33.0."), "{red}");
    agent.configure(BLUE)?;
    let message = agent.refused(TaskSpec::new("late", "true").network("red"))?;
    ensure!(message.contains("unknown network \"red\""), "{message}");
    // A running container keeps what it was launched with, to its end.
    agent
        .host()
        .sh(&format!("ping -c 1 -W 5 {}", address(&red)?))?;
    agent.kill("red")?;
    agent.end()
}

#[test]
fn changed_network_applies_to_new_containers() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let old = agent.run(TaskSpec::new("old", "sleep 1000").network("blue"))?;
    agent.configure(
        &BLUE
            .replace("10.32.0.0/24", "10.35.0.0/24")
            .replace("blue0", "blue1"),
    )?;
    let new = agent.run(TaskSpec::new("new", "sleep 1000").network("blue"))?;
    ensure!(address(&old)?.to_string().starts_with("10.32.0."));
    ensure!(address(&new)?.to_string().starts_with("10.35.0."));
    agent
        .host()
        .sh(&format!("ping -c 1 -W 5 {}", address(&old)?))?;
    agent.kill("old")?;
    agent.kill("new")?;
    agent.end()
}

#[test]
fn invalid_configuration_fails_only_new_containers() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let running = agent.run(TaskSpec::new("before", "sleep 1000").network("blue"))?;
    for (index, (config, expected)) in [
        ("[[network]\n", "unclosed array table"),
        ("[[network]]\nname = 'blue'\nprovider = 'bridge'\nsubnet = '10.32.0.0/24'\n[[network]]\nname = 'pink'\nprovider = 'bridge'\nsubnet = '10.32.0.128/25'\n", "overlaps 10.32.0.0/24"),
        ("[[network]]\nname = 'blue'\nprovider = 'bridge'\nsubnet = '10.32.0.0/24'\nsubnett = 'x'\n", "unknown key"),
    ]
    .into_iter()
    .enumerate()
    {
        agent.configure(config)?;
        let message = agent.refused(TaskSpec::new(&format!("bad{index}"), "true").network("blue"))?;
        ensure!(message.contains("configuration is not usable") && message.contains(expected), "{message}");
    }
    fs::remove_file(agent.config_path())?;
    let message = agent.refused(TaskSpec::new("missing", "true").network("blue"))?;
    ensure!(
        message.contains("cannot read the configuration"),
        "{message}"
    );
    // Neighbours, and those who need no network of ours, are unharmed.
    agent.passes(TaskSpec::new("plain", "true"))?;
    agent
        .host()
        .sh(&format!("ping -c 1 -W 5 {}", address(&running)?))?;
    agent.configure(BLUE)?;
    agent.passes(TaskSpec::new("after", "true").network("blue"))?;
    agent.kill("before")?;
    agent.end()
}

/// Why the agent does not start.
fn refusal(config: &str, parameters: &[(&str, &str)]) -> Result<String> {
    let host = Host::start("192.0.2.1".parse()?)?;
    match with_parameters(&host, config, parameters)?.start() {
        Ok(_) => anyhow::bail!("the agent started"),
        Err(error) => Ok(format!("{error:#}")),
    }
}

#[test]
fn module_fails_to_load_and_reports_every_error() -> Result<()> {
    let config =
        "[[network]]\nname = 'blue'\nprovider = 'bridge'\nsubnet = '10.32.0.0/33'\nmtu = 'big'\n";
    let text = refusal(config, &[("colour", "blue"), ("deadlines.isolate", "soon")])?;
    for expected in [
        "module parameter \"colour\"",
        "module parameter \"deadlines.isolate\"",
        "network[0].subnet",
        "network[0].mtu",
    ] {
        ensure!(text.contains(expected), "{expected:?} is not in {text}");
    }
    Ok(())
}

#[test]
fn agent_fails_to_start_without_a_configuration() -> Result<()> {
    let host = Host::start("192.0.2.1".parse()?)?;
    let builder = with_parameters(&host, BLUE, &[])?;
    fs::remove_file(host.directory().join("agent.toml"))?;
    let Err(error) = builder.start() else {
        anyhow::bail!("the agent started");
    };
    ensure!(
        format!("{error:#}").contains("cannot read the configuration"),
        "{error:#}"
    );
    Ok(())
}

#[test]
fn agent_refuses_network_cni_beside_the_module() -> Result<()> {
    let host = Host::start("192.0.2.1".parse()?)?;
    let builder = with_parameters(&host, BLUE, &[])?.isolation(&["network/cni"]);
    let Err(error) = builder.start() else {
        anyhow::bail!("the agent started");
    };
    let text = format!("{error:#}");
    ensure!(
        text.contains("multiple network isolators simultaneously is disallowed"),
        "{text}"
    );
    Ok(())
}

#[test]
fn agent_without_the_module_runs_tasks() -> Result<()> {
    let host = Host::start("192.0.2.1".parse()?)?;
    let cluster = Cluster::on(&host).start()?;
    ensure!(!cluster.log()?.contains("network/contrail"));
    Ok(())
}

#[test]
fn start_of_the_agent_has_one_line_in_the_log() -> Result<()> {
    let agent = Agent::start(&format!("{BLUE}{RED}"))?;
    let log = agent.cluster.log()?;
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("starts with the state directory"))
        .collect();
    let [line] = lines.as_slice() else {
        anyhow::bail!("{lines:?}")
    };
    for part in [
        env!("CARGO_PKG_VERSION"),
        "2 networks: blue, red",
        &agent.state_dir().display().to_string(),
        &agent.config_path().display().to_string(),
    ] {
        ensure!(line.contains(part), "{part:?} is not in {line}");
    }
    agent.end()
}
