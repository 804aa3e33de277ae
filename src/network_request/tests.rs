use super::*;
use crate::config::Source;
use crate::proto::mesos::{Label, Labels};

fn config() -> Config {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("agent.toml");
    let toml = "[[network]]\nname = 'blue'\nprovider = 'bridge'\nsubnet = '10.1.0.0/24'\n\
                [[network]]\nname = 'red'\nprovider = 'bridge'\nsubnet = '10.2.0.0/24'\n\
                [contrail]\nmanagers = ['192.0.2.1']\n\
                [[network]]\nname = 'contrail-cni-plugin'\nprovider = 'contrail'";
    std::fs::write(&path, toml).expect("a file");
    Source::file(path).load().expect("a configuration")
}

fn named(name: &[u8]) -> NetworkInfo {
    NetworkInfo {
        name: Some(name.to_vec()),
        ..NetworkInfo::default()
    }
}

fn container(network_infos: Vec<NetworkInfo>) -> ContainerInfo {
    ContainerInfo {
        r#type: container_info::Type::Mesos.into(),
        hostname: None,
        network_infos,
    }
}

fn parse(container: &ContainerInfo) -> Result<ContainerRequest, RequestError> {
    super::parse(&ContainerId::top_level("c1"), container, &config())
}

fn problems(container: &ContainerInfo) -> String {
    parse(container).expect_err("must be refused").to_string()
}

#[test]
fn named_networks_become_interfaces_in_order() {
    let container = container(vec![named(b"red"), NetworkInfo::default(), named(b"blue")]);
    assert!(requests_networks(&container));
    let request = parse(&container).expect("a good request");
    let interfaces: Vec<_> = request
        .networks
        .iter()
        .map(|network| (network.interface.as_str(), network.network.name.as_str()))
        .collect();
    assert_eq!(interfaces, [("eth0", "red"), ("eth1", "blue")]);
    assert_eq!(request.hostname, "c1");
    assert_eq!(request.networks[0].addresses, [AddressRequest::Any]);
}

#[test]
fn empty_name_counts_as_unknown_network() {
    let container = container(vec![named(b"")]);
    assert!(requests_networks(&container));
    assert_eq!(
        problems(&container),
        "unknown network \"\"; this agent has: blue, red, contrail-cni-plugin"
    );
}

#[test]
fn hostile_names_are_quoted_and_shortened() {
    for (name, expected) in [
        (
            b"../etc\n$(reboot)'\"".as_slice(),
            r#""../etc\n$(reboot)'\"""#,
        ),
        (b"\xff\xfe", "\"\u{fffd}\u{fffd}\""),
        (&[b'x'; 300], "… (300 bytes)"),
    ] {
        let message = problems(&container(vec![named(name)]));
        assert!(message.contains(expected), "{expected} is not in {message}");
        assert!(
            !message.contains('\n') && message.len() < 400,
            "{message:?}"
        );
    }
}

#[test]
fn every_problem_is_reported_at_once() {
    use network_info::PortMapping;
    let port = |host_port, container_port, protocol: &[u8]| PortMapping {
        host_port,
        container_port,
        protocol: Some(protocol.to_vec()),
    };
    let mut info = named(b"blue");
    info.ip_addresses = vec![
        IpAddress {
            protocol: Some(network_info::Protocol::Ipv6.into()),
            ip_address: Some(b"10.1.0.5".to_vec()),
        },
        IpAddress {
            protocol: None,
            ip_address: Some(b"10.1.0.256".to_vec()),
        },
        IpAddress {
            protocol: Some(9),
            ip_address: None,
        },
    ];
    info.port_mappings = vec![
        port(0, 80, b"tcp"),
        port(70000, 80, b"tcp"),
        port(8080, 80, b"icmp"),
        port(8081, 80, b"TCP"),
        port(8081, 81, b"udp,tcp"),
    ];
    info.labels = Some(Labels {
        labels: vec![Label {
            key: b"k".to_vec(),
            value: Some(vec![0xff]),
        }],
    });
    let mut container = container(vec![info, named(b"blue")]);
    container.hostname = Some(b"a b".to_vec());
    let message = problems(&container);
    for expected in [
        "\"a b\" is not a hostname",
        "10.1.0.5 is an IPv4 address, but its protocol says IPv6",
        "\"10.1.0.256\" is not an IP address",
        "there is no address family 9",
        "host port 0 is not between 1 and 65535",
        "host port 70000 is not between",
        "\"icmp\" is not a transport protocol",
        "host port 8081/tcp is mapped twice",
        "the value \"\u{fffd}\" of label \"k\" is not UTF-8",
        "network \"blue\" is named twice",
    ] {
        assert!(
            message.contains(expected),
            "{expected:?} is not in {message}"
        );
    }
}

