//! The domain model, which all modules of the manager share.
//!
//! Invariant: nothing here knows the configuration file, a store or a client's requests. The
//! configuration is read into these types.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arcstr::ArcStr;
use ipnet::IpNet;
use tokio::time::Instant;
use uuid::Uuid;

use crate::intern::Interner;
use crate::vnc::{FqName, KeyValues};

/// The value of the annotation [`annotation::OWNER`] of every object that we create.
pub(crate) const OWNER: &str = "contrail-mesos";
/// The same of the objects of services, which are none of a container's.
pub(crate) const SERVICES_OWNER: &str = "contrail-mesos-services";

/// Keys of annotations.
pub(crate) mod annotation {
    /// Which program created the object.
    pub(crate) const OWNER: &str = "owner";
    /// Which cluster's manager created it.
    pub(crate) const CLUSTER: &str = "cluster";
    /// The agent that requested it: the name of its host's virtual-router.
    pub(crate) const AGENT: &str = "agent";
    /// The container's id, as JSON.
    pub(crate) const CONTAINER: &str = "container";
    /// `{index}/{count}` of an interface.
    pub(crate) const INDEX: &str = "index";
    /// The interface's name in the container.
    pub(crate) const INTERFACE: &str = "interface";
    /// The framework's name for an interface's network.
    pub(crate) const NETWORK: &str = "network";
    /// The Marathon app or pod.
    pub(crate) const APPLICATION: &str = "application";
    /// The Mesos task.
    pub(crate) const TASK: &str = "task";
    /// The framework's name.
    pub(crate) const FRAMEWORK: &str = "framework";
    /// The framework's id.
    pub(crate) const FRAMEWORK_ID: &str = "framework-id";
    /// The executor's id; that of a command task is the task's.
    pub(crate) const EXECUTOR: &str = "executor";
    /// The id of the Mesos agent.
    pub(crate) const MESOS_AGENT: &str = "mesos-agent";
    /// Marks a floating-ip of an operator that an interface of ours uses.
    pub(crate) const ADOPTED: &str = "contrail-mesos-adopted";
}

/// Longest value of an annotation, in bytes.
pub(crate) const MAX_ANNOTATION_BYTES: usize = 1024;

/// Whether an object's annotations name this cluster's manager as its creator.
pub(crate) fn is_owned(annotations: &KeyValues, cluster: &str) -> bool {
    annotations.get(annotation::OWNER) == Some(OWNER)
        && annotations.get(annotation::CLUSTER) == Some(cluster)
}

/// The annotations that [`is_owned`] checks.
pub(crate) fn ownership(cluster: &str) -> KeyValues {
    [(annotation::OWNER, OWNER), (annotation::CLUSTER, cluster)]
        .into_iter()
        .collect()
}

/// The meaning of labels that are absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// The cluster's name: part of every object's annotations.
    pub cluster: String,
    /// The domain of projects.
    pub domain: String,
    /// The project of networks and security groups.
    pub project: String,
    /// The network.
    pub network: FqName,
}

impl Defaults {
    /// The defaults of the cluster of that name.
    #[must_use]
    pub fn of(cluster: &str) -> Self {
        let domain = "default-domain".to_owned();
        let project = format!("{cluster}-default");
        let network = format!("{cluster}-default-pod-task-network");
        Self {
            cluster: cluster.to_owned(),
            network: FqName::new([domain.clone(), project.clone(), network]),
            domain,
            project,
        }
    }
}

/// Which objects are created when a container names one that does not exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Create {
    /// Domains.
    pub domains: bool,
    /// Projects.
    pub projects: bool,
    /// Networks, with the subnets of the label `network-subnets`.
    pub networks: bool,
}

/// How long the reconciler waits before it deletes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a source must have been complete before anything is deleted because of it; and how
    /// long after a list that shrank suddenly another list must confirm it.
    pub stabilization_window: Duration,
    /// How long a container is kept after it was requested, was first seen or lost its last task.
    pub grace_period: Duration,
    /// How long an agent must be gone before its containers are deleted.
    pub agent_gone_after: Duration,
    /// Marathon's name among the frameworks of Mesos.
    pub framework: Box<str>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            stabilization_window: Duration::from_mins(1),
            grace_period: Duration::from_mins(10),
            agent_gone_after: Duration::from_hours(1),
            framework: "marathon".into(),
        }
    }
}

