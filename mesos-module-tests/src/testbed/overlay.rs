//! Overlay networks over several hosts.
//!
//! ```text
//! services  as in a cluster of several hosts, and two managers without Contrail, each at an address
//!           of its own
//! node-1 …  a Mesos agent, and the node daemon beside it
//! ```

mod container;
mod daemon;
mod traffic;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use contrail_mesos::node_state::NodeState;
use contrail_mesos_api::agent_api::{AGENT_HEADER, ClientOptions, manager_address};
use contrail_mesos_api::cluster::{ClusterClient, NodeCondition, NodeList};
use contrail_mesos_api::http::{Limits, TlsOptions};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::agent::{config_path, state_dir, write_config};
use super::framework::{TaskSpec, TaskUpdate};
use super::manager::{AGENT_PORT, ManagerCluster, ManagerProcess, write_token};
use super::multi_node::{MultiNodeCluster, Node, SERVICES};
use super::{Host, program, until};
pub use container::Container;
pub use daemon::NodeDaemon;
pub use traffic::{Capture, Counts, Transfer};

/// The port at which node daemons serve their API by TCP, if they do: see [`OverlayCluster::listen`].
pub const NODE_PORT: u16 = 6994;
/// The token that nodes and managers share.
const TOKEN: &str = "a-token-of-this-test-alone";
/// The managers' session timeout in ZooKeeper.
const SESSION_TIMEOUT: Duration = Duration::from_secs(3);
/// The addresses of the managers.
const MANAGERS: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 101)),
    IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 102)),
];
/// What the node daemon leaves on a host when it ends, so that traffic goes on: its devices, the tables
/// that protect them and the containers of overlays that isolate groups, and that of services.
const KEPT: [&str; 5] = [
    "link vtep",
    "table table inet contrail_mesos_services",
    "table table inet contrail_mesos_overlay",
    "table table inet contrail_mesos_groups",
    "table table bridge contrail_mesos_groups",
];
/// The networks of every agent.
const NETWORKS: [&str; 2] = ["vxlan-1", "vxlan-2"];

/// The bridge network of every agent of a cluster with services. Each host has the same addresses for it.
pub const BRIDGE: &str = "blue";
const BRIDGE_TABLE: &str = "[[network]]\nname = 'blue'\nprovider = 'bridge'\nbridge = 'blue0'\n\
                            subnet = '10.32.0.0/24'\n";

/// A subnet that contains those of [`two_overlays`].
pub const ALL_OVERLAYS: &str = "192.168.0.0/16";

/// The overlays `vxlan-1` and `vxlan-2`, as the DC/OS overlay modules are configured.
#[must_use]
pub fn two_overlays() -> Value {
    json!({
        "vtep_subnet": "44.128.0.0/16",
        "vtep_mac_oui": "70:B3:D5:00:00:00",
        "overlays": [
            { "name": "vxlan-1", "subnet": "192.168.0.0/17", "prefix": 24 },
            { "name": "vxlan-2", "subnet": "192.168.128.0/17", "prefix": 24 },
        ],
    })
}

/// A cluster with overlay networks. Everything ends with the value.
pub struct OverlayCluster {
    /// The node daemons, in the order of the nodes.
    pub daemons: Vec<NodeDaemon>,
    /// The managers.
    pub managers: ManagerCluster,
    /// Mesos and ZooKeeper.
    pub mesos: MultiNodeCluster,
}

impl OverlayCluster {
    /// Starts a cluster, and waits until every node has applied what the managers know.
    pub fn start(nodes: u8) -> Result<Self> {
        Self::start_with(nodes, &two_overlays())
    }

    /// As [`Self::start`], with other overlays than [`two_overlays`].
    pub fn start_with(nodes: u8, overlays: &Value) -> Result<Self> {
        Self::prepare(nodes, overlays, false)?.with_daemons()
    }

