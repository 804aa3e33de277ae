//! Lenient decoding of the master's JSON: a message must be well-formed JSON, but within a list an
//! invalid element is skipped and reported. Unknown fields and enum values are ignored, and `null`
//! equals an absent field.

mod parts;
mod ports;
mod state;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::Deserialize;

use super::event::Event;
use super::model::{Change, State};
use crate::intern::Interner;
use contrail_mesos_api::http::expect_object;
use parts::{FrameworkInfo, Id, RawAgent, RawFramework, RawTask, TaskUpdated, or_default};
use state::RawState;

/// Decodes one message.
pub(super) fn event(record: &[u8]) -> Result<Event, serde_json::Error> {
    let raw: RawEvent<'_> = serde_json::from_slice(expect_object(record)?)?;
    let mut names = Interner::default();
    let missing = |field: &str| serde::de::Error::custom(format!("{} has no {field}", raw.kind));
    let change = match raw.kind.as_str() {
        "SUBSCRIBED" => {
            let subscribed = raw.subscribed.ok_or_else(|| missing("subscribed"))?;
            let interval = subscribed
                .heartbeat_interval_seconds
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            let Some(state) = subscribed.get_state else {
                return Err(missing("get_state"));
            };
            return Ok(Event::Subscribed(Box::new(state.read()), interval));
        }
        "TASK_ADDED" => {
            let task = raw
                .task_added
                .and_then(|added| added.task)
                .ok_or_else(|| missing("task"))?;
            Change::TaskAdded(Box::new(
                task.read(&mut names).ok_or_else(|| missing("id"))?,
            ))
        }
        "TASK_UPDATED" => {
            let updated = raw.task_updated.ok_or_else(|| missing("task_updated"))?;
            updated.read(&mut names).ok_or_else(|| missing("id"))?
        }
        "AGENT_ADDED" => {
            let agent = raw
                .agent_added
                .and_then(|added| added.agent)
                .ok_or_else(|| missing("agent"))?;
            Change::AgentAdded(Box::new(
                agent.read(&mut names).ok_or_else(|| missing("id"))?,
            ))
        }
        "AGENT_REMOVED" => {
            let id = raw
                .agent_removed
                .and_then(|removed| removed.agent_id.text());
            Change::AgentRemoved(id.ok_or_else(|| missing("agent_id"))?.into())
        }
        "FRAMEWORK_ADDED" | "FRAMEWORK_UPDATED" => {
            let framework = raw
                .framework_added
                .or(raw.framework_updated)
                .and_then(|changed| changed.framework?.read(&mut names))
                .ok_or_else(|| missing("framework"))?;
            Change::FrameworkChanged(framework)
        }
        "FRAMEWORK_REMOVED" => {
            let id = raw
                .framework_removed
                .and_then(|removed| removed.framework_info?.id.text());
            Change::FrameworkRemoved(id.ok_or_else(|| missing("framework id"))?.into())
        }
        _ => return Ok(Event::Ignored),
    };
    Ok(Event::Changed(change))
}

/// Decodes the response of `GET_STATE`.
pub(super) fn state(body: &[u8]) -> Result<State, serde_json::Error> {
    #[derive(Deserialize)]
    struct StateResponse<'a> {
        #[serde(borrow)]
        get_state: RawState<'a>,
    }
    let response: StateResponse<'_> = serde_json::from_slice(expect_object(body)?)?;
    Ok(response.get_state.read())
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type", default, deserialize_with = "or_default")]
    kind: String,
    #[serde(borrow, default)]
    subscribed: Option<Subscribed<'a>>,
    #[serde(default)]
    task_added: Option<TaskAdded>,
    #[serde(default)]
    task_updated: Option<TaskUpdated>,
    #[serde(default)]
    agent_added: Option<AgentAdded>,
    #[serde(default)]
    agent_removed: Option<AgentRemoved>,
    #[serde(default)]
    framework_added: Option<FrameworkChanged>,
    #[serde(default)]
    framework_updated: Option<FrameworkChanged>,
    #[serde(default)]
    framework_removed: Option<FrameworkRemoved>,
}

#[derive(Deserialize)]
struct Subscribed<'a> {
    #[serde(borrow, default)]
    get_state: Option<RawState<'a>>,
    #[serde(default)]
    heartbeat_interval_seconds: Option<f64>,
}

#[derive(Deserialize)]
struct TaskAdded {
    #[serde(default)]
    task: Option<RawTask>,
}

#[derive(Deserialize)]
struct AgentAdded {
    #[serde(default)]
    agent: Option<RawAgent>,
}

#[derive(Deserialize)]
struct AgentRemoved {
    #[serde(default, deserialize_with = "or_default")]
    agent_id: Id,
}

#[derive(Deserialize)]
struct FrameworkChanged {
    #[serde(default)]
    framework: Option<RawFramework>,
}

#[derive(Deserialize)]
struct FrameworkRemoved {
    #[serde(default)]
    framework_info: Option<FrameworkInfo>,
}
