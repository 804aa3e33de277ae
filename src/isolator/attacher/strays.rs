//! What this instance left on the host and belongs to no container, while containers run and are
//! attached.
//!
//! Invariants:
//! - What exists is listed first, then the checkpoints are read: a container's checkpoint names
//!   everything before it is made, and is removed last. What is found is looked for once more, so that
//!   steps of attaches and detaches in progress are not reported.
//! - A container that is alive keeps everything, with or without a checkpoint: it is alive if its network
//!   namespace has a process.
//! - Before anything is removed, it is looked for again under the locks that attaches respect.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::super::checkpoint::{
    Checkpoint, CheckpointError, Checkpoints, INTENT_FILE, RepairLock, StoredCheckpoint,
};
use super::super::error::IsolatorError;
use super::super::unknown::interfaces_of;
use super::{Attacher, intents};
use crate::net::links;
use crate::net::netlink::NetlinkSocket;
use crate::net::netns::processes::OccupiedNamespaces;
use crate::net::netns::{self, handles};
use crate::provider::bridge::MissingLease;
use crate::provider::contrail::pending_containers;
use crate::provider::stray::{HeldIntents, ProviderStray, ReadScope, StrayKind, SweepScope};
use crate::provider::{PendingTeardown, ProviderErrors, failed, is_label_of};
use contrail_mesos_api::container::ContainerId;
use uuid::Uuid;

mod peers;

pub use peers::{Peers, SilentPeer};

/// How long after the first look the second one follows.
const SECOND_LOOK_DELAY: Duration = Duration::from_millis(500);

/// Something on this host that belongs to no container, or a container about which something is missing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stray {
    /// What it is.
    pub kind: StrayKind,
    /// Its name on this host.
    pub object: String,
    /// The container that it names, if that is known.
    pub container: Option<String>,
    /// The network that it names, if that is known.
    pub network: Option<String>,
    /// What is wrong.
    pub problem: String,
    /// What a repair does; none if it takes an operator, and the problem says what to do.
    pub repair: Option<String>,
    #[serde(skip)]
    origin: Origin,
}

impl Stray {
    /// Whether it is the same one, whatever is wrong with it now.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.kind, &self.object, &self.container, &self.network)
            == (other.kind, &other.object, &other.container, &other.network)
    }
}

/// What a repair needs to know.
#[derive(Clone, Debug, PartialEq)]
enum Origin {
    Provider(Box<ProviderStray>),
    Handle(PathBuf),
    Etc,
    MissingLease,
    /// By the name that `status` prints.
    PendingTeardown(String),
    Damaged(DamagedFile),
    /// Its checkpoint as it was.
    Unknown(Box<Checkpoint>),
    /// The virtual-machine, and the container in it.
    Objects(Uuid, Option<ContainerId>),
    None,
}

/// A checkpoint that cannot be read, as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DamagedFile {
    file_name: OsString,
    /// Inode, size and time of the last change of its intent, or of its directory without an intent.
    version: Option<(u64, u64, i64, i64)>,
}

impl DamagedFile {
    fn new(checkpoints: &Checkpoints, file_name: OsString) -> Self {
        let directory = checkpoints.root().join(&file_name);
        let metadata = fs::symlink_metadata(directory.join(INTENT_FILE));
        let metadata = metadata.or_else(|_| fs::symlink_metadata(&directory));
        let version = metadata.ok().map(|metadata| {
            let changed = (metadata.mtime(), metadata.mtime_nsec());
            (metadata.ino(), metadata.size(), changed.0, changed.1)
        });
        Self { file_name, version }
    }

    /// Whether an agent may be writing or removing it at this moment. A file of the future is none.
    fn is_changing(&self) -> bool {
        let Some((_, _, seconds, nanoseconds)) = self.version else {
            return true;
        };
        let changed = Timestamp::new(seconds, i32::try_from(nanoseconds).unwrap_or(0));
        changed.is_ok_and(|changed| {
            let age = Timestamp::now().duration_since(changed);
            !age.is_negative() && age.unsigned_abs() < SECOND_LOOK_DELAY
        })
    }
}

