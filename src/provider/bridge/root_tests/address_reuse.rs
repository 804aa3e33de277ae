//! An address that goes from one container to another.

use std::net::IpAddr;

use super::*;

/// An echo server on UDP, whose clients send one packet: nothing repeats one that is lost.
fn serve_addresses(container: &Container) {
    for net in container.intent.addresses.clone() {
        container.inside(move || serve_udp(SocketAddr::new(net.addr(), 9)));
    }
}

/// Sends packets between the host and a neighbour and the container, in that order.
fn check_first_packets(container: &Container, neighbour: &Container, round: &str) {
    serve_addresses(container);
    for net in &container.intent.addresses {
        let server = SocketAddr::new(net.addr(), 9);
        query_udp(server).unwrap_or_else(|error| panic!("{round}: from the host: {error}"));
        neighbour
            .inside(move || query_udp(server))
            .unwrap_or_else(|error| panic!("{round}: from a neighbour: {error}"));
    }
    for (server, from) in [(neighbour.v4(), "IPv4"), (neighbour.v6(), "IPv6")] {
        let has_family = |net: &IpNet| net.addr().is_ipv4() == server.is_ipv4();
        if container.intent.addresses.iter().any(has_family) {
            let server = SocketAddr::new(server, 9);
            container
                .inside(move || query_udp(server))
                .unwrap_or_else(|error| panic!("{round}: to a neighbour by {from}: {error}"));
        }
    }
}

fn requests(name: &str, addresses: &[AddressRequest]) -> NetworkRequest {
    NetworkRequest {
        addresses: addresses.to_vec(),
        ..request(name, &network("blue", 1))
    }
}

#[test]
fn first_packet_to_a_reused_address_is_answered() {
    isolated_async(|| async {
        let v4 = |last: u8| AddressRequest::Static(IpAddr::from([10, 1, 200, last]));
        let v6 = |last: &str| AddressRequest::Static(last.parse().unwrap());
        let mut host = TestHost::new();
        let neighbour = host.launch("neighbour", &network("blue", 1)).await;
        serve_addresses(&neighbour);
        for (case, addresses) in [
            ("both", vec![v4(9), v6("fd00:1::9")]),
            ("IPv4 only", vec![v4(9)]),
            ("IPv6 only", vec![v6("fd00:1::9")]),
            // The other family is a new address each time.
            ("IPv6", vec![AddressRequest::V4, v6("fd00:1::9")]),
            ("IPv4", vec![v4(9), AddressRequest::V6]),
            (
                "several",
                vec![
                    AddressRequest::V4,
                    v4(9),
                    v4(10),
                    v6("fd00:1::9"),
                    v6("fd00:1::a"),
                ],
            ),
        ] {
            for round in 0..10 {
                let name = format!("{round}-{}", case.replace(' ', "-"));
                let container = host.attach(&requests(&name, &addresses)).await.unwrap();
                check_first_packets(&container, &neighbour, &format!("{case}, {round}"));
                host.detach(&container).await;
                if round % 5 == 4 {
                    host = host.restart();
                    host.provider.adopt(&neighbour.intent).await.unwrap();
                }
            }
        }
        host.detach(&neighbour).await;
        host.assert_clean();
    });
}

#[test]
fn first_packet_in_a_small_pool_is_answered() {
    isolated_async(|| async {
        let host = TestHost::new();
        let mut small = network("blue", 1);
        bridge_of(&mut small).v4.as_mut().unwrap().last = "10.1.0.4".parse().unwrap();
        bridge_of(&mut small).v6.as_mut().unwrap().last = "fd00:1::5".parse().unwrap();
        let neighbour = host.launch("neighbour", &small).await;
        serve_addresses(&neighbour);
        // The pools have different sizes, so an address comes with another one of the other family.
        for round in 0..10 {
            let container = host.launch(&format!("c{round}"), &small).await;
            check_first_packets(&container, &neighbour, &format!("round {round}"));
            host.detach(&container).await;
        }
        host.detach(&neighbour).await;
        host.assert_clean();
    });
}

#[test]
fn neighbours_on_an_existing_bridge_are_told_of_a_moved_address() {
    isolated_async(|| async {
        let outside = namespace();
        let path = format!("/proc/{}/fd/{}", std::process::id(), outside.as_raw_fd());
        ip("link add cmb-blue type bridge");
        ip("link set cmb-blue up");
        ip("addr add 10.1.0.1/16 dev cmb-blue");
        ip("addr add fd00:1::1/64 dev cmb-blue nodad");
        ip("link add uplink type veth peer name wan");
        ip(&format!("link set wan netns {path}"));
        ip("link set uplink master cmb-blue up");
        inside(&outside, || {
            ip("addr add 10.1.200.1/16 dev wan");
            ip("addr add fd00:1::200/64 dev wan nodad");
            ip("link set wan up");
            // The bridge forwards only once the kernel has noticed the carrier, up to a second later.
            run("ping", "-c 1 -i 0.2 -w 10 10.1.0.1");
            // What another machine of the segment knows, from when the addresses were elsewhere.
            ip("neigh add 10.1.0.2 dev wan lladdr 02:00:00:00:00:99 nud reachable");
            ip("neigh add fd00:1::2 dev wan lladdr 02:00:00:00:00:99 nud reachable");
        });
        let host = TestHost::new();
        let container = host.launch("one", &network("blue", 1)).await;
        assert_eq!(container.v4().to_string(), "10.1.0.2");
        serve_addresses(&container);
        for address in [container.v4(), container.v6()] {
            let server = SocketAddr::new(address, 9);
            inside(&outside, move || query_udp(server)).unwrap();
        }
        host.detach(&container).await;
        ip("link del uplink");
        ip("link del cmb-blue");
        host.assert_clean();
    });
}
