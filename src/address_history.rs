//! Which containers had an address before, for operators: the file `address-history.jsonl` of the state
//! directory, and the one before it.
//!
//! Invariants: a line is appended when a container has been detached completely, so attaches do not wait
//! for it. No decision depends on it: it is not synced, and what cannot be written or read is left out.
//! Both files together have a bounded size.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use contrail_mesos_api::files::read_regular_file;
use contrail_mesos_api::text::truncate;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::isolator::checkpoint::{Checkpoint, Checkpoints};

/// The file that lines are appended to.
const FILE: &str = "address-history.jsonl";
/// The file before it.
const PREVIOUS_FILE: &str = "address-history.1.jsonl";
/// A file that is longer is renamed.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// The longest id in a line, in characters.
const MAX_ID_CHARS: usize = 256;
/// How many addresses of a container are noted.
const MAX_ADDRESSES: usize = 64;

/// An address that a container had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressUse {
    /// The address.
    pub address: IpAddr,
    /// The network's name.
    pub network: String,
    /// The container's id as Mesos prints it.
    pub container: String,
    /// Its interface.
    pub interface: String,
    /// The framework's id; none of an operator's attachment.
    pub framework: Option<String>,
    /// The executor's id, which for a command task is the task's.
    pub executor: Option<String>,
    /// When its attach was complete, in milliseconds since 1970.
    pub from_milliseconds: u64,
    /// When its detach was complete.
    pub until_milliseconds: u64,
}

impl AddressUse {
    /// The addresses of a container whose networks have all been detached, and whose checkpoint is
    /// about to be removed. Blocks on the file system.
    pub(crate) fn of_detached(checkpoints: &Checkpoints, checkpoint: &Checkpoint) -> Vec<Self> {
        let Some((attachments, since)) = checkpoints.detaching(&checkpoint.container) else {
            return vec![];
        };
        let short = |text: &str| truncate(text, MAX_ID_CHARS);
        let executor = checkpoint.executor.as_ref();
        let until_milliseconds = milliseconds(SystemTime::now());
        let networks = checkpoint.networks.iter().zip(&attachments);
        let addresses = networks.flat_map(|(network, attachment)| {
            let addresses = attachment.addresses.iter();
            addresses.map(|net| (&network.intent, net.addr()))
        });
        addresses
            .take(MAX_ADDRESSES)
            .map(|(intent, address)| Self {
                address,
                network: intent.network.clone(),
                container: short(&checkpoint.container.to_string()),
                interface: intent.interface.clone(),
                framework: executor.map(|key| short(&key.framework)),
                executor: executor.map(|key| short(&key.executor)),
                from_milliseconds: milliseconds(since),
                until_milliseconds,
            })
            .collect()
    }
}

fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Appends these uses. Never waits: neither for another process, nor for a pipe that somebody put there.
pub(crate) fn append(state_dir: &Path, uses: &[AddressUse]) -> io::Result<()> {
    append_up_to(state_dir, uses, MAX_FILE_BYTES)
}

fn append_up_to(state_dir: &Path, uses: &[AddressUse], max_bytes: u64) -> io::Result<()> {
    if uses.is_empty() {
        return Ok(());
    }
    let mut lines = Vec::new();
    for line in uses {
        // A line that a crash or a full disk has cut does not damage the next one.
        lines.push(b'\n');
        serde_json::to_writer(&mut lines, line)?;
    }
    let path = state_dir.join(FILE);
    let mut file = open(&path)?;
    if file.metadata()?.len() >= max_bytes && begin_new_file(state_dir, &file)? {
        file = open(&path)?;
    }
    // At once, so that lines of several processes are not mixed.
    file.write_all(&lines)
}

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW).bits())
        .open(path)?;
    if !file.metadata()?.is_file() {
        let error = format!("{} is not a regular file", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
    }
    Ok(file)
}

/// Renames the file, which replaces the one before it. Returns whether this or another process has.
fn begin_new_file(state_dir: &Path, file: &File) -> io::Result<bool> {
    if file.try_lock().is_err() {
        // Another process is about to.
        return Ok(false);
    }
    let path = state_dir.join(FILE);
    let (current, own) = (fs::symlink_metadata(&path)?, file.metadata()?);
    if (current.dev(), current.ino()) == (own.dev(), own.ino()) {
        fs::rename(&path, state_dir.join(PREVIOUS_FILE))?;
    }
    Ok(true)
}

