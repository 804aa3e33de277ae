//! The control listener. Beside the common routes it has:
//!
//! ```text
//! GET    /follow?kinds=a,b   all objects of these types, then every change, as endless JSON lines
//! GET    /objects?kinds=a,b  all objects by type, with their references
//! GET    /counts             the number of objects by type, without types that have none
//! GET    /addresses          every allocated address
//! POST   /expire-tokens      expires every token
//! ```
//!
//! A line of `/follow` is an [`Event`]. Followers need no second source: the objects come first,
//! in one consistent state, and no later change is omitted. A follower that falls behind receives
//! [`Event::ListAgain`] and the response ends; it then sends the request again.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::stream;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use uuid::Uuid;

use super::Handle;
use super::changes::Change;
use super::db::Db;
use super::render::{self, FieldSelection};
use super::schema::schema;
use crate::harness::control;

/// How many changes are written at a time.
const MAX_BATCH: usize = 1024;

/// What a follower receives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The present state of an object: listed, new or changed.
    Object {
        /// Its type.
        kind: String,
        /// Its fields.
        object: Map<String, Value>,
    },
    /// An object was deleted.
    Gone {
        /// Its type.
        kind: String,
        /// The object.
        uuid: Uuid,
    },
    /// The list of existing objects is complete.
    Listed,
    /// Changes were omitted, and the response ends.
    ListAgain,
}

impl Handle {
    /// Serves the control listener with the runtime, and returns its address.
    pub async fn control(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let (frontend, faults) = (&self.shared.frontend, &self.shared.faults);
        let router = Router::new()
            .route("/follow", get(follow))
            .route("/objects", get(objects))
            .route("/counts", get(counts))
            .route("/addresses", get(addresses))
            .route("/expire-tokens", post(expire_tokens))
            .with_state(self.clone())
            .merge(control::server_routes(
                Arc::clone(frontend),
                Arc::clone(&self.service),
            ))
            .merge(control::fault_routes(faults))
            .merge(control::delay_routes(faults));
        control::serve(address, router).await
    }
}

#[derive(Deserialize)]
struct KindsQuery {
    kinds: Option<String>,
}

impl KindsQuery {
    /// The types, or an error if one does not exist.
    fn read(&self) -> Result<Option<BTreeSet<String>>, (StatusCode, String)> {
        let Some(kinds) = &self.kinds else {
            return Ok(None);
        };
        let kinds: BTreeSet<_> = kinds.split(',').map(str::to_owned).collect();
        match kinds.iter().find(|kind| schema().id(kind).is_none()) {
            Some(unknown) => Err((
                StatusCode::BAD_REQUEST,
                format!("there is no type {unknown:?}"),
            )),
            None => Ok(Some(kinds)),
        }
    }
}

struct Follower {
    changes: broadcast::Receiver<Change>,
    kinds: Option<BTreeSet<String>>,
    handle: Handle,
    list: Option<Bytes>,
    ended: bool,
}

async fn follow(State(handle): State<Handle>, Query(kinds): Query<KindsQuery>) -> Response {
    let kinds = match kinds.read() {
        Ok(kinds) => kinds,
        Err(problem) => return problem.into_response(),
    };
    // Changes are sent under the same lock, so none is missing between the list and the stream.
    let (changes, list) = {
        let state = handle.shared.lock();
        let mut text = String::new();
        for (kind, objects) in snapshot(&state.db, kinds.as_ref()) {
            for object in objects {
                let kind = kind.clone();
                line(&mut text, &Event::Object { kind, object });
            }
        }
        line(&mut text, &Event::Listed);
        (handle.shared.changes.subscribe(), text)
    };
    let follower = Follower {
        changes,
        kinds,
        handle,
        list: Some(list.into()),
        ended: false,
    };
    let lines = stream::unfold(follower, async |mut follower| {
        let text = follower.next().await?;
        Some((Ok::<_, Infallible>(text), follower))
    });
    let kind = (header::CONTENT_TYPE, "application/x-ndjson");
    ([kind], Body::from_stream(lines)).into_response()
}

impl Follower {
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(list) = self.list.take() {
            return Some(list);
        }
        if self.ended {
            return None;
        }
        let mut uuids = Vec::new();
        match self.changes.recv().await {
            Ok(change) => uuids.push((change.kind, change.uuid)),
            Err(RecvError::Lagged(_)) => return Some(self.end()),
            Err(RecvError::Closed) => return None,
        }
        while uuids.len() < MAX_BATCH {
            match self.changes.try_recv() {
                Ok(change) => uuids.push((change.kind, change.uuid)),
                Err(TryRecvError::Lagged(_)) => return Some(self.end()),
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        let mut text = String::new();
        let mut written = BTreeSet::new();
        let state = self.handle.shared.lock();
        for (kind, uuid) in uuids {
            let wanted = self.kinds.as_ref().is_none_or(|only| only.contains(&kind));
            if !wanted || !written.insert(uuid) {
                continue;
            }
            // The present state, not that of the change: the follower needs no more.
            let event = match state.db.store.get(uuid) {
                Some(object) => Event::Object {
                    kind,
                    object: render::object(&state.db, object, &FieldSelection::own(), None),
                },
                None => Event::Gone { kind, uuid },
            };
            line(&mut text, &event);
        }
        Some(text.into())
    }

    fn end(&mut self) -> Bytes {
        self.ended = true;
        let mut text = String::new();
        line(&mut text, &Event::ListAgain);
        text.into()
    }
}

fn line(text: &mut String, event: &Event) {
    match serde_json::to_string(event) {
        Ok(json) => {
            text.push_str(&json);
            text.push('\n');
        }
        Err(error) => log::error!("cannot write {event:?}: {error}"),
    }
}

fn snapshot(db: &Db, only: Option<&BTreeSet<String>>) -> BTreeMap<String, Vec<Map<String, Value>>> {
    let kinds = schema().kinds().iter().enumerate();
    kinds
        .filter(|(_, kind)| only.is_none_or(|only| only.contains(&kind.name)))
        .map(|(id, kind)| {
            let objects = db.store.of_kind(id);
            let objects =
                objects.map(|object| render::object(db, object, &FieldSelection::own(), None));
            (kind.name.clone(), objects.collect::<Vec<_>>())
        })
        .filter(|(_, objects)| !objects.is_empty())
        .collect()
}

async fn objects(State(handle): State<Handle>, Query(kinds): Query<KindsQuery>) -> Response {
    match kinds.read() {
        Ok(kinds) => Json(snapshot(&handle.shared.lock().db, kinds.as_ref())).into_response(),
        Err(problem) => problem.into_response(),
    }
}

async fn counts(State(handle): State<Handle>) -> Response {
    Json(handle.counts()).into_response()
}

async fn addresses(State(handle): State<Handle>) -> Response {
    let addresses: Vec<_> = handle
        .addresses()
        .into_iter()
        .map(|(of, address, holder)| json!({"of": of, "address": address, "holder": holder}))
        .collect();
    Json(addresses).into_response()
}

async fn expire_tokens(State(handle): State<Handle>) {
    handle.expire_tokens();
}

#[cfg(test)]
mod tests;
