//! The background task: retries pending teardowns, and registers containers again with a vRouter
//! agent that was restarted.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::{StreamExt as _, stream};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::driver::ContrailDriver;
use super::pending_teardown::{PendingTeardown, TeardownEntry};
use crate::net::links;
use crate::net::netlink::NetlinkSocket;
use crate::provider::{BoxError, blocking};

/// How often the vRouter agent is probed, and pending teardowns are retried.
const PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// The teardowns of other processes are loaded once per this many probes.
const PROBES_PER_LOAD: u32 = 5;
/// How many calls to one peer run at a time.
pub(super) const MAX_CONCURRENT_CALLS: usize = 16;
/// How long the vRouter agent may take to unregister a container.
const VROUTER_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a teardown waits for the vRouter agent to receive the container's configuration.
const CONFIGURATION_TIMEOUT: Duration = Duration::from_mins(1);
/// How long the managers may take to delete a container's objects.
const MANAGER_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until the provider is dropped.
pub(super) async fn run(driver: Weak<ContrailDriver>) {
    let mut probe_count: u32 = 0;
    let mut agent_is_away = false;
    loop {
        sleep(PROBE_INTERVAL).await;
        let Some(driver) = driver.upgrade() else {
            return;
        };
        probe_count = probe_count.wrapping_add(1);
        if probe_count.is_multiple_of(PROBES_PER_LOAD) {
            driver.load_pending_teardowns().await;
        }
        driver.retry_pending_teardowns().await;
        agent_is_away = driver.probe_agent(probe_count, agent_is_away).await;
    }
}

impl ContrailDriver {
    async fn load_pending_teardowns(self: &Arc<Self>) {
        let driver = Arc::clone(self);
        if let Err(error) = blocking(move || driver.pending_teardowns.load()).await {
            log::warn!("cannot load the pending teardowns: {error}");
        }
    }

    /// Retries every pending teardown except those that a detach is executing now.
    pub(super) async fn retry_pending_teardowns(&self) {
        stream::iter(self.pending_teardowns.vm_uuids())
            .map(|vm_uuid| async move {
                if self.containers().contains_key(&vm_uuid) {
                    return;
                }
                match self.retry_teardown(vm_uuid).await {
                    Ok(()) => log::info!("the teardown of container {vm_uuid} is complete"),
                    Err(error) => {
                        log::debug!("the teardown of container {vm_uuid} is pending: {error}");
                    }
                }
            })
            .buffer_unordered(MAX_CONCURRENT_CALLS)
            .collect::<()>()
            .await;
    }

    /// Executes the pending teardown of a virtual machine, if there is one.
    pub(super) async fn retry_teardown(&self, vm_uuid: Uuid) -> Result<(), BoxError> {
        let Some(entry) = self.pending_teardowns.get(vm_uuid) else {
            return Ok(());
        };
        let _executing = entry.lock.lock().await;
        // Another task may have completed it while this one waited for the lock.
        if self.pending_teardowns.get(vm_uuid).is_none() {
            return Ok(());
        }
        self.execute_teardown(&entry).await
    }

    /// Gives up the pending teardown of a virtual machine: removes what this host has of it, and returns
    /// what may be left elsewhere.
    pub(super) async fn abandon_teardown(&self, vm_uuid: Uuid) -> Result<Vec<String>, BoxError> {
        let Some(entry) = self.pending_teardowns.get(vm_uuid) else {
            return Ok(vec![]);
        };
        let _executing = entry.lock.lock().await;
        let teardown = &entry.teardown;
        // Links and files of another instance are that one's.
        if self.foreign_link(teardown).await?.is_none() {
            for link in &teardown.links {
                self.reaper.delete(self.owner.link_to_delete(link)).await?;
            }
            let files = self.files.clone();
            blocking(move || Ok::<_, BoxError>(files.remove(vm_uuid)?)).await?;
        }
        self.pending_teardowns.remove(vm_uuid).await?;
        Ok(teardown.remainder())
    }

    /// The order matters: the vRouter agent silently keeps ports whose configuration is gone, so
    /// it unregisters them before the manager deletes the objects.
    async fn execute_teardown(&self, entry: &TeardownEntry) -> Result<(), BoxError> {
        let teardown = &entry.teardown;
        let vm_uuid = teardown.vm_uuid;
        // The uuid derives from the container's id alone: the ports and objects are those of
        // another instance if a link is.
        if let Some(link) = self.foreign_link(teardown).await? {
            log::warn!(
                "the teardown of container {vm_uuid} is dropped: its interface {link} was made with another state directory, by which it is to be detached"
            );
            return self.pending_teardowns.remove(vm_uuid).await;
        }
        self.check_configuration(entry).await?;
        self.vrouter
            .unregister(vm_uuid, Instant::now() + VROUTER_TIMEOUT)
            .await?;
        for link in &teardown.links {
            self.reaper.delete(self.owner.link_to_delete(link)).await?;
        }
        let files = self.files.clone();
        blocking(move || Ok::<_, BoxError>(files.remove(vm_uuid)?)).await?;
        self.manager
            .delete(vm_uuid, Instant::now() + MANAGER_TIMEOUT)
            .await?;
        self.pending_teardowns.remove(vm_uuid).await
    }

    /// Fails while the vRouter agent lacks the configuration of a registered interface, for a
    /// while: it finds the ports to unregister by their configuration, which arrives some time
    /// after it has restarted.
    async fn check_configuration(&self, entry: &TeardownEntry) -> Result<(), BoxError> {
        let PendingTeardown {
            vm_uuid,
            registered,
            ..
        } = &entry.teardown;
        if registered.is_empty() {
            return Ok(());
        }
        let configured = self.vrouter.configuration(*vm_uuid).await?;
        let configured = configured.unwrap_or_default();
        let is_configured = |uuid: &Uuid| {
            configured
                .iter()
                .any(|interface| interface.interface == *uuid)
        };
        if registered.iter().all(is_configured) {
            return Ok(());
        }
        // It never arrives once the deletion of the objects has begun, as by an attempt before a kill.
        let deadline = Instant::now() + MANAGER_TIMEOUT;
        let address = self.options.virtual_router_address;
        let complete = self.manager.list(address, deadline).await?.containers;
        if !complete.iter().any(|ports| ports.machine == *vm_uuid) {
            return Ok(());
        }
        if entry.since.elapsed() < CONFIGURATION_TIMEOUT {
            return Err("the vRouter agent has not received the container's configuration, without which it unregisters nothing".into());
        }
        log::warn!(
            "the vRouter agent has not received the configuration of container {vm_uuid} for {} s; if the container was registered, the agent keeps its ports until it restarts",
            CONFIGURATION_TIMEOUT.as_secs()
        );
        Ok(())
    }

    /// The first link of a teardown that another instance made.
    async fn foreign_link(&self, teardown: &PendingTeardown) -> Result<Option<String>, BoxError> {
        let wanted: Vec<_> = teardown
            .links
            .iter()
            .map(|name| self.owner.link_to_delete(name))
            .collect();
        blocking(move || {
            let mut socket = NetlinkSocket::route()?;
            for link in wanted {
                let found = links::by_name(&mut socket, &link.name)?;
                let alias = found.map(|found| found.alias.unwrap_or_default());
                if alias.is_some_and(|alias| !alias.starts_with(&link.alias_prefix)) {
                    return Ok(Some(link.name));
                }
            }
            Ok(None)
        })
        .await
    }
}
