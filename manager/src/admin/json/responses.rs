//! The body of each response.

#![allow(
    clippy::struct_field_names,
    reason = "the fields are those of the JSON, where a list is named after what is in it"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use arcstr::ArcStr;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::filter::ContainerFilter;
use super::paginate::{ListQuery, Page, PageEnd, paginate};
use crate::admin::problems::{self, Problem};
use crate::admin::state::{AdminError, AdminState, LeaderLink};
use crate::fence::Leadership;
use crate::history::{Entry, timestamp};
use crate::marathon::Mode;
use crate::model::{AddressObject, CachedVm};
use crate::reconcile::{Key, Reconciler};
use crate::stores::contrail::ContrailView;
use crate::stores::status::SourceStatus;
use crate::task_state::TaskState;

/// How many unreadable entries, and tasks of an app, are returned.
const MAX_SAMPLES: usize = 20;

fn seconds_since(then: Instant) -> u64 {
    Instant::now().saturating_duration_since(then).as_secs()
}

/// The uuid to continue after.
fn after_uuid(after: Option<&str>) -> Result<Option<Uuid>, AdminError> {
    after
        .map(|after| {
            after.parse().map_err(|_| {
                AdminError::bad_request("after= is not a uuid that a response returned as next")
            })
        })
        .transpose()
}

/// Entries that could not be read.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct Unreadable {
    /// How many there are.
    count: usize,
    /// What is known of the first of them.
    first: Vec<Option<String>>,
}

/// A framework in Mesos.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct FrameworkRow {
    id: String,
    name: String,
    /// Whether its scheduler is connected.
    connected: bool,
}

/// A task in Mesos.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct MesosTaskRow {
    id: String,
    framework_id: String,
    /// The framework's name.
    framework: Option<String>,
    agent_id: Option<String>,
    /// The agent's host name.
    agent: Option<String>,
    executor: String,
    state: TaskState,
    /// Its container's id, as Mesos prints it; null before there is one.
    container: Option<String>,
}

/// The tasks in Mesos.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct MesosTasks {
    source: SourceStatus,
    /// How many agents there are.
    agents: usize,
    frameworks: Vec<FrameworkRow>,
    unreadable: Unreadable,
    tasks: Vec<MesosTaskRow>,
    #[serde(flatten)]
    page: PageEnd,
}

/// The tasks in Mesos.
pub(super) fn mesos(reconciler: &Reconciler, query: &ListQuery) -> MesosTasks {
    let view = reconciler.stores().mesos.snapshot();
    // A framework's id has no blank, so that this key is unique.
    let tasks = view.tasks().map(|task| {
        let key = format!("{} {}", task.key.framework, task.key.task);
        (key, task)
    });
    let page = paginate(tasks, query.after.as_ref(), query.limit).map(|_, task| {
        let agent = task.agent.as_ref().and_then(|id| view.agent(id));
        MesosTaskRow {
            id: task.key.task.to_string(),
            framework_id: task.key.framework.to_string(),
            framework: view
                .framework(&task.key.framework)
                .map(std::string::ToString::to_string),
            agent_id: task.agent.as_deref().map(str::to_owned),
            agent: agent.map(|agent| agent.host.to_string()),
            executor: task.executor().to_owned(),
            state: task.status.state,
            container: task.status.container.as_deref().map(str::to_owned),
        }
    });
    let frameworks = view.frameworks().map(|framework| FrameworkRow {
        id: framework.id.to_string(),
        name: framework.name.to_string(),
        connected: framework.active,
    });
    let unreadable = view.skipped().iter().take(MAX_SAMPLES);
    let (tasks, page) = page.finish();
    MesosTasks {
        source: SourceStatus::new("mesos", &view.source),
        agents: view.agents().len(),
        frameworks: frameworks.collect(),
        unreadable: Unreadable {
            count: view.skipped().len(),
            first: unreadable
                .map(|entry| Some(entry.problem.to_string()))
                .collect(),
        },
        tasks,
        page,
    }
}

/// A network of an app or pod.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct AppNetworkRow {
    name: Option<String>,
    mode: Mode,
    labels: BTreeMap<String, String>,
}

/// An app or pod in Marathon.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct AppRow {
    id: String,
    networks: Vec<AppNetworkRow>,
    /// How many tasks it has.
    tasks: usize,
    /// The ids of the first of them.
    first_tasks: Vec<String>,
}

/// The apps and pods in Marathon.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct Apps {
    source: SourceStatus,
    unreadable: Unreadable,
    apps: Vec<AppRow>,
    #[serde(flatten)]
    page: PageEnd,
}