#[test]
fn docker_container_is_refused() {
    let mut container = container(vec![named(b"blue")]);
    container.r#type = container_info::Type::Docker.into();
    assert!(problems(&container).contains("only containers of type MESOS"));
}

#[test]
fn protocol_lists_and_address_families_are_parsed() {
    let mut info = named(b"blue");
    info.port_mappings = vec![network_info::PortMapping {
        host_port: 53,
        container_port: 5353,
        protocol: Some(b"udp, TCP".to_vec()),
    }];
    info.ip_addresses = vec![
        IpAddress::default(),
        IpAddress {
            protocol: Some(network_info::Protocol::Ipv6.into()),
            ip_address: None,
        },
        IpAddress {
            protocol: None,
            ip_address: Some(b"fd00::5".to_vec()),
        },
    ];
    let request = parse(&container(vec![info])).expect("a good request");
    let protocols: Vec<_> = request.networks[0]
        .ports
        .iter()
        .map(|port| port.protocol)
        .collect();
    assert_eq!(protocols, [Protocol::Udp, Protocol::Tcp]);
    assert_eq!(
        request.networks[0].addresses,
        [
            AddressRequest::Any,
            AddressRequest::V6,
            AddressRequest::Static("fd00::5".parse().expect("an address")),
        ]
    );
}

fn labelled(name: &[u8], labels: &[(&str, &str)]) -> NetworkInfo {
    let label = |(key, value): &(&str, &str)| Label {
        key: key.as_bytes().to_vec(),
        value: Some(value.as_bytes().to_vec()),
    };
    NetworkInfo {
        labels: Some(Labels {
            labels: labels.iter().map(label).collect(),
        }),
        ..named(name)
    }
}

#[test]
fn networks_label_becomes_one_interface_per_network() {
    let mut info = labelled(
        b"contrail-cni-plugin",
        &[
            ("networks", "blue, default-domain:default-project:red"),
            ("security-groups", "web"),
            ("floating-ips", "d:p:public:pool"),
        ],
    );
    info.ip_addresses = vec![IpAddress {
        protocol: None,
        ip_address: Some(b"10.0.0.7".to_vec()),
    }];
    let request = parse(&container(vec![named(b"red"), info, named(b"blue")]));
    let request = request.expect("a good request");
    let interfaces: Vec<_> = request
        .networks
        .iter()
        .map(|network| {
            let label = |key| network.labels.get(key).map(String::as_str);
            (
                network.interface.as_str(),
                label("networks"),
                label("security-groups"),
                label("floating-ips").is_some(),
                network.addresses[0] == AddressRequest::Any,
            )
        })
        .collect();
    assert_eq!(
        interfaces,
        [
            ("eth0", None, None, false, true),
            ("eth1", Some("blue"), Some("web"), true, false),
            (
                "eth2",
                Some("default-domain:default-project:red"),
                Some("web"),
                false,
                true
            ),
            ("eth3", None, None, false, true),
        ]
    );
    assert_eq!(request.network_infos.len(), 4);
}

#[test]
fn networks_label_with_duplicate_or_empty_name_is_refused() {
    for list in ["blue,blue", "blue,", ",", "blue,,red"] {
        let info = labelled(b"contrail-cni-plugin", &[("networks", list)]);
        let problems = problems(&container(vec![info]));
        assert!(problems.contains("list each network once"), "{problems}");
    }
    // Other providers ignore the label.
    let info = labelled(b"blue", &[("networks", "a,b")]);
    let request = parse(&container(vec![info])).expect("a good request");
    assert_eq!(request.networks.len(), 1);
}

