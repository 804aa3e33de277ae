//! Fields that several tables of the configuration have.

use std::path::{Component, Path, PathBuf};

use contrail_mesos_api::config_reader::Section;
use contrail_mesos_api::text::Quoted;

/// The longest network name, in bytes: names become directory names.
pub(super) const MAX_NETWORK_NAME_BYTES: usize = 128;

const DEFAULT_MTU: u32 = 1500;
/// The largest MTU, in bytes.
pub(crate) const MAX_MTU: u32 = 65535;
/// The smallest MTU of an interface without IPv6, in bytes.
pub(crate) const MIN_MTU_V4: u32 = 576;
/// The smallest MTU of an interface with IPv6, in bytes: the kernel disables IPv6 below it.
pub(crate) const MIN_MTU_V6: u32 = 1280;

/// `mtu`, in bytes.
pub(super) fn mtu(section: &Section<'_>, minimum: u32) -> u32 {
    section
        .integer("mtu", minimum..=MAX_MTU)
        .unwrap_or(DEFAULT_MTU)
}

/// File systems of the kernel, which keep no files.
const KERNEL_FILE_SYSTEMS: [&str; 3] = ["/proc", "/sys", "/dev"];

/// A directory, which must be an absolute path and can have files.
pub(super) fn directory(section: &Section<'_>, key: &str, default: &str) -> PathBuf {
    let path = section
        .text(key, &format!("a directory such as {default:?}"))
        .map_or_else(|| PathBuf::from(default), PathBuf::from);
    if !path.is_absolute() {
        section.problem(
            key,
            format!(
                "{} must be an absolute path such as {default:?}",
                quoted(&path)
            ),
        );
        return path;
    }
    let normal = normalized(&path);
    if let Some(root) = KERNEL_FILE_SYSTEMS
        .iter()
        .find(|root| normal.starts_with(root))
    {
        section.problem(
            key,
            format!(
                "{} is in {root}, where the kernel keeps no files; take a directory such as \
                 {default:?}",
                quoted(&path)
            ),
        );
    } else if normal == Path::new("/") || path.as_os_str().as_encoded_bytes().contains(&0) {
        section.problem(
            key,
            format!(
                "{} is not possible; take a directory such as {default:?}",
                quoted(&path)
            ),
        );
    }
    path
}

/// Directories that are empty after a reboot.
const VOLATILE_DIRECTORIES: [&str; 3] = ["/run", "/var/run", "/tmp"];

/// Warns of a directory that does not survive a reboot.
pub(super) fn warn_if_volatile(section: &Section<'_>, key: &str, path: &Path) {
    let normal = normalized(path);
    if VOLATILE_DIRECTORIES
        .iter()
        .any(|volatile| normal.starts_with(volatile))
    {
        section.warning(
            key,
            format!(
                "{} may be empty after a reboot, which then leaves interfaces and addresses of \
                     containers behind",
                quoted(path)
            ),
        );
    }
}

/// A path without `.` and `..`. Does not follow links.
fn normalized(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            other => normal.push(other),
        }
    }
    normal
}

/// The name of this host, which Contrail's provisioning gives to its virtual-router by default; empty
/// if it is not UTF-8.
pub(super) fn hostname() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default()
}

/// A path in a message.
pub(super) fn quoted(path: &Path) -> String {
    Quoted(path.as_os_str().as_encoded_bytes()).to_string()
}

/// Whether `string` can be a word of a line in `resolv.conf` without starting another line.
pub(crate) fn is_word(string: &str) -> bool {
    !string.is_empty() && string.bytes().all(|byte| byte.is_ascii_graphic())
}
