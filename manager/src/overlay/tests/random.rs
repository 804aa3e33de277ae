//! Random sequences of what can happen, against a model that knows only what was given to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use contrail_mesos_api::cluster::{Node, NodeAnswer, NodeSubnets, Object};
use contrail_mesos_api::parser_testing::ROUNDS_VARIABLE;
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::super::allocation::Allocation;
use super::super::error::AllocatorError;
use super::super::record::NodeRecord;
use super::super::space::range;
use super::*;

const NODES: usize = 9;

/// What happens.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A node registers, with one of a few addresses.
    Register(usize, u8),
    Release(usize),
    /// One of [`configs`].
    Configure(usize),
    Restart,
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..NODES, 1_u8..12).prop_map(|(node, address)| Step::Register(node, address)),
        2 => (0..NODES).prop_map(Step::Release),
        3 => (0..configs().len()).prop_map(Step::Configure),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..60)
}

pub(super) fn name(node: usize) -> String {
    format!("node-{node}")
}

pub(super) fn address(number: u8) -> IpAddr {
    [192, 0, 2, number].into()
}

/// Configurations that use the same addresses for different things.
pub(super) fn configs() -> Vec<OverlayConfig> {
    let vtep = |subnet: &str| format!(r#""vtep_subnet": "{subnet}""#);
    let overlay = |name: &str, subnet: &str, prefix: u8| {
        format!(r#"{{"name": "{name}", "subnet": "{subnet}", "prefix": {prefix}}}"#)
    };
    let a = overlay("a", "10.0.0.0/26", 29);
    let b = overlay("b", "10.0.1.0/27", 28);
    let both = r#"{"name": "a", "subnet": "10.0.0.0/26", "prefix": 29, "subnet6": "fd00::/61", "prefix6": 64}"#;
    let vtep6 = r#""vtep_subnet": "44.128.0.0/28", "vtep_subnet6": "fd44::/126""#;
    [
        (vtep("44.128.0.0/28"), vec![a.clone(), b.clone()]),
        (vtep("44.128.0.0/28"), vec![a.clone()]),
        (
            vtep("44.128.0.0/28"),
            vec![a.replace('}', ", \"enabled\": false}"), b.clone()],
        ),
        // Other prefixes, smaller and larger subnets.
        (
            vtep("44.128.0.0/27"),
            vec![overlay("a", "10.0.0.0/26", 28), b.clone()],
        ),
        (
            vtep("44.128.0.0/29"),
            vec![
                overlay("a", "10.0.0.0/27", 29),
                overlay("b", "10.0.1.0/26", 27),
            ],
        ),
        // Subnets with other names.
        (
            vtep("44.128.0.0/28"),
            vec![
                overlay("b", "10.0.0.0/26", 29),
                overlay("c", "10.0.1.0/27", 28),
            ],
        ),
        // Endpoints where subnets were, and subnets where endpoints were.
        (
            vtep("10.0.0.0/28"),
            vec![overlay("a", "44.128.0.0/26", 29), b.clone()],
        ),
        (
            vtep("45.128.0.0/30"),
            vec![a.clone(), overlay("d", "44.128.0.0/27", 28)],
        ),
        // The same last bytes of endpoints.
        (vtep("45.128.0.0/28"), vec![a, b.clone()]),
        (vtep6.to_owned(), vec![both.to_owned(), b.clone()]),
        (
            vtep6.replace("/126", "/64"),
            vec![both.replace("fd00::/61", "fd44:1::/62"), b],
        ),
    ]
    .iter()
    .map(|(vtep, overlays)| config(vtep, &overlays.join(",")))
    .collect()
}

/// Whether two subnets have an address in common.
fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// Checks that nothing is given twice, and that everything is where it belongs.
pub(super) fn check(allocation: &Allocation) {
    let mut parts: Vec<(&str, IpNet)> = vec![];
    let mut macs = BTreeSet::new();
    let mut addresses = BTreeSet::new();
    for (name, record) in allocation.records() {
        let own = record.endpoints().map(IpNet::from).chain(record.blocks());
        for part in own {
            for (other, given) in &parts {
                assert!(
                    !overlap(part, *given),
                    "{part} of {name}, {given} of {other}"
                );
            }
            parts.push((name, part));
        }
        assert!(addresses.insert(record.address), "{}", record.address);
    }
    for object in allocation.objects() {
        let Object::Node(node) = object else { continue };
        assert!(macs.insert(node.vtep.mac.to_string()), "{node:?}");
        check_place(&node, allocation.config());
    }
}

/// Checks what is said of the use of overlays, once the configuration is applied.
fn check_usage(allocation: &Allocation) {
    let records = || allocation.records().values();
    for usage in allocation.usage() {
        let used = records()
            .filter_map(|record| record.overlays.get(&usage.overlay)?.current(usage.subnet));
        assert_eq!(usage.used, used.count() as u64, "{usage:?}");
        let free = subnets_of(usage.subnet, usage.prefix);
        let free = free
            .into_iter()
            .filter(|block| !used_by_any(allocation, *block));
        assert_eq!(usage.free, free.count() as u64, "{usage:?}");
    }
    for usage in allocation.endpoint_usage() {
        let endpoints = records().flat_map(NodeRecord::endpoints);
        let used = endpoints.filter(|address| usage.subnet.contains(address));
        assert_eq!(usage.used, used.count() as u64, "{usage:?}");
    }
}

/// Checks that what a node has is in the subnets of the configuration.
fn check_place(node: &Node, config: &OverlayConfig) {
    let subnet = config.vtep_subnet;
    let vtep = node.vtep.address;
    assert!(subnet.hosts().any(|host| host == vtep), "{node:?}");
    assert_eq!(node.vtep.address6.is_some(), config.vtep_subnet6.is_some());
    if let (Some(address), Some(subnet)) = (node.vtep.address6, config.vtep_subnet6) {
        assert!(
            subnet.contains(&address) && address != subnet.network(),
            "{node:?}"
        );
    }
    for subnets in &node.subnets {
        let overlay = config
            .overlays
            .iter()
            .find(|overlay| overlay.name == subnets.overlay);
        let overlay = overlay.unwrap();
        for block in subnets.subnets() {
            assert!(
                overlay.pools().any(|pool| pool.subnet.contains(&block)),
                "{node:?}"
            );
            assert!(
                contrail_mesos_api::cluster::halves(block).is_some(),
                "{node:?}"
            );
        }
    }
}

/// What a node was given of an overlay since it was registered.
type AllocatedSubnets = BTreeMap<String, BTreeMap<String, BTreeSet<IpNet>>>;

/// What must be so after any step.
#[derive(Debug, Default)]
struct Model {
    given: AllocatedSubnets,
    addresses: BTreeMap<String, IpAddr>,
}

impl Model {
    /// Remembers what nodes have now, and checks that they have what they had.
    fn observe(&mut self, allocation: &Allocation) -> TestCaseResult {
        for object in allocation.objects() {
            let Object::Node(node) = object else { continue };
            let given = self.given.entry(node.name.clone()).or_default();
            prop_assert_eq!(self.addresses.get(&node.name), Some(&node.address));
            for subnets in &node.subnets {
                let blocks = given.entry(subnets.overlay.clone()).or_default();
                blocks.extend(subnets.subnets());
            }
            for overlay in &allocation.config().overlays {
                let had = given.get(&overlay.name).into_iter().flatten();
                let now = node
                    .subnets
                    .iter()
                    .find(|subnets| subnets.overlay == overlay.name);
                let now: Vec<IpNet> = now.into_iter().flat_map(NodeSubnets::subnets).collect();
                for pool in overlay.pools() {
                    let valid: Vec<_> = had
                        .clone()
                        .filter(|block| pool.subnet.contains(*block))
                        .collect();
                    let has = now.iter().find(|block| pool.subnet.contains(*block));
                    prop_assert_eq!(valid.is_empty(), has.is_none(), "{:?} {:?}", node, given);
                    prop_assert!(has.is_none_or(|has| valid.contains(&has)));
                }
            }
        }
        // What was given to a node is given to no other one until it is released.
        let all: Vec<(&String, IpNet)> = self
            .given
            .iter()
            .flat_map(|(name, overlays)| {
                overlays.values().flatten().map(move |block| (name, *block))
            })
            .collect();
        for (index, (name, block)) in all.iter().enumerate() {
            for (other, given) in &all[..index] {
                prop_assert!(
                    name == other || !overlap(*block, *given),
                    "{} {}",
                    block,
                    given
                );
            }
        }
        prop_assert_eq!(self.addresses.len(), allocation.records().len());
        Ok(())
    }
}

/// Checks that a node lacks something only if nothing is free.
fn check_shortage(allocation: &Allocation, name: &str, answer: &NodeAnswer) -> TestCaseResult {
    let node = answer.node.as_ref().unwrap();
    prop_assert_eq!(&node.name, name);
    let mut lacking = 0;
    for overlay in allocation
        .config()
        .overlays
        .iter()
        .filter(|overlay| overlay.enabled)
    {
        let now = node
            .subnets
            .iter()
            .find(|subnets| subnets.overlay == overlay.name);
        let now: Vec<IpNet> = now.into_iter().flat_map(NodeSubnets::subnets).collect();
        let lacks = |subnet: IpNet| !now.iter().any(|block| subnet.contains(block));
        if overlay.pools().all(|pool| !lacks(pool.subnet)) {
            continue;
        }
        lacking += 1;
        let used_up = overlay.pools().any(|pool| {
            lacks(pool.subnet)
                && subnets_of(pool.subnet, pool.prefix)
                    .into_iter()
                    .all(|block| used_by_any(allocation, block))
        });
        prop_assert!(used_up, "{:?} {:?}", overlay, answer);
        let problems = answer.problems.iter();
        let named =
            problems.filter(|problem| problem.contains(&format!("overlay {} ", overlay.name)));
        prop_assert!(named.count() > 0, "{:?}", answer);
    }
    prop_assert_eq!(lacking == 0, answer.problems.is_empty(), "{:?}", answer);
    Ok(())
}

/// All blocks of a subnet.
fn subnets_of(subnet: IpNet, prefix: u8) -> Vec<IpNet> {
    match subnet {
        IpNet::V4(net) => net.subnets(prefix).unwrap().map(IpNet::V4).collect(),
        IpNet::V6(net) => net.subnets(prefix).unwrap().map(IpNet::V6).collect(),
    }
}

/// Whether anybody has a part of a block.
fn used_by_any(allocation: &Allocation, block: IpNet) -> bool {
    allocation.records().values().any(|record| {
        let mut own = record.endpoints().map(IpNet::from).chain(record.blocks());
        own.any(|part| overlap(part, block))
    })
}

fn run(steps: Vec<Step>) -> TestCaseResult {
    let configs = configs();
    let mut allocation = Allocation::new(configs[0].clone());
    let mut model = Model::default();
    for step in steps {
        let before = allocation.records().clone();
        match step {
            Step::Register(node, number) => {
                let (name, address) = (name(node), address(number));
                let registered = allocation.register(&name, address);
                let holder = model.addresses.iter().find(|(_, other)| **other == address);
                let holder = holder.map(|(holder, _)| holder.clone());
                match registered {
                    Ok((change, answer)) => {
                        prop_assert!(holder.is_none_or(|holder| holder == name));
                        prop_assert_eq!(change.is_some(), *allocation.records() != before);
                        model.addresses.insert(name.clone(), address);
                        check_shortage(&allocation, &name, &answer)?;
                        prop_assert_eq!(allocation.node(&name), answer.node);
                        // It is answered the same again, without a change.
                        let again = allocation.register(&name, address).unwrap();
                        prop_assert!(again.0.is_none());
                        prop_assert_eq!(again.1.problems, answer.problems);
                    }
                    Err(error) => {
                        prop_assert_eq!(allocation.records(), &before);
                        match error {
                            AllocatorError::AddressTaken { node, .. } => {
                                prop_assert_eq!(Some(node), holder);
                            }
                            AllocatorError::EndpointsExhausted { subnet, .. } => {
                                let hosts = range(subnet);
                                let used = (hosts.start() + 1..*hosts.end()).take(64).all(|host| {
                                    let host = match subnet {
                                        IpNet::V4(_) => {
                                            IpAddr::from(u32::try_from(host).unwrap().to_be_bytes())
                                        }
                                        IpNet::V6(_) => IpAddr::from(host.to_be_bytes()),
                                    };
                                    used_by_any(&allocation, host.into())
                                });
                                prop_assert!(used, "{}", subnet);
                            }
                            other => prop_assert!(false, "{}", other),
                        }
                    }
                }
            }
            Step::Release(node) => {
                let name = name(node);
                let released = allocation.release(&name);
                prop_assert_eq!(released.is_some(), model.addresses.remove(&name).is_some());
                model.given.remove(&name);
            }
            Step::Configure(index) => {
                allocation.set_config(configs[index].clone());
                let changes = allocation.settle();
                // Any beginning of the changes is a valid state.
                let mut stored = before.clone();
                for change in changes {
                    match change.after {
                        Some(record) => drop(stored.insert(change.name, record)),
                        None => drop(stored.remove(&change.name)),
                    }
                    let records = stored.values();
                    let records = records.map(|record| (record.name.clone(), record.to_bytes()));
                    let loaded = Allocation::load(configs[index].clone(), records);
                    prop_assert!(loaded.is_ok(), "{:?}", loaded.err());
                }
                prop_assert_eq!(allocation.records(), &stored);
                prop_assert!(allocation.settle().is_empty());
            }
            Step::Restart => {
                let records = before.values();
                let records = records.map(|record| (record.name.clone(), record.to_bytes()));
                let config = allocation.config().clone();
                allocation = Allocation::load(config, records).unwrap();
                prop_assert_eq!(allocation.records(), &before);
                // Nodes may get what others have given back since.
                allocation.settle();
                prop_assert!(allocation.settle().is_empty());
            }
        }
        check(&allocation);
        check_usage(&allocation);
        model.observe(&allocation)?;
    }
    Ok(())
}

/// How many sequences a test has. In the long tests it is a twentieth of the number of damaged inputs
/// that parsers get, because a sequence takes longer: 10,000 by default.
pub(super) fn cases(default: u32) -> ProptestConfig {
    let rounds = std::env::var(ROUNDS_VARIABLE).ok();
    let rounds = rounds.and_then(|rounds| rounds.parse::<u32>().ok());
    ProptestConfig {
        cases: rounds.map_or(0, |rounds| rounds / 20).max(default),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn random_changes_give_nothing_twice_and_lose_nothing(steps in steps()) {
        run(steps)?;
    }
}
