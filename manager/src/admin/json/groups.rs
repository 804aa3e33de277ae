//! The endpoints, their memberships and who reaches whom, and the security groups.

#![allow(
    clippy::struct_field_names,
    reason = "the fields are those of the JSON, where a list is named after what is in it"
)]

use std::collections::HashMap;

use contrail_mesos_api::cluster::{
    Endpoint, IngressRule, Membership, Revision, RuleSource, SecurityGroup,
};
use contrail_mesos_api::query::QueryParameters;
use contrail_mesos_api::routes::Operation;
use schemars::JsonSchema;
use serde::Serialize;

use super::paginate::{ListQuery, PageEnd, paginate};
use crate::cluster::{Cluster, Reachability, Rules, Sources, Traffic};
use crate::config::protocol_text;

/// How many memberships are listed that reach another one.
pub(crate) const MAX_SOURCES: usize = 100;

/// Which endpoints are requested: all that is set must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EndpointFilter {
    /// The name of a node.
    node: Option<String>,
    /// The name of a group or security group.
    group: Option<String>,
}

impl EndpointFilter {
    /// Documents these parameters.
    pub(super) fn document(operation: Operation) -> Operation {
        operation
            .query::<String>("node", "The name of a node", "node1")
            .query::<String>("group", "The name of a group or security group", "web")
    }

    pub(super) fn read(parameters: &mut QueryParameters) -> Self {
        Self {
            node: parameters.take("node"),
            group: parameters.take("group"),
        }
    }

    fn matches(&self, endpoint: &Endpoint) -> bool {
        let membership = &endpoint.membership;
        let mut names = membership.groups.iter().chain(&membership.security_groups);
        self.node.as_ref().is_none_or(|node| *node == endpoint.node)
            && self
                .group
                .as_ref()
                .is_none_or(|group| names.any(|name| name == group))
    }
}

/// The key of an endpoint. The name of a node has no slash.
pub(crate) fn endpoint_key(endpoint: &Endpoint) -> String {
    format!("{}/{}", endpoint.node, endpoint.id)
}

/// The endpoints.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct Endpoints {
    /// The current revision; null if this manager publishes nothing.
    revision: Option<Revision>,
    /// How many endpoints are published.
    published: usize,
    /// How many reported endpoints are refused.
    refused: usize,
    /// How many nodes have reported theirs in this term.
    complete_nodes: usize,
    endpoints: Vec<Endpoint>,
    #[serde(flatten)]
    page: PageEnd,
}

/// The endpoints.
pub(super) fn endpoints(
    cluster: &Cluster,
    filter: &EndpointFilter,
    query: &ListQuery,
) -> Endpoints {
    let endpoints = cluster.endpoints().into_iter();
    let endpoints = endpoints
        .filter(|endpoint| filter.matches(endpoint))
        .map(|endpoint| (endpoint_key(&endpoint), endpoint));
    let page = paginate(endpoints, query.after.as_ref(), query.limit);
    let page = page.map(|_, endpoint| Endpoint::clone(&endpoint));
    let counts = cluster.endpoint_counts();
    let (endpoints, page) = page.finish();
    Endpoints {
        revision: cluster.revision(),
        published: counts.published,
        refused: counts.refused,
        complete_nodes: counts.complete_nodes,
        endpoints,
        page,
    }
}

/// The endpoints with one membership.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct MembersRow {
    groups: Vec<String>,
    security_groups: Vec<String>,
    endpoints: usize,
    nodes: usize,
    reached_by: Vec<SourceRow>,
    /// Whether more memberships reach them.
    more_sources: bool,
}

/// Who reaches them.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct SourceRow {
    groups: Vec<String>,
    security_groups: Vec<String>,
    traffic: Traffic,
}

/// The memberships, and who reaches whom, as they are now.
pub(crate) fn reachability(cluster: &Cluster) -> Reachability {
    let rules = Rules::new(cluster.security_groups());
    Reachability::new(&cluster.endpoints(), rules)
}

/// The text of a membership, which is also its key: no name has a space or comma.
fn membership_key(membership: &Membership) -> String {
    format!(
        "groups={} security_groups={}",
        membership.groups.join(","),
        membership.security_groups.join(",")
    )
}

