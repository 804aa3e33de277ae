//! Notifications about the checkpoints of containers, by inotify.
//!
//! Invariants: a container's directory is watched before its files are read, so that no change is
//! missed. Without a watch, changes are found by the next full comparison only, which is a problem that
//! is reported.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use contrail_mesos::endpoints::LocalEndpoints;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// The files of a container that say something about its endpoints.
const FILES: [&str; 2] = ["intent.json", "groups.json"];

/// The watch of a state directory.
#[derive(Debug)]
pub(super) struct CheckpointWatch {
    inotify: Inotify,
    state_dir: PathBuf,
    /// The state directory, in which the library makes the directory of the checkpoints.
    parent: Option<WatchDescriptor>,
    /// The directory of the checkpoints.
    directory: Option<WatchDescriptor>,
    /// The containers' directories.
    containers: HashMap<OsString, WatchDescriptor>,
}

impl CheckpointWatch {
    /// Watches nothing yet.
    pub(super) fn new(state_dir: &Path) -> Result<Self, Errno> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        Ok(Self {
            inotify,
            state_dir: state_dir.to_owned(),
            parent: None,
            directory: None,
            containers: HashMap::new(),
        })
    }

    /// The descriptor that becomes readable when there are notifications.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Watches what is there now. Returns what cannot be watched.
    pub(super) fn update(&mut self) -> Vec<String> {
        let entries = AddWatchFlags::IN_ONLYDIR
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE;
        let files = entries | AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE;
        let path = LocalEndpoints::directory(&self.state_dir);
        if self.directory.is_none() {
            if self.parent.is_none() {
                self.parent = self.inotify.add_watch(&self.state_dir, entries).ok();
            }
            match self.inotify.add_watch(&path, entries) {
                Ok(descriptor) => self.directory = Some(descriptor),
                // The library makes it, which the watch of the state directory reports.
                Err(Errno::ENOENT) if self.parent.is_some() => return vec![],
                Err(error) => return vec![problem(&path, &error.into())],
            }
        }
        let names = match std::fs::read_dir(&path) {
            Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.file_name())),
            // The next comparison begins with a new watch.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return vec![],
            Err(error) => return vec![problem(&path, &error)],
        };
        for name in names {
            if self.containers.contains_key(&name) {
                continue;
            }
            let container = path.join(&name);
            match self.inotify.add_watch(&container, files) {
                Ok(descriptor) => {
                    self.containers.insert(name, descriptor);
                }
                // It has just been removed, or is no directory.
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                // The other ones have the same problem.
                Err(error) => return vec![problem(&container, &error.into())],
            }
        }
        vec![]
    }

    /// Reads the notifications that have arrived, without waiting. Returns whether any is about
    /// endpoints.
    pub(super) fn receive(&mut self) -> bool {
        let mut has_changed = false;
        while let Ok(events) = self.inotify.read_events() {
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    has_changed = true;
                } else if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    self.forget(event.wd);
                    has_changed = true;
                } else {
                    has_changed |= self.is_relevant(event.wd, event.name.as_deref());
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
            self.containers.retain(|_, other| *other != descriptor);
        }
    }

    fn is_relevant(&self, descriptor: WatchDescriptor, name: Option<&OsStr>) -> bool {
        if self.parent == Some(descriptor) {
            let directory = LocalEndpoints::directory(&self.state_dir);
            return name == directory.file_name();
        }
        // A directory appears or disappears, or one of the files has changed.
        self.directory == Some(descriptor)
            || name.is_some_and(|name| FILES.iter().any(|file| name == *file))
    }
}

fn problem(path: &Path, error: &io::Error) -> String {
    format!(
        "cannot watch {}: {error}, so changes of containers are seen after up to a minute; raise \
         fs.inotify.max_user_watches",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_containers_are_noticed_and_others_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path();
        let mut watch = CheckpointWatch::new(state_dir).unwrap();
        let settle = |watch: &mut CheckpointWatch| {
            watch.receive();
            assert_eq!(watch.update(), [""; 0]);
            watch.receive()
        };
        assert!(!settle(&mut watch));
        std::fs::create_dir(state_dir.join("node")).unwrap();
        assert!(!watch.receive(), "another directory");
        let containers = state_dir.join("containers");
        std::fs::create_dir(&containers).unwrap();
        assert!(watch.receive());
        assert!(!settle(&mut watch));
        let container = containers.join("c1");
        std::fs::create_dir(&container).unwrap();
        assert!(watch.receive());
        assert!(!settle(&mut watch));
        std::fs::write(container.join("hosts"), "x").unwrap();
        assert!(!watch.receive(), "another file");
        for file in FILES {
            std::fs::write(container.join(file), "{}").unwrap();
            assert!(watch.receive(), "{file}");
            // The library keeps the file open, and writes it in place.
            let open = std::fs::File::options()
                .write(true)
                .open(container.join(file));
            let mut open = open.unwrap();
            assert!(!watch.receive());
            io::Write::write_all(&mut open, b"{ }").unwrap();
            assert!(watch.receive(), "{file}");
            drop(open);
            watch.receive();
            std::fs::write(container.join("new"), "{}").unwrap();
            std::fs::rename(container.join("new"), container.join(file)).unwrap();
            assert!(watch.receive(), "{file}");
        }
        std::fs::remove_file(container.join(FILES[1])).unwrap();
        assert!(watch.receive());
        // The same name again.
        std::fs::remove_dir_all(&container).unwrap();
        assert!(watch.receive());
        assert!(!settle(&mut watch));
        std::fs::create_dir(&container).unwrap();
        assert!(!settle(&mut watch));
        std::fs::write(container.join(FILES[0]), "{}").unwrap();
        assert!(watch.receive());
        // The whole directory.
        std::fs::remove_dir_all(&containers).unwrap();
        assert!(watch.receive());
        assert!(!settle(&mut watch));
        std::fs::create_dir_all(&container).unwrap();
        assert!(watch.receive());
        assert!(!settle(&mut watch));
        std::fs::write(container.join(FILES[0]), "{}").unwrap();
        assert!(watch.receive());
    }
}
