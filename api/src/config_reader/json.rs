//! JSON files, read by the same [`Section`](super::Section)s as TOML.
//!
//! Invariants: a key that is there twice is a problem, and so is what TOML has no value for: `null`.
//! What is nested deeper than any configuration is not looked at, so the time is linear in the size
//! of the file.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::{Document, shown_key};

/// More levels than a configuration has. Each level below reads its part of the file once more.
const MAX_DEPTH: usize = 8;

impl<'a> Document<'a> {
    /// Parses the file as JSON. It must be an object. Of syntax errors the first is a problem, and
    /// other problems of such a file are not reported.
    pub fn parse_json(&self) -> Spanned<DeTable<'a>> {
        self.is_json.set(true);
        let nothing = || Spanned::new(0..0, DeTable::new());
        let root = match serde_json::from_str::<&RawValue>(self.text) {
            Ok(root) => root,
            Err(error) => {
                self.add_syntax_error(&error, 0);
                return nothing();
            }
        };
        let start = self.offset_of(root.get());
        match self
            .json_value(root, "", MAX_DEPTH)
            .map(Spanned::into_inner)
        {
            Some(DeValue::Table(table)) => Spanned::new(start..start + root.get().len(), table),
            Some(_) => {
                let message = "expected a JSON object: {…}";
                self.add(start, String::new(), message.to_owned());
                self.has_syntax_error.set(true);
                nothing()
            }
            None => nothing(),
        }
    }

    /// Where a part of the text begins.
    fn offset_of(&self, part: &str) -> usize {
        (part.as_ptr().addr()).saturating_sub(self.text.as_ptr().addr())
    }

    /// Reports a syntax error of the part of the text that begins at `start`.
    fn add_syntax_error(&self, error: &serde_json::Error, start: usize) {
        let part = self.text.get(start..).unwrap_or_default();
        let line_start: usize = part
            .split_inclusive('\n')
            .take(error.line().saturating_sub(1))
            .map(str::len)
            .sum();
        let offset = start + line_start + error.column().saturating_sub(1);
        let offset = (0..=offset.min(self.text.len()))
            .rev()
            .find(|offset| self.text.is_char_boundary(*offset));
        // The position is said by the place.
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        let message = format!("not JSON: {message}");
        self.add(offset.unwrap_or_default(), String::new(), message);
        self.has_syntax_error.set(true);
    }

    fn json_value(
        &self,
        raw: &'a RawValue,
        path: &str,
        depth: usize,
    ) -> Option<Spanned<DeValue<'a>>> {
        let text = raw.get();
        let start = self.offset_of(text);
        let value = match text.as_bytes().first()? {
            b'{' if depth == 0 => DeValue::Table(DeTable::new()),
            b'[' if depth == 0 => DeValue::Array(DeArray::new()),
            b'{' => DeValue::Table(self.json_table(text, path, depth - 1)?),
            b'[' => {
                let items: Vec<&'a RawValue> = self.json_part(text)?;
                let items = items.into_iter().enumerate().filter_map(|(index, item)| {
                    self.json_value(item, &format!("{path}[{index}]"), depth - 1)
                });
                DeValue::Array(items.collect())
            }
            b'"' => DeValue::String(self.json_part::<String>(text)?.into()),
            b't' => DeValue::Boolean(true),
            b'f' => DeValue::Boolean(false),
            b'n' => {
                let message = "is null: write a value, or leave the key out";
                self.add(start, path.to_owned(), message.to_owned());
                return None;
            }
            // Every number of JSON is one of TOML.
            _ => DeValue::parse(text).ok()?.into_inner(),
        };
        Some(Spanned::new(start..start + text.len(), value))
    }

    fn json_table(&self, text: &'a str, path: &str, depth: usize) -> Option<DeTable<'a>> {
        let Entries(entries) = self.json_part(text)?;
        let mut table = DeTable::new();
        let mut known = BTreeSet::new();
        for (key, value) in entries {
            let start = self.offset_of(key.get());
            let name: String = self.json_part(key.get())?;
            let shown = shown_key(&name);
            let inner = if path.is_empty() {
                shown
            } else {
                format!("{path}.{shown}")
            };
            if !known.insert(name.clone()) {
                self.add(start, inner, "duplicate key".to_owned());
                continue;
            }
            let Some(value) = self.json_value(value, &inner, depth) else {
                continue;
            };
            let span = start..start + key.get().len();
            table.insert(Spanned::new(span, name.into()), value);
        }
        Some(table)
    }

    /// Parses a part whose syntax has been checked. Strings may still have an invalid escape.
    fn json_part<T: Deserialize<'a>>(&self, text: &'a str) -> Option<T> {
        serde_json::from_str(text)
            .inspect_err(|error| self.add_syntax_error(error, self.offset_of(text)))
            .ok()
    }
}

