//! A host on which the commands of the documentation run as they are written: they may install programs
//! and write to `/etc` and `/var`, and nothing of it is on the machine.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mesos_module_tests::testbed::{Host, agent, module, program, until};
use serde_json::Value;

use crate::command::{DocumentedCommand, commands, is_as_shown};
use crate::coverage::is_listed;
use crate::page::{Line, Page, root};

/// With this variable, what a page shows is replaced by what the commands print.
const UPDATE: &str = "CONTRAIL_DOCS_UPDATE";

/// How long the page's other commands take to take effect.
const SETTLING_TIME: Duration = Duration::from_secs(3);
/// The programs that `make release` builds.
const PROGRAMS: [&str; 4] = [
    "contrail-mesos",
    "contrail-mesos-cni",
    "contrail-mesos-manager",
    "contrail-mesos-node",
];
/// The beginnings of commands that change nothing. They are repeated until they print what is shown:
/// others of the same page take effect after a moment.
const READERS: [&str; 6] = [
    "contrail-mesos status",
    "contrail-mesos-node --dry-run",
    "curl -sS http",
    "curl --unix-socket",
    "dig ",
    "ip netns exec",
];

/// A host as the documentation expects it.
pub(crate) struct ScratchHost {
    /// The host.
    pub(crate) host: Host,
    name: &'static str,
}

/// The source tree as it is after `make release`, in the host's directory.
fn source_tree(host: &Host) -> Result<PathBuf> {
    let tree = host.directory().join("tree");
    fs::create_dir_all(tree.join("target/release"))?;
    fs::create_dir_all(tree.join("target/module"))?;
    for name in PROGRAMS {
        symlink(program(name)?, tree.join("target/release").join(name))?;
    }
    symlink(module()?, tree.join("target/module/libcontrail_mesos.so"))?;
    for entry in fs::read_dir(root())? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "example")
        {
            fs::copy(&path, tree.join(path.file_name().context("a name")?))?;
        }
    }
    Ok(tree)
}

impl ScratchHost {
    /// Makes a host with an address and a name of its own.
    pub(crate) fn new(host: Host, name: &'static str) -> Result<Self> {
        source_tree(&host)?;
        let scratch = host.directory().join("scratch");
        fs::create_dir_all(&scratch)?;
        let scratch = scratch.display();
        host.sh(&format!(
            "mount -t tmpfs scratch {scratch}
             for part in etc usr var; do
               mkdir {scratch}/$part {scratch}/$part.work
               mount -t overlay overlay -o lowerdir=/$part,upperdir={scratch}/$part,workdir={scratch}/$part.work /$part
             done
             rm -rf /etc/contrail-mesos /var/lib/contrail-mesos /usr/local/bin/contrail-mesos*
             # The machine's may be one that containers do not reach, which is a warning.
             rm -f /etc/resolv.conf
             echo nameserver 10.0.0.53 > /etc/resolv.conf"
        ))?;
        Ok(Self { host, name })
    }

    /// As [`Self::new`], for a new host at this address.
    pub(crate) fn at(address: &str, name: &'static str) -> Result<Self> {
        Self::new(agent::host_at(address.parse()?)?, name)
    }

    /// Runs a command in the source tree, by bash. Its output has both streams.
    pub(crate) fn run(&self, command: &str) -> Result<Output> {
        let tree = self.host.directory().join("tree");
        let script = format!(
            "hostname {}; cd {} || exit; exec timeout 60 bash -c \"$0\" 2>&1",
            self.name,
            tree.display()
        );
        let mut unshare = self.host.command("unshare");
        unshare.args(["--uts", "--", "bash", "-c", &script, command]);
        unshare.output().context("cannot run nsenter")
    }

    /// What a command prints, which must succeed.
    pub(crate) fn prints(&self, command: &str) -> Result<String> {
        let output = self.run(command)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{command}: {}: {text}",
            output.status
        );
        Ok(text)
    }

    /// The containers that `contrail-mesos status` lists, with an address each.
    pub(crate) fn containers(&self) -> Result<Vec<(String, String)>> {
        let status = self.prints("contrail-mesos status -o json")?;
        let status: Value = serde_json::from_str(&status).context(status)?;
        let rows = status["containers"].as_array().context("no containers")?;
        rows.iter()
            .map(|row| {
                ensure!(row["state"] == "attached", "{row}");
                let address = row["networks"][0]["addresses"][0]
                    .as_str()
                    .context("no address")?;
                let address = address.split('/').next().unwrap_or_default();
                let id = row["container"].as_str().context("no id")?;
                Ok((id.to_owned(), address.to_owned()))
            })
            .collect()
    }
}

