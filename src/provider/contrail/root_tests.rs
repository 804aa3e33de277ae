//! The provider on a host of its own, with a scripted manager and vRouter agent. Needs root.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::MutexGuard;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::config::{Contrail, Deadlines, Network, NetworkProvider};
use crate::net::testing::{inside, isolated_async, link_names, namespace, run};
use crate::provider::AddressRequest;
use contrail_mesos_api::cluster::Membership;
use contrail_mesos_api::http::TlsOptions;
use contrail_mesos_api::http::scripted::{ReceivedRequest, Reply, ScriptedServer, ok};

const CONTAINER: &str = "660a305f-10e4-47fd-a5fc-50e48147423b";
/// Shares its first 11 characters with `CONTAINER`.
const SIBLING: &str = "660a305f-10e5-47fd-a5fc-50e48147423b";

/// The state of the manager and the vRouter agent, and the order of the calls.
#[derive(Default)]
struct Peers {
    calls: Vec<String>,
    /// Uuids of the created interfaces, by virtual machine.
    created: HashMap<String, Vec<Uuid>>,
    registered: HashMap<String, Vec<Uuid>>,
    manager_is_away: bool,
    vrouter_is_away: bool,
    /// How many registrations failed because it was away.
    failed_registrations: usize,
    has_configuration: bool,
    refusal: Option<&'static str>,
}

type SharedPeers = Arc<Mutex<Peers>>;

fn address(index: usize) -> String {
    format!("10.0.{index}.7")
}

fn mac(uuid: Uuid) -> String {
    let bytes = uuid.as_bytes();
    format!(
        "02:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}",
        bytes[0], bytes[1], bytes[2], bytes[3], bytes[4]
    )
}

fn last_segment(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

fn manager(peers: &SharedPeers, request: &ReceivedRequest) -> Reply {
    let mut peers = peers.lock().unwrap();
    if peers.manager_is_away {
        return Reply::Answer(503, json!({ "error": "no leader" }).to_string());
    }
    let vm_uuid = last_segment(&request.path);
    peers.calls.push(format!("manager {}", request.method));
    if request.method == "DELETE" {
        peers.created.remove(&vm_uuid);
        return ok(&json!({}));
    }
    if request.method == "GET" {
        let complete = peers.created.keys();
        let complete: Vec<_> = complete
            .map(|machine| json!({ "machine": machine, "ports": [] }))
            .collect();
        return ok(&json!({ "containers": complete }));
    }
    if let Some(refusal) = peers.refusal {
        return Reply::Answer(400, json!({ "error": refusal }).to_string());
    }
    let uuid = |interface: &str| agent_api::interface_uuid(vm_uuid.parse().unwrap(), interface);
    let json = request.json();
    let requested = json["ports"].as_array().unwrap();
    let ports: Vec<Value> = requested
        .iter()
        .enumerate()
        .map(|(index, port)| {
            let interface = port["interface"].as_str().unwrap();
            let mut addresses = vec![json!({
                "address": format!("{}/24", address(index)),
                "gateway": format!("10.0.{index}.254"),
                "dns": format!("10.0.{index}.253"),
            })];
            if index == 0 {
                addresses.push(json!({ "address": "fd00::7/72", "gateway": "fd00::1" }));
            }
            json!({
                "interface": interface, "uuid": uuid(interface), "mac": mac(uuid(interface)),
                "virtual_network": Uuid::from_u128(1), "virtual_network_name": "d:p:blue",
                "addresses": addresses,
            })
        })
        .collect();
    let uuids = requested
        .iter()
        .map(|port| uuid(port["interface"].as_str().unwrap()));
    let uuids = uuids.collect();
    peers.created.insert(vm_uuid.clone(), uuids);
    ok(&json!({ "machine": vm_uuid, "ports": ports }))
}

fn vrouter(peers: &SharedPeers, request: &ReceivedRequest) -> Reply {
    let mut peers = peers.lock().unwrap();
    if peers.vrouter_is_away {
        peers.failed_registrations += usize::from(request.method == "POST");
        return Reply::Close;
    }
    let vm_uuid = last_segment(&request.path);
    let not_found = Reply::Answer(404, json!({ "error": "{ Not Found }" }).to_string());
    let interface = |(index, uuid): (usize, &Uuid)| {
        json!({
            "v6-ip-address": (index == 0).then_some("fd00::7"),
            "id": uuid, "instance-id": vm_uuid, "vn-id": Uuid::from_u128(1), "vn-name": "d:p:blue",
            "mac-address": mac(*uuid), "sub-interface": false, "vlan-id": 65535,
            "system-name": "tap", "ip-address": address(index), "plen": 24,
            "dns-server": format!("10.0.{index}.253"), "gateway": format!("10.0.{index}.254"),
        })
    };
    let all = |uuids: &Vec<Uuid>| {
        ok(&json!(
            uuids.iter().enumerate().map(interface).collect::<Vec<_>>()
        ))
    };
    match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/vm") => {
            peers.calls.push("vrouter POST".to_owned());
            let port = request.json();
            let vm_uuid = port["vm-uuid"].as_str().unwrap().to_owned();
            let uuid = port["vmi-uuid"].as_str().unwrap().parse().unwrap();
            peers.registered.entry(vm_uuid).or_default().push(uuid);
            ok(&json!({}))
        }
        ("DELETE", _) => {
            peers.calls.push("vrouter DELETE".to_owned());
            // The agent finds the ports by their configuration.
            if peers.has_configuration && peers.created.contains_key(&vm_uuid) {
                peers.registered.remove(&vm_uuid);
            }
            ok(&json!({}))
        }
        (_, path) if path.starts_with("/vm-cfg/") => match peers.created.get(&vm_uuid) {
            Some(uuids) if peers.has_configuration => all(uuids),
            _ => not_found,
        },
        _ => match (peers.created.get(&vm_uuid), peers.registered.get(&vm_uuid)) {
            (Some(made), Some(registered)) if made.iter().all(|uuid| registered.contains(uuid)) => {
                all(made)
            }
            _ => not_found,
        },
    }
}

