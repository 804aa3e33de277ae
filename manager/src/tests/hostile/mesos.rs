//! Mesos says anything.

use serde_json::json;

use super::bed::{self, Bed, Lie, added, ended, framed, record, subscribed};
use super::*;
use contrail_mesos_api::http::scripted::{Reply, ok};

/// Each kind of event with nothing in it.
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

type Faults = Vec<(&'static str, Vec<Lie>)>;

/// States that are none, or are not whole.
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
                Lie::Answer(ok(&"<html>no</html>")),
                Lie::End(b"<html>no</html>".to_vec()),
            ],
        ),
        (
            "500",
            vec![Lie::Answer(Reply::Answer(500, String::new())); 2],
        ),
        (
            "no answer",
            vec![Lie::Answer(Reply::Close), Lie::Answer(Reply::Truncate)],
        ),
        ("an empty list", vec![Lie::Instead(subscribed([]))]),
        ("half a list", vec![Lie::Instead(half)]),
        ("no lists", vec![Lie::Instead(state(json!({}))); 3]),
        (
            "lists of nothing",
            vec![Lie::Instead(state(list_of_nulls)); 3],
        ),
        ("no state", vec![Lie::Instead(state(Value::Null))]),
        (
            "a state cut in the middle",
            vec![Lie::End(whole[..cut].to_vec())],
        ),
    ]
}

/// Events that are none, or say what is not so.
fn events() -> Faults {
    let huge = "x".repeat(10_000_000);
    let record_cut = added(90, plain(90).0);
    vec![
        (
            "an event cut in the middle",
            vec![Lie::BehindEnd(record_cut[..record_cut.len() / 2].to_vec())],
        ),
        (
            "a frame cut in the middle",
            vec![Lie::BehindEnd(b"12".to_vec())],
        ),
        (
            "another frame in a frame",
            vec![Lie::Behind(
                [b"100\n".to_vec(), record_cut.clone()].concat(),
            )],
        ),
        ("no length", vec![Lie::Behind(b"ten\n{}".to_vec())]),
        (
            "a length beyond all",
            vec![Lie::Behind(b"99999999999\n{}".to_vec())],
        ),
        (
            "10 MB of a task that lives",
            vec![Lie::Behind(record(&json!({"type": "TASK_UPDATED",
            "task_updated": {"framework_id": {"value": "F"}, "state": "TASK_RUNNING",
                "status": {"task_id": {"value": bed::task_id(2)}, "data": huge}}})))],
        ),
        (
            "10 MB of nothing known",
            vec![Lie::Behind(record(
                &json!({"type": huge, "x": huge[..1000]}),
            ))],
        ),
        ("17 MB", vec![Lie::Behind(framed(vec![b' '; 17 << 20]))]),
        (
            "not UTF-8",
            vec![Lie::Behind(framed(
                b"{\"type\":\"TASK_ADDED\xff\"}".to_vec(),
            ))],
        ),
        (
            "of unknown type",
            vec![Lie::Behind(record(
                &json!({"type": "TASK_EATEN", "task_eaten": {"task_id": {"value": bed::task_id(2)}}}),
            ))],
        ),
        ("nulls", nulls().into_iter().map(Lie::Behind).collect()),
        (
            "one that never was",
            vec![Lie::Behind(added(91, plain(91).0))],
        ),
        (
            "the end of all that live",
            vec![Lie::Behind((1..=30).flat_map(ended).collect())],
        ),
        (
            "the end of their framework",
            vec![Lie::Behind(record(&json!({"type": "FRAMEWORK_REMOVED",
            "framework_removed": {"framework_info": {"id": {"value": "F"}, "name": "marathon"}}})))],
        ),
        (
            "the end of their agent",
            vec![Lie::Behind(record(&json!({"type": "AGENT_REMOVED",
            "agent_removed": {"agent_id": {"value": "S1"}}})))],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mesos_may_say_anything() {
    let bed = Box::pin(Bed::start()).await;
    let states = states(&bed.truth().live.clone());
    let faults = states.into_iter().chain(events());
    for (at, (what, lies)) in faults.enumerate() {
        let old = *bed.truth().live.keys().next().unwrap();
        let new = 100 + at as u128;
        let machine = plain(new).0;
        bed.truth().mesos.extend(lies);
        // In any order, twice, or not at all.
        match at % 4 {
            0 => {
                bed.end(old, &[]);
                bed.begin(new, &[]).await;
            }
            1 => {
                bed.end(old, &[ended(old), ended(old)]);
                bed.begin(new, &[added(new, machine), added(new, machine)])
                    .await;
            }
            2 => {
                let again = added(old, plain(old).0);
                bed.end(old, &[ended(old), again]);
                bed.begin(new, &[ended(new), added(new, machine)]).await;
            }
            _ => {
                bed.begin(new, &[added(new, machine)]).await;
                bed.end(old, &[ended(old)]);
            }
        }
        bed.settle(what).await;
    }
    bed.stop().await;
}
