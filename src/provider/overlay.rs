//! The provider `overlay`: this host's part of an overlay that spans the cluster.
//!
//! The managers choose the subnets, the node daemon publishes them in the [node state](NodeState), and
//! the provider [`bridge`](super::bridge) does everything else. Here an overlay network becomes the
//! bridge network that it is on this host at the moment.
//!
//! Invariants: the intent of a container on an overlay is one of the provider `bridge`. Recovery,
//! repair and detach need no node state, and a container keeps what it was launched with when the
//! node state changes. What the node state lacks, no container gets.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::{Instant, sleep};

use super::container_side::FIRST_INTERFACE;
use super::{NetworkRequest, ProviderError, failed, in_place, refused};
use crate::config::{
    AddressFamily, BridgeNetwork, MAX_MTU, MIN_MTU_V4, MIN_MTU_V6, NetworkProvider, OverlayNetwork,
    OverlayPart, Subnet,
};
use crate::node_state::{LocalOverlay, NodeState, NodeStateError, NodeStateFile};
use contrail_mesos_api::text::{Quoted, excerpt};

/// How long a launch waits for the node daemon, at most: after a boot, tasks may come before it.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// The part of the time for a prepare that a launch waits, at most.
const MAX_WAIT_DIVISOR: u32 = 3;
/// How often a waiting launch looks at the node state.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How many overlays a message lists.
const MAX_LISTED: usize = 8;

/// Why no container can be launched on an overlay.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// There is no node state.
    #[error(transparent)]
    NodeState(#[from] NodeStateError),
    /// The overlay is not in the node state.
    #[error(
        "there is no overlay {} ({known}); add it to the managers' overlay configuration, or correct \
         the network's key overlay. The overlays are in {}, as contrail-mesos-node knows them",
        Quoted(overlay.as_bytes()), path.display()
    )]
    Unknown {
        /// Its name.
        overlay: String,
        /// The overlays that there are, for a person.
        known: String,
        /// The file of the node state.
        path: PathBuf,
    },
    /// This host has no subnet of it yet.
    #[error(
        "this host has no subnet of the overlay {} yet{reason}; see contrail-mesos-node and the managers",
        Quoted(overlay.as_bytes())
    )]
    NoSubnet {
        /// Its name.
        overlay: String,
        /// Why, with a separator, if that is known.
        reason: String,
    },
    /// The node daemon or the managers refuse containers on it.
    #[error(
        "no container can be launched on the overlay {} on this host: {problem}",
        Quoted(overlay.as_bytes())
    )]
    Problem {
        /// Its name.
        overlay: String,
        /// Why.
        problem: String,
    },
    /// Its subnets or its MTU are not possible.
    #[error(
        "{} has an overlay {} that cannot be used: {reason}; correct the managers' overlay configuration",
        path.display(), Quoted(overlay.as_bytes())
    )]
    Invalid {
        /// Its name.
        overlay: String,
        /// The file of the node state.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl OverlayError {
    /// Whether the node daemon may correct it within moments, as after a boot.
    fn is_temporary(&self) -> bool {
        match self {
            Self::NodeState(_) | Self::Unknown { .. } | Self::NoSubnet { .. } => true,
            Self::Problem { .. } | Self::Invalid { .. } => false,
        }
    }

    fn of_network(self, network: &str) -> ProviderError {
        match self {
            Self::NodeState(error) => {
                failed(network, "find this host's part of the overlay", error)
            }
            other => refused(network, other.to_string()),
        }
    }
}

/// The overlays on this host, as the node daemon published them.
#[derive(Clone, Debug)]
pub struct OverlayNetworks {
    node_state: Arc<NodeStateFile>,
    max_wait: Duration,
}

