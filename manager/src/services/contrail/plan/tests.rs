//! What becomes of services on Contrail.

use std::net::SocketAddr;

use contrail_mesos_api::cluster::{Backend, Reach};

use super::*;
use crate::model::Subnet;
use crate::vnc::FqName;

/// The network `198.18.0.0/24` and `fd00:18::/64`, with Contrail's defaults.
fn network() -> Network {
    let subnet = |net: &str, gateway: &str, dns: &str| Subnet {
        net: net.parse().unwrap(),
        uuid: None,
        gateway: gateway.parse().ok(),
        dns: dns.parse().ok(),
    };
    Network {
        uuid: uuid::Uuid::nil(),
        name: FqName::new(["default-domain", "p", "services"]),
        subnets: vec![
            subnet("198.18.0.0/24", "198.18.0.254", "198.18.0.253"),
            subnet("fd00:18::/64", "fd00:18::ffff", "fd00:18::fffe"),
        ],
    }
}

/// A plan without pools.
fn plan(services: &ServiceMap, network: &Network) -> ServicePlan {
    super::plan(
        services,
        AddressSpace {
            network,
            pools: &[],
        },
    )
}

/// A backend on Contrail, whose container and task are named after its address.
fn backend(address: &str) -> DesiredBackend {
    let address: SocketAddr = address.parse().unwrap();
    DesiredBackend {
        backend: Backend {
            address,
            local: None,
            host: "10.84.0.1".parse().unwrap(),
            reach: Reach::VirtualNetwork,
            state: BackendState::Ready,
            task: format!("task of {}", address.ip()),
        },
        interface: Some(ContrailInterface {
            container: format!("container of {}", address.ip()),
            address: address.ip(),
        }),
    }
}

fn draining(address: &str) -> DesiredBackend {
    let mut backend = backend(address);
    backend.backend.state = BackendState::Draining;
    backend
}

fn on_host(address: &str) -> DesiredBackend {
    let mut backend = backend(address);
    backend.interface = None;
    backend.backend.reach = Reach::Cluster;
    backend
}

fn services(entries: Vec<(&str, &[&str], Vec<DesiredBackend>)>) -> ServiceMap {
    let entries = entries.into_iter().map(|(key, addresses, mut backends)| {
        backends.sort();
        let service = DesiredService {
            backends,
            affinity: None,
            frameworks: vec!["marathon".to_owned()],
        };
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        (key.parse().unwrap(), (addresses, service))
    });
    entries.collect()
}

/// Address, names, ports and the addresses of the interfaces.
fn summary(plan: &ServicePlan) -> Vec<String> {
    let vips = plan.vips.iter().map(|(address, vip)| {
        let names: Vec<&str> = vip.names.iter().map(String::as_str).collect();
        let ports = vip.ports.port_maps();
        let ports = ports
            .iter()
            .map(|map| format!("{} {}>{}", map.protocol, map.src_port, map.dst_port));
        let interfaces = vip.interfaces.iter().map(|of| of.address.to_string());
        format!(
            "{address} {} [{}] [{}]",
            names.join(" "),
            ports.collect::<Vec<_>>().join(" "),
            interfaces.collect::<Vec<_>>().join(" ")
        )
    });
    vips.collect()
}

/// The subjects of problems with a word of each.
fn assert_problems(plan: &ServicePlan, expected: &[(&str, &str)]) {
    let found = plan.problems.iter().zip(expected);
    for (problem, (subject, word)) in found {
        assert_eq!(&problem.subject, subject);
        assert!(problem.message.contains(word), "{}", problem.message);
        assert_eq!(problem.framework, "marathon");
    }
    assert_eq!(plan.problems.len(), expected.len(), "{:?}", plan.problems);
}

