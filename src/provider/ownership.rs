//! Ownership of kernel objects: what this program writes into aliases and comments.
//!
//! ```text
//! contrail-mesos 1f2e3d4c cm0123456789abc 4711-… eth0     a container's link, a mapped port
//! contrail-mesos 1f2e3d4c network blue                    shared by the containers of a network
//! contrail-mesos 1f2e3d4c bridge                          a bridge
//! ```
//! The second word is the instance: a hash of its state directory.

use std::path::{Path, PathBuf};

use contrail_mesos_api::text::hex;
use sha2::{Digest, Sha256};

use super::{Intent, NetworkRequest, ProviderError, refused};
use crate::net::link_reaper::LinkToDelete;
use crate::net::links::{self, Link};
use contrail_mesos_api::container::ContainerId;

const PROGRAM: &str = "contrail-mesos";
/// How much of a container's id or a network's name a label has, in bytes; `nft` shows 127 bytes
/// of a comment.
const MAX_NAME_BYTES: usize = 64;

/// Marks kernel objects as owned by one instance on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnerTag(String);

/// The path with its symbolic links resolved, as far as it exists.
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for ancestor in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (ancestor.canonicalize(), path.strip_prefix(ancestor)) {
            // Joining an empty path would add a slash, and so give the same directory another tag
            // once it exists.
            return real.join(rest).components().collect();
        }
    }
    path
}

/// Identifies the instance that has this state directory: eight hexadecimal digits.
#[must_use]
pub fn instance_tag(state_dir: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let digest = Sha256::digest(resolved(state_dir).as_os_str().as_bytes());
    hex(&digest[..4])
}

pub(super) fn truncated(name: &str) -> &str {
    // File names of containers and names of networks are ASCII.
    name.get(..MAX_NAME_BYTES).unwrap_or(name)
}

/// Whether `name` is how labels name the container with that file name.
pub(crate) fn is_label_of(name: &str, file_name: &str) -> bool {
    name == truncated(file_name)
}

impl OwnerTag {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self(instance_tag(state_dir))
    }

    fn prefix(&self) -> String {
        format!("{PROGRAM} {} ", self.0)
    }

    /// Whether this instance wrote a label.
    pub(super) fn owns(&self, label: &str) -> bool {
        label.starts_with(&self.prefix())
    }

    /// The label of a container's interface, whose host end is the link `host_interface`.
    pub(super) fn container_label<P>(&self, intent: &Intent<P>, host_interface: &str) -> String {
        format!(
            "{}{host_interface} {} {}",
            self.prefix(),
            truncated(&intent.container.file_name()),
            intent.interface
        )
    }

    /// Whether this instance wrote a label of this container's interface or mapped port.
    pub(super) fn owns_container(&self, label: &str, container: &ContainerId) -> bool {
        self.container_name(label) == Some(truncated(&container.file_name()))
    }

    /// The container in the label of an interface or mapped port that this instance wrote: its file
    /// name, of which very long ones are cut.
    pub(super) fn container_name<'a>(&self, label: &'a str) -> Option<&'a str> {
        let mut words = label.strip_prefix(&self.prefix())?.split(' ');
        let host_interface = words.next()?;
        let name = words.next()?;
        words.next()?;
        let is_link = host_interface.starts_with("cm") || host_interface.starts_with("tap");
        (is_link && words.next().is_none()).then_some(name)
    }

    /// The link `name`, to be deleted if this instance made it. The name derives from the
    /// container's whole id and its interface, so it needs no check of both.
    pub(super) fn link_to_delete(&self, name: &str) -> LinkToDelete {
        LinkToDelete {
            name: name.to_owned(),
            alias_prefix: format!("{}{name} ", self.prefix()),
        }
    }

    /// The label of what the containers of a network share.
    pub(super) fn network_label(&self, network: &str) -> String {
        format!("{}network {}", self.prefix(), truncated(network))
    }

    /// The label of a bridge.
    pub(super) fn bridge_label(&self) -> String {
        format!("{}bridge", self.prefix())
    }

    /// Whether this instance made that bridge. One that was just created has no alias yet, but its MAC
    /// address.
    pub(super) fn owns_bridge(&self, link: &Link) -> bool {
        link.alias.as_deref() == Some(&self.bridge_label())
            || link.mac == self.bridge_mac(&link.name)
    }

    /// The number of the routing table of what this instance keeps closed.
    pub(super) fn routing_table(&self) -> u32 {
        // Above the tables that have names, and below those that programs read as signed numbers.
        const BASE: u32 = 0x4000_0000;
        let tag = u32::from_str_radix(&self.0, 16).unwrap_or_default();
        BASE | (tag & (BASE - 1))
    }

    /// The host end in a container's label that this instance wrote.
    pub(super) fn host_interface<'a>(&self, label: &'a str) -> Option<&'a str> {
        let word = label.strip_prefix(&self.prefix())?.split(' ').next()?;
        (word.starts_with("cm") && word.len() == 15).then_some(word)
    }

    /// The MAC address of a bridge: fixed, so that it does not change when ports come and go.
    pub(super) fn bridge_mac(&self, bridge: &str) -> [u8; 6] {
        let digest = Sha256::digest(format!("{} {bridge}", self.0));
        [0x02, digest[0], digest[1], digest[2], digest[3], digest[4]]
    }
}

