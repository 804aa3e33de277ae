//! `contrail-mesos status`: lists the containers that are attached on this host.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use comfy_table::{Table, presets};
use contrail_mesos::endpoints::{policy, read_groups};
use contrail_mesos::isolator::attacher::Attacher;
use contrail_mesos::isolator::checkpoint::{Checkpoint, Owner, StoredCheckpoint};
use contrail_mesos::provider::contrail::pending_containers;
use contrail_mesos::provider::{Attachment, Intent, PendingTeardown, ProviderIntent};
use contrail_mesos_api::cluster::Membership;
use contrail_mesos_api::text::Quoted;
use serde::Serialize;

use crate::Output;
use crate::groups::groups_text;
use crate::output::{port_text, print};
use crate::state::StateOptions;

const CONTRAIL_TEARDOWN: &str =
    "the agent retries it until the vRouter agent and the manager have done their part";

/// List the containers that are attached on this host, or all nodes of the cluster
#[derive(Args)]
pub(crate) struct Status {
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    pub(crate) output: Output,
    /// List the nodes that the managers know, and what they have applied. Exits with failure unless
    /// all of them are current and have no problem
    #[arg(long, conflicts_with = "state_dir")]
    pub(crate) cluster: bool,
    #[command(flatten)]
    pub(crate) state: StateOptions,
}

/// One network of one container.
#[derive(Serialize)]
struct Row {
    container: String,
    /// The executor's id, which for a command task is the task's; `-` for an operator's attachment.
    executor: String,
    network: String,
    interface: String,
    addresses: Vec<String>,
    mac: String,
    ports: Vec<String>,
    /// The groups that it has now; none on a network that does not isolate groups.
    groups: Option<Vec<String>>,
    /// The same of security groups.
    security_groups: Option<Vec<String>>,
    /// The handle to the network namespace; none for an operator's attachment.
    namespace: Option<String>,
    state: State,
    /// What is wrong, a sentence each.
    problems: Vec<String>,
}

impl Row {
    fn groups_text(&self) -> String {
        match (&self.groups, &self.security_groups) {
            (Some(groups), Some(security_groups)) => groups_text(&Membership {
                groups: groups.clone(),
                security_groups: security_groups.clone(),
            }),
            _ => "-".to_owned(),
        }
    }
}

/// The state of one network of one container.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Between the reservation and the end of the attach.
    Attaching,
    /// All is as it was attached.
    Attached,
    /// Attached, but something that it needs was changed or removed.
    Degraded,
    /// Steps of the detach are pending at the vRouter agent or the manager.
    Detaching,
    /// The interface is gone.
    Lost,
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Attaching => "attaching",
            Self::Attached => "attached",
            Self::Degraded => "degraded",
            Self::Detaching => "detaching",
            Self::Lost => "lost",
        })
    }
}

