//! What is to become of each container: a pure function of what the sources say.
//!
//! Invariants:
//! - What any source that is fresh says is alive is kept.
//! - A container is removed only on the word of a Mesos that has been believed for a while, has
//!   listed everything since the container lost its last task, and knows its agent to be connected
//!   or to be gone for long. In doubt nothing is done: the agent removes its own containers.
//! - Labels are believed of a task only if Marathon lists that very task.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use arcstr::ArcStr;
use tokio::time::Instant;
use uuid::Uuid;

use super::config::Default as Defaults;
use super::labels::{self, Wish};
use super::plan;
use super::stores::contrail::{ContrailView, Machine, Names, Orphan};
use super::stores::marathon::{MarathonView, run_spec_of};
use super::stores::mesos::MesosView;
use crate::marathon::{Mode, executor_of};
use crate::mesos_master::{Agent, Task};
use crate::vnc::{FloatingIp, FqName, KeyValues, Object as _};

/// How long to wait before what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How long a source must have been whole before anything is removed on its word, and how long
    /// after a list that shrank at once another one must say the same.
    pub settle: Duration,
    /// How long what was just made, is just seen or just lost its last task is left alone.
    pub young: Duration,
    /// How long an agent must be gone before its containers are.
    pub agent_gone: Duration,
    /// The name of Marathon among the frameworks of Mesos.
    pub framework: Box<str>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            settle: Duration::from_mins(1),
            young: Duration::from_mins(10),
            agent_gone: Duration::from_hours(1),
            framework: "marathon".into(),
        }
    }
}

/// What is known, and when that is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub mesos: &'a MesosView,
    pub marathon: &'a MarathonView,
    pub contrail: &'a ContrailView,
    pub defaults: &'a Defaults,
    pub policy: &'a Policy,
    pub now: Instant,
}

/// What is to become of a container.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fate {
    /// It lives, and is to be so.
    Keep(Box<Keep>),
    /// Nothing of it is to be left.
    Remove(Reason),
    /// Nothing is done.
    Unknown(Doubt),
}

/// How a container that lives is to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Keep {
    pub display_name: ArcStr,
    pub names: Names,
    /// Its host.
    pub router: Option<Uuid>,
    /// What its interfaces are to have, of those of which labels are known.
    pub interfaces: Vec<Wanted>,
    /// Labels that make no sense.
    pub problems: Vec<String>,
}

/// What an interface is to have by its labels.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    pub interface: Uuid,
    pub wish: Wish,
}

impl Wanted {
    /// The security groups, in order.
    pub(super) fn groups(&self) -> Vec<&FqName> {
        let mut groups: Vec<_> = self.wish.security_groups.iter().collect();
        groups.sort_unstable();
        groups
    }

    /// The floating addresses of the interface of that name.
    pub(super) fn floating(&self, name: &FqName, annotations: &KeyValues) -> Vec<FloatingIp> {
        plan::floating_ips(name, self.interface, &self.wish, annotations)
    }
}

/// Why a container is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No task on its agent has it.
    NotOnAgent,
    /// Its agent is gone.
    AgentGone,
    /// It was never completed, and nobody has it.
    HalfMade,
}

/// Why nothing is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Mesos cannot be believed: why.
    Mesos(String),
    /// It was made or seen only just now, or had a task until just now.
    Young,
    /// Marathon lists its task.
    MarathonHasIt,
    /// It may be what Marathon's list has and cannot be read.
    Unreadable,
    /// Mesos has not listed everything since its last task ended.
    NotListedSince,
    /// Its agent is not connected, or has not been listed since it is.
    AgentAway,
    /// A task on its agent has not said what its container is.
    Unplaced,
    /// An executor without tasks may have it.
    Executor,
    /// Its agent is gone, and not for long enough.
    AgentGoneRecently,
    /// It cannot be told which agent is its.
    NoAgent,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotOnAgent => "no task on its agent has it",
            Self::AgentGone => "its agent is gone",
            Self::HalfMade => "it was never completed",
        })
    }
}

impl Reason {
    /// The stable code of this reason in JSON.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::NotOnAgent => "not-on-agent",
            Self::AgentGone => "agent-gone",
            Self::HalfMade => "incomplete",
        }
    }
}

