//! The body of each response.

use std::net::IpAddr;

use arcstr::ArcStr;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::JsonResult;
use super::filter::ContainerFilter;
use super::paginate::{ListQuery, Page, paginate};
use crate::admin::problems;
use crate::admin::state::{AdminError, AdminState};
use crate::fence::Leadership;
use crate::history::timestamp;
use crate::model::{AddressObject, CachedVm};
use crate::reconcile::{Key, Reconciler};
use crate::stores::contrail::ContrailView;
use crate::stores::status::SourceStatus;

/// How many unreadable entries, and tasks of an app, are returned.
const MAX_SAMPLES: usize = 20;

fn seconds_since(then: Instant) -> u64 {
    Instant::now().saturating_duration_since(then).as_secs()
}

/// A response with one page of a list under `name`, and more fields.
pub(super) fn list_response<K: ToString, T: Serialize>(
    name: &str,
    page: Page<K, T>,
    fields: Value,
) -> Value {
    let last = page.elements.last().filter(|_| page.more);
    let next = last.map(|(key, _)| key.to_string());
    let rows: Vec<T> = page.elements.into_iter().map(|(_, row)| row).collect();
    let mut response = fields;
    response[name] = serde_json::to_value(rows).unwrap_or_default();
    response["total"] = page.total.into();
    response["next"] = next.into();
    response
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

/// The tasks in Mesos.
pub(super) fn mesos(reconciler: &Reconciler, query: &ListQuery) -> Value {
    let view = reconciler.stores().mesos.snapshot();
    // A framework's id has no blank, so that this key is unique.
    let tasks = view.tasks().map(|task| {
        let key = format!("{} {}", task.key.framework, task.key.task);
        (key, task)
    });
    let page = paginate(tasks, query.after.as_ref(), query.limit).map(|_, task| {
        json!({
            "id": &*task.key.task,
            "framework_id": &*task.key.framework,
            "framework": view.framework(&task.key.framework),
            "agent_id": task.agent.as_deref(),
            "agent": task.agent.as_ref().and_then(|id| Some(&*view.agent(id)?.host)),
            "executor": task.executor(),
            "state": task.status.state,
            "container": task.status.container,
        })
    });
    let frameworks: Vec<_> = view
        .frameworks()
        .map(|framework| {
            json!({
                "id": &*framework.id,
                "name": &*framework.name,
                "connected": framework.active,
            })
        })
        .collect();
    let unreadable: Vec<_> = view
        .skipped()
        .iter()
        .take(MAX_SAMPLES)
        .map(|entry| &*entry.problem)
        .collect();
    let fields = json!({
        "source": SourceStatus::new("mesos", &view.source),
        "agents": view.agents().len(),
        "frameworks": frameworks,
        "unreadable": { "count": view.skipped().len(), "first": unreadable },
    });
    list_response("tasks", page, fields)
}

/// The apps and pods in Marathon.
pub(super) fn marathon(reconciler: &Reconciler, query: &ListQuery) -> JsonResult {
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
        let networks: Vec<_> = spec
            .networks
            .iter()
            .map(|network| {
                let labels: serde_json::Map<_, _> = network
                    .labels
                    .iter()
                    .map(|(key, value)| (key.to_string(), Value::from(&**value)))
                    .collect();
                json!({ "name": network.name.as_deref(), "mode": network.mode, "labels": labels })
            })
            .collect();
        json!({
            "id": id,
            "networks": networks,
            "tasks": spec.tasks.len(),
            // A sample: the tasks of all apps may be many.
            "first_tasks": spec.tasks.iter().take(MAX_SAMPLES).map(|task| &**task).collect::<Vec<_>>(),
        })
    });
    let unreadable = view.skipped();
    let fields = json!({
        "source": SourceStatus::new("marathon", &view.source),
        "unreadable": {
            "count": unreadable.len(),
            "first": unreadable.iter().take(MAX_SAMPLES).collect::<Vec<_>>(),
        },
    });
    Ok(list_response("apps", page, fields))
}

/// The virtual-routers and orphans in the VNC API.
pub(super) fn contrail(reconciler: &Reconciler, query: &ListQuery) -> Value {
    let view = reconciler.stores().contrail.snapshot();
    let limit = query.limit;
    let routers = view.routers.iter().map(|(name, router)| {
        let row = json!({ "name": &**name, "uuid": router.uuid, "address": router.address });
        (name.to_string(), row)
    });
    let orphans = view.orphans.iter().map(|(orphan, since)| {
        let row = json!({ "what": orphan.to_string(), "known_seconds": seconds_since(*since) });
        (*orphan, row)
    });
    let orphans = paginate(orphans, None, limit);
    let fields = json!({
        "source": SourceStatus::new("contrail", &view.source),
        "containers": view.vms.len(),
        "orphans": orphans.elements.into_iter().map(|(_, row)| row).collect::<Vec<_>>(),
        "orphans_total": orphans.total,
    });
    let page = paginate(routers, query.after.as_ref(), limit);
    list_response("virtual_routers", page, fields)
}

/// The agents, joined with the virtual-routers.
pub(super) fn agents(reconciler: &Reconciler, query: &ListQuery) -> Value {
    let overview = reconciler.overview();
    let hosts = overview.hosts.iter().map(|(name, host)| {
        let row = json!({
            "name": name,
            "agent_id": host.agent.as_deref(),
            "connected": host.agent.is_some().then_some(host.connected),
            "address": host.address,
            "virtual_router": host.router.as_deref(),
            "containers": host.containers,
            "tasks": host.tasks,
        });
        (name.to_string(), row)
    });
    let page = paginate(hosts, query.after.as_ref(), query.limit);
    list_response("agents", page, json!({}))
}

