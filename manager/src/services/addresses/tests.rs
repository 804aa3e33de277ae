use std::collections::HashSet;

use contrail_mesos_api::parser_testing::{assert_linear, for_damaged_input};
use proptest::prelude::*;

use super::*;

fn ranges(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn both() -> Vec<IpNet> {
    ranges(&["198.18.0.0/16", "fd4a::/112"])
}

fn records(pool: &AddressPool) -> Vec<(String, Vec<u8>)> {
    (0..SHARDS)
        .filter_map(|shard| Some((record_name(shard), pool.record(shard)?)))
        .collect()
}

fn shown(pool: &AddressPool, name: &str) -> Vec<String> {
    let addresses = pool.addresses(name).into_iter();
    addresses
        .flat_map(NameAddresses::all)
        .map(|address| address.to_string())
        .collect()
}

#[test]
fn name_has_the_same_addresses_in_every_manager() {
    let (mut one, mut other) = (AddressPool::new(&both()), AddressPool::new(&both()));
    for name in ["web.marathon", "api.marathon"] {
        assert_eq!(one.give(name).1, []);
    }
    for name in ["api.marathon", "web.marathon"] {
        other.give(name);
    }
    let web = shown(&one, "web.marathon");
    assert_eq!(web, shown(&other, "web.marathon"));
    // Another one would change the addresses of existing clusters whose state is lost.
    assert_eq!(web, ["198.18.35.159", "fd4a::b511"]);
    // It is repeated without a change.
    assert_eq!(one.give("web.marathon"), (None, vec![]));
    assert!(one.is_complete("web.marathon") && !one.is_complete("other.marathon"));
}

#[test]
fn text_that_is_no_name_gets_no_address() {
    let mut pool = AddressPool::new(&both());
    for text in ["10.0.0.1", "Web.marathon", "a..b", ""] {
        assert_eq!(pool.give(text), (None, vec![]), "{text}");
    }
    // So what was stored can be read.
    pool.give("web.marathon");
    let loaded = AddressPool::load(&both(), records(&pool)).unwrap();
    assert_eq!(loaded.names().collect::<Vec<_>>(), ["web.marathon"]);
}

#[test]
fn first_and_last_addresses_are_never_given() {
    let mut pool = AddressPool::new(&ranges(&["198.18.0.0/28", "fd4a::/124"]));
    let mut given = HashSet::new();
    for number in 0..20 {
        pool.give(&format!("s{number}.marathon"));
        given.extend(shown(&pool, &format!("s{number}.marathon")));
    }
    assert_eq!(given.len(), 13 + 14);
    for reserved in [
        "198.18.0.0",
        "198.18.0.1",
        "198.18.0.15",
        "fd4a::",
        "fd4a::1",
    ] {
        assert!(!given.contains(reserved), "{reserved}");
    }
    let usage = pool.usage();
    assert_eq!((usage[0].used, usage[0].free), (13, 0));
    assert_eq!((usage[1].used, usage[1].free), (14, 0));
    let used_up: Vec<_> = ranges(&["198.18.0.0/28", "fd4a::/124"])
        .into_iter()
        .map(Shortage::UsedUp)
        .collect();
    assert_eq!(pool.give("s19.marathon"), (None, used_up));
    // What one gives back, another one gets.
    let freed = shown(&pool, "s3.marathon");
    pool.release("s3.marathon").unwrap();
    pool.give("s19.marathon");
    assert_eq!(shown(&pool, "s19.marathon"), freed);
}

#[test]
fn addresses_of_an_earlier_range_are_kept() {
    let mut pool = AddressPool::new(&ranges(&["198.18.0.0/16"]));
    pool.give("web.marathon");
    let before = shown(&pool, "web.marathon");
    let mut pool = AddressPool::load(&both()[..1], records(&pool)).unwrap();
    assert_eq!(shown(&pool, "web.marathon"), before);
    // Another range, and one of the other family.
    let new = ranges(&["10.9.0.0/16", "fd4a::/112"]);
    pool = AddressPool::load(&new, records(&pool)).unwrap();
    assert!(!pool.is_complete("web.marathon"));
    let (change, lacking) = pool.give("web.marathon");
    assert!(change.is_some() && lacking.is_empty());
    let now = shown(&pool, "web.marathon");
    assert_eq!((now.len(), &now[0]), (2, &before[0]));
    let usage = pool.usage();
    assert_eq!((usage[0].used, usage[0].earlier), (0, 1));
    assert_eq!((usage[1].used, usage[1].earlier), (1, 0));
    assert!(pool.is_given(before[0].parse().unwrap()));
    pool.release("web.marathon").unwrap();
    pool.give("web.marathon");
    assert!(shown(&pool, "web.marathon")[0].starts_with("10.9."));
}

#[test]
fn names_of_one_hash_do_not_make_a_record_too_long() {
    let mut pool = AddressPool::new(&ranges(&["10.0.0.0/8"]));
    let filler = "x".repeat(60);
    let names = (0_u32..)
        .map(|number| format!("{filler}.{filler}.{filler}.{number}"))
        .filter(|name| shard_of(name) == 7);
    let mut refused = None;
    for name in names.take(1100) {
        let (change, lacking) = pool.give(&name);
        if change.is_none() {
            assert_eq!(lacking, [Shortage::ShardFull]);
            refused = Some(name);
            break;
        }
    }
    let length = pool.record(7).unwrap().len();
    assert!(refused.is_some() && length <= MAX_SHARD_BYTES, "{length}");
    // There is room again once one is gone.
    let first = pool.names().next().unwrap().to_owned();
    pool.release(&first).unwrap();
    assert!(pool.give(&refused.unwrap()).0.is_some());
}

#[test]
fn record_that_cannot_be_right_is_refused() {
    let mut pool = AddressPool::new(&both());
    pool.give("web.marathon");
    let mut good = records(&pool);
    assert_eq!(good.len(), 1);
    let (name, bytes) = good.pop().unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let load = |name: &str, text: &str| {
        let records = [(name.to_owned(), text.as_bytes().to_vec())];
        AddressPool::load(&both(), records)
    };
    assert!(load(&name, &text).is_ok());
    for damaged in [
        text.replace("\"layout\":1", "\"layout\":2"),
        text.replace("\"v4\"", "\"v5\\u001b[31m\""),
        text.replace("web.marathon", "web.marathom"),
        text.replace("web.marathon", "10.0.0.1"),
        text.replace("198.18.", "198.258."),
        "[]".to_owned(),
    ] {
        let error = load(&name, &damaged).unwrap_err().to_string();
        assert!(!error.contains(char::is_control), "{error:?}");
    }
    assert!(load("names-zz", &text).is_err());
    // An address of two names.
    let other = (0..1000)
        .map(|number| format!("s{number}.marathon"))
        .find(|name| shard_of(name) != shard_of("web.marathon"))
        .unwrap();
    let twice = text.replace("web.marathon", &other);
    let records = [
        (name, text.into_bytes()),
        (record_name(shard_of(&other)), twice.into_bytes()),
    ];
    let error = AddressPool::load(&both(), records).unwrap_err();
    assert!(error.problem.contains("another name"), "{error}");
}

#[test]
fn damaged_input_never_panics() {
    let mut pool = AddressPool::new(&both());
    for number in 0..3 {
        pool.give(&format!("s{number}.marathon"));
    }
    let (name, bytes) = records(&pool).swap_remove(0);
    for_damaged_input(&bytes, |damaged| {
        let _ = AddressPool::load(&both(), [(name.clone(), damaged.to_vec())]);
    });
}

#[test]
fn many_names_take_linear_time() {
    assert_linear("addresses of names", 1000, |count| {
        let mut pool = AddressPool::new(&both());
        for number in 0..count {
            pool.give(&format!("s{number}.marathon"));
        }
        AddressPool::load(&both(), records(&pool)).unwrap();
    });
}

/// What happens to names.
#[derive(Clone, Debug)]
enum Step {
    Give(u8),
    Release(u8),
    /// Changes that cannot be stored: names that get addresses.
    Fail(Vec<u8>),
    /// The manager restarts with one of a few ranges.
    Restart(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0_u8..24).prop_map(Step::Give),
        3 => (0_u8..24).prop_map(Step::Release),
        1 => proptest::collection::vec(0_u8..24, 0..6).prop_map(Step::Fail),
        1 => (0_usize..4).prop_map(Step::Restart),
    ];
    proptest::collection::vec(step, 1..60)
}

