//! The addresses of one network and family: which are free, and which is next.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::leases::Lease;
use super::ranges::Ranges;
use super::{address, number};
use crate::config::{AddressFamily, BridgeNetwork, Subnet};

/// What the configuration says of a family of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spec {
    is_v6: bool,
    subnet: IpNet,
    pub(super) prefix: u8,
    gateway: IpAddr,
    first: u128,
    last: u128,
    reserved: Vec<(u128, u128)>,
}

impl Spec {
    /// `None` if the network lacks the family.
    pub(super) fn of(network: &BridgeNetwork, is_v6: bool) -> Option<Self> {
        if is_v6 {
            let subnet = network.v6.as_ref()?;
            Some(Self::new(IpNet::V6(subnet.subnet), subnet))
        } else {
            let subnet = network.v4.as_ref()?;
            Some(Self::new(IpNet::V4(subnet.subnet), subnet))
        }
    }

    fn new<N: AddressFamily>(net: IpNet, subnet: &Subnet<N>) -> Self {
        let number = |address: N::Address| number(address.into());
        Self {
            is_v6: matches!(net, IpNet::V6(_)),
            subnet: net.trunc(),
            prefix: net.prefix_len(),
            gateway: subnet.gateway.into(),
            first: number(subnet.first),
            last: number(subnet.last),
            reserved: subnet
                .reserved
                .iter()
                .map(|(first, last)| (number(*first), number(*last)))
                .collect(),
        }
    }

    /// Why nobody can have this address, whoever asks.
    pub(super) fn objection(&self, wanted: IpAddr) -> Option<String> {
        let subnet = self.subnet;
        if !subnet.contains(&wanted) {
            Some(format!(
                "the address {wanted} lies outside the subnet {subnet}; ask for one inside, or for none"
            ))
        } else if wanted == self.gateway {
            Some(format!("the address {wanted} is the gateway's"))
        } else if wanted == subnet.network() {
            Some(format!(
                "the address {wanted} is that of the subnet {subnet} itself"
            ))
        } else if !self.is_v6 && wanted == subnet.broadcast() {
            Some(format!(
                "the address {wanted} is the broadcast address of {subnet}"
            ))
        } else {
            None
        }
    }

    /// Every address that is given without being asked for.
    fn dynamic(&self) -> Ranges {
        let mut free = Ranges::of(self.first, self.last);
        for (first, last) in &self.reserved {
            free.remove(*first, *last);
        }
        for never in [self.gateway, self.subnet.network(), self.subnet.broadcast()] {
            // The last address of an IPv6 subnet is like any other.
            if !self.is_v6 || never != self.subnet.broadcast() {
                free.remove(number(never), number(never));
            }
        }
        free
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} ({} to {})",
            self.subnet,
            address(self.first, self.is_v6),
            address(self.last, self.is_v6)
        )
    }
}

/// The free addresses of one family of a network.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) spec: Spec,
    dynamic: Ranges,
    free: Ranges,
    /// Where the search for the next one begins.
    cursor: u128,
}

impl Pool {
    pub(super) fn new(spec: Spec) -> Self {
        let dynamic = spec.dynamic();
        Self {
            free: dynamic.clone(),
            dynamic,
            cursor: spec.first,
            spec,
        }
    }

    /// Believes the files.
    pub(super) fn reload(&mut self, leases: &[Lease]) {
        self.free = self.dynamic.clone();
        let is_v6 = self.spec.is_v6;
        for lease in leases
            .iter()
            .filter(|lease| lease.address.is_ipv6() == is_v6)
        {
            let taken = number(lease.address);
            self.free.remove(taken, taken);
            self.cursor = self.cursor.max(taken.saturating_add(1));
        }
    }

    /// The next address to be given.
    pub(super) fn candidate(&self) -> Option<u128> {
        self.free.next(self.cursor)
    }

    pub(super) fn taken(&mut self, number: u128) {
        self.free.remove(number, number);
        self.cursor = number.saturating_add(1);
    }

    pub(super) fn freed(&mut self, number: u128) {
        if self.dynamic.contains(number) {
            self.free.insert(number);
        }
    }
}
