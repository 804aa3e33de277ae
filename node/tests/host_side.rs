//! The daemon and the library on one host: containers that the library attaches, damage by other
//! programs, and the daemon that repairs it. The agent is the library in this process; "no agent runs"
//! while there is none.
#![expect(
    clippy::disallowed_methods,
    reason = "this is no agent: the binary under test is a child"
)]

mod root_tests {
    use std::collections::BTreeSet;
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
    use std::os::unix::process::ExitStatusExt as _;
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use contrail_mesos::config::{Config, NetworkProvider, Source};
    use contrail_mesos::isolator::attacher::{Attacher, Target};
    use contrail_mesos::isolator::checkpoint::{Checkpoint, Owner};
    use contrail_mesos::net::testing::{
        inside, isolated, isolated_async, link_names, namespace, nft_ruleset, run,
    };
    use contrail_mesos::network_request::ContainerRequest;
    use contrail_mesos::node_state::{LocalOverlay, NodeState};
    use contrail_mesos::provider::{AddressRequest, NetworkRequest, PortMapping, Protocol};
    use contrail_mesos_api::cluster::{Membership, Revision};
    use contrail_mesos_api::container::ContainerId;
    use contrail_mesos_node::engine::{Engine, EngineStatus};
    use contrail_mesos_node::host_side::HostSideSubsystem;
    use contrail_mesos_node::subsystem::{Mode, Outcome, Subsystem as _};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use tokio::sync::mpsc::unbounded_channel;
    use tokio::sync::watch;

    const NETWORKS: &str = "\
[[network]]
name = 'blue'
provider = 'bridge'
bridge = 'cmb-blue'
subnet = '10.1.0.0/16'
subnet6 = 'fd00:1::/64'
mtu = 1400
[[network]]
name = 'vxlan-1'
provider = 'overlay'
";

    /// A host: the namespaces of this thread.
    struct Host {
        directory: tempfile::TempDir,
        config: Config,
    }

    /// A container that is attached, or was.
    struct Container {
        checkpoint: Checkpoint,
        /// Exists as long as the container runs.
        namespace: OwnedFd,
    }

    impl Host {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("agent.toml");
            let state_dir = directory.path().join("state");
            let netns_dir = directory.path().join("netns");
            let text = format!(
                "state_dir = '{}'\nnetns_dir = '{}'\n{NETWORKS}",
                state_dir.display(),
                netns_dir.display()
            );
            std::fs::write(&path, text).unwrap();
            let config = Source::file(path).load().unwrap();
            let overlay = LocalOverlay {
                name: "vxlan-1".to_owned(),
                vni: 4097,
                subnet: Some("9.0.1.0/25".parse().unwrap()),
                subnet6: Some("fd09:0:0:1::/65".parse().unwrap()),
                mtu: 1450,
                groups: None,
                problem: None,
                blocks: vec![],
                withdrawn: vec![],
            };
            let cluster = ["9.0.0.0/8", "fd09::/16"].map(|net| net.parse().unwrap());
            NodeState::new(
                "node-1".to_owned(),
                Revision::default(),
                vec![overlay],
                cluster.to_vec(),
            )
            .write(&state_dir)
            .unwrap();
            Self { directory, config }
        }

        fn state_dir(&self) -> &Path {
            &self.config.state_dir
        }

        fn agent(&self) -> Attacher {
            let (lost, _) = unbounded_channel();
            Attacher::new(&self.config, lost).unwrap()
        }

        fn subsystem(&self) -> HostSideSubsystem {
            HostSideSubsystem::new(self.state_dir()).unwrap()
        }

        fn request(
            &self,
            container: &ContainerId,
            network: &str,
            ports: &[PortMapping],
        ) -> ContainerRequest {
            let network = self.config.networks.iter().find(|one| one.name == network);
            let request = NetworkRequest {
                container: container.clone(),
                interface: "eth0".to_owned(),
                network: network.unwrap().clone(),
                addresses: vec![AddressRequest::Any],
                ports: ports.to_vec(),
                membership: Membership::default(),
                labels: std::collections::BTreeMap::new(),
                info: contrail_mesos::proto::mesos::NetworkInfo::default(),
            };
            ContainerRequest {
                network_infos: vec![request.info.clone()],
                networks: vec![request],
                hostname: "c".to_owned(),
            }
        }

