//! Attaching, adopting, detaching and sweeping interfaces. What the provider's threads share.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;

use super::chain::ChainRun;
use super::record::{InterfaceRecord, NamespaceId, PendingTeardown, Records};
use super::result::CniResult;
use super::versions::PluginVersions;
use super::{CniIntent, FailedDel, PluginEnvironment};
use crate::config::cni::plugin_type;
use crate::config::{CniNetwork, Config, PluginConfig};
use crate::net::link_watch::{LinkEvent, LinkWatch};
use crate::net::links::{self, Link};
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::netns::{self, Kind, OwnThread, handles};
use crate::provider::stray::SweepScope;
use crate::provider::{
    Attachment, BoxError, Intent, LostInterface, NetworkRequest, ProviderError, ProviderErrors,
    Statistics, blocking, counters, failed, refused,
};
use contrail_mesos_api::container::{ContainerId, Mac};

/// How many DELs of an interface fail before its teardown is given up.
const MAX_TEARDOWNS: u32 = 10;
/// How long the second DEL waits; each later one waits twice as long as the one before.
const FIRST_RETRY_DELAY: Duration = Duration::from_secs(5);

/// The outcome of a teardown.
enum Teardown {
    /// Nothing is left, or it was given up.
    Complete,
    /// It is retried.
    Pending { failures: u32 },
}

/// Who tears down an interface.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Attempt {
    First,
    /// Only if the teardown is still pending.
    Retry,
}

/// A container and one of its interfaces.
type InterfaceKey = (ContainerId, String);

fn key(intent: &Intent<CniIntent>) -> InterfaceKey {
    (intent.container.clone(), intent.interface.clone())
}

/// Attaches containers by running CNI plugins.
pub(super) struct CniDriver {
    environment: PluginEnvironment,
    versions: PluginVersions,
    netns_dir: PathBuf,
    pub(super) records: Records,
    /// The interfaces that are attached or being attached, with their watched host ends.
    interfaces: Mutex<HashMap<InterfaceKey, Option<String>>>,
    /// The interfaces whose teardown is retried by a task.
    retried: Mutex<HashSet<InterfaceKey>>,
}

impl CniDriver {
    pub(super) fn new(config: &Config, environment: PluginEnvironment) -> Self {
        Self {
            environment,
            versions: PluginVersions::default(),
            netns_dir: config.netns_dir.clone(),
            records: Records::new(&config.state_dir),
            interfaces: Mutex::default(),
            retried: Mutex::default(),
        }
    }

    fn interfaces(&self) -> MutexGuard<'_, HashMap<InterfaceKey, Option<String>>> {
        // Every critical section is a single map operation.
        self.interfaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn retried(&self) -> MutexGuard<'_, HashSet<InterfaceKey>> {
        // As above.
        self.retried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn track(&self, intent: &Intent<CniIntent>, host_end: Option<String>) {
        self.interfaces().insert(key(intent), host_end);
    }

    fn untrack(&self, intent: &Intent<CniIntent>) {
        self.interfaces().remove(&key(intent));
    }

    fn is_tracked(&self, key: &InterfaceKey) -> bool {
        self.interfaces().contains_key(key)
    }

    /// Stops watching the host end of an interface; returns false if it was not watched.
    fn stop_watching(&self, key: &InterfaceKey) -> bool {
        self.interfaces()
            .get_mut(key)
            .and_then(Option::take)
            .is_some()
    }

    pub(super) fn host_end(&self, intent: &Intent<CniIntent>) -> Option<String> {
        self.interfaces().get(&key(intent)).cloned().flatten()
    }

    fn host_ends(&self) -> Vec<(InterfaceKey, String)> {
        self.interfaces()
            .iter()
            .filter_map(|(key, host_end)| Some((key.clone(), host_end.clone()?)))
            .collect()
    }

