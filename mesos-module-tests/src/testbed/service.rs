//! A program of the product on a simulated host, with a log of its own.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::Host;

/// A program that runs in the network namespace of a host. The process ends when the value is
/// dropped, or with the thread that started it.
pub struct Service {
    host: Host,
    name: String,
    child: Option<Child>,
}

impl Service {
    /// A service that does not run yet. Its files in the host's directory begin with its name.
    #[must_use]
    pub fn new(host: &Host, name: &str) -> Self {
        Self {
            host: host.clone(),
            name: name.to_owned(),
            child: None,
        }
    }

    /// Its file with this extension.
    #[must_use]
    pub fn path(&self, extension: &str) -> PathBuf {
        self.host
            .directory()
            .join(format!("{}.{extension}", self.name))
    }

    /// Its host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its name in messages and file names.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it was started and not killed since.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Starts this command, unless it runs. The command must not fork.
    pub fn run(&mut self, command: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let child = Command::new("nsenter")
            .arg(format!("--net={}", self.host.namespace().display()))
            .args(["--", "setpriv", "--pdeathsig", "KILL", "--"])
            .args(command)
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {}", self.name))?;
        self.child = Some(child);
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref();
        let child = child.with_context(|| format!("{} does not run", self.name))?;
        kill(Pid::from_raw(child.id().try_into()?), signal)?;
        Ok(())
    }

    /// The id of its process.
    pub fn pid(&self) -> Result<u32> {
        let child = self.child.as_ref();
        let child = child.with_context(|| format!("{} does not run", self.name))?;
        Ok(child.id())
    }

    /// Sends a signal and waits until the process has ended.
    pub fn end(&mut self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }

    /// Kills the process, if it runs.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// How the process ended, if it did so by itself.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok()?
    }

    /// The path of its log: one JSON object a line.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.path("log")
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The lines of its log that are JSON.
    #[must_use]
    pub fn log_lines(&self) -> Vec<Value> {
        self.log()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The end of its log.
    #[must_use]
    pub fn tail(&self, lines: usize) -> String {
        let log = self.log();
        let lines_before = log.lines().count().saturating_sub(lines);
        log.lines()
            .skip(lines_before)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            log::error!("cannot end {}: {error:#}", self.name);
        }
    }
}
