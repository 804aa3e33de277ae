//! What passes Docker's filter, and what Docker's containers send with the host's address.
//!
//! Docker drops what is forwarded, unless it is from or to a network of its own. So on each host with
//! Docker, whether it has networks of overlays or not, packets of our bridges and of overlays are
//! accepted in the chain that Docker leaves to others.
//!
//! Invariants: nothing is removed before there is a state of the managers. Docker's API is not needed,
//! so a Docker that hangs cuts nothing off.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;

use contrail_mesos::config::{Config, NetworkProvider, is_overlay_name};
use contrail_mesos::net::docker_watch::DockerEvents;
use contrail_mesos::net::links;
use contrail_mesos::net::netlink::{NetlinkError, NetlinkSocket};
use contrail_mesos::net::nft::docker::{
    DesiredRules, DockerRules, Masquerade, looks_like_docker_bridge,
};
use contrail_mesos_api::overlay_modules::MESOS_BRIDGE_PREFIX;
use contrail_mesos_api::text::with_causes;

use super::desired::{bridge_name, docker_subnets};
use crate::cluster_state::ClusterState;
use crate::local_state::local_state;
use crate::overlay::device_name;
use crate::subsystem::{BoxError, Change, ClusterUse, Mode, Outcome, Subsystem};

/// The names of the tables of iptables-legacy in this thread's network namespace, one a line.
const LEGACY_TABLES: &str = "/proc/thread-self/net/ip_tables_names";
/// The bridge that Docker makes by itself.
const DOCKER_BRIDGE: &str = "docker0";

/// The bridges of a configuration's networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfiguredBridges {
    all: BTreeSet<String>,
    of_overlays: BTreeSet<String>,
}

impl ConfiguredBridges {
    /// Those of a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut bridges = Self::default();
        for network in &config.networks {
            match &network.provider {
                NetworkProvider::Bridge(bridge) => {
                    bridges.all.insert(bridge.bridge.clone());
                }
                NetworkProvider::Overlay(overlay) => {
                    bridges.all.insert(overlay.bridge());
                    bridges.of_overlays.insert(overlay.bridge());
                }
                _ => {}
            }
        }
        bridges
    }
}

/// The subsystem `docker-rules`.
#[derive(Debug)]
pub struct DockerRulesSubsystem {
    rules: DockerRules,
    events: DockerEvents,
    bridges: ConfiguredBridges,
    /// Whether Docker gets networks of overlays.
    has_networks: bool,
}

impl DockerRulesSubsystem {
    /// The subsystem of a host with this configuration, in the calling thread's network namespace.
    /// Changes nothing.
    pub fn new(config: &Config) -> Result<Self, NetlinkError> {
        let rules = DockerRules::open()?;
        Ok(Self {
            events: DockerEvents::subscribe(rules.port())?,
            rules,
            bridges: ConfiguredBridges::new(config),
            has_networks: config.node.docker.is_some(),
        })
    }

    fn compare(&mut self, mut desired: DesiredRules, mode: Mode) -> Result<Outcome, BoxError> {
        let desired = &mut desired;
        desired.bridges.extend(self.bridges.all.iter().cloned());
        let overlay_bridges = self.bridges.of_overlays.iter().cloned();
        desired.overlay_bridges.extend(overlay_bridges);
        let links = links::all(&mut NetlinkSocket::route()?)?;
        let names = links.into_iter().map(|link| link.name);
        desired.other_interfaces = names
            .filter(|name| looks_like_docker_bridge(name))
            .collect();
        let done = match mode {
            Mode::Apply => self.rules.apply(desired)?,
            Mode::DryRun => self.rules.compare(desired)?,
        };
        let failures = done.failures.iter().map(|(change, error)| {
            let error = with_causes(error);
            format!("cannot {change}: {error}; see `nft list ruleset`")
        });
        let mut outcome = Outcome {
            problems: failures.collect(),
            changes: done.changes.into_iter().map(Change).collect(),
        };
        if !done.has_docker_chain && is_filtered_by_legacy_tables()? {
            outcome.problems.push(format!(
                "there is Docker's bridge {DOCKER_BRIDGE} and a filter of iptables-legacy, in which nothing can be accepted for overlays and bridges: Docker may drop what they forward; switch to iptables-nft with update-alternatives and restart Docker"
            ));
        }
        Ok(outcome)
    }
}

