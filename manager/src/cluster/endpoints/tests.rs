use std::net::Ipv4Addr;

use contrail_mesos_api::cluster::{
    Admission, Membership, Node, Overlay, Revision, Vtep, WatchItem,
};
use contrail_mesos_api::container::Mac;
use futures::FutureExt as _;
use proptest::prelude::*;

use super::super::hub::{Hub, HubLimits, Subscription};
use super::super::metrics::WatchMetrics;
use super::*;

fn overlay(name: &str, isolates: bool) -> Object {
    Object::Overlay(Overlay {
        name: name.to_owned(),
        vni: 7,
        subnet: None,
        subnet6: None,
        mtu: None,
        enabled: true,
        groups: isolates.then(Admission::default),
        isolated: false,
        lends_blocks: false,
    })
}

/// A node with a subnet of each of these overlays.
fn node(name: &str, subnets: &[(&str, &str)]) -> Object {
    let subnets = subnets.iter().map(|(overlay, subnet)| NodeSubnets {
        overlay: (*overlay).to_owned(),
        subnet: subnet.parse().ok(),
        subnet6: subnet.parse().ok(),
        blocks: vec![],
        returned: 0,
    });
    Object::Node(Node {
        name: name.to_owned(),
        address: [192, 0, 2, 1].into(),
        vtep: Vtep {
            address: [44, 128, 0, 1].into(),
            address6: None,
            mac: Mac([0x70, 0xb3, 0xd5, 0x80, 0, 1]),
        },
        subnets: subnets.collect(),
    })
}

fn endpoint(node: &str, id: &str, addresses: &[&str], groups: &[&str]) -> Endpoint {
    Endpoint {
        node: node.to_owned(),
        id: id.to_owned(),
        addresses: addresses
            .iter()
            .map(|address| address.parse().unwrap())
            .collect(),
        membership: Membership {
            groups: groups.iter().map(|name| (*name).to_owned()).collect(),
            security_groups: vec![],
        },
    }
}

fn report_of(endpoints: Vec<Endpoint>) -> EndpointsReport {
    EndpointsReport {
        digest: "d".to_owned(),
        endpoints,
    }
}

/// A table with the overlays `a`, which isolates groups, and `b`, which does not, and two nodes.
fn table() -> EndpointTable {
    EndpointTable::new(&[
        overlay("a", true),
        overlay("b", false),
        node("n1", &[("a", "9.0.1.0/24"), ("b", "10.0.1.0/24")]),
        node("n2", &[("a", "9.0.2.0/24"), ("a", "fd09:2::/64")]),
    ])
}

fn put(endpoint: &Endpoint) -> ObjectChange {
    ObjectChange::Put(Object::Endpoint(endpoint.clone()))
}

fn delete(node: &str, id: &str) -> ObjectChange {
    let (node, id) = (node.to_owned(), id.to_owned());
    ObjectChange::Delete(ObjectKey::Endpoint { node, id })
}

fn complete(node: &str) -> ObjectChange {
    let node = node.to_owned();
    ObjectChange::Put(Object::EndpointsComplete { node })
}

#[test]
fn report_replaces_the_one_before() {
    let mut table = table();
    let one = endpoint("n2", "1", &["9.0.2.5", "fd09:2::5"], &["x"]);
    let two = endpoint("n2", "2", &["9.0.2.6"], &[]);
    assert!(table.lacks("n2", "d"));
    let changes = table.report("n2", report_of(vec![one.clone(), two.clone()]));
    assert_eq!(
        changes.unwrap(),
        [put(&one), put(&two), complete("n2")],
        "an endpoint may have addresses of both families"
    );
    assert!(!table.lacks("n2", "d") && table.lacks("n2", "e"));
    // Only what differs is published. What goes comes before what takes its address.
    let two = endpoint("n2", "2", &["9.0.2.6"], &["x"]);
    let three = endpoint("n2", "3", &["9.0.2.5"], &[]);
    let changes = table.report("n2", report_of(vec![three.clone(), two.clone()]));
    assert_eq!(
        changes.unwrap(),
        [delete("n2", "1"), put(&two), put(&three), complete("n2")]
    );
    let counts = EndpointCounts {
        complete_nodes: 1,
        published: 2,
        refused: 0,
    };
    assert_eq!(table.counts(), counts);
    // A re-imaged host has no containers.
    let changes = table.report("n2", report_of(vec![])).unwrap();
    assert_eq!(
        changes,
        [delete("n2", "2"), delete("n2", "3"), complete("n2")]
    );
}

