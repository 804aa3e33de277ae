//! The services: their addresses, and the health of their backends.

use contrail_mesos_api::cluster::{Backend, BackendState, Reach};
use maud::{Markup, html};

use super::sections::{MAX_ROWS, truncation_note};
use crate::admin::json::service_rows;
use crate::services::Services;

/// How many backends of a service are listed.
const MAX_BACKENDS: usize = 10;

/// The services: those without a backend that gets new connections first.
pub(super) fn services(services: &Services) -> Markup {
    let (rows, total) = service_rows(services, MAX_ROWS);
    let (counts, usage, is_complete) = services.read_state(|state| {
        let publication = &state.publication;
        (
            publication.counts(),
            state.usage.clone(),
            publication.is_complete(),
        )
    });
    html! {
        section #services {
            h2 { "Services " small {
                (total) ", " (counts.ready) " of " (counts.ready + counts.draining) " backends ready, "
                (counts.task_names) " names of tasks"
            } }
            @if !is_complete {
                p #services-incomplete .soft {
                    "This manager has not published its services since it leads. What the nodes know stays."
                }
            } @else if rows.is_empty() { p.soft { "No task asks for a service." } }
            @for range in &usage {
                p.soft data-range=(range.range) {
                    (range.range) ": " (range.used) " addresses used, " (range.free) " free"
                    @if range.earlier > 0 { ", " (range.earlier) " names with an address of an earlier range" }
                }
            }
            @if !rows.is_empty() {
                table {
                    thead { tr {
                        th { "Service" } th { "Addresses" } th { "Framework" } th { "State" } th.number { "Ready" } th { "Backends" }
                    } }
                    tbody {
                        @for row in &rows {
                            tr data-service=(row.service) {
                                td data-name="Service" {
                                    (row.service)
                                    @if let Some(name) = &row.name { br; span.soft { (name) } }
                                }
                                td data-name="Addresses" { ul { @for address in &row.addresses { li { (address) } } } }
                                td data-name="Framework" { ul { @for framework in &row.frameworks { li { (framework) } } } }
                                td data-name="State" { div {
                                    @if row.ready == 0 { span.tag.bad { "no backend" } }
                                    @else if row.ready < row.backends.len() { span.tag.warn { "degraded" } }
                                    @else { span.tag.good { "healthy" } }
                                    @if row.kept > 0 { " " span.tag.warn { "uncertain" } }
                                } }
                                td.number data-name="Ready" { (row.ready) "/" (row.backends.len()) }
                                td data-name="Backends" { ul {
                                    @for backend in row.backends.iter().take(MAX_BACKENDS) { (backend_item(backend)) }
                                    @if row.backends.len() > MAX_BACKENDS {
                                        li.soft { "and " (row.backends.len() - MAX_BACKENDS) " more" }
                                    }
                                } }
                            }
                        }
                    }
                }
                (truncation_note(total, "/v1/services"))
            }
        }
    }
}

fn backend_item(backend: &Backend) -> Markup {
    html! {
        li {
            (backend.address)
            @if let Some(local) = backend.local { " (" (local) " on its host)" }
            @if backend.state == BackendState::Draining { " " span.tag.warn { "draining" } }
            @match backend.reach {
                Reach::Cluster => {},
                Reach::Host => { " " span.tag.warn { "its host only" } },
                Reach::VirtualNetwork => { " " span.tag { "virtual network" } },
            }
            " " span.soft { (backend.task) }
        }
    }
}
