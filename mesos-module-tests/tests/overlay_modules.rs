//! The modules with the names of the DC/OS overlay modules, in the real Mesos: the manager in a master,
//! the node daemon in agents whose containers get their networks by `network/cni`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::agent::{fetch, host_at, serve, state_dir};
use mesos_module_tests::testbed::framework::TaskSpec;
use mesos_module_tests::testbed::multi_node::SERVICES;
use mesos_module_tests::testbed::overlay::two_overlays;
use mesos_module_tests::testbed::{
    Cluster, ClusterBuilder, Host, Scheduler, agent_library, master_library, until,
};
use serde_json::{Value, json};

/// The port of the manager in the master.
const MANAGER_PORT: u16 = 6992;
/// The program of Mesos that maps ports, which the Python package of Mesos lacks: it calls the plugin
/// of `delegate`, and maps none.
const PORT_MAPPER: &str = r#"#!/usr/bin/python3
import json, os, subprocess, sys
config = json.load(sys.stdin)
assert config["excludeDevices"] and config["chain"], config
delegate = dict(config["delegate"], name=config["name"], cniVersion="0.2.0")
paths = [os.path.join(path, delegate["type"]) for path in os.environ["CNI_PATH"].split(":")]
plugin = next(path for path in paths if os.path.exists(path))
sys.exit(subprocess.run([plugin], input=json.dumps(delegate).encode()).returncode)
"#;

/// A master and two agents.
struct Modules {
    scheduler: Scheduler,
    master: Cluster,
    agents: [Cluster; 2],
    services: Host,
}

impl Modules {
    fn start() -> Result<Self> {
        let services = Host::with_addresses(SERVICES.into(), &[])?;
        let hosts = [
            host_at([192, 0, 2, 1].into())?,
            host_at([192, 0, 2, 2].into())?,
        ];
        services.connect(&hosts.iter().collect::<Vec<_>>(), &[])?;
        for host in &hosts {
            // As on a real host, no other interface has the uplink's address.
            host.sh(&format!("ip address delete {}/32 dev lo", host.address()))?;
        }
        let file = write_networks(&services, &two_overlays())?;
        let master = Cluster::on(&services)
            .master_alone()
            .module(
                &master_library()?,
                "com_mesosphere_mesos_OverlayMasterManager",
                &[("master_config", &file.display().to_string())],
            )
            .start()?;
        let [one, two] = &hosts;
        let agent_config = two.directory().join("overlay-agent-config.json");
        let config = json!({
            "master": master.master(),
            "cni_dir": cni_directory(two),
            "max_configuration_attempts": 4,
            "network_config": { "allocate_subnet": true, "docker_bridge": false },
        });
        fs::write(&agent_config, config.to_string())?;
        let agents = [
            agent(
                one,
                master.master(),
                "com_mesosphere_mesos_AgentOverlayHelper",
                &[
                    ("master", master.master()),
                    ("cni_dir", &cni_directory(one)),
                ],
            )?
            .start()?,
            agent(
                two,
                master.master(),
                "com_mesosphere_mesos_OverlayAgentManager",
                &[("agent_config", &agent_config.display().to_string())],
            )?
            .start()?,
        ];
        Ok(Self {
            scheduler: Scheduler::start(&services, master.master())?,
            master,
            agents,
            services,
        })
    }

    /// The state that the master answers, once the condition accepts it.
    fn wait_for_state(&self, what: &str, accepts: impl Fn(&Value) -> bool) -> Result<Value> {
        until(what, || {
            let state = self
                .services
                .sh(&format!("curl -sSf -m 10 {}", url("state")))?;
            let state: Value = serde_json::from_str(&state)?;
            ensure!(accepts(&state), "{state}");
            Ok(Some(state))
        })
        .with_context(|| self.logs())
    }