#[test]
fn entries_that_are_not_valid_are_refused_alone() {
    let mut table = table();
    let valid = endpoint("n1", "valid", &["9.0.1.5"], &["x"]);
    let mut too_many = endpoint("n1", "groups", &["9.0.1.6"], &[]);
    too_many.membership.groups = (0..=MAX_GROUPS)
        .map(|number| format!("g{number}"))
        .collect();
    let mut in_security_groups = endpoint("n1", "security", &["9.0.1.7"], &[]);
    in_security_groups.membership.security_groups = vec!["a b".to_owned()];
    let long_id = "x".repeat(MAX_ID_BYTES + 1);
    let refused = [
        (
            endpoint("n2", "other", &["9.0.1.8"], &[]),
            "the node \"n2\"",
        ),
        (endpoint("n1", "", &["9.0.1.8"], &[]), "an id has"),
        (endpoint("n1", &long_id, &["9.0.1.8"], &[]), "an id has"),
        (endpoint("n1", "a\u{1b}[2J", &["9.0.1.8"], &[]), "an id has"),
        (endpoint("n1", "valid", &["9.0.1.8"], &[]), "has its id"),
        (endpoint("n1", "none", &[], &[]), "it has 0 addresses"),
        (endpoint("n1", "many", &["9.0.1.8"; 9], &[]), "9 addresses"),
        (
            endpoint("n1", "twice", &["9.0.1.8", "9.0.1.8"], &[]),
            "an address twice",
        ),
        (too_many, "65 groups"),
        (in_security_groups, "\"a b\""),
        (endpoint("n1", "name", &["9.0.1.8"], &["a,b"]), "\"a,b\""),
        // Of another node, of an overlay that does not isolate groups, and of nobody.
        (
            endpoint("n1", "foreign", &["9.0.2.5"], &[]),
            "9.0.2.5 is not",
        ),
        (
            endpoint("n1", "open", &["10.0.1.5"], &[]),
            "10.0.1.5 is not",
        ),
        (
            endpoint("n1", "half", &["9.0.1.9", "8.8.8.8"], &[]),
            "8.8.8.8 is not",
        ),
        (
            endpoint("n1", "mapped", &["::ffff:9.0.1.9"], &[]),
            "is not in a subnet",
        ),
        (
            endpoint("n1", "same", &["9.0.1.5"], &[]),
            "another container of this node has its address 9.0.1.5",
        ),
    ];
    for (entry, expected) in &refused {
        let report = report_of(vec![valid.clone(), entry.clone()]);
        let changes = table.report("n1", report).unwrap();
        let is_first = table.counts().published == 1;
        assert!(is_first && changes.last() == Some(&complete("n1")));
        let problems = table.problems("n1");
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains(expected), "{expected}: {problems:?}");
        assert!(!problems[0].contains(char::is_control), "{problems:?}");
    }
    // All at once: the valid one stays, and the problems are bounded.
    let mut entries = vec![valid.clone()];
    entries.extend(refused.iter().map(|(entry, _)| entry.clone()));
    entries.extend(refused.iter().map(|(entry, _)| entry.clone()));
    let changes = table.report("n1", report_of(entries)).unwrap();
    assert_eq!(changes, [complete("n1")]);
    let counts = table.counts();
    assert_eq!((counts.published, counts.refused), (1, 2 * refused.len()));
    let problems = table.problems("n1");
    assert_eq!(problems.len(), MAX_PROBLEMS + 1);
    assert!(problems[MAX_PROBLEMS].starts_with("and "), "{problems:?}");
}

