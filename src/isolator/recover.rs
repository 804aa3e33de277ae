//! recover: when the agent starts, checkpoints × what the agent knows → adopt, keep or clean up.
//!
//! | checkpoint | the agent says | then |
//! |---|---|---|
//! | readable | alive | adopted with its addresses; if its interface is gone, its network is lost |
//! | readable | orphan | kept until the agent calls cleanup |
//! | readable | nothing | detached now: the agent forgot it, as after a reboot |
//! | damaged | alive or orphan | moved aside; what is left of it is swept at its cleanup |
//! | damaged | nothing | moved aside; what is left of it is swept now |

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures::future::join_all;

use super::checkpoint::{Checkpoint, Found, Owner};
use super::container::{Container, Known};
use super::{Isolator, IsolatorError, State, outcome, step, summary};
use crate::proto::mesos;
use crate::provider::Attachment;
use contrail_mesos_api::container::ContainerId;

impl Isolator {
    /// Takes over what an earlier agent left. Never fails, lest the agent does not start; what
    /// goes wrong is logged, and tried again at the next start.
    pub async fn recover(
        self: &Arc<Self>,
        states: Vec<State>,
        orphans: Vec<mesos::ContainerId>,
    ) -> Result<(), IsolatorError> {
        let isolator = self.clone();
        let recovered = step("recover", self.deadlines.recover, async move {
            isolator.take_over(&states, &orphans).await;
            Ok(())
        })
        .await;
        if let Err(error) = recovered {
            log::error!(error:% = error; "recovery goes on in the background");
        }
        Ok(())
    }

    async fn take_over(&self, states: &[State], orphans: &[mesos::ContainerId]) {
        let alive: HashMap<ContainerId, &State> = states
            .iter()
            .map(|state| (ContainerId::from(&state.container_id), state))
            .collect();
        let orphans: HashSet<ContainerId> = orphans.iter().map(ContainerId::from).collect();
        let checkpoints = self.networks.checkpoints().clone();
        let found = match tokio::task::spawn_blocking(move || checkpoints.find()).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                // Without knowing what to keep, nothing may be removed.
                log::error!(error:% = error; "cannot recover any container");
                return;
            }
            Err(_) => return,
        };
        let mut keep = HashSet::new();
        let mut work = Vec::new();
        for found in found {
            match found {
                Found::Container(checkpoint, made) => {
                    let state = alive.get(&checkpoint.container).copied();
                    let known = state.is_some() || orphans.contains(&checkpoint.container);
                    if known {
                        keep.insert(checkpoint.container.clone());
                    }
                    work.push(self.take_over_one(checkpoint, made, state, known));
                }
                Found::Damaged { file_name, error } => {
                    self.set_aside(&file_name, &error).await;
                    let known = alive
                        .keys()
                        .chain(&orphans)
                        .find(|id| id.file_name().as_str() == file_name);
                    if let Some(id) = known {
                        keep.insert(id.clone());
                        self.insert(Arc::new(Container::new(id.clone(), None, Known::default())));
                    }
                }
            }
        }
        join_all(work).await;
        if let Err(error) = self.networks.sweep(&keep).await {
            log::error!(error:% = error; "cannot remove everything that dead containers left");
        }
    }

    async fn take_over_one(
        &self,
        checkpoint: Box<Checkpoint>,
        made: Option<Vec<Attachment>>,
        state: Option<&State>,
        known: bool,
    ) {
        let id = checkpoint.container.clone();
        if checkpoint.owner == Owner::Operator {
            return;
        }
        if !known {
            let detached = self.networks.detach(&checkpoint).await;
            outcome("detached, for the agent no longer knows it", &id, &detached);
            return;
        }
        let container = Arc::new(Container::new(
            id.clone(),
            checkpoint.executor.clone(),
            Known {
                checkpoint: Some((*checkpoint).clone()),
                made: made.clone(),
            },
        ));
        self.insert(container.clone());
        let Some(state) = state else {
            return;
        };
        // A container that was not attached yet waited for the old agent, and went with it: its
        // process id may be another's by now.
        let pid = u32::try_from(state.pid).ok().filter(|_| made.is_some());
        match self.networks.adopt(&checkpoint, pid).await {
            Ok(()) => log::info!(container:% = id; "adopted: {}", summary(&checkpoint)),
            Err(error) if made.is_none() => {
                log::warn!(container:% = id, error:% = error; "was never attached");
            }
            Err(error) => {
                log::error!(container:% = id, error:% = error; "network lost while the agent was away");
                container.lost.send_replace(Some(error.to_string()));
            }
        }
    }

    async fn set_aside(&self, file_name: &std::ffi::OsString, error: &str) {
        let checkpoints = self.networks.checkpoints().clone();
        let name = file_name.clone();
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