    /// The configurations of a network's plugins, in a version of CNI that all of them support.
    pub(super) async fn choose_version(
        self: &Arc<Self>,
        request: &NetworkRequest,
        network: &CniNetwork,
    ) -> Result<Vec<PluginConfig>, ProviderError> {
        let name = &request.network.name;
        let chain = super::chain(name, network)?;
        if chain.versions.is_empty() {
            return Ok(chain.plugins.clone());
        }
        let (driver, chain) = (Arc::clone(self), chain.clone());
        let plugin_dirs = network.plugin_dirs.clone();
        netns::on_own_thread("cm-cni", move |_| {
            driver
                .versions
                .choose(&chain, &plugin_dirs, &driver.environment)
        })
        .await
        .map_err(|error| failed(name, "choose the version of CNI", error))?
        .map_err(|error| refused(name, error.to_string()))
    }

    pub(super) async fn attach(
        self: &Arc<Self>,
        intent: &Intent<CniIntent>,
        namespace: BorrowedFd<'_>,
    ) -> Result<Attachment, ProviderError> {
        let network = &intent.network;
        let namespace = namespace
            .try_clone_to_owned()
            .map_err(|error| failed(network, "keep the container's namespace open", error))?;
        // Before the record is written, so that a concurrent sweep does not remove it.
        self.track(intent, None);
        let (driver, owned_intent) = (Arc::clone(self), intent.clone());
        netns::on_own_thread("cm-cni", move |thread| {
            driver.attach_blocking(thread, &owned_intent, &namespace)
        })
        .await
        .map_err(|error| failed(network, "attach", error))?
    }

    /// Runs the plugins' ADD.
    fn attach_blocking(
        &self,
        mut thread: OwnThread,
        intent: &Intent<CniIntent>,
        namespace: &OwnedFd,
    ) -> Result<Attachment, ProviderError> {
        let network = &intent.network;
        let fail = |error: BoxError| failed(network, "attach", error);
        if let Some(record) = self.records.read(intent) {
            let container = &intent.container;
            if let Some(teardown) = record.teardown {
                return Err(refused(
                    network,
                    format!(
                        "an earlier container {container} is not completely detached: {}; its \
                         teardown is retried, use another id until then",
                        teardown.error
                    ),
                ));
            }
            if record.result.is_some() {
                return Err(refused(
                    network,
                    format!("container {container} is attached already; detach it first"),
                ));
            }
        }
        let id = NamespaceId::of(namespace).map_err(|error| fail(error.into()))?;
        let mut record = InterfaceRecord {
            namespace: Some(id),
            ..InterfaceRecord::new(intent)
        };
        let write_record = |record: &InterfaceRecord| {
            self.records
                .write(record)
                .map_err(|error| fail(error.into()))
        };
        write_record(&record)?;
        let path = self.handle_of(intent, namespace, id).map_err(fail)?;
        let json = self.chain_run(intent).add(&path).map_err(fail)?;
        let parsed = CniResult::parse(&json, &intent.interface);
        record.result = Some(json);
        let result = match parsed {
            Ok(result) => result,
            Err(error) => {
                write_record(&record)?;
                return Err(fail(error.into()));
            }
        };
        record.host_interface = find_veth(&result.host_interfaces).map_err(fail)?;
        let link = enter_and_find(&mut thread, namespace, &intent.interface).map_err(fail)?;
        record.is_inside = link.is_some();
        write_record(&record)?;
        let missing = intent
            .provider
            .requested_addresses
            .iter()
            .find(|requested| !result.addresses.iter().any(|net| net.addr() == **requested));
        if let Some(address) = missing {
            return Err(refused(
                network,
                format!(
                    "its plugins did not assign the requested address {address}: they must have \
                     the capability \"ips\", or support args.cni.ips"
                ),
            ));
        }
        self.track(intent, record.host_interface);
        let link_mac = link.and_then(|link| link.mac.try_into().ok()).map(Mac);
        Ok(Attachment {
            addresses: result.addresses,
            gateways: result.gateways,
            mac: link_mac.or(result.mac).unwrap_or(Mac([0; 6])),
            dns: if result.dns.nameservers.is_empty() {
                intent.dns.clone()
            } else {
                result.dns
            },
        })
    }

