//! Compares what a server answers with its document, for the tests of servers.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::{Map, Value};
use uuid::Uuid;

/// A request made of the examples of an operation.
#[derive(Clone, Debug)]
pub struct ExampleRequest {
    /// The method, in upper case.
    pub method: String,
    /// The path in the document.
    pub route: String,
    /// The path with the query.
    pub target: String,
    /// The headers.
    pub headers: Vec<(String, String)>,
    /// The body, with its type.
    pub body: Option<(String, Vec<u8>)>,
}

impl ExampleRequest {
    /// A `GET` of that path.
    #[must_use]
    pub fn get(target: &str) -> Self {
        Self {
            method: "GET".to_owned(),
            route: target.split('?').next().unwrap_or_default().to_owned(),
            target: target.to_owned(),
            headers: vec![],
            body: None,
        }
    }
}

/// Compares a copy of a document. With `CONTRAIL_WRITE_API` the file is written instead.
///
/// # Panics
///
/// If the file is not this document.
#[track_caller]
pub fn compare_copy(path: &str, document: &[u8]) {
    if std::env::var_os("CONTRAIL_WRITE_API").is_some() {
        std::fs::write(path, document).unwrap_or_else(|error| panic!("{path}: {error}"));
    }
    let copy = std::fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert!(
        copy == document,
        "{path} is not current; run the test with CONTRAIL_WRITE_API=1"
    );
}

/// The requests of a document: for each operation one with the required parameters only, and one with
/// each of the others.
///
/// # Panics
///
/// If an example is missing, or does not match its own schema.
#[must_use]
#[track_caller]
pub fn example_requests(document: &Value) -> Vec<ExampleRequest> {
    let mut requests = vec![];
    for (route, methods) in object(&document["paths"]) {
        for (method, operation) in object(methods) {
            requests.extend(requests_of(document, route, method, operation));
        }
    }
    requests
}

fn requests_of(
    document: &Value,
    route: &str,
    method: &str,
    operation: &Value,
) -> Vec<ExampleRequest> {
    let subject = format!("{method} {route}");
    let none = vec![];
    let parameters = operation["parameters"].as_array().unwrap_or(&none);
    let mut path = route.to_owned();
    for parameter in parameters {
        let problems = problems(document, &parameter["schema"], &parameter["example"]);
        assert!(problems.is_empty(), "{subject}: {problems:?}");
        if parameter["in"] == "path" {
            let name = format!("{{{}}}", text(&parameter["name"]));
            assert!(path.contains(&name), "{subject} has no {name}");
            path = path.replace(&name, &plain(&parameter["example"]));
        }
    }
    assert!(!path.contains('{'), "{subject}: an undocumented part");
    let body = operation.get("requestBody").map(|body| {
        let (media_type, content) = object(&body["content"]).iter().next().expect("a type");
        let problems = problems(document, &content["schema"], &content["example"]);
        assert!(problems.is_empty(), "{subject}: {problems:?}");
        let example = match &content["example"] {
            Value::String(text) if !media_type.contains("json") => text.clone(),
            other => other.to_string(),
        };
        (media_type.clone(), example.into_bytes())
    });
    let request = |chosen: &[&Value]| {
        let mut request = ExampleRequest {
            method: method.to_uppercase(),
            route: route.to_owned(),
            target: path.clone(),
            headers: vec![],
            body: body.clone(),
        };
        for parameter in chosen {
            let (name, value) = (text(&parameter["name"]), plain(&parameter["example"]));
            if parameter["in"] == "header" {
                request.headers.push((name.to_owned(), value));
            } else {
                let separator = if request.target.contains('?') {
                    '&'
                } else {
                    '?'
                };
                write!(request.target, "{separator}{name}={value}").expect("a text takes all");
            }
        }
        request
    };
    let sent = parameters
        .iter()
        .filter(|parameter| parameter["in"] != "path");
    let (required, optional): (Vec<_>, Vec<_>) =
        sent.partition(|parameter| parameter["required"] == true);
    let mut requests = vec![request(&required)];
    requests.extend(optional.into_iter().map(|parameter| {
        let chosen: Vec<_> = required.iter().copied().chain([parameter]).collect();
        request(&chosen)
    }));
    requests
}

