//! Client of Marathon 1.7 to 1.11: REST API and event stream.
//!
//! [`MarathonClient`] sends requests; [`Follower`] reports changes. The event stream has no ids, no
//! replay and no order, and 1.7 even drops events silently. So an event only yields a key of
//! something to read again. State comes from listings alone.
//!
//! ```text
//!            ┌───────────────────────────────────────────────────────┐
//!            v                                                       │ pause, with jitter
//!   ┌─ connect ── each server in turn; a standby names the leader    │
//!   │        │                                                       │
//!   │        v                                                       │
//!   │     attached ── `event_stream_attached` was received: no later │
//!   │        │        event is missed                                │
//!   │        v                                                       │
//!   │      list ───── keys received meanwhile are queued ────────────┤
//!   │        │        Snapshot, then the keys                        │ Lost
//!   │        v                                                       │
//!   │     follow ──── Changed(key), Changed(key), …                  │
//!   │        │  ^                                                    │
//!   │        │  └── list again: a malformed event, too many keys, or  │
//!   │        │      the resync interval is over                      │
//!   │        └─────── the stream ends, fails, is silent, is not      │
//!   │                 UTF-8, or an event is too long ────────────────┤
//!   └──────────────── no server has a stream: list without one, ─────┘
//!                     so that a broken stream only delays updates
//! ```
//!
//! Invariants:
//! - A snapshot is built only from complete, well-formed responses. Elements that could not be read
//!   are in [`Listing::skipped`], and must not be treated as deleted.
//! - A slow consumer never blocks the stream: queued keys are deduplicated and bounded.
//! - No decision depends on the wall clock.

mod client;
mod event;
mod follow;
mod id;
mod json;
mod model;
mod queue;
mod stream;
#[cfg(test)]
mod tests;
mod update;

pub use client::{DEFAULT_PORT, MarathonClient, MarathonOptions};
pub use event::Key;
pub use follow::{FollowOptions, Follower};
pub use id::{InstanceId, RunSpecId, TaskId, instance_of_executor};
pub use model::{
    App, Labels, Listing, Mode, Network, Pod, PodContainer, PodInstance, PodNetwork, PodState,
    Skipped, Task,
};
pub use update::Update;
