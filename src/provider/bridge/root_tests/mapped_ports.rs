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

#[test]
fn what_mapped_ports_share_stays_while_the_network_is_in_use() {
    isolated_async(|| async {
        let host = TestHost::new();
        let blue = network("blue", 1);
        let mapped = |name: &str| {
            let mut request = request(name, &blue);
            request.ports = vec![port(Protocol::Tcp, 8080, 80)];
            request
        };
        let one = host.launch("one", &blue).await;
        let shared = |ruleset: &str| ruleset.matches("cmb-blue").count();
        assert_eq!(shared(&nft_ruleset()), 0);
        let two = host.attach(&mapped("two")).await.unwrap();
        let with_two = nft_ruleset();
        assert_eq!(shared(&with_two), 1, "{with_two}");
        host.detach(&two).await;
        let without_two = nft_ruleset();
        assert!(!without_two.contains("8080"), "{without_two}");
        assert_eq!(shared(&without_two), 1, "{without_two}");
        let three = host.attach(&mapped("three")).await.unwrap();
        serve(&three, 80);
        assert!(query_tcp("127.0.0.1:8080".parse().unwrap()).is_ok());
        host.detach(&one).await;
        assert!(query_tcp("127.0.0.1:8080".parse().unwrap()).is_ok());
        host.detach(&three).await;
        host.assert_clean();
    });
}

/// A client that sends from one port all the time, until it is answered.
struct Client {
    socket: UdpSocket,
    server: SocketAddr,
}

impl Client {
    fn new(from: &str, server: &str) -> Self {
        let socket = UdpSocket::bind(from).unwrap();
        socket.set_read_timeout(Some(IO_TIMEOUT)).unwrap();
        let server = server.parse().unwrap();
        Self { socket, server }
    }

    fn send(&self) {
        self.socket.send_to(b"who am I?", self.server).unwrap();
    }

    /// Sends one packet, and waits for its answer.
    fn is_answered(&self) -> Result<(), String> {
        let mut buffer = [0; 64];
        self.send();
        match self.socket.recv_from(&mut buffer) {
            Ok((_, peer)) if peer == self.server => Ok(()),
            Ok((_, peer)) => Err(format!("{}: answered by {peer}", self.server)),
            Err(error) => Err(format!("{}: {error}", self.server)),
        }
    }
}

#[test]
fn client_that_keeps_its_port_meets_each_new_mapping() {
    isolated_async(|| async {
        let outside = other_host();
        let host = TestHost::new();
        // Flows are tracked from now on.
        let resident = host.launch("resident", &network("blue", 1)).await;
        let clients = [
            ("127.0.0.1:4000", "127.0.0.1:5300"),
            ("192.0.2.1:4001", "192.0.2.1:5300"),
            ("[2001:db8::1]:4000", "[2001:db8::1]:5300"),
        ]
        .map(|(from, server)| Client::new(from, server));
        let outside_clients = inside(&outside, || {
            [
                ("192.0.2.2:4000", "192.0.2.1:5300"),
                ("[2001:db8::2]:4000", "[2001:db8::1]:5300"),
            ]
            .map(|(from, server)| Client::new(from, server))
        });
        let all = || clients.iter().chain(&outside_clients);
        // A flow to the same port of another machine, which is none of the mapping's.
        inside(&outside, || serve_udp("192.0.2.2:5300".parse().unwrap()));
        let other = resident.inside(|| Client::new("0.0.0.0:4000", "192.0.2.2:5300"));
        other.is_answered().unwrap();
        let tracked = || {
            let mut flows = Vec::new();
            let mut socket = NetlinkSocket::netfilter().unwrap();
            crate::net::conntrack::forget(&mut socket, |flow| {
                flows.push(flow.destination.to_string());
                false
            })
            .unwrap();
            flows
        };
        let mut failures = Vec::new();
        for round in 0..3 {
            for client in all() {
                client.send();
            }
            let mut web = request(&format!("web{round}"), &network("blue", 1));
            web.ports = vec![port(Protocol::Udp, 5300, 53)];
            let web = host.attach(&web).await.unwrap();
            serve_addresses_on(&web, 53);
            assert!(tracked().contains(&"192.0.2.2:5300".to_owned()));
            for client in all() {
                failures.extend(client.is_answered().err().map(|error| (round, error)));
            }
            host.detach(&web).await;
            assert!(
                !tracked().iter().any(|to| to == "192.0.2.1:5300"),
                "{:?}",
                tracked()
            );
        }
        other.is_answered().unwrap();
        assert!(failures.is_empty(), "{failures:#?}");
        host.detach(&resident).await;
        ip("link del uplink");
        host.assert_clean();
    });
}

