//! Which endpoints reach which, for operators: what the nodes enforce, computed from what is published.
//!
//! Invariants: it decides nothing. The work and the size of an answer are bounded, however many
//! endpoints there are: they are grouped by their memberships, and lists end at a limit.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use contrail_mesos_api::cluster::{Endpoint, IngressRule, Membership, RuleSource, SecurityGroup};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;

/// How much of the traffic from one container to another is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Traffic {
    /// Nothing.
    None,
    /// What some rules say: protocols, ports or addresses.
    Limited,
    /// Everything.
    All,
}

/// The rules of all security groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules(BTreeMap<String, Vec<IngressRule>>);

impl Rules {
    pub(crate) fn new(groups: Vec<SecurityGroup>) -> Self {
        let groups = groups.into_iter();
        Self(groups.map(|group| (group.name, group.rules)).collect())
    }

    /// The rules of the security groups of a container. An unknown group has none.
    fn of<'a>(&'a self, to: &'a Membership) -> impl Iterator<Item = &'a IngressRule> {
        let names = to.security_groups.iter();
        names.filter_map(|name| self.0.get(name)).flatten()
    }

    /// How much of the traffic from one endpoint to another is allowed, in the families that both have.
    pub(crate) fn traffic(&self, from: &Endpoint, to: &Endpoint) -> Traffic {
        let of_family = |endpoint: &Endpoint, is_v4: bool| -> Vec<IpAddr> {
            let addresses = endpoint.addresses.iter().copied();
            addresses
                .filter(|address| address.is_ipv4() == is_v4)
                .collect()
        };
        let in_families: Vec<Traffic> = [true, false]
            .into_iter()
            .map(|is_v4| (of_family(from, is_v4), of_family(to, is_v4)))
            .filter(|(from, to)| !from.is_empty() && !to.is_empty())
            .map(|(addresses, _)| self.traffic_from(&from.membership, &addresses, &to.membership))
            .collect();
        if in_families.iter().all(|traffic| *traffic == Traffic::All) && !in_families.is_empty() {
            return Traffic::All;
        }
        if in_families.iter().any(|traffic| *traffic > Traffic::None) {
            return Traffic::Limited;
        }
        Traffic::None
    }

    /// The same for addresses of one family.
    fn traffic_from(&self, from: &Membership, addresses: &[IpAddr], to: &Membership) -> Traffic {
        if shares_group(from, to) {
            return Traffic::All;
        }
        let of_rule = |rule: &IngressRule| {
            let (matches, all) = match &rule.source {
                RuleSource::Group(name) => {
                    let is_member = names(from, name);
                    (is_member, is_member)
                }
                RuleSource::Subnet(subnet) => (
                    addresses.iter().any(|address| subnet.contains(address)),
                    addresses.iter().all(|address| subnet.contains(address)),
                ),
            };
            match (matches, all && rule.protocol.is_none()) {
                (false, _) => Traffic::None,
                (true, false) => Traffic::Limited,
                (true, true) => Traffic::All,
            }
        };
        self.of(to).map(of_rule).max().unwrap_or(Traffic::None)
    }
}

/// Whether everything is allowed because of groups alone.
fn shares_group(from: &Membership, to: &Membership) -> bool {
    let is_common = |name: &String| to.groups.binary_search(name).is_ok();
    (from.is_empty() && to.is_empty()) || from.groups.iter().any(is_common)
}

/// Whether a rule with that group as its source is about a container.
fn names(membership: &Membership, group: &str) -> bool {
    let mut all = membership.groups.iter().chain(&membership.security_groups);
    all.any(|name| name == group)
}

/// The endpoints with one membership.
#[derive(Clone, Debug)]
pub(crate) struct Members {
    pub membership: Membership,
    pub endpoints: usize,
    /// How many nodes they are on.
    pub nodes: usize,
    /// Sorted.
    addresses: Vec<IpAddr>,
}

impl Members {
    fn has_address_in(&self, subnet: IpNet) -> bool {
        let start = self
            .addresses
            .partition_point(|address| *address < subnet.network());
        let first = self.addresses.get(start);
        first.is_some_and(|address| subnet.contains(address))
    }
}

