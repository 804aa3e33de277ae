//! The plugin's configuration and environment.

use super::config::{ObjectManager, parse};
use super::*;
use crate::config::Vif;

const ID: &str = "660a305f-10e4-47fd-a5fc-50e48147423b";

/// The example in Contrail's documentation, verbatim.
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

#[test]
fn documented_example_is_accepted() {
    let settings = parse(SAMPLE.as_bytes()).unwrap();
    assert_eq!(settings.vrouter_port, 9091);
    assert_eq!(settings.deadline, Duration::from_secs(75));
    assert_eq!(settings.manager, ObjectManager::External);
    assert_eq!(settings.vif, Vif::Veth);
    assert_eq!(settings.mtu, 1500);
    assert_eq!(settings.log_level, log::LevelFilter::Debug);
}

#[test]
fn defaults_and_spellings_are_those_of_contrails_plugin() {
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
    assert_eq!(settings.manager, ObjectManager::Legacy { server });
    let parent = "eth0".to_owned();
    assert_eq!(settings.vif, Vif::Macvlan { parent });
    assert_eq!(settings.mtu, 1400);
    assert!(settings.is_meta_plugin);
    // The default is the oldest version whose result names its addresses.
    assert_eq!(requested_version(br#"{"cniVersion":""}"#), "0.2.0");
}

#[tokio::test]
async fn version_lists_the_supported_versions() {
    let environment = BTreeMap::from([("CNI_COMMAND".to_owned(), "VERSION".to_owned())]);
    let output = run(&environment, br#"{"cniVersion":"1.0.0"}"#).await;
    assert!(output.is_success);
    let result: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(
        result["supportedVersions"],
        json!(["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0"])
    );
}

#[tokio::test]
async fn invalid_input_is_reported_with_a_code() {
    let long = "x".repeat(2000);
    let parent = format!("/proc/{}/ns/net", std::os::unix::process::parent_id());
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
        (vec![("CNI_IFNAME", "eth%d")], "{}", 4),
        (vec![("CNI_IFNAME", "eth%")], "{}", 4),
        (vec![("CNI_NETNS", "")], "{}", 4),
        (vec![("CNI_NETNS", "/etc/passwd")], "{}", 4),
        // The host's own namespace, by the plugin, the agent and the first process.
        (vec![], "{}", 4),
        (vec![("CNI_NETNS", parent.as_str())], "{}", 4),
        (vec![("CNI_NETNS", "/proc/1/ns/net")], "{}", 4),
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
        let output = run(&environment(&pairs), input.as_bytes()).await;
        assert!(!output.is_success, "{pairs:?} {input}");
        let result: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(result["code"], code, "{pairs:?} {input}: {result}");
        assert_ne!(result["msg"], "");
    }
}
