//! Real queries by `dig`, in network namespaces, with a real server for other names.
#![expect(
    clippy::disallowed_methods,
    reason = "the server for other names is a child"
)]

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};

use contrail_mesos::net::testing::{inside, isolated, isolated_async, namespace, run};

use super::zones::tests::{address, zones};
use super::*;
use crate::daemon::Daemon;
use crate::stored_state;

const WEB: &str = "web.marathon.l4lb.thisdcos.directory";
/// Where the server for other names listens.
const UPSTREAM: &str = "127.0.0.9:53";

/// A server for `a.example` and for a text that is longer than a message by UDP.
struct Dnsmasq(Child);

impl Dnsmasq {
    fn start() -> Self {
        let text = ["x".repeat(250), "y".repeat(250), "z".repeat(250)].join(",");
        let arguments = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file=",
            "--user=root",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--listen-address=127.0.0.9",
            "--address=/a.example/192.0.2.77",
            "--local=/example/",
            "--local-ttl=60",
        ];
        let child = Command::new("dnsmasq")
            .args(arguments)
            .arg(format!("--txt-record=long.example,{text}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Self(child);
        wait_for_server(UPSTREAM);
        started
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until something listens.
fn wait_for_server(address: &str) {
    while std::net::TcpStream::connect(address).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A host with the state of [`zones`], and a data path that has all of it.
struct Host {
    directory: tempfile::TempDir,
    config: Config,
    subsystem: DnsSubsystem,
    state: ClusterState,
    _states: watch::Sender<Option<Arc<ClusterState>>>,
    applied: watch::Sender<Arc<AppliedServices>>,
    _runtime: Runtime,
}

fn config(directory: &tempfile::TempDir) -> Config {
    let mut config = Config {
        state_dir: directory.path().to_owned(),
        ..Config::default()
    };
    config.node.name = "node-1".to_owned();
    config.node.socket = directory.path().join("api.sock");
    config.node.dns.upstreams = Some(vec![UPSTREAM.parse().unwrap()]);
    config
}

/// What the data path of services does for the addresses of DNS.
fn add_ranges() {
    run("ip", "route add local 198.18.0.0/16 dev lo proto 133");
    run(
        "ip",
        "route add local fd4a:9c1e:57b2::/112 dev lo proto 133",
    );
}

impl Host {
    fn new() -> Self {
        add_ranges();
        let directory = tempfile::tempdir().unwrap();
        let config = config(&directory);
        let all = zones();
        let (states, states_receiver) = watch::channel(all.state.clone());
        let (applied, applied_receiver) = watch::channel(all.applied.unwrap());
        let subsystem = DnsSubsystem::new(&config);
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let view = ServicesView {
            applied: applied_receiver,
        };
        runtime.spawn(subsystem.dns().unwrap().follow(states_receiver, Some(view)));
        Self {
            state: Arc::unwrap_or_clone(all.state.unwrap()),
            directory,
            config,
            subsystem,
            _states: states,
            applied,
            _runtime: runtime,
        }
    }

    fn compare(&mut self) -> Outcome {
        self.subsystem.reconcile(&self.state, Mode::Apply).unwrap()
    }

    fn written(&self) -> Vec<IpAddr> {
        let written = NodeDns::read(self.directory.path());
        written.map_or_else(Vec::new, |dns| dns.addresses)
    }
}

/// The lines that `dig` prints, sorted. Asks again if a server has not started yet.
fn dig(arguments: &str) -> Vec<String> {
    let output = run("dig", &format!("+short +tries=10 +time=1 {arguments}"));
    let mut lines: Vec<_> = output.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// The code of the response.
fn code(arguments: &str) -> String {
    let output = run("dig", &format!("+tries=10 +time=1 {arguments}"));
    let status = output
        .split_once("status: ")
        .unwrap_or_else(|| panic!("{output}"));
    status.1.split(',').next().unwrap().to_owned()
}

#[test]
fn dig_gets_services_tasks_and_other_names() {
    isolated(|| {
        let _dnsmasq = Dnsmasq::start();
        let mut host = Host::new();
        assert_eq!(host.compare().problems, [] as [&str; 0]);
        let target = format!("0 1 443 {WEB}.");
        let both = [target.clone(), format!("0 1 80 {WEB}.")];
        for server in ["@198.18.0.1", "@fd4a:9c1e:57b2::1"] {
            for transport in ["+notcp", "+tcp"] {
                let ask = |question: &str| dig(&format!("{transport} {server} {question}"));
                assert_eq!(ask(WEB), ["198.18.0.7"]);
                assert_eq!(ask(&format!("{WEB} AAAA")), ["fd4a:9c1e:57b2::7"]);
                assert_eq!(ask(&format!("_443._tcp.{WEB} SRV")), [target.as_str()]);
                assert_eq!(ask(&format!("_tcp.{WEB} SRV")), both);
                assert_eq!(ask("-x 198.18.0.7"), [format!("{WEB}.")]);
                let task = "app-group.marathon.autoip.dcos.thisdcos.directory";
                assert_eq!(ask(task), ["192.0.2.1", "192.0.2.3", "9.0.2.5"]);
                assert_eq!(ask("a.example"), ["192.0.2.77"]);
                assert_eq!(ask("long.example TXT").len(), 1);
            }
        }
        let status = |question: &str| code(&format!("@198.18.0.1 {question}"));
        assert_eq!(
            status("missing.marathon.l4lb.thisdcos.directory"),
            "NXDOMAIN"
        );
        assert_eq!(status("missing.thisdcos.global AAAA"), "NXDOMAIN");
        assert_eq!(status(&format!("{WEB} MX")), "NOERROR");
        assert_eq!(status("missing.example"), "NXDOMAIN");
        assert_eq!(status("+norecurse other.example"), "REFUSED");
        assert_eq!(status("version.bind CH TXT"), "REFUSED");
        assert_eq!(status("+edns=1 +noednsnegotiation a.example"), "BADVERS");
        assert_eq!(status("+opcode=UPDATE a.example"), "NOTIMP");
        // What a client without EDNS gets.
        let short = run("dig", "+noedns +ignore @198.18.0.1 long.example TXT");
        assert!(short.contains(" tc "), "{short}");
        // What the API shows is what is answered.
        let view = host.subsystem.dns().unwrap();
        let ips: Vec<_> = view.host(WEB).into_iter().map(|entry| entry.ip).collect();
        assert_eq!(ips, ["198.18.0.7", "fd4a:9c1e:57b2::7"]);
        let service = view.service(&format!("_443._tcp.{WEB}"));
        assert_eq!((service.len(), service[0].port.as_str()), (2, "443"));
        let metrics = host.subsystem.server.metrics();
        assert!(metrics.truncated.get() > 0 && metrics.cache_hits.get() > 0);
    });
}

/// A namespace whose link is connected to `link` of this one.
fn neighbour(link: &str, own: &str, other: &str) -> OwnedFd {
    let namespace = namespace();
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    run(
        "ip",
        &format!("link add {link} type veth peer name inner netns {path}"),
    );
    run("ip", &format!("address add {own}/24 dev {link}"));
    run("ip", &format!("link set {link} up"));
    let (own, other) = (own.to_owned(), other.to_owned());
    inside(&namespace, move || {
        run("ip", "link set lo up");
        run("ip", &format!("address add {other}/24 dev inner"));
        run("ip", "link set inner up");
        run("ip", &format!("route add default via {own}"));
    });
    namespace
}

#[test]
fn containers_may_ask_and_other_hosts_may_not() {
    isolated(|| {
        let _dnsmasq = Dnsmasq::start();
        let mut host = Host::new();
        host.compare();
        let ask = || {
            (
                code(&format!("@198.18.0.1 {WEB}")),
                code("@198.18.0.1 a.example"),
            )
        };
        let codes = |first: &str, second: &str| (first.to_owned(), second.to_owned());
        let outside = neighbour("uplink", "192.0.2.10", "192.0.2.11");
        assert_eq!(inside(&outside, ask), codes("REFUSED", "REFUSED"));
        // The bridge of a network has the alias that the library gives it.
        run("ip", "link add blue type bridge");
        let container = neighbour("port", "10.99.0.1", "10.99.0.2");
        run("ip", "address flush dev port");
        run("ip", "link set port master blue");
        run("ip", "address add 10.99.0.1/24 dev blue");
        run("ip", "link set blue up");
        let mut socket = contrail_mesos::net::netlink::NetlinkSocket::route().unwrap();
        let alias = contrail_mesos::net::links::set_alias("blue", "contrail-mesos 0a bridge");
        socket.execute_all(&[alias]).unwrap();
        // The addresses of this host may just have been read for somebody else.
        let allowed = loop {
            let answered = inside(&container, ask);
            if answered != codes("REFUSED", "REFUSED") {
                break inside(&container, ask);
            }
        };
        assert_eq!(allowed, codes("NOERROR", "NOERROR"));
        assert_eq!(inside(&outside, ask), codes("REFUSED", "REFUSED"));
        assert_eq!(ask(), codes("NOERROR", "NOERROR"));
    });
}

#[test]
fn sockets_follow_the_published_addresses() {
    isolated(|| {
        let mut host = Host::new();
        let busy = std::net::UdpSocket::bind("0.0.0.0:53").unwrap();
        let outcome = host.compare();
        assert_eq!(outcome.problems.len(), 1, "{outcome:?}");
        assert!(outcome.problems[0].contains("198.18.0.1:53"), "{outcome:?}");
        let v6 = address("fd4a:9c1e:57b2::1");
        assert_eq!(host.written(), [v6]);
        drop(busy);
        let outcome = host.compare();
        assert_eq!(
            (outcome.changes.len(), outcome.problems.len()),
            (1, 0),
            "{outcome:?}"
        );
        assert_eq!(host.written(), [address("198.18.0.1"), v6]);
        assert_eq!(host.compare(), Outcome::default());
        // An address is replaced, and the other one's sockets stay.
        let kept = |host: &Host| host.subsystem.open[&SocketAddr::new(v6, DNS_PORT)].id();
        let before = kept(&host);
        let settings = host.state.service_settings.as_mut().unwrap();
        settings.dns[0] = address("198.18.0.2");
        assert_eq!(host.compare().changes.len(), 2);
        assert_eq!(kept(&host), before);
        assert_eq!(host.written(), [address("198.18.0.2"), v6]);
        assert_eq!(dig(&format!("@198.18.0.2 {WEB}")), ["198.18.0.7"]);
        // A dry run says nothing of the sockets of a running daemon.
        let dry = host.subsystem.reconcile(&host.state, Mode::DryRun).unwrap();
        assert_eq!(dry, Outcome::default());
        // Managers of a version without services say nothing of them; others say that there are none.
        host.state.service_settings = None;
        host.state.has_complete_services = false;
        assert_eq!(host.compare(), Outcome::default());
        assert_eq!(host.written(), [address("198.18.0.2"), v6]);
        host.state.has_complete_services = true;
        assert_eq!(host.compare().changes.len(), 2);
        assert_eq!(NodeDns::read(host.directory.path()), None);
        std::net::TcpListener::bind("198.18.0.2:53").unwrap();
    });
}

#[test]
fn name_servers_are_addresses_that_the_host_has() {
    isolated(|| {
        let mut host = Host::new();
        let v6 = address("fd4a:9c1e:57b2::1");
        run("ip", "route del local 198.18.0.0/16 dev lo table local");
        assert_eq!(host.compare().problems, [] as [&str; 0]);
        assert_eq!(host.subsystem.open.len(), 2);
        assert_eq!(host.written(), [v6]);
        assert!(!host.subsystem.receive());
        // The data path comes, and nothing else changes.
        run("ip", "route add local 198.18.0.0/16 dev lo proto 133");
        host.applied.send_modify(|_| {});
        while !host.subsystem.receive() {
            std::thread::sleep(Duration::from_millis(2));
        }
        assert_eq!(host.compare(), Outcome::default());
        assert_eq!(host.written(), [address("198.18.0.1"), v6]);
    });
}

#[test]
fn configured_addresses_need_no_managers() {
    isolated(|| {
        let mut host = Host::new();
        run("ip", "address add 192.0.2.20/24 dev lo");
        let listen = ["192.0.2.20:53", "127.0.0.1:5353"];
        let listen = listen.map(|address| address.parse().unwrap()).to_vec();
        host.config.node.dns.listen = listen;
        let mut undecided = DnsSubsystem::new(&host.config);
        assert_eq!(
            undecided.reconcile_alone(Mode::Apply).unwrap(),
            Outcome::default()
        );
        host.config.node.dns.enabled = Some(true);
        let mut enabled = DnsSubsystem::new(&host.config);
        assert_eq!(
            enabled.reconcile_alone(Mode::Apply).unwrap().changes.len(),
            2
        );
        assert_eq!(host.written(), [address("192.0.2.20")]);
        assert_eq!(dig("@127.0.0.1 -p 5353 localhost"), ["127.0.0.1"]);
        // Nothing is known of the names of the cluster.
        assert_eq!(code(&format!("@192.0.2.20 {WEB}")), "SERVFAIL");
        host.config.node.dns.enabled = Some(false);
        let mut disabled = DnsSubsystem::new(&host.config);
        let outcome = disabled.reconcile(&host.state, Mode::Apply).unwrap();
        assert_eq!(outcome, Outcome::default());
        assert_eq!(host.written(), [] as [IpAddr; 0]);
    });
}

/// A data path that has what the state has.
#[derive(Debug)]
struct DataPath(watch::Sender<Arc<AppliedServices>>);

impl Subsystem for DataPath {
    fn name(&self) -> &'static str {
        "services"
    }

    fn reconcile(&mut self, cluster: &ClusterState, _mode: Mode) -> Result<Outcome, BoxError> {
        self.0.send_replace(Arc::new(AppliedServices {
            revision: Some(cluster.revision),
            services: cluster.services.clone(),
        }));
        Ok(Outcome::default())
    }

    fn services(&self) -> Option<ServicesView> {
        Some(ServicesView {
            applied: self.0.subscribe(),
        })
    }
}

#[test]
fn answers_go_on_without_managers_and_after_a_restart() {
    isolated_async(async || {
        add_ranges();
        let directory = tempfile::tempdir().unwrap();
        let config = config(&directory);
        let state = ClusterState::clone(zones().state.as_ref().unwrap());
        // What an earlier run knew. There are no managers.
        stored_state::save(directory.path(), &state).unwrap();
        for _ in 0..2 {
            let subsystems: Vec<Box<dyn Subsystem>> = vec![
                Box::new(DataPath(watch::Sender::default())),
                Box::new(DnsSubsystem::new(&config)),
            ];
            let daemon = Daemon::start(&config, String::new(), subsystems)
                .await
                .unwrap();
            let asked = tokio::task::spawn_blocking(|| {
                wait_for_server("198.18.0.1:53");
                // The name is not known before the first comparison.
                while code(&format!("@198.18.0.1 {WEB}")) == "SERVFAIL" {}
                dig(&format!("@198.18.0.1 {WEB}"))
            });
            assert_eq!(asked.await.unwrap(), ["198.18.0.7"]);
            daemon.stop().await;
            // Containers that are launched now get the same name servers.
            let written = NodeDns::read(directory.path()).unwrap();
            assert_eq!(
                written.addresses,
                state.service_settings.as_ref().unwrap().dns
            );
            std::net::UdpSocket::bind("198.18.0.1:53").unwrap();
        }
    });
}
