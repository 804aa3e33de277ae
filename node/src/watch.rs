//! Follows the watch of the managers.
//!
//! Invariants: what is published is complete, and never older than what was published before. A
//! stream that ends, is silent or makes no sense changes nothing: another one is opened, at the next
//! manager. A manager that is behind is left.

use std::sync::Arc;
use std::time::Duration;

use contrail_mesos_api::agent_api::ManagerError;
use contrail_mesos_api::backoff::Backoff;
use contrail_mesos_api::cluster::{ClusterClient, WatchError, WatchStream};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;

use crate::cluster_state::ClusterState;
use crate::replica::{Replica, ReplicaError};

/// The delays between attempts to open a stream.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));

/// The latest complete state; none before the first.
pub type States = watch::Receiver<Option<Arc<ClusterState>>>;

/// The connection to the managers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Connection {
    /// The manager that sends the watch, once it is in step.
    pub manager: Option<String>,
    /// Why there is no such manager, if the last attempt failed.
    pub problem: Option<String>,
    /// How many streams have been opened.
    pub streams: u64,
    /// How many items have been received.
    pub items: u64,
}

/// Why a stream is followed no further.
#[derive(Debug, thiserror::Error)]
enum EndReason {
    #[error(transparent)]
    Open(#[from] ManagerError),
    #[error("{manager}: {error}")]
    Watch { manager: String, error: WatchError },
    #[error("{manager}: {error}")]
    Replica {
        manager: String,
        error: ReplicaError,
    },
    #[error("{manager}: it has ended the watch")]
    Ended { manager: String },
    /// Nobody needs the states any more.
    #[error("the daemon stops")]
    Stopped,
}

/// Follows the managers.
#[derive(Debug)]
pub struct Follower {
    client: ClusterClient,
    replica: Replica,
    states: watch::Sender<Option<Arc<ClusterState>>>,
    connection: watch::Sender<Connection>,
}

impl Follower {
    /// A follower that begins with what `states` has. `node` is this node's name.
    #[must_use]
    pub fn new(
        client: ClusterClient,
        node: &str,
        states: watch::Sender<Option<Arc<ClusterState>>>,
        connection: watch::Sender<Connection>,
    ) -> Self {
        let state = states.borrow().clone();
        Self {
            client,
            replica: Replica::new(node, state),
            states,
            connection,
        }
    }

    /// Follows until nobody receives the states any more.
    pub async fn run(mut self) {
        let mut delays = BACKOFF.delays();
        let mut logged = None;
        loop {
            let reason = self.follow().await;
            if matches!(reason, EndReason::Stopped) {
                return;
            }
            let problem = reason.to_string();
            let was_synced = self.replica.is_synced();
            if was_synced {
                delays = BACKOFF.delays();
            }
            // One line for each problem, not for each attempt.
            if was_synced || logged.as_ref() != Some(&problem) {
                log::warn!("not watching the managers, what they sent stays in force: {problem}");
            }
            self.connection.send_modify(|connection| {
                connection.manager = None;
                connection.problem = Some(problem.clone());
            });
            logged = Some(problem);
            tokio::time::sleep(delays.next_delay()).await;
        }
    }

    /// Opens a stream and follows it to its end.
    async fn follow(&mut self) -> EndReason {
        let since = self.replica.begin();
        let mut stream = match self.client.watch(since).await {
            Ok(stream) => stream,
            Err(error) => return error.into(),
        };
        self.connection
            .send_modify(|connection| connection.streams += 1);
        let reason = self.follow_stream(&mut stream).await;
        stream.leave();
        reason
    }

