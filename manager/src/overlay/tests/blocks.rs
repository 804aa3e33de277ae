//! Overlays that lend blocks.

use std::time::{Duration, Instant};

use contrail_mesos_api::cluster::{BlockReport, Object, ObjectKey};
use ipnet::IpNet;

use super::super::allocation::{Allocation, MAX_BLOCKS};
use super::super::allocator::{Allocator, ObjectChange};
use super::super::config::BLOCK_REST;
use super::super::store::memory::MemoryStore;
use super::*;

const LENDING: &str = r#"{"name": "one", "subnet": "192.168.0.0/17", "ipam": "cluster"}"#;
const SMALL: &str =
    r#"{"name": "one", "subnet": "192.168.0.0/26", "ipam": "cluster", "block": 28}"#;
const BOTH: &str = r#"{"name": "one", "subnet": "192.168.0.0/17", "subnet6": "fd00::/112",
    "ipam": "cluster", "block": 29}"#;

fn wants(wanted: u32) -> BlockReport {
    BlockReport {
        overlay: "one".to_owned(),
        wanted,
        wanted6: wanted,
        ..BlockReport::default()
    }
}

fn returns(wanted: u32, blocks: &[&str], returned: u64) -> BlockReport {
    BlockReport {
        returns: blocks.iter().map(|block| block.parse().unwrap()).collect(),
        returned,
        ..wants(wanted)
    }
}

/// Registers the node `a`, `b` … . Returns its blocks, and its problems.
fn report(
    allocation: &mut Allocation,
    name: &str,
    reports: &[BlockReport],
) -> (Vec<String>, Vec<String>) {
    let address = format!("10.0.0.{}", name.as_bytes()[0]);
    let registered = allocation.register(name, address.parse().unwrap(), reports);
    let answer = registered.unwrap().1;
    let subnets = answer.node.unwrap().subnets;
    let blocks = subnets.iter().flat_map(|subnets| &subnets.blocks);
    (blocks.map(IpNet::to_string).collect(), answer.problems)
}

fn has(allocation: &mut Allocation, name: &str, report_of: &BlockReport) -> Vec<String> {
    let (blocks, problems) = report(allocation, name, std::slice::from_ref(report_of));
    assert_eq!(problems, [""; 0]);
    blocks
}

#[test]
fn node_borrows_as_many_blocks_as_it_wants() {
    let mut allocation = Allocation::new(config(VTEP, &[LENDING, TWO].join(",")));
    // A node that says nothing about blocks gets none, and its subnet of the other overlay.
    assert_eq!(report(&mut allocation, "a", &[]), (vec![], vec![]));
    assert_eq!(
        shown(&allocation.node("a").unwrap()),
        "44.128.0.1 two=192.168.128.0/24"
    );
    assert_eq!(has(&mut allocation, "a", &wants(4)), ["192.168.0.0/28"]);
    assert_eq!(has(&mut allocation, "b", &wants(13)), ["192.168.0.16/28"]);
    let three = ["192.168.0.0/28", "192.168.0.32/28", "192.168.0.48/28"];
    assert_eq!(has(&mut allocation, "a", &wants(27)), three);
    // Wanting less gives nothing back.
    assert_eq!(has(&mut allocation, "a", &wants(0)), three);
    assert_eq!(allocation.usage()[0].used, 4);
    assert_eq!(allocation.usage()[0].total, 2048);
    assert!(allocation.release("a").is_some());
    assert_eq!(has(&mut allocation, "b", &wants(14)).len(), 2);
}

#[test]
fn both_families_have_blocks_of_one_size() {
    let mut allocation = Allocation::new(config(VTEP6, BOTH));
    let blocks = has(&mut allocation, "a", &wants(6));
    assert_eq!(blocks, ["192.168.0.0/29", "192.168.0.8/29", "fd00::/125"]);
    let only_v6 = BlockReport {
        wanted: 0,
        ..wants(7)
    };
    assert_eq!(has(&mut allocation, "b", &only_v6).len(), 2);
}

#[test]
fn node_without_blocks_learns_that_its_last_one_was_taken() {
    let mut allocation = Allocation::new(config(VTEP, SMALL));
    assert_eq!(has(&mut allocation, "a", &wants(4)), ["192.168.0.0/28"]);
    let left = has(&mut allocation, "a", &returns(0, &["192.168.0.0/28"], 0));
    assert_eq!(left, [""; 0]);
    let subnets = &allocation.node("a").unwrap().subnets[0];
    assert_eq!((subnets.blocks.len(), subnets.returned), (0, 1));
}