fn some_ranges(index: usize) -> Vec<IpNet> {
    match index {
        0 => ranges(&["198.18.0.0/28"]),
        1 => ranges(&["198.18.0.0/28", "fd4a::/124"]),
        2 => ranges(&["198.18.0.8/29", "fd4a::/125"]),
        _ => ranges(&["fd4a::8/125"]),
    }
}

proptest! {
    /// No address is given twice or lost, names keep theirs, and what is stored is what there is.
    #[test]
    fn names_keep_their_addresses_and_share_none(steps in steps()) {
        let mut current = some_ranges(0);
        let mut pool = AddressPool::new(&current);
        let mut model: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        let name = |number: &u8| format!("s{number}.marathon");
        for step in &steps {
            match step {
                Step::Give(number) => {
                    let name = name(number);
                    let before = model.get(&name).cloned().unwrap_or_default();
                    let (change, lacking) = pool.give(&name);
                    let after: Vec<_> =
                        pool.addresses(&name).into_iter().flat_map(NameAddresses::all).collect();
                    prop_assert!(before.iter().all(|address| after.contains(address)));
                    prop_assert_eq!(change.is_some(), before != after);
                    for address in after.iter().filter(|address| !before.contains(address)) {
                        let range = current.iter().find(|range| range.contains(address)).unwrap();
                        prop_assert!(dns_or_edge(*range).all(|edge| edge != *address));
                    }
                    // Something is lacking only if the range is used up.
                    for shortage in lacking {
                        let Shortage::UsedUp(range) = shortage else { panic!("{shortage}") };
                        let usage = pool.usage();
                        let usage = usage.iter().find(|usage| usage.range == range).unwrap();
                        prop_assert_eq!(usage.free, 0);
                    }
                    if !after.is_empty() {
                        model.insert(name, after);
                    }
                }
                Step::Release(number) => {
                    let was_there = model.remove(&name(number)).is_some();
                    prop_assert_eq!(pool.release(&name(number)).is_some(), was_there);
                }
                Step::Fail(numbers) => {
                    let changes = numbers.iter().filter_map(|number| pool.give(&name(number)).0);
                    let changes = changes.collect();
                    pool.undo(changes);
                }
                Step::Restart(index) => {
                    current = some_ranges(*index);
                    pool = AddressPool::load(&current, records(&pool)).unwrap();
                }
            }
            let known: BTreeMap<String, Vec<IpAddr>> = pool
                .names()
                .map(|name| {
                    let addresses = pool.addresses(name).unwrap();
                    (name.to_owned(), addresses.all().collect())
                })
                .collect();
            prop_assert_eq!(&known, &model);
            let all: Vec<_> = known.values().flatten().collect();
            let distinct: HashSet<_> = all.iter().collect();
            prop_assert_eq!(all.len(), distinct.len());
            for usage in pool.usage() {
                let used = all.iter().filter(|address| usage.range.contains(**address)).count();
                prop_assert_eq!(usage.used, used as u64);
            }
        }
    }
}

/// The addresses of a range that are never given.
fn dns_or_edge(range: IpNet) -> impl Iterator<Item = IpAddr> {
    let usable = usable(range);
    let (first, last) = (number(range.network()), number(range.broadcast()));
    let edges = (first..*usable.start()).chain(usable.end() + 1..=last);
    edges.map(move |edge| match range {
        IpNet::V4(_) => IpAddr::V4(address4(edge).unwrap()),
        IpNet::V6(_) => IpAddr::V6(address6(edge)),
    })
}
