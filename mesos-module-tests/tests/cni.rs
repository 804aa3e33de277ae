//! Networks of CNI plugins on the real agent, with results that network/cni cannot read.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::agent::{self, Agent, WAIT_TIMEOUT, address, fetch, serve};
use mesos_module_tests::testbed::framework::{TaskSpec, TaskState};
use mesos_module_tests::testbed::program;
use serde_json::{Value, json};
use tempfile::TempDir;

/// CNI's directory of one agent, with Debian's plugins and its own.
struct Cni(TempDir);

impl Cni {
    fn new() -> Result<Self> {
        let cni = Self(tempfile::tempdir()?);
        for directory in ["net.d", "bin", "leases"] {
            fs::create_dir(cni.0.path().join(directory))?;
        }
        Ok(cni)
    }

    /// The agent's configuration: no network of its own.
    fn config(&self) -> String {
        let place = self.0.path().display();
        format!(
            "[cni]\nconfig_dir = '{place}/net.d'\nplugin_dirs = ['{place}/bin', '/usr/lib/cni']\n"
        )
    }

    fn write(&self, file: &str, network: &Value) -> Result<()> {
        Ok(fs::write(
            self.0.path().join("net.d").join(file),
            network.to_string(),
        )?)
    }

    fn remove(&self, file: &str) -> Result<()> {
        Ok(fs::remove_file(self.0.path().join("net.d").join(file))?)
    }

    fn script(&self, name: &str, text: &str) -> Result<()> {
        let path = self.0.path().join("bin").join(name);
        let place = self.0.path().display();
        fs::write(&path, format!("#!/bin/sh\nplace={place}\n{text}\n"))?;
        Ok(fs::set_permissions(
            &path,
            fs::Permissions::from_mode(0o755),
        )?)
    }

    /// bridge and host-local: `interfaces` and `ips` with an address of each family.
    fn bridge(&self) -> Value {
        json!({
            "type": "bridge", "bridge": "peer0", "isGateway": true,
            "ipam": {
                "type": "host-local", "dataDir": self.0.path().join("leases"),
                "ranges": [[{ "subnet": "10.77.0.0/24" }], [{ "subnet": "fd00:77::/64" }]],
                "routes": [{ "dst": "0.0.0.0/0" }]
            }
        })
    }

    fn named(&self, name: &str, version: &str) -> Value {
        let mut network = self.bridge();
        network["name"] = name.into();
        network["cniVersion"] = version.into();
        network
    }

    fn leases(&self) -> Result<usize> {
        let mut count = 0;
        for network in fs::read_dir(self.0.path().join("leases"))? {
            for file in fs::read_dir(network?.path())? {
                let name = file?.file_name();
                let name = name.to_string_lossy();
                count += usize::from(name.contains(['.', ':']) && !name.contains("last"));
            }
        }
        Ok(count)
    }