struct TestHost {
    provider: ContrailProvider,
    lost: UnboundedReceiver<LostInterface>,
    peers: SharedPeers,
    config: Config,
    _servers: (ScriptedServer, ScriptedServer),
    state: TempDir,
}

impl TestHost {
    async fn new() -> Self {
        run("ip", "link set lo up");
        let peers = SharedPeers::default();
        peers.lock().unwrap().has_configuration = true;
        let (for_manager, for_vrouter) = (Arc::clone(&peers), Arc::clone(&peers));
        let manager = ScriptedServer::start(move |request: &ReceivedRequest, _| {
            manager(&for_manager, request)
        })
        .await;
        let vrouter = ScriptedServer::start(move |request: &ReceivedRequest, _| {
            vrouter(&for_vrouter, request)
        })
        .await;
        let state = tempfile::tempdir().unwrap();
        let config = Config {
            state_dir: state.path().join("state"),
            netns_dir: state.path().join("netns"),
            deadlines: Deadlines::default(),
            allowed_ports: crate::config::AllowedPorts::default(),
            dns: None,
            contrail: Some(Contrail {
                managers: vec![agent_api::manager_address(&manager.address.to_string()).unwrap()],
                agent: "node-1".to_owned(),
                virtual_router_address: None,
                token_file: None,
                tls: TlsOptions::default(),
                vrouter_host: "127.0.0.1".to_owned(),
                vrouter_port: vrouter.address.port(),
                port_directory: state.path().join("ports"),
                deadline: Duration::from_secs(2),
                vif: Vif::Veth,
                sync_ports: false,
            }),
            networks: vec![],
            cni: None,
            node: Config::default().node,
            cni_problems: vec![],
            cni_ignored: vec![],
        };
        let (sender, lost) = unbounded_channel();
        Self {
            provider: ContrailProvider::new(&config, sender).unwrap(),
            lost,
            peers,
            config,
            _servers: (manager, vrouter),
            state,
        }
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap()
    }

