//! Running a plugin: the one place of the agent that starts a process.
//!
//! - By its absolute path, without a shell and without arguments; the environment has what CNI
//!   says and a `PATH`, and nothing of the agent's.
//! - On the caller's thread, which must be one of its own: it waits for the child by its process
//!   id. tokio's way to learn of a child's end is a handler of SIGCHLD where the kernel has no
//!   pidfds, and an agent's signals are not ours to handle. libprocess asks for the process ids
//!   that it knows, so that neither takes the other's children away.
//! - The child has a process group of its own, which is killed as a whole when its time is over.
//! - The child's standard input is a file that stays locked as long as the child lives, whoever
//!   started it: see [`super::chain`].

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;

/// Longer than any result.
const LONGEST_RESULT: usize = 1 << 20;
/// What is kept of what a plugin says on its standard error.
const LONGEST_ERRORS: usize = 64 << 10;
/// How much of a plugin's words goes into a message, in characters.
const LONGEST_QUOTE: usize = 1000;
/// How long to wait at most before looking whether the child has ended.
const GLANCE: Duration = Duration::from_millis(20);

/// What a plugin is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Add,
    Del,
}

impl fmt::Display for Command {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
        })
    }
}

/// The parameters of CNI's environment.
pub(super) struct Parameters<'a> {
    pub(super) command: Command,
    pub(super) container: &'a str,
    /// Empty where the namespace is gone or not known.
    pub(super) namespace: &'a Path,
    pub(super) interface: &'a str,
    /// The directories of the plugins.
    pub(super) plugins: &'a OsString,
    pub(super) path: &'a OsString,
}

/// Why a plugin did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum PluginError {
    #[error("it cannot be started: {0}")]
    NotStarted(#[source] io::Error),
    #[error("it was killed, for it had not ended after {0:.1?}{said}", said = said(.1))]
    Late(Duration, String),
    #[error("it was killed, for it printed more than {LONGEST_RESULT} bytes")]
    TooLong,
    #[error("it cannot be waited for: {0}")]
    Lost(#[source] io::Error),
    #[error("it was ended by signal {0}{said}", said = said(.1))]
    Signalled(i32, String),
    #[error("{0}")]
    Failed(Failure),
}

/// What a plugin said when it failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    code: Option<i32>,
    said: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.said.as_str() {
            "" => formatter.write_str("it failed without a word")?,
            said => formatter.write_str(said)?,
        }
        match self.code {
            Some(code) => write!(formatter, " (code {code})"),
            None => Ok(()),
        }
    }
}

fn said(text: &str) -> String {
    if text.is_empty() {
        String::new()
    } else {
        format!("; it said: {text}")
    }
}

/// Text of a plugin, for a message: one line, and not too long.
pub(super) fn quote(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let line: String = text
        .trim()
        .chars()
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    match line.char_indices().nth(LONGEST_QUOTE) {
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

fn failure(printed: &[u8], errors: &[u8]) -> Failure {
    match serde_json::from_slice::<ErrorResult>(printed) {
        Ok(error) => {
            let said = match error.details.as_str() {
                "" => error.msg,
                details => format!("{}; {details}", error.msg),
            };
            Failure {
                code: Some(error.code),
                said: quote(said.as_bytes()),
            }
        }
        Err(_) => Failure {
            code: None,
            said: format!("{} {}", quote(printed), quote(errors))
                .trim()
                .to_owned(),
        },
    }
}

/// Runs the plugin at `program` until it has ended, and returns what it printed. Blocks, for no
/// longer than until `deadline`.
pub(super) fn run(
    program: &Path,
    parameters: &Parameters<'_>,
    input: File,
    deadline: Instant,
) -> Result<Vec<u8>, PluginError> {
    let started = Instant::now();
    #[expect(
        clippy::disallowed_methods,
        reason = "CNI plugins are programs; the libprocess reaper has no part in it"
    )]
    let mut command = std::process::Command::new(program);
    command
        .env_clear()
        .env("CNI_COMMAND", parameters.command.to_string())
        .env("CNI_CONTAINERID", parameters.container)
        .env("CNI_IFNAME", parameters.interface)
        .env("CNI_PATH", parameters.plugins)
        .env("PATH", parameters.path)
        .stdin(Stdio::from(input))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    if !parameters.namespace.as_os_str().is_empty() {
        command.env("CNI_NETNS", parameters.namespace);
    }
    let child = command.spawn().map_err(PluginError::NotStarted)?;
    // It has the input now; what is ours would keep the lock.
    drop(command);
    let mut running = Running {
        child,
        status: None,
    };
    let mut printed = Capture::new(running.child.stdout.take());
    let mut errors = Capture::new(running.child.stderr.take());
    loop {
        if Instant::now() >= deadline {
            running.kill();
            let said = quote(&errors.bytes);
            return Err(PluginError::Late(started.elapsed(), said));
        }
        let ended = running.try_wait().map_err(PluginError::Lost)?;
        // Looked at before the last read, so that nothing of it is missed.
        let mut progress = false;
        wait(&printed, &errors, deadline, ended.is_some());
        progress |= printed.read();
        progress |= errors.read();
        if printed.bytes.len() > LONGEST_RESULT {
            running.kill();
            return Err(PluginError::TooLong);
        }
        errors.bytes.truncate(LONGEST_ERRORS);
        // Something that it started may hold the pipes open; that is not waited for.
        if let Some(status) = ended
            && !progress
        {
            report(program, parameters, &errors.bytes);
            return outcome(status, printed.bytes, &errors.bytes);
        }
    }
}

