//! The tables of `contrail-mesos status`.

use comfy_table::{Table, presets};
use contrail_mesos::isolator::attacher::{ContainerStatus, NetworkStatus};
use contrail_mesos_api::cluster::Membership;
use contrail_mesos_api::text::{Escaped, truncate};

use crate::groups::groups_text;
use crate::output::port_text;

/// How wide the narrow table is, where ids and addresses allow that.
const MAX_COLUMNS: usize = 80;
/// The spaces around the cells of five columns.
const PADDING: usize = 2 * 5;
/// How much of an agent's container id is shown at least, and at most if that does not suffice.
const SHORT_ID_CHARS: std::ops::RangeInclusive<usize> = 8..=12;
/// The least width of a column that is shortened.
const MIN_COLUMN: usize = 6;

/// The beginnings of the containers' ids that suffice to tell them apart. Names that operators chose
/// are shown as they are.
pub(super) fn short_names(containers: &[ContainerStatus]) -> Vec<String> {
    let names: Vec<&str> = containers
        .iter()
        .map(|one| one.container.as_str())
        .collect();
    let short = |name: &&str| {
        let is_of_agent = name.len() > *SHORT_ID_CHARS.end()
            && contrail_mesos_api::container::ContainerId::printed(name).is_of_agent();
        let is_unique = |start: &&str| {
            let mut others = names.iter().filter(|other| **other != *name);
            !others.any(|other| other.starts_with(start))
        };
        let starts = SHORT_ID_CHARS.filter_map(|length| name.get(..length));
        let mut starts = starts.filter(|_| is_of_agent);
        starts.find(is_unique).unwrap_or(name).to_owned()
    };
    names.iter().map(short).collect()
}

/// Networks of one container below each other, in at most 80 columns where ids and addresses allow that.
pub(super) fn narrow(containers: &[ContainerStatus]) -> String {
    let dash = || "-".to_owned();
    let mut rows: Vec<[String; 5]> =
        vec![["CONTAINER", "TASK", "NETWORK", "ADDRESS", "STATE"].map(str::to_owned)];
    for (container, name) in containers.iter().zip(short_names(containers)) {
        // Chosen by a framework, so it may have control characters.
        let executor = container.executor.as_deref();
        let executor = executor.map_or_else(dash, |executor| Escaped(executor).to_string());
        let mut first = [Escaped(&name).to_string(), executor];
        if container.networks.is_empty() {
            let [name, executor] = first;
            rows.push([name, executor, dash(), dash(), container.state.to_string()]);
            continue;
        }
        for row in &container.networks {
            let addresses: Vec<String> = row
                .addresses
                .iter()
                .map(|net| net.addr().to_string())
                .collect();
            let addresses = if addresses.is_empty() {
                dash()
            } else {
                addresses.join("\n")
            };
            let [name, executor] = std::mem::take(&mut first);
            let network = Escaped(&row.network).to_string();
            rows.push([name, executor, network, addresses, row.state.to_string()]);
        }
    }
    let width = |column: usize| {
        let cells = rows.iter().flat_map(|row| row[column].lines());
        cells.map(|line| line.chars().count()).max().unwrap_or(0)
    };
    let fixed = width(0) + width(3) + width(4) + PADDING;
    let (task, network) = shares(width(1), width(2), MAX_COLUMNS.saturating_sub(fixed));
    for row in &mut rows {
        row[1] = shortened(&row[1], task);
        row[2] = shortened(&row[2], network);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut rows = rows.into_iter();
    table.set_header(rows.next().into_iter().flatten());
    table.add_rows(rows);
    lines(&table)
}

/// The widths of two columns that want these widths and have `available` together.
fn shares(first: usize, second: usize, available: usize) -> (usize, usize) {
    let second_share = second.min((available / 2).max(available.saturating_sub(first)));
    let second_share = second_share.max(MIN_COLUMN.min(second));
    let first_share = available.saturating_sub(second_share);
    (first.min(first_share.max(MIN_COLUMN)), second_share)
}

/// A text of at most `width` characters; an ellipsis shows that it was longer.
fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    truncate(text, width.saturating_sub(1))
}