    /// Detaches an interface. Fails only if not even a pending teardown can be written.
    pub(super) async fn detach(
        self: &Arc<Self>,
        intent: &Intent<CniIntent>,
    ) -> Result<(), ProviderErrors> {
        self.untrack(intent);
        if let Teardown::Pending { failures } = self.tear_down(intent, Attempt::First).await? {
            self.retry(intent.clone(), failures);
        }
        Ok(())
    }

    /// The interfaces whose DEL failed, by container and interface. Blocks on the file system.
    pub(super) fn failed_dels(&self) -> Vec<FailedDel> {
        let records = self.records.all().unwrap_or_else(|error| {
            log::warn!("cannot read the records of CNI networks: {error}");
            vec![]
        });
        let failed = |record: InterfaceRecord| {
            Some(FailedDel {
                error: record.teardown?.error,
                intent: record.intent,
            })
        };
        // Damaged records are reported by the sweep.
        let mut all: Vec<_> = records
            .into_iter()
            .filter_map(Result::ok)
            .filter_map(failed)
            .collect();
        all.sort_by_key(|del| key(&del.intent));
        all
    }

    /// Runs the DEL of an interface whose DEL failed before, with an error if it fails again.
    pub(super) async fn retry_now(
        self: &Arc<Self>,
        intent: &Intent<CniIntent>,
    ) -> Result<(), ProviderErrors> {
        match self.tear_down(intent, Attempt::Retry).await? {
            Teardown::Complete => Ok(()),
            Teardown::Pending { .. } => {
                let record = self.records.read(intent);
                let error = record.and_then(|record| record.teardown);
                let error = error.map_or_else(String::new, |teardown| teardown.error);
                Err(failed(&intent.network, "detach", error).into())
            }
        }
    }

    /// Gives up a DEL that failed before: forgets the interface, and returns what may be left of it.
    pub(super) async fn abandon(
        self: &Arc<Self>,
        intent: &Intent<CniIntent>,
    ) -> Result<Vec<String>, ProviderError> {
        let (driver, owned_intent) = (Arc::clone(self), intent.clone());
        blocking(move || {
            let record = driver.records.read(&owned_intent);
            let Some(record) = record.filter(|record| record.teardown.is_some()) else {
                // Someone else has completed it.
                return Ok(vec![]);
            };
            driver.forget(&record)?;
            Ok::<_, BoxError>(vec![format!("by its CNI plugins: {}", remainder(&record))])
        })
        .await
        .map_err(|error| failed(&intent.network, "give up the teardown", error))
    }

    /// Gives up the records of a container that cannot be read, and returns what may be left. Blocks.
    pub(super) fn abandon_records(
        &self,
        container: &ContainerId,
    ) -> Result<Vec<String>, ProviderError> {
        let removed = self.records.remove_damaged(container);
        let removed = removed.map_err(|error| failed("*", "remove damaged records", error))?;
        let sentence = |path: PathBuf| {
            format!(
                "by CNI plugins: the record {} could not be read, and is removed",
                path.display()
            )
        };
        Ok(removed.into_iter().map(sentence).collect())
    }

    async fn tear_down(
        self: &Arc<Self>,
        intent: &Intent<CniIntent>,
        attempt: Attempt,
    ) -> Result<Teardown, ProviderErrors> {
        let (driver, owned_intent) = (Arc::clone(self), intent.clone());
        // A thread of its own, so that a plugin that hangs delays no other.
        netns::on_own_thread("cm-cni", move |_| {
            driver.tear_down_blocking(&owned_intent, attempt)
        })
        .await
        .map_err(|error| failed(&intent.network, "detach", error))?
    }

