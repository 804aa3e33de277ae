//! Events that are dropped, doubled, reordered, delayed, cut and spoilt at random.

use proptest::prelude::*;

use super::bed::{Bed, Lie, added, changed, ended, framed, record, subscribed};
use super::*;

/// What becomes of an event on its way.
#[derive(Clone, Copy, Debug)]
enum Way {
    Arrives,
    Lost,
    Doubled,
    Delayed,
    Cut(usize),
    Spoilt(usize, u8),
    Nulls,
}

#[derive(Clone, Debug)]
enum Step {
    Begin(Way),
    End(usize, Way),
    /// Mesos is asked anew, and says these bytes behind the truth, or in place of it.
    Said(Vec<u8>, bool),
    /// Half of what lives, of Mesos.
    Half,
    /// What was delayed arrives, the latest first.
    Late,
}

fn ways() -> impl Strategy<Value = Way> {
    prop_oneof![
        Just(Way::Arrives),
        Just(Way::Lost),
        Just(Way::Doubled),
        Just(Way::Delayed),
        any::<usize>().prop_map(Way::Cut),
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Way::Spoilt(at, byte)),
        Just(Way::Nulls),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = prop::collection::vec(any::<u8>(), 0..40);
    let step = prop_oneof![
        3 => ways().prop_map(Step::Begin),
        3 => (any::<usize>(), ways()).prop_map(|(at, way)| Step::End(at, way)),
        1 => (bytes, any::<bool>()).prop_map(|(bytes, framed)| Step::Said(bytes, framed)),
        1 => Just(Step::Half),
        1 => Just(Step::Late),
    ];
    prop::collection::vec(step, 4..14)
}

/// An event as it arrives.
fn on_its_way(event: Vec<u8>, way: Way, late: &mut Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    match way {
        Way::Arrives => vec![event],
        Way::Lost => vec![],
        Way::Doubled => vec![event.clone(), event],
        Way::Delayed => {
            late.push(event);
            vec![]
        }
        // The rest of the stream is behind it, or it is the stream's end.
        Way::Cut(at) => vec![event[..at % event.len()].to_vec(), vec![]],
        Way::Spoilt(at, byte) => {
            let mut event = event;
            let at = at % event.len();
            event[at] = byte;
            vec![event]
        }
        Way::Nulls => {
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
    let bed = Box::pin(Bed::start()).await;
    let mut late = vec![];
    let mut next = 100;
    for step in steps {
        match step {
            Step::Begin(way) => {
                let events = on_its_way(added(next, plain(next).0), way, &mut late);
                let _ = bed.marathon.send(changed(next));
                bed.begin(next, &events).await;
                next += 1;
            }
            Step::End(at, way) => {
                let live: Vec<u128> = bed.truth().live.keys().copied().collect();
                let Some(number) = live.get(at % live.len().max(1)) else {
                    continue;
                };
                let events = on_its_way(ended(*number), way, &mut late);
                let _ = bed.marathon.send(changed(*number));
                bed.end(*number, &events);
            }
            Step::Said(bytes, true) => bed.truth().mesos.push_back(Lie::Behind(framed(bytes))),
            Step::Said(bytes, false) => bed.truth().mesos.push_back(Lie::End(bytes)),
            Step::Half => {
                // One such list at a time, for two of one mind are believed.
                bed.told("before half a list").await;
                let mut truth = bed.truth();
                let half = truth.live.len() / 2;
                let half = subscribed(truth.live.iter().take(half));
                truth.mesos.push_back(Lie::Instead(half));
            }
            Step::Late => {
                late.reverse();
                bed.send(&late);
                late.clear();
            }
        }
    }
    bed.settle("at the end").await;
    bed.stop().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn whatever_becomes_of_events(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(run(steps));
    }
}
