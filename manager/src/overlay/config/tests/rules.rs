//! Each rule of the file, broken alone in a file that is right otherwise.

use serde_json::{Value, json};

use super::*;

/// A file with every key, in which each overlay has what the other one could conflict with.
fn valid() -> Value {
    json!({
        "vtep_subnet": "44.128.0.0/16", "vtep_subnet6": "fd44::/64",
        "vtep_mac_oui": "70:B3:D5:00:00:00", "vtep_mtu": 1450, "vxlan_port": 4789,
        "overlays": [
            { "name": "one", "subnet": "9.0.0.0/8", "prefix": 24, "subnet6": "fd01:b::/64",
              "prefix6": 80, "vni": 5, "mtu": 1400, "enabled": true },
            { "name": "two", "subnet": "10.0.0.0/8", "prefix": 26, "vni": 6 },
        ],
    })
}

/// The file with another value at a path such as `/overlays/0/name`, or without it.
fn changed(path: &str, value: Option<Value>) -> Value {
    let mut file = valid();
    let (parent, key) = path.rsplit_once('/').unwrap();
    let parent = file.pointer_mut(parent).unwrap();
    match (parent, value) {
        (Value::Object(object), Some(value)) => drop(object.insert(key.to_owned(), value)),
        (Value::Object(object), None) => assert!(object.remove(key).is_some(), "{path}"),
        _ => panic!("{path}"),
    }
    file
}

/// The path as a message names it, such as `overlays[0].name`.
fn named(path: &str) -> String {
    let mut named = String::new();
    for part in path.trim_start_matches('/').split('/') {
        if part.parse::<usize>().is_ok() {
            named.extend(["[", part, "]"]);
        } else {
            let separator = if named.is_empty() { "" } else { "." };
            named.extend([separator, part]);
        }
    }
    named
}

fn expect_one_problem(file: &Value, path: &str, expected: &str) {
    let problems = parse(&file.to_string()).unwrap_err();
    let [problem] = &problems[..] else {
        panic!("{path}: {problems:#?}");
    };
    let (_, message) = problem.split_once(": ").unwrap();
    assert!(
        message.starts_with(&format!("{}: ", named(path))),
        "{path}: {problem}"
    );
    assert!(message.contains(expected), "{path}: {problem}");
}

