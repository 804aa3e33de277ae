//! What is on a host: to be noted before a test and compared after it.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::testbed::cgroups;
use crate::testbed::host::Host;

/// Links, named namespaces, mounts, tables of nftables, routing rules, cgroups, processes and files of a
/// host, a line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftovers(BTreeSet<String>);

impl Leftovers {
    pub(crate) fn of(host: &Host) -> Result<Self> {
        let mut lines = BTreeSet::new();
        let mut add = |kind: &str, names: &mut dyn Iterator<Item = String>| {
            lines.extend(names.map(|name| format!("{kind} {name}")));
        };
        add("link", &mut links(host)?.into_iter());
        add("namespace", &mut namespaces(host)?.into_iter());
        add("mount", &mut mounts(host)?.into_iter());
        add("table", &mut tables(host)?.into_iter());
        add("rule", &mut rules(host)?.into_iter());
        add("cgroup", &mut cgroups_of(host)?.into_iter());
        add("process", &mut processes(host)?.into_iter());
        add("file", &mut files(host, "/run /var/lib/cni")?.into_iter());
        Ok(Self(lines))
    }

    /// What is here and was not there.
    #[must_use]
    pub fn since(&self, before: &Self) -> BTreeSet<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.0 {
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

impl Host {
    /// Waits until nothing is on the host that was not there `before`. The end of a container takes
    /// the agent, and the kernel, a moment.
    pub fn expect_nothing_since(&self, before: &Leftovers) -> Result<()> {
        self.expect_nothing(before, |_| true)
    }

    /// As [`Host::expect_nothing_since`], for these kinds of things only: `link`, `namespace`,
    /// `mount`, `table`, `rule`, `cgroup`, `process`, `file`.
    pub fn expect_nothing_of(&self, kinds: &[&str], before: &Leftovers) -> Result<()> {
        self.expect_nothing(before, |line| {
            let kind = line.split(' ').next().unwrap_or_default();
            kinds.contains(&kind)
        })
    }

    pub(crate) fn expect_nothing(
        &self,
        before: &Leftovers,
        counts: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut more = self.leftovers()?.since(before);
            more.retain(|line| counts(line));
            if more.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let more: Vec<_> = more.into_iter().collect();
                bail!("left on the host {}:\n{}", self.name(), more.join("\n"));
            }
            sleep(Duration::from_millis(50));
        }
    }
}

fn lines(host: &Host, script: &str) -> Result<Vec<String>> {
    let lines = host.sh(script)?;
    Ok(lines.lines().map(ToOwned::to_owned).collect())
}

/// The host's links.
pub fn links(host: &Host) -> Result<Vec<String>> {
    let name = |line: &String| line.split(": ").nth(1).map(ToOwned::to_owned);
    Ok(lines(host, "ip -o link")?.iter().filter_map(name).collect())
}

/// The host's namespaces that have a name.
pub fn namespaces(host: &Host) -> Result<Vec<String>> {
    lines(host, "ls -A /run/netns")
}

/// The host's mount points.
pub fn mounts(host: &Host) -> Result<Vec<String>> {
    let target = |line: &String| line.split(' ').nth(4).map(ToOwned::to_owned);
    let mounts = lines(host, "cat /proc/self/mountinfo")?;
    Ok(mounts.iter().filter_map(target).collect())
}

/// The host's tables of nftables.
pub fn tables(host: &Host) -> Result<Vec<String>> {
    lines(host, "nft list tables")
}

/// The host's routing rules.
fn rules(host: &Host) -> Result<Vec<String>> {
    lines(host, "ip rule show; ip -6 rule show")
}

/// The cgroups of the host's clusters.
pub fn cgroups_of(host: &Host) -> Result<Vec<String>> {
    let found = cgroups::find(&format!("{}_", host.name()))?;
    Ok(found
        .iter()
        .map(|path| path.display().to_string())
        .collect())
}

/// The host's processes, with their ids.
pub fn processes(host: &Host) -> Result<Vec<String>> {
    // The shell and ps themselves are gone when the list is read.
    let all = lines(host, "exec ps -e -o pid=,ppid=,args=")?;
    Ok(all
        .iter()
        .filter(|line| !line.contains("ps -e -o pid="))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect())
}

/// Files under these directories of the host.
pub fn files(host: &Host, directories: &str) -> Result<Vec<String>> {
    lines(
        host,
        &format!("for d in {directories}; do if [ -d $d ]; then find $d -xdev; fi; done"),
    )
}

/// What the machine itself still has of a host that has ended.
pub fn traces_of(host: &str) -> Result<Vec<String>> {
    let mut traces = Vec::new();
    let cgroups = cgroups::find(&format!("{host}_"))?;
    traces.extend(
        cgroups
            .iter()
            .map(|path| format!("cgroup {}", path.display())),
    );
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let ours = mounts.lines().filter(|mount| mount.contains(host));
    traces.extend(ours.map(|mount| format!("mount {mount}")));
    let directory = std::env::temp_dir().join(host);
    if directory.exists() {
        traces.push(format!("directory {}", directory.display()));
    }
    for process in fs::read_dir("/proc")?.flatten() {
        let Ok(arguments) = fs::read(process.path().join("cmdline")) else {
            continue;
        };
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        let environment = fs::read(process.path().join("environ")).unwrap_or_default();
        if arguments.contains(host) || String::from_utf8_lossy(&environment).contains(host) {
            let pid = process.file_name().to_string_lossy().into_owned();
            traces.push(format!("process {pid} {arguments}"));
        }
    }
    Ok(traces)
}
