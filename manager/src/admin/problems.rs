//! Current problems, for the JSON and the status page.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use contrail_mesos_api::cluster::{NodeCondition, NodeStatus};
use contrail_mesos_api::text::truncate;
use schemars::JsonSchema;
use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::AdminState;
use crate::cluster::Cluster;
use crate::contrail::Contrail;
use crate::fence::Leadership;
use crate::history::timestamp;
use crate::overlay::OverlayUsage;
use crate::reconcile::{Key, Reconciler};
use crate::services::{RangeUsage, Services};

/// How long a container's last failure counts as a problem.
const FAILURE_TTL: Duration = Duration::from_mins(15);
/// How long nodes may take to find a new leader.
const RECONNECT_TIME: Duration = Duration::from_mins(2);
/// How many problems of a kind are listed.
const MAX_PER_KIND: usize = 20;
/// How long the subject of a service's problem is at most.
const MAX_SUBJECT_CHARS: usize = 300;
/// How many failures are looked at.
const MAX_FAILURES: usize = 10_000;

/// A problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct Problem {
    /// A stable code.
    pub kind: &'static str,
    /// Whether it keeps containers from being created or reconciled.
    pub severe: bool,
    /// What has the problem.
    pub subject: String,
    /// What the problem is, in words.
    pub message: String,
    /// What to do about it.
    pub todo: &'static str,
    /// The app or pod, where the problem is of one.
    pub app: Option<String>,
    /// How many containers have it.
    pub count: usize,
    /// When it occurred first, where that is known.
    #[serde(serialize_with = "serialize_timestamp")]
    #[schemars(with = "Option<String>")]
    pub first: Option<SystemTime>,
    /// When it occurred last, where that is known.
    #[serde(serialize_with = "serialize_timestamp")]
    #[schemars(with = "Option<String>")]
    pub last: Option<SystemTime>,
}

#[expect(clippy::ref_option, reason = "this is how serde calls it")]
fn serialize_timestamp<S: Serializer>(
    at: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    at.map(timestamp).serialize(serializer)
}

impl Problem {
    fn new(
        kind: &'static str,
        subject: impl Into<String>,
        message: impl Into<String>,
        todo: &'static str,
    ) -> Self {
        Self {
            kind,
            severe: false,
            subject: subject.into(),
            message: message.into(),
            todo,
            app: None,
            count: 1,
            first: None,
            last: None,
        }
    }

    fn severe(self) -> Self {
        Self {
            severe: true,
            ..self
        }
    }
}

/// What several containers have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Cause {
    app: Option<String>,
    /// The message without the uuids of single containers.
    text: String,
}

/// The containers with one cause.
#[derive(Clone, Debug)]
struct CauseGroup {
    /// Any of them.
    uuid: Uuid,
    /// The latest message.
    message: String,
    count: usize,
    first: Option<SystemTime>,
    last: Option<SystemTime>,
}

/// The failures of many containers by their cause.
#[derive(Debug, Default)]
struct Causes(HashMap<Cause, CauseGroup>);

impl Causes {
    fn add(
        &mut self,
        app: Option<String>,
        uuid: Uuid,
        message: &str,
        (first, last): (Option<SystemTime>, Option<SystemTime>),
    ) {
        let text = without_uuids(message);
        let group = self.0.entry(Cause { app, text });
        let group = group.or_insert_with(|| CauseGroup {
            uuid,
            message: message.to_owned(),
            count: 0,
            first,
            last,
        });
        group.count += 1;
        group.first = group.first.min(first);
        if last > group.last {
            (group.last, group.message) = (last, message.to_owned());
        }
    }

    /// A problem for each cause, those of the most containers first.
    fn push_problems(self, kind: &'static str, todo: &'static str, problems: &mut Vec<Problem>) {
        let total = self.0.len();
        let mut groups: Vec<_> = self.0.into_iter().collect();
        groups.sort_by(|(one, first), (other, second)| {
            let order = second.count.cmp(&first.count);
            order
                .then_with(|| second.last.cmp(&first.last))
                .then_with(|| one.app.cmp(&other.app))
                .then_with(|| one.text.cmp(&other.text))
        });
        for (Cause { app, text }, group) in groups.into_iter().take(MAX_PER_KIND) {
            let subject = match (&app, group.count) {
                (Some(app), 1) => format!("app {app}, 1 container"),
                (Some(app), count) => format!("app {app}, {count} containers"),
                (None, 1) => format!("container {}", group.uuid),
                (None, count) => format!("{count} containers"),
            };
            let message = if group.count == 1 {
                group.message
            } else {
                text
            };
            problems.push(Problem {
                app,
                count: group.count,
                first: group.first,
                last: group.last,
                ..Problem::new(kind, subject, message, todo)
            });
        }
        push_remaining(kind, total, todo, problems);
    }
}

