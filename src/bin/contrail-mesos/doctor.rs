//! `contrail-mesos doctor`.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use contrail_mesos::config::Source;
use contrail_mesos::doctor::{Doctor, Report, Severity};
use contrail_mesos_api::command_line::{Tone, painted};
use contrail_mesos_api::http::{Address, InvalidAddress};
use contrail_mesos_api::text::Escaped;

use crate::Output;
use crate::output::{is_quiet, print};

/// The port of an agent whose address has none.
const AGENT_PORT: u16 = 5051;

/// Check whether containers can be attached on this host: kernel, settings, configuration, library, agent
/// and services
///
/// Works before and after the installation. Exits with status 1 if there is a failure, and with 0 if there
/// are warnings only.
#[derive(Args)]
pub(crate) struct DoctorCommand {
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    /// The library for the agent [default: that of the running agent, or
    /// `/usr/lib/mesos/modules/libcontrail_mesos.so`]
    #[arg(long, value_name = "FILE")]
    library: Option<PathBuf>,
    /// libmesos or mesos-agent [default: of the running agent, or of the usual directories]
    #[arg(long, value_name = "FILE")]
    mesos: Option<PathBuf>,
    /// The agent [default: the mesos-agent that runs in this network namespace]
    #[arg(long, value_name = "ADDRESS", value_parser = agent_address)]
    agent: Option<Address>,
}

pub(crate) fn agent_address(text: &str) -> Result<Address, InvalidAddress> {
    Address::parse_root(text, AGENT_PORT)
}

impl DoctorCommand {
    pub(crate) async fn run(self, source: Source) -> Result<ExitCode> {
        let doctor = Doctor {
            source,
            library: self.library,
            mesos: self.mesos,
            agent: self.agent,
        };
        let report = doctor.examine().await;
        let text = match self.output {
            Output::Json => format!("{}\n", serde_json::to_string_pretty(&report)?),
            Output::Table => text(&report)?,
        };
        print(&text)?;
        Ok(match report.severity {
            Severity::Ok | Severity::Warning => ExitCode::SUCCESS,
            Severity::Failure => ExitCode::FAILURE,
        })
    }
}

fn text(report: &Report) -> Result<String> {
    let mut text = String::new();
    let names = report.checks.iter().map(|check| check.name.len());
    let width = names.max().unwrap_or(0);
    for check in &report.checks {
        if is_quiet() && check.severity != Severity::Failure {
            continue;
        }
        let tone = match check.severity {
            Severity::Ok => Tone::Good,
            Severity::Warning => Tone::Warning,
            Severity::Failure => Tone::Problem,
        };
        let word = painted(tone, &format!("{:<8}", check.severity.word()));
        writeln!(
            text,
            "{word} {:<width$}  {}",
            check.name,
            Escaped(&check.text)
        )?;
        if let Some(remedy) = &check.remedy {
            writeln!(text, "{:<8} {:<width$}  -> {}", "", "", Escaped(remedy))?;
        }
    }
    if is_quiet() {
        return Ok(text);
    }
    let count = |severity| {
        let checks = report.checks.iter();
        checks.filter(|check| check.severity == severity).count()
    };
    let [ok, warnings, failures] = [Severity::Ok, Severity::Warning, Severity::Failure].map(count);
    writeln!(text, "{ok} ok, {warnings} warnings, {failures} failures")?;
    Ok(text)
}
