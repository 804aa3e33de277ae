//! Untrusted strings, made safe for messages.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

/// What stands in place of user information.
const REDACTED: &str = "***";

/// The longest quotation, in characters.
const MAX_QUOTE_CHARS: usize = 64;

/// How much of a string is looked at for its quotation or excerpt.
const MAX_SCANNED_BYTES: usize = 4 << 10;

/// The longest excerpt, in characters.
const MAX_EXCERPT_CHARS: usize = 500;

/// An untrusted string in a message: quoted, escaped and shortened, whatever its bytes are. User
/// information of a URL is hidden.
pub struct Quoted<'a>(pub &'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What follows the quotation shows whether a URL in it has user information.
        let end = self.0.len().min(MAX_SCANNED_BYTES);
        let text = String::from_utf8_lossy(&self.0[..end]);
        let text = if text.contains("://") {
            redact_value(&text)
        } else {
            text
        };
        let mut chars = text.chars();
        let head: String = chars.by_ref().take(MAX_QUOTE_CHARS).collect();
        write!(formatter, "{head:?}")?;
        if chars.next().is_some() {
            write!(formatter, "… ({} bytes)", self.0.len())?;
        }
        Ok(())
    }
}

/// A string without characters that change how the rest of a line is shown: control characters,
/// line and paragraph separators, invisible characters and those that change the direction of
/// writing are escaped.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(index) = rest.find(is_misleading) {
            formatter.write_str(&rest[..index])?;
            let mut chars = rest[index..].chars();
            if let Some(character) = chars.next() {
                write!(formatter, "{}", character.escape_default())?;
            }
            rest = chars.as_str();
        }
        formatter.write_str(rest)
    }
}

fn is_misleading(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// What is written in place of a secret.
pub const HIDDEN: &str = "(hidden)";

/// The shortest secret that is looked for: shorter ones are parts of words.
const MIN_SECRET_BYTES: usize = 4;

/// The bytes with these secrets hidden, in the forms in which a server repeats them: as they are,
/// in JSON, and in URLs. None if there are none of them.
#[must_use]
pub fn hide<'a>(bytes: &[u8], secrets: impl IntoIterator<Item = &'a str>) -> Option<Vec<u8>> {
    let mut hidden: Option<Vec<u8>> = None;
    for secret in secrets {
        if secret.len() < MIN_SECRET_BYTES {
            continue;
        }
        let json = serde_json::json!(secret).to_string();
        let forms = [
            secret.to_owned(),
            json[1..json.len() - 1].to_owned(),
            secret.replace('/', "\\/"),
            form_urlencoded::byte_serialize(secret.as_bytes()).collect(),
        ];
        for form in &forms {
            let text = hidden.as_deref().unwrap_or(bytes);
            if let Some(replaced) = replace(text, form.as_bytes()) {
                hidden = Some(replaced);
            }
        }
    }
    hidden
}

/// The bytes with every occurrence of `part` hidden; none if there is none.
fn replace(bytes: &[u8], part: &[u8]) -> Option<Vec<u8>> {
    let mut replaced = Vec::new();
    let mut rest = bytes;
    while let Some(index) = find(rest, part) {
        replaced.extend_from_slice(&rest[..index]);
        replaced.extend_from_slice(HIDDEN.as_bytes());
        rest = &rest[index + part.len()..];
    }
    if replaced.is_empty() {
        return None;
    }
    replaced.extend_from_slice(rest);
    Some(replaced)
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// The first 500 characters of a response's body or the like, escaped and without user
/// information of URLs.
#[must_use]
pub fn excerpt(bytes: &[u8]) -> String {
    // What follows the excerpt shows whether its last URL has user information.
    let end = bytes.len().min(MAX_SCANNED_BYTES);
    let text = String::from_utf8_lossy(&bytes[..end]);
    let text = truncate(redact_text(text.trim()).as_ref(), MAX_EXCERPT_CHARS);
    Escaped(&text).to_string()
}

/// A value that may be a URL or an address, without its user information: `https://user:pw@host`
/// becomes `https://***@host`. Everything before the last `@` counts as user information, because
/// a password that is not encoded may contain any character.
#[must_use]
pub fn redact_value(value: &str) -> Cow<'_, str> {
    let Some(at) = value.rfind('@') else {
        return Cow::Borrowed(value);
    };
    // A path, which may have an `@`.
    if value.starts_with('/') {
        return Cow::Borrowed(value);
    }
    let is_scheme = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    let scheme = match value.split_once("://") {
        Some((scheme, _)) if is_scheme(scheme) => &value[..scheme.len() + 3],
        _ => "",
    };
    Cow::Owned(format!("{scheme}{REDACTED}{}", &value[at..]))
}

/// A text in which URLs may appear, without their user information.
#[must_use]
pub fn redact_text(text: &str) -> Cow<'_, str> {
    const MARKS: [&str; 2] = ["://", ":\\/\\/"];
    if !text.contains('@') {
        return Cow::Borrowed(text);
    }
    let mut redacted = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(colon) = rest.find(':') {
        let mark = MARKS.iter().find(|mark| rest[colon..].starts_with(**mark));
        let (before, url) = rest.split_at(colon + mark.map_or(1, |mark| mark.len()));
        redacted.push_str(before);
        if mark.is_none() {
            rest = url;
            continue;
        }
        let end = url.find(ends_url).unwrap_or(url.len());
        let (url, after) = url.split_at(end);
        match url.rfind('@') {
            Some(at) if !is_at_in_path(url) => {
                redacted.push_str(REDACTED);
                redacted.push_str(&url[at..]);
            }
            _ => redacted.push_str(url),
        }
        rest = after;
    }
    redacted.push_str(rest);
    Cow::Owned(redacted)
}

