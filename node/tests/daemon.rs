//! The binary `contrail-mesos-node`, as an operator runs it.
#![expect(
    clippy::disallowed_methods,
    reason = "this is no agent: the binary under test is a child"
)]

use std::path::Path;
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_contrail-mesos-node");

fn run(config: &Path, arguments: &[&str]) -> Output {
    Command::new(BINARY)
        .args(arguments)
        .arg("--config")
        .arg(config)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn check_reports_problems_of_a_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("agent.toml");
    let token = directory.path().join("token");
    std::fs::write(&token, "0123456789abcdef").unwrap();
    let valid = format!("[node]\nmanagers = [\"m\"]\nname = \"n\"\ntoken_file = {token:?}\n");
    std::fs::write(&config, &valid).unwrap();
    for command in [&["config", "check"][..], &["check"]] {
        let output = run(&config, command);
        assert!(output.status.success(), "{output:?}");
        // A token that others can read is a warning.
        let out = text(&output.stdout);
        assert!(
            out.starts_with("warning: ") && out.contains("node.token_file"),
            "{output:?}"
        );
        assert!(
            out.ends_with("agent.toml: valid, 1 manager, 1 warning\n"),
            "{output:?}"
        );
        assert_eq!(text(&output.stderr), "", "{output:?}");
    }
    let output = run(&config, &["config", "check", "-q"]);
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );

    std::fs::remove_file(&token).unwrap();
    let output = run(&config, &["config", "check"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        text(&output.stdout).contains("agent.toml:4:14: node.token_file: "),
        "{output:?}"
    );
    // On another host it need not be there.
    let output = run(&config, &["config", "check", "--offline"]);
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).starts_with("note: "), "{output:?}");

    std::fs::write(&config, "[node]\nname = \"a b\"\n").unwrap();
    let problem = "agent.toml:2:8: node.name";
    let output = run(&config, &["config", "check"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stdout).contains(problem), "{output:?}");
    for arguments in [&[][..], &["run"], &["--dry-run"]] {
        let output = run(&config, arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains(problem), "{output:?}");
    }
    for wrong in [&["chekc"][..], &["--dry-run", "config", "check"]] {
        let output = run(&config, wrong);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}

mod root_tests {
    use std::io::{Read as _, Write as _};
    use std::net::SocketAddr;
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;
    use std::process::{Child, Stdio};
    use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

    use contrail_mesos::net::testing::{isolated, link_names, nft_ruleset, run as command};
    use contrail_mesos::node_state::{NodeState, NodeStateError};
    use contrail_mesos_api::cluster::{
        Node, NodeSubnets, Object, Overlay, Revision, Underlay, VXLAN_PORT, Vtep, WatchItem,
    };
    use contrail_mesos_api::container::Mac;
    use contrail_mesos_api::http::scripted::{Reply, ScriptedServer, ok};
    use contrail_mesos_api::routes::DOCUMENT_PATH;
    use contrail_mesos_api::routes::testing::{
        ExampleRequest, check_response, example_requests, hostile_requests,
    };
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use serde_json::json;
    use tokio::sync::broadcast;

    use super::*;

    const NODES: u8 = 40;

    fn node(number: u8) -> Node {
        Node {
            name: format!("node-{number}"),
            address: format!("192.0.2.{number}").parse().unwrap(),
            vtep: Vtep {
                address: format!("44.128.0.{number}").parse().unwrap(),
                address6: Some(format!("fd44::{number}").parse().unwrap()),
                mac: Mac([0x72, 0xb3, 0xd5, 0x80, 0, number]),
            },
            subnets: vec![NodeSubnets {
                overlay: "dcos".to_owned(),
                subnet: Some(format!("9.0.{number}.0/24").parse().unwrap()),
                subnet6: Some(format!("fd09:0:0:{number}::/64").parse().unwrap()),
                blocks: vec![],
                returned: 0,
            }],
        }
    }

    /// The cluster's state, as a manager sends it first.
    fn snapshot(revision: Revision) -> Vec<u8> {
        let underlay = Underlay {
            vtep_subnet: "44.128.0.0/16".parse().unwrap(),
            vtep_subnet6: Some("fd44::/64".parse().unwrap()),
            vxlan_port: VXLAN_PORT,
        };
        let overlay = Overlay {
            name: "dcos".to_owned(),
            vni: 4097,
            subnet: Some("9.0.0.0/8".parse().unwrap()),
            subnet6: Some("fd09::/48".parse().unwrap()),
            mtu: None,
            enabled: true,
            groups: None,
            isolated: false,
            lends_blocks: false,
        };
        let objects = [Object::Underlay(underlay), Object::Overlay(overlay)];
        let nodes = (1..=NODES).map(|number| Object::Node(node(number)));
        let puts = objects
            .into_iter()
            .chain(nodes)
            .map(|object| WatchItem::Put { revision, object });
        let items = [WatchItem::Snapshot { revision }].into_iter().chain(puts);
        let mut lines = vec![];
        for item in items.chain([WatchItem::Synced { revision }]) {
            serde_json::to_writer(&mut lines, &item).unwrap();
            lines.push(b'\n');
        }
        lines
    }

