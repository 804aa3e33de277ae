//! What the leader publishes: all objects at one revision, and the watches that read them.
//!
//! Invariants:
//! - An item is encoded once, and all watches share its bytes. Changes that are published together are
//!   sent together. The watches that begin with a snapshot share it, too: it is encoded again only when
//!   many changes have followed it.
//! - Memory is bounded. A watch has a position in the history and holds at most one batch of items; one
//!   whose position has left the history ends, and its client resumes with a snapshot.
//! - Revisions of one watch never decrease. A watch ends with its term: a new term begins with a
//!   snapshot for every client.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use contrail_mesos_api::cluster::{HEARTBEAT_INTERVAL, Object, ObjectKey, Revision, WatchItem};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::metrics::{WatchEnd, WatchMetrics};
use crate::overlay::ObjectChange;

/// The bounds of a hub's memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct HubLimits {
    /// How many changes the history has at most. Those that were published last are kept however many
    /// there are, up to a block.
    pub items: usize,
    /// How many bytes they have at most, with the same exception.
    pub bytes: usize,
    /// How many changes may follow a snapshot that new watches begin with.
    pub after_snapshot: u64,
}

impl Default for HubLimits {
    fn default() -> Self {
        Self {
            // At the beginning of a term all nodes report their endpoints: 100,000 of them have some
            // 25 MiB. A watch that falls behind meanwhile would begin again with a snapshot as long.
            items: 131_072,
            bytes: 32 << 20,
            after_snapshot: 256,
        }
    }
}

/// How long the blocks are at most that items are sent in, unless one item is longer.
const BLOCK_BYTES: usize = 64 << 10;
/// How many blocks a watch takes from the history at a time, and how many bytes.
const BATCH_BLOCKS: usize = 64;
const BATCH_BYTES: usize = 256 << 10;

/// Why a watch cannot begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WatchError {
    /// Nothing is published: this manager does not lead, or prepares to.
    #[error("this manager does not publish anything yet")]
    NotPublishing,
    /// The client knows a revision that this manager has not reached.
    #[error(
        "revision {since} is later than {current}, the current one: it comes from another cluster, or \
         the managers have lost their state"
    )]
    Ahead {
        /// What the client knows.
        since: Revision,
        /// What this manager has.
        current: Revision,
    },
}

/// The published objects of a term, and the watches.
#[derive(Debug)]
pub(crate) struct Hub {
    limits: HubLimits,
    published: Mutex<Option<Published>>,
    /// Held while a snapshot is encoded, so that the others who need one get the same.
    encoding: Mutex<()>,
    /// Changes with each revision, and when a term begins or ends.
    changed: watch::Sender<()>,
    metrics: WatchMetrics,
}

/// What is published in a term.
#[derive(Debug)]
struct Published {
    revision: Revision,
    objects: BTreeMap<ObjectKey, Arc<Object>>,
    /// The last changes without a gap; that of the current revision is the last.
    history: VecDeque<ChangeBlock>,
    history_items: usize,
    history_bytes: usize,
    snapshot: Option<Arc<Snapshot>>,
    heartbeat: Option<Bytes>,
}

/// Changes that were published together, encoded.
#[derive(Clone, Debug)]
struct ChangeBlock {
    /// The counter of the revision before the first of them.
    before: u64,
    /// How many there are: each has the next revision.
    items: usize,
    /// A line for each.
    lines: Bytes,
}

impl ChangeBlock {
    /// The counter of the last revision.
    fn last(&self) -> u64 {
        self.before + self.items as u64
    }

    /// The changes after a revision, which is not later than the last one.
    fn after(&self, counter: u64) -> SharedLines {
        let skipped = usize::try_from(counter.saturating_sub(self.before)).unwrap_or(usize::MAX);
        let lines = self.lines.split_inclusive(|byte| *byte == b'\n');
        let start: usize = lines.take(skipped).map(<[u8]>::len).sum();
        SharedLines {
            items: self.items.saturating_sub(skipped),
            lines: self.lines.slice(start..),
        }
    }
}

/// Lines that watches share.
#[derive(Clone, Debug)]
struct SharedLines {
    items: usize,
    lines: Bytes,
}

/// Collects lines into blocks.
#[derive(Debug, Default)]
struct BlockBuilder {
    lines: Vec<u8>,
    items: usize,
}

impl BlockBuilder {
    /// Adds a line. Returns the block before it if both together are too long.
    fn add(&mut self, line: &[u8]) -> Option<SharedLines> {
        let is_full = self.items > 0 && self.lines.len() + line.len() > BLOCK_BYTES;
        let full = is_full.then(|| self.take());
        self.lines.extend_from_slice(line);
        self.items += 1;
        full
    }

