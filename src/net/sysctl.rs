//! Kernel settings under `/proc/sys/net`, of the namespace that the calling thread is in.
//!
//! Written only where they differ, so that a read-only `/proc/sys` is no obstacle on a host that
//! is set up already.

use std::fs;
use std::io;
use std::path::Path;

/// A setting that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot set {name} to {value}: {source}; is /proc/sys writable here?")]
pub struct SysctlError {
    /// As `sysctl` would call it, with slashes.
    pub name: String,
    /// The wanted value.
    pub value: String,
    /// Why not.
    #[source]
    pub source: io::Error,
}

fn path(name: &str) -> std::path::PathBuf {
    Path::new("/proc/sys").join(name)
}

/// The value of a setting, without its newline; `None` if the kernel has no such setting.
#[must_use]
pub fn get(name: &str) -> Option<String> {
    fs::read_to_string(path(name))
        .ok()
        .map(|text| text.trim().to_owned())
}

/// Sets `name` unless it is `value` already. Whether it was changed.
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

/// Writes `name` without looking at it first, where a kernel without the setting is as good. For
/// the attach path: finding a setting of a container takes the kernel longer the more containers
/// there are.
pub fn write_if_there(name: &str, value: &str) -> Result<(), SysctlError> {
    match fs::write(path(name), value) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(SysctlError {
            name: name.to_owned(),
            value: value.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Like [`set`], where a kernel without the setting is as good.
pub fn set_if_there(name: &str, value: &str) -> Result<bool, SysctlError> {
    match set(name, value) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other,
    }
}

/// The interfaces that have settings of the family `ipv4` or `ipv6`, without `all` and `default`.
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
