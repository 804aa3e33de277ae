//! Compares managers, ZooKeeper, node daemons, files and the kernel with what must be. Every
//! difference is a line.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use contrail_mesos_api::cluster::{NodeCondition, halves};
use ipnet::IpNet;

use super::state::{Allocations, ContainerTraces, DataPath};
use super::tasks::containers_on;
use super::{NODES, Testbed};
use crate::testbed::overlay::Container;

/// Returns the differences of one kind.
type Compare = fn(&Testbed) -> Result<Vec<String>>;

impl Testbed {
    /// The differences.
    pub(super) fn compare(&self) -> Vec<String> {
        let mut differences = vec![];
        let comparisons: [(&str, Compare); 5] = [
            ("the nodes", Self::compare_nodes),
            ("the kernels", Self::compare_kernels),
            ("the containers", Self::compare_containers),
            ("the connections", Self::compare_connections),
            ("the groups", |testbed| testbed.probes.differences()),
        ];
        for (what, compare) in comparisons {
            match compare(self) {
                Ok(found) => differences.extend(found),
                Err(error) => differences.push(format!("cannot compare {what}: {error:#}")),
            }
            // What depends on a state that differs need not be compared.
            if !differences.is_empty() {
                break;
            }
        }
        differences
    }

    /// What managers, ZooKeeper and node daemons say about the nodes.
    fn compare_nodes(&self) -> Result<Vec<String>> {
        let cluster = &self.cluster;
        let mut differences = vec![];
        let list = cluster.nodes()?;
        for node in &list.nodes {
            if node.condition != NodeCondition::Current || !node.problems.is_empty() {
                differences.push(format!(
                    "{} is {}: {:?}",
                    node.name, node.condition, node.problems
                ));
            }
        }
        let mut all = vec![
            ("the leader".to_owned(), Allocations::of_nodes(&list)?),
            ("ZooKeeper".to_owned(), Allocations::of_zookeeper(cluster)?),
        ];
        for node in 0..usize::from(NODES) {
            let name = format!("daemon {}", node + 1);
            all.push((name, Allocations::of_daemon(cluster, node)?));
        }
        for (owner, allocations) in all {
            differences.extend(allocations.duplicates());
            if allocations != self.allocations {
                differences.push(format!(
                    "{owner} has {allocations:?} instead of {:?}",
                    self.allocations
                ));
            }
        }
        for node in 0..usize::from(NODES) {
            differences.extend(self.compare_node_state(node)?);
        }
        Ok(differences)
    }

    /// What the node daemon has written for the library.
    fn compare_node_state(&self, node: usize) -> Result<Vec<String>> {
        let state = self.cluster.node_state(node)?;
        let given = self.allocations.0.get(&state.node);
        let given = given.with_context(|| format!("{} was given nothing", state.node))?;
        let mut differences = vec![];
        for (overlay, subnets) in &given.subnets {
            let expected: BTreeSet<IpNet> = subnets
                .iter()
                .filter_map(|subnet| Some(halves(*subnet)?.0))
                .collect();
            let local = state.overlay(overlay);
            let local = local.with_context(|| format!("{} lacks {overlay}", state.node))?;
            let v4 = local.subnet.map(IpNet::V4).into_iter();
            let found: BTreeSet<IpNet> = v4.chain(local.subnet6.map(IpNet::V6)).collect();
            if found != expected || local.problem.is_some() {
                differences.push(format!("{}: {local:?}, not {expected:?}", state.node));
            }
        }
        Ok(differences)
    }

    /// What the node daemons keep in the kernels.
    fn compare_kernels(&self) -> Result<Vec<String>> {
        let mut differences = vec![];
        for (node, expected) in self.data_paths.iter().enumerate() {
            let found = DataPath::read(self.cluster.host(node))?;
            let missing = expected.beyond(&found).map(|line| ("lacks", line));
            let surplus = found.beyond(expected).map(|line| ("has", line));
            for (what, line) in missing.chain(surplus) {
                differences.push(format!("node {} {what} {line}", node + 1));
            }
        }
        Ok(differences)
    }

    /// What containers have on their hosts: everything, and nothing more.
    fn compare_containers(&self) -> Result<Vec<String>> {
        let mut differences = vec![];
        for node in 0..usize::from(NODES) {
            let expected = containers_on(&self.cluster, node)?;
            let found = ContainerTraces::read(self.cluster.host(node))?;
            let mut leases = vec![];
            for (address, lease) in &found.leases {
                match expected.iter().find(|id| lease.contains(*id)) {
                    Some(id) => leases.push(id.clone()),
                    None => differences.push(format!("{address} is leased by {lease}")),
                }
            }
            leases.sort();
            let is_same = found.namespaces == expected
                && found.checkpoints == expected
                && leases.iter().eq(&expected)
                && found.interfaces == expected.len();
            if !is_same {
                differences.push(format!(
                    "node {}: {found:?} of the containers {expected:?}",
                    node + 1
                ));
            }
        }
        let mut owners: BTreeMap<IpAddr, &str> = BTreeMap::new();
        for (_, container) in self.tasks.running() {
            if let Some(other) = owners.insert(container.address, &container.task) {
                let Container { address, task, .. } = container;
                differences.push(format!("{address} is {task}'s and {other}'s"));
            }
        }
        Ok(differences)
    }

    /// Every container must reach every other one, and each host every container.
    fn compare_connections(&self) -> Result<Vec<String>> {
        let containers: Vec<&Container> = self.tasks.running().map(|(_, found)| found).collect();
        let mut script =
            "unreached() { ping -q -c 1 -W 2 $2 >/dev/null || echo $1 $2; }\n".to_owned();
        for container in &containers {
            // All at once: one that is not answered takes seconds.
            writeln!(script, "unreached the-host {} &", container.address)?;
        }
        let mut differences = vec![];
        for node in 0..usize::from(NODES) {
            let host = self.cluster.host(node);
            let mut script = script.clone();
            let here = containers
                .iter()
                .filter(|container| is_on(container, host.name()));
            for container in here {
                for other in &containers {
                    writeln!(
                        script,
                        "ip netns exec {} ping -q -c 1 -W 2 {} >/dev/null || echo {} {} &",
                        container.id, other.address, container.task, other.address
                    )?;
                }
            }
            script.push_str("wait\n");
            let unreached = host.sh(&script)?;
            let lines = unreached.lines();
            differences.extend(lines.map(|line| format!("node {}: no way from {line}", node + 1)));
        }
        ensure!(
            containers
                .iter()
                .all(|container| container.host.upgrade().is_ok()),
            "a host has ended"
        );
        Ok(differences)
    }
}

/// Whether a container is on the host of this name.
fn is_on(container: &Container, host: &str) -> bool {
    container
        .host
        .upgrade()
        .is_ok_and(|found| found.name() == host)
}
