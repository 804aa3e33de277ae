//! Networks that isolate groups: only what is allowed reaches a container, with every setting of the
//! host.

use std::sync::{Arc, Mutex};

use super::host_side::{eventually, sysctl};
use super::*;
use crate::net::rules::ALLOWED_MARK;
use crate::node_state::NodeState;
use contrail_mesos_api::cluster::Revision;

const SUBNETS: [&str; 2] = ["10.1.0.0/16", "fd00:1::/64"];

/// A network that isolates groups.
fn isolating(name: &str, octet: u8) -> Network {
    let mut network = network(name, octet);
    bridge_of(&mut network).groups = Some(Admission::default());
    network
}

fn in_group(container: &str, network: &Network, group: &str) -> NetworkRequest {
    let mut request = request(container, network);
    request.membership.groups = vec![group.to_owned()];
    request
}

/// Allows all packets to the containers, as the node daemon does for those that groups allow.
fn allow() {
    run("nft", "add table inet allowed");
    let chain = "add chain inet allowed prerouting { type filter hook prerouting priority -90 ; }";
    run("nft", chain);
    for (family, subnet) in [("ip", SUBNETS[0]), ("ip6", SUBNETS[1])] {
        let mark = format!("meta mark set meta mark | {ALLOWED_MARK:#x}");
        let rule = format!("add rule inet allowed prerouting {family} daddr {subnet} {mark}");
        run("nft", &rule);
    }
}

fn forbid() {
    run("nft", "delete table inet allowed");
}

/// The packets that came in at a UDP server, which answers them.
#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<String>>>);

impl Received {
    /// A server on the port 9 of all addresses of this thread's namespace.
    fn serve(&self) {
        let socket = UdpSocket::bind("[::]:9").unwrap();
        let all = self.0.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                all.lock().unwrap().push(text);
                let _ = socket.send_to(b"received", peer);
            }
        });
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Sends a packet, and waits for no answer.
fn send(from: &str, server: SocketAddr) {
    let any = if server.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let socket = UdpSocket::bind(any).unwrap();
    // An earlier packet may have been refused.
    let _ = socket.send_to(from.as_bytes(), server);
}

/// A host with two containers of one group, one on another network, and another host.
struct Groups {
    host: TestHost,
    outside: OwnedFd,
    web: Container,
    neighbour: Container,
    stranger: Container,
    received: Received,
}

impl Groups {
    async fn new() -> Self {
        let outside = other_host();
        inside(&outside, || {
            ip("route add 10.1.0.0/16 via 192.0.2.1");
            ip("route add fd00:1::/64 via 2001:db8::1");
        });
        let host = TestHost::new();
        let blue = isolating("blue", 1);
        let mut web = in_group("web", &blue, "a");
        web.ports = vec![port(Protocol::Tcp, 8080, 80), port(Protocol::Udp, 5353, 9)];
        let web = host.attach(&web).await.unwrap();
        let neighbour = host
            .attach(&in_group("neighbour", &blue, "a"))
            .await
            .unwrap();
        let stranger = host.launch("stranger", &network("red", 2)).await;
        serve(&web, 80);
        let received = Received::default();
        let server = received.clone();
        web.inside(move || server.serve());
        Self {
            host,
            outside,
            web,
            neighbour,
            stranger,
            received,
        }
    }

    fn addresses(&self) -> [std::net::IpAddr; 2] {
        [self.web.v4(), self.web.v6()]
    }

    /// Fails unless only the host reaches the container: directly, and by its mapped port.
    fn assert_closed(&self, when: &str) {
        self.received.take();
        for address in self.addresses() {
            let mapped: [std::net::IpAddr; 2] = if address.is_ipv4() {
                ["192.0.2.1".parse().unwrap(), "10.1.0.1".parse().unwrap()]
            } else {
                ["2001:db8::1".parse().unwrap(), "fd00:1::1".parse().unwrap()]
            };
            let servers = [
                SocketAddr::new(address, 9),
                SocketAddr::new(mapped[0], 5353),
                SocketAddr::new(mapped[1], 5353),
            ];
            for server in servers {
                for (who, container) in [
                    ("itself", &self.web),
                    ("a neighbour", &self.neighbour),
                    ("a stranger", &self.stranger),
                ] {
                    // A container reaches itself without the network.
                    if who != "itself" || server.ip() != address {
                        container.inside(move || send(who, server));
                    }
                }
                inside(&self.outside, move || send("another host", server));
            }
            // Later than the others' packets.
            for server in servers {
                query_udp(server).unwrap_or_else(|error| panic!("{when}: the host: {error}"));
            }
        }
        let received = self.received.take();
        assert_eq!(received, ["who am I?"; 6], "{when}");
    }

