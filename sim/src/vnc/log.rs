//! Who asked what, and what came of it: for tests that ask afterwards who wrote what when.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;

use super::changes::Change;

/// A request.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Rises by one from request to request, in the order in which they came in.
    pub order: u64,
    /// When it came in.
    pub at: SystemTime,
    /// From where.
    pub peer: SocketAddr,
    /// What the client calls itself.
    pub user_agent: Option<String>,
    /// The id that the client gave it in X-Request-Id.
    pub request_id: Option<String>,
    /// `GET`, `POST`, …
    pub method: String,
    /// The path with the query.
    pub path: String,
    /// The body, if it was JSON.
    pub body: Option<Value>,
    /// Whether it was carried out: a fault may have come before.
    pub performed: bool,
    /// What the client was told; none if nothing, or nothing yet.
    pub status: Option<u16>,
    /// What it changed, in order.
    pub changes: Vec<Change>,
}

/// The latest requests.
pub(crate) struct Log {
    entries: VecDeque<Entry>,
    next: u64,
    limit: usize,
}

impl Log {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            next: 0,
            limit,
        }
    }

    /// Writes a request down; says its number.
    pub(crate) fn begin(&mut self, mut entry: Entry) -> u64 {
        entry.order = self.next;
        self.next += 1;
        if self.entries.len() >= self.limit {
            self.entries.pop_front();
        }
        let order = entry.order;
        self.entries.push_back(entry);
        order
    }

    /// Writes down what came of it.
    pub(crate) fn note(&mut self, order: u64, change: impl FnOnce(&mut Entry)) {
        let first = self.entries.front().map_or(0, |entry| entry.order);
        let index = order
            .checked_sub(first)
            .and_then(|index| usize::try_from(index).ok());
        if let Some(entry) = index.and_then(|index| self.entries.get_mut(index)) {
            change(entry);
        }
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.entries.iter().cloned().collect()
    }
}
