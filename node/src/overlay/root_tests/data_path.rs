//! Traffic between containers of three hosts, each a namespace, joined by a bridge in a fourth one.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use contrail_mesos::net::links::{self, BridgePort, VethPair};
use contrail_mesos::net::netlink::NetlinkSocket;
use contrail_mesos::net::testing::{inside, isolated, namespace, run};
use contrail_mesos_api::cluster::Node;

use super::*;
pub(crate) use crate::overlay::desired::tests::{cluster, node, overlay};

/// The addresses of the container of the host with that number.
fn addresses(number: u8) -> [IpAddr; 2] {
    [
        [9, 0, number, 2].into(),
        format!("fd09:0:0:{number:x}::2").parse().unwrap(),
    ]
}

pub(crate) struct Host {
    pub(crate) number: u8,
    pub(crate) namespace: OwnedFd,
    pub(crate) container: OwnedFd,
}

impl Host {
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        inside(&self.namespace, work)
    }

    pub(crate) fn apply(&self, cluster: &ClusterState) {
        let mut cluster = cluster.clone();
        cluster.node = format!("agent-{}", self.number);
        let outcome = self.run(move || reconcile(&cluster));
        assert_eq!(outcome.problems, [""; 0]);
    }

    /// What the VXLAN device has sent and received, in packets.
    fn packets(&self) -> (u64, u64) {
        self.run(|| {
            let mut socket = NetlinkSocket::route().unwrap();
            let link = links::by_name(&mut socket, "vtep1024").unwrap().unwrap();
            (link.counters.tx_packets, link.counters.rx_packets)
        })
    }
}

/// Creates a veth pair from the calling thread's namespace to another one.
pub(crate) fn veth(name: &str, bridge: &str, namespace: &OwnedFd) {
    let mut socket = NetlinkSocket::route().unwrap();
    let bridge = links::by_name(&mut socket, bridge).unwrap().unwrap().index;
    let pair = VethPair {
        host: name,
        inner: "eth0",
        mac: [2, 0, 0, 0, 1, name.as_bytes()[1]],
        mtu: 1500,
        alias: "of a test",
        bridge: Some(BridgePort {
            bridge,
            hairpin: false,
            is_isolated: false,
        }),
    };
    links::create_veth(&mut socket, &pair, namespace.as_fd(), []).unwrap();
    let configure = [
        "link set lo up",
        "link set eth0 addrgenmode none",
        "link set eth0 up",
    ];
    inside(namespace, move || {
        for arguments in configure {
            run("ip", arguments);
        }
    });
}

/// Makes a container on the bridge of a host, with the last byte of its addresses.
fn container(number: u8, last: u8) -> OwnedFd {
    let container = namespace();
    veth(&format!("c{last}"), "m-blue", &container);
    inside(&container, move || {
        for arguments in [
            "link set eth0 mtu 1430".to_owned(),
            format!("addr add 9.0.{number}.{last}/25 dev eth0"),
            format!("addr add fd09:0:0:{number:x}::{last:x}/65 dev eth0 nodad"),
            format!("route add default via 9.0.{number}.1"),
            format!("-6 route add default via fd09:0:0:{number:x}::1"),
        ] {
            run("ip", &arguments);
        }
    });
    container
}

/// A host on the underlay, the calling thread's namespace, with one container.
pub(crate) fn add_host(number: u8) -> Host {
    let namespace = namespace();
    veth(&format!("h{number}"), "br0", &namespace);
    let container = inside(&namespace, move || {
        for arguments in [
            format!("addr add 192.0.2.{number}/24 dev eth0"),
            format!("addr add 2001:db8::{number}/64 dev eth0 nodad"),
            "link add m-blue type bridge".to_owned(),
            // The kernel looks for containers with a link-local address.
            "addr add fe80::1/64 dev m-blue nodad".to_owned(),
            "link set m-blue up".to_owned(),
            format!("addr add 9.0.{number}.1/25 dev m-blue"),
            format!("addr add fd09:0:0:{number:x}::1/65 dev m-blue nodad"),
        ] {
            run("ip", &arguments);
        }
        container(number, 2)
    });
    Host {
        number,
        namespace,
        container,
    }
}

fn lab() -> Vec<Host> {
    run("ip", "link add br0 up type bridge");
    (1..=3).map(add_host).collect()
}

/// Pings from the calling thread's namespace, and returns the time to live of the reply.
fn ping(address: IpAddr) -> u8 {
    // The first packets of a bridge's port may be lost.
    let output = run("ping", &format!("-n -c 1 -i 0.2 -w 10 {address}"));
    let (_, rest) = output.split_once("ttl=").unwrap();
    rest.split(' ').next().unwrap().parse().unwrap()
}

