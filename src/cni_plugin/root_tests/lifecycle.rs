//! ADD, CHECK and DEL.

use super::*;

#[test]
fn add_and_del_succeed_in_every_version() {
    isolated_async(|| async {
        for version in SUPPORTED_VERSIONS {
            let agent = FakeVrouterAgent::start(ID, 1, &[]).await;
            let host = TestHost::new();
            agent
                .faults
                .polls_until_configured
                .store(3, Ordering::Relaxed);
            let config = host.config(&agent, version, &json!({}));
            let result = host.add(&config).await;
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
            let output = inside(&host.namespace, || command("ip", "-o addr show eth0"));
            assert!(output.contains("10.47.255.252/12"), "{output}");
            // The port file equals the registration, in the form of the Go plugin.
            let files = host.port_files();
            assert_eq!(files.len(), 1);
            let file: Value = serde_json::from_slice(&std::fs::read(&files[0]).unwrap()).unwrap();
            assert_eq!(file["vm-id"], ID);
            assert_eq!(file["vmi-uuid"], INTERFACE);
            assert_eq!(file["vm-ifname"], "eth0");
            assert_eq!(json!([file["host-ifname"]]), json!(link_names()));
            let requests = agent.server.requests();
            let posted = requests
                .iter()
                .find(|request| request.method == "POST")
                .unwrap();
            assert_eq!(posted.json(), file);
            host.del(&config).await;
            host.assert_clean();
            assert_eq!(
                agent.server.lines().last().unwrap(),
                &format!("DELETE /vm/{ID}")
            );
            // DEL is idempotent.
            host.del(&config).await;
        }
    });
}

#[test]
fn interfaces_are_ordered_by_their_index() {
    isolated_async(|| async {
        let agent = FakeVrouterAgent::start(ID, 3, &[]).await;
        let host = TestHost::new();
        let config = host.config(&agent, "0.3.1", &json!({ "mode": "k8s" }));
        let result = host.add(&config).await;
        assert_eq!(result["interfaces"][0]["mac"], mac(0));
        for (index, name) in ["eth0", "eth1", "eth2"].into_iter().enumerate() {
            let output = inside(&host.namespace, move || {
                command("ip", &format!("-o link show {name}"))
            });
            assert!(output.contains(&mac(index)), "{output}");
        }
        assert_eq!(link_names().len(), 3);
        assert_eq!(host.port_files().len(), 3);
        host.del(&config).await;
        host.assert_clean();
    });
}

#[test]
fn annotation_sets_the_interface_name() {
    isolated_async(|| async {
        let agent = FakeVrouterAgent::start(ID, 1, &["{interface:net7}"]).await;
        let host = TestHost::new();
        let config = host.config(&agent, "1.0.0", &json!({}));
        let result = host.add(&config).await;
        assert_eq!(result["interfaces"][0]["name"], "net7");
        assert_eq!(inside(&host.namespace, link_names), ["net7"]);
        host.del(&config).await;
        host.assert_clean();
    });
}

#[test]
fn id_that_is_not_a_uuid_gets_its_own_vm_uuid() {
    isolated_async(|| async {
        for id in ["not a uuid/../x", "parent.child"] {
            let container = ContainerId::printed(id);
            let machine = agent_api::vm_uuid(&container).to_string();
            let agent = FakeVrouterAgent::start(&machine, 1, &[]).await;
            let host = TestHost::new();
            let config = host.config(&agent, "0.3.1", &json!({}));
            let (result, is_success) = host.call_of("ADD", id, &config).await;
            assert!(is_success, "{result}");
            let (result, is_success) = host.call_of("DEL", id, &config).await;
            assert!(is_success, "{result}");
            host.assert_clean();
        }
    });
}

#[test]
fn check_reports_a_missing_address() {
    isolated_async(|| async {
        let agent = FakeVrouterAgent::start(ID, 1, &[]).await;
        let host = TestHost::new();
        let mut config = host.config(&agent, "1.0.0", &json!({}));
        let result = host.add(&config).await;
        host.fails("CHECK", &config).await;
        config["prevResult"] = result;
        let (result, is_success) = host.call("CHECK", &config).await;
        assert!(is_success, "{result}");
        agent.faults.no_address.store(true, Ordering::Relaxed);
        let result = host.fails("CHECK", &config).await;
        assert!(
            result["msg"].as_str().unwrap().contains("does not forward"),
            "{result}"
        );
        agent.faults.no_address.store(false, Ordering::Relaxed);
        inside(&host.namespace, || command("ip", "addr flush dev eth0"));
        let result = host.fails("CHECK", &config).await;
        assert!(
            result["msg"].as_str().unwrap().contains("10.47.255.252/12"),
            "{result}"
        );
        host.del(&config).await;
        config["cniVersion"] = "0.3.1".into();
        assert_eq!(host.fails("CHECK", &config).await["code"], 1);
    });
}

