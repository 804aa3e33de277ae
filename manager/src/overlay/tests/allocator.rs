use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use contrail_mesos_api::cluster::{Object, ObjectKey};
use futures::FutureExt as _;
use proptest::prelude::*;

use super::super::allocation::Allocation;
use super::super::allocator::{Allocator, Changes, ObjectChange};
use super::super::error::AllocatorError;
use super::super::store::StoreError;
use super::super::store::memory::{Fault, MemoryStore};
use super::random::{Step, address, block_reports, cases, configs, name, steps};
use super::*;

async fn load(store: &Arc<MemoryStore>, config: OverlayConfig) -> (Allocator, Changes) {
    Allocator::load(store.clone(), config).await.unwrap()
}

/// What a node is answered.
async fn register(
    allocator: &Allocator,
    name: &str,
    address: &str,
) -> Result<String, AllocatorError> {
    let answer = allocator.register(name, &report(address)).await?;
    Ok(answer.node.as_ref().map(shown).unwrap_or_default())
}

/// Objects by their keys.
#[derive(Debug, Default, PartialEq)]
struct Objects(BTreeMap<ObjectKey, Object>);

impl Objects {
    fn of(objects: impl IntoIterator<Item = Object>) -> Self {
        Self(
            objects
                .into_iter()
                .map(|object| (object.key(), object))
                .collect(),
        )
    }

    /// Applies the changes that have arrived.
    fn follow(&mut self, changes: &mut Changes) {
        while let Some(Some(changes)) = changes.next().now_or_never() {
            assert!(!changes.is_empty());
            for change in changes {
                match change {
                    ObjectChange::Put(object) => {
                        let before = self.0.insert(object.key(), object.clone());
                        assert_ne!(before, Some(object), "nothing has changed");
                    }
                    ObjectChange::Delete(key) => assert!(self.0.remove(&key).is_some(), "{key:?}"),
                }
            }
        }
    }
}

/// What the store has under a configuration.
fn stored(store: &MemoryStore, config: OverlayConfig) -> Objects {
    let allocation = Allocation::load(config, store.records()).unwrap();
    Objects::of(allocation.objects())
}

#[tokio::test]
async fn nodes_are_written_published_and_answered() {
    let store = Arc::new(MemoryStore::default());
    let (allocator, mut changes) = load(&store, config(VTEP, ONE)).await;
    let mut objects = Objects::of(allocator.objects());
    assert_eq!(objects.0.len(), 2, "the underlay and an overlay");
    let first = register(&allocator, "a", "10.0.0.1").await.unwrap();
    assert_eq!(first, "44.128.0.1 one=192.168.0.0/24");
    objects.follow(&mut changes);
    assert_eq!(objects, stored(&store, config(VTEP, ONE)));
    assert_eq!(objects, Objects::of(allocator.objects()));
    let writes = store.writes().len();
    assert_eq!(register(&allocator, "a", "10.0.0.1").await.unwrap(), first);
    assert_eq!(store.writes().len(), writes, "nothing has changed");
    assert_eq!(allocator.usage()[0].used, 1);
    assert_eq!(allocator.endpoint_usage()[0].used, 1);

    allocator.reconfigure(config(VTEP, TWO)).await.unwrap();
    objects.follow(&mut changes);
    assert_eq!(objects, stored(&store, config(VTEP, TWO)));
    assert!(allocator.release("a").await.unwrap());
    assert!(!allocator.release("a").await.unwrap());
    objects.follow(&mut changes);
    assert_eq!(objects, stored(&store, config(VTEP, TWO)));
    assert!(store.records().is_empty());
    drop(allocator);
    assert_eq!(changes.next().await, None);
}

#[tokio::test]
async fn many_registrations_are_few_transactions() {
    const NODES: usize = 300;
    let store = Arc::new(MemoryStore::default());
    let (allocator, mut changes) = load(&store, config(VTEP, ONE)).await;
    let before = store.writes().len();
    let registrations = (0..NODES).map(|number| {
        let allocator = allocator.clone();
        let address = format!("10.0.{}.{}", number / 250, number % 250 + 1);
        async move { register(&allocator, &format!("n{number}"), &address).await }
    });
    let answers = futures::future::join_all(registrations).await;
    assert!(answers.iter().all(Result::is_ok));
    let writes = store.writes()[before..].to_vec();
    assert_eq!(writes.iter().sum::<usize>(), NODES);
    // The first may have been sent before the others had arrived.
    assert!(writes.len() <= 4, "{writes:?}");
    // The overlay has room for 128.
    assert_eq!(allocator.usage()[0].used, 128);
    assert_eq!(allocator.problems().len(), NODES - 128);
    let mut objects = stored(&store, config(VTEP, ONE));
    objects
        .0
        .retain(|key, _| !matches!(key, ObjectKey::Node { .. }));
    objects.follow(&mut changes);
    assert_eq!(objects, stored(&store, config(VTEP, ONE)));
    // All of them are written when the configuration changes.
    let before = store.writes().len();
    allocator.reconfigure(config(VTEP, TWO)).await.unwrap();
    assert_eq!(store.writes()[before..].iter().sum::<usize>(), 128);
    assert_eq!(allocator.problems().len(), 0);
}