impl Doubt {
    /// The stable code of this reason in JSON.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Mesos(_) => "mesos-untrusted",
            Self::Young => "grace-period",
            Self::MarathonHasIt => "listed-by-marathon",
            Self::Unreadable => "marathon-entry-unreadable",
            Self::NotListedSince => "mesos-not-listed-since",
            Self::AgentAway => "agent-disconnected",
            Self::Unplaced => "task-without-container",
            Self::Executor => "executor-without-tasks",
            Self::AgentGoneRecently => "agent-gone-recently",
            Self::NoAgent => "agent-unknown",
        }
    }

    /// For people, without what is only of this one.
    fn name(&self) -> &'static str {
        match self {
            Self::Mesos(_) => "Mesos cannot be believed",
            Self::Young => "it was made or seen only just now",
            Self::MarathonHasIt => "Marathon lists its task",
            Self::Unreadable => "it may be what cannot be read of Marathon's list",
            Self::NotListedSince => "Mesos has not listed everything since its last task ended",
            Self::AgentAway => "its agent is not connected, or has not been listed since it is",
            Self::Unplaced => "a task on its agent has not said what its container is",
            Self::Executor => "an executor without tasks may have it",
            Self::AgentGoneRecently => "its agent is gone, and not for long enough",
            Self::NoAgent => "it cannot be told which agent is its",
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesos(why) => write!(formatter, "{}: {why}", self.name()),
            _ => formatter.write_str(self.name()),
        }
    }
}

/// What is to become of a container.
pub(super) fn fate(known: &Known<'_>, uuid: Uuid, machine: &Machine, put: Option<Instant>) -> Fate {
    let Known { mesos, now, .. } = *known;
    if !mesos.source.is_fresh() {
        return Fate::Unknown(Doubt::Mesos(mesos.source.problem(now)));
    }
    if let Some(task) = mesos.task_of(uuid) {
        return Fate::Keep(Box::new(keep(known, machine, task)));
    }
    match remove(known, uuid, machine, put) {
        Ok(reason) => Fate::Remove(reason),
        Err(doubt) => Fate::Unknown(doubt),
    }
}

/// Why a container without tasks is to be removed, or why not yet.
fn remove(
    known: &Known<'_>,
    uuid: Uuid,
    machine: &Machine,
    put: Option<Instant>,
) -> Result<Reason, Doubt> {
    let Known {
        mesos,
        marathon,
        now,
        policy,
        ..
    } = *known;
    let for_long = |since: Instant, how_long| now.saturating_duration_since(since) >= how_long;
    // An agent takes its time to end a container, and tells its vRouter agent before it has the
    // objects removed: without them nothing of the container would be forgotten there.
    let vanished = mesos.vanished_at(uuid);
    let last = [put, vanished].into_iter().flatten().max();
    let touched = last.map_or(machine.seen, |at| at.max(machine.seen));
    if !for_long(touched, policy.young) {
        return Err(Doubt::Young);
    }
    let mistrust = || Doubt::Mesos(mesos.source.problem(now));
    let believed = mesos.source.believed_since().ok_or_else(mistrust)?;
    let listed = mesos.source.last_listed().ok_or_else(mistrust)?;
    if !for_long(believed, policy.settle) {
        return Err(mistrust());
    }
    if vanished.is_some_and(|at| at >= listed) {
        return Err(Doubt::NotListedSince);
    }
    let names = &machine.names;
    let task = names.task.as_deref();
    if let Some(task) = task
        && marathon.source.is_fresh()
    {
        if run_spec_of(task).is_some_and(|spec| marathon.has_task(&spec, task)) {
            return Err(Doubt::MarathonHasIt);
        }
        if marathon.is_skipped(task) {
            return Err(Doubt::Unreadable);
        }
    }
    let gone = |since: Option<Instant>| {
        let since = since.map_or(believed, |since| since.max(believed));
        if for_long(since, policy.agent_gone) {
            Ok(Reason::AgentGone)
        } else {
            Err(Doubt::AgentGoneRecently)
        }
    };
    let agent = match names.mesos_agent.as_deref() {
        Some(id) => match mesos.agent(id) {
            Some(agent) => agent,
            None => return gone(mesos.gone_since(id)),
        },
        None => match agent_of(known, machine) {
            Some(agent) => agent,
            None if every_agent_has_a_router(known) => return gone(None),
            None => return Err(Doubt::NoAgent),
        },
    };
    let connected = mesos.connected_since(&agent.id);
    if !agent.active || connected.is_none_or(|since| since > listed) {
        return Err(Doubt::AgentAway);
    }
    if mesos.has_unplaced(&agent.id) {
        return Err(Doubt::Unplaced);
    }
    let executor = names
        .framework_id
        .as_deref()
        .zip(names.executor.as_deref().or(task));
    if mesos.has_executor(&agent.id, executor) {
        return Err(Doubt::Executor);
    }
    if machine.routers.is_empty() && !machine.is_whole() {
        return Ok(Reason::HalfMade);
    }
    Ok(Reason::NotOnAgent)
}

