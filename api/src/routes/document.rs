//! The OpenAPI document of a listener.

use std::collections::BTreeSet;

use axum::body::Bytes;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::Operation;

/// Where the schemas are.
const SCHEMAS: &str = "/components/schemas";
/// The end of the name of what requests have, where it differs from that of responses.
const REQUEST_SUFFIX: &str = "Request";

/// An OpenAPI 3.1 document.
#[derive(Clone, Debug)]
pub struct Document {
    /// Whose API it is.
    pub title: &'static str,
    /// The version of the program.
    pub version: &'static str,
    /// What holds for all operations, in Markdown.
    pub description: &'static str,
    /// The security schemes, by name.
    pub security_schemes: Value,
    /// Which of them a request needs: each element of the list is enough.
    pub security: Value,
    /// The operations.
    pub operations: Vec<Operation>,
}

impl Document {
    /// The document as JSON, the same each time.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let (mut requests, mut responses) = (generator(true), generator(false));
        let objects = self.operations.iter();
        let objects = objects.map(|operation| operation.to_json(&mut requests, &mut responses));
        let objects: Vec<_> = objects.collect();
        let mut schemas = responses.take_definitions(true);
        let renamed = add_requests(requests.take_definitions(true), &mut schemas);
        correct_networks(&mut schemas);
        let mut paths = Map::new();
        for (operation, mut object) in self.operations.iter().zip(objects) {
            for name in ["parameters", "requestBody"] {
                if let Some(part) = object.get_mut(name) {
                    rename_references(part, &renamed);
                }
            }
            let path = paths.entry(operation.path()).or_insert_with(|| json!({}));
            path[operation.method_name()] = object;
        }
        let mut document = json!({
            "openapi": "3.1.1",
            "info": {
                "title": self.title,
                "version": self.version,
                "description": self.description,
                "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            },
            // Relative: the listener that serves the document.
            "servers": [{ "url": "/" }],
            "paths": paths,
            "components": { "schemas": schemas, "securitySchemes": self.security_schemes },
            "security": self.security,
        });
        strip_links(&mut document);
        // Other crates decide whether maps keep the order of insertion.
        document.sort_all_objects();
        document
    }

    /// The document as text that ends with a newline.
    #[must_use]
    pub fn to_text(&self) -> Bytes {
        // The keys are strings, so that this cannot fail.
        let mut text = serde_json::to_vec_pretty(&self.to_json()).unwrap_or_default();
        text.push(b'\n');
        text.into()
    }
}

fn generator(requests: bool) -> SchemaGenerator {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = SCHEMAS.into();
    settings.meta_schema = None;
    let settings = if requests {
        settings.for_deserialize()
    } else {
        settings.for_serialize()
    };
    settings.into_generator()
}

/// Adds the schemas of requests. Those that differ from the schema of responses with the same name get
/// another name, and so do all that refer to them; these are returned.
fn add_requests(
    requests: Map<String, Value>,
    schemas: &mut Map<String, Value>,
) -> BTreeSet<String> {
    let differs = |(name, schema): &(&String, &Value)| {
        schemas.get(*name).is_some_and(|other| other != *schema)
    };
    let differing = requests.iter().filter(differs);
    let mut renamed: BTreeSet<String> = differing.map(|(name, _)| name.clone()).collect();
    loop {
        let refers = |(name, schema): &(&String, &Value)| {
            schemas.contains_key(*name) && !renamed.contains(*name) && {
                let mut copy = (*schema).clone();
                rename_references(&mut copy, &renamed);
                copy != **schema
            }
        };
        let more: Vec<_> = requests.iter().filter(refers).collect();
        let more: Vec<String> = more.into_iter().map(|(name, _)| name.clone()).collect();
        if more.is_empty() {
            break;
        }
        renamed.extend(more);
    }
    for (mut name, mut schema) in requests {
        rename_references(&mut schema, &renamed);
        if renamed.contains(&name) {
            name.push_str(REQUEST_SUFFIX);
        }
        schemas.insert(name, schema);
    }
    renamed
}

/// The schema of a network says that it is of exactly one family, but the pattern of IPv6 networks matches
/// those of IPv4, too.
fn correct_networks(schemas: &mut Map<String, Value>) {
    let network = schemas.get_mut("IpNet").and_then(Value::as_object_mut);
    if let Some(network) = network
        && let Some(families) = network.remove("oneOf")
    {
        network.insert("anyOf".to_owned(), families);
    }
}

fn rename_references(value: &mut Value, renamed: &BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if key == "$ref" => {
                        let name = text.rsplit('/').next().unwrap_or_default();
                        if renamed.contains(name) {
                            text.push_str(REQUEST_SUFFIX);
                        }
                    }
                    other => rename_references(other, renamed),
                }
            }
        }
        Value::Array(elements) => {
            for element in elements {
                rename_references(element, renamed);
            }
        }
        _ => {}
    }
}

/// Removes what links to other Rust items: of `` [`Node`](super::Node) `` only the name remains.
fn strip_links(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if key == "description" => *text = without_links(text),
                    other => strip_links(other),
                }
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(strip_links),
        _ => {}
    }
}

pub(super) fn without_links(text: &str) -> String {
    let mut stripped = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once("[`") {
        let Some((name, after)) = link.split_once("`]") else {
            break;
        };
        stripped.extend([before, "`", name, "`"]);
        let target = after
            .strip_prefix('(')
            .and_then(|after| after.split_once(')'));
        rest = target.map_or(after, |(_, after)| after);
    }
    stripped + rest
}
