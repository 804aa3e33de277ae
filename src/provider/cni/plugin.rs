//! Runs a plugin: the only place of the agent that starts a process.
//!
//! - A plugin is started by its absolute path, without a shell and without arguments. Its
//!   environment has CNI's variables and a `PATH`, and nothing of the agent's.
//! - The caller's thread waits for the child by its process id, so it must be a thread of its own.
//!   On kernels without pidfds tokio needs a SIGCHLD handler, but the agent's signals belong to
//!   libprocess. libprocess waits only for the process ids that it knows, so neither reaps the
//!   other's children.
//! - At the deadline the child is killed with all that it has started, see [`super::processes`].
//! - The child's standard input is a file that stays locked as long as the child lives, even if
//!   another agent process started it: see [`mod@super::chain`].

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::processes::PluginProcesses;

/// The longest result that is read; real ones are much shorter.
const MAX_RESULT_BYTES: usize = 1 << 20;
/// How much of a plugin's standard error is kept.
const MAX_STDERR_BYTES: usize = 64 << 10;
/// How many characters of a plugin's output a message quotes.
const MAX_QUOTE_CHARS: usize = 1000;
/// How often it is checked whether the child has ended.
const CHILD_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The operation of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Add,
    Del,
    Version,
}

impl Command {
    fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Version => "VERSION",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The values of CNI's environment variables.
pub(super) struct Parameters<'a> {
    pub(super) command: Command,
    pub(super) container: &'a str,
    /// Empty if the namespace is gone or unknown.
    pub(super) namespace: &'a Path,
    pub(super) interface: &'a str,
    /// `CNI_ARGS`; empty for none.
    pub(super) arguments: &'a str,
    /// The directories of the plugins, separated by colons.
    pub(super) plugin_path: &'a OsString,
    pub(super) path: &'a OsString,
}

impl Parameters<'_> {
    fn variables(&self) -> Vec<(&'static str, &OsStr)> {
        [
            ("CNI_COMMAND", OsStr::new(self.command.name())),
            ("CNI_CONTAINERID", OsStr::new(self.container)),
            ("CNI_IFNAME", OsStr::new(self.interface)),
            ("CNI_NETNS", self.namespace.as_os_str()),
            ("CNI_ARGS", OsStr::new(self.arguments)),
            ("CNI_PATH", self.plugin_path),
            ("PATH", self.path),
        ]
        .into_iter()
        // A plugin may distinguish an empty variable from none.
        .filter(|(_, value)| !value.is_empty())
        .collect()
    }
}

/// Why a plugin failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PluginError {
    #[error("it cannot be started: {0}")]
    NotStarted(#[source] io::Error),
    #[error("it was killed because it had not ended after {0:.1?}{suffix}", suffix = stderr_suffix(.1))]
    Timeout(Duration, String),
    #[error("it was killed because it printed more than {MAX_RESULT_BYTES} bytes")]
    ResultTooLarge,
    #[error("cannot wait for it: {0}")]
    Wait(#[source] io::Error),
    #[error("it was ended by signal {0}{suffix}", suffix = stderr_suffix(.1))]
    Signal(i32, String),
    #[error("{0}")]
    Failed(PluginFailure),
}

/// A plugin's own report of its failure.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PluginFailure {
    code: Option<i32>,
    message: String,
}

impl fmt::Display for PluginFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.message.as_str() {
            "" => formatter.write_str("it failed without a message")?,
            message => formatter.write_str(message)?,
        }
        match self.code {
            Some(code) => write!(formatter, " (code {code})"),
            None => Ok(()),
        }
    }
}

fn stderr_suffix(stderr: &str) -> String {
    if stderr.is_empty() {
        String::new()
    } else {
        format!("; it printed: {stderr}")
    }
}

