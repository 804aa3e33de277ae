//! The containers of this host whose groups are isolated, as the node daemon learns of them: from the
//! checkpoints.
//!
//! Invariants: only the library writes the checkpoints. A container is an endpoint from the moment in
//! which its intent is complete, before its interface exists.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use atomic_write_file::AtomicWriteFile;
use contrail_mesos_api::cluster::Membership;
use contrail_mesos_api::container::{ContainerId, Mac};
use contrail_mesos_api::files::read_regular_file;
use ipnet::IpNet;

use crate::isolator::checkpoint::{CheckpointedNetwork, Checkpoints};
use crate::membership::membership;
use crate::provider::bridge::ContainerPolicy;
use crate::provider::{Intent, ProviderIntent};

mod reader;

pub use reader::EndpointReader;

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
    /// The container's MAC address.
    pub mac: Mac,
    /// The container's addresses.
    pub addresses: Vec<IpAddr>,
    /// Which traffic to it is allowed now; none if its groups cannot be read, and nothing reaches it.
    pub policy: Option<ContainerPolicy>,
}

/// The endpoints of this host, and what could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalEndpoints {
    /// The endpoints, by container and network.
    pub endpoints: Vec<LocalEndpoint>,
    /// Why the groups of containers are not known. Their endpoints are missing, or have no policy.
    pub problems: Vec<String>,
}

impl LocalEndpoints {
    /// The directory whose entries change with the containers, for notifications.
    #[must_use]
    pub fn directory(state_dir: &Path) -> PathBuf {
        state_dir.join("containers")
    }
}

fn endpoint(network: &CheckpointedNetwork, changed: Option<&Membership>) -> Option<LocalEndpoint> {
    let intent = &network.intent;
    let ProviderIntent::Bridge(bridge) = &intent.provider else {
        return None;
    };
    Some(LocalEndpoint {
        container: intent.container.clone(),
        network: intent.network.clone(),
        overlay: bridge.overlay.as_ref().map(|overlay| overlay.name.clone()),
        bridge: bridge.bridge.clone(),
        bridge_addresses: bridge.bridge_addresses.clone(),
        host_interface: bridge.host_interface.clone(),
        mac: intent.mac,
        addresses: intent.addresses.iter().map(IpNet::addr).collect(),
        policy: Some(policy(intent, changed)?),
    })
}

/// Which traffic to a container is allowed on the network of an intent, if that isolates groups.
/// `changed` are the groups that an operator has given it since its launch.
#[must_use]
pub fn policy(intent: &Intent, changed: Option<&Membership>) -> Option<ContainerPolicy> {
    let ProviderIntent::Bridge(bridge) = &intent.provider else {
        return None;
    };
    let mut policy = bridge.policy.clone()?;
    if let Some(changed) = changed {
        policy.membership = changed.clone();
    }
    Some(policy)
}

/// The file with a container's groups cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum GroupsFileError {
    /// The file system fails.
    #[error("cannot {action} {}: {error}", path.display())]
    File {
        /// The operation, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Its contents are not groups.
    #[error(
        "cannot understand {}: {reason}; give the container groups with contrail-mesos groups, which writes it again",
        path.display()
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

fn groups_file(checkpoints: &Checkpoints, container: &ContainerId) -> PathBuf {
    checkpoints.directory(container).join(GROUPS_FILE)
}

/// The groups that an operator has given a container since its launch; none if nobody has. Blocks on
/// the file system.
pub fn read_groups(
    checkpoints: &Checkpoints,
    container: &ContainerId,
) -> Result<Option<Membership>, GroupsFileError> {
    let path = groups_file(checkpoints, container);
    let bytes = match read_regular_file(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            let action = "read";
            return Err(GroupsFileError::File {
                action,
                path,
                error,
            });
        }
    };
    let parsed = serde_json::from_slice::<Membership>(&bytes).map_err(|error| error.to_string());
    let checked = parsed.and_then(|parsed| {
        let names = |list: &[String]| -> Vec<Vec<u8>> {
            list.iter().map(|name| name.as_bytes().to_vec()).collect()
        };
        let (groups, security_groups) = (names(&parsed.groups), names(&parsed.security_groups));
        let names = membership(
            groups.iter().map(Vec::as_slice),
            security_groups.iter().map(Vec::as_slice),
        );
        names.map_err(|error| error.to_string())
    });
    checked
        .map(Some)
        .map_err(|reason| GroupsFileError::Invalid { path, reason })
}

