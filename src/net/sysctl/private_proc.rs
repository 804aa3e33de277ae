//! A procfs of our own for the settings of containers, which is mounted nowhere.
//!
//! The kernel caches the names below `/proc/sys`, of every network namespace under the same name, and
//! walks over all of them at each lookup: with 100 containers that is half of what an attach costs
//! inside the container. Each procfs has a cache of its own, so one that is replaced after some
//! containers never has many.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

/// How often one procfs is used.
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

/// The root of the procfs; `None` if there is only the one below `/proc`.
pub(super) fn root() -> Option<Arc<OwnedFd>> {
    static PROC: Mutex<PrivateProc> = Mutex::new(PrivateProc::NotMounted);
    let mut proc = PROC.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *proc {
        PrivateProc::Unavailable => return None,
        PrivateProc::Mounted { root, uses } if *uses < MAX_USES => {
            *uses += 1;
            return Some(Arc::clone(root));
        }
        PrivateProc::Mounted { .. } | PrivateProc::NotMounted => {}
    }
    let (next, root) = match mount() {
        Ok(root) => {
            let root = Arc::new(root);
            let mounted = PrivateProc::Mounted {
                root: Arc::clone(&root),
                uses: 1,
            };
            (mounted, Some(root))
        }
        Err(error) => {
            log::debug!("no procfs of our own, so settings of containers take longer: {error}");
            (PrivateProc::Unavailable, None)
        }
    };
    if let PrivateProc::Mounted { root, .. } = std::mem::replace(&mut *proc, next) {
        retire(root);
    }
    root
}

/// Lets go of a procfs when its last use is over.
fn retire(root: Arc<OwnedFd>) {
    // Without a thread, it ends here.
    let _ = std::thread::Builder::new()
        .name("cm-proc".to_owned())
        .spawn(move || {
            std::thread::sleep(RETIREMENT);
            drop(root);
        });
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
