//! Typed access to a parsed TOML or JSON file that collects every problem instead of stopping at the
//! first.
//!
//! Invariants:
//! - A key that was never read is a problem, so a misspelt key is never silently ignored.
//! - One mistake is one problem: what only follows from a mistake is not reported.
//! - Problems are in the order of the file, and their number is limited, however long the file is.

mod json;
mod named_files;
#[cfg(any(test, feature = "test-util"))]
pub mod reference;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use named_files::{FileFinding, NamedFiles};

use crate::text::{Quoted, redact_text, redact_value};

/// How many problems of a file are described. The others are counted.
pub const MAX_PROBLEMS: usize = 100;
/// How many problems the text of an error describes: it becomes part of a task's status.
const MAX_PROBLEMS_IN_TEXT: usize = 20;
/// Longer keys are not compared with known ones.
const MAX_KEY_BYTES: usize = 64;
/// Files with more bytes are not read.
pub const MAX_FILE_BYTES: u64 = 4 << 20;

/// How grave something is that a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It is refused, or cannot work.
    Problem,
    /// It is probably not meant.
    Warning,
    /// It is worth knowing.
    Note,
}

/// One problem of the configuration, and how to correct it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// File, line and column, or the module parameter.
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
            write!(formatter, "{}: ", redact_text(&self.key))?;
        }
        formatter.write_str(&redact_text(&self.message))
    }
}

/// Every problem of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Never empty. The first ones, in the order of the file.
    pub problems: Vec<ConfigProblem>,
    /// How many problems there are besides.
    pub omitted: usize,
}

impl ConfigError {
    /// The problems of this file, then those of another one that it names.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.problems.extend(other.problems);
        self.omitted += other.omitted;
        self
    }

    /// How many problems there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.problems.len() + self.omitted
    }
}

impl From<Vec<ConfigProblem>> for ConfigError {
    fn from(problems: Vec<ConfigProblem>) -> Self {
        Self {
            problems,
            omitted: 0,
        }
    }
}

impl From<ConfigProblem> for ConfigError {
    fn from(problem: ConfigProblem) -> Self {
        vec![problem].into()
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let described = self.problems.iter().take(MAX_PROBLEMS_IN_TEXT);
        for (index, problem) in described.enumerate() {
            if index > 0 {
                formatter.write_str("; ")?;
            }
            problem.fmt(formatter)?;
        }
        match self.count().saturating_sub(MAX_PROBLEMS_IN_TEXT) {
            0 => Ok(()),
            more => write!(formatter, "; and {more} more"),
        }
    }
}

/// Reads a file of configuration. Fails for what is not a regular file, is too long, or is not
/// UTF-8, and says which. Blocks.
pub fn read_file(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut text = vec![];
    // A pipe must not block: it is refused below.
    let file = std::fs::File::options()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("it is longer than {MAX_FILE_BYTES} bytes"));
    }
    String::from_utf8(text).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.split(|byte| *byte == b'\n').count();
        format!("line {line} is not UTF-8")
    })
}

/// Why a file with a secret is not safe, if it is not: others than its owner and group can read it,
/// or others than its owner can write it.
#[must_use]
pub fn secret_file_warning(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;

    let mode = std::fs::metadata(path).ok()?.mode() & 0o7777;
    let advice = match (mode & 0o004 != 0, mode & 0o022 != 0) {
        (false, false) => return None,
        (true, false) => "everyone on this host can read it",
        (false, true) => "others can write it",
        (true, true) => "everyone on this host can read it, and others can write it",
    };
    Some(format!(
        "{} has the mode {mode:04o}: {advice}; run chmod 600",
        path.display()
    ))
}

/// A problem that is not placed yet.
struct PendingProblem {
    key: String,
    message: String,
}

/// The first problems of a file by their offset, and how many there are.
#[derive(Default)]
struct ProblemList {
    /// By offset, then in the order in which they were found.
    first: BTreeMap<(usize, usize), PendingProblem>,
    found: usize,
    omitted: usize,
}

impl ProblemList {
    fn add(&mut self, offset: usize, key: String, message: String) {
        let same_place = self.first.range((offset, 0)..=(offset, usize::MAX));
        let is_known = same_place
            .into_iter()
            .any(|(_, known)| known.key == key && known.message == message);
        if is_known {
            return;
        }
        self.found += 1;
        let position = (offset, self.found);
        self.first.insert(position, PendingProblem { key, message });
        if self.first.len() > MAX_PROBLEMS {
            self.first.pop_last();
            self.omitted += 1;
        }
    }