#[test]
fn report_is_refused_of_unknown_node_or_with_invalid_digest() {
    let mut table = table();
    let refused = table.report("n9", report_of(vec![]));
    assert_eq!(refused, Err(EndpointsError::Unregistered));
    for digest in [String::new(), "x".repeat(MAX_DIGEST_BYTES + 1)] {
        let endpoints = vec![];
        let refused = table.report("n1", EndpointsReport { digest, endpoints });
        assert_eq!(refused, Err(EndpointsError::InvalidDigest));
    }
    assert_eq!(table.counts(), EndpointCounts::default());
}

#[test]
fn number_of_endpoints_of_a_node_is_bounded() {
    let mut table = EndpointTable::new(&[overlay("a", true), node("n", &[("a", "9.0.0.0/16")])]);
    let endpoints = (0..MAX_REPORTED_ENDPOINTS + 10).map(|number| {
        let address = Ipv4Addr::from(0x0900_0001 + u32::try_from(number).unwrap());
        endpoint("n", &number.to_string(), &[&address.to_string()], &[])
    });
    table.report("n", report_of(endpoints.collect())).unwrap();
    let counts = table.counts();
    assert_eq!(
        (counts.published, counts.refused),
        (MAX_REPORTED_ENDPOINTS, 10)
    );
}

#[test]
fn groups_are_published_sorted_and_once() {
    let mut table = table();
    let reported = endpoint("n1", "1", &["9.0.1.5"], &["b", "a", "b"]);
    let changes = table.report("n1", report_of(vec![reported])).unwrap();
    let expected = endpoint("n1", "1", &["9.0.1.5"], &["a", "b"]);
    assert_eq!(changes, [put(&expected), complete("n1")]);
}

#[test]
fn changes_of_overlays_and_subnets_decide_again() {
    let mut table = table();
    let of_a = endpoint("n1", "1", &["9.0.1.5"], &["x"]);
    let of_b = endpoint("n1", "2", &["10.0.1.5"], &["x"]);
    let entries = vec![of_a.clone(), of_b.clone()];
    table.report("n1", report_of(entries)).unwrap();
    assert_eq!(table.problems("n1").len(), 1);

    let on = ObjectChange::Put(overlay("b", true));
    assert_eq!(table.follow(vec![on.clone()]), [on, put(&of_b)]);
    assert!(table.problems("n1").is_empty());
    let gone = ObjectChange::Delete(ObjectKey::Overlay {
        name: "a".to_owned(),
    });
    assert_eq!(table.follow(vec![gone.clone()]), [delete("n1", "1"), gone]);
    let back = ObjectChange::Put(overlay("a", true));
    assert_eq!(table.follow(vec![back.clone()]), [back, put(&of_a)]);

    // Another node has its subnet, in the same change.
    let changes = vec![
        ObjectChange::Put(node("n1", &[("b", "10.0.1.0/24")])),
        ObjectChange::Put(node("n3", &[("a", "9.0.1.0/24")])),
    ];
    let mut expected = vec![delete("n1", "1")];
    expected.extend(changes.clone());
    assert_eq!(table.follow(changes), expected);
    let taken = endpoint("n3", "1", &["9.0.1.5"], &[]);
    let changes = table.report("n3", report_of(vec![taken.clone()])).unwrap();
    assert_eq!(changes, [put(&taken), complete("n3")]);
}

#[test]
fn endpoints_and_marker_go_before_their_node() {
    let mut table = table();
    let entry = endpoint("n1", "1", &["9.0.1.5"], &[]);
    table.report("n1", report_of(vec![entry])).unwrap();
    let gone = |name: &str| {
        ObjectChange::Delete(ObjectKey::Node {
            name: name.to_owned(),
        })
    };
    let marker = ObjectChange::Delete(ObjectKey::EndpointsComplete {
        node: "n1".to_owned(),
    });
    assert_eq!(
        table.follow(vec![gone("n1")]),
        [delete("n1", "1"), marker, gone("n1")]
    );
    // It never reported.
    assert_eq!(table.follow(vec![gone("n2")]), [gone("n2")]);
    assert!(table.lacks("n1", "d"));
    assert_eq!(
        table.report("n1", report_of(vec![])),
        Err(EndpointsError::Unregistered)
    );
}

