//! What changes, and what goes on meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use contrail_mesos::net::testing::{isolated, nft_ruleset, run};
use contrail_mesos_api::cluster::{BackendState, ObjectKey};

use super::lab::*;
use crate::services::ServicesSubsystem;
use crate::subsystem::{Mode, Subsystem as _};

const FAMILIES: [bool; 2] = [true, false];

#[test]
fn no_connection_fails_while_backends_come_and_go() {
    isolated(|| {
        let mut lab = Lab::new();
        let all: Vec<_> = lab.hosts[0]
            .containers()
            .map(|place| both(place, 1))
            .collect();
        let with = |count: usize| service("web.marathon:80/tcp", 10, all[..count].concat());
        lab.put(with(1));
        let (mut subsystem, _) = lab.apply_with(&lab.hosts[0], lab.hosts[0].subsystem());
        let stop = Arc::new(AtomicBool::new(false));
        let threads: Vec<_> = FAMILIES
            .into_iter()
            .map(|is_v4| {
                let one = &lab.hosts[0];
                let client = Place {
                    name: String::new(),
                    namespace: one.blue[0].namespace.try_clone().unwrap(),
                    addresses: one.blue[0].addresses,
                };
                let stop = stop.clone();
                std::thread::spawn(move || {
                    let mut connections = 0;
                    while !stop.load(Ordering::Relaxed) {
                        client.ask(vip(10, is_v4), 80).unwrap();
                        connections += 1;
                        // Each port of the client can be used once.
                        std::thread::sleep(Duration::from_micros(500));
                    }
                    connections
                })
            })
            .collect();
        for round in 0..30 {
            for count in [1, 5, 2, 4, 3] {
                // Others have the same number now and then, so that chains come and go in use.
                lab.put(with(count));
                let number = 20 + round;
                lab.put(service(
                    &format!("s{number}.marathon:80/tcp"),
                    number,
                    all[0].clone(),
                ));
                (subsystem, _) = lab.apply_with(&lab.hosts[0], subsystem);
            }
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            assert!(thread.join().unwrap() > 0);
        }
    });
}

#[test]
fn connections_of_draining_backends_go_on_until_the_task_ends() {
    isolated(|| {
        let mut lab = Lab::new();
        let first = both(&lab.hosts[0].red[0], 1);
        let second = both(&lab.hosts[0].green, 1);
        let names = [
            lab.hosts[0].red[0].name.clone(),
            lab.hosts[0].green.name.clone(),
        ];
        let put = |lab: &mut Lab, backends: &[contrail_mesos_api::cluster::Backend]| {
            for protocol in ["tcp", "udp"] {
                let key = format!("web.marathon:80/{protocol}");
                lab.put(service(&key, 10, backends.to_vec()));
            }
        };
        put(&mut lab, &first);
        let (subsystem, _) = lab.apply_with(&lab.hosts[0], lab.hosts[0].subsystem());
        let clients = |lab: &Lab| {
            let one = &lab.hosts[0];
            let places = [&one.blue[0], &one.red[1], &one.place];
            let connect = |place: &Place, is_v4: bool| {
                let (stream, (name, _)) = place.connect(vip(10, is_v4), 80).unwrap();
                assert_eq!(name, one.red[0].name);
                let socket = place.udp(is_v4);
                assert_eq!(ask_by(&socket, vip(10, is_v4), 80), one.red[0].name);
                (stream, socket, is_v4)
            };
            places
                .into_iter()
                .flat_map(|place| FAMILIES.map(|is_v4| connect(place, is_v4)))
                .collect::<Vec<_>>()
        };
        let mut connections = clients(&lab);
        // The task is being killed, and another one runs.
        let mut draining = first.clone();
        for backend in &mut draining {
            backend.state = BackendState::Draining;
        }
        put(&mut lab, &[draining.clone(), second.clone()].concat());
        let (subsystem, _) = lab.apply_with(&lab.hosts[0], subsystem);
        for (stream, socket, is_v4) in &mut connections {
            assert_eq!(exchange(stream).unwrap().0, names[0]);
            assert_eq!(ask_by(socket, vip(10, *is_v4), 80), names[0]);
        }
        let one = &lab.hosts[0];
        for is_v4 in FAMILIES {
            assert_eq!(one.blue[1].ask(vip(10, is_v4), 80).unwrap().0, names[1]);
            assert_eq!(
                ask_by(&one.blue[1].udp(is_v4), vip(10, is_v4), 80),
                names[1]
            );
        }
        // None is left: new connections are refused, and old ones go on.
        put(&mut lab, &draining);
        let (subsystem, _) = lab.apply_with(&lab.hosts[0], subsystem);
        assert!(lab.hosts[0].red[1].ask(vip(10, true), 80).is_err());
        for (stream, ..) in &mut connections {
            assert_eq!(exchange(stream).unwrap().0, names[0]);
        }
        // The task has ended.
        put(&mut lab, &second);
        let status = subsystem.service_status().unwrap();
        // Those of the second backend, while it was none.
        assert_eq!(status.borrow().forgotten_flows, 4);
        let (_subsystem, _) = lab.apply_with(&lab.hosts[0], subsystem);
        let expected = 4 + u64::try_from(2 * connections.len()).unwrap();
        assert_eq!(status.borrow().forgotten_flows, expected);
        for (stream, socket, is_v4) in &mut connections {
            assert!(exchange(stream).is_err());
            assert_eq!(ask_by(socket, vip(10, *is_v4), 80), names[1]);
        }
    });
}

