//! CNI plugins: any network that a file of CNI's directory describes, as with network/cni.
//!
//! - The intent has the whole configuration of the plugins, so a DEL works even if the file was
//!   changed or removed.
//! - Plugins are programs, and this is the only place of the agent that starts any (`plugin`).
//!   The networks of a container are attached concurrently, each on its own thread, so that a
//!   plugin that hangs does not delay the others, and its time is limited.
//! - A DEL follows every ADD, whatever its result; it runs a chain in reverse order, and runs the
//!   other plugins even if one fails.
//! - A DEL that fails does not keep the container: it becomes a pending teardown, which is retried
//!   a limited number of times.
//! - Plugins own what they create: nothing on the host is found by name and removed.

mod arguments;
mod chain;
mod driver;
mod plugin;
mod processes;
mod record;
mod result;
#[cfg(test)]
mod root_tests;
mod versions;

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;

use self::arguments::LabelCapabilities;
use self::driver::CniDriver;
pub(super) use self::driver::CniStray;
use self::versions::PluginVersions;
use super::inspection::{ExpectedInterface, container_side};
use super::stray::{ProviderStray, StrayKind, StrayOrigin, SweepScope};
use super::{
    Attachment, BoxError, Intent, LostInterface, NetworkRequest, Provider, ProviderError,
    ProviderErrors, Statistics, failed, refused,
};
use crate::config::cni::plugin_type;
use crate::config::{Chain, CniNetwork, Config, ConfigProblem, NetworkProvider, PluginConfig};
use crate::net::link_watch::LinkWatch;
use contrail_mesos_api::container::ContainerId;

/// The `PATH` of plugins if the agent has none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The MTU of a network whose plugins configure none.
const DEFAULT_MTU: u32 = 1500;

/// The cni provider's part of an intent. Part of the checkpoint.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct CniIntent {
    /// The whole configuration of each plugin, in order, with the container's requests.
    pub plugins: Vec<PluginConfig>,
    /// The directories of the plugins.
    pub plugin_dirs: Vec<PathBuf>,
    /// How long they may take together.
    pub deadline: Duration,
    /// The static addresses that the framework requests.
    #[serde(default, rename = "asked")]
    pub requested_addresses: Vec<IpAddr>,
    /// `CNI_ARGS`; empty for none.
    #[serde(default)]
    pub arguments: String,
}

/// Plugin configurations may have secrets, so only the plugins' types are shown.
impl fmt::Debug for CniIntent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types: Vec<&str> = self.plugins.iter().map(plugin_type).collect();
        formatter
            .debug_struct("CniIntent")
            .field("plugins", &types)
            .field("requested_addresses", &self.requested_addresses)
            .finish_non_exhaustive()
    }
}

/// An interface that its container no longer needs, and that its plugins failed to tear down.
#[derive(Clone, Debug)]
pub struct FailedDel {
    intent: Intent<CniIntent>,
    error: String,
}

impl FailedDel {
    /// The container, which has ended.
    #[must_use]
    pub fn container(&self) -> &ContainerId {
        &self.intent.container
    }

    /// Why the last DEL failed.
    #[must_use]
    pub fn error(&self) -> &str {
        &self.error
    }
}

/// The provider `cni`, for the network namespace in which it was created.
pub struct CniProvider {
    driver: Arc<CniDriver>,
    _watch: Option<LinkWatch>,
}

/// The environment of plugins that does not depend on the container.
struct PluginEnvironment {
    path: OsString,
    plugin_dirs: Vec<PathBuf>,
}

impl PluginEnvironment {
    fn new(config: &Config) -> Self {
        Self {
            path: std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()),
            plugin_dirs: config
                .cni
                .as_ref()
                .map_or_else(Vec::new, |cni| cni.plugin_dirs.clone()),
        }
    }
}

/// How many pending teardowns are DELs of plugins that have failed. Blocks on the file system.
pub fn count_failed_dels(state_dir: &Path) -> io::Result<usize> {
    let records = record::Records::new(state_dir).all()?;
    let intact = records.into_iter().flatten();
    Ok(intact.filter(|record| record.teardown.is_some()).count())
}