/// The apps and pods in Marathon.
pub(super) fn marathon(reconciler: &Reconciler, query: &ListQuery) -> Result<Apps, AdminError> {
    if !reconciler.follows_marathon() {
        return Err(AdminError::not_found(
            "this manager does not follow Marathon; see [marathon] in its configuration",
        ));
    }
    let view = reconciler.stores().marathon.snapshot();
    let specs = view
        .specs()
        .map(|(id, spec)| (id.as_str().to_owned(), spec));
    let page = paginate(specs, query.after.as_ref(), query.limit).map(|id, spec| {
        let networks = spec.networks.iter().map(|network| {
            let labels = network.labels.iter();
            AppNetworkRow {
                name: network.name.as_deref().map(str::to_owned),
                mode: network.mode,
                labels: labels
                    .map(|(key, value)| (key.to_string(), value.to_string()))
                    .collect(),
            }
        });
        // A sample: the tasks of all apps may be many.
        let first_tasks = spec.tasks.iter().take(MAX_SAMPLES);
        AppRow {
            id: id.clone(),
            networks: networks.collect(),
            tasks: spec.tasks.len(),
            first_tasks: first_tasks.map(ToString::to_string).collect(),
        }
    });
    let unreadable = view.skipped();
    let first = unreadable.iter().take(MAX_SAMPLES);
    let (apps, page) = page.finish();
    Ok(Apps {
        source: SourceStatus::new("marathon", &view.source),
        unreadable: Unreadable {
            count: unreadable.len(),
            first: first.map(|id| id.as_deref().map(str::to_owned)).collect(),
        },
        apps,
        page,
    })
}

/// A virtual-router in the VNC API.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct VirtualRouterRow {
    name: String,
    uuid: Uuid,
    address: Option<IpAddr>,
}

/// An object of ours that belongs to no container.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct OrphanRow {
    what: String,
    /// How long it has been known, in seconds.
    known_seconds: u64,
}

/// What is in the VNC API.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct ContrailObjects {
    source: SourceStatus,
    /// How many containers have objects.
    containers: usize,
    /// The first orphans.
    orphans: Vec<OrphanRow>,
    orphans_total: usize,
    virtual_routers: Vec<VirtualRouterRow>,
    #[serde(flatten)]
    page: PageEnd,
}

/// The virtual-routers and orphans in the VNC API.
pub(super) fn contrail(reconciler: &Reconciler, query: &ListQuery) -> ContrailObjects {
    let view = reconciler.stores().contrail.snapshot();
    let limit = query.limit;
    let routers = view.routers.iter().map(|(name, router)| {
        let row = VirtualRouterRow {
            name: name.to_string(),
            uuid: router.uuid,
            address: router.address,
        };
        (name.to_string(), row)
    });
    let orphans = view.orphans.iter().map(|(orphan, since)| {
        let row = OrphanRow {
            what: orphan.to_string(),
            known_seconds: seconds_since(*since),
        };
        (*orphan, row)
    });
    let orphans = paginate(orphans, None, limit);
    let (virtual_routers, page) = paginate(routers, query.after.as_ref(), limit).finish();
    ContrailObjects {
        source: SourceStatus::new("contrail", &view.source),
        containers: view.vms.len(),
        orphans_total: orphans.total,
        orphans: orphans.elements.into_iter().map(|(_, row)| row).collect(),
        virtual_routers,
        page,
    }
}

/// An agent, or a virtual-router without an agent.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct AgentRow {
    name: String,
    agent_id: Option<String>,
    /// Null without an agent.
    connected: Option<bool>,
    address: Option<IpAddr>,
    virtual_router: Option<String>,
    /// How many containers it has in the VNC API.
    containers: usize,
    /// How many tasks it has in Mesos.
    tasks: usize,
}

/// The agents.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct Agents {
    agents: Vec<AgentRow>,
    #[serde(flatten)]
    page: PageEnd,
}

/// The agents, joined with the virtual-routers.
pub(super) fn agents(reconciler: &Reconciler, query: &ListQuery) -> Agents {
    let overview = reconciler.overview();
    let hosts = overview.hosts.iter().map(|(name, host)| {
        let row = AgentRow {
            name: name.to_string(),
            agent_id: host.agent.as_deref().map(str::to_owned),
            connected: host.agent.is_some().then_some(host.connected),
            address: host.address,
            virtual_router: host.router.as_deref().map(str::to_owned),
            containers: host.containers,
            tasks: host.tasks,
        };
        (name.to_string(), row)
    });
    let (agents, page) = paginate(hosts, query.after.as_ref(), query.limit).finish();
    Agents { agents, page }
}

