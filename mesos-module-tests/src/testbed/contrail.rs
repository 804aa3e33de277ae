//! Contrail for one or more hosts: a simulated API server, the real manager, and on each host a
//! simulated vRouter agent that forwards packets. Everything listens inside the hosts' namespaces.

mod objects;
mod vrouter;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use contrail_mesos_manager::vnc::{Object, VncClient, VncOptions, server_address};
use contrail_mesos_sim::vnc as api;
use serde_json::{Value, json};

use self::objects::network;
pub use self::objects::{open_ports, provision};
pub use self::vrouter::Vrouter;
use super::Host;
use super::agent::WAIT_TIMEOUT;
use super::manager::{DEFAULT_PROJECT, LEGACY_PORT, ManagerProcess, agent_config};

/// Where the API server listens, on the host that has it.
const API_PORT: u16 = 8082;
const CONTROL_PORT: u16 = 8083;
/// The token that agents and manager share.
const TOKEN: &str = "a-token-of-this-test-alone";

/// The API server and the manager, on one host.
pub struct Contrail {
    // First, so that the manager ends before the server that it writes to.
    manager: ManagerProcess,
    api: api::Handle,
    client: VncClient,
    host: Host,
    baseline: ApiInventory,
}

/// The objects and addresses of the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ApiInventory {
    objects: BTreeMap<String, usize>,
    addresses: Vec<String>,
}

impl ApiInventory {
    fn of(api: &api::Handle) -> Self {
        let mut addresses: Vec<String> = api
            .addresses()
            .iter()
            .map(|(subnet, address, _)| format!("{address} of {subnet}"))
            .collect();
        addresses.sort();
        Self {
            objects: api.counts(),
            addresses,
        }
    }
}

impl Contrail {
    /// Starts API server and manager on a host, with the test networks.
    pub fn start(host: &Host) -> Result<Self> {
        Self::start_with(host, "", &[])
    }

    /// As [`Self::start`], with more tables in the manager's configuration, and with the manager
    /// run through another command, if there is one.
    pub fn start_with(host: &Host, tables: &str, command: &[&str]) -> Result<Self> {
        let at = |port| SocketAddr::new(host.address(), port);
        let options = api::Options::default();
        let (_, api) = host.block_on(api::Server::start_on(at(API_PORT), options))?;
        host.block_on(api.control(at(CONTROL_PORT)))?;
        let server = server_address(&at(API_PORT).to_string())?;
        let client = host.block_on(async { VncClient::new(VncOptions::new(vec![server])) })?;
        host.block_on(provision(&client))?;
        let config = format!(
            "legacy_listen = '{}'\n{DEFAULT_PROJECT}\
             create = ['networks']\n\
             [vnc]\n\
             servers = ['http://{}']\n\
             [provision]\n\
             pod_task_subnets = ['10.32.0.0/16']\n\
             ip_fabric_subnets = ['10.64.0.0/16']\n\
             {tables}",
            at(LEGACY_PORT),
            at(API_PORT),
        );
        let manager = ManagerProcess::new(host, "manager", TOKEN, &config)?;
        let mut manager = manager.run_through(command);
        manager.start()?;
        manager.wait_until_leading()?;
        Ok(Self {
            // With the objects that the manager provisions.
            baseline: ApiInventory::of(&api),
            api,
            client,
            manager,
            host: host.clone(),
        })
    }

    /// The simulated API server.
    #[must_use]
    pub fn api(&self) -> &api::Handle {
        &self.api
    }