fn ends_url(character: char) -> bool {
    character.is_whitespace() || character.is_control() || "\"'<>`".contains(character)
}

/// Whether `host:port` is complete before the first `/`, so that an `@` is part of the path.
fn is_at_in_path(url: &str) -> bool {
    let authority = url.split(['/', '?', '#']).next().unwrap_or_default();
    let port = authority.rsplit_once(':').map_or("", |(_, port)| port);
    !authority.contains('@')
        && (authority.starts_with('[') || port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// An error with the causes that its own text does not have yet. Our errors say their cause, those
/// of libraries often do not.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// A string, cut after `max_chars` characters; an ellipsis shows that it was.
#[must_use]
pub fn truncate(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Bytes as lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpt_should_escape_what_misleads_a_reader() {
        let text =
            "a\n2026 ERROR b\r\u{1b}[31m\u{9b}1m\u{202e}\u{2066}\u{200b}\u{2028}\u{7f}\0 ä 日本";
        let excerpt = excerpt(text.as_bytes());
        assert_eq!(
            excerpt,
            "a\\n2026 ERROR b\\r\\u{1b}[31m\\u{9b}1m\\u{202e}\\u{2066}\\u{200b}\\u{2028}\\u{7f}\\u{0} ä 日本"
        );
        assert_eq!(super::excerpt(b"plain \"text\""), "plain \"text\"");
    }

    #[test]
    fn hide_should_find_a_secret_in_every_form() {
        let secret = "Pass/word\"1+é";
        for text in [
            format!("you sent {secret}!"),
            serde_json::json!({ "body": secret }).to_string(),
            secret.replace('/', "\\/"),
            form_urlencoded::byte_serialize(secret.as_bytes()).collect(),
            format!("{secret}{secret}"),
        ] {
            let hidden = hide(text.as_bytes(), [secret]).expect(&text);
            let hidden = String::from_utf8(hidden).unwrap();
            assert!(hidden.contains(HIDDEN), "{hidden}");
            assert!(!hidden.contains("word"), "{hidden}");
        }
        assert_eq!(hide(b"nothing", [secret]), None);
        // Too short to tell from ordinary text.
        assert_eq!(hide(b"a b c", ["b", ""]), None);
    }

    #[test]
    fn value_shows_no_user_information() {
        for (value, expected) in [
            ("https://u:SecretPw1@h:6992/x", "https://***@h:6992/x"),
            ("https://token@h", "https://***@h"),
            ("u:p@h", "***@h"),
            ("https://u:p/w@h", "https://***@h"),
            ("https://u:p w\"@h", "https://***@h"),
            ("https://u:p@w@h", "https://***@h"),
            (
                "zk://u:p@a:2181,u2:p2@b:2181/mesos",
                "zk://***@b:2181/mesos",
            ),
            ("u:p@h,https://h2", "***@h,https://h2"),
            ("u:p@h://x@y", "***@y"),
            ("u:p://x@y", "***@y"),
            ("https://h:6992", "https://h:6992"),
            ("/run/user@1000/token", "/run/user@1000/token"),
            ("", ""),
        ] {
            assert_eq!(redact_value(value), expected, "{value:?}");
        }
    }

    #[test]
    fn text_shows_no_user_information() {
        for (text, expected) in [
            (
                "GET http://u:p@h/x failed, and https://token@h2",
                "GET http://***@h/x failed, and https://***@h2",
            ),
            (
                r#"{"url":"http:\/\/u:p@h\/x"}"#,
                r#"{"url":"http:\/\/***@h\/x"}"#,
            ),
            ("http://u:p/w@h", "http://***@h"),
            ("http://h:8080/apps/a@b", "http://h:8080/apps/a@b"),
            ("http://[2001:db8::1]/a@b", "http://[2001:db8::1]/a@b"),
            ("slave(1)@10.0.0.1:5051", "slave(1)@10.0.0.1:5051"),
            ("a@b http://", "a@b http://"),
        ] {
            assert_eq!(redact_text(text), expected);
        }
    }

    #[test]
    fn quotation_shows_no_part_of_a_long_password() {
        let value = format!("https://u:{}@h", "p".repeat(100));
        assert_eq!(Quoted(value.as_bytes()).to_string(), "\"https://***@h\"");
        let body = format!("moved to {value}");
        assert_eq!(excerpt(body.as_bytes()), "moved to https://***@h");
    }

    #[test]
    fn cause_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot open: {0}")]
        struct Complete(#[source] std::io::Error);
        #[derive(Debug, thiserror::Error)]
        #[error("cannot start")]
        struct Incomplete(#[source] Complete);

        let error = Incomplete(Complete(std::io::Error::other("no space")));
        assert_eq!(with_causes(&error), "cannot start: cannot open: no space");
    }
}
