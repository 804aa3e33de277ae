//! `/v2/pods`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::error::{ErrorResponse, json_body};
use super::kill;
use super::{Query, client_ip, force};
use crate::harness::clock::Timestamp;
use crate::harness::connection::Peer;
use crate::marathon::events::Event;
use crate::marathon::id::PathId;
use crate::marathon::model::pod;
use crate::marathon::model::run_spec::RunSpec;
use crate::marathon::state::Shared;
use crate::marathon::store::{Entry, Store};
use crate::marathon::view;

fn pods(store: &Store) -> impl Iterator<Item = &Entry> {
    store
        .entries()
        .map(|(_, entry)| entry)
        .filter(|entry| matches!(&*entry.run_spec, RunSpec::Pod(_)))
}

pub(super) fn find<'a>(store: &'a Store, id: &str) -> Result<&'a Entry, ErrorResponse> {
    let path = PathId::parse(id).ok();
    path.and_then(|path| pods(store).find(|entry| *entry.run_spec.id() == path))
        .ok_or_else(|| ErrorResponse::unknown("Pod", id))
}

pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Json<Value> {
    let store = shared.store();
    Json(
        pods(&store)
            .map(|entry| view::pod(entry, store.version))
            .collect(),
    )
}

/// A pod or its status; `::status` alone is the status of all pods.
pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    Path(path): Path<String>,
) -> Result<Json<Value>, ErrorResponse> {
    let store = shared.store();
    if let Some((id, version)) = path.split_once("::versions") {
        return versions(&store, id, version.trim_matches('/'));
    }
    let json = match path.strip_suffix("::status") {
        Some("" | "/") => pods(&store)
            .map(|entry| view::pod_status(&store, entry))
            .collect(),
        Some(id) => view::pod_status(&store, find(&store, id)?),
        None => view::pod(find(&store, &path)?, store.version),
    };
    Ok(Json(json))
}

/// All versions of a pod, or one.
fn versions(store: &Store, id: &str, version: &str) -> Result<Json<Value>, ErrorResponse> {
    let entry = find(store, id)?;
    let mut history = entry.history.iter();
    if version.is_empty() {
        return Ok(Json(history.map(|(version, _)| json!(version)).collect()));
    }
    let found = history.find(|(own, _)| own.to_string() == version);
    let (version, run_spec) = found.ok_or_else(|| ErrorResponse::unknown("Version", version))?;
    Ok(Json(view::pod_definition(
        run_spec,
        *version,
        store.version,
    )))
}

pub(super) async fn create(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    uri: Uri,
    body: Bytes,
) -> Result<Response, ErrorResponse> {
    let definition = json_body(&body)?;
    let mut store = shared.store();
    let pod = pod::parse(definition, &store.defaults)?;
    let id = pod.id.clone();
    let deployment = store.create(RunSpec::Pod(Box::new(pod)), Timestamp::now())?;
    let json = view::pod(find(&store, &id.to_string())?, store.version);
    store.add_event(Event::pod(
        "pod_created_event",
        &client_ip(&peer),
        uri.path(),
    ));
    shared.wake();
    let headers = [
        ("Location", format!("/v2/pods{id}")),
        ("Marathon-Deployment-Id", deployment.to_string()),
    ];
    Ok((StatusCode::CREATED, headers, Json(json)).into_response())
}

pub(super) async fn update(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    uri: Uri,
    Path(path): Path<String>,
    query: Query,
    body: Bytes,
) -> Result<Response, ErrorResponse> {
    let mut definition = json_body(&body)?;
    let mut store = shared.store();
    let id = find(&store, &path)?.run_spec.id().clone();
    if let Some(fields) = definition.as_object_mut() {
        fields.insert("id".to_owned(), json!(id));
    }
    let pod = pod::parse(definition, &store.defaults)?;
    let run_spec = RunSpec::Pod(Box::new(pod));
    let deployment = store.update(run_spec, force(&query), Timestamp::now())?;
    let json = view::pod(find(&store, &path)?, store.version);
    store.add_event(Event::pod(
        "pod_updated_event",
        &client_ip(&peer),
        uri.path(),
    ));
    shared.wake();
    let headers = [("Marathon-Deployment-Id", deployment.to_string())];
    Ok((StatusCode::OK, headers, Json(json)).into_response())
}

pub(super) async fn delete(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    uri: Uri,
    Path(path): Path<String>,
    query: Query,
    body: Bytes,
) -> Result<Response, ErrorResponse> {
    if let Some((pod, instance)) = path.split_once("::instances") {
        return kill::of_pod(&shared, pod, instance, &body);
    }
    let mut store = shared.store();
    let id = find(&store, &path)?.run_spec.id().clone();
    let deployment = store.delete(&id, force(&query))?;
    store.add_event(Event::pod(
        "pod_deleted_event",
        &client_ip(&peer),
        uri.path(),
    ));
    shared.wake();
    let headers = [("Marathon-Deployment-Id", deployment.to_string())];
    Ok((StatusCode::ACCEPTED, headers).into_response())
}
