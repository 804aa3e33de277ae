//! Reads the endpoints of this host again and again, and of the checkpoints only those that have changed.
//!
//! Invariants: what identifies a file is taken before it is read, so a file that is changed meanwhile is
//! read again next time. An address has one endpoint: that of the latest checkpoint, because an older
//! container with the same address has no interface any more.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs::Metadata;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{GROUPS_FILE, LocalEndpoint, LocalEndpoints, endpoint, read_groups};
use crate::isolator::checkpoint::{CheckpointError, Checkpoints, INTENT_FILE, StoredCheckpoint};

/// What differs when a file was changed or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileIdentity {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl FileIdentity {
    fn of(path: &Path) -> Option<Self> {
        let metadata: Metadata = std::fs::symlink_metadata(path).ok()?;
        Some(Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// The files of a container, as they were read.
#[derive(Debug)]
struct ReadContainer {
    intent: FileIdentity,
    groups: Option<FileIdentity>,
    endpoints: Vec<LocalEndpoint>,
    problems: Vec<String>,
}

/// Reads the endpoints of one state directory.
#[derive(Debug)]
pub struct EndpointReader {
    state_dir: PathBuf,
    containers: BTreeMap<OsString, ReadContainer>,
    /// How many checkpoints were read.
    reads: u64,
}

impl EndpointReader {
    /// A reader that has read nothing yet.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
            containers: BTreeMap::new(),
            reads: 0,
        }
    }

    /// How many checkpoints were read so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads
    }

    /// The endpoints now. Blocks on the file system.
    pub fn read(&mut self) -> Result<LocalEndpoints, CheckpointError> {
        let checkpoints = Checkpoints::new(&self.state_dir);
        let names = checkpoints.file_names()?;
        let directory = LocalEndpoints::directory(&self.state_dir);
        let mut known = std::mem::take(&mut self.containers);
        for name in names {
            let container = directory.join(&name);
            // One that is being created or removed has none.
            let Some(intent) = FileIdentity::of(&container.join(INTENT_FILE)) else {
                continue;
            };
            let groups = FileIdentity::of(&container.join(GROUPS_FILE));
            let read = known
                .remove(&name)
                .filter(|read| read.intent == intent && read.groups == groups)
                .unwrap_or_else(|| {
                    self.reads += 1;
                    let stored = checkpoints.load(&name);
                    let (endpoints, problems) = read_container(stored, &checkpoints);
                    ReadContainer {
                        intent,
                        groups,
                        endpoints,
                        problems,
                    }
                });
            self.containers.insert(name, read);
        }
        Ok(self.all())
    }

    fn all(&self) -> LocalEndpoints {
        let mut latest_first: Vec<_> = self.containers.values().collect();
        latest_first.sort_by_key(|read| std::cmp::Reverse(read.intent.modified));
        let mut taken: HashSet<IpAddr> = HashSet::new();
        let mut all = LocalEndpoints::default();
        for read in latest_first {
            all.problems.extend(read.problems.iter().cloned());
            for endpoint in &read.endpoints {
                let mut endpoint = endpoint.clone();
                endpoint.addresses.retain(|address| taken.insert(*address));
                all.endpoints.push(endpoint);
            }
        }
        let key =
            |endpoint: &LocalEndpoint| (endpoint.container.to_string(), endpoint.network.clone());
        all.endpoints.sort_by_cached_key(key);
        all.problems.sort();
        all
    }
}

fn read_container(
    stored: StoredCheckpoint,
    checkpoints: &Checkpoints,
) -> (Vec<LocalEndpoint>, Vec<String>) {
    match stored {
        StoredCheckpoint::Intact { checkpoint, .. } => {
            match read_groups(checkpoints, &checkpoint.container) {
                Ok(changed) => {
                    let networks = checkpoint.networks.iter();
                    let endpoint = |network| endpoint(network, changed.as_ref());
                    (networks.filter_map(endpoint).collect(), vec![])
                }
                // With its groups of the launch, more might reach it than the operator allows.
                Err(error) => {
                    let networks = checkpoint.networks.iter();
                    let mut endpoints: Vec<_> = networks
                        .filter_map(|network| endpoint(network, None))
                        .collect();
                    for endpoint in &mut endpoints {
                        endpoint.policy = None;
                    }
                    let is_isolated = !endpoints.is_empty();
                    let problems = is_isolated.then(|| error.to_string());
                    (endpoints, problems.into_iter().collect())
                }
            }
        }
        StoredCheckpoint::Damaged { error, .. } => (vec![], vec![error]),
    }
}

#[cfg(test)]
mod tests {
    use contrail_mesos_api::cluster::{Admission, Membership};
    use contrail_mesos_api::container::{ContainerId, Mac};

    use super::*;
    use crate::config::Dns;
    use crate::isolator::checkpoint::{Checkpoint, Owner};
    use crate::network_request::ContainerRequest;
    use crate::proto::mesos::NetworkInfo;
    use crate::provider::bridge::{BridgeIntent, ContainerPolicy};
    use crate::provider::{Intent, ProviderIntent};

