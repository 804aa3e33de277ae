//! A procfs of our own for the settings of containers, which is mounted nowhere.
//!
//! The kernel caches the names below `/proc/sys`, of every network namespace under the same name, and
//! walks over all of them at each lookup: with 100 containers that is half of what an attach costs
//! inside the container. Each procfs has a cache of its own, so one that is replaced after some
//! containers never has many.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// How often one procfs is used before it is replaced in the background. Mounting one takes half a
/// millisecond.
const MAX_USES: u32 = 64;
/// How long the last uses of a procfs may take. Its end takes milliseconds, for which no container
/// waits.
const RETIREMENT: Duration = Duration::from_secs(1);

enum PrivateProc {
    NotMounted,
    Mounted {
        root: Arc<OwnedFd>,
        uses: u32,
    },
    /// The kernel has no such mounts, or refuses them.
    Unavailable,
}

static PROC: Mutex<PrivateProc> = Mutex::new(PrivateProc::NotMounted);

fn lock() -> MutexGuard<'static, PrivateProc> {
    PROC.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The root of the procfs; `None` if there is only the one below `/proc`.
pub(super) fn root() -> Option<Arc<OwnedFd>> {
    let mut proc = lock();
    if let PrivateProc::NotMounted = *proc {
        *proc = match mount() {
            Ok(root) => mounted(root),
            Err(error) => {
                log::debug!("no procfs of our own, so settings of containers take longer: {error}");
                PrivateProc::Unavailable
            }
        };
    }
    let PrivateProc::Mounted { root, uses } = &mut *proc else {
        return None;
    };
    *uses += 1;
    let root = Arc::clone(root);
    if *uses >= MAX_USES {
        *uses = 0;
        // Without a thread, it is replaced after as many uses more.
        let _ = std::thread::Builder::new()
            .name("cm-proc".to_owned())
            .spawn(replace);
    }
    Some(root)
}

fn mounted(root: OwnedFd) -> PrivateProc {
    PrivateProc::Mounted {
        root: Arc::new(root),
        uses: 0,
    }
}

/// Mounts another procfs, and lets go of the present one when its last use is over.
fn replace() {
    match mount() {
        Ok(root) => {
            let old = std::mem::replace(&mut *lock(), mounted(root));
            std::thread::sleep(RETIREMENT);
            drop(old);
        }
        Err(error) => log::debug!("the procfs for settings of containers stays: {error}"),
    }
}

fn mount() -> io::Result<OwnedFd> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&context, flags, attributes)?)
}

/// Writes a setting of the calling thread's namespaces.
pub(super) fn write(root: &OwnedFd, name: &str, value: &str) -> io::Result<()> {
    let path = format!("sys/{name}");
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(root, path.as_str(), flags, Mode::empty())?);
    file.write_all(value.as_bytes())
}
