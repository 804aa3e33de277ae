//! A set of numbers, stored as ranges. Operations are logarithmic in the number of ranges, so a
//! large IPv6 subnet costs no more than a small IPv4 one.

use std::collections::BTreeMap;

/// Disjoint, inclusive ranges that do not touch each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    /// First number of each range → its last.
    ranges: BTreeMap<u128, u128>,
}

impl Ranges {
    pub(super) fn new(first: u128, last: u128) -> Self {
        let mut ranges = BTreeMap::new();
        if first <= last {
            ranges.insert(first, last);
        }
        Self { ranges }
    }

    /// The smallest number of the set that is at least `from`, else the smallest of all.
    pub(super) fn next(&self, from: u128) -> Option<u128> {
        if let Some((_, last)) = self.ranges.range(..=from).next_back()
            && *last >= from
        {
            return Some(from);
        }
        let after = self.ranges.range(from..).next();
        after
            .or_else(|| self.ranges.first_key_value())
            .map(|(first, _)| *first)
    }

    /// Removes the numbers `first..=last`.
    pub(super) fn remove(&mut self, first: u128, last: u128) {
        if first > last {
            return;
        }
        while let Some((start, end)) = self
            .ranges
            .range(..=last)
            .next_back()
            .map(|(start, end)| (*start, *end))
            .filter(|(_, end)| *end >= first)
        {
            self.ranges.remove(&start);
            if end > last {
                self.ranges.insert(last + 1, end);
            }
            if start < first {
                self.ranges.insert(start, first - 1);
            }
        }
    }

    /// Adds a number.
    pub(super) fn insert(&mut self, number: u128) {
        if !self.contains(number) {
            self.add(number, number);
        }
    }

    /// Adds the numbers `first..=last`.
    pub(super) fn add(&mut self, mut first: u128, mut last: u128) {
        if first > last {
            return;
        }
        self.remove(first, last);
        if let Some((start, end)) = self.ranges.range(..first).next_back()
            && end.checked_add(1) == Some(first)
        {
            first = *start;
        }
        if let Some(after) = last.checked_add(1)
            && let Some(end) = self.ranges.remove(&after)
        {
            last = end;
        }
        self.ranges.insert(first, last);
    }

    pub(super) fn contains(&self, number: u128) -> bool {
        self.ranges
            .range(..=number)
            .next_back()
            .is_some_and(|(_, last)| *last >= number)
    }

    /// How many numbers the set has.
    pub(super) fn len(&self) -> u128 {
        self.ranges.iter().fold(0_u128, |sum, (first, last)| {
            sum.saturating_add((last - first).saturating_add(1))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_behave_like_a_set_of_numbers(
            steps in proptest::collection::vec((0..3_u8, 0..60_u128, 0..8_u128), 0..80)
        ) {
            let mut ranges = Ranges::new(10, 40);
            let mut model: BTreeSet<u128> = (10..=40).collect();
            for (kind, at, length) in steps {
                match kind {
                    0 => {
                        ranges.insert(at);
                        model.insert(at);
                    }
                    1 => {
                        ranges.add(at, at + length);
                        model.extend(at..=at + length);
                    }
                    _ => {
                        ranges.remove(at, at + length);
                        model.retain(|number| !(at..=at + length).contains(number));
                    }
                }
                prop_assert_eq!(ranges.len(), model.len() as u128);
                let expected = model.range(at..).next().or_else(|| model.first()).copied();
                prop_assert_eq!(ranges.next(at), expected);
            }
        }
    }

    #[test]
    fn ranges_handle_the_ends_of_u128() {
        let mut ranges = Ranges::new(0, u128::MAX);
        ranges.remove(u128::MAX, u128::MAX);
        ranges.remove(0, 0);
        assert_eq!(ranges.next(0), Some(1));
        ranges.insert(u128::MAX);
        ranges.insert(0);
        assert_eq!(ranges, Ranges::new(0, u128::MAX));
    }
}