/// Everything, one line a network.
pub(super) fn wide(containers: &[ContainerStatus]) -> String {
    let dash = || "-".to_owned();
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "CONTAINER",
        "EXECUTOR",
        "NETWORK",
        "INTERFACE",
        "HOST-END",
        "BRIDGE",
        "ADDRESS",
        "MAC",
        "PORTS",
        "GROUPS",
        "STATE",
    ]);
    for container in containers {
        let name = Escaped(&container.container).to_string();
        let executor = container.executor.as_deref();
        let executor = executor.map_or_else(dash, |executor| Escaped(executor).to_string());
        for row in &container.networks {
            let addresses: Vec<String> = row.addresses.iter().map(ToString::to_string).collect();
            table.add_row([
                name.clone(),
                executor.clone(),
                Escaped(&row.network).to_string(),
                row.interface.clone(),
                row.host_interface.clone().unwrap_or_else(dash),
                row.bridge.clone().unwrap_or_else(dash),
                addresses.join(" "),
                row.mac.map_or_else(dash, |mac| mac.to_string()),
                ports(row),
                groups(row).unwrap_or_else(dash),
                row.state.to_string(),
            ]);
        }
        if container.networks.is_empty() {
            let mut cells = vec![name, executor];
            cells.resize_with(10, dash);
            cells.push(container.state.to_string());
            table.add_row(cells);
        }
    }
    lines(&table)
}

/// The mapped ports, for a person.
pub(crate) fn ports(row: &NetworkStatus) -> String {
    let ports: Vec<String> = row.ports.iter().copied().map(port_text).collect();
    ports.join(" ")
}

/// The groups, for a person; none on a network that does not isolate groups.
pub(crate) fn groups(row: &NetworkStatus) -> Option<String> {
    Some(groups_text(&Membership {
        groups: row.groups.clone()?,
        security_groups: row.security_groups.clone()?,
    }))
}

/// The lines of a table, without spaces at their ends.
fn lines(table: &Table) -> String {
    let text = table.to_string();
    let mut lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    lines.push("");
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use contrail_mesos::isolator::attacher::ContainerState;

    use super::*;

    fn container(name: &str, executor: &str, network: &str, address: &str) -> ContainerStatus {
        ContainerStatus {
            container: name.to_owned(),
            state: ContainerState::PendingTeardown,
            owner: None,
            framework: None,
            executor: Some(executor.to_owned()),
            hostname: None,
            namespace: None,
            attached_since: None,
            problems: vec![],
            networks: vec![NetworkStatus {
                network: network.to_owned(),
                provider: "bridge",
                state: ContainerState::PendingTeardown,
                problems: vec![],
                interface: "eth0".to_owned(),
                host_interface: None,
                bridge: None,
                addresses: vec![address.parse().unwrap()],
                gateways: vec![],
                routes: vec![],
                mac: None,
                mtu: 1500,
                ports: vec![],
                nameservers: vec![],
                groups: None,
                security_groups: None,
                statistics: None,
            }],
        }
    }

    const FIRST: &str = "3c5b2f0e-9d51-4f9c-8f4f-4f1f1f0e0a01";
    const SECOND: &str = "3c5b2f0e-9dff-4f9c-8f4f-4f1f1f0e0a02";

    #[test]
    fn narrow_table_fits_80_columns_with_any_task() {
        let task = "production_billing_invoice-renderer.instance-0b3c.\u{1b}[2J";
        let text = narrow(&[
            container(FIRST, task, "a-network-with-a-long-name", "10.32.0.7/24"),
            container(SECOND, "web", "blue", "fd00:1234:5678:9abc:def0::17/64"),
            container("box", "x", "red", "10.33.0.7/24"),
        ]);
        for line in text.lines() {
            assert!(line.chars().count() <= MAX_COLUMNS, "{line:?}");
        }
        for part in [
            "3c5b2f0e-9d5",
            "3c5b2f0e-9df",
            "box",
            "10.32.0.7",
            "::17",
            "pending-teardown",
            "blue",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains('\u{1b}') && !text.contains(FIRST), "{text}");
    }

    #[test]
    fn names_are_shortened_only_if_that_is_unambiguous() {
        let names = |ids: &[&str]| -> Vec<String> {
            let containers: Vec<_> = ids
                .iter()
                .map(|id| container(id, "web", "blue", "10.0.0.2/24"))
                .collect();
            short_names(&containers)
        };
        assert_eq!(
            names(&[FIRST, "a-name-of-an-operator"]),
            [&FIRST[..8], "a-name-of-an-operator"]
        );
        assert_eq!(names(&[FIRST, SECOND]), [&FIRST[..12], &SECOND[..12]]);
        let nested = format!("{FIRST}.check");
        assert_eq!(names(&[FIRST, &nested]), [FIRST, &nested]);
    }

    #[test]
    fn wide_table_has_everything() {
        let text = wide(&[container(FIRST, "web", "blue", "10.32.0.7/24")]);
        for part in [FIRST, "web", "eth0", "10.32.0.7/24", "pending-teardown"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(text.lines().count(), 2);
    }
}
