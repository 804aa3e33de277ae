//! The addresses of named services, and the store that keeps them, in a term of a leader.
//!
//! Invariants:
//! - What is read from the book is in the store. A change that could not be written is undone.
//! - What is released is written before anything is given, so that no beginning of the writes has an
//!   address twice.
//! - After a write whose outcome is unknown, or that another manager came before, or work that was
//!   dropped, everything is read again first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::addresses::{AddressPool, NameChange, RangeUsage, Shortage, record_name, shard_of};
use crate::overlay::{Generation, MAX_WRITE_BYTES, MAX_WRITES, RecordWrite, Store, StoreError};

/// How often a write is tried if another manager comes before it, or its outcome is unknown.
const ATTEMPTS: usize = 3;

/// The addresses of named services.
#[derive(Debug)]
pub(super) struct AddressBook {
    store: Arc<dyn Store>,
    ranges: Vec<IpNet>,
    pool: AddressPool,
    /// The generation of what was read; none if it must be read again.
    generation: Option<Generation>,
}

/// Which names get addresses, and which give them back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct AddressRequests {
    pub(super) wanted: BTreeSet<String>,
    pub(super) released: BTreeSet<String>,
}

impl AddressRequests {
    pub(super) fn is_empty(&self) -> bool {
        self.wanted.is_empty() && self.released.is_empty()
    }
}

impl AddressBook {
    /// A book that has read nothing yet.
    pub(super) fn new(store: Arc<dyn Store>, ranges: &[IpNet]) -> Self {
        Self {
            store,
            ranges: ranges.to_vec(),
            pool: AddressPool::new(ranges),
            generation: None,
        }
    }

    /// Whether it has read the store since it was last uncertain.
    pub(super) fn is_loaded(&self) -> bool {
        self.generation.is_some()
    }

    /// What names have. It may be out of date while the book is not loaded.
    pub(super) fn pool(&self) -> &AddressPool {
        &self.pool
    }

    pub(super) fn usage(&self) -> Vec<RangeUsage> {
        self.pool.usage()
    }

    /// Reads the store if it must be read, and keeps earlier leaders from writing. Run it inside the
    /// fence.
    pub(super) async fn load(&mut self) -> Result<(), StoreError> {
        let mut attempt = 1;
        while let Err(error) = self.refresh().await {
            self.read_again_after(error, &mut attempt)?;
        }
        Ok(())
    }

    /// Releases and gives addresses, as far as they are there, and writes that. Returns what is lacking,
    /// by name. Run it inside the fence.
    pub(super) async fn change(
        &mut self,
        requests: &AddressRequests,
    ) -> Result<BTreeMap<String, Vec<Shortage>>, StoreError> {
        let mut attempt = 1;
        loop {
            match self.try_change(requests).await {
                Ok(shortages) => return Ok(shortages),
                Err(error) => self.read_again_after(error, &mut attempt)?,
            }
        }
    }

    async fn try_change(
        &mut self,
        requests: &AddressRequests,
    ) -> Result<BTreeMap<String, Vec<Shortage>>, StoreError> {
        self.refresh().await?;
        let released = requests.released.iter();
        let changes = released.filter_map(|name| self.pool.release(name));
        let changes = changes.collect();
        self.write(changes).await?;
        let mut shortages = BTreeMap::new();
        let mut changes = vec![];
        for name in &requests.wanted {
            let (change, lacking) = self.pool.give(name);
            changes.extend(change);
            if !lacking.is_empty() {
                shortages.insert(name.clone(), lacking);
            }
        }
        self.write(changes).await?;
        Ok(shortages)
    }

    async fn refresh(&mut self) -> Result<(), StoreError> {
        if self.generation.is_some() {
            return Ok(());
        }
        let snapshot = self.store.load().await?;
        let pool = AddressPool::load(&self.ranges, snapshot.records);
        self.pool = pool.map_err(|error| StoreError::Invalid {
            store: self.store.description(),
            problem: format!(
                "{error}; restore it, or remove the record, whose services get others"
            ),
        })?;
        let generation = self.store.write(snapshot.generation, vec![]).await?;
        self.generation = Some(generation);
        Ok(())
    }

    /// After a write that another manager came before, or whose outcome is unknown, the work is repeated.
    /// Returns other errors, and the one of the last attempt.
    fn read_again_after(
        &mut self,
        error: StoreError,
        attempt: &mut usize,
    ) -> Result<(), StoreError> {
        if !matches!(
            error,
            StoreError::Conflict { .. } | StoreError::Unknown { .. }
        ) {
            return Err(error);
        }
        self.generation = None;
        if *attempt == ATTEMPTS {
            return Err(error);
        }
        *attempt += 1;
        log::warn!(error:%; "reading the addresses of services again");
        Ok(())
    }

    /// Writes changes in one transaction or more. Those that are not written are undone.
    async fn write(&mut self, changes: Vec<NameChange>) -> Result<(), StoreError> {
        let mut rest: BTreeMap<usize, Vec<NameChange>> = BTreeMap::new();
        for change in changes {
            let shard = shard_of(&change.name);
            rest.entry(shard).or_default().push(change);
        }
        while !rest.is_empty() {
            let mut writes = vec![];
            let mut bytes = 0;
            let mut shards = vec![];
            for (shard, changes) in &rest {
                let write = self.record_write(*shard, changes);
                bytes += write.len();
                if writes.len() == MAX_WRITES || (bytes > MAX_WRITE_BYTES && !writes.is_empty()) {
                    break;
                }
                writes.push(write);
                shards.push(*shard);
            }
            // If this work is dropped now, the store must be read again. It is set by `refresh`.
            let Some(generation) = self.generation.take() else {
                self.pool.undo(rest.into_values().flatten().collect());
                return Err(StoreError::Unknown {
                    store: self.store.description(),
                    problem: "its state was not read".to_owned(),
                });
            };
            match self.store.write(generation, writes).await {
                Ok(generation) => self.generation = Some(generation),
                Err(error) => {
                    self.pool.undo(rest.into_values().flatten().collect());
                    // Others say that nothing was written.
                    if !matches!(
                        error,
                        StoreError::Unknown { .. } | StoreError::Conflict { .. }
                    ) {
                        self.generation = Some(generation);
                    }
                    return Err(error);
                }
            }
            for shard in shards {
                rest.remove(&shard);
            }
        }
        Ok(())
    }

    fn record_write(&self, shard: usize, changes: &[NameChange]) -> RecordWrite {
        let name = record_name(shard);
        let is_added = |change: &&NameChange| change.before.is_none();
        let is_removed = |change: &&NameChange| change.after.is_none();
        let (added, removed) = (
            changes.iter().filter(is_added).count(),
            changes.iter().filter(is_removed).count(),
        );
        let was_there = self.pool.shard_len(shard) + removed > added;
        match self.pool.record(shard) {
            None => RecordWrite::Delete { name },
            Some(record) if was_there => RecordWrite::Replace { name, record },
            Some(record) => RecordWrite::Create { name, record },
        }
    }
}
