//! The host: its kernel, links, routes, rules and flows.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use contrail_mesos_api::dump::{Contents, Format, Part};
use nix::sys::utsname::uname;
use serde_json::{Value, json};

use super::json_contents;
use crate::net::conntrack;
use crate::net::nft;

/// The directories of settings whose files are read.
const SETTINGS: [&str; 13] = [
    "net/core",
    "net/ipv4",
    "net/ipv4/conf/all",
    "net/ipv4/conf/default",
    "net/ipv4/neigh/default",
    "net/ipv6",
    "net/ipv6/conf/all",
    "net/ipv6/conf/default",
    "net/ipv6/neigh/default",
    "net/netfilter",
    "net/bridge",
    "fs/inotify",
    "user",
];
/// The most bytes of a setting.
const MAX_SETTING_BYTES: u64 = 1 << 10;

/// Programs whose output says what the kernel has.
const PROGRAMS: [(&str, &str, &[&str]); 11] = [
    ("links.txt", "ip", &["-details", "-statistics", "link"]),
    ("addresses.txt", "ip", &["address"]),
    ("routes.txt", "ip", &["-4", "route", "show", "table", "all"]),
    (
        "routes6.txt",
        "ip",
        &["-6", "route", "show", "table", "all"],
    ),
    ("rules.txt", "ip", &["-4", "rule"]),
    ("rules6.txt", "ip", &["-6", "rule"]),
    ("neighbours.txt", "ip", &["-statistics", "neighbour"]),
    ("bridge-ports.txt", "bridge", &["-details", "link"]),
    ("bridge-fdb.txt", "bridge", &["fdb"]),
    ("modules.txt", "cat", &["/proc/modules"]),
    // The chains of everybody, without the elements of sets.
    ("nftables.txt", "nft", &["--terse", "list", "ruleset"]),
];

/// The parts about the host.
pub(super) fn parts() -> Vec<Part> {
    let mut parts: Vec<Part> = PROGRAMS
        .into_iter()
        .map(|(name, program, arguments)| {
            Part::program(format!("host/{name}"), Format::Text, program, arguments)
        })
        .collect();
    // With their elements; those that there are.
    let list = |(family, table)| format!("nft list table {family} {table} 2>/dev/null\n");
    let script: String = nft::OWN_TABLES.into_iter().map(list).collect();
    parts.push(Part::program(
        "host/nftables-own.txt",
        Format::Text,
        "/bin/sh",
        &["-c", &format!("{script}true")],
    ));
    parts.push(Part::blocking("host/settings.txt", Format::Text, || {
        Ok(settings(Path::new("/proc/sys")).into_bytes().into())
    }));
    parts.push(Part::blocking("host/conntrack.json", Format::Json, flows));
    parts.push(Part::program(
        "logs/journal.txt",
        Format::Log,
        "journalctl",
        &[
            "--no-pager",
            "--lines=5000",
            "--output=short-iso",
            "--unit=contrail-mesos-node",
            "--unit=contrail-mesos-manager",
            "--unit=mesos-agent",
            "--unit=mesos-slave",
            "--unit=dcos-mesos-slave",
            "--unit=dcos-mesos-slave-public",
        ],
    ));
    parts
}

/// What the system is.
pub(super) fn system() -> Value {
    let text = |path: &str| fs::read_to_string(path).ok();
    let kernel = uname().ok();
    let kernel = kernel.map(|name| {
        let part = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
        json!({
            "host": part(name.nodename()),
            "release": part(name.release()),
            "version": part(name.version()),
            "machine": part(name.machine()),
        })
    });
    json!({
        "program": "contrail-mesos",
        "version": env!("CARGO_PKG_VERSION"),
        "kernel": kernel,
        "kernel_flags": text("/proc/cmdline"),
        "distribution": text("/etc/os-release"),
        "uptime": text("/proc/uptime"),
        "load": text("/proc/loadavg"),
        "memory": text("/proc/meminfo"),
    })
}

/// The settings of the kernel that concern networks, a line each as `sysctl` prints them. Those of single
/// interfaces are left out. Blocks.
fn settings(root: &Path) -> String {
    let mut lines = vec![];
    for directory in SETTINGS {
        let entries = fs::read_dir(root.join(directory));
        for entry in entries.into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            // Reading it would be of no use, or takes a secret of the kernel.
            if !path.is_file() || name.ends_with("_key") || name.contains("secret") {
                continue;
            }
            let mut value = String::new();
            let read = fs::File::open(&path)
                .and_then(|file| file.take(MAX_SETTING_BYTES).read_to_string(&mut value));
            // Some can only be written.
            if read.is_ok() {
                let value: Vec<&str> = value.split_whitespace().collect();
                let name = format!("{directory}/{name}").replace('/', ".");
                lines.push(format!("{name} = {}\n", value.join(" ")));
            }
        }
    }
    lines.sort();
    lines.concat()
}

/// How many flows the kernel tracks, by protocol and state.
fn flows() -> Result<Contents, String> {
    let table = conntrack::table_use().map_err(|error| error.to_string())?;
    let counts = conntrack::count_flows().map_err(|error| error.to_string())?;
    let counts: Vec<Value> = counts
        .into_iter()
        .map(|(kind, flows)| {
            json!({
                "family": kind.family,
                "protocol": kind.protocol,
                "state": kind.state,
                "flows": flows,
            })
        })
        .collect();
    json_contents(&json!({
        "flows": table.flows,
        "limit": table.limit,
        "failed": table.failed,
        "evicted": table.evicted,
        "counts": counts,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_have_no_secret_of_the_kernel() {
        let directory = tempfile::tempdir().unwrap();
        let ipv4 = directory.path().join("net/ipv4");
        fs::create_dir_all(ipv4.join("conf/all")).unwrap();
        fs::write(ipv4.join("ip_local_port_range"), "32768\t60999\n").unwrap();
        fs::write(ipv4.join("tcp_fastopen_key"), "1-2-3-4\n").unwrap();
        fs::write(ipv4.join("conf/all/rp_filter"), "2\n").unwrap();
        fs::write(ipv4.join("conf/all/stable_secret"), "fd00::1\n").unwrap();
        assert_eq!(
            settings(directory.path()),
            "net.ipv4.conf.all.rp_filter = 2\nnet.ipv4.ip_local_port_range = 32768 60999\n"
        );
    }
}
