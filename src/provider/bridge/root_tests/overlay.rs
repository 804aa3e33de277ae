//! Containers on overlays: bridge networks of which the node daemon chooses subnets, and from which
//! packets to the cluster keep their source addresses.

use super::*;
use crate::config::OverlayNetwork;
use crate::node_state::{LocalOverlay, NodeState};
use crate::provider::overlay::OverlayNetworks;
use contrail_mesos_api::cluster::Revision;
use std::collections::HashSet;

/// The subnets of two overlays and of the tunnel endpoints.
const CLUSTER: [&str; 5] = [
    "9.0.0.0/8",
    "11.0.0.0/8",
    "44.128.0.0/20",
    "fd09::/16",
    "fd11::/16",
];
/// A subnet behind the other host, which is part of the cluster in some tests.
const REMOTE: [&str; 2] = ["198.51.100.0/24", "2001:db8:1::/64"];

fn local(name: &str, subnet: &str, subnet6: &str) -> LocalOverlay {
    LocalOverlay {
        name: name.to_owned(),
        vni: 4097,
        subnet: Some(subnet.parse().unwrap()),
        subnet6: Some(subnet6.parse().unwrap()),
        mtu: 1450,
        groups: None,
        problem: None,
        blocks: vec![],
        withdrawn: vec![],
    }
}

fn vxlan_1() -> LocalOverlay {
    local("vxlan-1", "9.0.1.0/25", "fd09:0:0:1::/65")
}

fn publish(host: &TestHost, overlays: &[LocalOverlay], cluster: &[&str]) {
    let subnets = cluster.iter().map(|subnet| subnet.parse().unwrap());
    let (name, revision) = ("agent-1".to_owned(), Revision::default());
    NodeState::new(name, revision, overlays.to_vec(), subnets.collect())
        .write(host.state.path())
        .unwrap();
}

fn publish_with_remote(host: &TestHost) {
    publish(host, &[vxlan_1()], &[&CLUSTER[..], &REMOTE[..]].concat());
}

/// The network as a launch finds it.
fn overlay(host: &TestHost, name: &str) -> Network {
    let network = OverlayNetwork {
        overlay: name.to_owned(),
        masquerade: true,
        hairpin: false,
        routes: None,
    };
    let overlays = OverlayNetworks::new(host.state.path());
    Network {
        name: name.to_owned(),
        dns: None,
        provider: NetworkProvider::Bridge(overlays.bridge_network(&network).unwrap()),
    }
}

/// Another host with a server, and with routes to the containers of this one.
fn other_host_of_cluster() -> OwnedFd {
    let outside = other_host();
    inside(&outside, || {
        ip("addr add 198.51.100.2/32 dev lo");
        ip("addr add 2001:db8:1::2/128 dev lo nodad");
        ip("route add 9.0.1.0/25 via 192.0.2.1");
        ip("route add fd09:0:0:1::/65 via 2001:db8::1");
        serve_tcp("[::]:80".parse().unwrap());
    });
    ip("route add 198.51.100.0/24 via 192.0.2.2");
    ip("route add 2001:db8:1::/64 via 2001:db8::2");
    outside
}

/// The client addresses that the other host sees of a container, at addresses outside of the
/// cluster and in `REMOTE`.
fn seen(container: &Container) -> [String; 4] {
    [
        "192.0.2.2:80",
        "[2001:db8::2]:80",
        "198.51.100.2:80",
        "[2001:db8:1::2]:80",
    ]
    .map(|server| {
        let server: SocketAddr = server.parse().unwrap();
        let client = container.inside(move || query_tcp(server)).unwrap();
        client.trim_start_matches("::ffff:").to_owned()
    })
}

/// The client addresses if `REMOTE` is part of the cluster.
fn own_in_cluster(container: &Container) -> [String; 4] {
    [
        "192.0.2.1".to_owned(),
        "2001:db8::1".to_owned(),
        container.v4().to_string(),
        container.v6().to_string(),
    ]
}

