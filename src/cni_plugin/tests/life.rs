//! From ADD to DEL.

use super::*;

#[test]
fn add_and_del_in_every_version() {
    isolated_async(|| async {
        for version in VERSIONS {
            let agent = Agent::start(ID, 1, &[]).await;
            let place = Place::new();
            agent.faults.late.store(3, Ordering::Relaxed);
            let config = place.config(&agent, version, &json!({}));
            let result = place.add(&config).await;
            assert_eq!(result["cniVersion"], version);
            assert_eq!(result["dns"], json!({ "nameservers": ["10.47.255.253"] }));
            if matches!(version, "0.1.0" | "0.2.0") {
                let ip4 = json!({
                    "ip": "10.47.255.252/12", "gateway": "10.47.255.254",
                    "routes": [{ "dst": "0.0.0.0/0", "gw": "10.47.255.254" }],
                });
                assert_eq!(result["ip4"], ip4);
                assert!(result.get("ips").is_none());
            } else {
                let mut ip = json!({
                    "address": "10.47.255.252/12", "gateway": "10.47.255.254", "interface": 0,
                });
                if version != "1.0.0" {
                    ip["version"] = "4".into();
                }
                assert_eq!(result["ips"], json!([ip]));
                assert_eq!(result["interfaces"][0]["name"], "eth0");
                assert_eq!(result["interfaces"][0]["mac"], mac(0));
                assert_eq!(
                    result["routes"],
                    json!([{ "dst": "0.0.0.0/0", "gw": "10.47.255.254" }])
                );
            }
            let shown = inside(&place.namespace, || command("ip", "-o addr show eth0"));
            assert!(shown.contains("10.47.255.252/12"), "{shown}");
            // The port file is what the agent was told, and reads as the Go plugin's.
            let files = place.port_files();
            assert_eq!(files.len(), 1);
            let file: Value = serde_json::from_slice(&std::fs::read(&files[0]).unwrap()).unwrap();
            assert_eq!(file["vm-id"], ID);
            assert_eq!(file["vmi-uuid"], INTERFACE);
            assert_eq!(file["vm-ifname"], "eth0");
            assert_eq!(json!([file["host-ifname"]]), json!(link_names()));
            let posted = agent.server.requests();
            let posted = posted.iter().find(|asked| asked.method == "POST").unwrap();
            assert_eq!(posted.json(), file);
            place.del(&config).await;
            place.assert_clean();
            assert_eq!(
                agent.server.lines().last().unwrap(),
                &format!("DELETE /vm/{ID}")
            );
            // And again, of what is not there.
            place.del(&config).await;
        }
    });
}

#[test]
fn several_interfaces_are_in_the_order_of_their_index() {
    isolated_async(|| async {
        let agent = Agent::start(ID, 3, &[]).await;
        let place = Place::new();
        let config = place.config(&agent, "0.3.1", &json!({ "mode": "k8s" }));
        let result = place.add(&config).await;
        assert_eq!(result["interfaces"][0]["mac"], mac(0));
        for (index, name) in ["eth0", "eth1", "eth2"].into_iter().enumerate() {
            let shown = inside(&place.namespace, move || {
                command("ip", &format!("-o link show {name}"))
            });
            assert!(shown.contains(&mac(index)), "{shown}");
        }
        assert_eq!(link_names().len(), 3);
        assert_eq!(place.port_files().len(), 3);
        place.del(&config).await;
        place.assert_clean();
    });
}

#[test]
fn an_annotation_names_the_interface() {
    isolated_async(|| async {
        let agent = Agent::start(ID, 1, &["{interface:net7}"]).await;
        let place = Place::new();
        let config = place.config(&agent, "1.0.0", &json!({}));
        let result = place.add(&config).await;
        assert_eq!(result["interfaces"][0]["name"], "net7");
        assert_eq!(inside(&place.namespace, link_names), ["net7"]);
        place.del(&config).await;
        place.assert_clean();
    });
}

#[test]
fn an_id_that_is_no_uuid_has_a_machine_of_its_own() {
    isolated_async(|| async {
        for id in ["not a uuid/../x", "parent.child"] {
            let container = ContainerId::printed(id);
            let machine = agent_api::vm_uuid(&container).to_string();
            let agent = Agent::start(&machine, 1, &[]).await;
            let place = Place::new();
            let config = place.config(&agent, "0.3.1", &json!({}));
            let (said, is_success) = place.call_of("ADD", id, &config).await;
            assert!(is_success, "{said}");
            let (said, is_success) = place.call_of("DEL", id, &config).await;
            assert!(is_success, "{said}");
            place.assert_clean();
        }
    });
}

#[test]
fn check_finds_what_is_gone() {
    isolated_async(|| async {
        let agent = Agent::start(ID, 1, &[]).await;
        let place = Place::new();
        let mut config = place.config(&agent, "1.0.0", &json!({}));
        let result = place.add(&config).await;
        place.fails("CHECK", &config).await;
        config["prevResult"] = result;
        let (said, is_success) = place.call("CHECK", &config).await;
        assert!(is_success, "{said}");
        agent.faults.no_address.store(true, Ordering::Relaxed);
        let said = place.fails("CHECK", &config).await;
        assert!(
            said["msg"].as_str().unwrap().contains("does not forward"),
            "{said}"
        );
        agent.faults.no_address.store(false, Ordering::Relaxed);
        inside(&place.namespace, || command("ip", "addr flush dev eth0"));
        let said = place.fails("CHECK", &config).await;
        assert!(
            said["msg"].as_str().unwrap().contains("10.47.255.252/12"),
            "{said}"
        );
        place.del(&config).await;
        config["cniVersion"] = "0.3.1".into();
        assert_eq!(place.fails("CHECK", &config).await["code"], 1);
    });
}

