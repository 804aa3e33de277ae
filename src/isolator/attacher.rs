//! Attaches and detaches all networks of one container. Shared by the agent's isolator and the
//! command line; knows nothing of Mesos' life cycle.
//!
//! Invariants: nothing is created before the checkpoint that names it is durable, and the
//! checkpoint is removed last. A failed attach leaves everything to `detach`, which works from the
//! checkpoint alone, is idempotent and collects every error. It ends the node daemon's repair of the
//! container before it removes anything.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::join_all;
use ipnet::IpNet;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::{JoinHandle, spawn_blocking};

use super::checkpoint::{
    Checkpoint, CheckpointError, Checkpoints, Claim, ClaimError, ExecutorKey, Owner,
    StoredCheckpoint,
};
use super::error::IsolatorError;
use super::etc_files;
use super::etc_storage::EtcStorage;
pub use super::target::Target;
use super::target::{Namespaces, pin};
use crate::address_history::{self, AddressUse};
use crate::config::{Config, Dns, NetworkProvider};
use crate::net::links;
use crate::net::netns::{self, NamespaceThreads, handles};
use crate::network_request::ContainerRequest;
use crate::node_dns::NodeDns;
use crate::proto::mesos::slave::ContainerMountInfo;
use crate::provider::in_place;
use crate::provider::{
    Attachment, Intent, LostInterface, NetworkRequest, PendingTeardown, ProviderError,
    ProviderErrors, ProviderIntent, Providers, Statistics, instance_tag,
};
use contrail_mesos_api::container::ContainerId;
pub use networks::{AddressReport, NetworkMember, NetworkOverview};
pub use status::{
    ContainerFilter, ContainerState, ContainerStatus, InspectionDepth, NetworkStatus,
};
pub use strays::{Peers, SilentPeer, Stray};

mod networks;
mod status;
mod strays;

/// Attaches the containers of one state directory.
pub struct Attacher {
    providers: Arc<Providers>,
    checkpoints: Checkpoints,
    etc_storage: EtcStorage,
    netns_dir: PathBuf,
    state_dir: PathBuf,
    threads: NamespaceThreads,
    /// Intents that are being written to the disk.
    syncs: Mutex<HashMap<ContainerId, IntentSync>>,
}

type IntentSync = JoinHandle<Result<(), CheckpointError>>;

impl Attacher {
    /// An attacher as configured; interfaces that disappear without a detach are sent to `lost`.
    pub fn new(
        config: &Config,
        lost: UnboundedSender<LostInterface>,
    ) -> Result<Self, IsolatorError> {
        let providers = Providers::new(config, lost).map_err(ProviderErrors::from)?;
        Ok(Self {
            providers: Arc::new(providers),
            checkpoints: Checkpoints::new(&config.state_dir),
            etc_storage: EtcStorage::new(
                &config.netns_dir,
                &config.state_dir,
                &instance_tag(&config.state_dir),
            ),
            netns_dir: config.netns_dir.clone(),
            state_dir: config.state_dir.clone(),
            threads: NamespaceThreads::new("cm-hostname")?,
            syncs: Mutex::default(),
        })
    }

    /// The checkpoints of the state directory.
    #[must_use]
    pub fn checkpoints(&self) -> &Checkpoints {
        &self.checkpoints
    }

    /// The counters of an attached interface.
    pub async fn statistics(&self, intent: &Intent) -> Result<Statistics, ProviderError> {
        self.providers.statistics(intent).await
    }

    /// What is wrong with an attached interface, a sentence each. See [`Provider::inspect`].
    ///
    /// [`Provider::inspect`]: crate::provider::Provider::inspect
    pub async fn inspect(
        &self,
        checkpoint: &Checkpoint,
        intent: &Intent,
        attachment: Option<&Attachment>,
    ) -> Vec<String> {
        let namespace = match self.handle(checkpoint) {
            Some(handle) => {
                let opened = spawn_blocking(move || netns::of_path(&handle)).await;
                match opened {
                    Ok(Ok(namespace)) => Some(namespace),
                    Ok(Err(error)) => return vec![error.to_string()],
                    Err(error) => return vec![error.to_string()],
                }
            }
            None => None,
        };
        self.providers
            .inspect(intent, attachment, namespace.as_ref().map(AsFd::as_fd))
            .await
    }

