//! A core that does as the network's name says. It shows on a real agent what the border does
//! with answers, failures, panics and silence; it knows no network. Feature `module-fake` only.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;

use super::core::{Core, Failure};
use crate::container::ContainerId;
use crate::proto::mesos::network_info::IpAddress;
use crate::proto::mesos::slave::{
    ContainerConfig, ContainerLaunchInfo, ContainerLimitation, ContainerState,
};
use crate::proto::mesos::{
    self, ContainerStatus, ExecutorInfo, Label, Labels, NetworkInfo, ResourceStatistics,
};

/// What the core knows: containers and the name of their network.
pub(super) struct Fake {
    containers: Mutex<HashMap<ContainerId, String>>,
}

/// Says that a work was dropped half-way.
struct Guard(String);

impl Drop for Guard {
    fn drop(&mut self) {
        log::info!("FAKE dropped {}", self.0);
    }
}

impl Fake {
    pub(super) fn new(parameters: &[(String, String)]) -> Result<Self, String> {
        log::info!("FAKE created with {parameters:?}");
        match parameters.iter().find(|(key, _)| key == "refuse") {
            Some((_, value)) => Err(format!("parameter refuse={value}: told to refuse")),
            None => Ok(Self {
                containers: Mutex::default(),
            }),
        }
    }

    fn network(&self, id: &ContainerId) -> Option<String> {
        self.containers.lock().ok()?.get(id).cloned()
    }
}

#[async_trait]
impl Core for Fake {
    async fn recover(
        &self,
        states: Vec<ContainerState>,
        orphans: Vec<mesos::ContainerId>,
    ) -> Result<(), Failure> {
        for state in states {
            let id = ContainerId::from(&state.container_id);
            log::info!(
                "FAKE recover {id} pid {} directory {}",
                state.pid,
                state.directory.len()
            );
            if let Ok(mut containers) = self.containers.lock() {
                containers.insert(id, "recovered".to_owned());
            }
        }
        for orphan in orphans {
            log::info!("FAKE orphan {}", ContainerId::from(&orphan));
        }
        Ok(())
    }

    async fn prepare(
        &self,
        id: &ContainerId,
        config: ContainerConfig,
    ) -> Result<Option<ContainerLaunchInfo>, Failure> {
        let name = config
            .container_info
            .and_then(|info| info.network_infos.into_iter().next())
            .and_then(|info| info.name)
            .map(|name| String::from_utf8_lossy(name.as_ref()).into_owned());
        log::info!("FAKE prepare {id} network {name:?}");
        let Some(name) = name else { return Ok(None) };
        let guard = Guard(format!("prepare {id}"));
        match name.as_str() {
            "fail-prepare" => return Err("no address left on network fail-prepare".into()),
            "panic-prepare" => panic!("told to panic"),
            "never" => std::future::pending().await,
            "slow" => tokio::time::sleep(Duration::from_secs(3)).await,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
        std::mem::forget(guard);
        if let Ok(mut containers) = self.containers.lock() {
            containers.insert(id.clone(), name);
        }
        Ok(Some(ContainerLaunchInfo {
            clone_namespaces: vec![nix::sched::CloneFlags::CLONE_NEWNET.bits()],
            ..ContainerLaunchInfo::default()
        }))
    }

    async fn isolate(&self, id: &ContainerId, pid: u32) -> Result<(), Failure> {
        let name = self.network(id);
        log::info!("FAKE isolate {id} pid {pid} network {name:?}");
        match name.as_deref() {
            Some("fail-isolate") => Err("the bridge is gone".into()),
            Some("panic-isolate") => panic!("told to panic"),
            _ => Ok(()),
        }
    }

    async fn watch(&self, id: &ContainerId) -> ContainerLimitation {
        log::info!("FAKE watch {id}");
        let _guard = Guard(format!("watch {id}"));
        match self.network(id).as_deref() {
            Some("lost") => tokio::time::sleep(Duration::from_millis(700)).await,
            Some("panic-watch") => panic!("told to panic"),
            _ => std::future::pending().await,
        }
        ContainerLimitation {
            message: Some(format!("network lost of container {id} is gone")),
            ..ContainerLimitation::default()
        }
    }

    async fn usage(&self, _id: &ContainerId) -> ResourceStatistics {
        ResourceStatistics {
            timestamp: 0.0,
            net_rx_packets: Some(4343),
            ..ResourceStatistics::default()
        }
    }

    fn status(&self, id: &ContainerId) -> ContainerStatus {
        let mut root = id.clone();
        while let Some(parent) = root.parent() {
            root = parent;
        }
        let network_infos = self.network(&root).map(|name| NetworkInfo {
            name: Some(name.into()),
            ip_addresses: vec![IpAddress {
                ip_address: Some(b"192.0.2.11"[..].into()),
                ..IpAddress::default()
            }],
            ..NetworkInfo::default()
        });
        ContainerStatus {
            network_infos: network_infos.into_iter().collect(),
            ..ContainerStatus::default()
        }
    }

    async fn cleanup(&self, id: &ContainerId) -> Result<(), Failure> {
        let known = self
            .containers
            .lock()
            .is_ok_and(|mut map| map.remove(id).is_some());
        log::info!("FAKE cleanup {id} known {known}");
        Ok(())
    }

    fn status_labels(&self, framework: &str, status: &mesos::TaskStatus) -> Option<Labels> {
        log::info!(
            "FAKE status of {} in {framework}",
            String::from_utf8_lossy(&status.task_id.value)
        );
        Some(Labels {
            labels: vec![Label {
                key: b"mac"[..].into(),
                value: Some(b"02:00:5e:00:53:01"[..].into()),
            }],
        })
    }

    fn executor_removed(&self, framework: &str, executor: &ExecutorInfo) {
        log::info!(
            "FAKE removed {} of {framework}",
            String::from_utf8_lossy(&executor.executor_id.value)
        );
    }
}
