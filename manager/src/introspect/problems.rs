//! What is wrong now.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::rows;
use crate::admin::Shown;
use crate::fence::Leadership;
use crate::reconcile::{Key, Reconciler};

/// How long a container's failure is shown that nobody has mended or repeated.
const RECENT: Duration = Duration::from_mins(15);
/// The most that is shown of a kind.
const MOST: usize = 20;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    /// Which kind: the same words always.
    pub kind: &'static str,
    /// Whether containers cannot be made or kept because of it.
    pub severe: bool,
    /// What it is about.
    pub subject: String,
    #[serde(rename = "problem")]
    pub what: String,
    pub todo: &'static str,
}

/// Everything that is wrong, what is severe first.
pub(crate) fn all(shown: &Shown) -> Vec<Problem> {
    let mut problems = vec![];
    of_the_manager(shown, &mut problems);
    // A standby follows nothing, and serves nobody.
    let leads = shown.fence.term().is_some();
    if let Some(reconciler) = shown.reconciler.as_deref().filter(|_| leads) {
        of_sources(reconciler, &mut problems);
        of_the_queue(reconciler, &mut problems);
        of_what_is_known(reconciler, &mut problems);
    }
    of_containers(shown, &mut problems);
    problems.sort_by_key(|one| !one.severe);
    problems
}

fn of_the_manager(shown: &Shown, problems: &mut Vec<Problem>) {
    let unready = shown.ready.borrow().unready.clone();
    let following = matches!(
        *shown.fence.leadership().borrow(),
        Leadership::Following { .. }
    );
    if let Some(reason) = unready.filter(|_| !following) {
        problems.push(Problem {
            kind: "not-serving",
            severe: true,
            subject: "this manager".to_owned(),
            what: format!("it takes no requests: {reason}"),
            todo: "Agents ask again by themselves. Mend what the reason says.",
        });
    }
    if let Some(trouble) = shown.client.trouble() {
        let status = trouble.last.status;
        let status = status.map_or("no answer".to_owned(), |status| format!("status {status}"));
        let seconds = trouble.since.elapsed().as_secs();
        problems.push(Problem {
            kind: "api-server",
            severe: true,
            subject: "the VNC API".to_owned(),
            what: format!(
                "its last answer, to {} {}, was {status}; so for {seconds} s",
                trouble.last.method, trouble.last.resource
            ),
            todo: "See whether the API servers of [vnc] run, and what their logs say.",
        });
    }
}

fn of_sources(reconciler: &Reconciler, problems: &mut Vec<Problem>) {
    for row in rows::sources(reconciler) {
        if let Some(problem) = row.problem {
            problems.push(Problem {
                kind: "source",
                severe: !row.fresh,
                subject: match row.source {
                    "contrail" => "the VNC API",
                    "mesos" => "Mesos",
                    _ => "Marathon",
                }
                .to_owned(),
                what: format!("it is not believed: {problem}"),
                todo: "Nothing is removed on its word meanwhile. It is asked again by itself.",
            });
        }
    }
}

fn of_the_queue(reconciler: &Reconciler, problems: &mut Vec<Problem>) {
    let (waiting, _, failing) = reconciler.queued(MOST);
    let todo = "It is tried again by itself. Mend what the error says.";
    for one in waiting {
        let Some(error) = one.error else { continue };
        let subject = match one.key {
            Key::Machine(uuid) => format!("container {uuid}"),
            Key::Orphan(orphan) => orphan.to_string(),
        };
        problems.push(Problem {
            kind: "reconcile-failed",
            severe: false,
            subject,
            what: format!("failed {} times in a row: {error}", one.failures),
            todo,
        });
    }
    more("reconcile-failed", failing, todo, problems);
}

/// Says how many of a kind are not shown.
fn more(kind: &'static str, all: usize, todo: &'static str, problems: &mut Vec<Problem>) {
    if all > MOST {
        problems.push(Problem {
            kind,
            severe: false,
            subject: format!("{} more", all - MOST),
            what: "the same; only the first are shown".to_owned(),
            todo,
        });
    }
}

fn of_what_is_known(reconciler: &Reconciler, problems: &mut Vec<Problem>) {
    let survey = reconciler.survey();
    let stores = reconciler.stores();
    let todo = "Correct the labels of the app's network; until then these are passed over.";
    // The containers of an app have the same labels, and so the same is wrong with them.
    let mut apps: BTreeMap<(String, String), usize> = BTreeMap::new();
    stores.contrail.read(|view| {
        for (uuid, wrong) in &survey.labels {
            let app = view.machines.get(uuid);
            let app = app.and_then(|machine| machine.names.application.as_deref());
            let subject =
                app.map_or_else(|| format!("container {uuid}"), |app| format!("app {app}"));
            *apps.entry((subject, wrong.join("; "))).or_default() += 1;
        }
    });
    let all = apps.len();
    for ((subject, wrong), count) in apps.into_iter().take(MOST) {
        problems.push(Problem {
            kind: "labels",
            severe: false,
            subject: format!("{subject}, {count} containers"),
            what: wrong,
            todo,
        });
    }
    more("labels", all, todo, problems);
    // Before the virtual-routers have been read, no agent has one.
    if stores
        .contrail
        .read(|view| view.source.last_listed().is_none())
    {
        return;
    }
    let todo = "Register the host's vRouter under the agent's name, or with its address.";
    let hosts = survey.hosts.iter();
    let without: Vec<_> = hosts
        .filter(|(_, host)| host.agent.is_some() && host.router.is_none())
        .collect();
    for (name, _) in without.iter().take(MOST) {
        problems.push(Problem {
            kind: "agent-without-virtual-router",
            severe: false,
            subject: format!("agent {name}"),
            what: "it has no virtual-router, so that containers on it get no network".to_owned(),
            todo,
        });
    }
    more(
        "agent-without-virtual-router",
        without.len(),
        todo,
        problems,
    );
}

fn of_containers(shown: &Shown, problems: &mut Vec<Problem>) {
    let unfinished = shown.containers.unfinished();
    if unfinished > 0 {
        problems.push(Problem {
            kind: "unfinished",
            severe: false,
            subject: format!("{unfinished} containers"),
            what: "they could not be made, and what was made of them is still there".to_owned(),
            todo: "It is removed by itself once the API server answers.",
        });
    }
    let since = SystemTime::now() - RECENT;
    let (failing, others) = shown.containers.history().failing(since, MOST);
    let todo = "Mend what the error says; the framework tries again with another container.";
    let count = failing.len() + others;
    for (uuid, entry) in failing {
        let known = problems
            .iter()
            .any(|one| one.subject == format!("container {uuid}"));
        if !known {
            problems.push(Problem {
                kind: "container-failed",
                severe: false,
                subject: format!("container {uuid}"),
                what: entry.details.to_string(),
                todo,
            });
        }
    }
    more("container-failed", count, todo, problems);
}
