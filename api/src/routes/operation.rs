//! The documentation of one request that a server answers.

use axum::routing::MethodFilter;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::agent_api::Refusal;

/// Returns the schema of a type.
pub(super) type SchemaSource = fn(&mut SchemaGenerator) -> Schema;

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const LINES: &str = "application/x-ndjson";

/// The methods of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Get,
    Put,
    Post,
    Delete,
}

impl Method {
    /// Its name in a document.
    fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Put => "put",
            Self::Post => "post",
            Self::Delete => "delete",
        }
    }
}

/// A request that a server answers: how it looks, and the responses. The examples are a request that
/// works: tests send it.
#[derive(Clone, Debug)]
pub struct Operation {
    method: Method,
    path: &'static str,
    summary: &'static str,
    notes: Option<&'static str>,
    parameters: Vec<Parameter>,
    ignores_unknown: bool,
    body: Option<RequestBody>,
    responses: Vec<ResponseEntry>,
}

#[derive(Clone, Debug)]
struct Parameter {
    location: &'static str,
    name: &'static str,
    description: &'static str,
    is_required: bool,
    schema: SchemaSource,
    example: Value,
}

#[derive(Clone, Debug)]
struct RequestBody {
    media_type: &'static str,
    description: &'static str,
    schema: SchemaSource,
    example: Value,
}

#[derive(Clone, Debug)]
struct ResponseEntry {
    status: u16,
    description: &'static str,
    content: Vec<(&'static str, Option<SchemaSource>)>,
}

impl Operation {
    fn new(method: Method, path: &'static str, summary: &'static str) -> Self {
        Self {
            method,
            path,
            summary,
            notes: None,
            parameters: vec![],
            ignores_unknown: false,
            body: None,
            responses: vec![],
        }
    }

    /// A `GET` of this path, such as `/v1/hosts/{name}`.
    #[must_use]
    pub fn get(path: &'static str, summary: &'static str) -> Self {
        Self::new(Method::Get, path, summary)
    }

    /// A `PUT`.
    #[must_use]
    pub fn put(path: &'static str, summary: &'static str) -> Self {
        Self::new(Method::Put, path, summary)
    }

    /// A `POST`.
    #[must_use]
    pub fn post(path: &'static str, summary: &'static str) -> Self {
        Self::new(Method::Post, path, summary)
    }

    /// A `DELETE`.
    #[must_use]
    pub fn delete(path: &'static str, summary: &'static str) -> Self {
        Self::new(Method::Delete, path, summary)
    }

    /// Notes for its users, in Markdown.
    #[must_use]
    pub fn notes(mut self, notes: &'static str) -> Self {
        self.notes = Some(notes);
        self
    }

