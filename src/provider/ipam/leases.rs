//! Leases as files: one a given address, named after it, made exclusively. So two processes of
//! one instance can never give the same address.
//!
//! A lease needs no fsync: it is as short-lived as the kernel's state that it stands for, and
//! both are gone after a power failure. A file that cannot be read counts as taken.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use contrail_mesos_api::container::ContainerId;

/// How long a sweep waits for others to finish what they began.
const SWEEP_PATIENCE: Duration = Duration::from_secs(5);

/// Whose an address is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// The container.
    pub container: ContainerId,
    /// Its interface.
    pub interface: String,
}

/// A lease as it was found.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) address: IpAddr,
    /// `None` for a file that cannot be read.
    pub(super) holder: Option<Holder>,
}

/// What there is under an address.
#[derive(Clone, Debug)]
pub(super) enum Found {
    Free,
    Taken(Holder),
    /// A file that does not say whose it is.
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

    /// Takes `address`, if nobody has it. Whether it did.
    pub(super) fn take(&self, address: IpAddr, holder: &Holder) -> io::Result<bool> {
        let path = self.path(address);
        let mut tried_to_make_the_directory = false;
        let mut file = loop {
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => break file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
                // Not there yet, or removed just now together with its last lease.
                Err(error)
                    if error.kind() == io::ErrorKind::NotFound && !tried_to_make_the_directory =>
                {
                    fs::create_dir_all(&self.directory)?;
                    tried_to_make_the_directory = true;
                }
                Err(error) => return Err(error),
            }
        };
        let written = serde_json::to_vec(holder)
            .map_err(io::Error::from)
            .and_then(|text| file.write_all(&text));
        if let Err(error) = written {
            // A full disk must not cost an address, too.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(true)
    }

    /// Who has `address`: nobody, somebody, or a file that does not say.
    pub(super) fn holder(&self, address: IpAddr) -> io::Result<Found> {
        match fs::read(self.path(address)) {
            Ok(text) => Ok(serde_json::from_slice(&text).map_or(Found::Unreadable, Found::Taken)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Free),
            Err(error) => Err(error),
        }
    }

    /// Gives `address` back. Nothing there is success.
    pub(super) fn give_back(&self, address: IpAddr) -> io::Result<()> {
        match fs::remove_file(self.path(address)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes the directory if it is empty; no error if it is not.
    pub(super) fn tidy(&self) {
        let _ = fs::remove_dir(&self.directory);
    }

    /// Every lease.
    pub(super) fn all(&self) -> io::Result<Vec<Lease>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut leases = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let Some(address) = name.to_str().and_then(|name| name.parse().ok()) else {
                // Not ours.
                continue;
            };
            let holder = match self.holder(address) {
                // Gone meanwhile.
                Ok(Found::Free) => continue,
                Ok(Found::Taken(holder)) => Some(holder),
                Ok(Found::Unreadable) | Err(_) => None,
            };
            leases.push(Lease { address, holder });
        }
        Ok(leases)
    }
}

/// The lock that keeps a sweep away from what other processes are about to make.
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
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory)?;
        }
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.path)
    }

    /// For whoever reserves: held until what was reserved is attached or given back.
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
                Err(TryLockError::WouldBlock) if start.elapsed() < SWEEP_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "another process is attaching containers; it is tried again later",
                    ));
                }
            }
        }
    }
}
