//! Decides what happens to each container. Pure: a function of the stores.
//!
//! Invariants:
//! - A container that any fresh source lists as alive is kept.
//! - A container is deleted only if Mesos has been trusted for a while, has listed everything since
//!   the container lost its last task, and reports its agent as connected, or as gone for long. In
//!   doubt the decision is deferred: agents delete their own containers.
//! - The labels of a task count only if Marathon lists that very task.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use arcstr::ArcStr;
use tokio::time::Instant;
use uuid::Uuid;

use crate::labels::{self, PortSpec};
use crate::marathon::{Mode, RunSpecId, instance_of_executor};
use crate::mesos_master::{Agent, Task};
use crate::model::{
    CachedVm, Defaults, Interface, MAX_ANNOTATION_BYTES, MesosIdentity, Orphan, Policy,
};
use crate::objects::{self, PlannedPort};
use crate::stores::contrail::ContrailView;
use crate::stores::marathon::{MarathonView, RunSpec, run_spec_of};
use crate::stores::mesos::MesosView;
use crate::vnc::{FloatingIp, FqName, VirtualMachineInterface};

/// The stores at one moment, and how long to wait before deleting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Snapshot<'a> {
    pub mesos: &'a MesosView,
    pub marathon: &'a MarathonView,
    pub contrail: &'a ContrailView,
    pub defaults: &'a Defaults,
    pub policy: &'a Policy,
    pub now: Instant,
}

/// What happens to a container.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Keep it, in this state.
    Keep(Box<DesiredState>),
    /// Delete everything of it.
    Delete(DeleteReason),
    /// Do nothing for now.
    Defer(DeferReason),
}

/// The desired state of a container, by its task and Marathon's labels or by an agent's request.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct DesiredState {
    /// The names of its task; `None` where the names stay as they are.
    pub names: Option<DesiredNames>,
    /// The virtual-router of its host; `None` where the links stay as they are.
    pub router: Option<Uuid>,
    /// The interfaces that are to change.
    pub interfaces: Vec<DesiredInterface>,
    /// Whether `interfaces` are all interfaces: missing ones are created and others deleted.
    pub is_exhaustive: bool,
    /// Why labels are ignored.
    pub invalid_labels: Vec<String>,
}

/// The names of a container, after its task.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DesiredNames {
    pub display_name: ArcStr,
    pub identity: MesosIdentity,
}

/// The desired state of an interface.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DesiredInterface {
    pub uuid: Uuid,
    pub spec: PortSpec,
    /// Its objects, where an agent requests the interface. Otherwise only its security groups and
    /// floating IPs are set.
    pub planned: Option<PlannedPort>,
}

impl DesiredInterface {
    /// The security groups, sorted.
    pub(crate) fn sorted_security_groups(&self) -> Vec<&FqName> {
        let mut groups: Vec<_> = self.spec.security_groups.iter().collect();
        groups.sort_unstable();
        groups
    }

    /// The uuids of its floating-ips.
    pub(crate) fn floating_ip_uuids(&self) -> impl Iterator<Item = Uuid> {
        objects::floating_ip_uuids(self.uuid, &self.spec.floating_ips)
    }

    /// Its floating-ips.
    pub(crate) fn floating_ips(&self, interface: &VirtualMachineInterface) -> Vec<FloatingIp> {
        let common = &interface.common;
        objects::floating_ips(&common.fq_name, self.uuid, &self.spec, &common.annotations)
    }

    /// Whether a request asks for the instance-ip with that uuid.
    pub(crate) fn wants_address(&self, uuid: Option<Uuid>) -> bool {
        self.planned.as_ref().is_none_or(|port| {
            port.addresses
                .iter()
                .any(|address| address.instance_ip.common.uuid == uuid)
        })
    }
}

/// Why a container is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeleteReason {
    /// No task on its agent uses it.
    NotOnAgent,
    /// Its agent is gone.
    AgentGone,
    /// It was never completed, and no task uses it.
    Incomplete,
}

impl DeleteReason {
    /// The code in JSON.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::NotOnAgent => "not-on-agent",
            Self::AgentGone => "agent-gone",
            Self::Incomplete => "incomplete",
        }
    }
}

impl fmt::Display for DeleteReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::NotOnAgent => "no task on its agent uses it",
            Self::AgentGone => "its agent is gone",
            Self::Incomplete => "it was never completed",
        })
    }
}

