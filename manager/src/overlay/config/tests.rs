mod rules;

use contrail_mesos_api::config_reader::MAX_PROBLEMS;
use contrail_mesos_api::parser_testing::{assert_linear, for_damaged_input};

use super::*;

/// The configuration that the README of the DC/OS overlay modules shows.
const DCOS: &str = r#"{
  "vtep_subnet": "44.128.0.0/16",
  "vtep_mac_oui": "70:B3:D5:00:00:00",
  "overlays": [
    {
      "name" : "vxlan-1",
      "subnet" : "192.168.0.0/17",
      "prefix" : 24
    },
    {
      "name" : "vxlan-2",
      "subnet" : "192.168.128.0/17",
      "prefix" : 24
    }
  ]
}
"#;

fn parse(text: &str) -> Result<OverlayConfig, Vec<String>> {
    OverlayConfig::parse(Path::new("o.json"), text)
        .map_err(|error| error.problems.iter().map(ToString::to_string).collect())
}

/// A file with this endpoints' subnet and these overlays.
fn with_overlays(overlays: &str) -> String {
    format!(
        r#"{{"vtep_subnet": "44.128.0.0/16", "vtep_mac_oui": "70:B3:D5:00:00:00", "overlays": [{overlays}]}}"#
    )
}

#[test]
fn dcos_configuration_is_accepted_as_it_stands() {
    let config = parse(DCOS).unwrap();
    assert_eq!(config.vtep_subnet.to_string(), "44.128.0.0/16");
    assert_eq!(config.vtep_mac_oui, [0x70, 0xb3, 0xd5]);
    assert_eq!(config.vxlan_port, 4789);
    assert_eq!(config.block_rest, BLOCK_REST);
    assert_eq!((config.vtep_subnet6, config.warnings.len()), (None, 0));
    let [first, second] = &config.overlays[..] else {
        panic!("{config:?}")
    };
    assert_eq!(first.name, "vxlan-1");
    let pool = second.subnets.unwrap();
    assert_eq!(
        (pool.subnet.to_string(), pool.prefix),
        ("192.168.128.0/17".to_owned(), 24)
    );
    assert!(first.enabled && first.subnets6.is_none() && first.mtu.is_none());
    assert_ne!(first.vni, second.vni);
    assert!((1..=MAX_VNI).contains(&first.vni));
    // The same in every manager and version.
    assert_eq!(first.vni, derived_vni("vxlan-1"));
}

#[test]
fn master_module_file_is_accepted_with_warnings() {
    let text = format!(
        r#"{{"zk": {{"url": "zk://m:2181/mesos", "quorum": 1}}, "replicated_log_dir": "/var/lib/mesos/master",
            "replicated_log_timeout": "5mins", "network": {DCOS}}}"#
    );
    let config = parse(&text).unwrap();
    let keys: Vec<_> = config
        .warnings
        .iter()
        .map(|warning| warning.key.as_str())
        .collect();
    assert_eq!(keys, ["zk", "replicated_log_dir", "replicated_log_timeout"]);
    let bare = parse(DCOS).unwrap();
    assert_eq!(config.overlays, bare.overlays);
    let problems = parse(r#"{"zk": {}, "netwrk": {}}"#).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].contains("did you mean \"network\""),
        "{problems:?}"
    );
}

#[test]
fn all_keys_are_read() {
    let text = r#"{"vtep_subnet": "44.128.0.0/20", "vtep_subnet6": "fd01:a::/64",
        "vtep_mac_oui": "70:b3:d5:00:00:00", "vtep_mtu": 1450, "vxlan_port": 8472, "block_rest": "90s", "overlays": [
        {"name": "both", "subnet": "9.0.0.0/8", "prefix": 24, "subnet6": "fd01:b::/64", "prefix6": 80,
         "mtu": 1400, "vni": 7, "enabled": false},
        {"name": "v6.only_2", "subnet6": "fd01:c::/64", "prefix6": 125}]}"#;
    let config = parse(text).unwrap();
    assert_eq!(config.vxlan_port, 8472);
    assert_eq!(config.block_rest, Duration::from_secs(90));
    let [both, only6] = &config.overlays[..] else {
        panic!("{config:?}")
    };
    assert_eq!((both.vni, both.mtu, both.enabled), (7, Some(1400), false));
    assert_eq!((only6.mtu, only6.subnets), (Some(1450), None));
    assert_eq!(only6.subnets6.unwrap().prefix, 125);
    assert_eq!(config.vtep_subnet6.unwrap().to_string(), "fd01:a::/64");
}

