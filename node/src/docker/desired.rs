//! The networks that Docker must have: a pure function of the cluster's state and of the uplink.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use contrail_mesos::config::is_overlay_name;
use contrail_mesos_api::cluster::{Node, NodeSubnets, halves};
use ipnet::IpNet;

use crate::cluster_state::ClusterState;
use crate::local_state::local_state;
use crate::uplink::Uplink;

/// A network that Docker must have, on this host's part of an overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DockerNetwork {
    /// The overlay's name, which is the network's.
    pub(super) name: String,
    /// Docker's half of this host's subnets.
    pub(super) subnets: BTreeSet<IpNet>,
    /// The MTU of the containers' interfaces, in bytes.
    pub(super) mtu: u32,
}

impl DockerNetwork {
    /// The options of Docker's driver.
    pub(super) fn options(&self) -> BTreeMap<&'static str, String> {
        [
            ("com.docker.network.bridge.name", bridge_name(&self.name)),
            // Docker would do it for packets to other hosts of the overlay, too.
            (
                "com.docker.network.bridge.enable_ip_masquerade",
                "false".to_owned(),
            ),
            ("com.docker.network.bridge.enable_icc", "true".to_owned()),
            ("com.docker.network.driver.mtu", self.mtu.to_string()),
        ]
        .into()
    }

    pub(super) fn has_v6(&self) -> bool {
        self.subnets.iter().any(|net| net.addr().is_ipv6())
    }
}

/// The bridge of Docker's containers on an overlay.
pub(super) fn bridge_name(overlay: &str) -> String {
    format!("d-{overlay}")
}

/// The address of the bridge in a subnet: the first one after that of the subnet itself.
pub(super) fn gateway(subnet: &IpNet) -> Option<IpAddr> {
    match subnet.network() {
        IpAddr::V4(network) => {
            let first = network.to_bits().checked_add(1)?;
            Some(Ipv4Addr::from_bits(first).into())
        }
        IpAddr::V6(network) => {
            let first = network.to_bits().checked_add(1)?;
            Some(Ipv6Addr::from_bits(first).into())
        }
    }
}

/// What Docker must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DesiredNetworks {
    /// The networks, by name.
    pub(super) networks: BTreeMap<String, DockerNetwork>,
    /// The overlays about which nothing can be said: their networks stay as they are.
    pub(super) undetermined: BTreeSet<String>,
}

/// What Docker must have; none if this node is not registered, so that nothing can be said.
pub(super) fn desired(cluster: &ClusterState, uplink: Option<&Uplink>) -> Option<DesiredNetworks> {
    let own = cluster.own_node()?;
    let mut desired = DesiredNetworks::default();
    for overlay in local_state(cluster, uplink).overlays {
        // Docker keeps the addresses of a network for itself, so blocks are not for it.
        let is_for_docker = cluster
            .overlays
            .get(&overlay.name)
            .is_some_and(|overlay| overlay.enabled && !overlay.lends_blocks);
        if !is_for_docker {
            continue;
        }
        let subnets = docker_subnets(own, &overlay.name);
        if overlay.problem.is_some() || subnets.is_empty() || !is_overlay_name(&overlay.name) {
            desired.undetermined.insert(overlay.name);
        } else {
            let network = DockerNetwork {
                name: overlay.name.clone(),
                subnets,
                mtu: overlay.mtu,
            };
            desired.networks.insert(overlay.name, network);
        }
    }
    Some(desired)
}

/// Docker's half of a node's subnets in an overlay: the upper one.
pub(super) fn docker_subnets(node: &Node, overlay: &str) -> BTreeSet<IpNet> {
    let mut of_node = node.subnets.iter();
    let given = of_node.find(|subnets| subnets.overlay == overlay);
    given.map(upper_halves).unwrap_or_default()
}

fn upper_halves(subnets: &NodeSubnets) -> BTreeSet<IpNet> {
    let v4 = subnets.subnet.map(IpNet::V4);
    let all = v4.into_iter().chain(subnets.subnet6.map(IpNet::V6));
    all.filter_map(halves).map(|(_, upper)| upper).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cluster;

    fn uplink() -> Uplink {
        Uplink {
            index: 2,
            name: "eth0".to_owned(),
            mtu: 1500,
        }
    }

    fn names(desired: &DesiredNetworks) -> (Vec<&str>, Vec<&str>) {
        let networks = desired.networks.keys().map(String::as_str);
        let undetermined = desired.undetermined.iter().map(String::as_str);
        (networks.collect(), undetermined.collect())
    }

    #[test]
    fn enabled_overlay_gives_docker_the_upper_half() {
        let desired = desired(&cluster("3.1"), Some(&uplink())).unwrap();
        let network = &desired.networks["dcos"];
        let subnets: Vec<_> = network
            .subnets
            .iter()
            .map(|net| (net.to_string(), gateway(net).unwrap().to_string()))
            .collect();
        let expected = [
            ("9.0.1.128/25", "9.0.1.129"),
            ("fd09:0:0:1:8000::/65", "fd09::1:8000:0:0:1"),
        ];
        let expected = expected.map(|(net, gateway)| (net.to_owned(), gateway.to_owned()));
        assert_eq!(subnets, expected);
        assert_eq!(network.mtu, 1450);
        assert!(network.has_v6());
        assert_eq!(
            network.options()["com.docker.network.bridge.name"],
            "d-dcos"
        );
    }

    #[test]
    fn halves_of_docker_and_mesos_do_not_overlap() {
        let cluster = cluster("3.1");
        let state = local_state(&cluster, Some(&uplink()));
        let mesos = state.overlay("dcos").unwrap();
        let mesos = [
            mesos.subnet.map(IpNet::V4).unwrap(),
            mesos.subnet6.map(IpNet::V6).unwrap(),
        ];
        let docker = docker_subnets(cluster.own_node().unwrap(), "dcos");
        assert_eq!(docker.len(), 2);
        for (one, other) in docker
            .iter()
            .flat_map(|one| mesos.map(|other| (one, other)))
        {
            assert!(
                !one.contains(&other) && !other.contains(one),
                "{one} {other}"
            );
        }
    }

    #[test]
    fn overlay_with_a_problem_is_undetermined_and_a_disabled_one_is_gone() {
        let mut state = cluster("3.1");
        let without_uplink = desired(&state, None).unwrap();
        assert_eq!(names(&without_uplink), (vec![], vec!["dcos"]));
        state.overlays.get_mut("dcos").unwrap().enabled = false;
        let disabled = desired(&state, Some(&uplink())).unwrap();
        assert_eq!(names(&disabled), (vec![], vec![]));
        let mut hostile = cluster("3.1");
        let mut overlay = hostile.overlays["dcos"].clone();
        overlay.name = "../containers".to_owned();
        hostile.overlays.insert(overlay.name.clone(), overlay);
        let own = hostile.nodes.get_mut("node-1").unwrap();
        let mut subnets = own.subnets[0].clone();
        subnets.overlay = "../containers".to_owned();
        own.subnets.push(subnets);
        let desired_of_hostile = desired(&hostile, Some(&uplink())).unwrap();
        assert_eq!(
            names(&desired_of_hostile),
            (vec!["dcos"], vec!["../containers"])
        );
        state.nodes.remove("node-1");
        assert_eq!(desired(&state, Some(&uplink())), None);
    }
}
