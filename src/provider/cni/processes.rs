//! Finds the processes that a plugin started, and ends them with it.
//!
//! A child that calls setsid leaves the plugin's process group, and one whose parent has ended is no
//! descendant of the plugin any more. The agent cannot be their subreaper, because it would adopt
//! the orphans of every other program that it starts, and libprocess does not wait for those. So
//! they are found in `/proc`: by their parents, by CNI's variables in their environment, and by the
//! pipes to which the plugin writes.
//!
//! A process that cleared its environment, closed the pipes and left its parent is not found.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::fstat;
use nix::unistd::Pid;

/// How often `/proc` is searched: a process may start another one before it is killed.
const MAX_SEARCHES: usize = 20;
const SEARCH_INTERVAL: Duration = Duration::from_millis(5);
/// How many processes a message names.
const MAX_NAMED_PROCESSES: usize = 5;

/// Identifies an open file.
type FileId = (u64, u64);

/// What the processes of one run of a plugin have in common.
pub(super) struct PluginProcesses {
    plugin: Process,
    /// `NAME=value`, each of which all of them have.
    environment: Vec<Vec<u8>>,
    /// The pipes that the plugin writes to.
    pipes: Vec<FileId>,
}

impl PluginProcesses {
    /// The processes of the plugin `id`, a child that was not waited for. `None` without `/proc`.
    pub(super) fn of(
        id: u32,
        variables: &[(&str, &OsStr)],
        pipes: impl IntoIterator<Item = impl AsFd>,
    ) -> Option<Self> {
        let stats = pipes.into_iter().filter_map(|pipe| fstat(pipe).ok());
        Some(Self {
            plugin: Process::read(i32::try_from(id).ok()?)?,
            environment: variables
                .iter()
                .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat())
                .collect(),
            pipes: stats.map(|stat| (stat.st_dev, stat.st_ino)).collect(),
        })
    }

    /// Kills all but the plugin itself, which has ended; `found` are those of [`Self::find`] before
    /// it ended. Returns those that are still there.
    pub(super) fn kill(&self, mut found: Vec<Process>) -> Vec<String> {
        for _ in 0..MAX_SEARCHES {
            for process in &found {
                let is_same =
                    Process::read(process.id).is_some_and(|now| now.start == process.start);
                if is_same {
                    // It may have ended.
                    let _ = kill(Pid::from_raw(process.id), Signal::SIGKILL);
                }
            }
            found = self.find();
            if found.is_empty() {
                break;
            }
            std::thread::sleep(SEARCH_INTERVAL);
        }
        found.iter().map(Process::to_string).collect()
    }

    /// All but the plugin itself. The children of a process that has ended have another parent.
    pub(super) fn find(&self) -> Vec<Process> {
        let agent = i32::try_from(std::process::id()).unwrap_or_default();
        let processes = all();
        let mut ids: HashSet<i32> = processes
            .iter()
            .filter(|process| {
                self.is_later(process)
                    && (self.has_environment(process)
                        // A child that the agent has forked but not executed has all its files.
                        || process.parent != agent && self.has_pipe(process))
            })
            .map(|process| process.id)
            .collect();
        if Process::read(self.plugin.id).is_some_and(|now| now.start == self.plugin.start) {
            ids.insert(self.plugin.id);
        }
        loop {
            let count = ids.len();
            let children: Vec<i32> = processes
                .iter()
                .filter(|process| ids.contains(&process.parent))
                .map(|process| process.id)
                .collect();
            ids.extend(children);
            if ids.len() == count {
                break;
            }
        }
        ids.remove(&self.plugin.id);
        processes
            .into_iter()
            .filter(|process| ids.contains(&process.id))
            .collect()
    }

    /// Whether a process was started after the plugin. An earlier plugin of the chain may have left
    /// a daemon that serves others, too.
    fn is_later(&self, process: &Process) -> bool {
        (process.start, process.id) > (self.plugin.start, self.plugin.id)
    }

    fn has_environment(&self, process: &Process) -> bool {
        let Ok(environment) = fs::read(process.path("environ")) else {
            return false;
        };
        let variables: HashSet<&[u8]> = environment.split(|byte| *byte == 0).collect();
        self.environment
            .iter()
            .all(|variable| variables.contains(variable.as_slice()))
    }

    fn has_pipe(&self, process: &Process) -> bool {
        process.files().any(|file| self.pipes.contains(&file))
    }
}

/// The processes that have a file open, for a message.
pub(super) fn holders(file: &File) -> String {
    let Ok(stat) = fstat(file) else {
        return "unknown".to_owned();
    };
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let id = (stat.st_dev, stat.st_ino);
    let holders: Vec<String> = all()
        .into_iter()
        .filter(|process| process.id != own && process.files().any(|file| file == id))
        .map(|process| process.to_string())
        .take(MAX_NAMED_PROCESSES)
        .collect();
    if holders.is_empty() {
        "unknown".to_owned()
    } else {
        holders.join(", ")
    }
}

/// A process that has not ended.
pub(super) struct Process {
    id: i32,
    parent: i32,
    /// In the kernel's ticks since the machine was started.
    start: u64,
    name: String,
}

impl Process {
    fn read(id: i32) -> Option<Self> {
        Self::parse(id, &fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
    }

    /// Parses `/proc/<id>/stat`. The name may have spaces and parentheses.
    fn parse(id: i32, stat: &str) -> Option<Self> {
        let (front, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        Some(Self {
            id,
            parent: fields.get(1)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
            name: front.split_once('(')?.1.escape_default().to_string(),
        })
        .filter(|_| !matches!(fields.first(), Some(&("Z" | "X"))))
    }

    fn path(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.id))
    }

    /// The files that it has open.
    fn files(&self) -> impl Iterator<Item = FileId> {
        fs::read_dir(self.path("fd"))
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let metadata = fs::metadata(entry.ok()?.path()).ok()?;
                Some((metadata.dev(), metadata.ino()))
            })
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} ({})", self.id, self.name)
    }
}

fn all() -> Vec<Process> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Process::read)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_accepts_any_name_and_leaves_out_the_dead() {
        let stat = |name: &str, state: &str| {
            format!("7 ({name}) {state} 3 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0 0\n")
        };
        for name in ["sh", "a b", "x) R 9 (", "()"] {
            let process = Process::parse(7, &stat(name, "S")).unwrap();
            assert_eq!((process.parent, process.start), (3, 4711), "{name}");
            assert_eq!(process.to_string(), format!("7 ({name})"));
        }
        assert!(Process::parse(7, &stat("sh", "Z")).is_none());
        assert!(Process::parse(7, "7 (sh) S").is_none());
        assert!(Process::parse(7, "").is_none());
    }

    #[test]
    fn own_process_is_not_later_than_its_child() {
        let own = Process::read(i32::try_from(std::process::id()).unwrap()).unwrap();
        let processes = PluginProcesses {
            plugin: Process::read(own.id).unwrap(),
            environment: vec![],
            pipes: vec![],
        };
        assert!(!processes.is_later(&own));
        assert!(all().iter().any(|process| process.id == own.id));
    }
}