    /// Whether a problem at this offset would only be counted.
    fn is_beyond(&self, offset: usize) -> bool {
        self.first.len() == MAX_PROBLEMS
            && self
                .first
                .last_key_value()
                .is_some_and(|((last, _), _)| *last <= offset)
    }
}

/// What becomes of the files that a configuration names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FileAccess {
    /// Those are read that are a part of the configuration.
    #[default]
    Needed,
    /// All are opened, for a check.
    Checked,
    /// The same, as far as they are there.
    Offline,
}

/// The file that is read, and its problems so far.
pub struct Document<'a> {
    path: PathBuf,
    text: &'a str,
    problems: RefCell<ProblemList>,
    warnings: RefCell<ProblemList>,
    notes: RefCell<ProblemList>,
    file_access: FileAccess,
    /// The offsets of the values that were read.
    offsets: RefCell<BTreeMap<String, usize>>,
    /// Whether the file is not TOML. What was read of it is then incomplete.
    has_syntax_error: Cell<bool>,
    /// Whether messages use the words of JSON.
    is_json: Cell<bool>,
}

impl<'a> Document<'a> {
    /// A document with the content of the file `path`.
    #[must_use]
    pub fn new(path: &Path, text: &'a str) -> Self {
        Self {
            path: path.to_owned(),
            text,
            problems: RefCell::default(),
            warnings: RefCell::default(),
            notes: RefCell::default(),
            file_access: FileAccess::default(),
            offsets: RefCell::default(),
            has_syntax_error: Cell::new(false),
            is_json: Cell::new(false),
        }
    }

    /// The same, with other access to the files that it names.
    #[must_use]
    pub fn with_file_access(self, file_access: FileAccess) -> Self {
        Self {
            file_access,
            ..self
        }
    }

    /// Parses the file. Syntax errors become problems; the other problems of such a file are not
    /// reported, because they may follow from the syntax errors.
    pub fn parse(&self) -> Spanned<DeTable<'a>> {
        let (table, mut errors) = DeTable::parse_recoverable(self.text);
        let start = |error: &toml::de::Error| error.span().unwrap_or_default().start;
        errors.sort_by_key(start);
        // Errors before this offset follow from one that is reported: the parser goes on at the next
        // line. What is wrong with an array or the like reaches to the next table.
        let mut right_from = 0;
        // The header of that table. An error in it shows that the parser has not found back.
        let mut header = 0..0;
        for error in errors {
            let (offset, message) = (start(&error), error.message());
            if header.contains(&offset) {
                header = self.next_header(offset);
                right_from = header.start;
            }
            if offset < right_from {
                continue;
            }
            let key = if is_about_structure(message) {
                shown_key(
                    self.text
                        .get(error.span().unwrap_or_default())
                        .unwrap_or_default(),
                )
            } else {
                self.has_syntax_error.set(true);
                String::new()
            };
            right_from = if is_about_list(message) {
                header = self.next_header(offset);
                header.start
            } else {
                self.next_line(offset).unwrap_or(usize::MAX)
            };
            self.add(offset, key, message.to_owned());
        }
        table
    }

    /// The offset of the line after the one of `offset`, if there is one.
    fn next_line(&self, offset: usize) -> Option<usize> {
        let rest = self.text.as_bytes().get(offset..)?;
        let length = rest.iter().position(|byte| *byte == b'\n')?;
        Some(offset + length + 1)
    }

    /// The first line after `offset` that is a table header, as offsets; the end of all if none is.
    fn next_header(&self, offset: usize) -> Range<usize> {
        let mut next = self.next_line(offset);
        while let Some(start) = next {
            next = self.next_line(start);
            let end = next.unwrap_or(self.text.len());
            if is_header(&self.text[start..end]) {
                return start..end;
            }
        }
        usize::MAX..usize::MAX
    }

    fn add(&self, offset: usize, key: String, message: String) {
        self.problems.borrow_mut().add(offset, key, message);
    }

    /// Reports a problem of the value of a key path that was read, such as `network[0].subnet`.
    pub fn problem(&self, path: &str, message: impl Into<String>) {
        if !self.has_syntax_error.get() {
            self.add(self.offset(path), path.to_owned(), message.into());
        }
    }

    /// The offset of a value, or of the nearest table around it.
    fn offset(&self, path: &str) -> usize {
        let offsets = self.offsets.borrow();
        let mut path = path;
        loop {
            if let Some(offset) = offsets.get(path) {
                return *offset;
            }
            match path.rfind(['.', '[']) {
                Some(end) => path = &path[..end],
                None => return 0,
            }
        }
    }

    /// The place of each key path that was read: file, line and column.
    pub fn places(&self) -> BTreeMap<String, String> {
        let offsets = self.offsets.borrow();
        let mut by_offset: Vec<(usize, &str)> = offsets
            .iter()
            .map(|(key, offset)| (*offset, key.as_str()))
            .collect();
        by_offset.sort_unstable();
        let (mut position, mut line, mut column) = (0, 1, 1);
        let mut places = BTreeMap::new();
        for (offset, key) in by_offset {
            for character in self.text.get(position..offset).unwrap_or_default().chars() {
                (line, column) = match character {
                    '\n' => (line + 1, 1),
                    _ => (line, column + 1),
                };
            }
            position = offset;
            let place = format!("{}:{line}:{column}", self.path.display());
            places.insert(key.to_owned(), place);
        }
        places
    }

    /// The warnings, in the order of the file.
    pub fn warnings(&self) -> Vec<ConfigProblem> {
        self.describe(&self.warnings.borrow()).0
    }

    /// The notes, in the order of the file.
    pub fn notes(&self) -> Vec<ConfigProblem> {
        self.describe(&self.notes.borrow()).0
    }

    /// Fails with every reported problem, if any.
    pub fn finish(self) -> Result<(), ConfigError> {
        let (problems, omitted) = self.describe(&self.problems.borrow());
        if problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigError { problems, omitted })
        }
    }

    fn describe(&self, list: &ProblemList) -> (Vec<ConfigProblem>, usize) {
        let problems = list.first.iter().map(|((offset, _), problem)| {
            let (line, column) = self.position(*offset);
            ConfigProblem {
                place: format!("{}:{line}:{column}", self.path.display()),
                key: problem.key.clone(),
                message: problem.message.clone(),
            }
        });
        (problems.collect(), list.omitted)
    }

    /// Line and column, both from 1. The column is in characters.
    fn position(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (line, before[start..].chars().count() + 1)
    }
}

