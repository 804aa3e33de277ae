//! What the plugin takes for a configuration, and what it does with anything else.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::super::config::{Managed, parse};
use super::*;
use crate::config::Vif;

/// The sample of the documentation, as it stands there.
const SAMPLE: &str = r#"{
    "cniVersion": "0.3.1",
    "contrail" : {
        "vrouter-ip"    : "<slave-ip>",
        "vrouter-port"  : 9091,
        "cluster-name"  : "<slave-hostname>",
        "config-dir"    : "/var/lib/contrail/ports/vm",
        "poll-timeout"  : 15,
        "poll-retries"  : 5,
        "log-file"      : "/var/log/contrail/cni/opencontrail.log",
        "log-level"     : "debug"
    },

    "name": "contrail-cni-plugin",
    "type": "contrail-cni-plugin"
}"#;

/// What Mesos makes of it, as it stands there.
const INPUT: &str = r#"{"args":{"org.apache.mesos":{"network_info":{"ip_addresses":[{"protocol":"IPv4"}],"labels":{"labels":[{"key":"networks","value":"blue-network"},{"key":"network-subnets","value":"5.5.5.0\/24"},{"key":"project-name","value":"default"},{"key":"domain-name","value":"default-domain"}]},"name":"contrail-cni-plugin"}}},"cniVersion":"0.2.0","contrail":{"cluster-name":"b2s27","config-dir":"\/var\/lib\/contrail\/ports\/vm","log-file":"\/var\/log\/contrail\/cni\/opencontrail.log","log-level":"info","poll-retries":5,"poll-timeout":15,"vrouter-ip":"10.84.22.27","vrouter-port":9091},"name":"contrail-cni-plugin","type":"contrail-cni-plugin"}"#;

#[test]
fn the_documented_sample_is_understood() {
    let settings = parse(SAMPLE.as_bytes()).unwrap();
    assert_eq!(settings.vrouter_port, 9091);
    assert_eq!(settings.deadline, Duration::from_secs(75));
    assert_eq!(settings.manager, Managed::Elsewhere);
    assert_eq!(settings.vif, Vif::Veth);
    assert_eq!(settings.mtu, 1500);
    assert_eq!(settings.log_level, log::LevelFilter::Debug);
}

#[test]
fn the_documented_input_attaches_a_container_as_it_stands() {
    isolated_async(|| async {
        // The directories that it names are this test's own.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).unwrap();
        for directory in ["/var/lib", "/var/log"] {
            mount(
                Some("none"),
                directory,
                Some("tmpfs"),
                MsFlags::empty(),
                none,
            )
            .unwrap();
        }
        command("ip", "addr add 10.84.22.27/32 dev lo");
        let address = "10.84.22.27:9091".parse().unwrap();
        let agent = Agent::start_at(address, ID, 1, &[]).await;
        let place = Place::new();
        let answer = run(&place.environment("ADD", ID), INPUT.as_bytes()).await;
        assert!(answer.is_success, "{answer:?}");
        let result: Value = serde_json::from_str(&answer.text).unwrap();
        assert_eq!(result["cniVersion"], "0.2.0");
        assert_eq!(result["ip4"]["ip"], "10.47.255.252/12");
        let file = format!("/var/lib/contrail/ports/vm/{ID}/{INTERFACE}");
        assert!(std::fs::exists(&file).unwrap());
        let answer = run(&place.environment("DEL", ID), INPUT.as_bytes()).await;
        assert!(answer.is_success, "{answer:?}");
        assert!(!std::fs::exists(&file).unwrap());
        place.assert_clean();
        drop(agent);
    });
}

