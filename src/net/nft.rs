//! Our nftables table, `inet contrail_mesos`: constant rules, and sets. An attach changes only
//! elements of the sets, so its cost does not depend on the number of containers.
//!
//! Each change is one transaction for the last known generation of the host's tables. If any table
//! has changed since, the kernel refuses the transaction, and our table is checked and repaired
//! first. A table, rule or element that somebody else removed is therefore back after the next
//! attach at the latest. Two instances on one host share the table; the kernel refuses to map a
//! port for both of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use self::batch::BatchError;
pub use self::element::{Element, Set};
use super::netlink::{NetlinkError, NetlinkSocket, Request};

mod batch;
mod element;
mod expressions;
mod read;
mod ruleset;

/// The table's name; its family is `inet`.
pub const TABLE: &str = "contrail_mesos";
/// How often a change is retried because other tables changed at the same time.
const MAX_ATTEMPTS: usize = 8;
/// How many elements one transaction of a repair adds, or one of a sweep removes, at most.
const MAX_ELEMENTS_AT_ONCE: usize = 512;

/// The table could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// Another container has an element with the same key.
    #[error("{element} is taken by {holder}")]
    Taken {
        /// The element that could not be added.
        element: Box<Element>,
        /// The comment of the existing element.
        holder: String,
    },
    /// The kernel refused the change.
    #[error("table inet {TABLE}: {0}")]
    Netlink(#[from] NetlinkError),
}

#[derive(Debug)]
struct TableState {
    socket: NetlinkSocket,
    /// The elements that must be in the table, by set and key.
    expected: BTreeMap<(Set, Vec<u8>), Element>,
    /// The last generation in which the table was known to be complete.
    generation: Option<u32>,
}

/// The table, in the network namespace where this was opened.
#[derive(Debug)]
pub struct Table {
    state: Mutex<TableState>,
}

fn key(element: &Element) -> (Set, Vec<u8>) {
    (element.set, element.key.clone())
}