    /// Runs the plugins' DEL, whether or not an ADD completed.
    fn tear_down_blocking(
        &self,
        intent: &Intent<CniIntent>,
        attempt: Attempt,
    ) -> Result<Teardown, ProviderErrors> {
        let record = self.records.read(intent);
        let is_pending = record
            .as_ref()
            .is_some_and(|record| record.teardown.is_some());
        if attempt == Attempt::Retry && !is_pending {
            // Someone else has completed it.
            return Ok(Teardown::Complete);
        }
        let namespace = record
            .as_ref()
            .and_then(|record| self.namespace_path(intent, record.namespace?))
            .unwrap_or_default();
        let result = record.as_ref().and_then(|record| record.result.as_ref());
        let fail = |error: BoxError| failed(&intent.network, "detach", error);
        let errors = self.chain_run(intent).del(&namespace, result);
        let mut record = record.unwrap_or_else(|| InterfaceRecord::new(intent));
        if errors.is_empty() {
            self.forget(&record)
                .map_err(|error| fail(BoxError::from(error)))?;
            return Ok(Teardown::Complete);
        }
        let error: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let error = error.join("; ");
        let failures = record
            .teardown
            .as_ref()
            .map_or(1, |teardown| teardown.failures.saturating_add(1));
        let container = &intent.container;
        let what = remainder(&record);
        if failures >= MAX_TEARDOWNS {
            log::error!(
                container:% = container;
                "gave up the teardown of {what} after {failures} failures, remove by hand what its \
                 plugins left: {error}"
            );
            self.forget(&record)
                .map_err(|error| fail(BoxError::from(error)))?;
            return Ok(Teardown::Complete);
        }
        record.teardown = Some(PendingTeardown {
            failures,
            error: error.clone(),
        });
        if let Err(write_error) = self.records.write(&record) {
            let write_error = format!("cannot note that its teardown is pending: {write_error}");
            return Err(errors
                .into_iter()
                .chain([BoxError::from(write_error)])
                .map(fail)
                .collect());
        }
        log::warn!(
            container:% = container;
            "the teardown of {what} is pending, failure {failures} of {MAX_TEARDOWNS}: {error}"
        );
        Ok(Teardown::Pending { failures })
    }