    /// Restarts the agent after a kill.
    fn restart(&mut self) {
        let (sender, lost) = unbounded_channel();
        self.provider = ContrailProvider::new(&self.config, sender).unwrap();
        self.lost = lost;
    }

    async fn intents(&self, container: &str, count: usize) -> Vec<Intent<ContrailIntent>> {
        let mut intents = Vec::new();
        for index in 0..count {
            let request = request(container, index);
            self.provider.validate(&request, &NETWORK).unwrap();
            intents.push(self.provider.reserve(&request, &NETWORK).await.unwrap());
        }
        intents
    }

    async fn attach(
        &self,
        intents: &[Intent<ContrailIntent>],
        namespace: &OwnedFd,
    ) -> Result<Vec<Attachment>, String> {
        self.provider.start(intents);
        self.provider
            .attach_all(intents, namespace.as_fd())
            .await
            .map_err(|errors| errors.to_string())
    }

    async fn detach(&self, intents: &[Intent<ContrailIntent>]) {
        self.provider.detach_all(intents).await.unwrap();
    }

    fn ports(&self) -> &Path {
        &self.config.contrail.as_ref().unwrap().port_directory
    }

    fn pending_teardowns(&self) -> usize {
        let directory = self.state.path().join("state/contrail/pending-teardown");
        std::fs::read_dir(directory).map_or(0, Iterator::count)
    }

    fn assert_clean(&self) {
        assert_eq!(link_names(), Vec::<String>::new());
        let files = std::fs::read_dir(self.ports()).map_or(0, Iterator::count);
        assert_eq!((files, self.pending_teardowns()), (0, 0));
        let peers = self.peers();
        assert!(peers.created.is_empty() && peers.registered.is_empty());
        assert!(
            self.provider
                .driver
                .as_ref()
                .unwrap()
                .containers()
                .is_empty()
        );
    }
}

const NETWORK: ContrailNetwork = ContrailNetwork {
    virtual_network: None,
    mtu: 1400,
};

fn request(container: &str, index: usize) -> NetworkRequest {
    NetworkRequest {
        container: ContainerId::top_level(container),
        interface: format!("eth{index}"),
        network: Network {
            name: format!("contrail-{index}"),
            dns: None,
            provider: NetworkProvider::Contrail(NETWORK),
        },
        addresses: vec![AddressRequest::Any],
        ports: vec![],
        membership: Membership::default(),
        labels: BTreeMap::new(),
        info: crate::proto::mesos::NetworkInfo::default(),
    }
}

#[test]
fn attach_and_detach_call_the_peers_in_order() {
    isolated_async(|| async {
        let host = TestHost::new().await;
        let container = namespace();
        let intents = host.intents(CONTAINER, 2).await;
        let made = host.attach(&intents, &container).await.unwrap();
        assert_eq!(made[0].addresses[0].to_string(), "10.0.0.7/24");
        // Only the manager reports the prefix of IPv6.
        assert_eq!(made[0].addresses[1].to_string(), "fd00::7/72");
        assert_eq!(made[1].addresses[0].to_string(), "10.0.1.7/24");
        let nameserver: std::net::IpAddr = "10.0.0.253".parse().unwrap();
        assert_eq!(made[0].dns.nameservers, [nameserver]);
        assert_eq!(made[0].gateways.len(), 2);
        let output = inside(&container, || run("ip", "addr") + &run("ip", "route"));
        for expected in [
            "10.0.0.7/24",
            "10.0.1.7/24",
            "fd00::7/72",
            "default via 10.0.0.254 dev eth0",
            "mtu 1400",
            &made[0].mac.to_string(),
        ] {
            assert!(output.contains(expected), "{expected} is not in {output}");
        }
        // Only the first network has default routes.
        assert_eq!(output.matches("default via").count(), 1, "{output}");
        let vm_uuid = agent_api::vm_uuid(&ContainerId::top_level(CONTAINER));
        assert_eq!(vm_uuid.to_string(), CONTAINER);
        let file = std::fs::read_dir(host.ports().join(CONTAINER)).unwrap();
        assert_eq!(file.count(), 2);
        let again = host.attach(&intents, &container).await.unwrap_err();
        assert!(again.contains("attached already"), "{again}");
        host.detach(&intents).await;
        let calls = host.peers().calls.clone();
        assert_eq!(
            calls.iter().rev().take(2).rev().collect::<Vec<_>>(),
            ["vrouter DELETE", "manager DELETE"]
        );
        host.detach(&intents).await;
        host.assert_clean();
    });
}

