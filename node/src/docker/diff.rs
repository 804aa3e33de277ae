//! The changes between the networks that Docker has and those that it must have: pure.
//!
//! Invariants: a network without our label is never changed. What is removed comes first: subnets of
//! old and new networks may overlap.

use std::collections::BTreeMap;

use contrail_mesos_api::text::Quoted;
use ipnet::IpNet;

use super::desired::{DesiredNetworks, DockerNetwork, bridge_name, gateway};

/// How many differences a problem lists.
const MAX_DIFFERENCES: usize = 4;

/// A network that Docker has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FoundNetwork {
    pub(super) id: String,
    pub(super) name: String,
    /// Whether it has our label.
    pub(super) is_ours: bool,
    pub(super) driver: String,
    pub(super) has_v6: bool,
    /// Whether its containers are cut off from the outside.
    pub(super) is_internal: bool,
    /// Each subnet with its gateway, as text.
    pub(super) subnets: Vec<FoundSubnet>,
    pub(super) options: BTreeMap<String, String>,
}

/// A subnet of a network, as Docker writes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FoundSubnet {
    pub(super) subnet: String,
    pub(super) gateway: String,
    /// The part of the subnet that containers get addresses of, if it is not the whole.
    pub(super) range: Option<String>,
}

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Remove a network of ours, if it has no containers. Then create what must be in its place.
    Remove {
        network: FoundNetwork,
        /// How it differs from the one that must be; nothing if none must be.
        differences: Vec<String>,
    },
    /// Create a network. It is left out if one in its place could not be removed.
    Create(DockerNetwork),
}

impl Step {
    /// What it does, for a person.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Remove {
                network,
                differences,
            } => {
                let name = Quoted(network.name.as_bytes());
                if differences.is_empty() {
                    format!("remove Docker's network {name}")
                } else {
                    format!(
                        "remove Docker's network {name}, which has {}",
                        list(differences)
                    )
                }
            }
            Self::Create(network) => {
                let subnets: Vec<_> = network.subnets.iter().map(IpNet::to_string).collect();
                format!(
                    "create Docker's network {} with subnet {}, bridge {} and MTU {}",
                    Quoted(network.name.as_bytes()),
                    subnets.join(" and "),
                    bridge_name(&network.name),
                    network.mtu
                )
            }
        }
    }
}

/// The first of `differences`, for a person.
pub(super) fn list(differences: &[String]) -> String {
    let first = differences.iter().take(MAX_DIFFERENCES);
    let mut first: Vec<_> = first.cloned().collect();
    if differences.len() > MAX_DIFFERENCES {
        first.push("more".to_owned());
    }
    first.join(", ")
}

/// The changes that are due, and what stands in the way of others.
pub(super) fn compare(
    desired: &DesiredNetworks,
    found: &[FoundNetwork],
) -> (Vec<Step>, Vec<String>) {
    let mut problems = Vec::new();
    let mut removed = Vec::new();
    let mut complete = Vec::new();
    let mut taken = Vec::new();
    for network in found {
        let name = network.name.as_str();
        let remove = |differences| Step::Remove {
            network: network.clone(),
            differences,
        };
        match desired.networks.get(name) {
            None if !network.is_ours || desired.undetermined.contains(name) => {}
            None => removed.push(remove(vec![])),
            Some(_) if !network.is_ours => {
                taken.push(name);
                problems.push(format!(
                    "Docker has a network {} that is not contrail-mesos', so its containers are not on the overlay of that name; remove it with `docker network rm {}` once it has no containers, or give the overlay another name",
                    Quoted(name.as_bytes()),
                    network.id.get(..12).unwrap_or(&network.id)
                ));
            }
            Some(wanted) => match differences(wanted, network) {
                // Docker may have several networks of one name.
                differences if differences.is_empty() && !complete.contains(&name) => {
                    complete.push(name);
                }
                differences if differences.is_empty() => removed.push(remove(vec![])),
                differences => removed.push(remove(differences)),
            },
        }
    }
    let created = desired
        .networks
        .values()
        .filter(|network| {
            let name = network.name.as_str();
            !complete.contains(&name) && !taken.contains(&name)
        })
        .cloned()
        .map(Step::Create);
    (removed.into_iter().chain(created).collect(), problems)
}

/// What a network has that it must not have, each for a person.
fn differences(wanted: &DockerNetwork, found: &FoundNetwork) -> Vec<String> {
    let mut differences = Vec::new();
    let quoted = |text: &str| Quoted(text.as_bytes()).to_string();
    if found.driver != "bridge" {
        differences.push(format!("the driver {}", quoted(&found.driver)));
    }
    if found.has_v6 != wanted.has_v6() {
        let state = if found.has_v6 { "on" } else { "off" };
        differences.push(format!("IPv6 {state}"));
    }
    if found.is_internal {
        differences.push("no connection to the outside".to_owned());
    }
    let has = |subnet: &&IpNet| found.subnets.iter().any(|found| is(found, subnet));
    let missing = wanted.subnets.iter().filter(|subnet| !has(subnet));
    differences.extend(missing.map(|subnet| format!("no subnet {subnet} as wanted")));
    let surplus = found
        .subnets
        .iter()
        .filter(|found| !wanted.subnets.iter().any(|subnet| is(found, subnet)));
    differences.extend(surplus.map(|found| {
        let subnet = quoted(&found.subnet);
        let gateway = quoted(&found.gateway);
        match &found.range {
            None => format!("the subnet {subnet} with the gateway {gateway}"),
            Some(range) => {
                format!("the range {} of the subnet {subnet}", quoted(range))
            }
        }
    }));
    for (option, value) in wanted.options() {
        let present = found.options.get(option).map_or("", String::as_str);
        if present != value {
            differences.push(format!(
                "the option {option} {} instead of {value}",
                quoted(present)
            ));
        }
    }
    differences
}

