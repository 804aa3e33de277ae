//! Typed access to a parsed TOML file that collects every problem instead of stopping at the first.
//!
//! Invariant: a key that was never read is a problem, so a misspelt key is never silently ignored.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One problem of the configuration, and how to correct it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// File and line, or the module parameter.
    pub place: String,
    /// The key, as a path such as `network[1].subnet`; empty for the file as a whole.
    pub key: String,
    /// What is wrong, and what is expected.
    pub message: String,
}

impl fmt::Display for ConfigProblem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(formatter, "{}: ", self.key)?;
        }
        formatter.write_str(&self.message)
    }
}

/// Every problem of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct ConfigError {
    /// Never empty.
    pub problems: Vec<ConfigProblem>,
}

/// The file that is read, and its problems so far.
pub struct Document<'a> {
    path: PathBuf,
    text: &'a str,
    problems: RefCell<Vec<ConfigProblem>>,
}

impl<'a> Document<'a> {
    /// A document with the content of the file `path`.
    #[must_use]
    pub fn new(path: &Path, text: &'a str) -> Self {
        Self {
            path: path.to_owned(),
            text,
            problems: RefCell::default(),
        }
    }

    /// Parses the file. Syntax errors become problems, and the rest of the file is still read.
    pub fn parse(&self) -> Spanned<DeTable<'a>> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            let place = self.place(error.span().unwrap_or_default().start);
            self.report(place, String::new(), error.message().to_owned());
        }
        table
    }

    /// Reports a problem.
    pub fn report(&self, place: String, key: String, message: String) {
        self.problems.borrow_mut().push(ConfigProblem {
            place,
            key,
            message,
        });
    }

    /// Fails with every reported problem, if any.
    pub fn finish(self) -> Result<(), ConfigError> {
        let problems = self.problems.into_inner();
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigError { problems })
        }
    }

    fn place(&self, offset: usize) -> String {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        format!("{}:{line}", self.path.display())
    }
}

/// One table of the file.
pub struct Section<'a> {
    document: &'a Document<'a>,
    table: &'a DeTable<'a>,
    /// The offset of the table, for problems without a value.
    offset: usize,
    path: String,
    read_keys: RefCell<BTreeSet<String>>,
}

impl<'a> Section<'a> {
    /// The top level of a document.
    pub fn top(document: &'a Document<'a>, table: &'a Spanned<DeTable<'a>>) -> Self {
        Self::new(document, table.get_ref(), table.span().start, String::new())
    }

    fn new(
        document: &'a Document<'a>,
        table: &'a DeTable<'a>,
        offset: usize,
        path: String,
    ) -> Self {
        Self {
            document,
            table,
            offset,
            path,
            read_keys: RefCell::default(),
        }
    }

    /// Reports a problem with `key`, or with the whole section if the key is empty.
    pub fn problem(&self, key: &str, message: impl Into<String>) {
        let offset = self
            .table
            .get(key)
            .map_or(self.offset, |value| value.span().start);
        let place = self.document.place(offset);
        self.document.report(place, self.key(key), message.into());
    }

    /// The offset of the section in the file.
    pub fn start(&self) -> usize {
        self.offset
    }

    /// Reports a problem at an offset from [`Section::start`].
    pub fn problem_at(&self, offset: usize, key: &str, message: String) {
        let place = self.document.place(offset);
        self.document.report(place, key.to_owned(), message);
    }

