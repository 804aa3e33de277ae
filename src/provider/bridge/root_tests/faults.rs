//! Crashes, conflicts, and changes by someone else.

use super::*;
use std::collections::HashSet;

#[test]
fn concurrent_detaches_of_500_containers_leave_nothing() {
    isolated_async(|| async {
        let host = TestHost::new();
        let blue = network("blue", 1);
        let mut containers = Vec::new();
        for number in 0..500 {
            let mut request = request(&format!("c{number}"), &blue);
            request.ports = vec![port(Protocol::Tcp, 10_000 + number, 80)];
            containers.push(host.attach(&request).await.unwrap());
        }
        let detaches = containers
            .iter()
            .map(|container| host.provider.detach(&container.intent));
        for result in futures::future::join_all(detaches).await {
            result.unwrap();
        }
        host.assert_clean();
    });
}

#[test]
fn detach_needs_only_the_intent() {
    isolated_async(|| async {
        let blue = network("blue", 1);
        let mut mapped = request("one", &blue);
        mapped.ports = vec![port(Protocol::Tcp, 8080, 80)];
        // Only the reservation exists.
        let host = TestHost::new();
        let intent = host.reserve(&mapped).await.unwrap();
        let host = host.restart();
        host.provider.detach(&intent).await.unwrap();
        host.assert_clean();
        for damage in 0..4 {
            let one = host.attach(&mapped).await.unwrap();
            match damage {
                0 => ip(&format!("link del {}", one.intent.provider.host_interface)),
                1 => host
                    .provider
                    .driver
                    .host
                    .table
                    .remove(&host.provider.driver.port_elements(&one.intent))
                    .unwrap(),
                2 => ip("link del cmb-blue"),
                _ => std::fs::remove_dir_all(host.state.path().join("networks/blue")).unwrap(),
            }
            let again = TestHost::at(tempfile::TempDir::new().unwrap());
            drop(again);
            host.detach(&one).await;
            host.assert_clean();
        }
        // A crash after the attach completed.
        let one = host.attach(&mapped).await.unwrap();
        let host = host.restart();
        host.detach(&one).await;
        host.assert_clean();
    });
}

