//! `contrail-mesos status`: lists the containers of this host, and what is wrong with them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use contrail_mesos::config::Source;
use contrail_mesos::isolator::attacher::{
    Attacher, ContainerFilter, ContainerState, ContainerStatus, InspectionDepth,
};
use contrail_mesos_api::cluster::NodeCondition;
use contrail_mesos_api::text::Escaped;
use ipnet::IpNet;
use serde_json::json;

use crate::cluster_status;
use crate::output::SCHEMA_VERSION;
use crate::state::{StateOptions, print_warnings};

pub(crate) mod table;
mod watch;

pub(crate) use watch::Printout;
use watch::Screen;

/// List the containers of this host and verify them, or list all nodes of the cluster
///
/// What a container needs is compared with what is there: its interface, addresses, MAC address and
/// routes, its port of the bridge, the bridge, forwarding, routing rules and the nftables table. Nothing
/// is changed. A configuration or token that cannot be used is a warning.
///
/// The exit status is 0 if all is well, and 1 if a listed container is degraded, lost or damaged, or the
/// state cannot be read. With --cluster, it is 0 if all listed nodes are current and have no problem, and
/// have applied the network of --network.
#[derive(Args)]
pub(crate) struct Status {
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    output: StatusOutput,
    /// Look only whether the interfaces exist
    #[arg(long)]
    fast: bool,
    /// Repeat it every so many seconds, until it is interrupted
    #[arg(
        short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=86_400)
    )]
    watch: Option<u64>,
    /// Only containers on this network, or how each node has applied this overlay; repeat it for several
    #[arg(long = "network", value_name = "NAME")]
    networks: Vec<String>,
    /// Only containers whose id begins so; repeat it for several
    #[arg(long = "container", value_name = "ID")]
    containers: Vec<String>,
    /// Only containers whose executor's id begins so, which for a command task is the task's; repeat it
    /// for several
    #[arg(long = "task", value_name = "ID")]
    tasks: Vec<String>,
    /// Only what has this address, or an address of this subnet; repeat it for several
    #[arg(long = "address", value_name = "ADDRESS", value_parser = address_or_subnet)]
    addresses: Vec<IpNet>,
    /// Only containers in this state: attached, attaching, detaching, pending-teardown, degraded, lost or
    /// damaged; repeat it for several
    #[arg(long = "state", value_name = "STATE")]
    states: Vec<ContainerState>,
    /// List the nodes that the managers know, and what they have applied
    #[arg(long, conflicts_with_all = ["state_dir", "fast", "containers", "tasks", "states"])]
    pub(crate) cluster: bool,
    /// Only the node of this name; repeat it for several
    #[arg(long = "node", value_name = "NAME", requires = "cluster")]
    nodes: Vec<String>,
    /// Only nodes in this condition: current, behind, disconnected, unseen or refused; repeat it for
    /// several
    #[arg(long = "condition", value_name = "CONDITION", requires = "cluster", value_parser = condition)]
    conditions: Vec<NodeCondition>,
    #[command(flatten)]
    state: StateOptions,
}

/// Output format.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatusOutput {
    /// A table of at most 80 columns where possible
    Table,
    /// A table with everything
    Wide,
    /// JSON, for programs
    Json,
}

fn address_or_subnet(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<std::net::IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|_| {
        "it is neither an address nor a subnet, such as 10.32.0.7 or 10.32.0.0/24".to_owned()
    })
}

fn condition(text: &str) -> Result<NodeCondition, String> {
    let mut conditions = NodeCondition::ALL.into_iter();
    conditions
        .find(|condition| condition.code() == text)
        .ok_or_else(|| {
            let codes = NodeCondition::ALL.map(NodeCondition::code);
            format!("the conditions are {}", codes.join(", "))
        })
}

impl Status {
    /// Exits with failure if a listed container has a problem.
    pub(crate) async fn run(self, source: &Source) -> Result<ExitCode> {
        if self.cluster {
            let config = source.load()?;
            let query = cluster_status::NodeQuery {
                nodes: self.nodes.clone(),
                conditions: self.conditions.clone(),
                networks: self.networks.clone(),
                addresses: self.addresses.clone(),
            };
            let client = cluster_status::client(&config)?;
            return self
                .repeat(async || cluster_status::report(&client, &query, self.output).await)
                .await;
        }
        let (config, warning) = self.state.load_with_warning(source)?;
        let (attacher, without_managers) = StateOptions::attacher_with_warning(&config)?;
        let warnings: Vec<String> = warning.into_iter().chain(without_managers).collect();
        print_warnings(&warnings);
        self.repeat(async || self.report(&attacher, &warnings).await)
            .await
    }