    async fn manager() -> ScriptedServer {
        let revision = Revision {
            term: 3,
            counter: 1,
        };
        let (feed, _) = broadcast::channel(4);
        ScriptedServer::start(move |request, _| match request.line().as_str() {
            "GET /v1/watch" => {
                Reply::StreamAfter("application/x-ndjson", snapshot(revision), feed.clone())
            }
            _ => ok(&json!({})),
        })
        .await
    }

    /// A host in the namespaces of this thread.
    struct Host {
        directory: tempfile::TempDir,
    }

    impl Host {
        fn new(manager: SocketAddr) -> Self {
            command("ip", "link add uplink type veth peer name wire");
            command("ip", "link set wire up");
            command("ip", "address add 192.0.2.1/24 dev uplink");
            command("ip", "link set uplink up");
            let host = Self {
                directory: tempfile::tempdir().unwrap(),
            };
            let path = host.state_dir();
            let state = path.display();
            let text = format!(
                "state_dir = \"{state}\"\n[node]\nmanagers = [\"{manager}\"]\nname = \"node-1\"\n\
                 address = \"192.0.2.1\"\n"
            );
            std::fs::write(host.config(), text).unwrap();
            host
        }

        fn state_dir(&self) -> PathBuf {
            self.directory.path().join("state")
        }

        fn config(&self) -> PathBuf {
            self.directory.path().join("agent.toml")
        }

        fn start(&self) -> Daemon {
            let mut command = Command::new(BINARY);
            command.arg("run").arg("--config").arg(self.config());
            Daemon(command.stderr(Stdio::null()).spawn().unwrap())
        }

