//! The addresses of named services: a pure state machine.
//!
//! Invariants:
//! - No address is given to two names, whatever the ranges were when it was given.
//! - A name keeps its addresses until it is released, also those of an earlier range.
//! - The first choice is a hash of the name, the same in every manager; the next free address follows.
//!   The first address of a range, that at which nodes answer DNS queries, and the last one of an IPv4
//!   range are never given.
//! - The names are divided into [`SHARDS`] records by a hash, so that a change writes a small part, and
//!   a record stays far below the limit of ZooKeeper, whatever names frameworks choose.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use contrail_mesos_api::cluster::{ServiceKey, Vip};
use contrail_mesos_api::text::{Quoted, excerpt};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::overlay::{Space, address4, address6, number};

/// The version of the layout of records.
const LAYOUT: u32 = 1;
/// How many records there are.
pub(super) const SHARDS: usize = 256;
/// How long a record may be, as an upper bound.
const MAX_SHARD_BYTES: usize = 256 << 10;
/// The length of an entry of a record beside its name, as an upper bound.
const ENTRY_BYTES: usize = 80;

/// The addresses of a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NameAddresses {
    /// The IPv4 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) v4: Option<Ipv4Addr>,
    /// The IPv6 address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) v6: Option<Ipv6Addr>,
}

impl NameAddresses {
    /// All of them.
    pub(super) fn all(self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.v4.map(IpAddr::V4);
        v4.into_iter().chain(self.v6.map(IpAddr::V6))
    }

    /// That of the family of a range.
    fn of(self, range: IpNet) -> Option<IpAddr> {
        match range {
            IpNet::V4(_) => self.v4.map(IpAddr::V4),
            IpNet::V6(_) => self.v6.map(IpAddr::V6),
        }
    }

    fn set(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.v4 = Some(address),
            IpAddr::V6(address) => self.v6 = Some(address),
        }
    }
}

/// A change of a name's addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NameChange {
    pub(super) name: String,
    pub(super) before: Option<NameAddresses>,
    pub(super) after: Option<NameAddresses>,
}

/// Why a name lacks an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Shortage {
    /// All addresses of the range are given.
    #[error(
        "all addresses of {0} are given: configure a larger range, or wait until the addresses of \
         services that are gone are free"
    )]
    UsedUp(IpNet),
    /// The record is full.
    #[error("too many names have the same hash as its name: choose another name")]
    ShardFull,
}

/// What is stored cannot be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record {record} cannot be right: {problem}")]
pub(super) struct InvalidRecord {
    record: String,
    problem: String,
}

/// How much of a range is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct RangeUsage {
    /// The range.
    pub range: IpNet,
    /// How many addresses of it names have, those of services that are gone for less than the grace
    /// included.
    pub used: u64,
    /// How many can be given.
    pub free: u64,
    /// How many names have an address of this family of an earlier range.
    pub earlier: u64,
}

/// The addresses of all names.
#[derive(Clone, Debug)]
pub(crate) struct AddressPool {
    ranges: Vec<IpNet>,
    shards: Vec<BTreeMap<String, NameAddresses>>,
    /// The length of the names of each shard.
    name_bytes: Vec<usize>,
    used4: Space,
    used6: Space,
}

/// A record: a part of the names.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShardRecord {
    layout: u32,
    names: BTreeMap<String, NameAddresses>,
}

/// The addresses of a range that can be given.
fn usable(range: IpNet) -> RangeInclusive<u128> {
    let last = match range {
        IpNet::V4(_) => number(range.broadcast()) - 1,
        IpNet::V6(_) => number(range.broadcast()),
    };
    // After the network's and that of DNS.
    number(range.network()) + 2..=last
}

fn digest(name: &str) -> [u8; 32] {
    Sha256::digest(name).into()
}

/// The shard of a name.
pub(super) fn shard_of(name: &str) -> usize {
    digest(name)[0].into()
}

/// The name of a shard's record.
pub(super) fn record_name(shard: usize) -> String {
    format!("names-{shard:02x}")
}

/// Whether it can be the name of a service.
fn is_name(name: &str) -> bool {
    let key = format!("{name}:1/tcp").parse::<ServiceKey>();
    key.is_ok_and(|key| matches!(key.vip, Vip::Name(_)))
}