/// Whether the parser refuses keys that are written well: a key that is there twice, or that is
/// both a table and a value. Nothing follows from such an error.
fn is_about_structure(message: &str) -> bool {
    message.starts_with("duplicate key") || message.starts_with("cannot extend")
}

/// Whether the parser stumbles over an array or an inline table, and over every line that it then
/// takes for a part of it.
fn is_about_list(message: &str) -> bool {
    ["missing comma", "unclosed", " in array", " in inline table"]
        .iter()
        .any(|part| message.contains(part))
}

/// Whether a line is a header such as `[dns]` or `[[network]]`.
fn is_header(line: &str) -> bool {
    let line = line.split('#').next().unwrap_or_default().trim_end();
    let name = line
        .strip_prefix("[[")
        .and_then(|line| line.strip_suffix("]]"))
        .or_else(|| line.strip_prefix('[')?.strip_suffix(']'));
    name.is_some_and(|name| !name.is_empty() && name.bytes().all(is_key_byte_or_dot))
}

fn is_key_byte_or_dot(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)
}

/// A key as it is written without quotes, or quoted, escaped and shortened.
fn shown_key(key: &str) -> String {
    if key.len() <= MAX_KEY_BYTES && !key.is_empty() && key.bytes().all(is_key_byte_or_dot) {
        key.to_owned()
    } else {
        Quoted(key.as_bytes()).to_string()
    }
}

/// The known word that a misspelt word probably means.
#[must_use]
pub fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > MAX_KEY_BYTES {
        return None;
    }
    let word = word.to_lowercase().replace('-', "_");
    let distance = |known: &str| {
        if word.len() >= 4 && known.starts_with(&word) {
            return 0;
        }
        strsim::osa_distance(&word, known)
    };
    known
        .into_iter()
        .map(|known| (distance(known), known))
        .filter(|(distance, known)| *distance <= (known.len().max(word.len()) / 3).max(1))
        .min()
        .map(|(_, known)| known)
}

/// One of a few words, or else the reason for [`Section::checked`]: which of them is probably meant.
pub fn known_word<'w>(text: &str, words: &[&'w str]) -> Result<&'w str, String> {
    let word = words.iter().find(|word| **word == text);
    word.copied().ok_or_else(|| {
        suggestion(text, words.iter().copied())
            .map_or_else(String::new, |word| format!("did you mean {word:?}?"))
    })
}

