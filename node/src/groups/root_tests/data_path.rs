//! Who reaches whom.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use contrail_mesos::net::nft::groups::DropReason;
use contrail_mesos::net::testing::{isolated, run};
use contrail_mesos_api::cluster::{Admission, IngressRule, Object, RuleSource, SecurityGroup};

use super::lab::*;

const NO_SHARED_GROUP: Result<(), DropReason> = Err(DropReason::NoSharedGroup);

/// Attaches containers, `name host last groups`, and publishes them.
fn attach(lab: &mut Lab, all: &[(&str, u8, u8, &[&str])]) -> Vec<Container> {
    let mut containers = Vec::new();
    for (name, host, last, groups) in all {
        let membership = membership(groups, &[]);
        let container = lab
            .host(*host)
            .attach(name, *last, membership, Admission::default());
        lab.publish(&container);
        containers.push(container);
    }
    containers
}

fn shares(one: &Container, other: &Container) -> bool {
    let (one, other) = (&one.membership, &other.membership);
    (one.is_empty() && other.is_empty())
        || one.groups.iter().any(|group| other.groups.contains(group))
}

fn assert_matrix(lab: &Lab, containers: &[Container]) {
    for from in containers {
        for to in containers.iter().filter(|to| to.name != from.name) {
            for address in to.addresses() {
                let result = lab.udp(&from.namespace, &to.namespace, address);
                let expected = if shares(from, to) {
                    Ok(())
                } else {
                    NO_SHARED_GROUP
                };
                assert_eq!(result, expected, "{} to {} {address}", from.name, to.name);
            }
        }
    }
}

#[test]
fn members_of_a_group_reach_each_other_and_others_do_not() {
    isolated(|| {
        let mut lab = Lab::new(2);
        let mut containers = attach(
            &mut lab,
            &[
                ("a", 1, 2, &["one"]),
                ("b", 1, 3, &["two"]),
                ("c", 1, 4, &[]),
                ("d", 2, 2, &["one"]),
                ("e", 2, 3, &["two", "one"]),
                ("f", 2, 4, &[]),
            ],
        );
        lab.apply_all();
        // A module of the kernel may hand bridged frames to the tables of IP, or not.
        for setting in ["0", "1"] {
            for host in &lab.hosts {
                for family in ["ip", "ip6"] {
                    let name = format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables");
                    host.run(move || std::fs::write(name, setting).unwrap());
                }
            }
            assert_matrix(&lab, &containers);
        }
        for is_v4 in [true, false] {
            let [a, b, .., e, _] = &containers[..] else {
                panic!();
            };
            let tcp = |from: &Container, to: &Container| {
                lab.tcp(
                    &from.namespace,
                    &to.namespace,
                    to.address(is_v4),
                    next_port(),
                )
            };
            assert_eq!(tcp(a, e), Ok(()));
            assert_eq!(tcp(a, b), NO_SHARED_GROUP);
            assert!(ping(&a.namespace, e.address(is_v4)));
            let before = lab.host(1).total(DropReason::NoSharedGroup);
            assert!(!ping_once(&a.namespace, b.address(is_v4)));
            assert!(lab.host(1).total(DropReason::NoSharedGroup) > before);
            // The gateway, as always, and the container from its own host and from others.
            let gateway = if is_v4 { "9.0.1.1" } else { "fd09:0:0:1::1" };
            assert!(ping(&a.namespace, gateway.parse().unwrap()));
            for host in &lab.hosts {
                let from = &host.namespace;
                let result = lab.udp(from, &a.namespace, a.address(is_v4));
                assert_eq!(result, Ok(()), "host {}", host.number);
            }
            // All traffic to the outside is allowed, and so are its replies.
            if is_v4 {
                lab.host(2).run(|| {
                    run("ip", "route replace 9.0.1.0/24 via 192.0.2.1");
                });
                assert!(ping(&a.namespace, [192, 0, 2, 2].into()));
                lab.apply_all();
            }
        }
        // An address that no container has.
        let unknown: IpAddr = [9, 0, 1, 99].into();
        let result = lab.udp_to_nobody(&containers[0].namespace, unknown);
        assert_eq!(result, DropReason::UnknownContainer);
        // A container that ends is no member any more, even if its address is used.
        let last = containers.pop().unwrap();
        lab.host(2).detach(&last);
        lab.apply(lab.host(2));
        let result = lab.udp_to_nobody(&containers[2].namespace, last.address(true));
        assert_eq!(result, DropReason::UnknownContainer);
    });
}