impl AddressPool {
    /// Nothing is given.
    pub(super) fn new(ranges: &[IpNet]) -> Self {
        Self {
            ranges: ranges.to_vec(),
            shards: vec![BTreeMap::new(); SHARDS],
            name_bytes: vec![0; SHARDS],
            used4: Space::default(),
            used6: Space::default(),
        }
    }

    /// Reads the stored records, by name.
    pub(super) fn load(
        ranges: &[IpNet],
        records: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> Result<Self, InvalidRecord> {
        let mut pool = Self::new(ranges);
        for (record, bytes) in records {
            let invalid = |problem: String| InvalidRecord {
                record: Quoted(record.as_bytes()).to_string(),
                problem,
            };
            // It quotes the record.
            let parsed: ShardRecord = serde_json::from_slice(&bytes)
                .map_err(|error| invalid(excerpt(error.to_string().as_bytes())))?;
            if parsed.layout != LAYOUT {
                return Err(invalid(format!(
                    "its layout {} is not {LAYOUT}, the known one: a later version of the manager wrote it",
                    parsed.layout
                )));
            }
            for (name, addresses) in parsed.names {
                let shown = Quoted(name.as_bytes()).to_string();
                if !is_name(&name) || record != record_name(shard_of(&name)) {
                    return Err(invalid(format!("{shown} is not a name of it")));
                }
                if !pool.replace(&name, Some(addresses)) {
                    return Err(invalid(format!(
                        "another name has an address of {shown} as well"
                    )));
                }
            }
        }
        Ok(pool)
    }

    /// The addresses of a name; none if it has none.
    pub(super) fn addresses(&self, name: &str) -> Option<NameAddresses> {
        self.shards[shard_of(name)].get(name).copied()
    }

    /// All names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.shards.iter().flatten().map(|(name, _)| name.as_str())
    }

    /// Whether a name has this address.
    pub(super) fn is_given(&self, address: IpAddr) -> bool {
        let number = number(address);
        self.space(address).overlaps(&(number..=number))
    }

    /// Whether a name has an address of each family that has a range.
    pub(super) fn is_complete(&self, name: &str) -> bool {
        let addresses = self.addresses(name).unwrap_or_default();
        self.ranges
            .iter()
            .all(|range| addresses.of(*range).is_some())
    }

    /// Gives a name what it lacks, as far as it is there. Returns the change, if it is one, and why it
    /// still lacks something. What is no name gets nothing: its record could not be read again.
    pub(super) fn give(&mut self, name: &str) -> (Option<NameChange>, Vec<Shortage>) {
        if !is_name(name) {
            return (None, vec![]);
        }
        let before = self.addresses(name);
        let shard = shard_of(name);
        if before.is_none() && self.shard_bytes(shard) + name.len() + ENTRY_BYTES > MAX_SHARD_BYTES
        {
            return (None, vec![Shortage::ShardFull]);
        }
        let mut after = before.unwrap_or_default();
        let mut shortages = vec![];
        for range in &self.ranges {
            if after.of(*range).is_some() {
                continue;
            }
            match self.choose(name, *range) {
                Some(address) => after.set(address),
                None => shortages.push(Shortage::UsedUp(*range)),
            }
        }
        let after = (after != NameAddresses::default()).then_some(after);
        (self.change(name, after), shortages)
    }

    /// Gives the addresses of a name back. Returns the change, if it has any.
    pub(super) fn release(&mut self, name: &str) -> Option<NameChange> {
        self.change(name, None)
    }

    /// Undoes changes that could not be stored.
    pub(super) fn undo(&mut self, changes: Vec<NameChange>) {
        for change in changes.into_iter().rev() {
            self.replace(&change.name, change.before);
        }
    }

    /// The record of a shard; none if it has no names.
    pub(super) fn record(&self, shard: usize) -> Option<Vec<u8>> {
        let names = self.shards.get(shard).filter(|names| !names.is_empty())?;
        let record = ShardRecord {
            layout: LAYOUT,
            names: names.clone(),
        };
        // Serialization of addresses and strings cannot fail.
        Some(serde_json::to_vec(&record).unwrap_or_default())
    }