/// All memberships, and who reaches whom.
#[derive(Debug)]
pub(crate) struct Reachability {
    rules: Rules,
    /// Ordered by membership.
    members: Vec<Members>,
    /// The indexes of members that have a group as a group.
    by_group: HashMap<String, Vec<usize>>,
    /// The indexes of members that have a group or security group of that name.
    by_name: HashMap<String, Vec<usize>>,
    /// The addresses with the indexes of their members, sorted.
    by_address: Vec<(IpAddr, usize)>,
    /// The index of the members without any group.
    without: Option<usize>,
}

/// Which members reach others, up to a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sources {
    /// By index.
    pub traffic: BTreeMap<usize, Traffic>,
    /// Whether there are more.
    pub is_truncated: bool,
}

impl Reachability {
    pub(crate) fn new(endpoints: &[Arc<Endpoint>], rules: Rules) -> Self {
        let mut grouped: BTreeMap<&Membership, Vec<&Endpoint>> = BTreeMap::new();
        for endpoint in endpoints {
            let group = grouped.entry(&endpoint.membership).or_default();
            group.push(endpoint);
        }
        let mut all = Self {
            rules,
            members: vec![],
            by_group: HashMap::new(),
            by_name: HashMap::new(),
            by_address: vec![],
            without: None,
        };
        for (index, (membership, endpoints)) in grouped.into_iter().enumerate() {
            for name in &membership.groups {
                let indexes = all.by_group.entry(name.clone()).or_default();
                indexes.push(index);
            }
            let names: BTreeSet<&String> = membership
                .groups
                .iter()
                .chain(&membership.security_groups)
                .collect();
            for name in names {
                let indexes = all.by_name.entry(name.clone()).or_default();
                indexes.push(index);
            }
            if membership.is_empty() {
                all.without = Some(index);
            }
            let nodes: BTreeSet<&str> = endpoints.iter().map(|one| one.node.as_str()).collect();
            let addresses = endpoints.iter().flat_map(|one| &one.addresses);
            let mut addresses: Vec<IpAddr> = addresses.copied().collect();
            addresses.sort_unstable();
            let indexed = addresses.iter().map(|address| (*address, index));
            all.by_address.extend(indexed);
            all.members.push(Members {
                membership: membership.clone(),
                endpoints: endpoints.len(),
                nodes: nodes.len(),
                addresses,
            });
        }
        all.by_address.sort_unstable();
        all
    }

    /// All memberships, ordered.
    pub(crate) fn members(&self) -> &[Members] {
        &self.members
    }

    /// How much of the traffic between members of both is allowed. Rules with subnets limit it: members
    /// have different addresses.
    pub(crate) fn traffic(&self, from: &Members, to: &Members) -> Traffic {
        if shares_group(&from.membership, &to.membership) {
            return Traffic::All;
        }
        let of_rule = |rule: &IngressRule| match &rule.source {
            RuleSource::Group(name) if !names(&from.membership, name) => Traffic::None,
            RuleSource::Group(_) if rule.protocol.is_none() => Traffic::All,
            RuleSource::Subnet(subnet) if !from.has_address_in(*subnet) => Traffic::None,
            RuleSource::Group(_) | RuleSource::Subnet(_) => Traffic::Limited,
        };
        let rules = self.rules.of(&to.membership);
        rules.map(of_rule).max().unwrap_or(Traffic::None)
    }

    /// Finds who reaches the members. `subnets` remembers what was found for earlier ones.
    pub(crate) fn sources(
        &self,
        to: &Membership,
        limit: usize,
        subnets: &mut HashMap<IpNet, Vec<usize>>,
    ) -> Sources {
        let mut sources = Sources::default();
        let none = vec![];
        if to.is_empty() {
            sources.add(
                &self.without.into_iter().collect::<Vec<_>>(),
                Traffic::All,
                limit,
            );
        }
        for name in &to.groups {
            sources.add(
                self.by_group.get(name).unwrap_or(&none),
                Traffic::All,
                limit,
            );
        }
        for rule in self.rules.of(to) {
            if sources.is_truncated {
                break;
            }
            let traffic = match (&rule.source, rule.protocol) {
                (RuleSource::Group(_), None) => Traffic::All,
                _ => Traffic::Limited,
            };
            let indexes = match &rule.source {
                RuleSource::Group(name) => self.by_name.get(name).unwrap_or(&none),
                RuleSource::Subnet(subnet) => &*subnets
                    .entry(*subnet)
                    .or_insert_with(|| self.members_in(*subnet, limit)),
            };
            sources.add(indexes, traffic, limit);
        }
        sources
    }