#[test]
fn addresses_are_lent_in_blocks_on_request() {
    let overlay = |keys: &str| {
        let overlay = format!(r#"{{"name": "a", {keys}}}"#);
        let text = with_overlays(&overlay).replace(
            r#""vtep_mac_oui""#,
            r#""vtep_subnet6": "fd44::/64", "vtep_mac_oui""#,
        );
        parse(&text).map(|config| {
            let overlay = &config.overlays[0];
            let prefixes: Vec<u8> = overlay.parts().map(|(_, prefix)| prefix).collect();
            (overlay.published().lends_blocks, prefixes)
        })
    };
    let both = r#""subnet": "9.0.0.0/16", "subnet6": "fd09::/112""#;
    let lent = |keys: &str| overlay(&format!("{both}, {keys}"));
    assert_eq!(lent(r#""ipam": "cluster""#), Ok((true, vec![28, 124])));
    assert_eq!(
        lent(r#""ipam": "cluster", "block": 26"#),
        Ok((true, vec![26, 122]))
    );
    assert_eq!(
        lent(r#""ipam": "node", "prefix": 24, "prefix6": 120"#),
        Ok((false, vec![24, 120]))
    );
    for (keys, expected) in [
        (r#""ipam": "host", "prefix": 24, "prefix6": 120"#, "cluster"),
        (
            r#""ipam": "clutser", "prefix": 24, "prefix6": 120"#,
            "did you mean \"cluster\"?",
        ),
        (r#""ipam": "cluster", "block": 25"#, "26"),
        (r#""ipam": "cluster", "block": 31"#, "30"),
        (
            r#""ipam": "cluster", "prefix": 24"#,
            "prefix: has no meaning",
        ),
        (
            r#""prefix": 24, "prefix6": 120, "block": 28"#,
            "block: needs",
        ),
    ] {
        let problems = lent(keys).unwrap_err();
        assert_eq!(problems.len(), 1, "{keys}: {problems:?}");
        assert!(problems[0].contains(expected), "{keys}: {problems:?}");
    }
    let small = overlay(r#""subnet": "9.0.0.0/28", "ipam": "cluster""#).unwrap_err();
    assert!(small[0].contains("no room for blocks"), "{small:?}");
}

#[test]
fn groups_are_isolated_on_request_and_admit_hosts_and_mapped_ports() {
    let groups = |keys: &str| {
        let overlay = r#"{"name": "a", "subnet": "9.0.0.0/8", "prefix": 24KEYS}"#;
        parse(&with_overlays(&overlay.replace("KEYS", keys))).map(|config| {
            let published = config.overlays[0].published();
            let admission = published.groups;
            let admitted = admission.map(|admission| (admission.hosts, admission.mapped_ports));
            (admitted, published.isolated)
        })
    };
    for (keys, expected) in [
        ("", (None, false)),
        (r#", "groups": false, "isolated": true"#, (None, true)),
        (r#", "groups": true"#, (Some((true, true)), false)),
        (
            r#", "groups": true, "admit": []"#,
            (Some((false, false)), false),
        ),
        (
            r#", "groups": true, "admit": ["hosts"]"#,
            (Some((true, false)), false),
        ),
        (
            r#", "groups": true, "admit": ["mapped-ports", "hosts"], "isolated": true"#,
            (Some((true, true)), true),
        ),
    ] {
        assert_eq!(groups(keys), Ok(expected), "{keys}");
    }
    for (keys, expected) in [
        (
            r#", "groups": true, "admit": ["host"]"#,
            "overlays[0].admit: expected \"hosts\" or \"mapped-ports\", found \"host\": did you mean \"hosts\"?",
        ),
        (
            r#", "groups": true, "admit": "hosts""#,
            "overlays[0].admit: expected an array",
        ),
        (
            r#", "groups": true, "admit": [1]"#,
            "overlays[0].admit: expected",
        ),
        (
            r#", "admit": ["hosts"]"#,
            "overlays[0].admit: needs \"groups\": true",
        ),
        (
            r#", "groups": false, "admit": []"#,
            "overlays[0].admit: needs",
        ),
        (
            r#", "groups": "yes""#,
            "overlays[0].groups: expected true or false",
        ),
        (
            r#", "group": true, "admit": []"#,
            "overlays[0].group: unknown key; did you mean \"groups\"?",
        ),
        (
            r#", "isolated": 1"#,
            "overlays[0].isolated: expected true or false",
        ),
    ] {
        let problems = groups(keys).unwrap_err();
        assert_eq!(problems.len(), 1, "{keys}: {problems:?}");
        assert!(problems[0].contains(expected), "{keys}: {problems:?}");
    }
}

#[test]
fn all_problems_are_reported_at_once_with_their_lines() {
    let text = r#"{
"vtep_subnet": "44.128.0.1/16",
"vtep_mac_oui": "71:B3:D5:00:00:00",
"vtep_mtu": 500,
"vxlan_port": 0,
"overlay": [],
"overlays": [
{"name": "host", "subnet": "9.0.0.0/8", "prefix": 24},
{"name": "a/b", "subnet": "10.0.0.0/24", "prefix": 24},
{"name": "one", "subnet": "11.0.0.0/24", "prefix": 30},
{"name": "One", "subnet": "11.0.0.0/25", "prefix": 26},
{"name": "four", "prefix": 26},
{"name": "five", "subnet": "224.0.0.0/8"},
{"name": "six", "subnet": "44.128.4.0/22", "prefix": 24, "vni": 5},
{"name": "seven", "subnet6": "fd00::/64", "prefix6": 80, "mtu": 1000, "vni": 5},
{"name": "eight", "subnet": "12.0.0.0/16", "prefx": 24, "subnet": "13.0.0.0/16"},
{"subnet": "14.0.0.0/16", "prefix": 24, "enabled": "yes"}
]}"#;
    let problems = parse(text).unwrap_err();
    for (line, expected) in [
        (
            2,
            "vtep_subnet: 44.128.0.1/16 has bits beyond its prefix; write 44.128.0.0/16",
        ),
        (3, "vtep_mac_oui: expected a MAC address"),
        (4, "vtep_mtu: expected a number from 576 to 65535"),
        (5, "vxlan_port: expected a number from 1 to 65535"),
        (6, "overlay: unknown key; did you mean \"overlays\"?"),
        (8, "overlays[0].name: expected a name of 1 to 13"),
        (9, "overlays[1].name: expected a name of 1 to 13"),
        (
            9,
            "overlays[1].prefix: 24 divides 10.0.0.0/24 into nothing: expected a number from 25 to 29",
        ),
        (10, "overlays[2].prefix: expected a number from 1 to 29"),
        (
            11,
            "overlays[3].name: One is the name of overlays[2] as well",
        ),
        (
            11,
            "overlays[3].subnet: 11.0.0.0/25 overlaps overlays[2].subnet, 11.0.0.0/24",
        ),
        (12, "overlays[4].subnet: is missing"),
        (
            12,
            "overlays[4].prefix: subnet is missing, which it divides",
        ),
        (
            13,
            "overlays[5].subnet: 224.0.0.0/8 has multicast addresses",
        ),
        (13, "overlays[5].prefix: is missing"),
        (15, "overlays[7].mtu: expected a number from 1280 to 65535"),
        (
            15,
            "overlays[7].vni: the VXLAN network identifier 5 is that of overlays[6] as well",
        ),
        (
            1,
            "vtep_subnet6: is missing, but an overlay has an IPv6 subnet",
        ),
        (16, "overlays[8].subnet: duplicate key"),
        (
            16,
            "overlays[8].prefx: unknown key; did you mean \"prefix\"?",
        ),
        (17, "overlays[9].name: is missing"),
        (17, "overlays[9].enabled: expected true or false"),
    ] {
        let found = problems.iter().filter(|problem| {
            let (place, message) = problem.split_once(": ").unwrap_or_default();
            place.starts_with(&format!("o.json:{line}:")) && message.starts_with(expected)
        });
        assert_eq!(found.count(), 1, "{line} {expected}: {problems:#?}");
    }
    assert_eq!(problems.len(), 22, "{problems:#?}");
}

#[test]
fn subnets_of_endpoints_are_validated() {
    let text = |key: &str, subnet: &str| {
        DCOS.replace("\"44.128.0.0/16\"", &format!("\"{subnet}\", {key}"))
    };
    for (subnet, expected) in [
        ("40.0.0.0/7", "is too large"),
        ("44.128.0.0/31", "has no address for a host"),
        ("127.0.0.0/16", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("0.0.0.0/0", "unspecified"),
        ("255.255.255.0/24", "broadcast"),
        ("192.168.0.0/16", "overlaps"),
        ("fd00::/64", "expected an IPv4 subnet"),
    ] {
        let problems = parse(&text("\"vxlan_port\": 1", subnet)).unwrap_err();
        assert!(
            problems.concat().contains(expected),
            "{subnet}: {problems:?}"
        );
    }
    for (subnet, expected) in [
        ("fd00::/127", "has no address for a host"),
        ("fe80::/64", "link-local"),
        ("::/64", "unspecified"),
        ("::ffff:10.0.0.0/112", "IPv4-mapped"),
    ] {
        let key = format!("\"vtep_subnet6\": \"{subnet}\"");
        let problems = parse(&text(&key, "44.128.0.0/16")).unwrap_err();
        assert!(
            problems.concat().contains(expected),
            "{subnet}: {problems:?}"
        );
    }
    for oui in ["70:B3:D5:00:00:01", "70:B3:D5", "x", "01:00:5e:00:00:00"] {
        let problems = parse(&DCOS.replace("70:B3:D5:00:00:00", oui)).unwrap_err();
        assert!(
            problems[0].contains("vtep_mac_oui: expected a MAC"),
            "{problems:?}"
        );
    }
    let problems = parse("{}").unwrap_err();
    assert_eq!(problems.len(), 3, "{problems:?}");
}

#[test]
fn overlays_may_share_one_device_only_together() {
    let overlays = |vnis: [u32; 3]| {
        let overlay = |(index, vni)| {
            format!(
                r#"{{"name": "o{index}", "subnet": "10.{index}.0.0/16", "prefix": 24, "vni": {vni}}}"#
            )
        };
        with_overlays(
            &vnis
                .iter()
                .enumerate()
                .map(overlay)
                .collect::<Vec<_>>()
                .join(","),
        )
    };
    assert!(parse(&overlays([1024; 3])).is_ok());
    assert!(parse(&overlays([1, 1024, 2])).is_ok());
    assert_eq!(parse(&overlays([1024, 1024, 2])).unwrap_err().len(), 1);
    assert_eq!(parse(&overlays([7; 3])).unwrap_err().len(), 2);
    assert_eq!(parse(&overlays([0, 1, 1 << 24])).unwrap_err().len(), 2);
}

#[test]
fn shortest_and_longest_names_are_accepted() {
    let overlay = |name: &str| {
        with_overlays(&format!(
            r#"{{"name": "{name}", "subnet": "10.0.0.0/16", "prefix": 24}}"#
        ))
    };
    for name in ["a", "0123456789abc", "A.b_c-d"] {
        assert!(parse(&overlay(name)).is_ok(), "{name}");
    }
    for name in [
        "",
        "0123456789abcd",
        ".a",
        "-a",
        "a b",
        "ä",
        "Bridge",
        "none",
        "default",
        "a\\nb",
    ] {
        let problems = parse(&overlay(name)).unwrap_err();
        assert!(
            !problems.concat().contains(char::is_control),
            "{problems:?}"
        );
    }
}

#[test]
fn damaged_input_never_panics() {
    for_damaged_input(DCOS.as_bytes(), |input| {
        let text = String::from_utf8_lossy(input);
        match OverlayConfig::parse(Path::new("o.json"), &text) {
            Ok(config) => assert!(!config.overlays.is_empty()),
            Err(error) => {
                assert!(error.problems.len() <= MAX_PROBLEMS);
                assert!(!error.to_string().contains(char::is_control), "{error}");
            }
        }
    });
}

#[test]
fn reading_is_linear_in_the_number_of_overlays() {
    for (name, overlay) in [
        (
            "distinct",
            r#"{"name": "nNUMBER", "subnet6": "fd00:NUMBER::/64", "prefix6": 80}"#,
        ),
        (
            "equal",
            r#"{"name": "a", "subnet": "10.0.0.0/16", "prefix": 24, "vni": 1}"#,
        ),
    ] {
        assert_linear(name, 500, |count| {
            let overlays: Vec<String> = (0..count)
                .map(|number| overlay.replace("NUMBER", &format!("{number:x}")))
                .collect();
            let _ = parse(&with_overlays(&overlays.join(",")));
        });
    }
}
