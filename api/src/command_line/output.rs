//! Printing: the reader of the output may stop, and a disk may be full.

use std::io::{self, ErrorKind, Write as _};

use anstyle::{AnsiColor, Style};

/// The output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the output: {0}")]
pub struct OutputError(#[source] io::Error);

/// Prints text to the standard output. It is no error that nobody reads it to its end, as in
/// `status | head -1`. Colors are left out if they are not wanted.
pub fn print(text: &str) -> Result<(), OutputError> {
    let mut output = anstream::AutoStream::auto(io::stdout().lock());
    written(
        output
            .write_all(text.as_bytes())
            .and_then(|()| output.flush()),
    )
}

/// What it means that something was written, or was not.
pub(super) fn written(result: io::Result<()>) -> Result<(), OutputError> {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(OutputError(error)),
        _ => Ok(()),
    }
}

/// What a word in the output says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// All is well.
    Good,
    /// It is worth knowing.
    Note,
    /// Something is probably not meant.
    Warning,
    /// Something is wrong.
    Problem,
}

/// The text in the color of its tone, for [`print()`], which leaves colors out where they are not wanted.
#[must_use]
pub fn painted(tone: Tone, text: &str) -> String {
    let color = match tone {
        Tone::Good => AnsiColor::Green,
        Tone::Note => AnsiColor::Cyan,
        Tone::Warning => AnsiColor::Yellow,
        Tone::Problem => AnsiColor::Red,
    };
    let style = Style::new().fg_color(Some(color.into())).bold();
    format!("{style}{text}{style:#}")
}