#[test]
fn contrails_own_manager_gets_add_and_del() {
    isolated_async(|| async {
        let agent = FakeVrouterAgent::start(ID, 1, &[]).await;
        let is_away = Arc::new(AtomicBool::new(false));
        let away = Arc::clone(&is_away);
        let manager = ScriptedServer::start(move |request, before| match before {
            _ if away.load(Ordering::Relaxed) => Reply::Answer(503, String::new()),
            // While it restarts.
            0 => Reply::Close,
            _ => ok(&request.body),
        })
        .await;
        let host = TestHost::new();
        // A number and a string.
        for port in [
            json!(manager.address.port()),
            json!(manager.address.port().to_string()),
        ] {
            let more = json!({ "mode": "mesos", "mesos-ip": "127.0.0.1", "mesos-port": port });
            let config = host.config(&agent, "0.3.1", &more);
            host.add(&config).await;
            let requests = manager.requests();
            let request = requests.last().unwrap();
            assert_eq!(request.line(), "POST /add_cni_info");
            let expected = json!({ "cid": ID, "cmd": "ADD", "args": config.to_string() });
            assert_eq!(request.json(), expected);
            // Without the manager, a DEL cleans the host and must be repeated.
            is_away.store(true, Ordering::Relaxed);
            let result = host.fails("DEL", &config).await;
            assert_eq!(result["code"], 11, "{result}");
            host.assert_clean();
            is_away.store(false, Ordering::Relaxed);
            host.del(&config).await;
            assert_eq!(manager.lines().last().unwrap(), "POST /del_cni_info");
        }
    });
}

#[test]
fn managers_of_this_project_create_the_ports() {
    isolated_async(|| async {
        let agent = FakeVrouterAgent::start(ID, 2, &[]).await;
        let port = |index: usize| {
            json!({
                "interface": format!("eth{index}"), "uuid": uuid(index),
                "virtual_network": NETWORK, "virtual_network_name": "d:p:n", "mac": mac(index),
                "addresses": [{ "address": format!("10.47.255.{}/12", 252 - index) }],
            })
        };
        let made = json!({ "machine": ID, "ports": [port(0), port(1)] });
        let manager = ScriptedServer::start(move |request, _| match request.method.as_str() {
            "PUT" => ok(&made),
            _ => ok(&json!({})),
        })
        .await;
        let host = TestHost::new();
        let more = json!({
            "managers": [format!("http://{}", manager.address)], "virtual-network": "d:p:n",
        });
        let mut config = host.config(&agent, "1.0.0", &more);
        config["args"] = json!({ "org.apache.mesos": { "network_info": {
            "name": "contrail-cni-plugin", "ip_addresses": [{ "protocol": "IPv4" }],
            "labels": { "labels": [{ "key": "networks", "value": "blue, red" }] },
        } } });
        host.add(&config).await;
        let request = manager.requests().remove(0);
        assert_eq!(request.line(), format!("PUT /v1/ports/{ID}"));
        // The name of the virtual-router that Contrail's own manager used.
        assert_eq!(request.header(agent_api::AGENT_HEADER), Some("node-1"));
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
        assert_eq!(request.json(), expected);
        host.del(&config).await;
        host.assert_clean();
        assert_eq!(
            manager.lines().last().unwrap(),
            &format!("DELETE /v1/ports/{ID}")
        );
    });
}

#[test]
fn meta_plugin_attaches_one_interface_per_call() {
    isolated_async(|| async {
        let agent = FakeVrouterAgent::start(ID, 2, &[]).await;
        let host = TestHost::new();
        let config = |network: &str| {
            let more = json!({ "meta-plugin": true, "network-name": network });
            host.config(&agent, "0.3.1", &more).to_string()
        };
        // Selected by the network, not by the index.
        for (network, interface, address) in [
            ("net1", "eth0", "10.47.255.251/12"),
            ("default-domain:p:net0", "blue0", "10.47.255.252/12"),
        ] {
            let environment = host.environment_of("ADD", ID, interface);
            let output = run(&environment, config(network).as_bytes()).await;
            let result: Value = serde_json::from_str(&output.stdout).unwrap();
            assert_eq!(result["interfaces"][0]["name"], interface, "{result}");
            assert_eq!(result["ips"][0]["address"], address);
        }
        assert_eq!(inside(&host.namespace, link_names), ["blue0", "eth0"]);
        let environment = host.environment_of("ADD", ID, "red0");
        let output = run(&environment, config("none").as_bytes()).await;
        assert!(
            output.stdout.contains("no interface on network"),
            "{output:?}"
        );
        // Only the DEL of the last interface unregisters the container.
        let unregister = format!("DELETE /vm/{ID}");
        let environment = host.environment_of("DEL", ID, "eth0");
        assert!(
            run(&environment, config("net1").as_bytes())
                .await
                .is_success
        );
        assert_eq!(inside(&host.namespace, link_names), ["blue0"]);
        assert_eq!(host.port_files().len(), 1);
        assert!(!agent.server.lines().contains(&unregister));
        let environment = host.environment_of("DEL", ID, "blue0");
        assert!(
            run(&environment, config("net0").as_bytes())
                .await
                .is_success
        );
        assert!(agent.server.lines().contains(&unregister));
        host.assert_clean();
    });
}
