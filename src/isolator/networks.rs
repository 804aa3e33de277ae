//! Attaching and detaching all networks of one container: the core that the agent and the
//! command line share. Knows nothing of Mesos' life cycle.
//!
//! Invariants: nothing is made before the checkpoint that names it is durable, and the
//! checkpoint goes last; a failed attach leaves everything to `detach`, which works from the
//! checkpoint alone, is idempotent and collects every error.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::join_all;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::{JoinError, JoinHandle};

use super::checkpoint::{Checkpoint, CheckpointError, Checkpoints, ExecutorKey, Found, Owner};
use super::error::IsolatorError;
use super::etc_files;
pub use super::target::Target;
use super::target::{Namespaces, pin};
use crate::config::{Config, Dns};
use crate::net::netns::{self, handles};
use crate::network_request::Request;
use crate::provider::{Attachment, Intent, Lost, Provider, ProviderError, Providers};
use contrail_mesos_api::container::ContainerId;

/// The networks of all containers of one state directory.
pub struct Networks {
    providers: Arc<Providers>,
    checkpoints: Checkpoints,
    netns_dir: PathBuf,
    /// Intents that are on their way to the disk.
    syncing: Mutex<HashMap<ContainerId, Syncing>>,
}

type Syncing = JoinHandle<Result<Result<(), CheckpointError>, JoinError>>;

impl Networks {
    /// As configured; interfaces that vanish are reported to `lost`.
    pub fn new(config: &Config, lost: UnboundedSender<Lost>) -> Result<Self, IsolatorError> {
        let providers =
            Providers::new(config, lost).map_err(|error| IsolatorError::Provider(vec![error]))?;
        Ok(Self {
            providers: Arc::new(providers),
            checkpoints: Checkpoints::new(&config.state_dir),
            netns_dir: config.netns_dir.clone(),
            syncing: Mutex::default(),
        })
    }

    /// Where the checkpoints are.
    #[must_use]
    pub fn checkpoints(&self) -> &Checkpoints {
        &self.checkpoints
    }

    /// The provider of an intent.
    #[must_use]
    pub fn provider(&self, intent: &Intent) -> &dyn Provider {
        self.providers.of_intent(intent)
    }

    /// The handle to the container's network namespace, for `ip netns exec`. An operator's
    /// attachment has none of ours: its namespace is the operator's, and may have that very name.
    #[must_use]
    pub fn handle(&self, checkpoint: &Checkpoint) -> Option<PathBuf> {
        (checkpoint.owner == Owner::Agent).then(|| self.handle_of(&checkpoint.container))
    }

    fn handle_of(&self, container: &ContainerId) -> PathBuf {
        self.netns_dir.join(container.file_name())
    }

