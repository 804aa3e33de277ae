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
        fs::remove_file(host.path("net.d/chain.conf")).unwrap();
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
        // They are every container's own.
        assert_eq!(container.addresses(), Vec::<String>::new());
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
fn static_ipam_gets_the_address_with_its_prefix() {
    isolated_async(|| async {
        let host = TestHost::new();
        let ipam = json!({
            "type": "static", "routes": [{ "dst": "0.0.0.0/0" }],
            "addresses": [{ "address": "10.77.0.2/24", "gateway": "10.77.0.1" }],
        });
        for (name, capabilities) in [("capability", json!({ "ips": true })), ("args", json!({}))] {
            let network = host.network(&json!({
                "name": name, "cniVersion": "1.0.0",
                "plugins": [
                    {
                        "type": "bridge", "bridge": "peer0", "ipam": ipam,
                        "capabilities": capabilities,
                    },
                    { "type": "tuning" },
                ],
            }));
            let mut requested = request("one", &network);
            requested.addresses = vec![AddressRequest::Static("10.77.0.42".parse().unwrap())];
            let container = host.attach(&requested).await.unwrap();
            assert_eq!(container.addresses(), ["10.77.0.42/24"], "{name}");
            let inside = container.inside("ip", "-o addr show eth0");
            assert!(inside.contains("10.77.0.42/24"), "{name}: {inside}");
            host.detach(container).await;
        }
        host.assert_clean();
        run("ip", "link delete peer0");
    });
}

