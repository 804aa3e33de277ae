//! Pages of long lists.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::admin::state::AdminError;
use contrail_mesos_api::query::QueryParameters;
use contrail_mesos_api::routes::Operation;
use contrail_mesos_api::text::Quoted;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

/// The part of a list that is requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListQuery {
    /// The number of elements.
    pub limit: usize,
    pub after: Option<String>,
}

impl ListQuery {
    /// Documents the parameters of a list.
    pub(super) fn document(operation: Operation) -> Operation {
        operation
            .query::<Limit>("limit", "The number of elements", 5)
            .query::<String>(
                "after",
                "Continues after this key, which the last page returned as `next`",
                // A uuid, which some lists have as their keys.
                "00000000-0000-0000-0000-000000000000",
            )
    }

    pub(super) fn read(parameters: &mut QueryParameters) -> Result<Self, AdminError> {
        let limit = parameters.take("limit").map_or(Ok(DEFAULT_LIMIT), |text| {
            let limit = text.trim().parse().ok();
            limit
                .filter(|limit| (1..=MAX_LIMIT).contains(limit))
                .ok_or_else(|| {
                    AdminError::bad_request(format!(
                        "limit={} is not a number between 1 and {MAX_LIMIT}",
                        Quoted(text.as_bytes())
                    ))
                })
        })?;
        Ok(Self {
            limit,
            after: parameters.take("after"),
        })
    }
}

/// The number of elements of a page; 100 without it.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct Limit(#[schemars(range(min = 1, max = 1000))] u16);

/// What a response says of its list.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct PageEnd {
    /// The length of the whole list.
    total: usize,
    /// The key to continue after; null at the end of the list.
    next: Option<String>,
}

/// One page of a list.
#[derive(Debug)]
pub(crate) struct Page<K, T> {
    pub elements: Vec<(K, T)>,
    /// The length of the whole list.
    pub total: usize,
    /// Whether more elements follow.
    pub more: bool,
}

impl<K, T> Page<K, T> {
    /// The page with other elements under the same keys.
    pub(super) fn map<U>(self, mut row: impl FnMut(&K, T) -> U) -> Page<K, U> {
        Page {
            elements: self
                .elements
                .into_iter()
                .map(|(key, element)| {
                    let row = row(&key, element);
                    (key, row)
                })
                .collect(),
            total: self.total,
            more: self.more,
        }
    }

    /// The elements, and what a response says of the list.
    pub(super) fn finish(self) -> (Vec<T>, PageEnd)
    where
        K: ToString,
    {
        let last = self.elements.last().filter(|_| self.more);
        let end = PageEnd {
            total: self.total,
            next: last.map(|(key, _)| key.to_string()),
        };
        let elements = self.elements.into_iter().map(|(_, element)| element);
        (elements.collect(), end)
    }
}

/// The first `limit` elements after that key, ordered by key. Only these are kept in memory.
pub(super) fn paginate<K: Ord, T>(
    all: impl IntoIterator<Item = (K, T)>,
    after: Option<&K>,
    limit: usize,
) -> Page<K, T> {
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
    Page {
        elements: first.into_iter().collect(),
        total,
        more,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_an_unordered_list_without_gaps() {
        let all = || (0..100_u32).map(|number| (number * 37 % 100, number));
        let mut keys = vec![];
        let mut after = None;
        loop {
            let page = paginate(all(), after.as_ref(), 7);
            assert_eq!(page.total, 100);
            keys.extend(page.elements.iter().map(|(key, _)| *key));
            after = keys.last().copied();
            if !page.more {
                break;
            }
            assert_eq!(page.elements.len(), 7);
        }
        assert_eq!(keys, (0..100).collect::<Vec<_>>());
        let whole = paginate(all(), None, 100);
        assert!(!whole.more && whole.elements.len() == 100);
        assert!(paginate(all(), Some(&99), 7).elements.is_empty());
    }

    #[test]
    fn limit_is_between_one_and_the_maximum() {
        let limit = |query: &str| {
            let mut parameters = QueryParameters::parse(Some(query), &["limit", "after"]).unwrap();
            ListQuery::read(&mut parameters)
                .ok()
                .map(|query| query.limit)
        };
        assert_eq!((limit(""), limit("limit=1000")), (Some(100), Some(1000)));
        for wrong in ["0", "1001", "x", "-1", "1e3", "99999999999999999999999"] {
            assert_eq!(limit(&format!("limit={wrong}")), None, "{wrong}");
        }
    }
}
