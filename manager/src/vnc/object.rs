//! The fields that all API objects share, and the building blocks of the others.
//!
//! Invariants: a null field equals an absent one; unknown fields are ignored; unset fields are
//! never sent. The macro [`object`] gives every field these properties.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::FqName;

/// An API object.
pub trait Object: Clone + Serialize + DeserializeOwned + Send + Sync {
    /// The type in URLs and messages, such as `virtual-network`.
    const TYPE: &'static str;

    /// The fields that every object has.
    fn common(&self) -> &Common;
    /// The fields that every object has, mutable.
    fn common_mut(&mut self) -> &mut Common;

    /// The plural in URLs: always with an `s`, even `network-policys`.
    #[must_use]
    fn collection() -> String {
        format!("{}s", Self::TYPE)
    }

    /// A new object with this name. Sets the parent's type if only one type is possible.
    #[must_use]
    fn named(fq_name: FqName) -> Self;
}

/// The fields that every object has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Common {
    /// Chosen by the client at creation; canonical and lower-case on the wire.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// The name, unique per type on the whole server.
    #[serde(deserialize_with = "nullable")]
    pub fq_name: FqName,
    /// The parent's type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_type: Option<String>,
    /// The parent's uuid; the server derives it from the name.
    #[serde(skip_serializing)]
    pub parent_uuid: Option<Uuid>,
    /// The name shown to users.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free-form annotations with unique keys.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "KeyValues::is_empty"
    )]
    pub annotations: KeyValues,
    /// Creation and modification times.
    #[serde(skip_serializing)]
    pub id_perms: Option<IdPerms>,
}

/// Creation and modification times. The 64-bit halves of the uuid are not read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct IdPerms {
    /// UTC, such as `2026-11-21T03:00:24.084789`.
    pub created: Option<String>,
    /// UTC, in the same format.
    pub last_modified: Option<String>,
}

/// A reference to another object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound = "A: Serialize + DeserializeOwned")]
pub struct Ref<A = NoAttribute> {
    /// The target's name. The server fails without it, even if the uuid is present.
    #[serde(default, deserialize_with = "nullable")]
    pub to: FqName,
    /// The target's uuid; optional in requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<Uuid>,
    /// The attribute of the reference itself.
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

    /// A reference by name, with an attribute.
    #[must_use]
    pub fn with(fq_name: FqName, attr: A) -> Self {
        Self {
            to: fq_name,
            uuid: None,
            attr: Some(attr),
        }
    }
}

/// The attribute type of references without one. Any value from the server is ignored.
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

/// Key-value pairs. The server stores them as a map, so their order is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyValues(pub BTreeMap<String, String>);

impl KeyValues {
    /// Whether there are no pairs.
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

/// An optional IP address. An invalid address from the server reads as `None`: the server
/// validates only some of these fields.
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
        let value: Option<String> = Option::deserialize(deserializer)?;
        Ok(Self(value.and_then(|value| value.trim().parse().ok())))
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

/// Whether a value equals its type's default, which means unset.
pub(super) fn is_unset<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Declares structs whose fields may all be absent or null, and are sent only when set.
///
/// `Name = "type" in parent-type { … }` declares an object, `Name { … }` a part of one.
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
            /// The fields that every object has.
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
