use proptest::prelude::*;

use super::*;

fn read(pairs: &[(&str, &str)]) -> Result<PortSpec, Vec<String>> {
    let pairs = pairs.iter();
    let labels = pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    parse_labels(&labels, None, &Defaults::of("mesos"))
}

fn name(text: &str) -> FqName {
    text.parse().unwrap()
}

#[test]
fn networks_label_accepts_both_forms() {
    let network = |pairs: &[(&str, &str)]| read(pairs).unwrap().network.to_string();
    assert_eq!(
        network(&[]),
        "default-domain:mesos-default:mesos-default-pod-task-network"
    );
    assert_eq!(
        network(&[("networks", "blue")]),
        "default-domain:mesos-default:blue"
    );
    assert_eq!(network(&[("networks", " a : b : c ")]), "a:b:c");
    assert_eq!(
        network(&[("networks", "blue"), ("project-name", "p")]),
        "default-domain:p:blue"
    );
    assert_eq!(
        network(&[
            ("networks", "blue"),
            ("project-name", "p"),
            ("domain-name", "d")
        ]),
        "d:p:blue"
    );
    assert_eq!(
        network(&[
            ("networks", "a:b:c"),
            ("project-name", "p"),
            ("domain-name", "d")
        ]),
        "a:b:c"
    );
    assert_eq!(
        network(&[("networks", ""), ("somebody", "else's")]),
        "default-domain:mesos-default:mesos-default-pod-task-network"
    );
    let fallback = |text, pairs: &[(&str, &str)]| {
        let labels = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        parse_labels(&labels, Some(text), &Defaults::of("mesos"))
            .map(|spec| spec.network.to_string())
    };
    assert_eq!(
        fallback("green", &[("project-name", "p")]).unwrap(),
        "default-domain:mesos-default:green"
    );
    assert_eq!(fallback("a:b:c", &[]).unwrap(), "a:b:c");
    assert_eq!(
        fallback("green", &[("networks", "blue")]).unwrap(),
        "default-domain:mesos-default:blue"
    );
    assert!(fallback("a:b", &[]).unwrap_err()[0].starts_with("virtual_network: "));
}

#[test]
fn security_groups_and_subnets_are_lists() {
    let spec = read(&[
        ("security-groups", "web, d:p:db,web"),
        ("network-subnets", "5.5.5.0/24, fd00::/64"),
        ("project-name", "shop"),
    ])
    .unwrap();
    assert_eq!(
        spec.security_groups,
        [name("default-domain:shop:web"), name("d:p:db")]
    );
    assert_eq!(
        spec.subnets,
        [
            "5.5.5.0/24".parse::<IpNet>().unwrap(),
            "fd00::/64".parse().unwrap()
        ]
    );
    assert_eq!(spec.project, name("default-domain:shop"));
}

#[test]
fn floating_ips_label_accepts_optional_address() {
    let spec = read(&[("floating-ips", "default-domain:default-project:__public__:__fip_pool_public__(10.66.77.123),default-domain:default-project:__public__:__fip_pool_public2__(10.33.44.11), d:p:n:pool ,d:p:n:pool ( 1.2.3.4 )")]).unwrap();
    let found: Vec<_> = spec
        .floating_ips
        .iter()
        .map(|floating| (floating.pool.to_string(), floating.address))
        .collect();
    let public = "default-domain:default-project:__public__:__fip_pool_public";
    assert_eq!(
        found,
        [
            (format!("{public}__"), "10.66.77.123".parse().ok()),
            (format!("{public}2__"), "10.33.44.11".parse().ok()),
            ("d:p:n:pool".to_owned(), None),
            ("d:p:n:pool".to_owned(), "1.2.3.4".parse().ok()),
        ]
    );
}

