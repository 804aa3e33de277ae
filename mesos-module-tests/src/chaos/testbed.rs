//! The hosts and services of a cluster, placed so that each can fail alone.
//!
//! ```text
//! services  ZooKeeper, API server, Marathon; the switch between all hosts
//! node      Mesos (master and agent, one process) with our module, a vRouter agent
//! first     a manager
//! second    another
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use contrail_mesos_manager::vnc::{
    FloatingIpPool, Object as _, SecurityGroup, VncClient, VncOptions, server_address,
};
use contrail_mesos_sim::marathon::{Marathon, Options as MarathonOptions};
use contrail_mesos_sim::vnc as api;
use reqwest::Method;
use serde_json::Value;

use super::apps::{GROUPS, POOLS};
use super::manager::{FaultyManager, ServiceAddresses};
use super::services::{API_PORT, CONTROL_PORT, MARATHON_PORTS, TOKEN, ZOOKEEPER_PORT};
use crate::testbed::contrail::{Vrouter, open_ports, provision};
use crate::testbed::leftovers::Leftovers;
use crate::testbed::zookeeper::ZooKeeper;
use crate::testbed::{Cluster, Host, agent, manager};

/// Numbers of objects and addresses in the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ObjectCounts {
    pub(super) objects: BTreeMap<String, usize>,
    pub(super) addresses: usize,
}

impl ObjectCounts {
    pub(super) fn now(api: &api::Handle) -> Self {
        Self {
            objects: api.counts(),
            addresses: api.addresses().len(),
        }
    }
}

/// A running cluster.
pub(super) struct Testbed {
    pub(super) managers: Vec<FaultyManager>,
    pub(super) marathon: Marathon,
    pub(super) cluster: Cluster,
    pub(super) vrouter: Vrouter,
    pub(super) zookeeper: ZooKeeper,
    pub(super) api: api::Handle,
    /// The objects before the first container.
    pub(super) baseline: ObjectCounts,
    /// The node before the first container.
    pub(super) clean: Leftovers,
    pub(super) node: Host,
    pub(super) services: Host,
}

/// The name of the node's virtual-router.
const ROUTER: &str = "node-1";

impl Testbed {
    /// Starts everything, and waits until a manager leads.
    pub(super) fn start() -> Result<Self> {
        let address = |last: u8| IpAddr::from([192, 0, 2, last]);
        let services = Host::start(address(1))?;
        let node = agent::host_at(address(21))?;
        let first = Host::start(address(11))?;
        let second = Host::start(address(12))?;
        services.connect(&[&node, &first, &second], &[])?;
        let zookeeper = ZooKeeper::start(&services, ZOOKEEPER_PORT)?;
        let (api, client) = api_server(&services)?;
        let registered = Vrouter::register(&client, ROUTER, node.address());
        services.block_on(registered)?;
        let control = format!(
            "http://{}",
            SocketAddr::new(services.address(), CONTROL_PORT)
        );
        let vrouter = Vrouter::start(&control, &node, ROUTER, None)?;
        let clean = node.leftovers()?;
        let managers = [first.address(), second.address()];
        let config = manager::agent_config(&node, &managers, TOKEN, &vrouter)?;
        let cluster = agent::with_module(&node, &config)?.start()?;
        let options = MarathonOptions {
            master: cluster.master().to_owned(),
            listen: SocketAddr::new(services.address(), MARATHON_PORTS[0]),
            standbys: MARATHON_PORTS[1..]
                .iter()
                .map(|port| SocketAddr::new(services.address(), *port))
                .collect(),
            // Longer than a killed agent needs to register again.
            reconciliation_initial_delay: Duration::from_secs(5),
            ..MarathonOptions::default()
        };
        let marathon = services.block_on(Marathon::start(options))?;
        let addresses = ServiceAddresses {
            services: &services,
            zookeeper: &zookeeper.url("/contrail/managers"),
            mesos: cluster.master(),
        };
        let mut managers = vec![
            FaultyManager::new(&first, "first", &addresses)?,
            FaultyManager::new(&second, "second", &addresses)?,
        ];
        for manager in &mut managers {
            manager.process.start()?;
        }
        let mut testbed = Self {
            managers,
            marathon,
            cluster,
            vrouter,
            zookeeper,
            baseline: ObjectCounts::default(),
            api,
            clean,
            node,
            services,
        };
        testbed.wait_for_leader()?;
        testbed.baseline = ObjectCounts::now(&testbed.api);
        Ok(testbed)
    }

