//! Handles: files that keep a network namespace alive and give it a name, as `ip netns` does.
//!
//! The directory of the handles is a mount of its own that is shared in a peer group of its own:
//! a container's mount namespace that was copied from the host's would else hold a copy of every
//! handle mounted at the time, and keep those namespaces alive after we let go of them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use nix::errno::Errno;
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

/// Whether an open file is a namespace and not an ordinary file.
pub(super) fn is_namespace(file: impl AsFd) -> io::Result<bool> {
    Ok(fstatfs(file)?.filesystem_type() == NSFS_MAGIC)
}

/// Whether there is a live handle at `path`. A file that a reboot left behind is none.
#[must_use]
pub fn is_handle(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.filesystem_type() == NSFS_MAGIC)
}

/// Makes the directory of the handles a shared mount of its own, once.
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
        // A bind mount starts in the peer group of its source; only by leaving that does it get
        // one of its own.
        .and_then(|()| mount(none, directory, none, MsFlags::MS_PRIVATE, none))
        .and_then(|()| share())
        .map_err(|error| fail("mount", directory)(error.into())),
        Err(error) => Err(fail("share the mount", directory)(error.into())),
    }
}

/// Makes `path` a handle of `namespace`. An ordinary file that is there is taken over; a live
/// handle of another namespace is an error.
pub fn pin(namespace: impl AsFd, path: &Path) -> Result<(), NetnsError> {
    if is_handle(path) {
        let there = File::open(path).map_err(fail("open", path))?;
        return match super::same(&namespace, &there) {
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
        .open(path)
        .map_err(fail("create", path))?;
    let source = format!("/proc/thread-self/fd/{}", namespace.as_fd().as_raw_fd());
    let none: Option<&str> = None;
    mount(Some(source.as_str()), path, none, MsFlags::MS_BIND, none).map_err(|error| {
        // The empty file must not pass for a handle.
        let _ = fs::remove_file(path);
        fail("pin a namespace at", path)(error.into())
    })
}

/// Lets go of a handle. Nothing there, or only a file that a reboot left, is success.
pub fn unpin(path: &Path) -> Result<(), NetnsError> {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // It may have been mounted over and over.
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