fn masqueraded() -> [String; 4] {
    ["192.0.2.1", "2001:db8::1", "192.0.2.1", "2001:db8::1"].map(str::to_owned)
}

#[test]
fn overlay_isolates_groups_as_the_managers_say() {
    isolated_async(|| async {
        let host = TestHost::new();
        let mut isolating = vxlan_1();
        let admission = Admission {
            hosts: true,
            mapped_ports: false,
        };
        isolating.groups = Some(admission);
        publish(&host, &[isolating], &CLUSTER);
        let in_group = |name: &str| {
            let mut request = request(name, &overlay(&host, "vxlan-1"));
            request.membership.groups = vec!["a".to_owned()];
            request
        };
        let web = host.attach(&in_group("web")).await.unwrap();
        assert_eq!(web.intent.addresses[0].to_string(), "9.0.1.2/32");
        let policy = web.intent.provider.policy.clone().unwrap();
        assert_eq!(
            (policy.membership.groups, policy.admission),
            (vec!["a".to_owned()], admission)
        );
        let server = SocketAddr::new(web.v4(), 9);
        web.inside(move || serve_udp(server));
        query_udp(server).unwrap();
        // The managers no longer isolate groups; what runs stays isolated.
        publish(&host, &[vxlan_1()], &CLUSTER);
        let error = host.attach(&in_group("next")).await.err().unwrap();
        assert!(
            error.contains("the managers' overlay configuration"),
            "{error}"
        );
        let plain = request("plain", &overlay(&host, "vxlan-1"));
        let error = host.attach(&plain).await.err().unwrap();
        assert!(error.contains("still has containers"), "{error}");
        assert_eq!(
            host.provider.inspect(&web.intent, None, None).await,
            Vec::<String>::new()
        );
        host.detach(&web).await;
        let plain = host.attach(&plain).await.unwrap();
        host.detach(&plain).await;
        host.assert_clean();
    });
}

#[test]
fn container_on_an_overlay_has_an_address_of_the_published_subnet() {
    isolated_async(|| async {
        let outside = other_host_of_cluster();
        let host = TestHost::new();
        publish(&host, &[vxlan_1()], &CLUSTER);
        let network = overlay(&host, "vxlan-1");
        let mut mapped = request("web", &network);
        mapped.ports = vec![port(Protocol::Tcp, 8080, 80)];
        mapped.addresses = ["9.0.1.77", "fd09:0:0:1::77"]
            .map(|address| AddressRequest::Static(address.parse().unwrap()))
            .to_vec();
        let web = host.attach(&mapped).await.unwrap();
        serve(&web, 80);
        serve_tcp("[::]:7000".parse().unwrap());
        let other = host.launch("other", &network).await;
        let addresses: Vec<_> = other
            .intent
            .addresses
            .iter()
            .map(IpNet::to_string)
            .collect();
        assert_eq!(addresses, ["9.0.1.2/25", "fd09:0:0:1::2/65"]);
        assert_eq!(web.v4().to_string(), "9.0.1.77");
        assert_eq!(link_names_of_bridges(), ["m-vxlan-1"]);
        for server in [
            "9.0.1.1:7000",
            "[fd09:0:0:1::1]:7000",
            "9.0.1.77:80",
            "[fd09:0:0:1::77]:80",
            "192.0.2.1:8080",
            "[2001:db8::1]:8080",
        ] {
            let server: SocketAddr = server.parse().unwrap();
            other.inside(move || query_tcp(server)).unwrap();
            if server.port() == 8080 {
                inside(&outside, move || query_tcp(server)).unwrap();
            }
        }
        let mtu = other.inside(|| {
            let mut socket = NetlinkSocket::route().unwrap();
            links::by_name(&mut socket, "eth0").unwrap().unwrap().mtu
        });
        assert_eq!(mtu, 1450);
        for container in [&web, &other] {
            let namespace = Some(container.namespace.as_fd());
            let findings = host
                .provider
                .inspect(&container.intent, None, namespace)
                .await;
            assert_eq!(findings, Vec::<String>::new());
            host.detach(container).await;
        }
        ip("link del uplink");
        host.assert_clean();
    });
}

