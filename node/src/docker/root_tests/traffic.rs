//! Traffic of Docker's containers: two hosts, the first one with Docker, and a world outside.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::thread;

use contrail_mesos::net::testing::{inside, namespace};

use super::dockerd::IMAGE;
use super::*;
use crate::overlay::root_tests::data_path::{Host, add_host, cluster, node, overlay, veth};

const PORT: u16 = 8080;

struct Lab {
    hosts: [Host; 2],
    world: OwnedFd,
    cluster: ClusterState,
    dockerd: Dockerd,
    rules: DockerRulesSubsystem,
}

/// Whether a ping from a namespace is answered.
#[expect(clippy::disallowed_methods, reason = "a ping as of an operator")]
fn answers(from: &OwnedFd, address: &str) -> bool {
    let address = address.to_owned();
    inside(from, move || {
        let ping = Command::new("ping")
            .args(["-n", "-q", "-c", "1", "-W", "1", &address])
            .output();
        ping.unwrap().status.success()
    })
}

/// The addresses of the container of Mesos on a host.
fn of_mesos(host: &Host) -> [String; 2] {
    let number = host.number;
    [format!("9.0.{number}.2"), format!("fd09:0:0:{number:x}::2")]
}

/// Whether the container of Mesos on one host reaches that on another.
fn connects(from: &Host, to: &Host) -> [bool; 2] {
    of_mesos(to).map(|address| answers(&from.container, &address))
}

impl Lab {
    /// In the calling thread's namespace is the switch.
    fn new() -> Self {
        run("ip", "link add br0 up type bridge");
        let hosts = [1, 2].map(add_host);
        let world = namespace();
        veth("h9", "br0", &world);
        inside(&world, || {
            run("ip", "addr add 192.0.2.9/24 dev eth0");
            run("ip", "addr add 2001:db8::9/64 dev eth0 nodad");
        });
        let cluster = cluster([node(1), node(2)]);
        // If the host forwards already, Docker leaves the policy of its filter as it is.
        let dockerd = hosts[0].run(Dockerd::start);
        for host in &hosts {
            host.apply(&cluster);
        }
        let rules = hosts[0].run(rules);
        Self {
            hosts,
            world,
            cluster,
            dockerd,
            rules,
        }
    }

    /// Compares the rules on the host with Docker, and returns the changes.
    fn compare_rules(&mut self) -> Vec<String> {
        let outcome = self.rules.reconcile(&self.cluster, Mode::Apply);
        changes(outcome.unwrap())
    }

    fn compare_networks(&self) -> Vec<String> {
        let (socket, cluster) = (self.dockerd.socket(), self.cluster.clone());
        self.hosts[0].run(move || {
            let mut subsystem = DockerSubsystem::new(socket).unwrap();
            changes(subsystem.reconcile(&cluster, Mode::Apply).unwrap())
        })
    }

    /// An address of a container.
    fn address(&self, container: &str, network: &str, field: &str) -> String {
        self.dockerd.docker(&format!(
            "container inspect --format {{{{.NetworkSettings.Networks.{network}.{field}}}}} {container}"
        ))
    }

    fn addresses(&self, container: &str) -> [String; 2] {
        ["IPAddress", "GlobalIPv6Address"].map(|field| self.address(container, "blue", field))
    }

    /// Whether a container of Docker's gets an answer.
    fn docker_reaches(&self, container: &str, address: &str) -> bool {
        self.dockerd.succeeds(&format!(
            "exec {container} /bin/busybox ping -c 1 -W 1 {address}"
        ))
    }

    /// The address from which a connection of a container of Docker's comes to a server.
    fn seen_address(&self, container: &str, server: &OwnedFd, address: IpAddr) -> IpAddr {
        let listener = inside(server, move || {
            TcpListener::bind(SocketAddr::new(address, PORT)).unwrap()
        });
        let accepted = thread::spawn(move || {
            let (mut stream, peer) = listener.accept().unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            peer.ip()
        });
        self.dockerd.docker(&format!(
            "exec {container} /bin/busybox nc -w 5 {address} {PORT} -e /bin/busybox true"
        ));
        accepted.join().unwrap()
    }
}

#[test]
fn containers_of_docker_and_mesos_share_the_overlays() {
    isolated(|| {
        let mut lab = Lab::new();
        // Docker alone cuts off what has nothing to do with it.
        until("IPv6 works", || connects(&lab.hosts[0], &lab.hosts[1])[1]);
        assert!(!connects(&lab.hosts[0], &lab.hosts[1])[0]);
        assert_eq!(lab.compare_rules().len(), 2, "the filter, the masquerading");
        assert_eq!(lab.compare_rules(), [""; 0]);
        for (from, to) in [(0, 1), (1, 0)] {
            assert_eq!(connects(&lab.hosts[from], &lab.hosts[to]), [true; 2]);
        }
        assert!(
            answers(&lab.hosts[0].container, "192.0.2.2"),
            "the underlay"
        );

        assert_eq!(lab.compare_networks().len(), 1);
        lab.dockerd.run_container("one", "blue");
        let one = lab.addresses("one");
        assert_eq!(one[0], "9.0.1.130");
        containers_of_both_kinds_reach_each_other(&lab, &one);
        only_what_leaves_the_cluster_is_masqueraded(&lab, &one);
        docker_isolates_its_other_networks(&lab, &one);
        another_overlay_is_reached(&mut lab);
        docker_is_started_again(lab);
    });
}

