//! Reachability between containers, the host and other hosts.

use super::*;
use std::collections::HashSet;

#[test]
fn containers_reach_each_other_and_the_gateway() {
    isolated_async(|| async {
        let host = TestHost::new();
        let blue = network("blue", 1);
        let one = host.launch("one", &blue).await;
        let two = host.launch("two", &blue).await;
        assert_eq!(one.intent.addresses[0].to_string(), "10.1.0.2/16");
        assert_eq!(one.intent.addresses[1].to_string(), "fd00:1::2/64");
        serve(&one, 80);
        serve_tcp("[::]:7000".parse().unwrap());
        let (own4, own6) = (two.v4().to_string(), two.v6().to_string());
        for (server, port, client) in [
            (one.v4(), 80, own4.clone()),
            (one.v6(), 80, own6.clone()),
            ("10.1.0.1".parse().unwrap(), 7000, own4),
            ("fd00:1::1".parse().unwrap(), 7000, own6),
        ] {
            let peer = two
                .inside(move || query_tcp(SocketAddr::new(server, port)))
                .unwrap();
            assert_eq!(peer.trim_start_matches("::ffff:"), client);
        }
        assert!(query_tcp(SocketAddr::new(one.v4(), 80)).is_ok());
        assert!(query_tcp(SocketAddr::new(one.v6(), 80)).is_ok());
        let output = two.inside(|| run("ip", "-o addr"));
        assert!(
            output.contains("10.1.0.3/16") && output.contains("fd00:1::3/64"),
            "{output}"
        );
        let usable = output.lines().filter(|line| !line.contains("fe80"));
        assert!(
            !usable.collect::<String>().contains("tentative"),
            "{output}"
        );
        let link = two.inside(|| {
            let mut socket = NetlinkSocket::route().unwrap();
            links::by_name(&mut socket, "eth0").unwrap().unwrap()
        });
        assert_eq!((link.mtu, link.mac), (1400, two.intent.mac.0.to_vec()));
        let neighbours = two.inside(|| run("ip", "neigh show nud permanent"));
        for gateway in ["10.1.0.1 ", "fd00:1::1 "] {
            assert!(neighbours.contains(gateway), "{neighbours}");
        }
        let counters = host.provider.statistics(&one.intent).await.unwrap();
        assert!(
            counters.rx_packets > 3 && counters.tx_bytes > 200,
            "{counters:?}"
        );
        host.detach(&one).await;
        assert!(host.provider.statistics(&one.intent).await.is_err());
        host.detach(&two).await;
        host.detach(&two).await;
        host.assert_clean();
    });
}

#[test]
fn masquerade_uses_the_address_of_the_host() {
    isolated_async(|| async {
        let outside = other_host();
        inside(&outside, || serve_tcp("[::]:80".parse().unwrap()));
        let host = TestHost::new();
        let mut plain = network("plain", 2);
        bridge_of(&mut plain).masquerade = false;
        let one = host.launch("one", &network("blue", 1)).await;
        let two = host.launch("two", &plain).await;
        for (server, client) in [
            ("192.0.2.2", "::ffff:192.0.2.1"),
            ("2001:db8::2", "2001:db8::1"),
        ] {
            let address = SocketAddr::new(server.parse().unwrap(), 80);
            assert_eq!(one.inside(move || query_tcp(address)).unwrap(), client);
        }
        inside(&outside, || {
            ip("route add 10.2.0.0/16 via 192.0.2.1");
            ip("route add fd00:2::/64 via 2001:db8::1");
        });
        for (server, client) in [
            ("192.0.2.2", format!("::ffff:{}", two.v4())),
            ("2001:db8::2", two.v6().to_string()),
        ] {
            let address = SocketAddr::new(server.parse().unwrap(), 80);
            assert_eq!(two.inside(move || query_tcp(address)).unwrap(), client);
        }
        // Networks of one host reach each other.
        serve(&two, 81);
        let address = SocketAddr::new(two.v4(), 81);
        assert_eq!(
            one.inside(move || query_tcp(address)).unwrap(),
            "::ffff:10.2.0.1"
        );
        host.detach(&one).await;
        host.detach(&two).await;
        ip("link del uplink");
        host.assert_clean();
    });
}

#[test]
fn container_with_two_networks_reaches_both_gateways() {
    isolated_async(|| async {
        let host = TestHost::new();
        let one = host.launch("one", &network("blue", 1)).await;
        let mut second = request("one", &network("red", 2));
        second.interface = "eth1".to_owned();
        let intent = host.reserve(&second).await.unwrap();
        host.provider
            .attach(&intent, one.namespace.as_fd())
            .await
            .unwrap();
        serve_tcp("0.0.0.0:7000".parse().unwrap());
        for gateway in ["10.1.0.1:7000", "10.2.0.1:7000"] {
            let gateway: SocketAddr = gateway.parse().unwrap();
            assert!(one.inside(move || query_tcp(gateway)).is_ok());
        }
        host.provider.detach(&intent).await.unwrap();
        host.detach(&one).await;
        host.assert_clean();
    });
}

#[test]
fn ipv6_is_enabled_in_a_container_that_disables_it() {
    isolated_async(|| async {
        let host = TestHost::new();
        let one = host.launch("one", &network("blue", 1)).await;
        let intent = host
            .reserve(&request("two", &network("blue", 1)))
            .await
            .unwrap();
        let two = namespace();
        inside(&two, || {
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        });
        host.provider.attach(&intent, two.as_fd()).await.unwrap();
        serve(&one, 80);
        let address = SocketAddr::new(one.v6(), 80);
        assert!(inside(&two, move || query_tcp(address)).is_ok());
        host.provider.detach(&intent).await.unwrap();
        host.detach(&one).await;
        host.assert_clean();
    });
}

#[test]
fn instances_do_not_touch_each_others_objects() {
    isolated_async(|| async {
        let (first, second) = (TestHost::new(), TestHost::new());
        let mut mapped = request("one", &network("blue", 1));
        mapped.ports = vec![port(Protocol::Tcp, 8080, 80)];
        let one = first.attach(&mapped).await.unwrap();
        let two = second.launch("two", &network("red", 2)).await;
        let mut conflicting = request("three", &network("red", 2));
        conflicting.ports = vec![port(Protocol::Tcp, 8080, 80)];
        let error = second.attach(&conflicting).await.err().unwrap();
        assert!(
            error.contains("8080/tcp") && error.contains("container one (eth0)"),
            "{error}"
        );
        second.provider.sweep(&[], &HashSet::new()).await.unwrap();
        let second = second.restart();
        second.provider.sweep(&[], &HashSet::new()).await.unwrap();
        assert_eq!(
            link_names(),
            [
                one.intent.provider.host_interface.clone(),
                "cmb-blue".to_owned()
            ]
        );
        assert!(nft_ruleset().contains("8080"));
        assert!(!nft_ruleset().contains("10.2.0.0/16"));
        drop(two);
        first.detach(&one).await;
        first.assert_clean();
    });
}
