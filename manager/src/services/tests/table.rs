//! What a user writes, and which services come of it: one row for each case.
#![allow(clippy::too_many_lines, reason = "one row for each case")]

use serde_json::json;

use super::fixture::{TaskSpec, compute, services, web};

/// What these tasks make: services with their backends, and parts of the messages of problems.
type Row = (
    &'static str,
    Vec<TaskSpec>,
    Vec<(&'static str, Vec<&'static str>)>,
    Vec<&'static str>,
);

fn check(rows: Vec<Row>) {
    for (case, tasks, expected, problems) in rows {
        let desired = compute(&tasks);
        let expected: Vec<(String, Vec<String>)> = expected
            .into_iter()
            .map(|(key, backends)| {
                let backends = backends.into_iter().map(str::to_owned).collect();
                (key.to_owned(), backends)
            })
            .collect();
        assert_eq!(
            services(&desired),
            expected,
            "{case}: {:?}",
            desired.problems
        );
        let found = &desired.problems;
        assert_eq!(found.len(), problems.len(), "{case}: {found:?}");
        for part in problems {
            let is_there = found.iter().any(|problem| problem.message.contains(part));
            assert!(is_there, "{case}: no {part:?} in {found:?}");
        }
    }
}

const ON_S1: &str = "192.0.2.1:31000";

