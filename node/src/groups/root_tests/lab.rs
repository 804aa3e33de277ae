//! Hosts with containers on one overlay, joined by a bridge. What the library makes for a container on a
//! network that isolates groups is made with an operator's commands.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use contrail_mesos::config::{Dns, OverlayPart};
use contrail_mesos::isolator::checkpoint::{Checkpoint, Owner};
use contrail_mesos::net::nft::groups::{DropReason, Drops};
use contrail_mesos::net::testing::{inside, namespace, run};
use contrail_mesos::network_request::ContainerRequest;
use contrail_mesos::proto::mesos::NetworkInfo;
use contrail_mesos::provider::bridge::{BridgeIntent, ContainerPolicy};
use contrail_mesos::provider::{Intent, ProviderIntent};
use contrail_mesos_api::cluster::{
    Admission, Endpoint, Membership, Node, NodeSubnets, Object, Overlay, Revision, Underlay, Vtep,
};
use contrail_mesos_api::container::{ContainerId, Mac};
use tempfile::TempDir;

use crate::cluster_state::ClusterState;
use crate::groups::GroupsSubsystem;
use crate::overlay::OverlaySubsystem;
use crate::subsystem::{Mode, Outcome, Subsystem as _};

/// How long anything may take that happens at once.
const LIMIT: Duration = Duration::from_secs(20);
/// The bridge of the overlay on each host.
const BRIDGE: &str = "m-blue";

/// The destination ports of the probes: each has its own.
static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);

pub(crate) fn next_port() -> u16 {
    NEXT_PORT.fetch_add(1, Ordering::Relaxed)
}

/// Waits for a condition.
pub(crate) fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !is() {
        assert!(Instant::now() < deadline, "{what} does not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn membership(groups: &[&str], security_groups: &[&str]) -> Membership {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Membership {
        groups: names(groups),
        security_groups: names(security_groups),
    }
}

pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) host: u8,
    last: u8,
    pub(crate) namespace: OwnedFd,
    pub(crate) membership: Membership,
}

impl Container {
    pub(crate) fn addresses(&self) -> [IpAddr; 2] {
        [
            [9, 0, self.host, self.last].into(),
            format!("fd09:0:0:{:x}::{:x}", self.host, self.last)
                .parse()
                .unwrap(),
        ]
    }

    pub(crate) fn address(&self, is_v4: bool) -> IpAddr {
        self.addresses()[usize::from(!is_v4)]
    }

    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        inside(&self.namespace, work)
    }

    pub(crate) fn port(&self) -> String {
        format!("c{}", self.last)
    }

    pub(crate) fn mac(&self) -> Mac {
        Mac([2, 0, 0, 0, self.host, self.last])
    }
}

pub(crate) struct Host {
    pub(crate) number: u8,
    pub(crate) namespace: OwnedFd,
    state_dir: TempDir,
}