/// A plugin's output for a message: one line of limited length.
pub(super) fn quote(output: &[u8]) -> String {
    let line: String = String::from_utf8_lossy(output)
        .trim()
        .chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .collect();
    match line.char_indices().nth(MAX_QUOTE_CHARS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// CNI's error result.
#[derive(Deserialize)]
struct ErrorResult {
    code: i32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

fn failure(stdout: &[u8], stderr: &[u8]) -> PluginFailure {
    match serde_json::from_slice::<ErrorResult>(stdout) {
        Ok(error) => {
            let message = match error.details.as_str() {
                "" => error.msg,
                details => format!("{}; {details}", error.msg),
            };
            PluginFailure {
                code: Some(error.code),
                message: quote(message.as_bytes()),
            }
        }
        Err(_) => PluginFailure {
            code: None,
            message: format!("{} {}", quote(stdout), quote(stderr))
                .trim()
                .to_owned(),
        },
    }
}

/// Writes a configuration as the next plugin's standard input.
pub(super) fn write_input(mut input: &File, config: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_vec(config)?;
    input.set_len(0)?;
    input.rewind()?;
    input.write_all(&json)?;
    input.rewind()
}

/// Runs the plugin at `program` to its end, and returns its standard output. Blocks, at most until
/// `deadline`.
pub(super) fn run(
    program: &Path,
    parameters: &Parameters<'_>,
    input: File,
    deadline: Instant,
) -> Result<Vec<u8>, PluginError> {
    let started = Instant::now();
    let variables = parameters.variables();
    #[expect(
        clippy::disallowed_methods,
        reason = "CNI plugins are programs; libprocess does not reap them"
    )]
    let mut command = std::process::Command::new(program);
    command
        .env_clear()
        .envs(variables.iter().copied())
        .stdin(Stdio::from(input))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let child = command.spawn().map_err(PluginError::NotStarted)?;
    // The child has the input; the copy in the command would keep the lock.
    drop(command);
    let pipes = [
        child.stdout.as_ref().map(AsFd::as_fd),
        child.stderr.as_ref().map(AsFd::as_fd),
    ];
    let cni_variables: Vec<_> = variables
        .into_iter()
        // A script may have changed its PATH.
        .filter(|(name, _)| name.starts_with("CNI_"))
        .collect();
    let processes = PluginProcesses::of(child.id(), &cni_variables, pipes.into_iter().flatten());
    let mut running = RunningPlugin {
        child,
        processes,
        status: None,
    };
    let mut stdout = OutputCapture::new(running.child.stdout.take());
    let mut stderr = OutputCapture::new(running.child.stderr.take());
    loop {
        if Instant::now() >= deadline {
            running.kill();
            return Err(PluginError::Timeout(
                started.elapsed(),
                quote(&stderr.bytes),
            ));
        }
        // Before the reads, so that they get all that the child wrote before its end.
        let status = running.try_wait().map_err(PluginError::Wait)?;
        wait_for_output(&stdout, &stderr, deadline, status.is_some());
        let mut has_read = stdout.read();
        has_read |= stderr.read();
        if stdout.bytes.len() > MAX_RESULT_BYTES {
            running.kill();
            return Err(PluginError::ResultTooLarge);
        }
        stderr.bytes.truncate(MAX_STDERR_BYTES);
        // Does not wait until the pipes are closed: a daemon that the child started may keep them.
        if let Some(status) = status
            && !has_read
        {
            log_stderr(program, parameters, &stderr.bytes);
            return into_result(status, stdout.bytes, &stderr.bytes);
        }
    }
}

fn log_stderr(program: &Path, parameters: &Parameters<'_>, stderr: &[u8]) {
    for line in stderr.split(|byte| *byte == b'\n') {
        let line = quote(line);
        if !line.is_empty() {
            log::warn!(
                container = parameters.container;
                "{} {}: {line}", program.display(), parameters.command
            );
        }
    }
}

fn into_result(status: ExitStatus, stdout: Vec<u8>, stderr: &[u8]) -> Result<Vec<u8>, PluginError> {
    if status.success() {
        return Ok(stdout);
    }
    Err(match status.signal() {
        Some(signal) => PluginError::Signal(signal, quote(stderr)),
        None => PluginError::Failed(failure(&stdout, stderr)),
    })
}

/// A child process that is killed when this is dropped.
struct RunningPlugin {
    child: Child,
    processes: Option<PluginProcesses>,
    status: Option<ExitStatus>,
}

impl RunningPlugin {
    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// Kills the child and everything that it started.
    fn kill(&mut self) {
        if self.status.is_some() {
            return;
        }
        let found = self.processes.as_ref().map(PluginProcesses::find);
        if let Ok(id) = i32::try_from(self.child.id()) {
            // The id cannot be reused before the child was waited for. The child may have ended.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
        let _ = self.child.kill();
        self.status = self.child.wait().ok();
        let left = match (&self.processes, found) {
            (Some(processes), Some(found)) => processes.kill(found),
            _ => vec![],
        };
        if !left.is_empty() {
            log::warn!(
                "processes of a CNI plugin that was killed do not end: {}",
                left.join(", ")
            );
        }
    }
}

impl Drop for RunningPlugin {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The output that was read from a pipe.
struct OutputCapture<R> {
    pipe: Option<R>,
    bytes: Vec<u8>,
}

impl<R: Read + AsFd> OutputCapture<R> {
    fn new(pipe: Option<R>) -> Self {
        Self {
            pipe,
            bytes: vec![],
        }
    }

    /// Reads once if that does not block; returns whether it has read, which includes the end.
    fn read(&mut self) -> bool {
        let Some(pipe) = &mut self.pipe else {
            return false;
        };
        let mut ready = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        if !matches!(poll(&mut ready, PollTimeout::ZERO), Ok(1)) {
            return false;
        }
        let mut buffer = [0; 16 << 10];
        match pipe.read(&mut buffer) {
            Ok(0) | Err(_) => self.pipe = None,
            Ok(count) => self.bytes.extend_from_slice(&buffer[..count]),
        }
        true
    }
}

/// Waits for output, but no longer than until the child must be checked again.
fn wait_for_output<A: AsFd, B: AsFd>(
    stdout: &OutputCapture<A>,
    stderr: &OutputCapture<B>,
    deadline: Instant,
    has_ended: bool,
) {
    let mut pipes: Vec<PollFd<'_>> = stdout
        .pipe
        .iter()
        .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN))
        .chain(
            stderr
                .pipe
                .iter()
                .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)),
        )
        .collect();
    let interval = match (has_ended, pipes.is_empty()) {
        (true, _) => Duration::ZERO,
        // The child has closed its pipes, so it is about to end.
        (false, true) => Duration::from_millis(1),
        (false, false) => CHILD_POLL_INTERVAL,
    };
    let time = interval.min(deadline.saturating_duration_since(Instant::now()));
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
    // The reads that follow detect any error.
    let _ = poll(&mut pipes, timeout);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_quotes_the_error_result_of_the_plugin() {
        let reported = failure(
            br#"{"cniVersion":"1.0.0","code":11,"msg":"try again","details":"busy"}"#,
            b"noise",
        );
        assert_eq!(reported.to_string(), "try again; busy (code 11)");
        assert_eq!(failure(b"out", b"err\n").to_string(), "out err");
        assert_eq!(failure(b"", b"").to_string(), "it failed without a message");
    }

    #[test]
    fn quote_is_one_line_of_limited_length() {
        assert_eq!(quote(b" a\nb\x1b[31m\xff "), "a b [31m\u{fffd}");
        assert_eq!(
            quote(&vec![b'x'; 5000]).chars().count(),
            MAX_QUOTE_CHARS + 1
        );
    }
}