/// Why a decision is deferred.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DeferReason {
    /// Mesos cannot be trusted: why.
    MesosUntrusted(String),
    /// It was requested, was first seen or lost its last task within the grace period.
    GracePeriod,
    /// Marathon lists its task.
    ListedByMarathon,
    /// It may be an entry of Marathon's list that cannot be read.
    MarathonEntryUnreadable,
    /// Mesos has not listed everything since its last task ended.
    NotListedSince,
    /// Its agent is not connected, or has not been listed since it connected.
    AgentDisconnected,
    /// The container of a task on its agent is not known yet.
    TaskWithoutContainer,
    /// An executor without tasks may use it.
    IdleExecutor,
    /// Its agent has not been gone for long enough.
    AgentGoneRecently,
    /// Its agent cannot be determined.
    AgentUnknown,
}

impl DeferReason {
    /// The code in JSON.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::MesosUntrusted(_) => "mesos-untrusted",
            Self::GracePeriod => "grace-period",
            Self::ListedByMarathon => "listed-by-marathon",
            Self::MarathonEntryUnreadable => "marathon-entry-unreadable",
            Self::NotListedSince => "mesos-not-listed-since",
            Self::AgentDisconnected => "agent-disconnected",
            Self::TaskWithoutContainer => "task-without-container",
            Self::IdleExecutor => "executor-without-tasks",
            Self::AgentGoneRecently => "agent-gone-recently",
            Self::AgentUnknown => "agent-unknown",
        }
    }
}

impl fmt::Display for DeferReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::MesosUntrusted(problem) => {
                return write!(formatter, "Mesos cannot be trusted: {problem}");
            }
            Self::GracePeriod => {
                "it was requested, was first seen or lost its last task within the grace period"
            }
            Self::ListedByMarathon => "Marathon lists its task",
            Self::MarathonEntryUnreadable => {
                "it may be an entry of Marathon's list that cannot be read"
            }
            Self::NotListedSince => "Mesos has not listed everything since its last task ended",
            Self::AgentDisconnected => {
                "its agent is not connected, or has not been listed since it connected"
            }
            Self::TaskWithoutContainer => "the container of a task on its agent is not known yet",
            Self::IdleExecutor => "an executor without tasks may use it",
            Self::AgentGoneRecently => "its agent has not been gone for long enough",
            Self::AgentUnknown => "its agent cannot be determined",
        })
    }
}

/// Decides what happens to a container that an agent last requested at `last_requested`.
pub(crate) fn decide(
    snapshot: &Snapshot<'_>,
    uuid: Uuid,
    vm: &CachedVm,
    last_requested: Option<Instant>,
) -> Decision {
    let Snapshot { mesos, now, .. } = *snapshot;
    if !mesos.source.is_fresh() {
        return Decision::Defer(DeferReason::MesosUntrusted(mesos.source.problem(now)));
    }
    if let Some(task) = mesos.task_of(uuid) {
        return Decision::Keep(Box::new(desired_state(snapshot, vm, task)));
    }
    match may_delete(snapshot, uuid, vm, last_requested) {
        Ok(reason) => Decision::Delete(reason),
        Err(reason) => Decision::Defer(reason),
    }
}

