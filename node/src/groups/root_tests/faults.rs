//! Faults: tables that somebody flushes, restarts, and containers that claim addresses of others.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use contrail_mesos::net::nft::groups::DropReason;
use contrail_mesos::net::testing::{inside, isolated, run};
use contrail_mesos_api::cluster::Admission;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType};

use super::lab::*;
use crate::groups::GroupsSubsystem;
use crate::subsystem::Subsystem as _;

fn is_readable(subsystem: &GroupsSubsystem) -> bool {
    let mut files = [PollFd::new(
        subsystem.notifications().unwrap(),
        PollFlags::POLLIN,
    )];
    poll(&mut files, PollTimeout::ZERO).unwrap() > 0
}

/// Two containers of different groups on one host.
fn strangers() -> (Lab, Container, Container) {
    let lab = Lab::new(1);
    let attach = |name, last, group: &str| {
        let membership = membership(&[group], &[]);
        lab.host(1)
            .attach(name, last, membership, Admission::default())
    };
    let (a, b) = (attach("a", 2, "one"), attach("b", 3, "two"));
    (lab, a, b)
}

#[test]
fn launch_end_and_flush_are_noticed_and_a_restart_changes_nothing() {
    isolated(|| {
        let (lab, a, b) = strangers();
        let host = lab.host(1);
        let mut subsystem = host.subsystem();
        assert!(!is_readable(&subsystem));
        subsystem = lab.apply_with(host, subsystem);
        let report = subsystem.groups().unwrap().report.borrow().clone().unwrap();
        assert_eq!(report.endpoints.len(), 2);
        assert_eq!(report.endpoints[0].id, "a/blue");
        subsystem.receive();
        assert!(!is_readable(&subsystem), "own changes");
        let generation = subsystem.local_generation();

        let c = host.attach("c", 4, membership(&["one"], &[]), Admission::default());
        assert!(is_readable(&subsystem));
        assert!(subsystem.receive() && subsystem.is_urgent());
        subsystem = lab.apply_with(host, subsystem);
        assert!(subsystem.local_generation() > generation);
        assert_eq!(lab.udp(&a.namespace, &c.namespace, c.address(true)), Ok(()));
        let status = subsystem.groups().unwrap().status.borrow().clone();
        assert_eq!(status.container(c.address(false)), Some("c"));
        let members = status.groups.iter().map(|group| group.count);
        assert_eq!(members.sum::<usize>(), 6, "{status:?}");

        let ruleset = || {
            host.run(|| {
                run("nft", "-s list table inet contrail_mesos_groups")
                    + &run("nft", "-s list table bridge contrail_mesos_groups")
            })
        };
        let complete = ruleset().len();
        host.run(|| run("nft", "flush ruleset"));
        assert!(is_readable(&subsystem));
        assert!(subsystem.receive() && !subsystem.is_urgent());
        let generation = subsystem.local_generation();
        subsystem = lab.apply_with(host, subsystem);
        assert_eq!(subsystem.local_generation(), generation, "it is a repair");
        assert_eq!(lab.udp(&a.namespace, &c.namespace, c.address(true)), Ok(()));
        let result = lab.udp(&a.namespace, &b.namespace, b.address(true));
        assert_eq!(result, Err(DropReason::NoSharedGroup));
        // Packets that rules remember are in the sets of a table as nft shows it.
        assert!(ruleset().len() >= complete);
        drop(subsystem);
        assert_eq!(lab.apply(host).changes, []);
        for container in [&a, &b, &c] {
            host.detach(container);
        }
        let mut open = lab;
        open.cluster.overlays.get_mut("blue").unwrap().groups = None;
        open.apply(open.host(1));
        let rules = open.host(1).run(|| run("nft", "list ruleset"));
        assert!(!rules.contains("contrail_mesos_groups"), "{rules}");
    });
}