    /// As [`Self::start`], with managers that publish services, and with the bridge network [`BRIDGE`]
    /// and a default route on every node.
    pub fn with_services(nodes: u8) -> Result<Self> {
        Self::prepare(nodes, &two_overlays(), true)?.with_daemons()
    }

    fn with_daemons(mut self) -> Result<Self> {
        for daemon in &mut self.daemons {
            daemon.start()?;
        }
        self.wait_until_current()?;
        Ok(self)
    }

    /// As [`Self::with_services`], but the node daemons do not run yet.
    pub fn with_services_alone(nodes: u8) -> Result<Self> {
        Self::prepare(nodes, &two_overlays(), true)
    }

    /// Starts a cluster whose node daemons do not run yet.
    pub fn without_daemons(nodes: u8) -> Result<Self> {
        Self::prepare(nodes, &two_overlays(), false)
    }

    fn prepare(nodes: u8, overlays: &Value, has_services: bool) -> Result<Self> {
        let bridge = if has_services { BRIDGE_TABLE } else { "" };
        let mut mesos = MultiNodeCluster::start_with(nodes, &MANAGERS, |host| {
            let config = agent_config(host, &node_name(host), &NETWORKS)?;
            Ok(format!("{config}{bridge}"))
        })?;
        for node in &mut mesos.nodes {
            node.keep(&KEPT);
            if has_services {
                // As real hosts have it: without any route to an IP VIP, no packet would leave for it.
                (node.host()).sh(&format!("ip route add default via {SERVICES}"))?;
            }
        }
        let services = mesos.services();
        write_overlays(services, overlays)?;
        let tables = if has_services {
            let master = mesos.master().master();
            format!("[mesos]\nmasters = '{master}'\n[services]\n")
        } else {
            String::new()
        };
        let config = format!(
            "[zookeeper]\nservers = '{}'\nsession_timeout = '{}s'\n[overlay]\nfile = '{}'\n{tables}",
            mesos.zookeeper.url("/contrail-mesos"),
            SESSION_TIMEOUT.as_secs(),
            overlays_path(services).display()
        );
        let managers = MANAGERS
            .into_iter()
            .enumerate()
            .map(|(index, address)| {
                let name = format!("manager-{}", index + 1);
                ManagerProcess::at(services, address, &name, TOKEN, &config)
            })
            .collect::<Result<_>>()?;
        let mut managers = ManagerCluster::new(services, managers)?;
        managers.start()?;
        let daemons = mesos
            .nodes
            .iter()
            .map(|node| NodeDaemon::new(node.host()))
            .collect();
        managers.leader()?;
        Ok(Self {
            daemons,
            managers,
            mesos,
        })
    }

    /// A node.
    ///
    /// # Panics
    /// If there is no such node.
    #[must_use]
    pub fn node(&self, index: usize) -> &Node {
        &self.mesos.nodes[index]
    }

    /// The host of a node.
    ///
    /// # Panics
    /// If there is no such node.
    #[must_use]
    pub fn host(&self, index: usize) -> &Host {
        self.node(index).host()
    }

    /// The index of the node with this agent, as Mesos and Marathon name it.
    pub fn node_of(&self, agent: &str) -> Result<usize> {
        let mut nodes = self.mesos.nodes.iter();
        let node = nodes.position(|node| node.hostname() == agent);
        node.with_context(|| format!("no node {agent}"))
    }

    /// A task on an overlay, on this node.
    ///
    /// # Panics
    /// If there is no such node.
    #[must_use]
    pub fn task(&self, id: &str, overlay: &str, node: usize, command: &str) -> TaskSpec {
        TaskSpec::new(id, command)
            .network(overlay)
            .on_host(&self.node(node).hostname())
    }

    /// Launches a task on an overlay, on this node, and waits until it runs.
    pub fn run(&self, id: &str, overlay: &str, node: usize, command: &str) -> Result<TaskUpdate> {
        let task = self.task(id, overlay, node, command);
        self.mesos.scheduler.run(task)
    }

