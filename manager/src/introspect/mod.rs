//! What the stores hold, as JSON, for operators.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/mesos` | what Mesos says: the source, counts, and tasks |
//! | `GET /v1/marathon` | what Marathon says: the source, counts, apps and pods |
//! | `GET /v1/contrail` | what the VNC API says: the source, counts, virtual-routers, orphans |
//! | `GET /v1/agents` | agents joined with virtual-routers |
//! | `GET /v1/networks` | networks that containers are on |
//! | `GET /v1/containers` | containers; `network`, `app` and `agent` choose those with it in the name |
//! | `GET /v1/containers/{id}` | one, by its machine's uuid or as Mesos prints its id |
//! | `GET /v1/containers/{id}/history` | what happened to it |
//! | `GET /v1/differences` | what would be written |
//! | `GET /v1/queue` | what waits, what of it failed first |
//! | `GET /v1/managers` | who leads, and who stands for election |
//! | `GET /v1/problems` | what is wrong now |
//!
//! Lists are in an order that stays: `limit` says how many elements (100, at most 1000), `after`
//! where to go on, which is what the answer before called `next`. They are made from snapshots, off
//! the runtime's threads.

mod pages;
pub(super) mod problems;
pub(super) mod rows;

use std::sync::Arc;

use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::admin::Shown;
use super::reconcile::Reconciler;
use contrail_mesos_api::agent_api;
use contrail_mesos_api::container::ContainerId;

pub(super) use pages::{Chosen, Page, choose};

/// The routes.
pub(super) fn router() -> Router<Arc<Shown>> {
    Router::new()
        .route("/v1/mesos", list(rows::mesos))
        .route("/v1/marathon", list(rows::marathon))
        .route("/v1/contrail", list(rows::contrail))
        .route("/v1/agents", list(rows::agents))
        .route("/v1/networks", list(rows::networks))
        .route("/v1/containers", list(rows::containers))
        .route("/v1/differences", list(rows::differences))
        .route("/v1/queue", list(rows::queue))
        .route("/v1/managers", get(managers))
        .route("/v1/problems", get(problems))
        .route("/v1/containers/{id}", get(container))
        .route("/v1/containers/{id}/history", get(history))
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) struct Refused(StatusCode, String);

impl Refused {
    pub(super) fn wrong(problem: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, problem.into())
    }

    pub(super) fn missing(problem: impl Into<String>) -> Self {
        Self(StatusCode::NOT_FOUND, problem.into())
    }
}

impl From<QueryRejection> for Refused {
    fn from(rejection: QueryRejection) -> Self {
        Self::wrong(rejection.body_text())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let said = json!({ "error": self.1 });
        (self.0, body(&said)).into_response()
    }
}

pub(super) type Answer = Result<Value, Refused>;

fn body(value: &impl Serialize) -> Response {
    // Nothing here is a map with keys that are no texts.
    let text = serde_json::to_vec(value).unwrap_or_default();
    let headers = [
        (CONTENT_TYPE, "application/json"),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, text).into_response()
}

/// Makes an answer off the runtime's threads.
pub(super) async fn aside<T: Send + 'static>(
    shown: Arc<Shown>,
    make: impl FnOnce(&Shown) -> T + Send + 'static,
) -> Result<T, Refused> {
    let task = tokio::task::spawn_blocking(move || make(&shown));
    task.await.map_err(|error| {
        log::error!(error:%; "internal error in what is shown");
        let what = "internal error in the manager; its log says more".to_owned();
        Refused(StatusCode::INTERNAL_SERVER_ERROR, what)
    })
}

async fn answer(
    shown: Arc<Shown>,
    make: impl FnOnce(&Shown) -> Answer + Send + 'static,
) -> Result<Response, Refused> {
    aside(shown, |shown| make(shown).map(|value| body(&value))).await?
}

/// A list that is shown page by page.
fn list(make: fn(&Reconciler, &Page) -> Answer) -> MethodRouter<Arc<Shown>> {
    get(
        async move |State(shown): State<Arc<Shown>>, page: Result<Query<Page>, QueryRejection>| {
            let Query(page) = page?;
            answer(shown, move |shown| make(shown.reconciler()?, &page)).await
        },
    )
}

async fn managers(State(shown): State<Arc<Shown>>) -> Result<Response, Refused> {
    answer(shown, |shown| Ok(rows::managers(shown))).await
}

async fn problems(State(shown): State<Arc<Shown>>) -> Result<Response, Refused> {
    let make = |shown: &Shown| Ok(json!({ "problems": problems::all(shown) }));
    answer(shown, make).await
}

/// The machine of a container, by either of its names.
fn machine(id: &str) -> Uuid {
    agent_api::vm_uuid(&ContainerId::printed(id))
}

async fn container(
    State(shown): State<Arc<Shown>>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    answer(shown, move |shown| rows::container(shown, machine(&id))).await
}

async fn history(
    State(shown): State<Arc<Shown>>,
    Path(id): Path<String>,
) -> Result<Response, Refused> {
    answer(shown, move |shown| rows::history(shown, machine(&id))).await
}
