//! Containers by the real core on a host of the test's own, with causes planted one by one. What the trace
//! says is compared with a real connection.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use contrail_mesos_api::container::ContainerId;
use tempfile::TempDir;
use tokio::sync::mpsc::unbounded_channel;

use super::{Trace, Tracer, Verdict};
use crate::config::{Config, Source};
use crate::isolator::attacher::{Attacher, Target};
use crate::isolator::checkpoint::{Checkpoint, Owner};
use crate::net::nft::groups::{
    ContainerRules, GroupPolicy, GroupTables, GuardedPort, MemberSet, ProtectedAddress,
};
use crate::net::nft::services::{Balance, Frontend, Scope, ServicePolicy, ServiceTable};
use crate::net::testing::{inside, isolated_async, namespace, run};
use crate::network_request;
use crate::proto::mesos::network_info::PortMapping;
use crate::proto::mesos::{ContainerInfo, NetworkInfo, container_info};
use crate::provider::ProviderIntent;

/// How long a connection that must not come is waited for.
const SILENCE: Duration = Duration::from_millis(300);
const PORT: u16 = 5432;

struct Lab {
    config: Config,
    _directory: TempDir,
}

struct Container {
    checkpoint: Checkpoint,
    namespace: OwnedFd,
}

impl Container {
    fn address(&self) -> IpAddr {
        self.checkpoint.networks[0].intent.addresses[0].addr()
    }

    fn host_interface(&self) -> &str {
        match &self.checkpoint.networks[0].intent.provider {
            ProviderIntent::Bridge(bridge) => &bridge.host_interface,
            other => panic!("{other:?}"),
        }
    }

    fn run(&self, program: &str, arguments: &str) {
        let (program, arguments) = (program.to_owned(), arguments.to_owned());
        inside(&self.namespace, move || run(&program, &arguments));
    }

    fn listen(&self, address: &str) -> TcpListener {
        let address: SocketAddr = address.parse().unwrap();
        inside(&self.namespace, move || TcpListener::bind(address).unwrap())
    }

    fn connects(&self, to: SocketAddr) -> bool {
        inside(&self.namespace, move || connects(to))
    }
}

fn connects(to: SocketAddr) -> bool {
    TcpStream::connect_timeout(&to, SILENCE).is_ok()
}

impl Lab {
    /// A host with networks of an octet of the test's own.
    fn new(octet: u8) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.toml");
        let toml = format!(
            "state_dir = '{0}/state'\nnetns_dir = '{0}/netns'\n[ports]\nallow = ['any']\n\
             [node]\nsocket = '{0}/node.sock'\n\
             [[network]]\nname = 'blue'\nprovider = 'bridge'\nsubnet = '10.{octet}.1.0/24'\nbridge = 'cmb-blue'\n\
             [[network]]\nname = 'red'\nprovider = 'bridge'\nsubnet = '10.{octet}.2.0/24'\nbridge = 'cmb-red'\n\
             [[network]]\nname = 'green'\nprovider = 'bridge'\nsubnet = '10.{octet}.4.0/24'\nmasquerade = false\n\
             [[network]]\nname = 'closed'\nprovider = 'bridge'\nsubnet = '10.{octet}.3.0/24'\ngroups = true\n",
            directory.path().display()
        );
        std::fs::write(&path, toml).unwrap();
        Self {
            config: Source::file(path).load().unwrap(),
            _directory: directory,
        }
    }

    fn attacher(&self) -> Attacher {
        let (lost, _) = unbounded_channel();
        Attacher::new(&self.config, lost).unwrap()
    }

    /// Launches a container as the agent does. The agent ends then, so that it repairs nothing.
    async fn launch(
        &self,
        name: &str,
        network: &str,
        groups: &[&str],
        port: Option<u32>,
    ) -> Container {
        let attacher = self.attacher();
        let id = ContainerId::top_level(name);
        let info = ContainerInfo {
            r#type: container_info::Type::Mesos.into(),
            hostname: None,
            network_infos: vec![NetworkInfo {
                name: Some(network.as_bytes().to_vec()),
                groups: groups
                    .iter()
                    .map(|group| group.as_bytes().to_vec())
                    .collect(),
                port_mappings: port
                    .map(|host_port| PortMapping {
                        host_port,
                        container_port: PORT.into(),
                        protocol: None,
                    })
                    .into_iter()
                    .collect(),
                ..NetworkInfo::default()
            }],
        };
        let request = network_request::parse(&id, &info, &self.config).unwrap();
        let checkpoint = attacher
            .reserve(&request, &id, Owner::Agent, None)
            .await
            .unwrap();
        let namespace = namespace();
        let path = PathBuf::from(format!("/proc/self/fd/{}", namespace.as_raw_fd()));
        attacher
            .attach(&checkpoint, Target::Namespace(path))
            .await
            .unwrap();
        Container {
            checkpoint,
            namespace,
        }
    }

    async fn trace(&self, from: &str, to: &str) -> Trace {
        let attacher = self.attacher();
        let tracer = Tracer::new(&attacher, &self.config);
        let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
        tracer.trace(&from, &to).await.unwrap()
    }

    /// What stops a packet from `from` to the port of `to`. A real connection agrees.
    async fn cause(&self, from: &Container, to: &Container) -> Option<&'static str> {
        let name = |container: &Container| container.checkpoint.container.to_string();
        let trace = self
            .trace(&name(from), &format!("{}:{PORT}", name(to)))
            .await;
        let reaches = from.connects((to.address(), PORT).into());
        assert_eq!(trace.verdict == Verdict::Reachable, reaches, "{trace:#?}");
        trace.cause
    }
}

