//! `contrail-mesos status`, `container`, `network` and `address` on a host with a real agent.

use std::fs;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::agent::{Agent, BLUE, RED, address, container, state_dir};
use mesos_module_tests::testbed::framework::TaskSpec;
use mesos_module_tests::testbed::{program, until};
use serde_json::{Value, json};

/// What a command prints, and whether it succeeded.
fn run(agent: &Agent, arguments: &str) -> Result<(bool, String)> {
    let output = agent
        .host()
        .command(program("contrail-mesos")?)
        .arg("--config")
        .arg(agent.config_path())
        .args(arguments.split(' '))
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(!errors.contains("panicked"), "{arguments}: {errors}");
    Ok((output.status.success(), format!("{text}{errors}")))
}

fn succeeds(agent: &Agent, arguments: &str) -> Result<String> {
    let (success, text) = run(agent, arguments)?;
    ensure!(success, "{arguments}: {text}");
    Ok(text)
}

fn json_of(agent: &Agent, arguments: &str) -> Result<(bool, Value)> {
    let (success, text) = run(agent, &format!("{arguments} -o json"))?;
    let value: Value = serde_json::from_str(&text).context(text)?;
    ensure!(value["schema_version"] == 1, "{value}");
    Ok((success, value))
}

/// The only container's state, and the problems of its network.
fn state(agent: &Agent) -> Result<(bool, String, String)> {
    let (success, status) = json_of(agent, "status")?;
    let row = &status["containers"][0];
    let state = row["state"].as_str().context("no state")?.to_owned();
    Ok((success, state, row["networks"][0]["problems"].to_string()))
}

