//! What the VNC API says of our containers: a cache, which says what to look at. Whoever writes
//! reads the object itself first.
//!
//! An object's age is how long it has been known here: clocks of servers decide nothing.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use arcstr::ArcStr;
use tokio::time::Instant;
use uuid::Uuid;

use super::source::Source;
use crate::intern::Interner;
use crate::vnc::{FqName, KeyValues};

/// Annotations that say what a container is to Mesos.
pub(crate) const APPLICATION: &str = "application";
pub(crate) const TASK: &str = "task";
pub(crate) const FRAMEWORK: &str = "framework";
pub(crate) const FRAMEWORK_ID: &str = "framework-id";
pub(crate) const EXECUTOR: &str = "executor";
pub(crate) const MESOS_AGENT: &str = "mesos-agent";

/// What the VNC API says.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContrailView {
    pub source: Source,
    /// Our containers: boxed, for a table has many places that are free.
    pub machines: HashMap<Uuid, Box<Machine>>,
    /// Hosts by name.
    pub routers: HashMap<ArcStr, Router>,
    /// The networks that our containers are on.
    pub networks: HashMap<Arc<FqName>, Uuid>,
    /// Ours, and belonging to nothing; and since when they are known so.
    pub orphans: HashMap<Orphan, Instant>,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Router {
    pub uuid: Uuid,
    pub address: Option<IpAddr>,
}

/// A container of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Whose it is: the name of its host's virtual-router.
    pub agent: ArcStr,
    pub display_name: Option<ArcStr>,
    pub names: Names,
    /// In the order of its interfaces.
    pub interfaces: Box<[Interface]>,
    /// The virtual-routers that refer to it.
    pub routers: Box<[Uuid]>,
    /// Since when it is known here.
    pub seen: Instant,
}

impl Machine {
    /// Makes its texts those that others have already.
    pub(crate) fn share(&mut self, texts: &mut Interner) {
        let names = &mut self.names;
        let own = [
            &mut self.display_name,
            &mut names.application,
            &mut names.task,
            &mut names.framework,
            &mut names.framework_id,
            &mut names.executor,
            &mut names.mesos_agent,
        ];
        let networks = self.interfaces.iter_mut().map(|one| &mut one.network);
        for text in own.into_iter().chain(networks).flatten() {
            *text = texts.share(text);
        }
        self.agent = texts.share(&self.agent);
    }

    /// Whether every interface has an address, and there is one.
    pub(crate) fn is_whole(&self) -> bool {
        !self.interfaces.is_empty() && self.interfaces.iter().all(|one| one.addresses > 0)
    }

    /// The objects of its addresses of which the address is not known.
    pub(crate) fn unknown(&mut self) -> impl Iterator<Item = &mut Given> {
        let details = self.interfaces.iter_mut().map(|one| &mut one.details);
        let given = details.flat_map(|one| one.addresses.iter_mut().chain(&mut one.floating));
        given.filter(|(_, address)| address.is_none())
    }

    /// Takes over what was known of its addresses: that of an object never changes.
    pub(crate) fn recall(&mut self, before: &Self) {
        let known = before.interfaces.iter().flat_map(|one| one.details.given());
        let known: HashMap<Uuid, Option<IpAddr>> = known.copied().collect();
        for (uuid, address) in self.unknown() {
            *address = known.get(uuid).copied().flatten();
        }
    }
}

/// What a container is to Mesos, in its annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub application: Option<ArcStr>,
    pub task: Option<ArcStr>,
    pub framework: Option<ArcStr>,
    pub framework_id: Option<ArcStr>,
    /// Where it is not the task itself.
    pub executor: Option<ArcStr>,
    pub mesos_agent: Option<ArcStr>,
}

impl Names {
    /// As annotations.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (&'static str, &str)> {
        [
            (APPLICATION, self.application.as_deref()),
            (TASK, self.task.as_deref()),
            (FRAMEWORK, self.framework.as_deref()),
            (FRAMEWORK_ID, self.framework_id.as_deref()),
            (EXECUTOR, self.executor.as_deref()),
            (MESOS_AGENT, self.mesos_agent.as_deref()),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
    }

    /// From annotations.
    pub(crate) fn read(annotations: &KeyValues, text: &mut impl FnMut(&str) -> ArcStr) -> Self {
        let mut shared = |key| annotations.get(key).map(&mut *text);
        Self {
            application: shared(APPLICATION),
            framework: shared(FRAMEWORK),
            framework_id: shared(FRAMEWORK_ID),
            mesos_agent: shared(MESOS_AGENT),
            task: annotations.get(TASK).map(Into::into),
            executor: annotations.get(EXECUTOR).map(Into::into),
        }
    }
}

/// An interface of a container of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub uuid: Uuid,
    pub index: u16,
    /// What the framework calls its network.
    pub network: Option<ArcStr>,
    /// Its security groups, sorted.
    pub groups: Box<[Arc<FqName>]>,
    /// Floating addresses that lead to it and that we made; for one that was adopted, the uuid of
    /// the one of ours that it stands for.
    pub floating: Box<[Uuid]>,
    /// How many addresses it has.
    pub addresses: u16,
    pub details: Details,
}

/// An address's object, and the address where it is known.
pub(crate) type Given = (Uuid, Option<IpAddr>);

/// What is shown of an interface. Nothing is decided on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Details {
    pub network: Option<Arc<FqName>>,
    pub addresses: Box<[Given]>,
    /// Those that we made.
    pub floating: Box<[Given]>,
}

impl Details {
    fn given(&self) -> impl Iterator<Item = &Given> {
        self.addresses.iter().chain(&self.floating)
    }
}

/// Something of ours that belongs to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Orphan {
    /// Without a container.
    Interface(Uuid),
    /// Without an interface.
    InstanceIp(Uuid),
    /// Likewise.
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