fn link_names_of_bridges() -> Vec<String> {
    let names = run("ip", "-o link show type bridge");
    let name = |line: &str| line.split(": ").nth(1).unwrap().to_owned();
    names.lines().map(name).collect()
}

#[test]
fn packets_to_the_cluster_keep_their_source_as_the_node_state_changes() {
    isolated_async(|| async {
        let _outside = other_host_of_cluster();
        let host = TestHost::new();
        publish(&host, &[vxlan_1()], &CLUSTER);
        let one = host.launch("one", &overlay(&host, "vxlan-1")).await;
        assert_eq!(seen(&one), masqueraded());
        publish_with_remote(&host);
        // The next launch, on whichever network, or else the next poll, reads the file.
        let other = host.launch("other", &network("blue", 1)).await;
        assert_eq!(seen(&one), own_in_cluster(&one));
        host.detach(&other).await;
        let two = host.launch("two", &overlay(&host, "vxlan-1")).await;
        assert_eq!(seen(&two), own_in_cluster(&two));
        publish(&host, &[vxlan_1()], &CLUSTER);
        let mut is_right = false;
        for _ in 0..400 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            is_right = seen(&one) == masqueraded();
            if is_right {
                break;
            }
        }
        assert!(is_right, "{}", nft_ruleset());
        assert_eq!(seen(&two), masqueraded());
        assert_eq!(host.provider.repair().await.unwrap(), Vec::<String>::new());
        for container in [&one, &two] {
            host.detach(container).await;
        }
        ip("link del uplink");
        host.assert_clean();
    });
}

#[test]
fn damaged_or_missing_node_state_changes_nothing_for_containers() {
    isolated_async(|| async {
        let _outside = other_host_of_cluster();
        let mut host = TestHost::new();
        publish_with_remote(&host);
        let one = host.launch("one", &overlay(&host, "vxlan-1")).await;
        let path = NodeState::path(host.state.path());
        for change in [
            (|path| std::fs::write(path, "{\"layout\": 1").unwrap()) as fn(&Path),
            |path| std::fs::remove_file(path).unwrap(),
        ] {
            change(&path);
            assert_eq!(host.provider.repair().await.unwrap(), Vec::<String>::new());
            assert_eq!(seen(&one), own_in_cluster(&one));
            // Of a new process only the intent knows what the node state had, also without the rules.
            run("nft", "flush ruleset");
            host = host.restart();
            host.provider.adopt(&one.intent).await.unwrap();
            let known = std::slice::from_ref(&one.intent);
            host.provider.sweep(known, &HashSet::new()).await.unwrap();
            assert_eq!(seen(&one), own_in_cluster(&one));
        }
        host.detach(&one).await;
        ip("link del uplink");
        host.assert_clean();
    });
}

#[test]
fn last_node_state_holds_while_the_file_is_damaged() {
    isolated_async(|| async {
        let _outside = other_host_of_cluster();
        let host = TestHost::new();
        publish(&host, &[vxlan_1()], &CLUSTER);
        let one = host.launch("one", &overlay(&host, "vxlan-1")).await;
        publish_with_remote(&host);
        host.provider.repair().await.unwrap();
        assert_eq!(seen(&one), own_in_cluster(&one));
        std::fs::write(NodeState::path(host.state.path()), "{").unwrap();
        host.provider.repair().await.unwrap();
        assert_eq!(seen(&one), own_in_cluster(&one));
        host.detach(&one).await;
        ip("link del uplink");
        host.assert_clean();
    });
}

