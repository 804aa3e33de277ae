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

/// The first 500 characters of a response's body or the like.
#[must_use]
pub fn excerpt(bytes: &[u8]) -> String {
    // A character has four bytes at most, and one may be cut.
    let end = bytes.len().min(4 * (MAX_EXCERPT_CHARS + 1));
    truncate(
        String::from_utf8_lossy(&bytes[..end]).trim(),
        MAX_EXCERPT_CHARS,
    )
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
