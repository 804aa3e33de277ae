//! Plugins that do as no plugin should.

use std::time::Instant;

use super::*;

/// Writes each call to `$place/calls`, then does as `$act` says for ADD.
fn failing(act: &str) -> String {
    format!(
        "cat > $place/stdin-$CNI_COMMAND
echo $CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME >> $place/calls
env > $place/env-$CNI_COMMAND
if [ $CNI_COMMAND = ADD ]; then\n{act}\nfi"
    )
}

async fn error_of(harness: &Harness, network: &Value) -> String {
    let network = harness.network(network);
    let attached = harness.attach(&request("one", &network)).await;
    attached.map(|_| ()).unwrap_err()
}

#[test]
fn every_failure_is_told_and_del_follows() {
    isolated_async(|| async {
        let harness = Harness::new();
        for (act, expected) in [
            (
                r#"echo '{"cniVersion":"0.3.1","code":7,"msg":"no way","details":"today"}'; exit 1"#,
                "failed to ADD: no way; today (code 7)",
            ),
            ("echo out; echo err >&2; exit 3", "out err"),
            ("exit 1", "it failed without a word"),
            ("echo garbage", "is no CNI result: garbage"),
            ("true", "printed no result"),
            ("echo '[]'", "is no CNI result: []"),
            (
                r#"echo '{"ips":[{"address":"here"}]}'"#,
                "its result has the address \"here\"",
            ),
            ("kill -9 $$", "it was ended by signal 9"),
            (
                "head -c 10000000 /dev/zero | tr '\\0' x",
                "it printed more than",
            ),
            (
                "exec >&- 2>&-; sleep 1000",
                "it was killed, for it had not ended",
            ),
            ("echo wait for me >&2; sleep 1000", "it said: wait for me"),
        ] {
            harness.script("odd", &failing(act));
            let _ = fs::remove_file(harness.path("calls"));
            let mut network = harness.network(&json!({ "name": "odd", "type": "odd" }));
            let NetworkProvider::Cni(cni) = &mut network.provider else {
                panic!()
            };
            cni.deadline = Duration::from_millis(700);
            let attached = harness.attach(&request("one", &network)).await;
            let error = attached.map(|_| ()).unwrap_err();
            assert!(error.contains(expected), "{act}: {error}");
            assert!(error.contains("network \"odd\""), "{error}");
            assert_eq!(
                harness.wrote("calls"),
                "ADD one eth0\nDEL one eth0\n",
                "{act}"
            );
            harness.assert_clean();
        }
    });
}

#[test]
fn a_plugin_that_is_gone_is_named() {
    isolated_async(|| async {
        let harness = Harness::new();
        harness.script("brief", "true");
        let network = harness.network(&json!({ "name": "brief", "type": "brief" }));
        let intent = harness.intent(&request("one", &network)).await.unwrap();
        fs::remove_file(harness.path("bin/brief")).unwrap();
        let namespace = namespace();
        let errors = harness
            .provider
            .attach_all(&[&intent], namespace.as_fd())
            .await
            .unwrap_err();
        assert!(
            text(&errors).contains("the CNI plugin brief cannot ADD"),
            "{errors:?}"
        );
        // What it made is only its own to undo: the DEL fails until it is back, and is not lost.
        let errors = harness.provider.detach_all(&[&intent]).await.unwrap_err();
        assert!(text(&errors).contains("install it again"), "{errors:?}");
        harness.script("brief", "true");
        harness.provider.detach_all(&[&intent]).await.unwrap();
        harness.assert_clean();
        // And it is refused before anything is touched.
        fs::remove_file(harness.path("bin/brief")).unwrap();
        let error = error_of(&harness, &json!({ "name": "brief", "type": "brief" })).await;
        assert!(error.contains("there is no plugin \"brief\""), "{error}");
    });
}

