//! What is in each answer.

use std::net::IpAddr;

use arcstr::ArcStr;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Answer, Chosen, Page, Refused, choose};
use crate::admin::Shown;
use crate::fence::Leadership;
use crate::history::timestamp;
use crate::reconcile::{Key, Reconciler};
use crate::stores::contrail::{ContrailView, Given, Machine};
use crate::stores::source::Source;

/// How a source is.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SourceRow {
    pub source: &'static str,
    /// Fresh, doubted, lost, or never heard of.
    pub state: &'static str,
    /// Whether it is followed, and has listed everything since.
    pub fresh: bool,
    /// Since when it has been believed, in seconds.
    pub trusted_seconds: Option<u64>,
    /// When it last listed everything, in seconds ago.
    pub age_seconds: Option<u64>,
    /// Why it is not believed.
    pub problem: Option<String>,
}

fn ago(then: Instant) -> u64 {
    Instant::now().saturating_duration_since(then).as_secs()
}

fn source(name: &'static str, source: &Source) -> SourceRow {
    let believed = source.believed_since();
    SourceRow {
        source: name,
        state: source.state(),
        fresh: source.is_fresh(),
        trusted_seconds: believed.map(ago),
        age_seconds: source.last_listed().map(ago),
        problem: believed.is_none().then(|| source.problem(Instant::now())),
    }
}

/// How the sources are that are followed.
pub(crate) fn sources(reconciler: &Reconciler) -> Vec<SourceRow> {
    let stores = reconciler.stores();
    let mut rows = vec![
        stores
            .contrail
            .read(|view| source("contrail", &view.source)),
        stores.mesos.read(|view| source("mesos", &view.source)),
    ];
    if reconciler.follows_marathon() {
        rows.push(
            stores
                .marathon
                .read(|view| source("marathon", &view.source)),
        );
    }
    rows
}

/// A page of a list.
fn page<K: ToString, T: Serialize>(name: &str, chosen: Chosen<K, T>, more: Value) -> Value {
    let last = chosen.elements.last().filter(|_| chosen.more);
    let next = last.map(|(key, _)| key.to_string());
    let rows: Vec<T> = chosen.elements.into_iter().map(|(_, row)| row).collect();
    let mut answer = more;
    answer[name] = serde_json::to_value(rows).unwrap_or_default();
    answer["total"] = chosen.total.into();
    answer["next"] = next.into();
    answer
}

fn uuid(page: &Page) -> Result<Option<Uuid>, Refused> {
    let after = page.after.as_deref().filter(|after| !after.is_empty());
    let parsed = after.map(|after| {
        after
            .parse()
            .map_err(|_| Refused::wrong("after= is not the uuid that an answer called next"))
    });
    parsed.transpose()
}

/// What Mesos says.
pub(super) fn mesos(reconciler: &Reconciler, asked: &Page) -> Answer {
    let view = reconciler.stores().mesos.snapshot();
    // The ids of frameworks have no blank.
    let tasks = view.tasks().map(|task| {
        let key = format!("{} {}", task.key.framework, task.key.task);
        (key, task)
    });
    let chosen = choose(tasks, asked.after.as_ref(), asked.limit()?);
    let elements = chosen.elements.into_iter().map(|(key, task)| {
        let row = json!({
            "id": &*task.key.task,
            "framework_id": &*task.key.framework,
            "framework": view.framework(&task.key.framework),
            "agent_id": task.agent.as_deref(),
            "agent": task.agent.as_ref().and_then(|id| Some(&*view.agent(id)?.host)),
            "executor": task.executor(),
            "state": task.status.state,
            "container": task.status.container,
        });
        (key, row)
    });
    let chosen = Chosen {
        elements: elements.collect(),
        total: chosen.total,
        more: chosen.more,
    };
    let skipped: Vec<_> = view
        .skipped()
        .iter()
        .take(20)
        .map(|one| &*one.problem)
        .collect();
    let more = json!({
        "source": source("mesos", &view.source),
        "agents": view.agents().len(),
        "frameworks": view.frameworks().map(|one| json!({
            "id": &*one.id, "name": &*one.name, "connected": one.active,
        })).collect::<Vec<_>>(),
        "unreadable": { "count": view.skipped().len(), "first": skipped },
    });
    Ok(page("tasks", chosen, more))
}

