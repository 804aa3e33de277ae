//! Fields that several tables of the configuration have.

use std::path::PathBuf;

use contrail_mesos_api::config_reader::Section;

/// The longest network name, in bytes: names become directory names.
pub(super) const MAX_NETWORK_NAME_BYTES: usize = 128;

const DEFAULT_MTU: u32 = 1500;
const MAX_MTU: u32 = 65535;

/// `mtu`, in bytes.
pub(super) fn mtu(section: &Section<'_>, minimum: u32) -> u32 {
    section
        .integer("mtu", minimum..=MAX_MTU)
        .unwrap_or(DEFAULT_MTU)
}

/// A directory, which must be an absolute path.
pub(super) fn directory(section: &Section<'_>, key: &str, default: &str) -> PathBuf {
    let path = section
        .text(key, &format!("a directory such as {default:?}"))
        .map_or_else(|| PathBuf::from(default), PathBuf::from);
    if !path.is_absolute() {
        section.problem(
            key,
            format!(
                "{:?} must be an absolute path such as {default:?}",
                path.display()
            ),
        );
    }
    path
}

/// Whether `string` can be a word of a line in `resolv.conf` without starting another line.
pub(crate) fn is_word(string: &str) -> bool {
    !string.is_empty() && string.bytes().all(|byte| byte.is_ascii_graphic())
}
