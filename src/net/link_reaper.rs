//! Deletes links in batches.
//!
//! The kernel completes a deletion only after an RCU grace period of about 25 ms, but needs only
//! one for a whole group of links. So a single thread deletes: it puts all links that were queued
//! during a deletion into one group, and deletes the group by one request.
//!
//! Invariant: a link is deleted only if its alias says that it is the one that is meant. A name
//! alone is not enough: another instance gives the same container the same names.

use std::sync::mpsc::{Receiver, Sender, channel};

use nix::errno::Errno;
use tokio::sync::oneshot;

use super::links::{self, Link};
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

/// A link to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkToDelete {
    /// Its name.
    pub name: String,
    /// What its alias begins with.
    pub alias_prefix: String,
}

/// What became of a link that was to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// There is no such link any more.
    Gone,
    /// The link of that name has another alias, and stays.
    Foreign,
}

type Job = (
    LinkToDelete,
    oneshot::Sender<Result<Deletion, NetlinkError>>,
);

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

    /// Deletes a link. Succeeds if there is no such link.
    pub async fn delete(&self, link: LinkToDelete) -> Result<Deletion, ReapError> {
        let (sender, receiver) = oneshot::channel();
        self.jobs
            .send((link, sender))
            .map_err(|_| ReapError::ThreadEnded)?;
        Ok(receiver.await.map_err(|_| ReapError::ThreadEnded)??)
    }

    /// Deletes links and returns the errors. Blocks until the links are gone.
    #[must_use]
    pub fn delete_all(&self, links: Vec<LinkToDelete>) -> Vec<ReapError> {
        let mut receivers = Vec::new();
        let mut errors = Vec::new();
        for link in links {
            let (sender, receiver) = oneshot::channel();
            match self.jobs.send((link, sender)) {
                Ok(()) => receivers.push(receiver),
                Err(_) => errors.push(ReapError::ThreadEnded),
            }
        }
        for receiver in receivers {
            match receiver.blocking_recv() {
                Ok(Ok(_)) => {}
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

/// The link that is meant, or why there is nothing to delete.
fn find(
    socket: &mut NetlinkSocket,
    wanted: &LinkToDelete,
) -> Result<Result<Link, Deletion>, NetlinkError> {
    let Some(link) = links::by_name(socket, &wanted.name)? else {
        return Ok(Err(Deletion::Gone));
    };
    let alias = link.alias.as_deref().unwrap_or_default();
    if alias.starts_with(&wanted.alias_prefix) {
        return Ok(Ok(link));
    }
    log::warn!(
        "the interface {} stays: its alias {alias:?} says that another instance made it",
        wanted.name
    );
    Ok(Err(Deletion::Foreign))
}

fn reap(socket: &mut NetlinkSocket, jobs: Vec<Job>) {
    let mut deletions = Vec::new();
    for (wanted, sender) in jobs {
        // Sending fails if the caller stopped waiting.
        match find(socket, &wanted) {
            Ok(Ok(link)) => deletions.push((link, sender)),
            Ok(Err(deletion)) => drop(sender.send(Ok(deletion))),
            Err(error) => drop(sender.send(Err(error))),
        }
    }
    if deletions.len() > 1 {
        let groupings: Vec<_> = deletions
            .iter()
            .map(|(link, _)| links::set_link_group(link, group()))
            .collect();
        // Errors do not matter: the loop below deletes what is still there one by one, and
        // reports its errors.
        for chunk in groupings.chunks(64) {
            let _ = socket.execute(chunk);
        }
        let _ = socket.execute_all(&[links::delete_group(group())]);
    }
    for (link, sender) in deletions {
        let result = ignore_missing(socket.execute_all(&[links::delete_link(&link)]));
        let _ = sender.send(result.map(|()| Deletion::Gone));
    }
}