impl Table {
    /// Opens the table of the calling thread's network namespace. Changes nothing.
    pub fn open() -> Result<Self, NftError> {
        Ok(Self {
            state: Mutex::new(TableState {
                socket: NetlinkSocket::netfilter()?,
                expected: BTreeMap::new(),
                generation: None,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, TableState> {
        // Each method leaves the state consistent before it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds all of `elements` or none, and restores missing parts of the table.
    pub fn add(&self, elements: &[Element]) -> Result<(), NftError> {
        let mut state = self.lock();
        let new: Vec<_> = elements
            .iter()
            // The first container of a network adds the shared elements. If somebody removed
            // them, the generation has changed, which the transaction detects.
            .filter(|element| element.set.is_exclusive() || !state.expected.contains_key(&key(element)))
            .cloned()
            .collect();
        if new.is_empty() {
            return if elements.is_empty() || state.is_current()? {
                Ok(())
            } else {
                state.repair().map(drop)
            };
        }
        state.add(&new)
    }

    /// Takes over `elements` after a restart, and adds the missing ones.
    pub fn adopt(&self, elements: &[Element]) -> Result<(), NftError> {
        let mut state = self.lock();
        let (existing, missing): (Vec<_>, Vec<_>) = elements
            .iter()
            .partition(|element| state.holder(element).as_ref() == Some(&element.comment));
        for element in existing {
            state.expected.insert(key(element), element.clone());
        }
        let missing: Vec<_> = missing.into_iter().cloned().collect();
        if !missing.is_empty() {
            state.add(&missing)
        } else if state.generation.is_none() {
            state.repair().map(drop)
        } else {
            // Checked before; the next change detects whether it is still complete.
            Ok(())
        }
    }

    /// Removes those of `elements` that are in the table with the same comment.
    pub fn remove(&self, elements: &[Element]) -> Result<(), NftError> {
        let mut state = self.lock();
        let mut own = Vec::new();
        for element in elements {
            let is_own = match state.expected.remove(&key(element)) {
                Some(expected) if expected.comment == element.comment => true,
                Some(other) => {
                    state.expected.insert(key(&other), other);
                    false
                }
                // From before a restart, or by the command line.
                None => state.holder(element).as_ref() == Some(&element.comment),
            };
            if is_own {
                own.push(element);
            }
        }
        state.remove(&own)
    }

    /// Restores missing parts of the table, and returns a description of each.
    pub fn repair(&self) -> Result<Vec<String>, NftError> {
        let mut state = self.lock();
        if state.expected.is_empty() {
            return Ok(Vec::new());
        }
        state.repair()
    }

    /// Describes the changes that `add` would make for `elements`.
    pub fn plan(&self, elements: &[Element]) -> Result<Vec<String>, NftError> {
        let mut state = self.lock();
        let mut changes = Vec::new();
        if !state.has_expected_rules()? {
            changes.push(format!(
                "create the nftables table inet {TABLE}: {} chains, {} sets",
                ruleset::CHAINS.len(),
                Set::ALL.len()
            ));
        }
        for element in elements {
            match state.holder(element) {
                Some(holder) if element.set.is_exclusive() => {
                    return Err(NftError::Taken {
                        element: Box::new(element.clone()),
                        holder,
                    });
                }
                Some(_) => {}
                None => changes.push(format!("add the nftables {element}")),
            }
        }
        Ok(changes)
    }

    /// Lists the elements of the table, including those of other instances.
    pub fn elements(&self) -> Result<Vec<Element>, NftError> {
        let mut state = self.lock();
        let mut all = Vec::new();
        for set in Set::ALL {
            all.extend(state.elements(set)?);
        }
        Ok(all)
    }

    /// Removes the table if it has no element of any instance. Returns whether it was removed.
    pub fn remove_if_unused(&self) -> Result<bool, NftError> {
        let mut state = self.lock();
        if !state.expected.is_empty() {
            return Ok(false);
        }
        state.generation = None;
        match batch::commit(&mut state.socket, None, ruleset::tear_down()) {
            Ok(()) => Ok(true),
            Err(
                BatchError::Refused(_, error)
                | BatchError::Unknown(error)
                | BatchError::Failed(error),
            ) => match error.errno() {
                Some(Errno::EBUSY | Errno::ENOENT) => Ok(false),
                _ => Err(error.into()),
            },
            Err(BatchError::Stale) => Ok(false),
        }
    }
}

impl TableState {
    fn add(&mut self, elements: &[Element]) -> Result<(), NftError> {
        for attempt in 0.. {
            if self.generation.is_none() {
                self.repair()?;
            }
            let (changes, parts): (_, Vec<_>) = element::additions(elements).into_iter().unzip();
            // If the host's tables change all the time, the last attempt skips the check.
            let generation = self.generation.filter(|_| attempt < MAX_ATTEMPTS);
            match batch::commit(&mut self.socket, generation, changes) {
                Ok(()) => break,
                Err(BatchError::Stale) => self.generation = None,
                Err(BatchError::Refused(index, error)) => {
                    self.generation = None;
                    let taken = matches!(error.errno(), Some(Errno::EEXIST | Errno::EBUSY));
                    if let Some(elements) = parts.get(index).filter(|_| taken) {
                        return Err(self.taken(elements).unwrap_or_else(|| error.into()));
                    }
                    // Somebody has just removed the table.
                    if attempt < MAX_ATTEMPTS && error.errno() == Some(Errno::ENOENT) {
                        continue;
                    }
                    return Err(error.into());
                }
                Err(BatchError::Unknown(error)) => {
                    self.generation = None;
                    // All of them are there, or none.
                    let is_there = elements.first().is_some_and(|element| {
                        self.holder(element).as_ref() == Some(&element.comment)
                    });
                    if is_there {
                        break;
                    }
                    if attempt >= MAX_ATTEMPTS {
                        return Err(error.into());
                    }
                }
                Err(BatchError::Failed(error)) => {
                    self.generation = None;
                    return Err(error.into());
                }
            }
        }
        self.advance();
        for element in elements {
            self.expected.insert(key(element), element.clone());
        }
        Ok(())
    }

    /// Records that the kernel accepted a transaction, which starts the next generation.
    fn advance(&mut self) {
        self.generation = self.generation.map(next_generation);
    }

    /// Which of `elements`, one of which the kernel refused as existing, another container has.
    fn taken(&mut self, elements: &[&Element]) -> Option<NftError> {
        let gone = "a container that has ended since".to_owned();
        let (element, holder) = elements
            .iter()
            .find_map(|element| Some((*element, self.holder(element)?)))
            .or_else(|| Some((*elements.first()?, gone)))?;
        Some(NftError::Taken {
            element: Box::new(element.clone()),
            holder,
        })
    }

    fn remove(&mut self, elements: &[&Element]) -> Result<(), NftError> {
        let mut result = Ok(());
        for part in elements.chunks(MAX_ELEMENTS_AT_ONCE) {
            result = result.and(self.remove_at_once(part));
        }
        result
    }

    fn remove_at_once(&mut self, elements: &[&Element]) -> Result<(), NftError> {
        let mut elements = elements.to_vec();
        let mut result = Ok(());
        for _ in 0..MAX_ATTEMPTS {
            if elements.is_empty() {
                return Ok(());
            }
            let (changes, _): (_, Vec<_>) = element::removals(elements.iter().copied())
                .into_iter()
                .unzip();
            match batch::commit(&mut self.socket, self.generation, changes) {
                Ok(()) => {
                    self.advance();
                    return Ok(());
                }
                Err(BatchError::Failed(error)) => return Err(error.into()),
                Err(BatchError::Stale) => {}
                Err(BatchError::Refused(_, error) | BatchError::Unknown(error)) => {
                    result = Err(error.into());
                }
            }
            // Somebody may have removed some of them already, and others may have been added.
            self.generation = None;
            elements.retain(|element| self.holder(element).as_ref() == Some(&element.comment));
        }
        result
    }

    fn repair(&mut self) -> Result<Vec<String>, NftError> {
        for _ in 0..MAX_ATTEMPTS {
            let generation = self.current_generation()?;
            let mut repaired = Vec::new();
            let mut changes = Vec::new();
            if !self.has_expected_rules()? {
                repaired.push(format!("the rules of the table inet {TABLE}"));
                changes.extend(ruleset::build());
            }
            let missing = self.missing_elements()?;
            repaired.extend(missing.iter().map(|element| format!("the {element}")));
            match self.repair_from(generation, changes, &missing) {
                Ok(generation) => {
                    self.generation = Some(generation);
                    return Ok(repaired);
                }
                Err(BatchError::Stale | BatchError::Unknown(_)) => {}
                Err(BatchError::Refused(_, error) | BatchError::Failed(error)) => {
                    return Err(error.into());
                }
            }
        }
        // The host's tables change all the time. The next change checks again.
        self.generation = None;
        Ok(Vec::new())
    }

    /// The expected elements that the kernel does not have.
    fn missing_elements(&mut self) -> Result<Vec<Element>, NftError> {
        let mut missing = Vec::new();
        for set in Set::ALL {
            if !self.expected.keys().any(|(key_set, _)| *key_set == set) {
                continue;
            }
            let existing: BTreeSet<_> = self
                .elements(set)?
                .into_iter()
                .map(|element| element.key)
                .collect();
            let expected = self.expected.values();
            missing.extend(
                expected
                    .filter(|element| element.set == set && !existing.contains(&element.key))
                    .cloned(),
            );
        }
        Ok(missing)
    }

    /// Makes `changes` and adds `missing`, in transactions that the kernel takes as a whole each.
    /// Returns the generation after the last one.
    fn repair_from(
        &mut self,
        mut generation: u32,
        mut changes: Vec<Request>,
        missing: &[Element],
    ) -> Result<u32, BatchError> {
        let mut parts = missing.chunks(MAX_ELEMENTS_AT_ONCE);
        loop {
            let part = parts.next();
            changes.extend(
                element::additions(part.unwrap_or_default())
                    .into_iter()
                    .map(|(request, _)| request),
            );
            if changes.is_empty() {
                return Ok(generation);
            }
            batch::commit(
                &mut self.socket,
                Some(generation),
                std::mem::take(&mut changes),
            )?;
            generation = next_generation(generation);
        }
    }

    /// Whether no table has changed since ours was last known to be complete.
    fn is_current(&mut self) -> Result<bool, NftError> {
        let current = self.current_generation()?;
        Ok(self.generation == Some(current))
    }
}

fn next_generation(generation: u32) -> u32 {
    // The kernel does not use zero.
    generation.checked_add(1).unwrap_or(1)
}

#[cfg(test)]
mod root_tests;
