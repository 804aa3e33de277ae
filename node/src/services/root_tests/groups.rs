//! Services on networks that isolate groups: the containers at both ends decide.

use std::net::{IpAddr, SocketAddr};

use contrail_mesos::net::nft::groups::DropReason;
use contrail_mesos::net::testing::{isolated, run};
use contrail_mesos_api::cluster::{
    Admission, Backend, BackendState, Object, Reach, Service, ServiceKey,
};

use super::lab::{settings, vip};
use crate::groups::root_tests::lab::{Container, Lab, membership, next_port};
use crate::services::ServicesSubsystem;
use crate::subsystem::{Mode, Subsystem as _};

/// What the library makes beside the port: `br_netfilter` hands frames to these addresses to the host.
fn close_port(lab: &Lab, container: &Container) {
    let (port, mac) = (container.port(), container.mac());
    lab.host(container.host).run(move || {
        run("bridge", &format!("link set dev {port} learning off"));
        run(
            "bridge",
            &format!("fdb replace {mac} dev {port} master permanent"),
        );
    });
}

fn apply_services(lab: &Lab) {
    for host in &lab.hosts {
        let mut state = lab.cluster.clone();
        state.node = format!("agent-{}", host.number);
        host.run(move || {
            let mut subsystem = ServicesSubsystem::new().unwrap();
            let outcome = subsystem.reconcile(&state, Mode::Apply).unwrap();
            assert_eq!(outcome.problems, [""; 0]);
        });
    }
}

/// A service of one port at both addresses of a container.
fn put(lab: &mut Lab, container: &Container, number: u8, port: u16) {
    let backend = |address: IpAddr| Backend {
        address: SocketAddr::new(address, port),
        local: None,
        host: [192, 0, 2, container.host].into(),
        reach: Reach::Cluster,
        state: BackendState::Ready,
        task: container.name.clone(),
    };
    let key: ServiceKey = format!("s{number}.marathon:{port}/udp").parse().unwrap();
    lab.cluster.put(Object::Service(Service {
        service: key,
        addresses: vec![vip(number, true), vip(number, false)],
        backends: container.addresses().map(backend).into(),
        affinity: None,
    }));
}

#[test]
fn services_reach_members_of_a_group_and_no_others() {
    isolated(|| {
        let mut lab = Lab::new(2);
        lab.cluster.put(Object::ServiceSettings(settings()));
        lab.cluster.put(Object::ServicesComplete);
        let mut containers = Vec::new();
        for (name, host, last, groups) in [
            ("a", 1, 2, &["one"][..]),
            ("b", 1, 3, &["two"]),
            ("c", 1, 4, &["one"]),
            ("d", 2, 2, &["one", "two"]),
            ("e", 2, 3, &["three"]),
        ] {
            let container =
                lab.host(host)
                    .attach(name, last, membership(groups, &[]), Admission::default());
            lab.publish(&container);
            close_port(&lab, &container);
            containers.push(container);
        }
        lab.apply_all();
        for has_bridge_netfilter in ["0", "1"] {
            for host in &lab.hosts {
                for family in ["ip", "ip6"] {
                    let name = format!("/proc/sys/net/bridge/bridge-nf-call-{family}tables");
                    host.run(move || std::fs::write(name, has_bridge_netfilter).unwrap());
                }
            }
            for to in &containers {
                for from in &containers {
                    // A container reaches itself by a service, too, whatever groups it has.
                    let shares = from
                        .membership
                        .groups
                        .iter()
                        .any(|group| to.membership.groups.contains(group));
                    for is_v4 in [true, false] {
                        let port = next_port();
                        put(&mut lab, to, 10, port);
                        apply_services(&lab);
                        let result = lab.udp_by(
                            &from.namespace,
                            &to.namespace,
                            vip(10, is_v4),
                            to.address(is_v4),
                            port,
                        );
                        let expected = if shares {
                            Ok(())
                        } else {
                            Err(DropReason::NoSharedGroup)
                        };
                        let what = format!("{} to {}", from.name, to.name);
                        assert_eq!(result, expected, "{what} {is_v4} {has_bridge_netfilter}");
                    }
                }
            }
        }
        // The hosts, as without a service.
        let numbers: Vec<u8> = lab.hosts.iter().map(|host| host.number).collect();
        for number in numbers {
            for is_v4 in [true, false] {
                let port = next_port();
                put(&mut lab, &containers[0], 10, port);
                apply_services(&lab);
                let result = lab.udp_by(
                    &lab.host(number).namespace,
                    &containers[0].namespace,
                    vip(10, is_v4),
                    containers[0].address(is_v4),
                    port,
                );
                assert_eq!(result, Ok(()), "host {number}");
            }
        }
    });
}
