//! What containers reach and what they do not.

mod services;

use serde_json::json;

use crate::namespace::wait_for;
use crate::testbed::Testbed;

#[test]
fn network_spans_hosts_and_is_isolated_from_others() {
    let testbed = Testbed::new();
    testbed.network("blue", "10.1.1.0", json!({}));
    testbed.network("red", "10.1.2.0", json!({}));
    let first = testbed.container(0, "blue", json!({}));
    let second = testbed.container(1, "blue", json!({}));
    let near = testbed.container(0, "blue", json!({}));
    let red = testbed.container(0, "red", json!({}));
    let far_red = testbed.container(1, "red", json!({}));
    second.serve(80);
    near.serve(80);
    red.serve(80);
    far_red.serve(80);
    wait_for("blue across hosts", || first.reaches(second.address, 80));
    wait_for("blue on one host", || first.reaches(near.address, 80));
    wait_for("red across hosts", || red.reaches(far_red.address, 80));
    assert!(
        first.carries(second.address, 80, 300_000),
        "large packets across hosts"
    );
    assert!(!first.reaches(red.address, 80));
    assert!(!first.reaches(far_red.address, 80));
    assert!(first.pings("10.1.1.254"), "the gateway answers");
    // The host is no peer of any container.
    testbed.hosts[0].serve(8080);
    assert!(!first.reaches(testbed.hosts[0].address, 8080));

    // Packets from an address that the interface may not use do not leave the host.
    first.sh("ip address add 10.1.1.77/24 dev eth0");
    assert!(first.reaches_from(&first.address.to_string(), near.address, 80));
    assert!(!first.reaches_from("10.1.1.77", near.address, 80));
    assert!(!first.reaches_from("10.1.1.77", second.address, 80));
}

#[test]
fn of_overlapping_networks_only_one_is_routed() {
    let testbed = Testbed::new();
    testbed.network("blue", "10.1.1.0", json!({}));
    testbed.network("shadow", "10.1.1.0", json!({}));
    let blue = [
        testbed.container(0, "blue", json!({})),
        testbed.container(1, "blue", json!({})),
    ];
    let shadow = [
        testbed.container(0, "shadow", json!({})),
        testbed.container(1, "shadow", json!({})),
    ];
    assert_eq!(blue[0].address, shadow[0].address);
    blue[1].serve(80);
    shadow[1].serve(81);
    wait_for("blue", || blue[0].reaches(blue[1].address, 80));
    wait_for("the other", || shadow[0].reaches(shadow[1].address, 81));
    assert!(!blue[0].reaches(blue[1].address, 81));
    assert!(!shadow[0].reaches(shadow[1].address, 80));
    assert!(blue[0].pings("10.1.1.254"));
    assert!(!shadow[0].pings("10.1.1.254"));
    let problems = testbed.hosts[0].state()["problems"].to_string();
    assert!(problems.contains("switched, not routed"), "{problems}");
}

#[test]
fn policy_passes_only_matching_packets() {
    let testbed = Testbed::new();
    testbed.network("blue", "10.1.1.0", json!({}));
    testbed.network("red", "10.1.2.0", json!({}));
    let blue = testbed.container(0, "blue", json!({}));
    let reds = [
        testbed.container(0, "red", json!({})),
        testbed.container(1, "red", json!({})),
    ];
    for red in &reds {
        red.serve(80);
        red.serve(81);
        assert!(!blue.reaches(red.address, 80));
    }
    let rule = |port: u16, action: &str| {
        let any = json!([{"start_port": -1, "end_port": -1}]);
        json!({
            "direction": "<>", "protocol": "tcp", "action_list": {"simple_action": action},
            "src_addresses": [{"virtual_network": "default-domain:p:blue"}], "src_ports": any,
            "dst_addresses": [{"virtual_network": "default-domain:p:red"}],
            "dst_ports": [{"start_port": port, "end_port": port + 10}],
        })
    };
    testbed.create(
        "network-policy",
        &json!({
            "fq_name": ["default-domain", "p", "np"], "parent_type": "project",
            "network_policy_entries": {"policy_rule": [rule(81, "deny"), rule(75, "pass")]},
        }),
    );
    let attached = json!({"network_policy_refs": [{
        "to": ["default-domain", "p", "np"], "attr": {"sequence": {"major": 0, "minor": 0}},
    }]});
    // Attached to one network only, it connects nothing.
    testbed.update("virtual-network", "blue", &attached);
    testbed.settle();
    assert!(!blue.reaches(reds[0].address, 80));
    testbed.update("virtual-network", "red", &attached);
    for red in &reds {
        wait_for("what passes", || blue.reaches(red.address, 80));
        assert!(!blue.reaches(red.address, 81), "what is denied first");
    }
    testbed.update(
        "virtual-network",
        "red",
        &json!({"network_policy_refs": []}),
    );
    for red in &reds {
        wait_for("the policy to go", || !blue.reaches(red.address, 80));
    }
}