    fn key(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            (path, "") => path.to_owned(),
            ("", key) => key.to_owned(),
            (path, key) => format!("{path}.{key}"),
        }
    }

    fn value(&self, key: &str) -> Option<&'a DeValue<'a>> {
        self.read_keys.borrow_mut().insert(key.to_owned());
        self.table.get(key).map(Spanned::get_ref)
    }

    /// Whether the key is present.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    fn mismatch<T>(&self, key: &str, value: &DeValue<'_>, expected: &str) -> Option<T> {
        let found = match value {
            DeValue::String(text) => format!("{text:?}"),
            other => format!("a value of type {}", other.type_str()),
        };
        self.problem(key, format!("expected {expected}, found {found}"));
        None
    }

    /// A string. `expected` describes it with an example.
    pub fn text(&self, key: &str, expected: &str) -> Option<String> {
        match self.value(key)? {
            DeValue::String(text) => Some(text.to_string()),
            other => self.mismatch(key, other, expected),
        }
    }

    /// A string that must parse as `T`.
    pub fn parsed<T: FromStr>(&self, key: &str, expected: &str) -> Option<T> {
        self.parsed_with(key, expected, str::parse)
    }

    /// A string that `parse` must accept.
    pub fn parsed_with<T, E>(
        &self,
        key: &str,
        expected: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.value(key)?;
        self.parse_value(key, value, expected, &parse)
    }

    fn parse_value<T, E>(
        &self,
        key: &str,
        value: &DeValue<'_>,
        expected: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        match value {
            DeValue::String(text) => match parse(text) {
                Ok(parsed) => Some(parsed),
                Err(_) => self.mismatch(key, value, expected),
            },
            other => self.mismatch(key, other, expected),
        }
    }

    /// An array of strings that must each parse as `T`. Others are reported and skipped.
    pub fn parsed_list<T: FromStr>(&self, key: &str, expected: &str) -> Option<Vec<T>> {
        self.parsed_list_with(key, expected, str::parse)
    }

    /// An array of strings that `parse` must accept. Others are reported and skipped.
    pub fn parsed_list_with<T, E>(
        &self,
        key: &str,
        expected: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Option<Vec<T>> {
        let value = self.value(key)?;
        let Some(items) = value.as_array() else {
            return self.mismatch(key, value, &format!("an array, each entry {expected}"));
        };
        Some(
            items
                .iter()
                .filter_map(|item| self.parse_value(key, item.get_ref(), expected, &parse))
                .collect(),
        )
    }

    /// `true` or `false`, without quotes.
    pub fn boolean(&self, key: &str, default: bool) -> bool {
        match self.value(key) {
            None => default,
            Some(DeValue::Boolean(value)) => *value,
            Some(other) => self
                .mismatch(key, other, "true or false")
                .unwrap_or(default),
        }
    }

    /// A whole number within `range`.
    pub fn integer(&self, key: &str, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
        let value = self.value(key)?;
        let number = match value {
            DeValue::Integer(number) => {
                u32::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok()
            }
            _ => None,
        };
        number.filter(|number| range.contains(number)).or_else(|| {
            let expected = format!("a number from {} to {}", range.start(), range.end());
            self.mismatch(key, value, &expected)
        })
    }

    /// A duration above zero, such as `"30s"`.
    pub fn duration(&self, key: &str, default: Duration) -> Duration {
        self.parsed::<ConfigDuration>(key, "a duration such as \"30s\", \"500ms\" or \"2m\"")
            .map_or(default, |duration| duration.0)
    }

    /// A table.
    pub fn section(&self, key: &str) -> Option<Section<'a>> {
        let path = self.key(key);
        match self.value(key)? {
            DeValue::Table(table) => {
                let offset = self.table.get(key)?.span().start;
                Some(Section::new(self.document, table, offset, path))
            }
            other => self.mismatch(key, other, &format!("a table: [{path}]")),
        }
    }

    /// An array of tables.
    pub fn sections(&self, key: &str) -> Vec<Section<'a>> {
        let path = self.key(key);
        let expected = format!("an array of tables: [[{path}]]");
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let Some(items) = value.as_array() else {
            return self.mismatch(key, value, &expected).unwrap_or_default();
        };
        let section = |(index, item): (usize, &'a Spanned<DeValue<'a>>)| match item.get_ref() {
            DeValue::Table(table) => Some(Section::new(
                self.document,
                table,
                item.span().start,
                format!("{path}[{index}]"),
            )),
            other => self.mismatch(key, other, &expected),
        };
        items.iter().enumerate().filter_map(section).collect()
    }

    /// Reports the keys that were never read.
    pub fn finish(self) {
        let read_keys = self.read_keys.borrow();
        for key in self.table.keys() {
            if !read_keys.contains(key.get_ref().as_ref()) {
                let known = read_keys.iter().cloned().collect::<Vec<_>>().join(", ");
                let place = self.document.place(key.span().start);
                self.document.report(
                    place,
                    self.key(key.get_ref()),
                    format!("unknown key; known here: {known}"),
                );
            }
        }
    }
}

/// A duration in the form `500ms`, `30s` or `2m`.
struct ConfigDuration(Duration);

impl FromStr for ConfigDuration {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
        let number: u32 = digits.parse().map_err(|_| ())?;
        let duration = match &text[digits.len()..] {
            "ms" => Duration::from_millis(number.into()),
            "s" => Duration::from_secs(number.into()),
            "m" => Duration::from_secs(u64::from(number) * 60),
            _ => return Err(()),
        };
        (!duration.is_zero()).then_some(Self(duration)).ok_or(())
    }
}
