//! Debian's plugins.

use super::*;

fn bridge(harness: &Harness, version: &str) -> Value {
    let mut ipam = harness.host_local();
    if version == "0.2.0" {
        ipam = json!({
            "type": "host-local", "dataDir": harness.path("leases"), "subnet": "10.77.0.0/24",
            "routes": [{ "dst": "0.0.0.0/0" }]
        });
    }
    json!({
        "cniVersion": version, "name": format!("net-{version}"), "type": "bridge",
        "bridge": "peer0", "isGateway": true, "ipam": ipam,
    })
}

#[test]
fn bridge_and_host_local_in_every_version() {
    isolated_async(|| async {
        let harness = Harness::new();
        for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
            let mut config = bridge(&harness, version);
            if version == "0.1.0" {
                config["ipam"] = bridge(&harness, "0.2.0")["ipam"].clone();
            }
            let network = harness.network(&config);
            let container = harness.attach(&request("one", &network)).await.unwrap();
            let addresses = container.addresses();
            assert!(
                addresses[0].starts_with("10.77.0."),
                "{version}: {addresses:?}"
            );
            assert!(addresses[0].ends_with("/24"), "{version}: {addresses:?}");
            let both = !version.starts_with("0.1") && !version.starts_with("0.2");
            assert_eq!(addresses.len(), if both { 2 } else { 1 }, "{version}");
            assert_eq!(container.attachment.gateways[0].to_string(), "10.77.0.1");
            // What is told is what is there, and loopback is up.
            let shown = container.inside("ip", "-o addr show");
            assert!(shown.contains(&addresses[0]), "{version}: {shown}");
            assert!(shown.contains("127.0.0.1/8"), "{version}: {shown}");
            let link = container.inside("ip", "-o link show eth0");
            assert!(
                link.contains(&container.attachment.mac.to_string()),
                "{link}"
            );
            container.inside("ping", "-c 1 -W 5 10.77.0.1");
            let counters = harness
                .provider
                .statistics(&container.intent)
                .await
                .unwrap();
            assert!(counters.tx_packets > 0, "{version}: {counters:?}");
            harness.detach(container).await;
            assert_eq!(link_names(), ["peer0"], "{version}");
            harness.assert_clean();
        }
        run("ip", "link delete peer0");
    });
}

#[test]
fn a_chain_with_portmap_maps_ports_and_takes_them_back() {
    isolated_async(|| async {
        let harness = Harness::new();
        let mut first = bridge(&harness, "1.0.0");
        let (first, version) = (first.as_object_mut().unwrap(), "1.0.0");
        first.remove("name");
        first.remove("cniVersion");
        let network = harness.network(&json!({
            "cniVersion": version, "name": "chain",
            "plugins": [first, { "type": "portmap", "capabilities": { "portMappings": true } }],
        }));
        let mut asked = request("one", &network);
        asked.ports = vec![PortMapping {
            host_port: 31080,
            container_port: 80,
            protocol: Protocol::Tcp,
        }];
        let container = harness.attach(&asked).await.unwrap();
        let rules = nft_ruleset();
        assert!(rules.contains("31080"), "{rules}");
        // A restart, and the file is gone: the DEL needs neither.
        fs::remove_file(harness.path("net.d/chain")).unwrap();
        let harness = harness.restart();
        harness.provider.adopt(&container.intent).await.unwrap();
        harness.detach(container).await;
        assert!(!nft_ruleset().contains("31080"), "{}", nft_ruleset());
        assert_eq!(link_names(), ["peer0"]);
        harness.assert_clean();
    });
}

#[test]
fn loopback_alone_is_a_network_too() {
    isolated_async(|| async {
        let harness = Harness::new();
        let network =
            harness.network(&json!({ "cniVersion": "0.3.1", "name": "lo", "type": "loopback" }));
        let container = harness.attach(&request("one", &network)).await.unwrap();
        assert_eq!(container.attachment.mac.to_string(), "00:00:00:00:00:00");
        let harness = harness.restart();
        harness.provider.adopt(&container.intent).await.unwrap();
        harness.detach(container).await;
        harness.assert_clean();
    });
}