        /// Attaches a container. After a failure, the error has its checkpoint.
        async fn attach(
            &self,
            agent: &Attacher,
            name: &str,
            network: &str,
            ports: &[PortMapping],
        ) -> Result<Container, (Option<Checkpoint>, String)> {
            let id = ContainerId::top_level(name);
            let request = self.request(&id, network, ports);
            let reserved = agent.reserve(&request, &id, Owner::Operator, None).await;
            let checkpoint = reserved.map_err(|error| (None, error.to_string()))?;
            let namespace = namespace();
            let path = PathBuf::from(format!(
                "/proc/{}/fd/{}",
                std::process::id(),
                namespace.as_raw_fd()
            ));
            match agent.attach(&checkpoint, Target::Namespace(path)).await {
                Ok(_) => Ok(Container {
                    checkpoint,
                    namespace,
                }),
                Err(error) => Err((Some(checkpoint), error.to_string())),
            }
        }

        /// Fails if an interface, an element, a lease or a checkpoint is left.
        fn assert_clean(&self) {
            assert_eq!(link_names(), Vec::<String>::new());
            assert_eq!(nft_ruleset(), "");
            let entries = |name: &str| -> BTreeSet<String> {
                std::fs::read_dir(self.state_dir().join(name))
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                    .collect()
            };
            assert_eq!(entries("networks"), [".lock".to_owned()].into());
            assert_eq!(entries("containers"), BTreeSet::new());
        }
    }

    impl Container {
        /// Answers with this text at port 80.
        fn serve(&self, answer: &'static str) {
            inside(&self.namespace, move || {
                let listener = TcpListener::bind("[::]:80").unwrap();
                std::thread::spawn(move || {
                    while let Ok((mut stream, _)) = listener.accept() {
                        let _ = stream.write_all(answer.as_bytes());
                    }
                });
            });
        }

        fn host_interface(&self) -> String {
            self.checkpoint.container.host_interface("eth0")
        }
    }

    fn tcp(host_port: u16) -> PortMapping {
        PortMapping {
            host_port,
            container_port: 80,
            protocol: Protocol::Tcp,
        }
    }

    /// Another host, from which the mapped ports are used.
    fn outside() -> OwnedFd {
        let other = namespace();
        let path = format!("/proc/{}/fd/{}", std::process::id(), other.as_raw_fd());
        run("ip", "link add uplink type veth peer name wan");
        run("ip", &format!("link set wan netns {path}"));
        run("ip", "addr add 192.0.2.1/24 dev uplink");
        run("ip", "addr add 2001:db8::1/64 dev uplink nodad");
        run("ip", "link set uplink up");
        inside(&other, || {
            run("ip", "addr add 192.0.2.2/24 dev wan");
            run("ip", "addr add 2001:db8::2/64 dev wan nodad");
            run("ip", "link set wan up");
        });
        other
    }

    fn query(from: &OwnedFd, server: &str) -> String {
        let server: SocketAddr = server.parse().unwrap();
        inside(from.as_fd(), move || {
            let timeout = Duration::from_secs(5);
            let mut stream = TcpStream::connect_timeout(&server, timeout).unwrap();
            stream.set_read_timeout(Some(timeout)).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        })
    }

    /// The host's side of the containers, as an operator's commands show it.
    fn snapshot() -> Vec<String> {
        // The order of the elements of a set is the kernel's.
        let parts = |line: &str| line.trim().trim_end_matches([',', '}', ' ']).to_owned();
        let ruleset = nft_ruleset().replace("elements = {", "\n");
        let mut lines: Vec<String> = ruleset.lines().map(parts).collect();
        for arguments in ["-o addr show", "-o link show", "-o link show up"] {
            for line in run("ip", arguments).lines() {
                let Some((_, rest)) = line.split_once(": ") else {
                    continue;
                };
                // A bridge that is made again has another index, and its carrier comes later.
                let is_kept = |word: &&str| {
                    !word.starts_with(['<', '@'])
                        && !["state", "UP", "DOWN", "LOWERLAYERDOWN", "UNKNOWN"].contains(word)
                };
                let words: Vec<_> = rest.split_whitespace().filter(is_kept).collect();
                if !rest.contains("fe80:") {
                    lines.push(format!("{arguments}: {}", words.join(" ")));
                }
            }
        }
        for setting in [
            "ipv4/ip_forward",
            "ipv6/conf/all/forwarding",
            "ipv4/conf/cmb-blue/forwarding",
            "ipv4/conf/cmb-blue/route_localnet",
            "ipv6/conf/cmb-blue/accept_ra",
            "ipv4/conf/m-vxlan-1/forwarding",
            "ipv4/conf/m-vxlan-1/route_localnet",
            "ipv6/conf/m-vxlan-1/accept_ra",
        ] {
            let path = format!("/proc/sys/net/{setting}");
            let value = std::fs::read_to_string(path).unwrap_or_default();
            lines.push(format!("{setting} = {}", value.trim()));
        }
        lines.sort();
        lines
    }

    /// Whether a notification has arrived that makes a comparison due.
    fn is_due(subsystem: &mut HostSideSubsystem) -> bool {
        let descriptor = subsystem.notifications().unwrap();
        let mut files = [PollFd::new(descriptor, PollFlags::POLLIN)];
        // As the engine does.
        poll(&mut files, PollTimeout::ZERO).unwrap() > 0 && subsystem.receive()
    }

    /// Compares, and puts back what is missing.
    fn repair(subsystem: &mut HostSideSubsystem) -> Outcome {
        subsystem.reconcile_alone(Mode::Apply).unwrap()
    }

    /// What is missing, after all that is under way in the kernel has settled.
    fn is_right(host: &Host) -> Outcome {
        host.subsystem().reconcile_alone(Mode::DryRun).unwrap()
    }

    /// The damage: a command, and whether the kernel notifies of it.
    fn damages(links: &[String; 2], bridges: &[String; 2]) -> Vec<(&'static str, String, bool)> {
        let mut all = vec![
            ("nft", "flush ruleset".to_owned(), true),
            ("nft", "delete table inet contrail_mesos".to_owned(), true),
            (
                "nft",
                "flush chain inet contrail_mesos prerouting".to_owned(),
                true,
            ),
            (
                "nft",
                "flush map inet contrail_mesos ports4".to_owned(),
                true,
            ),
            (
                "nft",
                "flush set inet contrail_mesos masquerade4".to_owned(),
                true,
            ),
            (
                "nft",
                "flush set inet contrail_mesos masquerade6".to_owned(),
                true,
            ),
            ("sysctl", "-q -w net.ipv4.ip_forward=0".to_owned(), true),
            (
                "sysctl",
                "-q -w net.ipv6.conf.all.forwarding=0".to_owned(),
                true,
            ),
        ];
        for bridge in bridges {
            for command in [
                format!("addr flush dev {bridge}"),
                format!("link set {bridge} down"),
                format!("link set {bridge} mtu 1290"),
                format!("link set {bridge} address 02:00:00:00:00:99"),
                format!("link del {bridge}"),
            ] {
                all.push(("ip", command, true));
            }
            let setting = |name: &str| format!("-q -w net.ipv4.conf.{bridge}.{name}=0");
            all.push(("sysctl", setting("forwarding"), true));
            all.push(("sysctl", setting("route_localnet"), false));
            let accepted = format!("-q -w net.ipv6.conf.{bridge}.accept_ra=2");
            all.push(("sysctl", accepted, false));
        }
        for link in links {
            all.push(("ip", format!("link set {link} nomaster"), true));
            all.push(("ip", format!("link set {link} down"), true));
        }
        all
    }

    #[test]
    fn every_damage_is_repaired_while_no_agent_runs() {
        isolated_async(|| async {
            let outside = outside();
            let host = Host::new();
            let agent = host.agent();
            let mut containers = vec![];
            for (name, network, port) in [("one", "blue", 8080), ("two", "vxlan-1", 8081)] {
                let attached = host.attach(&agent, name, network, &[tcp(port)]).await;
                let container = attached.map_err(|(_, error)| error).unwrap();
                container.serve(name);
                containers.push(container);
            }
            drop(agent);
            let [one, two] = &containers[..] else {
                unreachable!();
            };
            let bridge = |name: &str| {
                let network = host.config.networks.iter().find(|one| one.name == name);
                match &network.unwrap().provider {
                    NetworkProvider::Bridge(network) => network.bridge.clone(),
                    _ => format!("m-{name}"),
                }
            };
            let links = [one.host_interface(), two.host_interface()];
            let bridges = [bridge("blue"), bridge("vxlan-1")];
            let mut subsystem = host.subsystem();
            assert_eq!(repair(&mut subsystem), Outcome::default());
            let before = snapshot();
            for (program, arguments, is_notified) in damages(&links, &bridges) {
                while is_due(&mut subsystem) {
                    assert_eq!(repair(&mut subsystem), Outcome::default());
                }
                run(program, &arguments);
                let damage = format!("{program} {arguments}");
                assert_ne!(snapshot(), before, "{damage}");
                assert_eq!(is_due(&mut subsystem), is_notified, "{damage}");
                // Only says what is missing.
                let planned = is_right(&host);
                assert_ne!(planned.changes, [], "{damage}");
                assert_ne!(snapshot(), before, "{damage}");
                let outcome = repair(&mut subsystem);
                assert_ne!(outcome.changes, [], "{damage}");
                assert_eq!(outcome.problems, [""; 0], "{damage}");
                assert_eq!(snapshot(), before, "{damage}");
                assert_eq!(is_right(&host), Outcome::default(), "{damage}");
                for (address, answer) in [
                    ("192.0.2.1:8080", "one"),
                    ("[2001:db8::1]:8080", "one"),
                    ("192.0.2.1:8081", "two"),
                    ("[2001:db8::1]:8081", "two"),
                ] {
                    assert_eq!(query(&outside, address), answer, "{damage}");
                }
            }
            // The agent finds everything as it left it.
            let agent = host.agent();
            for container in &containers {
                agent.adopt(&container.checkpoint, None).await.unwrap();
            }
            assert_eq!(snapshot(), before);
            for container in &containers {
                agent.detach(&container.checkpoint).await.unwrap();
            }
            assert_eq!(repair(&mut subsystem), Outcome::default());
            run("ip", "link del uplink");
            host.assert_clean();
        });
    }

    #[test]
    fn containers_that_come_or_go_are_not_repaired() {
        isolated_async(|| async {
            let mut host = Host::new();
            let agent = host.agent();
            let mut attached = vec![];
            for (name, port) in [("stays", 8080), ("comes", 8081), ("goes", 8082)] {
                let container = host.attach(&agent, name, "blue", &[tcp(port)]).await;
                attached.push(container.map_err(|(_, error)| error).unwrap());
            }
            // Another configuration of the network, which only a container has that is not attached
            // yet: the agent has a longer list of needs than the daemon knows of.
            let path = host.directory.path().join("agent.toml");
            let text = std::fs::read_to_string(&path).unwrap();
            let text = text.replace("10.1.0.0/16", "10.0.0.0/12\'\ngateway = \'10.1.0.1");
            let text = text.replace("mtu = 1400", "mtu = 1450");
            std::fs::write(&path, text).unwrap();
            host.config = Source::file(&path).load().unwrap();
            let wider = host.attach(&agent, "wider", "blue", &[tcp(8083)]).await;
            attached.push(wider.map_err(|(_, error)| error).unwrap());
            let checkpoints = agent.checkpoints().clone();
            let results = |name: &str| {
                let directory = checkpoints.directory(&ContainerId::top_level(name));
                directory.join("attached.json")
            };
            let mut kept = vec![];
            for name in ["comes", "wider"] {
                let path = results(name);
                kept.push((path.clone(), std::fs::read(&path).unwrap()));
                std::fs::remove_file(path).unwrap();
            }
            let mut subsystem = host.subsystem();
            let before = snapshot();
            assert_eq!(repair(&mut subsystem), Outcome::default());
            assert_eq!(snapshot(), before);
            checkpoints
                .begin_detach(&ContainerId::top_level("goes"))
                .unwrap();
            // Without the agent, which would repair the others.
            drop(agent);
            run("nft", "flush ruleset");
            for container in &attached {
                run(
                    "ip",
                    &format!("link set {} nomaster", container.host_interface()),
                );
            }
            let outcome = repair(&mut subsystem);
            assert_eq!(outcome.problems, [""; 0]);
            let ruleset = nft_ruleset();
            let ports = run("ip", "-o link show master cmb-blue");
            for (container, is_repaired) in attached.iter().zip([true, false, false, false]) {
                let name = container.host_interface();
                assert_eq!(ruleset.contains(&name), is_repaired, "{name} in {ruleset}");
                assert_eq!(ports.contains(&name), is_repaired, "{name} in {ports}");
            }
            while is_due(&mut subsystem) {
                assert_eq!(repair(&mut subsystem), Outcome::default());
            }
            // They are, once their attach is complete.
            for (path, contents) in kept {
                std::fs::write(path, contents).unwrap();
            }
            assert!(is_due(&mut subsystem));
            assert_eq!(repair(&mut subsystem).problems, [""; 0]);
            let ports = run("ip", "-o link show master cmb-blue");
            for (container, is_repaired) in attached.iter().zip([true, true, false, true]) {
                let name = container.host_interface();
                assert_eq!(ports.contains(&name), is_repaired, "{name} in {ports}");
            }
            let agent = host.agent();
            for container in &attached {
                agent.adopt(&container.checkpoint, None).await.unwrap();
            }
            for container in &attached {
                agent.detach(&container.checkpoint).await.unwrap();
                assert_eq!(repair(&mut subsystem).problems, [""; 0]);
            }
            host.assert_clean();
        });
    }

    #[test]
    fn detach_removes_nothing_while_a_repair_is_in_progress() {
        isolated(|| {
            let host = Host::new();
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let _guard = runtime.enter();
            let agent = Arc::new(host.agent());
            let container = runtime.block_on(host.attach(&agent, "one", "blue", &[tcp(8080)]));
            let container = container.map_err(|(_, error)| error).unwrap();
            let checkpoints = agent.checkpoints().clone();
            let lock = checkpoints.lock_for_repair().unwrap().unwrap();
            let (detaching, checkpoint) = (Arc::clone(&agent), container.checkpoint.clone());
            let detach = runtime.spawn(async move { detaching.detach(&checkpoint).await });
            let directory = checkpoints.directory(&container.checkpoint.container);
            while directory.join("attached.json").exists() {
                std::thread::yield_now();
            }
            let name = container.host_interface();
            assert!(link_names().contains(&name));
            assert!(nft_ruleset().contains(&name));
            assert!(std::time::Instant::now() < lock.deadline());
            drop(lock);
            runtime.block_on(detach).unwrap().unwrap();
            host.assert_clean();
        });
    }

    #[test]
    fn host_without_the_interfaces_of_a_reboot_stays_as_it_is() {
        isolated_async(|| async {
            let host = Host::new();
            let mut subsystem = host.subsystem();
            assert_eq!(repair(&mut subsystem), Outcome::default());
            let agent = host.agent();
            let container = host.attach(&agent, "one", "blue", &[tcp(8080)]).await;
            let container = container.map_err(|(_, error)| error).unwrap();
            // The first container of a host is noticed.
            assert!(is_due(&mut subsystem));
            assert_eq!(repair(&mut subsystem), Outcome::default());
            drop(agent);
            run("ip", &format!("link del {}", container.host_interface()));
            run("ip", "link del cmb-blue");
            run("nft", "flush ruleset");
            assert!(is_due(&mut subsystem));
            for _ in 0..3 {
                assert_eq!(repair(&mut subsystem), Outcome::default());
            }
            assert_eq!(link_names(), Vec::<String>::new());
            assert_eq!(nft_ruleset(), "");
            let agent = host.agent();
            agent.detach(&container.checkpoint).await.unwrap();
            host.assert_clean();
        });
    }

    /// The daemon, as an operator runs it.
    struct Daemon(Child);

    impl Daemon {
        fn start(host: &Host) -> Self {
            let mut command = Command::new(env!("CARGO_BIN_EXE_contrail-mesos-node"));
            command
                .arg("--config")
                .arg(host.directory.path().join("agent.toml"))
                .stderr(Stdio::null());
            Self(command.spawn().unwrap())
        }

        fn kill(mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }

        /// Stops the daemon as systemd does, perhaps before it has set up its handlers.
        fn stop(mut self) {
            let pid = Pid::from_raw(self.0.id().try_into().unwrap());
            kill(pid, Signal::SIGTERM).unwrap();
            let status = self.0.wait().unwrap();
            let is_ended = status.signal() == Some(Signal::SIGTERM as i32);
            assert!(status.success() || is_ended, "{status}");
        }
    }

    impl Drop for Daemon {
        fn drop(&mut self) {
            // It has ended already, unless the test has failed.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Another program that changes the host. It may come too late.
    fn damage(program: &str, arguments: &str) {
        let mut command = Command::new(program);
        command.args(arguments.split(' ')).stderr(Stdio::null());
        command.status().unwrap();
    }

    /// Damages the host, and kills and starts the daemon, until `is_over`. Returns the last daemon.
    fn disturb(host: &Host, is_over: &AtomicBool) -> Daemon {
        let mut daemon = Daemon::start(host);
        for round in 0_usize.. {
            if is_over.load(Ordering::Relaxed) {
                return daemon;
            }
            match round % 4 {
                0 => damage("nft", "flush ruleset"),
                1 => damage("ip", "addr flush dev cmb-blue"),
                2 => {
                    let links = link_names();
                    for link in links.iter().filter(|name| name.starts_with("cm")).take(4) {
                        damage("ip", &format!("link set {link} nomaster"));
                    }
                }
                _ => damage("nft", "flush map inet contrail_mesos ports4"),
            }
            if round % 16 == 15 {
                daemon.kill();
                daemon = Daemon::start(host);
            }
        }
        daemon
    }

    #[test]
    fn storm_of_containers_leaves_nothing_with_a_daemon_that_is_killed() {
        isolated(|| {
            let host = Arc::new(Host::new());
            // Its threads are in the namespaces of this one.
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let _guard = runtime.enter();
            let agent = Arc::new(host.agent());
            let is_over = Arc::new(AtomicBool::new(false));
            let disturber = {
                let (host, is_over) = (Arc::clone(&host), Arc::clone(&is_over));
                std::thread::spawn(move || disturb(&host, &is_over))
            };
            let lifecycles = (0..100_u16).map(|number| {
                let (host, agent) = (Arc::clone(&host), Arc::clone(&agent));
                runtime.spawn(async move {
                    let mut attached = 0;
                    for round in 0..3 {
                        let ports = [tcp(20_000 + number)];
                        let ports = if number % 2 == 0 { &ports[..] } else { &[] };
                        let network = ["blue", "vxlan-1"][usize::from(number % 3 == 0)];
                        let name = format!("c{number}-{round}");
                        let checkpoint = match host.attach(&agent, &name, network, ports).await {
                            Ok(container) => {
                                attached += 1;
                                Some(container.checkpoint.clone())
                            }
                            // Somebody has changed the host just then.
                            Err((checkpoint, _)) => checkpoint,
                        };
                        if let Some(checkpoint) = checkpoint {
                            agent.detach(&checkpoint).await.unwrap();
                            // From now on, nobody gives anything back.
                            let name = checkpoint.container.host_interface("eth0");
                            let left = link_names().contains(&name);
                            assert!(!left && !nft_ruleset().contains(&name), "{name} is left");
                        }
                    }
                    attached
                })
            });
            let lifecycles = lifecycles.collect::<Vec<_>>();
            let all = runtime.block_on(futures::future::join_all(lifecycles));
            // A failed test ends the daemon, too.
            is_over.store(true, Ordering::Relaxed);
            let daemon = disturber.join().unwrap();
            let attached: usize = all.into_iter().map(Result::unwrap).sum();
            assert!(
                attached > 150,
                "only {attached} of 300 containers were attached"
            );
            // It ends what it has begun.
            daemon.stop();
            host.assert_clean();
        });
    }

    #[test]
    fn engine_repairs_at_the_notification_and_counts() {
        isolated_async(|| async {
            let host = Host::new();
            let agent = host.agent();
            let container = host.attach(&agent, "one", "blue", &[tcp(8080)]).await;
            let container = container.map_err(|(_, error)| error).unwrap();
            drop(agent);
            let (_states, receiver) = watch::channel(None);
            let engine = Engine::start(vec![Box::new(host.subsystem())], &receiver).unwrap();
            let mut status = engine.status();
            let attempted = status.wait_for(EngineStatus::has_attempted).await;
            assert_eq!(attempted.unwrap().subsystems[0].changes, 0);
            run("nft", "flush ruleset");
            let repaired = status
                .wait_for(|status| status.subsystems[0].repairs > 0)
                .await;
            assert_eq!(repaired.unwrap().subsystems[0].failures, 0);
            assert!(nft_ruleset().contains(&container.host_interface()));
            tokio::task::spawn_blocking(move || engine.stop(Duration::from_secs(30)))
                .await
                .unwrap();
            let agent = host.agent();
            agent.detach(&container.checkpoint).await.unwrap();
            host.assert_clean();
        });
    }
}