/// A message whose uuids are left out: those of containers differ although the cause does not.
fn without_uuids(message: &str) -> String {
    const LENGTH: usize = 36;
    let mut text = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(first) = rest.chars().next() {
        let uuid = rest
            .get(..LENGTH)
            .filter(|part| Uuid::try_parse(part).is_ok());
        let end = uuid.map_or(first.len_utf8(), str::len);
        text.push_str(if uuid.is_some() { "…" } else { &rest[..end] });
        rest = &rest[end..];
    }
    text
}

/// All current problems, severe ones first.
pub(super) fn find(state: &AdminState) -> Vec<Problem> {
    let mut problems = vec![];
    manager_problems(state, &mut problems);
    // A standby neither follows the sources nor serves requests.
    let leads = state.fence.term().is_some();
    let contrail = state.contrail.as_ref();
    let reconciler = contrail.and_then(|contrail| contrail.reconciler.as_deref());
    if let Some(reconciler) = reconciler.filter(|_| leads) {
        source_problems(reconciler, &mut problems);
        queue_problems(reconciler, &mut problems);
        label_problems(reconciler, &mut problems);
        agent_problems(reconciler, &mut problems);
    }
    if let Some(contrail) = contrail.filter(|_| leads || !state.elected) {
        container_problems(contrail, &mut problems);
    }
    if let Some(cluster) = state.cluster.as_deref().filter(|_| leads) {
        node_problems(cluster, &mut problems);
    }
    if let Some(services) = state.services.as_deref().filter(|_| leads) {
        service_problems(services, &mut problems);
    }
    problems.sort_by_key(|problem| !problem.severe);
    problems
}

fn manager_problems(state: &AdminState, problems: &mut Vec<Problem>) {
    let following = matches!(
        *state.fence.leadership().borrow(),
        Leadership::Following { .. }
    );
    if let Some(reason) = state.not_serving_reason().filter(|_| !following) {
        let message = format!("it does not accept requests: {reason}");
        let todo = "Agents retry by themselves. Fix the cause.";
        problems.push(Problem::new("not-serving", "this manager", message, todo).severe());
    }
    let contrail = state.contrail.as_ref();
    if let Some(outage) = contrail.and_then(|contrail| contrail.client.outage()) {
        problems.push(
            Problem::new(
                "api-server",
                "the VNC API",
                super::state::describe(&outage),
                "Check that the API servers in [vnc] run, and read their logs.",
            )
            .severe(),
        );
    }
}

fn source_problems(reconciler: &Reconciler, problems: &mut Vec<Problem>) {
    for source in reconciler
        .stores()
        .source_status(reconciler.follows_marathon())
    {
        if let Some(problem) = source.problem {
            let subject = match source.source {
                "contrail" => "the VNC API",
                "mesos" => "Mesos",
                _ => "Marathon",
            };
            let message = format!("it is not trusted: {problem}");
            let todo = "The manager reconnects by itself. Until then it deletes nothing because of this source.";
            problems.push(Problem {
                severe: !source.fresh,
                ..Problem::new("source", subject, message, todo)
            });
        }
    }
}

fn queue_problems(reconciler: &Reconciler, problems: &mut Vec<Problem>) {
    const TODO: &str = "The manager retries by itself. Fix the cause of the error.";
    let (entries, _, _) = reconciler.queued(MAX_FAILURES);
    let mut causes = Causes::default();
    reconciler.stores().contrail.read(|view| {
        for entry in entries {
            let Some(error) = entry.error else { continue };
            let (app, uuid) = match entry.key {
                Key::Container(uuid) => {
                    let container = view.vms.get(&uuid);
                    let app = container.and_then(|vm| vm.identity.application.as_deref());
                    (app.map(str::to_owned), uuid)
                }
                Key::Orphan(orphan) => (None, orphan.uuid()),
            };
            causes.add(app, uuid, &error, (None, None));
        }
    });
    causes.push_problems("reconcile-failed", TODO, problems);
}

/// Adds how many problems of a kind are not listed.
fn push_remaining(
    kind: &'static str,
    total: usize,
    todo: &'static str,
    problems: &mut Vec<Problem>,
) {
    if total > MAX_PER_KIND {
        let subject = format!("{} more", total - MAX_PER_KIND);
        let message = format!("only the first {MAX_PER_KIND} are listed");
        problems.push(Problem::new(kind, subject, message, todo));
    }
}