    /// Waits until that many agents have that many overlays without problems.
    fn wait_until_ok(&self, agents: usize, overlays: usize) -> Result<Value> {
        self.wait_for_state("all overlays are configured", |state| {
            let found = state["agents"].as_array().map_or(&[][..], Vec::as_slice);
            let is_ok = |agent: &Value| {
                let found = agent["overlays"].as_array().map_or(&[][..], Vec::as_slice);
                let is_ok = |overlay: &Value| overlay["state"]["status"] == "STATUS_OK";
                found.len() == overlays && found.iter().all(is_ok)
            };
            found.len() == agents && found.iter().all(is_ok)
        })
    }

    fn host(&self, agent: usize) -> &Host {
        self.agents[agent].host()
    }

    fn task(&self, id: &str, agent: usize, command: &str) -> TaskSpec {
        TaskSpec::new(id, command)
            .network("vxlan-1")
            .on_host(&self.host(agent).address().to_string())
    }

    /// The CNI configuration of an overlay on an agent.
    fn cni_file(&self, agent: usize, overlay: &str) -> PathBuf {
        PathBuf::from(cni_directory(self.host(agent))).join(format!("{overlay}.conf"))
    }

    fn logs(&self) -> String {
        let clusters = [&self.master, &self.agents[0], &self.agents[1]].into_iter();
        let logs = clusters.map(|cluster| {
            let log = cluster.log().unwrap_or_default();
            let lines: Vec<_> = log.lines().rev().take(40).collect();
            lines.into_iter().rev().collect::<Vec<_>>().join("\n")
        });
        logs.collect::<Vec<_>>().join("\n---\n")
    }
}

fn url(path: &str) -> String {
    format!("http://{SERVICES}:{MANAGER_PORT}/overlay-master/{path}")
}

fn cni_directory(host: &Host) -> String {
    host.directory().join("cni").display().to_string()
}

/// Writes the file of the master module, with state below it.
fn write_networks(services: &Host, networks: &Value) -> Result<PathBuf> {
    let file = services.directory().join("overlay-config.json");
    let new = file.with_extension("new");
    let config = json!({ "replicated_log_dir": services.directory(), "network": networks });
    fs::write(&new, config.to_string())?;
    fs::rename(&new, &file)?;
    Ok(file)
}

/// An agent with `network/cni` and a module that writes its configurations.
fn agent(
    host: &Host,
    master: &str,
    module: &str,
    parameters: &[(&str, &str)],
) -> Result<ClusterBuilder> {
    let plugins = host.directory().join("plugins");
    fs::create_dir_all(&plugins)?;
    let port_mapper = plugins.join("mesos-cni-port-mapper");
    fs::write(&port_mapper, PORT_MAPPER)?;
    fs::set_permissions(&port_mapper, fs::Permissions::from_mode(0o755))?;
    let name = format!("agent-{}", host.address());
    let state = state_dir(host).display().to_string();
    let own = [("name", name.as_str()), ("state_dir", state.as_str())];
    let all = [parameters, &own].concat();
    Ok(Cluster::on(host)
        .agent_of(master)
        .module(&agent_library()?, module, &all)
        .isolation(&["network/cni"])
        .env(
            "MESOS_NETWORK_CNI_PLUGINS_DIR",
            &format!("{}:/usr/lib/cni", plugins.display()),
        )
        .env("MESOS_NETWORK_CNI_CONFIG_DIR", &cni_directory(host)))
}

/// The subnets and tunnel endpoints in a state.
fn allocations(state: &Value) -> Vec<Value> {
    let agents = state["agents"].as_array().into_iter().flatten();
    let overlays = agents.flat_map(|agent| {
        let overlays = agent["overlays"].as_array().into_iter().flatten();
        overlays.map(|overlay| json!([agent["ip"], overlay["subnet"], overlay["backend"]]))
    });
    overlays.collect()
}