/// The containers of which nothing is removed because of what their processes need.
#[derive(Clone, Debug, Default)]
struct LivingContainers {
    /// One of its processes, by the container's file name, of which very long ones may be cut.
    processes: BTreeMap<String, u32>,
    /// Those whose id is known.
    ids: HashSet<ContainerId>,
}

impl Attacher {
    /// Everything that this instance left and that belongs to no container. Changes nothing.
    pub async fn strays(&self) -> Result<Vec<Stray>, IsolatorError> {
        self.strays_and_peers(None).await.map(|(strays, _)| strays)
    }

    /// As [`Attacher::strays`], also compared with what the agent and the managers know. The peers that do
    /// not answer are returned as well.
    pub async fn strays_with(
        &self,
        peers: &Peers,
    ) -> Result<(Vec<Stray>, Vec<SilentPeer>), IsolatorError> {
        self.strays_and_peers(Some(peers)).await
    }

    async fn strays_and_peers(
        &self,
        peers: Option<&Peers>,
    ) -> Result<(Vec<Stray>, Vec<SilentPeer>), IsolatorError> {
        let (first, silent) = self.look_with(peers).await?;
        if first.is_empty() {
            return Ok((first, silent));
        }
        tokio::time::sleep(SECOND_LOOK_DELAY).await;
        let (mut strays, silent) = self.look_with(peers).await?;
        strays.retain(|stray| first.iter().any(|other| other.is_same(stray)));
        Ok((strays, silent))
    }

    async fn look_with(
        &self,
        peers: Option<&Peers>,
    ) -> Result<(Vec<Stray>, Vec<SilentPeer>), IsolatorError> {
        let mut strays = self.look().await?;
        let Some(peers) = peers else {
            return Ok((strays, vec![]));
        };
        let (of_peers, silent) = self.look_at_peers(peers).await?;
        strays.extend(of_peers);
        strays.sort_by(|a, b| (a.kind, &a.object).cmp(&(b.kind, &b.object)));
        Ok((strays, silent))
    }

    /// Removes or restores what can be of `strays`, while other containers run and are attached. The
    /// error has everything that failed; what is left, another look says.
    pub async fn repair_strays(&self, strays: &[Stray]) -> Result<(), IsolatorError> {
        self.repair(strays, None).await
    }

    /// As [`Attacher::repair_strays`], also of what the peers have.
    pub async fn repair_strays_with(
        &self,
        strays: &[Stray],
        peers: &Peers,
    ) -> Result<(), IsolatorError> {
        self.repair(strays, Some(peers)).await
    }

    async fn repair(&self, strays: &[Stray], peers: Option<&Peers>) -> Result<(), IsolatorError> {
        let mut errors = Vec::new();
        let (mut unknown, mut objects) = (Vec::new(), Vec::new());
        for stray in strays.iter().filter(|stray| stray.repair.is_some()) {
            match &stray.origin {
                Origin::Unknown(checkpoint) => unknown.push((**checkpoint).clone()),
                Origin::Objects(machine, _) => objects.push(*machine),
                _ => {}
            }
        }
        if let Some(peers) = peers {
            errors.extend(self.detach_unknown(unknown, peers).await.err());
            errors.extend(self.delete_objects(&objects, peers).await.err());
        }
        let is_set_aside = self.set_aside_damaged(strays, &mut errors).await?;
        errors.extend(self.retry_teardowns(strays).await.err());
        // What a damaged checkpoint named is a stray without it.
        let strays = if is_set_aside {
            self.look().await?
        } else {
            strays.to_vec()
        };
        let mut of_providers = Vec::new();
        let (mut handles, mut has_etc, mut has_missing_lease) = (Vec::new(), false, false);
        for stray in strays.into_iter().filter(|stray| stray.repair.is_some()) {
            match stray.origin {
                Origin::Provider(stray) => of_providers.push(*stray),
                Origin::Handle(path) => handles.push(path),
                Origin::Etc => has_etc = true,
                Origin::MissingLease => has_missing_lease = true,
                Origin::PendingTeardown(_)
                | Origin::Damaged(_)
                | Origin::Unknown(_)
                | Origin::Objects(..)
                | Origin::None => {}
            }
        }
        let living = self.living().await?;
        let scope = self.scope(&living);
        let removed = self.providers.remove_strays(of_providers, &scope).await;
        errors.extend(removed.err().map(IsolatorError::Provider));
        if has_missing_lease {
            let checkpoints = self.checkpoints.clone();
            let restored = self
                .providers
                .restore_leases(move || attached(&checkpoints))
                .await;
            errors.extend(restored.err().map(IsolatorError::Provider));
        }
        errors.extend(self.remove_stray_handles(handles).await.err());
        if has_etc {
            let etc_storage = self.etc_storage.clone();
            let names = living.processes.into_keys().collect();
            let removed = spawn_blocking(move || etc_storage.retain(&names)).await?;
            errors.extend(removed.err().map(IsolatorError::EtcFiles));
        }
        IsolatorError::combine(errors)
    }

