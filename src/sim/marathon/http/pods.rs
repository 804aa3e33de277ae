//! `/v2/pods`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::error::{Refused, json_body};
use super::{Query, force};
use crate::sim::marathon::Shared;
use crate::sim::marathon::id::PathId;
use crate::sim::marathon::model::pod;
use crate::sim::marathon::model::run_spec::RunSpec;
use crate::sim::marathon::store::{Entry, Store};
use crate::sim::marathon::time::Timestamp;
use crate::sim::marathon::view;

fn pods(store: &Store) -> impl Iterator<Item = &Entry> {
    store
        .entries()
        .map(|(_, entry)| entry)
        .filter(|entry| matches!(&*entry.run_spec, RunSpec::Pod(_)))
}

fn find<'a>(store: &'a Store, id: &str) -> Result<&'a Entry, Refused> {
    let path = PathId::parse(id).ok();
    path.and_then(|path| pods(store).find(|entry| *entry.run_spec.id() == path))
        .ok_or_else(|| Refused::unknown("Pod", id))
}

pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let store = shared.store();
    Json(pods(&store).map(view::pod).collect())
}

/// A pod, its status, or with `::status` alone that of every pod.
pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<String>,
) -> Result<Json<Value>, Refused> {
    let store = shared.store();
    let shown = match path.strip_suffix("::status") {
        Some("" | "/") => pods(&store)
            .map(|entry| view::pod_status(&store, entry))
            .collect(),
        Some(id) => view::pod_status(&store, find(&store, id)?),
        None => view::pod(find(&store, &path)?),
    };
    Ok(Json(shown))
}

pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    body: Bytes,
) -> Result<Response, Refused> {
    let definition = json_body(&body)?;
    let mut store = shared.store();
    let pod = pod::parse(definition, &store.defaults)?;
    let id = pod.id.clone();
    let deployment = store.create(RunSpec::Pod(Box::new(pod)), Timestamp::now())?;
    let shown = view::pod(find(&store, &id.to_string())?);
    shared.wake();
    let headers = [
        ("Location", format!("/v2/pods{id}")),
        ("Marathon-Deployment-Id", deployment.to_string()),
    ];
    Ok((StatusCode::CREATED, headers, Json(shown)).into_response())
}

pub(super) async fn update(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<String>,
    query: Query,
    body: Bytes,
) -> Result<Response, Refused> {
    let mut definition = json_body(&body)?;
    let mut store = shared.store();
    let id = find(&store, &path)?.run_spec.id().clone();
    if let Some(fields) = definition.as_object_mut() {
        fields.insert("id".to_owned(), json!(id));
    }
    let pod = pod::parse(definition, &store.defaults)?;
    let run_spec = RunSpec::Pod(Box::new(pod));
    let deployment = store.update(run_spec, force(&query), Timestamp::now())?;
    let shown = view::pod(find(&store, &path)?);
    shared.wake();
    let headers = [("Marathon-Deployment-Id", deployment.to_string())];
    Ok((StatusCode::OK, headers, Json(shown)).into_response())
}

pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<String>,
    query: Query,
) -> Result<Response, Refused> {
    let mut store = shared.store();
    let id = find(&store, &path)?.run_spec.id().clone();
    let deployment = store.delete(&id, force(&query))?;
    shared.wake();
    let headers = [("Marathon-Deployment-Id", deployment.to_string())];
    Ok((StatusCode::ACCEPTED, headers).into_response())
}
