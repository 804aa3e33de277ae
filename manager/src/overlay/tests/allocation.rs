use contrail_mesos_api::parser_testing::{assert_linear, for_damaged_input};

use super::super::allocation::Allocation;
use super::super::error::AllocatorError;
use super::*;

/// Registers a node. Returns what it has, and its problems.
fn register(allocation: &mut Allocation, name: &str, address: &str) -> (String, Vec<String>) {
    let registered = allocation.register(name, address.parse().unwrap(), &[]);
    let (_, answer) = registered.unwrap();
    let node = answer.node.as_ref().map(shown);
    (node.unwrap_or_default(), answer.problems)
}

fn has(allocation: &Allocation, name: &str) -> String {
    allocation
        .node(name)
        .as_ref()
        .map(shown)
        .unwrap_or_default()
}

fn reconfigure(allocation: &mut Allocation, config: OverlayConfig) {
    allocation.set_config(config);
    allocation.settle();
}

fn reload(allocation: &Allocation, config: OverlayConfig) -> Allocation {
    let records = allocation.records().values();
    let records = records.map(|record| (record.name.clone(), record.to_bytes()));
    Allocation::load(config, records).unwrap()
}

#[test]
fn nodes_get_the_lowest_free_addresses_and_subnets() {
    let mut allocation = Allocation::new(config(VTEP, &[ONE, TWO].join(",")));
    let first = register(&mut allocation, "a", "10.0.0.1");
    let expected = "44.128.0.1 one=192.168.0.0/24 two=192.168.128.0/24";
    assert_eq!(first, (expected.to_owned(), vec![]));
    let mac = allocation.node("a").unwrap().vtep.mac;
    assert_eq!(mac.to_string(), "70:b3:d5:80:00:01");
    register(&mut allocation, "b", "10.0.0.2");
    register(&mut allocation, "c", "10.0.0.3");
    assert!(allocation.release("b").is_some());
    assert!(allocation.release("b").is_none());
    let again = register(&mut allocation, "d", "10.0.0.2").0;
    assert_eq!(again, "44.128.0.2 one=192.168.1.0/24 two=192.168.129.0/24");
    assert_eq!(register(&mut allocation, "a", "10.0.0.1").0, expected);
}

#[test]
fn node_keeps_what_it_has_when_its_address_changes() {
    let mut allocation = Allocation::new(config(VTEP, ONE));
    let before = register(&mut allocation, "a", "10.0.0.1");
    assert_eq!(register(&mut allocation, "a", "10.0.0.9"), before);
    assert_eq!(
        allocation.node("a").unwrap().address.to_string(),
        "10.0.0.9"
    );
    // The address is free for another node, also in its longer form.
    register(&mut allocation, "b", "::ffff:10.0.0.1");
    let error = allocation
        .register("a", "10.0.0.1".parse().unwrap(), &[])
        .unwrap_err();
    let taken = AllocatorError::AddressTaken {
        address: "10.0.0.1".parse().unwrap(),
        node: "b".to_owned(),
    };
    assert_eq!(error, taken);
    assert_eq!(
        allocation.node("a").unwrap().address.to_string(),
        "10.0.0.9"
    );
}

#[test]
fn invalid_names_and_addresses_are_refused() {
    let mut allocation = Allocation::new(config(VTEP, ONE));
    let address = "10.0.0.1".parse().unwrap();
    for name in ["", ".", "..", "a/b", "a b", "ä", &"a".repeat(254)] {
        let error = allocation.register(name, address, &[]).unwrap_err();
        assert!(matches!(error, AllocatorError::InvalidName(_)), "{error}");
    }
    for address in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "::ffff:224.0.0.1"] {
        let error = allocation
            .register("a", address.parse().unwrap(), &[])
            .unwrap_err();
        assert!(
            matches!(error, AllocatorError::InvalidAddress(_)),
            "{error}"
        );
    }
    assert!(allocation.records().is_empty());
}

#[test]
fn node_without_a_free_subnet_keeps_the_others() {
    let small = r#"{"name": "small", "subnet": "10.9.0.0/28", "prefix": 29}"#;
    let mut allocation = Allocation::new(config(VTEP, &[ONE, small].join(",")));
    register(&mut allocation, "a", "10.0.0.1");
    register(&mut allocation, "b", "10.0.0.2");
    let (third, problems) = register(&mut allocation, "c", "10.0.0.3");
    assert_eq!(third, "44.128.0.3 one=192.168.2.0/24");
    assert_eq!(problems.len(), 1);
    for part in ["small", "10.9.0.0/28", "room for 2 nodes", "/29"] {
        assert!(problems[0].contains(part), "{problems:?}");
    }
    allocation.release("a");
    let (third, problems) = register(&mut allocation, "c", "10.0.0.3");
    assert_eq!(third, "44.128.0.3 one=192.168.2.0/24 small=10.9.0.0/29");
    assert_eq!(problems, [""; 0]);
}

