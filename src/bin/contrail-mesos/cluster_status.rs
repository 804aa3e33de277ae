//! `contrail-mesos status --cluster`: lists all nodes, as the managers know them.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use comfy_table::{Table, presets};
use contrail_mesos::config::Config;
use contrail_mesos_api::cluster::{
    AddressOwner, ClusterClient, NodeCondition, NodeList, NodeStatus, NodeSubnets,
};
use contrail_mesos_api::text::{Escaped, Quoted, truncate};
use ipnet::IpNet;
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;

use crate::output::SCHEMA_VERSION;
use crate::status::{Printout, StatusOutput};

/// How long all managers together may take to answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How many nodes a line names.
const MAX_NAMED: usize = 10;
/// The longest name of a node in the narrow table.
const MAX_NAME_CHARS: usize = 24;

/// Which nodes are asked for: of each list that is not empty, one element must match.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeQuery {
    pub(crate) nodes: Vec<String>,
    pub(crate) conditions: Vec<NodeCondition>,
    /// The overlays whose state on each node is reported.
    pub(crate) networks: Vec<String>,
    pub(crate) addresses: Vec<IpNet>,
}

/// Whether a node has applied an overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Application {
    /// It has applied everything that the managers have published.
    Applied,
    /// It has a part of the overlay, and has not applied everything yet.
    Pending,
    /// The managers have given it no part of the overlay.
    NoSubnet,
}

impl Application {
    fn new(node: &NodeStatus, overlay: &str) -> Self {
        if !node.subnets.iter().any(|one| one.overlay == overlay) {
            Self::NoSubnet
        } else if is_well(node) {
            Self::Applied
        } else {
            Self::Pending
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Applied => "has applied it",
            Self::Pending => "has not applied it",
            Self::NoSubnet => "has no subnet of it",
        }
    }
}

impl NodeQuery {
    fn matches(&self, node: &NodeStatus) -> bool {
        let has_address = |wanted: &IpNet| {
            if wanted.prefix_len() == wanted.max_prefix_len() {
                return node.has_address(wanted.addr());
            }
            let mut subnets = node.subnets.iter().flat_map(NodeSubnets::subnets);
            node.address.is_some_and(|own| wanted.contains(&own))
                || subnets.any(|subnet| wanted.contains(&subnet) || subnet.contains(wanted))
        };
        (self.nodes.is_empty() || self.nodes.contains(&node.name))
            && (self.conditions.is_empty() || self.conditions.contains(&node.condition))
            && (self.addresses.is_empty() || self.addresses.iter().any(has_address))
    }
}

/// The nodes that match, and whether each of them has applied the current revision, has no problem, and
/// has applied the networks that are asked for.
pub(crate) async fn report(
    client: &ClusterClient,
    query: &NodeQuery,
    output: StatusOutput,
) -> Result<(Printout, bool)> {
    let deadline = Instant::now() + TIMEOUT;
    let mut list = match query.addresses[..] {
        // The managers name the containers, too.
        [address] if address.prefix_len() == address.max_prefix_len() => {
            client.nodes_with_address(address.addr(), deadline).await?
        }
        _ => client.nodes(deadline).await?,
    };
    list.nodes.retain(|node| query.matches(node));
    let networks = networks(&list, query);
    let is_applied = |(_, applications): &(&String, Vec<Application>)| {
        let mut applications = applications.iter();
        applications.all(|one| *one == Application::Applied)
    };
    let is_well = list.nodes.iter().all(is_well) && networks.iter().all(is_applied);
    let printout = match output {
        StatusOutput::Json => {
            let mut json = serde_json::to_value(&list)?;
            json["schema_version"] = json!(SCHEMA_VERSION);
            for index in 0..list.nodes.len() {
                let applications = networks
                    .iter()
                    .map(|(name, all)| json!({ "network": name, "state": all[index] }));
                json["nodes"][index]["networks"] = applications.collect();
            }
            Printout::Json(json)
        }
        StatusOutput::Table | StatusOutput::Wide => {
            Printout::Text(text(&list, &networks, output == StatusOutput::Wide)?)
        }
    };
    Ok((printout, is_well))
}

/// How each node of the list has applied each of the networks.
fn networks<'a>(list: &NodeList, query: &'a NodeQuery) -> Vec<(&'a String, Vec<Application>)> {
    let of_network = |name: &'a String| {
        let nodes = list.nodes.iter();
        (
            name,
            nodes.map(|node| Application::new(node, name)).collect(),
        )
    };
    query.networks.iter().map(of_network).collect()
}

