//! The attached containers of one state directory, as another process than the agent follows them: the
//! node daemon.
//!
//! A container is attached while its checkpoint has `attached.json`: from the end of its attach to the
//! begin of its detach. What was read of a container is kept until that file is another one, so a
//! reading costs two system calls per container.
//!
//! The kernel notifies of new containers and of complete attaches. An end has no notification: nothing
//! has to be put back for it.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use super::checkpoint::{
    ATTACHMENTS_FILE, Checkpoint, CheckpointError, Checkpoints, RepairLock, StoredCheckpoint, load,
};

/// Which file was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileVersion {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl From<&Metadata> for FileVersion {
    fn from(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// Follows the attached containers.
#[derive(Debug)]
pub struct AttachedContainers {
    checkpoints: Checkpoints,
    /// By the name of their directory.
    known: BTreeMap<OsString, (FileVersion, Arc<Checkpoint>)>,
    /// None if the host allows no more of them.
    notifications: Option<Notifications>,
}

impl AttachedContainers {
    /// Follows the containers of a state directory. Changes nothing.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        let checkpoints = Checkpoints::new(state_dir);
        let path = checkpoints.root();
        let notifications = Notifications::new(path.clone()).map_err(|error| {
            log::warn!(
                path:% = path.display(), error:%;
                "cannot watch for new containers, which are found with a delay: raise \
                 fs.inotify.max_user_instances and fs.inotify.max_user_watches"
            );
        });
        Self {
            checkpoints,
            known: BTreeMap::new(),
            notifications: notifications.ok(),
        }
    }

    /// Creates the directory of the checkpoints if it is missing, so that the first container of this
    /// host is noticed, too.
    pub fn create_directory(&mut self) -> Result<(), CheckpointError> {
        let path = self.checkpoints.root();
        fs::create_dir_all(&path).map_err(|source| CheckpointError {
            action: "create",
            path,
            source,
        })
    }

    /// The checkpoints.
    #[must_use]
    pub fn checkpoints(&self) -> &Checkpoints {
        &self.checkpoints
    }

    /// A descriptor that becomes readable when a container was attached; none if the host allows no
    /// more notifications.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        let notifications = self.notifications.as_ref()?;
        Some(notifications.inotify.as_fd())
    }

    /// Reads the notifications that have arrived, without waiting. Returns whether a container may
    /// have been attached.
    pub fn receive(&mut self) -> io::Result<bool> {
        match &mut self.notifications {
            Some(notifications) => notifications.receive(),
            None => Ok(false),
        }
    }

    /// The checkpoints of the attached containers, which stay attached while the lock is held.
    /// Damaged ones are left out: the agent reports them. Blocks on the file system.
    pub fn read(&mut self, _lock: &RepairLock) -> Result<Vec<Arc<Checkpoint>>, CheckpointError> {
        let root = self.checkpoints.root();
        let failed = |source| CheckpointError {
            action: "list",
            path: root.clone(),
            source,
        };
        let mut attached = BTreeMap::new();
        for entry in fs::read_dir(&root).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let (name, directory) = (entry.file_name(), entry.path());
            let Ok(metadata) = fs::symlink_metadata(directory.join(ATTACHMENTS_FILE)) else {
                continue;
            };
            let version = FileVersion::from(&metadata);
            let known = match self.known.remove(&name) {
                Some((known_version, known)) if known_version == version => Some(known),
                _ => match load(&directory, name.clone()) {
                    StoredCheckpoint::Intact {
                        checkpoint,
                        attachments: Some(_),
                    } => Some(Arc::new(*checkpoint)),
                    StoredCheckpoint::Intact { .. } | StoredCheckpoint::Damaged { .. } => None,
                },
            };
            if let Some(checkpoint) = known {
                attached.insert(name, (version, checkpoint));
            }
        }
        self.known = attached;
        let checkpoints = self.known.values();
        Ok(checkpoints
            .map(|(_, checkpoint)| Arc::clone(checkpoint))
            .collect())
    }
}