/// The flags of an agent in the code block below a heading, as variables of its environment.
pub(crate) fn agent_flags(page: &str, section: &str) -> Result<BTreeMap<String, String>> {
    let page = Page::read(page)?;
    let mut heading = "";
    let mut flags = BTreeMap::new();
    for (_, line) in page.lines() {
        match line {
            Line::Heading(text) => heading = text,
            Line::Code(text) if heading == section => {
                let flag = text
                    .strip_prefix("--")
                    .and_then(|flag| flag.split_once('='));
                if let Some((name, value)) = flag {
                    let name = name.to_uppercase().replace('-', "_");
                    flags.insert(format!("MESOS_{name}"), value.to_owned());
                }
            }
            _ => {}
        }
    }
    ensure!(flags.len() > 3, "{section}: {flags:?}");
    Ok(flags)
}

/// A page whose commands are run, section by section.
pub(crate) struct Walk {
    page: String,
    commands: Vec<DocumentedCommand>,
    /// The lines of those that were run.
    run: RefCell<BTreeSet<usize>>,
}

impl Walk {
    /// The commands of a page.
    pub(crate) fn of(page: &str) -> Result<Self> {
        Ok(Self {
            page: page.to_owned(),
            commands: commands(&Page::read(page)?)?,
            run: RefCell::default(),
        })
    }

    /// Runs all commands of a section, each of which must succeed and print what the page shows, if it
    /// shows output.
    pub(crate) fn section(&self, host: &ScratchHost, section: &str) -> Result<()> {
        self.section_with(host, section, &|name| bail!("what is {name}?"))
    }

    /// As [`Self::section`], with values in place of placeholders.
    pub(crate) fn section_with(
        &self,
        host: &ScratchHost,
        section: &str,
        value: &dyn Fn(&str) -> Result<String>,
    ) -> Result<()> {
        for command in self.commands(section)? {
            self.run.borrow_mut().insert(command.line);
            step(host, command, value)?;
        }
        Ok(())
    }

    /// Runs some commands of a section.
    pub(crate) fn part(&self, host: &ScratchHost, section: &str, part: Range<usize>) -> Result<()> {
        let commands = self.commands(section)?;
        for command in commands.get(part).context(section.to_owned())? {
            self.run.borrow_mut().insert(command.line);
            step(host, command, &|name| bail!("what is {name}?"))?;
        }
        Ok(())
    }

    /// Fails unless every command of these sections was run.
    pub(crate) fn finish(&self, sections: &[&str]) -> Result<()> {
        for section in sections {
            for command in self.commands(section)? {
                let is_run = self.run.borrow().contains(&command.line);
                ensure!(is_run, "{} was not run", command.place());
            }
        }
        Ok(())
    }

    fn commands(&self, section: &str) -> Result<Vec<&DocumentedCommand>> {
        let commands = self.commands.iter().filter(|one| one.section == section);
        let commands: Vec<&DocumentedCommand> =
            commands.filter(|one| is_listed(one).is_none()).collect();
        ensure!(
            !commands.is_empty(),
            "{} has no commands below {section:?}",
            self.page
        );
        Ok(commands)
    }
}

fn step(
    host: &ScratchHost,
    command: &DocumentedCommand,
    value: &dyn Fn(&str) -> Result<String>,
) -> Result<()> {
    let text = command.with(value)?;
    let attempt = || -> Result<String> {
        let printed = host.prints(&text)?;
        let is_right = command.output.is_empty()
            || is_as_shown(command, &printed)
            || std::env::var_os(UPDATE).is_some();
        ensure!(
            is_right,
            "it does not print what is shown, but (with {UPDATE}=1 the page is corrected):\n{printed}"
        );
        Ok(printed)
    };
    let is_reader = READERS.iter().any(|reader| text.starts_with(reader));
    if is_reader && std::env::var_os(UPDATE).is_some() {
        // What comes first may still change.
        std::thread::sleep(SETTLING_TIME);
    }
    let printed = if is_reader {
        until("a command prints what is shown", || attempt().map(Some))
    } else {
        attempt()
    };
    let printed = printed.with_context(|| command.place())?;
    let is_drifted = !command.output.is_empty() && !is_as_shown(command, &printed);
    if is_drifted {
        update(command, &printed)?;
    }
    Ok(())
}

/// Replaces what a page shows. Other tests may have changed the page meanwhile.
fn update(command: &DocumentedCommand, printed: &str) -> Result<()> {
    let path = root().join(&command.page);
    let text = fs::read_to_string(&path)?;
    let mut lines: Vec<String> = text.lines().map(ToOwned::to_owned).collect();
    let now = commands(&Page::of(&command.page, &text))?;
    let is_it =
        |now: &&DocumentedCommand| now.section == command.section && now.ordinal == command.ordinal;
    let now = now.iter().find(is_it);
    let now = now.with_context(|| command.place())?;
    let first = now.line + command.text.lines().count() - 1;
    let indent: String = lines[now.line - 1]
        .chars()
        .take_while(|one| *one == ' ')
        .collect();
    let printed = printed.lines().map(|line| format!("{indent}{line}"));
    let printed = printed.map(|line| line.trim_end().to_owned());
    lines.splice(first..first + now.output.len(), printed);
    fs::write(&path, lines.join("\n") + "\n")?;
    Ok(())
}
