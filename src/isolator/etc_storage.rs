//! Where the files below /etc of the agent's containers are.
//!
//! ```text
//! <beside netns_dir>/contrail-mesos-<instance>/<container>/hosts hostname resolv.conf
//! ```
//!
//! A container can write to its files, as with Docker. So they are in a file system of their own, in
//! memory and with a limited size: a container that fills it takes no space from the state directory.
//! It is mounted for the first container, outlives the agent, and is unmounted with the last.
//!
//! If it cannot be used, because it is full or cannot be mounted, new containers get their files from
//! the state directory, read-only. So a container that filled it keeps no other from being launched.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::etc_files::EtcFilesError;
use contrail_mesos_api::container::ContainerId;

/// The size of the file system: room for the files of some 5,000 containers.
const MOUNT_OPTIONS: &str = "mode=0755,size=64m";

/// The files of the containers of one state directory.
#[derive(Clone, Debug)]
pub(super) struct EtcStorage {
    /// Where the file system is mounted.
    directory: PathBuf,
    /// A directory that exists as long as there is a container, and is locked during changes.
    lock_directory: PathBuf,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EtcFilesError {
    let path = path.to_owned();
    move |source| EtcFilesError {
        action,
        path,
        source,
    }
}

impl EtcStorage {
    /// The storage of an instance, which the first container mounts.
    pub(super) fn new(netns_dir: &Path, state_dir: &Path, instance: &str) -> Self {
        Self {
            directory: netns_dir.with_file_name(format!("contrail-mesos-{instance}")),
            lock_directory: state_dir.join("containers"),
        }
    }

    fn of(&self, container: &ContainerId) -> PathBuf {
        self.directory.join(container.file_name())
    }

    /// The directory of a container that has its files here.
    pub(super) fn find(&self, container: &ContainerId) -> Option<PathBuf> {
        let directory = self.of(container);
        directory.join("hosts").exists().then_some(directory)
    }

    /// Creates the directory of a container.
    pub(super) fn create(&self, container: &ContainerId) -> Result<PathBuf, EtcFilesError> {
        let _lock = self.lock()?;
        if !self.is_mounted() {
            fs::create_dir_all(&self.directory).map_err(failed("create", &self.directory))?;
            mount(
                Some("contrail-mesos"),
                &self.directory,
                Some("tmpfs"),
                MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
                Some(MOUNT_OPTIONS),
            )
            .map_err(|errno| failed("mount", &self.directory)(errno.into()))?;
        }
        let directory = self.of(container);
        match fs::create_dir(&directory) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                Err(failed("create", &directory)(error))
            }
            _ => Ok(directory),
        }
    }

    /// Removes the files of a container, and with the last container the file system. Idempotent.
    pub(super) fn remove(&self, container: &ContainerId) -> Result<(), EtcFilesError> {
        if !self.directory.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        remove_entry(&self.of(container))?;
        self.unmount_if_unused();
        Ok(())
    }

    /// Removes the files of containers that are not among `names` and have no checkpoint, such as
    /// that of a container which was prepared since.
    pub(super) fn retain(&self, names: &HashSet<String>) -> Result<(), EtcFilesError> {
        if !self.directory.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed("list", &self.directory))?,
        };
        for entry in entries {
            let entry = entry.map_err(failed("list", &self.directory))?;
            let is_kept = entry.file_name().to_str().is_some_and(|name| {
                names.contains(name) || self.lock_directory.join(name).exists()
            });
            if !is_kept {
                remove_entry(&entry.path())?;
            }
        }
        self.unmount_if_unused();
        Ok(())
    }

    /// The names of the files of containers without a checkpoint, and the file system if it is mounted
    /// for nobody. Changes nothing.
    pub(super) fn strays(&self) -> Result<EtcStrays, EtcFilesError> {
        let mut strays = EtcStrays::default();
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(strays),
            entries => entries.map_err(failed("list", &self.directory))?,
        };
        let mut is_unused = true;
        for entry in entries {
            let name = entry.map_err(failed("list", &self.directory))?.file_name();
            is_unused = false;
            // A container has its checkpoint first.
            if !self.lock_directory.join(&name).exists() {
                strays.files.push(name);
            }
        }
        strays.mount = (is_unused && self.is_mounted()).then(|| self.directory.clone());
        Ok(strays)
    }

    /// The caller holds the lock.
    fn unmount_if_unused(&self) {
        // Each directory in a directory is a link to it, besides its own two. So this costs the same
        // for any number of containers.
        let is_unused = fs::metadata(&self.directory).is_ok_and(|metadata| metadata.nlink() <= 2);
        if is_unused {
            // Fails while somebody looks into it; the next container to end tries again.
            if self.is_mounted() {
                let _ = umount2(&self.directory, MntFlags::UMOUNT_NOFOLLOW);
            }
            let _ = fs::remove_dir(&self.directory);
        }
    }

    fn lock(&self) -> Result<Option<File>, EtcFilesError> {
        let file = match File::open(&self.lock_directory) {
            // Without a container there is nobody to exclude.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            file => file.map_err(failed("open", &self.lock_directory))?,
        };
        file.lock().map_err(failed("lock", &self.lock_directory))?;
        Ok(Some(file))
    }

    fn is_mounted(&self) -> bool {
        let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev());
        match (device(&self.directory), self.directory.parent().map(device)) {
            (Ok(own), Some(Ok(parent))) => own != parent,
            _ => false,
        }
    }
}

/// What belongs to no container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EtcStrays {
    /// The entries of the file system.
    pub(super) files: Vec<OsString>,
    /// Where it is mounted.
    pub(super) mount: Option<PathBuf>,
}

/// Removes an entry of the file system. Idempotent.
fn remove_entry(path: &Path) -> Result<(), EtcFilesError> {
    let removed = match fs::remove_dir_all(path) {
        // Somebody put a file there.
        Err(error) if error.kind() == ErrorKind::NotADirectory => fs::remove_file(path),
        removed => removed,
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod root_tests {
    use super::*;
    use crate::net::testing::isolated;

    fn storage(directory: &Path) -> EtcStorage {
        fs::create_dir_all(directory.join("state/containers")).unwrap();
        EtcStorage::new(
            &directory.join("run/netns"),
            &directory.join("state"),
            "1f2e3d4c",
        )
    }

    #[test]
    fn storage_is_limited_and_goes_with_the_last_container() {
        isolated(|| {
            let directory = tempfile::tempdir().unwrap();
            let storage = storage(directory.path());
            let ids = ["one", "two"].map(ContainerId::top_level);
            for id in &ids {
                let files = storage.create(id).unwrap();
                fs::write(files.join("hosts"), "127.0.0.1 localhost\n").unwrap();
                assert_eq!(storage.find(id), Some(files));
            }
            let error = fs::write(
                storage.find(&ids[0]).unwrap().join("hosts"),
                vec![b'x'; 65 << 20],
            )
            .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::StorageFull);
            storage.remove(&ids[0]).unwrap();
            storage.remove(&ids[0]).unwrap();
            assert_eq!(storage.find(&ids[0]), None);
            assert!(storage.find(&ids[1]).is_some() && storage.is_mounted());
            storage.retain(&HashSet::new()).unwrap();
            assert!(!storage.directory.exists());
            storage.remove(&ids[1]).unwrap();
        });
    }
}
