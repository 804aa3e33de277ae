//! Value types: simple types with their bounds, and complex types by name.

use serde_json::Value;

/// The type of a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ValueType {
    Simple(SimpleType),
    /// The name of a complex type.
    Complex(String),
}

/// A simple type.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum SimpleType {
    Bool,
    /// The lowest and the highest allowed value.
    Int(Option<(i64, i64)>),
    /// The allowed values; empty if all are.
    Text(Vec<String>),
}

impl ValueType {
    /// `bool`, `int`, `int[0..7]`, `string`, `string[a|b]` or the name of a complex type.
    pub(super) fn read(text: &str) -> Option<Self> {
        let (name, bounds) = match text.strip_suffix(']') {
            Some(text) => text
                .split_once('[')
                .map(|(name, rest)| (name, Some(rest)))?,
            None => (text, None),
        };
        Some(match (name, bounds) {
            ("bool", None) => Self::Simple(SimpleType::Bool),
            ("int", None) => Self::Simple(SimpleType::Int(None)),
            ("int", Some(bounds)) => {
                let (first, last) = bounds.split_once("..")?;
                Self::Simple(SimpleType::Int(Some((
                    first.parse().ok()?,
                    last.parse().ok()?,
                ))))
            }
            ("string", bounds) => Self::Simple(SimpleType::Text(
                bounds
                    .map(|values| values.split('|').map(str::to_owned).collect())
                    .unwrap_or_default(),
            )),
            (_, Some(_)) => return None,
            (name, None) => Self::Complex(name.to_owned()),
        })
    }

    /// Parses a default in the table.
    pub(super) fn default(&self, text: &str) -> Value {
        match self {
            Self::Simple(SimpleType::Bool) => Value::Bool(text == "true"),
            Self::Simple(SimpleType::Int(_)) => {
                text.parse::<i64>().map_or(Value::Null, Value::from)
            }
            _ => Value::from(text),
        }
    }
}
