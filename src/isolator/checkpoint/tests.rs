use super::*;

/// What version 0.1.0 writes. Later versions must read it.
const LAYOUT_1: &str = r#"{
    "version": 1,
    "container": ["c1"],
    "owner": "agent",
    "executor": {"framework": "f1", "executor": "web"},
    "hostname": "web-1",
    "networks": [{
        "intent": {
            "container": ["c1"],
            "network": "blue",
            "interface": "eth0",
            "addresses": ["10.1.0.2/24"],
            "gateways": ["10.1.0.1"],
            "mac": "02:00:00:00:00:01",
            "mtu": 1500,
            "ports": [{"host_port": 8080, "container_port": 80, "protocol": "tcp"}],
            "dns": {"nameservers": ["10.1.0.1"]},
            "provider": {
                "name": "bridge",
                "bridge": "blue0",
                "host_interface": "cm1",
                "bridge_addresses": ["10.1.0.1/24"],
                "masquerade": true,
                "hairpin": true,
                "routes": ["0.0.0.0/0"]
            }
        },
        "network_info": {
            "groups": ["web"],
            "labels": [["tier", "front"], ["empty", null]],
            "port_mappings": [[8080, 80, "tcp"]]
        }
    }]
}"#;

/// Stores `intent` as the checkpoint of container c1 and loads it.
fn load_intent(intent: &str) -> StoredCheckpoint {
    let state_dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(state_dir.path());
    let directory = checkpoints.directory(&ContainerId::top_level("c1"));
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(INTENT_FILE), intent).unwrap();
    checkpoints.load_all().unwrap().remove(0)
}

fn damage(intent: &str) -> String {
    match load_intent(intent) {
        StoredCheckpoint::Damaged { error, .. } => error,
        StoredCheckpoint::Intact { .. } => panic!("accepted: {intent}"),
    }
}

#[test]
fn layout_1_is_read() {
    let StoredCheckpoint::Intact {
        checkpoint,
        attachments,
    } = load_intent(LAYOUT_1)
    else {
        panic!("damaged")
    };
    assert_eq!(checkpoint.container, ContainerId::top_level("c1"));
    assert_eq!(checkpoint.owner, Owner::Agent);
    assert_eq!(attachments, None);
    let network = &checkpoint.networks[0];
    assert_eq!(network.intent.addresses[0].to_string(), "10.1.0.2/24");
    let info = network.network_info.to_message("blue");
    assert_eq!(info.groups, [b"web".to_vec()]);
    assert_eq!(info.labels.unwrap().labels[1].value, None);
    assert_eq!(info.port_mappings[0].host_port, 8080);
    // Written again, it is the same: nothing was lost.
    let written: serde_json::Value = serde_json::to_value(&checkpoint).unwrap();
    let original: serde_json::Value = serde_json::from_str(LAYOUT_1).unwrap();
    assert_eq!(
        written["networks"][0]["network_info"],
        original["networks"][0]["network_info"]
    );
    assert_eq!(written["version"], 1);
}

#[test]
fn newer_layout_is_reported_as_newer() {
    let error = damage(r#"{"version": 2, "layout": "of the future"}"#);
    assert!(
        error.contains("written by a newer version (layout 2"),
        "{error}"
    );
}

#[test]
fn layout_that_never_existed_is_not_called_newer() {
    let error = damage(&LAYOUT_1.replace("\"version\": 1", "\"version\": 0"));
    assert!(error.contains("no version writes layout 0"), "{error}");
    assert!(!error.contains("newer"), "{error}");
}

#[test]
fn intent_of_another_container_is_damaged() {
    let error = damage(&LAYOUT_1.replacen("[\"c1\"]", "[\"c2\"]", 1));
    assert!(error.contains("belongs to container c2"), "{error}");
}

#[test]
fn set_aside_appends_milliseconds_since_1970() {
    let state_dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::new(state_dir.path());
    fs::create_dir_all(checkpoints.directory(&ContainerId::top_level("c1"))).unwrap();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let before = now().as_millis();
    let path = checkpoints.set_aside(OsStr::new("c1")).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let time: u128 = name.strip_prefix("c1-").unwrap().parse().unwrap();
    assert!((before..=now().as_millis()).contains(&time), "{name}");
    assert!(path.is_dir());
    assert!(checkpoints.load_all().unwrap().is_empty());
}
