//! What one task adds to services and names: pure.
//!
//! # Which tasks count
//!
//! | state | of services | of names |
//! |---|---|---|
//! | running, healthy or without a health check of Mesos | ready | yes |
//! | running, and its health check fails or has not succeeded yet | draining | yes |
//! | being killed | draining | no |
//! | unreachable, lost or unknown, after it had a container; or its agent is gone | as before, while its service has no other backends | as before: in doubt nothing is withdrawn |
//! | any other | no | no |
//!
//! Only health checks that Mesos runs count: `MESOS_HTTP`, `MESOS_TCP` and `COMMAND` of Marathon. A task
//! counts once its agent and its framework are known.
//!
//! # Which address is the backend
//!
//! | network of the task | `network-scope` | backend | reached from |
//! |---|---|---|---|
//! | of the host | any | agent : number | all hosts |
//! | of a container | `host` | agent : number; on its own host container : container port, except for Docker | all hosts |
//! | of a container | `container` or none, and a host port is mapped to it | the same | all hosts |
//! | overlay, or one of `routed_networks` | `container` or none | container : number | all hosts |
//! | virtual network of Contrail | `container` or none | container : number | virtual networks |
//! | any other | `container` or none | container : number | its own host only; a problem says so |
//!
//! With a label `network-name` a port is on that network alone. Otherwise every address of every network
//! is a backend. An IP VIP has the backends of its own family, a name those of both.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arcstr::ArcStr;
use contrail_mesos_api::cluster::{
    Backend, BackendState, Reach, ServiceKey, ServiceProtocol, TaskInstance, TaskPort, Vip,
};
use contrail_mesos_api::text::{Escaped, Quoted, truncate};

use super::classification::Classification;
use super::vip::{self, VipTarget};
use super::{ContrailInterface, DesiredBackend, ServiceProblem, name};
use crate::mesos_master::ports::{DiscoveryPort, PortMapping, Scope};
use crate::mesos_master::{ContainerKind, Network, Task};
use crate::stores::mesos::MesosView;
use crate::task_state::{Liveness, TaskState};

/// The most addresses of a task that are used.
const MAX_ADDRESSES: usize = 16;
/// The most backends that a task is, of all services together.
const MAX_OFFERS: usize = 1024;
/// The most problems of a task.
const MAX_PROBLEMS: usize = 16;
/// The most named ports of a task.
const MAX_NAMED_PORTS: usize = 64;
/// The longest name of a service, in bytes: that of [`ServiceKey`].
const MAX_SERVICE_NAME_BYTES: usize = 200;
/// The longest text that identifies a task or a framework to operators, in characters.
const MAX_TEXT_CHARS: usize = 128;
/// The name of a port without one.
const DEFAULT_PORT_NAME: &str = "default";

/// What a task adds.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Contribution {
    /// The services that it is a backend of.
    pub offers: Vec<Offer>,
    /// Its name, and what is found under it.
    pub instance: Option<(String, TaskInstance)>,
    pub problems: Vec<ServiceProblem>,
    /// How many offers were too many.
    left_out: usize,
}

/// A task as a backend of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Offer {
    pub service: ServiceKey,
    pub backend: DesiredBackend,
    /// Whether nothing is heard of it.
    pub is_lost: bool,
    pub affinity: Option<u32>,
    /// The name of the service as its framework wrote it; empty for an address.
    pub written: String,
    pub origin: Arc<Origin>,
}

/// Whose a task is.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Origin {
    /// The time of its first status, which orders tasks that were found together; `i64::MAX` if there is
    /// none.
    pub since: i64,
    /// The id of its framework.
    pub framework_id: ArcStr,
    /// The name of its framework, for operators.
    pub framework: String,
    /// Its name, for operators.
    pub task: String,
}

impl Origin {
    /// A problem of it.
    pub(super) fn problem(&self, subject: String, message: String) -> ServiceProblem {
        ServiceProblem {
            framework: self.framework.clone(),
            task: self.task.clone(),
            subject,
            message,
        }
    }
}

