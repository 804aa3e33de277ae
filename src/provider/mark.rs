//! Whose a thing of the kernel is: what we write into aliases and comments.
//!
//! ```text
//! contrail-mesos 1f2e3d4c cm0123456789abc 4711-… eth0     a container's link, a mapped port
//! contrail-mesos 1f2e3d4c network blue                    what the containers of a network share
//! contrail-mesos 1f2e3d4c bridge                          a bridge
//! ```
//! The second word is the instance: a hash of its state directory.

use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Intent;

const PROGRAM: &str = "contrail-mesos";
/// The longest part of a container's id or network's name that is shown; `nft` shows 127 bytes.
const SHOWN: usize = 64;

/// An instance of ours on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tag(String);

/// The path with its symbolic links resolved, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for ancestor in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            // Joining nothing would add a slash, and make another instance of the same directory
            // once it exists.
            return real.join(rest).components().collect();
        }
    }
    path
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn shown(text: &str) -> &str {
    // File names of containers and names of networks are ASCII.
    text.get(..SHOWN).unwrap_or(text)
}

impl Tag {
    pub(super) fn of(state_dir: &Path) -> Self {
        use std::os::unix::ffi::OsStrExt as _;
        let digest = Sha256::digest(resolved(state_dir).as_os_str().as_bytes());
        Self(hex(&digest[..4]))
    }

    /// What every mark of this instance begins with.
    pub(super) fn prefix(&self) -> String {
        format!("{PROGRAM} {} ", self.0)
    }

    /// Of a container's interface, whose host end is the link `host_interface`.
    pub(super) fn of_container(&self, intent: &Intent, host_interface: &str) -> String {
        format!(
            "{}{host_interface} {} {}",
            self.prefix(),
            shown(&intent.container.file_name()),
            intent.interface
        )
    }

    pub(super) fn of_network(&self, network: &str) -> String {
        format!("{}network {}", self.prefix(), shown(network))
    }

    pub(super) fn of_bridge(&self) -> String {
        format!("{}bridge", self.prefix())
    }

    /// The link that a container's mark of this instance is about.
    pub(super) fn link<'a>(&self, mark: &'a str) -> Option<&'a str> {
        let word = mark.strip_prefix(&self.prefix())?.split(' ').next()?;
        (word.starts_with("cm") && word.len() == 15).then_some(word)
    }

    /// The Ethernet address of a bridge of ours: stable, so that it stays when ports come and go.
    pub(super) fn bridge_mac(&self, bridge: &str) -> [u8; 6] {
        let digest = Sha256::digest(format!("{} {bridge}", self.0));
        [0x02, digest[0], digest[1], digest[2], digest[3], digest[4]]
    }
}

/// Says in words whose an element is, for somebody who wanted it.
pub(super) fn describe(mark: &str) -> String {
    let words: Vec<_> = mark.split(' ').collect();
    match words.as_slice() {
        [PROGRAM, _, _, container, interface] => format!("container {container} ({interface})"),
        _ => format!("{mark:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_the_same_before_and_after_its_directory_exists() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path().join("state");
        let before = Tag::of(&state_dir);
        std::fs::create_dir(&state_dir).unwrap();
        assert_eq!(Tag::of(&state_dir), before);
        assert_eq!(Tag::of(&state_dir.join("")), before);
        assert_ne!(Tag::of(directory.path()), before);
    }
}