#[test]
fn labels_of_ports_become_services() {
    check(vec![
        (
            "a name, with and without a slash, is one service",
            vec![
                web().vip(31000, "/web:80"),
                web().id("web.2").on_agent("S2").vip(31005, "web:80"),
            ],
            vec![("web.marathon:80/tcp", vec![ON_S1, "192.0.2.2:31005"])],
            vec![],
        ),
        (
            "VIP and vip with anything behind are virtual IPs, other spellings are not",
            vec![web().port(
                31000,
                "tcp",
                &[
                    ("VIP_0", "/a:80"),
                    ("VIP_1", "/b:81"),
                    ("VIP", "/c:82"),
                    ("vipxyz", "/d:83"),
                    ("Vip_0", "/e:84"),
                    ("_VIP", "/f:85"),
                    ("HAPROXY_GROUP", "external"),
                ],
            )],
            vec![
                ("a.marathon:80/tcp", vec![ON_S1]),
                ("b.marathon:81/tcp", vec![ON_S1]),
                ("c.marathon:82/tcp", vec![ON_S1]),
                ("d.marathon:83/tcp", vec![ON_S1]),
            ],
            vec![],
        ),
        (
            "two ports of one task are two backends of one service",
            vec![web().vip(31000, "/web:80").vip(31001, "/web:80")],
            vec![("web.marathon:80/tcp", vec![ON_S1, "192.0.2.1:31001"])],
            vec![],
        ),
        (
            "protocols are different services",
            vec![
                web()
                    .port(31000, "TCP", &[("VIP_0", "/dns:53")])
                    .port(31000, "udp", &[("VIP_0", "/dns:53")])
                    .port(31001, "sctp", &[("VIP_0", "/dns:53")]),
            ],
            vec![
                ("dns.marathon:53/tcp", vec![ON_S1]),
                ("dns.marathon:53/udp", vec![ON_S1]),
                ("dns.marathon:53/sctp", vec!["192.0.2.1:31001"]),
            ],
            vec![],
        ),
        (
            "a list of protocols is several services",
            vec![web().port(31000, "udp,tcp", &[("VIP_0", "/dns:53")])],
            vec![
                ("dns.marathon:53/tcp", vec![ON_S1]),
                ("dns.marathon:53/udp", vec![ON_S1]),
            ],
            vec![],
        ),
        (
            "a protocol that is not known",
            vec![web().port(31000, "icmp", &[("VIP_0", "/web:80")])],
            vec![],
            vec!["protocol is not known"],
        ),
        (
            "values without a port, with a wrong one, without a name",
            vec![web().port(
                31000,
                "tcp",
                &[("VIP_0", "/web"), ("VIP_1", "/web:http"), ("VIP_2", "/:80")],
            )],
            vec![],
            vec!["it has no port", "is no port", "no letter or digit"],
        ),
        (
            "the default port mapping of Marathon",
            vec![
                web()
                    .on("overlay", &["10.0.0.7"])
                    .container_vip(0, "/web:80", "overlay"),
            ],
            vec![],
            vec!["port 0 serves nobody"],
        ),
        (
            "a port beyond the last",
            vec![web().vip(70000, "/web:80")],
            vec![],
            vec!["it is no port"],
        ),
        (
            "a scope that is not known, and two that differ",
            vec![
                web().port(
                    31000,
                    "tcp",
                    &[("VIP_0", "/a:80"), ("network-scope", "pod")],
                ),
                web().id("web.2").port(
                    31000,
                    "tcp",
                    &[
                        ("network-scope", "host"),
                        ("network-scope", "container"),
                        ("VIP_0", "/b:80"),
                    ],
                ),
            ],
            vec![],
            vec!["\"container\" or \"host\"", "\"container\" or \"host\""],
        ),
        (
            "labels of the task name ports of its resources",
            vec![TaskSpec {
                labels: vec![
                    ("vip_PORT1", "tcp:///web:80"),
                    ("VIP_port2", "udp://10.9.9.9:53"),
                    ("vip_PORT9", "tcp:///web:81"),
                    ("vip_PORT0", "/web:82"),
                    ("vip_PORTx", "tcp:///web:83"),
                ],
                resources: json!([{"name": "cpus", "scalar": {"value": 1.0}},
                    {"name": "ports", "type": "RANGES",
                     "ranges": {"range": [{"begin": 31000, "end": 31001}, {"begin": 31500, "end": 31500}]}}]),
                ..web()
            }],
            vec![
                ("10.9.9.9:53/udp", vec!["192.0.2.1:31500"]),
                ("web.marathon:80/tcp", vec!["192.0.2.1:31001"]),
            ],
            vec!["not so many ports", "behind tcp:// or udp://"],
        ),
        (
            "names of DC/OS",
            vec![
                web()
                    .vip(31000, "/api.hello-world:80")
                    .vip(31001, "My_App:80")
                    .vip(31002, "/group/app:80"),
                web().id("web.2").of("G").vip(31003, "web:80"),
            ],
            vec![
                ("api.hello-world.marathon:80/tcp", vec![ON_S1]),
                ("groupapp.marathon:80/tcp", vec!["192.0.2.1:31002"]),
                ("my-app.marathon:80/tcp", vec!["192.0.2.1:31001"]),
                ("web.devmarathon-2:80/tcp", vec!["192.0.2.1:31003"]),
            ],
            vec![],
        ),
        (
            "a framework without a DNS name has IP VIPs only",
            vec![
                web()
                    .of("H")
                    .vip(31000, "/web:80")
                    .vip(31001, "10.9.9.9:80"),
            ],
            vec![("10.9.9.9:80/tcp", vec!["192.0.2.1:31001"])],
            vec!["name of its framework"],
        ),
        (
            "names that are the same without slashes",
            vec![
                web().vip(31000, "/a/b:80"),
                web().id("web.2").vip(31001, "/ab:80"),
            ],
            vec![("ab.marathon:80/tcp", vec![ON_S1, "192.0.2.1:31001"])],
            vec!["2 names are the same DNS name"],
        ),
    ]);
}