/// What operators see of an untrusted text.
fn shown(text: &str) -> String {
    truncate(
        &Escaped(&truncate(text, MAX_TEXT_CHARS)).to_string(),
        MAX_TEXT_CHARS,
    )
}

/// What a task adds; nothing while its agent or its framework is not known.
pub(super) fn contribution(
    view: &MesosView,
    classification: &Classification,
    task: &Task,
) -> Contribution {
    Situation::of(view, classification, task)
        .map(|situation| situation.contribution())
        .unwrap_or_default()
}

/// The addresses of the task's container on networks other than that of the host.
pub(super) fn container_addresses(task: &Task) -> impl Iterator<Item = IpAddr> {
    let networks: &[Network] = if is_on_host_network(task) {
        &[]
    } else {
        &task.status.networks
    };
    usable_addresses(networks.iter()).map(|(_, address)| address)
}

fn is_on_host_network(task: &Task) -> bool {
    match task.kind {
        ContainerKind::DockerOnHost => true,
        ContainerKind::Docker => false,
        ContainerKind::Mesos => task
            .status
            .networks
            .iter()
            .all(|network| network.name.is_none()),
    }
}

fn usable_addresses<'a>(
    networks: impl Iterator<Item = &'a Network>,
) -> impl Iterator<Item = (&'a Network, IpAddr)> {
    networks
        .flat_map(|network| {
            let addresses = network.addresses.iter();
            addresses.map(move |address| (network, address.to_canonical()))
        })
        .filter(|(_, address)| !vip::is_special(*address))
        .take(MAX_ADDRESSES)
}

/// A task that counts, and what its backends have in common.
struct Situation<'a> {
    classification: &'a Classification,
    task: &'a Task,
    state: BackendState,
    is_lost: bool,
    is_on_host_network: bool,
    agent: IpAddr,
    /// The name of its framework as DNS labels, and as one.
    framework_labels: String,
    framework_label: String,
    origin: Arc<Origin>,
}

/// Where a port of a task is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PortPlace {
    address: SocketAddr,
    local: Option<SocketAddr>,
    reach: Reach,
    /// The name of the network that only the host itself reaches.
    network: Option<ArcStr>,
    interface: Option<ContrailInterface>,
}

impl<'a> Situation<'a> {
    fn of(view: &MesosView, classification: &'a Classification, task: &'a Task) -> Option<Self> {
        let agent_id = task.agent.as_ref()?;
        let is_uncertain = task.status.state.liveness() == Liveness::Uncertain;
        let counts = match task.status.state {
            TaskState::Running | TaskState::Killing => true,
            _ => is_uncertain && task.status.container.is_some(),
        };
        if !counts {
            return None;
        }
        let is_healthy = match task.status.healthy {
            Some(is_healthy) => is_healthy,
            None => !task.has_health_check,
        };
        let state = if is_healthy && task.status.state != TaskState::Killing {
            BackendState::Ready
        } else {
            BackendState::Draining
        };
        let framework = view.framework(&task.key.framework)?;
        let task_name = task.name.as_deref().unwrap_or(&task.key.task);
        Some(Self {
            classification,
            task,
            state,
            is_lost: is_uncertain || view.agent(agent_id).is_none(),
            is_on_host_network: is_on_host_network(task),
            agent: view.agent_address(agent_id)?.to_canonical(),
            framework_labels: name::labels(framework),
            framework_label: name::label(framework),
            origin: Arc::new(Origin {
                since: task.first_status_at.unwrap_or(i64::MAX),
                framework_id: task.key.framework.clone(),
                framework: shown(framework),
                task: shown(task_name),
            }),
        })
    }

    fn contribution(&self) -> Contribution {
        let mut contribution = Contribution::default();
        if let Some(discovery) = &self.task.discovery {
            for problem in &discovery.problems {
                let (subject, message) = (problem.subject.to_string(), problem.message.to_string());
                self.add_problem(&mut contribution, || subject, message);
            }
            for port in &discovery.ports {
                if !port.vips.is_empty() {
                    self.add_port(port, &mut contribution);
                }
            }
        }
        if contribution.left_out > 0 {
            let subject = format!("{} backends", MAX_OFFERS + contribution.left_out);
            let message = format!("a task is at most {MAX_OFFERS}; the others are left out");
            // It matters more than the last one of many.
            contribution.problems.truncate(MAX_PROBLEMS - 1);
            contribution
                .problems
                .push(self.origin.problem(subject, message));
        }
        contribution.instance = self.instance();
        contribution
    }

