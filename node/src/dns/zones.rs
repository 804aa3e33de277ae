//! What the names of our zones have, from the cluster's state and from what the data path has.
//!
//! Names are looked up in the maps of the state themselves, so a change costs nothing here. Only the
//! owners of addresses and the names between others are put together, beside the queries, in
//! [`Derived`].
//!
//! Invariant: a service is answered while it is in the cluster's state and its data path is in place.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use contrail_mesos_api::cluster::{
    Service, ServiceKey, ServiceProtocol, TaskInstance, TaskName, Vip,
};

use super::names::{OwnName, Place, TaskAddresses};
use crate::cluster_state::{ClusterState, Services, TaskNames};
use crate::services::AppliedServices;

/// The label of the name of one task's addresses begins with it.
const INSTANCE_PREFIX: &str = "ip-";
/// The most targets of one SRV answer: more do not fit into a message.
const MAX_TARGETS: usize = 1000;
/// The name of this server in each of our domains.
pub(crate) const SERVER_LABEL: &str = "ns";

/// What is known at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Zones {
    pub(crate) state: Option<Arc<ClusterState>>,
    /// What the data path has; none if it is not known.
    pub(crate) applied: Option<Arc<AppliedServices>>,
    pub(crate) derived: Arc<Derived>,
}

/// What follows from a state, put together beside the queries.
#[derive(Debug, Default)]
pub(crate) struct Derived {
    /// The names above those of services, such as `marathon`.
    above_services: HashSet<String>,
    /// The frameworks of the names of tasks.
    frameworks: HashSet<String>,
    owners: HashMap<IpAddr, Owner>,
}

#[derive(Clone, Debug)]
enum Owner {
    Service(Arc<Service>),
    Task(Arc<TaskName>),
}

/// What is at a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NameContent {
    /// These addresses.
    Addresses(Vec<IpAddr>),
    /// These targets of SRV records.
    Targets(Vec<Target>),
    /// The SOA and NS records of a zone.
    Apex,
    /// Nothing, but there are names below it.
    Empty,
    /// No such name.
    Missing,
    /// It is not known yet what there is.
    Unknown,
}

/// Where a port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) port: u16,
    /// A name of the same zone.
    pub(crate) name: String,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
}

/// The name of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reverse {
    /// This name.
    Name(String),
    /// The address is ours and has no name.
    Missing,
    /// The address is not ours.
    Foreign,
}

/// The ports of a named service, and its addresses.
#[derive(Debug, Default)]
struct NamedService {
    addresses: BTreeSet<IpAddr>,
    ports: Vec<(ServiceProtocol, u16)>,
}

impl Derived {
    /// Takes time with many services and tasks.
    pub(crate) fn new(services: &Services, tasks: &TaskNames) -> Self {
        let mut derived = Self::default();
        for (name, task) in tasks.iter() {
            if let Some((_, framework)) = name.split_once('.')
                && !derived.frameworks.contains(framework)
            {
                derived.frameworks.insert(framework.to_owned());
            }
            for instance in &task.instances {
                for address in &instance.addresses {
                    // That of an agent is its host's, and many tasks have it.
                    if *address != instance.agent {
                        derived
                            .owners
                            .insert(*address, Owner::Task(Arc::clone(task)));
                    }
                }
            }
        }
        for service in services.values() {
            let Vip::Name(name) = &service.service.vip else {
                continue;
            };
            let mut above = name.as_str();
            while let Some((_, next)) = above.split_once('.') {
                above = next;
                if !derived.above_services.insert(above.to_owned()) {
                    break;
                }
            }
            for address in &service.addresses {
                derived
                    .owners
                    .insert(*address, Owner::Service(Arc::clone(service)));
            }
        }
        derived
    }
}

