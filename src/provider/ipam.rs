//! Host-local address management: who has which address of a network, on this host.
//!
//! Guarantees:
//! - An address is given to one container at a time, across all processes of one instance and
//!   across crashes: a lease is a file that is made exclusively (see `leases`).
//! - Addresses come in rotation, so that one that was just freed is not given at once again.
//! - Time does not grow with the number of containers.
//! - A lease that nobody stands behind any more, from a crash between reservation and checkpoint,
//!   is freed by `sweep`; so is a lease file that cannot be read, which counts as taken until
//!   then.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

pub use self::leases::Holder;
use self::leases::{Found, Leases, SweepLock};
use self::pool::{Pool, Spec};
use super::{AddressRequest, ProviderError};
use crate::config::BridgeNetwork;

mod leases;
mod pool;
mod ranges;
mod sweep;
#[cfg(test)]
mod tests;

/// The addresses of one host's networks.
#[derive(Debug)]
pub struct Ipam {
    root: PathBuf,
    lock: SweepLock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By network and family.
    pools: HashMap<(String, bool), Pool>,
    /// Reservations that nothing but this process knows of yet.
    pending: HashSet<Holder>,
    /// The lock against sweeps of other processes, while anything is pending.
    guard: Option<File>,
}

fn failed(network: &str, action: String, source: io::Error) -> ProviderError {
    ProviderError::Failed {
        network: network.to_owned(),
        action,
        source: source.into(),
    }
}

fn refused(network: &str, message: String) -> ProviderError {
    ProviderError::Refused {
        network: network.to_owned(),
        message,
    }
}

fn taken_by(network: &str, wanted: IpAddr, found: &Found) -> ProviderError {
    let by = match found {
        Found::Taken(by) => format!("container {} ({})", by.container, by.interface),
        _ => "a container that cannot be told".to_owned(),
    };
    refused(network, format!("the address {wanted} is taken by {by}"))
}

/// A number for an address; the families are kept apart by whoever uses it.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(number: u128, is_v6: bool) -> IpAddr {
    if is_v6 {
        Ipv6Addr::from_bits(number).into()
    } else {
        // A pool of IPv4 holds no larger number.
        Ipv4Addr::from_bits(u32::try_from(number).unwrap_or(u32::MAX)).into()
    }
}

/// Says of each request why it cannot be, without looking at who has what.
#[must_use]
pub fn check(
    name: &str,
    network: &BridgeNetwork,
    requests: &[AddressRequest],
) -> Vec<ProviderError> {
    let mut errors = Vec::new();
    let mut seen = HashSet::new();
    for request in requests {
        let (is_v6, wanted) = match request {
            AddressRequest::Any => continue,
            AddressRequest::V4 => (false, None),
            AddressRequest::V6 => (true, None),
            AddressRequest::Static(wanted) => (wanted.is_ipv6(), Some(*wanted)),
        };
        let Some(spec) = Spec::of(network, is_v6) else {
            let (asked, has) = if is_v6 {
                ("IPv6", "IPv4")
            } else {
                ("IPv4", "IPv6")
            };
            let what = wanted.map_or_else(
                || format!("an {asked} address"),
                |wanted| format!("the address {wanted}"),
            );
            errors.push(refused(
                name,
                format!("{what} was asked for, but the network has only {has}"),
            ));
            continue;
        };
        if let Some(wanted) = wanted {
            if !seen.insert(wanted) {
                errors.push(refused(
                    name,
                    format!("the address {wanted} was asked for twice"),
                ));
            }
            if let Some(problem) = spec.objection(wanted) {
                errors.push(refused(name, problem));
            }
        }
    }
    errors
}

