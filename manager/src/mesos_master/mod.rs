//! The leading Mesos master, over its v1 operator API: every framework's tasks as they come and go.
//!
//! [`MasterClient`] asks; [`Follower`] keeps the stream of events open. The master's events are in
//! order and carry state, so what a follower gives out is a snapshot and then what changed, which
//! [`State::apply`] joins: task, executor, container, addresses and agent.
//!
//! ```text
//!   find ── the masters that are listed, or the one that ZooKeeper names
//!     │
//!     v
//!   subscribe ── a standby names the leader; the first event is the whole state
//!     │          Snapshot
//!     v
//!   follow ───── Changed, Changed, …; a heartbeat every few seconds. Every so often, and when a
//!     │          task tells of a lost agent, subscribe again
//!     v          the stream ends, breaks or is silent; a record or an event makes no
//!   lost ─────── sense; the consumer is too slow. Lost, a pause with jitter, and again
//! ```
//!
//! Invariants:
//! - A snapshot is a whole one: what of it could not be read is named in [`State::skipped`], and
//!   must not be taken for gone.
//! - Events that are not known are passed over, words that are not known are no end; an event that
//!   is known and makes no sense costs a new snapshot.
//! - No wall clock decides anything.

mod client;
mod discover;
mod event;
mod follow;
mod json;
mod model;
#[cfg(test)]
mod tests;

pub use client::{MasterClient, MasterOptions};
pub use discover::{Masters, NotMasters, PORT};
pub use follow::{FollowOptions, Follower, Update};
pub use model::{
    Agent, Change, Executor, Framework, Labels, Network, Skipped, State, Status, Task, TaskKey,
};
