//! `contrail-mesos status`: lists the containers that are attached on this host.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use comfy_table::{Table, presets};
use contrail_mesos::config::Config;
use contrail_mesos::isolator::attacher::Attacher;
use contrail_mesos::isolator::checkpoint::{Checkpoint, Owner, StoredCheckpoint};
use contrail_mesos::provider::{Attachment, Intent};
use serde::Serialize;
use tokio::sync::mpsc::unbounded_channel;

use crate::Output;

/// List the containers that are attached on this host
#[derive(Args)]
pub(crate) struct Status {
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
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
    /// The handle to the network namespace; none for an operator's attachment.
    namespace: Option<String>,
    /// `attached`, `attaching`, or `lost: ` and the reason.
    state: String,
}

impl Status {
    /// Exits with failure if a container has lost its network or a checkpoint is damaged.
    pub(crate) async fn run(self, config: &Config) -> Result<ExitCode> {
        let (lost, _receiver) = unbounded_channel();
        let attacher = Attacher::new(config, lost)?;
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
                        rows.push(row(&attacher, &checkpoint, &network.intent, attachment).await);
                    }
                }
                StoredCheckpoint::Damaged { error, .. } => damaged.push(error),
            }
        }
        rows.sort_by(|a, b| (&a.container, &a.interface).cmp(&(&b.container, &b.interface)));
        let is_healthy =
            damaged.is_empty() && rows.iter().all(|row| !row.state.starts_with("lost"));
        match self.output {
            Output::Json => {
                let status = serde_json::json!({ "containers": rows, "damaged": damaged });
                println!("{}", serde_json::to_string_pretty(&status)?);
            }
            Output::Table => {
                println!("{}", table(&rows));
                for error in &damaged {
                    println!("damaged checkpoint: {error}");
                }
            }
        }
        Ok(if is_healthy {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

async fn row(
    attacher: &Attacher,
    checkpoint: &Checkpoint,
    intent: &Intent,
    attachment: Option<&Attachment>,
) -> Row {
    let statistics = attacher.statistics(intent).await;
    let state = match (attachment, statistics) {
        (None, _) => "attaching".to_owned(),
        (Some(_), Ok(_)) => "attached".to_owned(),
        (Some(_), Err(error)) => format!("lost: {error}"),
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
        ports: intent
            .ports
            .iter()
            .map(|port| {
                format!(
                    "{}:{}/{}",
                    port.host_port, port.container_port, port.protocol
                )
            })
            .collect(),
        namespace: attacher
            .handle(checkpoint)
            .map(|handle| handle.display().to_string()),
        state,
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
            row.state.clone(),
        ]);
    }
    table
}