    /// How many names a shard has.
    pub(super) fn shard_len(&self, shard: usize) -> usize {
        self.shards.get(shard).map_or(0, BTreeMap::len)
    }

    /// How much of each range is used.
    pub(super) fn usage(&self) -> Vec<RangeUsage> {
        let usage = |range: &IpNet| {
            let of_family = self.shards.iter().flatten();
            let of_family = of_family.filter_map(|(_, addresses)| addresses.of(*range));
            let (mut used, mut earlier) = (0, 0);
            for address in of_family {
                if range.contains(&address) {
                    used += 1;
                } else {
                    earlier += 1;
                }
            }
            let usable = usable(*range);
            let total = (usable.end() - usable.start()).saturating_add(1);
            RangeUsage {
                range: *range,
                used,
                free: u64::try_from(total)
                    .unwrap_or(u64::MAX)
                    .saturating_sub(used),
                earlier,
            }
        };
        self.ranges.iter().map(usage).collect()
    }

    fn shard_bytes(&self, shard: usize) -> usize {
        self.name_bytes[shard] + self.shards[shard].len() * ENTRY_BYTES
    }

    /// The first free address at or after the hash of the name.
    fn choose(&self, name: &str, range: IpNet) -> Option<IpAddr> {
        let usable = usable(range);
        let digest = digest(name);
        let mut bytes = [0; 16];
        // The first byte is that of the shard.
        bytes.copy_from_slice(&digest[1..17]);
        let size = (usable.end() - usable.start()).saturating_add(1);
        let start = usable.start() + u128::from_be_bytes(bytes) % size;
        let space = match range {
            IpNet::V4(_) => &self.used4,
            IpNet::V6(_) => &self.used6,
        };
        let free = space
            .lowest_free(&(start..=*usable.end()), 1)
            .or_else(|| space.lowest_free(&usable, 1))?;
        match range {
            IpNet::V4(_) => address4(free).map(IpAddr::V4),
            IpNet::V6(_) => Some(IpAddr::V6(address6(free))),
        }
    }

    fn space(&self, address: IpAddr) -> &Space {
        match address {
            IpAddr::V4(_) => &self.used4,
            IpAddr::V6(_) => &self.used6,
        }
    }

    fn space_mut(&mut self, address: IpAddr) -> &mut Space {
        match address {
            IpAddr::V4(_) => &mut self.used4,
            IpAddr::V6(_) => &mut self.used6,
        }
    }

    fn change(&mut self, name: &str, after: Option<NameAddresses>) -> Option<NameChange> {
        let before = self.addresses(name);
        if before == after || !self.replace(name, after) {
            return None;
        }
        Some(NameChange {
            name: name.to_owned(),
            before,
            after,
        })
    }

    /// Replaces the addresses of a name. Returns false, and changes nothing, if another name has one of
    /// the new ones.
    fn replace(&mut self, name: &str, after: Option<NameAddresses>) -> bool {
        let shard = shard_of(name);
        let before = self.shards[shard].remove(name);
        for address in before.into_iter().flat_map(NameAddresses::all) {
            let number = number(address);
            self.space_mut(address).remove(&(number..=number));
        }
        let mut inserted = vec![];
        for address in after.into_iter().flat_map(NameAddresses::all) {
            let number = number(address);
            if self.space_mut(address).insert(&(number..=number)) {
                inserted.push(address);
                continue;
            }
            for address in inserted {
                let number = crate::overlay::number(address);
                self.space_mut(address).remove(&(number..=number));
            }
            if let Some(before) = before {
                for address in before.all() {
                    let number = crate::overlay::number(address);
                    self.space_mut(address).insert(&(number..=number));
                }
                self.shards[shard].insert(name.to_owned(), before);
            }
            return false;
        }
        match (before, after) {
            (None, Some(_)) => self.name_bytes[shard] += name.len(),
            (Some(_), None) => self.name_bytes[shard] -= name.len(),
            _ => {}
        }
        if let Some(after) = after {
            self.shards[shard].insert(name.to_owned(), after);
        }
        true
    }
}

#[cfg(test)]
mod tests;
