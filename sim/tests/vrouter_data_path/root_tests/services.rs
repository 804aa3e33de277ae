//! Addresses of services: floating IPs inside of virtual networks, and link-local services.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;

/// Creates an address of services in the network `services`, with TCP ports that are mapped to ports of
/// these interfaces. Returns the address and the uuid of the floating-ip.
fn service(
    testbed: &Testbed,
    address: &str,
    ports: &[(u16, u16)],
    interfaces: &[&str],
) -> (IpAddr, String) {
    let name = format!("service-{address}");
    testbed.create(
        "instance-ip",
        &json!({
            "fq_name": [name], "instance_ip_address": address,
            "virtual_network_refs": [{"to": ["default-domain", "p", "services"]}],
        }),
    );
    let mappings = ports
        .iter()
        .map(|(from, to)| json!({"protocol": "TCP", "src_port": from, "dst_port": to}));
    let floating_ip = testbed.create(
        "floating-ip",
        &json!({
            "fq_name": [name, name], "parent_type": "instance-ip",
            "floating_ip_address": address, "floating_ip_traffic_direction": "ingress",
            "floating_ip_port_mappings_enable": true,
            "floating_ip_port_mappings": {"port_mappings": mappings.collect::<Vec<_>>()},
            "project_refs": [{"to": ["default-domain", "p"]}],
            "virtual_machine_interface_refs": references(interfaces),
        }),
    );
    (address.parse().unwrap(), floating_ip)
}

fn references(interfaces: &[&str]) -> Vec<Value> {
    let interfaces = interfaces.iter();
    interfaces
        .map(|name| json!({"to": ["default-domain", "p", name]}))
        .collect()
}

/// A policy by which clients of a network get to TCP ports of the network `services`.
fn connect(testbed: &Testbed, network: &str, first_port: u16, last_port: u16) {
    let any = json!([{"start_port": -1, "end_port": -1}]);
    let name = format!("{network}-services");
    testbed.create(
        "network-policy",
        &json!({
            "fq_name": ["default-domain", "p", name], "parent_type": "project",
            "network_policy_entries": {"policy_rule": [{
                "direction": ">", "protocol": "tcp", "action_list": {"simple_action": "pass"},
                "src_addresses": [{"virtual_network": format!("default-domain:p:{network}")}],
                "src_ports": any,
                "dst_addresses": [{"virtual_network": "default-domain:p:services"}],
                "dst_ports": [{"start_port": first_port, "end_port": last_port}],
            }]},
        }),
    );
    let attached = json!({"network_policy_refs": [{
        "to": ["default-domain", "p", name], "attr": {"sequence": {"major": 0, "minor": 0}},
    }]});
    testbed.update("virtual-network", network, &attached);
    testbed.update("virtual-network", "services", &attached);
}

#[test]
fn service_is_balanced_over_interfaces_of_all_hosts() {
    let testbed = Testbed::new();
    testbed.network("blue", "10.1.1.0", json!({}));
    testbed.network("services", "198.18.0.0", json!({}));
    let servers = [
        testbed.container(0, "blue", json!({})),
        testbed.container(1, "blue", json!({})),
    ];
    let counts = servers.each_ref().map(|server| server.serve(8080));
    let near = testbed.container(0, "blue", json!({}));
    let far = testbed.container(1, "blue", json!({}));
    let inside = testbed.container(0, "services", json!({}));
    let names = [servers[0].name.as_str(), servers[1].name.as_str()];
    let (vip, floating_ip) = service(&testbed, "198.18.0.9", &[(80, 8080)], &names);
    wait_for("it in its own network", || inside.reaches(vip, 80));
    assert!(!near.reaches(vip, 80), "no policy connects the networks");
    connect(&testbed, "blue", 1, 65535);
    for client in [&near, &far, &inside] {
        wait_for("it from a connected network", || client.reaches(vip, 80));
        let before = counts.each_ref().map(|count| count.load(Ordering::SeqCst));
        wait_for("both backends to get connections", || {
            client.reaches(vip, 80);
            let now = counts.each_ref().map(|count| count.load(Ordering::SeqCst));
            now.iter().zip(before).all(|(now, before)| *now > before)
        });
        for _ in 0..2 {
            assert!(client.carries(vip, 80, 300_000), "large packets");
        }
        assert!(!client.reaches(vip, 8080), "a port that is not mapped");
        assert!(!client.pings(&vip.to_string()));
    }
    assert!(!testbed.outside.reaches(vip, 80), "it is inside only");
    assert!(
        testbed.hosts[0].state()["problems"]
            .as_array()
            .unwrap()
            .is_empty()
    );

    // One backend leaves.
    let left = json!({"virtual_machine_interface_refs": references(&names[1..])});
    testbed.update(
        "floating-ip",
        "service-198.18.0.9:service-198.18.0.9",
        &left,
    );
    wait_for("it to get no connections", || {
        let before = counts[0].load(Ordering::SeqCst);
        let all = (0..4).all(|_| near.reaches(vip, 80));
        std::thread::sleep(Duration::from_millis(200));
        all && counts[0].load(Ordering::SeqCst) == before
    });
    testbed.delete("floating-ip", &floating_ip);
    wait_for("it to be gone", || !near.reaches(vip, 80));
}

