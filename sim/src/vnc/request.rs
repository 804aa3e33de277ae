//! A parsed request.

use serde_json::{Map, Value};

use super::auth::Identity;
use super::response::{ApiError, Outcome};

/// A parsed request.
#[derive(Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Decoded, without the query.
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    /// The body, if the content type is JSON.
    pub(crate) json: Option<Value>,
    /// `http://host:port`, as the client addresses the server.
    pub(crate) base: String,
    /// The user, if the request was authenticated.
    pub(crate) identity: Option<Identity>,
    /// The time in the If-None-Match header.
    pub(crate) if_none_match: Option<String>,
}

impl Request {
    pub(crate) fn argument(&self, name: &str) -> Option<&str> {
        let mut found = self.query.iter().filter(|(key, _)| key == name);
        found.next().map(|(_, value)| value.as_str())
    }

    /// The body as an object; without one, the real server's code fails on None.
    pub(crate) fn body(&self) -> Outcome<&Map<String, Value>> {
        self.json
            .as_ref()
            .and_then(Value::as_object)
            .ok_or_else(ApiError::internal)
    }

    /// The base of links in the response, unless the client excludes them.
    pub(crate) fn base(&self) -> Option<&str> {
        (self.argument("exclude_hrefs").is_none()).then_some(&*self.base)
    }
}