fn report(program: &Path, parameters: &Parameters<'_>, errors: &[u8]) {
    for line in errors.split(|byte| *byte == b'\n') {
        let line = quote(line);
        if !line.is_empty() {
            log::warn!(
                container = parameters.container;
                "{} {}: {line}", program.display(), parameters.command
            );
        }
    }
}

fn outcome(status: ExitStatus, printed: Vec<u8>, errors: &[u8]) -> Result<Vec<u8>, PluginError> {
    if status.success() {
        return Ok(printed);
    }
    Err(match status.signal() {
        Some(signal) => PluginError::Signalled(signal, quote(errors)),
        None => PluginError::Failed(failure(&printed, errors)),
    })
}

/// A child that ends with what waits for it.
struct Running {
    child: Child,
    status: Option<ExitStatus>,
}

impl Running {
    fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// Ends it and everything that it started.
    fn kill(&mut self) {
        if let Ok(id) = i32::try_from(self.child.id())
            && self.status.is_none()
        {
            // As long as nobody has waited for it, the id is its own. It may just have ended.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
            let _ = self.child.kill();
            self.status = self.child.wait().ok();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What comes out of a pipe.
struct Capture<R> {
    pipe: Option<R>,
    bytes: Vec<u8>,
}

impl<R: Read + AsFd> Capture<R> {
    fn new(pipe: Option<R>) -> Self {
        Self {
            pipe,
            bytes: vec![],
        }
    }

    /// Reads once if that does not block; whether there was something, the end included.
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

/// Waits until there is something to read, or to look after the child again.
fn wait<A: AsFd, B: AsFd>(one: &Capture<A>, two: &Capture<B>, deadline: Instant, has_ended: bool) {
    let mut pipes: Vec<PollFd<'_>> = one
        .pipe
        .iter()
        .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN))
        .chain(
            two.pipe
                .iter()
                .map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)),
        )
        .collect();
    let longest = match (has_ended, pipes.is_empty()) {
        (true, _) => Duration::ZERO,
        // It has closed its pipes, and so is about to end.
        (false, true) => Duration::from_millis(1),
        (false, false) => GLANCE,
    };
    let time = longest.min(deadline.saturating_duration_since(Instant::now()));
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
    // Whatever it says, reading says it again.
    let _ = poll(&mut pipes, timeout);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_result_is_told_in_its_own_words() {
        let said = failure(
            br#"{"cniVersion":"1.0.0","code":11,"msg":"try again","details":"busy"}"#,
            b"noise",
        );
        assert_eq!(said.to_string(), "try again; busy (code 11)");
        assert_eq!(failure(b"out", b"err\n").to_string(), "out err");
        assert_eq!(failure(b"", b"").to_string(), "it failed without a word");
    }

    #[test]
    fn words_of_a_plugin_stay_on_one_line_and_short() {
        assert_eq!(quote(b" a\nb\x1b[31m\xff "), "a b [31m\u{fffd}");
        assert_eq!(quote(&vec![b'x'; 5000]).chars().count(), LONGEST_QUOTE + 1);
    }
}
