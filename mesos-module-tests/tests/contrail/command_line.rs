//! `contrail-mesos` on a host of Contrail without any agent of Mesos.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::contrail::Contrail;
use mesos_module_tests::testbed::{agent, program};
use serde_json::Value;

use crate::fixture::{BLUE, NETWORK};

#[test]
fn attach_prints_what_was_made_and_a_pending_teardown_is_retried() -> Result<()> {
    let host = agent::host()?;
    let mut contrail = Contrail::start(&host)?;
    let vrouter = contrail.vrouter(&host, "node-1", None)?;
    let config = host.directory().join("agent.toml");
    let state = host.directory().join("state");
    fs::write(
        &config,
        format!(
            "state_dir = '{}'\n{}",
            state.display(),
            contrail.agent_config(&host, &vrouter)?
        ),
    )?;
    let run = |arguments: &str| -> Result<(bool, String)> {
        let output = host
            .command(program("contrail-mesos")?)
            .arg("--config")
            .arg(&config)
            .args(arguments.split(' '))
            .output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8(text)?))
    };
    let succeeds = |arguments: &str| -> Result<String> {
        let (success, text) = run(arguments)?;
        ensure!(success, "{arguments}: {text}");
        Ok(text)
    };
    host.sh("ip netns add box")?;
    let labels: Vec<_> = BLUE
        .iter()
        .map(|(key, value)| format!("--label {key}={value}"))
        .collect();
    let labels = labels.join(" ");
    let attach = format!("attach box --netns box --network {NETWORK} {labels} -o json");
    let printed: Value = serde_json::from_str(&succeeds(&attach)?)?;
    let network = &printed["networks"][0];
    let addresses: Vec<&str> = network["addresses"]
        .as_array()
        .context("no addresses")?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    ensure!(addresses.len() == 2, "of both families: {printed}");
    let inside = host.sh("ip netns exec box ip address show dev eth0")?;
    for address in addresses {
        ensure!(
            inside.contains(&format!(" {address} ")),
            "{address}: {inside}"
        );
    }
    let mac = network["mac"].as_str().context("no MAC address")?;
    ensure!(
        inside.contains(&format!("link/ether {mac} ")),
        "{mac}: {inside}"
    );

    contrail.manager_mut().kill()?;
    let text = succeeds("detach box")?;
    ensure!(
        text.contains("detached") && text.contains("pending"),
        "{text}"
    );
    host.sh("! ip netns exec box ip link show dev eth0 2>/dev/null")?;
    let text = succeeds("status")?;
    ensure!(text.contains("box pending-teardown: "), "{text}");
    let (success, text) = run("detach box")?;
    ensure!(!success && text.contains("still pending"), "{text}");
    contrail.manager_mut().start()?;
    contrail.manager_mut().wait_until_leading()?;
    let text = succeeds("detach box")?;
    ensure!(text.contains("is complete"), "{text}");
    let text = succeeds("detach box")?;
    ensure!(text.contains("nothing to do"), "{text}");
    ensure!(!succeeds("status")?.contains("pending"));
    vrouter.expect_no_port()?;
    contrail.expect_baseline()?;
    vrouter.stop()
}
