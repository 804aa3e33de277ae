//! The text format of log lines: `[time level target] message key=value …`, one line a record.

use std::fmt;
use std::io::{self, Write};

use log::Record;

use crate::text::Escaped;

/// Writes a record. Control characters in it, which could forge lines, are escaped.
pub fn write(out: &mut impl Write, time: impl fmt::Display, record: &Record<'_>) -> io::Result<()> {
    let (level, target) = (record.level(), record.target());
    let message = record.args().to_string();
    write!(out, "[{time} {level:<5} {target}] {}", Escaped(&message))?;
    record
        .key_values()
        .visit(&mut Fields(out))
        .map_err(io::Error::other)?;
    writeln!(out)
}

/// Writes fields as ` key=value`.
struct Fields<'a, W>(&'a mut W);

impl<'kvs, W: Write> log::kv::VisitSource<'kvs> for Fields<'_, W> {
    fn visit_pair(
        &mut self,
        key: log::kv::Key<'kvs>,
        value: log::kv::Value<'kvs>,
    ) -> Result<(), log::kv::Error> {
        write!(self.0, " {key}={}", Escaped(&value.to_string()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_should_be_one_line_without_control_characters() {
        let fields = [("container", "a\nb\u{1b}"), ("app", "/ä")];
        let fields: &[(&str, &str)] = &fields;
        let record = Record::builder()
            .args(format_args!("made\n[now ERROR x] forged\u{9b}2J\u{202e}"))
            .level(log::Level::Warn)
            .target("t")
            .key_values(&fields)
            .build();
        let mut line = vec![];
        write(&mut line, "now", &record).unwrap();
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "[now WARN  t] made\\n[now ERROR x] forged\\u{9b}2J\\u{202e} container=a\\nb\\u{1b} app=/ä\n"
        );
    }
}