#[test]
fn client_that_began_while_the_rules_were_gone_is_answered_after_a_restart() {
    isolated_async(|| async {
        let host = TestHost::new();
        let mut web = request("web", &network("blue", 1));
        web.ports = vec![port(Protocol::Udp, 5300, 53)];
        let web = host.attach(&web).await.unwrap();
        serve_addresses_on(&web, 53);
        // Flows are tracked without our table as well.
        run("nft", "add table inet other");
        run(
            "nft",
            "add chain inet other c { type filter hook output priority 0 ; }",
        );
        run("nft", "add rule inet other c ct state new accept");
        let TestHost {
            state, provider, ..
        } = host;
        drop(provider);
        run("nft", "delete table inet contrail_mesos");
        let client = Client::new("127.0.0.1:4000", "127.0.0.1:5300");
        client.send();
        let host = TestHost::at(state);
        host.provider.adopt(&web.intent).await.unwrap();
        client.is_answered().unwrap();
        host.detach(&web).await;
        run("nft", "delete table inet other");
        host.assert_clean();
    });
}

fn serve_addresses_on(container: &Container, port: u16) {
    for net in container.intent.addresses.clone() {
        container.inside(move || serve_udp(SocketAddr::new(net.addr(), port)));
    }
}

#[test]
fn mapped_port_on_a_network_with_routes_is_reachable_from_everywhere() {
    isolated_async(|| async {
        let outside = other_host();
        let mut routed = network("blue", 1);
        bridge_of(&mut routed).routes =
            vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        inside(&outside, || {
            ip("addr add 10.200.0.2/32 dev wan");
            ip("route add 10.1.0.0/16 via 192.0.2.1");
        });
        ip("route add 10.200.0.2/32 dev uplink");
        let host = TestHost::new();
        let mut web = request("web", &routed);
        web.ports = vec![port(Protocol::Tcp, 8080, 80)];
        let web = host.attach(&web).await.unwrap();
        serve(&web, 80);
        for server in ["192.0.2.1:8080", "[2001:db8::1]:8080"] {
            let server: SocketAddr = server.parse().unwrap();
            let client = inside(&outside, move || query_tcp(server)).unwrap();
            println!("{server}: seen as {client}");
            query_tcp(server).unwrap();
        }
        query_tcp("127.0.0.1:8080".parse().unwrap()).unwrap();
        // Where a route leads to, the container sees who its client is.
        let client = inside(&outside, || {
            let socket = nix::sys::socket::socket(
                nix::sys::socket::AddressFamily::Inet,
                nix::sys::socket::SockType::Stream,
                nix::sys::socket::SockFlag::empty(),
                None,
            )
            .unwrap();
            let address = |text: &str| {
                nix::sys::socket::SockaddrStorage::from(text.parse::<SocketAddr>().unwrap())
            };
            nix::sys::socket::bind(socket.as_raw_fd(), &address("10.200.0.2:0")).unwrap();
            nix::sys::socket::connect(socket.as_raw_fd(), &address("192.0.2.1:8080")).unwrap();
            let mut stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(IO_TIMEOUT)).unwrap();
            let mut response = String::new();
            stream.read_to_string(&mut response).unwrap();
            response
        });
        assert_eq!(client, "::ffff:10.200.0.2");
        host.detach(&web).await;
        ip("link del uplink");
        host.assert_clean();
    });
}

#[test]
fn port_of_an_outgoing_connection_can_be_mapped() {
    isolated_async(|| async {
        let host = TestHost::new();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let resolver = UdpSocket::bind("127.0.0.1:0").unwrap();
        resolver.connect(peer.local_addr().unwrap()).unwrap();
        let mut web = request("web", &network("blue", 1));
        let tcp = client.local_addr().unwrap().port();
        let udp = resolver.local_addr().unwrap().port();
        web.ports = vec![port(Protocol::Tcp, tcp, 80), port(Protocol::Udp, udp, 53)];
        let container = host.attach(&web).await.unwrap();
        host.detach(&container).await;
        web.ports = vec![port(Protocol::Udp, peer.local_addr().unwrap().port(), 53)];
        let error = host.attach(&web).await.err().unwrap();
        assert!(error.contains("process of the host"), "{error}");
        host.assert_clean();
    });
}

#[test]
fn hundreds_of_ports_and_addresses_on_one_container_work() {
    isolated_async(|| async {
        let host = TestHost::new();
        let mut web = request("web", &network("blue", 1));
        web.ports = (0..300)
            .map(|number| port(Protocol::Tcp, 20_000 + number, 80))
            .collect();
        web.addresses = (0..300).map(|_| AddressRequest::Any).collect();
        let first = host.attach(&web).await.unwrap();
        serve(&first, 80);
        for host_port in [20_000, 20_128, 20_299] {
            query_tcp(SocketAddr::new("127.0.0.1".parse().unwrap(), host_port)).unwrap();
        }
        let last = first.intent.addresses[599].addr();
        query_tcp(SocketAddr::new(last, 80)).unwrap();
        // The rules are put back, also after a restart.
        run("nft", "flush ruleset");
        host.provider.repair().await.unwrap();
        query_tcp("127.0.0.1:20299".parse().unwrap()).unwrap();
        run("nft", "flush ruleset");
        let host = host.restart();
        host.provider.adopt(&first.intent).await.unwrap();
        query_tcp("127.0.0.1:20299".parse().unwrap()).unwrap();
        host.detach(&first).await;
        host.assert_clean();
    });
}