    /// Prints a report, once or again and again.
    async fn repeat(&self, report: impl AsyncFn() -> Result<(Printout, bool)>) -> Result<ExitCode> {
        let Some(seconds) = self.watch else {
            let (text, is_well) = report().await?;
            crate::output::print(&text.to_text())?;
            return Ok(if is_well {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        };
        let screen = Screen::new(seconds);
        loop {
            let shown = match report().await {
                Ok((text, _)) => screen.show(&text),
                Err(error) if self.output == StatusOutput::Json => return Err(error),
                // It may be gone the next time.
                Err(error) => screen.show(&Printout::Text(format!("{error:#}\n"))),
            };
            if !shown? {
                // Nobody reads it any more.
                return Ok(ExitCode::SUCCESS);
            }
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
    }

    /// The containers, and whether none of them has a problem.
    async fn report(&self, attacher: &Attacher, warnings: &[String]) -> Result<(Printout, bool)> {
        let filter = ContainerFilter {
            networks: self.networks.clone(),
            containers: self.containers.clone(),
            tasks: self.tasks.clone(),
            addresses: self.addresses.clone(),
            states: self.states.clone(),
        };
        let depth = if self.fast {
            InspectionDepth::Links
        } else {
            InspectionDepth::Everything
        };
        let (containers, problems) = attacher.container_statuses(&filter, depth).await?;
        let is_well = problems.is_empty() && !containers.iter().any(|one| one.state.is_problem());
        if self.output == StatusOutput::Json {
            let warnings: Vec<&String> = warnings.iter().chain(&problems).collect();
            let status = json!({
                "schema_version": SCHEMA_VERSION,
                "verified": !self.fast,
                "warnings": warnings,
                "containers": containers,
            });
            return Ok((Printout::Json(status), is_well));
        }
        let mut text = if containers.is_empty() {
            let is_filtered = !self.networks.is_empty()
                || !self.containers.is_empty()
                || !self.tasks.is_empty()
                || !self.addresses.is_empty()
                || !self.states.is_empty();
            let text = if is_filtered {
                "no container matches\n"
            } else {
                "no container is attached on this host\n"
            };
            text.to_owned()
        } else if self.output == StatusOutput::Wide {
            table::wide(&containers)
        } else {
            table::narrow(&containers)
        };
        for problem in &problems {
            writeln!(text, "{}", Escaped(problem))?;
        }
        write_problems(&mut text, &containers, self.output)?;
        if !containers.is_empty() {
            writeln!(text, "{}", summary(&containers))?;
        }
        Ok((Printout::Text(text), is_well))
    }
}

/// What is wrong, a line each, with the first container that it concerns and how many more there are.
fn write_problems(
    text: &mut String,
    containers: &[ContainerStatus],
    output: StatusOutput,
) -> std::fmt::Result {
    let names = match output {
        StatusOutput::Wide | StatusOutput::Json => {
            containers.iter().map(|one| one.container.clone()).collect()
        }
        StatusOutput::Table => table::short_names(containers),
    };
    // What is wrong with the host concerns many containers.
    let mut subjects: BTreeMap<(ContainerState, &str), Vec<String>> = BTreeMap::new();
    for (container, name) in containers.iter().zip(names) {
        for problem in &container.problems {
            let concerned = subjects.entry((container.state, problem)).or_default();
            concerned.push(name.clone());
        }
        for row in &container.networks {
            for problem in &row.problems {
                let concerned = subjects.entry((row.state, problem)).or_default();
                concerned.push(format!("{name} on {}", row.network));
            }
        }
    }
    for ((state, problem), concerned) in subjects {
        let first = concerned.first().map_or("", String::as_str);
        let more = match concerned.len() {
            0 | 1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        writeln!(
            text,
            "{}{more} {state}: {}",
            Escaped(first),
            Escaped(problem)
        )?;
    }
    Ok(())
}

/// How many containers are in which state.
fn summary(containers: &[ContainerStatus]) -> String {
    let counts: Vec<String> = ContainerState::ALL
        .into_iter()
        .filter_map(|state| {
            let count = containers.iter().filter(|one| one.state == state).count();
            (count > 0).then(|| format!("{count} {state}"))
        })
        .collect();
    let plural = if containers.len() == 1 { "" } else { "s" };
    format!(
        "{} container{plural}: {}",
        containers.len(),
        counts.join(", ")
    )
}
