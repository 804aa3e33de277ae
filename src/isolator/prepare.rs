//! prepare: decide how the container meets the network, reserve, and make the intent durable.

use std::path::Path;
use std::sync::Arc;

use super::checkpoint::Owner;
use super::container::{Container, Known};
use super::{Isolator, IsolatorError, etc_files, executor_key, launch, step, summary};
use crate::network_request;
use crate::proto::mesos::slave::{ContainerClass, ContainerConfig, ContainerLaunchInfo};
use contrail_mesos_api::container::ContainerId;

impl Isolator {
    /// What to launch the container with; `None` for one that we have nothing to do with.
    pub async fn prepare(
        self: &Arc<Self>,
        id: &ContainerId,
        config: ContainerConfig,
    ) -> Result<Option<ContainerLaunchInfo>, IsolatorError> {
        if let Some(parent) = id.parent() {
            let debug = config.container_class() == ContainerClass::Debug;
            if debug || !asks_for_networks(&config) {
                return self.prepare_joining(&parent, &config, debug);
            }
        } else if !asks_for_networks(&config) {
            return prepare_host_network(&config);
        }
        let isolator = self.clone();
        let container = id.clone();
        let prepared = step("prepare", self.deadlines.prepare, async move {
            isolator.prepare_own_networks(container, config).await
        })
        .await;
        if let Err(error) = &prepared {
            log::error!(container:% = id, error:% = error; "prepare failed");
        }
        prepared.map(Some)
    }

    async fn prepare_own_networks(
        &self,
        id: ContainerId,
        config: ContainerConfig,
    ) -> Result<ContainerLaunchInfo, IsolatorError> {
        if self.container(&id).is_some() {
            return Err(IsolatorError::Exists(id.to_string()));
        }
        let executor = executor_key(config.executor_info.as_ref());
        let container = Arc::new(Container::new(id.clone(), executor, Known::default()));
        let _gate = container.gate.lock().await;
        self.insert(container.clone());
        let prepared = self.reserve(&container, &config).await;
        if prepared.is_err() && container.known().checkpoint.is_none() {
            self.remove(&id);
        }
        prepared
    }

    async fn reserve(
        &self,
        container: &Container,
        config: &ContainerConfig,
    ) -> Result<ContainerLaunchInfo, IsolatorError> {
        let source = self.source.clone();
        let networks = tokio::task::spawn_blocking(move || source.load())
            .await
            .map_err(|_| IsolatorError::Internal("reading the configuration"))??;
        let info = config.container_info.clone().unwrap_or_default();
        let request = network_request::request(&container.id, &info, &networks)?;
        let executor = container.executor.clone();
        let checkpoint = self
            .networks
            .reserve(&request, &container.id, Owner::Agent, executor)
            .await?;
        container.known().checkpoint = Some(checkpoint.clone());
        self.networks.write_etc_files(&checkpoint, None).await?;
        let directory = self.networks.checkpoints().directory(&container.id);
        let mounts = etc_files::mounts(&directory, launch::rootfs(config).as_deref())?;
        log::info!(container:% = container.id; "prepared: {}", summary(&checkpoint));
        Ok(launch::own_networks(mounts))
    }

    /// A nested container that shares its parent's network, whatever that is.
    fn prepare_joining(
        &self,
        parent: &ContainerId,
        config: &ContainerConfig,
        debug: bool,
    ) -> Result<Option<ContainerLaunchInfo>, IsolatorError> {
        let Some(owner) = self.owner(parent) else {
            return prepare_host_network(config);
        };
        // A DEBUG container shares its parent's mounts as well, so the files are there already.
        let directory = self.networks.checkpoints().directory(&owner.id);
        let mounts = if debug || !directory.join("hosts").exists() {
            vec![]
        } else {
            etc_files::mounts(&directory, launch::rootfs(config).as_deref())?
        };
        Ok(Some(launch::joining(mounts)))
    }
}

fn asks_for_networks(config: &ContainerConfig) -> bool {
    config
        .container_info
        .as_ref()
        .is_some_and(network_request::asks_for_networks)
}

/// On the host's network only an image's files need us, since network/cni is not there to do it.
fn prepare_host_network(
    config: &ContainerConfig,
) -> Result<Option<ContainerLaunchInfo>, IsolatorError> {
    let Some(rootfs) = launch::rootfs(config) else {
        return Ok(None);
    };
    let mounts = etc_files::host_mounts(Path::new(&rootfs))?;
    Ok(Some(launch::host_network(mounts)))
}
