//! Applies a plan to the kernel, with the commands that an operator would use.
//!
//! Invariant: everything recorded as applied exists in the kernel, unless its link was deleted
//! meanwhile, which the next run detects. Nothing without a name of ours changes, except registered
//! taps.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::IpAddr;
use std::process::Stdio;

use super::error::DataPathError;
use super::items::{Item, UPLINK_LABEL, items};
use super::plan::{Plan, is_ours};
use super::rules;
use crate::vrouter::options::Forwarding;
use contrail_mesos::net::links::{self, Link};
use contrail_mesos::net::netlink::NetlinkSocket;
use contrail_mesos::net::sysctl;

/// The kernel, as far as this agent changed it.
pub(super) struct Kernel {
    socket: NetlinkSocket,
    forwarding: Forwarding,
    applied: BTreeSet<Item>,
    rules: String,
}

impl Kernel {
    /// The netlink socket of this thread's namespace.
    pub(super) fn open(forwarding: Forwarding) -> Result<Self, DataPathError> {
        Ok(Self {
            socket: NetlinkSocket::route()?,
            forwarding,
            applied: BTreeSet::new(),
            rules: String::new(),
        })
    }

    pub(super) fn link_names(&mut self) -> Result<BTreeSet<String>, DataPathError> {
        let links = links::all(&mut self.socket)?.into_iter();
        Ok(links.map(|link| link.name).collect())
    }

    /// Removes everything that has a name of ours, even if another process created it.
    pub(super) fn remove_everything(&mut self) -> Result<(), DataPathError> {
        // Bridges first: they release the taps, and no packet passes without the rules.
        let ours = self.link_names()?.into_iter().filter(|name| is_ours(name));
        let mut lines: Vec<_> = ours.map(|name| format!("link delete dev {name}")).collect();
        if let Some(uplink) = &self.forwarding.uplink {
            // IPv6 addresses have no labels, so they are only known to the process that added them.
            lines.push(format!(
                "address flush dev {uplink} label {uplink}:{UPLINK_LABEL}"
            ));
            let v6 = self
                .applied
                .iter()
                .filter(|item| matches!(item, Item::Floating(_, IpAddr::V6(_))))
                .map(Item::remove_command);
            lines.extend(v6);
        }
        let problems = batch("ip", &lines)?;
        self.applied.clear();
        self.rules.clear();
        run("nft", &["-f", "-"], &rules::none())?;
        match problems.into_values().next() {
            Some(problem) => Err(DataPathError::Command {
                program: "ip",
                problem,
            }),
            None => Ok(()),
        }
    }

    /// Applies the plan. Returns the connected taps, and the problems; the next run tries those
    /// again.
    pub(super) fn apply(
        &mut self,
        plan: &Plan,
        own: IpAddr,
    ) -> Result<(BTreeSet<String>, BTreeSet<String>), DataPathError> {
        let uplink = self.forwarding.uplink.clone();
        let desired = items(plan, uplink.as_deref());
        let links = links::all(&mut self.socket)?;
        let links: BTreeMap<_, _> = links
            .iter()
            .map(|link| (link.name.as_str(), link))
            .collect();
        self.applied.retain(|item| exists(item, &links));
        let mut problems = BTreeSet::new();

        let mut old: Vec<_> = self.applied.difference(&desired).cloned().collect();
        old.reverse();
        for (item, problem) in change(&old, |item| vec![item.remove_command()])? {
            // Items on a deleted link are gone with it.
            log::debug!("{item:?}: {problem}");
        }
        self.applied.retain(|item| desired.contains(item));

        let rules = rules::rules(plan, &self.forwarding, own);
        if rules != self.rules {
            run("nft", &["-f", "-"], &rules)?;
            self.rules = rules;
        }

        let mut new: Vec<_> = desired.difference(&self.applied).cloned().collect();
        new.retain(|item| {
            let is_tap = matches!(item, Item::Port(..));
            let tap = links.get(item.link());
            match tap {
                None if is_tap => {
                    problems.insert(format!("{}: there is no such interface", item.link()))
                }
                Some(tap) if is_tap && tap.kind.as_deref() != Some("veth") => {
                    problems.insert(format!(
                        "{}: it is not a veth interface, so it is not connected",
                        item.link()
                    ))
                }
                _ => return true,
            };
            false
        });
        let failed = change(&new, |item| item.add_commands(own))?;
        let bad: BTreeSet<_> = failed.iter().map(|(item, _)| item.clone()).collect();
        problems.extend(failed.into_iter().map(|(item, problem)| {
            let commands = item.add_commands(own).join("; ");
            format!("{commands}: {problem}")
        }));
        self.applied
            .extend(new.iter().filter(|item| !bad.contains(item)).cloned());
        for item in new.iter().filter(|item| item.is_link()) {
            enable_forwarding(item.link(), &mut problems);
        }
        if let Some(uplink) = uplink.filter(|_| !desired.is_empty()) {
            enable_forwarding(&uplink, &mut problems);
        }
        let connected = self.applied.iter().filter_map(|item| match item {
            Item::Port(tap, _) => Some(tap.clone()),
            _ => None,
        });
        Ok((connected.collect(), problems))
    }
}