/// Why a container without tasks is deleted, or why not yet.
fn may_delete(
    snapshot: &Snapshot<'_>,
    uuid: Uuid,
    vm: &CachedVm,
    last_requested: Option<Instant>,
) -> Result<DeleteReason, DeferReason> {
    let Snapshot {
        mesos,
        marathon,
        now,
        policy,
        ..
    } = *snapshot;
    let has_passed = |since: Instant, time| now.saturating_duration_since(since) >= time;
    // An agent takes time to end a container. It unregisters the ports from its vRouter agent before
    // it has the objects deleted: without the objects, the vRouter agent would keep the ports.
    let terminated_at = mesos.terminated_at(uuid);
    let last_touched = [last_requested, terminated_at]
        .into_iter()
        .flatten()
        .fold(vm.first_seen, Instant::max);
    if !has_passed(last_touched, policy.grace_period) {
        return Err(DeferReason::GracePeriod);
    }
    let untrusted = || DeferReason::MesosUntrusted(mesos.source.problem(now));
    let trusted_since = mesos.source.trusted_since().ok_or_else(untrusted)?;
    let last_listed = mesos.source.last_listed().ok_or_else(untrusted)?;
    if !has_passed(trusted_since, policy.stabilization_window) {
        return Err(untrusted());
    }
    if terminated_at.is_some_and(|at| at >= last_listed) {
        return Err(DeferReason::NotListedSince);
    }
    let identity = &vm.identity;
    let task = identity.task.as_deref();
    if let Some(task) = task
        && marathon.source.is_fresh()
    {
        if run_spec_of(task).is_some_and(|spec| marathon.has_task(&spec, task)) {
            return Err(DeferReason::ListedByMarathon);
        }
        if marathon.is_skipped(task) {
            return Err(DeferReason::MarathonEntryUnreadable);
        }
    }
    let agent_gone = |since: Option<Instant>| {
        let since = since.map_or(trusted_since, |since| since.max(trusted_since));
        if has_passed(since, policy.agent_gone_after) {
            Ok(DeleteReason::AgentGone)
        } else {
            Err(DeferReason::AgentGoneRecently)
        }
    };
    let agent = match identity.mesos_agent.as_deref() {
        Some(id) => match mesos.agent(id) {
            Some(agent) => agent,
            None => return agent_gone(mesos.gone_since(id)),
        },
        None => match agent_on_host_of(snapshot, vm) {
            Some(agent) => agent,
            None if every_agent_has_a_router(snapshot) => return agent_gone(None),
            None => return Err(DeferReason::AgentUnknown),
        },
    };
    let connected_since = mesos.connected_since(&agent.id);
    if !agent.active || connected_since.is_none_or(|since| since > last_listed) {
        return Err(DeferReason::AgentDisconnected);
    }
    if mesos.has_task_without_container(&agent.id) {
        return Err(DeferReason::TaskWithoutContainer);
    }
    let executor = identity
        .framework_id
        .as_deref()
        .zip(identity.executor.as_deref().or(task));
    if mesos.has_executor(&agent.id, executor) {
        return Err(DeferReason::IdleExecutor);
    }
    if vm.routers.is_empty() && !vm.is_complete() {
        return Ok(DeleteReason::Incomplete);
    }
    Ok(DeleteReason::NotOnAgent)
}

/// The agent of a container whose task is not known: by the name and address of its host.
fn agent_on_host_of<'a>(snapshot: &Snapshot<'a>, vm: &CachedVm) -> Option<&'a Agent> {
    let router = snapshot.contrail.routers.get(&vm.agent);
    let address = router.and_then(|router| router.address);
    snapshot.mesos.agent_on_host(&vm.agent, address)
}

/// Whether no agent can be the one of a host without agent, since each is on a host of its own.
fn every_agent_has_a_router(snapshot: &Snapshot<'_>) -> bool {
    let routers = &snapshot.contrail.routers;
    let addresses: HashSet<_> = routers
        .values()
        .filter_map(|router| router.address)
        .collect();
    snapshot.mesos.agents().all(|agent| {
        routers.contains_key(&*agent.host)
            || agent
                .address
                .is_some_and(|address| addresses.contains(&address))
    })
}

/// The desired state of a container that a task uses.
fn desired_state(snapshot: &Snapshot<'_>, vm: &CachedVm, task: &Task) -> DesiredState {
    let framework = snapshot.mesos.framework(&task.key.framework);
    let is_marathons = framework.is_some_and(|name| *name == *snapshot.policy.framework);
    // All containers of a pod are nested in its executor's.
    let instance = instance_of_executor(task.executor()).map(|instance| instance.id);
    let spec_id = run_spec_of(&task.key.task).filter(|_| is_marathons);
    let identity = MesosIdentity {
        application: spec_id.as_ref().map(|id| to_annotation(id.as_str())),
        task: Some(shared_annotation(&task.key.task)),
        framework: framework.map(to_annotation),
        framework_id: Some(shared_annotation(&task.key.framework)),
        executor: Some(match &task.executor {
            Some(executor) => to_annotation(executor),
            None => shared_annotation(&task.key.task),
        }),
        mesos_agent: task.agent.as_ref().map(shared_annotation),
    };
    let display_name = match &instance {
        Some(instance) => to_annotation(instance),
        None => shared_annotation(&task.key.task),
    };
    let mut desired = DesiredState {
        names: Some(DesiredNames {
            display_name,
            identity,
        }),
        router: router_of(snapshot, vm, task),
        ..DesiredState::default()
    };
    if let Some(spec) = spec_id.and_then(|id| listed_spec(snapshot, &id, task)) {
        for network in &spec.networks {
            if let (Mode::Container, Some(name)) = (network.mode, &network.name) {
                apply_labels(snapshot, vm, name, &network.labels, &mut desired);
            }
        }
    }
    desired
}

