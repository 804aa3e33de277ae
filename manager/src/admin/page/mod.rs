//! The status page: current problems first, then the content of the stores.
//!
//! The page has no scripts and no external resources. The templates escape everything that comes
//! from frameworks, agents or the API server. In addition, the content security policy forbids
//! scripts, and all styles but the one whose digest it contains.

mod cluster;
mod groups;
mod sections;
mod services;

use std::sync::{Arc, LazyLock};

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::json::ContainerFilter;
use super::problems;
use super::state::{AdminError, AdminState, refuse_query, run_blocking};
use contrail_mesos_api::query::QueryParameters;
use contrail_mesos_api::routes::{Operation, Routes};

const STYLE: &str = include_str!("page.css");
const CONTAINERS_PER_PAGE: usize = 50;
const REFRESH_SECONDS: u32 = 15;
const HTML: &str = "text/html; charset=utf-8";

/// Allows the inline style, and the filter form to be sent to this manager.
static CONTENT_POLICY: LazyLock<String> = LazyLock::new(|| {
    let digest = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{digest}'; img-src data:; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'"
    )
});

/// The query of the page's URL.
#[derive(Clone, Debug, Default)]
pub(super) struct PageQuery {
    after: Option<String>,
    filter: ContainerFilter,
    /// `off`: the page does not refresh itself.
    refresh: Option<String>,
}

impl PageQuery {
    fn read(parameters: &mut QueryParameters) -> Result<Self, AdminError> {
        Ok(Self {
            filter: ContainerFilter::read(parameters)?,
            after: parameters.take("after"),
            refresh: parameters.take("refresh"),
        })
    }

    fn refreshes(&self) -> bool {
        self.refresh.as_deref() != Some("off")
    }

    /// The URL of the page with the same filter.
    fn link(&self, after: Option<&str>, refreshes: bool) -> String {
        let mut query = form_urlencoded::Serializer::for_suffix(String::from("/?"), 2);
        let filter = &self.filter;
        let address = filter.address_text();
        for (key, value) in [
            ("network", filter.network.as_deref()),
            ("app", filter.app.as_deref()),
            ("agent", filter.agent.as_deref()),
            ("address", address.as_deref()),
            ("after", after),
            ("refresh", (!refreshes).then_some("off")),
        ] {
            if let Some(value) = value {
                query.append_pair(key, value);
            }
        }
        match query.finish() {
            none if none == "/?" => "/".to_owned(),
            query => query,
        }
    }
}

/// The route with its documentation.
pub(super) fn routes() -> Routes<Arc<AdminState>> {
    let operation = Operation::get("/", "The status page")
        .query::<Uuid>(
            "after",
            "Continues the list of containers",
            "00000000-0000-0000-0000-000000000000",
        )
        .query::<String>("refresh", "`off`: the page does not refresh itself", "off")
        .content(200, HTML, "The page");
    Routes::new(refuse_query).route(ContainerFilter::document(operation), show)
}

async fn show(State(state): State<Arc<AdminState>>, mut parameters: QueryParameters) -> Response {
    let rendered = match PageQuery::read(&mut parameters) {
        Ok(query) => run_blocking(state, move |state| render(state, &query)).await,
        Err(error) => Err(error),
    };
    match rendered {
        Ok(page) => html_response(StatusCode::OK, page.into_string()),
        Err(error) => error.into_response(),
    }
}

fn html_response(status: StatusCode, page: String) -> Response {
    let headers = [
        (CONTENT_TYPE, HTML),
        (CONTENT_SECURITY_POLICY, CONTENT_POLICY.as_str()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    (status, headers, page).into_response()
}

fn render(state: &AdminState, query: &PageQuery) -> Markup {
    let problems = problems::find(state);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                @if query.refreshes() { meta http-equiv="refresh" content=(REFRESH_SECONDS); }
                title { (sections::title(state, &problems)) }
                // An empty icon keeps browsers from requesting /favicon.ico.
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "contrail-mesos-manager" }
                    (sections::role(state))
                    span.soft { "cluster " (state.cluster_name) }
                    nav {
                        @if state.contrail.is_some() {
                            a href="#networks" { "Networks" }
                            a href="#containers" { "Containers" }
                            a href="#agents" { "Agents" }
                        }
                        @if state.cluster.is_some() {
                            a href="#overlays" { "Overlays" }
                            a href="#nodes" { "Nodes" }
                            a href="#groups" { "Groups" }
                        }
                        @if state.services.is_some() { a href="#services" { "Services" } }
                        a href="#managers" { "Managers" }
                    }
                }
                main {
                    (sections::problems(state, &problems))
                    @if let Some(contrail) = &state.contrail {
                        @if let Some(reconciler) = contrail.reconciler.as_deref() {
                            (sections::tiles(contrail, reconciler))
                            (sections::sources(reconciler))
                            (sections::networks(reconciler))
                            (sections::containers(contrail, reconciler, query, CONTAINERS_PER_PAGE))
                            (sections::agents(reconciler))
                        } @else {
                            section #containers {
                                h2 { "Containers" }
                                p { "This manager only serves agents: it does not follow Mesos or Marathon, and \
                                     knows only the history of each container. Add [mesos] to its configuration \
                                     to have it reconcile the VNC API." }
                            }
                        }
                    }
                    @if let Some(cluster) = state.cluster.as_deref() {
                        (cluster::overlays(cluster))
                        (cluster::nodes(cluster))
                        (groups::groups(cluster))
                    }
                    @if let Some(services) = state.services.as_deref() {
                        (services::services(services))
                    }
                    (sections::managers(state))
                }
                (sections::footer(state, query))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_allows_only_the_inline_style() {
        assert!(
            CONTENT_POLICY.starts_with("default-src 'none'; style-src 'sha256-"),
            "{}",
            *CONTENT_POLICY
        );
        assert!(!CONTENT_POLICY.contains("unsafe"));
        // The digest is of the text between the tags.
        assert!(!STYLE.contains("</") && !STYLE.contains("url("));
    }

    #[test]
    fn links_keep_and_escape_the_filter() {
        let read = |query| {
            let known = ["network", "app", "address"];
            PageQuery::read(&mut QueryParameters::parse(Some(query), &known).unwrap())
        };
        let query = read("app=%2Fa%26b%3D%22%3C&network=+&address=10.0.0.7");
        assert_eq!(
            query.unwrap().link(Some("x"), true),
            "/?app=%2Fa%26b%3D%22%3C&address=10.0.0.7&after=x"
        );
        assert!(read("address=10").is_err());
        assert_eq!(PageQuery::default().link(None, true), "/");
        assert_eq!(PageQuery::default().link(None, false), "/?refresh=off");
    }
}