    /// The handle to the container's network namespace, for `ip netns exec`. An operator's
    /// attachment has none: its namespace is the operator's, who may have given it that very name.
    #[must_use]
    pub fn handle(&self, checkpoint: &Checkpoint) -> Option<PathBuf> {
        (checkpoint.owner == Owner::Agent).then(|| self.handle_path(&checkpoint.container))
    }

    fn handle_path(&self, container: &ContainerId) -> PathBuf {
        self.netns_dir.join(container.file_name())
    }

    /// Checks a request without changing anything. The error has every reason for a refusal.
    pub fn validate(&self, request: &ContainerRequest) -> Result<(), IsolatorError> {
        ProviderErrors::collect_results(
            request
                .networks
                .iter()
                .map(|network| self.providers.validate(network)),
        )?;
        Ok(())
    }

    /// Refuses a namespace that cannot be attached as this container: the host's, one of another
    /// container with the same id, and one that has an interface already which plugins would then
    /// remove with their own. Changes nothing.
    pub async fn check_target(
        &self,
        request: &ContainerRequest,
        container: &ContainerId,
        target: Target,
    ) -> Result<(), IsolatorError> {
        let description = target.to_string();
        let (_, network) = open(target).await?;
        let handle = self.handle_path(container);
        let is_another = {
            let network = network.try_clone().map_err(IsolatorError::Descriptor)?;
            let handle = handle.clone();
            spawn_blocking(move || {
                if !handles::is_handle(&handle) {
                    return Ok(false);
                }
                let pinned = netns::of_path(&handle)?;
                netns::same(&pinned, &network)
                    .map(|same| !same)
                    .map_err(IsolatorError::Descriptor)
            })
            .await??
        };
        if is_another {
            return Err(IsolatorError::InUse(format!(
                "{container} is the name of another network namespace ({}), which may be that of a container of the agent; choose another name",
                handle.display()
            )));
        }
        let interfaces: Vec<String> = request
            .networks
            .iter()
            .filter(|network| matches!(network.network.provider, NetworkProvider::Cni(_)))
            .map(|network| network.interface.clone())
            .collect();
        let existing = netns::run_in(network, move || {
            interfaces.into_iter().find(|name| links::exists(name))
        })
        .await?;
        match existing {
            Some(interface) => Err(IsolatorError::InUse(format!(
                "{description} has an interface {interface} already; is it attached under another name?"
            ))),
            None => Ok(()),
        }
    }

    /// Describes every change that an attach would make, in order, for a person. Makes none.
    pub async fn plan(&self, request: &ContainerRequest) -> Result<Vec<String>, IsolatorError> {
        self.validate(request)?;
        let (checkpoints, providers) = (self.checkpoints.clone(), Arc::clone(&self.providers));
        let networks = request.networks.clone();
        spawn_blocking(move || {
            if let Some(network) = networks.first()
                && let Some(stored) = checkpoints.find(&network.container)
            {
                let reason = stored.reason_in_use(&network.container);
                return Err(IsolatorError::InUse(reason));
            }
            check_unused(&providers, &networks)
        })
        .await??;
        let mut changes = Vec::new();
        for network in &request.networks {
            changes.extend(self.providers.plan(network).await?);
        }
        Ok(changes)
    }

