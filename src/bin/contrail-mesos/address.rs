//! `contrail-mesos address show`: who has an address of this host, and who had it before.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use comfy_table::{Table, presets};
use contrail_mesos::address_history::AddressUse;
use contrail_mesos::config::Source;
use contrail_mesos::isolator::attacher::AddressReport;
use contrail_mesos::provider::ipam::AddressRole;
use contrail_mesos_api::text::Escaped;
use serde_json::{Value, json};

use crate::Output;
use crate::output::{SCHEMA_VERSION, print};
use crate::state::{StateOptions, print_warnings};

/// How many former owners are shown to a person.
const MAX_SHOWN: usize = 20;

/// Show which container of this host has an address, and which had it before
///
/// Former owners are known from a file of bounded size, so old ones are forgotten. The exit status is 0
/// also if nobody has the address. Which host has it, says contrail-mesos status --cluster --address.
#[derive(Args)]
pub(crate) struct AddressShow {
    /// The address, of IPv4 or IPv6
    #[arg(value_name = "ADDRESS")]
    address: IpAddr,
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    state: StateOptions,
}

impl AddressShow {
    pub(crate) async fn run(self, source: &Source) -> Result<ExitCode> {
        let (config, warning) = self.state.load_with_warning(source)?;
        let (attacher, without_managers) = StateOptions::attacher_with_warning(&config)?;
        let warnings: Vec<String> = warning.into_iter().chain(without_managers).collect();
        let report = attacher.address(self.address, &config).await?;
        let warnings = [warnings, report.problems.clone()].concat();
        print_warnings(&warnings);
        let text = match self.output {
            Output::Json => {
                let mut shown = to_json(&report);
                shown["schema_version"] = json!(SCHEMA_VERSION);
                shown["address"] = json!(self.address);
                shown["warnings"] = json!(warnings);
                format!("{shown:#}\n")
            }
            Output::Table => text(self.address, &report)?,
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A time of the history, in RFC 3339; none if it is not possible.
fn time(milliseconds: u64) -> Option<String> {
    let milliseconds = i64::try_from(milliseconds).ok()?;
    let time = jiff::Timestamp::from_millisecond(milliseconds).ok()?;
    Some(format!("{time:.0}"))
}

fn to_json(report: &AddressReport) -> Value {
    let leases = report.leases.iter().map(|lease| {
        json!({
            "network": lease.network,
            "container": lease.holder.as_ref().map(|holder| holder.container.to_string()),
            "interface": lease.holder.as_ref().map(|holder| &holder.interface),
        })
    });
    let roles = report
        .roles
        .iter()
        .map(|(network, role)| json!({ "network": network, "role": role }));
    let history = report.history.iter().map(|used| {
        json!({
            "network": used.network,
            "container": used.container,
            "interface": used.interface,
            "framework": used.framework,
            "executor": used.executor,
            "from": time(used.from_milliseconds),
            "until": time(used.until_milliseconds),
        })
    });
    json!({
        "owners": report.owners,
        "leases": leases.collect::<Vec<_>>(),
        "networks": roles.collect::<Vec<_>>(),
        "history": history.collect::<Vec<_>>(),
    })
}

fn text(address: IpAddr, report: &AddressReport) -> Result<String> {
    let mut text = String::new();
    for owner in &report.owners {
        let task = owner
            .executor
            .as_deref()
            .map_or_else(String::new, |executor| {
                format!(" (task {})", Escaped(executor))
            });
        for row in &owner.networks {
            writeln!(
                text,
                "{address} belongs to container {}{task}: {} on network {}, {}",
                Escaped(&owner.container),
                row.interface,
                Escaped(&row.network),
                row.state
            )?;
        }
    }
    for lease in &report.leases {
        let network = Escaped(&lease.network);
        match &lease.holder {
            Some(holder) => writeln!(
                text,
                "{address} is leased on network {network} to container {}, which has no checkpoint; see \
                 contrail-mesos check",
                Escaped(&holder.container.to_string())
            )?,
            None => writeln!(
                text,
                "{address} has a lease on network {network} that cannot be read; see contrail-mesos check"
            )?,
        }
    }
    if report.owners.is_empty() && report.leases.is_empty() {
        writeln!(text, "no container of this host has {address}")?;
    }
    for (network, role) in &report.roles {
        let role = match role {
            AddressRole::Dynamic => "containers get it without asking for it",
            AddressRole::OnRequest => "containers get it only if they ask for it",
            AddressRole::Unassignable => {
                "no container gets it: it is the gateway's, the subnet's own or the broadcast address"
            }
        };
        writeln!(text, "network {}: {role}", Escaped(network))?;
    }
    if !report.history.is_empty() {
        text.push('\n');
        write_history(&mut text, &report.history)?;
    }
    Ok(text)
}

fn write_history(text: &mut String, history: &[AddressUse]) -> std::fmt::Result {
    let dash = || "-".to_owned();
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["FROM", "UNTIL", "CONTAINER", "TASK", "NETWORK"]);
    for used in history.iter().take(MAX_SHOWN) {
        let executor = used.executor.as_deref().unwrap_or("-");
        table.add_row([
            time(used.from_milliseconds).unwrap_or_else(dash),
            time(used.until_milliseconds).unwrap_or_else(dash),
            Escaped(&used.container).to_string(),
            Escaped(executor).to_string(),
            Escaped(&used.network).to_string(),
        ]);
    }
    for line in table.to_string().lines() {
        writeln!(text, "{}", line.trim_end())?;
    }
    if history.len() > MAX_SHOWN {
        let more = history.len() - MAX_SHOWN;
        writeln!(text, "and {more} earlier: see -o json")?;
    }
    Ok(())
}
