//! Failures, none of which leaves anything behind.

use super::*;

#[test]
fn add_without_an_address_is_undone_and_names_the_missing_object() {
    isolated_async(|| async {
        let agent = FakeVrouterAgent::start(ID, 1, &[]).await;
        let host = TestHost::new();
        let config = host.config(&agent, "0.3.1", &json!({}));
        agent.faults.no_address.store(true, Ordering::Relaxed);
        let result = host.fails("ADD", &config).await;
        assert_eq!(result["code"], 100);
        assert!(
            result["msg"].as_str().unwrap().contains("instance-ip"),
            "{result}"
        );
        host.assert_clean();
        assert_eq!(
            agent.server.lines().last().unwrap(),
            &format!("DELETE /vm/{ID}")
        );
        // The next ADD starts from scratch.
        agent.faults.no_address.store(false, Ordering::Relaxed);
        host.add(&config).await;
        host.del(&config).await;
        host.assert_clean();
    });
}

#[test]
fn container_without_configuration_is_reported() {
    isolated_async(|| async {
        let agent = FakeVrouterAgent::start(ID, 1, &[]).await;
        agent
            .faults
            .polls_until_configured
            .store(usize::MAX, Ordering::Relaxed);
        let host = TestHost::new();
        let config = host.config(&agent, "0.2.0", &json!({ "poll-retries": 1 }));
        let result = host.fails("ADD", &config).await;
        assert!(
            result["msg"].as_str().unwrap().contains("virtual-router"),
            "{result}"
        );
        host.assert_clean();
    });
}

#[test]
fn add_without_peers_ends_within_its_deadline() {
    isolated_async(|| async {
        let refused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = refused.local_addr().unwrap().port();
        drop(refused);
        let host = TestHost::new();
        // The clock stands still while anything is done, and waiting takes no time.
        tokio::time::pause();
        for manager in [
            json!({}),
            json!({ "mode": "mesos", "mesos-ip": "127.0.0.1", "mesos-port": port }),
            json!({ "managers": [format!("http://127.0.0.1:{port}")], "agent": "node1" }),
        ] {
            for (timeout, retries) in [(1, 2), (2, 5), (4, 5), (3, 20)] {
                let mut config = json!({
                    "cniVersion": "0.3.1", "name": "x", "type": "contrail-mesos-cni",
                    "contrail": {
                        "vrouter-ip": "127.0.0.1", "vrouter-port": port,
                        "config-dir": host.directory.path().join("ports"),
                        "poll-timeout": timeout, "poll-retries": retries,
                    },
                });
                for (key, value) in manager.as_object().unwrap() {
                    config["contrail"][key] = value.clone();
                }
                let started = tokio::time::Instant::now();
                let result = host.fails("ADD", &config).await;
                let elapsed = started.elapsed();
                let deadline = std::time::Duration::from_secs(timeout * retries);
                assert!(elapsed <= deadline, "{elapsed:?} of {deadline:?}: {result}");
                // It waited for the peers.
                assert!(
                    elapsed >= deadline / 2,
                    "{elapsed:?} of {deadline:?}: {result}"
                );
                host.assert_clean();
            }
        }
    });
}

#[test]
fn second_add_is_refused_and_changes_nothing() {
    isolated_async(|| async {
        let agent = FakeVrouterAgent::start(ID, 1, &[]).await;
        let host = TestHost::new();
        let config = host.config(&agent, "0.3.1", &json!({}));
        host.add(&config).await;
        let before = agent.server.lines().len();
        let result = host.fails("ADD", &config).await;
        assert!(
            result["msg"].as_str().unwrap().contains("attached already"),
            "{result}"
        );
        assert_eq!(agent.server.lines().len(), before);
        assert_eq!(host.port_files().len(), 1);
        let output = inside(&host.namespace, || command("ip", "-o addr show eth0"));
        assert!(output.contains("10.47.255.252/12"), "{output}");
        host.del(&config).await;
        host.assert_clean();
    });
}