#[test]
fn without_managers_containers_of_this_host_have_their_groups() {
    isolated(|| {
        let (lab, a, b) = strangers();
        let host = lab.host(1);
        let c = host.attach("c", 4, membership(&["one"], &[]), Admission::default());
        let mut subsystem = host.subsystem();
        let outcome = host.run(move || {
            let planned = subsystem
                .reconcile_alone(crate::subsystem::Mode::DryRun)
                .unwrap();
            assert_eq!(
                run("nft", "list tables"),
                run("nft", "list tables inet")
                    .lines()
                    .filter(|line| !line.contains("groups"))
                    .fold(String::new(), |all, line| all + line + "\n")
            );
            let outcome = subsystem
                .reconcile_alone(crate::subsystem::Mode::Apply)
                .unwrap();
            assert_eq!(outcome, planned);
            outcome
        });
        assert!(!outcome.changes.is_empty());
        for is_v4 in [true, false] {
            let to = |to: &Container| lab.udp(&a.namespace, &to.namespace, to.address(is_v4));
            assert_eq!(to(&c), Ok(()));
            assert_eq!(to(&b), Err(DropReason::NoSharedGroup));
        }
    });
}

#[test]
fn isolation_of_overlays_stays_until_the_managers_answer_after_a_restart() {
    isolated(|| {
        let mut lab = Lab::new(1);
        let blue = lab.cluster.overlays.get_mut("blue").unwrap();
        blue.groups = None;
        blue.isolated = true;
        let host = lab.host(1);
        lab.apply(host);
        let ruleset = || host.run(|| run("nft", "-s list ruleset"));
        let before = ruleset();
        assert!(before.contains("isolated_overlay"), "{before}");
        let alone = |has_managers| {
            let mut subsystem = host.subsystem_with(has_managers);
            let outcome =
                host.run(move || subsystem.reconcile_alone(crate::subsystem::Mode::Apply));
            outcome.unwrap().changes.len()
        };
        assert_eq!((alone(true), ruleset()), (0, before));
        assert_eq!(lab.apply(host).changes, []);
        // Without managers there are no overlays.
        assert!(alone(false) > 0);
        assert!(!ruleset().contains("contrail_mesos_groups"));
    });
}

/// A container, two others of its group, and a thief of another one. The last one is on another host.
struct Cast {
    lab: Lab,
    victim: Container,
    member: Container,
    thief: Container,
    remote: Container,
}

impl Cast {
    fn new() -> Self {
        let mut lab = Lab::new(2);
        let attach = |lab: &Lab, host, name, last, group: &str| {
            let membership = membership(&[group], &[]);
            lab.host(host)
                .attach(name, last, membership, Admission::default())
        };
        let victim = attach(&lab, 1, "victim", 2, "one");
        let member = attach(&lab, 1, "member", 3, "one");
        let thief = attach(&lab, 1, "thief", 4, "two");
        let remote = attach(&lab, 2, "remote", 2, "one");
        for container in [&victim, &member, &thief, &remote] {
            lab.publish(container);
        }
        lab.apply_all();
        Self {
            lab,
            victim,
            member,
            thief,
            remote,
        }
    }

    fn assert_undisturbed(&self) {
        let (from, to) = (&self.member.namespace, &self.victim);
        for address in to.addresses() {
            assert_eq!(self.lab.udp(from, &to.namespace, address), Ok(()));
        }
    }
}

fn spoofed(lab: &Lab) -> u64 {
    lab.host(1).total(DropReason::SpoofedSource)
}

#[test]
fn addresses_of_others_cannot_be_claimed() {
    isolated(|| {
        let cast = Cast::new();
        let Cast {
            lab,
            victim,
            member,
            thief,
            remote,
        } = &cast;
        // Another container's address of this host, one of another host's, and that of a node.
        for (is_v4, address) in [
            (true, member.address(true)),
            (false, member.address(false)),
            (true, remote.address(true)),
            (false, remote.address(false)),
            (true, [44, 128, 0, 2].into()),
        ] {
            let length = if is_v4 { "32" } else { "128 nodad" };
            thief.run(move || run("ip", &format!("addr add {address}/{length} dev eth0")));
            let before = spoofed(lab);
            let target = SocketAddr::new(victim.address(is_v4), next_port());
            let client = thief.run(move || std::net::UdpSocket::bind((address, 0)).unwrap());
            wait_until("the drop", || {
                let _ = client.send_to(b"x", target);
                spoofed(lab) > before
            });
            thief.run(move || {
                run(
                    "ip",
                    &format!("addr del {address}/{length} dev eth0").replace(" nodad", ""),
                )
            });
        }
        // A host outside that claims to be a member.
        let member_address = remote.address(true);
        let outside = lab.host(2);
        outside.run(move || {
            run("ip", &format!("addr add {member_address}/32 dev lo"));
            run("ip", "route replace 9.0.1.0/24 via 192.0.2.1");
        });
        let before = spoofed(lab);
        let target = SocketAddr::new(victim.address(true), next_port());
        let client = outside.run(move || std::net::UdpSocket::bind((member_address, 0)).unwrap());
        wait_until("the drop at the uplink", || {
            let _ = client.send_to(b"x", target);
            spoofed(lab) > before
        });
        cast.assert_undisturbed();
    });
}

