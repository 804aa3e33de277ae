//! `contrail-mesos detach`: undoes an attach, also of a container whose checkpoint cannot be read.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use contrail_mesos::isolator::attacher::Attacher;
use contrail_mesos::isolator::checkpoint::{Owner, StoredCheckpoint};
use contrail_mesos::provider::PendingTeardown;
use contrail_mesos::provider::contrail::forget_pending_container;
use contrail_mesos_api::agent_api::vm_uuid;
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::text::Escaped;
use futures::future::join_all;

use crate::output::{confirm, print};
use crate::state::StateOptions;

/// Undo an attach
///
/// The teardown of a detached container may be pending at the vRouter agent, the manager or its CNI plugins.
/// It is retried until it succeeds. If it never can, --force tries it once more and then gives it up: what
/// this host has of it is removed, and what may be left elsewhere is printed.
#[derive(Args)]
pub(crate) struct Detach {
    /// Name of the attachment
    container: String,
    /// Also detach a container of the agent, remove what is left of a container whose checkpoint cannot be
    /// read, or give up a pending teardown that fails once more
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
                print(&unreadable_text(name, &container, attacher.has_contrail()))?;
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
             retries it, and so does another `contrail-mesos detach {name}`; if it can never succeed, \
             `contrail-mesos detach {name} --force` gives it up)\n"
        ))?;
        Ok(ExitCode::SUCCESS)
    }

    /// The pending teardowns of this container.
    fn pending(&self, attacher: &Attacher) -> Vec<PendingTeardown> {
        let mut pending = attacher.pending_teardowns();
        pending.retain(|teardown| teardown.is_of(&self.container));
        pending
    }

    /// Tries the pending teardowns once more, and gives up those that fail: removes what this host has of
    /// them, and prints what may be left elsewhere.
    async fn abandon_pending(&self, attacher: &Attacher) -> Result<ExitCode> {
        let name = &self.container;
        let mut text = String::new();
        let mut left = Vec::new();
        for teardown in &self.pending(attacher) {
            let Err(error) = attacher.retry_teardown(teardown).await else {
                writeln!(text, "the pending teardown of {name} is complete")?;
                continue;
            };
            let abandoned = attacher.abandon_teardown(teardown).await;
            left.extend(abandoned.with_context(|| {
                format!("the teardown of {name} fails ({error}), and cannot be given up")
            })?);
            let error = error.to_string();
            writeln!(text, "gave up the teardown of {name}: {}", Escaped(&error))?;
        }
        // Those whose peers the configuration does not name any more.
        let state_dir = attacher.checkpoints().state_dir();
        for teardown in forget_pending_container(state_dir, name)? {
            left.extend(teardown.remainder());
            writeln!(
                text,
                "gave up the teardown of {name}: the configuration has no table [contrail] to reach its peers"
            )?;
        }
        for container in [ContainerId::top_level(name), ContainerId::printed(name)] {
            left.extend(attacher.abandon_records(&container).await?);
        }
        for sentence in &left {
            writeln!(text, "may be left {}", Escaped(sentence))?;
        }
        if text.is_empty() {
            writeln!(text, "{name} is not attached: nothing to do")?;
        }
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }

    async fn retry_pending(&self, attacher: &Attacher) -> Result<ExitCode> {
        if self.force {
            return self.abandon_pending(attacher).await;
        }
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

/// What a checkpoint that could not be read may have named, and is given up.
fn unreadable_text(name: &str, container: &ContainerId, has_contrail: bool) -> String {
    let in_contrail = if has_contrail {
        let machine = vm_uuid(container);
        format!(
            "may be left in Contrail: the virtual-machine {machine} with its interfaces and addresses, if the \
             container was on networks of Contrail; contrail-mesos check compares\n"
        )
    } else {
        String::new()
    };
    format!(
        "the checkpoint of {name} could not be read and is given up: what this host has with the container's \
         name is removed\n{in_contrail}"
    )
}
