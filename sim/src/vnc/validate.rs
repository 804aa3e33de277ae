//! Checks properties and reference attributes against the schema.
//!
//! Like the real server, it silently drops unknown properties, rejects unknown fields of complex
//! types, and accepts false, 0 and empty values unchecked.

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::python_repr::{self, repr, truthy};
use super::response::{Outcome, fail};
use super::schema::{Kind, SimpleType, ValueType, schema};

/// The error is the message of a Python exception.
type CheckResult = Result<(), String>;

/// Checks a whole body; `when` is the name of the operation in error messages.
pub(crate) fn body(kind: &Kind, body: &mut Map<String, Value>, when: &str) -> Outcome<()> {
    for prop in &kind.props {
        let Some(value) = body.get_mut(&prop.name).filter(|value| truthy(value)) else {
            if when == "create" && prop.name == "loadbalancer_healthmonitor_properties" {
                return fail(
                    400,
                    format!("Bad property in {when}: {} property is missing", prop.name),
                );
            }
            continue;
        };
        let checked = match &prop.value_type {
            ValueType::Simple(simple) => simple_value(&prop.name, simple, value)
                .map_err(|problem| format!("Error validating property {problem}")),
            ValueType::Complex(name) if value.is_object() => {
                let before = repr(value);
                complex_value(name, value).map_err(|problem| {
                    format!(
                        "Error validating property {} value {before} {problem}",
                        prop.name
                    )
                })
            }
            ValueType::Complex(name) => Err(format!(
                "Error in property {} type {} value of {} ",
                prop.name,
                class(name),
                python_repr::str(value)
            )),
        };
        if let Err(problem) = checked {
            return fail(400, format!("Bad property in {when}: {problem}"));
        }
    }
    for field in &kind.refs {
        let Some(attr) = &field.attr else { continue };
        let Some(refs) = body.get_mut(&field.name).and_then(Value::as_array_mut) else {
            continue;
        };
        for reference in refs {
            let before = repr(reference);
            let checked = match reference.get_mut("attr") {
                None => Err("'attr'".to_owned()),
                Some(value) => complex_value(attr, value),
            };
            if let Err(problem) = checked {
                return fail(
                    400,
                    format!(
                        "Bad reference in {when}: Error validating reference {} value \
                         {before}{problem}",
                        field.name
                    ),
                );
            }
        }
    }
    Ok(())
}

/// Checks a value of a complex type and normalizes it.
pub(crate) fn complex_value(name: &str, value: &mut Value) -> CheckResult {
    let fields = match value {
        Value::Null => return Ok(()),
        Value::Object(fields) => fields,
        other => return Err(no_attribute(other, "items")),
    };
    let known = schema().complex(name).unwrap_or_default();
    for (key, value) in fields {
        let Some(field) = known.iter().find(|field| field.name == *key) else {
            return Err(format!("class {} does not have field {key}", class(name)));
        };
        if !truthy(value) {
            continue;
        }
        if field.list {
            let Some(items) = value.as_array_mut() else {
                return Err(format!(
                    "Field {key} must be a list. Received value: {}",
                    python_repr::str(value)
                ));
            };
            for item in items {
                field_value(key, &field.value_type, item)?;
            }
        } else {
            field_value(key, &field.value_type, value)?;
        }
    }
    Ok(())
}

fn field_value(key: &str, value_type: &ValueType, value: &mut Value) -> CheckResult {
    match value_type {
        ValueType::Simple(simple) => simple_value(key, simple, value),
        ValueType::Complex(name) => {
            if name == "AllowedAddressPair" {
                pair(value)?;
            }
            if name == "SubnetType" {
                subnet(value)?;
            }
            complex_value(name, value)
        }
    }
}

fn simple_value(name: &str, simple: &SimpleType, value: &mut Value) -> CheckResult {
    if value.is_null() {
        return Ok(());
    }
    let shown = python_repr::str(value);
    match simple {
        SimpleType::Bool if value.is_boolean() => Ok(()),
        SimpleType::Bool => Err(format!("{name}: true/false expected instead of {shown}")),
        SimpleType::Int(bounds) => {
            let number = match &*value {
                Value::Number(number) if !number.is_f64() => {
                    Some(i128::from(number.as_i64().unwrap_or(i64::MAX)))
                }
                Value::Number(number) => number.as_f64().map(|number| {
                    #[allow(clippy::cast_possible_truncation)]
                    let number = number as i64;
                    *value = Value::from(number);
                    i128::from(number)
                }),
                Value::Bool(bool) => Some(i128::from(*bool)),
                Value::String(text) => text.trim().parse::<i64>().ok().map(|number| {
                    *value = Value::from(number);
                    i128::from(number)
                }),
                _ => None,
            };
            let Some(number) = number else {
                return Err(format!("{name}: integer value expected instead of {shown}"));
            };
            match bounds {
                Some((first, last))
                    if !(i128::from(*first)..=i128::from(*last)).contains(&number) =>
                {
                    Err(format!("{name}: value must be between {first} and {last}"))
                }
                _ => Ok(()),
            }
        }
        SimpleType::Text(allowed) => match value {
            Value::String(text) if allowed.is_empty() || allowed.contains(text) => Ok(()),
            Value::String(_) => Err(format!(
                "{name}: value must be one of {}",
                python_repr::names(allowed)
            )),
            _ => Err(format!("{name}: string value expected instead of {shown}")),
        },
    }
}

/// A subnet is stored with its network address.
fn subnet(value: &mut Value) -> CheckResult {
    let Value::Object(fields) = value else {
        return Err("Subnet type is invalid".to_owned());
    };
    let part = |name: &str| {
        fields
            .get(name)
            .map(python_repr::str)
            .ok_or(format!("'{name}'"))
    };
    let text = format!("{}/{}", part("ip_prefix")?, part("ip_prefix_len")?);
    let Ok(network) = text.parse::<IpNet>() else {
        return Err(format!("Subnet type '{text}' is invalid"));
    };
    fields.insert("ip_prefix".to_owned(), network.network().to_string().into());
    fields.insert("ip_prefix_len".to_owned(), network.prefix_len().into());
    Ok(())
}

/// A shared (active-standby) address must have a long prefix.
fn pair(value: &Value) -> CheckResult {
    let mode = value.get("address_mode").ok_or("'address_mode'")?;
    if mode != "active-standby" {
        return Ok(());
    }
    let prefix = value["ip"]["ip_prefix"].as_str().unwrap_or_default();
    let length = value["ip"]["ip_prefix_len"].as_i64().unwrap_or_default();
    if prefix.contains(':') && length < 120 {
        return Err("IPv6 Prefix length lesser than 120 is is not acceptable".to_owned());
    }
    if !prefix.contains(':') && length < 24 {
        return Err("IPv4 Prefix length lesser than 24 is not acceptable".to_owned());
    }
    Ok(())
}

fn class(name: &str) -> String {
    format!("<class 'vnc_api.gen.resource_xsd.{name}'>")
}

fn no_attribute(value: &Value, name: &str) -> String {
    let class = match value {
        Value::Bool(_) => "bool",
        Value::Number(_) => "int",
        Value::String(_) => "str",
        Value::Array(_) => "list",
        Value::Object(_) => "dict",
        Value::Null => "NoneType",
    };
    format!("'{class}' object has no attribute '{name}'")
}