#[test]
fn overlay_modules_work_as_those_of_dcos() -> Result<()> {
    let mut modules = Modules::start()?;
    let state = modules.wait_until_ok(2, 2)?;
    expect_original_formats(&modules, &state)?;

    // Containers on two hosts, and the world outside, which has no route to them.
    let server = modules
        .scheduler
        .run(modules.task("server", 0, &serve("page")))?;
    let address = server.addresses().first().copied().context("no address")?;
    let command = fetch(&format!("http://{address}/"));
    modules
        .scheduler
        .passes(modules.task("client", 1, &command))?;
    let command = fetch(&format!("http://{}/master/health", modules.master.master()));
    modules
        .scheduler
        .passes(modules.task("outside", 1, &command))?;

    // An agent that is killed starts again with what it had.
    modules.agents[0].kill_9()?;
    modules.agents[0].restart()?;
    let restarted = modules.wait_until_ok(2, 2)?;
    assert_eq!(allocations(&restarted), allocations(&state));
    let command = fetch(&format!("http://{address}/"));
    modules
        .scheduler
        .passes(modules.task("again", 1, &command))?;
    modules.scheduler.kill("server")?;

    // The file of the overlays is followed, in both directions.
    let mut networks = two_overlays();
    let third = json!({ "name": "vxlan-3", "subnet": "172.16.0.0/16", "prefix": 24 });
    networks["overlays"]
        .as_array_mut()
        .context("no array")?
        .push(third);
    write_networks(&modules.services, &networks)?;
    modules.wait_until_ok(2, 3)?;
    assert!(modules.cni_file(0, "vxlan-3").exists());
    // One with a fault changes nothing, and the next one is applied.
    networks["overlays"][0]["prefix"] = json!(99);
    write_networks(&modules.services, &networks)?;
    until("the fault is logged", || {
        let log = modules.master.log()?;
        Ok(log.contains("the overlays stay as they are").then_some(()))
    })?;
    write_networks(&modules.services, &two_overlays())?;
    modules.wait_until_ok(2, 2)?;
    until("the configuration of the removed overlay is gone", || {
        let is_there = (0..2).any(|agent| modules.cni_file(agent, "vxlan-3").exists());
        Ok((!is_there).then_some(()))
    })?;

    // So does a master, whose agents keep what they have meanwhile.
    modules.master.kill_9()?;
    assert!(modules.cni_file(0, "vxlan-1").exists());
    modules.master.restart()?;
    let recovered = modules.wait_until_ok(2, 2)?;
    assert_eq!(allocations(&recovered), allocations(&state));
    expect_deletion(&mut modules)
}

/// The CNI configurations and the answers are those of the original modules.
fn expect_original_formats(modules: &Modules, state: &Value) -> Result<()> {
    assert_eq!(state["network"]["overlays"][0]["subnet"], "192.168.0.0/17");
    assert_eq!(state["network"]["vtep_mac_oui"], "70:b3:d5:00:00:00");
    for (index, agent) in state["agents"].as_array().into_iter().flatten().enumerate() {
        let host = modules.host(index);
        assert_eq!(agent["ip"], host.address().to_string());
        let overlay = &agent["overlays"][0];
        let name = overlay["info"]["name"].as_str().context("no name")?;
        assert_eq!(name, "vxlan-1");
        assert_eq!(overlay["mesos_bridge"]["name"], "m-vxlan-1");
        assert_eq!(overlay["docker_bridge"]["name"], "d-vxlan-1");
        let vxlan = &overlay["backend"]["vxlan"];
        let endpoint = vxlan["vtep_ip"].as_str().context("no endpoint")?;
        assert!(endpoint.starts_with("44.128.0.") && endpoint.ends_with("/16"));
        let file = fs::read_to_string(modules.cni_file(index, name))?;
        let expected = json!({
            "name": "vxlan-1", "type": "mesos-cni-port-mapper", "excludeDevices": ["m-vxlan-1"],
            "chain": "M-VXLAN-1",
            "delegate": {
                "type": "bridge", "bridge": "m-vxlan-1", "isGateway": true, "ipMasq": false,
                "hairpinMode": true, "mtu": 1420,
                "ipam": {
                    "type": "host-local", "subnet": overlay["mesos_bridge"]["ip"],
                    "routes": [{ "dst": "0.0.0.0/0" }],
                },
            },
        });
        assert_eq!(serde_json::from_str::<Value>(&file)?, expected);
        let socket = state_dir(host).join("node/api.sock");
        let get = format!(
            "curl -sSf -m 10 --unix-socket {} http://localhost/overlay-agent/overlay",
            socket.display()
        );
        let own: Value = serde_json::from_str(&host.sh(&get)?)?;
        assert_eq!(own["ip"], agent["ip"]);
        assert_eq!(own["overlays"][0]["backend"], overlay["backend"]);
    }
    let services = &modules.services;
    let protobuf = format!(
        "curl -sSf -o /dev/null -w '%{{content_type}}' -H 'Accept: application/x-protobuf' {}",
        url("state")
    );
    assert_eq!(services.sh(&protobuf)?, "application/x-protobuf");
    let jsonp = services.sh(&format!("curl -sSf '{}?jsonp=f'", url("state")))?;
    assert!(
        jsonp.starts_with("f({") && jsonp.ends_with("});"),
        "{jsonp}"
    );
    Ok(())
}