    /// Writes the checkpoint of a container on a network that isolates groups.
    fn write(state_dir: &Path, name: &str, address: &str, groups: &[&str]) {
        let container = ContainerId::top_level(name);
        let intent = Intent {
            container: container.clone(),
            network: "front".to_owned(),
            interface: "eth0".to_owned(),
            addresses: vec![address.parse().unwrap()],
            gateways: vec![],
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            ports: vec![],
            dns: Dns::default(),
            provider: ProviderIntent::Bridge(BridgeIntent {
                bridge: "cm-front".to_owned(),
                host_interface: format!("cm{name}"),
                bridge_addresses: vec!["10.1.0.1/24".parse().unwrap()],
                masquerade: false,
                hairpin: false,
                routes: vec![],
                overlay: None,
                policy: Some(ContainerPolicy {
                    membership: Membership {
                        groups: groups.iter().map(|&group| group.to_owned()).collect(),
                        security_groups: vec![],
                    },
                    admission: Admission::default(),
                }),
            }),
        };
        let request = ContainerRequest {
            network_infos: vec![NetworkInfo::default()],
            networks: vec![],
            hostname: name.to_owned(),
        };
        let checkpoint = Checkpoint::new(&container, Owner::Agent, None, &request, vec![intent]);
        let directory = state_dir.join("containers").join(container.file_name());
        std::fs::create_dir_all(&directory).unwrap();
        let bytes = serde_json::to_vec(&checkpoint).unwrap();
        std::fs::write(directory.join(INTENT_FILE), bytes).unwrap();
    }

    fn groups(all: &LocalEndpoints, container: &str) -> Vec<String> {
        let mut endpoints = all.endpoints.iter();
        let endpoint = endpoints.find(|one| one.container.to_string() == container);
        let policy = endpoint.unwrap().policy.as_ref();
        policy.unwrap().membership.groups.clone()
    }

    #[test]
    fn only_what_has_changed_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut reader = EndpointReader::new(directory.path());
        assert_eq!(reader.read().unwrap(), LocalEndpoints::default());
        for number in 1..=20 {
            let address = format!("10.1.0.{number}/32");
            write(directory.path(), &format!("c{number}"), &address, &["web"]);
        }
        let all = reader.read().unwrap();
        assert_eq!((all.endpoints.len(), reader.reads()), (20, 20), "{all:?}");
        assert_eq!((reader.read().unwrap(), reader.reads()), (all, 20));
        // A launch, an end, and a change of groups.
        write(directory.path(), "c21", "10.1.0.21/32", &["db"]);
        std::fs::remove_dir_all(directory.path().join("containers/c1")).unwrap();
        let changed = Membership {
            groups: vec!["other".to_owned()],
            security_groups: vec![],
        };
        let path = directory.path().join("containers/c2/groups.json");
        std::fs::write(&path, serde_json::to_vec(&changed).unwrap()).unwrap();
        let all = reader.read().unwrap();
        assert_eq!((all.endpoints.len(), reader.reads()), (20, 22));
        assert_eq!(groups(&all, "c2"), ["other"]);
        assert_eq!(groups(&all, "c3"), ["web"]);
        // Groups that cannot be read are not those of the launch, but the addresses are.
        std::fs::write(&path, "{").unwrap();
        let all = reader.read().unwrap();
        assert_eq!((all.endpoints.len(), all.problems.len()), (20, 1));
        let mut unknown = all.endpoints.iter().filter(|one| one.policy.is_none());
        let c2 = unknown.next().unwrap();
        assert_eq!(c2.addresses, ["10.1.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!((c2.host_interface.as_str(), unknown.next()), ("cmc2", None));
        // A claim that names no network yet has no endpoints, and nothing is wrong with it.
        std::fs::create_dir(directory.path().join("containers/c22")).unwrap();
        std::fs::remove_file(path).unwrap();
        let all = reader.read().unwrap();
        assert_eq!((all.endpoints.len(), reader.reads()), (20, 24));
        assert_eq!(
            (groups(&all, "c2"), all.problems.len()),
            (vec!["web".to_owned()], 0)
        );
        std::fs::write(directory.path().join("containers/c3/intent.json"), "{").unwrap();
        let all = reader.read().unwrap();
        assert_eq!((all.endpoints.len(), all.problems.len()), (19, 1));
    }

    #[test]
    fn address_belongs_to_the_latest_checkpoint() {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), "old", "10.1.0.9/32", &["web"]);
        write(directory.path(), "new", "10.1.0.9/32", &["db"]);
        let old = std::fs::File::open(directory.path().join("containers/old/intent.json"));
        old.unwrap()
            .set_modified(std::time::SystemTime::UNIX_EPOCH)
            .unwrap();
        let all = EndpointReader::new(directory.path()).read().unwrap();
        let addresses: Vec<_> = all
            .endpoints
            .iter()
            .map(|one| (one.container.to_string(), one.addresses.len()))
            .collect();
        assert_eq!(addresses, [("new".to_owned(), 1), ("old".to_owned(), 0)]);
    }
}