/// Notifications of new containers.
#[derive(Debug)]
struct Notifications {
    root: PathBuf,
    inotify: Inotify,
    /// The watch of the directory of all containers.
    root_watch: Option<WatchDescriptor>,
    /// The directories of containers whose attach is not complete.
    pending: HashSet<WatchDescriptor>,
}

impl Notifications {
    fn new(root: PathBuf) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let mut notifications = Self {
            root,
            inotify,
            root_watch: None,
            pending: HashSet::new(),
        };
        match notifications.watch_root() {
            // The library creates it with the first container.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            watched => watched?,
        }
        Ok(notifications)
    }

    /// Watches the directory of all containers, and those of the containers in it.
    fn watch_root(&mut self) -> io::Result<()> {
        let created = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        let ended = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF;
        let flags = created | ended | AddWatchFlags::IN_ONLYDIR;
        self.root_watch = Some(self.inotify.add_watch(&self.root, flags)?);
        for entry in fs::read_dir(&self.root)? {
            self.watch_container(&entry?.file_name());
        }
        Ok(())
    }

    /// Waits for the end of an attach, unless it is complete already, which is returned. Without a
    /// watch, it is found by the next reading.
    fn watch_container(&mut self, name: &OsStr) -> bool {
        let written = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_ONLYDIR;
        let directory = self.root.join(name);
        let watch = self.inotify.add_watch(&directory, written);
        let is_attached = directory.join(ATTACHMENTS_FILE).exists();
        match watch {
            Ok(watch) if is_attached => self.unwatch(watch),
            Ok(watch) => {
                self.pending.insert(watch);
            }
            // It is gone again, or the host allows no more watches.
            Err(_) => {}
        }
        is_attached
    }

    fn unwatch(&mut self, watch: WatchDescriptor) {
        self.pending.remove(&watch);
        // The directory may be gone by now, and its watch with it.
        let _ = self.inotify.rm_watch(watch);
    }

    fn receive(&mut self) -> io::Result<bool> {
        let mut is_due = false;
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in events {
                is_due |= self.handle(event);
            }
        }
        if self.root_watch.is_none() {
            match self.watch_root() {
                Ok(()) => is_due = true,
                // The library creates it with the next container.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(is_due)
    }

    /// Returns whether a container may have been attached.
    fn handle(&mut self, event: InotifyEvent) -> bool {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            self.root_watch = None;
            return true;
        }
        if self.root_watch == Some(event.wd) {
            if event.mask.intersects(
                AddWatchFlags::IN_DELETE_SELF
                    | AddWatchFlags::IN_MOVE_SELF
                    | AddWatchFlags::IN_IGNORED,
            ) {
                self.root_watch = None;
            }
            return event.name.is_some_and(|name| self.watch_container(&name));
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.pending.remove(&event.wd);
            return false;
        }
        let is_attached = event.name.is_some_and(|name| name == ATTACHMENTS_FILE);
        if is_attached {
            self.unwatch(event.wd);
        }
        is_attached
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use contrail_mesos_api::container::ContainerId;

    use super::super::checkpoint::Owner;
    use super::*;

    /// Claims the container, which names no network then.
    fn claim(checkpoints: &Checkpoints, name: &str) -> ContainerId {
        let id = ContainerId::top_level(name);
        checkpoints.claim(&id, Owner::Agent, None).unwrap();
        id
    }

    fn read(containers: &mut AttachedContainers) -> Vec<String> {
        let lock = containers.checkpoints().lock_for_repair().unwrap().unwrap();
        let attached = containers.read(&lock).unwrap();
        let names = attached.iter().map(|one| one.container.to_string());
        names.collect()
    }

    #[test]
    fn container_is_attached_from_its_attachments_to_its_detach() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path().join("state");
        let mut containers = AttachedContainers::new(&state_dir);
        let checkpoints = containers.checkpoints().clone();
        assert!(checkpoints.lock_for_repair().unwrap().is_none());
        containers.create_directory().unwrap();
        assert!(containers.receive().unwrap());
        assert_eq!(read(&mut containers), [""; 0]);
        let one = claim(&checkpoints, "one");
        let two = claim(&checkpoints, "two");
        assert!(!containers.receive().unwrap());
        assert_eq!(read(&mut containers), [""; 0]);
        checkpoints.write_attachments(&one, &[]).unwrap();
        assert!(containers.receive().unwrap());
        checkpoints.write_attachments(&two, &[]).unwrap();
        assert!(containers.receive().unwrap());
        assert_eq!(read(&mut containers), ["one", "two"]);
        // Nothing is read again.
        let intent = checkpoints.directory(&one).join("intent.json");
        let contents = std::fs::read(&intent).unwrap();
        std::fs::write(&intent, "{").unwrap();
        assert_eq!(read(&mut containers), ["one", "two"]);
        std::fs::write(&intent, contents).unwrap();
        checkpoints.begin_detach(&one).unwrap();
        assert_eq!(read(&mut containers), ["two"]);
        checkpoints.begin_detach(&one).unwrap();
        checkpoints.remove(&one).unwrap();
        checkpoints.remove(&two).unwrap();
        assert_eq!(read(&mut containers), [""; 0]);
        assert!(!containers.receive().unwrap());
        // Its directory appears complete, as if the daemon was late.
        let three = claim(&checkpoints, "three");
        checkpoints.write_attachments(&three, &[]).unwrap();
        assert!(containers.receive().unwrap());
        assert!(containers.notifications.unwrap().pending.is_empty());
    }

    #[test]
    fn directory_that_is_replaced_is_watched_again() {
        let directory = tempfile::tempdir().unwrap();
        let mut containers = AttachedContainers::new(directory.path());
        containers.create_directory().unwrap();
        assert!(containers.receive().unwrap());
        let checkpoints = containers.checkpoints().clone();
        std::fs::remove_dir(checkpoints.root()).unwrap();
        assert!(!containers.receive().unwrap());
        assert!(checkpoints.lock_for_repair().unwrap().is_none());
        let one = claim(&checkpoints, "one");
        assert!(containers.receive().unwrap());
        checkpoints.write_attachments(&one, &[]).unwrap();
        assert!(containers.receive().unwrap());
        assert_eq!(read(&mut containers), ["one"]);
    }

    #[test]
    fn detach_waits_for_a_repair_in_progress() {
        let directory = tempfile::tempdir().unwrap();
        let mut containers = AttachedContainers::new(directory.path());
        let checkpoints = containers.checkpoints().clone();
        let one = claim(&checkpoints, "one");
        checkpoints.write_attachments(&one, &[]).unwrap();
        let lock = checkpoints.lock_for_repair().unwrap().unwrap();
        assert_eq!(containers.read(&lock).unwrap().len(), 1);
        let (sender, detached) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            checkpoints.begin_detach(&one).unwrap();
            sender.send(()).unwrap();
        });
        // From then on, nobody else repairs the container.
        while !containers.read(&lock).unwrap().is_empty() {
            std::thread::yield_now();
        }
        assert!(detached.try_recv().is_err());
        drop(lock);
        detached.recv().unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn detach_goes_on_beside_a_repair_that_does_not_end() {
        let directory = tempfile::tempdir().unwrap();
        let containers = AttachedContainers::new(directory.path());
        let checkpoints = containers.checkpoints().clone();
        let one = claim(&checkpoints, "one");
        let lock = checkpoints.lock_for_repair().unwrap().unwrap();
        checkpoints.begin_detach(&one).unwrap();
        // Its holder no longer changes anything.
        assert!(Instant::now() > lock.deadline());
        assert!(checkpoints.lock_for_repair().is_err());
    }
}
