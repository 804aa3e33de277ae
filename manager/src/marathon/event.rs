//! Decodes events into keys of what to read again. No other field of an event is used.

use serde::Deserialize;

use super::id::{InstanceId, RunSpecId, TaskId};

/// The subscribed event types.
pub(super) const EVENT_TYPES: [&str; 13] = [
    ATTACHED_EVENT,
    "status_update_event",
    "instance_changed_event",
    "instance_health_changed_event",
    "unknown_instance_terminated_event",
    "app_terminated_event",
    "pod_created_event",
    "pod_updated_event",
    "pod_deleted_event",
    "api_post_event",
    "deployment_info",
    "deployment_success",
    "deployment_failed",
];

const ATTACHED_EVENT: &str = "event_stream_attached";

/// The event types that must contain an id.
const EVENT_TYPES_WITH_ID: [&str; 6] = [
    "status_update_event",
    "instance_changed_event",
    "instance_health_changed_event",
    "unknown_instance_terminated_event",
    "app_terminated_event",
    "api_post_event",
];

/// Something to read again: it may have been created, changed or deleted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// An app or a pod; not every event tells them apart.
    RunSpec(RunSpecId),
    /// An instance.
    Instance(InstanceId),
    /// A task of an app, or of a pod's container.
    Task {
        /// The app or pod.
        run_spec: RunSpecId,
        /// The task's id.
        task: Box<str>,
    },
    /// All pods: one was created, changed or deleted, and the event does not name it.
    Pods,
}

impl Key {
    /// The app or pod of the key.
    #[must_use]
    pub fn run_spec(&self) -> Option<&RunSpecId> {
        match self {
            Self::RunSpec(id) => Some(id),
            Self::Instance(instance) => Some(&instance.run_spec),
            Self::Task { run_spec, .. } => Some(run_spec),
            Self::Pods => None,
        }
    }
}

/// A decoded event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ParsedEvent {
    /// No event after this one is missed.
    Attached,
    /// Read these again.
    Changed(Vec<Key>),
    /// The event cannot be decoded: list again.
    Malformed(String),
}

/// The fields with ids, of all event types. `null` equals absent.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventBody {
    #[serde(default)]
    event_type: Option<String>,
    #[serde(default)]
    app_id: Option<String>,
    #[serde(default)]
    run_spec_id: Option<String>,
    #[serde(default)]
    instance_id: Option<String>,
    #[serde(default)]
    task_id: Option<String>,
    #[serde(default)]
    app_definition: Option<AppDefinition>,
    #[serde(default)]
    plan: Option<Plan>,
}

#[derive(Deserialize)]
struct AppDefinition {
    #[serde(default)]
    id: Option<String>,
}

#[derive(Deserialize)]
struct Plan {
    #[serde(default)]
    steps: Option<Vec<Option<Step>>>,
}

#[derive(Deserialize)]
struct Step {
    #[serde(default)]
    actions: Option<Vec<Option<Action>>>,
}

#[derive(Deserialize)]
struct Action {
    #[serde(default)]
    app: Option<String>,
    #[serde(default)]
    pod: Option<String>,
}

impl Plan {
    fn run_specs(self) -> impl Iterator<Item = String> {
        self.steps
            .unwrap_or_default()
            .into_iter()
            .flatten()
            .flat_map(|step| step.actions.unwrap_or_default())
            .flatten()
            .flat_map(|action| [action.app, action.pod])
            .flatten()
    }
}

/// Decodes an event from its type, if the frame has one, and its data.
pub(super) fn decode(frame_type: Option<&str>, data: &str) -> ParsedEvent {
    if frame_type == Some(ATTACHED_EVENT) {
        return ParsedEvent::Attached;
    }
    let body: EventBody = match serde_json::from_str(data) {
        Ok(body) => body,
        Err(error) => {
            let frame_type = frame_type.unwrap_or("an event without a type");
            return ParsedEvent::Malformed(format!("{}: {error}", shorten(frame_type)));
        }
    };
    let kind = frame_type
        .filter(|frame_type| !frame_type.is_empty())
        .or(body.event_type.as_deref())
        .unwrap_or_default()
        .to_owned();
    if kind == ATTACHED_EVENT {
        return ParsedEvent::Attached;
    }
    let mut keys = Vec::new();
    if let Err(id) = collect_keys(body, &mut keys) {
        return ParsedEvent::Malformed(format!(
            "{}: {:?} is not a valid id",
            shorten(&kind),
            shorten(&id)
        ));
    }
    if matches!(
        kind.as_str(),
        "pod_created_event" | "pod_updated_event" | "pod_deleted_event"
    ) {
        keys.push(Key::Pods);
    }
    if keys.is_empty() && EVENT_TYPES_WITH_ID.contains(&kind.as_str()) {
        return ParsedEvent::Malformed(format!("{kind} has no id"));
    }
    ParsedEvent::Changed(keys)
}

