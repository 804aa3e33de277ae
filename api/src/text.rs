//! Text from outside, made safe for a message.

use std::fmt;

/// The longest quotation, in characters.
const LONGEST_QUOTE: usize = 64;

/// A framework's text in a message: quoted, escaped and shortened, whatever bytes it is.
pub struct Quoted<'a>(pub &'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy(self.0);
        let mut letters = text.chars();
        let head: String = letters.by_ref().take(LONGEST_QUOTE).collect();
        write!(formatter, "{head:?}")?;
        if letters.next().is_some() {
            write!(formatter, "… ({} bytes)", self.0.len())?;
        }
        Ok(())
    }
}