/// Gives a running container groups in place of those that it has, or, without any, those of its launch
/// again. What is written is durable. Blocks on the file system.
pub fn write_groups(
    checkpoints: &Checkpoints,
    container: &ContainerId,
    changed: Option<&Membership>,
) -> Result<(), GroupsFileError> {
    let path = groups_file(checkpoints, container);
    let write = || -> io::Result<()> {
        match changed {
            Some(membership) => {
                let mut bytes = serde_json::to_vec(membership)?;
                bytes.push(b'\n');
                let mut file = AtomicWriteFile::open(&path)?;
                file.write_all(&bytes)?;
                file.commit()?;
            }
            None => match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
        }
        File::open(checkpoints.directory(container))?.sync_all()
    };
    write().map_err(|error| GroupsFileError::File {
        action: "write",
        path: path.clone(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use contrail_mesos_api::cluster::Admission;

    use super::*;
    use crate::config::{Config, Source};
    use crate::isolator::checkpoint::{Checkpoint, Owner};
    use crate::network_request;
    use crate::proto::mesos::{ContainerInfo, NetworkInfo, container_info};
    use crate::provider::bridge::BridgeIntent;

    fn config() -> Config {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        let toml = "[[network]]\nname = 'blue'\nprovider = 'bridge'\nsubnet = '10.1.0.0/24'\n\
                    groups = true\n";
        std::fs::write(&path, toml).unwrap();
        Source::file(path).load().unwrap()
    }

    /// Writes the checkpoint of a container of the group `a`, of networks that isolate groups or not.
    fn launch(checkpoints: &Checkpoints, name: &str, is_isolated: bool) -> ContainerId {
        let container = ContainerId::top_level(name);
        let info = ContainerInfo {
            r#type: container_info::Type::Mesos.into(),
            hostname: None,
            network_infos: vec![NetworkInfo {
                name: Some(b"blue".to_vec()),
                ..NetworkInfo::default()
            }],
        };
        let request = network_request::parse(&container, &info, &config()).unwrap();
        let policy = ContainerPolicy {
            membership: membership([b"a".as_slice()], []).unwrap(),
            admission: Admission::default(),
        };
        let intent = Intent {
            container: container.clone(),
            network: "blue".to_owned(),
            interface: "eth0".to_owned(),
            gateways: vec![],
            mac: container.mac("eth0"),
            mtu: 1500,
            ports: vec![],
            addresses: vec!["10.1.0.2/32".parse().unwrap()],
            dns: crate::config::Dns::default(),
            provider: ProviderIntent::Bridge(BridgeIntent {
                bridge: "cmb-blue".to_owned(),
                host_interface: container.host_interface("eth0"),
                bridge_addresses: vec!["10.1.0.1/24".parse().unwrap()],
                masquerade: true,
                hairpin: false,
                routes: vec![],
                overlay: None,
                policy: is_isolated.then_some(policy),
            }),
        };
        let claim = checkpoints.claim(&container, Owner::Agent, None).unwrap();
        let checkpoint = Checkpoint::new(&container, Owner::Agent, None, &request, vec![intent]);
        checkpoints.write_intent(&claim, &checkpoint).unwrap();
        container
    }

    #[test]
    fn endpoints_have_the_groups_that_an_operator_gave_last() {
        let state = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(state.path());
        let one = launch(&checkpoints, "one", true);
        launch(&checkpoints, "two", true);
        launch(&checkpoints, "plain", false);
        let groups = || -> Vec<(String, Vec<String>)> {
            let all = EndpointReader::new(state.path()).read().unwrap();
            assert_eq!(all.problems, [""; 0]);
            let endpoints = all.endpoints.into_iter();
            endpoints
                .map(|one| {
                    (
                        one.container.to_string(),
                        one.policy.unwrap().membership.groups,
                    )
                })
                .collect()
        };
        let of = |one: &[&str], two: &[&str]| {
            let names = |names: &[&str]| names.iter().map(ToString::to_string).collect();
            vec![
                ("one".to_owned(), names(one)),
                ("two".to_owned(), names(two)),
            ]
        };
        assert_eq!(groups(), of(&["a"], &["a"]));
        let changed = membership([b"c".as_slice(), b"b"], []).unwrap();
        write_groups(&checkpoints, &one, Some(&changed)).unwrap();
        assert_eq!(groups(), of(&["b", "c"], &["a"]));
        write_groups(&checkpoints, &one, Some(&Membership::default())).unwrap();
        assert_eq!(groups(), of(&[], &["a"]));
        write_groups(&checkpoints, &one, None).unwrap();
        write_groups(&checkpoints, &one, None).unwrap();
        assert_eq!(groups(), of(&["a"], &["a"]));
        // By hand, in another order and twice.
        let path = groups_file(&checkpoints, &one);
        std::fs::write(&path, r#"{"groups": ["z", "b", "z"]}"#).unwrap();
        assert_eq!(groups(), of(&["b", "z"], &["a"]));
        checkpoints.remove(&one).unwrap();
        assert!(write_groups(&checkpoints, &one, Some(&changed)).is_err());
        assert!(!path.exists());
    }

    #[test]
    fn container_with_damaged_groups_has_no_policy() {
        let state = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(state.path());
        let one = launch(&checkpoints, "one", true);
        launch(&checkpoints, "two", true);
        let many = format!(r#"{{"groups": [{}"x"]}}"#, r#""x","#.repeat(64));
        for damaged in ["", "{", "[1]", r#"{"groups": ["a b"]}"#, &many] {
            std::fs::write(groups_file(&checkpoints, &one), damaged).unwrap();
            let all = EndpointReader::new(state.path()).read().unwrap();
            assert_eq!(all.problems.len(), 1, "{damaged}: {all:?}");
            assert!(all.problems[0].contains(GROUPS_FILE), "{all:?}");
            let known: Vec<_> = all
                .endpoints
                .iter()
                .map(|one| (one.container.to_string(), one.policy.is_some()))
                .collect();
            let expected = [("one".to_owned(), false), ("two".to_owned(), true)];
            assert_eq!(known, expected, "{damaged}");
        }
    }
}
