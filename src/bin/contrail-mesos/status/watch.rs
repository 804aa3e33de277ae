//! Repeated output: redrawn on a terminal, one block after the other elsewhere.

use std::io::{self, ErrorKind, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Moves the cursor to the upper left corner.
const HOME: &str = "\u{1b}[H";
/// Clears from the cursor to the end of the line.
const CLEAR_LINE: &str = "\u{1b}[K";
/// Clears from the cursor to the end of the screen.
const CLEAR_BELOW: &str = "\u{1b}[J";

/// What is shown.
pub(crate) enum Printout {
    /// Lines for a person.
    Text(String),
    /// JSON, of which each repetition is one line.
    Json(Value),
}

impl Printout {
    /// What is printed once.
    pub(super) fn to_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Json(value) => format!("{value:#}\n"),
        }
    }
}

/// Where repeated output goes.
pub(super) struct Screen {
    is_terminal: bool,
    seconds: u64,
}

impl Screen {
    pub(super) fn new(seconds: u64) -> Self {
        Self {
            is_terminal: io::stdout().is_terminal(),
            seconds,
        }
    }

    /// Shows what follows what was shown before. Returns whether anybody still reads it.
    pub(super) fn show(&self, content: &Printout) -> Result<bool> {
        let now = jiff::Timestamp::now();
        let text = self.frame(content, &format!("{now:.0}"));
        let mut output = io::stdout().lock();
        match output
            .write_all(text.as_bytes())
            .and_then(|()| output.flush())
        {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(error).context("cannot write the output"),
        }
    }

    fn frame(&self, content: &Printout, now: &str) -> String {
        match content {
            Printout::Json(value) => format!("{value}\n"),
            Printout::Text(text) if self.is_terminal => {
                // Without clearing all of it at first, so that it does not flicker.
                let text = format!("{now}, every {} s\n\n{text}", self.seconds);
                let lines = text.replace('\n', &format!("{CLEAR_LINE}\n"));
                format!("{HOME}{lines}{CLEAR_BELOW}")
            }
            Printout::Text(text) => format!("{now}\n{text}\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_terminal_gets_control_characters() {
        let frame = |is_terminal, content: &Printout| {
            let screen = Screen {
                is_terminal,
                seconds: 2,
            };
            screen.frame(content, "NOW")
        };
        let text = Printout::Text("a\nb\n".to_owned());
        assert_eq!(frame(false, &text), "NOW\na\nb\n\n");
        let redrawn = frame(true, &text);
        assert!(redrawn.starts_with(HOME) && redrawn.ends_with(CLEAR_BELOW));
        assert_eq!(
            redrawn.matches(CLEAR_LINE).count(),
            redrawn.lines().count() - 1
        );
        let line = Printout::Json(json!({"a": [1, 2]}));
        assert_eq!(frame(true, &line), "{\"a\":[1,2]}\n");
    }
}