    /// Removes what the plugins share, and fails if anything of a container is left.
    fn end(&self, agent: Agent) -> Result<()> {
        let deadline = std::time::Instant::now() + WAIT_TIMEOUT;
        let records = agent.state_dir().join("cni");
        let left = || -> Result<usize> {
            Ok(self.leases()? + fs::read_dir(&records).map_or(0, Iterator::count))
        };
        while left()? > 0 {
            ensure!(
                std::time::Instant::now() < deadline,
                "{} leases are left",
                self.leases()?
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        agent
            .host()
            .sh("ip link delete peer0 2>/dev/null || true; nft flush ruleset")?;
        agent.end()
    }
}

#[test]
fn cni_network_gives_its_addresses_to_tasks() -> Result<()> {
    let cni = Cni::new()?;
    cni.write("new.conf", &cni.named("new", "1.0.0"))?;
    cni.write("middle.json", &cni.named("middle", "0.3.1"))?;
    let agent = Agent::start(&cni.config())?;
    for network in ["new", "middle"] {
        let running = agent.run(TaskSpec::new(network, "sleep 1000").network(network))?;
        let addresses: Vec<String> = running
            .addresses()
            .iter()
            .map(ToString::to_string)
            .collect();
        ensure!(addresses.len() == 2, "{running}");
        ensure!(addresses[0].starts_with("10.77.0."), "{running}");
        ensure!(addresses[1].starts_with("fd00:77::"), "{running}");
        agent
            .host()
            .sh(&format!("ping -c 1 -W 5 {}", addresses[0]))?;
        ensure!(cni.leases()? == 2, "{} leases", cni.leases()?);
        agent.kill(network)?;
        agent.expect_no_state()?;
    }
    cni.end(agent)
}

#[test]
fn cni_plugin_chain_maps_a_port() -> Result<()> {
    let cni = Cni::new()?;
    cni.write(
        "chain.conflist",
        &json!({
            "name": "chain", "cniVersion": "1.0.0",
            "plugins": [cni.bridge(), {
                "type": "portmap", "snat": true, "capabilities": { "portMappings": true }
            }],
        }),
    )?;
    let agent = Agent::start(&cni.config())?;
    let task = TaskSpec::new("web", &serve("web"))
        .ports(&[31080])
        .network_info(json!({
            "name": "chain",
            "port_mappings": [{ "host_port": 31080, "container_port": 80, "protocol": "tcp" }],
        }));
    agent.run(task)?;
    let url = format!("http://{}:31080/", agent.host().address());
    let fetched = agent.host().sh(&fetch(&url))?;
    ensure!(fetched.trim() == "web", "{fetched}");
    agent.kill("web")?;
    agent.expect_no_state()?;
    let rules = agent.host().sh("nft list ruleset")?;
    ensure!(!rules.contains("31080"), "{rules}");
    cni.end(agent)
}

#[test]
fn cni_networks_follow_their_configuration_files() -> Result<()> {
    let cni = Cni::new()?;
    let agent = Agent::start(&cni.config())?;
    let refused = |id: &str| agent.refused(TaskSpec::new(id, "true").network("blue"));
    let message = refused("early")?;
    ensure!(message.contains("unknown network \"blue\""), "{message}");
    fs::write(cni.0.path().join("net.d/blue.conf"), "{ \"name\": ")?;
    let message = refused("broken")?;
    ensure!(
        message.contains("unknown network \"blue\"")
            && message.contains("blue.conf: is not valid JSON"),
        "{message}"
    );
    cni.write(
        "blue.conf",
        &json!({ "name": "blue", "type": "no-such-plugin" }),
    )?;
    let message = refused("without")?;
    ensure!(
        message.contains("there is no plugin \"no-such-plugin\""),
        "{message}"
    );
    cni.write("blue.conf", &cni.named("blue", "0.4.0"))?;
    // Another one's fault is its own.
    fs::write(cni.0.path().join("net.d/other.conf"), "nonsense")?;
    let running = agent.run(TaskSpec::new("good", "sleep 1000").network("blue"))?;
    ensure!(address(&running)?.to_string().starts_with("10.77.0."));
    cni.remove("blue.conf")?;
    let message = refused("late")?;
    ensure!(message.contains("unknown network \"blue\""), "{message}");
    // It ends as it began.
    agent.kill("good")?;
    cni.end(agent)
}

#[test]
fn cni_container_survives_loss_of_agent_and_configuration() -> Result<()> {
    let cni = Cni::new()?;
    cni.write("blue.conf", &cni.named("blue", "1.0.0"))?;
    let mut agent = Agent::start(&cni.config())?;
    let running = agent.run(TaskSpec::new("one", "sleep 1000").network("blue"))?;
    agent.run(TaskSpec::new("two", "sleep 1000").network("blue"))?;
    cni.remove("blue.conf")?;
    agent.crash()?;
    let containers = agent.containers()?;
    let shown = containers
        .iter()
        .find(|container| container["executor_id"]["value"] == "one")
        .context("the container is gone")?;
    let infos = &shown["container_status"]["network_infos"];
    assert_eq!(
        infos[0]["ip_addresses"][0]["ip_address"],
        address(&running)?.to_string()
    );
    agent
        .host()
        .sh(&format!("ping -c 1 -W 5 {}", address(&running)?))?;
    // A removed interface is reported, also after a restart.
    let id = mesos_module_tests::testbed::agent::container(&running)?;
    agent.host().sh(&format!("ip -n {id} link delete eth0"))?;
    let end = agent.ended("one")?;
    ensure!(end.state == TaskState::TaskFailed, "{end}");
    ensure!(end.message.contains("eth0 is gone"), "{end}");
    agent.kill("two")?;
    cni.end(agent)
}

#[test]
fn loopback_network_gives_no_address_to_status_and_hosts() -> Result<()> {
    let cni = Cni::new()?;
    cni.write("blue.conf", &cni.named("blue", "1.0.0"))?;
    for version in ["0.2.0", "0.3.1", "1.0.0"] {
        cni.write(
            &format!("lo-{version}.conf"),
            &json!({ "name": format!("lo-{version}"), "cniVersion": version, "type": "loopback" }),
        )?;
    }
    let agent = Agent::start(&cni.config())?;
    for (id, networks) in [
        ("first", ["lo-1.0.0", "blue"]),
        ("last", ["blue", "lo-0.3.1"]),
        ("old", ["lo-0.2.0", "blue"]),
    ] {
        let on_networks = |task: TaskSpec| {
            let networks = networks.iter();
            networks.fold(task, |task, network| task.network(network))
        };
        let running = agent.run(on_networks(TaskSpec::new(id, "sleep 1000")))?;
        let addresses = running.addresses();
        ensure!(addresses.len() == 2, "{running}");
        ensure!(
            addresses.iter().all(|address| !address.is_loopback()),
            "{running}"
        );
        let check = "test \"$(grep -c \" $(hostname)$\" /etc/hosts)\" = 2 \
             && grep -q \"^10.77.0.[0-9]* $(hostname)$\" /etc/hosts \
             && grep -q \"^fd00:77::[0-9a-f]* $(hostname)$\" /etc/hosts";
        agent.passes(on_networks(TaskSpec::new(&format!("{id}-hosts"), check)))?;
        agent.kill(id)?;
    }
    agent.expect_no_state()?;
    cni.end(agent)
}

#[test]
fn cni_plugins_get_the_highest_common_version() -> Result<()> {
    let cni = Cni::new()?;
    cni.write(
        "blue.conflist",
        &json!({
            "name": "blue", "cniVersions": ["0.4.0", "1.0.0"],
            "plugins": [cni.bridge(), { "type": "firewall" }],
        }),
    )?;
    // An editor's backup of it is no network.
    cni.write("blue.conflist~", &cni.named("backup", "1.0.0"))?;
    let agent = Agent::start(&cni.config())?;
    let running = agent.run(TaskSpec::new("one", "sleep 1000").network("blue"))?;
    ensure!(running.addresses().len() == 2, "{running}");
    let message = agent.refused(TaskSpec::new("two", "true").network("backup"))?;
    ensure!(
        message.contains("unknown network \"backup\"")
            && message.contains("blue.conflist~: is ignored"),
        "{message}"
    );
    agent.kill("one")?;
    agent.expect_no_state()?;
    cni.end(agent)
}

#[test]
fn failing_del_does_not_keep_the_container() -> Result<()> {
    let cni = Cni::new()?;
    cni.script(
        "failing",
        r#"[ $CNI_COMMAND = ADD ] || [ -e $place/heal ] || { echo '{"code":11,"msg":"not now"}'; exit 1; }
/usr/lib/cni/bridge"#,
    )?;
    let mut network = cni.named("blue", "1.0.0");
    network["type"] = "failing".into();
    cni.write("blue.conf", &network)?;
    let agent = Agent::start(&cni.config())?;
    let running = agent.run(TaskSpec::new("one", "sleep 1000").network("blue"))?;
    agent.kill("one")?;
    // The container is gone for the agent, and what its plugin left is not forgotten.
    agent.expect_no_state()?;
    ensure!(agent.containers()?.is_empty(), "{:?}", agent.containers()?);
    ensure!(cni.leases()? == 2, "{} leases", cni.leases()?);
    let records = agent.state_dir().join("cni");
    let container = mesos_module_tests::testbed::agent::container(&running)?;
    let record = fs::read_to_string(records.join(&container).join("eth0.json"))?;
    ensure!(record.contains("not now"), "{record}");
    let status = |arguments: &str| -> Result<String> {
        let state = agent.state_dir();
        let command = format!(
            "{} status --state-dir {} {arguments}",
            program("contrail-mesos")?.display(),
            state.display()
        );
        agent.host().sh(&command)
    };
    let json: Value = serde_json::from_str(&status("-o json")?)?;
    let row = &json["containers"][0];
    ensure!(
        row["container"] == container && row["state"] == "pending-teardown",
        "{json}"
    );
    let table = status("")?;
    ensure!(
        table.contains("pending-teardown") && table.contains("not now"),
        "{table}"
    );
    // It is retried.
    fs::write(cni.0.path().join("heal"), "")?;
    cni.end(agent)
}

/// The calls of docs/install.md, "Migrate from network/cni".
#[test]
fn drained_agent_has_no_container_until_it_is_reactivated() -> Result<()> {
    let cni = Cni::new()?;
    cni.write("blue.conf", &cni.named("blue", "1.0.0"))?;
    let agent = Agent::start(&cni.config())?;
    agent.run(TaskSpec::new("one", "sleep 1000").network("blue"))?;
    let first_agent = || -> Result<Value> {
        let agents = agent
            .cluster
            .master_call(&json!({ "type": "GET_AGENTS" }))?;
        Ok(agents["get_agents"]["agents"][0].clone())
    };
    let id = first_agent()?["agent_info"]["id"].clone();
    agent.cluster.master_call(&json!({
        "type": "DRAIN_AGENT",
        "drain_agent": { "agent_id": id, "max_grace_period": { "seconds": 60 } },
    }))?;
    agent.ended("one")?;
    let start = std::time::Instant::now();
    while first_agent()?["drain_info"]["state"] != "DRAINED" || !agent.containers()?.is_empty() {
        ensure!(start.elapsed() < WAIT_TIMEOUT, "{}", first_agent()?);
        std::thread::sleep(Duration::from_millis(50));
    }
    agent.expect_no_state()?;
    agent.cluster.master_call(&json!({
        "type": "REACTIVATE_AGENT", "reactivate_agent": { "agent_id": id },
    }))?;
    agent.run(TaskSpec::new("two", "sleep 1000").network("blue"))?;
    agent.kill("two")?;
    cni.end(agent)
}

#[test]
fn agent_killed_during_cni_plugin_leaves_nothing() -> Result<()> {
    let cni = Cni::new()?;
    // Slow to begin and slow to end, with the real plugin between.
    cni.script(
        "slow",
        "[ $CNI_COMMAND = DEL ] || { touch $place/begun; sleep 2; }
/usr/lib/cni/bridge
status=$?
[ $CNI_COMMAND = DEL ] || sleep 1
exit $status",
    )?;
    let mut network = cni.named("blue", "1.0.0");
    network["type"] = "slow".into();
    cni.write("blue.conf", &network)?;
    let mut agent = Agent::start(&cni.config())?;
    agent.launch(TaskSpec::new("one", "sleep 1000").network("blue"))?;
    let start = std::time::Instant::now();
    while !cni.0.path().join("begun").exists() {
        ensure!(start.elapsed() < WAIT_TIMEOUT, "the plugin was not run");
        std::thread::sleep(Duration::from_millis(10));
    }
    agent.crash()?;
    agent.settled("one")?;
    cni.end(agent)
}

#[test]
fn cni_plugin_error_reaches_the_task_status() -> Result<()> {
    let cni = Cni::new()?;
    cni.script(
        "unwilling",
        r#"cat > $place/stdin; echo "$CNI_COMMAND" >> $place/calls
[ $CNI_COMMAND = DEL ] && exit
echo '{"cniVersion":"0.2.0","code":7,"msg":"no cable","details":"rack 12"}'; exit 1"#,
    )?;
    cni.write("bad.conf", &json!({ "name": "bad", "type": "unwilling" }))?;
    let agent = Agent::start(&cni.config())?;
    let task = TaskSpec::new("bad", "true").network_info(json!({
        "name": "bad",
        "labels": { "labels": [{ "key": "networks", "value": "blue-network" }] },
        "ip_addresses": [{}],
    }));
    let message = agent.refused(task)?;
    ensure!(
        message.contains("the CNI plugin unwilling failed to ADD: no cable; rack 12 (code 7)"),
        "{message}"
    );
    // The plugin got the input that network/cni gives, and its DEL followed.
    let stdin: Value = serde_json::from_slice(&fs::read(cni.0.path().join("stdin"))?)?;
    assert_eq!(
        stdin["args"]["org.apache.mesos"]["network_info"],
        json!({
            "name": "bad",
            "labels": { "labels": [{ "key": "networks", "value": "blue-network" }] },
            "ip_addresses": [{ "protocol": "IPv4" }],
        })
    );
    agent.expect_no_state()?;
    let calls = fs::read_to_string(cni.0.path().join("calls"))?;
    assert_eq!(calls, "ADD\nDEL\n");
    cni.end(agent)
}

/// The plugins choose address and MAC address.
#[test]
fn attach_by_hand_prints_what_the_plugins_made() -> Result<()> {
    let cni = Cni::new()?;
    cni.write("new.conf", &cni.named("new", "1.0.0"))?;
    let host = agent::host()?;
    let config = host.directory().join("agent.toml");
    let state = host.directory().join("state");
    fs::write(
        &config,
        format!("state_dir = '{}'\n{}", state.display(), cni.config()),
    )?;
    let command = format!(
        "{} --config {}",
        program("contrail-mesos")?.display(),
        config.display()
    );
    host.sh("ip netns add box")?;
    let attach = format!("{command} attach box --netns box --network new -o json");
    let printed: Value = serde_json::from_str(&host.sh(&attach)?)?;
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
    host.sh(&format!("{command} detach box"))?;
    ensure!(cni.leases()? == 0, "{} leases", cni.leases()?);
    host.sh("! ip netns exec box ip link show dev eth0 2>/dev/null && ip link delete peer0")?;
    Ok(())
}
