//! Which blocks of one overlay and family containers get addresses of, and how many addresses are
//! wanted: a pure function.
//!
//! Invariants: a block that is offered to the managers is never used. A block that is kept free is used
//! again before more are asked for. The reserve grows with the launches of the last moments, so blocks
//! that a burst filled are followed by as many.

use std::collections::{BTreeMap, BTreeSet};

use contrail_mesos_api::cluster::block_capacity;
use ipnet::IpNet;

/// The fewest addresses that are kept free.
const MIN_RESERVE: u32 = 4;
/// The most: as many as the ports of a bridge are at launches at once on any host.
const MAX_RESERVE: u32 = 256;

/// What is known of the blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockUse<'a> {
    /// All blocks that this host has, and how many addresses of each are in use.
    pub(super) blocks: &'a BTreeMap<IpNet, u32>,
    /// Those that are offered to the managers.
    pub(super) offered: &'a BTreeSet<IpNet>,
    /// Those that were kept free before.
    pub(super) draining: &'a BTreeSet<IpNet>,
    /// How many addresses were leased in the last moments.
    pub(super) recent: u32,
}

/// What follows from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BlockPlan {
    /// The blocks that containers get addresses of.
    pub(super) lendable: BTreeSet<IpNet>,
    /// Those that no container gets an address of any more, so that they become free.
    pub(super) draining: BTreeSet<IpNet>,
    /// How many addresses are in use.
    pub(super) used: u32,
    /// How many are wanted, with the reserve.
    pub(super) wanted: u32,
}

/// How many addresses must be free.
fn reserve(used: u32, recent: u32) -> u32 {
    used.div_ceil(4).max(recent).clamp(MIN_RESERVE, MAX_RESERVE)
}

pub(super) fn plan(known: BlockUse<'_>) -> BlockPlan {
    let BlockUse {
        blocks, offered, ..
    } = known;
    let used: u32 = blocks.values().sum();
    let reserve = reserve(used, known.recent);
    let free = |block: &IpNet| {
        let used = blocks.get(block).copied().unwrap_or_default();
        block_capacity(*block).saturating_sub(used)
    };
    let count = |block: &IpNet| blocks.get(block).copied().unwrap_or_default();
    let own = blocks.keys().filter(|block| !offered.contains(block));
    let (mut draining, mut lendable): (BTreeSet<IpNet>, BTreeSet<IpNet>) = own
        .copied()
        .partition(|block| known.draining.contains(block));
    let mut available: u32 = lendable.iter().map(free).sum();
    // The fullest first: it will not become free soon.
    while available < reserve
        && let Some(block) = draining.iter().copied().max_by_key(count)
    {
        draining.remove(&block);
        available += free(&block);
        lendable.insert(block);
    }
    // The emptiest first. Twice the reserve stays, so that the next launches need no block at once.
    loop {
        let emptiest = lendable.iter().rev().copied().min_by_key(count);
        let Some(block) = emptiest else { break };
        let rest = available - free(&block);
        if rest < reserve.saturating_mul(2) {
            break;
        }
        available = rest;
        lendable.remove(&block);
        draining.insert(block);
    }
    BlockPlan {
        lendable,
        draining,
        used,
        wanted: used.saturating_add(reserve),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn planned(blocks: &[(&str, u32)], draining: &[&str], recent: u32) -> BlockPlan {
        let blocks = blocks.iter().map(|(block, used)| (net(block), *used));
        let draining = draining.iter().map(|block| net(block));
        plan(BlockUse {
            blocks: &blocks.collect(),
            offered: &BTreeSet::new(),
            draining: &draining.collect(),
            recent,
        })
    }

    fn lendable(plan: &BlockPlan) -> Vec<String> {
        plan.lendable.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn idle_host_keeps_one_block() {
        let none = planned(&[], &[], 0);
        assert_eq!((none.used, none.wanted), (0, MIN_RESERVE));
        let plan = planned(&[("10.0.0.0/28", 0), ("10.0.0.16/28", 0)], &[], 0);
        assert_eq!(lendable(&plan), ["10.0.0.0/28"]);
        assert_eq!(plan.draining, [net("10.0.0.16/28")].into());
        assert_eq!(plan.wanted, MIN_RESERVE);
    }

    #[test]
    fn wanted_addresses_grow_with_use_and_recent_launches() {
        assert_eq!(planned(&[("10.0.0.0/28", 5)], &[], 0).wanted, 9);
        assert_eq!(planned(&[("10.0.0.0/26", 40)], &[], 0).wanted, 50);
        assert_eq!(planned(&[("10.0.0.0/28", 13)], &[], 13).wanted, 26);
        assert_eq!(
            planned(&[("10.0.0.0/28", 13)], &[], 5000).wanted,
            13 + MAX_RESERVE
        );
    }

    #[test]
    fn draining_block_is_used_again_before_another_is_wanted() {
        let blocks = [("10.0.0.0/28", 10), ("10.0.0.16/28", 1)];
        let plan = planned(&blocks, &["10.0.0.16/28"], 0);
        assert_eq!(lendable(&plan), ["10.0.0.0/28", "10.0.0.16/28"]);
        assert!(plan.wanted <= 26, "{plan:?}");
        // A full one is not kept free for the sake of an empty one.
        let blocks = [("10.0.0.0/28", 2), ("10.0.0.16/28", 1)];
        let plan = planned(&blocks, &[], 0);
        assert_eq!(plan.draining, [net("10.0.0.16/28")].into());
    }

    proptest! {
        #[test]
        fn plan_keeps_a_reserve_and_never_uses_what_is_offered(
            blocks in prop::collection::btree_map(0_u8..16, (0_u32..14, 0_u8..3), 0..16),
            recent in 0_u32..40,
        ) {
            let block = |number: u8| net(&format!("10.0.0.{}/28", number * 16));
            let of_kind = |kind: u8| -> BTreeSet<IpNet> {
                let of_kind = blocks.iter().filter(|(_, (_, other))| *other == kind);
                of_kind.map(|(number, _)| block(*number)).collect()
            };
            let used: BTreeMap<IpNet, u32> = blocks
                .iter()
                // What is offered is not in use.
                .map(|(number, (used, kind))| (block(*number), if *kind == 2 { 0 } else { *used }))
                .collect();
            let (draining, offered) = (of_kind(1), of_kind(2));
            let known = BlockUse { blocks: &used, offered: &offered, draining: &draining, recent };
            let plan = plan(known);
            let all: BTreeSet<IpNet> = plan.lendable.union(&plan.draining).copied().collect();
            prop_assert!(plan.lendable.is_disjoint(&plan.draining));
            let own: BTreeSet<IpNet> = used.keys().copied().filter(|one| !offered.contains(one)).collect();
            prop_assert_eq!(&all, &own);
            let free = |blocks: &BTreeSet<IpNet>| -> u32 {
                blocks.iter().map(|block| block_capacity(*block) - used[block]).sum()
            };
            let reserve = plan.wanted - plan.used;
            // Nothing is kept free while the reserve is not there, and more is asked for only then.
            prop_assert!(free(&plan.lendable) >= reserve || plan.draining.is_empty());
            let capacity: u32 = own.iter().map(|block| block_capacity(*block)).sum();
            prop_assert!(plan.wanted <= capacity || plan.draining.is_empty());
            // It is stable: the same again changes nothing.
            let again = BlockUse { draining: &plan.draining, ..known };
            prop_assert_eq!(super::plan(again), plan);
        }
    }
}