#[test]
fn containers_whose_ids_share_a_prefix_do_not_collide() {
    isolated_async(|| async {
        let host = TestHost::new().await;
        let (one, two) = (namespace(), namespace());
        let first_intents = host.intents(CONTAINER, 1).await;
        let second_intents = host.intents(SIBLING, 1).await;
        let nested = ContainerId::top_level(CONTAINER).nested("a");
        assert_ne!(agent_api::vm_uuid(&nested).to_string(), CONTAINER);
        let (first, second) = tokio::join!(
            host.attach(&first_intents, &one),
            host.attach(&second_intents, &two)
        );
        first.unwrap();
        second.unwrap();
        assert_eq!(link_names().len(), 2);
        host.detach(&first_intents).await;
        assert_eq!(link_names().len(), 1);
        host.detach(&second_intents).await;
        host.assert_clean();
    });
}

#[test]
fn failed_attach_reports_the_reason_and_leaves_nothing() {
    isolated_async(|| async {
        let host = TestHost::new().await;
        let container = namespace();
        let intents = host.intents(CONTAINER, 1).await;
        host.peers().refusal = Some("there is no network \"blu\"; there are: blue");
        let error = host.attach(&intents, &container).await.unwrap_err();
        assert!(error.contains("there are: blue"), "{error}");
        host.detach(&intents).await;
        host.peers().refusal = None;

        host.peers().has_configuration = false;
        let error = host.attach(&intents, &container).await.unwrap_err();
        assert!(error.contains("virtual-router object"), "{error}");
        host.detach(&intents).await;
        host.peers().has_configuration = true;

        host.peers().vrouter_is_away = true;
        let error = host.attach(&intents, &container).await.unwrap_err();
        assert!(error.contains("vRouter agent at 127.0.0.1"), "{error}");
        host.peers().vrouter_is_away = false;
        host.detach(&intents).await;

        host.peers().manager_is_away = true;
        let error = host.attach(&intents, &container).await.unwrap_err();
        assert!(error.contains("no leader"), "{error}");
        host.peers().manager_is_away = false;
        host.detach(&intents).await;

        inside(&container, || run("ip", "link add eth0 type bridge"));
        let error = host.attach(&intents, &container).await.unwrap_err();
        assert!(error.contains("has an interface eth0 already"), "{error}");
        host.detach(&intents).await;
        host.assert_clean();

        let mut mapped = request(CONTAINER, 0);
        mapped.ports = vec![crate::provider::PortMapping {
            host_port: 80,
            container_port: 80,
            protocol: crate::provider::Protocol::Tcp,
        }];
        let errors = host.provider.validate(&mapped, &NETWORK).unwrap_err();
        assert!(errors.to_string().contains("floating"), "{errors:?}");
    });
}

