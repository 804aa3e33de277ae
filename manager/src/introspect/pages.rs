//! Part of a list that may be long.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::Refused;

/// How many elements are shown unless asked otherwise, and the most.
const LIMIT: (usize, usize) = (100, 1000);

/// Which part of a list is asked for, and of which containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Page {
    pub limit: Option<usize>,
    pub after: Option<String>,
    pub network: Option<String>,
    pub app: Option<String>,
    pub agent: Option<String>,
}

impl Page {
    /// How many elements.
    pub(crate) fn limit(&self) -> Result<usize, Refused> {
        match self.limit.unwrap_or(LIMIT.0) {
            limit if (1..=LIMIT.1).contains(&limit) => Ok(limit),
            limit => {
                let most = LIMIT.1;
                Err(Refused::wrong(format!(
                    "limit={limit} is not between 1 and {most}"
                )))
            }
        }
    }
}

/// The chosen part of a list.
#[derive(Debug)]
pub(crate) struct Chosen<K, T> {
    pub elements: Vec<(K, T)>,
    /// How many there are in all.
    pub total: usize,
    /// Whether more follow.
    pub more: bool,
}

/// The first elements after that key, in the order of the keys. Needs memory for these alone.
pub(crate) fn choose<K: Ord, T>(
    all: impl IntoIterator<Item = (K, T)>,
    after: Option<&K>,
    limit: usize,
) -> Chosen<K, T> {
    let mut total = 0;
    let mut first = BTreeMap::new();
    for (key, element) in all {
        total += 1;
        let full = first.len() > limit;
        let beyond = full && first.last_key_value().is_some_and(|(last, _)| key > *last);
        if after.is_none_or(|after| key > *after) && !beyond {
            first.insert(key, element);
            if first.len() > limit + 1 {
                first.pop_last();
            }
        }
    }
    let more = first.len() > limit;
    if more {
        first.pop_last();
    }
    Chosen {
        elements: first.into_iter().collect(),
        total,
        more,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_without_a_gap() {
        // In no order.
        let all = || (0..100_u32).map(|number| (number * 37 % 100, number));
        let mut seen = vec![];
        let mut after = None;
        loop {
            let chosen = choose(all(), after.as_ref(), 7);
            assert_eq!(chosen.total, 100);
            seen.extend(chosen.elements.iter().map(|(key, _)| *key));
            after = seen.last().copied();
            if !chosen.more {
                break;
            }
            assert_eq!(chosen.elements.len(), 7);
        }
        assert_eq!(seen, (0..100).collect::<Vec<_>>());
        let whole = choose(all(), None, 100);
        assert!(!whole.more && whole.elements.len() == 100);
        assert!(choose(all(), Some(&99), 7).elements.is_empty());
    }

    #[test]
    fn a_limit_is_a_limit() {
        let page = |limit| Page {
            limit,
            ..Page::default()
        };
        assert_eq!(page(None).limit().ok(), Some(100));
        assert_eq!(page(Some(1000)).limit().ok(), Some(1000));
        assert!(page(Some(0)).limit().is_err() && page(Some(1001)).limit().is_err());
    }
}