    async fn look(&self) -> Result<Vec<Stray>, IsolatorError> {
        let living = self.living().await?;
        let scope = self.scope(&living);
        let (providers, etc_storage) = (Arc::clone(&self.providers), self.etc_storage.clone());
        let (checkpoints, state_dir) = (self.checkpoints.clone(), self.state_dir.clone());
        let handles = self.stray_handles().await?;
        let mut strays = spawn_blocking(move || {
            let of_providers = providers.strays(&scope)?;
            let etc = etc_storage.strays()?;
            let stored = checkpoints.load_all()?;
            let (mut attached, mut damaged) = (Vec::new(), Vec::new());
            let mut with_intent = HashSet::new();
            for stored in stored {
                match stored {
                    StoredCheckpoint::Intact {
                        checkpoint,
                        attachments,
                    } => {
                        with_intent.insert(checkpoint.container.file_name());
                        if attachments.is_some() {
                            attached.extend(intents(&checkpoint).cloned());
                        }
                    }
                    StoredCheckpoint::Damaged {
                        file_name,
                        is_newer,
                        error,
                    } => damaged.push(damaged_checkpoint(
                        &checkpoints,
                        &living,
                        file_name,
                        is_newer,
                        error,
                    )),
                }
            }
            let damaged_names: Vec<String> = damaged
                .iter()
                .filter_map(|stray| stray.container.clone())
                .collect();
            let is_kept = |stray: &ProviderStray| {
                let mut names = damaged_names.iter().chain(living.processes.keys());
                names.any(|name| stray.names(name))
            };
            let mut strays: Vec<Stray> = of_providers
                .into_iter()
                .filter(|stray| !is_kept(stray))
                .map(provider_stray)
                .collect();
            strays.extend(missing_leases(&providers.missing_leases(&attached)));
            strays.extend(etc.files.into_iter().filter_map(|name| {
                let is_alive = |name: &str| living.processes.contains_key(name);
                (!name.to_str().is_some_and(is_alive)).then(|| etc_files(&name))
            }));
            strays.extend(etc.mount.as_deref().map(etc_mount));
            strays.extend(pending_teardowns(
                &state_dir,
                &providers.pending_teardowns(),
            )?);
            for (name, pid) in &living.processes {
                if !with_intent.contains(name) && !damaged_names.contains(name) {
                    strays.push(living_container(name, *pid));
                }
            }
            strays.extend(damaged);
            Ok::<_, IsolatorError>(strays)
        })
        .await??;
        strays.extend(handles);
        strays.sort_by(|a, b| (a.kind, &a.object).cmp(&(b.kind, &b.object)));
        Ok(strays)
    }