/// Sends some bytes by TCP between two namespaces, and returns those that came back.
fn echo(server: &OwnedFd, client: &OwnedFd, address: IpAddr) -> Vec<u8> {
    let listener = inside(server, move || {
        TcpListener::bind(SocketAddr::new(address, 8080)).unwrap()
    });
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    let received = inside(client, move || {
        let timeout = Duration::from_secs(30);
        let address = SocketAddr::new(address, 8080);
        let mut stream = TcpStream::connect_timeout(&address, timeout).unwrap();
        stream.set_read_timeout(Some(timeout)).unwrap();
        // More than one segment.
        stream.write_all(&vec![7; 100_000]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    });
    thread.join().unwrap();
    received
}

fn assert_connected(hosts: &[Host]) {
    for from in hosts {
        for to in hosts.iter().filter(|to| to.number != from.number) {
            for address in addresses(to.number) {
                // Both hosts forward.
                assert_eq!(inside(&from.container, move || ping(address)), 62);
                // From the host to the other's container.
                assert_eq!(from.run(move || ping(address)), 63);
            }
        }
    }
    for address in addresses(2) {
        let received = echo(&hosts[1].container, &hosts[0].container, address);
        assert_eq!(received, vec![7; 100_000]);
    }
}

#[test]
fn containers_of_all_hosts_reach_each_other_over_ipv4() {
    isolated(|| {
        let hosts = lab();
        let cluster = cluster([node(1), node(2), node(3)]);
        for host in &hosts {
            host.apply(&cluster);
        }
        assert_connected(&hosts);

        // Traffic of one host stays there.
        let second = hosts[0].run(|| container(1, 3));
        let before = hosts[0].packets();
        inside(&second, || {
            for address in addresses(1) {
                assert_eq!(ping(address), 64);
            }
        });
        assert_eq!(hosts[0].packets(), before);
    });
}

#[test]
fn containers_of_all_hosts_reach_each_other_over_ipv6() {
    isolated(|| {
        let hosts = lab();
        let nodes: [Node; 3] = [1, 2, 3].map(|number| {
            let mut node = node(number);
            node.address = format!("2001:db8::{number}").parse().unwrap();
            node
        });
        let cluster = cluster(nodes);
        for host in &hosts {
            host.apply(&cluster);
        }
        assert_connected(&hosts);
    });
}

/// A VXLAN packet for the device of the first host, with an empty frame in it.
fn vxlan_packet() -> Vec<u8> {
    let mut packet = vec![8, 0, 0, 0, 0, 4, 0, 0];
    packet.extend(node(1).vtep.mac.0);
    packet.extend([2, 0, 0, 0, 0, 9]);
    packet.extend([0x08, 0x00]);
    packet.extend([0; 46]);
    packet
}

/// The packets that the table of sources of a host has dropped.
fn dropped(host: &Host) -> u64 {
    let rules = host.run(|| run("nft", "list table inet contrail_mesos_overlay"));
    let counters = rules.split("counter packets ").skip(1);
    counters
        .map(|rest| rest.split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

#[test]
fn vxlan_packets_of_unknown_hosts_and_of_containers_are_dropped() {
    isolated(|| {
        let hosts = lab();
        let known = cluster([node(1), node(2)]);
        hosts[0].apply(&known);
        hosts[1].apply(&known);
        let send = |from: &OwnedFd| {
            inside(from, || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.send_to(&vxlan_packet(), "192.0.2.1:4789").unwrap();
                // An answer shows that the packet before it has arrived.
                ping("192.0.2.1".parse().unwrap());
            });
        };
        let (_, before) = hosts[0].packets();
        send(&hosts[1].namespace);
        assert_eq!(hosts[0].packets().1, before + 1, "of a known host");
        assert_eq!(dropped(&hosts[0]), 0);
        send(&hosts[2].namespace);
        assert_eq!(dropped(&hosts[0]), 1, "of an unknown host");
        // It claims to be the known host.
        let container = &hosts[0].container;
        inside(container, || {
            run("ip", "addr add 192.0.2.2/32 dev eth0");
            let socket = UdpSocket::bind("192.0.2.2:0").unwrap();
            socket.send_to(&vxlan_packet(), "192.0.2.1:4789").unwrap();
            ping([9, 0, 1, 1].into());
        });
        assert_eq!(dropped(&hosts[0]), 2, "of a container");
        assert_eq!(hosts[0].packets().1, before + 1);
        // Once it is known, it is heard.
        hosts[0].apply(&cluster([node(1), node(2), node(3)]));
        send(&hosts[2].namespace);
        assert_eq!(hosts[0].packets().1, before + 2);
    });
}
