//! Leases as files: one per leased address, named after it, and created exclusively, so that two
//! processes of one instance can never lease the same address.
//!
//! A lease needs no fsync: it lives no longer than the kernel objects that use the address, and
//! both are gone after a power failure. An address whose file cannot be read counts as leased.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::files::read_regular_file;

/// How long a sweep waits for reservations of other processes.
const SWEEP_LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a sweep tries the lock meanwhile.
const SWEEP_LOCK_INTERVAL: Duration = Duration::from_millis(20);

/// The holder of an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// The container.
    pub container: ContainerId,
    /// Its interface.
    pub interface: String,
}

/// A lease file.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) address: IpAddr,
    /// `None` if the file cannot be read.
    pub(super) holder: Option<Holder>,
}

/// Whether an address is leased.
#[derive(Clone, Debug)]
pub(super) enum LeaseState {
    Free,
    Held(Holder),
    /// The lease file does not name a holder.
    Unreadable,
}

/// The leases of one network.
#[derive(Clone, Debug)]
pub(super) struct Leases {
    directory: PathBuf,
}

impl Leases {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn path(&self, address: IpAddr) -> PathBuf {
        self.directory.join(address.to_string())
    }

    /// Leases `address` to `holder`; returns false if it is leased already.
    pub(super) fn create(&self, address: IpAddr, holder: &Holder) -> io::Result<bool> {
        let path = self.path(address);
        let mut directory_was_created = false;
        let mut file = loop {
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => break file,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(false),
                // The directory does not exist yet, or was removed with its last lease just now.
                Err(error) if error.kind() == ErrorKind::NotFound && !directory_was_created => {
                    fs::create_dir_all(&self.directory)?;
                    directory_was_created = true;
                }
                Err(error) => return Err(error),
            }
        };
        let written = serde_json::to_vec(holder)
            .map_err(io::Error::from)
            .and_then(|json| file.write_all(&json));
        if let Err(error) = written {
            // A full disk must not leak the address as well.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(true)
    }

    pub(super) fn state(&self, address: IpAddr) -> io::Result<LeaseState> {
        match read_regular_file(&self.path(address)) {
            Ok(json) => {
                Ok(serde_json::from_slice(&json).map_or(LeaseState::Unreadable, LeaseState::Held))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(LeaseState::Free),
            // A pipe, a link, or a directory: nobody can say whose the address is.
            Err(error) if error.kind() == ErrorKind::InvalidInput => Ok(LeaseState::Unreadable),
            Err(error) => Err(error),
        }
    }

    /// Ends the lease of `address`. Idempotent.
    pub(super) fn remove(&self, address: IpAddr) -> io::Result<()> {
        match fs::remove_file(self.path(address)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes the directory after its last lease. Best effort.
    pub(super) fn remove_directory_if_empty(&self) {
        let _ = fs::remove_dir(&self.directory);
    }

    /// The leased addresses, without their holders: reads no file.
    pub(super) fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut addresses = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            addresses.extend(name.to_str().and_then(|name| name.parse::<IpAddr>().ok()));
        }
        Ok(addresses)
    }

    pub(super) fn list(&self) -> io::Result<Vec<Lease>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut leases = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let Some(address) = name.to_str().and_then(|name| name.parse().ok()) else {
                // Not a lease.
                continue;
            };
            let holder = match self.state(address) {
                // Released meanwhile.
                Ok(LeaseState::Free) => continue,
                Ok(LeaseState::Held(holder)) => Some(holder),
                Ok(LeaseState::Unreadable) | Err(_) => None,
            };
            leases.push(Lease { address, holder });
        }
        Ok(leases)
    }
}

/// Keeps a sweep from removing the reservations that other processes are about to attach.
#[derive(Debug)]
pub(super) struct SweepLock {
    path: PathBuf,
}

impl SweepLock {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            path: directory.join(".lock"),
        }
    }

    fn open(&self) -> io::Result<File> {
        let open = || {
            OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                // Opening a pipe that somebody put there does not block.
                .custom_flags(OFlag::O_NONBLOCK.bits())
                .open(&self.path)
        };
        match (open(), self.path.parent()) {
            (Err(error), Some(directory)) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(directory)?;
                open()
            }
            (result, _) => result,
        }
    }

    /// For a reservation: held until it is attached or released.
    pub(super) fn shared(&self) -> io::Result<File> {
        let file = self.open()?;
        file.lock_shared()?;
        Ok(file)
    }

    /// For a sweep.
    pub(super) fn exclusive(&self) -> io::Result<File> {
        let file = self.open()?;
        let start = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if start.elapsed() < SWEEP_LOCK_TIMEOUT => {
                    std::thread::sleep(SWEEP_LOCK_INTERVAL);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(io::Error::new(
                        ErrorKind::TimedOut,
                        "another process is attaching containers; the next sweep retries",
                    ));
                }
            }
        }
    }
}
