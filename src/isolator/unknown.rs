//! Living containers that have networks, but no checkpoint: those of another state directory, of a
//! state directory that was deleted, or of `network/cni`.
//!
//! They keep the network that they have until they end. The isolator tracks them, so that nested and
//! DEBUG containers join their namespaces and never get the host's, and so that the status shows their
//! addresses. Their addresses are leased on networks of the same subnet, so that no other container
//! gets them.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use super::container::{Container, NetworkState, ip_address};
use super::{Isolator, executor_key};
use crate::config::Config;
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::netns::{self, Kind};
use crate::net::{addressing, links};
use crate::proto::mesos::NetworkInfo;
use crate::proto::mesos::slave::ContainerState;
use contrail_mesos_api::container::ContainerId;

/// The directory of `network/cni` below the agent's runtime or work directory.
const NETWORK_CNI_DIRECTORY: &str = "/isolators/network/cni";

/// The interfaces of a namespace with their addresses, without loopback.
pub(super) type InterfaceAddresses = HashMap<String, Vec<IpNet>>;

impl Isolator {
    /// Tracks a container that the agent knows and that has no checkpoint, if it has a network
    /// namespace of its own. Returns whether it is tracked. `has_link` says whether this instance
    /// made an interface for it.
    pub(super) async fn recover_unknown(
        &self,
        id: &ContainerId,
        state: Option<&ContainerState>,
        has_link: bool,
        config: Option<&Config>,
    ) -> bool {
        let requested = state.map_or_else(Vec::new, requested_networks);
        let has_traces = has_link || self.attacher.has_traces(id).await;
        if requested.is_empty() && !has_traces {
            return false;
        }
        let names: Vec<String> = requested
            .iter()
            .filter_map(|info| Some(format!("{:?}", name(info)?)))
            .collect();
        let networks = if names.is_empty() {
            "a network".to_owned()
        } else {
            format!("network {}", names.join(", "))
        };
        let state_dir = self.attacher.checkpoints().state_dir().display();
        let interfaces = match state.map(|state| u32::try_from(state.pid)) {
            Some(Ok(pid)) => interfaces_of(pid).await,
            _ => Ok(Some(HashMap::new())),
        };
        let interfaces = match interfaces {
            Ok(Some(interfaces)) => interfaces,
            Ok(None) if !has_traces => {
                log::error!(
                    container:% = id;
                    "requests {networks}, but is on the host's network: an agent without this module launched it"
                );
                return false;
            }
            Ok(None) => HashMap::new(),
            Err(error) => {
                log::warn!(container:% = id, error:% = error; "cannot look into its network namespace");
                HashMap::new()
            }
        };
        log::error!(
            container:% = id;
            "is alive on {networks}{}, but {state_dir} has no checkpoint of it: the state directory was changed or deleted, or another isolator launched it. It keeps its network until it ends, and its nested containers join it. Drain the agent before such a change",
            describe(&interfaces)
        );
        if let Some(config) = config {
            let held = self.attacher.hold_addresses(id, &interfaces, config).await;
            if let Err(error) = held {
                log::error!(
                    container:% = id, error:% = error;
                    "cannot lease the addresses that it has: another container may get them"
                );
            }
        }
        let found = requested
            .into_iter()
            .enumerate()
            .map(|(index, info)| with_addresses(info, interfaces.get(&format!("eth{index}"))))
            .collect();
        let executor = state.and_then(|state| executor_key(state.executor_info.as_ref()));
        self.insert(Arc::new(Container::new(
            id.clone(),
            executor,
            NetworkState {
                networks_without_checkpoint: found,
                ..NetworkState::default()
            },
        )));
        true
    }
}

/// The `NetworkInfo`s with a name of the container's request.
fn requested_networks(state: &ContainerState) -> Vec<NetworkInfo> {
    let executor = state.executor_info.as_ref();
    let container = state
        .container_info
        .as_ref()
        .or_else(|| executor.and_then(|executor| executor.container.as_ref()));
    container
        .iter()
        .flat_map(|container| &container.network_infos)
        .filter(|info| info.name.is_some())
        .cloned()
        .collect()
}

fn name(info: &NetworkInfo) -> Option<std::borrow::Cow<'_, str>> {
    info.name.as_deref().map(String::from_utf8_lossy)
}

