//! Whether an object that was found is the one that was wanted.
//!
//! Only what was wanted is compared. The server fills in the rest, and gives lists of pairs and
//! references in another order.

use serde_json::Value;

use super::object::Object;

/// The fields of `wanted` that `found` has otherwise, sorted.
pub(super) fn differences<T: Object>(wanted: &T, found: &T) -> Vec<String> {
    let (Ok(Value::Object(wanted)), Ok(Value::Object(found))) =
        (serde_json::to_value(wanted), serde_json::to_value(found))
    else {
        return vec![];
    };
    let mut differs: Vec<String> = wanted
        .iter()
        .filter(|(field, value)| !holds(value, found.get(*field).unwrap_or(&Value::Null)))
        .map(|(field, _)| field.clone())
        .collect();
    differs.sort();
    differs
}

fn holds(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::Null, _) => true,
        (Value::Object(wanted), Value::Object(found)) => wanted
            .iter()
            .all(|(key, value)| holds(value, found.get(key).unwrap_or(&Value::Null))),
        // An empty list is no statement: a flat network's subnets are filled in by the server.
        (Value::Array(wanted), _) if wanted.is_empty() => true,
        (Value::Array(wanted), Value::Array(found)) => {
            // Names and addresses have an order, what is made of objects has none: there,
            // references and pairs of others may stand beside ours.
            if wanted.iter().all(Value::is_object) {
                wanted
                    .iter()
                    .all(|value| found.iter().any(|other| holds(value, other)))
            } else {
                wanted == found
            }
        }
        _ => wanted == found,
    }
}