#[test]
fn states_and_health_decide_who_is_a_backend() {
    let with = |state| web().state(state).vip(31000, "/web:80");
    let checked = |healthy| web().checked(healthy).vip(31000, "/web:80");
    let ready = || vec![("web.marathon:80/tcp", vec![ON_S1])];
    let draining = || vec![("web.marathon:80/tcp", vec!["192.0.2.1:31000 draining"])];
    let other = || web().id("web.2").on_agent("S2").vip(31005, "/web:80");
    check(vec![
        ("running", vec![with("TASK_RUNNING")], ready(), vec![]),
        (
            "being killed",
            vec![with("TASK_KILLING")],
            draining(),
            vec![],
        ),
        ("staging", vec![with("TASK_STAGING")], vec![], vec![]),
        ("starting", vec![with("TASK_STARTING")], vec![], vec![]),
        ("ended", vec![with("TASK_FINISHED")], vec![], vec![]),
        ("healthy", vec![checked(Some(true))], ready(), vec![]),
        ("no result yet", vec![checked(None)], draining(), vec![]),
        ("failing", vec![checked(Some(false))], draining(), vec![]),
        (
            "Marathon's own check is not one of Mesos",
            vec![web().vip(31000, "/web:80")],
            ready(),
            vec![],
        ),
        (
            "unreachable, with another backend",
            vec![with("TASK_UNREACHABLE"), other()],
            vec![("web.marathon:80/tcp", vec!["192.0.2.2:31005"])],
            vec![],
        ),
        (
            "unreachable, without another one",
            vec![with("TASK_UNREACHABLE")],
            ready(),
            vec![],
        ),
        (
            "lost, with another backend that fails its check",
            vec![
                with("TASK_LOST"),
                TaskSpec {
                    is_checked: true,
                    ..other()
                },
            ],
            vec![("web.marathon:80/tcp", vec!["192.0.2.2:31005 draining"])],
            vec![],
        ),
        (
            "on an agent that is not known",
            vec![with("TASK_RUNNING").on_agent("S3")],
            vec![],
            vec![],
        ),
    ]);
}