    /// The containers that are alive although their checkpoints do not say what they have.
    async fn living(&self) -> Result<LivingContainers, IsolatorError> {
        let providers = Arc::clone(&self.providers);
        let checkpoints = self.checkpoints.clone();
        let listed = spawn_blocking(move || {
            let links = providers.container_links().map_err(ProviderErrors::from)?;
            let nobody = Arc::new(|| Ok(SweepScope::default())) as Arc<ReadScope>;
            let strays = providers.strays(&nobody)?;
            let intact: HashSet<String> = checkpoints
                .load_all()?
                .into_iter()
                .filter_map(|stored| match stored {
                    StoredCheckpoint::Intact { checkpoint, .. } => {
                        Some(checkpoint.container.file_name())
                    }
                    StoredCheckpoint::Damaged { .. } => None,
                })
                .collect();
            Ok::<_, IsolatorError>((links, strays, intact))
        });
        let (links, mut strays, intact) = listed.await??;
        strays.retain(|stray| !intact.iter().any(|name| stray.names(name)));
        let links: Vec<_> = links
            .into_iter()
            .filter(|(name, _)| !intact.iter().any(|other| is_label_of(name, other)))
            .collect();
        let mut living = LivingContainers::default();
        if links.is_empty() && strays.iter().all(|stray| stray.container.is_none()) {
            return Ok(living);
        }
        let occupied = spawn_blocking(OccupiedNamespaces::list)
            .await?
            .map_err(IsolatorError::Descriptor)?;
        let netlink =
            |error| ProviderErrors::from(failed("*", "look for living containers", error));
        let mut socket = NetlinkSocket::route().map_err(netlink)?;
        let by_number = occupied.by_number(&mut socket).map_err(netlink)?;
        for (name, link) in links {
            let number = link.peer_namespace;
            if let Some(pid) = number.and_then(|number| by_number.get(&number)) {
                living.ids.insert(container_of(&name));
                living.processes.entry(name).or_insert(*pid);
            }
        }
        for name in strays.iter().filter_map(|stray| stray.container.as_ref()) {
            let Ok(namespace) = netns::of_path(&self.netns_dir.join(name)) else {
                continue;
            };
            let process = occupied.process_in(&namespace);
            if let Some(pid) = process.map_err(IsolatorError::Descriptor)? {
                living.ids.insert(container_of(name));
                living.processes.entry(name.clone()).or_insert(pid);
            }
        }
        let leases: Vec<_> = strays.iter().filter_map(ProviderStray::lease).collect();
        if leases.is_empty() {
            return Ok(living);
        }
        for pid in occupied.processes() {
            // It may have ended.
            let Ok(Some(interfaces)) = interfaces_of(pid).await else {
                continue;
            };
            let has = |address| {
                interfaces
                    .values()
                    .flatten()
                    .any(|net| net.addr() == address)
            };
            for (address, container) in &leases {
                if has(*address) {
                    let name = container.file_name();
                    living.processes.entry(name).or_insert(pid);
                    living.ids.insert((*container).clone());
                }
            }
        }
        Ok(living)
    }

    /// The containers that there are: those with checkpoints, and the living ones.
    fn scope(&self, living: &LivingContainers) -> Arc<ReadScope> {
        let (checkpoints, ids) = (self.checkpoints.clone(), living.ids.clone());
        Arc::new(move || {
            let mut scope = SweepScope {
                intents: Vec::new(),
                others: ids.clone(),
            };
            for stored in checkpoints.load_all().map_err(unreadable)? {
                match stored {
                    // Nothing of it is known while its addresses are reserved.
                    StoredCheckpoint::Intact { checkpoint, .. }
                        if checkpoint.networks.is_empty() =>
                    {
                        scope.others.insert(checkpoint.container);
                    }
                    StoredCheckpoint::Intact { checkpoint, .. } => {
                        scope.intents.extend(intents(&checkpoint).cloned());
                    }
                    StoredCheckpoint::Damaged { file_name, .. } => {
                        scope
                            .others
                            .insert(container_of(&file_name.to_string_lossy()));
                    }
                }
            }
            Ok(scope)
        })
    }