#[test]
fn teardown_is_retried_when_a_peer_was_away() {
    isolated_async(|| async {
        for vrouter_is_away in [false, true] {
            let mut host = TestHost::new().await;
            let container = namespace();
            let intents = host.intents(CONTAINER, 1).await;
            host.attach(&intents, &container).await.unwrap();
            {
                let mut peers = host.peers();
                peers.manager_is_away = !vrouter_is_away;
                peers.vrouter_is_away = vrouter_is_away;
            }
            tokio::time::pause();
            host.detach(&intents).await;
            tokio::time::resume();
            // The host is clean, and the teardown is pending.
            assert_eq!(link_names(), Vec::<String>::new());
            assert_eq!(host.pending_teardowns(), 1);
            // Objects are not deleted before the vRouter agent has unregistered the ports.
            assert_eq!(host.peers().created.len(), 1);
            host.restart();
            let pending = host.provider.pending_teardowns();
            let containers: Vec<_> = pending.iter().map(|one| one.container.clone()).collect();
            assert_eq!(containers, [Some(ContainerId::top_level(CONTAINER))]);
            tokio::time::pause();
            host.provider.retry_teardown(&pending[0]).await.unwrap_err();
            tokio::time::resume();
            assert_eq!(host.provider.pending_teardowns(), pending);
            {
                let mut peers = host.peers();
                peers.manager_is_away = false;
                peers.vrouter_is_away = false;
            }
            host.provider.retry_teardown(&pending[0]).await.unwrap();
            assert_eq!(host.provider.pending_teardowns(), []);
            // Another attempt has nothing to do.
            host.provider.retry_teardown(&pending[0]).await.unwrap();
            host.assert_clean();
            // The old container does not affect a new one with the same id.
            let container = namespace();
            host.attach(&intents, &container).await.unwrap();
            host.detach(&intents).await;
            host.assert_clean();
        }
    });
}

#[test]
fn teardown_waits_until_a_restarted_vrouter_agent_has_the_configuration() {
    isolated_async(|| async {
        let host = TestHost::new().await;
        let intents = host.intents(CONTAINER, 2).await;
        let container = namespace();
        host.attach(&intents, &container).await.unwrap();
        host.peers().has_configuration = false;
        host.detach(&intents).await;
        assert_eq!(link_names(), Vec::<String>::new());
        assert_eq!(host.pending_teardowns(), 1);
        // Without the objects the configuration would never arrive.
        assert_eq!(host.peers().created.len(), 1);
        let pending = host.provider.pending_teardowns();
        let error = host.provider.retry_teardown(&pending[0]).await.unwrap_err();
        assert!(error.to_string().contains("configuration"), "{error}");
        host.peers().has_configuration = true;
        host.provider.retry_teardown(&pending[0]).await.unwrap();
        host.assert_clean();

        // The agent unregistered it, and the manager deleted the objects, before a kill.
        let container = namespace();
        host.attach(&intents, &container).await.unwrap();
        host.peers().created.clear();
        host.peers().registered.clear();
        host.detach(&intents).await;
        host.assert_clean();

        // It may never arrive.
        let container = namespace();
        host.attach(&intents, &container).await.unwrap();
        host.peers().has_configuration = false;
        host.detach(&intents).await;
        let pending = host.provider.pending_teardowns();
        tokio::time::pause();
        tokio::time::advance(Duration::from_mins(2)).await;
        tokio::time::resume();
        host.provider.retry_teardown(&pending[0]).await.unwrap();
        assert_eq!(host.provider.pending_teardowns(), []);
        assert_eq!(host.peers().created.len(), 0);
    });
}

