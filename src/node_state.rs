//! What the node daemon tells the library about this host: the file `node/overlays.json` of the
//! state directory.
//!
//! Invariants: the daemon is the only writer, and replaces the file as a whole. The library reads
//! it at a launch, like configuration, and waits for nothing: without the daemon, launches go on
//! with what was last written. What the file lacks, no container gets.

use std::fs::Metadata;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use atomic_write_file::AtomicWriteFile;
use contrail_mesos_api::cluster::{Admission, Revision};
use contrail_mesos_api::files::read_regular_file;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// The version of the file's layout.
const LAYOUT: u32 = 1;

/// What the node daemon knows about this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// The version of the layout.
    layout: u32,
    /// The name by which the managers know this host.
    pub node: String,
    /// The revision of the managers' state that this comes from.
    pub revision: Revision,
    /// The overlays, by name.
    pub overlays: Vec<LocalOverlay>,
    /// The subnets of all overlays, on all nodes, and of the tunnel endpoints: traffic to them is
    /// never masqueraded.
    pub cluster_subnets: Vec<IpNet>,
    /// The names of the security groups that the managers have rules for.
    #[serde(default)]
    pub security_groups: Vec<String>,
}

/// An overlay on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LocalOverlay {
    /// The name that frameworks use.
    pub name: String,
    /// The VXLAN network identifier.
    pub vni: u32,
    /// The IPv4 subnet of this host's Mesos containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Ipv4Net>,
    /// The IPv6 subnet of this host's Mesos containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet6: Option<Ipv6Net>,
    /// The blocks that this host's Mesos containers get addresses of, of an overlay that lends blocks.
    /// It has no subnets then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<IpNet>,
    /// The other blocks that this host has. No container gets an address of them, but some may still have
    /// one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withdrawn: Vec<IpNet>,
    /// The MTU of the containers' interfaces, in bytes.
    pub mtu: u32,
    /// What reaches its containers besides members of their groups; none if it does not isolate groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Admission>,
    /// Why no container can be launched on it, if none can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl LocalOverlay {
    /// The subnets and blocks of this host's Mesos containers, those of IPv4 first.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> + '_ {
        let v4 = self.subnet.map(IpNet::V4);
        let v6 = self.subnet6.map(IpNet::V6);
        v4.into_iter().chain(v6).chain(self.blocks.iter().copied())
    }
}

/// Why the file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum NodeStateError {
    /// There is none.
    #[error(
        "{} does not exist: contrail-mesos-node, which writes it, has not run on this host or has not \
         reached a manager yet",
        .0.display()
    )]
    Missing(PathBuf),
    /// Reading fails.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is damaged, or of another version.
    #[error(
        "cannot understand {}: {reason}; restart contrail-mesos-node, which writes it again",
        path.display()
    )]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl NodeState {
    /// A state of the current layout.
    #[must_use]
    pub fn new(
        node: String,
        revision: Revision,
        overlays: Vec<LocalOverlay>,
        cluster_subnets: Vec<IpNet>,
    ) -> Self {
        Self {
            layout: LAYOUT,
            node,
            revision,
            overlays,
            cluster_subnets,
            security_groups: Vec::new(),
        }
    }

    /// The path of the file.
    #[must_use]
    pub fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("node").join("overlays.json")
    }

    /// The overlay of that name.
    #[must_use]
    pub fn overlay(&self, name: &str) -> Option<&LocalOverlay> {
        self.overlays.iter().find(|overlay| overlay.name == name)
    }

    /// Reads the file. Blocks on the file system.
    pub fn read(state_dir: &Path) -> Result<Self, NodeStateError> {
        let path = Self::path(state_dir);
        let bytes = match read_regular_file(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(NodeStateError::Missing(path));
            }
            Err(error) => return Err(NodeStateError::Read { path, error }),
        };
        let state = serde_json::from_slice::<Self>(&bytes).map_err(|error| error.to_string());
        state
            .and_then(|state| {
                let layout = state.layout;
                (layout == LAYOUT)
                    .then_some(state)
                    .ok_or_else(|| format!("its layout {layout} is not {LAYOUT}, the known one"))
            })
            .map_err(|reason| NodeStateError::Invalid { path, reason })
    }

    /// Replaces the file, if it differs. Returns whether it did. Blocks on the file system.
    pub fn write(&self, state_dir: &Path) -> io::Result<bool> {
        let mut bytes = serde_json::to_vec_pretty(self)?;
        bytes.push(b'\n');
        replace_file(&Self::path(state_dir), &bytes)
    }
}

/// The file of one state directory, as it was last read.
#[derive(Debug)]
pub struct NodeStateFile {
    state_dir: PathBuf,
    last: Mutex<Option<LastRead>>,
}