    /// The block so far. The next one is empty.
    fn take(&mut self) -> SharedLines {
        let mut lines = std::mem::take(&mut self.lines);
        // It is kept for long.
        lines.shrink_to_fit();
        SharedLines {
            items: std::mem::take(&mut self.items),
            lines: Bytes::from(lines),
        }
    }
}

/// A [`WatchItem::Put`] of an object that is not copied.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename = "put")]
struct PutItem<'a> {
    revision: Revision,
    object: &'a Object,
}

/// All objects at one revision, encoded.
#[derive(Debug)]
struct Snapshot {
    counter: u64,
    blocks: Vec<SharedLines>,
}

/// A line of a watch.
fn encode(item: &impl Serialize) -> Vec<u8> {
    // Serialization fails only for maps whose keys are not strings; there are none.
    let mut line = serde_json::to_vec(item).unwrap_or_default();
    line.push(b'\n');
    line
}

impl Snapshot {
    fn new(revision: Revision, objects: &[Arc<Object>]) -> Self {
        let puts = objects
            .iter()
            .map(|object| encode(&PutItem { revision, object }));
        let lines = [encode(&WatchItem::Snapshot { revision })]
            .into_iter()
            .chain(puts)
            .chain([encode(&WatchItem::Synced { revision })]);
        let mut block = BlockBuilder::default();
        let mut blocks: Vec<_> = lines.filter_map(|line| block.add(&line)).collect();
        blocks.push(block.take());
        Self {
            counter: revision.counter,
            blocks,
        }
    }
}

impl Published {
    fn new(term: u64, objects: Vec<Object>) -> Self {
        Self {
            revision: Revision { term, counter: 0 },
            objects: objects
                .into_iter()
                .map(|object| (object.key(), Arc::new(object)))
                .collect(),
            history: VecDeque::new(),
            history_items: 0,
            history_bytes: 0,
            snapshot: None,
            heartbeat: None,
        }
    }

    /// The first revision whose following changes are all in the history.
    fn oldest(&self) -> u64 {
        let first = self.history.front();
        first.map_or(self.revision.counter, |block| block.before)
    }

    /// Applies a change. Returns its line; none if it changes nothing.
    fn apply(&mut self, change: ObjectChange) -> Option<Vec<u8>> {
        let revision = Revision {
            counter: self.revision.counter + 1,
            ..self.revision
        };
        let line = match change {
            ObjectChange::Put(object) => {
                let key = object.key();
                let known = self.objects.get(&key);
                if key == ObjectKey::Unknown || known.is_some_and(|known| **known == object) {
                    return None;
                }
                let line = encode(&PutItem {
                    revision,
                    object: &object,
                });
                self.objects.insert(key, Arc::new(object));
                line
            }
            ObjectChange::Delete(key) => {
                self.objects.remove(&key)?;
                encode(&WatchItem::Delete { revision, key })
            }
        };
        self.revision = revision;
        self.heartbeat = None;
        Some(line)
    }

    /// Adds the lines of the changes up to the current revision, less those that follow.
    fn remember(&mut self, SharedLines { items, lines }: SharedLines, following: usize) {
        if items == 0 {
            return;
        }
        self.history_items += items;
        self.history_bytes += lines.len();
        self.history.push_back(ChangeBlock {
            before: self.revision.counter - (items + following) as u64,
            items,
            lines,
        });
    }

    fn forget(&mut self, limits: HubLimits) {
        while self.history.len() > 1
            && (self.history_items > limits.items || self.history_bytes > limits.bytes)
        {
            if let Some(block) = self.history.pop_front() {
                self.history_items -= block.items;
                self.history_bytes -= block.lines.len();
            }
        }
        let oldest = self.oldest();
        self.snapshot.take_if(|snapshot| snapshot.counter < oldest);
    }

    /// A snapshot that the history continues, if there is a recent one.
    fn recent_snapshot(&self, limits: HubLimits) -> Option<Arc<Snapshot>> {
        // Relative to its size, so that encoding snapshots costs no more than sending the changes.
        let allowed = limits.after_snapshot.max(self.objects.len() as u64 / 4);
        let counter = self.revision.counter;
        let snapshot = self.snapshot.as_ref();
        snapshot
            .filter(|snapshot| counter - snapshot.counter <= allowed)
            .cloned()
    }

    /// The next changes after a revision of the history.
    fn batch(&self, position: u64) -> VecDeque<SharedLines> {
        let start = self
            .history
            .partition_point(|block| block.last() <= position);
        let mut batch = VecDeque::new();
        let mut bytes = 0;
        for block in self.history.range(start..).take(BATCH_BLOCKS) {
            if bytes > BATCH_BYTES {
                break;
            }
            bytes += block.lines.len();
            batch.push_back(block.after(position));
        }
        batch
    }