    /// The API server's URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}:{API_PORT}", self.host.address())
    }

    /// A client of the API server, for use on its host.
    #[must_use]
    pub fn client(&self) -> &VncClient {
        &self.client
    }

    /// Creates an object unless it exists.
    pub fn ensure<T: Object>(&self, object: &T) -> Result<()> {
        self.host.block_on(self.client.ensure(object))?;
        Ok(())
    }

    /// Creates a virtual network with these subnets, and its parents.
    pub fn network(&self, name: &str, subnets: &[&str]) -> Result<()> {
        self.host.block_on(network(&self.client, name, subnets))
    }

    /// The manager.
    #[must_use]
    pub fn manager(&self) -> &ManagerProcess {
        &self.manager
    }

    /// The manager, to start or end it.
    pub fn manager_mut(&mut self) -> &mut ManagerProcess {
        &mut self.manager
    }

    /// A summary of the API server's content, to print.
    #[must_use]
    pub fn summary(&self) -> String {
        let inventory = ApiInventory::of(&self.api);
        let count: usize = inventory.objects.values().sum();
        format!("{count} objects, {} addresses", inventory.addresses.len())
    }

    /// The containers' objects, one a line, to print.
    #[must_use]
    pub fn container_objects(&self) -> Vec<String> {
        let names = |object: &Value| {
            let parts = object["fq_name"].as_array().into_iter().flatten();
            parts
                .filter_map(Value::as_str)
                .collect::<Vec<_>>()
                .join(":")
        };
        let mut lines = Vec::new();
        for address in self.api.objects("instance-ip") {
            lines.push(format!(
                "instance-ip {:<40} {:<20} {}",
                names(&address),
                address["instance_ip_address"].as_str().unwrap_or_default(),
                names(&json!({ "fq_name": address["virtual_network_refs"][0]["to"] }))
            ));
        }
        for floating in self.api.objects("floating-ip") {
            lines.push(format!(
                "floating-ip {} {}",
                floating["floating_ip_address"].as_str().unwrap_or_default(),
                names(&floating)
            ));
        }
        for router in self.api.objects("virtual-router") {
            let refs = router["virtual_machine_refs"]
                .as_array()
                .map_or(0, Vec::len);
            lines.push(format!(
                "virtual-router {}: {refs} virtual machines",
                names(&router)
            ));
        }
        lines
    }

    /// Starts the vRouter agent of a host, and registers its virtual-router as `name`.
    pub fn vrouter(&mut self, host: &Host, name: &str, uplink: Option<&str>) -> Result<Vrouter> {
        let registered = Vrouter::register(&self.client, name, host.address());
        self.host.block_on(registered)?;
        self.set_baseline();
        Vrouter::start(&self.control(), host, name, uplink)
    }

    fn control(&self) -> String {
        format!("http://{}:{CONTROL_PORT}", self.host.address())
    }

    /// The token that agents and manager share.
    #[must_use]
    pub fn token(&self) -> &'static str {
        TOKEN
    }

    /// The configuration of the agent on a host with this vRouter agent.
    pub fn agent_config(&self, node: &Host, vrouter: &Vrouter) -> Result<String> {
        agent_config(node, &[self.host.address()], TOKEN, vrouter)
    }

    /// Makes the API server's present content the baseline.
    pub fn set_baseline(&mut self) {
        self.baseline = ApiInventory::of(&self.api);
    }

    /// Waits until the API server holds no object of that type.
    pub fn expect_none_of(&self, kind: &str) -> Result<()> {
        let started = Instant::now();
        loop {
            let objects = self.api.objects(kind);
            if objects.is_empty() {
                return Ok(());
            }
            ensure!(started.elapsed() < WAIT_TIMEOUT, "left: {objects:?}");
            sleep(Duration::from_millis(50));
        }
    }

    /// Waits until the API server holds exactly the baseline's objects and addresses.
    pub fn expect_baseline(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            let inventory = ApiInventory::of(&self.api);
            if inventory == self.baseline {
                return Ok(());
            }
            if started.elapsed() > WAIT_TIMEOUT {
                bail!(
                    "the API server held\n{:?}\nand holds\n{inventory:?}\nthe manager's log:\n{}",
                    self.baseline,
                    self.manager.log()
                );
            }
            sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Contrail {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the manager's log:\n{}", self.manager.log());
        }
    }
}