/// The app or pod of a task, where Marathon is fresh and lists the task.
fn listed_spec<'a>(snapshot: &Snapshot<'a>, id: &RunSpecId, task: &Task) -> Option<&'a RunSpec> {
    let marathon = snapshot.marathon;
    let is_listed = marathon.source.is_fresh()
        && marathon.has_task(id, &task.key.task)
        && !marathon.is_skipped(id.as_str());
    marathon.spec(id).filter(|_| is_listed)
}

/// The host of a container: the virtual-router of its agent's name, or with the agent's address.
fn router_of(snapshot: &Snapshot<'_>, vm: &CachedVm, task: &Task) -> Option<Uuid> {
    let routers = &snapshot.contrail.routers;
    if let Some(router) = routers.get(&vm.agent) {
        return Some(router.uuid);
    }
    let agent = snapshot.mesos.agent(task.agent.as_deref()?)?;
    let address = agent.address.or_else(|| agent.host.parse().ok())?;
    let mut with_address = routers
        .values()
        .filter(|router| router.address == Some(address));
    // Of two with one address, neither is certainly the host.
    with_address
        .next()
        .filter(|_| with_address.next().is_none())
        .map(|router| router.uuid)
}

/// Adds the desired state of the interfaces on one of Marathon's networks.
fn apply_labels(
    snapshot: &Snapshot<'_>,
    vm: &CachedVm,
    network: &ArcStr,
    labels: &[(Box<str>, Box<str>)],
    desired: &mut DesiredState,
) {
    let labels: BTreeMap<String, String> = labels
        .iter()
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .collect();
    let labels_of_ports = labels::split_by_network(&labels);
    let interfaces: Vec<&Interface> = vm
        .interfaces
        .iter()
        .filter(|interface| interface.network_name.as_ref() == Some(network))
        .collect();
    if interfaces.len() != labels_of_ports.len() {
        // The labels list other networks by now, which only the app's next tasks get.
        return;
    }
    for (interface, labels) in interfaces.into_iter().zip(&labels_of_ports) {
        match labels::parse_labels(labels, None, snapshot.defaults) {
            Ok(spec) => desired.interfaces.push(DesiredInterface {
                uuid: interface.uuid,
                spec,
                planned: None,
            }),
            Err(problems) => desired.invalid_labels.extend(problems),
        }
    }
}

/// Whether a string can be the value of an annotation as it is.
fn is_annotation(string: &str) -> bool {
    let is_plain = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    string.len() <= MAX_ANNOTATION_BYTES && string.bytes().all(is_plain)
}

/// As [`to_annotation`], without a copy of what can stay.
fn shared_annotation(string: &ArcStr) -> ArcStr {
    if is_annotation(string) {
        string.clone()
    } else {
        to_annotation(string)
    }
}

/// A string that can be the value of an annotation.
fn to_annotation(string: &str) -> ArcStr {
    if is_annotation(string) {
        return string.into();
    }
    let mut replaced: String = string
        .chars()
        .map(|character| match character {
            '\u{fffe}'..='\u{ffff}' => '\u{fffd}',
            character if character.is_control() => '\u{fffd}',
            character => character,
        })
        .collect();
    replaced.truncate(replaced.floor_char_boundary(MAX_ANNOTATION_BYTES));
    replaced.into()
}

/// The orphans whose grace period has passed, addresses before interfaces.
pub(crate) fn due_orphans(snapshot: &Snapshot<'_>) -> Vec<Orphan> {
    let mut orphans: Vec<_> = snapshot
        .contrail
        .orphans
        .iter()
        .filter(|(_, since)| {
            snapshot.now.saturating_duration_since(**since) >= snapshot.policy.grace_period
        })
        .map(|(orphan, _)| *orphan)
        .collect();
    orphans.sort_unstable();
    orphans.reverse();
    orphans
}

#[cfg(test)]
mod tests;
