//! Attaching, adopting, detaching and sweeping interfaces. What the provider's threads share.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde_json::Value;
use tokio::sync::mpsc::UnboundedSender;

use super::chain::ChainRun;
use super::record::{InterfaceRecord, NamespaceId, Records};
use super::result::CniResult;
use super::{CniIntent, PluginEnvironment};
use crate::config::Config;
use crate::net::link_watch::{LinkEvent, LinkWatch};
use crate::net::links::{self, Link};
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::netns::{self, Kind, OwnThread};
use crate::provider::{
    Attachment, BoxError, Intent, LostInterface, ProviderError, ProviderErrors, Statistics,
    blocking, counters, failed, refused,
};
use contrail_mesos_api::container::{ContainerId, Mac};

/// A container and one of its interfaces.
type InterfaceKey = (ContainerId, String);

fn key(intent: &Intent<CniIntent>) -> InterfaceKey {
    (intent.container.clone(), intent.interface.clone())
}

/// Attaches containers by running CNI plugins.
pub(super) struct CniDriver {
    environment: PluginEnvironment,
    netns_dir: PathBuf,
    pub(super) records: Records,
    /// The interfaces that are attached or being attached, with their watched host ends.
    interfaces: Mutex<HashMap<InterfaceKey, Option<String>>>,
}

impl CniDriver {
    pub(super) fn new(config: &Config, environment: PluginEnvironment) -> Self {
        Self {
            environment,
            netns_dir: config.netns_dir.clone(),
            records: Records::new(&config.state_dir),
            interfaces: Mutex::default(),
        }
    }

    fn interfaces(&self) -> MutexGuard<'_, HashMap<InterfaceKey, Option<String>>> {
        // Every critical section is a single map operation.
        self.interfaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
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
        if let Some(record) = self.records.read(intent)
            && record.result.is_some()
        {
            return Err(refused(
                network,
                format!(
                    "container {} is attached already; detach it first",
                    intent.container
                ),
            ));
        }
        let mut record = InterfaceRecord {
            intent: intent.clone(),
            namespace: NamespaceId::of(namespace).map_err(|error| fail(error.into()))?,
            result: None,
            host_interface: None,
            is_inside: false,
        };
        let write_record = |record: &InterfaceRecord| {
            self.records
                .write(record)
                .map_err(|error| fail(error.into()))
        };
        write_record(&record)?;
        // The handle may not exist yet, since the isolator creates it concurrently.
        let path = PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            namespace.as_raw_fd()
        ));
        let mut json = self.chain_run(intent).add(&path).map_err(fail)?;
        let parsed = CniResult::parse(&json, &intent.interface);
        // A DEL gets this result after the descriptor is closed.
        rename_sandbox(&mut json, &path, &self.namespace_handle(intent));
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

    pub(super) async fn detach(
        self: &Arc<Self>,
        intent: &Intent<CniIntent>,
    ) -> Result<(), ProviderErrors> {
        let (driver, owned_intent) = (Arc::clone(self), intent.clone());
        // A thread of its own, so that a plugin that hangs delays no other.
        netns::on_own_thread("cm-cni", move |_| driver.detach_blocking(&owned_intent))
            .await
            .map_err(|error| failed(&intent.network, "detach", error))?
    }

    /// Runs the plugins' DEL, whether or not an ADD completed.
    fn detach_blocking(&self, intent: &Intent<CniIntent>) -> Result<(), ProviderErrors> {
        self.untrack(intent);
        let record = self.records.read(intent);
        let namespace = record
            .as_ref()
            .and_then(|record| self.namespace_path(intent, record.namespace))
            .unwrap_or_default();
        let result = record.as_ref().and_then(|record| record.result.as_ref());
        let fail = |error: BoxError| failed(&intent.network, "detach", error);
        self.chain_run(intent)
            .del(&namespace, result)
            .into_iter()
            .map(fail)
            .collect::<ProviderErrors>()
            .into_result(())?;
        self.records
            .remove(intent)
            .map_err(|error| fail(error.into()))?;
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

    /// A path of the namespace `id`: the container's handle, or one that the operator made. Never
    /// a path of another namespace.
    fn namespace_path(&self, intent: &Intent<CniIntent>, id: NamespaceId) -> Option<PathBuf> {
        let matches = |path: &PathBuf| {
            fs::metadata(path)
                .is_ok_and(|metadata| NamespaceId::new(metadata.dev(), metadata.ino()) == id)
        };
        let handle = self.namespace_handle(intent);
        if matches(&handle) {
            return Some(handle);
        }
        fs::read_dir(&self.netns_dir)
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(matches)
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
                .and_then(|record| driver.namespace_path(&intent, record.namespace))
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
            let intent = match record {
                Ok(record) => record.intent,
                Err(path) => {
                    log::warn!("cannot read {}", path.display());
                    continue;
                }
            };
            let key = key(&intent);
            if kept.contains(&key) || damaged.contains(&intent.container) || self.is_tracked(&key) {
                continue;
            }
            log::warn!(
                "detaching {} of network {:?} from {}, which is no container of this host",
                intent.interface,
                intent.network,
                intent.container
            );
            errors.extend(self.detach(&intent).await.err().into_iter().flatten());
        }
        errors.into_result(())
    }
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

fn rename_sandbox(result: &mut Value, old: &Path, new: &Path) {
    let interfaces = result.get_mut("interfaces").and_then(Value::as_array_mut);
    for interface in interfaces.into_iter().flatten() {
        if let Some(sandbox) = interface.get_mut("sandbox")
            && sandbox.as_str() == old.to_str()
        {
            *sandbox = new.to_string_lossy().into();
        }
    }
}