impl OverlayNetworks {
    /// The overlays of a state directory. Reads nothing yet.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self::from_file(Arc::new(NodeStateFile::new(state_dir)), Duration::ZERO)
    }

    /// As [`OverlayNetworks::new`], from a file that others read as well. `prepare` is the time for
    /// the preparation of a launch.
    pub(super) fn from_file(node_state: Arc<NodeStateFile>, prepare: Duration) -> Self {
        Self {
            node_state,
            max_wait: MAX_WAIT.min(prepare / MAX_WAIT_DIVISOR),
        }
    }

    /// The bridge network that an overlay network is on this host now, for containers whose first
    /// network it is. Blocks for a few calls of the file system.
    pub fn bridge_network(&self, network: &OverlayNetwork) -> Result<BridgeNetwork, OverlayError> {
        self.for_interface(network, FIRST_INTERFACE)
    }

    fn for_interface(
        &self,
        network: &OverlayNetwork,
        interface: &str,
    ) -> Result<BridgeNetwork, OverlayError> {
        let state = self.node_state.current()?;
        let name = &network.overlay;
        let overlay = state.overlay(name).ok_or_else(|| OverlayError::Unknown {
            overlay: name.clone(),
            known: list(&state),
            path: self.node_state.path(),
        })?;
        check_problem(overlay)?;
        let invalid = |reason| OverlayError::Invalid {
            overlay: name.clone(),
            path: self.node_state.path(),
            reason,
        };
        let has_v6 = overlay.subnets().any(|subnet| subnet.addr().is_ipv6());
        let min_mtu = if has_v6 { MIN_MTU_V6 } else { MIN_MTU_V4 };
        if !(min_mtu..=MAX_MTU).contains(&overlay.mtu) {
            let mtu = overlay.mtu;
            return Err(invalid(format!(
                "its MTU {mtu} is not between {min_mtu} and {MAX_MTU}"
            )));
        }
        let mut bridge = BridgeNetwork {
            bridge: network.bridge(),
            v4: subnets(overlay, |net| match net {
                IpNet::V4(net) => Some(net),
                IpNet::V6(_) => None,
            })
            .map_err(invalid)?,
            v6: subnets(overlay, |net| match net {
                IpNet::V6(net) => Some(net),
                IpNet::V4(_) => None,
            })
            .map_err(invalid)?,
            mtu: overlay.mtu,
            masquerade: network.masquerade,
            hairpin: network.hairpin,
            routes: vec![],
            overlay: Some(OverlayPart {
                name: name.clone(),
                // In one form, whatever the order in the file.
                cluster_subnets: IpNet::aggregate(&state.cluster_subnets),
            }),
            groups: overlay.groups,
            has_blocks: !overlay.blocks.is_empty(),
        };
        bridge.routes = match &network.routes {
            Some(routes) => routes.clone(),
            None if interface == FIRST_INTERFACE => vec![],
            None => subnets_of_overlay(&bridge, &state),
        };
        Ok(bridge)
    }

    /// The subnets of an overlay network on this host in which containers may have addresses, also if no
    /// container can be launched on it; none if they are not known. Blocks for a few calls of the file system.
    pub(super) fn subnets(&self, network: &OverlayNetwork) -> Vec<IpNet> {
        let state = self.node_state.current_or_last();
        let overlay = state
            .as_ref()
            .and_then(|state| state.overlay(&network.overlay));
        overlay.map_or_else(Vec::new, |overlay| {
            let withdrawn = overlay.withdrawn.iter().copied();
            overlay.subnets().chain(withdrawn).collect()
        })
    }

    /// As [`OverlayNetworks::bridge_network`], for a request.
    pub(super) fn requested(
        &self,
        request: &NetworkRequest,
        network: &OverlayNetwork,
    ) -> Result<BridgeNetwork, ProviderError> {
        self.for_interface(network, &request.interface)
            .map_err(|error| error.of_network(&request.network.name))
    }

    /// Waits until containers can be launched on the overlays of `requests`, as long as the node
    /// daemon may still say so and there is time. What is wrong then, the caller learns from
    /// [`OverlayNetworks::requested`]. Returns until when the launch may wait in all.
    pub(super) async fn wait(&self, requests: &[NetworkRequest]) -> Instant {
        let deadline = Instant::now() + self.max_wait;
        self.wait_until(deadline, requests).await;
        deadline
    }

    async fn wait_until(&self, deadline: Instant, requests: &[NetworkRequest]) {
        let overlays: Vec<(String, OverlayNetwork)> = requests
            .iter()
            .filter_map(|request| match &request.network.provider {
                NetworkProvider::Overlay(network) => {
                    Some((request.network.name.clone(), network.clone()))
                }
                _ => None,
            })
            .collect();
        if overlays.is_empty() {
            return;
        }
        let overlays = Arc::new(overlays);
        let mut is_waiting = false;
        loop {
            let (networks, overlays) = (self.clone(), Arc::clone(&overlays));
            let Ok(Some(problem)) = in_place(move || networks.temporary_problem(&overlays)).await
            else {
                return;
            };
            if Instant::now() >= deadline {
                return;
            }
            if !is_waiting {
                is_waiting = true;
                log::warn!("a launch waits up to {:?}: {problem}", self.max_wait);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Why a launch must wait; `None` if nothing is wrong, or something that waiting does not
    /// correct.
    fn temporary_problem(&self, overlays: &[(String, OverlayNetwork)]) -> Option<String> {
        let mut problem = None;
        for (name, network) in overlays {
            match self.bridge_network(network) {
                Ok(_) => {}
                Err(error) if error.is_temporary() => {
                    problem = Some(error.of_network(name).to_string());
                }
                Err(_) => return None,
            }
        }
        problem
    }
}

/// Refuses an overlay with a problem or without a subnet.
fn check_problem(overlay: &LocalOverlay) -> Result<(), OverlayError> {
    let has_subnet = overlay.subnets().next().is_some();
    let problem = overlay.problem.as_ref();
    let problem = problem.map(|problem| excerpt(problem.as_bytes()));
    let name = overlay.name.clone();
    match problem {
        None if has_subnet => Ok(()),
        Some(problem) if has_subnet => Err(OverlayError::Problem {
            overlay: name,
            problem,
        }),
        // It may get one as soon as the daemon has registered this host.
        problem => Err(OverlayError::NoSubnet {
            overlay: name,
            reason: problem.map_or_else(String::new, |problem| format!(": {problem}")),
        }),
    }
}

/// The subnets of one family, in order.
fn subnets<N: AddressFamily>(
    overlay: &LocalOverlay,
    of_family: fn(IpNet) -> Option<N>,
) -> Result<Option<Subnet<N>>, String> {
    let mut all: Vec<IpNet> = overlay.subnets().collect();
    all.sort_unstable();
    Subnet::checked_all(all.into_iter().filter_map(of_family))
        .map_err(|(subnet, reason)| format!("the subnet {subnet}: {reason}"))
}

/// The subnets of the whole overlay: those of the cluster's that this host's part of it is in.
fn subnets_of_overlay(bridge: &BridgeNetwork, state: &NodeState) -> Vec<IpNet> {
    let is_of_overlay = |cluster: &&IpNet| bridge.subnets().any(|subnet| cluster.contains(&subnet));
    let subnets = state.cluster_subnets.iter().filter(is_of_overlay);
    subnets.map(IpNet::trunc).collect()
}

/// The names of the overlays, for a person.
fn list(state: &NodeState) -> String {
    let names = state.overlays.iter().take(MAX_LISTED);
    let mut names: Vec<String> = names
        .map(|overlay| Quoted(overlay.name.as_bytes()).to_string())
        .collect();
    if state.overlays.len() > MAX_LISTED {
        names.push("…".to_owned());
    }
    if names.is_empty() {
        return "there is none".to_owned();
    }
    format!("there are {}", names.join(", "))
}

#[cfg(test)]
mod tests;