fn label_problems(reconciler: &Reconciler, problems: &mut Vec<Problem>) {
    const TODO: &str = "Correct the labels of the app's network. Until then they are ignored.";
    let overview = reconciler.overview();
    // All containers of an app have the same labels, and so the same problem.
    let mut causes = Causes::default();
    reconciler.stores().contrail.read(|view| {
        for (uuid, invalid) in &overview.invalid_labels {
            let container = view.vms.get(uuid);
            let app = container.and_then(|vm| vm.identity.application.as_deref());
            let message = invalid.join("; ");
            causes.add(app.map(str::to_owned), *uuid, &message, (None, None));
        }
    });
    causes.push_problems("labels", TODO, problems);
}

fn agent_problems(reconciler: &Reconciler, problems: &mut Vec<Problem>) {
    const KIND: &str = "agent-without-virtual-router";
    const TODO: &str = "Register the host's vRouter under the agent's name or with its address.";
    // Before the first list no agent has a virtual-router.
    let contrail = &reconciler.stores().contrail;
    if contrail.read(|view| view.source.last_listed().is_none()) {
        return;
    }
    let overview = reconciler.overview();
    let without: Vec<_> = overview
        .hosts
        .iter()
        .filter(|(_, host)| host.agent.is_some() && host.router.is_none())
        .collect();
    for (name, _) in without.iter().take(MAX_PER_KIND) {
        let message = "it has no virtual-router: its containers have no network";
        problems.push(Problem::new(KIND, format!("agent {name}"), message, TODO));
    }
    push_remaining(KIND, without.len(), TODO, problems);
}

fn container_problems(contrail: &Contrail, problems: &mut Vec<Problem>) {
    const TODO: &str = "Fix the cause of the error. The framework starts another container.";
    let unfinished = contrail.containers.unfinished();
    if unfinished > 0 {
        let message = "they could not be created, and some of their objects still exist";
        let todo = "The manager deletes these objects when the API server responds.";
        problems.push(Problem {
            count: unfinished,
            ..Problem::new(
                "unfinished",
                format!("{unfinished} containers"),
                message,
                todo,
            )
        });
    }
    let since = SystemTime::now() - FAILURE_TTL;
    let failing = contrail.containers.history().failing(since, MAX_FAILURES);
    let reconciler = contrail.reconciler.as_deref();
    // Those are reported as reconcile-failed.
    let (queued, _, _) = reconciler
        .map(|reconciler| reconciler.queued(MAX_FAILURES))
        .unwrap_or_default();
    let retried: std::collections::HashSet<Uuid> = queued
        .iter()
        .filter(|entry| entry.error.is_some())
        .filter_map(|entry| match entry.key {
            Key::Container(uuid) => Some(uuid),
            Key::Orphan(_) => None,
        })
        .collect();
    let mut causes = Causes::default();
    for failure in failing {
        if retried.contains(&failure.uuid) {
            continue;
        }
        let app = reconciler.and_then(|reconciler| {
            let (framework, executor) = failure.executor.as_ref()?;
            reconciler.app_of(framework, executor)
        });
        if let (Some(reconciler), Some(app)) = (reconciler, &app)
            && reconciler.is_app_gone(app)
        {
            continue;
        }
        let entry = &failure.entry;
        causes.add(
            app.map(|app| app.to_string()),
            failure.uuid,
            &entry.details,
            (Some(entry.first), Some(entry.at)),
        );
    }
    causes.push_problems("container-failed", TODO, problems);
}

