//! Plugins that misbehave.

use super::*;

/// A script that appends each call to `$place/calls`, then runs `act` for ADD.
fn failing(act: &str) -> String {
    format!(
        "cat > $place/stdin-$CNI_COMMAND
echo $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME >> $place/calls
env > $place/env-$CNI_COMMAND
if [ $CNI_COMMAND = ADD ]; then\n{act}\nfi"
    )
}

async fn error_of(host: &TestHost, network: &Value) -> String {
    let network = host.network(network);
    let attached = host.attach(&request("one", &network)).await;
    attached.map(|_| ()).unwrap_err()
}

#[test]
fn failed_add_is_reported_and_followed_by_del() {
    isolated_async(|| async {
        let host = TestHost::new();
        for (act, expected) in [
            (
                r#"echo '{"cniVersion":"0.3.1","code":7,"msg":"no way","details":"today"}'; exit 1"#,
                "failed to ADD: no way; today (code 7)",
            ),
            ("echo out; echo err >&2; exit 3", "out err"),
            ("exit 1", "it failed without a message"),
            ("echo garbage", "an invalid CNI result: garbage"),
            ("true", "printed no result"),
            ("echo '[]'", "an invalid CNI result: []"),
            (
                r#"echo '{"ips":[{"address":"here"}]}'"#,
                "its result has the invalid address \"here\"",
            ),
            ("kill -9 $$", "it was ended by signal 9"),
            (
                "head -c 10000000 /dev/zero | tr '\\0' x",
                "it printed more than",
            ),
            (
                "exec >&- 2>&-; sleep 1000",
                "it was killed because it had not ended",
            ),
            (
                "echo wait for me >&2; sleep 1000",
                "it printed: wait for me",
            ),
        ] {
            host.script("odd", &failing(act));
            let _ = fs::remove_file(host.path("calls"));
            let mut network = host.network(&json!({ "name": "odd", "type": "odd" }));
            let NetworkProvider::Cni(cni) = &mut network.provider else {
                panic!()
            };
            cni.deadline = Duration::from_millis(700);
            let attached = host.attach(&request("one", &network)).await;
            let error = attached.map(|_| ()).unwrap_err();
            assert!(error.contains(expected), "{act}: {error}");
            assert!(error.contains("network \"odd\""), "{error}");
            assert_eq!(host.read("calls"), "ADD one eth0\nDEL one eth0\n", "{act}");
            host.assert_clean();
        }
    });
}

#[test]
fn missing_plugin_is_named() {
    isolated_async(|| async {
        let host = TestHost::new();
        host.script("brief", "true");
        let network = host.network(&json!({ "name": "brief", "type": "brief" }));
        let intent = host.intent(&request("one", &network)).await.unwrap();
        fs::remove_file(host.path("bin/brief")).unwrap();
        let namespace = namespace();
        let errors = host
            .provider
            .attach_all(std::slice::from_ref(&intent), namespace.as_fd())
            .await
            .unwrap_err();
        assert!(
            errors
                .to_string()
                .contains("the CNI plugin brief cannot ADD"),
            "{errors:?}"
        );
        // Only the plugin can undo its ADD, so the DEL is retried until it is installed again.
        host.provider
            .detach_all(std::slice::from_ref(&intent))
            .await
            .unwrap();
        let (failures, error) = host.pending_teardown(&intent).unwrap();
        assert_eq!(failures, 1);
        assert!(error.contains("install it again"), "{error}");
        host.script("brief", "true");
        host.provider
            .detach_all(std::slice::from_ref(&intent))
            .await
            .unwrap();
        host.assert_clean();
        // A new attach is refused before anything is changed.
        fs::remove_file(host.path("bin/brief")).unwrap();
        let error = error_of(&host, &json!({ "name": "brief", "type": "brief" })).await;
        assert!(error.contains("there is no plugin \"brief\""), "{error}");
    });
}