#[test]
fn causes_between_containers_of_a_host_are_named() {
    isolated_async(|| async {
        let lab = Lab::new(211);
        let web = lab.launch("web", "blue", &[], None).await;
        let db = lab.launch("db", "blue", &[], None).await;
        let far = lab.launch("far", "red", &[], None).await;
        assert_eq!(lab.cause(&web, &db).await, Some("no-listener"));
        let loopback = db.listen("127.0.0.1:5432");
        assert_eq!(lab.cause(&web, &db).await, Some("listens-on-loopback"));
        drop(loopback);
        let _listener = db.listen("0.0.0.0:5432");
        assert_eq!(lab.cause(&web, &db).await, None);
        assert_eq!(lab.cause(&far, &db).await, None);
        assert_eq!(lab.cause(&db, &db).await, None);
        // By the beginning of the name, and by the address.
        let address = db.address();
        for to in ["d:5432".to_owned(), format!("{address}:5432")] {
            assert_eq!(lab.trace("we", &to).await.verdict, Verdict::Reachable);
        }
        let attacher = lab.attacher();
        let tracer = Tracer::new(&attacher, &lab.config);
        let (nobody, to) = ("nobody".parse().unwrap(), "db:1".parse().unwrap());
        assert!(tracer.trace(&nobody, &to).await.is_err());
        let unused = lab.trace("web", "10.211.1.99:5432").await;
        assert_eq!(unused.cause, Some("address-unused"));

        // In the containers.
        db.run("ip", "link set eth0 down");
        assert_eq!(lab.cause(&web, &db).await, Some("interface-down"));
        db.run("ip", "link set eth0 up");
        db.run("ip", "route add default via 10.211.1.1");
        db.run("ip", "addr del 10.211.1.3/24 dev eth0");
        assert_eq!(lab.cause(&web, &db).await, Some("address-missing"));
        db.run("ip", "addr add 10.211.1.3/24 dev eth0");
        db.run("ip", "route replace default via 10.211.1.1");
        assert_eq!(lab.cause(&web, &db).await, None);
        far.run("ip", "route del default");
        assert_eq!(lab.cause(&far, &db).await, Some("container-route-missing"));
        far.run("ip", "route add default via 10.211.2.1");
        db.run("ip", "route del default");
        // The host's address is its source there.
        assert_eq!(lab.cause(&far, &db).await, None);
        let green = lab.launch("green", "green", &[], None).await;
        let no_return = lab.cause(&green, &db).await;
        assert_eq!(no_return, Some("return-route-missing"));
        db.run("ip", "route add default via 10.211.1.1");
        db.run("nft", "add table inet own");
        db.run(
            "nft",
            "add chain inet own in { type filter hook input priority 0 ; }",
        );
        db.run("nft", "add rule inet own in tcp dport 5432 drop");
        assert_eq!(lab.cause(&web, &db).await, Some("firewall-drop"));
        db.run("nft", "delete table inet own");

        // On the host.
        let port = db.host_interface().to_owned();
        run("ip", &format!("link set {port} nomaster"));
        assert_eq!(lab.cause(&web, &db).await, Some("bridge-port-missing"));
        run("ip", &format!("link set {port} master cmb-blue"));
        run("ip", &format!("link set {port} down"));
        assert_eq!(lab.cause(&web, &db).await, Some("host-interface-down"));
        run("ip", &format!("link set {port} up"));
        run("ip", "link set cmb-blue down");
        assert_eq!(lab.cause(&web, &db).await, Some("bridge-down"));
        run("ip", "link set cmb-blue up");
        run("sysctl", "-qw net.ipv4.ip_forward=0");
        assert_eq!(lab.cause(&far, &db).await, Some("forwarding-off"));
        run("sysctl", "-qw net.ipv4.ip_forward=1");
        run("nft", "add table inet fw");
        run(
            "nft",
            "add chain inet fw forward { type filter hook forward priority 0 ; }",
        );
        run(
            "nft",
            "add rule inet fw forward ip daddr 10.211.1.0/24 tcp dport { 22, 5432 } reject",
        );
        assert_eq!(lab.cause(&far, &db).await, Some("firewall-drop"));
        run("nft", "delete table inet fw");
        run(
            "ip",
            "rule add to 10.211.1.0/24 iif cmb-red pref 100 blackhole",
        );
        assert_eq!(lab.cause(&far, &db).await, Some("host-route-missing"));
        run("ip", "rule del pref 100");
        assert_eq!(lab.cause(&far, &db).await, None);
    });
}

