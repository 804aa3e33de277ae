//! Runs a program for its output, with limits: a dump is made where something is wrong.

use std::io::{self, Read};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::Contents;
use crate::text::excerpt;

/// How much of the standard error is kept.
const MAX_ERROR_BYTES: usize = 4 << 10;
/// How often it is looked whether the program has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How long the standard error may stay open after the program has ended.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(200);

/// A program that is killed, with what it started, when this is dropped.
struct RunningProgram {
    child: Child,
    status: Option<ExitStatus>,
}

impl RunningProgram {
    fn kill(&mut self) {
        if self.status.is_some() {
            return;
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It has a process group of its own, and its id is not reused before it was waited for.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
        self.status = self.child.wait().ok();
    }
}

impl Drop for RunningProgram {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Runs a program and returns the beginning of its output, at most `max_bytes`. It is killed when it has
/// written more, or at the deadline. Blocks.
pub(super) fn run(
    program: &Path,
    arguments: &[String],
    max_bytes: usize,
    deadline: Instant,
) -> io::Result<Contents> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the command line is no agent: there is no libprocess to reap its children"
    )]
    let mut command = Command::new(program);
    command
        .args(arguments)
        // The outputs of programs are read by people, and in one language.
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut running = RunningProgram {
        child: command.spawn()?,
        status: None,
    };
    let output = capture(running.child.stdout.take(), max_bytes)?;
    let error = capture(running.child.stderr.take(), MAX_ERROR_BYTES)?;
    let left = deadline.saturating_duration_since(Instant::now());
    let Ok((bytes, is_cut)) = output.recv_timeout(left) else {
        running.kill();
        let text = format!("has not ended in time{}", error_text(&error));
        return Err(io::Error::new(io::ErrorKind::TimedOut, text));
    };
    while running.status.is_none() && !is_cut && Instant::now() < deadline {
        running.status = running.child.try_wait()?;
        if running.status.is_none() {
            thread::sleep(POLL_INTERVAL);
        }
    }
    running.kill();
    let problem = match running.status {
        Some(status) if !status.success() && !is_cut => {
            Some(format!("{status}{}", error_text(&error)))
        }
        _ => None,
    };
    Ok(Contents {
        bytes,
        is_cut,
        problem,
    })
}

/// Reads the beginning of a pipe on a thread, and the rest, too, so that the writer does not wait.
fn capture(
    pipe: Option<impl Read + Send + 'static>,
    max_bytes: usize,
) -> io::Result<mpsc::Receiver<(Vec<u8>, bool)>> {
    let (sender, receiver) = mpsc::channel();
    thread::Builder::new()
        .name("dump-output".to_owned())
        .spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut pipe) = pipe {
                let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX);
                // What was read before an error counts.
                let _ = (&mut pipe).take(limit + 1).read_to_end(&mut bytes);
                let is_cut = bytes.len() > max_bytes;
                bytes.truncate(max_bytes);
                let _ = sender.send((bytes, is_cut));
                if is_cut {
                    let _ = io::copy(&mut pipe, &mut io::sink());
                }
            }
        })?;
    Ok(receiver)
}

fn error_text(error: &mpsc::Receiver<(Vec<u8>, bool)>) -> String {
    match error.recv_timeout(DRAIN_TIMEOUT) {
        Ok((bytes, _)) if !bytes.is_empty() => format!(": {}", excerpt(&bytes)),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, max_bytes: usize, timeout: Duration) -> io::Result<Contents> {
        let arguments = ["-c".to_owned(), script.to_owned()];
        run(
            Path::new("/bin/sh"),
            &arguments,
            max_bytes,
            Instant::now() + timeout,
        )
    }

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn output_and_failure_of_a_program_are_kept() {
        let contents = sh("echo out; echo err >&2; exit 3", 100, LONG).unwrap();
        assert_eq!(contents.bytes, b"out\n");
        let problem = contents.problem.unwrap();
        assert!(
            problem.contains('3') && problem.contains("err"),
            "{problem}"
        );
        assert!(run(Path::new("/nonexistent"), &[], 100, Instant::now() + LONG).is_err());
    }

    #[test]
    fn program_that_writes_without_end_is_cut() {
        let contents = sh("while :; do echo y; done", 1000, LONG).unwrap();
        assert_eq!((contents.bytes.len(), contents.is_cut), (1000, true));
        assert_eq!(contents.problem, None);
    }

    #[test]
    fn program_that_hangs_is_killed_with_its_children() {
        let error = sh(
            "sleep 3600 & echo $!; wait",
            1000,
            Duration::from_millis(300),
        );
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // One that leaves a child behind has ended.
        let contents = sh("sleep 2 >/dev/null 2>&1 & echo x", 1000, LONG).unwrap();
        assert_eq!(contents.bytes, b"x\n");
    }
}