#[test]
fn address_of_a_container_cannot_be_used_to_reach_the_outside() {
    isolated(|| {
        let cast = Cast::new();
        let (lab, victim) = (&cast.lab, &cast.victim);
        // The host forwards to a network without groups, which is that of the other host.
        lab.host(1).run(|| {
            run("ip", "addr add 2001:db8::1/64 dev eth0 nodad");
            run("ip", "route add 198.51.100.0/24 via 192.0.2.2");
            run("ip", "route add 2001:db8:1::/64 via 2001:db8::2");
        });
        let outside = lab.host(2);
        let claimed = victim.addresses();
        outside.run(|| run("ip", "addr add 2001:db8::2/64 dev eth0 nodad"));
        // It knows its neighbour before it has addresses that its neighbour does not answer.
        for gateway in ["192.0.2.1", "2001:db8::1"] {
            assert!(ping(&outside.namespace, gateway.parse().unwrap()));
        }
        outside.run(move || {
            run("ip", "route add 198.51.100.0/24 via 192.0.2.1");
            run("ip", "route add 2001:db8:1::/64 via 2001:db8::1");
            run("ip", &format!("addr add {}/32 dev lo", claimed[0]));
            run("ip", &format!("addr add {}/128 dev lo nodad", claimed[1]));
        });
        let targets: [IpAddr; 2] = [[198, 51, 100, 9].into(), "2001:db8:1::9".parse().unwrap()];
        for (source, target) in claimed.into_iter().zip(targets) {
            let before = spoofed(lab);
            let target = SocketAddr::new(target, next_port());
            let client = outside.run(move || std::net::UdpSocket::bind((source, 0)).unwrap());
            wait_until("the drop of what would open a connection", || {
                let _ = client.send_to(b"x", target);
                spoofed(lab) > before
            });
        }
        // The container itself goes out as before.
        outside.run(move || {
            for address in claimed {
                let length = if address.is_ipv4() { 32 } else { 128 };
                run("ip", &format!("addr del {address}/{length} dev lo"));
            }
            run("ip", "addr add 198.51.100.9/32 dev lo");
            run("ip", "addr add 2001:db8:1::9/128 dev lo nodad");
            run("ip", "route replace 9.0.1.0/24 via 192.0.2.1");
            run("ip", "route replace fd09:0:0:1::/64 via 2001:db8::1");
        });
        for target in targets {
            assert!(ping(&victim.namespace, target), "{target}");
        }
    });
}

/// Sends a frame with two priority tags, the inner one of that protocol, and a packet to a UDP port of
/// the gateway.
fn send_tagged(from: &Container, gateway: [u8; 6], inner: u16, source: [u8; 4], port: u16) {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(source);
    packet.extend([9, 0, 1, 1]);
    let words = packet.chunks(2);
    let sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend([0x27, 0x10]);
    packet.extend(port.to_be_bytes());
    packet.extend([0, 8, 0, 0]);
    let mut frame = gateway.to_vec();
    frame.extend([2, 0, 0, 0, 1, 4, 0x81, 0x00, 0, 0]);
    frame.extend(inner.to_be_bytes());
    frame.extend([0x20, 0, 0x08, 0x00]);
    frame.extend(packet);
    from.run(move || {
        let mut interfaces = nix::ifaddrs::getifaddrs().unwrap();
        let link = interfaces.find_map(|interface| {
            let is_eth0 = interface.interface_name == "eth0";
            let address = interface.address.filter(|_| is_eth0)?;
            address.as_link_addr().copied()
        });
        let socket = socket::socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            None,
        );
        let socket = socket.unwrap();
        socket::bind(socket.as_raw_fd(), &link.unwrap()).unwrap();
        let sent = socket::send(socket.as_raw_fd(), &frame, MsgFlags::empty());
        assert_eq!(sent, Ok(frame.len()));
    });
}

