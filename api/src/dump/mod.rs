//! A dump: one archive with what a report of a problem needs, without secrets.
//!
//! Invariants:
//! - A part that fails, hangs or is too long does not fail the dump. The manifest says what became of it.
//! - Nothing is written before its secrets are hidden. JSON is redacted as a whole or left out, never cut
//!   before.
//! - The archive is new, of its owner alone, and bounded.

mod archive;
mod program;
mod redaction;
mod secrets;

use std::future::Future;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::{StreamExt as _, stream};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use self::archive::Archive;
pub use self::redaction::{Redactor, is_secret_name};
use crate::files::open_regular_file;
use crate::text::{Escaped, truncate, with_causes};

/// The version of the form of the manifest.
pub const SCHEMA_VERSION: u32 = 1;
/// The file that lists the others.
pub const MANIFEST: &str = "manifest.json";
/// The smallest archive that may be asked for.
pub const MIN_ARCHIVE_BYTES: u64 = 1 << 20;
/// The most bytes of an archive if nothing else is asked for.
pub const DEFAULT_ARCHIVE_BYTES: u64 = 64 << 20;

/// How long a part may take.
const PART_TIMEOUT: Duration = Duration::from_secs(30);
/// How much longer a part may take to end.
const PART_GRACE: Duration = Duration::from_secs(5);
/// The most bytes of a file of the archive.
const MAX_PART_BYTES: usize = 8 << 20;
/// The most bytes of JSON that is read.
const MAX_JSON_BYTES: usize = 64 << 20;
/// How much of an error the summary shows.
const MAX_SHOWN_CHARS: usize = 200;
/// How many parts are made at once.
const CONCURRENCY: usize = 4;
/// More than any secret has. A text that was cut loses as much at the cut, so that no part of a secret is
/// left there.
const CUT_BYTES: usize = 8 << 10;

/// What was read of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether there were more.
    pub is_cut: bool,
    /// What went wrong, although there are contents.
    pub problem: Option<String>,
}

impl From<Vec<u8>> for Contents {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }
}

/// What a part is, and so how it is redacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text, of which the beginning is kept if it is too long.
    Text,
    /// A log, of which the end is kept.
    Log,
    /// JSON.
    Json,
}

type Work = Pin<Box<dyn Future<Output = Result<Contents, String>> + Send>>;

/// One file of the archive.
pub struct Part {
    name: String,
    format: Format,
    work: Work,
}

impl Part {
    /// What a future returns. An error is its text.
    pub fn new(
        name: impl Into<String>,
        format: Format,
        work: impl Future<Output = Result<Contents, String>> + Send + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            format,
            work: Box::pin(work),
        }
    }

    /// What work that blocks returns.
    pub fn blocking(
        name: impl Into<String>,
        format: Format,
        work: impl FnOnce() -> Result<Contents, String> + Send + 'static,
    ) -> Self {
        Self::new(name, format, async move {
            let done = tokio::task::spawn_blocking(work).await;
            done.unwrap_or_else(|error| Err(error.to_string()))
        })
    }

    /// The output of a program, which may fail.
    pub fn program(
        name: impl Into<String>,
        format: Format,
        program: impl Into<PathBuf>,
        arguments: &[&str],
    ) -> Self {
        let program = program.into();
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        Self::blocking(name, format, move || {
            let deadline = Instant::now() + PART_TIMEOUT;
            program::run(&program, &arguments, max_bytes(format), deadline)
                .map_err(|error| format!("{}: {error}", program.display()))
        })
    }

    /// The contents of a regular file.
    pub fn file(name: impl Into<String>, format: Format, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self::blocking(name, format, move || {
            read_file(&path, format).map_err(|error| format!("{}: {error}", path.display()))
        })
    }
}

fn max_bytes(format: Format) -> usize {
    match format {
        Format::Json => MAX_JSON_BYTES,
        Format::Text | Format::Log => MAX_PART_BYTES,
    }
}