/// Whether any instance of this program wrote a label.
pub(super) fn is_program_label(label: &str) -> bool {
    label.split(' ').next() == Some(PROGRAM)
}

/// Refuses a container whose host end exists already, whichever instance made it.
pub(super) fn refuse_existing_link(
    request: &NetworkRequest,
    host_interface: &str,
) -> Result<(), ProviderError> {
    if !links::exists(host_interface) {
        return Ok(());
    }
    Err(refused(
        &request.network.name,
        format!(
            "the interface {} of container {} is attached already (its host end is {host_interface}); detach it first, with the state directory with which it was attached",
            request.interface, request.container
        ),
    ))
}

/// The owner in a label of any instance, for a message.
pub(super) fn describe_owner(label: &str) -> String {
    let words: Vec<_> = label.split(' ').collect();
    match words.as_slice() {
        [PROGRAM, _, _, container, interface] => format!("container {container} ({interface})"),
        _ => format!("{label:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_belongs_to_one_container_of_one_instance() {
        let owner = OwnerTag("1f2e3d4c".to_owned());
        let container = ContainerId::top_level("c1");
        let label = "contrail-mesos 1f2e3d4c cm0123456789abc c1 eth0";
        assert!(owner.owns_container(label, &container));
        for other in [
            "contrail-mesos 1f2e3d4d cm0123456789abc c1 eth0",
            "contrail-mesos 1f2e3d4c cm0123456789abc c10 eth0",
            "contrail-mesos 1f2e3d4c network c1",
            "contrail-mesos 1f2e3d4c bridge",
            "",
        ] {
            assert!(!owner.owns_container(other, &container), "{other}");
        }
        let link = owner.link_to_delete("cm0123456789abc");
        assert!(label.starts_with(&link.alias_prefix));
        assert!(!"contrail-mesos 1f2e3d4c cm0123456789abcd c1".starts_with(&link.alias_prefix));
    }

    #[test]
    fn owner_tag_is_stable_when_state_dir_is_created() {
        let directory = tempfile::tempdir().unwrap();
        let state_dir = directory.path().join("state");
        let before = OwnerTag::new(&state_dir);
        std::fs::create_dir(&state_dir).unwrap();
        assert_eq!(OwnerTag::new(&state_dir), before);
        assert_eq!(OwnerTag::new(&state_dir.join("")), before);
        assert_ne!(OwnerTag::new(directory.path()), before);
    }
}
