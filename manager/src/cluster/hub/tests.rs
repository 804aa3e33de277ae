use std::collections::BTreeMap;

use contrail_mesos_api::cluster::{Node, Overlay, Vtep};
use contrail_mesos_api::container::Mac;
use futures::FutureExt as _;
use proptest::prelude::*;

use super::*;

fn node(name: &str, last: u8) -> Object {
    Object::Node(Node {
        name: name.to_owned(),
        address: [192, 0, 2, last].into(),
        vtep: Vtep {
            address: [44, 128, 0, last].into(),
            address6: None,
            mac: Mac([0x70, 0xb3, 0xd5, 0x80, 0, last]),
        },
        subnets: vec![],
    })
}

fn overlay(name: &str, vni: u32) -> Object {
    Object::Overlay(Overlay {
        name: name.to_owned(),
        vni,
        subnet: "9.0.0.0/8".parse().ok(),
        subnet6: None,
        mtu: None,
        enabled: true,
        groups: None,
        isolated: false,
        lends_blocks: false,
    })
}

fn revision(term: u64, counter: u64) -> Revision {
    Revision { term, counter }
}

fn hub(limits: HubLimits) -> Arc<Hub> {
    Hub::new(limits, WatchMetrics::default())
}

/// All lines that need no waiting, and whether the watch has ended.
fn drain(watch: &mut Subscription) -> (Vec<Bytes>, bool) {
    let mut lines = vec![];
    loop {
        match watch.next().now_or_never() {
            None => return (lines, false),
            Some(None) => return (lines, true),
            Some(Some(line)) => lines.push(line),
        }
    }
}