#[test]
fn service_is_reached_where_its_backends_are_not() {
    let testbed = Testbed::new();
    testbed.network("blue", "10.1.1.0", json!({}));
    testbed.network("red", "10.1.2.0", json!({}));
    testbed.network("services", "198.18.0.0", json!({}));
    // Only one host has an interface in each network, and no policy connects them.
    let client = testbed.container(0, "red", json!({}));
    let server = testbed.container(1, "blue", json!({}));
    server.serve(8080);
    let ports = [(80, 8080), (443, 8080)];
    let (vip, _) = service(&testbed, "198.18.0.9", &ports, &[&server.name]);
    connect(&testbed, "red", 80, 90);
    wait_for("the service", || client.reaches(vip, 80));
    assert!(client.carries(vip, 80, 300_000), "large packets");
    assert!(
        !client.reaches(vip, 443),
        "a port that the policy does not pass"
    );
    assert!(!client.reaches(server.address, 8080), "the backend itself");
}

#[test]
fn link_local_service_is_reached_from_every_network() {
    let testbed = Testbed::new();
    testbed.network("blue", "10.1.1.0", json!({}));
    let client = testbed.container(0, "blue", json!({}));
    let listener = testbed.outside.listen(5353);
    testbed.outside.serve_udp(5353);
    testbed.hosts[0].serve(8080);
    let entry = |name: &str, (address, port): (&str, u16), (server, to): (IpAddr, u16)| {
        json!({
            "linklocal_service_name": name, "linklocal_service_ip": address,
            "linklocal_service_port": port, "ip_fabric_service_port": to,
            "ip_fabric_service_ip": [server],
        })
    };
    let (outside, host) = (testbed.outside.address, testbed.hosts[0].address);
    let set = |entries: Vec<Value>| {
        testbed.update(
            "global-vrouter-config",
            "default-global-system-config:default-global-vrouter-config",
            &json!({"linklocal_services": {"linklocal_service_entry": entries}}),
        );
    };
    set(vec![
        entry("dns", ("169.254.169.53", 53), (outside, 5353)),
        entry("api", ("169.254.169.54", 80), (host, 8080)),
    ]);
    let dns = "169.254.169.53".parse().unwrap();
    let api = "169.254.169.54".parse().unwrap();
    wait_for("the service", || client.reaches(dns, 53));
    let from = listener.accept().unwrap().1.ip();
    assert_eq!(from.to_canonical(), host, "servers see the host");
    assert_eq!(client.ask_udp(dns, 53), Some(host));
    wait_for("the service of the host", || client.reaches(api, 80));
    assert!(!client.reaches(dns, 5353), "a port that is no service");
    assert!(!client.reaches(outside, 5353), "the server itself");
    set(vec![]);
    wait_for("it to be gone", || !client.reaches(dns, 53));
}