#[test]
fn contrails_own_manager_is_told() {
    isolated_async(|| async {
        let agent = Agent::start(ID, 1, &[]).await;
        let is_away = Arc::new(AtomicBool::new(false));
        let away = Arc::clone(&is_away);
        let manager = ScriptedServer::start(move |asked, before| match before {
            _ if away.load(Ordering::Relaxed) => Reply::Answer(503, String::new()),
            // It was restarting.
            0 => Reply::Close,
            _ => ok(&asked.body),
        })
        .await;
        let place = Place::new();
        // A number, and a text.
        for port in [
            json!(manager.address.port()),
            json!(manager.address.port().to_string()),
        ] {
            let more = json!({ "mode": "mesos", "mesos-ip": "127.0.0.1", "mesos-port": port });
            let config = place.config(&agent, "0.3.1", &more);
            place.add(&config).await;
            let told = manager.requests();
            let told = told.last().unwrap();
            assert_eq!(told.line(), "POST /add_cni_info");
            let expected = json!({ "cid": ID, "cmd": "ADD", "args": config.to_string() });
            assert_eq!(told.json(), expected);
            // A DEL without it cleans the host, and is to be repeated.
            is_away.store(true, Ordering::Relaxed);
            let said = place.fails("DEL", &config).await;
            assert_eq!(said["code"], 11, "{said}");
            place.assert_clean();
            is_away.store(false, Ordering::Relaxed);
            place.del(&config).await;
            assert_eq!(manager.lines().last().unwrap(), "POST /del_cni_info");
        }
    });
}

#[test]
fn our_managers_make_the_ports() {
    isolated_async(|| async {
        let agent = Agent::start(ID, 2, &[]).await;
        let port = |index: usize| {
            json!({
                "interface": format!("eth{index}"), "uuid": uuid(index),
                "virtual_network": NETWORK, "virtual_network_name": "d:p:n", "mac": mac(index),
                "addresses": [{ "address": format!("10.47.255.{}/12", 252 - index) }],
            })
        };
        let made = json!({ "machine": ID, "ports": [port(0), port(1)] });
        let manager = ScriptedServer::start(move |asked, _| match asked.method.as_str() {
            "PUT" => ok(&made),
            _ => ok(&json!({})),
        })
        .await;
        let place = Place::new();
        let more = json!({
            "managers": [format!("http://{}", manager.address)], "virtual-network": "d:p:n",
        });
        let mut config = place.config(&agent, "1.0.0", &more);
        config["args"] = json!({ "org.apache.mesos": { "network_info": {
            "name": "contrail-cni-plugin", "ip_addresses": [{ "protocol": "IPv4" }],
            "labels": { "labels": [{ "key": "networks", "value": "blue, red" }] },
        } } });
        place.add(&config).await;
        let asked = manager.requests().remove(0);
        assert_eq!(asked.line(), format!("PUT /v1/ports/{ID}"));
        // Who we are: what the manager of old called the node.
        assert_eq!(asked.header(agent_api::AGENT_HEADER), Some("node-1"));
        let expected = json!({
            "container": [ID],
            "ports": [
                {
                    "interface": "eth0", "network": "contrail-cni-plugin",
                    "virtual_network": "d:p:n", "labels": { "networks": "blue" },
                },
                {
                    "interface": "eth1", "network": "contrail-cni-plugin",
                    "virtual_network": "d:p:n", "labels": { "networks": "red" },
                },
            ],
        });
        assert_eq!(asked.json(), expected);
        place.del(&config).await;
        place.assert_clean();
        assert_eq!(
            manager.lines().last().unwrap(),
            &format!("DELETE /v1/ports/{ID}")
        );
    });
}

#[test]
fn a_meta_plugin_calls_once_for_each_interface() {
    isolated_async(|| async {
        let agent = Agent::start(ID, 2, &[]).await;
        let place = Place::new();
        let config = |network: &str| {
            let more = json!({ "meta-plugin": true, "network-name": network });
            place.config(&agent, "0.3.1", &more).to_string()
        };
        // By the network, whatever its index.
        for (network, interface, address) in [
            ("net1", "eth0", "10.47.255.251/12"),
            ("default-domain:p:net0", "blue0", "10.47.255.252/12"),
        ] {
            let environment = place.environment_of("ADD", ID, interface);
            let answer = run(&environment, config(network).as_bytes()).await;
            let result: Value = serde_json::from_str(&answer.text).unwrap();
            assert_eq!(result["interfaces"][0]["name"], interface, "{result}");
            assert_eq!(result["ips"][0]["address"], address);
        }
        assert_eq!(inside(&place.namespace, link_names), ["blue0", "eth0"]);
        let environment = place.environment_of("ADD", ID, "red0");
        let answer = run(&environment, config("none").as_bytes()).await;
        assert!(
            answer.text.contains("no interface on network"),
            "{answer:?}"
        );
        // Each end is its own; the container is unregistered with the last one.
        let unregister = format!("DELETE /vm/{ID}");
        let environment = place.environment_of("DEL", ID, "eth0");
        assert!(
            run(&environment, config("net1").as_bytes())
                .await
                .is_success
        );
        assert_eq!(inside(&place.namespace, link_names), ["blue0"]);
        assert_eq!(place.port_files().len(), 1);
        assert!(!agent.server.lines().contains(&unregister));
        let environment = place.environment_of("DEL", ID, "blue0");
        assert!(
            run(&environment, config("net0").as_bytes())
                .await
                .is_success
        );
        assert!(agent.server.lines().contains(&unregister));
        place.assert_clean();
    });
}