impl Zones {
    /// What a name of ours has.
    pub(crate) fn find(&self, name: &OwnName) -> NameContent {
        let found = match name.place {
            Place::Services => self.find_service(&name.labels),
            Place::Tasks(addresses) => self.find_task(addresses, &name.labels),
            Place::Top => NameContent::Apex,
            Place::Server => NameContent::Addresses(self.server_addresses()),
            Place::Localhost => NameContent::Addresses(vec![
                [127, 0, 0, 1].into(),
                [0, 0, 0, 0, 0, 0, 0, 1_u16].into(),
            ]),
            Place::Nowhere => NameContent::Missing,
        };
        let is_of_cluster = matches!(name.place, Place::Services | Place::Tasks(_));
        if found == NameContent::Missing && is_of_cluster && !self.is_complete() {
            // Resolvers and clients would remember for a time that there is no such name.
            return NameContent::Unknown;
        }
        found
    }

    /// Whether the state has all services and names of tasks.
    fn is_complete(&self) -> bool {
        let state = self.state.as_ref();
        state.is_some_and(|state| state.has_complete_services)
    }

    /// The addresses at which the nodes answer queries.
    fn server_addresses(&self) -> Vec<IpAddr> {
        let settings = self
            .state
            .as_ref()
            .and_then(|state| state.service_settings.as_ref());
        settings.map_or_else(Vec::new, |settings| settings.dns.clone())
    }

    fn find_service(&self, labels: &[String]) -> NameContent {
        if labels.is_empty() {
            return NameContent::Apex;
        }
        let (Some(state), Some(applied)) = (&self.state, &self.applied) else {
            return NameContent::Unknown;
        };
        if applied.revision.is_none() {
            return NameContent::Unknown;
        }
        let is_service = |label: &&String| label.starts_with('_');
        let prefixes = labels.iter().take_while(is_service).count();
        let name = labels[prefixes..].join(".");
        let service = named_service(&state.services, &applied.services, &name);
        let Some(service) = service else {
            return if prefixes == 0 && self.derived.above_services.contains(&name) {
                NameContent::Empty
            } else {
                NameContent::Missing
            };
        };
        let addresses: Vec<_> = service.addresses.into_iter().collect();
        let (port, protocol) = match &labels[..prefixes] {
            [] => return NameContent::Addresses(addresses),
            [protocol] => (None, protocol),
            [port, protocol] => match port[1..].parse::<u16>() {
                Ok(port) => (Some(port), protocol),
                Err(_) => return NameContent::Missing,
            },
            _ => return NameContent::Missing,
        };
        let is_asked = |(of, number): &&(ServiceProtocol, u16)| {
            of.as_str() == &protocol[1..] && port.is_none_or(|port| port == *number)
        };
        let targets: Vec<_> = service
            .ports
            .iter()
            .filter(is_asked)
            .take(MAX_TARGETS)
            .map(|(_, port)| Target {
                port: *port,
                name: name.clone(),
                addresses: addresses.clone(),
            })
            .collect();
        if targets.is_empty() {
            return NameContent::Missing;
        }
        NameContent::Targets(targets)
    }

    fn find_task(&self, kind: TaskAddresses, labels: &[String]) -> NameContent {
        let Some(state) = &self.state else {
            return NameContent::Unknown;
        };
        let find =
            |task: &str, framework: &str| state.task_names.get(&format!("{task}.{framework}"));
        match labels {
            [] => NameContent::Empty,
            [framework] if self.derived.frameworks.contains(framework) => NameContent::Empty,
            [task, framework] => match find(task, framework) {
                Some(task) => {
                    let all = task.instances.iter();
                    let addresses = all.flat_map(|instance| addresses_of(instance, kind));
                    NameContent::Addresses(distinct(addresses))
                }
                None => NameContent::Missing,
            },
            [instance, task, framework] => find(task, framework)
                .and_then(|task| {
                    let address = address_of_label(instance)?;
                    let mut all = task.instances.iter();
                    all.find_map(|instance| {
                        let addresses = addresses_of(instance, kind);
                        addresses.contains(&address).then_some(addresses)
                    })
                })
                .map_or(NameContent::Missing, NameContent::Addresses),
            [port, protocol, task, framework] => find(task, framework)
                .map_or(NameContent::Missing, |task| {
                    find_port(task, kind, port, protocol)
                }),
            _ => NameContent::Missing,
        }
    }

