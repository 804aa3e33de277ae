//! Who reaches which backend, and what nobody reaches.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener};

use contrail_mesos::net::nft::{Element, Table};
use contrail_mesos::net::testing::{inside, isolated, run};
use contrail_mesos_api::cluster::{BackendState, Reach};

use super::lab::*;

const FAMILIES: [bool; 2] = [true, false];

#[test]
fn every_client_reaches_every_backend() {
    isolated(|| {
        let mut lab = Lab::new();
        let [one, two] = &lab.hosts;
        let backends = [
            (&one.red[1], 1),
            (&one.green, 1),
            (&one.blue[1], 1),
            (&two.blue[0], 2),
            (&two.place, 2),
            (&one.place, 1),
        ];
        let mut services = Vec::new();
        let mut names = Vec::new();
        for ((place, host), number) in backends.into_iter().zip(10..) {
            let key = format!("s{number}.marathon:80/tcp");
            services.push(service(&key, number, both(place, host)));
            let key = format!("s{number}.marathon:80/udp");
            services.push(service(&key, number, both(place, host)));
            names.push((place.name.clone(), number));
        }
        for service in services {
            lab.put(service);
        }
        lab.apply_all();
        let one = &lab.hosts[0];
        for has_bridge_netfilter in [false, true] {
            lab.hosts
                .iter()
                .for_each(|host| host.set_bridge_netfilter(has_bridge_netfilter));
            for is_v4 in FAMILIES {
                for client in one.containers().chain([&one.place]) {
                    for (name, number) in &names {
                        let what = format!(
                            "{} to {name}, IPv4 {is_v4}, bridge netfilter {has_bridge_netfilter}",
                            client.name
                        );
                        let address = vip(*number, is_v4);
                        let (server, source) = client
                            .ask(address, 80)
                            .unwrap_or_else(|error| panic!("{what}: {error}"));
                        assert_eq!(server, *name, "{what}");
                        let answered = ask_by(&client.udp(is_v4), address, 80);
                        assert_eq!(answered, *name, "{what}, UDP");
                        let is_overlay = |name: &str| name.starts_with("m-blu");
                        // Containers of an overlay see each other's addresses, as without a service.
                        if is_overlay(&client.name) && name.starts_with("m-blu2") {
                            assert_eq!(source, client.address(is_v4), "{what}");
                        }
                        if client.name == "host1" && name.starts_with("m-blu2") {
                            let vtep = if is_v4 { "44.128.0.1" } else { "fd44::1" };
                            assert_eq!(source.to_string(), vtep, "{what}");
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn what_no_service_takes_is_refused_but_dns_and_ping() {
    isolated(|| {
        let mut lab = Lab::new();
        let chosen: IpAddr = [10, 77, 0, 1].into();
        let mut fixed = service("10.77.0.1:80/tcp", 0, vec![]);
        fixed.addresses = vec![chosen];
        let mut far = service("far.marathon:80/tcp", 10, both(&lab.hosts[1].red[0], 2));
        // What this host does not reach is no backend.
        for backend in &mut far.backends {
            assert_eq!(backend.reach, Reach::Host);
        }
        let mut away = service("away.marathon:80/tcp", 11, both(&lab.hosts[0].red[0], 1));
        for backend in &mut away.backends {
            backend.reach = Reach::VirtualNetwork;
        }
        let mut draining = service("old.marathon:80/tcp", 12, both(&lab.hosts[0].red[0], 1));
        for backend in &mut draining.backends {
            backend.state = BackendState::Draining;
        }
        far.backends.sort();
        for service in [fixed, far, away, draining] {
            lab.put(service);
        }
        lab.apply_all();
        let one = &lab.hosts[0];
        // Listeners of the host at all of its addresses.
        let _everywhere: Vec<TcpListener> = [80, 81]
            .map(|port| one.run(move || TcpListener::bind(("::", port)).unwrap()))
            .into();
        // The address that the framework chose belongs to somebody.
        lab.hosts[1].run(move || ip(&format!("addr add {chosen}/32 dev lo")));
        one.run(move || ip(&format!("route add {chosen} via 192.0.2.2")));
        let clients = || one.containers().chain([&one.place]);
        for client in clients() {
            for is_v4 in FAMILIES {
                for (number, port) in [
                    (9, 80),
                    (9, 81),
                    (10, 80),
                    (11, 80),
                    (12, 80),
                    (1, 80),
                    (1, 81),
                ] {
                    let error = client.ask(vip(number, is_v4), port).unwrap_err();
                    let what = format!("{} to {number}:{port}: {error}", client.name);
                    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{what}");
                }
                let socket = client.udp(is_v4);
                socket.set_read_timeout(Some(LIMIT)).unwrap();
                socket.connect((vip(9, is_v4), 80)).unwrap();
                socket.send(b"x").unwrap();
                let error = socket.recv(&mut [0; 9]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
            }
            let error = client.ask(chosen, 80).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        }
        // Other ports of that address are not touched.
        let other = Place {
            name: "other".to_owned(),
            namespace: lab.hosts[1].place.namespace.try_clone().unwrap(),
            addresses: [chosen, "2001:db8::2".parse().unwrap()],
        };
        other.serve(81);
        for client in clients() {
            assert_eq!(client.ask(chosen, 81).unwrap().0, "other");
        }
        // DNS of this host, and echo requests.
        let server = Place {
            name: "dns".to_owned(),
            namespace: one.place.namespace.try_clone().unwrap(),
            addresses: [dns(true), dns(false)],
        };
        server.serve(53);
        for client in clients() {
            for is_v4 in FAMILIES {
                let address = dns(is_v4);
                assert_eq!(client.ask(address, 53).unwrap().0, "dns");
                assert_eq!(ask_by(&client.udp(is_v4), address, 53), "dns");
                for number in [1, 10] {
                    let address = vip(number, is_v4);
                    client.run(move || {
                        run("ping", &format!("-n -c 1 -i 0.2 -w 10 {address}"));
                    });
                }
            }
        }
    });
}

#[test]
fn mapped_port_and_service_with_the_same_port_do_not_mix() {
    isolated(|| {
        let mut lab = Lab::new();
        let backends = both(&lab.hosts[0].red[0], 1);
        lab.put(service("web.marathon:80/tcp", 10, backends));
        let one = &lab.hosts[0];
        // Both ports are mapped to another container.
        let target = one.green.addresses;
        one.run(move || {
            let mut elements = vec![Element::bridge("green0", "test")];
            for address in target {
                for port in [80, 53] {
                    elements.push(Element::port(6, port, address, PORT, "test"));
                    elements.push(Element::port(17, port, address, PORT, "test"));
                }
            }
            Table::open().unwrap().add(&elements).unwrap();
        });
        // Before and after: the order of the tables makes no difference.
        lab.apply_all();
        for client in [&one.red[1], &one.blue[0], &one.place, &lab.hosts[1].place] {
            for is_v4 in FAMILIES {
                let host = one.place.address(is_v4);
                assert_eq!(client.ask(host, 80).unwrap().0, one.green.name);
            }
        }
        let server = Place {
            name: "dns".to_owned(),
            namespace: one.place.namespace.try_clone().unwrap(),
            addresses: [dns(true), dns(false)],
        };
        server.serve(53);
        for client in [&one.red[1], &one.blue[0], &one.place] {
            for is_v4 in FAMILIES {
                assert_eq!(client.ask(vip(10, is_v4), 80).unwrap().0, one.red[0].name);
                // An address without a service is none of the host's.
                let error = client.ask(vip(11, is_v4), 80).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
                assert_eq!(client.ask(dns(is_v4), 53).unwrap().0, "dns");
                assert_eq!(ask_by(&client.udp(is_v4), dns(is_v4), 53), "dns");
            }
        }
        // The container behind a mapped port is used directly on its own host, by the port elsewhere.
        let mut mapped = service("mapped.marathon:80/tcp", 12, vec![]);
        for is_v4 in FAMILIES {
            let mut backend = backend(&one.place, 1, 80, is_v4);
            backend.local = Some(SocketAddr::new(one.green.address(is_v4), PORT));
            mapped.backends.push(backend);
        }
        lab.put(mapped);
        lab.apply_all();
        let [one, two] = &lab.hosts;
        for client in [&one.red[1], &one.place, &one.green, &two.red[0], &two.place] {
            for is_v4 in FAMILIES {
                let address = vip(12, is_v4);
                assert_eq!(client.ask(address, 80).unwrap().0, one.green.name);
            }
        }
    });
}

#[test]
fn affinity_keeps_a_client_at_its_backend() {
    isolated(|| {
        let mut lab = Lab::new();
        let one = &lab.hosts[0];
        let backends: Vec<_> = one.containers().flat_map(|place| both(place, 1)).collect();
        let mut sticky = service("sticky.marathon:80/tcp", 10, backends.clone());
        sticky.affinity = Some(10_800);
        lab.put(sticky);
        lab.put(service("any.marathon:80/tcp", 11, backends));
        lab.apply_all();
        let one = &lab.hosts[0];
        for is_v4 in FAMILIES {
            let servers = |client: &Place, number| -> std::collections::BTreeSet<String> {
                let ask = |_| client.ask(vip(number, is_v4), 80).unwrap().0;
                (0..40).map(ask).collect()
            };
            for client in [&one.red[0], &one.place] {
                assert_eq!(servers(client, 10).len(), 1);
                // So many attempts miss two of the five with a chance of 10^-7.
                assert!(servers(client, 11).len() >= 4);
            }
        }
        let address = vip(10, true);
        let way = inside(&one.place.namespace, move || {
            run("ip", &format!("route get {address}"))
        });
        assert!(way.contains("src 192.0.2.1"), "{way}");
    });
}
