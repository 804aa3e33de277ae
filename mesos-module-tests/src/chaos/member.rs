//! A manager, on a host of its own: so that what it writes is known by the address from which it
//! comes, and it can be cut off from one side alone.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::services::{API, MARATHON, TOKEN};
use crate::Host;
use crate::contrail::binary;

/// Where agents ask a manager.
pub(super) const AGENTS: u16 = 6992;
const ADMIN: u16 = 6993;
/// How long a manager may be silent.
pub(super) const SESSION: Duration = Duration::from_secs(3);

/// A manager.
pub(super) struct Member {
    pub(super) host: Host,
    pub(super) name: &'static str,
    child: Option<Child>,
    /// Whether something has been done to it that has not been undone.
    pub(super) harmed: bool,
}

/// What a manager needs to know.
pub(super) struct Surroundings<'a> {
    pub(super) services: &'a Host,
    /// `zk://…`
    pub(super) zookeeper: &'a str,
    /// The leading Mesos master.
    pub(super) mesos: &'a str,
}

impl Member {
    /// A manager that does not run yet.
    pub(super) fn new(host: Host, name: &'static str, around: &Surroundings<'_>) -> Result<Self> {
        let own = host.address();
        let services = around.services.address();
        let token = host.directory().join("token");
        fs::write(&token, TOKEN)?;
        let servers = MARATHON.map(|port| format!("'http://{services}:{port}'"));
        // Short times, so that a round is short. But an agent always comes back, and ends its
        // containers itself, however slow the machine is and however long it is paused or cut off.
        let text = format!(
            "listen = '{own}:{AGENTS}'\nadmin_listen = '{own}:{ADMIN}'\ntoken_file = '{}'\n\
             domain = 'default-domain'\nproject = 'default-project'\n\
             [zookeeper]\nservers = '{}'\nsession_timeout = '{}s'\n\
             [vnc]\nservers = ['http://{services}:{API}']\nanswer = '3s'\npatience = '8s'\n\
             [provision]\npod_task_subnets = ['10.32.0.0/16']\n\
             [mesos]\nmasters = '{}'\n\
             [marathon]\nservers = [{}]\n\
             [reconcile]\nresync = '2s'\nsettle = '2s'\nyoung = '20s'\n",
            token.display(),
            around.zookeeper,
            SESSION.as_secs(),
            around.mesos,
            servers.join(", "),
        );
        fs::write(host.directory().join("manager.toml"), text)?;
        Ok(Self {
            host,
            name,
            child: None,
            harmed: false,
        })
    }

    /// Where its log is.
    pub(super) fn log(&self) -> PathBuf {
        self.host.directory().join("manager.log")
    }

    /// Whether it has not been ended.
    pub(super) fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Starts it, unless it runs.
    pub(super) fn run(&mut self) -> Result<()> {
        if self.runs() {
            return Ok(());
        }
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log())?;
        let child = Command::new("nsenter")
            .arg(format!("--net={}", self.host.namespace().display()))
            .args(["--", "setpriv", "--pdeathsig", "KILL", "--"])
            .arg(binary("contrail-mesos-manager")?)
            .arg("--config")
            .arg(self.host.directory().join("manager.toml"))
            .args(["--log-format", "json"])
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot run the manager")?;
        self.child = Some(child);
        Ok(())
    }

    /// Sends a signal.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the manager does not run")?;
        kill(Pid::from_raw(child.id().try_into()?), signal)?;
        Ok(())
    }

    /// Kills it.
    pub(super) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Whether it ended by itself, which it never may.
    pub(super) fn has_ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.as_mut()?.try_wait().ok()?
    }

    /// What it says of its readiness, asked from its own host: nothing is cut off there.
    pub(super) fn ready(&self) -> Result<String> {
        let url = format!(
            "http://{}/ready",
            SocketAddr::new(self.host.address(), ADMIN)
        );
        self.host.block_on(async {
            let client = reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(2));
            Ok(client.build()?.get(url).send().await?.text().await?)
        })
    }

    /// The terms in which it has led, and since when, by its log.
    pub(super) fn terms(&self) -> Result<BTreeMap<u64, SystemTime>> {
        let text = fs::read_to_string(self.log())?;
        let mut terms = BTreeMap::new();
        for line in text.lines().filter(|line| line.contains("\"leading\"")) {
            let line: serde_json::Value = serde_json::from_str(line)?;
            if line["message"] != "leading" {
                continue;
            }
            let term = line["term"].as_u64().context("a term without a number")?;
            let time: jiff::Timestamp = line["time"].as_str().unwrap_or_default().parse()?;
            terms.entry(term).or_insert(time.into());
        }
        Ok(terms)
    }

    /// The end of its log.
    pub(super) fn tail(&self, lines: usize) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            log::error!("cannot end the manager {}: {error:#}", self.name);
        }
    }
}
