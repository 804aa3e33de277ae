//! Tests on real devices, in network namespaces of their own.

mod blocks;
pub(crate) mod data_path;
mod faults;
mod many_nodes;

use std::path::Path;

use contrail_mesos::net::testing::run;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::OverlaySubsystem;
use crate::cluster_state::ClusterState;
use crate::subsystem::{Mode, Outcome, Subsystem};

/// The state directory: it is not accessed.
fn state_dir() -> &'static Path {
    Path::new("/nonexistent/contrail-mesos")
}

fn subsystem() -> OverlaySubsystem {
    OverlaySubsystem::new(state_dir()).unwrap()
}

/// Compares as a daemon that has just started, and changes what differs.
fn reconcile(cluster: &ClusterState) -> Outcome {
    subsystem().reconcile(cluster, Mode::Apply).unwrap()
}

/// What a daemon that has just started would change.
fn due(cluster: &ClusterState) -> Vec<String> {
    let outcome = subsystem().reconcile(cluster, Mode::DryRun).unwrap();
    let changes = outcome.changes.into_iter().map(|change| change.0);
    changes.chain(outcome.problems).collect()
}

/// Makes the calling thread's namespace a host with an uplink that has this address.
fn host(address: &str) {
    run("ip", "link add eth0 type veth peer name wire");
    run("ip", "link set wire up");
    run("ip", "link set eth0 addrgenmode none");
    run("ip", "link set eth0 up");
    run("ip", &format!("addr add {address} dev eth0"));
}

/// All that the overlays have in the calling thread's namespace, as an operator's commands show it.
fn snapshot() -> Vec<String> {
    let mut lines = Vec::new();
    for (program, arguments) in [
        ("ip", "-4 route show proto 133"),
        ("ip", "-6 route show proto 133"),
        ("ip", "neigh show nud permanent"),
        ("ip", "-o -d link show type vxlan"),
        ("ip", "-o addr show"),
        ("nft", "list tables"),
    ] {
        lines.extend(run(program, arguments).lines().map(without_index));
    }
    // The kernel may give a device a link-local address.
    lines.retain(|line| {
        (line.contains("vtep") || line.contains("overlay")) && !line.contains("fe80:")
    });
    if lines.iter().any(|line| line.contains("vtep1024")) {
        let entries = run("bridge", "fdb show dev vtep1024");
        lines.extend(entries.lines().map(str::to_owned));
    }
    lines.sort();
    lines
}

/// A line without the index of a link at its beginning, and without what the kernel counts.
fn without_index(line: &str) -> String {
    let line = line
        .split_once(": ")
        .map_or(line, |(index, rest)| match index.parse::<u32>() {
            Ok(_) => rest,
            Err(_) => line,
        });
    let words = line.split_whitespace().filter(|word| *word != "tentative");
    words.collect::<Vec<_>>().join(" ")
}

/// Whether the descriptor of the notifications is readable.
fn is_readable(subsystem: &OverlaySubsystem) -> bool {
    let descriptor = subsystem.notifications().unwrap();
    let mut files = [PollFd::new(descriptor, PollFlags::POLLIN)];
    poll(&mut files, PollTimeout::ZERO).unwrap() > 0
}
