//! The identity of a container: its Mesos id, and the kernel names that derive from it.
//!
//! Invariant: every name derives from the *whole* id (and interface) by hash, never by
//! truncation, so containers whose ids share a prefix never share a link.

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::text::{Quoted, hex};

/// A container's id with those of its parents, outermost first, joined by dots as Mesos prints it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(from = "Vec<String>", into = "Vec<String>")]
pub struct ContainerId {
    /// Never empty: the root container's value first.
    values: Vec<String>,
}

/// The longest id that is used as a file name; longer ones are hashed.
const MAX_FILE_NAME_BYTES: usize = 200;

impl ContainerId {
    /// A top-level container.
    #[must_use]
    pub fn top_level(value: &str) -> Self {
        Self {
            values: vec![value.to_owned()],
        }
    }

    /// Parses the form that Mesos prints: `parent.child`. The parts of Mesos ids have no dots.
    #[must_use]
    pub fn printed(text: &str) -> Self {
        Self {
            values: text.split('.').map(str::to_owned).collect(),
        }
    }

    /// The container `value` nested in this one.
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

    /// The number of containers in which this one is nested.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.values.len().saturating_sub(1)
    }

    /// The values of the container and of its parents, outermost first.
    pub fn parts(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.values.iter().map(String::as_str)
    }

    /// The parts of the container's id, and then those of each container that it is nested in, the
    /// nearest first. Maps with ids as keys can be searched for each.
    pub fn with_ancestors(&self) -> impl Iterator<Item = &[String]> {
        (1..=self.values.len())
            .rev()
            .map(|length| &self.values[..length])
    }

    /// An id that an operator chooses: it is a name of files, and is shown in tables.
    pub fn chosen(text: &str) -> Result<Self, String> {
        let is_good = text.len() <= MAX_FILE_NAME_BYTES
            && text.starts_with(|first: char| first.is_ascii_alphanumeric())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte));
        if is_good {
            Ok(Self::top_level(text))
        } else {
            Err(format!(
                "{} is no name for a container: use 1 to {MAX_FILE_NAME_BYTES} letters, digits and \
                 any of . _ : - , beginning with a letter or digit",
                Quoted(text.as_bytes())
            ))
        }
    }

    /// Whether the id is like those that agents choose: the top-level part is a UUID. Nested parts may
    /// be a framework's choice.
    #[must_use]
    pub fn is_of_agent(&self) -> bool {
        self.values
            .first()
            .is_some_and(|value| Uuid::try_parse(value).is_ok())
    }

    /// The container's own value, without those of its parents.
    #[must_use]
    pub fn value(&self) -> &str {
        self.values.last().map_or("", String::as_str)
    }

    /// A name for files and namespaces: the id itself if it is a safe file name, else its hash.
    /// Never contains a slash or a NUL, and never starts with a dot.
    #[must_use]
    pub fn file_name(&self) -> String {
        let id = self.to_string();
        let is_safe = !id.is_empty()
            && id.len() <= MAX_FILE_NAME_BYTES
            && !id.starts_with(['.', '-'])
            // With a dot in a part it could equal the name of a nested container.
            && self.values.iter().all(|value| !value.contains('.'))
            && id
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if is_safe {
            id
        } else {
            format!("sha256-{}", hex(&self.digest("file")))
        }
    }

    /// The name of the interface on the host: 15 characters, `cm` and 13 hexadecimal digits.
    #[must_use]
    pub fn host_interface(&self, interface: &str) -> String {
        format!("cm{}", &hex(&self.digest(interface))[..13])
    }

    /// The interface's MAC address: locally administered, stable for the container and interface.
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

impl fmt::Display for ContainerId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.values.join("."))
    }
}

// The derived `Eq` and `Hash` are those of the only field.
impl Borrow<[String]> for ContainerId {
    fn borrow(&self) -> &[String] {
        &self.values
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

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
                .filter(|part| {
                    part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit())
                })
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
    fn names_should_differ_for_ids_that_share_a_prefix() {
        let first = ContainerId::top_level("660a305f-10e4-47fd-a5fc-50e48147423b");
        let second = ContainerId::top_level("660a305f-10e5-47fd-a5fc-50e48147423b");
        assert_ne!(first.host_interface("eth0"), second.host_interface("eth0"));
        assert_ne!(first.host_interface("eth0"), first.host_interface("eth1"));
        assert_ne!(first.mac("eth0"), second.mac("eth0"));
        assert_eq!(first.host_interface("eth0").len(), 15);
    }

    #[test]
    fn file_name_should_hash_unsafe_ids() {
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
    fn chosen_id_must_be_a_plain_name() {
        for id in ["box", "web.1", "a_b:c-d", "1"] {
            assert_eq!(ContainerId::chosen(id), Ok(ContainerId::top_level(id)));
        }
        for id in [
            "",
            "a b",
            "a\tb",
            "a\n",
            "../x",
            ".",
            "-x",
            "a/b",
            "\u{fc}",
            &"x".repeat(201),
        ] {
            let error = ContainerId::chosen(id).unwrap_err();
            assert!(error.contains("use 1 to 200"), "{error}");
        }
    }

    #[test]
    fn ids_of_agents_begin_with_a_uuid() {
        let root = ContainerId::top_level("660a305f-10e4-47fd-a5fc-50e48147423b");
        assert!(root.is_of_agent() && root.nested("check").is_of_agent());
        assert!(ContainerId::printed(&root.nested("check").file_name()).is_of_agent());
        // The name of an operator's attachment, which is one part.
        let chosen = ContainerId::chosen(&format!("{root}.web")).unwrap();
        assert!(!chosen.is_of_agent());
        assert!(!ContainerId::printed("web.1").is_of_agent());
        assert!(!ContainerId::top_level("").is_of_agent());
    }

    #[test]
    fn ancestors_are_keys_of_a_map() {
        let id = ContainerId::top_level("a").nested("b").nested("c");
        let map = std::collections::HashMap::from([(ContainerId::top_level("a"), 1), (id, 2)]);
        let nested = ContainerId::top_level("a").nested("b").nested("x");
        let found = nested.with_ancestors().find_map(|parts| map.get(parts));
        assert_eq!(found, Some(&1));
        assert_eq!(nested.depth(), 2);
    }

    #[test]
    fn parent_should_drop_the_last_value() {
        let id = ContainerId::top_level("a").nested("b").nested("c");
        assert_eq!(
            id.parent().and_then(|id| id.parent()),
            Some(ContainerId::top_level("a"))
        );
    }

    #[test]
    fn mac_address_has_six_bytes_of_two_digits() {
        let parse = |text: &str| Mac::try_from(text.to_owned());
        assert_eq!(
            parse("02:00:5E:00:53:ff"),
            Ok(Mac([2, 0, 0x5e, 0, 0x53, 0xff]))
        );
        for invalid in [
            "",
            "02:00:5e:00:53",
            "02:00:5e:00:53:01:02",
            "02:00:5e:00:53:1",
            "02:00:5e:00:53:+f",
            "+2:00:5e:00:53:01",
            "02:00:5e:00:53: f",
            "02-00-5e-00-53-01",
            "02:00:5e:00:53:0g",
        ] {
            assert!(parse(invalid).is_err(), "{invalid:?}");
        }
    }
}