/// The last state that could be read, and what identifies the file that had it.
#[derive(Debug)]
struct LastRead {
    identity: FileIdentity,
    state: Arc<NodeState>,
}

/// What differs when the file was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl FileIdentity {
    fn new(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

impl NodeStateFile {
    /// The file of that state directory. Reads nothing yet.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
            last: Mutex::new(None),
        }
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        NodeState::path(&self.state_dir)
    }

    /// The state that the file has now. It is read only if it was replaced. Blocks on the file
    /// system.
    pub fn current(&self) -> Result<Arc<NodeState>, NodeStateError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken before the file is read, so that a file that replaces it meanwhile is seen next time.
        let identity = std::fs::symlink_metadata(self.path())
            .ok()
            .map(|metadata| FileIdentity::new(&metadata));
        if let Some(last) = last.as_ref()
            && Some(last.identity) == identity
        {
            return Ok(Arc::clone(&last.state));
        }
        let state = Arc::new(NodeState::read(&self.state_dir)?);
        if let Some(identity) = identity {
            *last = Some(LastRead {
                identity,
                state: Arc::clone(&state),
            });
        }
        Ok(state)
    }

    /// The state that the file has now or, if it has none, the last one that could be read. Blocks on
    /// the file system.
    #[must_use]
    pub fn current_or_last(&self) -> Option<Arc<NodeState>> {
        self.current().ok().or_else(|| {
            let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            last.as_ref().map(|last| Arc::clone(&last.state))
        })
    }
}

/// Replaces a file as a whole, if it differs, and makes its directory. Returns whether it did. Blocks
/// on the file system.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<bool> {
    if read_regular_file(path).is_ok_and(|present| present == bytes) {
        return Ok(false);
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let mut file = AtomicWriteFile::open(path)?;
    file.write_all(bytes)?;
    file.commit()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> NodeState {
        let overlay = LocalOverlay {
            name: "vxlan-1".to_owned(),
            vni: 4097,
            subnet: Some("192.168.0.0/27".parse().unwrap()),
            subnet6: None,
            mtu: 1450,
            groups: None,
            problem: None,
            blocks: vec![],
            withdrawn: vec![],
        };
        let revision = Revision {
            term: 3,
            counter: 41,
        };
        let subnets = vec!["192.168.0.0/17".parse().unwrap()];
        NodeState::new("agent-1".to_owned(), revision, vec![overlay], subnets)
    }

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        assert!(state().write(directory.path()).unwrap());
        assert_eq!(NodeState::read(directory.path()).unwrap(), state());
        assert!(!state().write(directory.path()).unwrap(), "nothing differs");
        let mut other = state();
        other.overlays[0].problem = Some("it is disabled".to_owned());
        assert!(other.write(directory.path()).unwrap());
        assert_eq!(NodeState::read(directory.path()).unwrap(), other);
    }

    #[test]
    fn missing_damaged_or_later_files_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        let error = NodeState::read(directory.path()).unwrap_err();
        assert!(matches!(error, NodeStateError::Missing(_)), "{error}");
        state().write(directory.path()).unwrap();
        let path = NodeState::path(directory.path());
        let text = std::fs::read_to_string(&path).unwrap();
        for damaged in [
            &text[..text.len() / 2],
            "",
            "[]",
            &text.replace("\"layout\": 1", "\"layout\": 2"),
        ] {
            std::fs::write(&path, damaged).unwrap();
            let error = NodeState::read(directory.path()).unwrap_err();
            assert!(matches!(error, NodeStateError::Invalid { .. }), "{error}");
        }
    }

    #[test]
    fn replaced_file_is_read_and_a_damaged_one_leaves_the_last_state() {
        let directory = tempfile::tempdir().unwrap();
        let file = NodeStateFile::new(directory.path());
        assert_eq!(file.current_or_last(), None);
        state().write(directory.path()).unwrap();
        let first = file.current().unwrap();
        assert_eq!(*first, state());
        assert!(Arc::ptr_eq(&first, &file.current().unwrap()), "read twice");
        let mut other = state();
        other.overlays[0].mtu = 1400;
        other.write(directory.path()).unwrap();
        assert_eq!(*file.current().unwrap(), other);
        std::fs::write(file.path(), "{").unwrap();
        let error = file.current().unwrap_err();
        assert!(matches!(error, NodeStateError::Invalid { .. }), "{error}");
        assert_eq!(file.current_or_last().as_deref(), Some(&other));
        std::fs::remove_file(file.path()).unwrap();
        let error = file.current().unwrap_err();
        assert!(matches!(error, NodeStateError::Missing(_)), "{error}");
        assert_eq!(file.current_or_last().as_deref(), Some(&other));
    }
}
