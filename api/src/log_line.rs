//! The formats of log lines, one line a record: text, `[time level target] message key=value …`, and
//! JSON. There, fields of a record are plain values: numbers and booleans stay what they are, and
//! strings are not quoted twice.

use std::fmt;
use std::io::{self, Write};

use log::Record;
use serde_json::{Map, Value};

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

/// Writes a record as a JSON object.
pub fn write_json(
    out: &mut impl Write,
    time: impl fmt::Display,
    record: &Record<'_>,
) -> io::Result<()> {
    writeln!(out, "{}", json(record, &time.to_string()))
}

/// The fields of a record, as JSON.
struct JsonFields(Map<String, Value>);

impl<'kvs> log::kv::VisitSource<'kvs> for JsonFields {
    fn visit_pair(
        &mut self,
        key: log::kv::Key<'kvs>,
        value: log::kv::Value<'kvs>,
    ) -> Result<(), log::kv::Error> {
        let json = if let Some(number) = value.to_u64() {
            number.into()
        } else if let Some(number) = value.to_i64() {
            number.into()
        } else if let Some(number) = value.to_f64() {
            number.into()
        } else if let Some(boolean) = value.to_bool() {
            boolean.into()
        } else {
            value.to_string().into()
        };
        // A field must not replace one that every record has.
        let key = match key.as_str() {
            reserved @ ("time" | "level" | "target" | "message") => format!("{reserved}_"),
            other => other.to_owned(),
        };
        self.0.insert(key, json);
        Ok(())
    }
}

fn json(record: &Record<'_>, time: &str) -> Value {
    let mut fields = JsonFields(Map::new());
    fields.0.insert("time".to_owned(), time.into());
    fields
        .0
        .insert("level".to_owned(), record.level().as_str().into());
    fields.0.insert("target".to_owned(), record.target().into());
    fields
        .0
        .insert("message".to_owned(), record.args().to_string().into());
    // A value that cannot be formatted is left out rather than the whole line.
    let _ = record.key_values().visit(&mut fields);
    Value::Object(fields.0)
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

    #[test]
    fn json_line_has_plain_values_on_one_line() {
        let elapsed_ms = 0.5_f64;
        let fields = [
            ("container", log::kv::Value::from("c\"1")),
            ("message", "x".into()),
            ("elapsed_ms", elapsed_ms.into()),
            ("term", 7_u64.into()),
            ("delta", (-1_i64).into()),
            ("complete", true.into()),
        ];
        let fields: &[(&str, log::kv::Value<'_>)] = &fields;
        let record = Record::builder()
            .args(format_args!("ports made\nor not"))
            .level(log::Level::Warn)
            .target("t")
            .key_values(&fields)
            .build();
        let line = json(&record, "now").to_string();
        assert!(!line.contains('\n'), "{line}");
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            line,
            serde_json::json!({
                "time": "now",
                "level": "WARN",
                "target": "t",
                "message": "ports made\nor not",
                "message_": "x",
                "container": "c\"1",
                "elapsed_ms": 0.5,
                "term": 7,
                "delta": -1,
                "complete": true,
            })
        );
    }
}
