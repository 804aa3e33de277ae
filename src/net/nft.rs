//! Our nftables table, `inet contrail_mesos`: fixed rules, and sets whose elements are all that an
//! attach changes. Its cost does not depend on how many containers there are.
//!
//! Every change is one transaction, made for the generation of the host's tables that we last
//! saw: if anybody changed any table since, the kernel refuses it and our table is looked through
//! and repaired first. So a table, rule or element that was removed behind our back is back after
//! the next attach at the latest. Two instances on one host share the table; a mapped port is
//! refused to the second of them by the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use self::batch::BatchError;
pub use self::element::{Element, Set};
use super::netlink::{NetlinkError, NetlinkSocket};

mod batch;
mod element;
mod expressions;
mod read;
mod ruleset;

/// The table's name; its family is `inet`.
pub const TABLE: &str = "contrail_mesos";
/// How often a change is tried again because others changed tables meanwhile.
const ATTEMPTS: usize = 8;

/// Why the table could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// An element is there already, and belongs to somebody else.
    #[error("{element} is taken by {holder}")]
    Taken {
        /// The element that was to be added.
        element: Box<Element>,
        /// The comment of the element that is there.
        holder: String,
    },
    /// The kernel refused.
    #[error("table inet {TABLE}: {0}")]
    Netlink(#[from] NetlinkError),
}

#[derive(Debug)]
struct State {
    socket: NetlinkSocket,
    /// What has to be in the table, by set and key.
    known: BTreeMap<(Set, Vec<u8>), Element>,
    /// The generation in which the table was last known to be right.
    generation: Option<u32>,
}

/// The table, in the network namespace where this was opened.
#[derive(Debug)]
pub struct Table {
    state: Mutex<State>,
}

fn key(element: &Element) -> (Set, Vec<u8>) {
    (element.set, element.key.clone())
}