    fn heartbeat(&mut self) -> Bytes {
        let revision = self.revision;
        let heartbeat = self
            .heartbeat
            .get_or_insert_with(|| encode(&WatchItem::Heartbeat { revision }).into());
        heartbeat.clone()
    }
}

impl Hub {
    pub(super) fn new(limits: HubLimits, metrics: WatchMetrics) -> Arc<Self> {
        Arc::new(Self {
            limits,
            published: Mutex::default(),
            encoding: Mutex::default(),
            changed: watch::Sender::new(()),
            metrics,
        })
    }

    fn published(&self) -> MutexGuard<'_, Option<Published>> {
        // No method panics between two changes that belong together.
        self.published
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a term with these objects. Watches of another term end.
    pub(super) fn begin(&self, term: u64, objects: Vec<Object>) {
        *self.published() = Some(Published::new(term, objects));
        self.changed.send_replace(());
    }

    /// Ends a term, and its watches.
    pub(super) fn end(&self, term: u64) {
        self.published()
            .take_if(|published| published.revision.term == term);
        self.changed.send_replace(());
    }

    /// Publishes changes, if that term has not ended. What changes nothing is left out.
    pub(super) fn publish(&self, term: u64, changes: Vec<ObjectChange>) {
        let mut published = self.published();
        let Some(published) = published
            .as_mut()
            .filter(|published| published.revision.term == term)
        else {
            return;
        };
        let before = published.revision;
        let mut block = BlockBuilder::default();
        for change in changes {
            if let Some(line) = published.apply(change)
                && let Some(full) = block.add(&line)
            {
                published.remember(full, 1);
                published.forget(self.limits);
            }
        }
        published.remember(block.take(), 0);
        published.forget(self.limits);
        if published.revision != before {
            self.changed.send_replace(());
        }
    }

    /// The current revision; none if nothing is published.
    pub(crate) fn revision(&self) -> Option<Revision> {
        let published = self.published();
        published.as_ref().map(|published| published.revision)
    }

    /// The published objects but those of endpoints, ordered by key: there are many endpoints.
    pub(crate) fn definitions(&self) -> Vec<Object> {
        let first_endpoint = ObjectKey::Endpoint {
            node: String::new(),
            id: String::new(),
        };
        let published = self.published();
        let definitions = published
            .iter()
            .flat_map(|published| published.objects.range(..&first_endpoint));
        definitions
            .map(|(_, object)| Object::clone(object))
            .collect()
    }

    /// The published objects, ordered by key.
    #[cfg(test)]
    pub(super) fn objects(&self) -> Vec<Object> {
        let published = self.published();
        published
            .iter()
            .flat_map(|published| published.objects.values())
            .map(|object| Object::clone(object))
            .collect()
    }

    /// Whether a node of that name is published.
    pub(super) fn has_node(&self, name: &str) -> bool {
        let key = ObjectKey::Node {
            name: name.to_owned(),
        };
        let published = self.published();
        published
            .as_ref()
            .is_some_and(|published| published.objects.contains_key(&key))
    }

    /// Begins a watch after that revision, if its following changes are in the history; otherwise, and
    /// without a revision, with a snapshot. Blocks while a snapshot is encoded.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        since: Option<Revision>,
    ) -> Result<Subscription, WatchError> {
        // First, so that no change is missed.
        let changed = self.changed.subscribe();
        if let Some(begin) = self.begin_of_watch(since)? {
            return Ok(self.subscription(begin, changed));
        }
        let _encoding = self.encoding.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // Another watch may have encoded it meanwhile.
            if let Some(begin) = self.begin_of_watch(since)? {
                return Ok(self.subscription(begin, changed));
            }
            let (revision, objects) = {
                let published = self.published();
                let published = published.as_ref().ok_or(WatchError::NotPublishing)?;
                let objects: Vec<_> = published.objects.values().cloned().collect();
                (published.revision, objects)
            };
            // Changes are published in the meantime.
            let snapshot = Arc::new(Snapshot::new(revision, &objects));
            let mut published = self.published();
            let published = published.as_mut().ok_or(WatchError::NotPublishing)?;
            if published.revision.term == revision.term && snapshot.counter >= published.oldest() {
                published.snapshot = Some(snapshot.clone());
                let begin = WatchBegin::Snapshot {
                    term: revision.term,
                    snapshot,
                };
                return Ok(self.subscription(begin, changed));
            }
        }
    }

    /// What a watch can begin with; none if a snapshot must be encoded first.
    fn begin_of_watch(&self, since: Option<Revision>) -> Result<Option<WatchBegin>, WatchError> {
        let published = self.published();
        let published = published.as_ref().ok_or(WatchError::NotPublishing)?;
        let current = published.revision;
        if let Some(since) = since.filter(|since| *since > current) {
            return Err(WatchError::Ahead { since, current });
        }
        let resumed =
            since.filter(|since| since.term == current.term && since.counter >= published.oldest());
        let term = current.term;
        Ok(match resumed {
            Some(revision) => Some(WatchBegin::Resumed(revision)),
            None => published
                .recent_snapshot(self.limits)
                .map(|snapshot| WatchBegin::Snapshot { term, snapshot }),
        })
    }

    fn subscription(
        self: &Arc<Self>,
        begin: WatchBegin,
        changed: watch::Receiver<()>,
    ) -> Subscription {
        self.metrics.begin(matches!(begin, WatchBegin::Resumed(_)));
        let (term, position, waiting) = match begin {
            WatchBegin::Resumed(revision) => {
                let synced = SharedLines {
                    items: 1,
                    lines: Bytes::from(encode(&WatchItem::Synced { revision })),
                };
                let waiting = Waiting::Items(VecDeque::from([synced]));
                (revision.term, revision.counter, waiting)
            }
            WatchBegin::Snapshot { term, snapshot } => {
                let position = snapshot.counter;
                (term, position, Waiting::Snapshot { snapshot, next: 0 })
            }
        };
        Subscription {
            hub: self.clone(),
            term,
            position,
            waiting,
            changed,
            last_sent: Instant::now(),
            end: WatchEnd::Disconnected,
        }
    }
}