/// Forwards packets from this interface, whatever the host's default is.
fn enable_forwarding(interface: &str, problems: &mut BTreeSet<String>) {
    for name in [
        format!("net/ipv4/conf/{interface}/forwarding"),
        format!("net/ipv6/conf/{interface}/force_forwarding"),
    ] {
        if let Err(error) = sysctl::set_if_present(&name, "1") {
            problems.insert(error.to_string());
        }
    }
}

fn exists(item: &Item, links: &BTreeMap<&str, &Link>) -> bool {
    let Some(link) = links.get(item.link()) else {
        return false;
    };
    let has_port = |bridge: &String| {
        let bridge = links.get(bridge.as_str());
        bridge.is_some_and(|bridge| link.controller == Some(bridge.index))
    };
    match item {
        Item::Port(_, bridge) | Item::Vxlan { bridge, .. } => has_port(bridge),
        _ => true,
    }
}

/// Runs the commands of all items in order, and returns those that failed.
fn change(
    items: &[Item],
    commands: impl Fn(&Item) -> Vec<String>,
) -> Result<Vec<(Item, String)>, DataPathError> {
    let mut failed = Vec::new();
    // Forwarding entries are last when they are added, and first when they are removed.
    let mut groups: Vec<(bool, Vec<&Item>)> = Vec::new();
    for item in items {
        match groups.last_mut() {
            Some((fdb, group)) if *fdb == item.is_fdb() => group.push(item),
            _ => groups.push((item.is_fdb(), vec![item])),
        }
    }
    for (fdb, group) in groups {
        let mut lines = Vec::new();
        let mut owners = Vec::new();
        for item in group {
            for line in commands(item) {
                lines.push(line);
                owners.push(item);
            }
        }
        let problems = batch(if fdb { "bridge" } else { "ip" }, &lines)?;
        for (line, problem) in problems {
            if let Some(item) = owners.get(line) {
                failed.push(((*item).clone(), problem));
            }
        }
    }
    Ok(failed)
}

/// Runs lines, and returns the errors by line.
fn batch(
    program: &'static str,
    lines: &[String],
) -> Result<BTreeMap<usize, String>, DataPathError> {
    if lines.is_empty() {
        return Ok(BTreeMap::new());
    }
    let input = lines.join("\n") + "\n";
    let output = execute(program, &["-force", "-batch", "-"], &input)?;
    let mut problems = BTreeMap::new();
    let mut problem = String::new();
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        // "RTNETLINK answers: …" precedes "Command failed -:3".
        if let Some(number) = line.strip_prefix("Command failed -:") {
            let number: usize = number.trim().parse().unwrap_or(0);
            let problem = std::mem::take(&mut problem);
            problems.insert(number.saturating_sub(1), problem);
        } else {
            line.clone_into(&mut problem);
        }
    }
    Ok(problems)
}

fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<(), DataPathError> {
    let output = execute(program, arguments, input)?;
    if output.status.success() {
        return Ok(());
    }
    log::debug!("{program} refused:\n{input}");
    Err(DataPathError::Command {
        program,
        problem: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "unlike the Mesos agent, this process may have child processes"
)]
fn execute(
    program: &'static str,
    arguments: &[&str],
    input: &str,
) -> Result<std::process::Output, DataPathError> {
    let fail = |error: std::io::Error| DataPathError::Command {
        program,
        problem: error.to_string(),
    };
    let mut child = std::process::Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(fail)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that exits early reports the reason on stderr.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output().map_err(fail)
}
