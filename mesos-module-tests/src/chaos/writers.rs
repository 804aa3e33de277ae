//! Checks that two managers never write in one term.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};

use super::testbed::Testbed;

/// How long after the start of its term a leader may log it.
const MAX_LOG_DELAY: Duration = Duration::from_secs(1);

/// The writes checked so far.
#[derive(Debug, Default)]
pub(super) struct Writers {
    /// The number of the first request that was not checked.
    next: u64,
    /// The term of the last write.
    term: u64,
    /// How many writes there were.
    pub(super) writes: usize,
}

/// A term.
#[derive(Clone, Copy, Debug)]
struct Term {
    leader: IpAddr,
    since: SystemTime,
}

impl Writers {
    /// Checks the writes since the last call: each is by the leader of a term that had begun, and no
    /// write belongs to an earlier term than the write before it.
    pub(super) fn check(&mut self, testbed: &Testbed) -> Result<()> {
        let terms = terms(testbed)?;
        let log = testbed.api.log();
        if let Some(first) = log.first() {
            ensure!(
                first.order <= self.next,
                "the API server's log is too short: it begins with order {}, not {}",
                first.order,
                self.next
            );
        }
        let managers: Vec<IpAddr> = testbed
            .managers
            .iter()
            .map(|manager| manager.process.host().address())
            .collect();
        let next = self.next;
        for entry in log.iter().filter(|entry| entry.order >= next) {
            self.next = entry.order + 1;
            let writer = entry.peer.ip();
            if entry.changes.is_empty() || !managers.contains(&writer) {
                continue;
            }
            self.writes += 1;
            if terms
                .get(&self.term)
                .is_some_and(|term| term.leader == writer)
            {
                continue;
            }
            let led = terms
                .range(self.term..)
                .find(|(_, term)| term.leader == writer && term.since <= entry.at + MAX_LOG_DELAY);
            let Some((term, _)) = led else {
                anyhow::bail!(
                    "{writer} wrote outside its terms: {} {} (order {}, at {:?}) after a write \
                     of term {}; terms: {terms:?}",
                    entry.method,
                    entry.path,
                    entry.order,
                    entry.at,
                    self.term
                );
            };
            self.term = *term;
        }
        Ok(())
    }
}

/// The terms in the managers' logs. Fails if two managers led in one term.
fn terms(testbed: &Testbed) -> Result<BTreeMap<u64, Term>> {
    let mut terms = BTreeMap::new();
    for manager in &testbed.managers {
        for (term, since) in manager.process.terms()? {
            let leader = manager.process.host().address();
            let other: Option<Term> = terms.insert(term, Term { leader, since });
            ensure!(other.is_none(), "two managers led in term {term}");
        }
    }
    terms.first_key_value().context("no manager has led")?;
    Ok(terms)
}