#[test]
fn frames_with_several_priority_tags_hide_no_addresses() {
    isolated(|| {
        let (lab, victim, _) = strangers();
        let host = lab.host(1);
        let thief = host.attach("thief", 4, membership(&["two"], &[]), Admission::default());
        let link = host.run(|| run("ip", "-o link show dev m-blue"));
        let mac = link.split("link/ether ").nth(1).unwrap();
        let mac: Vec<u8> = mac[..17]
            .split(':')
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect();
        let gateway: [u8; 6] = mac.try_into().unwrap();
        let IpAddr::V4(stolen) = victim.address(true) else {
            panic!();
        };
        for inner in [0x8100, 0x88a8] {
            // Without any rule, the kernel takes the packet out of both tags.
            let port = next_port();
            let server = host.run(move || std::net::UdpSocket::bind(("9.0.1.1", port)).unwrap());
            server.set_nonblocking(true).unwrap();
            wait_until("the packet", || {
                send_tagged(&thief, gateway, inner, stolen.octets(), port);
                server.recv(&mut [0; 9]).is_ok()
            });
        }
        // The daemon does not know the port: it is of a plain bridge, or was attached without the daemon.
        host.forget_checkpoint(&thief);
        lab.apply(host);
        for inner in [0x8100, 0x88a8] {
            let before = spoofed(&lab);
            let port = next_port();
            let server = host.run(move || std::net::UdpSocket::bind(("9.0.1.1", port)).unwrap());
            server.set_nonblocking(true).unwrap();
            wait_until("the drop", || {
                send_tagged(&thief, gateway, inner, stolen.octets(), port);
                spoofed(&lab) > before
            });
            assert!(server.recv(&mut [0; 9]).is_err());
        }
    });
}

#[test]
fn frames_with_addresses_of_others_are_dropped() {
    isolated(|| {
        let cast = Cast::new();
        let Cast {
            lab, victim, thief, ..
        } = &cast;
        // Answers to the host, which asks for the victim's MAC address, with that of the thief.
        let stolen = victim.addresses();
        thief.run(move || {
            run("ip", &format!("addr add {}/32 dev eth0", stolen[0]));
            run("ip", &format!("addr add {}/128 dev eth0 nodad", stolen[1]));
        });
        for address in stolen {
            let before = spoofed(lab);
            wait_until("the drop of the answer", || {
                let has_answer = lab.host(1).run(move || {
                    run("ip", "neigh flush dev m-blue");
                    command(&["ping", "-n", "-c", "1", "-W", "1", &address.to_string()])
                });
                let neighbours = lab.host(1).run(|| run("ip", "neigh show dev m-blue"));
                let is_stolen = neighbours.lines().any(|line| {
                    line.starts_with(&format!("{address} ")) && !line.contains("02:00:00:00:01:02")
                });
                assert!(!is_stolen, "{neighbours}");
                has_answer && spoofed(lab) > before
            });
        }
        let gateway: IpAddr = [9, 0, 1, 1].into();
        // The victim's MAC address.
        thief.run(move || {
            for address in stolen {
                let length = if address.is_ipv4() { 32 } else { 128 };
                run("ip", &format!("addr del {address}/{length} dev eth0"));
            }
            run("ip", "link set eth0 address 02:00:00:00:01:02");
        });
        let before = spoofed(lab);
        wait_until("the drop of frames", || {
            thief.run(move || {
                let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
                let _ = socket.send_to(b"x", SocketAddr::new(gateway, 9));
            });
            spoofed(lab) > before
        });
        // Frames that hide their addresses from the rules of bridges, such as those with tags.
        thief.run(|| {
            run("ip", "link set eth0 address 02:00:00:00:01:04");
            run("nft", "add table netdev t");
            run(
                "nft",
                "add chain netdev t out { type filter hook egress device eth0 priority 0 ; }",
            );
            run("nft", "add rule netdev t out @ll,96,16 set 0x8100");
        });
        let before = spoofed(lab);
        wait_until("the drop of other frames", || {
            thief.run(move || {
                let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
                let _ = socket.send_to(b"x", SocketAddr::new(gateway, 9));
            });
            spoofed(lab) > before
        });
        cast.assert_undisturbed();
    });
}