/// Stops the agent, and waits until none of its threads runs.
fn pause(agent: &Agent) -> Result<()> {
    agent.cluster.pause()?;
    let pid = agent.cluster.pid().context("the agent does not run")?;
    until("the agent has stopped", || {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let stat = fs::read_to_string(task?.path().join("stat"))?;
            let (_, rest) = stat.rsplit_once(") ").context("no state")?;
            if !rest.starts_with('T') {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
}

#[test]
fn degraded_container_is_named_until_it_is_repaired() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    let mapped = json!({
        "name": "blue",
        "port_mappings": [{ "host_port": 31080, "container_port": 80 }],
    });
    let task = TaskSpec::new("web", "sleep 1000")
        .ports(&[31080])
        .network_info(mapped);
    let running = agent.run(task)?;
    let (id, address) = (container(&running)?, address(&running)?);
    let inside = format!("ip netns exec {id}");
    let port = agent
        .host()
        .sh("ip -o link show type veth master blue0 | sed 's/^[0-9]*: //; s/[@:].*//'")?;
    let port = port.trim();
    assert_eq!(
        state(&agent)?,
        (true, "attached".to_owned(), "[]".to_owned())
    );
    for (change, problem) in [
        ("nft flush ruleset".to_owned(), "contrail_mesos"),
        (
            "sysctl -q -w net.ipv4.ip_forward=0".to_owned(),
            "ip_forward",
        ),
        ("ip link set blue0 down".to_owned(), "blue0 is down"),
        (
            format!("ip link set {port} nomaster"),
            "not a port of the bridge",
        ),
        (format!("ip link set {port} down"), "is down"),
    ] {
        // The agent would repair it at once.
        pause(&agent)?;
        agent.host().sh(&change)?;
        let found = state(&agent);
        let fast = succeeds(&agent, "status --fast");
        agent.cluster.resume()?;
        let (success, state_of, problems) = found?;
        ensure!(
            !success && state_of == "degraded" && problems.contains(problem),
            "{change}: {state_of}: {problems}"
        );
        ensure!(fast?.contains("attached"), "{change}");
        until("the agent has repaired it", || {
            let (success, state, _) = state(&agent)?;
            Ok((success && state == "attached").then_some(()))
        })?;
    }
    // Nobody repairs what a container does to itself.
    for (change, problem, undo) in [
        (
            format!("{inside} ip address flush dev eth0"),
            "lacks the address",
            format!(
                "{inside} ip address add {address}/24 broadcast + dev eth0 && \
                 {inside} ip route add default via 10.32.0.1"
            ),
        ),
        (
            format!("{inside} ip link set eth0 address 02:00:00:00:00:01"),
            "MAC address",
            String::new(),
        ),
    ] {
        agent.host().sh(&change)?;
        let (success, state_of, problems) = state(&agent)?;
        ensure!(
            !success && state_of == "degraded" && problems.contains(problem),
            "{change}: {state_of}: {problems}"
        );
        if !undo.is_empty() {
            agent.host().sh(&undo)?;
            assert_eq!(
                state(&agent)?,
                (true, "attached".to_owned(), "[]".to_owned())
            );
        }
    }
    let (success, shown) = json_of(&agent, "container show web")?;
    ensure!(!success, "{shown}");
    let (_, status) = json_of(&agent, "status --state degraded")?;
    assert_eq!(status["containers"].as_array().map(Vec::len), Some(1));
    agent.kill("web")?;
    agent.end()
}

/// The containers that a status with these filters has.
fn listed(agent: &Agent, filters: &str) -> Result<Vec<String>> {
    let (_, status) = json_of(agent, &format!("status {filters}"))?;
    let rows = status["containers"].as_array().context("no containers")?;
    let tasks = rows.iter().map(|row| row["executor"].as_str());
    let tasks: Option<Vec<String>> = tasks.map(|task| task.map(str::to_owned)).collect();
    let mut tasks = tasks.context("no executor")?;
    tasks.sort_unstable();
    Ok(tasks)
}

/// The filters of `status`, with the containers `one` and `two`.
fn expect_selections(agent: &Agent, second: &str, v6: IpAddr) -> Result<()> {
    for (filters, expected) in [
        ("--network red".to_owned(), &["one"][..]),
        ("--network red --network blue".to_owned(), &["one", "two"]),
        (format!("--container {}", &second[..13]), &["two"]),
        ("--task on".to_owned(), &["one"]),
        (format!("--address {v6}"), &["one"]),
        (
            "--address 10.32.0.0/24 --state attached".to_owned(),
            &["one", "two"],
        ),
        ("--state lost --state degraded".to_owned(), &[]),
        ("--fast --network red --task two".to_owned(), &[]),
    ] {
        assert_eq!(listed(agent, &filters)?, expected, "{filters}");
    }
    let table = succeeds(agent, "status")?;
    ensure!(
        table.lines().all(|line| line.chars().count() <= 80),
        "{table}"
    );
    ensure!(table.contains("2 containers: 2 attached"), "{table}");
    for arguments in [
        "status --state lots",
        "status --address x",
        "status --node x",
    ] {
        ensure!(!run(agent, arguments)?.0, "{arguments}");
    }
    Ok(())
}

fn expect_containers(agent: &Agent, first: &str) -> Result<()> {
    // By the beginning of the id, and by the task.
    for name in [&first[..13], "one", first] {
        let (success, shown) = json_of(agent, &format!("container show {name}"))?;
        let row = &shown["container"];
        ensure!(success && row["container"] == first, "{name}: {shown}");
        assert_eq!(row["networks"].as_array().map(Vec::len), Some(2));
        ensure!(
            row["networks"][1]["statistics"]["rx_packets"].is_u64(),
            "{shown}"
        );
    }
    let text = succeeds(agent, "container show two")?;
    ensure!(
        text.contains("10.32.0.1") && text.contains("blue0"),
        "{text}"
    );
    ensure!(!run(agent, "container show nobody")?.0);
    Ok(())
}

fn expect_networks(agent: &Agent, second: &str) -> Result<()> {
    let (_, networks) = json_of(agent, "network list")?;
    let [blue, red] = [0, 1].map(|index| &networks["networks"][index]);
    let family = &blue["families"][0];
    assert_eq!(
        (&family["used"], &family["total"], &family["free"]),
        (&json!(2), &json!(253), &json!(251)),
        "{blue}"
    );
    ensure!(red["families"][1]["used"] == 1, "{red}");
    let text = succeeds(agent, "network show blue")?;
    ensure!(
        text.contains(second) && text.contains("251 free of 253"),
        "{text}"
    );
    ensure!(!run(agent, "network show green")?.0);
    Ok(())
}

/// The owners of the addresses of `one`, which ends.
fn expect_owners(agent: &Agent, first: &str, v4: IpAddr, v6: IpAddr) -> Result<()> {
    let owner = |address: IpAddr| json_of(agent, &format!("address show {address}"));
    for address in [v4, v6] {
        let (_, shown) = owner(address)?;
        ensure!(shown["owners"][0]["container"] == first, "{shown}");
        ensure!(shown["history"] == json!([]), "{shown}");
    }
    agent.kill("one")?;
    for address in [v4, v6] {
        until("the address has a former owner", || {
            let (_, shown) = owner(address)?;
            let former = &shown["history"][0];
            Ok((former["container"] == first).then_some(shown))
        })
        .and_then(|shown| {
            let former = &shown["history"][0];
            ensure!(former["executor"] == "one", "{shown}");
            ensure!(
                former["from"].as_str() <= former["until"].as_str(),
                "{shown}"
            );
            ensure!(shown["owners"] == json!([]), "{shown}");
            Ok(())
        })?;
    }
    let text = succeeds(agent, &format!("address show {v4}"))?;
    ensure!(
        text.contains("no container of this host has") && text.contains("one"),
        "{text}"
    );
    let (_, gateway) = owner([10, 32, 0, 1].into())?;
    ensure!(
        gateway["networks"][0]["role"] == "unassignable",
        "{gateway}"
    );
    Ok(())
}

#[test]
fn containers_and_addresses_are_found() -> Result<()> {
    let agent = Agent::start(&format!("{BLUE}{RED}"))?;
    let one = agent.run(
        TaskSpec::new("one", "sleep 1000")
            .network("blue")
            .network("red"),
    )?;
    let two = agent.run(TaskSpec::new("two", "sleep 1000").network("blue"))?;
    let (first, second) = (container(&one)?, container(&two)?);
    let v4 = address(&one)?;
    let v6: IpAddr = one
        .addresses()
        .into_iter()
        .find(IpAddr::is_ipv6)
        .context("no IPv6 address")?;

    expect_selections(&agent, &second, v6)?;
    expect_containers(&agent, &first)?;
    expect_networks(&agent, &second)?;
    expect_owners(&agent, &first, v4, v6)?;

    // What checkpoints say does not depend on the configuration.
    let config = fs::read_to_string(agent.config_path())?;
    agent.configure(&format!(
        "{BLUE}[contrail]\nmanagers = ['m']\ntoken_file = '/nowhere'\n"
    ))?;
    let (success, text) = run(&agent, "status --network blue")?;
    ensure!(
        success && text.contains("attached") && text.contains("/nowhere"),
        "{text}"
    );
    fs::write(agent.config_path(), config)?;
    let intent = state_dir(agent.host())
        .join("containers")
        .join(&*second)
        .join("intent.json");
    let good = fs::read(&intent)?;
    fs::write(&intent, "{")?;
    let (success, status) = json_of(&agent, "status --state damaged")?;
    let row = &status["containers"][0];
    ensure!(
        !success && row["container"] == *second && row["networks"] == json!([]),
        "{status}"
    );
    fs::write(&intent, good)?;
    agent.kill("two")?;
    agent.end()
}

#[test]
fn watch_repeats_blocks_until_nobody_reads_them() -> Result<()> {
    let agent = Agent::start(BLUE)?;
    agent.run(TaskSpec::new("web", "sleep 1000").network("blue"))?;
    let program = program("contrail-mesos")?.display().to_string();
    let config = agent.config_path();
    let command = format!("{program} --config {} status --watch 1", config.display());
    let text = agent.host().sh(&format!("{command} | head -n 9"))?;
    ensure!(
        text.matches("1 container: 1 attached").count() == 2,
        "{text}"
    );
    ensure!(!text.contains('\u{1b}'), "{text:?}");
    let lines = agent.host().sh(&format!("{command} -o json | head -n 2"))?;
    for line in lines.lines() {
        let status: Value = serde_json::from_str(line).context(line.to_owned())?;
        ensure!(status["containers"][0]["state"] == "attached", "{status}");
    }
    agent.kill("web")?;
    agent.end()
}
