//! Events that are dropped, duplicated, reordered, delayed, truncated and corrupted at random.

use proptest::prelude::*;

use super::fixture::{
    FakeResponse, HostileFixture, added, changed, ended, framed, record, subscribed,
};
use super::*;

/// What happens to an event on its delivery.
#[derive(Clone, Copy, Debug)]
enum Delivery {
    Arrives,
    Lost,
    Duplicated,
    Delayed,
    Truncated(usize),
    Corrupted(usize, u8),
    Nulls,
}

#[derive(Clone, Debug)]
enum Step {
    Begin(Delivery),
    End(usize, Delivery),
    /// Mesos is listed again and sends these bytes after the real state, or instead of it.
    SendBytes(Vec<u8>, bool),
    /// Mesos lists half of the running tasks.
    Half,
    /// Delayed events arrive, the latest first.
    Late,
}

fn deliveries() -> impl Strategy<Value = Delivery> {
    prop_oneof![
        Just(Delivery::Arrives),
        Just(Delivery::Lost),
        Just(Delivery::Duplicated),
        Just(Delivery::Delayed),
        any::<usize>().prop_map(Delivery::Truncated),
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Delivery::Corrupted(at, byte)),
        Just(Delivery::Nulls),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = prop::collection::vec(any::<u8>(), 0..40);
    let step = prop_oneof![
        3 => deliveries().prop_map(Step::Begin),
        3 => (any::<usize>(), deliveries()).prop_map(|(at, delivery)| Step::End(at, delivery)),
        1 => (bytes, any::<bool>()).prop_map(|(bytes, framed)| Step::SendBytes(bytes, framed)),
        1 => Just(Step::Half),
        1 => Just(Step::Late),
    ];
    prop::collection::vec(step, 4..14)
}

/// The events that arrive for one that is sent.
fn deliver(event: Vec<u8>, delivery: Delivery, late: &mut Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    match delivery {
        Delivery::Arrives => vec![event],
        Delivery::Lost => vec![],
        Delivery::Duplicated => vec![event.clone(), event],
        Delivery::Delayed => {
            late.push(event);
            vec![]
        }
        // The rest of the stream is behind it, or it is the stream's end.
        Delivery::Truncated(at) => vec![event[..at % event.len()].to_vec(), vec![]],
        Delivery::Corrupted(at, byte) => {
            let mut event = event;
            let at = at % event.len();
            event[at] = byte;
            vec![event]
        }
        Delivery::Nulls => {
            let kind = if event.windows(10).any(|text| text == b"TASK_ADDED") {
                "TASK_ADDED"
            } else {
                "TASK_UPDATED"
            };
            vec![record(
                &serde_json::json!({"type": kind, "task_added": null, "task_updated": null}),
            )]
        }
    }
}

async fn run(steps: Vec<Step>) {
    let fixture = Box::pin(HostileFixture::start()).await;
    let mut late = vec![];
    let mut next = 100;
    for step in steps {
        match step {
            Step::Begin(delivery) => {
                let events = deliver(added(next, plain(next).0), delivery, &mut late);
                let _ = fixture.marathon.send(changed(next));
                fixture.begin(next, &events).await;
                next += 1;
            }
            Step::End(at, delivery) => {
                let live: Vec<u128> = fixture.expected().live.keys().copied().collect();
                let Some(number) = live.get(at % live.len().max(1)) else {
                    continue;
                };
                let events = deliver(ended(*number), delivery, &mut late);
                let _ = fixture.marathon.send(changed(*number));
                fixture.end(*number, &events);
            }
            Step::SendBytes(bytes, true) => fixture
                .expected()
                .mesos
                .push_back(FakeResponse::After(framed(bytes))),
            Step::SendBytes(bytes, false) => {
                fixture.expected().mesos.push_back(FakeResponse::End(bytes));
            }
            Step::Half => {
                // One such list at a time: a second one would confirm it.
                fixture.wait_for_sources("before half a list").await;
                let mut expected = fixture.expected();
                let half = expected.live.len() / 2;
                let half = subscribed(expected.live.iter().take(half));
                expected.mesos.push_back(FakeResponse::Instead(half));
            }
            Step::Late => {
                late.reverse();
                fixture.send(&late);
                late.clear();
            }
        }
    }
    fixture.settle("at the end").await;
    fixture.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn randomly_damaged_events_harm_no_container(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(run(steps));
    }
}