#[test]
fn services_of_one_address_are_one_floating_ip() {
    let both = || vec![backend("10.1.1.2:8080"), backend("10.1.1.3:8080")];
    let secure = || vec![backend("10.1.1.2:8443"), backend("10.1.1.3:8443")];
    let plan = plan(
        &services(vec![
            ("web.marathon:80/tcp", &["198.18.0.9"], both()),
            ("web.marathon:443/tcp", &["198.18.0.9"], secure()),
            ("web.marathon:80/udp", &["198.18.0.9"], both()),
            ("198.18.0.20:53/udp", &["198.18.0.20"], both()),
            (
                "host.marathon:80/tcp",
                &["198.18.0.10"],
                vec![on_host("10.84.0.1:31000")],
            ),
            ("empty.marathon:80/tcp", &["198.18.0.11"], vec![]),
        ]),
        &network(),
    );
    assert_problems(&plan, &[]);
    assert_eq!(
        summary(&plan),
        [
            "198.18.0.9 web.marathon [TCP 80>8080 TCP 443>8443 UDP 80>8080] [10.1.1.2 10.1.1.3]",
            "198.18.0.20  [UDP 53>8080] [10.1.1.2 10.1.1.3]",
        ]
    );
}

#[test]
fn each_family_has_its_backends() {
    let plan = plan(
        &services(vec![(
            "web.marathon:80/tcp",
            &["198.18.0.9", "fd00:18::9"],
            vec![backend("10.1.1.2:80"), backend("[fd00:1::2]:80")],
        )]),
        &network(),
    );
    assert_problems(&plan, &[]);
    assert_eq!(
        summary(&plan),
        [
            "198.18.0.9 web.marathon [TCP 80>80] [10.1.1.2]",
            "fd00:18::9 web.marathon [TCP 80>80] [fd00:1::2]",
        ]
    );
}

#[test]
fn draining_backend_gets_no_connections_and_decides_nothing() {
    let plan = plan(
        &services(vec![
            (
                "web.marathon:80/tcp",
                &["198.18.0.9"],
                vec![backend("10.1.1.2:9090"), draining("10.1.1.3:8080")],
            ),
            // Its address stays, and its connections fail.
            (
                "old.marathon:80/tcp",
                &["198.18.0.10"],
                vec![draining("10.1.1.4:80")],
            ),
        ]),
        &network(),
    );
    assert_problems(&plan, &[]);
    assert_eq!(
        summary(&plan),
        [
            "198.18.0.9 web.marathon [TCP 80>9090] [10.1.1.2]",
            "198.18.0.10 old.marathon [TCP 80>80] []",
        ]
    );
}

#[test]
fn mapped_port_of_the_host_is_replaced_by_the_container() {
    let mut mapped = backend("10.1.1.2:8080");
    mapped.backend.local = Some(mapped.backend.address);
    mapped.backend.address = "10.84.0.1:31005".parse().unwrap();
    let mut unknown = mapped.clone();
    unknown.backend.local = None;
    let plan = plan(
        &services(vec![
            ("web.marathon:80/tcp", &["198.18.0.9"], vec![mapped]),
            ("odd.marathon:80/tcp", &["198.18.0.10"], vec![unknown]),
        ]),
        &network(),
    );
    assert_problems(&plan, &[("odd.marathon:80/tcp", "is not known")]);
    assert_eq!(
        summary(&plan),
        ["198.18.0.9 web.marathon [TCP 80>8080] [10.1.1.2]"]
    );
}

#[test]
fn what_contrail_cannot_express_is_refused_alone() {
    let plan = plan(
        &services(vec![
            (
                "a.marathon:80/tcp",
                &["198.18.0.9"],
                vec![backend("10.1.1.2:31001"), backend("10.1.1.3:31002")],
            ),
            (
                "b.marathon:80/sctp",
                &["198.18.0.10"],
                vec![backend("10.1.1.2:80")],
            ),
            (
                "b.marathon:80/tcp",
                &["198.18.0.10"],
                vec![backend("10.1.1.2:80")],
            ),
            (
                "c.marathon:80/tcp",
                &["11.0.0.1"],
                vec![backend("10.1.1.2:80")],
            ),
            (
                "d.marathon:80/tcp",
                &["198.18.0.254"],
                vec![backend("10.1.1.2:80")],
            ),
            (
                "e.marathon:80/tcp",
                &["198.18.0.11"],
                vec![backend("10.1.1.2:80"), on_host("10.84.0.1:31000")],
            ),
        ]),
        &network(),
    );
    assert_problems(
        &plan,
        &[
            ("a.marathon:80/tcp", "31001, 31002"),
            ("b.marathon:80/sctp", "SCTP"),
            ("c.marathon:80/tcp", "198.18.0.0/24"),
            ("d.marathon:80/tcp", "the gateway"),
            ("e.marathon:80/tcp", "1 of its 2 backends"),
        ],
    );
    assert_eq!(
        summary(&plan),
        [
            "198.18.0.10 b.marathon [TCP 80>80] [10.1.1.2]",
            "198.18.0.11 e.marathon [TCP 80>80] [10.1.1.2]",
        ]
    );
}

