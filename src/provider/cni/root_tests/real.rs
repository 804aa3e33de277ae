//! Debian's CNI plugins.

use super::*;

fn bridge(host: &TestHost, version: &str) -> Value {
    let mut ipam = host.host_local();
    if version == "0.2.0" {
        ipam = json!({
            "type": "host-local", "dataDir": host.path("leases"), "subnet": "10.77.0.0/24",
            "routes": [{ "dst": "0.0.0.0/0" }]
        });
    }
    json!({
        "cniVersion": version, "name": format!("net-{version}"), "type": "bridge",
        "bridge": "peer0", "isGateway": true, "ipam": ipam,
    })
}

#[test]
fn bridge_and_host_local_work_in_every_version() {
    isolated_async(|| async {
        let host = TestHost::new();
        for version in ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
            let mut config = bridge(&host, version);
            if version == "0.1.0" {
                config["ipam"] = bridge(&host, "0.2.0")["ipam"].clone();
            }
            let network = host.network(&config);
            let container = host.attach(&request("one", &network)).await.unwrap();
            let addresses = container.addresses();
            assert!(
                addresses[0].starts_with("10.77.0."),
                "{version}: {addresses:?}"
            );
            assert!(addresses[0].ends_with("/24"), "{version}: {addresses:?}");
            let both = !version.starts_with("0.1") && !version.starts_with("0.2");
            assert_eq!(addresses.len(), if both { 2 } else { 1 }, "{version}");
            assert_eq!(container.attachment.gateways[0].to_string(), "10.77.0.1");
            // The reported address is configured, and loopback is up.
            let addresses_inside = container.inside("ip", "-o addr show");
            assert!(
                addresses_inside.contains(&addresses[0]),
                "{version}: {addresses_inside}"
            );
            assert!(
                addresses_inside.contains("127.0.0.1/8"),
                "{version}: {addresses_inside}"
            );
            let link = container.inside("ip", "-o link show eth0");
            assert!(
                link.contains(&container.attachment.mac.to_string()),
                "{link}"
            );
            container.inside("ping", "-c 1 -W 5 10.77.0.1");
            let counters = host.provider.statistics(&container.intent).await.unwrap();
            assert!(counters.tx_packets > 0, "{version}: {counters:?}");
            host.detach(container).await;
            assert_eq!(link_names(), ["peer0"], "{version}");
            host.assert_clean();
        }
        run("ip", "link delete peer0");
    });
}

#[test]
fn chain_with_portmap_maps_and_unmaps_ports() {
    isolated_async(|| async {
        let host = TestHost::new();
        let mut first = bridge(&host, "1.0.0");
        let (first, version) = (first.as_object_mut().unwrap(), "1.0.0");
        first.remove("name");
        first.remove("cniVersion");
        let network = host.network(&json!({
            "cniVersion": version, "name": "chain",
            "plugins": [first, { "type": "portmap", "capabilities": { "portMappings": true } }],
        }));
        let mut requested = request("one", &network);
        requested.ports = vec![PortMapping {
            host_port: 31080,
            container_port: 80,
            protocol: Protocol::Tcp,
        }];
        let container = host.attach(&requested).await.unwrap();
        let rules = nft_ruleset();
        assert!(rules.contains("31080"), "{rules}");
        // The DEL needs neither the file nor the process that ran the ADD.
        fs::remove_file(host.path("net.d/chain")).unwrap();
        let host = host.restart();
        host.provider.adopt(&container.intent).await.unwrap();
        host.detach(container).await;
        assert!(!nft_ruleset().contains("31080"), "{}", nft_ruleset());
        assert_eq!(link_names(), ["peer0"]);
        host.assert_clean();
    });
}

#[test]
fn loopback_plugin_attaches_and_is_adopted() {
    isolated_async(|| async {
        let host = TestHost::new();
        let network =
            host.network(&json!({ "cniVersion": "0.3.1", "name": "lo", "type": "loopback" }));
        let container = host.attach(&request("one", &network)).await.unwrap();
        assert_eq!(container.attachment.mac.to_string(), "00:00:00:00:00:00");
        let host = host.restart();
        host.provider.adopt(&container.intent).await.unwrap();
        host.detach(container).await;
        host.assert_clean();
    });
}

