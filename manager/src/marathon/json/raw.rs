//! The structure of Marathon's JSON.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Deref;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::task_state::TaskState;

/// Elements that are not decoded yet.
pub(super) type Elements<'a> = Vec<&'a RawValue>;

#[derive(Deserialize)]
pub(super) struct RawApp<'a> {
    #[serde(borrow, default)]
    pub(super) id: Option<JsonString<'a>>,
    #[serde(default)]
    pub(super) instances: Option<u32>,
    #[serde(borrow, default)]
    pub(super) labels: RawLabels<'a>,
    #[serde(borrow, default)]
    pub(super) networks: Option<Vec<Option<RawNetwork<'a>>>>,
    #[serde(borrow, default)]
    pub(super) tasks: Option<Elements<'a>>,
}

#[derive(Deserialize)]
pub(super) struct RawNetwork<'a> {
    #[serde(borrow, default)]
    pub(super) mode: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) name: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) labels: RawLabels<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawTask<'a> {
    #[serde(borrow, default)]
    pub(super) id: Option<JsonString<'a>>,
    #[serde(default)]
    pub(super) state: TaskState,
    #[serde(borrow, default)]
    pub(super) slave_id: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) host: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) ip_addresses: Option<Vec<Option<RawAddress<'a>>>>,
    #[serde(borrow, default)]
    pub(super) staged_at: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) started_at: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) version: Option<JsonString<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawAddress<'a> {
    #[serde(borrow, default)]
    pub(super) ip_address: Option<JsonString<'a>>,
}

#[derive(Deserialize)]
pub(super) struct RawPod<'a> {
    #[serde(borrow, default)]
    pub(super) id: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) spec: Option<RawSpec<'a>>,
    #[serde(borrow, default)]
    pub(super) instances: Option<Elements<'a>>,
}

#[derive(Deserialize)]
pub(super) struct RawSpec<'a> {
    #[serde(borrow, default)]
    pub(super) labels: RawLabels<'a>,
    #[serde(borrow, default)]
    pub(super) networks: Option<Vec<Option<RawNetwork<'a>>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawInstance<'a> {
    #[serde(borrow, default)]
    pub(super) id: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) status: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) status_since: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) agent_id: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) agent_hostname: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) networks: Option<Vec<Option<RawPodNetwork<'a>>>>,
    #[serde(borrow, default)]
    pub(super) containers: Option<Vec<Option<RawContainer<'a>>>>,
}

#[derive(Deserialize)]
pub(super) struct RawPodNetwork<'a> {
    #[serde(borrow, default)]
    pub(super) name: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) addresses: Option<Vec<Option<JsonString<'a>>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawContainer<'a> {
    #[serde(borrow, default)]
    pub(super) name: Option<JsonString<'a>>,
    #[serde(borrow, default)]
    pub(super) container_id: Option<JsonString<'a>>,
    #[serde(default)]
    pub(super) status: TaskState,
}

/// A string, borrowed from the response if possible.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(transparent)]
pub(super) struct JsonString<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for JsonString<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<JsonString<'_>> for Box<str> {
    fn from(text: JsonString<'_>) -> Self {
        text.0.into()
    }
}

/// Labels, sorted by key.
#[derive(Default)]
pub(super) struct RawLabels<'a>(pub(super) Vec<(JsonString<'a>, JsonString<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for RawLabels<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let labels =
            Option::<BTreeMap<JsonString<'a>, Option<JsonString<'a>>>>::deserialize(deserializer)?;
        let empty = || JsonString(Cow::Borrowed(""));
        Ok(Self(
            labels
                .unwrap_or_default()
                .into_iter()
                .map(|(key, value)| (key, value.unwrap_or_else(empty)))
                .collect(),
        ))
    }
}
