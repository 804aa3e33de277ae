//! The cgroups of a cluster, in every hierarchy of the machine.
//!
//! Invariant: only cgroups at the top of a hierarchy whose name begins with the given prefix are
//! looked at.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Every cgroup, nested ones included, under those whose names begin with `prefix`. Parents first.
pub fn find(prefix: &str) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read the mounts")?;
    for mount in mounts.lines() {
        let mut fields = mount.split(' ').skip(1);
        let (Some(hierarchy), Some("cgroup" | "cgroup2")) = (fields.next(), fields.next()) else {
            continue;
        };
        for directory in directories(Path::new(hierarchy))? {
            let name = directory.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with(prefix) {
                collect(directory, &mut found)?;
            }
        }
    }
    Ok(found)
}

fn collect(cgroup: PathBuf, found: &mut BTreeSet<PathBuf>) -> Result<()> {
    for child in directories(&cgroup)? {
        collect(child, found)?;
    }
    found.insert(cgroup);
    Ok(())
}

fn directories(parent: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(parent) {
        Ok(entries) => entries,
        // An agent may remove a cgroup while it is listed.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot list {}", parent.display()));
        }
    };
    Ok(entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect())
}

/// Kills every process in these cgroups and removes them.
pub fn remove(prefix: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let cgroups = find(prefix)?;
        if cgroups.is_empty() {
            return Ok(());
        }
        let mut busy = None;
        for cgroup in cgroups.iter().rev() {
            // A frozen process does not die.
            if cgroup.join("freezer.state").exists() {
                let _ = fs::write(cgroup.join("freezer.state"), "THAWED");
            }
            for pid in processes(cgroup) {
                // It may have gone since it was listed.
                let _ = kill(pid, Signal::SIGKILL);
            }
            match fs::remove_dir(cgroup) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    busy = Some((cgroup.clone(), error));
                }
                _ => {}
            }
        }
        if let Some((cgroup, error)) = busy
            && Instant::now() > deadline
        {
            bail!("cannot remove the cgroup {}: {error}", cgroup.display());
        }
        sleep(Duration::from_millis(10));
    }
}

/// The processes of a cgroup that are in the caller's process namespace.
#[must_use]
pub fn processes(cgroup: &Path) -> Vec<Pid> {
    let pids = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    pids.lines()
        .filter_map(|pid| pid.parse().ok())
        // Zero stands for a process of another namespace, and to kill would mean the own group.
        .filter(|pid| *pid > 1)
        .map(Pid::from_raw)
        .collect()
}