/// A network.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct NetworkRow {
    pub name: String,
    pub uuid: Option<Uuid>,
    pub subnets: Vec<String>,
    pub containers: usize,
}

/// The networks that containers are on.
pub(crate) fn network_rows(reconciler: &Reconciler) -> Vec<NetworkRow> {
    let overview = reconciler.overview();
    let networks = reconciler.stores().networks.snapshot();
    overview
        .networks
        .iter()
        .map(|(name, containers)| {
            let network = networks.get(&**name);
            let subnets = network.map_or(&[][..], |network| &network.subnets);
            NetworkRow {
                name: name.to_string(),
                uuid: network.map(|network| network.uuid),
                subnets: subnets
                    .iter()
                    .map(|subnet| subnet.net.to_string())
                    .collect(),
                containers: *containers,
            }
        })
        .collect()
}

/// The networks that containers are on.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct Networks {
    networks: Vec<NetworkRow>,
    #[serde(flatten)]
    page: PageEnd,
}

/// The networks that containers are on.
pub(super) fn networks(reconciler: &Reconciler, query: &ListQuery) -> Networks {
    let rows = network_rows(reconciler)
        .into_iter()
        .map(|row| (row.name.clone(), row));
    let (networks, page) = paginate(rows, query.after.as_ref(), query.limit).finish();
    Networks { networks, page }
}

/// An interface of a container.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct InterfaceRow {
    pub uuid: Uuid,
    /// The network's name in the framework.
    pub network: Option<String>,
    pub virtual_network: Option<String>,
    /// Null where the address has not been read yet.
    pub addresses: Vec<Option<IpAddr>>,
    pub floating_addresses: Vec<Option<IpAddr>>,
    pub security_groups: Vec<String>,
}

/// A container.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct ContainerRow {
    pub machine: Uuid,
    pub name: Option<String>,
    pub app: Option<String>,
    pub task: Option<String>,
    pub framework: Option<String>,
    pub agent: String,
    pub agent_id: Option<String>,
    pub virtual_routers: Vec<String>,
    /// Whether every interface has an address and the container is linked to a virtual-router.
    pub complete: bool,
    pub known_seconds: u64,
    pub interfaces: Vec<InterfaceRow>,
}

fn container_row(view: &ContrailView, uuid: Uuid, container: &CachedVm) -> ContainerRow {
    let identity = &container.identity;
    let owned = |text: &Option<ArcStr>| text.as_deref().map(str::to_owned);
    let addresses =
        |objects: &[AddressObject]| objects.iter().map(|(_, address)| *address).collect();
    let interfaces = container
        .interfaces
        .iter()
        .map(|interface| InterfaceRow {
            uuid: interface.uuid,
            network: owned(&interface.network_name),
            virtual_network: interface.details.network.as_ref().map(ToString::to_string),
            addresses: addresses(&interface.details.addresses),
            floating_addresses: addresses(&interface.details.floating_ips),
            security_groups: interface
                .security_groups
                .iter()
                .map(ToString::to_string)
                .collect(),
        })
        .collect();
    let virtual_routers = view
        .routers
        .iter()
        .filter(|(_, router)| container.routers.contains(&router.uuid))
        .map(|(name, _)| name.to_string())
        .collect();
    ContainerRow {
        machine: uuid,
        name: container.display_name.as_deref().map(str::to_owned),
        app: owned(&identity.application),
        task: identity.task.as_deref().map(str::to_owned),
        framework: owned(&identity.framework),
        agent: container.agent.to_string(),
        agent_id: owned(&identity.mesos_agent),
        virtual_routers,
        complete: container.is_complete() && !container.routers.is_empty(),
        known_seconds: seconds_since(container.first_seen),
        interfaces,
    }
}

/// A page of the containers that match the filter.
pub(crate) fn container_rows(
    reconciler: &Reconciler,
    filter: &ContainerFilter,
    after: Option<&str>,
    limit: usize,
) -> Result<Page<Uuid, ContainerRow>, AdminError> {
    let view = reconciler.stores().contrail.snapshot();
    let containers = view
        .vms
        .iter()
        .filter(|(_, container)| filter.matches(container))
        .map(|(uuid, container)| (*uuid, container));
    let page = paginate(containers, after_uuid(after)?.as_ref(), limit);
    Ok(page.map(|uuid, container| container_row(&view, *uuid, container)))
}

/// The containers.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct ContainerList {
    containers: Vec<ContainerRow>,
    #[serde(flatten)]
    page: PageEnd,
}