    /// The handles of containers of agents that have neither a checkpoint nor a process, and that this
    /// instance made: a link of it names the container, or nothing else is in the namespace.
    async fn stray_handles(&self) -> Result<Vec<Stray>, IsolatorError> {
        let netns_dir = self.netns_dir.clone();
        let (checkpoints, providers) = (self.checkpoints.clone(), Arc::clone(&self.providers));
        let candidates = spawn_blocking(move || {
            let names: Vec<String> = match fs::read_dir(&netns_dir) {
                Ok(entries) => entries
                    .flatten()
                    .filter_map(|entry| entry.file_name().into_string().ok())
                    .filter(|name| ContainerId::printed(name).is_of_agent())
                    .filter(|name| handles::is_handle(&netns_dir.join(name)))
                    .collect(),
                // There is no handle.
                Err(_) => Vec::new(),
            };
            let links = providers.container_links().map_err(ProviderErrors::from)?;
            let without_checkpoint = names.into_iter().filter(|name| {
                !checkpoints.root().join(name).exists()
                    && !providers.has_record(&ContainerId::printed(name))
            });
            let candidates: Vec<(PathBuf, bool)> = without_checkpoint
                .map(|name| {
                    let has_link = links.iter().any(|(other, _)| is_label_of(other, &name));
                    (netns_dir.join(name), has_link)
                })
                .collect();
            Ok::<_, IsolatorError>(candidates)
        });
        let candidates = candidates.await??;
        let mut strays = Vec::new();
        if candidates.is_empty() {
            return Ok(strays);
        }
        let occupied = spawn_blocking(OccupiedNamespaces::list)
            .await?
            .map_err(IsolatorError::Descriptor)?;
        for (path, has_link) in candidates {
            let Ok(namespace) = netns::of_path(&path) else {
                // It is gone.
                continue;
            };
            let process = occupied
                .process_in(&namespace)
                .map_err(IsolatorError::Descriptor)?;
            if process.is_some()
                || netns::is_hosts(&namespace).map_err(IsolatorError::Descriptor)?
            {
                continue;
            }
            let is_own = has_link || netns::run_in(namespace, has_only_loopback).await?;
            if is_own {
                strays.push(handle(path));
            }
        }
        Ok(strays)
    }

    async fn remove_stray_handles(&self, handles: Vec<PathBuf>) -> Result<(), IsolatorError> {
        if handles.is_empty() {
            return Ok(());
        }
        let current = self.stray_handles().await?;
        spawn_blocking(move || {
            for path in handles {
                let is_stray = |stray: &Stray| stray.origin == Origin::Handle(path.clone());
                if current.iter().any(is_stray) {
                    log::info!(
                        "removing the handle {}, whose container is gone",
                        path.display()
                    );
                    handles::unpin(&path)?;
                }
            }
            Ok(())
        })
        .await?
    }

    /// Moves the damaged checkpoints of containers that are not alive aside, unless they have changed
    /// since. Returns whether there was one.
    async fn set_aside_damaged(
        &self,
        strays: &[Stray],
        errors: &mut Vec<IsolatorError>,
    ) -> Result<bool, IsolatorError> {
        let repairable = strays.iter().filter(|stray| stray.repair.is_some());
        let damaged: Vec<DamagedFile> = repairable
            .filter_map(|stray| match &stray.origin {
                Origin::Damaged(file) => Some(file.clone()),
                _ => None,
            })
            .collect();
        let checkpoints = self.checkpoints.clone();
        let results = spawn_blocking(move || {
            let mut results = Vec::new();
            for file in damaged {
                let is_damaged = matches!(
                    checkpoints.load(&file.file_name),
                    StoredCheckpoint::Damaged { .. }
                );
                let is_same = DamagedFile::new(&checkpoints, file.file_name.clone()) == file;
                if is_damaged && is_same && !file.is_changing() {
                    results.push(checkpoints.set_aside(&file.file_name));
                }
            }
            results
        })
        .await?;
        let mut is_set_aside = false;
        for result in results {
            match result {
                Ok(path) => {
                    is_set_aside = true;
                    log::warn!("damaged checkpoint moved aside to {}", path.display());
                }
                // It was being removed.
                Err(error) if error.source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => errors.push(error.into()),
            }
        }
        Ok(is_set_aside)
    }