#[test]
fn static_address_is_assigned_or_refused() {
    isolated_async(|| async {
        let host = TestHost::new();
        let mut config = bridge(&host, "1.0.0");
        config["capabilities"] = json!({ "ips": true });
        let network = host.network(&config);
        let mut requested = request("one", &network);
        requested.addresses = vec![AddressRequest::Static("10.77.0.42".parse().unwrap())];
        let container = host.attach(&requested).await.unwrap();
        assert_eq!(container.addresses()[0], "10.77.0.42/24");
        let mut taken = requested.clone();
        taken.container = ContainerId::top_level("two");
        let error = host.attach(&taken).await.map(|_| ()).unwrap_err();
        assert!(error.contains("10.77.0.42"), "{error}");
        host.detach(container).await;
        // A plugin that ignores the requested address.
        host.script(
            "stubborn",
            r#"cat > /dev/null; echo '{"ips":[{"address":"10.9.9.9/24"}]}'"#,
        );
        let network = host.network(&json!({ "name": "stubborn", "type": "stubborn" }));
        requested.network = network;
        let error = host.attach(&requested).await.map(|_| ()).unwrap_err();
        assert!(
            error.contains("did not assign the requested address 10.77.0.42"),
            "{error}"
        );
        host.assert_clean();
        run("ip", "link delete peer0");
    });
}

#[test]
fn deleted_host_end_is_reported_but_not_a_detach() {
    isolated_async(|| async {
        let mut host = TestHost::new();
        let network = host.network(&bridge(&host, "0.3.1"));
        let one = host.attach(&request("one", &network)).await.unwrap();
        let two = host.attach(&request("two", &network)).await.unwrap();
        let three = host.attach(&request("three", &network)).await.unwrap();
        host.detach(one).await;
        let host_end = host.provider.driver.host_end(&two.intent).unwrap();
        run("ip", &format!("link delete {host_end}"));
        let lost = host.lost.recv().await.unwrap();
        assert_eq!(lost.container, two.intent.container);
        // After a restart the second interface is still gone, and the third exists.
        let host = host.restart();
        let error = host.provider.adopt(&two.intent).await.unwrap_err();
        assert!(error.to_string().contains(&host_end), "{error}");
        host.provider.adopt(&three.intent).await.unwrap();
        host.detach(two).await;
        host.detach(three).await;
        host.assert_clean();
    });
}

#[test]
fn sweep_keeps_all_networks_of_known_containers() {
    isolated_async(|| async {
        let host = TestHost::new();
        let network = host.network(&bridge(&host, "1.0.0"));
        let kept = host.attach(&request("kept", &network)).await.unwrap();
        let damaged = host.attach(&request("damaged", &network)).await.unwrap();
        let stray = host.attach(&request("stray", &network)).await.unwrap();
        let mut second = request("kept", &network);
        second.interface = "eth1".to_owned();
        let second = host.intent(&second).await.unwrap();
        let attachments = host
            .provider
            .attach_all(std::slice::from_ref(&second), kept.namespace.as_fd())
            .await
            .unwrap();
        assert_eq!(attachments[0].addresses.len(), 2);
        // An interface can be attached only once.
        let error = host
            .provider
            .attach_all(std::slice::from_ref(&second), kept.namespace.as_fd())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("attached already"), "{error:?}");
        run("ip", "link add other0 type veth peer name other1");
        let host = host.restart();
        let damaged_ids = HashSet::from([damaged.intent.container.clone()]);
        let known = [kept.intent.clone(), second.clone()];
        host.provider.sweep(&known, &damaged_ids).await.unwrap();
        // Two addresses for each of three interfaces: two kept and one damaged.
        assert_eq!(host.leases(), 6);
        assert!(link_names().contains(&"other0".to_owned()));
        let none_damaged = HashSet::new();
        host.provider.sweep(&known, &none_damaged).await.unwrap();
        assert_eq!(host.leases(), 4);
        host.provider
            .detach_all(std::slice::from_ref(&second))
            .await
            .unwrap();
        host.detach(kept).await;
        for gone in [damaged, stray] {
            // DEL is idempotent.
            host.detach(gone).await;
        }
        host.assert_clean();
    });
}