    /// Fails unless everybody reaches the container, who are all allowed.
    fn assert_open(&self, when: &str) {
        let mut failures = Vec::new();
        let servers = self.addresses().into_iter().chain(
            [
                "192.0.2.1",
                "2001:db8::1",
                "10.1.0.1",
                "fd00:1::1",
                "127.0.0.1",
            ]
            .map(|address| address.parse().unwrap()),
        );
        for server in servers {
            let is_direct = self.addresses().contains(&server);
            let (tcp, udp) = if is_direct { (80, 9) } else { (8080, 5353) };
            let (tcp, udp) = (SocketAddr::new(server, tcp), SocketAddr::new(server, udp));
            let mut check = |who: &str, results: [Result<String, String>; 2]| {
                let errors = results.into_iter().filter_map(Result::err);
                failures.extend(errors.map(|error| format!("{who}: {error}")));
            };
            check("the host", [query_tcp(tcp), query_udp(udp)]);
            if server.is_loopback() {
                continue;
            }
            for (who, container) in [
                ("itself", &self.web),
                ("a neighbour", &self.neighbour),
                ("a stranger", &self.stranger),
            ] {
                check(
                    who,
                    container.inside(move || [query_tcp(tcp), query_udp(udp)]),
                );
            }
            let is_gateway = server.to_string().starts_with("10.") && !is_direct;
            if !is_gateway && server.to_string() != "fd00:1::1" {
                let outside = inside(&self.outside, move || [query_tcp(tcp), query_udp(udp)]);
                check("another host", outside);
            }
        }
        assert!(failures.is_empty(), "{when}: {failures:#?}");
        self.received.take();
    }

    /// Fails unless packets of the container leave the host, which nobody must allow.
    fn assert_sends(&self, outside: &Received, when: &str) {
        for server in ["192.0.2.2:9", "[2001:db8::2]:9"] {
            let server: SocketAddr = server.parse().unwrap();
            self.web.inside(move || send("web", server));
            // Later than that packet.
            query_udp(server).unwrap();
        }
        assert_eq!(outside.take(), ["web", "who am I?"].repeat(2), "{when}");
    }

    async fn end(self) {
        for container in [&self.web, &self.neighbour, &self.stranger] {
            self.host.detach(container).await;
        }
        ip("link del uplink");
        self.host.assert_clean();
    }
}

/// With `br_netfilter`, a bridge passes frames through the host's tables, as beside Docker; reverse path
/// filters ask for the route back to a container.
fn check_reachability(bridge_netfilter: &'static str, reverse_path_filter: &'static str) {
    isolated_async(move || async move {
        for family in ["iptables", "ip6tables"] {
            let name = format!("net/bridge/bridge-nf-call-{family}");
            crate::net::sysctl::set_if_present(&name, bridge_netfilter).unwrap();
        }
        for interface in ["all", "default"] {
            sysctl(&format!(
                "net.ipv4.conf.{interface}.rp_filter={reverse_path_filter}"
            ));
        }
        let groups = Groups::new().await;
        let outside = Received::default();
        let server = outside.clone();
        inside(&groups.outside, move || server.serve());
        groups.assert_closed("after the launch");
        groups.assert_sends(&outside, "after the launch");
        allow();
        groups.assert_open("with the mark");
        forbid();
        groups.assert_closed("without the mark again");
        allow();
        run("nft", "flush ruleset");
        // The mapped ports are put back, the permission is not.
        eventually("the nftables table", || nft_ruleset().contains("5353")).await;
        groups.assert_closed("after the ruleset was flushed");
        groups.assert_sends(&outside, "after the ruleset was flushed");
        groups.end().await;
    });
}

#[test]
fn isolated_container_is_reached_with_the_mark_only() {
    check_reachability("0", "0");
}

#[test]
fn isolated_container_is_reached_with_the_mark_only_and_strict_filters() {
    check_reachability("0", "1");
}

#[test]
fn isolated_container_is_reached_with_the_mark_only_and_br_netfilter() {
    check_reachability("1", "2");
}

