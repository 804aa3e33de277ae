//! The last complete state of the cluster, in the file `node/cluster.json` of the state directory: a
//! restart without managers knows everything.
//!
//! Invariants: the file is replaced as a whole. A file that is damaged, of another version or of
//! another node is ignored, with a warning. A new term is written before a second passes, so that
//! the daemon does not follow a manager of an older term after a restart.
//!
//! The file has the endpoints of all nodes: 20 MB with 100,000 of them. So a state with many of them is
//! written less often, on a thread that nothing waits for, and a restart without managers may know the
//! endpoints of some seconds ago. Nothing is allowed by that which was not allowed then, and what the
//! managers send replaces it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use contrail_mesos::node_state::replace_file;
use contrail_mesos_api::files::read_regular_file;
use contrail_mesos_api::text::Quoted;
use serde::{Deserialize, Serialize};

use crate::cluster_state::ClusterState;
use crate::watch::States;

/// The version of the file's layout.
const LAYOUT: u32 = 1;
/// The shortest time between two writes within a term.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// The same with [`MANY_ENDPOINTS`].
const LONG_WRITE_INTERVAL: Duration = Duration::from_secs(15);
/// From how many endpoints on the file is large.
const MANY_ENDPOINTS: usize = 2000;
/// When a failed write is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct StoredState {
    layout: u32,
    state: ClusterState,
}

#[derive(Serialize)]
struct StoredStateRef<'a> {
    layout: u32,
    state: &'a ClusterState,
}

/// Why there is no state of an earlier run.
#[derive(Debug, thiserror::Error)]
pub enum StoredStateError {
    /// There is no file.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// It cannot be read, is damaged, of another version or of another node.
    #[error("{} is ignored: {reason}", path.display())]
    Ignored {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The path of the file.
#[must_use]
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("node").join("cluster.json")
}

/// Reads the state that an earlier run of the daemon of `node` has written. Blocks on the file
/// system.
pub fn load(state_dir: &Path, node: &str) -> Result<ClusterState, StoredStateError> {
    let path = path(state_dir);
    let ignored = |reason: String| StoredStateError::Ignored {
        path: path.clone(),
        reason,
    };
    let bytes = match read_regular_file(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StoredStateError::Missing(path));
        }
        Err(error) => return Err(ignored(error.to_string())),
    };
    let stored: StoredState =
        serde_json::from_slice(&bytes).map_err(|error| ignored(error.to_string()))?;
    if stored.layout != LAYOUT {
        return Err(ignored(format!(
            "its layout {} is not {LAYOUT}, the known one",
            stored.layout
        )));
    }
    if stored.state.node != node {
        return Err(ignored(format!(
            "it is of node {}, and this is {}",
            Quoted(stored.state.node.as_bytes()),
            Quoted(node.as_bytes())
        )));
    }
    Ok(stored.state)
}

/// Writes the state, if the file differs. Blocks on the file system.
pub fn save(state_dir: &Path, state: &ClusterState) -> io::Result<()> {
    let stored = StoredStateRef {
        layout: LAYOUT,
        state,
    };
    replace_file(&path(state_dir), &serde_json::to_vec(&stored)?).map(drop)
}

/// Writes each state that is new for this receiver, until there are no more.
pub async fn keep(state_dir: PathBuf, mut states: States) {
    let mut logged = None;
    while states.changed().await.is_ok() {
        loop {
            let Some(state) = states.borrow_and_update().clone() else {
                break;
            };
            let term = state.revision.term;
            let interval = interval(&state);
            match write(&state_dir, state).await {
                Ok(()) => {
                    logged = None;
                    wait_for_later_term(states.clone(), term, interval).await;
                    break;
                }
                Err(error) => {
                    let problem = error.to_string();
                    if logged.as_ref() != Some(&problem) {
                        let path = path(&state_dir);
                        log::error!(
                            "cannot write {}, so a restart without managers knows an older state: {problem}",
                            path.display()
                        );
                    }
                    logged = Some(problem);
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }
}

async fn write(state_dir: &Path, state: Arc<ClusterState>) -> io::Result<()> {
    let state_dir = state_dir.to_owned();
    tokio::task::spawn_blocking(move || save(&state_dir, &state))
        .await
        .map_err(io::Error::other)?
}

/// The shortest time between the write of this state and the next one.
fn interval(state: &ClusterState) -> Duration {
    if state.total_endpoints() < MANY_ENDPOINTS {
        WRITE_INTERVAL
    } else {
        LONG_WRITE_INTERVAL
    }
}

/// Waits for a state of a later term, for `interval` at most.
async fn wait_for_later_term(mut states: States, term: u64, interval: Duration) {
    let is_later = |state: &Option<Arc<ClusterState>>| {
        state
            .as_ref()
            .is_some_and(|state| state.revision.term > term)
    };
    // Both an interval without one and a channel that is closed end the wait.
    let _ = tokio::time::timeout(interval, states.wait_for(is_later)).await;
}

#[cfg(test)]
mod tests {
    use contrail_mesos_api::cluster::{Endpoint, Membership, Object};
    use tokio::sync::watch;

    use super::*;
    use crate::testing::cluster;

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().unwrap();
        let error = load(directory.path(), "node-1").unwrap_err();
        assert!(matches!(error, StoredStateError::Missing(_)), "{error}");
        let state = cluster("3.4");
        save(directory.path(), &state).unwrap();
        assert_eq!(load(directory.path(), "node-1").unwrap(), state);
    }

    #[test]
    fn damaged_and_foreign_files_are_ignored() {
        let directory = tempfile::tempdir().unwrap();
        save(directory.path(), &cluster("3.4")).unwrap();
        let error = load(directory.path(), "node-2").unwrap_err();
        assert!(matches!(error, StoredStateError::Ignored { .. }), "{error}");
        let path = path(directory.path());
        let text = std::fs::read_to_string(&path).unwrap();
        for damaged in [
            "",
            "[]",
            &text[..text.len() / 2],
            &text.replace("\"layout\":1", "\"layout\":2"),
            &text.replace("\"3.4\"", "\"x\""),
        ] {
            std::fs::write(&path, damaged).unwrap();
            let error = load(directory.path(), "node-1").unwrap_err();
            assert!(matches!(error, StoredStateError::Ignored { .. }), "{error}");
        }
    }

    #[test]
    fn large_states_are_written_less_often() {
        let mut state = cluster("3.4");
        assert_eq!(interval(&state), WRITE_INTERVAL);
        for number in 0..MANY_ENDPOINTS {
            state.put(Object::Endpoint(Endpoint {
                node: "node-2".to_owned(),
                id: number.to_string(),
                addresses: vec![],
                membership: Membership::default(),
            }));
        }
        assert_eq!(interval(&state), LONG_WRITE_INTERVAL);
    }

    #[tokio::test(start_paused = true)]
    async fn latest_state_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let (sender, states) = watch::channel(None);
        let task = tokio::spawn(keep(directory.path().to_owned(), states));
        let written = || {
            load(directory.path(), "node-1")
                .ok()
                .map(|state| state.revision)
        };
        for text in ["1.1", "1.2", "1.3", "2.1", "2.2"] {
            sender.send_replace(Some(Arc::new(cluster(text))));
            let expected = crate::testing::revision(text);
            while written() != Some(expected) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        drop(sender);
        task.await.unwrap();
    }
}