#[test]
fn security_groups_and_admission_allow_what_they_name() {
    isolated(|| {
        let mut lab = Lab::new(2);
        let rule = |protocol, ports, source| IngressRule {
            protocol,
            ports,
            source,
        };
        lab.cluster.put(Object::SecurityGroup(SecurityGroup {
            name: "db".to_owned(),
            rules: vec![
                rule(
                    Some(17),
                    Some((5000, 5010)),
                    RuleSource::Group("app".to_owned()),
                ),
                rule(
                    Some(6),
                    Some((80, 80)),
                    RuleSource::Subnet("9.0.2.0/24".parse().unwrap()),
                ),
                rule(
                    Some(1),
                    None,
                    RuleSource::Subnet("0.0.0.0/0".parse().unwrap()),
                ),
            ],
        }));
        let closed = Admission {
            hosts: false,
            mapped_ports: false,
        };
        let db = lab
            .host(1)
            .attach("db", 2, membership(&["backend"], &["db"]), closed);
        let app = lab
            .host(2)
            .attach("app", 2, membership(&[], &["app"]), Admission::default());
        let other = lab
            .host(2)
            .attach("other", 3, membership(&["x"], &[]), Admission::default());
        let friend = lab
            .host(1)
            .attach("friend", 3, membership(&["backend"], &[]), closed);
        // The rules of a group that nobody has written allow nothing.
        lab.cluster.put(Object::SecurityGroup(SecurityGroup {
            name: "app".to_owned(),
            rules: vec![],
        }));
        for container in [&db, &app, &other, &friend] {
            lab.publish(container);
        }
        lab.apply_all();
        for is_v4 in [true, false] {
            let address = db.address(is_v4);
            let udp =
                |from: &Container, port| lab.udp_to(&from.namespace, &db.namespace, address, port);
            let offset = u16::from(is_v4);
            assert_eq!(udp(&app, 5004 + offset), Ok(()));
            assert_eq!(udp(&app, 4000 + offset), NO_SHARED_GROUP, "another port");
            assert_eq!(udp(&other, 5006 + offset), NO_SHARED_GROUP, "another group");
            assert_eq!(udp(&friend, 4100 + offset), Ok(()));
            if is_v4 {
                assert!(ping(&other.namespace, address), "a rule for ICMP");
            } else {
                assert!(!ping_once(&other.namespace, address), "no rule for ICMPv6");
            }
            let tcp = lab.tcp(&other.namespace, &db.namespace, address, 80);
            assert_eq!(tcp.is_ok(), is_v4, "a rule for a subnet");
            // Neither its host nor another one, and replies to what it asks itself.
            for host in &lab.hosts {
                let result = lab.udp(&host.namespace, &db.namespace, address);
                assert_eq!(result, Err(DropReason::Outside), "host {}", host.number);
                let result = lab.udp(&host.namespace, &app.namespace, app.address(is_v4));
                assert_eq!(result, Ok(()), "host {}", host.number);
            }
            let gateway = if is_v4 { "9.0.1.1" } else { "fd09:0:0:1::1" };
            assert!(ping(&db.namespace, gateway.parse().unwrap()));
            let result = lab.udp(&db.namespace, &app.namespace, app.address(is_v4));
            assert_eq!(result, NO_SHARED_GROUP);
        }
    });
}