#[test]
fn plugin_gets_the_network_info_and_no_agent_environment() {
    isolated_async(|| async {
        let host = TestHost::new();
        host.script(
            "teller",
            &failing(r#"echo '{"ip4":{"ip":"10.1.2.3/8"},"dns":{"nameservers":["10.1.0.1"]}}'"#),
        );
        let network = host.network(&json!({ "name": "teller", "type": "teller", "more": 1 }));
        let mut requested = request("one", &network);
        requested.info.port_mappings = vec![crate::proto::mesos::network_info::PortMapping {
            host_port: 31080,
            container_port: 80,
            protocol: None,
        }];
        let container = host.attach(&requested).await.unwrap();
        assert_eq!(container.addresses(), ["10.1.2.3/8"]);
        assert_eq!(container.attachment.dns.nameservers.len(), 1);
        host.detach(container).await;
        let add: Value = serde_json::from_str(&host.read("stdin-ADD")).unwrap();
        let expected = json!({
            "name": "teller", "type": "teller", "more": 1,
            "args": { "org.apache.mesos": { "network_info": {
                "name": "teller", "port_mappings": [{ "host_port": 31080, "container_port": 80 }],
            } } },
        });
        assert_eq!(add, expected);
        // The DEL has the same.
        assert_eq!(host.read("stdin-DEL"), host.read("stdin-ADD"));
        let names = |environment: &str| {
            let mut names: Vec<String> = environment
                .lines()
                .filter_map(|line| Some(line.split_once('=')?.0.to_owned()))
                // Set by the shell.
                .filter(|name| !matches!(name.as_str(), "PWD" | "OLDPWD" | "SHLVL" | "_"))
                .collect();
            names.sort();
            names
        };
        let environment = host.read("env-ADD");
        let all = [
            "CNI_COMMAND",
            "CNI_CONTAINERID",
            "CNI_IFNAME",
            "CNI_NETNS",
            "CNI_PATH",
            "PATH",
        ];
        assert_eq!(names(&environment), all);
        for command in ["ADD", "DEL"] {
            let environment = host.read(&format!("env-{command}"));
            assert!(environment.contains("/netns/one\n"), "{environment}");
        }
    });
}

#[test]
fn chain_del_runs_in_reverse_and_continues_after_a_failure() {
    isolated_async(|| async {
        let host = TestHost::new();
        let log =
            "cat > $place/stdin-$CNI_COMMAND-${0##*/}; echo $CNI_COMMAND ${0##*/} >> $place/calls";
        host.script(
            "first",
            &format!(
                r#"{log}; echo '{{"cniVersion":"0.4.0","ips":[{{"address":"10.0.0.1/8"}}]}}'"#
            ),
        );
        host.script("second", &format!(r#"{log}; [ -e $place/heal ] || [ $CNI_COMMAND = ADD ] || exit 5; echo '{{"cniVersion":"0.4.0","ips":[{{"address":"10.0.0.2/8"}}]}}'"#));
        host.script("third", &format!("{log}; echo '{{}}'"));
        let network = host.network(&json!({
            "name": "chain", "cniVersion": "0.4.0",
            "plugins": [{ "type": "first" }, { "type": "second" }, { "type": "third" }],
        }));
        let container = host.attach(&request("one", &network)).await.unwrap();
        let read = |name: &str| -> Value { serde_json::from_str(&host.read(name)).unwrap() };
        assert!(read("stdin-ADD-first").get("prevResult").is_none());
        assert_eq!(
            read("stdin-ADD-second")["prevResult"]["ips"][0]["address"],
            "10.0.0.1/8"
        );
        assert_eq!(
            read("stdin-ADD-third")["prevResult"]["ips"][0]["address"],
            "10.0.0.2/8"
        );
        host.provider
            .detach_all(std::slice::from_ref(&container.intent))
            .await
            .unwrap();
        let (failures, error) = host.pending_teardown(&container.intent).unwrap();
        assert_eq!(failures, 1);
        assert!(
            error.starts_with("the CNI plugin second failed to DEL") && !error.contains(';'),
            "{error}"
        );
        let calls = host.read("calls");
        assert_eq!(
            calls,
            "ADD first\nADD second\nADD third\nDEL third\nDEL second\nDEL first\n"
        );
        assert_eq!(read("stdin-DEL-first")["prevResult"], json!({}));
        // A retry has everything it needs.
        fs::write(host.path("heal"), "").unwrap();
        host.detach(container).await;
        host.assert_clean();
    });
}

/// The file for a plugin's standard input, as a killed agent leaves it to its plugin.
fn locked_input(host: &TestHost, container: &str) -> fs::File {
    let directory = host.path("state/cni").join(container);
    fs::create_dir_all(&directory).unwrap();
    let file = fs::File::create(directory.join("eth0.stdin")).unwrap();
    file.lock().unwrap();
    file
}

#[test]
fn del_waits_for_a_plugin_of_a_killed_agent() {
    isolated_async(|| async {
        let host = TestHost::new();
        host.script(
            "slow",
            r"cat > /dev/null; echo begin $CNI_COMMAND >> $place/calls
            [ $CNI_COMMAND = DEL ] || sleep 1; echo end $CNI_COMMAND >> $place/calls; echo '{}'",
        );
        let network = host.network(&json!({ "name": "slow", "type": "slow" }));
        let intent = host.intent(&request("one", &network)).await.unwrap();
        // An agent that was killed during an ADD leaves a plugin that has the file open.
        let input = locked_input(&host, "one");
        #[expect(
            clippy::disallowed_methods,
            reason = "stands for a plugin of an earlier agent"
        )]
        let mut orphan = std::process::Command::new(host.path("bin/slow"))
            .env("CNI_COMMAND", "ADD")
            .stdin(input)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        host.provider
            .detach_all(std::slice::from_ref(&intent))
            .await
            .unwrap();
        assert_eq!(
            host.read("calls"),
            "begin ADD\nend ADD\nbegin DEL\nend DEL\n"
        );
        orphan.wait().unwrap();
        host.assert_clean();
    });
}

#[test]
fn plugin_daemon_that_keeps_the_pipes_does_not_block() {
    isolated_async(|| async {
        let host = TestHost::new();
        // The daemon keeps the plugin's pipes until it reads a line from the fifo.
        run("mkfifo", host.path("fifo").to_str().unwrap());
        host.script(
            "daemon",
            r"cat > /dev/null; [ $CNI_COMMAND = DEL ] || (read line < $place/fifo) < /dev/null & echo '{}'",
        );
        let network = host.network(&json!({ "name": "daemon", "type": "daemon" }));
        let container = host.attach(&request("one", &network)).await.unwrap();
        fs::write(host.path("fifo"), "end\n").unwrap();
        host.detach(container).await;
        host.assert_clean();
    });
}

#[test]
fn daemon_that_keeps_standard_input_does_not_block_del() {
    isolated_async(|| async {
        let host = TestHost::new();
        run("mkfifo", host.path("fifo").to_str().unwrap());
        // With & the shell would give the daemon another input.
        host.script(
            "keeper",
            r"exec 3<&0; cat > /dev/null; echo $CNI_COMMAND >> $place/calls
            [ $CNI_COMMAND = DEL ] || (exec setsid sh -c 'read line < '$place/fifo) <&3 >&- 2>&- & echo '{}'",
        );
        let network = host.network(&json!({ "name": "keeper", "type": "keeper" }));
        let container = host.attach(&request("one", &network)).await.unwrap();
        host.detach(container).await;
        assert_eq!(host.read("calls"), "ADD\nDEL\n");
        host.assert_clean();
        // After the agent was killed, nobody can say that the plugin has ended.
        let mut network = network;
        let NetworkProvider::Cni(cni) = &mut network.provider else {
            panic!()
        };
        cni.deadline = Duration::from_millis(300);
        let intent = host.intent(&request("two", &network)).await.unwrap();
        #[expect(
            clippy::disallowed_methods,
            reason = "stands for a daemon of a plugin of an earlier agent"
        )]
        let mut daemon = std::process::Command::new("cat")
            .arg(host.path("fifo"))
            .stdin(locked_input(&host, "two"))
            .spawn()
            .unwrap();
        host.provider
            .detach_all(std::slice::from_ref(&intent))
            .await
            .unwrap();
        assert_eq!(host.read("calls"), "ADD\nDEL\nDEL\n");
        host.assert_clean();
        fs::write(host.path("fifo"), "end\n").unwrap();
        daemon.wait().unwrap();
    });
}