#[test]
fn security_group_opens_one_port_only() {
    let testbed = Testbed::new();
    testbed.network("blue", "10.1.1.0", json!({}));
    let all_ports = json!([{"start_port": 0, "end_port": 65535}]);
    let rule = |from: serde_json::Value,
                to: serde_json::Value,
                ports: serde_json::Value,
                protocol: &str| {
        json!({"direction": ">", "protocol": protocol, "ethertype": "IPv4",
            "src_addresses": [from], "src_ports": all_ports, "dst_addresses": [to], "dst_ports": ports})
    };
    let local = json!({"security_group": "local"});
    let everywhere = json!({"subnet": {"ip_prefix": "0.0.0.0", "ip_prefix_len": 0}});
    let group = |name: &str, rules: serde_json::Value| {
        testbed.create(
            "security-group",
            &json!({
                "fq_name": ["default-domain", "p", name], "parent_type": "project",
                "security_group_entries": {"policy_rule": rules},
            }),
        );
        json!({"security_group_refs": [{"to": ["default-domain", "p", name]}]})
    };
    let web = group(
        "web",
        json!([
            rule(
                everywhere.clone(),
                local.clone(),
                json!([{"start_port": 80, "end_port": 80}]),
                "tcp"
            ),
            rule(local.clone(), everywhere.clone(), all_ports.clone(), "any"),
        ]),
    );
    let peers = group(
        "peers",
        json!([rule(
            json!({"security_group": "default-domain:p:web"}),
            local.clone(),
            all_ports.clone(),
            "any"
        ),]),
    );
    let client = testbed.container(0, "blue", json!({}));
    let servers = [
        testbed.container(0, "blue", web.clone()),
        testbed.container(1, "blue", web.clone()),
    ];
    let guarded = testbed.container(1, "blue", peers);
    client.serve(443);
    guarded.serve(80);
    for server in &servers {
        server.serve(80);
        server.serve(81);
        wait_for("the open port", || client.reaches(server.address, 80));
        assert!(
            !client.reaches(server.address, 81),
            "a port that no rule opens"
        );
        assert!(!client.pings(&server.address.to_string()));
        assert!(
            server.reaches(client.address, 443),
            "the group lets out what it opens"
        );
        wait_for("by the group", || server.reaches(guarded.address, 80));
    }
    assert!(
        !client.reaches(guarded.address, 80),
        "in none of the groups"
    );
    assert!(
        !guarded.reaches(client.address, 443),
        "no rule lets anything out"
    );
}