fn ip(arguments: &str) {
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

impl Host {
    /// A host on the underlay, whose bridge is in the calling thread's namespace.
    fn new(number: u8) -> Self {
        let namespace = namespace();
        veth(
            &format!("h{number}"),
            "br0",
            Mac([2, 0, 0, 0, 0xff, number]),
            &namespace,
        );
        let host = Self {
            number,
            namespace,
            state_dir: tempfile::tempdir().unwrap(),
        };
        host.run(move || {
            for arguments in [
                format!("addr add 192.0.2.{number}/24 dev eth0"),
                format!("link add {BRIDGE} type bridge"),
                format!("addr add fe80::1/64 dev {BRIDGE} nodad"),
                format!("link set {BRIDGE} up"),
                format!("addr add 9.0.{number}.1/25 dev {BRIDGE}"),
                format!("addr add fd09:0:0:{number:x}::1/65 dev {BRIDGE} nodad"),
            ] {
                ip(&arguments);
            }
            for name in ["all", BRIDGE] {
                run(
                    "sysctl",
                    &format!("-qw net.ipv4.conf.{name}.send_redirects=0"),
                );
            }
            run("sysctl", "-qw net.ipv4.ip_forward=1");
            run("sysctl", "-qw net.ipv6.conf.all.forwarding=1");
            for (family, subnet) in [
                ("-4", format!("9.0.{number}.0/25")),
                ("-6", format!("fd09:0:0:{number:x}::/65")),
            ] {
                ip(&format!(
                    "{family} rule add pref 32000 to {subnet} iif lo lookup main"
                ));
                ip(&format!(
                    "{family} rule add pref 32001 to {subnet} fwmark 0/0x2000 blackhole"
                ));
            }
        });
        host
    }

    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        inside(&self.namespace, work)
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.state_dir.path().to_owned()
    }

    fn container_directory(&self, name: &str) -> PathBuf {
        let id = ContainerId::top_level(name);
        self.state_dir
            .path()
            .join("containers")
            .join(id.file_name())
    }

    /// Attaches a container, whose checkpoint comes first.
    pub(crate) fn attach(
        &self,
        name: &str,
        last: u8,
        membership: Membership,
        admission: Admission,
    ) -> Container {
        let container = Container {
            name: name.to_owned(),
            host: self.number,
            last,
            namespace: namespace(),
            membership,
        };
        self.write_checkpoint(&container, admission);
        let (number, mac, port) = (self.number, container.mac(), container.port());
        // Of the calling thread, for the path by which the namespace is found.
        let inner = container.namespace.try_clone().unwrap();
        self.run(move || {
            veth(&port, BRIDGE, mac, &inner);
            run("bridge", &format!("link set dev {port} isolated on"));
        });
        let [v4, v6] = container.addresses();
        container.run(move || {
            for arguments in [
                "link set eth0 mtu 1430".to_owned(),
                format!("addr add {v4}/32 dev eth0"),
                format!("route add 9.0.{number}.1 dev eth0"),
                format!("route add default via 9.0.{number}.1"),
                format!("addr add {v6}/128 dev eth0 nodad"),
                "addr add fe80::2/64 dev eth0 nodad".to_owned(),
                format!("-6 route add fd09:0:0:{number:x}::1 dev eth0"),
                format!("-6 route add default via fd09:0:0:{number:x}::1"),
            ] {
                ip(&arguments);
            }
        });
        container
    }

    fn write_checkpoint(&self, container: &Container, admission: Admission) {
        let number = self.number;
        let id = ContainerId::top_level(&container.name);
        let [v4, v6] = container.addresses();
        let intent = Intent {
            container: id.clone(),
            network: "blue".to_owned(),
            interface: "eth0".to_owned(),
            addresses: vec![
                format!("{v4}/32").parse().unwrap(),
                format!("{v6}/128").parse().unwrap(),
            ],
            gateways: vec![],
            mac: container.mac(),
            mtu: 1430,
            ports: vec![],
            dns: Dns::default(),
            provider: ProviderIntent::Bridge(BridgeIntent {
                bridge: BRIDGE.to_owned(),
                host_interface: container.port(),
                bridge_addresses: vec![
                    format!("9.0.{number}.1/25").parse().unwrap(),
                    format!("fd09:0:0:{number:x}::1/65").parse().unwrap(),
                ],
                masquerade: false,
                hairpin: false,
                routes: vec![],
                overlay: Some(OverlayPart {
                    name: "blue".to_owned(),
                    cluster_subnets: vec![],
                }),
                policy: Some(ContainerPolicy {
                    membership: container.membership.clone(),
                    admission,
                }),
            }),
        };
        let request = ContainerRequest {
            networks: vec![],
            network_infos: vec![NetworkInfo::default()],
            hostname: container.name.clone(),
        };
        let checkpoint = Checkpoint::new(&id, Owner::Agent, None, &request, vec![intent]);
        let directory = self.container_directory(&container.name);
        std::fs::create_dir_all(&directory).unwrap();
        let bytes = serde_json::to_vec(&checkpoint).unwrap();
        std::fs::write(directory.join("intent.json"), bytes).unwrap();
    }

    /// Changes the groups of a container as an operator does.
    pub(crate) fn change_groups(&self, container: &mut Container, membership: Membership) {
        let directory = self.container_directory(&container.name);
        let path = directory.join("groups.json.new");
        std::fs::write(&path, serde_json::to_vec(&membership).unwrap()).unwrap();
        std::fs::rename(path, directory.join("groups.json")).unwrap();
        container.membership = membership;
    }

    /// Ends a container.
    pub(crate) fn detach(&self, container: &Container) {
        let port = container.port();
        self.run(move || ip(&format!("link del {port}")));
        self.forget_checkpoint(container);
    }

    pub(crate) fn forget_checkpoint(&self, container: &Container) {
        std::fs::remove_dir_all(self.container_directory(&container.name)).unwrap();
    }

    /// Removes the rules that route nothing without a mark.
    pub(crate) fn remove_rules(&self) {
        self.run(|| {
            for family in ["-4", "-6"] {
                for preference in [32000, 32001] {
                    ip(&format!("{family} rule del pref {preference}"));
                }
            }
        });
    }

    pub(crate) fn subsystem(&self) -> GroupsSubsystem {
        self.subsystem_with(true)
    }

    pub(crate) fn subsystem_with(&self, has_managers: bool) -> GroupsSubsystem {
        let (state_dir, node) = (self.state_dir(), format!("agent-{}", self.number));
        self.run(move || GroupsSubsystem::new(&state_dir, &node, has_managers).unwrap())
    }

    /// The packets that were dropped with that destination port.
    pub(crate) fn dropped(&self, port: u16) -> Option<DropReason> {
        let drops = self.run(|| Drops::read().unwrap());
        let mut recent = drops.recent.into_iter();
        let of_port = recent.find(|packets| packets.port == Some(port))?;
        Some(of_port.reason)
    }

    pub(crate) fn total(&self, reason: DropReason) -> u64 {
        self.run(move || Drops::read_totals().unwrap()[&reason])
    }
}

