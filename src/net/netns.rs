//! Entering and creating namespaces, and pinning them to a path.
//!
//! Invariant: only this file calls setns and unshare, and only on threads that do nothing else: those that were
//! started for one work and end with it, and those of [`NamespaceThreads`], which return to their own
//! namespaces before their next work, or end if they cannot. No other thread changes its namespaces.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SendError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use nix::fcntl::OFlag;
use nix::sched::CloneFlags;
use nix::sys::stat::fstat;
use tokio::sync::oneshot;

pub mod handles;
pub mod processes;

/// How many threads wait for their next work, at most.
const MAX_IDLE_THREADS: usize = 4;
/// How many processes may be between this one and the first one.
const MAX_ANCESTORS: usize = 64;

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
    /// No network namespace could be created.
    #[error(
        "cannot create a network namespace: {0}; this needs root, a kernel with CONFIG_NET_NS, and user.max_net_namespaces above the number of namespaces"
    )]
    Create(#[source] io::Error),
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

/// Whether a network namespace is the host's: that of this thread, of the first process, or of any
/// process that this one descends from. An agent may be in a namespace of its own.
pub fn is_hosts(namespace: impl AsFd) -> io::Result<bool> {
    // They stay what they are.
    static OF_ANCESTORS: OnceLock<Vec<(u64, u64)>> = OnceLock::new();
    let stat = fstat(namespace)?;
    let id = (stat.st_dev, stat.st_ino);
    Ok(namespace_id("thread-self") == Some(id)
        || OF_ANCESTORS.get_or_init(of_ancestors).contains(&id))
}

/// The network namespaces of the first process, this one, and those that it descends from.
fn of_ancestors() -> Vec<(u64, u64)> {
    let mut processes = vec!["1".to_owned(), "self".to_owned()];
    for _ in 0..MAX_ANCESTORS {
        let process = processes.last().map_or("1", String::as_str);
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // The name before the parenthesis may have spaces.
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, fields)| fields.split_ascii_whitespace().nth(1));
        match parent {
            // 0 is outside this process namespace.
            None | Some("0") => break,
            Some(parent) => processes.push(parent.to_owned()),
        }
    }
    processes
        .iter()
        .filter_map(|process| namespace_id(process))
        .collect()
}

/// `None` for a process of another user, or one that has ended.
fn namespace_id(process: &str) -> Option<(u64, u64)> {
    let metadata = fs::metadata(format!("/proc/{process}/ns/net")).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Proof that the current thread was started by [`on_own_thread`] or [`NamespaceThreads`], and so may
/// enter namespaces.
#[derive(Debug, Default)]
pub struct OwnThread {
    /// The kinds of namespaces in which the thread is not at home.
    entered: Vec<Kind>,
}

impl OwnThread {
    /// Moves this thread into `namespace`, until its work ends.
    pub fn enter(&mut self, namespace: impl AsFd, kind: Kind) -> Result<(), NetnsError> {
        set_namespace(namespace, kind)?;
        self.entered.push(kind);
        Ok(())
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "allowed here alone: see the invariant of the module"
)]
fn set_namespace(namespace: impl AsFd, kind: Kind) -> Result<(), NetnsError> {
    nix::sched::setns(namespace, kind.flag()).map_err(|error| NetnsError::Enter {
        kind: kind.name(),
        source: error.into(),
    })
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
            let result = work(OwnThread::default());
            // Fails if the future was dropped.
            let _ = sender.send(result);
        })
        .map_err(NetnsError::Thread)?;
    receiver.await.map_err(|_| NetnsError::Panicked)
}

/// Creates an empty network namespace. It exists, with everything in it, as long as the descriptor and
/// threads that have entered it.
pub async fn create() -> Result<OwnedFd, NetnsError> {
    on_own_thread("cm-netns", |_| {
        nix::sched::unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|error| NetnsError::Create(error.into()))?;
        of_this_thread(Kind::Net)
    })
    .await?
}

type Job = Box<dyn FnOnce(&mut OwnThread) + Send>;

