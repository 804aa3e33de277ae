//! One daemon per network namespace: two of them would undo each other's changes of what has one name
//! on a host, such as the nftables table of the overlays.
//!
//! The lock is that of a file named after the namespace, in a directory of root. The file has the state
//! directory of the daemon that holds it. An abstract unix socket would need no file, but every process
//! of the namespace could take its name, such as a container on the host's network.
//!
//! Invariant: the file is never removed, because a daemon may be about to lock it. The lock is free
//! when the process ends.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use contrail_mesos_api::text::{Quoted, truncate};

/// Where the files are.
const DIRECTORY: &str = "/run/contrail-mesos";
/// The network namespace of the calling thread.
const NAMESPACE: &str = "/proc/thread-self/ns/net";
/// The longest content of a file that is read, in bytes.
const MAX_CONTENT_BYTES: u64 = 4096;
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
        /// The words about the state directory of the other one, if it is known.
        state_dir: String,
    },
    /// The file cannot be used.
    #[error(
        "cannot find out whether another contrail-mesos-node runs in this network namespace: {}: \
         {error}",
        path.display()
    )]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// Held while a daemon runs.
#[derive(Debug)]
pub struct NamespaceLock {
    _file: File,
}

impl NamespaceLock {
    /// Acquires the lock of the calling thread's network namespace, for the daemon with that state
    /// directory.
    pub fn acquire(state_dir: &Path) -> Result<Self, NamespaceLockError> {
        Self::acquire_in(Path::new(DIRECTORY), state_dir)
    }

    fn acquire_in(directory: &Path, state_dir: &Path) -> Result<Self, NamespaceLockError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| NamespaceLockError::File { path, error }
        };
        let namespace = Path::new(NAMESPACE);
        let namespace = fs::metadata(namespace).map_err(failed(namespace))?.ino();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed(directory))?;
        let path = directory.join(format!("node-{namespace}.lock"));
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed(&path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(running(&file)),
            Err(TryLockError::Error(error)) => return Err(failed(&path)(error)),
        }
        file.set_len(0)
            .and_then(|()| file.write_all(state_dir.as_os_str().as_bytes()))
            .map_err(failed(&path))?;
        Ok(Self { _file: file })
    }
}

/// The error with the state directory that the holder of the lock wrote.
fn running(file: &File) -> NamespaceLockError {
    let mut content = vec![];
    // The holder may not have written it yet.
    let _ = file.take(MAX_CONTENT_BYTES).read_to_end(&mut content);
    let state_dir = if content.is_empty() {
        String::new()
    } else {
        let path = truncate(&Quoted(&content).to_string(), MAX_SHOWN_CHARS);
        format!(" with the state directory {path}")
    };
    NamespaceLockError::Running { state_dir }
}

#[cfg(test)]
mod root_tests {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener};

    use contrail_mesos::net::testing::{inside, isolated, namespace};

    use super::*;

    #[test]
    fn second_daemon_of_a_namespace_is_refused_with_the_first_ones_directory() {
        isolated(|| {
            let directory = tempfile::tempdir().unwrap();
            let locks = directory.path().join("run");
            // Any process on the host's network can take such a name.
            let taken = SocketAddr::from_abstract_name("contrail-mesos-node").unwrap();
            let _taken = UnixListener::bind_addr(&taken).unwrap();
            let first = NamespaceLock::acquire_in(&locks, Path::new("/state/one")).unwrap();
            let mode = fs::metadata(&locks).unwrap().mode();
            assert_eq!(mode & 0o777, 0o700);
            let second = NamespaceLock::acquire_in(&locks, Path::new("/state/two"));
            let error = second.unwrap_err();
            assert!(error.to_string().contains("\"/state/one\""), "{error}");
            // Another namespace has its own.
            let others = locks.clone();
            inside(namespace(), move || {
                NamespaceLock::acquire_in(&others, Path::new("/state/two")).unwrap();
            });
            drop(first);
            let next = NamespaceLock::acquire_in(&locks, Path::new("/s")).unwrap();
            let error = NamespaceLock::acquire_in(&locks, Path::new("/state/two"));
            assert!(error.unwrap_err().to_string().contains("\"/s\""));
            drop(next);
        });
    }
}