/// Hosts with their containers.
pub(crate) struct Lab {
    pub(crate) hosts: Vec<Host>,
    pub(crate) cluster: ClusterState,
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
    /// That many hosts, connected by an overlay that isolates groups.
    pub(crate) fn new(hosts: u8) -> Self {
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
            groups: Some(Admission::default()),
            isolated: false,
            lends_blocks: false,
        }));
        ip("link add br0 up type bridge");
        let all: Vec<_> = (1..=hosts).map(Host::new).collect();
        for number in 1..=hosts {
            cluster.put(Object::Node(node(number)));
        }
        let lab = Self {
            hosts: all,
            cluster,
        };
        for host in &lab.hosts {
            let state = lab.state_of(host);
            let outcome = host.run(move || {
                let mut overlay = OverlaySubsystem::new(std::path::Path::new("/nonexistent"));
                overlay
                    .as_mut()
                    .unwrap()
                    .reconcile(&state, Mode::Apply)
                    .unwrap()
            });
            assert_eq!(outcome.problems, [""; 0]);
        }
        lab
    }

    pub(crate) fn host(&self, number: u8) -> &Host {
        &self.hosts[usize::from(number) - 1]
    }

    fn state_of(&self, host: &Host) -> ClusterState {
        let mut state = self.cluster.clone();
        state.node = format!("agent-{}", host.number);
        state
    }

    /// Publishes a container to all hosts, as the managers do.
    pub(crate) fn publish(&mut self, container: &Container) {
        self.cluster.put(Object::Endpoint(Endpoint {
            node: format!("agent-{}", container.host),
            id: container.name.clone(),
            addresses: container.addresses().to_vec(),
            membership: container.membership.clone(),
        }));
    }

    /// Compares on a host, with a subsystem that goes on.
    pub(crate) fn apply_with(
        &self,
        host: &Host,
        mut subsystem: GroupsSubsystem,
    ) -> GroupsSubsystem {
        let state = self.state_of(host);
        host.run(move || {
            let outcome = subsystem.reconcile(&state, Mode::Apply).unwrap();
            assert_eq!(outcome.problems, [""; 0]);
            subsystem
        })
    }

    /// Compares on a host as a daemon that has just started.
    pub(crate) fn apply(&self, host: &Host) -> Outcome {
        let (state, mut subsystem) = (self.state_of(host), host.subsystem());
        let outcome = host.run(move || subsystem.reconcile(&state, Mode::Apply).unwrap());
        assert_eq!(outcome.problems, [""; 0]);
        outcome
    }

    pub(crate) fn apply_all(&self) {
        for host in &self.hosts {
            self.apply(host);
        }
    }

    /// Why a packet with that destination port was dropped, by any host.
    fn dropped(&self, port: u16) -> Option<DropReason> {
        self.hosts.iter().find_map(|host| host.dropped(port))
    }

    /// Sends UDP packets until one arrives, or one is dropped and counted: with the reason.
    pub(crate) fn udp(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        address: IpAddr,
    ) -> Result<(), DropReason> {
        self.udp_to(from, to, address, next_port())
    }

    pub(crate) fn udp_to(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        address: IpAddr,
        port: u16,
    ) -> Result<(), DropReason> {
        self.udp_by(from, to, address, address, port)
    }

    /// The same to an address that is translated to `server`.
    pub(crate) fn udp_by(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        address: IpAddr,
        server: IpAddr,
        port: u16,
    ) -> Result<(), DropReason> {
        let server = inside(to, move || {
            let server = UdpSocket::bind(SocketAddr::new(server, port)).unwrap();
            server.set_nonblocking(true).unwrap();
            server
        });
        let client = udp_client(from, address);
        let mut sent: Option<Instant> = None;
        let mut result = None;
        wait_until("the packet or its drop", || {
            if sent.is_none_or(|sent| sent.elapsed() > Duration::from_millis(300)) {
                // Refusals of the host itself are drops as well.
                let _ = client.send_to(b"x", SocketAddr::new(address, port));
                sent = Some(Instant::now());
            }
            result = match server.recv(&mut [0; 9]) {
                Ok(_) => Some(Ok(())),
                Err(_) => self.dropped(port).map(Err),
            };
            result.is_some()
        });
        result.unwrap()
    }

    /// Why packets to an address that nobody has are dropped.
    pub(crate) fn udp_to_nobody(&self, from: &OwnedFd, address: IpAddr) -> DropReason {
        let port = next_port();
        let client = udp_client(from, address);
        let mut reason = None;
        wait_until("the drop", || {
            let _ = client.send_to(b"x", SocketAddr::new(address, port));
            reason = self.dropped(port);
            reason.is_some()
        });
        reason.unwrap()
    }

    /// The same by TCP: whether a connection is made.
    pub(crate) fn tcp(
        &self,
        from: &OwnedFd,
        to: &OwnedFd,
        address: IpAddr,
        port: u16,
    ) -> Result<(), DropReason> {
        let listener = inside(to, move || {
            let listener = TcpListener::bind(SocketAddr::new(address, port)).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        });
        let from = from.try_clone().unwrap();
        // Ends by itself once the connection is dropped for long enough.
        std::thread::spawn(move || {
            inside(&from, move || {
                TcpStream::connect_timeout(&SocketAddr::new(address, port), LIMIT).map(drop)
            })
        });
        let mut result = None;
        wait_until("the connection or its drop", || {
            result = match listener.accept() {
                Ok(_) => Some(Ok(())),
                Err(_) => self.dropped(port).map(Err),
            };
            result.is_some()
        });
        result.unwrap()
    }
}