#[test]
fn restart_changes_nothing_and_finds_flows_of_backends_that_went() {
    isolated(|| {
        let mut lab = Lab::new();
        let (first, second) = (both(&lab.hosts[0].red[0], 1), both(&lab.hosts[0].green, 1));
        lab.put(service("web.marathon:80/udp", 10, first));
        lab.put(service("gone.marathon:80/udp", 11, second.clone()));
        lab.apply(&lab.hosts[0]);
        let one = &lab.hosts[0];
        let sockets = FAMILIES.map(|is_v4| one.blue[0].udp(is_v4));
        for (is_v4, socket) in FAMILIES.into_iter().zip(&sockets) {
            assert_eq!(ask_by(socket, vip(10, is_v4), 80), one.red[0].name);
            assert_eq!(ask_by(socket, vip(11, is_v4), 80), one.green.name);
        }
        let before = one.run(nft_ruleset);
        assert_eq!(lab.plan(one), [""; 0]);
        assert_eq!(lab.apply(one).changes, []);
        assert_eq!(one.run(nft_ruleset).len(), before.len());
        // While no daemon runs, a task is replaced and a service ends.
        lab.put(service("web.marathon:80/udp", 10, second));
        lab.delete("gone.marathon:80/udp");
        let one = &lab.hosts[0];
        lab.apply(one);
        for (is_v4, socket) in FAMILIES.into_iter().zip(&sockets) {
            assert_eq!(ask_by(socket, vip(10, is_v4), 80), one.green.name);
            socket.connect((vip(11, is_v4), 80)).unwrap();
            socket.set_read_timeout(Some(LIMIT)).unwrap();
            socket.send(b"x").unwrap();
            assert!(socket.recv(&mut [0; 64]).is_err(), "it is refused");
        }
    });
}

#[test]
fn whatever_somebody_removes_is_put_back() {
    isolated(|| {
        let mut lab = Lab::new();
        lab.put(service(
            "web.marathon:80/tcp",
            10,
            both(&lab.hosts[0].red[0], 1),
        ));
        let (mut subsystem, outcome) = lab.apply_with(&lab.hosts[0], lab.hosts[0].subsystem());
        assert!(!outcome.changes.is_empty());
        let one = &lab.hosts[0];
        // Its own routes.
        subsystem.receive();
        for (program, damage) in [
            ("nft", "flush ruleset"),
            (
                "nft",
                "delete element inet contrail_mesos_services services4 { 198.18.0.10 . tcp . 80 }",
            ),
            ("ip", "route del local 198.18.0.0/16 dev lo table local"),
            (
                "ip",
                "-6 route del local fd4a:9c1e:57b2::/112 dev lo table local",
            ),
            ("ip", "addr del 2001:db8::1/64 dev eth0"),
            ("ip", "addr add 2001:db8::1/64 dev eth0 nodad"),
        ] {
            one.run(move || run(program, damage));
            // The kernel announces a new address of IPv6 from a thread of its own.
            wait_until(&format!("the notice of {damage}"), || subsystem.receive());
            let outcome;
            (subsystem, outcome) = lab.apply_with(one, subsystem);
            assert!(!outcome.changes.is_empty(), "{damage}");
            assert_eq!(lab.plan(one), [""; 0], "{damage}");
            for client in [&one.blue[0], &one.place] {
                let answer = client.ask(vip(10, true), 80).unwrap();
                assert_eq!(answer.0, one.red[0].name, "{damage}");
            }
            subsystem.receive();
        }
    });
}