#[test]
fn restart_removes_elements_that_a_new_node_state_excludes() {
    isolated_async(|| async {
        let host = TestHost::new();
        publish(&host, &[vxlan_1()], &["9.0.0.0/8", "11.0.0.0/8"]);
        let one = host.launch("one", &overlay(&host, "vxlan-1")).await;
        let gap = "10.0.0.0-10.255.255.255";
        let masquerades_gap =
            || nft_ruleset().contains(gap) || nft_ruleset().contains("10.0.0.0/8");
        assert!(masquerades_gap(), "{}", nft_ruleset());
        publish(
            &host,
            &[vxlan_1()],
            &["9.0.0.0/8", "10.0.0.0/8", "11.0.0.0/8"],
        );
        let host = host.restart();
        host.provider.adopt(&one.intent).await.unwrap();
        assert!(!masquerades_gap(), "{}", nft_ruleset());
        host.detach(&one).await;
        host.assert_clean();
    });
}

#[test]
fn containers_keep_their_subnet_when_the_host_gets_another() {
    isolated_async(|| async {
        let host = TestHost::new();
        publish(&host, &[vxlan_1()], &CLUSTER);
        let old = host.launch("old", &overlay(&host, "vxlan-1")).await;
        let moved = local("vxlan-1", "9.0.7.0/25", "fd09:0:0:7::/65");
        publish(&host, &[moved], &CLUSTER);
        let new = host.launch("new", &overlay(&host, "vxlan-1")).await;
        assert_eq!(new.intent.addresses[0].to_string(), "9.0.7.2/25");
        serve(&old, 80);
        serve(&new, 80);
        for (client, server) in [(&old, &new), (&new, &old)] {
            for (server, own) in [(server.v4(), client.v4()), (server.v6(), client.v6())] {
                let server = SocketAddr::new(server, 80);
                let seen = client.inside(move || query_tcp(server)).unwrap();
                assert_eq!(seen.trim_start_matches("::ffff:"), own.to_string());
            }
        }
        let host = host.restart();
        for container in [&old, &new] {
            host.provider.adopt(&container.intent).await.unwrap();
        }
        let known = [old.intent.clone(), new.intent.clone()];
        host.provider.sweep(&known, &HashSet::new()).await.unwrap();
        let server = SocketAddr::new(old.v4(), 80);
        new.inside(move || query_tcp(server)).unwrap();
        host.detach(&old).await;
        let left = run("ip", "-o addr show dev m-vxlan-1") + &nft_ruleset();
        assert!(!left.contains("9.0.1."), "{left}");
        assert!(left.contains("9.0.7.1/25"), "{left}");
        host.detach(&new).await;
        host.assert_clean();
    });
}

#[test]
fn two_overlays_are_two_bridges_that_reach_each_other() {
    isolated_async(|| async {
        let host = TestHost::new();
        let second = local("vxlan-2", "11.0.1.0/25", "fd11:0:0:1::/65");
        publish(&host, &[vxlan_1(), second], &CLUSTER);
        let one = host.launch("one", &overlay(&host, "vxlan-1")).await;
        let two = host.launch("two", &overlay(&host, "vxlan-2")).await;
        // A network of this host only: the other hosts have no route to it.
        let plain = host.launch("plain", &network("blue", 1)).await;
        for container in [&one, &two, &plain] {
            serve(container, 80);
        }
        let seen = |client: &Container, server: std::net::IpAddr| {
            let server = SocketAddr::new(server, 80);
            let seen = client.inside(move || query_tcp(server)).unwrap();
            seen.trim_start_matches("::ffff:").to_owned()
        };
        assert_eq!(seen(&one, two.v4()), one.v4().to_string());
        assert_eq!(seen(&two, one.v6()), two.v6().to_string());
        assert_eq!(seen(&plain, one.v4()), "9.0.1.1");
        assert_eq!(seen(&plain, one.v6()), "fd09:0:0:1::1");
        assert_eq!(link_names_of_bridges().len(), 3);
        for container in [&one, &two, &plain] {
            host.detach(container).await;
        }
        host.assert_clean();
    });
}

/// The overlay `vxlan-1` with these blocks.
fn lending(blocks: &[&str]) -> LocalOverlay {
    LocalOverlay {
        subnet: None,
        subnet6: None,
        blocks: blocks.iter().map(|block| block.parse().unwrap()).collect(),
        ..vxlan_1()
    }
}

