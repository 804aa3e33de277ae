//! Changes of the host's side by another program, of a network's configuration, and settings that
//! new interfaces inherit.

use super::*;
use std::collections::HashSet;

/// Waits until `is_right`; the watch corrects within a second.
pub(super) async fn eventually(what: &str, mut is_right: impl FnMut() -> bool) {
    for _ in 0..400 {
        if is_right() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not restored: {what}");
}

pub(super) fn sysctl(setting: &str) {
    run("sysctl", &format!("-q -w {setting}"));
}

fn setting(name: &str) -> String {
    std::fs::read_to_string(format!("/proc/sys/{name}"))
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn changes_of_another_program_are_put_back_without_a_launch() {
    isolated_async(|| async {
        let outside = other_host();
        let host = TestHost::new();
        let mut mapped = request("one", &network("blue", 1));
        mapped.ports = vec![port(Protocol::Tcp, 8080, 80)];
        let one = host.attach(&mapped).await.unwrap();
        serve(&one, 80);
        let link = one.intent.provider.host_interface.clone();
        let findings = || {
            host.provider
                .inspect(&one.intent, None, Some(one.namespace.as_fd()))
        };
        assert_eq!(findings().await, Vec::<String>::new());
        for (program, arguments) in [
            ("ip", "addr flush dev cmb-blue".to_owned()),
            ("ip", "link set cmb-blue down".to_owned()),
            ("ip", "link set cmb-blue mtu 1280".to_owned()),
            (
                "ip",
                "link set cmb-blue address 02:00:00:00:00:99".to_owned(),
            ),
            ("ip", format!("link set {link} nomaster")),
            ("ip", format!("link set {link} down")),
            ("ip", "link del cmb-blue".to_owned()),
            ("sysctl", "-q -w net.ipv4.ip_forward=0".to_owned()),
            ("sysctl", "-q -w net.ipv6.conf.all.forwarding=0".to_owned()),
            (
                "sysctl",
                "-q -w net.ipv4.conf.cmb-blue.forwarding=0".to_owned(),
            ),
            ("nft", "flush ruleset".to_owned()),
            ("nft", "delete table inet contrail_mesos".to_owned()),
            (
                "nft",
                "flush chain inet contrail_mesos prerouting".to_owned(),
            ),
            ("nft", "flush map inet contrail_mesos ports4".to_owned()),
            (
                "nft",
                "flush set inet contrail_mesos masquerade4".to_owned(),
            ),
        ] {
            run(program, &arguments);
            for _ in 0..400 {
                if findings().await.is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert_eq!(
                findings().await,
                Vec::<String>::new(),
                "{program} {arguments}"
            );
            let address: SocketAddr = "192.0.2.1:8080".parse().unwrap();
            let answer = inside(&outside, move || query_tcp(address));
            assert!(answer.is_ok(), "{program} {arguments}: {answer:?}");
        }
        host.detach(&one).await;
        ip("link del uplink");
        host.assert_clean();
    });
}

#[test]
fn launch_restores_what_was_changed_right_before() {
    isolated_async(|| async {
        let host = TestHost::new();
        let blue = network("blue", 1);
        let one = host.launch("one", &blue).await;
        serve(&one, 80);
        let address = SocketAddr::new(one.v4(), 80);
        let link = one.intent.provider.host_interface.clone();
        for (number, command) in [
            "addr flush dev cmb-blue".to_owned(),
            "link set cmb-blue down".to_owned(),
            format!("link set {link} nomaster"),
            "link del cmb-blue".to_owned(),
        ]
        .iter()
        .enumerate()
        {
            ip(command);
            let next = host.launch(&format!("next{number}"), &blue).await;
            let findings = host.provider.inspect(&one.intent, None, None).await;
            assert_eq!(findings, Vec::<String>::new(), "{command}");
            let answer = next.inside(move || query_tcp(address));
            assert!(answer.is_ok(), "{command}: {answer:?}");
            assert!(query_tcp(address).is_ok(), "{command}");
            host.detach(&next).await;
        }
        host.detach(&one).await;
        host.assert_clean();
    });
}

#[test]
fn setting_without_a_notification_is_put_back_by_the_poll() {
    isolated_async(|| async {
        let host = TestHost::new();
        let mut mapped = request("one", &network("blue", 1));
        mapped.ports = vec![port(Protocol::Tcp, 8080, 80)];
        let one = host.attach(&mapped).await.unwrap();
        sysctl("net.ipv4.conf.cmb-blue.route_localnet=0");
        sysctl("net.ipv6.conf.cmb-blue.accept_ra=1");
        eventually("settings of the bridge", || {
            setting("net/ipv4/conf/cmb-blue/route_localnet") == "1"
                && setting("net/ipv6/conf/cmb-blue/accept_ra") == "0"
        })
        .await;
        host.detach(&one).await;
        host.assert_clean();
    });
}

#[test]
fn what_cannot_be_restored_fails_the_launch_with_a_reason() {
    isolated_async(|| async {
        let host = TestHost::new();
        let blue = network("blue", 1);
        let one = host.launch("one", &blue).await;
        // Another kind of link gets the bridge's name before the bridge can be made again.
        ip("link add other0 type veth peer name other1");
        std::fs::write(
            host.state.path().join("batch"),
            "link set cmb-blue down\nlink set cmb-blue name renamed0\nlink set other0 name cmb-blue\n",
        )
        .unwrap();
        ip(&format!("-batch {}/batch", host.state.path().display()));
        let error = host.attach(&request("two", &blue)).await.err().unwrap();
        assert!(error.contains("is no bridge"), "{error}");
        ip("link del cmb-blue");
        let two = host.launch("two", &blue).await;
        serve(&one, 80);
        let address = SocketAddr::new(one.v4(), 80);
        assert!(two.inside(move || query_tcp(address)).is_ok());
        host.detach(&two).await;
        host.detach(&one).await;
        host.assert_clean();
    });
}

#[test]
fn grown_subnet_serves_old_and_new_containers() {
    isolated_async(|| async {
        let outside = other_host();
        inside(&outside, || serve_tcp("0.0.0.0:80".parse().unwrap()));
        let host = TestHost::new();
        let mut blue = network("blue", 1);
        let with_prefixes = |network: &mut Network, v4: u8, v6: u8| {
            let bridge = bridge_of(network);
            let subnet = bridge.v4.as_mut().unwrap();
            subnet.subnet = ipnet::Ipv4Net::new(subnet.gateway, v4).unwrap().trunc();
            let subnet = bridge.v6.as_mut().unwrap();
            subnet.subnet = ipnet::Ipv6Net::new(subnet.gateway, v6).unwrap().trunc();
        };
        let address: SocketAddr = "192.0.2.2:80".parse().unwrap();
        let expect_masquerade = |container: &Container| {
            let seen = container.inside(move || query_tcp(address));
            assert_eq!(seen.as_deref(), Ok("192.0.2.1"));
        };
        with_prefixes(&mut blue, 24, 64);
        let mut mapped = request("old", &blue);
        mapped.ports = vec![port(Protocol::Tcp, 8080, 80)];
        let old = host.attach(&mapped).await.unwrap();
        serve(&old, 80);
        expect_masquerade(&old);
        with_prefixes(&mut blue, 16, 48);
        let mut mapped = request("new", &blue);
        mapped.ports = vec![port(Protocol::Tcp, 8081, 80)];
        let new = host.attach(&mapped).await.unwrap();
        serve(&new, 80);
        for container in [&old, &new] {
            expect_masquerade(container);
            for target in [old.v4(), new.v4(), old.v6(), new.v6()] {
                let target = SocketAddr::new(target, 80);
                assert!(
                    container.inside(move || query_tcp(target)).is_ok(),
                    "{target}"
                );
            }
            for port in [8080, 8081] {
                let target = SocketAddr::new("10.1.0.1".parse().unwrap(), port);
                assert!(
                    container.inside(move || query_tcp(target)).is_ok(),
                    "{target}"
                );
            }
        }
        assert_eq!(host.provider.repair().await.unwrap(), Vec::<String>::new());
        // After a restart, in any order.
        let host = host.restart();
        for container in [&old, &new] {
            host.provider.adopt(&container.intent).await.unwrap();
        }
        let known = [old.intent.clone(), new.intent.clone()];
        host.provider.sweep(&known, &HashSet::new()).await.unwrap();
        expect_masquerade(&old);
        expect_masquerade(&new);
        host.detach(&old).await;
        expect_masquerade(&new);
        let addresses = run("ip", "-o addr show dev cmb-blue");
        assert!(!addresses.contains("/24"), "{addresses}");
        assert!(addresses.contains("10.1.0.1/16"), "{addresses}");
        host.detach(&new).await;
        ip("link del uplink");
        host.assert_clean();
    });
}

#[test]
fn moved_subnet_is_gone_with_its_last_container() {
    isolated_async(|| async {
        let host = TestHost::new();
        let old_network = network("blue", 1);
        let mut new_network = network("blue", 7);
        bridge_of(&mut new_network).bridge = "cmb-blue".to_owned();
        let mut mapped = request("old", &old_network);
        mapped.ports = vec![port(Protocol::Tcp, 8080, 80)];
        let old = host.attach(&mapped).await.unwrap();
        let other = host.launch("other", &old_network).await;
        let new = host.launch("new", &new_network).await;
        serve(&old, 80);
        serve(&new, 80);
        for (client, server) in [(&old, new.v4()), (&new, old.v4())] {
            let server = SocketAddr::new(server, 80);
            let seen = client.inside(move || query_tcp(server)).unwrap();
            let own = client.v4().to_string();
            assert_eq!(seen.trim_start_matches("::ffff:"), own);
        }
        host.detach(&old).await;
        let state =
            || run("ip", "-o addr show dev cmb-blue") + &run("ip", "route") + &nft_ruleset();
        for needed in ["10.1.0.1/16", "fd00:1::1/64", "10.7.0.1/16"] {
            assert!(state().contains(needed), "{}", state());
        }
        host.detach(&other).await;
        for gone in ["10.1.0.", "fd00:1:", "10.1."] {
            assert!(!state().contains(gone), "{gone} in {}", state());
        }
        for needed in ["10.7.0.1/16", "fd00:7::1/64", "10.7.0.0/16"] {
            assert!(state().contains(needed), "{}", state());
        }
        // What an agent leaves that ends before it has removed it.
        let old = host.launch("old", &old_network).await;
        ip(&format!("link del {}", old.intent.provider.host_interface));
        let host = host.restart();
        host.provider.adopt(&new.intent).await.unwrap();
        let known = std::slice::from_ref(&new.intent);
        host.provider.sweep(known, &HashSet::new()).await.unwrap();
        assert!(!state().contains("10.1."), "{}", state());
        host.detach(&new).await;
        host.assert_clean();
    });
}

#[test]
fn inherited_settings_do_not_matter() {
    for defaults in [
        &["net.ipv6.conf.default.disable_ipv6=1"][..],
        &[
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.default.forwarding=0",
        ],
        &[
            "net.ipv6.conf.all.forwarding=1",
            "net.ipv6.conf.default.forwarding=0",
        ],
        &[
            "net.ipv4.conf.default.rp_filter=1",
            "net.ipv4.conf.all.rp_filter=1",
        ],
        &["net.ipv4.conf.default.arp_ignore=8"],
        &[
            "net.ipv6.conf.default.accept_ra=2",
            "net.ipv6.conf.default.accept_dad=2",
        ],
    ] {
        isolated_async(move || async move {
            let outside = other_host();
            inside(&outside, || serve_tcp("[::]:80".parse().unwrap()));
            for default in defaults {
                sysctl(default);
            }
            let host = TestHost::new();
            let mut mapped = request("one", &network("blue", 1));
            mapped.ports = vec![port(Protocol::Tcp, 8080, 80)];
            let intent = host.reserve(&mapped).await.unwrap();
            let container = namespace();
            let inherited = defaults.to_vec();
            inside(&container, move || {
                for default in inherited {
                    sysctl(default);
                }
            });
            host.provider
                .attach(&intent, container.as_fd())
                .await
                .unwrap();
            inside(&container, || serve_tcp("[::]:80".parse().unwrap()));
            for server in ["192.0.2.2:80", "[2001:db8::2]:80"] {
                let server: SocketAddr = server.parse().unwrap();
                let answer = inside(&container, move || query_tcp(server));
                assert!(answer.is_ok(), "{defaults:?}: {answer:?}");
            }
            for address in ["192.0.2.1:8080", "[2001:db8::1]:8080"] {
                let address: SocketAddr = address.parse().unwrap();
                let answer = inside(&outside, move || query_tcp(address));
                assert!(answer.is_ok(), "{defaults:?}: {answer:?}");
            }
            for net in &intent.addresses {
                let address = SocketAddr::new(net.addr(), 80);
                let answer = query_tcp(address);
                assert!(answer.is_ok(), "{defaults:?}: {answer:?}");
            }
            host.provider.detach(&intent).await.unwrap();
            ip("link del uplink");
            host.assert_clean();
        });
    }
}

#[test]
fn second_network_answers_with_reverse_path_filter() {
    for (on_host, in_container) in [("1", "0"), ("0", "1"), ("1", "1")] {
        isolated_async(move || async move {
            let outside = other_host();
            let strict = |value: &str| {
                for interface in ["all", "default"] {
                    sysctl(&format!("net.ipv4.conf.{interface}.rp_filter={value}"));
                }
            };
            strict(on_host);
            let host = TestHost::new();
            let blue = host.reserve(&request("one", &network("blue", 1))).await;
            let blue = blue.unwrap();
            let mut second = request("one", &network("red", 2));
            second.interface = "eth1".to_owned();
            second.ports = vec![port(Protocol::Tcp, 8080, 80)];
            let red = host.reserve(&second).await.unwrap();
            let container = namespace();
            let value = in_container.to_owned();
            inside(&container, move || strict(&value));
            let intents = [blue.clone(), red.clone()];
            host.provider
                .attach_all(&intents, container.as_fd())
                .await
                .unwrap();
            inside(&container, || serve_tcp("[::]:80".parse().unwrap()));
            for address in ["192.0.2.1:8080", "[2001:db8::1]:8080"] {
                let address: SocketAddr = address.parse().unwrap();
                let answer = inside(&outside, move || query_tcp(address));
                assert!(answer.is_ok(), "{on_host} {in_container}: {answer:?}");
            }
            // From another container, of either network or of none of them.
            for (name, octet) in [("blue", 1), ("red", 2), ("green", 3)] {
                let other = host
                    .launch(&format!("other-{name}"), &network(name, octet))
                    .await;
                for net in &red.addresses {
                    let target = SocketAddr::new(net.addr(), 80);
                    let answer = other.inside(move || query_tcp(target));
                    assert!(
                        answer.is_ok(),
                        "{on_host} {in_container} {name}: {answer:?}"
                    );
                }
                host.detach(&other).await;
            }
            host.provider.detach_all(&intents).await.unwrap();
            ip("link del uplink");
            host.assert_clean();
        });
    }
}

#[test]
fn subnet_that_the_host_has_already_is_refused() {
    isolated_async(|| async {
        ip("link add uplink9 type veth peer name wan9");
        ip("addr add 10.1.0.77/24 dev uplink9");
        ip("link set uplink9 up");
        ip("link set wan9 up");
        ip("route add 10.64.0.0/10 dev uplink9");
        let host = TestHost::new();
        let refusals = |networks: &[Network]| -> Vec<(ConflictSeverity, String)> {
            conflicts(host.state.path(), networks)
                .unwrap()
                .into_iter()
                .map(|conflict| (conflict.severity, conflict.message))
                .collect()
        };
        let blue = network("blue", 1);
        let error = host.attach(&request("one", &blue)).await.err().unwrap();
        assert!(error.contains("uplink9"), "{error}");
        let found = refusals(std::slice::from_ref(&blue));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, ConflictSeverity::Refusal);
        assert!(error.contains(&found[0].1), "{error}\n{found:?}");
        // A larger route is a warning.
        let green = network("green", 70);
        let found = refusals(std::slice::from_ref(&green));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, ConflictSeverity::Warning);
        let one = host.launch("one", &green).await;
        // The network is renamed while it has a container.
        let renamed = network("renamed", 70);
        let error = host.attach(&request("two", &renamed)).await.err().unwrap();
        assert!(error.contains("cmb-green"), "{error}");
        let found = refusals(std::slice::from_ref(&renamed));
        assert!(
            found.iter().any(|(severity, message)| {
                *severity == ConflictSeverity::Refusal && message.contains("cmb-green")
            }),
            "{found:?}"
        );
        // With the same bridge, it is the same network.
        let mut kept = renamed.clone();
        bridge_of(&mut kept).bridge = "cmb-green".to_owned();
        assert_eq!(refusals(std::slice::from_ref(&kept)).len(), 1);
        let two = host.launch("two", &kept).await;
        host.detach(&one).await;
        assert!(
            host.provider
                .inspect(&two.intent, None, None)
                .await
                .is_empty()
        );
        host.detach(&two).await;
        ip("link del uplink9");
        host.assert_clean();
    });
}

#[test]
fn bridge_of_another_instance_is_refused() {
    isolated_async(|| async {
        let (first, second) = (TestHost::new(), TestHost::new());
        let blue = network("blue", 1);
        let one = first.launch("one", &blue).await;
        let error = second.attach(&request("two", &blue)).await.err().unwrap();
        assert!(
            error.contains("cmb-blue") && error.contains("another contrail-mesos"),
            "{error}"
        );
        let found = conflicts(second.state.path(), std::slice::from_ref(&blue)).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].severity, ConflictSeverity::Refusal);
        let own = conflicts(first.state.path(), std::slice::from_ref(&blue)).unwrap();
        assert_eq!(own, []);
        let two = first.launch("two", &blue).await;
        first.detach(&one).await;
        first.detach(&two).await;
        first.assert_clean();
    });
}

