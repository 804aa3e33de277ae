//! What is enforced, and what the managers learn of this host's containers.

use std::net::IpAddr;
use std::sync::Arc;

use contrail_mesos::endpoints::LocalEndpoint;
use contrail_mesos::net::nft::groups::{GroupPolicy, MemberSet};
use contrail_mesos_api::cluster::{
    Admission, Endpoint, EndpointsReport, MAX_ENDPOINTS_REPORT_BYTES, MAX_REPORTED_ENDPOINTS,
    Membership,
};
use contrail_mesos_api::text::{Quoted, hex};
use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

/// How many addresses of a group are shown.
const MAX_SHOWN_ADDRESSES: usize = 1000;
/// The longest list of endpoints in a report: what remains beside its digest and the names of its fields.
const MAX_LIST_BYTES: usize = MAX_ENDPOINTS_REPORT_BYTES - 256;

/// What other parts of the daemon see of the groups.
#[derive(Clone, Debug)]
pub struct GroupsView {
    /// What is enforced.
    pub status: watch::Receiver<Arc<GroupsStatus>>,
    /// What is reported to the managers; none before the containers are known.
    pub report: watch::Receiver<Option<Arc<EndpointsReport>>>,
}

impl Default for GroupsView {
    /// The view of a daemon without groups: nothing ever changes.
    fn default() -> Self {
        Self {
            status: watch::Sender::default().subscribe(),
            report: watch::Sender::default().subscribe(),
        }
    }
}

/// What is enforced on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct GroupsStatus {
    /// Whether there are tables.
    pub is_active: bool,
    /// The containers of this host on networks that isolate groups.
    pub endpoints: Vec<EnforcedEndpoint>,
    /// The members of the groups that these containers need.
    pub groups: Vec<GroupMembers>,
    /// The isolated overlays of this host.
    pub isolated_overlays: Vec<String>,
}

/// A container of this host on a network that isolates groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct EnforcedEndpoint {
    /// The container's id.
    pub container: String,
    /// The network's name.
    pub network: String,
    /// The overlay's name, if the network is part of one.
    pub overlay: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its groups.
    #[serde(flatten)]
    pub membership: Membership,
    /// What else reaches it.
    pub admission: Admission,
}

/// The addresses from which something is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct GroupMembers {
    /// The group's name; none for the containers without a group.
    pub group: Option<String>,
    /// Whether the containers that name it as a security group are among them.
    pub with_security_groups: bool,
    /// How many addresses there are.
    pub count: usize,
    /// The first of them.
    pub addresses: Vec<IpAddr>,
}

impl GroupsStatus {
    pub(super) fn new(policy: &GroupPolicy, endpoints: &[LocalEndpoint]) -> Self {
        let endpoint = |endpoint: &LocalEndpoint| {
            let allowed = endpoint.policy.as_ref()?;
            Some(EnforcedEndpoint {
                container: endpoint.container.to_string(),
                network: endpoint.network.clone(),
                overlay: endpoint.overlay.clone(),
                addresses: endpoint.addresses.clone(),
                membership: allowed.membership.clone(),
                admission: allowed.admission,
            })
        };
        let members = policy.members.iter().map(|(set, addresses)| GroupMembers {
            group: match set {
                MemberSet::Group(name) | MemberSet::Named(name) => Some(name.clone()),
                MemberSet::Ungrouped => None,
            },
            with_security_groups: matches!(set, MemberSet::Named(_)),
            count: addresses.len(),
            addresses: addresses
                .iter()
                .copied()
                .take(MAX_SHOWN_ADDRESSES)
                .collect(),
        });
        let mut isolated_overlays: Vec<_> = policy
            .isolated
            .iter()
            .map(|overlay| overlay.name.clone())
            .collect();
        isolated_overlays.dedup();
        Self {
            is_active: !policy.is_empty(),
            endpoints: endpoints.iter().filter_map(endpoint).collect(),
            groups: members.collect(),
            isolated_overlays,
        }
    }

    /// The id of the container of this host with that address.
    #[must_use]
    pub fn container(&self, address: IpAddr) -> Option<&str> {
        let mut endpoints = self.endpoints.iter();
        let endpoint = endpoints.find(|endpoint| endpoint.addresses.contains(&address))?;
        Some(&endpoint.container)
    }
}

/// What is reported of these endpoints of `node`: those on overlays. Returns the problem of those that are
/// left out because the managers would refuse the report otherwise; the longest ones, so that a few
/// containers with many groups do not keep the others from being known.
pub(super) fn report(node: &str, endpoints: &[LocalEndpoint]) -> (EndpointsReport, Option<String>) {
    let on_overlays = endpoints
        .iter()
        .filter(|endpoint| endpoint.overlay.is_some() && !endpoint.addresses.is_empty());
    let mut endpoints: Vec<_> = on_overlays
        .filter_map(|endpoint| {
            Some(Endpoint {
                node: node.to_owned(),
                id: format!("{}/{}", endpoint.container, endpoint.network),
                addresses: endpoint.addresses.clone(),
                membership: endpoint.policy.as_ref()?.membership.clone(),
            })
        })
        .collect();
    endpoints.sort_by(|one, other| one.id.cmp(&other.id));
    let mut bytes = json(&endpoints);
    let mut problem = None;
    if bytes.len() > MAX_LIST_BYTES || endpoints.len() > MAX_REPORTED_ENDPOINTS {
        problem = leave_out(&mut endpoints);
        bytes = json(&endpoints);
    }
    let report = EndpointsReport {
        digest: hex(&Sha256::digest(bytes)),
        endpoints,
    };
    (report, problem)
}