fn node_problems(cluster: &Cluster, problems: &mut Vec<Problem>) {
    const REFUSED_TODO: &str =
        "Correct the node's name or address, or give the overlays larger subnets.";
    const GONE_TODO: &str = "Check that contrail-mesos-node runs on the host and reaches the managers. \
        If the host is gone for good, delete the node, which frees its subnets.";
    const PROBLEM_TODO: &str = "Read the log of contrail-mesos-node on the host.";
    let nodes = cluster.statuses();
    let mut add = |kind, todo, found: Vec<(&NodeStatus, String)>| {
        for (node, message) in found.iter().take(MAX_PER_KIND) {
            let subject = format!("node {}", node.name);
            problems.push(Problem::new(kind, subject, message.clone(), todo));
        }
        push_remaining(kind, found.len(), todo, problems);
    };
    let of = |condition: NodeCondition| {
        let nodes = nodes.iter().filter(move |node| node.condition == condition);
        nodes.map(|node| (node, node.problems.join("; ")))
    };
    add(
        "node-refused",
        REFUSED_TODO,
        of(NodeCondition::Refused).collect(),
    );
    let is_gone = |node: &&NodeStatus| match node.condition {
        NodeCondition::Disconnected => true,
        // All of them are, until they have found a new leader.
        NodeCondition::Unseen => cluster.published_for() >= RECONNECT_TIME,
        _ => false,
    };
    let gone = nodes.iter().filter(is_gone).map(|node| {
        let message = "it is not connected: changes do not reach it".to_owned();
        (node, message)
    });
    add("node-disconnected", GONE_TODO, gone.collect());
    let troubled = nodes
        .iter()
        .filter(|node| node.condition != NodeCondition::Refused && !node.problems.is_empty())
        .map(|node| (node, node.problems.join("; ")));
    add("node-problem", PROBLEM_TODO, troubled.collect());
    let (overlays, endpoints) = cluster.usage();
    problems.extend(overlays.iter().filter_map(scarce_blocks));
    let full = overlays
        .iter()
        .filter(|usage| usage.enabled && usage.free == 0 && !usage.lends_blocks)
        .map(|usage| (format!("overlay {}", usage.overlay), usage.subnet));
    let full = full.chain(
        endpoints
            .iter()
            .filter(|usage| usage.free == 0)
            .map(|usage| ("the tunnel endpoints".to_owned(), usage.subnet)),
    );
    for (subject, subnet) in full {
        let message = format!("{subnet} is used up: the next node gets nothing of it");
        let todo = "Delete nodes that are gone for good, or configure a larger subnet.";
        problems.push(Problem::new("overlay-used-up", subject, message, todo));
    }
}

fn service_problems(services: &Services, problems: &mut Vec<Problem>) {
    const STORE_TODO: &str = "Check that ZooKeeper, or state_file in [services], can be read and written. \
        Until then new services get no address. Those that are published stay.";
    const WAITING_TODO: &str = "The manager retries by itself. Until then it withdraws no service that may \
        still be there, and a new leader publishes none.";
    const CONTRAIL_TODO: &str = "Check the VNC API server, and the network in [services.contrail]. The manager \
        retries by itself.";
    const SERVICE_TODO: &str = "Correct the labels of the app or pod.";
    const USED_UP_TODO: &str = "Configure a larger range, or remove VIPs that nobody needs.";
    const EARLIER_TODO: &str = "They keep them until they have had no backend for the grace in [services]. To \
        change them earlier, stop their apps for that time.";
    const RANGE_TODO: &str = "Take another range in [services]: nodes refuse traffic to addresses of it that no \
        service has.";
    let (store, range, waiting, (found, total), usage) = services.read_state(|state| {
        let problems = state.publication.problems();
        let (store, waiting) = (state.store_problem.clone(), state.waiting.clone());
        let range = state.range_problem.clone();
        (store, range, waiting, problems, state.usage.clone())
    });
    if let Some(message) = store {
        let subject = "the addresses of services";
        problems.push(Problem::new("services-store", subject, message, STORE_TODO).severe());
    }
    if let Some(message) = range {
        let subject = "the addresses of services";
        problems.push(Problem::new("services-range", subject, message, RANGE_TODO).severe());
    }
    if let Some(message) = waiting {
        problems.push(Problem::new(
            "services-waiting",
            "services",
            message,
            WAITING_TODO,
        ));
    }
    let contrail = services.contrail_status().unwrap_or_default();
    if let Some(message) = contrail.failure {
        let subject = "the services on Contrail";
        problems.push(Problem::new(
            "services-contrail",
            subject,
            message,
            CONTRAIL_TODO,
        ));
    }
    let total = total + contrail.problems.len();
    for problem in found.iter().chain(&contrail.problems).take(MAX_PER_KIND) {
        let mut subject = vec![problem.subject.as_str()];
        if !problem.task.is_empty() {
            subject.push("of the task");
            subject.push(&problem.task);
        }
        if !problem.framework.is_empty() {
            subject.push("of the framework");
            subject.push(&problem.framework);
        }
        let subject = truncate(&subject.join(" "), MAX_SUBJECT_CHARS);
        problems.push(Problem::new(
            "service",
            subject,
            problem.message.clone(),
            SERVICE_TODO,
        ));
    }
    push_remaining("service", total, SERVICE_TODO, problems);
    for RangeUsage {
        range,
        free,
        earlier,
        ..
    } in usage
    {
        let subject = format!("the range {range}");
        if free == 0 {
            let message = "it is used up: the next named service gets no address of it";
            problems.push(Problem::new(
                "services-used-up",
                subject.clone(),
                message,
                USED_UP_TODO,
            ));
        }
        if earlier > 0 {
            let message = format!("{earlier} names have an address of an earlier range");
            problems.push(Problem::new(
                "services-range",
                subject,
                message,
                EARLIER_TODO,
            ));
        }
    }
}