/// Reads the beginning of a regular file, or the end of a log.
pub fn read_file(path: &Path, format: Format) -> io::Result<Contents> {
    let mut file = open_regular_file(path)?;
    let max = max_bytes(format);
    let length = file.metadata()?.len();
    let is_longer = length > max as u64;
    if format == Format::Log && is_longer {
        file.seek(SeekFrom::Start(length - max as u64))?;
    }
    let mut bytes = Vec::new();
    // Files of /proc have no length.
    file.take(max as u64 + 1).read_to_end(&mut bytes)?;
    let is_cut = is_longer || bytes.len() > max;
    bytes.truncate(max);
    Ok(Contents {
        bytes,
        is_cut,
        problem: None,
    })
}

/// What became of a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ManifestEntry {
    /// The name of the file; it is missing from the archive if it has an error and no bytes.
    pub file: String,
    /// Its size.
    pub bytes: usize,
    /// Whether it is incomplete because it was too long.
    pub truncated: bool,
    /// What went wrong.
    pub error: Option<String>,
}

/// What a dump is to be.
#[derive(Clone, Debug)]
pub struct DumpOptions {
    /// The archive, which must not exist.
    pub path: PathBuf,
    /// The most bytes that it may have, at least [`MIN_ARCHIVE_BYTES`].
    pub max_bytes: u64,
    /// The program, for the manifest and the name of the directory in the archive.
    pub program: &'static str,
    /// Its version.
    pub version: &'static str,
}

/// A dump that was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WrittenDump {
    /// The archive.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its files, in the order of the parts.
    pub files: Vec<ManifestEntry>,
}

/// Why there is no dump.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The archive exists.
    #[error("{} exists, and nothing is overwritten: choose another file by --output", .0.display())]
    Exists(PathBuf),
    /// It cannot be written.
    #[error("cannot write {}: {source}; choose another file by --output", path.display())]
    Write {
        /// The archive.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// Writes a dump with these parts. Needs a tokio runtime with timers, of more than one thread.
pub async fn write(
    options: &DumpOptions,
    parts: Vec<Part>,
    redactor: &Redactor,
) -> Result<WrittenDump, DumpError> {
    let path = &options.path;
    let fail = |source: io::Error| {
        if source.kind() == io::ErrorKind::AlreadyExists {
            DumpError::Exists(path.clone())
        } else {
            DumpError::Write {
                path: path.clone(),
                source,
            }
        }
    };
    let created = seconds();
    let directory = format!("{}-dump-{created}", options.program);
    let mut archive =
        Archive::create(path, &directory, created, options.max_bytes).map_err(fail)?;
    let mut files = Vec::new();
    let mut made = stream::iter(parts.into_iter().map(make)).buffered(CONCURRENCY);
    while let Some((name, format, result)) = made.next().await {
        let (contents, entry) = entry(name, format, result, archive.left(), redactor);
        if let Some(contents) = contents {
            archive
                .add(&entry.file, contents.as_bytes())
                .map_err(fail)?;
        }
        files.push(entry);
    }
    let manifest = json!({
        "schema_version": SCHEMA_VERSION,
        "program": options.program,
        "version": options.version,
        "created": created,
        "files": files,
    });
    let manifest = format!("{manifest:#}\n");
    archive.add(MANIFEST, manifest.as_bytes()).map_err(fail)?;
    let bytes = archive.finish().map_err(fail)?;
    Ok(WrittenDump {
        path: path.clone(),
        bytes,
        files,
    })
}

/// Makes a part in its time, on a task of its own, so that a panic ends that alone.
async fn make(part: Part) -> (String, Format, Result<Contents, String>) {
    let Part { name, format, work } = part;
    let task = tokio::spawn(work);
    let result = match timeout(PART_TIMEOUT + PART_GRACE, task).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("has not ended in time".to_owned()),
    };
    (name, format, result)
}

