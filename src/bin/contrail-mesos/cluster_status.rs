//! `contrail-mesos status --cluster`: lists all nodes, as the managers know them.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use comfy_table::{Table, presets};
use contrail_mesos::config::Config;
use contrail_mesos_api::cluster::{ClusterClient, NodeCondition, NodeList, NodeStatus};
use contrail_mesos_api::text::Escaped;
use tokio::time::Instant;

use crate::Output;
use crate::output::print;

/// How long all managers together may take to answer.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Exits with failure unless every node has applied the current revision and has no problem.
pub(crate) async fn run(config: &Config, output: Output) -> Result<ExitCode> {
    let list = client(config)?.nodes(Instant::now() + TIMEOUT).await?;
    let text = match output {
        Output::Json => format!("{}\n", serde_json::to_string_pretty(&list)?),
        Output::Table => text(&list)?,
    };
    print(&text)?;
    Ok(if list.nodes.iter().all(is_well) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A client of the managers of `[node]` or, without any, of those of `[contrail]`.
fn client(config: &Config) -> Result<ClusterClient> {
    let of_node = config.node.cluster_client().context("[node]")?;
    if let Some(client) = of_node {
        return Ok(client);
    }
    let contrail = config.contrail.as_ref().ok_or_else(|| {
        anyhow!("the configuration names no managers: write managers in a table [node]")
    })?;
    contrail.cluster_client().context("[contrail]")
}

fn is_well(node: &NodeStatus) -> bool {
    node.condition == NodeCondition::Current && node.problems.is_empty()
}

fn text(list: &NodeList) -> Result<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "NODE",
        "ADDRESS",
        "CONDITION",
        "APPLIED",
        "REPORTED",
        "SUBNETS",
        "ENDPOINTS",
        "VERSION",
    ]);
    let dash = || "-".to_owned();
    for node in &list.nodes {
        let subnets = node.subnets.iter().flat_map(|subnets| {
            let name = &subnets.overlay;
            subnets
                .subnets()
                .map(move |subnet| format!("{name}:{subnet}"))
        });
        table.add_row([
            node.name.clone(),
            node.address
                .map_or_else(dash, |address| address.to_string()),
            node.condition.to_string(),
            node.applied
                .map_or_else(dash, |applied| applied.to_string()),
            node.reported_seconds
                .map_or_else(dash, |seconds| format!("{seconds}s")),
            subnets.collect::<Vec<_>>().join(" "),
            node.endpoints.map_or_else(dash, |count| count.to_string()),
            // The node wrote it.
            Escaped(&node.versions.node).to_string(),
        ]);
    }
    let mut text = String::new();
    writeln!(text, "{table}")?;
    let well = list.nodes.iter().filter(|node| is_well(node)).count();
    let all = list.nodes.len();
    writeln!(
        text,
        "revision {}: {well} of {all} nodes are current and have no problem",
        list.revision
    )?;
    for node in &list.nodes {
        for problem in &node.problems {
            writeln!(text, "{}: {}", node.name, Escaped(problem))?;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use contrail_mesos_api::cluster::{Revision, Versions};

    use super::*;

    fn node(name: &str, condition: NodeCondition, problems: &[&str]) -> NodeStatus {
        NodeStatus {
            name: name.to_owned(),
            address: "192.0.2.1".parse().ok(),
            condition,
            applied: Some(Revision {
                term: 3,
                counter: 4,
            }),
            reported_seconds: Some(2),
            uplink_mtu: None,
            versions: Versions::default(),
            configuration: String::new(),
            vtep: None,
            subnets: vec![],
            endpoints: (condition == NodeCondition::Current).then_some(17),
            problems: problems.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn table_shows_each_node_and_escapes_its_problems() {
        let list = NodeList {
            revision: Revision {
                term: 3,
                counter: 5,
            },
            nodes: vec![
                node("agent-1", NodeCondition::Current, &[]),
                node("agent-2", NodeCondition::Behind, &["overlay: \u{1b}[2J"]),
            ],
        };
        assert!(is_well(&list.nodes[0]) && !is_well(&list.nodes[1]));
        let text = text(&list).unwrap();
        for part in [
            "agent-1",
            "behind",
            "3.4",
            "17",
            "revision 3.5: 1 of 2 nodes",
            "agent-2: overlay: ",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}