#[test]
fn full_bridge_is_refused_with_the_limit() {
    isolated_async(|| async {
        let host = TestHost::new();
        let mut blue = network("blue", 1);
        bridge_of(&mut blue).v6 = None;
        let one = host.launch("one", &blue).await;
        let batch: Vec<String> = (0..511)
            .map(|number| {
                let (one, other) = (format!("p{number}"), format!("q{number}"));
                format!(
                    "link add {one} type veth peer name {other}\nlink set {one} master cmb-blue\nlink set {other} master cmb-blue\n"
                )
            })
            .collect();
        let file = host.state.path().join("batch");
        std::fs::write(&file, batch.concat()).unwrap();
        ip(&format!("-batch {}", file.display()));
        let error = host.attach(&request("two", &blue)).await.err().unwrap();
        assert!(
            error.contains("1,023 ports") && error.contains("cmb-blue"),
            "{error}"
        );
        ip("link del p7");
        let two = host.launch("two", &blue).await;
        host.detach(&two).await;
        host.detach(&one).await;
    });
}

#[test]
fn inspection_names_what_is_wrong() {
    isolated_async(|| async {
        let host = TestHost::new();
        let one = host.launch("one", &network("blue", 1)).await;
        let findings = host
            .provider
            .inspect(&one.intent, None, Some(one.namespace.as_fd()))
            .await;
        assert_eq!(findings, [""; 0]);
        let address = one.intent.addresses[0];
        one.inside(move || ip(&format!("addr del {address} dev eth0")));
        let findings = host
            .provider
            .inspect(&one.intent, None, Some(one.namespace.as_fd()))
            .await;
        assert!(
            findings
                .iter()
                .any(|finding| finding.contains("lacks the address 10.1.0.2/16")),
            "{findings:?}"
        );
        // As the command line sees it while no agent runs.
        let Container { intent, namespace } = one;
        let host = host.restart();
        for (command, expected) in [
            ("addr flush dev cmb-blue", "lacks the address 10.1.0.1/16"),
            ("link set cmb-blue down", "cmb-blue is down"),
        ] {
            ip(command);
            let findings = host.provider.inspect(&intent, None, None).await;
            assert!(
                findings.iter().any(|finding| finding.contains(expected)),
                "{command}: {findings:?}"
            );
        }
        run("nft", "flush ruleset");
        sysctl("net.ipv4.ip_forward=0");
        let findings = host.provider.inspect(&intent, None, None).await.join("\n");
        for expected in [
            "ip_forward is not 1",
            "rules of the nftables table",
            "masquerade4",
        ] {
            assert!(findings.contains(expected), "{expected}: {findings}");
        }
        drop(namespace);
        host.provider.detach(&intent).await.unwrap();
        host.assert_clean();
    });
}

#[test]
fn attach_of_a_known_bridge_reads_nothing_of_the_host() {
    isolated_async(|| async {
        let host = TestHost::new();
        let blue = network("blue", 1);
        let one = host.launch("one", &blue).await;
        let driver = &host.provider.driver;
        let two = host.launch("two", &blue).await;
        // Its own notifications make nothing due.
        assert!(!driver.host.receive(false));
        host.detach(&two).await;
        assert!(!driver.host.receive(false));
        host.detach(&one).await;
        host.assert_clean();
    });
}
