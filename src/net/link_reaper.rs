//! Deletes links, many at once.
//!
//! The kernel answers a deletion only after it has waited, about 25 ms, until nobody can still be
//! looking at the link; it waits once for a whole group. So one thread deletes: whatever was asked
//! for while it waited becomes one group and goes in one request.

use std::sync::mpsc::{Receiver, Sender, channel};

use nix::errno::Errno;
use tokio::sync::oneshot;

use super::links;
use super::netlink::{NetlinkError, NetlinkSocket};

/// Why a link could not be deleted.
#[derive(Debug, thiserror::Error)]
pub enum ReapError {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The thread that deletes is gone.
    #[error("the thread that deletes links has ended; restart the agent")]
    Gone,
}

type Job = (String, oneshot::Sender<Result<(), NetlinkError>>);

/// The thread that deletes links, in the network namespace where it was started.
#[derive(Debug)]
pub struct LinkReaper {
    jobs: Sender<Job>,
}

impl LinkReaper {
    /// Starts it, for the network namespace of this thread.
    pub fn start() -> Result<Self, NetlinkError> {
        let socket = NetlinkSocket::route()?;
        let (jobs, queue) = channel();
        std::thread::Builder::new()
            .name("cm-reaper".to_owned())
            .spawn(move || run(socket, &queue))
            .map_err(|error| NetlinkError::Socket(error, "threads"))?;
        Ok(Self { jobs })
    }

    /// Deletes the link `name` and waits until it is gone. No such link is success.
    pub async fn delete(&self, name: String) -> Result<(), ReapError> {
        let (answer, done) = oneshot::channel();
        self.jobs
            .send((name, answer))
            .map_err(|_| ReapError::Gone)?;
        Ok(done.await.map_err(|_| ReapError::Gone)??)
    }

    /// Deletes all of `names`, waits until they are gone, and returns what failed. Blocks.
    #[must_use]
    pub fn delete_all(&self, names: Vec<String>) -> Vec<ReapError> {
        let mut waiting = Vec::new();
        let mut errors = Vec::new();
        for name in names {
            let (answer, done) = oneshot::channel();
            match self.jobs.send((name, answer)) {
                Ok(()) => waiting.push(done),
                Err(_) => errors.push(ReapError::Gone),
            }
        }
        for done in waiting {
            match done.blocking_recv() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => errors.push(error.into()),
                Err(_) => errors.push(ReapError::Gone),
            }
        }
        errors
    }
}

/// A group that is ours: "cm" and 16 bits of our process, so that two agents on one host do not
/// wait for each other's links.
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

fn gone_is_fine(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
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
        // Whoever could not be grouped is deleted on its own below, and has its error there; so
        // is whoever the kernel kept.
        for part in groupings.chunks(64) {
            let _ = socket.execute(part);
        }
        let _ = socket.execute_all(&[links::delete_group(group())]);
    }
    for (name, answer) in jobs {
        let result = gone_is_fine(socket.execute_all(&[links::delete(&name)]));
        // Whoever asked may have stopped waiting.
        let _ = answer.send(result);
    }
}