/// Why CNI networks of the configuration would refuse every container although their files are
/// valid, by network: their plugins support no common version. Blocks: it runs plugins.
#[must_use]
pub fn version_problems(config: &Config) -> Vec<ConfigProblem> {
    let environment = PluginEnvironment::new(config);
    let known = PluginVersions::default();
    let mut problems = vec![];
    for network in &config.networks {
        let NetworkProvider::Cni(cni) = &network.provider else {
            continue;
        };
        if let Ok(chain) = &cni.chain
            && let Err(error) = known.choose(chain, &cni.plugin_dirs, &environment)
        {
            problems.push(ConfigProblem {
                place: cni.file.display().to_string(),
                key: String::new(),
                message: format!("network {:?}: {error}", network.name),
            });
        }
    }
    problems
}

/// The plugins of a network, if its configuration file is valid.
fn chain<'a>(name: &str, network: &'a CniNetwork) -> Result<&'a Chain, ProviderError> {
    network.chain.as_ref().map_err(|message| {
        refused(
            name,
            format!("{} cannot be used: {message}", network.file.display()),
        )
    })
}

impl CniProvider {
    /// Creates a provider that keeps its records below the state directory and reports interfaces
    /// whose host end is deleted without a detach to `lost`. It works in the network namespace of
    /// the calling thread; all later calls must be made there, too. Changes nothing on the host.
    pub fn new(
        config: &Config,
        lost: UnboundedSender<LostInterface>,
    ) -> Result<Self, ProviderError> {
        let driver = Arc::new(CniDriver::new(config, PluginEnvironment::new(config)));
        let watch = config
            .cni
            .as_ref()
            .map(|_| driver::watch(Arc::downgrade(&driver), lost))
            .transpose()
            .map_err(|error| failed("*", "set up the cni provider", BoxError::from(error)))?;
        Ok(Self {
            driver,
            _watch: watch,
        })
    }
}

impl CniProvider {
    /// Whether there is a record of this container. Blocks.
    pub(super) fn has_record(&self, container: &ContainerId) -> bool {
        self.driver.records.has_records(container)
    }

    /// The records of plugins that belong to no container of the scope. Blocks.
    pub(super) fn strays(
        &self,
        scope: impl FnOnce() -> Result<SweepScope<CniIntent>, ProviderErrors>,
    ) -> Result<Vec<ProviderStray>, ProviderErrors> {
        let describe = |stray: CniStray| {
            let (object, container, network) = match &stray {
                CniStray::Record(intent) => (
                    intent.interface.clone(),
                    Some(intent.container.file_name()),
                    Some(intent.network.clone()),
                ),
                CniStray::Unreadable(path) => (path.display().to_string(), None, None),
            };
            ProviderStray {
                kind: StrayKind::CniRecord,
                object,
                container,
                network,
                origin: StrayOrigin::Cni(stray),
            }
        };
        Ok(self
            .driver
            .strays(scope)?
            .into_iter()
            .map(describe)
            .collect())
    }

    /// Runs the plugins' DEL for those of `strays` that still belong to no container of the scope.
    pub(super) async fn remove_strays(
        &self,
        strays: Vec<CniStray>,
        scope: impl FnOnce() -> Result<SweepScope<CniIntent>, ProviderErrors> + Send + 'static,
    ) -> Result<(), ProviderErrors> {
        self.driver.remove_strays(strays, scope).await
    }

    /// The interfaces whose plugins have yet to tear them down, by container. An agent retries them
    /// in the background. Blocks on the file system.
    #[must_use]
    pub fn failed_dels(&self) -> Vec<FailedDel> {
        self.driver.failed_dels()
    }

    /// Gives up a DEL that failed: forgets the interface, and returns what its plugins may have left, a
    /// sentence each.
    pub async fn abandon_del(&self, del: &FailedDel) -> Result<Vec<String>, ProviderError> {
        self.driver.abandon(&del.intent).await
    }

    /// Gives up the records of a container's interfaces that cannot be read, as
    /// [`CniProvider::abandon_del`]. Blocks on the file system.
    pub(super) fn abandon_records(
        &self,
        container: &ContainerId,
    ) -> Result<Vec<String>, ProviderError> {
        self.driver.abandon_records(container)
    }

    /// Runs the plugins' DEL again now. Does nothing if it is complete already.
    pub async fn retry_del(&self, del: &FailedDel) -> Result<(), ProviderErrors> {
        self.driver.retry_now(&del.intent).await
    }
}

#[async_trait]
impl Provider for CniProvider {
    type Network = CniNetwork;
    type Intent = CniIntent;