/// What is wrong with an overlay whose last blocks are being lent: while there are some, nodes still get
/// what they want.
fn scarce_blocks(usage: &OverlayUsage) -> Option<Problem> {
    let is_scarce = usage.free.saturating_mul(10) < usage.total;
    if !usage.enabled || !usage.lends_blocks || !is_scarce {
        return None;
    }
    let (free, total, prefix, subnet) = (usage.free, usage.total, usage.prefix, usage.subnet);
    let subject = format!("overlay {}", usage.overlay);
    let todo = "Delete nodes that are gone for good, or configure a larger subnet.";
    Some(if free == 0 {
        let message = format!(
            "{subnet} is used up: launches fail on nodes that need another block. Blocks that were given \
             back are free after some minutes"
        );
        Problem::new("overlay-used-up", subject, message, todo)
    } else {
        let message = format!("{free} of {total} blocks with a /{prefix} of {subnet} are left");
        Problem::new("overlay-nearly-used-up", subject, message, todo)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scarce_blocks_are_a_problem_before_the_last_is_lent() {
        let mut usage = OverlayUsage {
            overlay: "one".to_owned(),
            enabled: true,
            lends_blocks: true,
            subnet: "9.0.0.0/24".parse().unwrap(),
            prefix: 28,
            used: 13,
            free: 2,
            total: 16,
        };
        assert!(scarce_blocks(&usage).is_none());
        usage.free = 1;
        assert_eq!(
            scarce_blocks(&usage).unwrap().kind,
            "overlay-nearly-used-up"
        );
        usage.free = 0;
        assert_eq!(scarce_blocks(&usage).unwrap().kind, "overlay-used-up");
        usage.enabled = false;
        assert!(scarce_blocks(&usage).is_none());
    }

    fn message(uuid: Uuid) -> String {
        format!("cannot create ports: the virtual-machine {uuid} is not ours")
    }

    #[test]
    fn failures_with_one_cause_are_one_problem() {
        let mut causes = Causes::default();
        let start = SystemTime::UNIX_EPOCH;
        let at = |seconds| Some(start + Duration::from_secs(seconds));
        for number in 0..50 {
            let uuid = Uuid::from_u128(u128::from(number) << 64);
            let app = Some("/shop/web".to_owned());
            causes.add(app, uuid, &message(uuid), (at(number), at(number + 1)));
        }
        let lonely = Uuid::from_u128(7);
        causes.add(None, lonely, &message(lonely), (at(3), at(3)));
        let mut problems = vec![];
        causes.push_problems("container-failed", "", &mut problems);
        assert_eq!(problems.len(), 2, "{problems:#?}");
        let app = &problems[0];
        assert_eq!(app.subject, "app /shop/web, 50 containers");
        assert_eq!((app.count, app.first, app.last), (50, at(0), at(50)));
        assert!(!app.message.contains("0000"), "{}", app.message);
        let single = &problems[1];
        assert_eq!(single.subject, format!("container {lonely}"));
        assert_eq!(single.message, message(lonely));
    }

    #[test]
    fn only_uuids_are_left_out() {
        let uuid = Uuid::from_u128(u128::MAX / 3);
        for (message, expected) in [
            (format!("a {uuid}, {uuid}."), "a …, …."),
            (format!("ä{uuid}ö"), "ä…ö"),
            (
                "no uuid: 12345678-1234".to_owned(),
                "no uuid: 12345678-1234",
            ),
            (String::new(), ""),
        ] {
            assert_eq!(without_uuids(&message), expected);
        }
    }

    #[test]
    fn causes_beyond_the_limit_are_counted() {
        let mut causes = Causes::default();
        for number in 0..30 {
            let text = format!("cause {number}");
            causes.add(None, Uuid::nil(), &text, (None, None));
        }
        let mut problems = vec![];
        causes.push_problems("labels", "", &mut problems);
        assert_eq!(problems.len(), MAX_PER_KIND + 1);
        assert_eq!(problems[MAX_PER_KIND].subject, "10 more");
    }
}