/// The containers.
pub(super) fn containers(
    reconciler: &Reconciler,
    filter: &ContainerFilter,
    query: &ListQuery,
) -> Result<ContainerList, AdminError> {
    let page = container_rows(reconciler, filter, query.after.as_deref(), query.limit)?;
    let (containers, page) = page.finish();
    Ok(ContainerList { containers, page })
}

/// A container's task in Mesos.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct ContainerTask {
    id: String,
    framework_id: String,
    agent_id: Option<String>,
    state: TaskState,
    container: Option<String>,
}

/// Everything that is known about one container.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct ContainerDetails {
    machine: Uuid,
    /// Its id, as Mesos prints it.
    container: Option<String>,
    /// What it has in the VNC API.
    contrail: Option<ContainerRow>,
    /// Its task in Mesos.
    mesos: Option<ContainerTask>,
    /// `in-sync`, `out-of-sync`, `delete` or `defer`.
    decision: Option<&'static str>,
    /// The code of the reason to delete or to defer.
    reason: Option<&'static str>,
    /// The reason, for people.
    message: Option<String>,
    /// What would be written.
    differences: Vec<String>,
    /// Why labels are ignored.
    invalid_labels: Vec<String>,
    history: Vec<Entry>,
}

/// Everything that is known about one container.
pub(super) fn container(state: &AdminState, uuid: Uuid) -> Result<ContainerDetails, AdminError> {
    let contrail = state.contrail()?;
    let reconciler = contrail.reconciler.as_deref();
    let row = reconciler.and_then(|reconciler| {
        let view = reconciler.stores().contrail.snapshot();
        let container = view.vms.get(&uuid)?;
        Some(container_row(&view, uuid, container))
    });
    let task = reconciler.and_then(|reconciler| {
        let view = reconciler.stores().mesos.snapshot();
        let task = view.task_of(uuid)?;
        Some(ContainerTask {
            id: task.key.task.to_string(),
            framework_id: task.key.framework.to_string(),
            agent_id: task.agent.as_deref().map(str::to_owned),
            state: task.status.state,
            container: task.status.container.as_deref().map(str::to_owned),
        })
    });
    let decision = reconciler.and_then(|reconciler| reconciler.decision_of(uuid));
    let history = contrail.containers.history().get(uuid);
    if row.is_none() && task.is_none() && history.is_none() {
        return Err(unknown(uuid));
    }
    let (container, history) = history.unzip();
    let decision = decision.unwrap_or_default();
    Ok(ContainerDetails {
        machine: uuid,
        container: container.flatten().map(Into::into),
        contrail: row,
        mesos: task,
        decision: (!decision.decision.is_empty()).then_some(decision.decision),
        reason: decision.reason,
        message: decision.message,
        differences: decision.differences,
        invalid_labels: decision.invalid_labels,
        history: history.unwrap_or_default(),
    })
}

fn unknown(uuid: Uuid) -> AdminError {
    AdminError::not_found(format!(
        "no container has the uuid {uuid}; the leading manager knows most containers"
    ))
}

/// The history of one container, oldest first.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct ContainerHistory {
    machine: Uuid,
    /// Its id, as Mesos prints it.
    container: Option<String>,
    history: Vec<Entry>,
}

/// The history of one container.
pub(super) fn history(state: &AdminState, uuid: Uuid) -> Result<ContainerHistory, AdminError> {
    let (container, history) = state
        .contrail()?
        .containers
        .history()
        .get(uuid)
        .ok_or_else(|| unknown(uuid))?;
    Ok(ContainerHistory {
        machine: uuid,
        container: container.map(Into::into),
        history,
    })
}

/// A container that differs from its desired state.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct DifferenceRow {
    machine: Uuid,
    /// What would be written.
    differences: Vec<String>,
    /// Why labels are ignored.
    invalid_labels: Vec<String>,
}

/// What would be written.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct Differences {
    /// How many containers are skipped, by the code of the reason.
    skipped: BTreeMap<&'static str, usize>,
    differences: Vec<DifferenceRow>,
    #[serde(flatten)]
    page: PageEnd,
}

/// What would be written.
pub(super) fn differences(
    reconciler: &Reconciler,
    query: &ListQuery,
) -> Result<Differences, AdminError> {
    let overview = reconciler.overview();
    let rows = overview.differences.iter().map(|(uuid, changes)| {
        let invalid_labels = overview.invalid_labels.get(uuid);
        let row = DifferenceRow {
            machine: *uuid,
            differences: changes.iter().map(ToString::to_string).collect(),
            invalid_labels: invalid_labels.cloned().unwrap_or_default(),
        };
        (*uuid, row)
    });
    let after = after_uuid(query.after.as_deref())?;
    let (differences, page) = paginate(rows, after.as_ref(), query.limit).finish();
    Ok(Differences {
        skipped: overview.deferred.clone(),
        differences,
        page,
    })
}