/// What a watch begins with.
#[derive(Debug)]
enum WatchBegin {
    /// The changes after a revision of this term.
    Resumed(Revision),
    /// A snapshot of this term.
    Snapshot { term: u64, snapshot: Arc<Snapshot> },
}

/// What a watch sends before it looks at the history again.
#[derive(Debug)]
enum Waiting {
    Snapshot {
        snapshot: Arc<Snapshot>,
        /// The index of the next block.
        next: usize,
    },
    Items(VecDeque<SharedLines>),
}

/// A watch of one client.
#[derive(Debug)]
pub(crate) struct Subscription {
    hub: Arc<Hub>,
    term: u64,
    /// All changes up to this one are sent or wait.
    position: u64,
    waiting: Waiting,
    changed: watch::Receiver<()>,
    last_sent: Instant,
    /// Why it has ended.
    end: WatchEnd,
}

impl Subscription {
    /// The next lines; none if the watch has ended. Cancelling it loses nothing.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            self.changed.mark_unchanged();
            match self.step() {
                Step::Send(lines) => {
                    self.last_sent = Instant::now();
                    return Some(lines);
                }
                Step::Wait => {}
                Step::End(reason) => {
                    self.end = reason;
                    return None;
                }
            }
            let heartbeat_due = self.last_sent + HEARTBEAT_INTERVAL;
            tokio::select! {
                // The sender is in the hub, which this watch keeps.
                _ = self.changed.changed() => {}
                () = tokio::time::sleep_until(heartbeat_due) => {
                    if let Some(heartbeat) = self.heartbeat() {
                        self.last_sent = Instant::now();
                        return Some(heartbeat);
                    }
                }
            }
        }
    }

    /// A heartbeat, unless there is something else to send or the term has ended.
    fn heartbeat(&self) -> Option<Bytes> {
        let own = Revision {
            term: self.term,
            counter: self.position,
        };
        let mut published = self.hub.published();
        let published = published
            .as_mut()
            .filter(|published| published.revision == own)?;
        Some(published.heartbeat())
    }

    /// Notes that the manager stops.
    pub(crate) fn stop(&mut self) {
        self.end = WatchEnd::Stopped;
    }

    fn step(&mut self) -> Step {
        let published = self.hub.published();
        let published = published.as_ref();
        let Some(published) = published.filter(|published| published.revision.term == self.term)
        else {
            return Step::End(WatchEnd::TermEnded);
        };
        // Also within a snapshot: the history could not continue it.
        if self.position < published.oldest() {
            return Step::End(WatchEnd::TooSlow);
        }
        if let Waiting::Snapshot { snapshot, next } = &mut self.waiting {
            if let Some(block) = snapshot.blocks.get(*next) {
                *next += 1;
                self.hub.metrics.count_items(block.items);
                return Step::Send(block.lines.clone());
            }
            self.waiting = Waiting::Items(VecDeque::new());
        }
        let Waiting::Items(items) = &mut self.waiting else {
            return Step::Wait;
        };
        if items.is_empty() {
            *items = published.batch(self.position);
            let taken: usize = items.iter().map(|lines| lines.items).sum();
            self.position += taken as u64;
        }
        let Some(SharedLines { items, lines }) = items.pop_front() else {
            return Step::Wait;
        };
        self.hub.metrics.count_items(items);
        Step::Send(lines)
    }
}

/// What a watch does next.
enum Step {
    /// Send these lines.
    Send(Bytes),
    /// Wait for a change.
    Wait,
    /// End.
    End(WatchEnd),
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.metrics.end(self.end);
    }
}

#[cfg(test)]
mod tests;