    /// Retries a teardown in the background until it succeeds or is given up.
    fn retry(self: &Arc<Self>, intent: Intent<CniIntent>, mut failures: u32) {
        let key = key(&intent);
        if !self.retried().insert(key.clone()) {
            return;
        }
        let driver = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(retry_delay(failures)).await;
                let Some(driver) = driver.upgrade() else {
                    return;
                };
                match driver.tear_down(&intent, Attempt::Retry).await {
                    Ok(Teardown::Pending { failures: all }) => failures = all,
                    Ok(Teardown::Complete) => {
                        driver.retried().remove(&key);
                        return;
                    }
                    // For example a full disk.
                    Err(error) => {
                        log::error!(container:% = intent.container, error:% = error; "detach failed");
                    }
                }
            }
        });
    }

    /// Removes the record of an interface and, with the container's last one, the handle that the
    /// provider made.
    fn forget(&self, record: &InterfaceRecord) -> Result<(), BoxError> {
        let intent = &record.intent;
        let container = &intent.container;
        self.records.remove(intent)?;
        if !self.records.has_only_handle(container)? {
            return Ok(());
        }
        let handle = self.namespace_handle(intent);
        if record.namespace.is_some_and(|id| is_namespace(&handle, id)) {
            handles::unpin(&handle)?;
        }
        self.records.disclaim_handle(container)?;
        Ok(())
    }

    fn chain_run<'a>(&'a self, intent: &'a Intent<CniIntent>) -> ChainRun<'a> {
        ChainRun {
            intent,
            environment: &self.environment,
            records: &self.records,
        }
    }

    /// The handle of the container's namespace, which the isolator creates.
    fn namespace_handle(&self, intent: &Intent<CniIntent>) -> PathBuf {
        self.netns_dir.join(intent.container.file_name())
    }

    /// A path of the container's namespace, which every process of the host can open as long as the
    /// container is attached. It is the container's handle, which the isolator pins at the same
    /// time, or for a namespace of an operator one that the provider pins.
    fn handle_of(
        &self,
        intent: &Intent<CniIntent>,
        namespace: &OwnedFd,
        id: NamespaceId,
    ) -> Result<PathBuf, BoxError> {
        let handle = self.namespace_handle(intent);
        if is_namespace(&handle, id) {
            return Ok(handle);
        }
        if handles::is_handle(&handle) {
            // An operator's, who has given it the name of another container.
            return self.namespace_path(intent, id).ok_or_else(|| {
                format!(
                    "{} is the handle of another namespace; use another id",
                    handle.display()
                )
                .into()
            });
        }
        self.records.claim_handle(intent)?;
        handles::prepare_and_pin(namespace, &handle)?;
        Ok(handle)
    }

    /// A path of the namespace `id`: the container's handle, or one that the operator made. Never
    /// a path of another namespace.
    fn namespace_path(&self, intent: &Intent<CniIntent>, id: NamespaceId) -> Option<PathBuf> {
        let handle = self.namespace_handle(intent);
        if is_namespace(&handle, id) {
            return Some(handle);
        }
        fs::read_dir(&self.netns_dir)
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| is_namespace(path, id))
    }

    /// Takes over an interface after a restart. It must still exist, as far as that can be
    /// determined.
    pub(super) async fn adopt(
        self: &Arc<Self>,
        intent: &Intent<CniIntent>,
    ) -> Result<(), ProviderError> {
        let network = &intent.network;
        let fail = |error: BoxError| failed(network, "look for the container's interface", error);
        let (driver, owned_intent) = (Arc::clone(self), intent.clone());
        let record = blocking(move || Ok(driver.records.read(&owned_intent)))
            .await
            .map_err(fail)?;
        let Some(record) = record else {
            self.track(intent, None);
            return Ok(());
        };
        if let Some(name) = record.host_interface {
            if find_host_link(name.clone()).await.map_err(fail)?.is_none() {
                return Err(refused(
                    network,
                    format!("the host end {name} of {} is gone", intent.interface),
                ));
            }
            self.track(intent, Some(name));
            return Ok(());
        }
        if record.is_inside {
            let found = self.find_container_link(intent).await.map_err(fail)?;
            if matches!(found, ContainerEnd::Missing) {
                return Err(refused(
                    network,
                    format!(
                        "the container's namespace no longer has the interface {}",
                        intent.interface
                    ),
                ));
            }
        }
        self.track(intent, None);
        Ok(())
    }

    /// Looks for the interface in the container's namespace.
    async fn find_container_link(
        self: &Arc<Self>,
        intent: &Intent<CniIntent>,
    ) -> Result<ContainerEnd, BoxError> {
        let (driver, intent) = (Arc::clone(self), intent.clone());
        netns::on_own_thread("cm-cni", move |mut thread| {
            let Some(path) = driver
                .records
                .read(&intent)
                .and_then(|record| driver.namespace_path(&intent, record.namespace?))
            else {
                return Ok(ContainerEnd::UnknownNamespace);
            };
            let namespace = netns::of_path(&path)?;
            let link = enter_and_find(&mut thread, &namespace, &intent.interface)?;
            Ok(link.map_or(ContainerEnd::Missing, |link| {
                ContainerEnd::Present(Box::new(link))
            }))
        })
        .await?
    }

    pub(super) async fn statistics(
        self: &Arc<Self>,
        intent: &Intent<CniIntent>,
    ) -> Result<Statistics, ProviderError> {
        if let Some(host_end) = self.host_end(intent) {
            return counters::of_host_end(&intent.network, host_end).await;
        }
        let fail = |error: BoxError| {
            let action = format!("read the counters of {}", intent.interface);
            failed(&intent.network, action, error)
        };
        match self.find_container_link(intent).await.map_err(fail)? {
            ContainerEnd::Present(link) => Ok(counters::of_container_end(&link)),
            ContainerEnd::Missing | ContainerEnd::UnknownNamespace => {
                Err(fail("the interface does not exist".into()))
            }
        }
    }

    /// Detaches the interfaces of a container that have a record.
    pub(super) async fn remove_container(
        self: &Arc<Self>,
        container: &ContainerId,
    ) -> Result<(), ProviderErrors> {
        let driver = Arc::clone(self);
        let records = blocking(move || driver.records.all())
            .await
            .map_err(|error| failed("*", "read the records of CNI interfaces", error))?;
        let mut errors = ProviderErrors::new();
        for record in records.into_iter().flatten() {
            if record.intent.container == *container {
                let detached = self.detach(&record.intent).await;
                errors.extend(detached.err().into_iter().flatten());
            }
        }
        errors.into_result(())
    }

    /// The records that belong to no container of the scope, which is read after they were listed. Those
    /// whose teardown is pending are left out. Blocks.
    pub(super) fn strays(
        &self,
        scope: impl FnOnce() -> Result<SweepScope<CniIntent>, ProviderErrors>,
    ) -> Result<Vec<CniStray>, ProviderErrors> {
        let listed = self.records.all();
        let records =
            listed.map_err(|error| failed("*", "read the records of CNI interfaces", error))?;
        let scope = scope()?;
        let kept: HashSet<_> = scope.intents.iter().map(key).collect();
        let to_stray = |record: Result<InterfaceRecord, PathBuf>| match record {
            Ok(record) if record.teardown.is_some() => None,
            Ok(record) => {
                let key = key(&record.intent);
                let is_kept = kept.contains(&key)
                    || scope.others.contains(&record.intent.container)
                    || self.is_tracked(&key)
                    || self.retried().contains(&key);
                (!is_kept).then(|| CniStray::Record(Box::new(record.intent)))
            }
            Err(path) => Some(CniStray::Unreadable(path)),
        };
        Ok(records.into_iter().filter_map(to_stray).collect())
    }

    /// Runs the plugins' DEL for those of `strays` that still belong to no container of the scope.
    pub(super) async fn remove_strays(
        self: &Arc<Self>,
        mut strays: Vec<CniStray>,
        scope: impl FnOnce() -> Result<SweepScope<CniIntent>, ProviderErrors> + Send + 'static,
    ) -> Result<(), ProviderErrors> {
        let driver = Arc::clone(self);
        let current = blocking(move || driver.strays(scope)).await?;
        strays.retain(|stray| current.contains(stray));
        let mut errors = ProviderErrors::new();
        for stray in strays {
            if let CniStray::Record(intent) = stray {
                log::info!(
                    container:% = intent.container;
                    "detaching {} of network {:?}, which belongs to no container of this host",
                    intent.interface,
                    intent.network
                );
                errors.extend(self.detach(&intent).await.err().into_iter().flatten());
            }
        }
        errors.into_result(())
    }

    /// Detaches the interfaces that have a record and belong to no container.
    pub(super) async fn sweep(
        self: &Arc<Self>,
        known: &[Intent<CniIntent>],
        damaged: &HashSet<ContainerId>,
    ) -> Result<(), ProviderErrors> {
        let driver = Arc::clone(self);
        let records = blocking(move || driver.records.all())
            .await
            .map_err(|error| failed("*", "read the records of CNI interfaces", error))?;
        let kept: HashSet<_> = known.iter().map(key).collect();
        let mut errors = ProviderErrors::new();
        for record in records {
            let (intent, is_pending) = match record {
                Ok(record) => (record.intent, record.teardown.is_some()),
                Err(path) => {
                    log::warn!("cannot read {}", path.display());
                    continue;
                }
            };
            let key = key(&intent);
            if kept.contains(&key)
                || damaged.contains(&intent.container)
                || self.is_tracked(&key)
                || self.retried().contains(&key)
            {
                continue;
            }
            if !is_pending {
                log::warn!(
                    "detaching {} of network {:?} from {}, which is no container of this host",
                    intent.interface,
                    intent.network,
                    intent.container
                );
            }
            errors.extend(self.detach(&intent).await.err().into_iter().flatten());
        }
        errors.into_result(())
    }
}

