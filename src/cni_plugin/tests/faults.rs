//! What goes wrong, and what is left of it: nothing.

use super::*;

#[test]
fn an_add_without_an_address_undoes_what_it_made_and_says_what_is_missing() {
    isolated_async(|| async {
        let agent = Agent::start(ID, 1, &[]).await;
        let place = Place::new();
        let config = place.config(&agent, "0.3.1", &json!({}));
        agent.faults.no_address.store(true, Ordering::Relaxed);
        let said = place.fails("ADD", &config).await;
        assert_eq!(said["code"], 100);
        assert!(
            said["msg"].as_str().unwrap().contains("instance-ip"),
            "{said}"
        );
        place.assert_clean();
        assert_eq!(
            agent.server.lines().last().unwrap(),
            &format!("DELETE /vm/{ID}")
        );
        // The next one begins anew.
        agent.faults.no_address.store(false, Ordering::Relaxed);
        place.add(&config).await;
        place.del(&config).await;
        place.assert_clean();
    });
}

#[test]
fn a_container_that_is_not_linked_is_said_to_be_so() {
    isolated_async(|| async {
        let agent = Agent::start(ID, 1, &[]).await;
        agent.faults.late.store(usize::MAX, Ordering::Relaxed);
        let place = Place::new();
        let config = place.config(&agent, "0.2.0", &json!({ "poll-retries": 1 }));
        let said = place.fails("ADD", &config).await;
        assert!(
            said["msg"].as_str().unwrap().contains("virtual-router"),
            "{said}"
        );
        place.assert_clean();
    });
}

#[test]
fn a_second_add_is_refused_and_harms_nothing() {
    isolated_async(|| async {
        let agent = Agent::start(ID, 1, &[]).await;
        let place = Place::new();
        let config = place.config(&agent, "0.3.1", &json!({}));
        place.add(&config).await;
        let before = agent.server.lines().len();
        let said = place.fails("ADD", &config).await;
        assert!(
            said["msg"].as_str().unwrap().contains("attached already"),
            "{said}"
        );
        assert_eq!(agent.server.lines().len(), before);
        assert_eq!(place.port_files().len(), 1);
        let shown = inside(&place.namespace, || command("ip", "-o addr show eth0"));
        assert!(shown.contains("10.47.255.252/12"), "{shown}");
        place.del(&config).await;
        place.assert_clean();
    });
}

#[test]
fn anothers_port_files_are_left_alone() {
    isolated_async(|| async {
        let agent = Agent::start(ID, 1, &[]).await;
        let place = Place::new();
        let config = place.config(&agent, "0.3.1", &json!({}));
        place.add(&config).await;
        let file = place.port_files().remove(0);
        let text = std::fs::read_to_string(&file).unwrap();
        let strange = text.replace(&format!("\"vm-id\": \"{ID}\""), "\"vm-id\": \"other\"");
        assert_ne!(strange, text);
        std::fs::write(&file, strange).unwrap();
        place.del(&config).await;
        assert_eq!(place.port_files().len(), 1);
        assert_eq!(link_names().len(), 1);
        std::fs::write(&file, text).unwrap();
        place.del(&config).await;
        place.assert_clean();
    });
}

#[test]
fn the_go_plugins_interface_is_removed_and_the_hosts_own_are_not() {
    isolated_async(|| async {
        let agent = Agent::start(ID, 1, &[]).await;
        let place = Place::new();
        let config = place.config(&agent, "0.3.1", &json!({}));
        command("ip", "link add tapeth0-660a30 type veth peer name other");
        let directory = place.directory.path().join("ports").join(ID);
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
        place.del(&config).await;
        place.assert_clean();
    });
}

#[test]
fn a_vrouter_agent_that_hangs_is_told_before_the_objects_go() {
    isolated_async(|| async {
        let agent = Agent::start(ID, 1, &[]).await;
        let manager = ScriptedServer::start(|asked, _| ok(&asked.body)).await;
        let place = Place::new();
        let more = json!({
            "mode": "mesos", "mesos-ip": "127.0.0.1", "mesos-port": manager.address.port(),
        });
        let config = place.config(&agent, "0.3.1", &more);
        place.add(&config).await;
        agent.faults.hangs.store(true, Ordering::Relaxed);
        let said = place.fails("DEL", &config).await;
        assert_eq!(said["code"], 11, "{said}");
        // The host is clean, and the objects are kept until it was told.
        place.assert_clean();
        assert_eq!(manager.lines(), ["POST /add_cni_info"]);
        agent.faults.hangs.store(false, Ordering::Relaxed);
        place.del(&config).await;
        assert_eq!(
            manager.lines(),
            ["POST /add_cni_info", "POST /del_cni_info"]
        );
        // One that is down knows nothing when it comes back.
        let Agent { server, .. } = agent;
        drop(server);
        tokio::task::yield_now().await;
        place.del(&config).await;
    });
}

#[test]
fn a_macvlan_for_which_the_agent_has_no_vlan_is_refused() {
    isolated_async(|| async {
        let agent = Agent::start(ID, 1, &[]).await;
        let place = Place::new();
        let config = place.config(&agent, "0.3.1", &json!({ "vif-type": "macvlan" }));
        let said = place.fails("ADD", &config).await;
        assert!(
            said["msg"]
                .as_str()
                .unwrap()
                .contains("has no VLAN for eth0"),
            "{said}"
        );
        let posts = agent.server.requests();
        assert!(posts.iter().all(|asked| asked.method != "POST"));
        place.assert_clean();
    });
}
