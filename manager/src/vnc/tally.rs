//! What became of the requests to API servers, for those who measure.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use hyper::{Method, StatusCode};

/// A kind of request, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outcome {
    /// `GET`, `POST`, …
    pub method: String,
    /// The first part of the path: an object's type, `ref-update`, …
    pub resource: String,
    /// The status; none where there was no answer.
    pub status: Option<u16>,
}

/// The last request had no answer, or the server said that it failed itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Since when it has been so.
    pub since: Instant,
    /// The last such request, and what became of it.
    pub last: Outcome,
}

#[derive(Debug, Default)]
struct Inner {
    counts: BTreeMap<Outcome, u64>,
    trouble: Option<Trouble>,
}

/// How often each happened.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Inner>);

impl Tally {
    pub(super) fn count(&self, method: &Method, path: &str, status: Option<StatusCode>) {
        let resource = path.trim_start_matches('/');
        // Paths are ours, so that there are only so many first parts.
        let end = resource.find(['/', '?']).unwrap_or(resource.len());
        let outcome = Outcome {
            method: method.to_string(),
            resource: resource[..end].to_owned(),
            status: status.map(|status| status.as_u16()),
        };
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if outcome.status.is_none_or(|status| status >= 500) {
            let since = inner.trouble.as_ref().map(|trouble| trouble.since);
            inner.trouble = Some(Trouble {
                since: since.unwrap_or_else(Instant::now),
                last: outcome.clone(),
            });
        } else {
            inner.trouble = None;
        }
        *inner.counts.entry(outcome).or_default() += 1;
    }

    /// What is wrong since the last request.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.trouble.clone()
    }

    pub(super) fn counts(&self) -> Vec<(Outcome, u64)> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = inner.counts.iter();
        counts
            .map(|(outcome, count)| (outcome.clone(), *count))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_the_first_part_of_their_path() {
        let tally = Tally::default();
        for path in ["/virtual-machine/1", "/virtual-machine/2?x=/y", "/"] {
            tally.count(&Method::GET, path, Some(StatusCode::OK));
        }
        tally.count(&Method::GET, "/virtual-machine/1", None);
        let counts: Vec<_> = tally.counts();
        let counts: Vec<_> = counts
            .iter()
            .map(|(outcome, count)| (outcome.resource.as_str(), outcome.status, *count))
            .collect();
        assert_eq!(
            counts,
            [
                ("", Some(200), 1),
                ("virtual-machine", None, 1),
                ("virtual-machine", Some(200), 2)
            ]
        );
        // The last had no answer; a refusal is one.
        assert!(
            tally
                .trouble()
                .is_some_and(|trouble| trouble.last.status.is_none())
        );
        tally.count(&Method::GET, "/x", Some(StatusCode::CONFLICT));
        assert_eq!(tally.trouble(), None);
        tally.count(&Method::GET, "/x", Some(StatusCode::BAD_GATEWAY));
        assert!(tally.trouble().is_some());
    }
}