    /// Adds a network to the configuration of a node's agent.
    pub fn add_network(&self, node: usize, network: &str) -> Result<()> {
        let host = self.host(node);
        let networks = [&NETWORKS[..], &[network]].concat();
        let config = agent_config(host, &node_name(host), &networks)?;
        write_config(host, &config)
    }

    /// Lets the daemon of a node of a cluster with services serve its API by TCP at [`NODE_PORT`], and adds
    /// tables to the node's configuration. Its daemon must be started again.
    pub fn listen(&self, node: usize, tables: &str) -> Result<()> {
        let host = self.host(node);
        let config = agent_config(host, &node_name(host), &NETWORKS)?;
        let listen = SocketAddr::new(host.address(), NODE_PORT);
        let listen = format!("[node]\nlisten = '{listen}'\n");
        let config = config.replacen("[node]\n", &listen, 1);
        write_config(host, &format!("{config}{BRIDGE_TABLE}{tables}"))
    }

    /// A client of the managers, as a node with this name has it, for use on the host with the services.
    pub fn client_of(&self, node: &str) -> Result<ClusterClient> {
        let services = self.mesos.services();
        let managers = MANAGERS.map(|address| SocketAddr::new(address, AGENT_PORT));
        let options = ClientOptions {
            managers: managers
                .iter()
                .map(|manager| Ok(manager_address(&manager.to_string())?))
                .collect::<Result<_>>()?,
            agent: node.to_owned(),
            token_file: Some(write_token(services, TOKEN)?),
            tls: TlsOptions::default(),
            limits: Limits::default(),
        };
        // The client needs the host's runtime.
        Ok(services.block_on(async { ClusterClient::new(&options) })?)
    }

    /// Replaces the networks of a node's agent.
    pub fn set_networks(&self, node: usize, networks: &[&str]) -> Result<()> {
        let host = self.host(node);
        write_config(host, &agent_config(host, &node_name(host), networks)?)
    }

    /// Lets a node report an address that is not its own, or its own one again. Its daemon must be
    /// started again.
    pub fn claim_address(&self, node: usize, address: IpAddr) -> Result<()> {
        let host = self.host(node);
        let config = agent_config(host, &node_name(host), &NETWORKS)?;
        let claim = format!("[node]\naddress = '{address}'\n");
        write_config(host, &config.replacen("[node]\n", &claim, 1))
    }

    /// Gives a node another name. Its daemon must be started again.
    pub fn rename(&self, node: usize, name: &str) -> Result<()> {
        let host = self.host(node);
        write_config(host, &agent_config(host, name, &NETWORKS)?)
    }

    /// Gives all managers another configuration of the overlays.
    pub fn set_overlays(&self, overlays: &Value) -> Result<()> {
        write_overlays(self.mesos.services(), overlays)?;
        for manager in self.managers.managers() {
            manager.signal(Signal::SIGHUP)?;
        }
        Ok(())
    }

    /// What the leader knows about the nodes.
    pub fn nodes(&self) -> Result<NodeList> {
        let leader = self.managers.manager(self.managers.leader()?);
        let response = leader.send(|client| {
            client
                .get(format!("{}/v1/nodes", leader.agents_url()))
                .bearer_auth(TOKEN)
                .header(AGENT_HEADER, "operator")
        })?;
        ensure!(
            response.status == 200,
            "{} {}",
            response.status,
            response.body
        );
        serde_json::from_str(&response.body).with_context(|| response.body.clone())
    }

