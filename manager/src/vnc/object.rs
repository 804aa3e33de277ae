//! What all objects of the API have in common, and the pieces that they are made of.
//!
//! Invariants: absent, null and missing are the same; unknown fields are ignored; what was never
//! set is never sent. The macro [`object`] gives every field these properties.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::FqName;

/// An object of the API.
pub trait Object: Clone + Serialize + DeserializeOwned + Send + Sync {
    /// Its type as URLs and messages name it, such as `virtual-network`.
    const TYPE: &'static str;

    /// What every object has.
    fn common(&self) -> &Common;
    /// What every object has, to be changed.
    fn common_mut(&mut self) -> &mut Common;

    /// The plural in URLs: always an `s`, `network-policys` too.
    #[must_use]
    fn collection() -> String {
        format!("{}s", Self::TYPE)
    }

    /// A new object of that name. Its parent's type comes with it where there is one only.
    #[must_use]
    fn named(fq_name: FqName) -> Self;
}

/// What every object has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Common {
    /// Chosen by us at creation; canonical and lower-case on the wire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// Its name, unique for its type over the whole server.
    #[serde(deserialize_with = "nullable")]
    pub fq_name: FqName,
    /// The type of its parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_type: Option<String>,
    /// The uuid of its parent; the server finds it by the name.
    #[serde(skip_serializing)]
    pub parent_uuid: Option<Uuid>,
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free to use: a map, so that keys are unique.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "KeyValues::is_empty"
    )]
    pub annotations: KeyValues,
    /// When it was made and changed.
    #[serde(skip_serializing)]
    pub id_perms: Option<IdPerms>,
}

/// When an object was made and changed. Its 64-bit halves of the uuid are not read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct IdPerms {
    /// UTC, such as `2026-11-21T03:00:24.084789`.
    pub created: Option<String>,
    /// Likewise.
    pub last_modified: Option<String>,
}

/// A reference to another object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound = "A: Serialize + DeserializeOwned")]
pub struct Ref<A = NoAttribute> {
    /// Its name. The server fails without it, even where the uuid is there.
    #[serde(default, deserialize_with = "nullable")]
    pub to: FqName,
    /// Its uuid; need not be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// What the reference itself says.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub attr: Option<A>,
}

fn none<A>() -> Option<A> {
    None
}

impl<A> Ref<A> {
    /// A reference by name.
    #[must_use]
    pub fn to(fq_name: FqName) -> Self {
        Self {
            to: fq_name,
            uuid: None,
            attr: None,
        }
    }

    /// A reference by name that says something.
    #[must_use]
    pub fn with(fq_name: FqName, attr: A) -> Self {
        Self {
            to: fq_name,
            uuid: None,
            attr: Some(attr),
        }
    }
}

/// The attribute of references that say nothing; whatever a server puts there is ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoAttribute;

impl Serialize for NoAttribute {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

impl<'de> Deserialize<'de> for NoAttribute {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// Pairs of key and value; the server keeps them as a map, without order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValues(pub BTreeMap<String, String>);

impl KeyValues {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for KeyValues {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
    }
}

/// An address, or none. What a server has there that is no address reads as none: it checks few.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address(pub Option<IpAddr>);

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        Self(Some(address))
    }
}

impl Serialize for Address {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text: Option<String> = Option::deserialize(deserializer)?;
        Ok(Self(text.and_then(|text| text.trim().parse().ok())))
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Pairs {
    #[serde(deserialize_with = "nullable")]
    key_value_pair: Vec<Pair>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Pair {
    #[serde(deserialize_with = "nullable")]
    key: String,
    #[serde(deserialize_with = "nullable")]
    value: String,
}

impl Serialize for KeyValues {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let pairs = self.0.iter().map(|(key, value)| Pair {
            key: key.clone(),
            value: value.clone(),
        });
        Pairs {
            key_value_pair: pairs.collect(),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for KeyValues {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = Pairs::deserialize(deserializer)?.key_value_pair;
        Ok(pairs
            .into_iter()
            .map(|pair| (pair.key, pair.value))
            .collect())
    }
}

/// Reads null as the default.
pub(super) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Whether a value is its type's default, and so was never set.
pub(super) fn is_unset<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Declares structs whose fields may all be absent or null, and are not sent while unset.
///
/// `Name = "type" in parent-type { … }` declares an object, `Name { … }` a piece of one.
macro_rules! object {
    (@body $(#[$meta:meta])* $name:ident, [$($common:tt)*],
        { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($common)*
            $(
                $(#[$field_meta])*
                #[serde(
                    deserialize_with = "crate::vnc::object::nullable",
                    skip_serializing_if = "crate::vnc::object::is_unset"
                )]
                pub $field: $type,
            )*
        }
    };
    ($(#[$meta:meta])* $name:ident = $kind:literal in $parent:expr, $fields:tt) => {
        object!(@body $(#[$meta])* $name, [
            /// What every object has.
            #[serde(flatten)]
            pub common: crate::vnc::object::Common,
        ], $fields);

        impl crate::vnc::object::Object for $name {
            const TYPE: &'static str = $kind;

            fn common(&self) -> &crate::vnc::object::Common {
                &self.common
            }

            fn common_mut(&mut self) -> &mut crate::vnc::object::Common {
                &mut self.common
            }

            fn named(fq_name: crate::vnc::FqName) -> Self {
                let parent: Option<&str> = $parent;
                let mut object = Self::default();
                object.common.fq_name = fq_name;
                object.common.parent_type = parent.map(str::to_owned);
                object
            }
        }
    };
    ($(#[$meta:meta])* $name:ident, $fields:tt) => {
        object!(@body $(#[$meta])* $name, [], $fields);
    };
}
pub(super) use object;