/// The redacted contents of a part, if there are any, and its entry in the manifest.
fn entry(
    name: String,
    format: Format,
    result: Result<Contents, String>,
    left: usize,
    redactor: &Redactor,
) -> (Option<String>, ManifestEntry) {
    let limit = MAX_PART_BYTES.min(left);
    let mut entry = ManifestEntry {
        file: name,
        bytes: 0,
        truncated: false,
        error: None,
    };
    let redacted = result.and_then(|contents| {
        let problem = contents.problem.clone();
        match redact(contents, format, redactor) {
            Ok((text, is_cut)) => {
                entry.truncated = is_cut;
                entry.error = problem;
                Ok(text)
            }
            // A command that fails often says so, and not in JSON.
            Err(error) => {
                Err(problem.map_or(error.clone(), |problem| format!("{problem}; {error}")))
            }
        }
    });
    let contents = match redacted {
        Ok(text) if text.is_empty() && entry.error.is_some() => None,
        Ok(_) if limit == 0 => {
            entry.error = Some("the archive has no room left for it".to_owned());
            None
        }
        Ok(text) => {
            let (text, is_cut) = fit(text, format, limit);
            entry.truncated |= is_cut;
            entry.bytes = text.len();
            Some(text)
        }
        Err(error) => {
            entry.error = Some(error);
            None
        }
    };
    let error = entry.error.take();
    entry.error = error.map(|error| redactor.text(&error));
    (contents, entry)
}

/// The text without secrets, and whether it is incomplete.
fn redact(
    contents: Contents,
    format: Format,
    redactor: &Redactor,
) -> Result<(String, bool), String> {
    let Contents { bytes, is_cut, .. } = contents;
    if format == Format::Json {
        if is_cut {
            return Err(format!(
                "has more than {MAX_JSON_BYTES} bytes, and is left out"
            ));
        }
        let json: Value = serde_json::from_slice(&bytes)
            .map_err(|error| format!("is no JSON: {}", with_causes(&error)))?;
        return Ok((format!("{:#}\n", redactor.json(&json)), false));
    }
    let text = String::from_utf8_lossy(&bytes);
    if !is_cut {
        return Ok((redactor.text(&text), false));
    }
    if format == Format::Log {
        // Not the rest of a line, which may be the rest of a secret.
        let start = text.find('\n').map_or(text.len(), |end| end + 1);
        return Ok((redactor.text(&text[start..]), true));
    }
    let mut redacted = redactor.text(&text);
    let kept = floor_boundary(&redacted, redacted.len().saturating_sub(CUT_BYTES));
    redacted.truncate(kept);
    Ok((redacted, true))
}

/// Cuts a redacted text to a size.
fn fit(mut text: String, format: Format, limit: usize) -> (String, bool) {
    if text.len() <= limit {
        return (text, false);
    }
    if format == Format::Log {
        let mut start = text.len() - limit;
        while !text.is_char_boundary(start) {
            start += 1;
        }
        return (text.split_off(start), true);
    }
    text.truncate(floor_boundary(&text, limit));
    (text, true)
}

fn floor_boundary(text: &str, mut at: usize) -> usize {
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Where an archive is written if the operator names no file: in the current directory.
#[must_use]
pub fn default_path(program: &str) -> PathBuf {
    PathBuf::from(format!("{program}-dump-{}.tar.gz", seconds()))
}

/// The seconds since 1970.
fn seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// What became of a dump, for a person: the parts that are missing or incomplete, then the archive.
#[must_use]
pub fn summary(dump: &WrittenDump) -> String {
    let problem = |file: &ManifestEntry| {
        let name = Escaped(&file.file);
        match &file.error {
            Some(error) => {
                let error = truncate(error, MAX_SHOWN_CHARS);
                format!("{name}: {}\n", Escaped(&error))
            }
            None if file.truncated => format!("{name}: cut to {} bytes\n", file.bytes),
            None => String::new(),
        }
    };
    let problems: String = dump.files.iter().map(problem).collect();
    let complete = dump.files.iter().filter(|file| file.error.is_none());
    format!(
        "{problems}{}: {} bytes, {} of {} parts complete; look through it before you give it away\n",
        dump.path.display(),
        dump.bytes,
        complete.count(),
        dump.files.len()
    )
}

/// Parses a size such as `64M`: bytes, or with a suffix K, M or G.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 1 << 10),
        Some((at, 'M' | 'm')) => (&text[..at], 1 << 20),
        Some((at, 'G' | 'g')) => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    let bytes = digits.parse::<u64>().ok();
    let bytes = bytes.and_then(|number| number.checked_mul(unit));
    bytes
        .filter(|bytes| *bytes >= MIN_ARCHIVE_BYTES)
        .ok_or_else(|| "expected a size of at least 1M, such as 16M or 1G".to_owned())
}

#[cfg(test)]
mod tests;
