//! The hosts with their containers, on two bridges and an overlay. What the library makes for the
//! networks of containers is made with an operator's commands and the library's own table.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use contrail_mesos::net::nft::{Element, Table};
use contrail_mesos::net::testing::{inside, namespace, run};
use contrail_mesos_api::cluster::{
    Backend, BackendState, Node, NodeSubnets, Object, ObjectKey, Overlay, Reach, Revision, Service,
    ServiceSettings, Underlay, Vtep,
};
use contrail_mesos_api::container::Mac;

use crate::cluster_state::ClusterState;
use crate::overlay::OverlaySubsystem;
use crate::services::ServicesSubsystem;
use crate::subsystem::{Mode, Outcome, Subsystem as _};

/// How long anything may take that happens at once.
pub(super) const LIMIT: Duration = Duration::from_secs(20);
/// The port of the servers.
pub(super) const PORT: u16 = 8080;

pub(super) fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is() {
        assert!(Instant::now() < deadline, "{what} does not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(super) fn ip(arguments: &str) {
    run("ip", arguments);
}

/// Makes a veth pair from the calling thread's namespace to another one, where it is `eth0`.
fn veth(name: &str, bridge: &str, mac: Mac, namespace: &OwnedFd) {
    ip(&format!(
        "link add {name} type veth peer name {name}p address {mac}"
    ));
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    ip(&format!("link set {name}p netns {path} name eth0"));
    ip(&format!(
        "link set {name} addrgenmode none master {bridge} up"
    ));
    run("bridge", &format!("link set dev {name} hairpin on"));
    inside(namespace, || {
        for arguments in [
            "link set lo up",
            "link set eth0 addrgenmode none",
            "link set eth0 up",
        ] {
            ip(arguments);
        }
    });
}

/// A network of containers on one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Network {
    Red,
    Green,
    Blue,
}

impl Network {
    pub(super) fn bridge(self) -> &'static str {
        match self {
            Self::Red => "red0",
            Self::Green => "green0",
            Self::Blue => "m-blue",
        }
    }

    /// The addresses of a container, or of the bridge, which is the first one.
    fn addresses(self, host: u8, last: u8) -> [IpAddr; 2] {
        let (v4, v6) = match self {
            Self::Red => ([10, 1, host, last], format!("fd01:0:0:{host:x}::{last:x}")),
            Self::Green => ([10, 2, host, last], format!("fd02:0:0:{host:x}::{last:x}")),
            Self::Blue => ([9, 0, host, last], format!("fd09:0:0:{host:x}::{last:x}")),
        };
        [v4.into(), v6.parse().unwrap()]
    }

    fn prefix(self, is_v4: bool) -> u8 {
        match (self, is_v4) {
            (Self::Blue, true) => 25,
            (_, true) => 24,
            (Self::Blue, false) => 65,
            (_, false) => 64,
        }
    }
}

/// Something with addresses in a namespace: a container or a host.
pub(super) struct Place {
    pub(super) name: String,
    pub(super) namespace: OwnedFd,
    pub(super) addresses: [IpAddr; 2],
}

impl Place {
    pub(super) fn address(&self, is_v4: bool) -> IpAddr {
        self.addresses[usize::from(!is_v4)]
    }

    pub(super) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        inside(&self.namespace, work)
    }

    /// Answers each connection and each datagram to its port with the client's address. Ends with the
    /// process of the tests.
    pub(super) fn serve(&self, port: u16) {
        for address in self.addresses {
            let at = SocketAddr::new(address, port);
            let (listener, socket) =
                self.run(move || (TcpListener::bind(at).unwrap(), UdpSocket::bind(at).unwrap()));
            let name = self.name.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let Ok(mut stream) = stream else { return };
                    let name = name.clone();
                    std::thread::spawn(move || answer(&mut stream, &name));
                }
            });
            let name = self.name.clone();
            std::thread::spawn(move || {
                let mut bytes = [0; 64];
                while let Ok((_, client)) = socket.recv_from(&mut bytes) {
                    let text = format!("{name} {}", client.ip());
                    let _ = socket.send_to(text.as_bytes(), client);
                }
            });
        }
    }

    /// The text that a service sends to a new connection: who answers, and the client's address there.
    pub(super) fn ask(&self, address: IpAddr, port: u16) -> io::Result<(String, IpAddr)> {
        let (_, answer) = self.connect(address, port)?;
        Ok(answer)
    }

    /// The same, with the connection.
    pub(super) fn connect(
        &self,
        address: IpAddr,
        port: u16,
    ) -> io::Result<(TcpStream, (String, IpAddr))> {
        let mut stream =
            self.run(move || TcpStream::connect_timeout(&SocketAddr::new(address, port), LIMIT))?;
        stream.set_read_timeout(Some(LIMIT))?;
        let text = exchange(&mut stream)?;
        Ok((stream, text))
    }

    pub(super) fn udp(&self, is_v4: bool) -> UdpSocket {
        let any: IpAddr = if is_v4 { [0; 4].into() } else { [0; 16].into() };
        self.run(move || UdpSocket::bind((any, 0)).unwrap())
    }
}

