//! `contrail-mesos container show`: everything about one container.

use std::fmt::{Display, Write as _};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use contrail_mesos::config::Source;
use contrail_mesos::isolator::attacher::{
    ContainerFilter, ContainerStatus, InspectionDepth, NetworkStatus,
};
use contrail_mesos_api::text::{Escaped, Quoted};
use serde_json::json;

use crate::Output;
use crate::output::{SCHEMA_VERSION, print};
use crate::state::{StateOptions, print_warnings};
use crate::status::table::{groups, ports};

/// How many candidates a message names.
const MAX_NAMED: usize = 5;

/// Show everything about one container of this host
///
/// The container is verified as by status. The exit status is 0 if all is well, and 1 if it is degraded,
/// lost or damaged, or there is no such container.
#[derive(Args)]
pub(crate) struct ContainerShow {
    /// The container's id, the beginning of it, or the id of its task
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
    #[command(flatten)]
    state: StateOptions,
}

impl ContainerShow {
    pub(crate) async fn run(self, source: &Source) -> Result<ExitCode> {
        let (config, warning) = self.state.load_with_warning(source)?;
        let (attacher, without_managers) = StateOptions::attacher_with_warning(&config)?;
        let warnings: Vec<String> = warning.into_iter().chain(without_managers).collect();
        print_warnings(&warnings);
        let all = ContainerFilter::default();
        let (containers, _) = attacher
            .container_statuses(&all, InspectionDepth::Nothing)
            .await?;
        let id = find(&self.name, &containers)?;
        let filter = ContainerFilter {
            containers: vec![id.clone()],
            ..ContainerFilter::default()
        };
        let (containers, _) = attacher
            .container_statuses(&filter, InspectionDepth::Everything)
            .await?;
        let Some(container) = containers.into_iter().find(|one| one.container == id) else {
            bail!("the container {id} was detached just now");
        };
        let text = match self.output {
            Output::Json => {
                let shown = json!({
                    "schema_version": SCHEMA_VERSION,
                    "warnings": warnings,
                    "container": container,
                });
                format!("{shown:#}\n")
            }
            Output::Table => text(&container)?,
        };
        print(&text)?;
        Ok(if container.state.is_problem() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

/// The id of the container that is meant: by its id, the beginning of its id, or its task.
fn find(name: &str, containers: &[ContainerStatus]) -> Result<String> {
    let named = |matches: &dyn Fn(&ContainerStatus) -> bool| -> Vec<&ContainerStatus> {
        containers.iter().filter(|one| matches(one)).collect()
    };
    let candidates = [
        named(&|one| one.container == name),
        named(&|one| one.executor.as_deref() == Some(name)),
        named(&|one| one.container.starts_with(name)),
        named(&|one| {
            one.executor
                .as_deref()
                .is_some_and(|id| id.starts_with(name))
        }),
    ];
    let Some(found) = candidates.into_iter().find(|found| !found.is_empty()) else {
        bail!(
            "no container or task of this host has the id {}, or one that begins so; \
             contrail-mesos status lists them",
            Quoted(name.as_bytes())
        );
    };
    if let [one] = found[..] {
        return Ok(one.container.clone());
    }
    let ids: Vec<&str> = found
        .iter()
        .take(MAX_NAMED)
        .map(|one| one.container.as_str())
        .collect();
    bail!(
        "{} is ambiguous: {} containers match, such as {}",
        Quoted(name.as_bytes()),
        found.len(),
        Escaped(&ids.join(", "))
    )
}

/// A line of a description.
fn line(text: &mut String, name: &str, value: impl Display) -> std::fmt::Result {
    writeln!(text, "{name:<14}{}", Escaped(&value.to_string()))
}

fn joined<T: ToString>(values: &[T]) -> String {
    let values: Vec<String> = values.iter().map(ToString::to_string).collect();
    if values.is_empty() {
        "-".to_owned()
    } else {
        values.join(" ")
    }
}

fn text(container: &ContainerStatus) -> Result<String> {
    let dash = || "-".to_owned();
    let mut text = String::new();
    line(&mut text, "container", &container.container)?;
    line(&mut text, "state", container.state)?;
    for problem in &container.problems {
        line(&mut text, "  problem", problem)?;
    }
    let owner = container.owner.map(|owner| match owner {
        contrail_mesos::isolator::checkpoint::Owner::Agent => "the agent",
        contrail_mesos::isolator::checkpoint::Owner::Operator => "an operator",
    });
    line(&mut text, "attached by", owner.unwrap_or("-"))?;
    let since = container
        .attached_since
        .and_then(|time| jiff::Timestamp::try_from(time).ok());
    let since = since.map_or_else(dash, |time| format!("{time:.0}"));
    line(&mut text, "since", since)?;
    for (name, value) in [
        ("framework", &container.framework),
        ("executor", &container.executor),
        ("hostname", &container.hostname),
    ] {
        line(&mut text, name, value.as_deref().unwrap_or("-"))?;
    }
    let namespace = container.namespace.as_ref();
    let namespace = namespace.map_or_else(dash, |path| path.display().to_string());
    line(&mut text, "namespace", namespace)?;
    for row in &container.networks {
        text.push('\n');
        write_network(&mut text, row)?;
    }
    Ok(text)
}

fn write_network(text: &mut String, row: &NetworkStatus) -> std::fmt::Result {
    line(
        text,
        "network",
        format!("{} ({})", row.network, row.provider),
    )?;
    line(text, "state", row.state)?;
    for problem in &row.problems {
        line(text, "  problem", problem)?;
    }
    line(text, "interface", &row.interface)?;
    line(
        text,
        "host end",
        row.host_interface.as_deref().unwrap_or("-"),
    )?;
    line(text, "bridge", row.bridge.as_deref().unwrap_or("-"))?;
    line(text, "addresses", joined(&row.addresses))?;
    line(text, "gateways", joined(&row.gateways))?;
    let routes = if row.routes.is_empty() {
        "default".to_owned()
    } else {
        joined(&row.routes)
    };
    line(text, "routes", routes)?;
    let mac = row
        .mac
        .map_or_else(|| "-".to_owned(), |mac| mac.to_string());
    line(text, "MAC", mac)?;
    line(text, "MTU", row.mtu)?;
    let mapped = Some(ports(row)).filter(|ports| !ports.is_empty());
    line(text, "ports", mapped.as_deref().unwrap_or("-"))?;
    line(
        text,
        "groups",
        groups(row).as_deref().unwrap_or("not isolated"),
    )?;
    line(text, "name servers", joined(&row.nameservers))?;
    if let Some(all) = &row.statistics {
        let counters = |packets, bytes, errors, dropped| {
            format!("{packets} packets, {bytes} bytes, {errors} errors, {dropped} dropped")
        };
        let received = counters(all.rx_packets, all.rx_bytes, all.rx_errors, all.rx_dropped);
        line(text, "received", received)?;
        let sent = counters(all.tx_packets, all.tx_bytes, all.tx_errors, all.tx_dropped);
        line(text, "sent", sent)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use contrail_mesos::isolator::attacher::ContainerState;

    use super::*;

    fn container(name: &str, executor: Option<&str>) -> ContainerStatus {
        ContainerStatus {
            container: name.to_owned(),
            state: ContainerState::Attached,
            owner: None,
            framework: None,
            executor: executor.map(str::to_owned),
            hostname: None,
            namespace: None,
            attached_since: None,
            problems: vec!["\u{1b}[2J".to_owned()],
            networks: vec![],
        }
    }

    #[test]
    fn container_is_found_by_id_task_and_beginning() {
        let containers = [
            container("3c5b-1", Some("web.1")),
            container("3c5b-12", Some("web.2")),
            container("box", None),
        ];
        for (name, expected) in [
            ("3c5b-1", Some("3c5b-1")),
            ("3c5b-12", Some("3c5b-12")),
            ("web.2", Some("3c5b-12")),
            ("b", Some("box")),
            ("3c5b", None),
            ("web", None),
            ("nobody", None),
        ] {
            assert_eq!(find(name, &containers).ok().as_deref(), expected, "{name}");
        }
        let error = find("web", &containers).unwrap_err().to_string();
        assert!(
            error.contains("ambiguous") && error.contains("3c5b-12"),
            "{error}"
        );
    }

    #[test]
    fn description_is_escaped() {
        let text = text(&container("box", Some("a\u{1b}b"))).unwrap();
        assert!(text.contains("box") && !text.contains('\u{1b}'), "{text:?}");
    }
}
