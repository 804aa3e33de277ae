use serde_json::{Value, json};

use super::*;
use crate::task_state::TaskState;

fn apps(apps: &Value) -> Listing {
    let mut reader = Reader::default();
    let body = json!({ "apps": apps }).to_string();
    reader.apps(body.as_bytes()).unwrap();
    reader.listing
}

#[test]
fn app_decodes() {
    let listing = apps(
        &json!([{"id": "/shop/web", "instances": 2, "labels": {"tier": "front"},
        "networks": [{"mode": "container", "name": "contrail", "labels": {"networks": "blue"}}],
        "tasks": [
            {"appId": "/shop/web", "id": "shop_web.instance-2._app.1", "host": "10.0.0.5",
             "slaveId": "S4", "state": "TASK_RUNNING", "version": "2026-11-21T08:00:00.000Z",
             "ipAddresses": [{"ipAddress": "9.0.1.3", "protocol": "IPv4"},
                             {"ipAddress": "2001:db8::3/64", "protocol": "IPv6"}],
             "stagedAt": "2026-11-21T08:00:00.123Z", "startedAt": "2026-11-21T08:00:01.000Z"},
            {"id": "shop_web.instance-1._app.1", "host": null, "slaveId": null,
             "state": "TASK_STAGING"},
        ]}]),
    );
    assert!(listing.is_complete());
    let app = &listing.apps[0];
    assert_eq!((app.id.as_str(), app.instances), ("/shop/web", 2));
    assert_eq!(&*app.labels, [("tier".into(), "front".into())]);
    assert_eq!(app.networks[0].name.as_deref(), Some("contrail"));
    assert_eq!(
        &*app.networks[0].labels,
        [("networks".into(), "blue".into())]
    );
    let [first, second] = app.tasks.as_slice() else {
        panic!("{:?}", app.tasks)
    };
    assert_eq!((first.state, &first.agent), (TaskState::Staging, &None));
    assert_eq!(second.agent.as_deref(), Some("S4"));
    let addresses: Vec<_> = second.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["9.0.1.3", "2001:db8::3"]);
    assert!(second.staged < second.started && second.staged.is_some());
}

#[test]
fn pod_decodes() {
    let mut reader = Reader::default();
    let body = json!([{"id": "/p", "status": "STABLE",
        "spec": {"id": "/p", "labels": {"a": "b"},
                 "networks": [{"mode": "container", "name": "contrail"}]},
        "instances": [{"id": "p.instance-1", "status": "STABLE", "agentId": "S1",
            "agentHostname": "h1", "statusSince": "2026-11-21T08:00:00Z",
            "networks": [{"name": "contrail", "addresses": ["10.0.0.9"]}, {"name": null}],
            "containers": [{"name": "c1", "status": "TASK_RUNNING",
                            "containerId": "p.instance-1.c1.1"}]}]}]);
    reader.pods(body.to_string().as_bytes()).unwrap();
    let instance = &reader.listing.pods[0].instances[0];
    assert_eq!(instance.state, PodState::Stable);
    assert_eq!(instance.networks[0].name.as_deref(), Some("contrail"));
    assert_eq!(instance.networks[0].addresses[0].to_string(), "10.0.0.9");
    assert_eq!(
        instance.containers[0].task.as_deref(),
        Some("p.instance-1.c1.1")
    );
    assert_eq!(instance.containers[0].state, TaskState::Running);
}

#[test]
fn null_field_equals_absent_field() {
    let nulls = json!([{"id": "/a", "instances": null, "labels": null, "networks": null,
        "tasks": [{"id": "t", "host": null, "slaveId": null, "state": null, "version": null,
                   "ipAddresses": null, "stagedAt": null, "startedAt": null}]}]);
    let absences = json!([{"id": "/a", "tasks": [{"id": "t"}], "newer": {"than": ["we"]}}]);
    let (nulls, absences) = (apps(&nulls), apps(&absences));
    assert!(nulls.is_complete() && absences.is_complete());
    assert_eq!(nulls.apps, absences.apps);
    let inner = json!([{"id": "/a", "networks": [null, {"labels": {"k": null}}],
        "tasks": [{"id": "t", "ipAddresses": [null, {"ipAddress": null}, {"ipAddress": "?"}]}]}]);
    let inner = apps(&inner);
    assert!(inner.is_complete(), "{:?}", inner.skipped);
    assert_eq!(
        &*inner.apps[0].networks[0].labels,
        [("k".into(), "".into())]
    );
    assert_eq!(inner.apps[0].tasks[0].addresses.len(), 0);
}

#[test]
fn invalid_element_is_skipped_and_reported() {
    let listing = apps(&json!([
        {"id": "/good", "tasks": [{"id": "t1"}, {"id": 7}, {"state": "TASK_RUNNING"}, null]},
        {"id": "/bad", "tasks": "none"},
        {"id": "/no-tasks"},
        {"id": "../escape", "tasks": []},
        {"tasks": []},
        null,
        3,
    ]));
    assert_eq!(listing.apps.len(), 1);
    assert_eq!(listing.apps[0].tasks.len(), 1);
    let skipped: Vec<_> = listing
        .skipped
        .iter()
        .map(|skipped| (skipped.kind, skipped.id.as_deref()))
        .collect();
    let task = ("task", Some("/good"));
    assert_eq!(
        skipped,
        [
            task,
            task,
            task,
            ("app", Some("/bad")),
            ("app", Some("/no-tasks")),
            ("app", Some("../escape")),
            ("app", None),
            ("app", None),
            ("app", None),
        ]
    );
}

#[test]
fn truncated_response_is_error() {
    let whole = json!({"apps": [{"id": "/a", "tasks": []}]}).to_string();
    for end in 0..whole.len() {
        let mut reader = Reader::default();
        assert!(reader.apps(&whole.as_bytes()[..end]).is_err(), "{end}");
    }
    for other in [
        "{}",
        "[]",
        "null",
        r#"{"apps":null}"#,
        r#"{"apps":{}}"#,
        "[[]]",
        "<html>",
    ] {
        assert!(Reader::default().apps(other.as_bytes()).is_err(), "{other}");
        if !other.starts_with('[') {
            assert!(Reader::default().pods(other.as_bytes()).is_err(), "{other}");
        }
    }
    let not_utf8 = b"{\"apps\": [{\"id\": \"/\xff\", \"tasks\": []}]}";
    assert!(Reader::default().apps(not_utf8).is_err());
}

#[test]
fn minor_version_parses() {
    for (version, minor) in [
        ("1.7.188", Some(7)),
        ("1.11.24", Some(11)),
        ("1.11.0-SNAPSHOT", Some(11)),
        ("2.0.0", None),
        ("", None),
    ] {
        let body = json!({ "version": version }).to_string();
        assert_eq!(minor_version(body.as_bytes()), minor, "{version}");
    }
    assert_eq!(minor_version(b"<html>"), None);
}