#[test]
fn restart_adopts_known_containers_and_sweeps_orphans() {
    isolated_async(|| async {
        let host = TestHost::new();
        let blue = network("blue", 1);
        let mut mapped = request("one", &blue);
        mapped.ports = vec![port(Protocol::Tcp, 8080, 80)];
        let one = host.attach(&mapped).await.unwrap();
        mapped = request("orphan", &blue);
        mapped.ports = vec![port(Protocol::Tcp, 8081, 80)];
        let orphan = host.attach(&mapped).await.unwrap();
        let red = host.launch("red-orphan", &network("red", 2)).await;
        serve(&one, 80);
        let host = host.restart();
        ip("link del cmb-blue");
        run("nft", "flush ruleset");
        host.provider.adopt(&one.intent).await.unwrap();
        host.provider
            .sweep(std::slice::from_ref(&one.intent), &HashSet::new())
            .await
            .unwrap();
        assert_eq!(
            link_names(),
            [
                one.intent.provider.host_interface.clone(),
                "cmb-blue".to_owned()
            ]
        );
        assert!(query_tcp("127.0.0.1:8080".parse().unwrap()).is_ok());
        assert!(!nft_ruleset().contains("8081"));
        let mut leases: Vec<_> = std::fs::read_dir(host.state.path().join("networks/blue"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        leases.sort();
        assert_eq!(leases, ["10.1.0.2", "fd00:1::2"]);
        assert!(
            host.provider.adopt(&orphan.intent).await.is_err(),
            "adopted a container whose link is gone"
        );
        drop(red);
        host.detach(&one).await;
        host.assert_clean();
    });
}

#[test]
fn deleted_bridge_is_repaired_and_deleted_link_reported() {
    isolated_async(|| async {
        let mut host = TestHost::new();
        let blue = network("blue", 1);
        let one = host.launch("one", &blue).await;
        let two = host.launch("two", &blue).await;
        serve(&one, 80);
        let address = SocketAddr::new(one.v4(), 80);
        ip("link del cmb-blue");
        // The watch or the next attach repairs the bridge.
        let three = host.launch("three", &blue).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        for container in [&two, &three] {
            container.inside(move || query_tcp(address)).unwrap();
        }
        assert_eq!(host.provider.repair().await.unwrap(), Vec::<String>::new());
        run("nft", "flush ruleset");
        host.provider.repair().await.unwrap();
        assert!(nft_ruleset().contains("10.1.0.0/16"));
        ip(&format!("link del {}", two.intent.provider.host_interface));
        let lost = tokio::time::timeout(IO_TIMEOUT, host.lost.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(lost.container, two.intent.container);
        assert!(lost.message.contains("blue"), "{}", lost.message);
        // The end of a namespace deletes its interfaces.
        let Container { intent, namespace } = three;
        drop(namespace);
        let lost = tokio::time::timeout(IO_TIMEOUT, host.lost.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(lost.container, intent.container);
        host.provider.detach(&intent).await.unwrap();
        host.detach(&two).await;
        host.detach(&one).await;
        assert!(
            host.lost.try_recv().is_err(),
            "a detach was reported as a loss"
        );
        host.assert_clean();
    });
}

#[test]
fn conflicting_attach_is_refused_and_changes_nothing() {
    isolated_async(|| async {
        let host = TestHost::new();
        let blue = network("blue", 1);
        let one = host.launch("one", &blue).await;
        let error = host
            .provider
            .attach(&one.intent, one.namespace.as_fd())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("attached already"), "{error}");
        let other = request("other", &blue);
        let intent = host.reserve(&other).await.unwrap();
        let error = host
            .provider
            .attach(&intent, one.namespace.as_fd())
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("has an interface eth0 already"),
            "{error}"
        );
        host.provider.detach(&intent).await.unwrap();
        assert_eq!(link_names().len(), 2);
        // Another process of the same instance does not know what this one attached.
        let (sender, _lost) = unbounded_channel();
        let second = BridgeProvider::new(host.state.path(), sender).unwrap();
        let error = second
            .attach(&one.intent, namespace().as_fd())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("attached already"), "{error}");
        assert_eq!(link_names().len(), 2);
        host.detach(&one).await;

        ip("link add cmb-blue type veth peer name other");
        let error = host.attach(&other).await.err().unwrap();
        assert!(
            error.contains("cmb-blue exists, but is no bridge"),
            "{error}"
        );
        ip("link del cmb-blue");
        ip("link add cmb-blue type bridge");
        ip("link set cmb-blue up mtu 1300");
        ip("addr add 10.1.0.1/16 dev cmb-blue");
        let one = host.launch("one", &blue).await;
        serve(&one, 80);
        assert!(query_tcp(SocketAddr::new(one.v4(), 80)).is_ok());
        host.detach(&one).await;
        assert_eq!(
            link_names(),
            ["cmb-blue"],
            "the operator's bridge was removed"
        );
        ip("link del cmb-blue");
        host.assert_clean();
    });
}

#[test]
fn exhausted_subnet_is_refused() {
    isolated_async(|| async {
        let host = TestHost::new();
        let mut tiny = network("tiny", 3);
        let v4 = bridge_of(&mut tiny).v4.as_mut().unwrap();
        v4.subnet = "10.3.0.0/30".parse().unwrap();
        v4.last = "10.3.0.2".parse().unwrap();
        let one = host.launch("one", &tiny).await;
        let error = host.attach(&request("two", &tiny)).await.err().unwrap();
        assert!(
            error.contains("no IPv4 address left in 10.3.0.0/30"),
            "{error}"
        );
        host.detach(&one).await;
        host.assert_clean();
    });
}

#[test]
fn plan_lists_the_changes_of_attach_and_makes_none() {
    isolated_async(|| async {
        let host = TestHost::new();
        let mut mapped = request("one", &network("blue", 1));
        mapped.ports = vec![port(Protocol::Tcp, 8080, 80)];
        let plan = host.plan(&mapped).await.unwrap();
        println!("{}", plan.join("\n"));
        for part in [
            "lease 10.1.0.2 of network blue",
            "create the bridge cmb-blue, MAC 02:",
            "give 10.1.0.1/16 to cmb-blue",
            "create the nftables table inet contrail_mesos",
            "add the nftables element tcp 8080 : 10.1.0.2 . 80 of ports4",
            "set /proc/sys/net/ipv4/ip_forward to 1",
            "set /proc/sys/net/ipv4/conf/cmb-blue/route_localnet to 1",
            "create the veth pair",
            "in the container: give 10.1.0.2/16 to eth0",
            "in the container: route 0.0.0.0/0 by 10.1.0.1",
            "in the container: route ::/0 by fd00:1::1",
        ] {
            assert!(plan.iter().any(|step| step.contains(part)), "no {part:?}");
        }
        assert_eq!(link_names(), Vec::<String>::new());
        assert_eq!(nft_ruleset(), "");
        assert!(!host.state.path().join("networks").exists());
        let one = host.attach(&mapped).await.unwrap();
        let mut next = request("two", &network("blue", 1));
        next.addresses = vec![AddressRequest::V4];
        let plan = host.plan(&next).await.unwrap();
        assert!(
            !plan.iter().any(|step| step.contains("the bridge")),
            "{plan:#?}"
        );
        host.detach(&one).await;
        host.assert_clean();
    });
}

#[test]
fn another_instance_removes_nothing_of_a_container() {
    isolated_async(|| async {
        let host = TestHost::new();
        let other = TestHost::new();
        let blue = network("blue", 1);
        let mut mapped = request("one", &blue);
        mapped.ports = vec![port(Protocol::Tcp, 8080, 80)];
        let one = host.attach(&mapped).await.unwrap();
        let before = (link_names(), nft_ruleset());
        let error = other.provider.check_unused(&mapped).unwrap_err();
        assert!(error.to_string().contains("attached already"), "{error}");
        // As if it had not checked: its own reservation, the undo of a failed attach, a detach.
        let intent = other.reserve(&mapped).await.unwrap();
        other
            .provider
            .attach(&intent, namespace().as_fd())
            .await
            .unwrap_err();
        other.provider.detach(&intent).await.unwrap();
        let intent = other.reserve(&mapped).await.unwrap();
        other.provider.release(&intent).await.unwrap();
        other
            .provider
            .remove_container(&mapped.container)
            .await
            .unwrap();
        assert_eq!((link_names(), nft_ruleset()), before);
        serve(&one, 80);
        let address = SocketAddr::new(one.v4(), 80);
        query_tcp(address).unwrap();
        host.detach(&one).await;
        host.assert_clean();
    });
}

#[test]
fn last_container_removes_what_one_with_a_lost_intent_shared() {
    isolated_async(|| async {
        let host = TestHost::new();
        let blue = network("blue", 1);
        let mut mapped = request("one", &blue);
        mapped.ports = vec![port(Protocol::Tcp, 8080, 80)];
        let one = host.attach(&mapped).await.unwrap();
        // It is not adopted.
        let host = host.restart();
        let two = host.launch("two", &blue).await;
        let removed = host.provider.remove_container(&one.intent.container);
        removed.await.unwrap();
        assert!(nft_ruleset().contains("cmb-blue"));
        host.detach(&two).await;
        host.assert_clean();
    });
}

#[test]
fn container_without_intent_is_removed_by_its_id() {
    isolated_async(|| async {
        let host = TestHost::new();
        let blue = network("blue", 1);
        let mut mapped = request("one", &blue);
        mapped.ports = vec![port(Protocol::Tcp, 8080, 80)];
        host.attach(&mapped).await.unwrap();
        let two = host.launch("two", &blue).await;
        let host = host.restart();
        let remove = async |name: &str| {
            let id = ContainerId::top_level(name);
            host.provider.remove_container(&id).await.unwrap();
        };
        remove("one").await;
        remove("one").await;
        serve(&two, 80);
        query_tcp(SocketAddr::new(two.v4(), 80)).unwrap();
        assert!(!nft_ruleset().contains("8080"), "{}", nft_ruleset());
        remove("two").await;
        host.assert_clean();
    });
}
