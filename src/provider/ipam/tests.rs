use proptest::prelude::*;

use super::*;
use crate::config::Subnet;
use contrail_mesos_api::container::ContainerId;

fn network() -> BridgeNetwork {
    BridgeNetwork {
        bridge: "cm0".to_owned(),
        v4: Some(Subnet {
            subnet: "10.1.0.0/29".parse().unwrap(),
            gateway: "10.1.0.1".parse().unwrap(),
            first: "10.1.0.1".parse().unwrap(),
            last: "10.1.0.6".parse().unwrap(),
            reserved: vec![("10.1.0.6".parse().unwrap(), "10.1.0.6".parse().unwrap())],
            more: vec![],
        }),
        v6: Some(Subnet {
            subnet: "fd00::/64".parse().unwrap(),
            gateway: "fd00::1".parse().unwrap(),
            first: "fd00::1".parse().unwrap(),
            last: "fd00::ffff:ffff:ffff:ffff".parse().unwrap(),
            reserved: vec![],
            more: vec![],
        }),
        mtu: 1500,
        masquerade: true,
        hairpin: false,
        routes: vec![],
        overlay: None,
        groups: None,
        has_blocks: false,
    }
}

fn holder(name: &str) -> Holder {
    Holder {
        container: ContainerId::top_level(name),
        interface: "eth0".to_owned(),
    }
}

fn reserve(ipam: &Ipam, name: &str, request: AddressRequest) -> Result<Vec<String>, String> {
    ipam.reserve("blue", &network(), &holder(name), &[request])
        .map(|nets| nets.iter().map(ToString::to_string).collect())
        .map_err(|error| error.to_string())
}

fn release(ipam: &Ipam, name: &str, net: &str) {
    ipam.release("blue", &[net.parse().unwrap()], &holder(name))
        .unwrap();
}

#[test]
fn reserve_rotates_addresses_until_exhausted() {
    let directory = tempfile::tempdir().unwrap();
    let ipam = Ipam::new(directory.path());
    assert_eq!(
        reserve(&ipam, "a", AddressRequest::Any).unwrap(),
        ["10.1.0.2/29", "fd00::2/64"]
    );
    assert_eq!(
        reserve(&ipam, "b", AddressRequest::V4).unwrap(),
        ["10.1.0.3/29"]
    );
    release(&ipam, "b", "10.1.0.3/29");
    assert_eq!(
        reserve(&ipam, "c", AddressRequest::V4).unwrap(),
        ["10.1.0.4/29"]
    );
    assert_eq!(
        reserve(&ipam, "d", AddressRequest::V4).unwrap(),
        ["10.1.0.5/29"]
    );
    assert_eq!(
        reserve(&ipam, "e", AddressRequest::V4).unwrap(),
        ["10.1.0.3/29"]
    );
    let error = reserve(&ipam, "f", AddressRequest::V4).unwrap_err();
    assert!(
        error.contains("no IPv4 address left in 10.1.0.0/29"),
        "{error}"
    );
    // Another process of the same instance releases one.
    release(&Ipam::new(directory.path()), "d", "10.1.0.5/29");
    assert_eq!(
        reserve(&ipam, "f", AddressRequest::V4).unwrap(),
        ["10.1.0.5/29"]
    );
}

#[test]
fn reserve_validates_static_addresses() {
    let directory = tempfile::tempdir().unwrap();
    let ipam = Ipam::new(directory.path());
    let static_request = |address: &str| AddressRequest::Static(address.parse().unwrap());
    assert_eq!(
        reserve(&ipam, "a", static_request("10.1.0.6")).unwrap(),
        ["10.1.0.6/29"]
    );
    let error = reserve(&ipam, "b", static_request("10.1.0.6")).unwrap_err();
    assert!(error.contains("is taken by container a (eth0)"), "{error}");
    for (address, problem) in [
        ("10.2.0.1", "outside the subnet"),
        ("10.1.0.0", "that of the subnet"),
        ("10.1.0.1", "gateway"),
        ("10.1.0.7", "broadcast"),
        ("fd01::1", "outside"),
        ("fd00::", "that of the subnet"),
    ] {
        let error = reserve(&ipam, "b", static_request(address)).unwrap_err();
        assert!(error.contains(problem), "{address}: {error}");
    }
    let only_v4 = BridgeNetwork {
        v6: None,
        ..network()
    };
    let errors = invalid_requests(
        "blue",
        &only_v4,
        &[
            static_request("fd00::5"),
            AddressRequest::V6,
            static_request("10.1.0.2"),
            static_request("10.1.0.2"),
        ],
    );
    assert_eq!(errors.len(), 3, "{errors:?}");
    // A late release by another container frees nothing.
    release(&ipam, "b", "10.1.0.6/29");
    assert!(reserve(&ipam, "c", static_request("10.1.0.6")).is_err());
}