#[test]
fn nothing_is_withdrawn_before_the_managers_know_all_services() {
    isolated(|| {
        let mut lab = Lab::new();
        lab.put(service(
            "web.marathon:80/tcp",
            10,
            both(&lab.hosts[0].red[0], 1),
        ));
        lab.apply(&lab.hosts[0]);
        let is_answered =
            |lab: &Lab, number| lab.hosts[0].blue[0].ask(vip(number, true), 80).is_ok();
        // A manager that has just begun to lead.
        lab.cluster.delete(&ObjectKey::ServicesComplete);
        lab.delete("web.marathon:80/tcp");
        lab.put(service(
            "new.marathon:80/tcp",
            11,
            both(&lab.hosts[0].green, 1),
        ));
        let (subsystem, _) = lab.apply_with(&lab.hosts[0], lab.hosts[0].subsystem());
        assert!(is_answered(&lab, 10) && is_answered(&lab, 11));
        let settings = lab.cluster.service_settings.take();
        let (subsystem, _) = lab.apply_with(&lab.hosts[0], subsystem);
        assert!(is_answered(&lab, 10) && is_answered(&lab, 11));
        lab.cluster.service_settings = settings;
        lab.cluster.has_complete_services = true;
        let (subsystem, _) = lab.apply_with(&lab.hosts[0], subsystem);
        assert!(!is_answered(&lab, 10) && is_answered(&lab, 11));
        let applied = subsystem.services().unwrap().applied;
        assert_eq!(applied.borrow().services.len(), 1);
        // Without services there is nothing left.
        lab.cluster.service_settings = None;
        let _subsystem = lab.apply_with(&lab.hosts[0], subsystem);
        assert_eq!(applied.borrow().services.len(), 0);
        lab.hosts[0].run(|| {
            assert!(!nft_ruleset().contains("contrail_mesos_services"));
            for family in ["-4", "-6"] {
                let routes = run("ip", &format!("{family} route list table local proto 133"));
                assert_eq!(routes, "", "{family}");
            }
        });
    });
}

#[test]
fn range_that_overlaps_a_network_of_the_host_is_withdrawn() {
    isolated(|| {
        let mut lab = Lab::new();
        lab.put(service(
            "web.marathon:80/tcp",
            10,
            both(&lab.hosts[0].red[0], 1),
        ));
        let (subsystem, _) = lab.apply_with(&lab.hosts[0], lab.hosts[0].subsystem());
        let one = &lab.hosts[0];
        assert!(one.blue[0].ask(vip(10, true), 80).is_ok());
        let is_clean = |lab: &Lab| {
            lab.hosts[0].run(|| {
                assert!(!nft_ruleset().contains("contrail_mesos_services"));
                let routes = run("ip", "route list table local proto 133");
                assert_eq!(routes, "");
            });
        };
        // The network is part of the range, or the range of it.
        let mut subsystem = subsystem;
        let compare = |lab: &Lab, mut subsystem: ServicesSubsystem| {
            let state = lab.state_of(&lab.hosts[0]);
            lab.hosts[0].run(move || {
                let outcome = subsystem.reconcile(&state, Mode::Apply).unwrap();
                (subsystem, outcome.problems.join(" "))
            })
        };
        let applied = subsystem.services().unwrap().applied;
        for net in ["198.18.7.1/24", "198.0.0.1/8"] {
            one.run(move || run("ip", &format!("addr add {net} dev eth0")));
            let problem;
            (subsystem, problem) = compare(&lab, subsystem);
            assert!(
                problem.contains("the range 198.18.0.0/16 of services overlaps 198."),
                "{problem}"
            );
            is_clean(&lab);
            assert!(applied.borrow().services.is_empty());
            let neighbour = lab.hosts[1].place.address(true);
            assert!(one.place.ask(neighbour, PORT).is_ok());
            one.run(move || run("ip", &format!("addr del {net} dev eth0")));
            (subsystem, _) = lab.apply_with(one, subsystem);
            assert!(one.blue[0].ask(vip(10, true), 80).is_ok());
        }
        // A node is in the range.
        let node = lab.cluster.nodes.get_mut("agent-2").unwrap();
        node.address = [198, 18, 0, 77].into();
        let (_subsystem, problem) = compare(&lab, subsystem);
        assert!(
            problem.contains("has the address 198.18.0.77 of the node agent-2"),
            "{problem}"
        );
        is_clean(&lab);
    });
}

#[test]
fn host_without_ipv6_on_loopback_has_services_by_ipv4_only() {
    isolated(|| {
        let mut lab = Lab::new();
        lab.put(service(
            "web.marathon:80/tcp",
            10,
            both(&lab.hosts[0].red[0], 1),
        ));
        let one = &lab.hosts[0];
        one.run(|| run("sysctl", "-qw net.ipv6.conf.lo.disable_ipv6=1"));
        lab.apply(one);
        assert_eq!(lab.plan(one), [""; 0]);
        for client in [&one.blue[0], &one.place] {
            assert_eq!(client.ask(vip(10, true), 80).unwrap().0, one.red[0].name);
        }
    });
}

