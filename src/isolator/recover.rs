//! Recovery when the agent starts, from the checkpoints and what the agent knows.
//!
//! | checkpoint | the agent reports | action |
//! |---|---|---|
//! | intact | alive | adopt it with its addresses; if its interface is gone, its network is lost |
//! | intact | orphan | keep it until the agent calls cleanup |
//! | intact | nothing | detach it now: the agent no longer knows it, as after a reboot |
//! | intact, an operator's | anything | leave it: only the operator detaches it |
//! | damaged | alive or orphan | move it aside; sweep what is left of it at its cleanup |
//! | damaged | nothing | move it aside; sweep what is left of it now |
//! | none, but a network or traces of one | alive or orphan | keep what it has until its cleanup, see `unknown` |

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::sync::Arc;

use futures::future::join_all;

use super::checkpoint::{Checkpoint, Owner, StoredCheckpoint};
use super::container::{Container, NetworkState};
use super::{Isolator, IsolatorError, log_outcome, step, summary, unknown};
use crate::proto::mesos;
use crate::proto::mesos::slave::ContainerState;
use crate::provider::Attachment;
use contrail_mesos_api::container::ContainerId;

impl Isolator {
    /// Takes over what an earlier agent left. Never fails, because the agent would then not start;
    /// errors are logged, and retried at the next start.
    pub async fn recover(
        self: &Arc<Self>,
        states: Vec<ContainerState>,
        orphans: Vec<mesos::ContainerId>,
    ) -> Result<(), IsolatorError> {
        let isolator = self.clone();
        let recovered = step("recover", self.deadlines.recover, async move {
            isolator.recover_all(&states, &orphans).await;
            Ok(())
        })
        .await;
        if let Err(error) = recovered {
            log::error!(error:% = error; "recovery continues in the background");
        }
        Ok(())
    }

    async fn recover_all(&self, states: &[ContainerState], orphans: &[mesos::ContainerId]) {
        let alive: HashMap<ContainerId, &ContainerState> = states
            .iter()
            .map(|state| (ContainerId::from(&state.container_id), state))
            .collect();
        let orphans: HashSet<ContainerId> = orphans.iter().map(ContainerId::from).collect();
        let checkpoints = self.attacher.checkpoints().clone();
        let stored = match tokio::task::spawn_blocking(move || checkpoints.load_all()).await {
            Ok(Ok(stored)) => stored,
            Ok(Err(error)) => {
                // Without the list of what to keep, nothing may be removed.
                log::error!(error:% = error; "cannot recover any container");
                return;
            }
            Err(_) => return,
        };
        let mut keep = HashSet::new();
        let mut with_checkpoint = HashSet::new();
        let mut recoveries = Vec::new();
        for stored in stored {
            match stored {
                // The sweep keeps it, too.
                StoredCheckpoint::Intact { checkpoint, .. }
                    if checkpoint.owner == Owner::Operator =>
                {
                    with_checkpoint.insert(checkpoint.container);
                }
                StoredCheckpoint::Intact {
                    checkpoint,
                    attachments,
                } => {
                    with_checkpoint.insert(checkpoint.container.clone());
                    let state = alive.get(&checkpoint.container).copied();
                    let is_known = state.is_some() || orphans.contains(&checkpoint.container);
                    if is_known {
                        keep.insert(checkpoint.container.clone());
                    }
                    recoveries.push(self.recover_one(*checkpoint, attachments, state, is_known));
                }
                StoredCheckpoint::Damaged {
                    file_name, error, ..
                } => {
                    self.set_aside(&file_name, &error).await;
                    let known = alive
                        .keys()
                        .chain(&orphans)
                        .find(|id| id.file_name().as_str() == file_name);
                    if let Some(id) = known {
                        keep.insert(id.clone());
                        with_checkpoint.insert(id.clone());
                        let state = NetworkState::default();
                        self.insert(Arc::new(Container::new(id.clone(), None, state)));
                    }
                }
            }
        }
        join_all(recoveries).await;
        let source = self.source.clone();
        let loaded = tokio::task::spawn_blocking(move || {
            unknown::report_network_cni();
            source.load()
        });
        let config = loaded.await.ok().and_then(Result::ok);
        let reported = alive
            .iter()
            .map(|(id, state)| (id, Some(*state)))
            .chain(orphans.iter().map(|id| (id, None)));
        let linked = self.attacher.containers_of_links().await.unwrap_or_else(|error| {
            log::error!(error:% = error; "cannot look for the interfaces of unknown containers");
            HashSet::new()
        });
        for (id, state) in reported {
            let has_link = linked.contains(&id.file_name());
            if !with_checkpoint.contains(id)
                && self
                    .recover_unknown(id, state, has_link, config.as_ref())
                    .await
            {
                keep.insert(id.clone());
            }
        }
        if let Err(error) = self.attacher.sweep(&keep).await {
            log::error!(error:% = error; "cannot remove everything that dead containers left");
        }
        let mut without_container = linked;
        for id in keep.iter().chain(&with_checkpoint) {
            without_container.remove(&id.file_name());
        }
        if let Err(error) = self.attacher.remove_handles(without_container).await {
            log::error!(error:% = error; "cannot remove the handles that dead containers left");
        }
    }

    async fn recover_one(
        &self,
        checkpoint: Checkpoint,
        attachments: Option<Vec<Attachment>>,
        state: Option<&ContainerState>,
        is_known: bool,
    ) {
        let id = checkpoint.container.clone();
        if !is_known {
            let detached = self.attacher.detach(&checkpoint).await;
            log_outcome(
                "detach of a container that the agent no longer knows",
                &id,
                &detached,
            );
            return;
        }
        let was_attached = attachments.is_some();
        let container = Arc::new(Container::new(
            id.clone(),
            checkpoint.executor.clone(),
            NetworkState {
                checkpoint: Some(checkpoint.clone()),
                attachments: attachments.clone(),
                ..NetworkState::default()
            },
        ));
        self.insert(container.clone());
        let Some(state) = state else {
            return;
        };
        // A container that was not attached yet waited for the old agent and ended with it, so
        // its process id may be another process' by now.
        let pid = u32::try_from(state.pid).ok().filter(|_| was_attached);
        match self.attacher.adopt(&checkpoint, pid).await {
            Ok(()) => {
                log::info!(container:% = id; "adopted: {}", summary(&checkpoint));
                let attachments = attachments.as_deref();
                if let Err(error) = self
                    .attacher
                    .restore_etc_files(&checkpoint, attachments)
                    .await
                {
                    log::warn!(container:% = id, error:% = error; "its nested containers get the host's files");
                }
            }
            Err(error) if !was_attached => {
                log::warn!(container:% = id, error:% = error; "container was never attached");
            }
            Err(error) => {
                log::error!(container:% = id, error:% = error; "network lost while the agent was away");
                container.lost.send_replace(Some(error.to_string()));
            }
        }
    }

    async fn set_aside(&self, file_name: &OsStr, error: &str) {
        let checkpoints = self.attacher.checkpoints().clone();
        let name = file_name.to_owned();
        match tokio::task::spawn_blocking(move || checkpoints.set_aside(&name)).await {
            Ok(Ok(path)) => log::error!(
                "damaged checkpoint moved aside to {}: {error}",
                path.display()
            ),
            Ok(Err(other)) => log::error!("damaged checkpoint ({error}); {other}"),
            Err(_) => {}
        }
    }
}