impl Table {
    /// Opens it, for this thread's network namespace. Changes nothing.
    pub fn open() -> Result<Self, NftError> {
        Ok(Self {
            state: Mutex::new(State {
                socket: NetlinkSocket::netfilter()?,
                known: BTreeMap::new(),
                generation: None,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each method leaves the state whole before it can fail.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds `elements`, all or none, and whatever of the table is missing.
    pub fn add(&self, elements: &[Element]) -> Result<(), NftError> {
        let mut state = self.lock();
        let new: Vec<_> = elements
            .iter()
            // What containers share is there since the first of them; if it was removed behind
            // our back, the transaction for the rest says so.
            .filter(|element| element.set.is_exclusive() || !state.known.contains_key(&key(element)))
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

    /// Elements that are there already, from before a restart, as well as ones that are not.
    pub fn adopt(&self, elements: &[Element]) -> Result<(), NftError> {
        let mut state = self.lock();
        let (there, missing): (Vec<_>, Vec<_>) = elements
            .iter()
            .partition(|element| state.holder(element).as_ref() == Some(&element.comment));
        for element in there {
            state.known.insert(key(element), element.clone());
        }
        let missing: Vec<_> = missing.into_iter().cloned().collect();
        if !missing.is_empty() {
            state.add(&missing)
        } else if state.generation.is_none() {
            state.repair().map(drop)
        } else {
            // Looked through before; whoever adds the next element sees whether it still holds.
            Ok(())
        }
    }

    /// Removes those of `elements` that are there with the same comment.
    pub fn remove(&self, elements: &[Element]) -> Result<(), NftError> {
        let mut state = self.lock();
        let mut own = Vec::new();
        for element in elements {
            let known = state.known.remove(&key(element));
            let is_ours = match known {
                Some(known) if known.comment == element.comment => true,
                Some(other) => {
                    state.known.insert(key(&other), other);
                    false
                }
                // From before a restart, or another process of ours made it.
                None => state.holder(element).as_ref() == Some(&element.comment),
            };
            if is_ours {
                own.push(element);
            }
        }
        state.remove(&own)
    }

    /// Puts back whatever is missing of the table and of the elements that have to be in it, and
    /// says what was.
    pub fn repair(&self) -> Result<Vec<String>, NftError> {
        let mut state = self.lock();
        if state.known.is_empty() {
            return Ok(Vec::new());
        }
        state.repair()
    }

    /// What `add` would have to do for `elements`, in words.
    pub fn plan(&self, elements: &[Element]) -> Result<Vec<String>, NftError> {
        let mut state = self.lock();
        let mut steps = Vec::new();
        if !state.rules_are_right()? {
            steps.push(format!(
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
                None => steps.push(format!("add the nftables {element}")),
            }
        }
        Ok(steps)
    }

    /// Every element of the table, whoever's.
    pub fn elements(&self) -> Result<Vec<Element>, NftError> {
        let mut state = self.lock();
        let mut all = Vec::new();
        for set in Set::ALL {
            all.extend(state.elements(set)?);
        }
        Ok(all)
    }

    /// Removes the table if it has no element left, of whatever instance. Whether it did.
    pub fn remove_if_unused(&self) -> Result<bool, NftError> {
        let mut state = self.lock();
        if !state.known.is_empty() {
            return Ok(false);
        }
        state.generation = None;
        match batch::commit(&mut state.socket, None, ruleset::tear_down()) {
            Ok(()) => Ok(true),
            Err(BatchError::Refused(_, error) | BatchError::Failed(error)) => match error.errno() {
                Some(Errno::EBUSY | Errno::ENOENT) => Ok(false),
                _ => Err(error.into()),
            },
            Err(BatchError::Stale) => Ok(false),
        }
    }
}

impl State {
    fn add(&mut self, elements: &[Element]) -> Result<(), NftError> {
        for attempt in 0.. {
            if self.generation.is_none() {
                self.repair()?;
            }
            let changes = elements.iter().map(Element::add).collect();
            // On a host whose tables never rest, rather without the check than not at all.
            let generation = self.generation.filter(|_| attempt < ATTEMPTS);
            match batch::commit(&mut self.socket, generation, changes) {
                Ok(()) => break,
                Err(BatchError::Stale) => self.generation = None,
                Err(BatchError::Refused(index, error)) => {
                    self.generation = None;
                    let taken = matches!(error.errno(), Some(Errno::EEXIST | Errno::EBUSY));
                    if let Some(element) = elements.get(index).filter(|_| taken) {
                        let holder = self.holder(element);
                        return Err(NftError::Taken {
                            element: Box::new(element.clone()),
                            holder: holder.unwrap_or_else(|| "somebody who is gone now".into()),
                        });
                    }
                    // The table went away just now.
                    if attempt < ATTEMPTS && error.errno() == Some(Errno::ENOENT) {
                        continue;
                    }
                    return Err(error.into());
                }
                Err(BatchError::Failed(error)) => {
                    self.generation = None;
                    return Err(error.into());
                }
            }
        }
        self.advance();
        for element in elements {
            self.known.insert(key(element), element.clone());
        }
        Ok(())
    }

    /// A transaction of ours that the kernel accepted is the next generation.
    fn advance(&mut self) {
        // Zero is never used by the kernel.
        self.generation = self
            .generation
            .map(|generation| generation.checked_add(1).unwrap_or(1));
    }

    fn remove(&mut self, elements: &[&Element]) -> Result<(), NftError> {
        if elements.is_empty() {
            return Ok(());
        }
        let changes = elements.iter().map(|element| element.remove()).collect();
        match batch::commit(&mut self.socket, self.generation, changes) {
            Ok(()) => {
                self.advance();
                return Ok(());
            }
            Err(BatchError::Failed(error)) => return Err(error.into()),
            // Somebody took one of them away already: one by one, then.
            Err(BatchError::Stale | BatchError::Refused(..)) => self.generation = None,
        }
        let mut result = Ok(());
        for element in elements {
            match batch::commit(&mut self.socket, None, vec![element.remove()]) {
                Err(BatchError::Refused(_, error)) if error.errno() == Some(Errno::ENOENT) => {}
                Err(BatchError::Refused(_, error) | BatchError::Failed(error)) => {
                    result = result.and(Err(error.into()));
                }
                Ok(()) | Err(BatchError::Stale) => {}
            }
        }
        result
    }

    fn repair(&mut self) -> Result<Vec<String>, NftError> {
        let mut repaired = Vec::new();
        for _ in 0..ATTEMPTS {
            let generation = self.current_generation()?;
            let mut changes = Vec::new();
            if !self.rules_are_right()? {
                repaired.push(format!("the rules of the table inet {TABLE}"));
                changes.extend(ruleset::build());
            }
            for set in Set::ALL {
                if !self.known.keys().any(|(of, _)| *of == set) {
                    continue;
                }
                let there: BTreeSet<_> = self
                    .elements(set)?
                    .into_iter()
                    .map(|element| element.key)
                    .collect();
                for element in self.known.values().filter(|known| known.set == set) {
                    if !there.contains(&element.key) {
                        repaired.push(format!("the {element}"));
                        changes.push(element.add());
                    }
                }
            }
            if changes.is_empty() {
                self.generation = Some(generation);
                return Ok(repaired);
            }
            match batch::commit(&mut self.socket, Some(generation), changes) {
                Ok(()) => {
                    self.generation = Some(generation.checked_add(1).unwrap_or(1));
                    return Ok(repaired);
                }
                Err(BatchError::Stale) => repaired.clear(),
                Err(BatchError::Refused(_, error) | BatchError::Failed(error)) => {
                    return Err(error.into());
                }
            }
        }
        // Too busy a host to be sure; the next change looks again.
        self.generation = None;
        Ok(repaired)
    }

    /// Whether no table was changed since ours was last known to be right.
    fn is_current(&mut self) -> Result<bool, NftError> {
        let current = self.current_generation()?;
        Ok(self.generation == Some(current))
    }
}

#[cfg(test)]
mod tests;