/// What the value of a key must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// A string.
    Text,
    /// An array of strings.
    List,
    /// `true` or `false`.
    Boolean,
    /// A whole number in a range.
    Integer {
        /// The smallest one.
        first: u32,
        /// The largest one.
        last: u32,
    },
    /// A string with a duration.
    Duration,
    /// A table.
    Table,
    /// An array of tables.
    Tables,
}

/// One table of the file.
pub struct Section<'a> {
    document: &'a Document<'a>,
    table: &'a DeTable<'a>,
    /// The offset of the table, for problems without a value.
    offset: usize,
    path: String,
    read_keys: RefCell<BTreeSet<String>>,
    /// The keys that are missing, each with a message: reported at the end, unless the key is there
    /// but misspelt.
    missing: RefCell<Vec<(String, String)>>,
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
        document.offsets.borrow_mut().insert(path.clone(), offset);
        Self {
            document,
            table,
            offset,
            path,
            read_keys: RefCell::default(),
            missing: RefCell::default(),
        }
    }

    /// Reports a problem with `key`, or with the whole section if the key is empty. The problem of
    /// a key that is not there is reported only if no misspelt key is meant to be it.
    pub fn problem(&self, key: &str, message: impl Into<String>) {
        if !key.is_empty() && !self.has(key) {
            self.read_keys.borrow_mut().insert(key.to_owned());
            let missing = (key.to_owned(), message.into());
            self.missing.borrow_mut().push(missing);
            return;
        }
        self.add(self.value_offset(key), key, message.into());
    }

    /// Warns of the value of `key`, or of the whole section if the key is empty or not there.
    pub fn warning(&self, key: &str, message: impl Into<String>) {
        if !self.document.has_syntax_error.get() {
            let mut warnings = self.document.warnings.borrow_mut();
            warnings.add(self.value_offset(key), self.key(key), message.into());
        }
    }

    /// Notes something about the value of `key`.
    fn note(&self, key: &str, message: String) {
        if !self.document.has_syntax_error.get() {
            let mut notes = self.document.notes.borrow_mut();
            notes.add(self.value_offset(key), self.key(key), message);
        }
    }

    /// Opens files that keys of this section name, if this is a check. Their findings are reported.
    pub fn check_files(&self, check: impl FnOnce(&mut NamedFiles)) {
        let mut files = match self.document.file_access {
            FileAccess::Needed => return,
            FileAccess::Checked => NamedFiles::new(false),
            FileAccess::Offline => NamedFiles::new(true),
        };
        check(&mut files);
        for finding in files.findings() {
            let FileFinding {
                severity,
                key,
                message,
            } = finding;
            match severity {
                Severity::Problem => self.problem(&key, message),
                Severity::Warning => self.warning(&key, message),
                Severity::Note => self.note(&key, message),
            }
        }
    }

    /// Whether the file that `key` names is not there, and need not be because this is a check for
    /// another host. Then that is noted.
    pub fn is_absent_offline(&self, key: &str, path: &Path) -> bool {
        let is_absent = self.is_offline()
            && std::fs::metadata(path).is_err_and(|error| named_files::is_absent(&error));
        if is_absent {
            self.note(key, named_files::absent(path));
        }
        is_absent
    }

    /// Whether this is a check, which may warn of more than a start.
    pub fn is_check(&self) -> bool {
        self.document.file_access != FileAccess::Needed
    }

    /// Whether this is a check for another host.
    pub fn is_offline(&self) -> bool {
        self.document.file_access == FileAccess::Offline
    }

    fn add(&self, offset: usize, key: &str, message: String) {
        if !self.document.has_syntax_error.get() {
            self.document.add(offset, self.key(key), message);
        }
    }

    /// Where the value of `key` is, or else the section.
    fn value_offset(&self, key: &str) -> usize {
        self.table
            .get(key)
            .map_or(self.offset, |value| value.span().start)
    }

    /// The path of the section in the file; empty for the top level.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn key(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            (path, "") => path.to_owned(),
            ("", key) => shown_key(key),
            (path, key) => format!("{path}.{}", shown_key(key)),
        }
    }

    fn value(&self, key: &str, kind: ValueKind) -> Option<&'a Spanned<DeValue<'a>>> {
        #[cfg(any(test, feature = "test-util"))]
        reference::record(&self.path, key, kind);
        #[cfg(not(any(test, feature = "test-util")))]
        let _ = kind;
        self.read_keys.borrow_mut().insert(key.to_owned());
        let value = self.table.get(key)?;
        let mut offsets = self.document.offsets.borrow_mut();
        offsets.insert(self.key(key), value.span().start);
        Some(value)
    }

    /// The keys that are present, in their order in the alphabet. That makes none of them known.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.table.keys().map(|key| key.get_ref().as_ref())
    }

    /// Whether the key is present.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Whether the key is an array without entries.
    pub fn is_empty_list(&self, key: &str) -> bool {
        let value = self.table.get(key).map(Spanned::get_ref);
        value.is_some_and(|value| value.as_array().is_some_and(|list| list.is_empty()))
    }

    /// Whether a key that is not there is probably there with another spelling: as a key that nothing
    /// has read.
    pub fn is_misspelt(&self, key: &str) -> bool {
        let read_keys = self.read_keys.borrow();
        let is_like_it =
            |other: &str| !read_keys.contains(other) && suggestion(other, [key]).is_some();
        let mut keys = self.table.keys();
        !self.has(key) && keys.any(|other| is_like_it(other.get_ref()))
    }

    /// Makes keys known that are not read.
    pub fn allow(&self, keys: &[&str]) {
        let mut read_keys = self.read_keys.borrow_mut();
        read_keys.extend(keys.iter().map(|key| (*key).to_owned()));
    }

    /// Reports that `value`, which is at `key` or in its array, is not what is expected.
    fn mismatch<T>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        expected: &str,
        reason: &str,
    ) -> Option<T> {
        let separator = if reason.is_empty() { "" } else { ": " };
        let message = || {
            format!(
                "expected {expected}, found {}{separator}{reason}",
                shown_value(value.get_ref(), self.document.is_json.get())
            )
        };
        let offset = value.span().start;
        if self.document.problems.borrow().is_beyond(offset) {
            self.document.problems.borrow_mut().omitted += 1;
        } else {
            self.add(offset, key, message());
        }
        None
    }

    /// A string. `expected` describes it with an example.
    pub fn text(&self, key: &str, expected: &str) -> Option<String> {
        let value = self.value(key, ValueKind::Text)?;
        match value.get_ref() {
            DeValue::String(text) => Some(text.to_string()),
            _ => self.mismatch(key, value, expected, ""),
        }
    }

    /// A string that must be one of a few words.
    pub fn word<'w>(&self, key: &str, words: &[&'w str], expected: &str) -> Option<&'w str> {
        self.checked(key, expected, |text| known_word(text, words))
    }

    /// An array of strings that must each be one of a few words. Others are reported and skipped.
    pub fn words<'w>(&self, key: &str, words: &[&'w str], expected: &str) -> Vec<&'w str> {
        self.checked_list(key, expected, |text| known_word(text, words))
            .unwrap_or_default()
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
        self.checked(key, expected, |text| parse(text).map_err(|_| String::new()))
    }

    /// A string that `parse` must accept. Its error is the reason, or empty.
    pub fn checked<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.value(key, ValueKind::Text)?;
        self.parse_value(key, value, expected, &parse)
    }

    fn parse_value<T>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        expected: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        match value.get_ref() {
            DeValue::String(text) => match parse(text) {
                Ok(parsed) => Some(parsed),
                Err(reason) => self.mismatch(key, value, expected, &reason),
            },
            _ => self.mismatch(key, value, expected, ""),
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
        self.checked_list(key, expected, |text| parse(text).map_err(|_| String::new()))
    }

    /// An array of strings that `parse` must accept; its error is the reason, or empty. Others are
    /// reported and skipped.
    pub fn checked_list<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let value = self.value(key, ValueKind::List)?;
        let Some(items) = value.get_ref().as_array() else {
            let expected = format!("an array, each entry {expected}");
            return self.mismatch(key, value, &expected, "");
        };
        Some(
            items
                .iter()
                .filter_map(|item| self.parse_value(key, item, expected, &parse))
                .collect(),
        )
    }

    /// `true` or `false`, without quotes.
    pub fn boolean(&self, key: &str, default: bool) -> bool {
        let Some(value) = self.value(key, ValueKind::Boolean) else {
            return default;
        };
        match value.get_ref() {
            DeValue::Boolean(value) => *value,
            _ => self
                .mismatch(key, value, "true or false, without quotes", "")
                .unwrap_or(default),
        }
    }

    /// A whole number within `range`.
    pub fn integer(&self, key: &str, range: std::ops::RangeInclusive<u32>) -> Option<u32> {
        let (first, last) = (*range.start(), *range.end());
        let value = self.value(key, ValueKind::Integer { first, last })?;
        let number = match value.get_ref() {
            DeValue::Integer(number) => {
                u32::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok()
            }
            _ => None,
        };
        number.filter(|number| range.contains(number)).or_else(|| {
            let expected = format!("a number from {} to {}", range.start(), range.end());
            self.mismatch(key, value, &expected, "")
        })
    }

    /// A duration above zero, such as `"30s"`.
    pub fn duration(&self, key: &str, default: Duration) -> Duration {
        let parse = |text: &str| text.parse::<ConfigDuration>().map_err(|()| String::new());
        let expected = "a duration such as \"30s\", \"500ms\" or \"2m\"";
        self.value(key, ValueKind::Duration)
            .and_then(|value| self.parse_value(key, value, expected, parse))
            .map_or(default, |duration| duration.0)
    }

    /// A table.
    pub fn section(&self, key: &str) -> Option<Section<'a>> {
        let value = self.value(key, ValueKind::Table)?;
        let path = self.key(key);
        match value.get_ref() {
            DeValue::Table(table) => {
                Some(Section::new(self.document, table, value.span().start, path))
            }
            _ if self.document.is_json.get() => self.mismatch(key, value, "an object", ""),
            _ => self.mismatch(key, value, &format!("a table: [{path}]"), ""),
        }
    }

    /// An array of tables.
    pub fn sections(&self, key: &str) -> Vec<Section<'a>> {
        let path = self.key(key);
        let expected = if self.document.is_json.get() {
            "an array of objects".to_owned()
        } else {
            format!("an array of tables: [[{path}]]")
        };
        let Some(value) = self.value(key, ValueKind::Tables) else {
            return Vec::new();
        };
        let Some(items) = value.get_ref().as_array() else {
            return self.mismatch(key, value, &expected, "").unwrap_or_default();
        };
        let section = |(index, item): (usize, &'a Spanned<DeValue<'a>>)| match item.get_ref() {
            DeValue::Table(table) => Some(Section::new(
                self.document,
                table,
                item.span().start,
                format!("{path}[{index}]"),
            )),
            _ => self.mismatch(key, item, &expected, ""),
        };
        items.iter().enumerate().filter_map(section).collect()
    }

    /// Reports the keys that were never read, and those that are missing.
    pub fn finish(self) {
        let read_keys = self.read_keys.borrow();
        let mut missing = self.missing.borrow_mut();
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if read_keys.contains(name) {
                continue;
            }
            let offset = key.span().start;
            let meant = suggestion(name, read_keys.iter().map(String::as_str));
            missing.retain(|(missing, _)| Some(missing.as_str()) != meant);
            if self.document.problems.borrow().is_beyond(offset) {
                self.document.problems.borrow_mut().omitted += 1;
                continue;
            }
            let advice = if let Some(meant) = meant {
                format!("did you mean {meant:?}?")
            } else {
                let known: Vec<&str> = read_keys.iter().map(String::as_str).collect();
                format!("known here: {}", known.join(", "))
            };
            self.add(offset, name, format!("unknown key; {advice}"));
        }
    }
}