    fn validate(
        &self,
        request: &NetworkRequest,
        network: &CniNetwork,
    ) -> Result<(), ProviderErrors> {
        let name = &request.network.name;
        let chain = chain(name, network)?;
        LabelCapabilities::parse(request, &chain.plugins).map_err(|problems| {
            problems
                .into_iter()
                .map(|problem| refused(name, problem))
                .collect::<ProviderErrors>()
        })?;
        Ok(())
    }

    async fn plan(
        &self,
        request: &NetworkRequest,
        network: &CniNetwork,
    ) -> Result<Vec<String>, ProviderErrors> {
        let plugins = self.driver.choose_version(request, network).await?;
        Ok(plugins
            .iter()
            .map(|plugin| {
                format!(
                    "run the CNI plugin {} of {}: ADD {} for container {}",
                    plugin_type(plugin),
                    network.file.display(),
                    request.interface,
                    request.container
                )
            })
            .collect())
    }

    fn check_unused(&self, request: &NetworkRequest) -> Result<(), ProviderError> {
        if !self
            .driver
            .records
            .has_record(&request.container, &request.interface)
        {
            return Ok(());
        }
        Err(refused(
            &request.network.name,
            format!(
                "the interface {} of container {} is attached already; detach it first",
                request.interface, request.container
            ),
        ))
    }

    async fn reserve(
        &self,
        request: &NetworkRequest,
        network: &CniNetwork,
    ) -> Result<Intent<CniIntent>, ProviderError> {
        let plugins = self.driver.choose_version(request, network).await?;
        let labels = LabelCapabilities::parse(request, &plugins)
            .map_err(|problems| refused(&request.network.name, problems.join("; ")))?;
        let mtu = plugins
            .iter()
            .find_map(|plugin| plugin.get("mtu")?.as_u64()?.try_into().ok());
        Ok(Intent {
            container: request.container.clone(),
            network: request.network.name.clone(),
            interface: request.interface.clone(),
            // The plugins assign them.
            addresses: vec![],
            gateways: vec![],
            mac: request.container.mac(&request.interface),
            mtu: mtu.unwrap_or(DEFAULT_MTU),
            ports: request.ports.clone(),
            dns: request.network.dns.clone().unwrap_or_default(),
            provider: CniIntent {
                arguments: arguments::cni_args(&plugins, request),
                plugins: arguments::container_plugins(&plugins, request, &labels),
                plugin_dirs: network.plugin_dirs.clone(),
                deadline: network.deadline,
                requested_addresses: arguments::static_addresses(&request.addresses),
            },
        })
    }

    async fn release(&self, _: &Intent<CniIntent>) -> Result<(), ProviderErrors> {
        // `reserve` reserves nothing.
        Ok(())
    }

    async fn attach_all(
        &self,
        intents: &[Intent<CniIntent>],
        namespace: BorrowedFd<'_>,
    ) -> Result<Vec<Attachment>, ProviderErrors> {
        let attaches = intents
            .iter()
            .map(|intent| self.driver.attach(intent, namespace));
        ProviderErrors::collect_results(join_all(attaches).await)
    }

    async fn detach_all(&self, intents: &[Intent<CniIntent>]) -> Result<(), ProviderErrors> {
        let detaches = intents.iter().map(|intent| self.driver.detach(intent));
        ProviderErrors::collect_results(join_all(detaches).await).map(drop)
    }

    async fn remove_container(&self, container: &ContainerId) -> Result<(), ProviderErrors> {
        self.driver.remove_container(container).await
    }

    async fn adopt(&self, intent: &Intent<CniIntent>) -> Result<(), ProviderError> {
        self.driver.adopt(intent).await
    }

    async fn sweep(
        &self,
        known: &[Intent<CniIntent>],
        damaged: &HashSet<ContainerId>,
    ) -> Result<(), ProviderErrors> {
        self.driver.sweep(known, damaged).await
    }

    async fn statistics(&self, intent: &Intent<CniIntent>) -> Result<Statistics, ProviderError> {
        self.driver.statistics(intent).await
    }

    async fn inspect(
        &self,
        intent: &Intent<CniIntent>,
        attachment: Option<&Attachment>,
        namespace: Option<BorrowedFd<'_>>,
    ) -> Vec<String> {
        let (Some(attachment), Some(namespace)) = (attachment, namespace) else {
            return vec![];
        };
        let expected = ExpectedInterface {
            name: intent.interface.clone(),
            mac: Some(attachment.mac).filter(|mac| mac.0 != [0; 6]),
            addresses: attachment.addresses.clone(),
            // The plugins choose the routes.
            ..ExpectedInterface::default()
        };
        container_side(expected, namespace).await
    }
}