    async fn follow_stream(&mut self, stream: &mut WatchStream) -> EndReason {
        let manager = stream.manager().to_string();
        loop {
            let items = tokio::select! {
                items = stream.next() => items,
                () = self.states.closed() => return EndReason::Stopped,
            };
            let items = match items {
                Ok(Some(items)) => items,
                Ok(None) => return EndReason::Ended { manager },
                Err(error) => return EndReason::Watch { manager, error },
            };
            let was_synced = self.replica.is_synced();
            let count = items.len() as u64;
            // What arrives together is published once.
            let mut has_changed = false;
            let mut failure = None;
            for item in items {
                match self.replica.apply(item) {
                    Ok(is_change) => has_changed |= is_change,
                    Err(error) => {
                        failure = Some(error);
                        break;
                    }
                }
            }
            if has_changed {
                self.states.send_replace(self.replica.state().cloned());
            }
            if let Some(error) = failure {
                return EndReason::Replica { manager, error };
            }
            let is_synced = self.replica.is_synced();
            if is_synced && !was_synced {
                let revision = self.replica.state().map(|state| state.revision.to_string());
                log::info!(manager, revision = revision.unwrap_or_default(); "watching the cluster's state");
            }
            self.connection.send_if_modified(|connection| {
                connection.items += count;
                let is_new = is_synced && connection.manager.as_ref() != Some(&manager);
                if is_new {
                    connection.manager = Some(manager.clone());
                    connection.problem = None;
                }
                is_new
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use contrail_mesos_api::agent_api::{ClientOptions, manager_address};
    use contrail_mesos_api::cluster::{Object, WatchItem};
    use contrail_mesos_api::http::scripted::{Reply, ScriptedServer};
    use contrail_mesos_api::http::{Limits, TlsOptions};
    use tokio::sync::broadcast;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::testing::{cluster, overlay, revision};

    fn lines(items: &[WatchItem]) -> Vec<u8> {
        let mut lines = vec![];
        for item in items {
            serde_json::to_writer(&mut lines, item).unwrap();
            lines.push(b'\n');
        }
        lines
    }

    fn snapshot(text: &str, names: &[&str]) -> Vec<WatchItem> {
        let revision = revision(text);
        let mut items = vec![WatchItem::Snapshot { revision }];
        items.extend(names.iter().map(|name| WatchItem::Put {
            revision,
            object: Object::Overlay(overlay(name)),
        }));
        items.push(WatchItem::Synced { revision });
        items
    }

    /// A manager whose streams begin with these bytes, and go on with what is fed.
    async fn manager(first: Vec<u8>) -> (ScriptedServer, broadcast::Sender<Vec<u8>>) {
        let (feed, _) = broadcast::channel(16);
        let sender = feed.clone();
        let server = ScriptedServer::start(move |_, _| {
            Reply::StreamAfter("application/x-ndjson", first.clone(), sender.clone())
        })
        .await;
        (server, feed)
    }

    struct Following {
        states: States,
        connection: watch::Receiver<Connection>,
        task: JoinHandle<()>,
    }

    impl Drop for Following {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    impl Following {
        fn start(managers: &[&ScriptedServer], known: Option<ClusterState>) -> Self {
            let address =
                |manager: &&ScriptedServer| manager_address(&manager.address.to_string()).unwrap();
            let client = ClusterClient::new(&ClientOptions {
                managers: managers.iter().map(address).collect(),
                agent: "node-1".to_owned(),
                token_file: None,
                tls: TlsOptions::default(),
                limits: Limits::default(),
            })
            .unwrap();
            let (sender, states) = watch::channel(known.map(Arc::new));
            let (connection_sender, connection) = watch::channel(Connection::default());
            let follower = Follower::new(client, "node-1", sender, connection_sender);
            Self {
                states,
                connection,
                task: tokio::spawn(follower.run()),
            }
        }

        async fn wait_for(&mut self, text: &str) -> Arc<ClusterState> {
            let revision = revision(text);
            let is_there = |state: &Option<Arc<ClusterState>>| {
                state
                    .as_ref()
                    .is_some_and(|state| state.revision == revision)
            };
            let state = self.states.wait_for(is_there).await.unwrap().clone();
            state.unwrap()
        }
    }

    #[tokio::test]
    async fn snapshot_and_changes_are_published() {
        let (server, feed) = manager(lines(&snapshot("1.1", &["a"]))).await;
        let mut following = Following::start(&[&server], None);
        assert_eq!(following.wait_for("1.1").await.overlays.len(), 1);
        let put = WatchItem::Put {
            revision: revision("1.2"),
            object: Object::Overlay(overlay("b")),
        };
        feed.send(lines(&[put])).unwrap();
        assert_eq!(following.wait_for("1.2").await.overlays.len(), 2);
        let connection = following.connection.borrow().clone();
        assert_eq!(
            connection.manager,
            Some(format!("http://{}", server.address))
        );
    }

    #[tokio::test]
    async fn ended_stream_is_resumed_and_withdraws_nothing() {
        let count = Mutex::new(0);
        let (feed, _) = broadcast::channel(16);
        let sender = feed.clone();
        let server = ScriptedServer::start(move |request, _| {
            let mut count = count.lock().unwrap();
            *count += 1;
            let first = match *count {
                1 => lines(&snapshot("1.1", &["a"])),
                // The second stream breaks in the middle of a snapshot.
                2 => lines(&snapshot("1.2", &["b"])[..1]),
                _ => {
                    assert!(request.path.ends_with("&since=1.1"), "{}", request.path);
                    let put = WatchItem::Put {
                        revision: revision("1.3"),
                        object: Object::Overlay(overlay("c")),
                    };
                    let revision = revision("1.1");
                    lines(&[WatchItem::Synced { revision }, put])
                }
            };
            if *count == 3 {
                return Reply::StreamAfter("application/x-ndjson", first, sender.clone());
            }
            Reply::Unsized("application/x-ndjson", first)
        })
        .await;
        let mut following = Following::start(&[&server], None);
        let state = following.wait_for("1.3").await;
        assert_eq!(state.overlays.keys().collect::<Vec<_>>(), ["a", "c"]);
    }

    #[tokio::test]
    async fn manager_that_is_behind_is_left_for_another() {
        let (old, _old_feed) = manager(lines(&snapshot("2.7", &["a"]))).await;
        let (new, _new_feed) = manager(lines(&snapshot("3.2", &["a"]))).await;
        let mut following = Following::start(&[&old, &new], Some(cluster("3.1")));
        let state = following.wait_for("3.2").await;
        assert_eq!(state.overlays.keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(old.requests().len(), 1);
    }

    #[tokio::test]
    async fn refusals_and_nonsense_leave_the_known_state() {
        let server = ScriptedServer::start(|_, count| match count {
            0 => Reply::Answer(403, "{\"error\": \"no\"}".to_owned()),
            1 => Reply::Unsized("text/html", b"<html>\n".to_vec()),
            2 => Reply::Close,
            _ => Reply::Hang,
        })
        .await;
        let known = cluster("3.1");
        let mut following = Following::start(&[&server], Some(known.clone()));
        let failed = |connection: &Connection| connection.problem.is_some();
        following.connection.wait_for(failed).await.unwrap();
        while server.requests().len() < 4 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(following.states.borrow().as_deref(), Some(&known));
    }
}
