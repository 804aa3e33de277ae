//! Marathon 1.7 to 1.11, over its REST API and its event stream.
//!
//! [`MarathonClient`] asks; [`Follower`] keeps asking whenever something changes. The stream has no
//! ids, no replay and no order, and 1.7 even leaves events out without a word. So an event is a
//! key, something to look at again, and never state; what there is, only a list says.
//!
//! ```text
//!            ┌───────────────────────────────────────────────────────┐
//!            v                                                       │ pause, with jitter
//!   ┌─ connect ── every server in turn; a standby names the leader   │
//!   │        │                                                       │
//!   │        v                                                       │
//!   │     attached ── `event_stream_attached` has come: from here    │
//!   │        │        on nothing is missed                           │
//!   │        v                                                       │
//!   │      list ───── keys that come meanwhile wait ─────────────────┤
//!   │        │        Snapshot, then the keys                        │ Lost
//!   │        v                                                       │
//!   │     follow ──── Changed(key), Changed(key), …                  │
//!   │        │  ^                                                    │
//!   │        │  └── list again: an event that makes no sense, too     │
//!   │        │      many keys, and every so often all the same       │
//!   │        └─────── the stream ends, breaks, is silent, is not     │
//!   │                 UTF-8, brings an event that is too long ───────┤
//!   └──────────────── no server has a stream: list without one, ─────┘
//!                     so that what is wrong with streams only slows us down
//! ```
//!
//! Invariants:
//! - A snapshot is made of whole, well-formed answers, or there is none. What could not be read in
//!   one is named in [`Listing::skipped`], and must not be taken for gone.
//! - The stream is read as fast as it comes, however slow the consumer: keys that wait are kept
//!   once, and so many at most.
//! - No wall clock decides anything.

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

pub use client::{MarathonClient, MarathonOptions, PORT};
pub use event::Key;
pub use follow::{FollowOptions, Follower};
pub use id::{InstanceId, RunSpecId, TaskId, executor_of};
pub use model::{
    App, Labels, Listing, Mode, Network, Pod, PodContainer, PodInstance, PodNetwork, PodState,
    Skipped, Task,
};
pub use update::Update;