/// How many bits of an address a subnet needs beyond its prefix: it keeps the first and the last
/// address, the gateway and the name server for itself.
const MIN_HOST_BITS: u8 = 3;

/// Why no container can have an address of a subnet that is to be created; `None` if one can.
pub(crate) fn too_small(subnet: IpNet) -> Option<String> {
    let longest = subnet.max_prefix_len() - MIN_HOST_BITS;
    (subnet.prefix_len() > longest).then(|| {
        format!(
            "{subnet} has too few usable addresses, because every subnet keeps four for itself; \
             its prefix is at most /{longest}"
        )
    })
}

/// A virtual-network that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub uuid: Uuid,
    /// `domain:project:network`.
    pub name: FqName,
    /// In the server's order.
    pub subnets: Vec<Subnet>,
}

/// A subnet from which a network allocates addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subnet {
    pub net: IpNet,
    /// By what an address of it is requested. All subnets of one flat ipam share it.
    pub uuid: Option<Uuid>,
    pub gateway: Option<IpAddr>,
    pub dns: Option<IpAddr>,
}

impl Network {
    /// The subnet that contains an address.
    pub(crate) fn subnet(&self, address: IpAddr) -> Option<&Subnet> {
        self.subnets
            .iter()
            .find(|subnet| subnet.net.contains(&address))
    }

    /// The subnets as a message lists them.
    pub(crate) fn list_subnets(&self) -> String {
        if self.subnets.is_empty() {
            return "none".to_owned();
        }
        let nets: Vec<String> = self
            .subnets
            .iter()
            .map(|subnet| subnet.net.to_string())
            .collect();
        nets.join(", ")
    }
}

/// A container's virtual-machine with its interfaces, as far as the reconciler compares and shows
/// them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CachedVm {
    /// The agent that requested it: the name of its host's virtual-router.
    pub agent: ArcStr,
    pub display_name: Option<ArcStr>,
    pub identity: MesosIdentity,
    /// In the order of their index.
    pub interfaces: Box<[Interface]>,
    /// The virtual-routers that refer to it.
    pub routers: Box<[Uuid]>,
    /// When this manager first saw it. Clocks of servers decide nothing.
    pub first_seen: Instant,
}

impl CachedVm {
    /// Shares its strings with those that are interned already.
    pub(crate) fn intern(&mut self, interner: &mut Interner) {
        let identity = &mut self.identity;
        let strings = [
            &mut self.display_name,
            &mut identity.application,
            &mut identity.task,
            &mut identity.framework,
            &mut identity.framework_id,
            &mut identity.executor,
            &mut identity.mesos_agent,
        ];
        let networks = self
            .interfaces
            .iter_mut()
            .map(|interface| &mut interface.network_name);
        for string in strings.into_iter().chain(networks).flatten() {
            *string = interner.share(string);
        }
        self.agent = interner.share(&self.agent);
    }

    /// Whether it has an interface, and every interface has an address.
    pub(crate) fn is_complete(&self) -> bool {
        !self.interfaces.is_empty()
            && self
                .interfaces
                .iter()
                .all(|interface| interface.address_count > 0)
    }

    /// The address objects whose address has not been read.
    pub(crate) fn unread_addresses(&mut self) -> impl Iterator<Item = &mut AddressObject> {
        self.interfaces
            .iter_mut()
            .map(|interface| &mut interface.details)
            .flat_map(|details| {
                details
                    .addresses
                    .iter_mut()
                    .chain(&mut details.floating_ips)
            })
            .filter(|(_, address)| address.is_none())
    }

    /// The addresses of its interfaces, as far as they have been read; sorted.
    pub(crate) fn interface_addresses(&self) -> Vec<IpAddr> {
        let interfaces = self.interfaces.iter();
        let objects = interfaces.flat_map(|interface| &interface.details.addresses);
        let mut addresses: Vec<IpAddr> = objects.filter_map(|(_, address)| *address).collect();
        addresses.sort_unstable();
        addresses
    }

