//! `contrail-mesos check`: names what belongs to no container on this host, and repairs it.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use contrail_mesos::agent_containers::ask;
use contrail_mesos::isolator::attacher::{Attacher, Peers, SilentPeer, Stray};
use contrail_mesos_api::http::Address;
use contrail_mesos_api::text::Escaped;
use serde::Serialize;
use serde_json::json;

use crate::Output;
use crate::doctor::agent_address;
use crate::output::{SCHEMA_VERSION, is_quiet, print, print_error};
use crate::state::StateOptions;

/// Look for what belongs to no container on this host, and repair it
///
/// Compares the host's interfaces, bridges, nftables elements, routing rules, namespaces and mounts with
/// the checkpoints, leases and port files, and the checkpoints with the containers that the running agent
/// knows, and with what the managers have in Contrail for this host. Containers may run and be attached
/// meanwhile: what they have is never touched, and a container that is alive without a checkpoint keeps
/// everything.
///
/// The exit status is 0 if there is nothing, or if a repair has removed all of it, and 1 otherwise.
#[derive(Args)]
pub(crate) struct Check {
    /// Remove what belongs to no container, and restore leases that are missing
    #[arg(long)]
    repair: bool,
    /// Only print what a repair would do
    #[arg(long, requires = "repair")]
    dry_run: bool,
    /// The agent [default: the mesos-agent that runs in this network namespace]
    #[arg(long, value_name = "ADDRESS", value_parser = agent_address)]
    agent: Option<Address>,
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    pub(crate) state: StateOptions,
}

/// What became of a stray.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Repaired,
    Left,
}

/// A stray, and what became of it.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    stray: Stray,
    /// None without a repair.
    outcome: Option<Outcome>,
}

impl Check {
    pub(crate) async fn run(self, attacher: &Attacher) -> Result<ExitCode> {
        let agent = self.agent.clone();
        let peers = Peers::new(move || ask(agent.clone()));
        let (strays, mut silent) = attacher.strays_with(&peers).await?;
        let mut rows: Vec<Row> = strays
            .iter()
            .map(|stray| Row {
                stray: stray.clone(),
                outcome: None,
            })
            .collect();
        let mut error = None;
        if self.repair && !self.dry_run && !strays.is_empty() {
            error = attacher.repair_strays_with(&strays, &peers).await.err();
            let left;
            (left, silent) = attacher.strays_with(&peers).await?;
            for row in &mut rows {
                let is_left = left.iter().any(|stray| stray.is_same(&row.stray));
                row.outcome = Some(if is_left {
                    Outcome::Left
                } else {
                    Outcome::Repaired
                });
            }
            // Such as the teardown that began by the repair, and is pending.
            rows.extend(
                left.into_iter()
                    .filter(|stray| !strays.iter().any(|old| old.is_same(stray)))
                    .map(|stray| Row {
                        stray,
                        outcome: Some(Outcome::Left),
                    }),
            );
        }
        let is_clean = rows
            .iter()
            .all(|row| row.outcome == Some(Outcome::Repaired));
        let text = match self.output {
            Output::Json => {
                let errors: Vec<String> = error.iter().map(ToString::to_string).collect();
                let report = json!({
                    "schema_version": SCHEMA_VERSION,
                    "clean": is_clean,
                    "strays": rows,
                    "not_compared": silent,
                    "errors": errors,
                });
                format!("{}\n", serde_json::to_string_pretty(&report)?)
            }
            Output::Table => self.text(&rows, &silent)?,
        };
        print(&text)?;
        if let Some(error) = error {
            print_error(&format!("contrail-mesos: {error}"));
        }
        Ok(if is_clean {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }

    fn text(&self, rows: &[Row], silent: &[SilentPeer]) -> Result<String> {
        let mut text = String::new();
        for Row { stray, outcome } in rows {
            write!(text, "{} {}", stray.kind, Escaped(&stray.object))?;
            if let Some(container) = &stray.container
                && *container != stray.object
            {
                write!(text, " of container {}", Escaped(container))?;
            }
            if let Some(network) = &stray.network {
                write!(text, " on network {}", Escaped(network))?;
            }
            write!(text, ": {}", Escaped(&stray.problem))?;
            match (outcome, &stray.repair) {
                (Some(Outcome::Repaired), _) => write!(text, " (repaired)")?,
                (Some(Outcome::Left), _) => write!(text, " (not repaired)")?,
                (None, Some(repair)) if self.dry_run => write!(text, " (would {repair})")?,
                (None, Some(repair)) => write!(text, " (--repair would {repair})")?,
                (None, None) => {}
            }
            text.push('\n');
        }
        for SilentPeer { peer, problem } in silent {
            writeln!(text, "not compared with the {peer}: {}", Escaped(problem))?;
        }
        let left = rows
            .iter()
            .filter(|row| row.outcome != Some(Outcome::Repaired))
            .count();
        match (rows.len(), left) {
            (_, 0) if is_quiet() => {}
            (0, _) => writeln!(
                text,
                "clean: everything on this host belongs to a container"
            )?,
            (all, 0) => writeln!(text, "clean: {all} repaired")?,
            (all, left) if self.repair && !self.dry_run => {
                writeln!(text, "{left} of {all} not repaired")?;
            }
            (all, _) => writeln!(text, "{all} found")?,
        }
        Ok(text)
    }
}
