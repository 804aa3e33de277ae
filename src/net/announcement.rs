//! Announcing the addresses of an interface to its neighbours, twice: a bridge forwards nothing from
//! a port that has just been added, until the kernel has seen its carrier.

use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::netlink::{NetlinkSocket, Request};

/// How long after the first announcement the second one follows.
const REPEAT_DELAY: Duration = Duration::from_millis(200);

/// Requests that make the kernel announce the addresses of an interface. The socket keeps the
/// network namespace of the interface alive until the second announcement.
#[derive(Debug)]
pub struct Announcement {
    socket: NetlinkSocket,
    requests: Vec<Request>,
}

impl Announcement {
    /// An announcement by `requests`, on a socket in the namespace of the interface.
    #[must_use]
    pub fn new(socket: NetlinkSocket, requests: Vec<Request>) -> Self {
        Self { socket, requests }
    }

    /// Announces now, and a little later once more on a thread that all announcements share. Best
    /// effort: the neighbours find out by themselves after some time.
    pub fn send(mut self) {
        if let Err(error) = self.socket.execute_all(&self.requests) {
            log::warn!("cannot announce the addresses of a container: {error}");
            return;
        }
        if let Some(thread) = thread() {
            // Never fails: the thread does not end.
            let _ = thread.send((Instant::now() + REPEAT_DELAY, self));
        }
    }
}

type Repetition = (Instant, Announcement);

fn thread() -> Option<&'static Sender<Repetition>> {
    static THREAD: OnceLock<Option<Sender<Repetition>>> = OnceLock::new();
    THREAD
        .get_or_init(|| {
            let (sender, queue) = channel();
            std::thread::Builder::new()
                .name("cm-announce".to_owned())
                .spawn(move || run(&queue))
                .inspect_err(|error| {
                    log::warn!("addresses are announced only once: cannot start a thread: {error}");
                })
                .ok()
                .map(|_| sender)
        })
        .as_ref()
}

fn run(queue: &Receiver<Repetition>) {
    while let Ok((due, mut announcement)) = queue.recv() {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        // The interface may be gone by now.
        if let Err(error) = announcement.socket.execute_all(&announcement.requests) {
            log::debug!("second announcement: {error}");
        }
    }
}
