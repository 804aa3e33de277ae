//! What each node has reported in this term, and who is connected.
//!
//! Invariants: it is memory only, and begins empty in each term; nothing is allocated or withdrawn
//! because of it, except that nodes which have been gone for a configured time are released. What
//! nodes report is bounded before it is kept.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use contrail_mesos_api::cluster::{
    Node, NodeCondition, NodeReport, NodeStatus, Revision, SubsystemReport,
};
use contrail_mesos_api::text::truncate;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::Instant;

use super::endpoints::MAX_DIGEST_BYTES;
use crate::history::serialize_timestamp;

/// Of how many nodes there are reports at most: more than a cluster has.
const MAX_NODES: usize = 20_000;
/// How many events are kept.
const MAX_EVENTS: usize = 1000;
/// How many subsystems a report may have.
const MAX_SUBSYSTEMS: usize = 32;
/// How many problems are kept of each subsystem.
const MAX_PROBLEMS: usize = 32;
/// Of how many overlays a report may have blocks: more than a configuration has.
const MAX_BLOCK_REPORTS: usize = 256;
/// How many blocks of an overlay are given back at once: as many of both families as a node has.
const MAX_RETURNS: usize = 512;
/// How long a text of a report may be.
const MAX_TEXT_CHARS: usize = 1024;

/// What happened to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum NodeAction {
    /// It registered.
    Registered,
    /// It has another address.
    AddressChanged,
    /// Its registration was refused.
    Refused,
    /// It was deleted at the API.
    Deleted,
    /// It was gone for so long that all that it had is free.
    Released,
}

/// An event of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct NodeEvent {
    #[serde(serialize_with = "serialize_timestamp")]
    #[schemars(with = "String")]
    pub at: SystemTime,
    pub node: String,
    pub action: NodeAction,
    pub details: String,
}

/// What is known of a node.
#[derive(Debug)]
struct Record {
    /// The last report, and the problems of the answer to it.
    report: Option<(NodeReport, Vec<String>)>,
    /// Why its registration was refused last, if no later one succeeded.
    refusal: Option<String>,
    /// When it reported last.
    reported: Option<Instant>,
    /// When a request of it was last in progress.
    seen: Instant,
    watches: usize,
}

impl Record {
    fn new() -> Self {
        Self {
            report: None,
            refusal: None,
            reported: None,
            seen: Instant::now(),
            watches: 0,
        }
    }
}

#[derive(Debug)]
struct Table {
    records: BTreeMap<String, Record>,
    events: VecDeque<NodeEvent>,
    /// When the term began.
    begun: Instant,
}

impl Table {
    /// The record of a node; none if there are too many nodes.
    fn record(&mut self, name: &str) -> Option<&mut Record> {
        if !self.records.contains_key(name) {
            if self.records.len() >= MAX_NODES {
                return None;
            }
            self.records.insert(name.to_owned(), Record::new());
        }
        self.records.get_mut(name)
    }

    fn add_event(&mut self, node: &str, action: NodeAction, details: String) {
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(NodeEvent {
            at: SystemTime::now(),
            node: node.to_owned(),
            action,
            details,
        });
    }
}

/// The nodes of a term.
#[derive(Debug)]
pub(super) struct NodeTable(Mutex<Table>);

impl Default for NodeTable {
    fn default() -> Self {
        Self(Mutex::new(Table {
            records: BTreeMap::new(),
            events: VecDeque::new(),
            begun: Instant::now(),
        }))
    }
}

/// Bounds what a node reports.
pub(super) fn bounded(mut report: NodeReport) -> NodeReport {
    let bound = |text: &mut String| {
        // Its length in bytes is a cheap upper bound.
        if text.len() > MAX_TEXT_CHARS {
            *text = truncate(text, MAX_TEXT_CHARS);
        }
    };
    bound(&mut report.versions.node);
    bound(&mut report.versions.kernel);
    bound(&mut report.configuration);
    // Shortened, it would never be the digest of a report.
    report.endpoints = report
        .endpoints
        .filter(|digest| (1..=MAX_DIGEST_BYTES).contains(&digest.len()));
    report.blocks.truncate(MAX_BLOCK_REPORTS);
    for blocks in &mut report.blocks {
        bound(&mut blocks.overlay);
        // The rest is given back with a later report.
        blocks.returns.truncate(MAX_RETURNS);
    }
    report.subsystems.truncate(MAX_SUBSYSTEMS);
    for SubsystemReport { name, problems } in &mut report.subsystems {
        bound(name);
        let more = problems.len().saturating_sub(MAX_PROBLEMS);
        problems.truncate(MAX_PROBLEMS);
        problems.iter_mut().for_each(bound);
        if more > 0 {
            problems.push(format!("and {more} more"));
        }
    }
    report
}