#[test]
fn del_ignores_port_files_of_another_container() {
    isolated_async(|| async {
        let agent = FakeVrouterAgent::start(ID, 1, &[]).await;
        let host = TestHost::new();
        let config = host.config(&agent, "0.3.1", &json!({}));
        host.add(&config).await;
        let file = host.port_files().remove(0);
        let json = std::fs::read_to_string(&file).unwrap();
        let foreign = json.replace(&format!("\"vm-id\": \"{ID}\""), "\"vm-id\": \"other\"");
        assert_ne!(foreign, json);
        std::fs::write(&file, foreign).unwrap();
        host.del(&config).await;
        assert_eq!(host.port_files().len(), 1);
        assert_eq!(link_names().len(), 1);
        std::fs::write(&file, json).unwrap();
        host.del(&config).await;
        host.assert_clean();
    });
}

#[test]
fn del_removes_interfaces_of_the_go_plugin_but_not_of_the_host() {
    isolated_async(|| async {
        let agent = FakeVrouterAgent::start(ID, 1, &[]).await;
        let host = TestHost::new();
        let config = host.config(&agent, "0.3.1", &json!({}));
        command("ip", "link add tapeth0-660a30 type veth peer name other");
        let directory = host.directory.path().join("ports").join(ID);
        std::fs::create_dir_all(&directory).unwrap();
        let port = |host: &str, vmi: &str| {
            let text = json!({
                "time": "2018-11-02 10:00:00.0 +0000 UTC", "vm-id": ID, "vm-uuid": ID,
                "vm-name": ID, "host-ifname": host, "vm-ifname": "eth0",
                "vm-namespace": "/var/run/netns/x", "vn-uuid": NETWORK, "vmi-uuid": vmi,
            });
            std::fs::write(directory.join(vmi), text.to_string()).unwrap();
        };
        port("tapeth0-660a30", &uuid(0));
        port("lo", &uuid(1));
        host.del(&config).await;
        host.assert_clean();
    });
}

#[test]
fn del_keeps_the_objects_until_the_vrouter_agent_responds() {
    isolated_async(|| async {
        let agent = FakeVrouterAgent::start(ID, 1, &[]).await;
        let manager = ScriptedServer::start(|request, _| ok(&request.body)).await;
        let host = TestHost::new();
        let more = json!({
            "mode": "mesos", "mesos-ip": "127.0.0.1", "mesos-port": manager.address.port(),
        });
        let config = host.config(&agent, "0.3.1", &more);
        host.add(&config).await;
        agent.faults.hangs.store(true, Ordering::Relaxed);
        let result = host.fails("DEL", &config).await;
        assert_eq!(result["code"], 11, "{result}");
        // The host is clean, and the objects are kept.
        host.assert_clean();
        assert_eq!(manager.lines(), ["POST /add_cni_info"]);
        agent.faults.hangs.store(false, Ordering::Relaxed);
        host.del(&config).await;
        assert_eq!(
            manager.lines(),
            ["POST /add_cni_info", "POST /del_cni_info"]
        );
        // A vRouter agent that is down forgets the container.
        let FakeVrouterAgent { server, .. } = agent;
        drop(server);
        tokio::task::yield_now().await;
        host.del(&config).await;
    });
}

#[test]
fn macvlan_without_a_vlan_is_refused() {
    isolated_async(|| async {
        let agent = FakeVrouterAgent::start(ID, 1, &[]).await;
        let host = TestHost::new();
        let config = host.config(&agent, "0.3.1", &json!({ "vif-type": "macvlan" }));
        let result = host.fails("ADD", &config).await;
        assert!(
            result["msg"]
                .as_str()
                .unwrap()
                .contains("has no VLAN for eth0"),
            "{result}"
        );
        let posts = agent.server.requests();
        assert!(posts.iter().all(|request| request.method != "POST"));
        host.assert_clean();
    });
}

#[test]
fn del_waits_until_a_restarted_agent_has_the_configuration() {
    isolated_async(|| async {
        let agent = FakeVrouterAgent::start(ID, 1, &[]).await;
        let host = TestHost::new();
        let config = host.config(&agent, "0.3.1", &json!({}));
        host.add(&config).await;
        assert_eq!(*agent.registered.lock().unwrap(), [uuid(0)]);
        let polls = &agent.faults.polls_until_configured;
        polls.store(3, Ordering::Relaxed);
        host.del(&config).await;
        assert_eq!(*agent.registered.lock().unwrap(), [""; 0]);
        host.assert_clean();
    });
}