        /// Waits until the data path is this, and the library knows its subnet.
        fn wait_for(&self, is: impl Fn(&[String]) -> bool) -> Vec<String> {
            let deadline = Instant::now() + Duration::from_mins(1);
            loop {
                let data_path = data_path();
                let state = NodeState::read(&self.state_dir());
                if is(&data_path) && state.is_ok() {
                    return data_path;
                }
                assert!(Instant::now() < deadline, "{data_path:#?}\n{state:?}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    struct Daemon(Child);

    impl Daemon {
        fn kill(mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }

        /// Stops the daemon as systemd does.
        fn stop(mut self) {
            let pid = Pid::from_raw(self.0.id().try_into().unwrap());
            kill(pid, Signal::SIGTERM).unwrap();
            assert!(self.0.wait().unwrap().success());
        }
    }

    impl Drop for Daemon {
        fn drop(&mut self) {
            // It has ended already, unless the test has failed.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Everything that leads to other hosts, sorted.
    fn data_path() -> Vec<String> {
        let mut lines: Vec<String> = [
            ("ip", "route show proto 133"),
            ("ip", "-6 route show proto 133"),
            ("ip", "neighbour show nud permanent"),
            ("bridge", "fdb show"),
        ]
        .iter()
        .flat_map(|(program, arguments)| {
            let output = command(program, arguments);
            let lines = output.lines().filter(|line| line.contains("vtep"));
            lines.map(|line| line.trim().to_owned()).collect::<Vec<_>>()
        })
        .filter(|line| line.contains("9.0.") || line.contains("fd09:") || line.contains("72:b3:"))
        .collect();
        lines.sort();
        lines
    }

    /// For each other node two routes, two neighbours and a forwarding entry.
    fn is_complete(data_path: &[String]) -> bool {
        data_path.len() == usize::from(NODES - 1) * 5
    }

    /// Delays of less than a second, from a seed that a failed test shows.
    struct Delays(u64);

    impl Delays {
        fn new() -> Self {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let seed = u64::from(now.subsec_nanos()) | 1;
            println!("seed {seed}");
            Self(seed)
        }

        fn sleep(&mut self, max: Duration) {
            // xorshift64
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            let nanos = self.0 % u64::from(max.subsec_nanos());
            std::thread::sleep(Duration::from_nanos(nanos));
        }
    }

    fn isolated_with_manager(test: impl FnOnce(ScriptedServer, Host) + Send + 'static) {
        isolated(|| {
            // Its threads are in the namespaces of this one.
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let manager = runtime.block_on(manager());
            let host = Host::new(manager.address);
            let _guard = runtime.enter();
            test(manager, host);
        });
    }

    #[test]
    fn daemon_that_is_killed_at_any_moment_converges_and_keeps() {
        isolated_with_manager(|manager, host| {
            let mut delays = Delays::new();
            // Before everything is set up for the first time.
            for _ in 0..12 {
                let daemon = host.start();
                delays.sleep(Duration::from_millis(150));
                daemon.kill();
                let state = NodeState::read(&host.state_dir());
                let is_whole = matches!(&state, Ok(_) | Err(NodeStateError::Missing(_)));
                assert!(is_whole, "{state:?}");
            }
            let daemon = host.start();
            let complete = host.wait_for(is_complete);
            daemon.kill();
            // What is set up stays, whenever it is killed.
            for _ in 0..12 {
                let daemon = host.start();
                delays.sleep(Duration::from_millis(150));
                daemon.kill();
                assert_eq!(data_path(), complete);
                NodeState::read(&host.state_dir()).unwrap();
            }
            // Without a manager the daemon repairs from what it knew, and a stop leaves everything.
            drop(manager);
            command("ip", "route flush proto 133");
            let daemon = host.start();
            host.wait_for(|data_path| data_path == complete);
            daemon.stop();
            assert_eq!(data_path(), complete);
        });
    }

    #[test]
    fn dry_run_shows_changes_and_makes_none() {
        isolated_with_manager(|_manager, host| {
            let before = (link_names(), nft_ruleset());
            let output = super::run(&host.config(), &["--dry-run"]);
            assert_eq!(output.status.code(), Some(3), "{output:?}");
            assert!(text(&output.stdout).contains("node-state: "), "{output:?}");
            assert_eq!((link_names(), nft_ruleset()), before);
            assert!(!host.state_dir().join("node/overlays.json").exists());
            let daemon = host.start();
            host.wait_for(is_complete);
            daemon.stop();
            let output = super::run(&host.config(), &["--dry-run"]);
            assert_eq!(output.status.code(), Some(0), "{output:?}");
        });
    }

    /// The status, the type and the body of the daemon's response.
    fn exchange(socket: &Path, example: &ExampleRequest) -> (u16, Option<String>, Vec<u8>) {
        let mut stream = UnixStream::connect(socket).unwrap();
        let ExampleRequest { method, target, .. } = example;
        let request = format!("{method} {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = vec![];
        stream.read_to_end(&mut response).unwrap();
        let end = response.windows(4).position(|bytes| bytes == b"\r\n\r\n");
        let body = response.split_off(end.unwrap() + 4);
        let head = String::from_utf8(response).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut lines = head.lines();
        let media_type = lines.find_map(|line| line.strip_prefix("content-type: "));
        (status, media_type.map(str::to_owned), body)
    }

    #[test]
    fn examples_and_hostile_requests_are_answered_as_the_document_says() {
        isolated_with_manager(|_manager, host| {
            let daemon = host.start();
            host.wait_for(is_complete);
            let socket = host.state_dir().join("node").join("api.sock");
            let deadline = Instant::now() + Duration::from_mins(1);
            while exchange(&socket, &ExampleRequest::get("/ready")).0 != 200 {
                assert!(Instant::now() < deadline);
                std::thread::sleep(Duration::from_millis(20));
            }
            let (_, _, body) = exchange(&socket, &ExampleRequest::get(DOCUMENT_PATH));
            let document = serde_json::from_slice(&body).unwrap();
            for example in example_requests(&document) {
                let (status, media_type, body) = exchange(&socket, &example);
                let media_type = media_type.as_deref();
                let works = check_response(&document, &example, status, media_type, &body);
                assert!(works, "{example:?}: {status}");
            }
            // The commands of the documentation.
            let commands = include_str!("../../docs/api.md").lines();
            let targets = commands.filter_map(|line| Some(line.split_once(" http://localhost")?.1));
            let targets: Vec<_> = targets.collect();
            assert!(!targets.is_empty());
            for target in targets {
                let (status, _, _) = exchange(&socket, &ExampleRequest::get(target));
                assert_eq!(status, 200, "{target}");
            }
            let hostile = hostile_requests(&document);
            assert!(hostile.len() > 50);
            for example in hostile {
                let (status, _, _) = exchange(&socket, &example);
                assert!(status < 500, "{example:?}: {status}");
            }
            daemon.stop();
        });
    }
}
