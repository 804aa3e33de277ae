//! Marathon's JSON as it comes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Deref;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::task_state::TaskState;

/// Elements that have not been looked at yet.
pub(super) type Elements<'a> = Vec<&'a RawValue>;

#[derive(Deserialize)]
pub(super) struct RawApp<'a> {
    #[serde(borrow, default)]
    pub(super) id: Option<Text<'a>>,
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
    pub(super) mode: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) labels: RawLabels<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawTask<'a> {
    #[serde(borrow, default)]
    pub(super) id: Option<Text<'a>>,
    #[serde(default)]
    pub(super) state: TaskState,
    #[serde(borrow, default)]
    pub(super) slave_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) host: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) ip_addresses: Option<Vec<Option<RawAddress<'a>>>>,
    #[serde(borrow, default)]
    pub(super) staged_at: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) started_at: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) version: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawAddress<'a> {
    #[serde(borrow, default)]
    pub(super) ip_address: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct RawPod<'a> {
    #[serde(borrow, default)]
    pub(super) id: Option<Text<'a>>,
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
    pub(super) id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) status: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) status_since: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) agent_id: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) agent_hostname: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) networks: Option<Vec<Option<RawPodNetwork<'a>>>>,
    #[serde(borrow, default)]
    pub(super) containers: Option<Vec<Option<RawContainer<'a>>>>,
}

#[derive(Deserialize)]
pub(super) struct RawPodNetwork<'a> {
    #[serde(borrow, default)]
    pub(super) name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) addresses: Option<Vec<Option<Text<'a>>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawContainer<'a> {
    #[serde(borrow, default)]
    pub(super) name: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) container_id: Option<Text<'a>>,
    #[serde(default)]
    pub(super) status: TaskState,
}

/// A text, borrowed from the answer where that is possible.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl From<Text<'_>> for Box<str> {
    fn from(text: Text<'_>) -> Self {
        text.0.into()
    }
}

/// Labels in the order of their keys.
#[derive(Default)]
pub(super) struct RawLabels<'a>(pub(super) Vec<(Text<'a>, Text<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for RawLabels<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let labels = Option::<BTreeMap<Text<'a>, Option<Text<'a>>>>::deserialize(deserializer)?;
        let labels = labels.unwrap_or_default().into_iter();
        let empty = || Text(Cow::Borrowed(""));
        Ok(Self(
            labels
                .map(|(key, value)| (key, value.unwrap_or_else(empty)))
                .collect(),
        ))
    }
}
