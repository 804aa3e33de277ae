//! The free addresses of one network and family, and which one is leased next.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::Serialize;

use super::leases::Lease;
use super::ranges::Ranges;
use crate::config::{AddressFamily, BridgeNetwork, Subnet};

/// How many subnets a message lists.
const MAX_LISTED: usize = 8;

/// An address as a number. Pools keep the families apart.
pub(super) fn number_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The inverse of `number_of`.
pub(super) fn address_of(number: u128, is_v6: bool) -> IpAddr {
    if is_v6 {
        Ipv6Addr::from_bits(number).into()
    } else {
        // A pool of IPv4 has no larger number.
        Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX)).into()
    }
}

/// One address family of a network in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PoolSpec {
    is_v6: bool,
    subnet: IpNet,
    gateway: IpAddr,
    first: u128,
    last: u128,
    reserved: Vec<(u128, u128)>,
    /// More subnets, each with the gateway in it.
    more: Vec<(IpNet, IpAddr)>,
}

impl PoolSpec {
    /// `None` if the network lacks the family.
    pub(super) fn new(network: &BridgeNetwork, is_v6: bool) -> Option<Self> {
        if is_v6 {
            let subnet = network.v6.as_ref()?;
            Some(Self::of_subnet(IpNet::V6(subnet.subnet), subnet))
        } else {
            let subnet = network.v4.as_ref()?;
            Some(Self::of_subnet(IpNet::V4(subnet.subnet), subnet))
        }
    }

    fn of_subnet<N: AddressFamily>(net: IpNet, subnet: &Subnet<N>) -> Self {
        let number = |address: N::Address| number_of(address.into());
        Self {
            is_v6: matches!(net, IpNet::V6(_)),
            subnet: net.trunc(),
            gateway: subnet.gateway.into(),
            first: number(subnet.first),
            last: number(subnet.last),
            reserved: subnet
                .reserved
                .iter()
                .map(|(first, last)| (number(*first), number(*last)))
                .collect(),
            more: subnet
                .gateways()
                .skip(1)
                .map(|net| (net.trunc(), net.addr()))
                .collect(),
        }
    }

    /// The subnets, each with its gateway.
    fn subnets(&self) -> impl Iterator<Item = (IpNet, IpAddr)> + '_ {
        std::iter::once((self.subnet, self.gateway)).chain(self.more.iter().copied())
    }

    /// An address with the prefix length of its subnet.
    pub(super) fn net(&self, address: IpAddr) -> IpNet {
        let mut subnets = self.subnets();
        let subnet = subnets.find(|(subnet, _)| subnet.contains(&address));
        let prefix = subnet.unwrap_or((self.subnet, self.gateway)).0.prefix_len();
        IpNet::new(address, prefix).unwrap_or_else(|_| address.into())
    }

    /// The first and the last address that can be leased, in which others may be between.
    fn bounds(&self) -> (u128, u128) {
        let last = |subnet: &IpNet| number_of(subnet.broadcast());
        let more = || self.more.iter().map(|(subnet, _)| subnet);
        let firsts = more().map(|subnet| number_of(subnet.network()));
        let lasts = more().map(last);
        (
            firsts.fold(self.first, u128::min),
            lasts.fold(self.last, u128::max),
        )
    }

    /// Why an address can never be leased to a container.
    pub(super) fn reason_unassignable(&self, address: IpAddr) -> Option<String> {
        let mut subnets = self.subnets();
        let Some((subnet, gateway)) = subnets.find(|(subnet, _)| subnet.contains(&address)) else {
            let subnet = self.subnet;
            return Some(if self.more.is_empty() {
                format!(
                    "the address {address} is outside the subnet {subnet}; request one inside, or none"
                )
            } else {
                format!(
                    "the address {address} is outside this host's blocks {}; request none: blocks move \
                     between hosts",
                    self.list()
                )
            });
        };
        if address == gateway {
            Some(format!("the address {address} is the gateway's"))
        } else if address == subnet.network() {
            Some(format!(
                "the address {address} is that of the subnet {subnet} itself"
            ))
        } else if !self.is_v6 && address == subnet.broadcast() {
            Some(format!(
                "the address {address} is the broadcast address of {subnet}"
            ))
        } else {
            None
        }
    }

    /// The addresses that can be leased without being requested.
    fn dynamic(&self) -> Ranges {
        let mut free = Ranges::new(self.first, self.last);
        for (first, last) in &self.reserved {
            free.remove(*first, *last);
        }
        for (subnet, _) in &self.more {
            free.add(number_of(subnet.network()), number_of(subnet.broadcast()));
        }
        for (subnet, gateway) in self.subnets() {
            for excluded in [gateway, subnet.network(), subnet.broadcast()] {
                // IPv6 has no broadcast address.
                if !self.is_v6 || excluded != subnet.broadcast() {
                    free.remove(number_of(excluded), number_of(excluded));
                }
            }
        }
        free
    }

    /// The subnets, for a person.
    fn list(&self) -> String {
        let subnets = self.subnets().take(MAX_LISTED);
        let mut listed: Vec<String> = subnets.map(|(subnet, _)| subnet.to_string()).collect();
        if self.more.len() >= MAX_LISTED {
            listed.push("…".to_owned());
        }
        listed.join(", ")
    }
}