#[test]
fn damage_to_isolation_is_repaired() {
    isolated_async(|| async {
        let groups = Groups::new().await;
        let link = groups.web.intent.provider.host_interface.clone();
        let mac = groups.web.intent.mac.to_string();
        let table = run("ip", "rule show pref 201");
        let table = table.trim().rsplit(' ').nth(2).unwrap().to_owned();
        let entry = format!("{mac} dev {link} master cmb-blue permanent");
        let findings = async || {
            let namespace = Some(groups.web.namespace.as_fd());
            let provider = &groups.host.provider;
            let mut findings = provider.inspect(&groups.web.intent, None, namespace).await;
            let entries = run("bridge", "fdb show");
            if !entries.contains(&format!("{mac} dev {link} master permanent"))
                && !entries.contains(&entry)
            {
                findings.push(entries);
            }
            findings
        };
        assert_eq!(findings().await, Vec::<String>::new());
        for damage in [
            vec!["ip rule del pref 200 iif lo".to_owned()],
            vec!["ip rule del pref 201".to_owned()],
            vec!["ip rule del pref 202".to_owned()],
            vec![
                "ip -6 rule del pref 200".to_owned(),
                "ip -6 rule del pref 202".to_owned(),
            ],
            vec![format!("ip route flush table {table}")],
            vec![format!("bridge link set dev {link} isolated off")],
            vec![format!("bridge link set dev {link} learning on")],
            vec![format!("ip link set {link} nomaster")],
            vec!["ip link del cmb-blue".to_owned()],
            // Without a notification.
            vec![
                "sysctl -q -w net.ipv4.conf.cmb-blue.send_redirects=1".to_owned(),
                "sysctl -q -w net.ipv4.conf.all.send_redirects=1".to_owned(),
                "ip neigh del 192.0.0.8 dev cmb-blue".to_owned(),
                format!("bridge fdb del {mac} dev {link} master"),
            ],
        ] {
            for command in &damage {
                let (program, arguments) = command.split_once(' ').unwrap();
                run(program, arguments);
            }
            for _ in 0..400 {
                if findings().await.is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            assert_eq!(findings().await, Vec::<String>::new(), "{damage:?}");
            groups.assert_closed(&format!("{damage:?}"));
        }
        allow();
        groups.assert_open("after all repairs");
        forbid();
        groups.end().await;
    });
}

#[test]
fn isolated_container_has_nothing_but_its_gateway_on_the_link() {
    isolated_async(|| async {
        let host = TestHost::new();
        let mut red = isolating("red", 2);
        bridge_of(&mut red).routes = vec!["198.51.100.0/24".parse().unwrap()];
        let one = host
            .attach(&in_group("one", &isolating("blue", 1), "a"))
            .await
            .unwrap();
        let mut second = in_group("one", &red, "a");
        second.interface = "eth1".to_owned();
        let second = host.reserve(&second).await.unwrap();
        let attached = host.provider.attach(&second, one.namespace.as_fd()).await;
        let addresses: Vec<String> = attached
            .unwrap()
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(addresses, ["10.2.0.2/32", "fd00:2::2/128"]);
        let routes = |command: &'static str| {
            let text = one.inside(move || run("ip", command));
            let lines = text.lines().filter(|line| !line.contains("fe80"));
            let mut routes: Vec<String> = lines
                .filter(|line| !line.contains("proto kernel"))
                .map(|line| line.split(" metric").next().unwrap().trim().to_owned())
                .collect();
            routes.sort();
            routes
        };
        assert_eq!(
            routes("-4 route show"),
            [
                "10.1.0.0/16 via 10.1.0.1 dev eth0 proto static",
                "10.1.0.1 dev eth0 proto static scope link",
                "10.2.0.0/16 via 10.2.0.1 dev eth1 proto static",
                "10.2.0.1 dev eth1 proto static scope link",
                "198.51.100.0/24 via 10.2.0.1 dev eth1 proto static",
                "default via 10.1.0.1 dev eth0 proto static",
            ]
        );
        assert_eq!(
            routes("-6 route show"),
            [
                "default via fd00:1::1 dev eth0 proto static",
                "fd00:1::/64 via fd00:1::1 dev eth0 proto static",
                "fd00:1::1 dev eth0 proto static",
                "fd00:2::/64 via fd00:2::1 dev eth1 proto static",
                "fd00:2::1 dev eth1 proto static",
            ]
        );
        // The host answers by both interfaces, and so does the container.
        for intent in [&one.intent, &second] {
            let namespace = Some(one.namespace.as_fd());
            let findings = host.provider.inspect(intent, None, namespace).await;
            assert_eq!(findings, Vec::<String>::new());
        }
        one.inside(|| serve_udp("0.0.0.0:9".parse().unwrap()));
        for address in ["10.1.0.2:9", "10.2.0.2:9"] {
            query_udp(address.parse().unwrap()).unwrap();
        }
        host.provider.detach(&second).await.unwrap();
        host.detach(&one).await;
        host.assert_clean();
    });
}

