//! Our nftables table, `inet contrail_mesos`: constant rules, and sets. An attach changes only
//! elements of the sets, so its cost does not depend on the number of containers.
//!
//! What this process added is expected to stay. The code that watches the table calls
//! [`Table::mark_changed`] when somebody else has changed it ([`table_change`]); the next change or
//! [`Table::repair`] then compares the whole table and restores what is missing. A change that is
//! refused because something is missing does the same. Two instances on one host share the table;
//! the kernel refuses to map a port for both of them.
//!
//! The elements that a group of containers shares, such as the masqueraded subnets of a bridge, are
//! replaced as a whole and in one transaction ([`Table::set_group`]): intervals of old and new
//! elements may overlap.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::errno::Errno;

use self::batch::BatchError;
pub use self::element::{Element, Set};
pub use self::read::{TableChange, table_change};
use super::netlink::{NetlinkError, NetlinkSocket, Request};

mod batch;
pub mod docker;
pub mod egress;
mod element;
mod expressions;
pub mod firewall;
pub mod groups;
mod program;
mod read;
mod ruleset;
pub mod services;
pub mod sources;
pub mod verdict;
pub mod watch;

/// The table's name; its family is `inet`.
pub const TABLE: &str = "contrail_mesos";
/// The family and name of every table of this project, those of the node daemon included.
pub const OWN_TABLES: [(&str, &str); 7] = [
    ("inet", TABLE),
    ("inet", groups::TABLE),
    ("bridge", groups::TABLE),
    ("inet", services::TABLE),
    ("inet", sources::TABLE),
    ("inet", docker::TABLE),
    ("inet", egress::TABLE),
];
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

/// What identifies an element: its set and its interval.
type Key = (Set, Vec<u8>, Option<Vec<u8>>);

#[derive(Debug)]
struct TableState {
    socket: NetlinkSocket,
    /// The elements that must be in the table.
    expected: BTreeMap<Key, Element>,
    /// The shared elements among them, by group.
    groups: HashMap<String, Vec<Element>>,
    /// Whether the table has all that is expected, as far as is known.
    is_complete: bool,
}

/// The table, in the network namespace where this was opened.
#[derive(Debug)]
pub struct Table {
    state: Mutex<TableState>,
}

fn key(element: &Element) -> Key {
    (element.set, element.key.clone(), element.key_end.clone())
}

