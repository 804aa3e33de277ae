//! The page for operators: what is wrong now, and then what there is.
//!
//! It is rendered here, without a script, and refers to nothing elsewhere. Everything that a
//! framework, an agent or the API server wrote is escaped by the templates; beyond that the policy
//! in the headers lets nothing run, and nothing load but the one style sheet whose digest it names.

mod sections;

use std::sync::{Arc, LazyLock};

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::admin::Shown;
use super::introspect::{Page, aside, problems};

const STYLE: &str = include_str!("page.css");
/// How many containers are on a page.
const CONTAINERS: usize = 50;
/// After how many seconds the page is asked for again.
const REFRESH: u32 = 15;

/// What may be loaded: the style in the page. What may be sent: the filter, to the manager.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let digest = STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{digest}'; img-src data:; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'"
    )
});

/// What is asked for.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Asked {
    after: Option<String>,
    network: Option<String>,
    app: Option<String>,
    agent: Option<String>,
    /// `off`: the page stays as it is.
    refresh: Option<String>,
}

impl Asked {
    /// The containers that are asked for.
    fn page(&self) -> Page {
        let some = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
        Page {
            limit: None,
            after: some(&self.after),
            network: some(&self.network),
            app: some(&self.app),
            agent: some(&self.agent),
        }
    }

    fn refreshes(&self) -> bool {
        self.refresh.as_deref() != Some("off")
    }

    /// The same page with another beginning, and maybe refreshing or not.
    fn link(&self, after: Option<&str>, refreshes: bool) -> String {
        let mut query = form_urlencoded::Serializer::for_suffix(String::from("/?"), 2);
        let page = self.page();
        for (key, value) in [
            ("network", page.network.as_deref()),
            ("app", page.app.as_deref()),
            ("agent", page.agent.as_deref()),
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

/// The page.
pub(super) async fn show(
    State(shown): State<Arc<Shown>>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Response {
    let made = match asked {
        Ok(Query(asked)) => aside(shown, move |shown| render(shown, &asked)).await,
        Err(rejection) => Err(rejection.into()),
    };
    match made {
        Ok(page) => secured(StatusCode::OK, page.into_string()),
        Err(refused) => refused.into_response(),
    }
}

fn secured(status: StatusCode, page: String) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ];
    (status, headers, page).into_response()
}

fn render(shown: &Shown, asked: &Asked) -> Markup {
    let problems = problems::all(shown);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                @if asked.refreshes() { meta http-equiv="refresh" content=(REFRESH); }
                title { (sections::title(shown, &problems)) }
                // An empty one: without it a browser asks for one.
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "contrail-mesos-manager" }
                    (sections::role(shown))
                    span.soft { "cluster " (shown.cluster) }
                    nav {
                        a href="#networks" { "Networks" }
                        a href="#containers" { "Containers" }
                        a href="#agents" { "Agents" }
                        a href="#managers" { "Managers" }
                    }
                }
                main {
                    (sections::problems(&problems))
                    @if let Some(reconciler) = shown.reconciler.as_deref() {
                        (sections::tiles(shown, reconciler))
                        (sections::sources(reconciler))
                        (sections::networks(reconciler))
                        (sections::containers(shown, reconciler, asked, CONTAINERS))
                        (sections::agents(reconciler))
                    } @else {
                        section #containers {
                            h2 { "Containers" }
                            p { "This manager only answers agents: it follows neither Mesos nor Marathon, \
                                 and knows no more of containers than each one's history. Write [mesos] \
                                 in the configuration to have it keep what is in the VNC API true." }
                        }
                    }
                    (sections::managers(shown))
                }
                (sections::footer(asked))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_the_one_style_and_nothing_else() {
        assert!(
            POLICY.starts_with("default-src 'none'; style-src 'sha256-"),
            "{}",
            *POLICY
        );
        assert!(!POLICY.contains("unsafe"));
        // What is between the tags is hashed as it is.
        assert!(!STYLE.contains("</") && !STYLE.contains("url("));
    }

    #[test]
    fn links_keep_the_filter_and_escape_it() {
        let asked = Asked {
            app: Some("/a&b=\"<".to_owned()),
            network: Some(" ".to_owned()),
            ..Asked::default()
        };
        assert_eq!(
            asked.link(Some("x"), true),
            "/?app=%2Fa%26b%3D%22%3C&after=x"
        );
        assert_eq!(Asked::default().link(None, true), "/");
        assert_eq!(Asked::default().link(None, false), "/?refresh=off");
    }
}
