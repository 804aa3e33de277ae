//! `contrail-mesos connectivity`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;
use comfy_table::{Table, presets};
use contrail_mesos::config::{Config, Network};
use contrail_mesos::connectivity::{CheckResult, Connectivity, Report};
use contrail_mesos_api::files::write_regular_file;
use contrail_mesos_api::text::{Escaped, Quoted};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::Output;
use crate::output::{SCHEMA_VERSION, print, print_error};

/// The command is not understood, as clap has it.
const USAGE: u8 = 2;
/// It was interrupted, as shells have it.
const INTERRUPTED: u8 = 130;

/// Test the networks of this host with scratch containers
///
/// Attaches two containers to each network as the agent does, sends packets between them, the host and an
/// address outside, and detaches them. They are named connectivity-test-*, and removed also after a failure
/// or Ctrl-C. The address outside is one for documentation.
///
/// Exits with 0 if everything works, 1 if a check fails or a container could not be removed, and 2 if a network
/// is not known.
#[derive(Args)]
pub(crate) struct ConnectivityCommand {
    /// Network to test; repeat the option for several [default: all of the configuration]
    #[arg(long = "network", value_name = "NAME")]
    networks: Vec<String>,
    /// Also write the result to this file, as XML for programs of continuous integration
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

/// A report, for programs.
#[derive(Serialize)]
struct ReportDocument<'a> {
    schema_version: u32,
    #[serde(flatten)]
    report: &'a Report,
}

impl ConnectivityCommand {
    pub(crate) async fn run(self, config: &Config) -> Result<ExitCode> {
        let unknown: Vec<String> = self
            .networks
            .iter()
            .filter(|name| config.network(name).is_none())
            .map(|name| Quoted(name.as_bytes()).to_string())
            .collect();
        if !unknown.is_empty() {
            let known = config.networks.iter().map(|network| network.name.as_str());
            let known = known.collect::<Vec<_>>().join(", ");
            print_error(&format!(
                "contrail-mesos: the configuration has no network {}; it has: {known}",
                unknown.join(", ")
            ));
            return Ok(USAGE.into());
        }
        let names: BTreeSet<&str> = self.networks.iter().map(String::as_str).collect();
        let networks: Vec<&Network> = config
            .networks
            .iter()
            .filter(|network| names.is_empty() || names.contains(network.name.as_str()))
            .collect();
        let connectivity = Connectivity::new(config)?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let report = tokio::select! {
            report = connectivity.run(&networks) => report,
            _ = interrupt.recv() => return Ok(interrupted(&connectivity).await),
            _ = terminate.recv() => return Ok(interrupted(&connectivity).await),
        };
        if let Some(file) = &self.junit {
            write_regular_file(file, report.junit().as_bytes())
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        let text = match self.output {
            Output::Json => {
                let document = ReportDocument {
                    schema_version: SCHEMA_VERSION,
                    report: &report,
                };
                format!("{}\n", serde_json::to_string_pretty(&document)?)
            }
            Output::Table => table(&report)?,
        };
        print(&text)?;
        Ok(if report.is_good() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

async fn interrupted(connectivity: &Connectivity<'_>) -> ExitCode {
    print_error("contrail-mesos: interrupted; the scratch containers are being removed");
    for left in connectivity.remove_containers().await {
        print_error(&format!("contrail-mesos: not removed: {left}"));
    }
    INTERRUPTED.into()
}

fn table(report: &Report) -> Result<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["NETWORK", "CHECK", "FAMILY", "RESULT", "DETAILS"]);
    for check in &report.checks {
        let result = match check.result {
            CheckResult::Ok => "ok",
            CheckResult::Failed => "FAILED",
            CheckResult::Skipped => "skipped",
        };
        let mut text = Escaped(&check.text).to_string();
        if let Some(cause) = &check.cause {
            text = format!("{text} (trace: {cause})");
        }
        table.add_row([
            check.network.as_str(),
            check.check,
            check.family.unwrap_or("-"),
            result,
            &text,
        ]);
    }
    let count = |result| {
        let checks = report.checks.iter();
        checks.filter(|check| check.result == result).count()
    };
    let [ok, failed, skipped] =
        [CheckResult::Ok, CheckResult::Failed, CheckResult::Skipped].map(count);
    let mut text = format!("{table}\n");
    for left in &report.left {
        writeln!(text, "not removed: {}", Escaped(left))?;
    }
    writeln!(text, "{ok} ok, {failed} failed, {skipped} skipped")?;
    Ok(text)
}
