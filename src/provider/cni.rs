//! CNI plugins: any network that a file of CNI's directory describes, as network/cni has it.
//!
//! - The intent has the whole configuration that the plugins are given, so that a DEL works when
//!   the file has changed or gone.
//! - Plugins are programs, and here is the only place of the agent that starts any (`plugin`).
//!   A container's networks are attached at the same time, each on a thread of its own, so that a
//!   plugin that hangs holds nobody up, and its time is limited.
//! - DEL always follows an ADD, however that ended; of a chain in reverse order, and one plugin's
//!   failure spares no other.
//! - What plugins make is theirs: nothing on the host is found by name and removed.

mod arguments;
mod attach;
mod chain;
mod outcome;
mod plugin;
mod record;
mod recover;

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fmt;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;

use self::record::Records;
use super::{
    Attachment, BoxError, Intent, Lost, NetworkRequest, Provider, ProviderError, ProviderIntent,
    Statistics, blocking, failed, refused,
};
use crate::config::cni::plugin_type;
use crate::config::{Chain, CniNetwork, Config, NetworkProvider, PluginConfig};
use crate::net::link_watch::LinkWatch;
use crate::net::netns;
use contrail_mesos_api::container::ContainerId;

/// Where programs are, for plugins of an agent that has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the cni provider needs to undo an attach, and to do it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct CniIntent {
    /// The whole configuration of each plugin, in order, with what the container asks for.
    pub plugins: Vec<PluginConfig>,
    /// Where they are looked for.
    pub plugin_dirs: Vec<PathBuf>,
    /// How long they may take together.
    pub deadline: Duration,
    /// The addresses that the framework names.
    #[serde(default)]
    pub asked: Vec<IpAddr>,
}

/// What plugins are configured with may be secret: only their programs are shown.
impl fmt::Debug for CniIntent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types: Vec<&str> = self.plugins.iter().map(plugin_type).collect();
        formatter
            .debug_struct("CniIntent")
            .field("plugins", &types)
            .field("asked", &self.asked)
            .finish_non_exhaustive()
    }
}

/// The provider `cni`, in the network namespace where it was made.
pub struct CniProvider {
    inner: Arc<Inner>,
    _watch: Option<LinkWatch>,
}

/// A container's interface.
type Key = (ContainerId, String);

/// What the provider's threads share.
struct Inner {
    environment: Environment,
    netns_dir: PathBuf,
    records: Records,
    /// The interfaces that are being attached or are, with their host ends.
    attached: Mutex<HashMap<Key, Option<String>>>,
}

/// What plugins find in their environment.
struct Environment {
    path: OsString,
    plugin_dirs: Vec<PathBuf>,
}

/// Our part of an intent; of another provider's intent there is none.
fn own(intent: &Intent) -> Option<&CniIntent> {
    match &intent.provider {
        ProviderIntent::Cni(own) => Some(own),
        _ => None,
    }
}

/// The configuration of a network of ours, and its plugins if the file is good.
fn network(request: &NetworkRequest) -> Result<(&CniNetwork, &Chain), ProviderError> {
    let name = &request.network.name;
    let NetworkProvider::Cni(network) = &request.network.provider else {
        return Err(refused(name, "is no network of CNI plugins"));
    };
    match &network.chain {
        Ok(chain) => Ok((network, chain)),
        Err(message) => Err(refused(
            name,
            format!("{} cannot be used: {message}", network.file.display()),
        )),
    }
}

impl CniProvider {
    /// A provider that keeps its records below the state directory, and tells `lost` of interfaces
    /// whose host end goes away without a detach. Works in the network namespace of the calling
    /// thread, in which all later calls have to be made, too. Changes nothing on the host.
    pub fn new(config: &Config, lost: UnboundedSender<Lost>) -> Result<Self, ProviderError> {
        let fail = |error: BoxError| failed("*", "set up the cni provider", error);
        let inner = Arc::new(Inner {
            environment: Environment {
                path: std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()),
                plugin_dirs: config
                    .cni
                    .as_ref()
                    .map_or_else(Vec::new, |cni| cni.plugin_dirs.clone()),
            },
            netns_dir: config.netns_dir.clone(),
            records: Records::new(&config.state_dir),
            attached: Mutex::default(),
        });
        let watch = config
            .cni
            .as_ref()
            .map(|_| recover::watch(Arc::downgrade(&inner), lost));
        Ok(Self {
            inner,
            _watch: watch.transpose().map_err(|error| fail(error.into()))?,
        })
    }
}

