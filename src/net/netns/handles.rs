//! Handles: bind mounts that keep a network namespace alive under a path, as `ip netns` makes them.
//!
//! The directory of the handles is a mount of its own, shared in a peer group of its own. Without
//! that, the mount namespace of a container, which is a copy of the host's, would hold a copy of
//! every handle, and keep those namespaces alive after the handles are removed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::{NSFS_MAGIC, fstatfs, statfs};

use super::NetnsError;

fn fail(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetnsError {
    let path = path.to_owned();
    move |source| NetnsError::Handle {
        action,
        path,
        source,
    }
}

/// Whether an open file is a namespace and not a regular file.
pub(super) fn is_namespace(file: impl AsFd) -> io::Result<bool> {
    Ok(fstatfs(file)?.filesystem_type() == NSFS_MAGIC)
}

/// Whether there is a live handle at `path`. A regular file that a reboot left is not one.
#[must_use]
pub fn is_handle(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == NSFS_MAGIC)
}

/// Makes the directory of the handles a shared mount of its own. Idempotent.
pub fn prepare_directory(directory: &Path) -> Result<(), NetnsError> {
    fs::create_dir_all(directory).map_err(fail("create", directory))?;
    let none: Option<&str> = None;
    let share = || {
        mount(
            none,
            directory,
            none,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            none,
        )
    };
    match share() {
        Ok(()) => Ok(()),
        // Not a mount point yet.
        Err(Errno::EINVAL) => mount(
            Some(directory),
            directory,
            none,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            none,
        )
        // A bind mount joins the peer group of its source. Leaving it first gives the mount a
        // group of its own.
        .and_then(|()| mount(none, directory, none, MsFlags::MS_PRIVATE, none))
        .and_then(|()| share())
        .map_err(|error| fail("mount", directory)(error.into())),
        Err(error) => Err(fail("share the mount", directory)(error.into())),
    }
}

/// Like [`pin`], and prepares the directory of `path` before it is used first.
pub fn prepare_and_pin(namespace: impl AsFd, path: &Path) -> Result<(), NetnsError> {
    // Done once per directory, because it walks over all existing handles.
    static PREPARED: Mutex<Option<PathBuf>> = Mutex::new(None);
    if let Some(directory) = path.parent() {
        let mut prepared = PREPARED.lock().unwrap_or_else(PoisonError::into_inner);
        if prepared.as_deref() != Some(directory) || !directory.exists() {
            prepare_directory(directory)?;
            *prepared = Some(directory.to_owned());
        }
    }
    pin(namespace, path)
}

/// Makes `path` a handle of `namespace`. Reuses a regular file at `path`; fails for a live handle
/// of another namespace.
pub fn pin(namespace: impl AsFd, path: &Path) -> Result<(), NetnsError> {
    if is_handle(path) {
        let existing = File::open(path).map_err(fail("open", path))?;
        return match super::same(&namespace, &existing) {
            Ok(true) => Ok(()),
            Ok(false) => Err(fail("pin a namespace at", path)(
                io::ErrorKind::AlreadyExists.into(),
            )),
            Err(error) => Err(fail("compare a namespace with", path)(error)),
        };
    }
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        // Opening a pipe that somebody put there fails, and does not block.
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)
        .map_err(fail("create", path))?;
    let source = format!("/proc/thread-self/fd/{}", namespace.as_fd().as_raw_fd());
    let none: Option<&str> = None;
    mount(Some(source.as_str()), path, none, MsFlags::MS_BIND, none).map_err(|error| {
        // Leaves no empty file, which looks like a handle.
        let _ = fs::remove_file(path);
        fail("pin a namespace at", path)(error.into())
    })
}

/// Removes a handle. Succeeds if there is none, or only a regular file that a reboot left.
pub fn unpin(path: &Path) -> Result<(), NetnsError> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // There may be several mounts on top of each other.
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(error) => return Err(fail("unmount", path)(error.into())),
        }
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail("remove", path)(error)),
        _ => Ok(()),
    }
}
