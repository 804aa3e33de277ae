//! Overlay networks: which node has which tunnel endpoint and subnets.
//!
//! ```text
//! config       the file of the overlays: every problem at once
//! allocation   which node has what: a pure state machine
//! record       the stored record of a node
//! space        the used addresses of one family
//! store        ZooKeeper or a file, by compare-and-set
//! allocator    registers nodes: writes first, then publishes and answers
//! usage        how much of the overlays is used
//! ```
//!
//! Invariants: nothing is given twice, and nothing is taken from a node that may have containers,
//! whatever happens to the configuration. Only [`Allocator::release`] gives a subnet back.

mod allocation;
mod allocator;
mod config;
mod error;
mod record;
mod space;
mod store;
#[cfg(test)]
mod tests;
mod usage;

pub use allocator::{Allocator, Changes, ObjectChange};
pub(crate) use config::unusable_subnet;
pub use config::{OverlayConfig, OverlayDefinition, SubnetPool};
pub use error::AllocatorError;
pub(crate) use space::{Space, address4, address6, number};
pub(crate) use store::MAX_WRITE_BYTES;
#[cfg(test)]
pub(crate) use store::memory;
pub use store::{
    FileStore, Generation, MAX_WRITES, RecordWrite, Snapshot, Store, StoreError, StoreSubject,
    ZooKeeperStore, open_store,
};
pub use usage::{EndpointUsage, OverlayUsage};
