//! Untrusted strings, made safe for messages.

use std::fmt;

/// The longest quotation, in characters.
const MAX_QUOTE_CHARS: usize = 64;

/// The longest excerpt, in characters.
const MAX_EXCERPT_CHARS: usize = 500;

/// An untrusted string in a message: quoted, escaped and shortened, whatever its bytes are.
pub struct Quoted<'a>(pub &'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A character has four bytes at most, and one may be cut.
        let end = self.0.len().min(4 * (MAX_QUOTE_CHARS + 1));
        let text = String::from_utf8_lossy(&self.0[..end]);
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

/// The first 500 characters of a response's body or the like, escaped.
#[must_use]
pub fn excerpt(bytes: &[u8]) -> String {
    // A character has four bytes at most, and one may be cut.
    let end = bytes.len().min(4 * (MAX_EXCERPT_CHARS + 1));
    let text = String::from_utf8_lossy(&bytes[..end]);
    Escaped(&truncate(text.trim(), MAX_EXCERPT_CHARS)).to_string()
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
}