    /// Reserves what the request needs and writes the intent. The intent may become durable only
    /// later; `attach` waits for it.
    pub async fn reserve(
        &self,
        request: &ContainerRequest,
        container: &ContainerId,
        owner: Owner,
        executor: Option<ExecutorKey>,
    ) -> Result<Checkpoint, IsolatorError> {
        let deadline = self.providers.wait_for_overlays(&request.networks).await;
        self.validate(request)?;
        let claim = self
            .claim(request, container, owner, executor.clone())
            .await?;
        let mut intents = Vec::new();
        for network in &request.networks {
            match self.providers.reserve(network, deadline).await {
                Ok(mut intent) => {
                    if let Some(ExecutorKey {
                        framework,
                        executor,
                    }) = &executor
                    {
                        intent.set_executor(framework, executor);
                    }
                    intents.push(intent);
                }
                Err(error) => {
                    let mut errors = ProviderErrors::from(error);
                    errors.extend(self.release(&intents).await);
                    self.abandon(claim).await?;
                    return Err(errors.into());
                }
            }
        }
        let checkpoint = Checkpoint::new(container, owner, executor, request, intents.clone());
        let checkpoints = self.checkpoints.clone();
        let (checkpoint, claim, written) = in_place(move || {
            let written = checkpoints.write_intent(&claim, &checkpoint);
            (checkpoint, claim, written)
        })
        .await?;
        if let Err(error) = written {
            for error in self.release(&intents).await {
                log::error!(container:% = container, error:% = error; "cannot release a reservation");
            }
            self.abandon(claim).await?;
            return Err(error.into());
        }
        // The sync overlaps with the agent's fork, and the providers start once it is done;
        // `attach` waits for both before it creates anything.
        let checkpoints = self.checkpoints.clone();
        let providers = Arc::clone(&self.providers);
        let sync = spawn_blocking(move || {
            let synced = checkpoints.sync_intent(&claim);
            if synced.is_ok() {
                providers.start(&intents.iter().collect::<Vec<_>>());
            }
            synced
        });
        self.syncs().insert(container.clone(), sync);
        Ok(checkpoint)
    }

    /// Claims the container's id. After that, whatever is undone was made by this call.
    async fn claim(
        &self,
        request: &ContainerRequest,
        container: &ContainerId,
        owner: Owner,
        executor: Option<ExecutorKey>,
    ) -> Result<Claim, IsolatorError> {
        let (checkpoints, providers) = (self.checkpoints.clone(), Arc::clone(&self.providers));
        let (networks, container) = (request.networks.clone(), container.clone());
        in_place(move || {
            let claim = match checkpoints.claim(&container, owner, executor) {
                Ok(claim) => claim,
                Err(ClaimError::InUse(stored)) => {
                    return Err(IsolatorError::InUse(stored.reason_in_use(&container)));
                }
                Err(ClaimError::Checkpoint(error)) => return Err(error.into()),
            };
            if let Err(error) = check_unused(&providers, &networks) {
                checkpoints.abandon(&claim);
                return Err(error);
            }
            Ok(claim)
        })
        .await?
    }

    async fn abandon(&self, claim: Claim) -> Result<(), IsolatorError> {
        let checkpoints = self.checkpoints.clone();
        Ok(in_place(move || checkpoints.abandon(&claim)).await?)
    }

    async fn release(&self, intents: &[Intent]) -> ProviderErrors {
        join_all(intents.iter().map(|intent| self.providers.release(intent)))
            .await
            .into_iter()
            .filter_map(Result::err)
            .flatten()
            .collect()
    }

    /// Writes the container's files below /etc: from the intents, or from the attachments once
    /// they are known.
    pub async fn write_etc_files(
        &self,
        checkpoint: &Checkpoint,
        attachments: Option<&[Attachment]>,
    ) -> Result<(), IsolatorError> {
        let addresses = addresses(checkpoint, attachments);
        let dns: Vec<&Dns> = match attachments {
            Some(attachments) => attachments.iter().map(|attached| &attached.dns).collect(),
            None => intents(checkpoint).map(|intent| &intent.dns).collect(),
        };
        let dns = etc_files::merge(dns);
        // Contrail and plugins have name servers of their own, or those of the host.
        let routes = bridge_routes(checkpoint);
        let state_dir =
            (dns.nameservers.is_empty() && routes.is_some()).then(|| self.state_dir.clone());
        let hostname = checkpoint.hostname.clone();
        let container = checkpoint.container.clone();
        let in_state_dir = self.checkpoints.directory(&container);
        // An operator's namespace does not see the files.
        let storage = (checkpoint.owner == Owner::Agent && !in_state_dir.join("hosts").exists())
            .then(|| self.etc_storage.clone());
        in_place(move || {
            let node_dns = state_dir.and_then(|state_dir| NodeDns::read(&state_dir));
            let mut node_servers =
                node_dns.map_or_else(Vec::new, |node_dns| node_dns.nameservers(&addresses));
            let routes = routes.unwrap_or_default();
            node_servers.retain(|server| {
                routes.is_empty() || routes.iter().any(|route| route.contains(server))
            });
            let write = |directory: &Path| {
                etc_files::write(directory, &hostname, &addresses, &dns, &node_servers)
            };
            let Some(storage) = storage else {
                return write(&in_state_dir);
            };
            let written = storage
                .create(&container)
                .and_then(|directory| write(&directory));
            match written {
                Err(error) if error.is_full() || storage.find(&container).is_none() => {
                    log::warn!(
                        container:% = container, error:% = error;
                        "the container's files below /etc are read-only; has a container filled its own?"
                    );
                    storage.remove(&container)?;
                    write(&in_state_dir)
                }
                written => written,
            }
        })
        .await??;
        Ok(())
    }