/// The rules that a registered host must have; none if this host is not registered.
fn desired(cluster: &ClusterState, has_networks: bool) -> Option<DesiredRules> {
    let own = cluster.own_node()?;
    let mut desired = DesiredRules::default();
    let mut masquerade = Masquerade::default();
    let overlays = cluster.overlays.values();
    for overlay in overlays.filter(|overlay| is_overlay_name(&overlay.name)) {
        // Containers of network/cni are on it, too.
        let bridge = format!("{MESOS_BRIDGE_PREFIX}{}", overlay.name);
        desired.bridges.insert(bridge.clone());
        desired.overlay_bridges.insert(bridge);
        desired.overlays.insert(device_name(overlay.vni));
        if has_networks {
            desired.overlays.insert(bridge_name(&overlay.name));
            masquerade
                .sources
                .extend(docker_subnets(own, &overlay.name));
        }
    }
    if !masquerade.sources.is_empty() {
        let subnets = local_state(cluster, None).cluster_subnets;
        masquerade.cluster = subnets.into_iter().collect();
    }
    desired.masquerade = Some(masquerade);
    Some(desired)
}

/// Whether there is a filter of iptables-legacy, and Docker.
fn is_filtered_by_legacy_tables() -> Result<bool, NetlinkError> {
    // There is no such file if the kernel has none of these tables.
    let tables = std::fs::read_to_string(LEGACY_TABLES).unwrap_or_default();
    if !tables.lines().any(|table| table == "filter") {
        return Ok(false);
    }
    let bridge = links::by_name(&mut NetlinkSocket::route()?, DOCKER_BRIDGE)?;
    Ok(bridge.is_some())
}

impl Subsystem for DockerRulesSubsystem {
    fn name(&self) -> &'static str {
        "docker-rules"
    }

    fn cluster_use(&self) -> ClusterUse {
        ClusterUse::Optional
    }

    fn reconcile(&mut self, cluster: &ClusterState, mode: Mode) -> Result<Outcome, BoxError> {
        match desired(cluster, self.has_networks) {
            Some(desired) => self.compare(desired, mode),
            None => self.reconcile_alone(mode),
        }
    }

    fn reconcile_alone(&mut self, mode: Mode) -> Result<Outcome, BoxError> {
        let present = self.rules.present()?;
        self.compare(present, mode)
    }

    fn notifications(&self) -> Option<BorrowedFd<'_>> {
        Some(self.events.descriptor())
    }

    fn receive(&mut self) -> bool {
        self.events.receive().unwrap_or_else(|error| {
            log::warn!("docker-rules: cannot read notifications of the kernel: {error}");
            true
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cluster;

    fn names(names: &BTreeSet<String>) -> Vec<&str> {
        names.iter().map(String::as_str).collect()
    }

    #[test]
    fn bridges_and_devices_of_overlays_are_accepted() {
        let mut cluster = cluster("3.1");
        let rules = desired(&cluster, true).unwrap();
        assert_eq!(names(&rules.bridges), ["m-dcos"]);
        assert_eq!(names(&rules.overlay_bridges), ["m-dcos"]);
        assert_eq!(names(&rules.overlays), ["d-dcos", "vtep4097"]);
        let masquerade = rules.masquerade.unwrap();
        assert_eq!(masquerade.sources.len(), 2);
        assert!(
            masquerade
                .cluster
                .contains(&"44.128.0.0/16".parse().unwrap())
        );
        // What runs on an overlay goes on when it is disabled.
        cluster.overlays.get_mut("dcos").unwrap().enabled = false;
        let disabled = desired(&cluster, true).unwrap();
        assert_eq!(names(&disabled.overlays), ["d-dcos", "vtep4097"]);
        assert_eq!(disabled.masquerade.unwrap().sources.len(), 2);
        let without_docker = desired(&cluster, false).unwrap();
        assert_eq!(names(&without_docker.overlays), ["vtep4097"]);
        assert_eq!(without_docker.masquerade, Some(Masquerade::default()));
        cluster.nodes.remove("node-1");
        assert_eq!(desired(&cluster, true), None);
    }
}
