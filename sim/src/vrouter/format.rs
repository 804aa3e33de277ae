//! Uuids and JSON as the agent writes them.

use serde::Serialize as _;
use serde_json::ser::PrettyFormatter;
use serde_json::{Value, json};
use uuid::Uuid;

/// Reads a uuid in the only form that the agent accepts: with dashes and in lower case.
pub(crate) fn canonical(text: &str) -> Option<Uuid> {
    let uuid: Uuid = text.parse().ok()?;
    (uuid.to_string() == text).then_some(uuid)
}

/// JSON as the agent writes it, indented by four spaces.
pub(crate) fn pretty(value: &Value) -> String {
    let mut text = Vec::new();
    let formatter = PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) => json!({ "error": error.to_string() }).to_string(),
    }
}