#[test]
fn replies_to_an_address_of_the_range_are_not_refused() {
    isolated(|| {
        let mut lab = Lab::new();
        lab.put(service(
            "web.marathon:80/tcp",
            10,
            both(&lab.hosts[0].red[0], 1),
        ));
        let one = &lab.hosts[0];
        lab.apply(one);
        // The whole range is local, so the host's clients may take any of its addresses.
        let socket = one.run(|| std::net::UdpSocket::bind("198.18.0.50:0").unwrap());
        assert_eq!(
            ask_by(&socket, one.place.address(true), PORT),
            one.place.name
        );
    });
}

#[test]
fn thousand_flapping_services_leave_what_must_be() {
    isolated(|| {
        let mut lab = Lab::new();
        let all: Vec<_> = lab.hosts[0]
            .containers()
            .map(|place| both(place, 1))
            .collect();
        let mut subsystem = lab.hosts[0].subsystem();
        for round in 0..12_usize {
            for number in 0..1000_usize {
                let key = format!("s{number}.marathon:80/tcp");
                let count = (number * 7 + round * 3) % 6;
                if count == 0 && number % 2 == 0 {
                    lab.delete(&key);
                    continue;
                }
                let mut flapping = service(&key, 10, all[..count].concat());
                let [high, low] = u16::try_from(0x100 + number).unwrap().to_be_bytes();
                flapping.addresses = vec![
                    [198, 18, high, low].into(),
                    format!("fd4a:9c1e:57b2::{:x}", 0x100 + number)
                        .parse()
                        .unwrap(),
                ];
                flapping.affinity = (number % 5 == round % 5).then_some(1);
                lab.put(flapping);
            }
            (subsystem, _) = lab.apply_with(&lab.hosts[0], subsystem);
            if round % 4 == 3 {
                assert_eq!(lab.plan(&lab.hosts[0]), [""; 0]);
            }
        }
        // Twice the same costs nothing.
        let begun = std::time::Instant::now();
        let (_, outcome) = lab.apply_with(&lab.hosts[0], subsystem);
        assert_eq!(outcome.changes, []);
        println!(
            "nothing to do for a thousand services: {:?}",
            begun.elapsed()
        );
    });
}

#[test]
fn ten_thousand_services_come_and_go_at_once() {
    isolated(|| {
        const SERVICES: u16 = 10_000;
        let mut lab = Lab::new();
        let stays = service("stays.marathon:80/tcp", 10, both(&lab.hosts[0].red[0], 1));
        lab.put(stays);
        let all: Vec<_> = lab.hosts[0]
            .containers()
            .flat_map(|place| both(place, 1))
            .collect();
        let host = &lab.hosts[0];
        let (subsystem, _) = lab.apply_with(host, host.subsystem());
        let alone = host.run(nft_ruleset);
        for number in 0..SERVICES {
            let mut many = service(&format!("s{number}.marathon:80/tcp"), 10, all[..6].to_vec());
            let [high, low] = (0x1000 + number).to_be_bytes();
            many.addresses = vec![[198, 18, high, low].into()];
            lab.put(many);
        }
        let (subsystem, _) = lab.apply_with(&lab.hosts[0], subsystem);
        let table = lab.hosts[0].run(nft_ruleset);
        assert!(
            table.contains("198.18.16.0 . tcp . 80"),
            "the services are not there"
        );
        for number in 0..SERVICES {
            lab.delete(&format!("s{number}.marathon:80/tcp"));
        }
        lab.apply_with(&lab.hosts[0], subsystem);
        // The chains for so many backends stay, for the next service that has them.
        let elements = |table: &str| {
            let lines = table.lines().map(str::trim);
            let of_services = lines.filter(|line| line.contains(" . tcp . 80 "));
            of_services.map(str::to_owned).collect::<Vec<_>>()
        };
        let left = lab.hosts[0].run(nft_ruleset);
        assert_eq!(elements(&left), elements(&alone));
        let client = &lab.hosts[0].red[1];
        client.ask(vip(10, true), 80).unwrap();
    });
}

#[test]
fn dry_run_changes_nothing() {
    isolated(|| {
        let mut lab = Lab::new();
        lab.put(service(
            "web.marathon:80/tcp",
            10,
            both(&lab.hosts[0].red[0], 1),
        ));
        let one = &lab.hosts[0];
        let before = one.run(nft_ruleset);
        let (state, mut subsystem) = (lab.state_of(one), one.subsystem());
        let changes = one.run(move || subsystem.reconcile(&state, Mode::DryRun).unwrap().changes);
        assert!(changes.len() >= 4, "{changes:?}");
        assert_eq!(one.run(nft_ruleset), before);
    });
}
