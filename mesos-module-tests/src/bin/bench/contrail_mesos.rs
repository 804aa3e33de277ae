//! contrail-mesos: what the isolator does for a container in prepare, isolate and cleanup.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use contrail_mesos::config::{Config, Source};
use contrail_mesos::isolator::attacher::{Attacher, Target};
use contrail_mesos::isolator::checkpoint::{Checkpoint, Owner};
use contrail_mesos::network_request;
use contrail_mesos::proto::mesos::network_info::PortMapping;
use contrail_mesos::proto::mesos::{ContainerInfo, NetworkInfo, container_info};
use contrail_mesos_api::container::ContainerId;
use futures::future::join_all;
use tokio::sync::mpsc::unbounded_channel;

use crate::subject::{Attach, Container};

pub(crate) struct ContrailMesos {
    runtime: tokio::runtime::Runtime,
    config: Config,
    attacher: Attacher,
    attached: HashMap<String, Checkpoint>,
}

/// A request for the network `bench`, with these host ports mapped.
pub(crate) fn bench_network(ports: impl IntoIterator<Item = u16>) -> NetworkInfo {
    NetworkInfo {
        name: Some(b"bench".to_vec()),
        port_mappings: ports
            .into_iter()
            .map(|port| PortMapping {
                host_port: port.into(),
                container_port: 80,
                protocol: None,
            })
            .collect(),
        ..NetworkInfo::default()
    }
}

impl ContrailMesos {
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        Self::with_networks(
            directory,
            "[[network]]\nname = 'bench'\nprovider = 'bridge'\nsubnet = '10.99.0.0/16'\n\
             # As the peer is configured here.\nmasquerade = false\n",
        )
    }

    /// With other networks, one of which is `bench`.
    pub(crate) fn with_networks(directory: &Path, networks: &str) -> Result<Self> {
        let path = directory.join("agent.toml");
        let directory = directory.display();
        fs::write(
            &path,
            format!(
                "state_dir = '{directory}/state'\nnetns_dir = '{directory}/run/netns'\n{networks}"
            ),
        )?;
        let config = Source::file(path).load()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let (lost, _nobody_waits) = unbounded_channel();
        let attacher = runtime.block_on(async { Attacher::new(&config, lost) })?;
        Ok(Self {
            runtime,
            config,
            attacher,
            attached: HashMap::new(),
        })
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Attaches a container to these networks.
    pub(crate) fn attach_to(
        &mut self,
        container: &Container,
        network_infos: Vec<NetworkInfo>,
    ) -> Result<()> {
        let id = ContainerId::top_level(&container.id);
        let target = Target::Namespace(container.path.clone());
        let info = ContainerInfo {
            r#type: container_info::Type::Mesos.into(),
            hostname: None,
            network_infos,
        };
        let attacher = &self.attacher;
        let config = &self.config;
        let checkpoint = self.runtime.block_on(async {
            let request = network_request::parse(&id, &info, config)?;
            let checkpoint = attacher.reserve(&request, &id, Owner::Agent, None).await?;
            attacher.write_etc_files(&checkpoint, None).await?;
            attacher.attach(&checkpoint, target).await?;
            Ok::<_, anyhow::Error>(checkpoint)
        })?;
        self.attached.insert(container.id.clone(), checkpoint);
        Ok(())
    }
}

impl Attach for ContrailMesos {
    fn attach(&mut self, container: &Container) -> Result<()> {
        self.attach_to(container, vec![bench_network(container.port)])
    }

    fn detach(&mut self, container: &Container) -> Result<()> {
        let checkpoint = self
            .attached
            .remove(&container.id)
            .context("was never attached")?;
        self.runtime.block_on(self.attacher.detach(&checkpoint))?;
        Ok(())
    }

    fn detach_all(&mut self, containers: &[Container]) -> Result<()> {
        let checkpoints: Vec<_> = containers
            .iter()
            .filter_map(|container| self.attached.remove(&container.id))
            .collect();
        let detached = join_all(
            checkpoints
                .iter()
                .map(|checkpoint| self.attacher.detach(checkpoint)),
        );
        for result in self.runtime.block_on(detached) {
            result?;
        }
        Ok(())
    }
}
