//! The documented configuration, and a log file that cannot be written.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::*;

/// The input that Mesos makes of it, verbatim from Contrail's documentation.
const INPUT: &str = r#"{"args":{"org.apache.mesos":{"network_info":{"ip_addresses":[{"protocol":"IPv4"}],"labels":{"labels":[{"key":"networks","value":"blue-network"},{"key":"network-subnets","value":"5.5.5.0\/24"},{"key":"project-name","value":"default"},{"key":"domain-name","value":"default-domain"}]},"name":"contrail-cni-plugin"}}},"cniVersion":"0.2.0","contrail":{"cluster-name":"b2s27","config-dir":"\/var\/lib\/contrail\/ports\/vm","log-file":"\/var\/log\/contrail\/cni\/opencontrail.log","log-level":"info","poll-retries":5,"poll-timeout":15,"vrouter-ip":"10.84.22.27","vrouter-port":9091},"name":"contrail-cni-plugin","type":"contrail-cni-plugin"}"#;

#[test]
fn documented_input_attaches_a_container() {
    isolated_async(|| async {
        // Mounts of its own for the directories that the input names.
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
        let agent = FakeVrouterAgent::start_at(address, ID, 1, &[]).await;
        let host = TestHost::new();
        let output = run(&host.environment("ADD", ID), INPUT.as_bytes()).await;
        assert!(output.is_success, "{output:?}");
        let result: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(result["cniVersion"], "0.2.0");
        assert_eq!(result["ip4"]["ip"], "10.47.255.252/12");
        let file = format!("/var/lib/contrail/ports/vm/{ID}/{INTERFACE}");
        assert!(std::fs::exists(&file).unwrap());
        let output = run(&host.environment("DEL", ID), INPUT.as_bytes()).await;
        assert!(output.is_success, "{output:?}");
        assert!(!std::fs::exists(&file).unwrap());
        host.assert_clean();
        drop(agent);
    });
}

#[test]
fn add_and_del_succeed_without_a_log() {
    isolated_async(|| async {
        let agent = FakeVrouterAgent::start(ID, 1, &[]).await;
        let host = TestHost::new();
        let more = json!({ "log-file": "/proc/nowhere/log", "log-level": 7 });
        let config = host.config(&agent, "0.3.1", &more);
        host.add(&config).await;
        host.del(&config).await;
        host.assert_clean();
    });
}