/// An entry of the queue.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct QueueRow {
    /// `container`, or the kind of an orphan with its uuid.
    what: String,
    uuid: Uuid,
    /// How long it has waited, in seconds.
    waits_seconds: u64,
    /// In how many seconds it is due; null while it is in progress.
    due_in_seconds: Option<u64>,
    in_progress: bool,
    /// How often it has failed.
    failures: u32,
    /// The last error.
    error: Option<String>,
}

/// The queue.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct Queue {
    /// The first entries; failed ones come first.
    queue: Vec<QueueRow>,
    /// The length of the whole queue.
    total: usize,
    /// How many entries have failed.
    failing: usize,
}

/// The queue, failed entries first.
pub(super) fn queue(reconciler: &Reconciler, limit: usize) -> Queue {
    let (entries, total, failing) = reconciler.queued(limit);
    let now = Instant::now();
    let rows = entries.iter().map(|entry| {
        let (what, uuid) = match entry.key {
            Key::Container(uuid) => ("container".to_owned(), uuid),
            Key::Orphan(orphan) => (orphan.to_string(), orphan.uuid()),
        };
        let due_in = entry.due.map(|due| due.saturating_duration_since(now));
        QueueRow {
            what,
            uuid,
            waits_seconds: seconds_since(entry.since),
            due_in_seconds: due_in.map(|due_in| due_in.as_secs()),
            in_progress: entry.due.is_none(),
            failures: entry.failures,
            error: entry.error.as_deref().map(str::to_owned),
        }
    });
    Queue {
        queue: rows.collect(),
        total,
        failing,
    }
}

/// A manager that may lead.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct ManagerRow {
    leads: bool,
    /// Whether it is the one that answers.
    this: bool,
    url: String,
}

/// The leader, the candidates, and this manager.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct Managers {
    /// The URL of this manager's API for agents.
    this: String,
    version: &'static str,
    /// When this manager started: RFC 3339.
    started: String,
    /// Whether the leader is elected, so that there may be others.
    elected: bool,
    /// Whether this manager leads.
    leading: bool,
    /// The term in which it does.
    term: Option<u64>,
    /// For how long it may write without being confirmed.
    lease_seconds: Option<f64>,
    leader: Option<String>,
    no_leader_reason: Option<String>,
    managers: Vec<ManagerRow>,
    /// Whether this manager serves requests itself.
    serving: bool,
    not_serving_reason: Option<String>,
    /// When the objects that must exist before containers were made: RFC 3339.
    provisioned: Option<String>,
}

/// The leader, the candidates, and this manager.
pub(super) fn managers(state: &AdminState) -> Managers {
    let leadership = state.fence.leadership().borrow().clone();
    let (leader, no_leader_reason) = match &leadership {
        Leadership::Leading { .. } => (Some(state.url.clone()), None),
        Leadership::Following { leader } => (Some(leader.to_string()), None),
        Leadership::Unknown { reason } => (None, Some(reason.clone())),
    };
    let ready = state.ready.borrow().clone();
    let candidates = state.fence.candidates().into_iter();
    let managers = candidates.map(|url| ManagerRow {
        leads: leader.as_ref() == Some(&url),
        this: url == state.url,
        url,
    });
    Managers {
        this: state.url.clone(),
        version: env!("CARGO_PKG_VERSION"),
        started: timestamp(state.started),
        elected: state.elected,
        leading: state.fence.term().is_some(),
        term: state.fence.term(),
        lease_seconds: state.fence.lease_left().map(|left| left.as_secs_f64()),
        managers: managers.collect(),
        leader,
        no_leader_reason,
        serving: ready.unready.is_none(),
        not_serving_reason: ready.unready,
        provisioned: ready
            .prepared
            .filter(|_| state.contrail.is_some())
            .map(timestamp),
    }
}

/// The current problems.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct Problems {
    problems: Vec<Problem>,
    /// Whether those of containers and sources are among them: only the leader knows them.
    complete: bool,
    /// The leader, if that is another manager.
    leader: Option<LeaderLink>,
}

/// The current problems. Those of containers and sources are known to the leader only.
pub(super) fn problems(state: &AdminState) -> Problems {
    let leader = state.leader();
    Problems {
        problems: problems::find(state),
        complete: leader.is_none(),
        leader,
    }
}