#[test]
fn failed_reserve_leaves_no_lease() {
    let directory = tempfile::tempdir().unwrap();
    let ipam = Ipam::new(directory.path());
    let requests = [
        AddressRequest::V6,
        AddressRequest::V4,
        AddressRequest::V4,
        AddressRequest::V4,
        AddressRequest::V4,
        AddressRequest::V4,
    ];
    assert!(
        ipam.reserve("blue", &network(), &holder("a"), &requests)
            .is_err()
    );
    assert!(!directory.path().join("networks/blue").exists());
    std::fs::write(directory.path().join("networks/red"), "a file in the way").unwrap();
    let error = ipam
        .reserve("red", &network(), &holder("a"), &[AddressRequest::Any])
        .unwrap_err();
    assert!(error.to_string().contains("networks/red"), "{error}");
}

#[test]
fn sweep_frees_orphans_and_restores_known_leases() {
    let directory = tempfile::tempdir().unwrap();
    let before = Ipam::new(directory.path());
    reserve(&before, "kept", AddressRequest::V4).unwrap();
    reserve(&before, "orphan", AddressRequest::V4).unwrap();
    drop(before);
    std::fs::write(directory.path().join("networks/blue/10.1.0.5"), "garbage").unwrap();
    let ipam = Ipam::new(directory.path());
    assert_eq!(
        reserve(&ipam, "new", AddressRequest::V4).unwrap(),
        ["10.1.0.4/29"]
    );
    assert!(
        reserve(&ipam, "full", AddressRequest::V4).is_err(),
        "an unreadable lease was reused"
    );
    let known = [
        (
            "blue".to_owned(),
            "10.1.0.2".parse().unwrap(),
            holder("kept"),
        ),
        (
            "blue".to_owned(),
            "fd00::9".parse().unwrap(),
            holder("kept"),
        ),
    ];
    ipam.sweep(&known.into(), &HashSet::new(), ProviderErrors::new)
        .unwrap();
    let mut leases: Vec<_> = std::fs::read_dir(directory.path().join("networks/blue"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    leases.sort();
    assert_eq!(leases, ["10.1.0.2", "10.1.0.4", "fd00::9"]);
}

#[test]
fn sweep_waits_for_reservations_of_other_processes() {
    let directory = tempfile::tempdir().unwrap();
    let (other, ipam) = (Ipam::new(directory.path()), Ipam::new(directory.path()));
    reserve(&other, "unconfirmed", AddressRequest::V4).unwrap();
    std::thread::scope(|scope| {
        let sweep =
            scope.spawn(|| ipam.sweep(&HashSet::new(), &HashSet::new(), ProviderErrors::new));
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(directory.path().join("networks/blue/10.1.0.2").exists());
        other.confirm(&holder("unconfirmed"));
        sweep.join().unwrap().unwrap();
    });
}

proptest! {
    #[test]
    fn reserve_never_leases_an_address_twice(
        steps in proptest::collection::vec((0..2_usize, 0..12_usize, any::<bool>()), 1..60)
    ) {
        let directory = tempfile::tempdir().unwrap();
        let processes = [Ipam::new(directory.path()), Ipam::new(directory.path())];
        let mut reserved: HashMap<usize, Vec<IpNet>> = HashMap::new();
        for (process, container, dual) in steps {
            let ipam = &processes[process];
            let name = container.to_string();
            if let Some(nets) = reserved.remove(&container) {
                prop_assert!(ipam.release("blue", &nets, &holder(&name)).is_ok());
                continue;
            }
            let request = if dual { AddressRequest::Any } else { AddressRequest::V4 };
            if let Ok(nets) = ipam.reserve("blue", &network(), &holder(&name), &[request]) {
                for net in &nets {
                    prop_assert!(reserved.values().flatten().all(|other| other.addr() != net.addr()));
                }
                reserved.insert(container, nets);
            } else {
                let used = reserved.values().flatten().filter(|net| net.addr().is_ipv4()).count();
                prop_assert_eq!(used, 4, "refused although addresses are free");
            }
        }
    }
}

#[test]
fn rotation_goes_on_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let ipam = Ipam::new(directory.path());
    let resident = reserve(&ipam, "resident", AddressRequest::Any).unwrap();
    let mut last = resident.clone();
    // Between restarts, the last container ends, or all of them do.
    for round in 0..4 {
        let ipam = Ipam::new(directory.path());
        let preview = ipam
            .preview("blue", &network(), &[AddressRequest::Any])
            .unwrap();
        let name = format!("c{round}");
        let next = reserve(&ipam, &name, AddressRequest::Any).unwrap();
        let preview: Vec<_> = preview.iter().map(ToString::to_string).collect();
        assert_eq!(next, preview);
        assert!(
            next.iter().all(|net| !last.contains(net)),
            "{next:?} after {last:?}"
        );
        for net in &next {
            release(&ipam, &name, net);
        }
        last = next;
    }
    // A position that cannot be read is none.
    for damage in ["", "garbage", "192.0.2.9 2001:db8::9\n"] {
        std::fs::write(directory.path().join("positions/blue"), damage).unwrap();
        let ipam = Ipam::new(directory.path());
        let next = reserve(&ipam, "next", AddressRequest::Any).unwrap();
        for net in &next {
            release(&ipam, "next", net);
        }
    }
}

/// A network with blocks of both families.
fn blocks(v4: &[&str], v6: &[&str]) -> BridgeNetwork {
    let v4 = Subnet::checked_all(v4.iter().map(|net| net.parse().unwrap()));
    let v6 = Subnet::checked_all(v6.iter().map(|net| net.parse().unwrap()));
    BridgeNetwork {
        v4: v4.unwrap(),
        v6: v6.unwrap(),
        has_blocks: true,
        ..network()
    }
}

#[test]
fn nothing_is_leased_if_one_family_is_used_up() {
    let directory = tempfile::tempdir().unwrap();
    let ipam = Ipam::new(directory.path());
    let network = blocks(&["10.1.0.0/29"], &["fd00::/126"]);
    let reserve = |name: &str, request| {
        let nets = ipam.reserve("blue", &network, &holder(name), &[request]);
        nets.map(|nets| nets.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    for name in ["c0", "c1"] {
        reserve(name, AddressRequest::Any).unwrap();
    }
    for _ in 0..3 {
        let error = reserve("c2", AddressRequest::Any).unwrap_err();
        assert!(matches!(error, ProviderError::Exhausted { .. }), "{error}");
    }
    // The rotation would otherwise be further.
    assert_eq!(reserve("c3", AddressRequest::V4).unwrap(), ["10.1.0.4/29"]);
}

#[test]
fn blocks_are_one_pool_without_the_addresses_of_their_ends() {
    let directory = tempfile::tempdir().unwrap();
    let ipam = Ipam::new(directory.path());
    let reserve = |network: &BridgeNetwork, name: &str, request| {
        let nets = ipam.reserve("blue", network, &holder(name), &[request]);
        nets.map(|nets| nets.iter().map(ToString::to_string).collect::<Vec<_>>())
            .map_err(|error| error.to_string())
    };
    let two = blocks(&["10.1.0.0/29", "10.1.7.8/29"], &["fd00::/125"]);
    let mut all: Vec<String> = vec![];
    for number in 0..10 {
        all.extend(reserve(&two, &format!("c{number}"), AddressRequest::V4).unwrap());
    }
    let first = (2..7).map(|number| format!("10.1.0.{number}/29"));
    let second = (10..15).map(|number| format!("10.1.7.{number}/29"));
    assert_eq!(all, first.chain(second).collect::<Vec<_>>());
    let error = reserve(&two, "more", AddressRequest::V4).unwrap_err();
    assert!(error.contains("10.1.0.0/29, 10.1.7.8/29"), "{error}");
    let reserve6 = |number| reserve(&two, &format!("c{number}"), AddressRequest::V6).unwrap();
    let v6: Vec<_> = (0..6).map(reserve6).collect();
    assert_eq!(v6[5], ["fd00::7/125"]);
    // Another block continues the pool, and the rotation.
    let three = blocks(
        &["10.1.0.0/29", "10.1.3.0/29", "10.1.7.8/29"],
        &["fd00::/125"],
    );
    assert_eq!(
        reserve(&three, "more", AddressRequest::V4).unwrap(),
        ["10.1.3.2/29"]
    );
    // A withdrawn block is used no more, but its leases stay.
    let one = blocks(&["10.1.3.0/29"], &["fd00::/125"]);
    assert_eq!(
        reserve(&one, "last", AddressRequest::V4).unwrap(),
        ["10.1.3.3/29"]
    );
    release(&ipam, "c0", "10.1.0.2/29");
    let requested = |text: &str| AddressRequest::Static(text.parse().unwrap());
    let error = reserve(&three, "static", requested("10.1.4.2")).unwrap_err();
    assert!(error.contains("outside this host's blocks"), "{error}");
    for refused in ["10.1.7.8", "10.1.7.9", "10.1.7.15", "10.1.0.3"] {
        reserve(&three, "static", requested(refused)).unwrap_err();
    }
    assert_eq!(
        reserve(&three, "static", requested("10.1.0.2")).unwrap(),
        ["10.1.0.2/29"]
    );
}
