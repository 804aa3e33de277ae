//! A store in memory that fails when a test wants it to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::{Generation, RecordWrite, Snapshot, Store, StoreError};

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It succeeds.
    None,
    /// Nothing is written, and the caller knows it.
    Unavailable,
    /// Nothing is written, and the caller does not know it.
    LostRequest,
    /// It is written, and the caller does not know it.
    LostAnswer,
}

#[derive(Debug, Default)]
struct Contents {
    generation: u64,
    records: BTreeMap<String, Vec<u8>>,
    /// What happens to the next calls.
    faults: VecDeque<Fault>,
    /// How many records each successful write had.
    writes: Vec<usize>,
    loads: usize,
}

/// A store in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryStore(Mutex<Contents>);

impl MemoryStore {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap()
    }

    pub(crate) fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.contents().faults = faults.into_iter().collect();
    }

    /// To how many further calls something may happen.
    pub(crate) fn remaining_faults(&self) -> usize {
        self.contents().faults.len()
    }

    pub(crate) fn records(&self) -> BTreeMap<String, Vec<u8>> {
        self.contents().records.clone()
    }

    pub(crate) fn set_record(&self, name: &str, record: &[u8]) {
        let mut contents = self.contents();
        contents.generation += 1;
        contents.records.insert(name.to_owned(), record.to_owned());
    }

    pub(crate) fn writes(&self) -> Vec<usize> {
        self.contents().writes.clone()
    }

    pub(crate) fn loads(&self) -> usize {
        self.contents().loads
    }
}

fn failure(fault: Fault) -> StoreError {
    let (store, problem) = ("memory".to_owned(), "a fault".to_owned());
    match fault {
        Fault::Unavailable => StoreError::Unavailable { store, problem },
        _ => StoreError::Unknown { store, problem },
    }
}

impl Store for MemoryStore {
    fn description(&self) -> String {
        "memory".to_owned()
    }

    fn load(&self) -> BoxFuture<'_, Result<Snapshot, StoreError>> {
        async {
            let mut contents = self.contents();
            let fault = contents.faults.pop_front().unwrap_or(Fault::None);
            if fault != Fault::None {
                return Err(failure(Fault::Unavailable));
            }
            contents.loads += 1;
            let records = contents.records.clone().into_iter().collect();
            let generation = Generation(contents.generation);
            Ok(Snapshot {
                generation,
                records,
            })
        }
        .boxed()
    }

    fn write(
        &self,
        generation: Generation,
        writes: Vec<RecordWrite>,
    ) -> BoxFuture<'_, Result<Generation, StoreError>> {
        async move {
            // Requests that are sent while another one is answered wait here.
            tokio::task::yield_now().await;
            let mut contents = self.contents();
            let fault = contents.faults.pop_front().unwrap_or(Fault::None);
            if matches!(fault, Fault::Unavailable | Fault::LostRequest) {
                return Err(failure(fault));
            }
            let conflict = StoreError::Conflict {
                store: "memory".to_owned(),
            };
            if Generation(contents.generation) != generation {
                return Err(conflict);
            }
            assert!(writes.len() <= super::MAX_WRITES, "{} writes", writes.len());
            let mut records = contents.records.clone();
            for write in &writes {
                let (is_right, _) = match write {
                    RecordWrite::Create { name, record } => {
                        let before = records.insert(name.clone(), record.clone());
                        (before.is_none(), before)
                    }
                    RecordWrite::Replace { name, record } => {
                        let before = records.insert(name.clone(), record.clone());
                        (before.is_some(), before)
                    }
                    RecordWrite::Delete { name } => {
                        let before = records.remove(name);
                        (before.is_some(), before)
                    }
                };
                if !is_right {
                    return Err(conflict);
                }
            }
            contents.records = records;
            contents.generation += 1;
            contents.writes.push(writes.len());
            if fault == Fault::LostAnswer {
                return Err(failure(fault));
            }
            Ok(Generation(contents.generation))
        }
        .boxed()
    }
}