    /// Copies the addresses that an older entry had read: an object's address never changes.
    pub(crate) fn copy_addresses(&mut self, older: &Self) {
        let addresses: HashMap<Uuid, Option<IpAddr>> = older
            .interfaces
            .iter()
            .flat_map(|interface| interface.details.address_objects())
            .copied()
            .collect();
        for (uuid, address) in self.unread_addresses() {
            *address = addresses.get(uuid).copied().flatten();
        }
    }
}

/// A container's identity in Mesos and Marathon, kept in its annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MesosIdentity {
    pub application: Option<ArcStr>,
    pub task: Option<ArcStr>,
    pub framework: Option<ArcStr>,
    pub framework_id: Option<ArcStr>,
    pub executor: Option<ArcStr>,
    pub mesos_agent: Option<ArcStr>,
}

impl MesosIdentity {
    /// As annotations.
    pub(crate) fn annotations(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            (annotation::APPLICATION, self.application.as_deref()),
            (annotation::TASK, self.task.as_deref()),
            (annotation::FRAMEWORK, self.framework.as_deref()),
            (annotation::FRAMEWORK_ID, self.framework_id.as_deref()),
            (annotation::EXECUTOR, self.executor.as_deref()),
            (annotation::MESOS_AGENT, self.mesos_agent.as_deref()),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
    }

    /// From annotations. `intern` makes the strings that many containers have in common.
    pub(crate) fn from_annotations(
        annotations: &KeyValues,
        intern: &mut impl FnMut(&str) -> ArcStr,
    ) -> Self {
        let mut shared = |key| annotations.get(key).map(&mut *intern);
        let task: Option<ArcStr> = annotations.get(annotation::TASK).map(Into::into);
        let executor = annotations.get(annotation::EXECUTOR);
        Self {
            application: shared(annotation::APPLICATION),
            framework: shared(annotation::FRAMEWORK),
            framework_id: shared(annotation::FRAMEWORK_ID),
            mesos_agent: shared(annotation::MESOS_AGENT),
            // Most containers are of command tasks, where the two are the same.
            executor: match &task {
                Some(task) if executor == Some(&**task) => Some(task.clone()),
                _ => executor.map(Into::into),
            },
            task,
        }
    }
}

/// An interface of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub uuid: Uuid,
    pub index: u16,
    /// The framework's name for its network.
    pub network_name: Option<ArcStr>,
    /// Sorted.
    pub security_groups: Box<[Arc<FqName>]>,
    /// The floating-ips that we created for it; for an adopted one, the uuid of the one of ours
    /// that it stands for.
    pub floating_ips: Box<[Uuid]>,
    pub address_count: u16,
    pub details: InterfaceDetails,
}

/// An instance-ip or floating-ip, and its address once that has been read.
pub(crate) type AddressObject = (Uuid, Option<IpAddr>);

/// The parts of an interface that are shown and decide nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct InterfaceDetails {
    /// The virtual-network.
    pub network: Option<Arc<FqName>>,
    pub addresses: Box<[AddressObject]>,
    /// Those of [`Interface::floating_ips`].
    pub floating_ips: Box<[AddressObject]>,
}

impl InterfaceDetails {
    fn address_objects(&self) -> impl Iterator<Item = &AddressObject> {
        self.addresses.iter().chain(&self.floating_ips)
    }
}

/// A floating-ip of an operator that an interface of ours uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Adoption {
    pub interface: Uuid,
    /// The operator's object.
    pub floating_ip: Uuid,
    /// The object that we would have created in its place.
    pub stands_for: Uuid,
}

/// An object of ours whose parent is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Orphan {
    /// Without a virtual-machine.
    Interface(Uuid),
    /// Without an interface.
    InstanceIp(Uuid),
    /// Without an interface.
    FloatingIp(Uuid),
}

impl Orphan {
    /// Its uuid.
    pub(crate) fn uuid(self) -> Uuid {
        match self {
            Self::Interface(uuid) | Self::InstanceIp(uuid) | Self::FloatingIp(uuid) => uuid,
        }
    }
}

impl fmt::Display for Orphan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(uuid) => write!(formatter, "virtual-machine-interface {uuid}"),
            Self::InstanceIp(uuid) => write!(formatter, "instance-ip {uuid}"),
            Self::FloatingIp(uuid) => write!(formatter, "floating-ip {uuid}"),
        }
    }
}