#[test]
fn returned_block_rests_before_another_node_gets_it() {
    let mut allocation = Allocation::new(config(VTEP, SMALL));
    let start = Instant::now();
    assert_eq!(has(&mut allocation, "a", &wants(26)).len(), 2);
    assert_eq!(has(&mut allocation, "b", &wants(26)).len(), 2);
    let left = has(&mut allocation, "a", &returns(4, &["192.168.0.16/28"], 0));
    assert_eq!(left, ["192.168.0.0/28"]);
    let subnets = &allocation.node("a").unwrap().subnets[0];
    assert_eq!(subnets.returned, 1);
    assert_eq!(allocation.end_rests(start), []);
    // Also in another term, in which it rests from the beginning.
    let records = allocation.records().values();
    let records = records.map(|record| (record.name.clone(), record.to_bytes()));
    let mut allocation = Allocation::load(config(VTEP, SMALL), records).unwrap();
    let (blocks, problems) = report(&mut allocation, "b", &[wants(27)]);
    assert_eq!((blocks.len(), problems.len()), (2, 1));
    assert!(problems[0].contains("overlay one"), "{problems:?}");
    assert!(problems[0].contains("26 of the 27"), "{problems:?}");
    let later = start + Duration::from_secs(7);
    assert_eq!(allocation.end_rests(later), []);
    assert_eq!(
        allocation.end_rests(later + BLOCK_REST.saturating_sub(Duration::from_secs(1))),
        []
    );
    // Its last node gets it at once.
    let again = has(&mut allocation, "a", &wants(14));
    assert_eq!(again, ["192.168.0.0/28", "192.168.0.16/28"]);
    has(&mut allocation, "a", &returns(4, &["192.168.0.16/28"], 1));
    assert_eq!(
        allocation.end_rests(later + BLOCK_REST),
        [],
        "it rests again"
    );
    let changes = allocation.end_rests(later + BLOCK_REST + BLOCK_REST);
    assert_eq!(changes.len(), 1);
    assert_eq!(has(&mut allocation, "b", &wants(27)).len(), 3);
    assert_eq!(allocation.end_rests(later + 9 * BLOCK_REST), []);
}