pub(crate) fn udp_client(from: &OwnedFd, address: IpAddr) -> UdpSocket {
    inside(from, move || {
        let any: IpAddr = if address.is_ipv4() {
            [0, 0, 0, 0].into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        UdpSocket::bind((any, 0)).unwrap()
    })
}

/// Whether one of many pings is answered.
pub(crate) fn ping(from: &OwnedFd, address: IpAddr) -> bool {
    inside(from, move || {
        let address = address.to_string();
        command(&["ping", "-n", "-c", "1", "-i", "0.2", "-w", "20", &address])
    })
}

/// Whether one ping is answered at once.
pub(crate) fn ping_once(from: &OwnedFd, address: IpAddr) -> bool {
    inside(from, move || {
        command(&["ping", "-n", "-c", "1", "-W", "1", &address.to_string()])
    })
}

/// Whether a command succeeds.
#[expect(
    clippy::disallowed_methods,
    reason = "tests use an operator's commands"
)]
pub(crate) fn command(words: &[&str]) -> bool {
    let status = std::process::Command::new(words[0])
        .args(&words[1..])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
    status.unwrap().success()
}

/// Whether bytes of the server come back.
pub(crate) fn is_answered(stream: &mut TcpStream) -> io::Result<bool> {
    io::Write::write_all(stream, b"x")?;
    match io::Read::read(stream, &mut [0; 9]) {
        Ok(count) => Ok(count > 0),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