/// A network.
#[derive(Clone, Debug, Serialize)]
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
pub(super) fn networks(reconciler: &Reconciler, query: &ListQuery) -> Value {
    let rows = network_rows(reconciler)
        .into_iter()
        .map(|row| (row.name.clone(), row));
    let page = paginate(rows, query.after.as_ref(), query.limit);
    list_response("networks", page, json!({}))
}

/// An interface of a container.
#[derive(Clone, Debug, Serialize)]
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
#[derive(Clone, Debug, Serialize)]
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
pub(super) fn containers(
    reconciler: &Reconciler,
    filter: &ContainerFilter,
    query: &ListQuery,
) -> JsonResult {
    let page = container_rows(reconciler, filter, query.after.as_deref(), query.limit)?;
    Ok(list_response("containers", page, json!({})))
}

/// Everything that is known about one container.
pub(super) fn container(state: &AdminState, uuid: Uuid) -> JsonResult {
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
        Some(json!({
            "id": &*task.key.task,
            "framework_id": &*task.key.framework,
            "agent_id": task.agent.as_deref(),
            "state": task.status.state,
            "container": task.status.container,
        }))
    });
    let decision = reconciler.and_then(|reconciler| reconciler.decision_of(uuid));
    let history = contrail.containers.history().get(uuid);
    if row.is_none() && task.is_none() && history.is_none() {
        return Err(unknown(uuid));
    }
    let (container, history) = history.unzip();
    let decision = decision.unwrap_or_default();
    Ok(json!({
        "machine": uuid,
        "container": container.flatten(),
        "contrail": row,
        "mesos": task,
        "decision": (!decision.decision.is_empty()).then_some(decision.decision),
        "reason": decision.reason,
        "message": decision.message,
        "differences": decision.differences,
        "invalid_labels": decision.invalid_labels,
        "history": history.unwrap_or_default(),
    }))
}

fn unknown(uuid: Uuid) -> AdminError {
    AdminError::not_found(format!(
        "no container has the uuid {uuid}; the leading manager knows most containers"
    ))
}

/// The history of one container.
pub(super) fn history(state: &AdminState, uuid: Uuid) -> JsonResult {
    let (container, entries) = state
        .contrail()?
        .containers
        .history()
        .get(uuid)
        .ok_or_else(|| unknown(uuid))?;
    Ok(json!({ "machine": uuid, "container": container, "history": entries }))
}

/// What would be written.
pub(super) fn differences(reconciler: &Reconciler, query: &ListQuery) -> JsonResult {
    let overview = reconciler.overview();
    let rows = overview.differences.iter().map(|(uuid, changes)| {
        let differences = changes.iter().map(ToString::to_string);
        let row = json!({
            "machine": uuid,
            "differences": differences.collect::<Vec<_>>(),
            "invalid_labels": overview.invalid_labels.get(uuid).map_or(&[][..], Vec::as_slice),
        });
        (*uuid, row)
    });
    let page = paginate(
        rows,
        after_uuid(query.after.as_deref())?.as_ref(),
        query.limit,
    );
    let fields = json!({ "skipped": overview.deferred });
    Ok(list_response("differences", page, fields))
}

/// The queue, failed entries first.
pub(super) fn queue(reconciler: &Reconciler, limit: usize) -> Value {
    let (entries, length, failing) = reconciler.queued(limit);
    let now = Instant::now();
    let rows: Vec<_> = entries
        .iter()
        .map(|entry| {
            let (what, uuid) = match entry.key {
                Key::Container(uuid) => ("container".to_owned(), uuid),
                Key::Orphan(orphan) => (orphan.to_string(), orphan.uuid()),
            };
            json!({
                "what": what,
                "uuid": uuid,
                "waits_seconds": seconds_since(entry.since),
                "due_in_seconds": entry.due.map(|due| due.saturating_duration_since(now).as_secs()),
                "in_progress": entry.due.is_none(),
                "failures": entry.failures,
                "error": entry.error,
            })
        })
        .collect();
    json!({ "queue": rows, "total": length, "failing": failing })
}

/// The leader, the candidates, and this manager.
pub(super) fn managers(state: &AdminState) -> Value {
    let leadership = state.fence.leadership().borrow().clone();
    let (leader, no_leader_reason) = match &leadership {
        Leadership::Leading { .. } => (Some(state.url.clone()), None),
        Leadership::Following { leader } => (Some(leader.to_string()), None),
        Leadership::Unknown { reason } => (None, Some(reason.clone())),
    };
    let ready = state.ready.borrow().clone();
    let managers: Vec<_> = state
        .fence
        .candidates()
        .into_iter()
        .map(|url| {
            json!({
                "leads": leader.as_ref() == Some(&url),
                "this": url == state.url,
                "url": url,
            })
        })
        .collect();
    json!({
        "this": state.url,
        "version": env!("CARGO_PKG_VERSION"),
        "started": timestamp(state.started),
        "elected": state.elected,
        "leading": state.fence.term().is_some(),
        "term": state.fence.term(),
        "lease_seconds": state.fence.lease_left().map(|left| left.as_secs_f64()),
        "leader": leader,
        "no_leader_reason": no_leader_reason,
        "managers": managers,
        "serving": ready.unready.is_none(),
        "not_serving_reason": ready.unready,
        "provisioned": ready.prepared.filter(|_| state.contrail.is_some()).map(timestamp),
    })
}

/// The current problems. Those of containers and sources are known to the leader only.
pub(super) fn problems(state: &AdminState) -> Value {
    let leader = state.leader();
    json!({
        "problems": problems::find(state),
        "complete": leader.is_none(),
        "leader": leader,
    })
}