/// The agent of a container of which no task is known: by the name and address of its host.
fn agent_of<'a>(known: &Known<'a>, machine: &Machine) -> Option<&'a Agent> {
    let router = known.contrail.routers.get(&machine.agent);
    let address = router.and_then(|router| router.address);
    known.mesos.agent_at(&machine.agent, address)
}

/// Whether none of the agents can be the one that a container's host is, since each has another.
fn every_agent_has_a_router(known: &Known<'_>) -> bool {
    let routers = &known.contrail.routers;
    let addresses: std::collections::HashSet<_> = routers
        .values()
        .filter_map(|router| router.address)
        .collect();
    known.mesos.agents().all(|agent| {
        routers.contains_key(&*agent.host)
            || agent
                .address
                .is_some_and(|address| addresses.contains(&address))
    })
}

fn keep(known: &Known<'_>, machine: &Machine, task: &Task) -> Keep {
    let framework = known.mesos.framework(&task.key.framework);
    let of_marathon = framework.is_some_and(|name| *name == *known.policy.framework);
    let executor = task.executor();
    // All containers of a pod are in one, its executor's.
    let instance = executor_of(executor).map(|instance| instance.id);
    let name: &str = instance.as_deref().unwrap_or(&task.key.task);
    let spec = run_spec_of(&task.key.task).filter(|_| of_marathon);
    let names = Names {
        application: spec.as_ref().map(|spec| clip(spec.as_str())),
        task: Some(clip(&task.key.task)),
        framework: framework.map(clip),
        framework_id: Some(clip(&task.key.framework)),
        executor: task.executor.as_deref().map(clip),
        mesos_agent: task.agent.as_deref().map(clip),
    };
    let mut keep = Keep {
        display_name: clip(name),
        names,
        router: router_of(known, machine, task),
        interfaces: vec![],
        problems: vec![],
    };
    if let Some(spec) = spec
        && known.marathon.source.is_fresh()
        && known.marathon.has_task(&spec, &task.key.task)
        && !known.marathon.is_skipped(spec.as_str())
        && let Some(spec) = known.marathon.spec(&spec)
    {
        for network in spec
            .networks
            .iter()
            .filter(|one| one.mode == Mode::Container)
        {
            let Some(name) = &network.name else { continue };
            by_labels(known, machine, name, &network.labels, &mut keep);
        }
    }
    keep
}

/// The host of a container: the virtual-router of its agent's name, or with the agent's address.
fn router_of(known: &Known<'_>, machine: &Machine, task: &Task) -> Option<Uuid> {
    let routers = &known.contrail.routers;
    if let Some(router) = routers.get(&machine.agent) {
        return Some(router.uuid);
    }
    let agent = known.mesos.agent(task.agent.as_deref()?)?;
    let address = agent.address.or_else(|| agent.host.parse().ok())?;
    let mut at = routers.values().filter(|one| one.address == Some(address));
    // Two of one address are nobody's certain host.
    at.next()
        .filter(|_| at.next().is_none())
        .map(|one| one.uuid)
}

