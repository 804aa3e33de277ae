//! The containers of this host whose groups are isolated, as the node daemon learns of them: from the
//! checkpoints.
//!
//! Invariants: only the library writes the checkpoints. A container is an endpoint from the moment in
//! which its intent is complete, before its interface exists.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use contrail_mesos_api::cluster::{MAX_GROUPS, Membership, is_group_name};
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::files::read_regular_file;
use ipnet::IpNet;

use crate::isolator::checkpoint::{
    CheckpointError, CheckpointedNetwork, Checkpoints, StoredCheckpoint,
};
use crate::provider::ProviderIntent;
use crate::provider::bridge::ContainerPolicy;

/// The file beside a container's intent with the groups that an operator has given it since its launch.
const GROUPS_FILE: &str = "groups.json";

/// An interface of a container on a network that isolates groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// The container.
    pub container: ContainerId,
    /// The network's name.
    pub network: String,
    /// The overlay that the network is part of, if it is part of one.
    pub overlay: Option<String>,
    /// The interface name of the bridge.
    pub bridge: String,
    /// The bridge's own addresses.
    pub bridge_addresses: Vec<IpNet>,
    /// The host end of the veth pair.
    pub host_interface: String,
    /// The container's addresses.
    pub addresses: Vec<IpAddr>,
    /// Which traffic to it is allowed now.
    pub policy: ContainerPolicy,
}

/// The endpoints of this host, and what could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalEndpoints {
    /// The endpoints, by container and network.
    pub endpoints: Vec<LocalEndpoint>,
    /// Why the groups of containers are not known. Their endpoints are missing.
    pub problems: Vec<String>,
}

impl LocalEndpoints {
    /// The directory whose entries change with the containers, for notifications.
    #[must_use]
    pub fn directory(state_dir: &Path) -> PathBuf {
        state_dir.join("containers")
    }

    /// Reads the checkpoints. Blocks on the file system.
    pub fn read(state_dir: &Path) -> Result<Self, CheckpointError> {
        let checkpoints = Checkpoints::new(state_dir);
        let mut all = Self::default();
        for stored in checkpoints.load_all()? {
            match stored {
                StoredCheckpoint::Intact { checkpoint, .. } => {
                    let path = checkpoints
                        .directory(&checkpoint.container)
                        .join(GROUPS_FILE);
                    let changed = match read_membership(&path) {
                        Ok(changed) => changed,
                        Err(problem) => {
                            all.problems.push(problem);
                            None
                        }
                    };
                    let networks = checkpoint.networks.iter();
                    all.endpoints
                        .extend(networks.filter_map(|network| endpoint(network, changed.as_ref())));
                }
                StoredCheckpoint::Damaged { error, .. } => all.problems.push(error),
            }
        }
        let key =
            |endpoint: &LocalEndpoint| (endpoint.container.to_string(), endpoint.network.clone());
        all.endpoints.sort_by_cached_key(key);
        Ok(all)
    }
}

fn endpoint(network: &CheckpointedNetwork, changed: Option<&Membership>) -> Option<LocalEndpoint> {
    let intent = &network.intent;
    let ProviderIntent::Bridge(bridge) = &intent.provider else {
        return None;
    };
    let mut policy = bridge.policy.clone()?;
    if let Some(changed) = changed {
        policy.membership = changed.clone();
    }
    Some(LocalEndpoint {
        container: intent.container.clone(),
        network: intent.network.clone(),
        overlay: bridge.overlay.as_ref().map(|overlay| overlay.name.clone()),
        bridge: bridge.bridge.clone(),
        bridge_addresses: bridge.bridge_addresses.clone(),
        host_interface: bridge.host_interface.clone(),
        addresses: intent.addresses.iter().map(IpNet::addr).collect(),
        policy,
    })
}

/// The groups that an operator has given a container; none if nobody has.
fn read_membership(path: &Path) -> Result<Option<Membership>, String> {
    let bytes = match read_regular_file(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read {}: {error}", path.display())),
    };
    let membership: Membership = serde_json::from_slice(&bytes)
        .map_err(|error| format!("cannot understand {}: {error}", path.display()))?;
    let names = || membership.groups.iter().chain(&membership.security_groups);
    if names().count() > MAX_GROUPS || !names().all(|name| is_group_name(name)) {
        return Err(format!(
            "{} has names that no group can have",
            path.display()
        ));
    }
    Ok(Some(membership))
}