#[test]
fn networks_decide_which_address_is_the_backend() {
    let dual = ["10.0.0.7", "fd00::7"];
    check(vec![
        (
            "host network, with any scope",
            vec![
                web()
                    .vip(31000, "/a:80")
                    .container_vip(31001, "/b:80", "host")
                    .host_vip(31002, "/c:80"),
            ],
            vec![
                ("a.marathon:80/tcp", vec![ON_S1]),
                ("b.marathon:80/tcp", vec!["192.0.2.1:31001"]),
                ("c.marathon:80/tcp", vec!["192.0.2.1:31002"]),
            ],
            vec![],
        ),
        (
            "mapped port: the agent, and on its own host the container",
            vec![
                web()
                    .on("bridge", &["172.16.0.7"])
                    .mapped(31000, 8080, "tcp")
                    .host_vip(31000, "/web:80"),
            ],
            vec![(
                "web.marathon:80/tcp",
                vec!["192.0.2.1:31000 local 172.16.0.7:8080"],
            )],
            vec![],
        ),
        (
            "mapped port of two protocols in one mapping",
            vec![
                web()
                    .on("bridge", &["172.16.0.7"])
                    .mapped(31000, 8080, "udp,tcp")
                    .port(
                        31000,
                        "udp",
                        &[("VIP_0", "/web:80"), ("network-scope", "host")],
                    ),
            ],
            vec![(
                "web.marathon:80/udp",
                vec!["192.0.2.1:31000 local 172.16.0.7:8080"],
            )],
            vec![],
        ),
        (
            "container's port with a mapping",
            vec![
                web()
                    .on("bridge", &["172.16.0.7"])
                    .mapped(31000, 8080, "tcp")
                    .vip(8080, "/web:80"),
            ],
            vec![(
                "web.marathon:80/tcp",
                vec!["192.0.2.1:31000 local 172.16.0.7:8080"],
            )],
            vec![],
        ),
        (
            "port of the host without a mapping",
            vec![
                web()
                    .on("bridge", &["172.16.0.7"])
                    .host_vip(31000, "/web:80"),
            ],
            vec![("web.marathon:80/tcp", vec![ON_S1])],
            vec![],
        ),
        (
            "mapped port of a pod, which only the status tells",
            vec![
                web()
                    .on("bridge", &["172.16.0.7"])
                    .mapped(31000, 8080, "tcp")
                    .in_pod()
                    .host_vip(31000, "/web:80"),
            ],
            vec![(
                "web.marathon:80/tcp",
                vec!["192.0.2.1:31000 local 172.16.0.7:8080"],
            )],
            vec![],
        ),
        (
            "mapped port of Docker: the agent, on its own host, too",
            vec![TaskSpec {
                docker: Some(json!({"network": "BRIDGE", "port_mappings":
                    [{"host_port": 31000, "container_port": 80, "protocol": "tcp"}]})),
                networks: vec![json!({"ip_addresses": [{"ip_address": "172.17.0.2"}]})],
                ..web().host_vip(31000, "/web:80")
            }],
            vec![("web.marathon:80/tcp", vec![ON_S1])],
            vec![],
        ),
        (
            "Docker on the network of the host",
            vec![TaskSpec {
                docker: Some(json!({"image": "nginx"})),
                ..web().vip(31000, "/web:80")
            }],
            vec![("web.marathon:80/tcp", vec![ON_S1])],
            vec![],
        ),
        (
            "Docker on an overlay",
            vec![TaskSpec {
                docker: Some(json!({"network": "USER"})),
                ..web()
                    .on("overlay", &["10.0.0.7"])
                    .container_vip(80, "/web:80", "overlay")
            }],
            vec![("web.marathon:80/tcp", vec!["10.0.0.7:80"])],
            vec![],
        ),
        (
            "overlay and routed networks: every address",
            vec![
                web()
                    .on("overlay", &dual)
                    .container_vip(8080, "/a:80", "overlay"),
                web()
                    .id("web.2")
                    .on("routed", &["10.1.0.7"])
                    .vip(8080, "/b:80"),
            ],
            vec![
                ("a.marathon:80/tcp", vec!["10.0.0.7:8080", "[fd00::7]:8080"]),
                ("b.marathon:80/tcp", vec!["10.1.0.7:8080"]),
            ],
            vec![],
        ),
        (
            "bridge: reached on its own host only",
            vec![
                web()
                    .on("bridge", &["172.16.0.7"])
                    .container_vip(8080, "/web:80", "bridge"),
            ],
            vec![("web.marathon:80/tcp", vec!["172.16.0.7:8080 on its host"])],
            vec!["only its own host reaches its container on network \"bridge\""],
        ),
        (
            "bridges of two hosts with the same addresses",
            vec![
                web()
                    .on("bridge", &["172.16.0.7"])
                    .container_vip(80, "/web:80", "bridge"),
                web()
                    .id("web.2")
                    .on_agent("S2")
                    .on("bridge", &["172.16.0.7"])
                    .container_vip(80, "/web:80", "bridge"),
            ],
            vec![(
                "web.marathon:80/tcp",
                vec!["172.16.0.7:80 on its host", "172.16.0.7:80 on its host"],
            )],
            vec!["only its own host reaches"],
        ),
        (
            "Contrail, by its labels",
            vec![
                web()
                    .on("blue", &["10.77.0.7"])
                    .network_labels(&[("networks", "default-domain:p:blue")])
                    .container_vip(80, "/web:80", "blue"),
            ],
            vec![("web.marathon:80/tcp", vec!["10.77.0.7:80 in its network"])],
            vec![],
        ),
        (
            "Contrail, by what the VNC API knows of the container",
            vec![
                web()
                    .on("blue", &["10.66.0.7"])
                    .container_vip(80, "/web:80", "blue"),
            ],
            vec![("web.marathon:80/tcp", vec!["10.66.0.7:80 in its network"])],
            vec![],
        ),
        (
            "security groups are no sign of Contrail, and an overlay is none with any label",
            vec![
                web()
                    .on("bridge", &["172.16.0.7"])
                    .network_labels(&[("security-groups", "web")])
                    .container_vip(80, "/a:80", "bridge"),
                web()
                    .id("web.2")
                    .on("overlay", &["10.0.0.7"])
                    .network_labels(&[("networks", "blue")])
                    .container_vip(80, "/b:80", "overlay"),
            ],
            vec![
                ("a.marathon:80/tcp", vec!["172.16.0.7:80 on its host"]),
                ("b.marathon:80/tcp", vec!["10.0.0.7:80"]),
            ],
            vec!["only its own host reaches"],
        ),
        (
            "two networks: a port is on the one that it names",
            vec![
                web()
                    .on("overlay", &["10.0.0.7"])
                    .on("routed", &["10.1.0.7"])
                    .container_vip(80, "/a:80", "overlay")
                    .container_vip(80, "/b:80", "routed")
                    .vip(80, "/c:80"),
            ],
            vec![
                ("a.marathon:80/tcp", vec!["10.0.0.7:80"]),
                ("b.marathon:80/tcp", vec!["10.1.0.7:80"]),
                ("c.marathon:80/tcp", vec!["10.0.0.7:80", "10.1.0.7:80"]),
            ],
            vec![],
        ),
        (
            "a port of every network, as Marathon writes it, is no backend twice",
            vec![
                web()
                    .on("overlay", &["10.0.0.7"])
                    .on("routed", &["10.1.0.7"])
                    .container_vip(80, "/a:80", "overlay")
                    .container_vip(80, "/a:80", "routed"),
            ],
            vec![("a.marathon:80/tcp", vec!["10.0.0.7:80", "10.1.0.7:80"])],
            vec![],
        ),
        (
            "an IP VIP has backends of its family",
            vec![
                web()
                    .on("overlay", &dual)
                    .container_vip(80, "10.9.9.9:80", "overlay")
                    .container_vip(80, "fd01:c::5:80", "overlay"),
                web().id("web.2").vip(31000, "[fd01:c::6]:80"),
            ],
            vec![
                ("10.9.9.9:80/tcp", vec!["10.0.0.7:80"]),
                ("[fd01:c::5]:80/tcp", vec!["[fd00::7]:80"]),
            ],
            vec!["family of the virtual IP"],
        ),
        (
            "no address yet",
            vec![
                web()
                    .on("overlay", &[])
                    .container_vip(80, "/web:80", "overlay"),
            ],
            vec![],
            vec!["has no address there"],
        ),
        (
            "addresses that mean something else elsewhere are no backends",
            vec![
                web()
                    .on("overlay", &["127.0.0.1", "fe80::1", "10.0.0.7"])
                    .vip(80, "/web:80"),
            ],
            vec![("web.marathon:80/tcp", vec!["10.0.0.7:80"])],
            vec![],
        ),
    ]);
}