fn containers_of_both_kinds_reach_each_other(lab: &Lab, one: &[String; 2]) {
    for host in &lab.hosts {
        for (mesos, docker) in of_mesos(host).iter().zip(one) {
            until("Mesos' container reaches Docker's", || {
                answers(&host.container, docker)
            });
            assert!(lab.docker_reaches("one", mesos), "{mesos}");
            assert!(answers(&host.namespace, docker), "from the host");
        }
    }
    let mtu = lab
        .dockerd
        .docker("exec one /bin/busybox cat /sys/class/net/eth0/mtu");
    assert_eq!(mtu, "1450");
}

fn only_what_leaves_the_cluster_is_masqueraded(lab: &Lab, one: &[String; 2]) {
    let own = ["192.0.2.1", "2001:db8::1"];
    let outside = ["192.0.2.9", "2001:db8::9"];
    for family in 0..2 {
        let seen = lab.seen_address("one", &lab.world, outside[family].parse().unwrap());
        assert_eq!(seen, own[family].parse::<IpAddr>().unwrap());
        let remote = &lab.hosts[1];
        let seen = lab.seen_address(
            "one",
            &remote.container,
            of_mesos(remote)[family].parse().unwrap(),
        );
        assert_eq!(seen, one[family].parse::<IpAddr>().unwrap());
    }
    // Who has a route to it does not reach it: Docker's filter holds.
    inside(&lab.world, || {
        run("ip", "route add 9.0.1.0/24 via 192.0.2.1")
    });
    assert!(answers(&lab.world, "9.0.1.2"), "the container of Mesos");
    assert!(!answers(&lab.world, &one[0]));
}

fn docker_isolates_its_other_networks(lab: &Lab, one: &[String; 2]) {
    lab.dockerd
        .docker("network create --subnet 10.99.0.0/24 other");
    lab.dockerd.run_container("apart", "other");
    let apart = lab.address("apart", "other", "IPAddress");
    assert!(!lab.docker_reaches("one", &apart));
    assert!(!lab.docker_reaches("apart", &one[0]));
    // The same for containers of Mesos, which reach everything else.
    lab.dockerd.run_container("default", "bridge");
    let default = lab.address("default", "bridge", "IPAddress");
    for host in &lab.hosts {
        assert!(!answers(&host.container, &apart));
        assert!(!answers(&host.container, &default));
    }
    assert!(answers(&lab.hosts[0].namespace, &apart), "from the host");
    assert!(lab.docker_reaches("apart", &of_mesos(&lab.hosts[0])[0]));
    assert!(answers(&lab.hosts[0].container, &one[0]));
    // A published port is open to all.
    lab.dockerd.docker(&format!(
        "run --detach --name published --network other --publish {PORT}:{PORT} --stop-timeout 1 {IMAGE} /bin/busybox httpd -f -p {PORT}"
    ));
    until("Mesos' container reaches a published port", || {
        inside(&lab.hosts[0].container, || {
            let address = SocketAddr::new([192, 0, 2, 1].into(), PORT);
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
        })
    });
    lab.dockerd.docker("rm --force published");
    // It reaches what it did without us.
    assert!(lab.docker_reaches("apart", "192.0.2.9"));
    assert!(lab.docker_reaches("apart", "10.99.0.1"));
}

fn another_overlay_is_reached(lab: &mut Lab) {
    let mut green = overlay("green", 1025);
    green.subnet = Some("10.20.0.0/16".parse().unwrap());
    green.subnet6 = None;
    lab.cluster.overlays.insert("green".to_owned(), green);
    for number in [1, 2] {
        let node = lab.cluster.nodes.get_mut(&format!("agent-{number}"));
        let node = node.unwrap();
        let mut subnets = node.subnets[0].clone();
        subnets.overlay = "green".to_owned();
        subnets.subnet = Some(format!("10.20.{number}.0/24").parse().unwrap());
        subnets.subnet6 = None;
        node.subnets.push(subnets);
    }
    for host in &lab.hosts {
        host.apply(&lab.cluster);
    }
    assert_eq!(lab.compare_rules().len(), 2);
    assert_eq!(lab.compare_networks().len(), 1);
    lab.dockerd.run_container("two", "green");
    let two = lab.address("two", "green", "IPAddress");
    assert!(lab.docker_reaches("one", &two));
    assert!(answers(&lab.hosts[1].container, &two));
}

/// Docker builds its chains again, and ours stay.
fn docker_is_started_again(mut lab: Lab) {
    lab.dockerd.stop();
    assert_eq!(connects(&lab.hosts[1], &lab.hosts[0]), [true; 2]);
    let mut dockerd = lab.dockerd;
    lab.dockerd = lab.hosts[0].run(move || {
        dockerd.resume();
        dockerd
    });
    assert_eq!(lab.compare_rules(), [""; 0]);
    assert_eq!(lab.compare_networks(), [""; 0]);
    assert_eq!(connects(&lab.hosts[1], &lab.hosts[0]), [true; 2]);
    let rules = lab.hosts[0].run(|| run("iptables-save", "-t filter"));
    assert!(rules.contains(":FORWARD DROP"), "{rules}");
    assert!(!rules.contains("incompatible"), "{rules}");
    // Everything of ours is given back.
    lab.dockerd.docker("rm --force one two apart default");
    lab.cluster.overlays.clear();
    assert_eq!(lab.compare_networks().len(), 2);
    assert_eq!(lab.compare_rules().len(), 2);
    let rules = lab.hosts[0].run(|| run("nft", "list ruleset"));
    assert!(!rules.contains("CONTRAIL-MESOS"), "{rules}");
    assert!(!rules.contains("contrail_mesos_docker"), "{rules}");
}