    fn add_problem(
        &self,
        contribution: &mut Contribution,
        subject: impl FnOnce() -> String,
        message: String,
    ) {
        if contribution.problems.len() < MAX_PROBLEMS {
            let problem = self.origin.problem(subject(), message);
            contribution.problems.push(problem);
        }
    }

    fn add_port(&self, port: &DiscoveryPort, contribution: &mut Contribution) {
        let subject = || port_text(port);
        if port.number == 0 {
            let message = "port 0 serves nobody, so it has no virtual IP: give the port mapping a \
                           containerPort, or a hostPort";
            self.add_problem(contribution, subject, message.to_owned());
            return;
        }
        if port.protocols.has_unknown() {
            let message = "its protocol is not known, so it has no virtual IP: write tcp, udp, sctp, or \
                           several with commas";
            self.add_problem(contribution, subject, message.to_owned());
        }
        let mut local_network = None;
        for protocol in port.protocols.iter() {
            let places = self.places(port, protocol);
            if places.is_empty() && self.task.status.state == TaskState::Running {
                let message = "its container has no address there, so it is no backend";
                self.add_problem(contribution, subject, message.to_owned());
            }
            let network = places.iter().find_map(|place| place.network.clone());
            local_network = local_network.or(network);
            for value in &port.vips {
                self.add_vip(value, port, protocol, &places, contribution);
            }
        }
        if let Some(network) = local_network {
            let message = format!(
                "only its own host reaches its container on network {}: map a port of the host \
                 (hostPort: 0), use an overlay, or write the network into routed_networks of [services] if \
                 there are routes between the hosts",
                Quoted(network.as_bytes())
            );
            self.add_problem(contribution, subject, message);
        }
    }

    /// Adds the places as backends of the virtual IP.
    fn add_vip(
        &self,
        value: &str,
        port: &DiscoveryPort,
        protocol: ServiceProtocol,
        places: &[PortPlace],
        contribution: &mut Contribution,
    ) {
        let subject = || {
            let value = Quoted(value.as_bytes());
            format!("{}, virtual IP {value}", port_text(port))
        };
        let request = match vip::parse(value) {
            Ok(request) => request,
            Err(error) => return self.add_problem(contribution, subject, error.to_string()),
        };
        let (vip, written) = match request.target {
            VipTarget::Address(address) => (Vip::Address(address), String::new()),
            VipTarget::Name { labels, written } => {
                let framework = &self.framework_labels;
                let name = format!("{labels}.{framework}");
                if framework.is_empty() {
                    let message = "the name of its framework has no letter or digit of ASCII, so no DNS name \
                                   can be made of it";
                    return self.add_problem(contribution, subject, message.to_owned());
                }
                if name.len() > MAX_SERVICE_NAME_BYTES {
                    let message = format!(
                        "the name and that of its framework are longer than {MAX_SERVICE_NAME_BYTES} bytes, \
                         so there is no virtual IP"
                    );
                    return self.add_problem(contribution, subject, message);
                }
                if name.parse::<IpAddr>().is_ok() {
                    let message = "with the name of its framework it is an IP address, so it is no name: \
                                   take a name with a letter";
                    return self.add_problem(contribution, subject, message.to_owned());
                }
                (Vip::Name(name), written)
            }
        };
        let service = ServiceKey {
            vip,
            port: request.port,
            protocol,
        };
        let is_of_family = |place: &&PortPlace| match service.vip {
            Vip::Address(vip) => vip.is_ipv4() == place.address.is_ipv4(),
            Vip::Name(_) => true,
        };
        let mut places_of_family = places.iter().filter(is_of_family).peekable();
        if places_of_family.peek().is_none() && !places.is_empty() {
            let message = "it has no address of the family of the virtual IP, so it is no backend";
            self.add_problem(contribution, subject, message.to_owned());
        }
        for place in places_of_family {
            if contribution.offers.len() == MAX_OFFERS {
                contribution.left_out += 1;
                continue;
            }
            contribution.offers.push(Offer {
                service: service.clone(),
                backend: DesiredBackend {
                    backend: Backend {
                        address: place.address,
                        local: place.local,
                        host: self.agent,
                        reach: place.reach,
                        state: self.state,
                        task: shown(&self.task.key.task),
                    },
                    interface: place.interface.clone(),
                },
                is_lost: self.is_lost,
                affinity: port.affinity.map(std::num::NonZeroU32::get),
                written: written.clone(),
                origin: Arc::clone(&self.origin),
            });
        }
    }