#[test]
fn addresses_of_others_are_no_virtual_ips() {
    check(vec![
        (
            "an address that nothing has",
            vec![web().vip(31000, "10.0.0.1:80")],
            vec![("10.0.0.1:80/tcp", vec![ON_S1])],
            vec![],
        ),
        (
            "an agent, a range, loopback",
            vec![
                web()
                    .vip(31000, "192.0.2.2:80")
                    .vip(31000, "198.18.0.9:80")
                    .vip(31000, "127.0.0.1:80"),
            ],
            vec![],
            vec!["that of an agent", "range that the managers", "loopback"],
        ),
        (
            "a container of anybody",
            vec![
                web().vip(31000, "10.0.0.7:80"),
                web()
                    .id("db.1")
                    .name("db")
                    .of("G")
                    .on("overlay", &["10.0.0.7"]),
            ],
            vec![],
            vec!["that of a container"],
        ),
    ]);
}

#[test]
fn affinity_is_a_label_of_the_port() {
    let with = |value: &str| {
        web().port(
            31000,
            "tcp",
            &[("VIP_0", "/web:80"), ("vip-affinity", value)],
        )
    };
    for (value, expected, has_problem) in [
        ("client", Some(10_800), false),
        (" 600 ", Some(600), false),
        ("86400", Some(86_400), false),
        ("86401", None, true),
        ("0", None, true),
        ("-1", None, true),
        ("yes", None, true),
        ("", None, true),
    ] {
        let desired = compute(&[with(value)]);
        assert_eq!(desired.services.len(), 1, "{value:?}");
        let service = desired.services.values().next().unwrap();
        assert_eq!(service.affinity, expected, "{value:?}");
        assert_eq!(!desired.problems.is_empty(), has_problem, "{value:?}");
    }
    let others = [with("600"), with("client").id("web.2").on_agent("S2")];
    let desired = compute(&others);
    assert_eq!(
        desired.services.values().next().unwrap().affinity,
        Some(10_800)
    );
}