#[test]
fn defaults_and_spellings_are_those_of_the_plugin_before() {
    let settings = parse(b"{}").unwrap();
    assert_eq!(settings.vrouter_host, "127.0.0.1");
    assert_eq!(settings.vrouter_port, 9091);
    assert_eq!(settings.deadline, Duration::from_mins(1));
    assert_eq!(
        settings.port_directory,
        PathBuf::from("/var/lib/contrail/ports/vm")
    );
    let settings = parse(
        br#"{"contrail":{"vrouter-port":"9092","poll-timeout":"5","mode":"mesos","mesos-ip":"fd00::1",
            "mesos-port":6991,"vif-type":"macvlan","mtu":"1400","meta-plugin":true,
            "network-name":"blue","log-dir":3,"unknown":[]}}"#,
    )
    .unwrap();
    assert_eq!(settings.vrouter_port, 9092);
    assert_eq!(settings.deadline, Duration::from_secs(100));
    let server = "[fd00::1]:6991".to_owned();
    assert_eq!(settings.manager, Managed::Legacy { server });
    let parent = "eth0".to_owned();
    assert_eq!(settings.vif, Vif::Macvlan { parent });
    assert_eq!(settings.mtu, 1400);
    assert!(settings.is_meta_plugin);
    // A version that is not said is the oldest that says its addresses by name.
    assert_eq!(version_of(br#"{"cniVersion":""}"#), "0.2.0");
}

#[tokio::test]
async fn version_says_what_is_supported() {
    let environment = BTreeMap::from([("CNI_COMMAND".to_owned(), "VERSION".to_owned())]);
    let answer = run(&environment, br#"{"cniVersion":"1.0.0"}"#).await;
    assert!(answer.is_success);
    let said: Value = serde_json::from_str(&answer.text).unwrap();
    assert_eq!(
        said["supportedVersions"],
        json!(["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"])
    );
}

#[tokio::test]
async fn hostile_input_is_answered_and_nothing_else() {
    let long = "x".repeat(2000);
    let environment = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        let good = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", ID),
            ("CNI_IFNAME", "eth0"),
            ("CNI_NETNS", "/proc/self/ns/net"),
        ];
        good.iter()
            .chain(pairs)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    };
    for (pairs, input, code) in [
        (vec![("CNI_COMMAND", "GET")], "{}", 4),
        (vec![("CNI_COMMAND", "")], "{}", 4),
        (vec![("CNI_CONTAINERID", "")], "{}", 4),
        (vec![("CNI_CONTAINERID", "a\nb")], "{}", 4),
        (vec![("CNI_CONTAINERID", long.as_str())], "{}", 4),
        (vec![("CNI_IFNAME", "../../etc")], "{}", 4),
        (vec![("CNI_IFNAME", "an interface")], "{}", 4),
        (vec![("CNI_NETNS", "")], "{}", 4),
        (vec![("CNI_NETNS", "/etc/passwd")], "{}", 4),
        // The host's own.
        (vec![], "{}", 4),
        (vec![], "", 6),
        (vec![], "{\"contrail\":", 6),
        (vec![], "[]", 7),
        (vec![], r#"{"contrail":[]}"#, 7),
        (vec![], r#"{"cniVersion":"9.9.9"}"#, 1),
        (vec![], r#"{"contrail":{"vrouter-port":70000}}"#, 7),
        (vec![], r#"{"contrail":{"vrouter-port":-1}}"#, 7),
        (vec![], r#"{"contrail":{"poll-timeout":"soon"}}"#, 7),
        (vec![], r#"{"contrail":{"config-dir":"relative"}}"#, 7),
        (vec![], r#"{"contrail":{"mode":"mesos"}}"#, 7),
        (vec![], r#"{"contrail":{"vif-type":"pigeon"}}"#, 7),
        (vec![], r#"{"contrail":{"managers":[]}}"#, 7),
        (vec![], r#"{"contrail":{"managers":["ftp://x"]}}"#, 7),
    ] {
        let answer = run(&environment(&pairs), input.as_bytes()).await;
        assert!(!answer.is_success, "{pairs:?} {input}");
        let said: Value = serde_json::from_str(&answer.text).unwrap();
        assert_eq!(said["code"], code, "{pairs:?} {input}: {said}");
        assert_ne!(said["msg"], "");
    }
}

#[test]
fn a_log_that_cannot_be_written_stops_nothing() {
    isolated_async(|| async {
        let agent = Agent::start(ID, 1, &[]).await;
        let place = Place::new();
        let more = json!({ "log-file": "/proc/nowhere/log", "log-level": 7 });
        let config = place.config(&agent, "0.3.1", &more);
        place.add(&config).await;
        place.del(&config).await;
        place.assert_clean();
    });
}
