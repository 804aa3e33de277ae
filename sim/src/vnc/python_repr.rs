//! Values as Python prints them, which the real server's error messages contain.

use std::fmt::Write as _;

use serde_json::Value;

/// The line width of Python's `pprint`.
const PPRINT_WIDTH: usize = 80;

/// `repr(value)`
pub(crate) fn repr(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => repr_str(text),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(repr).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Object(fields) => {
            let fields: Vec<_> = fields
                .iter()
                .map(|(name, value)| format!("{}: {}", repr_str(name), repr(value)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
    }
}

/// `repr(text)`: in single quotes, unless the text has single quotes and no double ones.
pub(crate) fn repr_str(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut out = String::from(quote);
    for character in text.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            character if character == quote => {
                out.push('\\');
                out.push(character);
            }
            character if character.is_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(character));
            }
            character => out.push(character),
        }
    }
    out.push(quote);
    out
}

/// `repr` of a list of names.
pub(crate) fn names<T: AsRef<str>>(names: &[T]) -> String {
    let items: Vec<_> = names.iter().map(|name| repr_str(name.as_ref())).collect();
    format!("[{}]", items.join(", "))
}

/// `pformat` of a list of names: one per line if they do not fit on one line.
pub(crate) fn pformat_names<T: AsRef<str>>(list: &[T]) -> String {
    let one_line = names(list);
    if one_line.chars().count() <= PPRINT_WIDTH {
        return one_line;
    }
    let items: Vec<_> = list.iter().map(|name| repr_str(name.as_ref())).collect();
    format!("[{}]", items.join(",\n "))
}

/// Whether Python's `if value:` is true.
pub(crate) fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

/// `str(value)`
pub(crate) fn str(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        value => repr(value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn repr_writes_values_as_python_does() {
        let value = json!({"a": [1, null, true], "b": "it's", "c": "x\n"});
        assert_eq!(
            repr(&value),
            r#"{'a': [1, None, True], 'b': "it's", 'c': 'x\n'}"#
        );
    }

    #[test]
    fn pformat_wraps_long_lists() {
        let long = "x".repeat(50);
        assert_eq!(pformat_names(&["a", "b"]), "['a', 'b']");
        assert_eq!(
            pformat_names(&[&long, &long]),
            format!("['{long}',\n '{long}']")
        );
    }
}
