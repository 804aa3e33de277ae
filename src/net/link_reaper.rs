//! Deletes links in batches.
//!
//! The kernel completes a deletion only after an RCU grace period of about 25 ms, but needs only
//! one for a whole group of links. So a single thread deletes: it puts all links that were queued
//! during a deletion into one group, and deletes the group by one request.

use std::sync::mpsc::{Receiver, Sender, channel};

use nix::errno::Errno;
use tokio::sync::oneshot;

use super::links;
use super::netlink::{NetlinkError, NetlinkSocket};

/// A link could not be deleted.
#[derive(Debug, thiserror::Error)]
pub enum ReapError {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The reaper's thread has ended.
    #[error("the thread that deletes links has ended; restart the agent")]
    ThreadEnded,
}

type Job = (String, oneshot::Sender<Result<(), NetlinkError>>);

/// A thread that deletes links, in the network namespace where it was started.
#[derive(Debug)]
pub struct LinkReaper {
    jobs: Sender<Job>,
}

impl LinkReaper {
    /// Starts the thread, for the network namespace of the calling thread.
    pub fn start() -> Result<Self, NetlinkError> {
        let socket = NetlinkSocket::route()?;
        let (jobs, queue) = channel();
        std::thread::Builder::new()
            .name("cm-reaper".to_owned())
            .spawn(move || run(socket, &queue))
            .map_err(|error| NetlinkError::Socket(error, "threads"))?;
        Ok(Self { jobs })
    }

    /// Deletes the link `name`. Succeeds if there is no such link.
    pub async fn delete(&self, name: String) -> Result<(), ReapError> {
        let (sender, receiver) = oneshot::channel();
        self.jobs
            .send((name, sender))
            .map_err(|_| ReapError::ThreadEnded)?;
        Ok(receiver.await.map_err(|_| ReapError::ThreadEnded)??)
    }

    /// Deletes the links `names` and returns the errors. Blocks until the links are gone.
    #[must_use]
    pub fn delete_all(&self, names: Vec<String>) -> Vec<ReapError> {
        let mut receivers = Vec::new();
        let mut errors = Vec::new();
        for name in names {
            let (sender, receiver) = oneshot::channel();
            match self.jobs.send((name, sender)) {
                Ok(()) => receivers.push(receiver),
                Err(_) => errors.push(ReapError::ThreadEnded),
            }
        }
        for receiver in receivers {
            match receiver.blocking_recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => errors.push(error.into()),
                Err(_) => errors.push(ReapError::ThreadEnded),
            }
        }
        errors
    }
}

/// A group id of our own: "cm" and the low 16 bits of our process id, so that two agents on one
/// host do not delete each other's groups.
fn group() -> u32 {
    0x636d_0000 | (std::process::id() & 0xffff)
}

fn run(mut socket: NetlinkSocket, queue: &Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        let mut jobs = vec![first];
        jobs.extend(queue.try_iter());
        reap(&mut socket, jobs);
    }
}

fn ignore_missing(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(()),
        other => other,
    }
}

fn reap(socket: &mut NetlinkSocket, jobs: Vec<Job>) {
    if jobs.len() > 1 {
        let groupings: Vec<_> = jobs
            .iter()
            .map(|(name, _)| links::set_group(name, group()))
            .collect();
        // Errors do not matter: the loop below deletes what is still there one by one, and
        // reports its errors.
        for chunk in groupings.chunks(64) {
            let _ = socket.execute(chunk);
        }
        let _ = socket.execute_all(&[links::delete_group(group())]);
    }
    for (name, sender) in jobs {
        let result = ignore_missing(socket.execute_all(&[links::delete(&name)]));
        // Fails if the caller stopped waiting.
        let _ = sender.send(result);
    }
}