#[test]
fn restart_adopts_known_containers_and_sweeps_orphans() {
    isolated_async(|| async {
        let mut host = TestHost::new().await;
        let (one, two) = (namespace(), namespace());
        let intents = host.intents(CONTAINER, 2).await;
        let orphan = host.intents(SIBLING, 1).await;
        host.attach(&intents, &one).await.unwrap();
        host.attach(&orphan, &two).await.unwrap();
        host.restart();
        host.peers().registered.clear();
        for intent in &intents {
            host.provider.adopt(intent).await.unwrap();
        }
        host.provider
            .sweep(&intents, &HashSet::new())
            .await
            .unwrap();
        host.provider
            .driver
            .as_ref()
            .unwrap()
            .retry_pending_teardowns()
            .await;
        assert_eq!(link_names().len(), 2, "the orphan's link was not removed");
        assert!(!host.peers().created.contains_key(SIBLING));
        let vm_uuid = intents[0].container.value().to_owned();
        let driver = Arc::clone(host.provider.driver.as_ref().unwrap());
        for _ in 0..500 {
            if host
                .peers()
                .registered
                .get(&vm_uuid)
                .is_some_and(|ports| ports.len() >= 2)
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // A vRouter agent that lost its state and the port files gets the registrations again.
        host.peers().registered.clear();
        std::fs::remove_dir_all(host.ports()).unwrap();
        assert!(driver.probe_agent(0, false).await || !host.peers().registered.is_empty());
        assert_eq!(host.peers().registered[&vm_uuid].len(), 2);
        let link = intents[1].provider.host_interface.clone();
        run("ip", &format!("link del {link}"));
        let lost = tokio::time::timeout(Duration::from_secs(10), host.lost.recv()).await;
        let lost = lost.unwrap().unwrap();
        assert!(lost.message.contains(&link), "{}", lost.message);
        assert!(host.provider.adopt(&intents[1]).await.is_err());
        host.detach(&intents).await;
        host.assert_clean();
    });
}

#[test]
fn strays_are_named_and_removed_beside_a_container() {
    isolated_async(|| async {
        let host = TestHost::new().await;
        let (one, two) = (namespace(), namespace());
        let intents = host.intents(CONTAINER, 1).await;
        let orphan = host.intents(SIBLING, 1).await;
        host.attach(&intents, &one).await.unwrap();
        host.attach(&orphan, &two).await.unwrap();
        let scope = |intents: &[Intent<ContrailIntent>]| {
            let intents = intents.to_vec();
            move || {
                Ok(SweepScope {
                    intents,
                    others: HashSet::new(),
                })
            }
        };
        let all = [intents.clone(), orphan.clone()].concat();
        assert_eq!(host.provider.strays(scope(&all)).unwrap(), []);
        let strays = host.provider.strays(scope(&intents)).unwrap();
        let names: Vec<_> = strays
            .iter()
            .map(|stray| (stray.kind, stray.object.clone()))
            .collect();
        let provider = &orphan[0].provider;
        assert_eq!(
            names,
            [
                (StrayKind::Interface, provider.host_interface.clone()),
                (StrayKind::PortFiles, provider.vm_uuid.to_string()),
            ]
        );
        assert!(strays[0].names(SIBLING));
        let of_contrail = || {
            let strays = strays.iter().map(|stray| match &stray.origin {
                StrayOrigin::Contrail(stray) => stray.clone(),
                other => panic!("{other:?}"),
            });
            strays.collect::<Vec<_>>()
        };
        // By then, a container has them.
        let kept = host.provider.remove_strays(of_contrail(), scope(&all));
        kept.await.unwrap();
        assert_eq!(link_names().len(), 2);
        let removed = host.provider.remove_strays(of_contrail(), scope(&intents));
        removed.await.unwrap();
        assert_eq!(link_names(), [intents[0].provider.host_interface.clone()]);
        assert!(!host.peers().created.contains_key(SIBLING));
        assert!(host.peers().created.contains_key(CONTAINER));
        assert_eq!(host.provider.strays(scope(&intents)).unwrap(), []);
        host.detach(&intents).await;
        host.detach(&orphan).await;
        host.assert_clean();
    });
}

#[test]
fn detach_ends_the_registration_of_each_adopted_network() {
    isolated_async(|| async {
        let mut host = TestHost::new().await;
        let intents = host.intents(CONTAINER, 2).await;
        let container = namespace();
        host.attach(&intents, &container).await.unwrap();
        host.restart();
        host.peers().vrouter_is_away = true;
        host.provider.adopt(&intents[0]).await.unwrap();
        while host.peers().failed_registrations == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // The first registration goes on for some seconds.
        host.provider.adopt(&intents[1]).await.unwrap();
        host.peers().vrouter_is_away = false;
        host.detach(&intents).await;
        let driver = Arc::clone(host.provider.driver.as_ref().unwrap());
        // The provider's and this one: no registration runs any more.
        while Arc::strong_count(&driver) > 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        host.assert_clean();
    });
}

#[test]
fn inspection_names_what_is_wrong() {
    isolated_async(|| async {
        let host = TestHost::new().await;
        let container = namespace();
        let intents = host.intents(CONTAINER, 2).await;
        let made = host.attach(&intents, &container).await.unwrap();
        let findings = async |index: usize| {
            let namespace = Some(container.as_fd());
            let (intent, attachment) = (&intents[index], Some(&made[index]));
            let findings = host.provider.inspect(intent, attachment, namespace).await;
            findings.join("\n")
        };
        for index in 0..2 {
            assert_eq!(findings(index).await, "");
        }
        let tap = &intents[1].provider.host_interface;
        run("ip", &format!("link set {tap} down"));
        assert_eq!(findings(1).await, format!("the host's end {tap} is down"));
        run("ip", &format!("link set {tap} up"));
        inside(&container, || run("ip", "addr flush dev eth1"));
        let text = findings(1).await;
        assert!(
            text.contains("eth1 lacks the address 10.0.1.7/24"),
            "{text}"
        );
        std::fs::remove_dir_all(host.ports()).unwrap();
        host.peers().registered.clear();
        let text = findings(0).await;
        for expected in [
            "the port file is gone",
            "does not forward 10.0.0.7",
            "fd00::7",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        host.peers().vrouter_is_away = true;
        let text = findings(0).await;
        assert!(text.contains("vRouter agent"), "{text}");
        host.peers().vrouter_is_away = false;
        host.detach(&intents).await;
    });
}

#[test]
fn missing_contrail_table_is_reported() {
    isolated_async(|| async {
        let mut host = TestHost::new().await;
        host.config.contrail = None;
        host.restart();
        let errors = host
            .provider
            .validate(&request(CONTAINER, 0), &NETWORK)
            .unwrap_err();
        assert!(errors.to_string().contains("restart the agent"));
        assert!(host.provider.sweep(&[], &HashSet::new()).await.is_ok());
    });
}

#[test]
fn another_instance_removes_nothing_of_a_container() {
    isolated_async(|| async {
        let host = TestHost::new().await;
        let container = namespace();
        let intents = host.intents(CONTAINER, 2).await;
        host.attach(&intents, &container).await.unwrap();
        let config = Config {
            state_dir: host.state.path().join("other"),
            ..host.config.clone()
        };
        let (sender, _lost) = unbounded_channel();
        let other = ContrailProvider::new(&config, sender).unwrap();
        let error = other.check_unused(&request(CONTAINER, 1)).unwrap_err();
        assert!(error.to_string().contains("attached already"), "{error}");
        // As if it had not checked.
        let links = link_names();
        other.detach_all(&intents).await.unwrap();
        other.remove_container(&intents[0].container).await.unwrap();
        assert_eq!(link_names(), links);
        assert_eq!(host.peers().created.len(), 1);
        assert_eq!(host.peers().registered.len(), 1);
        assert_eq!(pending_containers(&config.state_dir).unwrap(), [""; 0]);
        host.detach(&intents).await;
        host.assert_clean();
    });
}

#[test]
fn container_without_intent_is_torn_down_by_its_id() {
    isolated_async(|| async {
        let mut host = TestHost::new().await;
        let intents = host.intents(CONTAINER, 2).await;
        let container = namespace();
        host.attach(&intents, &container).await.unwrap();
        host.restart();
        host.peers().manager_is_away = true;
        tokio::time::pause();
        host.provider
            .remove_container(&intents[0].container)
            .await
            .unwrap();
        tokio::time::resume();
        assert_eq!(
            pending_containers(&host.config.state_dir).unwrap(),
            [CONTAINER]
        );
        host.peers().manager_is_away = false;
        host.provider
            .driver
            .as_ref()
            .unwrap()
            .retry_pending_teardowns()
            .await;
        host.assert_clean();
    });
}