/// The memberships of the endpoints.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct Groups {
    /// The current revision; null if this manager publishes nothing.
    revision: Option<Revision>,
    groups: Vec<MembersRow>,
    #[serde(flatten)]
    page: PageEnd,
}

/// The memberships of the endpoints, and who reaches whom.
pub(super) fn groups(cluster: &Cluster, query: &ListQuery) -> Groups {
    let reachability = reachability(cluster);
    let members = reachability.members();
    let keyed = members
        .iter()
        .map(|members| (membership_key(&members.membership), members));
    let mut subnets = HashMap::new();
    let page = paginate(keyed, query.after.as_ref(), query.limit).map(|_, to| {
        let Sources {
            traffic,
            is_truncated,
        } = reachability.sources(&to.membership, MAX_SOURCES, &mut subnets);
        let source = |(index, traffic): (usize, Traffic)| {
            let from = members.get(index)?.membership.clone();
            Some(SourceRow {
                groups: from.groups,
                security_groups: from.security_groups,
                traffic,
            })
        };
        MembersRow {
            groups: to.membership.groups.clone(),
            security_groups: to.membership.security_groups.clone(),
            endpoints: to.endpoints,
            nodes: to.nodes,
            reached_by: traffic.into_iter().filter_map(source).collect(),
            more_sources: is_truncated,
        }
    });
    let (groups, page) = page.finish();
    Groups {
        revision: cluster.revision(),
        groups,
        page,
    }
}

/// A rule in the words of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct RuleRow {
    pub protocol: Option<String>,
    pub ports: Option<String>,
    pub from: String,
}

impl From<&IngressRule> for RuleRow {
    fn from(rule: &IngressRule) -> Self {
        let ports = |(first, last): (u16, u16)| {
            if first == last {
                first.to_string()
            } else {
                format!("{first}-{last}")
            }
        };
        Self {
            protocol: rule.protocol.map(protocol_text),
            ports: rule.ports.map(ports),
            from: match &rule.source {
                RuleSource::Group(name) => format!("group:{name}"),
                RuleSource::Subnet(subnet) => subnet.to_string(),
            },
        }
    }
}

/// A security group.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct SecurityGroupRow {
    name: String,
    /// What reaches its members.
    rules: Vec<RuleRow>,
}

/// The security groups.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct SecurityGroups {
    /// The current revision; null if this manager publishes nothing.
    revision: Option<Revision>,
    security_groups: Vec<SecurityGroupRow>,
    #[serde(flatten)]
    page: PageEnd,
}

/// The security groups.
pub(super) fn security_groups(cluster: &Cluster, query: &ListQuery) -> SecurityGroups {
    let groups = cluster.security_groups().into_iter();
    let rows = groups.map(|SecurityGroup { name, rules }| {
        let row = SecurityGroupRow {
            name: name.clone(),
            rules: rules.iter().map(RuleRow::from).collect(),
        };
        (name, row)
    });
    let (security_groups, page) = paginate(rows, query.after.as_ref(), query.limit).finish();
    SecurityGroups {
        revision: cluster.revision(),
        security_groups,
        page,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_shown_as_they_are_configured() {
        let group = RuleSource::Group("lb".to_owned());
        let rule = |protocol, ports, source| IngressRule {
            protocol,
            ports,
            source,
        };
        let shown = |rule: &IngressRule| {
            let row = RuleRow::from(rule);
            let part = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            format!("{} {} {}", part(row.protocol), part(row.ports), row.from)
        };
        for (rule, expected) in [
            (rule(None, None, group.clone()), "- - group:lb"),
            (
                rule(Some(6), Some((80, 80)), group.clone()),
                "tcp 80 group:lb",
            ),
            (
                rule(Some(17), Some((80, 90)), group.clone()),
                "udp 80-90 group:lb",
            ),
            (
                rule(
                    Some(47),
                    None,
                    RuleSource::Subnet("9.0.0.0/8".parse().unwrap()),
                ),
                "47 - 9.0.0.0/8",
            ),
        ] {
            assert_eq!(shown(&rule), expected);
        }
    }
}
