//! `contrail-mesos detach`: undoes an attach, also of a container whose checkpoint cannot be read.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use contrail_mesos::isolator::attacher::Attacher;
use contrail_mesos::isolator::checkpoint::{Owner, StoredCheckpoint};
use contrail_mesos::provider::PendingTeardown;
use contrail_mesos_api::container::ContainerId;
use futures::future::join_all;

use crate::output::confirm;
use crate::state::StateOptions;

/// Undo an attach
#[derive(Args)]
pub(crate) struct Detach {
    /// Name of the attachment
    container: String,
    /// Also detach a container of the agent, or remove what is left of a container whose checkpoint
    /// cannot be read
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    pub(crate) state: StateOptions,
}

impl Detach {
    pub(crate) async fn run(self, attacher: &Attacher) -> Result<ExitCode> {
        let name = &self.container;
        // By the name that status prints, which has dots for a nested container.
        match attacher.checkpoints().find_printed(name)? {
            None => return self.retry_pending(attacher).await,
            Some(StoredCheckpoint::Intact { checkpoint, .. }) => {
                if checkpoint.owner == Owner::Agent && !self.force {
                    bail!(
                        "{name} is a container of the agent, which detaches it when it ends; \
                         use --force to detach it now"
                    );
                }
                attacher
                    .detach(&checkpoint)
                    .await
                    .with_context(|| format!("{name} is not completely detached; retry"))?;
            }
            Some(StoredCheckpoint::Damaged {
                error,
                is_newer,
                file_name,
            }) => {
                if !self.force {
                    let advice = if is_newer {
                        "use the newer version, or --force to remove what is left by its id"
                    } else {
                        "use --force to remove what is left by its id"
                    };
                    bail!(
                        "the checkpoint of {name} cannot be read, so it is not known what is \
                         attached ({error}); {advice}"
                    );
                }
                let container = [ContainerId::top_level(name), ContainerId::printed(name)]
                    .into_iter()
                    .find(|container| container.file_name().as_str() == file_name)
                    .context("the name does not match the checkpoint")?;
                attacher
                    .detach_without_checkpoint(&container, container.is_of_agent())
                    .await
                    .with_context(|| format!("{name} is not completely detached; retry"))?;
            }
        }
        let pending = self.pending(attacher);
        if pending.is_empty() {
            confirm(&format!("{name} is detached\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        let peers: BTreeSet<&str> = pending
            .iter()
            .map(|teardown| match teardown {
                PendingTeardown::Contrail(_) => "at the vRouter agent or the manager",
                PendingTeardown::Cni(_) => "by its CNI plugins",
            })
            .collect();
        let peers = peers.into_iter().collect::<Vec<_>>().join(" and ");
        confirm(&format!(
            "{name} is detached from this host; its teardown {peers} is pending (a running agent \
             retries it, and so does another `contrail-mesos detach {name}`)\n"
        ))?;
        Ok(ExitCode::SUCCESS)
    }

    /// The pending teardowns of this container.
    fn pending(&self, attacher: &Attacher) -> Vec<PendingTeardown> {
        let mut pending = attacher.pending_teardowns();
        pending.retain(|teardown| teardown.is_of(&self.container));
        pending
    }

    async fn retry_pending(&self, attacher: &Attacher) -> Result<ExitCode> {
        let name = &self.container;
        let pending = self.pending(attacher);
        if pending.is_empty() {
            confirm(&format!("{name} is not attached: nothing to do\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        let retries = pending
            .iter()
            .map(|teardown| attacher.retry_teardown(teardown));
        // All are tried before an error is returned.
        for retried in join_all(retries).await {
            retried.with_context(|| format!("the teardown of {name} is still pending"))?;
        }
        confirm(&format!("the pending teardown of {name} is complete\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}
