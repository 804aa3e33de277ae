//! Random sequences of what can happen, against a model that knows only what was given to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use contrail_mesos_api::cluster::{
    BlockReport, Node, NodeAnswer, NodeSubnets, Object, block_capacity,
};
use contrail_mesos_api::parser_testing::ROUNDS_VARIABLE;
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::super::allocation::Allocation;
use super::super::config::{BLOCK_REST, OverlayDefinition};
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
    /// A node reports what it wants of overlays that lend blocks, in both families.
    Report(BlockStep),
    /// Minutes pass.
    Wait(u64),
}

/// A report about blocks.
#[derive(Clone, Debug)]
pub(super) struct BlockStep {
    pub(super) node: usize,
    wanted: u32,
    wanted6: u32,
    /// Which of its blocks it gives back, a bit each.
    returns: u16,
    /// Whether it was sent before the managers took blocks back.
    is_late: bool,
}

pub(super) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..NODES, 1_u8..12).prop_map(|(node, address)| Step::Register(node, address)),
        2 => (0..NODES).prop_map(Step::Release),
        3 => (0..configs().len()).prop_map(Step::Configure),
        1 => Just(Step::Restart),
        8 => (0..NODES, 0_u32..9, 0_u32..9, any::<u16>(), any::<u16>(), 0..4)
            .prop_map(|(node, wanted, wanted6, returns, more, late)| {
                // A few blocks at once.
                let (returns, is_late) = (returns & more, late == 0);
                Step::Report(BlockStep { node, wanted, wanted6, returns, is_late })
            }),
        2 => (0_u64..7).prop_map(Step::Wait),
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
    let lending =
        |name: &str, keys: &str| format!(r#"{{"name": "{name}", "ipam": "cluster", {keys}}}"#);
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
            vec![both.replace("fd00::/61", "fd44:1::/62"), b.clone()],
        ),
        // Overlays that lend blocks, where others had subnets.
        (
            vtep("44.128.0.0/28"),
            vec![
                lending("a", r#""subnet": "10.0.0.0/26", "block": 30"#),
                b.clone(),
            ],
        ),
        (
            vtep6.to_owned(),
            vec![
                lending(
                    "a",
                    r#""subnet": "10.0.0.0/26", "subnet6": "fd00::/121", "block": 29"#,
                ),
                lending("b", r#""subnet": "10.0.1.0/27", "block": 29"#),
            ],
        ),
        (
            vtep("44.128.0.0/28"),
            vec![
                lending(
                    "a",
                    r#""subnet": "10.0.0.0/26", "block": 30, "enabled": false"#,
                ),
                lending("b", r#""subnet": "10.0.1.0/28", "block": 30"#),
            ],
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
        let of_overlay = records().filter_map(|record| record.overlays.get(&usage.overlay));
        let used = if usage.lends_blocks {
            let lent = of_overlay.flat_map(|blocks| &blocks.blocks);
            lent.filter(|block| usage.subnet.contains(*block)).count()
        } else {
            let current = of_overlay.filter_map(|blocks| blocks.current(usage.subnet));
            current.count()
        };
        assert_eq!(usage.used, used as u64, "{usage:?}");
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
    /// The blocks that nodes have borrowed and have not given back.
    lent: AllocatedSubnets,
    /// The blocks that nodes have given back: by whom, and when.
    resting: BTreeMap<IpNet, (String, Instant)>,
    addresses: BTreeMap<String, IpAddr>,
}

impl Model {
    /// A registered node reports what it wants and gives back.
    fn report(
        &mut self,
        allocation: &mut Allocation,
        step: &BlockStep,
        now: Instant,
    ) -> TestCaseResult {
        let name = name(step.node);
        let Some(address) = self.addresses.get(&name).copied() else {
            return Ok(());
        };
        for (overlay, blocks) in report_blocks(allocation, step, address)? {
            let lent = self.lent.entry(name.clone()).or_default();
            let lent = lent.entry(overlay).or_default();
            for block in blocks {
                prop_assert!(lent.remove(&block));
                self.resting.insert(block, (name.clone(), now));
            }
        }
        Ok(())
    }

    /// Remembers what nodes have now, and checks that they have what they had.
    fn observe(&mut self, allocation: &Allocation, now: Instant) -> TestCaseResult {
        for object in allocation.objects() {
            let Object::Node(node) = object else { continue };
            let given = self.given.entry(node.name.clone()).or_default();
            prop_assert_eq!(self.addresses.get(&node.name), Some(&node.address));
            let config = allocation.config();
            let lends = |name: &str| {
                let mut overlays = config.overlays.iter();
                overlays.any(|overlay| overlay.name == name && overlay.lends_blocks)
            };
            let lent = self.lent.entry(node.name.clone()).or_default();
            for subnets in &node.subnets {
                let is_lent = lends(&subnets.overlay);
                prop_assert_eq!(is_lent, !subnets.blocks.is_empty(), "{:?}", node);
                let known = if is_lent { &mut *lent } else { &mut *given };
                let blocks = known.entry(subnets.overlay.clone()).or_default();
                blocks.extend(subnets.subnets());
            }
            for overlay in config
                .overlays
                .iter()
                .filter(|overlay| overlay.lends_blocks)
            {
                let had = lent.get(&overlay.name).into_iter().flatten().copied();
                let had: BTreeSet<IpNet> = had
                    .filter(|block| overlay.pools().any(|pool| pool.subnet.contains(block)))
                    .collect();
                let of_overlay = node.subnets.iter();
                let now = of_overlay.filter(|subnets| subnets.overlay == overlay.name);
                let now: BTreeSet<IpNet> = now.flat_map(NodeSubnets::subnets).collect();
                prop_assert_eq!(now, had);
            }
            for overlay in config
                .overlays
                .iter()
                .filter(|overlay| !overlay.lends_blocks)
            {
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
        let lent = self.lent.iter();
        let all: Vec<(&String, IpNet)> = self
            .given
            .iter()
            .chain(lent)
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
        // What a node has given back rests before another one gets it.
        self.resting.retain(|block, (holder, since)| {
            let is_again = all
                .iter()
                .any(|(name, given)| *name == holder && overlap(*block, *given));
            !is_again && now.duration_since(*since) < BLOCK_REST
        });
        for (block, (holder, _)) in &self.resting {
            for (name, given) in &all {
                prop_assert!(
                    *name == holder || !overlap(*block, *given),
                    "{} {}",
                    block,
                    name
                );
            }
            for (name, record) in allocation.records() {
                let mut own = record.endpoints().map(IpNet::from).chain(record.blocks());
                prop_assert!(name == holder || !own.any(|part| overlap(part, *block)));
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
        .filter(|overlay| overlay.enabled && !overlay.lends_blocks)
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

/// The blocks that a node has of an overlay, and how often it has given blocks back.
fn blocks_of(node: Option<&Node>, overlay: &str) -> (Vec<IpNet>, u64) {
    let mut subnets = node.into_iter().flat_map(|node| &node.subnets);
    let of_overlay = subnets.find(|subnets| subnets.overlay == overlay);
    of_overlay.map_or((vec![], 0), |subnets| {
        (subnets.blocks.clone(), subnets.returned)
    })
}

/// What a node reports of each overlay that lends blocks.
pub(super) fn block_reports(
    config: &OverlayConfig,
    node: Option<&Node>,
    step: &BlockStep,
) -> Vec<BlockReport> {
    let lending = config
        .overlays
        .iter()
        .filter(|overlay| overlay.lends_blocks);
    let report = |overlay: &OverlayDefinition| {
        let (blocks, returned) = blocks_of(node, &overlay.name);
        let returns = blocks.iter().enumerate();
        let returns = returns.filter(|(index, _)| step.returns >> (index % 16) & 1 == 1);
        BlockReport {
            overlay: overlay.name.clone(),
            wanted: step.wanted,
            wanted6: step.wanted6,
            returns: returns.map(|(_, block)| *block).collect(),
            returned: if step.is_late {
                returned.wrapping_sub(1)
            } else {
                returned
            },
            ..BlockReport::default()
        }
    };
    lending.map(report).collect()
}

/// A node reports what it wants and what it gives back. Returns the blocks that the managers took.
fn report_blocks(
    allocation: &mut Allocation,
    step: &BlockStep,
    address: IpAddr,
) -> Result<BTreeMap<String, Vec<IpNet>>, TestCaseError> {
    let name = name(step.node);
    let before = allocation.node(&name);
    let config = allocation.config().clone();
    let lending = || {
        config
            .overlays
            .iter()
            .filter(|overlay| overlay.lends_blocks)
    };
    let reports = block_reports(&config, before.as_ref(), step);
    let Ok((_, answer)) = allocation.register(&name, address, &reports) else {
        return Ok(BTreeMap::new());
    };
    let mut taken = BTreeMap::new();
    for (overlay, report) in lending().zip(&reports) {
        let (blocks, returned) = blocks_of(answer.node.as_ref(), &overlay.name);
        let (blocks_before, returned_before) = blocks_of(before.as_ref(), &overlay.name);
        let is_taken = !step.is_late && !report.returns.is_empty();
        if !blocks.is_empty() && !blocks_before.is_empty() {
            prop_assert_eq!(returned, returned_before + u64::from(is_taken));
        }
        if is_taken {
            taken.insert(overlay.name.clone(), report.returns.clone());
        }
        for pool in overlay.pools().filter(|_| overlay.enabled) {
            let wanted = match pool.subnet {
                IpNet::V4(_) => step.wanted,
                IpNet::V6(_) => step.wanted6,
            };
            let of_pool = blocks.iter().filter(|block| pool.subnet.contains(*block));
            let capacity: u32 = of_pool.copied().map(block_capacity).sum();
            if capacity < wanted {
                let mut free = subnets_of(pool.subnet, pool.prefix).into_iter();
                prop_assert!(
                    free.all(|block| used_by_any(allocation, block)),
                    "{:?}",
                    answer
                );
                let mut problems = answer.problems.iter();
                let expected = format!("overlay {} ", overlay.name);
                prop_assert!(problems.any(|problem| problem.contains(&expected)));
            }
        }
    }
    Ok(taken)
}

/// Ends rests. Any beginning of the changes is a valid state, and they can be undone.
fn end_rests(allocation: &mut Allocation, now: Instant) -> TestCaseResult {
    let before = allocation.records().clone();
    let changes = allocation.end_rests(now);
    let after = allocation.records().clone();
    allocation.undo(changes);
    prop_assert_eq!(allocation.records(), &before);
    allocation.end_rests(now);
    prop_assert_eq!(allocation.records(), &after);
    Ok(())
}

fn run(steps: Vec<Step>) -> TestCaseResult {
    let mut now = Instant::now();
    let configs = configs();
    let mut allocation = Allocation::new(configs[0].clone());
    let mut model = Model::default();
    for step in steps {
        let before = allocation.records().clone();
        match step {
            Step::Register(node, number) => {
                let (name, address) = (name(node), address(number));
                let registered = allocation.register(&name, address, &[]);
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
                        let again = allocation.register(&name, address, &[]).unwrap();
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
                model.lent.remove(&name);
                model.resting.retain(|_, (holder, _)| *holder != name);
            }
            Step::Report(step) => model.report(&mut allocation, &step, now)?,
            Step::Wait(minutes) => {
                now += Duration::from_mins(minutes);
                end_rests(&mut allocation, now)?;
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
        model.observe(&allocation, now)?;
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
