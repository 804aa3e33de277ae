//! Comparison of an existing object with the requested one.
//!
//! Only fields of the request are compared. The server fills in the rest, and reorders lists of
//! pairs and references.

use serde_json::Value;

use super::object::Object;

/// The fields of `requested` that differ in `existing`, sorted.
pub(super) fn differing_fields<T: Object>(requested: &T, existing: &T) -> Vec<String> {
    let (Ok(Value::Object(requested)), Ok(Value::Object(existing))) = (
        serde_json::to_value(requested),
        serde_json::to_value(existing),
    ) else {
        return vec![];
    };
    let mut fields: Vec<String> = requested
        .iter()
        .filter(|(field, value)| !matches(value, existing.get(*field).unwrap_or(&Value::Null)))
        .map(|(field, _)| field.clone())
        .collect();
    fields.sort();
    fields
}

fn matches(requested: &Value, existing: &Value) -> bool {
    match (requested, existing) {
        (Value::Null, _) => true,
        (Value::Object(requested), Value::Object(existing)) => requested
            .iter()
            .all(|(key, value)| matches(value, existing.get(key).unwrap_or(&Value::Null))),
        // An empty list matches any: the server fills in the subnets of a flat network.
        (Value::Array(requested), _) if requested.is_empty() => true,
        (Value::Array(requested), Value::Array(existing)) => {
            // Lists of names and addresses are ordered. Lists of objects are not, and may contain
            // references and pairs of other clients.
            if requested.iter().all(Value::is_object) {
                requested
                    .iter()
                    .all(|value| existing.iter().any(|other| matches(value, other)))
            } else {
                requested == existing
            }
        }
        _ => requested == existing,
    }
}