#[test]
fn node_without_a_tunnel_endpoint_is_refused() {
    for vtep in [
        r#""vtep_subnet": "44.128.0.0/30""#,
        r#""vtep_subnet": "44.128.0.0/16", "vtep_subnet6": "fd44::/126""#,
    ] {
        let mut allocation = Allocation::new(config(vtep, ONE));
        register(&mut allocation, "a", "10.0.0.1");
        register(&mut allocation, "b", "10.0.0.2");
        let before = allocation.records().clone();
        let error = allocation
            .register("c", "10.0.0.3".parse().unwrap(), &[])
            .unwrap_err();
        assert!(
            matches!(error, AllocatorError::EndpointsExhausted { room: 2, .. }),
            "{error}"
        );
        assert_eq!(*allocation.records(), before);
        allocation.release("a");
        assert!(
            allocation
                .register("c", "10.0.0.3".parse().unwrap(), &[])
                .is_ok()
        );
    }
}

#[test]
fn both_families_are_given_or_neither() {
    let overlays = r#"{"name": "both", "subnet": "10.9.0.0/16", "prefix": 24,
        "subnet6": "fd09::/64", "prefix6": 65}"#;
    let mut allocation = Allocation::new(config(VTEP6, overlays));
    let first = register(&mut allocation, "a", "10.0.0.1").0;
    assert_eq!(first, "44.128.0.1 fd44::1 both=10.9.0.0/24 both=fd09::/65");
    register(&mut allocation, "b", "10.0.0.2");
    let (third, problems) = register(&mut allocation, "c", "2001:db8::3");
    assert_eq!(third, "44.128.0.3 fd44::3");
    assert!(problems[0].contains("fd09::/64"), "{problems:?}");
    let usage = allocation.usage();
    assert_eq!(
        (usage[0].used, usage[0].free, usage[0].total),
        (2, 254, 256)
    );
    assert_eq!((usage[1].used, usage[1].free, usage[1].total), (2, 0, 2));
    let endpoints = allocation.endpoint_usage();
    assert_eq!((endpoints[0].used, endpoints[0].total), (3, 65_534));
    assert_eq!(endpoints[1].used, 3);
}

#[test]
fn overlays_change_at_run_time() {
    let mut allocation = Allocation::new(config(VTEP, ONE));
    register(&mut allocation, "a", "10.0.0.1");
    register(&mut allocation, "b", "10.0.0.2");
    // A new one: all nodes get a subnet.
    reconfigure(&mut allocation, config(VTEP, &[ONE, TWO].join(",")));
    assert_eq!(
        has(&allocation, "b"),
        "44.128.0.2 one=192.168.1.0/24 two=192.168.129.0/24"
    );
    // Disabled: nodes keep theirs, and new ones get none.
    let disabled = TWO.replace('}', ", \"enabled\": false}");
    reconfigure(&mut allocation, config(VTEP, &[ONE, &disabled].join(",")));
    assert_eq!(
        has(&allocation, "b"),
        "44.128.0.2 one=192.168.1.0/24 two=192.168.129.0/24"
    );
    let (third, problems) = register(&mut allocation, "c", "10.0.0.3");
    assert_eq!(
        (third.as_str(), problems.len()),
        ("44.128.0.3 one=192.168.2.0/24", 0)
    );
    // Removed: its subnets stay reserved.
    reconfigure(&mut allocation, config(VTEP, ONE));
    assert_eq!(has(&allocation, "b"), "44.128.0.2 one=192.168.1.0/24");
    let other = TWO.replace("two", "other");
    reconfigure(&mut allocation, config(VTEP, &[ONE, &other].join(",")));
    assert_eq!(
        has(&allocation, "a"),
        "44.128.0.1 one=192.168.0.0/24 other=192.168.130.0/24"
    );
    // It comes back.
    reconfigure(&mut allocation, config(VTEP, &[ONE, TWO].join(",")));
    assert_eq!(
        has(&allocation, "b"),
        "44.128.0.2 one=192.168.1.0/24 two=192.168.129.0/24"
    );
    assert_eq!(
        has(&allocation, "c"),
        "44.128.0.3 one=192.168.2.0/24 two=192.168.133.0/24"
    );
    // Released: also what is not in use is free.
    allocation.release("a");
    reconfigure(&mut allocation, config(VTEP, &[ONE, &other].join(",")));
    assert_eq!(
        has(&allocation, "b"),
        "44.128.0.2 one=192.168.1.0/24 other=192.168.131.0/24"
    );
    assert_eq!(
        register(&mut allocation, "d", "10.0.0.4").0,
        "44.128.0.1 one=192.168.0.0/24 other=192.168.128.0/24"
    );
}

