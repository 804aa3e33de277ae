//! What every simulated server shares: connections that can be cut, faults, a request log, clocks
//! and the control listener.
//!
//! ```text
//! connection   accepts connections that can be cut
//! frontend     logs each request and applies faults around the server's own handler
//! fault        faults and the table of them
//! request_log  the latest requests
//! service      the listening socket, which can be unplugged and plugged in again
//! control      the routes that all control listeners have
//! clock        times in the formats of the real servers
//! ```
//!
//! Invariant: nothing here knows a particular server.

pub(crate) mod clock;
pub(crate) mod connection;
pub(crate) mod control;
mod fault;
mod frontend;
mod request_log;
mod service;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use fault::{Effect, Fault};
pub use request_log::RequestRecord;

pub(crate) use fault::{FaultTable, countdown, milliseconds};
pub(crate) use frontend::Frontend;
pub(crate) use service::{Service, ServiceOptions};

/// Locks a mutex whose data no panic can leave half changed in a way that matters here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