#[test]
fn each_rule_broken_alone_is_one_problem_at_its_key() {
    assert!(parse(&valid().to_string()).is_ok());
    for (path, value, expected) in [
        // Those of the DC/OS overlay modules.
        ("/vtep_subnet", json!("44.0.0.0/7"), "too large"),
        (
            "/vtep_mac_oui",
            json!("70:B3:D5:00:00:01"),
            "last three bytes",
        ),
        (
            "/vtep_mac_oui",
            json!("70:B3:D5:01:00:00"),
            "last three bytes",
        ),
        ("/overlays", json!([]), "is empty"),
        ("/overlays/1/name", json!("one"), "as well"),
        ("/overlays/1/name", json!("host"), "something else"),
        ("/overlays/1/name", json!("bridge"), "something else"),
        ("/overlays/1/name", json!("default"), "something else"),
        ("/overlays/1/name", json!("none"), "something else"),
        ("/overlays/1/name", json!("0123456789abcd"), "1 to 13"),
        ("/overlays/1/name", json!(""), "1 to 13"),
        ("/overlays/1/subnet", json!("9.0.0.0/8"), "overlaps"),
        ("/overlays/1/subnet", json!("9.1.0.0/16"), "overlaps"),
        ("/overlays/1/subnet", json!("8.0.0.0/7"), "overlaps"),
        // Those that they lack.
        ("/vtep_subnet", json!("44.128.0.0/31"), "no address"),
        ("/vtep_subnet", json!("44.128.0.1/16"), "bits beyond"),
        ("/vtep_subnet", json!("169.254.0.0/16"), "link-local"),
        ("/vtep_subnet6", json!("fd44::/127"), "no address"),
        ("/vtep_subnet6", json!("fd44::1/64"), "bits beyond"),
        ("/vtep_subnet6", json!("ff02::/64"), "multicast"),
        ("/vtep_mac_oui", json!("71:B3:D5:00:00:00"), "multicast"),
        ("/vtep_mtu", json!(65_536), "65535"),
        ("/vxlan_port", json!(0), "from 1"),
        ("/vxlan_port", json!(65_536), "65535"),
        ("/block_rest", json!(60), "a duration"),
        ("/block_rest", json!("999ms"), "at least"),
        ("/overlays/1/name", json!("ONE"), "as well"),
        ("/overlays/1/name", json!("a/b"), "1 to 13"),
        ("/overlays/1/subnet", json!("44.128.4.0/22"), "overlaps"),
        ("/overlays/1/subnet", json!("10.0.0.1/8"), "bits beyond"),
        ("/overlays/1/subnet", json!("127.0.0.0/8"), "loopback"),
        ("/overlays/1/prefix", json!(8), "from 9 to 29"),
        ("/overlays/1/prefix", json!(7), "from 9 to 29"),
        ("/overlays/1/prefix", json!(0), "from 1"),
        ("/overlays/1/prefix", json!(30), "to 29"),
        ("/overlays/0/subnet6", json!("fd44::/64"), "overlaps"),
        ("/overlays/0/subnet6", json!("fd01:b::1/64"), "bits beyond"),
        ("/overlays/0/subnet6", json!("fe80::/64"), "link-local"),
        ("/overlays/0/prefix6", json!(64), "from 65 to 125"),
        ("/overlays/0/prefix6", json!(126), "to 125"),
        ("/overlays/0/mtu", json!(1279), "from 1280"),
        ("/overlays/1/mtu", json!(575), "from 576"),
        ("/overlays/1/mtu", json!(1451), "larger than vtep_mtu"),
        ("/overlays/1/vni", json!(5), "as well"),
        ("/overlays/1/vni", json!(0), "from 1"),
        ("/overlays/1/vni", json!(1 << 24), "16777215"),
        ("/overlays/1/enabled", json!("yes"), "true or false"),
        ("/overlays/1/enable", json!(true), "did you mean"),
        ("/vtep_subnets", json!("44.0.0.0/16"), "unknown key"),
    ] {
        expect_one_problem(&changed(path, Some(value)), path, expected);
    }
    for (path, expected) in [
        ("/vtep_subnet", "is missing"),
        ("/vtep_subnet6", "has an IPv6 subnet"),
        ("/vtep_mac_oui", "is missing"),
        ("/overlays", "is missing"),
        ("/overlays/0/name", "is missing"),
        ("/overlays/1/prefix", "is missing"),
        ("/overlays/0/prefix6", "is missing"),
    ] {
        expect_one_problem(&changed(path, None), path, expected);
    }
    // Half of a pair is named at the half that is there.
    for (subnet, prefix) in [("subnet", "prefix"), ("subnet6", "prefix6")] {
        let file = changed(&format!("/overlays/0/{subnet}"), None);
        let path = format!("/overlays/0/{prefix}");
        expect_one_problem(&file, &path, "is missing, which it divides");
    }
}

#[test]
fn no_key_may_be_null_or_of_another_type() {
    let file = valid();
    let top = file
        .as_object()
        .unwrap()
        .keys()
        .map(|key| format!("/{key}"));
    let overlay = file["overlays"][0].as_object().unwrap().keys();
    let paths = top.chain(overlay.map(|key| format!("/overlays/0/{key}")));
    for path in paths {
        for value in [Value::Null, json!([[]]), json!(-1), json!(1.5)] {
            let problems = parse(&changed(&path, Some(value.clone())).to_string()).unwrap_err();
            let is_named = |problem: &String| problem.contains(&format!(" {}", named(&path)));
            assert!(
                problems.iter().any(is_named),
                "{path} {value}: {problems:#?}"
            );
        }
    }
}
