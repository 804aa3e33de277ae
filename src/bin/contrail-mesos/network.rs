//! `contrail-mesos network`: the networks of this host, their addresses and their containers.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use contrail_mesos::config::Source;
use contrail_mesos::isolator::attacher::NetworkOverview;
use contrail_mesos_api::text::{Escaped, Quoted};
use serde::Serialize;

use crate::Output;
use crate::output::{SCHEMA_VERSION, print};
use crate::state::{StateOptions, print_warnings};

/// The largest number that is written in digits.
const MAX_EXACT: u128 = 1_000_000_000;

#[derive(Subcommand)]
pub(crate) enum NetworkCommand {
    /// List the networks of this host, and how many addresses are in use
    List(NetworkList),
    /// Show a network: its subnets, its addresses, and the containers that have them
    Show(NetworkShow),
}

/// List the networks of this host, and how many addresses are in use
#[derive(Args)]
pub(crate) struct NetworkList {
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    state: StateOptions,
}

/// Show a network: its subnets, its addresses, and the containers that have them
///
/// Contrail and CNI plugins manage addresses themselves, so of their networks only the addresses of this
/// host's containers are known.
#[derive(Args)]
pub(crate) struct NetworkShow {
    /// The network, as frameworks name it
    #[arg(value_name = "NETWORK")]
    name: String,
    #[command(flatten)]
    list: NetworkList,
}

/// What is printed as JSON. Not a `Value`, which has no numbers as large as those of IPv6.
#[derive(Serialize)]
#[allow(
    clippy::struct_field_names,
    reason = "the fields are those of the JSON"
)]
struct Networks<'a> {
    schema_version: u32,
    warnings: &'a [String],
    networks: &'a [NetworkOverview],
}

impl NetworkCommand {
    pub(crate) async fn run(self, source: &Source) -> Result<ExitCode> {
        let (options, name) = match self {
            Self::List(options) => (options, None),
            Self::Show(NetworkShow { name, list }) => (list, Some(name)),
        };
        let (config, warning) = options.state.load_with_warning(source)?;
        let (attacher, without_managers) = StateOptions::attacher_with_warning(&config)?;
        let warnings: Vec<String> = warning.into_iter().chain(without_managers).collect();
        print_warnings(&warnings);
        let mut networks = attacher.networks(&config).await?;
        if let Some(name) = &name {
            networks.retain(|network| network.network == *name);
            if networks.is_empty() {
                bail!(
                    "there is no network {}; contrail-mesos network list has them",
                    Quoted(name.as_bytes())
                );
            }
        }
        let text = match (options.output, &name) {
            (Output::Json, _) => {
                let networks = Networks {
                    schema_version: SCHEMA_VERSION,
                    warnings: &warnings,
                    networks: &networks,
                };
                format!("{}\n", serde_json::to_string_pretty(&networks)?)
            }
            (Output::Table, None) => list(&networks)?,
            (Output::Table, Some(_)) => {
                let mut text = String::new();
                for network in &networks {
                    describe(&mut text, network)?;
                }
                text
            }
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A number of addresses, for a person.
fn number(count: u128) -> String {
    if count <= MAX_EXACT {
        return count.to_string();
    }
    format!("{count:.1e}")
}

fn list(networks: &[NetworkOverview]) -> Result<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "NETWORK",
        "PROVIDER",
        "SUBNET",
        "USED",
        "FREE",
        "CONTAINERS",
    ]);
    for network in networks {
        let name = Escaped(&network.network).to_string();
        let containers = network.containers.len().to_string();
        let mut first = [name, network.provider.to_owned()];
        let mut count = containers;
        let mut rows: Vec<[String; 3]> = network
            .families
            .iter()
            .map(|family| {
                let subnets = family.subnets.iter().map(|net| net.trunc().to_string());
                let subnets = subnets.collect::<Vec<_>>().join("\n");
                [subnets, family.used.to_string(), number(family.free)]
            })
            .collect();
        if rows.is_empty() {
            rows.push(["-"; 3].map(str::to_owned));
        }
        for [subnets, used, free] in rows {
            let [name, provider] = std::mem::take(&mut first);
            table.add_row([
                name,
                provider,
                subnets,
                used,
                free,
                std::mem::take(&mut count),
            ]);
        }
    }
    let mut text = String::new();
    for line in table.to_string().lines() {
        writeln!(text, "{}", line.trim_end())?;
    }
    for network in networks {
        if let Some(problem) = &network.problem {
            writeln!(text, "{}: {}", Escaped(&network.network), Escaped(problem))?;
        }
    }
    Ok(text)
}

fn describe(text: &mut String, network: &NetworkOverview) -> std::fmt::Result {
    let mut line = |name: &str, value: &str| writeln!(text, "{name:<14}{}", Escaped(value));
    line("network", &network.network)?;
    line("provider", network.provider)?;
    if let Some(problem) = &network.problem {
        line("  problem", problem)?;
    }
    if let Some(plugins) = &network.plugins {
        line("plugins", &plugins.join(" "))?;
    }
    for (name, value) in [
        ("overlay", &network.overlay),
        ("virtual net", &network.virtual_network),
        ("bridge", &network.bridge),
        ("MTU", &network.mtu.map(|mtu| mtu.to_string())),
    ] {
        if let Some(value) = value {
            line(name, value)?;
        }
    }
    for family in &network.families {
        let counts = format!(
            "{} used, {} free of {}, {} reserved",
            family.used,
            number(family.free),
            number(family.total),
            number(family.reserved)
        );
        for gateway in &family.subnets {
            line(
                "subnet",
                &format!("{} gateway {}", gateway.trunc(), gateway.addr()),
            )?;
        }
        line("  addresses", &counts)?;
    }
    writeln!(text, "containers    {}", network.containers.len())?;
    if network.containers.is_empty() {
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["ADDRESS", "CONTAINER", "TASK", "INTERFACE"]);
    for member in &network.containers {
        let addresses: Vec<String> = member.addresses.iter().map(ToString::to_string).collect();
        let addresses = if addresses.is_empty() {
            "-".to_owned()
        } else {
            addresses.join("\n")
        };
        let executor = member.executor.as_deref().unwrap_or("-");
        table.add_row([
            addresses,
            Escaped(&member.container).to_string(),
            Escaped(executor).to_string(),
            member.interface.clone(),
        ]);
    }
    text.push('\n');
    for line in table.to_string().lines() {
        writeln!(text, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn large_numbers_of_addresses_are_short() {
        assert_eq!(number(253), "253");
        assert_eq!(number(u128::from(u64::MAX)), "1.8e19");
    }
}