/// The addresses of the bridge, but for those of the link.
fn bridge_addresses() -> Vec<String> {
    let shown = run("ip", "-o addr show dev m-vxlan-1");
    let words = shown
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3));
    let mut all: Vec<String> = words
        .filter(|address| !address.starts_with("fe80"))
        .map(str::to_owned)
        .collect();
    all.sort();
    all
}

async fn check_blocks(isolates: bool) {
    let host = TestHost::new();
    let blocks = ["9.0.0.0/30", "9.0.5.8/29", "fd09::/126", "fd09::5:8/125"];
    let mut overlay_state = lending(&blocks);
    overlay_state.groups = isolates.then(Admission::default);
    publish(&host, &[overlay_state], &CLUSTER);
    let launched = async |name: &str| {
        let mut request = request(name, &overlay(&host, "vxlan-1"));
        if isolates {
            request.membership.groups = vec!["a".to_owned()];
        }
        host.attach(&request).await.unwrap()
    };
    let one = launched("one").await;
    assert_eq!(bridge_addresses(), ["9.0.0.1/30", "fd09::1/126"]);
    let two = launched("two").await;
    let mut mapped = request("three", &overlay(&host, "vxlan-1"));
    mapped.ports = vec![port(Protocol::Tcp, 8080, 80)];
    let three = host.attach(&mapped).await.unwrap();
    let addresses = |container: &Container| {
        let addresses = container.intent.addresses.iter();
        addresses.map(ToString::to_string).collect::<Vec<_>>()
    };
    let prefixes = if isolates {
        ["/32", "/128", "/32", "/128"]
    } else {
        ["/30", "/126", "/29", "/125"]
    };
    assert_eq!(
        addresses(&one),
        [
            format!("9.0.0.2{}", prefixes[0]),
            format!("fd09::2{}", prefixes[1])
        ]
    );
    // Families are apart: there is one more address of IPv6 in the first block.
    assert_eq!(
        addresses(&two),
        [
            format!("9.0.5.10{}", prefixes[2]),
            format!("fd09::3{}", prefixes[1])
        ]
    );
    assert_eq!(
        bridge_addresses(),
        ["9.0.0.1/30", "9.0.5.9/29", "fd09::1/126", "fd09::5:9/125"]
    );
    let redirects = "/proc/sys/net/ipv4/conf/m-vxlan-1/send_redirects";
    assert_eq!(std::fs::read_to_string(redirects).unwrap().trim(), "0");
    for container in [&one, &two, &three] {
        serve(container, 80);
        let redirects = container.inside(|| {
            std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/accept_redirects").unwrap()
        });
        assert_eq!(redirects.trim(), "0");
    }
    if isolates {
        // The node daemon decides what reaches them, and does not run here.
        let server = SocketAddr::new(two.v4(), 80);
        one.inside(move || query_tcp(server)).unwrap_err();
    } else {
        for (from, to) in [(&one, &two), (&two, &one), (&three, &one), (&two, &three)] {
            for (client, server) in [(from.v4(), to.v4()), (from.v6(), to.v6())] {
                let server = SocketAddr::new(server, 80);
                let seen = from.inside(move || query_tcp(server)).unwrap();
                assert_eq!(seen.trim_start_matches("::ffff:"), client.to_string());
            }
        }
        // A mapped port, for a container of another block.
        let server: SocketAddr = "9.0.0.1:8080".parse().unwrap();
        one.inside(move || query_tcp(server)).unwrap();
    }
    // What no container has any more, the bridge does not have either.
    host.detach(&two).await;
    host.detach(&three).await;
    assert_eq!(bridge_addresses(), ["9.0.0.1/30", "fd09::1/126"]);
    host.detach(&one).await;
    host.assert_clean();
}

#[test]
fn containers_of_several_blocks_reach_each_other() {
    isolated_async(|| check_blocks(false));
}

#[test]
fn containers_of_several_blocks_are_isolated_by_groups() {
    isolated_async(|| check_blocks(true));
}
