//! Fully qualified names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The names of an object and its ancestors, outermost first; displayed with colons.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FqName(Vec<String>);

impl FqName {
    /// Creates a name from its parts.
    pub fn new<S: Into<String>>(parts: impl IntoIterator<Item = S>) -> Self {
        Self(parts.into_iter().map(Into::into).collect())
    }

    /// The name of this object's child `name`.
    #[must_use]
    pub fn child(&self, name: impl Into<String>) -> Self {
        let mut parts = self.0.clone();
        parts.push(name.into());
        Self(parts)
    }

    /// The parent's name; `None` for a name with one part.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let (_, parents) = self.0.split_last()?;
        (!parents.is_empty()).then(|| Self(parents.to_vec()))
    }

    /// The object's own name, without its ancestors.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }

    /// The parts, outermost first.
    #[must_use]
    pub fn parts(&self) -> &[String] {
        &self.0
    }

    /// Parses the `repr` of a Python list: `['d', 'p']`, or `[u'd', u'p']` from an old server.
    pub(super) fn from_python(text: &str) -> Option<Self> {
        let list = text.trim().strip_prefix('[')?;
        let (list, _) = list.rsplit_once(']')?;
        let mut parts = vec![];
        let mut rest = list.trim();
        while !rest.is_empty() {
            rest = rest.strip_prefix('u').unwrap_or(rest);
            let quote = rest.chars().next().filter(|&c| c == '\'' || c == '"')?;
            let (part, after) = rest[1..].split_once(quote)?;
            parts.push(part.to_owned());
            rest = after.trim_start().trim_start_matches(',').trim_start();
        }
        (!parts.is_empty()).then_some(Self(parts))
    }
}

impl fmt::Display for FqName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join(":"))
    }
}

/// The string is not a list of non-empty parts, separated by colons.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a fully qualified name such as \"default-domain:default-project:blue\"")]
pub struct InvalidFqName(String);

impl FromStr for FqName {
    type Err = InvalidFqName;

    fn from_str(text: &str) -> Result<Self, InvalidFqName> {
        let parts: Vec<String> = text.split(':').map(|part| part.trim().to_owned()).collect();
        if parts.iter().any(String::is_empty) {
            return Err(InvalidFqName(text.to_owned()));
        }
        Ok(Self(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fq_name_parses_and_displays() {
        let name: FqName = "default-domain:p1:blue".parse().unwrap();
        assert_eq!(name.name(), "blue");
        assert_eq!(name.parent().unwrap().to_string(), "default-domain:p1");
        assert_eq!(FqName::new(["d"]).parent(), None);
        for invalid in ["", ":", "a::b", "a:", " : "] {
            assert!(invalid.parse::<FqName>().is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn fq_name_parses_python_repr() {
        let expected = FqName::new(["default-domain", "it's"]);
        for text in [
            r#"['default-domain', "it's"]"#,
            r#" [u'default-domain', u"it's"] "#,
        ] {
            assert_eq!(FqName::from_python(text).as_ref(), Some(&expected));
        }
        for invalid in ["", "[]", "['a", "['a', b]", "invalid"] {
            assert_eq!(FqName::from_python(invalid), None, "{invalid:?}");
        }
    }
}
