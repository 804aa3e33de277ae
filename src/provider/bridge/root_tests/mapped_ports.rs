//! Mapped ports.

use super::*;

#[test]
fn mapped_ports_are_reachable_from_everywhere() {
    check_reachable_from_everywhere("0");
}

#[test]
fn mapped_ports_are_reachable_from_everywhere_with_br_netfilter() {
    check_reachable_from_everywhere("1");
}

/// With `br_netfilter`, bridged frames pass through the host's tables, as beside Docker.
fn check_reachable_from_everywhere(bridge_netfilter: &'static str) {
    isolated_async(move || async move {
        for family in ["iptables", "ip6tables"] {
            let name = format!("net/bridge/bridge-nf-call-{family}");
            crate::net::sysctl::set_if_present(&name, bridge_netfilter).unwrap();
        }
        let outside = other_host();
        let host = TestHost::new();
        let mut web = request("web", &network("blue", 1));
        web.ports = vec![port(Protocol::Tcp, 8080, 80), port(Protocol::Udp, 5353, 53)];
        let web = host.attach(&web).await.unwrap();
        let neighbour = host.launch("neighbour", &network("blue", 1)).await;
        let stranger = host.launch("stranger", &network("red", 2)).await;
        serve(&web, 80);
        web.inside(|| serve_udp("0.0.0.0:53".parse().unwrap()));
        let v6 = web.v6();
        web.inside(move || serve_udp(SocketAddr::new(v6, 53)));
        let mut failures = Vec::new();
        let mut check = |who: &str, result: Result<String, String>| match result {
            Ok(client) => println!("{who}: seen as {client}"),
            Err(error) => failures.push(format!("{who}: {error}")),
        };
        for server in [
            "192.0.2.1",
            "2001:db8::1",
            "10.1.0.1",
            "fd00:1::1",
            "127.0.0.1",
        ] {
            let address: std::net::IpAddr = server.parse().unwrap();
            let (tcp, udp) = (
                SocketAddr::new(address, 8080),
                SocketAddr::new(address, 5353),
            );
            check(&format!("the host by {server}"), query_tcp(tcp));
            check(&format!("the host by {server}, UDP"), query_udp(udp));
            if address.is_loopback() {
                continue;
            }
            for (who, container) in [
                ("itself", &web),
                ("a neighbour", &neighbour),
                ("a stranger", &stranger),
            ] {
                check(
                    &format!("{who} by {server}"),
                    container.inside(move || query_tcp(tcp)),
                );
                check(
                    &format!("{who} by {server}, UDP"),
                    container.inside(move || query_udp(udp)),
                );
            }
            if !server.starts_with("10.") && !server.starts_with("fd") {
                check(
                    &format!("another host by {server}"),
                    inside(&outside, move || query_tcp(tcp)),
                );
                check(
                    &format!("another host by {server}, UDP"),
                    inside(&outside, move || query_udp(udp)),
                );
            }
        }
        assert!(failures.is_empty(), "{failures:#?}");
        let start = std::time::Instant::now();
        assert!(query_tcp("[::1]:8080".parse().unwrap()).is_err());
        assert!(
            start.elapsed() < IO_TIMEOUT / 2,
            "::1 does not refuse immediately"
        );
        let tcp: SocketAddr = "192.0.2.1:8080".parse().unwrap();
        assert_eq!(
            inside(&outside, move || query_tcp(tcp)).unwrap(),
            "::ffff:192.0.2.2"
        );
        for container in [&web, &neighbour, &stranger] {
            host.detach(container).await;
        }
        ip("link del uplink");
        host.assert_clean();
    });
}

#[test]
fn containers_do_not_reach_the_loopback_of_the_host() {
    isolated_async(|| async {
        let host = TestHost::new();
        let mut web = request("web", &network("blue", 1));
        web.ports = vec![port(Protocol::Tcp, 8080, 80)];
        let web = host.attach(&web).await.unwrap();
        serve_udp("127.0.0.1:9".parse().unwrap());
        let reached = web.inside(|| {
            ip("addr del 127.0.0.1/8 dev lo");
            ip("route add 127.0.0.1 via 10.1.0.1 dev eth0 src 10.1.0.2");
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
            query_udp("127.0.0.1:9".parse().unwrap())
        });
        assert!(
            reached.is_err(),
            "a container reached the host's loopback: {reached:?}"
        );
        host.detach(&web).await;
        host.assert_clean();
    });
}

#[test]
fn conflicting_port_mapping_is_refused_and_leaves_nothing() {
    isolated_async(|| async {
        let host = TestHost::new();
        let mapped = |name: &str, host_port| {
            let mut request = request(name, &network("blue", 1));
            request.ports = vec![port(Protocol::Tcp, host_port, 80)];
            request
        };
        let _listener = TcpListener::bind("0.0.0.0:22").unwrap();
        let error = host.attach(&mapped("ssh", 22)).await.err().unwrap();
        assert!(
            error.contains("22/tcp") && error.contains("process of the host"),
            "{error}"
        );
        host.assert_clean();
        let one = host.attach(&mapped("one", 80)).await.unwrap();
        let error = host.attach(&mapped("two", 80)).await.err().unwrap();
        assert!(
            error.contains("80/tcp") && error.contains("container one"),
            "{error}"
        );
        let mut udp = mapped("two", 80);
        udp.ports[0].protocol = Protocol::Udp;
        let two = host.attach(&udp).await.unwrap();
        host.detach(&one).await;
        let three = host.attach(&mapped("three", 80)).await.unwrap();
        // A late, repeated detach of the first container.
        host.detach(&one).await;
        assert!(nft_ruleset().contains("three"));
        host.detach(&two).await;
        host.detach(&three).await;
        host.assert_clean();
        for (ports, problem) in [
            (vec![port(Protocol::Tcp, 0, 80)], "port 0"),
            (
                vec![port(Protocol::Tcp, 80, 1), port(Protocol::Tcp, 80, 2)],
                "mapped twice",
            ),
        ] {
            let mut request = request("bad", &network("blue", 1));
            request.ports = ports;
            let errors = host.validate(&request).unwrap_err();
            assert!(errors.to_string().contains(problem), "{errors:?}");
        }
    });
}