impl fmt::Display for PoolSpec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.more.is_empty() {
            return formatter.write_str(&self.list());
        }
        write!(
            formatter,
            "{} ({} to {})",
            self.subnet,
            address_of(self.first, self.is_v6),
            address_of(self.last, self.is_v6)
        )
    }
}

/// How many addresses of one family of a network are in use on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FamilyUsage {
    /// The subnets, or this host's blocks, each with the gateway's address.
    pub subnets: Vec<IpNet>,
    /// How many addresses containers get without asking for one.
    pub total: u128,
    /// How many of these are free.
    pub free: u128,
    /// How many addresses containers have, also those that they asked for.
    pub used: usize,
    /// How many addresses the configuration reserves: containers get them only if they ask for them.
    pub reserved: u128,
}

/// What an address is to a network of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressRole {
    /// Containers get it without asking.
    Dynamic,
    /// Containers get it only if they ask for it: the configuration reserves it, or its range is without
    /// it.
    OnRequest,
    /// No container gets it: it is the gateway's, the subnet's own, or the broadcast address.
    Unassignable,
}

impl PoolSpec {
    /// How many of its addresses are in use, with these leases.
    pub(super) fn usage(self, leases: &[Lease]) -> FamilyUsage {
        let mut reserved = Ranges::default();
        for (first, last) in &self.reserved {
            reserved.add(*first, *last);
        }
        let gateways = self.subnets();
        let subnets = gateways
            .filter_map(|(subnet, gateway)| IpNet::new(gateway, subnet.prefix_len()).ok())
            .collect();
        let is_v6 = self.is_v6;
        let of_family = leases
            .iter()
            .filter(|lease| lease.address.is_ipv6() == is_v6);
        let used = of_family.count();
        let mut pool = Pool::new(self);
        pool.reload(leases);
        FamilyUsage {
            subnets,
            total: pool.dynamic.len(),
            free: pool.free.len(),
            used,
            reserved: reserved.len(),
        }
    }

    /// What an address is to the network; none if it is in no subnet of it.
    pub(super) fn role(&self, address: IpAddr) -> Option<AddressRole> {
        let is_inside = self.subnets().any(|(subnet, _)| subnet.contains(&address));
        if !is_inside {
            return None;
        }
        Some(if self.reason_unassignable(address).is_some() {
            AddressRole::Unassignable
        } else if self.dynamic().contains(number_of(address)) {
            AddressRole::Dynamic
        } else {
            AddressRole::OnRequest
        })
    }
}

/// The free addresses of one family of a network.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) spec: PoolSpec,
    dynamic: Ranges,
    free: Ranges,
    /// Where the search for the next free address begins.
    cursor: u128,
}

impl Pool {
    pub(super) fn new(spec: PoolSpec) -> Self {
        let dynamic = spec.dynamic();
        Self {
            free: dynamic.clone(),
            dynamic,
            cursor: spec.bounds().0,
            spec,
        }
    }

    /// Recomputes the free addresses from the lease files.
    pub(super) fn reload(&mut self, leases: &[Lease]) {
        self.free = self.dynamic.clone();
        for number in self.numbers(leases) {
            self.free.remove(number, number);
        }
    }

    /// How many addresses are free besides these.
    pub(super) fn count_free(&self, leased: impl IntoIterator<Item = IpAddr>) -> u128 {
        let mut free = self.dynamic.clone();
        for number in leased.into_iter().map(number_of) {
            free.remove(number, number);
        }
        free.len()
    }

    fn numbers(&self, leases: &[Lease]) -> Vec<u128> {
        leases
            .iter()
            .map(|lease| lease.address)
            .filter(|address| address.is_ipv6() == self.spec.is_v6)
            .map(number_of)
            .collect()
    }

    /// The address at which the search for the next free one begins.
    pub(super) fn position(&self) -> IpAddr {
        address_of(self.cursor, self.spec.is_v6)
    }

    /// Goes on from `position`, where an earlier process was, or else after the leased addresses.
    pub(super) fn resume(&mut self, position: Option<IpAddr>, leases: &[Lease]) {
        let (first, last) = self.spec.bounds();
        let last = last.saturating_add(1);
        let position = position
            .filter(|position| position.is_ipv6() == self.spec.is_v6)
            .map(number_of)
            .filter(|number| (first..=last).contains(number));
        let after_leases = || self.numbers(leases).into_iter().max()?.checked_add(1);
        if let Some(cursor) = position.or_else(after_leases) {
            self.cursor = cursor.max(first);
        }
    }

    /// The next free address in rotation.
    pub(super) fn next_free(&self) -> Option<u128> {
        self.free.next(self.cursor)
    }

    pub(super) fn mark_taken(&mut self, number: u128) {
        self.free.remove(number, number);
    }

    pub(super) fn mark_leased(&mut self, number: u128) {
        self.mark_taken(number);
        self.cursor = number.saturating_add(1);
    }

    pub(super) fn mark_free(&mut self, number: u128) {
        if self.dynamic.contains(number) {
            self.free.insert(number);
        }
    }
}
