//! The parts of the page.

use std::net::IpAddr;

use maud::{Markup, html};

use super::{PageQuery, REFRESH_SECONDS};
use crate::admin::json::{self, ContainerRow};
use crate::admin::problems::Problem;
use crate::admin::state::AdminState;
use crate::contrail::Contrail;
use crate::fence::Leadership;
use crate::history::timestamp;
use crate::reconcile::Reconciler;

/// How many networks and agents are listed. The JSON has all of them.
pub(super) const MAX_ROWS: usize = 200;

/// The title, which shows the number of problems in the browser's tab.
pub(super) fn title(state: &AdminState, problems: &[Problem]) -> String {
    let status = match problems.len() {
        0 if state.leader().is_some() => "standby".to_owned(),
        0 => "all is well".to_owned(),
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    };
    format!("{status} · contrail-mesos-manager {}", state.cluster_name)
}

/// The role of this manager.
pub(super) fn role(state: &AdminState) -> Markup {
    let leadership = state.fence.leadership().borrow().clone();
    let serving = state.ready.borrow().unready.is_none();
    html! {
        @match leadership {
            Leadership::Leading { .. } if serving => span #role .tag.good { "leading" },
            Leadership::Leading { .. } => span #role .tag.warn { "preparing to lead" },
            Leadership::Following { .. } => span #role .tag { "standby" },
            Leadership::Unknown { .. } => span #role .tag.bad { "no leader known" },
        }
    }
}