#[test]
fn first_packet_to_a_reused_isolated_address_is_answered() {
    isolated_async(|| async {
        let host = TestHost::new();
        let blue = isolating("blue", 1);
        let keeper = host.attach(&in_group("keeper", &blue, "a")).await.unwrap();
        allow();
        for addresses in [
            vec!["10.1.200.7", "fd00:1::7"],
            vec!["10.1.200.8", "10.1.200.7"],
            vec!["fd00:1::7"],
            vec!["10.1.200.7"],
        ] {
            let mut request = in_group("next", &blue, "b");
            request.addresses = addresses
                .iter()
                .map(|address| AddressRequest::Static(address.parse().unwrap()))
                .collect();
            let next = host.attach(&request).await.unwrap();
            for net in next.intent.addresses.clone() {
                let server = SocketAddr::new(net.addr(), 9);
                next.inside(move || serve_udp(server));
                query_udp(server).unwrap_or_else(|error| panic!("{addresses:?}: {error}"));
                let answer = keeper.inside(move || query_udp(server));
                answer.unwrap_or_else(|error| panic!("{addresses:?}: a neighbour: {error}"));
            }
            host.detach(&next).await;
        }
        forbid();
        host.detach(&keeper).await;
        host.assert_clean();
    });
}

/// The subnets that are closed.
fn closed() -> Vec<String> {
    let mut socket = NetlinkSocket::route().unwrap();
    let rules = rules::all(&mut socket).unwrap();
    let mut subnets: Vec<String> = rules.iter().map(|rule| rule.subnet.to_string()).collect();
    subnets.sort();
    subnets.dedup();
    subnets
}

#[test]
fn subnets_are_closed_as_long_as_containers_need_it() {
    isolated_async(|| async {
        let host = TestHost::new();
        let mut blue = isolating("blue", 1);
        bridge_of(&mut blue).masquerade = false;
        let one = host.attach(&in_group("one", &blue, "a")).await.unwrap();
        assert_eq!(closed(), SUBNETS);
        // The network gets another subnet, and keeps the old one while a container has it.
        bridge_of(&mut blue).v4 = bridge_of(&mut network("blue", 3)).v4.clone();
        let two = host.attach(&in_group("two", &blue, "a")).await.unwrap();
        let both = ["10.1.0.0/16", "10.3.0.0/16", "fd00:1::/64"];
        assert_eq!(closed(), both);
        // Another process, and a restart.
        let (sender, _lost) = unbounded_channel();
        let other = BridgeProvider::new(host.state.path(), sender).unwrap();
        let three = request("three", &blue);
        let three = other.reserve(&three, bridge_network(&three)).await.unwrap();
        let namespace = namespace();
        other.attach(&three, namespace.as_fd()).await.unwrap();
        let host = host.restart();
        for container in [&one, &two] {
            host.provider.adopt(&container.intent).await.unwrap();
        }
        assert_eq!(closed(), both);
        host.detach(&one).await;
        // What the other process attached may be in the old subnet.
        assert_eq!(closed(), both);
        host.detach(&two).await;
        assert_eq!(closed(), both, "the other process's container");
        other.detach(&three).await.unwrap();
        host.assert_clean();
    });
}

#[test]
fn processes_of_one_instance_mix_no_containers_with_and_without_groups() {
    isolated_async(|| async {
        let host = TestHost::new();
        let (plain, blue) = (network("blue", 1), isolating("blue", 1));
        let (sender, _lost) = unbounded_channel();
        let other = BridgeProvider::new(host.state.path(), sender).unwrap();
        for (first, second) in [
            (request("one", &plain), in_group("two", &blue, "a")),
            (in_group("one", &blue, "a"), request("two", &plain)),
        ] {
            let one = host.attach(&first).await.unwrap();
            let before = closed();
            let network = bridge_network(&second);
            let intent = other.reserve(&second, network).await.unwrap();
            let inner = namespace();
            let error = other.attach(&intent, inner.as_fd()).await.unwrap_err();
            let error = error.to_string();
            assert!(error.contains("still has containers"), "{error}");
            other.detach(&intent).await.unwrap();
            assert_eq!(closed(), before);
            let found = host.provider.inspect(&one.intent, None, None).await;
            assert_eq!(found, Vec::<String>::new());
            // Another one of its kind is no mixture.
            let mut same = first.clone();
            same.container = ContainerId::top_level("three");
            let intent = other.reserve(&same, bridge_network(&same)).await.unwrap();
            other.attach(&intent, inner.as_fd()).await.unwrap();
            host.detach(&one).await;
            other.detach(&intent).await.unwrap();
            assert_eq!(closed(), Vec::<String>::new());
        }
        host.assert_clean();
    });
}