#[test]
fn mapped_ports_are_for_clients_outside_of_the_networks() {
    isolated(|| {
        let mut lab = Lab::new(2);
        let open = Admission::default();
        let web = lab
            .host(1)
            .attach("web", 2, membership(&["web"], &[]), open);
        let closed = Admission {
            hosts: true,
            mapped_ports: false,
        };
        let shut = lab
            .host(1)
            .attach("shut", 3, membership(&["web"], &[]), closed);
        let other = lab
            .host(2)
            .attach("other", 2, membership(&["x"], &[]), open);
        for container in [&web, &shut, &other] {
            lab.publish(container);
        }
        lab.apply_all();
        let ports = [next_port(), next_port(), next_port()];
        lab.host(1).run(move || {
            run("nft", "add table ip nat");
            run(
                "nft",
                "add chain ip nat pre { type nat hook prerouting priority dstnat ; }",
            );
            for (port, last) in ports.iter().zip([2, 3, 2]) {
                run(
                    "nft",
                    &format!("add rule ip nat pre udp dport {port} dnat to 9.0.1.{last}"),
                );
            }
            run("ip", "addr add 192.0.3.1/32 dev lo");
        });
        // The port is that of the host's address, but the server has the container's.
        let by = |host: [u8; 4], from, to: &Container, port| {
            lab.udp_by(from, &to.namespace, host.into(), to.address(true), port)
        };
        let through = |from, to, port| by([192, 0, 2, 1], from, to, port);
        let outside = &lab.host(2).namespace;
        assert_eq!(through(outside, &web, ports[0]), Ok(()));
        assert_eq!(through(outside, &shut, ports[1]), Err(DropReason::Outside));
        // A container of another group gets no further by the port than without it.
        lab.host(2).run(|| {
            run(
                "ip",
                "route add 192.0.3.1/32 via 44.128.0.1 dev vtep1024 onlink",
            );
        });
        let result = by([192, 0, 3, 1], &other.namespace, &web, ports[2]);
        assert_eq!(result, NO_SHARED_GROUP);
    });
}

#[test]
fn change_of_groups_cuts_a_running_connection_and_lets_a_new_member_in() {
    isolated(|| {
        let mut lab = Lab::new(2);
        let mut containers = attach(
            &mut lab,
            &[
                ("a", 1, 2, &["one"]),
                ("b", 2, 2, &["one"]),
                ("c", 2, 3, &["two"]),
            ],
        );
        lab.apply_all();
        for is_v4 in [true, false] {
            let server = containers[0].address(is_v4);
            let port = next_port();
            let listener = containers[0]
                .run(move || TcpListener::bind(SocketAddr::new(server, port)).unwrap());
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    std::thread::spawn(move || {
                        let mut bytes = [0; 9];
                        while let Ok(count @ 1..) = stream.read(&mut bytes) {
                            stream.write_all(&bytes[..count]).unwrap();
                        }
                    });
                }
            });
            let connect = |from: &Container| {
                from.run(move || {
                    let address = SocketAddr::new(server, port);
                    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(20));
                    stream.unwrap()
                })
            };
            let mut running = connect(&containers[1]);
            running
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            assert!(is_answered(&mut running).unwrap());
            // The other host's container leaves the group, and another one joins it.
            let [_, b, c] = &mut containers[..] else {
                panic!();
            };
            let host = &lab.hosts[1];
            host.change_groups(b, membership(&["two"], &[]));
            host.change_groups(c, membership(&["one"], &[]));
            for container in [&containers[1], &containers[2]] {
                lab.publish(container);
            }
            lab.apply_all();
            assert_eq!(lab.host(1).dropped(port), None);
            running.set_nonblocking(true).unwrap();
            running.write_all(b"x").unwrap();
            wait_until("the drop", || lab.host(1).dropped(port).is_some());
            let mut bytes = [0; 9];
            assert!(running.read(&mut bytes).is_err(), "it was answered");
            let mut new = connect(&containers[2]);
            assert!(is_answered(&mut new).unwrap());
            // Back again, it goes on.
            let [_, b, c] = &mut containers[..] else {
                panic!();
            };
            let host = &lab.hosts[1];
            host.change_groups(b, membership(&["one"], &[]));
            host.change_groups(c, membership(&["two"], &[]));
            for container in [&containers[1], &containers[2]] {
                lab.publish(container);
            }
            lab.apply_all();
            wait_until("the answer", || running.read(&mut bytes).is_ok());
        }
    });
}