    /// The name of an address, below the domain of this server's own names.
    pub(crate) fn reverse(&self, address: IpAddr) -> Reverse {
        let Some(state) = &self.state else {
            return Reverse::Foreign;
        };
        let settings = state.service_settings.as_ref();
        if settings.is_some_and(|settings| settings.dns.contains(&address)) {
            return Reverse::Name(SERVER_LABEL.to_owned());
        }
        // The owners may be those of an earlier state.
        let name = match self.derived.owners.get(&address) {
            Some(Owner::Service(service)) => {
                let key = &service.service;
                let is_in = |services: &Services| {
                    let service = services.get(key);
                    service.is_some_and(|service| service.addresses.contains(&address))
                };
                let is_applied = self
                    .applied
                    .as_ref()
                    .is_some_and(|applied| is_in(&applied.services));
                match &key.vip {
                    Vip::Name(name) if is_applied && is_in(&state.services) => {
                        Some(format!("{name}.l4lb"))
                    }
                    _ => None,
                }
            }
            Some(Owner::Task(task)) => {
                let current = state.task_names.get(&task.name);
                let is_current = current.is_some_and(|task| {
                    let mut all = task.instances.iter();
                    all.any(|instance| instance.addresses.contains(&address))
                });
                is_current.then(|| format!("{}.containerip.dcos", task.name))
            }
            None => None,
        };
        let is_in_range = || {
            settings.is_some_and(|settings| {
                settings.ranges.iter().any(|range| range.contains(&address))
            })
        };
        match name {
            Some(name) => Reverse::Name(name),
            None if is_in_range() => Reverse::Missing,
            None => Reverse::Foreign,
        }
    }
}

/// The service of a name: what both maps have; none without an address.
fn named_service(services: &Services, applied: &Services, name: &str) -> Option<NamedService> {
    let key = |port, protocol| ServiceKey {
        vip: Vip::Name(name.to_owned()),
        port,
        protocol,
    };
    let keys = key(0, ServiceProtocol::Tcp)..=key(u16::MAX, ServiceProtocol::Sctp);
    let mut found = NamedService::default();
    for (key, service) in services.range(keys) {
        let Some(applied) = applied.get(key) else {
            continue;
        };
        let both = service.addresses.iter();
        let mut both = both
            .filter(|address| applied.addresses.contains(address))
            .peekable();
        if both.peek().is_some() {
            found.addresses.extend(both);
            found.ports.push((key.protocol, key.port));
        }
    }
    (!found.addresses.is_empty()).then_some(found)
}

/// The addresses of a task, as a zone has them.
pub(crate) fn addresses_of(instance: &TaskInstance, kind: TaskAddresses) -> Vec<IpAddr> {
    if uses_agent(instance, kind) {
        vec![instance.agent]
    } else {
        instance.addresses.clone()
    }
}

fn uses_agent(instance: &TaskInstance, kind: TaskAddresses) -> bool {
    match kind {
        TaskAddresses::Container => false,
        TaskAddresses::Agent => true,
        TaskAddresses::Auto => instance.ports.iter().any(|port| port.host.is_some()),
    }
}

/// Where the port of a name is: each task has its own, so the target is a name of that task's addresses.
fn find_port(task: &TaskName, kind: TaskAddresses, port: &str, protocol: &str) -> NameContent {
    let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
        return NameContent::Missing;
    };
    let mut targets = vec![];
    let mut seen = HashSet::new();
    for instance in &task.instances {
        let is_asked = |other: &&contrail_mesos_api::cluster::TaskPort| {
            other.name == port && other.protocol.as_str() == protocol
        };
        for found in instance.ports.iter().filter(is_asked) {
            let number = if uses_agent(instance, kind) {
                found.host
            } else {
                found.container.or(found.host)
            };
            let addresses = addresses_of(instance, kind);
            let (Some(number), Some(first)) = (number, addresses.first()) else {
                continue;
            };
            if targets.len() < MAX_TARGETS && seen.insert((number, *first)) {
                targets.push(Target {
                    port: number,
                    name: format!("{}.{}", instance_label(*first), task.name),
                    addresses,
                });
            }
        }
    }
    if targets.is_empty() {
        NameContent::Missing
    } else {
        NameContent::Targets(targets)
    }
}

