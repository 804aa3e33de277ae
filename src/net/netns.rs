//! Entering namespaces, and keeping them by name.
//!
//! Invariant: [`OwnThread::enter`] is the one place in the whole tree that calls setns, and it
//! can be reached only on a thread that was started for that and ends afterwards. A thread that
//! others use never changes its namespace.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use nix::sys::stat::fstat;
use tokio::sync::oneshot;

pub mod handles;

/// Why a namespace could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// It cannot be opened.
    #[error(
        "cannot open the {kind} namespace {path:?}: {source}; has its process ended, or its handle been removed?"
    )]
    Open {
        /// `network` or `UTS`.
        kind: &'static str,
        /// Where it was looked for.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It cannot be entered.
    #[error("cannot enter a {kind} namespace: {source}; this needs CAP_SYS_ADMIN")]
    Enter {
        /// `network` or `UTS`.
        kind: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No thread could be started.
    #[error(
        "cannot start a thread: {0}; is the limit of processes (ulimit -u, pids cgroup) reached?"
    )]
    Thread(#[source] io::Error),
    /// The thread ended without an answer.
    #[error(
        "the thread that worked in the namespace ended without an answer; this is a defect, please report the message above"
    )]
    Died,
    /// A handle could not be made or removed.
    #[error("cannot {action} {path:?}: {source}")]
    Handle {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// The kinds of namespaces that we enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Network.
    Net,
    /// Host name.
    Uts,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Net => "network",
            Self::Uts => "UTS",
        }
    }

    fn flag(self) -> CloneFlags {
        match self {
            Self::Net => CloneFlags::CLONE_NEWNET,
            Self::Uts => CloneFlags::CLONE_NEWUTS,
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Uts => "uts",
        }
    }
}

/// Opens a namespace of the process `pid`.
pub fn of_pid(pid: u32, kind: Kind) -> Result<OwnedFd, NetnsError> {
    open(
        &PathBuf::from(format!("/proc/{pid}/ns/{}", kind.file())),
        kind,
    )
}

/// Opens the network namespace whose handle is at `path`.
pub fn of_path(path: &Path) -> Result<OwnedFd, NetnsError> {
    open(path, Kind::Net)
}

/// Opens the namespace that this thread is in.
pub fn of_this_thread(kind: Kind) -> Result<OwnedFd, NetnsError> {
    open(
        &PathBuf::from(format!("/proc/thread-self/ns/{}", kind.file())),
        kind,
    )
}

fn open(path: &Path, kind: Kind) -> Result<OwnedFd, NetnsError> {
    let fail = |source| NetnsError::Open {
        kind: kind.name(),
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(fail)?;
    if handles::is_namespace(&file).map_err(fail)? {
        Ok(file.into())
    } else {
        Err(fail(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is an ordinary file, left over from before a reboot",
        )))
    }
}

/// Whether two descriptors are of the same namespace.
pub fn same(one: impl AsFd, other: impl AsFd) -> io::Result<bool> {
    let (one, other) = (fstat(one)?, fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// A thread that was started for one piece of work and ends with it.
#[derive(Debug)]
pub struct OwnThread {
    /// Nobody else can make one.
    _private: (),
}

impl OwnThread {
    /// Puts this thread into `namespace`, for the rest of its life.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place: on a thread that ends with its work"
    )]
    pub fn enter(&mut self, namespace: impl AsFd, kind: Kind) -> Result<(), NetnsError> {
        nix::sched::setns(namespace, kind.flag()).map_err(|error| NetnsError::Enter {
            kind: kind.name(),
            source: error.into(),
        })
    }
}

/// Runs `work` on a thread of its own. When the future is dropped the work still ends as it would
/// have: nothing is ever cut off in its middle.
pub async fn on_own_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce(OwnThread) -> T + Send + 'static,
) -> Result<T, NetnsError> {
    let (answer, result) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let done = work(OwnThread { _private: () });
            // Whoever asked may be gone; the work is done all the same.
            let _ = answer.send(done);
        })
        .map_err(NetnsError::Thread)?;
    result.await.map_err(|_| NetnsError::Died)
}

/// Runs `work` inside a network namespace, on a thread of its own.
pub async fn run_in<T: Send + 'static>(
    namespace: OwnedFd,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NetnsError> {
    run_in_all(vec![(namespace, Kind::Net)], work).await
}

/// Runs `work` inside several namespaces at once, on a thread of its own.
pub async fn run_in_all<T: Send + 'static>(
    namespaces: Vec<(OwnedFd, Kind)>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NetnsError> {
    on_own_thread("cm-netns", move |mut thread| {
        for (namespace, kind) in &namespaces {
            thread.enter(namespace, *kind)?;
        }
        Ok(work())
    })
    .await?
}

/// Sets the host name of a UTS namespace.
pub async fn set_hostname(namespace: OwnedFd, name: String) -> Result<(), NetnsError> {
    run_in_all(vec![(namespace, Kind::Uts)], move || {
        nix::unistd::sethostname(&name).map_err(|error| NetnsError::Handle {
            action: "set the host name",
            path: PathBuf::from(name),
            source: error.into(),
        })
    })
    .await?
}

#[cfg(test)]
mod tests;