/// A client of the managers of `[node]` or, without any, of those of `[contrail]`.
pub(crate) fn client(config: &Config) -> Result<ClusterClient> {
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

fn text(
    list: &NodeList,
    networks: &[(&String, Vec<Application>)],
    is_wide: bool,
) -> Result<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut header = vec![
        "NODE",
        "CONDITION",
        "APPLIED",
        "REPORTED",
        "ENDPOINTS",
        "VERSION",
    ];
    if is_wide {
        header.extend(["ADDRESS", "SUBNETS"]);
    }
    table.set_header(header);
    let dash = || "-".to_owned();
    for node in &list.nodes {
        let name = if is_wide {
            node.name.clone()
        } else {
            truncate(&node.name, MAX_NAME_CHARS)
        };
        let mut cells = vec![
            name,
            node.condition.to_string(),
            node.applied
                .map_or_else(dash, |applied| applied.to_string()),
            node.reported_seconds
                .map_or_else(dash, |seconds| format!("{seconds}s")),
            node.endpoints.map_or_else(dash, |count| count.to_string()),
            // The node wrote it.
            Escaped(&node.versions.node).to_string(),
        ];
        if is_wide {
            let subnets = node.subnets.iter().flat_map(|subnets| {
                let name = &subnets.overlay;
                subnets
                    .subnets()
                    .map(move |subnet| format!("{name}:{subnet}"))
            });
            cells.push(
                node.address
                    .map_or_else(dash, |address| address.to_string()),
            );
            cells.push(subnets.collect::<Vec<_>>().join(" "));
        }
        table.add_row(cells);
    }
    let mut text = String::new();
    for line in table.to_string().lines() {
        writeln!(text, "{}", line.trim_end())?;
    }
    let well = list.nodes.iter().filter(|node| is_well(node)).count();
    let all = list.nodes.len();
    writeln!(
        text,
        "revision {}: {well} of {all} nodes are current and have no problem",
        list.revision
    )?;
    for (network, applications) in networks {
        write_network(&mut text, list, network, applications)?;
    }
    for owner in &list.containers {
        writeln!(text, "{}", describe(owner))?;
    }
    for node in &list.nodes {
        for problem in &node.problems {
            writeln!(text, "{}: {}", node.name, Escaped(problem))?;
        }
    }
    Ok(text)
}

/// A container that has the address that was asked for.
fn describe(owner: &AddressOwner) -> String {
    let parts = [
        ("container", &owner.container),
        ("task", &owner.task),
        ("framework", &owner.framework),
        ("network", &owner.network),
        ("node", &owner.node),
    ];
    let known = parts
        .into_iter()
        .filter_map(|(name, value)| Some(format!("{name} {}", Escaped(value.as_ref()?))));
    format!(
        "the address belongs to {}",
        known.collect::<Vec<_>>().join(", ")
    )
}

/// How many nodes have applied a network, and which have not.
fn write_network(
    text: &mut String,
    list: &NodeList,
    network: &str,
    applications: &[Application],
) -> std::fmt::Result {
    let network = Quoted(network.as_bytes());
    let with = |wanted: Application| {
        let nodes = list.nodes.iter().zip(applications);
        nodes.filter(move |(_, application)| **application == wanted)
    };
    let applied = with(Application::Applied).count();
    writeln!(
        text,
        "overlay {network}: {applied} of {} nodes have applied it",
        list.nodes.len()
    )?;
    for state in [Application::Pending, Application::NoSubnet] {
        for (node, _) in with(state).take(MAX_NAMED) {
            writeln!(
                text,
                "  {} ({}) {}",
                node.name,
                node.condition,
                state.text()
            )?;
        }
        let more = with(state).count().saturating_sub(MAX_NAMED);
        if more > 0 {
            writeln!(text, "  and {more} more nodes: see -o json")?;
        }
    }
    Ok(())
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
            containers: vec![AddressOwner {
                node: Some("agent-1".to_owned()),
                container: None,
                task: Some("web\u{1b}".to_owned()),
                framework: None,
                network: Some("blue".to_owned()),
            }],
        };
        assert!(is_well(&list.nodes[0]) && !is_well(&list.nodes[1]));
        let text = text(&list, &[], true).unwrap();
        for part in [
            "agent-1",
            "behind",
            "3.4",
            "17",
            "revision 3.5: 1 of 2 nodes",
            "agent-2: overlay: ",
            "the address belongs to task web",
            "network blue, node agent-1",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn nodes_that_have_not_applied_a_network_are_named() {
        let with_subnet = |mut node: NodeStatus| {
            node.subnets = vec![NodeSubnets {
                overlay: "blue".to_owned(),
                subnet: "10.5.1.0/24".parse().ok(),
                subnet6: None,
                blocks: vec![],
                returned: 0,
            }];
            node
        };
        let list = NodeList {
            revision: Revision::default(),
            nodes: vec![
                with_subnet(node("agent-1", NodeCondition::Current, &[])),
                with_subnet(node("agent-2", NodeCondition::Behind, &[])),
                node("agent-3", NodeCondition::Current, &[]),
            ],
            containers: vec![],
        };
        let query = |text: &str| NodeQuery {
            networks: vec!["blue".to_owned()],
            addresses: vec![text.parse().unwrap()],
            ..NodeQuery::default()
        };
        let all = query("10.5.1.7/32");
        let networks = networks(&list, &all);
        assert_eq!(
            networks[0].1,
            [
                Application::Applied,
                Application::Pending,
                Application::NoSubnet
            ]
        );
        let text = text(&list, &networks, false).unwrap();
        for part in [
            "overlay \"blue\": 1 of 3 nodes have applied it",
            "agent-2 (behind) has not applied it",
            "agent-3 (current) has no subnet of it",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        let matching = |text: &str| {
            let query = query(text);
            list.nodes.iter().filter(|node| query.matches(node)).count()
        };
        assert_eq!(matching("10.5.1.7/32"), 2);
        assert_eq!(matching("10.5.0.0/16"), 2);
        assert_eq!(matching("10.6.0.0/16"), 0);
        assert_eq!(matching("192.0.2.1/32"), 3);
    }
}