    /// Refuses what cannot be, with every reason, touching nothing.
    pub fn validate(&self, request: &Request) -> Result<(), IsolatorError> {
        let errors: Vec<ProviderError> = request
            .networks
            .iter()
            .filter_map(|network| self.providers.of(&network.network).validate(network).err())
            .flatten()
            .collect();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(IsolatorError::Provider(errors))
        }
    }

    /// Every change that an attach would make, in order, for a person to read. Makes none.
    pub async fn plan(&self, request: &Request) -> Result<Vec<String>, IsolatorError> {
        self.validate(request)?;
        let mut plan = Vec::new();
        for network in &request.networks {
            let provider = self.providers.of(&network.network);
            plan.extend(
                provider
                    .plan(network)
                    .await
                    .map_err(IsolatorError::Provider)?,
            );
        }
        Ok(plan)
    }

    /// Reserves what the request needs and writes the intent, which is durable before `attach`
    /// makes anything.
    pub async fn reserve(
        &self,
        request: &Request,
        container: &ContainerId,
        owner: Owner,
        executor: Option<ExecutorKey>,
    ) -> Result<Checkpoint, IsolatorError> {
        self.validate(request)?;
        let mut intents = Vec::new();
        for network in &request.networks {
            match self.providers.of(&network.network).reserve(network).await {
                Ok(intent) => intents.push(intent),
                Err(error) => {
                    let errors = std::iter::once(error).chain(self.release(&intents).await);
                    return Err(IsolatorError::Provider(errors.collect()));
                }
            }
        }
        let checkpoint = Checkpoint::new(container, owner, executor, request, intents);
        let checkpoints = self.checkpoints.clone();
        let written = blocking("prepare", move || {
            let written = checkpoints.write_intent(&checkpoint);
            (checkpoint, written)
        });
        let (checkpoint, written) = written.await?;
        let file = match written {
            Ok(file) => file,
            Err(error) => {
                let intents: Vec<Intent> = intents_of(&checkpoint).cloned().collect();
                for error in self.release(&intents).await {
                    log::error!(container:% = container, error:% = error; "cannot release a reservation");
                }
                return Err(error.into());
            }
        };
        // The disk works while the agent forks, and so do the providers once it is done; `attach`
        // waits for both before it makes anything.
        let checkpoints = self.checkpoints.clone();
        let providers = Arc::clone(&self.providers);
        let intents: Vec<Intent> = intents_of(&checkpoint).cloned().collect();
        let id = container.clone();
        let syncing = tokio::spawn(async move {
            let synced = tokio::task::spawn_blocking(move || checkpoints.sync_intent(&id, &file));
            let synced = synced.await;
            if matches!(synced, Ok(Ok(()))) {
                providers.start(&intents.iter().collect::<Vec<_>>());
            }
            synced
        });
        self.syncing().insert(container.clone(), syncing);
        Ok(checkpoint)
    }

    async fn release(&self, intents: &[Intent]) -> Vec<ProviderError> {
        let released = intents
            .iter()
            .map(|intent| self.provider(intent).release(intent));
        join_all(released)
            .await
            .into_iter()
            .filter_map(Result::err)
            .flatten()
            .collect()
    }

    /// Writes the container's files below /etc, as far as addresses and resolvers are known.
    pub async fn write_etc_files(
        &self,
        checkpoint: &Checkpoint,
        made: Option<&[Attachment]>,
    ) -> Result<(), IsolatorError> {
        let addresses = addresses(checkpoint, made);
        let dns: Vec<&Dns> = match made {
            Some(made) => made.iter().map(|made| &made.dns).collect(),
            None => intents_of(checkpoint).map(|intent| &intent.dns).collect(),
        };
        let dns = etc_files::merge(dns);
        let directory = self.checkpoints.directory(&checkpoint.container);
        let hostname = checkpoint.hostname.clone();
        blocking("writing the files below /etc", move || {
            etc_files::write(&directory, &hostname, &addresses, &dns)
        })
        .await?
        .map_err(Into::into)
    }

    /// Attaches the container whose namespaces are those of process `pid`: the handle, loopback,
    /// the hostname, and every network.
    pub async fn attach(
        &self,
        checkpoint: &Checkpoint,
        target: Target,
    ) -> Result<Vec<Attachment>, IsolatorError> {
        self.durable(&checkpoint.container).await?;
        let (namespaces, network) = open(target).await?;
        let intents: Vec<&Intent> = intents_of(checkpoint).collect();
        let attached = self.providers.attach_all(&intents, network.as_fd());
        // Neither needs the other, and each has its own thread.
        let (set_up, attached) = tokio::join!(self.set_up(checkpoint, namespaces), attached);
        let (made, failed) = match attached {
            Ok(made) => (made, None),
            Err(errors) => (vec![], Some(IsolatorError::Provider(errors))),
        };
        IsolatorError::all(set_up.err().into_iter().chain(failed).collect())?;
        let differs = intents_of(checkpoint)
            .zip(&made)
            .any(|(intent, made)| intent.dns != made.dns || intent.addresses != made.addresses);
        if differs {
            self.write_etc_files(checkpoint, Some(&made)).await?;
        }
        let checkpoints = self.checkpoints.clone();
        let container = checkpoint.container.clone();
        let (made, written) = blocking("isolate", move || {
            let written = checkpoints.write_attached(&container, &made);
            (made, written)
        })
        .await?;
        written?;
        Ok(made)
    }

    /// Waits until the intent is on the disk: nothing is made before.
    async fn durable(&self, container: &ContainerId) -> Result<(), IsolatorError> {
        let syncing = self.syncing().remove(container);
        // Without one the intent is from before a restart, and was synced then.
        match syncing {
            Some(syncing) => syncing
                .await
                .flatten()
                .map_err(|_| IsolatorError::Internal("isolate"))?
                .map_err(Into::into),
            None => Ok(()),
        }
    }

    fn syncing(&self) -> MutexGuard<'_, HashMap<ContainerId, Syncing>> {
        // Each use is one step.
        self.syncing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pins the handle and sets the hostname: what is the same for every provider.
    async fn set_up(
        &self,
        checkpoint: &Checkpoint,
        namespaces: Namespaces,
    ) -> Result<(), IsolatorError> {
        let handle = self.handle(checkpoint);
        let hostname = checkpoint.hostname.clone();
        let network = namespaces.network;
        if let Some(handle) = handle {
            blocking("isolate", move || pin(network, &handle)).await??;
        }
        if let Some(uts) = namespaces.uts {
            netns::set_hostname(uts, hostname).await?;
        }
        Ok(())
    }

    /// Detaches every network, then forgets the container. Idempotent; the checkpoint stays as
    /// long as anything else does.
    pub async fn detach(&self, checkpoint: &Checkpoint) -> Result<(), IsolatorError> {
        let syncing = self.syncing().remove(&checkpoint.container);
        if let Some(syncing) = syncing {
            // What is started now would not be undone.
            let _ = syncing.await;
        }
        let intents: Vec<&Intent> = intents_of(checkpoint).collect();
        let detached = self.providers.detach_all(&intents).await;
        let mut errors: Vec<IsolatorError> = detached
            .err()
            .map(IsolatorError::Provider)
            .into_iter()
            .collect();
        let handle = self.handle(checkpoint);
        let forgotten = self.forget(&checkpoint.container, handle, errors.is_empty());
        errors.extend(forgotten.await.err());
        IsolatorError::all(errors)
    }

    /// Removes the handle to the namespace and, if `checkpoint_too`, the container's directory.
    async fn forget(
        &self,
        container: &ContainerId,
        handle: Option<PathBuf>,
        checkpoint_too: bool,
    ) -> Result<(), IsolatorError> {
        let checkpoints = self.checkpoints.clone();
        let container = container.clone();
        blocking("cleanup", move || {
            if let Some(handle) = handle {
                handles::unpin(&handle)?;
            }
            if checkpoint_too {
                checkpoints.remove(&container)?;
            }
            Ok(())
        })
        .await?
    }

    /// Removes whatever is ours by name and belongs to no container of `keep`: what is left of a
    /// container whose checkpoint is lost.
    pub async fn sweep(&self, keep: &HashSet<ContainerId>) -> Result<(), IsolatorError> {
        let checkpoints = self.checkpoints.clone();
        let found = blocking("recover", move || checkpoints.find()).await??;
        let mut known = Vec::new();
        let mut damaged = keep.clone();
        for found in found {
            let Found::Container(checkpoint, _) = found else {
                continue;
            };
            let kept = damaged.remove(&checkpoint.container);
            if kept || checkpoint.owner == Owner::Operator {
                known.extend(intents_of(&checkpoint).cloned());
            }
        }
        self.providers
            .sweep(&known, &damaged)
            .await
            .map_err(IsolatorError::Provider)
    }

    /// As [`Networks::detach`], for a container whose checkpoint is lost.
    pub async fn detach_unknown(
        &self,
        container: &ContainerId,
        keep: &HashSet<ContainerId>,
    ) -> Result<(), IsolatorError> {
        let swept = self.sweep(keep).await;
        let handle = Some(self.handle_of(container));
        let forgotten = self.forget(container, handle, swept.is_ok()).await;
        IsolatorError::all(
            [swept, forgotten]
                .into_iter()
                .filter_map(Result::err)
                .collect(),
        )
    }

    /// Takes a container over after a restart: every network, and the handle if that is gone and
    /// a process of the container is known.
    pub async fn adopt(
        &self,
        checkpoint: &Checkpoint,
        pid: Option<u32>,
    ) -> Result<(), IsolatorError> {
        let handle = self.handle_of(&checkpoint.container);
        let pinned = blocking("recover", move || match pid {
            Some(pid) if !handles::is_handle(&handle) => {
                let target = Target::Process(pid);
                let namespaces = target.open()?;
                target.check(&namespaces)?;
                pin(&namespaces.network, &handle)
            }
            _ => Ok(()),
        });
        let mut errors: Vec<IsolatorError> = pinned.await?.err().into_iter().collect();
        let adopted =
            join_all(intents_of(checkpoint).map(|intent| self.provider(intent).adopt(intent)));
        let lost: Vec<ProviderError> = adopted.await.into_iter().filter_map(Result::err).collect();
        if !lost.is_empty() {
            errors.push(IsolatorError::Provider(lost));
        }
        IsolatorError::all(errors)
    }
}

fn intents_of(checkpoint: &Checkpoint) -> impl Iterator<Item = &Intent> {
    checkpoint.networks.iter().map(|network| &network.intent)
}

/// The container's addresses, in the order of its networks.
pub(super) fn addresses(checkpoint: &Checkpoint, made: Option<&[Attachment]>) -> Vec<IpAddr> {
    match made {
        Some(made) => made
            .iter()
            .flat_map(|made| &made.addresses)
            .map(ipnet::IpNet::addr)
            .collect(),
        None => intents_of(checkpoint)
            .flat_map(|intent| &intent.addresses)
            .map(ipnet::IpNet::addr)
            .collect(),
    }
}

/// Opens the container's namespaces.
async fn open(target: Target) -> Result<(Namespaces, OwnedFd), IsolatorError> {
    blocking("isolate", move || {
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

/// Runs what blocks on the kernel or a file system away from the threads that everybody shares.
async fn blocking<T: Send + 'static>(
    step: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, IsolatorError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| IsolatorError::Internal(step))
}