#[test]
fn causes_of_mapped_ports_and_services_are_named() {
    isolated_async(|| async {
        let lab = Lab::new(212);
        run("ip", "link add uplink type bridge");
        run("ip", "addr add 192.0.2.1/24 dev uplink");
        run("ip", "link set uplink up");
        run("ip", "route add default via 192.0.2.254");
        let db = lab.launch("db", "blue", &[], Some(31000)).await;
        let web = lab.launch("web", "red", &[], None).await;
        let _listener = db.listen("0.0.0.0:5432");
        let mapped: SocketAddr = "192.0.2.1:31000".parse().unwrap();
        let cause = async |from: &str, to: &str| lab.trace(from, to).await.cause;
        assert_eq!(cause("host", "192.0.2.1:31000").await, None);
        assert_eq!(cause("outside", "192.0.2.1:31000").await, None);
        assert_eq!(cause("web", "192.0.2.1:31000").await, None);
        assert!(connects(mapped) && web.connects(mapped));
        assert_eq!(cause("host", "192.0.2.1:31001").await, Some("no-listener"));
        // To somewhere else, as far as this host knows.
        let away = lab.trace("db", "198.51.100.7:443").await;
        assert_eq!(
            (away.verdict, away.cause),
            (Verdict::Leaves, None),
            "{away:#?}"
        );

        // A service, whose backend is the container.
        let frontend = Frontend {
            address: [198, 18, 0, 5].into(),
            protocol: 6,
            port: 80,
        };
        let apply = |backends: &[SocketAddr]| {
            let balance = Balance {
                backends: backends.to_vec(),
                has_affinity: false,
            };
            let policy = ServicePolicy {
                ranges: ["198.18.0.0/16".parse().unwrap()].into(),
                frontends: [(frontend, balance)].into(),
                ..ServicePolicy::default()
            };
            let mut table = ServiceTable::open().unwrap();
            table
                .apply(Some(&policy), Scope::All { removes: true })
                .unwrap();
        };
        apply(&[(db.address(), PORT).into()]);
        assert_eq!(cause("web", "198.18.0.5:80").await, None);
        assert!(web.connects("198.18.0.5:80".parse().unwrap()));
        apply(&[]);
        let without = cause("web", "198.18.0.5:80").await;
        assert_eq!(without, Some("service-without-backend"));
        assert!(!web.connects("198.18.0.5:80".parse().unwrap()));

        run("nft", "flush ruleset");
        for from in ["host", "outside", "web"] {
            let missing = cause(from, "192.0.2.1:31000").await;
            assert_eq!(missing, Some("port-mapping-missing"), "{from}");
        }
        assert!(!connects(mapped) && !web.connects(mapped));
        let untranslated = cause("db", "198.51.100.7:443").await;
        assert_eq!(untranslated, Some("masquerade-missing"));
        run("ip", "route del default");
        assert_eq!(
            cause("outside", "192.0.2.1:31000").await,
            Some("no-route-back")
        );
    });
}