#[test]
fn records_are_readable_by_root_only_and_intents_hide_secrets() {
    isolated_async(|| async {
        let host = TestHost::new();
        host.script("quiet", "cat > /dev/null; echo '{}'");
        let network = host.network(&json!({ "name": "quiet", "type": "quiet", "key": "hunter2" }));
        let container = host.attach(&request("one", &network)).await.unwrap();
        for file in ["eth0.json", "eth0.stdin"] {
            let path = host.path("state/cni/one").join(file);
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", path.display());
        }
        assert!(!format!("{:?}", container.intent).contains("hunter2"));
        host.detach(container).await;
    });
}

#[test]
fn attached_container_is_refused_and_can_be_removed_by_its_id() {
    isolated_async(|| async {
        let host = TestHost::new();
        host.script("odd", &failing("echo '{\"cniVersion\":\"0.3.1\"}'"));
        let network = host.network(&json!({ "name": "odd", "type": "odd" }));
        let request = request("one", &network);
        host.provider.check_unused(&request).unwrap();
        host.attach(&request).await.unwrap();
        let error = host.provider.check_unused(&request).unwrap_err();
        assert!(error.to_string().contains("attached already"), "{error}");
        assert_eq!(host.read("calls").lines().count(), 1);
        let other = ContainerId::top_level("other");
        host.provider.remove_container(&other).await.unwrap();
        host.provider
            .remove_container(&request.container)
            .await
            .unwrap();
        assert_eq!(host.read("calls"), "ADD one eth0\nDEL one eth0\n");
        host.provider.check_unused(&request).unwrap();
        host.assert_clean();
    });
}