#[test]
fn floating_ip_is_reachable_from_outside() {
    let testbed = Testbed::new();
    testbed.network("blue", "10.1.1.0", json!({}));
    testbed.network("public", "10.84.1.0", json!({}));
    let first = testbed.container(0, "blue", json!({}));
    let second = testbed.container(1, "blue", json!({}));
    first.serve(80);
    first.serve(8080);
    second.serve(8080);
    testbed.create(
        "floating-ip-pool",
        &json!({
            "fq_name": ["default-domain", "p", "public", "pool"], "parent_type": "virtual-network",
        }),
    );
    let floating = |name: &str, address: &str, interface: &str, mapped: bool| {
        let mut body = json!({
            "fq_name": ["default-domain", "p", "public", "pool", name],
            "parent_type": "floating-ip-pool", "floating_ip_address": address,
            "project_refs": [{"to": ["default-domain", "p"]}],
            "virtual_machine_interface_refs": [{"to": ["default-domain", "p", interface]}],
        });
        if mapped {
            body["floating_ip_port_mappings_enable"] = true.into();
            body["floating_ip_port_mappings"] =
                json!({"port_mappings": [{"protocol": "TCP", "src_port": 80, "dst_port": 8080}]});
        }
        testbed.create("floating-ip", &body)
    };
    let whole = floating("whole", "10.84.1.10", &first.name, false);
    floating("mapped", "10.84.1.11", &second.name, true);
    let whole_address = "10.84.1.10".parse().unwrap();
    let mapped_address = "10.84.1.11".parse().unwrap();
    wait_for("the floating IP", || {
        testbed.outside.reaches(whole_address, 80)
    });
    wait_for("the mapped port", || {
        testbed.outside.reaches(mapped_address, 80)
    });
    assert!(
        !testbed.outside.reaches(mapped_address, 8080),
        "only what is mapped"
    );
    assert!(
        !testbed.outside.reaches(first.address, 80),
        "its own address stays inside"
    );
    // Its packets have the floating IP as their source; without one, none gets out.
    let listener = testbed.outside.listen(7777);
    assert!(first.reaches(testbed.outside.address, 7777));
    let from = listener.accept().unwrap().1.ip();
    assert_eq!(from.to_canonical(), whole_address);
    assert!(!second.reaches(testbed.outside.address, 7777));
    testbed.delete("floating-ip", &whole);
    wait_for("it to be gone", || {
        !testbed.outside.reaches(whole_address, 80)
    });
}

#[test]
fn agent_cleans_up_at_its_end_and_after_a_crash() {
    let mut testbed = Testbed::new();
    testbed.network("blue", "10.1.1.0", json!({}));
    let first = testbed.container(0, "blue", json!({}));
    let second = testbed.container(1, "blue", json!({}));
    second.serve(80);
    wait_for("it to work", || first.reaches(second.address, 80));
    let with_taps = testbed.hosts[0].kernel();
    assert!(with_taps.contains("cvrb") && with_taps.contains("contrail_vrouter_sim"));

    testbed.hosts[0].kill();
    assert!(
        testbed.hosts[0].kernel().contains("cvrb"),
        "a crash leaves everything"
    );
    testbed.hosts[0].start();
    wait_for("it to work again", || first.reaches(second.address, 80));
    let names = |text: &str| text.matches(": cvr").count();
    assert_eq!(names(&testbed.hosts[0].kernel()), names(&with_taps));

    // With another configuration, all that the crashed agent left is unknown.
    testbed.hosts[0].kill();
    testbed.unlink(0, &first);
    testbed.hosts[0].start();
    wait_for("the rest to be swept", || {
        !testbed.hosts[0].kernel().contains("cvr")
    });
    assert!(!first.reaches(second.address, 80));
    testbed.hosts[1].stop();
    testbed.hosts[0].stop();
    for host in &testbed.hosts {
        // The taps belong to the containers, and stay.
        host.sh("for tap in $(ip -o link | grep -o 'tap[0-9]*' | sort -u); do ip link delete $tap; done");
        assert_eq!(host.kernel(), host.pristine);
    }
}

#[test]
fn host_access_connects_a_container_and_its_host_only() {
    let testbed = Testbed::with(&["--host-access"]);
    testbed.network("blue", "10.1.1.0", json!({}));
    testbed.create(
        "security-group",
        &json!({
            "fq_name": ["default-domain", "p", "closed"], "parent_type": "project",
            "security_group_entries": {"policy_rule": []},
        }),
    );
    let closed = json!({"security_group_refs": [{"to": ["default-domain", "p", "closed"]}]});
    let first = testbed.container(0, "blue", closed);
    let second = testbed.container(0, "blue", json!({}));
    first.serve(80);
    testbed.hosts[0].serve(5051);
    testbed.hosts[1].serve(5051);
    wait_for("the host", || first.reaches(testbed.hosts[0].address, 5051));
    assert!(testbed.hosts[0].reaches(first.address, 80));
    assert!(!second.reaches(first.address, 80));
    assert!(!first.reaches(testbed.hosts[1].address, 5051));
}

