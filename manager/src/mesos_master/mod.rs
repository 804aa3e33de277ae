//! Client of the leading Mesos master's v1 operator API: the tasks of every framework.
//!
//! [`MasterClient`] sends calls; [`Follower`] keeps the event stream open. The master's events are
//! ordered and carry state, so a follower reports a snapshot and then changes, which
//! [`State::apply`] merges: task, executor, container, addresses and agent.
//!
//! ```text
//!   find ── the configured masters, or the leader according to ZooKeeper
//!     │
//!     v
//!   subscribe ── a standby names the leader; the first event is the whole state
//!     │          Snapshot
//!     v
//!   follow ───── Changed, Changed, …; a heartbeat every few seconds. Subscribe again after the
//!     │          resync interval, and when a task update indicates a lost agent
//!     v          the stream ends, fails or is silent; a record or event is malformed;
//!   lost ─────── the consumer is too slow. Lost, a delay with jitter, then retry
//! ```
//!
//! Invariants:
//! - A snapshot covers everything: elements that could not be read are in [`State::skipped`], and
//!   must not be treated as removed.
//! - Unknown events are ignored, unknown task states are not terminal, and a malformed known event
//!   causes a new snapshot.
//! - No decision depends on the wall clock.

mod client;
mod discover;
mod event;
mod follow;
mod json;
mod model;
pub mod ports;
#[cfg(test)]
mod tests;

pub use client::{MasterClient, MasterOptions};
pub use discover::{DEFAULT_PORT, InvalidMasters, Masters};
pub use follow::{FollowOptions, Follower, Update};
pub use model::{
    Agent, Change, ContainerKind, Executor, Framework, Labels, Network, Skipped, State, Status,
    Task, TaskKey,
};

/// The state in a response to `GET_STATE`, for tests of what is made of it.
#[cfg(test)]
pub(crate) fn read_state(body: &serde_json::Value) -> State {
    json::state(body.to_string().as_bytes()).expect("a state")
}