/// What Marathon says.
pub(super) fn marathon(reconciler: &Reconciler, asked: &Page) -> Answer {
    if !reconciler.follows_marathon() {
        return Err(Refused::missing(
            "Marathon is not followed; see [marathon] in the configuration",
        ));
    }
    let view = reconciler.stores().marathon.snapshot();
    let specs = view
        .specs()
        .map(|(id, spec)| (id.as_str().to_owned(), spec));
    let chosen = choose(specs, asked.after.as_ref(), asked.limit()?);
    let rows = chosen.elements.into_iter().map(|(id, spec)| {
        let networks = spec.networks.iter().map(|network| {
            let labels = network.labels.iter();
            let labels: serde_json::Map<_, _> = labels
                .map(|(key, value)| (key.to_string(), Value::from(&**value)))
                .collect();
            json!({ "name": network.name.as_deref(), "mode": network.mode, "labels": labels })
        });
        let networks: Vec<_> = networks.collect();
        let row = json!({
            "id": id,
            "networks": networks,
            "tasks": spec.tasks.len(),
            // Those of all apps together may be many.
            "first_tasks": spec.tasks.iter().take(20).map(|task| &**task).collect::<Vec<_>>(),
        });
        (id, row)
    });
    let chosen = Chosen {
        elements: rows.collect(),
        total: chosen.total,
        more: chosen.more,
    };
    let skipped = view.skipped();
    let more = json!({
        "source": source("marathon", &view.source),
        "unreadable": { "count": skipped.len(), "first": skipped.iter().take(20).collect::<Vec<_>>() },
    });
    Ok(page("apps", chosen, more))
}

/// What the VNC API says of all.
pub(super) fn contrail(reconciler: &Reconciler, asked: &Page) -> Answer {
    let view = reconciler.stores().contrail.snapshot();
    let limit = asked.limit()?;
    let routers = view.routers.iter().map(|(name, router)| {
        let row = json!({ "name": &**name, "uuid": router.uuid, "address": router.address });
        (name.to_string(), row)
    });
    let orphans = view.orphans.iter().map(|(orphan, since)| {
        let row = json!({ "what": orphan.to_string(), "known_seconds": ago(*since) });
        (*orphan, row)
    });
    let orphans = choose(orphans, None, limit);
    let more = json!({
        "source": source("contrail", &view.source),
        "containers": view.machines.len(),
        "orphans": orphans.elements.into_iter().map(|(_, row)| row).collect::<Vec<_>>(),
        "orphans_total": orphans.total,
    });
    Ok(page(
        "virtual_routers",
        choose(routers, asked.after.as_ref(), limit),
        more,
    ))
}

/// The hosts.
pub(super) fn agents(reconciler: &Reconciler, asked: &Page) -> Answer {
    let survey = reconciler.survey();
    let hosts = survey.hosts.iter().map(|(name, host)| {
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
    let chosen = choose(hosts, asked.after.as_ref(), asked.limit()?);
    Ok(page("agents", chosen, json!({})))
}

/// A network.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NetworkRow {
    pub name: String,
    pub uuid: Option<Uuid>,
    pub subnets: Vec<String>,
    pub containers: usize,
}

/// The networks.
pub(crate) fn network_rows(reconciler: &Reconciler) -> Vec<NetworkRow> {
    let survey = reconciler.survey();
    let known = reconciler.stores().networks.snapshot();
    let networks = survey.networks.iter().map(|(name, containers)| {
        let known = known.get(&**name);
        let subnets = known.map_or(&[][..], |network| &network.subnets);
        NetworkRow {
            name: name.to_string(),
            uuid: known.map(|network| network.uuid),
            subnets: subnets
                .iter()
                .map(|subnet| subnet.net.to_string())
                .collect(),
            containers: *containers,
        }
    });
    networks.collect()
}

/// The networks.
pub(super) fn networks(reconciler: &Reconciler, asked: &Page) -> Answer {
    let rows = network_rows(reconciler).into_iter();
    let rows = rows.map(|row| (row.name.clone(), row));
    Ok(page(
        "networks",
        choose(rows, asked.after.as_ref(), asked.limit()?),
        json!({}),
    ))
}

/// An interface of a container.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct InterfaceRow {
    pub uuid: Uuid,
    /// What the framework calls its network.
    pub network: Option<String>,
    pub virtual_network: Option<String>,
    /// Null where it is not read yet.
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
    /// Whether every interface has an address, and a host.
    pub complete: bool,
    pub known_seconds: u64,
    pub interfaces: Vec<InterfaceRow>,
}