/// Removes the longest endpoints beyond the limits of a report. Returns what that means.
fn leave_out(endpoints: &mut Vec<Endpoint>) -> Option<String> {
    let lengths = endpoints.iter().map(|endpoint| json(endpoint).len());
    let mut by_length: Vec<(usize, usize)> = lengths.zip(0..).collect();
    // Ties are decided by the order of the ids.
    by_length.sort_unstable();
    let mut total = 2;
    let mut is_kept = vec![false; endpoints.len()];
    for &(length, index) in by_length.iter().take(MAX_REPORTED_ENDPOINTS) {
        // With a comma.
        total += length + 1;
        if total > MAX_LIST_BYTES {
            break;
        }
        is_kept[index] = true;
    }
    let all = std::mem::take(endpoints);
    let mut left_out = vec![];
    for (endpoint, is_kept) in all.into_iter().zip(is_kept) {
        if is_kept {
            endpoints.push(endpoint);
        } else {
            left_out.push(endpoint.id);
        }
    }
    let first = left_out.first()?;
    Some(format!(
        "the managers accept at most {MAX_REPORTED_ENDPOINTS} containers and \
         {MAX_ENDPOINTS_REPORT_BYTES} bytes in the report of a node, so other hosts do not let in {} \
         containers on overlays, those with the most groups, such as {}; give them fewer groups",
        left_out.len(),
        Quoted(first.as_bytes())
    ))
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Serialization fails only for maps whose keys are not strings; there are none.
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use contrail_mesos::provider::bridge::ContainerPolicy;
    use contrail_mesos_api::cluster::{MAX_GROUP_NAME_BYTES, MAX_GROUPS};
    use contrail_mesos_api::container::{ContainerId, Mac};

    use super::*;

    fn endpoint(number: u32, groups: usize) -> LocalEndpoint {
        let group = |group: usize| format!("{group:0>MAX_GROUP_NAME_BYTES$}");
        LocalEndpoint {
            container: ContainerId::top_level(&format!("{number:08x}-0000-4000-8000-000000000000")),
            network: "dcos".to_owned(),
            overlay: Some("dcos".to_owned()),
            bridge: "m-dcos".to_owned(),
            bridge_addresses: vec![],
            host_interface: "veth".to_owned(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            addresses: vec![
                // All are equally long.
                format!("9.0.{}.{}", 100 + number / 100, 100 + number % 100)
                    .parse()
                    .unwrap(),
            ],
            policy: Some(ContainerPolicy {
                membership: Membership {
                    groups: (0..groups).map(group).collect(),
                    security_groups: vec![],
                },
                admission: Admission::default(),
            }),
        }
    }

    fn ids(report: &EndpointsReport) -> Vec<&str> {
        let endpoints = report.endpoints.iter();
        endpoints.map(|endpoint| &endpoint.id[..8]).collect()
    }

    #[test]
    fn longest_endpoints_beyond_the_bytes_of_a_report_are_left_out() {
        // Long names of groups are everything that a framework can choose.
        let mut endpoints: Vec<_> = (0..300)
            .map(|number| endpoint(number, MAX_GROUPS))
            .collect();
        endpoints.extend((300..400).map(|number| endpoint(number, 1)));
        let (report, problem) = super::report("node-1", &endpoints);
        assert!(json(&report).len() <= MAX_ENDPOINTS_REPORT_BYTES);
        // Another one of the long ones would not fit.
        assert!(json(&report).len() > MAX_ENDPOINTS_REPORT_BYTES - 10_000);
        let kept = ids(&report);
        let is_kept = |number: u32| kept.contains(&format!("{number:08x}").as_str());
        assert!((300..400).all(is_kept));
        assert!(kept.is_sorted());
        let first_left_out = (0..300).find(|number| !is_kept(*number)).unwrap();
        assert!(!(first_left_out..300).any(is_kept));
        let left_out = 400 - kept.len();
        let problem = problem.unwrap();
        assert!(
            problem.contains(&format!("do not let in {left_out} containers")),
            "{problem}"
        );
        assert!(
            problem.contains(&format!("{first_left_out:08x}-")),
            "{problem}"
        );

        // What goes is reported, in any order of the containers.
        endpoints.remove(399);
        endpoints.reverse();
        let (after, _) = super::report("node-1", &endpoints);
        assert!(!ids(&after).contains(&"0000018f"));
        assert_ne!(after.digest, report.digest);
    }

    #[test]
    fn number_of_reported_endpoints_is_bounded() {
        let count = u32::try_from(MAX_REPORTED_ENDPOINTS).unwrap();
        let mut endpoints: Vec<_> = (0..count).map(|number| endpoint(number, 0)).collect();
        let (all, problem) = super::report("node-1", &endpoints);
        assert_eq!((all.endpoints.len(), problem), (endpoints.len(), None));
        endpoints.insert(0, endpoint(count, 1));
        let (bounded, problem) = super::report("node-1", &endpoints);
        assert_eq!(bounded, all);
        assert!(problem.unwrap().contains("do not let in 1 containers"));
    }
}