/// What the node daemon makes of these containers.
fn group_policy(containers: &[(&Container, &str)]) -> GroupPolicy {
    let subnet = "10.213.3.0/24".parse().unwrap();
    let mut members: BTreeMap<MemberSet, BTreeSet<IpAddr>> = BTreeMap::new();
    for (container, group) in containers {
        let set = MemberSet::Group((*group).to_owned());
        members.entry(set).or_default().insert(container.address());
    }
    let protected = |(container, group): &(&Container, &str)| {
        let rules = ContainerRules {
            sources: [MemberSet::Group((*group).to_owned())].into(),
            ..ContainerRules::default()
        };
        let protected = ProtectedAddress {
            rules,
            admits_own_host: true,
        };
        (container.address(), protected)
    };
    let port = |(container, _): &(&Container, &str)| {
        let port = GuardedPort {
            mac: container.checkpoint.networks[0].intent.mac,
            addresses: [container.address()].into(),
        };
        (container.host_interface().to_owned(), port)
    };
    GroupPolicy {
        protected: [subnet].into(),
        guarded: [subnet].into(),
        isolating: [subnet].into(),
        nodes: [[10, 213, 3, 1].into()].into(),
        members,
        containers: containers.iter().map(protected).collect(),
        ports: containers.iter().map(port).collect(),
        ..GroupPolicy::default()
    }
}

#[test]
fn causes_of_groups_are_named_as_the_kernel_drops_them() {
    isolated_async(|| async {
        let lab = Lab::new(213);
        let web = lab.launch("web", "closed", &["front"], None).await;
        let db = lab.launch("db", "closed", &["back"], None).await;
        let app = lab.launch("app", "closed", &["back"], None).await;
        let other = lab.launch("other", "blue", &[], None).await;
        let _listener = db.listen("0.0.0.0:5432");
        assert_eq!(lab.cause(&app, &db).await, Some("group-rules-missing"));
        let apply = |containers: &[(&Container, &str)]| {
            let policy = group_policy(containers);
            GroupTables::open().unwrap().apply(&policy).unwrap();
        };
        apply(&[(&web, "front"), (&db, "back"), (&app, "back")]);
        assert_eq!(lab.cause(&app, &db).await, None);
        assert_eq!(lab.cause(&web, &db).await, Some("no-shared-group"));
        assert_eq!(lab.cause(&other, &db).await, Some("outside"));
        let trace = lab.trace("web", "db:5432").await;
        assert!(trace.drops["no-shared-group"] > 0, "{trace:#?}");
        let recent = &trace.recent_drops[0];
        assert_eq!(
            (recent.reason, recent.port),
            ("no-shared-group", Some(PORT))
        );
        assert_eq!(
            lab.trace("host", "db:5432").await.verdict,
            Verdict::Reachable
        );
        assert!(connects((db.address(), PORT).into()));

        // The node daemon is late.
        apply(&[(&web, "front"), (&db, "back"), (&app, "front")]);
        let late = lab.cause(&app, &db).await;
        assert_eq!(late, Some("group-policy-not-applied"));
        apply(&[(&web, "front"), (&app, "back")]);
        assert_eq!(lab.cause(&web, &db).await, Some("unknown-container"));
        apply(&[(&web, "front"), (&db, "back"), (&app, "back")]);

        // With an address of its own choice.
        app.run("ip", "addr add 10.213.3.77/32 dev eth0");
        app.run("ip", "route replace default via 10.213.3.1 src 10.213.3.77");
        app.run(
            "ip",
            "route replace 10.213.3.0/24 via 10.213.3.1 src 10.213.3.77",
        );
        assert_eq!(lab.cause(&app, &db).await, Some("spoofed-source"));
    });
}