#[test]
fn block_rests_as_long_as_the_configuration_says() {
    let short = format!(r#"{VTEP}, "block_rest": "2s""#);
    let mut allocation = Allocation::new(config(&short, SMALL));
    has(&mut allocation, "a", &wants(52));
    has(&mut allocation, "a", &returns(39, &["192.168.0.48/28"], 0));
    let start = Instant::now();
    assert_eq!(allocation.end_rests(start), []);
    assert_eq!(allocation.end_rests(start + Duration::from_secs(1)), []);
    // A reload changes it for blocks that rest already.
    allocation.set_config(config(VTEP, SMALL));
    allocation.settle();
    assert_eq!(allocation.end_rests(start + Duration::from_secs(2)), []);
    allocation.set_config(config(&short, SMALL));
    allocation.settle();
    let changes = allocation.end_rests(start + Duration::from_secs(2));
    assert_eq!(changes.len(), 1);
    assert_eq!(has(&mut allocation, "b", &wants(4)), ["192.168.0.48/28"]);
}

#[test]
fn late_report_takes_nothing_back() {
    let mut allocation = Allocation::new(config(VTEP, SMALL));
    has(&mut allocation, "a", &wants(26));
    let late = returns(4, &["192.168.0.16/28"], 0);
    has(&mut allocation, "a", &late);
    let again = has(&mut allocation, "a", &wants(26));
    assert_eq!(again, ["192.168.0.0/28", "192.168.0.16/28"]);
    // It was sent before the block was given again.
    assert_eq!(has(&mut allocation, "a", &late), again);
    // What it does not have, it cannot give back.
    has(&mut allocation, "b", &wants(4));
    let foreign = returns(4, &["192.168.0.0/28", "10.0.0.0/8"], 0);
    assert_eq!(has(&mut allocation, "b", &foreign), ["192.168.0.32/28"]);
    assert_eq!(has(&mut allocation, "a", &wants(26)), again);
}

#[test]
fn node_gets_a_limited_number_of_blocks() {
    let mut allocation = Allocation::new(config(VTEP, LENDING));
    let (blocks, problems) = report(&mut allocation, "a", &[wants(u32::MAX)]);
    assert_eq!((blocks.len(), problems.len()), (MAX_BLOCKS, 1));
    assert!(problems[0].contains("256 blocks"), "{problems:?}");
}

#[test]
fn overlay_can_begin_and_cease_to_lend_blocks() {
    let divided = r#"{"name": "one", "subnet": "192.168.0.0/26", "prefix": 28}"#;
    let mut allocation = Allocation::new(config(VTEP, divided));
    report(&mut allocation, "a", &[]);
    let before = shown(&allocation.node("a").unwrap());
    assert_eq!(before, "44.128.0.1 one=192.168.0.0/28");
    allocation.set_config(config(VTEP, SMALL));
    assert_eq!(allocation.settle(), []);
    // Its containers keep their addresses: nobody gets the subnet.
    assert_eq!(has(&mut allocation, "a", &wants(4)), ["192.168.0.16/28"]);
    assert_eq!(has(&mut allocation, "b", &wants(4)), ["192.168.0.32/28"]);
    allocation.set_config(config(VTEP, divided));
    allocation.settle();
    assert_eq!(shown(&allocation.node("a").unwrap()), before);
    assert_eq!(
        shown(&allocation.node("b").unwrap()),
        "44.128.0.2 one=192.168.0.48/28"
    );
    allocation.set_config(config(VTEP, SMALL));
    allocation.settle();
    assert_eq!(has(&mut allocation, "a", &wants(4)), ["192.168.0.16/28"]);
}

#[test]
fn earlier_versions_refuse_records_with_blocks() {
    let mut allocation = Allocation::new(config(VTEP, LENDING));
    report(&mut allocation, "a", &[]);
    let layout = |allocation: &Allocation| {
        let bytes = allocation.records()["a"].to_bytes();
        let record: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        record["layout"].as_u64().unwrap()
    };
    assert_eq!(layout(&allocation), 1, "nothing is new");
    let block = has(&mut allocation, "a", &wants(4));
    assert_eq!(layout(&allocation), 2);
    // The number of returns must not begin again.
    has(&mut allocation, "a", &returns(0, &[&block[0]], 0));
    allocation.end_rests(Instant::now());
    allocation.end_rests(Instant::now() + BLOCK_REST);
    assert_eq!(layout(&allocation), 2);
    let (name, bytes) = ("a".to_owned(), allocation.records()["a"].to_bytes());
    let loaded = Allocation::load(config(VTEP, LENDING), [(name, bytes)]).unwrap();
    assert_eq!(loaded.records(), allocation.records());
}

#[tokio::test(start_paused = true)]
async fn lent_blocks_are_published_and_rest_in_time() {
    let store = std::sync::Arc::new(MemoryStore::default());
    let (allocator, mut changes) = Allocator::load(store, config(VTEP, SMALL)).await.unwrap();
    let send = |name: &'static str, blocks: BlockReport| {
        let allocator = allocator.clone();
        async move {
            let address = format!("10.0.0.{}", name.as_bytes()[0]);
            let report = contrail_mesos_api::cluster::NodeReport {
                blocks: vec![blocks],
                ..super::report(&address)
            };
            allocator.register(name, &report).await.unwrap()
        }
    };
    send("a", wants(52)).await;
    let published = changes.next().await.unwrap();
    let [ObjectChange::Put(Object::Node(node))] = &published[..] else {
        panic!("{published:?}");
    };
    assert_eq!(node.subnets[0].blocks.len(), 4);
    assert!(!send("b", wants(1)).await.problems.is_empty());
    assert_eq!(allocator.problems()["b"].len(), 1);
    send("a", returns(4, &["192.168.0.48/28"], 0)).await;
    assert!(!send("b", wants(1)).await.problems.is_empty());
    tokio::time::advance(BLOCK_REST).await;
    let answer = send("b", wants(1)).await;
    assert_eq!(answer.problems, [""; 0]);
    assert_eq!(
        answer.node.unwrap().subnets[0].blocks[0].to_string(),
        "192.168.0.48/28"
    );
    let key = ObjectKey::Node {
        name: "b".to_owned(),
    };
    assert!(allocator.objects().iter().any(|object| object.key() == key));
}