/// Deletes an agent that is gone.
fn expect_deletion(modules: &mut Modules) -> Result<()> {
    let services = modules.services.clone();
    let status = |arguments: &str| {
        let url = url("agents/delete");
        services.sh(&format!(
            "curl -sS -m 10 -o /dev/null -w '%{{http_code}}' {arguments} {url}"
        ))
    };
    assert_eq!(status("")?, "405");
    assert_eq!(status("-d '{\"agents\": [\"x\"]}'")?, "400");
    assert_eq!(
        status("-H 'Origin: http://evil.example' -d '{\"agents\": []}'")?,
        "403"
    );
    modules.agents[1].kill_9()?;
    let answer = services.sh(&format!(
        "curl -sSf -m 10 -d '{{\"agents\": [\"192.0.2.2\"]}}' {}",
        url("agents/delete")
    ))?;
    let answer: Value = serde_json::from_str(&answer)?;
    let agents = answer["agents"].as_array().context("no agents")?;
    ensure!(
        agents.len() == 1 && agents[0]["ip"] == "192.0.2.1",
        "{answer}"
    );
    let host = modules.host(0).clone();
    until("nothing leads to the deleted agent", || {
        let routes = host.sh("ip route show proto 133")?;
        ensure!(routes.is_empty(), "{routes}");
        Ok(Some(()))
    })
}

#[test]
fn wrong_parameters_refuse_the_start() -> Result<()> {
    let host = Host::start([192, 0, 2, 1].into())?;
    let (master, agent) = (master_library()?, agent_library()?);
    let networks = host.directory().join("networks.json").display().to_string();
    fs::write(&networks, two_overlays().to_string())?;
    let wrong = host.directory().join("wrong.json").display().to_string();
    let overlapping = two_overlays().to_string().replace("128.0/17", "0.0/17");
    fs::write(&wrong, overlapping)?;
    let helper = "com_mesosphere_mesos_MasterOverlayHelper";
    let manager = "com_mesosphere_mesos_OverlayMasterManager";
    let agent_manager = "com_mesosphere_mesos_OverlayAgentManager";
    for (library, module, parameters, expected) in [
        (&master, helper, &[][..], "overlays is missing"),
        (
            &master,
            helper,
            &[("overlays", "/nonexistent")],
            "cannot read",
        ),
        (&master, helper, &[("overlays", wrong.as_str())], "overlap"),
        (
            &master,
            helper,
            &[("overlays", networks.as_str()), ("prot", "1")],
            "no parameter",
        ),
        (
            &master,
            manager,
            &[("master_config", "/nonexistent")],
            "cannot read",
        ),
        (
            &agent,
            agent_manager,
            &[("agent_config", networks.as_str())],
            "cni_dir",
        ),
    ] {
        let started = Cluster::on(&host)
            .master_alone()
            .module(library, module, parameters)
            .start();
        let Err(error) = started else {
            anyhow::bail!("{module} started with {parameters:?}");
        };
        let error = format!("{error:#}");
        ensure!(error.contains(expected), "{parameters:?}: {error}");
        ensure!(error.contains("cannot create the overlay"), "{error}");
    }
    Ok(())
}