/// A client that follows the rules of the contract.
#[derive(Debug, Default)]
struct Client {
    revision: Option<Revision>,
    nodes: BTreeSet<String>,
    complete: BTreeSet<String>,
    endpoints: BTreeMap<(String, String), Endpoint>,
    /// The endpoints that were known before the snapshot, and not put since.
    retained: BTreeSet<(String, String)>,
    staged: Option<Vec<Object>>,
}

impl Client {
    fn put(&mut self, object: Object) {
        match object {
            Object::Node(node) => drop(self.nodes.insert(node.name)),
            Object::Endpoint(endpoint) => {
                let key = (endpoint.node.clone(), endpoint.id.clone());
                self.retained.remove(&key);
                self.endpoints.insert(key, endpoint);
            }
            Object::EndpointsComplete { node } => {
                let is_gone = |key: &(String, String)| key.0 == node;
                for key in self.retained.extract_if(.., is_gone) {
                    self.endpoints.remove(&key);
                }
                self.complete.insert(node);
            }
            _ => {}
        }
    }

    fn delete(&mut self, key: ObjectKey) {
        match key {
            ObjectKey::Node { name } => {
                self.nodes.remove(&name);
                self.endpoints.retain(|(node, _), _| *node != name);
                self.retained.retain(|(node, _)| *node != name);
            }
            ObjectKey::Endpoint { node, id } => {
                let key = (node, id);
                self.retained.remove(&key);
                self.endpoints.remove(&key);
            }
            ObjectKey::EndpointsComplete { node } => drop(self.complete.remove(&node)),
            _ => {}
        }
    }

    fn finish(&mut self, staged: Vec<Object>) {
        let before = std::mem::take(self);
        for object in staged {
            self.put(object);
        }
        for (key, endpoint) in before.endpoints {
            let is_incomplete = !self.complete.contains(&key.0) && self.nodes.contains(&key.0);
            if is_incomplete && !self.endpoints.contains_key(&key) {
                self.retained.insert(key.clone());
                self.endpoints.insert(key, endpoint);
            }
        }
    }

    fn read(&mut self, item: WatchItem) {
        match item {
            WatchItem::Snapshot { .. } => self.staged = Some(vec![]),
            WatchItem::Put { revision, object } => {
                if let Some(staged) = &mut self.staged {
                    staged.push(object);
                } else {
                    self.put(object);
                    self.revision = Some(revision);
                }
            }
            WatchItem::Delete { revision, key } => {
                self.delete(key);
                self.revision = Some(revision);
            }
            WatchItem::Synced { revision } => {
                if let Some(staged) = self.staged.take() {
                    self.finish(staged);
                }
                self.revision = Some(revision);
            }
            WatchItem::Heartbeat { .. } | WatchItem::Unknown => {}
        }
    }

    /// Reads everything that has been published, over as many streams as it takes.
    fn catch_up(&mut self, hub: &Arc<Hub>, watch: &mut Subscription) {
        loop {
            match watch.next().now_or_never() {
                Some(Some(block)) => {
                    for line in block.split_inclusive(|byte| *byte == b'\n') {
                        self.read(serde_json::from_slice(line).unwrap());
                    }
                }
                Some(None) => {
                    self.staged = None;
                    *watch = hub.subscribe(self.revision).unwrap();
                }
                None => return,
            }
        }
    }

    fn of(&self, node: &str) -> BTreeMap<String, Endpoint> {
        let own = self.endpoints.iter().filter(|((of, _), _)| of == node);
        own.map(|((_, id), endpoint)| (id.clone(), endpoint.clone()))
            .collect()
    }
}

/// An entry of a report: its id, which slot its address is in, its last byte, and its groups.
type Entry = (u8, u8, u8, u8);

