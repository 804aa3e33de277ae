//! The identity of a container: what Mesos calls it, and the kernel names that follow from it.
//!
//! Invariant: every name derives from the *whole* id (and interface) by hash, never by
//! truncation, so that two containers whose ids share a prefix never share a link.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A container's id with those of its parents, outermost first, joined by dots as Mesos prints it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub struct ContainerId {
    /// Never empty: the root's value first, the container's own last.
    values: Vec<String>,
}

/// The longest id that names a file as it stands; longer ones are named by their hash.
const LONGEST_FILE_NAME: usize = 200;

impl ContainerId {
    /// A top-level container.
    #[must_use]
    pub fn top_level(value: &str) -> Self {
        Self {
            values: vec![value.to_owned()],
        }
    }

    /// The container that Mesos prints so: `parent.child`. No part of an id of Mesos has a dot.
    #[must_use]
    pub fn printed(text: &str) -> Self {
        Self {
            values: text.split('.').map(str::to_owned).collect(),
        }
    }

    /// The nested container `value` of this one.
    #[must_use]
    pub fn nested(&self, value: &str) -> Self {
        let mut values = self.values.clone();
        values.push(value.to_owned());
        Self { values }
    }

    /// The container in which this one is nested.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (_, parents) = self.values.split_last()?;
        (!parents.is_empty()).then(|| Self {
            values: parents.to_vec(),
        })
    }

    /// The container's own part of its id, without its parents'.
    #[must_use]
    pub fn value(&self) -> &str {
        self.values.last().map_or("", String::as_str)
    }

    /// A name for files and namespaces: the id itself where it is a harmless file name, else its
    /// hash. Never contains a slash, a NUL or a leading dot.
    #[must_use]
    pub fn file_name(&self) -> String {
        let id = self.to_string();
        let harmless = !id.is_empty()
            && id.len() <= LONGEST_FILE_NAME
            && !id.starts_with(['.', '-'])
            // A part with a dot of its own could read like another container's parent and child.
            && self.values.iter().all(|value| !value.contains('.'))
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if harmless {
            id
        } else {
            format!("sha256-{}", hex(&self.digest("file"), 32))
        }
    }

    /// The host's end of the container's interface: 15 characters, `cm` and 13 hexadecimal digits.
    #[must_use]
    pub fn host_interface(&self, interface: &str) -> String {
        format!("cm{}", &hex(&self.digest(interface), 7)[..13])
    }

    /// The container's end while it is still in the host's namespace, or the MAC address of it:
    /// locally administered, stable for the container and interface.
    #[must_use]
    pub fn mac(&self, interface: &str) -> Mac {
        let digest = self.digest(interface);
        Mac([
            0x02, digest[16], digest[17], digest[18], digest[19], digest[20],
        ])
    }

    fn digest(&self, purpose: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        for value in &self.values {
            hash.update(value.len().to_le_bytes());
            hash.update(value);
        }
        hash.update(purpose);
        hash.finalize().into()
    }
}

fn hex(bytes: &[u8], count: usize) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .take(count)
        .fold(String::new(), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

impl fmt::Display for ContainerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.values.join("."))
    }
}

impl From<Vec<String>> for ContainerId {
    fn from(values: Vec<String>) -> Self {
        Self { values }
    }
}

impl From<ContainerId> for Vec<String> {
    fn from(id: ContainerId) -> Self {
        id.values
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.map(|byte| format!("{byte:02x}"));
        formatter.write_str(&bytes.join(":"))
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            *byte = parts
                .next()
                .filter(|part| part.len() == 2)
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(|| {
                    format!("{text:?} is not a MAC address such as 02:00:5e:00:53:01")
                })?;
        }
        if parts.next().is_some() {
            return Err(format!("{text:?} has more than six bytes"));
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_share_a_prefix_share_no_name() {
        let one = ContainerId::top_level("660a305f-10e4-47fd-a5fc-50e48147423b");
        let two = ContainerId::top_level("660a305f-10e5-47fd-a5fc-50e48147423b");
        assert_ne!(one.host_interface("eth0"), two.host_interface("eth0"));
        assert_ne!(one.host_interface("eth0"), one.host_interface("eth1"));
        assert_ne!(one.mac("eth0"), two.mac("eth0"));
        assert_eq!(one.host_interface("eth0").len(), 15);
    }

    #[test]
    fn hostile_ids_never_become_paths() {
        for id in [
            "../../etc",
            "a/b",
            "",
            ".",
            "a\0b",
            "-rf",
            "a.b",
            &"x".repeat(300),
        ] {
            let name = ContainerId::top_level(id).file_name();
            assert!(name.starts_with("sha256-"), "{id:?} became {name:?}");
        }
        let parent = ContainerId::top_level("p");
        assert_eq!(parent.nested("c").file_name(), "p.c");
        assert_ne!(
            parent.nested("c").file_name(),
            ContainerId::top_level("p.c").file_name()
        );
    }

    #[test]
    fn messages_round_trip() {
        let id = ContainerId::top_level("a").nested("b").nested("c");
        assert_eq!(
            id.parent().and_then(|id| id.parent()),
            Some(ContainerId::top_level("a"))
        );
    }
}