    /// The members with an address in the subnet: one more than the limit at most.
    fn members_in(&self, subnet: IpNet, limit: usize) -> Vec<usize> {
        let start = self
            .by_address
            .partition_point(|(address, _)| *address < subnet.network());
        let mut found = BTreeSet::new();
        for (address, index) in &self.by_address[start..] {
            if !subnet.contains(address) || found.len() > limit {
                break;
            }
            found.insert(*index);
        }
        found.into_iter().collect()
    }
}

impl Sources {
    fn add(&mut self, indexes: &[usize], traffic: Traffic, limit: usize) {
        for index in indexes {
            if let Some(known) = self.traffic.get_mut(index) {
                *known = traffic.max(*known);
            } else if self.traffic.len() < limit {
                self.traffic.insert(*index, traffic);
            } else {
                self.is_truncated = true;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn membership(groups: &[&str], security_groups: &[&str]) -> Membership {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Membership {
            groups: owned(groups),
            security_groups: owned(security_groups),
        }
    }

    fn endpoint(id: &str, address: &str, membership: Membership) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            node: "n".to_owned(),
            id: id.to_owned(),
            addresses: address
                .split(' ')
                .map(|address| address.parse().unwrap())
                .collect(),
            membership,
        })
    }

    fn rule(protocol: Option<u8>, source: &str) -> IngressRule {
        IngressRule {
            protocol,
            ports: None,
            source: match source.parse() {
                Ok(subnet) => RuleSource::Subnet(subnet),
                Err(_) => RuleSource::Group(source.to_owned()),
            },
        }
    }

    fn rules(groups: &[(&str, &[IngressRule])]) -> Rules {
        let groups = groups.iter().map(|(name, rules)| SecurityGroup {
            name: (*name).to_owned(),
            rules: rules.to_vec(),
        });
        Rules::new(groups.collect())
    }

    #[test]
    fn star_demonstration_has_its_matrix() {
        let all = [
            endpoint("a", "9.0.0.2", membership(&["star-1"], &[])),
            endpoint("b", "9.0.0.3", membership(&["star-1"], &[])),
            endpoint("c", "9.0.0.4", membership(&["star-2"], &[])),
            endpoint("d", "9.0.1.2", membership(&["star-2"], &[])),
            endpoint(
                "collect",
                "9.0.1.3",
                membership(&["public", "star-1", "star-2"], &[]),
            ),
        ];
        let rules = Rules::default();
        for (from, expected) in all.iter().zip(["ab*", "ab*", "cd*", "cd*", "abcd*"]) {
            let reached = all
                .iter()
                .filter(|to| rules.traffic(from, to) == Traffic::All);
            let reached: String = reached
                .map(|to| match to.id.as_str() {
                    "collect" => "*",
                    id => id,
                })
                .collect();
            assert_eq!(reached, expected, "{}", from.id);
        }
        let reachability = Reachability::new(&all, rules);
        let counts: Vec<_> = reachability
            .members()
            .iter()
            .map(|members| (members.endpoints, members.nodes))
            .collect();
        assert_eq!(counts, [(1, 1), (2, 1), (2, 1)]);
    }

    #[test]
    fn rules_limit_or_allow_traffic() {
        let web = endpoint("web", "9.0.0.2 fd00::2", membership(&[], &["web"]));
        let lb = endpoint("lb", "9.0.1.2 fd00:1::2", membership(&["lb"], &[]));
        let only4 = endpoint("only4", "9.0.1.3", membership(&["x"], &[]));
        let without = endpoint("without", "9.0.1.4", membership(&[], &[]));
        for (rule_list, from, expected) in [
            (vec![], &lb, Traffic::None),
            (vec![rule(None, "lb")], &lb, Traffic::All),
            (vec![rule(Some(6), "lb")], &lb, Traffic::Limited),
            (vec![rule(None, "lb")], &only4, Traffic::None),
            // One family of both.
            (vec![rule(None, "9.0.0.0/8")], &lb, Traffic::Limited),
            (
                vec![rule(None, "9.0.0.0/8"), rule(None, "::/0")],
                &lb,
                Traffic::All,
            ),
            (vec![rule(None, "9.0.1.0/24")], &only4, Traffic::All),
            (vec![rule(Some(17), "9.0.1.3/32")], &only4, Traffic::Limited),
            (vec![rule(None, "::/0")], &only4, Traffic::None),
            // A group that is not configured has no rules, and no group is a group of its own.
            (vec![], &without, Traffic::None),
            // Members of a security group do not reach each other by it.
            (vec![], &web, Traffic::None),
            (vec![rule(None, "web")], &web, Traffic::All),
        ] {
            let rules = rules(&[("web", &rule_list)]);
            assert_eq!(rules.traffic(from, &web), expected, "{rule_list:?}");
        }
        let rules = Rules::default();
        assert_eq!(rules.traffic(&without, &without), Traffic::All);
        assert_eq!(rules.traffic(&without, &lb), Traffic::None);
        assert_eq!(rules.traffic(&lb, &without), Traffic::None);
    }

