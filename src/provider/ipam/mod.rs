//! Host-local IP address management: leases of a network's addresses on this host.
//!
//! Guarantees:
//! - An address is leased to one container at a time, across all processes of one instance and
//!   across crashes: a lease is a file that is created exclusively (see `leases`).
//! - Addresses are leased in rotation, which goes on after a restart, so a released address is not
//!   reused at once.
//! - The time of an operation does not grow with the number of containers.
//! - `sweep` frees orphaned leases, which a crash between reservation and checkpoint leaves, and
//!   lease files that cannot be read, which count as leased until then.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

pub use self::leases::Holder;
use self::leases::{LeaseState, Leases, SweepLock};
pub use self::pool::{AddressRole, FamilyUsage};
use self::pool::{Pool, PoolSpec, address_of, number_of};
use self::positions::Positions;
use super::{AddressRequest, ProviderError, ProviderErrors, failed, refused};
use crate::config::BridgeNetwork;
use contrail_mesos_api::container::ContainerId;

mod leases;
mod pool;
mod positions;
mod ranges;
#[cfg(test)]
mod tests;

/// A lease of one of the networks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetworkLease {
    /// The network's name.
    pub network: String,
    /// The address.
    pub address: IpAddr,
    /// Who has it; none if the lease file cannot be read.
    pub holder: Option<Holder>,
}

/// How many addresses of one family of a network this host has leased, and has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressUse {
    /// Whether they are IPv6 addresses.
    pub is_v6: bool,
    /// Those that containers have.
    pub used: u128,
    /// Those that any container may get.
    pub free: u128,
}

/// Counts the addresses of a network, from the names of the lease files alone. Blocks on the file system.
pub fn address_use(
    state_dir: &Path,
    name: &str,
    network: &BridgeNetwork,
) -> io::Result<Vec<AddressUse>> {
    let leased = Leases::new(state_dir.join("networks").join(name)).addresses()?;
    let families = [false, true].into_iter();
    let count = |is_v6| {
        let of_family = || leased.iter().filter(move |one| one.is_ipv6() == is_v6);
        Some(AddressUse {
            is_v6,
            used: of_family().count() as u128,
            free: Pool::new(PoolSpec::new(network, is_v6)?).count_free(of_family().copied()),
        })
    };
    Ok(families.filter_map(count).collect())
}

/// The addresses of the networks of one host.
#[derive(Debug)]
pub struct Ipam {
    root: PathBuf,
    sweep_lock: SweepLock,
    state: Mutex<IpamState>,
}

#[derive(Debug)]
struct IpamState {
    positions: Positions,
    /// By network and whether the family is IPv6.
    pools: HashMap<(String, bool), Pool>,
    /// Holders of reservations that no other process can know of yet.
    unconfirmed: HashSet<Holder>,
    /// Keeps sweeps of other processes away while a reservation is not confirmed.
    sweep_guard: Option<File>,
}

impl IpamState {
    fn confirm(&mut self, holder: &Holder) {
        self.unconfirmed.remove(holder);
        if self.unconfirmed.is_empty() {
            self.sweep_guard = None;
        }
    }

    fn record_position(&mut self, network: &str) {
        let key = |is_v6| (network.to_owned(), is_v6);
        let positions = [false, true]
            .into_iter()
            .filter_map(|is_v6| {
                let position = self.pools.get(&key(is_v6)).map(Pool::position);
                position.or_else(|| self.positions.read(network, is_v6))
            })
            .collect::<Vec<_>>();
        self.positions.write(network, &positions);
    }

    fn restore_sweep_guard(&mut self, lock: &SweepLock) {
        if !self.unconfirmed.is_empty() {
            self.sweep_guard = lock.shared().ok();
        }
    }
}