impl NodeTable {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a term: what was reported before counts no more. The events stay, and so do the counts
    /// of watches, which end one by one.
    pub(super) fn begin(&self) {
        let mut table = self.lock();
        table.records.retain(|_, record| record.watches > 0);
        for record in table.records.values_mut() {
            (record.report, record.refusal, record.reported) = (None, None, None);
        }
        table.begun = Instant::now();
    }

    /// How long ago the term began.
    pub(super) fn age(&self) -> Duration {
        self.lock().begun.elapsed()
    }

    /// Notes that a watch of a node begins.
    pub(super) fn connect(&self, name: &str) {
        if let Some(record) = self.lock().record(name) {
            record.watches += 1;
        }
    }

    /// Notes that a watch of a node has ended.
    pub(super) fn disconnect(&self, name: &str) {
        let mut table = self.lock();
        let Some(record) = table.records.get_mut(name) else {
            return;
        };
        record.watches = record.watches.saturating_sub(1);
        record.seen = Instant::now();
        let is_known = record.report.is_some() || record.refusal.is_some();
        if record.watches == 0 && !is_known {
            table.records.remove(name);
        }
    }

    /// Keeps the report of a node, and what the answer to it says. Returns whether it is the first one of
    /// the node in this term.
    pub(super) fn keep_report(&self, name: &str, report: NodeReport, problems: &[String]) -> bool {
        let mut table = self.lock();
        let Some(record) = table.record(name) else {
            return false;
        };
        let now = Instant::now();
        (record.reported, record.seen) = (Some(now), now);
        record.refusal = None;
        let address = report.address;
        let before = record.report.replace((report, problems.to_vec()));
        let is_first = before.is_none();
        match before.map(|(before, _)| before.address) {
            None => {}
            Some(before) if before == address => {}
            Some(before) => {
                log::info!(node = name, address:%, before:%; "a node has another address");
                let details = format!("{address}, before {before}");
                table.add_event(name, NodeAction::AddressChanged, details);
            }
        }
        is_first
    }

    /// Notes that a node is new.
    pub(super) fn add_registration(&self, name: &str, address: IpAddr) {
        let mut table = self.lock();
        table.add_event(name, NodeAction::Registered, address.to_string());
    }

    /// Keeps why a node was refused. Returns whether that is new.
    pub(super) fn keep_refusal(&self, name: &str, error: &str) -> bool {
        let mut table = self.lock();
        let Some(record) = table.record(name) else {
            return false;
        };
        record.seen = Instant::now();
        let is_new = record.refusal.as_deref() != Some(error);
        record.refusal = Some(error.to_owned());
        if is_new {
            table.add_event(name, NodeAction::Refused, error.to_owned());
        }
        is_new
    }

    /// Forgets a node that has nothing any more.
    pub(super) fn remove(&self, name: &str, action: NodeAction, details: String) {
        let mut table = self.lock();
        // One that is still connected reports again.
        table
            .records
            .retain(|of, record| of != name || record.watches > 0);
        if let Some(record) = table.records.get_mut(name) {
            record.report = None;
        }
        table.add_event(name, action, details);
    }

    /// The last events, the latest first.
    pub(super) fn events(&self) -> Vec<NodeEvent> {
        self.lock().events.iter().rev().cloned().collect()
    }