#[tokio::test]
async fn unknown_outcome_is_read_again() {
    for fault in [Fault::LostAnswer, Fault::LostRequest] {
        let store = Arc::new(MemoryStore::default());
        let (allocator, mut changes) = load(&store, config(VTEP, ONE)).await;
        let mut objects = Objects::of(allocator.objects());
        let loads = store.loads();
        store.fail([fault]);
        let answer = register(&allocator, "a", "10.0.0.1").await.unwrap();
        assert_eq!(answer, "44.128.0.1 one=192.168.0.0/24", "{fault:?}");
        assert_eq!(store.loads(), loads + 1);
        objects.follow(&mut changes);
        assert_eq!(objects, stored(&store, config(VTEP, ONE)));
        // Again and again: the node is refused, and what it was given is neither lost nor published.
        store.fail([
            fault,
            Fault::None,
            Fault::None,
            fault,
            Fault::None,
            Fault::None,
            fault,
        ]);
        let refused = register(&allocator, "b", "10.0.0.2").await;
        if fault == Fault::LostRequest {
            assert!(
                matches!(refused, Err(AllocatorError::Store(_))),
                "{refused:?}"
            );
        }
        store.fail([]);
        let answer = register(&allocator, "b", "10.0.0.2").await.unwrap();
        assert_eq!(answer, "44.128.0.2 one=192.168.1.0/24");
        objects.follow(&mut changes);
        assert_eq!(objects, stored(&store, config(VTEP, ONE)));
    }
}

#[tokio::test]
async fn store_that_is_down_refuses_only_what_must_be_written() {
    let store = Arc::new(MemoryStore::default());
    let (allocator, mut changes) = load(&store, config(VTEP, ONE)).await;
    let known = register(&allocator, "a", "10.0.0.1").await.unwrap();
    let mut objects = Objects::of(allocator.objects());
    objects.0.remove(&ObjectKey::Node {
        name: "a".to_owned(),
    });
    objects.follow(&mut changes);
    store.fail([Fault::Unavailable; 100]);
    let other = report("10.0.0.2");
    let new = allocator.register("b", &other);
    let old = register(&allocator, "a", "10.0.0.1");
    let conflicting = report("10.0.0.1");
    let refused = allocator.register("c", &conflicting);
    let (new, old, refused) = tokio::join!(new, old, refused);
    let error = new.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(old.unwrap(), known);
    let error = refused.unwrap_err();
    assert!(!error.is_transient(), "{error}");
    assert!(allocator.release("a").await.unwrap_err().is_transient());
    assert!(allocator.reconfigure(config(VTEP, TWO)).await.is_err());
    objects.follow(&mut changes);
    assert_eq!(
        objects,
        stored(&store, config(VTEP, TWO)),
        "nobody has a subnet of it yet"
    );
    store.fail([]);
    allocator.reconfigure(config(VTEP, TWO)).await.unwrap();
    let answer = register(&allocator, "a", "10.0.0.1").await.unwrap();
    assert_eq!(answer, "44.128.0.1 two=192.168.128.0/24");
    objects.follow(&mut changes);
    assert_eq!(objects, stored(&store, config(VTEP, TWO)));
}

#[tokio::test]
async fn two_allocators_never_give_one_subnet_twice() {
    let store = Arc::new(MemoryStore::default());
    let (first, _) = load(&store, config(VTEP, ONE)).await;
    register(&first, "a", "10.0.0.1").await.unwrap();
    let (second, _) = load(&store, config(VTEP, ONE)).await;
    // The former leader is late: it reads again before it writes.
    let answer = register(&second, "b", "10.0.0.2").await.unwrap();
    assert_eq!(answer, "44.128.0.2 one=192.168.1.0/24");
    let answer = register(&first, "c", "10.0.0.3").await.unwrap();
    assert_eq!(answer, "44.128.0.3 one=192.168.2.0/24");
    let answer = register(&second, "d", "10.0.0.4").await.unwrap();
    assert_eq!(answer, "44.128.0.4 one=192.168.3.0/24");
    let taken = register(&first, "e", "10.0.0.4").await.unwrap_err();
    assert!(
        matches!(
            taken,
            AllocatorError::Store(_) | AllocatorError::AddressTaken { .. }
        ),
        "{taken}"
    );
    // Both write at the same time.
    let registrations = (10..60).map(|number| {
        let allocator = if number % 2 == 0 { &first } else { &second };
        let allocator = allocator.clone();
        async move {
            let (name, address) = (format!("n{number}"), format!("10.0.1.{number}"));
            for _ in 0..20 {
                if register(&allocator, &name, &address).await.is_ok() {
                    return;
                }
            }
            panic!("{name} is never registered");
        }
    });
    futures::future::join_all(registrations).await;
    let stored = Allocation::load(config(VTEP, ONE), store.records()).unwrap();
    super::random::check(&stored);
    assert_eq!(stored.records().len(), 54);
}