#[derive(Clone, Debug)]
enum Action {
    Register(u8),
    Release(u8),
    /// Switches the isolation of an overlay.
    Switch(bool),
    Report(u8, Vec<Entry>),
    NewTerm,
    CatchUp,
    /// Closes the connection after so many blocks, and resumes.
    Cut(usize),
}

const NODES: u8 = 4;

fn action() -> impl Strategy<Value = Action> {
    let entry = (
        0..6_u8,
        prop_oneof![6 => Just(NODES), 1 => 0..NODES],
        0..4_u8,
        0..4_u8,
    );
    let entries = prop::collection::vec(entry, 0..6);
    prop_oneof![
        4 => (0..NODES).prop_map(Action::Register),
        2 => (0..NODES).prop_map(Action::Release),
        2 => any::<bool>().prop_map(Action::Switch),
        8 => (0..NODES, entries).prop_map(|(node, entries)| Action::Report(node, entries)),
        2 => Just(Action::NewTerm),
        2 => Just(Action::CatchUp),
        3 => (0..3_usize).prop_map(Action::Cut),
    ]
}

/// The managers of a cluster: one leads at a time, and what is allocated outlives its term.
struct Managers {
    hub: Arc<Hub>,
    term: u64,
    table: EndpointTable,
    /// Which slot of the subnets each node has.
    slots: BTreeMap<u8, u8>,
    isolating: [bool; 2],
    /// What a naive reader of the rules expects of each node that has reported in this term.
    reports: BTreeMap<u8, Vec<Endpoint>>,
}

impl Managers {
    fn objects(&self) -> Vec<Object> {
        let overlays = ["a", "b"].into_iter().zip(self.isolating);
        let mut objects: Vec<_> = overlays.map(|(name, on)| overlay(name, on)).collect();
        objects.extend(
            self.slots
                .iter()
                .map(|(name, slot)| Self::node(*name, *slot)),
        );
        objects
    }

    fn name(node: u8) -> String {
        format!("n{node}")
    }

    fn node(name: u8, slot: u8) -> Object {
        let (a, b) = (format!("9.0.{slot}.0/24"), format!("10.0.{slot}.0/24"));
        node(&Self::name(name), &[("a", &a), ("b", &b)])
    }

    fn publish(&mut self, changes: Vec<ObjectChange>) {
        let changes = self.table.follow(changes);
        self.hub.publish(self.term, changes);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Register(node) => {
                let free = (0..NODES).find(|slot| self.slots.values().all(|used| used != slot));
                let slot = *self.slots.entry(node).or_insert(free.unwrap_or(NODES));
                self.publish(vec![ObjectChange::Put(Self::node(node, slot))]);
            }
            Action::Release(node) => {
                self.reports.remove(&node);
                if self.slots.remove(&node).is_some() {
                    let name = Self::name(node);
                    self.publish(vec![ObjectChange::Delete(ObjectKey::Node { name })]);
                }
            }
            Action::Switch(second) => {
                let index = usize::from(second);
                self.isolating[index] = !self.isolating[index];
                let changed = overlay(["a", "b"][index], self.isolating[index]);
                self.publish(vec![ObjectChange::Put(changed)]);
            }
            Action::Report(node, entries) => {
                let name = Self::name(node);
                let own = self.slots.get(&node).copied();
                let entries = entries.into_iter().map(|(id, slot, last, groups)| {
                    // Most addresses are its own.
                    let slot = if slot == NODES {
                        own.unwrap_or(0)
                    } else {
                        slot
                    };
                    let overlay = if last % 2 == 0 { 9 } else { 10 };
                    let address = format!("{overlay}.0.{slot}.{last}");
                    let groups: Vec<String> =
                        (0..groups).map(|group| format!("g{group}")).collect();
                    let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
                    endpoint(&name, &format!("c{id}"), &[&address], &groups)
                });
                let endpoints: Vec<_> = entries.collect();
                let published = self.table.report(&name, report_of(endpoints.clone()));
                assert_eq!(published.is_ok(), own.is_some());
                if let Ok(changes) = published {
                    self.hub.publish(self.term, changes);
                    self.reports.insert(node, endpoints);
                }
            }
            Action::NewTerm => {
                self.term += 1;
                self.reports.clear();
                let objects = self.objects();
                self.table = EndpointTable::new(&objects);
                self.hub.begin(self.term, objects);
            }
            Action::CatchUp | Action::Cut(_) => {}
        }
    }

    /// What must be published of a node that has reported in this term.
    fn expected(&self, node: u8) -> BTreeMap<String, Endpoint> {
        let mut expected: BTreeMap<String, Endpoint> = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for entry in &self.reports[&node] {
            if !ids.insert(entry.id.clone()) {
                continue;
            }
            let text = entry.addresses[0].to_string();
            let parts: Vec<&str> = text.split('.').collect();
            let isolates = self.isolating[usize::from(parts[0] == "10")];
            let is_own = parts[2] == self.slots[&node].to_string();
            let mut others = expected.values();
            if isolates && is_own && others.all(|other| other.addresses != entry.addresses) {
                expected.insert(entry.id.clone(), entry.clone());
            }
        }
        expected
    }

    /// Checks what a client that has read everything knows.
    fn check(&self, client: &Client) {
        for node in self.reports.keys() {
            assert_eq!(
                client.of(&Self::name(*node)),
                self.expected(*node),
                "n{node}"
            );
        }
        let names: BTreeSet<_> = self.slots.keys().map(|node| Self::name(*node)).collect();
        assert_eq!(client.nodes, names);
        assert!(
            client
                .endpoints
                .keys()
                .all(|(node, _)| names.contains(node))
        );
        let complete: BTreeSet<_> = self.reports.keys().map(|node| Self::name(*node)).collect();
        assert_eq!(client.complete, complete);
        assert_eq!(self.table.counts().complete_nodes, complete.len());
    }
}

