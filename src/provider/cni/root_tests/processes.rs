//! What a plugin that is killed has started.

use super::*;

/// Whether the process whose id a script wrote still runs.
fn is_running(id: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", id.trim())).unwrap_or_default();
    // One that has ended may wait for its parent.
    stat.rsplit_once(") ")
        .is_some_and(|(_, fields)| !fields.starts_with('Z'))
}

/// A script that starts a process by `start`, which has its commands in `$body`, and hangs.
fn hanging(start: &str) -> String {
    format!(
        r#"[ $CNI_COMMAND = ADD ] || exit 0
body="echo \$\$ > $place/id; exec sleep 1000"
{start}
while [ ! -s $place/id ]; do sleep 0.01; done
sleep 1000"#
    )
}

#[test]
fn processes_of_killed_plugin_end_with_it() {
    isolated_async(|| async {
        let host = TestHost::new();
        for start in [
            "sh -c \"$body\" &",
            "setsid sh -c \"$body\" &",
            // An orphan, in a session of its own.
            "(setsid sh -c \"$body\" &) &",
            "setsid sh -c \"$body\" < /dev/null > /dev/null 2>&1 &",
            // Without CNI's variables, as a child and as an orphan.
            "setsid env -i sh -c \"$body\" < /dev/null > /dev/null 2>&1 &",
            "(setsid env -i sh -c \"$body\" &) &",
        ] {
            let _ = fs::remove_file(host.path("id"));
            host.script("hangs", &hanging(start));
            let mut network = host.network(&json!({ "name": "hangs", "type": "hangs" }));
            let NetworkProvider::Cni(cni) = &mut network.provider else {
                panic!()
            };
            cni.deadline = Duration::from_secs(2);
            let error = host.attach(&request("one", &network)).await;
            let error = error.map(|_| ()).unwrap_err();
            assert!(error.contains("it was killed"), "{start}: {error}");
            let id = host.await_file("id").await;
            assert!(!is_running(&id), "{start}");
            host.assert_clean();
        }
    });
}

#[test]
fn daemons_of_plugins_that_succeeded_are_kept() {
    isolated_async(|| async {
        let host = TestHost::new();
        run("mkfifo", host.path("fifo").to_str().unwrap());
        host.script(
            "starter",
            r"[ $CNI_COMMAND = ADD ] || exit 0
            setsid sh -c 'echo $$ > '$place'/id; read line < '$place/fifo &
            while [ ! -s $place/id ]; do sleep 0.01; done; echo '{}'",
        );
        host.script("hangs", "[ $CNI_COMMAND = ADD ] || exit 0; sleep 1000");
        let mut network = host.network(&json!({
            "name": "chain", "cniVersion": "1.0.0",
            "plugins": [{ "type": "starter" }, { "type": "hangs" }],
        }));
        let NetworkProvider::Cni(cni) = &mut network.provider else {
            panic!()
        };
        cni.deadline = Duration::from_secs(2);
        let error = host.attach(&request("one", &network)).await;
        let error = error.map(|_| ()).unwrap_err();
        assert!(error.contains("hangs failed to ADD"), "{error}");
        assert!(is_running(&host.read("id")));
        fs::write(host.path("fifo"), "end\n").unwrap();
        host.assert_clean();
    });
}