/// Requests that each have something wrong: unknown and repeated parameters, and values of `GET`
/// parameters that nobody expects. No server may answer them with its own error.
#[must_use]
pub fn hostile_requests(document: &Value) -> Vec<ExampleRequest> {
    const VALUES: [&str; 9] = [
        "",
        "-1",
        "99999999999999999999999999",
        "%00",
        "%ff%fe",
        "..%2f..%2fetc%2fpasswd",
        "'%22%3Cscript%3E",
        "%F0%9F%92%A5",
        "a,b;c=d[]{}",
    ];
    let mut requests = vec![];
    for (route, methods) in object(&document["paths"]) {
        let Some(operation) = methods.get("get") else {
            continue;
        };
        let none = vec![];
        let parameters = operation["parameters"].as_array().unwrap_or(&none);
        for hostile in VALUES.into_iter().chain([&*"x".repeat(1000)]) {
            let mut path = route.clone();
            let mut query = vec![format!(
                "{}=1",
                if hostile.is_empty() { "a" } else { hostile }
            )];
            for parameter in parameters {
                let name = text(&parameter["name"]);
                match text(&parameter["in"]) {
                    "path" => path = path.replace(&format!("{{{name}}}"), hostile),
                    "query" => query.push(format!("{name}={hostile}")),
                    _ => {}
                }
            }
            let known = query.split_off(1).join("&");
            let targets = [known.clone(), format!("{known}&{known}"), query.concat()];
            requests.extend(targets.map(|query| ExampleRequest {
                method: "GET".to_owned(),
                route: route.clone(),
                target: format!("{path}?{query}"),
                headers: vec![],
                body: None,
            }));
        }
    }
    requests
}

/// Returns whether the response to a request is a success.
///
/// # Panics
///
/// If the document does not describe the response.
#[must_use]
#[track_caller]
pub fn check_response(
    document: &Value,
    request: &ExampleRequest,
    status: u16,
    media_type: Option<&str>,
    body: &[u8],
) -> bool {
    let ExampleRequest { method, target, .. } = request;
    let shown = String::from_utf8_lossy(&body[..body.len().min(2000)]);
    let subject = format!("{method} {target}: {status} {media_type:?} {shown}");
    let operation = &document["paths"][&request.route][method.to_lowercase()];
    let response = operation["responses"].get(status.to_string());
    let response = response.unwrap_or_else(|| panic!("not in the document: {subject}"));
    match response.get("content") {
        None => assert!(
            body.is_empty(),
            "a body that is not in the document: {subject}"
        ),
        Some(content) => {
            let media_type = media_type.unwrap_or_else(|| panic!("no type: {subject}"));
            let content = content.get(media_type);
            let content = content.unwrap_or_else(|| panic!("type not in the document: {subject}"));
            let Some(schema) = content.get("schema") else {
                return status < 300;
            };
            let text = std::str::from_utf8(body).unwrap_or_else(|_| panic!("no text: {subject}"));
            let values: Vec<Value> = match media_type {
                "application/json" => vec![serde_json::from_str(text).expect(&subject)],
                "application/x-ndjson" => {
                    let lines = text.lines().map(serde_json::from_str);
                    lines.collect::<Result<_, _>>().expect(&subject)
                }
                _ => vec![text.into()],
            };
            assert!(!values.is_empty(), "nothing to compare: {subject}");
            for value in values {
                let problems = problems(document, schema, &value);
                assert!(problems.is_empty(), "{problems:#?}\n{subject}");
            }
        }
    }
    status < 300
}

fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().expect("an object")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

/// A value in a path, a query or a header.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// How a value differs from a schema of the document. Fields that the schema does not name are problems,
/// and so are keywords of the schema that are not compared here.
#[must_use]
pub fn problems(document: &Value, schema: &Value, value: &Value) -> Vec<String> {
    let mut problems = vec![];
    Comparison { document }.instance(schema, value, "", &mut problems);
    problems
}

struct Comparison<'a> {
    document: &'a Value,
}