#[test]
fn errors_about_packets_of_a_container_reach_it() {
    isolated(|| {
        let mut lab = Lab::new(2);
        let containers = attach(&mut lab, &[("a", 1, 2, &["one"]), ("b", 2, 2, &["one"])]);
        lab.apply_all();
        let [a, b] = &containers[..] else { panic!() };
        // The way to the other container is narrower than both containers think.
        lab.host(2).run(|| {
            run("ip", "link set m-blue mtu 1300");
            run("ip", "link set c2 mtu 1300");
        });
        for is_v4 in [true, false] {
            let address = b.address(is_v4);
            let known = || {
                a.run(move || run("ip", &format!("route get {address}")))
                    .contains("mtu 1300")
            };
            assert!(!known());
            let client = udp_client(&a.namespace, address);
            a.run(|| run("sysctl", "-qw net.ipv4.ip_no_pmtu_disc=0"));
            wait_until("the error", || {
                // An error that came for the packet before it is reported here.
                let _ = client.send_to(&[0; 1380], SocketAddr::new(address, next_port()));
                known()
            });
        }
    });
}

#[test]
fn containers_of_other_overlays_do_not_reach_an_isolated_one() {
    isolated(|| {
        let mut lab = Lab::new(2);
        let blue = lab.cluster.overlays.get_mut("blue").unwrap();
        blue.groups = None;
        blue.isolated = true;
        let mut red = blue.clone();
        red.name = "red".to_owned();
        red.vni = 1025;
        red.isolated = false;
        red.subnet = Some("10.9.0.0/16".parse().unwrap());
        red.subnet6 = None;
        lab.cluster.put(Object::Overlay(red));
        // They are attached as on any network: no rule of routing asks for a mark.
        let containers = attach(
            &mut lab,
            &[("a", 1, 2, &[]), ("b", 2, 2, &[]), ("r", 2, 3, &[])],
        );
        for container in &containers {
            lab.host(container.host).forget_checkpoint(container);
        }
        for host in &lab.hosts {
            host.remove_rules();
        }
        lab.cluster.endpoints.clear();
        lab.apply_all();
        let [a, b, r] = &containers[..] else { panic!() };
        assert_eq!(lab.udp(&b.namespace, &a.namespace, a.address(true)), Ok(()));
        // The third one is moved to the other overlay.
        r.run(|| run("ip", "addr add 10.9.2.3/32 dev eth0"));
        r.run(|| run("ip", "route replace default via 9.0.2.1 src 10.9.2.3"));
        lab.host(2)
            .run(|| run("ip", "route add 10.9.2.3/32 dev m-blue"));
        lab.host(1).run(|| {
            run(
                "ip",
                "route add 10.9.2.0/24 via 44.128.0.2 dev vtep1024 onlink",
            );
        });
        let result = lab.udp(&r.namespace, &a.namespace, a.address(true));
        assert_eq!(result, Err(DropReason::IsolatedOverlay));
        let other: IpAddr = [10, 9, 2, 3].into();
        assert_eq!(
            lab.udp(&a.namespace, &r.namespace, other),
            Ok(()),
            "out of it"
        );
        assert!(ping(&a.namespace, other), "replies");
        for host in &lab.hosts {
            let result = lab.udp(&host.namespace, &a.namespace, a.address(true));
            assert_eq!(result, Ok(()), "host {}", host.number);
        }
    });
}