    /// What `contrail-mesos status --cluster` prints on a node, with more arguments.
    pub fn cluster_status(&self, node: usize, arguments: &[&str]) -> Result<String> {
        let host = self.host(node);
        let output = host
            .command(program("contrail-mesos")?)
            .arg("--config")
            .arg(config_path(host))
            .args(["status", "--cluster"])
            .args(arguments)
            .output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {errors}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Takes everything from a node that is gone for good.
    pub fn delete_node(&self, name: &str) -> Result<()> {
        let leader = self.managers.manager(self.managers.leader()?);
        let response = leader.send(|client| {
            client
                .delete(format!("{}/v1/nodes/{name}", leader.agents_url()))
                .bearer_auth(TOKEN)
                .header(AGENT_HEADER, name)
        })?;
        ensure!(
            response.status == 200,
            "{} {}",
            response.status,
            response.body
        );
        Ok(())
    }

    /// Waits until every node whose daemon runs has applied the current revision and has no problem,
    /// and the condition accepts the nodes. `what` completes "gave up waiting until".
    pub fn wait_until(&self, what: &str, accepts: impl Fn(&NodeList) -> bool) -> Result<NodeList> {
        let running: Vec<IpAddr> = self
            .daemons
            .iter()
            .filter(|daemon| daemon.is_running())
            .map(|daemon| daemon.host().address())
            .collect();
        let is_current = |list: &NodeList, address: IpAddr| {
            list.nodes.iter().any(|node| {
                node.address == Some(address)
                    && node.condition == NodeCondition::Current
                    && node.problems.is_empty()
            })
        };
        until(what, || {
            let list = self.nodes()?;
            let mut running = running.iter();
            let is_accepted = running.all(|node| is_current(&list, *node)) && accepts(&list);
            ensure!(is_accepted, "{list:?}");
            Ok(Some(list))
        })
        .with_context(|| self.logs())
    }

    /// Waits until every node whose daemon runs has applied the current revision and has no problem.
    pub fn wait_until_current(&self) -> Result<NodeList> {
        self.wait_until("all nodes are up to date", |_| true)
    }

    /// What the node daemon of a node has written for the library.
    pub fn node_state(&self, node: usize) -> Result<NodeState> {
        Ok(NodeState::read(&state_dir(self.host(node)))?)
    }

    /// The ends of all logs.
    #[must_use]
    pub fn logs(&self) -> String {
        let managers = self.managers.managers().iter();
        let managers = managers.map(|manager| (manager.name(), manager.tail(30)));
        let daemons = self.daemons.iter();
        let daemons = daemons.map(|daemon| (daemon.host().name(), daemon.tail(30)));
        let logs = managers.chain(daemons);
        let logs: Vec<String> = logs
            .map(|(name, tail)| format!("{name}:\n{tail}"))
            .collect();
        logs.join("\n")
    }

    /// Stops everything, and fails if anything is left on a node or on the machine.
    pub fn end(self) -> Result<()> {
        let Self {
            daemons,
            managers,
            mesos,
        } = self;
        drop(daemons);
        drop(managers);
        mesos.end()
    }
}

/// The name of a node: that of the last number of its address.
fn node_name(host: &Host) -> String {
    let address = host.address().to_string();
    format!("node-{}", address.rsplit('.').next().unwrap_or_default())
}

/// The configuration of a node's agent and node daemon, without `state_dir`.
fn agent_config(host: &Host, name: &str, networks: &[&str]) -> Result<String> {
    let managers = MANAGERS.map(|address| format!("'{}'", SocketAddr::new(address, AGENT_PORT)));
    let networks = networks
        .iter()
        .map(|network| format!("[[network]]\nname = '{network}'\nprovider = 'overlay'\n"));
    Ok(format!(
        "[node]\nmanagers = [{}]\ntoken_file = '{}'\nname = '{name}'\nreport_interval = '1s'\n{}",
        managers.join(", "),
        write_token(host, TOKEN)?.display(),
        networks.collect::<String>()
    ))
}

fn overlays_path(services: &Host) -> PathBuf {
    services.directory().join("overlays.json")
}

fn write_overlays(services: &Host, overlays: &Value) -> Result<()> {
    fs::write(overlays_path(services), overlays.to_string())?;
    Ok(())
}
