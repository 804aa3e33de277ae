//! Services on virtual networks: several hosts with Mesos agents and vRouter agents, and one with the
//! manager that makes the objects of services, a Marathon, and a node daemon for the names.
//!
//! No node daemon runs beside the simulated vRouter agents: they forward through the host's own IP stack,
//! where its rules for services would come first. Those of a real vRouter bypass it.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use contrail_mesos_manager::vnc::{
    Actions, FqName, NetworkPolicy, Object as _, PolicyAddress, PolicyAttachment, PolicyEntries,
    PolicyRule, PortRange, Sequence, VirtualNetwork,
};
use serde_json::{Value, json};

use super::{Place, SERVER};
use crate::testbed::agent::{self, host_at};
use crate::testbed::contrail::{Contrail, Vrouter};
use crate::testbed::manager::{AGENT_PORT, write_token};
use crate::testbed::marathon::{AppTask, Marathon};
use crate::testbed::multi_node::SERVICES;
use crate::testbed::overlay::NodeDaemon;
use crate::testbed::{Cluster, Host, leftovers, until};

/// The network of the addresses of services.
const NETWORK: &str = "default-domain:default-project:mesos-services";
/// The network of clients and backends.
const BLUE: &str = "default-domain:default-project:blue-network";
/// The range of addresses of services, and the subnet of their network.
const RANGE: &str = "198.18.0.0/24";
/// Where containers ask for names: a link-local service.
pub const LINK_LOCAL_DNS: &str = "169.254.169.53";

/// A host with a Mesos agent and a vRouter agent.
struct ContrailNode {
    host: Host,
    cluster: Cluster,
    vrouter: Vrouter,
    before: leftovers::Leftovers,
}

/// Hosts with virtual networks and services. Everything ends with the value.
pub struct ContrailServices {
    /// The Marathon of the cluster.
    pub marathon: Marathon,
    /// The API server and the manager.
    pub contrail: Contrail,
    nodes: Vec<ContrailNode>,
    // Before the host that it is on.
    daemon: NodeDaemon,
    master: Cluster,
    services: Host,
}

impl ContrailServices {
    /// Starts that number of nodes, with a link-local service for names.
    pub fn start(nodes: u8) -> Result<Self> {
        let services = Host::start(SERVICES.into())?;
        let hosts = (1..=nodes)
            .map(|number| host_at(IpAddr::from([192, 0, 2, number])))
            .collect::<Result<Vec<_>>>()?;
        services.connect(&hosts.iter().collect::<Vec<_>>(), &[])?;
        let before = hosts
            .iter()
            .map(Host::leftovers)
            .collect::<Result<Vec<_>>>()?;
        let master = Cluster::on(&services).master_alone().start()?;
        let tables = format!(
            "[mesos]\nmasters = '{}'\n\
             [services]\nrange = '{RANGE}'\nrange6 = 'none'\nstate_file = '{}'\n\
             [services.contrail]\nnetwork = '{NETWORK}'\n\
             dns = '{LINK_LOCAL_DNS}'\ndns_servers = ['{SERVICES}']\n",
            master.master(),
            services.directory().join("services.json").display(),
        );
        let mut contrail = Contrail::start_with(&services, &tables, &[])?;
        contrail.network(NETWORK, &[RANGE])?;
        connect(&services, &contrail)?;
        let mut nodes = vec![];
        for ((index, host), before) in (1..).zip(hosts).zip(before) {
            let name = format!("node-{index}");
            let vrouter = contrail.vrouter(&host, &name, Some("uplink"))?;
            let config = format!(
                "{}[network.dns]\nnameservers = ['{LINK_LOCAL_DNS}']\n",
                contrail.agent_config(&host, &vrouter)?,
            );
            let cluster = agent::with_module(&host, &config)?
                .agent_of(master.master())
                .start()?;
            nodes.push(ContrailNode {
                host,
                cluster,
                vrouter,
                before,
            });
        }
        let config = format!(
            "[node]\nmanagers = ['{SERVICES}:{AGENT_PORT}']\ntoken_file = '{}'\nname = 'names'\n\
             [node.dns]\nlisten = ['{SERVICES}']\nallow = ['192.0.2.0/24']\n",
            write_token(&services, contrail.token())?.display(),
        );
        agent::write_config(&services, &config)?;
        let mut daemon = NodeDaemon::new(&services);
        daemon.start()?;
        let marathon = Marathon::start(&services, master.master())?;
        until("the link-local service is there", || {
            let objects = contrail.api().objects("global-vrouter-config");
            let is_there = json!(objects).to_string().contains(LINK_LOCAL_DNS);
            Ok(is_there.then_some(()))
        })
        .with_context(|| contrail.manager().log())?;
        // What the manager and the test have made exists as long as they do.
        contrail.set_baseline();
        Ok(Self {
            marathon,
            contrail,
            nodes,
            daemon,
            master,
            services,
        })
    }