#[test]
fn a_plugin_is_told_what_mesos_tells_and_nothing_of_the_agents() {
    isolated_async(|| async {
        let harness = Harness::new();
        harness.script(
            "teller",
            &failing(r#"echo '{"ip4":{"ip":"10.1.2.3/8"},"dns":{"nameservers":["10.1.0.1"]}}'"#),
        );
        let network = harness.network(&json!({ "name": "teller", "type": "teller", "more": 1 }));
        let mut asked = request("one", &network);
        asked.info.port_mappings = vec![crate::proto::mesos::network_info::PortMapping {
            host_port: 31080,
            container_port: 80,
            protocol: None,
        }];
        let container = harness.attach(&asked).await.unwrap();
        assert_eq!(container.addresses(), ["10.1.2.3/8"]);
        assert_eq!(container.attachment.dns.nameservers.len(), 1);
        harness.detach(container).await;
        let add: Value = serde_json::from_str(&harness.wrote("stdin-ADD")).unwrap();
        let expected = json!({
            "name": "teller", "type": "teller", "more": 1,
            "args": { "org.apache.mesos": { "network_info": {
                "name": "teller", "port_mappings": [{ "host_port": 31080, "container_port": 80 }],
            } } },
        });
        assert_eq!(add, expected);
        // The DEL has the same.
        assert_eq!(harness.wrote("stdin-DEL"), harness.wrote("stdin-ADD"));
        let names = |environment: &str| {
            let mut names: Vec<String> = environment
                .lines()
                .filter_map(|line| Some(line.split_once('=')?.0.to_owned()))
                // The shell's own.
                .filter(|name| !matches!(name.as_str(), "PWD" | "OLDPWD" | "SHLVL" | "_"))
                .collect();
            names.sort();
            names
        };
        let environment = harness.wrote("env-ADD");
        let all = [
            "CNI_COMMAND",
            "CNI_CONTAINERID",
            "CNI_IFNAME",
            "CNI_NETNS",
            "CNI_PATH",
            "PATH",
        ];
        assert_eq!(names(&environment), all);
        assert!(environment.contains(&format!("/proc/{}/fd/", std::process::id())));
        let environment = harness.wrote("env-DEL");
        assert!(environment.contains("/netns/one\n"), "{environment}");
    });
}

#[test]
fn a_chain_is_undone_in_reverse_and_one_failure_spares_no_other() {
    isolated_async(|| async {
        let harness = Harness::new();
        let log =
            "cat > $place/stdin-$CNI_COMMAND-${0##*/}; echo $CNI_COMMAND ${0##*/} >> $place/calls";
        harness.script(
            "first",
            &format!(
                r#"{log}; echo '{{"cniVersion":"0.4.0","ips":[{{"address":"10.0.0.1/8"}}]}}'"#
            ),
        );
        harness.script("second", &format!(r#"{log}; [ -e $place/heal ] || [ $CNI_COMMAND = ADD ] || exit 5; echo '{{"cniVersion":"0.4.0","ips":[{{"address":"10.0.0.2/8"}}]}}'"#));
        harness.script("third", &format!("{log}; echo '{{}}'"));
        let network = harness.network(&json!({
            "name": "chain", "cniVersion": "0.4.0",
            "plugins": [{ "type": "first" }, { "type": "second" }, { "type": "third" }],
        }));
        let container = harness.attach(&request("one", &network)).await.unwrap();
        let read = |name: &str| -> Value { serde_json::from_str(&harness.wrote(name)).unwrap() };
        assert!(read("stdin-ADD-first").get("prevResult").is_none());
        assert_eq!(
            read("stdin-ADD-second")["prevResult"]["ips"][0]["address"],
            "10.0.0.1/8"
        );
        assert_eq!(
            read("stdin-ADD-third")["prevResult"]["ips"][0]["address"],
            "10.0.0.2/8"
        );
        let detached = harness.provider.detach_all(&[&container.intent]).await;
        let errors = detached.unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(
            text(&errors).contains("the CNI plugin second failed to DEL"),
            "{errors:?}"
        );
        let calls = harness.wrote("calls");
        assert_eq!(
            calls,
            "ADD first\nADD second\nADD third\nDEL third\nDEL second\nDEL first\n"
        );
        assert_eq!(read("stdin-DEL-first")["prevResult"], json!({}));
        // It is tried again with all it needs.
        fs::write(harness.path("heal"), "").unwrap();
        harness.detach(container).await;
        harness.assert_clean();
    });
}

#[test]
fn a_plugin_that_outlives_the_agent_is_waited_for() {
    isolated_async(|| async {
        let harness = Harness::new();
        harness.script(
            "slow",
            r"cat > /dev/null; echo begin $CNI_COMMAND >> $place/calls
            [ $CNI_COMMAND = DEL ] || sleep 1; echo end $CNI_COMMAND >> $place/calls; echo '{}'",
        );
        let network = harness.network(&json!({ "name": "slow", "type": "slow" }));
        let intent = harness.intent(&request("one", &network)).await.unwrap();
        // As an agent that was killed in the middle of an ADD leaves it: the plugin has the file.
        let input = harness
            .provider
            .inner
            .records
            .lock(&intent, Instant::now())
            .unwrap();
        #[expect(
            clippy::disallowed_methods,
            reason = "what an agent before this one started"
        )]
        let mut orphan = std::process::Command::new(harness.path("bin/slow"))
            .env("CNI_COMMAND", "ADD")
            .stdin(input)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        harness.provider.detach_all(&[&intent]).await.unwrap();
        assert_eq!(
            harness.wrote("calls"),
            "begin ADD\nend ADD\nbegin DEL\nend DEL\n"
        );
        orphan.wait().unwrap();
        harness.assert_clean();
    });
}

#[test]
fn a_daemon_that_keeps_the_pipes_is_not_waited_for() {
    isolated_async(|| async {
        let harness = Harness::new();
        // The reader of the fifo ends the daemon; it holds the plugin's pipes until then.
        run("mkfifo", harness.path("fifo").to_str().unwrap());
        harness.script(
            "daemon",
            r"cat > /dev/null; [ $CNI_COMMAND = DEL ] || (read line < $place/fifo) < /dev/null & echo '{}'",
        );
        let network = harness.network(&json!({ "name": "daemon", "type": "daemon" }));
        let container = harness.attach(&request("one", &network)).await.unwrap();
        fs::write(harness.path("fifo"), "end\n").unwrap();
        harness.detach(container).await;
        harness.assert_clean();
    });
}

#[test]
fn what_is_known_of_a_container_is_for_root_only_and_hidden_in_messages() {
    isolated_async(|| async {
        let harness = Harness::new();
        harness.script("quiet", "cat > /dev/null; echo '{}'");
        let network =
            harness.network(&json!({ "name": "quiet", "type": "quiet", "key": "hunter2" }));
        let container = harness.attach(&request("one", &network)).await.unwrap();
        for file in ["eth0.json", "eth0.stdin"] {
            let path = harness.path("state/cni/one").join(file);
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{}", path.display());
        }
        assert!(!format!("{:?}", container.intent).contains("hunter2"));
        harness.detach(container).await;
    });
}