#[test]
fn invalid_labels_are_all_reported() {
    let long = "x".repeat(300);
    let problems = read(&[
        ("domain-name", "a:b"),
        ("project-name", "\u{7}"),
        ("networks", "a:b"),
        (
            "network-subnets",
            "5.5.5.0/24,5.5.5.128/25,5.5.5.5/24,nonsense",
        ),
        ("security-groups", "a,,b:c"),
        (
            "floating-ips",
            "d:p:n,d:p:n:pool(1.2.3.4,d:p:n:pool(x),d:p:n:pool(1.2.3.4),d:p:n:pool(1.2.3.4)",
        ),
    ])
    .unwrap_err();
    for (label, count) in [
        ("domain-name", 1),
        ("project-name", 1),
        ("networks", 1),
        ("network-subnets", 3),
        ("security-groups", 2),
        ("floating-ips", 4),
    ] {
        let start = format!("label {label}: ");
        assert_eq!(
            problems
                .iter()
                .filter(|problem| problem.starts_with(&start))
                .count(),
            count,
            "{problems:#?}"
        );
    }
    assert!(
        problems
            .iter()
            .any(|problem| problem.contains("write 5.5.5.0/24"))
    );
    assert!(!problems.concat().contains('\u{7}'));
    let problems = read(&[("networks", &long)]).unwrap_err();
    assert!(
        problems[0].len() < 300 && problems[0].contains("(300 bytes)"),
        "{problems:?}"
    );
    let many = "a,".repeat(65);
    assert!(read(&[("security-groups", &many)]).unwrap_err()[0].contains("more than 64"));
    assert!(read(&[("networks", "a,b")]).unwrap_err()[0].contains("names several networks"));
}

#[test]
fn networks_label_is_split_by_network() {
    let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    };
    let all = labels(&[
        ("networks", "a, d:p:b,"),
        ("floating-ips", "f"),
        ("security-groups", "g"),
        ("network-subnets", "s"),
    ]);
    let split = split_by_network(&all);
    assert_eq!(
        split[0],
        labels(&[
            ("networks", "a"),
            ("floating-ips", "f"),
            ("security-groups", "g"),
            ("network-subnets", "s")
        ])
    );
    assert_eq!(
        split[1],
        labels(&[("networks", "d:p:b"), ("security-groups", "g")])
    );
    assert_eq!(split.len(), 2);
    assert_eq!(self::split_by_network(&BTreeMap::new()).len(), 1);
}

#[test]
fn labels_too_long_are_refused_before_they_are_split() {
    let byte_count = |maps: &[BTreeMap<String, String>]| -> usize {
        maps.iter()
            .flatten()
            .map(|(key, value)| key.len() + value.len())
            .sum()
    };
    for (count, length) in [(4_000, 250), (65, 5), (64, 1_000)] {
        let names = vec!["n".repeat(length); count].join(",");
        let labels = BTreeMap::from([
            (NETWORKS.to_owned(), names.clone()),
            ("other".to_owned(), "x".repeat(1 << 20)),
        ]);
        let split = split_by_network(&labels);
        assert_eq!(split.len(), 1);
        assert!(byte_count(&split) < 2 * names.len());
        let problems = parse_labels(&split[0], None, &Defaults::of("mesos")).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].len() < 200, "{problems:?}");
    }
    // The most that is split: each name is there once, and no label that nothing reads.
    let labels = BTreeMap::from([
        (NETWORKS.to_owned(), vec!["n"; 64].join(",")),
        (SECURITY_GROUPS.to_owned(), "g".repeat(MAX_LABEL_BYTES)),
        (FLOATING_IPS.to_owned(), "f".repeat(MAX_LABEL_BYTES)),
        ("other".to_owned(), "x".repeat(1 << 20)),
    ]);
    let split = split_by_network(&labels);
    assert_eq!(split.len(), 64);
    assert!(byte_count(&split) < 66 * (MAX_LABEL_BYTES + 64));
}

#[test]
fn list_is_parsed_to_its_limit_only() {
    for (entries, parsed, refused) in [(1, 1, 0), (64, 64, 0), (65, 0, 1), (1 << 20, 0, 1)] {
        let list = vec!["a"; entries].join(",");
        let (mut calls, mut problems) = (0, vec![]);
        parse_list(SUBNETS, Some(&list), &mut problems, |_| {
            calls += 1;
            Ok(())
        });
        assert_eq!((calls, problems.len()), (parsed, refused), "{problems:?}");
    }
}

proptest! {
    #[test]
    fn arbitrary_labels_yield_valid_names_or_problems(value in "\\PC{0,80}|[a:,() ./0-9]{0,40}", key in 0..6_usize) {
        let key = [NETWORKS, SUBNETS, PROJECT, DOMAIN, SECURITY_GROUPS, FLOATING_IPS][key];
        match read(&[(key, &value)]) {
            Ok(spec) => {
                let names = [vec![spec.network, spec.project], spec.security_groups].concat();
                for name in names {
                    prop_assert!(name.parts().iter().all(|part| !part.is_empty() && !part.contains(':')));
                }
            }
            Err(problems) => prop_assert!(problems.iter().all(|problem| !problem.contains('\n'))),
        }
    }
}
