//! What managers, ZooKeeper, node daemons, files and the kernel have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context as _, Result};
use contrail_mesos_api::cluster::{NodeList, NodeSubnets};
use ipnet::IpNet;
use serde_json::Value;
use zookeeper_client::Client;

use crate::testbed::agent::state_dir;
use crate::testbed::overlay::OverlayCluster;
use crate::testbed::{Host, leftovers};

/// Where the managers keep the records of the nodes.
const RECORDS: &str = "/contrail-mesos/overlay/nodes";

/// What a node has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Allocation {
    pub(super) address: Option<IpAddr>,
    pub(super) vtep: Option<IpAddr>,
    /// By overlay.
    pub(super) subnets: BTreeMap<String, BTreeSet<IpNet>>,
}

/// What the nodes have, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Allocations(pub(super) BTreeMap<String, Allocation>);

impl Allocations {
    /// As the leader lists them.
    pub(super) fn of_nodes(list: &NodeList) -> Result<Self> {
        let nodes = list.nodes.iter().map(|node| {
            let vtep = node
                .vtep
                .with_context(|| format!("{} has no endpoint", node.name))?;
            let allocation = Allocation {
                address: node.address,
                vtep: Some(vtep.address.into()),
                subnets: subnets(&node.subnets),
            };
            Ok((node.name.clone(), allocation))
        });
        nodes.collect::<Result<_>>().map(Self)
    }

    /// As they are in ZooKeeper.
    pub(super) fn of_zookeeper(cluster: &OverlayCluster) -> Result<Self> {
        let address = cluster.mesos.zookeeper.address().to_string();
        let records: Vec<(String, Vec<u8>)> = cluster.mesos.services().block_on(async {
            let client = Client::connect(&address).await?;
            let mut records = vec![];
            for name in client.list_children(RECORDS).await? {
                let (record, _) = client.get_data(&format!("{RECORDS}/{name}")).await?;
                records.push((name, record));
            }
            anyhow::Ok(records)
        })?;
        let nodes = records.into_iter().map(|(name, record)| {
            let record: Value = serde_json::from_slice(&record)?;
            let mut allocation = Allocation {
                address: Some(from(&record["address"])?),
                vtep: Some(from(&record["vtep"])?),
                ..Allocation::default()
            };
            for (overlay, blocks) in record["overlays"].as_object().into_iter().flatten() {
                let subnets = from(&blocks["subnets"])?;
                allocation.subnets.insert(overlay.clone(), subnets);
            }
            Ok((name, allocation))
        });
        nodes.collect::<Result<_>>().map(Self)
    }

    /// As the daemon of a node knows them.
    pub(super) fn of_daemon(cluster: &OverlayCluster, node: usize) -> Result<Self> {
        let state = cluster.daemons[node].get("/v1/cluster")?;
        let nodes = state["nodes"].as_object();
        let nodes = nodes.with_context(|| format!("no nodes in {state}"))?;
        let nodes = nodes.iter().map(|(name, node)| {
            let all: Vec<NodeSubnets> = from(&node["subnets"])?;
            let allocation = Allocation {
                address: Some(from(&node["address"])?),
                vtep: Some(from(&node["vtep"]["address"])?),
                subnets: subnets(&all),
            };
            Ok((name.clone(), allocation))
        });
        nodes.collect::<Result<_>>().map(Self)
    }

    /// What two nodes have, or one has twice.
    pub(super) fn duplicates(&self) -> Vec<String> {
        let mut owners: BTreeMap<String, &str> = BTreeMap::new();
        let mut duplicates = vec![];
        for (name, allocation) in &self.0 {
            let addresses = [allocation.address, allocation.vtep].into_iter().flatten();
            let subnets = allocation.subnets.values().flatten();
            let all = addresses
                .map(|address| address.to_string())
                .chain(subnets.map(IpNet::to_string));
            for value in all {
                if let Some(other) = owners.insert(value.clone(), name) {
                    duplicates.push(format!("{value} is {name}'s and {other}'s"));
                }
            }
        }
        duplicates
    }
}

fn from<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T> {
    T::deserialize(value).with_context(|| value.to_string())
}

fn subnets(all: &[NodeSubnets]) -> BTreeMap<String, BTreeSet<IpNet>> {
    all.iter()
        .map(|subnets| (subnets.overlay.clone(), subnets.subnets().collect()))
        .collect()
}

/// What the node daemon keeps in the kernel of a host, a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DataPath(BTreeSet<String>);

impl DataPath {
    pub(super) fn read(host: &Host) -> Result<Self> {
        // The index of a device changes when it is made again.
        let text = host.sh("ip route show proto 133 | sed 's/^/route /'\n\
             ip rule show | grep 'proto 133' | sed 's/^/rule /'\n\
             cat /proc/sys/net/ipv4/ip_forward | sed 's/^/forwarding /'\n\
             nft list table inet contrail_mesos_overlay | \
             sed -e 's/packets [0-9]* bytes [0-9]*//' -e 's/^/table /'\n\
             for device in $(ip -o link show type vxlan | cut -d: -f2); do\n\
             ip -o -d link show dev $device | sed -e 's/^[0-9]*: /device /'\n\
             ip -o address show dev $device scope global | sed 's/^[0-9]*: /address /'\n\
             ip neigh show nud permanent dev $device | sed \"s/^/neighbour $device /\"\n\
             bridge fdb show dev $device | sed \"s/^/forwarding entry $device /\"\n\
             done")?;
        Ok(Self(text.lines().map(str::to_owned).collect()))
    }

    /// What this one has and the other has not.
    pub(super) fn beyond<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a String> {
        self.0.difference(&other.0)
    }
}

/// What containers have on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ContainerTraces {
    /// Those with a handle to their namespace.
    pub(super) namespaces: BTreeSet<String>,
    /// Those with a checkpoint.
    pub(super) checkpoints: BTreeSet<String>,
    /// The addresses that are leased, and by which container.
    pub(super) leases: BTreeMap<IpAddr, String>,
    /// How many interfaces lead to containers.
    pub(super) interfaces: usize,
}

impl ContainerTraces {
    pub(super) fn read(host: &Host) -> Result<Self> {
        let state = state_dir(host);
        let state = state.display();
        let names = |directory: &str| -> Result<BTreeSet<String>> {
            let names = host.sh(&format!("ls {directory} 2>/dev/null || true"))?;
            Ok(names.lines().map(str::to_owned).collect())
        };
        // Each line has a path, whose last part is the address, and the lease.
        let files = host.sh(&format!(
            "for file in $(find {state}/networks -type f ! -name '.*' 2>/dev/null); do \
             echo $(basename $file) $(cat $file); done"
        ))?;
        let leases = files.lines().filter_map(|line| {
            let (address, lease) = line.split_once(' ')?;
            Some((address.parse().ok()?, lease.to_owned()))
        });
        let interfaces = leftovers::links(host)?;
        Ok(Self {
            namespaces: names("/run/netns")?,
            checkpoints: names(&format!("{state}/containers"))?,
            leases: leases.collect(),
            // The uplink's other end is on the switch.
            interfaces: interfaces
                .iter()
                .filter(|link| link.contains("@if") && !link.starts_with("uplink"))
                .count(),
        })
    }
}