impl Status {
    /// Exits with failure if the network of a container is lost or degraded, or a checkpoint is
    /// damaged.
    pub(crate) async fn run(self, attacher: &Attacher, state_dir: &Path) -> Result<ExitCode> {
        let pending: BTreeSet<String> = pending_containers(state_dir)
            .context("cannot read the pending teardowns")?
            .into_iter()
            .collect();
        let mut rows = Vec::new();
        let mut damaged = Vec::new();
        for stored in attacher.checkpoints().load_all()? {
            match stored {
                StoredCheckpoint::Intact {
                    checkpoint,
                    attachments,
                } => {
                    for (index, network) in checkpoint.networks.iter().enumerate() {
                        let attachment = attachments.as_ref().and_then(|all| all.get(index));
                        let intent = &network.intent;
                        rows.push(row(attacher, &checkpoint, intent, attachment, &pending).await);
                    }
                }
                StoredCheckpoint::Damaged { error, .. } => damaged.push(error),
            }
        }
        rows.sort_by(|a, b| (&a.container, &a.interface).cmp(&(&b.container, &b.interface)));
        // Those that have a checkpoint are among the rows.
        let contrail = pending
            .into_iter()
            .filter(|name| rows.iter().all(|row| row.container != *name))
            .map(|name| (name, CONTRAIL_TEARDOWN.to_owned()));
        let failed_dels = attacher.pending_teardowns().into_iter();
        let failed_dels = failed_dels.filter_map(|teardown| match teardown {
            // They are read without a configuration, too.
            PendingTeardown::Contrail(_) => None,
            PendingTeardown::Cni(del) => {
                let error = Quoted(del.error().as_bytes());
                let text =
                    format!("the agent retries the DEL of its CNI plugins, which failed: {error}");
                Some((del.container().to_string(), text))
            }
        });
        let mut pending: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (name, text) in contrail.chain(failed_dels) {
            pending.entry(name).or_default().insert(text);
        }
        let is_healthy = damaged.is_empty()
            && rows
                .iter()
                .all(|row| !matches!(row.state, State::Lost | State::Degraded));
        let mut text = String::new();
        match self.output {
            Output::Json => {
                let status = serde_json::json!({
                    "containers": rows,
                    "damaged": damaged,
                    "pending_teardowns": pending.keys().collect::<Vec<_>>(),
                });
                writeln!(text, "{}", serde_json::to_string_pretty(&status)?)?;
            }
            Output::Table => {
                writeln!(text, "{}", table(&rows))?;
                for (name, texts) in &pending {
                    for details in texts {
                        writeln!(text, "pending teardown: {name}: {details}")?;
                    }
                }
                for error in &damaged {
                    writeln!(text, "damaged checkpoint: {error}")?;
                }
            }
        }
        print(&text)?;
        Ok(if is_healthy {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// The state of a network, and what is wrong with it.
async fn state(
    attacher: &Attacher,
    checkpoint: &Checkpoint,
    intent: &Intent,
    is_attached: bool,
    is_pending: bool,
) -> (State, Vec<String>) {
    if is_pending && matches!(intent.provider, ProviderIntent::Contrail(_)) {
        return (State::Detaching, vec![]);
    }
    if !is_attached {
        return (State::Attaching, vec![]);
    }
    if let Err(error) = attacher.statistics(intent).await {
        return (State::Lost, vec![error.to_string()]);
    }
    let problems = attacher.inspect(checkpoint, intent).await;
    if problems.is_empty() {
        (State::Attached, problems)
    } else {
        (State::Degraded, problems)
    }
}

async fn row(
    attacher: &Attacher,
    checkpoint: &Checkpoint,
    intent: &Intent,
    attachment: Option<&Attachment>,
    pending: &BTreeSet<String>,
) -> Row {
    let is_pending = pending.contains(&checkpoint.container.to_string());
    let is_attached = attachment.is_some();
    let (mut state, mut problems) =
        state(attacher, checkpoint, intent, is_attached, is_pending).await;
    let changed = read_groups(attacher.checkpoints(), &checkpoint.container);
    let membership = match changed {
        Ok(changed) => policy(intent, changed.as_ref()).map(|policy| policy.membership),
        Err(error) => {
            let is_isolated = policy(intent, None).is_some();
            if is_isolated {
                problems.push(error.to_string());
                if state == State::Attached {
                    state = State::Degraded;
                }
            }
            None
        }
    };
    let executor = match (&checkpoint.executor, checkpoint.owner) {
        (Some(executor), Owner::Agent) => executor.executor.clone(),
        _ => "-".to_owned(),
    };
    let addresses = attachment.map_or(&intent.addresses, |attachment| &attachment.addresses);
    Row {
        container: checkpoint.container.to_string(),
        executor,
        network: intent.network.clone(),
        interface: intent.interface.clone(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        mac: attachment
            .map_or(intent.mac, |attachment| attachment.mac)
            .to_string(),
        ports: intent.ports.iter().copied().map(port_text).collect(),
        groups: membership.as_ref().map(|all| all.groups.clone()),
        security_groups: membership.map(|all| all.security_groups),
        namespace: attacher
            .handle(checkpoint)
            .map(|handle| handle.display().to_string()),
        state,
        problems,
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "CONTAINER",
        "EXECUTOR",
        "NETWORK",
        "INTERFACE",
        "ADDRESS",
        "MAC",
        "PORTS",
        "GROUPS",
        "STATE",
    ]);
    for row in rows {
        table.add_row([
            row.container.clone(),
            // Chosen by a framework, so it may have control characters.
            row.executor.escape_default().to_string(),
            row.network.clone(),
            row.interface.clone(),
            row.addresses.join(" "),
            row.mac.clone(),
            row.ports.join(" "),
            row.groups_text(),
            if row.problems.is_empty() {
                row.state.to_string()
            } else {
                format!("{}: {}", row.state, row.problems.join("; "))
            },
        ]);
    }
    table
}
