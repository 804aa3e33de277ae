//! The subsystem `masquerade`: containers on CNI bridges leave the overlays with this host's address.
//!
//! The DC/OS overlay module does the same: what comes from the subnet of an overlay and goes to no
//! overlay is masqueraded. The library's own bridges need none of it. Invariants: only the table
//! [`egress::TABLE`] is changed; packets between containers, and to tunnel endpoints, keep their
//! addresses.

use contrail_mesos::net::netlink::NetlinkError;
use contrail_mesos::net::nft::egress::{self, EgressTable};
use contrail_mesos_api::cluster::Overlay;
use ipnet::{IpNet, Ipv4Net};

use crate::cluster_state::ClusterState;
use crate::subsystem::{BoxError, Change, Mode, Outcome, Subsystem};

/// Keeps the table.
#[derive(Debug)]
pub struct MasqueradeSubsystem {
    table: EgressTable,
    /// Whether this host has CNI bridges; if not, nothing is masqueraded.
    has_bridges: bool,
}

impl MasqueradeSubsystem {
    /// The table of the calling thread's network namespace. Changes nothing. Without CNI bridges, the
    /// table of an earlier run is removed.
    pub fn new(has_bridges: bool) -> Result<Self, NetlinkError> {
        Ok(Self {
            table: EgressTable::open()?,
            has_bridges,
        })
    }
}

impl Subsystem for MasqueradeSubsystem {
    fn name(&self) -> &'static str {
        "masquerade"
    }

    fn reconcile(&mut self, cluster: &ClusterState, mode: Mode) -> Result<Outcome, BoxError> {
        let mut outcome = Outcome::default();
        let (overlays, inside) = subnets(cluster);
        if overlays.is_empty() || !self.has_bridges {
            if self.table.is_there()? {
                if mode == Mode::Apply {
                    self.table.remove()?;
                }
                let change = format!("remove the table inet {}", egress::TABLE);
                outcome.changes.push(Change(change));
            }
            return Ok(outcome);
        }
        let difference = self.table.compare(&overlays, &inside)?;
        if difference.is_empty() {
            return Ok(outcome);
        }
        if mode == Mode::Apply {
            self.table.apply(&difference)?;
        }
        let names: Vec<_> = overlays.iter().map(Ipv4Net::to_string).collect();
        outcome.changes.push(Change(format!(
            "masquerade what leaves {} for other addresses than those of the overlays",
            names.join(", ")
        )));
        Ok(outcome)
    }
}

/// The IPv4 subnets of the overlays, and all subnets that packets from there keep their addresses to.
fn subnets(cluster: &ClusterState) -> (Vec<Ipv4Net>, Vec<IpNet>) {
    let overlays = cluster
        .overlays
        .values()
        .filter_map(|overlay| overlay.subnet);
    let overlays = overlays.collect();
    let inside = cluster.overlays.values().flat_map(Overlay::subnets);
    let endpoints = cluster.underlay.iter();
    let endpoints = endpoints.map(|underlay| IpNet::V4(underlay.vtep_subnet));
    (overlays, inside.chain(endpoints).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::cluster;

    #[test]
    fn packets_to_overlays_and_endpoints_keep_their_addresses() {
        let mut state = cluster("3.1");
        let (overlays, inside) = subnets(&state);
        assert_eq!(overlays, ["9.0.0.0/8".parse().unwrap()]);
        let expected = ["9.0.0.0/8", "fd09::/48", "44.128.0.0/16"];
        assert_eq!(inside, expected.map(|subnet| subnet.parse().unwrap()));
        state.overlays.clear();
        assert!(subnets(&state).0.is_empty());
    }
}