/// Whether a subnet is the one that is wanted, with its gateway.
fn is(found: &FoundSubnet, wanted: &IpNet) -> bool {
    found.range.is_none()
        && found.subnet.parse() == Ok(*wanted)
        && found.gateway.parse().ok() == gateway(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str) -> DockerNetwork {
        DockerNetwork {
            name: name.to_owned(),
            subnets: ["9.0.1.128/25", "fd09:0:0:1:8000::/65"]
                .map(|net| net.parse().unwrap())
                .into(),
            mtu: 1450,
        }
    }

    fn desired() -> DesiredNetworks {
        DesiredNetworks {
            networks: [("vxlan-1".to_owned(), wanted("vxlan-1"))].into(),
            undetermined: ["vxlan-9".to_owned()].into(),
        }
    }

    /// The network as Docker shows it after it was created.
    fn found(id: &str) -> FoundNetwork {
        let subnet = |subnet: &str, gateway: &str| FoundSubnet {
            subnet: subnet.to_owned(),
            gateway: gateway.to_owned(),
            range: None,
        };
        let options = wanted("vxlan-1").options().into_iter();
        FoundNetwork {
            id: id.to_owned(),
            name: "vxlan-1".to_owned(),
            is_ours: true,
            driver: "bridge".to_owned(),
            has_v6: true,
            is_internal: false,
            subnets: vec![
                subnet("fd09::1:8000:0:0:0/65", "fd09:0:0:1:8000::1"),
                subnet("9.0.1.128/25", "9.0.1.129"),
            ],
            options: options
                .map(|(key, value)| (key.to_owned(), value))
                .collect(),
        }
    }

    #[test]
    fn equal_network_needs_nothing_and_a_missing_one_is_created() {
        assert_eq!(compare(&desired(), &[found("a")]), (vec![], vec![]));
        let create = vec![Step::Create(wanted("vxlan-1"))];
        assert_eq!(compare(&desired(), &[]), (create, vec![]));
    }

    #[test]
    fn network_that_differs_is_replaced() {
        let changes: [fn(&mut FoundNetwork); 8] = [
            |network| network.driver = "macvlan".to_owned(),
            |network| network.has_v6 = false,
            |network| network.is_internal = true,
            |network| network.subnets[1].gateway = "9.0.1.130".to_owned(),
            |network| network.subnets[1].subnet = "9.0.1.128/26".to_owned(),
            |network| network.subnets[0].range = Some("fd09:0:0:1:8000::/80".to_owned()),
            |network| network.subnets.truncate(1),
            |network| {
                let option = "com.docker.network.driver.mtu".to_owned();
                network.options.insert(option, "1500".to_owned());
            },
        ];
        for (position, change) in changes.iter().enumerate() {
            let mut network = found("a");
            change(&mut network);
            let (steps, problems) = compare(&desired(), std::slice::from_ref(&network));
            assert_eq!(problems, [""; 0], "{position}");
            let [
                Step::Remove {
                    network: removed,
                    differences,
                },
                Step::Create(_),
            ] = &steps[..]
            else {
                panic!("{position}: {steps:?}");
            };
            assert_eq!(removed, &network);
            assert!(!differences.is_empty(), "{position}");
        }
    }

    #[test]
    fn network_of_another_owner_is_a_problem_and_stays() {
        let mut foreign = found("0123456789abcdef");
        foreign.is_ours = false;
        let (steps, problems) = compare(&desired(), &[foreign]);
        assert_eq!(steps, []);
        assert!(problems[0].contains("docker network rm 0123456789ab"));
        // An id that is shorter than others, or cuts a character, is shown whole.
        let mut strange = found("ä2345678901é");
        strange.is_ours = false;
        assert_eq!(compare(&desired(), &[strange]).1.len(), 1);
    }

    #[test]
    fn surplus_networks_of_ours_are_removed_and_others_stay() {
        let named = |name: &str, is_ours| FoundNetwork {
            name: name.to_owned(),
            is_ours,
            ..found(name)
        };
        let networks = [
            found("a"),
            named("bridge", false),
            named("vxlan-2", true),
            named("vxlan-9", true),
            found("b"),
        ];
        let (steps, problems) = compare(&desired(), &networks);
        assert_eq!(problems, [""; 0]);
        let removed: Vec<_> = steps
            .iter()
            .map(|step| match step {
                Step::Remove { network, .. } => network.id.as_str(),
                Step::Create(network) => network.name.as_str(),
            })
            .collect();
        assert_eq!(removed, ["vxlan-2", "b"]);
    }
}