/// A record that belongs to no container.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::provider) enum CniStray {
    /// Of this interface.
    Record(Box<Intent<CniIntent>>),
    /// It cannot be read: what its plugins made is not known.
    Unreadable(PathBuf),
}

/// A container's own end of an interface.
enum ContainerEnd {
    Present(Box<Link>),
    Missing,
    /// The container's namespace cannot be found.
    UnknownNamespace,
}

/// Reports watched host ends that are deleted.
pub(super) fn watch(
    driver: Weak<CniDriver>,
    lost: UnboundedSender<LostInterface>,
) -> Result<LinkWatch, NetlinkError> {
    let mut socket = NetlinkSocket::route()?;
    LinkWatch::start(move |event| {
        let Some(driver) = driver.upgrade() else {
            return;
        };
        for (key, host_end) in driver.host_ends() {
            let is_concerned = match &event {
                LinkEvent::Deleted(deleted) => *deleted == host_end,
                LinkEvent::Missed => true,
            };
            if is_concerned
                && matches!(links::by_name(&mut socket, &host_end), Ok(None))
                && driver.stop_watching(&key)
            {
                let (container, interface) = key;
                // Fails only while the agent shuts down.
                let _ = lost.send(LostInterface {
                    container,
                    message: format!(
                        "the interface {interface} is gone: it or its host end {host_end} was \
                         deleted, or its network namespace ended"
                    ),
                });
            }
        }
    })
}

