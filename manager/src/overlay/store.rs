//! Where the allocations are kept: those of nodes, and those of services.
//!
//! Invariants: every write is a transaction on the condition that nobody has written since the state
//! was read, so that two managers never give the same subnet. A transaction whose outcome is unknown
//! is never taken for done or for not done: the state is read again.

mod file;
#[cfg(test)]
pub(crate) mod memory;
mod zookeeper;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;

use crate::election::ZooKeeper;

pub use file::FileStore;
pub use zookeeper::ZooKeeperStore;

/// What a store keeps. Each has its own file, and its own nodes of ZooKeeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSubject {
    /// The name of its directory below the path of the managers in ZooKeeper.
    pub(super) directory: &'static str,
    /// The table of the configuration that names its file.
    pub(super) table: &'static str,
    /// What happens if the file is removed.
    pub(super) loss: &'static str,
}

impl StoreSubject {
    /// What nodes have of overlays. Its generations are the terms of revisions.
    pub const OVERLAY: Self = Self {
        directory: "overlay",
        table: "[overlay]",
        loss: "gives all nodes new subnets",
    };
    /// The addresses of services.
    pub const SERVICES: Self = Self {
        directory: "services",
        table: "[services]",
        loss: "may give services other addresses",
    };
}

/// Says that nobody else has written since. Only the store that returned it understands it. Later
/// writes have greater ones, also after all that was stored has been lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Generation(pub(crate) u64);

/// The generation of an empty store: milliseconds of the wall clock, because nothing else is left of
/// earlier generations, of which nodes know the last. There are fewer writes than milliseconds.
fn first_generation() -> u64 {
    let age = SystemTime::now().duration_since(UNIX_EPOCH);
    age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
}

/// All that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// For the next write.
    pub generation: Generation,
    /// The records, by name.
    pub records: Vec<(String, Vec<u8>)>,
}

/// A change of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordWrite {
    /// There was none.
    Create {
        /// The record's name.
        name: String,
        /// The record.
        record: Vec<u8>,
    },
    /// There was another one.
    Replace {
        /// The record's name.
        name: String,
        /// The record.
        record: Vec<u8>,
    },
    /// It is gone.
    Delete {
        /// The record's name.
        name: String,
    },
}

/// Why the state cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Nothing was written: the store cannot be reached.
    #[error("cannot reach {store}: {problem}; try again")]
    Unavailable {
        /// The store.
        store: String,
        /// Why.
        problem: String,
    },
    /// Nothing was written: another manager has written since the state was read.
    #[error("another manager has written to {store}; try again")]
    Conflict {
        /// The store.
        store: String,
    },
    /// The connection failed before the answer. It may have been written.
    #[error("{store} did not answer whether it wrote: {problem}; try again")]
    Unknown {
        /// The store.
        store: String,
        /// Why.
        problem: String,
    },
    /// Nothing was written: access is denied, the disk is full, or the like.
    #[error("{store} refuses: {problem}")]
    Refused {
        /// The store.
        store: String,
        /// Why, and what to do.
        problem: String,
    },
    /// What is stored cannot be right.
    #[error("cannot use what is in {store}: {problem}")]
    Invalid {
        /// The store.
        store: String,
        /// Why, and what to do.
        problem: String,
    },
}

/// Keeps records: of a node each, or of a part of the services' names.
pub trait Store: Send + Sync + fmt::Debug {
    /// The store in messages, such as `the file /var/lib/…`.
    fn description(&self) -> String;

    /// Reads everything, as it is at one moment.
    fn load(&self) -> BoxFuture<'_, Result<Snapshot, StoreError>>;

    /// Writes all changes or none, if nobody has written since `generation`. No change at all is a
    /// write as well: after it no other one with `generation` succeeds. Each name is there at most
    /// once. At most [`MAX_WRITES`] changes.
    fn write(
        &self,
        generation: Generation,
        writes: Vec<RecordWrite>,
    ) -> BoxFuture<'_, Result<Generation, StoreError>>;
}

/// How many changes one transaction may have. ZooKeeper limits the size of requests to 1 MiB.
pub const MAX_WRITES: usize = 128;
/// How many bytes the records of one transaction may have, unless it is one record.
pub(crate) const MAX_WRITE_BYTES: usize = 512 << 10;

impl RecordWrite {
    /// The record's name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Create { name, .. } | Self::Replace { name, .. } | Self::Delete { name } => name,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Create { name, record } | Self::Replace { name, record } => {
                name.len() + record.len()
            }
            Self::Delete { name } => name.len(),
        }
    }
}

/// The store of a manager: in ZooKeeper, if there is one, or else a file. It connects, or opens and
/// locks the file, when it is first used. A manager opens it once, and uses it in all its terms.
#[must_use]
pub fn open_store(
    zookeeper: Option<&ZooKeeper>,
    state_file: &Path,
    subject: StoreSubject,
) -> Arc<dyn Store> {
    match zookeeper {
        Some(options) => Arc::new(ZooKeeperStore::of(options.clone(), subject)),
        None => Arc::new(FileStore::of(state_file, subject)),
    }
}