fn container_row(view: &ContrailView, machine: Uuid, found: &Machine) -> ContainerRow {
    let names = &found.names;
    let owned = |text: &Option<ArcStr>| text.as_deref().map(str::to_owned);
    let routers = view.routers.iter();
    let routers = routers.filter(|(_, router)| found.routers.contains(&router.uuid));
    let given = |given: &[Given]| given.iter().map(|(_, address)| *address).collect();
    let interfaces = found.interfaces.iter().map(|one| InterfaceRow {
        uuid: one.uuid,
        network: owned(&one.network),
        virtual_network: one.details.network.as_ref().map(ToString::to_string),
        addresses: given(&one.details.addresses),
        floating_addresses: given(&one.details.floating),
        security_groups: one.groups.iter().map(ToString::to_string).collect(),
    });
    ContainerRow {
        machine,
        name: found.display_name.as_deref().map(str::to_owned),
        app: owned(&names.application),
        task: names.task.as_deref().map(str::to_owned),
        framework: owned(&names.framework),
        agent: found.agent.to_string(),
        agent_id: owned(&names.mesos_agent),
        virtual_routers: routers.map(|(name, _)| name.to_string()).collect(),
        complete: found.is_whole() && !found.routers.is_empty(),
        known_seconds: ago(found.seen),
        interfaces: interfaces.collect(),
    }
}

/// Whether a container is among those that are asked for.
fn is_asked(asked: &Page, machine: &Machine) -> bool {
    let has = |wanted: &Option<String>, text: Option<&str>| match wanted.as_deref().map(str::trim) {
        None | Some("") => true,
        Some(wanted) => text.is_some_and(|text| text.contains(wanted)),
    };
    let mut interfaces = machine.interfaces.iter();
    has(&asked.agent, Some(&machine.agent))
        && has(&asked.app, machine.names.application.as_deref())
        && (has(&asked.network, None)
            || interfaces.any(|one| {
                let full = one.details.network.as_ref().map(ToString::to_string);
                has(&asked.network, full.as_deref()) || has(&asked.network, one.network.as_deref())
            }))
}

/// A page of the containers that are asked for.
pub(crate) fn container_rows(
    reconciler: &Reconciler,
    asked: &Page,
    limit: usize,
) -> Result<Chosen<Uuid, ContainerRow>, Refused> {
    let view = reconciler.stores().contrail.snapshot();
    let all = view.machines.iter();
    let all = all.filter(|(_, machine)| is_asked(asked, machine));
    let all = all.map(|(uuid, machine)| (*uuid, machine));
    let chosen = choose(all, uuid(asked)?.as_ref(), limit);
    let rows = chosen.elements.into_iter();
    let rows = rows.map(|(uuid, machine)| (uuid, container_row(&view, uuid, machine)));
    Ok(Chosen {
        elements: rows.collect(),
        total: chosen.total,
        more: chosen.more,
    })
}

/// The containers.
pub(super) fn containers(reconciler: &Reconciler, asked: &Page) -> Answer {
    let chosen = container_rows(reconciler, asked, asked.limit()?)?;
    Ok(page("containers", chosen, json!({})))
}

