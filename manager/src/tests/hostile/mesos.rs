//! Hostile input from Mesos.

use serde_json::json;

use super::fixture::{
    self, FakeResponse, HostileFixture, added, ended, framed, record, subscribed,
};
use super::*;
use contrail_mesos_api::http::scripted::{Reply, ok};

/// Each type of event without content.
fn nulls() -> Vec<Vec<u8>> {
    let names = ["task_added", "task_updated", "agent_added", "agent_removed"];
    let frameworks = ["framework_added", "framework_updated", "framework_removed"];
    let names = names.into_iter().chain(frameworks);
    let empty = names.flat_map(|name| {
        let kind = name.to_uppercase();
        let inner = match name {
            "task_added" => {
                json!({"task": {"task_id": null, "framework_id": null, "statuses": null}})
            }
            "task_updated" => {
                json!({"framework_id": null, "status": {"task_id": null}, "state": null})
            }
            "agent_removed" => json!({"agent_id": {"value": null}}),
            _ => json!({"agent": null, "framework": null, "framework_info": null}),
        };
        [
            json!({"type": kind, name: null}),
            json!({"type": kind, name: inner}),
        ]
    });
    let others = [json!({"type": null}), json!({}), json!(null), json!([])];
    empty.chain(others).map(|event| record(&event)).collect()
}

type Faults = Vec<(&'static str, Vec<FakeResponse>)>;

/// Invalid and incomplete states.
fn states(live: &BTreeMap<u128, Uuid>) -> Faults {
    let whole = subscribed(live);
    let half = subscribed(live.iter().take(6));
    let cut = whole.len() / 2;
    let state =
        |state: Value| record(&json!({"type": "SUBSCRIBED", "subscribed": {"get_state": state}}));
    let list_of_nulls = json!({"get_tasks": {"tasks": [null, {}]}, "get_agents": {"agents": [null]},
        "get_executors": {"executors": [null]}, "get_frameworks": {"frameworks": [null]}});
    vec![
        (
            "HTML",
            vec![
                FakeResponse::Answer(ok(&"<html>no</html>")),
                FakeResponse::End(b"<html>no</html>".to_vec()),
            ],
        ),
        (
            "500",
            vec![FakeResponse::Answer(Reply::Answer(500, String::new())); 2],
        ),
        (
            "no answer",
            vec![
                FakeResponse::Answer(Reply::Close),
                FakeResponse::Answer(Reply::Truncate),
            ],
        ),
        ("an empty list", vec![FakeResponse::Instead(subscribed([]))]),
        ("half a list", vec![FakeResponse::Instead(half)]),
        ("no lists", vec![FakeResponse::Instead(state(json!({}))); 3]),
        (
            "lists of nothing",
            vec![FakeResponse::Instead(state(list_of_nulls)); 3],
        ),
        ("no state", vec![FakeResponse::Instead(state(Value::Null))]),
        (
            "a state cut in the middle",
            vec![FakeResponse::End(whole[..cut].to_vec())],
        ),
    ]
}

/// Invalid and wrong events.
fn events() -> Faults {
    let huge = "x".repeat(10_000_000);
    let record_cut = added(90, plain(90).0);
    vec![
        (
            "an event cut in the middle",
            vec![FakeResponse::AfterAndEnd(
                record_cut[..record_cut.len() / 2].to_vec(),
            )],
        ),
        (
            "a frame cut in the middle",
            vec![FakeResponse::AfterAndEnd(b"12".to_vec())],
        ),
        (
            "another frame in a frame",
            vec![FakeResponse::After(
                [b"100\n".to_vec(), record_cut.clone()].concat(),
            )],
        ),
        ("no length", vec![FakeResponse::After(b"ten\n{}".to_vec())]),
        (
            "a length beyond all",
            vec![FakeResponse::After(b"99999999999\n{}".to_vec())],
        ),
        (
            "10 MB of a task that lives",
            vec![FakeResponse::After(record(&json!({"type": "TASK_UPDATED",
            "task_updated": {"framework_id": {"value": "F"}, "state": "TASK_RUNNING",
                "status": {"task_id": {"value": fixture::task_id(2)}, "data": huge}}})))],
        ),
        (
            "10 MB of nothing known",
            vec![FakeResponse::After(record(
                &json!({"type": huge, "x": huge[..1000]}),
            ))],
        ),
        (
            "17 MB",
            vec![FakeResponse::After(framed(vec![b' '; 17 << 20]))],
        ),
        (
            "not UTF-8",
            vec![FakeResponse::After(framed(
                b"{\"type\":\"TASK_ADDED\xff\"}".to_vec(),
            ))],
        ),
        (
            "of unknown type",
            vec![FakeResponse::After(record(
                &json!({"type": "TASK_EATEN", "task_eaten": {"task_id": {"value": fixture::task_id(2)}}}),
            ))],
        ),
        (
            "nulls",
            nulls().into_iter().map(FakeResponse::After).collect(),
        ),
        (
            "one that never was",
            vec![FakeResponse::After(added(91, plain(91).0))],
        ),
        (
            "the end of all that live",
            vec![FakeResponse::After((1..=30).flat_map(ended).collect())],
        ),
        (
            "the end of their framework",
            vec![FakeResponse::After(record(
                &json!({"type": "FRAMEWORK_REMOVED",
            "framework_removed": {"framework_info": {"id": {"value": "F"}, "name": "marathon"}}}),
            ))],
        ),
        (
            "the end of their agent",
            vec![FakeResponse::After(record(
                &json!({"type": "AGENT_REMOVED",
            "agent_removed": {"agent_id": {"value": "S1"}}}),
            ))],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_mesos_harms_no_container() {
    let fixture = Box::pin(HostileFixture::start()).await;
    let states = states(&fixture.expected().live.clone());
    let faults = states.into_iter().chain(events());
    for (at, (what, responses)) in faults.enumerate() {
        let old = *fixture.expected().live.keys().next().unwrap();
        let new = 100 + at as u128;
        let vm = plain(new).0;
        fixture.expected().mesos.extend(responses);
        // In any order, twice, or not at all.
        match at % 4 {
            0 => {
                fixture.end(old, &[]);
                fixture.begin(new, &[]).await;
            }
            1 => {
                fixture.end(old, &[ended(old), ended(old)]);
                fixture.begin(new, &[added(new, vm), added(new, vm)]).await;
            }
            2 => {
                let again = added(old, plain(old).0);
                fixture.end(old, &[ended(old), again]);
                fixture.begin(new, &[ended(new), added(new, vm)]).await;
            }
            _ => {
                fixture.begin(new, &[added(new, vm)]).await;
                fixture.end(old, &[ended(old)]);
            }
        }
        fixture.settle(what).await;
    }
    fixture.stop().await;
}