/// What the interfaces on one of Marathon's networks are to have.
fn by_labels(
    known: &Known<'_>,
    machine: &Machine,
    network: &ArcStr,
    labels: &[(Box<str>, Box<str>)],
    keep: &mut Keep,
) {
    let labels: BTreeMap<String, String> = labels
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect();
    let split = labels::split(&labels);
    let on_it = machine.interfaces.iter();
    let on_it: Vec<_> = on_it
        .filter(|one| one.network.as_ref() == Some(network))
        .collect();
    if on_it.len() != split.len() {
        // It has other networks by now: those of the next tasks.
        return;
    }
    for (interface, labels) in on_it.into_iter().zip(&split) {
        match labels::wish(labels, None, known.defaults) {
            Ok(wish) => keep.interfaces.push(Wanted {
                interface: interface.uuid,
                wish,
            }),
            Err(problems) => keep.problems.extend(problems),
        }
    }
}

/// A text that can be an annotation.
fn clip(text: &str) -> ArcStr {
    let is_plain = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    if text.len() <= plan::LONGEST_VALUE && text.bytes().all(is_plain) {
        return text.into();
    }
    let mut clipped: String = text
        .chars()
        .map(|letter| match letter {
            '\u{fffe}'..='\u{ffff}' => '\u{fffd}',
            letter if letter.is_control() => '\u{fffd}',
            letter => letter,
        })
        .collect();
    clipped.truncate(clipped.floor_char_boundary(plan::LONGEST_VALUE));
    clipped.into()
}

/// What of a container that lives is not as it is to be; empty where all is well.
pub(super) fn differences(keep: &Keep, machine: &Machine) -> Vec<Difference> {
    let mut differences = vec![];
    if machine.names != keep.names || machine.display_name.as_ref() != Some(&keep.display_name) {
        differences.push(Difference::Names);
    }
    if let Some(router) = keep.router {
        let linked = machine.routers.contains(&router);
        if !linked && machine.is_whole() {
            differences.push(Difference::Link(router));
        }
        // It leaves no host before it is at the right one.
        if linked || machine.is_whole() {
            let others = machine.routers.iter().filter(|other| **other != router);
            differences.extend(others.map(|other| Difference::Unlink(*other)));
        }
    }
    for wanted in &keep.interfaces {
        let interfaces = machine.interfaces.iter();
        for interface in interfaces.filter(|one| one.uuid == wanted.interface) {
            let groups = interface.groups.iter().map(|group| &**group);
            if !groups.eq(wanted.groups()) {
                differences.push(Difference::Groups(interface.uuid));
            }
            let mut are: Vec<_> = interface.floating.to_vec();
            let floating = wanted.floating(&FqName::default(), &KeyValues::default());
            let floating = floating.iter();
            let mut shall: Vec<_> = floating.filter_map(|one| one.common().uuid).collect();
            are.sort_unstable();
            shall.sort_unstable();
            if are != shall {
                differences.push(Difference::Floating(interface.uuid));
            }
        }
    }
    differences
}

/// One thing that would be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Display name and annotations of the container and its interfaces.
    Names,
    /// The reference from this virtual-router.
    Link(Uuid),
    /// The reference from this virtual-router goes: the container is on another host.
    Unlink(Uuid),
    /// The security groups of this interface.
    Groups(Uuid),
    /// The floating addresses of this interface.
    Floating(Uuid),
    /// Everything of the container goes: why.
    Remove(Reason),
    /// Something that belongs to nothing goes: what.
    Orphan(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Names => formatter.write_str("set display name and annotations"),
            Self::Link(router) => write!(formatter, "link the virtual-router {router}"),
            Self::Unlink(router) => {
                write!(
                    formatter,
                    "unlink the virtual-router {router}, where it is not"
                )
            }
            Self::Groups(interface) => write!(formatter, "set the security groups of {interface}"),
            Self::Floating(interface) => {
                write!(formatter, "set the floating addresses of {interface}")
            }
            Self::Remove(reason) => write!(formatter, "remove the container, because {reason}"),
            Self::Orphan(what) => write!(formatter, "remove the {what}, which belongs to nothing"),
        }
    }
}

/// The things of ours that belong to nothing, and have done so for long enough.
pub(super) fn orphans(known: &Known<'_>) -> Vec<Orphan> {
    let orphans = known.contrail.orphans.iter();
    let old = orphans
        .filter(|(_, since)| known.now.saturating_duration_since(**since) >= known.policy.young);
    let mut old: Vec<_> = old.map(|(orphan, _)| *orphan).collect();
    // Addresses before interfaces.
    old.sort_unstable();
    old.reverse();
    old
}

#[cfg(test)]
mod tests;
