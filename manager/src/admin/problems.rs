//! Current problems, for the JSON and the status page.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::AdminState;
use crate::fence::Leadership;
use crate::reconcile::{Key, Reconciler};

/// How long a container's last failure counts as a problem.
const FAILURE_TTL: Duration = Duration::from_mins(15);
/// How many problems of a kind are listed.
const MAX_PER_KIND: usize = 20;

/// A problem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
}

/// All current problems, severe ones first.
pub(super) fn find(state: &AdminState) -> Vec<Problem> {
    let mut problems = vec![];
    manager_problems(state, &mut problems);
    // A standby neither follows the sources nor serves requests.
    let leads = state.fence.term().is_some();
    if let Some(reconciler) = state.reconciler.as_deref().filter(|_| leads) {
        source_problems(reconciler, &mut problems);
        queue_problems(reconciler, &mut problems);
        label_problems(reconciler, &mut problems);
        agent_problems(reconciler, &mut problems);
    }
    container_problems(state, &mut problems);
    problems.sort_by_key(|problem| !problem.severe);
    problems
}

fn manager_problems(state: &AdminState, problems: &mut Vec<Problem>) {
    let following = matches!(
        *state.fence.leadership().borrow(),
        Leadership::Following { .. }
    );
    if let Some(reason) = state.not_serving_reason().filter(|_| !following) {
        problems.push(Problem {
            kind: "not-serving",
            severe: true,
            subject: "this manager".to_owned(),
            message: format!("it does not accept requests: {reason}"),
            todo: "Agents retry by themselves. Fix the cause.",
        });
    }
    if let Some(outage) = state.client.outage() {
        let status = outage
            .last
            .status
            .map_or("no response".to_owned(), |status| {
                format!("status {status}")
            });
        let seconds = outage.since.elapsed().as_secs();
        problems.push(Problem {
            kind: "api-server",
            severe: true,
            subject: "the VNC API".to_owned(),
            message: format!(
                "requests have failed for {seconds} s; the last one, {} {}, got {status}",
                outage.last.method, outage.last.resource
            ),
            todo: "Check that the API servers in [vnc] run, and read their logs.",
        });
    }
}

fn source_problems(reconciler: &Reconciler, problems: &mut Vec<Problem>) {
    for source in reconciler
        .stores()
        .source_status(reconciler.follows_marathon())
    {
        if let Some(problem) = source.problem {
            problems.push(Problem {
                kind: "source",
                severe: !source.fresh,
                subject: match source.source {
                    "contrail" => "the VNC API",
                    "mesos" => "Mesos",
                    _ => "Marathon",
                }
                .to_owned(),
                message: format!("it is not trusted: {problem}"),
                todo: "The manager reconnects by itself. Until then it deletes nothing because of this source.",
            });
        }
    }
}

fn queue_problems(reconciler: &Reconciler, problems: &mut Vec<Problem>) {
    const KIND: &str = "reconcile-failed";
    const TODO: &str = "The manager retries by itself. Fix the cause of the error.";
    let (entries, _, failing) = reconciler.queued(MAX_PER_KIND);
    for entry in entries {
        let Some(error) = entry.error else { continue };
        let subject = match entry.key {
            Key::Container(uuid) => format!("container {uuid}"),
            Key::Orphan(orphan) => orphan.to_string(),
        };
        problems.push(Problem {
            kind: KIND,
            severe: false,
            subject,
            message: format!("failed {} times in a row: {error}", entry.failures),
            todo: TODO,
        });
    }
    push_remaining(KIND, failing, TODO, problems);
}

/// Adds how many problems of a kind are not listed.
fn push_remaining(
    kind: &'static str,
    total: usize,
    todo: &'static str,
    problems: &mut Vec<Problem>,
) {
    if total > MAX_PER_KIND {
        problems.push(Problem {
            kind,
            severe: false,
            subject: format!("{} more", total - MAX_PER_KIND),
            message: format!("only the first {MAX_PER_KIND} are listed"),
            todo,
        });
    }
}

fn label_problems(reconciler: &Reconciler, problems: &mut Vec<Problem>) {
    const KIND: &str = "labels";
    const TODO: &str = "Correct the labels of the app's network. Until then they are ignored.";
    let overview = reconciler.overview();
    // All containers of an app have the same labels, and so the same problem.
    let mut apps: BTreeMap<(String, String), usize> = BTreeMap::new();
    reconciler.stores().contrail.read(|view| {
        for (uuid, invalid) in &overview.invalid_labels {
            let subject = view
                .vms
                .get(uuid)
                .and_then(|container| container.identity.application.as_deref())
                .map_or_else(|| format!("container {uuid}"), |app| format!("app {app}"));
            *apps.entry((subject, invalid.join("; "))).or_default() += 1;
        }
    });
    let total = apps.len();
    for ((subject, problem), count) in apps.into_iter().take(MAX_PER_KIND) {
        problems.push(Problem {
            kind: KIND,
            severe: false,
            subject: format!("{subject}, {count} containers"),
            message: problem,
            todo: TODO,
        });
    }
    push_remaining(KIND, total, TODO, problems);
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
        problems.push(Problem {
            kind: KIND,
            severe: false,
            subject: format!("agent {name}"),
            message: "it has no virtual-router: its containers have no network".to_owned(),
            todo: TODO,
        });
    }
    push_remaining(KIND, without.len(), TODO, problems);
}

fn container_problems(state: &AdminState, problems: &mut Vec<Problem>) {
    const KIND: &str = "container-failed";
    const TODO: &str = "Fix the cause of the error. The framework starts another container.";
    let unfinished = state.containers.unfinished();
    if unfinished > 0 {
        problems.push(Problem {
            kind: "unfinished",
            severe: false,
            subject: format!("{unfinished} containers"),
            message: "they could not be created, and some of their objects still exist".to_owned(),
            todo: "The manager deletes these objects when the API server responds.",
        });
    }
    let since = SystemTime::now() - FAILURE_TTL;
    let (failing, more) = state.containers.history().failing(since, MAX_PER_KIND);
    let total = failing.len() + more;
    for (uuid, entry) in failing {
        let subject = format!("container {uuid}");
        if !problems.iter().any(|problem| problem.subject == subject) {
            problems.push(Problem {
                kind: KIND,
                severe: false,
                subject,
                message: entry.details.to_string(),
                todo: TODO,
            });
        }
    }
    push_remaining(KIND, total, TODO, problems);
}
