//! The packets that were dropped because of groups, for `GET /v1/drops`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use contrail_mesos::net::netlink::NetlinkError;
use contrail_mesos::net::nft::groups::{DropReason, DroppedPackets, Drops};
use schemars::JsonSchema;
use serde::Serialize;

use crate::groups::GroupsStatus;

/// What was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct DropsReport {
    /// The packets by reason, since the rules were made.
    totals: BTreeMap<&'static str, u64>,
    /// What was dropped in the last minutes, most packets first. A flood may have left no room for all.
    recent: Vec<RecentDrop>,
}

/// Packets with the same addresses, protocol and port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct RecentDrop {
    reason: &'static str,
    source: IpAddr,
    destination: IpAddr,
    /// The number of the IP protocol.
    protocol: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    packets: u64,
    /// The container of this host with the source address.
    #[serde(skip_serializing_if = "Option::is_none")]
    source_container: Option<String>,
    /// The container of this host with the destination address.
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_container: Option<String>,
}

impl DropsReport {
    /// Asks the kernel: blocks.
    pub(super) fn read(status: &GroupsStatus) -> Result<Self, NetlinkError> {
        let drops = if status.is_active {
            Drops::read()?
        } else {
            Drops::default()
        };
        Ok(Self::new(drops, status))
    }

    fn new(drops: Drops, status: &GroupsStatus) -> Self {
        let totals = DropReason::ALL.map(|reason| {
            let packets = drops.totals.get(&reason).copied().unwrap_or(0);
            (reason.code(), packets)
        });
        let mut packets = drops.recent;
        packets.sort_by_key(|one| (std::cmp::Reverse(one.packets), one.source, one.destination));
        let container = |address| status.container(address).map(str::to_owned);
        let recent = |packets: DroppedPackets| RecentDrop {
            reason: packets.reason.code(),
            source: packets.source,
            destination: packets.destination,
            protocol: packets.protocol,
            port: packets.port,
            packets: packets.packets,
            source_container: container(packets.source),
            destination_container: container(packets.destination),
        };
        Self {
            totals: totals.into(),
            recent: packets.into_iter().map(recent).collect(),
        }
    }
}

/// The packets by reason, for the metrics; none if the kernel does not tell. Blocks.
pub(super) fn totals(status: &GroupsStatus) -> Option<BTreeMap<DropReason, u64>> {
    if !status.is_active {
        return Some(BTreeMap::new());
    }
    Drops::read_totals()
        .inspect_err(|error| log::debug!(error:%; "cannot read the counters of dropped packets"))
        .ok()
}

#[cfg(test)]
mod tests {
    use contrail_mesos_api::cluster::{Admission, Membership};
    use serde_json::json;

    use super::*;
    use crate::groups::EnforcedEndpoint;

    #[test]
    fn drops_name_the_containers_of_this_host_and_begin_with_the_most_frequent() {
        let endpoint = EnforcedEndpoint {
            container: "c1".to_owned(),
            network: "front".to_owned(),
            overlay: None,
            addresses: vec![[10, 1, 0, 2].into()],
            membership: Membership::default(),
            admission: Admission::default(),
        };
        let status = GroupsStatus {
            is_active: true,
            endpoints: vec![endpoint],
            ..GroupsStatus::default()
        };
        let packets = |source: [u8; 4], protocol, port, packets| DroppedPackets {
            reason: DropReason::NoSharedGroup,
            source: source.into(),
            destination: [10, 1, 0, 2].into(),
            protocol,
            port,
            packets,
        };
        let drops = Drops {
            totals: [(DropReason::NoSharedGroup, 12)].into(),
            recent: vec![
                packets([10, 1, 0, 9], 1, None, 2),
                packets([10, 1, 0, 8], 6, Some(80), 10),
            ],
        };
        let report = serde_json::to_value(DropsReport::new(drops, &status)).unwrap();
        assert_eq!(
            report,
            json!({
                "totals": {
                    "isolated-overlay": 0, "no-shared-group": 12, "outside": 0,
                    "spoofed-source": 0, "unknown-container": 0,
                },
                "recent": [
                    {"reason": "no-shared-group", "source": "10.1.0.8", "destination": "10.1.0.2",
                        "protocol": 6, "port": 80, "packets": 10, "destination_container": "c1"},
                    {"reason": "no-shared-group", "source": "10.1.0.9", "destination": "10.1.0.2",
                        "protocol": 1, "packets": 2, "destination_container": "c1"},
                ],
            })
        );
    }
}