impl Comparison<'_> {
    /// A value as a whole: all its fields must be named.
    fn instance(&self, schema: &Value, value: &Value, at: &str, problems: &mut Vec<String>) {
        let mut named = BTreeSet::new();
        self.apply(schema, value, at, problems, &mut named);
        for key in value.as_object().into_iter().flat_map(Map::keys) {
            if !named.contains(key) {
                problems.push(format!("{at}/{key} is not in the document"));
            }
        }
    }

    /// Compares with one of the schemas of a value, and adds the fields that it names.
    fn apply(
        &self,
        schema: &Value,
        value: &Value,
        at: &str,
        problems: &mut Vec<String>,
        named: &mut BTreeSet<String>,
    ) {
        const ANNOTATIONS: [&str; 5] = ["description", "title", "default", "examples", "maxLength"];
        let keywords = match schema {
            Value::Object(keywords) => keywords,
            Value::Bool(true) => &Map::new(),
            other => {
                problems.push(format!("{at}: nothing is allowed by {other}"));
                return;
            }
        };
        let mut is_any = true;
        for (keyword, argument) in keywords {
            if ANNOTATIONS.contains(&keyword.as_str()) {
                continue;
            }
            is_any = false;
            match keyword.as_str() {
                "$ref" => {
                    let pointer = text(argument).trim_start_matches('#');
                    let target = self.document.pointer(pointer);
                    let target = target.unwrap_or_else(|| panic!("{pointer} leads nowhere"));
                    self.apply(target, value, at, problems, named);
                }
                "allOf" => {
                    for part in argument.as_array().expect("a list") {
                        self.apply(part, value, at, problems, named);
                    }
                }
                "anyOf" | "oneOf" => {
                    let matching = self.alternatives(argument, value, at, problems, named);
                    if keyword == "oneOf" && matching > 1 {
                        problems.push(format!("{at}: {value} is {matching} of {argument}"));
                    }
                }
                "properties" => {
                    for (key, schema) in object(argument) {
                        named.insert(key.clone());
                        if let Some(value) = value.get(key) {
                            self.instance(schema, value, &format!("{at}/{key}"), problems);
                        }
                    }
                }
                "additionalProperties" => {
                    let described = keywords.get("properties").and_then(Value::as_object);
                    for (key, value) in value.as_object().into_iter().flatten() {
                        if described.is_none_or(|described| !described.contains_key(key)) {
                            named.insert(key.clone());
                            self.instance(argument, value, &format!("{at}/{key}"), problems);
                        }
                    }
                }
                "items" => {
                    let skipped = keywords.get("prefixItems").and_then(Value::as_array);
                    let elements = value.as_array().into_iter().flatten().enumerate();
                    for (index, value) in elements.skip(skipped.map_or(0, Vec::len)) {
                        self.instance(argument, value, &format!("{at}/{index}"), problems);
                    }
                }
                "prefixItems" => {
                    let elements = value.as_array().into_iter().flatten();
                    let schemas = argument.as_array().expect("a list");
                    for (index, (schema, value)) in schemas.iter().zip(elements).enumerate() {
                        self.instance(schema, value, &format!("{at}/{index}"), problems);
                    }
                }
                _ => {
                    if !holds(keyword, argument, value) {
                        problems.push(format!("{at}: {value} is not {keyword} {argument}"));
                    }
                }
            }
        }
        if is_any {
            named.extend(value.as_object().into_iter().flat_map(Map::keys).cloned());
        }
    }

    /// How many schemas describe the value. If none does, the problems are those of the one that is closest.
    fn alternatives(
        &self,
        schemas: &Value,
        value: &Value,
        at: &str,
        problems: &mut Vec<String>,
        named: &mut BTreeSet<String>,
    ) -> usize {
        let mut matching = 0;
        let mut least: Option<Vec<String>> = None;
        for schema in schemas.as_array().expect("a list") {
            let (mut found, mut own) = (vec![], BTreeSet::new());
            self.apply(schema, value, at, &mut found, &mut own);
            if found.is_empty() {
                named.extend(own);
                matching += 1;
            } else if least.as_ref().is_none_or(|least| found.len() < least.len()) {
                least = Some(found);
            }
        }
        if matching == 0 {
            problems.extend(least.unwrap_or_default());
        }
        matching
    }
}

/// Whether a value has what a keyword demands.
fn holds(keyword: &str, argument: &Value, value: &Value) -> bool {
    let length = value.as_array().map(|elements| elements.len() as u64);
    let string = value.as_str();
    match keyword {
        "const" => value == argument,
        "enum" => argument.as_array().expect("a list").contains(value),
        "type" => match argument {
            Value::String(name) => has_type(name, value),
            names => {
                let mut names = names.as_array().expect("types").iter();
                names.any(|name| has_type(text(name), value))
            }
        },
        "required" => {
            let mut names = argument.as_array().expect("names").iter();
            let object = value.as_object();
            object.is_none_or(|object| names.all(|name| object.contains_key(text(name))))
        }
        // Of another type, or none: the type says what is wrong.
        "minimum" => value
            .as_f64()
            .is_none_or(|number| Some(number) >= argument.as_f64()),
        "maximum" => value
            .as_f64()
            .is_none_or(|number| Some(number) <= argument.as_f64()),
        "minItems" => length.is_none_or(|length| Some(length) >= argument.as_u64()),
        "maxItems" => length.is_none_or(|length| Some(length) <= argument.as_u64()),
        "uniqueItems" => {
            let elements = value.as_array().into_iter().flatten();
            let distinct: BTreeSet<_> = elements.map(ToString::to_string).collect();
            distinct.len() as u64 == length.unwrap_or_default()
        }
        "format" => match text(argument) {
            "ip" => string.is_none_or(|text| text.parse::<IpAddr>().is_ok()),
            "ipv4" => string.is_none_or(|text| text.parse::<Ipv4Addr>().is_ok()),
            "ipv6" => string.is_none_or(|text| text.parse::<Ipv6Addr>().is_ok()),
            "uuid" => string.is_none_or(|text| text.parse::<Uuid>().is_ok()),
            // Numbers have a minimum besides.
            "uint" | "uint8" | "uint16" | "uint32" | "uint64" | "int32" | "int64" | "double" => {
                true
            }
            other => panic!("the format {other} is not compared"),
        },
        // Only networks have patterns.
        "pattern" => string.is_none_or(|text| text.parse::<IpNet>().is_ok()),
        other => panic!("the keyword {other} is not compared"),
    }
}

fn has_type(name: &str, value: &Value) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("there is no type {other}"),
    }
}
