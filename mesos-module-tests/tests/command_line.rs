//! `contrail-mesos`, as an operator uses it on a host without any agent.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::agent::{self, BLUE, RED};
use mesos_module_tests::testbed::{Host, program};
use serde_json::Value;

struct Operator {
    host: Host,
    config: PathBuf,
}

impl Operator {
    fn new(config: &str) -> Result<Self> {
        let host = agent::host()?;
        let path = host.directory().join("agent.toml");
        let state = host.directory().join("state");
        fs::write(
            &path,
            format!("state_dir = '{}'\n{config}", state.display()),
        )?;
        Ok(Self { host, config: path })
    }

    /// What the command prints, and whether it succeeded.
    fn run(&self, arguments: &str) -> Result<(bool, String)> {
        let output = self
            .host
            .command(program("contrail-mesos")?)
            .arg("--config")
            .arg(&self.config)
            .args(arguments.split(' '))
            .output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8(text)?))
    }

    fn succeeds(&self, arguments: &str) -> Result<String> {
        let (success, text) = self.run(arguments)?;
        ensure!(success, "{arguments}: {text}");
        Ok(text)
    }

    fn fails(&self, arguments: &str) -> Result<String> {
        let (success, text) = self.run(arguments)?;
        ensure!(!success, "{arguments}: {text}");
        Ok(text)
    }
}

#[test]
fn namespace_is_attached_shown_and_detached() -> Result<()> {
    let operator = Operator::new(&format!("{BLUE}{RED}"))?;
    let host = &operator.host;
    host.sh("ip netns add box")?;
    let before = host.leftovers()?;
    let text = operator.succeeds(
        "attach box --netns box --network blue --network red --address 10.32.0.9 --port 8080:80",
    )?;
    ensure!(text.contains("eth0 on blue: 10.32.0.9/24"), "{text}");
    host.sh(
        "ping -c 1 -W 5 10.32.0.9 && ip netns exec box ip -o address show eth1 | grep -q fd00:33::",
    )?;
    // Another process of the command gives another address.
    host.sh("ip netns add other")?;
    operator.succeeds("attach other --netns other --network blue")?;
    let status: Value = serde_json::from_str(&operator.succeeds("status -o json")?)?;
    let rows = status["containers"].as_array().context("no containers")?;
    assert_eq!(rows.len(), 3, "{rows:?}");
    ensure!(
        rows.iter().all(|row| row["state"] == "attached"),
        "{rows:?}"
    );
    let table = operator.succeeds("status")?;
    ensure!(
        table.contains("10.32.0.9/24") && table.contains("8080:80/tcp"),
        "{table}"
    );
    let text = operator.fails("attach thief --netns other --network blue --address 10.32.0.9")?;
    ensure!(
        text.contains("10.32.0.9") && text.contains("taken"),
        "{text}"
    );

    host.sh("ip netns exec box ip link delete eth0")?;
    let text = operator.fails("status")?;
    ensure!(text.contains("lost"), "{text}");
    operator.succeeds("detach box")?;
    operator.succeeds("detach other")?;
    ensure!(operator.succeeds("detach box")?.contains("nothing to do"));
    // The namespaces are the operator's, and stay.
    host.sh("ip netns exec box true && ip netns delete other")?;
    host.expect_nothing_since(&before)
}

#[test]
fn dry_run_prints_every_change_and_makes_none() -> Result<()> {
    let operator = Operator::new(BLUE)?;
    let before = operator.host.leftovers()?;
    let text = operator.succeeds("attach box --network blue --port 8080:80 --dry-run")?;
    for expected in [
        "lease 10.32.0.2 of network blue",
        "create the nftables table inet contrail_mesos",
        "create the bridge blue0",
        "give 10.32.0.1/24 to blue0",
        "create the veth pair cm",
        "in the container: give 10.32.0.2/24 to eth0",
        "8080",
    ] {
        ensure!(text.contains(expected), "{expected:?} is not in {text}");
    }
    operator.host.expect_nothing_since(&before)?;
    ensure!(!operator.host.directory().join("state/containers").exists());
    Ok(())
}

#[test]
fn config_check_reports_every_problem() -> Result<()> {
    let operator = Operator::new(BLUE)?;
    let text = operator.succeeds("config check")?;
    ensure!(
        text.contains("good, 1 network") && text.contains("10.32.0.0/24"),
        "{text}"
    );
    let operator = Operator::new("colour = 'blue'\n[[network]]\nname = 'a b'\n")?;
    let text = operator.fails("config check")?;
    for expected in [
        "agent.toml:2: colour: unknown key",
        "agent.toml:4: network[0].name: \"a b\" is not a network name",
        "a network needs a provider",
        "3 problems in",
    ] {
        ensure!(text.contains(expected), "{expected:?} is not in {text}");
    }
    Ok(())
}

#[test]
fn invalid_request_is_refused_and_leaves_nothing() -> Result<()> {
    let operator = Operator::new(BLUE)?;
    operator.host.sh("ip netns add box")?;
    let before = operator.host.leftovers()?;
    for (arguments, expected) in [
        (
            "attach c --netns box --network pink",
            "unknown network \"pink\"",
        ),
        ("attach c --netns nowhere --network blue", "nowhere"),
        (
            "attach c --pid 1 --network blue",
            "host's own network namespace",
        ),
        (
            "attach c --netns box --network blue --port 0:80",
            "host port 0",
        ),
    ] {
        let text = operator.fails(arguments)?;
        ensure!(text.contains(expected), "{expected:?} is not in {text}");
    }
    operator.host.expect_nothing_since(&before)
}