    fn wait_for_leader(&mut self) -> Result<()> {
        let started = std::time::Instant::now();
        while self.leader().is_none() {
            ensure!(
                started.elapsed() < agent::WAIT_TIMEOUT,
                "no manager leads:\n{}\n{}",
                self.managers[0].process.tail(50),
                self.managers[1].process.tail(50)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// The leading manager, if no fault affects it.
    pub(super) fn leader(&self) -> Option<usize> {
        self.managers
            .iter()
            .position(|manager| !manager.faulty && manager.process.is_leading())
    }

    /// All hosts.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Host> {
        let managers = self.managers.iter().map(|manager| manager.process.host());
        [&self.services, &self.node].into_iter().chain(managers)
    }

    /// Sends a request to the first of Marathon's servers that can be reached.
    pub(super) fn request(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let servers = self.marathon.handle().servers();
        self.services.block_on(async {
            let client = reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(2))
                .build()?;
            let mut last_error = None;
            for server in servers {
                let mut request = client.request(method.clone(), format!("http://{server}{path}"));
                if let Some(body) = body {
                    request = request.json(body);
                }
                match request.send().await {
                    Ok(response) => {
                        let status = response.status().as_u16();
                        let body = response.bytes().await?;
                        return Ok((status, serde_json::from_slice(&body).unwrap_or_default()));
                    }
                    // The request did not reach this server.
                    Err(error) if error.is_connect() => last_error = Some(error),
                    Err(error) => return Err(error.into()),
                }
            }
            Err(last_error.map_or_else(|| anyhow::anyhow!("no server"), Into::into))
        })
    }

    /// Gets a path of Marathon's API.
    pub(super) fn get(&self, path: &str) -> Result<Value> {
        let (status, body) = self.request(&Method::GET, path, None)?;
        ensure!(status == 200, "{path}: {status} {body}");
        Ok(body)
    }

    /// Stops everything, and fails if anything is left on the node.
    pub(super) fn stop(self) -> Result<()> {
        let Self {
            managers,
            marathon,
            cluster,
            vrouter,
            zookeeper,
            clean,
            node,
            services,
            ..
        } = self;
        drop(managers);
        services.block_on(marathon.stop(true))?;
        cluster.stop()?;
        vrouter.stop()?;
        node.expect_nothing_since(&clean)?;
        drop(zookeeper);
        Ok(())
    }
}

fn api_server(services: &Host) -> Result<(api::Handle, VncClient)> {
    let at = |port| SocketAddr::new(services.address(), port);
    let options = api::Options {
        // Enough for all requests of a round.
        log_limit: 50_000,
        ..api::Options::default()
    };
    let (_, api) = services.block_on(api::Server::start_on(at(API_PORT), options))?;
    services.block_on(api.control(at(CONTROL_PORT)))?;
    let server = server_address(&at(API_PORT).to_string())?;
    let client = services.block_on(async { VncClient::new(VncOptions::new(vec![server])) })?;
    services.block_on(async {
        provision(&client).await?;
        for name in GROUPS {
            let mut group = SecurityGroup::named(name.parse()?);
            group.security_group_entries = Some(open_ports(&[80]));
            client.ensure(&group).await?;
        }
        for name in POOLS {
            client.ensure(&FloatingIpPool::named(name.parse()?)).await?;
        }
        anyhow::Ok(())
    })?;
    Ok((api, client))
}