#[test]
fn an_address_of_its_own_is_given_or_refused() {
    isolated_async(|| async {
        let harness = Harness::new();
        let mut config = bridge(&harness, "1.0.0");
        config["capabilities"] = json!({ "ips": true });
        let network = harness.network(&config);
        let mut asked = request("one", &network);
        asked.addresses = vec![AddressRequest::Static("10.77.0.42".parse().unwrap())];
        let container = harness.attach(&asked).await.unwrap();
        assert_eq!(container.addresses()[0], "10.77.0.42/24");
        let mut taken = asked.clone();
        taken.container = ContainerId::top_level("two");
        let error = harness.attach(&taken).await.map(|_| ()).unwrap_err();
        assert!(error.contains("10.77.0.42"), "{error}");
        harness.detach(container).await;
        // A plugin that gives what it likes.
        harness.script(
            "stubborn",
            r#"cat > /dev/null; echo '{"ips":[{"address":"10.9.9.9/24"}]}'"#,
        );
        let network = harness.network(&json!({ "name": "stubborn", "type": "stubborn" }));
        asked.network = network;
        let error = harness.attach(&asked).await.map(|_| ()).unwrap_err();
        assert!(
            error.contains("did not give the address 10.77.0.42"),
            "{error}"
        );
        harness.assert_clean();
        run("ip", "link delete peer0");
    });
}

#[test]
fn a_lost_host_end_is_told_and_a_detach_is_not_a_loss() {
    isolated_async(|| async {
        let mut harness = Harness::new();
        let network = harness.network(&bridge(&harness, "0.3.1"));
        let one = harness.attach(&request("one", &network)).await.unwrap();
        let two = harness.attach(&request("two", &network)).await.unwrap();
        let three = harness.attach(&request("three", &network)).await.unwrap();
        harness.detach(one).await;
        let host = harness.provider.inner.host_end_of(&two.intent).unwrap();
        run("ip", &format!("link delete {host}"));
        let lost = harness.lost.recv().await.unwrap();
        assert_eq!(lost.container, two.intent.container);
        // After a restart it is gone still, and the third one is there.
        let harness = harness.restart();
        let error = harness.provider.adopt(&two.intent).await.unwrap_err();
        assert!(error.to_string().contains(&host), "{error}");
        harness.provider.adopt(&three.intent).await.unwrap();
        harness.detach(two).await;
        harness.detach(three).await;
        harness.assert_clean();
    });
}

#[test]
fn several_networks_of_one_container_and_what_a_sweep_removes() {
    isolated_async(|| async {
        let harness = Harness::new();
        let network = harness.network(&bridge(&harness, "1.0.0"));
        let kept = harness.attach(&request("kept", &network)).await.unwrap();
        let damaged = harness.attach(&request("damaged", &network)).await.unwrap();
        let stray = harness.attach(&request("stray", &network)).await.unwrap();
        let mut second = request("kept", &network);
        second.interface = "eth1".to_owned();
        let second = harness.intent(&second).await.unwrap();
        let made = harness
            .provider
            .attach_all(&[&second], kept.namespace.as_fd())
            .await
            .unwrap();
        assert_eq!(made[0].addresses.len(), 2);
        // An interface can be attached once.
        let error = harness
            .provider
            .attach_all(&[&second], kept.namespace.as_fd())
            .await
            .unwrap_err();
        assert!(text(&error).contains("attached already"), "{error:?}");
        run("ip", "link add other0 type veth peer name other1");
        let harness = harness.restart();
        let damaged_ids = HashSet::from([damaged.intent.container.clone()]);
        let known = [kept.intent.clone(), second.clone()];
        harness.provider.sweep(&known, &damaged_ids).await.unwrap();
        // Two addresses each: of the two interfaces kept, and of the damaged one's.
        assert_eq!(harness.leases(), 6);
        assert!(link_names().contains(&"other0".to_owned()));
        let nobody = HashSet::new();
        harness.provider.sweep(&known, &nobody).await.unwrap();
        assert_eq!(harness.leases(), 4);
        harness.provider.detach_all(&[&second]).await.unwrap();
        harness.detach(kept).await;
        for gone in [damaged, stray] {
            // Twice is as good as once.
            harness.detach(gone).await;
        }
        harness.assert_clean();
    });
}