    /// The mounts that put the container's files below /etc in their place; none if it has no files.
    pub(super) fn etc_mounts(
        &self,
        container: &ContainerId,
        rootfs: Option<&Path>,
    ) -> Result<Vec<ContainerMountInfo>, IsolatorError> {
        if let Some(directory) = self.etc_storage.find(container) {
            return Ok(etc_files::mounts(&directory, rootfs, false)?);
        }
        let directory = self.checkpoints.directory(container);
        if directory.join("hosts").exists() {
            return Ok(etc_files::mounts(&directory, rootfs, true)?);
        }
        Ok(vec![])
    }

    /// Writes the container's files below /etc again if they are gone, as if the agent's mount
    /// namespace has ended with an earlier agent. Nested containers need them.
    pub(super) async fn restore_etc_files(
        &self,
        checkpoint: &Checkpoint,
        attachments: Option<&[Attachment]>,
    ) -> Result<(), IsolatorError> {
        let container = &checkpoint.container;
        let in_state_dir = self.checkpoints.directory(container);
        if self.etc_storage.find(container).is_some() || in_state_dir.join("hosts").exists() {
            return Ok(());
        }
        self.write_etc_files(checkpoint, attachments).await
    }

    /// Attaches the container to its networks, sets its hostname and pins its network namespace.
    pub async fn attach(
        &self,
        checkpoint: &Checkpoint,
        target: Target,
    ) -> Result<Vec<Attachment>, IsolatorError> {
        // Changes nothing, so it need not wait.
        let (namespaces, network) = open(target).await?;
        self.wait_until_durable(&checkpoint.container).await?;
        let intents: Vec<&Intent> = intents(checkpoint).collect();
        // They are independent. The providers are first to begin, on threads of their own.
        let (attached, configured) = tokio::join!(
            self.providers.attach_all(&intents, network.as_fd()),
            self.configure_namespaces(checkpoint, namespaces),
        );
        let (attachments, failed) = match attached {
            Ok(attachments) => (attachments, None),
            Err(errors) => (vec![], Some(IsolatorError::Provider(errors))),
        };
        IsolatorError::combine(configured.err().into_iter().chain(failed).collect())?;
        let is_intent_outdated = intents.iter().zip(&attachments).any(|(intent, attached)| {
            intent.dns != attached.dns || intent.addresses != attached.addresses
        });
        if is_intent_outdated {
            self.write_etc_files(checkpoint, Some(&attachments)).await?;
        }
        let checkpoints = self.checkpoints.clone();
        let container = checkpoint.container.clone();
        let (attachments, written) = in_place(move || {
            let written = checkpoints.write_attachments(&container, &attachments);
            (attachments, written)
        })
        .await?;
        written?;
        Ok(attachments)
    }

    async fn wait_until_durable(&self, container: &ContainerId) -> Result<(), IsolatorError> {
        let sync = self.syncs().remove(container);
        // Without one the intent is from before a restart, and was synced then.
        match sync {
            Some(sync) => Ok(sync.await??),
            None => Ok(()),
        }
    }

