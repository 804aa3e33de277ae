//! Probes of the Star demonstration on an overlay that isolates groups. They never stop sending to each
//! other, whatever fails. One of them changes its groups.
//!
//! Invariant: in no round has a probe received from one with which it shared no group at any moment of
//! that round. A round begins once all hosts enforce the groups that the probes have then.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::NODES;
use crate::star::running::{publish, statuses, task};
use crate::star::{Directory, Matrix, Received, RunningProbe, Status, expected, matrix, table};
use crate::testbed::overlay::{OverlayCluster, two_overlays};

/// The overlay, and the network of the agents.
const OVERLAY: &str = "groups";
const STAR_1: &[&str] = &["star-1"];
const STAR_2: &[&str] = &["star-2"];

/// The probe that changes its groups.
pub(super) const CHANGING: &str = "changing";
/// What it may change to.
pub(super) const CHANGES: [&[&str]; 4] = [STAR_1, STAR_2, &["star-1", "star-2"], &[]];

/// A probe: its name, its node, and its groups at the launch. Members of a group are on two nodes, and
/// probes without a common one on one node and on two.
const PROBES: [(&str, usize, &[&str]); 4] = [
    ("one", 0, STAR_1),
    (CHANGING, 1, STAR_1),
    ("two", 0, STAR_2),
    ("three", 2, STAR_2),
];

/// The overlays of the testbed: the usual ones, and that of the probes.
pub(super) fn overlays() -> Value {
    let mut overlays = two_overlays();
    if let Some(list) = overlays["overlays"].as_array_mut() {
        list.push(json!({
            "name": OVERLAY, "subnet": "10.97.0.0/16", "prefix": 24, "groups": true,
        }));
    }
    overlays
}

/// What came in, by receiver and sender.
type Counters = BTreeMap<(String, String), Received>;

fn counters(statuses: &[Status]) -> Counters {
    let all = statuses.iter().flat_map(|status| {
        let received = status.received.iter();
        received.map(|(sender, received)| ((status.name.clone(), sender.clone()), *received))
    });
    all.collect()
}

/// The pairs that may reach each other, as those of [`Counters`].
fn allowed(matrix: &Matrix) -> BTreeSet<(String, String)> {
    let pairs = matrix.iter().flat_map(|(sender, row)| {
        let reached = row.iter().filter(|(_, reached)| **reached);
        reached.map(|(receiver, _)| (receiver.clone(), sender.clone()))
    });
    pairs.collect()
}

/// The running probes.
pub(super) struct Probes {
    running: Vec<RunningProbe>,
    /// The groups that they have now.
    groups: Vec<(&'static str, &'static [&'static str])>,
    /// What they had received when the round began.
    before: Counters,
    /// The pairs that shared a group at some moment of the round.
    allowed: BTreeSet<(String, String)>,
    _directory: Directory,
}

impl Probes {
    /// Launches all of them.
    pub(super) fn start(cluster: &OverlayCluster) -> Result<Self> {
        for node in 0..usize::from(NODES) {
            cluster.add_network(node, OVERLAY)?;
        }
        let directory = Directory::start(cluster.mesos.services())?;
        let scheduler = &cluster.mesos.scheduler;
        for (name, node, groups) in PROBES {
            let task = task(name, OVERLAY, groups, &directory)?;
            scheduler.launch(task.on_host(&cluster.node(node).hostname()))?;
        }
        let running = PROBES.into_iter().map(|(name, node, _)| {
            let update = scheduler.running(name)?;
            RunningProbe::of(&update, cluster.host(node))
        });
        let running: Vec<RunningProbe> = running.collect::<Result<_>>()?;
        publish(&running, &directory);
        Ok(Self {
            running,
            groups: PROBES.map(|(name, _, groups)| (name, groups)).into(),
            before: Counters::new(),
            allowed: BTreeSet::new(),
            _directory: directory,
        })
    }

    /// Begins a round: what was received before does not count any more.
    pub(super) fn begin_round(&mut self) -> Result<()> {
        self.before = counters(&statuses(&self.running)?);
        self.allowed = allowed(&expected(&self.groups));
        Ok(())
    }

    /// Gives the probe that changes its groups these.
    pub(super) fn change(&mut self, groups: &'static [&'static str]) -> Result<()> {
        for (probe, (name, own)) in self.running.iter().zip(&mut self.groups) {
            if *name == CHANGING {
                let named = groups.iter().flat_map(|group| ["--group", group]);
                let named: Vec<&str> = named.collect();
                let is_none = named.is_empty();
                probe.change_groups(if is_none { &["--none"] } else { &named })?;
                *own = groups;
            }
        }
        self.allowed.extend(allowed(&expected(&self.groups)));
        Ok(())
    }

    /// Fails if a probe has received from one with which it has shared no group in this round.
    pub(super) fn check(&self) -> Result<()> {
        for (pair, received) in counters(&statuses(&self.running)?) {
            let before = self.before.get(&pair).copied().unwrap_or_default();
            let (receiver, sender) = &pair;
            ensure!(
                received == before || self.allowed.contains(&pair),
                "{receiver} has received from {sender}, with which it shares no group: {received:?}, \
                 {before:?} before the round"
            );
        }
        Ok(())
    }

    /// The difference between who reaches whom and what the groups say, if there is any.
    pub(super) fn differences(&self) -> Result<Vec<String>> {
        let found = matrix(&statuses(&self.running)?);
        let expected = expected(&self.groups);
        if found == expected {
            return Ok(vec![]);
        }
        Ok(vec![format!(
            "probes find:\n{}\nnot:\n{}",
            table(&found),
            table(&expected)
        )])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_with_a_common_group_are_allowed_in_both_directions() {
        let groups = PROBES.map(|(name, _, groups)| (name, groups));
        let pair = |receiver: &str, sender: &str| (receiver.to_owned(), sender.to_owned());
        let expected = [
            pair(CHANGING, "one"),
            pair("one", CHANGING),
            pair("three", "two"),
            pair("two", "three"),
        ];
        assert_eq!(allowed(&super::expected(&groups)), expected.into());
    }
}
