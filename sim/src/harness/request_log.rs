//! The request log: who requested what, and the result.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::SystemTime;

use axum::http::request::Parts;
use serde::Serialize;
use serde_json::Value;

/// A request. `C` is what the server records of the changes that it made.
#[derive(Clone, Debug, Serialize)]
pub struct RequestRecord<C = ()> {
    /// Rises by one from request to request, in the order of arrival.
    pub order: u64,
    /// When it arrived.
    pub at: SystemTime,
    /// The client's address.
    pub peer: SocketAddr,
    /// The client's User-Agent.
    pub user_agent: Option<String>,
    /// The client's X-Request-Id.
    pub request_id: Option<String>,
    /// `GET`, `POST`, …
    pub method: String,
    /// The path with the query.
    pub path: String,
    /// The body, if it was JSON.
    pub body: Option<Value>,
    /// Whether it was carried out: a fault may have prevented that.
    pub performed: bool,
    /// The status of the response; none if there was no response, or none yet.
    pub status: Option<u16>,
    /// What it changed, in order.
    pub changes: Vec<C>,
}

impl<C> RequestRecord<C> {
    pub(super) fn new(parts: &Parts, body: &[u8], peer: SocketAddr) -> Self {
        let header = |name: &str| {
            let value = parts.headers.get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        Self {
            order: 0,
            at: SystemTime::now(),
            peer,
            user_agent: header("user-agent"),
            request_id: header("x-request-id"),
            method: parts.method.to_string(),
            path: parts.uri.to_string(),
            body: serde_json::from_slice(body).ok(),
            performed: false,
            status: None,
            changes: Vec::new(),
        }
    }
}

/// The latest requests.
pub(super) struct RequestLog<C> {
    records: VecDeque<RequestRecord<C>>,
    next_order: u64,
    limit: usize,
}

impl<C: Clone> RequestLog<C> {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            records: VecDeque::new(),
            next_order: 0,
            limit,
        }
    }

    /// Adds a request and returns its number.
    pub(super) fn begin(&mut self, mut record: RequestRecord<C>) -> u64 {
        record.order = self.next_order;
        self.next_order += 1;
        if self.records.len() >= self.limit {
            self.records.pop_front();
        }
        let order = record.order;
        self.records.push_back(record);
        order
    }

    /// Completes the record of a request, unless it has been dropped since.
    pub(super) fn update(&mut self, order: u64, update: impl FnOnce(&mut RequestRecord<C>)) {
        let first = self.records.front().map_or(0, |record| record.order);
        let index = order
            .checked_sub(first)
            .and_then(|index| usize::try_from(index).ok());
        if let Some(record) = index.and_then(|index| self.records.get_mut(index)) {
            update(record);
        }
    }

    /// The requests from this number on.
    pub(super) fn since(&self, order: u64) -> Vec<RequestRecord<C>> {
        self.records
            .iter()
            .filter(|record| record.order >= order)
            .cloned()
            .collect()
    }
}
