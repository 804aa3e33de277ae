//! Every command of the documentation is run by a test, or is listed here with the reason why it is not.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::command::{DocumentedCommand, commands};
use crate::page::Page;
use crate::{operations, quick_start};

/// The sections whose commands the tests of this program run: each test ends with `Walk::finish` of its
/// sections.
fn run_sections() -> Vec<(&'static str, &'static str)> {
    let quick_start = quick_start::ONE_HOST.iter().chain(&quick_start::TWO_HOSTS);
    let quick_start = quick_start.map(|section| (quick_start::PAGE, *section));
    quick_start.chain(operations::SECTIONS).collect()
}

const BUILDS: &str = "takes minutes; the targets of the Makefile are run by those who change them";
const DEVELOPS: &str = "is for developers, who have a Rust toolchain and the tree";
const ENDLESS: &str = "runs until it is interrupted";
const NEEDS_DCOS: &str = "needs a cluster of DC/OS";
const IN_PACKAGES: &str = "mesos-module-tests/tests/packages installs, starts, upgrades and removes the packages, and runs the \
                          image of the manager";
const IN_STATUS: &str = "mesos-module-tests/tests/status.rs runs it on an agent, where the containers have these addresses";
const IN_OVERLAYS: &str = "needs several nodes; mesos-module-tests/tests/overlay runs it on three";

/// Commands that are not run: the page, how the command begins, and why. A `$` at the end means the whole
/// command; `## ` and a heading all commands below it.
const NOT_RUN: &[(&str, &str, &str)] = &[
    ("README.md", "make demo", BUILDS),
    ("docs/quick-start.md", "make release", BUILDS),
    ("docs/install.md", "make release", BUILDS),
    ("docs/install.md", "docker build", BUILDS),
    ("docs/development.md", "", DEVELOPS),
    ("docs/migration-from-dcos.md", "", NEEDS_DCOS),
    ("docs/install.md", "contrail-mesos-manager$", ENDLESS),
    (
        "docs/install.md",
        "curl ",
        "drains an agent of a cluster by the API of Mesos; nothing of ours takes part",
    ),
    (
        "docs/api.md",
        "",
        "the tests of the managers' and of the node daemon's listeners send these requests",
    ),
    (
        "docs/command-line.md",
        "",
        "mesos-module-tests/tests/programs.rs runs the same commands with other files",
    ),
    ("docs/install.md", "## Install by packages", IN_PACKAGES),
    ("docs/install.md", "## Packages on an agent", IN_PACKAGES),
    (
        "docs/install.md",
        "## Packages beside a master",
        IN_PACKAGES,
    ),
    ("docs/install.md", "## Without systemd", IN_PACKAGES),
    (
        "docs/install.md",
        "## The manager as a container",
        IN_PACKAGES,
    ),
    ("docs/install.md", "## Make packages", BUILDS),
    (
        "docs/operations.md",
        "## Test connectivity",
        "the root tests of the library's module connectivity run it, with each of these faults",
    ),
    (
        "docs/operations.md",
        "## Trace a connection",
        "the root tests of the library's module trace run it, with each of these faults",
    ),
    ("docs/operations.md", "## Networks and addresses", IN_STATUS),
    ("docs/operations.md", "## Nodes of overlays", IN_OVERLAYS),
    (
        "docs/operations.md",
        "## Report a problem",
        "mesos-module-tests/tests/check_and_dump.rs runs it, and looks for secrets in the archive",
    ),
    (
        "docs/runbooks.md",
        "",
        "is for a fault that is there; mesos-module-tests/tests/observability brings the faults about",
    ),
    (
        "docs/roll-out.md",
        "ansible-playbook",
        "needs hosts; the playbook's syntax is checked",
    ),
    (
        "docs/operations.md",
        "ip netns exec <container id> tcpdump",
        ENDLESS,
    ),
    (
        "docs/operations.md",
        "contrail-mesos doctor --library",
        "names the program of an installed Mesos; mesos-module-tests/tests/command_line.rs runs it with the real Mesos",
    ),
];

/// The entry of a command that is not run.
pub(crate) fn is_listed(command: &DocumentedCommand) -> Option<usize> {
    NOT_RUN.iter().position(|(page, text, _)| {
        let is_it = if let Some(section) = text.strip_prefix("## ") {
            command.section == section
        } else if let Some(text) = text.strip_suffix('$') {
            command.text == text
        } else {
            command.text.starts_with(text)
        };
        *page == command.page && is_it
    })
}

#[test]
fn every_command_is_run_or_listed_with_a_reason() -> Result<()> {
    let run = run_sections();
    let mut used_sections = BTreeSet::new();
    let mut used_reasons = BTreeSet::new();
    let mut problems = vec![];
    for page in Page::all()? {
        for command in commands(&page)? {
            let section = (page.name.as_str(), command.section.as_str());
            let is_run = run.iter().position(|known| *known == section);
            let is_listed = is_listed(&command);
            used_sections.extend(is_run);
            used_reasons.extend(is_listed);
            if is_run.is_none() && is_listed.is_none() {
                problems.push(format!(
                    "{} (below {:?}) is not run: add its section to a test of this program, or \
                     list it in NOT_RUN with the reason",
                    command.place(),
                    command.section
                ));
            }
        }
    }
    for (index, section) in run.iter().enumerate() {
        if !used_sections.contains(&index) {
            problems.push(format!("{section:?} has no commands"));
        }
    }
    for (index, reason) in NOT_RUN.iter().enumerate() {
        if !used_reasons.contains(&index) {
            problems.push(format!("{reason:?} is about no command"));
        }
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}
