//! The thread that puts the host's side of the containers back when another program changed it.

use std::io::Write as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::host_side::HostSide;
use crate::net::netlink::NetlinkSocket;
use crate::provider::BoxError;

/// How often the settings are compared that have no notification.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// The shortest time between two corrections, so that a program that undoes each of them does not
/// keep this thread busy.
const CORRECTION_INTERVAL: Duration = Duration::from_millis(200);
/// The shortest time until a failed correction is tried again. Each attach tries it, too.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// A running watch. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct HostWatch {
    stop: UnixStream,
}

impl HostWatch {
    /// Starts the thread, in the network namespace of the calling thread.
    pub(super) fn start(host: Arc<HostSide>) -> Result<Self, BoxError> {
        let socket = NetlinkSocket::route()?;
        let descriptors = host.descriptors()?;
        let (stop, stopped) = UnixStream::pair()?;
        std::thread::Builder::new()
            .name("cm-watch".to_owned())
            .spawn(move || run(&host, socket, &descriptors, &stopped))?;
        Ok(Self { stop })
    }
}

impl Drop for HostWatch {
    fn drop(&mut self) {
        // If this fails, the thread ends when the stream is closed.
        let _ = self.stop.write_all(b"x");
    }
}

fn run(
    host: &HostSide,
    mut socket: NetlinkSocket,
    descriptors: &[OwnedFd; 2],
    stopped: &UnixStream,
) {
    let mut next_poll = Instant::now() + POLL_INTERVAL;
    // When corrections may go on, if one is due.
    let mut next_correction = None;
    loop {
        let now = Instant::now();
        let deadline = next_correction.unwrap_or(next_poll);
        let timeout = deadline.saturating_duration_since(now);
        // While a correction is delayed, notifications wait in their sockets.
        let watched: &[OwnedFd] = if next_correction.is_some() {
            &[]
        } else {
            descriptors
        };
        match wait(watched, stopped, timeout) {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                log::error!(
                    "the host's side of containers is no longer watched until the agent restarts: {error}"
                );
                return;
            }
        }
        let now = Instant::now();
        let is_poll = now >= next_poll;
        if is_poll {
            next_poll = now + POLL_INTERVAL;
        }
        if next_correction.is_some_and(|time| now < time) {
            continue;
        }
        next_correction = None;
        if !host.receive(is_poll) {
            continue;
        }
        let comparison = match host.bridges.lock_shared() {
            Ok(_shared) => host.compare_due(&mut socket),
            Err(error) => {
                log::error!("cannot lock the bridges to restore them: {error}");
                next_correction = Some(now + RETRY_INTERVAL);
                continue;
            }
        };
        if comparison.has_failed {
            next_correction = Some(Instant::now() + RETRY_INTERVAL);
        } else if !comparison.faults.is_empty() {
            next_correction = Some(Instant::now() + CORRECTION_INTERVAL);
        }
    }
}

/// Waits for notifications, or until the watch is dropped. Returns whether it was dropped.
fn wait(descriptors: &[OwnedFd], stopped: &UnixStream, timeout: Duration) -> Result<bool, Errno> {
    let mut files: Vec<PollFd<'_>> = std::iter::once(stopped.as_fd())
        .chain(descriptors.iter().map(AsFd::as_fd))
        .map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN))
        .collect();
    // Rounded up, so that the thread does not wake too early.
    let timeout = timeout + Duration::from_millis(1);
    match poll(
        &mut files,
        PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX),
    ) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error),
    }
    Ok(files
        .first()
        .is_some_and(|file| file.any().unwrap_or(false)))
}
