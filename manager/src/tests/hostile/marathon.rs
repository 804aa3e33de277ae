//! Hostile input from Marathon.

use serde_json::json;

use super::fixture::{self, HostileFixture, app, changed, event};
use contrail_mesos_api::http::scripted::{Reply, ok};

/// Each type of event without content.
fn nulls() -> Vec<Vec<u8>> {
    let data = json!({"taskId": null, "appId": null, "instanceId": null, "runSpecId": null,
        "appDefinition": null, "plan": null, "eventType": null});
    let kinds = [
        "status_update_event",
        "instance_changed_event",
        "instance_health_changed_event",
        "unknown_instance_terminated_event",
        "app_terminated_event",
        "pod_created_event",
        "pod_deleted_event",
        "api_post_event",
        "deployment_info",
        "deployment_success",
        "",
    ];
    let events = kinds.iter().flat_map(|kind| {
        [
            event(kind, &data.to_string()),
            event(kind, "null"),
            event(kind, "{}"),
        ]
    });
    events.collect()
}

/// Lists that are none, or are not whole.
fn lists(live: &[u128]) -> Vec<(&'static str, Vec<Reply>)> {
    let whole = json!({"apps": [app(live)]}).to_string();
    let repeated = |reply: Reply| vec![reply; 3];
    vec![
        ("HTML", repeated(ok(&"<html><body>It works!</body></html>"))),
        (
            "500",
            repeated(Reply::Answer(500, "{\"apps\": []}".to_owned())),
        ),
        (
            "502",
            repeated(Reply::Answer(
                502,
                "Could not determine the current leader".to_owned(),
            )),
        ),
        ("an empty list", repeated(ok(&json!({"apps": []})))),
        (
            "half a list",
            repeated(ok(&json!({"apps": [app(&live[..6])]}))),
        ),
        ("half an answer", repeated(ok(&&whole[..whole.len() / 2]))),
        ("an answer cut in the middle", repeated(Reply::Truncate)),
        ("no answer", repeated(Reply::Close)),
        (
            "nulls",
            vec![
                ok(&json!(null)),
                ok(&json!({"apps": null})),
                ok(&json!({"apps": [null, {"id": null}]})),
            ],
        ),
        (
            "an app of nulls",
            repeated(ok(
                &json!({"apps": [{"id": "/shop/web", "tasks": null, "networks": null}]}),
            )),
        ),
        (
            "tasks of nulls",
            repeated(ok(
                &json!({"apps": [{"id": "/shop/web", "tasks": [null, {"id": null}]}]}),
            )),
        ),
        (
            "not UTF-8",
            repeated(Reply::Raw(
                b"HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"apps\":\xff\xff}",
            )),
        ),
    ]
}

/// Invalid and wrong events.
fn events() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let huge = "x".repeat(10_000_000);
    vec![
        (
            "an event cut in the middle",
            vec![changed(2)[..20].to_vec(), vec![]],
        ),
        (
            "an event of half a line",
            vec![b"event: status_update_event\r\ndata: {\"taskId\":\r\n\r\n".to_vec()],
        ),
        (
            "10 MB",
            vec![event(
                "status_update_event",
                &json!({"taskId": fixture::task_id(3), "appId": "/shop/web", "message": huge})
                    .to_string(),
            )],
        ),
        ("10 MB of nothing", vec![event(&huge, &huge)]),
        (
            "17 MB",
            vec![event("status_update_event", &huge), vec![b'x'; 17 << 20]],
        ),
        (
            "not UTF-8",
            vec![b"event: status_update_event\r\ndata: {\"taskId\":\"\xff\"}\r\n\r\n".to_vec()],
        ),
        (
            "of unknown type",
            vec![event(
                "task_eaten_event",
                &json!({"taskId": fixture::task_id(3), "appId": "/shop/web"}).to_string(),
            )],
        ),
        ("nulls", nulls()),
        (
            "of another app",
            vec![
                event("app_terminated_event", "{\"appId\":\"/shop/web\"}"),
                event("app_terminated_event", "{\"appId\":\"/none\"}"),
            ],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_marathon_harms_no_container() {
    let fixture = Box::pin(HostileFixture::start()).await;
    let live: Vec<u128> = fixture.expected().live.keys().copied().collect();
    let lists = lists(&live);
    let lists = lists.into_iter().map(|(what, lists)| (what, lists, vec![]));
    let events = events().into_iter();
    let events = events.map(|(what, events)| (what, vec![], events));
    for (at, (what, lists, events)) in lists.chain(events).enumerate() {
        let old = *fixture.expected().live.keys().next().unwrap();
        let new = 100 + at as u128;
        fixture.expected().lists.extend(lists);
        for part in events {
            // Without a subscriber it is lost, as in reality.
            let _ = fixture.marathon.send(part);
        }
        let send_changes = |numbers: &[u128]| {
            for number in numbers {
                let _ = fixture.marathon.send(changed(*number));
            }
        };
        match at % 3 {
            0 => {
                fixture.end(old, &[]);
                fixture.begin(new, &[]).await;
            }
            1 => {
                send_changes(&[new, new]);
                fixture.end(old, &[]);
                fixture.begin(new, &[]).await;
                send_changes(&[old, old]);
            }
            _ => {
                fixture.begin(new, &[]).await;
                send_changes(&[new]);
                fixture.end(old, &[]);
                send_changes(&[old, new]);
            }
        }
        fixture.settle(what).await;
    }
    fixture.stop().await;
}