    async fn retry_teardowns(&self, strays: &[Stray]) -> Result<(), IsolatorError> {
        let names: HashSet<&String> = strays
            .iter()
            .filter_map(|stray| match &stray.origin {
                Origin::PendingTeardown(name) => Some(name),
                _ => None,
            })
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        let providers = Arc::clone(&self.providers);
        let pending = spawn_blocking(move || providers.pending_teardowns()).await?;
        let mut errors = Vec::new();
        for teardown in pending {
            if names.iter().any(|name| teardown.is_of(name)) {
                errors.extend(self.retry_teardown(&teardown).await.err());
            }
        }
        IsolatorError::combine(errors)
    }
}

/// The container whose file name this is. If the name is a hash, the result has another id.
fn container_of(file_name: &str) -> ContainerId {
    ContainerId::printed(file_name)
}

fn unreadable(error: CheckpointError) -> ProviderErrors {
    failed("*", "read the checkpoints", error).into()
}

/// The intents of the containers that stay attached until the deadline of the lock.
fn attached(checkpoints: &Checkpoints) -> Result<HeldIntents<Option<RepairLock>>, ProviderErrors> {
    let guard = checkpoints.lock_for_repair().map_err(unreadable)?;
    // Without a lock there is no container.
    let deadline = guard
        .as_ref()
        .map_or_else(Instant::now, RepairLock::deadline);
    let mut attached = Vec::new();
    for stored in checkpoints.load_all().map_err(unreadable)? {
        if let StoredCheckpoint::Intact {
            checkpoint,
            attachments: Some(_),
        } = stored
        {
            attached.extend(intents(&checkpoint).cloned());
        }
    }
    Ok(HeldIntents {
        guard,
        deadline,
        intents: attached,
    })
}

/// Whether there is nothing in this thread's namespace.
fn has_only_loopback() -> bool {
    let listed = NetlinkSocket::route().and_then(|mut socket| links::all(&mut socket));
    listed.is_ok_and(|links| links.iter().all(|link| link.name == "lo"))
}

fn provider_stray(stray: ProviderStray) -> Stray {
    let (problem, repair) = match stray.kind {
        StrayKind::Interface => ("no container has it", Some("delete the interface")),
        StrayKind::Bridge => (
            "no container is on it, and it has no ports",
            Some("delete the bridge"),
        ),
        StrayKind::NftablesElement => ("no container needs it", Some("delete the element")),
        StrayKind::RoutingRules => (
            "the subnet is closed, and no container needs that",
            Some("delete the routing rules"),
        ),
        StrayKind::Lease => ("no container has the address", Some("free the address")),
        StrayKind::PortFiles => (
            "there is no such container and no such interface",
            Some("unregister the ports from the vRouter agent, delete the files and the objects"),
        ),
        StrayKind::CniRecord if stray.container.is_none() => (
            "the record cannot be read, so it is not known what its plugins made: see the file, remove that by hand, then the file",
            None,
        ),
        _ => ("there is no such container", Some("run the plugins' DEL")),
    };
    Stray {
        kind: stray.kind,
        object: stray.object.clone(),
        container: stray.container.clone(),
        network: stray.network.clone(),
        problem: problem.to_owned(),
        repair: repair.map(str::to_owned),
        origin: Origin::Provider(Box::new(stray)),
    }
}

fn missing_leases(missing: &[MissingLease]) -> Vec<Stray> {
    let stray = |lease: &MissingLease| Stray {
        kind: StrayKind::MissingLease,
        object: lease.address.to_string(),
        container: Some(lease.holder.container.to_string()),
        network: Some(lease.network.clone()),
        problem: match &lease.other {
            Some(other) => format!("the container {other} has the same address: end one of them"),
            None => {
                "the container has the address without a lease, so another may get it".to_owned()
            }
        },
        repair: lease
            .other
            .is_none()
            .then(|| "lease the address again".to_owned()),
        origin: Origin::MissingLease,
    };
    missing.iter().map(stray).collect()
}