/// What is missing is reported however the section ends, because what only follows from a missing
/// key is often a reason to end early.
impl Drop for Section<'_> {
    fn drop(&mut self) {
        for (key, message) in self.missing.take() {
            self.add(self.offset, &key, message);
        }
    }
}

/// A value for a message: as it is in the file, but escaped and shortened, without user
/// information.
fn shown_value(value: &DeValue<'_>, is_json: bool) -> String {
    match value {
        DeValue::String(text) => Quoted(redact_value(text).as_bytes()).to_string(),
        DeValue::Integer(number) => shortened(number.to_string()),
        DeValue::Float(number) => shortened(number.to_string()),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(value) => value.to_string(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) if is_json => "an object".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// Numbers have no other characters than digits and the like.
fn shortened(number: String) -> String {
    if number.len() <= MAX_KEY_BYTES {
        number
    } else {
        crate::text::truncate(&number, MAX_KEY_BYTES)
    }
}

/// A duration in the form `500ms`, `30s`, `2m` or `1h`.
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
            "h" => Duration::from_secs(u64::from(number) * 3600),
            _ => return Err(()),
        };
        (!duration.is_zero()).then_some(Self(duration)).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parser_testing::{assert_linear, for_damaged_input};

    /// The problems of a file with the keys `alpha`, `beta` and `[table] name`, all optional.
    fn problems(text: &str) -> ConfigError {
        let document = Document::new(Path::new("f.toml"), text);
        let table = document.parse();
        let top = Section::top(&document, &table);
        top.integer("alpha", 1..=9);
        top.parsed_list::<u8>("beta", "a number in quotes");
        if let Some(section) = top.section("table") {
            section.text("name", "a name");
            section.finish();
        }
        top.finish();
        document.finish().expect_err("a problem")
    }

    fn lines(text: &str) -> Vec<String> {
        let error = problems(text);
        error.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn problems_are_in_the_order_of_the_file() {
        assert_eq!(
            lines("gamma = 1\nalpha = 10\nbeta = [\"1\", \"x\", 2]\n[table]\nname = 1.5\n"),
            [
                "f.toml:1:1: gamma: unknown key; known here: alpha, beta, table",
                "f.toml:2:9: alpha: expected a number from 1 to 9, found 10",
                "f.toml:3:14: beta: expected a number in quotes, found \"x\"",
                "f.toml:3:19: beta: expected a number in quotes, found 2",
                "f.toml:5:8: table.name: expected a name, found 1.5",
            ]
        );
    }

    #[test]
    fn misspelt_key_is_no_missing_key() {
        let document = Document::new(Path::new("f.toml"), "Server-List = 1\n");
        let table = document.parse();
        let top = Section::top(&document, &table);
        top.problem("server_list", "is missing");
        top.problem("name", "is missing");
        top.finish();
        let error = document.finish().expect_err("problems");
        let lines: Vec<_> = error.problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "f.toml:1:1: Server-List: unknown key; did you mean \"server_list\"?",
                "f.toml:1:1: name: is missing",
            ]
        );
    }

    #[test]
    fn syntax_error_has_no_followers() {
        for (text, places) in [
            ("alpha = \n[table]\nname = 1\n", &["f.toml:1"][..]),
            ("[table\nname = 1\nother = 2\n", &["f.toml:1"]),
            ("beta = [\"1\"\n\n[table]\nname = \"x\n", &["f.toml:3"]),
            (
                "alpha = [\n1,\n2\nbeta = 3\n[table]\nname = x\n",
                &["f.toml:4"],
            ),
            ("alpha = abc\nbeta = def\n", &["f.toml:1:9", "f.toml:2:8"]),
            ("alpha: 1\ngamma = 1\n", &["f.toml:1:6"]),
            ("= 1\n= 2\n", &["f.toml:1", "f.toml:2"]),
            ("alpha = \"\"\"x\nbeta = 2\n", &["f.toml:3"]),
            ("alpha = 1\nalpha = 2\n", &["f.toml:2"]),
        ] {
            let lines = lines(text);
            let found: Vec<_> = lines
                .iter()
                .map(|line| line.rsplitn(2, ": ").last().unwrap_or_default())
                .collect();
            assert_eq!(lines.len(), places.len(), "{text:?}: {lines:?}");
            for (line, place) in found.iter().zip(places) {
                assert!(line.starts_with(place), "{text:?}: {lines:?}");
            }
        }
    }

    #[test]
    fn syntax_error_does_not_quote_the_file() {
        for text in [
            "password = \"SecretPw1\n",
            "password = SecretPw1\n",
            "SecretPw1\n",
            "password = \"a\\SecretPw1\"\n",
            "password = 'SecretPw1' x\n",
            "[SecretPw1\n",
        ] {
            let lines = lines(text);
            assert!(!lines.concat().contains("SecretPw1"), "{lines:?}");
        }
    }

    #[test]
    fn user_information_of_a_value_is_hidden() {
        for text in [
            "alpha = \"https://u:SecretPw1@h\"",
            "beta = [\"https://u:SecretPw1@h:6992\"]",
            "beta = \"u:SecretPw1@h\"",
            "table = \"https://u:Secret\\nPw1 SecretPw1@h\"",
            "\"https://u:SecretPw1@h\" = 1",
        ] {
            let error = problems(text);
            assert!(!error.to_string().contains("SecretPw1"), "{error}");
            assert!(error.to_string().contains("***@h"), "{error}");
        }
    }

    #[test]
    fn number_of_problems_is_limited() {
        let lines: Vec<String> = (0..1000)
            .map(|number| format!("key{number} = 1\n"))
            .collect();
        let text = lines.concat();
        let error = problems(&text);
        assert_eq!(error.problems.len(), MAX_PROBLEMS);
        assert_eq!(error.count(), 1000);
        assert!(
            error.problems[0]
                .to_string()
                .starts_with("f.toml:1:1: key0: unknown key")
        );
        assert!(error.to_string().ends_with("; and 980 more"), "{error}");
    }

    #[test]
    fn control_characters_of_keys_and_values_are_escaped() {
        let error = problems("\"a\\nb\\u001b[31m\" = 1\nalpha = \"\\u001b[31m\"\n").to_string();
        assert!(!error.contains(char::is_control), "{error:?}");
    }

    #[test]
    fn suggestion_is_the_nearest_known_word() {
        let known = ["state_dir", "netns_dir", "deadlines", "network"];
        for (word, expected) in [
            ("state-dir", Some("state_dir")),
            ("stateDir", Some("state_dir")),
            ("networks", Some("network")),
            ("deadline", Some("deadlines")),
            ("dead", Some("deadlines")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(suggestion(word, known), expected, "{word}");
        }
        assert_eq!(suggestion(&"state_dir".repeat(1000), known), None);
    }

    #[test]
    fn only_regular_files_are_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pipe");
        let mode = nix::sys::stat::Mode::S_IRUSR;
        nix::unistd::mkfifo(&path, mode).expect("a pipe");
        assert!(
            read_file(&path)
                .expect_err("a pipe")
                .contains("not a regular file")
        );
        assert!(read_file(directory.path()).is_err());
        std::fs::write(path.with_extension("text"), b"a\n\xff").expect("a file");
        let error = read_file(&path.with_extension("text")).expect_err("not UTF-8");
        assert_eq!(error, "line 2 is not UTF-8");
    }

    #[test]
    fn file_with_a_secret_that_others_can_read_is_a_warning() {
        use std::os::unix::fs::PermissionsExt as _;

        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        std::fs::write(&path, "x").expect("a file");
        for (mode, is_warned) in [
            (0o600, false),
            (0o640, false),
            (0o644, true),
            (0o666, true),
            (0o620, true),
        ] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&path, permissions).expect("the mode");
            assert_eq!(secret_file_warning(&path).is_some(), is_warned, "{mode:o}");
        }
    }

    #[test]
    fn damaged_input_never_panics() {
        let valid = "alpha = 1\nbeta = [\"1\", \"2\"]\n[table]\nname = \"https://u:SecretPw1@h\"\n";
        for_damaged_input(valid.as_bytes(), |input| {
            let text = String::from_utf8_lossy(input);
            let document = Document::new(Path::new("f.toml"), &text);
            let table = document.parse();
            let top = Section::top(&document, &table);
            top.integer("alpha", 1..=9);
            top.parsed_list::<u8>("beta", "a number in quotes");
            let sections = top.sections("table");
            sections.into_iter().for_each(Section::finish);
            top.finish();
            if let Err(error) = document.finish() {
                assert!(error.problems.len() <= MAX_PROBLEMS);
                assert!(!error.to_string().contains(char::is_control), "{error}");
            }
        });
    }

    #[test]
    fn reading_is_linear_in_the_size_of_the_file() {
        for (name, line) in [
            ("unknown keys", "NAME = 1\n"),
            ("one line", "beta.xNAME = [1, 2, 3]\n"),
            ("syntax errors", "NAME = \n"),
            ("unknown tables", "[NAME]\na = 1\n"),
            ("duplicate keys", "gamma = 1\n"),
            ("open lists", "NAME = [1\n[x]\n"),
        ] {
            assert_linear(name, 1000, |lines| {
                let text: String = (0..lines)
                    .map(|number| line.replace("NAME", &format!("key{number}")))
                    .collect();
                let error = problems(&text);
                assert!(error.count() > 0);
            });
        }
        assert_linear("entries of one list", 2000, |entries| {
            let error = problems(&format!("beta = [{}]", "\"x\", ".repeat(entries)));
            assert_eq!(error.count(), entries);
        });
        assert_linear("a long key", 20_000, |length| {
            problems(&format!("{} = 1", "k".repeat(length)));
        });
        assert_linear("URLs", 2000, |urls| {
            problems(&format!("alpha = \"{}\"", "a://b:c@d ".repeat(urls)));
        });
    }
}