#[test]
fn sweep_opens_subnets_of_lost_containers_only() {
    isolated_async(|| async {
        let host = TestHost::new();
        let kept = in_group("kept", &isolating("kept", 1), "a");
        let lost = in_group("lost", &isolating("lost", 2), "a");
        let (kept, lost) = (
            host.attach(&kept).await.unwrap(),
            host.attach(&lost).await.unwrap(),
        );
        let other_instance = TestHost::new();
        let others = in_group("other", &isolating("other", 3), "a");
        let others = other_instance.attach(&others).await.unwrap();
        let host = host.restart();
        host.provider.adopt(&kept.intent).await.unwrap();
        let known = [kept.intent.clone()];
        host.provider.sweep(&known, &HashSet::new()).await.unwrap();
        assert_eq!(
            closed(),
            ["10.1.0.0/16", "10.3.0.0/16", "fd00:1::/64", "fd00:3::/64"]
        );
        let forced = &lost.intent.container;
        host.provider.remove_container(forced).await.unwrap();
        host.detach(&kept).await;
        other_instance.detach(&others).await;
        host.assert_clean();
    });
}

#[test]
fn container_whose_isolation_would_be_missing_is_refused() {
    isolated_async(|| async {
        let host = TestHost::new();
        let (plain, blue) = (network("blue", 1), isolating("blue", 1));
        let refusal = async |request: &NetworkRequest| host.attach(request).await.err().unwrap();
        let error = refusal(&in_group("one", &plain, "a")).await;
        assert!(error.contains("does not isolate groups"), "{error}");
        let steps = host.plan(&in_group("one", &plain, "a")).await;
        assert!(steps.is_err(), "{steps:?}");
        let mut secured = in_group("one", &blue, "a");
        secured.membership.security_groups = vec!["db".to_owned(), "web".to_owned()];
        let error = refusal(&secured).await;
        assert!(error.contains("overlays.json does not exist"), "{error}");
        let name = "agent-1".to_owned();
        let mut state = NodeState::new(name, Revision::default(), vec![], vec![]);
        state.security_groups = vec!["web".to_owned()];
        state.write(host.state.path()).unwrap();
        let error = refusal(&secured).await;
        assert!(
            error.contains("no security group \"db\"") && !error.contains("\"web\""),
            "{error}"
        );
        state.security_groups.push("db".to_owned());
        state.write(host.state.path()).unwrap();
        let one = host.attach(&secured).await.unwrap();
        assert_eq!(
            one.intent.provider.policy,
            Some(ContainerPolicy {
                membership: secured.membership.clone(),
                admission: Admission::default(),
            })
        );
        // A bridge has containers with and without isolation at different times only.
        let error = refusal(&request("two", &plain)).await;
        assert!(error.contains("still has containers"), "{error}");
        assert_eq!(
            host.provider.inspect(&one.intent, None, None).await,
            Vec::<String>::new()
        );
        host.detach(&one).await;
        std::fs::remove_dir_all(host.state.path().join("node")).unwrap();
        let two = host.launch("two", &plain).await;
        let error = refusal(&in_group("three", &blue, "a")).await;
        assert!(error.contains("still has containers"), "{error}");
        assert_eq!(closed(), Vec::<String>::new());
        host.detach(&two).await;
        // An operator's bridge may go on behind the host.
        ip("link add cmb-blue type bridge");
        let error = refusal(&in_group("three", &blue, "a")).await;
        assert!(error.contains("not made by contrail-mesos"), "{error}");
        ip("link del cmb-blue");
        host.assert_clean();
    });
}

#[test]
fn planned_isolation_names_rules_and_routes() {
    isolated_async(|| async {
        let host = TestHost::new();
        let planned = in_group("one", &isolating("blue", 1), "a");
        let plan = host.plan(&planned).await.unwrap().join("\n");
        for step in [
            "add the routing rule 200 (packets of this host to 10.1.0.0/16",
            "routing rule 202 (packets to fd00:1::/64 without the mark 0x2000 are dropped)",
            "lead packets to 10.1.0.0/16 that nobody allowed to a dead end",
            "MTU 1400, isolated",
            "in the container: route 10.1.0.1/32",
            "send_redirects to 0",
        ] {
            assert!(plan.contains(step), "{step} is not in:\n{plan}");
        }
        assert_eq!(closed(), Vec::<String>::new());
        assert_eq!(link_names(), Vec::<String>::new());
    });
}