    /// The container of a running task.
    pub fn place(&self, task: &AppTask) -> Result<Place> {
        let mut nodes = self.nodes.iter();
        let node = nodes.find(|node| node.host.address().to_string() == task.host);
        let node = node.with_context(|| format!("no node {}", task.host))?;
        Place::task(&node.host, &task.id)
    }

    /// Runs an app with one task, without a virtual IP, and returns the task's container.
    pub fn run_client(&self, id: &str) -> Result<Place> {
        let tasks = self.marathon.run(&virtual_network_app(id, 1, &json!({})))?;
        self.place(tasks.first().context("no task")?)
    }

    /// The address of the floating-ip of a service with a port, once it has that many backends.
    pub fn virtual_address(&self, port: u16, backends: usize) -> Result<IpAddr> {
        until("the service has its objects", || {
            let all = self.contrail.api().objects("floating-ip");
            let has_port = |floating: &&Value| {
                let maps = floating["floating_ip_port_mappings"]["port_mappings"].as_array();
                let mut maps = maps.into_iter().flatten();
                maps.any(|map| map["src_port"] == port)
            };
            let floating = all.iter().find(has_port);
            let floating = floating.with_context(|| format!("none has port {port}: {all:?}"))?;
            let references = floating["virtual_machine_interface_refs"].as_array();
            ensure!(references.map_or(0, Vec::len) == backends, "{floating}");
            let address = floating["floating_ip_address"].as_str().unwrap_or_default();
            Ok(Some(address.parse::<IpAddr>()?))
        })
        .with_context(|| self.contrail.manager().log())
    }

    /// Stops everything, and fails if anything is left on a node, on the machine or in Contrail.
    pub fn end(self) -> Result<()> {
        let Self {
            marathon,
            contrail,
            nodes,
            daemon,
            master,
            services,
        } = self;
        marathon.stop()?;
        contrail.expect_baseline()?;
        let mut names = vec![services.name().to_owned()];
        for node in nodes {
            let ContrailNode {
                host,
                cluster,
                vrouter,
                before,
            } = node;
            vrouter.expect_no_port()?;
            cluster.stop()?;
            vrouter.stop()?;
            host.expect_nothing_since(&before)?;
            names.push(host.name().to_owned());
        }
        drop((daemon, contrail));
        master.stop()?;
        drop(services);
        for name in names {
            let traces = leftovers::traces_of(&name)?;
            ensure!(traces.is_empty(), "left on the machine: {traces:?}");
        }
        Ok(())
    }
}

/// Connects the network of services with that of clients by a policy.
fn connect(services: &Host, contrail: &Contrail) -> Result<()> {
    let (network, blue): (FqName, FqName) = (NETWORK.parse()?, BLUE.parse()?);
    let side = |name: &FqName| PolicyAddress {
        virtual_network: Some(name.to_string()),
        ..PolicyAddress::default()
    };
    let mut policy =
        NetworkPolicy::named(network.parent().context("no project")?.child("services"));
    policy.network_policy_entries = Some(PolicyEntries {
        policy_rule: vec![PolicyRule {
            direction: Some("<>".to_owned()),
            protocol: Some("any".to_owned()),
            src_addresses: vec![side(&blue)],
            src_ports: vec![PortRange::ANY],
            dst_addresses: vec![side(&network)],
            dst_ports: vec![PortRange::ANY],
            action_list: Some(Actions {
                simple_action: Some("pass".to_owned()),
            }),
            ..PolicyRule::default()
        }],
    });
    services.block_on(async {
        let client = contrail.client();
        let policy = client.ensure(&policy).await?.uuid;
        let attachment = PolicyAttachment {
            sequence: Some(Sequence::default()),
        };
        for name in [&network, &blue] {
            let found = client.find::<VirtualNetwork>(name).await?;
            let found = found.with_context(|| format!("no network {name}"))?;
            let uuid = found.common.uuid.context("a network without a uuid")?;
            client
                .link_with::<VirtualNetwork, NetworkPolicy>(uuid, policy, &attachment)
                .await?;
        }
        Ok(())
    })
}

/// An app whose tasks answer with their ids at port 8080 of their containers on the virtual network of
/// clients. `labels` are those of its only port. The names come from the link-local service.
#[must_use]
pub fn virtual_network_app(id: &str, instances: usize, labels: &Value) -> Value {
    json!({
        "id": id, "instances": instances, "cpus": 0.05, "mem": 32,
        "cmd": SERVER.replace("PORT", "8080"), "taskKillGracePeriodSeconds": 20,
        "networks": [{
            "mode": "container", "name": "contrail-cni-plugin",
            "labels": { "networks": "blue-network", "project-name": "default-project",
                        "domain-name": "default-domain" },
        }],
        "container": {
            "type": "MESOS",
            "portMappings": [{ "containerPort": 8080, "name": "http", "labels": labels }],
        },
        "constraints": [["hostname", "MAX_PER", "2"]],
    })
}