/// The label of the name of one task's addresses: `ip-10-0-0-5`.
fn instance_label(address: IpAddr) -> String {
    let text = match address {
        IpAddr::V4(v4) => v4.to_string(),
        // A label has no hyphen at its end, which that of `fd00::` would have.
        IpAddr::V6(v6) => v6
            .segments()
            .map(|segment| format!("{segment:x}"))
            .join("."),
    };
    format!("{INSTANCE_PREFIX}{}", text.replace('.', "-"))
}

fn address_of_label(label: &str) -> Option<IpAddr> {
    let text = label.strip_prefix(INSTANCE_PREFIX)?;
    if text.split('-').count() == 4 {
        text.replace('-', ".").parse().ok().map(IpAddr::V4)
    } else {
        text.replace('-', ":").parse().ok().map(IpAddr::V6)
    }
}

fn distinct(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut seen = HashSet::new();
    addresses.filter(|address| seen.insert(*address)).collect()
}

/// A record for people and programs, as the API shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub(crate) struct ShownRecord {
    /// The name.
    pub(crate) name: String,
    /// The address, or target and port.
    pub(crate) host: String,
    /// The type of the record.
    pub(crate) rtype: &'static str,
}

impl Zones {
    /// All records of services and tasks that are answered.
    pub(crate) fn records(&self) -> Vec<ShownRecord> {
        let mut records = vec![];
        let mut add = |name: &str, addresses: &[IpAddr]| {
            records.extend(addresses.iter().map(|address| ShownRecord {
                name: name.to_owned(),
                host: address.to_string(),
                rtype: if address.is_ipv4() { "A" } else { "AAAA" },
            }));
        };
        let Some(state) = &self.state else {
            return records;
        };
        let mut ports = vec![];
        if let Some(applied) = &self.applied {
            let names: BTreeSet<&String> = state
                .services
                .keys()
                .filter_map(|key| match &key.vip {
                    Vip::Name(name) => Some(name),
                    Vip::Address(_) => None,
                })
                .collect();
            for name in names {
                let Some(service) = named_service(&state.services, &applied.services, name) else {
                    continue;
                };
                let full = format!("{name}.{}.", contrail_mesos_api::cluster::SERVICE_ZONE);
                add(
                    &full,
                    &service.addresses.iter().copied().collect::<Vec<_>>(),
                );
                ports.extend(service.ports.iter().map(|(protocol, port)| ShownRecord {
                    name: format!("_{port}._{}.{full}", protocol.as_str()),
                    host: format!("{full}:{port}"),
                    rtype: "SRV",
                }));
            }
        }
        for task in state.task_names.values() {
            for kind in TaskAddresses::ALL {
                let all = task.instances.iter();
                let addresses = distinct(all.flat_map(|instance| addresses_of(instance, kind)));
                let zone = contrail_mesos_api::cluster::TASK_ZONE;
                add(
                    &format!("{}.{}.{zone}.", task.name, kind.label()),
                    &addresses,
                );
            }
        }
        records.extend(ports);
        records
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use contrail_mesos_api::cluster::{Object, ServiceSettings, TaskPort};
    use hickory_proto::rr::Name;

    use super::*;
    use crate::testing::revision;

    pub(crate) fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn addresses<const N: usize>(texts: [&str; N]) -> Vec<IpAddr> {
        texts.map(address).to_vec()
    }

    pub(crate) fn service(key: &str, addresses: &[&str]) -> Service {
        Service {
            service: key.parse().unwrap(),
            addresses: addresses.iter().map(|text| address(text)).collect(),
            backends: vec![],
            affinity: None,
        }
    }

    fn port(name: &str, container: Option<u16>, host: Option<u16>) -> TaskPort {
        TaskPort {
            name: name.to_owned(),
            protocol: ServiceProtocol::Tcp,
            container,
            host,
        }
    }

    /// A state with services and tasks, and a data path that has all of them.
    pub(crate) fn zones() -> Zones {
        let mut state = ClusterState::empty("node-1", revision("3.1"));
        let web = ["198.18.0.7", "fd4a:9c1e:57b2::7"];
        let mapped = TaskInstance {
            agent: address("192.0.2.1"),
            addresses: addresses(["10.32.0.5"]),
            ports: vec![port("http", Some(8080), Some(31_000))],
        };
        let routed = TaskInstance {
            agent: address("192.0.2.2"),
            addresses: addresses(["9.0.2.5", "fd09:0:0:2::5"]),
            ports: vec![port("http", Some(8080), None)],
        };
        let of_host = TaskInstance {
            agent: address("192.0.2.3"),
            addresses: addresses(["192.0.2.3"]),
            ports: vec![port("http", None, Some(31_005))],
        };
        for object in [
            Object::ServiceSettings(ServiceSettings {
                ranges: ["198.18.0.0/16", "fd4a:9c1e:57b2::/112"]
                    .map(|range| range.parse().unwrap())
                    .to_vec(),
                dns: addresses(["198.18.0.1", "fd4a:9c1e:57b2::1"]),
            }),
            Object::Service(service("web.marathon:80/tcp", &web)),
            Object::Service(service("web.marathon:443/tcp", &web)),
            Object::Service(service("web.marathon:80/udp", &web[..1])),
            Object::Service(service("api.hello.dev:80/tcp", &["198.18.0.8"])),
            Object::Service(service("10.0.0.1:80/tcp", &["10.0.0.1"])),
            Object::TaskName(TaskName {
                name: "app-group.marathon".to_owned(),
                instances: vec![mapped, routed, of_host],
            }),
            Object::ServicesComplete,
        ] {
            state.put(object);
        }
        let applied = AppliedServices {
            revision: Some(state.revision),
            services: state.services.clone(),
        };
        Zones {
            derived: Arc::new(Derived::new(&state.services, &state.task_names)),
            state: Some(Arc::new(state)),
            applied: Some(Arc::new(applied)),
        }
    }

    fn find(zones: &Zones, name: &str) -> NameContent {
        let name = Name::from_ascii(name).unwrap();
        zones.find(&OwnName::find(&name).unwrap())
    }

    fn ports(found: &NameContent) -> Vec<(u16, &str)> {
        match found {
            NameContent::Targets(targets) => targets
                .iter()
                .map(|target| (target.port, target.name.as_str()))
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn services_have_addresses_and_ports() {
        let zones = zones();
        let find = |name: &str| find(&zones, &format!("{name}.l4lb.thisdcos.directory."));
        let web = addresses(["198.18.0.7", "fd4a:9c1e:57b2::7"]);
        assert_eq!(find("web.marathon"), NameContent::Addresses(web));
        let found = find("_tcp.web.marathon");
        assert_eq!(ports(&found), [(80, "web.marathon"), (443, "web.marathon")]);
        assert_eq!(
            ports(&find("_80._udp.web.marathon")),
            [(80, "web.marathon")]
        );
        for missing in [
            "_443._udp.web.marathon",
            "_sctp.web.marathon",
            "_x._tcp.web.marathon",
            "_a._80._tcp.web.marathon",
            "_.web.marathon",
            "_tcp.marathon",
            "a.web.marathon",
            "other.marathon",
            "web",
        ] {
            assert_eq!(find(missing), NameContent::Missing, "{missing}");
        }
        for between in ["marathon", "dev", "hello.dev"] {
            assert_eq!(find(between), NameContent::Empty, "{between}");
        }
    }

    #[test]
    fn service_is_answered_once_its_data_path_is_in_place() {
        let mut zones = zones();
        let name = "web.marathon.l4lb.thisdcos.directory.";
        let mut applied = AppliedServices::default();
        zones.applied = Some(Arc::new(applied.clone()));
        assert_eq!(find(&zones, name), NameContent::Unknown);
        zones.applied = None;
        assert_eq!(find(&zones, name), NameContent::Unknown);
        applied.revision = Some(revision("3.1"));
        zones.applied = Some(Arc::new(applied.clone()));
        assert_eq!(find(&zones, name), NameContent::Missing);
        // The data path has one port, and one of the addresses.
        let mut other = ClusterState::empty("node-1", revision("3.1"));
        other.put(Object::Service(service(
            "web.marathon:80/tcp",
            &["198.18.0.7"],
        )));
        applied.services = other.services.clone();
        zones.applied = Some(Arc::new(applied));
        assert_eq!(
            find(&zones, name),
            NameContent::Addresses(addresses(["198.18.0.7"]))
        );
        let found = find(&zones, &format!("_tcp.{name}"));
        assert_eq!(ports(&found), [(80, "web.marathon")]);
        // What the state has no longer is gone, whatever the data path still has.
        let mut state = ClusterState::clone(zones.state.as_ref().unwrap());
        state.services = Services::default();
        zones.state = Some(Arc::new(state));
        assert_eq!(find(&zones, name), NameContent::Missing);
        zones.state = None;
        assert_eq!(find(&zones, name), NameContent::Unknown);
    }

    #[test]
    fn missing_name_is_unknown_while_services_are_incomplete() {
        let mut zones = zones();
        let names = [
            "other.marathon.l4lb.thisdcos.directory.",
            "_443._udp.web.marathon.l4lb.thisdcos.directory.",
            "other.marathon.autoip.dcos.thisdcos.directory.",
            "ip-10-32-0-6.app-group.marathon.autoip.dcos.thisdcos.directory.",
        ];
        for name in names {
            assert_eq!(find(&zones, name), NameContent::Missing, "{name}");
        }
        let mut state = ClusterState::clone(zones.state.as_ref().unwrap());
        state.has_complete_services = false;
        zones.state = Some(Arc::new(state));
        for name in names {
            assert_eq!(find(&zones, name), NameContent::Unknown, "{name}");
        }
        let web = find(&zones, "web.marathon.l4lb.thisdcos.directory.");
        assert!(matches!(web, NameContent::Addresses(_)), "{web:?}");
    }

    #[test]
    fn targets_of_a_service_are_bounded() {
        let mut zones = zones();
        let mut state = ClusterState::clone(zones.state.as_ref().unwrap());
        for port in 1..=3000 {
            let key = format!("many.marathon:{port}/tcp");
            state.put(Object::Service(service(&key, &["198.18.0.20"])));
        }
        zones.applied = Some(Arc::new(AppliedServices {
            revision: Some(state.revision),
            services: state.services.clone(),
        }));
        zones.state = Some(Arc::new(state));
        let found = find(&zones, "_tcp.many.marathon.l4lb.thisdcos.directory.");
        assert_eq!(ports(&found).len(), MAX_TARGETS);
    }

    #[test]
    fn tasks_have_addresses_of_containers_or_agents() {
        let zones = zones();
        let find = |kind: &str, name: &str| {
            find(&zones, &format!("{name}.{kind}.dcos.thisdcos.directory."))
        };
        let task = "app-group.marathon";
        let container = addresses(["10.32.0.5", "9.0.2.5", "fd09:0:0:2::5", "192.0.2.3"]);
        assert_eq!(find("containerip", task), NameContent::Addresses(container));
        let agents = addresses(["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        assert_eq!(find("agentip", task), NameContent::Addresses(agents));
        let auto = addresses(["192.0.2.1", "9.0.2.5", "fd09:0:0:2::5", "192.0.2.3"]);
        assert_eq!(find("autoip", task), NameContent::Addresses(auto));
        assert_eq!(find("autoip", "marathon"), NameContent::Empty);
        for missing in [
            "other.marathon",
            "other",
            "a.app-group.marathon",
            "ip-.app-group.marathon",
        ] {
            assert_eq!(find("autoip", missing), NameContent::Missing, "{missing}");
        }
    }

    #[test]
    fn named_ports_of_tasks_lead_to_each_task() {
        let zones = zones();
        let find = |kind: &str, name: &str| {
            let name = format!("{name}.app-group.marathon.{kind}.dcos.thisdcos.directory.");
            find(&zones, &name)
        };
        let of = |label: &str| format!("{label}.app-group.marathon");
        let found = find("containerip", "_http._tcp");
        let (first, second, third) = (of("ip-10-32-0-5"), of("ip-9-0-2-5"), of("ip-192-0-2-3"));
        let expected = [(8080, &*first), (8080, &*second), (31_005, &*third)];
        assert_eq!(ports(&found), expected);
        let found = find("autoip", "_http._tcp");
        let first = of("ip-192-0-2-1");
        let expected = [(31_000, &*first), (8080, &*second), (31_005, &*third)];
        assert_eq!(ports(&found), expected);
        // No port of the second one's host leads to it.
        let found = find("agentip", "_http._tcp");
        assert_eq!(ports(&found), [(31_000, &*first), (31_005, &*third)]);
        let routed = addresses(["9.0.2.5", "fd09:0:0:2::5"]);
        assert_eq!(
            find("autoip", "ip-9-0-2-5"),
            NameContent::Addresses(routed.clone())
        );
        let label = instance_label(routed[1]);
        assert_eq!(find("autoip", &label), NameContent::Addresses(routed));
        for missing in [
            "_other._tcp",
            "_http._udp",
            "http._tcp",
            "ip-10-32-0-6",
            "ip-192-0-2-2",
        ] {
            assert_eq!(find("autoip", missing), NameContent::Missing, "{missing}");
        }
    }

    #[test]
    fn addresses_have_the_names_of_their_owners() {
        let mut zones = zones();
        let name = |name: &str| Reverse::Name(name.to_owned());
        for (text, expected) in [
            ("198.18.0.7", name("web.marathon.l4lb")),
            ("fd4a:9c1e:57b2::7", name("web.marathon.l4lb")),
            ("198.18.0.1", name("ns")),
            ("10.32.0.5", name("app-group.marathon.containerip.dcos")),
            ("198.18.0.9", Reverse::Missing),
            // An IP VIP has no name, and an agent's address is its host's.
            ("10.0.0.1", Reverse::Foreign),
            ("192.0.2.3", Reverse::Foreign),
            ("10.32.0.6", Reverse::Foreign),
        ] {
            assert_eq!(zones.reverse(address(text)), expected, "{text}");
        }
        let mut state = ClusterState::clone(zones.state.as_ref().unwrap());
        state.task_names = TaskNames::default();
        state.services = Services::default();
        zones.state = Some(Arc::new(state));
        assert_eq!(zones.reverse(address("198.18.0.7")), Reverse::Missing);
        assert_eq!(zones.reverse(address("10.32.0.5")), Reverse::Foreign);
    }

    #[test]
    fn shown_records_are_those_that_are_answered() {
        let mut zones = zones();
        let records = zones.records();
        let has = |name: &str, host: &str, rtype: &str| {
            let mut all = records.iter();
            all.any(|record| (&*record.name, &*record.host, record.rtype) == (name, host, rtype))
        };
        let web = "web.marathon.l4lb.thisdcos.directory.";
        assert!(has(web, "198.18.0.7", "A"));
        assert!(has(web, "fd4a:9c1e:57b2::7", "AAAA"));
        assert!(has(
            &format!("_443._tcp.{web}"),
            &format!("{web}:443"),
            "SRV"
        ));
        let task = "app-group.marathon.autoip.dcos.thisdcos.directory.";
        assert!(has(task, "192.0.2.1", "A"));
        zones.state = None;
        assert_eq!(zones.records(), []);
    }
}