    #[test]
    fn sources_end_at_the_limit() {
        let all: Vec<_> = (0..50_u8)
            .map(|last| {
                let groups = [format!("g{last:02}"), "x".to_owned()];
                let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
                endpoint(
                    &last.to_string(),
                    &format!("9.0.0.{last}"),
                    membership(&groups, &["web"]),
                )
            })
            .collect();
        let reachability =
            Reachability::new(&all, rules(&[("web", &[rule(Some(6), "9.0.0.0/8")])]));
        let mut subnets = HashMap::new();
        let to = membership(&["x"], &[]);
        let sources = reachability.sources(&to, 10, &mut subnets);
        assert_eq!((sources.traffic.len(), sources.is_truncated), (10, true));
        let sources = reachability.sources(&to, 50, &mut subnets);
        assert_eq!((sources.traffic.len(), sources.is_truncated), (50, false));
        let sources = reachability.sources(&membership(&[], &["web"]), 10, &mut subnets);
        assert!(sources.is_truncated);
        assert_eq!(sources.traffic.len(), 10);
        // One more says that there are more.
        assert!(subnets.values().all(|found| found.len() == 11));
    }

    fn any_membership() -> impl Strategy<Value = Membership> {
        let subset = || prop::sample::subsequence(vec!["a", "b", "c"], 0..=2);
        (subset(), subset()).prop_map(|(groups, security)| membership(&groups, &security))
    }

    fn any_rule() -> impl Strategy<Value = IngressRule> {
        let sources = ["a", "b", "c", "9.0.0.0/30", "9.0.0.4/32", "0.0.0.0/0"];
        (
            prop::option::of(Just(6_u8)),
            prop::sample::select(sources.to_vec()),
        )
            .prop_map(|(protocol, source)| rule(protocol, source))
    }

    proptest! {
        /// What is said of memberships is what is true of their endpoints.
        #[test]
        fn memberships_say_what_their_endpoints_say(
            memberships in prop::collection::vec(any_membership(), 1..8),
            of_a in prop::collection::vec(any_rule(), 0..3),
            of_b in prop::collection::vec(any_rule(), 0..3),
        ) {
            let all: Vec<_> = memberships
                .into_iter()
                .enumerate()
                .map(|(index, membership)| {
                    endpoint(&index.to_string(), &format!("9.0.0.{index}"), membership)
                })
                .collect();
            let rules = rules(&[("a", &of_a), ("b", &of_b)]);
            let reachability = Reachability::new(&all, rules.clone());
            let endpoints: usize = reachability.members().iter().map(|row| row.endpoints).sum();
            prop_assert_eq!(endpoints, all.len());
            let mut subnets = HashMap::new();
            for to in reachability.members() {
                let sources = reachability.sources(&to.membership, 100, &mut subnets);
                for (index, from) in reachability.members().iter().enumerate() {
                    let pairs = all.iter().filter(|one| one.membership == from.membership);
                    let pairs = pairs.flat_map(|one| {
                        let others = all.iter().filter(|other| other.membership == to.membership);
                        others.map(|other| rules.traffic(one, other))
                    });
                    let pairs: Vec<_> = pairs.collect();
                    let found = reachability.traffic(from, to);
                    let listed = sources.traffic.get(&index).copied();
                    prop_assert_eq!(listed.unwrap_or(Traffic::None), found);
                    // A subnet may hold all members, or some: it is a limit in both cases.
                    let highest = pairs.iter().max().copied().unwrap_or(Traffic::None);
                    prop_assert_eq!(highest > Traffic::None, found > Traffic::None);
                    prop_assert!(found <= highest);
                    if found == Traffic::All {
                        prop_assert!(pairs.iter().all(|traffic| *traffic == Traffic::All));
                    }
                }
            }
        }
    }
}