fn answer(stream: &mut TcpStream, name: &str) {
    let Ok(client) = stream.peer_addr() else {
        return;
    };
    let text = format!("{name} {}", client.ip());
    let mut byte = [0];
    while let Ok(1) = stream.read(&mut byte) {
        let mut answer = [0; 64];
        answer[..text.len()].copy_from_slice(text.as_bytes());
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

/// Sends something by a connection and returns who answers, and the client's address there.
pub(super) fn exchange(stream: &mut TcpStream) -> io::Result<(String, IpAddr)> {
    stream.write_all(b"x")?;
    let mut answer = [0; 64];
    stream.read_exact(&mut answer)?;
    Ok(parse(&answer))
}

fn parse(answer: &[u8]) -> (String, IpAddr) {
    let text = std::str::from_utf8(answer).unwrap().trim_end_matches('\0');
    let (name, client) = text.split_once(' ').unwrap();
    (name.to_owned(), client.parse().unwrap())
}

/// Sends datagrams until one is answered, and returns who answers.
pub(super) fn ask_by(socket: &UdpSocket, address: IpAddr, port: u16) -> String {
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    let mut answer = None;
    wait_until("the answer by UDP", || {
        let _ = socket.send_to(b"x", (address, port));
        let mut bytes = [0; 64];
        answer = socket
            .recv(&mut bytes)
            .ok()
            .map(|count| parse(&bytes[..count]).0);
        answer.is_some()
    });
    answer.unwrap()
}

/// A host with its containers.
pub(super) struct Host {
    pub(super) number: u8,
    pub(super) place: Place,
    pub(super) red: [Place; 2],
    pub(super) green: Place,
    pub(super) blue: [Place; 2],
}

impl Host {
    fn new(number: u8) -> Self {
        let place = Place {
            name: format!("host{number}"),
            namespace: namespace(),
            addresses: [
                [192, 0, 2, number].into(),
                format!("2001:db8::{number}").parse().unwrap(),
            ],
        };
        // Replies must come by the way of the requests.
        place.run(|| {
            for name in ["all", "default"] {
                run("sysctl", &format!("-qw net.ipv4.conf.{name}.rp_filter=1"));
                run(
                    "sysctl",
                    &format!("-qw net.ipv4.conf.{name}.send_redirects=0"),
                );
            }
            run("sysctl", "-qw net.ipv4.ip_forward=1");
            run("sysctl", "-qw net.ipv6.conf.all.forwarding=1");
            // As a DNS server, whose addresses no interface has, binds by itself.
            run("sysctl", "-qw net.ipv6.ip_nonlocal_bind=1");
        });
        veth(
            &format!("h{number}"),
            "br0",
            Mac([2, 0, 0, 0, 0xff, number]),
            &place.namespace,
        );
        place.run(move || {
            ip(&format!("addr add 192.0.2.{number}/24 dev eth0"));
            ip(&format!("addr add 2001:db8::{number}/64 dev eth0 nodad"));
            let mut elements = Vec::new();
            for network in [Network::Red, Network::Green, Network::Blue] {
                let bridge = network.bridge();
                ip(&format!("link add {bridge} type bridge"));
                ip(&format!("addr add fe80::1/64 dev {bridge} nodad"));
                ip(&format!("link set {bridge} up"));
                for address in network.addresses(number, 1) {
                    let prefix = network.prefix(address.is_ipv4());
                    let nodad = if address.is_ipv4() { "" } else { " nodad" };
                    ip(&format!("addr add {address}/{prefix} dev {bridge}{nodad}"));
                    let net = format!("{address}/{prefix}")
                        .parse::<ipnet::IpNet>()
                        .unwrap();
                    let inside: Vec<ipnet::IpNet> = if network == Network::Blue {
                        vec!["9.0.0.0/8".parse().unwrap(), "fd09::/32".parse().unwrap()]
                    } else {
                        vec![net.trunc()]
                    };
                    elements.extend(Element::masquerade(net.trunc(), &inside, "test"));
                }
            }
            Table::open().unwrap().add(&elements).unwrap();
        });
        let container = |network, last| container(&place, number, network, last);
        Self {
            number,
            red: [container(Network::Red, 2), container(Network::Red, 3)],
            green: container(Network::Green, 2),
            blue: [container(Network::Blue, 2), container(Network::Blue, 3)],
            place,
        }
    }

    pub(super) fn containers(&self) -> impl Iterator<Item = &Place> {
        self.red.iter().chain([&self.green]).chain(&self.blue)
    }

    pub(super) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.place.run(work)
    }

    pub(super) fn subsystem(&self) -> ServicesSubsystem {
        self.run(|| ServicesSubsystem::new().unwrap())
    }

    /// Whether bridged frames pass the tables of IP.
    pub(super) fn set_bridge_netfilter(&self, is_on: bool) {
        self.run(move || {
            for family in ["ip", "ip6"] {
                let name = format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables");
                std::fs::write(name, if is_on { "1" } else { "0" }).unwrap();
            }
        });
    }
}

fn container(host: &Place, number: u8, network: Network, last: u8) -> Place {
    let bridge = network.bridge();
    let place = Place {
        name: format!("{}{number}-{last}", &bridge[..bridge.len() - 1]),
        namespace: namespace(),
        addresses: network.addresses(number, last),
    };
    let inner = place.namespace.try_clone().unwrap();
    let kind = network as u8;
    let mac = Mac([2, 0, kind, 0, number, last]);
    let name = format!("{}{last}", &bridge[..3].replace('-', "o"));
    host.run(move || veth(&name, bridge, mac, &inner));
    let addresses = place.addresses;
    place.run(move || {
        if network == Network::Blue {
            ip("link set eth0 mtu 1430");
        }
        for (address, gateway) in addresses.into_iter().zip(network.addresses(number, 1)) {
            let prefix = network.prefix(address.is_ipv4());
            let (family, nodad) = if address.is_ipv4() {
                ("-4", "")
            } else {
                ("-6", " nodad")
            };
            ip(&format!("addr add {address}/{prefix} dev eth0{nodad}"));
            ip(&format!("{family} route add default via {gateway}"));
        }
    });
    place
}

/// The two hosts.
pub(super) struct Lab {
    pub(super) hosts: [Host; 2],
    pub(super) cluster: ClusterState,
}

fn node(number: u8) -> Node {
    Node {
        name: format!("agent-{number}"),
        address: [192, 0, 2, number].into(),
        vtep: Vtep {
            address: [44, 128, 0, number].into(),
            address6: Some(format!("fd44::{number:x}").parse().unwrap()),
            mac: Mac([0x70, 0xb3, 0xd5, 0x80, 0, number]),
        },
        subnets: vec![NodeSubnets {
            overlay: "blue".to_owned(),
            subnet: Some(format!("9.0.{number}.0/24").parse().unwrap()),
            subnet6: Some(format!("fd09:0:0:{number:x}::/64").parse().unwrap()),
            blocks: vec![],
            returned: 0,
        }],
    }
}

impl Lab {
    /// Hosts in whose containers, and on which, servers run.
    pub(super) fn new() -> Self {
        let mut cluster = ClusterState::empty("agent-1", Revision::default());
        cluster.underlay = Some(Underlay {
            vtep_subnet: "44.128.0.0/20".parse().unwrap(),
            vtep_subnet6: Some("fd44::/64".parse().unwrap()),
            vxlan_port: 4789,
        });
        cluster.put(Object::Overlay(Overlay {
            name: "blue".to_owned(),
            vni: 1024,
            subnet: Some("9.0.0.0/8".parse().unwrap()),
            subnet6: Some("fd09::/32".parse().unwrap()),
            mtu: None,
            enabled: true,
            groups: None,
            isolated: false,
            lends_blocks: false,
        }));
        cluster.put(Object::ServiceSettings(settings()));
        cluster.put(Object::ServicesComplete);
        ip("link add br0 up type bridge");
        for number in [1, 2] {
            cluster.put(Object::Node(node(number)));
        }
        let lab = Self {
            hosts: [Host::new(1), Host::new(2)],
            cluster,
        };
        for host in &lab.hosts {
            let state = lab.state_of(host);
            let outcome = host.run(move || {
                let mut overlay = OverlaySubsystem::new(Path::new("/nonexistent")).unwrap();
                overlay.reconcile(&state, Mode::Apply).unwrap()
            });
            assert_eq!(outcome.problems, [""; 0]);
            host.place.serve(PORT);
            host.containers()
                .for_each(|container| container.serve(PORT));
        }
        lab
    }

    pub(super) fn state_of(&self, host: &Host) -> ClusterState {
        let mut state = self.cluster.clone();
        state.node = format!("agent-{}", host.number);
        state
    }

    pub(super) fn put(&mut self, service: Service) {
        self.cluster.put(Object::Service(service));
    }

    pub(super) fn delete(&mut self, key: &str) {
        let service = key.parse().unwrap();
        self.cluster.delete(&ObjectKey::Service { service });
    }

    /// Compares on a host with a subsystem that goes on.
    pub(super) fn apply_with(
        &self,
        host: &Host,
        mut subsystem: ServicesSubsystem,
    ) -> (ServicesSubsystem, Outcome) {
        let state = self.state_of(host);
        host.run(move || {
            let outcome = subsystem.reconcile(&state, Mode::Apply).unwrap();
            assert_eq!(outcome.problems, [""; 0]);
            (subsystem, outcome)
        })
    }

    /// Compares on a host as a daemon that has just started.
    pub(super) fn apply(&self, host: &Host) -> Outcome {
        self.apply_with(host, host.subsystem()).1
    }

    /// Compares on both hosts.
    pub(super) fn apply_all(&self) {
        self.hosts.iter().for_each(|host| drop(self.apply(host)));
    }

    /// What a daemon that has just started would change.
    pub(super) fn plan(&self, host: &Host) -> Vec<String> {
        let (state, mut subsystem) = (self.state_of(host), host.subsystem());
        let outcome = host.run(move || subsystem.reconcile(&state, Mode::DryRun).unwrap());
        outcome.changes.into_iter().map(|change| change.0).collect()
    }
}

pub(super) fn settings() -> ServiceSettings {
    ServiceSettings {
        ranges: vec![
            "198.18.0.0/16".parse().unwrap(),
            "fd4a:9c1e:57b2::/112".parse().unwrap(),
        ],
        dns: vec![dns(true), dns(false)],
    }
}

pub(super) fn dns(is_v4: bool) -> IpAddr {
    vip(1, is_v4)
}

/// An address of a range.
pub(super) fn vip(number: u8, is_v4: bool) -> IpAddr {
    if is_v4 {
        [198, 18, 0, number].into()
    } else {
        format!("fd4a:9c1e:57b2::{number:x}").parse().unwrap()
    }
}

/// A backend on the host with that number. What only its host reaches is on a bridge.
pub(super) fn backend(place: &Place, host: u8, port: u16, is_v4: bool) -> Backend {
    let address = place.address(is_v4);
    let is_bridge = place.name.starts_with("red") || place.name.starts_with("green");
    Backend {
        address: SocketAddr::new(address, port),
        local: None,
        host: [192, 0, 2, host].into(),
        reach: if is_bridge {
            Reach::Host
        } else {
            Reach::Cluster
        },
        state: BackendState::Ready,
        task: place.name.clone(),
    }
}

/// A service with addresses of both families, for backends of each.
pub(super) fn service(key: &str, number: u8, backends: Vec<Backend>) -> Service {
    Service {
        service: key.parse().unwrap(),
        addresses: vec![vip(number, true), vip(number, false)],
        backends,
        affinity: None,
    }
}

/// Backends of both families.
pub(super) fn both(place: &Place, host: u8) -> Vec<Backend> {
    let of_family = |is_v4| backend(place, host, PORT, is_v4);
    [true, false].map(of_family).into()
}