/// Whether a lease belongs to `known`, to a container of `damaged`, or to an unconfirmed reservation.
pub(super) fn is_kept(
    lease: &NetworkLease,
    unconfirmed: &HashSet<Holder>,
    known: &HashSet<(String, IpAddr, Holder)>,
    damaged: &HashSet<ContainerId>,
) -> bool {
    lease.holder.as_ref().is_some_and(|holder| {
        unconfirmed.contains(holder)
            || damaged.contains(&holder.container)
            || known.contains(&(lease.network.clone(), lease.address, holder.clone()))
    })
}

fn family(is_v6: bool) -> &'static str {
    if is_v6 { "IPv6" } else { "IPv4" }
}

fn address_taken(network: &str, address: IpAddr, state: &LeaseState) -> ProviderError {
    let holder = match state {
        LeaseState::Held(holder) => {
            format!("container {} ({})", holder.container, holder.interface)
        }
        LeaseState::Free | LeaseState::Unreadable => "an unknown container".to_owned(),
    };
    refused(
        network,
        format!("the address {address} is taken by {holder}"),
    )
}

fn exhausted(network: &str, spec: &PoolSpec, is_v6: bool) -> ProviderError {
    ProviderError::Exhausted {
        network: network.to_owned(),
        family: family(is_v6),
        range: spec.to_string(),
    }
}

/// Every request that the network can never grant, regardless of its leases.
#[must_use]
pub fn invalid_requests(
    name: &str,
    network: &BridgeNetwork,
    requests: &[AddressRequest],
) -> ProviderErrors {
    let mut errors = ProviderErrors::new();
    let mut static_addresses = HashSet::new();
    for request in requests {
        let (is_v6, address) = match request {
            AddressRequest::Any => continue,
            AddressRequest::V4 => (false, None),
            AddressRequest::V6 => (true, None),
            AddressRequest::Static(address) => (address.is_ipv6(), Some(*address)),
        };
        let Some(spec) = PoolSpec::new(network, is_v6) else {
            let requested = address.map_or_else(
                || format!("an {} address", family(is_v6)),
                |address| format!("the address {address}"),
            );
            errors.push(refused(
                name,
                format!(
                    "{requested} was requested, but the network has only {}",
                    family(!is_v6)
                ),
            ));
            continue;
        };
        if let Some(address) = address {
            if !static_addresses.insert(address) {
                errors.push(refused(
                    name,
                    format!("the address {address} was requested twice"),
                ));
            }
            if let Some(reason) = spec.reason_unassignable(address) {
                errors.push(refused(name, reason));
            }
        }
    }
    errors
}