#[test]
fn subnets_change_only_where_they_are_no_longer_valid() {
    let mut allocation = Allocation::new(config(VTEP, ONE));
    for (name, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")] {
        register(&mut allocation, name, address);
    }
    let one = |subnet: &str, prefix: u8| {
        let overlay = format!(r#"{{"name": "one", "subnet": "{subnet}", "prefix": {prefix}}}"#);
        config(VTEP, &overlay)
    };
    // Another prefix: only for new nodes, and never inside of a block.
    reconfigure(&mut allocation, one("192.168.0.0/17", 23));
    assert_eq!(has(&allocation, "c"), "44.128.0.3 one=192.168.2.0/24");
    assert_eq!(
        register(&mut allocation, "d", "10.0.0.4").0,
        "44.128.0.4 one=192.168.4.0/23"
    );
    // A smaller subnet: only the first two are in it.
    reconfigure(&mut allocation, one("192.168.0.0/23", 26));
    assert_eq!(has(&allocation, "b"), "44.128.0.2 one=192.168.1.0/24");
    assert_eq!(has(&allocation, "c"), "44.128.0.3", "its subnet is used up");
    assert_eq!(register(&mut allocation, "c", "10.0.0.3").1.len(), 1);
    // Elsewhere, and back: everybody has the first block again.
    reconfigure(&mut allocation, one("172.16.0.0/16", 24));
    assert_eq!(has(&allocation, "d"), "44.128.0.4 one=172.16.3.0/24");
    reconfigure(&mut allocation, one("192.168.0.0/16", 24));
    assert_eq!(has(&allocation, "c"), "44.128.0.3 one=192.168.2.0/24");
    assert_eq!(has(&allocation, "d"), "44.128.0.4 one=192.168.4.0/23");
    // What they had in between is still theirs.
    let other = r#"{"name": "other", "subnet": "172.16.0.0/16", "prefix": 24}"#;
    reconfigure(&mut allocation, config(VTEP, other));
    assert_eq!(has(&allocation, "a"), "44.128.0.1 other=172.16.4.0/24");
}

#[test]
fn tunnel_endpoints_follow_their_subnet() {
    let mut allocation = Allocation::new(config(VTEP, ONE));
    for (name, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")] {
        register(&mut allocation, name, address);
    }
    let vtep = |subnet: &str| config(&format!(r#""vtep_subnet": "{subnet}""#), ONE);
    reconfigure(&mut allocation, vtep("44.0.0.0/8"));
    assert_eq!(has(&allocation, "c"), "44.128.0.3 one=192.168.2.0/24");
    reconfigure(&mut allocation, vtep("45.128.0.0/30"));
    assert_eq!(has(&allocation, "b"), "45.128.0.2 one=192.168.1.0/24");
    assert_eq!(has(&allocation, "c"), "", "it has no endpoint");
    assert!(
        allocation
            .register("c", "10.0.0.3".parse().unwrap(), &[])
            .is_err()
    );
    let restarted = reload(&allocation, vtep("45.128.0.0/30"));
    assert_eq!(*restarted.records(), *allocation.records());
    reconfigure(&mut allocation, vtep("46.0.0.0/16"));
    assert_eq!(has(&allocation, "c"), "46.0.0.3 one=192.168.2.0/24");
    // The IPv6 subnet comes and goes.
    reconfigure(&mut allocation, config(VTEP6, ONE));
    assert_eq!(
        has(&allocation, "c"),
        "44.128.0.3 fd44::3 one=192.168.2.0/24"
    );
    reconfigure(&mut allocation, config(VTEP, ONE));
    assert_eq!(has(&allocation, "c"), "44.128.0.3 one=192.168.2.0/24");
}

#[test]
fn undone_changes_leave_nothing() {
    let mut allocation = Allocation::new(config(VTEP, ONE));
    register(&mut allocation, "a", "10.0.0.1");
    let before = allocation.records().clone();
    let changes = [
        allocation
            .register("b", "10.0.0.2".parse().unwrap(), &[])
            .unwrap()
            .0,
        allocation.release("a"),
        allocation
            .register("c", "10.0.0.1".parse().unwrap(), &[])
            .unwrap()
            .0,
    ];
    allocation.undo(changes.into_iter().flatten().collect());
    assert_eq!(*allocation.records(), before);
    let second = register(&mut allocation, "d", "10.0.0.2").0;
    assert_eq!(second, "44.128.0.2 one=192.168.1.0/24");
}

/// A stored record.
fn record(name: &str, address: &str, vtep: &str, subnets: &str) -> (String, Vec<u8>) {
    let text = format!(
        r#"{{"layout": 1, "name": "{name}", "address": "{address}", "vtep": "{vtep}",
            "overlays": {{"one": {{"subnets": [{subnets}]}}}}}}"#
    );
    (name.to_owned(), text.into_bytes())
}

#[test]
fn stored_state_that_cannot_be_right_is_refused() {
    let good = record("a", "10.0.0.1", "44.128.0.1", "\"192.168.0.0/24\"");
    assert!(Allocation::load(config(VTEP, ONE), [good.clone()]).is_ok());
    for (other, expected) in [
        (
            record("b", "10.0.0.2", "44.128.0.2", "\"192.168.0.0/25\""),
            "192.168.0.0/25 overlaps 192.168.0.0/24 of the node \"a\"",
        ),
        (
            record("b", "10.0.0.2", "44.128.0.1", ""),
            "node \"a\" has the MAC",
        ),
        (
            record("b", "10.0.0.2", "45.128.0.1", ""),
            "node \"a\" has the MAC",
        ),
        (
            record("b", "10.0.0.1", "44.128.0.2", ""),
            "node \"a\" has its address 10.0.0.1",
        ),
        (
            record("b", "10.0.0.2", "192.168.0.7", ""),
            "192.168.0.7/32 overlaps 192.168.0.0/24 of the node \"a\"",
        ),
        (
            record("a", "10.0.0.2", "44.128.0.2", ""),
            "it is there twice",
        ),
        (
            record("b", "10.0.0.2", "44.128.0.2", "\"192.168.1.1/24\""),
            "is not the subnet of a node",
        ),
        (
            record("b", "10.0.0.2", "44.128.0.2", "\"192.168.1.0/30\""),
            "is not the subnet of a node",
        ),
        (
            record("b", "10.0.0.2", "44.128.0.2", "\"0.0.0.0/0\""),
            "is not the subnet of a node",
        ),
        (
            record(
                "b",
                "10.0.0.2",
                "44.128.0.2",
                "\"10.1.0.0/24\", \"10.2.0.0/24\"",
            ),
            "several subnets of one family",
        ),
        (
            record(
                "b",
                "10.0.0.2",
                "44.128.0.2",
                "\"fd00::/80\", \"fd00::/81\"",
            ),
            "several subnets of one family",
        ),
        (
            record("b", "224.0.0.2", "44.128.0.2", ""),
            "not the address of a host",
        ),
        (record("b\\n", "10.0.0.2", "44.128.0.2", ""), "its name"),
        (("b".to_owned(), b"{}".to_vec()), "layout"),
        (
            ("b".to_owned(), br#"{"layout": 3}"#.to_vec()),
            "layout 3 is not one of 1 and 2",
        ),
        (("b".to_owned(), vec![]), "EOF"),
    ] {
        let error = Allocation::load(config(VTEP, ONE), [good.clone(), other]).unwrap_err();
        let error = error.to_string();
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(error.starts_with("the record of the node \""), "{error}");
        assert!(!error.contains(char::is_control), "{error}");
    }
    let overlapping = record("a", "10.0.0.1", "44.128.0.1", "\"44.128.0.0/24\"");
    let error = Allocation::load(config(VTEP, ONE), [overlapping]).unwrap_err();
    assert!(error.problem.contains("2 times"), "{error}");
}

#[test]
fn damaged_input_in_the_store_never_panics() {
    let mut allocation = Allocation::new(config(VTEP6, ONE));
    register(&mut allocation, "a", "10.0.0.1");
    reconfigure(
        &mut allocation,
        config(VTEP6, &ONE.replace("192.168", "172.16")),
    );
    let bytes = allocation.records()["a"].to_bytes();
    let good = record("b", "10.0.0.2", "44.128.0.2", "\"172.16.3.0/24\"");
    for_damaged_input(&bytes, |input| {
        let records = [good.clone(), ("a".to_owned(), input.to_vec())];
        match Allocation::load(config(VTEP6, ONE), records) {
            Ok(mut allocation) => {
                allocation.settle();
                random::check(&allocation);
            }
            Err(error) => assert!(!error.to_string().contains(char::is_control), "{error}"),
        }
    });
}

#[test]
fn registration_is_linear_in_the_number_of_nodes() {
    let overlay = r#"{"name": "one", "subnet": "10.0.0.0/8", "prefix": 28}"#;
    assert_linear("nodes", 2000, |nodes| {
        let mut allocation = Allocation::new(config(VTEP, overlay));
        for number in 0..nodes {
            let address = std::net::Ipv4Addr::from(0x0b00_0001 + u32::try_from(number).unwrap());
            allocation
                .register(&format!("n{number}"), address.into(), &[])
                .unwrap();
        }
        // The first and the last are free again and again.
        for number in [0, nodes - 1, 0] {
            let name = format!("n{number}");
            let address = allocation.node(&name).unwrap().address;
            allocation.release(&name);
            allocation.register(&name, address, &[]).unwrap();
        }
        let restarted = reload(&allocation, config(VTEP, overlay));
        assert_eq!(restarted.records().len(), nodes);
    });
}
