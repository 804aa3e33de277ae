//! The parts of the page.

use std::net::IpAddr;

use maud::{Markup, html};

use super::Asked;
use super::REFRESH;
use crate::admin::Shown;
use crate::fence::Leadership;
use crate::history::timestamp;
use crate::introspect::problems::Problem;
use crate::introspect::rows::{self, ContainerRow};
use crate::reconcile::Reconciler;

/// The most of networks and agents that are shown; all are in the JSON.
const MOST: usize = 200;

/// The title says how it is, so that a tab in the background does.
pub(super) fn title(shown: &Shown, problems: &[Problem]) -> String {
    let how = match problems.len() {
        0 => "all is well".to_owned(),
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    };
    format!("{how} · contrail-mesos-manager {}", shown.cluster)
}

/// Whether this manager leads.
pub(super) fn role(shown: &Shown) -> Markup {
    let leadership = shown.fence.leadership().borrow().clone();
    let serving = shown.ready.borrow().unready.is_none();
    html! {
        @match leadership {
            Leadership::Leading { .. } if serving => span #role .tag.good { "leading" },
            Leadership::Leading { .. } => span #role .tag.warn { "preparing to lead" },
            Leadership::Following { .. } => span #role .tag { "standby" },
            Leadership::Unknown { .. } => span #role .tag.bad { "no leader known" },
        }
    }
}

/// What is wrong now.
pub(super) fn problems(problems: &[Problem]) -> Markup {
    let severe = problems.iter().any(|one| one.severe);
    html! {
        @if problems.is_empty() {
            section #problems .all-well { h2 { "All is well" } p.soft { "Nothing that this manager knows of is wrong." } }
        } @else {
            section #problems .severe[severe] .troubled[!severe] {
                h2 { "Wrong now " small { (problems.len()) } }
                ul.problems {
                    @for one in problems {
                        li data-kind=(one.kind) {
                            span.tag.bad[one.severe].warn[!one.severe] { (one.kind.replace('-', " ")) }
                            " " b { (one.subject) }
                            p { (one.what) }
                            p.soft { (one.todo) }
                        }
                    }
                }
            }
        }
    }
}

fn tile(name: &'static str, id: &'static str, value: usize, warn: bool) -> Markup {
    html! { div.tile { b id=(id) .warn[warn] { (value) } span { (name) } } }
}

/// The numbers.
pub(super) fn tiles(shown: &Shown, reconciler: &Reconciler) -> Markup {
    let stores = reconciler.stores();
    let survey = reconciler.survey();
    let (_, queued, failing) = reconciler.queued(0);
    let containers = stores.contrail.read(|view| view.machines.len());
    let orphans = stores.contrail.read(|view| view.orphans.len());
    let tasks = stores.mesos.read(|view| view.tasks().len());
    let unfinished = shown.containers.unfinished();
    html! {
        div.tiles {
            (tile("containers in Contrail", "count-containers", containers, false))
            (tile("tasks in Mesos", "count-tasks", tasks, false))
            (tile("to be written", "count-differences", survey.differences.len(), false))
            (tile("waiting", "count-queue", queued, false))
            (tile("failing", "count-failing", failing, failing > 0))
            (tile("orphans", "count-orphans", orphans, orphans > 0))
            (tile("unfinished", "count-unfinished", unfinished, unfinished > 0))
        }
    }
}