/// One container, with everything that is known of it.
pub(super) fn container(shown: &Shown, machine: Uuid) -> Answer {
    let reconciler = shown.reconciler.as_deref();
    let row = reconciler.and_then(|reconciler| {
        let view = reconciler.stores().contrail.snapshot();
        let found = view.machines.get(&machine)?;
        Some(container_row(&view, machine, found))
    });
    let task = reconciler.and_then(|reconciler| {
        let view = reconciler.stores().mesos.snapshot();
        let task = view.task_of(machine)?;
        Some(json!({
            "id": &*task.key.task,
            "framework_id": &*task.key.framework,
            "agent_id": task.agent.as_deref(),
            "state": task.status.state,
            "container": task.status.container,
        }))
    });
    let decision = reconciler.and_then(|reconciler| reconciler.decision_of(machine));
    let history = shown.containers.history().get(machine);
    if row.is_none() && task.is_none() && history.is_none() {
        return Err(unknown(machine));
    }
    let (container, history) = history.unzip();
    let decision = decision.unwrap_or_default();
    Ok(json!({
        "machine": machine,
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

fn unknown(machine: Uuid) -> Refused {
    Refused::missing(format!(
        "nothing is known of a container with the machine {machine}; the leading manager knows most"
    ))
}

/// What happened to a container.
pub(super) fn history(shown: &Shown, machine: Uuid) -> Answer {
    let (container, entries) = shown
        .containers
        .history()
        .get(machine)
        .ok_or_else(|| unknown(machine))?;
    Ok(json!({ "machine": machine, "container": container, "history": entries }))
}

/// What would be written.
pub(super) fn differences(reconciler: &Reconciler, asked: &Page) -> Answer {
    let survey = reconciler.survey();
    let rows = survey.differences.iter().map(|(uuid, planned)| {
        let differences = planned.differences.iter().map(ToString::to_string);
        let row = json!({
            "machine": uuid,
            "differences": differences.collect::<Vec<_>>(),
            "invalid_labels": planned.problems,
        });
        (*uuid, row)
    });
    let chosen = choose(rows, uuid(asked)?.as_ref(), asked.limit()?);
    Ok(page(
        "differences",
        chosen,
        json!({ "skipped": survey.doubts }),
    ))
}

/// What waits: what failed first.
pub(super) fn queue(reconciler: &Reconciler, asked: &Page) -> Answer {
    let (waiting, length, failing) = reconciler.queued(asked.limit()?);
    let now = Instant::now();
    let rows = waiting.iter().map(|one| {
        let (what, uuid) = match one.key {
            Key::Machine(uuid) => ("container".to_owned(), uuid),
            Key::Orphan(orphan) => (orphan.to_string(), orphan.uuid()),
        };
        json!({
            "what": what,
            "uuid": uuid,
            "waits_seconds": ago(one.since),
            "due_in_seconds": one.due.map(|due| due.saturating_duration_since(now).as_secs()),
            "worked_on": one.due.is_none(),
            "failures": one.failures,
            "error": one.error,
        })
    });
    let rows: Vec<_> = rows.collect();
    Ok(json!({ "queue": rows, "total": length, "failing": failing }))
}

/// Who leads.
pub(super) fn managers(shown: &Shown) -> Value {
    let leadership = shown.fence.leadership().borrow().clone();
    let (leader, reason) = match &leadership {
        Leadership::Leading { .. } => (Some(shown.url.clone()), None),
        Leadership::Following { leader } => (Some(leader.to_string()), None),
        Leadership::Unknown { reason } => (None, Some(reason.clone())),
    };
    let ready = shown.ready.borrow().clone();
    let managers = shown.fence.managers().into_iter().map(|url| {
        json!({
            "leads": leader.as_ref() == Some(&url),
            "this": url == shown.url,
            "url": url,
        })
    });
    json!({
        "this": shown.url,
        "version": env!("CARGO_PKG_VERSION"),
        "started": timestamp(shown.started),
        "elected": shown.elected,
        "leading": shown.fence.term().is_some(),
        "term": shown.fence.term(),
        "lease_seconds": shown.fence.lease_left().map(|left| left.as_secs_f64()),
        "leader": leader,
        "no_leader_reason": reason,
        "managers": managers.collect::<Vec<_>>(),
        "serving": ready.unready.is_none(),
        "not_serving_reason": ready.unready,
        "provisioned": ready.provisioned.map(timestamp),
    })
}
