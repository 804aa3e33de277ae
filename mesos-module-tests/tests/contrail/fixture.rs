//! One host with an agent, a vRouter agent, the manager and the API server.

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::Host;
use mesos_module_tests::testbed::agent::{self, Agent};
use mesos_module_tests::testbed::contrail::{Contrail, Vrouter};
use mesos_module_tests::testbed::framework::{TaskSpec, TaskUpdate};
use serde_json::{Value, json};

/// The network of the agent's configuration.
pub(crate) const NETWORK: &str = "contrail-cni-plugin";
/// Labels that choose the blue network.
pub(crate) const BLUE: [(&str, &str); 3] = [
    ("networks", "blue-network"),
    ("project-name", "default-project"),
    ("domain-name", "default-domain"),
];

pub(crate) struct Fixture {
    pub(crate) agent: Agent,
    pub(crate) vrouter: Vrouter,
    pub(crate) contrail: Contrail,
}

impl Fixture {
    pub(crate) fn start() -> Result<Self> {
        Self::on(agent::host()?, "", None)
    }

    /// Starts on this host, with more networks in the agent's configuration, and floating IPs on
    /// the interface `uplink`.
    pub(crate) fn on(host: Host, networks: &str, uplink: Option<&str>) -> Result<Self> {
        let mut contrail = Contrail::start(&host)?;
        let vrouter = contrail.vrouter(&host, "node-1", uplink)?;
        let config = format!("{}{networks}", contrail.agent_config(&host, &vrouter)?);
        let agent = Agent::start_on(host, &config, |cluster| cluster)?;
        Ok(Self {
            agent,
            vrouter,
            contrail,
        })
    }

    /// Waits until nothing of any container is left: objects, addresses, ports, port files, links,
    /// checkpoints, pending teardowns.
    pub(crate) fn expect_nothing(&self) -> Result<()> {
        self.agent.expect_no_state()?;
        self.vrouter.expect_no_port()?;
        self.contrail.expect_baseline()?;
        self.agent.expect_no_container()
    }

    /// Stops everything, and fails if anything is left.
    pub(crate) fn end(self) -> Result<()> {
        let host = self.agent.host();
        host.block_on(self.agent.framework.teardown())?;
        self.expect_nothing()?;
        let Self {
            agent,
            vrouter,
            contrail,
        } = self;
        vrouter.stop()?;
        drop(contrail);
        agent.close()
    }
}

/// A task with labels.
pub(crate) fn task(id: &str, command: &str, labels: &[(&str, &str)]) -> TaskSpec {
    TaskSpec::new(id, command).network_info(info(labels))
}

pub(crate) fn info(labels: &[(&str, &str)]) -> Value {
    let labels: Vec<Value> = labels
        .iter()
        .map(|(key, value)| json!({ "key": key, "value": value }))
        .collect();
    json!({ "name": NETWORK, "labels": { "labels": labels } })
}

/// A long-running task on the blue network.
pub(crate) fn blue(id: &str) -> TaskSpec {
    task(id, "exec sleep 1000", &BLUE)
}

/// The task's first address, which must be in that subnet.
pub(crate) fn address_in(update: &TaskUpdate, subnet: &str) -> Result<String> {
    let address = update
        .addresses()
        .first()
        .with_context(|| format!("no address: {update}"))?
        .to_string();
    ensure!(address.starts_with(subnet), "{address} is not in {subnet}");
    Ok(address)
}