impl Ipam {
    /// Leases below `<state_dir>/networks`. Touches nothing yet.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        let root = state_dir.join("networks");
        Self {
            lock: SweepLock::new(&root),
            root,
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves at worst a pool that is behind the files, which is allowed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leases(&self, network: &str) -> Leases {
        Leases::new(self.root.join(network))
    }

    /// Reserves addresses for `holder`, all that were asked for or none. Blocks for the time of a
    /// few file operations.
    pub fn reserve(
        &self,
        name: &str,
        network: &BridgeNetwork,
        holder: &Holder,
        requests: &[AddressRequest],
    ) -> Result<Vec<IpNet>, ProviderError> {
        if let Some(error) = check(name, network, requests).into_iter().next() {
            return Err(error);
        }
        let mut state = self.lock();
        if state.guard.is_none() {
            let guard = self.lock.shared().map_err(|error| {
                failed(
                    name,
                    format!(
                        "lock the leases in {} (is it full or read-only?)",
                        self.root.display()
                    ),
                    error,
                )
            })?;
            state.guard = Some(guard);
        }
        state.pending.insert(holder.clone());
        let mut given = Vec::new();
        let result = expand(network, requests)
            .into_iter()
            .try_for_each(|(is_v6, wanted)| {
                given.push(self.take(&mut state, name, network, is_v6, wanted, holder)?);
                Ok(())
            });
        if let Err(error) = result {
            for net in given {
                // What cannot be removed now, the next sweep removes.
                let _ = self.free(&mut state, name, net.addr(), holder);
            }
            state.settle(holder);
            self.leases(name).tidy();
            return Err(error);
        }
        Ok(given)
    }

    fn take(
        &self,
        state: &mut State,
        name: &str,
        network: &BridgeNetwork,
        is_v6: bool,
        wanted: Option<IpAddr>,
        holder: &Holder,
    ) -> Result<IpNet, ProviderError> {
        let leases = self.leases(name);
        let unusable = |error| {
            let action = format!(
                "write a lease in {} (is it full or read-only?)",
                self.root.join(name).display()
            );
            failed(name, action, error)
        };
        let pool = self.pool(state, name, network, is_v6)?;
        let prefix = pool.spec.prefix;
        let net = |address| {
            IpNet::new(address, prefix)
                .map_err(|error| unusable(io::Error::other(error.to_string())))
        };
        if let Some(wanted) = wanted {
            return if leases.take(wanted, holder).map_err(unusable)? {
                pool.taken(number(wanted));
                net(wanted)
            } else {
                let found = leases.holder(wanted).map_err(unusable)?;
                Err(taken_by(name, wanted, &found))
            };
        }
        let mut is_fresh = false;
        loop {
            let Some(candidate) = pool.candidate() else {
                // Other processes may have given addresses back.
                if !is_fresh {
                    is_fresh = true;
                    let all = leases.all().map_err(unusable)?;
                    pool.reload(&all);
                    continue;
                }
                return Err(ProviderError::Exhausted {
                    network: name.to_owned(),
                    family: if is_v6 { "IPv6" } else { "IPv4" },
                    range: pool.spec.to_string(),
                });
            };
            pool.taken(candidate);
            let candidate = address(candidate, is_v6);
            if leases.take(candidate, holder).map_err(|error| {
                pool.freed(number(candidate));
                unusable(error)
            })? {
                return net(candidate);
            }
        }
    }

    /// The pool of a network as it is configured now.
    fn pool<'a>(
        &self,
        state: &'a mut State,
        name: &str,
        network: &BridgeNetwork,
        is_v6: bool,
    ) -> Result<&'a mut Pool, ProviderError> {
        let Some(spec) = Spec::of(network, is_v6) else {
            return Err(refused(
                name,
                "the network lacks the address family".to_owned(),
            ));
        };
        let key = (name.to_owned(), is_v6);
        if state.pools.get(&key).is_none_or(|pool| pool.spec != spec) {
            let all = self.leases(name).all().map_err(|error| {
                let action = format!("read the leases in {}", self.root.join(name).display());
                failed(name, action, error)
            })?;
            for lease in all.iter().filter(|lease| lease.holder.is_none()) {
                log::warn!(
                    "network {name:?}: the lease of {} cannot be read; the address counts as taken until the next restart of the agent",
                    lease.address
                );
            }
            let mut pool = Pool::new(spec);
            pool.reload(&all);
            state.pools.insert(key.clone(), pool);
        }
        state
            .pools
            .get_mut(&key)
            .ok_or_else(|| refused(name, "the network was removed".to_owned()))
    }

    /// The addresses that `reserve` would give, reserving nothing.
    pub fn preview(
        &self,
        name: &str,
        network: &BridgeNetwork,
        requests: &[AddressRequest],
    ) -> Result<Vec<IpNet>, ProviderError> {
        let scratch = Self::new(self.root.parent().unwrap_or(&self.root));
        let mut state = scratch.lock();
        expand(network, requests)
            .into_iter()
            .map(|(is_v6, wanted)| {
                let pool = scratch.pool(&mut state, name, network, is_v6)?;
                if let Some(wanted) = wanted
                    && let Ok(found @ (Found::Taken(_) | Found::Unreadable)) =
                        scratch.leases(name).holder(wanted)
                {
                    return Err(taken_by(name, wanted, &found));
                }
                let next = wanted.map(number).or_else(|| pool.candidate());
                let Some(next) = next else {
                    return Err(ProviderError::Exhausted {
                        network: name.to_owned(),
                        family: if is_v6 { "IPv6" } else { "IPv4" },
                        range: pool.spec.to_string(),
                    });
                };
                pool.taken(next);
                IpNet::new(address(next, is_v6), pool.spec.prefix)
                    .map_err(|error| refused(name, error.to_string()))
            })
            .collect()
    }

    /// What `holder` reserved is known to others now: it is attached, or its intent is durable.
    pub fn settle(&self, holder: &Holder) {
        self.lock().settle(holder);
    }

    /// Gives addresses back that are `holder`'s. Those that are not any more are left alone.
    pub fn release(&self, name: &str, addresses: &[IpNet], holder: &Holder) -> Vec<ProviderError> {
        let mut state = self.lock();
        let errors = addresses
            .iter()
            .filter_map(|net| self.free(&mut state, name, net.addr(), holder).err())
            .collect();
        state.settle(holder);
        self.leases(name).tidy();
        errors
    }

    fn free(
        &self,
        state: &mut State,
        name: &str,
        address: IpAddr,
        holder: &Holder,
    ) -> Result<(), ProviderError> {
        let leases = self.leases(name);
        let action = || format!("give back the address {address}");
        match leases
            .holder(address)
            .map_err(|error| failed(name, action(), error))?
        {
            Found::Taken(found) if found == *holder => {
                leases
                    .give_back(address)
                    .map_err(|error| failed(name, action(), error))?;
            }
            // Given back already; perhaps somebody else's now.
            Found::Taken(_) => return Ok(()),
            Found::Unreadable => {
                log::warn!(
                    "network {name:?}: the lease of {address} cannot be read; it is kept until the next restart of the agent"
                );
                return Ok(());
            }
            Found::Free => {}
        }
        if let Some(pool) = state.pools.get_mut(&(name.to_owned(), address.is_ipv6())) {
            pool.freed(number(address));
        }
        Ok(())
    }
}

impl State {
    fn settle(&mut self, holder: &Holder) {
        self.pending.remove(holder);
        if self.pending.is_empty() {
            self.guard = None;
        }
    }
}

/// Family and wish of every address that is to be given.
fn expand(network: &BridgeNetwork, requests: &[AddressRequest]) -> Vec<(bool, Option<IpAddr>)> {
    let mut wishes = Vec::new();
    for request in requests {
        match request {
            AddressRequest::Any => {
                wishes.extend(network.v4.is_some().then_some((false, None)));
                wishes.extend(network.v6.is_some().then_some((true, None)));
            }
            AddressRequest::V4 => wishes.push((false, None)),
            AddressRequest::V6 => wishes.push((true, None)),
            AddressRequest::Static(wanted) => wishes.push((wanted.is_ipv6(), Some(*wanted))),
        }
    }
    wishes
}
