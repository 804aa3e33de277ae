//! The groups: a picture of a few containers, or a matrix of their memberships, and the security groups.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::f64::consts::{FRAC_PI_2, TAU};
use std::sync::Arc;

use contrail_mesos_api::cluster::{Endpoint, Membership, Object};
use contrail_mesos_api::text::truncate;
use maud::{Markup, html};

use super::sections::{MAX_ROWS, truncation_note};
use crate::admin::json::{MAX_SOURCES, RuleRow, endpoint_key, reachability};
use crate::cluster::{Cluster, Members, Reachability, Rules, Traffic};

/// How many containers a picture shows at most.
const MAX_PICTURED: usize = 12;
/// How many memberships a matrix has at most.
const MAX_MATRIX: usize = 24;
/// How many memberships are listed that reach another one.
const MAX_LISTED_SOURCES: usize = 10;
/// How many rules of a security group are shown.
const MAX_SHOWN_RULES: usize = 20;

/// The groups, unless no overlay isolates them and there are no rules.
pub(super) fn groups(cluster: &Cluster) -> Markup {
    let definitions = cluster.definitions();
    let is_isolating =
        |object: &Object| matches!(object, Object::Overlay(overlay) if overlay.groups.is_some());
    let nodes = definitions
        .iter()
        .filter(|object| matches!(object, Object::Node(_)));
    let nodes = nodes.count();
    let isolates = definitions.iter().any(is_isolating);
    let security_groups = cluster.security_groups();
    let endpoints = cluster.endpoints();
    let counts = cluster.endpoint_counts();
    let reachability = reachability(cluster);
    html! {
        section #groups {
            h2 { "Groups " small { (counts.published) " containers, " (reachability.members().len()) " memberships" } }
            @if !isolates { p.soft { "No overlay isolates groups." } }
            @if isolates && counts.complete_nodes < nodes {
                p #incomplete .soft {
                    (nodes - counts.complete_nodes) " of " (nodes) " nodes have not reported their containers since \
                     this manager leads. What the other nodes know of them stays."
                }
            }
            @if (1..=MAX_PICTURED).contains(&endpoints.len()) {
                (picture(&endpoints, &Rules::new(security_groups.clone())))
            } @else if !endpoints.is_empty() {
                (matrix(&reachability))
            }
            @if !endpoints.is_empty() { (memberships(&reachability)) }
            @if !security_groups.is_empty() {
                table {
                    thead { tr { th { "Security group" } th { "Reached by" } } }
                    tbody {
                        @for group in security_groups.iter().take(MAX_ROWS) {
                            tr data-security-group=(group.name) {
                                td data-name="Security group" { (group.name) }
                                td data-name="Reached by" {
                                    @if group.rules.is_empty() { span.soft { "nothing" } }
                                    ul {
                                        @for rule in group.rules.iter().take(MAX_SHOWN_RULES) { li { (rule_text(&rule.into())) } }
                                        @if group.rules.len() > MAX_SHOWN_RULES {
                                            li.soft { "and " (group.rules.len() - MAX_SHOWN_RULES) " more rules" }
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
                (truncation_note(security_groups.len(), "/v1/security-groups"))
            }
        }
    }
}

fn rule_text(rule: &RuleRow) -> String {
    let RuleRow {
        protocol,
        ports,
        from,
    } = rule;
    match (protocol, ports) {
        (None, _) => format!("{from}: everything"),
        (Some(protocol), None) => format!("{from}: {protocol}"),
        (Some(protocol), Some(ports)) => format!("{from}: {protocol} {ports}"),
    }
}

fn membership_text(membership: &Membership) -> String {
    let groups = membership.groups.join(", ");
    let security_groups = membership.security_groups.join(", ");
    match (groups.is_empty(), security_groups.is_empty()) {
        (true, true) => "no group".to_owned(),
        (false, true) => groups,
        (true, false) => format!("security groups {security_groups}"),
        (false, false) => format!("{groups}; security groups {security_groups}"),
    }
}

fn traffic_text(traffic: Traffic) -> &'static str {
    match traffic {
        Traffic::None => "nothing",
        Traffic::Limited => "by rules",
        Traffic::All => "everything",
    }
}

/// The memberships, and who reaches them.
fn memberships(reachability: &Reachability) -> Markup {
    let members = reachability.members();
    let mut subnets = HashMap::new();
    html! {
        table {
            thead { tr { th { "Groups" } th.number { "Containers" } th.number { "Nodes" } th { "Reached by" } } }
            tbody {
                @for to in members.iter().take(MAX_ROWS) {
                    @let sources = reachability.sources(&to.membership, MAX_SOURCES, &mut subnets);
                    tr data-membership=(membership_text(&to.membership)) {
                        td data-name="Groups" { (membership_text(&to.membership)) }
                        td.number data-name="Containers" { (to.endpoints) }
                        td.number data-name="Nodes" { (to.nodes) }
                        td data-name="Reached by" { ul {
                            @for (index, traffic) in sources.traffic.iter().take(MAX_LISTED_SOURCES) {
                                @if let Some(from) = members.get(*index) {
                                    li { (membership_text(&from.membership)) @if *traffic == Traffic::Limited { " (by rules)" } }
                                }
                            }
                            @if sources.traffic.is_empty() { li.soft { "nobody" } }
                            @if sources.traffic.len() > MAX_LISTED_SOURCES || sources.is_truncated { li.soft { "and others" } }
                        } }
                    }
                }
            }
        }
        (truncation_note(members.len(), "/v1/groups"))
    }
}

/// Who reaches whom, of the memberships with the most containers.
fn matrix(reachability: &Reachability) -> Markup {
    let mut shown: Vec<&Members> = reachability.members().iter().collect();
    shown.sort_by_key(|members| Reverse(members.endpoints));
    let total = shown.len();
    shown.truncate(MAX_MATRIX);
    html! {
        div.wide {
            table.matrix {
                thead { tr {
                    th { "From, to" }
                    @for number in 1..=shown.len() { th { (number) } }
                } }
                tbody {
                    @for (index, from) in shown.iter().enumerate() {
                        tr {
                            th title=(membership_text(&from.membership)) {
                                (index + 1) " " (truncate(&membership_text(&from.membership), 40))
                            }
                            @for (number, to) in shown.iter().enumerate() {
                                @let traffic = reachability.traffic(from, to);
                                td data-name={ "to " (number + 1) } title=(traffic_text(traffic))
                                    .all[traffic == Traffic::All] .limited[traffic == Traffic::Limited] {
                                    @match traffic {
                                        Traffic::None => "·",
                                        Traffic::Limited => "○",
                                        Traffic::All => "●",
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
        p.soft {
            "● everything, ○ what rules of security groups allow, · nothing."
            @if total > shown.len() { " The " (shown.len()) " memberships with the most containers of " (total) "." }
        }
    }
}

const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 560.0;
/// Of the circle on which the containers are. Their labels are around it.
const RADIUS: f64 = 185.0;
/// Of a container.
const DOT: f64 = 8.0;
/// The height of a line of text.
const LINE: f64 = 16.0;
/// How far apart the arrows of both directions are, if they differ.
const GAP: f64 = 4.0;

/// A place in the picture.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    x: f64,
    y: f64,
}

/// The direction of a container from the centre, as an angle.
#[expect(clippy::cast_precision_loss, reason = "there are few containers")]
fn angle(index: usize, count: usize) -> f64 {
    // The first one is at the top; the others follow clockwise.
    TAU * index as f64 / count as f64 - FRAC_PI_2
}

fn place(angle: f64) -> Point {
    Point {
        x: WIDTH / 2.0 + RADIUS * angle.cos(),
        y: HEIGHT / 2.0 + RADIUS * angle.sin(),
    }
}

/// A line between two containers that ends beside them. A shift moves it to the right of its direction.
fn between(from: Point, to: Point, shift: f64) -> (Point, Point) {
    let (dx, dy) = (to.x - from.x, to.y - from.y);
    let length = dx.hypot(dy).max(1.0);
    let (dx, dy) = (dx / length, dy / length);
    let margin = DOT + 4.0;
    let start = Point {
        x: from.x + margin * dx - shift * dy,
        y: from.y + margin * dy + shift * dx,
    };
    let end = Point {
        x: to.x - margin * dx - shift * dy,
        y: to.y - margin * dy + shift * dx,
    };
    (start, end)
}

fn number(value: f64) -> String {
    format!("{value:.1}")
}

/// The containers, and which traffic between them is allowed.
fn picture(endpoints: &[Arc<Endpoint>], rules: &Rules) -> Markup {
    let mut shown: Vec<&Endpoint> = endpoints.iter().map(Arc::as_ref).collect();
    // Those that reach each other are neighbours.
    shown.sort_by_key(|endpoint| (&endpoint.membership, &endpoint.node, &endpoint.id));
    let angles: Vec<f64> = (0..shown.len())
        .map(|index| angle(index, shown.len()))
        .collect();
    let pairs = (0..shown.len()).flat_map(|one| (0..one).map(move |other| (other, one)));
    html! {
        div.wide {
            svg.picture viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label="Which containers reach which" {
                defs {
                    marker #arrow viewBox="0 0 8 8" refX="7" refY="4" markerWidth="5" markerHeight="5" orient="auto" {
                        path d="M0,0 L8,4 L0,8 z" {}
                    }
                }
                @for (one, other) in pairs {
                    @let (there, back) = (rules.traffic(shown[one], shown[other]), rules.traffic(shown[other], shown[one]));
                    @let (from, to) = (place(angles[one]), place(angles[other]));
                    @if there == back {
                        (edge((shown[one], shown[other]), between(from, to, 0.0), there, true))
                    } @else {
                        (edge((shown[one], shown[other]), between(from, to, GAP), there, false))
                        (edge((shown[other], shown[one]), between(to, from, GAP), back, false))
                    }
                }
                @for (endpoint, angle) in shown.iter().zip(&angles) { (container(endpoint, *angle)) }
            }
        }
        p.soft {
            "A line: everything in both directions. An arrow: in that direction only. Dashed: what rules of \
             security groups allow."
        }
    }
}

fn edge(
    (from, to): (&Endpoint, &Endpoint),
    (start, end): (Point, Point),
    traffic: Traffic,
    is_both: bool,
) -> Markup {
    html! {
        @if traffic != Traffic::None {
            line.edge .limited[traffic == Traffic::Limited]
                x1=(number(start.x)) y1=(number(start.y)) x2=(number(end.x)) y2=(number(end.y))
                marker-end=[(!is_both).then_some("url(#arrow)")]
                data-from=(endpoint_key(from)) data-to=(endpoint_key(to))
                data-traffic=(traffic_text(traffic)) data-both[is_both] {}
        }
    }
}

fn container(endpoint: &Endpoint, angle: f64) -> Markup {
    let Point { x, y } = place(angle);
    let (across, down) = (angle.cos(), angle.sin());
    let anchor = match across {
        ..-0.2 => "end",
        0.2.. => "start",
        _ => "middle",
    };
    let lines = [
        truncate(&endpoint.id, 14),
        truncate(&endpoint.node, 30),
        truncate(&membership_text(&endpoint.membership), 34),
    ];
    // The text is beside the container, above or below it.
    let text = Point {
        x: x + 18.0 * across,
        y: y + 20.0 * down + LINE * (down - 1.0) + 4.0,
    };
    let title = format!(
        "{} on {}: {}",
        endpoint.id,
        endpoint.node,
        membership_text(&endpoint.membership)
    );
    html! {
        g.container data-endpoint=(endpoint_key(endpoint)) {
            title { (title) }
            circle cx=(number(x)) cy=(number(y)) r=(DOT) {}
            text x=(number(text.x)) y=(number(text.y)) text-anchor=(anchor) {
                @for (index, line) in lines.iter().enumerate() {
                    tspan.soft[index == 1] .strong[index == 2] x=(number(text.x)) dy=(if index == 0 { 0.0 } else { LINE }) { (line) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(id: &str, groups: &[&str]) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            node: "node-1".to_owned(),
            id: id.to_owned(),
            addresses: vec![],
            membership: Membership {
                groups: groups.iter().map(|name| (*name).to_owned()).collect(),
                security_groups: vec![],
            },
        })
    }

    fn with_address(endpoint: &Arc<Endpoint>, last: u8) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            addresses: vec![[9, 0, 0, last].into()],
            ..Endpoint::clone(endpoint)
        })
    }

    /// The pairs that a picture connects.
    fn edges(picture: &str) -> Vec<String> {
        let edges = picture.split("data-from=\"").skip(1);
        let edge = |text: &str| {
            let (from, rest) = text.split_once('"').unwrap();
            let (_, rest) = rest.split_once("data-to=\"").unwrap();
            let (to, rest) = rest.split_once('"').unwrap();
            let both = rest.split('>').next().unwrap().contains("data-both");
            let arrow = if both { "-" } else { ">" };
            format!("{from}{arrow}{to}").replace("node-1/", "")
        };
        let mut edges: Vec<_> = edges.map(edge).collect();
        edges.sort();
        edges
    }

    #[test]
    fn picture_connects_containers_that_reach_each_other() {
        let star = [
            endpoint("a", &["star-1"]),
            endpoint("b", &["star-1"]),
            endpoint("c", &["star-2"]),
            endpoint("d", &["star-2"]),
            endpoint("z", &["public", "star-1", "star-2"]),
        ];
        let addressed: Vec<_> = star
            .iter()
            .zip(1..)
            .map(|(endpoint, last)| with_address(endpoint, last))
            .collect();
        let text = picture(&addressed, &Rules::default()).into_string();
        assert_eq!(
            edges(&text),
            ["a-b", "c-d", "z-a", "z-b", "z-c", "z-d"],
            "{text}"
        );
        assert_eq!(text.matches("<circle").count(), 5);
        assert_eq!(text.matches("<svg").count(), 1);
        // An element of SVG without an end tag would hold those after it.
        for element in ["line", "circle", "path", "marker", "g"] {
            let begins = text.matches(&format!("<{element} ")).count();
            assert_eq!(begins, text.matches(&format!("</{element}>")).count());
        }
    }

    #[test]
    fn texts_of_nodes_are_escaped_and_short() {
        let long = "x".repeat(128);
        let hostile = endpoint("<script>\"'&", &["<b>", &long]);
        let text = picture(&[with_address(&hostile, 1)], &Rules::default()).into_string();
        assert!(!text.contains("<script") && !text.contains("<b>"), "{text}");
        assert!(text.contains("&lt;script&gt;&quot;"), "{text}");
    }

    #[test]
    fn labels_stay_within_the_picture() {
        for count in 1..=MAX_PICTURED {
            for index in 0..count {
                let angle = angle(index, count);
                let text = container(&endpoint("id", &["g"]), angle).into_string();
                let ys = text.split("<text ").nth(1).unwrap();
                let y: f64 = ys
                    .split("y=\"")
                    .nth(1)
                    .and_then(|rest| rest.split('"').next()?.parse().ok())
                    .unwrap();
                assert!(y > LINE && y + 2.0 * LINE < HEIGHT, "{index} of {count}");
                let Point { x, .. } = place(angle);
                // 34 characters of 8 units each.
                assert!(x > 34.0 * 8.0 && x < WIDTH - 34.0 * 8.0, "{x}");
            }
        }
    }
}