    fn parameter<T: JsonSchema>(
        mut self,
        (location, is_required): (&'static str, bool),
        name: &'static str,
        description: &'static str,
        example: impl Into<Value>,
    ) -> Self {
        self.parameters.push(Parameter {
            location,
            name,
            description,
            is_required,
            schema: schema_of::<T>,
            example: example.into(),
        });
        self
    }

    /// A part of the path.
    #[must_use]
    pub fn in_path<T: JsonSchema>(
        self,
        name: &'static str,
        description: &'static str,
        example: impl Into<Value>,
    ) -> Self {
        self.parameter::<T>(("path", true), name, description, example)
    }

    /// A query parameter that may be left out.
    #[must_use]
    pub fn query<T: JsonSchema>(
        self,
        name: &'static str,
        description: &'static str,
        example: impl Into<Value>,
    ) -> Self {
        self.parameter::<T>(("query", false), name, description, example)
    }

    /// A query parameter that must be there.
    #[must_use]
    pub fn required_query<T: JsonSchema>(
        self,
        name: &'static str,
        description: &'static str,
        example: impl Into<Value>,
    ) -> Self {
        self.parameter::<T>(("query", true), name, description, example)
    }

    /// A header that changes the response.
    #[must_use]
    pub fn header<T: JsonSchema>(
        self,
        name: &'static str,
        description: &'static str,
        example: impl Into<Value>,
    ) -> Self {
        self.parameter::<T>(("header", false), name, description, example)
    }

    /// Query parameters that are not documented are ignored, because clients of others add their own.
    #[must_use]
    pub fn ignoring_unknown_parameters(mut self) -> Self {
        self.ignores_unknown = true;
        self
    }

    /// A body of this type, as JSON.
    #[must_use]
    pub fn body<T: JsonSchema>(self, description: &'static str, example: Value) -> Self {
        self.body_of::<T>(JSON, description, example)
    }

    /// A body that is text.
    #[must_use]
    pub fn text_body(self, description: &'static str, example: &'static str) -> Self {
        self.body_of::<String>(TEXT, description, example.into())
    }

    fn body_of<T: JsonSchema>(
        mut self,
        media_type: &'static str,
        description: &'static str,
        example: Value,
    ) -> Self {
        self.body = Some(RequestBody {
            media_type,
            description,
            schema: schema_of::<T>,
            example,
        });
        self
    }

    fn response(
        mut self,
        status: u16,
        description: &'static str,
        content: Option<(&'static str, Option<SchemaSource>)>,
    ) -> Self {
        let mut entries = self.responses.iter_mut();
        match entries.find(|entry| entry.status == status) {
            Some(entry) => entry.content.extend(content),
            None => self.responses.push(ResponseEntry {
                status,
                description,
                content: content.into_iter().collect(),
            }),
        }
        self
    }

    /// A response with JSON of this type.
    #[must_use]
    pub fn json<T: JsonSchema>(self, status: u16, description: &'static str) -> Self {
        self.response(status, description, Some((JSON, Some(schema_of::<T>))))
    }

    /// A response that is a stream of lines, each JSON of this type.
    #[must_use]
    pub fn lines<T: JsonSchema>(self, status: u16, description: &'static str) -> Self {
        self.response(status, description, Some((LINES, Some(schema_of::<T>))))
    }

    /// A response that is text.
    #[must_use]
    pub fn text(self, status: u16, description: &'static str) -> Self {
        self.response(status, description, Some((TEXT, Some(schema_of::<String>))))
    }

    /// A response of another type. A second call with the same status adds a type.
    #[must_use]
    pub fn content(self, status: u16, media_type: &'static str, description: &'static str) -> Self {
        self.response(status, description, Some((media_type, None)))
    }

    /// A response without a body.
    #[must_use]
    pub fn empty(self, status: u16, description: &'static str) -> Self {
        self.response(status, description, None)
    }

    /// A response that says what went wrong: a [`Refusal`].
    #[must_use]
    pub fn error(self, status: u16, description: &'static str) -> Self {
        self.json::<Refusal>(status, description)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &'static str {
        self.path
    }

    /// The names of its query parameters.
    pub(super) fn query_names(&self) -> Vec<&'static str> {
        let all = self.parameters.iter();
        let query = all.filter(|parameter| parameter.location == "query");
        query.map(|parameter| parameter.name).collect()
    }

    pub(super) fn ignores_unknown_parameters(&self) -> bool {
        self.ignores_unknown
    }

    pub(super) fn method_filter(&self) -> MethodFilter {
        match self.method {
            Method::Get => MethodFilter::GET,
            Method::Put => MethodFilter::PUT,
            Method::Post => MethodFilter::POST,
            Method::Delete => MethodFilter::DELETE,
        }
    }

    pub(super) fn method_name(&self) -> &'static str {
        self.method.name()
    }

    /// The method with the words of the path, such as `get-v1-hosts-name`.
    fn id(&self) -> String {
        let words = self.path.split(|c: char| !c.is_ascii_alphanumeric());
        let words = words.filter(|word| !word.is_empty());
        let words: Vec<_> = [self.method.name()].into_iter().chain(words).collect();
        words.join("-")
    }

    /// The operation object of a document. `requests` and `responses` collect the schemas.
    pub(super) fn to_json(
        &self,
        requests: &mut SchemaGenerator,
        responses: &mut SchemaGenerator,
    ) -> Value {
        let mut object = json!({ "operationId": self.id(), "summary": self.summary });
        let ignored = "Other query parameters are ignored.";
        match (self.notes, self.ignores_unknown) {
            (Some(notes), false) => object["description"] = notes.into(),
            (Some(notes), true) => object["description"] = format!("{notes} {ignored}").into(),
            (None, true) => object["description"] = ignored.into(),
            (None, false) => {}
        }
        if !self.parameters.is_empty() {
            let parameters = self.parameters.iter().map(|parameter| {
                json!({
                    "in": parameter.location,
                    "name": parameter.name,
                    "description": parameter.description,
                    "required": parameter.is_required,
                    "schema": (parameter.schema)(requests),
                    "example": parameter.example,
                })
            });
            object["parameters"] = parameters.collect();
        }
        if let Some(body) = &self.body {
            let content = json!({ "schema": (body.schema)(requests), "example": body.example });
            object["requestBody"] = json!({
                "description": body.description,
                "required": true,
                "content": { body.media_type: content },
            });
        }
        object["responses"] = self.responses_json(responses);
        object
    }

    fn responses_json(&self, generator: &mut SchemaGenerator) -> Value {
        let mut statuses = Map::new();
        for entry in &self.responses {
            let mut response = json!({ "description": entry.description });
            for (media_type, schema) in &entry.content {
                response["content"][media_type] = match schema {
                    Some(schema) => json!({ "schema": schema(generator) }),
                    None => json!({}),
                };
            }
            statuses.insert(entry.status.to_string(), response);
        }
        if !self.ignores_unknown && !statuses.contains_key("400") {
            let schema = schema_of::<Refusal>(generator);
            let response = json!({
                "description": "A parameter is unknown, repeated, or has a wrong value.",
                "content": { JSON: { "schema": schema } },
            });
            statuses.insert("400".to_owned(), response);
        }
        statuses.into()
    }
}
