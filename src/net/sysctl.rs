//! Kernel settings under `/proc/sys`, in the network namespace of the calling thread.
//!
//! Names have slashes, such as `net/ipv4/ip_forward`. [`set`] writes only if the value differs, so
//! that a read-only `/proc/sys` does no harm on a host that is already configured.

use std::fs;
use std::io;
use std::path::Path;

mod private_proc;

/// A setting could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {name} to {value}: {source}; is /proc/sys writable here?")]
pub struct SysctlError {
    /// The name of the setting.
    pub name: String,
    /// The value to be written.
    pub value: String,
    /// The reason.
    #[source]
    pub source: io::Error,
}

fn path(name: &str) -> std::path::PathBuf {
    Path::new("/proc/sys").join(name)
}

/// Reads a setting, without its newline. `None` if the kernel does not have it.
#[must_use]
pub fn get(name: &str) -> Option<String> {
    fs::read_to_string(path(name))
        .ok()
        .map(|value| value.trim().to_owned())
}

/// Sets `name` to `value`. Returns whether it was changed.
pub fn set(name: &str, value: &str) -> Result<bool, SysctlError> {
    if get(name).as_deref() == Some(value) {
        return Ok(false);
    }
    fs::write(path(name), value)
        .map(|()| true)
        .map_err(|source| SysctlError {
            name: name.to_owned(),
            value: value.to_owned(),
            source,
        })
}

/// Writes `name` without reading it first, unless the kernel does not have it. For containers, in the
/// attach path: see `private_proc`.
pub fn write_if_present(name: &str, value: &str) -> Result<(), SysctlError> {
    let written = match private_proc::root() {
        Some(root) => private_proc::write(&root, name, value),
        None => fs::write(path(name), value),
    };
    match written {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(SysctlError {
            name: name.to_owned(),
            value: value.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Like [`set`], but does nothing if the kernel does not have the setting.
pub fn set_if_present(name: &str, value: &str) -> Result<bool, SysctlError> {
    match set(name, value) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other,
    }
}

/// The interfaces with settings of the family `ipv4` or `ipv6`, without `all` and `default`.
#[must_use]
pub fn interfaces(family: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(path(&format!("net/{family}/conf"))) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name != "all" && name != "default")
        .collect()
}

#[cfg(test)]
mod root_tests {
    use super::*;
    use crate::net::testing::isolated;

    #[test]
    fn settings_of_many_namespaces_are_written_in_each() {
        let name = "net/ipv4/conf/lo/arp_notify";
        // More than one procfs is used for.
        for _ in 0..150 {
            isolated(move || {
                write_if_present(name, "1").unwrap();
                assert_eq!(get(name).as_deref(), Some("1"));
                write_if_present("net/ipv4/conf/none/arp_notify", "1").unwrap();
                let error = write_if_present(name, "nonsense").unwrap_err();
                assert!(error.to_string().contains(name), "{error}");
            });
        }
        assert_ne!(get(name).as_deref(), Some("1"));
    }

    #[test]
    fn set_writes_only_when_value_differs() {
        isolated(|| {
            assert!(set("net/ipv4/ip_forward", "1").unwrap());
            assert!(!set("net/ipv4/ip_forward", "1").unwrap());
            assert!(!set_if_present("net/ipv4/no_such_setting", "1").unwrap());
            assert!(set("net/ipv4/no_such_setting", "1").is_err());
        });
    }
}