#[test]
fn requested_mac_and_bandwidth_reach_the_plugins() {
    isolated_async(|| async {
        let host = TestHost::new();
        let mut first = bridge(&host, "1.0.0");
        first["capabilities"] = json!({ "mac": true });
        let network = host.network(&json!({
            "name": "chain", "cniVersion": "1.0.0",
            "plugins": [first, { "type": "bandwidth", "capabilities": { "bandwidth": true } }],
        }));
        let mut requested = request("one", &network);
        requested.labels = [
            ("cni.mac", "02:00:00:AA:00:01"),
            ("cni.bandwidth", r#"{ "ingressRate": 8000000 }"#),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        let container = host.attach(&requested).await.unwrap();
        assert_eq!(container.attachment.mac.to_string(), "02:00:00:aa:00:01");
        let link = container.inside("ip", "-o link show eth0");
        assert!(link.contains("02:00:00:aa:00:01"), "{link}");
        let limits = run("tc", "qdisc show");
        assert!(
            limits.contains("tbf") && limits.contains("rate 8Mbit"),
            "{limits}"
        );
        host.detach(container).await;
        host.assert_clean();
        run("ip", "link delete peer0");
    });
}

#[test]
fn version_is_the_highest_that_every_plugin_supports() {
    isolated_async(|| async {
        let host = TestHost::new();
        let chain = |versions: Value, version: Option<&str>| {
            let mut chain = json!({
                "name": "chain", "cniVersions": versions,
                "plugins": [bridge(&host, "0.1.0"), { "type": "firewall" }],
            });
            for key in ["cniVersion", "name"] {
                chain["plugins"][0].as_object_mut().unwrap().remove(key);
            }
            chain["plugins"][0]["ipam"] = host.host_local();
            if let Some(version) = version {
                chain["cniVersion"] = version.into();
            }
            chain
        };
        for (versions, version, chosen) in [
            (json!(["0.4.0", "1.0.0"]), None, "1.0.0"),
            (json!(["1.0.0", "0.4.0", "1.1.0", "2.0.0"]), None, "1.0.0"),
            (json!(["0.3.1", "0.4.0"]), Some("0.2.0"), "0.4.0"),
            (json!(["0.4.0"]), None, "0.4.0"),
            (json!([]), Some("1.0.0"), "1.0.0"),
        ] {
            let network = host.network(&chain(versions.clone(), version));
            let container = host.attach(&request("one", &network)).await.unwrap();
            for plugin in &container.intent.provider.plugins {
                assert_eq!(plugin["cniVersion"], chosen, "{versions}");
                assert!(!plugin.contains_key("cniVersions"));
            }
            assert_eq!(container.addresses().len(), 2);
            host.detach(container).await;
            host.assert_clean();
        }
        // The plugin firewall supports 0.4.0 and 1.0.0.
        let network = host.network(&chain(json!(["0.2.0", "0.3.1", "1.1.0"]), None));
        let requested = request("one", &network);
        let error = host.attach(&requested).await.map(|_| ()).unwrap_err();
        for part in [
            "offers 0.2.0, 0.3.1, 1.1.0",
            "firewall supports 0.4.0, 1.0.0",
            "\"cniVersions\"",
        ] {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
        let config = Source::file(host.path("agent.toml")).load().unwrap();
        let [problem] = &super::version_problems(&config)[..] else {
            panic!()
        };
        assert!(
            problem.message.contains("firewall supports 0.4.0"),
            "{problem}"
        );
        host.assert_clean();
        run("ip", "link delete peer0");
    });
}

#[test]
fn plugin_that_cannot_say_its_versions_gets_the_highest() {
    isolated_async(|| async {
        let host = TestHost::new();
        host.script(
            "silent",
            "cat > $place/$CNI_COMMAND; [ $CNI_COMMAND != VERSION ] || exit 1; echo '{}'",
        );
        let network = host.network(&json!({
            "name": "silent", "cniVersions": ["0.4.0", "1.1.0"], "type": "silent",
        }));
        let container = host.attach(&request("one", &network)).await.unwrap();
        let add: Value = serde_json::from_str(&host.read("ADD")).unwrap();
        assert_eq!(add["cniVersion"], "1.1.0");
        host.detach(container).await;
        host.assert_clean();
    });
}

#[test]
fn namespace_path_is_open_to_other_processes_until_the_end() {
    isolated_async(|| async {
        unshare_mounts();
        let host = TestHost::new();
        // A daemon that looks into the namespace only later.
        run("mkfifo", host.path("fifo").to_str().unwrap());
        host.script(
            "late",
            r"[ $CNI_COMMAND = ADD ] || { echo $CNI_NETNS > $place/del; exit 0; }
            echo $CNI_NETNS > $place/add
            (read line < $place/fifo; nsenter --net=$CNI_NETNS ip -o link > $place/links; echo >> $place/links) > /dev/null 2>&1 &
            echo '{}'",
        );
        let network = host.network(&json!({ "name": "late", "type": "late" }));
        // A namespace of an operator, who has made no handle of the container's name.
        let intent = host.intent(&request("one", &network)).await.unwrap();
        let namespace = namespace();
        host.provider
            .attach_all(std::slice::from_ref(&intent), namespace.as_fd())
            .await
            .unwrap();
        let handle = host.handle(&intent);
        assert_eq!(host.read("add").trim(), handle.to_str().unwrap());
        fs::write(host.path("fifo"), "now\n").unwrap();
        let links = host.await_file("links").await;
        assert!(links.contains("lo:"), "{links}");
        host.provider
            .detach_all(std::slice::from_ref(&intent))
            .await
            .unwrap();
        assert_eq!(host.read("del"), host.read("add"));
        assert!(!handle.exists());
        host.assert_clean();
        // An operator's own handle is used, and stays.
        let own = host.path("netns/own");
        handles::pin(&namespace, &own).unwrap();
        handles::pin(super::namespace(), &handle).unwrap();
        host.provider
            .attach_all(std::slice::from_ref(&intent), namespace.as_fd())
            .await
            .unwrap();
        assert_eq!(host.read("add").trim(), own.to_str().unwrap());
        fs::write(host.path("fifo"), "now\n").unwrap();
        host.provider
            .detach_all(std::slice::from_ref(&intent))
            .await
            .unwrap();
        for path in [&own, &handle] {
            assert!(handles::is_handle(path));
            handles::unpin(path).unwrap();
        }
        host.assert_clean();
        nix::mount::umount(&host.path("netns")).unwrap();
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
