//! The provider on a host of its own, with a manager and a vRouter agent that do as they are told.
//! Needs root.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::config::{Deadlines, Network};
use crate::net::testing::{inside, isolated_async, link_names, namespace, run};
use crate::provider::AddressRequest;
use contrail_mesos_api::http::TlsOptions;
use contrail_mesos_api::http::scripted::{ReceivedRequest, Reply, ScriptedServer, ok};

const CONTAINER: &str = "660a305f-10e4-47fd-a5fc-50e48147423b";
/// Shares its first 11 characters with the other.
const SIBLING: &str = "660a305f-10e5-47fd-a5fc-50e48147423b";

/// What manager and vRouter agent have come to know, and in what order they were told.
#[derive(Default)]
struct Known {
    log: Vec<String>,
    /// By machine: uuids of the interfaces.
    made: HashMap<String, Vec<Uuid>>,
    registered: HashMap<String, Vec<Uuid>>,
    manager_is_away: bool,
    vrouter_is_away: bool,
    has_configuration: bool,
    refusal: Option<&'static str>,
}

type Shared = Arc<Mutex<Known>>;

fn address(place: usize) -> String {
    format!("10.0.{place}.7")
}

fn mac(uuid: Uuid) -> String {
    let bytes = uuid.as_bytes();
    format!(
        "02:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}",
        bytes[0], bytes[1], bytes[2], bytes[3], bytes[4]
    )
}

