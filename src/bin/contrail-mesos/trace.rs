//! `contrail-mesos trace`.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use contrail_mesos::config::Config;
use contrail_mesos::isolator::attacher::Attacher;
use contrail_mesos::trace::{Destination, Origin, Outcome, Trace, Tracer, Verdict};
use contrail_mesos_api::text::{Escaped, with_causes};
use serde::Serialize;

use crate::Output;
use crate::output::{SCHEMA_VERSION, print, print_error};
use crate::state::StateOptions;

/// There is no answer: the status of commands that are not understood.
const NOT_TRACED: u8 = 2;
/// What cannot be seen from this host decides.
const UNKNOWN: u8 = 3;

/// Say where a packet would go, and what stops it
///
/// Reads the state of containers, routes, rules and sockets; nothing is sent and nothing is changed.
///
/// Exits with 0 if the packet arrives or leaves this host, 1 if something stops it, 2 if the command is not
/// understood or one of its ends is not known, and 3 if what decides cannot be seen from here.
#[derive(Args)]
pub(crate) struct TraceCommand {
    /// Where the packet starts: the id of a container or task, or the beginning of one, an address, "host", or
    /// "outside"
    from: Origin,
    /// Where it goes: a container or task, an address, "host" or the name of a service, with a port
    #[arg(value_name = "TO:PORT[/PROTOCOL]")]
    to: Destination,
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    pub(crate) state: StateOptions,
}

/// A trace, for programs.
#[derive(Serialize)]
struct TraceDocument<'a> {
    schema_version: u32,
    #[serde(flatten)]
    trace: &'a Trace,
}

impl TraceCommand {
    pub(crate) async fn run(self, attacher: &Attacher, config: &Config) -> Result<ExitCode> {
        let tracer = Tracer::new(attacher, config);
        let trace = match tracer.trace(&self.from, &self.to).await {
            Ok(trace) => trace,
            Err(error) => {
                print_error(&format!("contrail-mesos: {}", with_causes(&error)));
                return Ok(NOT_TRACED.into());
            }
        };
        let text = match self.output {
            Output::Json => {
                let document = TraceDocument {
                    schema_version: SCHEMA_VERSION,
                    trace: &trace,
                };
                format!("{}\n", serde_json::to_string_pretty(&document)?)
            }
            Output::Table => text(&trace)?,
        };
        print(&text)?;
        Ok(match trace.verdict {
            Verdict::Reachable | Verdict::Leaves => ExitCode::SUCCESS,
            Verdict::Blocked => ExitCode::FAILURE,
            Verdict::Unknown => UNKNOWN.into(),
        })
    }
}

fn text(trace: &Trace) -> Result<String> {
    let mut text = String::new();
    let source = trace
        .source
        .map_or_else(String::new, |source| format!(" ({source})"));
    writeln!(text, "from {}{source}", Escaped(&trace.from))?;
    writeln!(text, "to   {}", Escaped(&trace.to))?;
    let mut place = "";
    for step in &trace.steps {
        if step.place != place {
            place = &step.place;
            writeln!(text, "{}:", Escaped(place))?;
        }
        let mark = match step.outcome {
            Outcome::Passes => "ok   ",
            Outcome::Stops => "STOPS",
            Outcome::Unknown => "?    ",
        };
        writeln!(text, "  {mark} {}: {}", step.code, Escaped(&step.text))?;
        if let Some(remedy) = &step.remedy {
            writeln!(text, "        -> {}", Escaped(remedy))?;
        }
    }
    for drop in &trace.recent_drops {
        let port = drop
            .port
            .map_or_else(String::new, |port| format!(" to port {port}"));
        writeln!(
            text,
            "dropped in the last minutes: {} packets of protocol {}{port} ({})",
            drop.packets, drop.protocol, drop.reason
        )?;
    }
    let drops: Vec<String> = trace
        .drops
        .iter()
        .filter(|(_, packets)| **packets > 0)
        .map(|(reason, packets)| format!("{reason} {packets}"))
        .collect();
    if !drops.is_empty() {
        writeln!(
            text,
            "packets dropped on this host because of groups: {}",
            drops.join(", ")
        )?;
    }
    let verdict = match (trace.verdict, trace.cause) {
        (Verdict::Reachable, _) => "reachable".to_owned(),
        (Verdict::Leaves, _) => "leaves this host; nothing here stops it".to_owned(),
        (Verdict::Blocked, cause) => format!("blocked: {}", cause.unwrap_or("unknown")),
        (Verdict::Unknown, cause) => format!("not known from here: {}", cause.unwrap_or("unknown")),
    };
    writeln!(text, "{verdict}")?;
    Ok(text)
}
