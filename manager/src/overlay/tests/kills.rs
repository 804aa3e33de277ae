//! A manager that ends at any call of its store, and its successor.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::allocation::Allocation;
use super::super::allocator::Allocator;
use super::super::store::memory::{Fault, MemoryStore};
use super::*;

/// What nodes and operators do in turn. Returns what each node was answered last.
async fn drive(store: &Arc<MemoryStore>) -> BTreeMap<&'static str, String> {
    let mut answered = BTreeMap::new();
    let Ok((allocator, _changes)) = Allocator::load(store.clone(), config(VTEP, ONE)).await else {
        return answered;
    };
    for (name, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")] {
        if let Ok(answer) = allocator.register(name, &report(address)).await {
            answered.insert(name, shown(&answer.node.unwrap()));
        }
    }
    // An answer to a node that is released says nothing about it any more, whatever becomes of that.
    answered.remove("a");
    let _ = allocator.release("a").await;
    // Another overlay changes what all of them have, but takes nothing from anybody.
    let _ = allocator
        .reconfigure(config(VTEP, &[ONE, TWO].join(",")))
        .await;
    if let Ok(answer) = allocator.register("d", &report("10.0.0.4")).await {
        answered.insert("d", shown(&answer.node.unwrap()));
    }
    answered
}

/// Each call of the store in turn is the last one that a manager makes: it does not reach the store, or
/// only its answer is lost.
#[tokio::test]
async fn manager_killed_at_any_call_of_its_store_is_replaced_by_another() {
    let whole = Arc::new(MemoryStore::default());
    let complete = drive(&whole).await;
    assert_eq!(complete.len(), 3);
    for last in [Fault::Unavailable, Fault::LostAnswer] {
        for calls in 0.. {
            let store = Arc::new(MemoryStore::default());
            let before = std::iter::repeat_n(Fault::None, calls);
            let after = std::iter::repeat_n(Fault::Unavailable, 1000);
            store.fail(before.chain([last]).chain(after));
            let answered = drive(&store).await;
            let was_killed = store.remaining_faults() < 1001;
            store.fail([]);
            let both = config(VTEP, &[ONE, TWO].join(","));
            let (next, _changes) = Allocator::load(store.clone(), both.clone()).await.unwrap();
            // Each node that was answered has the same at least.
            for (name, shown) in &answered {
                let has = next
                    .register(name, &report(address_of(name)))
                    .await
                    .unwrap();
                let has = self::shown(&has.node.unwrap());
                assert!(
                    has.starts_with(shown),
                    "{last:?} at {calls}: {name} {has} {shown}"
                );
            }
            // So do the others once they report again, and nothing is given twice.
            for name in ["b", "c", "d"] {
                next.register(name, &report(address_of(name)))
                    .await
                    .unwrap();
            }
            let stored = Allocation::load(both, store.records()).unwrap();
            super::random::check(&stored);
            assert!(
                ["b", "c", "d"]
                    .iter()
                    .all(|name| stored.node(name).is_some())
            );
            if !was_killed {
                assert!(calls >= 8, "only {calls} calls");
                assert_eq!(answered, complete);
                break;
            }
        }
    }
}

fn address_of(name: &str) -> &'static str {
    match name {
        "b" => "10.0.0.2",
        "c" => "10.0.0.3",
        _ => "10.0.0.4",
    }
}
