//! Groups on a host without any manager, kept by the binary `contrail-mesos-node`.

mod root_tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use contrail_mesos::config::Dns;
    use contrail_mesos::isolator::checkpoint::{Checkpoint, Owner};
    use contrail_mesos::net::testing::{isolated, nft_ruleset, run};
    use contrail_mesos::network_request::ContainerRequest;
    use contrail_mesos::proto::mesos::NetworkInfo;
    use contrail_mesos::provider::bridge::{BridgeIntent, ContainerPolicy};
    use contrail_mesos::provider::{Intent, ProviderIntent};
    use contrail_mesos_api::cluster::{Admission, Membership};
    use contrail_mesos_api::container::{ContainerId, Mac};

    struct Daemon(Child);

    impl Daemon {
        #[expect(
            clippy::disallowed_methods,
            reason = "this is no agent: the binary under test is a child"
        )]
        fn start(config: &Path) -> Self {
            let mut command = Command::new(env!("CARGO_BIN_EXE_contrail-mesos-node"));
            command.arg("run").arg("--config").arg(config);
            Self(command.stderr(Stdio::null()).spawn().unwrap())
        }
    }

    impl Drop for Daemon {
        fn drop(&mut self) {
            // As the kernel does when memory is short. It has ended already if the test has failed.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn wait_for(what: &str, is: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !is() {
            assert!(Instant::now() < deadline, "{what}:\n{}", nft_ruleset());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Writes the checkpoint of a container, as the library does at a launch.
    fn launch(state_dir: &Path, name: &str, address: &str) {
        let container = ContainerId::top_level(name);
        let intent = Intent {
            container: container.clone(),
            network: "front".to_owned(),
            interface: "eth0".to_owned(),
            addresses: vec![format!("{address}/32").parse().unwrap()],
            gateways: vec![],
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            ports: vec![],
            dns: Dns::default(),
            provider: ProviderIntent::Bridge(BridgeIntent {
                bridge: "cm-front".to_owned(),
                host_interface: format!("cm{name}"),
                bridge_addresses: vec!["10.1.0.1/24".parse().unwrap()],
                masquerade: false,
                hairpin: false,
                routes: vec![],
                overlay: None,
                policy: Some(ContainerPolicy {
                    membership: Membership {
                        groups: vec!["web".to_owned()],
                        security_groups: vec![],
                    },
                    admission: Admission::default(),
                }),
            }),
        };
        let request = ContainerRequest {
            networks: vec![],
            network_infos: vec![NetworkInfo::default()],
            hostname: name.to_owned(),
        };
        let checkpoint = Checkpoint::new(&container, Owner::Agent, None, &request, vec![intent]);
        let directory = state_dir.join("containers").join(container.file_name());
        std::fs::create_dir_all(&directory).unwrap();
        let bytes = serde_json::to_vec(&checkpoint).unwrap();
        std::fs::write(directory.join("intent.json"), bytes).unwrap();
    }

    fn get(state_dir: &Path, path: &str) -> serde_json::Value {
        let mut stream = UnixStream::connect(state_dir.join("node/api.sock")).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{response}");
        serde_json::from_str(body).unwrap()
    }

    #[test]
    fn groups_are_kept_without_managers_flushes_and_kills() {
        isolated(|| {
            let directory = tempfile::tempdir().unwrap();
            let state_dir = directory.path().join("state");
            let config = directory.path().join("agent.toml");
            let text = format!("state_dir = {state_dir:?}\n[node]\nname = \"node-1\"\n");
            std::fs::write(&config, text).unwrap();
            let daemon = Daemon::start(&config);
            wait_for("the daemon", || state_dir.join("node/api.sock").exists());
            assert!(!nft_ruleset().contains("contrail_mesos_groups"));
            launch(&state_dir, "c1", "10.1.0.2");
            wait_for("the first container", || nft_ruleset().contains("10.1.0.2"));
            launch(&state_dir, "c2", "10.1.0.3");
            let is_complete = || {
                let rules = nft_ruleset();
                rules.contains("10.1.0.3 : goto") && rules.contains("10.1.0.2 : goto")
            };
            wait_for("the second container", is_complete);
            run("nft", "flush ruleset");
            wait_for("the repair", is_complete);
            wait_for("the count of the repair", || {
                let status = get(&state_dir, "/v1/status");
                let subsystems = status["subsystems"].as_array().unwrap();
                let is_repaired = |status: &serde_json::Value| {
                    status["name"] == "groups" && status["repairs"].as_u64() > Some(0)
                };
                subsystems.iter().any(is_repaired)
            });
            let shown = get(&state_dir, "/v1/groups");
            assert_eq!(shown["groups"][0]["group"], "web");
            assert_eq!(shown["groups"][0]["count"], 2);
            assert_eq!(get(&state_dir, "/v1/drops")["totals"]["outside"], 0);
            let rules = nft_ruleset();
            drop(daemon);
            assert_eq!(nft_ruleset(), rules, "after a kill");
            std::fs::remove_dir_all(state_dir.join("containers/c1")).unwrap();
            let _daemon = Daemon::start(&config);
            wait_for("the end of a container", || {
                let rules = nft_ruleset();
                !rules.contains("10.1.0.2") && rules.contains("10.1.0.3 : goto")
            });
            std::fs::remove_dir_all(state_dir.join("containers/c2")).unwrap();
            wait_for("the end of the last container", || {
                !nft_ruleset().contains("contrail_mesos_groups")
            });
        });
    }
}
