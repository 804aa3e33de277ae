//! A Mesos cluster of several hosts.
//!
//! ```text
//! services  the Mesos master, ZooKeeper and the scheduler; the switch between all hosts
//! node 1    a Mesos agent that has loaded the module
//! node 2    another
//! …
//! ```
//!
//! Every host has one address in 192.0.2.0/24, on its interface `uplink`. Clusters share nothing, so
//! several run at the same time.

use std::net::{IpAddr, Ipv4Addr};
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};

use super::agent::{expect_no_state, host_at, with_module};
use super::leftovers::{Leftovers, traces_of};
use super::zookeeper::ZooKeeper;
use super::{Cluster, ClusterBuilder, Host, Scheduler};

/// The address of the host with the services.
pub const SERVICES: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const ZOOKEEPER_PORT: u16 = 2181;

/// A host with a Mesos agent.
pub struct Node {
    /// The agent. Its master is on the host with the services.
    pub cluster: Cluster,
    host: Host,
    clean: Leftovers,
    /// The beginnings of what is expected to be left at the end.
    kept: Vec<String>,
    /// The switch, and its port that leads here.
    switch: Host,
    port: String,
}

impl Node {
    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The name by which the master and [`TaskSpec::on_host`](super::framework::TaskSpec::on_host)
    /// know the agent.
    #[must_use]
    pub fn hostname(&self) -> String {
        self.host.address().to_string()
    }

    /// Expects things with these beginnings to be left at the end, such as `link vtep`.
    pub fn keep(&mut self, beginnings: &[&str]) {
        self.kept.extend(beginnings.iter().map(ToString::to_string));
    }

    /// Waits until no container has left a link, namespace, rule, lease or checkpoint.
    pub fn expect_no_container(&self) -> Result<()> {
        let kinds = ["link ", "namespace ", "table "];
        self.expect_nothing(|line| kinds.iter().any(|kind| line.starts_with(kind)))?;
        expect_no_state(&self.host)
    }

    fn expect_nothing(&self, counts: impl Fn(&str) -> bool) -> Result<()> {
        self.host.expect_nothing(&self.clean, |line| {
            counts(line) && !self.kept.iter().any(|kept| line.starts_with(kept))
        })
    }

    /// Pulls the cable of the host's uplink: neither side sees a carrier any more.
    pub fn pull_cable(&self) -> Result<()> {
        self.switch
            .sh(&format!("ip link set {} down", self.port))
            .map(drop)
    }

    /// Plugs the cable in again.
    pub fn plug_cable(&self) -> Result<()> {
        self.switch
            .sh(&format!("ip link set {} up", self.port))
            .map(drop)
    }
}

/// A Mesos cluster of several hosts. Everything ends with the value.
pub struct MultiNodeCluster {
    /// Launches tasks on all nodes.
    pub scheduler: Scheduler,
    /// The nodes, at 192.0.2.1 and the addresses after it.
    pub nodes: Vec<Node>,
    /// ZooKeeper.
    pub zookeeper: ZooKeeper,
    master: Cluster,
    services: Host,
}

impl MultiNodeCluster {
    /// Starts a cluster. `config` is the configuration of a node's agent, without `state_dir`.
    pub fn start(nodes: u8, config: impl Fn(&Host) -> Result<String>) -> Result<Self> {
        Self::start_with(nodes, &[], config)
    }

    /// As [`Self::start`], with more addresses of the host with the services.
    pub fn start_with(
        nodes: u8,
        addresses: &[IpAddr],
        config: impl Fn(&Host) -> Result<String>,
    ) -> Result<Self> {
        let services = Host::with_addresses(SERVICES.into(), addresses)?;
        let hosts = (1..=nodes)
            .map(|number| host_at(IpAddr::from([192, 0, 2, number])))
            .collect::<Result<Vec<_>>>()?;
        services.connect(&hosts.iter().collect::<Vec<_>>(), &[])?;
        for host in &hosts {
            // As on a real host, no other interface has the uplink's address.
            host.sh(&format!("ip address delete {}/32 dev lo", host.address()))?;
        }
        let zookeeper = ZooKeeper::start(&services, ZOOKEEPER_PORT)?;
        let master = Cluster::on(&services).master_alone().start()?;
        let clean = hosts
            .iter()
            .map(Host::leftovers)
            .collect::<Result<Vec<_>>>()?;
        let agents = hosts
            .iter()
            .map(|host| Ok(with_module(host, &config(host)?)?.agent_of(master.master())))
            .collect::<Result<Vec<_>>>()?;
        let nodes = start_all(agents)?
            .into_iter()
            .zip(hosts)
            .zip(clean)
            .enumerate()
            .map(|(index, ((cluster, host), clean))| Node {
                cluster,
                host,
                clean,
                kept: vec![],
                switch: services.clone(),
                port: format!("port{index}"),
            })
            .collect();
        Ok(Self {
            scheduler: Scheduler::start(&services, master.master())?,
            nodes,
            zookeeper,
            master,
            services,
        })
    }

    /// The host with the services: to the nodes, the world outside.
    #[must_use]
    pub fn services(&self) -> &Host {
        &self.services
    }

    /// The master.
    #[must_use]
    pub fn master(&self) -> &Cluster {
        &self.master
    }

    /// Kills the master and starts it again, and then the agents: an agent whose master has no ZooKeeper
    /// registers again after 75 seconds only. `meanwhile` runs while there is no master.
    pub fn replace_master(&mut self, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        self.master.kill_9()?;
        meanwhile()?;
        self.master.restart()?;
        for node in &mut self.nodes {
            node.cluster.restart()?;
        }
        Ok(())
    }

    /// Stops everything, and fails if anything is left on a node or on the machine.
    pub fn end(self) -> Result<()> {
        let Self {
            scheduler,
            nodes,
            zookeeper,
            master,
            services,
        } = self;
        services.block_on(scheduler.framework.teardown())?;
        drop(scheduler);
        let mut names = vec![services.name().to_owned()];
        for mut node in nodes {
            node.expect_no_container()?;
            node.cluster.end()?;
            node.expect_nothing(|_| true)?;
            names.push(node.host.name().to_owned());
        }
        drop(zookeeper);
        master.stop()?;
        drop(services);
        for name in names {
            let traces = traces_of(&name)?;
            ensure!(
                traces.is_empty(),
                "left on the machine:\n{}",
                traces.join("\n")
            );
        }
        Ok(())
    }
}

/// Starts clusters at the same time: each waits for its agent to register.
fn start_all(clusters: Vec<ClusterBuilder>) -> Result<Vec<Cluster>> {
    thread::scope(|scope| {
        let threads: Vec<_> = clusters
            .into_iter()
            .map(|cluster| scope.spawn(|| cluster.start()))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                let started = thread.join();
                started.map_err(|_| anyhow!("the thread that starts an agent panicked"))?
            })
            .collect::<Result<_>>()
    })
    .context("cannot start the agents")
}