/// The namespaces to which threads return.
#[derive(Debug)]
struct Home {
    network: OwnedFd,
    uts: OwnedFd,
}

impl Home {
    fn of_this_thread() -> Result<Self, NetnsError> {
        Ok(Self {
            network: of_this_thread(Kind::Net)?,
            uts: of_this_thread(Kind::Uts)?,
        })
    }

    fn enter(&self, kind: Kind) -> Result<(), NetnsError> {
        match kind {
            Kind::Net => set_namespace(&self.network, kind),
            Kind::Uts => set_namespace(&self.uts, kind),
        }
    }
}

/// Threads at home in the namespaces of one thread that enter others and return: starting one for every
/// work would cost as much as the work.
#[derive(Debug)]
pub struct NamespaceThreads {
    name: &'static str,
    home: Arc<Home>,
    idle: Arc<Mutex<Vec<Sender<Job>>>>,
}

impl NamespaceThreads {
    /// Threads with that name, at home in the namespaces of the calling thread. They are started when
    /// they are needed.
    pub fn new(name: &'static str) -> Result<Self, NetnsError> {
        Ok(Self {
            name,
            home: Arc::new(Home::of_this_thread()?),
            idle: Arc::default(),
        })
    }

    /// Runs `work`, which may enter namespaces. It runs to its end even if the future
    /// is dropped.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut OwnThread) -> T + Send + 'static,
    ) -> Result<T, NetnsError> {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |thread| {
            let result = work(thread);
            // Fails if the future was dropped.
            let _ = sender.send(result);
        });
        self.send(job)?;
        receiver.await.map_err(|_| NetnsError::Panicked)
    }

    fn send(&self, mut job: Job) -> Result<(), NetnsError> {
        while let Some(thread) = lock(&self.idle).pop() {
            match thread.send(job) {
                Ok(()) => return Ok(()),
                // It has just ended.
                Err(SendError(unsent)) => job = unsent,
            }
        }
        let (jobs, queue) = channel();
        let (home, idle) = (Arc::clone(&self.home), Arc::downgrade(&self.idle));
        let own_jobs = jobs.clone();
        std::thread::Builder::new()
            .name(self.name.to_owned())
            .spawn(move || serve(&queue, &own_jobs, &home, &idle))
            .map_err(NetnsError::Thread)?;
        // Never fails: the thread waits for it.
        let _ = jobs.send(job);
        Ok(())
    }
}

/// The life of one of the threads: works, returns home, and waits for the next work.
fn serve(
    queue: &Receiver<Job>,
    own_jobs: &Sender<Job>,
    home: &Home,
    idle: &Weak<Mutex<Vec<Sender<Job>>>>,
) {
    // It was started by any thread.
    if home.enter(Kind::Net).is_err() {
        return;
    }
    while let Ok(job) = queue.recv() {
        let mut thread = OwnThread::default();
        let work = AssertUnwindSafe(|| job(&mut thread));
        // The panic is reported by the result that is missing.
        let is_done = catch_unwind(work).is_ok();
        let mut entered = thread.entered.iter();
        let is_home = entered.all(|kind| home.enter(*kind).is_ok());
        let Some(idle) = idle.upgrade().filter(|_| is_done && is_home) else {
            return;
        };
        let mut idle = lock(&idle);
        if idle.len() >= MAX_IDLE_THREADS {
            return;
        }
        idle.push(own_jobs.clone());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each use is a single operation.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
pub async fn set_hostname(
    threads: &NamespaceThreads,
    namespace: OwnedFd,
    name: String,
) -> Result<(), NetnsError> {
    let set = move |thread: &mut OwnThread| {
        thread.enter(&namespace, Kind::Uts)?;
        nix::unistd::sethostname(&name).map_err(|error| NetnsError::Handle {
            action: "set the hostname",
            path: PathBuf::from(name),
            source: error.into(),
        })
    };
    threads.run(set).await?
}

#[cfg(test)]
mod root_tests;
