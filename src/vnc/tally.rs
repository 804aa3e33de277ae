//! What became of the requests to API servers, for those who measure.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

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

/// How often each happened.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<BTreeMap<Outcome, u64>>);

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
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(outcome).or_default() += 1;
    }

    pub(super) fn counts(&self) -> Vec<(Outcome, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = counts.iter();
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
    }
}