    /// Those of these nodes that have been gone for that long, if any other is connected: a manager
    /// that no node reaches does not know who is gone.
    pub(super) fn gone<'a>(
        &self,
        names: impl Iterator<Item = &'a str>,
        release_after: Duration,
    ) -> Vec<(&'a str, Duration)> {
        let table = self.lock();
        if table.records.values().all(|record| record.watches == 0) {
            return vec![];
        }
        let now = Instant::now();
        names
            .filter_map(|name| {
                let seen = match table.records.get(name) {
                    Some(record) if record.watches > 0 => return None,
                    Some(record) => record.seen,
                    None => table.begun,
                };
                let gone = now.saturating_duration_since(seen.max(table.begun));
                (gone >= release_after).then_some((name, gone))
            })
            .collect()
    }

    /// What is known about these nodes, and about those that were refused. Their problems are those of
    /// the allocation and of the subsystems with such names.
    pub(super) fn statuses(
        &self,
        registered: &[Node],
        current: Revision,
        allocation_problems: &BTreeMap<String, Vec<String>>,
        has_problems: fn(&str) -> bool,
    ) -> Vec<NodeStatus> {
        let table = self.lock();
        let unregistered = table.records.iter().filter(|(name, record)| {
            (record.refusal.is_some() || record.report.is_some())
                && registered
                    .binary_search_by(|node| node.name.as_str().cmp(name))
                    .is_err()
        });
        let mut statuses: Vec<_> = unregistered
            .map(|(name, record)| status(name, None, Some(record), current, None, has_problems))
            .collect();
        statuses.extend(registered.iter().map(|node| {
            let record = table.records.get(&node.name);
            let problems = allocation_problems.get(&node.name).map(Vec::as_slice);
            status(
                &node.name,
                Some(node),
                record,
                current,
                problems,
                has_problems,
            )
        }));
        statuses.sort_by(|one, other| one.name.cmp(&other.name));
        statuses
    }
}

fn condition(
    is_registered: bool,
    record: Option<&Record>,
    applied: Option<Revision>,
    current: Revision,
) -> NodeCondition {
    match record {
        Some(record) if !is_registered && record.refusal.is_some() => NodeCondition::Refused,
        Some(record) if record.watches > 0 => {
            if applied >= Some(current) {
                NodeCondition::Current
            } else {
                NodeCondition::Behind
            }
        }
        Some(record) if record.report.is_some() => NodeCondition::Disconnected,
        _ => NodeCondition::Unseen,
    }
}

fn status(
    name: &str,
    node: Option<&Node>,
    record: Option<&Record>,
    current: Revision,
    allocation_problems: Option<&[String]>,
    has_problems: fn(&str) -> bool,
) -> NodeStatus {
    let report = record.and_then(|record| record.report.as_ref());
    let applied = report.and_then(|(report, _)| report.applied);
    let mut problems: Vec<String> = record
        .iter()
        .filter_map(|record| record.refusal.clone())
        .collect();
    match (report, allocation_problems) {
        (Some((_, answered)), _) => problems.extend_from_slice(answered),
        (None, Some(known)) => problems.extend_from_slice(known),
        (None, None) => {}
    }
    if applied > Some(current) {
        let applied = applied.unwrap_or_default();
        problems.push(format!(
            "it has applied revision {applied}, which these managers have not published: it comes from \
             another cluster, or the managers have lost their state"
        ));
    }
    let subsystems = report.iter().flat_map(|(report, _)| &report.subsystems);
    for subsystem in subsystems.filter(|subsystem| has_problems(&subsystem.name)) {
        let texts = subsystem.problems.iter();
        problems.extend(texts.map(|text| format!("{}: {text}", subsystem.name)));
    }
    let reported = record.and_then(|record| record.reported);
    let report = report.map(|(report, _)| report);
    NodeStatus {
        name: name.to_owned(),
        address: node
            .map(|node| node.address)
            .or(report.map(|report| report.address)),
        condition: condition(node.is_some(), record, applied, current),
        applied,
        reported_seconds: reported.map(|at| at.elapsed().as_secs()),
        uplink_mtu: report.and_then(|report| report.uplink_mtu),
        versions: report
            .map(|report| report.versions.clone())
            .unwrap_or_default(),
        configuration: report
            .map(|report| report.configuration.clone())
            .unwrap_or_default(),
        vtep: node.map(|node| node.vtep),
        subnets: node.map(|node| node.subnets.clone()).unwrap_or_default(),
        endpoints: None,
        problems,
    }
}

#[cfg(test)]
mod tests;