    fn syncs(&self) -> MutexGuard<'_, HashMap<ContainerId, IntentSync>> {
        // Each use is a single map operation.
        self.syncs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pins the network namespace and sets the hostname, which is the same for every provider.
    async fn configure_namespaces(
        &self,
        checkpoint: &Checkpoint,
        namespaces: Namespaces,
    ) -> Result<(), IsolatorError> {
        if let Some(handle) = self.handle(checkpoint) {
            let network = namespaces.network;
            in_place(move || pin(network, &handle)).await??;
        }
        if let Some(uts) = namespaces.uts {
            netns::set_hostname(&self.threads, uts, checkpoint.hostname.clone()).await?;
        }
        Ok(())
    }

    /// Detaches every network, then removes the handle and the checkpoint. Idempotent; the
    /// checkpoint stays as long as anything else does.
    pub async fn detach(&self, checkpoint: &Checkpoint) -> Result<(), IsolatorError> {
        let sync = self.syncs().remove(&checkpoint.container);
        if let Some(sync) = sync {
            // A provider that starts after its detach would not be undone.
            let _ = sync.await;
        }
        let begun = self.begin_detach(&checkpoint.container).await;
        let intents: Vec<&Intent> = intents(checkpoint).collect();
        let detached = self
            .providers
            .detach_all(&intents)
            .await
            .map_err(IsolatorError::Provider);
        let handle = self.handle(checkpoint);
        let history = detached.is_ok().then(|| checkpoint.clone());
        let removed = self
            .remove_state(&checkpoint.container, handle, detached.is_ok(), history)
            .await;
        IsolatorError::combine(
            [begun, detached, removed]
                .into_iter()
                .filter_map(Result::err)
                .collect(),
        )
    }

    /// See [`Checkpoints::begin_detach`].
    async fn begin_detach(&self, container: &ContainerId) -> Result<(), IsolatorError> {
        let (checkpoints, container) = (self.checkpoints.clone(), container.clone());
        // It may wait for the node daemon, so that many of them must not wait for each other.
        Ok(spawn_blocking(move || checkpoints.begin_detach(&container)).await??)
    }

    /// The teardowns of detached containers that peers have yet to complete. They have no checkpoint
    /// any more. Blocks on the file system.
    #[must_use]
    pub fn pending_teardowns(&self) -> Vec<PendingTeardown> {
        self.providers.pending_teardowns()
    }

    /// Retries a pending teardown now. Does nothing if it is complete already.
    pub async fn retry_teardown(&self, teardown: &PendingTeardown) -> Result<(), IsolatorError> {
        self.providers
            .retry_teardown(teardown)
            .await
            .map_err(IsolatorError::Provider)
    }

    /// Gives up a pending teardown: removes what this host still has of it, and returns what may be left
    /// elsewhere, a sentence each.
    pub async fn abandon_teardown(
        &self,
        teardown: &PendingTeardown,
    ) -> Result<Vec<String>, IsolatorError> {
        let abandoned = self.providers.abandon_teardown(teardown).await;
        abandoned.map_err(IsolatorError::Provider)
    }

    /// Gives up the records of a container's CNI interfaces that cannot be read, as
    /// [`Attacher::abandon_teardown`].
    pub async fn abandon_records(
        &self,
        container: &ContainerId,
    ) -> Result<Vec<String>, IsolatorError> {
        let (providers, container) = (Arc::clone(&self.providers), container.clone());
        let abandoned = spawn_blocking(move || providers.abandon_records(&container)).await?;
        abandoned.map_err(|error| IsolatorError::Provider(error.into()))
    }

    /// Whether networks of Contrail are configured.
    #[must_use]
    pub fn has_contrail(&self) -> bool {
        self.providers.contrail_deadline().is_some()
    }

    /// Removes the handle to the namespace and, if `with_checkpoint`, the container's directory. Then
    /// notes which addresses the container of `history` has had.
    async fn remove_state(
        &self,
        container: &ContainerId,
        handle: Option<PathBuf>,
        with_checkpoint: bool,
        history: Option<Checkpoint>,
    ) -> Result<(), IsolatorError> {
        let checkpoints = self.checkpoints.clone();
        let etc_storage = self.etc_storage.clone();
        let container = container.clone();
        // An unmount waits for the kernel, so that many of them must not wait for each other.
        spawn_blocking(move || {
            if let Some(handle) = handle {
                handles::unpin(&handle)?;
            }
            etc_storage.remove(&container)?;
            let uses = history.map_or_else(Vec::new, |checkpoint| {
                AddressUse::of_detached(&checkpoints, &checkpoint)
            });
            if with_checkpoint {
                checkpoints.remove(&container)?;
            }
            if let Err(error) = address_history::append(checkpoints.state_dir(), &uses) {
                log::warn!(
                    container:% = container, error:% = error;
                    "cannot note the addresses that the container has had"
                );
            }
            Ok(())
        })
        .await?
    }

