//! A real manager, on a host of its own: what it writes is known by the address from which it comes,
//! and it can be cut off from one side alone.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent::PATIENCE;
use crate::{Host, program};

/// Where agents ask a manager.
pub const AGENTS: u16 = 6992;
/// Where operators ask it.
pub const ADMIN: u16 = 6993;
/// The file in its host's directory in which the agents' token is.
const TOKEN_FILE: &str = "token";

/// Runs a manager in a host's network namespace, until it or the calling thread ends. `around` is a
/// command that runs it, such as `env`; nothing runs it directly.
pub fn spawn(host: &Host, config: &Path, log: &Path, around: &[&str]) -> Result<Child> {
    let log = fs::File::options().create(true).append(true).open(log)?;
    Command::new("nsenter")
        .arg(format!("--net={}", host.namespace().display()))
        .args(["--", "setpriv", "--pdeathsig", "KILL", "--"])
        .args(around)
        .arg(program("contrail-mesos-manager")?)
        .arg("--config")
        .arg(config)
        .args(["--log-format", "json"])
        .env("RUST_LOG", "info")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot run the manager")
}

/// An answer of a manager.
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub text: String,
    /// Its headers, in lower case.
    pub headers: BTreeMap<String, String>,
}

impl Answer {
    /// Asks from a host.
    pub fn to(ask: reqwest::RequestBuilder, host: &Host) -> Result<Self> {
        let ask = ask.timeout(PATIENCE);
        host.block_on(async {
            let answer = ask.send().await?;
            let headers = answer.headers().iter();
            let headers = headers.filter_map(|(name, value)| {
                Some((name.to_string(), value.to_str().ok()?.to_owned()))
            });
            Ok(Self {
                status: answer.status().as_u16(),
                headers: headers.collect(),
                text: answer.text().await?,
            })
        })
    }
}

/// A manager. It ends with the value, or with the thread that started it.
pub struct Manager {
    host: Host,
    name: &'static str,
    child: Option<Child>,
}

impl Manager {
    /// A manager that does not run yet: the token that agents share with it, and what its
    /// configuration says beyond addresses, token and the default project.
    pub fn new(host: Host, name: &'static str, token: &str, config: &str) -> Result<Self> {
        let own = host.address();
        let file = host.directory().join(TOKEN_FILE);
        fs::write(&file, token)?;
        let text = format!(
            "listen = '{own}:{AGENTS}'\nadmin_listen = '{own}:{ADMIN}'\ntoken_file = '{}'\n\
             domain = 'default-domain'\nproject = 'default-project'\n{config}",
            file.display()
        );
        fs::write(host.directory().join("manager.toml"), text)?;
        Ok(Self {
            host,
            name,
            child: None,
        })
    }

    /// Its host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// What it is called in what a run prints.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Where its log is: a JSON object a line.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.host.directory().join("manager.log")
    }

    /// Whether it has been started and not ended since.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// Starts it, unless it runs.
    pub fn run(&mut self) -> Result<()> {
        if self.runs() {
            return Ok(());
        }
        let config = self.host.directory().join("manager.toml");
        let child = spawn(&self.host, &config, &self.log(), &[])?;
        self.child = Some(child);
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the manager does not run")?;
        kill(Pid::from_raw(child.id().try_into()?), signal)?;
        Ok(())
    }

    /// Kills it, if it runs.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Whether it ended by itself, which it never may.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok()?
    }

    /// A page of its admin listener.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        let admin = SocketAddr::new(self.host.address(), ADMIN);
        format!("http://{admin}{path}")
    }

    /// What it says there, asked from its own host: nothing is cut off there.
    pub fn get(&self, path: &str) -> Result<String> {
        let url = self.url(path);
        self.host.block_on(async {
            let client = reqwest::Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(2));
            Ok(client.build()?.get(url).send().await?.text().await?)
        })
    }

    /// Whether it says that it leads, and takes on requests.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.runs() && self.get("/ready").is_ok_and(|said| said == "leading\n")
    }

    /// The terms in which it has led, and since when, by its log.
    pub fn terms(&self) -> Result<BTreeMap<u64, SystemTime>> {
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
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            log::error!("cannot end the manager {}: {error:#}", self.name);
        }
    }
}

/// What the configuration of an agent says of the managers, and of its vRouter agent.
pub fn agent_config(
    node: &Host,
    managers: &[std::net::IpAddr],
    token: &str,
    vrouter: &crate::contrail::Vrouter,
) -> Result<String> {
    let file = node.directory().join(TOKEN_FILE);
    fs::write(&file, token)?;
    let managers = managers
        .iter()
        .map(|address| SocketAddr::new(*address, AGENTS));
    Ok(vrouter.agent_config(&managers.collect::<Vec<_>>(), &file))
}