impl Inner {
    fn key(intent: &Intent) -> Key {
        (intent.container.clone(), intent.interface.clone())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Key, Option<String>>> {
        // Each use is one step.
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attached(&self, intent: &Intent, host_end: Option<String>) {
        self.known().insert(Self::key(intent), host_end);
    }

    fn forget(&self, intent: &Intent) {
        self.known().remove(&Self::key(intent));
    }

    fn has(&self, key: &Key) -> bool {
        self.known().contains_key(key)
    }

    /// No longer waits for the host end of an interface; false if nobody did.
    fn lose(&self, key: &Key) -> bool {
        self.known().get_mut(key).and_then(Option::take).is_some()
    }

    fn host_end_of(&self, intent: &Intent) -> Option<String> {
        self.known().get(&Self::key(intent)).cloned().flatten()
    }

    fn host_ends(&self) -> Vec<(Key, String)> {
        self.known()
            .iter()
            .filter_map(|(key, host)| Some((key.clone(), host.clone()?)))
            .collect()
    }

    async fn attach_one(
        self: &Arc<Self>,
        intent: &Intent,
        namespace: BorrowedFd<'_>,
    ) -> Result<Attachment, ProviderError> {
        let network = &intent.network;
        let own = own(intent)
            .cloned()
            .ok_or_else(|| refused(network, "is no network of CNI plugins"))?;
        let namespace = namespace
            .try_clone_to_owned()
            .map_err(|error| failed(network, "keep the container's namespace open", error))?;
        let (inner, of) = (Arc::clone(self), intent.clone());
        // A sweep leaves alone what is known here.
        self.attached(intent, None);
        netns::on_own_thread("cm-cni", move |thread| {
            inner.attach(thread, &of, &own, &namespace)
        })
        .await
        .map_err(|error| failed(network, "attach", error))?
    }
}

#[async_trait]
impl Provider for CniProvider {
    fn validate(&self, request: &NetworkRequest) -> Result<(), Vec<ProviderError>> {
        network(request).map(|_| ()).map_err(|error| vec![error])
    }

    async fn plan(&self, request: &NetworkRequest) -> Result<Vec<String>, Vec<ProviderError>> {
        let (network, chain) = network(request).map_err(|error| vec![error])?;
        let add = |program: &&str| {
            format!(
                "run the CNI plugin {program} of {}: ADD {} for container {}",
                network.file.display(),
                request.interface,
                request.container
            )
        };
        Ok(chain.types().iter().map(add).collect())
    }

    async fn reserve(&self, request: &NetworkRequest) -> Result<Intent, ProviderError> {
        let (network, chain) = network(request)?;
        let plugins = arguments::of_container(&chain.plugins, request);
        let mtu = chain
            .plugins
            .iter()
            .find_map(|plugin| plugin.get("mtu")?.as_u64()?.try_into().ok());
        Ok(Intent {
            container: request.container.clone(),
            network: request.network.name.clone(),
            interface: request.interface.clone(),
            // The plugins choose them.
            addresses: vec![],
            gateways: vec![],
            mac: request.container.mac(&request.interface),
            mtu: mtu.unwrap_or(1500),
            ports: request.ports.clone(),
            dns: request.network.dns.clone().unwrap_or_default(),
            provider: ProviderIntent::Cni(CniIntent {
                plugins,
                plugin_dirs: network.plugin_dirs.clone(),
                deadline: network.deadline,
                asked: arguments::static_addresses(&request.addresses),
            }),
        })
    }

    async fn release(&self, _: &Intent) -> Result<(), Vec<ProviderError>> {
        // Nothing is reserved.
        Ok(())
    }

    async fn attach_all(
        &self,
        intents: &[&Intent],
        namespace: BorrowedFd<'_>,
    ) -> Result<Vec<Attachment>, Vec<ProviderError>> {
        let attached = intents
            .iter()
            .map(|intent| self.inner.attach_one(intent, namespace));
        let mut made = vec![];
        let mut errors = vec![];
        for result in join_all(attached).await {
            match result {
                Ok(attachment) => made.push(attachment),
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(made)
        } else {
            Err(errors)
        }
    }

    async fn detach_all(&self, intents: &[&Intent]) -> Result<(), Vec<ProviderError>> {
        let detached = intents.iter().map(|intent| self.inner.detach_one(intent));
        let errors: Vec<ProviderError> = join_all(detached)
            .await
            .into_iter()
            .filter_map(Result::err)
            .flatten()
            .collect();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    async fn adopt(&self, intent: &Intent) -> Result<(), ProviderError> {
        self.inner.adopt(intent).await
    }

    async fn sweep(
        &self,
        known: &[Intent],
        damaged: &HashSet<ContainerId>,
    ) -> Result<(), Vec<ProviderError>> {
        self.inner.sweep(known, damaged).await
    }

    async fn statistics(&self, intent: &Intent) -> Result<Statistics, ProviderError> {
        self.inner.statistics(intent).await
    }
}

#[cfg(test)]
mod tests;