    /// Whether there is a handle to the namespace of this container, or a record of its plugins.
    pub(super) async fn has_traces(&self, container: &ContainerId) -> bool {
        let handle = self.handle_path(container);
        let (providers, container) = (Arc::clone(&self.providers), container.clone());
        spawn_blocking(move || handles::is_handle(&handle) || providers.has_record(&container))
            .await
            .unwrap_or(false)
    }

    /// Leases the addresses that a container without a checkpoint has, on every network whose subnet
    /// they are in.
    pub(super) async fn hold_addresses(
        &self,
        container: &ContainerId,
        interfaces: &HashMap<String, Vec<IpNet>>,
        config: &Config,
    ) -> Result<(), IsolatorError> {
        let (providers, container) = (Arc::clone(&self.providers), container.clone());
        let (networks, interfaces) = (config.networks.clone(), interfaces.clone());
        spawn_blocking(move || {
            let mut leases = Vec::new();
            for network in &networks {
                let subnets = providers.subnets(network);
                for (interface, addresses) in &interfaces {
                    let inside: Vec<IpAddr> = addresses
                        .iter()
                        .map(IpNet::addr)
                        .filter(|address| subnets.iter().any(|net| net.contains(address)))
                        .collect();
                    leases.push((&network.name, interface, inside));
                }
            }
            ProviderErrors::collect_results(
                leases
                    .iter()
                    .filter(|(.., addresses)| !addresses.is_empty())
                    .map(|(network, interface, addresses)| {
                        providers.hold_addresses(network, &container, interface, addresses)
                    }),
            )
        })
        .await??;
        Ok(())
    }

    /// Removes the handles of containers that have neither a checkpoint nor a process, and that this
    /// instance attached: `containers`, by the file names that the aliases of their links have.
    pub(super) async fn remove_handles(
        &self,
        containers: HashSet<String>,
    ) -> Result<(), IsolatorError> {
        let netns_dir = self.netns_dir.clone();
        spawn_blocking(move || {
            for name in containers {
                let handle = netns_dir.join(&name);
                if handles::is_handle(&handle) {
                    log::warn!(
                        "removing the handle {}, whose container is gone",
                        handle.display()
                    );
                    handles::unpin(&handle)?;
                }
            }
            Ok(())
        })
        .await?
    }

    /// The containers of the agent that links of this instance name, by their file names. Those of
    /// operators are left out: a namespace with that name is the operator's.
    pub(super) async fn containers_of_links(&self) -> Result<HashSet<String>, IsolatorError> {
        let providers = Arc::clone(&self.providers);
        let links = spawn_blocking(move || providers.container_links())
            .await?
            .map_err(ProviderErrors::from)?;
        let mut names: HashSet<String> = links.into_iter().map(|(name, _)| name).collect();
        names.retain(|name| ContainerId::printed(name).is_of_agent());
        Ok(names)
    }

    /// Removes what is ours by name and belongs neither to a container of `keep` nor to an
    /// operator's attachment: what is left of a container whose checkpoint is lost.
    pub async fn sweep(&self, keep: &HashSet<ContainerId>) -> Result<(), IsolatorError> {
        let checkpoints = self.checkpoints.clone();
        let stored = spawn_blocking(move || checkpoints.load_all()).await??;
        let mut known = Vec::new();
        let mut names: HashSet<String> = keep.iter().map(ContainerId::file_name).collect();
        let mut without_checkpoint = keep.clone();
        for stored in stored {
            let StoredCheckpoint::Intact { checkpoint, .. } = stored else {
                continue;
            };
            names.insert(checkpoint.container.file_name());
            let is_kept = without_checkpoint.remove(&checkpoint.container);
            if is_kept || checkpoint.owner == Owner::Operator {
                known.extend(intents(&checkpoint).cloned());
            }
        }
        let swept = self
            .providers
            .sweep(&known, &without_checkpoint)
            .await
            .map_err(IsolatorError::Provider);
        let etc_storage = self.etc_storage.clone();
        let removed = spawn_blocking(move || etc_storage.retain(&names))
            .await?
            .map_err(IsolatorError::EtcFiles);
        IsolatorError::combine(
            [swept, removed]
                .into_iter()
                .filter_map(Result::err)
                .collect(),
        )
    }

