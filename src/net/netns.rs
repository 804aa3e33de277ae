//! Entering namespaces, and pinning them to a path.
//!
//! Invariant: only [`OwnThread::enter`] calls setns, and only on a thread that was started for this
//! work and ends with it. A shared thread never changes its namespaces.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::stat::fstat;
use tokio::sync::oneshot;

pub mod handles;

/// A namespace could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// It cannot be opened.
    #[error(
        "cannot open the {kind} namespace {path:?}: {source}; has its process ended, or its handle been removed?"
    )]
    Open {
        /// `network` or `UTS`.
        kind: &'static str,
        /// The path of the namespace.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// It cannot be entered.
    #[error("cannot enter a {kind} namespace: {source}; this needs CAP_SYS_ADMIN")]
    Enter {
        /// `network` or `UTS`.
        kind: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// No thread could be started.
    #[error(
        "cannot start a thread: {0}; is the limit of processes (ulimit -u, pids cgroup) reached?"
    )]
    Thread(#[source] io::Error),
    /// The thread panicked.
    #[error(
        "internal error: a thread panicked while it worked in a namespace; please report it with the agent's log"
    )]
    Panicked,
    /// A handle could not be created or removed, or a hostname not be set.
    #[error("cannot {action} {path:?}: {source}")]
    Handle {
        /// The operation, as a verb.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Network.
    Net,
    /// Hostname.
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

/// Opens a namespace of the calling thread.
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
    // Opening a pipe that somebody put there does not block.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
        .map_err(fail)?;
    if handles::is_namespace(&file).map_err(fail)? {
        Ok(file.into())
    } else {
        Err(fail(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no namespace but a file, such as a reboot leaves",
        )))
    }
}

/// Whether two descriptors refer to the same namespace.
pub fn same(a: impl AsFd, b: impl AsFd) -> io::Result<bool> {
    let (a, b) = (fstat(a)?, fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// Proof that the current thread was started by [`on_own_thread`] and ends with its work.
#[derive(Debug)]
pub struct OwnThread {
    /// Prevents construction elsewhere.
    _private: (),
}

impl OwnThread {
    /// Moves this thread into `namespace`, for the rest of its life.
    #[expect(
        clippy::disallowed_methods,
        reason = "allowed here alone: this thread ends with its work"
    )]
    pub fn enter(&mut self, namespace: impl AsFd, kind: Kind) -> Result<(), NetnsError> {
        nix::sched::setns(namespace, kind.flag()).map_err(|error| NetnsError::Enter {
            kind: kind.name(),
            source: error.into(),
        })
    }
}

/// Runs `work` on a thread of its own. The work runs to its end even if the future is dropped.
pub async fn on_own_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce(OwnThread) -> T + Send + 'static,
) -> Result<T, NetnsError> {
    let (sender, receiver) = oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let result = work(OwnThread { _private: () });
            // Fails if the future was dropped.
            let _ = sender.send(result);
        })
        .map_err(NetnsError::Thread)?;
    receiver.await.map_err(|_| NetnsError::Panicked)
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

/// Sets the hostname of a UTS namespace.
pub async fn set_hostname(namespace: OwnedFd, name: String) -> Result<(), NetnsError> {
    run_in_all(vec![(namespace, Kind::Uts)], move || {
        nix::unistd::sethostname(&name).map_err(|error| NetnsError::Handle {
            action: "set the hostname",
            path: PathBuf::from(name),
            source: error.into(),
        })
    })
    .await?
}

#[cfg(test)]
mod root_tests;