async fn find_host_link(name: String) -> Result<Option<Link>, BoxError> {
    blocking(move || {
        let mut socket = NetlinkSocket::route()?;
        Ok(links::by_name(&mut socket, &name)?)
    })
    .await
}

/// The first veth link among `names`. Other links, such as bridges, are not the container's alone.
fn find_veth(names: &[String]) -> Result<Option<String>, BoxError> {
    let mut socket = NetlinkSocket::route()?;
    for name in names {
        if let Some(link) = links::by_name(&mut socket, name)?
            && link.kind.as_deref() == Some("veth")
        {
            return Ok(Some(link.name));
        }
    }
    Ok(None)
}

/// Enters the namespace, sets its loopback interface up, and looks for the interface.
fn enter_and_find(
    thread: &mut OwnThread,
    namespace: &OwnedFd,
    interface: &str,
) -> Result<Option<Link>, BoxError> {
    thread.enter(namespace.as_fd(), Kind::Net)?;
    let mut socket = NetlinkSocket::route()?;
    socket.execute_all(&[links::set_up("lo", None)])?;
    Ok(links::by_name(&mut socket, interface)?)
}

/// Whether the file at `path` is the namespace `id`.
fn is_namespace(path: &Path, id: NamespaceId) -> bool {
    fs::metadata(path).is_ok_and(|metadata| NamespaceId::new(metadata.dev(), metadata.ino()) == id)
}

/// How long to wait after that many failures of a teardown.
fn retry_delay(failures: u32) -> Duration {
    FIRST_RETRY_DELAY.saturating_mul(1 << failures.clamp(1, MAX_TEARDOWNS).saturating_sub(1))
}

/// Describes what a failed teardown may leave, for a message.
fn remainder(record: &InterfaceRecord) -> String {
    let intent = &record.intent;
    let plugins: Vec<&str> = intent.provider.plugins.iter().map(plugin_type).collect();
    let addresses = record
        .result
        .as_ref()
        .and_then(|result| CniResult::parse(result, &intent.interface).ok())
        .map_or_else(Vec::new, |result| result.addresses);
    let mut parts = vec![format!("plugins {}", plugins.join(", "))];
    parts.extend(addresses.iter().map(|address| format!("address {address}")));
    let host_interface = record.host_interface.as_ref();
    parts.extend(host_interface.map(|name| format!("host interface {name}")));
    format!(
        "{} of network {:?} ({})",
        intent.interface,
        intent.network,
        parts.join(", ")
    )
}