proptest! {
    /// Whatever happens to nodes, overlays, leaders and connections: a client has what was reported in
    /// this term, and keeps what it knows of a node until that node has reported.
    #[test]
    fn client_follows_reports_over_failovers(
        actions in prop::collection::vec(action(), 0..120),
        history in 1..40_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let _entered = runtime.enter();
        let limits = HubLimits { items: history, ..HubLimits::default() };
        let hub = Hub::new(limits, WatchMetrics::default());
        let mut managers = Managers {
            hub: hub.clone(),
            term: 0,
            table: EndpointTable::default(),
            slots: BTreeMap::new(),
            isolating: [true, false],
            reports: BTreeMap::new(),
        };
        managers.act(Action::NewTerm);
        let mut client = Client::default();
        let mut watch = hub.subscribe(None).unwrap();
        for action in actions {
            match action {
                Action::CatchUp => {
                    client.catch_up(&hub, &mut watch);
                    managers.check(&client);
                }
                Action::Cut(blocks) => {
                    for _ in 0..blocks {
                        let Some(Some(block)) = watch.next().now_or_never() else { break };
                        for line in block.split_inclusive(|byte| *byte == b'\n') {
                            client.read(serde_json::from_slice(line).unwrap());
                        }
                    }
                    client.staged = None;
                    watch = hub.subscribe(client.revision).unwrap();
                }
                Action::NewTerm => {
                    client.catch_up(&hub, &mut watch);
                    let before = client.endpoints.clone();
                    managers.act(Action::NewTerm);
                    client.catch_up(&hub, &mut watch);
                    prop_assert_eq!(&client.endpoints, &before, "silence changes nothing");
                }
                other => managers.act(other),
            }
        }
        for node in 0..NODES {
            managers.act(Action::Register(node));
            managers.act(Action::Report(node, vec![(0, NODES, node, 1), (1, NODES, node + 2, 2)]));
        }
        client.catch_up(&hub, &mut watch);
        managers.check(&client);
        let mut addresses = BTreeSet::new();
        for address in client.endpoints.values().flat_map(|endpoint| &endpoint.addresses) {
            prop_assert!(addresses.insert(*address), "{} is there twice", address);
        }
    }
}