impl Ipam {
    /// Manages the leases below `<state_dir>/networks`. Changes nothing yet.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        let root = state_dir.join("networks");
        Self {
            sweep_lock: SweepLock::new(&root),
            root,
            state: Mutex::new(IpamState {
                positions: Positions::new(state_dir),
                pools: HashMap::new(),
                unconfirmed: HashSet::new(),
                sweep_guard: None,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, IpamState> {
        // A panic leaves at worst a pool that is behind the lease files, which is harmless.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leases(&self, network: &str) -> Leases {
        Leases::new(self.root.join(network))
    }

    /// Reserves all requested addresses for `holder`, or none. Blocks for a few file operations.
    pub fn reserve(
        &self,
        name: &str,
        network: &BridgeNetwork,
        holder: &Holder,
        requests: &[AddressRequest],
    ) -> Result<Vec<IpNet>, ProviderError> {
        if let Some(error) = invalid_requests(name, network, requests).into_iter().next() {
            return Err(error);
        }
        let mut state = self.state();
        if state.sweep_guard.is_none() {
            let guard = self.sweep_lock.shared().map_err(|error| {
                let action = format!(
                    "lock the leases in {} (is it full or read-only?)",
                    self.root.display()
                );
                failed(name, action, error)
            })?;
            state.sweep_guard = Some(guard);
        }
        state.unconfirmed.insert(holder.clone());
        let mut reserved = Vec::new();
        let result = self
            .check_free(&mut state, name, network, requests)
            .and_then(|()| {
                expand_requests(network, requests)
                    .into_iter()
                    .try_for_each(|(is_v6, address)| {
                        let net = self.lease(&mut state, name, network, is_v6, address, holder)?;
                        reserved.push(net);
                        Ok(())
                    })
            });
        if let Err(error) = result {
            for net in reserved {
                // The next sweep removes what cannot be removed now.
                let _ = self.free(&mut state, name, net.addr(), holder);
            }
            state.confirm(holder);
            self.leases(name).remove_directory_if_empty();
            return Err(error);
        }
        state.record_position(name);
        Ok(reserved)
    }

    /// Refuses requests for any address of a family that is used up, before a lease of the other one is
    /// written: a launch that waits for a block tries again and again, and others are notified of leases.
    fn check_free(
        &self,
        state: &mut IpamState,
        name: &str,
        network: &BridgeNetwork,
        requests: &[AddressRequest],
    ) -> Result<(), ProviderError> {
        for (is_v6, address) in expand_requests(network, requests) {
            let pool = self.pool(state, name, network, is_v6)?;
            if address.is_some() || pool.next_free().is_some() {
                continue;
            }
            // Other processes may have released addresses.
            let leases = self.leases(name).list().map_err(|error| {
                let action = format!("read the leases in {}", self.root.join(name).display());
                failed(name, action, error)
            })?;
            pool.reload(&leases);
            if pool.next_free().is_none() {
                return Err(exhausted(name, &pool.spec, is_v6));
            }
        }
        Ok(())
    }

    /// Leases `address`, or the next free one of the family.
    fn lease(
        &self,
        state: &mut IpamState,
        name: &str,
        network: &BridgeNetwork,
        is_v6: bool,
        address: Option<IpAddr>,
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
        if let Some(address) = address {
            return if leases.create(address, holder).map_err(unusable)? {
                // The rotation goes on where it was.
                pool.mark_taken(number_of(address));
                Ok(pool.spec.net(address))
            } else {
                let state = leases.state(address).map_err(unusable)?;
                Err(address_taken(name, address, &state))
            };
        }
        let mut is_reloaded = false;
        loop {
            let Some(candidate) = pool.next_free() else {
                // Other processes may have released addresses.
                if !is_reloaded {
                    is_reloaded = true;
                    pool.reload(&leases.list().map_err(unusable)?);
                    continue;
                }
                return Err(exhausted(name, &pool.spec, is_v6));
            };
            pool.mark_leased(candidate);
            let address = address_of(candidate, is_v6);
            let is_created = leases.create(address, holder).map_err(|error| {
                pool.mark_free(candidate);
                unusable(error)
            })?;
            if is_created {
                return Ok(pool.spec.net(address));
            }
        }
    }

    /// The pool of a network in its current configuration.
    fn pool<'a>(
        &self,
        state: &'a mut IpamState,
        name: &str,
        network: &BridgeNetwork,
        is_v6: bool,
    ) -> Result<&'a mut Pool, ProviderError> {
        let Some(spec) = PoolSpec::new(network, is_v6) else {
            return Err(refused(name, "the network lacks the address family"));
        };
        let key = (name.to_owned(), is_v6);
        if state.pools.get(&key).is_none_or(|pool| pool.spec != spec) {
            let leases = self.leases(name).list().map_err(|error| {
                let action = format!("read the leases in {}", self.root.join(name).display());
                failed(name, action, error)
            })?;
            for lease in leases.iter().filter(|lease| lease.holder.is_none()) {
                log::warn!(
                    "network {name:?}: cannot read the lease of {}; the address stays leased until the agent restarts",
                    lease.address
                );
            }
            let mut pool = Pool::new(spec);
            pool.reload(&leases);
            pool.resume(state.positions.read(name, is_v6), &leases);
            state.pools.insert(key.clone(), pool);
        }
        state
            .pools
            .get_mut(&key)
            .ok_or_else(|| refused(name, "the network was removed"))
    }

    /// The addresses that `reserve` would return. Reserves nothing.
    pub fn preview(
        &self,
        name: &str,
        network: &BridgeNetwork,
        requests: &[AddressRequest],
    ) -> Result<Vec<IpNet>, ProviderError> {
        let scratch = Self::new(self.root.parent().unwrap_or(&self.root));
        let mut state = scratch.state();
        expand_requests(network, requests)
            .into_iter()
            .map(|(is_v6, address)| {
                let pool = scratch.pool(&mut state, name, network, is_v6)?;
                if let Some(address) = address
                    && let Ok(state @ (LeaseState::Held(_) | LeaseState::Unreadable)) =
                        scratch.leases(name).state(address)
                {
                    return Err(address_taken(name, address, &state));
                }
                let number = address
                    .map(number_of)
                    .or_else(|| pool.next_free())
                    .ok_or_else(|| exhausted(name, &pool.spec, is_v6))?;
                pool.mark_leased(number);
                Ok(pool.spec.net(address_of(number, is_v6)))
            })
            .collect()
    }

    /// Confirms the reservations of `holder`: the container is attached, or its intent is durable,
    /// so other processes know of them.
    pub fn confirm(&self, holder: &Holder) {
        self.state().confirm(holder);
    }

    /// Releases those of `addresses` that `holder` still holds.
    pub fn release(
        &self,
        name: &str,
        addresses: &[IpNet],
        holder: &Holder,
    ) -> Result<(), ProviderErrors> {
        let mut state = self.state();
        let errors: ProviderErrors = addresses
            .iter()
            .filter_map(|net| self.free(&mut state, name, net.addr(), holder).err())
            .collect();
        state.confirm(holder);
        self.leases(name).remove_directory_if_empty();
        errors.into_result(())
    }

    fn free(
        &self,
        state: &mut IpamState,
        name: &str,
        address: IpAddr,
        holder: &Holder,
    ) -> Result<(), ProviderError> {
        let leases = self.leases(name);
        let fail = |error| failed(name, format!("release the address {address}"), error);
        match leases.state(address).map_err(fail)? {
            LeaseState::Held(current) if current == *holder => {
                leases.remove(address).map_err(fail)?;
            }
            // Released already, and possibly leased to another container.
            LeaseState::Held(_) => return Ok(()),
            LeaseState::Unreadable => {
                log::warn!(
                    "network {name:?}: cannot read the lease of {address}; it is kept until the agent restarts"
                );
                return Ok(());
            }
            LeaseState::Free => {}
        }
        if let Some(pool) = state.pools.get_mut(&(name.to_owned(), address.is_ipv6())) {
            pool.mark_free(number_of(address));
        }
        Ok(())
    }

    /// Ends every lease of a container, and returns the networks that it had leases of.
    pub fn remove_container(&self, container: &ContainerId) -> Result<Vec<String>, ProviderErrors> {
        let mut state = self.state();
        let mut errors = ProviderErrors::new();
        let mut networks = Vec::new();
        let names = self
            .networks()
            .map_err(|error| failed("*", format!("read {}", self.root.display()), error))?;
        for name in names {
            let leases = match self.leases(&name).list() {
                Ok(leases) => leases,
                Err(error) => {
                    errors.push(failed(&name, "read the leases", error));
                    continue;
                }
            };
            let mut has_leases = false;
            for lease in leases {
                let Some(holder) = lease.holder.filter(|holder| holder.container == *container)
                else {
                    continue;
                };
                has_leases = true;
                let freed = self.free(&mut state, &name, lease.address, &holder);
                errors.extend(freed.err());
            }
            if has_leases {
                self.leases(&name).remove_directory_if_empty();
                networks.push(name);
            }
        }
        errors.into_result(networks)
    }

    /// Leases addresses to a container that has them without a lease. Addresses that another
    /// container holds are left to it.
    pub fn hold(&self, name: &str, holder: &Holder, addresses: &[IpAddr]) -> io::Result<()> {
        let mut state = self.state();
        let leases = self.leases(name);
        for address in addresses {
            leases.create(*address, holder)?;
            if let Some(pool) = state.pools.get_mut(&(name.to_owned(), address.is_ipv6())) {
                pool.mark_leased(number_of(*address));
            }
        }
        Ok(())
    }

    /// Frees every lease that belongs neither to `known`, nor to a container of `damaged`, nor to
    /// an unconfirmed reservation of this process. `remove_users` first removes what uses their
    /// addresses. Waits a short time for other processes between reservation and attach; they
    /// wait while it runs.
    pub fn sweep(
        &self,
        known: &HashSet<(String, IpAddr, Holder)>,
        damaged: &HashSet<ContainerId>,
        remove_users: impl FnOnce() -> ProviderErrors,
    ) -> Result<(), ProviderErrors> {
        self.without_attaches(|state| {
            let mut errors = remove_users();
            let (leases, unreadable) = self.all_leases();
            errors.extend(unreadable);
            for lease in leases {
                if is_kept(&lease, &state.unconfirmed, known, damaged) {
                    continue;
                }
                match self.remove_orphan(&lease) {
                    Ok(()) => log::info!(
                        "network {:?}: freed the orphaned address {}",
                        lease.network,
                        lease.address
                    ),
                    Err(error) => errors.push(error),
                }
            }
            // An address in use whose lease was lost or could not be read must not be leased to
            // another container.
            for (name, address, holder) in known {
                if let Err(error) = self.leases(name).create(*address, holder) {
                    errors.push(failed(name, format!("lease {address} again"), error));
                }
            }
            errors.into_result(())
        })?
    }

    /// Runs `work` while no container of any process is between its reservation and its attach, except
    /// those of this process. Waits a short time for that; other processes wait while it runs.
    fn without_attaches<T>(
        &self,
        work: impl FnOnce(&mut IpamState) -> T,
    ) -> Result<T, ProviderErrors> {
        let mut state = self.state();
        // Reservations of this process are kept by holder; its own guard would block the sweep.
        state.sweep_guard = None;
        let exclusive = match self.sweep_lock.exclusive() {
            Ok(file) => file,
            Err(error) => {
                state.restore_sweep_guard(&self.sweep_lock);
                return Err(failed("*", "sweep the leases", error).into());
            }
        };
        let result = work(&mut state);
        state.pools.clear();
        drop(exclusive);
        state.restore_sweep_guard(&self.sweep_lock);
        Ok(result)
    }

    /// As [`Self::without_attaches`], for work that frees leases by [`Self::remove_orphan`]. It gets the
    /// holders of reservations that no checkpoint names yet, and must not call the other methods that
    /// reserve or release.
    pub(super) fn repair<T>(
        &self,
        work: impl FnOnce(&HashSet<Holder>) -> T,
    ) -> Result<T, ProviderErrors> {
        self.without_attaches(|state| work(&state.unconfirmed))
    }

    /// The holders of reservations of this process that no checkpoint names yet.
    pub(super) fn unconfirmed(&self) -> HashSet<Holder> {
        self.state().unconfirmed.clone()
    }

    /// The leases of all networks, and the networks whose leases cannot be read.
    pub(super) fn all_leases(&self) -> (Vec<NetworkLease>, ProviderErrors) {
        let mut errors = ProviderErrors::new();
        let networks = self.networks().unwrap_or_else(|error| {
            errors.push(failed("*", format!("read {}", self.root.display()), error));
            Vec::new()
        });
        let mut all = Vec::new();
        for network in networks {
            match self.leases(&network).list() {
                Ok(leases) => all.extend(leases.into_iter().map(|lease| NetworkLease {
                    network: network.clone(),
                    address: lease.address,
                    holder: lease.holder,
                })),
                Err(error) => errors.push(failed(&network, "read the leases", error)),
            }
        }
        (all, errors)
    }

    /// Frees an address that belongs to no container. The caller runs in [`Self::repair`], or has
    /// excluded attaches otherwise.
    pub(super) fn remove_orphan(&self, lease: &NetworkLease) -> Result<(), ProviderError> {
        let leases = self.leases(&lease.network);
        leases.remove(lease.address).map_err(|error| {
            let action = format!("free the orphaned address {}", lease.address);
            failed(&lease.network, action, error)
        })?;
        leases.remove_directory_if_empty();
        Ok(())
    }

    /// Leases an address to the container that has it, in place of what the lease says. The caller runs in
    /// [`Self::repair`].
    pub(super) fn restore(
        &self,
        network: &str,
        address: IpAddr,
        holder: &Holder,
    ) -> Result<(), ProviderError> {
        let leases = self.leases(network);
        leases
            .remove(address)
            .and_then(|()| leases.create(address, holder).map(drop))
            .map_err(|error| failed(network, format!("lease {address} again"), error))
    }

    /// Who holds an address of a network now; none if nobody does, or the lease cannot be read.
    pub(super) fn holder(&self, network: &str, address: IpAddr) -> Option<Holder> {
        match self.leases(network).state(address) {
            Ok(LeaseState::Held(holder)) => Some(holder),
            _ => None,
        }
    }

    /// How many addresses of a network are in use, a family each. Blocks on the file system.
    pub(super) fn usage(
        &self,
        name: &str,
        network: &BridgeNetwork,
    ) -> Result<Vec<FamilyUsage>, ProviderError> {
        let leases = self.leases(name).list();
        let leases = leases.map_err(|error| failed(name, "read the leases", error))?;
        let families = [false, true].into_iter();
        Ok(families
            .filter_map(|is_v6| Some(PoolSpec::new(network, is_v6)?.usage(&leases)))
            .collect())
    }

    /// What an address is to a network; none if it is in no subnet of it.
    pub(crate) fn role(network: &BridgeNetwork, address: IpAddr) -> Option<AddressRole> {
        PoolSpec::new(network, address.is_ipv6())?.role(address)
    }

    /// The leases of an address, of any network. Blocks on the file system.
    pub(super) fn leases_of(&self, address: IpAddr) -> Result<Vec<NetworkLease>, ProviderError> {
        let fail = |error| failed("*", format!("read {}", self.root.display()), error);
        let mut found = Vec::new();
        for network in self.networks().map_err(fail)? {
            let holder = match self.leases(&network).state(address).map_err(fail)? {
                LeaseState::Free => continue,
                LeaseState::Held(holder) => Some(holder),
                LeaseState::Unreadable => None,
            };
            found.push(NetworkLease {
                network,
                address,
                holder,
            });
        }
        Ok(found)
    }

    /// The networks that have a directory of leases.
    fn networks(&self) -> io::Result<Vec<String>> {
        match fs::read_dir(&self.root) {
            Ok(entries) => Ok(entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// Every address to lease: whether it is IPv6, and which one if that was requested.
fn expand_requests(
    network: &BridgeNetwork,
    requests: &[AddressRequest],
) -> Vec<(bool, Option<IpAddr>)> {
    let mut addresses = Vec::new();
    for request in requests {
        match request {
            AddressRequest::Any => {
                addresses.extend(network.v4.is_some().then_some((false, None)));
                addresses.extend(network.v6.is_some().then_some((true, None)));
            }
            AddressRequest::V4 => addresses.push((false, None)),
            AddressRequest::V6 => addresses.push((true, None)),
            AddressRequest::Static(address) => addresses.push((address.is_ipv6(), Some(*address))),
        }
    }
    addresses
}
