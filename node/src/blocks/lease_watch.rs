//! Notifications about leases of addresses, by inotify.
//!
//! Invariants: a network's directory is watched before its leases are read, so that no change is missed.
//! Without a watch, changes are found by the next full comparison only, which is a problem that is
//! reported.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use contrail_mesos::leased_addresses::leases_directory;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// The watch of a state directory.
#[derive(Debug)]
pub(super) struct LeaseWatch {
    inotify: Inotify,
    state_dir: PathBuf,
    /// The state directory, in which the library makes the directory of the leases.
    parent: Option<WatchDescriptor>,
    /// The directory of the leases.
    directory: Option<WatchDescriptor>,
    /// The networks' directories.
    networks: HashMap<OsString, WatchDescriptor>,
}

impl LeaseWatch {
    /// Watches nothing yet.
    pub(super) fn new(state_dir: &Path) -> Result<Self, Errno> {
        Ok(Self {
            inotify: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?,
            state_dir: state_dir.to_owned(),
            parent: None,
            directory: None,
            networks: HashMap::new(),
        })
    }

    /// The descriptor that becomes readable when there are notifications.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Watches what is there now. Returns what cannot be watched.
    pub(super) fn update(&mut self) -> Option<String> {
        let entries = AddWatchFlags::IN_ONLYDIR
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE;
        let path = leases_directory(&self.state_dir);
        if self.directory.is_none() {
            if self.parent.is_none() {
                self.parent = self.inotify.add_watch(&self.state_dir, entries).ok();
            }
            match self.inotify.add_watch(&path, entries) {
                Ok(descriptor) => self.directory = Some(descriptor),
                // The library makes it, which the watch of the state directory reports.
                Err(Errno::ENOENT) if self.parent.is_some() => return None,
                Err(error) => return Some(problem(&path, &error.into())),
            }
        }
        let names = match std::fs::read_dir(&path) {
            Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.file_name())),
            // The next comparison begins with a new watch.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => return Some(problem(&path, &error)),
        };
        for name in names {
            if self.networks.contains_key(&name) {
                continue;
            }
            let network = path.join(&name);
            match self.inotify.add_watch(&network, entries) {
                Ok(descriptor) => {
                    self.networks.insert(name, descriptor);
                }
                // It has just been removed, or is no directory.
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                // The other ones have the same problem.
                Err(error) => return Some(problem(&network, &error.into())),
            }
        }
        None
    }

    /// Reads the notifications that have arrived, without waiting. Returns whether any is about leases.
    pub(super) fn receive(&mut self) -> bool {
        let mut has_changed = false;
        while let Ok(events) = self.inotify.read_events() {
            for event in events {
                let is_end = event.mask.contains(AddWatchFlags::IN_IGNORED);
                if self.parent == Some(event.wd) {
                    let directory = leases_directory(&self.state_dir);
                    has_changed |= is_end || event.name.as_deref() == directory.file_name();
                } else {
                    has_changed = true;
                }
                if is_end {
                    self.forget(event.wd);
                }
            }
        }
        has_changed
    }

    /// A watch has ended, because what it watched is gone.
    fn forget(&mut self, descriptor: WatchDescriptor) {
        if self.parent == Some(descriptor) {
            self.parent = None;
        } else if self.directory == Some(descriptor) {
            self.directory = None;
        } else {
            self.networks.retain(|_, other| *other != descriptor);
        }
    }
}

fn problem(path: &Path, error: &io::Error) -> String {
    format!(
        "cannot watch {}: {error}, so that another block of an overlay comes after up to a minute; raise \
         fs.inotify.max_user_watches",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_leases_are_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let mut watch = LeaseWatch::new(directory.path()).unwrap();
        let settle = |watch: &mut LeaseWatch| {
            watch.receive();
            assert_eq!(watch.update(), None);
            watch.receive()
        };
        assert!(!settle(&mut watch));
        std::fs::create_dir(directory.path().join("containers")).unwrap();
        assert!(!watch.receive(), "another directory");
        let blue = leases_directory(directory.path()).join("blue");
        std::fs::create_dir_all(&blue).unwrap();
        assert!(watch.receive());
        assert!(!settle(&mut watch));
        std::fs::write(blue.join("10.0.0.2"), "{}").unwrap();
        assert!(watch.receive());
        std::fs::remove_file(blue.join("10.0.0.2")).unwrap();
        assert!(watch.receive());
        // The directory goes with its last lease, and comes again.
        for _ in 0..2 {
            std::fs::remove_dir(&blue).unwrap();
            assert!(watch.receive());
            std::fs::create_dir(&blue).unwrap();
            settle(&mut watch);
            std::fs::write(blue.join("10.0.0.3"), "{}").unwrap();
            assert!(watch.receive());
            std::fs::remove_file(blue.join("10.0.0.3")).unwrap();
        }
    }
}
