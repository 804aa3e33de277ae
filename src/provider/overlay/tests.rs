use super::*;
use contrail_mesos_api::cluster::{Membership, Revision};

fn local(name: &str) -> LocalOverlay {
    LocalOverlay {
        name: name.to_owned(),
        vni: 4097,
        subnet: Some("9.0.1.0/25".parse().unwrap()),
        subnet6: Some("fd09:0:0:1::/65".parse().unwrap()),
        mtu: 1450,
        groups: None,
        problem: None,
        blocks: vec![],
        withdrawn: vec![],
    }
}

fn publish(directory: &Path, overlays: Vec<LocalOverlay>) {
    let subnets = ["9.128.0.0/9", "44.128.0.0/20", "9.0.0.0/9", "fd09::/16"];
    let subnets = subnets.map(|subnet| subnet.parse().unwrap()).to_vec();
    NodeState::new("agent-1".to_owned(), Revision::default(), overlays, subnets)
        .write(directory)
        .unwrap();
}

fn network(overlay: &str) -> OverlayNetwork {
    OverlayNetwork {
        overlay: overlay.to_owned(),
        masquerade: true,
        hairpin: false,
        routes: None,
    }
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn network_is_the_part_of_the_overlay_on_this_host() {
    let directory = tempfile::tempdir().unwrap();
    publish(directory.path(), vec![local("other"), local("vxlan-1")]);
    let overlays = OverlayNetworks::new(directory.path());
    let bridge = overlays.bridge_network(&network("vxlan-1")).unwrap();
    assert_eq!(bridge.bridge, "m-vxlan-1");
    assert!(bridge.masquerade && !bridge.hairpin);
    assert_eq!(bridge.mtu, 1450);
    let v4 = bridge.v4.as_ref().unwrap();
    assert_eq!(
        [v4.gateway, v4.first, v4.last].map(|address| address.to_string()),
        ["9.0.1.1", "9.0.1.1", "9.0.1.126"]
    );
    let v6 = bridge.v6.as_ref().unwrap();
    assert_eq!(v6.gateway.to_string(), "fd09:0:0:1::1");
    let part = bridge.overlay.as_ref().unwrap();
    assert_eq!(part.name, "vxlan-1");
    assert_eq!(
        part.cluster_subnets,
        nets(&["9.0.0.0/8", "44.128.0.0/20", "fd09::/16"])
    );
}

#[test]
fn network_has_all_blocks_of_this_host() {
    let directory = tempfile::tempdir().unwrap();
    let lending = LocalOverlay {
        subnet: None,
        subnet6: None,
        blocks: nets(&["9.0.4.16/28", "fd09::10/124", "9.0.0.0/28"]),
        ..local("vxlan-1")
    };
    publish(directory.path(), vec![lending]);
    let overlays = OverlayNetworks::new(directory.path());
    let bridge = overlays.bridge_network(&network("vxlan-1")).unwrap();
    assert!(bridge.has_blocks);
    let gateways: Vec<_> = bridge.gateways().collect();
    assert_eq!(
        gateways,
        nets(&["9.0.0.1/28", "9.0.4.17/28", "fd09::11/124"])
    );
    let subnets: Vec<_> = bridge.subnets().collect();
    assert_eq!(
        subnets,
        nets(&["9.0.0.0/28", "9.0.4.16/28", "fd09::10/124"])
    );
    let eth1 = overlays.for_interface(&network("vxlan-1"), "eth1").unwrap();
    assert_eq!(eth1.routes, nets(&["9.0.0.0/9", "fd09::/16"]));
}

#[test]
fn withdrawn_blocks_are_known_and_give_no_addresses() {
    let directory = tempfile::tempdir().unwrap();
    let lending = LocalOverlay {
        subnet: None,
        subnet6: None,
        blocks: nets(&["9.0.0.0/28"]),
        withdrawn: nets(&["9.0.4.16/28"]),
        ..local("vxlan-1")
    };
    publish(directory.path(), vec![lending]);
    let overlays = OverlayNetworks::new(directory.path());
    let bridge = overlays.bridge_network(&network("vxlan-1")).unwrap();
    let subnets: Vec<_> = bridge.subnets().collect();
    assert_eq!(subnets, nets(&["9.0.0.0/28"]));
    // A container whose lease was lost may have an address of it.
    assert_eq!(
        overlays.subnets(&network("vxlan-1")),
        nets(&["9.0.0.0/28", "9.0.4.16/28"])
    );
}

#[test]
fn only_first_interface_has_default_routes_by_an_overlay() {
    let directory = tempfile::tempdir().unwrap();
    publish(directory.path(), vec![local("vxlan-1")]);
    let overlays = OverlayNetworks::new(directory.path());
    let mut network = network("vxlan-1");
    let routes = |network: &OverlayNetwork, interface: &str| {
        overlays.for_interface(network, interface).unwrap().routes
    };
    assert_eq!(routes(&network, "eth0"), nets(&[]));
    // The other half of 9.0.0.0/8 is another overlay's, as far as is known.
    assert_eq!(routes(&network, "eth1"), nets(&["9.0.0.0/9", "fd09::/16"]));
    network.routes = Some(nets(&["10.0.0.0/8"]));
    for interface in ["eth0", "eth1"] {
        assert_eq!(routes(&network, interface), nets(&["10.0.0.0/8"]));
    }
}

/// Whether the error of an overlay is temporary, and the error.
fn refusal(overlay: LocalOverlay) -> (bool, String) {
    let directory = tempfile::tempdir().unwrap();
    publish(directory.path(), vec![overlay]);
    let overlays = OverlayNetworks::new(directory.path());
    let error = overlays.bridge_network(&network("vxlan-1")).unwrap_err();
    (error.is_temporary(), error.to_string())
}

#[test]
fn overlay_that_cannot_be_used_is_refused() {
    let with = |change: fn(&mut LocalOverlay)| {
        let mut overlay = local("vxlan-1");
        change(&mut overlay);
        refusal(overlay)
    };
    for ((is_temporary, error), expected_temporary, part) in [
        (
            with(|overlay| overlay.name = "other".to_owned()),
            true,
            "\"other\"",
        ),
        (
            with(|overlay| (overlay.subnet, overlay.subnet6) = (None, None)),
            true,
            "no subnet",
        ),
        (
            with(|overlay| overlay.problem = Some("it is disabled\n".to_owned())),
            false,
            "it is disabled",
        ),
        (with(|overlay| overlay.mtu = 1279), false, "MTU 1279"),
        (with(|overlay| overlay.mtu = 65536), false, "MTU 65536"),
        (
            with(|overlay| overlay.subnet = Some("9.0.1.0/31".parse().unwrap())),
            false,
            "9.0.1.0/31",
        ),
        (
            with(|overlay| overlay.subnet = Some("127.0.0.0/25".parse().unwrap())),
            false,
            "127.0.0.0/25",
        ),
        (
            with(|overlay| overlay.subnet6 = Some("fe80::/65".parse().unwrap())),
            false,
            "fe80::/65",
        ),
    ] {
        assert!(error.contains("\"vxlan-1\""), "{error}");
        assert!(error.contains(part), "{part}: {error}");
        assert_eq!(is_temporary, expected_temporary, "{error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let (_, error) = with(|overlay| {
        overlay.subnet6 = None;
        overlay.mtu = 575;
    });
    assert!(error.contains("between 576 and"), "{error}");
}

fn request(overlay: &str) -> NetworkRequest {
    NetworkRequest {
        container: contrail_mesos_api::container::ContainerId::top_level("c1"),
        interface: "eth0".to_owned(),
        network: crate::config::Network {
            name: "blue".to_owned(),
            dns: None,
            provider: NetworkProvider::Overlay(network(overlay)),
        },
        addresses: vec![super::super::AddressRequest::Any],
        ports: vec![],
        membership: Membership::default(),
        labels: std::collections::BTreeMap::new(),
        info: crate::proto::mesos::NetworkInfo::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn launch_waits_for_the_node_state_and_no_longer_than_its_part() {
    let directory = tempfile::tempdir().unwrap();
    let file = Arc::new(NodeStateFile::new(directory.path()));
    let overlays = OverlayNetworks::from_file(file, Duration::from_secs(30));
    let requests = [request("vxlan-1")];
    let waited = async |overlays: &OverlayNetworks| {
        let start = Instant::now();
        overlays.wait(&requests).await;
        start.elapsed()
    };
    // A third of the time for a prepare, but not more than ten seconds. The clock is the test's.
    let whole = MAX_WAIT..MAX_WAIT + 2 * POLL_INTERVAL;
    assert!(whole.contains(&waited(&overlays).await));
    let short = OverlayNetworks::from_file(
        Arc::new(NodeStateFile::new(directory.path())),
        Duration::from_secs(3),
    );
    let third = Duration::from_secs(1)..Duration::from_secs(1) + 2 * POLL_INTERVAL;
    assert!(third.contains(&waited(&short).await));
    let error = overlays
        .requested(&requests[0], &network("vxlan-1"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("overlays.json"), "{error}");
    // The file comes while a launch waits: first without the overlay, then with it.
    let path = directory.path().to_owned();
    let daemon = tokio::spawn(async move {
        sleep(Duration::from_secs(1)).await;
        publish(&path, vec![]);
        sleep(Duration::from_secs(1)).await;
        publish(&path, vec![local("vxlan-1")]);
    });
    let until_published = Duration::from_secs(2)..Duration::from_secs(3);
    assert!(until_published.contains(&waited(&overlays).await));
    daemon.await.unwrap();
    assert!(
        overlays
            .requested(&requests[0], &network("vxlan-1"))
            .is_ok()
    );
    assert!(waited(&overlays).await < POLL_INTERVAL);
    // What waiting does not correct.
    let mut disabled = local("vxlan-1");
    disabled.problem = Some("it is disabled".to_owned());
    publish(directory.path(), vec![disabled]);
    assert!(waited(&overlays).await < POLL_INTERVAL);
}
