//! The used addresses of one family.
//!
//! Invariant: runs are disjoint and do not touch each other, so blocks of one size without gaps are
//! one run, and the first gap after them is found in O(log n). Blocks of several sizes leave small
//! gaps, each of which costs O(log n) more.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use ipnet::IpNet;

/// Used addresses as numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Space {
    /// The first and the last address of each run.
    runs: BTreeMap<u128, u128>,
}

/// The addresses of a block, as numbers.
pub(super) fn range(block: IpNet) -> RangeInclusive<u128> {
    number(block.network())..=number(block.broadcast())
}

/// An address as a number.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The IPv4 address of a number; none if it has more than 32 bits.
pub(crate) fn address4(number: u128) -> Option<Ipv4Addr> {
    u32::try_from(number).ok().map(Ipv4Addr::from)
}

/// The IPv6 address of a number.
pub(crate) fn address6(number: u128) -> Ipv6Addr {
    Ipv6Addr::from(number)
}

impl Space {
    /// Whether an address of the range is used.
    pub(crate) fn overlaps(&self, range: &RangeInclusive<u128>) -> bool {
        let before = self.runs.range(..=range.end()).next_back();
        before.is_some_and(|(_, last)| last >= range.start())
    }

    /// Marks a range as used. Returns false, and changes nothing, if a part of it is used.
    pub(crate) fn insert(&mut self, range: &RangeInclusive<u128>) -> bool {
        if self.overlaps(range) {
            return false;
        }
        let (mut first, mut last) = (*range.start(), *range.end());
        let before = self.runs.range(..first).next_back();
        if let Some((&run, &end)) = before
            && end.checked_add(1) == Some(first)
        {
            first = run;
        }
        if let Some(next) = last.checked_add(1)
            && let Some(end) = self.runs.remove(&next)
        {
            last = end;
        }
        self.runs.insert(first, last);
        true
    }

    /// Marks a range as free. Returns false, and changes nothing, if a part of it is free.
    pub(crate) fn remove(&mut self, range: &RangeInclusive<u128>) -> bool {
        let (first, last) = (*range.start(), *range.end());
        let Some((&run, &end)) = self.runs.range(..=first).next_back() else {
            return false;
        };
        if end < last {
            return false;
        }
        self.runs.remove(&run);
        if run < first {
            self.runs.insert(run, first - 1);
        }
        if last < end {
            self.runs.insert(last + 1, end);
        }
        true
    }

    /// The lowest free block of `size` addresses, a power of two, in a range. Blocks begin at
    /// multiples of their size.
    pub(crate) fn lowest_free(&self, range: &RangeInclusive<u128>, size: u128) -> Option<u128> {
        let mut first = align(*range.start(), size)?;
        loop {
            let last = first.checked_add(size - 1)?;
            if last > *range.end() {
                return None;
            }
            match self.runs.range(..=last).next_back() {
                Some((_, &end)) if end >= first => first = align(end.checked_add(1)?, size)?,
                _ => return Some(first),
            }
        }
    }

    /// How many blocks of `size` addresses, a power of two, are free in a range.
    pub(crate) fn count_free(&self, range: &RangeInclusive<u128>, size: u128) -> u128 {
        let mut free = 0;
        let mut start = *range.start();
        let first_run = self
            .runs
            .range(..=start)
            .next_back()
            .map_or(start, |(run, _)| *run);
        for (&run, &end) in self.runs.range(first_run..=*range.end()) {
            if end < start {
                continue;
            }
            if run > start {
                free += blocks(start..=run - 1, size);
            }
            match end.checked_add(1) {
                Some(next) if next <= *range.end() => start = next,
                _ => return free,
            }
        }
        free + blocks(start..=*range.end(), size)
    }
}

/// The first multiple of `size`, a power of two, from `number` on.
fn align(number: u128, size: u128) -> Option<u128> {
    Some(number.checked_add(size - 1)? & !(size - 1))
}

/// How many whole blocks are in a range.
fn blocks(range: RangeInclusive<u128>, size: u128) -> u128 {
    let Some(first) = align(*range.start(), size) else {
        return 0;
    };
    let shift = size.trailing_zeros();
    // The end of all numbers plus one cannot be written.
    let end = match range.end().checked_add(1) {
        Some(end) => end >> shift,
        None => (u128::MAX >> shift).saturating_add(1),
    };
    end.saturating_sub(first >> shift)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use contrail_mesos_api::parser_testing::assert_linear;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whole_space_is_given_once() {
        let mut space = Space::default();
        let all = 0..=u128::MAX;
        let half = 1 << 127;
        assert_eq!(space.count_free(&all, half), 2);
        assert_eq!(space.lowest_free(&all, half), Some(0));
        assert!(space.insert(&(0..=half - 1)));
        assert_eq!(space.lowest_free(&all, half), Some(half));
        assert!(space.insert(&(half..=u128::MAX)));
        assert_eq!(space.lowest_free(&all, 1), None);
        assert_eq!(space.count_free(&all, 1), 0);
        assert_eq!(space.runs.len(), 1);
        assert!(space.remove(&(5..=5)));
        assert_eq!(space.lowest_free(&all, 1), Some(5));
    }

    #[test]
    fn filling_a_space_is_linear() {
        assert_linear("blocks", 4000, |blocks| {
            let mut space = Space::default();
            for _ in 0..blocks {
                let first = space.lowest_free(&(0..=u128::MAX), 256).unwrap();
                assert!(space.insert(&(first..=first + 255)));
            }
            assert_eq!(space.runs.len(), 1);
        });
    }

    proptest! {
        #[test]
        fn space_is_a_set_of_addresses(
            steps in proptest::collection::vec((any::<bool>(), 0_u128..64, 0_u32..4), 0..60),
            low in 0_u128..40, length in 0_u128..40, size in 0_u32..4,
        ) {
            let (mut space, mut model) = (Space::default(), BTreeSet::new());
            for (insert, first, bits) in steps {
                let range = first..=first + (1 << bits) - 1;
                let (used, free) = (
                    range.clone().filter(|number| model.contains(number)).count(),
                    range.clone().filter(|number| !model.contains(number)).count(),
                );
                prop_assert_eq!(space.overlaps(&range), used > 0);
                if insert {
                    prop_assert_eq!(space.insert(&range), used == 0);
                    if used == 0 {
                        model.extend(range);
                    }
                } else {
                    prop_assert_eq!(space.remove(&range), free == 0);
                    if free == 0 {
                        model.retain(|number| !range.contains(number));
                    }
                }
            }
            let size = 1_u128 << size;
            let free: Vec<u128> = (low..=low + length)
                .filter(|first| {
                    first % size == 0
                        && first + size - 1 <= low + length
                        && (*first..first + size).all(|number| !model.contains(&number))
                })
                .collect();
            prop_assert_eq!(space.lowest_free(&(low..=low + length), size), free.first().copied());
            prop_assert_eq!(space.count_free(&(low..=low + length), size), free.len() as u128);
        }
    }
}