/// Collects the most specific key of each object in the event. Returns an invalid id as the error.
fn collect_keys(body: EventBody, keys: &mut Vec<Key>) -> Result<(), String> {
    let parse = |id: String| RunSpecId::parse(&id).ok_or(id);
    let run_spec = body.app_id.or(body.run_spec_id).map(parse).transpose()?;
    // Some events contain an instance id in `taskId`, and an upgraded Marathon keeps older formats.
    for id in body.task_id.into_iter().chain(body.instance_id) {
        if let Some(instance) = InstanceId::parse(&id) {
            keys.push(Key::Instance(instance));
        } else {
            let task_run_spec = TaskId::parse(&id).map(|task| task.instance.run_spec);
            let Some(run_spec) = run_spec.clone().or(task_run_spec) else {
                return Err(id);
            };
            let task = id.into();
            keys.push(Key::Task { run_spec, task });
        }
    }
    if keys.is_empty() {
        keys.extend(run_spec.map(Key::RunSpec));
    }
    let definition = body.app_definition.and_then(|definition| definition.id);
    let plan = body.plan.into_iter().flat_map(Plan::run_specs);
    for id in definition.into_iter().chain(plan) {
        let key = Key::RunSpec(parse(id)?);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    Ok(())
}

fn shorten(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const UUID: &str = "0bcd1234-c7a5-11ea-8f39-0242ac110002";

    /// Decodes the event with the type in the frame and in the data, which must be equivalent.
    fn decode_both(kind: &str, data: &Value) -> ParsedEvent {
        let with_frame_type = decode(Some(kind), &data.to_string());
        let mut data = data.clone();
        data["eventType"] = json!(kind);
        let without_frame_type = decode(None, &data.to_string());
        // The text of an error may differ.
        if !matches!(
            (&with_frame_type, &without_frame_type),
            (ParsedEvent::Malformed(_), ParsedEvent::Malformed(_))
        ) {
            assert_eq!(with_frame_type, without_frame_type);
        }
        with_frame_type
    }

    fn run_spec(id: &str) -> Key {
        Key::RunSpec(RunSpecId::parse(id).unwrap())
    }

    fn instance(id: &str) -> Key {
        Key::Instance(InstanceId::parse(id).unwrap())
    }

    #[test]
    fn events_decode_to_keys() {
        let task_id = format!("a_b.instance-{UUID}._app.1");
        let instance_id = format!("a_b.instance-{UUID}");
        let task = Key::Task {
            run_spec: RunSpecId::parse("/a/b").unwrap(),
            task: task_id.as_str().into(),
        };
        let plan = json!({"steps": [
            {"actions": [{"action": "ScaleApplication", "app": "/a"}, {"pod": "/p"}]},
            {"actions": [{"app": "/a"}, null]}, null]});
        for (kind, data, keys) in [
            (
                "status_update_event",
                json!({"slaveId": "S", "taskId": task_id, "taskStatus": "TASK_RUNNING", "appId": "/a/b"}),
                vec![task.clone()],
            ),
            (
                "status_update_event",
                json!({"taskId": task_id, "appId": null}),
                vec![task],
            ),
            (
                "instance_changed_event",
                json!({"instanceId": instance_id, "condition": "Running", "runSpecId": "/a/b", "agentId": null}),
                vec![instance(&instance_id)],
            ),
            (
                "unknown_instance_terminated_event",
                json!({"instanceId": instance_id, "runSpecId": "/a/b", "condition": "Killed"}),
                vec![instance(&instance_id)],
            ),
            // This event type contains an instance id in `taskId`.
            (
                "failed_health_check_event",
                json!({"appId": "/a/b", "taskId": instance_id}),
                vec![instance(&instance_id)],
            ),
            (
                "app_terminated_event",
                json!({"appId": "/a/b"}),
                vec![run_spec("/a/b")],
            ),
            (
                "pod_created_event",
                json!({"clientIp": "x", "uri": "/v2/pods"}),
                vec![Key::Pods],
            ),
            (
                "api_post_event",
                json!({"uri": "/v2/apps", "appDefinition": {"id": "/a", "cmd": "x"}}),
                vec![run_spec("/a")],
            ),
            (
                "deployment_success",
                json!({"id": "d", "plan": plan}),
                vec![run_spec("/a"), run_spec("/p")],
            ),
            ("scheduler_disconnected_event", json!({}), vec![]),
            (
                "a_newer_event",
                json!({"appId": "/a", "x": [1]}),
                vec![run_spec("/a")],
            ),
        ] {
            assert_eq!(
                decode_both(kind, &data),
                ParsedEvent::Changed(keys),
                "{kind}"
            );
        }
        let attached = decode_both(ATTACHED_EVENT, &json!({"remoteAddress": "10.0.0.1"}));
        assert_eq!(attached, ParsedEvent::Attached);
    }

    #[test]
    fn undecodable_events_are_malformed() {
        for (kind, data) in [
            (
                "status_update_event",
                json!({"taskId": null, "appId": null}),
            ),
            ("instance_changed_event", json!({})),
            ("status_update_event", json!({"taskId": 7})),
            ("app_terminated_event", json!({"appId": "../../v2/leader"})),
            ("status_update_event", json!({"taskId": "web"})),
            ("deployment_success", json!({"plan": "none"})),
        ] {
            let event = decode_both(kind, &data);
            assert!(
                matches!(event, ParsedEvent::Malformed(_)),
                "{kind} {data}: {event:?}"
            );
        }
        for data in ["", "{", "<html>", "[]", "null"] {
            let event = decode(Some("status_update_event"), data);
            assert!(
                matches!(event, ParsedEvent::Malformed(_)),
                "{data}: {event:?}"
            );
        }
    }
}