impl Table {
    /// Opens the table of the calling thread's network namespace. Changes nothing.
    pub fn open() -> Result<Self, NftError> {
        Ok(Self {
            state: Mutex::new(TableState {
                socket: NetlinkSocket::netfilter()?,
                expected: BTreeMap::new(),
                groups: HashMap::new(),
                is_complete: false,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, TableState> {
        // Each method leaves the state consistent before it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The port of the socket that changes the table.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.lock().socket.port()
    }

    /// Notes that somebody else has changed the table. Returns whether that concerns what this
    /// process expects to be there.
    pub fn mark_changed(&self, change: &TableChange) -> bool {
        let mut state = self.lock();
        let is_concerned = match change {
            TableChange::Structure => !state.expected.is_empty(),
            TableChange::RemovedElements(elements) => elements
                .iter()
                .any(|element| state.expected.contains_key(&key(element))),
        };
        if is_concerned {
            state.is_complete = false;
        }
        is_concerned
    }

    /// Notes that anything may have happened to the table.
    pub fn mark_unknown(&self) {
        self.lock().is_complete = false;
    }

    /// Adds all of `elements` or none, and restores missing parts of the table.
    pub fn add(&self, elements: &[Element]) -> Result<(), NftError> {
        if elements.is_empty() {
            return Ok(());
        }
        self.lock().change(&[], elements)
    }

    /// Makes `elements` the shared elements of a group, in place of the group's present ones, and
    /// adds `more`; all of it happens, or nothing.
    pub fn set_group(
        &self,
        group: &str,
        elements: &[Element],
        more: &[Element],
    ) -> Result<(), NftError> {
        let mut state = self.lock();
        let present = state.groups.get(group).cloned().unwrap_or_default();
        let mut removed: Vec<_> = without(&present, elements);
        // `remove` may have removed them with another container of the group.
        removed.retain(|element| state.expected.contains_key(&key(element)));
        let mut added: Vec<_> = without(elements, &present);
        added.extend_from_slice(more);
        if !removed.is_empty() || !added.is_empty() {
            state.change(&removed, &added)?;
        }
        if elements.is_empty() {
            state.groups.remove(group);
        } else {
            state.groups.insert(group.to_owned(), elements.to_vec());
        }
        Ok(())
    }

    /// Whether this process has set the shared elements of a group.
    #[must_use]
    pub fn has_group(&self, group: &str) -> bool {
        self.lock().groups.contains_key(group)
    }

    /// No longer expects the shared elements of a group, without removing them.
    pub fn forget_group(&self, group: &str) {
        let mut state = self.lock();
        for element in state.groups.remove(group).unwrap_or_default() {
            state.expected.remove(&key(&element));
        }
    }

    /// Replaces `strangers`, elements of this instance that this process did not add, by `elements`
    /// as the shared elements of a group, and adds `more`.
    pub fn take_over_group(
        &self,
        group: &str,
        strangers: &[Element],
        elements: &[Element],
        more: &[Element],
    ) -> Result<(), NftError> {
        {
            let mut state = self.lock();
            for element in strangers {
                state.expected.insert(key(element), element.clone());
            }
            let present = state.groups.entry(group.to_owned()).or_default();
            let more = without(strangers, present);
            present.extend(more);
        }
        self.set_group(group, elements, more)
    }

    /// The elements of the given sets that this process did not add.
    pub fn strangers(&self, sets: &[Set]) -> Result<Vec<Element>, NftError> {
        let mut state = self.lock();
        let mut found = Vec::new();
        for set in sets {
            let elements = state.elements(*set)?;
            found.extend(
                elements
                    .into_iter()
                    .filter(|element| !state.expected.contains_key(&key(element))),
            );
        }
        Ok(found)
    }

    /// Takes over `elements` after a restart, and adds the missing ones. Returns whether any was
    /// missing.
    pub fn adopt(&self, elements: &[Element]) -> Result<bool, NftError> {
        let mut state = self.lock();
        let (existing, missing): (Vec<_>, Vec<_>) = elements
            .iter()
            .partition(|element| state.holder(element).as_ref() == Some(&element.comment));
        for element in existing {
            state.expected.insert(key(element), element.clone());
        }
        let missing: Vec<_> = missing.into_iter().cloned().collect();
        if !missing.is_empty() {
            state.change(&[], &missing).and(Ok(true))
        } else if !elements.is_empty() && !state.is_complete {
            state.repair(None).map(|repairs| !repairs.is_empty())
        } else {
            Ok(false)
        }
    }

    /// Expects exactly `elements`, most of which other processes of this instance have added. The
    /// next [`Table::repair`] compares the whole table with them. Changes nothing.
    pub fn expect(&self, elements: impl IntoIterator<Item = Element>) {
        let mut state = self.lock();
        state.groups.clear();
        let keyed = elements.into_iter().map(|element| (key(&element), element));
        state.expected = keyed.collect();
        state.is_complete = false;
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
        for group in state.groups.values_mut() {
            group.retain(|element| !own.contains(&element));
        }
        state.remove(&own)
    }

    /// Restores missing parts of the table if somebody has changed it, and returns a description of
    /// each.
    pub fn repair(&self) -> Result<Vec<String>, NftError> {
        let mut state = self.lock();
        if state.is_complete || state.expected.is_empty() {
            return Ok(Vec::new());
        }
        state.repair(None)
    }

    /// As [`Table::repair`], but begins to change nothing after `deadline`, and never overwrites what
    /// another process has changed since it was read.
    pub fn repair_until(&self, deadline: Instant) -> Result<Vec<String>, NftError> {
        let mut state = self.lock();
        if state.is_complete || state.expected.is_empty() {
            return Ok(Vec::new());
        }
        state.repair(Some(deadline))
    }

    /// What is missing of the table for `elements`, a description each. Changes nothing.
    pub fn missing(&self, elements: &[Element]) -> Result<Vec<String>, NftError> {
        let mut state = self.lock();
        let mut missing = Vec::new();
        if elements.is_empty() {
            return Ok(missing);
        }
        if !state.has_expected_rules()? {
            missing.push(format!(
                "one of the rules of the nftables table inet {TABLE}"
            ));
        }
        let mut present = HashMap::new();
        for element in elements {
            let existing = match present.entry(element.set) {
                std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::hash_map::Entry::Vacant(entry) => {
                    entry.insert(state.elements(element.set)?)
                }
            };
            if !existing.iter().any(|other| other.serves(element)) {
                missing.push(format!("the nftables {element}"));
            }
        }
        Ok(missing)
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
        state.is_complete = false;
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

/// Those of `elements` that are not among `others`.
fn without(elements: &[Element], others: &[Element]) -> Vec<Element> {
    elements
        .iter()
        .filter(|element| !others.contains(element))
        .cloned()
        .collect()
}

impl TableState {
    /// Completes the table before a change: what the transaction of the change begins with, and
    /// the generation for which that is right.
    fn prepare(&mut self) -> Result<(Option<u32>, Vec<Request>), NftError> {
        if self.is_complete {
            return Ok((None, Vec::new()));
        }
        if !self.expected.is_empty() {
            self.repair(None)?;
            return Ok((None, Vec::new()));
        }
        // Usually there is no table yet, and the first change builds it.
        let generation = self.current_generation()?;
        let has_rules = self.has_expected_rules()?;
        let rules = if has_rules {
            Vec::new()
        } else {
            ruleset::build()
        };
        Ok((Some(generation), rules))
    }

    /// Removes and adds elements in one transaction.
    fn change(&mut self, removed: &[Element], added: &[Element]) -> Result<(), NftError> {
        for attempt in 0.. {
            let (generation, mut changes) = self.prepare()?;
            // If the host's tables change all the time, it is done without the check.
            let generation = generation.filter(|_| attempt < MAX_ATTEMPTS);
            let first_removal = changes.len();
            let removals = element::removals(removed);
            let first_addition = removals.len();
            let (of_elements, parts): (Vec<_>, Vec<_>) = removals
                .into_iter()
                .chain(element::additions(added))
                .unzip();
            changes.extend(of_elements);
            match batch::commit(&mut self.socket, generation, changes) {
                Ok(()) => {
                    self.is_complete = true;
                    break;
                }
                Err(BatchError::Stale) => self.is_complete = false,
                Err(BatchError::Refused(index, error)) => {
                    let is_taken = matches!(error.errno(), Some(Errno::EEXIST | Errno::EBUSY));
                    if let Some(elements) = index
                        .checked_sub(first_removal)
                        .filter(|index| is_taken && *index >= first_addition)
                        .and_then(|index| parts.get(index))
                    {
                        return Err(self.taken(elements).unwrap_or_else(|| error.into()));
                    }
                    self.is_complete = false;
                    // Somebody has just removed an element or the table.
                    if attempt < MAX_ATTEMPTS && error.errno() == Some(Errno::ENOENT) {
                        continue;
                    }
                    return Err(error.into());
                }
                Err(BatchError::Unknown(error)) => {
                    self.is_complete = false;
                    // All of it happened, or nothing.
                    let has_happened = match (added.first(), removed.first()) {
                        (Some(element), _) => {
                            self.holder(element).as_ref() == Some(&element.comment)
                        }
                        (None, Some(element)) => self.holder(element).is_none(),
                        (None, None) => true,
                    };
                    if has_happened {
                        break;
                    }
                    if attempt >= MAX_ATTEMPTS {
                        return Err(error.into());
                    }
                }
                Err(BatchError::Failed(error)) => {
                    self.is_complete = false;
                    return Err(error.into());
                }
            }
        }
        for element in removed {
            self.expected.remove(&key(element));
        }
        for element in added {
            self.expected.insert(key(element), element.clone());
        }
        Ok(())
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
            match batch::commit(&mut self.socket, None, changes) {
                Ok(()) => return Ok(()),
                Err(BatchError::Failed(error)) => return Err(error.into()),
                Err(BatchError::Stale) => {}
                Err(BatchError::Refused(_, error) | BatchError::Unknown(error)) => {
                    result = Err(error.into());
                }
            }
            // Somebody may have removed some of them already, and others may have been added.
            self.is_complete = false;
            elements.retain(|element| self.holder(element).as_ref() == Some(&element.comment));
        }
        result
    }

    /// Compares the whole table with what is expected, and restores what is missing, until the deadline
    /// if there is one.
    fn repair(&mut self, until: Option<Instant>) -> Result<Vec<String>, NftError> {
        for attempt in 0..=MAX_ATTEMPTS {
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(unrestored());
            }
            let generation = self.current_generation()?;
            let mut repaired = Vec::new();
            let mut changes = Vec::new();
            if !self.has_expected_rules()? {
                repaired.push(format!("the rules of the table inet {TABLE}"));
                changes.extend(ruleset::build());
            }
            let (altered, missing) = self.missing_elements()?;
            repaired.extend(missing.iter().map(|element| format!("the {element}")));
            changes.extend(
                element::removals(&altered)
                    .into_iter()
                    .map(|(request, _)| request),
            );
            // If the host's tables change all the time, the last attempt does without the check, unless
            // other processes change what is expected.
            let is_checked = attempt < MAX_ATTEMPTS || until.is_some();
            let generation = Some(generation).filter(|_| is_checked);
            match self.repair_from(generation, changes, &missing) {
                Ok(()) => {
                    self.is_complete = true;
                    return Ok(repaired);
                }
                Err(BatchError::Stale | BatchError::Unknown(_)) => {}
                Err(BatchError::Refused(_, error) | BatchError::Failed(error)) => {
                    return Err(error.into());
                }
            }
        }
        if until.is_some() {
            return Err(unrestored());
        }
        // Somebody removes what is restored all the time. The next change tries it again.
        Ok(Vec::new())
    }

    /// The elements of the kernel with another value than expected, and the expected elements that
    /// it does not have or has with another value.
    fn missing_elements(&mut self) -> Result<(Vec<Element>, Vec<Element>), NftError> {
        let mut altered = Vec::new();
        let mut missing = Vec::new();
        for set in Set::ALL {
            if !self.expected.keys().any(|(key_set, ..)| *key_set == set) {
                continue;
            }
            let mut existing: HashMap<Key, Element> = self
                .elements(set)?
                .into_iter()
                .map(|element| (key(&element), element))
                .collect();
            for (key, element) in self.expected.iter().filter(|(key, _)| key.0 == set) {
                match existing.remove(key) {
                    Some(present) if present.data == element.data => {}
                    present => {
                        altered.extend(present);
                        missing.push(element.clone());
                    }
                }
            }
        }
        Ok((altered, missing))
    }

    /// Makes `changes` and adds `missing`, in transactions that the kernel takes as a whole each.
    fn repair_from(
        &mut self,
        mut generation: Option<u32>,
        mut changes: Vec<Request>,
        missing: &[Element],
    ) -> Result<(), BatchError> {
        let mut parts = missing.chunks(MAX_ELEMENTS_AT_ONCE);
        loop {
            let part = parts.next();
            changes.extend(
                element::additions(part.unwrap_or_default())
                    .into_iter()
                    .map(|(request, _)| request),
            );
            if changes.is_empty() {
                return Ok(());
            }
            batch::commit(&mut self.socket, generation, std::mem::take(&mut changes))?;
            generation = generation.map(next_generation);
        }
    }
}

/// The error if the table could not be restored before a deadline.
fn unrestored() -> NftError {
    NetlinkError::Interrupted {
        action: format!("restore the table inet {TABLE} in time"),
    }
    .into()
}

fn next_generation(generation: u32) -> u32 {
    // The kernel does not use zero.
    generation.checked_add(1).unwrap_or(1)
}

#[cfg(test)]
mod root_tests;