fn items(blocks: &[Bytes]) -> Vec<WatchItem> {
    let text = blocks.concat();
    text.split_inclusive(|byte| *byte == b'\n')
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

/// A client that follows the rules of the contract, and checks them.
#[derive(Debug, Default)]
struct Client {
    /// What it has completely.
    revision: Option<Revision>,
    objects: BTreeMap<ObjectKey, Object>,
    /// The snapshot that is being read.
    staged: Option<BTreeMap<ObjectKey, Object>>,
    /// The last revision of the stream.
    last: Option<Revision>,
}

impl Client {
    fn connect(&mut self) {
        (self.staged, self.last) = (None, None);
    }

    fn check(&mut self, revision: Revision) {
        assert!(
            self.last.is_none_or(|last| last <= revision),
            "{self:?} {revision}"
        );
        self.last = Some(revision);
        assert!(self.revision <= Some(revision), "{self:?} {revision}");
    }

    fn read(&mut self, item: WatchItem) {
        match item {
            WatchItem::Snapshot { revision } => {
                self.check(revision);
                self.staged = Some(BTreeMap::new());
            }
            WatchItem::Put { revision, object } => {
                self.check(revision);
                if let Some(staged) = &mut self.staged {
                    staged.insert(object.key(), object);
                } else {
                    self.objects.insert(object.key(), object);
                    self.revision = Some(revision);
                }
            }
            WatchItem::Delete { revision, key } => {
                self.check(revision);
                assert!(self.objects.remove(&key).is_some(), "{key:?}");
                self.revision = Some(revision);
            }
            WatchItem::Synced { revision } => {
                self.check(revision);
                if let Some(staged) = self.staged.take() {
                    self.objects = staged;
                }
                self.revision = Some(revision);
            }
            WatchItem::Heartbeat { revision } => assert_eq!(self.revision, Some(revision)),
            WatchItem::Unknown => panic!("unknown item"),
        }
    }
}

fn state(hub: &Hub) -> BTreeMap<ObjectKey, Object> {
    let objects = hub.objects().into_iter();
    objects.map(|object| (object.key(), object)).collect()
}

#[tokio::test]
async fn watch_begins_with_snapshot_and_follows_changes() {
    let hub = hub(HubLimits::default());
    assert_eq!(hub.subscribe(None).err(), Some(WatchError::NotPublishing));
    hub.begin(3, vec![node("b", 2), overlay("vxlan-1", 1024)]);
    let mut watch = hub.subscribe(None).unwrap();
    let (lines, ended) = drain(&mut watch);
    let at = revision(3, 0);
    assert!(!ended);
    assert_eq!(
        items(&lines),
        [
            WatchItem::Snapshot { revision: at },
            WatchItem::Put {
                revision: at,
                object: overlay("vxlan-1", 1024)
            },
            WatchItem::Put {
                revision: at,
                object: node("b", 2)
            },
            WatchItem::Synced { revision: at },
        ]
    );
    let key = node("b", 2).key();
    let changes = vec![
        ObjectChange::Put(node("b", 2)),
        ObjectChange::Put(node("a", 1)),
        ObjectChange::Delete(key.clone()),
        ObjectChange::Delete(key.clone()),
    ];
    hub.publish(2, changes.clone());
    assert!(drain(&mut watch).0.is_empty(), "that term is over");
    hub.publish(3, changes);
    // What changes nothing is left out.
    assert_eq!(
        items(&drain(&mut watch).0),
        [
            WatchItem::Put {
                revision: revision(3, 1),
                object: node("a", 1)
            },
            WatchItem::Delete {
                revision: revision(3, 2),
                key
            },
        ]
    );
    assert_eq!(hub.revision(), Some(revision(3, 2)));
}

#[tokio::test]
async fn watch_resumes_within_the_history_only() {
    let hub = hub(HubLimits {
        items: 2,
        ..HubLimits::default()
    });
    hub.begin(1, vec![]);
    for last in 1..=4 {
        hub.publish(1, vec![ObjectChange::Put(node("a", last))]);
    }
    let first = |since| {
        let mut watch = hub.subscribe(Some(since)).unwrap();
        items(&drain(&mut watch).0).remove(0)
    };
    for counter in [2, 3, 4] {
        let at = revision(1, counter);
        assert_eq!(first(at), WatchItem::Synced { revision: at });
    }
    let snapshot = WatchItem::Snapshot {
        revision: revision(1, 4),
    };
    assert_eq!(first(revision(1, 1)), snapshot);
    assert_eq!(first(revision(0, 4)), snapshot);
    for since in [revision(1, 5), revision(2, 0)] {
        let current = revision(1, 4);
        let error = hub.subscribe(Some(since)).unwrap_err();
        assert_eq!(error, WatchError::Ahead { since, current });
    }
}

#[tokio::test(start_paused = true)]
async fn silent_watch_has_heartbeats() {
    let hub = hub(HubLimits::default());
    hub.begin(1, vec![]);
    let mut watch = hub.subscribe(None).unwrap();
    drain(&mut watch);
    for _ in 0..3 {
        let before = Instant::now();
        let line = watch.next().await.unwrap();
        assert_eq!(Instant::now() - before, HEARTBEAT_INTERVAL);
        let at = revision(1, 0);
        assert_eq!(items(&[line]), [WatchItem::Heartbeat { revision: at }]);
    }
}

#[tokio::test]
async fn watch_ends_with_its_term() {
    let hub = hub(HubLimits::default());
    hub.begin(1, vec![node("a", 1)]);
    let mut ended = hub.subscribe(None).unwrap();
    hub.end(2);
    assert!(!drain(&mut ended).1);
    hub.end(1);
    assert!(drain(&mut ended).1);
    assert_eq!(hub.subscribe(None).err(), Some(WatchError::NotPublishing));

    hub.begin(2, vec![]);
    let mut replaced = hub.subscribe(None).unwrap();
    let waiting = tokio::spawn(async move { while replaced.next().await.is_some() {} });
    hub.begin(3, vec![]);
    waiting.await.unwrap();
    drop(ended);
    assert_eq!(hub.metrics.ended(WatchEnd::TermEnded), 2);
    assert_eq!(hub.metrics.open(), 0);
}

#[tokio::test]
async fn watch_that_falls_behind_the_history_ends() {
    let hub = hub(HubLimits {
        items: 10,
        ..HubLimits::default()
    });
    hub.begin(1, vec![]);
    let mut slow = hub.subscribe(None).unwrap();
    let mut fast = hub.subscribe(None).unwrap();
    for last in 0..50 {
        hub.publish(1, vec![ObjectChange::Put(node("a", last))]);
        assert!(!drain(&mut fast).1);
    }
    let (lines, ended) = drain(&mut slow);
    assert!(ended && lines.is_empty());
    drop(slow);
    assert_eq!(hub.metrics.ended(WatchEnd::TooSlow), 1);
}

#[tokio::test]
async fn thousand_watches_share_each_item() {
    let hub = hub(HubLimits::default());
    hub.begin(
        1,
        (0..200)
            .map(|last| node(&format!("n{last}"), last))
            .collect(),
    );
    let mut watches: Vec<_> = (0..1000).map(|_| hub.subscribe(None).unwrap()).collect();
    hub.publish(
        1,
        vec![
            ObjectChange::Put(node("a", 1)),
            ObjectChange::Put(node("b", 2)),
        ],
    );
    let shared: Vec<_> = drain(&mut watches[0]).0;
    assert_eq!(items(&shared).len(), 204);
    for watch in &mut watches {
        // The first one has read everything.
        let (lines, _) = drain(watch);
        let places =
            |lines: &[Bytes]| -> Vec<_> { lines.iter().map(|line| line.as_ptr()).collect() };
        assert!(lines.is_empty() || places(&lines) == places(&shared));
    }
    // Those that come later share the same snapshot, and the changes after it.
    let mut late = hub.subscribe(None).unwrap();
    let lines = drain(&mut late).0;
    assert!(
        lines
            .iter()
            .zip(&shared)
            .all(|(one, other)| one.as_ptr() == other.as_ptr())
    );
    assert_eq!(lines.len(), shared.len());
}

#[tokio::test]
async fn memory_is_bounded() {
    let limits = HubLimits {
        items: 1000,
        bytes: 20_000,
        after_snapshot: 100,
    };
    let hub = hub(limits);
    hub.begin(1, vec![]);
    let mut snapshots = std::collections::BTreeSet::new();
    let mut watches = vec![];
    for number in 0..10_000_u32 {
        let vni = number % 1000;
        let change = if number % 3 == 0 {
            ObjectChange::Delete(overlay("a", 0).key())
        } else {
            ObjectChange::Put(overlay("a", vni))
        };
        hub.publish(1, vec![change]);
        let mut watch = hub.subscribe(None).unwrap();
        snapshots.insert(watch.next().await.unwrap().as_ptr());
        // Kept, so that its address is not used again.
        watches.push(watch);
        let published = hub.published();
        let published = published.as_ref().unwrap();
        let history = published.history.iter();
        let bytes: usize = history.clone().map(|block| block.lines.len()).sum();
        assert!(bytes <= limits.bytes && published.history_bytes == bytes);
        let items: usize = history.map(|block| block.items).sum();
        assert!(items <= limits.items && published.history_items == items);
    }
    let counter = hub.revision().unwrap().counter;
    let allowed = counter / (limits.after_snapshot + 1) + 1;
    assert!(snapshots.len() as u64 <= allowed, "{}", snapshots.len());
}

#[tokio::test]
async fn changes_that_are_published_together_are_sent_together() {
    let hub = hub(HubLimits::default());
    hub.begin(1, vec![]);
    let mut watch = hub.subscribe(None).unwrap();
    drain(&mut watch);
    let counted = hub.metrics.items();
    let changes = |count: u32| -> Vec<ObjectChange> {
        let overlays = (0..count).map(|vni| overlay(&format!("o{vni}"), vni));
        overlays.map(ObjectChange::Put).collect()
    };
    hub.publish(1, changes(100));
    let (lines, _) = drain(&mut watch);
    assert_eq!((lines.len(), items(&lines).len()), (1, 100));
    assert_eq!(hub.metrics.items() - counted, 100);
    // What changes nothing is left out, also of a block.
    hub.publish(1, changes(101));
    let (lines, _) = drain(&mut watch);
    assert_eq!(items(&lines).len(), 1);
    // A client that lost its connection within a block gets the rest of it.
    for counter in [0, 1, 57, 99, 100, 101] {
        let since = revision(1, counter);
        let mut resumed = hub.subscribe(Some(since)).unwrap();
        let all = items(&drain(&mut resumed).0);
        assert_eq!(all[0], WatchItem::Synced { revision: since });
        let first = all.get(1).map(|item| match item {
            WatchItem::Put { revision, .. } => revision.counter,
            other => panic!("{other:?}"),
        });
        assert_eq!(all.len() as u64, 1 + 101 - counter);
        assert_eq!(first, (counter < 101).then_some(counter + 1));
    }
    // Many changes are several blocks of bounded length.
    hub.publish(1, changes(5000).into_iter().skip(101).collect());
    let (lines, _) = drain(&mut watch);
    assert!(lines.len() > 5, "{}", lines.len());
    assert!(lines.iter().all(|block| block.len() <= BLOCK_BYTES));
    assert_eq!(items(&lines).len(), 5000 - 101);
}

#[derive(Clone, Debug)]
enum Action {
    /// Publishes these together.
    PutAll(Vec<(u8, u8)>),
    Put(u8, u8),
    Delete(u8),
    /// Reads this many lines.
    Read(usize),
    /// Closes the connection, and resumes.
    Reconnect,
    NewTerm,
}

fn action() -> impl Strategy<Value = Action> {
    let puts = prop::collection::vec((0..12_u8, any::<u8>()), 0..8);
    prop_oneof![
        2 => puts.prop_map(Action::PutAll),
        6 => (0..12_u8, any::<u8>()).prop_map(|(name, last)| Action::Put(name, last)),
        3 => (0..12_u8).prop_map(Action::Delete),
        4 => (0..20_usize).prop_map(Action::Read),
        2 => Just(Action::Reconnect),
        1 => Just(Action::NewTerm),
    ]
}

proptest! {
    #[test]
    fn client_of_any_cut_and_resumed_stream_has_the_state(
        actions in prop::collection::vec(action(), 0..200),
        history in 1..40_usize,
        after_snapshot in 0..40_u64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let _entered = runtime.enter();
        let hub = hub(HubLimits { items: history, after_snapshot, ..HubLimits::default() });
        let mut term = 1;
        hub.begin(term, vec![]);
        let mut client = Client::default();
        let mut watch = hub.subscribe(None).unwrap();
        // Lines that were sent, but not read: they are lost when the connection is closed.
        let mut received = VecDeque::new();
        let connect = |client: &mut Client| {
            client.connect();
            hub.subscribe(client.revision).unwrap()
        };
        for action in actions {
            match action {
                Action::Put(name, last) => {
                    hub.publish(term, vec![ObjectChange::Put(node(&format!("n{name}"), last))]);
                }
                Action::PutAll(puts) => {
                    let puts = puts.into_iter();
                    let puts = puts.map(|(name, last)| node(&format!("n{name}"), last));
                    hub.publish(term, puts.map(ObjectChange::Put).collect());
                }
                Action::Delete(name) => {
                    hub.publish(term, vec![ObjectChange::Delete(node(&format!("n{name}"), 0).key())]);
                }
                Action::Read(lines) => {
                    let mut ended = false;
                    while received.len() < lines && !ended {
                        match watch.next().now_or_never() {
                            Some(Some(block)) => received.extend(items(&[block])),
                            Some(None) => ended = true,
                            None => break,
                        }
                    }
                    for item in received.drain(..lines.min(received.len())) {
                        client.read(item);
                    }
                    if ended {
                        received.clear();
                        watch = connect(&mut client);
                    }
                }
                Action::Reconnect => {
                    received.clear();
                    watch = connect(&mut client);
                }
                Action::NewTerm => {
                    term += 1;
                    hub.begin(term, hub.objects());
                }
            }
        }
        for item in received.drain(..) {
            client.read(item);
        }
        loop {
            let (blocks, ended) = drain(&mut watch);
            for item in items(&blocks) {
                client.read(item);
            }
            if !ended {
                break;
            }
            watch = connect(&mut client);
        }
        prop_assert_eq!(&client.objects, &state(&hub));
        prop_assert_eq!(client.revision, hub.revision());
    }
}