#[tokio::test]
async fn damaged_state_is_refused_and_left_alone() {
    let store = Arc::new(MemoryStore::default());
    store.set_record("a", b"{}");
    let error = Allocator::load(store.clone(), config(VTEP, ONE))
        .await
        .unwrap_err();
    assert!(
        matches!(error, AllocatorError::Store(StoreError::Invalid { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("the node \"a\""), "{error}");
    assert_eq!(store.records()["a"], b"{}");
    assert_eq!(store.writes().len(), 0);
}

/// The steps of [`super::random`], with a store that fails now and then.
async fn run(steps: Vec<Step>, faults: Vec<Fault>) {
    let configs = configs();
    let mut config = configs[0].clone();
    let store = Arc::new(MemoryStore::default());
    let (mut allocator, mut changes) = load(&store, config.clone()).await;
    let mut objects = Objects::of(allocator.objects());
    let mut faults = faults.chunks(3).cycle();
    for step in steps {
        store.fail(faults.next().unwrap_or_default().iter().copied());
        match step {
            Step::Register(node, number) => {
                let report = report(&address(number).to_string());
                let registered = allocator.register(&name(node), &report).await;
                if let Ok(answer) = registered {
                    let node = Object::Node(answer.node.unwrap());
                    assert!(allocator.objects().contains(&node));
                    let stored = self::stored(&store, config.clone());
                    assert_eq!(stored.0.get(&node.key()), Some(&node));
                }
            }
            Step::Release(node) => {
                let released = allocator.release(&name(node)).await;
                if released.is_ok() {
                    let is_gone = |object: &Object| !matches!(object, Object::Node(other) if other.name == name(node));
                    assert!(allocator.objects().iter().all(is_gone));
                    assert!(!store.records().contains_key(&name(node)));
                }
            }
            Step::Configure(index) => {
                config = configs[index].clone();
                let _ = allocator.reconfigure(config.clone()).await;
            }
            Step::Report(step) => {
                let name = name(step.node);
                let known = stored(&store, config.clone());
                let known = known.0.get(&ObjectKey::Node { name: name.clone() });
                let Some(Object::Node(node)) = known else {
                    continue;
                };
                let mut report = report(&node.address.to_string());
                report.blocks = block_reports(&config, Some(node), &step);
                if let Ok(answer) = allocator.register(&name, &report).await {
                    let node = Object::Node(answer.node.unwrap());
                    assert_eq!(
                        self::stored(&store, config.clone()).0.get(&node.key()),
                        Some(&node)
                    );
                    // What was answered is taken once.
                    let again = allocator.register(&name, &report).await;
                    let returned = |object: Object| match object {
                        Object::Node(node) => node.subnets.iter().map(|one| one.returned).sum(),
                        _ => 0_u64,
                    };
                    if let Ok(again) = again {
                        assert_eq!(returned(Object::Node(again.node.unwrap())), returned(node));
                    }
                }
            }
            Step::Wait(minutes) => tokio::time::advance(Duration::from_mins(minutes)).await,
            Step::Restart => {
                store.fail([]);
                (allocator, changes) = load(&store, config.clone()).await;
                objects = Objects::of(allocator.objects());
            }
        }
        objects.follow(&mut changes);
        assert_eq!(objects, Objects::of(allocator.objects()));
        let stored = Allocation::load(config.clone(), store.records()).unwrap();
        super::random::check(&stored);
    }
    // Everything is published once the store is well.
    store.fail([]);
    allocator.reconfigure(config.clone()).await.unwrap();
    // A write that was not answered is found by the next write.
    let _ = allocator.register("last", &report("203.0.113.1")).await;
    objects.follow(&mut changes);
    assert_eq!(objects, self::stored(&store, config));
}

proptest! {
    #![proptest_config(cases(50))]

    #[test]
    fn random_changes_survive_a_store_that_fails(
        steps in steps(),
        faults in proptest::collection::vec(prop_oneof![
            6 => Just(Fault::None),
            1 => Just(Fault::Unavailable),
            1 => Just(Fault::LostRequest),
            1 => Just(Fault::LostAnswer),
        ], 1..30),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(steps, faults));
    }
}

#[tokio::test]
async fn allocator_of_a_file_starts_with_what_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("overlay.json");
    for expected in ["44.128.0.1 one=192.168.0.0/24"; 2] {
        let store = super::super::store::open_store(
            None,
            &path,
            super::super::store::StoreSubject::OVERLAY,
        );
        assert!(store.description().contains("overlay.json"));
        let (allocator, _) = Allocator::load(store, config(VTEP, ONE)).await.unwrap();
        assert_eq!(
            register(&allocator, "a", "10.0.0.1").await.unwrap(),
            expected
        );
        drop(allocator);
        // Its task ends, and with it the lock.
        tokio::task::yield_now().await;
    }
}