    /// The networks of the container that a port is on.
    fn networks_of(&self, port: &DiscoveryPort) -> Vec<&'a Network> {
        let all = || self.task.status.networks.iter();
        let named: Vec<&Network> = all()
            .filter(|network| port.network.is_some() && network.name == port.network)
            .collect();
        if named.is_empty() {
            all().collect()
        } else {
            named
        }
    }

    /// Where a port is reached.
    fn places(&self, port: &DiscoveryPort, protocol: ServiceProtocol) -> Vec<PortPlace> {
        let on_agent = |number: u16| SocketAddr::new(self.agent, number);
        if self.is_on_host_network {
            return vec![PortPlace {
                address: on_agent(port.number),
                local: None,
                reach: Reach::Cluster,
                network: None,
                interface: None,
            }];
        }
        let networks = self.networks_of(port);
        let mapped = find_mapping(&networks, |mapping| {
            let number = match port.scope {
                Scope::Host => mapping.host,
                Scope::Container | Scope::Undeclared => mapping.container,
            };
            number == port.number && mapping.protocols.contains(protocol)
        });
        if let Some((network, mapping)) = mapped {
            return vec![self.mapped_place(network, mapping)];
        }
        if port.scope == Scope::Host {
            return vec![PortPlace {
                address: on_agent(port.number),
                local: None,
                reach: Reach::Cluster,
                network: None,
                interface: None,
            }];
        }
        let mut places = Vec::new();
        for (network, address) in usable_addresses(networks.into_iter()) {
            let place = self.container_place(network, SocketAddr::new(address, port.number));
            if !places.contains(&place) {
                places.push(place);
            }
        }
        places
    }

    /// A port of the host that is mapped to the container.
    fn mapped_place(&self, network: &Network, mapping: PortMapping) -> PortPlace {
        // A packet that was balanced meets no second translation on its own host. Docker opens its filter
        // for the mapped port only.
        let local = usable_addresses(std::iter::once(network))
            .map(|(_, address)| address)
            .find(|address| address.is_ipv4() == self.agent.is_ipv4())
            .filter(|_| self.task.kind == ContainerKind::Mesos)
            .map(|address| SocketAddr::new(address, mapping.container));
        let interface =
            local.filter(|local| self.reach(network, local.ip()) == Reach::VirtualNetwork);
        PortPlace {
            address: SocketAddr::new(self.agent, mapping.host),
            local,
            reach: Reach::Cluster,
            network: None,
            interface: interface.and_then(|local| self.interface(local.ip())),
        }
    }

    /// A port of the container itself.
    fn container_place(&self, network: &Network, address: SocketAddr) -> PortPlace {
        let reach = self.reach(network, address.ip());
        let is_virtual = reach == Reach::VirtualNetwork;
        let unnamed = || arcstr::literal!("of the host's bridge");
        PortPlace {
            address,
            local: None,
            reach,
            network: (reach == Reach::Host).then(|| network.name.clone().unwrap_or_else(unnamed)),
            interface: is_virtual.then(|| self.interface(address.ip())).flatten(),
        }
    }

    /// From where an address on a network of a container is reached.
    fn reach(&self, network: &Network, address: IpAddr) -> Reach {
        let name = network.name.as_deref().unwrap_or_default();
        if self.classification.cluster_networks.contains(name) {
            return Reach::Cluster;
        }
        let Some(is_interface) = &self.classification.contrail else {
            return Reach::Host;
        };
        let container = self.task.status.root_container();
        if network.is_virtual || container.is_some_and(|id| is_interface(id, address)) {
            Reach::VirtualNetwork
        } else {
            Reach::Host
        }
    }

    fn interface(&self, address: IpAddr) -> Option<ContrailInterface> {
        Some(ContrailInterface {
            container: self.task.status.root_container()?.to_owned(),
            address,
        })
    }

    /// Its name, and what is found under it.
    fn instance(&self) -> Option<(String, TaskInstance)> {
        if self.task.status.state == TaskState::Killing {
            return None;
        }
        let task = name::label(self.task.name.as_deref()?);
        let framework = &self.framework_label;
        if task.is_empty() || framework.is_empty() {
            return None;
        }
        let mut addresses: Vec<IpAddr> = if self.is_on_host_network {
            vec![self.agent]
        } else {
            container_addresses(self.task).collect()
        };
        addresses.sort_unstable();
        addresses.dedup();
        let instance = TaskInstance {
            agent: self.agent,
            addresses,
            ports: self.named_ports(),
        };
        Some((format!("{task}.{framework}"), instance))
    }

    fn named_ports(&self) -> Vec<TaskPort> {
        let declared = self
            .task
            .discovery
            .iter()
            .flat_map(|discovery| &discovery.ports);
        let mut ports: Vec<TaskPort> = declared
            .filter(|port| port.number > 0)
            .flat_map(|port| {
                port.protocols
                    .iter()
                    .map(|protocol| self.named_port(port, protocol))
            })
            .take(MAX_NAMED_PORTS)
            .collect();
        // That a port of the host is mapped matters for autoip, although nobody looks for it by name.
        if !self.is_on_host_network {
            for mapping in self
                .task
                .status
                .networks
                .iter()
                .flat_map(|network| &network.mappings)
            {
                for protocol in mapping.protocols.iter() {
                    let is_declared = |port: &TaskPort| {
                        port.protocol == protocol && port.host == Some(mapping.host)
                    };
                    if ports.len() < MAX_NAMED_PORTS && !ports.iter().any(is_declared) {
                        ports.push(TaskPort {
                            name: DEFAULT_PORT_NAME.to_owned(),
                            protocol,
                            container: Some(mapping.container),
                            host: Some(mapping.host),
                        });
                    }
                }
            }
        }
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    fn named_port(&self, port: &DiscoveryPort, protocol: ServiceProtocol) -> TaskPort {
        let name = port.name.as_deref().map(name::label);
        let name = name.filter(|name| !name.is_empty());
        let networks = self.networks_of(port);
        let mapping = find_mapping(&networks, |mapping| {
            let number = match port.scope {
                Scope::Host => mapping.host,
                Scope::Container | Scope::Undeclared => mapping.container,
            };
            number == port.number && mapping.protocols.contains(protocol)
        });
        let mapping = mapping.filter(|_| !self.is_on_host_network);
        let is_of_host = self.is_on_host_network || port.scope == Scope::Host;
        let (container, host) = match mapping {
            Some((_, mapping)) => (Some(mapping.container), Some(mapping.host)),
            None if is_of_host => (None, Some(port.number)),
            None => (Some(port.number), None),
        };
        TaskPort {
            name: name.unwrap_or_else(|| DEFAULT_PORT_NAME.to_owned()),
            protocol,
            container,
            host,
        }
    }
}

fn find_mapping<'a>(
    networks: &[&'a Network],
    matches: impl Fn(&PortMapping) -> bool,
) -> Option<(&'a Network, PortMapping)> {
    networks.iter().find_map(|network| {
        let mapping = network.mappings.iter().find(|mapping| matches(mapping))?;
        Some((*network, *mapping))
    })
}

fn port_text(port: &DiscoveryPort) -> String {
    match &port.name {
        Some(name) => format!("port {} {}", port.number, Quoted(name.as_bytes())),
        None => format!("port {}", port.number),
    }
}