#[test]
fn ipv6_is_forwarded_and_filtered() {
    let testbed = Testbed::new();
    let ipam = ["default-domain", "default-project", "default-network-ipam"];
    let subnet = |prefix: &str, length: u8| json!({"subnet": {"ip_prefix": prefix, "ip_prefix_len": length}});
    let both = json!({"network_ipam_refs": [{"to": ipam, "attr": {
        "ipam_subnets": [subnet("10.1.1.0", 24), subnet("fd01::", 64)]}}]});
    testbed.network("blue", "10.1.1.0", both);
    let ports = |first: u16, last: u16| json!([{"start_port": first, "end_port": last}]);
    let rule = json!({
        "direction": ">", "protocol": "tcp", "ethertype": "IPv6",
        "src_addresses": [{"subnet": {"ip_prefix": "::", "ip_prefix_len": 0}}],
        "src_ports": ports(0, 65535),
        "dst_addresses": [{"security_group": "local"}], "dst_ports": ports(80, 80),
    });
    testbed.create(
        "security-group",
        &json!({
            "fq_name": ["default-domain", "p", "web"], "parent_type": "project",
            "security_group_entries": {"policy_rule": [rule]},
        }),
    );
    let web = json!({"security_group_refs": [{"to": ["default-domain", "p", "web"]}]});
    let client = testbed.container(0, "blue", json!({}));
    testbed.add_v6(&client, "blue");
    for host in 0..2 {
        let server = testbed.container(host, "blue", web.clone());
        let address = testbed.add_v6(&server, "blue");
        server.serve(80);
        server.serve(81);
        wait_for("the open port", || client.reaches(address, 80));
        assert!(!client.reaches(address, 81));
        assert!(!client.reaches(server.address, 80), "the rule is of IPv6");
    }
    let gateway = "fd01::ffff:ffff:ffff:fffe";
    assert!(client.pings(gateway), "the gateway answers");
}

#[test]
fn policy_with_ip_fabric_connects_hosts_and_beyond() {
    let testbed = Testbed::new();
    testbed.network("blue", "10.1.1.0", json!({}));
    let blue = testbed.container(0, "blue", json!({}));
    blue.serve(80);
    testbed.hosts[0].serve(5051);
    let listener = testbed.outside.listen(7777);
    assert!(!blue.reaches(testbed.hosts[0].address, 5051));
    let any = json!([{"start_port": -1, "end_port": -1}]);
    let np = "default-domain:p:np";
    let fabric = "default-domain:default-project:ip-fabric";
    testbed.create(
        "network-policy",
        &json!({
            "fq_name": ["default-domain", "p", "np"], "parent_type": "project",
            "network_policy_entries": {"policy_rule": [{
                "direction": "<>", "protocol": "any", "action_list": {"simple_action": "pass"},
                "src_addresses": [{"network_policy": np}], "src_ports": any,
                "dst_addresses": [{"virtual_network": fabric}], "dst_ports": any,
            }]},
        }),
    );
    let attached = json!({"network_policy_refs": [{
        "to": ["default-domain", "p", "np"], "attr": {"sequence": {"major": 0, "minor": 0}},
    }]});
    testbed.update("virtual-network", "blue", &attached);
    testbed.update("virtual-network", fabric, &attached);
    wait_for("the host", || blue.reaches(testbed.hosts[0].address, 5051));
    assert!(testbed.hosts[0].reaches(blue.address, 80));
    assert!(blue.reaches(testbed.outside.address, 7777));
    let from = listener.accept().unwrap().1.ip();
    assert_eq!(from.to_canonical(), testbed.hosts[0].address);
}
