//! One daemon per network namespace: two of them would undo each other's changes of what has one name
//! on a host, such as the nftables table of the overlays.
//!
//! The lock is an abstract unix socket, whose name belongs to the network namespace and is free again
//! when the process ends. Who connects to it reads the state directory of the daemon that has it. Any
//! process of the namespace may take the name, so only a process of root counts as a daemon.

use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use contrail_mesos_api::text::{Quoted, truncate};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt,
};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

/// The name of the socket.
const NAME: &[u8] = b"contrail-mesos-node";
/// How long the other daemon may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: u64 = 4096;
/// The longest path that is shown, in characters.
const MAX_SHOWN_CHARS: usize = 300;

/// Why this daemon may not run in the network namespace.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceLockError {
    /// Another daemon runs in it.
    #[error(
        "another contrail-mesos-node{state_dir} runs in this network namespace; stop it first, or \
         give this one a network namespace of its own"
    )]
    Running {
        /// The words about the state directory of the other one, if it tells it.
        state_dir: String,
    },
    /// The socket cannot be created.
    #[error(
        "cannot find out whether another contrail-mesos-node runs in this network namespace: {0}"
    )]
    Socket(#[from] io::Error),
}

/// Held while a daemon runs.
#[derive(Debug)]
pub struct NamespaceLock {
    answers: JoinHandle<()>,
}

impl Drop for NamespaceLock {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

impl NamespaceLock {
    /// Acquires the lock of the calling thread's network namespace, for the daemon with that state
    /// directory. None if a process that is not root's has taken the name: that must not keep the
    /// daemon from running. Needs a tokio runtime, and blocks for a second at most.
    pub fn acquire(state_dir: &Path) -> Result<Option<Self>, NamespaceLockError> {
        let address = SocketAddr::from_abstract_name(NAME)?;
        let listener = match StdListener::bind_addr(&address) {
            Ok(listener) => listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return refuse(),
            Err(error) => return Err(error.into()),
        };
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        let state_dir = state_dir.to_owned();
        let answers = tokio::spawn(answer(listener, state_dir));
        Ok(Some(Self { answers }))
    }
}

/// Tells the state directory to everybody who connects.
async fn answer(listener: UnixListener, state_dir: PathBuf) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // It fits into the buffer of a new connection.
                let _ = stream.try_write(state_dir.as_os_str().as_bytes());
            }
            Err(error) => {
                log::debug!(error:%; "cannot answer another daemon");
                tokio::time::sleep(ANSWER_TIMEOUT).await;
            }
        }
    }
}

/// The name is taken: refuses to run, unless it is not a daemon that has it.
fn refuse() -> Result<Option<NamespaceLock>, NamespaceLockError> {
    let holder = match connect_to_holder() {
        Ok(stream) => stream,
        // It has just ended. The service manager starts this one again.
        Err(Errno::ECONNREFUSED) => {
            return Err(NamespaceLockError::Running {
                state_dir: String::new(),
            });
        }
        // A daemon accepts at once, so it is none.
        Err(error) => return Ok(ignore(&format!("it does not accept connections: {error}"))),
    };
    let credentials = getsockopt(&holder, sockopt::PeerCredentials).map_err(io::Error::from)?;
    if credentials.uid() != 0 {
        let (uid, pid) = (credentials.uid(), credentials.pid());
        return Ok(ignore(&format!("it belongs to user {uid}, process {pid}")));
    }
    let mut answer = vec![];
    let stream = StdStream::from(holder);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    // A daemon that is suspended does not answer, and is one nevertheless.
    let _ = stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer);
    let state_dir = if answer.is_empty() {
        String::new()
    } else {
        let path = truncate(&Quoted(&answer).to_string(), MAX_SHOWN_CHARS);
        format!(" with the state directory {path}")
    };
    Err(NamespaceLockError::Running { state_dir })
}

fn ignore(reason: &str) -> Option<NamespaceLock> {
    log::warn!(
        "another program has the abstract unix socket of contrail-mesos-node ({reason}): a second \
         daemon in this network namespace would not be noticed"
    );
    None
}

/// Never waits: somebody may have filled the queue of connections.
fn connect_to_holder() -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(stream.as_raw_fd(), &UnixAddr::new_abstract(NAME)?)?;
    Ok(stream)
}

#[cfg(test)]
mod root_tests {
    use contrail_mesos::net::netns;
    use contrail_mesos::net::testing::{isolated_async, namespace};

    use super::*;

    #[test]
    fn second_daemon_of_a_namespace_is_refused_with_the_first_ones_directory() {
        isolated_async(|| async {
            let first = NamespaceLock::acquire(Path::new("/state/one")).unwrap();
            assert!(first.is_some());
            let refused =
                tokio::task::spawn_blocking(|| NamespaceLock::acquire(Path::new("/state/two")));
            let error = refused.await.unwrap().unwrap_err();
            assert!(error.to_string().contains("\"/state/one\""), "{error}");
            // Another namespace has its own.
            let other = netns::run_in(namespace(), || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                let _guard = runtime.enter();
                NamespaceLock::acquire(Path::new("/state/two")).map(|lock| lock.is_some())
            });
            assert!(other.await.unwrap().unwrap());
            drop(first);
            tokio::task::yield_now().await;
            let next = NamespaceLock::acquire(Path::new("/state/two"));
            assert!(next.unwrap().is_some());
        });
    }
}
