//! Freeing what nobody stands behind.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::net::IpAddr;

use super::leases::{Holder, SweepLock};
use super::{Ipam, ProviderError, State, failed};
use contrail_mesos_api::container::ContainerId;

impl Ipam {
    /// Frees every lease that neither `known`, nor a container of `damaged`, nor a pending reservation
    /// of ours stands behind,
    /// after `first` has removed what used them. Waits a little for other processes that are
    /// between reservation and attach; while it runs they wait for it.
    pub fn sweep(
        &self,
        known: &HashSet<(String, IpAddr, Holder)>,
        damaged: &HashSet<ContainerId>,
        first: impl FnOnce() -> Vec<ProviderError>,
    ) -> Vec<ProviderError> {
        let mut state = self.lock();
        // Our own reservations are spared below by name; their lock would only be in our way.
        state.guard = None;
        let exclusive = match self.lock.exclusive() {
            Ok(file) => file,
            Err(error) => {
                state.guard_again(&self.lock);
                return vec![failed("*", "sweep the leases".to_owned(), error)];
            }
        };
        let mut errors = first();
        let networks = match fs::read_dir(&self.root) {
            Ok(entries) => entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .filter_map(|entry| entry.file_name().into_string().ok())
                .collect::<Vec<_>>(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let action = format!("read {}", self.root.display());
                errors.push(failed("*", action, error));
                Vec::new()
            }
        };
        for name in networks {
            let leases = self.leases(&name);
            let all = match leases.all() {
                Ok(all) => all,
                Err(error) => {
                    errors.push(failed(&name, "read the leases".to_owned(), error));
                    continue;
                }
            };
            for lease in all {
                let stays = match &lease.holder {
                    Some(holder) => {
                        state.pending.contains(holder)
                            || damaged.contains(&holder.container)
                            || known.contains(&(name.clone(), lease.address, holder.clone()))
                    }
                    None => false,
                };
                if stays {
                    continue;
                }
                if let Err(error) = leases.give_back(lease.address) {
                    let action = format!("free the orphaned address {}", lease.address);
                    errors.push(failed(&name, action, error));
                } else {
                    log::info!(
                        "network {name:?}: freed the orphaned address {}",
                        lease.address
                    );
                }
            }
            leases.tidy();
        }
        // What is in use but has lost its lease, or had one that cannot be read, must not be given
        // to another.
        for (name, address, holder) in known {
            if let Err(error) = self.leases(name).take(*address, holder) {
                errors.push(failed(name, format!("lease {address} again"), error));
            }
        }
        state.pools.clear();
        drop(exclusive);
        state.guard_again(&self.lock);
        errors
    }
}

impl State {
    fn guard_again(&mut self, lock: &SweepLock) {
        if !self.pending.is_empty() {
            self.guard = lock.shared().ok();
        }
    }
}