/// The current problems. A standby does not know them all, so it gives no verdict.
pub(super) fn problems(state: &AdminState, problems: &[Problem]) -> Markup {
    let severe = problems.iter().any(|problem| problem.severe);
    let leader = state.leader();
    html! {
        @if let Some(leader) = &leader {
            section #standby {
                h2 { "This manager is a standby" }
                p {
                    "The leader follows the sources and knows the problems: "
                    @match &leader.page {
                        Some(page) => a #leader href=(page) rel="noreferrer" { (page) },
                        None => { code #leader { (leader.url) } ", whose page is on its own machine only" },
                    }
                }
            }
        }
        @if problems.is_empty() && leader.is_none() {
            section #problems .all-well { h2 { "All is well" } p.soft { "This manager knows of no problem." } }
        } @else if !problems.is_empty() {
            section #problems .severe[severe] .troubled[!severe] {
                h2 { "Problems " small { (problems.len()) } }
                ul.problems {
                    @for problem in problems {
                        li data-kind=(problem.kind) {
                            span.tag.bad[problem.severe].warn[!problem.severe] { (problem.kind.replace('-', " ")) }
                            " " b { (problem.subject) }
                            p { (problem.message) }
                            @if let Some(last) = problem.last {
                                p.soft {
                                    @if let Some(first) = problem.first.filter(|first| *first != last) {
                                        "first " (timestamp(first)) ", "
                                    }
                                    "last " (timestamp(last))
                                }
                            }
                            p.soft { (problem.todo) }
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
pub(super) fn tiles(contrail: &Contrail, reconciler: &Reconciler) -> Markup {
    let stores = reconciler.stores();
    let overview = reconciler.overview();
    let (_, queued, failing) = reconciler.queued(0);
    let containers = stores.contrail.read(|view| view.vms.len());
    let orphans = stores.contrail.read(|view| view.orphans.len());
    let tasks = stores.mesos.read(|view| view.tasks().len());
    let unfinished = contrail.containers.unfinished();
    html! {
        div.tiles {
            (tile("containers in Contrail", "count-containers", containers, false))
            (tile("tasks in Mesos", "count-tasks", tasks, false))
            (tile("to be written", "count-differences", overview.differences.len(), false))
            (tile("waiting", "count-queue", queued, false))
            (tile("failing", "count-failing", failing, failing > 0))
            (tile("orphans", "count-orphans", orphans, orphans > 0))
            (tile("unfinished", "count-unfinished", unfinished, unfinished > 0))
        }
    }
}

pub(super) fn duration_text(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// The state of the sources.
pub(super) fn sources(reconciler: &Reconciler) -> Markup {
    let rows = reconciler
        .stores()
        .source_status(reconciler.follows_marathon());
    html! {
        section #sources {
            h2 { "Sources" }
            table {
                thead { tr { th { "Source" } th { "State" } th { "Trusted for" } th { "Last listed" } } }
                tbody {
                    @for row in rows {
                        tr data-source=(row.source) {
                            td data-name="Source" { (row.source) }
                            td data-name="State" {
                                span.tag.good[row.state == "fresh"].warn[row.state == "untrusted"]
                                    .bad[!row.fresh] { (row.state) }
                            }
                            td data-name="Trusted for" { (row.trusted_seconds.map_or("–".to_owned(), duration_text)) }
                            td data-name="Last listed" {
                                (row.age_seconds.map_or("never".to_owned(), |age| format!("{} ago", duration_text(age))))
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
    let rows = json::network_rows(reconciler);
    html! {
        section #networks {
            h2 { "Networks " small { (rows.len()) } }
            @if rows.is_empty() { p.soft { "No container is on a network." } } @else {
                table {
                    thead { tr { th { "Network" } th { "Subnets" } th.number { "Containers" } } }
                    tbody {
                        @for row in rows.iter().take(MAX_ROWS) {
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
                (truncation_note(rows.len(), "/v1/networks"))
            }
        }
    }
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

pub(super) fn truncation_note(all: usize, path: &str) -> Markup {
    html! {
        @if all > MAX_ROWS { p.soft { "The first " (MAX_ROWS) " of " (all) "; all are in " a href=(path) { (path) } "." } }
    }
}

fn field(name: &'static str, label: &'static str, value: Option<&str>) -> Markup {
    html! { label { (label) input name=(name) value=(value.unwrap_or("")) autocomplete="off"; } }
}

/// The containers that match the filter.
pub(super) fn containers(
    contrail: &Contrail,
    reconciler: &Reconciler,
    query: &PageQuery,
    limit: usize,
) -> Markup {
    let filter = &query.filter;
    let filtered = !filter.is_empty();
    let after = query.after.as_deref();
    let page = json::container_rows(reconciler, filter, after, limit);
    html! {
        section #containers {
            h2 {
                "Containers "
                @if let Ok(page) = &page { small { (page.total) @if filtered { " with this filter" } } }
            }
            form action="/#containers" {
                (field("network", "Network", filter.network.as_deref()))
                (field("app", "App", filter.app.as_deref()))
                (field("agent", "Agent", filter.agent.as_deref()))
                (field("address", "Address", filter.address_text().as_deref()))
                @if !query.refreshes() { input type="hidden" name="refresh" value="off"; }
                button { "Show" }
                @if filtered { a href="/#containers" { "show all" } }
            }
            @match &page {
                Err(_) => p { "There is no such page. " a href="/" { "Back to the first page" } },
                Ok(page) if page.elements.is_empty() => p.soft { "None." },
                Ok(page) => {
                    table {
                        thead { tr { th { "Container" } th { "App" } th { "Agent" } th { "Network" } th { "Addresses" } th { "State" } } }
                        tbody { @for (_, row) in &page.elements { (container(contrail, reconciler, row)) } }
                    }
                    p.pages {
                        @if after.is_some() { a href=(query.link(None, query.refreshes())) { "first page" } }
                        @if let Some((last, _)) = page.elements.last().filter(|_| page.more) {
                            a #next href={ (query.link(Some(&last.to_string()), query.refreshes())) "#containers" } { "next page" }
                        }
                    }
                }
            }
        }
    }
}

fn addresses_text(addresses: &[Option<IpAddr>]) -> String {
    addresses
        .iter()
        .map(|address| {
            address.map_or_else(|| "not read yet".to_owned(), |address| address.to_string())
        })
        .collect::<Vec<_>>()
        .join(", ")
}

fn container(contrail: &Contrail, reconciler: &Reconciler, row: &ContainerRow) -> Markup {
    let overview = reconciler.overview();
    let differs = overview.differences.contains_key(&row.machine);
    let invalid_labels = overview.invalid_labels.contains_key(&row.machine);
    let has_history = contrail.containers.history().get(row.machine).is_some();
    let name = row.name.as_deref().or(row.task.as_deref());
    html! {
        tr id={ "c-" (row.machine) } {
            td data-name="Container" {
                div {
                    (name.unwrap_or("(no name)"))
                    div { a href={ "/v1/containers/" (row.machine) } { code { (row.machine) } }
                        @if has_history { " " a href={ "/v1/containers/" (row.machine) "/history" } { "history" } } }
                }
            }
            td data-name="App" {
                @if let Some(app) = &row.app { (app) } @else { span.soft { (row.framework.as_deref().unwrap_or("–")) } }
            }
            td data-name="Agent" { (row.agent) }
            td data-name="Network" { ul { @for interface in &row.interfaces {
                li { (interface.virtual_network.as_deref().or(interface.network.as_deref()).unwrap_or("–")) }
            } } }
            td data-name="Addresses" { ul { @for interface in &row.interfaces { li {
                (addresses_text(&interface.addresses))
                @if !interface.floating_addresses.is_empty() { br; span.soft { "floating " } (addresses_text(&interface.floating_addresses)) }
                @if !interface.security_groups.is_empty() { br; span.soft { "groups " (interface.security_groups.join(", ")) } }
            } } } }
            td data-name="State" { div {
                @if row.complete { span.tag.good { "complete" } } @else { span.tag.warn { "incomplete" } }
                @if differs { " " span.tag.warn { "out of sync" } }
                @if invalid_labels { " " span.tag.warn { "invalid labels" } }
            } }
        }
    }
}

/// The agents and virtual-routers.
pub(super) fn agents(reconciler: &Reconciler) -> Markup {
    let overview = reconciler.overview();
    html! {
        section #agents {
            h2 { "Agents " small { (overview.hosts.len()) } }
            @if overview.hosts.is_empty() { p.soft { "None is known." } } @else {
                table {
                    thead { tr { th { "Agent" } th { "State" } th { "Virtual-router" } th { "Address" } th.number { "Containers" } th.number { "Tasks" } } }
                    tbody {
                        @for (name, host) in overview.hosts.iter().take(MAX_ROWS) {
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
                (truncation_note(overview.hosts.len(), "/v1/agents"))
            }
        }
    }
}

/// The managers.
pub(super) fn managers(state: &AdminState) -> Markup {
    let leadership = state.fence.leadership().borrow().clone();
    let leader = match &leadership {
        Leadership::Leading { .. } => Some(state.url.clone()),
        Leadership::Following { leader } => Some(leader.to_string()),
        Leadership::Unknown { .. } => None,
    };
    let mut managers = state.fence.candidates();
    if managers.is_empty() {
        managers.push(state.url.clone());
    }
    let prepared = state.ready.borrow().prepared;
    let provisioned = prepared.filter(|_| state.contrail.is_some());
    html! {
        section #managers {
            h2 { "Managers " small { (managers.len()) } }
            table {
                thead { tr { th { "Manager" } th { "Role" } } }
                tbody {
                    @for url in &managers {
                        tr {
                            td data-name="Manager" { code { (url) } @if *url == state.url { " " span.soft { "(this one)" } } }
                            td data-name="Role" { div {
                                @if leader.as_ref() == Some(url) { span.tag.good { "leader" } } @else { span.tag { "standby" } }
                            } }
                        }
                    }
                }
            }
            p.soft {
                @match &leadership {
                    Leadership::Leading { .. } if !state.elected => "Leader election is off: this manager always leads. ",
                    Leadership::Leading { term } => { "Term " span #term { (term) } ". " },
                    Leadership::Following { .. } => "Only the leader follows the sources: see its page. ",
                    Leadership::Unknown { reason } => { (reason) ". " },
                }
                @if let Some(at) = provisioned { "Provisioned the API server " (timestamp(at)) ". " }
            }
        }
    }
}

/// The age of the page, and links.
pub(super) fn footer(state: &AdminState, query: &PageQuery) -> Markup {
    let after = query.after.as_deref();
    html! {
        footer {
            "As of " (timestamp(std::time::SystemTime::now())) " · version " (env!("CARGO_PKG_VERSION")) " · "
            @if query.refreshes() {
                "refreshed every " (REFRESH_SECONDS) " s; " a href=(query.link(after, false)) { "stop" }
            } @else { a href=(query.link(after, true)) { "refresh automatically" } }
            " · as JSON: "
            @for path in ["mesos", "marathon", "contrail", "agents", "networks", "containers", "differences", "queue"]
                .into_iter()
                .filter(|_| state.contrail.is_some())
                .chain(["overlays", "nodes", "endpoints", "groups", "security-groups"].into_iter().filter(|_| state.cluster.is_some()))
                .chain(["managers", "problems"])
            {
                a href={ "/v1/" (path) } { (path) } " "
            }
            "· " a href="/metrics" { "metrics" }
        }
    }
}
