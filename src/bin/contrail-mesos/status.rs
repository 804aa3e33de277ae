//! `contrail-mesos status`: the containers that are attached on this host.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use comfy_table::{Table, presets};
use contrail_mesos::config::Config;
use contrail_mesos::isolator::checkpoint::{Checkpoint, Found, Owner};
use contrail_mesos::isolator::networks::Networks;
use contrail_mesos::provider::{Attachment, Intent};
use serde::Serialize;
use tokio::sync::mpsc::unbounded_channel;

use crate::Output;

/// Show the containers that are attached on this host
#[derive(Args)]
pub(crate) struct Status {
    /// How to print
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// One network of one container.
#[derive(Serialize)]
struct Row {
    container: String,
    /// The executor, for a command task the task; `-` for an operator's attachment.
    executor: String,
    network: String,
    interface: String,
    addresses: Vec<String>,
    mac: String,
    ports: Vec<String>,
    /// The handle to the network namespace; an operator's attachment has none.
    namespace: Option<String>,
    /// `attached`, `attaching`, or `lost` with what is gone.
    state: String,
}

impl Status {
    /// Fails if a container's network is lost or a checkpoint is damaged.
    pub(crate) async fn run(self, config: &Config) -> Result<ExitCode> {
        let (lost, _nobody_waits) = unbounded_channel();
        let networks = Networks::new(config, lost)?;
        let mut rows = Vec::new();
        let mut damaged = Vec::new();
        for found in networks.checkpoints().find()? {
            match found {
                Found::Container(checkpoint, made) => {
                    for (index, network) in checkpoint.networks.iter().enumerate() {
                        let made = made.as_ref().and_then(|made| made.get(index));
                        rows.push(row(&networks, &checkpoint, &network.intent, made).await);
                    }
                }
                Found::Damaged { error, .. } => damaged.push(error),
            }
        }
        rows.sort_by(|one, two| {
            (&one.container, &one.interface).cmp(&(&two.container, &two.interface))
        });
        let good = damaged.is_empty() && rows.iter().all(|row| !row.state.starts_with("lost"));
        match self.output {
            Output::Json => {
                let all = serde_json::json!({ "containers": rows, "damaged": damaged });
                println!("{}", serde_json::to_string_pretty(&all)?);
            }
            Output::Table => {
                println!("{}", table(&rows));
                for error in &damaged {
                    println!("damaged checkpoint: {error}");
                }
            }
        }
        Ok(if good {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

async fn row(
    networks: &Networks,
    checkpoint: &Checkpoint,
    intent: &Intent,
    made: Option<&Attachment>,
) -> Row {
    let state = match (made, networks.provider(intent).statistics(intent).await) {
        (None, _) => "attaching".to_owned(),
        (Some(_), Ok(_)) => "attached".to_owned(),
        (Some(_), Err(error)) => format!("lost: {error}"),
    };
    let executor = match (&checkpoint.executor, checkpoint.owner) {
        (Some(executor), Owner::Agent) => executor.executor.clone(),
        _ => "-".to_owned(),
    };
    let addresses = made.map_or(&intent.addresses, |made| &made.addresses);
    Row {
        container: checkpoint.container.to_string(),
        executor,
        network: intent.network.clone(),
        interface: intent.interface.clone(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        mac: made.map_or(intent.mac, |made| made.mac).to_string(),
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
        namespace: networks
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
            // A framework chose it: no control characters on an operator's terminal.
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