fn with_addresses(info: NetworkInfo, addresses: Option<&Vec<IpNet>>) -> NetworkInfo {
    NetworkInfo {
        ip_addresses: addresses
            .into_iter()
            .flatten()
            .map(|net| ip_address(net.addr()))
            .collect(),
        ..info
    }
}

fn describe(interfaces: &InterfaceAddresses) -> String {
    let mut parts: Vec<String> = interfaces
        .iter()
        .map(|(interface, addresses)| {
            let addresses = addresses.iter().map(|net| format!(" {}", net.addr()));
            format!("{interface}{}", addresses.collect::<String>())
        })
        .collect();
    parts.sort();
    if parts.is_empty() {
        String::new()
    } else {
        format!(" ({})", parts.join(", "))
    }
}

/// The interfaces in the network namespace of a process; `None` if that is the host's.
pub(super) async fn interfaces_of(
    pid: u32,
) -> Result<Option<InterfaceAddresses>, super::IsolatorError> {
    let namespace = netns::of_pid(pid, Kind::Net)?;
    let own = netns::of_this_thread(Kind::Net)?;
    if netns::same(&own, &namespace).map_err(super::IsolatorError::Descriptor)? {
        return Ok(None);
    }
    let listed = netns::run_in(namespace, list_interfaces).await?;
    Ok(Some(listed.map_err(|error| {
        super::IsolatorError::Namespace(netns::NetnsError::Enter {
            kind: "network",
            source: std::io::Error::other(error.to_string()),
        })
    })?))
}

fn list_interfaces() -> Result<InterfaceAddresses, NetlinkError> {
    let mut socket = NetlinkSocket::route()?;
    let links = links::all(&mut socket)?;
    let mut interfaces = InterfaceAddresses::new();
    for (index, net) in addressing::addresses(&mut socket)? {
        let address = net.addr();
        let is_link_local =
            matches!(net, IpNet::V6(v6) if v6.addr().segments()[0] & 0xffc0 == 0xfe80);
        if address.is_loopback() || is_link_local {
            continue;
        }
        if let Some(link) = links.iter().find(|link| link.index == index) {
            interfaces.entry(link.name.clone()).or_default().push(net);
        }
    }
    Ok(interfaces)
}

/// Reports what `network/cni` left, whose containers outlived it. Blocks.
pub(super) fn report_network_cni() {
    // Its directory, and the handle of each container below it, are mounts.
    let Ok(mounts) = fs::read_to_string("/proc/thread-self/mountinfo") else {
        return;
    };
    for handle in network_cni_handles(&mounts) {
        let directory = handle.parent().unwrap_or(Path::new("/")).display();
        log::error!(
            "network/cni left {directory} and its plugins' leases and rules: this module runs no plugin for it. Once its container has ended, run each plugin's DEL with the network.conf in that directory, then umount -l {} and rm -r {directory}; or run the agent with network/cni until its containers have ended",
            handle.display()
        );
    }
}

/// The handles of network namespaces among the mounts of a process that are of `network/cni`.
fn network_cni_handles(mounts: &str) -> Vec<PathBuf> {
    let mut handles: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|target| {
            let rest = target
                .split_once(NETWORK_CNI_DIRECTORY)
                .map(|(_, rest)| rest);
            rest.is_some_and(|rest| rest.ends_with("/ns") && rest.matches('/').count() == 2)
        })
        .map(PathBuf::from)
        .collect();
    handles.sort();
    handles.dedup();
    handles
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_of_network_cni_are_found_among_mounts() {
        let mounts = "\
36 35 0:26 / /run rw - tmpfs tmpfs rw
90 36 0:26 /mesos/isolators/network/cni /run/mesos/isolators/network/cni rw shared:9 - tmpfs tmpfs rw
91 90 0:4 net:[4026532] /run/mesos/isolators/network/cni/c1/ns rw shared:9 - nsfs nsfs rw
92 36 0:4 net:[4026533] /run/netns/c2 rw - nsfs nsfs rw
";
        assert_eq!(
            network_cni_handles(mounts),
            [Path::new("/run/mesos/isolators/network/cni/c1/ns")]
        );
    }
}