fn for_people(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Whether what the sources say is believed.
pub(super) fn sources(reconciler: &Reconciler) -> Markup {
    let rows = rows::sources(reconciler);
    html! {
        section #sources {
            h2 { "Sources" }
            table {
                thead { tr { th { "Source" } th { "State" } th { "Believed for" } th { "Last listed" } } }
                tbody {
                    @for row in rows {
                        tr data-source=(row.source) {
                            td data-name="Source" { (row.source) }
                            td data-name="State" {
                                span.tag.good[row.state == "fresh"].warn[row.state == "untrusted"]
                                    .bad[!row.fresh] { (row.state) }
                            }
                            td data-name="Believed for" { (row.trusted_seconds.map_or("–".to_owned(), for_people)) }
                            td data-name="Last listed" {
                                (row.age_seconds.map_or("never".to_owned(), |age| format!("{} ago", for_people(age))))
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The networks.
pub(super) fn networks(reconciler: &Reconciler) -> Markup {
    let rows = rows::network_rows(reconciler);
    html! {
        section #networks {
            h2 { "Networks " small { (rows.len()) } }
            @if rows.is_empty() { p.soft { "No container is on a network." } } @else {
                table {
                    thead { tr { th { "Network" } th { "Subnets" } th.number { "Containers" } } }
                    tbody {
                        @for row in rows.iter().take(MOST) {
                            tr {
                                td data-name="Network" {
                                    a href={ "/?network=" (encoded(&row.name)) "#containers" } { (row.name) }
                                }
                                td data-name="Subnets" {
                                    @if row.subnets.is_empty() { span.soft { "not read yet" } }
                                    (row.subnets.join(", "))
                                }
                                td.number data-name="Containers" { (row.containers) }
                            }
                        }
                    }
                }
                (cut(rows.len(), "/v1/networks"))
            }
        }
    }
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn cut(all: usize, path: &str) -> Markup {
    html! {
        @if all > MOST { p.soft { "The first " (MOST) " of " (all) "; all are in " a href=(path) { (path) } "." } }
    }
}

fn field(name: &'static str, what: &'static str, value: Option<&str>) -> Markup {
    html! { label { (what) input name=(name) value=(value.unwrap_or("")) autocomplete="off"; } }
}

/// The containers that are asked for.
pub(super) fn containers(
    shown: &Shown,
    reconciler: &Reconciler,
    asked: &Asked,
    limit: usize,
) -> Markup {
    let page = asked.page();
    let filtered = page.network.is_some() || page.app.is_some() || page.agent.is_some();
    let found = rows::container_rows(reconciler, &page, limit);
    html! {
        section #containers {
            h2 {
                "Containers "
                @if let Ok(found) = &found { small { (found.total) @if filtered { " with this filter" } } }
            }
            form action="/#containers" {
                (field("network", "Network", page.network.as_deref()))
                (field("app", "App", page.app.as_deref()))
                (field("agent", "Agent", page.agent.as_deref()))
                @if !asked.refreshes() { input type="hidden" name="refresh" value="off"; }
                button { "Show" }
                @if filtered { a href="/#containers" { "show all" } }
            }
            @match &found {
                Err(_) => p { "There is no such page; " a href="/" { "begin anew" } "." },
                Ok(found) if found.elements.is_empty() => p.soft { "None." },
                Ok(found) => {
                    table {
                        thead { tr { th { "Container" } th { "App" } th { "Agent" } th { "Network" } th { "Addresses" } th { "State" } } }
                        tbody { @for (_, row) in &found.elements { (container(shown, reconciler, row)) } }
                    }
                    p.pages {
                        @if page.after.is_some() { a href=(asked.link(None, asked.refreshes())) { "first page" } }
                        @if let Some((last, _)) = found.elements.last().filter(|_| found.more) {
                            a #next href={ (asked.link(Some(&last.to_string()), asked.refreshes())) "#containers" } { "next page" }
                        }
                    }
                }
            }
        }
    }
}

fn given(addresses: &[Option<IpAddr>]) -> String {
    let addresses = addresses.iter().map(|address| {
        address.map_or_else(|| "not read yet".to_owned(), |address| address.to_string())
    });
    addresses.collect::<Vec<_>>().join(", ")
}

fn container(shown: &Shown, reconciler: &Reconciler, row: &ContainerRow) -> Markup {
    let survey = reconciler.survey();
    let differs = survey.differences.contains_key(&row.machine);
    let odd = survey.labels.contains_key(&row.machine);
    let known = shown.containers.history().get(row.machine).is_some();
    let name = row.name.as_deref().or(row.task.as_deref());
    html! {
        tr id={ "c-" (row.machine) } {
            td data-name="Container" {
                div {
                    (name.unwrap_or("(no name)"))
                    div { a href={ "/v1/containers/" (row.machine) } { code { (row.machine) } }
                        @if known { " " a href={ "/v1/containers/" (row.machine) "/history" } { "history" } } }
                }
            }
            td data-name="App" {
                @if let Some(app) = &row.app { (app) } @else { span.soft { (row.framework.as_deref().unwrap_or("–")) } }
            }
            td data-name="Agent" { (row.agent) }
            td data-name="Network" { ul { @for one in &row.interfaces {
                li { (one.virtual_network.as_deref().or(one.network.as_deref()).unwrap_or("–")) }
            } } }
            td data-name="Addresses" { ul { @for one in &row.interfaces { li {
                (given(&one.addresses))
                @if !one.floating_addresses.is_empty() { br; span.soft { "floating " } (given(&one.floating_addresses)) }
                @if !one.security_groups.is_empty() { br; span.soft { "groups " (one.security_groups.join(", ")) } }
            } } } }
            td data-name="State" { div {
                @if row.complete { span.tag.good { "complete" } } @else { span.tag.warn { "incomplete" } }
                @if differs { " " span.tag.warn { "to be changed" } }
                @if odd { " " span.tag.warn { "labels" } }
            } }
        }
    }
}

/// The hosts.
pub(super) fn agents(reconciler: &Reconciler) -> Markup {
    let survey = reconciler.survey();
    html! {
        section #agents {
            h2 { "Agents " small { (survey.hosts.len()) } }
            @if survey.hosts.is_empty() { p.soft { "None is known." } } @else {
                table {
                    thead { tr { th { "Agent" } th { "State" } th { "Virtual-router" } th { "Address" } th.number { "Containers" } th.number { "Tasks" } } }
                    tbody {
                        @for (name, host) in survey.hosts.iter().take(MOST) {
                            tr {
                                td data-name="Agent" { a href={ "/?agent=" (encoded(host.router.as_deref().unwrap_or(name))) "#containers" } { (name) } }
                                td data-name="State" {
                                    div {
                                        @if host.agent.is_none() { span.tag { "no agent" } }
                                        @else if host.connected { span.tag.good { "connected" } }
                                        @else { span.tag.bad { "not connected" } }
                                    }
                                }
                                td data-name="Virtual-router" {
                                    @if let Some(router) = &host.router { (router) } @else { div { span.tag.warn { "none" } } }
                                }
                                td data-name="Address" { (host.address.map_or("–".to_owned(), |address| address.to_string())) }
                                td.number data-name="Containers" { (host.containers) }
                                td.number data-name="Tasks" { (host.tasks) }
                            }
                        }
                    }
                }
                (cut(survey.hosts.len(), "/v1/agents"))
            }
        }
    }
}

/// Who leads.
pub(super) fn managers(shown: &Shown) -> Markup {
    let leadership = shown.fence.leadership().borrow().clone();
    let leader = match &leadership {
        Leadership::Leading { .. } => Some(shown.url.clone()),
        Leadership::Following { leader } => Some(leader.to_string()),
        Leadership::Unknown { .. } => None,
    };
    let mut managers = shown.fence.managers();
    if managers.is_empty() {
        managers.push(shown.url.clone());
    }
    let provisioned = shown.ready.borrow().provisioned;
    html! {
        section #managers {
            h2 { "Managers " small { (managers.len()) } }
            table {
                thead { tr { th { "Manager" } th { "Role" } } }
                tbody {
                    @for url in &managers {
                        tr {
                            td data-name="Manager" { code { (url) } @if *url == shown.url { " " span.soft { "(this one)" } } }
                            td data-name="Role" { div {
                                @if leader.as_ref() == Some(url) { span.tag.good { "leader" } } @else { span.tag { "standby" } }
                            } }
                        }
                    }
                }
            }
            p.soft {
                @match &leadership {
                    Leadership::Leading { .. } if !shown.elected => "There is no election: this manager is alone. ",
                    Leadership::Leading { term } => { "Term " span #term { (term) } ". " },
                    Leadership::Following { .. } => "Only the leader follows the sources: see its page. ",
                    Leadership::Unknown { reason } => { (reason) ". " },
                }
                @if let Some(at) = provisioned { "Provisioned the API server " (timestamp(at)) ". " }
            }
        }
    }
}

/// Of the page itself.
pub(super) fn footer(asked: &Asked) -> Markup {
    let after = asked.after.as_deref();
    html! {
        footer {
            "As of " (timestamp(std::time::SystemTime::now())) " · version " (env!("CARGO_PKG_VERSION")) " · "
            @if asked.refreshes() {
                "every " (REFRESH) " s anew; " a href=(asked.link(after, false)) { "stop that" }
            } @else { a href=(asked.link(after, true)) { "refresh by itself" } }
            " · as JSON: "
            @for path in ["mesos", "marathon", "contrail", "agents", "networks", "containers", "differences", "queue", "managers", "problems"] {
                a href={ "/v1/" (path) } { (path) } " "
            }
            "· " a href="/metrics" { "metrics" }
        }
    }
}