/// The members of an object, in the order of the text.
struct Entries<'a>(Vec<(&'a RawValue, &'a RawValue)>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;

        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = vec![];
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(EntriesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{ConfigError, MAX_PROBLEMS, Section};
    use super::*;
    use crate::parser_testing::{assert_linear, for_damaged_input};

    /// Reads a file with the keys `alpha`, `table` with `name`, and `list`, all optional.
    fn read(text: &str) -> Result<(Option<u32>, Option<String>), ConfigError> {
        let document = Document::new(Path::new("f.json"), text);
        let table = document.parse_json();
        let top = Section::top(&document, &table);
        let alpha = top.integer("alpha", 1..=9);
        let name = top.section("table").and_then(|section| {
            let name = section.text("name", "a name");
            section.finish();
            name
        });
        for section in top.sections("list") {
            section.text("name", "a name");
            section.finish();
        }
        top.finish();
        document.finish()?;
        Ok((alpha, name))
    }

    fn lines(text: &str) -> Vec<String> {
        let error = read(text).expect_err("a problem");
        error.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn json_is_read_like_toml() {
        let text = "{\"alpha\": 7,\n \"table\": {\"name\": \"a\\u00e4\\n\"}, \"list\": []}";
        assert_eq!(
            read(text).expect("valid"),
            (Some(7), Some("aä\n".to_owned()))
        );
        assert_eq!(read(" {} ").expect("valid"), (None, None));
    }

    #[test]
    fn problems_have_their_lines_and_keys() {
        assert_eq!(
            lines(
                "{\n \"alpha\": 7.5,\n \"alpha\": 3,\n \"tabel\": null,\n \"table\": [1],\n \
                 \"list\": [{\"name\": 1, \"name\": 2}, {\"nam\": \"x\"}, 3]\n}"
            ),
            [
                "f.json:2:11: alpha: expected a number from 1 to 9, found 7.5",
                "f.json:3:2: alpha: duplicate key",
                "f.json:4:11: tabel: is null: write a value, or leave the key out",
                "f.json:5:11: table: expected an object, found an array",
                "f.json:6:20: list[0].name: expected a name, found 1",
                "f.json:6:23: list[0].name: duplicate key",
                "f.json:6:36: list[1].nam: unknown key; did you mean \"name\"?",
                "f.json:6:49: list: expected an array of objects, found 3",
            ]
        );
    }

    #[test]
    fn syntax_error_has_a_place_and_no_followers() {
        for (text, place) in [
            ("", "f.json:1:1: not JSON: EOF"),
            ("{\"alpha\": 10,\n", "f.json:2:1: not JSON: EOF"),
            (
                "{\"alpha\": 10,\n\"beta\" 1}",
                "f.json:2:8: not JSON: expected `:`",
            ),
            ("{\"alpha\": 10}\n{}", "f.json:2:1: not JSON: trailing"),
            (
                "{\"alpha\": 10, \"table\": {\"name\": \"\\ud800\"}}",
                "f.json:1:",
            ),
            ("[]", "f.json:1:1: expected a JSON object"),
            ("12", "f.json:1:1: expected a JSON object"),
        ] {
            let lines = lines(text);
            assert!(
                lines.last().expect("a line").starts_with(place),
                "{lines:?}"
            );
        }
        assert!(
            !lines("{\"password\": SecretPw1}")
                .concat()
                .contains("SecretPw1")
        );
    }

    #[test]
    fn damaged_input_never_panics() {
        let valid =
            "{\"alpha\": 1, \"table\": {\"name\": \"\\u00e4\"},\n \"list\": [{\"name\": \"x\"}]}";
        for_damaged_input(valid.as_bytes(), |input| {
            if let Err(error) = read(&String::from_utf8_lossy(input)) {
                assert!(error.problems.len() <= MAX_PROBLEMS);
                assert!(!error.to_string().contains(char::is_control), "{error}");
            }
        });
    }

    #[test]
    fn reading_is_linear_in_the_size_of_the_file() {
        for (name, text) in [
            ("unknown keys", "\"NAME\": 1, "),
            ("duplicate keys", "\"alpha\": 1, "),
            ("objects", "\"NAME\": {\"a\": {\"b\": [1, 2]}}, "),
        ] {
            assert_linear(name, 2000, |entries| {
                let text: String = (0..entries)
                    .map(|number| text.replace("NAME", &format!("key{number}")))
                    .collect();
                assert!(read(&format!("{{{text}\"table\": {{}}}}")).is_err());
            });
        }
        assert_linear("depth", 20_000, |depth| {
            let text = format!("{{\"deep\": {}{}}}", "[".repeat(depth), "]".repeat(depth));
            assert!(read(&text).is_err());
        });
    }
}