fn etc_files(name: &OsString) -> Stray {
    let name = name.to_string_lossy().into_owned();
    Stray {
        kind: StrayKind::EtcFiles,
        object: name.clone(),
        container: Some(name),
        network: None,
        problem: "there is no such container".to_owned(),
        repair: Some("delete the files".to_owned()),
        origin: Origin::Etc,
    }
}

fn etc_mount(path: &Path) -> Stray {
    Stray {
        kind: StrayKind::EtcMount,
        object: path.display().to_string(),
        container: None,
        network: None,
        problem: "no container has files in it".to_owned(),
        repair: Some("unmount it".to_owned()),
        origin: Origin::Etc,
    }
}

fn handle(path: PathBuf) -> Stray {
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    Stray {
        kind: StrayKind::NamespaceHandle,
        object: path.display().to_string(),
        container: name,
        network: None,
        problem: "there is no such container, and no process in the namespace".to_owned(),
        repair: Some("remove the handle".to_owned()),
        origin: Origin::Handle(path),
    }
}

fn living_container(name: &str, pid: u32) -> Stray {
    Stray {
        kind: StrayKind::LivingContainer,
        object: format!("process {pid}"),
        container: Some(name.to_owned()),
        network: None,
        problem:
            "the container is alive, and has no checkpoint: it keeps its network until it ends"
                .to_owned(),
        repair: None,
        origin: Origin::None,
    }
}

fn damaged_checkpoint(
    checkpoints: &Checkpoints,
    living: &LivingContainers,
    file_name: OsString,
    is_newer: bool,
    error: String,
) -> Stray {
    let name = file_name.to_string_lossy().into_owned();
    let process = living
        .processes
        .iter()
        .find(|(other, _)| is_label_of(other, &name));
    let (problem, repair) = if is_newer {
        (format!("{error}; use the newer version"), None)
    } else if let Some((_, pid)) = process {
        let problem = format!(
            "{error}; the container is alive (process {pid}) and keeps its network until it ends"
        );
        (problem, None)
    } else {
        let repair = "move it to the directory damaged, and remove what is left of the container";
        (error, Some(repair.to_owned()))
    };
    Stray {
        kind: StrayKind::DamagedCheckpoint,
        object: checkpoints.root().join(&file_name).display().to_string(),
        container: Some(name),
        network: None,
        problem,
        repair,
        origin: Origin::Damaged(DamagedFile::new(checkpoints, file_name)),
    }
}

fn pending_teardowns(
    state_dir: &Path,
    pending: &[PendingTeardown],
) -> Result<Vec<Stray>, IsolatorError> {
    let mut strays: HashMap<String, Stray> = HashMap::new();
    let stray = |name: &str, problem: String, repair: Option<&str>| Stray {
        kind: StrayKind::PendingTeardown,
        object: name.to_owned(),
        container: Some(name.to_owned()),
        network: None,
        problem,
        repair: repair.map(str::to_owned),
        origin: Origin::PendingTeardown(name.to_owned()),
    };
    let of_contrail = pending_containers(state_dir).map_err(|source| CheckpointError {
        action: "read the pending teardowns below",
        path: state_dir.to_owned(),
        source,
    })?;
    for name in of_contrail {
        let is_retried = pending.iter().any(|teardown| {
            matches!(teardown, PendingTeardown::Contrail(_)) && teardown.is_of(&name)
        });
        let (problem, repair) = if is_retried {
            let problem = "the vRouter agent or the manager has not done its part";
            (problem, Some("retry the teardown"))
        } else {
            let problem = "the vRouter agent or the manager has not done its part; the configuration needs a table [contrail] to reach them";
            (problem, None)
        };
        strays.insert(name.clone(), stray(&name, problem.to_owned(), repair));
    }
    for teardown in pending {
        if let PendingTeardown::Cni(del) = teardown {
            let name = del.container().to_string();
            let problem = format!("the DEL of its CNI plugins failed: {}", del.error());
            let entry = stray(&name, problem, Some("run the plugins' DEL again"));
            strays.insert(name, entry);
        }
    }
    Ok(strays.into_values().collect())
}

#[cfg(test)]
mod root_tests;
