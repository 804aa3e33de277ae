//! The probes of the Star demonstration: each serves, asks its peers again and again, and publishes what
//! it reaches and who reached it.
//!
//! The program `star-probe` runs one of them in a container. Peers come from a [`Directory`], which
//! stands for Mesos-DNS: every name with its address.
//!
//! Invariants: each request is a connection of its own, so that nothing is judged by an earlier one.
//! Datagrams go from one socket and are answered, so that those to a peer are one flow, which must end
//! when the peer may not be reached any more. What a probe keeps is bounded by the directory.

mod directory;
mod probe;
pub mod running;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use directory::Directory;
pub use probe::{Options, run};
pub use running::RunningProbe;

/// What a directory answers: the address of each probe.
pub type Addresses = BTreeMap<String, SocketAddr>;

/// The state of a probe, as it serves it at `/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// How often it has asked all peers.
    pub rounds: u64,
    /// The peers of the last round, and whether each has answered with its name.
    pub reached: BTreeMap<String, bool>,
    /// What came in, by the name of the sender.
    pub received: BTreeMap<String, Received>,
}

/// What came in from one peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// Requests of HTTP.
    pub requests: u64,
    /// Datagrams of UDP.
    pub datagrams: u64,
}

/// Who reaches whom: a row for each probe, with the names of those that it reaches.
pub type Matrix = BTreeMap<String, BTreeMap<String, bool>>;

/// The matrix of these probes.
#[must_use]
pub fn matrix<'a>(statuses: impl IntoIterator<Item = &'a Status>) -> Matrix {
    let rows = statuses.into_iter();
    rows.map(|status| (status.name.clone(), status.reached.clone()))
        .collect()
}

/// What the matrix must be if exactly probes with a group in common reach each other.
#[must_use]
pub fn expected(groups: &[(&str, &[&str])]) -> Matrix {
    let row = |own: &str, own_groups: &[&str]| {
        let others = groups.iter().filter(|(other, _)| *other != own);
        others
            .map(|(other, groups)| {
                let has_common = groups.iter().any(|group| own_groups.contains(group));
                ((*other).to_owned(), has_common)
            })
            .collect()
    };
    let rows = groups.iter();
    rows.map(|(name, groups)| ((*name).to_owned(), row(name, groups)))
        .collect()
}

/// A matrix as lines of text, from the row to the column.
#[must_use]
pub fn table(matrix: &Matrix) -> String {
    let width = matrix.keys().map(String::len).max().unwrap_or_default() + 2;
    let line = |first: &str, cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = cells.map(|cell| format!("{cell:width$}")).collect();
        format!("{first:width$}{}", cells.concat())
            .trim_end()
            .to_owned()
    };
    let header = line("", &mut matrix.keys().map(String::as_str));
    let rows = matrix.iter().map(|(from, row)| {
        let mut cells = matrix.keys().map(|to| match row.get(to) {
            Some(true) => "yes",
            Some(false) => "-",
            None => ".",
        });
        line(from, &mut cells)
    });
    [header]
        .into_iter()
        .chain(rows)
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_with_a_common_group_reach_each_other() {
        let matrix = expected(&[
            ("a", &["star-1"]),
            ("c", &["star-2"]),
            ("collect", &["star-1", "star-2"]),
        ]);
        let reached = |from: &str, to: &str| matrix[from].get(to).copied();
        assert_eq!(reached("a", "c"), Some(false));
        assert_eq!(reached("c", "collect"), Some(true));
        assert_eq!(reached("collect", "a"), Some(true));
        assert_eq!(reached("a", "a"), None);
        let lines: Vec<String> = table(&matrix).lines().map(str::to_owned).collect();
        assert_eq!(lines[0], "         a        c        collect");
        assert_eq!(lines[1], "a        .        -        yes");
        assert_eq!(lines.len(), 4);
    }
}