#[test]
fn ports_with_other_backends_are_refused() {
    let two = || vec![backend("10.1.1.2:80"), backend("10.1.1.3:80")];
    let plan = plan(
        &services(vec![
            (
                "web.marathon:22/tcp",
                &["198.18.0.9"],
                vec![backend("10.1.1.9:22")],
            ),
            ("web.marathon:80/tcp", &["198.18.0.9"], two()),
            ("web.marathon:81/tcp", &["198.18.0.9"], two()),
        ]),
        &network(),
    );
    assert_problems(&plan, &[("web.marathon:22/tcp", "web.marathon:80/tcp")]);
    assert_eq!(
        summary(&plan),
        ["198.18.0.9 web.marathon [TCP 80>80 TCP 81>80] [10.1.1.2 10.1.1.3]"]
    );
}

#[test]
fn port_maps_are_read_back() {
    let map = |protocol: &str, src_port, dst_port| PortMap {
        protocol: protocol.to_owned(),
        src_port,
        dst_port,
    };
    let maps = vec![map("TCP", 80, 8080), map("UDP", 53, 53)];
    assert_eq!(Ports::of(&maps).port_maps(), maps);
    let others = [map("udp", 53, 53), map("icmp", 1, 1), map("tcp", 80, 8080)];
    assert_eq!(Ports::of(&others).port_maps(), maps);
}

#[test]
fn addresses_of_pools_are_taken_if_the_network_of_services_does_not_have_them() {
    let pool = |name: &str, net: &str| Pool {
        uuid: uuid::Uuid::nil(),
        name: FqName::new(["default-domain", "p", name, "pool"]),
        network: Network {
            uuid: uuid::Uuid::nil(),
            name: FqName::new(["default-domain", "p", name]),
            subnets: vec![Subnet {
                net: net.parse().unwrap(),
                uuid: None,
                gateway: net.replace(".0/24", ".254").parse().ok(),
                dns: None,
            }],
        },
    };
    let pools = [
        pool("out", "203.0.113.0/24"),
        pool("twice", "198.18.0.0/24"),
    ];
    let network = network();
    let backends = || vec![backend("10.1.1.2:80")];
    let services = services(vec![
        ("203.0.113.9:80/tcp", &["203.0.113.9"], backends()),
        ("203.0.113.254:80/tcp", &["203.0.113.254"], backends()),
        ("192.0.2.9:80/tcp", &["192.0.2.9"], backends()),
        ("web.marathon:80/tcp", &["198.18.0.9"], backends()),
    ]);
    let space = AddressSpace {
        network: &network,
        pools: &pools,
    };
    let plan = super::plan(&services, space);
    let of_pools: Vec<(String, Option<&FqName>)> = plan
        .vips
        .iter()
        .map(|(address, vip)| (address.to_string(), vip.pool.as_ref()))
        .collect();
    assert_eq!(
        of_pools,
        [
            ("198.18.0.9".to_owned(), None),
            ("203.0.113.9".to_owned(), Some(&pools[0].name)),
        ]
    );
    let subjects: Vec<&str> = plan
        .problems
        .iter()
        .map(|problem| problem.subject.as_str())
        .collect();
    assert_eq!(subjects, ["192.0.2.9:80/tcp", "203.0.113.254:80/tcp"]);
    assert!(
        plan.problems[1].message.contains("the gateway of"),
        "{:?}",
        plan.problems
    );
}