/// The past uses of an address, the latest first, and what could not be read. Blocks on the file system.
#[must_use]
pub fn of_address(state_dir: &Path, address: IpAddr) -> (Vec<AddressUse>, Vec<String>) {
    let (mut uses, mut problems) = (Vec::new(), Vec::new());
    for path in paths(state_dir) {
        let text = match read_regular_file(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                problems.push(format!("cannot read {}: {error}", path.display()));
                continue;
            }
        };
        let lines = text.split(|byte| *byte == b'\n');
        // A line that cannot be understood was cut by a crash.
        let parsed = lines.filter_map(|line| serde_json::from_slice::<AddressUse>(line).ok());
        uses.extend(parsed.filter(|line| line.address == address));
    }
    uses.sort_by_key(|line| std::cmp::Reverse(line.until_milliseconds));
    (uses, problems)
}

fn paths(state_dir: &Path) -> [PathBuf; 2] {
    [PREVIOUS_FILE, FILE].map(|name| state_dir.join(name))
}

#[cfg(test)]
mod tests {
    use contrail_mesos_api::parser_testing::for_damaged_input;

    use super::*;

    fn used(address: &str, container: &str, until: u64) -> AddressUse {
        AddressUse {
            address: address.parse().unwrap(),
            network: "blue".to_owned(),
            container: container.to_owned(),
            interface: "eth0".to_owned(),
            framework: None,
            executor: Some("web.1".to_owned()),
            from_milliseconds: 1,
            until_milliseconds: until,
        }
    }

    fn containers(state_dir: &Path, address: &str) -> Vec<String> {
        let (uses, problems) = of_address(state_dir, address.parse().unwrap());
        assert_eq!(problems, [""; 0]);
        uses.into_iter().map(|line| line.container).collect()
    }

    #[test]
    fn uses_of_an_address_are_found_latest_first() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path();
        assert_eq!(containers(state_dir, "10.0.0.2"), [""; 0]);
        let one = [used("10.0.0.2", "one", 5), used("fd00::2", "one", 5)];
        append(state_dir, &one).unwrap();
        // A line that a full disk has cut.
        let mut file = open(&state_dir.join(FILE)).unwrap();
        file.write_all(b"\n{\"address\":\"10.0").unwrap();
        append(state_dir, &[used("10.0.0.2", "two", 9)]).unwrap();
        assert_eq!(containers(state_dir, "10.0.0.2"), ["two", "one"]);
        assert_eq!(containers(state_dir, "fd00::2"), ["one"]);
    }

    #[test]
    fn files_are_bounded_and_the_oldest_lines_go() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path();
        for number in 0..100 {
            let line = used("10.0.0.2", &number.to_string(), number);
            append_up_to(state_dir, &[line], 2000).unwrap();
        }
        for path in paths(state_dir) {
            let length = fs::metadata(&path).unwrap().len();
            assert!((1000..2500).contains(&length), "{length}");
        }
        assert_eq!(fs::read_dir(state_dir).unwrap().count(), 2);
        let kept = containers(state_dir, "10.0.0.2");
        let expected: Vec<String> = (0..100)
            .rev()
            .take(kept.len())
            .map(|n| n.to_string())
            .collect();
        assert_eq!(kept, expected);
    }

    #[test]
    fn pipe_in_place_of_the_file_does_not_block() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        append(directory.path(), &[used("10.0.0.2", "one", 1)]).unwrap_err();
        let (uses, problems) = of_address(directory.path(), "10.0.0.2".parse().unwrap());
        assert_eq!((uses.len(), problems.len()), (0, 1));
    }

    #[test]
    fn damaged_input_never_panics() {
        let directory = tempfile::tempdir().unwrap();
        let uses = [used("10.0.0.2", "one", 1), used("10.0.0.2", "two", 2)];
        append(directory.path(), &uses).unwrap();
        let path = directory.path().join(FILE);
        let valid = fs::read(&path).unwrap();
        for_damaged_input(&valid, |input| {
            fs::write(&path, input).unwrap();
            let (uses, _) = of_address(directory.path(), "10.0.0.2".parse().unwrap());
            assert!(uses.len() <= 3);
        });
    }
}