#[test]
fn groups_come_from_the_field_and_from_labels() {
    let labels = [("netgroups", "web, db"), ("security-groups", "b,a,a")];
    let with_field = |info: NetworkInfo| NetworkInfo {
        groups: vec![b"star-1".to_vec(), b"web".to_vec()],
        ..info
    };
    let networks = vec![
        with_field(labelled(b"blue", &labels)),
        with_field(named(b"red")),
        with_field(labelled(b"contrail-cni-plugin", &labels)),
    ];
    let request = parse(&container(networks)).expect("a good request");
    let memberships: Vec<_> = request
        .networks
        .iter()
        .map(|network| {
            let Membership {
                groups,
                security_groups,
            } = &network.membership;
            (groups.join(" "), security_groups.join(" "))
        })
        .collect();
    let text =
        |groups: &str, security_groups: &str| (groups.to_owned(), security_groups.to_owned());
    assert_eq!(
        memberships,
        [
            text("db star-1 web", "a b"),
            text("star-1 web", ""),
            // What the manager does with the label is its own.
            text("", ""),
        ]
    );
    let labels = &request.networks[2].labels;
    assert_eq!(
        labels.get("security-groups").map(String::as_str),
        Some("b,a,a")
    );
}

#[test]
fn groups_that_cannot_be_are_refused() {
    let many: Vec<String> = (0..65).map(|number| format!("g{number}")).collect();
    for (label, list, expected) in [
        ("netgroups", "a,,b", "no group has the name \"\""),
        ("netgroups", "", "no group has the name \"\""),
        ("netgroups", "a b", "no group has the name \"a b\""),
        ("security-groups", "ä", "no group has the name"),
        ("netgroups", &many.join(","), "65 groups"),
    ] {
        let info = labelled(b"blue", &[(label, list)]);
        let problems = problems(&container(vec![info]));
        assert!(problems.contains(expected), "{list}: {problems}");
        assert!(problems.starts_with("network \"blue\": "), "{problems}");
    }
    let info = NetworkInfo {
        groups: vec![b"\xff\x1b".to_vec()],
        ..named(b"blue")
    };
    let problems = problems(&container(vec![info]));
    assert!(!problems.contains(char::is_control), "{problems}");
}

#[test]
fn reading_groups_is_linear_in_their_number() {
    contrail_mesos_api::parser_testing::assert_linear("groups", 1000, |count| {
        let list = vec!["group"; count].join(",");
        let info = labelled(b"blue", &[("netgroups", &list)]);
        let problems = problems(&container(vec![info]));
        assert!(problems.contains(&format!("{count} groups")), "{problems}");
    });
}

#[test]
fn damaged_input_never_panics() {
    use prost::Message as _;

    let config = config();
    let info = NetworkInfo {
        ip_addresses: vec![IpAddress {
            protocol: Some(1),
            ip_address: Some(b"10.1.0.9".to_vec()),
        }],
        groups: vec![b"group".to_vec()],
        labels: Some(Labels {
            labels: vec![Label {
                key: b"networks".to_vec(),
                value: Some(b"blue,red".to_vec()),
            }],
        }),
        port_mappings: vec![network_info::PortMapping {
            host_port: 8080,
            container_port: 80,
            protocol: Some(b"tcp,udp".to_vec()),
        }],
        ..named(b"contrail-cni-plugin")
    };
    let groups = NetworkInfo {
        groups: vec![b"star-1".to_vec()],
        ..labelled(
            b"blue",
            &[("netgroups", "star-2,public"), ("security-groups", "web")],
        )
    };
    let valid = container(vec![info, groups]).encode_to_vec();
    contrail_mesos_api::parser_testing::for_damaged_input(&valid, |input| {
        let Ok(container) = ContainerInfo::decode(input) else {
            return;
        };
        if let Err(error) = super::parse(&ContainerId::top_level("c1"), &container, &config) {
            assert!(!error.to_string().contains(char::is_control), "{error}");
        }
    });
}