/// Sends all the time to a server, and counts what arrives there.
struct Probe {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Probe {
    fn start(from: &Container, to: &Container) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (sent, received) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let mut threads = Vec::new();
        for is_v4 in [true, false] {
            let target = SocketAddr::new(to.address(is_v4), next_port());
            let client = udp_client(&from.namespace, target.ip());
            let server = inside(to.namespace.as_fd(), move || {
                let server = std::net::UdpSocket::bind(target).unwrap();
                server.set_nonblocking(true).unwrap();
                server
            });
            let (stop, sent, received) = (stop.clone(), sent.clone(), received.clone());
            threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let _ = client.send_to(b"x", target);
                    sent.fetch_add(1, Ordering::Relaxed);
                    if server.recv(&mut [0; 9]).is_ok() {
                        received.fetch_add(1, Ordering::Relaxed);
                    }
                    std::thread::sleep(std::time::Duration::from_micros(200));
                }
            }));
        }
        Self {
            stop,
            sent,
            received,
            threads,
        }
    }

    /// Waits until it has sent some more.
    fn go_on(&self) {
        let before = self.sent.load(Ordering::Relaxed);
        wait_until("the probe", || {
            self.sent.load(Ordering::Relaxed) > before + 100
        });
    }

    fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        (
            self.sent.load(Ordering::Relaxed),
            self.received.load(Ordering::Relaxed),
        )
    }
}

#[test]
fn no_packet_passes_between_groups_whatever_happens_to_the_daemon() {
    isolated(|| {
        let (lab, a, b) = strangers();
        let host = lab.host(1);
        let friend = host.attach("friend", 4, membership(&["one"], &[]), Admission::default());
        let probe = Probe::start(&a, &b);
        probe.go_on();
        // Start, restart, flush, a table that is removed, and a reload with other containers.
        lab.apply(host);
        probe.go_on();
        lab.apply(host);
        for damage in [
            "flush ruleset",
            "flush chain inet contrail_mesos_groups guarded4",
            "flush set inet contrail_mesos_groups guarded6",
            "delete table inet contrail_mesos_groups",
        ] {
            host.run(move || run("nft", damage));
            probe.go_on();
            lab.apply(host);
            assert_eq!(
                lab.udp(&a.namespace, &friend.namespace, friend.address(true)),
                Ok(())
            );
        }
        for last in 5..15 {
            host.attach(
                &format!("c{last}"),
                last,
                membership(&["two"], &[]),
                Admission::default(),
            );
            lab.apply(host);
        }
        probe.go_on();
        let (sent, received) = probe.end();
        assert_eq!(received, 0, "of {sent}");
    });
}

#[test]
fn many_members_cost_a_packet_nothing() {
    use contrail_mesos_api::cluster::{Endpoint, Object};
    isolated(|| {
        let mut lab = Lab::new(2);
        let mut containers = Vec::new();
        for (name, last) in [("a", 2), ("b", 3)] {
            let membership = membership(&["one"], &[]);
            containers.push(
                lab.host(1)
                    .attach(name, last, membership, Admission::default()),
            );
        }
        for members in [0_u32, 10_000] {
            for number in 0..members {
                // More addresses than the subnet has containers, but its members all the same.
                let v6 = format!("fd09:0:0:2::1:{number:x}").parse().unwrap();
                lab.cluster.put(Object::Endpoint(Endpoint {
                    node: "agent-2".to_owned(),
                    id: format!("m{number}"),
                    addresses: vec![v6],
                    membership: membership(&["one"], &[]),
                }));
            }
            let host = lab.host(1);
            let begun = std::time::Instant::now();
            lab.apply(host);
            let applied = begun.elapsed();
            let target = SocketAddr::new(containers[1].address(false), next_port());
            let client = udp_client(&containers[0].namespace, target.ip());
            let server = containers[1].run(move || std::net::UdpSocket::bind(target).unwrap());
            server
                .set_read_timeout(Some(std::time::Duration::from_secs(20)))
                .unwrap();
            let begun = std::time::Instant::now();
            for _ in 0..2000 {
                client.send_to(b"x", target).unwrap();
                server.recv(&mut [0; 9]).unwrap();
            }
            println!(
                "{members} members: applied in {applied:?}, a packet takes {:?}",
                begun.elapsed() / 2000
            );
        }
    });
}