fn last(path: &str) -> String {
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

fn manager(shared: &Shared, asked: &ReceivedRequest) -> Reply {
    let mut known = shared.lock().unwrap();
    if known.manager_is_away {
        return Reply::Answer(503, json!({ "error": "no leader" }).to_string());
    }
    let machine = last(&asked.path);
    known.log.push(format!("manager {}", asked.method));
    if asked.method == "DELETE" {
        known.made.remove(&machine);
        return ok(&json!({}));
    }
    if let Some(refusal) = known.refusal {
        return Reply::Answer(400, json!({ "error": refusal }).to_string());
    }
    let uuid = |interface: &str| agent_api::interface_uuid(machine.parse().unwrap(), interface);
    let request = asked.json();
    let asked = request["ports"].as_array().unwrap();
    let ports: Vec<Value> = asked
        .iter()
        .enumerate()
        .map(|(place, port)| {
            let interface = port["interface"].as_str().unwrap();
            let mut addresses = vec![json!({
                "address": format!("{}/24", address(place)),
                "gateway": format!("10.0.{place}.254"),
                "dns": format!("10.0.{place}.253"),
            })];
            if place == 0 {
                addresses.push(json!({ "address": "fd00::7/72", "gateway": "fd00::1" }));
            }
            json!({
                "interface": interface, "uuid": uuid(interface), "mac": mac(uuid(interface)),
                "virtual_network": Uuid::from_u128(1), "virtual_network_name": "d:p:blue",
                "addresses": addresses,
            })
        })
        .collect();
    let uuids = asked
        .iter()
        .map(|port| uuid(port["interface"].as_str().unwrap()));
    let uuids = uuids.collect();
    known.made.insert(machine.clone(), uuids);
    ok(&json!({ "machine": machine, "ports": ports }))
}

fn vrouter(shared: &Shared, asked: &ReceivedRequest) -> Reply {
    let mut known = shared.lock().unwrap();
    if known.vrouter_is_away {
        return Reply::Close;
    }
    let machine = last(&asked.path);
    let not_found = Reply::Answer(404, json!({ "error": "{ Not Found }" }).to_string());
    let interface = |(place, uuid): (usize, &Uuid)| {
        json!({
            "id": uuid, "instance-id": machine, "vn-id": Uuid::from_u128(1), "vn-name": "d:p:blue",
            "mac-address": mac(*uuid), "sub-interface": false, "vlan-id": 65535,
            "system-name": "tap", "ip-address": address(place), "plen": 24,
            "dns-server": format!("10.0.{place}.253"), "gateway": format!("10.0.{place}.254"),
        })
    };
    let all = |uuids: &Vec<Uuid>| {
        ok(&json!(
            uuids.iter().enumerate().map(interface).collect::<Vec<_>>()
        ))
    };
    match (asked.method.as_str(), asked.path.as_str()) {
        ("POST", "/vm") => {
            known.log.push("vrouter POST".to_owned());
            let port = asked.json();
            let machine = port["vm-uuid"].as_str().unwrap().to_owned();
            let uuid = port["vmi-uuid"].as_str().unwrap().parse().unwrap();
            known.registered.entry(machine).or_default().push(uuid);
            ok(&json!({}))
        }
        ("DELETE", _) => {
            known.log.push("vrouter DELETE".to_owned());
            known.registered.remove(&machine);
            ok(&json!({}))
        }
        (_, path) if path.starts_with("/vm-cfg/") => match known.made.get(&machine) {
            Some(uuids) if known.has_configuration => all(uuids),
            _ => not_found,
        },
        _ => match (known.made.get(&machine), known.registered.get(&machine)) {
            (Some(made), Some(registered)) if made.iter().all(|uuid| registered.contains(uuid)) => {
                all(made)
            }
            _ => not_found,
        },
    }
}

struct Harness {
    provider: ContrailProvider,
    lost: UnboundedReceiver<Lost>,
    known: Shared,
    config: Config,
    _servers: (ScriptedServer, ScriptedServer),
    state: TempDir,
}

impl Harness {
    async fn new() -> Self {
        run("ip", "link set lo up");
        let known = Shared::default();
        known.lock().unwrap().has_configuration = true;
        let (one, two) = (Arc::clone(&known), Arc::clone(&known));
        let manager =
            ScriptedServer::start(move |asked: &ReceivedRequest, _| manager(&one, asked)).await;
        let vrouter =
            ScriptedServer::start(move |asked: &ReceivedRequest, _| vrouter(&two, asked)).await;
        let state = tempfile::tempdir().unwrap();
        let config = Config {
            state_dir: state.path().join("state"),
            netns_dir: state.path().join("netns"),
            deadlines: Deadlines::default(),
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
            cni_problems: vec![],
        };
        let (sender, lost) = unbounded_channel();
        Self {
            provider: ContrailProvider::new(&config, sender).unwrap(),
            lost,
            known,
            config,
            _servers: (manager, vrouter),
            state,
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap()
    }

    /// The agent was killed and comes back.
    fn restart(&mut self) {
        let (sender, lost) = unbounded_channel();
        self.provider = ContrailProvider::new(&self.config, sender).unwrap();
        self.lost = lost;
    }

    async fn intents(&self, container: &str, count: usize) -> Vec<Intent> {
        let mut intents = Vec::new();
        for place in 0..count {
            let request = request(container, place);
            self.provider.validate(&request).unwrap();
            intents.push(self.provider.reserve(&request).await.unwrap());
        }
        intents
    }

    async fn attach(
        &self,
        intents: &[Intent],
        namespace: &OwnedFd,
    ) -> Result<Vec<Attachment>, String> {
        let intents: Vec<&Intent> = intents.iter().collect();
        self.provider.start(&intents);
        self.provider
            .attach_all(&intents, namespace.as_fd())
            .await
            .map_err(|errors| errors[0].to_string())
    }

    async fn detach(&self, intents: &[Intent]) {
        let intents: Vec<&Intent> = intents.iter().collect();
        self.provider.detach_all(&intents).await.unwrap();
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
        let known = self.known();
        assert!(known.made.is_empty() && known.registered.is_empty());
        assert!(self.provider.inner.as_ref().unwrap().machines().is_empty());
    }
}

fn request(container: &str, place: usize) -> NetworkRequest {
    NetworkRequest {
        container: ContainerId::top_level(container),
        interface: format!("eth{place}"),
        network: Network {
            name: format!("contrail-{place}"),
            dns: None,
            provider: NetworkProvider::Contrail(ContrailNetwork {
                virtual_network: None,
                mtu: 1400,
            }),
        },
        addresses: vec![AddressRequest::Any],
        ports: vec![],
        labels: BTreeMap::new(),
        info: crate::proto::mesos::NetworkInfo::default(),
    }
}

#[test]
fn a_container_is_plugged_and_unplugged_in_the_right_order() {
    isolated_async(|| async {
        let host = Harness::new().await;
        let container = namespace();
        let intents = host.intents(CONTAINER, 2).await;
        let made = host.attach(&intents, &container).await.unwrap();
        assert_eq!(made[0].addresses[0].to_string(), "10.0.0.7/24");
        // The vRouter agent knows no prefix of IPv6; the manager does.
        assert_eq!(made[0].addresses[1].to_string(), "fd00::7/72");
        assert_eq!(made[1].addresses[0].to_string(), "10.0.1.7/24");
        let nameserver: std::net::IpAddr = "10.0.0.253".parse().unwrap();
        assert_eq!(made[0].dns.nameservers, [nameserver]);
        assert_eq!(made[0].gateways.len(), 2);
        let text = inside(&container, || run("ip", "addr") + &run("ip", "route"));
        for what in [
            "10.0.0.7/24",
            "10.0.1.7/24",
            "fd00::7/72",
            "default via 10.0.0.254 dev eth0",
            "default via 10.0.1.254 dev eth1 proto static metric",
            "mtu 1400",
            &made[0].mac.to_string(),
        ] {
            assert!(text.contains(what), "{what} is not in {text}");
        }
        let machine = agent_api::vm_uuid(&ContainerId::top_level(CONTAINER));
        assert_eq!(machine.to_string(), CONTAINER);
        let file = std::fs::read_dir(host.ports().join(CONTAINER)).unwrap();
        assert_eq!(file.count(), 2);
        let again = host.attach(&intents, &container).await.unwrap_err();
        assert!(again.contains("attached already"), "{again}");
        host.detach(&intents).await;
        let log = host.known().log.clone();
        assert_eq!(
            log.iter().rev().take(2).rev().collect::<Vec<_>>(),
            ["vrouter DELETE", "manager DELETE"]
        );
        host.detach(&intents).await;
        host.assert_clean();
    });
}

#[test]
fn containers_whose_ids_share_a_prefix_stand_side_by_side() {
    isolated_async(|| async {
        let host = Harness::new().await;
        let (one, two) = (namespace(), namespace());
        let ours = host.intents(CONTAINER, 1).await;
        let theirs = host.intents(SIBLING, 1).await;
        let nested = ContainerId::top_level(CONTAINER).nested("a");
        assert_ne!(agent_api::vm_uuid(&nested).to_string(), CONTAINER);
        let (first, second) = tokio::join!(host.attach(&ours, &one), host.attach(&theirs, &two));
        first.unwrap();
        second.unwrap();
        assert_eq!(link_names().len(), 2);
        host.detach(&ours).await;
        assert_eq!(link_names().len(), 1);
        host.detach(&theirs).await;
        host.assert_clean();
    });
}

#[test]
fn what_fails_says_why_and_leaves_nothing() {
    isolated_async(|| async {
        let host = Harness::new().await;
        let container = namespace();
        let intents = host.intents(CONTAINER, 1).await;
        host.known().refusal = Some("there is no network \"blu\"; there are: blue");
        let error = host.attach(&intents, &container).await.unwrap_err();
        assert!(error.contains("there are: blue"), "{error}");
        host.detach(&intents).await;
        host.known().refusal = None;

        host.known().has_configuration = false;
        let error = host.attach(&intents, &container).await.unwrap_err();
        assert!(error.contains("virtual-router object"), "{error}");
        host.detach(&intents).await;
        host.known().has_configuration = true;

        host.known().vrouter_is_away = true;
        let error = host.attach(&intents, &container).await.unwrap_err();
        assert!(error.contains("vRouter agent at 127.0.0.1"), "{error}");
        host.known().vrouter_is_away = false;
        host.detach(&intents).await;

        host.known().manager_is_away = true;
        let error = host.attach(&intents, &container).await.unwrap_err();
        assert!(error.contains("no leader"), "{error}");
        host.known().manager_is_away = false;
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
        let errors = host.provider.validate(&mapped).unwrap_err();
        assert!(errors[0].to_string().contains("floating"), "{errors:?}");
    });
}

#[test]
fn what_nobody_was_there_to_be_told_is_told_later() {
    isolated_async(|| async {
        for vrouter in [false, true] {
            let mut host = Harness::new().await;
            let container = namespace();
            let intents = host.intents(CONTAINER, 1).await;
            host.attach(&intents, &container).await.unwrap();
            {
                let mut known = host.known();
                known.manager_is_away = !vrouter;
                known.vrouter_is_away = vrouter;
            }
            tokio::time::pause();
            host.detach(&intents).await;
            tokio::time::resume();
            // What is here is gone, and what is there is not forgotten.
            assert_eq!(link_names(), Vec::<String>::new());
            assert_eq!(host.pending_teardowns(), 1);
            // Objects are not removed before the vRouter agent was told.
            assert_eq!(host.known().made.len(), 1);
            host.restart();
            {
                let mut known = host.known();
                known.manager_is_away = false;
                known.vrouter_is_away = false;
            }
            host.provider
                .inner
                .as_ref()
                .unwrap()
                .retry_pending_teardowns()
                .await;
            host.assert_clean();
            // A container of the same id finds nothing of the old one.
            host.attach(&intents, &namespace()).await.unwrap();
            host.detach(&intents).await;
            host.assert_clean();
        }
    });
}

#[test]
fn a_restarted_agent_takes_containers_over_and_sweeps_the_rest() {
    isolated_async(|| async {
        let mut host = Harness::new().await;
        let (one, two) = (namespace(), namespace());
        let intents = host.intents(CONTAINER, 2).await;
        let orphan = host.intents(SIBLING, 1).await;
        host.attach(&intents, &one).await.unwrap();
        host.attach(&orphan, &two).await.unwrap();
        host.restart();
        host.known().registered.clear();
        for intent in &intents {
            host.provider.adopt(intent).await.unwrap();
        }
        host.provider
            .sweep(&intents, &HashSet::new())
            .await
            .unwrap();
        host.provider
            .inner
            .as_ref()
            .unwrap()
            .retry_pending_teardowns()
            .await;
        assert_eq!(link_names().len(), 2, "the orphan's link stayed");
        assert!(!host.known().made.contains_key(SIBLING));
        let machine = intents[0].container.value().to_owned();
        let inner = Arc::clone(host.provider.inner.as_ref().unwrap());
        for _ in 0..500 {
            if host
                .known()
                .registered
                .get(&machine)
                .is_some_and(|ports| ports.len() >= 2)
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // A vRouter agent that lost everything, port files included, is told again.
        host.known().registered.clear();
        std::fs::remove_dir_all(host.ports()).unwrap();
        assert!(inner.probe(0, false).await || !host.known().registered.is_empty());
        assert_eq!(host.known().registered[&machine].len(), 2);
        let link = own(&intents[1]).unwrap().host_interface.clone();
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
fn without_a_table_contrail_networks_say_what_to_do() {
    isolated_async(|| async {
        let mut host = Harness::new().await;
        host.config.contrail = None;
        host.restart();
        let errors = host.provider.validate(&request(CONTAINER, 0)).unwrap_err();
        assert!(errors[0].to_string().contains("restart the agent"));
        assert!(host.provider.sweep(&[], &HashSet::new()).await.is_ok());
    });
}