    /// Like [`Attacher::detach`], for a container whose checkpoint is lost or cannot be read: removes
    /// everything of this instance that names it. Its handle is removed only if it `is_of_agent`.
    pub async fn detach_without_checkpoint(
        &self,
        container: &ContainerId,
        is_of_agent: bool,
    ) -> Result<(), IsolatorError> {
        let begun = self.begin_detach(container).await;
        let detached = self
            .providers
            .remove_container(container)
            .await
            .map_err(IsolatorError::Provider);
        let handle = is_of_agent.then(|| self.handle_path(container));
        let removed = self
            .remove_state(container, handle, detached.is_ok(), None)
            .await;
        IsolatorError::combine(
            [begun, detached, removed]
                .into_iter()
                .filter_map(Result::err)
                .collect(),
        )
    }

    /// Takes over a container after a restart: its networks, and its handle if that is gone and a
    /// process of the container is known. An error means that the container's network is lost.
    pub async fn adopt(
        &self,
        checkpoint: &Checkpoint,
        pid: Option<u32>,
    ) -> Result<(), IsolatorError> {
        let handle = self.handle_path(&checkpoint.container);
        let pinned = spawn_blocking(move || match pid {
            Some(pid) if !handles::is_handle(&handle) => {
                let target = Target::Process(pid);
                let namespaces = target.open()?;
                target.check(&namespaces)?;
                pin(&namespaces.network, &handle)
            }
            _ => Ok(()),
        })
        .await?;
        let adopted = ProviderErrors::collect_results(
            join_all(intents(checkpoint).map(|intent| self.providers.adopt(intent))).await,
        );
        let mut errors: Vec<IsolatorError> = pinned.err().into_iter().collect();
        errors.extend(adopted.err().map(IsolatorError::Provider));
        IsolatorError::combine(errors)
    }
}

/// Refuses a container that is attached already, by any instance. Blocks.
fn check_unused(providers: &Providers, networks: &[NetworkRequest]) -> Result<(), IsolatorError> {
    ProviderErrors::collect_results(
        networks
            .iter()
            .map(|network| providers.check_unused(network)),
    )?;
    Ok(())
}

fn intents(checkpoint: &Checkpoint) -> impl Iterator<Item = &Intent> {
    checkpoint.networks.iter().map(|network| &network.intent)
}

/// What the container's first network leads to through a bridge of this host, without routes everything;
/// none if the first network has no bridge: its gateway is elsewhere.
fn bridge_routes(checkpoint: &Checkpoint) -> Option<Vec<IpNet>> {
    match &intents(checkpoint).next()?.provider {
        ProviderIntent::Bridge(bridge) => Some(bridge.routes.clone()),
        _ => None,
    }
}

/// The container's addresses, in the order of its networks.
fn addresses(checkpoint: &Checkpoint, attachments: Option<&[Attachment]>) -> Vec<IpAddr> {
    match attachments {
        Some(attachments) => attachments
            .iter()
            .flat_map(|attached| &attached.addresses)
            .map(IpNet::addr)
            .collect(),
        None => intents(checkpoint)
            .flat_map(|intent| &intent.addresses)
            .map(IpNet::addr)
            .collect(),
    }
}

/// Opens the container's namespaces, and its network namespace once more for the providers.
async fn open(target: Target) -> Result<(Namespaces, OwnedFd), IsolatorError> {
    in_place(move || {
        let namespaces = target.open()?;
        target.check(&namespaces)?;
        let network = namespaces
            .network
            .try_clone()
            .map_err(IsolatorError::Descriptor)?;
        Ok((namespaces, network))
    })
    .await?
}
